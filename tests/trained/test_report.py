"""The page about a run: in a real browser it draws, complains of nothing and fetches nothing."""

import html
import json
import re

import numpy as np
import pytest
from support.browser import browser, need_browser
from support.runs import events, go, toy

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.trained import charts
from pyconvnet.trained.report import report
from pyconvnet.training.changes import request

NAMES = ["<b>a</b>", 'q"uote & co', "ccc", "d" * 60]


@pytest.fixture
def data():
    x, y = toy(60, seed=3)
    return pcn.ArrayDataset(x, y, classes=NAMES)


@pytest.fixture
def run(tmp_path):
    x, y = toy()
    out = tmp_path / "run"
    go(out, data=pcn.ArrayDataset(x, y, classes=NAMES), epochs=2)
    request(out, lr=0.001)
    return go(out, data=pcn.ArrayDataset(x, y, classes=NAMES), epochs=4, resume=True)


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_in_a_browser(run, data):
    need_browser()
    path = report(run, data, views=1)
    with browser() as page:
        page.open("data:text/html,<script>console.error('heard');fetch('http://127.0.0.1:9/seen')</script>")
        assert any("heard" in line for line in page.console())  # it hears and sees
        assert any("127.0.0.1:9/seen" in url for url in page.requests())
        page.open(path.as_uri())
        assert page.console() == []
        fetched = page.requests()
        assert [url for url in fetched if not url.startswith("data:")] == [path.as_uri()]
        headings = page.run("[...document.querySelectorAll('h2')].map(e => e.textContent)")
        assert headings == ["Curves", "First-layer filters", "Error by class", "Confusion", "Worst mistakes",
                            "Where the time went", "Options"]  # fmt: skip
        size = "e => e.getBoundingClientRect().width > 100 && e.getBoundingClientRect().height > 50"
        assert page.run(f"[...document.querySelectorAll('svg')].map({size})") == [True] * 6
        loaded = page.run("[...document.images].map(e => e.complete && e.naturalWidth > 0)")
        assert loaded
        assert all(loaded)
        assert page.run("document.querySelectorAll('polyline.train').length") == 2
        assert page.run("document.querySelector('polyline.train').points.length") == 4
        assert page.run("document.documentElement.scrollWidth <= window.innerWidth")
        assert page.run("document.querySelectorAll('b').length") == page.run(
            "document.querySelectorAll('.figures b').length"
        )  # names of classes are text


def test_what_it_says(run, data):
    path = report(run, data, views=1)
    assert path == run.out / "report.html"
    page = text_of(path)
    result = pcn.evaluate(pcn.load(run.out), data, 1)
    assert f"{100 * result.error:.2f}%" in page
    assert html.escape(NAMES[0]) in page
    assert NAMES[0] not in page
    wrong = np.flatnonzero(result.predictions != result.labels)
    assert page.count('class="card"') == min(12, len(wrong)) > 0
    assert "resumed 1 time, done" in page
    assert "step 8: lr = 0.001" in page
    shares = re.findall(r"<title>data: ([\d.e+-]+) s, ([\d.]+)%</title>", page)
    whole = [sum(e["times"].values()) for e in events(run.out, "train")]
    waited = [e["times"]["data"] for e in events(run.out, "train")]
    assert float(shares[0][1]) == pytest.approx(100 * sum(waited) / sum(whole), abs=0.02)
    assert len(shares) == 1 + 4
    confusion = re.search(r'<div class="confusion">(.*?)</div>', page)[1]
    cells = [int(c or 0) for c in re.findall(r"<td[^>]*>(\d*)</td>", confusion)]
    assert cells == result.confusion.reshape(-1).tolist()


def test_the_worst_come_first(run, data):
    page = text_of(report(run, data, views=1, mistakes=3))
    result = pcn.evaluate(pcn.load(run.out), data, 1)
    wrong = np.flatnonzero(result.predictions != result.labels)
    worst = wrong[np.argsort(result.true_probabilities[wrong], kind="stable")][:3]
    assert re.findall(r'class="card"><img[^>]* title="(\d+)"', page) == [str(i) for i in worst]


def test_nothing_outside_is_named(run, data):
    page = text_of(report(run, data, views=1))
    assert "http-equiv" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert not re.search(r"url\(|@import|<script|https?://", page)


def test_without_data_and_without_an_epoch(tmp_path):
    run = go(tmp_path / "run", epochs=1)
    page = text_of(report(run.out))
    assert "No images were given" in page
    assert "Worst mistakes" not in page
    log = run.out / "log.jsonl"
    start = log.read_text().splitlines()[0]
    log.write_text(start + "\n")
    assert "No epoch has ended yet" in text_of(report(run.out))
    for name in ("best", "last"):
        (run.out / f"{name}.safetensors").unlink()
    assert "First-layer" not in text_of(report(run.out))
    with pytest.raises(ValueError, match="holds no model yet"):
        report(run.out, toy())


def test_many_classes(tmp_path):
    """The confusion is a picture then, and of the classes the worst are shown."""
    x, y = toy(130)
    y = np.arange(130) % 65
    net = (
        pcn.Network("wide", (8, 8, 3))
        .add(pcn.layers.Linear(65), "fc")
        .add(pcn.layers.SoftmaxCrossEntropy(), "loss")
    )
    run = go(tmp_path / "run", net, (x, y), epochs=1, validation=False)
    page = text_of(report(run, (x, y), views=1))
    assert 'alt="confusion matrix"' in page
    assert "The 25 classes with lower errors are left out." in page
    assert "First-layer filters" not in page


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mistakes": -1}, ValueError, "mistakes must be at least 0"),
        ({"path": "a.pdf"}, ValueError, "must end in .html, got a.pdf"),
        ({"views": 3}, ValueError, "views must be 1 or 10"),
    ],
)
def test_bad_options(run, data, options, error, message):
    with pytest.raises(error, match=message):
        report(run, data, **options)


def test_no_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such log"):
        report(tmp_path)


def test_the_command(run, tmp_path, capsys):
    x, y = toy(40, seed=3)
    np.savez(tmp_path / "d.npz", x=x, y=y, classes=NAMES)
    typed = ["-o", str(tmp_path / "r.html"), "--views", "1", "--mistakes", "2"]
    assert main(["report", str(run.out), str(tmp_path / "d.npz"), *typed]) == 0
    assert f"wrote {tmp_path / 'r.html'}" in capsys.readouterr().out
    assert 0 < text_of(tmp_path / "r.html").count('class="card"') <= 2
    assert main(["report", str(run.out), *typed]) == 0  # no data goes with the net
    assert "No images were given" in text_of(tmp_path / "r.html")


# ---- charts ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 97, [0, 20, 40, 60, 80]), (3, 3, [3]), (1, 8, [2, 4, 6, 8])],
)
def test_ticks_are_round(low, high, expected):
    assert charts.ticks(low, high) == pytest.approx(expected)


def test_lines_lie_where_their_values_are():
    chart = charts.lines("t", {"train": [(1, 4.0), (2, 2.0), (3, 0.0)]}, unit="%")
    points = re.search(r'points="([^"]*)"', chart)[1]
    places = [tuple(map(float, p.split(","))) for p in points.split()]
    (x1, y1), (x2, y2), (x3, y3) = places
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2)
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.2)
    assert y1 < y2 < y3  # downwards is less
    assert charts.lines("t", {"train": []}) == charts.shares([]) == charts.bars("t", []) == ""


def test_a_logarithmic_axis():
    chart = charts.lines("t", {"rate": [(1, 0.1), (2, 0.01), (3, 0.001)]}, log=True)
    places = [tuple(map(float, p.split(","))) for p in re.search(r'points="([^"]*)"', chart)[1].split()]
    assert places[1][1] - places[0][1] == pytest.approx(places[2][1] - places[1][1], abs=0.2)
    assert all(f">{label}<" in chart for label in ("0.1", "0.01", "0.001"))


def test_the_log_may_hold_anything(tmp_path):
    """Nulls for what was not finite, events of later versions."""
    lines = [
        {"event": "start", "time": 1, "step": 0, "network": "n", "options": {"epochs": 2}},
        {"event": "train", "time": 2, "step": 4, "epoch": 1, "lr": 0.1, "loss": None, "error": 0.5},
        {"event": "new", "time": 2},
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = text_of(report(tmp_path))
    assert 'aria-label="top-1 error"' in page
    assert 'aria-label="loss"' not in page
