"""The bias's gradient that weight gradients make beside their own: ``bias_grad=``.

Kernels for tensor cores add up dy as it is in memory, unrounded, in float32: the bound is that of a float32
sum in every precision. All other rows leave it to the kernel of ``bias_backward`` and have its bits.
"""

import dataclasses
import functools
import sys

import ml_dtypes
import numpy as np
import pytest
from support.helpers import Scratch, assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import (
    ALEXNET,
    PLAIN,
    TINY,
    compute,
    is_representative,
    kernels,
    listed,
    once_each,
    problem,
    representative,
    shape_of,
    slow,
)
from support.kernels.conv_shapes import RAGGED_CONVS, RAGGED_OF_EIGHT, Conv

from pyconvnet import layers, ops
from pyconvnet.common import devices
from pyconvnet.ops import operation
from pyconvnet.ops.conv import capability
from pyconvnet.ops.host import module

OP = "conv2d_wgrad"
BF16 = np.dtype(ml_dtypes.bfloat16)
PRECISIONS = ("fp32", "tf32", "fp32x3", "bf16")
RAGGED = [*TINY, *RAGGED_CONVS, *RAGGED_OF_EIGHT]
LARGE = ALEXNET if PLAIN else []
NAMES = ("many_groups", "many_pixels", "wide_filters", "first_overhang", "eight_many_groups")
NAMES += ("eight_many_images",)
FEW = [case for case in RAGGED if case.name in NAMES]
PIXELS = next(case for case in FEW if case.name == "many_pixels")
LINEARS = [(1, 36, 20), (17, 72, 136), (300, 40, 16), (5, 7, 3), (600, 12, 20)]


def dtype_of(precision: str) -> np.dtype:
    return BF16 if precision == "bf16" else np.dtype(np.float32)


def rows(cases: list[Conv], precisions: tuple[str, ...] = PRECISIONS) -> list:
    """One test for each precision, case and kernel; FFMA rows of float32, whatever precision, in fp32."""
    return [
        pytest.param(OP, case, kernel, precision, id=f"{case}-{kernel.removeprefix('conv2d_')}-{precision}")
        for precision in precisions
        for case in dict.fromkeys(cases)
        for kernel in kernels(OP, case, precision=precision)
        if precision in ("fp32", "bf16") or "mma" in kernel or kernel.endswith("first_layer")
    ]


def summed(case: Conv, precision: str) -> tuple[np.ndarray, int]:
    """The gradient in float64, and the terms of each of its sums."""
    n, p, q, _ = case.y
    return problem(case, dtype_of(precision)).dy.astype(np.float64).sum((0, 1, 2)), n * p * q


def both(case: Conv, dev, kernel: str, precision: str, **options) -> tuple[np.ndarray, np.ndarray]:
    """Both gradients, each into an output full of NaN."""
    db = filled_with_nan(dev, (case.w[0],))
    dw = compute(OP, case, dev, kernel, dtype_of(precision), precision=precision, bias_grad=db, **options)
    return dw, dev.to_numpy(db)


def apart(case: Conv, precision: str) -> np.ndarray:
    """The gradient by an operation of its own."""
    return ops.bias_backward(problem(case, dtype_of(precision)).dy)


@pytest.fixture
def fits(device):
    """Skips what a card without tensor cores does not have."""

    def check(kernel: str) -> None:
        if "_wgmma" in kernel and capability(device) != 90:
            pytest.skip("not a GPU of compute capability 9.0")
        if "_mma" in kernel and capability(device) < 80:
            pytest.skip("the GPU has no tensor cores")

    return check


# ---------------------------------------------------------------- every kernel, every shape


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("op", "case", "kernel", "precision"),
    [*representative(rows(RAGGED, PRECISIONS[1:])), *slow(rows(LARGE, ("tf32", "bf16")))],
)
def test_kernel(op, case, kernel, precision, device, run_on, fits):
    """Within the error of a float32 sum; the filters' gradient has the bits it has alone."""
    fits(kernel)
    expected, terms = summed(case, precision)
    with run_on(device):
        dw, db = both(case, device, kernel, precision)
        alone = compute(op, case, device, kernel, dtype_of(precision), precision=precision)
    assert_close(db, expected, terms)
    assert same_bits(dw, alone)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel", "precision"), once_each(rows(FEW)))
def test_split_sums(op, case, kernel, precision, device, run_on, fits):
    """Pieces of every number that can be had, in exactly the memory that was announced."""
    fits(kernel)
    expected, terms = summed(case, precision)
    with run_on(device):
        for splits in (1, 2, 3, 7):
            alone = listed(op, shape_of(case, precision).cut(splits)).get(kernel)
            if alone is None:
                continue  # cannot be had
            scratch = Scratch(device)
            _, db = both(case, device, f"{kernel}/{splits}", precision, workspace=scratch)
            assert_close(db, expected, terms)
            if "mma" in kernel:
                assert sum(scratch.requests) == alone + (splits * case.w[0] * 4 if splits > 1 else 0)


@functools.cache
def _bits_in_plain_order(case: Conv, kernel: str, precision: str) -> np.ndarray:
    devices.emulator().ext.configure()
    with ops.on("emulator"):
        return both(case, devices.emulator(), kernel, precision)[1]


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel", "precision"), once_each(rows(FEW)))
def test_every_schedule_gives_the_same_bits(op, case, kernel, precision, schedule):
    with ops.on("emulator"):
        db = both(case, devices.emulator(), kernel, precision)[1]
    assert same_bits(db, _bits_in_plain_order(case, kernel, precision))


@pytest.mark.parametrize(
    ("op", "case", "kernel", "precision"),
    [
        row
        for row in rows(FEW)
        if "mma" not in row.values[2] and (row.values[3] == "fp32" or row.values[2].endswith("generic"))
    ],
)
def test_rows_that_do_not_sum_have_the_bits_of_bias_backward(op, case, kernel, precision):
    """All of fp32, and what serves shapes that tensor cores do not take."""
    with ops.on("emulator"):
        assert same_bits(both(case, devices.emulator(), kernel, precision)[1], apart(case, precision))


def test_every_row_is_among_the_cases():
    ext = devices.emulator().ext
    found = {row.values[2] for row in rows(FEW)}
    assert found == set(ext.conv2d_wgrad_table())
    always = {row.values[2] for row in rows(RAGGED, PRECISIONS[1:]) if is_representative(*row.values[1:3])}
    assert {name for name in found if "mma" in name} <= always


# ---------------------------------------------------------------- what is summed


@pytest.mark.kernels
@pytest.mark.parametrize("kernel", kernels(OP, PIXELS, precision="tf32"))
def test_dy_is_not_rounded_to_tf32(kernel, device, run_on, fits):
    """Numbers that TF32 does not have, and whose sum is exact in float32."""
    fits(kernel)
    case = PIXELS
    dy = np.random.default_rng(0).integers(-(2**11), 2**11, case.y).astype(np.float32) * 2 + 2**12 + 1
    x = problem(case).x
    with run_on(device):
        db = filled_with_nan(device, (case.w[0],))
        given = device.asarray(dy), device.asarray(x)
        ops.conv2d_wgrad(*given, case.w, bias_grad=db, precision="tf32", kernel=kernel, **case.options)
    assert np.array_equal(device.to_numpy(db), dy.astype(np.float64).sum((0, 1, 2)))


@pytest.mark.kernels
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_not_finite_stays_in_its_filter(precision, device, run_on):
    case = next(case for case in RAGGED_OF_EIGHT if case.name == "eight_many_groups")
    p = problem(case, dtype_of(precision))
    dy = p.dy.copy()
    dy[1, 2, 3, 5], dy[0, 0, 0, 9], dy[1, 5, 5, 9], dy[0, 1, 1, 63] = np.nan, np.inf, -np.inf, -np.inf
    with run_on(device):
        db = filled_with_nan(device, (case.w[0],))
        given = device.asarray(dy), device.asarray(p.x)
        ops.conv2d_wgrad(*given, case.w, bias_grad=db, precision=precision, **case.options)
    db = device.to_numpy(db)
    assert np.flatnonzero(np.isnan(db)).tolist() == [5, 9]
    assert np.flatnonzero(np.isinf(db)).tolist() == [63]
    assert db[63] < 0


@pytest.mark.kernels
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("splits", [1, 2])
def test_a_gradient_may_start_anywhere(precision, splits, device, run_on):
    """A plan lays biases' gradients one behind the other: the choice of kernels does not ask where."""
    case = next(case for case in RAGGED_OF_EIGHT if case.name == "eight_many_images")
    p = problem(case, dtype_of(precision))
    with run_on(device):
        kernel = f"{kernels(OP, case, precision=precision)[0]}/{splits}"
        found = []
        for first in (0, 1):
            wide = filled_with_nan(device, (case.w[0] + 2,))
            given = device.asarray(p.dy), device.asarray(p.x)
            options = {"precision": precision, "kernel": kernel, **case.options}
            ops.conv2d_wgrad(*given, case.w, bias_grad=wide[first : first + case.w[0]], **options)
            wide = device.to_numpy(wide)
            found.append(wide[first : first + case.w[0]])
            assert np.isnan(np.delete(wide, np.arange(first, first + case.w[0]))).all()
    assert same_bits(found[0].copy(), found[1].copy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, BF16])
def test_the_cpu_has_the_bits_of_bias_backward(dtype, rng):
    dy, x = (rng.standard_normal(s).astype(dtype) for s in ((3, 5, 5, 8), (3, 5, 5, 4)))
    wide = np.float64 if dtype == np.float64 else np.float32
    db = np.full(8, np.nan, wide)
    operation.forget()
    with ops.on("cpu"), module.forced(None):  # its compiled kernels sum as they multiply: test_host.py
        ops.conv2d_wgrad(dy, x, (8, 3, 3, 4), pad=1, bias_grad=db)
        assert same_bits(db, ops.bias_backward(dy))
    operation.forget()
    with ops.on("cpu"):
        ops.linear_wgrad(dy.reshape(75, 8), x.reshape(75, 4), bias_grad=db)
        assert same_bits(db, ops.bias_backward(dy))


# ---------------------------------------------------------------- fully connected layers, the depth layout


@pytest.mark.kernels
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("n", "i", "o"), LINEARS)
def test_fully_connected_layers(n, i, o, precision, device, run_on, rng):
    dy, x = (rng.standard_normal(s).astype(dtype_of(precision)) for s in ((n, o), (n, i)))
    expected = dy.astype(np.float64).sum(0)
    with run_on(device):
        for kernel in ops.kernels("linear_wgrad", x.shape, (o, i), device=device, precision=precision):
            db = filled_with_nan(device, (o,))
            given = device.asarray(dy), device.asarray(x)
            dw = ops.linear_wgrad(*given, precision=precision, kernel=kernel, bias_grad=db)
            alone = ops.linear_wgrad(*given, precision=precision, kernel=kernel)
            assert_close(device.to_numpy(db), expected, n)
            assert same_bits(device.to_numpy(dw), device.to_numpy(alone))


@pytest.fixture
def cublas(monkeypatch):
    """A library's row on the emulator, which counts its products."""
    calls = []

    def sgemm(dev, out, transposed, a, b):
        calls.append(transposed)
        out[...] = (a.T if transposed[0] else a) @ (b.T if transposed[1] else b)

    module = sys.modules["pyconvnet.ops.linear"]  # whose name in its package is the operation's
    monkeypatch.setattr(module, "_cublas_works", lambda dev: True)
    monkeypatch.setattr(module._cublas, "sgemm", sgemm)
    operation.forget()
    yield calls
    operation.forget()


def test_behind_a_library_bias_backward_runs(cublas, rng):
    """In the scratch memory of each call, the first and a later one; so do bias, ReLU and mask."""
    dev = devices.emulator()
    with ops.on("emulator"):
        for number in (1, 2):
            dy, x, w = (rng.standard_normal(s).astype(np.float32) for s in ((600, 20), (600, 12), (20, 12)))
            b, db, scratch = w[:, 0].copy(), np.full(20, np.nan, np.float32), Scratch(dev)
            dw = ops.linear_wgrad(dy, x, bias_grad=db, workspace=scratch)
            assert same_bits(db, ops.bias_backward(dy))
            assert same_bits(dw, dy.T @ x)
            assert len(scratch.requests) == 1
            assert same_bits(ops.linear(x, w, b, activation="relu"), ops.relu(ops.add_bias(x @ w.T, b)))
            assert same_bits(ops.linear_dgrad(dy, w, mask=x), ops.relu_backward(dy @ w, x))
            assert len(cublas) == 3 * number


@pytest.mark.kernels
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_depth_layout(precision, device, run_on, rng):
    w_shape, dtype = (24, 11, 11, 3), dtype_of(precision)
    x = rng.standard_normal((2, 11, 11, 48)).astype(dtype)
    dy = rng.standard_normal((2, 9, 9, 24)).astype(dtype)
    expected = dy.astype(np.float64).sum((0, 1, 2))
    with run_on(device):
        db = filled_with_nan(device, (24,))
        options = {"stride": 4, "precision": precision}
        given = device.asarray(dy), device.asarray(x), w_shape
        dw = ops.space_to_depth.conv2d_depth_wgrad(*given, bias_grad=db, **options)
        alone = ops.space_to_depth.conv2d_depth_wgrad(*given, **options)
    assert_close(device.to_numpy(db), expected, 162)
    assert same_bits(device.to_numpy(dw), device.to_numpy(alone))


# ---------------------------------------------------------------- who asks for it, and what is refused


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("layer", [layers.Conv2d(8, 3, pad=1), layers.Linear(8)])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_launch_no_sum_of_their_own(layer, bias, precision):
    """One launch makes both gradients."""
    layer = dataclasses.replace(layer, bias=bias)
    x_shape, dtype = (5, 5, 8), dtype_of(precision)
    y_shape = layer.output_shape(x_shape)
    weight = layer.parameters(x_shape)[0].shape
    x, y, dy = (np.ones((2, *shape), dtype) for shape in (x_shape, y_shape, y_shape))
    grads = {"weight": np.full(weight, np.nan, np.float32)}
    if bias:
        grads["bias"] = np.full(8, np.nan, np.float32)
    ctx = layers.base.Context(precision=precision)
    with ops.on("emulator"), ops.operation.recording() as prepared:
        layer.backward(ctx, dy, [x], y, {"weight": np.ones(weight, dtype)}, {}, [None], grads)
    (launch,) = [step for one in prepared for step in one.steps]
    assert launch.op == ("linear_wgrad" if isinstance(layer, layers.Linear) else OP)
    assert (launch.args[1] is not None) == bias
    with ops.on("emulator"):
        launch.run()
    assert not bias or (grads["bias"] == 2 * (25 if isinstance(layer, layers.Conv2d) else 1)).all()


def test_the_binding_wants_what_the_shape_says():
    ext = devices.emulator().ext
    fields = {"n": 1, "h": 1, "w": 1, "c": 8, "k": 8, "r": 1, "s": 1, "p": 1, "q": 1}
    dw, db, dy, x = (np.ones(s, np.float32) for s in ((8, 8), (8,), (1, 8), (1, 8)))
    for asked, given in ((True, None), (False, db)):
        shape = ext.Conv2dShape(**fields, bias_grad=asked)
        with pytest.raises(ValueError, match="bias_grad must be given where the shape says so, and only"):
            ext.conv2d_wgrad("conv2d_wgrad_generic", shape, dw, given, dy, x, None, 0)
    shape = ext.Conv2dShape(**fields, bias_grad=True)
    with pytest.raises(ValueError, match="bias_grad"):
        ext.conv2d_wgrad("conv2d_wgrad_generic", shape, dw, db[:7].copy(), dy, x, None, 0)
    assert shape.key == ext.Conv2dShape(**fields).key  # a measured choice holds for both
