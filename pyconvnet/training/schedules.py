"""Learning-rate schedules.

A schedule answers one question, at the start of every epoch: by what factor is the run's learning rate
multiplied now? It may look at the validation errors so far. Its state is JSON-ready, so a resumed run goes on
where it stopped.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..common.checks import check_number


class Schedule:
    """Base of schedules."""

    #: True where the schedule cannot work without validation.
    needs_validation = False

    def factor(self, epoch: int) -> float:
        """Return the factor on the learning rate in ``epoch`` (the first is 0)."""
        raise NotImplementedError

    def expect(self, chance: float) -> None:
        """Take, once, before anything else, the validation error of an answer that looks at no image."""

    def observe(self, epoch: int, validation_error: float | None) -> None:
        """Take, after each epoch, the validation error (top-1) where there was one."""

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs to go on."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""

    def describe(self) -> Any:
        """Return a JSON-ready form that :func:`schedule` understands, or a text where there is none."""
        raise NotImplementedError


class Constant(Schedule):
    """The same rate throughout."""

    def factor(self, epoch: int) -> float:
        return 1.0

    def describe(self) -> Any:
        return "constant"


class Steps(Schedule):
    """Multiply the rate at given epochs: ``[(8, 0.1), (10, 0.1)]`` is 1 for epochs 0-7, 0.1 for 8 and 9, then
    0.01.
    """

    def __init__(self, steps: Sequence[tuple[int, float]]):
        try:
            self.steps = [(epoch, factor) for epoch, factor in steps]
        except (TypeError, ValueError):
            raise ValueError(f"schedule: steps must be pairs (epoch, factor), got {steps!r}") from None
        for epoch, factor in self.steps:
            check_number("schedule: the epoch of a step", epoch, "int >= 0")
            check_number("schedule: the factor of a step", factor, "number >= 0")
        epochs = [epoch for epoch, _ in self.steps]
        if epochs != sorted(epochs):
            raise ValueError(f"schedule: the epochs of steps must not decrease, got {epochs}")

    def factor(self, epoch: int) -> float:
        return math.prod(f for e, f in self.steps if e <= epoch)

    def describe(self) -> Any:
        return [list(step) for step in self.steps]


@dataclass
class Plateau(Schedule):
    """Divide the rate when the validation error stops falling (the paper, section 5: by ten, three times).

    Epochs do not count before the error has been below chance, of which :meth:`expect` is told: a net that
    has not begun to learn would only be slowed down. A schedule never told of chance counts from the first.

    Parameters
    ----------
    drop : float
        What the rate is multiplied by.
    patience : int
        Epochs in a row without a new lowest error before the rate falls.
    times : int
        At most so many falls.
    min_delta : float
        An error counts as lower where it is lower by more than this.
    """

    drop: float = 0.1
    patience: int = 2
    times: int = 3
    min_delta: float = 0.0
    needs_validation = True
    _chance: float = field(default=math.inf, init=False)
    _best: float = field(default=math.inf, init=False)
    _waited: int = field(default=0, init=False)
    _drops: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        check_number("schedule: plateau's factor", self.drop, "number >= 0")
        check_number("schedule: plateau's patience", self.patience, "positive int")
        check_number("schedule: plateau's times", self.times, "int >= 0")
        check_number("schedule: plateau's min_delta", self.min_delta, "number >= 0")

    def factor(self, epoch: int) -> float:
        return self.drop**self._drops

    def expect(self, chance: float) -> None:
        self._chance = chance

    def observe(self, epoch: int, validation_error: float | None) -> None:
        if validation_error is None:
            return
        if validation_error < self._best - self.min_delta:
            self._best, self._waited = validation_error, 0
            return
        if self._best >= self._chance:
            return
        self._waited += 1
        if self._waited >= self.patience and self._drops < self.times:
            self._drops, self._waited = self._drops + 1, 0

    def state(self) -> dict[str, Any]:
        return {
            "best": None if math.isinf(self._best) else self._best,
            "waited": self._waited,
            "drops": self._drops,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        best = state.get("best")
        self._best = math.inf if best is None else float(best)
        self._waited, self._drops = int(state.get("waited", 0)), int(state.get("drops", 0))

    def describe(self) -> Any:
        return (
            f"plateau:factor={self.drop:g},patience={self.patience},"
            f"times={self.times},min_delta={self.min_delta:g}"
        )


class Warmup(Schedule):
    """Begin with a small rate that grows evenly: 1/(n + 1) of it in the first of n epochs, 2/(n + 1) in the
    second, ..., all of it in the epoch after them (P. Goyal et al., "Accurate, large minibatch SGD", 2017,
    section 2.2, there step by step).

    Parameters
    ----------
    epochs : int
    then : whatever :func:`schedule` takes
        Multiplies the rate too, with the run's own numbers of epochs; it sees the validation errors from the
        first epoch at the full rate on. Default: constant.
    """

    def __init__(self, epochs: int, then: Any = None):
        check_number("schedule: warmup's epochs", epochs, "int >= 0")
        self.epochs, self.then = int(epochs), schedule(then)

    def __copy__(self) -> Warmup:
        return Warmup(self.epochs, copy.copy(self.then))

    @property
    def needs_validation(self) -> bool:  # type: ignore[override]
        return self.then.needs_validation

    def factor(self, epoch: int) -> float:
        return min(1.0, (epoch + 1) / (self.epochs + 1)) * self.then.factor(epoch)

    def expect(self, chance: float) -> None:
        self.then.expect(chance)

    def observe(self, epoch: int, validation_error: float | None) -> None:
        if epoch >= self.epochs:
            self.then.observe(epoch, validation_error)

    def state(self) -> dict[str, Any]:
        return self.then.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        self.then.restore(state)

    def describe(self) -> Any:
        then = self.then.describe()
        if isinstance(self.then, Steps):
            then = "steps:" + ",".join(f"{epoch}={factor!r}" for epoch, factor in self.then.steps)
        return f"warmup:{self.epochs}" + ("" if then in ("constant", "steps:") else f",then={then}")


class Function(Schedule):
    """A plain function of the epoch: ``schedule=lambda epoch: 0.95 ** epoch``."""

    def __init__(self, function: Callable[[int], float]):
        self.function = function

    def factor(self, epoch: int) -> float:
        value = self.function(epoch)
        check_number(f"schedule: the factor a function returns for epoch {epoch}", value, "number >= 0")
        return float(value)

    def describe(self) -> Any:
        return f"function {getattr(self.function, '__name__', type(self.function).__name__)}"


def schedule(spec: Any) -> Schedule:
    """Make a schedule.

    Parameters
    ----------
    spec : None, str, sequence, callable or Schedule
        None or "constant"; "plateau" or "plateau:factor=0.1,patience=2,times=3"; "steps:8=0.1,10=0.1" or a
        sequence of pairs (epoch, factor); "warmup:5" or "warmup:5,then=SCHEDULE", where SCHEDULE is any other
        text of these; a function of the epoch; or a Schedule, used as it is.

    Raises
    ------
    ValueError, TypeError
        Anything else.
    """
    if spec is None:
        return Constant()
    if isinstance(spec, Schedule):
        return spec
    if isinstance(spec, str):
        return _parse(spec)
    if isinstance(spec, (list, tuple)):
        return Steps(spec)
    if callable(spec):
        return Function(spec)
    raise TypeError(
        f"schedule must be a name, pairs (epoch, factor), a function or a Schedule, got {type(spec).__name__}"
    )


def _parse(text: str) -> Schedule:
    name, _, rest = text.partition(":")
    if name == "warmup":
        epochs, _, then = rest.partition(",then=")
        epochs = epochs.strip().removeprefix("epochs=")
        if not epochs.isdigit():
            raise ValueError(f"schedule: write 'warmup:5' or 'warmup:5,then=plateau', got {text!r}")
        return Warmup(int(epochs), then or None)
    try:
        pairs = [
            (key.strip(), float(value))
            for key, value in (item.split("=") for item in rest.split(",") if item)
        ]
    except ValueError:
        raise ValueError(
            f"schedule: cannot read {text!r}; write e.g. 'steps:8=0.1,10=0.1' or 'plateau:patience=2'"
        ) from None
    if name == "constant" and not pairs:
        return Constant()
    if name == "steps" and pairs:
        if not all(key.isdigit() for key, _ in pairs):
            raise ValueError(f"schedule: the epochs in {text!r} must be whole numbers")
        return Steps([(int(key), value) for key, value in pairs])
    if name == "plateau":
        options: dict[str, Any] = {}
        for key, value in pairs:
            if key not in ("factor", "patience", "times", "min_delta"):
                raise ValueError(
                    f"schedule: plateau takes factor, patience, times and min_delta, got {key!r}"
                )
            whole = key in ("patience", "times")
            if whole and not value.is_integer():
                raise ValueError(f"schedule: plateau's {key} must be a whole number, got {value:g}")
            options["drop" if key == "factor" else key] = int(value) if whole else value
        return Plateau(**options)
    raise ValueError(
        "schedule must be 'constant', 'plateau[:...]', 'steps:EPOCH=FACTOR,...' or "
        f"'warmup:EPOCHS[,then=...]', got {text!r}"
    )
