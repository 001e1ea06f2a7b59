"""CUTLASS's kernels beside ours: the loop found in their machine code, the products as they walk them."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
from support import ROOT

# A loop of two products whose wait for a barrier stands behind the code, as CUTLASS's.
SASS = """
	Function : peer
        /*0000*/                   UMOV UR5, 0x1 ;
        /*0010*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR6+0x30000], R5 ;
        /*0020*/              @!P0 BRA 0x80 ;
        /*0030*/                   WARPGROUP.ARRIVE ;
        /*0040*/                   HGMMA.64x128x16.F32.BF16 R88, gdesc[UR8], R88, UP0 ;
        /*0050*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0060*/               @P1 BRA 0x10 ;
        /*0070*/                   EXIT ;
        /*0080*/                   IMAD.U32 R6, RZ, RZ, UR6 ;
        /*0090*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [R6+URZ+0x30000], R5 ;
        /*00a0*/              @!P0 BRA 0x80 ;
        /*00b0*/                   BRA 0x30 ;
"""


@pytest.fixture
def peer(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("cutlass_peer")


def test_a_wait_behind_the_code_is_no_part_of_the_loop(peer):
    (loop,) = peer.loops.main_loops(SASS).values()
    assert (loop["step"]["issue"], loop["step"]["HGMMA"], loop["rest"]["issue"]) == (6, 2, 6)


def found(peer, **options):
    step = {"issue": 66, "tensor": 8, "HGMMA": 8}
    tile = peer.cycles.Tile(128, 128, 64, 8, 2, 1, producer=True)
    made = peer.Peer("conv2d", "bf16", "128x128", "", tile, {"step": step, "rest": {"issue": 900}})
    return dataclasses.replace(made, **options)


def test_every_wgmma_row_of_the_step_has_its_peer_or_none(peer):
    rows = list(peer.compare([found(peer), found(peer, op="conv2d_wgrad", tile=None, reason="spills")]))
    report = {(row["layer"], row["op"], row["precision"]) for row in rows}
    assert {(f"conv{i}", "conv2d", p) for i in range(1, 6) for p in ("bf16", "tf32")} <= report
    for row in rows:
        has_one = (row["op"], row["precision"]) == ("conv2d", "bf16")
        assert (row["cutlass"] == "128x128", row["cutlass_us"] is not None) == (has_one, has_one)
        assert row["us"] > 0
        assert 4 < row["instructions_per_wgmma"] < 20
    peer.show([found(peer), found(peer, tile=None, reason="spills")], rows)


def test_more_instructions_take_longer(peer):
    def us(issue):
        loop = {"step": {"issue": issue, "tensor": 8, "HGMMA": 8}, "rest": {"issue": 900}}
        return {r["layer"]: r["cutlass_us"] for r in peer.compare([found(peer, loop=loop)]) if r["cutlass"]}

    few, many = us(66), us(6600)
    assert all(few[layer] < many[layer] for layer in few)


def test_channels_are_padded_to_the_depth_of_a_step(peer):
    shapes = {(layer, op): s for layer, op, s in peer.alexnet.operations()}
    conv1 = peer.product("conv1", "conv2d", shapes["conv1", "conv2d"], found(peer), 1.0)
    assert conv1.depth == 3 * 3 * 64  # 48 channels in the space-to-depth layout
    conv3 = peer.product("conv3", "conv2d", shapes["conv3", "conv2d"], found(peer), 1.0)
    assert (conv3.rows, conv3.cols, conv3.depth) == (128 * 13 * 13, 384, 9 * 256)
    wgrad = peer.product("conv2", "conv2d_wgrad", shapes["conv2", "conv2d_wgrad"], found(peer), 1.0)
    assert wgrad.cols == 25 * 128  # 48 channels of a group


def test_a_record_is_the_kernel(peer):
    for made in (found(peer), found(peer, tile=None, loop=None, reason="spills")):
        assert peer.recorded(peer.json.loads(peer.json.dumps(peer.record(made)))) == made
