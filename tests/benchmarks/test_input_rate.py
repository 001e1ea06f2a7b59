"""benchmarks/input_rate.py: what its sides feed, and that it runs."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
from support import ROOT

from pyconvnet import data
from pyconvnet.plan import Plan

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def rate(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("input_rate")


def test_every_side_steps_on_images_of_the_shards(rate, tmp_path, monkeypatch):
    shards = rate.prepared(str(tmp_path), 10, 76)
    plan = Plan(rate.network(tiny=True), "cpu", 4)
    fed, steps = [], []
    feed, step = plan.feed, plan.step
    monkeypatch.setattr(plan, "feed", lambda *args, **how: (fed.append((*args, how)), feed(*args, **how)))
    monkeypatch.setattr(plan, "step", lambda: (steps.append(len(fed)), step()))
    with data.Loader(shards, 4) as loader:
        sides = rate.Sides(plan, shards, 4, loader)
        sides.memory()
        sides.there()
        for _ in range(3):  # epochs of two full batches and a rest
            sides.from_shards()
        sides.from_kept()
        sides.batches.close()
    assert steps == [1, 1, 2, 3, 4, 5]
    assert fed[4][3]["of"] is sides.kept
    assert len(set(fed.pop()[0].tolist())) == 4
    assert not np.array_equal(fed[1][2]["crop"], fed[2][2]["crop"])
    want = [batch for epoch in range(2) for batch in data.Loader(shards, 4).epoch(epoch) if len(batch) == 4]
    for (images, labels, *_), batch in zip(fed[1:], want, strict=False):
        np.testing.assert_array_equal(images, shards.read(batch.indices))
        np.testing.assert_array_equal(labels, shards.labels[batch.indices])


def test_it_runs(rate, tmp_path, monkeypatch, capsys):
    words = "--device cpu --tiny --batch 2 --images 6 --steps 1 --rounds 2 --precision fp32 --json"
    monkeypatch.setattr(sys, "argv", ["input_rate.py", *words.split(), str(tmp_path / "new" / "input.json")])
    rate.main()
    found = json.loads((tmp_path / "new" / "input.json").read_text())
    assert {len(side["rounds"]) for side in found["sides"].values()} == {2}
    assert found["ratio"]["there"] == 1
    assert "input: shards reach" in capsys.readouterr().out
