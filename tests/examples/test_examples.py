"""Every script under ``examples/`` runs as it is, on the machine's processor."""

import re
import runpy
import sys

import pytest
from support import ROOT
from support import make_files as mk
from support.quick import quick  # noqa: F401

import pyconvnet as pcn
from pyconvnet import models

SCRIPTS = {path.stem for path in (ROOT / "examples").glob("*.py")}
CLASSES = ("ant", "bee", "cat")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run a script in a folder of its own; what it prints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return call


@pytest.fixture
def photographs(tmp_path):
    """A network that tells three kinds of photographs apart, and a folder of two others."""
    net = models.alexnet(len(CLASSES), input_size=67, width=0.03)
    known = mk.image_folder(tmp_path / "known", CLASSES, count=4, height=80, width=70)
    run = pcn.train(
        net, known, image_size=70, epochs=1, batch_size=4, validation=False, schedule="constant", workers=0,
        augment={"crop": 67}, devices="cpu", progress=False, out=tmp_path / "first",
    )  # fmt: skip
    own = mk.image_folder(tmp_path / "own", ("dog", "elk"), count=5, height=70, width=80)
    return run.out / "last.safetensors", own


def test_digits(run):
    printed = run("digits")
    assert float(re.search(r"error ([\d.]+)% \(top-1\)", printed)[1]) < 5
    assert printed.count("[('") == 5


def test_own_photographs(run, photographs):
    printed = run("own_photographs", *photographs, 1)
    assert "2 classes: dog, elk" in printed
    assert "validation error" in printed


def test_nearest_neighbours(run, photographs, tmp_path):
    pytest.importorskip("matplotlib")
    printed = run("nearest_neighbours", *photographs, 2)
    assert printed.count(" -> ") == 2
    assert (tmp_path / "neighbours.png").stat().st_size > 1000
    for line in printed.splitlines():
        query, others = line.split(" -> ")
        assert query not in others.split(", ")
        assert len(set(others.split(", "))) == 4


def test_torch_kernels(run):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    printed = run("torch_kernels")
    assert float(re.search(r"largest difference ([\d.e-]+)", printed)[1]) < 1e-5
    losses = [float(text) for text in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("device", ["cpu", pytest.param("emulator", marks=pytest.mark.slow)])
def test_two_devices(run, device):
    printed = run("two_devices", device, device)
    assert float(re.search(r"largest difference of a parameter .*: ([\d.e-]+)", printed)[1]) < 1e-4


def test_every_script_is_run_and_named():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert not SCRIPTS - tested
    readme = (ROOT / "README.md").read_text()
    for script in SCRIPTS:
        assert f"examples/{script}.py" in readme
        assert f"python examples/{script}.py" in (ROOT / "examples" / f"{script}.py").read_text()
