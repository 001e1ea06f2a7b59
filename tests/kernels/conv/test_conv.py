"""Every convolution kernel, forced by name, against the float64 reference; and what conv2d refuses."""

import functools

import numpy as np
import pytest
from support.helpers import EPS32, Scratch, assert_close, same_bits
from support.kernels.conv_problems import (
    ALEXNET,
    CASES,
    DIRECTIONS,
    FEW,
    PLAIN,
    TINY,
    compute,
    is_representative,
    kernels,
    once_each,
    problem,
    reached,
    rows,
    table,
)
from support.kernels.conv_shapes import Conv, alexnet_convs

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops.reference import conv as reference

FEW_ROWS = [pytest.param(op, *row.values, id=f"{op}-{row.id}") for op in DIRECTIONS for row in rows(op, FEW)]


def check(op: str, case: Conv, dev, kernel: str) -> None:
    p = problem(case)
    assert_close(compute(op, case, dev, kernel), p.expected(op), p.terms[op])


# ---------------------------------------------------------------- every kernel, every shape


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), rows("conv2d", CASES))
def test_fprop(case, kernel, device, run_on):
    with run_on(device):
        check("conv2d", case, device, kernel)


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), rows("conv2d_dgrad", CASES))
def test_dgrad(case, kernel, device, run_on):
    with run_on(device):
        check("conv2d_dgrad", case, device, kernel)


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), rows("conv2d_wgrad", CASES))
def test_wgrad(case, kernel, device, run_on):
    with run_on(device):
        check("conv2d_wgrad", case, device, kernel)


@pytest.mark.parametrize("op", DIRECTIONS)
def test_the_shapes_reach_every_row_of_the_table(op):
    for cases in (CASES, FEW):
        assert table(op) == {kernel for case in cases for kernel in kernels(op, case, precision="tf32")}


@pytest.mark.parametrize("op", DIRECTIONS)
def test_the_shapes_reach_split_and_whole_reductions_of_every_row(op):
    first_layer = {name for name in table(op) if name.endswith("first_layer")}  # calls one of the others
    some = [case for case in dict.fromkeys([*TINY, *CASES]) if is_representative(case, DIRECTIONS[op])]
    for cases in (CASES, some):
        split, whole = reached(op, cases, "tf32")
        assert split == table(op) - first_layer
        assert whole == table(op)


def test_alexnet_prefers_fast_kernels():
    for batch in (1, 8, 128, 1024):
        for case in alexnet_convs(batch):
            for op in DIRECTIONS:
                kernel = kernels(op, case)[0]
                if case.name == "conv1":
                    expected = "generic" if op == "conv2d_dgrad" else "first_layer"
                    assert kernel.endswith(expected)
                else:
                    assert not kernel.endswith("generic")


# ---------------------------------------------------------------- epilogue, order, determinism


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel"), rows("conv2d", FEW))
def test_bias_and_relu_are_fused_rightly(case, kernel, device, run_on):
    p = problem(case)
    with run_on(device):
        x, w, b = (device.asarray(a) for a in (p.x, p.w, p.b))
        relu = ops.conv2d(x, w, b, activation="relu", kernel=kernel, **case.options)
        plain = ops.conv2d(x, w, kernel=kernel, **case.options)
    assert (p.y < 0).any()
    assert_close(device.to_numpy(relu), np.maximum(p.y, 0), p.terms["conv2d"])
    assert_close(device.to_numpy(plain), p.y - p.b.astype(np.float64), p.terms["conv2d"])


@pytest.mark.parametrize("kernel", kernels("conv2d", FEW[0]) + kernels("conv2d", FEW[1]))
def test_relu_keeps_nan(kernel, device, run_on):
    case = FEW[0] if kernel in kernels("conv2d", FEW[0]) else FEW[1]
    p = problem(case)
    x = p.x.copy()
    x[0, 5, 5, 0] = np.nan
    with run_on(device):
        y = ops.conv2d(
            device.asarray(x), device.asarray(p.w), activation="relu", kernel=kernel, **case.options
        )
    y = device.to_numpy(y)
    expected = reference.conv2d(x.astype(np.float64), p.w.astype(np.float64), **case.options)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(np.isnan(y), np.isnan(expected))


# At most 8192 multiply-adds: the generic kernel makes them without a tile.
FEW_OUTPUTS = [
    Conv("a_plane", (1, 4, 4, 4), (4, 3, 3, 4), pad=((1, 1), (1, 1))),
    Conv("odd_channels", (2, 5, 3, 3), (5, 3, 2, 3), (2, 1), ((2, 1), (0, 3))),
    Conv("groups", (1, 4, 3, 8), (6, 2, 2, 4), pad=((1, 0), (0, 1)), groups=2),
    Conv("a_row", (3, 1, 1, 250), (10, 1, 1, 250)),
    Conv("one_term", (70, 1, 1, 1), (1, 1, 1, 1)),
]


@pytest.mark.parametrize("case", FEW_OUTPUTS, ids=str)
def test_few_outputs_are_made_without_a_tile_and_have_its_bits(case, device, run_on):
    """Channels that no tile takes are filled up with zeros, which change no sum."""
    assert kernels("conv2d", case)[0] == "conv2d_fprop_generic"
    p = problem(case)
    x, w, fill = p.x.copy(), p.w.copy(), -case.w[3] % 4
    x.flat[3::17], w.flat[::13] = (np.nan if case.groups == 1 else np.inf), -0.0
    wide_x = np.pad(x.reshape(*x.shape[:3], case.groups, -1), [(0, 0)] * 4 + [(0, fill)])
    wide_x, wide_w = wide_x.reshape(*x.shape[:3], -1), np.pad(w, [(0, 0)] * 3 + [(0, fill)])
    with run_on(device):
        for b in (None, device.asarray(p.b)):
            for activation in (None, "relu"):
                how = {"activation": activation, **case.options}
                few = ops.conv2d(device.asarray(x), device.asarray(w), b, **how)
                tile = ops.conv2d(
                    *(device.asarray(a) for a in (wide_x, wide_w)), b, kernel="conv2d_fprop_tile32", **how
                )
                assert same_bits(device.to_numpy(few), device.to_numpy(tile))


@functools.cache
def _bits_in_plain_order(op: str, case: Conv, kernel: str) -> np.ndarray:
    devices.emulator().ext.configure()  # whatever schedule the caller's test runs under
    with ops.on("emulator"):
        return compute(op, case, devices.emulator(), kernel)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), FEW_ROWS if PLAIN else once_each(FEW_ROWS))
def test_every_schedule_gives_the_same_bits(op, case, kernel, schedule):
    with ops.on("emulator"):
        result = compute(op, case, devices.emulator(), kernel)
    assert same_bits(result, _bits_in_plain_order(op, case, kernel))


@pytest.mark.parametrize("op", DIRECTIONS)
@pytest.mark.parametrize("case", ALEXNET, ids=str)
def test_repetition_gives_the_same_bits(op, case, device, run_on):
    with run_on(device):
        first = compute(op, case, device)
        assert same_bits(first, compute(op, case, device))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_three_directions_are_adjoint(case, device, run_on):
    """<dy, conv(x, w)> = <dgrad(dy, w), x> = <wgrad(dy, x), w>, without the reference."""
    p = problem(case)
    with run_on(device):
        y = device.to_numpy(ops.conv2d(device.asarray(p.x), device.asarray(p.w), **case.options))
        dx, dw = (compute(op, case, device) for op in ("conv2d_dgrad", "conv2d_wgrad"))
    products = [
        float(np.vdot(a.astype(np.float64), b.astype(np.float64)))
        for a, b in ((y, p.dy), (dx, p.x), (dw, p.w))
    ]
    size = float(np.linalg.norm(y.astype(np.float64)) * np.linalg.norm(p.dy.astype(np.float64)))
    limit = 4 * EPS32 * max(p.terms.values()) ** 0.5 * size
    assert abs(products[0] - products[1]) <= limit
    assert abs(products[0] - products[2]) <= limit


# ---------------------------------------------------------------- arguments


@pytest.mark.parametrize("op", DIRECTIONS)
def test_workspace_is_used_and_may_hold_anything(op, device, run_on):
    case = next(c for c in CASES if c.name == {"conv2d_wgrad": "many_pixels"}.get(op, "many_channels"))
    scratch = Scratch(device)
    with run_on(device):
        kernel = ops.kernels(op, case.x, case.w, device=device, **case.options)[0]
        with_scratch = compute(op, case, device, kernel, workspace=scratch)
        assert same_bits(with_scratch, compute(op, case, device, kernel))
    if op == "conv2d_dgrad":  # 8 filters make a short reduction: nothing to split
        assert scratch.requests == []
    else:
        assert len(scratch.requests) == 1
        assert scratch.requests[0] > 0


def test_unaligned_arrays_take_the_generic_kernels(device, run_on):
    case = next(case for case in CASES if case.name == "odd_extent")
    p = problem(case)
    with run_on(device):
        storage = device.asarray(np.concatenate([np.zeros(1, np.float32), p.x.ravel()]))
        x = storage[1:].reshape(case.x)
        w, b, dy = (device.asarray(a) for a in (p.w, p.b, p.dy))
        y = ops.conv2d(x, w, b, **case.options)
        dw = ops.conv2d_wgrad(dy, x, case.w, **case.options)
        with pytest.raises(ValueError, match=r"'conv2d_fprop_tile64' does not apply .*conv2d_fprop_generic"):
            ops.conv2d(x, w, b, kernel="conv2d_fprop_tile64", **case.options)
    assert_close(device.to_numpy(y), p.y, p.terms["conv2d"])
    assert_close(device.to_numpy(dw), p.dw, p.terms["conv2d_wgrad"])


def test_cpu_takes_float64():
    case = FEW[1]
    p = problem(case)
    y = ops.conv2d(p.x.astype(np.float64), p.w.astype(np.float64), p.b.astype(np.float64), **case.options)
    assert y.dtype == np.float64
    assert same_bits(y, p.y)


def test_pad_and_stride_may_be_numbers_and_pairs():
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((1, 6, 7, 2)), rng.standard_normal((3, 3, 3, 2))
    full = ops.conv2d(x, w, stride=(2, 2), pad=((1, 1), (1, 1)))
    assert same_bits(full, ops.conv2d(x, w, stride=2, pad=1))
    assert same_bits(full, ops.conv2d(x, w, stride=(2, 2), pad=(1, 1)))
    assert ops.conv2d(x, w, pad=((0, 2), (1, 0))).shape == (1, 6, 6, 3)
    assert ops.conv2d(x, w, pad=(2, (0, 1))).shape == (1, 8, 6, 3)


F32 = np.float32
X, W, DY = np.ones((2, 6, 5, 4), F32), np.ones((8, 3, 2, 4), F32), np.ones((2, 4, 4, 8), F32)
READ_ONLY = np.ones((2, 4, 4, 8), F32)
READ_ONLY.flags.writeable = False
STORAGE = np.ones(1000, F32)  # for outputs that overlap inputs


def fprop(x=X, w=W, b=None, **options):
    return ops.conv2d(x, w, b, **options)


def dgrad(dy=DY, w=W, x_shape=X.shape, **options):
    return ops.conv2d_dgrad(dy, w, x_shape, **options)


def wgrad(dy=DY, x=X, w_shape=W.shape, **options):
    return ops.conv2d_wgrad(dy, x, w_shape, **options)


# what is wrong, error, message, function, arguments that differ from a right call's
BAD = [
    ("x has rank 3", ValueError, r"conv2d: x must have 4 .*, got shape \(6, 5, 4\)", fprop, {"x": X[0]}),
    ("w has rank 2", ValueError, r"w must have 4 .*, got shape \(8, 24\)", fprop, {"w": W.reshape(8, -1)}),
    ("x is empty", ValueError, r"x must not be empty, got shape \(0, 6, 5, 4\)", fprop, {"x": X[:0]}),
    ("w is empty", ValueError, r"w must not be empty", fprop, {"w": W[:, :0]}),
    ("x is a list", TypeError, r"x must be a NumPy or CUDA array, got list", fprop, {"x": [1.0]}),
    ("x is float64, w is not", TypeError, r"must be float", fprop, {"x": X.astype(float)}),
    ("x is int32", TypeError, r"x must be float32", fprop, {"x": X.astype(np.int32)}),
    (
        "channels differ",
        ValueError,
        r"w must have 4 channels .*\(8, 3, 2, 3\)",
        fprop,
        {"w": np.ones((8, 3, 2, 3), F32)},
    ),
    ("groups and C", ValueError, r"divide the channels of x, got groups=3 and C=4", fprop, {"groups": 3}),
    ("groups and K", ValueError, r"the filters of w, got groups=4 and K=6", fprop, {"w": W[:6], "groups": 4}),
    ("groups is 0", ValueError, r"groups must be at least 1, got 0", fprop, {"groups": 0}),
    ("groups is 1.0", TypeError, r"groups must be an integer, got float", fprop, {"groups": 1.0}),
    ("stride is 0", ValueError, r"stride must be at least 1, got 0", fprop, {"stride": 0}),
    ("stride is negative", ValueError, r"stride must be at least 1, got -2", fprop, {"stride": (1, -2)}),
    (
        "stride has 3 entries",
        ValueError,
        r"stride must be an integer or a pair",
        fprop,
        {"stride": (1, 1, 1)},
    ),
    ("pad is negative", ValueError, r"pad must be at least 0, got -1", fprop, {"pad": -1}),
    ("pad is negative below", ValueError, r"pad\[0\] must be at least 0", fprop, {"pad": ((0, -1), (0, 0))}),
    ("pad is a float", TypeError, r"pad must be an integer, got float", fprop, {"pad": 0.5}),
    ("pad is enormous", ValueError, r"must stay below 2\^29", fprop, {"pad": 2**29}),
    ("result is enormous", ValueError, r"2\^31 elements", fprop, {"pad": 2**17}),
    (
        "filter exceeds image",
        ValueError,
        r"filters of 3 x 2 pixels do not fit x of 2 x 5",
        fprop,
        {"x": X[:, :2].copy()},
    ),
    (
        "b is too long",
        ValueError,
        r"b must have shape \(8,\) \(K,\), got \(9,\)",
        fprop,
        {"b": np.ones(9, F32)},
    ),
    ("b is float64", TypeError, r"b must be float32", fprop, {"b": np.ones(8)}),
    (
        "x is not contiguous",
        ValueError,
        r"x must be C-contiguous, got strides",
        fprop,
        {"x": X[:, :, :, ::-1]},
    ),
    (
        "unknown activation",
        ValueError,
        r"activation must be None or 'relu', got 'gelu'",
        fprop,
        {"activation": "gelu"},
    ),
    (
        "activation is a list",
        ValueError,
        r"activation must be None or 'relu'",
        fprop,
        {"activation": ["relu"]},
    ),
    ("unknown kernel", ValueError, r"'fastest'", fprop, {"kernel": "fastest"}),
    ("another op's kernel", ValueError, r"'conv2d_dgrad_generic'", fprop, {"kernel": "conv2d_dgrad_generic"}),
    (
        "out has a wrong shape",
        ValueError,
        r"out must have shape \(2, 4, 4, 8\), got",
        fprop,
        {"out": DY[:1].copy()},
    ),
    ("out is float64", TypeError, r"out must be float32, got float64", fprop, {"out": np.ones((2, 4, 4, 8))}),
    ("out is not contiguous", ValueError, r"out must be C-contiguous", fprop, {"out": DY[..., ::-1]}),
    ("out is read-only", ValueError, r"out must be writable", fprop, {"out": READ_ONLY}),
    (
        "out overlaps x",
        ValueError,
        r"out must not overlap x",
        fprop,
        {"x": STORAGE[:240].reshape(X.shape), "out": STORAGE[100:356].reshape(DY.shape)},
    ),
    (
        "out overlaps w",
        ValueError,
        r"conv2d_dgrad: out must not overlap w",
        dgrad,
        {"w": STORAGE[:192].reshape(W.shape), "out": STORAGE[:240].reshape(X.shape)},
    ),
    (
        "dy is cut",
        ValueError,
        r"dgrad: dy must have shape \(2, 4, 4, 8\)",
        dgrad,
        {"dy": DY[:, :, :3].copy()},
    ),
    ("dy has rank 3", ValueError, r"dy must have 4 dimensions", dgrad, {"dy": DY[0]}),
    ("x_shape has 3 entries", ValueError, r"x_shape must have 4 entries", dgrad, {"x_shape": (6, 5, 4)}),
    (
        "x_shape holds 0",
        ValueError,
        r"x_shape\[0\] must be at least 1, got 0",
        dgrad,
        {"x_shape": (0, 6, 5, 4)},
    ),
    ("x_shape is a number", TypeError, r"x_shape must be a shape", dgrad, {"x_shape": 4}),
    (
        "w_shape has other channels",
        ValueError,
        r"wgrad: w must have 4 channels",
        wgrad,
        {"w_shape": (8, 3, 2, 2)},
    ),
    (
        "w_shape has other filters",
        ValueError,
        r"must have shape \(2, 4, 4, 9\)",
        wgrad,
        {"w_shape": (9, 3, 2, 4)},
    ),
    (
        "w_shape is negative",
        ValueError,
        r"w_shape\[1\] must be at least 1, got -3",
        wgrad,
        {"w_shape": (8, -3, 2, 4)},
    ),
    ("batches differ", ValueError, r"dy must have shape \(2, 4, 4, 8\)", wgrad, {"dy": DY[:1]}),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(
    ("error", "message", "call", "arguments"), [pytest.param(*b[1:], id=b[0]) for b in BAD]
)
def test_bad_arguments_are_refused_alike_everywhere(error, message, call, arguments, where):
    with ops.on(where):
        assert call() is not None
        with pytest.raises(error, match=message):
            call(**arguments)


def test_the_binding_checks_memory_itself():
    """What ops lets through never reaches a kernel unchecked, even where ops is gone round."""
    ext = devices.emulator().ext
    shape = ext.Conv2dShape(n=2, h=6, w=5, c=4, k=8, r=3, s=2, p=4, q=4)
    y = np.empty((2, 4, 4, 8), F32)
    call = functools.partial(ext.conv2d_fprop, activation=0, workspace=None, stream=0)
    good = {"kernel": "conv2d_fprop_generic", "shape": shape, "y": y, "x": X, "w": W, "b": None}
    call(**good)
    for bad, error in (
        ({"x": X[:1]}, ValueError),
        ({"w": W.astype(np.float64)}, TypeError),
        ({"y": READ_ONLY}, ValueError),
        ({"b": np.ones(7, F32)}, ValueError),
        ({"x": np.ones((2, 6, 10, 4), F32)[:, :, ::2]}, ValueError),
        ({"kernel": "nothing"}, ValueError),
        ({"kernel": "conv2d_fprop_first_layer"}, ValueError),
        ({"activation": 2}, ValueError),
    ):
        with pytest.raises(error):
            call(**{**good, **bad})
    for field, value in (
        ("n", 0),
        ("groups", 3),
        ("stride_h", 0),
        ("pad_w", -1),
        ("c", 2**31 - 1),
        ("pad_h", 2**30),
    ):
        fields = {"n": 2, "h": 6, "w": 5, "c": 4, "k": 8, "r": 3, "s": 2, "p": 4, "q": 4, field: value}
        with pytest.raises((ValueError, TypeError)):
            ext.Conv2dShape(**fields)
    unaligned = np.ones(241, F32)[1:].reshape(X.shape)
    with pytest.raises(ValueError, match="x must start at a multiple of 16 bytes"):
        call(**{**good, "x": unaligned})
