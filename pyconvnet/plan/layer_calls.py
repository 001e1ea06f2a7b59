"""The layers of a pass over n examples, on every device: all views made, all arguments chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .. import ops
from ..layers import Context
from ..network.node import INPUT, Node
from ..network.partition import Partition
from ..network.regions import Local, Region, trainable
from .memory import Key, Shard


class Computed(NamedTuple):
    """The arrays of a layer that computes more channels here than are held, all of them to be dropped."""

    y: Any
    dy: Any  #: None where nothing is trained
    before: Any  #: channels of y before those held; None: there are none
    after: Any  #: likewise after them

    def around(self, held: Any) -> list:
        """Put the channels held between those that are dropped."""
        return [a for a in (self.before, held, self.after) if a is not None]


@dataclass
class Call:
    """One layer on one device: all views made, nothing left to look up."""

    shard: Shard
    local: Local
    ctx: Context
    keys: list[Key]
    xs: list
    y: Any
    params: dict
    saved: dict
    computed: Computed | None = None  # None: what is held
    dy: Any = None
    dxs: list = field(default_factory=list)
    grads: dict = field(default_factory=dict)
    sums: list = field(default_factory=list)  # (gradient, contribution) pairs to add once backward has run
    parameter_sums: list = field(default_factory=list)
    backward: bool = False

    @property
    def node(self) -> Node:
        return self.local.node

    def forward(self, train: bool) -> None:
        self.ctx.train = train
        y = self.y if self.computed is None else self.computed.y
        self.local.layer.forward(self.ctx, self.xs, y, self.params, self.saved)
        if self.computed is not None:
            parts = self.computed.around(self.y)
            ops.split(y, [part.shape[-1] for part in parts], out=tuple(parts))

    def task(self, work: Callable[[], None]) -> Callable[[], None]:
        """Make a task of work of this layer: prepared once, where the layer is operations alone."""
        return ops.Repeated(work) if self.local.layer.only_ops else work

    def run_backward(self, dxs: Sequence, grads: dict, again: bool = False) -> None:
        self.ctx.masked = again
        y, dy = self.y, self.dy
        if self.computed is not None:
            # No gradient comes to the dropped channels here: their owner has them in full.
            y, dy, *dropped = self.computed
            for array in dropped:
                if array is not None:
                    ops.perform(array.fill, 0)
            ops.concat(self.computed.around(self.dy), out=dy)
        self.local.layer.backward(self.ctx, dy, self.xs, y, self.params, self.saved, dxs, grads)

    def add_sums(self) -> None:
        for gradient, contribution in self.sums:
            ops.add(gradient, contribution, out=gradient)

    def add_parameter_sums(self) -> None:
        for gradient, contribution in self.parameter_sums:
            ops.add(gradient, contribution, out=gradient)


class Calls:
    """The layers of passes over ``n`` examples, by device and name.

    Parameters
    ----------
    partition : Partition
    shards : sequence of Shard
    n : int
        Examples fed.
    row0, total : int
        The examples are rows row0 ... of a batch of ``total``, over which costs average.
    seed : int
    precision : str
    """

    def __init__(
        self,
        partition: Partition,
        shards: Sequence[Shard],
        n: int,
        row0: int,
        total: int,
        seed: int,
        precision: str,
    ):
        self.partition, self.shards, self.n = partition, shards, n
        self._row0, self._total, self._seed, self._precision = row0, total, seed, precision
        self.on: list[dict[str, Call]] = [self._calls(shard) for shard in shards]
        #: Gradients that some earlier task of backward has overwritten.
        self.written: list[set[Key]] = []
        if shards[0].training:
            self._prepare_backward()

    def _calls(self, shard: Shard) -> dict[str, Call]:
        calls = {}
        for local in shard.locals:
            count = local.holds.count(self.n)
            if count == 0:
                continue
            node, first = local.node, local.holds.rows(self.n)[0]
            channels = node.output_shape[-1] if node.output_shape else 1
            ctx = Context(
                seed=self._seed,
                step=shard.step_array,
                layer=node.index,
                total=self._total,
                window=(self._row0 + first, local.computes.start, channels),
                precision=self._precision,
                depth=shard.space_to_depth is not None and INPUT in local.sources,
                workspace=shard.workspace,
                scratch=shard.scratch,
                relu_by_readers=node.name in self.partition.relu_by_readers,
                mask_input=not self.partition.relu_by_readers.isdisjoint(local.sources),
            )
            y = shard.outputs[node.name]
            if node.layer.is_cost:
                ctx.labels = shard.labels[first : first + count]
                ctx.class_weights = shard.class_weights.get(node.name)
                ctx.metrics = shard.metrics[shard.costs.index(node.name)]
            else:
                y = y[:count]
            keys = [shard.key(s, r) for s, r in zip(local.sources, local.reads, strict=True)]
            calls[node.name] = Call(
                shard,
                local,
                ctx,
                keys,
                [shard.outputs[key][: r.count(self.n)] for key, r in zip(keys, local.reads, strict=True)],
                y,
                shard.views(local.learner, shard.operands),
                {key: value[:count] for key, value in shard.saved[node.name].items()},
                self._computed(shard, local, count),
            )
        return calls

    def rehearse(self, d: int) -> dict[str, Any]:
        """Collect what the layers of a device will launch of kernels that can be chosen; nothing runs. Where
        gradients go must have been decided.
        """
        training = self.shards[d].training
        with ops.recording() as prepared:
            for call in self.on[d].values():
                call.forward(training)
            for call in self.on[d].values():
                if call.backward:
                    call.run_backward(call.dxs, call.grads)
        return ops.problems(prepared)

    def _computed(self, shard: Shard, local: Local, count: int) -> Computed | None:
        """Make the arrays of a layer that computes more channels than are held; None for others."""
        if local.computes == local.holds:
            return None
        shape, name = local.node.output_shape, local.node.name
        before, after = local.holds.start - local.computes.start, local.computes.stop - local.holds.stop

        def outside(slot: str, channels: int) -> Any:
            region = Region(local.holds.part, local.holds.parts, 0, channels)
            return shard.rows((name, slot), region, shape, count) if channels else None

        return Computed(
            shard.rows((name, "computed"), local.computes, shape, count),
            shard.rows((name, "computed gradient"), local.computes, shape, count) if shard.training else None,
            outside("before", before),
            outside("after", after),
        )

    def _prepare_backward(self) -> None:
        """Decide who overwrites and who adds: in the order of execution the first to contribute to a gradient
        overwrites it, the others add theirs, so that nothing need be zeroed.
        """
        for shard, calls in zip(self.shards, self.on, strict=True):
            costs = [c for c in calls.values() if c.node.layer.is_cost]
            first_cost: dict[Key, str] = {}
            for call in costs:
                first_cost.setdefault(call.keys[0], call.node.name)
            self.written.append(set(first_cost) & set(shard.gradients))
            written_params: set[str] = set()
            for call in reversed(calls.values()):
                name, key = call.node.name, call.keys[0]
                if call.node.layer.is_cost:
                    if key in shard.gradients and first_cost[key] != name:
                        call.sums.append((self.gradient(shard, key, call), call.saved["gradient"]))
                elif name in shard.gradients:
                    call.backward = True
                    call.dy = shard.gradients[name][: len(call.y)]
                    if call.params and trainable(self.partition.network, call.local.learner):
                        self._choose_grads(shard, call, written_params)

    def gradient(self, shard: Shard, key: Key, call: Call) -> Any:
        region = call.local.reads[call.keys.index(key)]
        return shard.gradients[key][: region.count(self.n)]

    def choose_dxs(self, call: Call) -> None:
        """Choose where the layer puts the gradients of its inputs; called in the order of execution."""
        shard, written = call.shard, self.written[call.shard.index]
        for slot, (key, x) in enumerate(zip(call.keys, call.xs, strict=True)):
            if call.node.name in self.partition.gradient_aliases:
                written.add(key)
                dx = None  # the gradient of its output is that of its input
            elif key not in shard.gradients:
                dx = shard.scratch(slot, x.shape) if call.node.layer.wants_every_dx else None
            elif key in written:
                dx = shard.scratch(slot, x.shape)
                call.sums.append((self.gradient(shard, key, call), dx))
            else:
                written.add(key)
                dx = self.gradient(shard, key, call)
            call.dxs.append(dx)

    def _choose_grads(self, shard: Shard, call: Call, written: set[str]) -> None:
        for key, gradient in shard.views(call.local.learner, shard.parameter_gradients).items():
            name = f"{call.local.learner.owner}.{key}"
            if name in written:
                contribution = shard.scratch(key, gradient.shape, gradient.dtype)
                call.parameter_sums.append((gradient, contribution))
                call.grads[key] = contribution
            else:
                written.add(name)
                call.grads[key] = gradient
