"""Shards as data: read, shuffled, shared among ranks, trained from, evaluated on."""

import os
import pickle
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from support import make_files as mk

import pyconvnet as pcn
from pyconvnet import data, models, ops
from pyconvnet.data import Augmentation, Loader
from pyconvnet.data.loader import _Buffers
from pyconvnet.data.shards import Shards

PHOTOS = mk.SHARED / "photos"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    mk.image_folder(folder / "photos" / "train", count=10)
    mk.image_folder(folder / "photos" / "val", count=3)
    data.prepare(folder / "photos", folder / "out", size=24, shard_images=7, workers=0)
    return folder


def test_they_are_opened_by_content(prepared):
    train, held_out = data.open_dataset(prepared / "out")
    assert type(train) is type(held_out) is Shards
    assert (len(train), len(held_out), train.image_shape) == (30, 9, (24, 24, 3))
    train, none = data.open_dataset(prepared / "out", validation=False)
    assert none is None
    # Files to validate on are read as those were that the shards are made of.
    _, files = data.open_dataset(prepared / "out", validation=prepared / "photos" / "val")
    np.testing.assert_array_equal(files.read(np.arange(9)), held_out.read(np.arange(9)))
    part, rest = data.open_dataset(prepared / "out", validation=0.5)
    assert (len(part), len(rest)) == (15, 15)
    with pytest.raises(ValueError, match="image_size must be"):
        data.open_dataset(prepared / "out", size=32)
    assert data.open_dataset(prepared / "out", size=24)[0].fingerprint() == train.fingerprint()
    with pytest.raises(FileNotFoundError, match="has no set 'test', but train, validation"):
        Shards(prepared / "out", "test")
    with pytest.raises(FileNotFoundError, match="is not prepared"):
        Shards(prepared / "photos")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_files(prepared, workers):
    shards, folder = Shards(prepared / "out"), data.ImageFolder(prepared / "photos" / "train", 24)
    with Loader(shards, 8, seed=5, workers=workers) as one, Loader(folder, 8, seed=5) as other:
        for epoch in range(2):
            for a, b in zip(one.epoch(epoch), other.epoch(epoch), strict=True):
                np.testing.assert_array_equal(a.images, b.images)
                np.testing.assert_array_equal(a.labels, b.labels)
    assert data.workers.default_workers(shards, 4) == 0
    assert data.workers.default_workers(data.Subset(shards, [1]), 4) == 0


def test_ranks_read_their_own_share(prepared, monkeypatch):
    shards, seen = Shards(prepared / "out"), []
    real = Shards.read_into
    monkeypatch.setattr(Shards, "read_into", lambda self, i, out: seen.append(len(i)) or real(self, i, out))
    with Loader(shards, 10, seed=1) as whole:
        want = [(b.images, b.labels) for b in whole.epoch(3)]
    seen.clear()
    for rank in range(3):
        with Loader(shards, 10, seed=1, share=(rank, 3)) as loader:
            for batch, (images, labels) in zip(loader.epoch(3), want, strict=True):
                rows = slice(batch.first, batch.first + len(batch))
                np.testing.assert_array_equal(batch.images, images[rows])
                np.testing.assert_array_equal(batch.labels, labels[rows])
    assert sum(seen) == 30


def test_batches_that_are_kept_stay_as_they_are(prepared):
    shards = Shards(prepared / "out")
    with Loader(shards, 4, seed=2) as loader:
        kept = list(loader.epoch(0))
        parts = [batch.images[1:3] for batch in loader.epoch(1)]
        for epoch, images in ((0, [b.images for b in kept]), (1, parts)):
            for batch, have in zip(loader.epoch(epoch), images, strict=True):
                np.testing.assert_array_equal(have, batch.images if epoch == 0 else batch.images[1:3])


def test_memory_for_batches_is_used_again_when_nobody_holds_it():
    buffers = _Buffers((2, 2, 3), np.dtype(np.uint8))
    first, second = buffers.empty(4), buffers.empty(4)
    assert not np.shares_memory(first, second)
    place = first.ctypes.data
    del first
    third = buffers.empty(3)
    assert third.ctypes.data == place
    part = third[1:][:1]
    del third
    others = [buffers.empty(2) for _ in range(30)]
    assert not any(np.shares_memory(part, other) for other in others)
    larger = buffers.empty(9)
    assert larger.shape == (9, 2, 2, 3)


def test_many_threads_and_processes_read_at_once(prepared):
    shards, folder = Shards(prepared / "out"), data.ImageFolder(prepared / "photos" / "train", 24)
    want, wrong = folder.read(np.arange(30)), []

    meet = threading.Barrier(6)

    def read(seed):
        meet.wait(60)  # so that all of them open the first file
        for i in np.random.default_rng(seed).integers(0, 30, (50, 6)):
            wrong.append(not np.array_equal(shards.read(i), want[i]))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wrong) == 300
    assert not any(wrong)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(shards)).read([3]), want[[3]])


def copy_of(prepared, tmp_path):
    import shutil

    shutil.copytree(prepared / "out", tmp_path / "out")
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("short", r"train-00001\.images must have 12096 bytes, got 12095"),
        ("missing", r"train-00001\.images"),
        ("labels", "labels"),
        ("manifest", "damaged"),
        ("format", "must be of the format"),
        ("lacks", "lacks classes"),
    ],
)
def test_what_is_damaged_is_named(prepared, tmp_path, what, match):
    out = copy_of(prepared, tmp_path)
    if what == "short":
        os.truncate(out / "train-00001.images", 12095)
    elif what == "missing":
        (out / "train-00001.images").unlink()
    elif what == "labels":
        np.save(out / "train-labels.npy", np.full(30, 3, np.int32))
    elif what == "manifest":
        mk.truncate(out / "manifest.json")
    else:
        old, new = {"format": ("shards 1", "shards 2"), "lacks": ('"classes"', '"class"')}[what]
        (out / "manifest.json").write_text((out / "manifest.json").read_text().replace(old, new))
    with pytest.raises((ValueError, OSError), match=match):
        Shards(out)


def test_a_shard_that_becomes_shorter_is_an_error_and_no_signal(prepared, tmp_path):
    shards = Shards(copy_of(prepared, tmp_path))
    shards.read([0, 29])
    os.truncate(tmp_path / "out" / "train-00000.images", 100)
    with pytest.raises(ValueError, match=r"train-00000\.images: has become shorter"):
        shards.read([1])
    (tmp_path / "out" / "train-00002.images").write_bytes(b"x" * 12096)
    assert list(shards.verify()) == ["train-00000.images", "train-00002.images"]


@pytest.mark.parametrize("mean", ["image", "pixel"])
def test_augmentation_on_the_emulator_is_the_references(prepared, mean):
    """Crop, mirror and colour of prepared images, by seed."""
    shards = Shards(prepared / "out")
    stats = data.statistics(shards)
    augmentation = Augmentation(crop=19, mirror=True, pca=0.1, mean=mean, scale=1 / 1.1)
    images = shards.read(np.arange(8))
    seen = set()
    for seed in range(3):
        drawn = augmentation.draw(seed, 11, 0, 8, shards.image_shape, stats)
        arrays = images, drawn["crop"], drawn["mirror"], drawn["colour"], augmentation.mean_of(stats)
        want = ops.augment(images.astype(np.float64), *arrays[1:], size=(19, 19), scale=1 / 1.1)
        with ops.on("emulator"):
            got = ops.augment(*arrays, size=(19, 19), scale=1 / 1.1)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            ops.augment(*arrays, size=(19, 19), scale=1 / 1.1), want, rtol=0, atol=1e-4
        )
        seen.add(got.tobytes())
        assert 0 < drawn["mirror"].sum() < 8
    assert len(seen) == 3


def reduced(classes, size, width):
    net = models.alexnet(classes, input_size=size, width=width)
    net.recipe.update(schedule="constant")
    return net


def test_a_net_trains_from_them_as_from_the_files_and_goes_on(prepared, tmp_path):
    how = {"batch_size": 6, "devices": "cpu", "progress": False, "seed": 3, "lr": 1e-3}
    net = {"augment": {"crop": 19, "mirror": True, "pca": 0.1}}
    small = lambda: pcn.models.build("digits", classes=3, input_shape=(19, 19, 3))  # noqa: E731
    run = pcn.train(small(), prepared / "out", out=tmp_path / "a", epochs=2, **how, **net)
    assert run.history[-1]["validation_error"] is not None
    files = pcn.train(small(), prepared / "photos", out=tmp_path / "b", epochs=2, image_size=24, **how, **net)
    for name, value in run.model.parameters.items():
        np.testing.assert_array_equal(files.model.parameters[name], value)
    pcn.train(small(), prepared / "out", out=tmp_path / "c", epochs=1, **how, **net)
    again = pcn.train(small(), prepared / "out", out=tmp_path / "c", epochs=2, resume=True, **how, **net)
    for name, value in run.model.parameters.items():
        np.testing.assert_array_equal(again.model.parameters[name], value)
    assert len(pcn.evaluate(run, prepared / "out", views=10)) == 9


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="no photographs here")
def test_a_reduced_alexnet_learns_photographs(tmp_path):
    data.prepare(PHOTOS, tmp_path / "out", size=76, workers=2)
    run = pcn.train(
        reduced(10, 67, 0.25), tmp_path / "out", out=tmp_path / "run", epochs=24, batch_size=32, lr=0.01,
        init="he", augment={"crop": 67, "mirror": True, "pca": 0.1}, devices="cpu", progress=False,
    )  # fmt: skip
    losses = [record["train_loss"] for record in run.history]
    assert losses[-1] < 0.9 * losses[0]
    assert run.best["validation_error"] < 0.88


LARGE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
from PIL import Image
from pyconvnet import data

root, classes, each, size = Path(sys.argv[1]), 1000, 130, 48
rng = np.random.default_rng(1)
start = time.perf_counter()
for label in range(classes):
    (root / "tree" / f"n{label:08}").mkdir(parents=True)
    for number in range(each):
        small = rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((40, 32), Image.Resampling.BILINEAR)
        image.save(root / "tree" / f"n{label:08}" / f"{number}.jpg", quality=70)
seconds = {"generate": time.perf_counter() - start}
start = time.perf_counter()
train, _ = data.prepare(root / "tree", root / "out", size=size, workers=2)
seconds["prepare"] = time.perf_counter() - start
start = time.perf_counter()
count, seen = 0, np.zeros(len(train), bool)
for epoch in range(2):
    with data.Loader(train, 256, seed=4) as loader:
        for batch in loader.epoch(epoch):
            seen[batch.indices] = True
            assert (train.labels[batch.indices] == batch.labels).all()
            count += len(batch)
    assert seen.all()
    seen[:] = False
seconds["read twice"] = time.perf_counter() - start
assert count == 2 * classes * each
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps({"images": len(train), "classes": len(train.classes), "seconds": seconds,
                  "mib": peak / 1024, "workers_mib": workers / 1024}))
"""


@pytest.mark.slow
def test_a_set_of_1000_classes_and_130000_images(tmp_path, capsys):
    """Generated, prepared, shuffled and read to its end in less than a GiB."""
    import json
    import shutil

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        run = subprocess.run(
            [sys.executable, "-c", LARGE, str(tmp_path)], env=environment, capture_output=True, text=True,
            check=False, timeout=3000,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]
        found = json.loads(run.stdout)
        with capsys.disabled():
            print(f"\n{found}")
        assert (found["images"], found["classes"]) == (130_000, 1000)
        assert found["mib"] < 1024
        assert found["workers_mib"] < 1024
    finally:
        for name in ("tree", "out"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)


def test_reading_keeps_no_memory(prepared, tmp_path):
    """The files' pages belong to the system, not to the process: ten epochs leave it as large as one."""
    images = np.random.default_rng(0).integers(0, 256, (600, 128, 128, 3), dtype=np.uint8)
    train, _ = data.prepare((images, np.arange(600) % 3), tmp_path / "out", workers=0)

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    del images
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("no /proc")
    after = []
    for epoch in range(6):
        with Loader(train, 32, seed=0) as loader:
            assert sum(len(batch) for batch in loader.epoch(epoch)) == 600
        time.sleep(0)
        after.append(resident())
    assert max(after[1:]) - after[0] < 8 << 20  # the files are 28 MiB
