"""Pictures of predictions. Every one says that it shows predictions. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from .strategies import PARTS

_STRATEGY_COLOURS = ("#0072B2", "#009E73", "#7A7A7A", "#E69F00", "#CC3311", "#882277", "#33BBEE")
_MARKERS = "os^DvPX"
_PART_COLOURS = {
    "arithmetic": "#33566E",
    "memory": "#7FA3B8",
    "overhead": "#C9D3D9",
    "update": "#B9A98C",
    "exchange": "#EFA53A",
    "sync": "#C8442F",
}
_PART_NAMES = {
    "arithmetic": "arithmetic",
    "memory": "memory traffic",
    "overhead": "kernel overhead",
    "update": "update",
    "exchange": "exchange of activations",
    "sync": "waiting for gradient sums",
}
_LINK_NAMES = {
    "nvlink4": "NVLink 4",
    "nvlink3": "NVLink 3",
    **{f"pcie{i}": f"PCIe {i}" for i in (2, 3, 4, 5)},
    **{name: f"InfiniBand {name.upper()}" for name in ("ndr", "hdr", "edr")},
    **{f"eth{i}": f"{i} Gb/s Ethernet" for i in (10, 25, 100)},
}
_INK, _FAINT = "#222222", "#DDDDDD"


def _name(strategy: str) -> str:
    kind, _, options = strategy.partition(":")
    given = dict(item.split("=") for item in options.split(",") if item)
    split, extra = given.pop("split", None), ", ".join(f"{k} {v}" for k, v in given.items())
    names = {
        "data": "data parallel",
        "model": "model parallel",
        "towers": f"replicas of {split or 2} towers",
        "hybrid": f"hybrid, fc over {split or 'all'}",
    }
    return names[kind] + (f", {extra}" if extra else "")


def _figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    figure = Figure(figsize=(width, height), dpi=110, facecolor="white")
    figure.text(0.012, 1 - 0.16 / height, title, fontsize=14.5, weight="bold", color=_INK, va="top")
    figure.text(0.012, 1 - 0.47 / height, subtitle, fontsize=9.5, color="#555555", va="top")
    return figure


def _thousands(value: float) -> str:
    for factor, letter in ((1e6, " M"), (1e3, " k")):
        if value >= factor:
            return f"{value / factor:g}{letter}"
    return f"{value:g}"


def _save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours, a third of the size."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def _tidy(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#888888")
    axis.tick_params(labelsize=8.5, color="#888888", labelcolor=_INK)
    axis.set_axisbelow(True)


def _gpu_axis(axis: Any, gpus: Sequence[int]) -> None:
    axis.set_xscale("log", base=2)
    shown = [g for i, g in enumerate(gpus) if len(gpus) < 8 or i % 2 == 0 or g == gpus[-1]]
    axis.set_xticks(shown, [f"{g:,}" for g in shown])
    axis.minorticks_off()
    axis.set_xlim(gpus[0] / 1.2, gpus[-1] * 1.25)
    axis.set_xlabel("GPUs", fontsize=9.5)


def _lines(axes: Sequence[Any], rows: list[dict], strategies: list[str], gpus: list[int]) -> None:
    """Images/s and efficiency of one kind of scaling."""
    rate, efficiency = axes
    one = next(r for r in rows if r["speedup"])
    base = one["images_per_second"] / one["speedup"]
    rate.plot(gpus, [base * g for g in gpus], color="#999999", linewidth=1.2, dashes=(4, 3), zorder=1)
    for number, strategy in enumerate(strategies):
        here = [r for r in rows if r["strategy"] == strategy and r["speedup"]]
        x = [r["gpus"] for r in here]
        style: dict[str, Any] = {
            "color": _STRATEGY_COLOURS[number % len(_STRATEGY_COLOURS)],
            "marker": _MARKERS[number % len(_MARKERS)],
            "markersize": 4.6,
            "linewidth": 1.7,
            "markeredgecolor": "white",
            "markeredgewidth": 0.6,
            "zorder": 3,
        }
        rate.plot(x, [r["images_per_second"] for r in here], **style)
        efficiency.plot(x, [100 * r["efficiency"] for r in here], **style)
    efficiency.axhline(100, color="#999999", linewidth=1.2, dashes=(4, 3), zorder=1)
    rate.set_yscale("log")
    lowest, highest = rate.get_ylim()
    rate.yaxis.set_major_locator(LogLocator(10, (1,) if highest > 100 * lowest else (1, 2, 5)))
    rate.yaxis.set_major_formatter(lambda v, _: _thousands(v))
    rate.yaxis.set_minor_formatter(NullFormatter())
    rate.set_ylabel("predicted images/s", fontsize=9.5)
    efficiency.set_ylabel("predicted efficiency, %", fontsize=9.5)
    highest = max((100 * r["efficiency"] for r in rows if r["speedup"]), default=100)
    efficiency.set_ylim(0, max(106, 1.04 * highest))
    for axis in axes:
        _gpu_axis(axis, gpus)
        axis.grid(color=_FAINT, linewidth=0.7)
        _tidy(axis)


def _bars(axis: Any, rows: list[dict], strategies: list[str], gpus: list[int]) -> None:
    """Where the time of a step goes, a bar for each strategy at a few numbers of GPUs."""
    place, ticks, labels = 0.0, [], []
    for g in gpus:
        axis.text(
            -3.4,
            place - 0.9,
            f"{g:,} GPU{'s' if g > 1 else ''}",
            fontsize=8.8,
            weight="bold",
            ha="right",
            va="center",
        )
        for number, strategy in enumerate(strategies):
            row = next((r for r in rows if r["strategy"] == strategy and r["gpus"] == g), None)
            ticks.append(place)
            labels.append(_name(strategy))
            if row is None or not row["speedup"]:
                axis.text(1, place, "impossible", fontsize=7.8, color="#888888", va="center", style="italic")
            else:
                left = 0.0
                for part in PARTS:
                    share = 100 * row["parts_us"][part] / row["step_us"]
                    axis.barh(place, share, 0.78, left, color=_PART_COLOURS[part], linewidth=0)
                    left += share
                axis.text(101.5, place, f"{100 * row['efficiency']:.0f}%", fontsize=7.8, va="center")
            axis.plot(
                -1.9, place, marker=_MARKERS[number % len(_MARKERS)], markersize=4.8, clip_on=False,
                color=_STRATEGY_COLOURS[number % len(_STRATEGY_COLOURS)], markeredgewidth=0,
            )  # fmt: skip
            place += 1
        place += 1.1
    axis.set_yticks(ticks, labels)
    axis.set_ylim(place - 1.6, -1.3)
    axis.set_xlim(0, 100)
    axis.set_xlabel("share of the predicted step, %", fontsize=9.5)
    _tidy(axis)
    axis.spines["left"].set_visible(False)
    axis.tick_params(axis="y", length=0, labelsize=8, pad=9)


def _hardware(inputs: dict[str, Any]) -> str:
    inside, between = (_LINK_NAMES.get(inputs[k]["name"], inputs[k]["name"]) for k in ("inside", "between"))
    near = f"{inside} between the {inputs['gpus_per_node']} GPUs of a node, "
    near = near if inputs["gpus_per_node"] > 1 else "nodes of one, "
    return near + f"{inputs['nics']} x {between} out of it"


def overview(document: dict[str, Any], path: Path) -> None:
    """Images/s, efficiency and where the time goes; a line of panels for each kind of scaling."""
    inputs, rows = document["inputs"], document["rows"]
    scalings = list(dict.fromkeys(r["scaling"] for r in rows))
    strategies = list(dict.fromkeys(r["strategy"] for r in rows))
    gpus = sorted({r["gpus"] for r in rows})
    gpu, measured = inputs["gpu"], document["measured"]
    source = f"an assumed roofline of {gpu['name']}s in {gpu['precision']}"
    if measured:
        source = f"a file measured on {measured['device']}, batch {measured['batch']}"
    height = 1.15 + 4.05 * len(scalings)
    title = f"Predicted, not measured: training {inputs['network']['name']} on 1 to {gpus[-1]:,} GPUs"
    figure = _figure(14, height, title, f"Kernel times from {source}; {_hardware(inputs)}")
    grid = figure.add_gridspec(
        len(scalings), 3, left=0.052, right=0.965, bottom=0.88 / height, top=1 - 1.42 / height,
        width_ratios=(1, 0.92, 1.12), hspace=0.36, wspace=0.17,
    )  # fmt: skip
    wanted = [g for g in (8, 64, 1024) if g in gpus] or gpus[-3:]
    what = {
        "weak": f"Weak scaling: {inputs['batch']} images per GPU",
        "strong": f"Strong scaling: {inputs['global_batch']:,} images per step, shared by all",
    }
    for line, scaling in enumerate(scalings):
        here = [r for r in rows if r["scaling"] == scaling]
        axes = [figure.add_subplot(grid[line, i]) for i in range(2)]
        _lines(axes, here, strategies, gpus)
        # The bars' labels are long: their panel starts further right.
        box = grid[line, 2].get_position(figure)
        bars = figure.add_axes((box.x0 + 0.086, box.y0, box.width - 0.086, box.height))
        _bars(bars, here, strategies, wanted)
        heading: dict[str, Any] = {"fontsize": 11, "weight": "bold", "color": _INK, "va": "bottom"}
        top = box.y1 + 0.1 / height
        figure.text(0.012, top, what[scaling], **heading)
        figure.text(axes[1].get_position().x0, top, "Efficiency", **heading)
        figure.text(box.x0 + 0.086, top, "Where the time goes, and efficiency", **heading)
    handles: list[Any] = [
        Line2D([], [], color=_STRATEGY_COLOURS[i % 7], marker=_MARKERS[i % 7], markersize=5, label=_name(s))
        for i, s in enumerate(strategies)
    ]
    handles.append(Line2D([], [], color="#999999", dashes=(4, 3), label="ideal"))
    top = 1 - 0.72 / height
    style: dict[str, Any] = {"frameon": False, "fontsize": 9, "handlelength": 2, "columnspacing": 1.5}
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.005, top), ncols=len(handles), **style)
    patches = [Patch(color=_PART_COLOURS[p], label=_PART_NAMES[p]) for p in PARTS]
    style |= {"handlelength": 1.0, "columnspacing": 1.4}
    figure.legend(handles=patches, loc="lower right", bbox_to_anchor=(0.985, 0.0), ncols=len(PARTS), **style)
    _save(figure, path)


def check(document: dict[str, Any], path: Path) -> None:
    """The One Weird Trick table beside the model."""
    figure = _figure(
        10.5, 5.0, "Predicted speed-ups beside One Weird Trick's table (2014, eight K20s)",
        "Lines: predicted, one constant of the links fitted. Marks: the table, at second hand (full) or from "
        "memory (open).",
    )  # fmt: skip
    panels = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=0.115, top=0.8, wspace=0.06)
    titles = ("One batch for the whole network", "Fully connected layers in passes of 128")
    for axis, whole, title in zip(panels, (True, False), titles, strict=True):
        rows = [r for r in document["rows"] if (r["fc_batch"] == r["batch"]) == whole]
        x = [1, *(r["gpus"] for r in rows)]
        axis.plot(x, x, color="#999999", linewidth=1.2, dashes=(4, 3), label="ideal")
        for key, colour, label in (
            ("predicted_stated", "#F0B95A", "hybrid, links at the stated 6 and 3 GB/s"),
            ("predicted_fitted", "#CC3311", "hybrid, links at a third of that (fitted)"),
            ("data_parallel_fitted", "#0072B2", "data parallel, links at a third"),
        ):
            axis.plot(x, [1, *(r[key] for r in rows)], color=colour, linewidth=2, label=label)
        for row in rows:
            second_hand = row["published_source"] == "second-hand"
            axis.plot(
                row["gpus"], row["published"], "o", markersize=8, zorder=5,
                color=_INK if second_hand else "white", markeredgecolor=_INK, markeredgewidth=1.6,
            )  # fmt: skip
            axis.annotate(
                f"{row['published']:.2f}x", (row["gpus"], row["published"]),
                (-7, 7) if row["gpus"] == 2 else (7, -15), textcoords="offset points",
                fontsize=9, color=_INK, ha="right" if row["gpus"] == 2 else "left",
            )  # fmt: skip
        axis.set_title(title, fontsize=11, loc="left", weight="bold", color=_INK)
        axis.set_xticks(x)
        axis.set_xlim(0.7, 8.95)
        axis.set_ylim(0, 8.6)
        axis.set_xlabel("GPUs (128 images each)", fontsize=9.5)
        axis.grid(color=_FAINT, linewidth=0.7)
        _tidy(axis)
    panels[0].set_ylabel("speed-up over one GPU", fontsize=9.5)
    panels[0].legend(frameon=False, fontsize=9, loc="upper left")
    _save(figure, path)
