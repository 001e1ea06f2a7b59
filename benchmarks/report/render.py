"""The report as JSON, as Markdown, and the differences between two reports."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from report.alexnet import BATCH, OPS, PRECISIONS
from report.cycles import ERROR
from report.predictions import chosen
from report.sass import COUNTED

#: What the accesses of a kernel must not exceed: cost over ideal of all requests together.
BOUNDS = {"load": 1.0, "store": 1.0, "shared load": 1.0, "shared store": 1.0}
SHOWN = tuple(name for name in COUNTED if name != "LDL/STL")

INTRODUCTION = """\
# What compiler and emulator say about the kernels

Written by `python benchmarks/kernel_report.py --write`; CI compares it with the sources (`--check`). No GPU
is involved, and no time measured: it shows what the compiler made of each kernel and how its warps use
memory. This page has what is worth a look; all kernels and figures are in
[kernel-report.json](kernel-report.json), and `python benchmarks/kernel_report.py --family conv` prints them.

## What to look at

- *Spills*: registers that did not fit and go through memory. None may, but in the kernels for any shape.
- *Registers and blocks*: a thread's registers (on sm_80 / 90) decide with shared memory how many blocks a
  multiprocessor holds at once; *limit* is what forbids another. Few warps are no fault where each has much
  to do by itself, as the large tiles have: what counts is the product's inner loop, FFMA or HMMA.
- *Sectors* (32 bytes of global memory) over the least that an access's bytes would fill, and *passes* over
  the banks of shared memory over the least possible: 1.00 is fully coalesced and free of conflicts.
"""

ALEXNET = """\
## The products of AlexNet's step

Which kernel takes each convolution and fully connected layer of a batch of {batch} images on a GPU (tf32 and
bf16: of compute capability 8.0 or more), as the kernels' own estimates rank them. Where kernels were measured
(`pyconvnet tune`) another may, and of fully connected layers cuBLAS where CuPy brings it.

The first layer, 11x11 filters at stride 4 on 3 channels, is done in the space-to-depth layout
(`kernels/common/space_to_depth.h`): augmentation writes the images in it (`augment_depth4_rgb`),
`filters_to_depth_any` rearranges the filters, and the product is a 3x3 convolution of stride 1 over 48
channels, by the kernels of the row `conv1`. `ops.conv2d` of plain images, and a plan with `fuse=False`, do
the same inside `conv2d_fprop_first_layer` and `conv2d_wgrad_first_layer`, copies included. On `cpu` it is one
convolution of NumPy's.
"""

PREDICTED = """\
## What a cycle model predicts of them

**Nothing here was measured.** Microseconds of these kernels on an H200, ±{product:.0f} %, and in brackets the
share of the card's limit: forward, gradient of the input, gradient of the weights. The
[cycle model](cycle-model.md) reckons them from the loops' machine code, tiles and shapes;
[kernel-report.json](kernel-report.json) has every row with the units that bound it, and takes times that a
card has given.
"""

STEPS = """\
A whole training step, predicted likewise, as a captured graph. Most of the update runs beside the products of
backward (see the [cycle model](cycle-model.md)); its column has what it adds to the step:
"""

MEASURED = """\
Measured on a card, microseconds, and in brackets times the prediction:
"""

KERNELS = """\
## These kernels

nvcc {nvcc}. *warps*: share of a multiprocessor's 64 on sm_90; *shared*: bytes a block; *product*: the
instructions of the inner loop that multiply. By the design of the tiles FFMA bounds the one kind, the tensor
cores (HMMA) the other.
"""

WARNINGS = """\
## Warnings
"""


def measured(rows: list[tuple[str, str, str, Any]], name_of: Any, lines: bool = False) -> list[dict]:
    """One JSON row per kernel from what :func:`measure.run` counted; `lines`: places with their lines."""
    table: dict[tuple[str, str], dict] = {}
    for family, case, _, launch in rows:
        key = (launch.stem, name_of(launch.name))
        row = table.setdefault(
            key,
            {
                "family": family,
                "stem": key[0],
                "kernel": key[1],
                "cases": [],
                "threads": launch.threads,
                "dynamic": 0,
                "counts": {},
                "exceptions": {},
            },
        )
        if case not in row["cases"]:
            row["cases"].append(case)
        row["dynamic"] = max(row["dynamic"], launch.dynamic_bytes)
        for what, count in launch.summary().items():
            into = row["counts"].setdefault(what, {"requests": 0, "cost": 0, "ideal": 0})
            for name in into:
                into[name] += getattr(count, name)
        for site in launch.sites:
            if site.cost > site.ideal * BOUNDS[site.what]:
                where = site.where if lines else site.where.split(":")[0]  # lines move with every comment
                place = f"{site.what} of {site.bytes} bytes at {where}"
                into = row["exceptions"].setdefault(place, {"requests": 0, "cost": 0, "ideal": 0})
                for name in into:
                    into[name] += getattr(site, name)
    return [table[key] for key in sorted(table, key=lambda k: (table[k]["family"], k))]


def ratio(count: dict[str, int]) -> float:
    """Cost over ideal."""
    return count["cost"] / count["ideal"] if count["ideal"] else 1.0


def reason_of(stem: str, place: str, reasons: dict[str, str]) -> tuple[str, str]:
    """(key, reason) for a place that exceeds its bound; two empty strings where there is none.

    A key is ``"load at norm/lrn_generic.cu"`` (kind of access, file), or that with ``"stem: "`` before it.
    """
    what, where = place.split(" of ")[0], place.split(" at ")[-1].split(":")[0]
    for key in (f"{stem}: {what} at {where}", f"{what} at {where}"):
        if key in reasons:
            return key, reasons[key]
    return "", ""


def _table(header: list[str], rows: list[list[str]], left: int) -> Iterator[str]:
    yield "| " + " | ".join(header) + " |"
    yield "|" + "|".join("---" if i < left else "---:" for i in range(len(header))) + "|"
    for row in rows:
        yield "| " + " | ".join(row) + " |"


def _code(text: str) -> str:
    return f"`{text}`"


def _spills(report: dict) -> list[str]:
    """A line for every kernel that spills, with its worst architecture."""
    lines = []
    for row in report["kernels"]:
        worst = max(made["spill"] for made in row["arch"].values())
        if worst:
            lines.append(f"- {_code(row['stem'])} {_code(row['kernel'])} spills up to {worst} bytes")
    return lines


def _products(report: dict) -> Iterator[str]:
    head = ["layer", "operation", *PRECISIONS]
    yield from _table(
        head, [[r["layer"], _code(r["op"]), *(_code(r[p]) for p in PRECISIONS)] for r in report["alexnet"]], 5
    )


def _by_layer(report: dict, first: str, second: str) -> Iterator[str]:
    """A row per layer of two figures of its operations: "forward/input/weights (forward/input/weights)"."""
    rows = {(r["layer"], r["precision"], r["op"]): r for r in chosen(report["products"])}

    def figures(layer: str, precision: str, what: str) -> str:
        keys = [(layer, precision, op) for op in OPS]
        found = [rows[key][what] if key in rows else None for key in keys]
        return "/".join("–" if f is None else f"{f:.2f}" if f < 10 else f"{f:.0f}" for f in found)

    for layer in dict.fromkeys(r["layer"] for r in report["alexnet"]):
        yield [layer, *(f"{figures(layer, p, first)} ({figures(layer, p, second)})" for p in PRECISIONS)]


def _predictions(report: dict) -> Iterator[str]:
    yield PREDICTED.format(product=100 * ERROR["product"])
    yield from _table(["layer", *PRECISIONS], list(_by_layer(report, "us", "percent")), 1)
    yield from ("", STEPS)
    rows = []
    for r in report["steps"]:
        parts = [f"{r[part] / 1000:.2f}" for part in ("conv_us", "fc_us", "other_us", "update_us")]
        step = f"{r['us'] / 1000:.1f} ±{100 * r['error']:.0f} %"
        measured = f"{r['measured_us'] / 1000:.2f} ({r['ratio']:.2f})" if r["measured_us"] else "–"
        rows.append([r["precision"], *parts, step, f"{round(r['images_per_second'], -2):,}", measured])
    head = ["precision", "convolutions, ms", "fully connected", "the rest", "update"]
    yield from _table([*head, "step", "images/s", "measured"], rows, 1)
    yield ""
    if any(r["measured_us"] for r in report["products"]):
        yield MEASURED
        yield from _table(["layer", *PRECISIONS], list(_by_layer(report, "measured_us", "ratio")), 1)
        yield ""


def _kernels_of(report: dict, stems: set[str]) -> Iterator[list[str]]:
    """A row per kernel of these stems: registers, shared memory, occupancy, the inner loop's instructions."""
    for row in report["kernels"]:
        if row["stem"] not in stems or row["kernel"].endswith(", 3>"):  # that is fp32x3, chosen by name alone
            continue
        arch = {name: made for name, made in row["arch"].items() if name != "75"}
        newest, fits = next(reversed(arch.values())), row.get("occupancy")
        counts = newest["sass"]
        loop = [f"{counts[name]} {name}" for name in ("HGMMA", "HMMA", "FFMA") if counts.get(name)]
        yield [
            _code(row["stem"]),
            _code(row["kernel"]),
            " / ".join(str(made["registers"]) for made in arch.values()),
            str(max(made["spill"] for made in arch.values()) or "-"),
            str(newest["shared"] + row.get("dynamic", 0)),
            *([str(fits["blocks"]), f"{fits['percent']:.0f} %", fits["limit"]] if fits else ["?"] * 3),
            ", ".join(loop[:1]) or "-",
        ]


def _places(report: dict, reasons: dict[str, str]) -> Iterator[list[str]]:
    """A row per reason: the kernels it is of, its worst ratio."""
    found: dict[str, tuple[set[str], float, str]] = {}
    for row in report["accesses"]:
        for place, count in row["exceptions"].items():
            key, why = reason_of(row["stem"], place, reasons)
            stems, worst, _ = found.get(key, (set(), 0.0, why))
            found[key] = (stems | {row["stem"]}, max(worst, ratio(count)), why)
    for key in sorted(found):
        stems, worst, why = found[key]
        yield [key.split(": ")[-1], ", ".join(map(_code, sorted(stems))), f"{worst:.2f}", why]


def markdown(report: dict, reasons: dict[str, str]) -> str:
    """The committed page. `reasons`: why a place that exceeds its bound does so."""
    lines = [INTRODUCTION, ALEXNET.format(batch=BATCH), *_products(report), "", *_predictions(report)]
    stems = {row[precision] for row in report["alexnet"] for precision in PRECISIONS}
    lines.append(KERNELS.format(nvcc=report["nvcc"]))
    header = ["row", "kernel", "registers", "spill", "shared", "blocks", "warps", "limit", "product"]
    lines += [*_table(header, list(_kernels_of(report, stems)), 2), "", WARNINGS]
    lines += _spills(report) or ["No kernel spills."]
    lines += [
        "",
        "Accesses that are not ideal, on AlexNet's layers, one image of each; the worst of the rows:",
    ]
    header = ["access", "rows", "cost / ideal", "why"]
    lines += ["", *_table(header, list(_places(report, reasons)), 2)]
    return "\n".join(lines).rstrip() + "\n"


def printed(report: dict, reasons: dict[str, str]) -> str:
    """Every figure of a report or of half of one."""
    lines = []
    for family in sorted({row["family"] for row in report["kernels"] or []}):
        header = ["file", "kernel", "regs", "shared", "threads", "blocks", "warps", "limit", *SHOWN]
        lines += [f"### {family}: code", "", *_table(header, list(_code_rows(report, family)), 2), ""]
    for family in sorted({row["family"] for row in report["accesses"] or []}):
        header = ["file", "kernel", "layers", "load sectors", "store sectors", "load passes", "store passes"]
        lines += [f"### {family}: accesses", "", *_table(header, list(_access_rows(report, family)), 3), ""]
    if report["accesses"]:
        header = ["access", "rows", "cost / ideal", "why"]
        lines += ["### Places that are not ideal", "", *_table(header, list(_places(report, reasons)), 2)]
    return "\n".join(lines).rstrip() + "\n"


def _code_rows(report: dict, family: str) -> Iterator[list[str]]:
    for row in report["kernels"]:
        if row["family"] != family:
            continue
        arch = row["arch"]
        newest = arch.get("90") or arch.get("90a") or next(reversed(arch.values()))
        counts, older = newest["sass"], arch.get("80", newest)["sass"]
        fits = row.get("occupancy")
        yield [
            _code(row["stem"]),
            _code(row["kernel"]),
            " / ".join(str(a["registers"]) for a in arch.values()),
            str(newest["shared"]) + (f" + {row['dynamic']}" if row.get("dynamic") else ""),
            str(row["threads"] or "?"),
            str(fits["blocks"]) if fits else "?",
            f"{fits['percent']:.0f} %" if fits else "?",
            fits["limit"] if fits else "?",
            *(_cell(counts.get(name, 0), older.get(name, 0)) if counts else "?" for name in SHOWN),
        ]


def _cell(new: int, old: int) -> str:
    return (str(new) if new else "-") + (f" ({old})" if old != new else "")


def _access_rows(report: dict, family: str) -> Iterator[list[str]]:
    for row in report["accesses"]:
        if row["family"] != family:
            continue
        cells = []
        for what in BOUNDS:
            count = row["counts"][what]
            cells.append(f"{ratio(count):.2f} ({count['requests']})" if count["requests"] else "-")
        yield [_code(row["stem"]), _code(row["kernel"]), ", ".join(row["cases"]), *cells]
