"""A full disk, and whatever else the system refuses: the file is named, what was good stays, and a finished
run ends well.
"""

import errno
import os
import sys
import types
from pathlib import Path

import pytest
from support import make_files as mk
from support.runs import events, go, same_model, toy, toys

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.common import files
from pyconvnet.data import predecode, statistics
from pyconvnet.ops.tuning import cache as caches
from pyconvnet.trained import checkpoint, plots
from pyconvnet.training.log import Log
from pyconvnet.training.loop import Trainer

full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")


# ---- a full disk -------------------------------------------------------------------------------------------
def no_room(monkeypatch, path):
    """Whatever is written to ``path``, or to its temporary file, meets a full disk; a real one, /dev/full."""
    real = open

    def opened(file, mode="r", *args, **options):
        mine = (
            Path(file).parent == path.parent and path.name in Path(file).name
            if isinstance(file, (str, Path))
            else False
        )
        if mine and set(mode) & set("wax"):
            if "x" in mode:
                Path(file).touch()  # as a real temporary file
            return real("/dev/full", mode.replace("x", "w"), *args, **options)
        return real(file, mode, *args, **options)

    monkeypatch.setattr("builtins.open", opened)


def cache_entry():
    texts = {name: name for name in ("card", "capability", "driver", "op", "shape", "precision", "kernel")}
    return caches.Entry(**texts, us=1.0, heuristic="h", heuristic_us=2.0, rows="r", version="1", date="d")


WRITERS = {
    "last.safetensors": lambda path: go(path.parent, epochs=1),
    "best.safetensors": lambda path: go(path.parent, epochs=1),
    "log.jsonl": lambda path: go(path.parent, epochs=1),
    "model.safetensors": lambda path: pcn.save(go(path.parent / "run", epochs=1), path),
    "a.png": lambda path: plots.filters(go(path.parent / "run", epochs=1), path),
    "statistics-*.npz": lambda path: statistics(pcn.ArrayDataset(*toy()), cache=path.parent),
    "images-*.npy": lambda path: predecode(pcn.ArrayDataset(*toy()), path.parent),
    "images-*.json": lambda path: predecode(pcn.ArrayDataset(*toy()), path.parent),
}


@full
@pytest.mark.parametrize("pattern", WRITERS)
def test_a_full_disk_is_told_with_the_files_name(tmp_path, monkeypatch, pattern):
    path = tmp_path / pattern.replace("*", pcn.ArrayDataset(*toy()).fingerprint())
    no_room(monkeypatch, path)
    with pytest.raises(OSError, match=f"No space left.*{path.name}") as caught:
        WRITERS[pattern](path)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(path))
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith((".tmp", ".part", ".lock"))]
    assert not path.exists()


@full
def test_a_full_disk_under_the_tuning_cache_is_a_warning(tmp_path, monkeypatch):
    no_room(monkeypatch, tmp_path / "tuning.json")
    with pytest.warns(RuntimeWarning, match=r"cannot be written \(.*No space left.*tuning.json"):
        caches.Cache(tmp_path / "tuning.json").add(cache_entry())
    assert not list(tmp_path.iterdir())


@full
def test_a_full_disk_under_a_download(tmp_path, monkeypatch):
    """It is not the download that failed."""
    archive = mk.cifar_archive(tmp_path / "c.tar.gz")
    monkeypatch.setattr(os, "fdopen", lambda handle, mode: (os.close(handle), open("/dev/full", mode))[1])  # noqa: SIM115
    with pytest.raises(OSError, match=f"No space left.*{tmp_path / 'x'}") as caught:
        pcn.Cifar10(tmp_path / "x", download=True, url=archive.as_uri())
    assert not isinstance(caught.value, ConnectionError)
    assert not list((tmp_path / "x").iterdir())


@full
@pytest.mark.parametrize("file", ["last.safetensors", "best.safetensors", "log.jsonl"])
def test_a_disk_that_is_full_in_the_middle_of_a_run(tmp_path, monkeypatch, file):
    """The last good checkpoint stays, and when there is room again the run ends in the same bits."""
    real = Trainer._finish_epoch

    def finish(self, *args):
        if self.epoch == 1:
            self.checkpoints.wait()
            no_room(monkeypatch, tmp_path / "run" / file)
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_finish_epoch", finish)
        with pytest.raises(OSError, match=f"No space left.*{file}"):
            go(tmp_path / "run")
        patch.undo()
    monkeypatch.undo()
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["epoch"] == 1
    run = go(tmp_path / "run", resume="auto")
    same_model(run.model, go(tmp_path / "whole").model)
    assert [e["epoch"] for e in events(tmp_path / "run", "train")] == [1, 2, 3]


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_no_half_line_stays_in_the_log(tmp_path):
    """Room for ten more bytes: none is used, and the next line, when there is room, is whole."""
    import resource

    log = Log(tmp_path / "log.jsonl")
    log.write("start", step=0, epoch=0)
    whole = log.path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, hard))
    try:
        with pytest.raises(OSError, match=r"too large.*log.jsonl"):
            log.write("train", step=1, epoch=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert log.path.read_bytes() == whole
    log.write("train", step=1, epoch=1)
    assert [e["event"] for e in events(tmp_path)] == ["start", "train"]


@pytest.mark.parametrize("number", [errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_other_errors_of_the_system_name_the_file(tmp_path, monkeypatch, number):
    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"{os.strerror(number)}.*x.bin") as caught:
        files.write_atomically(tmp_path / "x.bin", b"1")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "x.bin"))
    assert not list(tmp_path.iterdir())


# ---- the last breath ---------------------------------------------------------------------------------------
class Broken(types.ModuleType):
    """A package that is there and does not work."""

    def __getattr__(self, name):
        raise AttributeError(f"a broken matplotlib has no {name}")


def break_log(monkeypatch, out):
    """The log can no longer be written when training is done, nor read."""
    real = Trainer._write_end

    def write_end(self, interrupted):
        (out / "log.jsonl").unlink()
        (out / "log.jsonl").mkdir()
        real(self, interrupted)

    monkeypatch.setattr(Trainer, "_write_end", write_end)


def break_matplotlib(monkeypatch, out):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", Broken("matplotlib.figure"))


LAST = {
    "no room for the curves": lambda patch, out: no_room(patch, out / "curves.png"),
    "a log that cannot be written": break_log,
    "matplotlib is broken": break_matplotlib,
    "the screen is gone": lambda patch, out: patch.setattr(
        "pyconvnet.training.log.Progress.note", lambda self, text: print(1 / (not text.startswith("done")))
    ),
}


@full
@pytest.mark.parametrize("what", LAST)
def test_a_finished_run_is_returned_whatever_fails_then(drawing, tmp_path, monkeypatch, what):
    pytest.importorskip("matplotlib")
    LAST[what](monkeypatch, tmp_path / "run")
    with pytest.warns(RuntimeWarning, match=r"^train: (no curves|the log|the end)"):
        run = go(tmp_path / "run", epochs=1)
    monkeypatch.undo()
    assert [r["epoch"] for r in run.history] == [1]
    same_model(run.model, pcn.load(run.out / "last.safetensors"))


@full
@pytest.mark.parametrize("name", ["curves.png", "filters.png", "predictions.png"])
def test_the_command_line_ends_well_without_pictures(drawing, tmp_path, monkeypatch, capsys, name):
    pytest.importorskip("matplotlib")
    typed = [*toys(tmp_path), "--validation", "0.5", "--epochs", "1", "--quiet"]
    no_room(monkeypatch, tmp_path / name)
    with pytest.warns(RuntimeWarning, match=f"No space left.*{name}"):
        assert main(["train", *typed, "--out", str(tmp_path)]) == 0
    written = {"curves.png", "filters.png", "predictions.png"} - {name}
    assert {p.name for p in tmp_path.glob("*.png")} == written
    output = capsys.readouterr().out
    assert all(str(tmp_path / picture) in output for picture in written)
    assert output.endswith(f"model: {tmp_path / 'best.safetensors'}\n")
