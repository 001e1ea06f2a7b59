"""The figures of the log as scalars for TensorBoard, where it is asked for.

tensorboardX writes the files: it needs protobuf alone, where the package ``tensorboard`` brings a web server.
Its writer is used without the queue and thread around it, which would hang on a full disk.
"""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from ..common.text import reason

FOLDER = "tensorboard"
_KINDS = ("loss", "error", "topk_error")


def require() -> Any:
    """Import what writes the files.

    Raises
    ------
    ImportError
        It is not installed; the message says what to install.
    """
    try:
        from tensorboardX import event_file_writer
        from tensorboardX.proto import event_pb2, summary_pb2
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("tensorboardX", "google", "packaging"):
            raise
        raise ImportError(
            f'tensorboard=True needs tensorboardX ({error}); run: pip install "pyconvnet[tensorboard]"'
        ) from error
    return event_file_writer, event_pb2, summary_pb2


class Scalars:
    """An event file of a run, one a session.

    Parameters
    ----------
    out : Path
        The run's folder; the file goes to ``tensorboard`` in it.
    step : int
        At which this session begins: TensorBoard drops what an earlier one, which was killed, told of later
        steps.
    """

    def __init__(self, out: Path, step: int):
        writer, self._events, self._summaries = require()
        folder = out / FOLDER
        folder.mkdir(exist_ok=True)
        self._file: Any = writer.EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        begun = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(self._events.Event(wall_time=time.time(), step=step + 1, session_log=begun))

    def add(self, record: dict[str, Any]) -> None:
        """Write what an event of the log has of figures, at its step."""
        values = scalars(record)
        if not values:
            return
        entry = self._summaries.Summary.Value
        summary = self._summaries.Summary(value=[entry(tag=k, simple_value=v) for k, v in values.items()])
        self._write(self._events.Event(wall_time=record["time"], step=record["step"], summary=summary))

    def _write(self, event: Any) -> None:
        """Write and flush; the first error ends it: the log has all of it."""
        if self._file is None:
            return
        try:
            self._file.write_event(event)
            self._file.flush()
        except OSError as error:
            self._file = None
            warnings.warn(f"train: no more for TensorBoard: {reason(error)}", RuntimeWarning, stacklevel=3)

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                text = f"train: no more for TensorBoard: {reason(error)}"
                warnings.warn(text, RuntimeWarning, stacklevel=2)


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """Return the figures of an event of the log by TensorBoard's names: ``loss/train_epoch``, ..."""
    event, found = record["event"], {}
    kind = {"train": "epoch", "progress": "within_epoch"}.get(event, event)
    if event in ("train", "validation", "progress"):
        for name in _KINDS:
            value = record.get(name, record.get(f"train_{name}"))
            if value is not None:
                found[f"{name}/{'train_' if kind != 'validation' else ''}{kind}"] = value
    if event in ("train", "progress", "set"):
        for name, value in (("rate", record.get("rate", record.get("lr"))),
                            ("images_per_second", record.get("images_per_second"))):  # fmt: skip
            if value is not None:
                found[name] = value
        times = record.get("times") or {}
        whole = sum(times.values())
        found |= {f"time/{part}": seconds / whole for part, seconds in times.items() if whole}
    return found
