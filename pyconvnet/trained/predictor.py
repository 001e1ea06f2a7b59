"""A model that answers many threads, as in a server: one plan, kept, whose batches gather what comes in."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from ..common.checks import integer, real
from ..data.images import check_max_pixels
from .evaluate import as_model, best_classes
from .images import image_sources, read_all, stack
from .probabilities import log_probabilities, view_draws

_END = None  # what close() puts last into the queue
_Waiting = tuple[np.ndarray, Future]  # one image's pixels, and who waits for its probabilities


class Predictor:
    """Answers images from any number of threads with one plan, which is made once and kept.

    Images are read in the thread that asks. What comes in while a batch is computed makes the next one,
    whoever asked; how many images a batch has changes an answer by rounding at most. The parameters are those
    that the model has now.

    Parameters
    ----------
    model_or_run : Model, Run or path
    batch_size : int
        Most images computed at once.
    wait : float
        Seconds that an image may wait for others to share its batch. 0: for none but those already there.
    views : 1 or 10
        As in :func:`pyconvnet.evaluate`.
    max_pixels : int, optional
        Largest image file decoded, see `data.load_image`.
    device, precision, replicas, hybrid :
        As in :func:`pyconvnet.predict`.

    Raises
    ------
    ValueError, TypeError
        A bad option; a device that does not work is a `DeviceUnavailableError`.
    """

    def __init__(
        self,
        model_or_run: Any,
        *,
        batch_size: int = 32,
        wait: float = 0.0,
        views: int = 1,
        max_pixels: int | None = None,
        device: Any = None,
        precision: str = "fp32",
        replicas: int = 1,
        hybrid: bool = False,
    ):
        self.model = as_model(model_or_run)
        self.batch_size = integer("Predictor", "batch_size", batch_size, 1)
        self.wait = real("Predictor", "wait", wait, 0)
        self._max_pixels = check_max_pixels("Predictor", max_pixels)
        self._draws = view_draws(self.model, views)
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._closing = threading.Lock()
        self._closed = False
        ready: Future = Future()
        how = {"precision": precision, "replicas": replicas, "hybrid": hybrid}
        # The plan is made in the thread that uses it, whose device it is.
        self._thread = threading.Thread(
            target=self._serve, args=(ready, device, how), name="pyconvnet predictor", daemon=True
        )
        self._thread.start()
        ready.result()

    def predict_proba(self, images: Any) -> np.ndarray:
        """Return the probabilities of all classes, (n, outputs) float64; of one image (outputs,).

        Parameters
        ----------
        images : one image or a sequence of them
            As :func:`pyconvnet.predict` takes them.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            An image that cannot be read, by name.
        RuntimeError
            The predictor is closed.
        """
        shape = self.model.preprocessing.image_shape
        single, sources = image_sources(images, shape)
        pixels = read_all(sources, shape, "raise", self._max_pixels)
        answers: list[Future] = [Future() for _ in pixels]
        with self._closing:  # nothing comes after the end
            if self._closed:
                raise RuntimeError("Predictor: it has been closed")
            for one in zip(pixels, answers, strict=True):
                self._waiting.put(one)
        found = np.stack([answer.result() for answer in answers])
        return found[0] if single else found

    def predict(self, images: Any, top: int = 5) -> list:
        """Return the most probable classes: (class name, probability), most probable first; of several images
        a list of such lists. Arguments and errors as of :meth:`predict_proba`.
        """
        top = min(integer("predict", "top", top, 1), self.model.outputs)
        found = self.predict_proba(images)
        guesses = [best_classes(self.model, row, top) for row in np.atleast_2d(found)]
        return guesses[0] if found.ndim == 1 else guesses

    def close(self) -> None:
        """Answer what has been asked, and give the plan's memory back; calling it again does nothing."""
        with self._closing:
            if not self._closed:
                self._closed = True
                self._waiting.put(_END)
        self._thread.join()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    # ---- in the thread -------------------------------------------------------------------------------------
    def _serve(self, ready: Future, device: Any, how: dict[str, Any]) -> None:
        try:
            plan = self.model.plan(device, self.batch_size, **how)
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        ended = False
        while not ended:
            batch, ended = self._gather()
            if batch:
                self._answer(plan, batch)

    def _gather(self) -> tuple[list[_Waiting], bool]:
        """Take what waits, a batch at most; and tell whether it was the last."""
        first = self._waiting.get()
        if first is _END:
            return [], True
        batch, until = [first], time.monotonic() + self.wait
        while len(batch) < self.batch_size:
            left = until - time.monotonic()
            try:
                one = self._waiting.get(timeout=left) if left > 0 else self._waiting.get_nowait()
            except queue.Empty:
                break
            if one is _END:
                return batch, True
            batch.append(one)
        return batch, False

    def _answer(self, plan: Any, batch: Sequence[_Waiting]) -> None:
        try:
            found = np.exp(log_probabilities(plan, stack([pixels for pixels, _ in batch]), self._draws))
        except BaseException as error:
            for _, answer in batch:
                answer.set_exception(error)
        else:
            for (_, answer), row in zip(batch, found, strict=True):
                answer.set_result(row)
