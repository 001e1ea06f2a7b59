"""A run's folder: which one, held by one process at a time, and what there is in it to go on with."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common import files
from . import resume as resuming
from .resume import Saved
from .run import BEST, LAST, LOCK


@contextlib.contextmanager
def opened(out: Any, resume: bool | str, name: str) -> Iterator[tuple[Path, Saved | None]]:
    """Open the run's folder, held alone inside, and what there is in it to resume.

    A run that ends before its first checkpoint leaves a log at most: that is no run. Folders made here that
    are still empty in the end are removed.

    Raises
    ------
    ValueError
        There is a run, but none is to be resumed; the reverse is a FileNotFoundError.
    LockedError
        Another process trains there.
    """
    if out is not None and not isinstance(out, (str, Path)):
        raise TypeError(f"train: out must be a path, got {type(out).__name__}")
    while True:
        folder = _default_folder(name, bool(resume)) if out is None else Path(out).expanduser()
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"train: out must be a folder, {folder} is a file")
        if resume is True and not (folder / LAST).is_file():
            raise FileNotFoundError(
                f"train: nothing to resume: {folder / LAST} does not exist; "
                "resume='auto' (--resume auto) begins where there is nothing"
            )
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        try:
            with files.naming(folder):
                folder.mkdir(parents=True, exist_ok=out is not None or bool(resume))
            break
        except FileExistsError:
            if out is not None or resume:
                raise  # else: another process has just taken this number
    with contextlib.ExitStack() as stack:
        for place in reversed(made):
            stack.callback(_remove_empty, place)
        stack.enter_context(files.locked(folder / LOCK, f"train: {folder}"))
        yield folder, _saved(folder, resume)


def _saved(folder: Path, resume: bool | str) -> Saved | None:
    last, best = folder / LAST, folder / BEST
    if resume and last.is_file():
        return resuming.read(last)
    if last.exists():
        raise ValueError(
            f"train: out={str(folder)!r} already holds a run; "
            "resume=True goes on with it, or name another folder"
        )
    if best.exists():
        raise ValueError(
            f"train: {best} is a model without the state of a run, {LAST}: no run can go on from it, "
            "and it is not overwritten; move it, or name another folder"
        )
    return None


def _remove_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


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
