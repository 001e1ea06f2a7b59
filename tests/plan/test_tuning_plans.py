"""Tuning in plans, in training, on the command line: settled before the first step, the same to the end."""

import logging

import numpy as np
import pytest
from support.fakes.fake_cuda import Machine
from support.helpers import same_bits
from support.networks import batch, everything, plain
from support.runs import events

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.data.dataset import ArrayDataset
from pyconvnet.ops import tuning
from pyconvnet.ops.tuning.cache import Cache
from pyconvnet.plan import Plan
from pyconvnet.training.loop import Trainer
from pyconvnet.training.ranks import Ranks

N = 4


def net():
    """One whose kernels, mostly, have bits of their own."""
    network = pcn.Network("small", input_shape=(12, 12, 3))
    network.add(pcn.layers.Conv2d(8, 3, pad=1, activation="relu"))
    network.add(pcn.layers.Conv2d(16, 3, pad=1, activation="relu"))
    network.add(pcn.layers.MaxPool2d(3, 2))
    network.add(pcn.layers.Linear(3))
    network.add(pcn.layers.SoftmaxCrossEntropy())
    return network


def state(plan: Plan) -> dict[str, np.ndarray]:
    found = {f"w {k}": v for k, v in plan.get_parameters().items()}
    found |= {f"v {k}": v for k, v in plan.get_momenta().items()}
    return found | {"metrics": plan.get_metrics(), "steps": np.array(plan.steps)}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)


def train(plan: Plan, sizes=(N, N, N)) -> dict[str, np.ndarray]:
    plan.set_weight_decay(0.003)
    for k, n in enumerate(sizes):
        plan.set_hyper(0.02 / (k + 1), 0.9)
        plan.feed(*batch(plan.network, n, seed=k))
        plan.step(n)
    return state(plan)


# ---- plans -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [net, everything, plain])
def test_a_rehearsal_changes_nothing(clock, make):
    """The plan with measured kernels that happen to be the heuristic's has the bits of one without tuning."""
    clock(lambda i, count: 1.0 + i)
    plan = Plan(make(), "emulator", N)
    before = state(plan)
    choices = plan.choose_kernels()
    assert same(before, state(plan))
    assert choices
    assert all(c.kernel == c.heuristic for c in choices.values())
    tuned = train(plan)
    tuning.configure()
    assert same(tuned, train(Plan(make(), "emulator", N)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_problem_of_a_step_is_settled_before_it(clock, monkeypatch, precision):
    timer = clock()
    asked = []
    plan = Plan(everything(), "emulator", N, precision=precision)
    assert plan.kernels == {}
    plan.feed(*batch(plan.network, N))
    plan.tasks("forward", n=N)
    rounds = len(timer.rounds)
    assert rounds > 0
    found = tuning.Selection.kernel

    def kernel(self, call):
        asked.append((tuning.problem(call), found(self, call)))
        return asked[-1][1]

    monkeypatch.setattr(tuning.Selection, "kernel", kernel)
    plan.step()
    plan.step()
    assert len(timer.rounds) == rounds
    assert {problem for problem, _ in asked} == set(plan.kernels)
    assert {problem.rpartition(" ")[2] for problem in plan.kernels} == {precision}
    assert all(plan.kernels[problem] == kernel for problem, kernel in asked)
    ops = {problem.split()[0] for problem in plan.kernels}
    assert ops >= {"conv2d", "conv2d_dgrad", "conv2d_wgrad", "linear", "linear_dgrad", "linear_wgrad"}


def test_the_chosen_kernels_run(clock, monkeypatch):
    """What was chosen is what is launched; here mostly not what the heuristic would."""
    clock()
    plan = Plan(everything(), "emulator", N)
    choices = plan.choose_kernels().values()
    assert sum(c.kernel != c.heuristic for c in choices) > len(choices) / 2
    launched = []
    ext = plan.device.ext
    for name in ("conv2d_fprop", "conv2d_dgrad", "conv2d_wgrad"):
        original = getattr(ext, name)

        def launch(kernel, shape, *args, original=original):
            launched.append(f"{kernel}/{shape.splits}" if shape.splits else kernel)
            return original(kernel, shape, *args)

        monkeypatch.setattr(ext, name, launch)
    train(plan, (N,))
    wanted = {c.kernel for c in choices if "conv2d_" in c.kernel}
    assert set(launched) == wanted


def test_smaller_batches_take_the_kernels_of_the_whole(clock):
    timer = clock()
    plan = Plan(everything(), "emulator", N)
    train(plan, (N,))
    rounds, kernels = len(timer.rounds), plan.kernels
    train(plan, (N - 1, 1))
    assert len(timer.rounds) == rounds
    assert plan.kernels == kernels

    class Call:
        op, key, precision = "conv2d_wgrad", "n=3 x", "fp32"

        def __init__(self, impossible=()):
            self.impossible = impossible

        def applies(self, kernel):
            return kernel not in self.impossible

    selection = tuning.Selection({"conv2d_wgrad n=4 x fp32": "a/8", "conv2d_wgrad n=9 x fp32": "b"})
    assert selection.kernel(Call()) == "a/8"
    assert selection.kernel(Call({"a/8"})) == "a"
    assert selection.kernel(Call({"a/8", "a"})) is None


def test_a_first_batch_that_is_small_does_not_decide_for_the_whole(clock):
    timer = clock()
    plan = Plan(plain(), "emulator", N)
    train(plan, (1,))
    rounds = len(timer.rounds)
    assert rounds
    train(plan, (N,))
    assert len(timer.rounds) > rounds
    assert {problem.split(" n=")[1].split()[0] for problem in plan.kernels} == {"1", str(N)}


def test_inference_takes_what_is_known_of_other_batches(clock):
    timer = clock()
    Plan(plain(), "emulator", N).choose_kernels()
    rounds = len(timer.rounds)
    plan = Plan(plain(), "emulator", 2 * N, train=False)
    reasons = {c.reason for c in plan.choose_kernels().values()}
    assert f"measured for n={N}" in reasons
    assert reasons <= {f"measured for n={N}", "the only kernel worth timing"}
    assert len(timer.rounds) == rounds
    Plan(plain(), "emulator", 8 * N, train=False).choose_kernels()
    assert len(timer.rounds) > rounds


def test_given_kernels_are_kept_and_nothing_is_measured(clock):
    timer = clock()
    first = Plan(net(), "emulator", N)
    want = train(first, (N, N))
    rounds = len(timer.rounds)
    clock(lambda i, count: 1.0 / (i + 1))  # the clock would now choose others
    Cache().clear()
    second = Plan(net(), "emulator", N, kernels=first.kernels)
    assert same(want, train(second, (N, N)))
    assert second.kernels == first.kernels
    assert len(timer.rounds) == rounds
    third = Plan(net(), "emulator", N)
    assert not same(want, train(third, (N, N)))
    assert third.kernels != first.kernels
    tuning.configure()
    untuned = [Plan(net(), "emulator", N, **given) for given in ({}, {"kernels": {}})]
    assert same(*(train(plan, (N,)) for plan in untuned))


@pytest.mark.parametrize("places", ["0", "00", "01"])
def test_on_cuda_graphs_are_captured_with_the_chosen_kernels(clock, monkeypatch, places):
    """Eager steps, captured and replayed ones: the bits of the emulator with the same kernels."""
    clock()
    Machine(2).install(monkeypatch)
    plan = Plan(net(), [f"cuda:{i}" for i in places], N)
    tuned = train(plan, (N,) * 3)
    assert [made.graph is not None for made in plan._passes.values()].count(True) == 1
    assert plan.kernels
    want, other = (
        train(Plan(net(), ["emulator"] * len(places), N, kernels=kernels), (N,) * 3)
        for kernels in (plan.kernels, {})
    )
    assert same(tuned, want)
    assert not same(tuned, other)


# ---- training ----------------------------------------------------------------------------------------------
def images(count=22):
    rng = np.random.default_rng(3)
    x = rng.integers(0, 256, (count, 12, 12, 3), np.uint8)
    return ArrayDataset(x, rng.integers(0, 3, count).astype(np.int32))


OPTIONS = {
    "batch_size": 8, "lr": 0.05, "seed": 1, "validation": False, "devices": "emulator", "progress": False,
}  # fmt: skip


def test_a_run_names_its_kernels_and_goes_on_with_them(clock, tmp_path):
    """A resumed run has the bits of one never stopped, also where the clock has changed its mind."""
    clock()
    whole = pcn.train(net(), images(), epochs=2, out=tmp_path / "whole", **OPTIONS)
    pcn.train(net(), images(), epochs=1, out=tmp_path / "parts", **OPTIONS)
    (event,) = events(tmp_path / "parts", "kernels")
    assert event["card"] == "emulator (compute capability 9.0, driver none)"
    named = {item["problem"]: item["kernel"] for item in event["kernels"]}
    assert {item["source"] for item in event["kernels"]} <= {"measured", "cache", "heuristic"}
    assert any(item.get("us") for item in event["kernels"])

    timer = clock(lambda i, count: 1.0 / (i + 1))
    Cache().clear()
    parts = pcn.train(net(), images(), epochs=2, out=tmp_path / "parts", resume=True, **OPTIONS)
    assert timer.rounds == []
    a, b = whole.model.parameters, parts.model.parameters
    assert all(same_bits(a[name], b[name]) for name in a)
    again = events(tmp_path / "parts", "kernels")[-1]
    assert {item["problem"]: item["kernel"] for item in again["kernels"]} == named
    assert {item["source"] for item in again["kernels"]} == {"checkpoint"}

    other = pcn.train(net(), images(), epochs=2, out=tmp_path / "other", **OPTIONS)
    assert any(not same_bits(a[name], other.model.parameters[name]) for name in a)


def test_a_run_that_goes_on_in_another_precision_measures_its_kernels(clock, tmp_path):
    timer = clock()
    pcn.train(net(), images(), epochs=1, out=tmp_path / "run", **OPTIONS)
    timer.rounds.clear()
    pcn.train(net(), images(), epochs=2, out=tmp_path / "run", resume=True, precision="bf16", **OPTIONS)
    assert timer.rounds
    (_, event) = events(tmp_path / "run", "kernels")
    assert {item["source"] for item in event["kernels"]} == {"checkpoint", "measured", "heuristic"}
    new = [item["problem"] for item in event["kernels"] if item["source"] != "checkpoint"]
    assert all(problem.endswith(" bf16") for problem in new)
    assert {problem.split()[0] for problem in new} >= {"conv2d", "conv2d_dgrad", "linear_wgrad"}


def test_a_run_without_tuning_goes_on_without(clock, tmp_path, monkeypatch):
    timer = clock()
    monkeypatch.setenv("PYCONVNET_TUNE", "0")
    whole = pcn.train(net(), images(), epochs=2, out=tmp_path / "whole", **OPTIONS)
    pcn.train(net(), images(), epochs=1, out=tmp_path / "parts", **OPTIONS)
    assert events(tmp_path / "parts", "kernels") == []
    monkeypatch.setenv("PYCONVNET_TUNE", "1")
    parts = pcn.train(net(), images(), epochs=2, out=tmp_path / "parts", resume=True, **OPTIONS)
    assert timer.rounds == []
    a, b = whole.model.parameters, parts.model.parameters
    assert all(same_bits(a[name], b[name]) for name in a)


def test_another_card_chooses_anew(clock, tmp_path, monkeypatch):
    timer = clock()
    pcn.train(net(), images(), epochs=1, out=tmp_path / "run", **OPTIONS)
    timer.rounds.clear()
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", "80")
    tuning.forget()
    pcn.train(net(), images(), epochs=2, out=tmp_path / "run", resume=True, **OPTIONS)
    assert timer.rounds
    assert {e.capability for e in Cache().entries.values()} == {"8.0", "9.0"}


def test_all_ranks_run_rank_0s_kernels(clock):
    """Rank 1 measures nothing, also where its own clock and card would choose otherwise."""
    said = {}

    class Rank(Ranks):
        def __init__(self, rank):
            self.rank, self.size = rank, 2

        def gather(self, value):
            return [None, None]

        def broadcast(self, value):
            return said.setdefault("kernels", value)

        def shared(self, error, rank=0):
            return error

    plans = []
    for rank in range(2):
        timer = clock(None if rank == 0 else lambda i, count: 1.0 / (i + 1))
        trainer = Trainer.__new__(Trainer)
        trainer.ranks, trainer.plan = Rank(rank), Plan(net(), "emulator", N)
        trainer._choose_kernels()
        assert bool(timer.rounds) == (rank == 0)
        train(trainer.plan)
        assert bool(timer.rounds) == (rank == 0)
        plans.append(trainer.plan.kernels)
    assert plans[0] == plans[1] != {}


# ---- the command -------------------------------------------------------------------------------------------
TYPED = ["tune", "cifar10_80sec", "--device", "emulator", "--batch-size", "2", "--seconds", "0.01"]


def test_tune_show_export_clear(clock, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYCONVNET_TUNE", "0")  # the command says otherwise
    clock()
    assert main(["tune", "--show"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == [
        str(tmp_path / "tuning.json"),
        "nothing has been measured",
    ]
    assert main(TYPED) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["operation", "shape", "precision", "kernel", "us"]
    assert lines[-1] == str(tmp_path / "tuning.json")
    found = Cache().entries.values()
    assert len(found) == sum("measured" in line for line in lines) >= 8
    assert f"{len(found)} of {len(lines) - 3} timed" in lines[-2]
    assert any(line.startswith("conv2d ") and "conv2d_fprop_" in line and "10.00x" in line for line in lines)

    timer = clock()
    assert main(TYPED) == 0
    assert "cache" in capsys.readouterr().out
    assert timer.rounds == []
    assert main([*TYPED, "--again", "--inference"]) == 0
    assert "dgrad" not in capsys.readouterr().out
    assert timer.rounds

    assert main(["tune", "--show"]) == 0
    text = capsys.readouterr().out
    assert f"emulator (compute capability 9.0, driver none): {len(found)} entries" in text
    assert all(entry.kernel in text for entry in found)
    target = tmp_path / "export.json"
    assert main(["tune", "--export", str(target), "--device", "emulator"]) == 0
    assert f"entries: {len(found)}" in capsys.readouterr().out
    assert Cache(target).entries.keys() == Cache().entries.keys()
    assert main(["tune", "--clear"]) == 0
    assert capsys.readouterr().out == f"{len(found)} entries removed from {tmp_path / 'tuning.json'}\n"
    assert main(["tune", "--export", str(target), "--device", "emulator"]) == 2
    assert "has no entries for emulator" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("tune", "tune: give a model, or one of --show, --clear, --export"),
        ("tune digits --show", "tune: give a model, or one of"),
        ("tune nothing", "model must be one of"),
        ("tune digits --device cpu", "device must be a CUDA device, got cpu"),
        ("tune digits --device emulator --seconds 0", "tune: seconds must be a positive number, got 0"),
        ("tune digits --device emulator --batch-size 0", "batch_size must be at least 1"),
        ("tune digits --device emulator --precision half", "precision must be"),
    ],
)
def test_wrong_options(clock, typed, message, capsys):
    clock()
    assert main(typed.split()) == 2
    assert message in capsys.readouterr().err


def test_the_emulator_is_not_tuned(capsys):
    assert main(["tune", "digits", "--device", "emulator"]) == 2
    assert "must be a CUDA device, got emulator: its time says nothing" in capsys.readouterr().err


def test_the_function(clock, caplog):
    clock()
    with caplog.at_level(logging.INFO, "pyconvnet.ops.tuning"):
        choices = pcn.tune(net(), 2, device="emulator", seconds=0.01)
    assert [c.source for c in choices if c.us] == ["measured"] * len(Cache().entries)
    assert all(str(c) in caplog.text for c in choices if c.us)
    assert [c.op for c in choices][:2] == ["conv2d", "conv2d"]
