"""One small correct call of every public operation, which the tests of bad input spoil."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from pyconvnet import ops


def f32(*shape: int) -> np.ndarray:
    """Numbers between 1 and 2: right for every operation's floating arguments."""
    return np.linspace(1, 2, int(np.prod(shape)), dtype=np.float32).reshape(shape)


def i32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def u8(*shape: int) -> np.ndarray:
    return np.ones(shape, np.uint8)


def calls() -> dict[str, dict[str, Any]]:
    """Operation -> arguments by name, arrays made anew."""
    grouped = {"pad": 1, "groups": 2}
    return {
        "conv2d": {"x": f32(2, 5, 6, 4), "w": f32(6, 3, 2, 2), "b": f32(6), **grouped},
        "conv2d_dgrad": {
            "dy": f32(2, 5, 7, 6), "w": f32(6, 3, 2, 2), "x_shape": (2, 5, 6, 4), "mask": f32(2, 5, 6, 4),
            **grouped,
        },
        "conv2d_wgrad": {"dy": f32(2, 5, 7, 6), "x": f32(2, 5, 6, 4), "w_shape": (6, 3, 2, 2), **grouped},
        "linear": {"x": f32(3, 5), "w": f32(4, 5), "b": f32(4)},
        "linear_dgrad": {"dy": f32(3, 4), "w": f32(4, 5), "mask": f32(3, 5)},
        "linear_wgrad": {"dy": f32(3, 4), "x": f32(3, 5)},
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
        "dropout": {"x": f32(3, 4)},
        "bias_relu_dropout": {"x": f32(3, 4), "b": f32(4)},
        "dropout_backward": {"dy": f32(3, 4), "mask": u8(3, 4)},
        "softmax": {"logits": f32(3, 4)},
        "softmax_cross_entropy": {"logits": f32(3, 4), "labels": i32(0, 3, 1)},
        "sgd_momentum": {
            "w": f32(6), "v": f32(6), "g": f32(6), "hyper": f32(2), "ends": np.array([2, 6]),
            "lr_mult": f32(2), "weight_decay": f32(2), "step": np.array([7]),
            "w_bf16": f32(6).astype(ml_dtypes.bfloat16),
        },
        "filters_to_depth": {"w": f32(2, 3, 3, 1), "stride": 2},
        "filters_from_depth": {"filters": f32(2, 2, 2, 4), "w_shape": (2, 3, 3, 1), "stride": 2},
        "augment": {
            "images": u8(2, 6, 6, 3), "crop": i32(0, 1, 1, 0).reshape(2, 2), "mirror": u8(2),
            "colour": f32(2, 3), "mean": f32(6, 6, 3), "size": (4, 5),
        },
    }  # fmt: skip


#: Arguments that may be None.
OPTIONAL = {
    ("conv2d", "b"),
    ("conv2d_dgrad", "mask"),
    ("linear", "b"),
    ("max_pool2d_backward", "mask"),
    ("avg_pool2d_backward", "mask"),
    ("linear_dgrad", "mask"),
    ("augment", "crop"),
    ("bias_relu_dropout", "b"),
    ("augment", "mirror"),
    ("augment", "colour"),
    ("augment", "mean"),
    ("sgd_momentum", "step"),
    ("sgd_momentum", "w_bf16"),
}

#: Operations whose results go to several arrays: ``out`` is a tuple.
SEVERAL = {"max_pool2d", "lrn", "lrn_max_pool2d", "lrn_spatial", "dropout", "softmax_cross_entropy", "split"}

#: Operations without ``out``: they work in place.
IN_PLACE = {"sgd_momentum"}

#: Operations without ``kernel``: copies of columns.
ONE_KERNEL = {"concat", "split"}


def run(op: str, arguments: dict[str, Any]) -> Any:
    """Call the operation."""
    return getattr(ops, op)(**arguments)
