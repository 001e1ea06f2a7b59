"""Learning rate, momentum and weight decay, changed by hand while a run goes on, as the authors did (paper,
section 5: "the learning rate was ... adjusted manually throughout training").

Who asks leaves a small file in the run's folder, ``set-*.json``. The run takes it up between two steps and
notes in ``changes.json`` after which one, before it acts on it: a run that goes on from an older checkpoint
makes the same change at the same step, and ends in the same bits.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..common import files
from ..common.checks import check_number, check_type
from .run import LAST, LOCK
from .settings import RULES

#: What can be changed in the middle of a run.
NAMES = ("lr", "momentum", "weight_decay")
JOURNAL = "changes.json"
_LOOK_SECONDS = 0.5  # between two looks for requests

Change = dict[str, Any]


def request(run: str | Path, **values: float) -> str | None:
    """Ask a run for another learning rate, momentum or weight decay from its next step on.

    Parameters
    ----------
    run : path
        Its folder.
    values : lr, momentum, weight_decay
        As :func:`pyconvnet.train` takes them; the schedule goes on multiplying the learning rate.

    Returns
    -------
    str or None
        Who trains there and will take it up; None: nobody does, so the next resume will.

    Raises
    ------
    ValueError, TypeError
        No value, one that cannot be changed in the middle of a run, or one out of bounds.
    FileNotFoundError
        There is no run.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise TypeError(f"set: run must be a path, got {type(run).__name__}")
    if not values:
        raise ValueError(f"set: give at least one of {', '.join(NAMES)}")
    _check("set", values)
    folder = Path(run)
    holder = files.held_by(folder / LOCK)
    if holder is None and not (folder / LAST).is_file():
        raise FileNotFoundError(f"set: no run in {folder}: there is no {LAST}")
    name = f"set-{time.time_ns():020d}-{os.urandom(4).hex()}.json"
    files.write_atomically(folder / name, json.dumps(values).encode())
    return holder


def waiting(folder: Path) -> list[Path]:
    """List the requests that no run has taken up yet, the oldest first."""
    return sorted(folder.glob("set-*.json"))


def _check(where: str, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if name not in NAMES:
            raise ValueError(f"{where}: {name!r} cannot be changed in a run; these can: {', '.join(NAMES)}")
        check_number(f"{where}: {name}", value, RULES[name])


def check_changes(changes: Any) -> list[Change]:
    """Return the changes that a file tells of, or raise where no run would have written them."""
    for change in check_type("changes", changes, list):
        check_type("a change", change, dict)
        check_number("change: step", change["step"], "int >= 0", 2**62)
        check_type("change: requests", change["requests"], list)
        _check("change", {n: v for n, v in change.items() if n not in ("step", "requests")})
    return changes


class Changes:
    """The changes of a run, in the order of their steps.

    Parameters
    ----------
    out : Path
        The run's folder.
    taken : list of dict
        Those known: each with ``step`` (steps taken before it), ``requests`` (names of the files) and the new
        values.
    """

    def __init__(self, out: Path, taken: list[Change]):
        self.out, self.taken = out, taken
        self._looked = -_LOOK_SECONDS

    @classmethod
    def read(cls, out: Path, state: Mapping[str, Any] | None) -> Changes:
        """Read what a run has changed so far; of a new one (``state`` None) remove what is left of another.

        Parameters
        ----------
        out : Path
        state : dict or None
            Of the checkpoint that the run goes on from: what it tells of holds where the journal is gone.

        Raises
        ------
        ValueError
            The journal is damaged.
        """
        journal = out / JOURNAL
        if state is None:
            for path in (journal, *waiting(out)):
                path.unlink(missing_ok=True)
            return cls(out, [])
        if not journal.is_file():
            return cls(out, state.get("changes", []))
        try:
            return cls(out, check_changes(json.loads(journal.read_bytes())))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"train: {journal} is damaged: {error}") from None

    @property
    def steps(self) -> set[int]:
        """After which a change was made, or will be again."""
        return {change["step"] for change in self.taken}

    def at(self, step: int) -> dict[str, float]:
        """Return what holds after so many steps, by name; what was never changed is left out."""
        values: dict[str, float] = {}
        for change in self.taken:
            if change["step"] <= step:
                values |= {name: change[name] for name in NAMES if name in change}
        return values

    def until(self, step: int) -> list[Change]:
        """List those made after so many steps or earlier."""
        return [change for change in self.taken if change["step"] <= step]

    def forget(self, names: Iterable[str]) -> None:
        """Undo all changes of some values, for a run that is resumed with others from the start.

        Raises
        ------
        OSError
            The journal cannot be written.
        """
        gone = set(names)
        left = [{n: v for n, v in change.items() if n not in gone} for change in self.taken]
        if left != self.taken:
            self.taken = left
            self._write(left)

    def _write(self, taken: list[Change]) -> None:
        files.write_atomically(self.out / JOURNAL, json.dumps(taken).encode())

    def asked(self, now: float) -> bool:
        """Tell whether somebody asks for a change; looks at the folder every half second at most."""
        if now - self._looked < _LOOK_SECONDS:
            return False
        self._looked = now
        return bool(waiting(self.out))

    def take(self, step: int) -> tuple[list[Change], list[str]]:
        """Take up all requests after so many steps, and note them on the disk.

        What they change, earlier requests for later steps no longer do.

        Returns
        -------
        list of dict, list of str
            All changes from now on; what was wrong with requests that are thrown away.

        Raises
        ------
        OSError
            The journal cannot be written; the requests stay.
        """
        paths, known = waiting(self.out), {name for change in self.taken for name in change["requests"]}
        values, wrong = {}, []
        for path in paths:
            if path.name in known:  # killed before it could be removed
                continue
            try:
                asked = check_type("a request", json.loads(path.read_bytes()), dict)
                _check("set", asked)
                values |= asked
            except (ValueError, TypeError) as error:
                wrong.append(f"{path.name}: {error}")
        taken = self.taken
        if values:
            later = [
                {n: v for n, v in c.items() if n not in values} if c["step"] > step else c for c in taken
            ]
            names = [path.name for path in paths if path.name not in known]
            taken = sorted(
                [*later, {"step": step, "requests": names, **values}], key=lambda change: change["step"]
            )
            self._write(taken)
        for path in paths:
            path.unlink(missing_ok=True)
        return taken, wrong
