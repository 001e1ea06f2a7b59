"""A training step, or inference, on the `cpu` device beside the same network in PyTorch, in one run.

    python benchmarks/cpu_vs_pytorch.py --all --threads 2 --out benchmarks/results/cpu-vs-pytorch.json
    python benchmarks/cpu_vs_pytorch.py --model alexnet --batch 1 --infer --profile

Both sides hold the same parameters and the same batch, which is already in place. A training step is forward,
backward and the update (momentum, weight decay and rates as the network's recipe has them); inference is
forward to the scores, without dropout, in PyTorch under `inference_mode`. PyTorch runs in channels_last with
oneDNN, its fastest here, with its fused SGD. Before anything is timed the loss, all gradients and the
parameters after an update, or the scores, must agree, in float64. The two then take turns, a few steps each,
with a pause between so that neither side's waiting threads disturb the other; what counts is the ratio of the
medians.

`--all`: the rows of `ROWS`, about five minutes on two cores. JSON (`--out`): machine, versions, commit,
command, threads, and of each row the batch, how far the two agree, medians, their ratio and every step's
time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

LAYOUT = (0, 2, 3, 1)  # NCHW -> NHWC

#: (model, whether it trains, batch, rounds, steps of each in a round)
ROWS = (
    ("cifar10_80sec", True, 128, 15, 5),
    ("cifar10_18pct", True, 128, 12, 4),
    ("alexnet", True, 16, 6, 2),
    ("alexnet", True, 128, 5, 1),
    ("cifar10_80sec", False, 128, 15, 5),
    ("cifar10_18pct", False, 128, 12, 4),
    ("alexnet", False, 16, 8, 2),
    ("alexnet", False, 128, 5, 1),
    ("cifar10_80sec", False, 1, 20, 50),
    ("cifar10_18pct", False, 1, 20, 40),
    ("alexnet", False, 1, 15, 8),
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="every row of ROWS, not one by the options below")
    parser.add_argument("--model", default="cifar10_80sec", help="a name that pyconvnet.models knows")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--infer", action="store_true", help="inference, not a training step")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20, help="how often the two take turns")
    parser.add_argument("--steps", type=int, default=5, help="steps of each in a round")
    parser.add_argument("--pause", type=float, default=0.1, help="seconds between turns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="also print our time layer by layer")
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    return parser.parse_args()


# ---- the same network in PyTorch ---------------------------------------------------------------------------


def build_twin(
    torch: Any, plan: Any, device: str = "cpu", dtype: Any = None
) -> tuple[Callable[[Any], Any], dict[str, Any], dict[str, Any]]:
    """(forward(x) -> scores, parameters by our names, dropout masks by layer name) of a plan's network.

    A mask that is set replaces the random one, so that networks with dropout can be compared. Of a plan that
    does not train, dropout is that of testing. `dtype`: of the parameters, None: the plan's.
    """
    from pyconvnet import layers
    from pyconvnet.common.checks import padding

    functional = torch.nn.functional
    parameters: dict[str, Any] = {}
    masks: dict[str, Any] = {}
    host = plan.get_parameters()

    def parameter(name: str) -> Any:
        value = torch.from_numpy(host[name].copy()).to(device, dtype)
        if value.ndim == 4:  # KRSC -> KCRS
            value = value.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
        parameters[name] = value.requires_grad_()
        return parameters[name]

    def activated(y: Any, activation: str | None) -> Any:
        return y if activation is None else getattr(functional, activation)(y)

    def symmetric(x: Any, pad: Any, value: float = 0.0) -> tuple[Any, tuple[int, int]]:
        (top, bottom), (left, right) = padding("build_twin", "pad", pad)
        if (top, left) == (bottom, right):
            return x, (top, left)
        return functional.pad(x, (left, right, top, bottom), value=value), (0, 0)

    def step_of(node: Any) -> Callable[..., Any]:
        layer = node.layer
        names = [p.name for p in node.parameters()]
        own = {key: parameters.get(f"{node.owner}.{key}") for key in names}
        own = {key: parameter(f"{node.owner}.{key}") if own[key] is None else own[key] for key in names}
        match layer:
            case layers.Conv2d():

                def run(x: Any) -> Any:
                    x, pad = symmetric(x, layer.pad)
                    y = functional.conv2d(
                        x, own["weight"], own.get("bias"), layer.stride, pad, 1, layer.groups
                    )
                    return activated(y, layer.activation)

            case layers.Linear():

                def run(x: Any) -> Any:
                    rows = (x.permute(LAYOUT) if x.ndim == 4 else x).reshape(len(x), -1)
                    return activated(
                        functional.linear(rows, own["weight"], own.get("bias")), layer.activation
                    )

            case layers.MaxPool2d():

                def run(x: Any) -> Any:
                    x, pad = symmetric(x, layer.pad, -torch.inf)
                    return functional.max_pool2d(x, layer.size, layer.stride, pad, ceil_mode=layer.ceil_mode)

            case layers.AvgPool2d():

                def run(x: Any) -> Any:
                    pad = padding("build_twin", "pad", layer.pad)
                    pad = pad[0][0], pad[1][0]
                    return functional.avg_pool2d(x, layer.size, layer.stride, pad, layer.ceil_mode, False)

            case layers.LRN():

                def run(x: Any) -> Any:  # PyTorch divides alpha by the window
                    norms = [
                        functional.local_response_norm(
                            part, layer.size, layer.alpha * layer.size, layer.beta, layer.k
                        )
                        for part in x.chunk(layer.groups, 1)
                    ]
                    return norms[0] if len(norms) == 1 else torch.cat(norms, 1)

            case layers.SpatialLRN():

                def run(x: Any) -> Any:
                    before, after = layer.size // 2, layer.size - 1 - layer.size // 2
                    squares = functional.pad(x * x, (before, after, before, after))
                    sums = functional.avg_pool2d(squares, layer.size, 1, divisor_override=1)
                    return x / (layer.k + layer.alpha * sums) ** layer.beta

            case layers.ReLU():
                run = functional.relu
            case layers.Tanh():
                run = torch.tanh
            case layers.Logistic():
                run = torch.sigmoid
            case layers.Dropout():
                scale = 1.0 if layer.mode == "paper" else 1 / (1 - layer.p)

                def run(x: Any) -> Any:
                    if not plan.training:
                        return x * layer.test_factor if layer.test_factor != 1 else x
                    mask = masks.get(node.name)
                    if mask is None:
                        return functional.dropout(x, layer.p)
                    return x * mask * scale

            case layers.Add():

                def run(*xs: Any) -> Any:
                    return sum(xs[1:], xs[0])

            case layers.Concat():

                def run(*xs: Any) -> Any:
                    return torch.cat(xs, 1)

            case _:
                raise SystemExit(f"no PyTorch counterpart of {type(layer).__name__}")
        return run

    steps = [(node, step_of(node)) for node in plan.network if not node.layer.is_cost]

    def forward(x: Any) -> Any:
        values = {"input": x}
        for node, run in steps:
            values[node.name] = run(*(values[source] for source in node.inputs))
        return values[plan.network.output]

    return forward, parameters, masks


def to_ours(tensor: Any) -> Any:
    """A parameter or its gradient as NumPy in our layout."""
    tensor = tensor.detach()
    return (tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor).numpy()


# ---- agreement ---------------------------------------------------------------------------------------------


def distance(a: Any, b: Any) -> float:
    """|a - b| / |b|, Euclidean, in float64; infinite where a number is missing."""
    import numpy as np

    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    value = float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-30))
    return value if np.isfinite(value) else float("inf")


class Sides:
    """Both networks with the same parameters, the same batch in place and the same hyper-parameters."""

    def __init__(self, torch: Any, network: Any, batch: int, dtype: str, seed: int, train: bool = True):
        import numpy as np

        from pyconvnet.plan import Plan

        recipe = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4, **network.recipe}
        lr, momentum, decay = (float(recipe[key]) for key in ("lr", "momentum", "weight_decay"))
        rng = np.random.default_rng(seed)
        images = rng.uniform(-128, 128, (batch, *network.input_shape)).astype(dtype)
        labels = rng.integers(0, network.classes, batch)

        self.plan = Plan(network, "cpu", batch, np.dtype(dtype), train=train, seed=seed)
        self.plan.feed(images, labels)
        self.torch = torch
        self.forward, self.parameters, self.masks = build_twin(torch, self.plan)
        self.images = torch.from_numpy(images).permute(0, 3, 1, 2)  # NHWC memory is channels_last
        assert self.images.is_contiguous(memory_format=torch.channels_last)
        self.labels = torch.from_numpy(labels)
        self.ours = self.plan.step if train else self.infer
        self.theirs = self.their_step if train else self.their_scores
        if not train:
            return
        self.plan.set_hyper(lr, momentum)
        self.plan.set_weight_decay(decay)
        specs = network.parameters()
        groups = []
        for name, p in self.parameters.items():
            rates = {"lr": lr * specs[name].lr_mult, "weight_decay": decay * specs[name].decay_mult}
            groups.append({"params": [p], **rates})
        self.optimiser = torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=True)

    def infer(self) -> None:
        """Our scores."""
        self.plan.forward(train=False, costs=False)

    def their_step(self) -> float:
        """A training step; the loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self.torch.nn.functional.cross_entropy(self.forward(self.images), self.labels)
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def their_scores(self) -> Any:
        with self.torch.inference_mode():
            return self.forward(self.images)


def check(torch: Any, network: Any, batch: int, seed: int, train: bool = True) -> dict[str, float]:
    """How far apart one step in float64 from the same state leaves the two; or, not training, their scores.

    In float32 a rounding error may put a value on the other side of a ReLU's corner and change gradients by
    more than rounding; in float64 there is nothing to excuse.
    """
    sides = Sides(torch, network, batch, "float64", seed, train)
    plan = sides.plan
    if train:
        result = _check_step(sides, network)
    else:
        sides.infer()
        result = {"scores": distance(plan.outputs[network.output], sides.theirs().numpy())}
    if not all(value <= 1e-11 for value in result.values()):
        raise SystemExit(f"the two do not agree in float64: {result}")
    return result


def _check_step(sides: Sides, network: Any) -> dict[str, float]:
    plan = sides.plan
    plan.forward()
    plan.backward()
    loss, gradients = plan.loss(), plan.get_gradients()
    for node in network:
        if type(node.layer).__name__ == "Dropout":
            kept = plan.outputs[node.name] != 0  # elsewhere the input, and so its gradient, may be zero too
            sides.masks[node.name] = sides.torch.from_numpy(kept.astype("float64"))
    plan.update()
    loss_peer = sides.theirs()
    ours = plan.get_parameters()
    return {
        "loss": abs(loss - loss_peer) / abs(loss_peer),
        "gradients": max(distance(gradients[name], to_ours(p.grad)) for name, p in sides.parameters.items()),
        "parameters": max(distance(ours[name], to_ours(p)) for name, p in sides.parameters.items()),
    }


# ---- profile -----------------------------------------------------------------------------------------------


def profile(plan: Any, steps: int) -> dict[str, dict[str, float]]:
    """Median milliseconds of each layer's forward and backward, and of the updates."""
    times: dict[str, list[float]] = defaultdict(list)
    phases = ("forward", "backward", "update") if plan.training else ("forward",)
    tasks = plan.tasks(*phases, train=plan.training, costs=plan.training)
    for _ in range(steps):
        with plan.lanes.active(0):
            for task in tasks:
                start = time.perf_counter()
                task.run()
                times[task.name].append((time.perf_counter() - start) * 1e3)
    rows: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for task, values in times.items():
        *layer, what = task.partition(" @")[0].split()
        way = what if what in ("forward", "backward") else "backward"
        rows[" ".join(layer) if way == what else "(update)"][way] += statistics.median(values)
    return {name: dict(ways) for name, ways in rows.items()}


def print_profile(rows: dict[str, dict[str, float]]) -> None:
    total = sum(sum(row.values()) for row in rows.values())
    print(f"\n{'layer':<12} {'forward':>9} {'backward':>9} {'share':>6}")
    for name, row in rows.items():
        share = sum(row.values()) / total
        print(f"{name:<12} {row.get('forward', 0):>6.2f} ms {row.get('backward', 0):>6.2f} ms {share:>6.1%}")
    print(f"{'sum':<12} {total:>6.2f} ms")


# ---- main --------------------------------------------------------------------------------------------------


def spread(times: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(times, n=10)
    return {"median_ms": statistics.median(times), "p10_ms": cut[0], "p90_ms": cut[-1], "best_ms": min(times)}


def milliseconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def scheduling() -> str:
    """The scheduling class this process runs in: SCHED_FIFO (`chrt -f 1`) keeps other processes out."""
    if not hasattr(os, "sched_getscheduler"):
        return "unknown"
    current = os.sched_getscheduler(0)
    names = "SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_IDLE"
    return next((name for name in names if getattr(os, name, None) == current), str(current))


def measure(
    torch: Any, row: tuple, options: argparse.Namespace, agreed: dict[tuple[str, bool], dict[str, float]]
) -> dict[str, Any]:
    """Time one row of :data:`ROWS`, after a check that the two agree, unless `agreed` has it."""
    from pyconvnet import models

    model, train, batch, rounds, steps = row
    network = models.build(model)
    print(f"{network.name}, {'a training step' if train else 'inference'}, batch {batch}", flush=True)
    if (model, train) not in agreed:
        agreed[model, train] = check(torch, network, min(batch, 16), options.seed, train)
    apart = ", ".join(f"{key} {value:.0e}" for key, value in agreed[model, train].items())
    print(f"  in float64 the two are apart by: {apart}")
    both = Sides(torch, network, batch, "float32", options.seed, train)
    load = [os.getloadavg()[0]]
    times: dict[str, list[float]] = {"pyconvnet": [], "pytorch": []}
    sides = {"pyconvnet": both.ours, "pytorch": both.theirs}
    for run in sides.values():
        run()  # prepares what is prepared once
    for turn in range(rounds):
        for name in sorted(sides, reverse=turn % 2 == 1):
            time.sleep(options.pause)
            first = milliseconds(sides[name])  # wakes the threads up, of which half a second takes no notice
            counts = first > 500
            rest = [milliseconds(sides[name]) for _ in range(steps - counts)]
            times[name] += [first, *rest] if counts else rest
    load.append(os.getloadavg()[0])
    result = {name: spread(values) for name, values in times.items()}
    for name, figures in result.items():
        print(
            f"  {name:<10} median {figures['median_ms']:9.3f} ms, 10-90%: {figures['p10_ms']:.3f} to "
            f"{figures['p90_ms']:.3f}, best {figures['best_ms']:.3f}; "
            f"{batch / figures['median_ms'] * 1e3:.0f} images/s"
        )
    ours, theirs = result["pyconvnet"], result["pytorch"]
    ratio, best = (ours[key] / theirs[key] for key in ("median_ms", "best_ms"))
    print(f"  ratio of the medians {ratio:.2f}, of the best {best:.2f}", flush=True)
    layers = None
    if options.profile:
        layers = profile(both.plan, 5 * steps)
        print_profile(layers)
    return {
        "model": network.name,
        "what": "train" if train else "infer",
        "batch": batch,
        "agreement": agreed[model, train],
        "load_average": load,  # of the machine, before and after: above the threads, others were at work
        "ratio": ratio,
        **result,
        "steps_ms": {name: [round(t, 3) for t in values] for name, values in times.items()},
        "layers_ms": layers,
    }


def main() -> None:
    options = arguments()
    for name in ("PYCONVNET_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)  # before NumPy and PyTorch read them
    import torch
    from harness import commit, machine, versions

    from pyconvnet.common.devices import get_device

    torch.set_num_threads(options.threads)
    onednn = torch.backends.mkldnn.is_available()
    print(f"PyTorch {torch.__version__}, oneDNN {onednn}, {options.threads} threads")
    agreed: dict[tuple[str, bool], dict[str, float]] = {}
    one = (options.model, not options.infer, options.batch, options.rounds, options.steps)
    device = get_device("cpu")
    document = {
        "benchmark": "cpu_vs_pytorch",
        "command": shlex.join(["python", *sys.argv]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(device),
        "versions": versions(device),
        "onednn": onednn,
        "threads": options.threads,
        "seed": options.seed,
        "scheduling": scheduling(),
        "rows": [measure(torch, row, options, agreed) for row in (ROWS if options.all else (one,))],
    }
    print("\n| network | | batch | ours, ms | PyTorch, ms | ratio |\n|---|---|---|---|---|---|")
    for row in document["rows"]:
        times = " | ".join(f"{row[name]['median_ms']:.4g}" for name in ("pyconvnet", "pytorch"))
        print(f"| `{row['model']}` | {row['what']} | {row['batch']} | {times} | {row['ratio']:.2f} |")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
