"""A run as one HTML page that needs nothing else: no server, no network, no script.

Curves, filters, errors by class, confusions, the worst mistakes, where the time went. Charts are SVG in the
page's text, pictures are in it as data; a content policy forbids the browser to fetch anything.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..common.checks import either, integer
from ..common.files import write_atomically
from ..common.text import cut
from . import charts
from .checkpoint import find, load
from .evaluate import Evaluation, evaluate, matching_data
from .model import Model
from .plots import displayable, filter_picture, log_path, read_events

_MANY = 40  # classes, beyond which the confusion is a picture and the others' errors are left out
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { --ink: #1d2129; --soft: #667085; --line: #e4e7ec; --back: #fff; --card: #f7f8fa;
  --train: #344054; --validation: #c2185b; --good: #2e7d4f; --bad: #d9534f; --bar: #4a7ab5;
  --data: #e07b39; --copy: #d9b23c; --compute: #4a7ab5; --checkpoint: #8a63b5; --other: #98a2b3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #9aa3b2; --line: #333a45;
  --back: #14171c; --card: #1c2027; --train: #c3cad6; --validation: #ff6f9f; --good: #5cbf85;
  --bad: #f0807c; --bar: #6d9fdc; --compute: #4f80bd; } }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink);
  background: var(--back); margin: 0 auto; max-width: 1040px; padding: 28px 24px 60px }
h1 { font-size: 26px; margin: 0 } h2 { font-size: 18px; margin: 38px 0 12px }
.soft, figcaption { color: var(--soft); font-size: 13px }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0 0 }
.figures div { background: var(--card); border-radius: 8px; padding: 10px 16px; min-width: 132px }
.figures b { display: block; font-size: 22px; font-weight: 600; line-height: 1.25 }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(400px, 1fr)); gap: 18px 28px }
svg { width: 100%; height: auto; display: block; overflow: visible }
svg text { fill: var(--soft); font-size: 11px }
svg .title { fill: var(--ink); font-size: 13px; font-weight: 600 }
svg .inside { fill: #fff; font-size: 10px }
.grid { stroke: var(--line) } .mark { stroke: var(--soft); stroke-dasharray: 3 3; stroke-width: 1.5 }
.line { fill: none; stroke-width: 1.8; stroke: var(--bar) } .dot { fill: var(--bar) }
.line.train { stroke: var(--train) } .dot.train, svg .key.train { fill: var(--train) }
.line.validation { stroke: var(--validation) }
.dot.validation, svg .key.validation { fill: var(--validation) }
.two figure { max-width: 500px }
.bar { fill: var(--bad) } .part.data { fill: var(--data) } .part.copy { fill: var(--copy) }
.part.compute { fill: var(--compute) } .part.checkpoint { fill: var(--checkpoint) }
.part.other { fill: var(--other) }
figure { margin: 0 } img { image-rendering: auto; max-width: 100% } img.tiny { image-rendering: pixelated }
.filters img { width: min(100%, 760px); image-rendering: pixelated; background: #fff; border-radius: 4px }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(186px, 1fr)); gap: 16px }
.card { background: var(--card); border-radius: 8px; padding: 10px; overflow: hidden }
.card img { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px }
.card .true { font-weight: 600; margin: 6px 0 4px; overflow-wrap: anywhere; line-height: 1.3 }
.guess { position: relative; font-size: 12px; margin: 2px 0; padding: 1px 5px; display: flex;
  justify-content: space-between; gap: 8px }
.guess i { position: absolute; inset: 0 auto 0 0; background: var(--bad); opacity: .4; border-radius: 3px }
.guess.right i { background: var(--good); opacity: .55 }
.guess span:last-child { flex: none }
.guess span { position: relative; white-space: nowrap; overflow: hidden; text-overflow: ellipsis }
table { border-collapse: collapse; font-size: 13px } td, th { padding: 3px 10px 3px 0; text-align: left;
  vertical-align: top } th { font-weight: 500; color: var(--soft) }
.pairs td:nth-child(n+3), .pairs th:nth-child(n+3) { text-align: right }
.confusion { overflow-x: auto } .confusion td.most { color: #fff }
.confusion td, .confusion th { padding: 0; text-align: center; font-size: 11px;
  min-width: 28px; height: 24px; border: 1px solid var(--back) }
.confusion th.row { text-align: right; padding-right: 8px; white-space: nowrap }
.confusion th.column { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 6px 0;
  white-space: nowrap; height: auto; margin: auto }
.warning { border-left: 3px solid var(--data); padding: 4px 12px; margin: 6px 0; font-size: 13px }
details { margin-top: 12px } summary { cursor: pointer; color: var(--soft) }
@media print { body { max-width: none } .card { break-inside: avoid } }
"""


def report(
    run: Any,
    data: Any = None,
    path: str | Path | None = None,
    *,
    views: int = 10,
    mistakes: int = 12,
    batch_size: int = 128,
    device: Any = None,
    progress: bool = False,
) -> Path:
    """Write a page that shows how a run went and what its best model does.

    Parameters
    ----------
    run : Run or path
        A run, or its folder.
    data : Dataset, name, path or (x, y), optional
        As :func:`pyconvnet.evaluate` takes it; without, nothing is evaluated, and errors by class, confusions
        and mistakes are left out.
    path : path, optional
        Default: ``report.html`` in the run's folder.
    views : 10 or 1
    mistakes : int
        The images whose class the model thought least probable, among those it got wrong; 0 to 200.
    batch_size, device, progress :
        As :func:`pyconvnet.evaluate` takes them.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    FileNotFoundError
        There is no log.
    ValueError
        The log is damaged; the data do not fit the model; a bad option.
    """
    with either():
        mistakes = integer("report", "mistakes", mistakes, 0, 200)
    log = log_path(run)
    path = log.parent / "report.html" if path is None else Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"report: the page's name must end in .html, got {path}")
    events = read_events(log)
    model = _model(log.parent)
    result = None
    if data is not None:
        if model is None:
            raise ValueError(f"report: {log.parent} holds no model yet to evaluate")
        how = {"batch_size": batch_size, "device": device, "progress": progress}
        result = evaluate(model, data, views, **how)
    sections = [
        _head(log.parent, events, model, result),
        _curves(events),
        _filters(model),
        *(_judged(model, data, result, mistakes) if result is not None else [_nothing_judged(model)]),
        _times(events),
        _options(events),
    ]
    title = escape(f"{_network(events, model)}: {log.parent.name}")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{title}</title><style>{_STYLE}</style></head>\n<body>\n'
        + "\n".join(filter(None, sections))
        + "\n</body></html>\n"
    )
    return write_atomically(path, page.encode("utf-8", "replace"))


def _model(folder: Path) -> Model | None:
    try:
        return load(find(folder))
    except FileNotFoundError:
        return None


def _of(events: Iterable[Mapping[str, Any]], *kinds: str) -> list[Mapping[str, Any]]:
    return [event for event in events if event["event"] in kinds]


def _network(events: Sequence[Mapping[str, Any]], model: Model | None) -> str:
    starts = _of(events, "start")
    return str(starts[-1].get("network")) if starts else model.network.name if model else "a run"


# ---- sections ----------------------------------------------------------------------------------------------
def _head(folder: Path, events: Any, model: Model | None, result: Evaluation | None) -> str:
    start, end = (_of(events, kind)[-1:] for kind in ("start", "end"))
    starts, epochs = _of(events, "start"), _of(events, "train")
    about = start[0] if start else {}
    words = []
    if about.get("parameters"):
        words.append(f"{about['parameters']:,} parameters")
    if about.get("devices"):
        ranks = about.get("ranks", 1)
        words.append(
            "on " + ", ".join(about["devices"]) + (f" in each of {ranks} ranks" if ranks > 1 else "")
        )
    if about.get("train_images"):
        words.append(
            f"{about['train_images']:,} training and {about.get('validation_images', 0):,} validation images"
        )
    if starts:
        begun = datetime.fromtimestamp(starts[0]["time"]).astimezone().isoformat(" ", "minutes")
        words.append(f"begun {begun}")
    if len(starts) > 1:
        words.append(f"resumed {len(starts) - 1} time{'s' if len(starts) > 2 else ''}")
    words.append(end[0].get("reason", "ended") if end else "not ended")
    figures = [("epochs", f"{len(epochs)} of {about.get('options', {}).get('epochs', '?')}")]
    validations = [e for e in _of(events, "validation") if e.get("error") is not None]
    if validations:
        best = min(validations, key=lambda e: (e["error"], e.get("loss") or 0))
        figures.append((f"validation error, epoch {best['epoch']}", f"{100 * best['error']:.2f}%"))
    if result is not None:
        seen = f"{len(result):,} images, {result.views} view{'s' if result.views > 1 else ''}"
        figures.append((f"top-1 error, {seen}", f"{100 * result.error:.2f}%"))
        if len(result.classes) > 5:
            figures.append(("top-5 error", f"{100 * result.top5_error:.2f}%"))
    if epochs:
        figures.append(("images/s", f"{epochs[-1].get('images_per_second', 0):,.0f}"))
    boxes = "".join(f'<div><b>{escape(v)}</b><span class="soft">{escape(k)}</span></div>' for k, v in figures)
    warned = "".join(
        f'<p class="warning">{escape(str(e.get("message", "")))}</p>' for e in _of(events, "warning")[-8:]
    )
    return (
        f"<h1>{escape(_network(events, model))}</h1>"
        f'<p class="soft">{escape(str(folder))}: {escape(", ".join(words))}</p>'
        f'<div class="figures">{boxes}</div>{warned}'
    )


def _curves(events: Any) -> str:
    def points(kind: str, name: str, factor: float = 1.0) -> list[tuple[float, float]]:
        return [(e["epoch"], factor * e[name]) for e in _of(events, kind) if e.get(name) is not None]

    marks = [(e["epoch"], _told_set(e)) for e in _of(events, "set")]
    loss = {kind: points(kind, "loss") for kind in ("train", "validation")}
    values = [v for some in loss.values() for _, v in some]
    steep = bool(values) and min(values) > 0 and max(values) > 30 * min(values)
    rates = [(e, v) for e, v in points("train", "lr") if v > 0]
    drawn = [
        charts.lines("loss", loss, log=steep, marks=marks),
        charts.lines(
            "top-1 error",
            {k: points(k, "error", 100) for k in ("train", "validation")},
            marks=marks,
            unit="%",
        ),
        charts.lines("learning rate", {"rate": rates}, log=True, marks=marks),
        charts.lines("images/s", {"speed": points("train", "images_per_second")}),
    ]
    body = "".join(f"<figure>{chart}</figure>" for chart in drawn if chart)
    if not body:
        return '<h2>Curves</h2><p class="soft">No epoch has ended yet.</p>'
    note = '<p class="soft">Dashed: changed by hand.</p>' if marks else ""
    return f'<h2>Curves</h2><div class="two">{body}</div>{note}'


def _told_set(event: Mapping[str, Any]) -> str:
    names = ("lr", "momentum", "weight_decay")
    return f"step {event['step']}: " + ", ".join(f"{n} = {event[n]:g}" for n in names if n in event)


def _filters(model: Model | None) -> str:
    if model is None:
        return ""
    try:
        picture, title = filter_picture(model)
    except ValueError:  # no convolution that sees an image
        return ""
    image = _picture((255 * picture).round().astype(np.uint8))
    return (
        f'<h2>First-layer filters</h2><figure class="filters"><img alt="{escape(title)}" src="{image}">'
        f"<figcaption>{escape(title)}; each scaled from its least to its greatest value</figcaption></figure>"
    )


def _nothing_judged(model: Model | None) -> str:
    if model is None:
        return ""
    return (
        '<h2>Errors</h2><p class="soft">No images were given to evaluate the model on: '
        "<code>pyconvnet report RUN DATA</code>.</p>"
    )


def _judged(model: Model, data: Any, result: Evaluation, mistakes: int) -> list[str]:
    return [_by_class(result), _confusion(result), _mistakes(model, data, result, mistakes)]


def _by_class(result: Evaluation) -> str:
    errors, images = result.class_errors, result.confusion.sum(axis=1)
    order = [int(i) for i in np.argsort(-np.nan_to_num(errors, nan=-1.0), kind="stable") if images[i]]
    shown = order[:_MANY]
    rows = [
        (
            cut(result.classes[i], 22),
            float(errors[i]),
            f"{result.classes[i]}: {round(errors[i] * images[i])} of {images[i]} images wrong",
        )
        for i in shown
    ]
    most = max([float(errors[i]) for i in shown] or [1.0]) or 1.0
    half = -(-len(rows) // 2) if len(rows) > 12 else len(rows)
    drawn = [charts.bars("error by class", some, most=most) for some in (rows[:half], rows[half:])]
    left = len(order) - len(shown)
    note = f'<p class="soft">The {left} classes with lower errors are left out.</p>' if left else ""
    body = "".join(f"<figure>{chart}</figure>" for chart in drawn if chart)
    return f'<h2>Error by class</h2><div class="two">{body}</div>{note}'


def _confusion(result: Evaluation) -> str:
    counts = result.confusion
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    if len(counts) > _MANY:
        return _confusion_picture(result, counts, share)
    head = "".join(f'<th class="column">{escape(cut(name, 20))}</th>' for name in result.classes)
    rows = []
    for i, name in enumerate(result.classes):
        cells = []
        for j, count in enumerate(counts[i]):
            colour = "var(--good)" if i == j else "var(--bad)"
            strength = 100 * share[i, j] ** 0.6
            style = f"background:color-mix(in srgb, {colour} {strength:.0f}%, var(--card))"
            told = f"{name} taken for {result.classes[j]}: {count}, {100 * share[i, j]:.1f}%"
            most = ' class="most"' if strength > 60 else ""
            cells.append(f'<td{most} style="{style}" title="{escape(told)}">{count or ""}</td>')
        rows.append(f'<tr><th class="row">{escape(cut(name, 24))}</th>{"".join(cells)}</tr>')
    return (
        '<h2>Confusion</h2><p class="soft">Rows: the true class; columns: what it was taken for; images.</p>'
        f'<div class="confusion"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _confusion_picture(result: Evaluation, counts: np.ndarray, share: np.ndarray) -> str:
    pixels = (255 * (1 - share**0.5)).round().astype(np.uint8)
    wrong = counts.copy()
    np.fill_diagonal(wrong, 0)
    pairs = [np.unravel_index(k, wrong.shape) for k in np.argsort(-wrong, axis=None, kind="stable")[:20]]
    rows = "".join(
        f"<tr><td>{escape(cut(result.classes[i], 40))}</td><td>{escape(cut(result.classes[j], 40))}</td>"
        f"<td>{wrong[i, j]}</td><td>{100 * share[i, j]:.1f}%</td></tr>"
        for i, j in pairs
        if wrong[i, j]
    )
    return (
        '<h2>Confusion</h2><div class="two"><figure><img class="tiny" style="width:100%" '
        f'alt="confusion matrix" src="{_picture(np.repeat(pixels[..., None], 3, axis=-1))}"><figcaption>'
        f"Rows: the {len(counts)} true classes; columns: what they were taken for; darker is more."
        '</figcaption></figure><table class="pairs"><tr><th>class</th><th>taken for</th><th>images</th>'
        f"<th>of the class</th></tr>{rows}</table></div>"
    )


def _mistakes(model: Model, data: Any, result: Evaluation, most: int) -> str:
    wrong = np.flatnonzero(result.predictions != result.labels)
    worst = wrong[np.argsort(result.true_probabilities[wrong], kind="stable")][:most]
    if not len(worst):
        return "" if not most else '<h2>Worst mistakes</h2><p class="soft">The model makes none.</p>'
    cards = []
    for index, image in zip(worst, matching_data(model, data).read(worst), strict=True):
        true = result.classes[int(result.labels[index])]
        guesses = "".join(
            f'<div class="guess{" right" if c == result.labels[index] else ""}">'
            f'<i style="width:{100 * p:.1f}%"></i><span>{escape(result.classes[c])}</span>'
            f"<span>{100 * p:.1f}%</span></div>"
            for c, p in zip(
                result.top_classes[index].tolist(), result.top_probabilities[index].tolist(), strict=True
            )
        )
        tiny = ' class="tiny"' if image.shape[0] < 100 else ""
        name = escape(result.names[index])
        cards.append(
            f'<div class="card"><img{tiny} alt="{name}" title="{name}" src="{_image(image)}">'
            f'<div class="true">{escape(cut(true, 60))} '
            f'<span class="soft">{100 * result.true_probabilities[index]:.2g}%</span></div>{guesses}</div>'
        )
    return (
        f'<h2>Worst mistakes</h2><p class="soft">Of {len(wrong):,} images taken for another class, those '
        "whose true class, under the picture, the model thought least probable, and its best guesses.</p>"
        f'<div class="cards">{"".join(cards)}</div>'
    )


def _times(events: Any) -> str:
    epochs = [e for e in _of(events, "train") if isinstance(e.get("times"), dict)]
    if not epochs:
        return ""
    whole: dict[str, float] = {}
    for event in epochs:
        for part, seconds in event["times"].items():
            whole[part] = whole.get(part, 0.0) + seconds
    shown = (
        epochs if len(epochs) <= 12 else [epochs[i] for i in np.linspace(0, len(epochs) - 1, 12).astype(int)]
    )
    rows = [("all epochs", whole), *((f"epoch {e['epoch']:g}", e["times"]) for e in shown)]
    steps = max(e["step"] for e in epochs)
    note = (
        f"Training alone, {sum(whole.values()):,.1f} s in {steps:,} steps, on the host's clock: waiting for "
        "data, handing batches to the device, forward, backward and update, checkpoints, all else."
    )
    return f'<h2>Where the time went</h2><p class="soft">{note}</p><figure>{charts.shares(rows)}</figure>'


def _options(events: Any) -> str:
    starts = _of(events, "start")
    if not starts:
        return ""
    rows = "".join(
        f"<tr><th>{escape(name)}</th><td>{escape(cut(str(value), 400))}</td></tr>"
        for name, value in starts[-1].get("options", {}).items()
        if value not in (None, {}, [])
    )
    return f"<h2>Options</h2><table>{rows}</table>"


# ---- pictures ----------------------------------------------------------------------------------------------
def _image(image: np.ndarray) -> str:
    pixels = displayable(image)
    if pixels.dtype != np.uint8:
        pixels = (255 * pixels).round().astype(np.uint8)
    return _picture(pixels, "JPEG" if pixels.shape[0] >= 100 else "PNG")


def _picture(pixels: np.ndarray, kind: str = "PNG") -> str:
    """Return (H, W, 3) uint8 as a data URL."""
    content = io.BytesIO()
    how: dict[str, Any] = {"quality": 88} if kind == "JPEG" else {"optimize": True}
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, kind, **how)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"
