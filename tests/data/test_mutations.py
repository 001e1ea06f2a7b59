"""Damaged JPEG and PNG files: a right image or a named, counted refusal, in bounded time and memory."""

import functools
import io
import os
import random
import resource
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk

from pyconvnet import data
from pyconvnet.data import jpeg, load_image

SECONDS, MEMORY = 5.0, 1 << 30  # of one file


def originals():
    """Real photographs where they are, and drawings: encoded in several ways."""
    found = []
    for seed, (mode, form, options) in enumerate(
        [
            ("RGB", "JPEG", {}), ("RGB", "JPEG", {"progressive": True}), ("L", "JPEG", {}),
            ("RGB", "JPEG", {"subsampling": 1, "restart_marker_rows": 1}), ("CMYK", "JPEG", {}),
            ("RGB", "PNG", {}), ("P", "PNG", {}), ("RGBA", "PNG", {}), ("L", "PNG", {}), ("1", "PNG", {}),
        ]
    ):  # fmt: skip
        file = io.BytesIO()
        mk.photo(seed, 60, 80).convert(mode).save(file, form, **options)
        found.append(file.getvalue())
    for path in sorted((mk.SHARED / "photos").rglob("*.JPEG"))[:200:50]:
        found.append(path.read_bytes())
    for path in sorted((mk.SHARED / "odd-images").glob("hopper*.*")):
        found.append(path.read_bytes())
    return found


def mutated(rng, files):
    """One of the files with flipped bits, cut short, or with another's beginning."""
    content = bytearray(rng.choice(files))
    kind = rng.choice(["bits", "header bits", "truncated", "swapped", "bytes", "doubled"])
    if kind in ("bits", "header bits"):
        end = len(content) if kind == "bits" else min(700, len(content))
        for _ in range(rng.choice([1, 1, 2, 8, 50])):
            content[rng.randrange(end)] ^= 1 << rng.randrange(8)
    elif kind == "truncated":
        del content[rng.randrange(len(content)) :]
    elif kind == "swapped":
        length = rng.choice([2, 8, 20, 200, 623])
        content[:length] = rng.choice(files)[:length]
    elif kind == "bytes":
        at = rng.randrange(len(content))
        content[at : at + rng.randrange(1, 40)] = rng.randbytes(rng.randrange(1, 40))
    else:
        content += rng.choice(files)
    return bytes(content)


def run(seed, count, folder):
    """Read mutated files; returns how many were images and refused."""
    rng, files = random.Random(seed), originals()
    images = 0
    for number in range(count):
        content = mutated(rng, files)
        path = folder / f"{number}.jpg"
        path.write_bytes(content)
        start = time.perf_counter()
        try:
            image = load_image(path, (32, 40))
        except ValueError as error:
            assert str(path) in str(error), (seed, number)  # noqa: PT017
        else:
            images += 1
            assert image.shape == (32, 40, 3), (seed, number)
            assert image.dtype == np.uint8
        assert time.perf_counter() - start < SECONDS, (seed, number)
        path.unlink()
    return images


CODE = """
import resource, sys
from pathlib import Path
sys.path[:0] = [sys.argv[5]]
from data.test_mutations import run, MEMORY
import pyconvnet.data, PIL.Image
PIL.Image.init()
base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
assert peak - base < MEMORY, (base, peak)
"""


@pytest.mark.parametrize(
    ("seed", "count"), [(0, 200), *(pytest.param(s, 200, marks=pytest.mark.slow) for s in range(1, 11))]
)
def test_random_damage(tmp_path, seed, count):
    """In a process of its own: no damage may end it."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    tests = str(mk.ROOT / "tests")
    process = subprocess.run(
        [sys.executable, "-c", CODE, str(seed), str(count), str(tmp_path), "", tests],
        env=environment, capture_output=True, text=True, check=False, timeout=60 + count,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr[-2000:]
    images = int(process.stdout)
    assert count // 10 < images < count * 9 // 10  # both happen


def test_damage_is_counted_by_name(tmp_path):
    rng, files = random.Random(7), originals()
    (tmp_path / "f" / "a").mkdir(parents=True)
    for number in range(40):
        (tmp_path / "f" / "a" / f"{number:02}.jpg").write_bytes(mutated(rng, files))
    train, _ = data.prepare(tmp_path / "f", tmp_path / "out", size=16, workers=0)
    assert len(train) + len(train.refused) == 40
    assert 0 < len(train.refused) < 40
    assert train.read(np.arange(len(train))).shape == (len(train), 16, 16, 3)
    for name, why in train.refused.items():
        assert name in why
        with pytest.raises(ValueError, match=name):
            load_image(tmp_path / "f" / name, 16)


def chunk(kind, body):
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


@functools.cache
def bombs():
    """Small files that stand for a lot, of pixels, of scans, of text: by name."""
    return dict(_bombs())


def _bombs():
    png = b"\x89PNG\r\n\x1a\n"
    head = chunk(b"IHDR", (40_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0]))
    yield "pixels", png + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    head = chunk(b"IHDR", (9_000).to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0]))
    text = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1 << 28)))
    yield "text", png + head + text + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    file = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(file, "JPEG", progressive=True, quality=10)
    content = file.getvalue()
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    yield "scans", content[:end] + content[start:end] * 300 + content[end:]
    file = io.BytesIO()
    mk.photo(1, 50, 50).save(file, "JPEG")
    content = bytearray(file.getvalue())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = (65_000).to_bytes(2, "big") * 2
    yield "claim", bytes(content)


@pytest.mark.parametrize("decoder", [None, jpeg.PILLOW])
@pytest.mark.parametrize("name", ["pixels", "text", "scans", "claim"])
def test_bombs_are_refused_soon(tmp_path, name, decoder):
    content = bombs()[name]
    assert len(content) < 1 << 20 or name == "scans"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(ValueError, match="image: "):
        load_image(content, 32, decoder=decoder)
    assert time.perf_counter() - start < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY
