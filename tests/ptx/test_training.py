"""A training step of a small AlexNet on PTX: the whole way from a plan to what nvcc made of the kernels."""

from __future__ import annotations

import numpy as np
import pytest
from support.fakes import fake_ptx

from pyconvnet import models
from pyconvnet.layers import AvgPool2d
from pyconvnet.plan import Plan, buckets

N = 3
# How far results may be from the emulator's, relative to their norm: the order of sums and fused products, no
# more. And from the cpu's, which rounds no operand to TF32's 11 bits or a bfloat16's 8.
EMULATOR = 5e-6
CPU = {"fp32": 2e-5, "tf32": 0.05, "bf16": 0.2}


@pytest.fixture(autouse=True)
def whole(runtime):
    """Skips where the module has been built of some families alone."""
    if "conv" not in fake_ptx.load(runtime)[1].families:
        pytest.skip("PYCONVNET_PTX does not name a build of every family")


def network(plain_images: bool):
    """AlexNet on images of 67 pixels; `plain_images`: a second layer reads them, too, so they stay plain."""
    net = models.alexnet(10, input_size=67, width=0.125, lrn_alpha=1.0)
    return net.add(AvgPool2d(3, 2), "thumbnail", inputs="input") if plain_images else net


def spread(net) -> dict[str, np.ndarray]:
    """Weights under which signals and gradients keep their size through the net."""
    rng = np.random.default_rng(3)
    values = {}
    for name, p in net.parameters().items():
        std = (2 / np.prod(p.shape[1:])) ** 0.5 if len(p.shape) > 1 else 0.1
        values[name] = (std * rng.standard_normal(p.shape)).astype(np.float32)
    return values


@pytest.fixture(autouse=True)
def pieces(monkeypatch):
    """Parameters are updated layer by layer, beside the rest of backward."""
    monkeypatch.setattr(buckets, "BUCKET", 1)


def step(device: str, precision: str, depth: bool, fuse: bool | None = True) -> dict[str, np.ndarray]:
    """One step; loss, gradients and what the parameters have become."""
    net = network(plain_images=not depth)
    plan = Plan(net, device, N, seed=1, initialise=False, precision=precision, fuse=fuse)
    assert device == "cpu" or (plan.depth is not None) == depth
    plan.set_parameters(spread(net))
    plan.set_hyper(0.01, 0.9)
    plan.set_weight_decay(5e-4)
    # With some seeds an operand lies so close between two TF32 numbers that an error of float32 decides.
    rng = np.random.default_rng(11)
    plan.feed(rng.standard_normal((N, *net.input_shape), np.float32), rng.integers(net.classes, size=N))
    plan.step(N)
    out = {f"g {name}": g for name, g in plan.get_gradients().items()}
    return (
        out | {f"w {name}": w for name, w in plan.get_parameters().items()} | {"loss": np.array(plan.loss())}
    )


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Norm of the difference relative to that of `b`."""
    assert np.isfinite(a).all()
    return float(np.linalg.norm(a.astype(float) - b) / np.linalg.norm(b.astype(float)))


@pytest.mark.parametrize("depth", [True, False], ids=["depth", "plain"])
@pytest.mark.parametrize("precision", CPU)
def test_a_step_agrees_with_emulator_and_cpu(machine, precision, depth):
    """In an order drawn among those that CUDA allows, with copies that land as late as they may."""
    m = machine(seed=5)
    mine, emulated = step("cuda:0", precision, depth), step("emulator", precision, depth)
    exact = step("cpu", precision, depth, fuse=None)
    updates = [w for w in m.made if w.name == "sgd_momentum_beside"]
    products = [w for w in m.made if "dgrad" in w.name or "wgrad" in w.name]
    assert len(updates) == 7  # of all layers but the first
    assert any(not m.ordered(a, b) and not m.ordered(b, a) for a in updates for b in products)
    assert mine.keys() == exact.keys()
    for name, result in mine.items():
        assert distance(result, emulated[name]) < EMULATOR, name
        assert distance(result, exact[name]) < CPU[precision], name
