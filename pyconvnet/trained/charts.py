"""Charts as SVG text for an HTML page: lines over epochs, bars, shares of a whole. No script, no font."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 460, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 34


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose about ``count`` round numbers in [low, high]: multiples of 1, 2, 2.5 or 5 powers of ten."""
    span = high - low
    if not span > 0:
        return [low]
    raw = span / max(1, count)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    factors = (1,) if len(decades) > 3 else (1, 2, 5)
    return [t for d in decades for f in factors if low * 0.999 <= (t := f * 10.0**d) <= high * 1.001]


def number(value: float) -> str:
    """Write a number shortly: 1,200 or 0.02 or 3e-05."""
    if value and abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e-")
    return f"{value:,.10g}" if abs(value) >= 1000 else f"{value:.6g}"


def lines(
    title: str,
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    log: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    unit: str = "",
) -> str:
    """Draw lines over the epochs.

    Parameters
    ----------
    title : str
    series : dict of name to (epoch, value) pairs
        The name is also the line's style: "train", "validation", or any other.
    log : bool
        A logarithmic axis; values must be positive.
    marks : sequence of (epoch, text)
        Vertical lines with a text on hovering.
    unit : str
        After the numbers.

    Returns
    -------
    str
        SVG; "" where there is no value.
    """
    points = [p for some in series.values() for p in some]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x_low, x_high = min(xs), max(xs)
    if x_low == x_high:
        x_low, x_high = x_low - 0.5, x_high + 0.5
    if log:
        low, high = min(ys) / 1.15, max(ys) * 1.15
        at = _log_ticks(low, high) or [min(ys)]
        place = math.log10
    else:
        low, high = min(0.0, min(ys)), max(ys) * 1.06 or 1.0
        at, place = ticks(low, high), float

    def x(value: float) -> float:
        return _LEFT + (value - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        share = (place(value) - place(low)) / (place(high) - place(low))
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text class="title" x="{_LEFT}" y="15">{escape(title)}</text>']
    for value in at:
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y(value):.1f}H{_WIDTH - _RIGHT}"/>'
            f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{number(value)}{escape(unit)}</text>"
        )
    for value in dict.fromkeys(round(v) for v in ticks(x_low, x_high, 6)):
        if x_low <= value <= x_high:
            parts.append(
                f'<text class="tick" x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
                f"{value}</text>"
            )
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 3}" text-anchor="end">epoch</text>')
    for value, text in marks:
        if x_low <= value <= x_high:
            parts.append(
                f'<line class="mark" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{_TOP}" '
                f'y2="{_HEIGHT - _BOTTOM}"><title>{escape(text)}</title></line>'
            )
    right = _WIDTH - _RIGHT
    for name in reversed(list(series)) if len(series) > 1 else ():
        if series[name]:
            parts.append(
                f'<text class="key {escape(name)}" x="{right}" y="15" text-anchor="end">{escape(name)}</text>'
            )
            right -= 8 + 7 * len(name)
    for name, some in series.items():
        if not some:
            continue
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in some)
        parts.append(f'<polyline class="line {escape(name)}" points="{path}"/>')
        radius = 2.5 if len(some) <= 60 else 1.2
        for a, b in some:
            parts.append(
                f'<circle class="dot {escape(name)}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="{radius}">'
                f"<title>{escape(name)}, epoch {number(a)}: {b:.5g}{escape(unit)}</title></circle>"
            )
    return _svg(title, _WIDTH, _HEIGHT, parts)


def shares(rows: Sequence[tuple[str, Mapping[str, float]]], *, unit: str = "s") -> str:
    """Draw rows of parts of a whole, one bar each, of equal length.

    Parameters
    ----------
    rows : sequence of (label, dict of part to amount)
        Parts are styled by their names; all rows have the same.

    Returns
    -------
    str
        SVG; "" where nothing was spent.
    """
    rows = [(label, parts) for label, parts in rows if sum(parts.values()) > 0]
    if not rows:
        return ""
    width, left, height = 940, 90, 20
    parts_of = list(rows[0][1])
    body, at = [], left
    for part in parts_of:
        body.append(f'<rect class="part {escape(part)}" x="{at}" y="4" width="11" height="11"/>')
        body.append(f'<text class="tick" x="{at + 16}" y="14">{escape(part)}</text>')
        at += 34 + 7 * len(part)
    for i, (label, amounts) in enumerate(rows):
        top, whole, x = 26 + i * (height + 4), sum(amounts.values()), float(left)
        body.append(
            f'<text class="tick" x="{left - 8}" y="{top + 14}" text-anchor="end">{escape(label)}</text>'
        )
        for part in parts_of:
            share = amounts.get(part, 0.0) / whole
            wide = share * (width - left - 4)
            told = f"{part}: {amounts.get(part, 0.0):.3g} {unit}, {100 * share:.2f}%"
            body.append(
                f'<rect class="part {escape(part)}" x="{x:.2f}" y="{top}" width="{wide:.2f}" '
                f'height="{height}"><title>{escape(told)}</title></rect>'
            )
            if wide > 44:
                body.append(
                    f'<text class="inside" x="{x + wide / 2:.1f}" y="{top + 14}" text-anchor="middle">'
                    f"{100 * share:.1f}%</text>"
                )
            x += wide
    return _svg("shares of time", width, 30 + len(rows) * (height + 4), body)


def bars(title: str, rows: Sequence[tuple[str, float, str]], *, most: float = 1.0) -> str:
    """Draw horizontal bars: (label, value in [0, most], text on hovering) from above."""
    if not rows:
        return ""
    width, left, height = 460, 150, 16
    body = []
    for i, (label, value, told) in enumerate(rows):
        top = 4 + i * (height + 3)
        wide = max(0.0, value / most) * (width - left - 52)
        body.append(
            f'<text class="tick" x="{left - 6}" y="{top + 12}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="bar" x="{left}" y="{top}" width="{wide:.1f}" height="{height}">'
            f"<title>{escape(told)}</title></rect>"
            f'<text class="tick" x="{left + wide + 5:.1f}" y="{top + 12}">{100 * value:.1f}%</text>'
        )
    return _svg(title, width, 8 + len(rows) * (height + 3), body)


def _svg(label: str, width: float, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )
