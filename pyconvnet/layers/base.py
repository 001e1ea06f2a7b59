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

from . import initialisers
from .initialisers import Constant, Initialiser, Normal, initialiser

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Parameter:
    """One parameter array of a layer: its name inside the layer, shape, initial values and multipliers.

    ``init`` may be a name, see :func:`pyconvnet.layers.initialiser`. ``operand`` says that it is a factor of
    the layer's products, which then read it in their own dtype; ``groups``, that each of so many slices of
    the first axis sees its own inputs alone, which counts for the fans that initial values go by.
    """

    name: str
    shape: Shape
    init: Initialiser | str
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    operand: bool = False
    groups: int = 1

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
        Which part of the whole batch's output this pass holds, and how many channels the whole has; None: all
        of it.
    masked : bool
        Backward is called a second time with the same ``dy``, which has already gone back through the fused
        activation.
    rectified : bool
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
        The layer reads the images, and they are in the depth layout of its convolution, see
        :mod:`pyconvnet.ops.depth`.
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
    rectified: bool = False
    mask_input: bool = False
    labels: Any = None
    class_weights: Any = None
    metrics: Any = None
    precision: str = "fp32"
    depth: bool = False
    workspace: Any = None
    scratch: Any = None


_KINDS: dict[str, type[Layer]] = {}


def register(kind: type[Layer]) -> type[Layer]:
    """Class decorator: make a layer known to :func:`from_dict` under its class name."""
    _KINDS[kind.__name__] = kind
    return kind


@dataclass(frozen=True)
class Layer:
    """Base of all layers. Subclasses are frozen dataclasses whose fields are the hyper-parameters.

    Parameters
    ----------
    device : int, "all" or None
        Where the layer lies when the network is split over several devices: whole on the tower of that number
        (cuda-convnet's ``gpu=``), in slices on all of them, or (None) as
        :mod:`pyconvnet.parallel.partition` decides. On one device it says nothing.
    """

    device: int | str | None = field(default=None, kw_only=True)

    #: How many inputs the layer takes: (least, most); most None means any number.
    arity: ClassVar[tuple[int, int | None]] = (1, 1)
    #: A cost: ends a branch of the graph in a scalar and produces the first gradient during its forward pass.
    is_cost: ClassVar[bool] = False
    #: A cost that heeds ``ctx.class_weights``.
    weighs_classes: ClassVar[bool] = False
    #: Backward fills all of ``dxs`` at once, so the plan gives scratch where a gradient is not wanted.
    wants_every_dx: ClassVar[bool] = False
    #: Backward can send the gradient of the only input back through the ReLU that the input came out of.
    masks_input: ClassVar[bool] = False
    #: Short word that automatic names start with.
    stem: ClassVar[str] = "layer"

    # ---- shapes --------------------------------------------------------------------------------------------
    def output_shape(self, *inputs: Shape) -> Shape:
        """Shape of the output without the batch; raises ValueError where the inputs do not suit the layer."""
        raise NotImplementedError

    def parameters(self, *inputs: Shape) -> list[Parameter]:
        """The layer's own parameters, in a fixed order."""
        return []

    def saved(self, dtype: np.dtype, *inputs: Shape) -> dict[str, tuple[Shape, np.dtype]]:
        """Arrays that forward leaves for backward: name -> (shape without the batch, dtype); ``dtype`` is
        that of inputs and outputs.
        """
        return {}

    def multiply_adds(self, *inputs: Shape) -> int:
        """Multiply-adds of one example's forward pass (convolutions and products only, as is the custom)."""
        return 0

    @property
    def rectifies(self) -> bool:
        """Whether the output is that of a ReLU."""
        return False

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
        """JSON-ready description: the class name and every hyper-parameter that differs from its default."""
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
    """Rebuild a layer from its :meth:`Layer.to_dict`; raises ValueError for anything it does not know."""
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


# ---- checks shared by the layers ---------------------------------------------------------------------------
def check_number(what: str, value: Any, rule: str) -> None:
    """Raise TypeError or ValueError unless ``value`` obeys ``rule``."""
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if rule in ("positive int", "int >= 0"):
        if not number:
            raise TypeError(f"{what} must be an int, got {value!r}")
        if value < (1 if rule == "positive int" else 0):
            raise ValueError(
                f"{what} must be {'at least 1' if rule == 'positive int' else 'at least 0'}, got {value}"
            )
        return
    if not number and not isinstance(value, (float, np.floating)):
        raise TypeError(f"{what} must be a number, got {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"{what} must be finite, got {value!r}")
    if rule == "number >= 0" and value < 0:
        raise ValueError(f"{what} must not be negative, got {value!r}")
    if rule == "probability" and not 0 <= value < 1:
        raise ValueError(f"{what} must be in [0, 1), got {value!r}")


def pair(what: str, value: Any, rule: str = "positive int") -> tuple[int, int]:
    """An int or a pair of ints as a pair (vertical, horizontal)."""
    values = (value, value) if not isinstance(value, (tuple, list)) else tuple(value)
    if len(values) != 2:
        raise ValueError(f"{what} must be an int or a pair (vertical, horizontal), got {value!r}")
    for v in values:
        check_number(what, v, rule)
    return int(values[0]), int(values[1])


def padding(what: str, value: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """``int``, ``(h, w)`` or ``((top, bottom), (left, right))`` as the last of these."""
    if isinstance(value, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in value):
        if len(value) != 2:
            raise ValueError(
                f"{what} must be an int, (h, w) or ((top, bottom), (left, right)), got {value!r}"
            )
        return pair(what, tuple(value[0]), "int >= 0"), pair(what, tuple(value[1]), "int >= 0")
    h, w = pair(what, value, "int >= 0")
    return (h, h), (w, w)


def extent(size: int, window: int, stride: int, before: int, after: int, ceil_mode: bool = False) -> int:
    """Positions of a window along one axis; 0 or less where it does not fit. Rounds down unless
    ``ceil_mode``.
    """
    room = size + before + after - window
    if not ceil_mode:
        return room // stride + 1
    count = -(-room // stride) + 1
    # A last window hangs over the end, but has to start inside the image or the leading padding.
    return count - 1 if (count - 1) * stride >= size + before else count


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
        if self.activation not in (None, "relu"):
            raise ValueError(f"{kind}: activation must be None or 'relu', got {self.activation!r}")
        for name in ("bias", "frozen"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{kind}: {name} must be True or False, got {getattr(self, name)!r}")
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
        rates = scale * self.lr_mult, self.decay_mult
        out = [Parameter("weight", weight, self.init, *rates, operand=True, groups=groups)]
        if self.bias:
            out.append(
                Parameter("bias", (outputs,), self.bias_init, scale * self.bias_lr_mult, self.bias_decay_mult)
            )
        return out
