"""benchmarks/new_head.py runs, and says which was better."""

import importlib
import json

import numpy as np
from support import ROOT
from support import make_files as mk


def test_the_script_on_a_few_pictures(tmp_path, monkeypatch, capsys):
    mk.image_folder(tmp_path / "data" / "train", ("ant", "bee", "cat", "dog"), count=4, height=80, width=90)
    mk.image_folder(tmp_path / "data" / "val", ("ant", "bee", "cat", "dog"), count=2, height=80, width=90)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    script = importlib.import_module("new_head")
    monkeypatch.setattr(script, "WIDTH", 0.03)
    words = ["--epochs", "1", "--new-epochs", "1", "--seeds", "0", "--json", str(tmp_path / "rows.json")]
    monkeypatch.setattr("sys.argv", ["new_head.py", "--data", str(tmp_path / "data"), *words])
    script.main()
    document = json.loads((tmp_path / "rows.json").read_text())
    kinds = ["first classes", "new head", "from scratch"]
    assert [run["run"] for run in document["runs"]] == kinds * 2
    assert [run["other"] for run in document["runs"][::3]] == [["ant", "bee"], ["cat", "dog"]]
    for kind, errors in document["validation_error"].items():
        each = [r["rows"][0]["validation_error"] for r in document["runs"] if r["run"] == kind]
        assert errors == [sum(each) / 2]
    ((new,), (scratch,)) = (document["validation_error"][kind] for kind in kinds[1:])
    assert list(document["verdicts"].values()) == [new < scratch] * 2
    assert "validation error by epoch" in capsys.readouterr().out


def test_the_committed_rows():
    """Recomputed from every epoch's row: five pairs of classes, three seeds."""
    document = json.loads((ROOT / "benchmarks" / "results" / "new-head-cpu.json").read_text())
    assert len(document["runs"]) == 5 * 3 * 3

    def errors(kind, seed):
        runs = [run for run in document["runs"] if (run["run"], run["seed"]) == (kind, seed)]
        assert len({tuple(run["other"]) for run in runs}) == 5
        return np.mean([[row["validation_error"] for row in run["rows"]] for run in runs], axis=0)

    for seed in sorted({run["seed"] for run in document["runs"]}):
        new, scratch = errors("new head", seed), errors("from scratch", seed)
        assert new[2] < scratch[2] - 0.05  # after three epochs, for every seed
        assert new.mean() < scratch.mean()
