"""Ranks without MPI: who is one, errors of one and of all, shares of the data; threads that train."""

import importlib
import re
import sys
import threading

import numpy as np
import pytest
from support.mpi_jobs import World
from support.runs import events, small, toy

import pyconvnet as pcn
from pyconvnet.common.devices import Device
from pyconvnet.data import ArrayDataset, Loader, statistics
from pyconvnet.plan import buckets
from pyconvnet.training import loop as trainer_module
from pyconvnet.training import ranks as ranks_module
from pyconvnet.training import resume as resuming
from pyconvnet.training.loop import Trainer
from pyconvnet.training.ranks import RankError, Ranks, current, launched

train_module = importlib.import_module("pyconvnet.training.train")


# ---- who ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("environment", "count"),
    [
        ({}, 1),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, 4),
        ({"PMI_SIZE": "3", "PMI_RANK": "1"}, 3),
        ({"PMI_SIZE": "1"}, 1),
        ({"SLURM_STEP_NUM_TASKS": "8", "PMIX_RANK": "0"}, 8),
        ({"SLURM_STEP_NUM_TASKS": "8"}, 1),  # a task that no MPI has launched
        ({"SLURM_NTASKS": "8"}, 1),  # a batch script
        ({"PMI_SIZE": "many"}, 1),
    ],
)
def test_the_launcher_says_how_many_there_are(environment, count):
    assert launched(environment) == count


def test_alone_mpi_is_not_even_imported(monkeypatch):
    for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    alone = current.__wrapped__()
    assert (alone.rank, alone.size, alone.main) == (0, 1, True)
    assert alone.communicator([]) is None


def test_without_mpi4py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "4")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r'one of 4 ranks.*pip install "pyconvnet\[mpi\]"'):
        current.__wrapped__()


def test_each_rank_of_a_host_takes_its_own_gpu(monkeypatch):
    gpus = [Device("cuda", i, np, None) for i in range(4)]
    asked = []

    def get_device(device):
        asked.append(device)
        return gpus[0] if device is None else gpus[int(device.partition(":")[2])]

    monkeypatch.setattr(train_module, "get_device", get_device)
    me = Ranks()
    me.local_rank = 2
    assert train_module._own_device(me) is gpus[2]
    assert asked == [None, "cuda:2"]


class Files:
    """A dataset for worker processes: not in memory, and of a module that they can import."""

    in_memory = False


def test_ranks_of_a_host_share_its_processors():
    free, bound = [set(range(12))] * 4, [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}, {9, 10, 11}]
    assert [ranks_module._own_cores(free, rank) for rank in range(4)] == [3] * 4
    assert [ranks_module._own_cores(bound, rank) for rank in range(4)] == [3] * 4
    assert ranks_module._own_cores([{0, 1}] * 5, 0) == 1

    me = Ranks()
    assert me.cores == ranks_module._own_cores([ranks_module._allowed()], 0)
    for cores, workers in ((3, 3), (12, 8)):
        me.cores = cores
        assert train_module._workers(None, Files(), me) == workers
    assert train_module._workers(5, Files(), me) == 5


# ---- errors ------------------------------------------------------------------------------------------------
def test_together_all_succeed_or_none():
    def fail_in_2(ranks):
        with ranks.together():
            if ranks.rank == 2:
                raise ValueError("not here")

    def body(ranks):
        with ranks.together():
            pass
        with pytest.raises(ValueError if ranks.rank == 2 else RankError) as caught:
            fail_in_2(ranks)
        assert caught.value.tell == (ranks.rank == 2)
        if ranks.rank != 2:
            assert str(caught.value) == "rank 2 of 3 failed: ValueError: not here"
        return ranks.any(ranks.rank == 1), ranks.any(False)

    assert World(3).run(body) == [(True, False)] * 3


def test_guard_ends_the_job_for_errors_of_one_rank_only(capsys):
    ended = []

    class Two(Ranks):
        rank, size = 1, 2

        def abort(self, reason):
            ended.append(reason)
            raise SystemExit(1)

    with pytest.raises(SystemExit), Two().guard():
        raise OSError("disk full")
    assert ended == ["OSError: disk full"]
    assert "disk full" in capsys.readouterr().err
    shared = Two().shared(ValueError("everywhere"))
    with pytest.raises(ValueError, match="everywhere"), Two().guard():
        raise shared
    assert len(ended) == 1
    assert not shared.tell
    with pytest.raises(OSError, match="alone"), Ranks().guard():
        raise OSError("alone")


# ---- shares of the data ------------------------------------------------------------------------------------
class OnDisk(ArrayDataset):
    """Arrays that are read as files would be; remembers what was asked for."""

    in_memory = False

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.asked = []

    def read(self, indices):
        self.asked.append(list(indices))
        return super().read(indices)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", [ArrayDataset, OnDisk])
def test_shares_put_together_are_the_batches(kind, workers):
    x, y = toy(42)
    whole = list(Loader(ArrayDataset(x, y), 20, seed=3).epoch(1))
    assert [(b.first, b.total) for b in whole] == [(0, 20), (0, 20), (0, 2)]
    parts = []
    for rank in range(3):
        with Loader(kind(x, y), 20, seed=3, workers=workers, share=(rank, 3)) as loader:
            parts.append(list(loader.epoch(1)))
    assert [[len(b) for b in part] for part in parts] == [[6, 6, 0], [7, 7, 1], [7, 7, 1]]
    for number, batch in enumerate(whole):
        shares = [part[number] for part in parts]
        for name in ("images", "labels", "indices"):
            joined = np.concatenate([getattr(share, name) for share in shares])
            np.testing.assert_array_equal(joined, getattr(batch, name))
        assert [share.first for share in shares] == list(np.cumsum([0, *map(len, shares)])[:3])
        assert {share.total for share in shares} == {batch.total}


def test_a_rank_reads_its_own_share_only():
    x, y = toy(42)
    data = OnDisk(x, y)
    loader = Loader(data, 20, seed=3, share=(1, 3))
    read = [list(batch.indices) for batch in loader.epoch(0, start=1)]
    assert data.asked == read
    order = loader.order(0)
    assert read == [list(order[20 + 6 : 20 + 13]), list(order[40:41])]


@pytest.mark.parametrize(
    ("share", "error"),
    [
        ((2, 2), ValueError),
        ((-1, 2), ValueError),
        ((0, 0), ValueError),
        (3, TypeError),
        ((0, 1.0), TypeError),
        ((0, 1, 2), TypeError),
    ],
)
def test_a_share_that_is_none(share, error):
    with pytest.raises(error, match=r"share(\[\d\])? must be"):
        Loader(ArrayDataset(*toy(8)), 4, share=share)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
def test_statistics_of_shares_are_those_of_the_whole(kind):
    x, y = toy(300)
    data = ArrayDataset((x / 255).astype(np.float32) if kind == "float32" else x, y)
    whole = statistics(data)
    shared = World(3).run(lambda ranks: statistics(data, share=(ranks.rank, 3), add_up=ranks.sum))
    for other in shared:
        for name in ("mean_image", "mean_pixel", "eigenvalues", "eigenvectors"):
            value = getattr(whole, name)
            if kind == "uint8":  # whole numbers: no sum is rounded
                np.testing.assert_array_equal(getattr(other, name), value)
            np.testing.assert_allclose(getattr(other, name), value, rtol=1e-6, atol=1e-9)
        assert (other.count, other.pixel_range) == (whole.count, whole.pixel_range)


# ---- training ----------------------------------------------------------------------------------------------
OPTIONS = {"epochs": 2, "batch_size": 40, "lr": 0.02, "progress": False, "devices": "cpu"}


@pytest.fixture
def train(monkeypatch):
    """``train(size, out, **options)``: what every rank returns; ``each(ranks)`` gives options of a rank."""
    here = threading.local()
    monkeypatch.setattr(train_module, "current", lambda: here.ranks)

    def run(size, out, data=None, each=lambda ranks: {}, **options):
        def body(ranks):
            here.ranks = ranks
            mine = {
                "model": small(),
                "validation": toy(30, seed=1),
                "data": toy(162) if data is None else data,
                **each(ranks),
            }
            return pcn.train(out=out, **{**OPTIONS, **mine, **options})

        run.world = World(size)
        return run.world.run(body)

    return run


@pytest.mark.parametrize("size", [2, 3, 5])
def test_threads_that_train_are_one_process_that_trains(tmp_path, train, monkeypatch, size):
    """The last batch holds 2 images; buckets of few elements, so that there are several on the way."""
    monkeypatch.setattr(buckets, "BUCKET", 100)
    made = []
    real = Trainer.__init__

    def remember(self, *arguments, **options):
        real(self, *arguments, **options)
        made.append(self)

    monkeypatch.setattr(Trainer, "__init__", remember)
    (whole,) = train(1, tmp_path / "whole")
    runs = train(size, tmp_path / "run")
    for run in runs:
        for name, value in whole.model.parameters.items():
            np.testing.assert_allclose(run.model.parameters[name], value, rtol=2e-4, atol=2e-6, err_msg=name)
            np.testing.assert_array_equal(run.model.parameters[name], runs[0].model.parameters[name])
        assert run.history == runs[0].history
        for mine, other in zip(run.history, whole.history, strict=True):
            assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=1e-5)
            assert mine["validation_error"] == other["validation_error"]
    assert made[0].communicator is None
    for trainer in made[1:]:
        assert len(trainer.communicator.sizes) == 3
        assert sum(trainer.communicator.sizes) >= trainer.network.num_parameters
        assert trainer.plan.batch_size == -(-40 // size)
        tasks = [task.name for task in trainer.plan.tasks("backward", n=1)]
        sent = [at for at, name in enumerate(tasks) if "to other processes" in name]
        assert sent[0] < tasks.index("fc2 backward @0")  # under way while backward goes on


def test_ranks_of_several_devices(tmp_path, train):
    """Two towers, or two replicas, in each of two ranks."""
    (whole,) = train(1, tmp_path / "whole")
    for number, how in enumerate([{}, {"replicas": 2}, {"replicas": 2, "hybrid": True}]):
        out = tmp_path / f"run{number}"
        for run in train(2, out, devices=["cpu", "cpu"], **how):
            for name, value in whole.model.parameters.items():
                np.testing.assert_allclose(
                    run.model.parameters[name], value, rtol=2e-4, atol=2e-6, err_msg=name
                )
        start = events(out, "start")[0]
        assert (start["devices"], start["ranks"]) == (["cpu", "cpu"], 2)
        assert start["replicas"] == how.get("replicas", 1)


def test_all_stop_where_one_is_asked_to(tmp_path, train, monkeypatch):
    real = Trainer._train_batch

    def asked(self, batch):
        if self.ranks.rank == 1 and self.step == 6:
            self.signals.stop = True
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", asked)
    runs = train(3, tmp_path / "run", epochs=50)
    assert all(run.interrupted for run in runs)
    assert pcn.load(tmp_path / "run" / "last.safetensors").info["step"] == 7
    assert events(tmp_path / "run")[-1]["reason"] == "interrupted"


def test_all_save_where_one_is_asked_to(tmp_path, train, monkeypatch):
    """SIGUSR2 to any rank is a checkpoint of all, and nobody stops."""
    real = Trainer._train_batch

    def asked(self, batch):
        self.signals._save |= self.ranks.rank == 1 and self.step == 6
        real(self, batch)

    monkeypatch.setattr(Trainer, "_train_batch", asked)
    runs = train(3, tmp_path / "run", epochs=3)
    assert not any(run.interrupted for run in runs)
    saved = [(e["step"], e["reason"]) for e in events(tmp_path / "run", "checkpoint")]
    assert saved == [(0, "start"), (5, "epoch"), (8, "signal"), (10, "epoch"), (15, "epoch")]


def test_an_end_that_cannot_be_saved_is_an_error_of_all(tmp_path, train, monkeypatch):
    real = resuming.write

    def write(path, model, state, *rest):
        if state["step"] > 5:
            raise OSError(28, "No space left on device", str(path))
        real(path, model, state, *rest)

    monkeypatch.setattr(resuming, "write", write)
    with pytest.warns(RuntimeWarning, match="no checkpoint at step 10"), pytest.raises(pcn.UnsavedError):
        train(3, tmp_path / "run", epochs=3)
    first, *others = train.world.errors
    assert "step 5's is whole" in str(first)
    assert len(first.run.history) == 3
    assert all(isinstance(error, RankError) and "rank 0 of 3 failed" in str(error) for error in others)
    assert pcn.load(tmp_path / "run" / "last.safetensors").info["step"] == 5


def test_all_stop_in_validation(tmp_path, train, monkeypatch):
    real = Trainer._validate

    def asked(self):
        self.signals.stop = self.ranks.rank == 2
        return real(self)

    monkeypatch.setattr(Trainer, "_validate", asked)
    runs = train(3, tmp_path / "run", epochs=50)
    assert all(run.interrupted for run in runs)
    saved = pcn.load(tmp_path / "run" / "last.safetensors").info
    assert (saved["epoch"], saved["step"]) == (0, 5)


@pytest.mark.filterwarnings("ignore:.*encountered in")
def test_a_bad_loss_in_one_rank_is_everyones(tmp_path, train):
    """One image overflows: every rank raises the same error, and names the rank that saw it."""
    x, y = toy(162)
    x = x.astype(np.float32)
    x[7] = 3e38
    augment = {"mean": None, "crop": 6}
    at = int(np.nonzero(Loader(ArrayDataset(x, y), 40, seed=0).order(0) == 7)[0][0])
    rank = (at % 40) // 10
    with pytest.raises(pcn.NonFiniteLossError) as caught:
        train(4, tmp_path / "run", data=(x, y), validation=False, augment=augment, checkpoint_batches=1)
    text = str(caught.value)
    assert re.search(
        f"step {at // 40 + 1}: first bad: the output of layer 'conv1'.*, in rank {rank}\\.", text
    )
    assert {str(error) for error in train.world.errors} == {text}
    assert [error.tell for error in train.world.errors] == [True, False, False, False]
    assert events(tmp_path / "run")[-1]["reason"] == "not finite"
    assert pcn.load(tmp_path / "run" / "last.safetensors").info["step"] == at // 40


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (lambda ranks: {"lr": 0.01 * (1 + ranks.rank)}, "rank 1 has another set of options than rank 0"),
        (lambda ranks: {"data": toy(160 + ranks.rank)}, "rank 1 has another set of train images than rank 0"),
        (
            lambda ranks: {"validation": toy(30, seed=ranks.rank // 2)},
            "rank 2 has another set of validation images",
        ),
        (lambda ranks: {"checkpoint_batches": 1 + ranks.rank}, "another rhythm of checkpoints"),
        (lambda ranks: {"batch_size": 2}, "batch_size must be at least the number of ranks, 3, got 2"),
    ],
)
def test_ranks_must_be_given_the_same(tmp_path, train, each, message):
    with pytest.raises(ValueError, match=message):
        train(3, tmp_path / "run", each=each)
    assert all(isinstance(error, ValueError) for error in train.world.errors)


def test_what_only_one_rank_cannot_read_is_an_error_everywhere(tmp_path, train):
    with pytest.raises(RankError, match=r"rank 1 of 3 failed: .*nowhere"):
        train(3, tmp_path / "run", each=lambda ranks: {"data": "nowhere"} if ranks.rank == 1 else {})
    assert not (tmp_path / "run").exists()


def test_ranks_check_in_the_same_steps(tmp_path, train, monkeypatch):
    """Where they would not, PYCONVNET_SYNC in one of them say, the most careful decides."""
    checked, wishes = [], iter([50, 2, 50])
    monkeypatch.setattr(trainer_module, "steps_between_checks", lambda device: next(wishes))
    real = Trainer._checked_step

    def checked_step(self, n):
        checked.append((self.ranks.rank, self.step))
        real(self, n)

    monkeypatch.setattr(Trainer, "_checked_step", checked_step)
    train(3, tmp_path / "run", epochs=1)
    assert sorted(checked) == [(rank, step) for rank in range(3) for step in (1, 3)]


def test_parameters_that_drift_apart_are_noticed_when_saved(tmp_path, train, monkeypatch):
    real = Trainer._train_batch

    def drift(self, batch):
        real(self, batch)
        if self.ranks.rank == 1 and self.step == 3:
            self.plan.parameters["fc3.bias"][0] += 1e-3

    monkeypatch.setattr(Trainer, "_train_batch", drift)
    with pytest.raises(RuntimeError, match="step 4: rank 1 has another model"):
        train(2, tmp_path / "run", checkpoint_batches=2)
    assert pcn.load(tmp_path / "run" / "last.safetensors").info["step"] == 2


def test_a_model_to_go_on_from_is_rank_0s(tmp_path, train):
    """Where the ranks were handed different parameters, those of rank 0 count."""
    (first,) = train(1, tmp_path / "first", epochs=1)

    def each(ranks):
        model = pcn.load(first.out)
        model.parameters = {name: value + ranks.rank for name, value in model.parameters.items()}
        return {"model": model}

    wanted = pcn.load(first.out).parameters
    for run in train(2, tmp_path / "run", each=each, epochs=0):
        for name, value in wanted.items():
            np.testing.assert_array_equal(run.model.parameters[name], value)
