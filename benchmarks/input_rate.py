"""Training steps on real input beside the same step on a batch that is there: does feeding keep up?

    python benchmarks/input_rate.py --device cuda:0 --batch 128 --precision bf16 --json input.json

AlexNet's step, as training runs it: bytes of 256 x 256 images cropped, mirrored, coloured and freed of their
mean on the device. The sides take turns; a round is several steps with one wait at its end,
on the wall's clock.

- there: the batch lies on the device, fed once; nothing but the step.
- memory: the same batch of the host's memory, and new draws, every step.
- shards: what `train` does: `data.Loader` on prepared shards (from the page cache) into memory that is copied
  from where it lies, draws, feeding, the step.
- kept: the same with the images kept on the device (``train(keep_on_device=True)``): their indices cross.

The images are random bytes, made and prepared in a temporary folder. What counts is the rate of `shards` over
that of `there`: 95 % of it is the aim on a card.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_alexnet import HYPER, network
from harness import commit, machine, versions

from pyconvnet import data
from pyconvnet.common import devices
from pyconvnet.common.files import write_atomically
from pyconvnet.plan import Plan
from pyconvnet.plan.feed import host_empty
from pyconvnet.training.settings import make_preprocessing

Step = Callable[[], None]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", help="cuda:N, cpu or emulator (default: cuda:0 where it works, else cpu)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--images", type=int, default=4096, help="in the shards: 0.2 MB each")
    parser.add_argument("--steps", type=int, default=100, help="of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="small images and a small network: to try it")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    return parser.parse_args()


def prepared(folder: str, count: int, side: int) -> data.Shards:
    """Shards of random bytes, of ten classes."""
    images = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    dataset = data.ArrayDataset(images, np.arange(count) % 10)
    shards, _ = data.prepare(dataset, folder, workers=0)
    return shards


class Sides:
    """The ways of feeding one plan."""

    def __init__(self, plan: Plan, shards: data.Shards, batch: int, loader: data.Loader):
        self.plan, self.shards, self.batch = plan, shards, batch
        self.side = plan.network.input_shape[0]
        self.augmentation = data.Augmentation(crop=self.side, mirror=True, pca=0.1)
        self.statistics = shards.known_statistics()
        plan.set_preprocessing(make_preprocessing(shards, self.augmentation, self.statistics))
        plan.set_hyper(HYPER["lr"], HYPER["momentum"])
        plan.set_weight_decay(HYPER["weight_decay"])
        self.count = itertools.count()
        self.batches = self._batches(loader)
        self.indices = self._batches(data.Loader(shards, batch, images=False))
        self.images = shards.read(np.arange(batch))
        self.kept = plan.keep_images([shards.read(np.arange(len(shards)))], len(shards))
        self.labels = shards.labels[:batch]

    def _batches(self, loader: data.Loader) -> Iterator[data.loader.Batch]:
        for epoch in itertools.count():
            yield from (batch for batch in loader.epoch(epoch) if len(batch) == self.batch)

    def _feed(self, images: np.ndarray, labels: np.ndarray, **how: Any) -> None:
        draws = self.augmentation.draw(
            0, next(self.count), 0, self.batch, self.shards.image_shape, self.statistics
        )
        self.plan.feed(images, labels, draws, **how)

    def there(self) -> None:
        self.plan.step()

    def memory(self) -> None:
        self._feed(self.images, self.labels)
        self.plan.step()

    def from_shards(self) -> None:
        batch = next(self.batches)
        self._feed(batch.images, batch.labels)
        self.plan.step()

    def from_kept(self) -> None:
        batch = next(self.indices)
        self._feed(batch.indices, batch.labels, of=self.kept)
        self.plan.step()

    def all(self) -> dict[str, Step]:
        return {
            "there": self.there,
            "memory": self.memory,
            "shards": self.from_shards,
            "kept": self.from_kept,
        }


def take_turns(sides: dict[str, Step], wait: Step, batch: int, steps: int, rounds: int) -> dict[str, Any]:
    """Images a second of each side: every round's, and the median."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-1, rounds):
        for name in sorted(sides, reverse=turn % 2 == 1):
            for _ in range(2):  # fills the queues again
                sides[name]()
            wait()
            start = time.perf_counter()
            for _ in range(steps):
                sides[name]()
            wait()
            if turn >= 0:  # the first captures graphs and starts threads
                found[name].append(batch * steps / (time.perf_counter() - start))
    return {
        name: {"images_per_second": statistics.median(rates), "rounds": rates}
        for name, rates in found.items()
    }


def main() -> None:
    options = arguments()
    device = devices.get_device(options.device)
    net = network(options.tiny)
    with tempfile.TemporaryDirectory() as folder:
        shards = prepared(folder, options.images, 76 if options.tiny else 256)
        plan = Plan(net, device, options.batch, precision=options.precision)
        with data.Loader(shards, options.batch, empty=host_empty(device)) as loader:
            sides = Sides(plan, shards, options.batch, loader)
            sides.memory()
            rates = take_turns(sides.all(), plan.synchronize, options.batch, options.steps, options.rounds)
            sides.batches.close()
    there = rates["there"]["images_per_second"]
    result = {
        "benchmark": "input_rate",
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "machine": machine(device),
        "versions": versions(device),
        "device": device.name,
        "batch": options.batch,
        "precision": options.precision,
        "tiny": options.tiny,
        "sides": rates,
        "ratio": {name: side["images_per_second"] / there for name, side in rates.items()},
    }
    if options.json:
        write_atomically(options.json, (json.dumps(result, indent=1) + "\n").encode())
    for name, side in rates.items():
        print(f"{name:<8} {side['images_per_second']:10.1f} images/s  {result['ratio'][name]:6.1%}")
    print(f"input: shards reach {result['ratio']['shards']:.1%} of the step on data that is there")


if __name__ == "__main__":
    main()
