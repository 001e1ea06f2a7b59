"""Trains a reduced AlexNet on a few hundred photographs, from He's initial values and from the paper's.

    python benchmarks/photos_alexnet.py --data FOLDER --json benchmarks/results/photos-alexnet-cpu.json

FOLDER holds train/CLASS/ and val/CLASS/. Width 0.25, images of 80 pixels, random crops of 67 and mirrors,
batch 32, rate 0.01, divided by ten after five epochs without a new minimum (the error of 200 images is known
to some 3%, so that two epochs, as in the paper, would say little). One run a seed with init="he", and one
with the paper's N(0, 0.01) and biases of 1, which stays at chance. Passes with a mean validation error of at
most 76% after 30 epochs over the seeds (set for photographs of ten breeds of dogs, 60 and 20 each) and the
warning in the paper's run alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

LIMIT, EPOCHS = 0.76, 30
SIZE, CROP, WIDTH = 80, 67, 0.25
SCHEDULE = "plateau:patience=5"
FIGURES = ("epoch", "lr", "train_loss", "train_error", "validation_loss", "validation_error", "seconds")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/CLASS/ and val/CLASS/")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the runs with init")
    parser.add_argument(
        "--init", default="he", help="initial values to compare with the paper's (default he)"
    )
    parser.add_argument("--schedule", default=SCHEDULE, help=f"default {SCHEDULE}")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of the cpu device; default: all")
    parser.add_argument("--json", type=Path, help="write the result")
    options = parser.parse_args()
    if options.threads:
        os.environ["PYCONVNET_NUM_THREADS"] = str(options.threads)
    return options


def photographs(folder: Path) -> tuple[Any, Any]:
    """Training and validation images, decoded once."""
    import pyconvnet as pcn

    def read(images: pcn.ImageFolder) -> pcn.ArrayDataset:
        pixels = images.read(np.arange(len(images)))
        return pcn.ArrayDataset(pixels, images.labels, images.classes, name=images.name)

    train = pcn.ImageFolder(folder / "train", SIZE)
    return read(train), read(pcn.ImageFolder(folder / "val", SIZE, classes=train.classes))


def run(options: argparse.Namespace, data: tuple[Any, Any], init: str | None, seed: int) -> dict[str, Any]:
    """One run; its rows."""
    import pyconvnet as pcn

    training, validation = data
    net = pcn.models.alexnet(len(training.classes), input_size=CROP, width=WIDTH)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        result = pcn.train(
            net,
            training,
            validation=validation,
            epochs=options.epochs,
            batch_size=32,
            lr=0.01,
            schedule=options.schedule,
            init=init,
            augment={"crop": CROP, "mirror": True},
            seed=seed,
            devices=options.device,
            out=folder,
        )
        rows = [{name: record[name] for name in FIGURES} for record in result.history]
    told = [str(w.message) for w in seen if "no better than that of guessing" in str(w.message)]
    scale = result.model.preprocessing.scale
    return {"init": init or "the paper's", "seed": seed, "scale": scale, "warnings": told, "rows": rows}


def commit() -> str:
    """Of the code that ran."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")


def main() -> None:
    options = arguments()
    document: dict[str, Any] = {
        "benchmark": "photos_alexnet",
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "schedule": options.schedule,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    load = [os.getloadavg()[0]]
    data = photographs(options.data)
    document["images"] = {"train": len(data[0]), "validation": len(data[1]), "classes": len(data[0].classes)}
    runs = [run(options, data, options.init, seed) for seed in options.seeds]
    paper = run(options, data, None, 0)
    last = [r["rows"][-1]["validation_error"] for r in runs]
    document["validation_error"] = {"mean": sum(last) / len(last), "each": last}
    document["verdicts"] = verdicts = {
        f"mean of {len(runs)} seeds at most {LIMIT:.0%}": document["validation_error"]["mean"] <= LIMIT,
        "no warning with it": not any(r["warnings"] for r in runs),
        "one warning with the paper's initial values": len(paper["warnings"]) == 1,
    }
    document["runs"] = [*runs, paper]
    print(f"validation error {document['validation_error']}; {verdicts}")
    if options.json:
        from harness import machine, versions

        from pyconvnet.common.devices import get_device

        device = get_device(options.device)
        document |= {"machine": machine(device), "versions": versions(device)}
        document["threads"] = options.threads or document["machine"]["threads"]
        document["load_average"] = [*load, os.getloadavg()[0]]  # above the threads: others were at work
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.epochs == EPOCHS and not all(verdicts.values()):
        raise SystemExit("failed")


if __name__ == "__main__":
    main()
