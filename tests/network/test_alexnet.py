"""AlexNet as a whole: a training step on the kernels agrees with the reference, reduced and at true size."""

import numpy as np
import pytest

from pyconvnet import models
from pyconvnet.ops.host import module
from pyconvnet.plan import Plan

AGAIN = pytest.mark.kernels(again=True)


def make(net, device, batch, dtype=np.float32, parameters=None, **options):
    plan = Plan(net, device, batch, dtype, seed=1, initialise=parameters is None, **options)
    if parameters is not None:
        plan.set_parameters(parameters)
    rng = np.random.default_rng(0)
    images = 60 * rng.standard_normal((batch, *net.input_shape), np.float32)  # pixels minus their mean
    plan.feed(images, rng.integers(net.classes, size=batch))
    plan.set_hyper(0.01, 0.9)
    plan.set_weight_decay(5e-4)
    return plan


def spread(net, seed=3):
    """Weights under which signals and gradients keep their size through the net, unlike the paper's N(0,
    0.01).
    """
    rng = np.random.default_rng(seed)
    values = {}
    for name, p in net.parameters().items():
        std = (2 / np.prod(p.shape[1:])) ** 0.5 if len(p.shape) > 1 else 0.1
        values[name] = (std * rng.standard_normal(p.shape, np.float32)).astype(np.float32)
    values["conv1.weight"] /= 60
    return values


def relative(a, b):
    """Norm of the difference relative to the norm of ``b``, which must not vanish."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norm = np.linalg.norm(b)
    assert norm > 0
    assert np.isfinite(a).all()
    return np.linalg.norm(a - b) / norm


@pytest.mark.parametrize("model", [models.alexnet, models.alexnet_2012])
@pytest.mark.parametrize("batch", [pytest.param(1, marks=AGAIN), pytest.param(5, marks=pytest.mark.kernels)])
@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_reduced_step_agrees_with_float64(model, batch, fuse, device):
    """All layer types, response normalisation where it matters, towers, an odd batch: loss, outputs, every
    gradient.
    """
    net = model(10, input_size=67, width=0.125, lrn_alpha=1.0)
    values = spread(net)
    exact = make(net, "cpu", batch, np.float64, values)
    ours = make(net, device, batch, parameters=values, fuse=fuse)
    # fc6 and fc7 with their dropouts, norm1 and norm2 with their pools; in the net of 2012 another
    # normalisation comes between the second one and its pool.
    assert len(ours.partition.fused) == (0 if not fuse else 4 if model is models.alexnet else 3)
    for plan in (exact, ours):
        plan.forward()
        plan.backward()
    assert ours.loss() == pytest.approx(exact.loss(), rel=1e-5)
    for node in net:
        if not node.layer.is_cost and node.name not in ours.partition.fused:
            assert relative(device.to_numpy(ours.outputs[node.name]), exact.outputs[node.name]) < 1e-5, (
                node.name
            )
    gradients = ours.get_gradients()
    for name, gradient in exact.get_gradients().items():
        assert relative(gradients[name], gradient) < 2e-5, name


def same_choices(ours, reference):
    """Let our max pooling's backward send gradients where the reference's does: where two values of a window
    are equal but for rounding, the other one may win, and the gradient of one of 73,728 windows of the last
    pool is 0.4% of all of them. Returns how many windows differed.
    """
    differ = 0
    for name, theirs in reference.shards[0].saved.items():
        if "argmax" in theirs:
            mine = ours.shards[0].saved[name]["argmax"]
            differ += int((ours.device.to_numpy(mine) != theirs["argmax"]).sum())
            mine[...] = ours.device.asarray(theirs["argmax"])
    return differ


@pytest.fixture
def references_alone():
    """What is prepared for the cpu is the reference, not its compiled kernels, which round otherwise."""
    with module.forced(None):
        yield


@pytest.mark.slow
@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_true_size_step_agrees_with_the_reference(device, fuse, references_alone):
    """One training step of the printed network at batch 8: loss, every gradient, the updated parameters.

    Not among the tests for sanitized builds, on which it takes hours; the reduced steps are.
    """
    net = models.alexnet()
    reference = make(net, "cpu", 8)
    ours = make(net, device, 8, parameters=reference.get_parameters(), fuse=fuse)
    losses = []
    for plan in (reference, ours):
        plan.forward()
        losses.append(plan.loss())
    assert same_choices(ours, reference) <= 5  # of 979,712 windows
    for plan in (reference, ours):
        plan.backward()
        plan.update()
        assert plan.steps == 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert abs(losses[0] - np.log(1000)) < 0.2
    gradients = ours.get_gradients()
    for name, gradient in reference.get_gradients().items():
        assert relative(gradients[name], gradient) < 2e-5, name
    parameters = ours.get_parameters()
    for name, value in reference.get_parameters().items():
        assert relative(parameters[name], value) < 1e-6, name
    assert ours.read_metrics()["loss"].examples == 8
