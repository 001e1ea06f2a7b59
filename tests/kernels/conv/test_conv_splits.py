"""``kernel="NAME/8"``: the number of splits of a convolution's sums, chosen by the caller."""

import functools

import numpy as np
import pytest
from support.helpers import EPS32, Scratch, assert_close, same_bits
from support.kernels.conv_problems import (
    CASES,
    DIRECTIONS,
    compute,
    cuts,
    halo_rows,
    kernels,
    listed,
    problem,
    shape_of,
    table,
)
from support.kernels.conv_shapes import Conv

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import core

# Between them: every row, groups, strides, ragged tiles, sums of a few steps and of many.
NAMES = ("first_overhang", "many_pixels", "many_channels", "many_groups", "odd_everything", "odd_deep")
PLAIN = devices.emulator().ext.flavour() == "plain"  # sanitized builds are some 30 times slower
FEW = [case for case in CASES if case.name in NAMES]
EPS = {"fp32": EPS32, "tf32": 2.0**-11, "fp32x3": EPS32}
MOST = 9  # splits tried


@functools.cache
def possible(op: str, case: Conv, kernel: str, precision: str) -> list[int]:
    return [splits for splits in range(1, MOST + 1) if cuts(op, case, kernel, splits, precision)]


def rows() -> list:
    """Each direction, case and kernel once, in the lowest precision that has it."""
    return [
        pytest.param(op, case, kernel, "tf32" if "mma" in kernel else "fp32", id=f"{case}-{kernel}")
        for op in DIRECTIONS
        for case in FEW
        for kernel in kernels(op, case, precision="tf32")
    ]


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel", "precision"), rows())
def test_every_number_of_splits(op, case, kernel, precision, device, run_on):
    """The reference's result, in exactly the memory that was announced."""
    p, shape = problem(case), shape_of(case, precision)
    numbers = possible(op, case, kernel, precision)
    assert numbers[0] == 1
    whole = listed(op, shape.cut(1))[kernel]
    one = p.expected(op).size * 4
    for splits in numbers[:3] + numbers[-1:] if PLAIN else numbers[1:2]:
        scratch = Scratch(device)
        with run_on(device):
            result = compute(op, case, device, f"{kernel}/{splits}", precision=precision, workspace=scratch)
        assert_close(result, p.expected(op), p.terms[op], eps=EPS[precision])
        wanted = sum(scratch.requests)
        assert wanted == listed(op, shape.cut(splits))[kernel]
        if not kernel.endswith("first_layer"):  # which pads its filters, so that a split is larger
            turns = kernel.startswith("conv2d_dgrad_wgmma") and "_transposing" not in kernel
            assert whole == (-(-p.w.nbytes // 256) * 256 if turns else 0)  # filters in TF32
            assert wanted == whole + (splits * one if splits > 1 else 0)
        assert wanted - whole >= (splits * one if splits > 1 else 0)


def test_rows_are_cut_and_how_finely():
    """Not one number of splits only: each kernel that sums enough terms can be cut, and unevenly."""
    for op in DIRECTIONS:
        cut = {
            kernel
            for case in FEW
            for kernel in kernels(op, case, precision="tf32")
            if len(possible(op, case, kernel, "tf32")) > 2
        }
        assert cut == table(op) - halo_rows(table(op))
    many = next(case for case in FEW if case.name == "many_pixels")
    assert possible("conv2d_wgrad", many, "conv2d_wgrad_tile32", "fp32") == list(range(1, MOST + 1))


@pytest.mark.kernels
@pytest.mark.parametrize("op", DIRECTIONS)
def test_every_schedule_gives_the_same_bits(op, schedule):
    case = next(case for case in FEW if case.name == "many_channels")
    for kernel in kernels(op, case, precision="tf32")[:2]:
        for splits in possible(op, case, kernel, "tf32")[1:3]:
            name = f"{kernel}/{splits}"
            with ops.on("emulator"):
                result = compute(op, case, devices.emulator(), name, precision="tf32")
            assert same_bits(result, _plain(op, case, name)), name


@functools.cache
def _plain(op: str, case: Conv, kernel: str) -> np.ndarray:
    devices.emulator().ext.configure()
    with ops.on("emulator"):
        return compute(op, case, devices.emulator(), kernel, precision="tf32")


@pytest.mark.parametrize("op", DIRECTIONS)
def test_the_number_found_by_the_shape_can_be_asked_for(op):
    """A kernel without a number is the kernel with the number it finds: the same memory, the same bits."""
    case = next(case for case in FEW if case.name == "many_channels")
    shape = shape_of(case, "fp32")
    for kernel, nbytes in listed(op, shape).items():
        same = [s for s in range(1, 40) if listed(op, shape.cut(s)).get(kernel) == nbytes]
        assert len(same) == 1
        with ops.on("emulator"):
            found, asked = (
                compute(op, case, devices.emulator(), name) for name in (kernel, f"{kernel}/{same[0]}")
            )
        assert same_bits(found, asked)


def test_strided_input_gradients_are_not_cut():
    case = next(case for case in FEW if case.name == "odd_everything")
    kernel = kernels("conv2d_dgrad", case)[0]
    with ops.on("emulator"):
        whole = compute("conv2d_dgrad", case, devices.emulator(), f"{kernel}/1")
        assert same_bits(whole, compute("conv2d_dgrad", case, devices.emulator(), kernel))
        with pytest.raises(ValueError, match=f"{kernel} cannot cut their sums into 2 splits"):
            compute("conv2d_dgrad", case, devices.emulator(), f"{kernel}/2")


@pytest.mark.kernels
@pytest.mark.parametrize("op", ["linear", "linear_dgrad", "linear_wgrad"])
def test_fully_connected_layers(op, device, run_on, rng):
    n, i, o = (256, 264, 128)
    x, w, dy = (rng.standard_normal(s).astype(np.float32) for s in ((n, i), (o, i), (n, o)))
    arrays = {"linear": (x, w), "linear_dgrad": (dy, w), "linear_wgrad": (dy, x)}[op]
    a, b = (v.astype(np.float64) for v in arrays)
    expected, terms = {
        "linear": (lambda: a @ b.T, i),
        "linear_dgrad": (lambda: a @ b, o),
        "linear_wgrad": (lambda: a.T @ b, n),
    }[op]
    with run_on(device):
        placed = [device.asarray(v) for v in arrays]
        for kernel in [k for k in ops.kernels(op, x.shape, w.shape, device=device) if k != "cublas"][:3]:
            for splits in (1, 2, 4):
                y = getattr(ops, op)(*placed, kernel=f"{kernel}/{splits}")
                assert_close(device.to_numpy(y), expected(), terms)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("kernel", "error", "message"),
    [
        ("conv2d_wgrad_tile32/5000", ValueError, "cannot cut their sums into 5000 splits"),
        ("conv2d_wgrad_tile32/0", ValueError, "NAME/SPLITS with a positive number, got"),
        ("conv2d_wgrad_tile32/-2", ValueError, "NAME/SPLITS"),
        ("conv2d_wgrad_tile32/", ValueError, "NAME/SPLITS"),
        ("conv2d_wgrad_tile32/2/3", ValueError, "NAME/SPLITS"),
        ("conv2d_wgrad_tile32/²", ValueError, "NAME/SPLITS"),
        ("conv2d_wgrad_tile32/99999999999", ValueError, "NAME/SPLITS"),
        ("nothing/2", ValueError, "'nothing' does not apply to these shapes; these do: "),
        (7, TypeError, "kernel must be a string, got int"),
    ],
)
def test_impossible_numbers(kernel, error, message):
    case = next(case for case in FEW if case.name == "many_pixels")
    with ops.on("emulator"), pytest.raises(error, match=f"conv2d_wgrad: .*{message}"):
        compute("conv2d_wgrad", case, devices.emulator(), kernel)


def test_the_binding_refuses_what_cannot_be_cut():
    ext = devices.emulator().ext
    shape = ext.Conv2dShape(n=2, h=6, w=5, c=4, k=8, r=3, s=2, p=4, q=4)
    x, w, y = (np.ones(s, np.float32) for s in ((2, 6, 5, 4), (8, 3, 2, 4), (2, 4, 4, 8)))
    scratch = np.empty(1 << 16, np.uint8)
    with pytest.raises(ValueError, match="cannot cut the reduction into 7 pieces"):
        ext.conv2d_fprop("conv2d_fprop_generic", shape.cut(7), y, x, w, None, 0, scratch, 0)
    with pytest.raises(ValueError, match="workspace"):
        ext.conv2d_fprop("conv2d_fprop_generic", shape.cut(3), y, x, w, None, 0, scratch[:64], 0)
    for make in (
        lambda: shape.cut(-2),
        lambda: ext.Conv2dShape(n=1, h=1, w=1, c=1, k=1, r=1, s=1, p=1, q=1, splits=-2),
    ):
        with pytest.raises(ValueError, match="splits must be a number of pieces, 0 or -1, got -2"):
            make()
    assert (shape.splits, shape.cut(3).splits, shape.cut(3).cut(0).splits) == (0, 3, 0)


def test_the_suffix():
    assert core.parse_kernel("op", None) == (None, 0)
    assert core.parse_kernel("op", "a") == ("a", 0)
    assert core.parse_kernel("op", "a/12") == ("a", 12)
