"""Training under mpirun: the same run as in one process, whatever dies on the way."""

import os
import random
import signal
import textwrap
import time

import numpy as np
import pytest
from support.mpi_jobs import finish, forwards_signals, need_mpi, start, start_script
from support.runs import events, go, small, toy

from pyconvnet.common import files
from pyconvnet.plan import Plan
from pyconvnet.trained import checkpoint
from pyconvnet.training.loop import Trainer


@pytest.fixture(autouse=True)
def prepared(monkeypatch):
    need_mpi()
    monkeypatch.setattr(Trainer, "_draw", lambda self: None)


HEAD = """
import os, pathlib
from support import runs
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
@pytest.mark.parametrize("dropout", [False, True], ids=["no dropout", "dropout"])
def test_4_ranks_of_32_are_one_process_of_128(tmp_path, dropout):
    """Over epochs whose last batch, of 2 images, leaves two ranks without work."""
    options = {"batch_size": 128, "epochs": 3, "checkpoint_batches": 2}
    body = f"""
        os.chdir(pathlib.Path({str(tmp_path)!r}, f"rank{{ranks.rank}}"))
        run = runs.go("run", net=runs.small({dropout}), data=runs.toy(258), validation=runs.toy(50, seed=1),
                      **{options!r})
        pathlib.Path(f"../said{{ranks.rank}}").write_text(repr((run.history, str(run.out))))
    """
    for rank in range(4):
        (tmp_path / f"rank{rank}").mkdir()
    status, _, errors = finish(start_script(4, script(body), tmp_path))
    assert status == 0, errors
    assert len({(tmp_path / f"said{rank}").read_text() for rank in range(4)}) == 1
    assert [os.listdir(tmp_path / f"rank{rank}") for rank in range(4)] == [["run"], [], [], []]
    out, whole = tmp_path / "rank0" / "run", tmp_path / "whole"
    go(whole, net=small(dropout), data=toy(258), validation=toy(50, seed=1), **options)
    close(whole, out)
    assert [e["event"] for e in events(out)] == [e["event"] for e in events(whole)]
    assert events(out, "start")[0]["ranks"] == 4
    for mine, other in zip(events(out, "train"), events(whole, "train"), strict=True):
        assert mine["step"] == other["step"]
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert mine["error"] == other["error"]


def test_gradients_in_float64(tmp_path):
    """Of 4 ranks and of one process, with dropout: the same but for the last bits."""
    body = f"""
        import numpy as np
        from pyconvnet.common.devices import get_device
        from pyconvnet.plan import Plan
        x, y = runs.toy(10, size=6)
        communicator = ranks.communicator([get_device("cpu")])
        plan = Plan(runs.small(), "cpu", 3, np.float64, seed=3, communicator=communicator)
        first, last = (10 * (ranks.rank + i) // 4 for i in (0, 1))
        plan.set_window(first, 10)
        plan.set_hyper(0.1, 0.9)
        for _ in range(3):
            plan.feed(x[first:last] / 255, y[first:last])
            plan.step(last - first)
        plan.forward(last - first)
        plan.backward(last - first)
        communicator.finish()
        np.savez(pathlib.Path({str(tmp_path)!r}, f"{{ranks.rank}}.npz"), **plan.get_gradients())
    """
    status, _, errors = finish(start_script(4, script(body), tmp_path))
    assert status == 0, errors
    x, y = toy(10, size=6)
    plan = Plan(small(), "cpu", 10, np.float64, seed=3)
    plan.set_hyper(0.1, 0.9)
    for _ in range(3):
        plan.feed(x / 255, y)
        plan.step()
    plan.forward()
    plan.backward()
    held = [np.load(tmp_path / f"{rank}.npz") for rank in range(4)]
    for name, value in plan.get_gradients().items():
        scale = np.abs(value).max()
        assert scale > 0
        for other in held:
            np.testing.assert_array_equal(other[name], held[0][name])
        assert np.abs(held[0][name] - value).max() <= 1e-12 * scale, name


def test_a_run_moves_from_4_ranks_to_2_to_1(tmp_path):
    options = {"batch_size": 30, "schedule": "plateau:patience=1"}
    for ranks, epochs in ((4, 2), (2, 4)):
        body = (
            f"runs.go(pathlib.Path({str(tmp_path / 'run')!r}), resume='auto', epochs={epochs}, **{options!r})"
        )
        status, _, errors = finish(start_script(ranks, script(body), tmp_path))
        assert status == 0, errors
    go(tmp_path / "run", resume=True, epochs=6, **options)
    go(tmp_path / "whole", epochs=6, **options)
    close(tmp_path / "whole", tmp_path / "run")
    assert [e["epoch"] for e in events(tmp_path / "run", "train")] == [1, 2, 3, 4, 5, 6]
    assert [e["ranks"] for e in events(tmp_path / "run", "start")] == [4, 2, 1]


def test_ranks_go_on_at_an_example_with_another_batch_size(tmp_path):
    """Two ranks stop within an epoch; four go on with other batches: every image is read once an epoch."""
    body = f"""
        place = pathlib.Path({str(tmp_path)!r}, f"read-{{ranks.size}}-{{ranks.rank}}")
        real = Trainer._train_batch
        def train_batch(self, batch):
            if ranks.main and self.saved is None and self.step == 6:
                raise SystemExit(3)
            real(self, batch)
            with open(place, "a") as file:
                print(self.epoch, *batch.indices, file=file)
        Trainer._train_batch = train_batch
        size = 30 if ranks.size == 2 else 22
        runs.go(pathlib.Path("run"), resume="auto", checkpoint_batches=1, batch_size=size, epochs=2)
    """
    for ranks in (2, 4):
        finish(start_script(ranks, script(body), tmp_path))
    assert [e["ranks"] for e in events(tmp_path / "run", "start")] == [2, 4]
    assert [e["epoch"] for e in events(tmp_path / "run", "train")] == [1, 2]
    seen = {0: [], 1: []}
    for path in tmp_path.glob("read-*"):
        for line in path.read_text().splitlines():
            epoch, *indices = map(int, line.split())
            seen[epoch] += indices
    assert [sorted(indices) for indices in seen.values()] == [list(range(119))] * 2


def test_two_runs_in_one_job(tmp_path):
    body = f"""
        for number in (0, 1):
            runs.go(pathlib.Path({str(tmp_path)!r}) / f"run{{number}}", epochs=1)
    """
    status, _, errors = finish(start_script(2, script(body), tmp_path))
    assert status == 0, errors
    close(tmp_path / "run0", tmp_path / "run1", rtol=0, atol=0)


def test_the_command_line(tmp_path):
    """One voice only; what is wrong everywhere is told once."""
    pytest.importorskip("sklearn")
    typed = ["-m", "pyconvnet", "train", "digits", "--epochs", "1", "--device", "cpu", "--out", "run"]
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
            if any(f'"step": {step},' in line and '"checkpoint"' in line for line in lines):
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


@pytest.mark.parametrize("trial", range(10))
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_signal_to_the_job_saves_and_ends_it(tmp_path, number):
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
    assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] == 6
    _can_go_on(tmp_path)
