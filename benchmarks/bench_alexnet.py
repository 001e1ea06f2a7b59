"""The whole AlexNet: a training step and inference, ours beside the same network in PyTorch.

    python benchmarks/bench_alexnet.py --device cuda:0 --batch 128 --json alexnet.json

A training step is forward, backward and the update, on a batch already on the device; calls follow each
other without a pause and without flushing caches, as in training. On CUDA ours is timed twice: as Python
issues it, and replayed from a captured CUDA graph. The limit counts multiply-adds alone. Before anything is
timed, loss and gradients of both networks are compared (without dropout, whose random numbers differ).
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from clocks import EventClock, WallClock, limits, spread
from harness import AGREEMENT, FIGURES, complaints, figures, header, parser, report, setup, title

from pyconvnet import devices, models
from pyconvnet.network import Network
from pyconvnet.plan import Plan

HYPER = {"lr": 1e-4, "momentum": 0.9, "weight_decay": 5e-4}


def network(tiny: bool, dropout: float = 0.5) -> Network:
    """The paper's network; with `tiny` a sixteenth of its width on 67 pixels."""
    if tiny:
        return models.build("alexnet", classes=10, input_size=67, width=1 / 16, dropout=dropout)
    return models.build("alexnet", dropout=dropout)


def prepare(net: Network, device: devices.Device, batch: int) -> tuple[Plan, np.ndarray, np.ndarray]:
    """A plan with a random batch fed to it."""
    plan = Plan(net, device, batch)
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
    """The plan's network in PyTorch on the same device, from the same parameters."""

    def __init__(self, peer: Any, plan: Plan, images: np.ndarray, labels: np.ndarray):
        from cpu_vs_pytorch import build_twin

        self.torch = torch = peer.torch
        self.forward, self.parameters, _ = build_twin(torch, plan, peer.device)
        self.images = (
            torch.from_numpy(images).to(peer.device).permute(0, 3, 1, 2)
        )  # NHWC memory is channels_last
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

    def backward(self) -> Any:
        """The loss; leaves the gradients."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.torch.nn.functional.cross_entropy(self.forward(self.images), self.labels)
        loss.backward()
        return loss

    def step(self) -> None:
        self.backward()
        self.optimiser.step()

    def infer(self) -> None:
        with self.torch.no_grad():
            self.forward(self.images)


def agreement(peer: Any, device: devices.Device, batch: int, tiny: bool) -> float:
    """The largest |ours - PyTorch's| / |PyTorch's| (Euclidean) of the loss and of each gradient."""
    from cpu_vs_pytorch import distance, to_ours

    plan, images, labels = prepare(network(tiny, dropout=0.0), device, batch)
    twin = Twin(peer, plan, images, labels)
    plan.forward()
    plan.backward()
    theirs = float(twin.backward().detach().cpu())
    gaps = [abs(plan.loss() - theirs) / abs(theirs)]
    gradients = plan.get_gradients()
    gaps += [distance(gradients[name], to_ours(p.grad.cpu())) for name, p in twin.parameters.items()]
    return max(gaps)


def captured(plan: Plan, tasks: list) -> Callable[[], None]:
    """The tasks as a CUDA graph: captured once, replayed at every call."""
    plan.execute(tasks)  # once as issued, since what is loaded at first use cannot be captured
    return plan.lanes.capture(tasks).launch


def rows(
    plan: Plan, twin: Twin | None, clock: Any, rates: dict[str, Any], gap: float | None, name: str
) -> list[dict]:
    """The results: training step and inference, each as issued and (CUDA) captured."""
    results = []
    net, batch, device = plan.network, plan.batch_size, plan.device
    works = [
        (
            "training step",
            step_flops(net, batch),
            plan.tasks("forward", "backward", "update"),
            twin and twin.step,
        ),
        (
            "inference",
            2.0 * batch * net.multiply_adds,
            plan.tasks("forward", train=False),
            twin and twin.infer,
        ),
    ]
    for op, flops, tasks, theirs in works:
        peer_us = 1e6 * spread(clock.measure(theirs)[0])[0] if theirs else None
        for kernel in ("as issued", "captured graph") if device.kind == "cuda" else ("as issued",):
            row = {
                "name": net.name,
                "op": op,
                "shape": f"batch {batch}",
                "kernel": kernel,
                "flops": flops,
                "bytes": None,
            }
            row |= dict.fromkeys(FIGURES) | {
                "peer": name,
                "peer_us": peer_us,
                "difference": gap,
                "error": None,
            }
            try:
                replay = captured(plan, tasks) if kernel == "captured graph" else None
                work = replay or functools.partial(plan.execute, tasks)
                row |= figures(*clock.measure(work), flops, 0, rates)
            except Exception as error:  # the other rows are worth having
                row["error"] = f"{type(error).__name__}: {error}"
            if gap is not None and not gap <= AGREEMENT:
                row["error"] = f"loss or gradients differ from the peer by {gap:.2g}"
            results.append(row)
    return results


def main() -> None:
    p = parser("AlexNet: training step and inference")
    args = p.parse_args()
    device, batch, peer = setup(args)
    clock = (
        EventClock(device, args.seconds, args.calls, flush=False)
        if device.kind == "cuda"
        else WallClock(args.seconds, args.calls)
    )
    document = header("alexnet", device, batch, clock, limits(device))
    gap = agreement(peer, device, batch, args.tiny) if peer else None
    plan, images, labels = prepare(network(args.tiny), device, batch)
    if args.check:
        plan.step()
        loss = plan.loss()
        print(f"loss {loss:.4f}")
        sys.exit(0 if np.isfinite(loss) else 1)
    twin = Twin(peer, plan, images, labels) if peer else None
    document["rows"] = rows(plan, twin, clock, document["limits"], gap, peer and peer.name)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    print(title(document))
    print(report(document["rows"]))
    for row in document["rows"]:
        if row["median_us"]:
            print(f"{row['op']}, {row['kernel']}: {1e6 * batch / row['median_us']:.0f} images/s")
    bad = complaints(document["rows"])
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
