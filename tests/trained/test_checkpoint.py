"""Checkpoints: what goes in comes out, damage is noticed, a write is all or nothing."""

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.networks import everything, plain

import pyconvnet as pcn
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.trained import checkpoint, checkpoint_file
from pyconvnet.trained.model import Model


def model(net=None):
    net = everything() if net is None else net
    mean = np.random.default_rng(0).uniform(0, 255, (14, 15, 3)).astype(np.float32)
    h, w, _ = net.input_shape
    return Model(
        net,
        dict(net.initial(4)),
        Preprocessing((14, 15, 3), (h, w), mean, 0.25),
        ["ant", "bee", "cat"],
        {"epoch": 3},
    )


def test_a_model_comes_back_whole(tmp_path):
    ours = model()
    path = pcn.save(ours, tmp_path / "deep" / "m.safetensors")
    back = pcn.load(path)
    assert back.network == ours.network
    assert back.classes == ["ant", "bee", "cat"]
    assert back.info == {"epoch": 3}
    assert back.preprocessing.to_dict() == ours.preprocessing.to_dict()
    np.testing.assert_array_equal(back.preprocessing.mean, ours.preprocessing.mean)
    assert list(back.parameters) == list(ours.parameters) or set(back.parameters) == set(ours.parameters)
    for name, value in ours.parameters.items():
        np.testing.assert_array_equal(back.parameters[name], value)
    assert back.class_name(1) == "bee"
    assert back.class_name(4) == "4"


def test_any_safetensors_reader_sees_plain_names(tmp_path):
    ours = model()
    tensors = load_file(ours.save(tmp_path / "m.safetensors"))
    assert tensors["parameter/conv1.weight"].shape == (8, 4, 3, 3)
    assert "preprocessing/mean" in tensors


def test_state_and_arrays_come_back(tmp_path):
    arrays = {"momentum/conv1.weight": np.arange(6.0).reshape(2, 3), "state/metrics": np.zeros((1, 4))}
    path = checkpoint.write(
        tmp_path / "s.safetensors", model(), {"step": 7, "history": [{"x": None}]}, arrays
    )
    _, state, back = checkpoint.read(path)
    assert state == {"step": 7, "history": [{"x": None}]}
    assert set(back) == set(arrays)
    np.testing.assert_array_equal(back["momentum/conv1.weight"], arrays["momentum/conv1.weight"])


def test_a_model_runs_on_a_device(tmp_path, any_device):
    ours = model()
    plan = ours.plan(any_device, 2)
    images = np.random.default_rng(1).integers(0, 256, (2, 14, 15, 3)).astype(np.uint8)
    plan.feed(images)
    plan.forward(train=False)
    other = pcn.load(ours.save(tmp_path / "m.safetensors")).plan("cpu", 2)
    other.feed(images)
    other.forward(train=False)
    np.testing.assert_allclose(any_device.to_numpy(plan.scores()), other.scores(), rtol=1e-4, atol=1e-4)


def test_load_finds_the_best_in_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="neither best"):
        pcn.load(tmp_path)
    pcn.save(model(), tmp_path / "last.safetensors")
    assert pcn.load(tmp_path).network.name == "everything"
    better = model(plain(size=8))
    better.save(tmp_path / "best.safetensors")
    assert pcn.load(tmp_path).network.name == "plain"


# ---- damage ------------------------------------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    return pcn.save(model(), tmp_path / "m.safetensors")


def test_every_cut_is_noticed(saved):
    whole = saved.read_bytes()
    for keep in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        saved.write_bytes(whole[:keep])
        with pytest.raises(checkpoint.CheckpointError, match="damaged"):
            pcn.load(saved)


def test_a_flipped_bit_is_noticed(saved):
    """One bit anywhere: in the length, the JSON, the arrays."""
    whole = saved.read_bytes()
    rng = np.random.default_rng(3)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [*range(8), *rng.integers(8, header, 150), *rng.integers(header, len(whole), 50)]
    for place in places:
        broken = bytearray(whole)
        broken[place] ^= 1 << int(rng.integers(8))
        saved.write_bytes(broken)
        with pytest.raises(checkpoint.CheckpointError):
            pcn.load(saved)


def rewrite(path, change, mend):
    from safetensors import safe_open

    with safe_open(path, "numpy") as file:
        names = file.keys()
        tensors = {k: file.get_tensor(k) for k in names}
        header = json.loads(file.metadata()["pyconvnet"])
    before = checkpoint_file._crc(json.dumps(header), tensors)
    change(tensors, header)
    text = json.dumps(header)
    crc = checkpoint_file._crc(text, tensors) if mend else before
    save_file(tensors, path, {"pyconvnet": text, "pyconvnet_crc32": str(crc)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h: t.pop("parameter/conv1.weight"), "lacks conv1.weight"),
        (lambda t, h: h.update(format=99), "has format 99, this version of pyconvnet reads format 1"),
        (lambda t, h: h.pop("format"), "damaged metadata"),
        (lambda t, h: h.pop("network"), "damaged"),
        (lambda t, h: h["network"]["layers"].pop(0), "damaged"),
        (lambda t, h: h["network"]["layers"][0].update(filters=16), "damaged"),
        (lambda t, h: h.update(classes=["x"] * 99), "holds 99 names"),
        (lambda t, h: h["preprocessing"].update(crop=[99, 99]), "crop must fit"),
        (lambda t, h: h.update(preprocessing=None), "damaged"),
    ],
)
def test_contents_that_make_no_sense(saved, change, message):
    rewrite(saved, change, mend=True)
    with pytest.raises(checkpoint.CheckpointError, match=message):
        pcn.load(saved)


@pytest.mark.parametrize(
    "change",
    [
        lambda t, h: t["parameter/conv1.bias"].__setitem__(0, 3.0),
        lambda t, h: t.update(extra=np.zeros(2)),
        lambda t, h: h["classes"].reverse(),
    ],
)
def test_changes_behind_our_back(saved, change):
    rewrite(saved, change, mend=False)
    with pytest.raises(checkpoint.CheckpointError, match="checksum does not match"):
        pcn.load(saved)


def test_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(checkpoint.CheckpointError, match="no checkpoint of pyconvnet"):
        pcn.load(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(checkpoint.CheckpointError, match="damaged or no safetensors file"):
        pcn.load(path)
    with pytest.raises(FileNotFoundError, match="no such file"):
        pcn.load(tmp_path / "missing")
    with pytest.raises(TypeError, match="path must be a path"):
        pcn.load(3)
    with pytest.raises(TypeError, match="model must be a Model or a Run"):
        pcn.save({"a": 1}, path)


def test_pickle_is_never_read(tmp_path):
    import pickle

    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    path = tmp_path / "x.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(checkpoint.CheckpointError):
        pcn.load(path)
    assert not (tmp_path / "exploded").exists()


# ---- atomicity ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(saved, monkeypatch, fails):
    before = saved.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, fails, fail)
    with pytest.raises(OSError, match="disk full"):
        pcn.save(model(plain()), saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_the_file_is_on_disk_before_it_takes_the_name(saved, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (order.append(name), real(*a))[1])
    pcn.save(model(), saved)
    assert order[:2] == ["fsync", "replace"]


# ---- the model's own checks --------------------------------------------------------------------------------
NET = plain()
PARAMETERS = dict(NET.initial(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Model(NET, {}, Preprocessing((8, 8, 3))), "lacks conv1.weight"),
        (lambda: Model(NET, {**PARAMETERS, "x": np.zeros(1)}, Preprocessing((8, 8, 3))), "does not know x"),
        (
            lambda: Model(NET, {**PARAMETERS, "fc2.bias": np.zeros(5)}, Preprocessing((8, 8, 3))),
            r"must have shape \(4,\), got \(5,\)",
        ),
        (lambda: Model(NET, PARAMETERS, Preprocessing((9, 8, 3))), r"makes inputs of shape \(9, 8, 3\)"),
        (lambda: Model(NET, PARAMETERS, Preprocessing((8, 8, 3)), list("abcde")), "holds 5 names"),
        (lambda: Preprocessing((8, 8)), "image_shape must be"),
        (lambda: Preprocessing((8, 8, 3), (9, 8)), "crop must fit images of 8x8"),
        (
            lambda: Preprocessing((8, 8, 3), mean=np.zeros(4)),
            r"mean must have shape \(3,\) or \(8, 8, 3\), got \(4,\)",
        ),
        (lambda: Preprocessing((8, 8, 3), scale=float("nan")), "scale must be finite"),
    ],
)
def test_models_that_make_no_sense(call, message):
    with pytest.raises(ValueError, match=message):
        call()
