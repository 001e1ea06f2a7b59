"""The stand-in for CUDA's runtime: it refuses what a card refuses, in the card's words, and finds PTX."""

from __future__ import annotations

import json
import os
import re
import subprocess

import numpy as np
import pytest
from support import ROOT, ptx
from support.fakes.fake_cuda import CUDARuntimeError
from support.once import once

from pyconvnet import ops
from pyconvnet.common import devices

VALUE, CONFIGURATION = "cudaErrorInvalidValue", "cudaErrorInvalidConfiguration"
REFUSED = {
    "1025 threads": CONFIGURATION,
    "65 threads deep": CONFIGURATION,
    "no threads": CONFIGURATION,
    "65536 blocks down": CONFIGURATION,
    "beyond its bounds": "cudaErrorLaunchOutOfResources",
    "48 KiB and 1": VALUE,
    "227 KiB and 1 allowed": VALUE,
    "no such stream": "cudaErrorInvalidResourceHandle",
    "last": "cudaErrorInvalidResourceHandle",
    "copy beyond": VALUE,
    "copy the wrong way": VALUE,
    "fill beyond": VALUE,
    "free what is not": VALUE,
    "free again": VALUE,
}
# What a kernel does wrong: the error of all calls that come after, and the executor's words.
FAULTS = {
    "o": ("cudaErrorIllegalAddress", r"reads_kernel.*read of 4 bytes of global memory out of bounds"),
    "h": ("cudaErrorIllegalAddress", r"reads_kernel.*out of bounds"),
    "u": ("cudaErrorLaunchFailure", r"reads_kernel.*undefined"),
    "m": ("cudaErrorMisalignedAddress", r"vector_kernel.*misaligned read"),
    "t": ("cudaErrorLaunchFailure", r"trap_kernel.*trap"),
}


@pytest.fixture(scope="module")
def limits(runtime, tmp_path_factory):
    """Runs limits.cu; returns what it printed, and its last words."""

    def make(folder):
        ptx.compile_program(
            ROOT / "tests/ptx/limits.cu", ROOT / "kernels", folder / "limits", architecture="compute_80"
        )

    program = once(tmp_path_factory, "ptx_limits", make) / "limits"

    def run(*arguments, **environment):
        done = subprocess.run(
            [program, *arguments],
            env=dict(os.environ, LD_LIBRARY_PATH=str(runtime), **environment),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return run


def test_what_a_card_refuses_is_refused(limits):
    statuses, words = limits()
    assert {name: status for name, status in statuses.items() if status != "cudaSuccess"} == REFUSED
    assert len(statuses) >= len(REFUSED) + 7
    assert re.search(r"bounded_kernel.* \(65, 1, 1\) threads; it was compiled for 64", words)


@pytest.mark.parametrize("which", FAULTS)
def test_a_fault_is_sticky(limits, which):
    """A launch does not wait for its kernel: the calls after it tell, all of them."""
    statuses, words = limits(which)
    error, text = FAULTS[which]
    assert statuses.pop("launched") == "cudaSuccess"
    assert set(statuses.values()) == {error}
    assert re.search(text, words)


def test_both_ways_to_launch(limits):
    statuses, _ = limits("c")
    assert set(statuses.values()) == {"cudaSuccess"}


def test_ptx_in_the_place_of_the_binarys(limits, tmp_path):
    """Another text is run, one that is no PTX is refused, with the line."""
    (tmp_path / "wrong.ptx").write_text(".version 9.0\n.target sm_80\n.address_size 64\nno such thing\n")
    statuses, words = limits("c", PYCONVNET_PTX_TEXT=str(tmp_path / "wrong.ptx"))
    assert statuses["launched"] == "cudaErrorInvalidPtx"
    assert "limits.cu:4" in words


def test_cuda_0_is_found_as_a_card_is(machine):
    machine()
    device = devices.get_device("cuda:0")
    assert str(device.code) == "PTX for 8.0"
    assert devices.available_devices()[0] == ("cuda:0", None)


def test_arrays_have_their_exact_extents(machine):
    """One byte beyond an array is another's, and what nobody wrote is known."""
    m = machine()
    device = devices.get_device("cuda:0")
    array = device.empty((3, 5))
    pointer = array.data.ptr
    assert not m.runtime.initialised(pointer, 60)
    array[1] = device.asarray(np.ones(5, np.float32))
    assert m.runtime.initialised(pointer + 20, 20)
    assert not m.runtime.initialised(pointer + 20, 21)
    array.fill(1)
    assert m.runtime.initialised(pointer, 60)
    del array
    again = device.empty((5, 3))  # lent again
    assert again.data.ptr == pointer
    assert not m.runtime.initialised(pointer, 1)


def test_a_kernels_fault_reaches_python(machine):
    """With the kernel, the line and the thread; the device is lost until it is reset."""
    m = machine()
    device = devices.get_device("cuda:0")
    state = {name: device.asarray(np.ones(6, np.float32)) for name in "vg"}
    state["w"] = device.empty((6,))  # which nobody has written
    options = {
        "hyper": device.asarray(np.ones(2, np.float32)),
        "ends": device.asarray(np.array([6], np.int64)),
        "lr_mult": device.asarray(np.ones(1, np.float32)),
        "weight_decay": device.asarray(np.ones(1, np.float32)),
    }
    with pytest.raises(CUDARuntimeError, match=r"sgd_momentum.*undefined") as raised:
        ops.sgd_momentum(**state, **options)
    assert raised.value.status == 719
    with pytest.raises(CUDARuntimeError, match="cudaErrorLaunchFailure"):
        m.runtime.malloc(4)
    m.runtime.reset()
    assert m.runtime.malloc(4)
