"""The roads between GPUs of several ranks, on CUDA devices that are not there (``fake_cuda``).

The second rank is imagined: it has the same images, so that a sum over ranks is a doubling, and two ranks
make the very bits of one whose batch holds each image once.
"""

from types import SimpleNamespace

import numpy as np
import pytest
from support.fakes.fake_cuda import Machine, Race
from support.helpers import same_bits
from support.runs import small, toy

from pyconvnet.common.devices import get_device
from pyconvnet.plan import Plan, buckets, communicator
from pyconvnet.plan.communicator import (
    HostCommunicator,
    NcclCommunicator,
    StagedCommunicator,
    connect,
)

pytestmark = pytest.mark.kernels(again=True)
PLACES = [(0,), (0, 1), (0, 0)]
STEPS = 3


@pytest.fixture(autouse=True)
def several_buckets(monkeypatch):
    monkeypatch.setattr(buckets, "BUCKET", 100)


class FakeNccl:
    """``cupy.cuda.nccl`` of rank 0 of two."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0

    def __init__(self, machine):
        self.machine, self.made, self.reduced = machine, [], 0

    def get_unique_id(self):
        return ("id", len(self.made))

    def NcclCommunicator(self, size, unique, rank):
        self.made.append((size, unique, rank, self.machine.current))
        device = self.machine.current

        def all_reduce(send, receive, count, kind, operation, stream):
            assert send == receive
            assert (kind, operation) == (self.NCCL_FLOAT32, self.NCCL_SUM)
            assert self.machine.state(stream).device == self.machine.current == device
            touch = self.machine.touch(send, 4 * count, True)
            values = touch[0].bytes[slice(*touch[1:3])].view(np.float32)

            def double():
                np.multiply(values, 2, out=values)
                self.reduced += count

            self.machine.enqueue(stream, "all-reduce", double, (touch,))

        return SimpleNamespace(allReduce=all_reduce)


class FakeMPI:
    """``mpi4py.MPI`` and a communicator of rank 0 of two; a sum is done when it is waited for, or before."""

    IN_PLACE = object()
    rank, size = 0, 2

    def __init__(self, rng):
        self.rng, self.begun, self.Request = rng, [], self

    def Dup(self):
        return self

    def bcast(self, value):
        return value

    def Iallreduce(self, send, receive):
        assert send is self.IN_PLACE
        self.begun.append(receive)
        return receive

    def Testall(self, requests):
        if self.begun and self.rng.random() < 0.5:
            self._do(self.begun.pop(0))

    def Waitall(self, requests):
        while self.begun:
            self._do(self.begun.pop(0))

    def _do(self, array):
        np.multiply(array, 2, out=array)


def train(devices, total, road=None, network=None):
    """Parameters after a few steps."""
    x, y = toy(6, size=6)
    plan = Plan(network or small(dropout=False), devices, 6, seed=2, communicator=road)
    plan.set_window(0, total)
    plan.set_hyper(0.1, 0.9)
    plan.set_weight_decay(1e-3)
    for _ in range(STEPS):
        plan.feed((x / 255).astype(np.float32), y)
        plan.step()
    plan.synchronize()
    return plan, plan.get_parameters()


def nccl_road(machine, places):
    nccl = FakeNccl(machine)
    return NcclCommunicator(FakeMPI(None), [machine.device(i) for i in places], nccl), nccl


def staged_road(machine, places, seed, monkeypatch):
    def done(event):
        finished = event.work.done
        if finished:
            event._machine.wait(event.work, "event seen to be done")
            event._machine.waits.pop()
        return finished

    event = type(machine.xp.cuda.Event())
    monkeypatch.setattr(event, "done", property(done), raising=False)
    mpi = FakeMPI(np.random.default_rng(seed))
    return StagedCommunicator(mpi, mpi, [machine.device(i) for i in places])


@pytest.mark.parametrize("places", PLACES, ids=str)
def test_nccl_in_every_order_of_the_device(monkeypatch, places):
    _, wanted = train(["emulator"] * len(places), 6)
    for seed in range(8):
        machine = Machine(2, seed=seed).install(monkeypatch)
        road, nccl = nccl_road(machine, places)
        assert [made[3] for made in nccl.made] == list(places)  # one communicator a shard, on its device
        assert len({made[1] for made in nccl.made}) == len(places)
        plan, got = train([machine.device(i) for i in places], 12, road)
        assert all(same_bits(got[name], wanted[name]) for name in wanted), seed
        held = sum(shard.arena.specs[name].size for shard in plan.shards for name in shard.arena.specs)
        assert STEPS * held <= nccl.reduced < STEPS * (held + 64 * 6 * len(places))


@pytest.mark.parametrize("places", PLACES, ids=str)
def test_staging_through_the_host(monkeypatch, places):
    _, wanted = train(["emulator"] * len(places), 6)
    for seed in range(8):
        machine = Machine(2, seed=seed).install(monkeypatch)
        road = staged_road(machine, places, seed, monkeypatch)
        _, got = train([machine.device(i) for i in places], 12, road)
        assert all(same_bits(got[name], wanted[name]) for name in wanted), seed


def test_sums_on_the_host(monkeypatch):
    _, wanted = train("emulator", 6)
    mpi = FakeMPI(np.random.default_rng(0))
    _, got = train("emulator", 12, HostCommunicator(mpi, mpi))
    assert all(same_bits(got[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("places", PLACES, ids=str)
@pytest.mark.parametrize("what", ["start", "finish"])
def test_a_wait_that_is_missing_is_found(monkeypatch, places, what):
    """The sum must come after what fills the bucket, and the update after the sum."""
    machine = Machine(2).install(monkeypatch)
    road, _ = nccl_road(machine, places)
    if what == "finish":
        road.finish = lambda: None
    else:
        monkeypatch.setattr(communicator, "_record", lambda device, stream: device.xp.cuda.Event())
    with pytest.raises(Race, match="in no order"):
        train([machine.device(i) for i in places], 12, road)


def test_nccl_is_captured_like_any_other_work(monkeypatch):
    """Between the stream's fork at start and its join at finish."""
    machine = Machine(1).install(monkeypatch)
    device = machine.device()
    road, _ = nccl_road(machine, (0,))
    with device.activate():
        x = device.asarray(np.ones(8, np.float32))
        stream = machine.xp.cuda.Stream(non_blocking=True)
        device.synchronize()
        with stream:
            stream.begin_capture()
            x.fill(3)
            road.start(x)
            road.finish()
            x += 1
            graph = stream.end_capture()
            graph.launch(stream)
            stream.synchronize()
    np.testing.assert_array_equal(device.to_numpy(x), 7)


@pytest.mark.parametrize("road", ["host", "staged", "nccl"])
def test_only_contiguous_arrays(monkeypatch, road):
    machine = Machine(1).install(monkeypatch)
    mpi = FakeMPI(None)
    made = {
        "host": HostCommunicator(mpi, mpi),
        "staged": StagedCommunicator(mpi, mpi, [machine.device()]),
        "nccl": nccl_road(machine, (0,))[0],
    }[road]
    with pytest.raises(ValueError, match="must be C-contiguous, got strides"):
        made.start(np.zeros((4, 4), np.float32)[:, 0])
    made.finish()  # nothing was begun: nothing to wait for
    assert not machine.waits


# ---- which road --------------------------------------------------------------------------------------------
class Gathering:
    """A communicator that knows what the other rank answers."""

    rank, size = 0, 2

    def __init__(self, other):
        self.other = other

    def allgather(self, answer):
        return [answer, self.other(answer)]


def test_two_ranks_on_one_gpu_are_refused(monkeypatch):
    machine = Machine(2).install(monkeypatch)
    monkeypatch.setattr(communicator, "_nccl_works", lambda: True)
    monkeypatch.setattr(communicator, "_place", lambda gpu: ("host", f"0000:0{gpu.index}:00.0"))
    with pytest.raises(ValueError, match=r"got ranks 0 and 1 on GPU 0000:00:00.0 of host.*PYCONVNET_NCCL=0"):
        connect(Gathering(lambda answer: answer), [machine.device(0)])
    with pytest.raises(ValueError, match="got rank 0 twice on GPU 0000:01"):
        connect(Gathering(lambda answer: (1, 1, True, [("b", "2")])), [machine.device(1)] * 2)


@pytest.mark.parametrize(
    ("own", "mine", "other", "road"),
    [
        ("cpu", False, (0, 1, False, []), HostCommunicator),
        ("cpu", False, (1, 1, True, [("b", "1")]), HostCommunicator),
        ("cuda", False, (1, 1, True, [("b", "1")]), StagedCommunicator),
        ("cuda", True, (1, 1, False, [("b", "1")]), StagedCommunicator),
        ("cuda", True, (0, 1, False, []), StagedCommunicator),
    ],
)
def test_all_ranks_take_one_road(monkeypatch, own, mine, other, road):
    """NCCL only where every rank has it."""
    machine = Machine(1).install(monkeypatch)
    monkeypatch.setattr(communicator, "_nccl_works", lambda: mine)
    monkeypatch.setattr(communicator, "_place", lambda gpu: ("a", "1"))
    monkeypatch.setattr(communicator, "_mpi", lambda comm: (None, None))
    device = get_device("cpu") if own == "cpu" else machine.device()
    assert type(connect(Gathering(lambda answer: other), [device])) is road


def test_nccl_can_be_turned_off(monkeypatch):
    monkeypatch.setenv("PYCONVNET_NCCL", "0")
    assert not communicator._nccl_works()
