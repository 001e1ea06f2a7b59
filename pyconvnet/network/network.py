"""The graph of named layers. It knows names, edges and shapes; no device, no buffer, no numbers."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .. import layers
from ..common.checks import check_number
from ..common.text import columns
from ..layers import Layer, Parameter, WeightLayer
from ..layers.base import Shape, check_declarations
from ..layers.initialisers import Constant, Initialiser, initialiser
from .node import INPUT, Graph, Node, node_bytes
from .partition import Partition, partition

_RESERVED = (INPUT, "labels")
_FORMAT = 1
#: Options of ``train()`` that a network may bring defaults for.
RECIPE_OPTIONS = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "schedule", "augment")


class Network(Graph):
    """A directed acyclic graph of layers, built in order of computation.

    Parameters
    ----------
    name : str
    input_shape : (H, W, C)
        One image, or (features,) for vectors.
    recipe : dict, optional
        Defaults that :func:`pyconvnet.train` takes for this network: any of epochs, batch_size, lr, momentum,
        weight_decay, schedule, augment.
    init : Initialiser or str, optional
        Initial values of the whole network, by name as in :func:`pyconvnet.layers.initialiser` ("he", say),
        in place of the layers' own: every parameter of two axes or more is drawn by this rule, every
        parameter called "bias" starts at zero, and any other (a factor per channel, say) as its layer wants.

    Examples
    --------
    >>> net = Network("tiny", input_shape=(8, 8, 1))
    >>> net = net.add(Conv2d(16, 3, pad=1, activation="relu")).add(MaxPool2d())
    >>> net = net.add(Linear(10)).add(SoftmaxCrossEntropy())
    >>> print(net.summary())
    """

    def __init__(
        self,
        name: str,
        input_shape: Sequence[int],
        recipe: Mapping[str, Any] | None = None,
        init: Initialiser | str | None = None,
    ):
        if not isinstance(name, str) or not name:
            raise ValueError(f"Network: name must be a non-empty string, got {name!r}")
        if not isinstance(input_shape, (tuple, list)) or len(input_shape) not in (1, 3):
            raise ValueError(f"Network: input_shape must be (H, W, C) or (features,), got {input_shape!r}")
        for extent in input_shape:
            check_number("Network: every extent of input_shape", extent, "positive int")
        self.name = name
        self.input_shape: Shape = tuple(int(e) for e in input_shape)
        self.recipe: dict[str, Any] = dict(recipe or {})
        for option in self.recipe:
            if option not in RECIPE_OPTIONS:
                raise ValueError(f"Network: recipe may hold {', '.join(RECIPE_OPTIONS)}, got {option!r}")
        self.init = None if init is None else initialiser(init, "Network: init")
        self._nodes: dict[str, Node] = {}

    # ---- building ------------------------------------------------------------------------------------------
    def add(
        self, layer: Layer, name: str | None = None, inputs: str | Sequence[str] | None = None
    ) -> Network:
        """Append a layer and return the network, so that calls chain.

        Parameters
        ----------
        layer : Layer
        name : str, optional
            Default: the kind of layer and a number, e.g. ``conv2``.
        inputs : str or sequence of str, optional
            Names of earlier layers, or ``"input"`` for the images. Default: the layer added last.

        Raises
        ------
        TypeError
            ``layer`` is no Layer.
        ValueError
            The name is taken, an input is unknown, or the shapes do not fit; the message names the layers.
        """
        if not isinstance(layer, Layer):
            raise TypeError(f"Network.add: layer must be a Layer such as Conv2d(...), got {layer!r}")
        name = self._free_name(layer) if name is None else name
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_\-]+", name):
            raise ValueError(f"Network.add: name must be made of letters, digits, _ and -, got {name!r}")
        if name in self._nodes or name in _RESERVED:
            raise ValueError(f"Network.add: the name {name!r} is already taken")
        if inputs is None:
            inputs = (next(reversed(self._nodes), INPUT),)
        inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self._nodes[name] = self._place(name, len(self._nodes), layer, inputs)
        return self

    def configure(self, name: str, **options: Any) -> Network:
        """Change hyper-parameters of a layer in place, e.g. ``net.configure("conv1", frozen=True)``; shapes
        must not change.
        """
        node = self[name]
        known = [f.name for f in dataclasses.fields(node.layer)]
        for option in options:
            if option not in known:
                raise ValueError(
                    f"Network.configure: {node} has no option {option!r}; it has {', '.join(known)}"
                )
        changed = self._place(name, node.index, dataclasses.replace(node.layer, **options), node.inputs)
        if changed.output_shape != node.output_shape or [p.shape for p in changed.parameters()] != [
            p.shape for p in node.parameters()
        ]:
            raise ValueError(f"Network.configure: {node}: {options} would change its shapes")
        self._nodes[name] = changed
        return self

    def with_init(self, init: Initialiser | str | None) -> Network:
        """Return the same network with other initial values; see the parameter ``init``."""
        other = copy.copy(self)
        other.init = None if init is None else initialiser(init, "Network.with_init: init")
        other.recipe, other._nodes = dict(self.recipe), dict(self._nodes)
        return other

    def _free_name(self, layer: Layer) -> str:
        number = 1
        while f"{layer.stem}{number}" in self._nodes:
            number += 1
        return f"{layer.stem}{number}"

    def _place(self, name: str, index: int, layer: Layer, inputs: tuple[str, ...]) -> Node:
        what = f"layer {name!r} ({type(layer).__name__})"
        least, most = layer.arity
        if len(inputs) < least or (most is not None and len(inputs) > most):
            wanted = (
                str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
            )
            raise ValueError(
                f"{what}: takes {wanted} input{'' if wanted == '1' else 's'}, got {len(inputs)}: {inputs}"
            )
        shapes = []
        for source in inputs:
            if source == INPUT:
                shapes.append(self.input_shape)
                continue
            node = self._nodes.get(source)
            if node is None or node.index >= index:
                have = ", ".join([INPUT, *(n for n, other in self._nodes.items() if other.index < index)])
                raise ValueError(f"{what}: input {source!r} is no earlier layer; there are: {have}")
            if node.layer.is_cost:
                raise ValueError(f"{what}: input {source!r} is a cost, whose value no layer can read")
            shapes.append(node.output_shape)
        try:
            output = tuple(layer.output_shape(*shapes))
            own = layer.parameters(*shapes)
            check_declarations(layer, shapes, output, own)
            if layer.device is not None and layer.device != "all":
                check_number("device (unless 'all' or None)", layer.device, "int >= 0")
        except (ValueError, TypeError) as error:
            raise type(error)(f"{what} after {', '.join(map(repr, inputs))}: {error}") from None
        owner = name
        if isinstance(layer, WeightLayer) and layer.share is not None:
            owner = self._owner(what, layer, own, index)
        return Node(name, index, layer, inputs, tuple(shapes), output, owner)

    def _owner(self, what: str, layer: WeightLayer, own: list[Parameter], index: int) -> str:
        source = self._nodes.get(layer.share)  # type: ignore[arg-type]
        if source is None or source.index >= index:
            raise ValueError(f"{what}: share={layer.share!r} is no earlier layer")
        theirs = [(p.name, p.shape) for p in source.parameters()]
        mine = [(p.name, p.shape) for p in own]
        if theirs != mine:
            raise ValueError(
                f"{what}: cannot share the parameters of {source.name!r}: needs {mine}, it has {theirs}"
            )
        return source.owner

    # ---- reading -------------------------------------------------------------------------------------------
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Network) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        size = f"{len(self)} layers, {self.num_parameters:,} parameters"
        return f"Network({self.name!r}, input_shape={self.input_shape}, {size})"

    def parameters(self) -> dict[str, Parameter]:
        """Return every parameter once, by full name, e.g. ``conv1.weight``, in a fixed order."""
        return {
            f"{node.name}.{p.name}": p
            for node in self
            if node.owner == node.name
            for p in self._beginning(node)
        }

    def _beginning(self, node: Node) -> list[Parameter]:
        """Return a layer's parameters with the initial values that they have in this network."""
        if self.init is None:
            return node.parameters()
        rules = {"bias": Constant(0.0)}
        return [
            dataclasses.replace(p, init=self.init if len(p.shape) > 1 else rules.get(p.name, p.init))
            for p in node.parameters()
        ]

    @property
    def wants_unit_variance(self) -> bool:
        """Whether a layer that meets the images starts from values drawn by its fans, which keep the variance
        of what comes in: pixels of 0 to 255 would then be 60 times too large.
        """
        unweighted = {INPUT}  # what no parameter has seen
        for node in self:
            if unweighted.intersection(node.inputs):
                own = self._beginning(node)
                if any(p.init.needs_fans for p in own):
                    return True
                if not own:
                    unweighted.add(node.name)
        return False

    @property
    def num_parameters(self) -> int:
        return sum(p.size for p in self.parameters().values())

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one example's forward pass."""
        return sum(node.layer.multiply_adds(*node.input_shapes) for node in self)

    def initial(self, seed: int = 0, dtype: Any = np.float32) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (full name, initial values) of every parameter; pure function of the seed and the network."""
        for node in self:
            if node.owner != node.name:
                continue
            for position, p in enumerate(self._beginning(node)):
                value = np.empty(p.shape, dtype)
                p.init.fill(value, seed, node.index, position, p.groups)
                yield f"{node.name}.{p.name}", value

    def partition(
        self,
        devices: int | Sequence[str],
        replicas: int = 1,
        hybrid: bool = False,
        *,
        batch_size: int = 128,
    ) -> Partition:
        """Split the network over devices: per layer and device the channels held, what crosses, bytes a step.
        ``print`` it. See :func:`pyconvnet.network.partition.partition`.
        """
        return partition(self, devices, replicas, hybrid, batch_size=batch_size)

    # ---- description ---------------------------------------------------------------------------------------
    def to_dict(self) -> dict:
        """Describe the network, ready for JSON; :meth:`from_dict` rebuilds the network from it."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "input_shape": list(self.input_shape),
            "recipe": json.loads(json.dumps(self.recipe)),
            **({} if self.init is None else {"init": self.init.to_dict()}),
            "layers": [{"name": n.name, "inputs": list(n.inputs), **n.layer.to_dict()} for n in self],
        }

    @classmethod
    def from_dict(cls, description: Mapping) -> Network:
        """Rebuild a network from :meth:`to_dict`; raise ValueError for a description that makes no sense."""
        if not isinstance(description, Mapping) or description.get("format") != _FORMAT:
            raise ValueError(f"network description: format must be {_FORMAT}")
        try:
            how = (description.get(option) for option in ("recipe", "init"))
            net = cls(description["name"], description["input_shape"], *how)
            items = [dict(item) for item in description["layers"]]
            edges = [(item.pop("name"), item.pop("inputs"), item) for item in items]
        except (KeyError, TypeError) as error:
            raise ValueError(f"network description: {error!r} is missing or wrong") from None
        names = [name for name, _, _ in edges]
        for name, inputs, item in edges:
            for source in inputs:
                if source in names and source not in net:
                    raise ValueError(
                        f"network description: layer {name!r} reads {source!r}, "
                        "which does not come before it (a cycle?)"
                    )
            net.add(layers.from_dict(item), name=name, inputs=inputs)
        return net

    def summary(self, batch_size: int = 128) -> str:
        """Tabulate shapes, parameters, multiply-adds an example, and float32 training memory at
        ``batch_size``.

        Memory counts what a plan allocates: output, its gradient and what forward keeps for backward, times
        the batch; and parameters with gradient and momentum. A plan that fuses layers needs less.
        """
        check_number("summary: batch_size", batch_size, "positive int")
        head = ("layer", "kind", "inputs", "output", "parameters", "multiply-adds", "activations", "weights")
        rows = [
            (
                INPUT,
                "",
                "",
                _shape(self.input_shape),
                "",
                "",
                _size(4 * batch_size * int(np.prod(self.input_shape))),
                "",
            )
        ]
        totals = [0, 0, 4 * batch_size * int(np.prod(self.input_shape)), 0]
        for node in self:
            count = sum(p.size for p in node.parameters()) if node.owner == node.name else 0
            macs = node.layer.multiply_adds(*node.input_shapes)
            memory = batch_size * node_bytes(node)
            for i, value in enumerate((count, macs, memory, 12 * count)):
                totals[i] += value
            parameters = f"{count:,}" if count else (f"= {node.owner}" if node.owner != node.name else "")
            rows.append(
                (
                    node.name,
                    type(node.layer).__name__,
                    ", ".join(node.inputs),
                    _shape(node.output_shape) or "loss",
                    parameters,
                    f"{macs:,}" if macs else "",
                    _size(memory),
                    _size(12 * count) if count else "",
                )
            )
        rows.append(
            (
                "total",
                "",
                "",
                "",
                f"{totals[0]:,}",
                f"{totals[1]:,}",
                _size(totals[2]),
                _size(totals[3]) if totals[0] else "",
            )
        )
        first, *lines = columns([head, *rows], right=(4, 5, 6, 7))
        rule = "-" * len(first)
        title = f"{self.name}: {self.num_parameters:,} parameters, memory for training at batch {batch_size}"
        return "\n".join([title, rule, first, rule, *lines[:-1], rule, lines[-1]])


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape))


def _size(count: float) -> str:
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"
