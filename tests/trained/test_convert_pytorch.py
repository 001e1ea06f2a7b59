"""torchvision's AlexNet in and back out: its logits, its names, what is refused."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from support import foreign
from support.networks import plain

import pyconvnet as pcn
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.trained.convert import description
from pyconvnet.trained.convert.pytorch import IMAGENET_MEAN, IMAGENET_STD, is_torchvision, state_dict

CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def state():
    return foreign.torchvision_state(np.random.default_rng(1))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(2).integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)


def seen(images):
    """What torchvision's transforms make of images: the central crop, scaled, normalised, (N, C, H, W)."""
    crop = images[:, 16:240, 16:240].astype(np.float64) / 255
    return ((crop - IMAGENET_MEAN) / IMAGENET_STD).transpose(0, 3, 1, 2)


def test_torchvision_in_gives_its_logits(tmp_path, state, images):
    save_file(state, tmp_path / "a.safetensors")
    model = pcn.load(tmp_path / "a.safetensors")
    assert model.preprocessing.input_shape == (224, 224, 3)
    assert model.preprocessing.image_shape == (256, 256, 3)
    assert not model.class_names_given
    assert is_torchvision(model.network)
    assert [n.name for n in model.network if n.layer.parameters(*n.input_shapes)] == [
        "conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"
    ]  # fmt: skip
    assert any("(C, H, W) to (H, W, C)" in note for note in model.info["converted"])
    assert any("standard deviations" in note for note in model.info["converted"])
    wanted = foreign.torchvision_alexnet(seen(images), state)
    np.testing.assert_allclose(foreign.logits(model, images), wanted, **CLOSE)
    assert np.abs(wanted).std() > 0.1


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_precisions_become_float32(tmp_path, state, images, dtype):
    save_file({name: value.astype(dtype) for name, value in state.items()}, tmp_path / "a.safetensors")
    model = pcn.load(tmp_path / "a.safetensors")
    rounded = {name: value.astype(dtype).astype(np.float64) for name, value in state.items()}
    wanted = foreign.torchvision_alexnet(seen(images), rounded)
    np.testing.assert_allclose(foreign.logits(model, images), wanted, **CLOSE)


def test_names_and_sizes_are_taken(tmp_path, state):
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "a.safetensors")
    (tmp_path / "names.txt").write_text("\n".join(f"class {i}" for i in range(10)))
    model = pcn.load(tmp_path / "a.safetensors", classes=tmp_path / "names.txt", image_size=300)
    assert model.classes[3] == "class 3"
    assert model.preprocessing.image_shape == (300, 300, 3)
    with pytest.raises(pcn.CheckpointError, match=r"must give maps of 6x6 before classifier\.1"):
        pcn.load(tmp_path / "a.safetensors", input_size=300)
    with pytest.raises(pcn.CheckpointError, match="11 names, but network 'torchvision_alexnet' has 10"):
        pcn.load(tmp_path / "a.safetensors", classes=list("abcdefghijk"))


def test_there_and_back(tmp_path, state, images):
    """Back out: torchvision's arrays to rounding; in again, with names and preprocessing: our logits."""
    save_file(state, tmp_path / "a.safetensors")
    model = pcn.load(tmp_path / "a.safetensors", classes=list("abcdefghij"))
    path = pcn.export(model, tmp_path / "b.safetensors", "pytorch")
    with safe_open(path, "numpy") as file:
        again = {name: file.get_tensor(name) for name in state}
        assert len(list(file.keys())) == 16
        told = json.loads(file.metadata()[description.KEY])
    assert told["classes"] == list("abcdefghij")
    for name, value in state.items():
        np.testing.assert_allclose(again[name], value, rtol=3e-7, err_msg=name)
    back = pcn.load(path)
    assert back.network == model.network
    assert back.classes == model.classes
    assert back.preprocessing.to_dict() == model.preprocessing.to_dict()
    np.testing.assert_array_equal(back.preprocessing.mean, model.preprocessing.mean)
    np.testing.assert_allclose(foreign.logits(back, images), foreign.logits(model, images), **CLOSE)
    with pytest.raises(pcn.CheckpointError, match="the file says itself what classes would"):
        pcn.load(path, classes=["a"])


def test_another_net_keeps_its_own_names(tmp_path):
    """Written in PyTorch's layouts, with a mean image; the way back needs no other file."""
    net = plain(classes=4)
    rng = np.random.default_rng(0)
    how = Preprocessing((10, 10, 3), (8, 8), rng.random((10, 10, 3)) * 255, 0.25)
    model = pcn.Model(net, dict(net.initial(3)), how, list("abcd"))
    state, _ = state_dict(model)
    assert set(state) == {"conv1.weight", "conv1.bias", "fc2.weight", "fc2.bias"}
    assert state["conv1.weight"].shape == (6, 3, 3, 3)
    np.testing.assert_array_equal(state["conv1.weight"][2, 1], model.parameters["conv1.weight"][2, :, :, 1])
    x = rng.random((2, 10, 10, 3)).astype(np.float32) * 255
    inside = ((x - how.mean)[:, 1:9, 1:9] * 0.25).transpose(0, 3, 1, 2).astype(np.float64)
    y = foreign.relu(foreign.conv(inside, state["conv1.weight"], state["conv1.bias"], pad=1))
    y = foreign.linear(foreign.caffe_pool(y, "max", 2, 2), state["fc2.weight"], state["fc2.bias"])
    np.testing.assert_allclose(foreign.logits(model, x), y, **CLOSE)
    back = pcn.load(pcn.export(model, tmp_path / "m.safetensors", "pytorch"))
    np.testing.assert_array_equal(foreign.logits(back, x), foreign.logits(model, x))
    assert back.classes == list("abcd")


def test_nets_that_only_look_like_torchvisions():
    net = pcn.models.alexnet(10, width=0.1, route="pad2", groups=1)
    assert not is_torchvision(net)  # response normalisation
    assert not is_torchvision(plain())


def test_what_is_no_state_dict_of_alexnet_is_told(tmp_path, state):
    path = tmp_path / "a.safetensors"
    save_file({k: v for k, v in state.items() if k != "features.8.bias"}, path)
    with pytest.raises(pcn.CheckpointError, match=r"no checkpoint of pyconvnet: .*lacks features.8.bias"):
        pcn.load(path)
    save_file({**state, "bn1.weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(pcn.CheckpointError, match=r"has bn1\.weight"):
        pcn.load(path)
    save_file({**state, "features.6.weight": np.zeros((16, 9, 3, 3), np.float32)}, path)
    with pytest.raises(pcn.CheckpointError, match=r"features\.6: its weight must have shape"):
        pcn.load(path)
    save_file({**state, "features.6.bias": np.zeros(16, np.int32)}, path)
    with pytest.raises(pcn.CheckpointError, match="must be of floating-point numbers, got int32"):
        pcn.load(path)


def test_pth_without_pytorch_says_what_helps(tmp_path, state, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "alexnet.pth"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ImportError, match=r"only PyTorch can read, .*pip install torch; or .*safetensors"):
        pcn.load(path)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(ImportError, match=r'only PyTorch writes .*\.safetensors, with to="pytorch"'):
        pcn.export(tmp_path / "a.safetensors", tmp_path / "b.pth")


def test_export_refuses_what_makes_no_sense(tmp_path):
    with pytest.raises(TypeError, match="model must be a Model, a Run or a path, got int"):
        pcn.export(3, tmp_path / "a.onnx")
    net = plain()
    model = pcn.Model(net, dict(net.initial()), Preprocessing((8, 8, 3)))
    with pytest.raises(ValueError, match=r"path must end in \.onnx, \.pth"):
        pcn.export(model, tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"to must be .*'onnx', 'pytorch'"):
        pcn.export(model, tmp_path / "a.onnx", "tensorflow")
    with pytest.raises(ValueError, match="layout is for ONNX alone"):
        pcn.export(model, tmp_path / "a.pth", layout="NHWC")


# ---- where PyTorch is installed ----------------------------------------------------------------------------
def torch_alexnet(torch, widths, classes):
    """torchvision.models.alexnet, of other widths."""
    nn = torch.nn
    a, b, c, d, e, f, g = widths
    net = nn.Module()
    net.features = nn.Sequential(
        nn.Conv2d(3, a, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    net.classifier = nn.Sequential(
        nn.Dropout(0.5), nn.Linear(e * 36, f), nn.ReLU(), nn.Dropout(0.5), nn.Linear(f, g), nn.ReLU(),
        nn.Linear(g, classes),
    )  # fmt: skip
    return net.eval()


def torch_logits(torch, net, x):
    with torch.no_grad():
        maps = torch.nn.functional.adaptive_avg_pool2d(net.features(torch.from_numpy(x).float()), (6, 6))
        return net.classifier(maps.flatten(1)).numpy()


@pytest.mark.parametrize(
    "widths",
    [(8, 12, 16, 12, 8, 32, 24), pytest.param((64, 192, 384, 256, 256, 4096, 4096), marks=pytest.mark.slow)],
    ids=["narrow", "true"],
)
def test_pytorchs_own_logits(tmp_path, images, widths):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.manual_seed(0)
    theirs = torch_alexnet(torch, widths, 10)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    model = pcn.load(tmp_path / "a.pth", classes=list("abcdefghij"))
    wanted = torch_logits(torch, theirs, seen(images))
    size = np.abs(wanted).max()
    np.testing.assert_allclose(foreign.logits(model, images), wanted, rtol=1e-4, atol=1e-5 * size)
    for name, to in (("b.pth", None), ("b.safetensors", "pytorch")):
        path = pcn.export(model, tmp_path / name, to)
        back = torch_alexnet(torch, widths, 10)
        if name.endswith("pth"):
            back.load_state_dict(torch.load(path, weights_only=True))
        else:
            from safetensors.torch import load_file

            back.load_state_dict(load_file(path))
        again = torch_logits(torch, back, seen(images))
        np.testing.assert_allclose(again, wanted, rtol=1e-5, atol=1e-6 * size)
        kept = pcn.load(path)
        assert kept.classes == list("abcdefghij")
        assert kept.preprocessing.to_dict() == model.preprocessing.to_dict()


def test_a_pth_that_would_run_code_does_not(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "made"), "w")

    torch.save({"features.0.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(pcn.CheckpointError, match=r"evil\.pth is damaged, or not what PyTorch writes"):
        pcn.load(tmp_path / "evil.pth")
    assert not (tmp_path / "made").exists()
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(pcn.CheckpointError, match="must hold a state dict, got list"):
        pcn.load(tmp_path / "list.pth")
