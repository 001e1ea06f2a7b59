"""Words of messages: values and errors as one short line."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def cut(text: str, length: int = 200) -> str:
    """Return ``text``, or its beginning where it is longer than ``length`` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def reason(error: BaseException) -> str:
    """Return why something failed: an error's own words, else its kind; never empty, never long."""
    text = cut(" ".join(str(error).split()))
    if isinstance(error, EOFError):
        return text or "it ends too early"
    if isinstance(error, KeyError):
        return f"{text} is missing"
    return text or type(error).__name__


def columns(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return a table's rows as lines, columns two spaces apart, those that ``right`` numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        padded = (cell.rjust(width) if i in right else cell.ljust(width) for i, (cell, width) in cells)
        lines.append("  ".join(padded).rstrip())
    return lines
