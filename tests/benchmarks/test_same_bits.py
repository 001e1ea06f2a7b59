"""The script that compares two trees finds that a tree equals itself, and sees a last bit that changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASE = "other operations, cpu, float32"
CHANGE = """
import numpy as np
_lrn = lrn
def lrn(*args, **kwargs):
    y, scale = _lrn(*args, **kwargs)
    y.flat[-1] = np.nextafter(y.flat[-1], np.float32(9))
    return y, scale
"""


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """The package twice, without compiled kernels: as it is, and with one bit of one operation changed.

    Of the cpu device's, which an editable install would find elsewhere, it has what is there.
    """
    found = [tmp_path_factory.mktemp(name) for name in ("same", "changed")]
    for tree in found:
        ignored = shutil.ignore_patterns("_emulator*.so", "_cuda*.so", "__pycache__")
        shutil.copytree(ROOT / "pyconvnet", tree / "pyconvnet", ignore=ignored)
    with (found[1] / "pyconvnet" / "ops" / "__init__.py").open("a") as file:
        file.write(CHANGE)
    return found


def compare(*trees: Path, only: str = CASE, record: Path | None = None) -> subprocess.CompletedProcess:
    words = [sys.executable, str(ROOT / "benchmarks" / "same_bits.py"), "--built", *map(str, trees)]
    words += ["--only", only, *(("--json", str(record)) if record else ())]
    return subprocess.run(words, capture_output=True, text=True)


def test_a_changed_bit_is_found(trees, tmp_path):
    same, changed = trees
    done = compare(same, changed, record=tmp_path / "sums.json")
    assert done.returncode == 1, done.stderr
    *lines, closing = (line for line in done.stdout.splitlines()[1:] if line)
    assert len(lines) > 20
    assert [line for line in lines if not line.endswith(("  same", "  DIFFERENT"))] == []
    assert {line.removeprefix(CASE).split()[0] for line in lines if line.endswith("DIFFERENT")} == {
        "lrn",
        "lrn_backward",  # reads what lrn wrote
    }
    assert closing.endswith("NOT ALL THE SAME")
    record = json.loads((tmp_path / "sums.json").read_text())
    assert not record["same"]
    before, after = (record["sums"][side][CASE] for side in ("before", "after"))
    assert before["relu"] == after["relu"]
    assert len(before["lrn"]) == 64
    assert before["lrn"] != after["lrn"]


def test_a_tree_equals_itself(trees):
    done = compare(trees[0], trees[0])
    assert done.returncode == 0, done.stderr
    assert "DIFFERENT" not in done.stdout
    assert done.stdout.endswith("1 cases: all the same\n")


def test_what_cannot_be_run_is_no_agreement(trees):
    done = compare(trees[0], trees[0], only="other operations, emulator, float32")  # it has no emulator
    assert done.returncode == 1
    assert "DeviceUnavailableError" in done.stdout or "was loaded from" in done.stdout  # another's, installed


def test_the_training_cases_cover_weights_momenta_losses_and_predictions(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import same_bits
    import same_bits_cases

    folder = same_bits.make_cifar(tmp_path / "cifar", 20)
    case = same_bits_cases.cases(folder, 20)["80sec, cpu"]
    sums = case()
    assert set(sums) == {"weights", "momenta", "state", "losses", "predictions"}
    assert sums == case()
    assert len(set(sums.values())) == len(sums)
