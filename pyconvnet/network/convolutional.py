"""A network for larger images than it was trained on: fully connected layers as convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ..layers import Conv2d, Linear
from .network import Network


def fully_convolutional(network: Network, size: Sequence[int]) -> Network:
    """Return a network that computes, at every place of a larger image where the trained one fits, what that
    one computes there.

    A fully connected layer that reads a map of (H, W, C) becomes a convolution by filters of that size, one
    that reads a vector a convolution by filters of 1x1; their weights are the same numbers in the same order.
    Where the network pads its maps, places at the edge of the smaller image saw zeros and now see pixels.

    Parameters
    ----------
    network : Network
        On images. Its costs are left out.
    size : (H, W)
        Of the images.

    Returns
    -------
    Network
        Its output has shape (h, w, classes).

    Raises
    ------
    ValueError
        The network takes no images, the images are too small, or a layer takes no map.
    """
    if len(network.input_shape) != 3:
        raise ValueError(
            f"fully_convolutional: network {network.name!r} must take images (H, W, C), "
            f"it takes {network.input_shape}"
        )
    shape = (*size, network.input_shape[2])
    other = Network(network.name, shape, dict(network.recipe))
    for node in network:
        layer = node.layer
        if layer.is_cost:
            continue
        if isinstance(layer, Linear):
            (read,) = node.input_shapes
            options = {f.name: getattr(layer, f.name) for f in dataclasses.fields(layer)}
            layer = Conv2d(options.pop("outputs"), read[:2] if len(read) == 3 else 1, **options)
        try:
            other.add(layer, node.name, node.inputs)
        except ValueError as error:
            raise ValueError(
                f"fully_convolutional: images of {shape[0]}x{shape[1]} do not go through network "
                f"{network.name!r} as a map: {error}"
            ) from None
    return other
