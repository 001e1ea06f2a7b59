"""``pyconvnet status``, and where the time of a step goes."""

import json
import os
import time

import pytest
from support.runs import events, go

from pyconvnet.cli.main import main
from pyconvnet.common import files
from pyconvnet.data import Loader
from pyconvnet.training.changes import request
from pyconvnet.training.loop import Trainer
from pyconvnet.training.status import status, text
from pyconvnet.training.times import Times


def test_a_run_that_is_done(tmp_path):
    run = go(tmp_path, checkpoint_batches=3)
    told = status(tmp_path)
    last, best = run.history[-1], run.best
    assert (told["state"], told["holder"], told["seconds_left"]) == ("done", None, None)
    assert (told["network"], told["devices"], told["ranks"]) == ("small", ["cpu"], 1)
    assert (told["epoch"], told["epochs"], told["step"]) == (3, 3, 12)
    assert told["train"]["loss"] == last["train_loss"]
    assert told["validation"]["error"] == last["validation_error"]
    assert told["best"]["epoch"] == best["epoch"]
    assert told["images_per_second"] == last["images_per_second"]
    assert (told["checkpoint"]["step"], told["checkpoint"]["epoch"]) == (12, 3)
    assert 0 <= told["checkpoint"]["age_seconds"] < 60
    assert json.loads(json.dumps(told)) == told


def test_a_run_that_is_running(tmp_path, monkeypatch):
    """Asked from within, in the middle of the second epoch."""
    told = []

    def train_batch(self, batch, real=Trainer._train_batch):
        if self.step == 6:
            self.checkpoints.wait()
            told.append(status(self.out))
            request(self.out, momentum=0.5)
            told.append(status(self.out))
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    go(tmp_path)
    first, second = told
    assert first["state"] == "running"
    assert f"process {os.getpid()} on" in first["holder"]
    assert first["epoch"] == 1
    left = 2 * first["train_images"] / first["images_per_second"]
    assert first["seconds_left"] == pytest.approx(left, abs=0.1)
    assert first["checkpoint"]["step"] == 4
    assert (first["asked"], second["asked"]) == ([], [{"momentum": 0.5}])
    assert "held by process" in text(second)
    assert "momentum=0.5" in text(second)


def test_ends_of_other_kinds(tmp_path):
    go(tmp_path, epochs=1)
    log = tmp_path / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(lines[:-1]) + '\n{"event": "progr')  # killed in the middle of a line
    assert status(tmp_path)["state"] == "killed"
    for reason in ("interrupted", "stopped early", "not finite"):
        log.write_text(
            "\n".join([*lines[:-1], json.dumps({"event": "end", "time": 1, "step": 4, "reason": reason})])
        )
        assert status(tmp_path)["state"] == reason
    (tmp_path / "last.safetensors").write_bytes(b"x" * 100)
    assert "damaged" in status(tmp_path)["checkpoint"]
    assert "is damaged" in text(status(tmp_path))
    (tmp_path / "last.safetensors").unlink()
    assert status(tmp_path)["checkpoint"] is None


def test_no_run(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no run in"):
        status(tmp_path)
    with pytest.raises(TypeError, match="run must be a path, got int"):
        status(3)
    assert main(["status", str(tmp_path)]) == 2
    assert "no run in" in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    go(tmp_path, epochs=2)
    assert main(["status", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for word in ("small on cpu", "done", "2 of 2, step 8", "images/s", "step 8, 0:00:"):
        assert word in output
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 8


def test_asking_who_holds_a_lock_does_not_hold_it(tmp_path):
    path = tmp_path / "run.lock"
    assert files.held_by(path) is None
    path.write_text("{}")  # left by a process that was killed
    assert files.held_by(path) is None
    with files.locked(path, "the run"):
        assert f"process {os.getpid()}" in files.held_by(path)
        assert f"process {os.getpid()}" in files.held_by(path)
    with files.locked(path, "the run"):
        pass


# ---- times -------------------------------------------------------------------------------------------------
def test_the_parts_add_up_to_the_epoch(tmp_path, monkeypatch):
    """And a slow loader, a slow step and a slow copy show where they are slow."""

    def epoch(self, *args, real=Loader.epoch, **options):
        for batch in real(self, *args, **options):
            if self.shuffle:
                time.sleep(0.03)
            yield batch

    def save(self, reason, *best, real=Trainer._save):
        time.sleep(0.02 if reason == "batches" else 0)
        real(self, reason, *best)

    monkeypatch.setattr(Loader, "epoch", epoch)
    monkeypatch.setattr(Trainer, "_save", save)
    go(tmp_path, epochs=2, checkpoint_batches=1)
    for event in events(tmp_path, "train"):
        times = event["times"]
        assert set(times) == {"data", "copy", "compute", "checkpoint", "other"}
        assert times["data"] >= 0.12
        assert times["checkpoint"] >= 0.08
        images = 120 / event["images_per_second"]
        assert sum(times.values()) == pytest.approx(images, rel=0.2, abs=0.02)
        assert times["compute"] > 0
        assert times["copy"] > 0


def test_laps():
    times = Times()
    time.sleep(0.01)
    times.lap("data")
    times.lap("compute")
    seconds = times.seconds()
    assert seconds["data"] >= 0.01
    assert seconds["compute"] < seconds["data"]
    times.begin()
    assert sum(times.seconds().values()) == 0
