"""What is left of a run: files, records, the best epoch."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..common.text import reason
from ..trained.model import Model

LAST, BEST, LOG, LOCK = "last.safetensors", "best.safetensors", "log.jsonl", "run.lock"


class NonFiniteLossError(FloatingPointError):
    """The loss or a parameter became NaN or infinite; the message names the first layer that went bad."""


class UnsavedError(OSError):
    """A run ended, but its last checkpoint could not be written.

    Attributes
    ----------
    run : Run or None
        What :func:`pyconvnet.train` would have returned: the model is not lost.
    """

    run: Any = None
    told: str = ""

    def __str__(self) -> str:
        return f"{super().__str__()}; {self.told}" if self.told else super().__str__()


@dataclass
class Run:
    """What :func:`train` returns.

    Attributes
    ----------
    model : Model
        With the parameters at the end. ``pyconvnet.load(run.out)`` gives those of the best epoch.
    history : list of dict
        One record an epoch: epoch (from 1), step, lr, train_loss, train_error, train_topk_error,
        validation_loss, validation_error, validation_topk_error (None without validation), images_per_second,
        seconds.
    out : Path
        Folder with ``last.safetensors``, ``best.safetensors`` and ``log.jsonl``.
    interrupted : bool
        True where Ctrl-C or a termination signal ended the run early; ``resume=True`` goes on.
    stopped_early : bool
        True where ``stop_after`` epochs without gain ended the run.
    """

    model: Model
    history: list[dict[str, Any]]
    out: Path
    interrupted: bool = False
    stopped_early: bool = False

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the best epoch: lowest validation error, or training error where there was no
        validation.
        """
        return min(self.history, key=score, default=None)


def score(record: Mapping[str, Any]) -> tuple[float, float]:
    """Return what an epoch is judged by, lower is better: error, then loss."""
    kind = "train" if record["validation_error"] is None else "validation"
    return record[f"{kind}_error"], record[f"{kind}_loss"]


@contextlib.contextmanager
def warn_on_error(what: str, *but: type[Exception]) -> Iterator[None]:
    """Turn an error inside, unless it is one of those named, into a warning: what is done there adds to a run
    whose model is saved.
    """
    try:
        yield
    except but:
        raise
    except Exception as error:
        warnings.warn(f"train: {what}: {reason(error)}", RuntimeWarning, stacklevel=3)
