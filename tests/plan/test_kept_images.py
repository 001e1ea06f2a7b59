"""Images that the devices keep: batches of indices are batches of copies, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest
from support.helpers import same_bits
from support.networks import plain

from pyconvnet.common.devices import Device, emulator
from pyconvnet.data import ArrayDataset, Augmentation, statistics
from pyconvnet.layers import Conv2d, Linear, Normal, SoftmaxCrossEntropy
from pyconvnet.network import Network
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.plan import Plan, kept

N, COUNT, SHAPE = 6, 17, (12, 10, 3)
RNG = np.random.default_rng(4)
DATA = ArrayDataset(RNG.integers(0, 256, (COUNT, *SHAPE)).astype(np.uint8), RNG.integers(0, 4, COUNT))
AUGMENT = Augmentation(crop=8, mirror=True, pca=0.1, mean="image", scale=0.02)
STATISTICS = statistics(DATA)


def strided():
    """A first layer that reads the space-to-depth layout."""
    net = Network("strided", (8, 8, 3))
    net.add(Conv2d(4, 5, stride=2, pad=1, activation="relu", init=Normal(0.1)), "conv1")
    return net.add(Linear(4, init=Normal(0.2)), "fc2").add(SoftmaxCrossEntropy(), "loss")


def trained(devices, keep, net=plain, data=DATA, **options):
    """Parameters and sums after some steps; `keep`: what of the data the plan keeps, or None."""
    plan = Plan(net(), devices, N, **options)
    plan.set_preprocessing(
        Preprocessing(data.image_shape, (8, 8), AUGMENT.mean_of(STATISTICS), AUGMENT.scale)
    )
    plan.set_hyper(0.05, 0.9)
    of = None if keep is None else keep(plan)
    rng = np.random.default_rng(1)
    for step, n in enumerate((N, N, 1, N, 4)):
        rows = rng.integers(0, COUNT, n)
        rows[-1] = rows[0]
        draws = AUGMENT.draw(3, step, 0, n, data.image_shape, STATISTICS)
        plan.feed(data.read(rows) if of is None else rows, data.labels[rows], draws, of=of)
        plan.step(n)
    plan.feed(data.read(rows) if of is None else rows, data.labels[rows], of=of)  # centre crops
    plan.forward(len(rows), train=False)
    return {**plan.get_parameters(), "metrics": plan.get_metrics()}


def assert_same(got, want):
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert same_bits(got[name], value), name


def whole(plan):
    return plan.keep_images(DATA.x)


def in_slices(plan):
    pieces = (DATA.x[i : i + 5] for i in range(0, COUNT, 5))
    return plan.keep_images(pieces, COUNT)


SEVERAL = {
    "cpu": ("cpu", {}),
    "emulator": ("emulator", {}),
    "towers": (["emulator"] * 2, {}),
    "replicas": (["emulator"] * 2, {"replicas": 2}),
    "bf16": ("emulator", {"precision": "bf16"}),
    "gpu": ("cuda:0", {}),
    "gpus": (["cuda:0", "cuda:1"], {}),
}
GPUS = {"gpu": pytest.mark.gpu, "gpus": pytest.mark.gpu(n=2)}


@pytest.mark.parametrize("net", [plain, strided])
@pytest.mark.parametrize("case", [pytest.param(c, marks=GPUS.get(c, ())) for c in SEVERAL])
def test_the_bits_are_those_of_images_that_are_fed(case, net):
    devices, options = SEVERAL[case]
    want = trained(devices, None, net, **options)
    for keep in (whole, in_slices):
        assert_same(trained(devices, keep, net, **options), want)


def test_floats_are_kept_too():
    floats = ArrayDataset(DATA.x.astype(np.float32), DATA.labels)
    want = trained("emulator", None, data=floats)
    assert_same(trained("emulator", lambda plan: plan.keep_images(floats.x), data=floats), want)
    slices = [floats.x[:9], floats.x[9:]]
    assert_same(
        trained("cpu", lambda plan: plan.keep_images(slices, COUNT, np.float32), data=floats),
        trained("cpu", None, data=floats),
    )


@pytest.mark.parametrize("places", ["0", "01"])
def test_gpus_that_are_not_there(machine, places, monkeypatch):
    """Uploaded in slices, gathered by each device, in any order that CUDA may choose."""
    monkeypatch.setattr(kept, "SLICE", 5 * DATA.x[0].nbytes)
    want = trained(["emulator"] * len(places), None)
    for seed in range(4):
        m = machine(seed=seed)
        of = []

        def keep(plan, of=of, seed=seed):
            of.append((whole if seed % 2 else in_slices)(plan))
            return of[0]

        assert_same(trained([f"cuda:{i}" for i in places], keep), want)
        assert of[0].devices == [f"cuda:{i}" for i in places]
        assert not any(
            "host ->" in work.name and work.touches[0][2] > SHAPE[0] * SHAPE[1] * 3 for work in m.made[-60:]
        )


def test_nothing_but_indices_draws_and_labels_crosses(machine):
    """Bytes from the host to the device in a step."""
    m = machine()
    plan = Plan(plain(), "cuda:0", N)
    plan.set_preprocessing(Preprocessing(SHAPE, (8, 8)))
    of = whole(plan)
    rows = np.arange(N)
    draws = AUGMENT.draw(3, 0, 0, N, SHAPE, STATISTICS)

    def crossed(images, of):
        first = len(m.made)
        plan.feed(images, DATA.labels[rows], draws, of=of)
        copies = [w for w in m.made[first:] if w.name == "copy host -> 0"]
        return sum(w.touches[0][2] - w.touches[0][1] for w in copies)

    fed, chosen = crossed(DATA.read(rows), None), crossed(rows, of)
    assert fed - chosen == N * (SHAPE[0] * SHAPE[1] * SHAPE[2] - 4)
    assert chosen == N * (4 + 4 + 8 + 1 + 12)  # index, label, corner, mirror, colour


def test_a_gpu_without_room(machine):
    m = machine()
    plan = Plan(plain(), ["cuda:0", "cuda:1"], N)
    m.free = kept.SPARE + DATA.x.nbytes - 1
    message = rf"images take {DATA.x.nbytes:,} bytes of cuda:0, which has {m.free:,} free, {kept.SPARE:,} of"
    for keep in (whole, in_slices):
        with pytest.raises(ValueError, match=message):
            keep(plan)
    m.free += 1
    assert in_slices(plan).shape == whole(plan).shape == (COUNT, *SHAPE)


def test_the_host_reads_an_array_where_it_lies(any_device):
    of = Plan(plain(size=8), any_device, N).keep_images(DATA.x)
    assert (len(of), of.shape, of.dtype) == (COUNT, (COUNT, *SHAPE), np.uint8)
    if any_device.kind != "cuda":
        assert of.on(any_device) is DATA.x
    assert any_device.name in repr(of)


def test_memory_of_the_host():
    assert emulator().free_bytes() is None or emulator().free_bytes() > 1 << 20


def test_slices_on_the_host_need_room(monkeypatch):
    plan = Plan(plain(), "cpu", N)
    monkeypatch.setattr(Device, "free_bytes", lambda self: 1000)
    with pytest.raises(ValueError, match=r"bytes of cpu, which has 1,000 free"):
        in_slices(plan)
    assert whole(plan).on(plan.device) is DATA.x
    monkeypatch.setattr(Device, "free_bytes", lambda self: None)
    assert np.array_equal(in_slices(plan).on(plan.device), DATA.x)


X = DATA.x
BAD_IMAGES = [
    ((X[0],), ValueError, r"images must have 4 dimensions \(N, H, W, C\), got shape \(12, 10, 3\)"),
    ((X.astype(np.int32),), TypeError, "images must be uint8 or float32, got int32"),
    ((X[:0],), ValueError, "images must not be empty"),
    ((np.ma.masked_array(X),), TypeError, "images must"),
    ((X, 3), ValueError, "count must be the number of images, 17, got 3"),
    ((7,), TypeError, "images must be a ndarray or Iterable, got int 7"),
    (([X],), TypeError, "count must be an integer, got NoneType"),
    (([X], 0), ValueError, "count must be at least 1, got 0"),
    (([], 4), ValueError, "images must be 4 altogether, got 0"),
    (([X[:3]], 4), ValueError, "images must be 4 altogether, got 3"),
    (([X[:3], X[3:5]], 4), ValueError, r"images must be 4 of shape \(12, 10, 3\) .* got \(2, .*\) after 3"),
    (([X[:3], X[3:4, :8]], 4), ValueError, r"got \(1, 8, 10, 3\) after 3"),
    (([X[0]], 1), ValueError, "images must have 4 dimensions"),
    (([X[:3]], 3, np.float32), TypeError, "images must be float32, got uint8"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_IMAGES, ids=range(len(BAD_IMAGES)))
def test_images_that_cannot_be_kept(arguments, error, message):
    with pytest.raises(error, match=message):
        Plan(plain(), "cpu", N).keep_images(*arguments)


def test_indices_that_cannot_be_fed(machine):
    plan = Plan(plain(), "cpu", N)
    of = whole(plan)
    with pytest.raises(ValueError, match="of needs preprocessing"):
        plan.feed(np.arange(3), of=of)
    plan.set_preprocessing(Preprocessing(SHAPE, (8, 8)))
    for indices, message in [
        (np.array([0, COUNT]), r"indices of kept images must be in \[0, 17\), got 17 at index 1"),
        (np.array([-1]), r"must be in \[0, 17\), got -1 at index 0"),
        (np.array([2**32]), "got 4294967296 at index 0"),
        (np.array([0.0, 1.0]), "must be integers of shape .*, got float64"),
        (np.array([True]), "must be integers of shape .*, got bool"),
        (np.array([[0]]), r"got int64 of shape \(1, 1\)"),
        (DATA.read([0]), r"must be integers of shape \(n,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan.feed(indices, of=of)
    with pytest.raises(ValueError, match="a pass takes 1 to 6 examples, got 7"):
        plan.feed(np.arange(7), of=of)
    with pytest.raises(TypeError, match="of must be a KeptImages, got ndarray"):
        plan.feed(np.arange(3), of=X)
    with pytest.raises(ValueError, match=r"of must keep images of shape \(12, 10, 3\), got \(9, 10, 3\)"):
        plan.feed(np.arange(3), of=plan.keep_images(X[:, :9].copy()))
    machine()
    elsewhere = whole(Plan(plain(), "cuda:0", N))
    with pytest.raises(ValueError, match=r"of must be kept by cpu, got KeptImages\(.* on cuda:0\)"):
        plan.feed(np.arange(3), of=elsewhere)
