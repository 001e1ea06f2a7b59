"""A layer in its place in a network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..layers import Layer, Parameter
from ..layers.base import Shape

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """One layer in its place: name, number, inputs by name, shapes without the batch.

    ``owner`` names the layer whose parameters this one uses: itself unless they are shared.
    """

    name: str
    index: int
    layer: Layer
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    owner: str

    def __str__(self) -> str:
        return f"layer {self.name!r} ({type(self.layer).__name__})"

    def parameters(self) -> list[Parameter]:
        """Return what the layer computes with, whether its own or shared."""
        return self.layer.parameters(*self.input_shapes)


class Graph:
    """Named layers in order of computation: what is asked of a network by those who do not build it.

    Attributes
    ----------
    name : str
    input_shape : (H, W, C) or (features,)
    """

    name: str
    input_shape: Shape
    _nodes: dict[str, Node]

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, name: object) -> bool:
        return name in self._nodes

    def __getitem__(self, name: str) -> Node:
        if name not in self._nodes:
            raise ValueError(
                f"network {self.name!r} has no layer {name!r}; it has {', '.join(self._nodes) or 'none'}"
            )
        return self._nodes[name]

    @property
    def costs(self) -> list[Node]:
        """The cost layers, in order."""
        return [node for node in self if node.layer.is_cost]

    @property
    def output(self) -> str:
        """Name of the layer that predicts: what the last cost reads, or the last layer where there is no
        cost.
        """
        costs = self.costs
        if costs:
            return costs[-1].inputs[0]
        if not self._nodes:
            raise ValueError(f"network {self.name!r} has no layers")
        return next(reversed(self._nodes))

    @property
    def classes(self) -> int:
        """Number of class scores the network puts out."""
        shape = self[self.output].output_shape if self.output != INPUT else self.input_shape
        if len(shape) != 1:
            raise ValueError(
                f"network {self.name!r}: output {self.output!r} is no vector of class scores, but {shape}"
            )
        return shape[0]


def node_bytes(node: Node, itemsize: int = 4) -> int:
    """Count the bytes an example costs in training: output, its gradient, and what forward saves."""
    output = int(np.prod(node.output_shape)) if node.output_shape else 0
    dtype = np.dtype(f"f{itemsize}")
    saved = node.layer.saved(dtype, *node.input_shapes).values()
    return 2 * itemsize * output + sum(int(np.prod(shape)) * np.dtype(kind).itemsize for shape, kind in saved)
