"""A network made ready for one device or several: buffers allocated once, every call of a step prepared.

The plan knows devices, buffers and order; the mathematics is the layers', the arithmetic the ops'. What
changes from step to step (learning rate, momentum, step number) lives in device memory, and a step allocates
nothing, so that on CUDA a captured graph repeats it.
"""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.checks import check_number, flag
from ..common.devices import Device
from ..common.precision import activation_dtype, check_precision
from ..network.network import Network
from ..network.partition import Partition, partition
from ..network.preprocessing import Preprocessing
from ..network.regions import gradient_names
from ..ops import tuning
from .communicator import Communicator
from .feed import Feeder
from .fuse import fuse as fuse_layers
from .fuse import space_to_depth_of_images
from .host_values import PlanValues
from .inputs import PlanInputs
from .lanes import CaptureError, PreparedTasks, Replay, StreamLanes, graphs_enabled, one_kind
from .layer_calls import Calls
from .memory import Shard
from .schedule import Program
from .tasks import Task

#: What a plan on one device shows as its own.
_OF_ONE_DEVICE = (
    *("w", "g", "v", "arena", "parameters", "parameter_gradients", "momenta", "hyper", "step_array"),
    *("w_bf16", "operands"),
    *("input", "labels", "outputs", "gradients", "metrics", "workspace"),
)


@dataclass
class _Pass:
    """The tasks of some phases on some examples, and their graph once it is captured."""

    tasks: PreparedTasks
    graph: Replay | None = None


class Plan(PlanInputs, PlanValues):
    """A network, its buffers on the devices, and the calls that train it.

    Parameters
    ----------
    network : Network
    devices : str, Device, or a list of them
        None: ``cuda:0`` where it works, else ``cpu``. Several devices, all of one kind, share the network as
        :mod:`pyconvnet.network.partition` says; a name may be repeated.
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
    replicas, hybrid :
        How the devices are used; see :func:`pyconvnet.network.partition.partition`.
    precision : "fp32", "tf32", "fp32x3" or "bf16"
        Of the products in convolutions and fully connected layers; "bf16": and of all activations, see
        :mod:`pyconvnet.common.precision`.
    fuse : bool, optional
        Let one kernel do the work of several layers, as :mod:`pyconvnet.plan.fuse` says:

        * response normalisation and the max pooling after it: the normalised map is then not among
          ``outputs``;
        * in training, bias, ReLU and dropout after a fully connected layer's product: the layer's own output
          is then not among ``outputs`` (dropout's is), and dropout leaves no mask;
        * the way back through a ReLU, in the kernels that make the gradient;
        * the images in the layout that a strided first convolution reads, where it alone reads them (see
          ``depth``).

        Default: yes, but on ``cpu`` only the way back through a ReLU: the rest saves little there, and a
        normalised map would be computed twice.
    communicator : optional
        Sums gradients over processes; see :mod:`pyconvnet.plan.communicator`.
    kernels : dict of problem to kernel, optional
        The ``kernels`` of another plan, which this one runs, too; an empty one: the heuristic's choices. What
        is missing, and by default all, has been measured on this card or is so before the first step; see
        :mod:`pyconvnet.ops.tuning`.

    Attributes
    ----------
    device, devices : Device, list of Device
        The first, and all.
    partition : Partition
    shards : list of Shard
        Each device's buffers. With one device its arrays are also the plan's: ``input``, ``labels``,
        ``outputs``, ``gradients``, ``parameters``, ``parameter_gradients``, ``momenta``, the flat ``w``,
        ``g``, ``v``, ``hyper``, ``step_array``, ``metrics``, ``arena``, ``workspace``. A gradient is spent
        once its layer's backward has run: layers with a fused activation overwrite it. In "bf16", values put
        into ``parameters`` or ``w`` by hand are not seen before :meth:`refresh_operands`.
    depth : pyconvnet.ops.space_to_depth.Depth or None
        The layout in which the images are kept; None: their own, (H, W, C).
    execute : callable of a list of tasks
        How tasks are run.
    """

    def __init__(
        self,
        network: Network,
        devices: str | Device | Sequence[str | Device] | None = None,
        batch_size: int = 128,
        dtype: Any = np.float32,
        *,
        train: bool = True,
        seed: int = 0,
        initialise: bool = True,
        input_gradient: bool = False,
        replicas: int = 1,
        hybrid: bool = False,
        precision: str = "fp32",
        fuse: bool | None = None,
        communicator: Communicator | None = None,
        kernels: Mapping[str, str] | None = None,
    ):
        if not isinstance(network, Network):
            raise TypeError(f"Plan: network must be a Network, got {type(network).__name__}")
        if not len(network):
            raise ValueError(f"Plan: network {network.name!r} has no layers")
        check_number("Plan: batch_size", batch_size, "positive int")
        check_number("Plan: seed", seed, "int >= 0")
        self.devices = one_kind(devices)
        self.device = self.devices[0]
        self.network, self.batch_size = network, int(batch_size)
        self.dtype, self.training, self.seed = np.dtype(dtype), train, int(seed)
        allowed = ("float32", "float64") if self.device.kind == "cpu" else ("float32",)
        if self.dtype.name not in allowed:
            raise ValueError(
                f"Plan: dtype on {self.device.name} must be {' or '.join(allowed)}, got {self.dtype.name}"
            )
        self.precision = check_precision("Plan", precision)
        self.activation_dtype = activation_dtype("Plan", precision, self.dtype)
        join = self.device.kind != "cpu" if fuse is None else flag("Plan", "fuse", fuse)
        if train:
            _check_trainable(network, input_gradient)
        self.partition: Partition = partition(
            network, self.devices, replicas, hybrid, batch_size=self.batch_size
        )
        if join or fuse is None:
            fuse_layers(self.partition, train, join)
        self.depth = None
        if join and self.device.kind != "cpu" and not input_gradient:
            self.depth = space_to_depth_of_images(self.partition)
        self.lanes = StreamLanes(self.devices)
        self.execute: Callable[[Sequence[Task]], Any] = self.lanes.run
        self._communicator = communicator
        self._programs: dict[tuple, Program] = {}
        self._passes: dict[tuple, _Pass] = {}
        capturable = communicator is None or communicator.capturable
        self._graphs_wanted = self.lanes.cuda and capturable and graphs_enabled()
        self.use_kernels(kernels)
        self._window: tuple[int, int] | None = None
        self._n = self.batch_size  # examples of the last pass
        self._preprocessing: Preprocessing | None = None
        self._means: list[Any] = []
        self._costs = [node.name for node in network.costs]
        self.shards: list[Shard] = []
        for i, device in enumerate(self.devices):
            with self.lanes.active(i):
                shard = Shard(
                    i,
                    device,
                    self.partition,
                    self.batch_size,
                    self.dtype,
                    self.activation_dtype,
                    train,
                    input_gradient,
                    self.depth,
                )
            self.shards.append(shard)
        self._feeders = [Feeder(device, self.lanes, i) for i, device in enumerate(self.devices)]
        if initialise:
            for name, value in network.initial(self.seed, self.dtype):
                self._set_one("parameters", name, value)

    def __getattr__(self, name: str) -> Any:
        if name in _OF_ONE_DEVICE and "shards" in self.__dict__:
            if len(self.shards) == 1:
                return getattr(self.shards[0], name)
            raise AttributeError(f"this plan has {len(self.shards)} devices: see plan.shards[i].{name}")
        raise AttributeError(f"Plan has no attribute {name!r}")

    @property
    def nbytes(self) -> int:
        """Bytes of device memory the plan holds, on all devices."""
        return sum(s.nbytes for s in self.shards) + sum(f.nbytes for f in self._feeders)

    def synchronize(self) -> None:
        """Wait for everything the plan has begun."""
        self.lanes.synchronize()

    # ---- one step ------------------------------------------------------------------------------------------
    def tasks(
        self,
        *phases: str,
        n: int | None = None,
        train: bool = True,
        start: str | None = None,
        costs: bool = True,
    ) -> Sequence[Task]:
        """List the tasks of the phases "forward", "backward" and "update" on ``n`` examples."""
        batch = self._batch(n)
        first = 0 if start is None else self.network[start].index
        key = (phases, *batch, train, first, costs)
        if key not in self._passes:
            if batch not in self._programs:
                calls = Calls(self.partition, self.shards, *batch, self.seed, self.precision)
                self._programs[batch] = Program(calls, self.lanes, self._communicator)
            tasks = self._programs[batch].tasks(*phases, train=train, start=first, costs=costs)
            self._passes[key] = _Pass(self.lanes.prepare(tasks))
            self._choose_kernels(batch[0])
        return self._passes[key].tasks

    # ---- which kernels -------------------------------------------------------------------------------------
    @property
    def kernels(self) -> dict[str, str]:
        """The kernels chosen for this plan, by problem; empty where the heuristics choose."""
        return dict(self.selection.kernels)

    def use_kernels(self, kernels: Mapping[str, str] | None) -> None:
        """Run these; see the parameter ``kernels``. To be called before the first step."""
        self.selection = tuning.Selection(kernels)
        self._chosen_for = 0  # examples of the largest pass whose kernels have been chosen

    def choose_kernels(self) -> dict[str, tuning.Choice]:
        """Choose the kernels of a pass over ``batch_size`` examples now, not at the first; by problem."""
        if tuning.enabled(self.device) and not self.selection.heuristic:
            self.tasks("forward", n=self.batch_size, train=self.training)
        return dict(self.selection.choices)

    def rehearse(self, n: int | None = None) -> dict[str, Any]:
        """Collect a step's launches for ``n`` examples whose kernels can be chosen, by problem; run none."""
        self.tasks("forward", n=n, train=self.training)
        program, found = self._programs[self._batch(n)], {}
        if self.training:
            program.tasks("backward")  # which chooses where the gradients go
        for i in range(len(self.shards)):
            with self.lanes.active(i):
                found |= {k: call for k, call in program.calls.rehearse(i).items() if k not in found}
        return found

    def _choose_kernels(self, n: int) -> None:
        """Choose before the first one runs: no step is disturbed, and its graph is captured with the same."""
        if self.selection.heuristic or n <= self._chosen_for or not tuning.enabled(self.device):
            return
        self._chosen_for = n
        found = self.rehearse(n)
        with self.lanes.active(0):
            self.selection.choose(found, near=not self.training, progress=sys.stderr.isatty())

    def _run(self, *phases: str, **options: Any) -> None:
        tasks = self.tasks(*phases, **options)
        with self._active():
            self.execute(tasks)

    @contextlib.contextmanager
    def _active(self) -> Iterator[None]:
        """Let ops on host arrays run on the first device inside."""
        with self.lanes.active(0), self.selection.used():
            yield

    def forward(
        self,
        n: int | None = None,
        *,
        train: bool = True,
        start: str | None = None,
        costs: bool = True,
    ) -> None:
        """Run the layers on the first ``n`` examples fed; costs add to ``metrics``, unless left out.

        ``start`` names the layer to begin with: those before it keep their outputs of the last pass.
        """
        self._n = self._check_count(n)
        self._run("forward", n=n, train=train, start=start, costs=costs)

    def backward(self, n: int | None = None) -> None:
        """Compute the gradients of the summed costs of the last ``forward(n)``, summed over replicas; with a
        communicator their sums over processes begin here and are complete in :meth:`update`.
        """
        if not self.training:
            raise ValueError("Plan.backward: the plan was made with train=False")
        self._run("backward", n=n)

    def update(self, n: int | None = None) -> None:
        """Take a step of gradient descent with momentum and weight decay on all parameters, and count it."""
        if not self.training:
            raise ValueError("Plan.update: the plan was made with train=False")
        self._run("update", n=self._n if n is None else n)

    def step(self, n: int | None = None) -> None:
        """Run forward, backward and update; parameters are updated as soon as backward is done with them.

        On CUDA the second step of a size is captured as a graph and that is replayed from then on, unless
        ``PYCONVNET_GRAPH=0``.
        """
        if not self.training:
            raise ValueError("Plan.step: the plan was made with train=False")
        phases = ("forward", "backward", "update")
        self._n = self._check_count(n)
        made = self._passes.get((phases, *self._batch(n), True, 0, True))
        if made is not None and made.graph is None and self._graphs_wanted:
            self._capture(made)
        if made is not None and made.graph is not None:
            made.graph.launch()
        else:
            self._run(*phases, n=n)

    def _batch(self, n: int | None) -> tuple[int, int, int]:
        """Return (examples, number of the first, examples of the whole batch)."""
        n = self._check_count(n)
        return (n, *(self._window or (0, n)))

    def _capture(self, made: _Pass) -> None:
        try:
            # A workspace may grow later, for another batch size; the graph goes on with the one of now.
            lent = [shard.workspace.get(1) for shard in self.shards]
            with self.selection.used():
                made.graph = self.lanes.capture(made.tasks, keep=lent)
        except CaptureError as error:
            self._graphs_wanted = False
            warnings.warn(f"training goes on without a CUDA graph: {error}", RuntimeWarning, stacklevel=4)

    # ---- settings ------------------------------------------------------------------------------------------
    def _upload(self, attribute: str, value: Callable[[Shard], np.ndarray]) -> None:
        for i, shard in enumerate(self.shards):
            with self.lanes.active(i):
                self._feeders[i].upload(getattr(shard, attribute), value(shard))

    def set_hyper(self, lr: float, momentum: float) -> None:
        """Set learning rate and momentum of the following updates."""
        values = np.array([lr, momentum], self.dtype)
        self._upload("hyper", lambda shard: values)

    def set_weight_decay(self, weight_decay: float) -> None:
        """Set the weight decay of the following updates; each parameter's ``decay_mult`` multiplies it."""
        self._upload(
            "weight_decay",
            lambda shard: (weight_decay * shard.per_parameter("decay_mult")).astype(self.dtype),
        )

    @property
    def steps(self) -> int:
        """Number of updates so far; waits for the device."""
        return int(self._to_numpy(0, self.shards[0].step_array)[0])

    @steps.setter
    def steps(self, value: int) -> None:
        self._upload("step_array", lambda shard: np.array([value], np.int64))


def _check_trainable(network: Network, input_gradient: bool) -> None:
    if not network.costs:
        raise ValueError(f"Plan: network {network.name!r} has no cost to train on; add SoftmaxCrossEntropy()")
    if not gradient_names(network, input_gradient):
        raise ValueError(f"Plan: no parameter of network {network.name!r} can be trained (all frozen?)")
