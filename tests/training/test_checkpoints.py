"""Checkpoints in the background: steps go on while one is written, it is the run at one step, and a disk that
is full or read-only costs no more than the checkpoints of that time.
"""

import errno
import os
import signal
import threading

import numpy as np
import pytest
from safetensors.numpy import save as library_save
from support.runs import events, go, same_bits, same_model, toys

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.common import files
from pyconvnet.trained import checkpoint, checkpoint_file
from pyconvnet.training import checkpoints as module
from pyconvnet.training.checkpoints import Checkpoints
from pyconvnet.training.loop import Trainer

BUSY = Checkpoints.busy  # of before the tests made it wait
posix = pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX")


@pytest.fixture
def in_background(monkeypatch):
    """What is due while a checkpoint is being written is put off, as outside of tests."""
    monkeypatch.setattr(Checkpoints, "busy", BUSY)


def at_steps(monkeypatch, do):
    """Call ``do(trainer)`` before every step."""
    real = Trainer._train_batch

    def train_batch(self, batch):
        do(self)
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", train_batch)


class Held:
    """The disk, on which every write of a training state after the first waits to be let go."""

    def __init__(self, monkeypatch):
        self.go, self.second = threading.Event(), threading.Event()
        self.count = self.inside = self.most = 0
        real = module.resuming.write

        def write(*args):
            self.count += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.count > 1:
                self.second.set()
                assert self.go.wait(60)
            real(*args)
            self.inside -= 1

        monkeypatch.setattr(module.resuming, "write", write)


def test_steps_go_on_while_a_checkpoint_is_written(tmp_path, monkeypatch, in_background):
    """That of step 1 takes until step 3 has been taken; it is that of step 1 all the same."""
    disk, whole = Held(monkeypatch), {}

    def do(trainer):
        if trainer.step == 1:
            whole.update(trainer.plan.get_parameters())
        if trainer.step == 3:  # steps 1, 2 have been taken while it was under way: nothing waited
            assert disk.second.wait(60)
            assert disk.count == 2
            assert checkpoint.read(tmp_path / "last.safetensors")[1]["step"] == 0
            disk.go.set()
            trainer.checkpoints.wait()
            model, state, _ = checkpoint.read(tmp_path / "last.safetensors")
            assert (state["step"], state["examples"]) == (1, 32)
            for name, value in whole.items():
                np.testing.assert_array_equal(model.parameters[name], value)

    at_steps(monkeypatch, do)
    go(tmp_path, epochs=1, checkpoint_batches=1)
    assert disk.most == 1
    written = [e["step"] for e in events(tmp_path, "checkpoint")]
    assert written[:2] == [0, 1]
    assert written[-1] == 4
    assert all(e["seconds"] >= 0 for e in events(tmp_path, "checkpoint"))


def test_one_at_a_time_and_the_same_bits(tmp_path, monkeypatch, in_background):
    """On a slow disk most of what is due is put off; the run is the same."""
    disk = Held(monkeypatch)
    threading.Timer(0.3, disk.go.set).start()
    go(tmp_path / "slow", checkpoint_batches=1)
    assert disk.most == 1
    monkeypatch.undo()
    go(tmp_path / "whole")
    same_bits(tmp_path / "whole", tmp_path / "slow")


def test_the_file_is_the_librarys(rng):
    """Byte by byte, but for the order of the metadata, in which the library has none."""
    tensors = {
        "parameter/b": rng.standard_normal((3, 4)).astype(np.float32),
        "a": rng.standard_normal((2, 2)),
        "none": np.empty((0, 3), np.float32),
        "one": np.full((), 3, np.float32),
        "half": np.ones(3, np.float16),
        "z/é": np.ones(5, np.float32),
    }
    metadata = {"pyconvnet": '{"a": "é\\u00e9 \x01 /\x7f"}'}
    ours = b"".join(bytes(piece) for piece in checkpoint_file._serialise(tensors, metadata))
    assert ours == library_save(tensors, metadata)


@pytest.mark.parametrize("keep", [2, 3])
def test_the_last_ones_are_kept(tmp_path, keep):
    go(tmp_path, epochs=2, checkpoint_batches=1, keep=keep)
    names = sorted(path.name for path in tmp_path.glob("step-*"))
    assert names == [f"step-{step:09d}.safetensors" for step in range(9 - keep, 9)]
    assert [checkpoint.read(tmp_path / name)[1]["step"] for name in names] == list(range(9 - keep, 9))
    assert (tmp_path / names[-1]).samefile(tmp_path / "last.safetensors")
    (tmp_path / names[0]).replace(tmp_path / "last.safetensors")  # back to the oldest
    go(tmp_path, epochs=2, checkpoint_batches=1, keep=keep, resume=True)
    same_bits(tmp_path, go(tmp_path / "whole", epochs=2).out)


def test_an_impossible_number_to_keep(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1, got 0"):
        go(tmp_path / "run", keep=0)


# ---- a disk that is full or read-only ----------------------------------------------------------------------
def refuse(monkeypatch, number):
    """Nothing can be written any more, as when a file system is full or has been remounted."""
    real = files.write_atomically

    def write(path, data):
        with files.naming(path):
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint_file, "write_atomically", write)
    return lambda: monkeypatch.setattr(checkpoint_file, "write_atomically", real)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_training_goes_on_and_tries_again(tmp_path, monkeypatch, number):
    allow = []

    def do(trainer):
        if trainer.step == 2:
            trainer.checkpoints.wait()
            allow.append(refuse(monkeypatch, number))
        if trainer.step == 9:
            trainer.checkpoints.wait()
            assert checkpoint.read(tmp_path / "run" / "last.safetensors")[1]["step"] == 2
            assert not list((tmp_path / "run").glob(".*"))  # nothing half written
            allow.pop()()

    with monkeypatch.context() as patch:
        at_steps(patch, do)
        with pytest.warns(RuntimeWarning, match=f"no checkpoint at step 3: .*{os.strerror(number)}") as told:
            go(tmp_path / "run", checkpoint_batches=1)
    assert len(told) == 1
    messages = [e["message"] for e in events(tmp_path / "run", "warning")]
    assert len(messages) == 1
    assert "training goes on" in messages[0]
    steps = [e["step"] for e in events(tmp_path / "run", "checkpoint")]
    assert steps == [0, 1, 2, 10, 11, 12, 12]
    go(tmp_path / "whole")
    same_bits(tmp_path / "whole", tmp_path / "run")


def test_a_run_that_ends_unsaved_says_so_and_keeps_its_model(tmp_path, monkeypatch):
    def do(trainer):
        if trainer.step == 5:
            trainer.checkpoints.wait()
            refuse(patch, errno.ENOSPC)

    with monkeypatch.context() as patch:
        at_steps(patch, do)
        with pytest.warns(RuntimeWarning), pytest.raises(pcn.UnsavedError) as caught:
            go(tmp_path / "run", checkpoint_batches=1)
    text = str(caught.value)
    assert "No space left" in text
    assert f"step 5's is whole in {tmp_path / 'run' / 'last.safetensors'}" in text
    assert (caught.value.errno, len(caught.value.run.history)) == (errno.ENOSPC, 3)
    assert events(tmp_path / "run")[-1]["event"] != "end"
    run = go(tmp_path / "run", resume=True)
    same_model(run.model, caught.value.run.model)
    same_bits(go(tmp_path / "whole").out, tmp_path / "run")


def test_the_command_line_tells_of_it(tmp_path, monkeypatch, capsys):
    def do(trainer):
        if trainer.step == 1:
            trainer.checkpoints.wait()
            refuse(monkeypatch, errno.ENOSPC)

    at_steps(monkeypatch, do)
    typed = ["train", *toys(tmp_path), "--epochs", "1", "--quiet", "--device", "cpu", "--validation", "0.5"]
    with pytest.warns(RuntimeWarning, match="no checkpoint at step"):
        assert main([*typed, "--batch-size", "5", "--out", str(tmp_path / "run")]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("pyconvnet: [Errno 28] No space left on device")
    assert "step 0's is whole in" in told


@posix
def test_a_real_limit_in_the_middle_of_a_write(tmp_path, monkeypatch):
    """The system takes the first 4,000 bytes of each file, as a disk that fills up does."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def do(trainer):
        if trainer.step in (2, 7):
            trainer.checkpoints.wait()
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000 if trainer.step == 2 else soft, hard))

    try:
        at_steps(monkeypatch, do)
        with pytest.warns(RuntimeWarning, match="no checkpoint at step 3: .*too large"):
            go(tmp_path / "run", checkpoint_batches=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.undo()
    assert {e["step"] for e in events(tmp_path / "run", "checkpoint")} == {0, 1, 2, *range(8, 13)}
    assert {e["epoch"] for e in events(tmp_path / "run", "train")} == {1, 2, 3}
    assert not list((tmp_path / "run").glob("*.tmp"))
    same_bits(go(tmp_path / "whole").out, tmp_path / "run")


def test_lines_of_the_log_wait_for_room(tmp_path, monkeypatch):
    """And no checkpoint is ahead of the log, which would not be told again."""
    from pyconvnet.training.log import Log

    real, full = Log._append, []

    def append(self, lines):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        real(self, lines)

    def do(trainer):
        if trainer.step == 3:
            trainer.checkpoints.wait()
        full[:] = [True] if 3 <= trainer.step < 9 else []

    monkeypatch.setattr(Log, "_append", append)
    at_steps(monkeypatch, do)
    with pytest.warns(RuntimeWarning, match="No space left"):
        go(tmp_path, checkpoint_batches=1)
    assert [e["epoch"] for e in events(tmp_path, "train")] == [1, 2, 3]
    assert not {5, 6, 7, 8, 9} & {e["step"] for e in events(tmp_path, "checkpoint")}


# ---- signals -----------------------------------------------------------------------------------------------
@posix
def test_usr2_saves_and_the_run_goes_on(tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGUSR2)
    at_steps(monkeypatch, lambda t: t.step in (1, 6) and os.kill(os.getpid(), signal.SIGUSR2))
    run = go(tmp_path / "run")
    assert not run.interrupted
    saved = [(e["step"], e["reason"]) for e in events(tmp_path / "run", "checkpoint")]
    assert saved == [(0, "start"), (2, "signal"), (4, "epoch"), (7, "signal"), (8, "epoch"), (12, "epoch")]
    assert signal.getsignal(signal.SIGUSR2) == before
    monkeypatch.undo()
    same_bits(go(tmp_path / "whole").out, tmp_path / "run")


@posix
@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM"])
def test_usr1_and_term_save_and_end(tmp_path, monkeypatch, name):
    at_steps(monkeypatch, lambda t: t.step == 5 and os.kill(os.getpid(), signal.Signals[name]))
    assert go(tmp_path / "run").interrupted
    assert pcn.load(tmp_path / "run" / "last.safetensors").info["step"] == 6
    assert events(tmp_path / "run", "checkpoint")[-1]["reason"] == "interrupted"
    monkeypatch.undo()
    go(tmp_path / "run", resume=True)
    same_bits(go(tmp_path / "whole").out, tmp_path / "run")


@posix
def test_usr2_while_one_is_being_written_is_not_forgotten(tmp_path, monkeypatch, in_background):
    disk = Held(monkeypatch)

    def do(trainer):
        if trainer.step in (1, 2):
            os.kill(os.getpid(), signal.SIGUSR2)
        if trainer.step == 7:
            disk.go.set()
            trainer.checkpoints.wait()

    at_steps(monkeypatch, do)
    go(tmp_path, data=None, batch_size=10)
    asked = [e["step"] for e in events(tmp_path, "checkpoint") if e["reason"] == "signal"]
    assert asked == [2, 8]


def test_memory_of_a_written_checkpoint_serves_the_next(tmp_path, monkeypatch):
    """And none that a model still to be written, or the one returned, has."""
    seen, real = [], module.resuming.write

    def write(path, model, state, momenta, *rest):
        seen.append((id(model.parameters["fc2.weight"]), id(momenta["fc2.weight"])))
        real(path, model, state, momenta, *rest)

    monkeypatch.setattr(module.resuming, "write", write)
    run = go(tmp_path, checkpoint_batches=2)
    assert len(set(seen)) == 1 < len(seen)
    assert not run.model.parameters["fc2.weight"].flags.writeable
    assert id(run.model.parameters["fc2.weight"]) != seen[0][0]


def test_without_validation_the_end_of_an_epoch_is_saved_once(tmp_path):
    go(tmp_path, checkpoint_batches=1, epochs=2, validation=False)
    told = [(e["step"], e["reason"]) for e in events(tmp_path, "checkpoint")]
    assert len({step for step, _ in told}) == len(told)
    assert told[-1] == (10, "epoch")
