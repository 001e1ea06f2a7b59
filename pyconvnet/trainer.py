"""The training loop: epochs, validation, schedule, log, checkpoints, signals; it knows time and no device."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from . import checkpoint
from .buffers import Metrics
from .data import Loader, Statistics, statistics
from .devices import Device
from .model import Model
from .network import Network
from .plan import Plan
from .progress import Log, Progress
from .train import BEST, LAST, LOG, NonFiniteLossError, Run, Settings, make_preprocessing, score

_LOG_SECONDS = 30.0  # between "progress" events within an epoch


class Trainer:
    """One run. Made and started by :func:`pyconvnet.train`.

    Parameters
    ----------
    network : Network
    train_set, validation_set : Dataset, Dataset or None
    settings : Settings
    device : Device
    out : Path
    start : dict or None
        Parameters to start from; None: the network's initial ones.
    saved : (Model, state, arrays) or None
        The run to go on with.
    """

    def __init__(
        self,
        network: Network,
        train_set: Any,
        validation_set: Any,
        settings: Settings,
        device: Device,
        out: Path,
        start: dict[str, np.ndarray] | None,
        saved: tuple[Model, dict[str, Any], dict[str, np.ndarray]] | None,
    ):
        self.network, self.train_set, self.validation_set = network, train_set, validation_set
        self.settings, self.out, self.saved = settings, out, saved
        self.epoch = self.batch = self.step = 0
        self.history: list[dict[str, Any]] = []
        self._n = 1  # examples of the last pass
        self.check_every = _check_every(device)
        self.seconds = 0.0  # of the current epoch, in earlier sessions
        self.plan = Plan(network, device, settings.batch_size, seed=settings.seed, initialise=start is None)
        if start is not None:
            self.plan.set_parameters(start)
        self.plan.set_weight_decay(settings.weight_decay)
        if saved is not None:
            self._check_data(saved[1])
        self.statistics = self._statistics()
        self.preprocessing = make_preprocessing(train_set, settings.augmentation, self.statistics)
        self.plan.set_preprocessing(self.preprocessing)
        if saved is not None:
            self._restore(*saved)
        self.costs = {node.name: node.layer.weight for node in network.costs}
        self.main = network.costs[-1].name
        self.log = Log(out / LOG)
        self.progress = Progress(settings.progress, settings.epochs, len(train_set))

    # ---- state ---------------------------------------------------------------------------------------------
    def _statistics(self) -> Statistics | None:
        if not self.settings.augmentation.needs_statistics():
            return None
        if self.saved is not None:
            arrays, state = self.saved[2], self.saved[1]
            return Statistics(
                mean_image=arrays["state/mean_image"],
                mean_pixel=arrays["state/mean_pixel"],
                eigenvalues=arrays["state/eigenvalues"],
                eigenvectors=arrays["state/eigenvectors"],
                count=state["statistics"]["count"],
                pixel_range=state["statistics"]["pixel_range"],
            )
        return statistics(self.train_set, workers=self.settings.workers, progress=self.settings.progress)

    def _check_data(self, state: dict[str, Any]) -> None:
        for kind, now in self._fingerprints().items():
            if state["data"].get(kind, now) != now:
                word = "training" if kind == "train" else kind
                raise ValueError(f"train: these are not the {word} images of the run in {self.out}")

    def _fingerprints(self) -> dict[str, str | None]:
        sets = {"train": self.train_set, "validation": self.validation_set}
        return {kind: None if data is None else data.fingerprint() for kind, data in sets.items()}

    def _restore(self, model: Model, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        prefix = "momentum/"
        self.plan.set_momenta({n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)})
        self.plan.set_metrics(arrays["state/metrics"])
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.plan.steps = self.step
        self.history, self.seconds = state["history"], state["seconds"]
        if self.settings.schedule.describe() == state["options"]["schedule"]:
            self.settings.schedule.restore(state["schedule"])
        else:  # a new schedule sees what its predecessor saw
            for record in self.history:
                self.settings.schedule.observe(record["epoch"] - 1, record["validation_error"])

    def _model(self) -> Model:
        info = {"epoch": self.epoch, "step": self.step, "augment": self.settings.augmentation.as_dict()}
        if self.history:
            info["last_epoch"] = self.history[-1]
        return Model(
            self.network, self.plan.get_parameters(), self.preprocessing, list(self.train_set.classes), info
        )

    def _save(self, reason: str) -> None:
        """Write ``last.safetensors``; refuses to write what is not finite over what was good."""
        model = self._model()
        momenta = self.plan.get_momenta()
        for what, arrays in (("parameters", model.parameters), ("momenta", momenta)):
            for name, value in arrays.items():
                if not np.isfinite(value).all():
                    node = self.network[name.partition(".")[0]]
                    raise self._bad(f"the {what} of {node} ({name})")
        arrays = {f"momentum/{name}": value for name, value in momenta.items()}
        arrays["state/metrics"] = np.array(self.plan.device.to_numpy(self.plan.metrics))
        state: dict[str, Any] = {
            "options": self.settings.describe(),
            "epoch": self.epoch,
            "batch": self.batch,
            "step": self.step,
            "seconds": self.seconds,
            "schedule": self.settings.schedule.state(),
            "history": self.history,
            "data": {**self._fingerprints(), "name": self.train_set.name, "images": len(self.train_set)},
        }
        if self.statistics is not None:
            s = self.statistics
            for name in ("mean_image", "mean_pixel", "eigenvalues", "eigenvectors"):
                arrays[f"state/{name}"] = getattr(s, name)
            state["statistics"] = {"count": s.count, "pixel_range": s.pixel_range}
        checkpoint.write(self.out / LAST, model, state, arrays)
        self._saved_at, self._saved_step = time.monotonic(), self.step
        self.log.write(
            "checkpoint", step=self.step, epoch=self.epoch, batch=self.batch, file=LAST, reason=reason
        )

    # ---- the run -------------------------------------------------------------------------------------------
    def run(self) -> Run:
        """Train to the last epoch, or until a signal asks to stop."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.saved is not None:
            self.log.rewind(self.step)
            checkpoint.remove_partial(self.out)
        self._write_start()
        self._saved_at, self._saved_step = time.monotonic(), self.step
        interrupted = False
        workers = self.settings.workers
        size, seed = self.settings.batch_size, self.settings.seed
        with contextlib.ExitStack() as stack:
            self.signals = stack.enter_context(_Signals())
            self.loader = stack.enter_context(Loader(self.train_set, size, seed=seed, workers=workers))
            if self.validation_set is not None:
                loader = Loader(self.validation_set, size, shuffle=False, workers=workers)
                self.validation_loader = stack.enter_context(loader)
            try:
                if self.saved is None:
                    self._save("start")  # a run killed in its first epoch can be resumed too
                while self.epoch < self.settings.epochs:
                    if not self._epoch():
                        interrupted = True
                        break
            finally:
                self.progress.close()
        if interrupted:
            self.progress.note(
                f"interrupted at epoch {self.epoch + 1}, step {self.step}: "
                f"saved {self.out / LAST}; go on with resume=True"
            )
        self._write_end(interrupted)
        return Run(self._model(), self.history, self.out, interrupted)

    def _epoch(self) -> bool:
        """One epoch and what follows it; False where a signal stopped it."""
        lr = self.settings.lr * self.settings.schedule.factor(self.epoch)
        self.plan.set_hyper(lr, self.settings.momentum)
        if self.batch == 0:
            self.plan.reset_metrics()
            self.seconds = 0.0
        begun = time.perf_counter()
        earlier = self.seconds
        self.progress.start_epoch(self.epoch, min(self.batch * self.settings.batch_size, len(self.train_set)))
        logged = time.monotonic()
        for batch in self.loader.epoch(self.epoch, self.batch):
            self._train_batch(batch)
            self.batch += 1
            self.progress.advance(len(batch.labels))
            self.seconds = earlier + time.perf_counter() - begun
            if self.progress.due(self.progress.interval):
                self.progress.show(*self._loss_error(self._read()))
            if time.monotonic() - logged >= _LOG_SECONDS:
                logged = time.monotonic()
                self.log.write("progress", **self._figures("train", self._read()), **self._where())
            if self.signals.stop:
                self._save("interrupted")
                return False
            self._save_now_and_then()
        speed = self.progress.images_per_second
        figures = self._figures("train", self._read())
        self.seconds = earlier + time.perf_counter() - begun
        validation = self._validate()
        if self.signals.stop:
            self._save("interrupted")  # the epoch's batches are done; resuming begins with the validation
            return False
        self._finish_epoch(lr, figures, validation, speed)
        return True

    def _train_batch(self, batch: Any) -> None:
        n = len(batch.labels)
        settings = self.settings
        draws = settings.augmentation.draw(
            settings.seed, self.step, 0, n, self.train_set.image_shape, self.statistics
        )
        self.plan.feed(batch.images, batch.labels, draws)
        check = (self.step + 1) % self.check_every == 0
        self._n = n
        self.plan.forward(n)
        if check:
            self._check_loss(self.plan.loss())
        self.plan.backward(n)
        if check:
            where = self.plan.first_nonfinite_gradient()
            if where is not None:
                raise self._bad(where)
        self.plan.update()
        self.step += 1

    def _finish_epoch(self, lr: float, figures: dict, validation: dict, speed: float) -> None:
        record = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "lr": lr,
            **figures,
            **validation,
            "images_per_second": round(speed, 1),
            "seconds": round(self.seconds, 3),
        }
        where = {"epoch": self.epoch + 1, "step": self.step}
        self.log.write(
            "train", **where, lr=lr, **_short(figures, "train"), images_per_second=record["images_per_second"]
        )
        if self.validation_set is not None:
            self.log.write("validation", **where, **_short(validation, "validation"))
        self.settings.schedule.observe(self.epoch, validation["validation_error"])
        best = all(score(record) < score(other) for other in self.history)
        self.history.append(record)
        self.epoch, self.batch = self.epoch + 1, 0
        self.progress.end_epoch(record)
        if best:
            model = self._model()
            if all(np.isfinite(v).all() for v in model.parameters.values()):
                checkpoint.write(self.out / BEST, model)
        self._save("epoch")

    def _save_now_and_then(self) -> None:
        minutes, batches = self.settings.checkpoint_minutes, self.settings.checkpoint_batches
        late = minutes is not None and time.monotonic() - self._saved_at >= 60 * minutes
        if late or (batches is not None and self.step - self._saved_step >= batches):
            self._save("time" if late else "batches")

    # ---- figures -------------------------------------------------------------------------------------------
    def _validate(self) -> dict[str, Any]:
        if self.validation_set is None:
            return {"validation_loss": None, "validation_error": None, "validation_topk_error": None}
        kept = np.array(self.plan.device.to_numpy(self.plan.metrics))
        self.plan.reset_metrics()
        settings, shape = self.settings, self.validation_set.image_shape
        for batch in self.validation_loader.epoch(0):
            draws = settings.augmentation.centre(len(batch.labels), shape)
            n = self.plan.feed(batch.images, batch.labels, draws)
            self.plan.forward(n, train=False)
            if self.signals.stop:
                break
        figures = self._figures("validation", self.plan.read_metrics())
        self.plan.set_metrics(kept)
        return figures

    def _read(self) -> dict[str, Metrics]:
        """The epoch's sums so far, checked."""
        metrics = self.plan.read_metrics()
        for value in metrics.values():
            if value.examples:
                self._check_loss(value.loss)
        return metrics

    def _loss_error(self, metrics: dict[str, Metrics]) -> tuple[float, float]:
        return sum(w * metrics[name].loss for name, w in self.costs.items()), metrics[self.main].error

    def _figures(self, kind: str, metrics: dict[str, Metrics]) -> dict[str, Any]:
        loss, error = self._loss_error(metrics)
        return {
            f"{kind}_loss": loss,
            f"{kind}_error": error,
            f"{kind}_topk_error": metrics[self.main].topk_error,
        }

    def _where(self) -> dict[str, Any]:
        epoch = self.epoch + self.batch / len(self.loader)
        return {
            "epoch": round(epoch, 4),
            "step": self.step,
            "images_per_second": round(self.progress.images_per_second, 1),
        }

    def _check_loss(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise self._bad(self.plan.first_nonfinite(self._n) or "the loss alone", loss)

    def _bad(self, where: str, loss: float | None = None) -> NonFiniteLossError:
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
        self.log.write("end", step=self.step, epoch=self.epoch, reason="not finite", message=str(error))
        return error

    # ---- log -----------------------------------------------------------------------------------------------
    def _write_start(self) -> None:
        device = self.plan.device.name
        validation = 0 if self.validation_set is None else len(self.validation_set)
        self.log.write(
            "start",
            step=self.step,
            epoch=self.epoch,
            resumed=self.saved is not None,
            network=self.network.name,
            parameters=self.network.num_parameters,
            device=device,
            train_images=len(self.train_set),
            validation_images=validation,
            classes=len(self.train_set.classes),
            options=self.settings.describe(),
        )
        self.progress.note(
            f"{self.network.name}: {self.network.num_parameters:,} parameters on {device}; "
            f"{len(self.train_set):,} training and {validation:,} validation images; {self.out}"
        )

    def _write_end(self, interrupted: bool) -> None:
        reason = "interrupted" if interrupted else "done"
        self.log.write("end", step=self.step, epoch=self.epoch, reason=reason)
        if not interrupted:
            if self.history:
                self._draw()
            self.progress.note(f"done: {self.out / LAST}")

    def _draw(self) -> None:
        """Curves beside the log, where matplotlib is installed: drawing is an extra."""
        try:
            from . import plots

            plots.training_curves(self.out)
        except ImportError:
            pass


def _short(figures: dict[str, Any], kind: str) -> dict[str, Any]:
    return {key.removeprefix(f"{kind}_"): value for key, value in figures.items()}


def _check_every(device: Device) -> int:
    """Steps between looks at the loss. On the host looking is free; on a GPU it makes the host wait."""
    debugging = os.environ.get("PYCONVNET_SYNC", "0") not in ("", "0")
    return 1 if device.kind != "cuda" or debugging else 50


class _Signals:
    """Inside, the first Ctrl-C or termination signal only sets ``stop``; a second one acts as usual.

    Outside the main thread signals cannot be caught, and nothing changes.
    """

    def __init__(self) -> None:
        self.stop = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._caught)
        return self

    def _caught(self, number: int, frame: Any) -> None:
        self.stop = True
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._previous = {}

    def __exit__(self, *_: Any) -> None:
        self._put_back()
