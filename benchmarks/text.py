"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable


def table(head: tuple[str, ...], lines: Iterable[tuple[str, ...]], left: int) -> str:
    """Text in columns, the first `left` of them aligned left."""
    cells = [head, *lines]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def number(value: float | None, digits: int = 0, unit: str = "") -> str:
    """A figure as text; nothing where there is none."""
    return "" if value is None else f"{value:.{digits}f}{unit}"
