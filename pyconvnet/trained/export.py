"""A model for other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ..common.checks import one_of
from .checkpoint import load
from .model import Model

#: Suffix -> format that :func:`export` writes by default.
SUFFIXES = {".onnx": "onnx", ".pth": "pytorch", ".pt": "pytorch", ".safetensors": "pyconvnet"}


def export(model: Any, path: str | Path, to: str | None = None, *, layout: str | None = None) -> Path:
    """Write a model for another tool, atomically; class names and preprocessing travel along.

    Parameters
    ----------
    model : Model, Run or path
    path : path
    to : "onnx", "pytorch" or "pyconvnet", optional
        The format. Default: by the suffix, ``.onnx``, ``.pth`` or ``.pt`` (a state dict in PyTorch's own
        format, where PyTorch is installed), ``.safetensors`` (this library's own); ``to="pytorch"`` with
        ``.safetensors`` is a state dict, for which PyTorch need not be there.
    layout : "NCHW" or "NHWC", optional
        For ONNX: of the input; default "NCHW".

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        A suffix without a format, or a layer that the format does not have, which is named.
    ImportError
        The package that writes the format is not installed; it is named.
    """
    if isinstance(model, (str, os.PathLike)):
        model = load(model)
    model = getattr(model, "model", model)
    if not isinstance(model, Model):
        raise TypeError(f"export: model must be a Model, a Run or a path, got {type(model).__name__}")
    path = Path(path)
    if to is None:
        if path.suffix not in SUFFIXES:
            raise ValueError(
                f"export: path must end in {', '.join(SUFFIXES)}, or to= must name a format, got {path}"
            )
        to = SUFFIXES[path.suffix]
    one_of("export", "to", to, "onnx", "pytorch", "pyconvnet")
    if layout is not None and to != "onnx":
        raise ValueError(f"export: layout is for ONNX alone, got {layout!r} with to={to!r}")
    if to == "pyconvnet":
        return model.save(path)
    if to == "onnx":
        from .convert import onnx_write

        return onnx_write.write(path, model, "NCHW" if layout is None else layout)
    from .convert import pytorch

    if path.suffix == ".safetensors":
        return pytorch.write_safetensors(path, model)
    return pytorch.write_pickle(path, model)
