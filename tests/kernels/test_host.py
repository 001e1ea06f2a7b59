"""Compiled kernels of the cpu device: every level of vector instructions against the reference in float64."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from support.helpers import assert_close, same_bits

from pyconvnet import ops
from pyconvnet.common import threads
from pyconvnet.ops import host, operation, reference
from pyconvnet.ops.host import module

LEVELS = list(module.levels())

#: x, w, stride, pad, groups
CONVS = {
    "80sec conv1": ((9, 32, 32, 3), (32, 5, 5, 3), 1, 2, 1),
    "80sec conv2": ((8, 16, 16, 32), (32, 5, 5, 32), 1, 2, 1),
    "80sec conv3": ((17, 8, 8, 32), (64, 5, 5, 32), 1, 2, 1),
    "alexnet conv1": ((2, 43, 43, 3), (96, 11, 11, 3), 4, ((0, 3), (0, 3)), 1),
    "alexnet conv2": ((1, 13, 13, 24), (40, 5, 5, 12), 1, 2, 2),
    "one image": ((1, 8, 8, 32), (64, 5, 5, 32), 1, 2, 1),
    "one of everything": ((1, 1, 1, 1), (1, 1, 1, 1), 1, 0, 1),
    "a pixel, mostly padding": ((3, 1, 1, 5), (7, 3, 3, 5), 1, ((2, 3), (3, 2)), 1),
    "windows in the padding alone": ((2, 3, 3, 20), (40, 3, 3, 20), 1, 4, 1),
    "padding beyond a stride": ((5, 7, 9, 6), (10, 3, 2, 3), (2, 3), ((1, 0), (0, 5)), 2),
    "1x1": ((17, 5, 5, 8), (33, 1, 1, 8), 1, 0, 1),
    "a column": ((2, 19, 1, 7), (31, 4, 1, 7), 1, 0, 1),
    "a row, 33 filters": ((3, 1, 29, 2), (33, 1, 6, 2), 1, ((0, 0), (4, 1)), 1),
    "depthwise": ((3, 6, 6, 12), (12, 3, 3, 1), 1, 1, 12),
    "groups of 17": ((9, 6, 5, 15), (51, 3, 3, 5), 1, 1, 3),
    "rows left over": ((2, 10, 10, 3), (16, 3, 3, 3), 4, 0, 1),
}

#: x, size, stride, pad, ceil_mode
POOLS = {
    "80sec pool1": ((5, 32, 32, 32), 3, 2, 0, True),
    "3 channels": ((3, 11, 8, 3), 3, 2, 1, False),
    "37 channels": ((2, 9, 7, 37), (2, 3), (1, 2), ((1, 0), (0, 2)), True),
    "a pixel": ((1, 1, 1, 1), 1, 1, 0, False),
    "stride beyond the size": ((2, 11, 10, 20), 2, 3, 0, False),
    "the whole image": ((3, 6, 5, 16), (6, 5), 1, 0, False),
    "255 positions": ((1, 19, 21, 18), (15, 17), (3, 2), (7, 8), False),
}

#: x, size, alpha, beta, groups; of three channels and more across channels, of four axes across pixels
NORMS = {
    "80sec": ((3, 16, 16, 32), 3, 0.7, 0.75, 1),
    "alexnet": ((2, 5, 5, 96), 5, 0.9, 0.75, 2),
    "even window": ((2, 7, 6, 18), 4, 1.1, 0.5, 3),
    "window beyond everything": ((2, 3, 2, 5), 15, 0.4, 1.0, 1),
    "a pixel": ((1, 1, 1, 1), 5, 2.0, 0.75, 1),
    "a beta without a kernel": ((2, 3, 4, 8), 3, 0.5, 0.6, 1),
}


@pytest.fixture(params=LEVELS)
def level(request):
    with module.forced(request.param):
        yield request.param


@pytest.fixture
def set_threads():
    before = threads.get_num_threads()
    yield threads.set_num_threads
    threads.set_num_threads(before)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def conv_calls(case, rng):
    """(operation, arguments, options, terms in a sum) of the three directions, arrays float32."""
    x_shape, w_shape, stride, pad, groups = CONVS[case]
    x, w, b = (rng.standard_normal(shape).astype(np.float32) for shape in (x_shape, w_shape, w_shape[0]))
    options = {"stride": stride, "pad": pad, "groups": groups}
    y = ops.conv2d(x.astype(float), w.astype(float), **options)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    terms = int(np.prod(w_shape[1:]))
    yield ops.conv2d, (x, w), options, terms
    yield ops.conv2d, (x, w, b), options | {"activation": "relu"}, terms
    terms = int(np.prod(w_shape[:3])) // groups
    yield ops.conv2d_dgrad, (dy, w, x_shape), options, terms
    yield ops.conv2d_dgrad, (dy, w, x_shape), options | {"mask": x}, terms
    terms = int(np.prod(y.shape[:3]))
    yield ops.conv2d_wgrad, (dy, x, w_shape), options, terms
    yield ops.conv2d_wgrad, (dy, x, w_shape), options | {"bias_grad": b}, terms


def pool_calls(case, rng):
    x_shape, *windows = POOLS[case]
    x = rng.integers(-4, 5, x_shape).astype(np.float32)  # with ties
    y, argmax = ops.max_pool2d(x.astype(float), *windows)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    taps = int(np.prod(windows[0])) if isinstance(windows[0], tuple) else windows[0] ** 2
    yield ops.max_pool2d, (x, *windows), {}, 1
    for include in (False, True):
        yield ops.avg_pool2d, (x, *windows, include), {}, taps
        for mask in ({}, {"mask": x}):
            yield ops.avg_pool2d_backward, (dy, x_shape, *windows, include), mask, taps
    for mask in ({}, {"mask": x}):
        yield ops.max_pool2d_backward, (dy, argmax, x_shape, *windows), mask, taps


def norm_calls(case, rng):
    x_shape, size, alpha, beta, groups = NORMS[case]
    x, dy = (rng.standard_normal(x_shape).astype(np.float32) for _ in range(2))
    made = [a.astype(np.float32) for a in ops.lrn(x.astype(float), size, alpha, beta, 2.0, groups)]
    yield ops.lrn, (x, size, alpha, beta, 2.0, groups), {}, size + 8
    for relu in (False, True):
        yield ops.lrn_backward, (dy, x, *made, size, alpha, beta, groups), {"relu": relu}, size + 8
    made = [a.astype(np.float32) for a in ops.lrn_spatial(x.astype(float), size, alpha, beta, 1.5)]
    yield ops.lrn_spatial, (x, size, alpha, beta, 1.5), {}, size**2 + 8
    yield ops.lrn_spatial_backward, (dy, x, *made, size, alpha, beta), {}, size**2 + 8


def both_calls(case, rng):
    """Normalisation with a pooling behind it: sizes of both."""
    x_shape, *windows = POOLS[case]
    x = rng.standard_normal(x_shape).astype(np.float32)
    options = dict(zip(("size", "stride", "pad", "ceil_mode"), windows, strict=True))
    options |= {"lrn_size": 5, "alpha": 0.7, "beta": 0.75, "k": 2.0, "groups": 1}
    y, argmax = ops.lrn_max_pool2d(x.astype(float), **options)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    yield ops.lrn_max_pool2d, (x,), options, 16
    for relu in (False, True):
        yield ops.lrn_max_pool2d_backward, (dy, argmax, x), options | {"relu": relu}, 300


def pointwise_calls(shape, rng):
    dy, y = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    yield ops.relu, (y,), {}, 1
    yield ops.relu_backward, (dy, y), {}, 1
    yield ops.bias_backward, (dy,), {}, int(np.prod(shape[:-1]))


def optim_calls(lengths, rng):
    w, v, g = rng.standard_normal((3, sum(lengths))).astype(np.float32)
    some = np.arange(len(lengths), dtype=np.float32)
    segments = {"ends": np.cumsum(lengths), "lr_mult": (some + 2) % 3, "weight_decay": some % 4 / 8}
    options = {"hyper": np.array([0.125, 0.75], np.float32), "step": np.array([5]), **segments}
    yield ops.sgd_momentum, (w, v, g), options, 4


def augment_calls(case, rng):
    shape, size = case
    n, height, width, channels = shape
    room = height - size[0], width - size[1]
    crop = np.stack([rng.integers(0, r + 1, n) for r in room], axis=1).astype(np.int32)
    mirror = rng.integers(0, 2, n).astype(np.uint8)
    mirror[-1] = 1
    colour = rng.standard_normal((n, channels)).astype(np.float32)
    means = None, *(rng.uniform(90, 130, s).astype(np.float32) for s in ((channels,), shape[1:]))
    for dtype in (np.uint8, np.float32):
        images = rng.integers(0, 256, shape).astype(dtype)
        for mean in means:
            yield ops.augment, (images, crop, mirror, None, mean), {"size": size}, 1
            yield ops.augment, (images, None, None, colour, mean), {"size": size, "scale": 0.3}, 4
            chosen = rng.integers(0, n, n)
            yield ops.augment, (images, crop, mirror, colour, mean), {"size": size, "indices": chosen}, 4


SHAPES = [(1, 1), (3, 5), (7, 4, 3, 17), (2, 64), (4097, 33), (90000, 3), (2, 70000)]
SEGMENTS = [(1,), (5, 1, 33, 90), (0, 700, 300, 0, 90, 0)]
CROPS = [((1, 1, 1, 1), (1, 1)), ((3, 9, 11, 3), (7, 6)), ((2, 5, 7, 20), (5, 7)), ((17, 8, 8, 3), (8, 8))]
CALLS = [
    *((conv_calls, case) for case in CONVS),
    *((pool_calls, case) for case in POOLS),
    *((norm_calls, case) for case in NORMS),
    *((both_calls, case) for case in POOLS),
    *((pointwise_calls, shape) for shape in SHAPES),
    *((optim_calls, lengths) for lengths in SEGMENTS),
    *((augment_calls, case) for case in CROPS),
]
FAMILIES = (host.augment, host.conv, host.lrn_max_pool, host.norm, host.optim, host.pointwise, host.pool)


def forget():
    operation.forget()
    host.conv._panels.cache_clear()


def with_ids(calls):
    ids = [f"{made.__name__.removesuffix('_calls')} {case}" for made, case in calls]
    return pytest.mark.parametrize(("calls", "case"), calls, ids=ids)


def as_float64(value):
    return value.astype(float) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def blank(like):
    return np.full(like.shape, np.nan if like.dtype.kind == "f" else 251, like.dtype)


def run(op, args, options):
    """The results, in arrays that were full of NaN or are updated, as a tuple."""
    if op is ops.sgd_momentum:
        args, step = [a.copy() for a in args], options["step"].copy()
        op(*args, **options | {"step": step})
        return *args[:2], step
    db = () if options.get("bias_grad") is None else (blank(options["bias_grad"]),)
    options = options | {"bias_grad": db[0]} if db else options
    outs = op.prepare(*args, **options).result  # not made yet
    result = op(*args, **options, out=tuple(map(blank, outs)) if isinstance(outs, tuple) else blank(outs))
    return (*(result if isinstance(result, tuple) else (result,)), *db)


def widened(op, args, options):
    """Arguments and options in float64: images of bytes, too, of which results might be float32."""
    args = args if op is not ops.augment else (args[0].astype(float), *args[1:])
    return tuple(map(as_float64, args)), {name: as_float64(value) for name, value in options.items()}


def in_float64(op, args, options):
    """What the reference says."""
    return run(op, *widened(op, args, options))


@functools.cache
def problems(calls, case):
    """(operation, arguments, options, terms in a sum, what it comes to) of a case: written by none."""
    every = calls(case, np.random.default_rng(5))
    return [(op, args, how, terms, in_float64(op, args, how)) for op, args, how, terms in every]


# ---- what they compute -------------------------------------------------------------------------------------


def test_there_are_levels():
    assert LEVELS[-1] == "generic"
    assert sorted(LEVELS, key=module.levels().get, reverse=True) == LEVELS
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert (" avx2 " in flags and " fma " in flags) <= ("avx2" in LEVELS)


@with_ids(CALLS)
def test_every_level_is_what_the_reference_says_on_any_number_of_threads(
    calls, case, level, set_threads, monkeypatch
):
    """Uncut, as far as the shapes go, and cut into many parts."""

    def right(results, want, terms, op):
        for got, wanted in zip(results, want, strict=True):
            if got.dtype == np.float32:
                assert_close(got, wanted, terms, scale=float(np.abs(wanted).max()) or 1.0, c=4)
            else:
                assert np.array_equal(got, wanted), op.__name__

    for op, args, options, terms, want in problems(calls, case):
        right(run(op, args, options), want, terms, op)
    for family in FAMILIES:
        monkeypatch.setattr(family, "_TASK", family._TASK // 512)  # so that small arrays are shared out, too
    monkeypatch.setattr(host.conv, "_PACKED", 64)
    monkeypatch.setattr(host.conv, "_ADDED", 512)
    forget()  # how calls are cut is known once
    for op, args, options, terms, want in problems(calls, case):
        set_threads(1)
        first = run(op, args, options)
        right(first, want, terms, op)
        for count in (2, 4):
            set_threads(count)
            for a, b in zip(run(op, args, options), first, strict=True):
                assert same_bits(a, b), op.__name__
    forget()


def test_nearly_all_of_these_calls_have_a_kernel(monkeypatch):
    """And what has none is known: another beta, gradients of stride 2 and more for the input."""
    asked, call_for = [], host.call_for

    def listening(function, args, options):
        found = call_for(function, args, options)
        asked.append((function.__name__, found is not None, options.get("stride"), args))
        return found

    monkeypatch.setattr(host, "call_for", listening)
    operation.forget()
    with module.forced(LEVELS[0]):
        for calls, case in CALLS:
            for op, args, options, _, _ in problems(calls, case):
                op.prepare(*args, **options)
                wide, how = widened(op, args, options)
                op.prepare(*wide, **how)
    asked = [one for one in asked if isinstance(one[3][0], np.ndarray)]  # not the checks of what arrays hold
    float32 = [one for one in asked if one[3][0].dtype in (np.float32, np.uint8)]
    for name, has, stride, args in float32:
        strided = name == "conv2d_dgrad" and stride != (1, 1)
        assert has == (not strided and all(np.ndim(value) or value != 0.6 for value in args)), name
    assert {name for name, has, *_ in float32 if has} == {f.__name__ for f in host._KERNELS}
    assert not any(has for _, has, _, args in asked if args[0].dtype == np.float64)
    operation.forget()


def test_an_image_has_its_bits_in_any_batch(level, rng):
    """Whichever images, rows or columns share a tile."""
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((13, 9, 11, 6), (21, 3, 4, 6)))
    whole = ops.conv2d(x, w, pad=2)
    for start, stop in ((0, 1), (3, 5), (5, 13)):
        assert same_bits(ops.conv2d(x[start:stop], w, pad=2), whole[start:stop])


#: All but most convolutions: a product of padding and a filter that is not finite is none of the sum's.
NOT_FINITE = [(conv_calls, "1x1"), (conv_calls, "groups of 17"), *CALLS[len(CONVS) :]]


@functools.cache
def not_finite(calls, case):
    """(operation, arguments with NaN or infinities among them, options, what the reference makes of them)."""
    found = []
    for op, args, options, _, _ in problems(calls, case):
        for bad in (np.nan, np.inf, -np.inf):
            spoilt = [value.copy() if isinstance(value, np.ndarray) else value for value in args]
            for array in spoilt[:2]:
                if isinstance(array, np.ndarray) and array.dtype == np.float32 and op is not ops.conv2d_dgrad:
                    array.reshape(-1)[:: max(3, array.size // 3)] = bad
                if op is ops.conv2d:
                    break
            found.append((op, spoilt, options, in_float64(op, spoilt, options)))
    return found


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@with_ids([one for one in NOT_FINITE if one[1] not in SHAPES[4:]])
def test_what_is_not_finite_fares_as_in_the_reference(calls, case, level):
    for op, args, options, want in not_finite(calls, case):
        for got, wanted in zip(run(op, args, options), want, strict=True):
            if got.dtype.kind != "f":
                continue
            assert np.array_equal(np.isnan(got), np.isnan(wanted)), op.__name__
            finite = ~np.isnan(wanted)
            assert np.array_equal(np.isinf(got) & finite, np.isinf(wanted)), op.__name__
            assert np.array_equal(np.sign(got)[np.isinf(wanted)], np.sign(wanted)[np.isinf(wanted)])


def test_relu_of_nan_and_masks_of_nan(level):
    x = np.array([np.nan, -0.0, 0.0, -1, 1, np.inf, -np.inf] * 7, np.float32)
    assert np.array_equal(ops.relu(x), np.maximum(x, 0), equal_nan=True)
    dy = np.arange(1, x.size + 1, dtype=np.float32)
    assert np.array_equal(ops.relu_backward(dy, x), np.where(x <= 0, 0, dy))


@with_ids([(augment_calls, case) for case in CROPS])
def test_crops_have_the_references_bits(calls, case, level):
    """Each step is rounded by itself."""
    for op, args, options, _, _ in problems(calls, case):
        found = op(*args, **options)
        more = options.get("scale", 1.0), options.get("indices")
        wanted = reference.augment(*args, *more, out=blank(found))
        assert same_bits(found, wanted)


def test_crops_stay_inside_their_images(level):
    """Whatever a caller of the module says: the operation has looked."""
    x, y = np.arange(2 * 5 * 4 * 3, dtype=np.float32).reshape(2, 5, 4, 3), np.zeros((2, 2, 2, 3), np.float32)
    for wild in (-(2**31), -1, 4, 2**31 - 1):
        crop, nothing = np.full((2, 2), wild, np.int32), [None] * 3
        how = level, (*x.shape, 2, 2, 2, 0), 0, 2, 0, x
        module.ext().augment(*how, None, crop, *nothing, 1.0, y)
        assert same_bits(y, x[:, :2, :2] if wild < 0 else x[:, 3:, 2:])
        module.ext().augment(*how, crop[0], None, *nothing, 1.0, y)
        assert same_bits(y, x[[0, 0] if wild < 0 else [1, 1], :2, :2])


def test_arrays_between_the_multiples_of_their_elements(level, rng):
    """Kernels run on copies; what is updated in place is the reference's."""

    def odd(array):
        raw = np.zeros(array.nbytes + 1, np.uint8)
        view = raw[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view

    dy, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 4, 4, 5), (2, 4, 4, 3)))
    dw, db = np.zeros((5, 3, 3, 3), np.float32), np.zeros(5, np.float32)
    odd_dw, odd_db = odd(dw), odd(db)
    ops.conv2d_wgrad(odd(dy), x, dw.shape, pad=1, bias_grad=odd_db, out=odd_dw)
    ops.conv2d_wgrad(dy, x, dw.shape, pad=1, bias_grad=db, out=dw)
    assert same_bits(odd_dw.copy(), dw)
    assert same_bits(odd_db.copy(), db)
    ((_, args, options, terms, (w, *_)),) = problems(optim_calls, SEGMENTS[1])
    mine = [odd(args[0]), *(a.copy() for a in args[1:])]
    ops.sgd_momentum(*mine, **options | {"step": None})
    assert_close(mine[0].copy(), w, terms)
