"""ILSVRC-2012 as it is published, in small: archives of archives, folders, the development kit."""

import shutil
import sys
import tarfile

import numpy as np
import pytest
from support import make_files as mk

from pyconvnet import data
from pyconvnet.data import archives, ilsvrc

pytest.importorskip("scipy", reason="the imitation's meta.mat is written by SciPy")
CLASSES = sorted(mk.WORDS)


@pytest.fixture(params=["archives", "folders"])
def published(request, tmp_path):
    return tmp_path / "i", mk.ilsvrc(tmp_path / "i", packed=request.param == "archives")


def test_every_image_has_its_class(published):
    root, truth = published
    train, held_out = data.open_dataset(root, size=32)
    assert train.classes == held_out.classes == CLASSES
    assert (len(train), len(held_out)) == (12, 6)
    assert train.words == mk.WORDS
    np.testing.assert_array_equal(train.labels, np.repeat(np.arange(4), 3))
    np.testing.assert_array_equal(held_out.labels, [CLASSES.index(wnid) for wnid in truth])
    assert len(set(truth)) > 1
    for i, wnid in enumerate(mk.WORDS):
        for k in range(3):
            index = train.files.index(next(f for f in train.files if f.endswith(f"{wnid}_{7 * k + 1}.JPEG")))
            assert CLASSES[train.labels[index]] == wnid
            far = np.abs(train.read([index])[0].astype(int) - data.load_image(mk.photo(100 * i + k), 32))
            assert far.mean() < 4  # the JPEG's loss
    for k in range(6):
        far = np.abs(held_out.read([k])[0].astype(int) - data.load_image(mk.photo(1000 + k), 32))
        assert far.mean() < 4


def test_archives_and_folders_hold_the_same_images(tmp_path):
    mk.ilsvrc(tmp_path / "a")
    mk.ilsvrc(tmp_path / "b", packed=False)
    packed, folders = (data.open_dataset(tmp_path / name, size=32) for name in "ab")
    for one, other in zip(packed, folders, strict=True):
        np.testing.assert_array_equal(one.read(np.arange(len(one))), other.read(np.arange(len(one))))
    # A folder of the inner archives, as one has after unpacking the outer.
    want = packed[0].read(np.arange(12))
    with tarfile.open(tmp_path / "a" / "ILSVRC2012_img_train.tar") as tar:
        tar.extractall(tmp_path / "a" / "train", filter="data")
    (tmp_path / "a" / "ILSVRC2012_img_train.tar").unlink()
    train, _ = data.open_dataset(tmp_path / "a", size=32)
    np.testing.assert_array_equal(train.read(np.arange(12)), want)


def test_it_is_prepared(tmp_path):
    truth = mk.ilsvrc(tmp_path / "i")
    train, held_out = data.prepare(tmp_path / "i", tmp_path / "out", size=32, workers=2)
    whole = data.open_dataset(tmp_path / "i", size=32)
    for one, other in zip((train, held_out), whole, strict=True):
        np.testing.assert_array_equal(one.read(np.arange(len(one))), other.read(np.arange(len(one))))
        np.testing.assert_array_equal(one.labels, other.labels)
        assert one.files == other.files
    assert [held_out.classes[i] for i in held_out.labels] == truth
    assert train.words == mk.WORDS
    assert train.files[0] == "ILSVRC2012_img_train.tar/n01440764.tar/n01440764_1.JPEG"
    assert held_out.files[5] == "ILSVRC2012_img_val.tar/ILSVRC2012_val_00000006.JPEG"


def test_words_and_wordnet_numbers_as_text_need_no_scipy(tmp_path, monkeypatch):
    truth = mk.ilsvrc(tmp_path / "i")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(
        ImportError, match=r"needs SciPy \(pip install scipy\); or put imagenet_2012_validation"
    ):
        data.open_dataset(tmp_path / "i")
    (tmp_path / "i" / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    (tmp_path / "i" / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(truth) + "\n")
    (tmp_path / "i" / "synset_words.txt").write_text("".join(f"{k} {v}\n" for k, v in mk.WORDS.items()))
    train, held_out = data.open_dataset(tmp_path / "i", size=16)
    assert [held_out.classes[i] for i in held_out.labels] == truth
    assert train.words == mk.WORDS


def damaged(root, how):
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    truth = kit / "ILSVRC2012_validation_ground_truth.txt"
    val = root / "ILSVRC2012_img_val"
    if how == "no kit":
        shutil.rmtree(kit)
    elif how == "no meta":
        (kit / "meta.mat").unlink()
    elif how == "meta":
        (kit / "meta.mat").write_bytes(b"MATLAB 5.0" + bytes(300))
    elif how == "number":
        truth.write_text("9\n" * 6)
    elif how == "text":
        truth.write_text("tench\n" * 6)
    elif how == "lines":
        truth.write_text("1\n" * 5)
    elif how == "class":
        shutil.rmtree(root / "ILSVRC2012_img_train" / "n01440764")
    elif how == "empty class":
        shutil.rmtree(root / "ILSVRC2012_img_train" / "n01440764")
        (root / "ILSVRC2012_img_train" / "n01440764").mkdir()
    elif how == "gap":
        (val / "ILSVRC2012_val_00000003.JPEG").unlink()
    elif how == "archive":
        with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as tar:
            for path in sorted(val.iterdir()):
                tar.add(path, path.name)
        mk.truncate(root / "ILSVRC2012_img_val.tar", 0.4)


@pytest.mark.parametrize(
    ("how", "kind", "match"),
    [
        ("no kit", FileNotFoundError, "has validation images, but no ground truth"),
        ("no meta", FileNotFoundError, "has no meta.mat"),
        ("meta", ValueError, "meta.mat: not the development kit's"),
        ("number", ValueError, "9 is the number of no class"),
        ("text", ValueError, "must have a number a line"),
        ("lines", ValueError, "has 6 images, but the ground truth has 5 lines"),
        ("class", ValueError, "no images of the class n01440764"),
        ("empty class", ValueError, "n01440764 has no images"),
        ("gap", ValueError, "ILSVRC2012_val_00000003.JPEG is missing"),
        ("archive", ValueError, "img_val.tar: not a readable tar archive"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, how, kind, match):
    mk.ilsvrc(tmp_path / "i", packed=False)
    damaged(tmp_path / "i", how)
    with pytest.raises(kind, match=match):
        data.open_dataset(tmp_path / "i")


def test_images_in_archives_that_are_damaged_are_named_and_replaced(tmp_path):
    mk.ilsvrc(tmp_path / "i")
    path = tmp_path / "i" / "ILSVRC2012_img_train.tar"
    _, member = next(archives.nested(path))
    with open(path, "r+b") as file:
        file.seek(member.offset)
        file.write(bytes(50))
    train, _ = data.open_dataset(tmp_path / "i", size=16)
    with pytest.warns(RuntimeWarning, match=r"train.tar/n01440764.tar/n01440764_1.JPEG: not an image file"):
        np.testing.assert_array_equal(*train.read([0, 1]))
    made, _ = data.prepare(tmp_path / "i", tmp_path / "out", size=16, workers=0)
    assert len(made) == 11
    assert list(made.refused) == ["ILSVRC2012_img_train.tar/n01440764.tar/n01440764_1.JPEG"]
    with open(path, "r+b") as file:  # after it was opened
        file.truncate(member.offset + 60)
    with pytest.raises(ValueError, match=r"n01440764_1\.JPEG: the archive ends within it"):
        train.read_one(0)


def test_other_folders_are_none(tmp_path):
    mk.image_folder(tmp_path / "train", count=1)
    mk.image_folder(tmp_path / "val", count=1)
    assert not ilsvrc.is_ilsvrc(tmp_path)
    assert not ilsvrc.is_ilsvrc(tmp_path / "train" / "ant" / "0.jpg")
    train, held_out = data.open_dataset(tmp_path, size=16)
    assert type(train) is type(held_out) is data.ImageFolder
