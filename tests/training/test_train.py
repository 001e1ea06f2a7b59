"""train(): learning, what it shows and leaves, wrong use."""

import math
import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support import make_files as mk
from support.runs import events, go, python_path, small, toy

import pyconvnet as pcn
from pyconvnet.data import Augmentation
from pyconvnet.layers import Add, Conv2d, Linear, Normal, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.training.schedules import Plateau
from pyconvnet.training.train import train as train_function


# ---- learning ----------------------------------------------------------------------------------------------
def test_train_is_the_function_whatever_was_imported():
    assert pcn.train is train_function
    assert callable(pcn.train)


def test_digits_are_learned(digits_run):
    errors = [e["error"] for e in events(digits_run, "validation")]
    assert len(errors) == 5
    assert min(errors) <= 0.02
    assert pcn.load(digits_run).classes == [str(i) for i in range(10)]


def test_a_run_leaves_log_history_and_checkpoints(tmp_path):
    run = go(tmp_path / "run")
    assert sorted(p.name for p in run.out.iterdir()) == [
        "best.safetensors",
        "last.safetensors",
        "log.jsonl",
    ]
    assert [r["epoch"] for r in run.history] == [1, 2, 3]
    assert run.history[-1]["step"] == 3 * 4  # 119 images, batches of 32
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]
    assert run.history[-1]["validation_error"] < 0.5
    assert not run.interrupted
    kinds = [e["event"] for e in events(run.out)]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("train") == kinds.count("validation") == 3
    start = events(run.out, "start")[0]
    assert start["network"] == "small"
    assert start["options"]["lr"] == 0.02
    assert start["train_images"] + start["validation_images"] == 150
    assert [e["loss"] for e in events(run.out, "train")] == [r["train_loss"] for r in run.history]
    last, best = pcn.load(run.out / "last.safetensors"), pcn.load(run.out)
    for name, value in run.model.parameters.items():
        np.testing.assert_array_equal(value, last.parameters[name])
    assert best.info["epoch"] == run.best["epoch"]


def test_a_run_leaves_curves(tmp_path, drawing):
    pytest.importorskip("matplotlib")
    run = go(tmp_path / "run", epochs=2)
    assert (run.out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_figures_are_those_of_the_model(tmp_path):
    """The last validation figures, computed again from the saved model by hand."""
    x, y = toy(40, seed=5)
    run = go(tmp_path / "run", validation=(x, y), epochs=2)
    plan = run.model.plan("cpu", 40)
    plan.feed(x, y)
    plan.forward(train=False)
    scores = plan.scores().astype(np.float64)
    assert run.history[-1]["validation_error"] == pytest.approx((scores.argmax(1) != y).mean())
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert run.history[-1]["validation_loss"] == pytest.approx(-log_p[np.arange(40), y].mean(), rel=1e-5)


def test_without_validation(tmp_path):
    run = go(tmp_path / "run", validation=False, epochs=2)
    assert run.history[-1]["validation_error"] is None
    assert run.best["train_error"] == min(r["train_error"] for r in run.history)
    assert not events(run.out, "validation")


def test_recipe_options_and_defaults(tmp_path):
    net = small()
    net.recipe.update(lr=0.003, epochs=2, batch_size=50, schedule=[(1, 0.1)])
    run = pcn.train(net, toy(), out=tmp_path / "a", progress=False, devices="cpu")
    assert [r["lr"] for r in run.history] == pytest.approx([0.003, 0.0003])
    options = events(run.out, "start")[0]["options"]
    assert options["batch_size"] == 50
    assert options["momentum"] == 0.9
    assert options["weight_decay"] == 5e-4
    assert options["augment"]["mirror"] is True
    run = pcn.train(
        net,
        toy(),
        out=tmp_path / "b",
        progress=False,
        devices="cpu",
        lr=0.01,
        epochs=1,
        augment=Augmentation(crop=6),
    )
    assert run.history[0]["lr"] == 0.01
    assert len(run.history) == 1


def test_schedules_steer_the_rate(tmp_path):
    run = go(tmp_path / "steps", schedule="steps:1=0.5,2=0.5")
    assert [r["lr"] for r in run.history] == pytest.approx([0.02, 0.01, 0.005])
    run = go(tmp_path / "function", schedule=lambda epoch: 1 / (1 + epoch))
    assert [r["lr"] for r in run.history] == pytest.approx([0.02, 0.01, 0.02 / 3])
    run = go(tmp_path / "plateau", schedule="plateau:patience=1,times=1,min_delta=1", epochs=4)
    # no error can fall by more than 1 after the first, which counts from infinity
    assert [r["lr"] for r in run.history] == pytest.approx([0.02, 0.02, 0.002, 0.002])


def test_a_function_must_be_given_again(tmp_path):
    go(tmp_path / "run", epochs=1, schedule=lambda epoch: 0.5)
    with pytest.raises(ValueError, match="give the schedule again"):
        go(tmp_path / "run", epochs=2, resume=True)
    run = go(tmp_path / "run", epochs=2, resume=True, schedule=lambda epoch: 0.25)
    assert [r["lr"] for r in run.history] == [0.01, 0.005]


def test_a_schedule_object_serves_two_runs(tmp_path):
    plateau = Plateau(patience=1, times=1, min_delta=1)
    rates = [[r["lr"] for r in go(tmp_path / name, schedule=plateau).history] for name in "ab"]
    assert rates[0] == rates[1] == pytest.approx([0.02, 0.02, 0.002])


def test_a_loaded_model_trains_on(tmp_path):
    first = go(tmp_path / "first")
    frozen = pcn.load(first.out / "last.safetensors")
    frozen.network.configure("conv1", frozen=True)
    run = go(tmp_path / "second", net=frozen, epochs=1)
    np.testing.assert_array_equal(
        run.model.parameters["conv1.weight"], first.model.parameters["conv1.weight"]
    )
    assert (run.model.parameters["fc2.weight"] != first.model.parameters["fc2.weight"]).any()
    assert run.history[0]["train_loss"] < first.history[0]["train_loss"]


def test_zero_epochs_leave_the_initial_parameters(tmp_path):
    run = go(tmp_path / "run", epochs=0)
    for name, value in small().initial(0):
        np.testing.assert_array_equal(run.model.parameters[name], value)
    assert run.history == []
    assert run.best is None


def test_several_costs(tmp_path):
    net = small()
    net.add(Linear(4, init=Normal(0.1)), "side", inputs="conv1").add(
        SoftmaxCrossEntropy(weight=0.5), "sideloss"
    )
    run = go(tmp_path / "run", net=net, epochs=1)
    assert run.history[0]["train_loss"] > 1.3  # 1.5 costs of about log 4


@pytest.mark.kernels
def test_training_on_a_device_agrees_with_cpu(tmp_path, device):
    ours = go(tmp_path / "ours", devices=device.name, epochs=1)
    theirs = go(tmp_path / "theirs", devices="cpu", epochs=1)
    assert ours.history[0]["train_loss"] == pytest.approx(theirs.history[0]["train_loss"], rel=1e-4)
    assert ours.history[0]["validation_loss"] == pytest.approx(theirs.history[0]["validation_loss"], rel=1e-4)
    for name, value in theirs.model.parameters.items():
        np.testing.assert_allclose(ours.model.parameters[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


# ---- showing -----------------------------------------------------------------------------------------------
def test_plain_lines_where_there_is_no_terminal(tmp_path, capsys):
    go(tmp_path / "run", progress=True)
    out = capsys.readouterr().out
    assert "epoch 3/3" in out
    assert "images/s" in out
    assert "validation loss" in out
    assert "left" in out
    assert "\r" not in out


def test_silence_on_request(tmp_path, capfd):
    go(tmp_path / "run", progress=False)
    assert capfd.readouterr() == ("", "")


def test_a_bar_on_a_terminal(tmp_path):
    pty = pytest.importorskip("pty")
    leader, follower = pty.openpty()
    termios = pytest.importorskip("termios")
    fcntl = pytest.importorskip("fcntl")
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    out = str(tmp_path / "run")
    call = f"runs.go(pathlib.Path({out!r}), progress=True, epochs=2, batch_size=8)"
    # Shown at every step, so that the test does not depend on how long an epoch takes.
    often = "log.Progress.interval = 0.0; loop.Trainer._draw = lambda self: None"
    modules = "import pathlib; from support import runs; from pyconvnet.training import log, loop"
    script = f"{modules}; {often}; {call}"
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": python_path()}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=follower, stderr=follower, env=env, cwd=tmp_path
    ) as process:
        os.close(follower)
        text = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:
                break
            if not part:
                break
            text += part
        assert process.wait() == 0
    os.close(leader)
    shown = text.decode()
    bars = [line for line in shown.split("\r") if "█" in line]
    assert bars
    assert all(word in bars[-1] for word in ("epoch", "%", "loss", "error", "images/s", "left"))
    assert "epoch 2/2" in shown


# ---- wrong use ---------------------------------------------------------------------------------------------
def _net(classes=4, recipe=None):
    net = Network("n", (8, 8, 3), recipe)
    return net.add(Linear(classes), "fc").add(SoftmaxCrossEntropy(), "loss")


NAN = float("nan")
BAD = [
    ({"lr": NAN}, ValueError, "lr must be finite, got nan"),
    ({"lr": -0.1}, ValueError, "lr must not be negative"),
    ({"lr": "fast"}, TypeError, "lr must be a number, got str 'fast'"),
    ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\)"),
    ({"momentum": NAN}, ValueError, "momentum must be finite"),
    ({"weight_decay": -1}, ValueError, "weight_decay must not be negative"),
    ({"weight_decay": math.inf}, ValueError, "weight_decay must be finite"),
    ({"epochs": -1}, ValueError, "epochs must be at least 0, got -1"),
    ({"epochs": 1.5}, TypeError, "epochs must be an int"),
    ({"epochs": True}, TypeError, "epochs must be an int"),
    ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    ({"batch_size": "big"}, TypeError, "batch_size must be an int"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"seed": 2**64}, ValueError, r"seed must be below 2\^63"),
    ({"schedule": "cosine"}, ValueError, "schedule must be 'constant'"),
    ({"schedule": 3}, TypeError, "schedule must be a name"),
    ({"schedule": "plateau", "validation": False}, ValueError, "schedule watches the validation error"),
    (
        {"precision": "fp16"},
        ValueError,
        "train: precision must be 'fp32', 'tf32', 'fp32x3' or 'bf16', got 'fp16'",
    ),
    ({"precision": None}, ValueError, "precision must be 'fp32'"),
    (
        {"devices": ["cpu", "cpu"], "replicas": 3},
        ValueError,
        "replicas must divide the number of devices, 2, got 3",
    ),
    ({"replicas": 0}, ValueError, "replicas must be at least 1"),
    ({"hybrid": 1}, TypeError, "hybrid must be True or False, got int 1"),
    ({"devices": ["cpu", "tpu"]}, ValueError, "device must be 'cpu'"),
    ({"devices": []}, ValueError, "devices must name at least one device"),
    ({"devices": "tpu"}, ValueError, "device must be 'cpu'"),
    ({"devices": 0}, TypeError, "device must be a string"),
    ({"resume": "yes"}, ValueError, "resume must be True, False or 'auto'"),
    ({"resume": True}, FileNotFoundError, "nothing to resume"),
    ({"progress": 2}, TypeError, "progress must be True or False"),
    ({"workers": -1}, ValueError, "workers must be at least 0"),
    ({"checkpoint_minutes": -1}, ValueError, "checkpoint_minutes must not be negative"),
    ({"checkpoint_batches": 0}, ValueError, "checkpoint_batches must be at least 1"),
    ({"augment": "flip"}, TypeError, "augment must be a pyconvnet.data.Augmentation"),
    ({"augment": {"flip": True}}, TypeError, "augment"),
    ({"augment": {"crop": 9}}, ValueError, "does not fit into images of 8x8"),
    ({"augment": {"crop": 5}}, ValueError, r"takes images of shape \(8, 8, 3\), the data give \(5, 5, 3\)"),
    ({"out": 3}, TypeError, "out must be a path"),
    ({"model": "lenet"}, ValueError, "model must be one of alexnet"),
    ({"model": 5}, TypeError, "model must be a Network, a Model or a name"),
    ({"model": "alexnet"}, ValueError, "crop 224x224 does not fit into images of 8x8"),
    ({"model": "digits"}, ValueError, r"takes images of shape \(8, 8, 1\), the data give \(8, 8, 3\)"),
    ({"model": _net(classes=3)}, ValueError, "layer 'loss' .*sees 3 classes, the data have 4"),
    ({"model": Network("n", (8, 8, 3)).add(Linear(4))}, ValueError, "no cost to train on"),
    ({"model": _net(recipe={"lr": NAN})}, ValueError, "lr must be finite"),
    ({"model": _net(recipe={"batch_size": 0})}, ValueError, "batch_size must be at least 1"),
    ({"model": _net(recipe={"schedule": "cosine"})}, ValueError, "schedule must be 'constant'"),
    ({"data": "no/such/folder"}, FileNotFoundError, "no/such/folder"),
    ({"data": 7}, TypeError, "data must be"),
    ({"data": (np.zeros((3, 8, 8, 3), np.uint8), np.zeros(2, int))}, ValueError, "labels|y"),
    ({"validation": 1.5}, ValueError, "fraction|share|validation"),
    ({"validation": (np.zeros((3, 9, 9, 3), np.uint8), np.zeros(3, int))}, ValueError, "shape"),
]


@pytest.mark.kernels
def test_precision_reaches_the_products(tmp_path, device):
    """TF32 rounds operands to 11 bits, three TF32 products lose next to nothing."""
    if device.kind == "cuda" and int(device.xp.cuda.Device(device.index).compute_capability) < 80:
        pytest.skip("needs tensor cores with TF32: compute capability 8.0")
    options = {"epochs": 1, "data": toy(60), "batch_size": 16, "devices": device}
    runs = {p: go(tmp_path / p, precision=p, **options) for p in ("fp32", "fp32x3", "tf32")}
    (start,) = events(tmp_path / "tf32", "start")
    assert start["options"]["precision"] == "tf32"
    exact = runs["fp32"].model.parameters["fc2.weight"]
    error = {
        p: np.linalg.norm(run.model.parameters["fc2.weight"] - exact) / np.linalg.norm(exact)
        for p, run in runs.items()
    }
    assert error["fp32"] == 0
    assert 0 < error["fp32x3"] < 1e-5
    assert 1e-6 < error["tf32"] < 1e-2
    assert error["tf32"] > 10 * error["fp32x3"]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[str(o)[:40] for o, _, _ in BAD])
def test_bad_options(tmp_path, options, error, message):
    options = {
        "model": _net(),
        "data": toy(),
        "out": tmp_path / "run",
        "epochs": 1,
        "progress": False,
        "devices": "cpu",
        **options,
    }
    with pytest.raises(error, match=message):
        pcn.train(**options)
    assert not (tmp_path / "run").exists()  # nothing is left behind


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    go(tmp_path / "run", epochs=1)
    before = (tmp_path / "run" / "last.safetensors").read_bytes()
    with pytest.raises(ValueError, match="already holds a run; resume=True"):
        go(tmp_path / "run", epochs=1)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == before
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="out must be a folder"):
        go(tmp_path / "file")


def test_default_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs = [str(go(None, epochs=1).out) for _ in range(3)]
    assert outs == [os.path.join("runs", name) for name in ("small", "small-2", "small-3")]
    assert str(go(None, epochs=2, resume=True).out) == outs[-1]


def test_training_works_outside_the_main_thread(tmp_path):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(go(tmp_path / "run", epochs=1)))
    thread.start()
    thread.join()
    assert len(runs[0].history) == 1


def test_residual_networks_train(tmp_path):
    net = Network("res", (6, 6, 3), {"augment": {"crop": 6, "scale": 0.02}})
    net.add(Conv2d(8, 3, pad=1, activation="relu", init=Normal(0.2)), "a").add(
        Conv2d(8, 3, pad=1, init=Normal(0.1)), "b"
    )
    net.add(Add(), "sum", inputs=["a", "b"]).add(Linear(4, init=Normal(0.1)), "fc").add(
        SoftmaxCrossEntropy(), "loss"
    )
    run = go(tmp_path / "run", net=net)
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]


def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch):
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    build, run, tune, use = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    x, y = toy(120, size=32)
    names = {"pcn": pcn, "x": x, "y": y, "other_data": (x, y)}
    short = "epochs=1, progress=False, devices='cpu'"
    exec(build, names)
    exec(run.replace("epochs=20", short), names)
    exec(tune.replace("lr=0.001", f"lr=0.001, {short}"), names)
    assert {p.name for p in Path("runs").iterdir()} == {"first", "small"}
    mk.image_folder(Path("photos"), ("ant", "bee", "cat", "dog"), count=2)
    exec(re.sub(r"cuda:\d", "cpu", use), {**names, "image": x[0]})
