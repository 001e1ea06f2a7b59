"""CUTLASS's own sm_90 convolutions beside this library's wgmma kernels: machine code and the cycle model.

    python benchmarks/cutlass_peer.py                          # a table
    python benchmarks/cutlass_peer.py --json benchmarks/results/cutlass-peer.json
    python benchmarks/cutlass_peer.py --headers FOLDER         # CUTLASS's include folder, else pip fetches it
    python benchmarks/cutlass_peer.py --compiled FILE          # the kernels of an earlier --json

Compiles cutlass_conv.cu, CUTLASS's implicit matrix products by TMA and wgmma as its builders make them, for
some tiles of each direction, reads the loop that multiplies from the machine code as kernel_report.py does,
and predicts every product of AlexNet's step by the same model (docs/cycle-model.md). Our rows are those of
docs/kernel-report.json. Nothing is measured: it needs nvcc and the disassembler, no card.

What CUTLASS cannot do counts in its favour or is said: groups are predicted as if one launch did them all;
reductions are not split; channels are padded to the tile's depth, filter position by filter position, as its
im2col walks them.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import alexnet, compiler, cycles, loops, occupancy, predictions, sass
from shapes import alexnet_convs, alexnet_linears
from text import number, table

HERE = Path(__file__).resolve().parent
PACKAGE = "nvidia-cutlass==4.2.*"
OPS = {"conv2d": "kFprop", "conv2d_dgrad": "kDgrad", "conv2d_wgrad": "kWgrad"}
ELEMENTS = {"bf16": ("cutlass::bfloat16_t", 2), "tf32": ("float", 4)}
TILES = ((128, 64), (128, 128), (128, 192), (64, 128), (64, 256))
STEP = 128  #: bytes of the reduction in a step
_FACTS = re.compile(r"factsILi(\d+)ELi(\d+)ELi(\d+)E")


@dataclasses.dataclass(frozen=True)
class Peer:
    """One of CUTLASS's kernels.

    Attributes
    ----------
    tile : as the model knows it; None for what does not compile or spills, see ``reason``
    loop : its main loop's counts, see :func:`report.loops.main_loop`
    """

    op: str
    precision: str
    name: str
    reason: str = ""
    tile: cycles.Tile | None = None
    loop: dict | None = None
    registers: int = 0
    stages: int = 0

    @property
    def per_wgmma(self) -> float:
        """Instructions that a warp issues for each wgmma of the loop."""
        return self.loop["step"]["issue"] / self.loop["step"]["HGMMA"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--headers", type=Path, help="CUTLASS's include folder; default: from PyPI")
    parser.add_argument("--compiled", type=Path, help="take the kernels of this JSON instead of compiling")
    parser.add_argument("--disassembler", type=Path, help="environment with cuobjdump, made if need be")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilations at a time")
    parser.add_argument("--json", type=Path, help="write the result here")
    return parser.parse_args()


def headers(folder: Path) -> Path:
    """Fetch CUTLASS's headers from its package into a folder; return the include folder."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE]
    subprocess.run(pip, check=True)
    with zipfile.ZipFile(next(folder.glob("nvidia_cutlass-*.whl"))) as wheel:
        wheel.extractall(folder, [n for n in wheel.namelist() if "/include/" in n])
    return next(p for p in folder.rglob("cutlass.h") if p.parent.name == "cutlass").parents[1]


# ---- what the compiler makes of it -------------------------------------------------------------------------


def command(op: str, precision: str, extent: tuple[int, int], include: Path, nvcc: str) -> list[str]:
    """The call of nvcc for one kernel, up to what it is to make."""
    element, item = ELEMENTS[precision]
    bm, bn = extent
    made = [nvcc, str(HERE / "cutlass_conv.cu"), "-std=c++17", "-DNDEBUG", "--expt-relaxed-constexpr"]
    made += [f"-I{include}", f"-I{include.parent / 'tools/util/include'}"]
    made += [f"-DPCN_OP={OPS[op]}", f"-DPCN_ELEMENT={element}"]
    return [*made, f"-DPCN_M={bm}", f"-DPCN_N={bn}", f"-DPCN_K={STEP // item}"]


def compiled(op: str, precision: str, extent: tuple[int, int], include: Path, nvcc: str, dump: str) -> Peer:
    """Compile one kernel and read its machine code."""
    item = ELEMENTS[precision][1]
    bm, bn = extent
    bk = STEP // item
    name = f"{bm}x{bn}"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "conv.cubin"
        line = command(op, precision, extent, include, nvcc)
        line += ["-arch=sm_90a", "-cubin", "-Xptxas", "-v", "-o", str(binary)]
        done = subprocess.run(line, capture_output=True, text=True)
        output = done.stdout + done.stderr
        if done.returncode:
            error = next((line for line in output.splitlines() if "error" in line), output[-200:])
            return Peer(op, precision, name, f"does not compile: {error.partition('error: ')[2][:150]}")
        text = sass.dump(dump, "-sass", binary)
    rows, complaints = compiler.parse(Path("conv/cutlass_conv.cu"), output)
    row = next(row for row in rows if "device_kernel" in row["symbol"])
    threads, shared, stages = map(int, _FACTS.search(output).groups())
    if row.get("spill") or complaints:
        return Peer(op, precision, name, f"spills {row.get('spill', 0)} bytes; {'; '.join(complaints)[:150]}")
    fits = occupancy.sm90(threads, row["registers"], shared)
    tile = cycles.Tile(bm, bn, bk, threads // 32, item, fits.blocks, producer=True)
    loop = loops.main_loops(text)[row["symbol"]]
    cycles.step_counts(tile, loop)  # that it is the loop that was looked for
    return Peer(op, precision, name, "", tile, loop, row["registers"], stages)


def peers(include: Path, nvcc: str, dump: str, jobs: int) -> list[Peer]:
    """Compile all of them, some at a time."""
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        found = [
            pool.submit(compiled, op, precision, extent, include, nvcc, dump)
            for op in OPS
            for precision in ELEMENTS
            for extent in TILES
        ]
        return [future.result() for future in found]


def record(peer: Peer) -> dict[str, Any]:
    """A kernel as JSON."""
    row = {"op": peer.op, "precision": peer.precision, "tile": peer.name, "reason": peer.reason}
    if peer.tile is None:
        return row
    block = {"warps": peer.tile.warps, "resident": peer.tile.resident}
    return row | block | {"stages": peer.stages, "registers": peer.registers, "loop": peer.loop}


def recorded(row: dict[str, Any]) -> Peer:
    """The kernel of a record."""
    made = Peer(row["op"], row["precision"], row["tile"], row["reason"])
    if "loop" not in row:
        return made
    item = ELEMENTS[row["precision"]][1]
    bm, bn = map(int, row["tile"].split("x"))
    tile = cycles.Tile(bm, bn, STEP // item, row["warps"], item, row["resident"], producer=True)
    return dataclasses.replace(
        made, tile=tile, loop=row["loop"], registers=row["registers"], stages=row["stages"]
    )


# ---- beside ours -------------------------------------------------------------------------------------------


def product(layer: str, op: str, shapes: dict[str, Any], peer: Peer, useful: float) -> cycles.Product:
    """The matrix product as CUTLASS walks it: the channels that it reduces or gathers padded to its tile."""
    whole = predictions.product_of(layer, op, shapes, peer.precision, useful)
    k, r, s, channels = shapes["w"]
    if op == "conv2d_wgrad":
        padded = r * s * cycles.ceil_div(channels, peer.tile.bn) * peer.tile.bn
        return dataclasses.replace(whole, cols=padded)
    reduced = channels if op == "conv2d" else k // shapes["groups"]
    padded = r * s * cycles.ceil_div(reduced, peer.tile.bk) * peer.tile.bk
    return dataclasses.replace(whole, depth=padded)


def compare(found: list[Peer]) -> Iterator[dict[str, Any]]:
    """Yield a row for each product of the step that one of our wgmma kernels takes, and the best peer's."""
    report = json.loads((HERE.parent / "docs" / "kernel-report.json").read_text())
    stems = predictions.by_stem(report["kernels"])
    useful = {layer.name: layer.flops for layer in (*alexnet_convs(128), *alexnet_linears(128))}
    shapes = {(layer, op): found for layer, op, found in alexnet.operations()}
    for row in predictions.chosen(report["products"]):
        layer, op, precision = row["layer"], row["op"], row["precision"]
        if "wgmma" not in row["row"]:
            continue
        out_item = 4 if op == "conv2d_wgrad" else ELEMENTS[precision][1]
        loop = cycles.newest(stems[row["row"]])["loop"]["step"]
        best = None
        for peer in found:
            if peer.tile is None or (peer.op, peer.precision) != (op, precision):
                continue
            asked = product(layer, op, shapes[layer, op], peer, useful[layer])
            us = cycles.predict_tile(peer.tile, peer.loop, asked, 1, precision, out_item)["us"]
            if best is None or us < best[0]:
                best = us, peer
        yield {
            "layer": layer,
            "op": op,
            "precision": precision,
            "row": row["row"],
            "us": row["us"],
            "instructions_per_wgmma": round(loop["issue"] / loop["HGMMA"], 2),
            "cutlass": best and best[1].name,
            "cutlass_us": best and best[0],
            "cutlass_instructions_per_wgmma": best and round(best[1].per_wgmma, 2),
        }


def show(found: list[Peer], rows: list[dict[str, Any]]) -> None:
    """Print both tables."""
    head = ("op", "precision", "tile", "stages", "registers", "instructions/wgmma", "")
    lines = [
        (p.op, p.precision, p.name, "", "", "", p.reason)
        if p.tile is None
        else (p.op, p.precision, p.name, str(p.stages), str(p.registers), number(p.per_wgmma, 1), "")
        for p in found
    ]
    print("CUTLASS's kernels\n" + table(head, lines, 3) + "\n")
    head = ("layer", "op", "precision", "ours", "us", "per wgmma", "CUTLASS", "us", "per wgmma")
    lines = [
        (
            *(r["layer"], r["op"], r["precision"], r["row"], number(r["us"], 1)),
            *(number(r["instructions_per_wgmma"], 1), r["cutlass"] or "-", number(r["cutlass_us"], 1)),
            number(r["cutlass_instructions_per_wgmma"], 1),
        )
        for r in rows
    ]
    print("AlexNet at batch 128 on an H200, predicted; nothing was measured\n" + table(head, lines, 4))


def main() -> int:
    options = arguments()
    if options.compiled:
        document = json.loads(options.compiled.read_text())
        found = [recorded(row) for row in document["kernels"]]
        finish(options, found, document["nvcc"])
        return 0
    nvcc = compiler.find_nvcc()
    if options.disassembler and not sass.find(options.disassembler):
        sass.install(options.disassembler)
    dump = sass.find(options.disassembler)
    if nvcc is None or dump is None:
        raise SystemExit("cutlass_peer.py needs nvcc and cuobjdump: --disassembler FOLDER fetches the second")
    with tempfile.TemporaryDirectory() as folder:
        include = options.headers or headers(Path(folder))
        found = peers(include, nvcc, dump, options.jobs)
    finish(options, found, compiler.version(nvcc))
    return 0


def finish(options: argparse.Namespace, found: list[Peer], nvcc: str) -> None:
    """Compare, print, and write the result where asked to."""
    rows = list(compare(found))
    show(found, rows)
    if options.json:
        document = {"benchmark": "cutlass_peer", "package": PACKAGE, "nvcc": nvcc}
        document |= {"predicted": "docs/cycle-model.md", "kernels": [record(p) for p in found], "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
