"""Datasets: digits, CIFAR-10, image folders, arrays, splits, statistics."""

import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk

from pyconvnet import data
from pyconvnet.data import cifar, images


# ---- arrays and subsets ----------------------------------------------------------------------------------
def test_array_dataset_reads_what_it_was_given(rng):
    x = rng.integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)
    d = data.ArrayDataset(x, [0, 1, 2, 0, 1, 2, 1], ["a", "b", "c"])
    assert len(d) == 7
    assert d.image_shape == (5, 6, 3)
    assert d.labels.dtype == np.int32
    got = d.read([6, 0, 6])
    np.testing.assert_array_equal(got, x[[6, 0, 6]])
    got[:] = 0  # a copy: the dataset keeps its pixels
    np.testing.assert_array_equal(d.read([6])[0], x[6])
    assert d.read([]).shape == (0, 5, 6, 3)


def test_array_dataset_makes_float32_and_one_channel(rng):
    d = data.ArrayDataset(rng.standard_normal((3, 4, 4)), np.array([2, 0, 2], np.uint8))
    assert d.image_shape == (4, 4, 1)
    assert d.dtype == np.float32
    assert d.classes == ["0", "1", "2"]


def test_made_up_class_names_are_recorded(tmp_path, rng):
    x, y = rng.integers(0, 256, (4, 4, 4, 3), dtype=np.uint8), np.arange(4) % 2
    bare, named = data.ArrayDataset(x, y), data.ArrayDataset(x, y, ["0", "1"])
    assert bare.classes == named.classes == ["0", "1"]
    np.savez(tmp_path / "bare.npz", x=x, y=y, x_validation=x, y_validation=y)
    np.savez(tmp_path / "named.npz", x=x, y=y, x_validation=x, y_validation=y, classes=["0", "1"])
    folder = data.ImageFolder(mk.image_folder(tmp_path / "f", classes=("0", "1")), size=8)
    for dataset, given in (
        (bare, False),
        (named, True),
        (data.Subset(bare, [1]), False),
        (data.split(named, 0.5)[1], True),
        *((d, False) for d in data.open_dataset(tmp_path / "bare.npz")),
        *((d, True) for d in data.open_dataset(tmp_path / "named.npz")),
        (folder, True),
        (data.predecode(folder, tmp_path), True),
        (data.predecode(bare, tmp_path), False),
        (data.Cifar10(mk.cifar_binary(tmp_path / "c")), True),
    ):
        assert dataset.class_names_given is given, dataset


def test_fingerprint_tells_datasets_apart(rng):
    x, y = rng.integers(0, 256, (6, 4, 4, 1), dtype=np.uint8), np.arange(6) % 3
    base = data.ArrayDataset(x, y).fingerprint()
    assert base == data.ArrayDataset(x.copy(), list(y)).fingerprint()
    changed = x.copy()
    changed[5, 3, 3, 0] ^= 1
    others = {
        data.ArrayDataset(changed, y).fingerprint(),
        data.ArrayDataset(x, (y + 1) % 3).fingerprint(),
        data.ArrayDataset(x, y, ["a", "b", "c"]).fingerprint(),
        data.ArrayDataset(x.astype(np.float32), y).fingerprint(),
        data.Subset(data.ArrayDataset(x, y), [0, 1, 2]).fingerprint(),
        data.Subset(data.ArrayDataset(x, y), [0, 2, 1]).fingerprint(),
    }
    assert len(others) == 6
    assert base not in others


def test_split_is_stratified_complete_and_repeatable(rng):
    y = np.repeat([0, 1, 2], [50, 30, 20])
    d = data.ArrayDataset(rng.integers(0, 256, (100, 2, 2, 1), dtype=np.uint8), y)
    train, held = data.split(d, 0.2, seed=5)
    assert np.bincount(held.labels).tolist() == [10, 6, 4]
    assert sorted([*train.indices, *held.indices]) == list(range(100))
    again = data.split(d, 0.2, seed=5)[1]
    other = data.split(d, 0.2, seed=6)[1]
    np.testing.assert_array_equal(held.indices, again.indices)
    assert held.indices.tolist() != other.indices.tolist()
    np.testing.assert_array_equal(held.read([3]), d.read([held.indices[3]]))


# ---- digits ----------------------------------------------------------------------------------------------
def test_digits_are_real_images_split_once_and_for_all():
    sklearn = pytest.importorskip("sklearn.datasets")
    train, held = data.open_dataset("digits")
    assert (len(train), len(held)) == (1438, 359)
    assert train.image_shape == (8, 8, 1)
    assert train.dtype == np.uint8
    assert (train.classes, train.class_names_given) == ([str(i) for i in range(10)], True)
    assert not set(train.indices) & set(held.indices)
    assert np.bincount(held.labels).min() >= 34
    whole = sklearn.load_digits()
    i = held.indices[17]
    np.testing.assert_array_equal(held.read([17])[0, :, :, 0], np.rint(whole.images[i] * 255 / 16))
    assert held.labels[17] == whole.target[i]
    # The split must never move: published errors are of these very images.
    digest = hashlib.sha256(held.indices.astype("<i8").tobytes()).hexdigest()
    assert digest.startswith("d52746acd515664d")


def test_digits_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "pyconvnet\[digits\]"'):
        data.Digits()


# ---- CIFAR-10 --------------------------------------------------------------------------------------------
def forms(tmp_path):
    yield mk.cifar_pickles(tmp_path / "py")
    yield mk.cifar_pickles(tmp_path / "py4", protocol=4)
    yield mk.cifar_binary(tmp_path / "bin")
    mk.cifar_pickles(tmp_path / "above" / "cifar-10-batches-py")
    yield tmp_path / "above"
    yield mk.cifar_archive(tmp_path / "a.tar.gz", "py")
    yield mk.cifar_archive(tmp_path / "b.tar.gz", "bin")
    (tmp_path / "holds").mkdir()
    yield mk.cifar_archive(tmp_path / "holds" / "cifar-10-binary.tar.gz", "bin").parent


def test_cifar10_reads_every_official_form(tmp_path):
    for path in forms(tmp_path):
        for train, batches in ((True, [0, 1, 2, 3, 4]), (False, [5])):
            d = data.Cifar10(path, train=train)
            x, y = mk.images_of(batches)
            np.testing.assert_array_equal(d.x, x, err_msg=str(path))
            np.testing.assert_array_equal(d.labels, y)
            assert d.classes == mk.NAMES
            assert d.x.flags.c_contiguous
        pair = data.open_dataset(str(path))
        assert [len(p) for p in pair] == [100, 20]


def test_cifar10_pickle_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    folder = mk.cifar_pickles(tmp_path / "c")
    (folder / "data_batch_3").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}, 2))
    with pytest.raises(ValueError, match=r"data_batch_3.*has no place in a CIFAR-10 batch"):
        data.Cifar10(folder)
    assert not (tmp_path / "owned").exists()


def test_cifar10_downloads_checks_and_unpacks(tmp_path):
    archive = mk.cifar_archive(tmp_path / "source.tar.gz")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    folder = tmp_path / "target"
    d = data.Cifar10(folder, download=True, url=archive.as_uri(), md5=md5)
    assert len(d) == 100
    assert sorted(p.name for p in folder.iterdir()) == ["cifar-10-batches-py"]
    archive.unlink()  # the second time nothing is fetched
    assert len(data.Cifar10(folder, download=True, url=archive.as_uri(), md5=md5)) == 100


def test_cifar10_download_with_a_wrong_sum_leaves_nothing(tmp_path):
    archive = mk.cifar_archive(tmp_path / "source.tar.gz")
    folder = tmp_path / "target"
    with pytest.raises(ValueError, match=f"MD5 sum must be {cifar.MD5}, got [0-9a-f]{{32}}"):
        data.Cifar10(folder, download=True, url=archive.as_uri())
    assert list(folder.iterdir()) == []


def test_cifar10_download_without_network(tmp_path):
    with pytest.raises(ConnectionError, match="download of file:"):
        data.Cifar10(tmp_path / "x", download=True, url=(tmp_path / "nothing").as_uri())
    assert list((tmp_path / "x").iterdir()) == []


def test_cifar10_by_name_uses_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PYCONVNET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path / "..")
    mk.cifar_pickles(tmp_path / "cifar10")
    train, test = data.open_dataset("cifar10")
    assert (len(train), len(test)) == (100, 20)


@pytest.mark.skipif(
    not (mk.SHARED / "cifar10").is_dir(), reason="no ../shared/data/cifar10 beside the checkout"
)
def test_real_cifar10_names():
    meta = (mk.SHARED / "cifar10" / "batches.meta").read_bytes()
    assert cifar.load_pickle("batches.meta", meta)["label_names"] == mk.NAMES


# ---- image files -----------------------------------------------------------------------------------------
def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_preparation_is_the_papers():
    """Shorter side to 256, centre crop: compared with the two steps done one after the other."""
    original = mk.photo(1, 300, 451)
    long_side = 451 * 256 / 300
    two_steps = original.resize((round(long_side), 256), Image.Resampling.BICUBIC)
    left = (two_steps.width - 256) // 2
    expected = np.asarray(two_steps.crop((left, 0, left + 256, 256)), int)
    got = images.load_image(encode(original), (256, 256)).astype(int)
    assert got.shape == (256, 256, 3)
    assert np.abs(got - expected).max() <= 3  # half a pixel of rounding of the crop's place
    assert np.abs(got - expected).mean() < 0.7


def test_an_image_of_the_wanted_size_is_untouched(rng):
    x = rng.integers(0, 256, (16, 24, 3), dtype=np.uint8)
    np.testing.assert_array_equal(images.load_image(encode(Image.fromarray(x)), (16, 24)), x)


MODES = [
    ("L", "PNG"),
    ("LA", "PNG"),
    ("P", "PNG"),
    ("RGBA", "PNG"),
    ("1", "PNG"),
    ("I;16", "PNG"),
    ("CMYK", "JPEG"),
    ("YCbCr", "JPEG"),
    ("P", "GIF"),
    ("RGB", "WEBP"),
    ("CMYK", "TIFF"),
    ("F", "TIFF"),
]


@pytest.mark.parametrize(("mode", "form"), MODES)
def test_every_mode_becomes_rgb(mode, form):
    grey = Image.fromarray(np.linspace(20, 230, 64 * 64).reshape(64, 64).astype(np.uint8))
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    elif mode == "F":
        picture = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    elif mode == "P":
        picture = grey.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    else:
        picture = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else grey.convert(mode)
    got = images.load_image(encode(picture, form), (64, 64))
    assert got.shape == (64, 64, 3)
    reference = np.asarray(grey.convert("1").convert("RGB") if mode == "1" else grey.convert("RGB"), int)
    assert np.abs(got.astype(int) - reference).mean() < 6
    one = images.load_image(encode(picture, form), (64, 64), channels=1)
    assert np.abs(one[..., 0].astype(int) - reference[..., 0]).mean() < 6


def test_transparency_is_laid_over_white():
    picture = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    picture.paste((0, 0, 200, 255), (0, 0, 8, 4))
    got = images.load_image(encode(picture), (8, 8))
    assert got[6, 6].tolist() == [255, 255, 255]
    assert got[1, 1].tolist() == [0, 0, 200]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:8, :12] = 255  # a white corner, top left
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = encode(Image.fromarray(np.ascontiguousarray(turn(upright))), "PNG", exif=exif)
    np.testing.assert_array_equal(images.load_image(stored, (32, 48)), upright)


def test_a_panorama_costs_no_more_than_its_pixels():
    got = images.load_image(encode(Image.new("RGB", (20000, 2), (9, 8, 7))), (256, 256))
    assert (got == [9, 8, 7]).all()


@pytest.mark.skipif(not (mk.SHARED / "odd-images").is_dir(), reason="no ../shared/data/odd-images")
def test_odd_images_from_the_wild():
    unreadable = {"empty.jpg", "truncated_jpeg.jpg"}
    paths = sorted((mk.SHARED / "odd-images").iterdir())
    assert len(paths) == 20
    for path in paths:
        if path.name in unreadable:
            with pytest.raises(ValueError, match=path.name):
                images.load_image(path, (32, 32))
        else:
            assert images.load_image(path, (32, 32)).shape == (32, 32, 3)


# ---- folders ---------------------------------------------------------------------------------------------
def test_image_folder(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    (root / "bee" / "notes.txt").write_text("not an image")
    (root / ".hidden").mkdir()
    (root / "bee" / "more").mkdir()
    mk.photo(7).save(root / "bee" / "more" / "deep.PNG")
    d = data.ImageFolder(root, size=32)
    assert d.classes == ["ant", "bee", "cat"]
    assert np.bincount(d.labels).tolist() == [4, 5, 4]
    assert [str(d.path(i).relative_to(root)) for i in (0, 4, 8)] == [
        "ant/0.jpg",
        "bee/0.jpg",
        "bee/more/deep.PNG",
    ]
    got = d.read([5, 8])
    assert got.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(got[1], images.load_image(root / "bee" / "more" / "deep.PNG", (32, 32)))
    assert data.ImageFolder(root, size=(24, 48), channels=1).read([0]).shape == (1, 24, 48, 1)


def test_folder_with_train_and_val(tmp_path):
    mk.image_folder(tmp_path / "train")
    mk.image_folder(tmp_path / "val", classes=("bee", "cat"), count=2)
    train, val = data.open_dataset(tmp_path, size=16)
    assert (len(train), len(val)) == (12, 4)
    assert val.labels.tolist() == [1, 1, 2, 2]  # labels are the training set's, though a class is missing
    train, val = data.open_dataset(tmp_path, validation=0.25, size=16)
    assert (len(train), len(val)) == (9, 3)
    assert data.open_dataset(tmp_path, validation=False, size=16)[1] is None
    _, other = data.open_dataset(tmp_path / "train", validation=tmp_path / "val", size=16)
    assert other.labels.tolist() == [1, 1, 2, 2]


def test_a_class_called_train_is_a_class(tmp_path):
    mk.image_folder(tmp_path, classes=("bus", "train"))
    train, val = data.open_dataset(tmp_path, size=16)
    assert train.classes == ["bus", "train"]
    assert val is None


def test_unreadable_files_are_replaced_by_the_next_of_their_class(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    mk.truncate(root / "bee" / "3.jpg")
    (root / "bee" / "0.jpg").write_bytes(b"")
    d = data.ImageFolder(root, size=16)
    with pytest.warns(RuntimeWarning) as caught:
        got = d.read(range(12))
    messages = sorted(str(w.message) for w in caught)
    assert len(messages) == 2
    assert "0.jpg: not an image file" in messages[0]
    assert "3.jpg: image file is truncated" in messages[1]
    np.testing.assert_array_equal(
        got[7], got[5]
    )  # after bee/3 comes, round the end, bee/0: unreadable too; bee/1
    np.testing.assert_array_equal(got[4], got[5])
    assert sorted(d.skipped) == ["bee/0.jpg", "bee/3.jpg"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # named once, not at every epoch
        np.testing.assert_array_equal(d.read(range(12)), got)
    # The order of reading does not matter.
    with pytest.warns(RuntimeWarning, match="unreadable"):
        np.testing.assert_array_equal(data.ImageFolder(root, size=16).read([7]), got[7:8])
    assert sorted(data.ImageFolder(root, size=16).check()) == ["bee/0.jpg", "bee/3.jpg"]


def test_unreadable_files_are_refused_on_demand(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    mk.truncate(root / "cat" / "2.jpg")
    d = data.ImageFolder(root, size=16, on_error="raise")
    assert d.read([0]).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match=r"cat.2\.jpg.*truncated"):
        d.read([10])


def test_folder_fingerprint_notices_a_changed_file(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    before = data.ImageFolder(root).fingerprint()
    assert before == data.ImageFolder(root).fingerprint()
    assert before != data.ImageFolder(root, size=64).fingerprint()
    shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copyfile)
    assert before == data.ImageFolder(tmp_path / "copy").fingerprint()  # dates do not count
    mk.photo(99).save(root / "ant" / "0.jpg")
    assert before != data.ImageFolder(root).fingerprint()
    mk.photo(1).save(root / "ant" / "0.bmp")
    before = data.ImageFolder(root).fingerprint()
    mk.photo(2).save(root / "ant" / "0.bmp")  # as long as the other
    os.utime(root / "ant" / "0.bmp", (1, 1))
    assert before != data.ImageFolder(root).fingerprint()


def test_predecoding_after_a_process_that_was_killed_at_it(tmp_path):
    """Half a file, or half the notes beside it: decoded afresh, and what was left half written is gone."""
    d = data.ArrayDataset(*(a[:20] for a in mk.images_of([1])))
    whole = data.predecode(d, tmp_path).path
    (tmp_path / f".{whole.name}.1f2e.tmp").write_bytes(b"half")
    (tmp_path / ".another.npy.1f2e.tmp").write_bytes(b"somebody is writing this")
    whole.with_suffix(".json").write_text('{"skip')
    again = data.predecode(d, tmp_path)
    np.testing.assert_array_equal(again.read(np.arange(20)), d.read(np.arange(20)))
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {whole.name, whole.with_suffix(".json").name, ".another.npy.1f2e.tmp"}


def test_predecoded_images_are_the_same(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    mk.truncate(root / "ant" / "1.jpg")
    d = data.ImageFolder(root, size=20)
    with pytest.warns(RuntimeWarning, match="unreadable"):
        fast = data.predecode(d, tmp_path / "cache")
    np.testing.assert_array_equal(fast.read(range(12)), d.read(range(12)))
    assert fast.fingerprint() == d.fingerprint()
    assert list(fast.skipped) == ["ant/1.jpg"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    again = data.predecode(
        data.ImageFolder(root, size=20), tmp_path / "cache"
    )  # reads the file, decodes nothing
    assert list(again.skipped) == ["ant/1.jpg"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(again)).read([3]), d.read([3]))


def test_npz(tmp_path, rng):
    x = rng.integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)
    y = np.arange(10) % 2
    np.savez(
        tmp_path / "a.npz", x=x[:8], y=y[:8], x_validation=x[8:], y_validation=y[8:], classes=["no", "yes"]
    )
    train, held = data.open_dataset(tmp_path / "a.npz")
    assert (len(train), len(held), held.classes) == (8, 2, ["no", "yes"])
    np.testing.assert_array_equal(held.x, x[8:])


# ---- statistics ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_statistics_against_numpy(rng, kind):
    n = 300  # more than one of the batches they are summed in
    mix = np.array([[50, 10, 5], [40, -20, 5], [45, 15, -8]])
    x = (128 + rng.standard_normal((n, 6, 5, 3)) @ mix.T).clip(0, 255).astype(kind)
    if kind == np.float32:
        x += 10000  # a large offset must not cancel
    s = data.statistics(data.ArrayDataset(x, np.zeros(n, int)))
    x64 = x.astype(np.float64)
    np.testing.assert_allclose(s.mean_image, x64.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(s.mean_pixel, x64.mean(axis=(0, 1, 2)), rtol=1e-6)
    covariance = np.cov(x64.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose((s.eigenvectors * s.eigenvalues) @ s.eigenvectors.T, covariance, rtol=1e-7)
    np.testing.assert_allclose(s.eigenvectors.T @ s.eigenvectors, np.eye(3), atol=1e-12)
    assert s.eigenvalues[0] > s.eigenvalues[1] > s.eigenvalues[2] > 0
    assert s.eigenvectors[np.abs(s.eigenvectors).argmax(axis=0), range(3)].min() > 0
    assert s.pixel_range == (255 if kind == np.uint8 else 1)
    assert s.count == n


def test_statistics_of_one_channel_and_constant_images():
    s = data.statistics(data.ArrayDataset(np.full((4, 3, 3), 7, np.uint8), [0, 0, 0, 0]))
    assert s.eigenvalues.tolist() == [0.0]
    assert s.mean_pixel.tolist() == [7.0]


def test_statistics_are_cached_by_fingerprint(tmp_path, rng, monkeypatch):
    x, y = rng.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8), np.zeros(9, int)
    first = data.statistics(data.ArrayDataset(x, y), cache=tmp_path)
    files = list(tmp_path.iterdir())
    assert len(files) == 1
    from pyconvnet.data import statistics as module

    real = sys.modules["pyconvnet.data.statistics"]._compute
    monkeypatch.setattr(sys.modules[module.__module__], "_compute", lambda *_: pytest.fail("computed again"))
    second = data.statistics(data.ArrayDataset(x, y), cache=tmp_path)
    for name, value in vars(first).items():
        np.testing.assert_array_equal(value, getattr(second, name))
    monkeypatch.setattr(sys.modules[module.__module__], "_compute", real)
    files[0].write_bytes(files[0].read_bytes()[:100])  # a damaged cache is no error
    third = data.statistics(data.ArrayDataset(x, y), cache=tmp_path)
    np.testing.assert_array_equal(third.mean_image, first.mean_image)
    x[0] ^= 255
    data.statistics(data.ArrayDataset(x, y), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_importing_data_does_not_import_heavy_packages():
    code = (
        "import sys, pyconvnet.data; "
        "bad = {'sklearn', 'matplotlib', 'cupy', 'torch', 'scipy'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
