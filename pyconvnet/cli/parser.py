"""The options of the command ``pyconvnet``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from . import arguments, convert, features, prepare, report, setting, status


class _Parser(argparse.ArgumentParser):
    """Errors in one line, without the usage before them."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Give ``--resume`` the word after it where that is "auto": ``--resume digits`` names a model."""
        words = list(sys.argv[1:] if args is None else args)
        if "--resume" in words:
            at = words.index("--resume")
            auto = words[at + 1 : at + 2] == ["auto"]
            words[at : at + 1 + auto] = ["--resume=auto" if auto else "--resume=yes"]
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


def version_text() -> str:
    import platform

    import numpy

    from ..common.version import __version__

    return f"pyconvnet {__version__} (Python {platform.python_version()}, NumPy {numpy.__version__})"


def parser(commands: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """Build the parser; `commands` are the functions that carry out each command."""
    top = _Parser(
        prog="pyconvnet",
        description="Train and use convolutional networks with hand-written CUDA kernels.",
        epilog="pyconvnet COMMAND --help tells more.",
    )
    top.add_argument("--version", action="version", version=version_text())
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=text, description=text)
        sub.set_defaults(run=commands[name])
        return sub

    _add_train(command("train", "train a model"))

    prepare.add_options(command("prepare", "decode images once, into shards to train from"))

    sub = command("evaluate", "error of a trained model on images with known classes")
    _add_model_and_data(sub)
    sub.add_argument("--batch-size", type=int, default=128)
    sub.add_argument("--workers", type=int, default=0, help="processes that decode images")
    sub.add_argument(
        "--with",
        dest="others",
        action="append",
        default=[],
        metavar="MODEL",
        help="another model, judged together with the first by their mean probabilities; may be repeated",
    )
    sub.add_argument("--csv", metavar="FILE", help="write what was predicted for every image")
    sub.add_argument("--report", action="store_true", help="also the classes with the highest errors")
    sub.add_argument("--json", action="store_true", help="one JSON object")
    _add_views(sub, 10)
    _add_size(sub)
    _add_precision(sub)
    _add_split(sub)
    _add_reading(sub)

    sub = command("predict", "most probable classes of image files")
    sub.add_argument("model", help="checkpoint or folder of a run")
    sub.add_argument("images", nargs="+", help="image files, or folders of them")
    sub.add_argument("--top", type=int, default=5, help="classes to print (default 5)")
    sub.add_argument("--json", action="store_true", help="one JSON object per image")
    _add_views(sub, 1)
    _add_size(sub)
    _add_precision(sub)
    _add_split(sub)
    _add_reading(sub, "skip")
    sub.add_argument("--batch-size", type=int, default=128, help="images at a time (default 128)")

    features.add(command)

    sub = command("plot", "draw a PNG: curves, filters, predictions, confusion or neighbours")
    sub.add_argument("kind", choices=("curves", "filters", "predictions", "confusion", "neighbours"))
    _add_model_and_data(sub)
    sub.add_argument("-o", "--output", help="PNG to write (default: KIND.png beside the model)")
    sub.add_argument(
        "--layer", help="filters: which (default: the first); neighbours: which (default: the last hidden)"
    )
    sub.add_argument("--count", type=int, default=8, help="predictions: images (8); neighbours: of each")
    sub.add_argument(
        "--only-errors", action="store_true", help="predictions: only images the model gets wrong"
    )
    sub.add_argument("--seed", type=int, default=0, help="predictions, neighbours: which images")
    _add_views(sub, 1)

    report.add(command)
    setting.add(command)
    status.add(command)
    convert.add_options(command("convert", "a model from or to another tool's file: PyTorch, Caffe, ONNX"))

    sub = command("summary", "layers, shapes, parameters, multiply-adds and memory of a model")
    _add_network(sub)
    sub.add_argument("--batch-size", type=int, default=128, help="for the memory (default 128)")

    sub = command("partition", "what each of several devices holds of a model, and what crosses")
    _add_network(sub)
    sub.add_argument("--batch-size", type=int, default=128, help="for the bytes (default 128)")
    sub.add_argument("--devices", required=True, help="such as cuda:0,cuda:1 or cpu,cpu; none need be here")
    _add_split(sub)

    sub = command("check-grads", "compare a model's gradients with central differences")
    _add_network(sub)
    sub.add_argument("--batch-size", type=int, default=2)
    sub.add_argument("--samples", type=int, default=6, help="elements per parameter array (default 6)")
    sub.add_argument("--tolerance", type=float, default=1e-6, help="relative error allowed (default 1e-6)")
    sub.add_argument("--seed", type=int, default=0)

    sub = command("tune", "measure a model's kernels on this card and remember the fastest")
    _add_network(sub, nargs="?")
    sub.add_argument("--batch-size", type=int, default=128, help="of the step (default 128)")
    sub.add_argument("--precision", default="fp32", help="fp32 (default), tf32 or fp32x3")
    sub.add_argument("--device", help="cuda:0 (default), cuda:1, ...")
    sub.add_argument("--seconds", type=float, help="for each operation (default 0.25)")
    sub.add_argument("--inference", action="store_true", help="forward alone")
    sub.add_argument("--again", action="store_true", help="also what has been measured before")
    sub.add_argument("--show", action="store_true", help="print what has been measured")
    sub.add_argument("--clear", action="store_true", help="forget what has been measured")
    sub.add_argument("--export", metavar="FILE", help="write what has been measured on the device's card")

    sub = command("devices", "which devices work here, and why the others do not")
    sub.add_argument("--json", action="store_true")
    command("version", "versions of pyconvnet, Python and NumPy")
    return top


def _add_train(sub: argparse.ArgumentParser) -> None:
    from .. import models

    sub.add_argument(
        "model", nargs="?", help=f"{', '.join(models.names())}, or a checkpoint (default digits)"
    )
    sub.add_argument("--model", dest="model_option", metavar="MODEL", help="the same")
    sub.add_argument(
        "data",
        nargs="?",
        help="digits, cifar10, a folder of class folders, a prepared folder, a CIFAR-10 folder, .npz, or "
        ".csv of path,label",
    )
    sub.add_argument("--data", dest="data_option", metavar="DATA", help="the same")
    sub.add_argument(
        "--validation", type=arguments.parse_validation, help="data, a share of the training images, or none"
    )
    sub.add_argument(
        "--from", dest="from_run", metavar="RUN", help="the run, or any file of a model, to go on from"
    )
    sub.add_argument(
        "--new-head", action="store_true", help="with --from: a new last layer for the data's classes"
    )
    sub.add_argument(
        "--freeze", type=arguments.parse_freeze, help='layers that do not learn: "conv", "all", or names'
    )
    sub.add_argument(
        "--layer-rates",
        type=arguments.parse_layer_rates,
        help='factors on the learning rate by layer: "conv=0.1,head=10"',
    )
    sub.add_argument("--epochs", type=int)
    sub.add_argument("--batch-size", type=int, help="of a step, over all devices and processes")
    sub.add_argument("--lr", type=float, help="learning rate")
    sub.add_argument("--momentum", type=float)
    sub.add_argument("--weight-decay", type=float)
    sub.add_argument(
        "--schedule", help='"constant", "steps:8=0.1,10=0.1", "plateau:patience=2", "warmup:5,then=plateau"'
    )
    sub.add_argument(
        "--init", help='initial values of all weights: "he", "he_uniform", "glorot", "orthogonal"'
    )
    sub.add_argument(
        "--class-weights",
        type=arguments.parse_class_weights,
        help='factors on the loss by class: "balanced", "1,2,0.5" or "dog=2,cat=0.5"',
    )
    sub.add_argument(
        "--balance", action="store_true", default=None, help="draw every class equally often in training"
    )
    sub.add_argument(
        "--stop-after", type=int, metavar="N", help="stop after N epochs without gain (0: never)"
    )
    _add_precision(sub)
    sub.add_argument(
        "--devices", "--device", help="cpu, cuda:0 (default where it works), emulator; several: cuda:0,cuda:1"
    )
    _add_split(sub)
    sub.add_argument("--seed", type=int)
    sub.add_argument("--out", help="folder of the run (default runs/MODEL)")
    sub.add_argument(
        "--resume",
        nargs="?",
        default=False,
        type=arguments.parse_resume,
        metavar="auto",
        help="go on with the run in --out; --resume auto: begin where there is none, for restart scripts",
    )
    sub.add_argument(
        "--checkpoint-minutes", type=float, default=10.0, help="between checkpoints within an epoch (10)"
    )
    sub.add_argument("--checkpoint-batches", type=int, help="also after so many batches")
    sub.add_argument("--keep", type=int, default=1, metavar="K", help="the last K checkpoints (1)")
    sub.add_argument("--tensorboard", action="store_true", help="also write the log for TensorBoard")
    sub.add_argument(
        "--augment",
        type=arguments.parse_augment,
        help='"crop=224,mirror,pca=0.1,mean=image", "paper" or "none"',
    )
    _add_reading(sub)
    sub.add_argument("--workers", type=int, help="processes that decode images")
    sub.add_argument(
        "--keep-on-device",
        action="store_true",
        help="read all images once and keep them in the device's memory, where they must fit",
    )
    sub.add_argument(
        "--option",
        type=arguments.parse_option,
        action="append",
        metavar="NAME=VALUE",
        help="of the model, e.g. input_shape=16x16x3",
    )
    sub.add_argument("--quiet", action="store_true", help="no progress")


def _add_model_and_data(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("model", help="checkpoint or folder of a run")
    sub.add_argument(
        "data", nargs="?", help="digits, cifar10, a folder or .npz (default: what goes with the model)"
    )


def _add_network(sub: argparse.ArgumentParser, nargs: str | None = None) -> None:
    sub.add_argument("model", nargs=nargs, help="name of a model, or a checkpoint")
    sub.add_argument(
        "--option",
        type=arguments.parse_option,
        action="append",
        metavar="NAME=VALUE",
        help="of the model, e.g. classes=10",
    )


def _add_split(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--replicas", type=int, default=1, help="copies of the model among the devices")
    sub.add_argument("--hybrid", action="store_true", help="replicate all but the fully connected layers")


def _add_reading(sub: argparse.ArgumentParser, on_error: str | None = None) -> None:
    sub.add_argument(
        "--image-size",
        type=arguments.parse_size,
        help="image files: side, or HxW, after preparation (default: the model's, else 256)",
    )
    sub.add_argument("--channels", type=int, help="image files: 3 or 1 (default: the model's, else 3)")
    sub.add_argument(
        "--on-error",
        choices=("skip", "raise"),
        default=on_error,
        help="unreadable image files (default skip)",
    )
    sub.add_argument("--max-pixels", type=int, help="image files: largest decoded (default 100000000)")


def _add_size(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--at-size",
        type=arguments.parse_size,
        metavar="SIZE",
        help="look at whole images of this side, or HxW, with fully connected layers as convolutions",
    )


def _add_precision(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--precision", default="fp32", help="fp32 (default), tf32, fp32x3 or bf16")


def _add_views(sub: argparse.ArgumentParser, default: int) -> None:
    sub.add_argument(
        "--views", type=int, default=default, help=f"views averaged: 1 or 10 (default {default})"
    )
    sub.add_argument("--device", "--devices", help="cpu, cuda:0, emulator; several: cuda:0,cuda:1")
