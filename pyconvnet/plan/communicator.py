"""Sums of gradients over ranks, bucket by bucket, while backward still computes the next ones.

Synchronous data parallelism (Krizhevsky 2014, "One weird trick", arXiv:1404.5997, section 4): every rank
holds all parameters, works on its rows of the batch, and adds up the gradients of all before the update. The
plan starts a bucket's sum as soon as backward has filled the bucket, so that the sums of the upper layers
travel while the lower ones are computed (Li et al. 2020, "PyTorch Distributed",
arXiv:2006.15704, section 3.2).

========================= =================== ==============================================================
class                     arrays              road
========================= =================== ==============================================================
HostCommunicator          NumPy               MPI_Iallreduce in place, progressed at every later bucket
NcclCommunicator          CuPy, one GPU each  ncclAllReduce on a stream of its own, ordered by events; may be
                                              captured in a CUDA graph
StagedCommunicator        CuPy                through pinned host memory and MPI, where NCCL cannot be used
========================= =================== ==============================================================
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from ..common.checks import check_contiguous
from ..common.devices import Device
from .lanes import copy_async

_NCCL = "PYCONVNET_NCCL"
_duplicates: dict[int, Any] = {}  # by the communicator they duplicate


class Communicator(Protocol):
    """What a plan needs to sum gradients over ranks. Every rank makes the same calls in the same order.

    Attributes
    ----------
    capturable : bool
        Whether the calls may be captured in a CUDA graph: they enqueue and never wait on the host.
    """

    capturable: bool

    def start(self, array: Any, shard: int = 0) -> None:
        """Begin the sum over all ranks of a contiguous array, in place, after the work already enqueued on
        the current stream. Until ``finish`` nobody may touch the array.
        """

    def finish(self) -> None:
        """Let work enqueued from here on see all the sums."""


class HostCommunicator:
    """Sums of NumPy arrays by MPI.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Used for these sums alone: nonblocking collectives are matched by their order (MPI-4.0, section 6.12).
    mpi : module
        mpi4py.MPI
    """

    capturable = False

    def __init__(self, comm: Any, mpi: Any):
        self._comm, self._mpi = comm, mpi
        self._requests: list[Any] = []

    def start(self, array: Any, shard: int = 0) -> None:
        check_contiguous("Communicator.start", array=array)
        self._sum(array)
        self._progress()

    def _sum(self, host: np.ndarray) -> None:
        self._requests.append(self._comm.Iallreduce(self._mpi.IN_PLACE, host))

    def _progress(self) -> None:
        # MPI moves data inside MPI calls only: without these looks all of it would be left to finish().
        self._mpi.Request.Testall(self._requests)

    def finish(self) -> None:
        requests, self._requests = self._requests, []
        self._mpi.Request.Waitall(requests)


class StagedCommunicator(HostCommunicator):
    """Sums of CuPy arrays through pinned host memory and MPI.

    For GPUs without NCCL, or that several ranks share. The host waits for the device in ``finish``.

    Parameters
    ----------
    comm, mpi :
        As above.
    devices : sequence of Device
        Of this rank's shards.
    """

    def __init__(self, comm: Any, mpi: Any, devices: Sequence[Device]):
        super().__init__(comm, mpi)
        self._devices = list(devices)
        self._copies: dict[tuple, _Copy] = {}
        self._down: list[_Copy] = []  # on their way to the host
        self._up: list[_Copy] = []  # their sums have been started

    def start(self, array: Any, shard: int = 0) -> None:
        check_contiguous("Communicator.start", array=array)
        device = self._devices[shard]
        with device.activate():
            key = (shard, array.data.ptr, array.nbytes)
            if key not in self._copies:
                self._copies[key] = _Copy(device, array)
            copy = self._copies[key]
            copy.stream = device.xp.cuda.get_current_stream()
            copy_async(device, copy.pinned.ptr, array.data.ptr, array.nbytes)
            copy.stream.record(copy.arrived)
        self._down.append(copy)
        self._pass_on(wait=False)
        self._progress()

    def _pass_on(self, wait: bool) -> None:
        """Start the sums of what has arrived, strictly in order: the other ranks start theirs in this order
        too.
        """
        while self._down and (wait or self._down[0].arrived.done):
            copy = self._down.pop(0)
            copy.arrived.synchronize()
            self._sum(copy.host)
            self._up.append(copy)

    def finish(self) -> None:
        self._pass_on(wait=True)
        super().finish()
        for copy in self._up:
            with copy.device.activate(), copy.stream:
                copy_async(copy.device, copy.array.data.ptr, copy.pinned.ptr, copy.array.nbytes)
                copy.stream.record(copy.back)
        waits = [copy.back for copy in self._up]
        if waits:
            _let_current_stream_wait(self._devices[0], waits)
        self._up = []


class _Copy:
    """An array and its copy in pinned host memory."""

    def __init__(self, device: Device, array: Any):
        cuda = device.xp.cuda
        self.device, self.array, self.stream = device, array, None
        self.pinned = cuda.alloc_pinned_memory(array.nbytes)
        self.host = np.frombuffer(self.pinned, array.dtype, array.size)
        self.arrived = cuda.Event(block=True, disable_timing=True)
        self.back = cuda.Event(disable_timing=True)


class NcclCommunicator:
    """Sums of CuPy arrays by NCCL: from GPU to GPU, over NVLink, PCIe or the network, the host not involved.

    Each shard of a rank talks to the same shard of the other ranks, through a communicator and on a stream of
    its own.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Carries NCCL's unique ids to the other ranks.
    devices : sequence of Device
        Of this rank's shards.
    nccl : module
        cupy.cuda.nccl
    """

    capturable = True

    def __init__(self, comm: Any, devices: Sequence[Device], nccl: Any):
        self._nccl, self._devices = nccl, list(devices)
        self._links, self._streams = [], []
        for device in self._devices:
            unique = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
            with device.activate():
                self._links.append(nccl.NcclCommunicator(comm.size, unique, comm.rank))
                self._streams.append(device.xp.cuda.Stream(non_blocking=True))
        self._callers: dict[tuple[int, int], Any] = {}  # by shard and address: streams that wait for sums

    def start(self, array: Any, shard: int = 0) -> None:
        check_contiguous("Communicator.start", array=array)
        kinds = {"float32": self._nccl.NCCL_FLOAT32, "float64": self._nccl.NCCL_FLOAT64}
        device, stream = self._devices[shard], self._streams[shard]
        with device.activate():
            caller = device.xp.cuda.get_current_stream()
            stream.wait_event(_record(device, caller))
            pointer, kind = array.data.ptr, kinds[array.dtype.name]
            self._links[shard].allReduce(pointer, pointer, array.size, kind, self._nccl.NCCL_SUM, stream.ptr)
        self._callers[shard, caller.ptr] = caller

    def finish(self) -> None:
        waits = []
        for (shard, _), caller in self._callers.items():
            device = self._devices[shard]
            with device.activate():
                done = _record(device, self._streams[shard])
                caller.wait_event(done)
            waits.append(done)
        if waits:
            _let_current_stream_wait(self._devices[0], waits)
        self._callers = {}


def _record(device: Device, stream: Any) -> Any:
    event = device.xp.cuda.Event(disable_timing=True)
    stream.record(event)
    return event


def _let_current_stream_wait(device: Device, events: Sequence[Any]) -> None:
    """Let the stream ``finish`` was called on wait too, whichever device's it is: events are known on all."""
    here = device.xp.cuda.get_current_stream()
    for event in events:
        here.wait_event(event)


def connect(comm: Any, devices: Sequence[Device]) -> Communicator:
    """Find, collectively, the fastest road that all ranks can take.

    ``PYCONVNET_NCCL=0`` in any rank turns NCCL off.

    Raises
    ------
    ValueError
        Two shards would share one GPU, which NCCL does not do.
    """
    gpus = [device for device in devices if device.kind == "cuda"]
    answer = (len(gpus), len(devices), bool(gpus) and _nccl_works(), [_place(gpu) for gpu in gpus])
    answers = comm.allgather(answer)
    if all(count == 0 for count, _, _, _ in answers):
        return HostCommunicator(*_mpi(comm))
    if all(count == total and works for count, total, works, _ in answers):
        owner: dict[tuple[str, str], int] = {}
        for rank, (_, _, _, places) in enumerate(answers):
            for place in places:
                if place in owner:
                    raise ValueError(_same_gpu(rank, owner[place], place))
                owner[place] = rank
        from cupy.cuda import nccl

        return NcclCommunicator(comm, devices, nccl)
    return StagedCommunicator(*_mpi(comm), devices) if gpus else HostCommunicator(*_mpi(comm))


def _mpi(comm: Any) -> tuple[Any, Any]:
    """Return a communicator for the sums alone, the same in every run of this process, and the module."""
    from mpi4py import MPI

    if comm.handle not in _duplicates:
        _duplicates[comm.handle] = comm.Dup()
    return _duplicates[comm.handle], MPI


def _same_gpu(one: int, other: int, place: tuple[str, str]) -> str:
    who = f"rank {one} twice" if one == other else f"ranks {other} and {one}"
    return (
        f"train: NCCL needs a GPU of its own for each shard of each rank, got {who} on GPU {place[1]} of "
        f"{place[0]}. Start at most as many ranks a host as it has GPUs, and name no device (each rank then "
        f"takes its own); or go through host memory, slowly, with {_NCCL}=0"
    )


def _nccl_works() -> bool:
    if os.environ.get(_NCCL, "1") == "0":
        return False
    import warnings

    with warnings.catch_warnings():  # CuPy warns where the library is missing; we go another way then
        warnings.simplefilter("ignore")
        from cupy.cuda import nccl

    return bool(nccl.available)


def _place(gpu: Device) -> tuple[str, str]:
    """Name a GPU by (host, PCI address): the same whatever number CUDA_VISIBLE_DEVICES gives it."""
    return socket.gethostname(), str(gpu.xp.cuda.Device(gpu.index).pci_bus_id)
