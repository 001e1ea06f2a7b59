"""ONNX graphs of the layers here, of operator set 5 and newer.

ONNX keeps maps (N, C, H, W) and filters (K, C / groups, R, S), flattens in the order (C, H, W), and divides
normalisation's alpha by the window. Transpositions at the edges and before flattening are followed. Whatever
else a graph holds is told with its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.text import cut
from ...layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Dropout,
    Logistic,
    MaxPool2d,
    ReLU,
    Tanh,
)
from ...network.node import INPUT
from ..model import Model
from . import description
from .draft import ConversionError, Draft, NotInstalledError, Value, at
from .onnx_write import PRODUCER
from .options import Custom, Options, finish

_OLDEST = 5  # before it shapes and broadcasting were attributes
_TO_FIRST, _TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]


def read(path: Path, options: Options) -> Model:
    """Make a model of an ONNX file.

    Raises
    ------
    NotInstalledError
        (an ImportError) onnx is not installed.
    ConversionError
        An operator that this library has no layer for, which is named with its place; no single input or
        output.
    """
    try:
        import onnx
    except ImportError:
        raise NotInstalledError(
            "load: ONNX is read by the package onnx, which is not installed: pip install 'pyconvnet[onnx]', "
            "or onnx"
        ) from None
    message = onnx.load_model_from_string(path.read_bytes())
    return _Reader(onnx, message, path, options).read()


class _Operator:
    """An operator, its attributes, and its place in the graph."""

    def __init__(self, onnx: Any, number: int, node: Any):
        self.type, self.name = node.op_type, node.name
        self.inputs, self.outputs = list(node.input), list(node.output)
        self.domain = node.domain
        called = cut(node.name or ", ".join(self.outputs), 60)
        self.place = f"node {number} {called!r} ({cut(node.op_type, 40)})"
        with at(self.place):
            self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def get(self, name: str, default: Any) -> Any:
        """Return an attribute of the default's type."""
        value = self.attributes.get(name, default)
        if isinstance(value, bytes):
            value = value.decode()
        wanted = (int, float) if isinstance(default, float) else type(default)
        if default is not None and not isinstance(value, wanted):
            raise ConversionError(f"{name} must be {type(default).__name__}, got {type(value).__name__}")
        return value

    def numbers(self, name: str, default: list[int], count: int) -> list[int]:
        """Return a list of so many integers."""
        value = list(self.attributes.get(name, default))
        if len(value) != count or not all(isinstance(v, int) for v in value):
            raise ConversionError(f"{name} must be {count} integers, got {cut(repr(value), 60)}")
        return value


class _Reader:
    def __init__(self, onnx: Any, message: Any, path: Path, options: Options):
        self.onnx, self.graph, self.path, self.options = onnx, message.graph, path, options
        self.ours = message.producer_name == PRODUCER
        self.told = {prop.key: prop.value for prop in message.metadata_props}.get(description.KEY)
        if self.told is not None and options.given:
            raise ConversionError(f"the file says itself what {', '.join(options.given)} would")
        versions = [o.version for o in message.opset_import if o.domain in ("", "ai.onnx")]
        if not versions or versions[0] < _OLDEST:
            raise ConversionError(f"its operator set must be {_OLDEST} or newer, got {versions or 'none'}")
        self.operators = [_Operator(onnx, i, node) for i, node in enumerate(self.graph.node)]
        self.constants = {tensor.name: self._array(tensor) for tensor in self.graph.initializer}
        self.readers = Counter(name for operator in self.operators for name in operator.inputs)
        self.readers.update(entry.name for entry in self.graph.output)
        self.values: dict[str, Value] = {}

    def read(self) -> Model:
        """Go through the operators, which are in order of computation."""
        inputs = [entry for entry in self.graph.input if entry.name not in self.constants]
        outputs = [entry.name for entry in self.graph.output]
        for kind, names in (("input", [entry.name for entry in inputs]), ("output", outputs)):
            if len(names) != 1:
                raise ConversionError(f"it must have one {kind}, got {cut(', '.join(names) or 'none')}")
        images = inputs[0].name
        last = self._channels_last(images)
        self.draft = Draft(self.graph.name, self._input_shape(inputs[0], last))
        self.values[images] = Value(INPUT, channels_last=last)
        for operator in self.operators:
            with at(operator.place):
                made = self._convert(operator)
            if made is not None:
                self.values[operator.outputs[0]] = made
        if outputs[0] not in self.values:
            raise ConversionError(f"no node makes the output {outputs[0]!r}")
        output, source = self.values[outputs[0]], "ONNX"
        if self.told is None:
            return finish(self.draft, output, self.options, Custom(), source)
        preprocessing, classes, _ = description.parse(self.told)
        recipe = description.recipe(preprocessing)
        return self.draft.finish(output, preprocessing, classes, source, recipe)

    def _convert(self, operator: _Operator) -> Value | None:
        convert = _CONVERTERS.get(operator.type)
        if convert is None or operator.domain not in ("", "ai.onnx"):
            own = f" of {operator.domain}" if operator.domain not in ("", "ai.onnx") else ""
            raise ConversionError(f"no layer here does what this operator{own} does")
        read = [name for name in operator.outputs[1:] if name and self.readers[name]]
        if not operator.outputs or read:  # masks and indices that nobody reads are as good as none
            raise ConversionError(f"must have one output that is read, got {operator.outputs[:1] + read}")
        return convert(self, operator)

    # ---- inputs --------------------------------------------------------------------------------------------
    def _array(self, tensor: Any) -> np.ndarray:
        """Return a constant's numbers, from the file beside this one where they lie there."""
        with at(f"constant {cut(tensor.name, 60)!r}"):
            if tensor.data_location == self.onnx.TensorProto.EXTERNAL:
                self.onnx.external_data_helper.load_external_data_for_tensor(tensor, str(self.path.parent))
            return self.onnx.numpy_helper.to_array(tensor)

    def _channels_last(self, images: str) -> bool:
        """Tell whether the first thing that is done with the images is to bring their channels to the
        front.
        """
        first = [operator for operator in self.operators if images in operator.inputs]
        return bool(first) and all(
            x.type == "Transpose" and x.attributes.get("perm") == _TO_FIRST for x in first
        )

    def _input_shape(self, entry: Any, last: bool) -> tuple[int, ...]:
        """Return (H, W, C)."""
        dims = [d.dim_value for d in entry.type.tensor_type.shape.dim]
        if len(dims) != 4:
            raise ConversionError(f"its input must be images, of 4 axes, got {len(dims)}: {dims}")
        h, w, c = dims[1:] if last else (*dims[2:], dims[1])
        h, w = self.options.input_size or (h, w)
        if h < 1 or w < 1:
            raise ConversionError("it does not say how large its images are: give input_size")
        return h, w, c

    def _value(self, operator: _Operator, index: int = 0) -> Value:
        """Return an input that is no constant."""
        name = operator.inputs[index] if index < len(operator.inputs) else ""
        if name not in self.values:
            what = "is a constant" if name in self.constants else "no node before it makes"
            raise ConversionError(f"its input {index}, {name!r}, {what}")
        return self.values[name]

    def _constant(self, operator: _Operator, index: int) -> np.ndarray | None:
        """Return an input that is a constant, or None where it is left out."""
        name = operator.inputs[index] if index < len(operator.inputs) else ""
        if not name:
            return None
        if name not in self.constants:
            raise ConversionError(f"its input {index}, {name!r}, must be a constant")
        return self.constants[name]

    def _weight(self, operator: _Operator) -> np.ndarray:
        weight = self._constant(operator, 1)
        if weight is None:
            raise ConversionError("it has no weights")
        return weight

    # ---- operators -----------------------------------------------------------------------------------------
    def _conv(self, operator: _Operator) -> Value:
        value, weight = self._value(operator), self._weight(operator)
        if weight.ndim != 4:
            raise ConversionError(f"its filters must be (K, C, R, S), got shape {weight.shape}")
        if operator.numbers("kernel_shape", list(weight.shape[2:]), 2) != list(weight.shape[2:]):
            raise ConversionError("kernel_shape is not that of its filters")
        how = self._window(operator, list(weight.shape[2:]), value)
        groups, bias = operator.get("group", 1), self._constant(operator, 2)
        return self.draft.convolution(
            operator.place, operator.name, value, weight, bias, groups=groups, **how
        )

    def _window(self, operator: _Operator, size: list[int], value: Value) -> dict[str, Any]:
        """Return stride and pad."""
        if operator.numbers("dilations", [1, 1], 2) != [1, 1]:
            raise ConversionError("dilations are not 1")
        stride = operator.numbers("strides", [1, 1], 2)
        pads, auto = operator.numbers("pads", [0] * 4, 4), operator.get("auto_pad", "NOTSET")
        if min(stride) < 1 or min(size) < 1 or min(pads) < 0:
            raise ConversionError(f"strides {stride}, pads {pads} or window {size} are impossible")
        pad = [[pads[0], pads[2]], [pads[1], pads[3]]]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            for axis, extent in enumerate(self.draft.map_shape(value, "a window")[:2]):
                total = max(0, (-(-extent // stride[axis]) - 1) * stride[axis] + size[axis] - extent)
                small, large = total // 2, total - total // 2
                pad[axis] = [small, large] if auto == "SAME_UPPER" else [large, small]
        elif auto == "VALID":
            pad = [[0, 0], [0, 0]]
        elif auto != "NOTSET":
            raise ConversionError(f"auto_pad {auto!r} is unknown")
        return {"stride": tuple(stride), "pad": tuple(map(tuple, pad))}

    def _pool(self, operator: _Operator) -> Value:
        value = self._value(operator)
        extents = self.draft.map_shape(value, "pooling")[:2]
        if operator.type == "GlobalAveragePool":
            pooled = AvgPool2d(extents, 1)
            return self.draft.add(operator.place, operator.name, pooled, [value])
        size = operator.numbers("kernel_shape", [], 2)
        how = self._window(operator, size, value)
        ceil, include = bool(operator.get("ceil_mode", 0)), bool(operator.get("count_include_pad", 0))
        include &= how["pad"] != ((0, 0), (0, 0))
        for extent, r, s, pad in zip(extents, size, how["stride"], how["pad"], strict=True):
            count = -(-(extent + sum(pad) - r) // s)  # of windows after the first
            if ceil and count * s >= extent + pad[0]:
                raise ConversionError("ceil_mode leaves a last window without a pixel")
            if ceil and include and count * s + r > extent + sum(pad):
                raise ConversionError("a mean over windows that hang over the padding")
        if operator.type == "MaxPool":
            layer: Any = MaxPool2d(tuple(size), ceil_mode=ceil, **how)
        else:
            layer = AvgPool2d(tuple(size), ceil_mode=ceil, count_include_pad=include, **how)
        return self.draft.add(operator.place, operator.name, layer, [value])

    def _lrn(self, operator: _Operator) -> Value:
        value, size = self._value(operator), operator.get("size", 0)
        if size < 1 or size % 2 == 0:
            raise ConversionError(f"size must be odd, got {size}")
        alpha, beta = float(operator.get("alpha", 1e-4)), float(operator.get("beta", 0.75))
        layer = LRN(size, alpha / size, beta, float(operator.get("bias", 1.0)), value.groups)
        if value.flat or value.channels_last:
            raise ConversionError("it reads no map whose channels lie first")
        self.draft.note("response normalisation's alpha divided by its window")
        return self.draft.add(operator.place, operator.name, layer, [value])

    def _gemm(self, operator: _Operator) -> Value:
        value, weight = self._vector(operator), self._weight(operator)
        if operator.get("transA", 0):
            raise ConversionError("transA is not 0")
        if weight.ndim != 2:
            raise ConversionError(f"its weights must be a matrix, got shape {weight.shape}")
        alpha, beta = float(operator.get("alpha", 1.0)), float(operator.get("beta", 1.0))
        weight = weight if operator.get("transB", 0) else weight.T
        bias = self._constant(operator, 2)
        if bias is not None:
            bias = np.broadcast_to(bias, (1, weight.shape[0]))[0]
            bias = bias if beta == 1 else bias * np.float32(beta)
        weight = weight if alpha == 1 else weight * np.float32(alpha)
        return self.draft.linear(operator.place, operator.name, value, weight, bias)

    def _matmul(self, operator: _Operator) -> Value:
        value, weight = self._vector(operator), self._weight(operator)
        if weight.ndim != 2:
            raise ConversionError(f"its weights must be a matrix, got shape {weight.shape}")
        return self.draft.linear(operator.place, operator.name, value, weight.T, None)

    def _vector(self, operator: _Operator) -> Value:
        value = self._value(operator)
        if len(self.draft.shape(value)) == 3 and not value.flat:
            raise ConversionError("it multiplies a map that was not flattened")
        return value

    def _add(self, operator: _Operator) -> Value:
        constant = [i for i, name in enumerate(operator.inputs) if name in self.constants]
        if not constant:
            values = [self._value(operator, i) for i in range(len(operator.inputs))]
            return self.draft.add(operator.place, operator.name, Add(), values)
        if len(operator.inputs) != 2 or len(constant) != 1:
            raise ConversionError("it adds constants to each other")
        name = operator.inputs[1 - constant[0]]
        value, bias = self._value(operator, 1 - constant[0]), self.constants[operator.inputs[constant[0]]]
        made = next((x for x in self.operators if name in x.outputs), None)
        if made is None or made.type not in ("Conv", "MatMul", "Gemm") or self.readers[name] != 1:
            raise ConversionError("it adds a constant to what is not a product without bias")
        shape = self.draft.shape(value)
        wanted = (shape[-1], 1, 1) if len(shape) == 3 else shape
        while bias.ndim > len(wanted) and bias.shape[0] == 1:
            bias = bias[0]
        if bias.shape != wanted:
            raise ConversionError(f"it adds a constant of shape {bias.shape}, where {wanted} would be a bias")
        return self.draft.add_bias(operator.place, value, bias)

    def _mul(self, operator: _Operator) -> Value:
        """Take a factor for the paper's dropout where this library wrote it."""
        factor = self._constant(operator, 1)
        if not self.ours or factor is None or factor.size != 1 or not 0 < float(factor.reshape(())) <= 1:
            raise ConversionError("no layer here multiplies")
        return self._pointwise(operator, Dropout(1 - float(factor.reshape(())), "paper"))

    def _dropout(self, operator: _Operator) -> Value:
        ratio, training = self._constant(operator, 1), self._constant(operator, 2)
        if training is not None and training.any():
            raise ConversionError("training_mode is on")
        p = float(operator.get("ratio", 0.5)) if ratio is None else float(ratio.reshape(()))
        return self._pointwise(operator, Dropout(p, "inverted"))

    def _pointwise(self, operator: _Operator, layer: Any) -> Value:
        return self.draft.add(operator.place, operator.name, layer, [self._value(operator)])

    def _concat(self, operator: _Operator) -> Value:
        values = [self._value(operator, i) for i in range(len(operator.inputs))]
        first = values[0]
        rank = 2 if first.flat or len(self.draft.shape(first)) == 1 else 4
        axis = operator.get("axis", 1)
        if axis % rank != (rank - 1 if first.channels_last else 1):
            raise ConversionError(f"axis {axis} is not that of the channels")
        if any((v.flat and len(self.draft.shape(v)) == 3) or v.groups > 1 for v in values):
            raise ConversionError("it joins maps that were flattened before")
        if len(values) == 1:
            return first
        return self.draft.add(operator.place, operator.name, Concat(), values)

    # ---- shapes --------------------------------------------------------------------------------------------
    def _flatten(self, operator: _Operator) -> Value:
        value = self._value(operator)
        rank = 4 if len(self.draft.shape(value)) == 3 and not value.flat else 2
        if operator.get("axis", 1) % rank != 1:
            raise ConversionError(f"axis {operator.get('axis', 1)} is not 1")
        return self.draft.flatten(operator.place, value)

    def _reshape(self, operator: _Operator) -> Value:
        """Take a flattening, and groups of channels that become images of their own, and back."""
        value, wanted = self._value(operator), self._constant(operator, 1)
        if wanted is None or wanted.ndim != 1 or wanted.dtype.kind != "i":
            raise ConversionError("its shape must be integers")
        shape, new = self.draft.shape(value), [int(extent) for extent in wanted]
        size = int(np.prod(shape, dtype=np.int64))
        if len(new) == 2 and new[1] in (size, -1) and (new[0] in (0, 1, -1) and new != [-1, -1]):
            return self.draft.flatten(operator.place, value)
        if len(new) == 4 and len(shape) == 3 and not value.flat and not value.channels_last:
            h, w, c = shape
            if new[2:] == [h, w] and new[0] in (0, 1, -1) and 0 < new[1] <= c and c % new[1] == 0:
                groups = c // new[1]
                if groups == 1 or (new[0] == -1 and value.groups == 1):
                    return Value(value.step, groups=groups)
        raise ConversionError(f"it makes {new} of a map or vector {shape} (H, W, C): no layer here does")

    def _transpose(self, operator: _Operator) -> Value:
        value = self._value(operator)
        perm = [int(axis) for axis in operator.get("perm", [])]
        if value.flat or len(self.draft.shape(value)) != 3:
            if perm == [0, 1]:
                return value
        elif perm == [0, 1, 2, 3]:
            return value
        elif value.groups == 1 and perm == (_TO_FIRST if value.channels_last else _TO_LAST):
            return Value(value.step, channels_last=not value.channels_last)
        raise ConversionError(f"perm {perm} is not from (H, W, C) to (C, H, W) or back")

    def _identity(self, operator: _Operator) -> Value | None:
        name = operator.inputs[0] if operator.inputs else ""
        if name in self.constants:
            self.constants[operator.outputs[0]] = self.constants[name]
            return None
        return self._value(operator)

    def _define(self, operator: _Operator) -> None:
        """Keep a constant that stands among the operators."""
        tensor = operator.attributes.get("value")
        if not isinstance(tensor, self.onnx.TensorProto):
            raise ConversionError("it holds no tensor")
        self.constants[operator.outputs[0]] = self._array(tensor)

    def _softmax(self, operator: _Operator) -> Value:
        if operator.outputs[0] not in [entry.name for entry in self.graph.output]:
            raise ConversionError("it is not at the end")
        return self._value(operator)


_CONVERTERS: dict[str, Callable[[_Reader, _Operator], Value | None]] = {
    "Add": _Reader._add,
    "AveragePool": _Reader._pool,
    "Concat": _Reader._concat,
    "Constant": _Reader._define,
    "Conv": _Reader._conv,
    "Dropout": _Reader._dropout,
    "Flatten": _Reader._flatten,
    "Gemm": _Reader._gemm,
    "GlobalAveragePool": _Reader._pool,
    "Identity": _Reader._identity,
    "LRN": _Reader._lrn,
    "LogSoftmax": _Reader._softmax,
    "MatMul": _Reader._matmul,
    "MaxPool": _Reader._pool,
    "Mul": _Reader._mul,
    "Relu": lambda reader, operator: reader._pointwise(operator, ReLU()),
    "Reshape": _Reader._reshape,
    "Sigmoid": lambda reader, operator: reader._pointwise(operator, Logistic()),
    "Softmax": _Reader._softmax,
    "Sum": _Reader._add,
    "Tanh": lambda reader, operator: reader._pointwise(operator, Tanh()),
    "Transpose": _Reader._transpose,
}
