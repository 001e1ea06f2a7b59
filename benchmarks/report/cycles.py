"""A cycle model of the product kernels on an H200: predictions from machine code, tile and shape. Nothing is
measured.

A block's step of the reduction keeps every unit of its multiprocessor busy for a number of cycles that its
code tells (:func:`unit_cycles`). Units work side by side, though not perfectly: the step takes the fourth
root of the sum of the fourth powers (:func:`step_cycles`), which is the busiest unit's cycles where one is
far ahead, and a fifth more where two are equal. What stands outside the loop is not hidden
(:func:`edge_cycles`). The multiprocessor with the most blocks decides (:func:`busiest_cycles`), unless memory
takes longer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaling.hardware import GPUS

H200 = GPUS["h200"]  #: the limits, and what memory and a launch are reckoned with
MULTIPROCESSORS = 132
CLOCK = 1.755e9  #: Hz under load, assumed: the vendor's boost is 1.98
#: Multiply-adds a cycle: the data sheet's dense rate is 4096 bf16 flops a cycle at 1.83 GHz, TF32's the half.
TENSOR = {2: 2048, 4: 1024}
#: What mma.sync reaches of that, as microbenchmarks of Hopper are quoted (arXiv 2402.13499).
MMA_SHARE = 0.62
MMA_PRODUCTS = {2: 16 * 8 * 16, 4: 16 * 8 * 8}  #: multiply-adds of an HMMA by bytes of an element
#: What wgmma reaches of it: the best matrix product seen on an H200 (PyTorch, bf16, random data) does 790
#: of 949 TFLOP/s.
WGMMA_SHARE = 0.83
WARPGROUP = 4  #: warps
BANKS = 128  #: bytes of shared memory a cycle
#: Bytes a cycle and multiprocessor from L2, 7.4 TB/s in all: what TF32 kernels of 128x128 tiles are seen to
#: reach on an H100 (240 TFLOP/s at 32 flops a byte).
L2 = 32
#: Instructions with which a warp transposes four pixels of 32 filters (kernels/conv/hopper/weights_tf32.h).
TRANSPOSING = 27
LATENCY = 800  #: cycles until a block's first operands are there, and until its results are away; assumed
#: Of the instructions outside the loop, those that a warp runs: code for whole vectors and for single
#: elements is both there.
OUTSIDE_RUN = 0.5
POWER = 4.0  #: of the sum over the units; assumed
#: What a prediction may be wrong by: a product, a kernel bound by memory, the whole step.
ERROR = {"product": 0.25, "memory": 0.15, "step": 0.25}

_TILE = re.compile(r"\b(Wgmma|Halo|Transposing|)(?:Mma)?Tile<(\d+), (\d+), (\d+),")


@dataclass(frozen=True)
class Tile:
    """Rows, columns and depth of a block's step, its warps, bytes of an element, blocks a multiprocessor."""

    bm: int
    bn: int
    bk: int
    warps: int
    item: int
    resident: int
    producer: bool = False  # a warpgroup brings the operands by TMA; the others multiply, on wgmma
    persistent: bool = False  # blocks that take tile after tile
    halo: bool = False  # of pixels that all taps share: HaloTile
    transposes: bool = False  # columns, in shared memory: TransposingTile
    registers: bool = False  # through which rows pass: its weights

    @property
    def multiplying(self) -> int:
        """Warps that multiply: all, but a producer's."""
        return self.warps - (WARPGROUP if self.producer else 0)


@dataclass(frozen=True)
class Product:
    """What a layer's operation is as a matrix product, `batches` of rows x depth by depth x cols.

    Attributes
    ----------
    flops : useful ones, without what the space-to-depth layout pads
    nbytes : operands and result, each once
    windows : where rows are the pixels of a convolution at stride 1
    """

    rows: int
    cols: int
    depth: int
    batches: int
    flops: float
    nbytes: float
    windows: Windows | None = None


@dataclass(frozen=True)
class Windows:
    """Of `images` outputs of p x q pixels the windows: r x s pixels of an image w wide, padded by `pad`."""

    images: int
    p: int
    q: int
    w: int
    r: int
    s: int
    pad: int


#: Those of AlexNet's conv3 to conv5: what a tile's efficiency is told for.
USUAL_WINDOWS = Windows(128, 13, 13, 13, 3, 3, 1)


@dataclass(frozen=True)
class Strips:
    """What a tile of ``kernels/conv/hopper/halo.h`` has of windows.

    Attributes
    ----------
    rows : of the product, positions that are multiplied in vain as well
    useful : share of them that are outputs
    step_bytes : of a step's pixels from L2: once for all taps, but twice a plane's 16 bytes, half a sector
    """

    rows: int
    useful: float
    step_bytes: float | None


def strips(tile: Tile, windows: Windows) -> Strips:
    """Cut windows into strips, as ``halo_strips`` does, of which a tile has two."""
    w, positions = windows, tile.bm // 2
    pitch = w.w + w.pad
    most = (positions - w.q) // pitch + 1
    count = ceil_div(w.p, most)
    box = (ceil_div(w.p, count) + w.r - 1 + (w.pad > 0)) * pitch
    rows = w.images * count * positions
    step_bytes = 2 * 2 * box * tile.bk * tile.item / (w.r * w.s)
    return Strips(rows, w.images * w.p * w.q / rows, step_bytes)


def ceil_div(a: int, b: int) -> int:
    """Quotient, rounded up."""
    return -(-a // b)


def newest(row: dict) -> dict:
    """What the newest architecture made of a kernel of the report."""
    return row["arch"].get("90") or row["arch"]["90a"]


def tile_of(row: dict) -> Tile:
    """The tile of a kernel of the report; ValueError where its name does not tell."""
    found = _TILE.search(row["kernel"])
    if found is None or not row["threads"] or not row.get("occupancy"):
        raise ValueError(f"{row['stem']}: no tile, block size or occupancy in the report of {row['kernel']}")
    return Tile(
        *map(int, found.groups()[1:]),
        warps=row["threads"] // 32,
        item=2 if "Bf16" in row["kernel"] else 4,
        resident=row["occupancy"]["blocks"],
        producer=found[1] != "",
        persistent=found[1] != "",
        halo=found[1] == "Halo",
        transposes=found[1] == "Transposing",
        registers="WeightsTf32" in row["kernel"],
    )


def step_counts(tile: Tile, loop: dict[str, dict[str, int]]) -> dict[str, float]:
    """Instructions of a warp for one step of the reduction, by unit.

    The compiler may have unrolled steps, or left the products of one to a loop inside: how many multiply-adds
    the tile asks for tells.

    Raises
    ------
    ValueError
        Products of a kind the model does not know, or so many that no whole number of steps makes them.
    """
    found = loop.get("inner", loop["step"])
    name = next((name for name in ("HGMMA", "HMMA") if found.get(name)), "FFMA")
    once = {"HGMMA": 16 * tile.bn * 32 // tile.item, "HMMA": MMA_PRODUCTS[tile.item], "FFMA": 32}[name]
    wanted = tile.bm * tile.bn * tile.bk / (tile.multiplying * once)
    step, inner = loop["step"], loop.get("inner", {})
    outer_products, inner_products = step.get(name, 0), inner.get(name, 0)
    trips = (wanted - outer_products) / inner_products if inner else 0.0
    steps = outer_products / wanted if not inner else 1.0
    if steps < 1 or trips % 1 or steps % 1 or tile.producer != (name == "HGMMA"):
        raise ValueError(
            f"{outer_products} and {inner_products} {name} in the loop do not make the {wanted:g} of a step "
            f"of {tile}"
        )
    return {
        unit: (step.get(unit, 0) + trips * inner.get(unit, 0)) / steps
        for unit in sorted(step.keys() | inner.keys())
    }


def unit_cycles(
    tile: Tile, loop: dict[str, dict[str, int]], l2: float = L2, pixels: float | None = None
) -> dict[str, float]:
    """Cycles for which a block's step keeps each unit of its multiprocessor busy.

    A quarter of the multiprocessor issues an instruction a cycle to a fourth of the warps. Integers,
    comparisons and selections take its 16 lanes 2 cycles (`alu`); float32 has 32 lanes, of which the integer
    multiplier shares half (`fma`). Operands come from L2 once a block (`l2`, so many bytes a cycle). wgmma
    reads its operands, 64 and BN rows of 32 bytes, from shared memory each time, where TMA has put each once
    (`shared`); where rows pass through registers, the code's own loads count, and where columns are
    transposed, they are read and written once more. `pixels`: bytes of the rows' operand that a step brings,
    where it is not all of it.
    """
    counts = step_counts(tile, loop)
    quarter = tile.multiplying / 4
    imad, ffma = counts.get("imad", 0), counts.get("ffma", 0)
    brought = (tile.bm * tile.bk * tile.item if pixels is None else pixels) + tile.bn * tile.bk * tile.item
    found = {
        "issue": quarter * counts["issue"],
        "alu": quarter * 2 * counts.get("alu", 0),
        "fma": quarter * max(2 * imad, imad + ffma),
        "shared": tile.multiplying * counts.get("passes", 0),
        "l2": brought / l2,
        "tensor": 0.0,
    }
    if tile.producer:
        rows = 0 if tile.registers else 64  # that a product reads there
        found["shared"] += tile.multiplying / WARPGROUP * counts["HGMMA"] * (rows + tile.bn) * 32 / BANKS
        found["shared"] += brought / BANKS
        found["tensor"] = tile.bm * tile.bn * tile.bk / (TENSOR[tile.item] * WGMMA_SHARE)
    if tile.transposes:
        found["shared"] += 2 * tile.bn * tile.bk * tile.item / BANKS
        found["issue"] += tile.bn * tile.bk / 128 * TRANSPOSING / 3  # of three quarters, a warp each
    if counts.get("HMMA"):
        found["tensor"] = tile.bm * tile.bn * tile.bk / (TENSOR[tile.item] * MMA_SHARE)
    return found


def step_cycles(units: dict[str, float], blocks: int) -> float:
    """Cycles in which so many blocks of a multiprocessor do a step each."""
    return blocks * sum(cycles**POWER for cycles in units.values()) ** (1 / POWER)


def efficiencies(rows: list[dict]) -> list[int]:
    """Percent of the fastest of these kernels' multiply-adds a cycle, of each of them, in their loops."""
    rates = []
    for row in rows:
        tile = tile_of(row)
        pixels = strips(tile, USUAL_WINDOWS).step_bytes if tile.halo else None
        units = unit_cycles(tile, newest(row)["loop"], pixels=pixels)
        rates.append(tile.bm * tile.bn * tile.bk / step_cycles(units, 1))
    return [round(100 * rate / max(rates)) for rate in rates]


def edge_cycles(
    tile: Tile, loop: dict[str, dict[str, int]], blocks: int, out_item: float, l2: float = L2
) -> float:
    """Cycles that so many blocks, side by side, spend before and after the loop.

    A persistent block's next operands are on their way meanwhile, and its results leave by themselves.
    """
    instructions = OUTSIDE_RUN * loop["rest"]["issue"] * tile.multiplying / 4
    cycles = blocks * (instructions + tile.bm * tile.bn * out_item / l2)
    return cycles if tile.persistent else cycles + 2 * LATENCY


def longer_cycles(
    tile: Tile, loop: dict[str, dict[str, int]], blocks: int, columns: int, steps: int, l2: float = L2
) -> float:
    """Cycles more on a multiprocessor with so many blocks, of which at least one, and one of every `columns`,
    the tiles of a row, runs the kernel's longer loop.
    """
    if "longer" not in loop:
        return 0.0
    long, short = (step_cycles(unit_cycles(tile, {"step": loop[name]}, l2), 1) for name in ("longer", "step"))
    return ceil_div(blocks, columns) * steps * max(long - short, 0.0)


def busiest_cycles(blocks: int, resident: int, steps: int, units: dict[str, float], edge) -> float:
    """Cycles of the multiprocessor that has the most of so many blocks; `edge(n)` of n side by side.

    It has `resident` of them at a time, and in the end the rest.
    """
    rounds, rest = divmod(ceil_div(blocks, MULTIPROCESSORS), resident)
    cycles = rounds * (steps * step_cycles(units, resident) + edge(resident))
    return cycles + (steps * step_cycles(units, rest) + edge(rest) if rest else 0.0)


def limit_us(flops: float, nbytes: float, precision: str) -> float:
    """The least time on the card, in microseconds: multiply-adds or bytes, whichever takes longer."""
    return 1e6 * max(flops / H200.rate(precision), nbytes / H200.bandwidth)


def memory_us(nbytes: float, launches: int = 1) -> float:
    """Time of kernels that memory bounds."""
    return 1e6 * (nbytes / H200.bandwidth + launches * H200.overhead)


def predict(
    row: dict,
    product: Product,
    splits: int,
    precision: str,
    out_item: int,
    l2: float = L2,
    shared: Sequence[int] = (0, 0),
) -> dict:
    """Predict a kernel's time for a product: :func:`predict_tile` of a kernel of the report."""
    if "Weights" in row["kernel"]:  # whose rows are weights, its columns filters
        product = replace(product, rows=product.cols, cols=product.rows)
    found = predict_tile(tile_of(row), newest(row)["loop"], product, splits, precision, out_item, l2, shared)
    if "Turned" not in row["kernel"]:
        return found
    # A pass before it reads and writes the filters.
    turning = memory_us(2 * 4 * product.cols * product.depth * product.batches)
    us, share = found["us"] + turning, found["us"] / (found["us"] + turning)
    return found | {"us": round(us, 1), "percent": round(found["percent"] * share, 1)}


def predict_tile(
    tile: Tile,
    loop: dict[str, dict[str, int]],
    product: Product,
    splits: int,
    precision: str,
    out_item: int,
    l2: float = L2,
    shared: Sequence[int] = (0, 0),
) -> dict:
    """Predict the time of a kernel of a tile and a loop for a product; `splits`: pieces of the reduction,
    `l2`: bytes a cycle that a multiprocessor gets, `shared`: how many tiles at the end
    blocks share, and how many blocks (stream-K).

    Returns
    -------
    dict
        ``tiles``, ``splits``, ``steps`` of a block; ``resident`` blocks a multiprocessor; ``waves`` of
        resident blocks and ``tail``, the share of the last one that is idle; ``cycles`` of a step by unit,
        ``step_cycles`` with all resident blocks at work (a block's share), ``bound``; ``us`` and ``percent``
        of the limit.
    """
    cut = strips(tile, product.windows) if tile.halo else Strips(product.rows, 1.0, None)
    tiles = ceil_div(cut.rows, tile.bm) * ceil_div(product.cols, tile.bn) * product.batches
    steps = ceil_div(ceil_div(product.depth, tile.bk), splits)
    units = unit_cycles(tile, loop, l2, cut.step_bytes)
    item = 4 if splits > 1 else out_item
    shared_tiles, shares = shared
    whole = (tiles - shared_tiles) * splits
    cycles = busiest_cycles(
        whole,
        tile.resident,
        steps,
        units,
        lambda n: edge_cycles(tile, loop, n, item * cut.useful, l2),
    ) + longer_cycles(
        tile, loop, ceil_div(whole, MULTIPROCESSORS), ceil_div(product.cols, tile.bn), steps, l2
    )
    if shares:
        cycles += ceil_div(shared_tiles * steps, shares) * step_cycles(units, 1)
        cycles += edge_cycles(tile, loop, 1, 4 * cut.useful, l2)
    cycles += 2 * LATENCY if tile.persistent else 0
    busy, memory = 1e6 * cycles / CLOCK, 1e6 * product.nbytes / H200.bandwidth
    us = max(busy, memory) + 1e6 * H200.overhead
    if splits > 1:  # the pieces are written and read once more, and the sum written
        out = product.rows * product.cols * product.batches
        us += memory_us(out * (8 * splits + out_item))
    slots = MULTIPROCESSORS * tile.resident
    waves = ceil_div(whole, slots) + (shares > 0)
    busy_waves = whole / slots
    if shares:
        parts = shares + shared_tiles - math.gcd(shares, shared_tiles)
        us += memory_us(cut.useful * tile.bm * tile.bn * (8 * parts + out_item * shared_tiles))
        busy_waves += shares / MULTIPROCESSORS
    return {
        "tiles": tiles,
        "splits": splits,
        "steps": steps,
        "resident": tile.resident,
        "waves": waves,
        "tail": round(1 - busy_waves / waves, 3),
        "cycles": {unit: round(value) for unit, value in units.items()},
        "step_cycles": round(step_cycles(units, 1)),
        "bound": "hbm" if memory > busy else max(units, key=units.__getitem__),
        "us": round(us, 1),
        "percent": round(100 * limit_us(product.flops, product.nbytes, precision) / us, 1),
    }
