"""The contest of input pipelines: every side reads the same images, and what is measured is written down."""

from __future__ import annotations

import argparse
import importlib
import sys

import numpy as np
import pytest
from support import ROOT
from support import make_files as mk

from pyconvnet import data

OPTIONS = argparse.Namespace(batch=4, workers=0, seed=0)


@pytest.fixture
def pipeline(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("input_pipeline")
    sys.modules.pop("input_pipeline")


@pytest.fixture
def folder(tmp_path):
    mk.image_folder(tmp_path / "photos" / "train", count=3, height=80, width=90)
    return data.ImageFolder(tmp_path / "photos" / "train", 256)


def test_our_sides_and_the_map_read_every_image_once(pipeline, folder, tmp_path):
    shards, _ = data.prepare(folder, tmp_path / "out", workers=0, shard_images=4)
    want = folder.read(np.arange(9))
    for epoch in (
        pipeline.of_loader(folder, OPTIONS, 0),
        pipeline.of_loader(shards, OPTIONS, 0),
        pipeline.of_map(shards, OPTIONS),
    ):
        for number in range(2):
            seen = []
            for images, indices in epoch(number):
                np.testing.assert_array_equal(images, want[indices])
                seen += indices.tolist()
            assert sorted(seen) == list(range(9))
        assert pipeline.seconds_of(epoch, [0, 1], 9) > 0
        with pytest.raises(SystemExit, match="9 images came, not 10"):
            pipeline.seconds_of(epoch, [0], 10)
    found = pipeline.take_turns({"a": pipeline.of_map(shards, OPTIONS)}, 9, 3, epochs=2)
    assert len(found["a"]["rounds"]) == 3
    assert len(pipeline.memory_over(pipeline.of_map(shards, OPTIONS), 2)) == 2


def test_the_peers_do_the_same_work(pipeline, folder):
    pytest.importorskip("torch")
    files = [str(folder.path(i)) for i in range(9)]
    pillow = data.ImageFiles(files, folder.labels, 256, decoder="pillow")
    assert pipeline.apart(pipeline.of_dataloader(files, OPTIONS), pillow) == {"mean": 0.0, "most": 0}
    assert pipeline.apart(pipeline.of_loader(folder, OPTIONS, 0), pillow)["mean"] < 0.5


def test_waiting_is_a_share(pipeline, folder):
    found = pipeline.waiting(pipeline.of_loader(folder, OPTIONS, 0), folder, "cifar10_80sec", 2, 4)
    assert 0 < found["share"] < 1
    assert found["step_ms"] > 0
