"""A training step of AlexNet replayed from a CUDA graph beside the same step issued call by call.

    python benchmarks/bench_graph.py --device cuda:0 --batch 128 --json graph.json

On one device, on the same device twice (the network split over two shards that share it) and, where the
machine has them, on two devices. First both ways train a few steps with a learning rate, a weight decay and
dropout masks that change from step to step: parameters, momenta and sums of costs must have the same bits.
Then they are timed: a step on a batch that is there, and a step with its feeding (bytes to pinned memory,
to the device, augmented), which shows whether feeding hides behind the step before. The clock is the
wall's, over several steps with one wait at their end, as in training: a GPU that waits for Python shows. On
a device without CUDA graphs only steps as issued are timed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from bench_alexnet import network, step_flops
from clocks import limits, no_limits
from harness import FIGURES, OUTCOMES, complaints, figures, header, parser, report, save, setup, title

from pyconvnet.common import devices
from pyconvnet.network import Network
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.plan import Plan

AGREE_STEPS = 4  # of which the first is issued, the second captured, the others replayed
WAYS = {"as issued": "0", "graph replayed": "1"}  # PYCONVNET_GRAPH


class StepsClock:
    """Wall-clock time per step, over rounds of several steps with one wait at the end of each."""

    name = "wall, rounds of steps"

    def __init__(self, seconds: float, calls: int):
        self.seconds, self.steps = seconds, min(10, calls)
        self.rounds = max(3, calls // self.steps)

    def measure(self, step: Callable[[], Any], wait: Callable[[], Any]) -> tuple[list[float], float]:
        """Seconds a step, of every round; seconds the host needs to issue a step."""
        times, host = [], []
        for _ in range(3):
            step()
        wait()
        stop = time.perf_counter() + self.seconds
        while len(times) < 3 or (len(times) < self.rounds and time.perf_counter() < stop):
            start = time.perf_counter()
            for _ in range(self.steps):
                step()
            issued = time.perf_counter()
            wait()
            times.append((time.perf_counter() - start) / self.steps)
            host.append((issued - start) / self.steps)
        return times, sorted(host)[len(host) // 2]


class Batches:
    """Random images as bytes, labels and draws, the same for every plan."""

    def __init__(self, net: Network, batch: int, margin: int = 32):
        h, w, c = net.input_shape
        self.net, self.batch = net, batch
        mean = np.full((c,), 127.5, np.float32)
        self.preprocessing = Preprocessing((h + margin, w + margin, c), (h, w), mean)
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (batch, *self.preprocessing.image_shape), np.uint8)
        self.labels = rng.integers(0, net.classes, batch).astype(np.int32)
        self.crops = rng.integers(0, margin + 1, (16, batch, 2)).astype(np.int32)
        self.colour = rng.standard_normal((batch, c)).astype(np.float32)
        self.parameters = dict(net.initial(0, np.float32))

    def feed(self, plan: Plan, step: int) -> None:
        crop = self.crops[step % len(self.crops)]
        mirror = (crop[:, 0] % 2).astype(np.uint8)
        plan.feed(self.images, self.labels, {"crop": crop, "mirror": mirror, "colour": self.colour})


@contextlib.contextmanager
def way(kernel: str) -> Iterator[None]:
    """Plans made inside run their steps this way; a step that cannot be captured is an error."""
    before = os.environ.get("PYCONVNET_GRAPH")
    os.environ["PYCONVNET_GRAPH"] = WAYS[kernel]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "training goes on without a CUDA graph", RuntimeWarning)
            yield
    finally:
        if before is None:
            del os.environ["PYCONVNET_GRAPH"]
        else:
            os.environ["PYCONVNET_GRAPH"] = before


def prepare(net: Network, places: list[devices.Device], batches: Batches) -> Plan:
    plan = Plan(net, places, batches.batch, initialise=False)
    plan.set_parameters(batches.parameters)
    plan.set_preprocessing(batches.preprocessing)
    return plan


def train(plan: Plan, batches: Batches, steps: int = AGREE_STEPS) -> dict[str, np.ndarray]:
    """A few steps of a schedule; everything they left."""
    for step in range(steps):
        plan.set_hyper(1e-3 / (step + 1), 0.9)
        plan.set_weight_decay(5e-4 * (step + 1))
        batches.feed(plan, step)
        plan.step()
    values = {f"parameters {k}": v for k, v in plan.get_parameters().items()}
    values |= {f"momenta {k}": v for k, v in plan.get_momenta().items()}
    return values | {"sums": plan.get_metrics()}


def difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> tuple[float, str | None]:
    """The largest difference, and what differs in any bit (None: nothing does)."""
    unlike = [k for k in a if a[k].tobytes() != b[k].tobytes()]
    gap = max((float(np.abs(a[k].astype(np.float64) - b[k]).max()) for k in unlike), default=0.0)
    return (
        gap,
        f"differs from the step as issued in {len(unlike)} arrays, first {unlike[0]}" if unlike else None,
    )


def splits(device: devices.Device) -> list[list[devices.Device]]:
    """One device, the same one twice, and two where there are two."""
    lists = [[device], [device, device]]
    if device.kind == "cuda":
        names = [name for name, reason in devices.available_devices() if reason is None]
        others = [d for d in map(devices.get_device, names) if d.kind == "cuda" and d != device]
        lists += [[device, other] for other in others[:1]]
    return lists


def rows(
    net: Network,
    places: list[devices.Device],
    batches: Batches,
    clock: StepsClock | None,
    rates: dict[str, Any],
) -> list[dict]:
    """Both ways on one list of devices: what they leave compared, then (with a clock) timed."""
    flops, results, issued = step_flops(net, batches.batch), [], None
    where = f"batch {batches.batch} on {', '.join(d.name for d in places)}"
    for kernel in WAYS if places[0].kind == "cuda" else ["as issued"]:
        common = {"name": net.name, "shape": where, "kernel": kernel, "flops": flops, "bytes": None}
        common |= {"precision": "fp32", "chosen": True, "choice": None, "part": "graph"}
        common |= dict.fromkeys((*FIGURES, *OUTCOMES)) | {"peers": []}
        mine = []
        try:
            with way(kernel):
                plan = prepare(net, places, batches)
                values = train(plan, batches)
                if issued is None:
                    issued = values
                gap, complaint = difference(values, issued)
                for op in ("training step", "step and feeding") if clock else ("same bits",):
                    row = {**common, "op": op, "difference": gap, "error": complaint}
                    mine.append(row)
                    if clock:
                        step = plan.step if op == "training step" else fed(plan, batches)
                        row |= figures(*clock.measure(step, plan.synchronize), flops, 0, rates)
        except Exception as error:  # the other rows are worth having
            mine = mine or [{**common, "op": "training step"}]
            mine[-1]["error"] = f"{type(error).__name__}: {error}"
        results += mine
    return results


def fed(plan: Plan, batches: Batches) -> Callable[[], None]:
    count = iter(range(2**62))

    def step() -> None:
        batches.feed(plan, next(count))
        plan.step()

    return step


def speedups(results: list[dict]) -> list[str]:
    """How much faster replayed steps are, a line for each pair."""
    lines, times = [], {(r["shape"], r["op"], r["kernel"]): r["median_us"] for r in results}
    for (shape, op, kernel), fast in times.items():
        slow = times.get((shape, op, "as issued"))
        if kernel == "graph replayed" and fast and slow:
            lines.append(f"{shape}, {op}: {slow / 1e3:.2f} ms as issued, {fast / 1e3:.2f} ms replayed")
    return lines


def main() -> None:
    p = parser("AlexNet's training step: replayed from a CUDA graph, and as issued")
    args = p.parse_args()
    args.no_peers = True
    device, batch, _ = setup(args)
    clock = None if args.check else StepsClock(args.seconds, args.calls)
    net = network(args.tiny)
    rates = no_limits() if args.check else limits(device, tiny=args.tiny)
    document = header("graph", device, args, batch, clock or StepsClock(0, 1), rates)
    batches = Batches(net, batch)
    for places in splits(device):
        document["rows"] += rows(net, places, batches, clock, rates)
        save(document, args.json)  # also when time runs out after it
    print(title(document))
    if clock:
        print(report(document["rows"]))
    bad = complaints(document["rows"])
    if bad:
        sys.exit("\n".join(bad))
    print("\n".join(speedups(document["rows"])))
    if device.kind == "cuda":
        print(
            f"graph: same bits as issued after {AGREE_STEPS} steps on {len(splits(device))} lists of devices"
        )
    else:
        print(f"graph: {device.name} has no CUDA graphs; steps as issued run")


if __name__ == "__main__":
    main()
