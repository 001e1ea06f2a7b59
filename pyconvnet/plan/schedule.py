"""What a pass does on every device, as tasks: layers, gathers, reduce-scatters, sums over replicas.

Every array and every argument is chosen; what changes from step to step is read from device memory. So a
list of tasks can be run again and again, and on CUDA be captured as a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from typing import Any

from .. import ops
from ..network.node import INPUT
from ..network.regions import Contribution, Region
from .buckets import Bucket, Piece, buckets, pieces
from .lanes import StreamLanes
from .layer_calls import Call, Calls
from .memory import Shard
from .tasks import Task, TaskList


class _Recorder:
    """Remembers the arguments of :meth:`TaskList.add`."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def add(self, *arguments: Any) -> None:
        self.calls.append(arguments)


class Program:
    """Makes the lists of tasks for passes over ``n`` examples.

    Parameters
    ----------
    calls : Calls
    lanes : StreamLanes
        Knows how arrays go from device to device.
    communicator : object with ``start`` and ``finish``, or None
        Sums gradients over processes.
    """

    def __init__(self, calls: Calls, lanes: StreamLanes, communicator: Any = None):
        self.calls, self.lanes, self.communicator = calls, lanes, communicator
        self.partition, self.shards, self.n = calls.partition, calls.shards, calls.n
        self.nodes = list(self.partition.network)
        self._gathers: dict[tuple[int, str], list[tuple[str, Region]]] = {}
        for d in range(len(self.shards)):
            for source, region, node in self.partition.gathers(d):
                self._gathers.setdefault((d, node.name), []).append((source, region))
        self._recorded: dict[Any, list[tuple]] = {}
        self._buckets: list[Bucket] = []
        self._outgoing_buckets: list[Bucket] = []
        self._pieces: list[list[Piece]] = [[] for _ in self.shards]
        if self.shards[0].training:
            self._buckets = buckets(self.partition, self.shards)
            self._pieces = [pieces(self.partition, shard, self._buckets) for shard in self.shards]
            if communicator is not None:
                self._outgoing_buckets = buckets(self.partition, self.shards, processes=True)

    def tasks(self, *phases: str, train: bool = True, start: int = 0, costs: bool = True) -> list[Task]:
        """List the tasks of "forward" (of the layers from number ``start`` on, with ``costs`` or without),
        "backward" and "update".

        Where backward and update stand in one list, parameters are updated as soon as backward is done with
        them, on a lane of their own, and "update" has the rest.
        """
        out, together = TaskList(), {"backward", "update"} <= set(phases)
        for phase in phases:
            phase = "rest" if phase == "update" and together else phase
            for arguments in self._record(phase, train, start, costs):
                if together or arguments[1][1] != "update":
                    out.add(*arguments)
        return out.tasks

    def _record(self, phase: str, train: bool, start: int, costs: bool) -> list[tuple]:
        """Record each phase once: the choice who overwrites a gradient and who adds is kept."""
        key = (phase, train, start, costs) if phase == "forward" else phase
        if key not in self._recorded:
            recorder = _Recorder()
            if phase == "forward":
                self._forward(recorder, train, start, costs)
            elif phase == "backward":
                self._backward(recorder)
            else:
                self._update(recorder, together=phase == "rest")
            self._recorded[key] = recorder.calls
        return self._recorded[key]

    def _shape(self, source: str) -> tuple[int, ...]:
        network = self.partition.network
        return network.input_shape if source == INPUT else network[source].output_shape

    def _call(
        self, tasks: _Recorder, name: str, d: int, run: Callable, reads: Iterable, writes: Iterable
    ) -> None:
        resources = ([(d, r) for r in some] for some in (reads, writes))
        tasks.add(f"{name} @{d}", (d, "compute"), run, *resources)

    def _copy(
        self,
        tasks: _Recorder,
        what: tuple[str, str],
        source: tuple[int, Any, Iterable[Hashable]],
        target: tuple[int, Any, Hashable],
    ) -> None:
        """Copy an array from device to device: ``source`` is (device, array, resources), ``target`` (device,
        array, resource).
        """
        (s, values, reads), (t, out, written) = source, target
        reads = [(s, r) for r in reads]
        name = f"{what[1]} of {what[0]}: {s} -> {t}"
        moves = (*what, s, t, values.nbytes)
        steps = self.lanes.copy_tasks(s, values, t, out)
        staged = ("staged", name, written)
        for i, (lane, run) in enumerate(steps):
            first, last = i == 0, i == len(steps) - 1
            writes = [(t, written)] if last else [staged]
            tasks.add(name, lane, run, reads if first else [staged], writes, moves if last else None)

    # ---- forward -------------------------------------------------------------------------------------------
    def _forward(self, tasks: _Recorder, train: bool, start: int, costs: bool) -> None:
        """Add all layers from number ``start`` on, each after what it has to gather."""
        for node in self.nodes[start:]:
            if node.layer.is_cost and not costs:
                continue
            for d in range(len(self.shards)):
                for source, region in self._gathers.get((d, node.name), ()):
                    self._gather(tasks, node.name, d, source, region)
            for d, calls in enumerate(self.calls.on):
                if node.name in calls:
                    call = calls[node.name]

                    def run(call: Call = call) -> None:
                        call.forward(train)

                    reads = [*call.keys, ("w", call.local.learner.owner)]
                    self._call(tasks, f"{node.name} forward", d, call.task(run), reads, [node.name])

    def _gather(self, tasks: _Recorder, layer: str, d: int, source: str, region: Region) -> None:
        """Assemble the copy of ``region`` on device ``d``: piece by piece, row part by row part."""
        shard, key, n = self.shards[d], (source, region), self.n
        for parts, rows in self._row_parts(d, source, region):
            target = shard.outputs[key][rows]
            if len(parts) == 1 and parts[0].source != d:
                array, resource = self._outgoing(tasks, layer, source, parts[0])
                self._copy(tasks, (layer, "gather"), (parts[0].source, array, [resource]), (d, target, key))
                continue
            arrays, resources = [], []
            for piece in parts:
                array, resource = self._outgoing(tasks, layer, source, piece)
                if piece.source != d:
                    slot = ("received", key, piece)
                    received = shard.rows(slot, piece.region, self._shape(source), piece.region.count(n))
                    self._copy(
                        tasks, (layer, "gather"), (piece.source, array, [resource]), (d, received, slot)
                    )
                    array, resource = received, slot
                arrays.append(array)
                resources.append(resource)

            def run(arrays: list = arrays, target: Any = target) -> None:
                if len(arrays) > 1:
                    ops.concat(arrays, out=target)
                else:
                    ops.add(arrays[0], arrays[0], alpha=1.0, beta=0.0, out=target)

            self._call(tasks, f"{layer} gathers {source}", d, ops.Repeated(run), resources, [key])

    def _row_parts(self, d: int, source: str, region: Region) -> Iterator[tuple[list[Contribution], slice]]:
        """Yield the contributions to ``region`` on device ``d`` by part of the rows, and those rows in it."""
        n, offset = self.n, region.rows(self.n)[0]
        pieces = [p for p in self.partition.contributions(source, d, region) if p.region.count(n)]
        for part in sorted({p.region.part for p in pieces}):
            parts = [p for p in pieces if p.region.part == part]
            first, last = parts[0].region.rows(n)
            yield parts, slice(first - offset, last - offset)

    def _outgoing(
        self, tasks: _Recorder, layer: str, source: str, piece: Contribution
    ) -> tuple[Any, Hashable]:
        """Bring a piece into one array on the device that holds it; return it and its resource."""
        s, n = piece.source, self.n
        shard, held = self.shards[s], self.partition.held[source][s]
        whole = shard.outputs[source][: held.count(n)]
        if (held.start, held.stop) == (piece.region.start, piece.region.stop):
            return whole, source
        slot = ("sent", source, piece)
        sent = shard.rows(slot, piece.region, self._shape(source), held.count(n))
        outs = self._around(shard, (slot, "rest"), held, piece.region, sent, self._shape(source))

        def run() -> None:
            ops.split(whole, [a.shape[-1] for a in outs], out=tuple(outs))

        self._call(
            tasks, f"{layer} takes from {source}", s, ops.Repeated(run), [source], [slot, (slot, "rest")]
        )
        return sent, slot

    def _around(
        self, shard: Shard, slot: Any, whole: Region, middle: Region, array: Any, shape: tuple
    ) -> list:
        """Put ``array``, the channels of ``middle``, between scratch for the other channels of ``whole``."""
        out = [array]
        for side, start, stop in (("before", whole.start, middle.start), ("after", middle.stop, whole.stop)):
            if start < stop:
                region = Region(whole.part, whole.parts, start, stop)
                rest = shard.rows((slot, side), region, shape, len(array))
                out.insert(0 if side == "before" else len(out), rest)
        return out

    # ---- backward ------------------------------------------------------------------------------------------
    def _backward(self, tasks: _Recorder) -> None:
        """Add all gradients, in the reverse order of the layers.

        Where a layer's input was gathered, the gradient of that input comes first, so that it travels while
        the gradients of the weights are computed.
        """
        for d, shard in enumerate(self.shards):
            if len(self.calls.on[d]) < len(shard.locals):  # no rows here: what is not computed is zero
                owners = [("g", owner) for owner, held in self.partition.filters.items() if held[d]]

                def clear(shard: Shard = shard) -> None:
                    shard.g.fill(0)

                self._call(tasks, "no gradients", d, clear, [], owners)
        sums, outgoing = list(self._buckets), list(self._outgoing_buckets)
        early = [self._early(d) for d in range(len(self.shards))]
        for node in reversed(self.nodes):
            here = [(d, calls[node.name]) for d, calls in enumerate(self.calls.on) if node.name in calls]
            crosses = any((d, node.name) in self._gathers for d, _ in here)
            for d, call in here:
                self._layer_backward(tasks, d, call, apart=crosses and call.local.layer.splits_backward)
            late: list[tuple] = []
            for d, _ in here:
                for source, region in self._gathers.get((d, node.name), ()):
                    self._send_back(tasks, node.name, d, source, region, late)
            for d, call in here:
                if call.backward and call.grads and crosses and call.local.layer.splits_backward:
                    self._weights_backward(tasks, d, call)
            for arguments in late:
                self._call(tasks, *arguments)
            while sums and sums[0].ready >= node.index:
                self._sum_over_replicas(tasks, sums.pop(0))
            while outgoing and outgoing[0].ready >= node.index:
                self._send_out(tasks, outgoing.pop(0))
            for d, left in enumerate(early):
                while left and left[0].ready >= node.index:
                    self._update_early(tasks, d, left.pop(0))

    def _layer_backward(self, tasks: _Recorder, d: int, call: Call, apart: bool) -> None:
        """Add the gradients of the inputs and, unless they come ``apart``, of the parameters."""
        name, written = call.node.name, [("gradient", key) for key in call.keys]
        if not call.backward:
            if call.sums:  # a second cost on one output
                self._call(tasks, f"{name} adds", d, ops.Repeated(call.add_sums), [], written)
            return
        self.calls.choose_dxs(call)
        if apart and call.grads:

            def run() -> None:
                call.run_backward(call.dxs, {})
                call.add_sums()

        else:
            written += [("g", call.local.learner.owner)]

            def run() -> None:
                call.run_backward(call.dxs, call.grads)
                call.add_sums()
                call.add_parameter_sums()

        reads = [("gradient", name), name, *call.keys, ("w", call.local.learner.owner)]
        self._call(tasks, f"{name} backward", d, call.task(run), reads, written)

    def _weights_backward(self, tasks: _Recorder, d: int, call: Call) -> None:
        name = call.node.name

        def run() -> None:
            call.run_backward([None] * len(call.keys), call.grads, again=True)
            call.add_parameter_sums()

        reads = [("gradient", name), name, *call.keys, ("w", call.local.learner.owner)]
        self._call(
            tasks, f"{name} weights backward", d, call.task(run), reads, [("g", call.local.learner.owner)]
        )

    def _send_back(
        self, tasks: _Recorder, layer: str, d: int, source: str, region: Region, late: list[tuple]
    ) -> None:
        """Give the gradient of a gathered copy to the devices that hold the value (reduce-scatter).

        What is added rather than overwritten at its owner goes to ``late``, as arguments of ``_call``: the
        owner has other work while it travels.
        """
        shard, key = self.shards[d], (source, region)
        if key not in shard.gradients or key not in self.calls.written[d]:
            return
        for parts, rows in self._row_parts(d, source, region):
            gradient = shard.gradients[key][rows]
            arrays, resources = [gradient], [("gradient", key)]
            if len(parts) > 1:
                arrays, resources = [], []
                for piece in parts:
                    array, resource = self._destination(d, key, piece)
                    arrays.append(array)
                    resources.append(resource)

                def run(gradient: Any = gradient, arrays: list = arrays) -> None:
                    ops.split(gradient, [a.shape[-1] for a in arrays], out=tuple(arrays))

                reads = [("gradient", key)]
                self._call(tasks, f"{layer} returns {source}", d, ops.Repeated(run), reads, resources)
            for piece, array, resource in zip(parts, arrays, resources, strict=True):
                self._deliver(tasks, layer, d, source, piece, array, resource, late)

    def _destination(self, d: int, key: Any, piece: Contribution) -> tuple[Any, Hashable]:
        """Find where a slice of a returned gradient is written on the device that computed it: straight into
        its own gradient where that is its place and nothing is there yet.
        """
        source, shard = key[0], self.shards[d]
        if piece.source == d and self._overwrites(d, source, piece):
            return shard.gradients[source][: piece.region.count(self.n)], ("gradient", source)
        slot = ("returned", key, piece)
        return shard.rows(slot, piece.region, self._shape(source), piece.region.count(self.n)), slot

    def _overwrites(self, owner: int, source: str, piece: Contribution) -> bool:
        held = self.partition.held[source][owner]
        return source not in self.calls.written[owner] and held.channels == piece.region.channels

    def _deliver(
        self,
        tasks: _Recorder,
        layer: str,
        d: int,
        source: str,
        piece: Contribution,
        array: Any,
        resource: Hashable,
        late: list[tuple],
    ) -> None:
        """Bring one slice of a returned gradient to its owner, and overwrite or add."""
        owner, target = piece.source, ("gradient", source)
        shard, written = self.shards[owner], self.calls.written[owner]
        whole = shard.gradients[source][: piece.region.count(self.n)]
        if resource == target and owner == d:  # split straight into its place
            written.add(source)
            return
        if owner != d and self._overwrites(owner, source, piece):
            written.add(source)
            self._copy(tasks, (layer, "gradient"), (d, array, [resource]), (owner, whole, target))
            return
        if owner != d:
            slot = ("returned by", d, resource)
            received = shard.rows(slot, piece.region, self._shape(source), piece.region.count(self.n))
            self._copy(tasks, (layer, "gradient"), (d, array, [resource]), (owner, received, slot))
            array, resource = received, slot
        add = source in written
        written.add(source)
        held = self.partition.held[source][owner]
        spread = self._around(shard, "zeros", held, piece.region, array, self._shape(source))
        scratch = shard.scratch("spread", whole.shape) if len(spread) > 1 and add else None

        def run() -> None:
            term = array
            if len(spread) > 1:
                term = ops.concat(spread, out=scratch if add else whole)
            if add:
                ops.add(whole, term, out=whole)
            elif len(spread) == 1:
                ops.add(term, term, alpha=1.0, beta=0.0, out=whole)

        late.append((f"{layer} adds to {source}", owner, ops.Repeated(run), [resource, target], [target]))

    # ---- sums over replicas and processes ------------------------------------------------------------------
    def _sum_over_replicas(self, tasks: _Recorder, bucket: Bucket) -> None:
        """Let every device of the group sum an equal share, in the group's order, and send the sum to the
        others: all end with the same bits.
        """
        group, name = bucket.group, bucket.owners[-1]
        gradients = [("g", owner) for owner in bucket.owners]
        for i, d in enumerate(group):
            begin, end = bucket.size * i // len(group), bucket.size * (i + 1) // len(group)
            if begin == end:
                continue
            views = {
                e: self.shards[e].g[slice(*(bucket.ranges[e][0] + k for k in (begin, end)))] for e in group
            }
            terms, resources = [], []
            for e in group:
                if e == d:
                    terms.append(views[d])
                    continue
                slot = ("sum", bucket.number, e)
                received = self.shards[d].scratch(slot, views[d].shape, views[d].dtype)
                self._copy(tasks, (name, "weights"), (e, views[e], gradients), (d, received, slot))
                terms.append(received)
                resources.append(slot)
            partial = None
            if len(group) > 2:
                partial = self.shards[d].scratch("partial sum", views[d].shape, views[d].dtype)

            def run(terms: list = terms, out: Any = views[d], partial: Any = partial) -> None:
                total = terms[0]
                for k, term in enumerate(terms[1:], 2):
                    total = ops.add(total, term, out=out if k == len(terms) else partial)

            summed = ("summed", bucket.number, i)
            reads = [*resources, *gradients]
            self._call(tasks, f"{name} sums weights", d, ops.Repeated(run), reads, [summed])
            for e in group:
                if e != d:
                    self._copy(tasks, (name, "weights"), (d, views[d], [summed]), (e, views[e], summed))

    def _summed(self, d: int, owners: Container[str] | None = None) -> list[Hashable]:
        """List the resources of everything that backward leaves in a device's gradients, or in those of some
        layers.
        """
        held = [owner for owner, held in self.partition.filters.items() if held[d]]
        own = [owner for owner in held if owners is None or owner in owners]
        sums = [b for b in self._buckets if d in b.group and not set(own).isdisjoint(b.owners)]
        summed = [("summed", b.number, i) for b in sums for i in range(len(b.group))]
        return [("g", owner) for owner in own] + summed

    def _send_out(self, tasks: _Recorder, bucket: Bucket) -> None:
        (d,) = bucket.group
        piece = self.shards[d].g[slice(*bucket.ranges[d])]
        done = self._summed(d, bucket.owners)

        def run() -> None:
            self.communicator.start(piece, d)

        self._call(tasks, f"{bucket.owners[-1]} to other processes", d, run, done, [("out", d)])

    # ---- update --------------------------------------------------------------------------------------------
    def _early(self, d: int) -> list[Piece]:
        """List the pieces that are updated during backward: none where processes add up gradients, which are
        complete all at once.
        """
        return [p for p in self._pieces[d][:-1] if p.owners] if self.communicator is None else []

    def _update_early(self, tasks: _Recorder, d: int, piece: Piece) -> None:
        """Update a run of parameters beside what is left of backward."""
        run = self.shards[d].updater(slice(piece.first, piece.last), beside=True)
        reads = [(d, r) for r in self._summed(d, piece.owners)]
        writes = [(d, ("w", owner)) for owner in piece.owners]
        tasks.add(f"{piece.owners[-1]} update @{d}", (d, "update"), ops.Repeated(run), reads, writes)

    def _update(self, tasks: _Recorder, together: bool) -> None:
        """Let every device update its own parameters, all or, ``together`` with backward, those that have not
        been; and count the step.

        It waits for the early ones: what comes next on this lane may use any parameter.
        """
        finished: list[Hashable] = []
        if self.communicator is not None:
            reads = [("out", d) for d in range(len(self.shards))]
            finish, finished = self.communicator.finish, [(0, "finished")]
            tasks.add("sums of all processes", (0, "compute"), finish, list(enumerate(reads)), finished)
        for d, shard in enumerate(self.shards):
            early = self._early(d) if together else []
            run = shard.updater(slice(early[-1].first if early else None))
            done = {owner for piece in early for owner in piece.owners}
            left = [owner for owner, held in self.partition.filters.items() if held[d] and owner not in done]
            reads = [(d, r) for r in [*self._summed(d, left), *(("w", owner) for owner in done)]]
            writes = [(d, ("w", owner)) for owner in left]
            tasks.add(f"update @{d}", (d, "compute"), ops.Repeated(run), reads + finished, writes)
