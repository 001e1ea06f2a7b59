"""The contest with PyTorch on the CPU: the two compute the same, and the results are written down."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from support import ROOT

from pyconvnet import models

torch = pytest.importorskip("torch")


@pytest.fixture
def contest(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module("cpu_vs_pytorch")
    torch.set_num_threads(before)


SMALL = {
    "alexnet": {"classes": 7, "input_size": 67, "width": 0.05},
    "cifar10_80sec": {"input_shape": (12, 12, 3)},
    "cifar10_18pct": {"input_shape": (12, 12, 3)},
}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", SMALL)
def test_the_two_agree_in_float64(contest, name, train):
    apart = contest.check(torch, models.build(name, **SMALL[name]), 3, 1, train)
    assert set(apart) == ({"loss", "gradients", "parameters"} if train else {"scores"})


def test_two_that_differ_are_told(contest, monkeypatch):
    monkeypatch.setattr(contest, "distance", lambda a, b: 1e-6)
    with pytest.raises(SystemExit, match="do not agree in float64"):
        contest.check(torch, models.build("digits"), 2, 1, False)


def test_the_rows_are_those_that_count(contest):
    rows = {row[:3] for row in contest.ROWS}
    for train in (True, False):
        assert {("cifar10_80sec", train, 128), ("cifar10_18pct", train, 128)} <= rows
        assert {("alexnet", train, 16), ("alexnet", train, 128)} <= rows
    assert {("cifar10_80sec", False, 1), ("cifar10_18pct", False, 1), ("alexnet", False, 1)} <= rows


ONE = ["--model", "cifar10_80sec", "--batch", "4", "--rounds", "2", "--steps", "2"]


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ([*ONE, "--profile"], [("cifar10_80sec", "train", 4)]),
        ([*ONE, "--infer"], [("cifar10_80sec", "infer", 4)]),
        (["--all"], [("digits", "train", 3), ("digits", "infer", 1)]),
    ],
)
def test_the_command(contest, how, rows, tmp_path, monkeypatch, capsys):
    for name in ("PYCONVNET_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them
    monkeypatch.setattr(contest, "ROWS", (("digits", True, 3, 2, 2), ("digits", False, 1, 2, 2)))
    words = ["--threads", "1", "--pause", "0", "--out", str(tmp_path / "a.json")]
    monkeypatch.setattr(sys, "argv", ["cpu_vs_pytorch.py", *how, *words])
    contest.main()
    document, said = json.loads((tmp_path / "a.json").read_text()), capsys.readouterr().out
    assert {"commit", "machine", "versions", "threads", "onednn"} <= set(document)
    assert [(row["model"], row["what"], row["batch"]) for row in document["rows"]] == rows
    for row in document["rows"]:
        assert row["ratio"] == row["pyconvnet"]["median_ms"] / row["pytorch"]["median_ms"]
        assert {name: len(times) for name, times in row["steps_ms"].items()} == {"pyconvnet": 4, "pytorch": 4}
        assert (row["layers_ms"] is not None) == ("--profile" in how)
        assert f"| `{row['model']}` | {row['what']} | {row['batch']} |" in said
