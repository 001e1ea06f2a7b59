"""``pyconvnet set``: learning rate, momentum or weight decay of a run, in its middle."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from . import arguments


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the options."""
    sub = command("set", "change lr, momentum or weight_decay of a run that is going on")
    sub.add_argument("folder", metavar="RUN", help="folder of the run")
    sub.add_argument("values", nargs="+", type=arguments.parse_option, metavar="NAME=VALUE", help="lr=0.001")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..training.changes import request

    values = dict(args.values)
    holder = request(args.folder, **values)
    words = ", ".join(f"{name}={value:g}" for name, value in values.items())
    if holder is None:
        print(f"{words}: nobody trains there; the next resume takes it up")
    else:
        print(f"{words}: {holder} takes it up between two steps")
    return 0
