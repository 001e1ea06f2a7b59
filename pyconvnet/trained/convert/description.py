"""What travels beside the weights in a foreign file: class names and preprocessing, as one JSON text."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...network.preprocessing import Preprocessing
from ..model import Model

#: Under which files hold it: metadata_props of ONNX, metadata of safetensors.
KEY = "pyconvnet_model"
_FORMAT = 1


def text(model: Model, **more: Any) -> str:
    """Return a model's class names and preprocessing as JSON.

    Inputs are ``(pixels - mean) * scale`` of a central crop; pixels run from 0 to 255, channels are RGB. A
    mean image is base64 of float32 numbers, (H, W, C).
    """
    mean: Any = model.preprocessing.mean
    if mean is not None:
        mean = mean.tolist() if mean.ndim == 1 else _packed(mean)
    return json.dumps(
        {
            "format": _FORMAT,
            "classes": model.classes,
            "class_names_given": model.class_names_given,
            "preprocessing": {**model.preprocessing.to_dict(), "mean": mean},
            **more,
        }
    )


def parse(description: str) -> tuple[Preprocessing, list[str] | None, dict[str, Any]]:
    """Return (preprocessing, class names or None, all of it) from :func:`text`.

    Raises
    ------
    ValueError, TypeError, KeyError
        It is not what :func:`text` writes.
    """
    told = json.loads(description)
    if not isinstance(told, dict) or told.get("format") != _FORMAT:
        raise ValueError(f"{KEY} must be an object of format {_FORMAT}")
    how = told["preprocessing"]
    if not isinstance(how, Mapping):
        raise TypeError(f"preprocessing must be an object, got {type(how).__name__}")
    mean = how["mean"]
    if isinstance(mean, Mapping):
        shape = tuple(mean["shape"])
        mean = np.frombuffer(base64.b64decode(mean["float32"], validate=True), "<f4").reshape(shape)
    elif mean is not None:
        mean = np.array(mean, np.float32)
    classes = told["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("classes must be a list of texts")
    return Preprocessing.from_dict(how, mean), classes if told.get("class_names_given") else None, told


def recipe(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return what a network's recipe says of images prepared like this."""
    mean = preprocessing.mean
    kind = None if mean is None else "pixel" if mean.ndim == 1 else "image"
    augment: dict[str, Any] = {"mirror": True, "mean": kind, "scale": float(preprocessing.scale)}
    if preprocessing.crop:
        augment["crop"] = list(preprocessing.crop)
    return {"augment": augment}


def _packed(mean: np.ndarray) -> dict[str, Any]:
    data = np.ascontiguousarray(mean, "<f4").tobytes()
    return {"shape": list(mean.shape), "float32": base64.b64encode(data).decode("ascii")}
