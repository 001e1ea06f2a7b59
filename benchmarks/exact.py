"""What a call should return, in float64: the yardstick of our kernels and of their peers alike.

The exact result of a whole batch can cost more than everything that is measured, so most rows compute a
random sample of it: all the pixels of a few images where images do not meet, a few filters where they do.
The error is |got - exact| / |exact| (Euclidean) over the sample, the worst of the arrays a call returns.

On normal random numbers float32 arithmetic stays under 2e-5 whatever the order and length of its sums; one
product in TF32 (11 significant bits) leaves 3e-4, in bfloat16 (8 bits) 2e-3 to 1e-2. `TOLERANCES` lies
between, so that a float32 row shows who computed it in TF32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from pyconvnet import ops
from pyconvnet.common import devices

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
TOLERANCES = {"fp32": 1e-4, "fp32x3": 1e-4, "tf32": 2e-3, "bf16": 2e-2}
SAMPLE = 3  # images, or filters of each group

Arrays = dict[str, Any]


def flat(result: Any) -> list[Any]:
    """The arrays of a result, whether one or several."""
    if result is None:
        return []
    return [a for a in result if a is not None] if isinstance(result, tuple | list) else [result]


def widen(a: np.ndarray) -> np.ndarray:
    """A copy, floating-point numbers as float64."""
    return a.astype(np.float64) if a.dtype in (np.float32, BFLOAT16) else a.copy()


def take(a: Any, part: Callable[[Any], Any]) -> Any:
    """Some elements of an array or a tensor; bfloat16 by its bits, which every library can move."""
    if a.dtype == BFLOAT16:
        return part(a.view(np.uint16)).view(BFLOAT16)
    return part(a)


def distance(got: np.ndarray, want: np.ndarray) -> float:
    """|got - want| / |want|; infinite where a number is missing or the shapes differ."""
    if got.shape != want.shape:
        return math.inf
    gap = float(np.linalg.norm((got - want).ravel()) / max(float(np.linalg.norm(want.ravel())), 1e-30))
    return gap if math.isfinite(gap) else math.inf


@dataclass
class Exact:
    """A sample of the exact result; `pick` takes the same elements out of a result's arrays."""

    values: list[np.ndarray]
    pick: Callable[[list[Any]], list[Any]] = list

    def numbers(self, result: Iterable[Any], to_numpy: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
        """The sample of a result; nothing where it is too small to have one."""
        try:
            return [np.asarray(to_numpy(a), np.float64) for a in self.pick(flat(result))]
        except IndexError:
            return []

    def gap(self, result: Iterable[Any], to_numpy: Callable[[Any], np.ndarray]) -> float:
        """The error of a result, in its own device's arrays."""
        got = self.numbers(result, to_numpy)
        if len(got) < len(self.values) or not self.values:
            return math.inf
        return max(distance(g, want) for g, want in zip(got, self.values, strict=False))


@dataclass
class Dropped(Exact):
    """An exact result of which dropout zeroed some and divided the others by what is kept.

    No two generators drop the same elements: the kept ones must be right and about as many as they should.
    """

    p: float = 0.5

    def gap(self, result: Iterable[Any], to_numpy: Callable[[Any], np.ndarray]) -> float:
        got = self.numbers(result, to_numpy)
        worst = math.inf
        for g, want in zip(got, self.values, strict=False):
            if g.shape != want.shape:
                return math.inf
            alive = want != 0
            kept = alive & (g != 0)
            count, expected = int(alive.sum()), (1 - self.p) * int(alive.sum())
            if abs(int(kept.sum()) - expected) > 6 * math.sqrt(count * self.p * (1 - self.p)) + 1:
                return math.inf
            worst = distance(g, np.where(kept, want / (1 - self.p), 0))
        return worst


Rule = Callable[[Any, Arrays, devices.Device], Exact]  # (row, the arrays of its inputs, where they are)


def _run(row: Any, inputs: Arrays) -> list[np.ndarray]:
    """The row's call in float64, and of its result what a peer has too."""
    with ops.on("cpu"):
        result = row.call(inputs)
    return [np.asarray(a) for a in flat(row.compare(result if row.out else inputs))]


def whole(row: Any, arrays: Arrays, device: devices.Device) -> Exact:
    """Everything."""
    return Exact(_run(row, {name: widen(device.to_numpy(a)) for name, a in arrays.items()}))


def images(*names: str, first: bool = False, drop: float | None = None) -> Rule:
    """A few images, for calls in which they do not meet: `names` are the inputs that lie along the batch.

    `first`: the first ones, for what depends on an image's place; `drop`: dropout's probability.
    """

    def rule(row: Any, arrays: Arrays, device: devices.Device) -> Exact:
        count = len(arrays[names[0]])
        chosen = np.random.default_rng(7).choice(count, min(count, SAMPLE), replace=False)
        which = sorted({*map(int, chosen), count - 1}) if not first else list(range(min(count, SAMPLE)))

        def pick(result: list[Any]) -> list[Any]:
            return [take(a, lambda v: v[which]) for a in result]

        inputs = {k: widen(device.to_numpy(pick([a])[0] if k in names else a)) for k, a in arrays.items()}

        values = _run(row, inputs)
        return Exact(values, pick) if drop is None else Dropped(values, pick, drop)

    return rule


def filters(s: Any) -> Rule:
    """The gradient of a few filters of each group: of a convolution's or (w of 2 axes) of a product's w."""

    def rule(row: Any, arrays: Arrays, device: devices.Device) -> Exact:
        dy, x = arrays["dy"], arrays["x"]
        groups = getattr(s, "groups", 1)
        each = s.w[0] // groups
        rng = np.random.default_rng(7)
        chosen = np.sort(rng.choice(each, min(each, SAMPLE), replace=False))
        which = [int(g * each + k) for g in range(groups) for k in chosen]
        part = widen(device.to_numpy(take(dy, lambda v: v[..., which])))
        if len(s.w) == 2:
            values = part.T @ widen(device.to_numpy(x))
            return Exact([values], lambda result: [take(a, lambda v: v[which]) for a in result])
        # One tap at a time, over the whole batch: the sums are long, few and of a handful of filters.
        (top, _), (left, _) = [
            (p, p) if isinstance(p, int) else p
            for p in (s.pad if isinstance(s.pad, tuple) else (s.pad, s.pad))
        ]
        taps = sorted({(0, 0), (s.w[1] // 2, s.w[2] // 2), (s.w[1] - 1, s.w[2] - 1)})
        _, p, q, _ = s.y
        values = np.empty((len(which), len(taps), s.w[3]))
        for t, (r, c) in enumerate(taps):
            seen = np.zeros((s.x[0], p, q, s.x[3]))
            rows, inside_rows = _inside(p, s.stride, r - top, s.x[1])
            columns, inside_columns = _inside(q, s.stride, c - left, s.x[2])
            pixels = take(x, lambda v, at=(rows, columns): v[:, at[0], at[1]])
            seen[:, inside_rows, inside_columns] = widen(device.to_numpy(pixels))
            for g in range(groups):
                mine = slice(g * len(chosen), (g + 1) * len(chosen))
                channels = slice(g * s.w[3], (g + 1) * s.w[3])
                values[mine, t] = np.tensordot(part[..., mine], seen[..., channels], ((0, 1, 2),) * 2)

        def pick(result: list[Any]) -> list[Any]:
            rs, cs = [r for r, _ in taps], [c for _, c in taps]
            return [take(a, lambda v: v[which][:, rs, cs]) for a in result]

        return Exact([values], pick)

    return rule


def _inside(outputs: int, stride: int, offset: int, extent: int) -> tuple[slice, slice]:
    """Where a tap reads inside the image: the pixels, and the outputs they belong to."""
    first = max(0, -(offset // stride)) if offset < 0 else 0
    last = min(outputs, (extent - 1 - offset) // stride + 1)
    start = first * stride + offset
    return slice(start, (last - 1) * stride + offset + 1, stride), slice(first, last)


def channels(row: Any, arrays: Arrays, device: devices.Device) -> Exact:
    """A few channels, for sums over everything else of the one input."""
    ((_, a),) = arrays.items()
    count = a.shape[-1]
    which = sorted(map(int, np.random.default_rng(7).choice(count, min(count, 8), replace=False)))
    part = widen(device.to_numpy(take(a, lambda v: v[..., which])))
    return Exact([part.sum(tuple(range(part.ndim - 1)))], lambda result: [r[which] for r in result])


def complaint(gap: float, precision: str) -> str | None:
    """What is wrong with an error of this size in a row of this precision; None: nothing."""
    if gap <= TOLERANCES[precision]:
        return None
    if precision in ("fp32", "fp32x3") and gap <= TOLERANCES["tf32"]:
        return f"its error of {gap:.1e} is TF32's, not float32's"
    return f"its error against float64 is {gap:.2g}"


def poison(arrays: Sequence[Any]) -> None:
    """Fill results with NaN (integers with their largest), so that an element nobody writes shows."""
    for a in arrays:
        if a.dtype == BFLOAT16:
            a.view(np.uint16).fill(0x7FC0)
        elif a.dtype.kind in "iu":
            a.fill(np.iinfo(a.dtype).max)
        else:
            a.fill(math.nan)
