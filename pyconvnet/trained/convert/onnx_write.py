"""Networks as ONNX, operator set 17, IR version 8: checked before the file is written.

Maps are (N, C, H, W) in between; the edges are as the caller asks: ``images`` (N, C, H, W), or (N, H, W, C)
with a transposition first, and ``logits`` (N, classes), the scores before the softmax. Images are what the
model's preprocessing gives, ``(pixels - mean) * scale`` of a crop, which stands in ``metadata_props`` beside
the class names.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...common.checks import one_of, padding, pair
from ...common.files import write_atomically
from ...common.version import __version__
from ...layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Conv2d,
    Dropout,
    Linear,
    Logistic,
    MaxPool2d,
    ReLU,
    SpatialLRN,
    Tanh,
)
from ...network.node import INPUT, Node
from ..model import Model
from . import description
from .draft import NotInstalledError

OPSET, IR_VERSION = 17, 8
IMAGES, LOGITS = "images", "logits"
PRODUCER = "pyconvnet"


def write(path: Path, model: Model, layout: str = "NCHW") -> Path:
    """Write a model as ONNX, atomically.

    Parameters
    ----------
    path : Path
    model : Model
    layout : "NCHW" or "NHWC"
        Of the input.

    Raises
    ------
    NotInstalledError
        (an ImportError) onnx is not installed.
    ValueError
        A layer that ONNX has no operators for; it is named.
    """
    one_of("export", "layout", layout, "NCHW", "NHWC")
    return write_atomically(path, _Writer(model, layout).message().SerializeToString())


class _Writer:
    """Operators and arrays of one graph, as they are added."""

    def __init__(self, model: Model, layout: str):
        try:
            import onnx
        except ImportError:
            raise NotInstalledError(
                "export: ONNX is written by the package onnx, which is not installed: "
                "pip install 'pyconvnet[onnx]', or onnx"
            ) from None
        self.onnx, self.model, self.layout = onnx, model, layout
        self.operators: list[Any] = []
        self.arrays: dict[str, np.ndarray] = {}
        self.tensors: dict[str, str] = {}  # layer -> the tensor it makes

    def message(self) -> Any:
        """Return the ModelProto, checked."""
        net, helper = self.model.network, self.onnx.helper
        h, w, c = net.input_shape
        shape, source = [c, h, w], IMAGES
        if self.layout == "NHWC":
            shape = [h, w, c]
            source = self.add("Transpose", "channels_first", [IMAGES], perm=[0, 3, 1, 2])
        self.tensors[INPUT] = source
        wanted = self._wanted()
        for node in net:
            if node.name in wanted:
                self.tensors[node.name] = self._layer(node)
        self.add("Identity", "scores", [self.tensors[net.output]], output=LOGITS)
        number = self.onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.operators,
            net.name,
            [helper.make_tensor_value_info(IMAGES, number, ["N", *shape])],
            [helper.make_tensor_value_info(LOGITS, number, ["N", net.classes])],
            [self.onnx.numpy_helper.from_array(value, name) for name, value in self.arrays.items()],
        )
        message = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name=PRODUCER,
            producer_version=__version__,
            doc_string=f"{IMAGES}: (pixels - mean) * scale, RGB, as metadata_props[{description.KEY!r}] says",
        )
        helper.set_model_props(message, {description.KEY: description.text(self.model)})
        self.onnx.checker.check_model(message, full_check=True)
        return message

    def _wanted(self) -> set[str]:
        """Return the layers that the output depends on."""
        found: set[str] = set()
        todo = [self.model.network.output]
        while todo:
            name = todo.pop()
            if name not in found and name != INPUT:
                found.add(name)
                todo += self.model.network[name].inputs
        return found

    def add(self, operator: str, name: str, inputs: list[str], output: str | None = None, **how: Any) -> str:
        """Append an operator; return the tensor it makes, called like it."""
        output = name if output is None else output
        self.operators.append(self.onnx.helper.make_node(operator, inputs, [output], name, **how))
        return output

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Keep an array; return its name."""
        self.arrays[name] = np.array(value, dtype)
        return name

    def _layer(self, node: Node) -> str:
        convert = _CONVERTERS.get(type(node.layer))
        if convert is None:
            raise ValueError(f"export: {node} has no counterpart in ONNX")
        made = convert(self, node, [self.tensors[name] for name in node.inputs])
        if getattr(node.layer, "activation", None) == "relu":
            made = self.add("Relu", f"{node.name}_relu", [made])
        return made

    def parameter(self, node: Node, part: str) -> np.ndarray:
        """Return one of a layer's arrays."""
        return np.asarray(self.model.parameters[f"{node.owner}.{part}"], np.float32)

    def weights(self, node: Node, weight: np.ndarray) -> list[str]:
        """Keep a layer's arrays, those that layers share once; return their names."""
        owner = node.owner
        if owner != node.name and self.model.network[owner].input_shapes != node.input_shapes:
            owner = node.name
        names = [f"{owner}.weight"]
        self.arrays[names[0]] = np.ascontiguousarray(weight)
        if node.layer.bias:
            names.append(f"{owner}.bias")
            self.arrays[names[1]] = self.parameter(node, "bias")
        return names

    # ---- layers --------------------------------------------------------------------------------------------
    def convolution(self, node: Node, inputs: list[str]) -> str:
        layer = node.layer
        names = self.weights(node, self.parameter(node, "weight").transpose(0, 3, 1, 2))
        (top, bottom), (left, right) = padding("export", "pad", layer.pad)
        return self.add(
            "Conv",
            node.name,
            inputs + names,
            kernel_shape=pair("export", "size", layer.size, 1),
            strides=pair("export", "stride", layer.stride, 1),
            pads=[top, left, bottom, right],
            group=layer.groups,
        )

    def linear(self, node: Node, inputs: list[str]) -> str:
        weight, shape = self.parameter(node, "weight"), node.input_shapes[0]
        if len(shape) == 3:
            inputs = [self.add("Flatten", f"{node.name}_flatten", inputs, axis=1)]
            weight = weight.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(len(weight), -1)
        return self.add("Gemm", node.name, inputs + self.weights(node, weight), transB=1)

    def pool(self, node: Node, inputs: list[str]) -> str:
        """Add a pooling with the padding written out, whatever way its extent was rounded."""
        layer = node.layer
        size, stride = pair("export", "size", layer.size, 1), pair("export", "stride", layer.stride, 1)
        before = [side[0] for side in padding("export", "pad", layer.pad)]
        after = [
            max(0, (count - 1) * s + r - extent - b)
            for count, s, r, extent, b in zip(
                node.output_shape, stride, size, node.input_shapes[0], before, strict=False
            )
        ]
        how: dict[str, Any] = {"kernel_shape": size, "strides": stride, "pads": before + after}
        if isinstance(layer, AvgPool2d):
            how["count_include_pad"] = int(layer.count_include_pad)
            return self.add("AveragePool", node.name, inputs, **how)
        return self.add("MaxPool", node.name, inputs, **how)

    def lrn(self, node: Node, inputs: list[str]) -> str:
        """Add a normalisation over channels; one inside groups sees each group as an image of its own."""
        layer, (h, w, c) = node.layer, node.input_shapes[0]
        self._odd(node)
        if layer.groups > 1:
            shape = self.constant(f"{node.name}_groups", [-1, c // layer.groups, h, w], np.int64)
            inputs = [self.add("Reshape", f"{node.name}_split", [*inputs, shape])]
        how = {"alpha": layer.alpha * layer.size, "beta": layer.beta, "bias": layer.k}
        numbers = {name: float(value) for name, value in how.items()}
        made = self.add("LRN", node.name, inputs, size=layer.size, **numbers)
        if layer.groups > 1:
            shape = self.constant(f"{node.name}_channels", [-1, c, h, w], np.int64)
            made = self.add("Reshape", f"{node.name}_join", [made, shape])
        return made

    def spatial_lrn(self, node: Node, inputs: list[str]) -> str:
        """Add the operators that x / (k + alpha * sum of squares)^beta over pixels is made of."""
        layer, name, x = node.layer, node.name, inputs[0]
        self._odd(node)
        square, half = self.add("Mul", f"{name}_square", [x, x]), layer.size // 2
        mean = self.add(
            "AveragePool",
            f"{name}_mean",
            [square],
            kernel_shape=[layer.size] * 2,
            pads=[half] * 4,
            count_include_pad=1,
        )
        factor = self.constant(f"{name}_alpha", layer.alpha * layer.size**2)
        scaled = self.add("Mul", f"{name}_sum", [mean, factor])
        scale = self.add("Add", f"{name}_scale", [scaled, self.constant(f"{name}_k", layer.k)])
        power = self.add("Pow", f"{name}_power", [scale, self.constant(f"{name}_beta", layer.beta)])
        return self.add("Div", name, [x, power])

    def _odd(self, node: Node) -> None:
        if node.layer.size % 2 == 0:
            raise ValueError(
                f"export: {node}: size must be odd, for ONNX reaches the other way with an even one, "
                f"got {node.layer.size}"
            )

    def dropout(self, node: Node, inputs: list[str]) -> str:
        """Add the paper's dropout as the factor it has in use, the other as ONNX's own, idle one."""
        if node.layer.mode == "paper":
            factor = self.constant(f"{node.name}_factor", node.layer.test_factor)
            return self.add("Mul", node.name, [*inputs, factor])
        return self.add("Dropout", node.name, [*inputs, self.constant(f"{node.name}_ratio", node.layer.p)])

    def sum(self, node: Node, inputs: list[str]) -> str:
        return self.add("Add" if len(inputs) == 2 else "Sum", node.name, inputs)


def _plain(operator: str, **how: Any) -> Callable[[_Writer, Node, list[str]], str]:
    return lambda writer, node, inputs: writer.add(operator, node.name, inputs, **how)


_CONVERTERS: dict[type, Callable[[_Writer, Node, list[str]], str]] = {
    Add: _Writer.sum,
    AvgPool2d: _Writer.pool,
    Concat: _plain("Concat", axis=1),
    Conv2d: _Writer.convolution,
    Dropout: _Writer.dropout,
    Linear: _Writer.linear,
    Logistic: _plain("Sigmoid"),
    LRN: _Writer.lrn,
    MaxPool2d: _Writer.pool,
    ReLU: _plain("Relu"),
    SpatialLRN: _Writer.spatial_lrn,
    Tanh: _plain("Tanh"),
}
