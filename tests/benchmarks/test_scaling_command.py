"""Scaling on paper: the command line, the committed predictions and their pictures."""

from __future__ import annotations

import json
import shlex

import pytest
from support import ROOT
from test_scaling_model import FOLDER, RESULTS, folder, h200, part  # noqa: F401 (a fixture that each test uses)

from pyconvnet import models


def test_command_line(tmp_path, capsys):
    net = tmp_path / "net.json"
    net.write_text(json.dumps(models.build("digits").to_dict()))
    words = ["--network", str(net), "--gpus", "1,2,8", "--strategy", "data", "model", "--inside", "perfect"]
    words += ["--tflops", "10", "--memory-gbps", "500", "--overhead-us", "2", "--between-us", "7"]
    part("scaling_model").main([*words, "--json", str(tmp_path / "new" / "out.json")])
    out = capsys.readouterr().out
    assert out.startswith("Predicted by a model; nothing here was measured")
    result = json.loads((tmp_path / "new" / "out.json").read_text())
    assert result["kind"] == "prediction"
    given = result["inputs"]
    assert (given["gpu"]["flops"], given["gpu"]["bytes_per_second"], given["gpu"]["overhead_s"]) == (
        1e13,
        5e11,
        2e-6,
    )
    assert given["between"]["latency_s"] == 7e-6
    assert given["inside"]["bytes_per_second"] == "infinite"
    assert len(result["rows"]) == 2 * 2 * 3
    first = next(r for r in result["rows"] if r["gpus"] == 1)
    assert f"{first['images_per_second']:,.0f} 100%" in out


def test_what_cannot_be_had_is_a_row_with_a_reason():
    strategies = part("strategies")
    rows = part("scaling_model").sweep(h200(), [strategies.Strategy("model")], [64, 128], ["weak"])
    assert [row["images_per_second"] is None for row in rows] == [False, True]
    assert "cannot be split over 128 GPUs" in rows[1]["reason"]
    assert "-" in part("scaling_model").table(rows, "weak").splitlines()[-1]


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_committed_predictions_are_those_of_the_model(path):
    model = part("scaling_model")
    saved = json.loads(path.read_text())
    words = shlex.split(saved["command"])[2:]
    fresh, _ = model.run(model.parser().parse_args(words), saved["command"])
    fresh = json.loads(model.dumps(fresh))
    assert fresh["inputs"] == saved["inputs"]
    assert len(fresh["rows"]) == len(saved["rows"])
    for new, old in zip(fresh["rows"], saved["rows"], strict=True):
        for key, value in old.items():
            assert new[key] == (pytest.approx(value, rel=1e-4) if isinstance(value, dict | float) else value)
    assert saved["command"] in (ROOT / "docs" / "scaling.md").read_text()


@pytest.mark.parametrize(
    ("name", "scaling"),
    [("h200-fp32", "weak"), ("h200-fp32", "strong"), ("a100-eth25", "weak")],
)
def test_the_documents_tables_are_the_committed_ones(name, scaling):
    rows = json.loads((FOLDER / "results" / f"scaling-{name}.json").read_text())["rows"]
    shown = [row for row in rows if row["gpus"] in (2, 4, 8, 64, 1024)]
    assert part("scaling_model").table(shown, scaling) in (ROOT / "docs" / "scaling.md").read_text()


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    from PIL import Image

    model = part("scaling_model")
    wide = ["--scaling", "strong", "--gpus", "1,8,128", "--strategy", "model", "hybrid:split=8,batch=128"]
    for name, words in (("wide", wide), ("check", ["--one-weird-trick"])):
        path = tmp_path / f"{name}.png"
        model.main([*words, "--png", str(path)])
        with Image.open(path) as image:
            assert image.width > 1000
            assert len(image.convert("RGB").getcolors(1 << 24)) > 50  # something was drawn
