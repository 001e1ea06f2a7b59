"""What a training step of a network asks of a GPU: every kernel with its multiply-adds and its bytes.

The kernels are those that the layers call: a convolution's forward pass has bias and ReLU in it; its backward
pass is the ReLU's gradient, dgrad (unless nothing below learns), wgrad and the bias's gradient (a pass of its
own, as in fp32); everything else reads its operands from memory and writes its results there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyconvnet.layers import (
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
    SoftmaxCrossEntropy,
    SpatialLRN,
    Tanh,
    WeightLayer,
)
from pyconvnet.network import Network
from pyconvnet.network.node import INPUT, Node

from .hardware import Gpu

#: Bytes of an activation (and of a weight as the kernels read it) by precision.
ITEM = {"fp32": 4, "tf32": 4, "bf16": 2}
#: Layers whose kernels are known; one derived from them may do something else.
KNOWN = {
    *(Conv2d, Linear, LRN, SpatialLRN, MaxPool2d, AvgPool2d, Dropout, ReLU, Tanh, Logistic, Add, Concat),
    SoftmaxCrossEntropy,
}
#: SGD with momentum reads w, v and g and writes w and v, in float32; bfloat16 also writes its copy of w.
UPDATE_BYTES = {"fp32": 20, "tf32": 20, "bf16": 22}


@dataclass(frozen=True)
class Kernel:
    """One launch. Figures are per example, but for ``fixed``.

    Attributes
    ----------
    flops : 2 per multiply-add
    x, y : bytes of what belongs to the layer's input and output
    fixed : bytes that do not depend on the batch: weights or their gradient
    shape : the benchmarks' text of its shapes, ``{n}`` for the batch
    ratio : measured time over the roofline's
    """

    op: str
    flops: float = 0.0
    x: float = 0.0
    y: float = 0.0
    fixed: float = 0.0
    shape: str = ""
    ratio: float = 1.0

    def seconds(
        self, gpu: Gpu, precision: str, rows: int, x: float = 1.0, y: float = 1.0
    ) -> tuple[float, float, float]:
        """Arithmetic, memory, overhead for so many examples and these shares of input and output."""
        nbytes = rows * (self.x * x + self.y * y) + self.fixed * y
        parts = gpu.seconds(precision, rows * self.flops * y, nbytes)
        return tuple(self.ratio * part for part in parts)


@dataclass
class Work:
    """One layer's part of a step.

    Attributes
    ----------
    inputs : (layer, elements per example, does it want a gradient) of every input
    parameters : number of its own parameters that learn
    channels : of its output, over which it can be split
    groups : 0: it works channel by channel and is local in any split
    window : channels that response normalisation looks at; 0 for all other layers
    """

    name: str
    kind: str
    inputs: list[tuple[str, int, bool]]
    forward: list[Kernel]
    backward: list[Kernel]
    parameters: int
    channels: int
    groups: int
    window: int = 0
    cost: bool = False
    update: Kernel = field(default_factory=lambda: Kernel("sgd_momentum"))

    def local(self, devices: int) -> bool:
        """Does a device find all it reads in its own slice?"""
        return devices == 1 or self.groups == 0 or self.groups % devices == 0

    def shares(self, devices: int) -> tuple[float, float]:
        """The largest parts of its input and its output channels that a device works on.

        As in ``pyconvnet.network.partition``: a slice of filters reads its groups, or its one group;
        response normalisation borrows the channels that its window lacks.
        """
        own = math.ceil(self.channels / devices) / self.channels
        if self.window:
            borrowed = 0 if self.local(devices) else self.window - 1
            return own, min(1.0, own + borrowed / self.channels)
        if self.groups == 0:
            return own, own
        if devices > self.channels:
            raise ValueError(
                f"layer {self.name!r} has {self.channels} outputs and cannot be split over {devices} GPUs"
            )
        if devices % self.groups and self.groups % devices:
            raise ValueError(
                f"layer {self.name!r}: {self.groups} groups neither divide nor are divided by {devices} GPUs"
            )
        return 1 / min(devices, self.groups), own


def _text(**shapes: Sequence[int | str]) -> str:
    return " ".join(name + "x".join(map(str, shape)) for name, shape in shapes.items())


def _products(node: Node, item: int, learns: bool) -> tuple[list[Kernel], list[Kernel]]:
    """The kernels of a layer with weights."""
    layer, (x, *_), y = node.layer, node.input_shapes, node.output_shape
    specs = {p.name: p for p in node.parameters()}
    w = specs["weight"].shape
    conv = isinstance(layer, Conv2d)
    stem = "conv2d" if conv else "linear"
    xs: tuple = ("{n}", *(x if conv else (math.prod(x),)))
    ys: tuple = ("{n}", *y)
    flops, nx, ny, nw = (
        2.0 * layer.multiply_adds(x),
        item * math.prod(x),
        item * math.prod(y),
        math.prod(w),
    )
    bias = {"b": (w[0],)} if layer.bias else {}
    forward = [Kernel(stem, flops, nx, ny, item * nw, _text(x=xs, w=w, **bias))]
    backward = []
    if layer.activation == "relu":
        backward.append(Kernel("relu_backward", 0, 0, 3 * ny, shape=_text(dy=ys, y=ys)))
    if learns:
        backward.append(Kernel(f"{stem}_dgrad", flops, nx, ny, item * nw, _text(dy=ys, w=w)))
    if not layer.frozen:
        backward.append(Kernel(f"{stem}_wgrad", flops, nx, ny, 4 * nw, _text(dy=ys, x=xs)))
        if layer.bias:
            backward.append(Kernel("bias_backward", 0, 0, ny, shape=_text(dy=ys)))
    return forward, backward


def _passes(node: Node, item: int) -> tuple[list[Kernel], list[Kernel]]:
    """The kernels of a layer without weights: operands in, results out."""
    layer = node.layer
    shape = node.input_shapes[0]
    nx, ny = item * sum(map(math.prod, node.input_shapes)), item * math.prod(node.output_shape)
    row: tuple = ("{n}", *shape)
    if layer.is_cost:
        return [Kernel("softmax_cross_entropy", 0, 0, 2 * nx, shape=_text(logits=row))], []
    if isinstance(layer, (LRN, SpatialLRN)):  # x in, y and scale out; dy, x and scale in, dx out
        text, stem = "x".join(map(str, row)), "lrn" if isinstance(layer, LRN) else "lrn_spatial"
        return (
            [Kernel(stem, 0, 0, 3 * nx, shape=text)],
            [Kernel(f"{stem}_backward", 0, 0, 4 * nx, shape=text)],
        )
    if isinstance(layer, MaxPool2d):  # an index of a byte an output
        text, index = _text(x=row), math.prod(node.output_shape)
        return (
            [Kernel("max_pool2d", 0, 0, nx + ny + index, shape=text)],
            [Kernel("max_pool2d_backward", 0, 0, nx + ny + index, shape=text)],
        )
    if isinstance(layer, Dropout):  # a mask of a byte an element
        row, mask = ("{n}", math.prod(shape)), math.prod(shape)
        return (
            [Kernel("dropout", 0, 0, nx + ny + mask, shape=_text(x=row))],
            [Kernel("dropout_backward", 0, 0, nx + ny + mask, shape=_text(dy=row))],
        )
    stem, saved = type(layer).__name__.lower(), 0
    if isinstance(layer, (ReLU, Tanh, Logistic)):  # backward reads y as well
        saved = ny
    return [Kernel(stem, 0, 0, nx + ny)], [Kernel(f"{stem}_backward", 0, 0, nx + ny + saved)]


def work_of(network: Network, precision: str = "fp32") -> list[Work]:
    """Every layer's work in the order of the graph.

    Raises
    ------
    ValueError
        The network has no cost, so that there is nothing to train, or a layer whose kernels are not known.
    """
    if precision not in ITEM:
        raise ValueError(f"precision must be one of {', '.join(ITEM)}, got {precision!r}")
    if not network.costs:
        raise ValueError(f"network {network.name!r} has no cost to train on")
    item = ITEM[precision]
    learns = {INPUT: False}
    works = []
    for node in network:
        if type(node.layer) not in KNOWN:
            raise ValueError(f"{node}: what its kernels ask of a GPU is not known")
        trainable = isinstance(node.layer, WeightLayer) and not node.layer.frozen
        below = any(learns[source] for source in node.inputs)
        learns[node.name] = trainable or below
        if isinstance(node.layer, WeightLayer):
            forward, backward = _products(node, item, below)
        else:
            forward, backward = _passes(node, item)
        own = sum(p.size for p in node.parameters()) if trainable and node.owner == node.name else 0
        groups = getattr(node.layer, "groups", 0)
        if isinstance(node.layer, Linear) or node.layer.is_cost:
            groups = 1
        works.append(
            Work(
                name=node.name,
                kind=type(node.layer).__name__,
                inputs=[
                    (source, math.prod(shape), learns[source])
                    for source, shape in zip(node.inputs, node.input_shapes, strict=True)
                ],
                forward=forward,
                backward=backward if learns[node.name] else [],
                parameters=own,
                channels=(node.output_shape or node.input_shapes[0])[-1],
                groups=groups,
                window=node.layer.size if isinstance(node.layer, LRN) else 0,
                cost=node.layer.is_cost,
                update=Kernel("sgd_momentum", fixed=UPDATE_BYTES[precision] * own),
            )
        )
    return works
