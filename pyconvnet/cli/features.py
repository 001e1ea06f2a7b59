"""``pyconvnet features``: what a layer makes of images, as a NumPy file."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import arguments


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the options."""
    sub = command("features", "write what a layer makes of images to a .npy file")
    sub.add_argument("model", help="checkpoint or folder of a run")
    sub.add_argument("images", nargs="+", help="image files, folders; or digits, cifar10, .npz, .csv")
    sub.add_argument("--layer", help="such as fc7 (default: the last hidden layer)")
    sub.add_argument("--out", required=True, metavar="FILE", help="the .npy file, one row an image")
    sub.add_argument("--names", metavar="FILE", help="also write which image each row is of, one a line")
    sub.add_argument("--batch-size", type=int, default=128, help="images at a time (default 128)")
    sub.add_argument("--device", "--devices", help="cpu, cuda:0, emulator; several: cuda:0,cuda:1")
    sub.add_argument("--precision", default="fp32", help="fp32 (default), tf32, fp32x3 or bf16")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import numpy as np

    from ..common.files import write_atomically
    from ..trained.checkpoint import load
    from ..trained.features import last_hidden_layer

    if not args.out.endswith(".npy"):
        raise ValueError(f"features: the file's name must end in .npy, got {args.out}")
    model = load(args.model)
    layer = args.layer or last_hidden_layer(model.network)
    images, names = _images(args.images, model)
    found = model.features(
        images,
        layer,
        batch_size=args.batch_size,
        device=arguments.devices(args.device),
        precision=args.precision,
    )
    content = io.BytesIO()
    np.save(content, found)
    write_atomically(args.out, content.getvalue())
    if args.names:
        lines = "".join(f"{name}\n" for name in names)
        write_atomically(args.names, lines.encode("utf-8", "surrogateescape"))
    print(f"wrote {args.out}: {layer} of {len(found)} images, {'x'.join(map(str, found.shape[1:]))} each")
    return 0


def _images(given: list[str], model: Any) -> tuple[Any, list[str]]:
    """Return what is meant, and the images' names."""
    from ..trained.evaluate import matching_data
    from ..trained.images import image_sources

    first = Path(given[0])
    if len(given) == 1 and (first.suffix in (".npz", ".csv") or not first.exists()):
        data = matching_data(model, given[0])
        return data, [data.image_name(i) for i in range(len(data))]
    _, files = image_sources(given, model.preprocessing.image_shape)
    return files, [str(file) for file in files]
