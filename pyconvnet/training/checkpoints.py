"""Checkpoints on their way to the disk: written by a thread while training goes on, at most one at a time.

What the thread writes is a copy that the loop has made between two steps, so it is the run at one step
whatever happens meanwhile. A checkpoint that cannot be written, for want of room say, is told once for every
kind of error and tried again when the next one is due; the one before stays whole.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.text import reason as reason_of
from ..data import Statistics
from ..trained import checkpoint
from ..trained.model import Model
from . import resume as resuming
from .log import Log, Progress
from .run import BEST, LAST, UnsavedError

_NUMBERED = re.compile(r"step-(\d+)\.safetensors")


@dataclass
class Snapshot:
    """A run between two steps, in memory that nobody changes any more.

    Attributes
    ----------
    reason : str
        Why it is saved, for the log.
    model, state, momenta, sums, statistics :
        As :func:`pyconvnet.training.resume.write` takes them.
    best : Model or None
        Goes to ``best.safetensors`` first: the state tells of it.
    release : function
        Called when the arrays are no longer needed.
    """

    reason: str
    model: Model
    state: dict[str, Any]
    momenta: Mapping[str, np.ndarray]
    sums: np.ndarray
    statistics: Statistics | None
    best: Model | None
    release: Callable[[], None]
    seconds: float = field(default=0.0, init=False)  # that writing took


class Checkpoints:
    """The checkpoints of a run, of which the rank that writes files has one.

    Parameters
    ----------
    out : Path
    log, progress : Log, Progress
        Which hear of what has been written, and of what has not.
    keep : int
        Checkpoints kept: ``last.safetensors`` and, from 2 on, the newest ``step-*.safetensors``, of which the
        last is the same file.

    Attributes
    ----------
    error : Exception or None
        Why the newest snapshot is not on disk.
    """

    def __init__(self, out: Path, log: Log, progress: Progress, keep: int = 1):
        self.out, self.keep = out, keep
        self.error: Exception | None = None
        self._log, self._progress = log, progress
        self._told: set[Any] = set()  # kinds of errors, since the last success
        self._best: Model | None = None  # not yet written
        self._step: int | None = None  # of the last one written
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="pyconvnet checkpoint")
        self._written: tuple[Future, Snapshot] | None = None

    def busy(self) -> bool:
        """Tell whether one is being written."""
        return self._written is not None and not self._written[0].done()

    def submit(self, snapshot: Snapshot) -> None:
        """Let a snapshot be written; wait where the one before it still is."""
        self.wait()
        if snapshot.best is None:
            snapshot.best = self._best
        self._best = snapshot.best
        if (error := self._log.flush()) is not None:  # a checkpoint never knows more than the log
            self._failed(error, snapshot)
            return
        self._written = self._pool.submit(self._write, snapshot), snapshot

    def collect(self) -> None:
        """Tell of what has been written since the last call, or why it was not; returns at once."""
        if self._written is None or not self._written[0].done():
            return
        (future, snapshot), self._written = self._written, None
        if (error := future.exception()) is not None:
            if not isinstance(error, Exception):
                raise error
            self._failed(error, snapshot)
            return
        if self.error is not None:
            self._progress.note(f"checkpoints are written again: {self.out / LAST}")
        self.error, self._best = None, None
        self._told.clear()
        self._step = snapshot.state["step"]
        snapshot.release()
        where = {name: snapshot.state[name] for name in ("step", "epoch", "examples")}
        self._log.write(
            "checkpoint", **where, file=LAST, reason=snapshot.reason, seconds=round(snapshot.seconds, 3)
        )

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._written is not None:
            with contextlib.suppress(Exception):  # which collect() tells
                self._written[0].result()
        self.collect()

    def finish(self) -> None:
        """Wait, and raise where the newest snapshot is not on disk.

        Raises
        ------
        UnsavedError
            It could not be written.
        """
        self.wait()
        error = self.error
        if not isinstance(error, OSError):
            if error is not None:
                raise error
            return
        unsaved = UnsavedError(error.errno, error.strerror, error.filename)
        last = "there is no checkpoint before it" if self._step is None else f"step {self._step}'s is whole"
        unsaved.told = (
            f"the run ended with its last checkpoint unsaved, {last} in {self.out / LAST}; "
            "resume=True goes on from what is there"
        )
        raise unsaved from error

    def close(self) -> None:
        """Wait, and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    def began_at(self, step: int) -> None:
        """Take note that the checkpoint of ``step`` is there: the run goes on from it."""
        self._step = step

    # ---- failures ------------------------------------------------------------------------------------------
    def _failed(self, error: Exception, snapshot: Snapshot) -> None:
        self.error = error
        if snapshot.best is not snapshot.model:  # which waits for the next checkpoint
            snapshot.release()
        text = (
            f"no checkpoint at step {snapshot.state['step']}: {reason_of(error)}; training goes on, "
            f"and tries again at the next checkpoint"
        )
        self.warn(error, text, snapshot.state["step"], snapshot.state["epoch"])

    def warn(self, error: Exception, text: str, step: int, epoch: int) -> None:
        """Warn of an error, in the log, on the screen and by Python's warnings, once for each kind until a
        checkpoint has been written.
        """
        kind = getattr(error, "errno", None) or type(error)
        if kind in self._told:
            return
        self._told.add(kind)
        self._log.write("warning", step=step, epoch=epoch, message=text)
        with contextlib.suppress(OSError):  # the screen is gone
            self._progress.note(f"warning: {text}")
        warnings.warn(f"train: {text}", RuntimeWarning, stacklevel=2)

    # ---- in the thread -------------------------------------------------------------------------------------
    def _write(self, snapshot: Snapshot) -> None:
        begin = time.perf_counter()
        if snapshot.best is not None:
            checkpoint.write(self.out / BEST, snapshot.best)
        resuming.write(
            self.out / LAST,
            snapshot.model,
            snapshot.state,
            snapshot.momenta,
            snapshot.sums,
            snapshot.statistics,
        )
        if self.keep > 1:
            self._keep(snapshot.state["step"])
        snapshot.seconds = time.perf_counter() - begin

    def _keep(self, step: int) -> None:
        """Give the checkpoint a name of its own beside ``last.safetensors``, and drop the oldest."""
        path = self.out / f"step-{step:09d}.safetensors"
        path.unlink(missing_ok=True)
        os.link(self.out / LAST, path)
        found = {int(m[1]): p for p in self.out.iterdir() if (m := _NUMBERED.fullmatch(p.name))}
        past = sorted(number for number in found if number <= step)  # others are of another future
        for number in past[: -self.keep]:
            found[number].unlink(missing_ok=True)
