"""Runs whose devices keep the images: the bits, checkpoints and figures of runs that send them."""

import numpy as np
import pytest
from support import make_files as mk
from support.mpi_jobs import World
from support.runs import events, go, same_bits, small, toy

import pyconvnet as pcn
from pyconvnet import data
from pyconvnet.cli.main import main
from pyconvnet.common.devices import Device
from pyconvnet.data import ArrayDataset, Loader, split
from pyconvnet.plan.inputs import PlanInputs
from pyconvnet.training import kept
from pyconvnet.training.loop import Trainer
from pyconvnet.training.status import status, text

from test_ranks_threads import train  # noqa: F401  isort: skip


class Stop(Exception):
    """Ends a run as a kill does."""


class OnDisk(ArrayDataset):
    """Arrays that are read as files would be; counts how often each image is read."""

    in_memory = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.count = np.zeros(len(self), int)

    def _read(self, indices):
        np.add.at(self.count, indices, 1)
        return super()._read(indices)


DEVICES = {
    "cpu": {"devices": "cpu"},
    "emulator": {"devices": "emulator"},
    "towers": {"devices": ["emulator"] * 2},
    "replicas": {"devices": ["cpu"] * 2, "replicas": 2},
}


@pytest.fixture
def fed(monkeypatch):
    """What each call of ``feed`` was given: the number of dimensions."""
    seen, real = [], PlanInputs.feed

    def feed(self, images, *arguments, **options):
        seen.append(np.ndim(images))
        return real(self, images, *arguments, **options)

    monkeypatch.setattr(PlanInputs, "feed", feed)
    return seen


@pytest.mark.parametrize("case", DEVICES)
def test_a_run_has_the_same_bits(tmp_path, case, fed):
    """Crops, mirrors, colours, mean image, dropout, validation and a last batch that is not full."""
    go(tmp_path / "sent", data=toy(90), epochs=2, **DEVICES[case])
    assert set(fed) == {4}
    fed.clear()
    go(tmp_path / "kept", data=toy(90), epochs=2, keep_on_device=True, **DEVICES[case])
    assert set(fed) == {1}
    same_bits(tmp_path / "sent", tmp_path / "kept")


@pytest.mark.parametrize("devices", ["cpu", "emulator"])
@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)])
def test_a_run_goes_on_with_or_without(tmp_path, monkeypatch, first, then, devices):
    """In the middle of an epoch; nothing of it is in a checkpoint."""
    how = {"data": toy(90), "epochs": 2, "devices": devices}
    go(tmp_path / "whole", **how)
    real = Trainer._train_batch

    def train_batch(self, batch):
        if self.step == 4 and self.saved is None:
            raise Stop
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    with pytest.raises(Stop):
        go(tmp_path / "cut", checkpoint_batches=1, keep_on_device=first, **how)
    go(tmp_path / "cut", resume=True, keep_on_device=then, **how)
    same_bits(tmp_path / "whole", tmp_path / "cut")
    starts = events(tmp_path / "cut", "start")
    assert [e["keep_on_device"] for e in starts] == [first, then]
    assert starts[0]["options"].keys() == events(tmp_path / "whole", "start")[0]["options"].keys()


@pytest.mark.parametrize("devices", ["cpu", "emulator"])
def test_what_is_on_disk_is_read_once(tmp_path, devices, monkeypatch):
    monkeypatch.setattr(kept, "slice_length", lambda *_: 7)
    x, y = toy(60)
    images, others = OnDisk(x, y), OnDisk(*toy(20, seed=1))
    augment = {"crop": 6, "mirror": True, "mean": None, "scale": 0.02}
    how = {"net": small(), "augment": augment, "epochs": 3, "devices": devices, "balance": True, "workers": 0}
    go(tmp_path / "kept", data=images, validation=others, keep_on_device=True, **how)
    assert set(images.count) == set(others.count) == {1}
    go(tmp_path / "sent", data=(x, y), validation=ArrayDataset(*toy(20, seed=1)), **how)
    one, other = (pcn.load(tmp_path / name) for name in ("kept", "sent"))
    for name, value in one.parameters.items():
        np.testing.assert_array_equal(value, other.parameters[name])


@pytest.mark.parametrize("jpeg", [None, 90])
def test_prepared_images(tmp_path, jpeg):
    mk.image_folder(tmp_path / "photos" / "train", count=8)
    mk.image_folder(tmp_path / "photos" / "val", count=3)
    how = {"size": 24, "shard_images": 7, "workers": 0, "jpeg_quality": jpeg}
    data.prepare(tmp_path / "photos", tmp_path / "out", **how)
    net = lambda: pcn.models.build("digits", classes=3, input_shape=(19, 19, 3))  # noqa: E731
    how = {"batch_size": 6, "epochs": 2, "validation": None, "lr": 1e-3, "workers": 0}
    how["augment"] = {"crop": 19, "mirror": True, "pca": 0.1}
    go(tmp_path / "sent", net(), tmp_path / "out", **how)
    go(tmp_path / "kept", net(), tmp_path / "out", keep_on_device=True, **how)
    same_bits(tmp_path / "sent", tmp_path / "kept")


@pytest.mark.parametrize("size", [2, 3])
def test_ranks(tmp_path, train, size):  # noqa: F811
    """Each keeps the whole set, and takes its own rows of a batch from it."""
    (*sent,) = train(size, tmp_path / "sent")
    (*others,) = train(size, tmp_path / "kept", keep_on_device=True)
    assert isinstance(train.world, World)
    for one, other in zip(sent, others, strict=True):
        for name, value in one.model.parameters.items():
            np.testing.assert_array_equal(value, other.model.parameters[name])


def test_parts_of_one_array_share_it():
    """On the host, where it lies; a class that reads otherwise is read."""
    images = ArrayDataset(*toy(40))
    train_set, held_out = split(images, 0.25)
    plan = pcn.plan.Plan(small(), "cpu", 8)
    found = kept.keep_sets(plan, (train_set, held_out, None, train_set), 0, False)
    assert list(found) == [id(train_set), id(held_out)]
    one, other = found.values()
    assert one.images is other.images
    assert one.images.on(plan.device) is images.x
    for part in (train_set, held_out):
        array, places = part.one_array()
        np.testing.assert_array_equal(array[places], part.read(np.arange(len(part))))
    again = data.dataset.Subset(train_set, [3, 3, 1])
    array, places = again.one_array()
    np.testing.assert_array_equal(array[places], again.read([0, 1, 2]))

    class Negative(ArrayDataset):
        __hash__ = None  # as a dataclass has it

        def __eq__(self, other):
            raise AssertionError("nobody asks")

        def _read(self, indices):
            return 255 - super()._read(indices)

    negative = Negative(*toy(12))
    assert negative.one_array() is data.dataset.Subset(negative, [1]).one_array() is None
    (only,) = kept.keep_sets(plan, [negative], 0, False).values()
    np.testing.assert_array_equal(only.images.on(plan.device), 255 - negative.x)


@pytest.mark.parametrize("seed", [0, 3])
def test_batches_without_images(seed):
    images = OnDisk(*toy(42))
    with Loader(images, 20, seed=seed) as whole, Loader(images, 20, seed=seed, images=False) as bare:
        read = list(whole.epoch(1, skip=3))
        images.count[:] = 0
        for one, other in zip(read, bare.epoch(1, skip=3), strict=True):
            assert other.images is None
            assert (one.first, one.total, len(one)) == (other.first, other.total, len(other))
            np.testing.assert_array_equal(one.indices, other.indices)
            np.testing.assert_array_equal(one.labels, other.labels)
    assert not images.count.any()


def test_images_that_do_not_fit(tmp_path, monkeypatch):
    """Training and validation images together, before any is read or anything written."""
    images, others = OnDisk(*toy(60)), OnDisk(*toy(20, seed=1))
    monkeypatch.setattr(Device, "free_bytes", lambda self: 5000)
    wanted = (60 + 20) * 8 * 8 * 3
    with pytest.raises(ValueError, match=rf"train: keep_on_device: the images take {wanted:,} bytes of cpu"):
        go(tmp_path, data=images, validation=others, keep_on_device=True, augment={"crop": 6, "mean": None})
    assert not images.count.any()
    assert not others.count.any()
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("value", [1, None, "auto", "cpu"])
def test_anything_but_yes_or_no(tmp_path, value):
    with pytest.raises(TypeError, match="keep_on_device must be True or False"):
        go(tmp_path, keep_on_device=value)


def test_the_command_says_it(tmp_path, capsys):
    typed = "train digits digits --epochs 1 --batch-size 256 --device cpu --validation none --out"
    assert main([*typed.split(), str(tmp_path / "kept"), "--keep-on-device"]) == 0
    said = capsys.readouterr()
    assert "validation images kept on the device" in said.out + said.err
    assert main([*typed.split(), str(tmp_path / "sent")]) == 0
    assert "kept on the device" not in "".join(capsys.readouterr())
    for name, wanted in (("kept", True), ("sent", False)):
        told = status(tmp_path / name)
        assert told["keep_on_device"] is wanted
        assert ("keeps the images" in text(told)) is wanted
