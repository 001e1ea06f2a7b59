"""train(): learning, log, checkpoints, resuming to the same bits, interruption, errors."""

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from networks import plain

import pyconvnet as pcn
from pyconvnet import checkpoint, trainer
from pyconvnet.data import Augmentation
from pyconvnet.devices import Device
from pyconvnet.layers import Add, Conv2d, Dropout, Linear, Normal, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.optim import Plateau
from pyconvnet.plan import Plan
from pyconvnet.train import train as train_function
from pyconvnet.trainer import Trainer


@pytest.fixture(autouse=True)
def no_drawing(request, monkeypatch):
    """Curves take longer to draw than most of these runs to train."""
    if "curves" not in request.node.name:
        monkeypatch.setattr(Trainer, "_draw", lambda self: None)


def toy(n=150, size=8, classes=4, seed=0):
    """Images whose class is the quadrant that is bright: learnable, with some noise."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 120, (n, size, size, 3))
    y = rng.integers(classes, size=n)
    half = size // 2
    for image, label in zip(x, y, strict=True):
        r, c = divmod(int(label), 2)
        image[r * half : (r + 1) * half, c * half : (c + 1) * half] += 100
    return x.astype(np.uint8), y


def small(dropout=True):
    """A net with dropout, so that resuming must restore the random numbers too."""
    net = Network("small", (6, 6, 3), {"augment": {"crop": 6, "mirror": True, "pca": 0.1, "scale": 0.02}})
    net.add(Conv2d(6, 3, pad=1, activation="relu", init=Normal(0.2)), "conv1")
    net.add(Linear(16, activation="relu", init=Normal(0.1)), "fc2")
    if dropout:
        net.add(Dropout(0.3), "drop2")
    return net.add(Linear(4, init=Normal(0.2)), "fc3").add(SoftmaxCrossEntropy(topk=2), "loss")


def go(out, net=None, data=None, **options):
    data = toy() if data is None else data
    options = {
        "epochs": 3,
        "batch_size": 32,
        "lr": 0.02,
        "progress": False,
        "devices": "cpu",
        "validation": 0.2,
        **options,
    }
    return pcn.train(small() if net is None else net, data, out=out, **options)


def events(out, kind=None):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if kind in (None, line["event"])]


def same_bits(one, two):
    (a, state_a, arrays_a), (b, state_b, arrays_b) = (
        checkpoint.read(p / "last.safetensors") for p in (one, two)
    )
    assert (state_a["step"], state_a["epoch"], state_a["batch"]) == (
        state_b["step"],
        state_b["epoch"],
        state_b["batch"],
    )
    for name, value in a.parameters.items():
        np.testing.assert_array_equal(value, b.parameters[name], err_msg=name)
    assert arrays_a.keys() == arrays_b.keys()
    for name, value in arrays_a.items():
        np.testing.assert_array_equal(value, arrays_b[name], err_msg=name)
    timing = ("seconds", "images_per_second")
    plain_a, plain_b = (
        [{k: v for k, v in r.items() if k not in timing} for r in s["history"]] for s in (state_a, state_b)
    )
    assert plain_a == plain_b
    best_a, best_b = (pcn.load(p / "best.safetensors") for p in (one, two))
    for name, value in best_a.parameters.items():
        np.testing.assert_array_equal(value, best_b.parameters[name])


# ---- learning ----------------------------------------------------------------------------------------------
def test_train_is_the_function_whatever_was_imported():
    assert pcn.train is train_function
    assert callable(pcn.train)


def test_digits_are_learned(tmp_path):
    run = pcn.train("digits", "digits", epochs=8, out=tmp_path, devices="cpu", progress=False)
    assert run.best["validation_error"] <= 0.02
    assert len(run.history) == 8
    assert run.model.classes == [str(i) for i in range(10)]


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


def test_a_run_leaves_curves(tmp_path):
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
    call = f"test_train.go(pathlib.Path({out!r}), progress=True, epochs=4, batch_size=1)"
    script = f"import test_train, pathlib; {call}"
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "PYTHONPATH": _path()}
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
    assert "epoch 4/4" in shown


# ---- resuming ----------------------------------------------------------------------------------------------
class Stop(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 11])
def test_resuming_ends_in_the_same_bits(tmp_path, monkeypatch, at):
    """Stopped dead after any step, with checkpoints every other batch; the schedule watches the validation
    error.
    """
    options = {"schedule": "plateau:patience=1", "checkpoint_batches": 2, "epochs": 3}
    go(tmp_path / "whole", **options)
    real = Trainer._train_batch

    def train_batch(self, batch):
        if self.step == at:
            raise Stop
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    with pytest.raises(Stop):
        go(tmp_path / "cut", **options)
    monkeypatch.undo()
    stopped_at = checkpoint.read(tmp_path / "cut" / "last.safetensors")[1]["step"]
    assert at - 2 <= stopped_at <= at
    run = go(tmp_path / "cut", resume=True, **options)
    assert run.history[-1]["epoch"] == 3
    same_bits(tmp_path / "whole", tmp_path / "cut")
    steps = [e["step"] for e in events(tmp_path / "cut", "train")]
    assert steps == [4, 8, 12]  # the log tells the story once
    assert [e["resumed"] for e in events(tmp_path / "cut", "start")] == [False, True]


def test_resume_takes_the_runs_own_options(tmp_path):
    go(tmp_path / "whole", epochs=4, schedule=[(3, 0.1)], momentum=0.8, seed=7)
    go(tmp_path / "cut", epochs=2, schedule=[(3, 0.1)], momentum=0.8, seed=7)
    pcn.train(
        small(),
        toy(),
        validation=0.2,
        out=tmp_path / "cut",
        resume=True,
        epochs=4,
        progress=False,
        devices="cpu",
    )
    same_bits(tmp_path / "whole", tmp_path / "cut")


def test_rates_of_layers_may_change_when_a_run_goes_on(tmp_path):
    """As the run of 2012 did by hand: its first layer slowed down and stopped near the end."""
    first = go(tmp_path / "run", epochs=1)
    net = small().configure("conv1", frozen=True).configure("fc2", lr_mult=0.1)
    net.recipe.clear()
    run = go(tmp_path / "run", net=net, epochs=2, resume=True)
    for name, value in run.model.parameters.items():
        same = np.array_equal(value, first.model.parameters[name])
        assert same == name.startswith("conv1"), name
    assert run.model.network["conv1"].layer.frozen


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    go(tmp_path / "run")
    before = pcn.load(tmp_path / "run" / "last.safetensors")
    run = go(tmp_path / "run", resume=True)
    assert len(run.history) == 3
    for name, value in before.parameters.items():
        np.testing.assert_array_equal(run.model.parameters[name], value)


@pytest.mark.kernels
def test_a_run_moves_to_another_device(tmp_path, device):
    go(tmp_path / "run", epochs=1)
    go(tmp_path / "run", epochs=2, resume=True, devices=device.name)
    run = go(tmp_path / "run", epochs=3, resume=True)
    whole = go(tmp_path / "whole", epochs=3)
    for name, value in whole.model.parameters.items():
        np.testing.assert_allclose(run.model.parameters[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


def test_auto_resume(tmp_path):
    first = go(tmp_path / "run", resume="auto", epochs=2)
    assert not events(first.out, "start")[0]["resumed"]
    go(tmp_path / "run", resume="auto", epochs=3)
    go(tmp_path / "whole", epochs=3)
    same_bits(tmp_path / "whole", tmp_path / "run")


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path):
    go(tmp_path / "run", epochs=2)
    with open(tmp_path / "run" / "log.jsonl", "a") as file:
        file.write('{"event": "train", "st')
    go(tmp_path / "run", epochs=3, resume=True)
    assert [e["epoch"] for e in events(tmp_path / "run", "train")] == [1, 2, 3]


def _path():
    here = os.path.dirname(__file__)
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))


def _start(out, **options):
    script = f"""
        import pathlib, test_train
        run = test_train.go(pathlib.Path({str(out)!r}), **{options!r})
        print("interrupted" if run.interrupted else "done", flush=True)
    """
    env = {**os.environ, "PYTHONPATH": _path()}
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env=env,
        cwd=out.parent,  # not the source tree, whose package would hide the installed one
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _wait_for_step(out, step, process, seconds=60):
    """Until the log tells of a checkpoint at ``step`` or later."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (out / "log.jsonl").exists():
            lines = (out / "log.jsonl").read_text().splitlines()
            if any(
                '"checkpoint"' in line and line.endswith("}") and json.loads(line)["step"] >= step
                for line in lines
            ):
                return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.005)
    raise AssertionError("no checkpoint in time")


LONG = {"epochs": 30, "checkpoint_batches": 1, "schedule": "plateau:patience=5"}


def test_kill_9_and_resume_end_in_the_same_bits(tmp_path):
    out = tmp_path / "cut"
    for step in (7, 60):
        process = _start(out, resume="auto", **LONG)
        _wait_for_step(out, step, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    go(out, resume=True, **LONG)
    go(tmp_path / "whole", **LONG)
    same_bits(tmp_path / "whole", out)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_a_signal_saves_and_ends_cleanly(tmp_path, number):
    out = tmp_path / "cut"
    process = _start(out, **{**LONG, "checkpoint_batches": None, "progress": True, "epochs": 400})
    _wait_for_step(out, 4, process)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 0, text
    assert "interrupted at epoch" in text
    assert "resume=True" in text
    assert text.rstrip().endswith("interrupted")
    assert "Traceback" not in text
    assert events(out)[-1]["event"] == "end"
    assert events(out)[-1]["reason"] == "interrupted"
    step = checkpoint.read(out / "last.safetensors")[1]["step"]
    assert step == events(out)[-1]["step"]
    epochs = step // 4 + 2
    go(out, resume=True, **{**LONG, "epochs": epochs})
    go(tmp_path / "whole", **{**LONG, "epochs": epochs})
    same_bits(tmp_path / "whole", out)


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    go(tmp_path / "run", epochs=1)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- going bad ---------------------------------------------------------------------------------------------
def test_a_diverging_run_names_the_layer_and_keeps_the_good_checkpoint(tmp_path):
    with np.errstate(all="ignore"), pytest.raises(pcn.NonFiniteLossError) as caught:
        go(tmp_path / "run", lr=1e6, epochs=50, checkpoint_batches=1)
    text = str(caught.value)
    assert isinstance(caught.value, FloatingPointError)
    assert "first bad: the " in text
    assert any(f"layer '{name}'" in text for name in ("conv1", "fc2", "fc3"))
    assert "epoch 1" in text
    saved = pcn.load(tmp_path / "run" / "last.safetensors")
    assert all(np.isfinite(v).all() for v in saved.parameters.values())
    assert events(tmp_path / "run")[-1]["reason"] == "not finite"


@pytest.mark.parametrize("layer", ["conv1", "fc3"])
def test_the_first_bad_layer_is_the_one_that_went_bad(tmp_path, monkeypatch, layer):
    real = Trainer._train_batch

    def poison(self, batch):
        if self.step == 5:
            self.plan.parameters[f"{layer}.bias"][1] = np.nan
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", poison)
    with (
        np.errstate(all="ignore"),
        pytest.raises(
            pcn.NonFiniteLossError, match=f"the parameters of layer '{layer}'.*step 6|step 6.*layer '{layer}'"
        ),
    ):
        go(tmp_path / "run", checkpoint_batches=1)
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] == 5


def test_a_gradient_that_goes_bad_does_no_harm(tmp_path, monkeypatch):
    """The loss is still finite: the parameters are left as they were, and the layer is named."""
    real = Plan.backward

    def poison(self, n=None):
        real(self, n)
        if self.steps == 6:
            self.parameter_gradients["fc2.weight"][0, 0] = np.inf

    monkeypatch.setattr(Plan, "backward", poison)
    with pytest.raises(pcn.NonFiniteLossError, match=r"step 7: .* the gradient of layer 'fc2'"):
        go(tmp_path / "run", checkpoint_batches=1)
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] == 6


def test_rarer_checks_save_nothing_bad_either(tmp_path, monkeypatch):
    """As on a GPU, where steps are not waited for: noticed later, still before anything is saved."""
    monkeypatch.setattr(trainer, "_check_every", lambda device: 1000)
    real = Trainer._train_batch

    def poison(self, batch):
        if self.step == 5:
            self.plan.parameters["fc3.bias"][1] = np.nan
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", poison)
    with np.errstate(all="ignore"), pytest.raises(pcn.NonFiniteLossError, match=r"PYCONVNET_SYNC=1") as error:
        go(tmp_path / "run")
    assert "epoch 2" in str(error.value)
    saved = pcn.load(tmp_path / "run" / "last.safetensors")
    assert saved.info["step"] == 4
    assert all(np.isfinite(v).all() for v in saved.parameters.values())


def test_every_step_is_checked_where_that_is_free(monkeypatch):
    cpu, gpu = pcn.get_device("cpu"), Device("cuda", 0, None, None)
    monkeypatch.delenv("PYCONVNET_SYNC", raising=False)
    assert (trainer._check_every(cpu), trainer._check_every(gpu)) == (1, 50)
    monkeypatch.setenv("PYCONVNET_SYNC", "1")
    assert trainer._check_every(gpu) == 1


def test_parameters_that_went_bad_in_the_last_update_are_not_saved(tmp_path, monkeypatch):
    real = Trainer._train_batch

    def poison(self, batch):
        real(self, batch)
        if self.step == 8:  # the end of the second epoch: no further forward pass would notice
            self.plan.momenta["fc2.weight"][0, 0] = np.inf

    monkeypatch.setattr(Trainer, "_train_batch", poison)
    with pytest.raises(pcn.NonFiniteLossError, match="the momenta of layer 'fc2'"):
        go(tmp_path / "run")
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] == 4


# ---- wrong use ---------------------------------------------------------------------------------------------
def _net(classes=4, recipe=None):
    net = Network("n", (8, 8, 3), recipe)
    return net.add(Linear(classes), "fc").add(SoftmaxCrossEntropy(), "loss")


NAN = float("nan")
BAD = [
    ({"lr": NAN}, ValueError, "lr must be finite, got nan"),
    ({"lr": -0.1}, ValueError, "lr must not be negative"),
    ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
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
    ({"precision": "bf16"}, ValueError, "precision must be 'fp32' .*got 'bf16'"),
    ({"precision": "tf32"}, ValueError, "precision must be 'fp32'"),
    ({"precision": None}, ValueError, "precision must be 'fp32'"),
    ({"devices": ["cpu", "cpu"]}, ValueError, "not available yet, got \\['cpu', 'cpu'\\]"),
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": plain()}, "trained another network: 'small', got 'plain'"),
        ({"net": small(dropout=False)}, "trained another network"),
        ({"net": "digits"}, "trained another network: 'small', got 'digits'"),
        ({"batch_size": 16}, "batch_size must stay 32"),
        ({"seed": 5}, "seed must stay 0"),
        ({"augment": Augmentation(crop=6)}, "augment must stay"),
        ({"validation": 0.5}, "not the training images of the run"),
        ({"data": (*toy(seed=1),)}, "not the training images of the run"),
    ],
)
def test_resume_refuses_another_run(tmp_path, change, message):
    go(tmp_path / "run", epochs=1)
    with pytest.raises(ValueError, match=message):
        go(tmp_path / "run", resume=True, **change)


def test_resume_refuses_other_validation_images(tmp_path):
    go(tmp_path / "run", epochs=1, validation=toy(40, seed=1))
    for other in (toy(40, seed=2), False):
        with pytest.raises(ValueError, match="not the validation images of the run"):
            go(tmp_path / "run", epochs=2, resume=True, validation=other)
    go(tmp_path / "run", epochs=2, resume=True, validation=toy(40, seed=1))


def test_resuming_clears_what_a_kill_left_half_written(tmp_path):
    run = go(tmp_path / "run", epochs=1)
    (run.out / ".last.safetensors.12345.tmp").write_bytes(b"half")
    (run.out / ".keep").write_bytes(b"mine")
    go(tmp_path / "run", epochs=2, resume=True)
    names = {p.name for p in run.out.iterdir()}
    assert ".keep" in names
    assert not any(name.endswith(".tmp") for name in names)


def test_training_works_outside_the_main_thread(tmp_path):
    runs = []
    thread = threading.Thread(target=lambda: runs.append(go(tmp_path / "run", epochs=1)))
    thread.start()
    thread.join()
    assert len(runs[0].history) == 1


def test_resume_refuses_damaged_and_stateless_files(tmp_path):
    run = go(tmp_path / "run", epochs=1)
    last = run.out / "last.safetensors"
    whole = last.read_bytes()
    last.write_bytes(whole[:-100])
    with pytest.raises(pcn.CheckpointError, match="damaged"):
        go(tmp_path / "run", resume=True)
    pcn.save(run, last)
    with pytest.raises(pcn.CheckpointError, match="no state of a run to resume"):
        go(tmp_path / "run", resume=True)


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
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text(encoding="utf-8")
    build, run, tune = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    x, y = toy(120, size=32)
    names = {"pcn": pcn, "x": x, "y": y, "other_data": (x, y)}
    short = "epochs=1, progress=False, devices='cpu'"
    exec(build, names)
    exec(run.replace("epochs=20", short), names)
    exec(tune.replace("lr=0.001", f"lr=0.001, {short}"), names)
    assert {p.name for p in Path("runs").iterdir()} == {"first", "small"}
