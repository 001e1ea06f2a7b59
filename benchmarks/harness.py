"""Times every kernel of a family beside its peers and the hardware's limit.

A family's benchmark, ``bench_FAMILY.py``, is one function that lists rows and two lines that run it::

    from harness import Row, alexnet_pools, images, main

    from pyconvnet import ops


    def rows(batch, tiny):
        for s in alexnet_pools(batch, tiny):              # s.name, s.x = (N, H, W, C), s.size, s.stride, s.y
            yield Row(
                name=s.name,                              # the layer: "pool1"
                op="max_pool2d",                          # the public function
                inputs={"x": s.x},                        # shapes; normal random numbers
                call=lambda a, s=s, **kw: ops.max_pool2d(a["x"], s.size, s.stride, **kw),
                kernels=lambda device, s=s: ops.kernels("max_pool2d", s.x, s.size, s.stride, device=device),
                flops=0,                                  # only multiply-adds count, 2 each
                peer=lambda t, a, s=s: t.max_pool2d(a["x"], s.size, s.stride),
                compare=lambda result: result[0],         # y; PyTorch's argmax counts otherwise
                exact=images("x"),                        # what is computed in float64: some images
            )


    if __name__ == "__main__":
        main("pool", rows)

``call(a, **kw)`` gets the arrays of `inputs` on the device and must pass ``**kw`` on to the op: ``out=`` (the
arrays that a first call without it returned, so that nothing is allocated while the clock runs), ``kernel=``
(when `kernels` lists names; each is timed), with ``workspace=True``, ``workspace=`` and, with
``precise=True``, ``precision=``. Functions that work in place say ``out=False``; their result is then the
dict of their arrays. `precision` is the row's; in a "bf16" row the inputs named in `half` are bfloat16.
Inputs that are no normal random numbers are given as a function of a ``numpy.random.Generator`` that returns
the array, or as ``OnDevice(function)`` of the device. A row without `kernels` says what it `runs`. `bytes` is
what must move at least, each input read and each output written once; the harness counts it from the arrays
unless the row says otherwise. `part` is the column of the table: "fprop", "dgrad", "wgrad", "block".

``peer(t, a)`` receives a peer (`peers.Torch`, also compiled, `cudnn_peer.Cudnn`, `cutlass_contender.Cutlass`)
and the same arrays as tensors, and returns works that do the same; ``peer=None``: there is none. Ours and
theirs are compared with float64 (`exact`, of ``compare(result)``: what of our result the peers have too)
before any time counts.

How the numbers come about. All contenders of a row are timed in one process turn about. CUDA: a memory-set
larger than the L2 (and long enough to hide the Python of the call) before every call, CUDA events around it,
after warm-up calls; median, 20th and 80th percentile. Without a GPU (``--device cpu`` or ``emulator``):
wall-clock time, and the JSON says so (``"clock": "wall"``); the emulator's times say nothing about a GPU. The
limit ("roofline") of a row is max(flops / rate of its precision, bytes / bandwidth), both measured in the
same run: :mod:`clocks`.

JSON (``--json FILE``): ``{"schema": 2, "family", "device", "clock", "batch", "tiny", "machine": {...},
"versions": {...}, "git", "command", "time", "peers": {name: what it is or why it is missing}, "limits":
{"bandwidth", "flops": {precision: FLOP/s}, "source": {...}}, "not_supported": [{"op", "precision",
"reason"}], "not_measured": [titles of rows for which no time was left], "rows": [{"name", "op", "part",
"precision", "shape", "kernel", "chosen", "choice", "flops", "bytes", "median_us", "p20_us", "p80_us",
"calls", "gflops", "gbps", "limit_us", "limited_by", "of_limit", "host_us", "peer", "peer_us", "ratio",
"difference", "error", "bound", "peers": [...]}]}``; null where a figure does not exist. `chosen`: the kernel
that a call takes unasked, and `choice` by what ("heuristic", "measured", "cache", "shipped"); `of_limit` is
limit / median; `host_us` the host's time per call; `peer` the fastest peer whose result is right; `ratio` its
median over ours (above 1 we are faster); `difference` the error against float64; `bound` what bounds a row
below 0.8 of its peer. `peers`, in the first row of a contest: ``{"name", "kernel", "median_us", "p20_us",
"p80_us", "calls", "difference", "counts", "note"}`` of each, `counts` false where the result is not right.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bounds import explain
from clocks import clock_of, limit_seconds, limits, no_limits, spread
from contest import (
    FIGURES,
    OUTCOMES,
    OnDevice,
    Prepared,
    Rivals,
    check_row,
    figures,
    normal,
    separated,
    time_row,
)
from exact import Rule, channels, filters, images, whole
from shapes import alexnet_convs, alexnet_linears, alexnet_lrns, alexnet_maps, alexnet_pools
from text import number, table

from pyconvnet import ops
from pyconvnet.common import devices

__all__ = [
    "FIGURES", "OUTCOMES", "OnDevice", "Rivals", "Row", "alexnet_convs", "alexnet_linears", "alexnet_lrns",
    "alexnet_maps", "alexnet_pools", "channels", "check_row", "clock_of", "figures", "filters", "images",
    "limit_seconds", "limits", "main", "normal", "separated", "spread", "time_row", "whole",
]  # fmt: skip


@dataclass
class Row:
    """One call to time; see the module's docstring."""

    name: str
    op: str
    inputs: dict[str, tuple[int, ...] | Callable[[np.random.Generator], np.ndarray] | OnDevice]
    call: Callable[..., Any]
    kernels: Callable[[str], list[str]] | None = None
    flops: float = 0
    bytes: float | None = None
    out: bool = True
    workspace: bool = False
    peer: Callable[[Any, dict[str, Any]], Any] | None = None
    shape: str = ""
    compare: Callable[[Any], Any] = lambda result: result
    exact: Rule = whole
    precision: str = "fp32"
    precise: bool = False
    half: tuple[str, ...] = ()
    part: str = ""
    runs: Callable[[str], dict[str, str]] | None = None

    def text(self) -> str:
        """The shapes, as printed."""
        if self.shape:
            return self.shape
        return " ".join(f"{k}{'x'.join(map(str, v))}" for k, v in self.inputs.items() if isinstance(v, tuple))

    def title(self) -> str:
        """The row in words."""
        return f"{self.name} {self.part or self.op} {self.precision}"


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
    for name in ("pyconvnet", "numpy", "cupy-cuda13x", "torch", "triton", "nvidia-cudnn-frontend"):
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


def commit() -> str | None:
    """The commit of this tree, and whether it was changed; None outside of git."""
    name = _output("git", "rev-parse", "HEAD")
    if name and _output("git", "status", "--porcelain", "--untracked-files=no"):
        name += " and uncommitted changes"
    return name


def header(
    family: str,
    device: devices.Device,
    args: argparse.Namespace,
    batch: int,
    clock: Any,
    rates: dict[str, Any],
    peers: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The JSON document without its rows."""
    return {
        "schema": 2,
        "family": family,
        "device": device.name,
        "clock": clock.name,
        "batch": batch,
        "tiny": args.tiny,
        "machine": machine(device),
        "versions": versions(device),
        "git": commit(),
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "peers": peers or {},
        "limits": rates,
        "not_supported": [],
        "not_measured": [],
        "rows": [],
    }


# ---------------------------------------------------------------- command line


def parser(description: str) -> argparse.ArgumentParser:
    """The options every benchmark takes."""
    p = argparse.ArgumentParser(description=description)
    p.add_argument("--device", help="cuda:N, cpu or emulator (default: cuda:0 where it works, else cpu)")
    p.add_argument("--batch", type=int, help="images per call (default: 128 on a GPU, else 2)")
    p.add_argument("--tiny", action="store_true", help="small shapes: to try the script, not to measure")
    p.add_argument("--seconds", type=float, default=0.3, help="time per contender of a row (default 0.3)")
    p.add_argument("--calls", type=int, default=100, help="most calls per contender (default 100)")
    p.add_argument("--only", default="", help="only rows whose name, op, precision or kernel contains this")
    p.add_argument("--precisions", help="only these, with commas between (default: all)")
    p.add_argument("--chosen", action="store_true", help="only the kernel that a call takes unasked")
    p.add_argument("--no-peers", action="store_true", help="do not time the peers")
    p.add_argument(
        "--compile-seconds",
        type=float,
        help="how long torch.compile may compile in all; then it is left out (default: 600 on a GPU, else 0)",
    )
    p.add_argument(
        "--deadline",
        type=float,
        help="seconds after which no further row is begun; those left out are listed, and no failure",
    )
    p.add_argument(
        "--check",
        action="store_true",
        help="time nothing: run every kernel once and compare with the float64 reference",
    )
    p.add_argument("--json", type=Path, help="write the results to this file, after every row")
    return p


def as_options(args: argparse.Namespace, *left_out: str) -> list[str]:
    """The words that :func:`parser` would read as these arguments."""
    words: list[str] = []
    for action in parser("")._actions:
        value = getattr(args, action.dest, None)
        if action.dest in left_out or value is None or value is False or value == action.default:
            continue
        words += [action.option_strings[0]] if value is True else [action.option_strings[0], str(value)]
    return words


def setup(args: argparse.Namespace) -> tuple[devices.Device, int, Rivals]:
    """The device, the batch and the peers that the options ask for."""
    device = devices.get_device(args.device)
    batch = args.batch or (128 if device.kind == "cuda" else 2)
    if args.check and device.kind == "cuda":
        # Allocations of their own size, so that a memory checker sees their ends.
        device.xp.cuda.set_allocator(None)
    rivals = Rivals()
    if args.no_peers or args.check:
        return device, batch, rivals
    import cudnn_peer
    import cutlass_contender
    import peers

    rivals.torch, reason = peers.find(device)
    rivals.reasons["PyTorch"] = rivals.torch.name if rivals.torch else reason or ""
    found: dict[str, tuple[Any, str | None]] = {}
    if rivals.torch is not None:
        seconds = args.compile_seconds
        seconds = (600.0 if device.kind == "cuda" else 0.0) if seconds is None else seconds
        found["torch.compile"] = peers.compiled(rivals.torch, seconds)
    torch = rivals.torch and rivals.torch.torch
    found |= {"cuDNN": cudnn_peer.find(torch, device), "CUTLASS": cutlass_contender.find(torch, device)}
    for name, (peer, reason) in found.items():
        rivals.reasons[name] = peer.name if peer else reason or ""
        rivals.others += [peer] if peer else []
    for name, what in rivals.reasons.items():
        print(f"# {name}: {what}")
    return device, batch, rivals


def report(results: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    head = ("layer", "op", "precision", "kernel", "median us", "p20", "p80", "GFLOP/s", "GB/s", "of limit")
    lines = []
    for r in results:
        limit = r["of_limit"] and 100 * r["of_limit"]
        figures = [number(r[k], 1) for k in ("median_us", "p20_us", "p80_us")]
        figures += [number(r["gflops"]), number(r["gbps"]), number(limit, unit="%")]
        figures += [r["peer"] or "", number(r["peer_us"], 1), number(r["ratio"], 2)]
        lines.append((r["name"], r["op"], r["precision"], r["kernel"], *figures))
    return table((*head, "best peer", "peer us", "peer/ours"), lines, 4)


def complaints(results: list[dict[str, Any]]) -> list[str]:
    """A line for every row that failed or differs."""
    return [
        f"{r['name']} {r['op']} {r['precision']} {r['kernel']}: {r['error']}" for r in results if r["error"]
    ]


# ---------------------------------------------------------------- running a family


def unsupported(row: Row, device: devices.Device) -> str | None:
    """Why the installed ops refuse a (small) row; None: they do not. Other failures are the row's own."""
    try:
        prepared = Prepared(row, device)
        row.call(prepared.arrays(), **prepared.options(None))
    except (TypeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def wanted(
    rows: Callable[[int, bool], Iterable[Row]],
    device: devices.Device,
    args: argparse.Namespace,
    batch: int,
    document: dict[str, Any],
) -> list[Row]:
    """The rows asked for that the installed ops can do; the document notes the others.

    Only bfloat16, which not every op has, is tried; once for an op, on its smallest shapes.
    """
    precisions = args.precisions.split(",") if args.precisions else None
    chosen = [r for r in rows(batch, args.tiny) if precisions is None or r.precision in precisions]
    reasons: dict[str, str | None] = {}
    for small in rows(2, True):
        if small.precision == "bf16" and small.op not in reasons:
            reasons[small.op] = unsupported(small, device)
    document["not_supported"] = [
        {"op": op, "precision": "bf16", "reason": reason} for op, reason in reasons.items() if reason
    ]
    return [r for r in chosen if r.precision != "bf16" or reasons.get(r.op) is None]


def save(document: dict[str, Any], file: Path | None) -> None:
    """Write the results so far."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(file.name + ".part")
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        partial.replace(file)  # whole at every moment, also when time runs out


def run(family: str, rows: Callable[[int, bool], Iterable[Row]], args: argparse.Namespace) -> dict[str, Any]:
    """Time (or check) a family's rows; the JSON document."""
    start = time.perf_counter()
    device, batch, rivals = setup(args)
    clock = clock_of(device, args.seconds, args.calls, args.tiny)
    rates = no_limits() if args.check else limits(device, rivals.torch and rivals.torch.torch, args.tiny)
    document = header(family, device, args, batch, clock, rates, rivals.reasons)
    with device.activate() if device.kind == "cuda" else ops.on(device):
        for row in wanted(rows, device, args, batch, document):
            if args.deadline is not None and time.perf_counter() - start > args.deadline:
                document["not_measured"].append(row.title())
                continue
            if args.check:
                document["rows"] += check_row(row, device, args.only)
            else:
                done = time_row(row, device, clock, rates, rivals, args.only, args.chosen)
                document["rows"] += [explain(result) for result in done]
            save(document, args.json)
    save(document, args.json)
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
    print(title(document))
    if not args.check:
        print(report(document["rows"]))
    for entry in document["not_supported"]:
        print(f"{entry['op']} {entry['precision']} is not supported: {entry['reason']}")
    bad = complaints(document["rows"])
    for line in bad:
        print(line)
    if document["not_measured"]:
        print(f"no time left for {len(document['not_measured'])} rows")
    print(f"{family}: {len(document['rows']) - len(bad)} of {len(document['rows'])} rows good")
    if bad or not (document["rows"] or document["not_measured"] or args.only):
        sys.exit(1)
