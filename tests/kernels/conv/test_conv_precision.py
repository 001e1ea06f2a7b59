"""The tensor-core kernels of convolutions and fully connected layers, and what `precision` promises."""

import functools

import numpy as np
import pytest
from support.helpers import EPS32, assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import (
    ALEXNET,
    CASES,
    DIRECTIONS,
    FEW,
    PLAIN,
    REPRESENTATIVE,
    TINY,
    compute,
    kernels,
    once_each,
    problem,
    representative,
    slow,
    table,
)  # fmt: skip
from support.kernels.conv_shapes import RAGGED_CONVS, Conv, alexnet_convs

from pyconvnet import layers, ops
from pyconvnet.common import devices
from pyconvnet.ops import reference
from pyconvnet.ops.conv import capability

EPS_TF32 = 2.0**-11  # half the spacing of numbers with 11 significant bits
EPS = {"tf32": EPS_TF32, "fp32x3": EPS32}
TENSOR_CASES = [*TINY, *RAGGED_CONVS]
LARGE = ALEXNET if PLAIN else []
FEW_TENSOR = [case for case in CASES if case.name in ("rectangular", "many_groups", "fast_in_odd_out")] + FEW
LINEARS = [(1, 36, 20), (17, 68, 132), (130, 40, 12), (3, 2052, 8), (600, 12, 20)]


def on_tensor_cores(op: str, case: Conv) -> list[str]:
    """The rows of a case that exist for tensor cores, and those that call them."""
    names = kernels(op, case, precision="tf32")
    return [name for name in names if "_mma" in name or name.endswith("first_layer")]


def rows(cases: list[Conv]) -> list:
    """One test for each direction, case, tensor-core kernel and precision."""
    return [
        pytest.param(op, case, kernel, precision, id=f"{case}-{kernel.removeprefix('conv2d_')}-{precision}")
        for op in DIRECTIONS
        for case in dict.fromkeys(cases)
        for kernel in on_tensor_cores(op, case)
        for precision in EPS
    ]


@pytest.fixture
def device(device):
    """The emulator and, where it has tensor cores, the GPU."""
    if capability(device) < 80:
        pytest.skip("the GPU has no tensor cores for TF32")
    return device


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values.astype(np.float64)))))


def assert_gradient_rounds_fairly(op: str, case: Conv, kernel: str, device, other: tuple, out: tuple) -> None:
    """Of a gradient's dy and its other operand TF32 numbers stay what they are, others have no bias. `other`,
    `out`: shapes of that operand and of the gradient.
    """
    rng = np.random.default_rng(4)

    def both(dy: np.ndarray, operand: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        exact = getattr(reference, op)(dy.astype(np.float64), operand.astype(np.float64), out, **case.options)
        arrays = (device.asarray(a.astype(np.float32)) for a in (dy, operand))
        gradient = getattr(ops, op)(*arrays, out, kernel=kernel, precision="tf32", **case.options)
        return device.to_numpy(gradient), exact

    np.testing.assert_array_equal(*both(rng.integers(-2047, 2047, case.y), rng.integers(-15, 15, other)))
    found, exact = both(*(np.abs(rng.standard_normal(shape)).astype(np.float32) for shape in (case.y, other)))
    seen = exact > 0
    assert abs(((found - exact)[seen] / exact[seen]).mean()) < 0.1 * EPS_TF32


# ---------------------------------------------------------------- every kernel, every shape


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("op", "case", "kernel", "precision"),
    [*representative(rows(TENSOR_CASES), "conv2d_wgrad"), *slow(rows(LARGE))],
)
def test_kernel(op, case, kernel, precision, device, run_on):
    p = problem(case)
    with run_on(device):
        result = compute(op, case, device, kernel, precision=precision)
    expected = p.expected(op)
    assert_close(result, expected, p.terms[op], eps=EPS[precision])
    # The roundings of operands make an error that grows like the result itself.
    if precision == "tf32":
        assert rms(result - expected) <= EPS_TF32 * rms(expected)


@pytest.mark.parametrize(
    ("op", "case"),
    slow(
        [
            pytest.param(op, case, id=f"{case}-{op}")
            for op in DIRECTIONS
            for case in TENSOR_CASES
            if on_tensor_cores(op, case)
        ],
        unless=lambda op, case: case.name.startswith(REPRESENTATIVE),
    ),
)
def test_fp32x3_is_nearly_as_exact_as_ffma(op, case, device, run_on):
    p = problem(case)
    # A first layer's kernel, which takes a tile by its cost, where no tile takes the shape itself.
    expected, kernel = p.expected(op), max(on_tensor_cores(op, case), key=lambda name: "_mma" in name)
    with run_on(device):
        exact = rms(compute(op, case, device) - expected)
        error = {
            precision: rms(compute(op, case, device, kernel, precision=precision) - expected)
            for precision in EPS
        }
    assert error["fp32x3"] <= 4 * exact
    assert error["tf32"] > 100 * error["fp32x3"]  # the two are not the same kernel


@functools.cache
def _bits_in_plain_order(op: str, case: Conv, kernel: str, precision: str) -> np.ndarray:
    devices.emulator().ext.configure()  # whatever schedule the caller's test runs under
    with ops.on("emulator"):
        return compute(op, case, devices.emulator(), kernel, precision=precision)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel", "precision"), once_each(rows(FEW_TENSOR)))
def test_every_schedule_gives_the_same_bits(op, case, kernel, precision, schedule):
    """Threads in any order, asynchronous copies as early and as late as may be."""
    with ops.on("emulator"):
        result = compute(op, case, devices.emulator(), kernel, precision=precision)
    assert same_bits(result, _bits_in_plain_order(op, case, kernel, precision))


@pytest.mark.parametrize("precision", EPS)
@pytest.mark.parametrize("kernel", on_tensor_cores("conv2d", FEW_TENSOR[0]))
def test_bias_and_relu_are_fused_rightly(kernel, precision, device, run_on):
    case = FEW_TENSOR[0]
    p = problem(case)
    with run_on(device):
        x, w, b = (device.asarray(a) for a in (p.x, p.w, p.b))
        options = {"kernel": kernel, "precision": precision, **case.options}
        relu = device.to_numpy(ops.conv2d(x, w, b, activation="relu", **options))
        plain = device.to_numpy(ops.conv2d(x, w, **options))
    assert (p.y < 0).any()
    assert_close(relu, np.maximum(p.y, 0), p.terms["conv2d"], eps=EPS[precision])
    assert_close(plain, p.y - p.b.astype(np.float64), p.terms["conv2d"], eps=EPS[precision])


# ---------------------------------------------------------------- fully connected layers


@pytest.mark.kernels
@pytest.mark.parametrize("precision", EPS)
@pytest.mark.parametrize(("n", "i", "o"), LINEARS if PLAIN else LINEARS[:2])
def test_linear(n, i, o, precision, device, run_on):
    rng = np.random.default_rng(n)
    x, w, dy, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, i), (o, i), (n, o), (o,)))
    x64, w64, dy64, b64 = (a.astype(np.float64) for a in (x, w, dy, b))
    expected = {
        "linear": (reference.linear(x64, w64, b64), i + 1, (x, w, b)),
        "linear_dgrad": (reference.linear_dgrad(dy64, w64), o, (dy, w)),
        "linear_wgrad": (reference.linear_wgrad(dy64, x64), n, (dy, x)),
    }
    with run_on(device):
        for op, (result, terms, arrays) in expected.items():
            names = ops.kernels(op, (n, i), (o, i), precision=precision, device=device)
            names = [name for name in names if "_mma" in name]
            every = table(op.replace("linear", "conv2d"))
            assert set(names) == {name for name in every if "_mma" in name}
            for kernel in names:
                out = filled_with_nan(device, result.shape)
                args = [device.asarray(a) for a in arrays]
                getattr(ops, op)(*args, precision=precision, kernel=kernel, out=out)
                assert_close(device.to_numpy(out), result, terms, eps=EPS[precision])


# ---------------------------------------------------------------- which kernel serves what


def test_fp32_stays_on_ffma():
    for case in CASES:
        for op in DIRECTIONS:
            assert not any("_mma" in name for name in kernels(op, case))
            assert kernels(op, case) == kernels(op, case, precision="fp32")
            # Kernels that are more exact serve the other precisions, too.
            assert set(kernels(op, case)) <= set(kernels(op, case, precision="fp32x3"))


def test_alexnet_runs_on_tensor_cores_where_there_are_some(monkeypatch):
    for device in ("80", "90"):
        monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", device)
        for case in alexnet_convs(128)[1:]:
            for op in DIRECTIONS:
                for precision in EPS:
                    assert "mma" in kernels(op, case, precision=precision)[0]
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", "86")
    # Three products at the rate of FFMA would be slower than FFMA, which is more exact as well.
    for case in alexnet_convs(128):
        assert not any("_mma" in kernels(op, case, precision="fp32x3")[0] for op in DIRECTIONS)


def test_devices_without_tensor_cores_compute_in_fp32(monkeypatch):
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", "75")
    dev = devices.emulator()
    with ops.on(dev):
        for case in FEW:
            for op in DIRECTIONS:
                for precision in EPS:
                    assert kernels(op, case, precision=precision) == kernels(op, case)
                    result = compute(op, case, dev, precision=precision)
                    assert same_bits(result, compute(op, case, dev))
        case = next(case for case in CASES if case.name == "odd_extent")
        with pytest.raises(ValueError, match="'conv2d_fprop_mma64x64' does not apply"):
            compute("conv2d", case, dev, "conv2d_fprop_mma64x64", precision="tf32")


def test_unaligned_arrays_take_ffma_kernels(device, run_on):
    case = next(case for case in CASES if case.name == "odd_extent")
    p = problem(case)
    with run_on(device):
        storage = device.asarray(np.concatenate([np.zeros(1, np.float32), p.x.ravel()]))
        x, w = storage[1:].reshape(case.x), device.asarray(p.w)
        with pytest.raises(ValueError, match="'conv2d_fprop_mma64x64' does not apply"):
            ops.conv2d(x, w, precision="tf32", kernel="conv2d_fprop_mma64x64", **case.options)
        y = ops.conv2d(x, w, precision="tf32", **case.options)
        assert same_bits(device.to_numpy(y), device.to_numpy(ops.conv2d(x, w, **case.options)))


def test_the_cpu_is_more_exact_than_asked_for():
    case = FEW[0]
    p = problem(case)
    for precision in ("fp32", *EPS):
        y = ops.conv2d(p.x, p.w, p.b, precision=precision, **case.options)
        assert same_bits(y, ops.conv2d(p.x, p.w, p.b, **case.options))


X, W, DY = (
    np.ones((2, 6, 5, 4), np.float32),
    np.ones((8, 3, 2, 4), np.float32),
    np.ones((2, 4, 4, 8), np.float32),
)
A, B, DA = np.ones((3, 4), np.float32), np.ones((8, 4), np.float32), np.ones((3, 8), np.float32)
CALLS = {
    "conv2d": (X, W),
    "conv2d_dgrad": (DY, W, X.shape),
    "conv2d_wgrad": (DY, X, W.shape),
    "linear": (A, B),
    "linear_dgrad": (DA, B),
    "linear_wgrad": (DA, A),
}


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize("op", CALLS)
@pytest.mark.parametrize("precision", ["bf17", "TF32", 1, ["tf32"]])
def test_unknown_precisions_are_refused(op, precision, where):
    message = f"{op}: precision must be None, 'fp32', 'tf32', 'fp32x3' or 'bf16', got "
    with ops.on(where):
        getattr(ops, op)(*CALLS[op], precision="tf32")
        with pytest.raises(ValueError, match=message):
            getattr(ops, op)(*CALLS[op], precision=precision)
    x, w = (A, B) if op.startswith("linear") else (X, W)
    with pytest.raises(ValueError, match=message):
        ops.kernels(op, x.shape, w.shape, precision=precision, device="emulator")


def test_the_binding_checks_precision_itself():
    ext = devices.emulator().ext
    fields = {"n": 2, "h": 6, "w": 5, "c": 4, "k": 8, "r": 3, "s": 2, "p": 4, "q": 4}
    shape = ext.Conv2dShape(**fields, precision=2, capability=90)
    assert (shape.precision, shape.capability) == (2, 90)
    for precision in (-1, 4):
        with pytest.raises(ValueError, match="precision must be"):
            ext.Conv2dShape(**fields, precision=precision)
    y = np.empty((2, 4, 4, 8), np.float32)
    with pytest.raises(ValueError, match="does not support this shape"):
        ext.conv2d_fprop("conv2d_fprop_mma64x64", ext.Conv2dShape(**fields), y, X, W, None, 0, None, 0)


# ---------------------------------------------------------------- numbers that are not finite


@pytest.mark.parametrize("precision", EPS)
def test_nan_and_infinity_are_not_lost(precision, device, run_on):
    case = next(case for case in CASES if case.name == "odd_extent")
    p = problem(case)
    canonical = np.array([0x7FFFFFFF, 0xFFFFFFFF], np.uint32).view(np.float32)  # the GPU's own NaN
    for bad in (np.nan, np.inf, -np.inf, *canonical):
        x = p.x.copy()
        x[0, 2, 3, 0] = bad
        with run_on(device):
            y = ops.conv2d(device.asarray(x), device.asarray(p.w), precision=precision, **case.options)
            exact = ops.conv2d(device.asarray(x), device.asarray(p.w), **case.options)
        np.testing.assert_array_equal(np.isfinite(device.to_numpy(y)), np.isfinite(device.to_numpy(exact)))


# ---------------------------------------------------------------- what TF32 rounds, and how


@pytest.mark.kernels
@pytest.mark.parametrize("op", DIRECTIONS)
def test_roundings_have_no_bias(op, device, run_on):
    """Long sums of positive numbers: an operand cut off, not rounded, would alone make 0.7 EPS_TF32."""
    case = Conv("positive", (8, 8, 8, 64), (64, 3, 3, 64), pad=((1, 1), (1, 1)))
    rng = np.random.default_rng(3)
    x, w, dy = (np.abs(rng.standard_normal(s)).astype(np.float32) for s in (case.x, case.w, case.y))
    arrays = {"conv2d": (x, w), "conv2d_dgrad": (dy, w), "conv2d_wgrad": (dy, x)}[op]
    shape = {"conv2d": (), "conv2d_dgrad": (case.x,), "conv2d_wgrad": (case.w,)}[op]
    expected = getattr(reference, op)(*(a.astype(np.float64) for a in arrays), *shape, **case.options)
    with run_on(device):
        for kernel in on_tensor_cores(op, case):
            args = (device.asarray(a) for a in arrays)
            result = getattr(ops, op)(*args, *shape, **case.options, precision="tf32", kernel=kernel)
            error = (device.to_numpy(result) - expected) / expected
            assert abs(error.mean()) < 0.1 * EPS_TF32


@pytest.mark.parametrize("op", DIRECTIONS)
def test_tf32_numbers_are_not_rounded(op, device, run_on):
    """Integers of up to 11 bits, whose sums float32 holds: the very result of float32 arithmetic."""
    case = Conv("integers", (1, 6, 6, 8), (8, 3, 3, 8), pad=((1, 1), (1, 1)))
    rng = np.random.default_rng(4)
    limits = ((case.x, 2047), (case.w, 15), (case.y, 15))
    x, w, dy = (rng.integers(-limit, limit, shape).astype(np.float32) for shape, limit in limits)
    arrays = {"conv2d": (x, w), "conv2d_dgrad": (dy, w), "conv2d_wgrad": (dy, x)}[op]
    shape = {"conv2d": (), "conv2d_dgrad": (case.x,), "conv2d_wgrad": (case.w,)}[op]
    with run_on(device):
        for kernel in on_tensor_cores(op, case):
            args = [device.asarray(a) for a in arrays]
            found, exact = (
                device.to_numpy(getattr(ops, op)(*args, *shape, **case.options, **options))
                for options in ({"precision": "tf32", "kernel": kernel}, {"precision": "fp32"})
            )
            np.testing.assert_array_equal(found, exact)


# ---------------------------------------------------------------- layers and training


def test_layers_pass_the_precision_on():
    device, rng = devices.emulator(), np.random.default_rng(5)
    made = {
        layers.Conv2d(8, size=3, pad=1): ((2, 6, 5, 4), (8, 3, 3, 4), (2, 6, 5, 8)),
        layers.Linear(64): ((96, 64), (64, 64), (96, 64)),
    }
    for layer, shapes in made.items():
        x, w, dy = (device.asarray(rng.standard_normal(s).astype(np.float32)) for s in shapes)
        results = {}
        for precision in ("fp32", "tf32"):
            y, dx, dw = (filled_with_nan(device, a.shape) for a in (dy, x, w))
            context = layers.Context(precision=precision)
            with ops.on(device):
                layer.forward(context, [x], y, {"weight": w}, {})
                gradients = {"weight": dw, "bias": device.zeros(w.shape[0])}
                layer.backward(context, dy, [x], y, {"weight": w}, {}, [dx], gradients)
            results[precision] = [device.to_numpy(a) for a in (y, dx, dw)]
        for exact, rounded in zip(results["fp32"], results["tf32"], strict=True):
            assert 1e-5 * rms(exact) < rms(exact - rounded) < EPS_TF32 * rms(exact)


def _losses(precision: str, steps: int) -> list[float]:
    """The loss of a small network (convolution, pool, grouped convolution, classifier) on one batch."""
    rng = np.random.default_rng(11)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    def run(op: str, *args, x: np.ndarray, w: np.ndarray, **options):
        """The operation on tensor cores, which shapes as small as these would not choose."""
        options["precision"] = precision
        shape = {name: value for name, value in options.items() if name != "activation"}
        names = ops.kernels(op, x.shape, w.shape, device="emulator", **shape)
        kernel = next((name for name in names if "_mma" in name), None)
        assert (kernel is None) == (precision == "fp32")
        return getattr(ops, op)(*args, kernel=kernel, **options)

    x, labels = normal(8, 8, 8, 4), rng.integers(0, 4, 8).astype(np.int32)
    w1, w2, w3 = normal(16, 3, 3, 4, scale=0.2), normal(16, 3, 3, 8, scale=0.1), normal(4, 144, scale=0.1)
    b1, b2, b3 = (np.zeros(n, np.float32) for n in (16, 16, 4))
    losses = []
    for _ in range(steps):
        y1 = run("conv2d", x, w1, b1, x=x, w=w1, activation="relu", pad=1)
        z1, argmax = ops.max_pool2d(y1, size=3, stride=2)
        first, second, third = {"x": x, "w": w1}, {"x": z1, "w": w2}, {"w": w3}
        y2 = run("conv2d", z1, w2, b2, **second, activation="relu", pad=1, groups=2)
        third["x"] = flat = y2.reshape(8, -1)
        logits = run("linear", flat, w3, b3, **third)
        loss, dlogits = ops.softmax_cross_entropy(logits, labels, topk=1)
        losses.append(float(loss))
        dw3 = run("linear_wgrad", dlogits, flat, **third)
        dy2 = ops.relu_backward(run("linear_dgrad", dlogits, w3, **third).reshape(y2.shape), y2)
        dw2 = run("conv2d_wgrad", dy2, z1, w2.shape, **second, pad=1, groups=2)
        dz1 = run("conv2d_dgrad", dy2, w2, z1.shape, **second, pad=1, groups=2)
        dy1 = ops.relu_backward(ops.max_pool2d_backward(dz1, argmax, y1.shape, size=3, stride=2), y1)
        dw1 = run("conv2d_wgrad", dy1, x, w1.shape, **first, pad=1)
        for w, dw in ((w1, dw1), (w2, dw2), (w3, dw3)):
            w -= np.float32(0.05) * dw
        for b, dy in ((b1, dy1), (b2, dy2), (b3, dlogits)):
            b -= np.float32(0.05) * ops.bias_backward(dy)
    return losses


def test_training_follows_the_same_curve():
    """Some steps of gradient descent: fp32x3 agrees with fp32 in all digits printed, tf32 within its
    roundings."""
    with ops.on("emulator"):
        curves = {precision: _losses(precision, 30) for precision in ("fp32", *EPS)}
    exact = np.array(curves["fp32"])
    assert exact[-1] < 0.2 * exact[0]  # it learns
    assert np.abs(np.array(curves["fp32x3"]) - exact).max() < 1e-4 * exact[0]
    assert np.abs(np.array(curves["tf32"]) - exact).max() < 2e-2 * exact[0]
    assert curves["tf32"] != curves["fp32"]
