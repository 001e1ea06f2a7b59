"""The command ``pyconvnet prepare``."""

from __future__ import annotations

import argparse
import sys

from . import arguments


def add_options(sub: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    sub.add_argument(
        "source",
        help="a folder of class folders, ILSVRC-2012's archives, .csv of path,label, or CIFAR-10; with "
        "--verify a prepared folder",
    )
    sub.add_argument("out", nargs="?", help="folder to fill; a killed command goes on where it was")
    sub.add_argument(
        "--validation", type=arguments.parse_validation, help="data, a share of the training images, or none"
    )
    sub.add_argument("--seed", type=int, default=0, help="of a share held out (default 0)")
    sub.add_argument("--size", type=arguments.parse_size, help="side, or HxW (default 256)")
    sub.add_argument(
        "--fit",
        choices=("crop", "pad", "squash"),
        default="crop",
        help="images of another shape lose their ends (default), get grey bands, or their proportions change",
    )
    sub.add_argument("--channels", type=int, help="3 (default) or 1")
    sub.add_argument(
        "--on-error", choices=("skip", "raise"), default="skip", help="unreadable files (default skip)"
    )
    sub.add_argument("--max-pixels", type=int, help="largest image decoded (default 100000000)")
    sub.add_argument("--decoder", choices=("libjpeg-turbo", "pillow"), help="of JPEG files")
    sub.add_argument("--jpeg", type=int, metavar="QUALITY", help="keep the images as JPEG of this quality")
    sub.add_argument("--shard-images", type=int, help="images a shard holds at most")
    sub.add_argument("--workers", type=int, help="processes (default: as many as there are CPUs)")
    sub.add_argument("--verify", action="store_true", help="compare a prepared folder with its checksums")
    sub.add_argument("--quiet", action="store_true", help="no progress")


def decoder_report() -> str:
    """Return the line of ``pyconvnet devices`` that says what decodes JPEG files here."""
    from ..data import jpeg

    if (library := jpeg.library()) is None:
        return "JPEG files: by Pillow (simplejpeg, which is faster, is not installed)"
    return f"JPEG files: by libjpeg-turbo (simplejpeg {library.__version__}), what it refuses by Pillow"


def run(args: argparse.Namespace) -> int:
    """Prepare images, or verify what has been prepared."""
    from ..data import open_dataset
    from ..data.preparation import prepare
    from ..data.shards import Shards

    if args.verify:
        if args.out is not None:
            raise ValueError(f"prepare --verify: one prepared folder wanted, got {args.out} beside it")
        Shards(args.source)  # a folder that is none is named here
        wrong = {}
        for dataset in filter(None, open_dataset(args.source)):
            wrong |= dataset.verify(progress=not args.quiet and sys.stderr.isatty())
        for name, why in wrong.items():
            print(f"{name}: {why}")
        print(f"{len(wrong)} files are damaged" if wrong else "every file is as it was written")
        return 1 if wrong else 0
    if args.out is None:
        raise ValueError("prepare: out, the folder to fill, is missing")
    arguments.allow_pixels(args.max_pixels)
    sets = prepare(
        args.source,
        args.out,
        validation=args.validation,
        seed=args.seed,
        size=args.size,
        channels=args.channels,
        fit=args.fit,
        on_error=args.on_error,
        max_pixels=args.max_pixels,
        decoder=args.decoder,
        jpeg_quality=args.jpeg,
        shard_images=args.shard_images,
        workers=args.workers,
        progress=not args.quiet and sys.stderr.isatty(),
    )
    for dataset in filter(None, sets):
        print(dataset)
        for name, why in list(dataset.refused.items())[:10]:
            print(f"  left out: {why if name in why else f'{name}: {why}'}")
        if len(dataset.refused) > 10:
            print(f"  and {len(dataset.refused) - 10} more, see {dataset.folder / 'manifest.json'}")
    return 0
