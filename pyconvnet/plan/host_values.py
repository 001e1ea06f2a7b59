"""What a plan takes from the host and gives to it: parameters, sums, outputs, always whole and unsplit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..common.checks import unmasked
from ..common.devices import Device
from ..common.threads import parallel, ranges
from ..network.network import Network
from ..network.node import INPUT
from ..network.partition import Partition
from ..network.preprocessing import check_parameters
from ..ops.space_to_depth import Depth
from .buffers import Metrics
from .lanes import StreamLanes
from .memory import Shard


class PlanValues:
    """The part of :class:`pyconvnet.plan.Plan` that moves values between host and devices."""

    network: Network
    partition: Partition
    devices: list[Device]
    shards: list[Shard]
    lanes: StreamLanes
    dtype: np.dtype
    depth: Depth | None
    _costs: list[str]
    _n: int  # examples of the last pass
    _programs: dict
    _passes: dict

    # ---- parameters, whole and unsplit ---------------------------------------------------------------------
    def set_parameters(self, values: Mapping[str, np.ndarray]) -> None:
        """Overwrite all parameters, given by full name on the host."""
        check_parameters("Plan", self.network, values)
        for name in self.network.parameters():
            value = unmasked("Plan", name, values[name])
            self._set_one("parameters", name, np.asarray(value, self.dtype))

    def set_momenta(self, values: Mapping[str, np.ndarray]) -> None:
        """Overwrite all momenta, given by full name on the host."""
        check_parameters("Plan: momenta", self.network, values)
        for name in self.network.parameters():
            value = unmasked("Plan: momenta", name, values[name])
            self._set_one("momenta", name, np.asarray(value, self.dtype))

    def _set_one(self, kind: str, name: str, value: np.ndarray) -> None:
        for i, shard in enumerate(self.shards):
            if name in shard.slices:
                with self.lanes.active(i):
                    view, piece = getattr(shard, kind)[name], value[slice(*shard.slices[name])]
                    self._put(view, piece)
                    if kind == "parameters" and shard.operands[name] is not view:
                        self._put(shard.operands[name], piece)

    def _put(self, view: Any, values: np.ndarray) -> None:
        if self.lanes.cuda:
            view.set(np.ascontiguousarray(values, view.dtype))
        else:
            np.copyto(view, values, casting="same_kind")

    def refresh_operands(self) -> None:
        """Round the parameters anew for the products that read them in bfloat16; for callers that changed
        ``parameters`` in place. In the other precisions there is nothing to do.
        """
        for i, shard in enumerate(self.shards):
            for name, operand in shard.operands.items():
                if operand.dtype != shard.w.dtype:
                    with self.lanes.active(i):
                        self._put(operand, self._to_numpy(i, shard.parameters[name]))

    def get_parameters(self, out: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Copy all parameters to the host, into ``out`` where an earlier call's result is given."""
        return self._get("w", out)

    def get_momenta(self, out: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Copy all momenta to the host, into ``out`` where an earlier call's result is given."""
        return self._get("v", out)

    def get_gradients(self) -> dict[str, np.ndarray]:
        """Copy all parameters' gradients to the host, summed over replicas."""
        return self._get("g")

    def _get(self, flat: str, out: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        if out is None:
            out = {name: np.empty(p.shape, self.dtype) for name, p in self.network.parameters().items()}
        for i, shard in enumerate(self.shards):
            host = self._to_numpy(i, getattr(shard, flat))  # one copy for all
            for name, view in shard.arena.views(host).items():
                out[name][slice(*shard.slices[name])] = view
        return out

    def _to_numpy(self, i: int, array: Any) -> np.ndarray:
        if self.lanes.cuda:
            self.lanes.synchronize()
        return self.devices[i].to_numpy(array)

    def _check_labels(self, labels: np.ndarray) -> None:
        """Refuse labels that a cost has no class for; kernels on a GPU give NaN for them, see the op."""
        if self.lanes.cuda:
            return
        for cost in self.network.costs:
            classes = cost.layer.classes(*cost.input_shapes)
            wrong = [] if classes is None else np.flatnonzero((labels < 0) | (labels >= classes))
            if len(wrong):
                raise ValueError(
                    f"Plan.feed: labels must be in 0 … {classes - 1}, "
                    f"got {labels[wrong[0]]} at index {wrong[0]}"
                )

    def set_class_weights(self, values: np.ndarray) -> None:
        """Weigh the examples of the following training passes by their class, in every cost.

        Parameters
        ----------
        values : array (classes,)
            Of the labels that will be fed; a cost's further outputs, if any, weigh 1.
        """
        values = np.asarray(values, self.dtype)
        for node in self.network.costs:
            if not node.layer.weighs_classes:
                raise ValueError(f"Plan: {node} knows no class weights")
            outputs = node.input_shapes[0][0]
            if values.ndim != 1 or not 1 <= len(values) <= outputs:
                raise ValueError(
                    f"Plan: class weights must be 1 to {outputs} numbers for {node}, got shape {values.shape}"
                )
            padded = np.concatenate([values, np.ones(outputs - len(values), self.dtype)])
            for i, shard in enumerate(self.shards):
                with self.lanes.active(i):
                    shard.class_weights[node.name] = self.devices[i].asarray(padded)
        for made in (self._programs, self._passes):
            made.clear()  # they know the weights of before

    # ---- results -------------------------------------------------------------------------------------------
    def get_metrics(self) -> np.ndarray:
        """Read the sums of every cost since the last reset, (costs, 4) float64: examples, loss, top-1 errors,
        top-k errors. Waits for the devices.
        """
        return np.sum([self._to_numpy(i, shard.metrics) for i, shard in enumerate(self.shards)], axis=0)

    def read_metrics(self) -> dict[str, Metrics]:
        """Read the sums of every cost since the last reset, by name; waits for the devices."""
        return {
            name: Metrics(*map(float, row)) for name, row in zip(self._costs, self.get_metrics(), strict=True)
        }

    def reset_metrics(self) -> None:
        """Start the sums again at zero."""
        self.set_metrics(np.zeros((len(self._costs), 4)))

    def set_metrics(self, values: np.ndarray) -> None:
        """Put back sums saved earlier, array (costs, 4)."""
        values = np.asarray(values, np.float64).reshape(len(self._costs), 4)
        self._upload("metrics", lambda shard: values if shard.index == 0 else np.zeros_like(values))

    def loss(self) -> float:
        """Compute the objective of the last forward pass, its costs' weighted sum. Waits for the devices.

        Of a window of a bigger batch: the mean over the window's own examples.
        """
        return sum(getattr(n.layer, "weight", 1.0) * self._cost(n.name) for n in self.network.costs)

    def _cost(self, name: str) -> float:
        regions = self.partition.held[name]
        terms = []
        for i, region in enumerate(regions):
            count = 0 if region is None else region.count(self._n)
            if count:
                value = float(self._to_numpy(i, self.shards[i].outputs[name]).reshape(()))
                terms.append((count / self._n) * value)
        return sum(terms)

    def scores(self, n: int | None = None) -> Any:
        """Return the class scores (before softmax) of the last forward pass, (n, classes): a view on the
        device that holds them, or where several do a copy on the host.
        """
        n, name = self._check_count(n), self.network.output
        holders = [i for i, region in enumerate(self.partition.held[name]) if region is not None]
        if len(holders) == 1 or name == INPUT:
            return self.shards[holders[0]].outputs[name][:n]
        return self.get_output(name, n)

    def get_output(self, name: str, n: int | None = None) -> np.ndarray:
        """Copy a layer's output (or "input") in the last forward pass to the host, put together from all
        devices: (n, ...).
        """
        return self._assemble(name, "outputs", n)

    def get_gradient(self, name: str, n: int | None = None) -> np.ndarray:
        """Copy the gradient of a layer's output (or "input") to the host, put together from all devices.

        A gradient is spent once its layer's backward has run; that of the images is whole.
        """
        return self._assemble(name, "gradients", n)

    def _assemble(self, name: str, kind: str, n: int | None) -> np.ndarray:
        n = self._check_count(n)
        if name in self.partition.fused:
            raise ValueError(
                f"Plan: the output of layer {name!r} is never written: layer {self.partition.fused[name]!r} "
                "does its work too; a plan made with fuse=False has it"
            )
        if name == INPUT and kind == "outputs" and self.depth is not None:
            raise ValueError(
                "Plan: the images are kept as the first convolution reads them "
                "(see pyconvnet.ops.space_to_depth); a plan made with fuse=False has them as they are"
            )
        shape = self.network.input_shape if name == INPUT else self.network[name].output_shape
        out = np.zeros((n, *shape), self.dtype)
        for i, region in enumerate(self.partition.held[name]):
            arrays = getattr(self.shards[i], kind)
            if region is None or name not in arrays:
                continue
            first, last = region.rows(n)
            piece = self._to_numpy(i, arrays[name])[: last - first]
            place = out[first:last, ..., region.start : region.stop]
            if name == INPUT and kind == "gradients":
                place += piece  # each tower's part
            else:
                place[...] = piece
        return out

    # ---- looking for what went wrong -----------------------------------------------------------------------
    def first_nonfinite(self, n: int | None = None) -> str | None:
        """Say where the last forward pass first met NaN or infinity; None where all is finite.

        Parameters are looked at as they are now, layer by layer in order, each before the layer's output.
        """
        n = self._check_count(n)
        if not self._finite_output(INPUT, n):
            return "the input images"
        for node in self.network:
            for p in node.parameters():
                name = f"{node.owner}.{p.name}"
                if not self._finite("parameters", name):
                    return f"the parameters of {node} ({name})"
            if not self._finite_output(node.name, n):
                return f"the output of {node}"
        return None

    def _finite_output(self, name: str, n: int) -> bool:
        for i, (shard, region) in enumerate(zip(self.shards, self.partition.held[name], strict=True)):
            if region is None or name not in shard.outputs or not region.count(n):
                continue
            array = shard.outputs[name]
            if not self._all_finite(i, array[: region.count(n)] if array.ndim else array):
                return False
        return True

    def first_nonfinite_gradient(self) -> str | None:
        """Say where backward first met NaN or infinity in a parameter's gradient; None where it did not."""
        if all(self._squares_finite(i, shard.g) for i, shard in enumerate(self.shards)):
            return None
        for node in reversed(list(self.network)):
            for p in node.parameters() if node.owner == node.name else ():
                if not self._finite("parameter_gradients", f"{node.name}.{p.name}"):
                    return f"the gradient of {node} ({node.name}.{p.name})"
        return None

    def _squares_finite(self, i: int, flat: Any) -> bool:
        # One pass, no temporary array. A sum of squares overflows early, so a doubt is looked into.
        with self.lanes.active(i), np.errstate(over="ignore"):
            xp = self.devices[i].xp
            square = xp.dot(flat, flat) if self.devices[i].kind == "cuda" else _square(flat)
            return bool(xp.isfinite(square))

    def _finite(self, kind: str, name: str) -> bool:
        return all(
            self._all_finite(i, getattr(shard, kind)[name])
            for i, shard in enumerate(self.shards)
            if name in shard.slices
        )

    def _all_finite(self, i: int, array: Any) -> bool:
        with self.lanes.active(i):
            return bool(self.devices[i].xp.isfinite(array).all())


def _square(flat: np.ndarray) -> np.ndarray:
    """Sum the squares on our threads; those of BLAS, once awake, would stay so for a while."""
    pieces = ranges(flat.size, 1 << 20)
    sums = np.empty(len(pieces), flat.dtype)

    def task(i: int) -> None:
        part = flat[slice(*pieces[i])]
        sums[i] = np.dot(part, part)

    parallel(task, len(pieces))
    return sums.sum()
