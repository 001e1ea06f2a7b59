"""One row of a benchmark: our kernels and their peers on the same arrays, checked, then timed turn about."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from clocks import limit_seconds, spread
from exact import BFLOAT16, Exact, complaint, flat, poison, whole
from peers import NotOffered, Work

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import tuning
from pyconvnet.plan.buffers import Workspace

FIGURES = (
    "median_us",
    "p20_us",
    "p80_us",
    "calls",
    "gflops",
    "gbps",
    "limit_us",
    "limited_by",
    "of_limit",
    "host_us",
)
OUTCOMES = ("peer", "peer_us", "ratio", "difference", "error", "bound")


def figures(
    times: list[float],
    host_seconds: float | None,
    flops: float,
    nbytes: float,
    rates: dict[str, Any],
    precision: str = "fp32",
) -> dict[str, Any]:
    """The figures of a row from the seconds of its calls."""
    median, low, high = spread(times)
    limit = limit_seconds(flops, nbytes, rates, precision)
    return {
        "median_us": 1e6 * median,
        "p20_us": 1e6 * low,
        "p80_us": 1e6 * high,
        "calls": len(times),
        "gflops": 1e-9 * flops / median if flops else None,
        "gbps": 1e-9 * nbytes / median if nbytes else None,
        "limit_us": limit and 1e6 * limit,
        "limited_by": limit and ("memory" if nbytes >= limit * rates["bandwidth"] else "arithmetic"),
        "of_limit": limit and limit / median,
        "host_us": host_seconds and 1e6 * host_seconds,
    }


def normal(device: devices.Device, shape: tuple[int, ...], seed: int = 0) -> Any:
    """Normal float32 random numbers, made where they are needed: maps are large."""
    xp = device.xp if device.kind == "cuda" else np
    return xp.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def separated(device: devices.Device, shape: tuple[int, ...], seed: int = 0) -> Any:
    """A map whose 3x3 windows have their maximum where every precision finds it: a fifth above the next."""
    xp = device.xp if device.kind == "cuda" else np
    rng = xp.random.default_rng(seed)
    n, h, w, c = shape
    place = (xp.arange(h) % 3 * 3)[:, None, None] + (xp.arange(w) % 3)[:, None]
    level = (place + rng.integers(0, 9, (n, 1, 1, c))) % 9
    return (1.25**level * rng.uniform(0.98, 1.02, shape)).astype(np.float32)


def halved(device: devices.Device, a: Any) -> Any:
    """An array rounded to bfloat16; on the host where the device's library cannot."""
    try:
        return a.astype(BFLOAT16)
    except Exception:  # CuPy's own kinds among them
        return device.asarray(device.to_numpy(a).astype(BFLOAT16))


class OnDevice:
    """An input that is made by calling ``function(device)``: what another operation returns, say."""

    def __init__(self, function: Callable[[devices.Device], Any]):
        self.function = function


class Prepared:
    """A row with its inputs on the device and the kernels that apply."""

    def __init__(self, row: Any, device: devices.Device, only: str = "", chosen: bool = False):
        self.row, self.device, self.only, self.just_chosen = row, device, only, chosen
        self.listed: list[str | None] = [None]
        if device.ext is not None and row.kernels is not None:
            self.listed = list(row.kernels(device.name))
        self.first, self.choice = self.listed[0], None
        known = device.ext is not None and row.runs is not None
        self.runs: dict[str, str] = row.runs(device.name) if known else {}

    @property
    def names(self) -> list[str | None]:
        """The kernels asked for."""
        names = [self.first] if self.just_chosen else list(dict.fromkeys([self.first, *self.listed]))
        title = f"{self.row.name} {self.row.op} {self.row.precision}"
        return [name for name in names if self.only in f"{title} {name}"]

    def choose(self, arrays: dict[str, Any]) -> None:
        """Ask which kernel a call takes unasked, which may be what was measured on this card."""
        if self.device.ext is None:
            return
        with ops.recording() as prepared:
            self.row.call(arrays, **self.options(None))
        choices = list(tuning.choose_all(ops.problems(prepared)).values())
        if choices and self.row.kernels is not None:
            self.first, self.choice = choices[0].kernel, choices[0].source
        elif choices:
            self.runs |= {choice.op: choice.kernel for choice in choices}
            self.choice = ", ".join(dict.fromkeys(choice.source for choice in choices))

    def arrays(self) -> dict[str, Any]:
        """The inputs on the device, the same numbers each time."""
        rng = np.random.default_rng(0)
        arrays = {}
        for seed, (name, what) in enumerate(self.row.inputs.items()):
            if isinstance(what, OnDevice):
                arrays[name] = what.function(self.device)
            elif callable(what):
                arrays[name] = self.device.asarray(what(rng))
            else:
                arrays[name] = normal(self.device, what, seed)
            if self.row.precision == "bf16" and name in self.row.half:
                arrays[name] = halved(self.device, arrays[name])
        return arrays

    def options(self, kernel: str | None) -> dict[str, Any]:
        options: dict[str, Any] = {"workspace": Workspace(self.device)} if self.row.workspace else {}
        if self.row.precise:
            options["precision"] = self.row.precision
        return options | ({"kernel": kernel} if kernel else {})

    def result(self, kernel: str | None) -> dict[str, Any]:
        """The JSON's fields without figures."""
        row = self.row
        fixed = {"name": row.name, "op": row.op, "part": row.part or row.op, "precision": row.precision}
        fixed |= {
            "shape": row.text(),
            "kernel": kernel or ", ".join(self.runs.values()) or self.device.kind,
            "chosen": kernel == self.first,
        }
        fixed["choice"] = self.choice if kernel == self.first else None
        fixed |= {"flops": row.flops, "bytes": row.bytes}
        return fixed | dict.fromkeys([*FIGURES, *OUTCOMES]) | {"peers": []}

    def compared(self, arrays: dict[str, Any], outputs: Any) -> list[Any]:
        """What of a call's result a peer has too."""
        return flat(self.row.compare(outputs if self.row.out else arrays))


# ---------------------------------------------------------------- the peers


@dataclass
class Rivals:
    """The peers that are there: `torch`, whose tensors all of them use, and others."""

    torch: Any = None
    others: list[Any] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)  # peer -> what it is, or why it is missing

    @property
    def all(self) -> list[Any]:
        return [self.torch, *self.others] if self.torch is not None else []


@dataclass
class Contender:
    """A peer's work that gave the right result."""

    work: Work
    record: dict[str, Any]


def _record(work: Work, gap: float | None, note: str | None) -> dict[str, Any]:
    fixed = {"name": work.label, "kernel": work.kernel}
    figures = dict.fromkeys(("median_us", "p20_us", "p80_us", "calls"))
    finite = gap if gap is not None and math.isfinite(gap) else None
    return fixed | figures | {"difference": finite, "counts": note is None, "note": note}


def works_of(row: Any, peer: Any, tensors: dict[str, Any]) -> list[Work]:
    """A peer's ways to do a row's work."""
    works = row.peer(peer, tensors)
    return works if isinstance(works, list) else [works]


def judge(
    row: Any, rivals: Rivals, arrays: dict[str, Any], exact: Exact
) -> tuple[list[Contender], list[dict[str, Any]]]:
    """The works that may be timed, and records of those that may not."""
    contenders: list[Contender] = []
    refused: list[dict[str, Any]] = []
    for peer in rivals.all:
        try:
            peer.use(row.precision)
            works = works_of(row, peer, rivals.torch.tensors(arrays))
        except NotOffered as reason:
            refused.append(_record(Work(flat, label=peer.label), None, str(reason)))
            continue
        except Exception as error:  # a finding about the peer, not about the row
            refused.append(_record(Work(flat, label=peer.label), None, f"{type(error).__name__}: {error}"))
            continue
        for work in works:
            try:
                gap = exact.gap(flat(work()), rivals.torch.to_numpy)
                note = complaint(gap, row.precision)
            except NotOffered as reason:
                gap, note = None, str(reason)
            except Exception as error:
                gap, note = None, f"{type(error).__name__}: {error}"
            record = _record(work, gap, note)
            if note is None:
                contenders.append(Contender(work, record))
            else:
                refused.append(record)
    return contenders, refused


def heats(contenders: list[Contender], clock: Any) -> tuple[list[Contender], list[Contender]]:
    """Of works of one heat (cuDNN's plans) only the fastest goes on; who goes on and who does not."""
    on, out = [c for c in contenders if c.work.heat is None], []
    for heat in dict.fromkeys(c.work.heat for c in contenders if c.work.heat is not None):
        runners = [c for c in contenders if c.work.heat == heat]
        if len(runners) == 1:
            on += runners
            continue
        quick = type(clock).__new__(type(clock))  # the same clock, with the least number of rounds
        quick.__dict__ |= clock.__dict__ | {"seconds": 0.0, "least": 3, "warm": 1}
        for runner, (times, _) in zip(runners, quick.contest([r.work.run for r in runners]), strict=True):
            runner.record |= _times(times)
            runner.record["note"] = "not the fastest plan: least number of calls"
        fastest = min(runners, key=lambda r: r.record["median_us"])
        fastest.record["note"] = None
        on.append(fastest)
        out += [r for r in runners if r is not fastest]
    return on, out


def _times(times: list[float]) -> dict[str, Any]:
    median, low, high = spread(times)
    return {"median_us": 1e6 * median, "p20_us": 1e6 * low, "p80_us": 1e6 * high, "calls": len(times)}


# ---------------------------------------------------------------- the row


def time_row(
    row: Any,
    device: devices.Device,
    clock: Any,
    rates: dict[str, Any],
    rivals: Rivals | None = None,
    only: str = "",
    chosen: bool = False,
) -> Iterator[dict[str, Any]]:
    """Time one row: a dict as in the JSON for every kernel that applies and has `only` in its title.

    The records of the peers stand in the first.
    """
    prepared = Prepared(row, device, only, chosen)
    if not prepared.names:
        return
    rivals = rivals if rivals is not None and row.peer is not None else Rivals()
    calls: dict[str | None, Callable[[], Any]] = {}
    try:
        arrays = prepared.arrays()
        prepared.choose(arrays)
        exact = row.exact(row, arrays, device)
    except Exception as error:
        for name in prepared.names:
            yield prepared.result(name) | {"error": f"{type(error).__name__}: {error}"}
        return
    results = {name: prepared.result(name) for name in prepared.names}
    outputs: Any = None
    for kernel, result in results.items():
        try:
            mine = arrays if row.out else prepared.arrays()
            options = prepared.options(kernel)
            if outputs is not None:
                poison(flat(outputs))
                options["out"] = outputs
            made = row.call(mine, **options)
            gap = exact.gap(prepared.compared(mine, made), device.to_numpy)
            result["difference"] = gap if math.isfinite(gap) else None
            result["error"] = complaint(gap, row.precision)
            if row.bytes is None:
                result["bytes"] = sum(int(a.nbytes) for a in (*mine.values(), *flat(made)))
            if row.out:
                outputs = options["out"] = made
            calls[kernel] = lambda a=mine, o=options: row.call(a, **o)
        except Exception as error:  # one kernel's failure must not hide the others' times
            result["error"] = f"{type(error).__name__}: {error}"
    final, out = [], []
    first = results[prepared.names[0]]
    if rivals.all:
        contenders, refused = judge(row, rivals, prepared.arrays() if not row.out else arrays, exact)
        final, out = heats(contenders, clock)
        first["peers"] = [*(c.record for c in (*final, *out)), *refused]
    timed = clock.contest([*calls.values(), *(c.work.run for c in final)]) if calls or final else []
    for contender, (times, _) in zip(final, timed[len(calls) :], strict=True):
        contender.record |= _times(times)
    best = min((c.record for c in final), key=lambda r: r["median_us"], default=None)
    for kernel, (times, host) in zip(calls, timed[: len(calls)], strict=True):
        result = results[kernel]
        result |= figures(times, host, row.flops, result["bytes"], rates, row.precision)
    for result in results.values():
        if best is not None:
            result |= {"peer": best["name"], "peer_us": best["median_us"]}
            if result["median_us"]:
                result["ratio"] = best["median_us"] / result["median_us"]
        yield result


def check_row(row: Any, device: devices.Device, only: str = "") -> Iterator[dict[str, Any]]:
    """Run every kernel of a row once and compare all it returns with the float64 reference."""
    prepared = Prepared(row, device, only)
    reference = None
    for kernel in prepared.names:
        result = prepared.result(kernel)
        try:
            arrays = prepared.arrays()
            if reference is None:
                reference = whole(_Everything(row), prepared.arrays(), device)
            outputs = row.call(arrays, **prepared.options(kernel))
            gap = reference.gap(flat(outputs) if row.out else list(arrays.values()), device.to_numpy)
            result["difference"] = gap if math.isfinite(gap) else None
            result["error"] = complaint(gap, row.precision)
        except Exception as error:  # one kernel's failure must not hide the others'
            result["error"] = f"{type(error).__name__}: {error}"
        yield result


@dataclass
class _Everything:
    """A row that compares all it returns."""

    row: Any

    @property
    def call(self) -> Any:
        return self.row.call

    @property
    def out(self) -> bool:
        return self.row.out

    def compare(self, result: Any) -> list[Any]:
        return flat(result) if self.row.out else list(result.values())
