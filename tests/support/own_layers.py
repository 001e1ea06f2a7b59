"""Layers as a user may write them, of every kind, in plain NumPy; none is known to the library."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pyconvnet.layers import Constant, Layer, Normal, Parameter, Slice


def rowwise(a):
    """(anything, channels)."""
    return a.reshape(-1, a.shape[-1])


def put(target, value):
    if target is not None:
        target[...] = value


@dataclass(frozen=True)
class Own(Layer):
    """Shape of the first input; no computation yet."""

    def output_shape(self, *inputs):
        return inputs[0]


# ---- every channel sees all; nothing declared --------------------------------------------------------------
@dataclass(frozen=True)
class ChannelMean(Own):
    """x minus its mean over the channels."""

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0] - xs[0].mean(-1, keepdims=True)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy - dy.mean(-1, keepdims=True))


@dataclass(frozen=True)
class LayerNorm(Own):
    """Mean 0 and variance 1 over all axes, times a scale that has these axes."""

    def parameters(self, *inputs):
        return [Parameter("scale", inputs[0], Normal(1.0))]

    def saved(self, dtype, *inputs):
        return {"unit": (inputs[0], dtype), "root": ((1,), dtype)}

    def forward(self, ctx, xs, y, params, saved):
        x = xs[0].reshape(len(y), -1)
        root = np.sqrt(x.var(1, keepdims=True) + 0.1)
        saved["root"][...] = root
        saved["unit"].reshape(x.shape)[...] = (x - x.mean(1, keepdims=True)) / root
        y[...] = saved["unit"] * params["scale"]

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if grads:
            grads["scale"][...] = (dy * saved["unit"]).sum(0)
        if dxs[0] is not None:
            unit = saved["unit"].reshape(len(y), -1)
            g = (dy * params["scale"]).reshape(unit.shape)
            g = g - g.mean(1, keepdims=True) - unit * (g * unit).mean(1, keepdims=True)
            dxs[0].reshape(unit.shape)[...] = g / saved["root"]


@dataclass(frozen=True)
class Mix(Own):
    """tanh(x W), with another number of channels; backward works in the place of ``dy``."""

    channels: int = 6

    def output_shape(self, *inputs):
        return (*inputs[0][:-1], self.channels)

    def parameters(self, *inputs):
        return [Parameter("w", (inputs[0][-1], self.channels), Normal(0.5))]

    def forward(self, ctx, xs, y, params, saved):
        y[...] = np.tanh(xs[0] @ params["w"])

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        dy *= 1 - y * y
        if dxs[0] is not None:
            put(dxs[0], dy @ params["w"].T)
        if grads:
            grads["w"][...] = rowwise(xs[0]).T @ rowwise(dy)


@dataclass(frozen=True)
class Flatten(Own):
    """(H, W, C) -> (H * W * C,)."""

    def output_shape(self, *inputs):
        return (int(np.prod(inputs[0])),)

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0].reshape(y.shape)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy.reshape(xs[0].shape))


@dataclass(frozen=True)
class Masked(Own):
    """Two inputs, the second of one channel."""

    arity: ClassVar[tuple[int, int]] = (2, 2)

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0] * xs[1]

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy * xs[1])
        put(dxs[1], (dy * xs[0]).sum(-1, keepdims=True))


# ---- channel by channel ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class GlobalMean(Own):
    """(H, W, C) -> (C,)."""

    reads: ClassVar[str] = "same"

    def output_shape(self, *inputs):
        return inputs[0][-1:]

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0].reshape(len(y), -1, y.shape[-1]).mean(1)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        if dxs[0] is not None:
            dx = dxs[0].reshape(len(y), -1, y.shape[-1])
            dx[...] = dy[:, None] / dx.shape[1]


@dataclass(frozen=True)
class Scale(Own):
    """A factor for every channel."""

    reads: ClassVar[str] = "same"

    def parameters(self, *inputs):
        return [Parameter("scale", inputs[0][-1:], Normal(1.0), per_channel=True)]

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0] * params["scale"]

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy * params["scale"])
        if grads:
            grads["scale"][...] = rowwise(dy * xs[0]).sum(0)


@dataclass(frozen=True)
class Slope(Own):
    """PReLU with one slope for all channels."""

    reads: ClassVar[str] = "same"

    def parameters(self, *inputs):
        return [Parameter("slope", (1,), Constant(0.3))]

    def forward(self, ctx, xs, y, params, saved):
        y[...] = np.where(xs[0] > 0, xs[0], params["slope"] * xs[0])

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], np.where(xs[0] > 0, dy, params["slope"] * dy))
        if grads:
            grads["slope"][...] = np.sum(dy * np.minimum(xs[0], 0))


@dataclass(frozen=True)
class RowBias(Own):
    """A bias for every place of the first axis."""

    reads: ClassVar[str] = "same"

    def parameters(self, *inputs):
        return [Parameter("bias", inputs[0][:1], Normal(1.0))]

    def _wide(self, bias, y):
        return bias.reshape(-1, *(1,) * (y.ndim - 2))

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0] + self._wide(params["bias"], y)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy)
        if grads:
            grads["bias"][...] = dy.sum(0).reshape(dy.shape[1], -1).sum(1)


@dataclass(frozen=True)
class Gate(Own):
    """x (H, W, C) times g (C,)."""

    reads: ClassVar[str] = "same"
    arity: ClassVar[tuple[int, int]] = (2, 2)

    def _wide(self, g, x):
        return g.reshape(len(g), *(1,) * (x.ndim - 2), -1)

    def forward(self, ctx, xs, y, params, saved):
        y[...] = xs[0] * self._wide(xs[1], xs[0])

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy * self._wide(xs[1], xs[0]))
        if dxs[1] is not None:
            dxs[1][...] = (dy * xs[0]).reshape(len(dy), -1, dy.shape[-1]).sum(1)


# ---- a window of channels ----------------------------------------------------------------------------------
@dataclass(frozen=True)
class Window(Own):
    """y_i = the sum of weights[j] x_{i - before + j}; nothing beyond the ends."""

    before: int = 1
    weights: tuple[float, ...] = (0.5, 1.0, -0.25)

    @property
    def reads(self):
        return self.before, len(self.weights) - 1 - self.before

    def _sum(self, x, weights, before):
        after = len(weights) - 1 - before
        padded = np.pad(x, [(0, 0)] * (x.ndim - 1) + [(before, after)])
        return sum(w * padded[..., j : j + x.shape[-1]] for j, w in enumerate(weights))

    def forward(self, ctx, xs, y, params, saved):
        y[...] = self._sum(xs[0], self.weights, self.before)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], self._sum(dy, self.weights[::-1], len(self.weights) - 1 - self.before))


@dataclass(frozen=True)
class ScaledWindow(Own):
    """y_i = scale_i (x_i - x_{i - 1})."""

    reads: ClassVar[tuple[int, int]] = (1, 0)

    def parameters(self, *inputs):
        return [Parameter("scale", inputs[0][-1:], Normal(1.0), per_channel=True)]

    def _difference(self, x):
        return np.diff(x, axis=-1, prepend=0)

    def forward(self, ctx, xs, y, params, saved):
        y[...] = params["scale"] * self._difference(xs[0])

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        g = dy * params["scale"]
        put(dxs[0], -np.diff(g, axis=-1, append=0))
        if grads:
            grads["scale"][...] = rowwise(dy * self._difference(xs[0])).sum(0)


# ---- every channel sees many, and can be made apart --------------------------------------------------------
@dataclass(frozen=True)
class Filters(Own):
    """tanh(W x) in groups, like a 1x1 convolution; backward works in the place of ``dy``."""

    filters: int = 8
    groups: int = 2

    def output_shape(self, *inputs):
        return (*inputs[0][:-1], self.filters)

    def parameters(self, *inputs):
        return [Parameter("w", (self.filters, inputs[0][-1] // self.groups), Normal(0.5), per_channel=True)]

    def slice(self, start, stop, *inputs):
        filters, channels = self.filters // self.groups, inputs[0][-1] // self.groups
        first, last = start // filters, -(-stop // filters)
        layer = dataclasses.replace(self, filters=stop - start, groups=last - first)
        return Slice(layer, ((first * channels, last * channels),))

    def _grouped(self, a):
        return a.reshape(-1, self.groups, a.shape[-1] // self.groups)

    def _weights(self, w):
        return w.reshape(self.groups, -1, w.shape[-1])

    def forward(self, ctx, xs, y, params, saved):
        product = np.einsum("ngc,gkc->ngk", self._grouped(xs[0]), self._weights(params["w"]))
        y[...] = np.tanh(product).reshape(y.shape)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        dy *= 1 - y * y
        if dxs[0] is not None:
            dx = np.einsum("ngk,gkc->ngc", self._grouped(dy), self._weights(params["w"]))
            dxs[0][...] = dx.reshape(dxs[0].shape)
        if grads:
            dw = np.einsum("ngk,ngc->gkc", self._grouped(dy), self._grouped(xs[0]))
            grads["w"][...] = dw.reshape(grads["w"].shape)


@dataclass(frozen=True)
class GroupMean(Own):
    """x minus the mean of its group of channels; a slice makes whole groups."""

    groups: int = 2

    def slice(self, start, stop, *inputs):
        size = inputs[0][-1] // self.groups
        first, last = start // size, -(-stop // size)
        span = first * size, last * size
        return Slice(dataclasses.replace(self, groups=last - first), (span,), span)

    def _centred(self, a):
        grouped = a.reshape(*a.shape[:-1], self.groups, -1)
        return (grouped - grouped.mean(-1, keepdims=True)).reshape(a.shape)

    def forward(self, ctx, xs, y, params, saved):
        y[...] = self._centred(xs[0])

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], self._centred(dy))


# ---- random numbers ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Noise(Own):
    """A random factor for every element, by its place in the whole batch: ``reads`` as it is told."""

    reads: Any = "same"

    def saved(self, dtype, *inputs):
        return {"factor": (inputs[0], dtype)}

    def _factors(self, ctx, shape):
        row, channel, channels = ctx.window or (0, 0, shape[-1])
        places = int(np.prod(shape[1:-1]))
        n = np.arange(shape[0] * places).reshape(*shape[:-1], 1) + row * places
        element = n * channels + channel + np.arange(shape[-1])
        key = ctx.seed * 7.1 + int(np.asarray(ctx.step).reshape(-1)[0]) * 3.3 + ctx.layer * 1.7
        return 1 + np.sin(12.9898 * element + 78.233 * key)

    def forward(self, ctx, xs, y, params, saved):
        saved["factor"][...] = self._factors(ctx, y.shape)
        y[...] = xs[0] * saved["factor"]

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        put(dxs[0], dy * saved["factor"])


# ---- a cost ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class SquaredError(Layer):
    """Half the squared distance of the scores from the class's unit vector; no ``weight``."""

    is_cost: ClassVar[bool] = True

    def output_shape(self, *inputs):
        return ()

    def saved(self, dtype, *inputs):
        return {"gradient": (inputs[0], dtype)}

    def forward(self, ctx, xs, y, params, saved):
        x, labels = xs[0], ctx.labels
        difference = x - np.eye(x.shape[1], dtype=x.dtype)[labels]
        losses = 0.5 * (difference**2).sum(1)
        errors = np.count_nonzero(x.argmax(1) != labels)
        y[...] = losses.mean()
        ctx.metrics += [len(x), losses.sum(), errors, errors]
        saved["gradient"][...] = difference / ctx.total
