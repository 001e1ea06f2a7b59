"""Worker processes: those that decode images into memory shared with the parent, and those that do jobs.

Each worker is a fresh interpreter (a `main` below), so neither threads, locks nor CUDA
contexts of the parent are forked, and a training script needs no ``if __name__ == "__main__"``. Parent and
worker talk in pickles over the worker's standard input and output; images go through an anonymous shared
file. A batch is cut into one share per worker, in order, and each worker answers in the order it is asked:
the parent knows whose answer comes next, so there is no queue, no lock and no polling. A worker that dies
closes its pipe, which the parent sees at once; a parent that dies closes the worker's, which ends it.

What Pillow is told in the parent (plugins, settings) goes to the workers before the first request, and again
before the next one when it has changed: they decode as the parent would.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import mmap
import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FunctionType
from typing import Any, BinaryIO

import numpy as np

from . import pillow
from .dataset import Dataset


class EpochEnded(RuntimeError):
    """An epoch is asked for more after another has begun, or after `close`."""


class _Processes:
    """Worker processes that answer requests, each in the order it is asked."""

    def __init__(self) -> None:
        if os.name != "posix":
            raise ValueError("Loader: worker processes need a POSIX system; use workers=0")
        self._workers: list[subprocess.Popen] = []
        self._asked: list[int] = []  # answers outstanding, per worker
        self._pillow: list[Any] = []  # what each was told
        self._finalizer = weakref.finalize(self, end, self._workers)

    def _start(self, count: int, server: Any, payload: bytes, descriptor: int | None = None) -> None:
        """Start processes that call ``server(payload object, told, *request)``, see `serve`."""
        for _ in range(count):
            self._workers.append(start(descriptor))
        self._asked, self._pillow = [0] * count, [None] * count
        # The object goes as bytes in the greeting, so that one that cannot be rebuilt leaves the pipe in
        # order.
        for number in range(count):
            self._send(number, (list(sys.path), server, payload))

    def _request(self, number: int, *request: Any) -> None:
        """Ask a worker, and tell it what has changed of Pillow."""
        state = pillow.state()
        changed = None if state == self._pillow[number] else packed(state)
        self._send(number, (changed, request))
        self._pillow[number] = state
        self._asked[number] += 1

    @property
    def closed(self) -> bool:
        return not self._finalizer.alive

    def close(self) -> None:
        """End the processes; nothing of them is left."""
        self._finalizer()

    def _send(self, number: int, message: Any) -> None:
        content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        pipe = self._workers[number].stdin
        try:
            pipe.write(content)
            pipe.flush()
        except (BrokenPipeError, ValueError):
            raise self._dead(number) from None

    def _receive(self, number: int) -> Any:
        try:
            answer = pickle.load(self._workers[number].stdout)
        except (EOFError, pickle.UnpicklingError, ValueError):
            raise self._dead(number) from None
        self._asked[number] -= 1
        return answer

    def _dead(self, number: int) -> RuntimeError:
        process = self._workers[number]
        try:
            code = process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        how = f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += "; often the system is out of memory: use fewer workers or a smaller batch"
        self.close()
        return RuntimeError(f"Loader: worker process {number} died ({how})")


class WorkerPool(_Processes):
    """Worker processes around one dataset.

    Parameters
    ----------
    dataset : Dataset
        Pickled once to each worker.
    workers : int
    batch_size : int
        Images a slot holds.
    slots : int
        Batches that may be under way at once.
    """

    def __init__(self, dataset: Dataset, workers: int, batch_size: int, slots: int):
        super().__init__()
        payload = packed(dataset)
        self.dataset = dataset
        self.batch_size = batch_size
        self.slots = slots
        self._generation = 0
        shape = (slots, batch_size, *dataset.image_shape)
        descriptor = shared_file(int(np.prod(shape)) * dataset.dtype.itemsize)
        try:
            self._memory = mmap.mmap(descriptor, 0)
            self._images = np.frombuffer(self._memory, dataset.dtype).reshape(shape)
            self._start(workers, _Decode(descriptor, shape, dataset.dtype.str), payload, descriptor)
        except BaseException:
            self.close()
            raise
        finally:
            os.close(descriptor)

    def read(
        self, plan: list[np.ndarray], empty: Callable[[int], np.ndarray]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices, images) for each array of indices in `plan`, in order, `slots` batches ahead.

        `empty` gives arrays for so many images.
        """
        self._generation += 1
        generation = self._generation
        for number, outstanding in enumerate(self._asked):  # of an epoch left early
            for _ in range(outstanding):
                self._receive(number)
        for turn in range(min(self.slots, len(plan))):
            self._ask(turn % self.slots, plan[turn])
        for turn, indices in enumerate(plan):
            if self.closed or generation != self._generation:
                raise EpochEnded("Loader: this epoch was ended by the start of another or by close()")
            slot = turn % self.slots
            failure = None
            for number, _, _ in self._shares(len(indices)):
                answer = self._receive(number)
                if isinstance(answer, BaseException):
                    failure = failure or answer
                else:
                    self.dataset.note_skipped(answer)
            if failure is not None:
                raise failure
            images = empty(len(indices))
            np.copyto(images, self._images[slot, : len(indices)])
            if turn + self.slots < len(plan):
                self._ask(slot, plan[turn + self.slots])
            yield indices, images

    def _shares(self, count: int) -> Iterator[tuple[int, int, int]]:
        """Yield (worker, first, last) of a batch of `count` images."""
        workers = len(self._workers)
        for number in range(workers):
            first, last = count * number // workers, count * (number + 1) // workers
            if first < last:
                yield number, first, last

    def _ask(self, slot: int, indices: np.ndarray) -> None:
        for number, first, last in self._shares(len(indices)):
            self._request(number, slot, first, indices[first:last])


class Jobs(_Processes):
    """Worker processes that call one function, each with one argument at a time.

    Parameters
    ----------
    job : callable
        Pickled once to each worker.
    workers : int
    """

    def __init__(self, job: Callable[[Any], Any], workers: int):
        super().__init__()
        try:
            self._start(workers, _Do(), packed(job))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Jobs:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def run(self, arguments: Iterable[Any]) -> Iterator[Any]:
        """Yield what the function returns for each of `arguments`, in the order in which they are done.

        Raises
        ------
        RuntimeError
            A worker died. What the function raises is raised here, and ends the others' work.
        """
        rest = iter(arguments)
        with selectors.DefaultSelector() as selector:
            for number, process in enumerate(self._workers):
                for argument in itertools.islice(rest, 1):
                    self._request(number, argument)
                    selector.register(process.stdout, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    answer = self._receive(key.data)
                    if isinstance(answer, BaseException):
                        self.close()
                        raise answer
                    for argument in itertools.islice(rest, 1):
                        self._request(key.data, argument)
                        break
                    else:
                        selector.unregister(key.fileobj)
                    yield answer


class _Packer(pickle.Pickler):
    """Refuses what another process could not rebuild: what lives in the script itself."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, (type, FunctionType)) and not importable(value.__module__):
            raise pickle.PicklingError(
                f"{value.__qualname__} is defined in {value.__module__}, which other processes cannot import"
            )
        return NotImplemented


def packed(value: Any) -> bytes:
    """Return a dataset, or the state of Pillow, pickled for a worker process.

    Raises
    ------
    TypeError
        A worker could not rebuild it; the message says why, and names ``workers=0``.
    """
    buffer = io.BytesIO()
    try:
        _Packer(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except Exception as error:
        what = f"the dataset {value.name}" if isinstance(value, Dataset) else "a plugin of Pillow's"
        raise TypeError(
            f"Loader: {what} cannot be sent to worker processes: {error}; "
            "use workers=0, or put its class into a module"
        ) from error
    return buffer.getvalue()


def default_workers(dataset: Dataset, most: int) -> int:
    """Return how many workers where the caller does not say: `most`, or 0 where they are no use or no way.

    That is for a dataset in memory or one that decodes nothing, on systems other than POSIX, and, with a
    warning, where the dataset (or a plugin of Pillow's) lives in a script or notebook, which other processes
    cannot import.
    """
    if dataset.in_memory or not dataset.decodes or os.name != "posix":
        return 0
    try:
        packed(dataset)
        packed(pillow.state())
    except TypeError as error:
        reason = str(error).removeprefix("Loader: ")
        warnings.warn(f"images are decoded without worker processes: {reason}", RuntimeWarning, stacklevel=3)
        return 0
    return most


def importable(module: str | None) -> bool:
    """Tell whether another interpreter with this one's path finds `module`: not a script or notebook."""
    top = (module or "").partition(".")[0]
    if top == "__main__" or not top:
        return False
    return any(finder.find_spec(top, None) is not None for finder in sys.meta_path)


def shared_file(size: int) -> int:
    """Open an anonymous file of `size` bytes (a descriptor), in memory where possible: no name to leak."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pyconvnet-loader")
    else:
        handle, path = tempfile.mkstemp(prefix="pyconvnet-loader")
        os.unlink(path)
        descriptor = handle
    os.ftruncate(descriptor, size)
    return descriptor


def start(descriptor: int | None) -> subprocess.Popen:
    """Start one worker, which inherits `descriptor`, if any, and nothing else."""
    root = str(Path(__file__).parents[2])
    code = f"import sys; sys.path.insert(0, {root!r}); from pyconvnet.data.workers import main; main()"
    # One thread each: the processes are the parallelism.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=() if descriptor is None else (descriptor,),
        env=environment,
    )


def end(workers: list[subprocess.Popen]) -> None:
    """End processes: closing their input asks them, killing makes sure."""
    for process in workers:
        with contextlib.suppress(OSError):  # it died with unread input
            process.stdin.close()
    for process in workers:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def main() -> None:
    """Read requests from standard input, do what they ask, answer on standard output: a worker."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C reaches the whole group; the parent decides what it means
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a dataset prints must not mix with the answers
    sys.stdout = sys.stderr
    try:
        serve(requests, answers)
    except (EOFError, BrokenPipeError):
        pass  # the parent has closed the pipe or is gone
    finally:
        with contextlib.suppress(BrokenPipeError):
            answers.close()


class _Decode:
    """What a worker of `WorkerPool` does: images of a dataset into memory shared with the parent."""

    def __init__(self, descriptor: int, shape: tuple[int, ...], dtype: str):
        self._of = descriptor, shape, dtype

    def begin(self) -> None:
        descriptor, shape, dtype = self._of
        self.images = np.frombuffer(mmap.mmap(descriptor, 0), dtype).reshape(shape)
        self.reported: set[str] = set()

    def __call__(self, dataset: Dataset, slot: int, first: int, indices: np.ndarray) -> dict[str, str]:
        """Decode, and return what is newly known to be unreadable."""
        dataset.read_into(indices, self.images[slot, first : first + len(indices)])
        answer = {k: v for k, v in dataset.skipped.items() if k not in self.reported}
        self.reported |= set(answer)
        return answer


class _Do:
    """What a worker of `Jobs` does."""

    def begin(self) -> None:
        pass

    def __call__(self, job: Callable[[Any], Any], argument: Any) -> Any:
        return job(argument)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more: with what the server named in the greeting returns."""
    sys.path[:], server, payload = pickle.load(requests)
    server.begin()
    warnings.simplefilter("ignore")  # the parent warns of skipped files, once
    failure: BaseException | None = None
    try:
        thing = pickle.loads(payload)
    except Exception as error:  # its module raises here, say: answer with it
        failure = TypeError(
            f"Loader: the dataset cannot be rebuilt in a worker process: {error}; use workers=0"
        )
    while True:
        told, request = pickle.load(requests)
        answer: Any = failure
        if failure is None:
            try:
                if told is not None:
                    pillow.take_over(pickle.loads(told))
                answer = server(thing, *request)
            except Exception as error:
                answer = portable(error)
        pickle.dump(answer, answers, protocol=pickle.HIGHEST_PROTOCOL)
        answers.flush()


def portable(error: Exception) -> Exception:
    """Return `error` as something that can be pickled, with the worker's traceback as a note."""
    note = "in a worker process:\n" + "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(note)
    copy.__cause__ = copy.__context__ = None
    return copy
