"""Measure a model's kernels on this machine's card ahead of training: the command ``pyconvnet tune``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.devices import Device, get_device
from ..common.text import columns
from ..network.network import Network
from ..ops import tuning
from ..ops.tuning.cache import Cache, Card, Entry, text_of
from ..ops.tuning.chooser import positive, seconds_per_problem
from .plan import Plan


def tune(
    network: Network,
    batch_size: int = 128,
    *,
    device: str | Device | None = None,
    precision: str = "fp32",
    train: bool = True,
    seconds: float | None = None,
    again: bool = False,
    progress: bool = False,
) -> list[tuning.Choice]:
    """Time the kernels of every operation of a model's step, and write the fastest to the cache.

    Parameters
    ----------
    network : Network
    batch_size : int
        Choices hold for it; smaller last batches of an epoch use them too.
    device : str, optional
        Default: ``cuda:0`` where it works.
    precision : str
    train : bool
        False: inference alone.
    seconds : float, optional
        For each problem; default: ``PYCONVNET_TUNE_SECONDS``, else 0.25.
    again : bool
        Also measure what the cache knows.
    progress : bool
        Show a bar.

    Returns
    -------
    choices : list of Choice
        In the order of the step, one for each operation, shape and precision.

    Raises
    ------
    ValueError
        A device whose kernels are not measured.
    """
    dev = get_device(device)
    if not tuning.on_this_device(dev):
        raise ValueError(
            f"tune: device must be a CUDA device, got {dev.name}: its time says nothing about a GPU's"
        )
    if seconds is not None:
        seconds = positive("tune: seconds", seconds)
    plan = Plan(network, dev, batch_size, train=train, initialise=False, precision=precision, kernels={})
    how = {"seconds": seconds or seconds_per_problem(), "again": again, "progress": progress}
    return list(tuning.choose_all(plan.rehearse(), **how).values())


def table(choices: Sequence[tuning.Choice]) -> str:
    """Tabulate what was chosen: one line an operation, and how much faster than the heuristic's choices."""
    rows = [("operation", "shape", "precision", "kernel", "us", "heuristic", "us", "gain", "from")]
    for c in choices:
        gain = "" if c.gain is None or c.kernel == c.heuristic else f"{c.gain:.2f}x"
        other = ("", "") if c.kernel == c.heuristic else (c.heuristic, _number(c.heuristic_us))
        rows.append((c.op, _brief(c.shape), c.precision, c.kernel, _number(c.us), *other, gain, c.source))
    text = "\n".join(columns(rows, right=(4, 6, 7)))
    timed = [c for c in choices if c.us is not None and c.heuristic_us is not None]
    if timed:
        ours, theirs = sum(c.us for c in timed), sum(c.heuristic_us for c in timed)
        text += (
            f"\n{len(timed)} of {len(choices)} timed, each once however often it occurs: "
            f"{ours:.0f} us chosen, {theirs:.0f} us by the heuristic, {theirs / ours:.2f}x"
        )
    return text


def entries_table(entries: Sequence[Entry]) -> str:
    """Tabulate a cache, by card."""
    lines = []
    for card in sorted({(e.card, e.capability, e.driver) for e in entries}):
        mine = [e for e in entries if e.key[:3] == card]
        lines.append(f"{Card(*card)}: {len(mine)} {'entry' if len(mine) == 1 else 'entries'}")
        rows = [("operation", "shape", "precision", "kernel", "us", "of", "gain", "version", "date")]
        for e in sorted(mine, key=lambda e: e.key):
            gain = f"{e.heuristic_us / e.us:.2f}x" if e.heuristic_us and e.us else ""
            what = (e.op, _brief(e.shape), e.precision, e.kernel, _number(e.us))
            rows.append((*what, f"{len(e.tried)} tried", gain, e.version, e.date))
        lines.extend(columns(rows, right=(4, 6)))
    return "\n".join(lines) if lines else "nothing has been measured"


def export(path: str | Path, device: str | Device | None = None) -> int:
    """Write the cache's entries for a device's card to a file, to be shipped or carried elsewhere.

    Returns
    -------
    int
        Number of entries.

    Raises
    ------
    ValueError
        There are none.
    """
    from ..common.files import write_atomically

    cache, card = Cache(), tuning.card_of(get_device(device))
    entries = [e for e in cache.entries.values() if e.fits(card)]
    if not entries:
        raise ValueError(f"tune: {cache.path} has no entries for {card}")
    write_atomically(path, text_of(entries).encode())
    return len(entries)


def _number(us: float | None) -> str:
    return "" if us is None else f"{us:.1f}"


def _brief(shape: str) -> str:
    """Drop from a shape's text what is usual."""
    usual = ("x=1x1", "filter=1x1", "y=1x1", "stride=1x1", "pad=0x0", "groups=1")
    return " ".join(part for part in shape.split() if part not in usual)
