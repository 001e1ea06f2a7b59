"""SGD with momentum: the paper's formula step by step on every device; ragged and frozen segments."""

import itertools

import numpy as np
import pytest
from support.helpers import assert_close, same_bits
from support.kernels.placing import place

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.common.precision import BFLOAT16

pytestmark = pytest.mark.kernels

# Lengths of the segments; the kernel's tile has 2048 elements.
SEGMENTS = [
    [1],
    [3],
    [2048],
    [2049, 31],
    [5, 1, 1, 4090, 3, 1],
    [0, 7, 0, 0, 6000, 0],
    [4096, 2048, 2048, 100],
    [1] * 50 + [10_000] + [3] * 30,
    [96 * 363, 96, 256, 384 * 27, 384, 4096 * 12, 4096, 1000],  # proportions of AlexNet's
    [2000, 150_000, 7, 1, 140_000, 5],  # several rounds of sgd_momentum_beside's blocks
]


def problem(lengths, rng, dtype=np.float32):
    count, segments = sum(lengths), len(lengths)
    w, v, g = rng.standard_normal((3, count)).astype(dtype)
    ends = np.cumsum(lengths).astype(np.int64)
    lr_mult = rng.choice([1.0, 2.0, 0.5, 0.0], segments).astype(dtype)
    weight_decay = rng.choice([0.0, 5e-4, 0.3], segments).astype(dtype)
    return w, v, g, ends, lr_mult, weight_decay


def named(segments, dev=None):
    """The arrays that describe the segments, as keywords; on a device, where one is given."""
    found = dict(zip(("ends", "lr_mult", "weight_decay"), segments, strict=True))
    return {name: dev.asarray(array) if dev else array for name, array in found.items()}


def paper(w, v, g, lr, momentum, ends, lr_mult, weight_decay):
    """Section 5, element by element in float64: v <- 0.9 v - 0.0005 eps w - eps dL/dw, w <- w + v."""
    w, v = w.astype(np.float64), v.astype(np.float64)
    start = 0
    for end, multiplier, decay in zip(
        ends, lr_mult.astype(np.float64), weight_decay.astype(np.float64), strict=True
    ):
        s, start = slice(start, end), end
        if multiplier == 0:
            continue
        eps = lr * multiplier
        v[s] = momentum * v[s] - decay * eps * w[s] - eps * g[s]
        w[s] += v[s]
    return w, v


@pytest.mark.parametrize("misaligned", [False, True])
def test_kernels_follow_the_paper(misaligned, device, schedule, run_on, rng):
    for lengths in SEGMENTS:
        w, v, g, *segments = problem(lengths, rng)
        with run_on(device):
            for kernel in ops.kernels("sgd_momentum", w.size, len(lengths), device=device):
                want_w, want_v = w.astype(np.float64), v.astype(np.float64)
                on_w, on_v = place(device, w, misaligned), place(device, v, misaligned)
                for step, lr in enumerate([0.1, 0.1, 0.01]):  # the same device array is read anew every step
                    hyper = np.array([lr, 0.9], np.float32)
                    gradient = (g * (step + 1)).astype(np.float32)
                    ops.sgd_momentum(
                        on_w,
                        on_v,
                        place(device, gradient, misaligned),
                        hyper=device.asarray(hyper),
                        kernel=kernel,
                        **named(segments, device),
                    )
                    want_w, want_v = paper(want_w, want_v, gradient, *hyper.astype(np.float64), *segments)
                assert_close(device.to_numpy(on_w), want_w, 9, scale=np.abs(want_w).max())
                assert_close(device.to_numpy(on_v), want_v, 9, scale=np.abs(want_v).max() + np.abs(v).max())


def rows(dev):
    """The names to call an operation with: of every row, on the cpu of none."""
    return [None] if dev.kind == "cpu" else list(ops.kernels("sgd_momentum", 1, 1, device=dev))


@pytest.mark.parametrize("misaligned", [False, True])
def test_rows_have_the_same_bits(misaligned, device, schedule, run_on, rng):
    """A plan updates some parameters by one row, some by another; together or piece by piece."""
    for lengths in SEGMENTS:
        w, v, g, *segments = problem(lengths, rng)
        options = named(segments, device)
        results = []
        with run_on(device):
            for kernel in rows(device):
                on = [place(device, a, misaligned) for a in (w, v, g, np.full(w.shape, 7, BFLOAT16))]
                hyper = device.asarray(np.array([0.1, 0.9], np.float32))
                ops.sgd_momentum(*on[:3], hyper=hyper, w_bf16=on[3], **options, kernel=kernel)
                results.append([device.to_numpy(a) for a in on])
        assert len(results) == 2
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_reference_follows_the_paper(dtype, rng):
    for lengths in [*SEGMENTS, [100_000, 40_000]]:
        w, v, g, *segments = problem(lengths, rng, dtype)
        hyper = np.array([0.1, 0.9], dtype)
        want_w, want_v = paper(w, v, g, *hyper.astype(np.float64), *segments)
        ops.sgd_momentum(w, v, g, hyper=hyper, **named(segments))
        eps = np.finfo(dtype).eps
        assert_close(w, want_w, 4, scale=np.abs(want_w).max(), eps=eps)
        assert_close(v, want_v, 4, scale=max(1.0, np.abs(want_v).max()), eps=eps)


@pytest.mark.parametrize("misaligned", [False, True])
def test_frozen_segments_keep_every_bit(misaligned, any_device, run_on, rng):
    lengths = [5, 3000, 2048, 7, 4096, 1]
    w, v, g, ends, lr_mult, weight_decay = problem(lengths, rng)
    lr_mult[:] = [1, 0, 1, 0, 0, 1]
    w[10:13] = [np.nan, -np.inf, 1e-45]  # inside a frozen segment
    g[6000:6100] = np.nan
    frozen = np.repeat(lr_mult == 0, lengths)
    for kernel in rows(any_device):
        with run_on(any_device):
            on_w, on_v = place(any_device, w, misaligned), place(any_device, v, misaligned)
            ops.sgd_momentum(
                on_w,
                on_v,
                any_device.asarray(g),
                hyper=any_device.asarray(np.array([0.1, 0.9], np.float32)),
                ends=any_device.asarray(ends),
                lr_mult=any_device.asarray(lr_mult),
                weight_decay=any_device.asarray(weight_decay),
                kernel=kernel,
            )
        for before, after in [(w, any_device.to_numpy(on_w)), (v, any_device.to_numpy(on_v))]:
            assert np.array_equal(before[frozen].view(np.int32), after[frozen].view(np.int32))
            assert (before[~frozen] != after[~frozen]).all()


@pytest.mark.parametrize("misaligned", [False, True])
def test_the_copy_is_the_rounding_of_the_weights(misaligned, any_device, schedule, run_on, rng):
    """Of every segment but the frozen ones, whose copy stays; w and v have the bits of a step without it."""
    for lengths in SEGMENTS:
        w, v, g, *segments = problem(lengths, rng)
        options = named(segments, any_device)
        hyper = any_device.asarray(np.array([0.1, 0.9], np.float32))
        frozen = np.repeat(segments[1] == 0, lengths)
        results = []
        with run_on(any_device):
            copy = place(any_device, np.full(w.shape, 7, BFLOAT16), misaligned)
            for w_bf16 in (None, copy):
                on = [place(any_device, a, misaligned and a is not g) for a in (w, v, g)]
                ops.sgd_momentum(*on, hyper=hyper, w_bf16=w_bf16, **options)
                results.append([any_device.to_numpy(a) for a in on])
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True))
        want = np.where(frozen, BFLOAT16.type(7), results[1][0].astype(BFLOAT16))
        assert same_bits(any_device.to_numpy(copy), want)


def test_kernel_leaves_what_no_segment_covers(device, rng):
    """On CUDA nobody reads the ends beforehand; the kernel is asked directly."""
    w, v, g = rng.standard_normal((3, 5000)).astype(np.float32)
    extent = device.ext.SgdShape(count=5000, segments=2)
    for kernel, ends in itertools.product(rows(device), ([10, 3000], [4000, 100], [-5, 3], [0, 0])):
        last = max(0, *ends)
        on_w, on_v = device.asarray(w.copy()), device.asarray(v.copy())
        device.ext.sgd_momentum(
            kernel,
            extent,
            on_w,
            on_v,
            None,
            None,
            device.asarray(g),
            device.asarray(np.array([0.1, 0.9], np.float32)),
            device.asarray(np.array(ends, np.int64)),
            device.asarray(np.ones(2, np.float32)),
            device.asarray(np.zeros(2, np.float32)),
            device.stream(),
        )
        assert np.array_equal(device.to_numpy(on_w)[last:], w[last:])
        assert np.array_equal(device.to_numpy(on_v)[last:], v[last:])


def test_one_step_by_hand(any_device, run_on):
    """w = 1, v = 0.5, g = 2: v becomes 0.9 * 0.5 - 0.0005 * 0.1 * 1 - 0.1 * 2 = 0.24995, w 1.24995."""
    f = lambda *values: any_device.asarray(np.array(values, np.float32))  # noqa: E731
    w, v = f(1), f(0.5)
    with run_on(any_device):
        ops.sgd_momentum(
            w,
            v,
            f(2),
            hyper=f(0.1, 0.9),
            ends=any_device.asarray(np.array([1])),
            lr_mult=f(1),
            weight_decay=f(0.0005),
        )
    np.testing.assert_allclose(any_device.to_numpy(v), [0.24995], rtol=1e-6)
    np.testing.assert_allclose(any_device.to_numpy(w), [1.24995], rtol=1e-6)


@pytest.mark.parametrize("misaligned", [False, True])
def test_step_counts_updates(misaligned, any_device, schedule, run_on, rng):
    """By one a call, on grids of one block and of many, also where everything is frozen; else no change."""
    counts, results = [], []
    for kernel, lengths in itertools.product(rows(any_device), ([3], [2048], [5, 1, 9000, 7])):
        w, v, g, ends, lr_mult, weight_decay = problem(lengths, rng)
        for multiplier in (lr_mult, np.zeros_like(lr_mult)):
            arguments = {"ends": ends, "lr_mult": multiplier, "weight_decay": weight_decay}
            arguments["hyper"] = np.array([0.1, 0.9], np.float32)
            arguments = {name: any_device.asarray(a) for name, a in arguments.items()}
            step = place(any_device, np.array([2**40]), misaligned)
            with run_on(any_device):
                for counter in ({"step": step}, {}):
                    on_w, on_v = place(any_device, w), place(any_device, v)
                    for _ in range(3):
                        ops.sgd_momentum(
                            on_w, on_v, any_device.asarray(g), **counter, **arguments, kernel=kernel
                        )
                    results.append([any_device.to_numpy(a).copy() for a in (on_w, on_v)])
            assert all(np.array_equal(a, b) for a, b in zip(*results[-2:], strict=True))
            counts.append(int(any_device.to_numpy(step)[0]) - 2**40)
    assert counts == [3] * 6 * len(rows(any_device))


def test_devices_agree_to_rounding(run_on, rng):
    w, v, g, *segments = problem([100, 9000, 3], rng)
    results = []
    for dev in (devices.cpu(), devices.emulator()):
        with run_on(dev):
            a, b = w.copy(), v.copy()
            ops.sgd_momentum(a, b, g, hyper=np.array([0.05, 0.9], np.float32), **named(segments))
            results.append((a, b))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


def test_every_row_has_been_run(device):
    reached = {
        k
        for lengths in SEGMENTS
        for k in ops.kernels("sgd_momentum", sum(lengths), len(lengths), device=device)
    }
    assert reached == set(device.ext.sgd_momentum_table())


def call(**changes):
    f = np.float32
    arguments = {
        "w": np.zeros(8, f),
        "v": np.zeros(8, f),
        "g": np.zeros(8, f),
        "hyper": np.zeros(2, f),
        "ends": np.array([3, 8]),
        "lr_mult": np.ones(2, f),
        "weight_decay": np.zeros(2, f),
    } | changes
    w, v, g = (arguments.pop(k) for k in "wvg")
    ops.sgd_momentum(w, v, g, **arguments)


READ_ONLY = np.zeros(8, np.float32)
READ_ONLY.flags.writeable = False
SHARED = np.zeros(8, np.float32)
TWO = np.array([3, 8])


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"w": np.zeros((2, 4), np.float32)},
            ValueError,
            r"sgd_momentum: w must have 1 dimension \(count\), got shape \(2, 4\)",
        ),
        ({"w": np.zeros(0, np.float32)}, ValueError, "w must not be empty"),
        ({"w": np.zeros(16, np.float32)[::2]}, ValueError, "w must be C-contiguous"),
        ({"w": READ_ONLY}, ValueError, "w must be writable"),
        ({"v": READ_ONLY}, ValueError, "v must be writable"),
        ({"v": np.zeros(7, np.float32)}, ValueError, r"v must have shape \(8,\), got \(7,\)"),
        ({"g": np.zeros(9, np.float32)}, ValueError, r"g must have shape \(8,\) like w, got \(9,\)"),
        ({"g": np.zeros(8)}, TypeError, "g must be float32"),
        ({"g": [0.0] * 8}, TypeError, "g must be a NumPy or CUDA array, got list"),
        (
            {"hyper": np.zeros(3, np.float32)},
            ValueError,
            r"hyper must have shape \(2,\) \[lr, momentum\], got \(3,\)",
        ),
        ({"ends": np.array([3, 8], np.int32)}, TypeError, "ends must be int64, got int32"),
        ({"ends": np.array([3, 7])}, ValueError, "ends must end at the 8 elements of w, got 7"),
        ({"ends": np.array([9, 8])}, ValueError, r"ends must not fall, got \[9, 8\]"),
        ({"ends": np.array([-1, 8])}, ValueError, "ends must not fall"),
        (
            {"lr_mult": np.ones(3, np.float32)},
            ValueError,
            r"lr_mult must have shape \(2,\) like ends, got \(3,\)",
        ),
        (
            {"weight_decay": np.ones(1, np.float32)},
            ValueError,
            r"weight_decay must have shape \(2,\) like ends",
        ),
        ({"step": np.zeros(1, np.int32)}, TypeError, "step must be int64, got int32"),
        ({"w_bf16": np.zeros(8, np.float32)}, TypeError, "w_bf16 must be bfloat16, got float32"),
        (
            {"w_bf16": np.zeros(7, BFLOAT16)},
            ValueError,
            r"w_bf16 must have shape \(8,\), got \(7,\)",
        ),
        (
            {n: np.zeros(8 if n in "wvg" else 2, BFLOAT16) for n in ("w", "v", "g", "hyper")}
            | {n: np.zeros(2, BFLOAT16) for n in ("lr_mult", "weight_decay")},
            TypeError,
            "w must be float32, got bfloat16, too coarse",
        ),
        ({"step": np.zeros(2, np.int64)}, ValueError, r"step must have shape \(1,\), got \(2,\)"),
        ({"step": np.array(0)}, ValueError, r"step must have shape \(1,\), got \(\)"),
        ({"step": 3}, TypeError, "step must be a NumPy or CUDA array, got int"),
        ({"step": READ_ONLY.view(np.int64)[:1]}, ValueError, "step must be writable"),
        ({"w": SHARED, "step": SHARED[2:4].view(np.int64)}, ValueError, "step must not overlap w"),
        ({"ends": TWO, "step": TWO[:1]}, ValueError, "step must not overlap ends"),
        ({"w": SHARED, "v": SHARED}, ValueError, "v must not overlap w"),
        ({"w": SHARED, "g": SHARED}, ValueError, "w must not overlap g"),
    ],
)
def test_refuses(changes, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        call(**changes)


def test_the_good_call_of_the_refusals_is_good():
    for where in ("cpu", "emulator"):
        with ops.on(where):
            call()
