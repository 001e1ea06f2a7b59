"""Convolutions and fully connected layers of bfloat16 arrays.

bfloat16 numbers are exact in float64, and so are their products in float32: a kernel may err by the roundings
of a float32 sum, and by one rounding of what is stored as bfloat16.
"""

import ml_dtypes
import numpy as np
import pytest
from conv_problems import CASES, DIRECTIONS, compute, kernels, problem
from conv_shapes import Conv
from helpers import EPS32, filled_with_nan, same_bits, tolerance

from pyconvnet import devices, ops, reference
from pyconvnet.ops.conv import capability

BF16, F32 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32)
HALF_ULP = 2.0**-8  # the largest relative error of rounding to 8 significant bits
PLAIN = devices.emulator().ext.flavour() == "plain"
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
@pytest.mark.parametrize(("op", "case", "kernel"), rows(CASES))
def test_kernel(op, case, kernel, device, run_on):
    if "_mma" in kernel and capability(device) < 80:
        pytest.skip("the GPU has no tensor cores for bfloat16")
    p = problem(case, BF16)
    with run_on(device):
        result = compute(op, case, device, kernel, BF16)
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
            for kernel in ops.kernels(op, (n, i), (o, i), precision="bf16", device=device):
                out = filled_with_nan(device, result.shape, dtype)
                getattr(ops, op)(*(device.asarray(a) for a in arrays), kernel=kernel, out=out)
                assert_right(device.to_numpy(out), result, terms)


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
