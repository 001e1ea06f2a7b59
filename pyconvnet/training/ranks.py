"""Processes that train together: who they are, and the little they tell each other on the host.

``mpirun`` (or ``srun``) starts them and says in environment variables how many there are; mpi4py is imported
only where there are several. Gradients have a road of their own, see :mod:`pyconvnet.plan.communicator`;
here are flags, sums of a few numbers, and errors. Everything named *collective* must be called by every rank,
in the same order.

An error in one rank must not leave the others waiting for it for ever. Two context managers see to that:
inside ``together()``, which holds no collective call, an error anywhere becomes an error everywhere; inside
``guard()`` an error that only some ranks have ends the whole job. A rank that is killed is noticed by
``mpirun``, which ends the others.

Sources: the variables are those of Open MPI (OMPI_COMM_WORLD_SIZE), of every launcher descended from MPICH's
Hydra (PMI_SIZE: MPICH, Intel MPI, MVAPICH), and of Slurm's PMIx plugin (PMIX_RANK beside
SLURM_STEP_NUM_TASKS; Slurm sets the latter for tasks that no MPI has launched too, so it does not count
alone). The calls are MPI-4.0, chapters 6 (collectives) and 9.5 (MPI_Abort).
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..common.devices import Device
from ..common.threads import set_num_threads

if TYPE_CHECKING:
    from ..plan.communicator import Communicator

_THREADS = ("PYCONVNET_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class RankError(RuntimeError):
    """Another rank failed; the message says which one and how."""


class Ranks:
    """This process among those of the job; the class itself is a process alone, whose collectives do nothing.

    Attributes
    ----------
    rank, size : int
        This process's number, and how many there are.
    local_rank, local_size : int
        The same among those of this host.
    cores : int
        Processors that this process may use without taking them from the other ranks.
    """

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def __init__(self) -> None:
        self.cores = len(_allowed())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.rank} of {self.size})"

    @property
    def main(self) -> bool:
        """True in the one process that writes files and talks to the user."""
        return self.rank == 0

    # ---- collective ----------------------------------------------------------------------------------------
    def sum(self, values: Any) -> np.ndarray:
        """Add up a few numbers over all ranks, float64; the same bits in every rank (collective)."""
        return np.array(values, np.float64)

    def gather(self, value: Any) -> list[Any]:
        """Gather every rank's value, in order of rank, in every rank (collective)."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value in every rank (collective)."""
        return value

    def communicator(self, devices: Sequence[Device]) -> Communicator | None:
        """Return what sums gradients over the ranks; None where nothing is to be summed (collective)."""
        return None

    def any(self, flag: bool) -> bool:
        """Return True where a rank says True (collective)."""
        return bool(self.sum([flag])[0] > 0)

    def check_same(self, what: str, values: Mapping[str, Any], kind: type[Exception] = ValueError) -> None:
        """Raise an error of that kind in every rank unless all of them bring equal values (collective).

        Parameters
        ----------
        what : str
            Where the values come from, for the message.
        values : dict
            By name, in words.
        """
        everyone = self.gather(dict(values))
        for rank, other in enumerate(everyone):
            for name, value in everyone[0].items():
                if other[name] != value:
                    raise self.shared(
                        kind(f"{what}: rank {rank} has another {name} than rank 0: all must agree")
                    )

    # ---- errors --------------------------------------------------------------------------------------------
    def shared(self, error: BaseException, told_by: int = 0) -> BaseException:
        """Mark an error that every rank raises at the same point, so that none need be stopped by force.

        ``error.tell`` then says whether it is this rank's business to tell the user: rank ``told_by``'s.
        """
        error.tell = self.rank == told_by  # type: ignore[attr-defined]
        return error

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let the block succeed in every rank, or raise in every rank (collective).

        A rank in which it failed raises its own error, the others a :class:`RankError`. The block itself may
        not hold collective calls: a rank that failed would miss them.
        """
        if self.size == 1:
            yield
            return
        error: Exception | None = None
        try:
            yield
        except Exception as caught:
            error = caught
        texts = self.gather(None if error is None else f"{type(error).__name__}: {error}")
        failed = [rank for rank, text in enumerate(texts) if text is not None]
        if failed:
            first = failed[0]
            if error is None:
                error = RankError(f"rank {first} of {self.size} failed: {texts[first]}")
            raise self.shared(error, first)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """End the whole job on an error inside that not all ranks share, after telling which rank and why."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not hasattr(error, "tell"):
                traceback.print_exception(error, file=sys.stderr)
                self.abort(f"{type(error).__name__}: {error}")
            raise

    def abort(self, reason: str) -> NoReturn:
        """End every rank of the job, from any one of them."""
        print(f"pyconvnet: {reason}", file=sys.stderr, flush=True)
        raise SystemExit(1)


class MPIRanks(Ranks):
    """The ranks of an MPI communicator.

    Parameters
    ----------
    world : mpi4py.MPI.Intracomm
    """

    def __init__(self, world: Any):
        from mpi4py import MPI

        self._mpi = MPI
        self._comm = world.Dup()  # messages of ours can never meet those of the caller
        self.rank, self.size = self._comm.rank, self._comm.size
        here = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = here.rank, here.size
        self.cores = _own_cores(here.allgather(_allowed()), here.rank)
        here.Free()

    def sum(self, values: Any) -> np.ndarray:
        result = np.array(values, np.float64)
        self._comm.Allreduce(self._mpi.IN_PLACE, result)
        return result

    def gather(self, value: Any) -> list[Any]:
        return self._comm.allgather(value)

    def broadcast(self, value: Any) -> Any:
        return self._comm.bcast(value)

    def communicator(self, devices: Sequence[Device]) -> Communicator:
        from ..plan.communicator import connect

        try:
            return connect(self._comm, devices)
        except ValueError as error:  # every rank knows the devices of all, and judges alike
            raise self.shared(error) from None

    def abort(self, reason: str) -> NoReturn:
        print(
            f"pyconvnet: rank {self.rank} of {self.size} on {socket.gethostname()} failed: {reason}\n"
            "pyconvnet: ending all ranks; a run goes on from its last checkpoint with --resume",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        self._comm.Abort(1)
        raise SystemExit(1)  # not reached


def _allowed() -> set[int]:
    """Return the processors this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _own_cores(allowed: Sequence[set[int]], rank: int) -> int:
    """Count the processors for one of a host's ranks; some launchers bind each to its own, some do not."""
    sharing = sum(1 for other in allowed if other & allowed[rank])
    return max(1, len(allowed[rank]) // sharing)


def launched(environment: Mapping[str, str] = os.environ) -> int:
    """Tell how many ranks the launcher says it has started; 1 where there was no launcher."""
    names = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"]
    if "PMIX_RANK" in environment:
        names.append("SLURM_STEP_NUM_TASKS")
    for name in names:
        text = environment.get(name, "")
        if text.isdigit() and int(text) > 0:
            return int(text)
    return 1


@functools.cache
def current() -> Ranks:
    """Return the ranks this process is one of.

    Raises
    ------
    ImportError
        A launcher started several ranks, but mpi4py or an MPI library is missing.
    RuntimeError
        The launcher is of another MPI than the library mpi4py has loaded.
    """
    wanted = launched()
    if wanted == 1:
        return Ranks()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"this is one of {wanted} ranks, which talk through MPI, but mpi4py cannot be imported "
            f'({error}); install it with: pip install "pyconvnet[mpi]"'
        ) from None
    if MPI.COMM_WORLD.size != wanted:
        library = MPI.Get_library_version().splitlines()[0].strip(" ,\0")
        raise RuntimeError(
            f"the launcher started {wanted} ranks, but MPI knows of {MPI.COMM_WORLD.size}: mpirun belongs to "
            f"another MPI than the library mpi4py has loaded ({library}). Use the mpirun beside this Python, "
            f"in {os.path.dirname(sys.executable)}, or choose the library with MPI4PY_LIBMPI=/path/libmpi.so"
        )
    ranks = MPIRanks(MPI.COMM_WORLD)
    if not any(os.environ.get(name) for name in _THREADS):
        set_num_threads(ranks.cores)  # else the ranks of a host would take the processors from each other
    return ranks
