"""Whether a plan can keep the images as their only reader, a first convolution with a stride, reads them."""

from __future__ import annotations

from ..network import INPUT
from ..ops.space_to_depth import Depth
from .partition import Partition


def depth_of_images(partition: Partition) -> Depth | None:
    """The depth layout of the convolution that alone reads the images; None where there is no such one, or a
    device would have to send images to another.
    """
    network = partition.network
    readers = [node for node in network if INPUT in node.inputs]
    if len(readers) != 1:
        return None
    for d in range(len(partition.devices)):
        if any(source == INPUT for source, _, _ in partition.gathers(d)):
            return None
    return readers[0].layer.depth_layout(network.input_shape)
