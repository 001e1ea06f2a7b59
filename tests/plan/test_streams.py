"""Lanes, copies, feeding and graphs on CUDA devices that are not there (``fake_cuda``), in many orders."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from support.fakes.fake_cuda import Machine, Race, on_device
from support.helpers import same_bits

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.plan.lanes import CaptureError, StreamLanes, graphs_enabled
from pyconvnet.plan.tasks import Task, run_in_order

pytestmark = pytest.mark.kernels(again=True)
N = 64
#: Shards' devices and whether devices reach each other's memory.
PLACES = [((0,), True), ((0, 0), True), ((0, 1), True), ((0, 1), False), ((0, 1, 0), False)]


class Ring:
    """Every shard scales a vector, gives it to the next shard, and adds what it got: to be done in order."""

    def __init__(self, lanes: StreamLanes):
        self.lanes, count = lanes, len(lanes.devices)
        start = np.arange(N, dtype=np.float32)
        self.x = [lanes.devices[s].asarray(start + s) for s in range(count)]
        self.y = [lanes.devices[s].zeros(N) for s in range(count)]
        self.got = [lanes.devices[s].zeros(N) for s in range(count)]
        self.factor = [lanes.devices[s].asarray(np.full(N, 1.5, np.float32)) for s in range(count)]
        self.tasks = self.make()

    def make(self) -> list[Task]:
        tasks, count = [], len(self.x)

        def add(name, lane, run, *waits):
            tasks.append(Task(name, lane, run, waits))
            return len(tasks) - 1

        scaled, arrived = {}, {}
        for s in range(count):
            run = lambda s=s: ops.add(self.x[s], self.factor[s], beta=0.25, out=self.y[s])  # noqa: E731
            scaled[s] = add(f"scale @{s}", (s, "compute"), run)
        for s in range(count):
            t, last = (s + 1) % count, (scaled[s],)
            for lane, run in self.lanes.copy_tasks(s, self.y[s], t, self.got[t]):
                last = (add(f"copy {s} -> {t}", lane, run, *last),)
            arrived[t] = last[0]
        for s in range(count):
            run = lambda s=s: ops.add(self.y[s], self.got[s], beta=0.5, out=self.x[s])  # noqa: E731
            add(f"add @{s}", (s, "compute"), run, arrived[s])
        # The next scaling writes y, which the copy still reads: only the join between programs orders them.
        return tasks

    def result(self) -> list[np.ndarray]:
        return [d.to_numpy(x) for d, x in zip(self.lanes.devices, self.x, strict=True)]


def expected(count: int, steps: int = 3) -> list[np.ndarray]:
    with ops.on("emulator"):
        ring = Ring(StreamLanes([devices.emulator()] * count))
        for _ in range(steps):
            run_in_order(ring.tasks)
        return ring.result()


def lanes_of(m: Machine, places) -> StreamLanes:
    return StreamLanes([m.device(i) for i in places])


# ---- order between lanes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("places", "peer"), PLACES)
def test_every_order_gives_the_same_bits(machine, places, peer):
    want = expected(len(places))
    for seed in range(25):
        m = machine(peer=peer, seed=seed)
        ring = Ring(lanes_of(m, places))
        m.waits.clear()
        for _ in range(3):
            ring.lanes.run(ring.tasks)
        assert not m.waits, "the host waited inside a step"
        ring.lanes.synchronize()
        assert all(map(same_bits, ring.result(), want)), seed


@pytest.mark.parametrize(("places", "peer"), PLACES[1:])
def test_a_removed_wait_is_found(machine, places, peer):
    """By the race detector whatever the order."""
    waiting = [i for i, task in enumerate(Ring(lanes_of(machine(peer=peer), places)).tasks) if task.waits]
    assert len(waiting) >= 2 * len(places)
    for i in waiting:
        m = machine(peer=peer)
        ring = Ring(lanes_of(m, places))
        ring.tasks[i] = dataclasses.replace(ring.tasks[i], waits=())
        with pytest.raises(Race, match="in no order"):
            ring.lanes.run(ring.tasks)


def test_a_removed_wait_changes_bits_in_some_order(machine, monkeypatch):
    """The same without the detector: the orders drawn are bad enough."""
    monkeypatch.setattr(Machine, "_check_races", lambda self, work: None)
    want, differing = expected(2), 0
    for seed in range(40):
        ring = Ring(lanes_of(machine(seed=seed), (0, 1)))
        ring.tasks[:] = [dataclasses.replace(task, waits=()) for task in ring.tasks]
        ring.lanes.run(ring.tasks)
        ring.lanes.synchronize()
        differing += not all(map(same_bits, ring.result(), want))
    assert differing > 10


@pytest.mark.parametrize(("places", "peer"), PLACES[1:])
def test_lists_need_the_join_between_them(machine, places, peer):
    m = machine(peer=peer)
    ring = Ring(lanes_of(m, places))
    ring.lanes.run(ring.tasks)
    with pytest.raises(Race):
        ring.lanes.run(ring.tasks, join=False)


def test_lanes_work_side_by_side(machine):
    """No more order than asked for: one shard's first task does not wait for another's."""
    m = machine()
    ring = Ring(lanes_of(m, (0, 0)))
    ring.lanes.run(ring.tasks)
    first = len(m.made)
    ring.lanes.run(ring.tasks)
    adds = [w for w in m.made[first:] if w.name.startswith("add_")]
    assert len(adds) == 4
    assert not m.ordered(adds[0], adds[1])
    assert not m.ordered(adds[1], adds[0])
    copies = [w for w in m.made[first:] if w.name == "copy 0 -> 0"]
    assert not m.ordered(copies[0], copies[1])
    assert not m.ordered(copies[1], copies[0])


def test_the_default_stream_stays_in_order(machine):
    """What a user does with CuPy between steps, on the default stream of each device."""
    for seed in range(10):
        m = machine(seed=seed, peer=False)
        ring = Ring(lanes_of(m, (0, 1)))
        with ops.on("emulator"):
            plain = Ring(StreamLanes([devices.emulator()] * 2))
        for step in range(3):
            ring.lanes.run(ring.tasks)
            with ops.on("emulator"):
                run_in_order(plain.tasks)
            for s in range(2):
                with m.device(s).activate():
                    ring.x[s] += np.float32(step)
                plain.x[s] += np.float32(step)
        assert all(map(same_bits, ring.result(), plain.result()))


def test_active_is_the_lane(machine):
    m = machine()
    lanes = lanes_of(m, (0, 1))
    with lanes.active(1, "copy"):
        assert m.current == 1
        assert m.device(1).stream() == lanes.stream(1, "copy").ptr != lanes.stream(1).ptr
        with lanes.active(0):
            assert m.device(0).stream() == lanes.stream(0).ptr
        assert m.device(1).stream() == lanes.stream(1, "copy").ptr
    assert m.current == 0
    assert m.device(1).stream() == 0


def test_follow_makes_one_lane_wait(machine):
    m = machine()
    lanes = lanes_of(m, (0, 1))
    works = {}
    for shard in range(2):
        array = m.device(shard).zeros(N)
        with lanes.active(shard, "copy"):
            array.fill(1)
        works[shard] = m.made[-1]
    lanes.follow(0)
    with lanes.active(0):
        m.device(0).zeros(N)
    assert all(m.ordered(work, m.made[-1]) for work in works.values())
    with lanes.active(1):
        m.device(1).zeros(N)
    assert not m.ordered(works[0], m.made[-1])


def test_host_lanes():
    want = expected(2)
    for device in (devices.cpu(), devices.emulator()):
        ring = Ring(StreamLanes([device] * 2))
        ring.lanes.join()
        for _ in range(3):
            ring.lanes.run(ring.tasks)
        ring.lanes.synchronize()
        assert ring.lanes.stream(0) is None
        for got, w in zip(ring.result(), want, strict=True):
            np.testing.assert_allclose(got, w, rtol=1e-6)
        with pytest.raises(CaptureError, match=f"{device.name} has no CUDA graphs"):
            ring.lanes.capture(ring.tasks)


def test_bad_lanes(machine):
    m = machine()
    with pytest.raises(ValueError, match="all CUDA devices or all on the host, got cuda:0, cpu"):
        StreamLanes([m.device(0), devices.cpu()])
    with pytest.raises(ValueError, match="got none"):
        StreamLanes([])
    lanes = lanes_of(m, (0, 1))
    for lane in ((2, "compute"), (-1, "copy"), (0, "feed")):
        with pytest.raises(ValueError, match=r"a lane is \(0 to 1, 'compute', 'copy' or 'update'\), got"):
            lanes.stream(*lane)
    with pytest.raises(ValueError, match=r"task 0 \(late\) waits for task 1, which is not before it"):
        lanes.run([Task("late", (0, "compute"), list, (1,)), Task("early", (1, "compute"), list)])


def test_a_list_that_grew_is_looked_at_again(machine):
    lanes, ran = lanes_of(machine(), (0, 1)), []
    tasks = [Task("one", (0, "compute"), lambda: ran.append(1))]
    lanes.run(tasks)
    tasks.append(Task("two", (1, "copy"), lambda: ran.append(2), (0,)))
    lanes.run(tasks)
    assert ran == [1, 1, 2]


# ---- copies ----------------------------------------------------------------------------------------------


def test_copies_go_the_shortest_way(machine):
    a, b = np.arange(6, dtype=np.float32), np.zeros((2, 3), np.float32)
    for places, peer, names in (
        ((0, 0), False, ["copy 0 -> 0"]),
        ((0, 1), True, ["copy 0 -> 1"]),
        ((0, 1), False, ["copy 0 -> host", "copy host -> 1"]),
    ):
        m = machine(peer=peer)
        lanes = lanes_of(m, places)
        source, target = on_device(m, a, places[0]), on_device(m, b, places[1])
        steps = lanes.copy_tasks(0, source, 1, target)
        assert [lane for lane, _ in steps] == [(0, "copy"), (1, "copy")][: len(names)]
        tasks = [Task("copy", lane, run, (0,) * i) for i, (lane, run) in enumerate(steps)]
        lanes.run(tasks)
        assert [w.name for w in m.made if w.name.startswith("copy") and "pageable" not in w.name] == names
        lanes.synchronize()
        assert np.array_equal(target.get(), a.reshape(2, 3))
        assert lanes.peer_access(0, 0) is True
        again = StreamLanes(lanes.devices)  # enabling peer access twice is no error
        assert again.peer_access(0, 1) == lanes.peer_access(0, 1)


def test_bad_copies(machine):
    m = machine()
    lanes = lanes_of(m, (0, 1))
    good = on_device(m, np.zeros((4, 6), np.float32))
    for bad, message in (
        (
            on_device(m, np.zeros((4, 5), np.float32), 1),
            r"one dtype and size, got float32 \(4, 6\) and float32 \(4",
        ),
        (on_device(m, np.zeros((4, 6), np.int32), 1), "got float32 .* and int32"),
        (on_device(m, np.zeros((6, 4), np.float32), 1).T, "must be C-contiguous"),
    ):
        with pytest.raises(ValueError, match=message):
            lanes.copy_tasks(0, good, 1, bad)


# ---- whether graphs are on -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graph", "sync", "on"),
    [(None, None, True), ("1", "0", True), ("0", None, False), ("1", "1", False), (None, "", True)],
)
def test_graphs_are_on_unless_turned_off(monkeypatch, graph, sync, on):
    for name, value in (("PYCONVNET_GRAPH", graph), ("PYCONVNET_SYNC", sync)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    assert graphs_enabled() is on


def test_graphs_neither_on_nor_off(monkeypatch):
    monkeypatch.setenv("PYCONVNET_GRAPH", "off")
    with pytest.raises(ValueError, match="PYCONVNET_GRAPH must be 0 or 1, got 'off'"):
        graphs_enabled()
