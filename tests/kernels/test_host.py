"""Compiled kernels of the cpu device: every level of vector instructions against the reference in float64."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support.helpers import assert_close, same_bits

import pyconvnet
from pyconvnet import ops
from pyconvnet.common import threads
from pyconvnet.ops import host, operation
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
    yield ops.conv2d_wgrad, (dy, x, w_shape), options, int(np.prod(y.shape[:3]))


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
    y, argmax = ops.lrn_max_pool2d(x, **options)
    dy = rng.standard_normal(y.shape).astype(np.float32)
    yield ops.lrn_max_pool2d, (x,), options, 16
    for relu in (False, True):
        yield ops.lrn_max_pool2d_backward, (dy, argmax, x), options | {"relu": relu}, 300


def pointwise_calls(shape, rng):
    dy, y = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    yield ops.relu, (y,), {}, 1
    yield ops.relu_backward, (dy, y), {}, 1
    yield ops.bias_backward, (dy,), {}, int(np.prod(shape[:-1]))


SHAPES = [(1, 1), (3, 5), (7, 4, 3, 17), (2, 64), (4097, 33), (90000, 3), (2, 300000)]
CALLS = [
    *((conv_calls, case) for case in CONVS),
    *((pool_calls, case) for case in POOLS),
    *((norm_calls, case) for case in NORMS),
    *((both_calls, case) for case in POOLS),
    *((pointwise_calls, shape) for shape in SHAPES),
]
every_call = pytest.mark.parametrize(("calls", "case"), CALLS, ids=[str(case) for _, case in CALLS])


def as_float64(value):
    return value.astype(float) if isinstance(value, np.ndarray) and value.dtype == np.float32 else value


def blank(like):
    return np.full(like.shape, np.nan if like.dtype.kind == "f" else 251, like.dtype)


def run(op, args, options):
    """The results, in arrays that were full of NaN; several as a tuple."""
    shapes = op(*args, **options)
    outs = tuple(map(blank, shapes)) if isinstance(shapes, tuple) else blank(shapes)
    result = op(*args, **options, out=outs)
    return result if isinstance(result, tuple) else (result,)


def in_float64(op, args, options):
    result = op(*map(as_float64, args), **{name: as_float64(value) for name, value in options.items()})
    return result if isinstance(result, tuple) else (result,)


# ---- what they compute -------------------------------------------------------------------------------------


def test_there_are_levels():
    assert LEVELS[-1] == "generic"
    assert sorted(LEVELS, key=module.levels().get, reverse=True) == LEVELS
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert (" avx2 " in flags and " fma " in flags) <= ("avx2" in LEVELS)


@every_call
def test_every_level_is_what_the_reference_says(calls, case, level, rng):
    for op, args, options, terms in calls(case, rng):
        for got, want in zip(run(op, args, options), in_float64(op, args, options), strict=True):
            if got.dtype == np.float32:
                assert_close(got, want, terms, scale=float(np.abs(want).max()) or 1.0, c=4)
            else:
                assert np.array_equal(got, want), op.__name__


def test_nearly_all_of_these_calls_have_a_kernel(rng, monkeypatch):
    """And what has none is known: another beta, gradients of stride 2 and more for the input."""
    asked = []
    call_for = host.call_for

    def listening(function, args, options):
        found = call_for(function, args, options)
        asked.append((function.__name__, found is not None, options.get("stride"), args))
        return found

    monkeypatch.setattr(host, "call_for", listening)
    operation.forget()
    with module.forced(LEVELS[0]):
        for calls, case in CALLS:
            for op, args, options, _ in calls(case, rng):
                op(*args, **options)
                in_float64(op, args, options)
    asked = [one for one in asked if isinstance(one[3][0], np.ndarray)]  # not the checks of what arrays hold
    float32 = [one for one in asked if one[3][0].dtype == np.float32]
    for name, has, stride, args in float32:
        strided = name == "conv2d_dgrad" and stride != (1, 1)
        assert has == (not strided and all(np.ndim(value) or value != 0.6 for value in args)), name
    assert {name for name, has, *_ in float32 if has} == {f.__name__ for f in host._KERNELS}
    assert not any(has for _, has, _, args in asked if args[0].dtype != np.float32)
    operation.forget()


@every_call
def test_bits_do_not_depend_on_the_number_of_threads(calls, case, level, rng, set_threads, monkeypatch):
    for family in (host.conv, host.lrn_max_pool, host.norm, host.pointwise, host.pool):
        monkeypatch.setattr(family, "_TASK", family._TASK // 512)  # so that small arrays are shared out, too
    monkeypatch.setattr(host.conv, "_PACKED", 64)
    monkeypatch.setattr(host.conv, "_ADDED", 512)
    every = list(calls(case, rng))
    operation.forget()
    set_threads(1)
    want = [run(op, args, options) for op, args, options, _ in every]
    for count in (2, 4):
        set_threads(count)
        for (op, args, options, _), expected in zip(every, want, strict=True):
            for a, b in zip(run(op, args, options), expected, strict=True):
                assert same_bits(a, b), op.__name__
    operation.forget()


def test_an_image_has_its_bits_in_any_batch(level, rng):
    """Whichever images, rows or columns share a tile."""
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((13, 9, 11, 6), (21, 3, 4, 6)))
    whole = ops.conv2d(x, w, pad=2)
    for start, stop in ((0, 1), (3, 5), (5, 13)):
        assert same_bits(ops.conv2d(x[start:stop], w, pad=2), whole[start:stop])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("calls", "case"),
    [(conv_calls, "1x1"), (conv_calls, "groups of 17"), *CALLS[len(CONVS) :]],
    ids=lambda value: str(value) if not callable(value) else "",
)
def test_what_is_not_finite_fares_as_in_the_reference(calls, case, bad, level, rng):
    for op, args, options, _ in calls(case, rng):
        args = [value.copy() if isinstance(value, np.ndarray) else value for value in args]
        for array in args[:2]:
            if isinstance(array, np.ndarray) and array.dtype == np.float32 and op is not ops.conv2d_dgrad:
                array.reshape(-1)[:: max(3, array.size // 3)] = bad
            if op is ops.conv2d:
                break  # a product of padding and a filter that is not finite is none of the sum's
        for got, want in zip(run(op, args, options), in_float64(op, args, options), strict=True):
            assert np.array_equal(np.isnan(got), np.isnan(want)), op.__name__
            finite = ~np.isnan(want)
            assert np.array_equal(np.isinf(got) & finite, np.isinf(want)), op.__name__
            assert np.array_equal(np.sign(got)[np.isinf(want)], np.sign(want)[np.isinf(want)])


def test_relu_of_nan_and_masks_of_nan(level):
    x = np.array([np.nan, -0.0, 0.0, -1, 1, np.inf, -np.inf] * 7, np.float32)
    assert np.array_equal(ops.relu(x), np.maximum(x, 0), equal_nan=True)
    dy = np.arange(1, x.size + 1, dtype=np.float32)
    assert np.array_equal(ops.relu_backward(dy, x), np.where(x <= 0, 0, dy))


def test_tiles_agree_between_levels(rng):
    """To rounding."""
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((8, 16, 16, 32), (32, 5, 5, 32)))
    for name in LEVELS:
        with module.forced(name):
            assert_close(ops.conv2d(x, w, pad=2), ops.conv2d(x.astype(float), w.astype(float), pad=2), 800)


# ---- which of them runs ------------------------------------------------------------------------------------


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(pyconvnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )  # fmt: skip


SAY = (
    "import numpy as np; from pyconvnet import ops; from pyconvnet.ops.host import module;"
    "assert ops.relu(np.array([-1, 2], np.float32)).tolist() == [0, 2]; print(module.level())"
)


@pytest.mark.parametrize("asked", [*LEVELS, "0", ""])
def test_the_level_is_chosen_by_the_environment(asked):
    done = python(SAY, PYCONVNET_HOST=asked)
    assert done.stdout.strip() == {"0": "None", "": LEVELS[0]}.get(asked, asked), done.stderr


def test_a_module_elsewhere_is_taken(tmp_path):
    place = tmp_path / Path(module.ext().__file__).name
    place.write_bytes(Path(module.ext().__file__).read_bytes())
    done = python(f"{SAY}; assert module.ext().__file__ == {str(place)!r}", PYCONVNET_HOST=str(place))
    assert done.stdout.strip() == LEVELS[0], done.stderr


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("avx3", "PYCONVNET_HOST must be 0, avx512, avx2, generic or a path"),
        ("/nowhere/_host.so", "/nowhere"),
    ],
)
def test_what_is_asked_for_and_not_there_is_an_error(asked, words):
    done = python(SAY, PYCONVNET_HOST=asked)
    assert done.returncode == 1
    assert words in done.stderr


def test_a_level_that_the_processor_lacks_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "_asked", lambda: "avx512")
    monkeypatch.setattr(module, "levels", lambda: {"generic": 4})
    with pytest.raises(ValueError, match="this processor has only generic"):
        module._default.__wrapped__()


def test_without_the_module_the_reference_runs():
    done = python(f"import sys; sys.modules['pyconvnet._host'] = None; {SAY}", PYCONVNET_HOST="")
    assert done.stdout.strip() == "None", done.stderr


def test_levels_share_no_inline_functions():
    """Which the linker would take from any of them: an older processor might not run it. C's have none."""
    for path in sorted((ROOT / "kernels" / "host").glob("*")):
        if path.suffix == ".h" or path.name == "kernels.cpp":
            for name in re.findall(r"#include [<\"](.*)[>\"]", path.read_text()):
                assert name.startswith("host/") or name in ("string.h", "math.h", "immintrin.h"), path.name
            assert not re.search(r"^(inline|template.*inline) ", path.read_text(), re.MULTILINE)


# ---- the module's own checks -------------------------------------------------------------------------------


def good_calls():
    """Arguments that each function of the module takes."""
    level, f32 = LEVELS[0], lambda *shape: np.ones(shape, np.float32)
    lanes = module.levels()[level]
    conv, pool = (2, 4, 5, 3, 6, 3, 2, 4, 5, 1, 1, 1, 0, 1), (2, 5, 4, 3, 2, 3, 4, 2, 1, 1, 0, 0)
    panels, up = f32(3 * 2 * 3 * lanes), f32(2 * 4 * 5 * 6)
    x, y, dx, norm = f32(2, 4, 5, 3), f32(2, 4, 2, 3), f32(2, 5, 4, 3), (2, 4, 5, 3, 1, 1, 2, 1)
    if lanes < 6:
        panels = f32(3 * 2 * 3 * 2 * lanes)
    argmax, part, pooled = np.zeros(y.shape, np.uint8), (0, 2, 0, 4), f32(2, 5, 4, 3)
    return {
        "pack": (level, conv, 0, 0, 1, f32(6, 3, 2, 3), panels),
        "correlate": (level, conv, part, x, panels, f32(6), 1, up.copy(), up),
        "wgrad": (level, conv, 0, 2, up, x, panels.copy()),
        "wgrad_sum": (level, conv, 1, 0, 18, panels, f32(6, 3, 2, 3)),
        "max_pool": (level, pool, part, pooled, y, argmax),
        "max_pool_backward": (level, pool, (0, 2, 0, 5), y, argmax, None, dx),
        "avg_pool": (level, pool, part, (0, 0, 0, 0), pooled, y),
        "avg_pool_backward": (level, pool, (0, 2, 0, 5), (0, 0, 0, 0), y, None, dx),
        "lrn": (level, norm, 0.1, 0.75, 1.0, 0.0, 0, 2, x, x.copy(), x.copy()),
        "lrn_backward": (level, norm, 0.1, 0.75, 1.0, 0.15, 0, 2, x, x, x, x, 0, x.copy()),
        "relu": (level, 6, 0, 6, f32(6), f32(6)),
        "relu_backward": (level, 6, 0, 6, f32(6), f32(6), f32(6)),
        "column_sums": (level, 2, 3, 0, 2, f32(2, 3), f32(3)),
    }


#: What no place for it takes, by what stands there.
WRONG = {
    str: ["avx3", b"generic", None, 7],
    int: [-1, 2**40, 2**70, "1", 1.5, None],
    float: ["x", None, [1.0]],
    tuple: [(), None, [1] * 14, "x"],
    np.ndarray: [np.ones(7, np.float32), np.ones((2, 4, 5, 3)), 5, "x", b"x"],
}


@pytest.mark.parametrize("name", good_calls())
def test_the_module_refuses_what_is_wrong(name):
    function = getattr(module.ext(), name)
    args = good_calls()[name]
    assert function(*args) is None
    with pytest.raises(TypeError):
        function(*args[:-1])
    with pytest.raises(TypeError):
        function(*args, 1)
    errors = (TypeError, ValueError, OverflowError, BufferError)
    for i, right in enumerate(args):
        if right is None:
            continue
        for wrong in WRONG[type(right)]:
            with pytest.raises(errors):
                function(*args[:i], wrong, *args[i + 1 :])
        if isinstance(right, tuple):
            for j in range(len(right)):
                for value in (-(2**31), 2**31, None, "x"):
                    with pytest.raises(errors):
                        function(*args[:i], (*right[:j], value, *right[j + 1 :]), *args[i + 1 :])
        if isinstance(right, np.ndarray):
            odd = np.ones((right.size, 2), right.dtype)[:, 0]
            with pytest.raises(errors):
                function(*args[:i], odd, *args[i + 1 :])
    locked = args[-1].copy()
    locked.flags.writeable = False
    with pytest.raises(errors):
        function(*args[:-1], locked)


@pytest.mark.parametrize("name", good_calls())
def test_whatever_numbers_the_module_takes_it_stays_inside_its_arrays(name):
    """Geometries at random: refused, or computed on arrays between guards."""
    function, rolls = getattr(module.ext(), name), random.Random(3)
    args = good_calls()[name]
    taken = 0
    for _ in range(3000):
        spoilt = list(args)
        for i, value in enumerate(args):
            if isinstance(value, tuple):
                spoilt[i] = tuple(
                    rolls.choice((v, v, v, v, v, rolls.randrange(-3, 7), rolls.choice((2**29, -(2**29)))))
                    for v in value
                )
            elif isinstance(value, int) and rolls.random() < 0.3:
                spoilt[i] = rolls.randrange(-2, 9)
            elif isinstance(value, np.ndarray):
                guarded = np.full(value.size + 32, 77, value.dtype)
                guarded[16:-16] = 0
                spoilt[i] = guarded[16:-16].reshape(value.shape)
        try:
            function(*spoilt)
        except (TypeError, ValueError, MemoryError):
            continue
        taken += 1
        for array in spoilt:
            if isinstance(array, np.ndarray):
                assert (array.base[:16] == 77).all()
                assert (array.base[-16:] == 77).all()
    assert taken
