"""What README prints works as printed: its lines on AlexNet, run on a few photographs."""

import importlib
import re

import pytest
from support import ROOT
from support import make_files as mk
from support.runs import events

import pyconvnet as pcn
from pyconvnet import models
from pyconvnet.cli.main import main

README = ROOT / "README.md"
CLASSES = ("ant", "bee", "cat")


def alexnet_lines():
    """The lines that train, evaluate, predict with and load AlexNet."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    block = next(b for b in blocks if "pcn.train" in b)
    return [
        line for line in block.splitlines() if re.search(r"alexnet|pcn\.(evaluate|predict|load)|import", line)
    ]


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    mk.image_folder(tmp_path / "imagenet" / "train", CLASSES, count=5, height=60, width=80)
    mk.image_folder(tmp_path / "imagenet" / "val", CLASSES, count=1, height=80, width=60)
    mk.photo(1).save(tmp_path / "cat.jpg")
    monkeypatch.chdir(tmp_path)


def reduced(classes=1000):
    """AlexNet's graph and recipe in small, for one epoch."""
    net = models.alexnet(classes, input_size=67, width=0.03)
    net.recipe.update(epochs=1, batch_size=4)
    return net


@pytest.mark.parametrize("device", ["cpu", "emulator"])
def test_the_alexnet_lines_work(photographs, tmp_path, monkeypatch, device):
    monkeypatch.setitem(models._MODELS, "alexnet", reduced)
    monkeypatch.setattr(importlib.import_module("pyconvnet.training.train"), "_workers", lambda *_: 0)
    lines = alexnet_lines()
    assert len(lines) >= 6
    text = "\n".join(lines).replace("/data/", f"{tmp_path}/")
    text = re.sub(r"cuda:\d", device, text)
    names, values = {}, {}
    for line in text.splitlines():
        if match := re.match(r"pcn\.(\w+)\(", line):
            values[match[1]] = eval(line, names)
        else:
            exec(line, names)
    first, second = tmp_path / "runs" / "alexnet", tmp_path / "runs" / "alexnet-2"
    assert events(first, "start")[0]["validation_images"] == 3
    assert events(second, "start")[0]["devices"] == [device, device]
    assert events(second, "start")[0]["validation_images"] == 3  # a tenth, of five a class one
    assert (len(values["evaluate"]), values["evaluate"].views) == (3, 10)
    assert [sorted(name for name, _ in guess) for guess in values["predict"]] == [list(CLASSES)]
    assert names["model"].classes == list(CLASSES)


def test_a_tenth_is_held_out_where_the_recipe_asks_for_it_and_said(photographs, tmp_path, capsys):
    net = reduced(3)
    how = {"workers": 0, "devices": "cpu", "batch_size": 5}
    with pytest.warns(UserWarning, match=r"3 of 15 training images are held out \(validation=0\.1\)"):
        run = pcn.train(net, "imagenet/train", out="a", progress=False, **how)
    start, note = events(run.out, "start")[0], events(run.out, "note")[0]
    assert (start["train_images"], start["validation_images"], start["options"]["validation"]) == (12, 3, 0.1)
    assert "3 of 15 training images are held out" in note["text"]
    assert run.history[0]["validation_error"] is not None
    # The run goes on with the same images held out, though nothing is said of them.
    again = pcn.train(net, "imagenet/train", out="a", progress=False, epochs=2, resume=True, **how)
    assert len(again.history) == 2
    # The very images that validation=0.1 holds out.
    asked = pcn.train(net, "imagenet/train", validation=0.1, out="b", progress=False, **how)
    assert asked.history[0]["validation_loss"] == run.history[0]["validation_loss"]
    assert not events(asked.out, "note")
    pcn.train(net, "imagenet/train", out="c", progress=True, **how)
    assert "3 of 15 training images are held out" in capsys.readouterr().out
    # What is asked for is not guessed.
    constant = pcn.train(net, "imagenet/train", schedule="constant", out="d", progress=False, **how)
    assert events(constant.out, "start")[0]["validation_images"] == 0
    for given in ({"validation": False}, {"schedule": "plateau"}):
        with pytest.raises(ValueError, match=r"give validation=0\.1 .*or another schedule"):
            pcn.train(net, "imagenet/train", out="e", progress=False, **given, **how)
    few = ([mk.photo(i, 67, 67) for i in range(3)], [0, 1, 2])
    with pytest.raises(ValueError, match="no tenth of the images can be held out"):
        pcn.train(net, few, out="e", progress=False, devices="cpu")


def test_the_command_line_holds_out_too(photographs, tmp_path, capsys):
    typed = "train alexnet imagenet/train --option width=0.03 --option input_size=67 --augment crop=67 "
    typed += "--workers 0 --epochs 1 --batch-size 5 --device cpu --quiet --out r"
    with pytest.warns(UserWarning, match="held out"):
        assert main(typed.split()) == 0
    assert events(tmp_path / "r", "start")[0]["validation_images"] == 3
    assert main([*typed.split(), "--resume"]) == 0
    capsys.readouterr()
    assert main([*typed.replace("--out r", "--out s --validation none").split()]) == 2
    assert "give validation=0.1" in capsys.readouterr().err
