"""A run's folder: every state in which a process may leave it, and one process at a time."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from support.runs import events, go, python_path, same_model, toy, toys

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.common import files
from pyconvnet.trained import checkpoint
from pyconvnet.training.loop import Trainer

posix = pytest.mark.skipif(os.name != "posix", reason="locks and signals of POSIX")


# ---- what a process may leave ------------------------------------------------------------------------------
LINE = '{"event": "start", "time": 1, "step": 0, "epoch": 0}\n'
SAVED = '{"event": "checkpoint", "time": 1, "step": 0, "epoch": 0, "examples": 0}\n'
PARTIAL = {".last.safetensors.1f2e3d.tmp": "half", ".log.jsonl.77.tmp": ""}
DEAD = {  # what a run leaves that ends before its first checkpoint
    "no folder": None,
    "an empty folder": {},
    "the lock alone": {"run.lock": '{"process": 1, "host": "x", "since": "y"}'},
    "an empty lock": {"run.lock": ""},
    "half written files": PARTIAL,
    "a log": {"log.jsonl": LINE},
    "an empty log": {"log.jsonl": ""},
    "a log with half a line": {"log.jsonl": LINE + '{"event": "kern'},
    "a log that is no text": {"log.jsonl": b"\0\xff\xfe\n"},
    "everything": {"log.jsonl": LINE, "run.lock": "", **PARTIAL},
}


def lay(folder, contents):
    if contents is not None:
        folder.mkdir()
        for name, text in contents.items():
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one epoch, and its files."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:  # an older fixture than the one of every test
        patch.setattr(Trainer, "_draw", lambda self: None)
        go(out, epochs=1)
    return out


@pytest.mark.parametrize("resume", [False, "auto", True])
@pytest.mark.parametrize("state", DEAD)
def test_a_run_that_died_before_its_first_checkpoint(tmp_path, whole, state, resume):
    """It is no run: there is nothing to resume, and another begins as in an empty folder."""
    out = tmp_path / "run"
    lay(out, DEAD[state])
    if resume is True:
        before = {p.name: p.read_bytes() for p in out.iterdir()} if out.exists() else None
        with pytest.raises(FileNotFoundError, match=r"nothing to resume: .*last.safetensors .*resume='auto'"):
            go(out, epochs=1, resume=True)
        assert before == ({p.name: p.read_bytes() for p in out.iterdir()} if out.exists() else None)
        return
    run = go(out, epochs=1, resume=resume)
    same_model(run.model, pcn.load(whole / "last.safetensors"))
    assert {p.name for p in out.iterdir()} == {p.name for p in whole.iterdir()}
    assert [e["event"] for e in events(out)] == [e["event"] for e in events(whole)]  # nothing of the old log


KEPT = {  # name of what is there -> (what is taken away, how False, "auto" and True end)
    "a run": ([], "already holds a run", None, None),
    "a run without its log": (["log.jsonl"], "already holds a run", None, None),
    "a run without its best": (["best.safetensors"], "already holds a run", None, None),
    "the best alone": (["last.safetensors"], *["best.*not overwritten"] * 2, "nothing to resume"),
}  # fmt: skip


@pytest.mark.parametrize("resume", [False, "auto", True])
@pytest.mark.parametrize("state", KEPT)
def test_a_model_is_never_overwritten(tmp_path, whole, state, resume):
    out = tmp_path / "run"
    gone, *ends = KEPT[state]
    lay(out, {p.name: p.read_bytes() for p in whole.iterdir() if p.name not in gone} | PARTIAL)
    wrong = ends[[False, "auto", True].index(resume)]
    if wrong is not None:
        before = {p.name: p.read_bytes() for p in out.iterdir()}
        with pytest.raises((ValueError, FileNotFoundError), match=wrong):
            go(out, epochs=2, resume=resume)
        assert before == {p.name: p.read_bytes() for p in out.iterdir()}
        return
    assert [r["epoch"] for r in go(out, epochs=2, resume=resume).history] == [1, 2]
    told = [1, 2] if "log.jsonl" not in gone else [2]
    assert [e["epoch"] for e in events(out, "train")] == told
    assert not any(p.name.endswith((".tmp", ".lock")) for p in out.iterdir())


def test_a_log_of_checkpoints_that_somebody_removed_is_kept(tmp_path):
    for number, text in enumerate((LINE + SAVED, LINE + SAVED + SAVED), 1):
        (tmp_path / "log.jsonl").write_text(text)
        go(tmp_path, epochs=1, resume="auto")
        assert (tmp_path / f"log-{number}.jsonl").read_text() == text
        for name in ("last", "best"):
            (tmp_path / f"{name}.safetensors").unlink()


def test_an_epoch_saved_to_its_last_batch_is_told_once(tmp_path, monkeypatch):
    """Killed between an epoch's figures and its checkpoint, where one of that very step was there already."""
    real = Trainer._save

    def save(self, reason, *best):
        if reason == "epoch" and self.epoch == 2:
            raise KeyboardInterrupt
        real(self, reason, *best)

    monkeypatch.setattr(Trainer, "_save", save)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path, checkpoint_batches=1)
    assert [e["epoch"] for e in events(tmp_path, "train")] == [1, 2]
    monkeypatch.undo()
    go(tmp_path, resume="auto", checkpoint_batches=1)
    for kind in ("train", "validation"):
        assert [e["epoch"] for e in events(tmp_path, kind)] == [1, 2, 3]


def test_the_command_line_begins_and_goes_on(tmp_path, capsys):
    model, *data = toys(tmp_path)
    (tmp_path / "log.jsonl").write_text(LINE)
    options = [*data, "--batch-size", "6", "--quiet", "--device", "cpu", "--out", str(tmp_path)]
    train = ["train", model, *options]
    for epochs, typed in (("1", ["--resume", "auto"]), ("2", ["--resume=auto"])):
        assert main([*train, "--epochs", epochs, "--checkpoint-batches", "5", *typed]) == 0
    assert [e["epoch"] for e in events(tmp_path, "train")] == [1, 2]
    assert [e["resumed"] for e in events(tmp_path, "start")] == [False, True]
    assert next(e["step"] for e in events(tmp_path, "checkpoint") if e["reason"] == "batches") == 5
    assert main(["train", "--resume", model, *options, "--epochs", "2"]) == 0  # the word is the model
    capsys.readouterr()
    assert main([*train, "--resume=often"]) == 2
    assert "--resume: stands alone or before auto, got 'often'" in capsys.readouterr().err


# ---- one process at a time ---------------------------------------------------------------------------------
def script(body, **options):
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(body)],
        env={**os.environ, "PYTHONPATH": python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def trained_elsewhere(out, **options):
    """A process that trains in ``out``, when its first checkpoint is there."""
    call = f"runs.go(pathlib.Path({str(out)!r}), epochs=10**6, **{options})"
    process = script(f"import pathlib; from support import runs; {call}")
    end = time.monotonic() + 60
    while not (out / "last.safetensors").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


@posix
def test_a_second_process_is_refused_until_the_first_is_dead(tmp_path):
    out = tmp_path / "run"
    first = trained_elsewhere(out)
    try:
        for resume in (False, True, "auto"):
            with pytest.raises(pcn.LockedError) as caught:
                go(out, resume=resume)
            assert f"{out} is in use by process {first.pid} on {os.uname().nodename} since 20" in str(
                caught.value
            )
    finally:
        first.kill()
        first.communicate()
    assert (out / "run.lock").exists()  # it had no time to clear up
    done = len(checkpoint.read(out / "last.safetensors")[1]["history"])
    run = go(out, resume=True, epochs=done + 1)
    assert [e["epoch"] for e in events(out, "train")] == list(range(1, done + 2))
    assert not (run.out / "run.lock").exists()


@posix
def test_the_command_line_names_the_holder(tmp_path, capsys):
    with files.locked(tmp_path / "run.lock", "it"):
        (tmp_path / "run.lock").write_text('{"process": 4711, "host": "beta", "since": "2026-01-02"}')
        assert main(["train", "digits", "--out", str(tmp_path), "--resume", "auto"]) == 1
    error = capsys.readouterr().err
    assert f"train: {tmp_path} is in use by process 4711 on beta since 2026-01-02" in error
    assert error.count("\n") == 1


@posix
def test_two_threads_of_one_process(tmp_path, monkeypatch):
    begun, end = threading.Event(), threading.Event()
    real = Trainer.run

    def run(self):
        begun.set()
        assert end.wait(60)
        return real(self)

    monkeypatch.setattr(Trainer, "run", run)
    runs = []
    thread = threading.Thread(target=lambda: runs.append(go(tmp_path / "run", epochs=1)))
    thread.start()
    assert begun.wait(60)
    with pytest.raises(pcn.LockedError, match=f"in use by process {os.getpid()} on"):
        go(tmp_path / "run", epochs=1)
    end.set()
    thread.join()
    assert len(runs[0].history) == 1
    go(tmp_path / "run", epochs=2, resume=True)


@posix
@pytest.mark.parametrize("how", ["fork", "subprocess"])
def test_children_do_not_keep_the_lock_of_a_dead_parent(tmp_path, how):
    child = {  # prints the child's number once it runs: until then a fork holds what its parent does
        "fork": "if os.fork() == 0: print(os.getpid(), flush=True)",
        "subprocess": "print(subprocess.Popen(['sleep', '600'], close_fds=False).pid, flush=True)",
    }[how]
    parent = script(
        "import os, subprocess, time\n"
        "from pyconvnet.common import files\n"
        f"with files.locked({str(tmp_path / 'lock')!r}, 'it'):\n"
        f"    {child}\n"
        "    time.sleep(600)\n"
    )
    pid = int(parent.stdout.readline())
    try:
        with pytest.raises(files.LockedError), files.locked(tmp_path / "lock", "it"):
            pass
        parent.kill()
        parent.wait()
        os.kill(pid, 0)  # the child lives
        with files.locked(tmp_path / "lock", "it"):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        parent.stdout.close()


@posix
def test_a_forked_child_that_ends_takes_nothing_from_its_parent(tmp_path):
    with files.locked(tmp_path / "lock", "it"):
        pid = os.fork()
        if pid == 0:
            try:  # leaves the block, as an error in a forked child does
                sys.exit(0)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        with pytest.raises(files.LockedError), files.locked(tmp_path / "lock", "it"):
            pass


@posix
def test_a_lock_is_held_by_one_at_a_time(tmp_path):
    """Also while its file is removed and made again: of many that wait each has it alone."""
    inside, most, turns = [], [], []

    def take():
        for _ in range(50):
            with files.locked(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                turns.append(1)
                inside.pop()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(turns)) == (1, 200)
    assert not (tmp_path / "lock").exists()


def test_what_is_wrong_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for out in (None, "deep/er/run"):
        with pytest.raises(ValueError, match="does not fit into images of 5x5"):
            go(out, data=toy(size=5))
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="does not fit into images of 5x5"):
        go("mine", data=toy(size=5))
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_two_runs_that_begin_at_once_have_folders_of_their_own(tmp_path, monkeypatch):
    """Another process takes the number between our look and our making it."""
    monkeypatch.chdir(tmp_path)
    real, taken = Path.mkdir, []

    def mkdir(self, *args, **options):
        if self.name == "small" and not taken:
            taken.append(self)
            real(self, parents=True)
        real(self, *args, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert str(go(None, epochs=1).out) == os.path.join("runs", "small-2")
