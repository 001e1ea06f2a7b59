"""Where a run stands: what of it is restored, saved, and told when it goes wrong."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from ..common.devices import Device
from ..common.text import reason as reason_of
from ..data import Statistics, statistics
from ..network.network import Network
from ..network.preprocessing import Preprocessing
from ..plan.plan import Plan
from ..trained import checkpoint
from ..trained.model import Model, read_only
from . import resume as resuming
from .changes import NAMES, Changes
from .checkpoints import Checkpoints, Snapshot
from .figures import Figures, finite
from .log import Log, Progress
from .ranks import Ranks
from .resume import Saved
from .run import LAST, NonFiniteLossError, warn_on_error
from .settings import Settings


class RunState:
    """What a run works with, and how far it is; a checkpoint holds the latter.

    Parameters
    ----------
    network : Network
    train_set, validation_set : Dataset, Dataset or None
    settings : Settings
    devices : list of Device
    out : Path
    saved : Saved or None
        The run to go on with.
    ranks : Ranks
        The processes that train together.

    Attributes
    ----------
    epoch, step : int
        Done so far.
    examples : int
        Of the current epoch, done.
    seconds : float
        Of the current epoch, in earlier sessions too.
    history : list of dict
        A record an epoch.
    """

    #: Made by the class that runs it.
    plan: Plan
    preprocessing: Preprocessing
    statistics: Statistics | None
    figures: Figures
    log: Log
    progress: Progress
    checkpoints: Checkpoints
    changes: Changes
    check_every: int  # steps, of which the last is checked for a loss that is not finite

    def __init__(
        self,
        network: Network,
        train_set: Any,
        validation_set: Any,
        settings: Settings,
        devices: list[Device],
        out: Path,
        saved: Saved | None,
        ranks: Ranks,
    ):
        self.network, self.train_set, self.validation_set = network, train_set, validation_set
        self.settings, self.out, self.saved = settings, out, saved
        self.devices, self.ranks = devices, ranks
        self.epoch = self.step = self.examples = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.rate = settings.lr  # of the last step, with the schedule's factor
        self._spare: list[tuple[dict, dict]] = []  # memory for the next copy of parameters and momenta
        self._hyper: dict[str, float] = {}  # lr, momentum and weight decay that the plan has been told

    def _statistics(self) -> Statistics | None:
        if not self.settings.augmentation.needs_statistics():
            return None
        if self.saved is not None:
            return self.saved.statistics
        return statistics(
            self.train_set,
            workers=self.settings.workers,
            progress=self.settings.progress and self.ranks.main,
            share=(self.ranks.rank, self.ranks.size),
            add_up=self.ranks.sum,
        )

    def _check_data(self, saved: Saved) -> None:
        told = saved.state["data"]
        for kind, now in self._fingerprints().items():
            images = len(self.train_set) if kind == "train" else None
            if told.get(kind, now) != now or images not in (None, told["images"]):
                word = "training" if kind == "train" else kind
                raise ValueError(f"train: these are not the {word} images of the run in {saved.path}")

    def _fingerprints(self) -> dict[str, str | None]:
        sets = {"train": self.train_set, "validation": self.validation_set}
        return {kind: None if data is None else data.fingerprint() for kind, data in sets.items()}

    def _restore(self, saved: Saved) -> None:
        state, sums = saved.state, saved.sums
        self.plan.set_momenta(saved.momenta)
        self.plan.set_metrics(sums if self.ranks.main else np.zeros_like(sums))  # one rank carries on all's
        self.epoch, self.examples, self.step = state["epoch"], state["examples"], state["step"]
        self.plan.steps = self.step
        self.history, self.seconds = state["history"], state["seconds"]
        with checkpoint.damage(saved.path):
            if self.settings.schedule.describe() == state["options"]["schedule"]:
                self.settings.schedule.restore(state["schedule"])
                return
        for record in self.history:  # a new schedule sees what its predecessor saw
            self.settings.schedule.observe(record["epoch"] - 1, record["validation_error"])

    def _read_changes(self) -> Changes:
        """Read what was changed by hand (collective). A value given anew to a run that is resumed counts from
        now on; a restart script, which always gives that of the start, changes nothing.
        """
        changes = None
        with self.ranks.together():
            if self.ranks.main:
                state = None if self.saved is None else self.saved.state
                changes = Changes.read(self.out, state)
                old = {} if state is None else state["options"]
                changes.forget(n for n in NAMES if old and getattr(self.settings, n) != old[n])
        return self.ranks.broadcast(changes)

    def _set_hyper(self) -> None:
        """Tell the plan what holds now: the run's own values, those changed by hand, the schedule."""
        settings, before = self.settings, self._hyper
        own = {"lr": settings.lr, "momentum": settings.momentum, "weight_decay": settings.weight_decay}
        self._hyper = own | self.changes.at(self.step)
        self.rate = self._hyper["lr"] * settings.schedule.factor(self.epoch)
        self.plan.set_hyper(self.rate, self._hyper["momentum"])
        self.plan.set_weight_decay(self._hyper["weight_decay"])
        new = {name: value for name, value in self._hyper.items() if before.get(name, value) != value}
        if new:
            self.log.write("set", step=self.step, epoch=self.epoch, **new, rate=self.rate)
            words = ", ".join(f"{name} is {value:g}" for name, value in new.items())
            self.progress.note(f"from step {self.step + 1} on {words} (rate {self.rate:g})")

    def _change(self, asked: bool) -> None:
        """Take up what was asked for, and what a run before this one did at this step (collective)."""
        if asked:
            told: tuple = (None, [])
            if self.ranks.main:
                try:
                    told = self.changes.take(self.step)
                except OSError as error:  # no room: the next look tries again
                    self.checkpoints.warn(error, f"no change yet: {reason_of(error)}", self.step, self.epoch)
            taken, wrong = self.ranks.broadcast(told)
            if taken is not None:
                self.changes.taken = taken
            for text in wrong:
                self.progress.note(f"warning: thrown away: {text}")
                self.log.write("warning", step=self.step, epoch=self.epoch, message=f"thrown away: {text}")
        if asked or self.step in self.changes.steps:
            self._set_hyper()

    def _model(self, out: dict[str, np.ndarray] | None = None) -> Model:
        info = {"epoch": self.epoch, "step": self.step, "augment": self.settings.augmentation.as_dict()}
        if self.history:
            info["last_epoch"] = self.history[-1]
        parameters, data = read_only(self.plan.get_parameters(out)), self.train_set
        names, given = list(data.classes), data.class_names_given
        return Model(self.network, parameters, self.preprocessing, names, info, given)

    def _save(self, reason: str, best: bool = False) -> None:
        """Copy the run as it is and let ``last.safetensors`` be written of it, and ``best.safetensors`` where
        it is the ``best`` so far; refuses to write what is not finite over what was good (collective).
        """
        if self.ranks.main:
            self.checkpoints.wait()  # for the memory, too
        spare = self._spare.pop() if self._spare else (None, None)
        model, momenta = self._model(spare[0]), self.plan.get_momenta(spare[1])
        for what, values in (("parameters", model.parameters), ("momenta", momenta)):
            for name, value in values.items():
                if not finite(value):
                    node = self.network[name.partition(".")[0]]
                    raise self._bad(f"the {what} of {node} ({name})")
        if self.ranks.size > 1:  # nothing but an error could make them differ, and no figure would show it
            bits = {"model (the sums over the ranks went wrong)": resuming.checksum(model.parameters)}
            self.ranks.check_same(f"train: step {self.step}", bits, RuntimeError)
        sums = self.figures.sums()
        self._saved_at, self._saved_step, self._asked = time.monotonic(), self.step, False

        def release() -> None:
            """Use the memory for the next copy: to ask the system for it anew takes as long as the copy."""
            for value in model.parameters.values():
                value.flags.writeable = True
            self._spare[:] = [(model.parameters, momenta)]

        if self.ranks.main:
            values = (model, self._state(), momenta, sums, self.statistics)
            self.checkpoints.submit(Snapshot(reason, *values, model if best else None, release))
        else:
            release()

    def _state(self) -> dict[str, Any]:
        return {
            "options": self.settings.describe(),
            "epoch": self.epoch,
            "examples": self.examples,
            "step": self.step,
            "seconds": self.seconds,
            "schedule": self.settings.schedule.state(),
            "history": list(self.history),
            "changes": self.changes.until(self.step),
            "data": {**self._fingerprints(), "name": self.train_set.name, "images": len(self.train_set)},
            "kernels": resuming.described(self.plan.kernels, self.devices[0]),
        }

    def _bad(self, where: str, loss: float | None = None) -> BaseException:
        what = "the training left the finite numbers" if loss is None else f"the loss became {loss}"
        text = (
            f"{what} at epoch {self.epoch + 1}, step {self.step + 1}: first bad: {where}. "
            f"The last good checkpoint is {self.out / LAST}. "
            f"A lower learning rate than {self.settings.lr:g} may help."
        )
        if self.check_every > 1:
            text += (
                f" Only every {self.check_every}th step is checked on this device: the layer may be a later "
                "victim. Set PYCONVNET_SYNC=1 and resume to check every step."
            )
        error = NonFiniteLossError(text)
        with warn_on_error("the log does not tell of the end"):
            self.checkpoints.wait()  # and tell of the last good one
            self.log.write("end", step=self.step, epoch=self.epoch, reason="not finite", message=str(error))
        return self.ranks.shared(error)
