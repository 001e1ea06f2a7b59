"""The table of all operations: a small correct call of each with every array it can take, what it writes,
and which output may be which input. Tests spoil the calls, or lay their arrays over each other.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from pyconvnet import ops


def f32(*shape: int) -> np.ndarray:
    """Numbers between 1 and 2: right for every operation's floating arguments."""
    return _ramp(shape).copy()


@functools.cache
def _ramp(shape: tuple[int, ...]) -> np.ndarray:
    return np.linspace(1, 2, math.prod(shape), dtype=np.float32).reshape(shape)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def u8(*shape: int) -> np.ndarray:
    return np.ones(shape, np.uint8)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def calls() -> dict[str, dict[str, Any]]:
    """Operation -> arguments by name, arrays made anew."""
    grouped = {"pad": 1, "groups": 2}
    return {
        "conv2d": {"x": f32(2, 5, 6, 4), "w": f32(6, 3, 2, 2), "b": f32(6), **grouped},
        "conv2d_dgrad": {
            "dy": f32(2, 5, 7, 6), "w": f32(6, 3, 2, 2), "x_shape": (2, 5, 6, 4), "mask": f32(2, 5, 6, 4),
            **grouped,
        },
        "conv2d_wgrad": {
            "dy": f32(2, 5, 7, 6), "x": f32(2, 5, 6, 4), "w_shape": (6, 3, 2, 2), "bias_grad": f32(6),
            **grouped,
        },
        "linear": {"x": f32(3, 5), "w": f32(4, 5), "b": f32(4)},
        "linear_dgrad": {"dy": f32(3, 4), "w": f32(4, 5), "mask": f32(3, 5)},
        "linear_wgrad": {"dy": f32(3, 4), "x": f32(3, 5), "bias_grad": f32(4)},
        "max_pool2d": {"x": f32(2, 5, 5, 3)},
        "max_pool2d_backward": {
            "dy": f32(2, 2, 2, 3), "argmax": u8(2, 2, 2, 3), "x_shape": (2, 5, 5, 3), "mask": f32(2, 5, 5, 3),
        },
        "avg_pool2d": {"x": f32(2, 5, 5, 3)},
        "avg_pool2d_backward": {"dy": f32(2, 2, 2, 3), "x_shape": (2, 5, 5, 3), "mask": f32(2, 5, 5, 3)},
        "lrn": {"x": f32(2, 3, 3, 4), "groups": 2},
        "lrn_backward": {name: f32(2, 3, 3, 4) for name in ("dy", "x", "y", "scale")},
        "lrn_spatial": {"x": f32(2, 3, 3, 4)},
        "lrn_spatial_backward": {name: f32(2, 3, 3, 4) for name in ("dy", "x", "y", "scale")},
        "lrn_max_pool2d": {"x": f32(2, 5, 5, 4), "groups": 2},
        "lrn_max_pool2d_backward": {
            "dy": f32(2, 2, 2, 4), "argmax": u8(2, 2, 2, 4), "x": f32(2, 5, 5, 4), "groups": 2,
        },
        "relu": {"x": f32(3, 4)},
        "relu_backward": {"dy": f32(3, 4), "y": f32(3, 4)},
        "tanh": {"x": f32(3, 4)},
        "tanh_backward": {"dy": f32(3, 4), "y": f32(3, 4)},
        "logistic": {"x": f32(3, 4)},
        "logistic_backward": {"dy": f32(3, 4), "y": f32(3, 4)},
        "add": {"a": f32(3, 4), "b": f32(3, 4)},
        "add_bias": {"x": f32(3, 4), "b": f32(4)},
        "bias_backward": {"dy": f32(3, 4)},
        "concat": {"xs": [f32(3, 4), f32(3, 2)]},
        "split": {"x": f32(3, 6), "sizes": [2, 4]},
        "dropout": {"x": f32(3, 4), "step": i64(3)},
        "bias_relu_dropout": {"x": f32(3, 4), "b": f32(4), "step": i64(3)},
        "dropout_backward": {"dy": f32(3, 4), "mask": u8(3, 4)},
        "softmax": {"logits": f32(3, 4)},
        "softmax_cross_entropy": {
            "logits": f32(3, 4), "labels": i32(0, 3, 1), "class_weights": f32(4) ** 2, "metrics": np.zeros(4),
        },
        "sgd_momentum": {
            "w": f32(6), "v": f32(6), "g": f32(6), "hyper": f32(2), "ends": i64(2, 6),
            "lr_mult": f32(2), "weight_decay": f32(2), "step": i64(7),
            "w_bf16": f32(6).astype(ml_dtypes.bfloat16),
        },
        "filters_to_depth": {"w": f32(2, 3, 3, 1), "stride": 2},
        "filters_from_depth": {"filters": f32(2, 2, 2, 4), "w_shape": (2, 3, 3, 1), "stride": 2},
        "augment": {
            "images": u8(3, 6, 6, 3), "crop": i32(0, 1, 1, 0).reshape(2, 2), "mirror": u8(2),
            "colour": f32(2, 3), "mean": f32(6, 6, 3), "indices": i32(2, 0), "size": (4, 5),
        },
        "images_to_depth": {"x": f32(2, 5, 5, 1), "depth": ops.space_to_depth.Depth(3, 2)},
        "conv2d_depth": {
            "x": f32(2, 3, 3, 4), "w": f32(2, 3, 3, 1), "b": f32(2), "stride": 2, "filters": f32(2, 2, 2, 4),
        },
        "conv2d_depth_wgrad": {
            "dy": f32(2, 2, 2, 2), "x": f32(2, 3, 3, 4), "w_shape": (2, 3, 3, 1), "stride": 2,
            "bias_grad": f32(2), "filters": f32(2, 2, 2, 4),
        },
    }  # fmt: skip


#: Arguments that may be None.
OPTIONAL = {
    ("conv2d", "b"),
    ("conv2d_dgrad", "mask"),
    ("conv2d_wgrad", "bias_grad"),
    ("linear", "b"),
    ("max_pool2d_backward", "mask"),
    ("avg_pool2d_backward", "mask"),
    ("linear_dgrad", "mask"),
    ("linear_wgrad", "bias_grad"),
    ("augment", "crop"),
    ("bias_relu_dropout", "b"),
    ("augment", "mirror"),
    ("augment", "colour"),
    ("augment", "mean"),
    ("sgd_momentum", "step"),
    ("sgd_momentum", "w_bf16"),
    ("softmax_cross_entropy", "metrics"),
    ("softmax_cross_entropy", "class_weights"),
    ("conv2d_depth", "b"),
    ("conv2d_depth", "filters"),
    ("conv2d_depth_wgrad", "bias_grad"),
    ("conv2d_depth_wgrad", "filters"),
}

#: Operations whose results go to several arrays: ``out`` is a tuple, and these are its members.
SEVERAL = {
    "max_pool2d": ("y", "argmax"),
    "lrn": ("y", "scale"),
    "lrn_max_pool2d": ("y", "argmax"),
    "lrn_spatial": ("y", "scale"),
    "dropout": ("y", "mask"),
    "softmax_cross_entropy": ("loss", "dlogits"),
    "split": ("out[0]", "out[1]"),
}

#: Operations without ``out``: they work in place.
IN_PLACE = {"sgd_momentum"}

#: Arguments that are written to.
UPDATED = {
    "sgd_momentum": ("w", "v", "step", "w_bf16"),
    "softmax_cross_entropy": ("metrics",),
    "conv2d_depth": ("filters",),
    "conv2d_wgrad": ("bias_grad",),
    "linear_wgrad": ("bias_grad",),
    "conv2d_depth_wgrad": ("bias_grad", "filters"),
}

#: (operation, output, input) where the output may be the input itself.
ITSELF = {
    ("relu", "out", "x"),
    ("tanh", "out", "x"),
    ("logistic", "out", "x"),
    *((f"{op}_backward", "out", name) for op in ("relu", "tanh", "logistic") for name in ("dy", "y")),
    ("add", "out", "a"),
    ("add", "out", "b"),
    ("add_bias", "out", "x"),
    ("dropout", "y", "x"),
    ("dropout_backward", "out", "dy"),
    ("bias_relu_dropout", "out", "x"),
    ("softmax", "out", "logits"),
    ("softmax_cross_entropy", "dlogits", "logits"),
}

#: Integers that people bring: of any integer dtype. All others are what another operation or a device counts.
INTEGERS = {
    ("softmax_cross_entropy", "labels"),
    *(("augment", name) for name in ("crop", "mirror", "indices")),
}
COUNTED = {
    ("max_pool2d_backward", "argmax"): "as max_pool2d returned it",
    ("lrn_max_pool2d_backward", "argmax"): "as lrn_max_pool2d returned it",
    ("dropout_backward", "mask"): "as dropout returned it",
    ("dropout", "step"): "the counter that sgd_momentum counts on",
    ("bias_relu_dropout", "step"): "the counter that sgd_momentum counts on",
    ("sgd_momentum", "step"): "counted on in place",
    ("sgd_momentum", "ends"): "offsets, int64 as NumPy makes them",
    ("augment", "images"): "bytes are pixels; other integers would be none",
}

#: Operations without ``kernel``: copies of columns.
ONE_KERNEL = {"concat", "split"}


#: Parameters that take no array (but scale in gradients of lrn); every other one is in its call.
NO_ARRAYS = {
    *("x_shape", "w_shape", "size", "sizes", "stride", "pad", "groups", "ceil_mode", "count_include_pad"),
    *("lrn_size", "depth", "window", "alpha", "beta", "k", "p", "scale", "seed", "layer", "topk"),
    *("grad_scale", "activation", "relu", "precision", "kernel", "workspace", "out"),
}


def function(op: str) -> Callable:
    """The operation."""
    return getattr(ops if hasattr(ops, op) else ops.space_to_depth, op)


def run(op: str, arguments: dict[str, Any]) -> Any:
    """Call the operation."""
    return function(op)(**arguments)


def outputs(op: str, result: Any) -> dict[str, np.ndarray]:
    """The arrays that a call has returned, by name."""
    if op in IN_PLACE:
        return {}
    return dict(zip(SEVERAL[op], result, strict=True)) if op in SEVERAL else {"out": result}


def out(op: str, arrays: dict[str, np.ndarray]) -> Any:
    """What ``out`` takes for the arrays of those names."""
    return tuple(arrays[name] for name in SEVERAL[op]) if op in SEVERAL else arrays["out"]


def inputs(arguments: dict[str, Any]) -> dict[str, np.ndarray]:
    """Every array of a call, by name; those of a list as ``xs[0]`` and so on."""
    found = {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}
    for name, value in arguments.items():
        if isinstance(value, list) and isinstance(value[0], np.ndarray):
            found |= {f"{name}[{i}]": array for i, array in enumerate(value)}
    return found


def replaced(arguments: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The call with arrays of those names, named as :func:`inputs` names them."""
    made = {k: list(v) if isinstance(v, list) else v for k, v in arguments.items()}
    for name, array in arrays.items():
        stem, bracket, index = name.partition("[")
        if bracket:
            made[stem][int(index.rstrip("]"))] = array
        else:
            made[name] = array
    return made
