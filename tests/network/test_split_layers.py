"""Every layer, the library's and a user's own, computes on several devices what it computes on one."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from support import ROOT
from support.few import few
from support.own_layers import (
    ChannelMean,
    Filters,
    Flatten,
    Gate,
    GlobalMean,
    GroupMean,
    LayerNorm,
    Masked,
    Mix,
    Noise,
    Own,
    RowBias,
    Scale,
    ScaledWindow,
    Slope,
    SquaredError,
    Window,
    put,
)
from test_split import assert_close, make, relative, trace

import pyconvnet as pcn
from pyconvnet import layers
from pyconvnet.layers import (
    LRN,
    Add,
    AvgPool2d,
    Concat,
    Constant,
    Conv2d,
    Dropout,
    Linear,
    Logistic,
    MaxPool2d,
    Normal,
    Parameter,
    ReLU,
    Slice,
    SoftmaxCrossEntropy,
    SpatialLRN,
    Tanh,
)
from pyconvnet.network import Network
from pyconvnet.network.node import INPUT
from pyconvnet.network.partition import partition
from pyconvnet.network.regions import PartitionError
from pyconvnet.plan import Plan
from pyconvnet.plan.fuse import fuse, space_to_depth_of_images

STD = {"init": Normal(0.2), "bias_init": Constant(0.1)}

#: Where a layer is tried: between convolutions, as the first of all, and after a fully connected layer.
MAPS, IMAGES, VECTORS = "maps", "images", "vectors"
EVERYWHERE = (MAPS, IMAGES, VECTORS)

TABLE = [
    (Conv2d(8, 3, pad=1, groups=2, activation="relu", **STD), (MAPS,)),
    (Conv2d(12, 3, pad=1, stride=2, **STD), (MAPS, IMAGES)),
    (Conv2d(8, 1, frozen=True, **STD), (MAPS,)),
    (Linear(8, activation="relu", **STD), (MAPS, IMAGES, VECTORS)),
    (MaxPool2d(3, 1), (MAPS, IMAGES)),
    (AvgPool2d(2, 2, ceil_mode=True), (MAPS, IMAGES)),
    (LRN(3, 0.9, 0.75, 1.5), (MAPS, IMAGES)),
    (LRN(4, 0.9, 0.75, 1.5, groups=2), (MAPS,)),
    (SpatialLRN(3, 0.9, 0.75, 1.0), (MAPS, IMAGES)),
    *[(kind(), EVERYWHERE) for kind in (ReLU, Tanh, Logistic)],
    (Dropout(0.4, "paper"), EVERYWHERE),
    (Dropout(0.4, "inverted"), EVERYWHERE),
    (Add(), EVERYWHERE),
    (Concat(), EVERYWHERE),
    (SoftmaxCrossEntropy(weight=0.6, topk=2), (VECTORS,)),
]
OWN = [
    *[(kind(), EVERYWHERE) for kind in (ChannelMean, LayerNorm, Mix, Masked)],
    (Flatten(), (MAPS, IMAGES)),
    (GlobalMean(), (MAPS, IMAGES)),
    *[(kind(), EVERYWHERE) for kind in (Scale, Slope, RowBias, Gate)],
    (Window(), EVERYWHERE),
    (Window(0, (1.0, 0.5, 0.3, 0.2)), (MAPS,)),
    (Window(5, (1.0,) * 6), (MAPS, VECTORS)),
    (ScaledWindow(), EVERYWHERE),
    (Filters(), (MAPS, VECTORS)),
    (GroupMean(), (MAPS, VECTORS)),
    (GroupMean(4), (MAPS, VECTORS)),
    *[(Noise(reads), EVERYWHERE) for reads in ("same", "all", (1, 2))],
    (SquaredError(), (VECTORS,)),
]
CASES = [(layer, place) for layer, places in TABLE + OWN for place in places]
IDS = [f"{type(layer).__name__}{i}-{place}" for i, (layer, place) in enumerate(CASES)]

#: (devices, replicas, hybrid); the first two have every kind of split and of copy between them.
GRIDS = [(2, 1, False), (4, 2, True), (4, 1, False), (2, 2, False)]


def test_every_layer_of_the_library_is_in_the_table():
    library = {kind for kind in layers.base._KINDS.values() if kind.__module__.startswith("pyconvnet.")}
    assert {type(layer) for layer, _ in TABLE} == library
    assert not {type(layer) for layer, _ in OWN} & library


def second_input(net, layer, source):
    """Another input for layers that take two."""
    if layer.arity[0] == 1:
        return source
    if isinstance(layer, Masked):
        if source == "fc0":
            net.add(Linear(1, device=0, **STD), "other", "conv1")
        else:
            net.add(Conv2d(1, 1, device=0, **STD), "other", source)
    elif isinstance(layer, Gate):
        width = 3 if source == INPUT else 8
        net.add(Linear(width, device=None if width == 8 else 0, **STD), "other", source)
    else:
        net.add(Tanh(), "other", source)
    return [source, "other"]


def network(layer, place, device=None):
    """The layer in the midst of others, read by two, where its kind can be."""
    net = Network("one", (6, 5, 3))
    if device is not None:
        layer = dataclasses.replace(layer, device=device)
    if place != IMAGES:
        net.add(Conv2d(8, 3, pad=1, **STD), "conv1")
    if place == VECTORS:
        net.add(Linear(8, **STD), "fc0")
    source = {MAPS: "conv1", IMAGES: INPUT, VECTORS: "fc0"}[place]
    if not layer.is_cost:
        net.add(layer, "it", second_input(net, layer, source))
        shape = net["it"].output_shape
        if len(shape) == 3:
            groups = 2 if shape[-1] % 2 == 0 else 1
            net.add(Conv2d(8, 1, groups=groups, **STD), "own").add(Conv2d(8, 1, **STD), "all", "it")
            net.add(Tanh(), "tanh", "own").add(Add(), "sum", ["tanh", "all"])
        net.add(Linear(8, activation="relu", **STD), "fc1")
        net.add(Linear(5, **STD), "more", "it").add(SoftmaxCrossEntropy(0.5, 2), "moreloss")
        net.add(Linear(5, **STD), "scores", "fc1").add(SoftmaxCrossEntropy(), "loss")
    else:
        net.add(Linear(5, **STD), "scores").add(layer, "it")
        net.add(SoftmaxCrossEntropy(0.5, 2), "again", "scores")
    return net


def everything_of(net, devices, n=4, **options):
    """Losses, gradients, parameters, momenta and sums of two steps; then the images' gradient."""
    plan = make(net, devices, n, np.float64, input_gradient=True, **options)
    return (*trace(plan, net, n, steps=2), plan.get_gradient(INPUT, n))


def compare(net, grids=GRIDS, **options):
    wanted = everything_of(net, "cpu")
    assert np.linalg.norm(wanted[5]) > 0
    for count, replicas, hybrid in grids:
        got = everything_of(net, ["cpu"] * count, replicas=replicas, hybrid=hybrid, **options)
        assert_close(got, wanted, 1e-12)
        assert relative(got[5], wanted[5]) < 1e-12


@pytest.mark.parametrize("grids", few([GRIDS[:2], GRIDS[2:]], 1), ids=["few", "more"])
@pytest.mark.parametrize(("layer", "place"), CASES, ids=IDS)
def test_several_devices_compute_what_one_does(layer, place, grids):
    compare(network(layer, place), grids)


# ---- layers derived from the library's ---------------------------------------------------------------------
@dataclass(frozen=True)
class LeakyReLU(ReLU):
    """Says nothing of itself: is no ReLU, as far as anyone knows."""

    def _ops(self):
        def forward(x, out):
            out[...] = np.where(x > 0, x, 0.2 * x)

        def backward(dy, y, out):
            out[...] = np.where(y > 0, dy, 0.2 * dy)

        return forward, backward


@dataclass(frozen=True)
class Contrast(Tanh):
    """tanh of what is left without the mean of the channels."""

    def forward(self, ctx, xs, y, params, saved):
        y[...] = np.tanh(xs[0] - xs[0].mean(-1, keepdims=True))

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        g = dy * (1 - y * y)
        put(dxs[0], g - g.mean(-1, keepdims=True))


@dataclass(frozen=True)
class HalfPool(MaxPool2d):
    """Half the maximum; its backward knows nothing of ``ctx.mask_input``."""

    def forward(self, ctx, xs, y, params, saved):
        super().forward(ctx, xs, y, params, saved)
        y *= 0.5

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        ctx = dataclasses.replace(ctx, mask_input=False)
        super().backward(ctx, 0.5 * dy, xs, y, params, saved, dxs, grads)


@dataclass(frozen=True)
class Thinning(Dropout):
    """Dropout whose survivors are doubled, whatever ``p``."""

    @property
    def train_factor(self):
        return 2.0

    def forward(self, ctx, xs, y, params, saved):
        super().forward(ctx, xs, y, params, saved)
        y *= 1.5


@dataclass(frozen=True)
class Standardised(Conv2d):
    """Its output minus the mean of its channels."""

    def forward(self, ctx, xs, y, params, saved):
        super().forward(dataclasses.replace(ctx, depth=False), xs, y, params, saved)
        y -= y.mean(-1, keepdims=True)

    def backward(self, ctx, dy, xs, y, params, saved, dxs, grads):
        g = dy - dy.mean(-1, keepdims=True)
        super().backward(ctx, g, xs, y, params, saved, dxs, grads)


@dataclass(frozen=True)
class Named(Conv2d):
    """Computes what its base does."""

    stem: ClassVar[str] = "named"

    def __post_init__(self):
        super().__post_init__()


def derived():
    net = Network("derived", (9, 8, 3)).add(Standardised(8, 3, stride=2, pad=1, **STD), "conv1")
    net.add(LeakyReLU(), "leaky").add(LRN(3, 1.0), "norm").add(HalfPool(2, 1), "pool")
    net.add(Named(8, 3, pad=1, activation="relu", **STD), "conv2").add(HalfPool(2, 1), "pool2")
    net.add(Contrast(), "contrast").add(Linear(8, activation="relu", **STD), "fc").add(Thinning(0.4), "thin")
    return net.add(Linear(5, **STD), "scores").add(SoftmaxCrossEntropy(), "loss")


def test_a_derived_layer_is_not_taken_for_its_base():
    """On several devices, and in plans that join layers and leave the way back through a ReLU to others."""
    compare(derived(), fuse=False)
    compare(derived(), [(1, 1, False), (2, 1, False)], fuse=True)
    split = fuse(partition(derived(), 2), train=True)
    assert (split.fused, split.gradient_aliases, set(split.relu_by_readers)) == ({}, {}, set())


@pytest.mark.kernels
def test_derived_layers_on_the_emulator():
    """Where joining is the default, and images lie as the first convolution of the library reads them."""
    net = derived()
    wanted = trace(make(net, "cpu"), net, 4, steps=2)
    for count in (1, 2):
        assert_close(trace(make(net, ["emulator"] * count), net, 4, steps=2), wanted, 2e-5)


def test_what_a_derived_layer_may_say_again():
    assert (LeakyReLU().reads, LeakyReLU().rectifies) == ("all", False)
    assert (HalfPool().reads, HalfPool.masks_input) == ("all", False)
    images = (8, 8, 3)
    mine, named = Standardised(4, 3, stride=2), Named(4, 3, stride=2)
    assert (mine.splits_backward, mine.slice(0, 2, images)) == (False, None)
    assert mine.space_to_depth_layout(images) is None
    assert (named.splits_backward, named.slice(0, 2, images).layer.filters) == (True, 2)
    assert named.space_to_depth_layout(images).stride == named.depth_layout(images).stride == 2

    class Half(MaxPool2d):
        reads = "same"

        def forward(self, *args):
            """Overrides what is there, and says what stays true."""

    assert (Half().reads, Half.masks_input) == ("same", False)


def test_images_stay_as_a_derived_first_layer_reads_them():
    plain = Network("plain", (9, 8, 3)).add(Conv2d(8, 3, stride=2, **STD), "conv1").add(Linear(5), "scores")
    assert space_to_depth_of_images(partition(plain, 1)).stride == 2
    assert space_to_depth_of_images(partition(derived(), 1)) is None


# ---- where they lie ----------------------------------------------------------------------------------------
def channels(split, name):
    return [None if region is None else (region.start, region.stop) for region in split.held[name]]


HALVES, WHOLE = [(0, 4), (4, 8)], [(0, 8), None]


@pytest.mark.parametrize(
    ("layer", "held"),
    [
        (ChannelMean(), WHOLE),
        (ChannelMean(device=1), WHOLE[::-1]),
        (LayerNorm(), WHOLE),
        (Mix(8), WHOLE),
        (Slope(), WHOLE),
        (RowBias(), WHOLE),
        (ScaledWindow(), WHOLE),
        (Scale(), HALVES),
        (Window(), HALVES),
        (Filters(), HALVES),
        (GroupMean(), HALVES),
        (Noise("all"), WHOLE),
        (Scale(device=0), WHOLE),
        (Scale(device="all"), HALVES),
        (Window(device=1), WHOLE[::-1]),
        (Filters(device=1), WHOLE[::-1]),
    ],
    ids=str,
)
def test_where_a_users_layer_lies(layer, held):
    net = network(layer, MAPS)
    assert channels(partition(net, 2), "it") == held
    if layer.device is not None:
        compare(net, [(2, 1, False), (4, 2, False)])


def test_a_window_gathers_what_it_lacks_and_no_more():
    split = partition(network(Window(1, (0.5, 1.0, -0.25, 0.1)), MAPS), 2)
    reads = [next(x for x in split.locals[d] if x.node.name == "it").reads[0] for d in (0, 1)]
    assert [(r.start, r.stop) for r in reads] == [(0, 6), (3, 8)]
    assert not any(c.layer == "it" for c in partition(network(GroupMean(), MAPS), 2).crossings())
    assert not any(c.layer == "it" for c in partition(network(Scale(), MAPS), 2).crossings())


def test_a_parameter_of_any_shape_keeps_it():
    """One slope for 8 channels is one number, on one device and on two."""
    for devices in ("cpu", ["cpu", "cpu"]):
        plan = Plan(network(Slope(), MAPS), devices, 2)
        assert plan.get_parameters()["it.slope"].tolist() == [np.float32(0.3)]
        assert [s.parameters["it.slope"].shape for s in plan.shards if "it.slope" in s.parameters] == [(1,)]


# ---- what cannot be ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Says(Own):
    """Whatever a test wants it to say."""

    channels: int = 8
    found: Slice | None = None
    own: tuple[Parameter, ...] = ()
    reads: object = "all"

    def output_shape(self, *inputs):
        return (*inputs[0][:-1], self.channels) if self.channels else ()

    def parameters(self, *inputs):
        return list(self.own)

    def slice(self, start, stop, *inputs):
        return super().slice(start, stop, *inputs) if self.found is None else self.found


FACTOR = Parameter("w", (8,), Normal(1.0), per_channel=True)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        (Says(reads="some"), ValueError, r"'it' \(Says\) .*reads must be 'all', 'same' or .*, got 'some'"),
        (Says(reads=(1,)), ValueError, r"or \(before, after\), got \(1,\)"),
        (Says(reads=(-1, 0)), ValueError, "reads.* must be at least 0, got -1"),
        (Says(reads=(1.5, 0)), TypeError, "reads.* must be an integer, got float 1.5"),
        (Says(channels=0), ValueError, "output_shape must have at least one axis"),
        (Says(own=(dataclasses.replace(FACTOR, shape=()),)), ValueError, r"'w' must have at least one axis"),
        (Says(channels=4, own=(FACTOR,)), ValueError, r"output's channels, 4, got shape \(8,\)"),
        (Says(channels=4, reads="same"), PartitionError, "'it'.* reads='same' needs inputs of as many"),
        (Says(channels=9, reads=(1, 1)), PartitionError, "as many channels as the output, 9, got"),
        (Says(device="all"), PartitionError, "layer 'it' .*cannot be split: it makes all channels at once"),
        (Slope(device="all"), PartitionError, "layer 'it' .*cannot be split"),
        (Says(found="x"), PartitionError, r"'it' .*cannot make channels 0:4: slice must return a Slice"),
        (Says(found=Slice(Tanh(), ())), PartitionError, r"slice reads \(\) of inputs that have"),
        (Says(found=Slice(Tanh(), ((0, 9),))), PartitionError, r"slice reads \(\(0, 9\),\) of inputs"),
        (Says(found=Slice(Tanh(), ((3, 3),))), PartitionError, "slice reads nothing"),
        (Says(found=Slice(Tanh(), ((0, 4),), (1, 4))), PartitionError, r"slice computes \(1, 4\)"),
        (
            Says(found=Slice(Tanh(), ((0, 8),), (0, 8)), own=(FACTOR,)),
            PartitionError,
            r"slice computes \(0, 8\), and their parameters lie on other devices",
        ),
    ],
)
def test_what_a_layer_cannot_say(layer, error, message):
    with pytest.raises(error, match=message):
        partition(network(layer, MAPS), 2)


def test_costs_and_layers_that_mask_read_one_input():
    @dataclass(frozen=True)
    class Distance(SquaredError):
        arity: ClassVar[tuple[int, int]] = (2, 2)

    net = Network("two", (4,)).add(Linear(3), "a").add(Linear(3), "b", INPUT)
    with pytest.raises(ValueError, match=r"layer 'it' \(Distance\) .*a cost reads one input, got 2"):
        net.add(Distance(), "it", ["a", "b"])

    @dataclass(frozen=True)
    class Careless(Masked):
        masks_input: ClassVar[bool] = True

    with pytest.raises(ValueError, match=r"'it' \(Careless\) .*masks_input reads one input, got 2"):
        net.add(Careless(), "it", ["a", "b"])


def test_a_name_belongs_to_one_class(monkeypatch):
    monkeypatch.setattr(layers.base, "_KINDS", dict(layers.base._KINDS))
    layers.register(ChannelMean)
    layers.register(type("ChannelMean", (Own,), {"__module__": "support.own_layers"}))  # run again
    with pytest.raises(ValueError, match=r"the name 'Conv2d' is taken by pyconvnet\.layers\.conv\.Conv2d"):
        layers.register(type("Conv2d", (Own,), {}))


def test_the_layer_of_the_documentation(monkeypatch):
    monkeypatch.setattr(layers.base, "_KINDS", dict(layers.base._KINDS))
    text = (ROOT / "docs" / "adding-a-layer.md").read_text()
    scope = {"__name__": "documentation"}
    exec(text.partition("## In your own code")[2].partition("```python\n")[2].partition("```")[0], scope)
    net = network(scope["ChannelScale"](), MAPS)
    assert layers.from_dict(net["it"].layer.to_dict()) == net["it"].layer
    assert channels(partition(net, 2), "it") == HALVES
    assert max(check.error for check in pcn.check_gradients(net, samples=2)) < 1e-6
    compare(net)


# ---- from train() to a loaded model ------------------------------------------------------------------------
def test_a_users_layer_is_trained_and_loaded(tmp_path, monkeypatch):
    for kind in (ChannelMean, Mix):
        monkeypatch.setitem(layers.base._KINDS, kind.__name__, kind)
    net = Network("own", (6, 5, 3)).add(Conv2d(8, 3, pad=1, **STD), "conv").add(Mix(8)).add(ChannelMean())
    net.add(Linear(4, **STD), "scores").add(SoftmaxCrossEntropy(), "loss")
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (40, 6, 5, 3), np.uint8), rng.integers(4, size=40)
    options = {"epochs": 2, "batch_size": 16, "lr": 1e-3, "progress": False, "seed": 3}
    runs = [
        pcn.train(net, data, devices=["cpu"] * count, out=tmp_path / str(count), **options)
        for count in (1, 2, 4)
    ]
    loaded = [pcn.load(run.out) for run in runs]
    for model in loaded[1:]:
        assert model.network == net
        for name, value in loaded[0].parameters.items():
            np.testing.assert_allclose(model.parameters[name], value, rtol=0, atol=1e-5 * np.abs(value).max())
