"""Training on several devices: the run of one device, checkpoints that fit any number of them."""

import numpy as np
import pytest
from support.runs import events, go, small, toy

from pyconvnet.trained.checkpoint import read

SPLITS = {
    "towers": {"devices": ["cpu", "cpu"]},
    "replicas": {"devices": ["cpu", "cpu"], "replicas": 2},
    "hybrid": {"devices": ["cpu"] * 4, "replicas": 2, "hybrid": True},
}


def assert_same_run(got, wanted, bound=1e-4):
    """To what float32 sums in another order may come to after some steps of training."""
    for mine, theirs in zip(got.history, wanted.history, strict=True):
        assert mine["step"] == theirs["step"]
        for figure in ("train_loss", "validation_loss"):
            assert mine[figure] == pytest.approx(theirs[figure], rel=bound)
    for name, value in wanted.model.parameters.items():
        difference = np.linalg.norm(got.model.parameters[name] - value)
        assert difference <= bound * np.linalg.norm(value), name


@pytest.mark.parametrize("split", SPLITS)
def test_a_run_is_that_of_one_device(tmp_path, split):
    """Augmentation, dropout and a last batch that is not full (120 images, batches of 32) included."""
    one = go(tmp_path / "one")
    several = go(tmp_path / "several", **SPLITS[split])
    assert_same_run(several, one)
    (start,) = events(tmp_path / "several", "start")
    assert start["devices"] == SPLITS[split]["devices"]
    again = go(tmp_path / "again", **SPLITS[split])
    for name, value in several.model.parameters.items():
        np.testing.assert_array_equal(again.model.parameters[name], value)  # bit by bit


@pytest.mark.parametrize(("first", "then"), [("towers", None), (None, "towers"), ("hybrid", "replicas")])
def test_a_checkpoint_goes_on_with_other_devices(tmp_path, first, then):
    whole = go(tmp_path / "whole", epochs=4)
    go(tmp_path / "run", epochs=2, **SPLITS.get(first, {}))
    model, state, arrays = read(tmp_path / "run" / "last.safetensors")
    shapes = {name: p.shape for name, p in small().parameters().items()}
    assert {name: value.shape for name, value in model.parameters.items()} == shapes
    assert {
        n.removeprefix("momentum/"): a.shape for n, a in arrays.items() if n.startswith("momentum/")
    } == shapes
    assert "devices" not in state["options"]
    resumed = go(tmp_path / "run", epochs=4, resume=True, **SPLITS.get(then, {}))
    assert [record["epoch"] for record in resumed.history] == [1, 2, 3, 4]
    assert_same_run(resumed, whole)
    resumed_as_it_was = go(tmp_path / "same", epochs=2, **SPLITS.get(first, {}))
    assert resumed_as_it_was.history[-1]["train_loss"] == resumed.history[1]["train_loss"]


def test_resuming_on_the_same_devices_gives_the_same_bits(tmp_path):
    whole = go(tmp_path / "whole", epochs=4, **SPLITS["towers"])
    go(tmp_path / "run", epochs=2, **SPLITS["towers"])
    resumed = go(tmp_path / "run", epochs=4, resume=True, **SPLITS["towers"])
    for name, value in whole.model.parameters.items():
        np.testing.assert_array_equal(resumed.model.parameters[name], value)


def test_pins_may_change_when_a_run_goes_on(tmp_path):
    net = small().configure("fc2", device=1)
    go(tmp_path / "run", net=net, epochs=1, devices=["cpu", "cpu"])
    resumed = go(tmp_path / "run", net=small(), epochs=2, resume=True, devices="cpu")
    assert len(resumed.history) == 2
    assert resumed.model.network["fc2"].layer.device is None


@pytest.mark.kernels
def test_towers_on_the_kernels(tmp_path, device):
    """A short run on the compiled kernels, one device and two."""
    options = {"epochs": 1, "data": toy(60), "batch_size": 16}
    one = go(tmp_path / "one", devices=device, **options)
    two = go(tmp_path / "two", devices=[device, device], **options)
    assert_same_run(two, one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": []}, "at least one device, got an empty list"),
        ({"devices": ["cpu"] * 4, "replicas": 3}, "replicas must divide the number of devices, 4, got 3"),
        ({"devices": ["cpu"] * 20}, "cannot be split over 20 devices"),
        ({"devices": ["cpu", "emulator"]}, "of one kind, got cpu, emulator"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
