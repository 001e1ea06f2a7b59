"""``pyconvnet report``: a run as one HTML page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from . import arguments


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the options."""
    sub = command("report", "write an HTML page: curves, filters, errors, mistakes, where the time went")
    sub.add_argument("folder", metavar="RUN", help="folder of the run")
    sub.add_argument("data", nargs="?", help="images with known classes (default: what goes with the model)")
    sub.add_argument("-o", "--output", help="HTML file to write (default: report.html in the folder)")
    sub.add_argument("--mistakes", type=int, default=12, help="how many of the worst (default 12)")
    sub.add_argument("--views", type=int, default=10, help="views averaged: 1 or 10 (default 10)")
    sub.add_argument("--batch-size", type=int, default=128)
    sub.add_argument("--device", "--devices", help="cpu, cuda:0, emulator; several: cuda:0,cuda:1")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..trained.checkpoint import find, load
    from ..trained.report import report

    data = args.data
    if data is None:
        try:
            data = arguments.data_of(None, load(find(args.folder)).network.name)
        except (ValueError, FileNotFoundError):  # none goes with it, or there is no model yet
            data = None
    path = report(
        args.folder,
        data,
        args.output,
        views=args.views,
        mistakes=args.mistakes,
        batch_size=args.batch_size,
        device=arguments.devices(args.device),
        progress=sys.stderr.isatty(),
    )
    print(f"wrote {path}")
    return 0
