"""The cycle model of Hopper's other tiles: taps that share pixels, columns that are transposed."""

import json
import math
import sys

import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from report import cycles, predictions

COMMITTED = json.loads((ROOT / "docs" / "kernel-report.json").read_text())
STEMS = predictions.by_stem(COMMITTED["kernels"])


def tile(stem: str) -> cycles.Tile:
    return cycles.tile_of(STEMS[stem])


@pytest.mark.parametrize(
    ("stem", "windows", "rows", "box"),
    [
        # An image of 13 rows of 14 positions a strip; 15 rows, and what windows reach behind, are loaded.
        ("conv2d_fprop_wgmma_halo384x96", cycles.Windows(128, 13, 13, 13, 3, 3, 1), 128 * 192, 16 * 14),
        # 27 rows of 29 in strips of 14 and 13.
        ("conv2d_dgrad_wgmma_halo896x48", cycles.Windows(128, 27, 27, 27, 5, 5, 2), 128 * 2 * 448, 19 * 29),
        # 55 rows of 57, four a strip, without padding.
        ("conv2d_fprop_wgmma_halo512x96", cycles.Windows(128, 55, 55, 57, 3, 3, 0), 128 * 14 * 256, 6 * 57),
    ],
)
def test_strips_by_hand(stem, windows, rows, box):
    found = cycles.strips(tile(stem), windows)
    assert found.rows == rows
    assert found.useful == windows.images * windows.p * windows.q / rows
    # Two strips, each pixel's channels of a step in sectors twice their size, a tap's share.
    channels = tile(stem).bk
    assert found.step_bytes == pytest.approx(2 * box * channels * 4 * 2 / (windows.r * windows.s))


def test_shared_pixels_by_hand():
    """12 products of 64x96 a warp and step; columns come from L2 each step, pixels once for nine taps."""
    kernel = STEMS["conv2d_fprop_wgmma_halo384x96"]
    found = cycles.unit_cycles(tile(kernel["stem"]), cycles.newest(kernel)["loop"], pixels=12743.1)
    brought = 12743.1 + 96 * 32 * 4
    assert found["l2"] == pytest.approx(brought / 32)
    assert found["shared"] == pytest.approx(2 * 12 * (64 + 96) * 32 / 128 + brought / 128)
    assert found["tensor"] == pytest.approx(384 * 96 * 32 / 1024 / 0.83)


def test_transposed_columns_by_hand():
    """wgrad reads rows by LDS, a pass each; dy is read and written once more, and products read it alone."""
    kernel = STEMS["conv2d_wgrad_wgmma256x128"]
    loop = cycles.newest(kernel)["loop"]
    found = cycles.unit_cycles(tile(kernel["stem"]), loop)
    assert (loop["step"]["passes"], loop["step"]["HGMMA"]) == (32, 8)
    assert found["shared"] == 8 * 32 + 2 * 8 * 128 * 32 / 128 + (256 + 128) * 32 * 4 / 128 + 2 * 128
    assert found["issue"] == pytest.approx(2 * loop["step"]["issue"] + 128 * 32 / 128 * 27 / 3)
    back = STEMS["conv2d_dgrad_wgmma_transposing128x128"]
    found = cycles.unit_cycles(tile(back["stem"]), cycles.newest(back)["loop"])
    assert found["shared"] == 2 * 4 * (64 + 128) * 32 / 128 + 256 * 32 * 4 / 128 + 2 * 128


def test_shared_tiles_by_hand():
    """150 tiles, of which 108 blocks share 18: six steps each, sums that are written as float, and a pass."""
    kernel, windows = STEMS["conv2d_fprop_wgmma_halo384x96"], cycles.Windows(300, 13, 13, 13, 3, 3, 1)
    product = cycles.Product(300 * 169, 96, 36 * 32, 1, 1.0, 1.0, windows)
    whole, found = (
        cycles.predict(kernel, product, 1, "tf32", 4, shared=shared) for shared in ((0, 0), (18, 108))
    )
    assert (whole["tiles"], whole["waves"], whole["tail"]) == (150, 2, round(1 - 150 / 264, 3))
    assert (found["tiles"], found["waves"], found["tail"]) == (150, 2, round(1 - (132 + 108) / 264, 3))
    passing = 3 + 2 * 169 * 96 * (8 * 108 + 4 * 18) / cycles.H200.bandwidth * 1e6
    assert whole["us"] - found["us"] == pytest.approx(30 * found["step_cycles"] / 1755 - passing, abs=0.2)
    uneven = cycles.predict(kernel, product, 1, "tf32", 4, shared=(18, 132))  # 5 steps, 144 parts
    more = 2 * 169 * 96 * 8 * 36 / cycles.H200.bandwidth * 1e6
    assert found["us"] - uneven["us"] == pytest.approx(found["step_cycles"] / 1755 - more, abs=0.2)


def test_only_outputs_of_strips_leave():
    kernel, images = STEMS["conv2d_fprop_wgmma_halo384x96"], 2 * 132
    windows = cycles.Windows(images, 13, 13, 13, 3, 3, 1)
    product = cycles.Product(images * 169, 96, 9 * 32, 1, 1.0, 1.0, windows)
    found = cycles.predict(kernel, product, 1, "tf32", 4)
    assert (found["tiles"], found["waves"], found["steps"], found["tail"]) == (132, 1, 9, 0.0)
    edge = 0.5 * cycles.newest(kernel)["loop"]["rest"]["issue"] * 2 + 2 * 169 * 96 * 4 / 32
    units = cycles.unit_cycles(
        tile(kernel["stem"]),
        cycles.newest(kernel)["loop"],
        pixels=cycles.strips(tile(kernel["stem"]), windows).step_bytes,
    )
    step = math.fsum(cycle**4 for cycle in units.values()) ** 0.25
    assert found["us"] == pytest.approx((9 * step + edge + 1600) / 1755 + 3, abs=0.06)
