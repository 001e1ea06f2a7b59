"""What a plan does with neighbouring layers so that less is written and read again.

* Response normalisation and the max pooling after it become one layer, where nothing else reads the
  normalised map.
* In a plan that trains, a fully connected layer with ReLU and the dropout after it become one layer, where
  nothing else reads what dropout reads; no mask of dropout is kept.
* The way back through a ReLU is left to the layers that read its output, where all of them can: each zeroes
  the gradient it makes where the ReLU's output was not positive, in the pass that makes it. Where several
  read the output, on one device or on several that each make a part of the gradient, all of them do so:
  the sum of what was zeroed is zero. A ReLU layer then has nothing left to do, and its gradient is its
  input's where it alone reads that.
"""

from __future__ import annotations

import dataclasses

from ..layers import ReLU
from ..layers.fused import joined
from ..network.node import INPUT, Node
from ..network.partition import Partition
from ..network.regions import Local, gradient_names
from ..ops.space_to_depth import Depth


def fuse(partition: Partition, train: bool, join: bool = True) -> Partition:
    """Change a partition's layers as the module says, those for training only with ``train``; return it.

    Without ``join`` every layer stays: only the way back through a ReLU changes.
    """
    if join:
        for node in partition.network:
            _join(partition, node, train)
    if train:
        partition.relu_by_readers = frozenset(
            node.name for node in partition.network if _relu_by_readers(partition, node)
        )
        for node in partition.network:
            if type(node.layer) is ReLU and node.name in partition.relu_by_readers:
                _pass_gradient(partition, node)
    return partition


def _readers(partition: Partition, name: str) -> list[Node]:
    """List the layers that read an output, as often as they do."""
    return [node for node in partition.network for source in node.inputs if source == name]


def _join(partition: Partition, first: Node, train: bool) -> None:
    """Let the only reader of ``first`` do the work of both, where there is a layer that does.

    The reader keeps its name and place; the output of ``first`` is never written.
    """
    readers = _readers(partition, first.name)
    if len(readers) != 1 or joined(first.layer, readers[0].layer, train) is None:
        return
    second, found = readers[0], []
    for d, locals_ in enumerate(partition.locals):
        mine = {local.node.name: local for local in locals_}
        if first.name not in mine and second.name not in mine:
            continue
        if first.name not in mine or second.name not in mine:
            return
        a, b = mine[first.name], mine[second.name]
        if a.computes != a.holds or b.reads != (a.holds,):
            return  # borrows channels, or is gathered
        found.append((d, a, b))
    for d, a, b in found:
        both = dataclasses.replace(
            b,
            layer=joined(a.layer, b.layer, train),
            sources=a.sources,
            reads=a.reads,
            learner=first,
        )
        partition.locals[d] = [both if x is b else x for x in partition.locals[d] if x is not a]
    partition.held[first.name] = (None,) * len(partition.devices)
    partition.fused[first.name] = second.name


def _with_gradient(partition: Partition, name: str) -> list[Local]:
    """List the layers' shares, on all devices, that give an output a gradient."""
    reaching = set(gradient_names(partition.network, input_gradient=True))  # a cost
    return [
        local
        for locals_ in partition.locals
        for local in locals_
        if name in local.sources and (local.node.layer.is_cost or local.node.name in reaching)
    ]


def _relu_by_readers(partition: Partition, node: Node) -> bool:
    """Tell whether a layer ends in a ReLU through which all readers of it can send the gradient back."""
    makers = [local.layer for locals_ in partition.locals for local in locals_ if local.node is node]
    if not makers or not all(layer.rectifies for layer in makers):
        return False
    readers = _with_gradient(partition, node.name)
    return bool(readers) and all(local.layer.masks_input for local in readers)


def _pass_gradient(partition: Partition, node: Node) -> None:
    """Let a ReLU layer's gradient be its input's, where no other layer gives that one and it lies at the same
    place.
    """
    (source,) = node.inputs
    if source == INPUT or any(local.node is not node for local in _with_gradient(partition, source)):
        return
    for d, locals_ in enumerate(partition.locals):
        mine = [local for local in locals_ if local.node is node]
        held = partition.held[source][d]
        if [local.reads for local in mine] != ([] if held is None else [(held,)]):
            return
    partition.gradient_aliases[node.name] = source


def space_to_depth_of_images(partition: Partition) -> Depth | None:
    """Find the space-to-depth layout of the convolution that alone reads the images; None where there is
    no such one, or a device would have to send images to another.
    """
    network = partition.network
    readers = [node for node in network if INPUT in node.inputs]
    if len(readers) != 1:
        return None
    for d in range(len(partition.devices)):
        if any(source == INPUT for source, _, _ in partition.gathers(d)):
            return None
    return readers[0].layer.space_to_depth_layout(network.input_shape)
