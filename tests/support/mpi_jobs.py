"""Jobs of several processes for the tests of training under ``mpirun``, and ranks that are threads."""

import functools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import pyconvnet
from pyconvnet.training.ranks import Ranks
from support.runs import python_path

#: What lets Open MPI start as root, and more ranks than there are cores; other MPIs need none of it. One
#: thread a rank: there are more ranks than cores already.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PYCONVNET_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


def _launcher():
    """The ``mpirun`` beside this Python, which goes with the MPI of its packages, else that on the path."""
    beside = Path(sys.executable).parent
    for name in ("mpirun", "mpiexec"):
        found = shutil.which(name, path=str(beside)) or shutil.which(name)
        if found:
            return found
    return None


@functools.cache
def missing():
    """(why MPI cannot be used or None, version of the library)."""
    if _launcher() is None:
        return "there is no mpirun", ""
    code = "from mpi4py import MPI; w = MPI.COMM_WORLD; w.rank or print(w.size, MPI.Get_library_version())"
    said = start(2, ["-c", code]).communicate(timeout=60)
    if not said[0].startswith("2 "):
        return f"mpirun -n 2 with mpi4py does not work: {' '.join(''.join(said).split())[-200:]}", ""
    return None, said[0].splitlines()[0]


def need_mpi():
    """Skip the calling test where there is no MPI, or fail where PYCONVNET_REQUIRE asks for it."""
    reason = missing()[0]
    if reason is not None:
        if "mpi" in os.environ.get("PYCONVNET_REQUIRE", ""):
            pytest.fail(f"PYCONVNET_REQUIRE asks for mpi, but {reason}")
        pytest.skip(f"{reason}; install one with: pip install mpi4py mpich")


def forwards_signals():
    """Whether mpirun hands Ctrl-C on and waits; Open MPI's ends the ranks a quarter of a second later."""
    return "MPICH" in missing()[1]


def start(ranks, arguments, cwd=None, **options):
    """``mpirun -n ranks python arguments``, as a Popen with both outputs as text."""
    package = str(Path(pyconvnet.__file__).parents[1])  # the one under test, also for cwd elsewhere
    paths = {"PYTHONPATH": os.pathsep.join([python_path(), package])}
    environment = {**os.environ, **ENVIRONMENT, **paths, **options.pop("env", {})}
    return subprocess.Popen(
        [_launcher(), "-n", str(ranks), sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # a Ctrl-C for the tests is not for them
        **options,
    )


def start_script(ranks, script, cwd):
    """The same for lines of Python."""
    return start(ranks, ["-c", script], cwd)


def finish(job, seconds=60):
    """(exit status, output, errors) of a job; it is ended by force where it takes too long."""
    try:
        output, errors = job.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        job.kill()
        raise AssertionError(f"the job did not end within {seconds} s") from None
    return job.returncode, output, errors


# ---- ranks that are threads ------------------------------------------------------------------------------
class World:
    """Threads of this process that act as ranks: ``run`` calls a function once for each."""

    def __init__(self, size):
        self.size = size
        self.barrier = threading.Barrier(size)
        self.slots = [None] * size

    def run(self, function):
        """[function(ranks) of every rank]; an error of one ends all, and the first is raised."""
        results, errors = [None] * self.size, [None] * self.size

        def body(rank):
            try:
                results[rank] = function(ThreadRanks(self, rank))
            except BaseException as error:
                errors[rank] = error
                if not hasattr(error, "tell"):
                    self.barrier.abort()

        threads = [threading.Thread(target=body, args=(rank,)) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "a rank hangs"
        self.errors = errors
        for error in errors:
            if error is not None and not isinstance(error, threading.BrokenBarrierError):
                raise error
        return results


class ThreadRanks(Ranks):
    def __init__(self, world, rank):
        super().__init__()
        self.world, self.rank, self.size = world, rank, world.size
        self.local_rank, self.local_size = rank, world.size

    def gather(self, value):
        self.world.slots[self.rank] = value
        self.world.barrier.wait(60)
        values = list(self.world.slots)
        self.world.barrier.wait(60)
        return values

    def sum(self, values):
        return np.sum(self.gather(np.array(values, np.float64)), axis=0)

    def broadcast(self, value):
        return self.gather(value)[0]

    def communicator(self, devices):
        return ThreadCommunicator(self) if self.size > 1 else None


class ThreadCommunicator:
    capturable = False

    def __init__(self, ranks):
        self.ranks, self.begun = ranks, []
        self.sizes = []  # of the buckets of one step

    def start(self, array, shard=0):
        self.begun.append(array)

    def finish(self):
        if self.begun:
            self.sizes = [array.size for array in self.begun]
        for array in self.begun:
            parts = self.ranks.gather(array.copy())
            array[...] = functools.reduce(np.add, parts)
        self.begun = []
