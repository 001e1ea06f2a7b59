"""A real file system that fills up and empties again while a run goes on, at random moments: no checkpoint is
ever unreadable, and the run ends in the bits of one with room.
"""

import contextlib
import os
import random
import shutil
import subprocess
import warnings

import pytest
from support.runs import events, go, same_bits

from pyconvnet.trained import checkpoint
from pyconvnet.training.loop import Trainer


@pytest.fixture
def disk(tmp_path):
    """A disk of 128 KB, five times a checkpoint: memory mounted as a file system, which takes root."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


class Ballast:
    """A file beside the run that leaves so many bytes free, or fewer: checkpoints are written meanwhile."""

    def __init__(self, folder):
        self.path = folder / "ballast"

    def leave(self, free):
        self.path.unlink(missing_ok=True)
        room = os.statvfs(self.path.parent)
        size = max(0, room.f_bavail * room.f_frsize - free)
        with contextlib.suppress(OSError):  # what there is room for stays
            self.path.write_bytes(b"x" * size)

    def gone(self):
        self.path.unlink(missing_ok=True)


def fills_up(monkeypatch, disk, seed, share):
    """Before a ``share`` of the steps the disk fills, up to a random rest, or empties; all files are read."""
    rng, ballast, full = random.Random(seed), Ballast(disk), [0]
    real = Trainer._train_batch

    def train_batch(self, batch):
        if rng.random() < share:
            if rng.random() < 0.5:
                ballast.gone()
            else:
                full[0] += 1
                ballast.leave(rng.randrange(0, 40_000))
        checkpoint.read(self.out / "last.safetensors")
        if (self.out / "best.safetensors").exists():
            checkpoint.read(self.out / "best.safetensors")
        if self.epoch == self.settings.epochs - 1:
            ballast.gone()
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)
    return full


def survives(disk, tmp_path, monkeypatch, seed, epochs):
    with monkeypatch.context() as patch, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        full = fills_up(patch, disk, seed, 0.5)
        go(disk / "run", epochs=epochs, checkpoint_batches=1)
    go(tmp_path / f"whole{seed}", epochs=epochs)
    same_bits(tmp_path / f"whole{seed}", disk / "run")
    assert [e["epoch"] for e in events(disk / "run", "train")] == list(range(1, epochs + 1))
    assert not list((disk / "run").glob(".*.tmp"))
    failed = [str(w.message) for w in told if "No space left" in str(w.message)]
    assert all("train: no checkpoint" in text or "train: the log waits" in text for text in failed)
    shutil.rmtree(disk / "run")
    return full[0], len(failed)


def test_a_disk_that_fills_up(disk, tmp_path, monkeypatch):
    full, failed = survives(disk, tmp_path, monkeypatch, 1, 6)
    assert full >= 3
    assert failed >= 1


@pytest.mark.slow
def test_a_disk_that_fills_up_50_times(disk, tmp_path, monkeypatch):
    full = failed = seed = 0
    while full < 50:
        seed += 1
        more, warned = survives(disk, tmp_path, monkeypatch, seed, 8)
        full, failed = full + more, failed + warned
    assert failed >= 10
