"""Folders and lists of image files: which files are read, what is left out, what cannot be reached."""

import os
import pickle
import warnings

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk
from support.runs import events

import pyconvnet as pcn
from pyconvnet import data
from pyconvnet.cli.main import main
from pyconvnet.data import ImageFiles, ImageFolder, Loader, load_image, pillow
from pyconvnet.data.files import file_list, read_csv
from pyconvnet.layers import Linear, SoftmaxCrossEntropy
from pyconvnet.trained import plots

PICTURES = {  # suffix -> how Pillow writes such a file
    ".jpg": "JPEG", ".JPEG": "JPEG", ".jfif": "JPEG", ".jpe": "JPEG", ".mpo": "MPO", ".png": "PNG",
    ".apng": "PNG", ".gif": "GIF", ".bmp": "BMP", ".dib": "DIB", ".webp": "WEBP", ".avif": "AVIF",
    ".tif": "TIFF", ".Tiff": "TIFF", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM", ".tga": "TGA",
    ".pcx": "PCX", ".sgi": "SGI", ".jp2": "JPEG2000", ".ico": "ICO", ".dds": "DDS", ".qoi": "QOI",
}  # fmt: skip
NO_PICTURES = (".eps", ".ps", ".pdf", ".emf", ".wmf", ".mpg", ".mpeg", ".grib", ".txt", ".heic", ".jpg~")


def reads(form):
    Image.init()
    return form in Image.SAVE and (form in Image.OPEN or form == "MPO")


@pytest.fixture
def folder(tmp_path):
    return mk.image_folder(tmp_path / "f", count=2)


def opened(root, **options):
    """The dataset of a folder, and the warnings on opening it, as text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = ImageFolder(root, size=16, **options)
    return dataset, [str(w.message) for w in caught]


# ---- suffixes --------------------------------------------------------------------------------------------
def test_every_suffix_of_pillows_is_read(tmp_path):
    (tmp_path / "f" / "c").mkdir(parents=True)
    names = [f"a{suffix}" for suffix, form in PICTURES.items() if reads(form)]
    assert len(names) > 20
    for name in names:
        form = PICTURES[name[1:]]
        mk.photo(1, 32, 32).save(tmp_path / "f" / "c" / name, form)
    dataset, said = opened(tmp_path / "f", on_error="raise")
    assert sorted(dataset.files) == sorted(f"c/{name}" for name in names)
    assert not said
    want = load_image(mk.photo(1, 32, 32), 16).astype(int)
    for image, name in zip(dataset.read(range(len(dataset))), dataset.files, strict=True):
        if not name.endswith((".pgm", ".gif", ".ico")):  # .ico is made square from 16x16
            assert np.abs(image - want).mean() < 6, name


def test_what_is_left_out_is_counted_and_said_once(folder):
    for suffix in NO_PICTURES:
        (folder / "ant" / f"x{suffix}").write_bytes(b"%!PS-Adobe-3.0")
    for name in ("y.txt", "Thumbs", ".hidden.jpg", ".DS_Store"):
        (folder / "bee" / name).write_text("")
    (folder / "bee" / ".git").mkdir()
    (folder / "labels.csv").write_text("")
    mk.photo(1).save(folder / "loose.jpg")
    dataset, said = opened(folder)
    assert len(dataset) == 6
    assert dataset.left_out == {
        **dict.fromkeys(NO_PICTURES, 1),
        ".txt": 2,
        "without a suffix": 1,
        "hidden": 3,
        "beside the class folders": 2,
    }
    assert len(said) == 1
    assert "f: left out: 3 hidden, 2 .txt, 2 beside the class folders, 1 .emf, 1 .eps, 1 " in said[0]
    assert ", 6 others (images are told by a suffix" in said[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.read(range(6))


def test_a_class_of_files_that_are_left_out_says_so(folder):
    (folder / "dog").mkdir()
    for i in range(3):
        (folder / "dog" / f"{i}.heic").write_text("")
    with pytest.raises(ValueError, match=r"class 'dog' in .* has no images .*; left out: 3 \.heic"):
        ImageFolder(folder)


def test_a_plugin_brings_its_suffixes(folder, monkeypatch):
    (folder / "ant" / "x.toy").write_bytes(b"TOY")
    assert len(opened(folder)[0]) == 6
    for name in ("OPEN", "EXTENSION"):
        monkeypatch.setattr(Image, name, dict(getattr(Image, name)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.register_open("TOY", lambda *_: Image.new("RGB", (4, 4), "red"), lambda start: start[:3] == b"TOY")
    Image.register_extension("TOY", ".toy")
    dataset = opened(folder)[0]
    assert dataset.files[2] == "ant/x.toy"
    assert pillow.suffixes()[".toy"] == "TOY"


# ---- what cannot be reached ------------------------------------------------------------------------------
def dangling(root):
    (root / "ant" / "x.png").symlink_to("gone.png")
    return "ant/x.png", "a symbolic link to nothing"


def looping(root):
    (root / "ant" / "x.png").symlink_to("x.png")
    return "ant/x.png", "Too many levels of symbolic links"


def pipe(root):
    os.mkfifo(root / "ant" / "x.png")
    return "ant/x.png", "not a regular file"


def device(root):
    (root / "ant" / "x.png").symlink_to("/dev/zero")
    return "ant/x.png", "not a regular file"


def vanished(root):
    path = root / "ant" / "x.png"
    mk.photo(1).save(path)
    return "ant/x.png", "no such image file", path.unlink


def became_a_folder(root):
    path = root / "ant" / "x.png"
    mk.photo(1).save(path)
    return "ant/x.png", "Is a directory", lambda: (path.unlink(), path.mkdir())


def not_utf8(root):
    name = os.fsdecode(b"caf\xe9.png")
    (root / "ant" / name).write_bytes(b"no image")
    return f"ant/{name}", "not an image file"


CASES = [dangling, looping, pipe, device, vanished, became_a_folder, not_utf8]


@pytest.mark.parametrize(("case", "workers"), [*((case, 0) for case in CASES), (dangling, 1)])
def test_a_file_that_cannot_be_read_is_an_unreadable_file(folder, case, workers):
    name, reason, *later = case(folder)
    dataset, said = opened(folder)
    assert not said
    assert name in dataset.files
    strict = ImageFolder(folder, size=16, on_error="raise")
    for change in later:
        change()
    with (
        pytest.warns(RuntimeWarning, match=f"skipped unreadable image .*{reason}"),
        Loader(dataset, 7, shuffle=False, workers=workers) as loader,
    ):
        images = next(iter(loader.epoch(0))).images
    index = dataset.files.index(name)
    expected = next(i for i in np.roll(np.flatnonzero(dataset.labels == 0), -index) if i != index)
    np.testing.assert_array_equal(images[index], images[expected])
    assert list(dataset.skipped) == [name]
    assert len(dataset.skipped[name]) < len(str(folder)) + 100
    with pytest.raises((ValueError, OSError), match=reason):
        strict.read(range(7))


def test_a_folder_link_that_leads_back_is_an_unreadable_file(folder):
    (folder / "ant" / "again").symlink_to(folder / "ant")
    (folder / "bee" / "top").symlink_to("..")
    (folder / "cat" / "self").symlink_to("self")
    dataset, said = opened(folder)
    assert dataset.files == [f"{c}/{i}.jpg" for c in ("ant", "bee", "cat") for i in (0, 1)]
    assert sorted(dataset.skipped) == ["ant/again", "bee/top"]
    assert sum("left out: 1 without a suffix (" in text for text in said) == 1
    assert all("leads back to a folder above it" in r for r in dataset.skipped.values())
    assert max(len(text) for text in said) < len(str(folder)) + 160
    assert dataset.left_out == {"without a suffix": 1}
    with pytest.raises(ValueError, match="leads back to a folder above it"):
        ImageFolder(folder, on_error="raise")


def test_a_subfolder_that_cannot_be_listed_is_an_unreadable_file(folder, monkeypatch):
    (folder / "ant" / "secret").mkdir()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    dataset, said = opened(folder)
    assert len(dataset) == 6
    assert len(said) == 1
    assert f"{folder}/ant/secret: Permission denied" in said[0]
    with pytest.raises(ValueError, match="secret: Permission denied"):
        ImageFolder(folder, on_error="raise")


def test_names_that_are_not_utf8(tmp_path, monkeypatch, capsysbinary):
    root = mk.image_folder(tmp_path / "f", classes=("ant", os.fsdecode(b"b\xe9e")), count=1)
    mk.photo(5).save(root / "ant" / os.fsdecode(b"caf\xe9.png"))
    dataset = ImageFolder(root, size=16)
    assert len(dataset) == 3
    assert len(dataset.fingerprint()) == 32
    (root / "ant" / os.fsdecode(b"bad\xe9.png")).write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="unreadable"):
        fast = data.predecode(ImageFolder(root, size=16), tmp_path / "cache")
    assert list(fast.skipped) == ["ant/" + os.fsdecode(b"bad\xe9.png")]
    net = pcn.Network("n", (16, 16, 3)).add(Linear(2)).add(SoftmaxCrossEntropy())
    run = pcn.train(net, dataset, out=tmp_path / "r", epochs=1, batch_size=3, devices="cpu", progress=False)
    assert main(["predict", str(run.out), str(root / dataset.classes[1])]) == 0
    assert capsysbinary.readouterr().out.startswith(os.fsencode(root) + b"/b\xe9e/0.jpg: ")
    assert plots.confusion(pcn.evaluate(run, dataset, 1), tmp_path / "c.png").exists()


# ---- lists of files --------------------------------------------------------------------------------------
def test_image_files_decode_as_a_folder_does(folder):
    mk.truncate(folder / "bee" / "0.jpg")
    whole = ImageFolder(folder, size=16)
    order = [5, 0, 2, 3, 1]
    files = [whole.path(i) for i in order]
    listed = ImageFiles(files, [whole.classes[whole.labels[i]] for i in order], size=16)
    assert listed.classes == ["ant", "bee", "cat"]
    assert listed.labels.tolist() == [2, 0, 1, 1, 0]
    assert listed.class_names_given
    with pytest.warns(RuntimeWarning, match=r"bee/0\.jpg"):
        got = listed.read(range(5))
    with pytest.warns(RuntimeWarning, match=r"bee/0\.jpg"):
        np.testing.assert_array_equal(got, whole.read(order))
    assert list(listed.skipped) == [str(folder / "bee" / "0.jpg")]
    assert list(ImageFiles(files, [0] * 5, size=16).check()) == list(listed.skipped)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(listed)).read([1]), got[1:2])
    assert listed.read([4]).shape == (1, 16, 16, 3)
    assert ImageFiles(files, [0] * 5, size=(8, 4), channels=1).read([0]).shape == (1, 8, 4, 1)


def test_labels_of_image_files(folder):
    files = ["ant/0.jpg", "bee/0.jpg"]

    def made(labels, **options):
        d = ImageFiles(files, labels, folder=folder, **options)
        return d.labels.tolist(), d.classes, d.class_names_given

    assert made([2, 0]) == ([2, 0], ["0", "1", "2"], False)
    assert made(np.array([1, 0], np.uint8)) == ([1, 0], ["0", "1"], False)
    assert made([1, 0], classes=["no", "yes"]) == ([1, 0], ["no", "yes"], True)
    assert made(["b", "a"]) == ([1, 0], ["a", "b"], True)
    assert made(np.array(["b", "a"]), classes=["c", "b", "a"]) == ([1, 2], ["c", "b", "a"], True)
    for labels, options, error, message in (
        ([0], {}, ValueError, "one per image"),
        (["a"], {}, ValueError, "labels must be 2, one per file, got 1"),
        ([0, "a"], {}, TypeError, "all integers or all class names, got 'a'"),
        ([0, 0.5], {}, TypeError, "got 0.5"),
        ([True, False], {}, TypeError, "got True"),
        (5, {}, TypeError, "labels must be a sequence, got 5"),
        ([0, -1], {}, ValueError, "not be negative"),
        ([0, 2], {"classes": ["a", "b"]}, ValueError, r"\[0, 2\), got 2"),
        (["a", "z"], {"classes": ["a", "b"]}, ValueError, "label 'z' is not one of the 2 classes"),
    ):
        with pytest.raises(error, match=message):
            made(labels, **options)


def test_files_that_are_missing(folder):
    files = ["ant/0.jpg", "ant/none.jpg"]
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 files .* first is .*ant/none\.jpg"):
        ImageFiles(files, [0, 0], folder=folder, on_error="raise")
    with pytest.raises(FileNotFoundError, match="2 of the 2 files"):
        ImageFiles(["x.jpg", "y.jpg"], [0, 0], folder=folder)
    with pytest.raises(ValueError, match="files must not be empty"):
        ImageFiles([], [])
    with pytest.raises(TypeError, match=r"sequence of paths, got the single 'a\.jpg'"):
        ImageFiles("a.jpg", [0])
    with pytest.raises(TypeError, match="files must be paths, got 3"):
        ImageFiles([3], [0])
    dataset = ImageFiles(files, [0, 0], folder=folder, size=8)
    with pytest.warns(RuntimeWarning, match=r"none\.jpg: no such image file"):
        np.testing.assert_array_equal(*dataset.read([0, 1]))


def test_fingerprint_of_image_files(folder):
    def print_of(files=("ant/0.jpg", "bee/0.jpg"), labels=("a", "b"), **options):
        return ImageFiles(files, labels, folder=folder, **options).fingerprint()

    first = print_of()
    assert first == print_of()
    others = {print_of(labels=("b", "a")), print_of(("ant/0.jpg", "bee/1.jpg")), print_of(size=8)}
    assert len({first, *others}) == 4
    mk.photo(99, 60, 60).save(folder / "ant" / "0.jpg")
    assert first != print_of()


PAIRS = [
    ([("a.jpg", 0), ("b.jpg", 1)], (["a.jpg", "b.jpg"], [0, 1])),
    ([["a.jpg", "x"], ["b.jpg", "y"]], (["a.jpg", "b.jpg"], ["x", "y"])),
    ((("a.jpg", "x"), ("b.jpg", "y")), (["a.jpg", "b.jpg"], ["x", "y"])),
    ([("a.jpg", 0)], (["a.jpg"], [0])),
    ((["a.jpg", "b.jpg"], [0, 1]), (["a.jpg", "b.jpg"], [0, 1])),
    ((["a.jpg", "b.jpg"], ["x", "y"]), (["a.jpg", "b.jpg"], ["x", "y"])),
    ((("a.jpg", "b.jpg", "c.jpg"), (0, 1, 0)), (["a.jpg", "b.jpg", "c.jpg"], (0, 1, 0))),
    ((("a.jpg", "b.jpg"), (0, 1)), (["a.jpg", "b.jpg"], (0, 1))),
    ((np.zeros((2, 4, 4, 3)), [0, 1]), None),
    ([np.zeros((2, 4, 4, 3)), [0, 1]], None),
    ([], None),
    ("a.jpg", None),
    (["a.jpg", "b.jpg"], None),
]


@pytest.mark.parametrize(("spec", "meant"), PAIRS, ids=[repr(spec)[:40] for spec, _ in PAIRS])
def test_what_is_a_list_of_files(spec, meant):
    assert file_list(spec) == meant


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("a.jpg,cat\nb.jpg,dog\n", (["a.jpg", "b.jpg"], ["cat", "dog"])),
        ("path,label\na.jpg,cat\n", (["a.jpg"], ["cat"])),
        ("\ufeffimage;class\r\n\r\nsub x/a.jpg; 10\r\nb,c.PNG;2\r\n", (["sub x/a.jpg", "b,c.PNG"], [10, 2])),
        ('"a, b.jpg"\tcat\n', (["a, b.jpg"], ["cat"])),
        ("there,1\nb.jpg,x", (["there", "b.jpg"], ["1", "x"])),
        ("a.jpg,0\nb.jpg,-1\n", (["a.jpg", "b.jpg"], ["0", "-1"])),
        ("a.jpg\n", r"list\.csv, line 1: must be a path and a label, got \['a\.jpg'\]"),
        ("a.jpg,1\nb.jpg,\n", r"list\.csv, line 2: must be a path and a label"),
        ("a.jpg,1,2\n", "line 1"),
        ("path,label\n", "holds no line with a path and a label"),
        ("", "holds no line"),
        (b"\xff\xfe\x00,1", "in UTF-8"),
    ],
)
def test_csv(tmp_path, text, meant):
    (tmp_path / "there").write_text("")
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    if isinstance(meant, str):
        with pytest.raises(ValueError, match=meant):
            read_csv(path)
    else:
        assert read_csv(path) == meant


# ---- at the doors: open_dataset, train, evaluate, predict, the command line ------------------------------
def csv_of(dataset, path, names=True):
    """A list of a folder's files, relative to itself."""
    lines = [
        f"{os.path.relpath(dataset.path(i), path.parent)},{dataset.classes[label] if names else label}"
        for i, label in enumerate(dataset.labels)
    ]
    path.write_text("\n".join(["path,label", *lines]))
    return path


def test_lists_of_files_are_data(folder, tmp_path):
    whole = ImageFolder(folder, size=16, on_error="raise", max_pixels=10_000)
    pairs = [(whole.path(i), whole.classes[label]) for i, label in enumerate(whole.labels)]
    paths, names = zip(*pairs, strict=True)
    options = {"size": 16, "on_error": "raise", "max_pixels": 10_000}
    path = csv_of(whole, tmp_path / "a.csv")
    for spec in (pairs, (list(paths), list(names)), path, str(path)):
        train, none = data.open_dataset(spec, **options)
        assert none is None
        own = {"size": (16, 16), "channels": 3, "decoder": whole.decoder, "fit": "crop"}
        assert train.reading == whole.reading == {**options, **own}
        assert train.classes == whole.classes
        np.testing.assert_array_equal(train.labels, whole.labels)
        np.testing.assert_array_equal(train.read(range(6)), whole.read(range(6)))
    (tmp_path / "sub").mkdir()
    numbered, _ = data.open_dataset(csv_of(whole, tmp_path / "sub" / "b.csv", names=False), size=16)
    assert (numbered.classes, numbered.class_names_given) == (["0", "1", "2"], False)
    np.testing.assert_array_equal(numbered.labels, whole.labels)
    # Validation images take the training images' classes, and how they are read.
    (tmp_path / "val.csv").write_text("f/cat/0.jpg,cat\nf/bee/1.jpg,bee\n")
    for spec in (pairs, folder):
        train, held = data.open_dataset(spec, validation=tmp_path / "val.csv", size=16, max_pixels=9_000)
        assert held.labels.tolist() == [2, 1]
        assert held.reading == train.reading
        assert held.max_pixels == 9_000
    _, held = data.open_dataset(pairs, validation=folder, size=16)
    assert held.labels.tolist() == whole.labels.tolist()
    assert len(data.open_dataset(pairs, validation=0.5, size=16)[1]) == 3
    (tmp_path / "val.csv").write_text("f/cat/0.jpg,dog\n")
    with pytest.raises(ValueError, match="label 'dog' is not one of the 3 classes"):
        data.open_dataset(folder, validation=tmp_path / "val.csv", size=16)


def test_lists_of_files_train_and_evaluate(folder, tmp_path, monkeypatch):
    net = pcn.Network("n", (8, 8, 3)).add(Linear(3)).add(SoftmaxCrossEntropy())
    how = {"epochs": 1, "batch_size": 6, "devices": "cpu", "progress": False, "workers": 0, "image_size": 8}
    of_folder = pcn.train(net, folder, out=tmp_path / "a", **how)
    whole = ImageFolder(folder, size=8)
    files = [(whole.path(i), whole.classes[label]) for i, label in enumerate(whole.labels)]
    of_files = pcn.train(net, files, out=tmp_path / "b", max_pixels=20_000, **how)
    for name, value in of_folder.model.parameters.items():
        np.testing.assert_array_equal(of_files.model.parameters[name], value)
    start = events(tmp_path / "b", "start")[0]["options"]["images"]
    own = {"on_error": "skip", "max_pixels": 20_000, "decoder": whole.decoder, "fit": "crop"}
    assert start == {"size": [8, 8], "channels": 3, **own}
    path = csv_of(whole, tmp_path / "a.csv")
    want = pcn.evaluate(of_folder, folder, views=1)
    got = pcn.evaluate(of_folder, path, views=1)
    assert (got.loss, got.labels.tolist()) == (want.loss, want.labels.tolist())
    assert main(["evaluate", str(tmp_path / "a"), str(path), "--views", "1"]) == 0
    with pytest.raises(ValueError, match="more than max_pixels=100"):
        pcn.evaluate(of_folder, path, views=1, max_pixels=100, on_error="raise")
    with pytest.raises(ValueError, match="more than max_pixels=100"):
        pcn.predict(of_folder, [whole.path(0)], max_pixels=100)
    again = pcn.train(net, files, out=tmp_path / "b", resume=True, **{**how, "epochs": 2})
    assert again.history[-1]["epoch"] == 2


def test_max_pixels_on_the_command_line(folder, tmp_path, monkeypatch, capsys):
    """It lifts Pillow's own limit, too, which a shell cannot reach."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow refuses above 1000, the photos have 2080
    monkeypatch.setattr("pyconvnet.cli.main._pictures", lambda *_: [])
    for label in (0, 1):
        mk.photo(label).save(folder / f"{label}.png")
    (folder / "all.csv").write_text("0.png,0\n1.png,1\n")
    how = ["--epochs", "1", "--batch-size", "2", "--image-size", "8", "--channels", "1", "--workers", "0"]
    words = ["train", "digits", str(folder / "all.csv"), *how, "--quiet", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "a")]) == 2
    assert "is readable" in capsys.readouterr().err
    assert main([*words, "--out", str(tmp_path / "b"), "--max-pixels", "3000"]) == 0
    assert Image.MAX_IMAGE_PIXELS == 3000
    predict = ["predict", str(tmp_path / "b"), str(folder / "0.png")]
    assert main([*predict, "--max-pixels", "2079"]) == 2
    assert "52x40 = 2080 pixels are more than max_pixels=2079" in capsys.readouterr().err
    assert main([*predict, "--max-pixels", "2080"]) == 0
    evaluate = ["evaluate", str(tmp_path / "b"), str(folder / "all.csv"), "--on-error", "raise"]
    assert main([*evaluate, "--max-pixels", "2079"]) == 2
    assert main([*evaluate, "--max-pixels", "2080"]) == 0
