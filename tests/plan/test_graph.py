"""A captured step does what an eager one does, bit for bit; what cannot be captured is refused.

On CUDA devices that are not there (``fake_cuda``).
"""

from __future__ import annotations

import gc
import inspect

import numpy as np
import pytest
from support.fakes import fake_cuda
from support.fakes.fake_cuda import CUDARuntimeError, Machine, Race, on_device
from support.helpers import same_bits

from pyconvnet import ops
from pyconvnet.plan.feed import Feeder
from pyconvnet.plan.lanes import CaptureError, StreamLanes
from pyconvnet.plan.tasks import Task, TaskList

pytestmark = pytest.mark.kernels(again=True)
N = 3000
SGD = ("hyper", "ends", "lr_mult", "weight_decay", "step")
PLACES = [((0,), True), ((0, 0), True), ((0, 1), True), ((0, 1), False), ((0, 1, 0), False)]


@pytest.fixture
def machine(monkeypatch):
    """``machine(seed=, peer=)`` makes and installs one with two devices."""
    return lambda **options: Machine(2, **options).install(monkeypatch)


class Model:
    """Every shard: dropout keyed by the step's number, exchange with the next shard, update. All that changes
    from step to step is on the device.
    """

    def __init__(self, m: Machine, places: tuple[int, ...]):
        self.m, self.devices = m, [m.device(i) for i in places]
        self.lanes = StreamLanes(self.devices)
        rng = np.random.default_rng(3)
        self.shards = []
        for device in self.devices:
            s = {name: device.zeros(N) for name in ("v", "dropped", "got", "g")}
            s |= {"w": device.asarray(rng.standard_normal(N).astype(np.float32))}
            s |= {"mask": device.zeros(N, np.uint8), "step": device.zeros(1, np.int64)}
            s |= {"hyper": device.zeros(2), "ends": device.asarray(np.array([100, N]))}
            s |= {"lr_mult": device.asarray(np.array([1, 2], np.float32)), "weight_decay": device.zeros(2)}
            self.shards.append(s)
        self.feeders = [Feeder(d, self.lanes, i) for i, d in enumerate(self.devices)]
        out = TaskList()
        self.first(out)
        self.forward = out.tasks
        out = TaskList()
        self.second(out)
        self.update = out.tasks
        self.step = [
            *self.forward,
            *(
                Task(t.name, t.lane, t.run, tuple(w + len(self.forward) for w in t.waits) + self._ends(t))
                for t in self.update
            ),
        ]

    def _ends(self, task: Task) -> tuple[int, ...]:
        """In one list with the forward pass: whoever updates waits for the last tasks of all other lanes."""
        last = {t.lane: i for i, t in enumerate(self.forward)}
        return tuple(i for lane, i in last.items() if lane != task.lane)

    def first(self, out: TaskList) -> None:
        for d, s in enumerate(self.shards):
            out.add(
                f"dropout @{d}",
                (d, "compute"),
                lambda s=s, d=d: ops.dropout(
                    s["w"], 0.3, seed=5, step=s["step"], layer=d, out=(s["dropped"], s["mask"])
                ),
                [(d, "w")],
                [(d, "dropped")],
            )
        for d, s in enumerate(self.shards):
            t = (d + 1) % len(self.shards)
            steps = self.lanes.copy_tasks(d, s["dropped"], t, self.shards[t]["got"])
            for i, (lane, run) in enumerate(steps):
                reads = [(d, "dropped")] if i == 0 else [(d, "pinned")]
                writes = [(t, "got")] if i == len(steps) - 1 else [(d, "pinned")]
                out.add(f"copy {d} -> {t}", lane, run, reads, writes)

    def second(self, out: TaskList) -> None:
        for d, s in enumerate(self.shards):
            out.add(
                f"gradient @{d}",
                (d, "compute"),
                lambda s=s: ops.add(s["dropped"], s["got"], alpha=0.5, out=s["g"]),
                [(d, "dropped"), (d, "got")],
                [(d, "g")],
            )
            out.add(
                f"update @{d}",
                (d, "compute"),
                lambda s=s: ops.sgd_momentum(s["w"], s["v"], s["g"], **{name: s[name] for name in SGD}),
                [(d, "g")],
                [(d, "w")],
            )

    def train(self, step, count: int = 5, first: int = 0) -> None:
        for k in range(first, first + count):
            for feeder, s in zip(self.feeders, self.shards, strict=True):
                feeder.upload(s["hyper"], np.array([0.1 / (k + 1), 0.9], np.float32))
                feeder.upload(s["weight_decay"], np.array([0.01 * k, 0], np.float32))
            step()

    def state(self) -> list[np.ndarray]:
        self.lanes.synchronize()
        pairs = zip(self.devices, self.shards, strict=True)
        return [d.to_numpy(s[name]) for d, s in pairs for name in ("w", "v", "mask", "step")]


def eager(m, places, count=5):
    model = Model(m, places)
    model.train(lambda: model.lanes.run(model.step), count)
    return model.state()


@pytest.mark.parametrize(("places", "peer"), PLACES)
def test_replay_is_eager_bit_for_bit(machine, places, peer):
    """With learning rate, weight decay and dropout masks that change from step to step."""
    want = eager(machine(peer=peer), places)
    assert want[3].tolist() == [5]
    for seed in range(12):
        m = machine(peer=peer, seed=seed)
        model = Model(m, places)
        model.train(lambda model=model: model.lanes.run(model.step), 1)
        model.lanes.synchronize()
        made, m.waits = len(m.made), []
        graph = model.lanes.capture(model.step)
        assert len(m.made) == made, "work was done while it was captured"
        model.train(graph.launch, 3, first=1)
        assert set(m.waits) <= {"event"}, "the host waited inside a step"
        model.train(lambda model=model: model.lanes.run(model.step), 1, first=4)  # and eager again
        assert all(map(same_bits, model.state(), want)), seed


@pytest.mark.parametrize(("places", "peer"), PLACES)
def test_lists_captured_as_one_graph(machine, places, peer):
    want = eager(machine(peer=peer), places, 4)
    for seed in range(5):
        model = Model(machine(peer=peer, seed=seed), places)

        def step(model=model):
            model.lanes.run(model.forward)
            model.lanes.run(model.update)

        model.train(step, 1)
        model.train(model.lanes.capture(model.forward, model.update).launch, 3, first=1)
        assert all(map(same_bits, model.state(), want)), seed


@pytest.mark.parametrize(("places", "peer"), PLACES[1:])
def test_a_graph_keeps_the_waits(machine, places, peer):
    """A wait that is missing when a step is captured is missing in every replay."""
    model = Model(machine(peer=peer), places)
    model.lanes.run(model.step)
    at = next(i for i, t in enumerate(model.step) if t.name.startswith("gradient"))
    without = [Task(t.name, t.lane, t.run, () if i == at else t.waits) for i, t in enumerate(model.step)]
    graph = model.lanes.capture(without)
    with pytest.raises(Race):
        graph.launch()


def twice(run) -> None:
    run()
    run()


@pytest.mark.parametrize("side", ["before", "after"])
def test_launching_joins_the_lanes(machine, monkeypatch, side):
    """Without the join at a launch's beginning or end something of another lane would not be in order."""
    m = machine()
    model = Model(m, (0, 1))
    model.lanes.run(model.step)
    graph = model.lanes.capture(model.step)
    name = {"before": "_gather", "after": "_scatter"}[side]
    graph.launch()
    monkeypatch.setattr(StreamLanes, name, lambda self, lane: None)

    def use_and_launch():
        with model.lanes.active(1):
            model.shards[1]["hyper"].fill(0.5)
        graph.launch()

    with pytest.raises(Race):
        twice(use_and_launch)


def test_a_graph_is_launched_on_its_lane(machine):
    """Whatever stream is current."""
    want = eager(machine(), (0, 1), 3)
    for seed in range(5):
        m = machine(seed=seed)
        model = Model(m, (0, 1))
        model.train(lambda model=model: model.lanes.run(model.step), 1)
        graph = model.lanes.capture(model.step)
        with m.xp.cuda.Stream(non_blocking=True):
            model.train(graph.launch, 2, first=1)
        assert all(map(same_bits, model.state(), want))


def test_the_default_stream_sees_what_a_graph_did(machine):
    for seed in range(10):
        m = machine(seed=seed)
        model = Model(m, (0, 1))
        model.lanes.run(model.step)
        graph = model.lanes.capture(model.step)
        for expected in range(2, 5):
            graph.launch()
            for device, s in zip(model.devices, model.shards, strict=True):
                assert device.to_numpy(s["step"]).tolist() == [expected]


# ---- what cannot be captured -----------------------------------------------------------------------------


def refused(m: Machine, places, run, message: str) -> list[np.ndarray]:
    """A step with such a task is refused with that message; then all goes on as if nothing had been."""
    model = Model(m, places)
    model.train(lambda: model.lanes.run(model.step), 2)
    bad = [*model.step, Task("bad", (len(places) - 1, "compute"), run)]
    with pytest.raises(CaptureError, match=message):
        model.lanes.capture(bad)
    assert m.capturing() is None
    model.train(model.lanes.capture(model.step).launch, 3, first=2)
    return model.state()


@pytest.mark.parametrize("places", [(0,), (0, 1)])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("allocates", "a captured step must not allocate, but 40 bytes were asked for"),
        ("pins", "alloc_pinned_memory: operation not permitted when stream is capturing"),
        ("reads", "capturing, so D2H transfers are disallowed"),
        ("writes", "capturing, so H2D transfers are disallowed"),
        ("waits", "synchronize: operation not permitted when stream is capturing"),
        ("default stream", "would make the legacy stream depend on a capturing blocking stream"),
        ("old event", "dependency created on uncaptured work"),
        ("raises", "ValueError: something else"),
    ],
)
def test_what_cannot_be_captured_is_refused(machine, places, what, message):
    want = eager(machine(), places)
    m = machine()
    device = m.device(places[-1])
    cupy, array = m.xp, device.zeros(10)
    with device.activate():
        event, other = cupy.cuda.Event(), cupy.cuda.Stream()
        event.record(other)

    def on_default_stream():
        with cupy.cuda.null:
            array.fill(1)

    def raises():
        raise ValueError("something  else")

    runs = {
        "allocates": lambda: cupy.empty(10),
        "pins": lambda: cupy.cuda.alloc_pinned_memory(10),
        "reads": array.get,
        "writes": lambda: array.set(np.ones(10, np.float32)),
        "waits": lambda: cupy.cuda.get_current_stream().synchronize(),
        "default stream": on_default_stream,
        "old event": lambda: cupy.cuda.get_current_stream().wait_event(event),
        "raises": raises,
    }
    got = refused(m, places, runs[what], message)
    assert all(map(same_bits, got, want))


def test_ctrl_c_is_no_reason_to_go_on(machine):
    m = machine()
    model = Model(m, (0, 1))

    def interrupt():
        raise KeyboardInterrupt

    model.lanes.run(model.step)
    with pytest.raises(KeyboardInterrupt):
        model.lanes.capture([*model.step, Task("interrupt", (1, "copy"), interrupt)])
    assert m.capturing() is None
    model.lanes.capture(model.step).launch()
    assert model.state()[3].tolist() == [2]


def test_nothing_is_collected_during_a_capture(machine):
    """Freeing some CUDA object of an earlier time could be a call that a capture forbids."""
    lanes, seen = StreamLanes([machine().device()]), []
    tasks = [Task("look", (0, "compute"), lambda: seen.append(gc.isenabled()))]
    lanes.capture(tasks)
    assert seen == [False]
    assert gc.isenabled()
    with pytest.raises(CaptureError):
        lanes.capture([*tasks, Task("fail", (0, "compute"), lambda: seen[9])])
    assert gc.isenabled()
    gc.disable()
    try:
        lanes.capture(tasks)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_graph_holds_its_memory(machine):
    """The graph of an array that nobody else holds any more; the fake finds one that is not held either."""
    m = machine()
    lanes = StreamLanes([m.device()])
    held, target = [on_device(m, np.full(8, 3, np.float32))], m.device().zeros(8)

    def add():
        ops.add(held[0], held[0], out=target)

    tasks = [Task("add", (0, "compute"), add)]
    lanes.run(tasks)
    graph = lanes.capture(tasks)
    del tasks
    graph.launch()
    assert (target.get() == 6).all()
    held[0] = on_device(m, np.full(8, 4, np.float32))
    with pytest.raises(AssertionError, match="which has been freed"):
        graph.launch()


# ---- the stand-in itself ---------------------------------------------------------------------------------


def test_the_fake_refuses_what_cuda_refuses(machine):
    m = machine(peer=False)
    cuda, runtime = m.xp.cuda, m.xp.cuda.runtime
    a, b = on_device(m, np.zeros(4, np.float32), 0), on_device(m, np.zeros(4, np.float32), 1)
    with pytest.raises(CUDARuntimeError, match="not supported between"):
        runtime.deviceEnablePeerAccess(1)
    with pytest.raises(AssertionError, match="without peer access"):
        runtime.memcpyAsync(b.data.ptr, a.data.ptr, 16, 4, 0)
    with pytest.raises(AssertionError, match="neither device nor pinned"):
        runtime.memcpyAsync(b.data.ptr, np.zeros(4).ctypes.data, 16, 4, 0)
    with pytest.raises(AssertionError, match="beyond the end"):
        runtime.memcpyAsync(a.data.ptr, a.data.ptr, 17, 4, 0)
    with pytest.raises(ValueError, match="all arrays must be on one device"):
        ops.add(a, b)
    with pytest.raises(ValueError, match="array on device cuda:1, the current one is cuda:0"):
        m.ext.add("add_flat", m.ext.ElementwiseShape(count=4), b, b, b, 1.0, 1.0, 0)
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(a)
    stream, event = cuda.Stream(), cuda.Event()
    with cuda.Device(1):
        with pytest.raises(CUDARuntimeError, match="event is of another device"):
            event.record(cuda.Stream())
        with pytest.raises(RuntimeError, match="not the current device"), stream:
            pass
        with pytest.raises(CUDARuntimeError, match="stream is not of the current device"):
            m.ext.add("add_flat", m.ext.ElementwiseShape(count=4), b, b, b, 1.0, 1.0, stream.ptr)
    with pytest.raises(RuntimeError, match="default"):
        cuda.null.begin_capture()
    fork = cuda.Stream()
    stream.begin_capture()
    event.record(stream)
    fork.wait_event(event)
    with fork:
        a.fill(1)
    with pytest.raises(CUDARuntimeError, match="unjoined"):
        stream.end_capture()
    with pytest.raises(CUDARuntimeError, match="last recorded in a capturing stream"):
        fork.wait_event(event)


def test_the_fake_has_only_what_cupy_has():
    cupy = pytest.importorskip("cupy")
    pairs = {
        fake_cuda.FakeCupy: cupy,
        fake_cuda.FakeCuda: cupy.cuda,
        fake_cuda.FakeRuntime: cupy.cuda.runtime,
        fake_cuda.FakeStream: cupy.cuda.Stream,
        fake_cuda.FakeEvent: cupy.cuda.Event,
        fake_cuda.FakeGraph: cupy.cuda.Graph,
        fake_cuda.FakeArray: cupy.ndarray,
        fake_cuda.FakePinned: cupy.cuda.PinnedMemoryPointer,
    }
    names = [(real, n) for fake, real in pairs.items() for n in vars(fake) if not n.startswith("_")]
    assert len(names) > 40
    assert [f"{real}.{name}" for real, name in names if not hasattr(real, name)] == []
    for fake, real in ((fake_cuda.FakeStream, cupy.cuda.Stream), (fake_cuda.FakeEvent, cupy.cuda.Event)):
        known = inspect.signature(real.__init__).parameters
        assert set(inspect.signature(fake.__init__).parameters) - {"machine"} <= set(known)


def test_the_fake_finds_races_between_kernels(machine):
    m = machine()
    device = m.device()
    x, y = device.zeros(8), device.zeros(8)
    one, two = (m.xp.cuda.Stream(non_blocking=True) for _ in range(2))
    device.synchronize()
    with one:
        ops.relu(x, out=y)
    with two:
        ops.relu(x, out=device.zeros(8))  # reading together is no race
        with pytest.raises(Race, match="in no order"):
            ops.relu(y, out=x)


def test_the_fake_lends_freed_memory_again(machine):
    """On the stream it was lent on; where another stream has not finished with it that is a race."""
    m = machine()
    x, y = m.device().zeros(8), m.device().zeros(8)
    pointer, other = x.data.ptr, m.xp.cuda.Stream(non_blocking=True)
    m.device().synchronize()
    with other:
        ops.relu(x, out=y)
    del x
    with other:
        assert m.device().empty(8).data.ptr != pointer
    again = m.device().empty(8)
    assert again.data.ptr == pointer
    with pytest.raises(Race):
        again.fill(0)


def test_the_fake_does_not_rush(machine):
    """Nothing has to be done before it is waited for, and everything may be."""
    done = set()
    for seed in range(20):
        m = machine(seed=seed)
        x = m.device().zeros(8)
        m.device().synchronize()
        x.fill(1)
        done.add(bool((x._host == 1).all()))
        assert (x.get() == 1).all()
    assert done == {False, True}
