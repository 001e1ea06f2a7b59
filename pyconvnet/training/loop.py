"""The training loop: epochs, validation, schedule, log, checkpoints, signals; it knows time and no device.

Of several ranks each runs this loop over its own rows of every batch. Whatever depends on a clock, on a
signal or on the figures is decided together, once a step, so that all of them always make the same calls in
the same order.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
import warnings
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..common import files
from ..common.devices import Device
from ..common.text import reason
from ..data import Loader
from ..network.network import Network
from ..plan.buffers import Metrics
from ..plan.feed import host_empty
from ..plan.plan import Plan
from . import learning
from . import resume as resuming
from .checkpoints import Checkpoints
from .figures import Figures, short, steps_between_checks
from .kept import KeptSet, keep_sets
from .log import Log, Progress, Signals
from .ranks import Ranks
from .report import write_start
from .resume import Saved
from .run import LAST, LOG, Run, UnsavedError, score, warn_on_error
from .settings import Settings, make_preprocessing
from .state import RunState
from .tensorboard import Scalars
from .times import Times

_LOG_SECONDS = 30.0  # between "progress" events within an epoch


@dataclass
class Decisions:
    """What is done after a step; where there are several ranks, what any of them asks for."""

    bad: bool = False  # the loss is not finite
    stop: bool = False
    show: bool = False
    log: bool = False
    save: bool = False
    ask: bool = False  # a signal asks for a checkpoint
    change: bool = False  # somebody asks for another learning rate, say


class Trainer(RunState):
    """One run. Made and started by :func:`pyconvnet.train`.

    Parameters
    ----------
    start : dict or None
        Parameters to start from; None: the network's initial ones.
    network, train_set, validation_set, settings, devices, out, saved, ranks :
        As for :class:`RunState`; ``ranks`` by default this process alone.
    """

    def __init__(
        self,
        network: Network,
        train_set: Any,
        validation_set: Any,
        settings: Settings,
        devices: list[Device],
        out: Path,
        start: dict[str, np.ndarray] | None,
        saved: Saved | None,
        ranks: Ranks | None = None,
    ):
        ranks = Ranks() if ranks is None else ranks
        super().__init__(network, train_set, validation_set, settings, devices, out, saved, ranks)
        self._n = 0  # examples of the last pass
        self.check_every = min(ranks.gather(min(map(steps_between_checks, devices))))  # the same in all
        with self.ranks.together():
            if saved is not None:
                self._check_data(saved)
        self._check_ranks()
        self.communicator = self.ranks.communicator(devices)
        with self.ranks.together():
            self.plan = self._plan(start)
        self._choose_kernels()
        self.statistics = self._statistics()
        self.preprocessing = make_preprocessing(train_set, settings.augmentation, self.statistics)
        self.plan.set_preprocessing(self.preprocessing)
        self.kept: dict[int, KeptSet] = {}  # by the id of the data set
        if settings.keep_on_device:
            how = settings.workers, settings.progress and self.ranks.main
            with self.ranks.together():
                self.kept = keep_sets(self.plan, (train_set, validation_set), *how)
        judged = train_set if validation_set is None else validation_set
        even = settings.balance or settings.class_weights is not None
        self.chance = learning.chance(judged.labels, even)
        if validation_set is not None:
            settings.schedule.expect(self.chance)
        if saved is not None:
            with self.ranks.together():
                self._restore(saved)
        self.figures = Figures(self.plan, self.ranks)
        self.log = Log(out / LOG if self.ranks.main else None)
        self.progress = Progress(settings.progress and self.ranks.main, settings.epochs, len(train_set))
        self.checkpoints = Checkpoints(out, self.log, self.progress, settings.keep)
        self.changes = self._read_changes()
        self.times = Times()
        self._due: str | None = None  # why a checkpoint is due; known to rank 0
        self._asked = False  # a signal has asked for a checkpoint, which waits for the one under way

    def _plan(self, start: dict[str, np.ndarray] | None) -> Plan:
        settings = self.settings
        plan = Plan(
            self.network,
            self.devices,
            -(-settings.batch_size // self.ranks.size),
            seed=settings.seed,
            initialise=start is None,
            replicas=settings.replicas,
            hybrid=settings.hybrid,
            precision=settings.precision,
            communicator=self.communicator,
            kernels=resuming.kernels(self.saved, self.devices[0]),
        )
        if start is not None:
            plan.set_parameters(start)
        plan.set_weight_decay(settings.weight_decay)
        if settings.class_weights is not None:
            plan.set_class_weights(np.array(settings.class_weights))
        return plan

    def _choose_kernels(self) -> None:
        """Let rank 0 measure, before the first step; all ranks run the same kernels."""
        with self.ranks.together():
            self.choices = self.plan.choose_kernels() if self.ranks.main else {}
        if self.ranks.size > 1:
            self.plan.use_kernels(self.ranks.broadcast(self.plan.kernels))

    def _check_ranks(self) -> None:
        """Check that all ranks were given the same."""
        if self.ranks.size == 1:
            return
        settings = self.settings
        self.ranks.check_same(
            "train",
            {
                "network": json.dumps(self.network.to_dict(), default=str),
                "set of options": json.dumps(
                    [settings.describe(), settings.replicas, settings.hybrid], default=str
                ),
                "number of devices": len(self.devices),
                "rhythm of checkpoints": (
                    settings.checkpoint_minutes,
                    settings.checkpoint_batches,
                    settings.keep,
                ),
                **{f"set of {kind} images": value for kind, value in self._fingerprints().items()},
            },
        )

    # ---- the run -------------------------------------------------------------------------------------------
    def run(self) -> Run:
        """Train to the last epoch, or until a signal asks to stop."""
        if self.ranks.main:
            files.remove_partial(self.out)
            if self.saved is None:
                self.log.begin()
            else:
                self.log.rewind(self.step, self.epoch)
        if self.settings.tensorboard and self.ranks.main:
            self.log.mirror = Scalars(self.out, self.step)
        write_start(self)
        self.log.tell = self._log_failed
        self._saved_at, self._saved_step = time.monotonic(), self.step
        interrupted = False
        how = {"workers": self.settings.workers, "share": (self.ranks.rank, self.ranks.size)}
        how |= {"empty": host_empty(self.devices[0]), "images": not self.kept}
        size, seed = self.settings.batch_size, self.settings.seed
        with contextlib.ExitStack() as stack:
            if self.log.mirror is not None:
                stack.callback(self.log.mirror.close)
            stack.callback(self.checkpoints.close)
            self.signals = stack.enter_context(Signals(patience=1.0 if self.ranks.size > 1 else 0.0))
            loader = Loader(self.train_set, size, seed=seed, balance=self.settings.balance, **how)
            self.loader = stack.enter_context(loader)
            if self.validation_set is not None:
                loader = Loader(self.validation_set, size, shuffle=False, **how)
                self.validation_loader = stack.enter_context(loader)
            try:
                if self.saved is None:
                    self._save("start")  # a run killed in its first epoch can be resumed too
                    self._saved_first()
                else:
                    self.checkpoints.began_at(self.step)
                self._set_hyper()
                self._change(self.ranks.any(self.ranks.main and self.changes.asked(time.monotonic())))
                while self.epoch < self.settings.epochs and not self._stalled():
                    if not self._epoch():
                        interrupted = True
                        break
            finally:
                self.progress.close()
            early = not interrupted and self._stalled()
            self._saved_last(interrupted, early)
        if interrupted:
            with warn_on_error("the end cannot be told"):
                self.progress.note(
                    f"interrupted at epoch {self.epoch + 1}, step {self.step}: "
                    f"saved {self.out / LAST}; go on with resume=True"
                )
        self._write_end("interrupted" if interrupted else "stopped early" if early else "done")
        return Run(self._model(), self.history, self.out, interrupted, early)

    def _saved_first(self) -> None:
        """Raise where not even the first checkpoint can be written (collective)."""
        with self.ranks.together():
            self.checkpoints.wait()
            if self.checkpoints.error is not None:
                raise self.checkpoints.error

    def _saved_last(self, interrupted: bool, early: bool) -> None:
        """Raise where the run's end is not on disk (collective)."""
        with self.ranks.together():
            try:
                self.checkpoints.finish()
            except UnsavedError as error:
                error.run = Run(self._model(), self.history, self.out, interrupted, early)
                raise

    def _log_failed(self, error: OSError) -> None:
        self.checkpoints.warn(error, f"the log waits: {reason(error)}", self.step, self.epoch)

    def _stalled(self) -> bool:
        return learning.stalled(self.history, self.settings.stop_after)

    def _epoch(self) -> bool:
        """Run one epoch and what follows it; False where a signal stopped it."""
        self._set_hyper()
        if self.examples == 0:
            self.plan.reset_metrics()
            self.seconds = 0.0
        begun = time.perf_counter()
        earlier = self.seconds
        self.progress.start_epoch(self.epoch, self.examples)
        self.times.begin()
        self._logged = time.monotonic()
        for batch in self.loader.epoch(self.epoch, skip=self.examples):
            self.times.lap("data")
            self._train_batch(batch)
            self.times.lap("compute")
            decisions = self.decisions
            self.examples += batch.total
            self.progress.advance(batch.total)
            self.seconds = earlier + time.perf_counter() - begun
            if decisions.show:
                self.progress.show(*self.figures.loss_error(self._read()))
            if decisions.log:
                self._logged = time.monotonic()
                self.log.write("progress", **self.figures.named("train", self._read()), **self._where())
            if decisions.stop:
                self._save("interrupted")
                return False
            self._change(decisions.change)
            self.times.lap("other")
            ended = self.validation_set is None and self.examples >= len(self.train_set)
            if decisions.save and not ended:  # else the epoch's own checkpoint follows at once
                self._save(self._due or "")
                self.times.lap("checkpoint")
            self.checkpoints.collect()
        speed = self.progress.images_per_second
        figures = self.figures.named("train", self._read())
        self.times.lap("compute")  # a device that lags behind has been waited for
        self.seconds = earlier + time.perf_counter() - begun
        validation, stopped = self._validate()
        if stopped:
            self._save("interrupted")  # the epoch's batches are done; resuming begins with the validation
            return False
        self._finish_epoch(figures, validation, speed)
        return True

    def _train_batch(self, batch: Any) -> None:
        n = self._n = len(batch.labels)
        self.plan.set_window(batch.first, batch.total)
        if n:
            settings, shape = self.settings, self.train_set.image_shape
            draws = settings.augmentation.draw(
                settings.seed, self.step, batch.first, n, shape, self.statistics
            )
            self._feed(self.train_set, batch, draws)
        self.times.lap("copy")
        if (self.step + 1) % self.check_every:
            self.plan.step(n)
            self.decisions = self._agree()
        else:
            self._checked_step(n)
        self.step += 1

    def _feed(self, dataset: Any, batch: Any, draws: dict[str, Any]) -> None:
        if self.kept:
            self.kept[id(dataset)].feed(self.plan, batch, draws)
        else:
            self.plan.feed(batch.images, batch.labels, draws)

    def _checked_step(self, n: int) -> None:
        """Take a step that changes nothing where the loss or a gradient is not finite."""
        self.plan.forward(n)
        loss = self.plan.loss() if n else 0.0
        bad = None if math.isfinite(loss) else (loss, self.plan.first_nonfinite(n))
        if bad is not None and self.ranks.size == 1:
            raise self._bad(bad[1] or "the loss alone", loss)
        self.plan.backward(n)
        if self.communicator is not None:
            self.communicator.finish()
        self.decisions = self._agree(bad is not None)
        if self.decisions.bad:
            self._raise_first(bad)
        where = self.plan.first_nonfinite_gradient()  # of the sum over ranks: the same in all of them
        if where is not None:
            raise self._bad(where)
        self.plan.update()

    def _agree(self, bad: bool = False) -> Decisions:
        """Decide what is to be done after this step (collective)."""
        decisions = Decisions(bad, stop=self.signals.stop, ask=self.signals.take_save())
        self._asked |= decisions.ask
        if self.ranks.main:  # its clocks count
            now = time.monotonic()
            decisions.show = self.progress.due(self.progress.interval)
            decisions.log = now - self._logged >= _LOG_SECONDS
            self._due = self._checkpoint_due(now)
            decisions.save = self._due is not None and not self.checkpoints.busy()
            decisions.change = self.changes.asked(now)
        if self.ranks.size > 1:
            decisions = Decisions(*(bool(flag) for flag in self.ranks.sum(astuple(decisions)) > 0))
            self._asked |= decisions.ask
        return decisions

    def _checkpoint_due(self, now: float) -> str | None:
        """Say why a checkpoint is due after this step; None where it is not."""
        minutes, batches = self.settings.checkpoint_minutes, self.settings.checkpoint_batches
        if self._asked:
            return "signal"
        if minutes is not None and now - self._saved_at >= 60 * minutes:
            return "time"
        return "batches" if batches is not None and self.step + 1 - self._saved_step >= batches else None

    def _finish_epoch(self, figures: dict, validation: dict, speed: float) -> None:
        record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": self.rate,
            **figures,
            **validation,
            "images_per_second": round(speed, 1),
            "seconds": round(self.seconds, 3),
        }
        record = self.ranks.broadcast(record)  # rank 0's times in every rank's history
        where = {"epoch": self.epoch + 1, "step": self.step}
        images = {"images_per_second": record["images_per_second"], "times": self.times.seconds()}
        self.log.write("train", **where, lr=self.rate, **short(figures, "train"), **images)
        if self.validation_set is not None:
            self.log.write("validation", **where, **short(validation, "validation"))
        self.settings.schedule.observe(self.epoch, validation["validation_error"])
        best = all(score(record) < score(other) for other in self.history)
        self.history.append(record)
        self.epoch, self.examples = self.epoch + 1, 0
        self.progress.end_epoch(record)
        if self.epoch == learning.EPOCHS_TO_BEAT_CHANCE and self.ranks.main:
            self._compare_with_chance()
        self._save("epoch", best)

    def _compare_with_chance(self) -> None:
        """Warn where the net has not begun to learn. A resumed run is past this epoch, or it warns then."""
        if learning.beats_chance(self.history, self.chance, len(self.train_set)):
            return
        pixels = self.train_set.dtype == np.uint8
        text = learning.advice(self.network, self.settings, self.history, self.chance, pixels)
        self.log.write("warning", step=self.step, epoch=self.epoch, message=text)
        self.progress.note(f"warning: {text}")
        warnings.warn(f"train: {text}", RuntimeWarning, stacklevel=6)

    # ---- figures -------------------------------------------------------------------------------------------
    def _validate(self) -> tuple[dict[str, Any], bool]:
        """Return figures of the validation images, and whether a signal asks to stop."""
        if self.validation_set is None:
            figures = {"validation_loss": None, "validation_error": None, "validation_topk_error": None}
            return figures, self.ranks.any(self.signals.stop)
        kept = self.plan.get_metrics()
        self.plan.reset_metrics()
        settings, shape = self.settings, self.validation_set.image_shape
        stopped = False
        for batch in self.validation_loader.epoch(0):
            n = len(batch.labels)
            self.plan.set_window(batch.first, batch.total)
            if n:
                self._feed(self.validation_set, batch, settings.augmentation.centre(n, shape))
                self.plan.forward(n, train=False)
            stopped = self.ranks.any(self.signals.stop)
            if stopped:
                break
        figures = self.figures.named("validation", self.figures.metrics())
        self.plan.set_metrics(kept)
        return figures, stopped or self.ranks.any(self.signals.stop)

    def _read(self) -> dict[str, Metrics]:
        """Read the epoch's sums so far and check them (collective)."""
        metrics = self.figures.metrics()
        for value in metrics.values():
            if value.examples and not math.isfinite(value.loss):
                self._raise_first((value.loss, self.plan.first_nonfinite(self._n) if self._n else None))
        return metrics

    def _where(self) -> dict[str, Any]:
        epoch = self.epoch + self.examples / len(self.train_set)
        return {
            "epoch": round(epoch, 4),
            "step": self.step,
            "lr": self.rate,
            "images_per_second": round(self.progress.images_per_second, 1),
            "times": self.times.seconds(),
        }

    def _raise_first(self, bad: tuple[float, str | None] | None) -> NoReturn:
        """Raise for the first rank that knows where it went bad (collective). ``bad``: loss, place."""
        found = [(rank, *told) for rank, told in enumerate(self.ranks.gather(bad)) if told is not None]
        rank, loss, place = next((f for f in found if f[2] is not None), found[0])
        by = f", in rank {rank}" if self.ranks.size > 1 and place else ""
        raise self._bad((place or "the loss alone") + by, loss)

    # ---- log -----------------------------------------------------------------------------------------------
    def _write_end(self, reason: str) -> None:
        with warn_on_error("the log does not tell of the end"):
            self.log.write("end", step=self.step, epoch=self.epoch, reason=reason)
        if reason == "interrupted":
            return
        if self.history and self.ranks.main:
            with warn_on_error("no curves are drawn"):
                self._draw()
        with warn_on_error("the end cannot be told"):
            if reason == "stopped early":
                self.progress.note(
                    f"no gain for {self.settings.stop_after} epochs: stopped after {self.epoch}"
                )
            self.progress.note(f"done: {self.out / LAST}")

    def _draw(self) -> None:
        """Draw curves beside the log, where matplotlib is installed: drawing is an extra."""
        from ..trained import plots

        with contextlib.suppress(plots.NotInstalledError):
            plots.training_curves(self.out)
