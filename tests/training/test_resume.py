"""Stopping and going on: the same bits after any interruption, no bad checkpoint, clear errors."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from support.networks import plain
from support.runs import events, go, python_path, same_bits, small, toy

import pyconvnet as pcn
from pyconvnet.common.devices import Device
from pyconvnet.data import Augmentation
from pyconvnet.plan import Plan
from pyconvnet.trained import checkpoint
from pyconvnet.training import loop as trainer
from pyconvnet.training.loop import Trainer


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


def read_from(monkeypatch):
    """What each step reads: (epoch, indices), as it goes."""
    read, real = [], Trainer._train_batch

    def train_batch(self, batch):
        read.append((self.epoch, list(batch.indices)))
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    return read


@pytest.mark.parametrize("at", [4, 5, 7])
@pytest.mark.parametrize(("first", "second"), [(32, 20), (32, 200), (25, 40)])
def test_another_batch_size_goes_on_at_the_same_example(tmp_path, monkeypatch, at, first, second):
    """Each image once an epoch, in the epoch's order; the epoch's figures are over all of them."""
    still = {
        "lr": 0,
        "net": small(dropout=False),
        "data": toy(size=6),
        "augment": {"mean": None, "scale": 0.02},
    }
    read, real = [], Trainer._train_batch

    def train_batch(self, batch):
        read.append((self.epoch, batch.indices))
        if self.step == at and self.out.name == "run" and self.saved is None:
            raise Stop
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    whole = go(tmp_path / "whole", batch_size=first, **still)
    order = [np.concatenate([i for e, i in read if e == epoch]) for epoch in range(3)]
    with pytest.raises(Stop):
        go(tmp_path / "run", batch_size=first, checkpoint_batches=1, **still)
    read.clear()
    run = go(tmp_path / "run", resume=True, batch_size=second, **still)
    epoch, batches = divmod(at, -(-len(order[0]) // first))
    for number in range(epoch, 3):
        parts = [i for e, i in read if e == number]
        rest = order[number][batches * first if number == epoch else 0 :]
        np.testing.assert_array_equal(np.concatenate(parts), rest)
        assert {len(part) for part in parts[:-1]} <= {second}
    assert run.history[-1]["step"] == at + len(read)
    for one, other in zip(run.history, whole.history, strict=True):  # nothing is learnt: the same figures
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
        assert one["train_error"] == other["train_error"]
    assert [e["options"]["batch_size"] for e in events(tmp_path / "run", "start")] == [first, second]


def test_a_new_batch_size_is_kept_and_momenta_are_not_touched(tmp_path):
    go(tmp_path / "run", epochs=1)
    before = checkpoint.read(tmp_path / "run" / "last.safetensors")[2]
    go(tmp_path / "run", epochs=1, resume=True, batch_size=8)
    assert [e["event"] for e in events(tmp_path / "run")][-2:] == ["start", "end"]
    go(tmp_path / "run", epochs=2, resume=True, batch_size=8)
    run = go(tmp_path / "run", epochs=3, resume=True, batch_size=None)
    assert [r["step"] for r in run.history] == [4, 4 + 15, 4 + 15 + 15]
    assert any(np.any(a) for name, a in before.items() if name.startswith("momentum/"))


def test_a_checkpoint_of_before_counts_in_batches(tmp_path, monkeypatch):
    """Earlier versions kept the position as a number of batches."""
    go(tmp_path / "whole")
    real = Trainer._save

    def save(self, reason, *best):
        real(self, reason, *best)
        if self.step == 6:
            raise Stop

    monkeypatch.setattr(Trainer, "_save", save)
    with pytest.raises(Stop):
        go(tmp_path / "run", checkpoint_batches=1)
    monkeypatch.undo()
    path = tmp_path / "run" / "last.safetensors"
    model, state, arrays = checkpoint.read(path)
    assert state.pop("examples") == 64
    checkpoint.write(path, model, {**state, "batch": 2}, arrays)
    go(tmp_path / "run", resume=True)
    same_bits(tmp_path / "whole", tmp_path / "run")


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


@pytest.mark.parametrize("how", [{}, {"replicas": 2}, {"replicas": 2, "hybrid": True}], ids=str)
def test_a_run_moves_to_two_devices_and_back(tmp_path, how):
    go(tmp_path / "run", epochs=1, devices=["cpu", "cpu"], **how)
    go(tmp_path / "run", epochs=2, resume=True)
    run = go(tmp_path / "run", epochs=3, resume=True, devices=["cpu", "cpu"], **how)
    whole = go(tmp_path / "whole", epochs=3)
    for name, value in whole.model.parameters.items():
        np.testing.assert_allclose(run.model.parameters[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
    starts = events(tmp_path / "run", "start")
    assert [e["devices"] for e in starts] == [["cpu", "cpu"], ["cpu"], ["cpu", "cpu"]]
    assert [e["hybrid"] for e in starts] == [how.get("hybrid", False), False, how.get("hybrid", False)]


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


def _start(out, **options):
    script = f"""
        import pathlib
        from support import runs
        run = runs.go(pathlib.Path({str(out)!r}), **{options!r})
        print("interrupted" if run.interrupted else "done", flush=True)
    """
    env = {**os.environ, "PYTHONPATH": python_path()}
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


LONG = {"epochs": 300, "checkpoint_batches": 1, "schedule": "plateau:patience=5"}


def test_kill_9_and_resume_end_in_the_same_bits(tmp_path):
    out = tmp_path / "cut"
    for step in (7, 30):
        process = _start(out, resume="auto", **LONG)
        _wait_for_step(out, step, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    step = checkpoint.read(out / "last.safetensors")[1]["step"]
    options = {**LONG, "epochs": step // 4 + 2}
    go(out, resume=True, **options)
    go(tmp_path / "whole", **options)
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


# ---- refusing ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net": plain()}, "trained another network: 'small', got 'plain'"),
        ({"net": small(dropout=False)}, "trained another network"),
        ({"net": "digits"}, "trained another network: 'small', got 'digits'"),
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
    monkeypatch.setattr(trainer, "steps_between_checks", lambda device: 1000)
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
    assert (trainer.steps_between_checks(cpu), trainer.steps_between_checks(gpu)) == (1, 50)
    monkeypatch.setenv("PYCONVNET_SYNC", "1")
    assert trainer.steps_between_checks(gpu) == 1


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
