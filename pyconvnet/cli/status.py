"""``pyconvnet status``: where a run stands."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable


def add(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the options."""
    sub = command("status", "where a run stands: epoch, figures, speed, time left, checkpoint, who holds it")
    sub.add_argument("folder", metavar="RUN", help="folder of the run")
    sub.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..training.status import status, text

    told = status(args.folder)
    print(json.dumps(told) if args.json else text(told))
    return 0
