"""What the arguments of the command line mean: models, data, devices, and values written as text."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

_DEFAULT_DATA = {"digits": "digits", "cifar10_80sec": "cifar10", "cifar10_18pct": "cifar10"}


def network(name: str, options: list[tuple[str, Any]] | None) -> Any:
    """Return what `train` gets for the model named on the command line: a known name or loaded checkpoint."""
    from .. import models
    from ..trained.checkpoint import load

    if name in models.names():
        return name
    if Path(name).exists():
        if options:
            raise ValueError(f"--option is for models by name; {name} is a checkpoint")
        return load(name)
    raise ValueError(f"model must be one of {', '.join(models.names())}, or a checkpoint, got {name!r}")


def network_of(args: argparse.Namespace) -> Any:
    """Return the network that a command's MODEL and --option mean."""
    from .. import models

    model = network(args.model, args.option)
    return models.build(model, **dict(args.option or [])) if isinstance(model, str) else model.network


def data_of(data: str | None, model: str) -> str:
    """Return the data meant: as given, or what goes with the model's name."""
    if data is not None:
        return data
    if model in _DEFAULT_DATA:
        return _DEFAULT_DATA[model]
    raise ValueError(f"which data? {model} has none of its own: name a folder of images")


def training(args: argparse.Namespace) -> tuple[Any, str]:
    """Return model and data of the command ``train``, as :func:`pyconvnet.train` takes them."""
    from .. import models
    from ..data import open_dataset

    data = args.data if args.data_option is None else args.data_option
    if args.from_run is not None:
        if args.model_option or (args.model and data):
            raise ValueError("--from names the model to go on from: give the data alone beside it")
        data = args.model or data
    name = args.from_run or args.model_option or args.model or "digits"
    if args.from_run is not None and name in models.names():
        raise ValueError(f"--from must be a checkpoint or the folder of a run, got the model {name!r}")
    model = network(name, args.option)
    data = data_of(data, model if isinstance(model, str) else model.network.name)
    if args.option:
        classes = {} if "classes" in dict(args.option) else {"classes": len(open_dataset(data)[0].classes)}
        model = models.build(model, **classes, **dict(args.option))
    return model, data


def reading(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of how images are read from files."""
    allow_pixels(args.max_pixels)
    names = ("image_size", "channels", "on_error", "max_pixels")
    return {name: getattr(args, name) for name in names}


def allow_pixels(max_pixels: int | None) -> None:
    """Raise Pillow's own limit on the pixels of an image to what is asked for."""
    from PIL import Image

    if max_pixels is not None and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels)


def placing(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of where a model runs, and how."""
    return {
        "device": devices(args.device),
        "replicas": args.replicas,
        "hybrid": args.hybrid,
        "precision": args.precision,
    }


def devices(text: str | None) -> list[str] | None:
    """Return "cuda:0,cuda:1" as a list."""
    return text.split(",") if text else None


def parse_freeze(text: str) -> Any:
    """Parse a word, or names of layers with commas between."""
    return text.split(",") if "," in text else text


def parse_layer_rates(text: str) -> dict[str, float]:
    """Parse "conv=0.1,head=10"."""
    try:
        pairs = [entry.split("=") for entry in text.split(",")]
        return {name: float(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(f'must be like "conv=0.1,head=10", got {text!r}') from None


def parse_validation(text: str) -> Any:
    """Parse a share of the training images, False for "none", or data."""
    if text in ("none", "no"):
        return False
    try:
        return float(text)
    except ValueError:
        return text


def parse_size(text: str) -> int | tuple[int, ...]:
    """Parse a side, "256", or height and width, "192x256"."""
    try:
        sides = tuple(map(int, text.split("x")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a side or HEIGHTxWIDTH, got {text!r}") from None
    return sides[0] if len(sides) == 1 else sides


def parse_augment(text: str) -> dict[str, Any]:
    """Parse "crop=224,mirror,pca=0.1" into a dictionary; "none" and "paper" for short."""
    if text == "none":
        return {"mean": None}
    if text == "paper":
        return {"crop": 224, "mirror": True, "pca": 0.1, "mean": "image"}
    known = ("crop", "mirror", "pca", "mean", "scale", "pca_scale")
    result: dict[str, Any] = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if key not in known:
            raise argparse.ArgumentTypeError(f"augmentation has {', '.join(known)}, got {key!r}")
        result[key] = parse_value(value) if equals else True
    return result


def parse_resume(text: str) -> bool | str:
    """Parse ``--resume`` alone (spelt "yes" by the parser) or ``--resume auto``."""
    if text not in ("yes", "auto"):
        raise argparse.ArgumentTypeError(f"stands alone or before auto, got {text!r}")
    return text if text == "auto" else True


def parse_class_weights(text: str) -> Any:
    """Parse "balanced", "1,2,0.5" into a list, "dog=2,cat=0.5" into a dictionary."""
    if text == "balanced":
        return text
    try:
        if "=" in text:
            pairs = (item.rpartition("=") for item in text.split(","))
            return {name: float(weight) for name, _, weight in pairs}
        return [float(weight) for weight in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be balanced, W,W,... or CLASS=W,..., got {text!r}") from None


def parse_option(text: str) -> tuple[str, Any]:
    """Parse "classes=10" into a pair."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return key, parse_value(value)


def parse_value(text: str) -> Any:
    """Parse a number, true, false, none, extents such as 12x12x3, or the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    if re.fullmatch(r"\d+(x\d+)+", text):
        return [int(extent) for extent in text.split("x")]
    return text
