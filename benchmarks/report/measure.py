"""What is run to count the accesses of every kernel: AlexNet's layers, one image of each.

Every kernel of an operation's table that supports a case runs it. A kernel's numbers are those of all its
cases together.
"""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from report import render
from report.accesses import ROOT, Launch, add_sources, aligned_allocations, aligned_array, counted

#: Convolutions: x (N, H, W, C), w (K, R, S, C/groups). Of each grid only BLOCKS blocks run. conv1 is of true
#: size; the others keep extents, filters, strides and groups and have fewer channels along the reductions.
SAME1, SAME2 = ((1, 1), (1, 1)), ((2, 2), (2, 2))
CONVS = [
    ("conv1", (1, 224, 224, 3), (96, 11, 11, 3), {"stride": 4, "pad": ((0, 3), (0, 3)), "groups": 1}),
    ("conv2", (1, 27, 27, 96), (64, 5, 5, 48), {"stride": 1, "pad": SAME2, "groups": 2}),
    ("conv3", (1, 13, 13, 64), (384, 3, 3, 64), {"stride": 1, "pad": SAME1, "groups": 1}),
    ("conv5", (1, 13, 13, 384), (64, 3, 3, 192), {"stride": 1, "pad": SAME1, "groups": 2}),
]
BLOCKS = 3

#: The types that pooling, normalisation and the pointwise operations run in, and what the cases are called.
BOTH = ((np.float32, ""), (ml_dtypes.bfloat16, ", bfloat16"))

Call = Callable[..., Any]
Case = tuple[str, str, list[str], Call]


def _shapes() -> Any:
    spec = importlib.util.spec_from_file_location("report_shapes", ROOT / "benchmarks" / "shapes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _array(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    array = aligned_array(tuple(shape), dtype)
    array[...] = np.random.default_rng(1).integers(0, 9, shape)
    return array


def _conv_cases(ops: Any) -> Iterator[Case]:
    for name, x_shape, w_shape, options in CONVS:
        n, h, w, _ = x_shape
        (top, bottom), (left, right) = options["pad"]
        p = (h + top + bottom - w_shape[1]) // options["stride"] + 1
        q = (w + left + right - w_shape[2]) // options["stride"] + 1
        bias = _array(w_shape[:1])
        for precision in ("fp32", "tf32", "fp32x3", "bf16"):
            dtype = ml_dtypes.bfloat16 if precision == "bf16" else np.float32
            x, w, dy = (_array(shape, dtype) for shape in (x_shape, w_shape, (n, p, q, w_shape[0])))
            arrays, more = (x, w, bias, dy), {**options, "precision": precision}
            calls = _conv_calls(ops, x_shape, w_shape, arrays, more)
            for op, call in calls.items():
                yield name, op, ops.kernels(op, x_shape, w_shape, **more, device="emulator"), call


def _conv_calls(ops: Any, x_shape: Any, w_shape: Any, arrays: Any, options: dict) -> dict[str, Call]:
    x, w, b, dy = arrays
    db = _array(b.shape)  # for the rows that make it; after others bias_backward would be counted
    return {
        "conv2d": lambda k: ops.conv2d(x, w, b, **options, kernel=k),
        "conv2d_dgrad": lambda k: ops.conv2d_dgrad(dy, w, x_shape, **options, kernel=k),
        "conv2d_wgrad": lambda k: ops.conv2d_wgrad(
            dy, x, w_shape, **options, kernel=k, bias_grad=db if "_mma" in k else None
        ),
    }


def _pool_cases(ops: Any) -> Iterator[Case]:
    for layer, (dtype, suffix) in itertools.product(_shapes().alexnet_pools(1), BOTH):
        x = _array(layer.x, dtype)
        window = (layer.size, layer.stride)
        y, argmax = ops.max_pool2d(x, *window)
        argmax_copy, dy = aligned_array(argmax.shape, argmax.dtype), _array(y.shape, dtype)
        argmax_copy[...] = argmax
        for op, call in (
            ("max_pool2d", lambda k, x=x, o=window: ops.max_pool2d(x, *o, kernel=k)),
            (
                "max_pool2d_backward",
                lambda k, dy=dy, a=argmax_copy, s=x.shape, o=window: ops.max_pool2d_backward(
                    dy, a, s, *o, kernel=k
                ),
            ),
            ("avg_pool2d", lambda k, x=x, o=window: ops.avg_pool2d(x, *o, kernel=k)),
            (
                "avg_pool2d_backward",
                lambda k, dy=dy, s=x.shape, o=window: ops.avg_pool2d_backward(dy, s, *o, kernel=k),
            ),
        ):
            yield layer.name + suffix, op, ops.kernels(op, x.shape, *window, device="emulator"), call


def _norm_cases(ops: Any) -> Iterator[Case]:
    for layer, (dtype, suffix) in itertools.product(_shapes().alexnet_lrns(1), BOTH):
        shape, name = layer.x, layer.name + suffix
        x, dy, y = (_array(shape, dtype) for _ in range(3))
        scale = _array(shape)
        scale += 1
        for op, options in (("lrn", {"groups": layer.groups}), ("lrn_spatial", {})):
            kernels = ops.kernels(op, shape, **options, device="emulator")
            yield name, op, kernels, lambda k, op=op, x=x, o=options: getattr(ops, op)(x, **o, kernel=k)
            back = f"{op}_backward"
            kernels = ops.kernels(back, shape, **options, device="emulator")
            yield (
                name,
                back,
                kernels,
                lambda k, op=back, a=(dy, x, y, scale), o=options: getattr(ops, op)(*a, **o, kernel=k),
            )
    yield from _lrn_pool_cases(ops)


def _lrn_pool_cases(ops: Any) -> Iterator[Case]:
    for layer, (dtype, suffix) in itertools.product(_shapes().alexnet_lrns(1), BOTH):
        x, groups = _array(layer.x, dtype), layer.groups
        y, made = ops.lrn_max_pool2d(x, groups=groups)
        argmax, dy = aligned_array(made.shape, made.dtype), _array(y.shape, dtype)
        argmax[...] = made
        for op, call in (
            ("lrn_max_pool2d", lambda k, a=x, g=groups: ops.lrn_max_pool2d(a, groups=g, kernel=k)),
            (
                "lrn_max_pool2d_backward",
                lambda k, a=(dy, argmax, x), g=groups: ops.lrn_max_pool2d_backward(*a, groups=g, kernel=k),
            ),
        ):
            kernels = ops.kernels(op, layer.x, groups=groups, device="emulator")
            yield layer.name + suffix, op, kernels, call


def _pointwise_cases(ops: Any) -> Iterator[Case]:
    shapes = (("conv2's output", (2, 5, 5, 256)), ("fc7", (3, 4096)))
    for (name, shape), (dtype, suffix) in itertools.product(shapes, BOTH):
        name += suffix
        a, b, bias, mask = (
            _array(shape, dtype),
            _array(shape, dtype),
            _array(shape[-1:]),
            _array(shape, np.uint8),
        )
        calls: dict[str, Call] = {
            "relu": lambda k, a=a: ops.relu(a, kernel=k),
            "relu_backward": lambda k, a=a, b=b: ops.relu_backward(a, b, kernel=k),
            "tanh": lambda k, a=a: ops.tanh(a, kernel=k),
            "tanh_backward": lambda k, a=a, b=b: ops.tanh_backward(a, b, kernel=k),
            "logistic": lambda k, a=a: ops.logistic(a, kernel=k),
            "logistic_backward": lambda k, a=a, b=b: ops.logistic_backward(a, b, kernel=k),
            "add": lambda k, a=a, b=b: ops.add(a, b, kernel=k),
            "add_bias": lambda k, a=a, c=bias: ops.add_bias(a, c, kernel=k),
            "bias_backward": lambda k, a=a: ops.bias_backward(a, kernel=k),
            "dropout": lambda k, a=a: ops.dropout(a, kernel=k),
            "bias_relu_dropout": lambda k, a=a, c=bias: ops.bias_relu_dropout(a, c, kernel=k),
            "dropout_backward": lambda k, a=a, m=mask: ops.dropout_backward(a, m, kernel=k),
        }
        for op, call in calls.items():
            yield name, op, ops.kernels(op, shape, device="emulator"), call
        half = (*shape[:-1], shape[-1] // 2)
        halves = [_array(half, dtype), _array(half, dtype)]
        yield name, "concat", [None], lambda k, h=halves: ops.concat(h)
        yield name, "split", [None], lambda k, a=a, h=half: ops.split(a, (h[-1], h[-1]))


def _loss_cases(ops: Any) -> Iterator[Case]:
    for name, shape in (("fc8", (5, 1000)), ("10 classes", (64, 10))):
        logits, labels = _array(shape), _array(shape[:1], np.int32)
        kernels = ops.kernels("softmax", shape, device="emulator")
        yield name, "softmax", kernels, lambda k, a=logits: ops.softmax(a, kernel=k)
        kernels = ops.kernels("softmax_cross_entropy", shape, device="emulator")
        yield (
            name,
            "softmax_cross_entropy",
            kernels,
            lambda k, a=logits, b=labels: ops.softmax_cross_entropy(a, b, kernel=k),
        )


def _optim_cases(ops: Any) -> Iterator[Case]:
    count, ends = 20000, np.array([96, 12000, 20000])
    w, v, g = (_array((count,)) for _ in range(3))
    rates = {
        "hyper": np.array([0.01, 0.9], np.float32),
        "ends": ends,
        "lr_mult": np.ones(3, np.float32),
        "weight_decay": np.ones(3, np.float32),
    }
    kernels = ops.kernels("sgd_momentum", count, 3, device="emulator")
    yield (
        "20000 weights",
        "sgd_momentum",
        kernels,
        lambda k: ops.sgd_momentum(w, v, g, **rates, kernel=k),
    )


def _augment_cases(ops: Any) -> Iterator[Case]:
    origin, flip = np.array([[0, 3], [5, 8]], np.int32), np.array([0, 1], np.uint8)
    for name, channels in (("crops of 24 from 32", 3), ("two channels", 2)):
        images, mean = _array((2, 32, 32, channels), np.uint8), _array((32, 32, channels))
        colour = _array((2, channels))
        kernels = ops.kernels("augment", images.shape, (24, 24), device="emulator")
        yield (
            name,
            "augment",
            kernels,
            lambda k, a=(images, origin, flip, colour, mean): ops.augment(*a, size=(24, 24), kernel=k),
        )
        depth = ops.space_to_depth.Depth(11, 4)
        kernels = ops.kernels("augment", images.shape, (24, 24), depth=depth, device="emulator")
        yield (
            name,
            "augment",
            kernels,
            lambda k, a=(images, origin, flip, colour, mean), d=depth: ops.augment(
                *a, size=(24, 24), depth=d, kernel=k
            ),
        )


def _space_to_depth_cases(ops: Any) -> Iterator[Case]:
    shape, stride = (96, 11, 11, 3), 4
    w, filters = _array(shape), _array(ops.space_to_depth.filters_shape(shape, stride, np.float32))
    calls = {
        "filters_to_depth": lambda k: ops.filters_to_depth(w, stride, kernel=k),
        "filters_from_depth": lambda k: ops.filters_from_depth(filters, shape, stride, kernel=k),
    }
    for op, call in calls.items():
        yield "conv1", op, ops.kernels(op, shape, stride, device="emulator"), call


FAMILIES = {
    "augment": _augment_cases,
    "conv": _conv_cases,
    "space_to_depth": _space_to_depth_cases,
    "pool": _pool_cases,
    "norm": _norm_cases,
    "pointwise": _pointwise_cases,
    "loss": _loss_cases,
    "optim": _optim_cases,
}


Row = tuple[str, str, str, Launch]  # family, case, operation


def _share(families: list[str] | None, jobs: int, job: int) -> list[tuple[int, list[Row]]]:
    """Every `jobs`-th kernel and case, with its number among all of them and what it launched."""
    from pyconvnet import ops
    from pyconvnet.common import devices

    built, number, found = devices.emulator().ext.families, itertools.count(), []
    for family, cases in FAMILIES.items():
        if family not in built or (families and family not in families):
            continue
        with aligned_allocations(), ops.on("emulator"):
            done: set[tuple[str, str, str | None]] = set()
            for case, op, kernels, call in cases(ops):
                for kernel in kernels:
                    if (case, op, kernel) in done:
                        continue
                    done.add((case, op, kernel))
                    if (at := next(number)) % jobs != job:
                        continue
                    with counted(blocks=BLOCKS) as launched:
                        call(kernel)
                    found.append((at, [(family, case, op, launch) for launch in launched.launches]))
    return found


def run(families: list[str] | None = None, jobs: int = 1) -> list[Row]:
    """List what every kernel launches on every case; counted by so many processes."""
    from pyconvnet.common import devices

    if jobs == 1:  # in this one, which may be a test's
        found = _share(families, 1, 0)
    else:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            shares = pool.map(_share, *zip(*((families, jobs, job) for job in range(jobs)), strict=True))
            found = sorted(itertools.chain.from_iterable(shares), key=lambda some: some[0])
    rows = [row for _, some in found for row in some]
    add_sources(Path(devices.emulator().ext.__file__), [launch for *_, launch in rows])
    return rows


def unexplained(rows: list[dict], reasons: dict[str, str], whole: bool = True) -> list[str]:
    """Places that exceed their bound without a reason, and (of the whole library) reasons without a place."""
    missing, used = [], set()
    for row in rows:
        for place, count in row["exceptions"].items():
            key, _ = render.reason_of(row["stem"], place, reasons)
            used.add(key)
            if not key:
                missing.append(
                    f"{row['stem']} {row['kernel']}: {place}: {render.ratio(count):.2f} times the least "
                    f"in {count['requests']} requests, and report/reasons.py has no reason"
                )
    if whole:
        missing += [
            f"report/reasons.py: nothing needs the reason {key!r}" for key in reasons if key not in used
        ]
    return missing
