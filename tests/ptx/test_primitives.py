"""Every primitive as nvcc compiles it for sm_90a, on the executor of PTX: the emulator's bits."""

from __future__ import annotations

import pytest
from support import ROOT, ptx
from support.emulator import compare_primitives, probes
from support.once import once


@pytest.fixture(scope="module")
def programs(runtime, tmp_path_factory):
    """A folder with the program for the device, and what the emulator's computes."""

    def make(folder):
        probes.build("plain", folder / "emulator")
        ptx.compile_program(ptx.PRIMITIVES, ROOT / "kernels", folder / "device")

    return once(tmp_path_factory, "ptx_primitives", make)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("async_", ["late", "early", "random"])
def test_primitives_have_the_emulators_bits(runtime, programs, order, async_):
    """In every order of the warps, and whenever asynchronous copies and products land."""
    emulator = probes.run(programs / "emulator" / "primitives")
    schedule = {"PYCONVNET_PTX_ORDER": order, "PYCONVNET_PTX_ASYNC": async_}
    device = ptx.run_program(programs / "device", runtime, *emulator, **schedule)
    assert len(emulator) >= 40
    different = [row for row in compare_primitives.compare(device, emulator) if not row["equal"]]
    assert different == []
