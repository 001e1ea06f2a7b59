"""Scaling on paper: predicts training images/s of a network on 1 to 1024 GPUs. It measures nothing.

    python benchmarks/scaling_model.py                                    alexnet on H200s, as tables
    python benchmarks/scaling_model.py --png out.png --json out.json      and as a picture and as JSON
    python benchmarks/scaling_model.py --measured results.json            kernel times that run.py measured
    python benchmarks/scaling_model.py --gpu a100 --inside pcie4 --between eth25 --nics 1 --precision tf32
    python benchmarks/scaling_model.py --one-weird-trick --png check.png  the check against the 2014 table

``docs/scaling.md`` reads the pictures. The formulas:

**A kernel** on n examples takes ``max(F / flops, M / bandwidth) + overhead``: F is 2 per multiply-add, M
every byte of its operands and results once (nothing stays in a cache), overhead the launch and the ramp up
and down. Kernels follow each other; ``scaling/work.py`` lists them: forward, ReLU backward, dgrad (not below
the first layer that learns), wgrad, bias gradient, normalisation, pooling, dropout, loss. The update reads w,
v, g and writes w, v in one launch. With a measured file a kernel's time is multiplied by measured / formula
at the measured shape (``scaling/measured.py``).

**A collective** over g GPUs on a vector of m bytes, with links of B bytes/s in each direction and a seconds a
step:

    all-reduce, ring       2 (g - 1) a + 2 (g - 1)/g m/B
    all-reduce, tree       2 ceil(log2 g) a + 2 m/B                  (double binary tree, pipelined)
    all-reduce, doubling   2 ceil(log2 g) a + 2 (g - 1)/g m/B        (recursive halving and doubling)
    all-gather, reduce-scatter:   ring (g - 1) a, else ceil(log2 g) a, and (g - 1)/g m/B
    to or from one GPU     as the all-gather: its link carries (g - 1)/g m
    direct                 every part to every other GPU in turn: sum of (a + m/g/B) over the g - 1 others

Between nodes an all-reduce is: reduce-scatter inside the node, all-reduce of each part between nodes,
all-gather inside; an all-gather likewise. Latencies add; transfers inside and between run at the same time,
so the slower counts. A GPU's share of the way out is B(card) * cards / GPUs of the node. ``auto`` takes the
cheapest of the three on each level.

**A step** on G GPUs and N images, with R copies of each layer, each split over T = G/R neighbouring GPUs:

    data     R = G, T = 1          model    R = 1, T = G          towers   T = 2 (or split=), R = G/T
    hybrid   layers before the first fully connected one: R = G, T = 1
             the others: T = G (or split=), R = G/T

A GPU works on ceil(N/R) images and ceil(channels/T) channels of each layer. A layer whose groups are a
multiple of T finds all it reads in its own slice (AlexNet's towers at T = 2). Another convolution all-gathers
its group's part of the input from the T/groups GPUs that have it, a fully connected layer the whole input, a
normalisation gets window - 1 channels from its two neighbours, the cost the scores; on the way back the
inputs' gradients are reduce-scattered at the same price (but for the cost). head=first keeps the last fully
connected layer whole on the first of the T GPUs: its input goes there, and its time counts in full. Between
the two halves of the hybrid the same collectives move rows, N/R x features, to each of T GPUs. With batch=b
the fully connected layers take their rows in passes of b and update after each ("variable batch"); with
overlap, a pass's exchange with the convolutions hides behind the computing of the one before it:

    exposed = gather + scatter + (passes - 1) max(0, gather + scatter - computing of a pass)

Exchanges of activations are waited for. Gradients are summed over the R copies in buckets, as backward fills
them, one after the other on the links; exchanges go first and hold them up. With o(k) the moment at which
bucket k is full and c(k) its cost:

    free(k) = max(free(k-1), o(k)) + c(k)       step = max(end of backward, free(last)) + update

Without overlap all o(k) are the end of backward. The whole is no faster than nodes * input_rate images/s.

    speed-up = images/s / images/s of one GPU        efficiency = speed-up / G

with one GPU at the same images per GPU (weak scaling: batch * G images a step) or at the same global batch
(strong scaling). Not in the model: GPUs that wait for slower ones, copies and kernels that compete for
memory, the host's time, a cache that holds operands, memory that does not suffice, layers pinned with
``device=``.

JSON: ``{"schema": 1, "kind": "prediction", "command", "inputs": {...}, "measured", "layers": [{"name",
"forward_us", "backward_us", "update_us"}], "rows": [{"scaling", "strategy", "gpus", "batch", "batch_per_gpu",
"images_per_second", "speedup", "efficiency", "step_us", "parts_us": {...}, "sync_total_us", "bound",
"lost_to", "reason"}]}``. `bound` is the largest part of the step; `lost_to` what grew most against an ideal
share of one GPU's step: a part, or "kernels" (arithmetic and memory). Figures are null where `reason` says
why a strategy is impossible.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaling import hardware, measured, one_weird_trick
from scaling.collectives import ALGORITHMS
from scaling.hardware import BETWEEN, GPUS, INSIDE, Fabric, positive, preset
from scaling.strategies import PARTS, Prediction, Setting, Strategy, predict

from pyconvnet import models
from pyconvnet.network import Network

GPU_COUNTS = tuple(2**i for i in range(11))
STRATEGIES = ("data", "towers", "model", "hybrid", "hybrid:split=8")
SCALINGS = ("weak", "strong")


# ---------------------------------------------------------------- predictions


def network(name: str) -> Network:
    """A network by name, or from the JSON of ``Network.to_dict``."""
    if name == "one_tower":
        return one_weird_trick.one_tower()
    if name.endswith(".json"):
        try:
            return Network.from_dict(json.loads(Path(name).read_text()))
        except OSError as error:
            raise ValueError(f"network: {name} cannot be read: {error.strerror}") from None
    if name not in models.names():
        known = ", ".join([*models.names(), "one_tower"])
        raise ValueError(f"network must be one of {known}, or a .json of Network.to_dict, got {name!r}")
    return models.build(name)


def sweep(
    setting: Setting,
    strategies: Sequence[Strategy],
    gpus: Sequence[int] = GPU_COUNTS,
    scalings: Sequence[str] = SCALINGS,
    batch: int = 128,
    global_batch: int = 1024,
) -> list[dict[str, Any]]:
    """A row, as in the JSON, for every scaling, strategy and number of GPUs.

    Parameters
    ----------
    batch : int
        Images per GPU and step in weak scaling.
    global_batch : int
        Images per step in strong scaling.
    """
    for scaling in scalings:
        if scaling not in SCALINGS:
            raise ValueError(f"scaling must be one of {', '.join(SCALINGS)}, got {scaling!r}")
    hardware.count("batch", batch)
    hardware.count("global_batch", global_batch)
    for g in gpus:
        hardware.count("gpus", g)
    rows = []
    for scaling in scalings:
        alone = predict(setting, Strategy("data"), 1, batch if scaling == "weak" else global_batch)
        for strategy in strategies:
            for g in gpus:
                images = batch * g if scaling == "weak" else global_batch
                row = {"scaling": scaling, "strategy": str(strategy), "gpus": g, "batch": images}
                try:
                    rows.append(row | _figures(predict(setting, strategy, g, images), alone))
                except ValueError as error:  # a strategy that cannot be had there is a result, too
                    rows.append(row | dict.fromkeys(FIGURES) | {"reason": str(error)})
    return rows


FIGURES = (
    "batch_per_gpu", "images_per_second", "speedup", "efficiency", "step_us", "parts_us", "sync_total_us",
    "bound", "lost_to", "reason",
)  # fmt: skip


def _figures(p: Prediction, alone: Prediction) -> dict[str, Any]:
    speedup = p.images_per_second / alone.images_per_second
    ideal = p.batch / alone.batch / p.gpus
    excess = {part: p.parts[part] - ideal * alone.parts[part] for part in PARTS}
    # A kernel may be bound by memory here and by arithmetic there: the two count as one.
    excess["kernels"] = excess.pop("arithmetic") + excess.pop("memory")
    lost_to = max(excess, key=lambda part: excess[part])
    return {
        "batch_per_gpu": p.batch / p.gpus,
        "images_per_second": p.images_per_second,
        "speedup": speedup,
        "efficiency": speedup / p.gpus,
        "step_us": 1e6 * p.step,
        "parts_us": {part: 1e6 * p.parts[part] for part in PARTS},
        "sync_total_us": 1e6 * p.sync_total,
        "bound": p.bound,
        "lost_to": "input" if p.input_bound else lost_to if speedup < p.gpus * (1 - 1e-9) else None,
        "reason": None,
    }


def layer_times(setting: Setting, batch: int) -> list[dict[str, Any]]:
    """Every layer's microseconds on one GPU."""

    def us(kernels: Sequence) -> float:
        return 1e6 * sum(sum(k.seconds(setting.gpu, setting.precision, batch)) for k in kernels)

    return [
        {
            "name": work.name,
            "forward_us": us(work.forward),
            "backward_us": us(work.backward),
            "update_us": us([work.update]) if work.parameters else 0.0,
        }
        for work in setting.works
    ]


# ---------------------------------------------------------------- output


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else "infinite"


def _rounded(value: Any) -> Any:
    """Six digits of every figure: more would pretend to something."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def inputs(setting: Setting, args: argparse.Namespace) -> dict[str, Any]:
    """Everything the predictions depend on."""
    gpu, fabric, net = setting.gpu, setting.fabric, setting.network

    def link(it: hardware.Link) -> dict[str, Any]:
        rate = _plain(it.bandwidth)
        return {"name": it.name, "bytes_per_second": rate, "latency_s": it.latency, "source": it.source}

    return {
        "network": {
            "name": net.name,
            "parameters": net.num_parameters,
            "multiply_adds": net.multiply_adds,
        },
        "gpu": {
            "name": gpu.name,
            "precision": setting.precision,
            "flops": _plain(gpu.rate(setting.precision)),
            "bytes_per_second": _plain(gpu.bandwidth),
            "overhead_s": gpu.overhead,
            "source": gpu.source,
        },
        "gpus_per_node": fabric.gpus_per_node,
        "nics": fabric.nics,
        "inside": link(fabric.inside),
        "between": link(fabric.between),
        "algorithm": setting.algorithm,
        "bucket_bytes": setting.bucket,
        "overlap": setting.overlap,
        "input_rate": _plain(setting.input_rate),
        "batch": args.batch,
        "global_batch": args.global_batch,
    }


def headline(setting: Setting, args: argparse.Namespace, report: measured.Report | None = None) -> str:
    """The setting in a line."""
    f = setting.fabric
    gpu = f"times of {report.device}" if report else f"{setting.gpu.name}, {setting.precision}"
    way_out = f"{f.nics} x {f.between.name} a node of {f.gpus_per_node}"
    return (
        f"{setting.network.name}, {gpu}; {f.inside.name} inside, {way_out};"
        f" {args.batch} images per GPU (weak), {args.global_batch} per step (strong)"
    )


def table(rows: Sequence[dict[str, Any]], scaling: str) -> str:
    """Images/s and efficiency for each number of GPUs; * the fastest, where its time goes and is lost."""
    rows = [row for row in rows if row["scaling"] == scaling]
    strategies = list(dict.fromkeys(row["strategy"] for row in rows))
    cells = [("GPUs", *strategies, "* goes most to", "loses most to")]
    for g in sorted({row["gpus"] for row in rows}):
        here = {row["strategy"]: row for row in rows if row["gpus"] == g}
        possible = [row for row in here.values() if row["images_per_second"]]
        best = max(possible, key=lambda row: row["images_per_second"], default=None)
        line = [str(g)]
        for name in strategies:
            rate, mark = here[name]["images_per_second"], "*" if here[name] is best else " "
            efficiency = here[name]["efficiency"]
            line.append(f"{rate:,.0f} {100 * efficiency:3.0f}%{mark}" if rate else "- ")
        cells.append((*line, (best and best["bound"]) or "", (best and best["lost_to"]) or ""))
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)


def check_table(rows: Sequence[dict[str, Any]]) -> str:
    """The One Weird Trick table beside the model."""
    lines = [
        "GPUs  batch (conv, fc)  table  source         stated rates  a third of them  data par., a third"
    ]
    for r in rows:
        batch = f"({r['batch']}, {r['fc_batch']})"
        lines.append(
            f"{r['gpus']:4d}  {batch:16s}  {r['published']:.2f}x  {r['published_source']:13s}  "
            f"{r['predicted_stated']:11.2f}x  {r['predicted_fitted']:14.2f}x  "
            f"{r['data_parallel_fitted']:17.2f}x"
        )
    return "\n".join(lines)


def dumps(document: dict[str, Any]) -> str:
    """JSON with a line for each key and each row."""
    lines = []
    for key, value in _rounded(document).items():
        text = json.dumps(value, allow_nan=False)
        if isinstance(value, list):
            items = ",\n  ".join(json.dumps(item, allow_nan=False) for item in value)
            text = f"[\n  {items}\n ]"
        lines.append(f"{json.dumps(key)}: {text}")
    return "{\n " + ",\n ".join(lines) + "\n}\n"


# ---------------------------------------------------------------- command line


def _numbers(text: str) -> tuple[int, ...]:
    if not all(word.strip().isdecimal() and int(word) for word in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be whole numbers of at least 1, with commas, got {text!r}")
    return tuple(int(word) for word in text.split(","))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    p.add_argument("--network", default="alexnet", help=f"{', '.join(models.names())}, one_tower, or a .json")
    p.add_argument("--gpu", default="h200", help=", ".join(GPUS))
    p.add_argument("--precision", default="fp32", help=", ".join(hardware.PRECISIONS))
    p.add_argument("--tflops", type=float, help="sustained, in place of the preset's")
    p.add_argument("--memory-gbps", type=float, help="of the GPU's memory, in place of the preset's")
    p.add_argument("--overhead-us", type=float, help="of a kernel, in place of the preset's")
    p.add_argument("--measured", help="JSON of run.py or bench_*.py: times in place of the roofline's")
    p.add_argument("--gpus-per-node", type=int, default=8)
    p.add_argument("--nics", type=int, help="network cards of a node (default: one a GPU)")
    p.add_argument("--inside", default="nvlink4", help=", ".join(INSIDE))
    p.add_argument("--inside-gbps", type=float, help="GB/s of a GPU each way, in place of the preset's")
    p.add_argument("--inside-us", type=float, help="latency of a step, in place of the preset's")
    p.add_argument("--between", default="ndr", help=", ".join(BETWEEN))
    p.add_argument("--between-gbps", type=float, help="GB/s of a card each way, in place of the preset's")
    p.add_argument("--between-us", type=float, help="latency of a step, in place of the preset's")
    p.add_argument("--algorithm", default="auto", help=", ".join(ALGORITHMS))
    p.add_argument("--bucket-mb", type=float, default=25.0, help="gradients summed at once (default 25)")
    p.add_argument("--no-overlap", action="store_true", help="sum gradients after backward")
    p.add_argument("--input-rate", type=float, default=math.inf, help="images/s a node can read and decode")
    p.add_argument("--gpus", type=_numbers, default=GPU_COUNTS, help="default 1,2,4,...,1024")
    p.add_argument("--batch", type=int, default=128, help="images per GPU, weak scaling (default 128)")
    p.add_argument("--global-batch", type=int, default=1024, help="images per step, strong (default 1024)")
    p.add_argument("--scaling", default="weak,strong", help="weak, strong or both with a comma")
    p.add_argument(
        "--strategy", nargs="+", default=STRATEGIES, help=f"default: {' '.join(STRATEGIES)}; options: "
        "towers:split=4, model:head=first, hybrid:split=8,batch=128"
    )  # fmt: skip
    p.add_argument(
        "--one-weird-trick", action="store_true", help="the check alone; only --json and --png count"
    )
    p.add_argument("--json", type=Path)
    p.add_argument("--png", type=Path)
    return p


def _link(what: str, name: str, table: dict, gbps: float | None, us: float | None) -> hardware.Link:
    link = preset(what, name, table)
    if gbps is None and us is None:
        return link
    rate = link.bandwidth if gbps is None else 1e9 * positive(f"{what}_gbps", gbps)
    latency = link.latency if us is None else 1e-6 * positive(f"{what}_us", us, zero=True)
    return hardware.Link(f"{name}, set by hand", rate, latency, "the command line")


def setting_of(args: argparse.Namespace) -> Setting:
    """The setting that the options ask for."""
    gpu = preset("gpu", args.gpu, GPUS)
    changes: dict[str, Any] = {}
    if args.tflops is not None:
        changes["flops"] = {args.precision: 1e12 * positive("tflops", args.tflops)}
    if args.memory_gbps is not None:
        changes["bandwidth"] = 1e9 * positive("memory_gbps", args.memory_gbps)
    if args.overhead_us is not None:
        changes["overhead"] = 1e-6 * positive("overhead_us", args.overhead_us, zero=True)
    if changes:
        gpu = dataclasses.replace(gpu, source="the command line, and: " + gpu.source, **changes)
    fabric = Fabric(
        args.gpus_per_node,
        _link("inside", args.inside, INSIDE, args.inside_gbps, args.inside_us),
        _link("between", args.between, BETWEEN, args.between_gbps, args.between_us),
        args.gpus_per_node if args.nics is None else args.nics,
    )
    return Setting(
        network(args.network),
        gpu,
        fabric,
        args.precision,
        args.algorithm,
        bucket=1e6 * positive("bucket_mb", args.bucket_mb),
        overlap=not args.no_overlap,
        input_rate=positive("input_rate", args.input_rate),
    )


def run(args: argparse.Namespace, command: str) -> tuple[dict[str, Any], str]:
    """The JSON document and the text for people."""
    document = {"schema": 1, "kind": "prediction", "note": NOTE, "command": command}
    if args.one_weird_trick:
        rows = one_weird_trick.check()
        document |= {"one_gpu_hours": one_weird_trick.one_gpu_hours(), "rows": rows}
        document["inputs"] = {
            "table": "second-hand or from memory, row by row",
            "stated_bytes_per_second": one_weird_trick.STATED,
            "fitted_bytes_per_second": one_weird_trick.FITTED,
            "gpu": GPUS["k20"].source,
        }
        hours = (
            f"one GPU: {document['one_gpu_hours']:.1f} hours predicted, {one_weird_trick.HOURS} in the table"
        )
        return document, f"{NOTE}\n{check_table(rows)}\n{hours}"
    setting, report = setting_of(args), None
    if args.measured:
        setting, report = measured.read(args.measured, setting)
    strategies = [Strategy.parse(text) for text in args.strategy]
    scalings = args.scaling.split(",")
    rows = sweep(setting, strategies, args.gpus, scalings, args.batch, args.global_batch)
    document |= {
        "inputs": inputs(setting, args),
        "measured": dataclasses.asdict(report) | {"scale": report.scale} if report else None,
        "layers": layer_times(setting, args.batch),
        "rows": rows,
    }
    text = [NOTE, headline(setting, args, report), *([report.text()] if report else [])]
    for scaling in scalings:
        text += ["", f"{scaling} scaling: images/s and efficiency", table(rows, scaling)]
    return document, "\n".join(text)


NOTE = "Predicted by a model; nothing here was measured, but for times read from a measured file."


def main(words: Sequence[str] | None = None) -> None:
    p = parser()
    words = sys.argv[1:] if words is None else words
    args = p.parse_args(words)
    try:
        document, text = run(args, shlex.join(["python", "benchmarks/scaling_model.py", *words]))
    except ValueError as error:
        p.error(str(error))
    print(text)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(dumps(document))
    if args.png:
        from scaling import draw

        args.png.parent.mkdir(parents=True, exist_ok=True)
        if args.one_weird_trick:
            draw.check(document, args.png)
        else:
            draw.overview(document, args.png)


if __name__ == "__main__":
    main()
