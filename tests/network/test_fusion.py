"""Layers that do the work of their neighbours: where a plan makes such, and that nothing changes."""

import numpy as np
import pytest
from support.networks import batch, everything

from pyconvnet import models
from pyconvnet.layers import (
    LRN,
    AvgPool2d,
    Conv2d,
    Linear,
    MaxPool2d,
    Normal,
    ReLU,
    SoftmaxCrossEntropy,
)
from pyconvnet.network import Network
from pyconvnet.network.partition import partition
from pyconvnet.plan import Plan
from pyconvnet.plan.fuse import fuse


def small():
    return models.alexnet(10, input_size=67, width=0.125, lrn_alpha=1.0)


def steps(net, devices, count=3, n=3, **options):
    plan = Plan(net, devices, n, seed=1, **options)
    rng = np.random.default_rng(0)
    for name, p in net.parameters().items():
        if len(p.shape) > 1:  # signals that keep their size, so that normalisation matters
            values = plan.get_parameters()
            scale = (2 / np.prod(p.shape[1:])) ** 0.5
            values[name] = (scale * rng.standard_normal(p.shape)).astype(np.float32)
            plan.set_parameters(values)
    plan.set_hyper(0.001, 0.9)
    plan.set_weight_decay(5e-4)
    losses = []
    for step in range(count):
        plan.feed(*batch(net, n, seed=step))
        plan.step(n)
        losses.append(plan.loss())
    return plan, losses


def assert_same(one, other, bound):
    np.testing.assert_allclose(one[1], other[1], rtol=bound)
    for kind in ("get_parameters", "get_gradients"):
        theirs = getattr(other[0], kind)()
        for name, mine in getattr(one[0], kind)().items():
            assert np.isfinite(mine).all()
            difference = np.linalg.norm(np.float64(mine) - theirs[name])
            assert difference <= bound * np.linalg.norm(theirs[name]), (kind, name)


@pytest.mark.parametrize("model", [models.alexnet, models.alexnet_2012])
def test_float64_steps_are_the_same(model):
    net = model(10, input_size=67, width=0.125, lrn_alpha=1.0)
    apart = steps(net, "cpu", dtype=np.float64)
    for devices in ("cpu", ["cpu", "cpu"]):
        assert_same(steps(net, devices, dtype=np.float64, fuse=True), apart, 1e-11)


@pytest.mark.kernels(again=True)
def test_steps_on_the_kernels_are_the_same(device):
    apart = steps(small(), device, fuse=False)
    assert apart[0].partition.fused == {}
    for devices in (device, [device, device]):
        together = steps(small(), devices)
        assert together[0].partition.fused == {
            "norm1": "pool1",
            "norm2": "pool2",
            "fc6": "drop6",
            "fc7": "drop7",
        }
        assert_same(together, apart, 1e-4)


def test_the_normalised_map_takes_no_memory(any_device):
    apart, together = (Plan(small(), any_device, 4, fuse=fuse) for fuse in (False, True))
    n, (h, w, c) = 4, small()["norm1"].output_shape
    m = np.prod(small()["norm2"].output_shape) * n
    hidden = 2 * 512 * n  # output and gradient, and a byte of dropout's mask
    # output, its gradient, and the scale that backward needs
    wanted = 3 * 4 * (n * h * w * c + m) + (2 * 4 + 1) * hidden
    wanted -= together.input.nbytes - apart.input.nbytes  # the images, in space-to-depth on kernels
    assert apart.nbytes - together.nbytes == pytest.approx(wanted, rel=0.01)
    assert "norm1" in apart.outputs
    assert "norm1" not in together.outputs
    with pytest.raises(ValueError, match=r"'norm1' is never written: layer 'pool1' does its work too"):
        together.get_output("norm1")
    together.feed(*batch(small()))
    together.forward()
    assert together.first_nonfinite() is None
    assert together.get_output("pool1").shape == (4, *small()["pool1"].output_shape)


def test_the_cpu_keeps_them_apart_unless_asked(device):
    assert Plan(small(), "cpu", 2).partition.fused == {}
    assert Plan(small(), device, 2).partition.fused == {
        "norm1": "pool1",
        "norm2": "pool2",
        "fc6": "drop6",
        "fc7": "drop7",
    }


def chain(*layers):
    net = Network("chain", (8, 8, 3)).add(Conv2d(4, 3, pad=1, init=Normal(0.5)), "conv")
    for layer, name, inputs in layers:
        net.add(layer, name, inputs)
    return net.add(Linear(3, init=Normal(0.5)), "fc").add(SoftmaxCrossEntropy(), "loss")


@pytest.mark.parametrize(
    ("net", "fused"),
    [
        (chain((LRN(3, 1.0), "norm", None), (MaxPool2d(), "pool", None)), {"norm": "pool"}),
        (chain((LRN(3, 1.0), "norm", None), (AvgPool2d(), "pool", None)), {}),
        (chain((MaxPool2d(), "pool", None), (LRN(3, 1.0), "norm", None)), {}),
        (chain((LRN(3, 1.0), "norm", None), (ReLU(), "relu", None), (MaxPool2d(), "pool", None)), {}),
        (  # another layer reads the normalised map
            chain((LRN(3, 1.0), "norm", None), (ReLU(), "relu", "norm"), (MaxPool2d(), "pool", "norm")),
            {},
        ),
        (everything(), {"norm1": "pool1", "fc3": "drop3"}),
    ],
)
def test_where_it_applies(net, fused):
    split = fuse(partition(net, 1), train=True)
    assert split.fused == fused
    assert [local.node.name for local in split.locals[0]] == [n.name for n in net if n.name not in fused]
    assert partition(net, 1).fused == {}
    options = {"n": 3, "dtype": np.float64}
    assert_same(steps(net, "cpu", fuse=True, **options), steps(net, "cpu", fuse=False, **options), 1e-11)


def test_a_slice_that_borrows_channels_stays_apart():
    net = chain((LRN(3, 1.0, groups=1), "norm", None), (MaxPool2d(), "pool", None))
    assert fuse(partition(net, 2), train=True).fused == {}
    own = chain((LRN(3, 1.0, groups=2), "norm", None), (MaxPool2d(), "pool", None))
    assert fuse(partition(own, 2), train=True).fused == {"norm": "pool"}
    assert "in pool" in str(fuse(partition(own, 2), train=True))
