"""A run and the outside: what it shows (a progress bar on a terminal, plain lines elsewhere), writes down
(``log.jsonl``), and hears (signals).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..common.files import naming, write_atomically

_OF_AN_EPOCH = ("train", "validation", "warning")  # logged when it has ended, before its checkpoint
_LINE_SECONDS = 10.0  # between plain lines where there is no terminal


class Log:
    """``log.jsonl``: one JSON object a line, each with ``event``, ``time`` (seconds since 1970) and ``step``.

    Events: start, kernels, progress (within an epoch), train (a whole epoch), validation, checkpoint,
    warning, end.
    ``path`` None: another rank writes it.
    """

    def __init__(self, path: Path | None):
        self.path = path
        #: Hears of what cannot be written, which then waits for the next call; None: it is raised.
        self.tell: Callable[[OSError], None] | None = None
        #: Also takes every event.
        self.mirror: Any = None
        self._waiting: list[bytes] = []

    def write(self, event: str, **values: Any) -> None:
        """Append one event, or nothing where the disk is full; a killed run loses nothing it wrote."""
        if self.path is None:
            return
        record = {"event": event, "time": round(time.time(), 3), **{k: _finite(v) for k, v in values.items()}}
        if self.mirror is not None:
            self.mirror.add(record)
        self._waiting.append(json.dumps(record).encode() + b"\n")
        error = self.flush()
        if error is not None and self.tell is None:
            self._waiting.clear()
            raise error
        if error is not None:
            self.tell(error)

    def flush(self) -> OSError | None:
        """Append what waits; return why it still does, None where nothing does."""
        if not self._waiting or self.path is None:
            return None
        try:
            self._append(b"".join(self._waiting))
        except OSError as error:
            return error
        self._waiting.clear()
        return None

    def _append(self, lines: bytes) -> None:
        with naming(self.path), open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                with contextlib.suppress(OSError):
                    file.truncate(end)
                raise

    def rewind(self, step: int, epoch: int) -> None:
        """Drop what was logged after ``step`` and after the end of ``epoch`` epochs, and what a kill or a
        crash left of a line: the resumed run logs it again.
        """
        if self.path is None or not self.path.exists():
            return
        with naming(self.path):
            lines = self.path.read_bytes().splitlines()
        kept = [line for line in lines if _is_before(line, step, epoch)]
        write_atomically(self.path, b"".join(line + b"\n" for line in kept))

    def begin(self) -> None:
        """Begin afresh. What a run left that died before its first checkpoint goes; a log that tells of
        checkpoints, which somebody has removed, is kept beside it, as ``log-1.jsonl``.
        """
        if self.path is None or not self.path.exists():
            return
        with naming(self.path):
            if b'"event": "checkpoint"' not in self.path.read_bytes():
                self.path.unlink()
                return
            number = 1
            while (other := self.path.with_name(f"{self.path.stem}-{number}.jsonl")).exists():
                number += 1
            self.path.rename(other)


def _is_before(line: bytes, step: int, epoch: int) -> bool:
    """Tell whether a line of the log is of what a resumed run, which stands at ``step``, will not repeat.

    An epoch's own figures come after its last step: a checkpoint at that step may lie before them.
    """
    try:
        record = json.loads(line)
        finished = record["epoch"] <= epoch or record["event"] not in _OF_AN_EPOCH
        return finished and record["step"] <= step and record["event"] != "end"
    except (ValueError, KeyError, TypeError):
        return False


def _finite(value: Any) -> Any:
    """Replace a number that is not finite by None: JSON knows no NaN, null stands for it."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Progress:
    """Shows how a run goes.

    Parameters
    ----------
    show : bool
        False shows nothing.
    epochs : int
        Epochs of the run, to tell the time left.
    per_epoch : int
        Examples of an epoch.
    """

    def __init__(self, show: bool, epochs: int, per_epoch: int):
        self._show, self._epochs, self._per_epoch = show, epochs, per_epoch
        self._tty = show and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._bar: Any = None
        self._epoch = self._first = self._done = 0
        self._start = self._last = time.perf_counter()

    def note(self, text: str) -> None:
        """Print a line of its own."""
        if not self._show:
            return
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def start_epoch(self, epoch: int, done: int) -> None:
        """Begin epoch ``epoch`` (from 0), ``done`` examples into it."""
        self._epoch, self._first, self._done = epoch, done, done
        self._start = self._last = time.perf_counter()
        if self._tty:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._per_epoch,
                initial=done,
                leave=False,
                dynamic_ncols=True,
                desc=f"epoch {epoch + 1}/{self._epochs}",
                bar_format="{desc} |{bar}| {percentage:3.0f}%{postfix}",
            )

    @property
    def images_per_second(self) -> float:
        """Of the current epoch so far."""
        seconds = time.perf_counter() - self._start
        return (self._done - self._first) / seconds if seconds > 0 else 0.0

    def due(self, every: float) -> bool:
        """Tell whether ``every`` seconds have passed since the figures were last shown."""
        return time.perf_counter() - self._last >= every

    @property
    def interval(self) -> float:
        """Seconds between two showings."""
        return 0.3 if self._tty else _LINE_SECONDS

    def advance(self, examples: int) -> None:
        """Count ``examples`` more as done."""
        self._done += examples

    def show(self, loss: float, error: float) -> None:
        """Show the epoch's figures so far."""
        self._last = time.perf_counter()
        if not self._show:
            return
        speed = self.images_per_second
        left = (self._epochs - self._epoch) * self._per_epoch - self._done
        eta = _duration(left / speed) if speed > 0 else "?"
        text = f"loss {loss:.4f}, error {100 * error:.2f}%, {speed:,.0f} images/s, {eta} left"
        if self._bar is not None:
            self._bar.n = self._done
            self._bar.set_postfix_str(text)
        else:
            share = 100 * self._done / self._per_epoch
            print(f"epoch {self._epoch + 1}/{self._epochs} {share:3.0f}%: {text}", flush=True)

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Close the bar and print the epoch's line."""
        self.close()
        if not self._show:
            return
        parts = [
            f"epoch {record['epoch']}/{self._epochs}",
            f"loss {record['train_loss']:.4f}",
            f"error {100 * record['train_error']:.2f}%",
        ]
        if record.get("validation_error") is not None:
            parts.append(
                f"validation loss {record['validation_loss']:.4f} "
                f"error {100 * record['validation_error']:.2f}%"
            )
        left = self._epochs - record["epoch"]
        parts += [f"lr {record['lr']:.3g}", f"{record['images_per_second']:,.0f} images/s"]
        if left:
            parts.append(f"{_duration(left * record['seconds'])} left")
        print("  ".join(parts), flush=True)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Signals:
    """Inside, the first Ctrl-C or termination signal only sets ``stop``; a second one acts as usual.

    SIGUSR1 counts too: batch systems send it before a job's time is up, and every ``mpirun`` passes it on.
    SIGUSR2 asks for a checkpoint and nothing else, however often.
    Outside the main thread signals cannot be caught, and nothing changes.

    Parameters
    ----------
    patience : float
        Seconds after the first in which further signals change nothing: of several ranks one may hear the
        same Ctrl-C from the terminal and from ``mpirun``.
    """

    def __init__(self, patience: float = 0.0):
        self.stop = False
        self._save = False
        self._patience, self._first = patience, 0.0
        self._previous: dict[int, Any] = {}
        self._usr2: Any = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
                number = getattr(signal, name, None)
                if number is not None:
                    self._previous[number] = signal.signal(number, self._caught)
            if hasattr(signal, "SIGUSR2"):
                self._usr2 = (signal.SIGUSR2, signal.signal(signal.SIGUSR2, self._asked))
        return self

    def take_save(self) -> bool:
        """Tell whether a checkpoint has been asked for since the last call."""
        save, self._save = self._save, False
        return save

    def _asked(self, number: int, frame: Any) -> None:
        self._save = True

    def _caught(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if not self.stop:
            self.stop, self._first = True, now
            if not self._patience:
                self._put_back()
        elif now - self._first >= self._patience:
            self._put_back()
            signal.raise_signal(number)

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def __exit__(self, *_: Any) -> None:
        self._put_back()
        if self._usr2 is not None:
            number, handler = self._usr2
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
            self._usr2 = None


def _duration(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"
