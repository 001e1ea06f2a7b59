"""CIFAR-10 (Krizhevsky 2009) in its two official forms.

Python form: ``data_batch_1`` … ``data_batch_5``, ``test_batch``, ``batches.meta``; each batch is a pickled
dictionary with ``data`` (10000, 3072) uint8, the red plane first, then green, then blue, and ``labels``.
Binary form: the same names with ``.bin``; each record is one byte of label and 3072 of pixels;
``batches.meta.txt`` names the classes.

The pickles are read by an unpickler of ours that can build nothing but numbers, strings, lists, dictionaries
and plain byte arrays: a file from a stranger runs no code.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..common.files import naming
from ..common.text import reason
from .dataset import ArrayDataset

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
SUBFOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin")
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
TEST = ["test_batch"]
_PIXELS = 32 * 32 * 3


class Cifar10(ArrayDataset):
    """CIFAR-10: 50000 training or 10000 test images (32, 32, 3), 10 classes.

    Parameters
    ----------
    folder : path, optional
        The folder with the batches, one above it, or the ``.tar.gz`` as published. Default:
        `default_folder()`.
    train : bool
        The five training batches (True) or the test batch (False).
    download : bool
        Where `folder` holds no CIFAR-10, fetch the archive (170 MB) into it and check its MD5 sum.
    url, md5 : str
        Where to download from, and the sum expected.

    Raises
    ------
    FileNotFoundError
        There is no such folder, or a batch is missing.
    ValueError
        A file is not a CIFAR-10 batch (wrong magic, size, shape or label), or the download's sum differs; the
        message names the file.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        train: bool = True,
        download: bool = False,
        *,
        url: str = URL,
        md5: str = MD5,
    ):
        path = default_folder() if folder is None else Path(folder).expanduser()
        source = find(path)
        if source is None and download:
            fetch(path, url, md5)
            source = find(path)
        if source is None:
            what = (
                "does not exist"
                if not path.exists()
                else "holds no CIFAR-10 batches (data_batch_1 or data_batch_1.bin)"
            )
            raise FileNotFoundError(f"Cifar10: {path} {what}; download=True fetches them")
        names, read = source
        images, labels, classes = read_batches(names, read, TRAIN if train else TEST)
        super().__init__(images, labels, classes, name="cifar10 (train)" if train else "cifar10 (test)")


def default_folder() -> Path:
    """Return where CIFAR-10 lies by default: ``$PYCONVNET_DATA/cifar10``, or under the user's cache."""
    base = os.environ.get("PYCONVNET_DATA")
    if base:
        return Path(base).expanduser() / "cifar10"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "pyconvnet" / "cifar10"


def find(path: Path) -> tuple[list[str], Callable[[str], tuple[str, bytes]]] | None:
    """Find CIFAR-10 at `path`: (file names, reader of a name -> (where, bytes)), or None.

    Looks for batches in the folder itself, in the official subfolders, and in archives.
    """
    if path.is_file():
        return _archive(path) if path.name.endswith((".tar.gz", ".tgz", ".tar")) else None
    if not path.is_dir():
        return None
    for folder in (path, *(path / name for name in SUBFOLDERS)):
        names = os.listdir(folder) if folder.is_dir() else []
        if any(name.removesuffix(".bin") in TRAIN + TEST for name in names):
            return names, lambda name, folder=folder: (str(folder / name), (folder / name).read_bytes())
    for name in ARCHIVES:
        if (path / name).is_file():
            return _archive(path / name)
    return None


def _archive(path: Path) -> tuple[list[str], Callable[[str], tuple[str, bytes]]]:
    """Read the files of a tar archive into memory (nothing is unpacked to disk)."""
    import tarfile

    wanted = {*TRAIN, *TEST, "batches.meta"}
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if member.isfile() and (name.removesuffix(".bin") in wanted or name == "batches.meta.txt"):
                    files[name] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"Cifar10: {path} is not a readable tar archive: {reason(error)}") from None
    if not files:
        raise ValueError(f"Cifar10: {path} holds no CIFAR-10 batches")
    return list(files), lambda name: (f"{path}:{name}", files[name])


def read_batches(
    names: Iterable[str], read: Callable[[str], tuple[str, bytes]], batches: list[str]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Read images (n, 32, 32, 3) uint8, labels (n,) int32 and class names of the named batches."""
    names = set(names)
    binary = not any(batch in names for batch in TRAIN + TEST)
    images, labels = [], []
    for batch in batches:
        name = batch + ".bin" if binary else batch
        if name not in names:
            raise FileNotFoundError(f"Cifar10: the batch {name} is missing")
        where, content = read(name)
        pixels, label = (parse_binary if binary else parse_pickle)(where, content)
        if label.min() < 0 or label.max() > 9:
            raise ValueError(
                f"Cifar10: {where}: labels must lie in [0, 10), got {label.min()} to {label.max()}"
            )
        images.append(np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)))
        labels.append(label)
    return np.concatenate(images), np.concatenate(labels).astype(np.int32), _class_names(names, read)


def parse_binary(where: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, 3072) uint8 and labels (n,) of one binary batch."""
    record = 1 + _PIXELS
    if not content or len(content) % record:
        raise ValueError(
            f"Cifar10: {where}: size must be a positive multiple of {record} bytes "
            f"(a label and 32*32*3 pixels), got {len(content)}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return rows[:, 1:], rows[:, 0].astype(np.int32)


def parse_pickle(where: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels (n, 3072) uint8 and labels (n,) of one pickled batch."""
    batch = load_pickle(where, content)
    if not isinstance(batch, dict) or "data" not in batch or "labels" not in batch:
        raise ValueError(f"Cifar10: {where}: the batch must be a dictionary with data and labels")
    data = batch["data"].array(where) if isinstance(batch["data"], _Array) else None
    if data is None or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS or not len(data):
        got = "no array" if data is None else f"{data.dtype} {data.shape}"
        raise ValueError(f"Cifar10: {where}: data must be uint8 of shape (n, {_PIXELS}), got {got}")
    labels = batch["labels"]
    if isinstance(labels, _Array):
        labels = labels.array(where).tolist()
    if not isinstance(labels, list) or not all(type(v) is int for v in labels):
        raise ValueError(f"Cifar10: {where}: labels must be a list of integers")
    if len(labels) != len(data):
        raise ValueError(f"Cifar10: {where}: {len(data)} images but {len(labels)} labels")
    if min(labels) < 0 or max(labels) > 9:
        raise ValueError(f"Cifar10: {where}: labels must lie in [0, 10), got {min(labels)} to {max(labels)}")
    return data, np.array(labels, np.int32)


def _class_names(names: set[str], read: Callable[[str], tuple[str, bytes]]) -> list[str]:
    """Read the names in batches.meta or batches.meta.txt; return the official ones where neither is there."""
    if "batches.meta" in names:
        where, content = read("batches.meta")
        meta = load_pickle(where, content)
        found = meta.get("label_names") if isinstance(meta, dict) else None
    elif "batches.meta.txt" in names:
        where, content = read("batches.meta.txt")
        found = content.decode("utf-8", "replace").split()
    else:
        return list(CLASSES)
    if not isinstance(found, list) or len(found) != 10 or not all(isinstance(n, str) for n in found):
        raise ValueError(f"Cifar10: {where}: must name 10 classes")
    return found


class _Array:
    """What the unpickler builds for a NumPy array: the arguments only, interpreted by `array`."""

    def __init__(self, *_: object):
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def array(self, where: str) -> np.ndarray:
        try:
            _, shape, dtype, fortran, data = self.state  # version, shape, dtype, order, bytes
            if isinstance(data, str):  # a protocol 2 pickle of Python 3 carries bytes as latin-1 text
                data = data.encode("latin-1")
            kind = np.dtype(dtype.code)
            if kind.hasobject or not isinstance(data, bytes):
                raise ValueError("not plain data")
            return np.frombuffer(data, kind).reshape(shape, order="F" if fortran else "C")
        except Exception:
            raise ValueError(f"Cifar10: {where}: a damaged array") from None


class _Dtype:
    """What the unpickler builds for a NumPy dtype: its code, "u1" say."""

    def __init__(self, code: object = None, *_: object):
        self.code = code if isinstance(code, str) else code.decode() if isinstance(code, bytes) else None

    def __setstate__(self, state: object) -> None:
        pass  # byte order; the batches hold single bytes


class _Unpickler(pickle._Unpickler):
    """Builds no class but the two stand-ins above.

    It is the pure Python unpickler: the compiled one can be made to allocate gigabytes by a damaged memo
    index.
    """

    _ALLOWED: ClassVar[dict] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): lambda text, encoding: text.encode("latin-1"),
        ("__builtin__", "bytes"): lambda *_: b"",  # how Python 3 writes empty bytes for Python 2
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in a CIFAR-10 batch") from None


def load_pickle(where: str, content: bytes) -> object:
    """Load the object in a CIFAR-10 pickle, with text for keys; ValueError naming `where` if it is none."""
    if content[:1] != b"\x80":
        raise ValueError(f"Cifar10: {where}: not a CIFAR-10 batch (wrong magic {content[:4]!r})")
    try:
        return _text(_Unpickler(io.BytesIO(content), encoding="latin-1").load())
    except Exception as error:  # a damaged pickle fails in any way
        raise ValueError(f"Cifar10: {where}: not a readable CIFAR-10 batch: {reason(error)}") from None


def _text(value: object) -> object:
    """Make keys and list items text: pickles written by Python 3 hold bytes where Python 2 wrote str."""
    if isinstance(value, dict):
        return {_text(k): _text(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_text(v) for v in value]
    return value.decode("latin-1") if isinstance(value, bytes) else value


def fetch(folder: Path, url: str = URL, md5: str = MD5) -> Path:
    """Download the archive at `url` into `folder`, check its MD5 sum, and unpack the batches beside it.

    Returns the folder with the batches. Nothing is left behind when it fails.

    Raises
    ------
    ConnectionError
        The download failed.
    OSError
        The disk is full, say; the file is named.
    ValueError
        The sum differs.
    """
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(prefix="cifar10-", suffix=".part", dir=folder)
    try:
        digest = hashlib.md5(usedforsecurity=False)
        with os.fdopen(handle, "wb") as out:
            for block in _download(url):
                digest.update(block)
                with naming(folder):
                    out.write(block)
            with naming(folder):
                out.flush()
        if digest.hexdigest() != md5:
            raise ValueError(f"Cifar10: download of {url}: MD5 sum must be {md5}, got {digest.hexdigest()}")
        names, read = _archive(Path(partial))
        target = folder / SUBFOLDERS[any(name.endswith(".bin") for name in names)]
        unpacked = Path(tempfile.mkdtemp(prefix="cifar10-", dir=folder))
        try:
            for name in names:
                with naming(target / name):
                    (unpacked / name).write_bytes(read(name)[1])
            unpacked.chmod(0o755)  # mkdtemp makes it private
            with naming(target):
                os.replace(unpacked, target)
        except BaseException:
            shutil.rmtree(unpacked, ignore_errors=True)
            raise
        return target
    finally:
        Path(partial).unlink(missing_ok=True)


def _download(url: str) -> Iterator[bytes]:
    import urllib.request  # slow to load, and seldom needed

    try:
        with urllib.request.urlopen(url, timeout=60) as response, _bar(response) as bar:
            while block := response.read(1 << 20):
                bar.update(len(block))
                yield block
    except OSError as error:  # URLError is one
        raise ConnectionError(
            f"Cifar10: download of {url} failed ({reason(error)}); if you have the files, name their folder"
        ) from error


def _bar(response: Any) -> Any:
    from tqdm import tqdm

    total = int(response.headers.get("Content-Length") or 0) or None
    return tqdm(total=total, desc="CIFAR-10", unit="B", unit_scale=True, disable=None, leave=False)
