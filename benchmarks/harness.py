"""Times every kernel of a family beside PyTorch/cuDNN and the hardware's limit.

A family's benchmark, ``bench_FAMILY.py``, is one function that lists rows and two lines that run it::

    from harness import Row, alexnet_pools, main

    from pyconvnet import ops


    def rows(batch, tiny):
        for s in alexnet_pools(batch, tiny):              # s.name, s.x = (N, H, W, C), s.size, s.stride, s.y
            yield Row(
                name=s.name,                              # the layer: "pool1"
                op="max_pool2d",                          # the public function
                inputs={"x": s.x},                        # shapes; float32 normal random numbers
                call=lambda a, s=s, **kw: ops.max_pool2d(a["x"], s.size, s.stride, **kw),
                kernels=lambda device, s=s: ops.kernels("max_pool2d", s.x, s.size, s.stride, device=device),
                flops=0,                                  # only multiply-adds count, 2 each
                peer=lambda t, a, s=s: t.max_pool2d(a["x"], s.size, s.stride),
                compare=lambda result: result[0],         # y; PyTorch's argmax counts otherwise
            )


    if __name__ == "__main__":
        main("pool", rows)

``call(a, **kw)`` gets the arrays of `inputs` on the device and must pass ``**kw`` on to the op: ``out=``
(the arrays that a first call without it returned, so that nothing is allocated while the clock runs),
``kernel=`` (when `kernels` lists names; each is timed) and, with ``workspace=True``, ``workspace=``.
Functions that work in place say ``out=False``. Inputs that are no normal random numbers are given as a
function of a ``numpy.random.Generator`` that returns the array. `bytes` is what must move at least, each
input read and each output written once; the harness counts it from the arrays unless the row says
otherwise. ``peer(t, a)`` receives :class:`peers.Torch` and the same inputs as tensors, and returns a
function without arguments that does the same work and returns the result (a tensor or a tuple) in our
layout; it is compared with ours (with ``compare(result)``, the part of our result that the peer has too;
``compare=None`` where the values are random) and only then timed. ``peer=None``: there is none.

How the numbers come about. CUDA: a memory-set larger than the L2 (and long enough to hide the Python of the
call) before every call, CUDA events around it, after warm-up calls; median, 20th and 80th percentile.
Without a GPU (``--device cpu`` or ``emulator``): wall-clock time, and the JSON says so (``"clock":
"wall"``); the emulator's times say nothing about a GPU. The limit ("roofline") of a row is max(flops / FMA
rate, bytes / bandwidth), both rates measured in the same run: a copy counting bytes read plus written, and
a kernel of independent fused multiply-adds. Peers run in float32 with TF32 switched off.

JSON (``--json FILE``): ``{"schema": 1, "family", "device", "clock", "batch", "machine": {...}, "versions":
{...}, "git", "command", "time", "limits": {"fma_flops", "bandwidth", "source"}, "rows": [{"name", "op",
"shape", "kernel", "flops", "bytes", "median_us", "p20_us", "p80_us", "calls", "gflops", "gbps", "limit_us",
"of_limit", "host_us", "peer", "peer_us", "difference", "error"}]}``; null where a figure does not exist.
`of_limit` is limit / median; `host_us` the host's time per call; `difference` is max |ours - peer| / max
|peer|.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from clocks import clock_of, limit_seconds, limits, spread
from shapes import alexnet_convs, alexnet_linears, alexnet_lrns, alexnet_maps, alexnet_pools

from pyconvnet import devices, ops
from pyconvnet.buffers import Workspace

__all__ = ["Row", "alexnet_convs", "alexnet_linears", "alexnet_lrns", "alexnet_maps", "alexnet_pools", "main"]

# The largest max |ours - peer| / max |peer| that counts as the same function (float32, long sums).
AGREEMENT = 1e-3


@dataclass
class Row:
    """One call to time; see the module's docstring."""

    name: str
    op: str
    inputs: dict[str, tuple[int, ...] | Callable[[np.random.Generator], np.ndarray]]
    call: Callable[..., Any]
    kernels: Callable[[str], list[str]] | None = None
    flops: float = 0
    bytes: float | None = None
    out: bool = True
    workspace: bool = False
    peer: Callable[[Any, dict[str, Any]], Callable[[], Any]] | None = None
    shape: str = ""
    compare: Callable[[Any], Any] | None = lambda result: result

    def text(self) -> str:
        """The shapes, as printed."""
        if self.shape:
            return self.shape
        return " ".join(f"{k}{'x'.join(map(str, v))}" for k, v in self.inputs.items() if isinstance(v, tuple))


# ---------------------------------------------------------------- running rows


def _flat(result: Any) -> list[Any]:
    if result is None:
        return []
    return [a for a in result if a is not None] if isinstance(result, tuple | list) else [result]


def _nbytes(arrays: Iterable[Any]) -> int:
    return sum(int(a.nbytes) for a in arrays)


def difference(device: devices.Device, ours: Any, theirs: Any, host: Callable[[Any], np.ndarray]) -> float:
    """max |ours - theirs| / max |theirs| over the arrays both have; infinite for NaN or another shape."""
    worst = 0.0
    pairs = list(zip(_flat(ours), _flat(theirs), strict=False))
    if not pairs:
        return math.inf
    for a, b in pairs:
        x, y = np.asarray(device.to_numpy(a), np.float64), np.asarray(host(b), np.float64)
        if x.shape != y.shape:
            return math.inf
        ratio = float(np.max(np.abs(x - y)) / max(float(np.max(np.abs(y))), 1e-30))
        worst = max(worst, ratio) if math.isfinite(ratio) else math.inf
    return worst


class _Prepared:
    """A row with its inputs on the device and the kernels that apply."""

    def __init__(self, row: Row, device: devices.Device, only: str):
        self.row, self.device = row, device
        names: list[str | None] = [None]
        if device.ext is not None and row.kernels is not None:
            names = list(row.kernels(device.name))
        self.names = [name for name in names if only in f"{row.name} {row.op} {name}"]
        rng = np.random.default_rng(0)
        self.host = {
            name: what(rng) if callable(what) else rng.standard_normal(what, dtype=np.float32)
            for name, what in row.inputs.items()
        }

    def arrays(self) -> dict[str, Any]:
        """The inputs on the device; copies, since some rows work in place."""
        return {name: self.device.asarray(a.copy()) for name, a in self.host.items()}

    def options(self, kernel: str | None) -> dict[str, Any]:
        workspace = {"workspace": Workspace(self.device)} if self.row.workspace else {}
        return workspace | ({"kernel": kernel} if kernel else {})

    def result(self, kernel: str | None) -> dict[str, Any]:
        """The JSON's fields without figures."""
        row = self.row
        fixed = {"name": row.name, "op": row.op, "shape": row.text(), "kernel": kernel or self.device.kind}
        fixed |= {"flops": row.flops, "bytes": row.bytes}
        return fixed | dict.fromkeys([*FIGURES, "peer", "peer_us", "difference", "error"])


def time_row(
    row: Row, device: devices.Device, clock: Any, rates: dict[str, Any], torch: Any = None, only: str = ""
) -> Iterator[dict[str, Any]]:
    """Time one row: a dict as in the JSON for every kernel that applies and has `only` in its title."""
    prepared = _Prepared(row, device, only)
    work = theirs = peer_error = peer_us = None
    if torch is not None and row.peer is not None and prepared.names:
        try:
            work = row.peer(torch, torch.tensors(prepared.host))
            theirs = work()
        except Exception as error:  # a finding about the peer, not about the row
            peer_error = f"peer: {type(error).__name__}: {error}"
    for kernel in prepared.names:
        result = prepared.result(kernel) | {"error": peer_error}
        try:
            arrays, options = prepared.arrays(), prepared.options(kernel)
            outputs = row.call(arrays, **options)
            if theirs is not None:
                result["peer"] = torch.name
                if row.compare is not None:
                    gap = difference(device, row.compare(outputs), theirs, torch.to_numpy)
                    result["difference"] = gap if math.isfinite(gap) else None
                    if not gap <= AGREEMENT:
                        result["error"] = f"differs from the peer by {gap:.2g} of the largest value"
                if peer_us is None:
                    peer_us = 1e6 * spread(clock.measure(work)[0])[0]
                result["peer_us"] = peer_us
            if row.bytes is None:
                result["bytes"] = _nbytes(arrays.values()) + _nbytes(_flat(outputs))
            if row.out:
                options["out"] = outputs
            times, host_seconds = clock.measure(lambda a=arrays, o=options: row.call(a, **o))
            result |= figures(times, host_seconds, row.flops, result["bytes"], rates)
        except Exception as error:  # one kernel's failure must not hide the others' times
            result["error"] = f"{type(error).__name__}: {error}"
        yield result


def check_row(row: Row, device: devices.Device, only: str = "") -> Iterator[dict[str, Any]]:
    """Run every kernel of a row once and compare all it returns with the float64 reference."""
    prepared = _Prepared(row, device, only)
    exact = {k: a.astype(np.float64) if a.dtype == np.float32 else a.copy() for k, a in prepared.host.items()}
    if prepared.names:
        with ops.on("cpu"):
            reference = row.call(exact)
    for kernel in prepared.names:
        result = prepared.result(kernel)
        try:
            arrays = prepared.arrays()
            outputs = row.call(arrays, **prepared.options(kernel))
            ours, theirs = (outputs, reference) if row.out else (list(arrays.values()), list(exact.values()))
            gap = difference(device, ours, theirs, np.asarray)
            result["difference"] = gap if math.isfinite(gap) else None
            if not gap <= AGREEMENT:
                result["error"] = f"differs from the reference by {gap:.2g} of the largest value"
        except Exception as error:  # one kernel's failure must not hide the others'
            result["error"] = f"{type(error).__name__}: {error}"
        yield result


FIGURES = ("median_us", "p20_us", "p80_us", "calls", "gflops", "gbps", "limit_us", "of_limit", "host_us")


def figures(
    times: list[float], host_seconds: float | None, flops: float, nbytes: float, rates: dict[str, Any]
) -> dict[str, Any]:
    """The figures of a row from the seconds of its calls."""
    median, low, high = spread(times)
    limit = limit_seconds(flops, nbytes, rates)
    return {
        "median_us": 1e6 * median,
        "p20_us": 1e6 * low,
        "p80_us": 1e6 * high,
        "calls": len(times),
        "gflops": 1e-9 * flops / median if flops else None,
        "gbps": 1e-9 * nbytes / median if nbytes else None,
        "limit_us": limit and 1e6 * limit,
        "of_limit": limit and limit / median,
        "host_us": host_seconds and 1e6 * host_seconds,
    }


# ---------------------------------------------------------------- where it ran


def _output(*command: str) -> str | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=20, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def machine(device: devices.Device) -> dict[str, Any]:
    """What ran the benchmark: processor, GPU, driver."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = [line.split(":")[1].strip() for line in lines if "model name" in line]
        cpu = f"{models[0]} ({len(models)} logical)" if models else cpu
    except OSError:
        pass
    result = {"cpu": cpu, "threads": len(os.sched_getaffinity(0)), "system": platform.platform()}
    if device.kind == "cuda":
        query = "name,driver_version,memory.total,clocks.sm,clocks.mem,clocks.max.sm,power.limit"
        result["gpu"] = device.xp.cuda.runtime.getDeviceProperties(device.index)["name"].decode()
        result["nvidia_smi"] = {
            "query": query,
            "answer": _output(
                "nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", f"--id={device.index}"
            ),
        }
    return result


def versions(device: devices.Device) -> dict[str, Any]:
    """Versions of what the figures depend on."""
    import importlib.metadata

    result = {"python": platform.python_version()}
    for name in ("pyconvnet", "numpy", "cupy-cuda13x", "torch"):
        try:
            result[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            result[name] = None
    if device.kind == "cuda":
        runtime = device.xp.cuda.runtime
        result |= {
            "cuda_runtime_of_cupy": runtime.runtimeGetVersion(),
            "cuda_driver": runtime.driverGetVersion(),
        }
    return result


def header(
    family: str, device: devices.Device, batch: int, clock: Any, rates: dict[str, Any]
) -> dict[str, Any]:
    """The JSON document without its rows."""
    commit = _output("git", "rev-parse", "HEAD")
    if commit and _output("git", "status", "--porcelain", "--untracked-files=no"):
        commit += " and uncommitted changes"
    return {
        "schema": 1,
        "family": family,
        "device": device.name,
        "clock": clock.name,
        "batch": batch,
        "machine": machine(device),
        "versions": versions(device),
        "git": commit,
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "limits": rates,
        "rows": [],
    }


# ---------------------------------------------------------------- command line


def parser(description: str) -> argparse.ArgumentParser:
    """The options every benchmark takes."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--device", help="cuda:N, cpu or emulator (default: cuda:0 where it works, else cpu)")
    p.add_argument("--batch", type=int, help="images per call (default: 128 on a GPU, else 2)")
    p.add_argument("--tiny", action="store_true", help="small shapes: to try the script, not to measure")
    p.add_argument("--seconds", type=float, default=0.3, help="time per row (default 0.3)")
    p.add_argument("--calls", type=int, default=100, help="most calls per row (default 100)")
    p.add_argument("--only", default="", help="only rows whose name, op or kernel contains this")
    p.add_argument("--no-peers", action="store_true", help="do not time PyTorch")
    p.add_argument(
        "--check",
        action="store_true",
        help="time nothing: run every kernel once and compare with the float64 reference",
    )
    p.add_argument("--json", type=Path, help="write the results to this file")
    return p


def as_options(args: argparse.Namespace, *left_out: str) -> list[str]:
    """The words that :func:`parser` would read as these arguments."""
    words: list[str] = []
    for action in parser("")._actions:
        value = getattr(args, action.dest, None)
        if action.dest in left_out or value in (None, False, action.default):
            continue
        words += [action.option_strings[0]] if value is True else [action.option_strings[0], str(value)]
    return words


def setup(args: argparse.Namespace) -> tuple[devices.Device, int, Any]:
    """The device, the batch and the peer (None without PyTorch) that the options ask for."""
    device = devices.get_device(args.device)
    batch = args.batch or (128 if device.kind == "cuda" else 2)
    if args.check and device.kind == "cuda":
        # Allocations of their own size, so that a memory checker sees their ends.
        device.xp.cuda.set_allocator(None)
    torch = None
    if not args.no_peers and not args.check and device.kind != "emulator":
        import peers

        torch, reason = peers.find(device)
        if torch is None:
            print(f"# no peer: {reason}")
    return device, batch, torch


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


def _number(value: float | None, digits: int = 0, unit: str = "") -> str:
    return "" if value is None else f"{value:.{digits}f}{unit}"


def report(results: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = (
        "layer",
        "op",
        "kernel",
        "median us",
        "p20",
        "p80",
        "GFLOP/s",
        "GB/s",
        "of limit",
        "peer us",
        "ours/peer",
    )
    lines = []
    for r in results:
        limit = r["of_limit"] and 100 * r["of_limit"]
        ratio = r["median_us"] / r["peer_us"] if r["median_us"] and r["peer_us"] else None
        figures = [_number(r[k], 1) for k in ("median_us", "p20_us", "p80_us")]
        figures += [_number(r["gflops"]), _number(r["gbps"]), _number(limit, unit="%")]
        figures += [_number(r["peer_us"], 1), _number(ratio, 2)]
        lines.append((r["name"], r["op"], r["kernel"], *figures))
    return table(head, lines, 3)


def complaints(results: list[dict[str, Any]]) -> list[str]:
    """A line for every row that failed or differs."""
    return [f"{r['name']} {r['op']} {r['kernel']}: {r['error']}" for r in results if r["error"]]


def run(family: str, rows: Callable[[int, bool], Iterable[Row]], args: argparse.Namespace) -> dict[str, Any]:
    """Time (or check) a family's rows; the JSON document."""
    device, batch, torch = setup(args)
    clock = clock_of(device, args.seconds, args.calls)
    rates = limits(device) if not args.check else dict.fromkeys(("fma_flops", "bandwidth", "source"))
    document = header(family, device, batch, clock, rates)
    with device.activate() if device.kind == "cuda" else ops.on(device):
        for row in rows(batch, args.tiny):
            if args.check:
                document["rows"] += check_row(row, device, args.only)
            else:
                document["rows"] += time_row(row, device, clock, rates, torch, args.only)
    return document


def title(document: dict[str, Any]) -> str:
    """One line that says what was measured where."""
    where = document["machine"].get("gpu") or document["machine"]["cpu"]
    device, clock = document["device"], document["clock"]
    return f"# {document['family']}, batch {document['batch']}, {device} ({where}), {clock}"


def main(family: str, rows: Callable[[int, bool], Iterable[Row]]) -> None:
    """The whole of ``python bench_FAMILY.py``; exit status 1 when a row failed or differs."""
    args = parser(f"Benchmark of the {family} family").parse_args()
    document = run(family, rows, args)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(title(document))
    if not args.check:
        print(report(document["rows"]))
    bad = complaints(document["rows"])
    for line in bad:
        print(line)
    print(f"{family}: {len(document['rows']) - len(bad)} of {len(document['rows'])} rows good")
    if bad or not document["rows"]:
        sys.exit(1)
