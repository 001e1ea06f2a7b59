"""One run on the digits, shared by every test that only needs a trained model and its folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyconvnet as pcn
from support.once import once

ROOT = Path(pcn.__file__).resolve().parents[1]  # where the package under test lies


def shell(*arguments, cwd, **options):
    """The command line in a process of its own, as a Popen with both outputs as text."""
    return subprocess.Popen(
        [sys.executable, "-m", "pyconvnet", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


def _train(folder):
    folder.mkdir()
    output, errors = (process := shell("train", "--epochs", "8", cwd=folder)).communicate(timeout=300)
    assert process.returncode == 0, errors
    (folder / "said.txt").write_text(output)


@pytest.fixture
def digits_run(tmp_path_factory):
    """The folder of a run of eight epochs, made by the command line without a word but ``--epochs``; not to
    be written to. What it printed is in ``said.txt``, two folders up.
    """
    for module in ("sklearn", "matplotlib"):
        pytest.importorskip(module)
    return once(tmp_path_factory, "digits", _train) / "runs" / "digits"
