"""Activations, bias, sums, concatenation and dropout of bfloat16 arrays: one rounding from float64."""

import numpy as np
import pytest
from support.helpers import assert_close, same_bits
from support.kernels.bf16 import BF16, assert_rounded, bf16, exact
from support.kernels.placing import blank, kernels_of, place
from test_dropout import WINDOWS, mask_by_definition
from test_pointwise import COUNTS, ELEMENTWISE, ROWS, formula, operands

from pyconvnet import ops
from pyconvnet.common import devices

pytestmark = pytest.mark.kernels


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise(op, misaligned, any_device, run_on, rng):
    scalars = {"alpha": 0.75, "beta": -2.5} if op == "add" else {}
    for count in [*COUNTS, 8, 4096]:
        arrays = [bf16(a) for a in operands(op, (count,), rng)]
        want = formula(op, *map(exact, arrays), **scalars)
        with run_on(any_device):
            for kernel in kernels_of(any_device, op, (count,)):
                placed = [place(any_device, a, misaligned) for a in arrays]
                out = blank(any_device, (count,), BF16, misaligned)
                assert getattr(ops, op)(*placed, out=out, kernel=kernel, **scalars) is out
                got = any_device.to_numpy(out)
                assert_rounded(got, want, 1, scale=max(1.0, np.abs(want).max()), c=4)
                for position in range(len(arrays)):  # in place, on any of the inputs
                    inputs = [place(any_device, a, misaligned) for a in arrays]
                    getattr(ops, op)(*inputs, out=inputs[position], kernel=kernel, **scalars)
                    assert same_bits(any_device.to_numpy(inputs[position]), got)


def test_selecting_does_not_round(any_device, run_on, rng):
    x, dy = bf16(rng.standard_normal((2, 1029)))
    x[:4], dy[4:6] = [np.nan, 0, -0.0, np.inf], np.nan
    with run_on(any_device):
        y = any_device.to_numpy(ops.relu(any_device.asarray(x)))
        dx = any_device.to_numpy(ops.relu_backward(any_device.asarray(dy), any_device.asarray(x)))
    assert np.array_equal(exact(y), np.where(exact(x) < 0, 0, exact(x)), equal_nan=True)
    assert np.array_equal(exact(dx), np.where(exact(x) <= 0, 0, exact(dy)), equal_nan=True)
    assert not np.signbit(exact(dx)[exact(x) <= 0]).any()


def test_rounds_to_even(any_device, run_on):
    """1 + 2^-8 lies midway between 1 and its successor, 1 + 3 * 2^-8 between two odd and even ones."""
    a, b = bf16(np.array([1, 1, 1, 1])), bf16(np.array([2.0**-8, 3 * 2.0**-8, 2.0**-8 + 2.0**-15, 2.0**-9]))
    with run_on(any_device):
        y = any_device.to_numpy(ops.add(any_device.asarray(a), any_device.asarray(b)))
    assert exact(y).tolist() == [1, 1 + 2.0**-6, 1 + 2.0**-7, 1]


@pytest.mark.parametrize("misaligned", [False, True])
def test_add_bias(misaligned, any_device, run_on, rng):
    for rows, cols in [*ROWS, (5, 12), (9, 20)]:
        x, b = bf16(rng.standard_normal((rows, cols))), rng.standard_normal(cols).astype(np.float32)
        with run_on(any_device):
            for kernel in kernels_of(any_device, "add_bias", (rows, cols)):
                for bias_misaligned in (False, True):
                    out = blank(any_device, x.shape, BF16, misaligned)
                    placed = place(any_device, x, misaligned), place(any_device, b, bias_misaligned)
                    ops.add_bias(*placed, out=out, kernel=kernel)
                    want = (x.astype(np.float32) + b).astype(BF16)
                    assert same_bits(any_device.to_numpy(out), want)
                    ops.add_bias(*placed, out=placed[0], kernel=kernel)
                    assert same_bits(any_device.to_numpy(placed[0]), want)


@pytest.mark.parametrize("misaligned", [False, True])
def test_bias_backward(misaligned, any_device, run_on, rng):
    for rows, cols in [*ROWS, (50, 12), (2, 2056), (70, 264)]:
        dy = bf16(rng.standard_normal((rows, cols)))
        want = exact(dy).sum(axis=0)
        with run_on(any_device):
            for kernel in kernels_of(any_device, "bias_backward", (rows, cols)):
                out = blank(any_device, (cols,), misaligned=misaligned)
                ops.bias_backward(place(any_device, dy, misaligned), out=out, kernel=kernel)
                scale = np.abs(exact(dy)).max()
                assert_close(any_device.to_numpy(out), want, rows, scale=scale, c=8)


def test_under_every_schedule(device, schedule, run_on, rng):
    a, b = bf16(rng.standard_normal((700, 24))), bf16(rng.standard_normal((700, 3)))
    with run_on(device):
        db = ops.bias_backward(place(device, a))
        assert_close(device.to_numpy(db), exact(a).sum(axis=0), 700, scale=4.0, c=8)
        both = ops.concat([place(device, a), place(device, b)])
        assert same_bits(device.to_numpy(both), np.concatenate([a, b], axis=1))
        y, mask = ops.dropout(place(device, a), 0.5, 1, 2, 3, scale=1.0)
        want = mask_by_definition(a.shape, 0.5, 1, 2, 3)
        assert np.array_equal(device.to_numpy(mask), want)
        assert np.array_equal(exact(device.to_numpy(y)), exact(a) * want)


@pytest.mark.parametrize("widths", [(1,), (8, 16), (4, 12), (2, 6, 4), (3, 5, 1), (32, 16, 16)])
@pytest.mark.parametrize("misaligned", [False, True])
def test_concat_and_split(widths, misaligned, any_device, run_on, rng):
    pieces = [bf16(rng.standard_normal((2, 5, 3, c))) for c in widths]
    whole = np.concatenate(pieces, axis=-1)
    with run_on(any_device):
        out = blank(any_device, whole.shape, BF16, misaligned)
        ops.concat([place(any_device, p, misaligned) for p in pieces], out=out)
        assert same_bits(any_device.to_numpy(out), whole)
        outs = tuple(blank(any_device, p.shape, BF16, misaligned) for p in pieces)
        for piece, result in zip(pieces, ops.split(out, list(widths), out=outs), strict=True):
            assert same_bits(any_device.to_numpy(result), piece)


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize(("shape", "window"), WINDOWS)
def test_dropout_draws_the_mask_of_float32(shape, window, misaligned, any_device, run_on, rng):
    x = bf16(rng.standard_normal(shape))
    seed, step, layer, p = 0x123456789ABCDEF, 2**33 + 7, 3, 0.3
    mask = mask_by_definition(shape, p, seed, step, layer, window)
    want = (x.astype(np.float32) * np.float32(1 / 0.7) * mask).astype(BF16)
    with run_on(any_device):
        for kernel in kernels_of(any_device, "dropout", shape):
            out = blank(any_device, shape, BF16, misaligned), blank(any_device, shape, np.uint8, misaligned)
            placed = place(any_device, x, misaligned)
            y, got = ops.dropout(placed, p, seed, step, layer, window=window, out=out, kernel=kernel)
            assert np.array_equal(any_device.to_numpy(got), mask)
            assert np.array_equal(exact(any_device.to_numpy(y)), exact(want))
            ops.dropout(placed, p, seed, step, layer, window=window, out=(placed, got), kernel=kernel)
            assert same_bits(any_device.to_numpy(placed), any_device.to_numpy(y))


@pytest.mark.parametrize("misaligned", [False, True])
def test_dropout_backward(misaligned, any_device, run_on, rng):
    for count in [*COUNTS, 8, 4096]:
        dy, mask = bf16(rng.standard_normal(count)), rng.integers(0, 2, count).astype(np.uint8)
        want = (dy.astype(np.float32) * np.float32(1.25) * mask).astype(BF16)
        with run_on(any_device):
            for kernel in kernels_of(any_device, "dropout_backward", (count,)):
                placed = place(any_device, dy, misaligned), place(any_device, mask, misaligned)
                out = blank(any_device, (count,), BF16, misaligned)
                ops.dropout_backward(*placed, 0.2, out=out, kernel=kernel)
                assert np.array_equal(exact(any_device.to_numpy(out)), exact(want))


X = bf16(np.zeros((4, 6)))
F = X.astype(np.float32)
BAD = [
    (lambda: ops.relu(X, out=F), r"relu: out must be bfloat16, got float32"),
    (lambda: ops.relu_backward(X, F), r"relu_backward: y must be bfloat16 like dy, got float32"),
    (lambda: ops.relu_backward(F, X), r"relu_backward: y must be float32 like dy, got bfloat16"),
    (lambda: ops.add_bias(X, X[0]), r"add_bias: b must be float32, got bfloat16"),
    (lambda: ops.add_bias(F, X[0]), r"add_bias: b must be float32, got bfloat16"),
    (lambda: ops.bias_backward(X, out=X[0].copy()), r"bias_backward: out must be float32, got bfloat16"),
    (lambda: ops.concat([X, F]), r"concat: xs\[1\] must be bfloat16 like xs\[0\], got float32"),
    (lambda: ops.dropout(X, out=(F, F)), r"dropout: y must be bfloat16, got float32"),
    (lambda: ops.relu(F.astype(np.float16)), r"relu: x must be float32, bfloat16|relu: x must be float32 or"),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(("call", "message"), BAD)
def test_refuses(call, message, where):
    with ops.on(where), pytest.raises(TypeError, match=message):
        call()


def test_bindings_check_memory_themselves():
    ext = devices.emulator().ext
    shape = ext.ElementwiseShape(count=24)
    with pytest.raises(TypeError, match="relu: out must be bfloat16, got float32"):
        ext.relu("relu_forward", shape, F, X, 0)
    with pytest.raises(TypeError, match="relu: out must be float32, got bfloat16"):
        ext.relu("relu_forward", shape, X, F, 0)
    with pytest.raises(ValueError, match="relu: x must have 24 elements, got 6"):
        ext.relu("relu_forward", shape, X.copy(), X[0], 0)
    rows = ext.RowsShape(rows=4, cols=6)
    with pytest.raises(TypeError, match="add_bias: b must be float32, got bfloat16"):
        ext.add_bias("add_bias_rows", rows, X.copy(), X, X[0], 0)
