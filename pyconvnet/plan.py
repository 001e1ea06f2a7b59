"""A network made ready for a device: every buffer allocated once, every call of a step prepared.

The plan knows buffers and order; the mathematics is the layers', the arithmetic the ops'. What changes from
step to step (learning rate, momentum, step number) lives in device memory, and a step allocates nothing, so
that a captured CUDA graph can repeat it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import ops
from .buffers import Arena, Metrics, Workspace
from .devices import Device, get_device
from .layers import Context
from .layers.base import check_number
from .model import Preprocessing, check_parameters
from .network import INPUT, Network, Node


@dataclass
class _Call:
    """One layer of a pass over n examples: all views made, nothing left to look up."""

    node: Node
    ctx: Context
    xs: list
    y: Any
    params: dict
    saved: dict
    dy: Any = None
    dxs: list = field(default_factory=list)
    grads: dict = field(default_factory=dict)
    sums: list = field(default_factory=list)  # (gradient, contribution) pairs to add once backward has run
    backward: bool = False


class Plan:
    """A network, its buffers on one device, and the calls that train it.

    Parameters
    ----------
    network : Network
    device : str, Device or None
        None: ``cuda:0`` where it works, else ``cpu``.
    batch_size : int
        Most examples in a pass; any smaller number may be fed.
    dtype : float32, or float64 on ``cpu``
    train : bool
        False leaves out gradients and momenta.
    seed : int
        Key of the initial parameters and of dropout.
    initialise : bool
        False leaves the parameters at zero, for a caller that sets them.
    input_gradient : bool
        Also compute the gradient with respect to the images, ``gradients["input"]``.

    Attributes
    ----------
    input : array (batch_size, *network.input_shape)
    labels : array (batch_size,) int32
    outputs, gradients : dict of str to array
        By layer name, over the whole batch size. A gradient is spent once its layer's backward has run:
        layers with a fused activation overwrite it.
    parameters, parameter_gradients, momenta : dict of str to array
        By full name; views of the flat arrays ``w``, ``g``, ``v``.
    hyper : array (2,)
        Learning rate and momentum, on the device.
    step_array : array (1,) int64
        Number of updates so far, on the device.
    metrics : array (costs, 4) float64
        Examples, loss, top-1 errors, top-k errors, summed on the device.
    """

    def __init__(
        self,
        network: Network,
        device: str | Device | None = None,
        batch_size: int = 128,
        dtype: Any = np.float32,
        *,
        train: bool = True,
        seed: int = 0,
        initialise: bool = True,
        input_gradient: bool = False,
    ):
        if not isinstance(network, Network):
            raise TypeError(f"Plan: network must be a Network, got {type(network).__name__}")
        if not len(network):
            raise ValueError(f"Plan: network {network.name!r} has no layers")
        check_number("Plan: batch_size", batch_size, "positive int")
        check_number("Plan: seed", seed, "int >= 0")
        self.network, self.device, self.batch_size = network, get_device(device), int(batch_size)
        self.dtype, self.training, self.seed = np.dtype(dtype), train, int(seed)
        allowed = ("float32", "float64") if self.device.kind == "cpu" else ("float32",)
        if self.dtype.name not in allowed:
            raise ValueError(
                f"Plan: dtype on {self.device.name} must be {' or '.join(allowed)}, got {self.dtype.name}"
            )
        if train and not network.costs:
            raise ValueError(
                f"Plan: network {network.name!r} has no cost to train on; add SoftmaxCrossEntropy()"
            )
        self._nbytes = 0
        self._calls: dict[int, list[_Call]] = {}
        self._staging: dict[str, Any] = {}
        self._preprocessing: Preprocessing | None = None
        self._mean: Any = None
        self.workspace = Workspace(self.device)
        with self._active():
            self._allocate_parameters(initialise)
            self._allocate_activations()
            self._allocate_gradients(input_gradient)

    # ---- buffers -------------------------------------------------------------------------------------------
    def _zeros(self, shape: Any, dtype: Any = None) -> Any:
        # Zeroed, so that a gap or an unread row can never be a NaN that escapes into a sum.
        array = self.device.zeros(shape, self.dtype if dtype is None else dtype)
        self._nbytes += array.nbytes
        return array

    def _allocate_parameters(self, initialise: bool) -> None:
        self.arena = Arena(self.network.parameters())
        size = max(1, self.arena.size)
        self.w = self._zeros(size)
        self.parameters = self.arena.views(self.w)
        self.hyper = self._zeros(2)
        self.step_array = self._zeros(1, np.int64)
        self._hyper_host = np.zeros(2, self.dtype)
        if self.training:
            self.g, self.v = self._zeros(size), self._zeros(size)
            self.parameter_gradients, self.momenta = self.arena.views(self.g), self.arena.views(self.v)
            self._ends = self.device.asarray(self.arena.ends)
            self._lr_mult = self.device.asarray(self._per_parameter("lr_mult"))
            self._weight_decay = self._zeros(len(self.arena.specs))
        if initialise:
            for name, value in self.network.initial(self.seed, self.dtype):
                self._upload(self.parameters[name], value)

    def _per_parameter(self, attribute: str) -> np.ndarray:
        return np.array([getattr(p, attribute) for p in self.arena.specs.values()], self.dtype)

    def _allocate_activations(self) -> None:
        n = self.batch_size
        self.input = self._zeros((n, *self.network.input_shape))
        self.labels = self._zeros((n,), np.int32)
        self.outputs: dict[str, Any] = {INPUT: self.input}
        self._saved: dict[str, dict[str, Any]] = {}
        for node in self.network:
            shape = node.output_shape if node.layer.is_cost else (n, *node.output_shape)
            self.outputs[node.name] = self._zeros(shape)
            saved = node.layer.saved(self.dtype, *node.input_shapes)
            self._saved[node.name] = {key: self._zeros((n, *s), kind) for key, (s, kind) in saved.items()}
        self._costs = [node.name for node in self.network.costs]
        self.metrics = self._zeros((len(self._costs), 4), np.float64)

    def _allocate_gradients(self, input_gradient: bool) -> None:
        """Gradient buffers of the outputs that need one: on the way from a trainable parameter to a cost."""
        self.gradients: dict[str, Any] = {}
        if not self.training:
            return
        nodes = list(self.network)
        learns = {INPUT: input_gradient}
        for node in nodes:
            learns[node.name] = self._trainable(node) or any(learns[source] for source in node.inputs)
        reaches = {source for node in nodes if node.layer.is_cost for source in node.inputs}
        for node in reversed(nodes):
            if node.name in reaches:
                reaches.update(node.inputs)
        needed = [name for name in [INPUT, *(n.name for n in nodes)] if learns[name] and name in reaches]
        if not needed:
            raise ValueError(
                f"Plan: no parameter of network {self.network.name!r} can be trained (all frozen?)"
            )
        for name in needed:
            # A cost writes its gradient during forward, straight into its input's buffer where it is the
            # first cost there.
            cost = next((n for n in nodes if n.layer.is_cost and n.inputs[0] == name), None)
            self.gradients[name] = (
                self._zeros(self.outputs[name].shape) if cost is None else self._saved[cost.name]["gradient"]
            )
        self._scratch: dict[tuple, Any] = {}

    def _trainable(self, node: Node) -> bool:
        if getattr(node.layer, "frozen", False):
            return False
        return any(p.lr_mult > 0 for p in self.network[node.owner].parameters())

    def _scratch_like(self, array: Any, slot: Any) -> Any:
        """Scratch of an array's shape; equal slots share memory, so two scratch arrays of one call need two
        slots.
        """
        key = (slot, array.shape)
        if key not in self._scratch:
            self._scratch[key] = self._zeros(array.shape)
        return self._scratch[key]

    @property
    def nbytes(self) -> int:
        """Bytes of device memory the plan holds."""
        return self._nbytes + self.workspace.nbytes

    # ---- calls ---------------------------------------------------------------------------------------------
    def _program(self, n: int) -> list[_Call]:
        if n not in self._calls:
            self._calls[n] = self._prepare(n)
        return self._calls[n]

    def _prepare(self, n: int) -> list[_Call]:
        calls = []
        for node in self.network:
            ctx = Context(
                seed=self.seed, step=self.step_array, layer=node.index, total=n, workspace=self.workspace
            )
            y = self.outputs[node.name]
            if node.layer.is_cost:
                ctx.labels, ctx.metrics = self.labels[:n], self.metrics[self._costs.index(node.name)]
            else:
                y = y[:n]
            params = {p.name: self.parameters[f"{node.owner}.{p.name}"] for p in node.parameters()}
            saved = {key: value[:n] for key, value in self._saved[node.name].items()}
            calls.append(_Call(node, ctx, [self.outputs[s][:n] for s in node.inputs], y, params, saved))
        if self.training:
            self._prepare_backward(calls, n)
        return calls

    def _prepare_backward(self, calls: list[_Call], n: int) -> None:
        # In the order of execution the first to contribute to a gradient overwrites it, the others add
        # theirs: no zeroing.
        written = {c.node.inputs[0] for c in calls if c.node.layer.is_cost}
        first_cost = {c.node.inputs[0]: c.node.name for c in reversed(calls) if c.node.layer.is_cost}
        written_params: set[str] = set()
        for call in reversed(calls):
            node = call.node
            if node.layer.is_cost:
                source = node.inputs[0]
                if source in self.gradients and first_cost[source] != node.name:
                    call.sums.append((self.gradients[source][:n], call.saved["gradient"]))
                continue
            if node.name not in self.gradients:
                continue
            call.backward = True
            call.dy = self.gradients[node.name][:n]
            for slot, source in enumerate(node.inputs):
                gradient = self.gradients.get(source)
                if gradient is None:
                    every = node.layer.wants_every_dx
                    call.dxs.append(self._scratch_like(self.outputs[source], slot)[:n] if every else None)
                elif source in written:
                    contribution = self._scratch_like(gradient, slot)[:n]
                    call.sums.append((gradient[:n], contribution))
                    call.dxs.append(contribution)
                else:
                    written.add(source)
                    call.dxs.append(gradient[:n])
            if call.params and self._trainable(node):
                for key in call.params:
                    name = f"{node.owner}.{key}"
                    gradient = self.parameter_gradients[name]
                    if name in written_params:
                        contribution = self._scratch_like(gradient, key)
                        call.sums.append((gradient, contribution))
                        call.grads[key] = contribution
                    else:
                        written_params.add(name)
                        call.grads[key] = gradient

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """Inside, ops run on this plan's device."""
        with self.device.activate() if self.device.kind == "cuda" else ops.on(self.device):
            yield

    # ---- one step ------------------------------------------------------------------------------------------
    def feed(
        self, images: np.ndarray, labels: np.ndarray | None = None, draws: Mapping[str, Any] | None = None
    ) -> int:
        """Copy a batch from the host to the device, preprocessed.

        Parameters
        ----------
        images : array (n, H, W, C) uint8 or float32
            Pixels, if preprocessing has been set; else the network's input itself.
        labels : array (n,) of ints, optional
        draws : dict with crop (n, 2), mirror (n,), colour (n, C) or None; optional
            Where each crop lies and how it is changed, as ``data.Augmentation`` draws it. Default: the
            centre.

        Returns
        -------
        n : int
        """
        images = np.asarray(images)
        n = self._check_count(len(images) if images.ndim else 0)
        pre = self._preprocessing
        wanted = self.network.input_shape if pre is None else pre.image_shape
        if images.shape[1:] != wanted:
            raise ValueError(
                f"Plan.feed: images must have shape (n, {', '.join(map(str, wanted))}), got {images.shape}"
            )
        with self._active():
            if pre is None:
                if draws is not None:
                    raise ValueError("Plan.feed: draws need preprocessing; call set_preprocessing first")
                self._upload(self.input[:n], images.astype(self.dtype, copy=False))
            else:
                self._augment(images, n, draws)
            if labels is not None:
                labels = np.asarray(labels)
                if labels.shape != (n,) or labels.dtype.kind not in "iu":
                    raise ValueError(
                        f"Plan.feed: labels must be {n} integers, got {labels.dtype} of shape {labels.shape}"
                    )
                self._upload(self.labels[:n], labels.astype(np.int32, copy=False))
        return n

    def _augment(self, images: np.ndarray, n: int, draws: Mapping[str, Any] | None) -> None:
        pre = self._preprocessing
        h, w, _ = self.network.input_shape
        if draws is None:
            crop = np.tile(
                np.array([(pre.image_shape[0] - h) // 2, (pre.image_shape[1] - w) // 2], np.int32), (n, 1)
            )
            draws = {"crop": crop, "mirror": np.zeros(n, np.uint8), "colour": None}
        colour = draws["colour"]
        ops.augment(
            self._stage("images", images),
            self._stage("crop", draws["crop"]),
            self._stage("mirror", draws["mirror"]),
            None if colour is None else self._stage("colour", colour),
            self._mean,
            size=(h, w),
            scale=pre.scale,
            out=self.input[:n],
        )

    def _stage(self, name: str, value: np.ndarray) -> Any:
        """The host's array where the device can read it: itself, or a copy in a buffer that stays."""
        if self.device.kind != "cuda":
            return np.ascontiguousarray(value)
        buffer = self._staging.get(name)
        if buffer is None or buffer.dtype != value.dtype or buffer.shape[1:] != value.shape[1:]:
            buffer = self._staging[name] = self._zeros((self.batch_size, *value.shape[1:]), value.dtype)
        view = buffer[: len(value)]
        self._upload(view, value)
        return view

    def _upload(self, target: Any, value: np.ndarray) -> None:
        if self.device.kind == "cuda":
            target.set(np.ascontiguousarray(value))
        else:
            np.copyto(target, value)

    def _check_count(self, n: int | None) -> int:
        n = self.batch_size if n is None else n
        if not 1 <= n <= self.batch_size:
            raise ValueError(f"Plan: a pass takes 1 to {self.batch_size} examples, got {n}")
        return n

    def forward(self, n: int | None = None, *, train: bool = True, start: str | None = None) -> None:
        """Run the layers on the first ``n`` examples fed; costs add to ``metrics``.

        ``start`` names the layer to begin with: those before it keep their outputs of the last pass.
        """
        first = 0 if start is None else self.network[start].index
        with self._active():
            for call in self._program(self._check_count(n))[first:]:
                call.ctx.train = train
                call.node.layer.forward(call.ctx, call.xs, call.y, call.params, call.saved)

    def backward(self, n: int | None = None) -> None:
        """Gradients of the summed costs of the last ``forward(n)`` into ``parameter_gradients``."""
        if not self.training:
            raise ValueError("Plan.backward: the plan was made with train=False")
        with self._active():
            for call in reversed(self._program(self._check_count(n))):
                if call.backward:
                    call.node.layer.backward(
                        call.ctx, call.dy, call.xs, call.y, call.params, call.saved, call.dxs, call.grads
                    )
                for gradient, contribution in call.sums:
                    ops.add(gradient, contribution, out=gradient)

    def update(self) -> None:
        """One step of gradient descent with momentum and weight decay over all parameters, then count it."""
        with self._active():
            ops.sgd_momentum(
                self.w,
                self.v,
                self.g,
                hyper=self.hyper,
                ends=self._ends,
                lr_mult=self._lr_mult,
                weight_decay=self._weight_decay,
            )
            self.step_array += 1

    def step(self, n: int | None = None) -> None:
        """forward, backward, update."""
        self.forward(n)
        self.backward(n)
        self.update()

    # ---- settings and results ------------------------------------------------------------------------------
    def set_hyper(self, lr: float, momentum: float) -> None:
        """Learning rate and momentum of the following updates."""
        self._hyper_host[:] = lr, momentum
        with self._active():
            self._upload(self.hyper, self._hyper_host)

    def set_weight_decay(self, weight_decay: float) -> None:
        """Weight decay of the following updates, times each parameter's ``decay_mult``."""
        with self._active():
            self._upload(
                self._weight_decay, (weight_decay * self._per_parameter("decay_mult")).astype(self.dtype)
            )

    @property
    def steps(self) -> int:
        """Number of updates so far; waits for the device."""
        return int(self.device.to_numpy(self.step_array)[0])

    @steps.setter
    def steps(self, value: int) -> None:
        with self._active():
            self._upload(self.step_array, np.array([value], np.int64))

    def set_preprocessing(self, preprocessing: Preprocessing) -> None:
        """From now on :meth:`feed` takes pixels."""
        if preprocessing.input_shape != self.network.input_shape:
            raise ValueError(
                f"Plan: preprocessing makes inputs of shape {preprocessing.input_shape}, "
                f"network {self.network.name!r} takes {self.network.input_shape}"
            )
        self._preprocessing = preprocessing
        with self._active():
            self._mean = None if preprocessing.mean is None else self.device.asarray(preprocessing.mean)

    def set_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Overwrite all parameters, given by full name on the host."""
        check_parameters("Plan", self.network, values)
        self._set(self.parameters, values)

    def set_momenta(self, values: Mapping[str, np.ndarray]) -> None:
        """Overwrite all momenta, given by full name on the host."""
        check_parameters("Plan: momenta", self.network, values)
        self._set(self.momenta, values)

    def _set(self, target: Mapping[str, Any], values: Mapping[str, np.ndarray]) -> None:
        with self._active():
            for name, view in target.items():
                self._upload(view, np.asarray(values[name], self.dtype))

    def get_parameters(self) -> dict[str, np.ndarray]:
        """A copy of all parameters on the host."""
        return self._get(self.w)

    def get_momenta(self) -> dict[str, np.ndarray]:
        """A copy of all momenta on the host."""
        return self._get(self.v)

    def get_gradients(self) -> dict[str, np.ndarray]:
        """A copy of all parameters' gradients on the host."""
        return self._get(self.g)

    def _get(self, flat: Any) -> dict[str, np.ndarray]:
        host = self.device.to_numpy(flat)  # one copy for all
        return {name: view.copy() for name, view in self.arena.views(host).items()}

    def read_metrics(self) -> dict[str, Metrics]:
        """The sums of every cost since the last reset, by name; waits for the device."""
        values = self.device.to_numpy(self.metrics)
        return {name: Metrics(*map(float, row)) for name, row in zip(self._costs, values, strict=True)}

    def reset_metrics(self) -> None:
        """Start the sums again at zero."""
        with self._active():
            self.metrics.fill(0)

    def set_metrics(self, values: np.ndarray) -> None:
        """Put back sums saved earlier, array (costs, 4)."""
        with self._active():
            self._upload(self.metrics, np.asarray(values, np.float64).reshape(self.metrics.shape))

    def loss(self) -> float:
        """The objective of the last forward pass: the weighted sum of its costs. Waits for the device."""
        return sum(
            node.layer.weight * float(self.device.to_numpy(self.outputs[node.name]).reshape(()))
            for node in self.network.costs
        )

    def scores(self, n: int | None = None) -> Any:
        """View of the class scores (before softmax) of the last forward pass, (n, classes), on the device."""
        return self.outputs[self.network.output][: self._check_count(n)]

    def first_nonfinite(self, n: int | None = None) -> str | None:
        """Where the last forward pass first met NaN or infinity, in words; None where all is finite.

        Parameters are looked at as they are now, layer by layer in order, each before the layer's output.
        """
        n = self._check_count(n)
        if not self._finite(self.input[:n]):
            return "the input images"
        for node in self.network:
            for p in node.parameters():
                if not self._finite(self.parameters[f"{node.owner}.{p.name}"]):
                    return f"the parameters of {node} ({node.owner}.{p.name})"
            output = self.outputs[node.name]
            if not self._finite(output if node.layer.is_cost else output[:n]):
                return f"the output of {node}"
        return None

    def first_nonfinite_gradient(self) -> str | None:
        """Where backward first met NaN or infinity in a parameter's gradient; None where all is finite."""
        with self._active(), np.errstate(over="ignore"):
            # One pass, no temporary array. A sum of squares overflows early, so a doubt is looked into.
            if self.device.xp.isfinite(self.device.xp.dot(self.g, self.g)):
                return None
        for node in reversed(list(self.network)):
            for p in node.parameters() if node.owner == node.name else ():
                if not self._finite(self.parameter_gradients[f"{node.name}.{p.name}"]):
                    return f"the gradient of {node} ({node.name}.{p.name})"
        return None

    def _finite(self, array: Any) -> bool:
        with self._active():
            return bool(self.device.xp.isfinite(array).all())
