"""Chance, the warning where it is not beaten, and early stopping."""

import importlib
import json
import warnings

import numpy as np
import pytest
from support import ROOT
from support.runs import events, go, toys

from pyconvnet.cli import main as cli
from pyconvnet.layers import Constant, Linear, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.trained import checkpoint
from pyconvnet.training import learning
from pyconvnet.training.schedules import Plateau


def blind(bias=0.0):
    """A net that answers the same class, whatever it sees and however long it trains."""
    net = Network("blind", (8, 8, 3))
    net.add(Linear(4, init=Constant(0.0), lr_mult=0.0, bias_init=Constant(bias)), "fc")
    return net.add(SoftmaxCrossEntropy(topk=2), "loss")


def uneven(counts=(30, 10, 10, 10), seed=0):
    y = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng(seed).integers(0, 255, (len(y), 8, 8, 3)).astype(np.uint8), y


def records(errors, train=None, loss=1.0):
    train = [0.9] * len(errors) if train is None else train
    return [
        {"validation_error": v, "train_error": t, "validation_loss": loss, "train_loss": loss}
        for v, t in zip(errors, train, strict=True)
    ]


# ---- chance ------------------------------------------------------------------------------------------------
def test_chance():
    assert learning.chance(np.array([0, 1, 2, 3])) == 0.75
    assert learning.chance(np.array([2, 2, 2, 5])) == 0.25  # always "2"
    assert learning.chance(np.array([2, 2, 2, 5]), even=True) == 0.5
    assert learning.chance(np.repeat(np.arange(10), 20)) == pytest.approx(0.9)


def test_what_beats_chance():
    assert not learning.beats_chance(records([0.9, 0.9]), 0.9, 100)
    assert learning.beats_chance(records([0.9, 0.89, 0.9]), 0.9, 100)
    # without validation: lower by two standard deviations, 2 sqrt(0.9 0.1 / 100) = 0.06
    assert not learning.beats_chance(records([None] * 2, [0.9, 0.841]), 0.9, 100)
    assert learning.beats_chance(records([None] * 2, [0.839, 0.95]), 0.9, 100)


# ---- the warning -------------------------------------------------------------------------------------------
def caught(*args, **options):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run = go(*args, **options)
    told = [w for w in seen if "guessing" in str(w.message)]
    assert all(w.filename.endswith("runs.py") for w in told)  # where train() was called
    return run, [str(w.message) for w in told]


def test_a_net_that_does_not_learn_is_warned_of_once(tmp_path, capsys):
    _, seen = caught(tmp_path / "a", blind(), uneven(), epochs=7, progress=True)
    assert len(seen) == 1
    assert "after 5 epochs the validation error is no better than that of guessing, 50.0%" in seen[0]
    for remedy in ('init="he"', "learning rate", 'schedule="warmup:5"'):
        assert remedy in seen[0]
    logged = events(tmp_path / "a", "warning")
    assert [(e["epoch"], e["message"]) for e in logged] == [(5, seen[0].removeprefix("train: "))]
    assert capsys.readouterr().out.count("warning: after 5 epochs") == 1


def test_a_net_that_learns_is_not(tmp_path):
    run, seen = caught(tmp_path / "a", epochs=6, init="he")
    assert run.best["validation_error"] < 0.5
    assert not seen
    assert not events(tmp_path / "a", "warning")


def test_the_warning_is_not_repeated_by_a_resumed_run(tmp_path):
    _, early = caught(tmp_path / "a", blind(), uneven(), epochs=4)
    assert not early
    _, seen = caught(tmp_path / "a", blind(), uneven(), epochs=6, resume=True)
    _, again = caught(tmp_path / "a", blind(), uneven(), epochs=8, resume=True)
    assert (len(seen), len(again)) == (1, 0)
    assert len(events(tmp_path / "a", "warning")) == 1


def test_the_warning_names_what_has_not_been_tried(tmp_path):
    options = {"epochs": 5, "schedule": "warmup:3", "init": "he", "augment": {"scale": 1.0}}
    _, (text,) = caught(tmp_path / "a", blind(), uneven(), validation=False, **options)
    assert "training error" in text
    assert "scale=1/64" in text
    assert "init=" not in text
    assert "warm-up" not in text


# ---- photographs -----------------------------------------------------------------------------------------
PHOTOS = ROOT.parent / "shared" / "data" / "photos"


def test_the_committed_rows_of_the_photographs():
    """A reduced AlexNet on 600 photographs of ten classes: recomputed from every epoch's row."""
    document = json.loads((ROOT / "benchmarks" / "results" / "photos-alexnet-cpu.json").read_text())
    *learnt, stuck = document["runs"]
    assert [(r["init"], r["seed"], len(r["rows"])) for r in learnt] == [("he", seed, 30) for seed in range(3)]
    assert np.mean([r["rows"][-1]["validation_error"] for r in learnt]) <= 0.76
    assert not any(r["warnings"] for r in learnt)
    assert min(row["validation_error"] for row in stuck["rows"]) >= 0.9
    assert len(stuck["warnings"]) == 1
    assert 'init="he"' in stuck["warnings"][0]


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photographs of ../shared")
def test_a_reduced_alexnet_learns_photographs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    photos = importlib.import_module("photos_alexnet")
    monkeypatch.setattr("sys.argv", ["photos_alexnet.py", "--data", str(PHOTOS)])
    options, data = photos.arguments(), photos.photographs(PHOTOS)
    learnt, stuck = photos.run(options, data, "he", 0), photos.run(options, data, None, 0)
    assert learnt["rows"][-1]["validation_error"] < 0.82  # one seed's, to four standard deviations
    assert not learnt["warnings"]
    assert len(stuck["warnings"]) == 1


# ---- the plateau rule --------------------------------------------------------------------------------------
def follow(rule, errors):
    factors = []
    for epoch, error in enumerate(errors):
        factors.append(rule.factor(epoch))
        rule.observe(epoch, error)
    return factors


def test_the_plateau_rule_waits_until_chance_is_beaten():
    errors = [0.9, 0.9, 0.91, 0.9, 0.9, 0.9, 0.89, 0.9, 0.9, 0.9]
    rule = Plateau(patience=2)
    want = [1, 1, 1] + [0.1] * 2 + [0.01] * 4 + [0.001]  # not told of chance
    assert follow(rule, errors) == pytest.approx(want)
    rule = Plateau(patience=2)
    rule.expect(0.9)
    assert follow(rule, errors) == pytest.approx([1] * 9 + [0.1])


@pytest.mark.filterwarnings("ignore:train. after 5 epochs")
def test_the_plateau_rule_waits_in_a_run_and_after_resuming(tmp_path):
    data, rule = uneven(), "plateau:patience=1"
    run = go(tmp_path / "blind", blind(), data, epochs=4, schedule=rule)
    assert [r["lr"] for r in run.history] == [0.02] * 4
    run = go(tmp_path / "blind", blind(), data, epochs=6, schedule=rule, resume=True)
    assert [r["lr"] for r in run.history] == [0.02] * 6
    # three epochs of it under another schedule: the new one sees them, and is told of chance too
    go(tmp_path / "other", blind(), data, epochs=3)
    run = go(tmp_path / "other", blind(), data, epochs=5, schedule=rule, resume=True)
    assert [r["lr"] for r in run.history] == [0.02] * 5


# ---- early stopping ----------------------------------------------------------------------------------------
def test_when_a_run_has_stalled():
    gains = records([0.5, 0.4, 0.4, 0.45, 0.3])
    assert [learning.stalled(gains[:n], 2) for n in range(6)] == [False, False, False, False, True, False]
    assert not learning.stalled(gains[:4], 3)
    assert not learning.stalled(gains[:4], 0)
    by_loss = records([0.4, 0.4, 0.4])
    by_loss[2]["validation_loss"] = 0.9  # an equal error with a lower loss is a gain
    assert not learning.stalled(by_loss, 1)


def state_of(out):
    model, state, arrays = checkpoint.read(out / "last.safetensors")
    return {n: v.tobytes() for n, v in {**model.parameters, **arrays}.items()}, len(state["history"])


def test_a_run_without_gain_stops(tmp_path):
    stop = {"epochs": 30, "stop_after": 2, "lr": 0.3}
    run = go(tmp_path / "a", **stop)
    errors = [(r["validation_error"], r["validation_loss"]) for r in run.history]
    assert run.stopped_early
    assert not run.interrupted
    assert len(errors) < 30
    assert errors.index(min(errors)) == len(errors) - 3
    assert events(tmp_path / "a", "end")[-1]["reason"] == "stopped early"
    assert events(tmp_path / "a", "start")[0]["options"]["stop_after"] == 2
    # the same epochs, in three sessions
    go(tmp_path / "b", **{**stop, "epochs": 1})
    go(tmp_path / "b", **{**stop, "epochs": len(errors) - 1, "stop_after": None}, resume=True)
    again = go(tmp_path / "b", epochs=30, lr=0.3, resume=True)  # stop_after is the run's
    assert again.stopped_early
    assert state_of(tmp_path / "a") == state_of(tmp_path / "b")
    # over is over, unless more patience is asked for
    assert len(go(tmp_path / "b", resume=True).history) == len(errors)
    longer = go(tmp_path / "b", epochs=len(errors) + 1, stop_after=0, resume=True)
    assert len(longer.history) == len(errors) + 1
    assert not longer.stopped_early


def test_stopping_early_needs_validation(tmp_path):
    with pytest.raises(ValueError, match="stop_after=3 watches the validation error, but there are no"):
        go(tmp_path / "a", validation=False, stop_after=3)
    with pytest.raises(ValueError, match="stop_after must be at least 0, got -1"):
        go(tmp_path / "a", stop_after=-1)
    with pytest.raises(TypeError, match=r"stop_after must be an integer, got float 1.5"):
        go(tmp_path / "a", stop_after=1.5)


def test_stopping_early_on_the_command_line(tmp_path, capsys):
    words = ["train", *toys(tmp_path), "--epochs", "9"]
    words += ["--lr", "0", "--validation", "0.3", "--stop-after", "1", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 0
    assert "stopped early after epoch 2: no gain since epoch 1" in capsys.readouterr().out
