"""Bad networks, options and checkpoints: each gets the documented error, and nothing is written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import pyconvnet as pcn
from pyconvnet import models
from pyconvnet.layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Constant,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    Normal,
    ReLU,
    SoftmaxCrossEntropy,
    SpatialLRN,
)
from pyconvnet.plan import Plan
from pyconvnet.training import schedules as optim

NAN, INF = float("nan"), float("inf")
V, T = ValueError, TypeError
X = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
Y = np.array([0, 1, 2, 0, 1, 2])


def net(classes: int = 3, shape: tuple[int, ...] = (8, 8, 3)) -> pcn.Network:
    """The smallest network that trains."""
    network = pcn.Network("small", shape)
    network.add(Conv2d(2, 3, pad=1), "conv1").add(Linear(classes), "fc").add(SoftmaxCrossEntropy(), "loss")
    return network


def train(folder: Path, **options):
    """Train it, with the options replaced."""
    defaults = {"model": net(), "data": (X, Y), "epochs": 1, "batch_size": 3, "devices": "cpu"}
    options = defaults | {"out": folder / "run", "progress": False, "validation": None} | options
    return pcn.train(options.pop("model"), options.pop("data"), **options)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    return train(tmp_path_factory.mktemp("run")).out


# ---- train -------------------------------------------------------------------------------------------------

#: Beside those of ``test_train``.
TRAIN = [
    *[({"lr": v}, e, "lr") for v, e in [(INF, V), (True, T), (1j, T)]],
    *[({"momentum": v}, e, "momentum") for v, e in [(-0.5, V), ("0.9", T)]],
    ({"weight_decay": []}, T, "weight_decay"),
    *[({"batch_size": v}, e, "batch_size") for v, e in [(-1, V), (2.0, T), (True, T)]],
    *[({"epochs": v}, T, "epochs") for v in (NAN, "1")],
    *[({"seed": v}, e, "seed") for v, e in [(2**63, V), (0.5, T), ("x", T)]],
    *[({"precision": v}, V, "precision") for v in ("bfloat16", "TF32", "", 32)],
    *[({"schedule": v}, (V, T), "schedule") for v in
      ("warp", "steps:", "steps:a=b", "plateau:speed=3", [(1,)], [(-1, 0.1)], [(1, NAN)], [(5, 1), (2, 1)])],
    *[({"devices": v}, e, "device") for v, e in [("cuda:x", V), (b"cpu", T), (["cpu", 1], T)]],
    *[({"devices": ["cpu", "cpu"], "replicas": v}, T, "replicas") for v in (1.0, True)],
    *[({"hybrid": v}, T, "hybrid") for v in (None, "yes")],
    ({"devices": "cuda:99"}, pcn.DeviceUnavailableError, "cuda"),
    *[({"resume": v}, V, "resume") for v in (1, None)],
    *[({"progress": v}, T, "progress") for v in ("no", None)],
    *[({"workers": v}, T, "workers") for v in (1.0, "2")],
    *[({"model": v}, e, "model") for v, e in [("", V), (None, T), (Linear(3), T), ({"layers": []}, T)]],
    ({"model": net(shape=(9, 8, 3))}, V, "shape|crop|fit|images"),
    ({"model": net(shape=(8, 8, 1))}, V, "shape|channel|fit|images"),
    ({"model": pcn.Network("empty", (8, 8, 3))}, V, "layer|cost"),
    ({"data": None}, T, "data"),
    *[({"augment": v}, (V, T), "augment|crop|pca|scale|mirror") for v in
      (3, {"crop": 0}, {"pca": NAN}, {"scale": INF}, {"mirror": "yes"})],
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "error", "fragment"), TRAIN, ids=lambda v: str(v)[:50] if isinstance(v, dict) else None
)
def test_train(tmp_path, options, error, fragment):
    with pytest.raises(error, match=f"(?i){fragment}"):
        train(tmp_path, **options)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("option", ["learning_rate", "lerning_rate", "device"])
def test_an_unknown_option_of_train(tmp_path, option):
    with pytest.raises(TypeError, match=option):
        train(tmp_path, **{option: 1})


# ---- layers, network, plan ---------------------------------------------------------------------------------

NETWORK = {
    "conv filters 0": (lambda: Conv2d(0, 3), V, "filters|Conv2d"),
    "conv size 0": (lambda: Conv2d(4, 0), V, "size"),
    "conv stride -1": (lambda: Conv2d(4, 3, stride=-1), V, "stride"),
    "conv pad float": (lambda: Conv2d(4, 3, pad=0.5), T, "pad"),
    "conv groups 0": (lambda: Conv2d(4, 3, groups=0), V, "groups"),
    "conv activation": (lambda: Conv2d(4, 3, activation="swish"), V, "activation"),
    "conv lr NaN": (lambda: Conv2d(4, 3, lr_mult=NAN), V, "lr_mult"),
    "conv frozen 1": (lambda: Conv2d(4, 3, frozen=1), T, "frozen"),
    "conv init": (lambda: Conv2d(4, 3, init="normal"), T, "init"),
    "groups do not divide": (lambda: pcn.Network("n", (8, 8, 3)).add(Conv2d(4, 3, groups=2)), V, "groups"),
    "filter too large": (lambda: pcn.Network("n", (8, 8, 3)).add(Conv2d(4, 9)), V, "conv1"),
    "linear 0": (lambda: Linear(0), V, "Linear"),
    "linear float": (lambda: Linear(2.5), T, "Linear"),
    "pool 0": (lambda: MaxPool2d(0), V, "size"),
    "pool pad": (lambda: pcn.Network("n", (8, 8, 3)).add(AvgPool2d(2, 2, pad=2)), V, "pad"),
    "lrn size": (lambda: LRN(0), V, "size"),
    "lrn alpha": (lambda: LRN(5, NAN), V, "alpha"),
    "lrn k": (lambda: LRN(5, 1e-4, 0.75, 0.0), V, "LRN: k"),
    "lrn groups": (lambda: pcn.Network("n", (8, 8, 3)).add(LRN(groups=2)), V, "groups"),
    "spatial lrn beta": (lambda: SpatialLRN(5, 1e-4, "x"), T, "beta"),
    "dropout 1": (lambda: Dropout(1.0), V, "Dropout"),
    "dropout mode": (lambda: Dropout(0.5, "torch"), V, "mode"),
    "normal std": (lambda: Normal(NAN), V, "std"),
    "constant": (lambda: Constant("one"), T, "value"),
    "network name": (lambda: pcn.Network("", (8, 8, 3)), V, "name"),
    "network rank": (lambda: pcn.Network("n", (8, 8)), V, "input_shape"),
    "network extent": (lambda: pcn.Network("n", (8, 0, 3)), V, "input_shape"),
    "network recipe": (lambda: pcn.Network("n", (8, 8, 3), {"optimiser": "adam"}), V, "recipe"),
    "no layer": (lambda: pcn.Network("n", (8, 8, 3)).add("conv"), T, "layer"),
    "layer class": (lambda: pcn.Network("n", (8, 8, 3)).add(ReLU), T, "layer"),
    "name taken": (lambda: net().add(Linear(3), "fc", inputs="conv1"), V, "fc"),
    "name reserved": (lambda: net().add(Linear(3), "input"), V, "input"),
    "name with space": (lambda: net().add(Linear(3), "a b", inputs="fc"), V, "name"),
    "unknown input": (lambda: net().add(Linear(3), inputs="conv9"), V, "conv9"),
    "a cost as input": (lambda: net().add(Linear(3)), V, "cost"),
    "two inputs": (lambda: net().add(Linear(3), inputs=["conv1", "fc"]), V, "takes 1 input"),
    "add of shapes": (lambda: net().add(Add(), inputs=["conv1", "fc"]), V, "shape"),
    "concat of maps": (lambda: net().add(Concat(), inputs=["conv1", "fc"]), V, "shape|concat"),
    "conv on a vector": (lambda: pcn.Network("n", (8,)).add(Conv2d(4, 3)), V, "map"),
    "share unknown": (lambda: pcn.Network("n", (8, 8, 3)).add(Linear(3, share="fc0")), V, "fc0"),
    "configure shape": (lambda: net().configure("conv1", size=5), V, "shape"),
    "configure option": (lambda: net().configure("conv1", speed=5), V, "speed"),
    "no such layer": (lambda: net()["conv7"], V, "conv7"),
    "description": (lambda: pcn.Network.from_dict({"format": 99}), V, "format"),
    "description of what": (lambda: pcn.Network.from_dict([1, 2]), V, "format|description"),
    "description's layer": (
        lambda: pcn.Network.from_dict(
            net().to_dict() | {"layers": [{"name": "a", "inputs": [], "kind": "Eval"}]}
        ),
        V,
        "Eval|input",
    ),
    "model name": (lambda: models.build("alexnet2"), V, "alexnet_2012"),
    "model option": (lambda: models.build("alexnet", depth=9), V, "depth"),
    "model classes": (lambda: models.build("alexnet", classes=0), V, "classes"),
    "model route": (lambda: models.build("alexnet", route="north"), V, "route"),
    "model width": (lambda: models.build("alexnet", width=NAN), V, "width"),
    "model type": (lambda: models.build(3), T, "model"),
    "schedule": (lambda: optim.schedule("cosine"), V, "schedule"),
    "plan of what": (lambda: Plan("alexnet", "cpu"), T, "network"),
    "plan batch": (lambda: Plan(net(), "cpu", 0), V, "batch_size"),
    "plan dtype": (lambda: Plan(net(), "cpu", 2, np.float16), V, "dtype"),
    "plan float64": (lambda: Plan(net(), "emulator", 2, np.float64), V, "dtype"),
    "plan device": (lambda: Plan(net(), "fpga", 2), V, "device"),
    "feed shape": (lambda: Plan(net(), "cpu", 2).feed(X[:2, :7]), V, "images"),
    "feed too many": (lambda: Plan(net(), "cpu", 2).feed(X[:3]), V, "2"),
    "feed none": (lambda: Plan(net(), "cpu", 2).feed(X[:0]), V, "1 to 2"),
    "feed labels": (lambda: Plan(net(), "cpu", 2).feed(X[:2], Y[:1]), V, "labels"),
    "feed float labels": (lambda: Plan(net(), "cpu", 2).feed(X[:2], Y[:2] / 2), V, "labels"),
    "feed draws": (lambda: Plan(net(), "cpu", 2).feed(X[:2], Y[:2], draws={}), V, "preprocessing"),
    "forward too many": (lambda: Plan(net(), "cpu", 2).forward(3), V, "2"),
    "backward of inference": (lambda: Plan(net(), "cpu", 2, train=False).backward(), V, "train"),
    "parameters missing": (lambda: Plan(net(), "cpu", 2).set_parameters({}), V, "conv1.weight"),
    "parameters shape": (lambda: set_parameter("fc.bias", np.zeros(4, np.float32)), V, "fc.bias"),
    "parameters unknown": (lambda: set_parameter("fc9.bias", np.zeros(3, np.float32)), V, "fc9.bias"),
}  # fmt: skip


def set_parameter(name: str, value: np.ndarray) -> None:
    plan = Plan(net(), "cpu", 2)
    plan.set_parameters(plan.get_parameters() | {name: value})


@pytest.mark.parametrize("case", NETWORK)
def test_network(case):
    make, error, fragment = NETWORK[case]
    with pytest.raises(error, match=f"(?i){fragment}"):
        make()


# ---- checkpoints -------------------------------------------------------------------------------------------


def flipped(content: bytes) -> bytes:
    """The last tensor's last byte changed."""
    return content[:-1] + bytes([content[-1] ^ 0xFF])


DAMAGE = {
    "empty": lambda content: b"",
    "cut in the header": lambda content: content[:40],
    "cut in the data": lambda content: content[:-100],
    "text": lambda content: b"hello, I am no checkpoint",
    "a pickle": lambda content: pickle.dumps({"conv1.weight": [1.0]}),
    "a bit flipped": flipped,
    "header length absurd": lambda content: b"\xff" * 8 + content[8:],
    "longer": lambda content: content + b"more",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint(checkpoint, tmp_path, how):
    bad = tmp_path / "last.safetensors"
    bad.write_bytes(DAMAGE[how]((checkpoint / "last.safetensors").read_bytes()))
    with pytest.raises(pcn.CheckpointError, match=r"last\.safetensors"):
        pcn.load(bad)
    (tmp_path / "log.jsonl").write_bytes((checkpoint / "log.jsonl").read_bytes())
    with pytest.raises(pcn.CheckpointError, match=r"last\.safetensors"):
        train(tmp_path, out=tmp_path, resume=True)
    with pytest.raises(pcn.CheckpointError, match=r"last\.safetensors"):
        pcn.evaluate(bad, (X, Y), views=1)


METADATA = {
    "none": lambda old: None,
    "not ours": lambda old: {"format": "pt"},
    "no JSON": lambda old: old | {"pyconvnet": "{"},
    "a list": lambda old: old | {"pyconvnet": "[]"},
    "another format": lambda old: (
        old | {"pyconvnet": json.dumps(json.loads(old["pyconvnet"]) | {"format": 99})}
    ),
    "no network": lambda old: old | {"pyconvnet": json.dumps({"format": 1})},
}


@pytest.mark.parametrize("how", METADATA)
def test_damaged_metadata(checkpoint, tmp_path, how):
    from safetensors import safe_open

    good, bad = checkpoint / "last.safetensors", tmp_path / "bad.safetensors"
    with safe_open(good, "numpy") as file:
        metadata = file.metadata()
    save_file(load_file(good), bad, METADATA[how](metadata))
    with pytest.raises(pcn.CheckpointError, match=r"bad\.safetensors"):
        pcn.load(bad)


@pytest.mark.parametrize(
    ("path", "error"),
    [("nowhere.safetensors", FileNotFoundError), ("", FileNotFoundError), (None, TypeError), (3, TypeError)],
)
def test_no_checkpoint(tmp_path, monkeypatch, path, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match="load"):
        pcn.load(path)


def test_saving_what_is_no_model(tmp_path):
    with pytest.raises(TypeError, match="save"):
        pcn.save({"conv1.weight": np.zeros(3)}, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


# ---- evaluate, predict -------------------------------------------------------------------------------------

USE = {
    "evaluate nothing": (lambda m: pcn.evaluate(None, (X, Y)), T, "model"),
    "evaluate a network": (lambda m: pcn.evaluate(net(), (X, Y)), T, "model"),
    "evaluate views": (lambda m: pcn.evaluate(m, (X, Y), views=7), V, "views"),
    "evaluate batch": (lambda m: pcn.evaluate(m, (X, Y), views=1, batch_size=0), V, "batch_size"),
    "evaluate batch float": (
        lambda m: pcn.evaluate(m, (X, Y), views=1, batch_size=2.5),
        T,
        "batch_size",
    ),
    "evaluate shape": (lambda m: pcn.evaluate(m, (X[:, :5], Y), views=1), V, "shape|8"),
    "evaluate labels": (lambda m: pcn.evaluate(m, (X, Y + 3), views=1), V, "class|label"),
    "evaluate device": (lambda m: pcn.evaluate(m, (X, Y), views=1, device="abacus"), V, "device"),
    "predict nothing": (lambda m: pcn.predict(m, []), V, "images"),
    "predict a number": (lambda m: pcn.predict(m, 3), T, "images"),
    "predict a missing file": (lambda m: pcn.predict(m, ["no.jpg"]), FileNotFoundError, "no.jpg"),
    "predict NaN": (lambda m: pcn.predict(m, np.full((8, 8, 3), NAN, np.float32)), V, "finite"),
    "predict channels": (lambda m: pcn.predict(m, X[..., :2]), V, "channels|shape"),
    "predict top": (lambda m: pcn.predict(m, X, top=0), V, "top"),
    "predict top float": (lambda m: pcn.predict(m, X, top=1.5), T, "top"),
}


@pytest.mark.parametrize("case", USE)
def test_use_of_a_model(checkpoint, case):
    call, error, fragment = USE[case]
    model = pcn.load(checkpoint)
    with pytest.raises(error, match=f"(?i){fragment}"):
        call(model)
