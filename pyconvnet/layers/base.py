"""What a layer is: hyper-parameters, shapes, parameters, and the ops that make its forward and backward pass.

A layer knows no device, no buffer and no neighbour. The plan hands it arrays of the right shapes; the layer
fills them by calls into :mod:`pyconvnet.ops` with ``out=``. Shapes are without the batch: ``(H, W, C)`` for
maps, ``(K,)`` for vectors.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ..common.checks import check_number, flag, one_of
from . import initialisers
from .initialisers import Constant, Initialiser, Normal, initialiser

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter array of a layer: its name inside the layer, shape, initial values and multipliers.

    ``init`` may be a name, see :func:`pyconvnet.layers.initialiser`. ``operand`` says that it is a factor of
    the layer's products, which then read it in their own dtype; ``groups``, that each of so many slices of
    the first axis sees its own inputs alone, which counts for the fans that initial values go by;
    ``per_channel``, that its first axis is the output's channels, so that a slice of these computes with that
    slice of it. A layer with any other parameter is never split.
    """

    name: str
    shape: Shape
    init: Initialiser | str
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    operand: bool = False
    groups: int = 1
    per_channel: bool = False

    def __post_init__(self) -> None:
        rule = initialiser(self.init, f"the initial values of parameter {self.name!r}")
        object.__setattr__(self, "init", rule)
        if rule.needs_fans and len(self.shape) < 2:
            raise ValueError(
                f"the initial values of parameter {self.name!r}: {rule} needs a weight of shape "
                f"(outputs, ..., inputs), got {self.shape}"
            )

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def rows(self, start: int, stop: int) -> tuple[int, int]:
        """Return first and last-plus-one of its first axis that channels [start, stop) compute with."""
        return (start, stop) if self.per_channel else (0, self.shape[0])

    def part(self, start: int, stop: int) -> Parameter:
        """Return what of it channels [start, stop) of the output compute with."""
        first, last = self.rows(start, stop)
        return dataclasses.replace(self, shape=(last - first, *self.shape[1:]))


@dataclass(frozen=True)
class Slice:
    """What it takes to make some channels of a layer's output without the others.

    Attributes
    ----------
    layer : Layer
        Makes them: the layer with the hyper-parameters of the slice.
    reads : tuple of (first, last + 1)
        The channels it reads of each input; none where the two are equal.
    computes : (first, last + 1) or None
        The channels it computes, where those are more than it was asked for; the others are dropped.
    """

    layer: Layer
    reads: tuple[tuple[int, int], ...]
    computes: tuple[int, int] | None = None

    @property
    def makes(self) -> tuple[int, int] | None:
        """``computes`` by its name until 0.1."""
        return self.computes


@dataclass
class Context:
    """What a layer may know about the pass it takes part in.

    Attributes
    ----------
    train : bool
        False during validation and prediction: dropout is off.
    seed, step, layer :
        Key of the layer's random numbers; ``step`` is an int or a one-element int64 array on the device.
    total : int
        Examples in the whole batch, over which costs average (more than this pass holds where a batch is
        split).
    window : (first example, first channel, channels) or None
        Which part of the whole batch's output this pass makes, and how many channels the whole has; None: all
        of it. Random numbers are to depend on an element's place in the whole.
    masked : bool
        Backward is called a second time with the same ``dy``, which has already gone back through the fused
        activation. For layers that have ``splits_backward``.
    relu_by_readers : bool
        ``dy`` comes from layers that have sent it back through this layer's ReLU.
    mask_input : bool
        The input is the output of a ReLU, and its gradient is to be sent back through that. For layers that
        have ``masks_input``.
    labels : array (n,) int32 or None
        Class numbers, for costs.
    class_weights : array (outputs,) or None
        By which costs weigh examples in training, by their class.
    metrics : array (4,) float64 or None
        Running sums of a cost: examples, loss, top-1 errors, top-k errors.
    precision : str
        Of the products in convolutions and fully connected layers; see :mod:`pyconvnet.ops.conv`. "bf16":
        the arrays of inputs, outputs, their gradients and of those parameters that are ``operand`` are
        bfloat16.
    depth : bool
        The layer reads the images, and they are in the space-to-depth layout of its convolution, see
        :mod:`pyconvnet.ops.space_to_depth`.
    workspace : object with ``get(nbytes)`` or None
        Scratch owned by the plan.
    scratch : function of (name, shape, dtype), or None
        Memory of the plan's that stays, for what ``depth`` asks for.
    """

    train: bool = True
    seed: int = 0
    step: Any = 0
    layer: int = 0
    total: int = 0
    window: tuple[int, int, int] | None = None
    masked: bool = False
    relu_by_readers: bool = False
    mask_input: bool = False
    labels: Any = None
    class_weights: Any = None
    metrics: Any = None
    precision: str = "fp32"
    depth: bool = False
    workspace: Any = None
    scratch: Any = None

    @property
    def rectified(self) -> bool:
        """``relu_by_readers`` by its name until 0.1."""
        return self.relu_by_readers


_KINDS: dict[str, type[Layer]] = {}

#: What a layer says of its own arithmetic.
_PROMISES = ["reads", "slice", "masks_input", "rectifies", "splits_backward"]
_PROMISES += ["space_to_depth_layout", "only_ops"]


def register(kind: type[Layer]) -> type[Layer]:
    """Make a layer known to :func:`from_dict` under its class name (a class decorator); raise ValueError
    where another class has that.
    """
    known = _KINDS.get(kind.__name__, kind)
    if (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
        raise ValueError(
            f"register: the name {kind.__name__!r} is taken by {known.__module__}.{known.__qualname__}"
        )
    _KINDS[kind.__name__] = kind
    return kind


@dataclass(frozen=True)
class Layer:
    """Base of all layers. Subclasses are frozen dataclasses whose fields are the hyper-parameters.

    An example's output depends on that example alone. A class that derives from a layer that computes, and
    overrides any of its methods, has to state again what that one says of its arithmetic (``reads``,
    ``slice``, ``masks_input``, ``rectifies``, ``splits_backward``, ``only_ops``): the defaults below hold for
    it until it does.

    Parameters
    ----------
    device : int, "all" or None
        Where the layer lies when the network is split over several devices: whole on the tower of that number
        (cuda-convnet's ``gpu=``), in slices on all of them, or (None) as
        :mod:`pyconvnet.network.partition` decides. On one device it says nothing.
    """

    device: int | str | None = field(default=None, kw_only=True)

    #: How many inputs the layer takes: (least, most); most None means any number.
    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    #: What a channel of the output reads of every input's channels: "all" of them; "same", the one of its own
    #: number; or (before, after), that many before and after that one, too. See :meth:`slice`.
    reads: ClassVar[str | tuple[int, int]] = "all"
    #: A hybrid split begins with the first of these.
    fully_connected: ClassVar[bool] = False
    #: A cost: ends a branch of the graph in a scalar and produces the first gradient during its forward pass,
    #: in the array it calls "gradient" in :meth:`saved`: that of its loss, times ``weight`` if it has that.
    is_cost: ClassVar[bool] = False
    #: A cost that heeds ``ctx.class_weights``.
    weighs_classes: ClassVar[bool] = False
    #: Backward fills all of ``dxs`` at once, so the plan gives scratch where a gradient is not wanted.
    wants_every_dx: ClassVar[bool] = False
    #: Backward can send the gradient of the only input back through the ReLU that the input came out of.
    masks_input: ClassVar[bool] = False
    #: Backward can be called twice for one ``dy``: for ``dxs``, then, with ``ctx.masked``, for ``grads``.
    splits_backward: ClassVar[bool] = False
    #: Forward and backward are nothing but calls of :mod:`pyconvnet.ops`, the same at every pass: a plan
    #: makes them once and then repeats the launches. Where it is False, the methods are called at every pass.
    only_ops: ClassVar[bool] = False
    #: Short word that automatic names start with.
    stem: ClassVar[str] = "layer"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in cls.__bases__:
            if not issubclass(base, Layer) or base.forward is Layer.forward:
                continue
            methods = [n for n, v in vars(cls).items() if callable(v) or isinstance(v, property)]
            if any(n not in _PROMISES and n[:2] != "__" and hasattr(base, n) for n in methods):
                for name in _PROMISES:
                    if name not in vars(cls):
                        setattr(cls, name, vars(Layer)[name])

    # ---- shapes --------------------------------------------------------------------------------------------
    def output_shape(self, *inputs: Shape) -> Shape:
        """Return the output's shape without the batch; raise ValueError where the inputs do not suit."""
        raise NotImplementedError

    def parameters(self, *inputs: Shape) -> list[Parameter]:
        """Return the layer's own parameters, in a fixed order."""
        return []

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        """Name the arrays that forward leaves for backward: name -> (shape without the batch, dtype);
        ``dtype`` is that of inputs and outputs.
        """
        return {}

    def multiply_adds(self, *inputs: Shape) -> int:
        """Count one example's multiply-adds in forward (convolutions and products only, as is the custom)."""
        return 0

    @property
    def rectifies(self) -> bool:
        """Whether the output is that of a ReLU."""
        return False

    def classes(self, *inputs: Shape) -> int | None:
        """Return how many classes a cost tells apart, to which labels are held; None: any labels will do."""
        return None

    # ---- a part of the layer -------------------------------------------------------------------------------
    def slice(self, start: int, stop: int, *inputs: Shape) -> Slice | None:
        """Return what it takes to make channels [start, stop) of the output from inputs of these shapes;
        None: the layer cannot be split and lies whole on one device.

        By default that follows from :attr:`reads`. A layer whose channels read many others, but can be made
        apart (as a convolution's filters can), overrides it. Where such a layer has ``groups``, towers that
        do not see each other, a slice holds whole groups or lies inside one.

        Raises
        ------
        ValueError
            ``reads`` cannot be true: an input has other channels than the output.
        """
        if self.is_cost or self.reads == "all":
            return None
        before, after = (0, 0) if self.reads == "same" else self.reads
        channels = self.output_shape(*inputs)[-1]
        if any(shape[-1] != channels for shape in inputs):
            what = f"reads={self.reads!r} needs inputs of as many channels as the output, {channels}"
            raise ValueError(f"{what}, got {', '.join(map(str, inputs))}")
        if before + after and self.parameters(*inputs):
            return None  # those of borrowed channels lie elsewhere
        span = max(0, start - before), min(channels, stop + after)
        return Slice(self, (span,) * len(inputs), span)

    def space_to_depth_layout(self, images: Shape) -> Any:
        """Return the layout of :mod:`pyconvnet.ops.space_to_depth` in which the layer can read images of this
        shape; None: only as they are.
        """
        return None

    def depth_layout(self, images: Shape) -> Any:
        """Return :meth:`space_to_depth_layout`, by its name until 0.1."""
        return self.space_to_depth_layout(images)

    # ---- computation ---------------------------------------------------------------------------------------
    def forward(self, ctx: Context, xs: Sequence, y: Any, params: Mapping, saved: Mapping) -> None:
        """Fill ``y`` (and ``saved``) from the inputs ``xs``."""
        raise NotImplementedError

    def backward(
        self,
        ctx: Context,
        dy: Any,
        xs: Sequence,
        y: Any,
        params: Mapping,
        saved: Mapping,
        dxs: Sequence,
        grads: Mapping,
    ) -> None:
        """Overwrite every array of ``dxs`` (None: not wanted) and ``grads`` (empty: frozen). May destroy
        ``dy``.
        """
        raise NotImplementedError

    # ---- description ---------------------------------------------------------------------------------------
    def to_dict(self) -> dict:
        """Describe the layer for JSON: its class name and every hyper-parameter that is not the default."""
        out: dict[str, Any] = {"kind": type(self).__name__}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.default is not dataclasses.MISSING and value == f.default:
                continue
            out[f.name] = value.to_dict() if isinstance(value, Initialiser) else _plain(value)
        return out

    def _check_numbers(self, **rules: str) -> None:
        """Check hyper-parameters by rule: "positive int", "int >= 0", "number", "number >= 0",
        "probability".
        """
        for name, rule in rules.items():
            check_number(f"{type(self).__name__}: {name}", getattr(self, name), rule)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, (tuple, list)) else value


def from_dict(description: Mapping) -> Layer:
    """Rebuild a layer from its :meth:`Layer.to_dict`; raise ValueError for anything it does not know."""
    options = dict(description)
    kind = options.pop("kind", None)
    if kind not in _KINDS:
        raise ValueError(f"layer: kind must be one of {sorted(_KINDS)}, got {kind!r}")
    for name, value in options.items():
        if isinstance(value, Mapping):
            options[name] = initialisers.from_dict(value)
        elif isinstance(value, list):
            options[name] = _tuples(value)
    try:
        return _KINDS[kind](**options)
    except TypeError as error:
        raise ValueError(f"layer {kind}: {error}") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def extent(size: int, window: int, stride: int, before: int, after: int, ceil_mode: bool = False) -> int:
    """Count the positions of a window along one axis; 0 or less where it does not fit. Rounds down unless
    ``ceil_mode``.
    """
    room = size + before + after - window
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # A last window hangs over the end, but has to start inside the image or the leading padding.
    return count - 1 if (count - 1) * stride >= size + before else count


def check_declarations(
    layer: Layer, inputs: Sequence[Shape], output: Shape, own: Sequence[Parameter]
) -> None:
    """Raise TypeError or ValueError where a layer says of itself what cannot be with these shapes."""
    if (layer.is_cost or layer.masks_input) and len(inputs) != 1:
        what = "a cost" if layer.is_cost else "a layer with masks_input"
        raise ValueError(f"{what} reads one input, got {len(inputs)}")
    if not layer.is_cost and not output:
        raise ValueError("output_shape must have at least one axis, the channels, got ()")
    for p in own:
        if not p.shape:
            raise ValueError(f"parameter {p.name!r} must have at least one axis, got shape ()")
        if p.per_channel and p.shape[0] != output[-1]:
            first = f"first axis must be the output's channels, {output[-1]}, got shape {p.shape}"
            raise ValueError(f"parameter {p.name!r} is per_channel, so its {first}")
    if isinstance(layer.reads, str) and layer.reads in ("all", "same"):
        return
    if not isinstance(layer.reads, tuple) or len(layer.reads) != 2:
        raise ValueError(f"reads must be 'all', 'same' or (before, after), got {layer.reads!r}")
    for count in layer.reads:
        check_number("reads, channels before and after,", count, "int >= 0")


def maps(shape: Shape) -> Shape:
    """Require a map (H, W, C)."""
    if len(shape) != 3:
        raise ValueError(f"input must be a map (H, W, C), got shape {shape}")
    return shape


#: Options that say nothing in a layer that uses another's parameters.
_OF_THE_OWNER = ("init", "bias_init", "lr_mult", "bias_lr_mult", "decay_mult", "bias_decay_mult")


# ---- layers with weights -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class WeightLayer(Layer):
    """Hyper-parameters that every layer with weights and biases has.

    Parameters
    ----------
    activation : None or "relu"
        Applied to the output, fused into the product where the device can.
    bias : bool
        Add one bias a filter.
    init, bias_init : Initialiser or str
        Initial values (the paper, section 5: weights N(0, 0.01), biases 1 or 0); by name as in
        :func:`pyconvnet.layers.initialiser`, "he" say.
    lr_mult, bias_lr_mult : float
        Factors on the run's learning rate (cuda-convnet's epsW, epsB; Caffe's lr_mult). 0 leaves the array
        untouched.
    decay_mult, bias_decay_mult : float
        Factors on the run's weight decay (cuda-convnet's wc). Biases are not decayed by default, as in the
        2012 code.
    frozen : bool
        Train neither weights nor biases, and skip their gradients.
    share : str or None
        Name of an earlier layer whose parameters this one uses instead of its own (cuda-convnet's
        weightSource). Initial values and multipliers are that layer's.
    """

    activation: str | None = field(default=None, kw_only=True)
    bias: bool = field(default=True, kw_only=True)
    init: Initialiser | str = field(default=Normal(0.01), kw_only=True)
    bias_init: Initialiser | str = field(default=Constant(0.0), kw_only=True)
    lr_mult: float = field(default=1.0, kw_only=True)
    bias_lr_mult: float = field(default=1.0, kw_only=True)
    decay_mult: float = field(default=1.0, kw_only=True)
    bias_decay_mult: float = field(default=0.0, kw_only=True)
    frozen: bool = field(default=False, kw_only=True)
    share: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        kind = type(self).__name__
        one_of(kind, "activation", self.activation, None, "relu")
        for name in ("bias", "frozen"):
            object.__setattr__(self, name, flag(kind, name, getattr(self, name)))
        for name in ("init", "bias_init"):
            object.__setattr__(self, name, initialiser(getattr(self, name), f"{kind}: {name}"))
        if self.share is not None and not isinstance(self.share, str):
            raise TypeError(f"{kind}: share must be the name of a layer or None, got {self.share!r}")
        if self.share is not None:
            for name in _OF_THE_OWNER:
                if getattr(self, name) != getattr(WeightLayer, name):
                    raise ValueError(
                        f"{kind}: {name} belongs to the layer whose parameters are shared, {self.share!r}"
                    )
        self._check_numbers(
            lr_mult="number >= 0",
            bias_lr_mult="number >= 0",
            decay_mult="number >= 0",
            bias_decay_mult="number >= 0",
        )

    @property
    def rectifies(self) -> bool:
        return self.activation == "relu"

    def _parameters(self, weight: Shape, outputs: int, groups: int = 1) -> list[Parameter]:
        scale = 0.0 if self.frozen else 1.0
        rate, decay = scale * self.lr_mult, self.decay_mult
        what = {"operand": True, "groups": groups, "per_channel": True}
        out = [Parameter("weight", weight, self.init, rate, decay, **what)]
        if self.bias:
            rate, decay = scale * self.bias_lr_mult, self.bias_decay_mult
            out.append(Parameter("bias", (outputs,), self.bias_init, rate, decay, per_channel=True))
        return out
