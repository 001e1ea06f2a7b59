"""Whole plans on CUDA devices that are not there (``fake_cuda``): the emulator's bits, in any order.

The code is the one that drives GPUs: streams, events, copies, feeding, graphs; only what lies under CuPy and
under the compiled module is replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from support.fakes.fake_cuda import Race
from support.helpers import same_bits
from support.networks import batch, everything, plain, random_graph

import pyconvnet as pcn
from pyconvnet import models, ops
from pyconvnet.data import Augmentation, statistics
from pyconvnet.data.dataset import ArrayDataset
from pyconvnet.layers import Linear, Normal
from pyconvnet.network.partition import partition
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.plan import Plan, buckets, schedule
from pyconvnet.plan.buffers import Arena
from pyconvnet.plan.lanes import StreamLanes

pytestmark = pytest.mark.kernels(again=True)


def two_towers():
    return models.build("alexnet", classes=10, input_size=67, width=1 / 16)


NETWORKS = {"plain": plain, "everything": everything, "alexnet": two_towers}
#: Devices, and whether they reach each other's memory.
PLACES = [("0", True), ("00", True), ("01", True), ("01", False)]
SANITIZED = ("everything", "01", False)
STEPS, N = 3, 4  # as issued, captured, replayed
WHOLE = buckets.BUCKET  # more than these networks have parameters: one update at the end


@pytest.fixture(autouse=True)
def several_pieces(monkeypatch):
    """Parameters are updated layer by layer, while backward goes on."""
    monkeypatch.setattr(buckets, "BUCKET", 1)


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
    """In order, all parameters updated at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buckets, "BUCKET", WHOLE)
        return train(Plan(NETWORKS[name](), ["emulator"] * count, N, **options))


@pytest.mark.parametrize(
    ("name", "places", "peer"),
    [
        pytest.param(name, *place, marks=[pytest.mark.kernels] if (name, *place) == SANITIZED else [])
        for name in NETWORKS
        for place in PLACES
    ],
)
def test_training_is_the_emulators_bit_for_bit(machine, monkeypatch, name, places, peer):
    """Eager and replayed, in several orders, all parameters updated at once or as they are ready."""
    want = on_the_emulator(name, len(places))
    assert want["steps"] == STEPS
    for seed, (graph, bucket) in enumerate((("1", 1), ("1", WHOLE), ("0", 1), ("0", WHOLE))):
        monkeypatch.setenv("PYCONVNET_GRAPH", graph)
        monkeypatch.setattr(buckets, "BUCKET", bucket)
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
    """Without any one of the waits of a step two tasks meet in the same memory, or a task of the step and
    what comes next on the lanes of the layers.
    """

    def run(name, change=lambda tasks: None):
        machine().patient = 0.0  # it is enough to enqueue it
        plan = Plan(NETWORKS[name](), cuda("01"), N, initialise=False)
        plan.feed(*batch(plan.network, N))
        tasks = list(plan.tasks("forward", "backward", "update"))
        change(tasks)
        plan.lanes.run(tasks)
        for i, shard in enumerate(plan.shards):
            with plan.lanes.active(i):
                shard.w.fill(0)
        return tasks

    for name in ("plain", "alexnet", "everything"):
        tasks = run(name)
        waits = [(i, j) for i, task in enumerate(tasks) for j in task.waits]
        for i, j in waits:

            def leave_out(tasks, i=i, j=j):
                left = tuple(w for w in tasks[i].waits if w != j)
                tasks[i] = dataclasses.replace(tasks[i], waits=left)

            with pytest.raises(Race):
                run(name, leave_out)
        assert len(waits) >= 4
        assert {tasks[i].lane[1] for i, _ in waits} == {"compute", "copy", "update"}


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


# ---- updates beside backward -----------------------------------------------------------------------------
def early(tasks) -> list[int]:
    """The positions of the updates that do not wait for all of backward."""
    return [i for i, task in enumerate(tasks) if task.lane[1] == "update"]


def conflicts(update, works, names):
    """Those of `works` that use what an update writes, or write what it reads; what, and whether they write
    it.
    """
    for work in works:
        for memory, a, b, writes in work.touches:
            for mine, first, last, written in update.touches:
                if mine is memory and a < last and first < b and (writes or written):
                    yield work, names.get(id(memory)), writes


@pytest.mark.parametrize("name", ["alexnet", "everything"])
@pytest.mark.parametrize(("places", "options"), [("0", {}), ("01", {}), ("01", {"replicas": 2})], ids=str)
def test_updates_are_in_order_with_all_that_use_their_memory(machine, name, places, options):
    """After whoever writes the gradient and the last who reads the old weights; before the next step's first
    reader of the new ones and writer of the gradient; and in no order with the products of other layers.
    """
    m = machine(peer=False)
    plan = Plan(NETWORKS[name](), cuda(places), N, **options)
    plan.feed(*batch(plan.network, N))
    names = {id(m.find(getattr(s, k).data.ptr)): k for s in plan.shards for k in "wvg"}
    starts = []
    for _ in range(3):  # as issued, captured, replayed
        starts.append(len(m.made))
        plan.step()
    assert graphs(plan) == 1
    for start, end in itertools.pairwise(starts):
        updates = [w for w in m.made[start:end] if w.name == "sgd_momentum_beside"]
        assert len(updates) == len(early(plan.tasks("forward", "backward", "update"))) >= 4
        for update in updates:
            before = list(conflicts(update, m.made[start : update.number], names))
            after = list(conflicts(update, m.made[update.number + 1 :], names))
            assert all(m.ordered(work, update) for work, *_ in before)
            assert all(m.ordered(update, work) for work, *_ in after)
            for found in (before, after):
                assert {("g", True), ("w", False)} <= {tuple(what) for _, *what in found}
        products = [w for w in m.made[start:end] if "dgrad" in w.name or "wgrad" in w.name]
        beside = [w for w in products if not (m.ordered(w, updates[0]) or m.ordered(updates[0], w))]
        assert len(beside) >= 3


def faults():
    """What may go wrong with the waits of an update, done to the tasks of a step."""

    def without_its_gradient(tasks):
        for i in early(tasks):
            tasks[i] = dataclasses.replace(tasks[i], waits=())

    def one_task_early(tasks):
        """After the layer's backward has begun, not when it is done."""
        for i in early(tasks):
            compute = [k for k in tasks[i].waits if tasks[k].lane[1] == "compute"]
            moved = {k: max(j for j in range(k) if tasks[j].lane == tasks[k].lane) for k in compute}
            tasks[i] = dataclasses.replace(tasks[i], waits=tuple(moved.get(k, k) for k in tasks[i].waits))

    def none_waits_for_it(tasks):
        for i, task in enumerate(tasks):
            left = tuple(k for k in task.waits if tasks[k].lane[1] != "update")
            tasks[i] = dataclasses.replace(task, waits=left)

    return [without_its_gradient, one_task_early, none_waits_for_it]


@pytest.mark.parametrize("places", ["0", "01"])
@pytest.mark.parametrize("fault", [None, *faults()], ids=lambda f: f.__name__ if f else "none")
def test_updates_out_of_order_are_seen(machine, fault, places):
    """By what comes next on the layers' lanes, be it the next step: without the join at its beginning its
    readers of weights and writers of gradients depend on the end of this one alone.
    """
    machine()
    plan = Plan(two_towers(), cuda(places), N)
    plan.feed(*batch(plan.network, N))
    tasks = list(plan.tasks("forward", "backward", "update"))
    if fault is not None:
        fault(tasks)
    with contextlib.nullcontext() if fault is None else pytest.raises(Race):
        plan.lanes.run(tasks)
        for i, shard in enumerate(plan.shards):
            if places == "0":
                plan.lanes.run(tasks, join=False)
            else:  # lists that copy between devices need the join
                with plan.lanes.active(i):
                    shard.w.fill(0)
                    shard.g.fill(0)


def test_an_update_before_the_weights_last_reader_changes_bits(machine, monkeypatch):
    """Listed before its layer's backward, which then waits for it and reads the new weights."""
    whole = schedule.pieces

    def too_early(*arguments):
        return [dataclasses.replace(piece, ready=piece.ready + 1) for piece in whole(*arguments)]

    monkeypatch.setattr(schedule, "pieces", too_early)
    machine()
    assert not same(train(Plan(two_towers(), "cuda:0", N)), on_the_emulator("alexnet", 1))


def test_a_layer_that_no_cost_reads(machine):
    """Nothing computes its gradient, but its weights decay: once forward has read them."""
    net = plain()
    net.add(Linear(3, init=Normal(0.3)), "aside", inputs="pool1")
    want = train(Plan(net, "emulator", N))
    machine(seed=1)
    assert same(train(Plan(net, "cuda:0", N)), want)
    machine()
    plan = Plan(net, "cuda:0", N)
    tasks = list(plan.tasks("forward", "backward", "update"))
    (i,) = (i for i, task in enumerate(tasks) if task.name == "aside update @0")
    assert [tasks[k].name for k in tasks[i].waits] == ["aside forward @0"]
    tasks[i] = dataclasses.replace(tasks[i], waits=())
    with pytest.raises(Race):
        plan.lanes.run(tasks)


def test_pieces_of_alexnet(monkeypatch):
    """Large layers alone, small ones together; the images' layer, which backward comes to last, is left."""
    monkeypatch.setattr(buckets, "BUCKET", WHOLE)
    net = models.alexnet()
    shard = SimpleNamespace(index=0, arena=Arena(net.parameters()))
    found = buckets.pieces(partition(net, ["cpu"]), shard, [])
    assert [piece.owners for piece in found] == [
        ["fc8"], ["fc7"], ["fc6"], ["conv5", "conv4"], ["conv3", "conv2"], ["conv1"],
    ]  # fmt: skip
    assert [piece.ready for piece in found] == [net[piece.owners[-1]].index for piece in found]
    assert [(piece.first, piece.last) for piece in found] == [
        (14, 16), (12, 14), (10, 12), (6, 10), (2, 6), (0, 2),
    ]  # fmt: skip


def test_backward_alone_updates_nothing(machine):
    """Where it is not followed by the update in one list."""
    machine()
    plan = Plan(plain(), "cuda:0", N)
    before = plan.get_parameters()
    plan.feed(*batch(plan.network, N))
    plan.forward(N)
    plan.backward(N)
    assert same(plan.get_parameters(), before)
    assert not early(plan.tasks("forward", "backward"))
    assert [task.lane for task in plan.tasks("update")] == [(0, "compute")]


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
