"""Predict AlexNet's kernels and training step on an H200 from machine code: see docs/cycle-model.md.

    python benchmarks/cycle_model.py                      the step, and the rows that the heuristic chooses
    python benchmarks/cycle_model.py --all --only conv2   every row of some layers
    python benchmarks/cycle_model.py --batch 96           the products of another batch
    python benchmarks/cycle_model.py --order              where heuristic and model rank rows otherwise
    python benchmarks/cycle_model.py --costs             efficiencies for tiles.inc (--write: into it)
    python benchmarks/cycle_model.py --results FOLDER     beside the times that on_gpu.sh left below it
    python benchmarks/cycle_model.py --module FILE --write  the code of a build, into docs/kernel-report

Kernels and rows are those of docs/kernel-report.json; --order, --module and --write ask this library for the
rows and their costs anew. ``kernel_report.py --write``, which compiles everything, writes the predictions,
too. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import operator
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import kernel_report
from report import alexnet, compiler, loops, predictions, render, sass, tiles
from report.reasons import REASONS

#: A tile of kernels/conv/tiles.inc: all before its efficiency, the list, the stem, the efficiency.
LINE = re.compile(r"^(PCN_([A-Z]+_(?:TILE|W?G?MMA|W?G?MMA_BF16))\((\w+), \d+, )(\d+)", re.MULTILINE)
BATCHES = (128, 256, 1024)
CLEAR = 1.05  #: the model's times must differ by so much before an order counts as another


def add_loops(kernels: list[dict], text: str) -> int:
    """Put the main loops of ``cuobjdump -sass`` into a report's kernels; how many were found."""
    found = loops.main_loops(text)
    names = {compiler.short(name): symbol for symbol, name in compiler.demangle(sorted(found)).items()}
    count = 0
    for row in kernels:
        if row["family"] == "conv" and (symbol := names.get(row["kernel"])):
            predictions.cycles.newest(row)["loop"] = found[symbol]
            count += 1
    return count


def costs(kernels: list[dict], text: str) -> tuple[str, list[tuple[str, int, int]]]:
    """The list of tiles with the model's efficiencies, and (stem, percent in `text`, the model's) of each.

    A tile's is that of its loop over the fastest one's of its kind: FFMA; TF32 and bf16 by mma.sync; by
    wgmma, and by wgmma of weights. Lines within a tenth of it stay as they are: other choices of kernels are
    other bits. Lines of ROWS stay: memory bounds them.
    """
    stems, lines = predictions.by_stem(kernels), LINE.findall(text)
    percents: dict[str, int] = {}
    for kind in {_kind(line) for line in lines}:
        own = [line[2] for line in lines if _kind(line) == kind]
        found = predictions.cycles.efficiencies([stems[stem] for stem in own])
        percents |= zip(own, found, strict=True)
    listed = [(stem, int(percent), percents[stem]) for _, _, stem, percent in lines]
    kept = {stem: ours if abs(ours - model) <= 0.1 * model else model for stem, ours, model in listed}
    return LINE.sub(lambda m: f"{m[1]}{kept[m[3]]}", text), listed


def _kind(line: tuple[str, str, str, str]) -> str:
    kind = line[1].partition("_")[2]  # of FPROP_TILE, say
    return line[1] if line[1].startswith("WGRAD_WGMMA") else kind


def disagreements(rows: list[dict]) -> list[dict]:
    """A row per product of which heuristic and model put another kernel first, clearly so, or order a pair
    otherwise.

    ``loss`` is the predicted time of the heuristic's choice over that of the model's; ``pairs`` are clearly
    different in the model, ``swapped`` those of them that costs order the other way.
    """
    found = []
    for name, group in itertools.groupby(rows, operator.itemgetter("layer", "op", "precision")):
        group = list(group)  # cheapest first
        best = min(group, key=lambda row: row["us"])
        pairs = [
            (a, b)
            for a, b in itertools.combinations(group, 2)
            if max(a["us"], b["us"]) > CLEAR * min(a["us"], b["us"])
        ]
        swapped = sum(a["us"] > b["us"] for a, b in pairs)
        if swapped:
            loss = group[0]["us"] / best["us"]
            found.append(
                dict(zip(("layer", "op", "precision"), name, strict=True))
                | {"heuristic": group[0]["row"], "model": best["row"], "loss": round(loss, 3)}
                | {"pairs": len(pairs), "swapped": swapped}
            )
    return found


def _print(head: list[str], rows: list[list[object]]) -> None:
    def text(cell: object) -> str:
        return str(cell) if not isinstance(cell, float) else f"{cell:.3g}" if cell < 100 else f"{cell:.0f}"

    texts = [head, *([text(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_steps(steps: list[dict]) -> None:
    """The whole step."""
    print("a training step, predicted, us")
    _print(list(steps[0]), [list(row.values()) for row in steps])


def print_products(rows: list[dict]) -> None:
    """The rows of a table, cycles of a block's step by unit."""
    units = list(rows[0]["cycles"]) if rows else []
    head = [
        "layer",
        "op",
        "precision",
        "row",
        "splits",
        "shared",
        "steps",
        "tail",
        *units,
        "step",
        "bound",
        "us",
        "%",
        "measured",
    ]
    print("\nproducts, predicted")
    _print(
        head,
        [
            [
                *(row[cell] for cell in ("layer", "op", "precision", "row", "splits")),
                "/".join(map(str, row["shared"])) if any(row["shared"]) else "-",
                *(row[cell] for cell in ("steps", "tail")),
                *(*row["cycles"].values(), row["step_cycles"], row["bound"], row["us"], row["percent"]),
                f"{row['measured_us']} ({row['ratio']})" if row["measured_us"] else "-",
            ]
            for row in rows
        ],
    )


def print_order(kernels: list[dict]) -> None:
    """Where the heuristic ranks otherwise than the model, at every batch of the benchmarks."""
    for batch in BATCHES:
        rows = predictions.products(kernels, alexnet.rows(batch), batch)
        found = disagreements(rows)
        print(
            f"\nbatch {batch}: of {len(predictions.chosen(rows))} products the order differs in {len(found)}"
        )
        if found:
            _print(
                list(found[0]),
                [[f"{c}" for c in row.values()] for row in sorted(found, key=lambda r: -r["loss"])],
            )


def matches(row: dict, text: str) -> bool:
    """Tell whether a row's layer, operation, precision or kernel contains a text."""
    return any(text in str(row[cell]) for cell in ("layer", "op", "precision", "row"))


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--all", action="store_true", help="every row, not the chosen ones alone")
    parser.add_argument("--only", default="", help="rows whose layer, op, precision or kernel contains it")
    parser.add_argument("--batch", type=int, help="the products of a step of so many images, and no more")
    parser.add_argument("--order", action="store_true", help="compare the orders of heuristic and model")
    parser.add_argument(
        "--costs", action="store_true", help="compare the tiles' efficiencies with the model's"
    )
    parser.add_argument("--module", type=Path, help="a compiled module or cubin whose loops to read")
    parser.add_argument("--disassembler", type=Path, help="as for kernel_report.py")
    parser.add_argument("--results", type=Path, default=kernel_report.ROOT / "benchmarks" / "results")
    parser.add_argument("--json", type=Path, help="write the predictions to this file")
    parser.add_argument(
        "--write", action="store_true", help="into docs/kernel-report.json and .md; or the costs"
    )
    given = parser.parse_args(arguments)
    file = kernel_report.REPORT.with_suffix(".json")
    report = json.loads(file.read_text())
    if given.costs:
        text, found = costs(report["kernels"], tiles.LIST.read_text())
        _print(["row", "tiles.inc", "model"], [list(row) for row in found])
        if given.write:
            tiles.LIST.write_text(text)
        return 0
    if given.module:
        cuobjdump = sass.find(given.disassembler)
        if cuobjdump is None:
            sys.exit("cycle_model: no cuobjdump (--disassembler FOLDER)")
        count = add_loops(report["kernels"], sass.dump(cuobjdump, "-sass", given.module, "-arch", "sm_90"))
        print(f"{count} loops read from {given.module}")
    if given.batch:
        rows = predictions.products(report["kernels"], alexnet.rows(given.batch), given.batch)
        rows = rows if given.all else predictions.chosen(rows)
        print_products([row for row in rows if matches(row, given.only)])
        return 0
    anew = given.order or given.module or given.write
    rows = alexnet.rows() if anew else [{k: row[k] for k in alexnet.CELLS} for row in report["products"]]
    found = predictions.predict(report["kernels"], rows, given.results)
    if given.json:
        given.json.write_text(kernel_report.dump(found))
    if given.write:
        report |= {"alexnet": alexnet.step(), **found}
        file.write_text(kernel_report.dump(report))
        file.with_suffix(".md").write_text(render.markdown(report, REASONS))
    print_steps(found["steps"])
    rows = found["products"] if given.all else predictions.chosen(found["products"])
    print_products([row for row in rows if matches(row, given.only)])
    if given.order:
        print_order(report["kernels"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
