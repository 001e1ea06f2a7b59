"""A network split over several devices computes what it computes on one: losses, gradients, parameters.

Device lists repeat one device, so that the split is really run where there is one device or only a CPU.
"""

import functools
from collections import Counter

import numpy as np
import pytest
from support.few import few
from support.networks import batch, everything, plain, random_graph

from pyconvnet import models, ops
from pyconvnet.common.devices import get_device
from pyconvnet.layers import LRN, Conv2d, Dropout, Linear, Normal, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.plan import Plan, buckets
from pyconvnet.plan.tasks import Task, TaskList, run_in_order, run_shuffled

GRIDS = [
    (2, 1, False),
    (4, 1, False),
    (2, 2, False),
    (3, 3, False),
    (4, 2, False),
    (2, 2, True),
    (4, 2, True),
    (3, 3, True),
]
ids = [f"{d}dev-{r}rep{'-hybrid' if h else ''}" for d, r, h in GRIDS]


def make(net, devices, n=4, dtype=np.float32, parameters=None, size=None, **options):
    plan = Plan(net, devices, size or n, dtype, seed=1, initialise=parameters is None, **options)
    if parameters is not None:
        plan.set_parameters(parameters)
    plan.set_hyper(0.01, 0.9)
    plan.set_weight_decay(5e-4)
    return plan


def lively(net, seed=3):
    """Weights under which signals and gradients keep their size through the net, unlike N(0, 0.01)."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(p.shape) * ((2 / np.prod(p.shape[1:])) ** 0.5 if len(p.shape) > 1 else 0.1)
        for name, p in net.parameters().items()
    }


def relative(a, b):
    """Norm of the difference relative to the norm of ``b``; 0 where both vanish."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(b)
    assert np.isfinite(a).all()
    return np.linalg.norm(a - b) / norm if norm else np.linalg.norm(a)


def trace(plan, net, n, steps=3):
    """Losses of some steps, and everything after the last one."""
    losses, gradients = [], {}
    for step in range(steps):
        images, labels = batch(net, n, seed=step)
        plan.feed(images, labels)
        if step == 0:
            plan.forward(n)
            plan.backward(n)
            gradients = plan.get_gradients()
            plan.update(n)
        else:
            plan.step(n)
        losses.append(plan.loss())
    return losses, gradients, plan.get_parameters(), plan.get_momenta(), plan.get_metrics()


def assert_close(got, wanted, bound):
    np.testing.assert_allclose(got[0], wanted[0], rtol=bound)
    for mine, theirs in zip(got[1:4], wanted[1:4], strict=True):
        for name in theirs:
            assert relative(mine[name], theirs[name]) < bound, name
    np.testing.assert_allclose(got[4], wanted[4], rtol=bound)


# ---- any graph, any grid of devices ------------------------------------------------------------------------
@functools.cache
def on_one_device(make_net, *arguments, n, size=None):
    """The same net's trace on the host, in float64, whatever it is compared with."""
    net = make_net(*arguments)
    return trace(make(net, "cpu", n, np.float64, size=size), net, n)


@pytest.mark.parametrize(("count", "replicas", "hybrid"), GRIDS, ids=ids)
@pytest.mark.parametrize("n", [4, 1])
def test_every_kind_of_layer_to_1e_12(count, replicas, hybrid, n):
    """float64; batches of 1 leave replicas without work."""
    net = everything()
    split = make(net, ["cpu"] * count, n, np.float64, size=4, replicas=replicas, hybrid=hybrid)
    assert_close(trace(split, net, n), on_one_device(everything, n=n, size=4), 1e-12)


@pytest.mark.parametrize(("count", "replicas", "hybrid"), [g for g in GRIDS if g[0] != 3])
@pytest.mark.parametrize("seed", few(range(12), 8))
def test_random_graphs_to_1e_12(count, replicas, hybrid, seed):
    net = random_graph(seed)
    split = make(net, ["cpu"] * count, 3, np.float64, replicas=replicas, hybrid=hybrid)
    assert_close(trace(split, net, 3), on_one_device(random_graph, seed, n=3), 1e-12)


@pytest.mark.kernels
@pytest.mark.parametrize(("count", "replicas", "hybrid"), [(2, 1, False), (4, 2, True)])
def test_every_kind_of_layer_on_the_kernels(count, replicas, hybrid, device):
    net = everything()
    wanted = trace(make(net, device), net, 4)
    split = make(net, [device] * count, replicas=replicas, hybrid=hybrid)
    assert_close(trace(split, net, 4), wanted, 2e-5)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_normalisation_across_slices(groups, size):
    """Where alpha matters, windows reach into the neighbouring device's channels, forward and backward."""
    net = Network("norm", (5, 4, 3)).add(Conv2d(12, 3, pad=1, init=Normal(0.5)), "conv")
    net.add(LRN(size, 1.0, 0.75, 1.0, groups=groups), "norm").add(Dropout(0.3), "drop")
    net.add(Linear(3, init=Normal(0.2)), "fc").add(SoftmaxCrossEntropy(), "loss")
    wanted = trace(make(net, "cpu", dtype=np.float64), net, 4)
    for count in (2, 3):
        split = make(net, ["cpu"] * count, dtype=np.float64)
        assert_close(trace(split, net, 4), wanted, 1e-12)


def test_gradient_of_the_images():
    net = everything()
    wanted = make(net, "cpu", dtype=np.float64, input_gradient=True)
    for options in ({}, {"replicas": 2}, {"replicas": 2, "hybrid": True}):
        split = make(net, ["cpu", "cpu"], dtype=np.float64, input_gradient=True, **options)
        for plan in (wanted, split):
            plan.feed(*batch(net))
            plan.forward()
            plan.backward()
        assert relative(split.get_gradient("input"), wanted.get_gradient("input")) < 1e-12
        for node in net:
            if not node.layer.is_cost:
                assert relative(split.get_output(node.name), wanted.get_output(node.name)) < 1e-12


def test_dropout_masks_are_those_of_one_device():
    net = Network("drop", (4, 3, 6)).add(Conv2d(6, 1, init=Normal(0.5)), "conv").add(Dropout(0.5), "maps")
    net.add(Linear(10, init=Normal(0.5)), "fc").add(Dropout(0.4, "inverted"), "units")
    net.add(Linear(3), "scores").add(SoftmaxCrossEntropy(), "loss")
    one = make(net, "cpu", 6)
    for options in ({}, {"replicas": 3}, {"replicas": 3, "hybrid": True}):
        split = make(net, ["cpu"] * 3, 6, **options)
        for plan in (one, split):
            plan.feed(*batch(net, 6))
            plan.forward()
        for name in ("maps", "units"):
            mine, theirs = split.get_output(name) == 0, one.get_output(name) == 0
            np.testing.assert_array_equal(mine, theirs)
            assert 0.2 < theirs.mean() < 0.8


def test_a_window_of_a_bigger_batch():
    """Three plans, each with its rows of a batch, find together what one plan finds: as processes do."""
    net = everything()
    images, labels = batch(net, 7)
    whole = make(net, "cpu", 7, np.float64)
    whole.feed(images, labels)
    whole.forward()
    whole.backward()
    sums, loss = Counter(), 0.0
    for first, last in ((0, 3), (3, 3), (3, 7)):
        part = make(net, ["cpu", "cpu"], 4, np.float64)
        part.set_window(first, 7)
        n = last - first
        if n:
            part.feed(images[first:last], labels[first:last])
        part.forward(n)
        part.backward(n)
        for name, gradient in part.get_gradients().items():
            sums[name] = sums[name] + gradient
        loss += n / 7 * part.loss() if n else 0.0
    assert loss == pytest.approx(whole.loss(), rel=1e-12)
    for name, gradient in whole.get_gradients().items():
        assert relative(sums[name], gradient) < 1e-12, name


# ---- AlexNet -----------------------------------------------------------------------------------------------
few_steps = pytest.mark.parametrize("steps", few([5, 20], 1))


def some_steps(net, devices, n, dtype=np.float32, parameters=None, lr=0.01, steps=20, **options):
    plan = make(net, devices, n, dtype, parameters, **options)
    plan.set_hyper(lr, 0.9)
    rng = np.random.default_rng(0)
    images = 60 * rng.standard_normal((2 * n, *net.input_shape), np.float32)  # pixels minus their mean
    labels = rng.integers(net.classes, size=2 * n)
    losses, gradients = [], None
    for step in range(steps):
        part = slice(0, n) if step % 2 == 0 else slice(n, 2 * n)
        plan.feed(images[part], labels[part])
        plan.forward()
        losses.append(plan.loss())
        plan.backward()
        if step == 0:
            gradients = plan.get_gradients()
        plan.update()
    assert plan.steps == steps
    return losses, gradients, plan.get_parameters()


def compare_alexnet(got, wanted, start, bound, change_bound):
    """Losses and first gradients to ``bound``; to ``change_bound`` what the steps changed in each
    parameter, which is little beside the parameter itself: float32 keeps it to two or three digits where the
    parameter is 1, and a maximum in a pool that changes places on a rounding error moves it further.
    """
    np.testing.assert_allclose(got[0], wanted[0], rtol=bound)
    for name in wanted[1]:
        assert relative(got[1][name], wanted[1][name]) < bound, name
        mine, theirs = got[2][name] - start[name], wanted[2][name] - start[name]
        assert np.linalg.norm(theirs) > 0
        assert relative(mine, theirs) < change_bound, name
        assert np.linalg.norm(mine - theirs) < bound * np.linalg.norm(wanted[2][name]) + bound, name


@few_steps
@pytest.mark.parametrize("model", [models.alexnet, models.alexnet_2012])
def test_reduced_alexnet_after_some_steps(model, any_device, steps):
    """Two towers on two devices: losses, every gradient, and the parameters at the end."""
    net = model(10, input_size=67, width=0.125, lrn_alpha=0.01)
    start = lively(net)
    start["conv1.weight"] /= 60
    # A rate at which the loss falls steadily: steps that throw it about multiply any rounding error.
    wanted = some_steps(net, any_device, 5, parameters=start, lr=0.001, steps=steps)
    got = some_steps(net, [any_device, any_device], 5, parameters=start, lr=0.001, steps=steps)
    assert steps < 20 or wanted[0][-1] < wanted[0][0]
    compare_alexnet(got, wanted, start, 1e-5, 1e-3)


@few_steps
@pytest.mark.parametrize("model", [models.alexnet, models.alexnet_2012])
def test_reduced_alexnet_in_float64(model, steps):
    net = model(10, input_size=67, width=0.125, lrn_alpha=0.01)
    start = lively(net)
    start["conv1.weight"] /= 60
    wanted = some_steps(net, "cpu", 4, np.float64, start, steps=steps)
    for devices in (["cpu"] * 2, ["cpu"] * 4):
        got = some_steps(net, devices, 4, np.float64, start, steps=steps)
        compare_alexnet(got, wanted, start, 1e-12, 1e-10)


@pytest.mark.slow
def test_true_size_alexnet_after_some_steps(device):
    """The printed network, 60,965,224 parameters, batch 4, from the paper's initial weights.

    Layer by layer, as the reduced networks above are not: over so many windows the fused kernels' roots let a
    few more maxima change places. Five steps on the emulator, where one takes 7 seconds; twenty below.
    """
    net = models.alexnet()
    start, steps = dict(net.initial(1)), 20 if device.kind == "cuda" else 5
    wanted = some_steps(net, device, 4, lr=0.0003, fuse=False, steps=steps)
    got = some_steps(net, [device, device], 4, lr=0.0003, fuse=False, steps=steps)
    assert wanted[0][-1] < (0.5 if steps == 20 else 1) * wanted[0][0]
    compare_alexnet(got, wanted, start, 1e-5, 0.03)


@pytest.mark.slow
def test_true_size_alexnet_in_float64():
    net = models.alexnet()
    start = dict(net.initial(1, np.float64))
    wanted = some_steps(net, "cpu", 4, np.float64, lr=0.001)
    got = some_steps(net, ["cpu", "cpu"], 4, np.float64, lr=0.001)
    compare_alexnet(got, wanted, start, 1e-12, 1e-10)


# ---- what crosses, what is held ----------------------------------------------------------------------------
def counted(plan):
    """Bytes that the plan's copies really move, by (layer, kind, source, target), while it runs."""
    moved = Counter()
    original = plan.lanes.copy_tasks

    def copy_tasks(source_shard, source, target_shard, target):
        steps = original(source_shard, source, target_shard, target)
        lane, last = steps[-1]

        def run():
            last()
            moved[source_shard, target_shard] += target.nbytes

        return [*steps[:-1], (lane, run)]

    plan.lanes.copy_tasks = copy_tasks
    return moved


@pytest.mark.parametrize("n", [4, 3])
@pytest.mark.parametrize(("count", "replicas", "hybrid"), GRIDS[:2] + GRIDS[4:7], ids=[*ids[:2], *ids[4:7]])
def test_what_crosses_is_what_was_predicted(count, replicas, hybrid, n):
    """Layer by layer, kind by kind, to the byte; and it is what the copies move when they run."""
    net = models.alexnet(10, input_size=67, width=0.125)
    plan = make(net, ["cpu"] * count, n, size=4, replicas=replicas, hybrid=hybrid)
    moved = counted(plan)
    predicted, listed = Counter(), Counter()
    for c in plan.partition.crossings(n):
        predicted[(c.kind == "weights" or c.layer, c.kind, c.source, c.target)] += c.nbytes
    for task in plan.tasks("forward", "backward", "update", n=n):
        if task.moves is not None:
            layer, kind, source, target, nbytes = task.moves
            listed[(kind == "weights" or layer, kind, source, target)] += nbytes
    weights = [sum(v for k, v in c.items() if k[1] == "weights") for c in (predicted, listed)]
    assert weights[0] == weights[1]
    assert {k: v for k, v in predicted.items() if k[1] != "weights"} == {
        k: v for k, v in listed.items() if k[1] != "weights"
    }
    trace(plan, net, n, steps=2)
    for pair in {(k[2], k[3]) for k in listed}:
        assert moved[pair] == 2 * sum(v for k, v in listed.items() if k[2:] == pair)


def test_only_the_papers_layers_cross_in_a_running_step():
    net = models.alexnet(10, input_size=67, width=0.125)
    plan = make(net, ["cpu", "cpu"], 2)
    moves = {task.moves[:2] for task in plan.tasks("forward", "backward", "update") if task.moves}
    assert moves == {
        (name, kind) for name in ("conv3", "fc6", "fc7", "fc8") for kind in ("gather", "gradient")
    }


@pytest.mark.kernels
def test_no_device_holds_the_other_towers_parameters(any_device):
    net = models.alexnet(10, input_size=67, width=0.125)
    plan = make(net, [any_device, any_device])
    whole = make(net, any_device)
    values = whole.get_parameters()
    for i, shard in enumerate(plan.shards):
        for name, view in shard.parameters.items():
            first, last = plan.partition.filters[name.partition(".")[0]][i]
            np.testing.assert_array_equal(any_device.to_numpy(view), values[name][first:last])
            assert last - first < len(values[name]) or name.startswith("fc8")
        gaps = sum(64 for _ in shard.parameters)
        assert shard.w.size <= plan.partition.parameters(i) + gaps
        assert shard.g.size == shard.v.size == shard.w.size
        assert not any(
            name in shard.outputs
            and any_device.to_numpy(shard.outputs[name]).shape[-1] == net[name].output_shape[-1]
            for name in ("conv1", "norm2", "pool2", "conv4", "conv5")
        )
    assert not any(name.startswith("fc8") for name in plan.shards[1].parameters)
    # Activations are halved too; what is gathered comes on top.
    assert max(shard.nbytes for shard in plan.shards) < 0.8 * whole.nbytes


# ---- order -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("count", "replicas", "hybrid"), GRIDS, ids=ids)
def test_any_allowed_order_gives_the_same_bits(count, replicas, hybrid, monkeypatch):
    """What two runs on streams may differ in: the order of tasks that do not wait for one another."""
    net = plain(classes=6) if count == 3 else everything()
    devices, options = ["cpu"] * count, {"replicas": replicas, "hybrid": hybrid}
    plain_order = trace(make(net, devices, **options), net, 4, steps=2)
    monkeypatch.setattr(buckets, "BUCKET", 1)  # parameters are updated layer by layer
    rng = np.random.default_rng(0)
    for _ in range(4):
        plan = make(net, devices, **options)
        plan.execute = lambda tasks: run_shuffled(tasks, rng)
        shuffled = trace(plan, net, 4, steps=2)
        assert shuffled[0] == plain_order[0]
        for mine, theirs in zip(shuffled[1:4], plain_order[1:4], strict=True):
            np.testing.assert_equal(mine, theirs)


def test_a_forgotten_wait_is_noticed(monkeypatch):
    """Each wait of a step, left out, changes the bits in some order; or another wait implies it."""
    monkeypatch.setattr(buckets, "BUCKET", 1)
    net = models.alexnet(4, input_size=67, width=0.0625)
    devices = ["cpu", "cpu"]
    right = bits_of_steps(net, devices, run_in_order)
    rng = np.random.default_rng(1)
    needed = noticed = 0
    tasks = make(net, devices).tasks("forward", "backward", "update")
    for position, task in enumerate(tasks):
        if not task.waits or not (task.moves or any(k in task.name for k in ("gathers", "adds", " update"))):
            continue
        needed += 1

        def careless(tasks, position=position):
            if len(tasks) <= position:
                return run_shuffled(tasks, rng)
            t = tasks[position]
            changed = [*tasks]
            changed[position] = Task(t.name, t.lane, t.run, (), t.moves)
            return run_shuffled(changed, rng)

        noticed += any(not np.array_equal(bits_of_steps(net, devices, careless), right) for _ in range(6))
    assert np.isfinite(right).all()
    assert needed >= 16 + 12
    assert noticed == needed


def bits_of_steps(net, devices, execute):
    """Parameters after two whole steps, each one list of tasks."""
    plan = make(net, devices)
    plan.execute = execute
    for step in range(2):
        plan.feed(*batch(net, 4, seed=step))
        plan.step()
    return np.concatenate([value.ravel() for name, value in sorted(plan.get_parameters().items())])


def test_waits_follow_from_what_is_read_and_written():
    done, tasks = [], TaskList()
    tasks.add("make", (0, "compute"), lambda: done.append("make"), [], ["a"])
    tasks.add("send", (0, "copy"), lambda: done.append("send"), ["a"], ["b"])
    tasks.add("use", (1, "compute"), lambda: done.append("use"), ["b"], ["c"])
    tasks.add("again", (0, "compute"), lambda: done.append("again"), [], ["a"])
    tasks.add("alone", (1, "copy"), lambda: done.append("alone"))
    assert [task.waits for task in tasks.tasks] == [(), (0,), (1,), (1,), ()]
    orders = set()
    for seed in range(40):
        done.clear()
        run_shuffled(tasks.tasks, np.random.default_rng(seed))
        assert sorted(done) == ["again", "alone", "make", "send", "use"]
        assert done.index("make") < done.index("send") < min(done.index("use"), done.index("again"))
        orders.add(tuple(done))
    assert len(orders) >= 6
    done.clear()
    run_in_order(tasks.tasks)
    assert done == ["make", "send", "use", "again", "alone"]


# ---- plans of several devices ------------------------------------------------------------------------------
def test_values_go_in_and_out_whole():
    net = everything()
    one, two = make(net, "cpu"), make(net, ["cpu", "cpu"])
    rng = np.random.default_rng(5)
    values = {name: rng.standard_normal(p.shape).astype(np.float32) for name, p in net.parameters().items()}
    for plan in (one, two):
        plan.set_parameters(values)
        plan.set_momenta({name: 2 * value for name, value in values.items()})
        for name, value in plan.get_momenta().items():
            np.testing.assert_array_equal(value, 2 * values[name])
        plan.feed(*batch(net))
        plan.forward(train=False)
    assert two.loss() == pytest.approx(one.loss(), rel=1e-6)
    np.testing.assert_allclose(two.scores(3), one.scores(3), rtol=1e-4, atol=1e-5)
    two.set_metrics(np.arange(8.0).reshape(2, 4))
    np.testing.assert_array_equal(two.get_metrics(), np.arange(8.0).reshape(2, 4))
    two.steps = 5
    assert [int(shard.step_array[0]) for shard in two.shards] == [5, 5]
    with pytest.raises(AttributeError, match=r"this plan has 2 devices: see plan.shards\[i\].w"):
        two.w  # noqa: B018


def test_looking_for_what_went_wrong():
    net = plain()
    plan = make(net, ["cpu", "cpu"])
    images, labels = batch(net)
    plan.feed(images, labels)
    plan.step()
    assert plan.first_nonfinite() is None
    assert plan.first_nonfinite_gradient() is None
    plan.shards[1].parameter_gradients["conv1.weight"][0, 0, 0, 0] = np.nan
    assert "layer 'conv1'" in plan.first_nonfinite_gradient()
    plan.shards[1].parameters["conv1.bias"][:] = np.inf
    with np.errstate(all="ignore"):
        plan.forward()
    assert "the parameters of layer 'conv1'" in plan.first_nonfinite()
    plan.shards[1].input[0, 0, 0, 0] = np.nan
    assert plan.first_nonfinite() == "the input images"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Plan(plain(), [], 4), "at least one device, got an empty list"),
        (lambda: Plan(plain(), ["cpu", "emulator"], 4), "of one kind, got cpu, emulator"),
        (lambda: Plan(plain(), ["cpu"] * 4, 4, replicas=3), "replicas must divide the number of devices, 4"),
        (lambda: Plan(plain(classes=2), ["cpu"] * 8, 4), "layer 'conv1' .*cannot be split over 8 devices"),
        (lambda: Plan(plain(), "cpu", 4).set_window(-1, 4), "row0 must be at least 0"),
        (lambda: Plan(plain(), "cpu", 4).set_window(0, 0), "total must be at least 1"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.kernels
def test_steps_allocate_nothing(any_device):
    net = everything()
    plan = make(net, [any_device, any_device])
    plan.feed(*batch(net))
    plan.step()
    plan.step()
    held, arrays = plan.nbytes, [dict(shard._scratch) for shard in plan.shards]
    plan.step()
    assert plan.nbytes == held
    assert [shard._scratch.keys() for shard in plan.shards] == [a.keys() for a in arrays]
    assert get_device(any_device) == plan.device
    assert ops.relu(np.float32([-1, 2])).tolist() == [0, 2]  # ops outside the plan stay where they were
