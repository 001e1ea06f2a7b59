"""Check a network's gradients against central differences, in float64 on the CPU.

The numerical derivative is ``(L(w + e) - L(w - e)) / 2e``. Where the step crosses a kink (ReLU, a maximum
that changes places) it is wrong at any precision, so smaller steps are tried too; a wrong analytic gradient
agrees with none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..common.checks import either, integer, real
from ..network.network import Network
from .plan import Plan

STEPS = (1e-5, 1e-6, 1e-4, 1e-7)


@dataclass(frozen=True)
class GradientCheck:
    """One parameter array's result.

    Attributes
    ----------
    name : str
        Full name, ``conv1.weight``.
    checked : int
        Derivatives compared: single elements, and one along a random direction through all of them.
    norm : float
        Euclidean norm of the analytic derivatives compared.
    error : float
        Norm of the differences over the larger of the two norms.
    """

    name: str
    checked: int
    norm: float
    error: float


def check_gradients(
    network: Network,
    *,
    batch_size: int = 2,
    samples: int = 6,
    tolerance: float = 1e-6,
    seed: int = 0,
    progress: bool = False,
) -> list[GradientCheck]:
    """Compare gradients of every trainable parameter array with central differences.

    Parameters are drawn afresh, weights N(0, 2 / fan-in) and biases N(0, 0.1): with initial values meant for
    training the gradients of early layers can be too small to tell from rounding. Images are N(0, 1).

    Parameters
    ----------
    network : Network
        With a cost.
    batch_size : int
    samples : int
        Elements compared per array: half those with the greatest gradients, half at random.
    tolerance : float
        Smaller steps are tried until a derivative agrees to this.
    seed : int
    progress : bool
        Show a progress bar.

    Returns
    -------
    list of GradientCheck, in the network's order

    Raises
    ------
    TypeError, ValueError
        Not a network, no cost, a bad option.
    """
    if not isinstance(network, Network):
        raise TypeError(f"check_gradients: network must be a Network, got {type(network).__name__}")
    with either():
        batch_size = integer("check_gradients", "batch_size", batch_size, 1)
        samples = integer("check_gradients", "samples", samples, 1)
        tolerance = real("check_gradients", "tolerance", tolerance, positive=True, below=1)
    rng = np.random.default_rng(seed)
    plan = Plan(network, "cpu", batch_size, np.float64, seed=seed, initialise=False)
    for view in plan.parameters.values():
        fan_in = view.size // view.shape[0]
        view[...] = rng.standard_normal(view.shape) * ((2 / fan_in) ** 0.5 if view.ndim > 1 else 0.1)
    images = rng.standard_normal((batch_size, *network.input_shape))
    plan.feed(images, rng.integers(0, network.classes, batch_size))
    plan.forward()
    plan.backward()
    analytic = plan.get_gradients()
    names = _trainable(network)
    bar = _bar(len(names), progress)
    results = []
    for name in names:
        bar.set_postfix_str(name)
        results.append(_check(plan, name, analytic[name], samples, tolerance, rng))
        bar.update()
    bar.close()
    return results


def _check(
    plan: Plan, name: str, gradient: np.ndarray, samples: int, tolerance: float, rng: np.random.Generator
) -> GradientCheck:
    view = plan.parameters[name].reshape(-1)
    flat = gradient.reshape(-1)
    count = min(samples, flat.size)
    greatest = (
        np.argpartition(-np.abs(flat), count // 2)[: count // 2] if count > 1 else np.empty(0, np.int64)
    )
    others = np.setdiff1d(rng.choice(flat.size, min(2 * count, flat.size), replace=False), greatest)
    chosen = np.concatenate([greatest, rng.permutation(others)[: count - len(greatest)]])
    floor = tolerance * np.abs(flat).max()  # no element needs to agree better than the array's greatest
    expected, found = [], []

    def compare(wanted: float, move: Any) -> None:
        best = np.inf
        for step in STEPS:
            move(step)
            up = plan_loss(plan)
            move(-2 * step)
            down = plan_loss(plan)
            move(step)
            value = (up - down) / (2 * step)
            if not abs(value - wanted) >= abs(best - wanted):
                best = value
            if abs(best - wanted) <= max(0.1 * tolerance * abs(wanted), floor * 0.1):
                break
        expected.append(wanted)
        found.append(best)

    for index in chosen:
        original = view[index]

        def move_one(step: float, index: int = index) -> None:
            view[index] += step

        compare(float(flat[index]), move_one)
        view[index] = original
    original = view.copy()
    direction = rng.choice((-1.0, 1.0), flat.size) / np.sqrt(flat.size)

    def move_all(step: float) -> None:
        view[...] += step * direction

    compare(float(flat @ direction), move_all)
    view[...] = original
    wanted, got = np.array(expected), np.array(found)
    scale = max(np.linalg.norm(wanted), np.linalg.norm(got))
    difference = np.linalg.norm(wanted - got)
    error = float(difference / scale) if scale > 0 else 0.0
    return GradientCheck(name, len(wanted), float(np.linalg.norm(wanted)), error)


def plan_loss(plan: Plan) -> float:
    """Compute the training objective of the batch fed last."""
    plan.forward()
    return plan.loss()


def _trainable(network: Network) -> list[str]:
    parameters = network.parameters()
    frozen = {node.name for node in network if getattr(node.layer, "frozen", False)}
    return [n for n, p in parameters.items() if p.lr_mult > 0 and n.partition(".")[0] not in frozen]


def _bar(total: int, show: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="gradients", unit=" arrays", disable=None if show else True, leave=False)
