"""Normalisation and maximum in one pass: what is refused, which kernel is preferred."""

import numpy as np
import pytest
from test_pool import place

from pyconvnet import ops

FORWARD, BACKWARD = "lrn_max_pool2d", "lrn_max_pool2d_backward"

X = np.ones((2, 7, 9, 12), np.float32)
Y, POSITIONS = np.ones((2, 3, 4, 12), np.float32), np.zeros((2, 3, 4, 12), np.uint8)
READ_ONLY = np.ones_like(Y)
READ_ONLY.flags.writeable = False
GRADIENT = (Y, POSITIONS, X)

BAD = [
    (FORWARD, (X[0],), {}, ValueError, r"x must have 4 dimensions \(N, H, W, C\)"),
    (FORWARD, (X[:0],), {}, ValueError, "x must not be empty"),
    (FORWARD, (X.astype(np.float16),), {}, TypeError, "x must be float32.*got float16"),
    (FORWARD, (X[:, ::2],), {}, ValueError, "x must be C-contiguous"),
    (FORWARD, (X,), {"lrn_size": 0}, ValueError, "lrn_size must be at least 1, got 0"),
    (FORWARD, (X,), {"lrn_size": 5.0}, TypeError, "lrn_size must be an integer, got float"),
    (FORWARD, (X,), {"lrn_size": 2**31}, ValueError, "lrn_size must be at most 2147483647"),
    (FORWARD, (X,), {"alpha": -1.0}, ValueError, "alpha must not be negative"),
    (FORWARD, (X,), {"alpha": 1e39}, ValueError, "alpha must be in the range of float32"),
    (FORWARD, (X,), {"beta": float("nan")}, ValueError, "beta must be finite"),
    (FORWARD, (X,), {"k": 0}, ValueError, "k must be positive, got 0"),
    (FORWARD, (X,), {"k": "2"}, TypeError, "k must be a number, got str"),
    (FORWARD, (X,), {"groups": 5}, ValueError, "groups must divide the number of channels 12, got 5"),
    (FORWARD, (X,), {"size": 0}, ValueError, "size must be at least 1, got 0"),
    (FORWARD, (X,), {"size": (3, 3, 3)}, ValueError, "size must be an integer or a pair"),
    (FORWARD, (X,), {"stride": 0}, ValueError, "stride must be at least 1, got 0"),
    (FORWARD, (X,), {"pad": 3}, ValueError, r"pad must be smaller than size \(3, 3\), got 3"),
    (FORWARD, (X,), {"size": 8}, ValueError, "does not fit x of 7 x 9"),
    (FORWARD, (X,), {"ceil_mode": 1}, TypeError, "ceil_mode must be True or False, got int"),
    (FORWARD, (X,), {"out": Y}, TypeError, r"out must be a tuple \(y, argmax\)"),
    (FORWARD, (X,), {"out": (READ_ONLY, None)}, ValueError, "y must be writable"),
    (FORWARD, (X,), {"out": (None, POSITIONS[:1].copy())}, ValueError, "argmax must have shape"),
    (FORWARD, (X,), {"out": (None, Y)}, TypeError, "argmax must be uint8, got float32"),
    (
        FORWARD,
        (X,),
        {"out": (X.reshape(-1)[: Y.size].reshape(Y.shape), None)},
        ValueError,
        "y must not overlap x",
    ),
    (BACKWARD, (Y[:1], POSITIONS, X), {}, ValueError, r"dy must have shape \(2, 3, 4, 12\) for x"),
    (BACKWARD, (Y, POSITIONS[:1], X), {}, ValueError, "argmax must have shape"),
    (BACKWARD, (Y, POSITIONS.astype(np.int32), X), {}, TypeError, "argmax must be uint8, got int32"),
    (BACKWARD, (Y.astype(np.float64), POSITIONS, X), {}, TypeError, "dy must be float32"),
    (BACKWARD, (Y, POSITIONS + np.uint8(9), X), {}, ValueError, r"argmax must be in \[0, 9\), got 9"),
    (BACKWARD, GRADIENT, {"pad": 1}, ValueError, "dy must have shape"),
    (BACKWARD, GRADIENT, {"groups": 5}, ValueError, "groups must divide"),
    (BACKWARD, GRADIENT, {"k": -2.0}, ValueError, "k must be positive"),
    (BACKWARD, GRADIENT, {"out": X}, ValueError, "out must not overlap x"),
    (BACKWARD, GRADIENT, {"out": Y.copy()}, ValueError, "out must have shape"),
]


@pytest.mark.parametrize(
    ("op", "args", "kwargs", "error", "message"), BAD, ids=[f"{b[0]}-{b[4]}" for b in BAD]
)
def test_bad_arguments(op, args, kwargs, error, message):
    with pytest.raises(error, match=message) as caught:
        getattr(ops, op)(*args, **kwargs)
    assert str(caught.value).startswith(f"{op}: ")
    with ops.on("emulator"), pytest.raises(error, match=message):  # the same words on every device
        getattr(ops, op)(*args, **kwargs)


def test_a_kernel_that_does_not_apply():
    with ops.on("emulator"), pytest.raises(ValueError, match="does not apply to these shapes; these do: "):
        ops.lrn_max_pool2d(X, size=2, kernel="lrn_max_pool2d_march")
    with pytest.raises(ValueError, match="needs arrays on a CUDA device or the emulator"):
        ops.lrn_max_pool2d_backward(*GRADIENT, kernel="lrn_max_pool2d_backward_generic")


def test_preferred_kernels():
    for shape, groups in [((128, 55, 55, 96), 1), ((128, 27, 27, 256), 2), ((1, 27, 27, 128), 1)]:
        assert ops.kernels(FORWARD, shape, groups=groups)[0] == "lrn_max_pool2d_march"
        assert ops.kernels(BACKWARD, shape, groups=groups)[0] == "lrn_max_pool2d_backward_march"
    assert ops.kernels(FORWARD, (1, 9, 9, 12), groups=2) == ["lrn_max_pool2d_generic"]
    assert ops.kernels(FORWARD, (1, 9, 9, 12), lrn_size=11) == ["lrn_max_pool2d_generic"]
    assert ops.kernels(BACKWARD, (1, 9, 9, 12), stride=1) == ["lrn_max_pool2d_backward_generic"]


@pytest.mark.kernels
def test_the_binding_checks_memory(device):
    ext = device.ext
    good = {
        "n": 2, "h": 7, "w": 9, "c": 12, "lrn_size": 5, "groups": 2, "r": 3, "s": 3, "p": 3, "q": 4,
        "stride_h": 2, "stride_w": 2, "pad_h": 0, "pad_w": 0,
    }  # fmt: skip
    for change in [
        {"n": 0}, {"c": 0}, {"lrn_size": 0}, {"groups": 0}, {"groups": 5}, {"n": 2**30}, {"r": 0},
        {"stride_w": 0}, {"pad_h": 3}, {"pad_w": -1}, {"p": 5}, {"q": 6}, {"s": 2**31 - 1},
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="LrnMaxPool2dShape"):
            ext.LrnMaxPool2dShape(**(good | change))
    shape = ext.LrnMaxPool2dShape(**good)
    x, y, argmax = (place(device, a) for a in (X, Y, POSITIONS))
    with pytest.raises(ValueError, match="argmax must have 288 elements, got 287"):
        ext.lrn_max_pool2d("lrn_max_pool2d_generic", shape, y, argmax.reshape(-1)[:287], x, 1.0, 0.75, 1.0, 0)
    with pytest.raises(ValueError, match="x must have 1512 elements, got 288"):
        ext.lrn_max_pool2d_backward(
            "lrn_max_pool2d_backward_generic", shape, place(device, X), y, argmax, y, 1.0, 0.75, 1.0, False, 0
        )
    with pytest.raises(ValueError, match="does not support this shape"):
        ext.lrn_max_pool2d("lrn_max_pool2d_march", shape, y, argmax, x, 1.0, 0.75, 1.0, 0)
