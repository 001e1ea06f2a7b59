"""Caffe's trained networks: ``bvlc_alexnet``, ``bvlc_reference_caffenet`` and others of the layers here.

Of a ``.caffemodel`` alone, without a prototxt: it holds its layers. Caffe keeps filters (K, C / groups, R,
S), flattens in the order (C, H, W), reads pixels of 0 to 255 as blue, green, red less a mean, divides
normalisation's alpha by the window, rounds the extent of pooling up, and divides by 1 - p in dropout's
training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Dropout,
    Logistic,
    MaxPool2d,
    ReLU,
    SpatialLRN,
    Tanh,
)
from ...network.node import INPUT
from ..model import Model
from . import caffe_messages
from .caffe_messages import V1_TYPES, array
from .draft import ConversionError, Draft, Value, at
from .options import Custom, Options, finish

_INPUTS = {"Input", "Data", "ImageData", "HDF5Data", "MemoryData", "DummyData", "WindowData"}
_ENDS = {"Softmax", "SoftmaxWithLoss"}  # what follows the class scores
_IGNORED = {"Accuracy", "Silence", "ArgMax"}
_IMAGE = (256, 256)  # what Caffe's examples prepare ImageNet to


def read(path: Path, options: Options) -> Model:
    """Make a model of a ``.caffemodel``.

    Raises
    ------
    ConversionError
        A layer that this library does not have, which is named with its place, or an input of unknown size.
    """
    caffe_messages.messages()  # or what is missing is told
    net = caffe_messages.parse("NetParameter", path.read_bytes())
    layers = [_Layer(i, layer) for i, layer in enumerate(net.layer or net.layers)]
    if not layers:
        raise ConversionError("it holds no layers")
    return _Reader(net, layers, options).read()


class _Layer:
    """A layer of either form, and its place in the file."""

    def __init__(self, number: int, message: Any):
        self.message, self.name = message, message.name
        known = message.type if isinstance(message.type, str) else V1_TYPES.get(message.type)
        self.type = known or f"type {message.type!r}"
        self.place = f"layer {number} {self.name!r} ({self.type})"
        self.bottoms, self.tops = list(message.bottom), list(message.top)

    def blobs(self, *names: str) -> dict[str, Any]:
        """Return the layer's arrays by name; there must be as many."""
        blobs = self.message.blobs
        if len(blobs) != len(names):
            raise ConversionError(f"must have {len(names)} arrays, {', '.join(names)}, got {len(blobs)}")
        return {name: array(blob) for name, blob in zip(names, blobs, strict=True)}


class _Reader:
    def __init__(self, net: Any, layers: list[_Layer], options: Options):
        self.net, self.layers, self.options = net, layers, options
        self.values: dict[str, Value] = {}
        self.transform = next(
            (x.message.transform_param for x in layers if x.message.HasField("transform_param")), None
        )

    def read(self) -> Model:
        """Go through the layers in order."""
        self.draft = Draft(self.net.name, self._input_shape())
        for name in self.net.input[:1]:
            self.values[name] = Value(INPUT)
        output = None
        for layer in self.layers:
            if layer.type in _INPUTS:
                if layer.tops and not any(v.step == INPUT for v in self.values.values()):
                    self.values[layer.tops[0]] = Value(INPUT)
                continue
            if layer.type in _IGNORED:
                continue
            if layer.type in _ENDS:
                with at(layer.place):
                    output = self._named(layer.bottoms[0])  # beside it lie the labels
                continue
            with at(layer.place):
                made = self._convert(layer)
            for top in layer.tops:
                self.values[top] = made
            last = made
        if not self.draft.steps:
            raise ConversionError("it holds no layers that compute anything")
        return finish(self.draft, output or last, self.options, self._custom(), f"Caffe: {self.net.name}")

    def _convert(self, layer: _Layer) -> Value:
        convert = _CONVERTERS.get(layer.type)
        if convert is None:
            raise ConversionError(f"no such layer here; there are {', '.join(sorted(_CONVERTERS))}")
        if len(layer.tops) != 1 and layer.type != "Split":
            raise ConversionError(f"must have one output, got {len(layer.tops)}")
        return convert(self, layer)

    def _named(self, name: str) -> Value:
        if name not in self.values:
            raise ConversionError(f"reads {name!r}, which no layer before it makes")
        return self.values[name]

    def _input(self, layer: _Layer) -> Value:
        if len(layer.bottoms) != 1:
            raise ConversionError(f"must have one input, got {len(layer.bottoms)}")
        return self._named(layer.bottoms[0])

    # ---- the images ----------------------------------------------------------------------------------------
    def _input_shape(self) -> tuple[int, int, int]:
        """Return (H, W, C) from what the file says of its input, or the options."""
        shapes = [list(x.message.input_param.shape[0].dim) for x in self.layers
                  if x.type == "Input" and x.message.input_param.shape]  # fmt: skip
        shapes += [list(shape.dim) for shape in self.net.input_shape[:1]]
        shapes += [list(self.net.input_dim[:4])] if self.net.input_dim else []
        if shapes:
            if len(shapes[0]) != 4:
                raise ConversionError(f"the input must be (N, C, H, W), got {shapes[0]}")
            _, channels, h, w = shapes[0]
        else:
            first = next((x for x in self.layers if x.type == "Convolution" and x.message.blobs), None)
            if first is None:
                raise ConversionError("it has no convolution, so its input is no image")
            with at(first.place):
                groups = max(1, first.message.convolution_param.group)
                channels = array(first.message.blobs[0]).shape[1] * groups
            h = w = self.transform.crop_size if self.transform is not None else 0
        h, w = self.options.input_size or (h, w)
        if not h or not w:
            raise ConversionError("it does not say how large its images are: give input_size, 227 say")
        return h, w, channels

    def _custom(self) -> Custom:
        """Return the preprocessing that the data layer tells of; a mean file it names is not in the model."""
        h, w, channels = self.draft.input_shape
        large = (max(_IMAGE[0], h), max(_IMAGE[1], w)) if channels == 3 else (h, w)
        custom = Custom(bgr=channels == 3, image_size=large)
        if self.transform is None:
            if channels == 3 and self.options.mean is None:
                self._warn("it does not say what mean was subtracted from its images")
            return custom
        if self.transform.mean_value:
            custom.mean = list(self.transform.mean_value)
        elif self.transform.mean_file and self.options.mean is None:
            self._warn(f"the mean image {self.transform.mean_file!r} was subtracted from its images")
        custom.scale = float(self.transform.scale)
        return custom

    def _warn(self, what: str) -> None:
        self.draft.note(f"{what}; none was given")
        warnings.warn(
            f"load: {what}; none was given: mean= takes numbers or a file", UserWarning, stacklevel=2
        )

    # ---- layers --------------------------------------------------------------------------------------------
    def _convolution(self, layer: _Layer) -> Value:
        p = layer.message.convolution_param
        if p.axis != 1 or any(d != 1 for d in p.dilation):
            raise ConversionError(f"dilation {list(p.dilation)} or axis {p.axis} is not 1")
        blobs = layer.blobs(*(("weight", "bias") if p.bias_term else ("weight",)))
        weight = blobs["weight"]
        size = _pair(p, "kernel_size", "kernel", 0)
        if tuple(weight.shape[2:]) != size or p.num_output != weight.shape[0]:
            raise ConversionError(f"filters of {size} are wanted, {p.num_output}, got {weight.shape}")
        stride, pad = _pair(p, "stride", "stride", 1), _pair(p, "pad", "pad", 0)
        how = {"stride": stride, "pad": pad, "groups": p.group}
        value = self._input(layer)
        return self.draft.convolution(layer.place, layer.name, value, weight, blobs.get("bias"), **how)

    def _inner_product(self, layer: _Layer) -> Value:
        p = layer.message.inner_product_param
        if p.axis != 1:
            raise ConversionError(f"axis {p.axis} is not 1")
        blobs = layer.blobs(*(("weight", "bias") if p.bias_term else ("weight",)))
        weight = blobs["weight"].reshape(blobs["weight"].shape[-2:])
        weight = weight.T if p.transpose else weight
        return self.draft.linear(layer.place, layer.name, self._input(layer), weight, blobs.get("bias"))

    def _pooling(self, layer: _Layer) -> Value:
        p, value = layer.message.pooling_param, self._input(layer)
        h, w, _ = self.draft.map_shape(value, "pooling")
        if p.pool not in (0, 1):
            raise ConversionError("stochastic pooling is neither MAX nor AVE")
        size = (h, w) if p.global_pooling else _pair(p, "kernel_size", "kernel", 0)
        stride, pad = _pair(p, "stride", "stride", 1), _pair(p, "pad", "pad", 0)
        if p.global_pooling:
            stride, pad = (1, 1), (0, 0)
        how: dict[str, Any] = {"ceil_mode": p.round_mode == 0}
        over = False
        for extent, r, s, b in zip((h, w), size, stride, pad, strict=True):
            if s > r:
                raise ConversionError(f"a stride of {s} leaves gaps between windows of {r}")
            count = -(-(extent + 2 * b - r) // s) + 1
            over |= how["ceil_mode"] and (count - 1) * s + r > extent + 2 * b
        if p.pool == 0:
            return self.draft.add(layer.place, layer.name, MaxPool2d(size, stride, pad, **how), [value])
        if any(pad) and over:
            raise ConversionError("a mean over windows that hang over the padding")
        pooled = AvgPool2d(size, stride, pad, count_include_pad=any(pad), **how)
        return self.draft.add(layer.place, layer.name, pooled, [value])

    def _lrn(self, layer: _Layer) -> Value:
        p, value = layer.message.lrn_param, self._input(layer)
        self.draft.map_shape(value, "normalisation")
        if p.local_size % 2 == 0:
            raise ConversionError(f"local_size {p.local_size} is even")
        if p.norm_region == 0:
            normalised: Any = LRN(p.local_size, p.alpha / p.local_size, p.beta, p.k)
            self.draft.note("response normalisation's alpha divided by its window")
        else:
            normalised = SpatialLRN(p.local_size, p.alpha / p.local_size**2, p.beta, 1.0)
            self.draft.note("alpha of normalisation within a channel divided by its window's area")
        return self.draft.add(layer.place, layer.name, normalised, [value])

    def _relu(self, layer: _Layer) -> Value:
        slope = layer.message.relu_param.negative_slope
        if slope != 0:
            raise ConversionError(f"negative_slope {slope} is not 0")
        return self._pointwise(layer, ReLU())

    def _dropout(self, layer: _Layer) -> Value:
        return self._pointwise(layer, Dropout(layer.message.dropout_param.dropout_ratio, "inverted"))

    def _pointwise(self, layer: _Layer, ours: Any) -> Value:
        return self.draft.add(layer.place, layer.name, ours, [self._input(layer)])

    def _concat(self, layer: _Layer) -> Value:
        p, values = layer.message.concat_param, [self._named(name) for name in layer.bottoms]
        if (p.axis if p.HasField("axis") else p.concat_dim) != 1:
            raise ConversionError("axis is not 1")
        if any(v.flat and len(self.draft.shape(v)) == 3 for v in values):
            raise ConversionError("joins maps that were flattened before")
        return self.draft.add(layer.place, layer.name, Concat(), values) if len(values) > 1 else values[0]

    def _eltwise(self, layer: _Layer) -> Value:
        p = layer.message.eltwise_param
        if p.operation != 1 or any(c != 1 for c in p.coeff):
            raise ConversionError("is not a plain sum")
        values = [self._named(name) for name in layer.bottoms]
        return self.draft.add(layer.place, layer.name, Add(), values)

    def _flatten(self, layer: _Layer) -> Value:
        if isinstance(layer.message.type, str):
            p = layer.message.flatten_param
            if p.axis != 1 or p.end_axis != -1:
                raise ConversionError(f"axes {p.axis} to {p.end_axis} are not all")
        return self.draft.flatten(layer.place, self._input(layer))


def _pair(p: Any, both: str, each: str, default: int) -> tuple[int, int]:
    """Return a parameter that Caffe gives once, once an axis, or as ``_h`` and ``_w``."""
    if p.HasField(f"{each}_h") or p.HasField(f"{each}_w"):
        return getattr(p, f"{each}_h"), getattr(p, f"{each}_w")
    value = getattr(p, both)
    if isinstance(value, int):
        return value, value
    values = list(value) or [default]
    if len(values) > 2:
        raise ConversionError(f"{both} must be one or two numbers, got {len(values)}")
    return values[0], values[-1]


_CONVERTERS: dict[str, Callable[[_Reader, _Layer], Value]] = {
    "Concat": _Reader._concat,
    "Convolution": _Reader._convolution,
    "Dropout": _Reader._dropout,
    "Eltwise": _Reader._eltwise,
    "Flatten": _Reader._flatten,
    "InnerProduct": _Reader._inner_product,
    "LRN": _Reader._lrn,
    "Pooling": _Reader._pooling,
    "ReLU": _Reader._relu,
    "Sigmoid": lambda reader, layer: reader._pointwise(layer, Logistic()),
    "Split": lambda reader, layer: reader._input(layer),
    "TanH": lambda reader, layer: reader._pointwise(layer, Tanh()),
}
