"""Loader: order, resumption, workers, errors, and processes that end."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from support import TESTS
from support import make_files as mk

from pyconvnet import data
from pyconvnet.data import Loader

ROOT = Path(data.__file__).resolve().parents[2]  # where the package under test lies


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = mk.image_folder(tmp_path_factory.mktemp("loader"), count=7)
    mk.truncate(root / "bee" / "3.jpg")
    return root


@pytest.fixture
def numbered():
    """Images whose pixels say their index."""
    x = np.arange(50, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 1), np.uint8)
    return data.ArrayDataset(x, np.arange(50) % 4)


class Slow(data.Dataset):
    """Not in memory, so that the loader's thread or its workers read it; fails at one index."""

    name = "slow"

    def __init__(self, n=40, bad=None, how="raise", delay=0.0, journal=None):
        self.classes, self.labels, self.image_shape = ["a"], np.zeros(n, np.int32), (2, 3, 1)
        self.bad, self.how, self.delay, self.journal = bad, how, delay, journal

    def _read(self, indices):
        time.sleep(self.delay)
        if self.journal is not None:
            with open(self.journal, "a") as file:
                file.write("x" * len(indices))
        if self.bad in indices:
            if self.how == "raise":
                raise ValueError(f"image {self.bad} is bad")
            if self.how == "unpicklable":
                raise type("Local", (Exception,), {})(lambda: 0)
            if self.how == "print":
                print("a dataset that prints")
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "exit":
                os._exit(3)
        return np.broadcast_to(indices[:, None, None, None].astype(np.uint8), (len(indices), 2, 3, 1))

    def _identity(self):
        yield b"slow"


def same(a, b):
    assert len(a) == len(b)
    for p, q in zip(a, b, strict=True):
        np.testing.assert_array_equal(p.images, q.images)
        np.testing.assert_array_equal(p.labels, q.labels)
        np.testing.assert_array_equal(p.indices, q.indices)


# ---- order -----------------------------------------------------------------------------------------------
def test_batches_carry_their_images_and_labels(numbered):
    loader = Loader(numbered, 8, seed=3)
    batches = list(loader.epoch(0))
    assert [len(b) for b in batches] == [8, 8, 8, 8, 8, 8, 2]
    assert len(loader) == 7
    for b in batches:
        np.testing.assert_array_equal(b.images[:, 0, 0, 0], b.indices)
        np.testing.assert_array_equal(b.labels, b.indices % 4)
    assert sorted(np.concatenate([b.indices for b in batches])) == list(range(50))


def test_drop_last_leaves_out_the_remainder(numbered):
    loader = Loader(numbered, 8, drop_last=True)
    assert [len(b) for b in loader.epoch(0)] == [8] * 6 == [8] * len(loader)


def test_order_is_a_function_of_seed_and_epoch(numbered):
    first = Loader(numbered, 5, seed=1).order(4)
    np.testing.assert_array_equal(first, Loader(numbered, 7, seed=1, drop_last=True).order(4))
    assert first.tolist() != Loader(numbered, 5, seed=1).order(5).tolist()
    assert first.tolist() != Loader(numbered, 5, seed=2).order(4).tolist()
    assert Loader(numbered, 5, seed=1, shuffle=False).order(4).tolist() == list(range(50))


def test_order_never_changes(numbered):
    """Known answer: a run resumed with a newer version, or another NumPy, must go on in the same order."""
    assert Loader(numbered, 5, seed=12).order(3)[:8].tolist() == [40, 45, 13, 32, 34, 33, 35, 31]


def test_order_is_uniform():
    x = np.zeros((5, 1, 1, 1), np.uint8)
    loader = Loader(data.ArrayDataset(x, np.zeros(5, int)), 5)
    counts = np.zeros((5, 5))
    for epoch in range(4000):
        counts[np.arange(5), loader.order(epoch)] += 1
    assert np.abs(counts - 800).max() < 120  # 4.7 standard deviations


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_it_was_left(folder, workers):
    dataset = data.ImageFolder(folder, size=8)
    with Loader(dataset, 4, seed=5, workers=workers) as loader:
        with pytest.warns(RuntimeWarning):
            whole = list(loader.epoch(2))
        for start in (0, 1, 5, 6):
            same(whole[start:], list(loader.epoch(2, start=start)))


# ---- workers ---------------------------------------------------------------------------------------------
def test_batches_do_not_depend_on_the_number_of_workers(folder):
    reference = None
    for workers in (0, 1, 3):
        dataset = data.ImageFolder(folder, size=12)
        with (
            Loader(dataset, 5, seed=9, workers=workers) as loader,
            pytest.warns(RuntimeWarning, match=r"bee/3\.jpg"),
        ):
            batches = [b for epoch in range(2) for b in loader.epoch(epoch)]
        assert list(dataset.skipped) == ["bee/3.jpg"]  # reported from whichever process met it
        reference = reference or batches
        same(reference, batches)


def test_more_workers_than_images_in_a_batch(folder):
    dataset = data.Subset(data.ImageFolder(folder, size=8), [0, 1, 2, 16, 17])
    with Loader(dataset, 2, workers=4, shuffle=False) as loader:
        batches = list(loader.epoch(0))
    np.testing.assert_array_equal(np.concatenate([b.images for b in batches]), dataset.read(range(5)))


def test_a_batch_stays_when_the_next_is_read():
    with Loader(Slow(), 4, shuffle=False, workers=1, prefetch=1) as loader:
        batches = list(loader.epoch(0))
    np.testing.assert_array_equal(np.concatenate([b.images[:, 0, 0, 0] for b in batches]), np.arange(40))


def test_an_epoch_left_early_does_not_disturb_the_next():
    with Loader(Slow(), 4, shuffle=False, workers=2) as loader:
        for _ in range(3):
            batches = loader.epoch(0)
            assert next(batches).indices[0] == 0
            assert next(batches).indices[0] == 4
        again = list(loader.epoch(0))
        np.testing.assert_array_equal(np.concatenate([b.images[:, 0, 0, 0] for b in again]), np.arange(40))
        old, new = loader.epoch(0), loader.epoch(1)
        next(old)
        next(new)
        with pytest.raises(RuntimeError, match="start of another"):
            next(old)
        assert len(list(new)) == 9


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_are_read_ahead_but_not_too_far(tmp_path, workers):
    journal = tmp_path / "journal"
    with Loader(Slow(journal=journal), 4, workers=workers, prefetch=3) as loader:
        batches = loader.epoch(0)
        next(batches)
        deadline = time.time() + 60
        while (
            journal.stat().st_size < 4 * 4 and time.time() < deadline
        ):  # nobody asks for the three that follow
            time.sleep(0.01)
        time.sleep(0.2)
        assert 4 * 4 <= journal.stat().st_size <= 4 * 5
        batches.close()


def test_an_array_batch_costs_little():
    rng = np.random.default_rng(0)
    dataset = data.ArrayDataset(
        rng.integers(0, 256, (10000, 32, 32, 3), dtype=np.uint8), np.zeros(10000, int)
    )
    loader = Loader(dataset, 128)
    costs = []
    for _ in range(5):
        begin = time.thread_time()  # not the clock's: others may be using the machine
        batches = sum(1 for _ in loader.epoch(0))
        costs.append((time.thread_time() - begin) / batches)
    assert min(costs) < 1e-3


# ---- errors and ends -------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_dataset_reaches_the_caller(workers):
    loader = Loader(Slow(bad=21), 4, shuffle=False, workers=workers)
    batches = loader.epoch(0)
    for _ in range(5):
        next(batches)
    with pytest.raises(ValueError, match="image 21 is bad") as caught:
        next(batches)
    if workers:
        assert "in a worker process" in caught.value.__notes__[0]
        assert loader._pool is None
    assert len(next(iter(loader.epoch(0)))) == 4  # and the loader can be used again
    loader.close()


def test_an_error_that_cannot_be_pickled_still_arrives():
    with (
        Loader(Slow(bad=1, how="unpicklable"), 4, shuffle=False, workers=1) as loader,
        pytest.raises(RuntimeError, match="Local"),
    ):
        list(loader.epoch(0))


def test_what_a_dataset_prints_does_not_get_into_the_way():
    with Loader(Slow(bad=1, how="print"), 4, shuffle=False, workers=1) as loader:
        assert len(list(loader.epoch(0))) == 10


@pytest.mark.parametrize(("how", "what"), [("die", "signal SIGKILL.*memory"), ("exit", "exit code 3")])
def test_a_worker_that_dies_is_an_error_not_a_hang(how, what):
    loader = Loader(Slow(bad=21, how=how), 4, shuffle=False, workers=2)
    begin = time.perf_counter()
    with pytest.raises(RuntimeError, match=rf"worker process \d died \({what}"):
        list(loader.epoch(0))
    assert time.perf_counter() - begin < 20
    assert loader._pool is None


def test_a_dataset_that_cannot_be_sent_is_an_error():
    class Local(Slow):
        pass

    with pytest.raises(TypeError, match=r"cannot be sent to worker processes: .*Local.*; use workers=0"):
        next(iter(Loader(Local(), 4, workers=1).epoch(0)))


def run(script, tmp_path, **options):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    folders = os.pathsep.join(map(str, (ROOT, TESTS, Path(__file__).parent)))
    environment = {**os.environ, "PYTHONPATH": folders}
    # A shell without job control starts background commands with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        return subprocess.Popen(
            [sys.executable, str(path)], env=environment, text=True, start_new_session=True, **options
        )
    finally:
        signal.signal(signal.SIGINT, before)


def children(process):
    """Processes of the session that `process` leads, itself left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == process.pid and int(entry.name) != process.pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")

SCRIPT = """
    import sys, time
    from pyconvnet import data
    from test_loader import Slow
    loader = data.Loader(Slow(n=4000, delay=0.01), 4, workers=2)
    batches = loader.epoch(0)
    next(batches)
    print("ready", flush=True)
    {}
"""


@linux
@pytest.mark.parametrize(
    ("ending", "sign", "code"),
    [
        ("for b in batches: pass", signal.SIGINT, -signal.SIGINT),  # Ctrl-C, uncaught
        ("for b in batches: pass", signal.SIGKILL, -signal.SIGKILL),
        ("for b in batches: pass", signal.SIGTERM, -signal.SIGTERM),
        ("sys.exit(7)", None, 7),  # a script without `if __name__` and without close()
    ],
)
def test_no_process_is_left_behind(tmp_path, ending, sign, code):
    process = run(SCRIPT.format(ending), tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    if sign is not None:
        assert len(children(process)) == 2
        if sign == signal.SIGINT:
            os.killpg(process.pid, sign)  # as a terminal sends it: to the workers too
        else:
            process.send_signal(sign)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == code, errors
    if sign == signal.SIGINT:
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1  # the workers keep quiet
    deadline = time.time() + 10
    while children(process) and time.time() < deadline:
        time.sleep(0.02)
    assert not children(process)


def test_a_dataset_of_the_main_script_is_refused_with_a_reason(tmp_path):
    script = """
        from pyconvnet import data
        from test_loader import Slow
        class Mine(Slow):
            pass
        try:
            list(data.Loader(Mine(), 4, workers=1).epoch(0))
        except TypeError as error:
            print(error)
    """
    process = run(script, tmp_path, stdout=subprocess.PIPE)
    said = process.communicate(timeout=60)[0]
    assert "Mine is defined in __main__" in said
    assert "use workers=0" in said
