"""Tables and a chart of benchmark results.

    python benchmarks/table.py results/h200.json                      a Markdown table, for the README
    python benchmarks/table.py results/h200.json --png docs/speed.png    and the chart
    python benchmarks/table.py OUT/layers.json OUT/network.json --short  a line per row, for a terminal
    python benchmarks/table.py OUT/*.json --grid                         a line per layer and direction

Reads what ``run.py`` and the ``bench_*.py`` wrote (several files are one table). Of the kernels of a row the
fastest that was right is shown; a star says that a call takes another one unasked. The ratio is the best
peer's time over ours: above 1 we are faster. Rows below 0.8 get a line on what bounds them, by hand from
`bounds.BY_HAND` or derived.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from bounds import BY_HAND, SLOW
from text import number, table

PRECISIONS = ("fp32", "fp32x3", "tf32", "bf16")
PARTS = ("fprop", "fused", "block", "dgrad", "wgrad")
COLOURS = {"fp32": "#4477aa", "fp32x3": "#66ccee", "tf32": "#228833", "bf16": "#ee6677"}


def read(files: list[Path]) -> list[dict[str, Any]]:
    """The documents of all files.

    Raises
    ------
    ValueError
        No file of the benchmarks, or one of an older schema.
    """
    documents = []
    for file in files:
        try:
            content = json.loads(file.read_text())
        except OSError as error:
            raise ValueError(f"table: {file} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"table: {file} is no JSON: {error}") from None
        found = content.get("documents", [content]) if isinstance(content, dict) else []
        if not found or not all(isinstance(d, dict) and "rows" in d for d in found):
            raise ValueError(f"table: {file} holds no benchmark's results")
        if any(d["rows"] and d.get("schema") != 2 for d in found):
            raise ValueError(f"table: {file} is of another schema than 2; run the benchmark again")
        documents += found
    return documents


def fastest(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For every layer (or op), part, precision and shape the fastest kernel that was right."""
    best: dict[tuple[Any, ...], dict[str, Any]] = {}
    for document in documents:
        for row in document["rows"]:
            key = (document["family"], document["batch"])
            key += tuple(row[k] for k in ("name", "part", "precision", "shape"))
            if row["error"] or not row["median_us"]:
                continue
            if key not in best or row["median_us"] < best[key]["median_us"]:
                best[key] = row | {"batch": document["batch"]}

    def order(row: dict[str, Any]) -> tuple:
        # Layers as the network has them, whatever family timed them; then the rest as it came.
        layers = [f"conv{i}" for i in range(1, 6)] + ["fc6", "fc7", "fc8"]
        layer = row["part"] in PARTS and row["name"] in layers
        place = layers.index(row["name"]) if layer else len(layers)
        part = PARTS.index(row["part"]) if layer else 0
        precision = PRECISIONS.index(row["precision"]) if layer else 0
        return (0 if row["part"] in ("training step", "inference") else 1, place, part, precision)

    return sorted(best.values(), key=order)


def failed(documents: list[dict[str, Any]]) -> list[str]:
    """What else the files say: rows that were wrong, refused, or for which no time was left."""
    lines = []
    for d in documents:
        lines += [
            f"{r['name']} {r['part']} {r['precision']} {r['kernel']}: {r['error']}"
            for r in d["rows"]
            if r["error"]
        ]
        lines += [f"{d['family']}: {d['failure']}"] if "failure" in d else []
        for entry in d.get("not_supported", []):
            lines.append(f"{entry['op']} {entry['precision']}: not supported")
        if d.get("not_measured"):
            lines.append(f"{d['family']}: no time was left for {', '.join(d['not_measured'])}")
    return lines


def refused_peers(documents: list[dict[str, Any]]) -> list[str]:
    """Peers whose time does not count, and why."""
    return [
        f"{r['name']} {r['part']} {r['precision']}: {p['name']}: {p['note']}"
        for d in documents
        for r in d["rows"]
        for p in r["peers"]
        if not p["counts"]
    ]


def bound(row: dict[str, Any]) -> str | None:
    """What bounds a slow row; None for others."""
    if row["ratio"] is None or row["ratio"] >= SLOW:
        return None
    return BY_HAND.get((row["name"], row["part"], row["precision"])) or row["bound"]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    star = "" if row["chosen"] else "*"
    limit = row["of_limit"] and 100 * row["of_limit"]
    return (
        row["name"],
        row["part"],
        row["precision"],
        f"{row['kernel']}{star}",
        number(row["median_us"], 1),
        number(limit, unit="%"),
        row["peer"] or "",
        number(row["peer_us"], 1),
        number(row["ratio"], 2),
    )


HEAD = ("layer", "part", "precision", "kernel", "us", "of roofline", "best peer", "peer us", "peer / ours")


def short(documents: list[dict[str, Any]]) -> str:
    """A line a row."""
    return table(HEAD, map(_cells, fastest(documents)), 4)


def grid(documents: list[dict[str, Any]]) -> str:
    """A line for each layer and part; for every precision microseconds, peer / ours, share of roofline."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in fastest(documents):
        batches = {d["batch"] for d in documents}
        name = row["name"] if len(batches) == 1 else f"{row['name']} at {row['batch']}"
        limit = number(row["of_limit"] and 100 * row["of_limit"], unit="%")
        text = f"{row['median_us']:8.1f} {number(row['ratio'], 2):>5} {limit:>4}"
        lines.setdefault((name, row["part"]), {}).setdefault(row["precision"], text)
    used = [p for p in PRECISIONS if any(p in found for found in lines.values())]
    body = [(*key, *(found.get(p, "") for p in used)) for key, found in lines.items()]
    return table(("layer", "part", *(f"{p}: us ratio roof" for p in used)), body, 2)


def markdown(documents: list[dict[str, Any]]) -> str:
    """The table for the README, what it was measured with, and what bounds its slow rows."""
    timed = [d for d in documents if d["rows"]]
    if not timed:
        return "Nothing was measured.\n"
    lines = [_origin(timed), ""]
    if any(not d["device"].startswith("cuda") or d["tiny"] for d in timed):
        lines += ["**No GPU's figures: this tries the benchmark out.**", ""]
    lines += [
        "| layer | part | precision | kernel | µs (20–80%) | roofline | best peer | its µs | peer / ours |",
        "|---|---|---|---|--:|--:|---|--:|--:|",
    ]
    rows = fastest(timed)
    for row in rows:
        cells = list(_cells(row))
        cells[3] = f"`{row['kernel']}`" + ("" if row["chosen"] else " \\*")
        cells[4] += f" ({row['p20_us']:.1f}–{row['p80_us']:.1f})"
        cells[8] = f"**{cells[8]}**" if row["ratio"] and row["ratio"] >= 1 else cells[8]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Of the kernels of a row the fastest; \\* a call takes another one unasked.", ""]
    slow = [(row, bound(row)) for row in rows]
    slow = [(row, text) for row, text in slow if text]
    if slow:
        lines += [f"What bounds the rows below {SLOW} of their best peer:", ""]
        lines += [f"* {r['name']} {r['part']} {r['precision']}: {text}" for r, text in slow]
        lines.append("")
    other = failed(documents)
    if other:
        lines += ["Not in the table:", "", *(f"* {text}" for text in other), ""]
    lines += _limits(timed[0])
    return "\n".join(lines) + "\n"


def _origin(documents: list[dict[str, Any]]) -> str:
    first = documents[0]
    card = first["machine"].get("gpu") or first["machine"]["cpu"]
    driver = first["versions"].get("cuda_driver")
    smi = (first["machine"].get("nvidia_smi") or {}).get("answer")
    words = [card, f"{first['device']}, clock: {first['clock']}"]
    words += [f"nvidia-smi: {smi}"] if smi else []
    words += [f"CUDA driver {driver}"] if driver else []
    words += [f"batch {', '.join(str(b) for b in sorted({d['batch'] for d in documents}))}"]
    words += [first["time"][:10], f"commit {first['git'] or 'unknown'}"]
    commands = dict.fromkeys(d["command"] for d in documents)
    return "; ".join(words) + ". " + " ".join(f"`{command}`" for command in commands)


def _limits(document: dict[str, Any]) -> list[str]:
    limits = document["limits"]
    if limits["bandwidth"] is None:
        return []
    words = [f"{1e-12 * limits['bandwidth']:.2f} TB/s"]
    words += [f"{p} {1e-12 * rate:.1f} TFLOP/s" for p, rate in limits["flops"].items() if rate]
    sources = "; ".join(f"{what}: {how}" for what, how in limits["source"].items())
    return [f"The roofline: {', '.join(words)} ({sources})."]


def chart(documents: list[dict[str, Any]], file: Path) -> None:
    """The ratio to the best peer and the share of the roofline of every row, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in fastest(documents):
        what = row["part"] if row["part"] in PARTS else row["part"].replace("_", " ")
        groups.setdefault((row["name"], what), {}).setdefault(row["precision"], row)
    labels, ticks, bars, top = [], [], [], 0.0
    for (name, what), found in groups.items():
        chosen = [p for p in PRECISIONS if p in found]
        labels.append(f"{name} {what}")
        ticks.append(top + (len(chosen) - 1) / 2)
        for precision in chosen:
            bars.append((top, precision, found[precision]))
            top += 1
        top += 0.6
    figure, (left, right) = pyplot.subplots(
        1, 2, sharey=True, figsize=(11, max(3.0, 0.13 * top + 1.6)), layout="constrained"
    )
    for place, precision, row in bars:
        colour = COLOURS[precision]
        if row["ratio"]:
            left.barh(place, row["ratio"] - 1, left=1, height=0.9, color=colour)
        if row["of_limit"]:
            right.barh(place, 100 * row["of_limit"], height=0.9, color=colour)
    left.set_xscale("log")
    for x, style in ((1.0, "-"), (SLOW, ":")):
        left.axvline(x, color="black", linewidth=0.8, linestyle=style)
    right.axvline(100, color="black", linewidth=0.8)
    left.set_xlabel("best peer's time / ours (right of 1: we are faster)")
    right.set_xlabel("% of the measured roofline")
    left.set_yticks(ticks, labels, fontsize=7)
    left.invert_yaxis()
    left.margins(y=0.01)
    used = [p for p in PRECISIONS if any(p == precision for _, precision, _ in bars)]
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[p]) for p in used]
    figure.legend(handles, used, loc="outside upper right", ncols=len(used), frameon=False, fontsize=8)
    first = next(d for d in documents if d["rows"])
    card = first["machine"].get("gpu") or first["machine"]["cpu"]
    warning = "" if first["device"].startswith("cuda") and not first["tiny"] else " (no GPU's figures)"
    figure.suptitle(
        f"{card}, {first['device']}, batch {first['batch']}, {first['time'][:10]}{warning}", x=0.01, ha="left"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, help="JSON files of run.py or of bench_*.py")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--short", action="store_true", help="a table for a terminal in place of Markdown")
    kind.add_argument("--grid", action="store_true", help="a smaller one, a column for each precision")
    parser.add_argument("--markdown", type=Path, help="write the Markdown table to this file instead")
    parser.add_argument("--peers", action="store_true", help="also list the peers whose time does not count")
    parser.add_argument("--png", type=Path, help="write the chart to this file")
    args = parser.parse_args()
    try:
        documents = read(args.files)
    except ValueError as error:
        sys.exit(str(error))
    if args.markdown:
        args.markdown.write_text(markdown(documents), encoding="utf-8")
    if args.short or args.grid:
        print(short(documents) if args.short else grid(documents))
    elif not args.markdown:
        print(markdown(documents), end="")
    if args.peers:
        print("\n".join(refused_peers(documents)))
    if args.png:
        if not fastest(documents):
            sys.exit("table: no row to draw")
        chart(documents, args.png)


if __name__ == "__main__":
    main()
