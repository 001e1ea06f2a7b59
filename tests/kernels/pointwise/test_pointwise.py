"""Activations, bias, sums, concatenation, dropout: kernels and reference against float64 formulas."""

import numpy as np
import pytest
from support.helpers import assert_close
from support.kernels.placing import blank, place

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.common import threads as _threads

pytestmark = pytest.mark.kernels

ELEMENTWISE = ["relu", "relu_backward", "tanh", "tanh_backward", "logistic", "logistic_backward", "add"]
COUNTS = [1, 3, 31, 1023, 4097]
ROWS = [
    (1, 1),
    (1, 5),
    (3, 4),
    (31, 3),
    (7, 33),
    (1023, 1),
    (257, 96),
    (4097, 2),
    (5, 1030),
    (600, 10),
    (300, 260),
]


def host(device, array):
    return device.to_numpy(array)


def formula(op, a, b=None, alpha=1.0, beta=1.0):
    """The definitions, in float64 and independent of the package."""
    a = a.astype(np.float64)
    b = None if b is None else b.astype(np.float64)
    return {
        "relu": lambda: np.where(a > 0, a, 0),
        "tanh": lambda: np.tanh(a),
        "logistic": lambda: 0.5 * (1 + np.tanh(a / 2)),
        "relu_backward": lambda: np.where(b > 0, a, 0),
        "tanh_backward": lambda: a * (1 - b**2),
        "logistic_backward": lambda: a * b * (1 - b),
        "add": lambda: alpha * a + beta * b,
    }[op]()


def operands(op, shape, rng, dtype=np.float32):
    x = (3 * rng.standard_normal(shape)).astype(dtype)
    if op == "add":
        return x, rng.standard_normal(shape).astype(dtype)
    if not op.endswith("_backward"):
        return (x,)
    y = formula(op.removesuffix("_backward"), x).astype(dtype)
    return rng.standard_normal(shape).astype(dtype), y


# ---- element by element ------------------------------------------------------------------------------------


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise_kernels(op, misaligned, device, schedule, run_on, rng):
    for count in COUNTS:
        arrays = operands(op, (count,), rng)
        on_device = [place(device, a, misaligned) for a in arrays]
        scalars = {"alpha": 0.75, "beta": -2.5} if op == "add" else {}
        with run_on(device):
            for kernel in ops.kernels(op, (count,), device=device):
                out = blank(device, (count,), misaligned=misaligned)
                result = getattr(ops, op)(*on_device, out=out, kernel=kernel, **scalars)
                assert result is out
                want = formula(op, *arrays, **scalars)
                assert_close(host(device, out), want, 1, scale=max(1.0, np.abs(want).max()))


@pytest.mark.parametrize("op", ELEMENTWISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_elementwise_reference(op, dtype, rng):
    for shape in [(1,), (2, 3, 5, 7), (70_001,)]:
        arrays = operands(op, shape, rng, dtype)
        for scalars in (
            [{}] if op != "add" else [{"alpha": a, "beta": b} for a in (1, 2.5) for b in (1, -0.5, 0)]
        ):
            want = formula(op, *arrays, **scalars)
            out = np.full(shape, np.nan, dtype)
            with ops.on("cpu"):
                assert getattr(ops, op)(*arrays, out=out, **scalars) is out
                assert_close(out, want, 1, scale=max(1.0, np.abs(want).max()), eps=np.finfo(dtype).eps, c=4)
                for position in range(len(arrays)):  # in place, on any of the inputs
                    inputs = [a.copy() for a in arrays]
                    assert getattr(ops, op)(*inputs, out=inputs[position], **scalars) is inputs[position]
                    assert np.array_equal(inputs[position], out)


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise_in_place(op, device, schedule, run_on, rng):
    arrays = operands(op, (33, 31), rng)
    with run_on(device):
        want = host(device, getattr(ops, op)(*[place(device, a) for a in arrays]))
        for position in range(len(arrays)):
            inputs = [place(device, a) for a in arrays]
            getattr(ops, op)(*inputs, out=inputs[position])
            assert np.array_equal(host(device, inputs[position]), want)


def test_mixed_alignment_takes_the_scalar_path(device, run_on, rng):
    x = rng.standard_normal(1029).astype(np.float32)
    with run_on(device):
        for first in (0, 1, 2, 3):
            out = blank(device, (1032,))[first : first + 1029]
            ops.relu(place(device, x), out=out)
            assert np.array_equal(host(device, out), np.maximum(x, 0))


def test_not_a_number_and_infinities(any_device, run_on):
    x = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -200.0, 200.0], np.float32)
    one = np.ones_like(x)
    with run_on(any_device):
        on = lambda a: any_device.asarray(a.copy())  # noqa: E731
        y = host(any_device, ops.relu(on(x)))
        assert np.isnan(y[0])
        assert y[1:].tolist() == [np.inf, 0, 0, 0, np.float32(1e-45), 0, 200]
        assert host(any_device, ops.relu_backward(on(one), on(x))).tolist() == [1, 1, 0, 0, 0, 1, 0, 1]
        # A gradient that is not finite stays outside of what was switched off.
        assert host(any_device, ops.relu_backward(on(x), on(np.zeros_like(x)))).tolist() == [0] * 8
        y = host(any_device, ops.logistic(on(x)))
        assert np.isnan(y[0])
        np.testing.assert_allclose(y[1:], [1, 0, 0.5, 0.5, 0.5, 0, 1], atol=1e-30)
        assert host(any_device, ops.add(on(one), on(x), alpha=3, beta=0)).tolist() == [3] * 8  # b is not read


@pytest.mark.parametrize("op", ["relu", "tanh", "logistic"])
def test_gradient_by_central_differences(op, any_device, run_on, rng):
    x = rng.uniform(-2, 2, 200)
    x[np.abs(x) < 0.01] = 0.5  # away from the corner of relu
    dy = rng.standard_normal(200)
    h = 1e-6
    numeric = dy * (formula(op, x + h) - formula(op, x - h)) / (2 * h)
    dtype = np.float64 if any_device.kind == "cpu" else np.float32
    with run_on(any_device):
        y = getattr(ops, op)(any_device.asarray(x.astype(dtype)))
        dx = getattr(ops, f"{op}_backward")(any_device.asarray(dy.astype(dtype)), y)
    np.testing.assert_allclose(host(any_device, dx), numeric, atol=1e-8 if dtype == np.float64 else 1e-6)


# ---- bias --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("misaligned", [False, True])
def test_add_bias(misaligned, device, schedule, run_on, rng):
    for rows, cols in ROWS:
        x = rng.standard_normal((rows, cols)).astype(np.float32)
        b = rng.standard_normal(cols).astype(np.float32)
        with run_on(device):
            for kernel in ops.kernels("add_bias", (rows, cols), device=device):
                for bias_misaligned in (False, True):
                    out = blank(device, x.shape, misaligned=misaligned)
                    placed = place(device, x, misaligned), place(device, b, bias_misaligned)
                    ops.add_bias(*placed, out=out, kernel=kernel)
                    assert np.array_equal(host(device, out), x + b)
                    ops.add_bias(*placed, out=placed[0], kernel=kernel)
                    assert np.array_equal(host(device, placed[0]), x + b)


@pytest.mark.parametrize("misaligned", [False, True])
def test_bias_backward(misaligned, device, schedule, run_on, rng):
    for rows, cols in ROWS:
        dy = rng.standard_normal((rows, cols)).astype(np.float32)
        want = dy.astype(np.float64).sum(axis=0)
        with run_on(device):
            for kernel in ops.kernels("bias_backward", (rows, cols), device=device):
                outs = [blank(device, (cols,), misaligned=misaligned) for _ in range(2)]
                for out in outs:
                    ops.bias_backward(place(device, dy, misaligned), out=out, kernel=kernel)
                first, second = (host(device, out) for out in outs)
                assert_close(first, want, rows, scale=np.abs(dy).max(), c=8)
                assert np.array_equal(first, second)


def test_bias_backward_does_not_depend_on_the_schedule(run_on, rng):
    emulator = devices.emulator()
    dy = rng.standard_normal((1500, 7)).astype(np.float32)
    results = []
    with run_on(emulator):
        for order, seed in [("fwd", 1), ("rev", 1), ("mix", 3), ("rand", 4)]:
            emulator.ext.configure(order, seed)
            results.append(ops.bias_backward(dy))
    emulator.ext.configure()
    assert all(np.array_equal(r, results[0]) for r in results)


def test_bias_backward_takes_its_scratch_memory_from_the_caller(device, run_on, rng):
    class Lender:
        asked = 0

        def get(self, nbytes):
            Lender.asked = nbytes
            return device.empty((nbytes + 64,), np.uint8)

    dy = rng.standard_normal((5000, 6)).astype(np.float32)
    with run_on(device):
        out = ops.bias_backward(device.asarray(dy), workspace=Lender())
    assert Lender.asked > 0
    assert_close(host(device, out), dy.astype(np.float64).sum(axis=0), 5000, scale=np.abs(dy).max(), c=8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bias_reference(dtype, rng):
    for shape in [(1,), (5,), (9, 3), (2, 5, 7, 11), (20_000, 4), (3, 70_000)]:
        x = rng.standard_normal(shape).astype(dtype)
        b = rng.standard_normal(shape[-1]).astype(dtype)
        assert np.array_equal(ops.add_bias(x, b), x + b)
        db = ops.bias_backward(x)
        assert db.dtype == dtype
        assert_close(
            db,
            x.astype(np.float64).reshape(-1, shape[-1]).sum(axis=0),
            x.size / shape[-1],
            scale=np.abs(x).max(),
            c=8,
            eps=np.finfo(dtype).eps,
        )


# ---- channels side by side ---------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(1,), (4, 8), (3, 5, 1), (4, 2, 12), (32, 16, 16)])
@pytest.mark.parametrize("misaligned", [False, True])
def test_concat_and_split(widths, misaligned, any_device, run_on, rng):
    pieces = [rng.standard_normal((2, 5, 3, c)).astype(np.float32) for c in widths]
    whole = np.concatenate(pieces, axis=-1)
    with run_on(any_device):
        placed = [place(any_device, p, misaligned) for p in pieces]
        out = blank(any_device, whole.shape, misaligned=misaligned)
        assert ops.concat(placed, out=out) is out
        assert np.array_equal(host(any_device, out), whole)
        outs = tuple(blank(any_device, p.shape, misaligned=misaligned) for p in pieces)
        results = ops.split(out, list(widths), out=outs)
        for piece, result, target in zip(pieces, results, outs, strict=True):
            assert result is target
            assert np.array_equal(host(any_device, result), piece)


def test_concat_under_every_schedule(device, schedule, run_on, rng):
    a, b = rng.standard_normal((700, 3)).astype(np.float32), rng.standard_normal((700, 2)).astype(np.float32)
    with run_on(device):
        got = ops.concat([device.asarray(a), device.asarray(b)])
        assert np.array_equal(host(device, got), np.concatenate([a, b], axis=1))


# ---- AlexNet maps ------------------------------------------------------------------------------------------

ALEXNET_MAPS = {
    "conv1": (1, 55, 55, 96),
    "conv2": (1, 27, 27, 256),
    "conv3": (2, 13, 13, 384),
    "conv5": (3, 13, 13, 256),
    "fc7": (8, 4096),
    "fc8": (8, 1000),
}


@pytest.mark.parametrize("shape", ALEXNET_MAPS.values(), ids=ALEXNET_MAPS.keys())
def test_alexnet_maps(shape, any_device, run_on, rng):
    cols = shape[-1]
    x, dy = rng.standard_normal((2, *shape)).astype(np.float32)
    b = rng.standard_normal(cols).astype(np.float32)
    on, back = any_device.asarray, any_device.to_numpy
    with run_on(any_device):
        y = back(ops.relu(on(x), out=blank(any_device, shape)))
        assert np.array_equal(y, np.maximum(x, 0))
        dx = back(ops.relu_backward(on(dy), on(y), out=blank(any_device, shape)))
        assert np.array_equal(dx, np.where(x > 0, dy, 0))
        assert np.array_equal(back(ops.add_bias(on(x), on(b), out=blank(any_device, shape))), x + b)
        db = back(ops.bias_backward(on(dy), out=blank(any_device, (cols,))))
        assert_close(
            db,
            dy.astype(np.float64).reshape(-1, cols).sum(axis=0),
            dy.size / cols,
            scale=np.abs(dy).max(),
            c=8,
        )
        halves = ops.split(on(x), [cols // 2, cols - cols // 2])
        assert np.array_equal(back(halves[1]), x[..., cols // 2 :])
        assert np.array_equal(back(ops.concat(halves)), x)


def test_reference_gives_the_same_bits_with_any_number_of_threads(rng):
    x = rng.standard_normal((3, 50, 50, 40)).astype(np.float32)
    results = []
    before = _threads.get_num_threads()
    try:
        for threads in (1, 3):
            _threads.set_num_threads(threads)
            y, mask = ops.dropout(x, 0.3, 4, 5, 6)
            results.append([y, mask, ops.bias_backward(x), ops.logistic(x), ops.add(x, y, alpha=0.3, beta=3)])
    finally:
        _threads.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


# ---- tables and refusals -----------------------------------------------------------------------------------


def test_every_row_has_been_run(device):
    """The shapes of the tests above reach every row of the family's tables."""
    ext = device.ext
    extents = {
        **{op: [ext.ElementwiseShape(count=n) for n in COUNTS] for op in [*ELEMENTWISE, "dropout_backward"]},
        **{op: [ext.RowsShape(rows=r, cols=c) for r, c in ROWS] for op in ["add_bias", "bias_backward"]},
        "dropout": [ext.DropoutShape(rows=64, cols=20, row0=0, col0=0, total_cols=20)],
        "copy_columns": [
            ext.CopyColumnsShape(rows=700, cols=3, dst_cols=5, dst_first=0, src_cols=3, src_first=0)
        ],
    }
    for op, shapes in extents.items():
        reached = {name for shape in shapes for name, _ in getattr(ext, f"{op}_kernels")(shape)}
        assert reached == set(getattr(ext, f"{op}_table")()), op


F = np.float32
X, B = np.zeros((4, 6), F), np.zeros(6, F)
READ_ONLY = np.zeros((4, 6), F)
READ_ONLY.flags.writeable = False
BAD = [
    (lambda: ops.relu([1.0]), TypeError, r"relu: x must be a NumPy or CUDA array, got list"),
    (lambda: ops.relu(X.astype(np.int32)), TypeError, r"relu: x must be float32.*got int32"),
    (lambda: ops.relu(X[:, ::2]), ValueError, r"relu: x must be C-contiguous"),
    (lambda: ops.relu(X[:0]), ValueError, r"relu: x must not be empty, got shape \(0, 6\)"),
    (lambda: ops.relu(X, out=B), ValueError, r"relu: out must have shape \(4, 6\), got \(6,\)"),
    (lambda: ops.relu(X, out=READ_ONLY), ValueError, r"relu: out must be writable"),
    (lambda: ops.relu(X, out=X.astype(np.float64)), TypeError, r"relu: out must be float32, got float64"),
    (lambda: ops.relu(X[:3], out=X[1:]), ValueError, r"relu: out must be x itself or not overlap x"),
    (
        lambda: ops.tanh_backward(X, B),
        ValueError,
        r"tanh_backward: y must have shape \(4, 6\) like dy, got \(6,\)",
    ),
    (lambda: ops.relu_backward(X, X.astype(np.float64)), TypeError, r"relu_backward: y must be float32"),
    (lambda: ops.add(X, X, alpha=np.nan), ValueError, r"add: alpha must be finite, got nan"),
    (lambda: ops.add(X, X, beta="1"), TypeError, r"add: beta must be a number, got str"),
    (
        lambda: ops.add_bias(X, np.zeros(5, F)),
        ValueError,
        r"add_bias: b must have shape \(6,\) for the last axis of x, got \(5,\)",
    ),
    (lambda: ops.add_bias(F(1), B), TypeError, r"add_bias: x must be a NumPy or CUDA array"),
    (lambda: ops.add_bias(np.zeros((), F), B), ValueError, r"add_bias: x must have at least 1 dimension"),
    (
        lambda: ops.bias_backward(X, out=np.zeros(5, F)),
        ValueError,
        r"bias_backward: out must have shape \(6,\), got \(5,\)",
    ),
    (lambda: ops.bias_backward(X, out=X[0]), ValueError, r"bias_backward: out must not overlap dy"),
    (lambda: ops.concat(X), TypeError, r"concat: xs must be a list or tuple of arrays, got ndarray"),
    (lambda: ops.concat([]), ValueError, r"concat: xs must hold at least one array"),
    (
        lambda: ops.concat([X, X[:3]]),
        ValueError,
        r"concat: xs\[1\] must have shape \(4, …\) like xs\[0\], got \(3, 6\)",
    ),
    (
        lambda: ops.split(X, [3, 2]),
        ValueError,
        r"split: sizes must add up to the 6 channels of x, got \[3, 2\], sum 5",
    ),
    (lambda: ops.split(X, [7, -1]), ValueError, r"split: sizes\[1\] must be at least 1, got -1"),
    (lambda: ops.split(X, 6), TypeError, r"split: sizes must be a list or tuple of integers, got int"),
    (lambda: ops.split(X, [2, 4], out=[X, X]), TypeError, r"split: out must be a tuple"),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_refuses(call, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        call()


def test_unknown_kernels_are_refused():
    with (
        ops.on("cpu"),
        pytest.raises(
            ValueError, match="kernel='relu_forward' needs arrays on a CUDA device or the emulator"
        ),
    ):
        ops.relu(X, kernel="relu_forward")
    with ops.on("emulator"), pytest.raises(ValueError, match=r"kernel 'x' does not apply.*: relu_forward"):
        ops.relu(X, kernel="x")


def test_float64_is_refused_by_the_kernels():
    with (
        ops.on("emulator"),
        pytest.raises(TypeError, match="relu: x must be float32 or bfloat16 on emulator, got float64"),
    ):
        ops.relu(X.astype(np.float64))


def test_bindings_check_memory_themselves():
    ext = devices.emulator().ext
    shape = ext.ElementwiseShape(count=24)
    with pytest.raises(ValueError, match="relu: x must have 24 elements, got 6"):
        ext.relu("relu_forward", shape, X, B, 0)
    with pytest.raises(ValueError, match="relu: out must be writable"):
        ext.relu("relu_forward", shape, READ_ONLY, X, 0)
    with pytest.raises(ValueError, match="there is no kernel called 'nonsense'"):
        ext.relu("nonsense", shape, X, X, 0)
    rows = ext.RowsShape(rows=5000, cols=2)
    with pytest.raises(ValueError, match=r"workspace of \d+ bytes needed, got None"):
        ext.bias_backward("bias_backward_two_stage", rows, np.zeros(2, F), np.zeros((5000, 2), F), None, 0)
    for make, error in [
        (lambda: ext.ElementwiseShape(count=0), ValueError),
        (lambda: ext.RowsShape(rows=2**16, cols=2**15), ValueError),
        (
            lambda: ext.CopyColumnsShape(rows=1, cols=4, dst_cols=4, dst_first=1, src_cols=4, src_first=0),
            ValueError,
        ),
        (lambda: ext.DropoutShape(rows=1, cols=4, row0=0, col0=1, total_cols=4), ValueError),
        (lambda: ext.ElementwiseShape(count="4"), TypeError),
    ]:
        with pytest.raises(error):
            make()
