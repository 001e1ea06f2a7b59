"""Training under mpirun: the same run as in one process, whatever dies on the way."""

import json
import os
import random
import shutil
import signal
import textwrap
import time

import numpy as np
import pytest
from support.few import few
from support.mpi_jobs import finish, forwards_signals, need_mpi, start, start_script
from support.once import once
from support.runs import events, go, small, toy, toys

from pyconvnet.common import files
from pyconvnet.plan import Plan
from pyconvnet.trained import checkpoint


@pytest.fixture(autouse=True)
def prepared():
    need_mpi()


HEAD = """
import os, pathlib
from support import runs
from support.quick import waited
from pyconvnet.training.checkpoints import Checkpoints
from pyconvnet.training.ranks import current
from pyconvnet.training.loop import Trainer
Trainer._draw = lambda self: None
ranks = current()
"""


def script(body):
    return HEAD + textwrap.dedent(body)


def close(one, two, rtol=2e-4, atol=2e-6):
    """The two runs' last checkpoints and histories agree to rounding."""
    (a, state_a, arrays_a), (b, state_b, arrays_b) = (
        checkpoint.read(p / "last.safetensors") for p in (one, two)
    )
    for key in ("step", "epoch", "examples", "options", "data"):
        assert state_a[key] == state_b[key], key
    for first, second in ((a.parameters, b.parameters), (arrays_a, arrays_b)):
        assert first.keys() == second.keys()
        for name, value in first.items():
            np.testing.assert_allclose(second[name], value, rtol=rtol, atol=atol, err_msg=name)
    assert len(state_a["history"]) == len(state_b["history"])
    for first, second in zip(state_a["history"], state_b["history"], strict=True):
        for key in first.keys() - {"seconds", "images_per_second"}:
            assert second[key] == pytest.approx(first[key], rel=1e-4), key


# ---- the same run ------------------------------------------------------------------------------------------
WHOLE = {"batch_size": 128, "epochs": 3, "checkpoint_batches": 2}
MOVED = {"batch_size": 30, "schedule": "plateau:patience=1"}


def _two_jobs(folder):
    """A job of 2 ranks and one of 4 that do all that the tests up to the command line's look at."""
    for rank in range(4):
        (folder / f"rank{rank}").mkdir(parents=True)
    body = f"""
        import numpy as np
        from pyconvnet.common.devices import get_device
        from pyconvnet.plan import Plan
        folder, rank, several = pathlib.Path({str(folder)!r}), ranks.rank, ranks.size == 4

        runs.go(folder / "moved", resume="auto", epochs=ranks.size, **{MOVED!r})

        if several:
            os.chdir(folder / f"rank{{rank}}")
            said = []
            for name, dropout in (("plain", False), ("dropout", True), ("again", True)):
                data = {{"data": runs.toy(258), "validation": runs.toy(50, seed=1)}}
                run = runs.go(name, net=runs.small(dropout), **data, **{WHOLE!r})
                said.append((run.history, str(run.out)))
            (folder / f"said{{rank}}").write_text(repr(said))

            x, y = runs.toy(10, size=6)
            communicator = ranks.communicator([get_device("cpu")])
            plan = Plan(runs.small(), "cpu", 3, np.float64, seed=3, communicator=communicator)
            first, last = (10 * (rank + i) // 4 for i in (0, 1))
            plan.set_window(first, 10)
            plan.set_hyper(0.1, 0.9)
            for _ in range(3):
                plan.feed(x[first:last] / 255, y[first:last])
                plan.step(last - first)
            plan.forward(last - first)
            plan.backward(last - first)
            communicator.finish()
            np.savez(folder / f"{{rank}}.npz", **plan.get_gradients())

        real = Trainer._train_batch
        def train_batch(self, batch):
            if ranks.main and self.saved is None and self.step == 6:
                raise SystemExit(3)
            real(self, batch)
            with open(folder / f"read-{{ranks.size}}-{{rank}}", "a") as file:
                print(self.epoch, *batch.indices, file=file)
        Trainer._train_batch = train_batch
        Checkpoints.busy = waited  # so that no image read is read again
        size = 22 if several else 30
        runs.go(folder / "read", resume="auto", checkpoint_batches=1, batch_size=size, epochs=2)
    """
    for ranks in (2, 4):
        status, _, errors = finish(start_script(ranks, script(body), folder))
        assert (status == 0) == (ranks == 4), errors


@pytest.fixture
def jobs(tmp_path_factory):
    return once(tmp_path_factory, "jobs", _two_jobs)


@pytest.mark.parametrize("name", ["plain", "dropout"])
def test_4_ranks_of_32_are_one_process_of_128(jobs, tmp_path, name):
    """Over epochs whose last batch, of 2 images, leaves two ranks without work."""
    assert len({(jobs / f"said{rank}").read_text() for rank in range(4)}) == 1
    left = [set(os.listdir(jobs / f"rank{rank}")) for rank in range(4)]
    assert left == [{"plain", "dropout", "again"}, set(), set(), set()]
    out, whole = jobs / "rank0" / name, tmp_path / "whole"
    go(whole, net=small(name == "dropout"), data=toy(258), validation=toy(50, seed=1), **WHOLE)
    close(whole, out)
    told, wanted = ([e["event"] for e in events(o) if e["event"] != "checkpoint"] for o in (out, whole))
    assert told == wanted
    assert events(out, "start")[0]["ranks"] == 4
    for mine, other in zip(events(out, "train"), events(whole, "train"), strict=True):
        assert mine["step"] == other["step"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["error"] == other["error"]


def test_two_runs_in_one_job(jobs):
    close(jobs / "rank0" / "dropout", jobs / "rank0" / "again", rtol=0, atol=0)


def test_gradients_in_float64(jobs):
    """Of 4 ranks and of one process, with dropout: the same but for the last bits."""
    x, y = toy(10, size=6)
    plan = Plan(small(), "cpu", 10, np.float64, seed=3)
    plan.set_hyper(0.1, 0.9)
    for _ in range(3):
        plan.feed(x / 255, y)
        plan.step()
    plan.forward()
    plan.backward()
    held = [np.load(jobs / f"{rank}.npz") for rank in range(4)]
    for name, value in plan.get_gradients().items():
        scale = np.abs(value).max()
        assert scale > 0
        for other in held:
            np.testing.assert_array_equal(other[name], held[0][name])
        assert np.abs(held[0][name] - value).max() <= 1e-12 * scale, name


def test_a_run_moves_from_2_ranks_to_4_to_1(jobs, tmp_path):
    shutil.copytree(jobs / "moved", tmp_path / "moved")
    go(tmp_path / "moved", resume=True, epochs=6, **MOVED)
    go(tmp_path / "whole", epochs=6, **MOVED)
    close(tmp_path / "whole", tmp_path / "moved")
    assert [e["epoch"] for e in events(tmp_path / "moved", "train")] == [1, 2, 3, 4, 5, 6]
    assert [e["ranks"] for e in events(tmp_path / "moved", "start")] == [2, 4, 1]


def test_ranks_go_on_at_an_example_with_another_batch_size(jobs):
    """Two ranks stop within an epoch; four go on with other batches: every image is read once an epoch."""
    assert [e["ranks"] for e in events(jobs / "read", "start")] == [2, 4]
    assert [e["epoch"] for e in events(jobs / "read", "train")] == [1, 2]
    seen = {0: [], 1: []}
    for path in jobs.glob("read-*"):
        for line in path.read_text().splitlines():
            epoch, *indices = map(int, line.split())
            seen[epoch] += indices
    assert [sorted(indices) for indices in seen.values()] == [list(range(119))] * 2


def test_the_command_line(tmp_path):
    """One voice only; what is wrong everywhere is told once."""
    typed = ["-m", "pyconvnet", "train", *toys(tmp_path), "--validation", "0.2", "--epochs", "1"]
    typed += ["--device", "cpu", "--out", "run"]
    status, output, errors = finish(start(2, typed, tmp_path))
    assert status == 0, errors
    assert output.count("epoch 1/1") == 1
    assert "on cpu in each of 2 ranks" in output
    assert output.count("best epoch 1") == 1
    status, output, errors = finish(start(2, typed, tmp_path))
    assert status != 0
    assert errors.count("already holds a run") == 1
    assert "Traceback" not in errors
    with files.locked(tmp_path / "run" / "run.lock"):
        status, output, errors = finish(start(2, [*typed, "--resume", "auto"], tmp_path))
    assert status != 0
    assert errors.count(f"is in use by process {os.getpid()} on") == 1
    assert "Traceback" not in errors


# ---- stopping ----------------------------------------------------------------------------------------------
LONG = {"epochs": 2000, "checkpoint_batches": 3, "batch_size": 40}


def _long(tmp_path, ranks, extra=""):
    body = f"""
        folder = pathlib.Path({str(tmp_path)!r})
        (folder / f"pid{{ranks.rank}}").write_text(str(os.getpid()))
        {extra}
        run = runs.go(folder / "run", **{LONG!r})
        print("interrupted" if run.interrupted else "done", flush=True)
    """
    return start_script(ranks, script(body), tmp_path)


def _wait_for_step(job, out, step, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (out / "log.jsonl").exists():
            lines = (out / "log.jsonl").read_text().split("\n")[:-1]
            if any(e["event"] == "checkpoint" and e["step"] >= step for e in map(json.loads, lines)):
                return
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    job.kill()
    raise AssertionError("no checkpoint in time")


def _can_go_on(tmp_path):
    """The run goes on in this process, to the results of a run that was never stopped."""
    step = checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"]
    options = {**LONG, "epochs": step // 3 + 1}
    go(tmp_path / "run", resume=True, **options)
    go(tmp_path / "whole", **options)
    close(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("trial", few(range(10), 3))
def test_kill_9_of_one_rank_ends_the_job_and_leaves_a_run_that_goes_on(tmp_path, trial):
    random_ = random.Random(trial)
    job = _long(tmp_path, 3)
    _wait_for_step(job, tmp_path / "run", 3 * random_.randint(0, 8))
    time.sleep(random_.random() * 0.03)
    os.kill(int((tmp_path / f"pid{trial % 3}").read_text()), signal.SIGKILL)
    status, output, errors = finish(job, seconds=30)
    assert status != 0
    assert "Killed" in output + errors  # mpirun's words
    assert "done" not in output
    _can_go_on(tmp_path)


@pytest.mark.parametrize("name", few(["SIGINT", "SIGUSR1", "SIGTERM"], 2))
def test_a_signal_to_the_job_saves_and_ends_it(tmp_path, name):
    number = signal.Signals[name]
    job = _long(tmp_path, 3)
    _wait_for_step(job, tmp_path / "run", 6)
    job.send_signal(number)
    status, output, errors = finish(job, seconds=30)
    assert "Traceback" not in output + errors
    if forwards_signals() or number == signal.SIGUSR1:
        assert status == 0, errors
        assert output.count("interrupted") == 3
        end = events(tmp_path / "run")[-1]
        assert (end["event"], end["reason"]) == ("end", "interrupted")
        assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] == end["step"]
    _can_go_on(tmp_path)


def test_a_signal_to_one_rank_is_agreed_on_by_all(tmp_path):
    job = _long(tmp_path, 3)
    _wait_for_step(job, tmp_path / "run", 3)
    os.kill(int((tmp_path / "pid2").read_text()), signal.SIGTERM)
    status, output, errors = finish(job, seconds=30)
    assert status == 0, errors
    assert output.count("interrupted") == 3
    _can_go_on(tmp_path)


@pytest.mark.slow
def test_usr2_to_one_rank_saves_and_the_job_goes_on(tmp_path):
    """Then USR1 to the job ends it, as Slurm would with --signal=USR1@60.

    One that comes just before the checkpoint of an epoch's end is answered by that: the test asks again.
    """
    job = _long(tmp_path, 3)
    _wait_for_step(job, tmp_path / "run", 3)
    end = time.monotonic() + 60
    while not any(e["reason"] == "signal" for e in events(tmp_path / "run", "checkpoint")):
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        os.kill(int((tmp_path / "pid1").read_text()), signal.SIGUSR2)
        time.sleep(0.1)
    assert job.poll() is None
    job.send_signal(signal.SIGUSR1)
    status, output, errors = finish(job, seconds=30)
    assert status == 0, errors
    assert output.count("interrupted") == 3
    _can_go_on(tmp_path)


def test_an_error_in_one_rank_ends_the_job_and_says_which(tmp_path):
    extra = """
        real = Trainer._train_batch
        def broken(self, batch):
            if ranks.rank == 2 and self.step == 7:
                raise OSError("the disk of this rank is gone")
            real(self, batch)
        Trainer._train_batch = broken
    """
    job = _long(tmp_path, 3, "\n        ".join(textwrap.dedent(extra).strip().splitlines()))
    status, output, errors = finish(job, seconds=30)
    assert status != 0
    assert "rank 2 of 3 on" in errors
    assert "OSError: the disk of this rank is gone" in errors
    assert "done" not in output
    # That of step 6 may have been under way.
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] in (3, 4, 5, 6)
    _can_go_on(tmp_path)
