"""Small image folders and CIFAR-10 files for the tests, made on the spot."""

from __future__ import annotations

import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

from support import ROOT

SHARED = ROOT.parent / "shared" / "data"  # real data, where a checkout has it beside it


def photo(seed: int, height: int = 40, width: int = 52, mode: str = "RGB") -> Image.Image:
    """A smooth colourful picture: JPEG keeps it well, and no two are alike."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def image_folder(root: Path, classes=("ant", "bee", "cat"), count: int = 4, **options) -> Path:
    """root/CLASS/N.jpg, `count` of each."""
    for label, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            photo(100 * label + i, **options).save(root / name / f"{i}.jpg", quality=95)
    return root


def truncate(path: Path, keep: float = 0.5) -> Path:
    """Cut a file short."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def cifar_arrays(seed: int, count: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (count, 3072) uint8 in the official order (planes) and labels."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, 10, count)


NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def cifar_pickles(folder: Path, protocol: int = 2) -> Path:
    """CIFAR-10 in its Python form, 20 images a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(BATCHES):
        data, labels = cifar_arrays(i)
        batch = {b"batch_label": name.encode(), b"labels": labels.tolist(), b"data": data}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    meta = {b"num_cases_per_batch": 20, b"label_names": [n.encode() for n in NAMES], b"num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol))
    return folder


def cifar_binary(folder: Path) -> Path:
    """CIFAR-10 in its binary form, 20 images a batch."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(BATCHES):
        data, labels = cifar_arrays(i)
        rows = np.concatenate([labels[:, None].astype(np.uint8), data], axis=1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    return folder


def cifar_archive(path: Path, form: str = "py") -> Path:
    """The published archive in small: a .tar.gz with cifar-10-batches-FORM/."""
    folder = path.parent / f"of-{path.name}" / f"cifar-10-batches-{form}"
    (cifar_pickles if form == "py" else cifar_binary)(folder)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder, folder.name)
    return path


def images_of(batches: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """What Cifar10 must make of the batches: (n, 32, 32, 3) and labels, by loops."""
    images, labels = [], []
    for i in batches:
        data, label = cifar_arrays(i)
        for row in data:
            image = np.empty((32, 32, 3), np.uint8)
            for channel in range(3):
                for line in range(32):
                    start = 1024 * channel + 32 * line
                    image[line, :, channel] = row[start : start + 32]
            images.append(image)
        labels.extend(label)
    return np.stack(images), np.array(labels)


WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n03126707": "crane",
    "n15075141": "toilet tissue",
}


def ilsvrc(root: Path, *, packed: bool = True, count: int = 3, held_out: int = 6) -> list[str]:
    """ILSVRC-2012 in small, by its own names: archives, or folders, and the development kit.

    Returns the class of each validation image. The kit numbers classes otherwise than they are sorted.
    """
    from scipy.io import savemat

    root.mkdir(parents=True)
    numbers = {wnid: 1 + (3 * i + 2) % len(WORDS) for i, wnid in enumerate(WORDS)}
    train, val = root / "ILSVRC2012_img_train", root / "ILSVRC2012_img_val"
    for i, wnid in enumerate(WORDS):
        (train / wnid).mkdir(parents=True)
        for k in range(count):
            photo(100 * i + k).save(train / wnid / f"{wnid}_{7 * k + 1}.JPEG", "JPEG", quality=95)
    val.mkdir()
    truth = [sorted(WORDS)[(2, 0, 3, 1, 0, 2)[k % 6]] for k in range(held_out)]
    for k in range(held_out):
        photo(1000 + k).save(val / f"ILSVRC2012_val_{k + 1:08}.JPEG", "JPEG", quality=95)
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    rows = [(numbers[w], w, WORDS[w], "a thing", 0) for w in sorted(WORDS, key=numbers.get)]
    rows.append((len(rows) + 1, "n00001740", "entity", "whatever is", 2))  # a class of classes
    savemat(kit / "meta.mat", {"synsets": np.array(rows, kind).reshape(-1, 1)})
    lines = "".join(f"{numbers[wnid]}\n" for wnid in truth)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)
    if packed:
        for wnid in WORDS:
            with tarfile.open(train / f"{wnid}.tar", "w") as tar:
                for path in sorted((train / wnid).iterdir()):
                    tar.add(path, path.name)
        for folder, files in ((train, sorted(train.glob("*.tar"))), (val, sorted(val.iterdir()))):
            with tarfile.open(f"{folder}.tar", "w") as tar:
                for path in files:
                    tar.add(path, path.name)
            shutil.rmtree(folder)
        with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as tar:
            tar.add(kit.parent, kit.parent.name)
        shutil.rmtree(kit.parent)
    return truth
