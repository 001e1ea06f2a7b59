"""One device's share of a plan: its parameters, activations and gradients, allocated once.

A value is named by its layer where the device holds it, and by (layer, region) where the device has gathered
a copy of what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .. import ops
from ..common.devices import Device
from ..common.precision import BFLOAT16
from ..layers import Parameter
from ..network.node import INPUT, Node
from ..network.partition import Partition
from ..network.regions import Local, Region, gradient_names
from ..ops.space_to_depth import Depth
from .buffers import Arena, Workspace

#: Name of a value on one device.
Key = Any


class Shard:
    """Buffers of one device.

    Attributes
    ----------
    index : int
        Number of the device in the plan's list.
    outputs, gradients : dict of Key to array
        Over the whole capacity of rows.
    saved : dict of str to dict
        By layer, what forward keeps for backward.
    w, g, v : flat arrays of parameters, gradients, momenta; ``parameters``, ``parameter_gradients``,
        ``momenta`` are views of them by full name.
    w_bf16 : flat bfloat16 array laid out as w, or None
        What products in bfloat16 read; every update writes it along with w.
    operands : dict of str to array
        By full name, the parameters as the layers read them: views of w_bf16 where a product reads them and
        activations are bfloat16, else of w.
    hyper : array (2,)
        Learning rate and momentum.
    step_array : array (1,) int64
        Number of updates so far.
    space_to_depth : ops.space_to_depth.Depth or None
        The layout in which the images are kept; None: their own.
    labels : array (batch_size,) int32
    class_weights : dict of str to array (outputs,)
        By cost; empty: none.
    metrics : array (costs, 4) float64
    """

    def __init__(
        self,
        index: int,
        device: Device,
        partition: Partition,
        batch_size: int,
        dtype: np.dtype,
        activations: np.dtype,
        training: bool,
        input_gradient: bool,
        space_to_depth: Depth | None,
    ):
        self.index, self.device, self.partition = index, device, partition
        self.network, self.batch_size, self.dtype = partition.network, batch_size, dtype
        self.activations, self.training, self.space_to_depth = activations, training, space_to_depth
        self.locals = partition.locals[index]
        self._nbytes = 0
        self._scratch: dict[Any, Any] = {}
        self.class_weights: dict[str, Any] = {}
        self.workspace = Workspace(device)
        self._allocate_parameters()
        self._allocate_outputs()
        self.gradients: dict[Key, Any] = {}
        if training:
            self._allocate_gradients(set(gradient_names(self.network, input_gradient)))

    # ---- memory --------------------------------------------------------------------------------------------
    def zeros(self, shape: Any, dtype: Any = None) -> Any:
        """Allocate an array, of the dtype of parameters unless told otherwise; zeroed, so that a gap or an
        unread row can never be a NaN that escapes into a sum.
        """
        array = self.device.zeros(shape, self.dtype if dtype is None else dtype)
        self._nbytes += array.nbytes
        return array

    def scratch(self, slot: Any, shape: Any, dtype: Any = None) -> Any:
        """Lend memory that stays, of the dtype of activations unless told otherwise; equal slots, shapes and
        dtypes are the same memory.
        """
        dtype = np.dtype(self.activations if dtype is None else dtype)
        key = (slot, tuple(shape), dtype)
        if key not in self._scratch:
            self._scratch[key] = self.zeros(shape, dtype)
        return self._scratch[key]

    def rows(self, slot: Any, region: Region, shape: tuple[int, ...], count: int) -> Any:
        """Lend scratch for ``count`` rows of a region of a value whose examples have ``shape``."""
        return self.scratch(slot, (region.capacity(self.batch_size), *shape[:-1], region.channels))[:count]

    @property
    def nbytes(self) -> int:
        return self._nbytes + self.workspace.nbytes

    def _allocate_parameters(self) -> None:
        self.slices: dict[str, tuple[int, int]] = {}
        specs: dict[str, Parameter] = {}
        for owner, slices in self.partition.filters.items():
            piece = slices[self.index]
            if piece is None:
                continue
            for p in self.network[owner].parameters():
                name = f"{owner}.{p.name}"
                specs[name], self.slices[name] = p.part(*piece), p.rows(*piece)
        self.arena = Arena(specs)
        size = max(1, self.arena.size)
        self.w = self.zeros(size)
        self.parameters = self.arena.views(self.w)
        self.operands, self.w_bf16 = dict(self.parameters), None
        if self.activations == BFLOAT16:
            self.w_bf16 = self.zeros(size, BFLOAT16)
            copies = self.arena.views(self.w_bf16)
            self.operands |= {name: copies[name] for name, p in specs.items() if p.operand}
        self.hyper, self.step_array = self.zeros(2), self.zeros(1, np.int64)
        if self.training:
            self.g, self.v = self.zeros(size), self.zeros(size)
            self.parameter_gradients, self.momenta = self.arena.views(self.g), self.arena.views(self.v)
            # A device without parameters updates one frozen element: its count of steps has to go on.
            self.ends = self.arena.ends if specs else np.array([size], np.int64)
            self._ends_of = {(0, len(self.ends)): self.device.asarray(self.ends)}
            self.lr_mult = self.device.asarray(self.per_parameter("lr_mult"))
            self.weight_decay = self.zeros(len(self.ends))

    def per_parameter(self, attribute: str) -> np.ndarray:
        """Collect a multiplier of every parameter array."""
        values = [getattr(p, attribute) for p in self.arena.specs.values()]
        return np.array(values or [0.0], self.dtype)

    def _allocate_outputs(self) -> None:
        self.outputs: dict[Key, Any] = {}
        self.saved: dict[str, dict[str, Any]] = {}
        held = self.partition.held[INPUT][self.index]
        if self._sees_images():
            shape = self.network.input_shape
            if self.space_to_depth is not None:
                shape = self.space_to_depth.shape("Plan", shape, self.activations)
            self.outputs[INPUT] = self.zeros((held.capacity(self.batch_size), *shape), self.activations)
        for source, region, _ in self.partition.gathers(self.index):
            shape = self._shape(source)
            size = region.capacity(self.batch_size)
            self.outputs[source, region] = self.zeros((size, *shape[:-1], region.channels), self.activations)
        for local in self.locals:
            node, size = local.node, local.holds.capacity(self.batch_size)
            shape = () if node.layer.is_cost else (size, *node.output_shape[:-1], local.holds.channels)
            self.outputs[node.name] = self.zeros(shape, self.dtype if shape == () else self.activations)
            kept = local.layer.saved(self.activations, *self.input_shapes(local))
            self.saved[node.name] = {key: self.zeros((size, *s), kind) for key, (s, kind) in kept.items()}
        self.costs = [node.name for node in self.network.costs]
        self.metrics = self.zeros((len(self.costs), 4), np.float64)
        self.labels = self.zeros((self.batch_size,), np.int32)

    def _sees_images(self) -> bool:
        """Tell whether a layer here, or one elsewhere that gathers from here, reads the images."""
        if any(INPUT in local.sources for local in self.locals):
            return True
        p = self.partition
        return any(
            piece.source == self.index
            for d in range(len(p.devices))
            for source, region, _ in p.gathers(d)
            if source == INPUT
            for piece in p.contributions(source, d, region)
        )

    def _allocate_gradients(self, needed: set[str]) -> None:
        """Allocate gradient buffers of what is held or gathered here and needs one."""
        self.needed = needed
        costs = [local for local in self.locals if local.node.layer.is_cost]
        for key, array in self.outputs.items():
            name = key if isinstance(key, str) else key[0]
            if name not in needed or not self._feeds_gradient(key):
                continue
            # A cost writes its gradient during forward, straight into its input's buffer where it is the
            # first cost there.
            if key in self.partition.gradient_aliases:
                self.gradients[key] = self.gradients[self.partition.gradient_aliases[key]]
                continue
            cost = next((c for c in costs if self.key(c.sources[0], c.reads[0]) == key), None)
            self.gradients[key] = (
                self.zeros(array.shape, self.activations)
                if cost is None
                else self.saved[cost.node.name]["gradient"]
            )

    def _feeds_gradient(self, key: Key) -> bool:
        if isinstance(key, str):
            return True  # held here: its layer's backward reads it, and other devices may add to it
        return any(
            key in [self.key(s, r) for s, r in zip(local.sources, local.reads, strict=True)]
            and (local.node.layer.is_cost or local.node.name in self.needed)
            for local in self.locals
        )

    # ---- update --------------------------------------------------------------------------------------------
    def updater(self, run: slice, beside: bool = False) -> Callable[[], None]:
        """Make what takes a step of gradient descent with momentum and weight decay on a run of the parameter
        arrays here; the one from the first array on counts the step.

        ``beside`` other kernels it does so on a small part of the card.
        """
        begin, end, _ = run.indices(len(self.ends))
        first, last = int(self.ends[begin - 1]) if begin else 0, int(self.ends[end - 1])
        if (begin, end) not in self._ends_of:
            self._ends_of[begin, end] = self.device.asarray(self.ends[run] - first)
        w, v, g = (flat[first:last] for flat in (self.w, self.v, self.g))
        kernel = "sgd_momentum_beside" if beside and self.device.ext is not None else None
        arguments = {
            "hyper": self.hyper,
            "ends": self._ends_of[begin, end],
            "lr_mult": self.lr_mult[run],
            "weight_decay": self.weight_decay[run],
            "step": None if begin else self.step_array,
            "w_bf16": None if self.w_bf16 is None else self.w_bf16[first:last],
        }
        return lambda: ops.sgd_momentum(w, v, g, **arguments, kernel=kernel)

    # ---- names and shapes ----------------------------------------------------------------------------------
    def key(self, source: str, region: Region) -> Key:
        """Return the name under which a region of a value is found here."""
        return source if self.partition.held[source][self.index] == region else (source, region)

    def _shape(self, source: str) -> tuple[int, ...]:
        return self.network.input_shape if source == INPUT else self.network[source].output_shape

    def input_shapes(self, local: Local) -> list[tuple[int, ...]]:
        """Return the shapes, without the batch, of what a layer reads here."""
        pairs = zip(local.sources, local.reads, strict=True)
        return [(*self._shape(source)[:-1], region.channels) for source, region in pairs]

    def views(self, node: Node, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Collect a layer's parameters (or their gradients) under the names the layer knows."""
        return {p.name: arrays[f"{node.owner}.{p.name}"] for p in node.parameters()}

    @property
    def input(self) -> Any:
        """The images' part that is fed to this device, in the layout ``space_to_depth`` says."""
        return self.outputs[INPUT]
