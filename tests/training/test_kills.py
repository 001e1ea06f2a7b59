"""Killed with -9 at any moment, under a restart script that only says ``--resume auto``, a run ends in the
bits of the unbroken one.

Two ways: at every single thing a run does to the disk, in forked processes; and at random moments from the
start of the interpreter to the last picture, the whole process group.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter

import numpy as np
import pytest
from support import make_files as mk
from support.runs import events, go, python_path, same_bits, toy

from pyconvnet.trained import checkpoint
from pyconvnet.training.changes import request

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")


def check(out, whole, epochs):
    """The run is the unbroken one, and its log tells every epoch once."""
    same_bits(whole, out)
    for kind in ("train", "validation"):
        assert [e["epoch"] for e in events(out, kind)] == list(range(1, epochs + 1)), kind
    ends = [e["reason"] for e in events(out, "end")]
    assert ends == ["done"]
    assert events(out)[-1]["event"] == "end"
    files = [{p.name for p in o.iterdir() if not p.name.startswith("step-")} for o in (out, whole)]
    assert files[0] == files[1]  # nothing half written, no lock
    for kept in out.glob("step-*"):  # which of them there are is the disk's business
        assert checkpoint.read(kept)[1]["step"] == int(kept.stem[5:])


# ---- at every write ----------------------------------------------------------------------------------------
OPTIONS = {"epochs": 2, "checkpoint_batches": 1, "schedule": "plateau:patience=1", "resume": "auto"}
TOUCH = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock"}


def life(out, until):
    """Run in a forked process that kills itself before it touches the disk for the ``until``-th time under
    ``out``; the exit status.
    """
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        touched = 0

        def hook(event, arguments):
            nonlocal touched
            if event not in TOUCH or (event != "fcntl.flock" and str(out) not in str(arguments[0])):
                return
            if event == "open" and not isinstance(arguments[1], str) and not arguments[2] & os.O_CREAT:
                return  # the folder, to sync it
            touched += 1
            if touched == until:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        go(out, data=toy(60), **OPTIONS)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def test_killed_at_every_write(tmp_path):
    """A life for each thing a run does to its folder, ended before it; then one that may end."""
    go(tmp_path / "whole", data=toy(60), **OPTIONS)
    until, status = 0, signal.SIGKILL
    while status == signal.SIGKILL:
        until += 1
        out = tmp_path / f"run{until}"
        status = life(out, until)
        assert status in (0, signal.SIGKILL)
        if status:
            assert life(out, 0) == 0
        check(out, tmp_path / "whole", OPTIONS["epochs"])
    assert until > 40


def test_killed_at_every_write_one_after_the_other(tmp_path):
    """One run, killed again and again, each time one write later than it came the last time."""
    go(tmp_path / "whole", data=toy(60), **OPTIONS)
    lives = 0
    while life(tmp_path / "run", 1 + lives) == signal.SIGKILL:
        lives += 1
    check(tmp_path / "run", tmp_path / "whole", OPTIONS["epochs"])
    assert lives > 10


# ---- at random moments -------------------------------------------------------------------------------------
KINDS = {  # what is trained: files of arrays; files of images, decoded by processes of their own
    "arrays": ["--option", "input_shape=8x8x3", "--option", "classes=4", "--batch-size", "32"],
    "workers": ["--option", "input_shape=12x12x3", "--batch-size", "8", "--image-size", "12", "--workers",
                "1", "--augment", "mirror,mean=pixel,scale=0.02"],
    # Hardly a moment without a checkpoint under way.
    "writing": ["--option", "input_shape=32x32x3", "--option", "classes=4", "--batch-size", "8",
                "--checkpoint-batches", "1", "--keep", "2"],
}  # fmt: skip


def prepare(folder, kind, epochs):
    """The command of a run without its --out: what the restart script says each time."""
    if kind != "workers":
        x, y = toy(200) if kind == "arrays" else toy(60, size=32)
        np.savez(folder / "data.npz", x=x, y=y)
        data = folder / "data.npz"
    else:
        data = mk.image_folder(folder / "data", count=16)
    typed = (
        f"train digits {data} --validation 0.2 --epochs {epochs} --lr 0.005 --schedule plateau:patience=1 "
        "--seed 3 --device cpu --checkpoint-batches 2 --resume auto"
    )
    return [sys.executable, "-m", "pyconvnet", *typed.split(), *KINDS[kind]]


def started(command, out):
    """A process group of its own, so that decoding processes die with it."""
    environment = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "--out", str(out)],
        cwd=out.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def told(out):
    """The lines of a run's log, as far as a killed process had come with them."""
    path = out / "log.jsonl"
    return [line for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def phase(out, before):
    """What a process was about when it was killed; ``before``: the log when it began."""
    lines = told(out)
    if lines == before:
        return "starting"
    if '"end"' in lines[-1]:
        return "drawing"
    return "training" if (out / "last.safetensors").exists() else "before the first checkpoint"


def killed_again_and_again(folder, kind, kills, moment, epochs=12):
    """Run after run, each restarted until it ends, until there were so many kills; by what they interrupted.

    ``moment()`` gives the share of an unbroken run's life after which to kill; in the last phase, once a run.
    """
    folder.mkdir(exist_ok=True)
    command = prepare(folder, kind, epochs)
    begun = time.monotonic()
    output = started(command, folder / "whole").communicate(timeout=300)[0]
    life = time.monotonic() - begun
    assert (folder / "whole" / "predictions.png").exists(), output
    counts, half, runs = Counter(), 0, 0
    while counts.total() < kills:
        out = folder / f"run{runs}"
        process = None
        while process is None or process.returncode:
            before = told(out)
            spared = counts.total() == kills or (before and '"end"' in before[-1])
            begun, process = time.monotonic(), started(command, out)
            try:
                output = process.communicate(timeout=300 if spared else life * moment())[0]
                assert process.returncode == 0, output
                if not before:  # a whole life again: other work on the machine makes them longer or shorter
                    life = time.monotonic() - begun
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                if process.returncode:  # else it ended in this very moment
                    counts[phase(out, before)] += 1
                    half += any(out.glob(".*.tmp"))
        check(out, folder / "whole", epochs)
        shutil.rmtree(out)
        runs += 1
    print(f"{kind}: {counts.total()} kills of {runs} runs, {dict(counts)}, {half} with a half written file")
    return counts, half


def test_killed_through_the_command_line(tmp_path):
    """Early, in the middle and late; the restart and the pictures are what this adds to the writes above."""
    pytest.importorskip("matplotlib")
    moments = iter([0.1, 0.25, 0.25, *[0.5] * 20])
    counts, _ = killed_again_and_again(tmp_path / "runs", "writing", 3, lambda: next(moments), 6)
    assert counts.total() == 3


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills", "seed"), [("arrays", 140, 1), ("workers", 60, 2)])
def test_killed_200_times(tmp_path, kind, kills, seed):
    pytest.importorskip("matplotlib")
    counts, _ = killed_again_and_again(tmp_path / "runs", kind, kills, random.Random(seed).random)
    assert counts.total() == kills
    assert min(counts[name] for name in ("starting", "training", "drawing")) > kills / 20, counts


@pytest.mark.slow
def test_killed_50_times_while_checkpoints_are_written(tmp_path):
    """Steps of a few milliseconds, each followed by a checkpoint of which the disk writes what it can."""
    pytest.importorskip("matplotlib")
    moment = random.Random(3).random
    counts, half = killed_again_and_again(tmp_path / "runs", "writing", 50, lambda: 0.3 + 0.6 * moment())
    assert counts.total() == 50
    assert half >= 3, "too few in the middle of a file"


# ---- with a change by hand ---------------------------------------------------------------------------------
@pytest.mark.slow
def test_killed_at_every_write_with_a_request_waiting(tmp_path):
    """Between journal, request, log and checkpoint: whatever was noted is done at the same step again."""

    def first(out):
        go(out, data=toy(60), **{**OPTIONS, "epochs": 1})
        request(out, lr=0.004, momentum=0.5)

    first(tmp_path / "whole")
    go(tmp_path / "whole", data=toy(60), **OPTIONS)
    until, status = 0, signal.SIGKILL
    while status == signal.SIGKILL:
        until += 1
        out = tmp_path / f"run{until}"
        first(out)
        status = life(out, until)
        assert status in (0, signal.SIGKILL)
        if status:
            assert life(out, 0) == 0
        check(out, tmp_path / "whole", OPTIONS["epochs"])
        assert events(out, "train")[-1]["lr"] == 0.004
    assert until > 15
