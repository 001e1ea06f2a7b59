"""A trained network for other classes: a new last layer, which layers stay as they are, rates by layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..common.checks import check_number
from ..data import Augmentation
from ..layers import Linear, WeightLayer
from ..network.network import Network
from ..network.node import INPUT, Node
from ..trained.model import Model, read_only

#: Words for several layers: those before the first fully connected one, those from it on, those that give the
#: class scores.
GROUPS = ("conv", "fc", "head")


def heads(network: Network) -> list[Node]:
    """Return the layers that give the class scores: of each cost, the last one before it with parameters.

    Raises
    ------
    ValueError
        There is none, it is not fully connected, or its parameters are shared.
    """
    found: list[Node] = []
    for cost in network.costs:
        name = cost.inputs[0]
        while name != INPUT and not network[name].parameters() and len(network[name].inputs) == 1:
            name = network[name].inputs[0]
        node = None if name == INPUT else network[name]
        if node is None or type(node.layer) is not Linear:
            what = "nothing" if node is None else str(node)
            raise ValueError(f"train: new_head needs a Linear layer before {cost}, there is {what}")
        if sum(other.owner == node.owner for other in network) > 1:
            raise ValueError(f"train: new_head cannot replace {node}, whose parameters are shared")
        found += [] if node in found else [node]
    return found


def with_new_head(model: Model, classes: Sequence[str], given: bool, seed: int) -> Model:
    """Return a model whose last layer tells other classes apart, with initial values there and all else as it
    was.

    Parameters
    ----------
    model : Model
    classes : sequence of str
        Names of the new outputs.
    given : bool
        False where these are made up.
    seed : int
        Of the initial values.
    """
    replaced = {node.name for node in heads(model.network)}
    if not replaced:
        raise ValueError(f"train: network {model.network.name!r} has no cost, so new_head has no place")
    description = model.network.to_dict()
    for layer in description["layers"]:
        if layer["name"] in replaced:
            layer["outputs"] = len(classes)
            layer.pop("frozen", None)
    network = Network.from_dict(description)
    parameters = dict(model.parameters)
    specs = network.parameters()
    for name in replaced:
        node = network[name]
        for position, p in enumerate(node.parameters()):
            value = np.empty(p.shape, np.float32)
            specs[f"{name}.{p.name}"].init.fill(value, seed, node.index, position, p.groups)
            parameters[f"{name}.{p.name}"] = value
    parameters = {name: parameters[name] for name in specs}
    return Model(network, read_only(parameters), model.preprocessing, list(classes), model.info, given)


def with_rates(network: Network, freeze: Any, layer_rates: Any) -> Network:
    """Return the network with layers frozen and with factors on the learning rate of others.

    Parameters
    ----------
    network : Network
    freeze : None, "conv", "all" or names
        As :func:`pyconvnet.train` takes it.
    layer_rates : None or mapping
        Likewise.

    Raises
    ------
    ValueError, TypeError
        A layer that does not exist or has no parameters, or a factor that is none.
    """
    frozen = _frozen(network, freeze)
    rates = _rates(network, layer_rates)
    if not frozen and not rates:
        return network
    network = network.with_init(network.init)  # a copy: the caller's stays as it is
    for name in frozen:
        network.configure(name, frozen=True)
    for name, factor in rates.items():
        layer = network[name].layer
        options = {part: getattr(layer, part) * factor for part in ("lr_mult", "bias_lr_mult")}
        network.configure(name, **options)
    return network


def _frozen(network: Network, freeze: Any) -> list[str]:
    if freeze is None:
        return []
    if isinstance(freeze, str):
        if freeze == "all":
            last = {node.name for node in heads(network)}
            owners = [node.name for node in network if node.parameters() and node.name not in last]
        else:
            owners = _named(network, "freeze", freeze)
    elif isinstance(freeze, (list, tuple, set)):
        owners = [name for text in freeze for name in _named(network, "freeze", text)]
    else:
        raise TypeError(
            f'train: freeze must be "conv", "all", a name or a list of names, got {type(freeze).__name__}'
        )
    if not owners:
        raise ValueError(f"train: freeze={freeze!r} names no layer with parameters")
    shared = {network[name].owner for name in owners}
    return [node.name for node in network if node.owner in shared and node.parameters()]


def _rates(network: Network, layer_rates: Any) -> dict[str, float]:
    """Return the factor of each layer that has one; its own name counts before a word for several."""
    if layer_rates is None:
        return {}
    if not isinstance(layer_rates, Mapping):
        raise TypeError(
            f'train: layer_rates must be a dict such as {{"conv": 0.1}}, got {type(layer_rates).__name__}'
        )
    found: dict[str, float] = {}
    groups_first = sorted(layer_rates, key=lambda name: (name in network, name == "head"))
    for name in groups_first:
        check_number(f"train: layer_rates[{name!r}]", layer_rates[name], "number >= 0")
        named = _named(network, "layer_rates", name)
        found |= {owner: layer_rates[name] for owner in named if network[owner].owner == owner}
    return found


def _named(network: Network, what: str, name: Any) -> list[str]:
    """Return the layers with parameters that a name or a word means."""
    if not isinstance(name, str):
        raise TypeError(f"train: {what} must name layers, got {name!r}")
    if name in network:
        if not isinstance(network[name].layer, WeightLayer):
            raise ValueError(f"train: {what} names {network[name]}, which has no weights")
        return [name]
    first = next((node.index for node in network if node.layer.fully_connected), len(network))
    own = [node for node in network if isinstance(node.layer, WeightLayer)]
    if name == "conv":
        return [node.name for node in own if node.index < first]
    if name == "fc":
        return [node.name for node in own if node.index >= first]
    if name == "head":
        return [node.name for node in heads(network)]
    have = ", ".join(node.name for node in own)
    raise ValueError(
        f"train: {what} must name layers, {have}, or be one of {', '.join(GROUPS)}, got {name!r}"
    )


def kept_augmentation(model: Model, image_shape: tuple[int, int, int]) -> Augmentation:
    """Return an augmentation that ends in what the model's preprocessing does to images of a shape.

    Cropping at random, mirroring and colours are those of the model's own training, where it knows them, else
    of its network's recipe.

    Raises
    ------
    ValueError
        The model's mean image is of another shape.
    """
    how, wanted = model.preprocessing, model.network.input_shape
    options = dict(model.info.get("augment") or model.network.recipe.get("augment", {}))
    mean = how.mean
    if mean is not None and mean.ndim == 3 and mean.shape != tuple(image_shape):
        raise ValueError(
            f"train: the model's mean image is of shape {mean.shape}, the data's images are "
            f"{tuple(image_shape)}: bring them to its size, or give augment="
        )
    options["crop"] = None if tuple(image_shape[:2]) == wanted[:2] else wanted[:2]
    options["mean"] = None if mean is None else "pixel" if mean.ndim == 1 else "image"
    options["scale"] = float(how.scale)
    return Augmentation(**options)


def told(network: Network, before: Network | None, classes: Sequence[str]) -> str:
    """Tell in words which layer is new (None before: none), which are kept, which are frozen."""
    parts = []
    for node in heads(network) if before is not None else []:
        names = ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")
        was, now = before[node.name].output_shape[0], node.output_shape[0]
        parts.append(
            f"new head: {node.name} has {now} outputs ({names}) from initial values, where it had {was}; "
            "all other layers keep their parameters"
        )
    frozen = [node.name for node in network if getattr(node.layer, "frozen", False)]
    if frozen:
        parts.append(f"frozen: {', '.join(frozen)}")
    return "; ".join(parts)
