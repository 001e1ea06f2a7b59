"""Bad input to data, evaluation, plots and the command line: each gets the documented error, none crashes.

Every case is a function of a scratch folder, the type of the error, and what its message must say.
"""

import os
import pickle

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk

from pyconvnet import data

X = np.zeros((6, 4, 4, 3), np.uint8)
Y = np.arange(6) % 3
SHAPE = (8, 8, 3)


def arrays():
    return data.ArrayDataset(X, Y)


def made(work, *arguments, **options):
    """Call a helper that makes files, and return its result."""
    return work(*arguments, **options)


def folder(tmp, **options):
    return mk.image_folder(tmp / "f", **options)


def with_file(tmp, name, content):
    """A good image folder in which one file holds `content`."""
    root = folder(tmp)
    (root / name).write_bytes(content)
    return root


def pickles_with(tmp, name, batch):
    root = mk.cifar_pickles(tmp / "c")
    (root / name).write_bytes(batch if isinstance(batch, bytes) else pickle.dumps(batch, 2))
    return root


def binary_with(tmp, change):
    root = mk.cifar_binary(tmp / "c")
    path = root / "data_batch_2.bin"
    path.write_bytes(change(path.read_bytes()))
    return root


def without(root, name):
    (root / name).unlink()
    return root


def emptied(root, name):
    for path in (root / name).iterdir():
        path.unlink()
    return root


def strict(root):
    return data.ImageFolder(root, size=8, on_error="raise").read(range(12))


def saved(path, **arrays_):
    np.savez(path, **arrays_)
    return path


def batch(data_, labels):
    return {b"data": data_, b"labels": labels}


PIXELS, LABELS = mk.cifar_arrays(0)
GOOD = LABELS.tolist()
STATS = data.Statistics(np.zeros((4, 4, 1)), np.zeros(1), np.ones(1), np.eye(1), 1)

ARRAYS = [
    (
        "rank 2",
        lambda t: data.ArrayDataset(np.zeros((3, 4), np.uint8), [0, 1, 2]),
        ValueError,
        "4 dimensions",
    ),
    ("rank 5", lambda t: data.ArrayDataset(np.zeros((1,) * 5, np.uint8), [0]), ValueError, r"\(n, H, W, C\)"),
    ("int64 pixels", lambda t: data.ArrayDataset(X.astype(int), Y), TypeError, "uint8 or float, got int64"),
    ("complex", lambda t: data.ArrayDataset(X.astype(complex), Y), TypeError, "complex128"),
    ("text", lambda t: data.ArrayDataset(np.full((2, 2, 2), "a"), [0, 1]), TypeError, "uint8 or float"),
    ("objects", lambda t: data.ArrayDataset(np.full((2, 2, 2), None), [0, 1]), TypeError, "dtype object"),
    ("ragged", lambda t: data.ArrayDataset([[1], [1, 2]], [0, 1]), TypeError, "convertible"),
    ("NaN pixels", lambda t: data.ArrayDataset(np.full((1, 2, 2), np.nan), [0]), ValueError, "finite"),
    ("infinite", lambda t: data.ArrayDataset(np.full((1, 2, 2), np.inf), [0]), ValueError, "finite"),
    ("no images", lambda t: data.ArrayDataset(X[:0], Y[:0]), ValueError, "not be empty"),
    (
        "n, C, H, W",
        lambda t: data.ArrayDataset(np.zeros((6, 3, 32, 24), np.uint8), Y),
        ValueError,
        r"got shape \(6, 3, 32, 24\); that looks like \(n, C, H, W\): use x\.transpose\(0, 2, 3, 1\)",
    ),
    ("no height", lambda t: data.ArrayDataset(X[:, :0], Y), ValueError, "not be empty"),
    ("no channels", lambda t: data.ArrayDataset(X[..., :0], Y), ValueError, "not be empty"),
    (
        "fewer labels",
        lambda t: data.ArrayDataset(X, Y[:5]),
        ValueError,
        r"shape \(6,\), one per image, got \(5,\)",
    ),
    ("more labels", lambda t: data.ArrayDataset(X, [0] * 7), ValueError, "one per image"),
    ("no labels", lambda t: data.ArrayDataset(X, []), ValueError, "one per image"),
    ("one-hot labels", lambda t: data.ArrayDataset(X, np.eye(6, dtype=int)), ValueError, r"got \(6, 6\)"),
    ("float labels", lambda t: data.ArrayDataset(X, Y.astype(float)), TypeError, "integers, got float64"),
    ("bool labels", lambda t: data.ArrayDataset(X, Y > 0), TypeError, "integers, got bool"),
    ("text labels", lambda t: data.ArrayDataset(X, ["a"] * 6), TypeError, "integers"),
    ("negative label", lambda t: data.ArrayDataset(X, Y - 1), ValueError, "not be negative, got -1"),
    ("label too high", lambda t: data.ArrayDataset(X, Y, ["a", "b"]), ValueError, r"\[0, 2\), got 2"),
    ("a huge label", lambda t: data.ArrayDataset(X, Y + 2**40), ValueError, "labels must lie in"),
    ("a high label", lambda t: data.ArrayDataset(X, Y + 10**7), ValueError, "would make 10000003 classes"),
    ("classes a string", lambda t: data.ArrayDataset(X, Y, "abc"), TypeError, "sequence of names"),
    ("classes numbers", lambda t: data.ArrayDataset(X, Y, [1, 2, 3]), TypeError, "strings, got 1"),
    ("index too high", lambda t: arrays().read([6]), IndexError, r"\[0, 6\), got 6 to 6"),
    ("index negative", lambda t: arrays().read([0, -1]), IndexError, "got -1 to 0"),
    ("index float", lambda t: arrays().read([0.5]), TypeError, "sequence of integers"),
    ("index 2-D", lambda t: arrays().read([[0, 1]]), TypeError, r"shape \(1, 2\)"),
    ("empty subset", lambda t: data.Subset(arrays(), []), ValueError, "not be empty"),
    ("subset out of range", lambda t: data.Subset(arrays(), [0, 9]), IndexError, "got 0 to 9"),
    ("subset of floats", lambda t: data.Subset(arrays(), [0.0]), TypeError, "sequence of integers"),
    ("split 0", lambda t: data.split(arrays(), 0), ValueError, r"fraction must be in \(0, 1\), got 0"),
    ("split 1", lambda t: data.split(arrays(), 1.0), ValueError, r"in \(0, 1\), got 1"),
    ("split 1.5", lambda t: data.split(arrays(), 1.5), ValueError, "got 1.5"),
    ("split NaN", lambda t: data.split(arrays(), float("nan")), ValueError, "got nan"),
    ("split text", lambda t: data.split(arrays(), "0.5"), TypeError, "must be a number, got str '0.5'"),
    ("split leaves none", lambda t: data.split(arrays(), 0.01), ValueError, "leaves 6 for training and 0"),
    ("split leaves all", lambda t: data.split(arrays(), 0.9), ValueError, "leaves 0 for training and 6"),
    ("split seed", lambda t: data.split(arrays(), 0.5, seed=-1), ValueError, "seed must be at least 0"),
    ("split seed float", lambda t: data.split(arrays(), 0.5, seed=1.5), TypeError, "seed must be an integer"),
    ("statistics of arrays", lambda t: data.statistics(X), TypeError, "pyconvnet.data.Dataset, got ndarray"),
    ("predecode arrays", lambda t: data.predecode(X, t), TypeError, "pyconvnet.data.Dataset"),
]

FOLDERS = [
    ("missing", lambda t: data.ImageFolder(t / "nope"), FileNotFoundError, "nope does not exist"),
    ("not a path", lambda t: data.ImageFolder(7), TypeError, "folder must be a path, got 7"),
    (
        "a file",
        lambda t: data.ImageFolder(with_file(t, "x.jpg", b"") / "x.jpg"),
        NotADirectoryError,
        "not a folder",
    ),
    ("no classes", lambda t: data.ImageFolder(t), ValueError, "no class folders"),
    (
        "empty class",
        lambda t: data.ImageFolder(emptied(folder(t), "bee")),
        ValueError,
        "class 'bee'.*has no images",
    ),
    (
        "only text",
        lambda t: data.ImageFolder(made(os.makedirs, t / "g" / "c") or t / "g"),
        ValueError,
        "no images",
    ),
    (
        "size 0",
        lambda t: data.ImageFolder(folder(t), size=0),
        ValueError,
        "size must be at least 1, got 0",
    ),
    ("size negative", lambda t: data.ImageFolder(folder(t), size=(8, -8)), ValueError, "at least 1, got -8"),
    ("size huge", lambda t: data.ImageFolder(folder(t), size=10**6), ValueError, "16384"),
    (
        "size float",
        lambda t: data.ImageFolder(folder(t), size=8.0),
        TypeError,
        r"size must be an integer, got float 8\.0",
    ),
    (
        "size triple",
        lambda t: data.ImageFolder(folder(t), size=(1, 2, 3)),
        TypeError,
        r"an integer or a pair .*, got \(1, 2, 3\)",
    ),
    ("size True", lambda t: data.ImageFolder(folder(t), size=True), TypeError, "got bool True"),
    ("max_pixels 0", lambda t: data.ImageFolder(folder(t), max_pixels=0), ValueError, "at least 1, got 0"),
    ("max_pixels float", lambda t: data.ImageFolder(folder(t), max_pixels=1e8), TypeError, "integer, got"),
    ("channels 2", lambda t: data.ImageFolder(folder(t), channels=2), ValueError, "1 or 3, got 2"),
    ("on_error", lambda t: data.ImageFolder(folder(t), on_error="ignore"), ValueError, "'skip' or 'raise'"),
    (
        "strange class",
        lambda t: data.ImageFolder(folder(t), classes=["ant", "bee"]),
        ValueError,
        "folder 'cat'",
    ),
    (
        "truncated",
        lambda t: strict(mk.truncate(folder(t) / "ant" / "1.jpg").parents[1]),
        ValueError,
        r"1\.jpg.*trunc",
    ),
    ("zero bytes", lambda t: strict(with_file(t, "bee/0.jpg", b"")), ValueError, r"bee.0\.jpg: not an image"),
    ("text as jpg", lambda t: strict(with_file(t, "bee/0.jpg", b"hello")), ValueError, "not an image file"),
    (
        "half a png",
        lambda t: strict(with_file(t, "ant/z.png", b"\x89PNG\r\n\x1a\n1234")),
        ValueError,
        r"z\.png",
    ),
    ("file vanished", lambda t: gone(folder(t)), FileNotFoundError, r"0\.jpg: no such image file"),
    (
        "nothing readable",
        lambda t: unreadable(folder(t)),
        ValueError,
        "no image of class 'bee' .* is readable",
    ),
    (
        "image missing",
        lambda t: data.load_image(t / "x.png", (8, 8)),
        FileNotFoundError,
        "x.png: no such image",
    ),
    ("image a folder", lambda t: data.load_image(t, (8, 8)), ValueError, "Is a directory"),
    ("bytes", lambda t: data.load_image(b"abc", (8, 8)), ValueError, "image: not an image file"),
]


def gone(root):
    d = data.ImageFolder(root, size=8, on_error="raise")
    (root / "ant" / "0.jpg").unlink()
    return d.read([0])


def unreadable(root):
    for path in (root / "bee").iterdir():
        path.write_bytes(b"")
    return data.ImageFolder(root, size=8).read([5])


CIFAR = [
    ("missing", lambda t: data.Cifar10(t / "nope"), FileNotFoundError, "nope does not exist; download=True"),
    ("empty folder", lambda t: data.Cifar10(t), FileNotFoundError, "holds no CIFAR-10 batches"),
    (
        "batch missing",
        lambda t: data.Cifar10(without(mk.cifar_pickles(t / "c"), "data_batch_4")),
        FileNotFoundError,
        "batch data_batch_4 is missing",
    ),
    (
        "binary missing",
        lambda t: data.Cifar10(without(mk.cifar_binary(t / "c"), "test_batch.bin"), train=False),
        FileNotFoundError,
        "batch test_batch.bin is missing",
    ),
    (
        "magic",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", b"GIF89a...")),
        ValueError,
        "wrong magic b'GIF8'",
    ),
    (
        "empty file",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", b"")),
        ValueError,
        "data_batch_1.*wrong magic",
    ),
    ("cut pickle", lambda t: data.Cifar10(cut(t)), ValueError, "data_batch_5: not a readable CIFAR-10 batch"),
    (
        "a list",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", [1, 2])),
        ValueError,
        "must be a dictionary",
    ),
    (
        "no labels",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", {b"data": PIXELS})),
        ValueError,
        "dictionary with data and labels",
    ),
    (
        "wrong width",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS[:, :-1].copy(), GOOD))),
        ValueError,
        r"shape \(n, 3072\), got uint8 \(20, 3071\)",
    ),
    (
        "wrong dtype",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS.astype(float), GOOD))),
        ValueError,
        "got float64",
    ),
    (
        "data a list",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch([1, 2], GOOD))),
        ValueError,
        "no array",
    ),
    (
        "no rows",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS[:0].copy(), []))),
        ValueError,
        r"got uint8 \(0, 3072\)",
    ),
    (
        "label 10",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS, [10] * 20))),
        ValueError,
        r"\[0, 10\), got 10 to 10",
    ),
    (
        "label -1",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS, [-1] * 20))),
        ValueError,
        "got -1",
    ),
    (
        "float labels",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS, [1.0] * 20))),
        ValueError,
        "list of integers",
    ),
    (
        "19 labels",
        lambda t: data.Cifar10(pickles_with(t, "data_batch_1", batch(PIXELS, GOOD[:19]))),
        ValueError,
        "20 images but 19 labels",
    ),
    (
        "meta",
        lambda t: data.Cifar10(pickles_with(t, "batches.meta", {b"label_names": [b"a"]})),
        ValueError,
        "batches.meta: must name 10 classes",
    ),
    (
        "binary cut",
        lambda t: data.Cifar10(binary_with(t, lambda b: b[:-1])),
        ValueError,
        r"data_batch_2\.bin: size must be a positive multiple of 3073 bytes .* got 61459",
    ),
    ("binary empty", lambda t: data.Cifar10(binary_with(t, lambda b: b"")), ValueError, "got 0"),
    (
        "binary label",
        lambda t: data.Cifar10(binary_with(t, lambda b: b"\xff" + b[1:])),
        ValueError,
        "0 to 255|to 255",
    ),
    (
        "no archive",
        lambda t: data.Cifar10(written(t / "x.tar.gz", b"123")),
        ValueError,
        "not a readable tar archive",
    ),
    (
        "cut archive",
        lambda t: data.Cifar10(mk.truncate(mk.cifar_archive(t / "x.tar.gz"))),
        ValueError,
        "readable tar",
    ),
    ("other archive", lambda t: data.Cifar10(other_archive(t)), ValueError, "holds no CIFAR-10 batches"),
]


def cut(tmp):
    root = mk.cifar_pickles(tmp / "c")
    mk.truncate(root / "data_batch_5")
    return root


def written(path, content):
    path.write_bytes(content)
    return path


def other_archive(tmp):
    import tarfile

    (tmp / "readme").write_text("hello")
    with tarfile.open(tmp / "other.tar.gz", "w:gz") as tar:
        tar.add(tmp / "readme", "readme")
    return tmp / "other.tar.gz"


OPEN = [
    (
        "unknown name",
        lambda t: data.open_dataset("mnist"),
        FileNotFoundError,
        "neither a file or folder nor one of",
    ),
    ("a number", lambda t: data.open_dataset(3), TypeError, "Dataset, a name, a path or a pair"),
    ("a triple", lambda t: data.open_dataset((1, 2, 3)), TypeError, "got tuple"),
    ("None", lambda t: data.open_dataset(None), TypeError, "got NoneType"),
    (
        "text file",
        lambda t: data.open_dataset(written(t / "a.txt", b"hi")),
        ValueError,
        "neither .npz nor a CIFAR-10",
    ),
    ("bad npz", lambda t: data.open_dataset(written(t / "a.npz", b"hi")), ValueError, "not a readable .npz"),
    (
        "npz without y",
        lambda t: data.open_dataset(saved(t / "a.npz", x=X)),
        ValueError,
        "arrays x and y, got x",
    ),
    (
        "npz of objects",
        lambda t: data.open_dataset(saved(t / "a.npz", x=np.array([None]), y=Y)),
        ValueError,
        "readable",
    ),
    (
        "npz mismatch",
        lambda t: data.open_dataset(saved(t / "a.npz", x=X, y=Y[:2])),
        ValueError,
        r"a\.npz.*one per image",
    ),
    ("validation 2", lambda t: data.open_dataset((X, Y), validation=2), ValueError, r"in \(0, 1\), got 2"),
    (
        "validation True",
        lambda t: data.open_dataset((X, Y), validation=True),
        TypeError,
        "must be a number, got bool True",
    ),
    ("other shape", lambda t: data.open_dataset((X, Y), validation=(X[:, :2], Y)), ValueError, "shape"),
    (
        "other dtype",
        lambda t: data.open_dataset((X, Y), validation=(X / 255, Y)),
        ValueError,
        "must be uint8",
    ),
    (
        "more classes",
        lambda t: data.open_dataset((X, Y), validation=(X, Y + 1)),
        ValueError,
        "training images' classes",
    ),
    ("missing validation", lambda t: data.open_dataset((X, Y), validation="nope"), FileNotFoundError, "nope"),
    ("strange val class", lambda t: val_class(t), ValueError, "folder 'dog'"),
]


def val_class(tmp):
    mk.image_folder(tmp / "train")
    mk.image_folder(tmp / "val", classes=("ant", "dog"), count=1)
    return data.open_dataset(tmp)


GROUPS = {"arrays": ARRAYS, "folders": FOLDERS, "cifar": CIFAR, "open": OPEN}
CASES = [
    pytest.param(*case[1:], id=f"{group}-{case[0]}") for group, cases in GROUPS.items() for case in cases
]


@pytest.mark.filterwarnings("ignore:skipped unreadable image")
@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_bad_input(call, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_decompression_bomb_is_refused_by_name(tmp_path, monkeypatch):
    Image.new("1", (3000, 3000)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png.*decompression bomb"):
        data.load_image(tmp_path / "bomb.png", (8, 8))


def test_every_prefix_of_an_image_is_read_or_refused(tmp_path):
    content = (mk.image_folder(tmp_path / "f", classes=("a",), count=1) / "a" / "0.jpg").read_bytes()
    outcomes = set()
    for length in range(0, len(content), 7):
        try:
            outcomes.add(data.load_image(content[:length], (8, 8)).shape)
        except ValueError as error:
            outcomes.add("refused")
            assert str(error).startswith("image: ")  # noqa: PT017
    assert outcomes == {"refused"}


def test_random_bytes_in_a_cifar_pickle_never_crash(tmp_path):
    """Flipped bytes give the same batch, another batch, or ValueError naming the file; nothing else."""
    rng = np.random.default_rng(0)
    root = mk.cifar_pickles(tmp_path / "c")
    path = root / "data_batch_1"
    good = bytearray(path.read_bytes())
    refused = 0
    for _ in range(60):
        bad = bytearray(good)
        for place in rng.integers(0, 200, 3):
            bad[place] = rng.integers(0, 256)
        path.write_bytes(bad)
        try:
            assert data.Cifar10(root).image_shape == (32, 32, 3)
        except ValueError as error:
            refused += 1
            assert "data_batch_1" in str(error)  # noqa: PT017
    assert refused > 20
