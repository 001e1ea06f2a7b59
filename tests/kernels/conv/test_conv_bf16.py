"""Convolutions and fully connected layers of bfloat16 arrays.

bfloat16 numbers are exact in float64, and so are their products in float32: a kernel may err by the roundings
of a float32 sum, and by one rounding of what is stored as bfloat16.
"""

import functools

import ml_dtypes
import numpy as np
import pytest
from support.helpers import EPS32, filled_with_nan, same_bits, tolerance
from support.kernels.conv_problems import (
    ALEXNET,
    CASES,
    DIRECTIONS,
    FEW,
    PLAIN,
    TINY,
    compute,
    halo_rows,
    is_representative,
    kernels,
    once_each,
    problem,
    reached,
    representative,
    slow,
    table,
)
from support.kernels.conv_shapes import RAGGED_CONVS, RAGGED_OF_EIGHT, Conv, alexnet_convs

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import reference
from pyconvnet.ops.conv import capability

BF16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
HALF_ULP = 2.0**-8  # the largest relative error of rounding to 8 significant bits
BF16_CASES = [*TINY, *RAGGED_CONVS, *RAGGED_OF_EIGHT]
LARGE = ALEXNET if PLAIN else []
FEW_OF_EIGHT = ("eight_rectangular", "eight_many_channels", "eight_many_pixels")
FEW_BF16 = [
    *(case for case in RAGGED_OF_EIGHT if case.name in FEW_OF_EIGHT),
    *FEW,
]
LINEARS = [(1, 40, 24), (17, 72, 136), (130, 40, 16), (3, 2056, 8), (600, 8, 24), (5, 7, 3), (2, 1027, 10)]


def assert_right(actual: np.ndarray, expected: np.ndarray, terms: int) -> None:
    """Sums of `terms` products in float32, rounded to bfloat16 where the array is of it. NaN fails."""
    assert expected.dtype == np.float64
    assert np.isfinite(expected).all()
    assert actual.shape == expected.shape
    assert actual.dtype in (BF16, F32)
    summed = tolerance(expected, terms, eps=EPS32)
    limit = summed + HALF_ULP * (np.abs(expected) + summed) if actual.dtype == BF16 else summed
    error = np.abs(actual.astype(np.float64) - expected)
    assert (error <= limit).all(), f"{np.count_nonzero(~(error <= limit))} of {error.size} are wrong"


def rows(cases: list[Conv]) -> list:
    """One test for each direction, case and kernel of bfloat16."""
    return [
        pytest.param(op, case, kernel, id=f"{case}-{kernel.removeprefix('conv2d_')}")
        for op in DIRECTIONS
        for case in dict.fromkeys(cases)
        for kernel in kernels(op, case, precision="bf16")
    ]


# ---------------------------------------------------------------- every kernel, every shape


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("op", "case", "kernel"), [*representative(rows(BF16_CASES), "conv2d_wgrad"), *slow(rows(LARGE))]
)
def test_kernel(op, case, kernel, device, run_on):
    if "_wgmma" in kernel and capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    if "_mma" in kernel and capability(device) < 80:
        pytest.skip("the GPU has no tensor cores for bfloat16")
    p = problem(case, BF16)
    with run_on(device):
        result = compute(op, case, device, kernel, BF16)
    assert_right(result, p.expected(op), p.terms[op])


@pytest.mark.parametrize("op", DIRECTIONS)
def test_the_shapes_reach_split_and_whole_reductions_of_every_row(op):
    first_layer = {name for name in table(op) if name.endswith("first_layer")}  # calls one of the others
    for cases in (BF16_CASES, [case for case in BF16_CASES if is_representative(case, DIRECTIONS[op])]):
        split, whole = reached(op, cases, "bf16")
        assert split == table(op, BF16) - first_layer
        assert whole == table(op, BF16)
    assert {name for case in FEW_BF16 for name in kernels(op, case, precision="bf16")} == table(op, BF16)


@functools.cache
def _bits_in_plain_order(op: str, case: Conv, kernel: str) -> np.ndarray:
    devices.emulator().ext.configure()  # whatever schedule the caller's test runs under
    with ops.on("emulator"):
        return compute(op, case, devices.emulator(), kernel, BF16)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), once_each(rows(FEW_BF16)))
def test_every_schedule_gives_the_same_bits(op, case, kernel, schedule):
    """Threads in any order, asynchronous copies as early and as late as may be."""
    with ops.on("emulator"):
        result = compute(op, case, devices.emulator(), kernel, BF16)
    assert same_bits(result, _bits_in_plain_order(op, case, kernel))


@pytest.mark.parametrize(
    ("op", "case", "kernel"), [row for row in rows(FEW_BF16) if row.values[0] == "conv2d"]
)
def test_bias_and_relu_are_fused_rightly(op, case, kernel, device, run_on):
    if "_wgmma" in kernel and capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    if "_mma" in kernel and capability(device) < 80:
        pytest.skip("the GPU has no tensor cores for bfloat16")
    p = problem(case, BF16)
    with run_on(device):
        x, w, b = (device.asarray(a) for a in (p.x, p.w, p.b))
        relu = device.to_numpy(ops.conv2d(x, w, b, activation="relu", kernel=kernel, **case.options))
        plain = device.to_numpy(ops.conv2d(x, w, kernel=kernel, **case.options))
    assert (p.y < 0).any()
    assert_right(relu, np.maximum(p.y, 0), p.terms[op])
    assert_right(plain, p.y - p.b.astype(np.float64), p.terms[op])


@pytest.mark.parametrize(
    ("op", "name"),
    [("conv2d", "eight_many_channels"), ("conv2d_dgrad", "eight_deep"), ("conv2d_wgrad", "many_pixels")],
)
def test_pieces_that_are_asked_for(op, name):
    case = next(case for case in [*RAGGED_OF_EIGHT, *CASES] if case.name == name)
    p = problem(case, BF16)
    with ops.on("emulator"):
        for kernel in kernels(op, case, precision="bf16"):
            for pieces in (1,) if halo_rows({kernel}) else (1, 2, 3):
                result = compute(op, case, devices.emulator(), f"{kernel}/{pieces}", BF16)
                assert_right(result, p.expected(op), p.terms[op])


@pytest.mark.kernels
@pytest.mark.parametrize(("n", "i", "o"), LINEARS if PLAIN else LINEARS[:2])
def test_linear(n, i, o, device, run_on):
    rng = np.random.default_rng(n)
    x, w, dy = (rng.standard_normal(shape).astype(BF16) for shape in ((n, i), (o, i), (n, o)))
    b = rng.standard_normal(o).astype(F32)
    x64, w64, dy64, b64 = (a.astype(np.float64) for a in (x, w, dy, b))
    expected = {
        "linear": (reference.linear(x64, w64, b64), i + 1, BF16, (x, w, b)),
        "linear_dgrad": (reference.linear_dgrad(dy64, w64), o, BF16, (dy, w)),
        "linear_wgrad": (reference.linear_wgrad(dy64, x64), n, F32, (dy, x)),
    }
    with run_on(device):
        for op, (result, terms, dtype, arrays) in expected.items():
            names = ops.kernels(op, (n, i), (o, i), precision="bf16", device=device)
            assert any("_mma" in name for name in names) == (i % 8 == 0 and (op == "linear" or o % 8 == 0))
            for kernel in names:
                out = filled_with_nan(device, result.shape, dtype)
                getattr(ops, op)(*(device.asarray(a) for a in arrays), kernel=kernel, out=out)
                assert_right(device.to_numpy(out), result, terms)


# ---------------------------------------------------------------- which kernel serves what


def test_alexnet_runs_on_tensor_cores_where_there_are_some(monkeypatch):
    for device in ("80", "86", "90"):
        monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", device)
        for batch in (1, 128, 1024):
            for case in alexnet_convs(batch):
                for op in DIRECTIONS:
                    name = kernels(op, case, precision="bf16")[0]
                    if case.name == "conv1":  # whose input gradient nobody needs
                        assert name.endswith("generic" if op == "conv2d_dgrad" else "first_layer")
                    else:
                        assert name.endswith("_bf16")


def test_devices_without_tensor_cores(monkeypatch):
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", "75")
    dev = devices.emulator()
    with ops.on(dev):
        for case in FEW_BF16:
            p = problem(case, BF16)
            for op in DIRECTIONS:
                assert not any("_mma" in name for name in kernels(op, case, precision="bf16"))
                assert_right(compute(op, case, dev, None, BF16), p.expected(op), p.terms[op])
        with pytest.raises(ValueError, match="'conv2d_fprop_mma64x64_bf16' does not apply"):
            compute("conv2d", FEW_BF16[0], dev, "conv2d_fprop_mma64x64_bf16", BF16)


def test_unaligned_arrays_take_generic_kernels(device, run_on):
    case = RAGGED_OF_EIGHT[0]
    p = problem(case, BF16)
    with run_on(device):
        storage = device.asarray(np.concatenate([np.zeros(1, BF16), p.x.ravel()]))
        x, w, b = storage[1:].reshape(case.x), device.asarray(p.w), device.asarray(p.b)
        with pytest.raises(ValueError, match="'conv2d_fprop_mma64x64_bf16' does not apply"):
            ops.conv2d(x, w, b, kernel="conv2d_fprop_mma64x64_bf16", **case.options)
        y = device.to_numpy(ops.conv2d(x, w, b, **case.options))
    assert_right(y, p.y, p.terms["conv2d"])


def test_kernels_of_one_type_refuse_the_other():
    ext = devices.emulator().ext
    fields = {"n": 2, "h": 6, "w": 5, "c": 8, "k": 8, "r": 3, "s": 2, "p": 4, "q": 4, "capability": 90}
    bf16 = ext.Conv2dShape(**fields, precision=3)
    assert bf16.precision == 3
    y = np.empty((2, 4, 4, 8), BF16)
    with pytest.raises(ValueError, match="there is no kernel called 'conv2d_fprop_mma64x64'"):
        ext.conv2d_fprop("conv2d_fprop_mma64x64", bf16, y, X, W, None, 0, None, 0)
    with pytest.raises(ValueError, match="there is no kernel called 'conv2d_fprop_mma64x64_bf16'"):
        ext.conv2d_fprop("conv2d_fprop_mma64x64_bf16", ext.Conv2dShape(**fields), y, X, W, None, 0, None, 0)
    with pytest.raises(TypeError, match="x must be bfloat16"):
        ext.conv2d_fprop("conv2d_fprop_generic", bf16, y, X.astype(F32), W, None, 0, None, 0)
    with pytest.raises(TypeError, match="b must be float32"):
        ext.conv2d_fprop("conv2d_fprop_generic", bf16, y, X, W, BIAS.astype(BF16), 0, None, 0)


@pytest.mark.parametrize("kernel", ["conv2d_fprop_mma64x64_bf16", "conv2d_fprop_generic"])
def test_nan_and_infinity_are_not_lost(kernel, device, run_on):
    if "_mma" in kernel and capability(device) < 80:
        pytest.skip("the GPU has no tensor cores for bfloat16")
    case = RAGGED_OF_EIGHT[0]
    p = problem(case, BF16)
    for bad in (np.nan, np.inf):
        x = p.x.copy()
        x[0, 2, 3, 0] = bad
        expected = reference.conv2d(x.astype(np.float64), p.w.astype(np.float64), **case.options)
        with run_on(device):
            y = ops.conv2d(device.asarray(x), device.asarray(p.w), kernel=kernel, **case.options)
        y = device.to_numpy(y).astype(np.float64)
        assert not np.isfinite(expected).all()
        np.testing.assert_array_equal(
            np.where(np.isfinite(y), 0, y), np.where(np.isfinite(expected), 0, expected)
        )


# ---------------------------------------------------------------- what the dtype says

X, W = np.ones((2, 6, 5, 8), BF16), np.ones((8, 3, 2, 8), BF16)
DY, BIAS = np.ones((2, 4, 4, 8), BF16), np.ones(8, F32)
A, B, DA = np.ones((3, 8), BF16), np.ones((8, 8), BF16), np.ones((3, 8), BF16)
CALLS = {
    "conv2d": (X, W, BIAS),
    "conv2d_dgrad": (DY, W, X.shape),
    "conv2d_wgrad": (DY, X, W.shape),
    "linear": (A, B, BIAS),
    "linear_dgrad": (DA, B),
    "linear_wgrad": (DA, A),
}


def of_dtype(dtype: np.dtype, op: str) -> list:
    """The call's arguments with its bfloat16 arrays in another dtype."""
    return [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype == BF16 else a for a in CALLS[op]]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize("op", CALLS)
def test_the_dtype_says_the_precision(op, where):
    function = getattr(ops, op)
    with ops.on(where):
        result = function(*CALLS[op])
        assert result.dtype == (F32 if op.endswith("wgrad") else BF16)
        assert same_bits(result, function(*CALLS[op], precision="bf16"))
        assert same_bits(function(*of_dtype(F32, op)), function(*of_dtype(F32, op), precision="fp32"))
        for precision in ("fp32", "tf32", "fp32x3"):
            with pytest.raises(
                ValueError, match=f"{op}: precision must be None or 'bf16' for bfloat16 arrays"
            ):
                function(*CALLS[op], precision=precision)
        with pytest.raises(ValueError, match=f"{op}: precision must be other than 'bf16' for float32 arrays"):
            function(*of_dtype(F32, op), precision="bf16")


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize("op", CALLS)
def test_dtypes_that_do_not_belong_together_are_refused(op, where):
    function, call = getattr(ops, op), list(CALLS[op])
    with ops.on(where):
        mixed = list(call)
        mixed[1] = mixed[1].astype(F32)
        with pytest.raises(TypeError, match=f"{op}: .* must be bfloat16 like .*, got float32"):
            function(*mixed)
        if op in ("conv2d", "linear"):
            with pytest.raises(
                TypeError, match=f"{op}: b must be float32 beside bfloat16 arrays, got bfloat16"
            ):
                function(*call[:2], BIAS.astype(BF16))
            with pytest.raises(
                TypeError, match=f"{op}: b must be float32 beside float32 arrays, got bfloat16"
            ):
                function(*of_dtype(F32, op)[:2], BIAS.astype(BF16))
        wrong = BF16 if op.endswith("wgrad") else F32
        right = function(*call)
        with pytest.raises(
            TypeError, match=f"{op}: out must be {'float32' if wrong == BF16 else 'bfloat16'}"
        ):
            function(*call, out=np.empty(right.shape, wrong))


@pytest.mark.parametrize("op", [op for op in CALLS if op.startswith("conv2d")])
def test_the_cpu_and_the_emulator_agree(op):
    case = next(case for case in CASES if case.name == "odd_everything")
    p = problem(case, BF16)
    with ops.on("cpu"):
        assert_right(compute(op, case, devices.cpu(), None, BF16), p.expected(op), p.terms[op])
    with ops.on("emulator"):
        assert_right(compute(op, case, devices.emulator(), None, BF16), p.expected(op), p.terms[op])
