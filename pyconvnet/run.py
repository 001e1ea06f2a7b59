"""A run's folder and what is left of the run: files, records, the best epoch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import checkpoint
from .model import Model

LAST, BEST, LOG = "last.safetensors", "best.safetensors", "log.jsonl"


class NonFiniteLossError(FloatingPointError):
    """The loss or a parameter became NaN or infinite; the message names the first layer that went bad."""


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
    """What an epoch is judged by, lower is better: error, then loss."""
    kind = "train" if record["validation_error"] is None else "validation"
    return record[f"{kind}_error"], record[f"{kind}_loss"]


def open_folder(out: Any, resume: bool | str, name: str) -> tuple[Path, Any]:
    """Find the run's folder, and (model, state, arrays) of the run to resume or None."""
    if out is not None and not isinstance(out, (str, Path)):
        raise TypeError(f"train: out must be a path, got {type(out).__name__}")
    folder = _default_folder(name, bool(resume)) if out is None else Path(out).expanduser()
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"train: out must be a folder, {folder} is a file")
    last = folder / LAST
    if resume and last.is_file():
        model, state, arrays = checkpoint.read(last)
        if state is None:
            raise checkpoint.CheckpointError(f"train: {last} holds a model, but no state of a run to resume")
        return folder, (model, state, arrays)
    if resume is True:
        raise FileNotFoundError(f"train: nothing to resume: {last} does not exist")
    for present in (LAST, LOG):
        if (folder / present).exists():
            raise ValueError(
                f"train: out={str(folder)!r} already holds a run; "
                "resume=True goes on with it, or name another folder"
            )
    return folder, None


def _default_folder(name: str, resume: bool) -> Path:
    base = Path("runs")
    numbered = [base / name]
    if resume:
        if base.is_dir():
            numbered += [p for p in base.iterdir() if re.fullmatch(re.escape(name) + r"-\d+", p.name)]
        held = [p for p in numbered if (p / LAST).is_file()]
        return max(held, key=lambda p: (p / LAST).stat().st_mtime, default=base / name)
    number = 1
    while numbered[0].exists():
        number += 1
        numbered[0] = base / f"{name}-{number}"
    return numbered[0]
