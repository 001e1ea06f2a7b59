"""Plots: PNGs that show what they should, checked on their pixels where that can be done."""

import json

import numpy as np
import pytest
from PIL import Image

import pyconvnet as pcn
from pyconvnet.layers import Conv2d, Linear, SoftmaxCrossEntropy
from pyconvnet.trained import plots

pytest.importorskip("matplotlib")


def model(channels=3, filters=6, kernel=5, image=12):
    net = pcn.Network("small", (image, image, channels))
    net.add(Conv2d(filters, kernel, activation="relu"), "conv1").add(Conv2d(4, 1), "point")
    net.add(Linear(3), "fc").add(SoftmaxCrossEntropy(), "loss")
    rng = np.random.default_rng(1)
    parameters = {n: rng.standard_normal(p.shape).astype(np.float32) for n, p in net.parameters().items()}
    pre = pcn.Preprocessing((image, image, channels), None, np.full(channels, 128, np.float32), 0.01)
    return pcn.Model(net, parameters, pre, ["ant", "bee", "a class with quite a long name"])


def arrays(channels=3, count=20):
    rng = np.random.default_rng(2)
    return rng.integers(0, 256, (count, 12, 12, channels), dtype=np.uint8), rng.integers(0, 3, count)


def pixels(path):
    image = Image.open(path)
    assert image.format == "PNG"
    assert min(image.size) > 150
    return np.asarray(image.convert("RGB")).astype(int)


def near(picture, colour, by=12):
    return (np.abs(picture - colour).max(axis=-1) <= by).sum()


def log(folder, epochs=5, validation=True, rates=True):
    folder.mkdir(exist_ok=True)
    lines = [{"event": "start", "network": "tiny", "epoch": 0}]
    for e in range(1, epochs + 1):
        lr = 0.01 if e < 4 or not rates else 0.001
        lines.append({"event": "progress", "epoch": e - 0.5, "loss": 99.0})
        lines.append({"event": "train", "epoch": e, "loss": 2.0 / e, "error": 0.8 / e, "lr": lr})
        if validation:
            lines.append({"event": "validation", "epoch": e, "loss": 2.2 / e, "error": 0.9 / e})
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


CRIMSON, GREEN, CORAL = (220, 20, 60), (46, 139, 87), (240, 128, 128)


def test_training_curves(tmp_path):
    folder = log(tmp_path / "run")
    path = plots.training_curves(folder)
    assert path == folder / "curves.png"
    with_validation = pixels(path)
    assert near(with_validation, CRIMSON) > 300
    assert near(with_validation, (204, 204, 204), 3) > 300  # the line where the rate changes
    without = pixels(
        plots.training_curves(log(folder, validation=False, rates=False), tmp_path / "deep" / "c.png")
    )
    assert near(without, CRIMSON) == 0
    assert near(without, (0, 0, 0)) > 300
    assert not list(folder.glob(".*"))  # no temporary files


def test_training_curves_of_a_run_being_killed(tmp_path):
    folder = log(tmp_path / "run", epochs=2)
    with open(folder / "log.jsonl", "a") as file:
        file.write('{"event": "train", "epo')
    assert len(plots.read_log(folder / "log.jsonl")["train"]) == 2
    plots.training_curves(folder / "log.jsonl")


def test_a_loss_that_is_not_finite_leaves_a_gap(tmp_path):
    folder = log(tmp_path / "run", epochs=2)
    with open(folder / "log.jsonl", "a") as file:
        file.write(json.dumps({"event": "train", "epoch": 3, "loss": None, "error": None, "lr": 0.01}) + "\n")
    assert pixels(plots.training_curves(folder)).size


def test_filters_are_drawn_one_by_one_and_scaled(tmp_path):
    m = model()
    picture = pixels(plots.filters(m, tmp_path / "f.png"))
    w = m.parameters["conv1.weight"]
    low, high = w.min(axis=(1, 2, 3), keepdims=True), w.max(axis=(1, 2, 3), keepdims=True)
    colours = np.rint(255 * (w - low) / (high - low)).reshape(-1, 3)
    assert len(colours) == 6 * 25
    shown = np.unique(picture.reshape(-1, 3), axis=0)
    for colour in colours:
        assert np.abs(shown - colour).max(axis=1).min() <= 2, colour


@pytest.mark.parametrize(("channels", "filters"), [(1, 32), (2, 3), (4, 5), (3, 96), (9, 4)])
def test_filters_of_any_number_of_channels(tmp_path, channels, filters):
    picture = pixels(plots.filters(model(channels, filters), tmp_path / "f.png"))
    if channels != 3:
        assert (picture.std(axis=-1) < 1).mean() > 0.4  # grey, but for what is between the filters


def test_a_constant_filter_is_no_division_by_zero(tmp_path):
    m = model()
    m.parameters["conv1.weight"][2] = 0.5
    pixels(plots.filters(m, tmp_path / "f.png"))


@pytest.mark.parametrize("channels", [1, 3])
def test_predictions_show_the_truth_in_green(tmp_path, channels):
    m = model(channels)
    x, y = arrays(channels)
    right = np.array([pcn.predict(m, image)[0][0] for image in x])
    y = np.array([m.classes.index(name) for name in right])
    picture = pixels(plots.predictions(m, (x, y), tmp_path / "p.png", count=3))
    assert near(picture, GREEN) > near(picture, CORAL)  # the true class is the most probable one everywhere
    wrong = (y + 1) % 3
    picture = pixels(plots.predictions(m, (x, wrong), tmp_path / "p.png", count=3))
    assert near(picture, GREEN) < near(picture, CORAL)
    assert near(picture, CRIMSON, 4) > 20
    with pytest.raises(ValueError, match="makes no error"):
        plots.predictions(m, (x, y), tmp_path / "q.png", only_errors=True)
    y[7] = wrong[7]
    picture = pixels(plots.predictions(m, (x, y), tmp_path / "q.png", only_errors=True))
    assert picture.shape[1] < 400  # one image only


def test_predictions_of_float_images(tmp_path):
    x, y = arrays()
    pixels(plots.predictions(model(), (x / 255.0 - 0.5, y), tmp_path / "p.png", count=5, views=10))


def test_confusion(tmp_path):
    x, y = arrays(count=60)
    result = pcn.evaluate(model(), (x, y), 1)
    picture = pixels(plots.confusion(result, tmp_path / "c.png"))
    assert picture.shape[0] > 300
    result.predictions[:] = result.labels
    diagonal = pixels(plots.confusion(result, tmp_path / "c.png"))
    assert near(diagonal, (8, 48, 107), 6) > 3000  # three full squares


def test_confusion_of_many_classes(tmp_path):
    n = 150
    labels = np.arange(n, dtype=np.int32)
    result = pcn.Evaluation(0, 0, 0, 1, [f"class {i}" for i in range(n)], labels, labels, 0, {})
    pixels(plots.confusion(result, tmp_path / "c.png"))


def no_log(tmp):
    (tmp / "log.jsonl").write_text('{"event": "start"}\nrubbish\n{"event": "end"}\n')
    return tmp


BAD = [
    ("no run", lambda t: plots.training_curves(t / "nope"), FileNotFoundError, "no such log"),
    ("folder without log", lambda t: plots.training_curves(t), FileNotFoundError, "no such log"),
    ("a number", lambda t: plots.training_curves(3), TypeError, "Run, a folder or a log.jsonl"),
    ("damaged log", lambda t: plots.training_curves(no_log(t)), ValueError, "line 2: not a log record"),
    ("no epoch", lambda t: plots.training_curves(log(t / "r", epochs=0)), ValueError, "no finished epoch"),
    ("jpg", lambda t: plots.training_curves(log(t / "r"), t / "c.jpg"), ValueError, "must end in .png"),
    (
        "layer",
        lambda t: plots.filters(model(), t / "f.png", "conv9"),
        ValueError,
        "one of conv1, point, got 'conv9'",
    ),
    ("1x1", lambda t: plots.filters(model(), t / "f.png", "point"), ValueError, "1x1"),
    ("model", lambda t: plots.filters("nope.safetensors", t / "f.png"), FileNotFoundError, "no such file"),
    (
        "count 0",
        lambda t: plots.predictions(model(), arrays(), t / "p.png", count=0),
        ValueError,
        "count must be",
    ),
    (
        "count",
        lambda t: plots.predictions(model(), arrays(), t / "p.png", count="8"),
        ValueError,
        "count must be",
    ),
    ("data", lambda t: plots.predictions(model(), arrays(1), t / "p.png"), ValueError, "model's shape"),
    ("confusion", lambda t: plots.confusion(model(), t / "c.png"), TypeError, "what evaluate"),
    (
        "folder a file",
        lambda t: plots.training_curves(log(t / "r"), t / "r" / "log.jsonl" / "c.png"),
        OSError,
        "File exists|Not a dir",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*c[1:], id=c[0]) for c in BAD])
def test_bad_input(call, error, message, tmp_path):
    with pytest.raises(error, match=message):
        call(tmp_path)


def test_a_network_without_convolutions_has_no_filters(tmp_path):
    net = pcn.Network("flat", (4,)).add(Linear(2), "fc").add(SoftmaxCrossEntropy(), "loss")
    values = {n: np.zeros(p.shape, np.float32) for n, p in net.parameters().items()}
    stub = pcn.Network("flat", (2, 2, 1)).add(Linear(2), "fc").add(SoftmaxCrossEntropy(), "loss")
    m = pcn.Model(stub, values, pcn.Preprocessing((2, 2, 1)))
    with pytest.raises(ValueError, match="has no convolution"):
        plots.filters(m, tmp_path / "f.png")


def test_without_matplotlib_the_message_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "pyconvnet\[plots\]"'):
        plots.training_curves(log(tmp_path / "r"))
