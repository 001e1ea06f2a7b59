"""The whole AlexNet: training step and inference in each precision, beside the same network in PyTorch.

    python benchmarks/bench_alexnet.py --device cuda:0 --batch 128 --json alexnet.json

A training step is forward, backward and the update, on a batch already on the device; ours and the peers take
turns, without flushing caches, as in training. On CUDA ours is timed twice: as Python issues it, and replayed
from a captured CUDA graph. PyTorch's bf16 is its autocast, and its steps run eagerly and compiled. The limit
counts multiply-adds alone. Before anything is timed, loss and gradients of everyone are compared with
PyTorch's in float64, from the same parameters and on the same images (without dropout, whose random numbers
differ); a rounding that moves a value across a ReLU's corner moves whole gradients, so the bounds are wide.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from bounds import explain
from clocks import EventClock, WallClock, limits, spread
from harness import FIGURES, OUTCOMES, Rivals, complaints, figures, header, parser, report, save, setup, title

from pyconvnet import models
from pyconvnet.common import devices
from pyconvnet.common.precision import PRECISIONS
from pyconvnet.network import Network
from pyconvnet.plan import Plan

HYPER = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}
AGREEMENT = {"fp32": 5e-3, "fp32x3": 5e-3, "tf32": 0.1, "bf16": 0.3}
AGREEMENT_IMAGES = 16  # float64 is dear


def network(tiny: bool, dropout: float = 0.5) -> Network:
    """The paper's network; with `tiny` a sixteenth of its width on 67 pixels."""
    if tiny:
        return models.build("alexnet", classes=10, input_size=67, width=1 / 16, dropout=dropout)
    return models.build("alexnet", dropout=dropout)


def prepare(
    net: Network, device: devices.Device, batch: int, precision: str = "fp32"
) -> tuple[Plan, np.ndarray, np.ndarray]:
    """A plan with a random batch fed to it."""
    plan = Plan(net, device, batch, precision=precision)
    plan.set_hyper(HYPER["lr"], HYPER["momentum"])
    plan.set_weight_decay(HYPER["weight_decay"])
    rng = np.random.default_rng(0)
    images = rng.uniform(-128, 128, (batch, *net.input_shape)).astype(np.float32)
    labels = rng.integers(0, net.classes, batch).astype(np.int32)
    plan.feed(images, labels)
    return plan, images, labels


def step_flops(net: Network, batch: int) -> float:
    """2 per multiply-add; forward, dgrad and wgrad, but no dgrad for the layer that reads the images."""
    return sum(
        2.0 * batch * node.layer.multiply_adds(*node.input_shapes) * (2 if "input" in node.inputs else 3)
        for node in net
    )


class Twin:
    """The plan's network in PyTorch on the same device, from the same parameters, by one peer's means."""

    def __init__(
        self,
        peer: Any,
        plan: Plan,
        images: np.ndarray,
        labels: np.ndarray,
        precision: str,
        double: bool = False,
    ):
        from cpu_vs_pytorch import build_twin

        self.torch = torch = peer.torch
        kind = torch.float64 if double else torch.float32
        self.forward, self.parameters, _ = build_twin(torch, plan, peer.device, kind)
        # NHWC memory is channels_last
        self.images = torch.from_numpy(images).to(peer.device, kind).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(labels).long().to(peer.device)
        specs = plan.network.parameters()
        groups = [
            {
                "params": [p],
                "lr": HYPER["lr"] * specs[n].lr_mult,
                "weight_decay": HYPER["weight_decay"] * specs[n].decay_mult,
            }
            for n, p in self.parameters.items()
        ]
        self.optimiser = torch.optim.SGD(groups, HYPER["lr"], HYPER["momentum"], fused=True)
        where = peer.device.partition(":")[0]

        def scores(images: Any) -> Any:
            with torch.autocast(where, torch.bfloat16, enabled=precision == "bf16"):
                return self.forward(images)

        self.scores = scores
        self.loss = peer.ready(
            lambda images, labels: torch.nn.functional.cross_entropy(scores(images).to(kind), labels)
        )
        self.infers = peer.ready(scores)

    def backward(self) -> Any:
        """The loss; leaves the gradients."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.loss(self.images, self.labels)
        loss.backward()
        return loss

    def step(self) -> None:
        self.backward()
        self.optimiser.step()

    def infer(self) -> None:
        with self.torch.no_grad():
            self.infers(self.images)


def _gradients(twin: Twin) -> tuple[float, dict[str, np.ndarray]]:
    from cpu_vs_pytorch import to_ours

    loss = float(twin.backward().detach().cpu())
    return loss, {name: to_ours(p.grad.cpu()) for name, p in twin.parameters.items()}


def agreement(
    rivals: Rivals, device: devices.Device, batch: int, tiny: bool, precision: str
) -> tuple[float, dict[str, float | str]]:
    """The largest |found - exact| / |exact| (Euclidean) of loss and gradients: ours, and by peer."""
    from cpu_vs_pytorch import distance

    count = min(batch, AGREEMENT_IMAGES)
    plan, images, labels = prepare(network(tiny, dropout=0.0), device, count, precision)
    plan.forward()
    plan.backward()
    want_loss, want = _gradients(Twin(rivals.torch, plan, images, labels, "fp32", double=True))

    def gap(loss: float, gradients: dict[str, np.ndarray]) -> float:
        apart = [distance(gradients[name], want[name]) for name in want]
        return max([abs(loss - want_loss) / abs(want_loss), *apart])

    ours = gap(plan.loss(), plan.get_gradients())
    theirs: dict[str, float | str] = {}
    for peer in networks(rivals):
        try:
            peer.use(precision)
            theirs[peer.label] = gap(*_gradients(Twin(peer, plan, images, labels, precision)))
        except Exception as error:  # a finding about the peer
            theirs[peer.label] = f"{type(error).__name__}: {error}"
    return ours, theirs


def networks(rivals: Rivals) -> list[Any]:
    """The peers that can run a whole network."""
    return [peer for peer in rivals.all if hasattr(type(peer), "ready")]


def captured(plan: Plan, tasks: list) -> Callable[[], None]:
    """The tasks as a CUDA graph: captured once, replayed at every call."""
    plan.execute(tasks)  # once as issued, since what is loaded at first use cannot be captured
    return plan.lanes.capture(tasks).launch


def row_of(net: Network, op: str, precision: str, batch: int, kernel: str, flops: float) -> dict[str, Any]:
    """A result without figures."""
    fixed = {"name": net.name, "op": op, "part": op, "precision": precision, "shape": f"batch {batch}"}
    fixed |= {"kernel": kernel, "chosen": True, "choice": None, "flops": flops, "bytes": None}
    return fixed | dict.fromkeys((*FIGURES, *OUTCOMES)) | {"peers": []}


def rows(
    rivals: Rivals,
    device: devices.Device,
    batch: int,
    tiny: bool,
    precision: str,
    clock: Any,
    rates: dict[str, Any],
) -> Iterator[dict]:
    """Training step and inference in one precision, each as issued and (CUDA) captured."""
    ours, theirs = agreement(rivals, device, batch, tiny, precision) if rivals.all else (None, {})
    plan, images, labels = prepare(network(tiny), device, batch, precision)
    net = plan.network
    twins: list[tuple[str, Twin]] = []
    records = {}
    for peer in networks(rivals):
        gap = theirs[peer.label]
        note = gap if isinstance(gap, str) else None
        if note is None and not gap <= AGREEMENT[precision]:
            note = f"loss or gradients are off by {gap:.2g}"
        if note is None:
            try:  # (its precision is in use since the comparison)
                twins.append((peer.label, Twin(peer, plan, images, labels, precision)))
            except Exception as error:
                note = f"{type(error).__name__}: {error}"
        records[peer.label] = {"name": peer.label, "kernel": None} | dict.fromkeys(
            ("median_us", "p20_us", "p80_us", "calls")
        )
        finite = gap if not isinstance(gap, str) and np.isfinite(gap) else None
        records[peer.label] |= {"difference": finite, "counts": note is None, "note": note}
    works = [
        ("training step", step_flops(net, batch), plan.tasks("forward", "backward", "update"), "step"),
        ("inference", 2.0 * batch * net.multiply_adds, plan.tasks("forward", train=False), "infer"),
    ]
    for op, flops, tasks, method in works:
        kernels = ("as issued", "captured graph") if device.kind == "cuda" else ("as issued",)
        results = [row_of(net, op, precision, batch, kernel, flops) for kernel in kernels]
        calls, known, peers = [], [], {label: dict(record) for label, record in records.items()}
        for result in results:
            result["difference"] = ours if ours is None or np.isfinite(ours) else None
            if ours is not None and not ours <= AGREEMENT[precision]:
                result["error"] = f"loss or gradients differ from float64's by {ours:.2g}"
            try:
                replay = captured(plan, tasks) if result["kernel"] == "captured graph" else None
                calls.append(replay or functools.partial(plan.execute, tasks))
                known.append(result)
            except Exception as error:  # the other rows are worth having
                result["error"] = f"{type(error).__name__}: {error}"
        racing = []
        for label, twin in twins:
            try:
                getattr(twin, method)()
                racing.append((label, getattr(twin, method)))
            except Exception as error:
                peers[label] |= {"counts": False, "note": f"{type(error).__name__}: {error}"}
        timed = clock.contest([*calls, *(call for _, call in racing)])
        for result, (times, host) in zip(known, timed, strict=False):
            result |= figures(times, host, flops, 0, rates, precision)
        for (label, _), (times, _) in zip(racing, timed[len(calls) :], strict=True):
            median, low, high = (1e6 * t for t in spread(times))
            peers[label] |= {"median_us": median, "p20_us": low, "p80_us": high, "calls": len(times)}
        results[0]["peers"] = list(peers.values())
        counting = [p for p in peers.values() if p["counts"] and p["median_us"]]
        best = min(counting, key=lambda p: p["median_us"], default=None)
        for result in results:
            if best:
                result |= {"peer": best["name"], "peer_us": best["median_us"]}
                result["ratio"] = result["median_us"] and best["median_us"] / result["median_us"]
            yield explain(result)


def main() -> None:
    start = time.perf_counter()
    p = parser("AlexNet: training step and inference")
    args = p.parse_args()
    device, batch, rivals = setup(args)
    precisions = args.precisions.split(",") if args.precisions else [p for p in PRECISIONS if p != "fp32x3"]
    if args.check:
        for precision in precisions:
            plan, *_ = prepare(network(args.tiny), device, batch, precision)
            plan.step()
            loss = plan.loss()
            print(f"{precision}: loss {loss:.4f}")
            if not np.isfinite(loss):
                sys.exit(1)
        return
    clock = (
        EventClock(device, args.seconds, args.calls, flush=0)
        if device.kind == "cuda"
        else WallClock(args.seconds, args.calls)
    )
    rates = limits(device, rivals.torch and rivals.torch.torch, args.tiny)
    document = header("alexnet", device, args, batch, clock, rates, rivals.reasons)
    for precision in precisions:
        if args.deadline is not None and time.perf_counter() - start > args.deadline:
            document["not_measured"].append(f"alexnet {precision}")
            continue
        try:
            document["rows"] += rows(rivals, device, batch, args.tiny, precision, clock, rates)
        except (TypeError, ValueError) as error:
            if precision != "bf16":
                raise
            reason = f"{type(error).__name__}: {error}"
            document["not_supported"].append({"op": "alexnet", "precision": precision, "reason": reason})
        save(document, args.json)
    save(document, args.json)
    print(title(document))
    print(report(document["rows"]))
    for row in document["rows"]:
        if row["median_us"]:
            rate = 1e6 * batch / row["median_us"]
            print(f"{row['op']}, {row['precision']}, {row['kernel']}: {rate:.0f} images/s")
    for entry in document["not_supported"]:
        print(f"{entry['op']} {entry['precision']} is not supported: {entry['reason']}")
    bad = complaints(document["rows"])
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
