"""ILSVRC-2012 as it is published: archives, or what they hold, and the development kit.

- ``ILSVRC2012_img_train.tar``: 1000 archives ``n01440764.tar``, … of JPEG files; or a folder of these, or of
  folders;
- ``ILSVRC2012_img_val.tar``: ``ILSVRC2012_val_00000001.JPEG``, …; or a folder of these;
- ``ILSVRC2012_devkit_t12.tar.gz``, or its folder: ``data/meta.mat`` and
  ``data/ILSVRC2012_validation_ground_truth.txt``;
- ``synset_words.txt``: what the classes mean, ``n01440764 tench, Tinca tinca`` (need not be there).

The ground truth has a number a line, which `meta.mat` explains (read by SciPy), or a WordNet number (as in
``imagenet_2012_validation_synset_labels.txt``). Classes are WordNet's numbers in sorted order, as those of
folders are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..common.files import naming
from ..common.text import reason
from .archives import ArchivedFiles, Member, files_of, members, nested

_WNID = re.compile(r"n\d{8}")
_NUMBER = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG", re.IGNORECASE)
_TRAIN = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_train", "train")
_VALIDATION = ("ILSVRC2012_img_val.tar", "ILSVRC2012_img_val", "val")
_KITS = ("ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12.tar.gz")
_TRUTHS = ("ILSVRC2012_validation_ground_truth.txt", "imagenet_2012_validation_synset_labels.txt")
_WORDS = ("synset_words.txt", "LOC_synset_mapping.txt")

Members = list[tuple[Path, Member]]


def is_ilsvrc(folder: Path) -> bool:
    """Tell whether a folder holds training images in archives, or validation images without classes."""
    if not folder.is_dir():
        return False
    train, held_out = _first(folder, _TRAIN), _first(folder, _VALIDATION)
    if train is not None and (train.is_file() or any(_WNID.fullmatch(p.stem) for p in train.glob("n*.tar"))):
        return True
    flat = held_out is not None and (held_out.is_file() or any(map(_numbered, held_out.iterdir())))
    return train is not None and flat


def open_ilsvrc(folder: Path, reading: dict[str, Any]) -> tuple[ArchivedFiles, ArchivedFiles | None]:
    """Open ILSVRC-2012's training images, and its validation images where they are.

    Parameters
    ----------
    folder : Path
    reading : dict
        Options of `ImageFiles`.

    Raises
    ------
    FileNotFoundError
        No training images; validation images without a ground truth, or one whose numbers nothing explains.
    ValueError
        An archive or a text that is damaged; another number of validation images than lines of their ground
        truth; a class without training images.
    """
    train, held_out = _first(folder, _TRAIN), _first(folder, _VALIDATION)
    if train is None:
        raise FileNotFoundError(f"ILSVRC: {folder} has no training images ({', '.join(_TRAIN)})")
    by_class = _training(train)
    classes = sorted(by_class)
    number = {wnid: i for i, wnid in enumerate(classes)}
    every = [(number[wnid], member) for wnid in classes for member in by_class[wnid]]
    name = f"ILSVRC-2012 in {folder}"
    options = {k: v for k, v in reading.items() if k != "classes"}
    files = ArchivedFiles([m for _, m in every], [i for i, _ in every], classes, f"{name} (train)", **options)
    files._words = {wnid: text for wnid, text in words_of(folder).items() if wnid in number}
    if held_out is None:
        return files, None
    found = _validation(held_out)
    truth = ground_truth(folder)
    if len(truth) != len(found):
        raise ValueError(
            f"ILSVRC: {held_out} has {len(found)} images, but the ground truth has {len(truth)} lines"
        )
    strange = sorted(set(truth) - set(classes))
    if strange:
        raise ValueError(f"ILSVRC: {train} has no images of the class {strange[0]} of the ground truth")
    labels = [number[wnid] for wnid in truth]
    return files, ArchivedFiles(found, labels, classes, f"{name} (validation)", **options)


def _training(place: Path) -> dict[str, Members]:
    by_class: dict[str, Members] = {}
    if place.is_file():
        for wnid, member in nested(place):
            by_class.setdefault(wnid, []).append((place, member))
    else:
        for entry in sorted(place.iterdir()):
            if not _WNID.fullmatch(entry.stem):
                continue
            found: Callable[[Path], Iterable[Member]] | None = None
            if entry.is_dir():
                found = files_of
            elif entry.suffix == ".tar":
                found = members
            if found is not None and entry.stem not in by_class:
                by_class[entry.stem] = [(entry, member) for member in found(entry)]
    strange = [wnid for wnid in by_class if not _WNID.fullmatch(wnid)]
    if strange or not by_class or not all(by_class.values()):
        empty = [wnid for wnid, found in by_class.items() if not found]
        what = f"{strange[0]} in it is no class" if strange else f"{(empty or ['it'])[0]} has no images"
        raise ValueError(f"ILSVRC: {place}: {what} (archives or folders n01440764, … of JPEG files wanted)")
    return by_class


def _validation(place: Path) -> Members:
    found = [m for m in (members if place.is_file() else files_of)(place) if _NUMBER.search(m.name)]
    found.sort(key=lambda member: int(_NUMBER.search(member.name)[1]))
    numbers = [int(_NUMBER.search(member.name)[1]) for member in found]
    if numbers != list(range(1, len(found) + 1)):
        missing = next((i for i, n in enumerate(numbers, 1) if i != n), len(found) + 1)
        raise ValueError(
            f"ILSVRC: {place}: ILSVRC2012_val_{missing:08}.JPEG is missing, or one is there twice"
        )
    return [(place, member) for member in found]


def ground_truth(folder: Path) -> list[str]:
    """Return the WordNet number of each validation image, in their order."""
    name, content = _text(folder, _TRUTHS)
    if content is None:
        raise FileNotFoundError(
            f"ILSVRC: {folder} has validation images, but no ground truth: {' or '.join(_TRUTHS)}, there, "
            f"in data/, or in {' or '.join(_KITS)}"
        )
    lines = content.decode("ascii", "replace").split()
    if all(map(_WNID.fullmatch, lines)):
        return lines
    if not all(line.isdigit() for line in lines):
        raise ValueError(f"ILSVRC: {name} must have a number a line")
    wnids = {number: wnid for number, (wnid, _) in _meta(folder).items()}
    unknown = [line for line in lines if int(line) not in wnids]
    if unknown:
        raise ValueError(f"ILSVRC: {name}: {unknown[0]} is the number of no class in meta.mat")
    return [wnids[int(line)] for line in lines]


def words_of(folder: Path) -> dict[str, str]:
    """Return what classes mean, WordNet's number -> words; empty where nothing says so."""
    _, content = _text(folder, _WORDS)
    if content is not None:
        pairs = (line.strip().partition(" ") for line in content.decode("utf-8", "replace").splitlines())
        return {wnid: words.strip() for wnid, _, words in pairs if _WNID.fullmatch(wnid)}
    try:
        return dict(_meta(folder).values())
    except (FileNotFoundError, ImportError):
        return {}


def _meta(folder: Path) -> dict[int, tuple[str, str]]:
    """Read meta.mat: number -> (WordNet's number, words)."""
    name, content = _text(folder, ("meta.mat",))
    if content is None:
        raise FileNotFoundError(
            f"ILSVRC: {folder} has no meta.mat, which explains the ground truth's numbers"
        )
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ImportError(
            f"ILSVRC: reading {name} needs SciPy (pip install scipy); or put {_TRUTHS[1]} into {folder}, "
            "with the WordNet number of a validation image a line"
        ) from None
    try:
        rows = loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        return {int(r["ILSVRC2012_ID"]): (str(r["WNID"]), str(r["words"])) for r in rows.reshape(-1)}
    except Exception as error:  # of a damaged file, of many kinds
        raise ValueError(f"ILSVRC: {name}: not the development kit's: {reason(error)}") from None


def _text(folder: Path, names: Iterable[str]) -> tuple[str, bytes | None]:
    """Read the first file of these names in the folder, its data/ or the kit: (where, content or None)."""
    import tarfile

    for place in (folder, folder / "data", folder / _KITS[0] / "data", folder / _KITS[0]):
        for name in names:
            if (place / name).is_file():
                with naming(place / name):
                    return str(place / name), (place / name).read_bytes()
    kit = folder / _KITS[1]
    if kit.is_file():
        try:
            with naming(kit), tarfile.open(kit) as tar:
                for info in tar:
                    if info.isfile() and info.name.rsplit("/", 1)[-1] in names:
                        return f"{kit}:{info.name}", tar.extractfile(info).read()
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(f"ILSVRC: {kit}: not a readable archive: {reason(error)}") from None
    return "", None


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _numbered(path: Path) -> bool:
    return _NUMBER.fullmatch(path.name) is not None
