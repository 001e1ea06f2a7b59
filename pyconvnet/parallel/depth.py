"""Whether a plan can keep the images as their only reader, a first convolution with a stride, reads them."""

from __future__ import annotations

from ..layers import Conv2d
from ..layers.base import padding, pair
from ..network import INPUT
from ..ops.depth import Depth
from .partition import Partition

#: Strides and channels up to which the rearranged convolution is no more than a little larger.
STRIDES, CHANNELS = (2, 3, 4), 4


def depth_of_images(partition: Partition) -> Depth | None:
    """The depth layout of the convolution that alone reads the images; None where there is no such one, or a
    device would have to send images to another.
    """
    network = partition.network
    readers = [node for node in network if INPUT in node.inputs]
    if len(readers) != 1 or not isinstance(readers[0].layer, Conv2d):
        return None
    layer = readers[0].layer
    stride, also = pair("stride", layer.stride)
    if stride != also or stride not in STRIDES or layer.groups != 1 or network.input_shape[2] > CHANNELS:
        return None
    for d in range(len(partition.devices)):
        if any(source == INPUT for source, _, _ in partition.gathers(d)):
            return None
    return Depth(pair("size", layer.size), stride, padding("pad", layer.pad))
