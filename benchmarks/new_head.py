"""Trains a reduced AlexNet on eight of ten classes of photographs, then with a new head on the other two.

    python benchmarks/new_head.py --data FOLDER --json benchmarks/results/new-head-cpu.json

FOLDER holds train/CLASS/ and val/CLASS/. The net, its images and its first training are those of
photos_alexnet.py. Then, for as many epochs each with the same rate, batch and seed: the trained net with a
new head, its convolutions frozen, and the same net from He's initial values. The other two are the first two
classes by name, then the next two, and so on, since a pair may be easy or hard and has few images. Passes
where the mean validation error over pairs and seeds is lower with the new head after three epochs (the first
three of more: the rate is constant), and in the mean of all epochs; the last epoch's is written down, too.

What is frozen, the rate and these two verdicts were chosen with seeds 0 to 2 in sight (with nothing frozen
the new head was not the better one after ten epochs); the default seeds had not been looked at.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from photos_alexnet import CROP, FIGURES, SCHEDULE, WIDTH, commit, photographs

EPOCHS, NEW_EPOCHS, EARLY, OTHER = 30, 10, 3, 2


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"on the first classes (default {EPOCHS})")
    parser.add_argument(
        "--new-epochs", type=int, default=NEW_EPOCHS, help=f"on the others (default {NEW_EPOCHS})"
    )
    parser.add_argument("--freeze", default="conv", help="layers that do not learn any more (default conv)")
    parser.add_argument("--lr", type=float, default=0.01, help="on the others (default 0.01)")
    parser.add_argument("--batch-size", type=int, default=16, help="on the others (default 16)")
    parser.add_argument("--pairs", type=int, nargs="*", help="which pairs of classes, from 0 (default: all)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[3, 4, 5])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="write the result")
    return parser.parse_args()


def chosen(images: Any, names: list[str]) -> Any:
    """The images of some classes."""
    import pyconvnet as pcn

    number = {images.classes.index(name): i for i, name in enumerate(names)}
    rows = np.flatnonzero(np.isin(images.labels, list(number)))
    labels = np.array([number[int(label)] for label in images.labels[rows]])
    return pcn.ArrayDataset(images.read(rows), labels, names, name=f"{images.name}, {len(names)} classes")


def train(model: Any, data: tuple[Any, Any], options: argparse.Namespace, **how: Any) -> Any:
    """One run: (its model, its rows)."""
    import pyconvnet as pcn

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # what is no better than chance, the rows say
        run = pcn.train(model, data[0], validation=data[1], devices=options.device, out=folder, **how)
    return run.model, [{name: record[name] for name in FIGURES} for record in run.history]


def compare(
    options: argparse.Namespace, whole: tuple[Any, Any], pair: int, seed: int
) -> list[dict[str, Any]]:
    """The three runs of a pair and a seed."""
    import pyconvnet as pcn

    def net(classes: int) -> Any:
        return pcn.models.alexnet(classes, input_size=CROP, width=WIDTH, init="he")

    names = list(whole[0].classes)
    names_of_other = names[OTHER * pair : OTHER * (pair + 1)]
    first, other = (
        tuple(chosen(images, some) for images in whole)
        for some in ([name for name in names if name not in names_of_other], names_of_other)
    )
    augment = {"crop": CROP, "mirror": True}
    before = {"epochs": options.epochs, "batch_size": 32, "lr": 0.01, "schedule": SCHEDULE, "seed": seed}
    how = {"epochs": options.new_epochs, "batch_size": options.batch_size, "lr": options.lr, "seed": seed}
    how["schedule"] = "constant"
    model, rows = train(net(len(names) - OTHER), first, options, augment=augment, **before)
    new = train(model, other, options, new_head=True, freeze=options.freeze, **how)[1]
    scratch = train(net(OTHER), other, options, augment=augment, **how)[1]
    runs = {"first classes": rows, "new head": new, "from scratch": scratch}
    return [{"run": run, "other": names_of_other, "seed": seed, "rows": rows} for run, rows in runs.items()]


def main() -> None:
    options = arguments()
    document: dict[str, Any] = {
        "benchmark": "new_head",
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "freeze": options.freeze,
    }
    load = [os.getloadavg()[0]]
    whole = photographs(options.data)
    document["images"] = {"train": len(whole[0]), "validation": len(whole[1]), "classes": whole[0].classes}
    pairs = range(len(whole[0].classes) // OTHER) if options.pairs is None else options.pairs
    runs = [run for pair in pairs for seed in options.seeds for run in compare(options, whole, pair, seed)]
    document["runs"] = runs
    document["validation_error"] = errors = {  # by kind of run, then by epoch
        kind: np.mean(
            [[row["validation_error"] for row in run["rows"]] for run in runs if run["run"] == kind], axis=0
        ).tolist()
        for kind in ("first classes", "new head", "from scratch")
    }
    new, scratch = errors["new head"], errors["from scratch"]
    early = min(EARLY, options.new_epochs)
    document["verdicts"] = verdicts = {
        f"lower with the new head after {early} epochs": new[early - 1] < scratch[early - 1],
        f"lower in the mean of {options.new_epochs} epochs": bool(np.mean(new) < np.mean(scratch)),
    }
    for kind in ("new head", "from scratch"):
        print(f"{kind}: validation error by epoch {[round(error, 3) for error in errors[kind]]}")
    print(verdicts)
    if options.json:
        from harness import machine, versions

        from pyconvnet.common.devices import get_device

        device = get_device(options.device)
        document |= {"machine": machine(device), "versions": versions(device)}
        document["load_average"] = [*load, os.getloadavg()[0]]
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if (options.epochs, options.new_epochs) == (EPOCHS, NEW_EPOCHS) and not all(verdicts.values()):
        raise SystemExit("failed")


if __name__ == "__main__":
    main()
