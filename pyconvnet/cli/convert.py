"""The command ``pyconvnet convert``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import arguments


def add_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    sub.add_argument("model", help="run's folder, checkpoint, or another tool's file, known by its content")
    sub.add_argument("out", help="file to write: .onnx, .pth, .safetensors")
    sub.add_argument(
        "--to",
        choices=("onnx", "pytorch", "pyconvnet"),
        help="format (default: by the suffix; .safetensors is pyconvnet's own, or with pytorch a state dict)",
    )
    sub.add_argument("--layout", choices=("NCHW", "NHWC"), help="ONNX: of the input (default NCHW)")
    sub.add_argument(
        "--mean",
        type=_parse_mean,
        help="of another tool's file: what its images had subtracted: numbers, Caffe's .binaryproto, or .npy",
    )
    sub.add_argument("--scale", type=_parse_numbers, help="and were multiplied by: a number or one a channel")
    sub.add_argument(
        "--bgr", action=argparse.BooleanOptionalAction, help="it takes blue, green, red (default: Caffe's do)"
    )
    sub.add_argument("--image-size", type=arguments.parse_size, help="images before the crop: side, or HxW")
    sub.add_argument("--input-size", type=arguments.parse_size, help="the crop, where the file does not say")
    sub.add_argument("--classes", help="file with the outputs' names, one a line")


def run(args: argparse.Namespace) -> int:
    """Run the command; return the exit code."""
    from ..trained.checkpoint import load
    from ..trained.export import export

    names = ("mean", "scale", "bgr", "image_size", "input_size", "classes")
    model = load(args.model, **{name: getattr(args, name) for name in names})
    for note in model.info.get("converted") or []:
        print(f"converted: {note}")
    print(f"wrote {export(model, args.out, args.to, layout=args.layout)}")
    return 0


def _parse_mean(text: str) -> Any:
    """Parse numbers with commas between, or a path."""
    return text if Path(text).exists() else _parse_numbers(text)


def _parse_numbers(text: str) -> float | list[float]:
    try:
        numbers = [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a number, several with commas between, or a file that is there, got {text!r}"
        ) from None
    return numbers[0] if len(numbers) == 1 else numbers
