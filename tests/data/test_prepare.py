"""prepare: what a folder of shards holds, whoever made it and however often he was stopped."""

import errno
import hashlib
import json
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import ROOT
from support import make_files as mk

from pyconvnet import data
from pyconvnet.cli.main import main
from pyconvnet.common import files
from pyconvnet.data import jpeg
from pyconvnet.data.shards import Shards

HOW = {"size": 24, "shard_images": 4, "workers": 0}


def bits(folder: Path) -> dict[str, str]:
    """Every file of a folder, by its SHA-256."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.fixture
def tree(tmp_path):
    mk.image_folder(tmp_path / "photos" / "train", count=5)
    mk.image_folder(tmp_path / "photos" / "val", count=2)
    return tmp_path / "photos"


@pytest.fixture
def damaged(tree):
    mk.truncate(tree / "train" / "bee" / "1.jpg", 0.6)
    (tree / "train" / "cat" / "3.jpg").write_bytes(b"no image")
    return tree


# ---- what is in it ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_images_labels_and_statistics_are_those_of_the_files(tree, tmp_path, fit):
    train, held_out = data.prepare(tree, tmp_path / "out", fit=fit, **HOW)
    whole = data.ImageFolder(tree / "train", 24, fit=fit)
    np.testing.assert_array_equal(train.read(np.arange(15)), whole.read(np.arange(15)))
    np.testing.assert_array_equal(train.labels, whole.labels)
    assert (train.classes, train.files, train.refused) == (whole.classes, whole.files, {})
    assert len(held_out) == 6
    assert train.reading == whole.reading
    known, want = data.statistics(train), data.statistics(whole)
    for name in ("mean_image", "mean_pixel", "eigenvalues", "eigenvectors"):
        np.testing.assert_array_equal(getattr(known, name), getattr(want, name))
    assert (known.count, known.pixel_range) == (want.count, want.pixel_range)
    colour = train.manifest["sets"]["train"]["colour"]["pca_scale"]
    np.testing.assert_allclose(np.square(colour["deviation"]), want.eigenvalues)
    np.testing.assert_allclose(np.multiply(colour["eigenvalue"], 255), want.eigenvalues)
    assert [train.verify(), held_out.verify()] == [{}, {}]
    raw = np.fromfile(tmp_path / "out" / "train-00001.images", np.uint8).reshape(-1, 24, 24, 3)
    np.testing.assert_array_equal(raw, whole.read([4, 5, 6, 7]))  # what the docs say of the format


def test_a_pass_is_made_where_the_statistics_are_of_other_images(tree, tmp_path):
    train, held_out = data.prepare(tree, tmp_path / "out", **HOW)
    assert held_out.known_statistics() is None
    part = data.Subset(train, [3, 1, 7])
    assert part.known_statistics() is None
    assert data.statistics(part).count == 3
    assert data.Subset(train, np.arange(15)[::-1]).known_statistics().count == 15


def test_fits(tmp_path):
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, :30], wide[:, 30:70], wide[:, 70:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    crop, pad, squash = (
        data.load_image(Image.fromarray(wide), 40, fit=fit) for fit in ("crop", "pad", "squash")
    )
    assert (crop == (0, 255, 0)).all()
    assert (pad[:12] == 128).all()
    assert (pad[28:] == 128).all()
    assert (pad[12:28, :10] == (255, 0, 0)).all()
    assert (pad[12:28, -10:] == (0, 0, 255)).all()
    assert (squash[:, :10] == (255, 0, 0)).all()
    assert (squash[:, -10:] == (0, 0, 255)).all()
    assert data.load_image(Image.fromarray(wide[:1]), 8, fit="pad").shape == (8, 8, 3)
    with pytest.raises(ValueError, match="fit must be"):
        data.ImageFolder(tmp_path, fit="stretch")


def test_unreadable_files_are_left_out_counted_and_named(damaged, tmp_path, capsys):
    train, _ = data.prepare(damaged, tmp_path / "out", **HOW)
    assert list(train.refused) == ["bee/1.jpg", "cat/3.jpg"]
    assert "truncated" in train.refused["bee/1.jpg"]
    assert train.manifest["sets"]["train"]["left_out"] == 2
    whole = data.ImageFolder(damaged / "train", 24)
    kept = [i for i, name in enumerate(whole.files) if name not in train.refused]
    np.testing.assert_array_equal(train.read(np.arange(13)), whole.read(kept))
    np.testing.assert_array_equal(train.labels, whole.labels[kept])
    assert train.files == [whole.files[i] for i in kept]
    assert data.statistics(train).count == 13
    with pytest.raises(ValueError, match=r"bee/1\.jpg: .*truncated"):
        data.prepare(damaged, tmp_path / "raise", on_error="raise", **HOW)
    assert main(["prepare", str(damaged), str(tmp_path / "cli"), "--size", "24", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    assert "train): 13 images 24x24x3 uint8, 3 classes" in said
    assert "left out: " in said
    assert "cat/3.jpg: not an image file" in said


def test_every_kind_of_file_is_right(tmp_path):
    """Modes and formats, beside `load_image`, which tests/data/test_images.py compares with Pillow."""
    folder = tmp_path / "f" / "a"
    folder.mkdir(parents=True)
    photo = mk.photo(3, 40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(folder / "turned.jpg", exif=exif)
    for mode in ("L", "CMYK"):
        photo.convert(mode).save(folder / f"{mode}.jpg")
    for mode in ("RGBA", "LA", "P", "1", "L"):
        photo.convert(mode).save(folder / f"{mode}.png")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54).save(folder / "16.png")
    frames = [mk.photo(i, 30, 40) for i in range(3)]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(folder / name, save_all=True, append_images=frames[1:])
    train, _ = data.prepare(tmp_path / "f", tmp_path / "out", **HOW)
    assert (len(train), train.refused) == (11, {})
    for index, name in enumerate(train.files):
        np.testing.assert_array_equal(train.read([index])[0], data.load_image(tmp_path / "f" / name, 24))


@pytest.mark.skipif(not (mk.SHARED / "odd-images").is_dir(), reason="no photographs here")
def test_odd_files_are_right_or_refused_by_name(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "odd").symlink_to(mk.SHARED / "odd-images")
    train, _ = data.prepare(tmp_path / "f", tmp_path / "out", **HOW)
    assert sorted(train.refused) == ["odd/empty.jpg", "odd/truncated_jpeg.jpg"]
    assert len(train) == 18
    for index, name in enumerate(train.files):
        np.testing.assert_array_equal(train.read([index])[0], data.load_image(tmp_path / "f" / name, 24))


def test_without_a_readable_image_there_is_an_error(tmp_path):
    root = mk.image_folder(tmp_path / "f", count=1)
    for path in root.rglob("*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"no image of .* is readable; the first: .*ant/0\.jpg"):
        data.prepare(root, tmp_path / "out", **HOW)


def test_other_sources(tmp_path):
    cifar = mk.cifar_pickles(tmp_path / "cifar")
    train, held_out = data.prepare(cifar, tmp_path / "a", shard_images=33, workers=0)
    images, labels = mk.images_of(range(5))
    np.testing.assert_array_equal(train.read(np.arange(100)), images)
    np.testing.assert_array_equal(train.labels, labels)
    assert (len(held_out), train.classes[0]) == (20, "airplane")
    with pytest.raises(ValueError, match="image_size must be"):
        data.prepare(cifar, tmp_path / "b", size=64)
    with pytest.raises(ValueError, match="fit is for images that are read from files"):
        data.prepare(cifar, tmp_path / "b", fit="pad")
    root = mk.image_folder(tmp_path / "f", count=2)
    pairs = [(root / "ant" / "0.jpg", "x"), (root / "bee" / "1.jpg", "y")]
    of_list, none = data.prepare(pairs, tmp_path / "c", **HOW)
    assert (of_list.classes, len(of_list), none) == (["x", "y"], 2, None)
    share = data.prepare(root, tmp_path / "d", validation=0.5, **HOW)
    assert [len(s) for s in share] == [3, 3]
    grey, _ = data.prepare(root, tmp_path / "e", channels=1, jpeg_quality=80, **HOW)
    assert grey.read([0]).shape == (1, 24, 24, 1)
    assert len(data.statistics(grey).eigenvalues) == 1
    again, _ = data.prepare(tmp_path / "c", tmp_path / "g", shard_images=1, workers=0)  # from shards
    np.testing.assert_array_equal(again.read([0, 1]), of_list.read([0, 1]))
    with pytest.raises(TypeError, match="images must be uint8, got float32"):
        data.prepare((np.zeros((2, 4, 4, 1), np.float32), [0, 1]), tmp_path / "h")


def test_jpeg_shards(tree, tmp_path):
    train, held_out = data.prepare(tree, tmp_path / "out", jpeg_quality=90, **HOW)
    raw, _ = data.prepare(tree, tmp_path / "raw", **HOW)
    assert train.manifest["jpeg"] == {
        "quality": 90, "subsampling": "4:2:0", "encoder": jpeg.default_decoder(),
    }  # fmt: skip
    read = train.read(np.arange(15))
    assert 0 < np.abs(read.astype(int) - raw.read(np.arange(15))).mean() < 6
    np.testing.assert_array_equal(
        data.statistics(train).mean_image, read.mean(axis=0, dtype=np.float64).astype("f")
    )
    assert len(held_out.read(np.arange(6))) == 6
    assert train.decodes
    with data.Loader(train, 4, workers=2, seed=3) as loader, data.Loader(train, 4, seed=3) as alone:
        for one, other in zip(loader.epoch(0), alone.epoch(0), strict=True):
            np.testing.assert_array_equal(one.images, other.images)
    path = tmp_path / "out" / "train-00000.jpegs"
    content = bytearray(path.read_bytes())
    content[10:200] = bytes(190)
    path.write_bytes(content)
    assert list(train.verify()) == ["train-00000.jpegs"]
    with pytest.raises(ValueError, match=r"train-00000\.jpegs, image 0"):
        Shards(tmp_path / "out").read([0])
    content[-16:] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged offsets"):
        Shards(tmp_path / "out").read([1])


# ---- the same bits -----------------------------------------------------------------------------------------
def test_any_number_of_workers_makes_the_same_bits(damaged, tmp_path):
    for workers in (0, 2):
        data.prepare(damaged, tmp_path / str(workers), **{**HOW, "workers": workers})
    assert bits(tmp_path / "0") == bits(tmp_path / "2")


def test_finished_shards_are_kept_and_damaged_ones_made_anew(damaged, tmp_path, monkeypatch):
    data.prepare(damaged, tmp_path / "whole", **HOW)
    real = data.ImageFolder.read_one

    def failing(self, index):
        if index == 10:
            raise KeyboardInterrupt
        return real(self, index)

    monkeypatch.setattr(data.ImageFolder, "read_one", failing)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(damaged, tmp_path / "out", **HOW)
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(FileNotFoundError, match="not prepared, or not to the end"):
        Shards(tmp_path / "out")
    content = bytearray((tmp_path / "out" / "train-00001.images").read_bytes())
    content[5] ^= 1
    (tmp_path / "out" / "train-00001.images").write_bytes(content)
    asked = []
    monkeypatch.setattr(data.ImageFolder, "read_one", lambda self, i: asked.append(i) or real(self, i))
    data.prepare(damaged, tmp_path / "out", **HOW)
    assert asked[:11] == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]  # not 0 to 3; then the validation images
    assert bits(tmp_path / "whole") == bits(tmp_path / "out")
    asked.clear()
    data.prepare(damaged, tmp_path / "out", **HOW)
    assert not asked


def test_another_source_is_not_mixed_with_what_is_there(tree, tmp_path, monkeypatch):
    monkeypatch.setattr("pyconvnet.data.preparation._json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # after the first shard
        data.prepare(tree, tmp_path / "out", **HOW)
    monkeypatch.undo()
    mk.photo(77).save(tree / "train" / "ant" / "0.jpg", quality=50)
    data.prepare(tree, tmp_path / "out", **HOW)
    data.prepare(tree, tmp_path / "fresh", **HOW)
    assert bits(tmp_path / "fresh") == bits(tmp_path / "out")
    mk.photo(78).save(tree / "train" / "ant" / "0.jpg", quality=40)
    with pytest.raises(ValueError, match="prepared otherwise; remove it first"):
        data.prepare(tree, tmp_path / "out", **HOW)
    with pytest.raises(ValueError, match="prepared otherwise"):
        data.prepare(tree, tmp_path / "fresh", **{**HOW, "size": 16})


def started(tree, out, *more):
    words = [sys.executable, "-m", "pyconvnet", "prepare", str(tree), str(out), "--size", "24", "--quiet"]
    words += ["--shard-images", "3", *more]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    "seed", [*range(3), *(pytest.param(n, marks=pytest.mark.slow) for n in range(3, 50))]
)
def test_killed_at_a_random_moment(tmp_path, seed):
    tree = mk.image_folder(tmp_path / "f", count=12)
    mk.truncate(tree / "bee" / "4.jpg", 0.6)
    data.prepare(tree, tmp_path / "whole", size=24, shard_images=3, workers=0)
    moment = random.Random(seed)
    out = tmp_path / "out"
    for _ in range(2):
        process = started(tree, out, "--workers", str(moment.choice([0, 2])))
        # From the first file on: what comes before is the interpreter's start.
        while not out.exists() and process.poll() is None:
            time.sleep(0.001)
        time.sleep(moment.random() * 0.6)
        process.send_signal(signal.SIGKILL)
        process.wait()
    data.prepare(tree, out, size=24, shard_images=3, workers=0)
    assert bits(out) == bits(tmp_path / "whole")


# ---- what the system refuses -------------------------------------------------------------------------------
def test_a_file_system_that_fills_up(tree, tmp_path):
    """No file may be longer than the limit: the third of a shard is written, then there is no more room."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500));"
        "from pyconvnet.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["prepare", str(tree), str(tmp_path / "out"), "--size", "24", "--shard-images", "4", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for workers in ("0", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code, *words, "--workers", workers], env=environment, capture_output=True,
            text=True, check=False, timeout=120,
        )  # fmt: skip
        assert run.returncode == 2
        assert os.strerror(errno.EFBIG) in run.stderr
        assert "train-0000" in run.stderr
        assert len(run.stderr.splitlines()) == 1
        assert not list((tmp_path / "out").glob("*.tmp"))
        assert not (tmp_path / "out" / "manifest.json").exists()
    data.prepare(tree, tmp_path / "out", **HOW)
    data.prepare(tree, tmp_path / "whole", **HOW)
    assert bits(tmp_path / "whole") == bits(tmp_path / "out")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_a_disk_that_fills_up_after_some_shards(tree, tmp_path, monkeypatch):
    """What is finished then is not made again."""
    real = files.os.fsync
    written = []

    def fsync(handle):
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            written.append(handle)
            if len(written) > 4:  # two shards and their notes
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match=r"No space left on device: '.*train-00002\.images'"):
        data.prepare(tree, tmp_path / "out", **HOW)
    monkeypatch.undo()
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("train-*.images")}
    assert sorted(kept) == ["train-00000.images", "train-00001.images"]
    data.prepare(tree, tmp_path / "out", **HOW)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == kept
    data.prepare(tree, tmp_path / "whole", **HOW)
    assert bits(tmp_path / "whole") == bits(tmp_path / "out")


@pytest.mark.slow
def test_a_real_file_system_that_is_full(tree, tmp_path):
    """A small one in memory, where the system lets us mount it; larger, it is filled to the end."""
    out = tmp_path / "small"
    out.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k", "tmpfs", str(out)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no right to mount a file system")
    try:
        for workers in (0, 2):
            with pytest.raises(OSError, match=r"No space left on device: '.*train-0000\d\.images") as caught:
                data.prepare(tree, out, **{**HOW, "workers": workers})
            assert caught.value.errno == errno.ENOSPC
            assert (out / "train-00000.images").stat().st_size == 4 * 24 * 24 * 3
        subprocess.run(["mount", "-o", "remount,size=8m", str(out)], check=True)
        kept = (out / "train-00000.images").stat().st_mtime_ns
        data.prepare(tree, out, **HOW)
        assert (out / "train-00000.images").stat().st_mtime_ns == kept
        data.prepare(tree, tmp_path / "whole", **HOW)
        assert bits(tmp_path / "whole") == bits(out)
    finally:
        subprocess.run(["umount", str(out)], check=False)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_that_cannot_be_written(tree, tmp_path):
    (tmp_path / "out").mkdir(mode=0o555)
    with pytest.raises(PermissionError, match="out"):
        data.prepare(tree, tmp_path / "out", **HOW)


def test_places_where_nothing_can_be_prepared(tree, tmp_path):
    with pytest.raises(ValueError, match="out must not lie inside the source"):
        data.prepare(tree, tree / "out", **HOW)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="out must be a folder"):
        data.prepare(tree, tmp_path / "file", **HOW)
    with files.locked(tree.parent / "lock", "x"), pytest.raises(NotADirectoryError):
        data.prepare(tree, tmp_path / "file" / "below", **HOW)
    (tmp_path / "out").mkdir()
    with (
        files.locked(tmp_path / "out" / ".lock", "x"),
        pytest.raises(files.LockedError, match="is in use by"),
    ):
        data.prepare(tree, tmp_path / "out", **HOW)
    for option, value in (
        ("jpeg_quality", 0),
        ("shard_images", 0),
        ("workers", -1),
        ("fit", "x"),
        ("size", 0),
    ):
        with pytest.raises(ValueError, match=option):
            data.prepare(tree, tmp_path / "out", **{**HOW, option: value})


def test_the_command_verifies(tree, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["prepare", str(tree), str(out), "--size", "24", "--workers", "0", "--fit", "pad"]) == 0
    assert json.loads((out / "manifest.json").read_text())["reading"]["fit"] == "pad"
    assert main(["prepare", str(out), "--verify"]) == 0
    assert "every file is as it was written" in capsys.readouterr().out
    content = bytearray((out / "validation-00000.images").read_bytes())
    content[7] ^= 4
    (out / "validation-00000.images").write_bytes(content)
    assert main(["prepare", str(out), "--verify"]) == 1
    assert "validation-00000.images: SHA-256 must be" in capsys.readouterr().out
    assert main(["prepare", str(tree), "--verify"]) == 2
    assert "is not prepared" in capsys.readouterr().err
    assert main(["prepare", str(tree)]) == 2
    assert str(ROOT) not in capsys.readouterr().err
