"""Whole plans on CUDA devices that are not there (``fake_cuda``): the emulator's bits, in any order.

The code is the one that drives GPUs: streams, events, copies, feeding, graphs; only what lies under CuPy and
under the compiled module is replaced.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings

import numpy as np
import pytest
from support.fakes.fake_cuda import Race
from support.helpers import same_bits
from support.networks import batch, everything, plain, random_graph

import pyconvnet as pcn
from pyconvnet import models, ops
from pyconvnet.data import Augmentation, statistics
from pyconvnet.data.dataset import ArrayDataset
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.plan import Plan
from pyconvnet.plan.lanes import StreamLanes

pytestmark = pytest.mark.kernels


def two_towers():
    return models.build("alexnet", classes=10, input_size=67, width=1 / 16)


NETWORKS = {"plain": plain, "everything": everything, "alexnet": two_towers}
#: Devices, and whether they reach each other's memory.
PLACES = [("0", True), ("00", True), ("01", True), ("01", False)]
STEPS, N = 3, 4  # as issued, captured, replayed


def cuda(places: str) -> list[str]:
    return [f"cuda:{i}" for i in places]


def train(plan: Plan, sizes=(N,) * STEPS, looks: bool = False) -> dict[str, np.ndarray]:
    """Steps with schedules; parameters, momenta, sums and gradients at the end."""
    plan.set_weight_decay(0.003)
    for k, n in enumerate(sizes):
        plan.set_hyper(0.02 / (k + 1), 0.9)
        plan.feed(*batch(plan.network, n, seed=k))
        plan.step(n)
        if looks:
            plan.forward(n, train=False)
            assert np.isfinite(plan.loss())
    out = {f"w {k}": v for k, v in plan.get_parameters().items()}
    out |= {f"v {k}": v for k, v in plan.get_momenta().items()}
    out |= {f"g {k}": v for k, v in plan.get_gradients().items()}
    return out | {"metrics": plan.get_metrics(), "steps": np.array(plan.steps)}


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(same_bits(a[k], b[k]) for k in a)


def graphs(plan: Plan) -> int:
    return sum(made.graph is not None for made in plan._passes.values())


@functools.cache
def on_the_emulator(name: str, count: int, **options) -> dict[str, np.ndarray]:
    return train(Plan(NETWORKS[name](), ["emulator"] * count, N, **options))


@pytest.mark.parametrize(("places", "peer"), PLACES)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_the_emulators_bit_for_bit(machine, monkeypatch, name, places, peer):
    """Eager and replayed, in several orders."""
    want = on_the_emulator(name, len(places))
    assert want["steps"] == STEPS
    for seed, graph in enumerate("110"):
        monkeypatch.setenv("PYCONVNET_GRAPH", graph)
        machine(peer=peer, seed=seed)
        plan = Plan(NETWORKS[name](), cuda(places), N)
        assert same(train(plan), want), (graph, seed)
        assert graphs(plan) == int(graph)


@pytest.mark.parametrize("seed", range(8))
def test_random_graphs(machine, seed):
    options = {"replicas": 2} if seed % 4 == 3 else {}
    want = train(Plan(random_graph(seed), ["emulator"] * 2, N, **options))
    machine(peer=seed % 2 == 0, seed=seed)
    assert same(train(Plan(random_graph(seed), cuda("01"), N, **options)), want)


@pytest.mark.parametrize("options", [{"replicas": 2}, {"replicas": 2, "hybrid": True}], ids=str)
def test_replicas(machine, options):
    for name, count, places in (("alexnet", 2, "01"), ("everything", 4, "0110")):
        want = on_the_emulator(name, count, **options)
        for peer in (True, False):
            machine(peer=peer, seed=count)
            assert same(train(Plan(NETWORKS[name](), cuda(places), N, **options)), want)


@pytest.mark.parametrize("places", ["0", "01"])
def test_the_host_never_waits_in_a_step(machine, places):
    m = machine(peer=False)
    plan = Plan(two_towers(), cuda(places), N)
    train(plan)
    m.waits.clear()
    for k in range(2):
        plan.set_hyper(0.1 / (k + 1), 0.9)
        plan.feed(*batch(plan.network, N, seed=k))
        plan.forward(N)
        plan.backward(N)
        plan.update()
        plan.step(N)
    # Feeding waits for its own buffers: it is at most two batches ahead.
    assert set(m.waits) <= {"event"}


def test_batches_of_many_sizes(machine):
    """Graphs of several sizes beside each other, passes of other kinds between, workspaces that grow."""
    sizes = (2, 2, 4, 2, 4, 3, 4, 2, 3)
    for name in ("plain", "everything"):
        for places in ("0", "01"):
            want = train(Plan(NETWORKS[name](), ["emulator"] * len(places), N), sizes, looks=True)
            machine(seed=5)
            plan = Plan(NETWORKS[name](), cuda(places), N)
            assert same(train(plan, sizes, looks=True), want)
            assert graphs(plan) == 3


def test_preprocessed_batches(machine):
    """Images as bytes, augmented on the device, while the step before is still to be done."""
    rng = np.random.default_rng(0)
    data = ArrayDataset(rng.integers(0, 255, (12, 10, 10, 3)).astype(np.uint8), rng.integers(0, 4, 12))
    augment = Augmentation(crop=8, mirror=True, pca=0.1, mean="image")
    stats = statistics(data)

    def run(devices):
        plan = Plan(plain(), devices, N)
        plan.set_preprocessing(Preprocessing((10, 10, 3), (8, 8), augment.mean_of(stats), augment.scale))
        plan.set_hyper(0.01, 0.9)
        for k in range(6):
            rows = np.arange(k, k + N) % 12
            images = data.read(rows)
            draws = augment.draw(1, k, 0, N, (10, 10, 3), stats)
            plan.feed(images, data.labels[rows], draws)
            images[...] = 0  # the caller's again
            plan.step(N)
        return plan.get_parameters()

    want = run("emulator")
    for seed in range(6):
        machine(seed=seed)
        assert same(run("cuda:0"), want)


def test_values_between_steps(machine):
    """Set and read where a step has just been enqueued."""

    def run(devices):
        plan = Plan(plain(), devices, N)
        seen = []
        for k in range(4):
            plan.set_hyper(0.05, 0.9)
            plan.feed(*batch(plan.network, N, seed=k))
            plan.step(N)
            if k == 2:
                plan.set_parameters({n: w + np.float32(0.5) for n, w in plan.get_parameters().items()})
                plan.reset_metrics()
                plan.steps = 7
            seen.append(plan.loss())
            assert plan.first_nonfinite(N) is None
            assert plan.first_nonfinite_gradient() is None
        return {"loss": np.array(seen), "metrics": plan.get_metrics(), **plan.get_parameters()}

    for places in ("0", "01"):
        want = run(["emulator"] * len(places))
        for seed in range(4):
            machine(seed=seed, peer=False)
            assert same(run(cuda(places)), want)


@pytest.mark.parametrize("places", ["0", "01"])
def test_a_whole_training(machine, tmp_path, places):
    """Loader, schedule, validation after every epoch, batches that are not full."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 255, (26, 8, 8, 3)).astype(np.uint8), rng.integers(0, 4, 26)
    options = {"epochs": 3, "batch_size": 6, "validation": 0.2, "lr": 0.01, "seed": 3, "progress": False}

    def run(devices):
        model = pcn.train(plain(), data, devices=devices, out=tmp_path / devices[0][:4], **options).model
        return model.parameters

    want = run(["emulator"] * len(places))
    machine(seed=2, peer=False)
    assert same(run(cuda(places)), want)


# ---- what goes wrong is seen -----------------------------------------------------------------------------


def test_every_wait_is_needed(machine):
    """Without any one of the waits of a step two tasks meet in the same memory."""
    for name in ("plain", "alexnet", "everything"):
        machine()
        tasks = Plan(NETWORKS[name](), cuda("01"), N).tasks("forward", "backward", "update")
        waits = [(i, j) for i, task in enumerate(tasks) for j in task.waits]
        for i, j in waits:
            machine().patient = 0.0  # it is enough to enqueue it
            plan = Plan(NETWORKS[name](), cuda("01"), N, initialise=False)
            plan.feed(*batch(plan.network, N))
            tasks = list(plan.tasks("forward", "backward", "update"))
            left = tuple(w for w in tasks[i].waits if w != j)
            tasks[i] = dataclasses.replace(tasks[i], waits=left)
            with pytest.raises(Race):
                plan.lanes.run(tasks)
        assert len(waits) >= 4


def test_a_step_that_cannot_be_captured_goes_on(machine, monkeypatch):
    """With one warning that says why, and the same bits."""
    want = train(Plan(plain(), ["emulator"], N))
    m = machine()
    plan = Plan(plain(), "cuda:0", N)
    relu, calls = ops.max_pool2d, []

    def allocates(*args, **kwargs):
        ops.perform(lambda: calls.append(m.xp.empty(3)))
        return relu(*args, **kwargs)

    monkeypatch.setattr(ops, "max_pool2d", allocates)
    with pytest.warns(
        RuntimeWarning, match="without a CUDA graph: .*must not allocate, but 12 bytes"
    ) as seen:
        assert same(train(plan), want)
    assert len(seen) == 1
    assert len(calls) == STEPS
    assert graphs(plan) == 0


def test_no_warning_where_graphs_are_off(machine, monkeypatch):
    monkeypatch.setenv("PYCONVNET_GRAPH", "0")
    machine()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = Plan(plain(), "cuda:0", N)
        train(plan)
    assert graphs(plan) == 0


# ---- on real ones ----------------------------------------------------------------------------------------
GPUS = [pytest.param(places, marks=pytest.mark.gpu(n=1 + ("1" in places))) for places in ("0", "00", "01")]


@pytest.mark.parametrize("places", GPUS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_gpu_replays_what_it_does_as_issued(monkeypatch, name, places):
    """The same bits, also when it is all done again, and also with copies staged through the host."""
    sizes = (N, 2, N, N, 2, 3, N)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        results = []
        for graph, staged in (("0", False), ("1", False), ("1", False), ("1", True)):
            monkeypatch.setenv("PYCONVNET_GRAPH", graph)
            if staged:
                monkeypatch.setattr(StreamLanes, "peer_access", lambda self, a, b: "asked for")
            plan = Plan(NETWORKS[name](), cuda(places), N)
            results.append(train(plan, sizes, looks=True))
            assert graphs(plan) == (2 if graph == "1" else 0)
    assert all(same(values, results[0]) for values in results[1:])
    emulator = train(Plan(NETWORKS[name](), ["emulator"] * len(places), N), sizes, looks=True)
    for key in (key for key in emulator if key.startswith("w ")):
        scale = max(1e-2, float(np.abs(emulator[key]).max()))
        assert np.abs(results[0][key] - emulator[key]).max() < 1e-2 * scale, key


@pytest.mark.parametrize("places", GPUS)
def test_a_gpu_is_fed_while_it_works(places):
    """Batches far bigger than the step takes time, from memory that is overwritten at once."""
    net = plain(size=64)

    def run(wait: bool):
        plan = Plan(net, cuda(places), 64)
        for k in range(8):
            x, y = batch(net, 64, seed=k)
            plan.set_hyper(0.01 / (k + 1), 0.9)
            plan.feed(x, y)
            x[...], y[...] = np.nan, 0
            plan.step(64)
            if wait:
                plan.synchronize()
        return plan.get_parameters()

    assert same(run(wait=False), run(wait=True))
