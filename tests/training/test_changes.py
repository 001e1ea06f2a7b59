"""``pyconvnet set``: values changed by hand in the middle of a run, which goes on to the same bits from any
checkpoint.
"""

import importlib
import json
import re
import threading

import numpy as np
import pytest
from support.mpi_jobs import World
from support.runs import events, go, same_bits

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.trained import checkpoint
from pyconvnet.training import changes
from pyconvnet.training.changes import JOURNAL, Changes, request
from pyconvnet.training.loop import Trainer


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Look for requests after every step, not every half second."""
    monkeypatch.setattr(changes, "_LOOK_SECONDS", 0.0)


def ask_at(monkeypatch, asked, stop=None):
    """Ask for ``asked[step]`` during that step, once; stop dead before step ``stop``."""
    real, asked = Trainer._train_batch, dict(asked)

    def train_batch(self, batch):
        if self.step == stop:
            raise Stop
        if self.ranks.main and (values := asked.pop(self.step, None)):
            request(self.out, **values)
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)


ASKED = {2: {"lr": 0.005}, 6: {"lr": 0.002, "momentum": 0.5}, 7: {"weight_decay": 0.01}}


def changed(folder, **options):
    """The run in which ``ASKED`` was asked for, never stopped."""
    with pytest.MonkeyPatch.context() as patch:
        ask_at(patch, ASKED)
        return go(folder, **options)


def test_a_change_acts_from_the_next_step_on(tmp_path, monkeypatch):
    """And the schedule goes on multiplying."""
    told = []
    real = Trainer._train_batch

    def train_batch(self, batch):
        hyper = self.plan.hyper.tolist()
        told.append((self.step, *hyper, self.plan.shards[0].weight_decay.max()))
        if self.step == 2:
            request(self.out, lr=0.005)
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    run = go(tmp_path, schedule=[(2, 0.1)])
    rates = [rate for _, rate, _, _ in told]
    np.testing.assert_allclose(rates, [0.02] * 3 + [0.005] * 5 + [0.0005] * 4, rtol=1e-6)
    assert [record["lr"] for record in run.history] == [0.005, 0.005, pytest.approx(0.0005)]
    (event,) = events(tmp_path, "set")
    assert (event["step"], event["lr"], event["rate"]) == (3, 0.005, 0.005)


def test_all_that_can_be_changed(tmp_path, monkeypatch):
    told = {}
    ask_at(monkeypatch, {1: {"lr": 0.004, "momentum": 0.25, "weight_decay": 0.125}})
    real = Trainer._save

    def save(self, reason, *best):
        told[self.step] = (*self.plan.hyper.tolist(), float(self.plan.shards[0].weight_decay.max()))
        real(self, reason, *best)

    monkeypatch.setattr(Trainer, "_save", save)
    go(tmp_path, epochs=1)
    assert told[4] == pytest.approx((0.004, 0.25, 0.125), rel=1e-6)


@pytest.mark.parametrize("stop", [2, 3, 5, 7, 8, 11])
def test_a_resumed_run_makes_the_same_changes_at_the_same_steps(tmp_path, monkeypatch, stop):
    """Those of after its checkpoint too, of which the journal tells."""
    changed(tmp_path / "whole")
    with monkeypatch.context() as patch:
        ask_at(patch, ASKED, stop)
        with pytest.raises(Stop):
            go(tmp_path / "cut")
    with monkeypatch.context() as patch:  # what had not been asked for yet
        ask_at(patch, {step: values for step, values in ASKED.items() if step >= stop})
        go(tmp_path / "cut", resume=True)
    same_bits(tmp_path / "whole", tmp_path / "cut")
    told = [[(e["step"], e["rate"]) for e in events(tmp_path / name, "set")] for name in ("whole", "cut")]
    assert told[0] == told[1] == [(3, 0.005), (7, 0.002), (8, 0.002)]
    assert not list(tmp_path.rglob("set-*"))


def test_a_restart_script_that_repeats_the_first_rate_changes_nothing(tmp_path, monkeypatch):
    """Another rate given anew does."""
    changed(tmp_path / "whole")
    with monkeypatch.context() as patch:
        ask_at(patch, ASKED, 9)
        with pytest.raises(Stop):
            go(tmp_path / "cut", lr=0.02)
    go(tmp_path / "cut", resume="auto", lr=0.02)
    same_bits(tmp_path / "whole", tmp_path / "cut")
    run = go(tmp_path / "cut", resume="auto", lr=0.01, epochs=4)
    assert run.history[-1]["lr"] == 0.01
    state = checkpoint.read(tmp_path / "cut" / "last.safetensors")[1]
    assert [c.get("lr") for c in state["changes"]] == [None, None, None]
    assert [c.get("momentum") for c in state["changes"]] == [None, 0.5, None]
    assert go(tmp_path / "cut", resume="auto", lr=None, epochs=5).history[-1]["lr"] == 0.01  # and stays so


def test_without_the_journal_the_checkpoint_tells(tmp_path):
    changed(tmp_path / "run")
    (tmp_path / "run" / JOURNAL).unlink()
    assert go(tmp_path / "run", resume=True, epochs=4).history[-1]["lr"] == 0.002


def test_where_nobody_trains_the_next_resume_takes_it_up(tmp_path):
    go(tmp_path, epochs=1)
    assert request(tmp_path, lr=0.5) is None
    assert request(tmp_path, lr=0.004, momentum=0.1) is None  # the last word counts
    run = go(tmp_path, epochs=2, resume=True)
    assert run.history[-1]["lr"] == 0.004
    (event,) = events(tmp_path, "set")
    assert (event["step"], event["lr"], event["momentum"]) == (4, 0.004, 0.1)
    assert not list(tmp_path.glob("set-*"))


def test_a_new_request_undoes_later_ones_of_before(tmp_path, monkeypatch):
    """Back at the checkpoint of step 4, the user wants another rate; that of step 7 does not return."""
    with monkeypatch.context() as patch:
        ask_at(patch, {6: {"lr": 0.002, "momentum": 0.5}}, stop=7)
        with pytest.raises(Stop):
            go(tmp_path)
    request(tmp_path, lr=0.003)
    go(tmp_path, resume=True)
    told = [(e["step"], e.get("lr"), e.get("momentum")) for e in events(tmp_path, "set")]
    assert told == [(4, 0.003, None), (7, None, 0.5)]


def test_killed_between_journal_and_request(tmp_path, monkeypatch):
    """The request is still there, but known: it is not taken up twice."""
    go(tmp_path, epochs=1)
    request(tmp_path, lr=0.004)
    (path,) = tmp_path.glob("set-*")
    content = path.read_bytes()
    taken, wrong = Changes(tmp_path, []).take(4)
    assert not wrong
    path.write_bytes(content)
    again = Changes(tmp_path, taken)
    assert again.take(5) == (taken, [])
    assert not path.exists()
    assert again.at(3) == {}
    assert again.at(4) == {"lr": 0.004}


def test_no_room_for_the_journal(tmp_path, monkeypatch):
    """Nothing changes; the request waits."""
    real = changes.files.write_atomically
    full = []

    def write(path, data):
        if full and path.name == JOURNAL:
            raise OSError(28, "No space left on device", str(path))
        return real(path, data)

    monkeypatch.setattr(changes.files, "write_atomically", write)
    seen, train_batch = [], Trainer._train_batch

    def step(self, batch):
        full[:] = [True] if self.step < 6 else []
        if self.step == 1:
            request(self.out, lr=0.004)
        seen.append(self.plan.hyper.tolist()[0])
        train_batch(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", step)
    with pytest.warns(RuntimeWarning, match="no change yet: .*No space left"):
        go(tmp_path, epochs=2)
    np.testing.assert_allclose(seen, [0.02] * 7 + [0.004], rtol=1e-6)


@pytest.mark.parametrize("text", [b"{", b'{"lr": -1}', b'{"batch_size": 3}', b"[]"])
def test_an_odd_request_is_thrown_away_and_told(tmp_path, text):
    go(tmp_path, epochs=1)
    (tmp_path / "set-0-0.json").write_bytes(text)
    assert go(tmp_path, epochs=2, resume=True).history[-1]["lr"] == 0.02
    (event,) = events(tmp_path, "warning")
    assert "thrown away: set-0-0.json" in event["message"]
    assert not (tmp_path / "set-0-0.json").exists()


def test_a_damaged_journal_is_named(tmp_path):
    changed(tmp_path, epochs=1)
    (tmp_path / JOURNAL).write_text('[{"step": -1, "requests": []}]')
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / JOURNAL} is damaged")):
        go(tmp_path, resume=True, epochs=2)


def test_ranks_change_together(tmp_path, monkeypatch):
    changed(tmp_path / "one")
    ask_at(monkeypatch, ASKED)
    here = threading.local()
    monkeypatch.setattr(importlib.import_module("pyconvnet.training.train"), "current", lambda: here.ranks)

    def rank(ranks):
        here.ranks = ranks
        return go(tmp_path / "run")

    runs = World(2).run(rank)
    told = [[(e["step"], e["rate"]) for e in events(tmp_path / name, "set")] for name in ("one", "run")]
    assert told[0] == told[1]
    for name, value in pcn.load(tmp_path / "one" / "last.safetensors").parameters.items():
        for run in runs:
            np.testing.assert_allclose(run.model.parameters[name], value, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["batch_size=3"], "'batch_size' cannot be changed in a run; these can: lr, momentum, weight_decay"),
        (["lr=-1"], "lr must not be negative, got -1"),
        (["lr=fast"], "lr must be a number"),
        (["momentum=2"], "momentum must be"),
        (["lr"], "must be NAME=VALUE"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path, capsys, typed, message):
    go(tmp_path, epochs=1)
    assert main(["set", str(tmp_path), *typed]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("set-*"))


def test_the_command(tmp_path, capsys):
    assert main(["set", str(tmp_path / "none"), "lr=1"]) == 2
    assert "set: no run in" in capsys.readouterr().err
    go(tmp_path / "run", epochs=1)
    assert main(["set", str(tmp_path / "run"), "lr=0.001", "momentum=0.8"]) == 0
    assert (
        "lr=0.001, momentum=0.8: nobody trains there; the next resume takes it up" in capsys.readouterr().out
    )
    (path,) = (tmp_path / "run").glob("set-*")
    assert json.loads(path.read_text()) == {"lr": 0.001, "momentum": 0.8}
