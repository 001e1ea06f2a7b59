"""The form between formats: layers of ours in order, with parameters in our layouts, before they are a Model.

A reader of a format goes through that format's layers, keeps for each of its tensors a :class:`Value`, and
calls :meth:`Draft.add` with a layer of ours. Whatever does not fit is told with the place in the file. The
way out needs no form of its own: a :class:`Model` is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...layers import Conv2d, Layer, Linear, ReLU, SoftmaxCrossEntropy, WeightLayer
from ...layers.base import Shape
from ...network.network import Network
from ...network.node import INPUT
from ...network.preprocessing import Preprocessing
from ..model import Model, read_only


class ConversionError(ValueError):
    """What a file holds has no counterpart here; the text names the layer and its place."""


class NotInstalledError(ImportError):
    """A package that a format needs is not installed; the text says which, and how to get it."""


@dataclass(frozen=True)
class Value:
    """A tensor of the file: the layer of ours that makes it, and how it lies there.

    Attributes
    ----------
    step : str
        Name of that layer, or "input".
    channels_last : bool
        A map lies (H, W, C) there, as ours do; else (C, H, W).
    flat : bool
        It is a vector there; where ours is a map, in the order above.
    groups : int
        So many groups of channels lie there as images of their own.
    """

    step: str
    channels_last: bool = False
    flat: bool = False
    groups: int = 1


@dataclass
class Step:
    """A layer of ours, where it stands in the file, what it reads, and its parameters in our layouts."""

    name: str
    place: str
    layer: Layer
    inputs: tuple[str, ...]
    output_shape: Shape
    parameters: dict[str, np.ndarray] = field(default_factory=dict)


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Put the place in front of any error over a layer's options or shapes."""
    try:
        yield
    except ConversionError as error:
        if str(error).startswith(place):
            raise
        raise ConversionError(f"{place}: {error}") from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, AttributeError) as error:
        raise ConversionError(f"{place}: {error}") from error


class Draft:
    """Layers in order of computation.

    Parameters
    ----------
    name : str
        Of the network.
    input_shape : (H, W, C)
    """

    def __init__(self, name: str, input_shape: Sequence[int]):
        self.name = _name(name) or "network"
        self.input_shape = tuple(int(extent) for extent in input_shape)
        if len(self.input_shape) != 3 or min(self.input_shape) < 1 or max(self.input_shape) >= 2**31:
            raise ConversionError(f"the input must be a map (H, W, C), got {self.input_shape}")
        self.steps: dict[str, Step] = {}
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        """Note, once, what was converted on the way."""
        if text not in self.notes:
            self.notes.append(text)

    def shape(self, value: Value) -> Shape:
        """Return the shape of ours, without the batch."""
        return self.input_shape if value.step == INPUT else self.steps[value.step].output_shape

    def map_shape(self, value: Value, what: str) -> Shape:
        """Return (H, W, C) of a map that lies (C, H, W) in the file; raise ConversionError for any other."""
        shape = self.shape(value)
        if value.flat or len(shape) != 3:
            raise ConversionError(f"{what} reads a vector, which must be a map")
        if value.groups > 1:
            raise ConversionError(f"{what} reads groups of channels that lie as images of their own")
        if value.channels_last:
            raise ConversionError(f"{what} reads a map whose channels lie last, which must lie first")
        return shape

    def add(
        self,
        place: str,
        name: str,
        layer: Layer,
        inputs: Sequence[Value],
        parameters: dict[str, np.ndarray] | None = None,
    ) -> Value:
        """Append a layer; parameters in our layouts.

        Raises
        ------
        ConversionError
            The shapes do not fit, or the inputs lie differently.
        """
        with at(place):
            shapes = [self.shape(value) for value in inputs]
            if len({(v.channels_last, v.flat, v.groups) for v in inputs}) > 1:
                raise ConversionError("its inputs do not lie alike")
            shape = tuple(layer.output_shape(*shapes))
            own: dict[str, np.ndarray] = {}
            for parameter in layer.parameters(*shapes):
                value = np.ascontiguousarray(_floats(parameter.name, (parameters or {})[parameter.name]))
                if value.shape != parameter.shape:
                    raise ConversionError(
                        f"its {parameter.name} must have shape {parameter.shape} (in this library's layout), "
                        f"got {value.shape}"
                    )
                own[parameter.name] = value
        name = self._free(name or layer.stem)
        self.steps[name] = Step(name, place, layer, tuple(v.step for v in inputs), shape, own)
        if isinstance(layer, Linear):
            return Value(name, flat=True)
        return dataclasses.replace(inputs[0], step=name)

    def convolution(
        self, place: str, name: str, value: Value, weight: np.ndarray, bias: Any, **options: Any
    ) -> Value:
        """Append a convolution whose filters lie (K, C / groups, R, S)."""
        with at(place):
            self.map_shape(value, "a convolution")
            weight = _floats("weight", weight)
            if weight.ndim != 4 or 0 in weight.shape:
                raise ConversionError(f"its filters must be (K, C, R, S), got shape {weight.shape}")
            layer = Conv2d(weight.shape[0], weight.shape[2:], bias=bias is not None, **options)
        parameters = {"weight": weight.transpose(0, 2, 3, 1)}
        if bias is not None:
            parameters["bias"] = np.reshape(bias, -1)
        return self.add(place, name, layer, [value], parameters)

    def linear(self, place: str, name: str, value: Value, weight: np.ndarray, bias: Any) -> Value:
        """Append a fully connected layer with weights (outputs, features), features in the file's order."""
        with at(place):
            weight = _floats("weight", weight)
            if weight.ndim != 2 or 0 in weight.shape:
                raise ConversionError(f"its weights must be a matrix, got shape {weight.shape}")
            shape = self.shape(value)
            if weight.shape[1] != math.prod(shape):
                raise ConversionError(
                    f"its weights take {weight.shape[1]} features, there are {math.prod(shape)}: {shape}"
                )
            if len(shape) == 3 and not value.channels_last and shape[0] * shape[1] > 1:
                h, w, c = shape
                weight = weight.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(-1, h * w * c)
                self.note("features of the first fully connected layer reordered from (C, H, W) to (H, W, C)")
            layer = Linear(weight.shape[0], bias=bias is not None)
        parameters = {"weight": weight}
        if bias is not None:
            parameters["bias"] = np.reshape(bias, -1)
        return self.add(place, name, layer, [value], parameters)

    def flatten(self, place: str, value: Value) -> Value:
        """Return the value as a vector."""
        if value.groups > 1:
            raise ConversionError(f"{place}: flattens groups of channels that lie as images of their own")
        return dataclasses.replace(value, flat=True)

    def add_bias(self, place: str, value: Value, bias: np.ndarray) -> Value:
        """Give the layer that makes the value a bias, which it has not yet."""
        with at(place):
            step = self.steps.get(value.step)
            if step is None or not isinstance(step.layer, WeightLayer) or step.layer.bias:
                raise ConversionError("adds a constant to what is not a product without bias")
            channels = step.output_shape[-1]
            if bias.size != channels or (bias.ndim and max(bias.shape) != channels):
                raise ConversionError(f"adds a constant of shape {bias.shape} to {channels} channels")
            step.layer = dataclasses.replace(step.layer, bias=True)
            step.parameters["bias"] = np.ascontiguousarray(_floats("bias", bias).reshape(-1))
        return value

    # ---- the input -----------------------------------------------------------------------------------------
    def reverse_input(self) -> None:
        """Let the network read channels in the other order: blue, green, red become red, green, blue."""
        for step, weight in self._first_filters("the order of its channels"):
            step.parameters["weight"] = np.ascontiguousarray(weight[..., ::-1])
        self.note("channels of the first filters and of the mean turned from BGR to RGB")

    def scale_input(self, factors: Sequence[float]) -> None:
        """Let the network read channels that were not multiplied by these factors yet."""
        factors = np.asarray(factors, np.float64)
        for step, weight in self._first_filters("factors on its channels"):
            step.parameters["weight"] = (weight * factors).astype(np.float32)
        self.note("factors on the input's channels (its standard deviations) folded into the first filters")

    def _first_filters(self, what: str) -> Iterator[tuple[Step, np.ndarray]]:
        """Iterate over the convolutions that read the input, with their filters (K, R, S, C)."""
        for step in self.steps.values():
            if INPUT not in step.inputs:
                continue
            if not isinstance(step.layer, Conv2d) or step.layer.groups != 1:
                raise ConversionError(
                    f"{step.place}: reads the input, and {what} can only be folded into a convolution "
                    "without groups"
                )
            yield step, step.parameters["weight"]

    # ---- the end -------------------------------------------------------------------------------------------
    def finish(
        self,
        output: Value,
        preprocessing: Preprocessing,
        classes: Sequence[str] | None,
        source: str,
        recipe: dict[str, Any] | None = None,
    ) -> Model:
        """Make the model: ReLUs fused into the products before them, a softmax with cross-entropy at the end.

        Parameters
        ----------
        output : Value
            The class scores.
        preprocessing : Preprocessing
        classes : list of str or None
            Names of the outputs; None: none are known.
        source : str
            The format, for ``model.info``, which also gets the notes.
        recipe : dict, optional
            Of the network.
        """
        self._drop_unread(output)
        end = self._fuse(output.step)
        shape = self.input_shape if end == INPUT else self.steps[end].output_shape
        if len(shape) != 1:
            raise ConversionError(f"the output must be a vector of class scores, got a map {shape}")
        net = Network(self.name, self.input_shape, recipe)
        parameters = {}
        for step in self.steps.values():
            with at(step.place):
                net.add(step.layer, step.name, step.inputs)
            parameters |= {f"{step.name}.{name}": value for name, value in step.parameters.items()}
        net.add(SoftmaxCrossEntropy(), self._free("loss"), end)
        given = classes is not None
        info = {"source": source, "converted": list(self.notes)}
        names = list(classes) if given else [str(i) for i in range(shape[0])]
        return Model(net, read_only(parameters), preprocessing, names, info, given)

    def _drop_unread(self, output: Value) -> None:
        """Drop the layers that the output does not depend on."""
        wanted, todo = set(), [output.step]
        while todo:
            name = todo.pop()
            if name not in wanted and name != INPUT:
                wanted.add(name)
                todo += self.steps[name].inputs
        self.steps = {name: step for name, step in self.steps.items() if name in wanted}

    def _fuse(self, end: str) -> str:
        """Merge each ReLU with the product before it, where nothing else reads that; return the output's new
        name.
        """
        renamed: dict[str, str] = {}
        readers: dict[str, int] = {end: 1}
        for step in self.steps.values():
            for name in step.inputs:
                readers[name] = readers.get(name, 0) + 1
        for name, step in list(self.steps.items()):
            step.inputs = tuple(renamed.get(i, i) for i in step.inputs)
            before = self.steps.get(step.inputs[0])
            if (
                isinstance(step.layer, ReLU)
                and before is not None
                and isinstance(before.layer, WeightLayer)
                and before.layer.activation is None
                and readers[before.name] == 1
            ):
                before.layer = dataclasses.replace(before.layer, activation="relu")
                readers[before.name] = readers.get(name, 0)
                renamed[name] = before.name
                del self.steps[name]
        return renamed.get(end, end)

    def _free(self, name: str) -> str:
        """Return the name in the letters that names may have, with a number where it is taken."""
        stem = _name(name) or "layer"
        if stem not in self.steps and stem not in (INPUT, "labels"):
            return stem
        number = 2
        while f"{stem}_{number}" in self.steps:
            number += 1
        return f"{stem}_{number}"


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-]+", "_", text)[:100].strip("_")


def _floats(name: str, value: Any) -> np.ndarray:
    """Return float32 numbers; raise ConversionError where they are none, or too large for it."""
    value = np.asarray(value)
    if value.dtype.kind != "f" and value.dtype.name != "bfloat16":
        raise ConversionError(f"its {name} must be of floating-point numbers, got {value.dtype}")
    if value.dtype != np.float32:
        with np.errstate(over="ignore"):
            value = value.astype(np.float32)
    return value
