"""What bounds a row that is slower than its peers: said by a person where one looked, else read off figures.

`BY_HAND` is the table to write in after looking at a row: keyed by (layer, part, precision) as in the JSON.
What is derived says on which side of the roofline the row lies, how much of that limit it reaches, and what
the compiler's report (docs/kernel-report.json) knows about the kernel: blocks on a multiprocessor and what
they run out of.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

SLOW = 0.8  # a row below this share of its best peer's speed needs a line

BY_HAND: dict[tuple[str, str, str], str] = {}  # no card has been measured yet

_REPORT = Path(__file__).parents[1] / "docs" / "kernel-report.json"


@functools.lru_cache(maxsize=4)
def _kernels(report: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(report.read_text())["kernels"]
    except (OSError, ValueError, KeyError):
        return []


def occupancy(kernel: str, report: Path = _REPORT) -> str | None:
    """What the compiler's report says about the kernels of a row of a table; None where it does not know it.

    "/S" behind a name is a split of the reduction, which changes nothing about a block.
    """
    stem = kernel.split("/")[0]
    found = [k["occupancy"] for k in _kernels(report) if k["stem"] == stem and k.get("occupancy")]
    if not found:
        return None
    least = min(found, key=lambda o: o["percent"])
    blocks = "block" if least["blocks"] == 1 else "blocks"
    return (
        f"occupancy {least['percent']:g}% on sm_90 ({least['blocks']} {blocks} a multiprocessor, limited by "
        f"{least['limit']})"
    )


def derived(row: dict[str, Any], report: Path = _REPORT) -> str:
    """A line from the row's own figures."""
    words = []
    if row["limit_us"]:
        side = "memory" if row["limited_by"] == "memory" else f"{row['precision']} arithmetic"
        words.append(f"bound by {side} by the roofline, of which it reaches {100 * row['of_limit']:.0f}%")
    else:
        words.append("no roofline was measured")
    about = occupancy(row["kernel"], report)
    return "; ".join([*words, about] if about else words)


def explain(row: dict[str, Any], report: Path = _REPORT) -> dict[str, Any]:
    """The row with its `bound`, where it is slow and timed."""
    if row["ratio"] is not None and row["ratio"] < SLOW:
        key = (row["name"], row["part"], row["precision"])
        return row | {"bound": BY_HAND.get(key) or derived(row, report)}
    return row
