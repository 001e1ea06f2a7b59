"""What a call costs before any arithmetic: operations on tiny arrays beside PyTorch's, and a plan's launches.

    python benchmarks/overhead.py                            # a table
    python benchmarks/overhead.py --json benchmarks/results/overhead.json

Operations run on 1 x 4 x 4 x 4 arrays, where hardly anything is computed, on the cpu and on the emulator
(whose kernels are emulated, and so take a while of their own). All take turns, some calls each, in one
process on one thread; what counts is the median over the turns of the processor time of a call, which other
work on the machine disturbs less than the wall's. PyTorch, where it is installed, runs eagerly, without
gradients.

A plan's step is timed on the emulator with functions that do nothing in place of the compiled kernels, and
divided by the number of them that it calls: what a launch costs in Python. On the cpu the whole step of the
same network is timed.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import gc
import importlib.util
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from text import number, table

DEVICES = ("cpu", "emulator")
#: At most so many microseconds, where there is a limit.
LIMITS = {"conv2d": 20.0, "relu": 10.0, "launch in a plan": 3.0}
Calls = dict[tuple[str, str], Callable[[int], None]]  # (operation, who) -> calls it so many times


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=100, help="how often all take turns (100)")
    parser.add_argument("--calls", type=int, default=50, help="calls in a turn (50)")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


# ---- operations --------------------------------------------------------------------------------------------


def ours() -> Calls:
    """A call of each operation on arrays that are there, on each device."""
    from pyconvnet import ops

    rng = np.random.default_rng(0)

    def f32(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    x, dy, w, b = f32(1, 4, 4, 4), f32(1, 4, 4, 4), f32(4, 3, 3, 4), f32(4)
    rows, matrix = f32(1, 64), f32(4, 64)
    y, dw, out4 = f32(1, 4, 4, 4), f32(4, 3, 3, 4), f32(1, 4)
    pooled, argmax, scale = f32(1, 2, 2, 4), np.empty((1, 2, 2, 4), np.uint8), f32(1, 4, 4, 4)
    calls = {
        "conv2d": lambda: ops.conv2d(x, w, pad=1, out=y),
        "conv2d, bias, relu": lambda: ops.conv2d(x, w, b, pad=1, activation="relu", out=y),
        "conv2d_dgrad": lambda: ops.conv2d_dgrad(dy, w, (1, 4, 4, 4), pad=1, out=y),
        "conv2d_wgrad": lambda: ops.conv2d_wgrad(dy, x, (4, 3, 3, 4), pad=1, out=dw),
        "linear": lambda: ops.linear(rows, matrix, out=out4),
        "relu": lambda: ops.relu(x, out=y),
        "relu_backward": lambda: ops.relu_backward(dy, x, out=y),
        "add": lambda: ops.add(x, dy, out=y),
        "max_pool2d": lambda: ops.max_pool2d(x, 2, 2, out=(pooled, argmax)),
        "lrn": lambda: ops.lrn(x, out=(y, scale)),
    }

    def on(device: str, call: Callable[[], Any]) -> Callable[[int], None]:
        def run(times: int) -> None:
            with ops.on(device):
                for _ in range(times):
                    call()

        return run

    return {(op, device): on(device, call) for op, call in calls.items() for device in DEVICES}


def peers() -> Calls:
    """PyTorch's calls of the same on the CPU; none where it is not installed."""
    if importlib.util.find_spec("torch") is None:
        return {}
    import torch

    torch.set_num_threads(1)
    functional = torch.nn.functional
    x = torch.randn(1, 4, 4, 4).contiguous(memory_format=torch.channels_last)
    w = torch.randn(4, 4, 3, 3).contiguous(memory_format=torch.channels_last)
    b, y, rows, matrix = torch.randn(4), torch.empty_like(x), torch.randn(1, 64), torch.randn(4, 64)
    calls = {
        "conv2d": lambda: functional.conv2d(x, w, padding=1),
        "conv2d, bias, relu": lambda: functional.relu_(functional.conv2d(x, w, b, padding=1)),
        "linear": lambda: functional.linear(rows, matrix),
        "relu": lambda: torch.clamp_min(x, 0, out=y),
        "add": lambda: torch.add(x, x, out=y),
        "max_pool2d": lambda: functional.max_pool2d(x, 2, 2, return_indices=True),
        "lrn": lambda: functional.local_response_norm(x, 5),
    }

    def repeated(call: Callable[[], Any]) -> Callable[[int], None]:
        def run(times: int) -> None:
            with torch.inference_mode():
                for _ in range(times):
                    call()

        return run

    return {(op, "PyTorch"): repeated(call) for op, call in calls.items()}


# ---- a plan ------------------------------------------------------------------------------------------------


def plan(device: str) -> Any:
    """A plan of a small network of many kinds of layers, fed with two images."""
    from pyconvnet import models
    from pyconvnet.plan import Plan

    found = Plan(models.build("alexnet", classes=10, input_size=67, width=0.03), device, 2)
    images = np.random.default_rng(0).standard_normal((2, 67, 67, 3), dtype=np.float32)
    found.feed(images, np.array([1, 2]))
    found.set_hyper(1e-3, 0.9)
    found.set_weight_decay(5e-4)
    return found


@contextmanager
def replaced(function: Callable[..., None]) -> Iterator[None]:
    """Put a function in the place of every compiled kernel of the emulator."""
    from pyconvnet import get_device

    ext = get_device("emulator").ext
    names = [name.removesuffix("_table") for name in dir(ext) if name.endswith("_table")]
    before = {name: getattr(ext, name) for name in names}
    try:
        for name in names:
            setattr(ext, name, function)
        yield
    finally:
        for name, value in before.items():
            setattr(ext, name, value)


def launches() -> int:
    """The number of kernels that a step of the plan launches."""
    counted = 0

    def count(*_: Any, **__: Any) -> None:
        nonlocal counted
        counted += 1

    with replaced(count):
        counting = plan("emulator")
        counting.step()
        before = counted
        counting.step()
    if counted == before:
        raise RuntimeError("a step of a plan called none of the functions that stand for the kernels")
    return counted - before


def nothing(*_: Any, **__: Any) -> None:
    """Stand for a kernel."""


def steps(of: Any, times: int) -> None:
    for _ in range(times):
        of.step()


# ---- timing ------------------------------------------------------------------------------------------------


def measure(calls: Calls, rounds: int, times: int) -> dict[tuple[str, str], list[float]]:
    """Microseconds a call, round by round, all taking turns; every round begins with another."""
    found: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for run in calls.values():
        run(3)
    keys = list(calls)
    gc.collect()
    gc.disable()
    try:
        for i in range(rounds):
            at = i % len(keys)
            for key in keys[at:] + keys[:at]:
                start = time.process_time_ns()
                calls[key](times)
                found[key].append((time.process_time_ns() - start) / times / 1000)
    finally:
        gc.enable()
    return found


def row(op: str, who: str, values: list[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(values, n=10)
    row = {"operation": op, "on": who, "median_us": round(statistics.median(values), 3)}
    row |= {"p10_us": round(cuts[0], 3), "p90_us": round(cuts[-1], 3)}
    return row | {"limit_us": None if who == "PyTorch" else LIMITS.get(op)}


def measured(rounds: int, times: int) -> tuple[list[dict[str, Any]], int]:
    """All rows, and the number of launches of the plan's step."""
    found = measure({**ours(), **peers()}, rounds, times)
    count = launches()
    with replaced(nothing):
        idle = functools.partial(steps, plan("emulator"))
        whole = functools.partial(steps, plan("cpu"))
        turns = {("step of a plan, without kernels", "emulator"): idle, ("step of a plan", "cpu"): whole}
        found |= measure(turns, max(2, rounds // 4), max(1, times // 5))
    empty = found["step of a plan, without kernels", "emulator"]
    found["launch in a plan", "emulator"] = [value / count for value in empty]
    return [row(op, who, values) for (op, who), values in found.items()], count


def report(rows: list[dict[str, Any]]) -> str:
    """One line an operation: medians (and the lowest tenth) by where it ran."""
    lines = []
    for op in dict.fromkeys(row["operation"] for row in rows):
        mine = {row["on"]: row for row in rows if row["operation"] == op}
        cells = (
            f"{mine[who]['median_us']:.2f} ({mine[who]['p10_us']:.2f})" if who in mine else ""
            for who in (*DEVICES, "PyTorch")
        )
        lines.append((op, *cells, number(LIMITS.get(op))))
    head = ("us a call: median (p10)", *DEVICES, "PyTorch", "at most")
    return table(head, lines, 1)


def commit(folder: Path) -> str | None:
    """The commit of the tree that a folder lies in, None outside of git."""
    command = ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() or None


def main() -> None:
    options = arguments()
    os.environ["PYCONVNET_NUM_THREADS"] = "1"
    import pyconvnet

    rows, count = measured(options.rounds, options.calls)
    print(report(rows))
    print(f"\na step of the plan: {count} launches")
    if options.json:
        torch = sys.modules.get("torch")
        document = {
            "benchmark": "overhead",
            "command": shlex.join(["python", *sys.argv]),
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": {"system": platform.platform(), "processors": os.cpu_count()},
            "versions": {
                "python": platform.python_version(),
                "pyconvnet": pyconvnet.__version__,
                "commit": commit(Path(pyconvnet.__file__).parent),
                "numpy": np.__version__,
                "torch": torch and torch.__version__,
            },
            "load_average": os.getloadavg()[0],
            "clock": "processor time",
            "rounds": options.rounds,
            "calls_a_turn": options.calls,
            "launches_a_step": count,
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
