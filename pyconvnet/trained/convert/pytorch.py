"""PyTorch's state dicts: torchvision's ``alexnet`` in, any network out.

torchvision's graph (`torchvision.models.alexnet`): one tower of 64, 192, 384, 256 and 256 filters, no
response normalisation, dropout before the fully connected layers; images scaled to [0, 1], less
``IMAGENET_MEAN``, over ``IMAGENET_STD``. PyTorch keeps filters (K, C / groups, R, S) and flattens maps in the
order (C, H, W).
"""

from __future__ import annotations

import collections
import importlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...common.checks import padding, pair
from ...common.files import write_atomically
from ...layers import Conv2d, Dropout, Linear, MaxPool2d, ReLU, WeightLayer
from ...network.network import Network
from ...network.node import INPUT
from ..model import Model, read_only
from . import description
from .draft import ConversionError, Draft, NotInstalledError, Value
from .options import Custom, Options, finish

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_CONVOLUTIONS = ("features.0", "features.3", "features.6", "features.8", "features.10")
_LINEARS = ("classifier.1", "classifier.4", "classifier.6")
#: torchvision's name of each layer with parameters -> ours.
NAMES = {
    **{theirs: f"conv{i}" for i, theirs in enumerate(_CONVOLUTIONS, 1)},
    **{theirs: f"fc{i}" for i, theirs in enumerate(_LINEARS, 6)},
}
_KEYS = [f"{name}.{part}" for name in NAMES for part in ("weight", "bias")]
_PIXELS = tuple(255 * m for m in IMAGENET_MEAN)
_SOURCE = "PyTorch"


# ---- in ----------------------------------------------------------------------------------------------------
def read_state(state: Mapping[str, np.ndarray], metadata: Mapping[str, str], options: Options) -> Model:
    """Make a model of a state dict: torchvision's ``alexnet`` of any widths, or one that :func:`state_dict`
    described.

    Parameters
    ----------
    state : mapping of str to array
    metadata : mapping of str to str
        Of the file; what :func:`pyconvnet.export` wrote, or none.
    options : Options
    """
    if description.KEY in metadata:
        return _described(state, metadata[description.KEY])
    state = {key.removeprefix("module."): value for key, value in state.items()}
    missing, strange = [k for k in _KEYS if k not in state], [k for k in state if k not in _KEYS]
    if missing or strange:
        parts = [f"lacks {', '.join(missing[:3])}"] if missing else []
        parts += [f"has {', '.join(strange[:3])}"] if strange else []
        raise ConversionError(
            "of PyTorch's state dicts only that of torchvision's alexnet can be read "
            f"({len(_KEYS)} arrays, features.0.weight to classifier.6.bias); this one {' and '.join(parts)}"
        )
    size = options.input_size or (224, 224)
    draft = Draft("torchvision_alexnet", (*size, 3))
    value = Value(INPUT)
    for theirs, ours in NAMES.items():
        weight, bias = state[f"{theirs}.weight"], state[f"{theirs}.bias"]
        if theirs in _LINEARS:
            if ours != "fc8":
                name = "drop5" if ours == "fc6" else "drop6"
                value = draft.add(f"before {theirs}", name, Dropout(0.5, "inverted"), [value])
            value = draft.linear(theirs, ours, value, weight, bias)
        else:
            where = {"stride": 4, "pad": 2} if ours == "conv1" else {"pad": 2 if ours == "conv2" else 1}
            value = draft.convolution(theirs, ours, value, weight, bias, **where)
        if ours != "fc8":
            value = draft.add(theirs, f"relu_{ours}", ReLU(), [value])
        if ours in ("conv1", "conv2", "conv5"):
            value = draft.add(f"after {theirs}", f"pool{ours[-1]}", MaxPool2d(3, 2), [value])
        if ours == "conv5" and draft.shape(value)[:2] != (6, 6):
            raise ConversionError(f"input_size must give maps of 6x6 before {_LINEARS[0]}, got {size}")
    image = tuple(round(256 * extent / 224) for extent in size)
    custom = Custom(_PIXELS, [1 / (255 * std) for std in IMAGENET_STD], image_size=image)
    return finish(draft, value, options, custom, f"{_SOURCE}: torchvision's alexnet")


def _described(state: Mapping[str, np.ndarray], text: str) -> Model:
    """Make the model that :func:`state_dict` described."""
    preprocessing, classes, told = description.parse(text)
    network = Network.from_dict(told["network"])
    names = _torch_names(network)
    missing = [name for name in names.values() if name not in state]
    strange = [name for name in state if name not in names.values()]
    if missing or strange:
        raise ConversionError(f"the state dict is not its network's: {', '.join((missing + strange)[:5])}")
    factors = _input_factors(network, preprocessing) if told["names"] == "torchvision" else None
    parameters = {}
    for node in network:
        for p in node.parameters() if node.owner == node.name else []:
            name = names[f"{node.name}.{p.name}"]
            value = np.asarray(state[name])
            if value.dtype.kind != "f":
                raise ConversionError(f"{name} must be of floating-point numbers, got {value.dtype}")
            value = _to_ours(value.astype(np.float32, copy=False), node, p.name)
            if factors is not None and node.inputs == (INPUT,) and p.name == "weight":
                value = (value / factors).astype(np.float32)
            parameters[f"{node.name}.{p.name}"] = np.ascontiguousarray(value)
    names_given = list(told["classes"]) if classes is None else classes
    info = {"source": _SOURCE, "converted": []}
    return Model(network, read_only(parameters), preprocessing, names_given, info, classes is not None)


def read_pickle(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read (state dict, metadata) of a .pth file by PyTorch's own restricted loader, which runs no code.

    Raises
    ------
    NotInstalledError
        (an ImportError) PyTorch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise NotInstalledError(
            f"load: {path} is a file of PyTorch's own format, which only PyTorch can read, and it is not "
            "installed: pip install torch; or write the state dict as safetensors where PyTorch is: "
            'safetensors.torch.save_file(model.state_dict(), "alexnet.safetensors")'
        ) from None
    state = torch.load(path, map_location="cpu", weights_only=True)
    metadata = getattr(state, "_metadata", None) or {}
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not state:
        raise ConversionError(f"it must hold a state dict, got {type(state).__name__}")
    found = {}
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ConversionError(f"it must hold tensors by name, got {type(value).__name__} {name!r}")
        value = value.detach()
        if value.layout is not torch.strided:
            raise ConversionError(f"{name} is sparse")
        found[name] = (value.float() if value.is_floating_point() else value).contiguous().numpy()
    text = metadata.get(description.KEY) if isinstance(metadata, Mapping) else None
    return found, {description.KEY: text} if isinstance(text, str) else {}


# ---- out ---------------------------------------------------------------------------------------------------
def state_dict(model: Model) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return a model's parameters as PyTorch's modules keep them, and the metadata to go with them.

    Filters are (K, C / groups, R, S), features of a layer that reads a map in the order (C, H, W). Names are
    torchvision's where the graph is its ``alexnet``, else the layers' own. torchvision's also take its input:
    where the model subtracts ImageNet's mean, the first filters are scaled to what ``IMAGENET_STD`` leaves.
    """
    network = model.network
    names = _torch_names(network)
    factors = _input_factors(network, model.preprocessing) if is_torchvision(network) else None
    state = {}
    for node in network:
        for p in node.parameters() if node.owner == node.name else []:
            value = np.asarray(model.parameters[f"{node.name}.{p.name}"])
            if factors is not None and node.inputs == (INPUT,) and p.name == "weight":
                value = (value * factors).astype(np.float32)
            state[names[f"{node.name}.{p.name}"]] = np.ascontiguousarray(_to_theirs(value, node, p.name))
    kind = "torchvision" if is_torchvision(network) else "own"
    text = description.text(model, network=network.to_dict(), names=kind)
    return state, {"format": "pt", description.KEY: text}


def write_safetensors(path: Path, model: Model) -> Path:
    """Write a model's state dict as safetensors, atomically."""
    from safetensors.numpy import save

    state, metadata = state_dict(model)
    return write_atomically(path, save(state, metadata))


def write_pickle(path: Path, model: Model) -> Path:
    """Write a model's state dict in PyTorch's own format, atomically; class names and preprocessing are among
    the state dict's ``_metadata``.

    Raises
    ------
    NotInstalledError
        (an ImportError) PyTorch is not installed.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise NotInstalledError(
            f"export: {path}: only PyTorch writes its own format, and it is not installed: pip install "
            'torch; or choose a name that ends in .safetensors, with to="pytorch"'
        ) from None
    arrays, metadata = state_dict(model)
    state = collections.OrderedDict((name, torch.from_numpy(value.copy())) for name, value in arrays.items())
    state._metadata = {description.KEY: metadata[description.KEY]}  # type: ignore[attr-defined]
    stream = io.BytesIO()
    torch.save(state, stream)
    return write_atomically(path, stream.getvalue())


def is_torchvision(network: Network) -> bool:
    """Tell whether a network computes what torchvision's ``alexnet`` of some widths does."""
    nodes = [node for node in network if not node.layer.is_cost and not isinstance(node.layer, Dropout)]
    wanted = ["C11/4+2", "P", "C5/1+2", "P", *["C3/1+1"] * 3, "P", *["L"] * 3]
    if [_word(node) for node in nodes] != wanted or nodes[7].output_shape[:2] != (6, 6):
        return False
    dropouts = [node.layer for node in network if isinstance(node.layer, Dropout)]
    chain = [node.name for node in network if not node.layer.is_cost]
    products = [node for node in nodes if isinstance(node.layer, WeightLayer)]
    return (
        all(layer.test_factor == 1 for layer in dropouts)
        and all(node.inputs == (before,) for node, before in zip(network, [INPUT, *chain], strict=False))
        and all(n.layer.activation == "relu" for n in products[:-1])
        and products[-1].layer.activation is None
        and network.input_shape[2] == 3
        and all(n.layer.bias and n.owner == n.name for n in products)
    )


def _word(node: Any) -> str:
    """Describe a layer in a few letters, to compare."""
    layer = node.layer
    if isinstance(layer, Conv2d) and layer.groups == 1:
        size, stride = pair("", "size", layer.size, 1), pair("", "stride", layer.stride, 1)
        pads = {p for side in padding("", "pad", layer.pad) for p in side}
        if len({*size}) == len({*stride}) == len(pads) == 1:
            return f"C{size[0]}/{stride[0]}+{pads.pop()}"
    if isinstance(layer, MaxPool2d):
        h, w, _ = node.input_shapes[0]
        floor = ((h - 3) // 2 + 1, (w - 3) // 2 + 1)
        same = pair("", "size", layer.size, 1) == (3, 3) and pair("", "stride", layer.stride, 1) == (2, 2)
        if same and padding("", "pad", layer.pad) == ((0, 0), (0, 0)) and node.output_shape[:2] == floor:
            return "P"
    return "L" if isinstance(layer, Linear) else type(layer).__name__


def _torch_names(network: Network) -> dict[str, str]:
    """Return PyTorch's name of each parameter by ours."""
    names = {name: name for name in network.parameters()}
    if is_torchvision(network):
        owners = [node.name for node in network if isinstance(node.layer, WeightLayer)]
        theirs = dict(zip(owners, NAMES, strict=True))
        names = {n: re.sub(r"^[^.]+", lambda m: theirs[m.group()], n) for n in names}
    return names


def _input_factors(network: Network, preprocessing: Any) -> np.ndarray | None:
    """Return by what filters grow where they read torchvision's inputs; None: the mean is not ImageNet's."""
    mean = preprocessing.mean
    if mean is None or mean.shape != (3,) or not np.allclose(mean, _PIXELS, rtol=1e-4):
        return None
    return np.array(IMAGENET_STD) * 255 * preprocessing.scale


def _to_theirs(value: np.ndarray, node: Any, part: str) -> np.ndarray:
    """Return a parameter in PyTorch's layout."""
    shape = node.input_shapes[0]
    if isinstance(node.layer, Conv2d) and part == "weight":
        return value.transpose(0, 3, 1, 2)
    if isinstance(node.layer, Linear) and part == "weight" and len(shape) == 3:
        return value.reshape(-1, *shape).transpose(0, 3, 1, 2).reshape(len(value), -1)
    return value


def _to_ours(value: np.ndarray, node: Any, part: str) -> np.ndarray:
    """Return a parameter in our layout."""
    shape = node.input_shapes[0]
    if isinstance(node.layer, Conv2d) and part == "weight":
        return value.transpose(0, 2, 3, 1)
    if isinstance(node.layer, Linear) and part == "weight" and len(shape) == 3:
        h, w, c = shape
        return value.reshape(-1, c, h, w).transpose(0, 2, 3, 1).reshape(len(value), -1)
    return value
