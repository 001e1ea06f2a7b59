"""The plan: gradients of any graph, partial batches, no allocation, frozen layers, one step on every
device.
"""

import gc
import tracemalloc

import numpy as np
import pytest
from support.few import few
from support.networks import batch, everything, plain, random_graph

from pyconvnet.common.devices import Device, get_device
from pyconvnet.layers import Add, Concat, Conv2d, Dropout, Linear, Normal, ReLU, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.plan import Plan
from pyconvnet.plan.buffers import Arena
from pyconvnet.plan.gradients import check_gradients


def trained(net, device="cpu", steps=3, dtype=np.float32, n=4, batch_size=4, **options):
    plan = Plan(net, device, batch_size, dtype, seed=1, **options)
    plan.set_hyper(0.05, 0.9)
    plan.set_weight_decay(0.01)
    plan.feed(*batch(net, n))
    for _ in range(steps):
        plan.step(n)
    return plan


# ---- gradients ---------------------------------------------------------------------------------------------
def worst(net, **options):
    """Largest relative error of any parameter's gradient against central differences in float64."""
    results = check_gradients(net, **options)
    print(net.summary(4), *results, sep="\n")
    assert all(r.error == r.error for r in results)  # max() would lose a NaN
    return max(r.error for r in results)


def test_gradients_of_every_layer_kind_agree_with_central_differences():
    net = everything()
    assert worst(net, batch_size=3, samples=12) < 1e-6
    results = {r.name: r for r in check_gradients(net, batch_size=3, samples=12)}
    assert {"conv1.weight", "conv2.bias", "side.weight", "fc4.bias"} <= set(results)
    assert not any(name.startswith("frozen") for name in results)
    assert all(r.norm > 1e-3 for r in results.values())


def test_gradient_of_the_images_agrees_with_central_differences():
    net = everything()
    plan = Plan(net, "cpu", 3, np.float64, seed=2, input_gradient=True)
    plan.feed(*batch(net, 3))
    plan.forward()
    plan.backward()
    gradient = plan.gradients["input"].copy()
    direction = np.random.default_rng(3).standard_normal(gradient.shape)
    losses = []
    for step in (1e-6, -2e-6):
        plan.input += step * direction
        plan.forward()
        losses.append(plan.loss())
    assert abs(gradient).max() > 1e-4
    assert (gradient * direction).sum() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-6)


@pytest.mark.parametrize(
    "graph",
    [
        lambda net: net.add(Add(), "sum", inputs=["a", "a"]),  # one output twice into one layer
        lambda net: net.add(Concat(), "cat", inputs=["a", "input"]),  # an input that wants no gradient
        lambda net: net.add(ReLU(), "b", inputs="a").add(Add(), "sum", inputs=["a", "b"]),
        lambda net: net.add(Conv2d(4, 3, pad=1), "dead", inputs="a").add(
            ReLU(), "b", inputs="a"
        ),  # reaches no cost
    ],
)
def test_odd_graphs(graph):
    net = Network("odd", (5, 4, 3)).add(Conv2d(4, 3, pad=1, init=Normal(0.3)), "a")
    graph(net)
    net.add(Linear(3, init=Normal(0.3)), "fc").add(SoftmaxCrossEntropy(), "loss")
    if "dead" in net:
        assert not trained(net).parameter_gradients["dead.weight"].any()
    assert worst(net) < 1e-6


@pytest.mark.parametrize("seed", few(range(12), 8))
def test_random_graphs(seed):
    """Central differences on whatever graph comes; a partial batch; no gradient where none is due."""
    net = random_graph(seed)
    assert worst(net, samples=4, seed=seed) < 1e-6
    assert Network.from_dict(net.to_dict()) == net
    full, exact = (trained(net, n=2, batch_size=size, steps=2) for size in (5, 2))
    np.testing.assert_array_equal(full.w, exact.w)


def test_random_graphs_cover_the_cases():
    graphs = [random_graph(seed) for seed in range(8)]
    readers = [[sum(n.name in m.inputs for m in g) for n in g] for g in graphs]
    assert any(max(counts) >= 3 for counts in readers)  # gradients from several consumers
    assert any(0 in counts[:-2] for counts in readers)  # outputs nobody reads
    assert any(len(g.costs) > 1 for g in graphs)
    assert any(n.owner != n.name for g in graphs for n in g)
    assert any(len(set(n.inputs)) < len(n.inputs) for g in graphs for n in g)
    assert any(getattr(n.layer, "frozen", False) for g in graphs for n in g)


def test_two_costs_on_one_output_and_a_layer_beside_them():
    net = Network("twice", (4, 4, 2)).add(Linear(3, init=Normal(0.5)), "scores")
    net.add(SoftmaxCrossEntropy(weight=0.5), "one").add(
        SoftmaxCrossEntropy(weight=2.0), "two", inputs="scores"
    )
    net.add(Linear(3, init=Normal(0.5)), "after", inputs="scores").add(SoftmaxCrossEntropy(), "three")
    assert worst(net) < 1e-6
    plan = trained(net, steps=1)
    metrics = plan.read_metrics()
    assert list(metrics) == ["one", "two", "three"]
    assert metrics["one"] == metrics["two"] != metrics["three"]


# ---- batches -----------------------------------------------------------------------------------------------
def test_a_partial_batch_is_a_plan_of_that_size():
    net = everything()
    big, exact = (trained(net, n=3, batch_size=size) for size in (8, 3))
    np.testing.assert_array_equal(big.w, exact.w)
    np.testing.assert_array_equal(big.v, exact.v)
    assert big.read_metrics() == exact.read_metrics()


def test_sizes_may_alternate():
    net = everything()
    images, labels = batch(net, 7)
    plan = Plan(net, "cpu", 4, seed=1)
    plan.set_hyper(0.01, 0.9)
    for part in (slice(0, 4), slice(4, 7), slice(0, 4), slice(4, 7)):
        n = plan.feed(images[part], labels[part])
        plan.step(n)
    assert plan.steps == 4
    assert plan.read_metrics()["loss"].examples == 14
    assert plan.first_nonfinite(3) is None


def test_gradient_is_the_mean_over_the_batch():
    net = plain()
    images, labels = batch(net, 4)
    plan = Plan(net, "cpu", 4, np.float64, seed=1)
    parts = []
    for part in (slice(0, 4), slice(0, 1), slice(1, 4)):
        n = plan.feed(images[part], labels[part])
        plan.forward(n)
        plan.backward(n)
        parts.append(plan.g.copy())
    np.testing.assert_allclose(parts[0], (parts[1] + 3 * parts[2]) / 4, rtol=1e-12, atol=1e-15)


# ---- the update --------------------------------------------------------------------------------------------
def test_update_is_the_papers_rule_with_multipliers():
    net = Network("rule", (2, 2, 1))
    net.add(Linear(3, init=Normal(0.5), lr_mult=0.5, decay_mult=3.0, bias_lr_mult=2.0), "fc").add(
        SoftmaxCrossEntropy()
    )
    plan = Plan(net, "cpu", 4, np.float64, seed=1)
    plan.set_hyper(0.1, 0.9)
    plan.set_weight_decay(0.01)
    plan.feed(*batch(net))
    w, v = plan.get_parameters(), plan.get_momenta()
    for _ in range(3):
        plan.forward()
        plan.backward()
        for name, lr, decay in (("fc.weight", 0.05, 0.03), ("fc.bias", 0.2, 0.0)):
            v[name] = 0.9 * v[name] - decay * lr * w[name] - lr * plan.parameter_gradients[name]
            w[name] = w[name] + v[name]
        plan.update()
    for name in w:
        np.testing.assert_allclose(plan.parameters[name], w[name], rtol=1e-12)
        np.testing.assert_allclose(plan.momenta[name], v[name], rtol=1e-12)
    assert plan.steps == 3


def test_frozen_layers_keep_their_bits_and_cost_nothing():
    net = plain().configure("conv1", frozen=True)
    plan = Plan(net, "cpu", 4, seed=1)
    before = plan.get_parameters()
    plan = trained(net)
    after = plan.get_parameters()
    for name, value in before.items():
        assert np.array_equal(value, after[name]) == name.startswith("conv1")
    assert "pool1" not in plan.gradients  # nothing below the first trained layer needs a gradient
    assert "conv1" not in plan.gradients


def test_everything_frozen_is_an_error():
    net = plain().configure("conv1", frozen=True).configure("fc2", lr_mult=0.0, bias_lr_mult=0.0)
    with pytest.raises(ValueError, match="can be trained"):
        Plan(net, "cpu", 4)
    Plan(net, "cpu", 4, train=False)


def test_the_same_seed_gives_the_same_bits_and_another_does_not():
    one, two = trained(everything()), trained(everything())
    np.testing.assert_array_equal(one.w, two.w)
    other = Plan(everything(), "cpu", 4, seed=2)
    assert (other.w != Plan(everything(), "cpu", 4, seed=1).w).mean() > 0.5


def test_dropout_changes_from_step_to_step_and_is_off_when_testing():
    net = (
        Network("drop", (10,))
        .add(Dropout(0.5), "drop")
        .add(Linear(2), "fc")
        .add(SoftmaxCrossEntropy(), "loss")
    )
    plan = Plan(net, "cpu", 4, seed=1)
    plan.feed(np.ones((4, 10), np.float32), np.zeros(4, np.int64))
    masks = []
    for _ in range(3):
        plan.forward()
        masks.append(plan.outputs["drop"].copy())
        plan.steps += 1
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[2])
    plan.steps = 0
    plan.forward()
    np.testing.assert_array_equal(plan.outputs["drop"], masks[0])
    plan.forward(train=False)
    assert (plan.outputs["drop"] == 0.5).all()


@pytest.mark.parametrize("train", [True, False])
def test_costs_can_be_left_out(train):
    plan = Plan(plain(), "cpu", 4, seed=1, train=train)
    plan.feed(*batch(plain(), 4))
    plan.forward(train=False)
    scores, sums = plan.get_output(plan.network.output), plan.get_metrics()
    plan.w[...] /= 2
    plan.forward(train=False, costs=False)
    assert (plan.get_metrics() == sums).all()
    assert not np.array_equal(plan.get_output(plan.network.output), scores)
    plan.forward(train=False)
    assert (plan.get_metrics()[:, 0] == 2 * sums[:, 0]).all()


# ---- devices -----------------------------------------------------------------------------------------------
@pytest.mark.kernels
def test_a_training_step_agrees_with_cpu(device):
    """Loss, every gradient and the parameters after three steps, to float32 rounding."""
    net = everything()
    ours, reference = trained(net, device, steps=3), trained(net, "cpu", steps=3, dtype=np.float64)
    single = trained(net, "cpu", steps=3)
    for name, exact in reference.get_gradients().items():
        scale = np.abs(exact).max() + 1e-6
        error = np.abs(ours.get_gradients()[name] - exact).max() / scale
        assert error <= 1e-4, name
        assert np.abs(single.get_gradients()[name] - exact).max() / scale <= 1e-4, name
    for name, exact in reference.get_parameters().items():
        np.testing.assert_allclose(ours.get_parameters()[name], exact, rtol=1e-4, atol=1e-5, err_msg=name)
    a, b = ours.read_metrics()["loss"], reference.read_metrics()["loss"]
    assert a.examples == b.examples == 12
    assert a.loss == pytest.approx(b.loss, rel=1e-5)
    assert (a.top1_errors, a.topk_errors) == (b.top1_errors, b.topk_errors)


@pytest.mark.kernels
def test_a_device_repeats_itself_bit_for_bit(device):
    one, two = trained(everything(), device), trained(everything(), device)
    np.testing.assert_array_equal(one.device.to_numpy(one.w), two.device.to_numpy(two.w))


def test_initial_parameters_are_the_same_on_every_device(any_device):
    plan = Plan(everything(), any_device, 2, seed=3)
    for name, value in everything().initial(3):
        np.testing.assert_array_equal(plan.get_parameters()[name], value)


# ---- memory ------------------------------------------------------------------------------------------------
def test_a_step_allocates_no_buffer(any_device, monkeypatch):
    net = everything()
    plan = trained(net, any_device, steps=2)
    plan.step(3)  # a second size
    images, labels = batch(net)

    def refuse(self, shape, dtype=np.float32):
        raise AssertionError(f"allocated {shape} {dtype} during a step")

    monkeypatch.setattr(Device, "empty", refuse)
    monkeypatch.setattr(Device, "zeros", refuse)
    before = plan.nbytes
    for n in (4, 3, 4):
        plan.feed(images[:n], labels[:n])
        plan.step(n)
        plan.forward(n, train=False)
    assert plan.nbytes == before


def test_steps_do_not_pile_up_memory():
    net = plain(size=32)
    plan = trained(net, n=16, batch_size=16)
    gc.collect()
    tracemalloc.start()
    try:
        for _ in range(3):
            plan.step(16)
        held = []
        for _ in range(4):
            gc.collect()
            held.append(tracemalloc.get_traced_memory()[0])
            for _ in range(10):
                plan.step(16)
    finally:
        tracemalloc.stop()
    # What steps leave behind grows in every round; another thread of the process may allocate in one. The
    # output of conv1 alone is 393 KB.
    assert min(np.diff(held)) < 30_000


def test_memory_is_what_the_summary_says():
    net = plain()
    plan = Plan(net, "cpu", 10)
    text = net.summary(10).splitlines()[-1].split()
    unit = {"B": 1, "KB": 1e3, "MB": 1e6}
    activations, weights = float(text[3]) * unit[text[4]], float(text[5]) * unit[text[6]]
    assert plan.nbytes == pytest.approx(activations + weights, rel=0.05)


def test_arena_aligns_every_parameter():
    arena = Arena(everything().parameters())
    assert all(start % 64 == 0 for start in arena.starts.values())
    assert arena.ends[-1] == arena.size
    flat = np.arange(arena.size)
    views = arena.views(flat)
    assert all(np.shares_memory(view, flat) for view in views.values())
    assert sum(view.size for view in views.values()) == everything().num_parameters
    everything_once = np.concatenate([view.reshape(-1) for view in views.values()])
    assert len(np.unique(everything_once)) == len(everything_once)


def test_gaps_between_parameters_stay_zero():
    plan = trained(everything())
    used = np.zeros(plan.w.shape, bool)
    for view in plan.arena.views(used).values():
        view[...] = True
    assert not plan.w[~used].any()
    assert not plan.v[~used].any()


# ---- feeding -----------------------------------------------------------------------------------------------
def test_feed_preprocesses_and_crops_the_centre(any_device):
    net = plain(size=4)
    plan = Plan(net, any_device, 3)
    rng = np.random.default_rng(0)
    mean = rng.uniform(0, 255, (6, 8, 3)).astype(np.float32)
    plan.set_preprocessing(Preprocessing((6, 8, 3), (4, 4), mean, 0.5))
    images = rng.integers(0, 256, (3, 6, 8, 3)).astype(np.uint8)
    plan.feed(images)
    np.testing.assert_allclose(
        any_device.to_numpy(plan.input), (images - mean)[:, 1:5, 2:6] * np.float32(0.5), rtol=1e-6, atol=1e-5
    )
    draws = {
        "crop": np.array([[0, 0], [2, 4], [1, 0]], np.int32),
        "mirror": np.array([0, 1, 0], np.uint8),
        "colour": np.array([[0, 0, 0], [1, 2, 3], [-5, 0, 0]], np.float32),
    }
    plan.feed(images, np.array([0, 1, 2]), draws)
    whole = (images - mean).astype(np.float32)
    want = np.stack(
        [
            whole[0, :4, :4],
            whole[1, 2:, 4:][:, ::-1] + draws["colour"][1],
            whole[2, 1:5, :4] + draws["colour"][2],
        ]
    )
    np.testing.assert_allclose(any_device.to_numpy(plan.input), want * 0.5, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(any_device.to_numpy(plan.labels), [0, 1, 2])


def _fed(*arguments, pre=False):
    plan = Plan(plain(), "cpu", 4)
    if pre:
        plan.set_preprocessing(Preprocessing((8, 8, 3)))
    plan.feed(*arguments)


IMAGES = np.zeros((2, 8, 8, 3), np.float32)
BAD = [
    (lambda: Plan("net", "cpu", 4), TypeError, "network must be a Network"),
    (lambda: Plan(Network("x", (3,)), "cpu", 4), ValueError, "has no layers"),
    (lambda: Plan(Network("x", (3,)).add(Linear(2)), "cpu", 4), ValueError, "no cost to train on"),
    (lambda: Plan(plain(), "cpu", 0), ValueError, "batch_size must be at least 1"),
    (
        lambda: Plan(plain(), "cpu", 4, np.float16),
        ValueError,
        "dtype on cpu must be float32 or float64, got float16",
    ),
    (lambda: Plan(plain(), "emulator", 4, np.float64), ValueError, "dtype on emulator must be float32"),
    (lambda: Plan(plain(), "gpu", 4), ValueError, "device must be"),
    (lambda: _fed(np.zeros((5, 8, 8, 3))), ValueError, "1 to 4 examples, got 5"),
    (lambda: _fed(np.zeros((0, 8, 8, 3))), ValueError, "1 to 4 examples, got 0"),
    (
        lambda: _fed(np.zeros((2, 8, 8, 1))),
        ValueError,
        r"images must have shape \(n, 8, 8, 3\), got \(2, 8, 8, 1\)",
    ),
    (
        lambda: _fed(np.zeros((2, 9, 8, 3), np.uint8), pre=True),
        ValueError,
        r"images must have shape \(n, 8, 8, 3\)",
    ),
    (lambda: _fed(IMAGES, np.zeros(3, int)), ValueError, "labels must be 2 integers"),
    (lambda: _fed(IMAGES, np.zeros(2)), ValueError, "labels must be 2 integers, got float64"),
    (lambda: _fed(IMAGES, None, {"crop": 0}), ValueError, "draws need preprocessing"),
    (lambda: Plan(plain(), "cpu", 4).forward(5), ValueError, "1 to 4 examples, got 5"),
    (lambda: Plan(plain(), "cpu", 4, train=False).backward(), ValueError, "made with train=False"),
    (lambda: Plan(plain(), "cpu", 4).set_parameters({}), ValueError, "lacks conv1.weight"),
    (
        lambda: Plan(plain(), "cpu", 4).set_preprocessing(Preprocessing((9, 9, 3))),
        ValueError,
        "makes inputs of shape",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_labels_outside_the_classes_are_refused():
    plan = Plan(plain(classes=4), "cpu", 4)
    for wrong in (4, -1):
        with pytest.raises(ValueError, match=f"labels must be in 0 … 3, got {wrong} at index 3"):
            plan.feed(*[batch(plain())[0], np.array([0, 1, 2, wrong])])


def test_first_nonfinite_names_the_place():
    net = plain()
    plan = trained(net)
    assert plan.first_nonfinite() is None
    images, labels = batch(net)
    for spoil, where in (
        (lambda: plan.input.__setitem__((0, 0, 0, 0), np.nan), "the input images"),
        (lambda: plan.parameters["fc2.weight"].__setitem__((0, 0), np.inf), "the parameters of layer 'fc2'"),
        (lambda: plan.parameters["conv1.weight"].fill(1e38), "the output of layer 'conv1'"),
    ):
        plan.feed(images, labels)
        spoil()
        with np.errstate(all="ignore"):
            plan.forward()
        assert where in plan.first_nonfinite()


def test_first_nonfinite_gradient_follows_the_order_of_backward():
    plan = trained(plain())
    assert plan.first_nonfinite_gradient() is None
    plan.parameter_gradients["fc2.bias"][0] = 3e38  # finite, though its square is not
    assert plan.first_nonfinite_gradient() is None
    plan.parameter_gradients["conv1.bias"][2] = np.nan
    assert "the gradient of layer 'conv1' (Conv2d) (conv1.bias)" in plan.first_nonfinite_gradient()
    plan.parameter_gradients["fc2.weight"][1, 1] = np.inf
    assert "layer 'fc2'" in plan.first_nonfinite_gradient()


def test_forward_from_a_layer_on():
    net = everything()
    plan = trained(net)
    plan.forward()
    loss, outputs = plan.loss(), {name: np.array(value) for name, value in plan.outputs.items()}
    plan.parameters["fc3.weight"] *= 2
    plan.forward(start="fc3")
    partial = plan.loss()
    assert partial != loss
    for name in ("conv1", "concat", "drop"):
        np.testing.assert_array_equal(plan.outputs[name], outputs[name])
    plan.forward()
    assert plan.loss() == partial
    with pytest.raises(ValueError, match="has no layer 'fc9'"):
        plan.forward(start="fc9")


def test_scores_and_loss():
    net = plain()
    plan = trained(net)
    plan.forward(train=False)
    assert plan.scores(3).shape == (3, 4)
    scores = plan.scores().astype(np.float64)
    log_p = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    assert plan.loss() == pytest.approx(-log_p[np.arange(4), plan.labels].mean(), rel=1e-5)
    assert get_device("cpu") == plan.device
