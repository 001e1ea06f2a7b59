"""Where a run stands, told from its folder alone: what it is, its last figures, how long it will take."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..common import files
from ..common.text import columns
from ..trained.checkpoint_file import CheckpointError, read_header
from . import changes
from .run import BEST, LAST, LOCK, LOG, score

_KINDS = ("start", "progress", "train", "validation", "set", "warning", "checkpoint", "end")


def status(run: str | Path) -> dict[str, Any]:
    """Tell where a run stands, without disturbing it.

    Parameters
    ----------
    run : path
        Its folder.

    Returns
    -------
    dict
        JSON-ready. ``state``: "running", the reason of the end ("done", "interrupted", "stopped early", "not
        finite"), or "killed" where it ended without a word; ``holder``: who trains there, or None;
        ``network``, ``devices``, ``ranks``, ``train_images``, ``keep_on_device`` (False before there was
        that); ``epoch`` (with its done part), ``epochs`` and ``step``; ``lr``, with the schedule's factor;
        ``train`` and ``validation``, the last figures; ``best``, those of the best epoch;
        ``images_per_second``; ``times``, the seconds of the epoch's parts (see
        :class:`pyconvnet.training.times.Times`); ``seconds_left``, None where nobody trains;
        ``checkpoint`` with file, step, epoch and age in seconds, or None; ``model``, the best one's file, or
        None; ``asked``, changes that no run has taken up yet; ``changes``; ``warnings``.

    Raises
    ------
    FileNotFoundError
        There is no run.
    TypeError
        Not a path.
    """
    if not isinstance(run, (str, os.PathLike)):
        raise TypeError(f"status: run must be a path, got {type(run).__name__}")
    folder = Path(run)
    if not (folder / LOG).is_file() and not (folder / LAST).is_file():
        raise FileNotFoundError(f"status: no run in {folder}: there is neither {LOG} nor {LAST}")
    holder = files.held_by(folder / LOCK)
    last, told, trained = _read(folder / LOG)
    start, end = last.get("start", {}), last.get("end")
    newest = max(
        (last[kind] for kind in ("start", "progress", "train", "checkpoint") if kind in last),
        key=lambda event: (event.get("step", 0), event["time"]),
        default={},
    )
    figures = max((last[k] for k in ("progress", "train") if k in last), key=_step, default={})
    options = start.get("options", {})
    epochs, epoch = options.get("epochs"), figures.get("epoch", newest.get("epoch", 0))
    speed = figures.get("images_per_second")
    left = None
    if holder is not None and speed and epochs is not None:
        left = round((epochs - epoch) * start.get("train_images", 0) / speed, 1)
    state = "running" if holder is not None else "killed" if end is None else end.get("reason")
    return {
        "run": str(folder),
        "state": state,
        "holder": holder,
        **{name: start.get(name) for name in ("network", "devices", "ranks", "train_images")},
        "keep_on_device": start.get("keep_on_device", False),
        "epoch": epoch,
        "epochs": epochs,
        "step": newest.get("step", 0),
        "lr": figures.get("lr", options.get("lr")),
        "train": _figures(figures),
        "validation": _figures(last.get("validation", {})),
        "best": min(trained, key=score, default=None),
        "images_per_second": speed,
        "times": figures.get("times"),
        "seconds_left": left,
        "checkpoint": _checkpoint(folder),
        "model": BEST if (folder / BEST).is_file() else None,
        "asked": [_content(path) for path in changes.waiting(folder)],
        "changes": told["set"],
        "warnings": [event.get("message", "") for event in told["warning"]],
    }


def _step(event: dict[str, Any]) -> tuple:
    return event.get("step", 0), event["time"]


def _figures(event: dict[str, Any]) -> dict[str, Any]:
    names = {"loss", "error", "topk_error"}
    return {k.removeprefix("train_"): v for k, v in event.items() if k.removeprefix("train_") in names}


def _read(path: Path) -> tuple[dict[str, dict], dict[str, list[dict]], list[dict]]:
    """Read a log: the last event of each kind since the last start, all of some kinds, a record an epoch."""
    last: dict[str, dict] = {}
    told: dict[str, list[dict]] = {"set": [], "warning": []}
    epochs: dict[int, dict] = {}
    lines = path.read_bytes().splitlines() if path.is_file() else []
    for line in lines:
        try:
            event = json.loads(line)
            kind, _ = event["event"], float(event["time"])
        except (ValueError, TypeError, KeyError):
            continue  # a line that is being written, or that a kill has cut
        if kind == "start":
            last.pop("end", None)
        if kind in _KINDS:
            last[kind] = event
        if kind in told:
            told[kind].append({k: v for k, v in event.items() if k != "event"})
        if kind in ("train", "validation") and isinstance(event.get("epoch"), int):
            record = epochs.setdefault(event["epoch"], {"epoch": event["epoch"]})
            for name in ("loss", "error"):
                record[f"{kind}_{name}"] = event.get(name)
                record.setdefault(f"validation_{name}", None)
    whole = [r for r in epochs.values() if None not in (r.get("train_error"), r.get("train_loss"))]
    return last, told, whole


def _checkpoint(folder: Path) -> dict[str, Any] | None:
    path = folder / LAST
    try:
        changed = path.stat().st_mtime
        state = read_header(path)["state"] or {}
    except FileNotFoundError:
        return None
    except CheckpointError as error:
        return {"file": LAST, "damaged": str(error)}
    where = {name: state.get(name) for name in ("step", "epoch", "examples")}
    return {"file": LAST, **where, "age_seconds": round(max(0.0, time.time() - changed), 1)}


def _content(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):  # taken up in this moment
        return {}


def text(told: dict[str, Any]) -> str:
    """Return what :func:`status` tells as a few lines to read."""
    kept = ", which keeps the images" if told["keep_on_device"] else ""
    rows = [("run", f"{told['run']}: {told['network']} on {', '.join(told['devices'] or ['?'])}{kept}")]
    state = told["state"] + (f", held by {told['holder']}" if told["holder"] else "")
    if told["seconds_left"] is not None:
        state += f", {timedelta(seconds=round(told['seconds_left']))} left"
    rows.append(("state", state))
    rows.append(("epoch", f"{told['epoch']:g} of {told['epochs']}, step {told['step']:,}"))
    for kind in ("train", "validation"):
        if told[kind].get("error") is not None:
            rows.append((kind, f"loss {told[kind]['loss']:.4f}, error {100 * told[kind]['error']:.2f}%"))
    if told["best"] is not None:
        kind = "train" if told["best"]["validation_error"] is None else "validation"
        error = 100 * told["best"][f"{kind}_error"]
        rows.append(("best", f"epoch {told['best']['epoch']}: {kind} error {error:.2f}%"))
    if told["images_per_second"]:
        rows.append(("speed", f"{told['images_per_second']:,.0f} images/s" + _times(told["times"])))
    if told["lr"] is not None:
        rows.append(("rate", f"{told['lr']:g}"))
    point = told["checkpoint"]
    if point is None:
        rows.append(("checkpoint", "none yet"))
    elif "damaged" in point:
        rows.append(("checkpoint", point["damaged"]))
    else:
        age = timedelta(seconds=round(point["age_seconds"]))
        rows.append(("checkpoint", f"step {point['step']:,}, {age} old"))
    rows += [("asked", ", ".join(f"{k}={v:g}" for k, v in asked.items())) for asked in told["asked"] if asked]
    rows += [("warning", message) for message in told["warnings"][-3:]]
    return "\n".join(columns(rows))


def _times(times: dict[str, float] | None) -> str:
    if not times:
        return ""
    whole = sum(times.values()) or 1.0
    return " (" + ", ".join(f"{name} {100 * value / whole:.1f}%" for name, value in times.items()) + ")"
