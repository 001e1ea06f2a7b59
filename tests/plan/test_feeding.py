"""Feeding of lanes on CUDA devices that are not there (``fake_cuda``), in many orders."""

from __future__ import annotations

import numpy as np
import pytest
from support.fakes.fake_cuda import Race
from support.helpers import same_bits
from test_streams import lanes_of

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.data.loader import _Buffers
from pyconvnet.plan.feed import SMALL, Feeder, host_empty
from pyconvnet.plan.lanes import StreamLanes
from pyconvnet.plan.tasks import Task

pytestmark = pytest.mark.kernels(again=True)
BIG, FEW = SMALL, 24  # elements: four times SMALL in bytes, and a few labels


class Trained:
    """A "step" that adds what was fed to a sum; three kinds of feeding before each."""

    def __init__(self, device, lanes, feeder):
        self.device, self.lanes, self.feeder = device, lanes, feeder
        self.total, self.target = device.zeros((2, BIG // 2)), device.zeros((2, BIG // 2))
        self.few, self.few_total = device.zeros(FEW), device.zeros(FEW)
        self.tasks = [
            Task("sum", (0, "compute"), lambda: ops.add(self.total, self.target, beta=0.5, out=self.total)),
            Task("few", (0, "compute"), lambda: ops.add(self.few_total, self.few, out=self.few_total)),
        ]

    def feed(self, step):
        rng = np.random.default_rng(step)
        big, few = rng.standard_normal((2, BIG // 2)).astype(np.float32), rng.integers(0, 99, FEW)
        staged = rng.standard_normal((1 + step % 2, BIG // 2)).astype(np.float32)
        self.feeder.upload(self.target, big)
        self.feeder.upload(self.few, few)
        view = self.feeder.stage("rows", staged, 2)
        with self.lanes.active(0):
            rows = self.target[: len(staged)]
            ops.add(rows, view, out=rows)
        for array in (big, few, staged):
            array.fill(-1)  # the caller's arrays are the caller's again

    def run(self, steps=5):
        for step in range(steps):
            self.feed(step)
            self.lanes.run(self.tasks)
        self.lanes.synchronize()
        return self.device.to_numpy(self.total), self.device.to_numpy(self.few_total)


def fed_on_host():
    lanes = StreamLanes([devices.emulator()])
    return Trained(devices.emulator(), lanes, Feeder(devices.emulator(), lanes)).run()


def test_feeding_in_every_order(machine):
    want = fed_on_host()
    for seed in range(20):
        m = machine(seed=seed)
        lanes = lanes_of(m, (0,))
        assert all(map(same_bits, Trained(m.device(), lanes, Feeder(m.device(), lanes)).run(), want)), seed


def test_the_second_shard_is_fed_on_its_device(machine):
    m = machine()
    lanes = lanes_of(m, (0, 1))
    feeder, target = Feeder(m.device(1), lanes, 1), m.device(1).zeros(5)
    feeder.upload(target, np.arange(5))
    assert np.array_equal(m.device(1).to_numpy(target), np.arange(5))
    with pytest.raises(ValueError, match="shard 1 of the lanes is on cuda:1, not on cuda:0"):
        Feeder(m.device(0), lanes, 1)


def test_feeding_without_lanes(machine):
    """Steps on the caller's own stream."""
    for seed in range(10):
        m = machine(seed=seed)
        device = m.device()
        feeder, target, total = Feeder(device), device.zeros((1, BIG)), device.zeros((1, BIG))
        stream = m.xp.cuda.Stream(non_blocking=True)
        device.synchronize()
        with stream:
            for step in range(4):
                feeder.upload(target, np.full((1, BIG), step, np.float32))
                ops.add(total, target, out=total)
            assert np.array_equal(device.to_numpy(total), np.full((1, BIG), 6, np.float32))


def test_a_batch_crosses_under_the_step_before(machine):
    m = machine()
    lanes = lanes_of(m, (0,))
    trained = Trained(m.device(), lanes, Feeder(m.device(), lanes))
    steps, crossings = [], []
    for step in range(6):
        first = len(m.made)
        trained.feed(step)
        crossings.append(
            [w for w in m.made[first:] if w.name == "copy host -> 0" and w.touches[0][2] > SMALL]
        )
        lanes.run(trained.tasks)
        steps.append(m.made[-1])
    for step in range(2, 6):
        assert crossings[step]
        assert not any(m.ordered(steps[step - 1], work) for work in crossings[step])
        assert all(m.ordered(work, steps[step]) for work in crossings[step])


def test_the_host_waits_only_for_buffers_in_use(machine):
    m = machine(seed=1)
    lanes = lanes_of(m, (0,))
    m.patient = 0.0  # nothing is done before somebody waits
    trained = Trained(m.device(), lanes, Feeder(m.device(), lanes))
    m.waits.clear()
    for step in range(2):
        trained.feed(step)
        lanes.run(trained.tasks)
    assert not m.waits
    trained.feed(2)
    assert set(m.waits) == {"event"}


@pytest.mark.parametrize("bug", ["pinned", "device", "read"])
def test_a_buffer_used_too_early_is_found(machine, monkeypatch, bug):
    """Without the waits that guard the buffers the checks above fail."""
    import pyconvnet.plan.feed as feeding

    if bug == "pinned":  # the host writes while the copy before has not been done
        monkeypatch.setattr(
            feeding._Slot, "fill", lambda self, value: np.copyto(self.host[: len(value)], value, "same_kind")
        )
    elif bug == "device":  # the next copy does not wait for those who read the buffer
        original = feeding._Slot.__init__

        def init(self, *args):
            original(self, *args)
            self.released.record = lambda stream: None

        monkeypatch.setattr(feeding._Slot, "__init__", init)
    else:  # the reader does not wait for the copy
        original = feeding._Slot.__init__

        def init(self, *args):
            original(self, *args)
            record = self.copied.record
            self.copied.record = lambda stream: record(stream) if stream is not feeder._stream else None

        monkeypatch.setattr(feeding._Slot, "__init__", init)
    want, found = fed_on_host(), 0
    for seed in range(10):
        m = machine(seed=seed)
        lanes = lanes_of(m, (0,))
        feeder = Feeder(m.device(), lanes)
        try:
            found += not all(map(same_bits, Trained(m.device(), lanes, feeder).run(), want))
        except Race:
            found += 1
    assert found >= (1 if bug == "pinned" else 10)


def from_a_loaders_memory(device, feeder, lanes, steps=8):
    """Sums what is staged from memory that is used again when nobody holds it."""
    buffers = _Buffers((BIG,), np.dtype(np.float32), host_empty(device))
    total, places = device.zeros((2, BIG)), set()
    for step in range(steps):
        batch = buffers.empty(2)
        batch[...] = np.random.default_rng(step).standard_normal(batch.shape)
        places.add(batch.ctypes.data)
        view = feeder.stage("images", batch[: 1 + step % 2], 2)
        del batch
        with lanes.active(0):
            ops.add(total[: len(view)], view, beta=1.0, out=total[: len(view)])
    lanes.synchronize()
    return device.to_numpy(total), len(places)


@pytest.mark.parametrize("bug", [False, True])
def test_memory_of_the_loader_is_copied_from_where_it_lies(machine, monkeypatch, bug):
    """And not used again before it has been copied; without the hold on it the sums are wrong."""
    import pyconvnet.plan.feed as feeding

    rows = [np.random.default_rng(step).standard_normal((2, BIG)).astype(np.float32) for step in range(8)]
    want = np.zeros((2, BIG), np.float32)
    for step, row in enumerate(rows):
        want[: 1 + step % 2] += row[: 1 + step % 2]
    if bug:
        borrow = feeding._Slot.borrow

        def forgetful(self, value):
            borrow(self, value)
            self.borrowed = None

        monkeypatch.setattr(feeding._Slot, "borrow", forgetful)
    monkeypatch.setattr(feeding._Slot, "fill", lambda *_: pytest.fail("copied on the host"))
    wrong = 0
    for seed in range(10):
        m = machine(seed=seed)
        lanes = lanes_of(m, (0,))
        try:
            got, places = from_a_loaders_memory(m.device(), Feeder(m.device(), lanes), lanes)
            wrong += not np.allclose(got, want, atol=1e-5)
            assert places <= 3
        except Race:
            wrong += 1
    assert wrong > 0 if bug else wrong == 0


def test_on_the_host_memory_is_numpys():
    assert host_empty(devices.cpu()) is np.empty
    assert host_empty(devices.emulator()) is np.empty


def test_feeders_memory(machine):
    m = machine()
    feeder = Feeder(m.device())
    assert feeder.nbytes == 0
    rows = np.ones((3, 50), np.float32)
    for n in (1, 3, 2):
        assert np.array_equal(feeder.stage("rows", rows[:n], 3).get(), rows[:n])
    assert feeder.nbytes == 2 * rows.nbytes
    assert np.array_equal(feeder.stage("rows", rows.astype(np.uint8), 4).get(), rows)  # anew
    assert feeder.nbytes == 2 * 4 * 50
    target = m.device().zeros((2, BIG))
    for n in (1, 2):  # a longer one than before
        feeder.upload(target[:n], np.full((n, BIG), n, np.float32))
        assert (target[:n].get() == n).all()
    scalar = m.device().zeros(())
    feeder.upload(scalar, np.array(7.0))
    assert float(scalar) == 7


@pytest.mark.parametrize("count", [FEW, BIG])
def test_feeding_comes_after_all_lanes(machine, count):
    """What another lane still reads of the target is not overwritten; what it reads next is new."""
    for seed in range(5):
        m = machine(seed=seed, peer=False)
        lanes = lanes_of(m, (0, 1))
        feeder, target, seen = Feeder(m.device(0), lanes), m.device(0).zeros(count), m.device(1).zeros(count)
        total = m.device(1).zeros(count)
        steps = lanes.copy_tasks(0, target, 1, seen)
        tasks = [Task("copy", lane, run, (0,) * i) for i, (lane, run) in enumerate(steps)]
        tasks.append(Task("add", (1, "compute"), lambda: ops.add(total, seen, out=total), (1,)))  # noqa: B023
        for k in range(3):
            feeder.upload(target, np.full(count, 10**k, np.float32))
            lanes.run(tasks)
        lanes.synchronize()
        assert (total.get() == 111).all()


def test_a_feeder_lets_go_of_buffers_nobody_uses(machine):
    """Buffers that became too small: whoever gets their memory next may write it at once."""
    for seed in range(5):
        m = machine(seed=seed)
        lanes = lanes_of(m, (0,))
        feeder, total = Feeder(m.device(), lanes), m.device().zeros((1, BIG))
        view = feeder.stage("rows", np.full((1, BIG), 5, np.float32), 1)
        with lanes.active(0):
            ops.add(total, view, out=total)
        feeder.stage("rows", np.zeros((2, BIG), np.float32), 2)
        for _ in range(2):
            pinned = m.xp.cuda.alloc_pinned_memory(view.nbytes)
            np.frombuffer(pinned, np.uint8)[...] = 77
        lanes.synchronize()
        assert (total.get() == 5).all()


def test_a_feeders_memory_is_its_own(machine):
    """Memory that the steps' stream has freed, but not done with, is not what the feeder's stream writes."""
    m = machine()
    lanes = lanes_of(m, (0,))
    with lanes.active(0):
        m.device().zeros((1, BIG))  # filled, and freed at once
        Feeder(m.device(), lanes).stage("rows", np.ones((1, BIG), np.float32), 1)
    lanes.synchronize()


@pytest.mark.parametrize("where", ["cuda", "cpu"])
def test_bad_feeding(machine, where):
    device = machine().device() if where == "cuda" else devices.cpu()
    feeder, target = Feeder(device), device.zeros((2, 3))
    for value in (np.zeros((4, 3)), np.zeros((0, 3)), np.float32(1)):
        with pytest.raises(ValueError, match=r"rows must have 1 to 3 rows, got an array of shape \("):
            feeder.stage("rows", value, 3)
    with pytest.raises(ValueError, match=r"must have the target's shape \(2, 3\), got \(3, 2\)"):
        feeder.upload(target, np.zeros((3, 2), np.float32))
    with pytest.raises(TypeError, match="must become float32, got complex64"):
        feeder.upload(target, np.zeros((2, 3), np.complex64))


def test_host_feeding():
    device = devices.cpu()
    feeder, target = Feeder(device), np.zeros((2, 3), np.float32)
    feeder.upload(target, np.arange(6).reshape(2, 3))
    assert np.array_equal(target.ravel(), np.arange(6))
    value = np.ones((2, 3))
    assert feeder.stage("rows", value, 2) is value
    assert feeder.nbytes == 0
