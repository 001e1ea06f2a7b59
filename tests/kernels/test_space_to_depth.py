"""The space-to-depth layout: images and filters against loops, convolutions against plain images'."""

import itertools

import numpy as np
import pytest
from support.fakes.fake_cuda import Machine
from support.helpers import Scratch, assert_close, same_bits
from support.kernels.bf16 import BF16, assert_rounded
from support.kernels.placing import kernels_of, place

from pyconvnet import ops
from pyconvnet.layers import Conv2d, Linear, MaxPool2d, Normal, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.ops import space_to_depth as depth_ops
from pyconvnet.ops.reference.space_to_depth import Depth
from pyconvnet.plan import Plan

pytestmark = pytest.mark.kernels

F32 = np.dtype(np.float32)
# Crops (h, w), channels, and a convolution's filters, stride and padding.
LAYOUTS = [
    ((9, 8), 3, Depth(3, 2)),
    ((13, 15), 3, Depth(11, 4, ((0, 3), (0, 3)))),
    ((12, 9), 3, Depth((5, 2), 4, 2)),
    ((7, 7), 1, Depth(3, 3, (2, 0))),
    ((10, 6), 4, Depth((1, 4), 2, ((5, 0), (1, 2)))),
    ((5, 11), 2, Depth(2, 5, 1)),
    ((4, 6), 33, Depth(2, 2)),
    ((6, 5), 3, Depth(3, 1, 1)),
]


def channels(count, stride, dtype):
    per = 4 if dtype == F32 else 8
    return (stride * stride * count + per - 1) // per * per


def regrouped(x, depth, dtype):
    """By the formula, pixel by pixel."""
    (r, s) = depth.size if isinstance(depth.size, tuple) else (depth.size,) * 2
    pad = depth.pad if isinstance(depth.pad, tuple) else (depth.pad,) * 2
    (top, bottom), (left, right) = [p if isinstance(p, tuple) else (p, p) for p in pad]
    n, height, width, count = x.shape
    t = depth.stride
    p, q = (height + top + bottom - r) // t + 1, (width + left + right - s) // t + 1
    shape = (n, p + (r + t - 1) // t - 1, q + (s + t - 1) // t - 1, channels(count, t, dtype))
    out = np.zeros(shape, x.dtype)
    for i, j, a, b in itertools.product(range(shape[1]), range(shape[2]), range(t), range(t)):
        row, col, at = t * i + a - top, t * j + b - left, (a * t + b) * count
        if 0 <= row < height and 0 <= col < width:
            out[:, i, j, at : at + count] = x[:, row, col]
    return out


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_augment_writes_it(dtype, misaligned, any_device, schedule, run_on, rng):
    """Bit for bit the crops that augment writes without it, regrouped; zeros around them, never a mean."""
    for k, ((h, w), count, depth) in enumerate(LAYOUTS):
        images = rng.integers(0, 256, (3, h + 2, w + 3, count)).astype((np.uint8, np.float32)[k % 2])
        crop = np.array([[0, 0], [2, 3], [1, 2]], np.int32)
        mirror = np.array([1, 0, 1], np.uint8) if k % 3 else None
        colour = rng.standard_normal((3, count)).astype(np.float32)
        mean = rng.uniform(90, 130, images.shape[1:] if k % 2 else (count,)).astype(np.float32)
        with run_on(any_device):
            arrays = [place(any_device, a, misaligned) for a in (images, crop, mirror, colour, mean)]
            plain = any_device.to_numpy(ops.augment(*arrays, size=(h, w), scale=0.3))
            want = regrouped(plain, depth, dtype).astype(dtype)
            for kernel in kernels_of_depth(any_device, images.shape, (h, w), depth):
                out = place(any_device, np.full(want.shape, np.nan, dtype), misaligned)
                got = ops.augment(*arrays, size=(h, w), scale=0.3, depth=depth, out=out, kernel=kernel)
                assert got is out
                assert same_bits(any_device.to_numpy(out), want)


def kernels_of_depth(device, shape, size, depth):
    if device.kind == "cpu":
        return [None]
    return ops.kernels("augment", shape, size, depth=depth, device=device)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_images_as_they_are(dtype, any_device, run_on, rng):
    for (h, w), count, depth in LAYOUTS:
        x = rng.standard_normal((2, h, w, count)).astype(np.float32)
        want = regrouped(x, depth, dtype).astype(dtype)
        with run_on(any_device):
            out = place(any_device, np.full(want.shape, np.nan, dtype))
            assert depth_ops.images_to_depth(any_device.asarray(x), depth, out=out) is out
        assert same_bits(any_device.to_numpy(out), want)


def test_pixels_outside_the_image_are_marked(device, rng):
    """On CUDA nobody reads the crops beforehand: where one leaves its image is NaN, padding is not."""
    depth, images = Depth(3, 2, 1), rng.integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
    shape = depth.shape("test", (4, 4, 3), F32)
    extent = device.ext.AugmentShape(
        n=2, h=6, w=6, c=3, crop_h=4, crop_w=4, mean_pixels=0, side=2, pad_h=1, pad_w=1,
        to_h=shape[0], to_w=shape[1], to_c=shape[2],
    )  # fmt: skip
    out = device.empty((2, *shape))
    crop = device.asarray(np.array([[0, 0], [-1, 4]], np.int32))
    args = (device.asarray(images), None, crop, None, None, None, 1.0, device.stream())
    device.ext.augment("augment_depth", extent, out, *args)
    y = device.to_numpy(out)
    assert same_bits(y[:1], regrouped(images[:1, :4, :4].astype(np.float32), depth, F32))
    inside = regrouped(np.ones((1, 4, 4, 3), np.float32), depth, F32)[0] == 1
    assert np.isnan(y[1][inside]).any()
    assert not y[1][~inside].any()


# ---- filters -----------------------------------------------------------------------------------------------
FILTERS = [((5, 11, 11, 3), 4), ((2, 3, 4, 1), 3), ((4, 1, 1, 4), 2), ((70, 5, 5, 2), 3), ((3, 3, 2, 33), 1)]


@pytest.mark.parametrize("misaligned", [False, True])
def test_filters(misaligned, any_device, schedule, run_on, rng):
    for (k, r, s, c), t in FILTERS:
        for dtype in (F32, BF16):
            w = rng.standard_normal((k, r, s, c)).astype(dtype)
            to = (k, -(-r // t), -(-s // t), channels(c, t, dtype))
            want = np.zeros(to, dtype)
            for y, x in itertools.product(range(r), range(s)):
                at = (y % t * t + x % t) * c
                want[:, y // t, x // t, at : at + c] = w[:, y, x]
            with run_on(any_device):
                here = place(any_device, w, misaligned)
                for kernel in kernels_of(any_device, "filters_to_depth", (k, r, s, c), t):
                    out = place(any_device, np.full(to, np.nan, dtype), misaligned)
                    assert depth_ops.filters_to_depth(here, t, out=out, kernel=kernel) is out
                    assert same_bits(any_device.to_numpy(out), want)
                gradient = rng.standard_normal(to).astype(np.float32)
                gradient[want != 0] = w.astype(np.float32).ravel()[0]  # elsewhere what is to be dropped
                for kernel in kernels_of(any_device, "filters_from_depth", (k, r, s, c), t):
                    wide = want.astype(np.float32)
                    out = place(any_device, np.full((k, r, s, c), np.nan, np.float32), misaligned)
                    depth_ops.filters_from_depth(
                        place(any_device, wide, misaligned), (k, r, s, c), t, out=out, kernel=kernel
                    )
                    assert same_bits(any_device.to_numpy(out), w.astype(np.float32))
                    depth_ops.filters_from_depth(any_device.asarray(gradient), (k, r, s, c), t, out=out)
                    assert (any_device.to_numpy(out) == w.astype(np.float32).ravel()[0]).all()


def test_every_row_has_been_run(device):
    reached = {
        name
        for (h, w), count, depth in LAYOUTS
        for name in ops.kernels("augment", (3, h + 2, w + 3, count), (h, w), depth=depth, device=device)
    }
    assert reached == {name for name in device.ext.augment_table() if "depth" in name}
    for op in ("filters_to_depth", "filters_from_depth"):
        assert ops.kernels(op, (1, 3, 3, 3), 2, device=device) == getattr(device.ext, f"{op}_table")()


# ---- convolutions ------------------------------------------------------------------------------------------
CONVS = [  # images, filters, stride, padding
    ((2, 35, 31, 3), (96, 11, 11), 4, ((0, 3), (0, 3))),
    ((1, 9, 8, 3), (8, 3, 3), 2, 1),
    ((3, 12, 13, 1), (4, 5, 4), 3, (2, 0)),
]


def both(device, case, rng, dtype=F32, precision=None):
    """(x, w, b, dy) and their results in the space-to-depth layout, workspaces and scratch arrays given."""
    (n, h, width, c), (k, r, s), stride, pad = case
    depth = Depth((r, s), stride, pad)
    x, w = rng.standard_normal((n, h, width, c)).astype(np.float32), rng.standard_normal((k, r, s, c))
    x, w, b = x.astype(dtype), w.astype(dtype), rng.standard_normal(k).astype(np.float32)
    deep = device.asarray(regrouped(x, depth, dtype))
    to = depth_ops.filters_shape(w.shape, stride, dtype)
    options = {"stride": stride, "precision": precision, "workspace": Scratch(device)}
    y = depth_ops.conv2d_depth(
        deep, device.asarray(w), device.asarray(b), activation="relu",
        filters=place(device, np.full(to, np.nan, dtype)), **options,
    )  # fmt: skip
    dy = rng.standard_normal(y.shape).astype(dtype)
    out = place(device, np.full(w.shape, np.nan, np.float32))
    filters = place(device, np.full(to, np.nan, np.float32))
    dw = depth_ops.conv2d_depth_wgrad(device.asarray(dy), deep, w.shape, out=out, filters=filters, **options)
    assert dw is out
    return (x, w, b, dy), device.to_numpy(y), device.to_numpy(dw)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("case", CONVS, ids=str)
def test_convolutions(case, dtype, any_device, run_on, rng):
    with run_on(any_device):
        (x, w, b, dy), y, dw = both(any_device, case, rng, dtype)
    wide = [a.astype(np.float64) for a in (x, w, b, dy)]
    options = {"stride": case[2], "pad": case[3]}
    want = ops.conv2d(*wide[:3], activation="relu", **options)
    terms = w[0].size
    if dtype == BF16:
        assert_rounded(y, want, terms, np.abs(want).max())
    else:
        assert_close(y, want, terms, np.abs(want).max())
    want = ops.conv2d_wgrad(wide[3], wide[0], w.shape, **options)
    assert dw.dtype == np.float32
    assert_close(dw, want, dy[..., 0].size, np.abs(want).max())


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_the_same_bits_as_from_plain_images(precision, device, run_on, rng):
    """conv2d's own kernel for first layers does the same with what it rearranges at each call."""
    case = CONVS[0]
    with run_on(device):
        (x, w, b, dy), y, dw = both(device, case, rng, precision=precision)
        options = {"stride": case[2], "pad": case[3], "precision": precision}
        kernel = {k: f"conv2d_{k}_first_layer" for k in ("fprop", "wgrad")}
        x, w, b, dy = (device.asarray(a) for a in (x, w, b, dy))
        want = ops.conv2d(x, w, b, activation="relu", kernel=kernel["fprop"], **options)
        assert same_bits(y, device.to_numpy(want))
        want = ops.conv2d_wgrad(dy, x, w.shape, kernel=kernel["wgrad"], **options)
        assert same_bits(dw, device.to_numpy(want))


def test_float64_on_the_cpu(rng):
    (n, h, width, c), (k, r, s), stride, pad = CONVS[0]
    x, w = rng.standard_normal((n, h, width, c)), rng.standard_normal((k, r, s, c))
    depth = Depth((r, s), stride, pad)
    deep = depth_ops.images_to_depth(x, depth)
    assert deep.dtype == np.float64
    np.testing.assert_allclose(
        depth_ops.conv2d_depth(deep, w, stride=stride),
        ops.conv2d(x, w, stride=stride, pad=pad),
        rtol=0,
        atol=1e-11,
    )


# ---- plans -------------------------------------------------------------------------------------------------
def net(stride=4, pad=((0, 3), (0, 3)), **options):
    out = Network("first", (20, 23, 3), {"augment": {}})
    conv = Conv2d(8, (7, 5), stride=stride, pad=pad, activation="relu", init=Normal(0.1), **options)
    out.add(conv, "conv1").add(MaxPool2d(3, 2), "pool1")
    return out.add(Linear(3, init=Normal(0.2)), "fc2").add(SoftmaxCrossEntropy(topk=2), "loss")


def train(plan, preprocessed, steps=3):
    rng = np.random.default_rng(5)
    if preprocessed:
        mean = rng.uniform(90, 130, (24, 26, 3)).astype(np.float32)
        plan.set_preprocessing(Preprocessing((24, 26, 3), (20, 23), mean=mean, scale=1 / 60))
    plan.set_weight_decay(0.003)
    for k in range(steps):
        plan.set_hyper(0.05 / (k + 1), 0.9)
        n = 6 - k  # the last rows are then another batch's
        labels = rng.integers(3, size=n)
        if preprocessed:
            images = rng.integers(0, 256, (n, 24, 26, 3)).astype(np.uint8)
            draws = {
                "crop": rng.integers(0, 4, (n, 2)).astype(np.int32),
                "mirror": rng.integers(0, 2, n).astype(np.uint8),
                "colour": rng.standard_normal((n, 3)).astype(np.float32),
            }
            plan.feed(images, labels, draws)
        else:
            plan.feed(rng.standard_normal((n, 20, 23, 3)).astype(np.float32), labels)
        plan.step(n)
    return {**plan.get_parameters(), "metrics": plan.get_metrics()}


@pytest.mark.parametrize("preprocessed", [False, True], ids=["as they are", "preprocessed"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("where", [1, 2, "replicas"], ids=str)
def test_a_plan_trains_to_what_it_does_with_images_as_they_are(where, precision, preprocessed):
    options = {"replicas": 2} if where == "replicas" else {}
    devices = ["emulator"] * (2 if options else where)
    plans = [Plan(net(), devices, 6, precision=precision, fuse=fuse, **options) for fuse in (None, False)]
    assert plans[0].depth == Depth((7, 5), 4, ((0, 3), (0, 3)))
    assert plans[1].depth is None
    assert plans[0].shards[0].input.shape[1:] == (6, 7, 48)
    got, want = (train(plan, preprocessed) for plan in plans)
    bound = 0.02 if precision == "bf16" else 1e-3 if precision == "tf32" else 1e-5
    for name, value in want.items():
        assert np.linalg.norm(got[name] - value) <= bound * np.linalg.norm(value), name
    with pytest.raises(ValueError, match="the images are kept as the first convolution reads them"):
        plans[0].get_output("input")


@pytest.mark.parametrize("graph", "01")
def test_on_cuda_it_is_the_emulators_bit_for_bit(monkeypatch, graph):
    monkeypatch.setenv("PYCONVNET_GRAPH", graph)
    for precision, preprocessed in (("fp32", True), ("bf16", False)):
        want = train(Plan(net(), ["emulator"] * 2, 6, precision=precision), preprocessed)
        with monkeypatch.context() as patch:
            Machine(2, seed=1).install(patch)
            plan = Plan(net(), ["cuda:0", "cuda:1"], 6, precision=precision)
            assert plan.depth is not None
            got = train(plan, preprocessed)
        assert all(same_bits(got[name], value) for name, value in want.items())


def test_where_plans_keep_images_as_they_are():
    assert Plan(net(), "emulator", 4).depth is not None
    assert Plan(net(frozen=True), "emulator", 4).depth is not None
    assert Plan(net(2, 0), "emulator", 4, train=False).depth == Depth((7, 5), 2, ((0, 0), (0, 0)))
    for plan in (
        Plan(net(), "cpu", 4),
        Plan(net(), "cpu", 4, fuse=True),
        Plan(net(), "emulator", 4, fuse=False),
        Plan(net(), "emulator", 4, input_gradient=True),
        Plan(net(1, 0), "emulator", 4),
        Plan(net(5, 0), "emulator", 4),
        Plan(net((2, 3), 0), "emulator", 4),
    ):
        assert plan.depth is None
        assert plan.input.shape == (4, 20, 23, 3)
    two = net()
    two.add(Conv2d(2, 3, stride=2), "other", inputs="input").add(Linear(3), "scores")
    two.add(SoftmaxCrossEntropy(topk=2), "second")
    assert Plan(two, "emulator", 4).depth is None


# ---- refusals ----------------------------------------------------------------------------------------------
IMAGES, W = np.zeros((2, 9, 9, 3), np.float32), np.zeros((4, 3, 3, 3), np.float32)
DEEP = np.zeros((2, 5, 5, 12), np.float32)


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: depth_ops.images_to_depth(IMAGES, (3, 2)),
            TypeError,
            "images_to_depth: depth must be a Depth, got tuple",
        ),
        (
            lambda: depth_ops.images_to_depth(IMAGES, Depth(11, 2)),
            ValueError,
            "filters of 11 x 11 pixels do not fit",
        ),
        (
            lambda: depth_ops.images_to_depth(IMAGES, Depth(3, 0)),
            ValueError,
            "stride must be at least 1, got 0",
        ),
        (
            lambda: depth_ops.images_to_depth(IMAGES, Depth(3, 65)),
            ValueError,
            "stride must be at most 64, got 65",
        ),
        (
            lambda: depth_ops.images_to_depth(IMAGES, Depth(3, 2, -1)),
            ValueError,
            "depth.pad must be at least 0",
        ),
        (
            lambda: depth_ops.images_to_depth(IMAGES, Depth(3, 2), out=IMAGES),
            ValueError,
            r"out must have shape \(2, 5, 5, 12\), got \(2, 9, 9, 3\)",
        ),
        (lambda: depth_ops.filters_to_depth(W[0], 2), ValueError, "w must have 4 dimensions"),
        (lambda: depth_ops.filters_to_depth(W.astype(int), 2), TypeError, "w must be float32"),
        (lambda: depth_ops.filters_to_depth(W, 2.0), TypeError, "stride must be an integer, got float"),
        (
            lambda: depth_ops.filters_from_depth(W, (4, 3, 3, 3), 2),
            ValueError,
            r"filters must have shape \(4, 2, 2, 12\) \(of bfloat16 arrays \(4, 2, 2, 16\)\)",
        ),
        (
            lambda: depth_ops.filters_from_depth(W.astype(BF16), W.shape, 2),
            TypeError,
            "filters must be float32",
        ),
        (
            lambda: depth_ops.conv2d_depth(IMAGES, W, stride=2),
            ValueError,
            "x must have 12 channels, those of the space-to-depth layout",
        ),
        (
            lambda: depth_ops.conv2d_depth(DEEP, W.astype(BF16), stride=2),
            TypeError,
            "w must be float32 like x",
        ),
        (
            lambda: depth_ops.conv2d_depth_wgrad(DEEP, DEEP, (12, 3, 3, 3), stride=2),
            ValueError,
            r"dy must have shape \(2, 4, 4, 12\)",
        ),
        (
            lambda: depth_ops.conv2d_depth_wgrad(DEEP, IMAGES, (12, 3, 3, 3), stride=2),
            ValueError,
            "conv2d_depth_wgrad: x must have 12 channels",
        ),
    ],
)
def test_refuses(call, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        call()
