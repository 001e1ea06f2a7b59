"""Images a second into memory: JPEG files beside PyTorch's DataLoader and SPDL, shards beside a memory map.

    python benchmarks/input_pipeline.py --data FOLDER --out benchmarks/results/input-pipeline.json

`--data`: a folder with train/CLASS/*.jpg, of which the training images are read, each once a round, shuffled,
in batches of 256 x 256 RGB bytes. The sides:

- files: `data.Loader` on `data.ImageFolder`; a DataLoader whose data set does the same with Pillow (JPEG
  reduced while it is decoded, EXIF orientation, the same part of the image, the same bicubic filter, RGB);
  SPDL (FFmpeg: shorter side, bicubic, centre crop; no EXIF). As many processes, or of SPDL's threads, as
  `--workers`. Their pixels are compared before anything is timed.
- shards: `data.Loader` on the same images prepared; the same bytes by `numpy.memmap`, image by image in the
  same order, copied into one batch that stays where it is, without any order or label to keep. Both from the
  page cache, 20 epochs a round.

Sides take turns; what counts is the ratio of the medians. Then: resident memory of the process and its
workers after each of ten epochs; and the share of a training step's time that it waits for data, on the `cpu`
device, from shards and from files.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SIZE = 256
SHARD_EPOCHS = 20  # of a round from shards: one takes a hundredth of a second, mostly that of beginning it


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/CLASS/*.jpg")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, help="of the folder; default all")
    parser.add_argument("--epochs", type=int, default=10, help="of which memory is measured")
    parser.add_argument("--steps", type=int, default=12, help="training steps, a round of waiting")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write the result as JSON")
    return parser.parse_args()


# ---- the sides --------------------------------------------------------------------------------------------
class WithPillow:
    """What a PyTorch user writes: a data set that decodes with Pillow. Picklable, for its workers."""

    def __init__(self, files: list[str]):
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Any:
        import torch
        from PIL import Image, ImageOps

        with Image.open(self.files[index]) as image:
            image.draft(None, (2 * SIZE, 2 * SIZE))
            image = ImageOps.exif_transpose(image).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        image = image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        return torch.from_numpy(np.array(image)), index


def of_dataloader(files: list[str], options: argparse.Namespace) -> Callable[[int], Iterator[Any]]:
    import torch
    from torch.utils.data import DataLoader

    generator = torch.Generator()
    loader = DataLoader(
        WithPillow(files),
        options.batch,
        shuffle=True,
        num_workers=options.workers,
        persistent_workers=options.workers > 0,
        generator=generator,
    )

    def epoch(number: int) -> Iterator[Any]:
        generator.manual_seed(number)
        for images, indices in loader:
            yield images.numpy(), indices.numpy()

    return epoch


def of_spdl(files: list[str], options: argparse.Namespace) -> Callable[[int], Iterator[Any]]:
    import spdl.io
    from spdl.pipeline import PipelineBuilder

    how = spdl.io.get_video_filter_desc(
        scale_width=SIZE,
        scale_height=SIZE,
        scale_algo="bicubic",
        scale_mode="crop",
        crop_width=SIZE,
        crop_height=SIZE,
        pix_fmt="rgb24",
    )

    try:
        spdl.io.load_image(files[0])
    except RuntimeError as error:
        raise ImportError(str(error)) from error

    def load(indices: Any) -> tuple[Any, Any]:
        batch = [files[i] for i in indices]
        buffer = spdl.io.load_image_batch(batch, width=None, height=None, pix_fmt=None, filter_desc=how)
        return spdl.io.to_numpy(buffer), indices

    def epoch(number: int) -> Iterator[Any]:
        order = np.random.default_rng(number).permutation(len(files))
        batches = [order[i : i + options.batch] for i in range(0, len(files), options.batch)]
        pipeline = (
            PipelineBuilder()
            .add_source(batches)
            .pipe(load, concurrency=options.workers, output_order="input")
            .add_sink(3)
            .build(num_threads=options.workers)
        )
        with pipeline.auto_stop():
            yield from pipeline.get_iterator(timeout=60)

    return epoch


def of_loader(dataset: Any, options: argparse.Namespace, workers: int) -> Callable[[int], Iterator[Any]]:
    from pyconvnet import data

    loader = data.Loader(dataset, options.batch, seed=options.seed, workers=workers)

    def epoch(number: int) -> Iterator[Any]:
        for batch in loader.epoch(number):
            yield batch.images, batch.indices

    return epoch


def of_map(shards: Any, options: argparse.Namespace) -> Callable[[int], Iterator[Any]]:
    from pyconvnet import data

    entries = shards.manifest["sets"]["train"]["shards"]
    maps = [
        np.memmap(shards.folder / e["file"], np.uint8, "r").reshape(-1, *shards.image_shape) for e in entries
    ]
    images = [image for part in maps for image in part]  # a view each
    order = data.Loader(shards, options.batch, seed=options.seed)
    batch = np.empty((options.batch, *shards.image_shape), np.uint8)

    def epoch(number: int) -> Iterator[Any]:
        indices = order.order(number)
        for first in range(0, len(indices), options.batch):
            part = indices[first : first + options.batch]
            for row, index in enumerate(part.tolist()):
                batch[row] = images[index]
            yield batch[: len(part)], part

    return epoch


# ---- measuring --------------------------------------------------------------------------------------------
def seconds_of(epoch: Callable[[int], Iterator[Any]], numbers: Iterable[int], count: int) -> float:
    start = time.perf_counter()
    for number in numbers:
        seen = sum(len(indices) for _, indices in epoch(number))
        if seen != count:
            raise SystemExit(f"{seen} images came, not {count}")
    return time.perf_counter() - start


def take_turns(
    sides: dict[str, Callable[[int], Iterator[Any]]], count: int, rounds: int, epochs: int = 1
) -> dict[str, Any]:
    """Images a second of each side: every round's, of so many epochs, and the median."""
    for epoch in sides.values():
        seconds_of(epoch, [0], count)  # starts workers, fills the page cache
    found: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in sorted(sides, reverse=turn % 2 == 1):
            time.sleep(0.2)
            numbers = range(turn * epochs + 1, (turn + 1) * epochs + 1)
            found[name].append(epochs * count / seconds_of(sides[name], numbers, count))
    result = {}
    for name, rates in found.items():
        result[name] = {"images_per_second": statistics.median(rates), "rounds": [round(r, 1) for r in rates]}
        print(f"  {name:<12} {result[name]['images_per_second']:10.1f} images/s", flush=True)
    return result


def apart(epoch: Callable[[int], Iterator[Any]], dataset: Any) -> dict[str, float]:
    """How far a side's pixels of the first batches are from ours, in grey levels."""
    means, most = [], 0
    for images, indices in epoch(0):
        far = np.abs(np.asarray(images).astype(int) - dataset.read(np.asarray(indices)))
        means.append(float(far.mean()))
        most = max(most, int(far.max()))
        if len(means) == 3:
            break
    return {"mean": statistics.fmean(means), "most": most}


def resident(process: int | None = None) -> int:
    """Bytes of memory that a process has now."""
    text = Path(f"/proc/{process or 'self'}/statm").read_text()
    return int(text.split()[1]) * resource.getpagesize()


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(number) for number in found]


def memory_over(epoch: Callable[[int], Iterator[Any]], epochs: int) -> list[float]:
    """MiB of this process and its children after each epoch."""
    found = []
    for number in range(epochs):
        for _ in epoch(number):
            pass
        found.append(sum(map(resident, [os.getpid(), *children()])) / 2**20)
    return found


def waiting(
    epoch: Callable[[int], Iterator[Any]], dataset: Any, model: str, steps: int, batch: int
) -> dict[str, float]:
    """How much of the time of training steps passes between asking for a batch and having it."""
    from pyconvnet import data, models
    from pyconvnet.plan import Plan
    from pyconvnet.training.settings import make_preprocessing

    network = models.build(model, classes=len(dataset.classes))
    side = network.input_shape[0]
    augmentation = data.Augmentation(crop=side, mirror=True, mean=None)
    plan = Plan(network, "cpu", batch, train=True, seed=0)
    plan.set_preprocessing(make_preprocessing(dataset, augmentation, None))
    plan.set_hyper(1e-4, 0.9)
    waited, times, number = [], [], 0
    batches = epoch(0)
    while len(times) < steps + 2:
        start = time.perf_counter()
        item = next(batches, None)
        had = time.perf_counter()
        if item is None or len(item[1]) < batch:
            number += 1
            batches = epoch(number)
            continue
        images, indices = item
        drawn = augmentation.draw(0, len(times), 0, batch, dataset.image_shape)
        plan.feed(images, dataset.labels[indices], drawn)
        plan.step(batch)
        waited.append(had - start)
        times.append(time.perf_counter() - start)
    waited, times = waited[2:], times[2:]  # the first prepare what is prepared once
    share = sum(waited) / sum(times)
    print(f"  {share:.2%} of a step of {1e3 * statistics.median(times):.0f} ms", flush=True)
    return {
        "share": share,
        "wait_ms": 1e3 * statistics.median(waited),
        "step_ms": 1e3 * statistics.median(times),
    }


def main() -> None:
    options = arguments()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(options.workers))
    from harness import commit, machine, versions

    from pyconvnet import data
    from pyconvnet.common.devices import get_device
    from pyconvnet.data import jpeg

    cpu = get_device("cpu")

    folder = data.ImageFolder(options.data / "train", SIZE)
    if options.images:
        keep = np.random.default_rng(options.seed).permutation(len(folder))[: options.images]
        folder = data.ImageFiles(
            [folder.path(i) for i in np.sort(keep)],
            folder.labels[np.sort(keep)],
            SIZE,
            classes=folder.classes,
        )
    files, count = [str(folder.path(i)) for i in range(len(folder))], len(folder)
    print(f"{count} images of {options.data}, {options.workers} workers, batches of {options.batch}")
    result: dict[str, Any] = {
        "benchmark": "input_pipeline",
        "command": shlex.join(["python", "benchmarks/input_pipeline.py", *sys.argv[1:]]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(cpu),
        "versions": {
            **versions(cpu),
            **{name: version_of(name) for name in ("pillow", "simplejpeg", "spdl-io")},
        },
        "images": count,
        "workers": options.workers,
        "batch": options.batch,
        "decoder": folder.decoder,
        "load_average": [os.getloadavg()[0]],
    }
    with tempfile.TemporaryDirectory() as place:
        shards, _ = data.prepare(folder, place, workers=options.workers)
        sides = {"pyconvnet": of_loader(folder, options, options.workers)}
        missing = {}
        for name, make in (("dataloader", of_dataloader), ("spdl", of_spdl)):
            try:
                sides[name] = make(files, options)
            except ImportError as error:  # SPDL also needs FFmpeg's libraries
                missing[name] = str(error)
        result["not_installed"] = missing
        pillow = data.ImageFiles(files, folder.labels, SIZE, classes=folder.classes, decoder=jpeg.PILLOW)
        result["grey_levels_apart"] = {name: apart(side, pillow) for name, side in sides.items()}
        print(f"  grey levels from Pillow's: {result['grey_levels_apart']}")
        print("from files", flush=True)
        rates = take_turns(sides, count, options.rounds)
        ours = rates["pyconvnet"]["images_per_second"]
        result["files"] = {
            **rates,
            "ratio": {n: ours / r["images_per_second"] for n, r in rates.items() if n != "pyconvnet"},
        }
        print("from shards", flush=True)
        sides = {"pyconvnet": of_loader(shards, options, 0), "memmap": of_map(shards, options)}
        rates = take_turns(sides, count, options.rounds, SHARD_EPOCHS)
        fast, mapped = (rates[name]["images_per_second"] for name in ("pyconvnet", "memmap"))
        result["shards"] = {**rates, "ratio": {"files": fast / ours, "memmap": fast / mapped}}
        print(f"ratios: files {result['files']['ratio']}, shards {result['shards']['ratio']}", flush=True)
        epochs = {
            "shards": of_loader(shards, options, 0),
            "files": of_loader(folder, options, options.workers),
        }
        result["memory_mib"] = {name: memory_over(epoch, options.epochs) for name, epoch in epochs.items()}
        print(f"memory, MiB: {result['memory_mib']}", flush=True)
        print("waiting for data in a training step of alexnet on the cpu", flush=True)
        result["waiting"] = {}
        for name in ("shards", "files"):
            made = {**vars(options), "batch": 16}
            own = argparse.Namespace(**made)
            epoch = of_loader(shards if name == "shards" else folder, own, 0 if name == "shards" else 1)
            result["waiting"][name] = waiting(epoch, folder, "alexnet", options.steps, 16)
    result["load_average"].append(os.getloadavg()[0])
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def version_of(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
