"""The partition pass: who holds, reads and sends what; pins, replicas, networks that cannot be split."""

import math
from collections import Counter

import numpy as np
import pytest
from support.networks import everything, random_graph

from pyconvnet import models
from pyconvnet.layers import (
    LRN,
    Add,
    Concat,
    Conv2d,
    Dropout,
    Linear,
    MaxPool2d,
    ReLU,
    SoftmaxCrossEntropy,
)
from pyconvnet.network import Network
from pyconvnet.network.node import INPUT
from pyconvnet.network.partition import Partition, partition
from pyconvnet.network.regions import PartitionError, Region

TWO = ["cpu", "cpu"]
TOWERS = [
    "conv1",
    "norm1",
    "pool1",
    "conv2",
    "norm2",
    "pool2",
    "conv3",
    "conv4",
    "conv5",
    "pool5",
    "fc6",
    "fc7",
]


def channels(split, name):
    return [None if region is None else (region.start, region.stop) for region in split.held[name]]


def crossings(split, n=1):
    """{(layer, kind): bytes} of everything that crosses."""
    total = Counter()
    for c in split.crossings(n):
        total[c.layer, c.kind] += c.nbytes
    return dict(total)


# ---- the paper ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("model", [models.alexnet, models.alexnet_2012])
def test_alexnet_is_split_as_the_paper_does(model):
    """Section 3.5: only the third convolution and the fully connected layers take input from both towers."""
    net = model()
    split = net.partition(TWO, batch_size=128)
    for name in TOWERS:
        half = net[name].output_shape[-1] // 2
        assert channels(split, name) == [(0, half), (half, 2 * half)], name
    assert channels(split, "fc8") == [(0, 1000), None]
    source = {name: net[name].inputs[0] for name in ("conv3", "fc6", "fc7", "fc8")}
    per_example = {name: 4 * math.prod(net[source[name]].output_shape) for name in source}
    expected = {}
    for name, nbytes in per_example.items():
        # Each tower sends its half to the other; fc8, on device 0 as in 2012, gets one half only.
        crossing = 128 * (nbytes // 2 if name == "fc8" else nbytes)
        expected[name, "gather"] = expected[name, "gradient"] = crossing
    assert crossings(split, 128) == expected
    assert sum(expected.values()) == 60_030_976


def test_each_tower_holds_its_own_parameters_only():
    net = models.alexnet()
    split = net.partition(TWO)
    for name, slices in split.filters.items():
        if name != "fc8":
            filters = net[name].output_shape[-1]
            assert slices == ((0, filters // 2), (filters // 2, filters))
    assert split.parameters(0) + split.parameters(1) == net.num_parameters == 60_965_224
    assert split.parameters(0) - split.parameters(1) == 4_097_000  # fc8
    locals_ = {local.node.name: local for local in split.locals[1]}
    assert (locals_["conv2"].layer.filters, locals_["conv2"].layer.groups) == (128, 1)
    assert locals_["conv2"].reads == (Region(0, 1, 48, 96),)
    assert (locals_["conv3"].layer.filters, locals_["conv3"].layer.groups) == (192, 1)
    assert locals_["conv3"].reads == (Region(0, 1, 0, 256),)
    assert locals_["norm1"].layer.groups == 1


def test_four_devices_share_two_towers():
    """Two devices a group: conv2 needs the other half of its own group, not the other group."""
    split = models.alexnet().partition(4, batch_size=1)
    assert channels(split, "conv2") == [(0, 64), (64, 128), (128, 192), (192, 256)]
    assert [next(x for x in split.locals[d] if x.node.name == "conv2").reads[0] for d in range(4)] == [
        Region(0, 1, 0, 48),
        Region(0, 1, 0, 48),
        Region(0, 1, 48, 96),
        Region(0, 1, 48, 96),
    ]
    assert crossings(split)["conv2", "gather"] == 4 * 27 * 27 * 24 * 4


def test_the_table_tells_it():
    text = str(models.alexnet().partition(["cuda:0", "cuda:1"], batch_size=128))
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip("-")}
    assert lines["conv2"] == ["conv2", "Conv2d", "27x27x256", "0:128", "128:256"]
    assert lines["conv3"][3:] == ["0:192", "192:384", "pool2", "22,151,168", "22,151,168"]
    assert lines["fc8"][3:5] == ["0:1000", "-"]
    assert lines["total"][1:4] == ["parameters", "32,531,112", "28,434,112"]
    assert "1 replica x 2 towers, batch 128" in text
    assert "0: cuda:0" in text
    assert "1: cuda:1" in text
    replicas = str(models.digits().partition(4, 2, True, batch_size=10))
    assert "2 replicas x 2 towers, fully connected layers over all, batch 10" in replicas
    assert "rows 5:10" in replicas


# ---- rules -------------------------------------------------------------------------------------------------
def small(groups=1, filters=8):
    net = Network("small", (6, 6, 3)).add(Conv2d(filters, 3, groups=1), "conv1")
    return net.add(Conv2d(filters, 3, groups=groups, pad=1), "conv2")


def finished(net, classes=3):
    return net.add(Linear(classes), "scores").add(SoftmaxCrossEntropy(), "loss")


def test_one_device_is_the_network_itself():
    net = everything()
    split = net.partition(1)
    assert split.crossings(4) == []
    for local, node in zip(split.locals[0], net, strict=True):
        assert local.layer == node.layer
        assert local.holds == local.computes
        assert local.sources == node.inputs


def test_uneven_slices():
    split = finished(small(filters=10)).partition(3)
    assert channels(split, "conv1") == [(0, 3), (3, 6), (6, 10)]
    assert split.parameters(0) + split.parameters(1) + split.parameters(2) == split.network.num_parameters


def test_response_normalisation_borrows_neighbours():
    """A window of 5 reaches two channels into the other slice; a group's edge stops it."""
    net = finished(small(filters=16).add(LRN(5, groups=1), "norm"))
    norm = [next(x for x in net.partition(2).locals[d] if x.node.name == "norm") for d in (0, 1)]
    assert [local.reads[0] for local in norm] == [Region(0, 1, 0, 10), Region(0, 1, 6, 16)]
    assert [local.holds for local in norm] == [Region(0, 1, 0, 8), Region(0, 1, 8, 16)]
    own = finished(small(filters=16).add(LRN(5, groups=2), "norm"))
    assert not any(c.layer == "norm" for c in own.partition(2).crossings())
    even = finished(small(filters=16).add(LRN(4, groups=1), "norm"))  # window [i - 2, i + 1]
    assert next(x for x in even.partition(2).locals[0] if x.node.name == "norm").reads == (
        Region(0, 1, 0, 9),
    )
    thirds = finished(small(filters=12).add(LRN(5, groups=3), "norm"))  # a slice of one group and a half
    local = next(x for x in thirds.partition(2).locals[0] if x.node.name == "norm")
    assert (local.reads[0], local.layer.groups) == (Region(0, 1, 0, 8), 2)


def test_concat_of_towers_stays_local():
    net = Network("fork", (6, 6, 3)).add(Conv2d(4, 3, device=0), "left")
    net.add(Conv2d(4, 3, device=1), "right", inputs=INPUT).add(Concat(), "both", inputs=["left", "right"])
    split = finished(net).partition(2)
    assert channels(split, "both") == [(0, 4), (4, 8)]
    assert {c.layer for c in split.crossings()} == {"scores"}


def test_pins_place_layers_as_cuda_convnets_gpu_does():
    net = Network("pins", (6, 6, 3)).add(Conv2d(4, 3, device=1), "conv1").add(MaxPool2d(), "pool1")
    net.add(Linear(5), "fc1").add(Dropout(0.5), "drop").add(Linear(3, device=1), "fc2").add(
        SoftmaxCrossEntropy(), "loss"
    )
    split = net.partition(2)
    assert channels(split, "conv1") == channels(split, "pool1") == [None, (0, 4)]  # follows its input
    assert channels(split, "fc1") == channels(split, "drop") == [(0, 2), (2, 5)]
    assert channels(split, "fc2") == [None, (0, 3)]
    assert split.held["loss"] == (None, Region(0, 1, 0, 1))  # where the scores are
    assert [(c.layer, c.kind, c.source, c.target) for c in split.crossings()] == [
        ("fc1", "gather", 1, 0),
        ("fc1", "gradient", 0, 1),
        ("fc2", "gather", 0, 1),
        ("fc2", "gradient", 1, 0),
    ]
    assert split.network.partition(1).crossings() == []  # on one device pins say nothing


def test_scores_may_be_split_on_request():
    net = small().add(Linear(6, device="all"), "scores").add(SoftmaxCrossEntropy(), "loss")
    split = net.partition(2)
    assert channels(split, "scores") == [(0, 3), (3, 6)]
    assert ("loss", "gather") in crossings(split)


def test_replicas_share_the_batch_and_sum_gradients():
    net = finished(small(groups=2))
    split = net.partition(4, replicas=2)
    assert split.held["conv2"] == (
        Region(0, 2, 0, 4),
        Region(0, 2, 4, 8),
        Region(1, 2, 0, 4),
        Region(1, 2, 4, 8),
    )
    assert split.sharing("conv2") == [[0, 2], [1, 3]]
    assert split.sharing("scores") == [[0, 2]]
    assert {
        (c.source, c.target) for c in split.crossings() if c.kind == "weights" and c.layer == "conv2"
    } == {
        (0, 2),
        (2, 0),
        (1, 3),
        (3, 1),
    }
    assert split.held["conv2"][2].rows(5) == (2, 5)
    assert split.held["conv2"][0].rows(1) == (0, 0)


def test_hybrid_splits_fully_connected_layers_over_all():
    split = models.alexnet().partition(4, replicas=4, hybrid=True)
    assert split.held["conv5"][3] == Region(3, 4, 0, 256)
    assert channels(split, "fc6") == [(0, 1024), (1024, 2048), (2048, 3072), (3072, 4096)]
    assert split.held["fc6"][1].parts == 1
    assert channels(split, "fc8") == [(0, 250), (250, 500), (500, 750), (750, 1000)]
    assert channels(models.digits().partition(16, replicas=16, hybrid=True), "fc4")[1:] == [None] * 15
    assert split.sharing("conv1") == [[0, 1, 2, 3]]
    assert split.sharing("fc6") == [[0], [1], [2], [3]]
    kinds = {(c.layer, c.kind) for c in split.crossings()}
    assert ("fc6", "weights") not in kinds
    assert ("conv1", "weights") in kinds
    assert ("fc6", "gather") in kinds


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("devices", "replicas", "hybrid"), [(2, 1, False), (4, 2, False), (4, 4, True)])
def test_every_element_has_one_owner_and_every_reader_finds_it(seed, devices, replicas, hybrid):
    net, n = random_graph(seed), 5
    split = net.partition(devices, replicas, hybrid)
    for node in net:
        count = np.zeros((n, *(node.output_shape or (1,))), int)
        for region in filter(None, split.held[node.name]):
            first, last = region.rows(n)
            count[first:last, ..., region.start : region.stop] += 1
        assert (count == 1).all(), node.name
    for d in range(devices):
        for source, region, _ in split.gathers(d):
            shape = net.input_shape if source == INPUT else net[source].output_shape
            count = np.zeros((n, *shape), int)
            for piece in split.contributions(source, d, region):
                first, last = piece.region.rows(n)
                count[first:last, ..., piece.region.start : piece.region.stop] += 1
                held = split.held[source][piece.source]
                assert held.part == piece.region.part
                assert held.start <= piece.region.start < piece.region.stop <= held.stop
            first, last = region.rows(n)
            assert (count[first:last, ..., region.start : region.stop] == 1).all()
            assert count.sum() == (last - first) * math.prod(shape[:-1]) * region.channels


# ---- what cannot be split ----------------------------------------------------------------------------------
BAD = [
    (
        lambda: models.alexnet().partition(3),
        PartitionError,
        r"layer 'conv2' \(Conv2d\) cannot be split over 3 devices: its 2 groups neither divide",
    ),
    (lambda: finished(small(filters=2)).partition(3), PartitionError, "layer 'conv1'.*it has 2 channels"),
    (
        lambda: finished(Network("x", (4, 4, 1)).add(Conv2d(4, 3, device=2), "c")).partition(2),
        PartitionError,
        "layer 'c' .*has device=2, but there are 2 towers",
    ),
    (
        lambda: finished(
            Network("x", (4, 4, 4))
            .add(Conv2d(4, 3, pad=1, device=0), "a")
            .add(Conv2d(4, 3, pad=1, share="a", device=1), "b")
        ).partition(2),
        PartitionError,
        "layer 'b' .*uses the parameters of layer 'a'",
    ),
    (
        lambda: small().add(Linear(4), "s").add(SoftmaxCrossEntropy(device="all"), "loss").partition(2),
        PartitionError,
        "layer 'loss' .*a cost looks at all the scores",
    ),
    (lambda: small().partition("cpu"), TypeError, "devices must be a list of names or a number, got 'cpu'"),
    (lambda: small().partition([]), ValueError, "at least one device, got an empty list"),
    (lambda: small().partition(0), ValueError, "devices must be at least 1, got 0"),
    (
        lambda: small().partition(4, replicas=3),
        ValueError,
        "replicas must divide the number of devices, 4, got 3",
    ),
    (lambda: small().partition(2, replicas=0), ValueError, "replicas must be at least 1"),
    (lambda: small().partition(2, hybrid=1), TypeError, "hybrid must be True or False, got int 1"),
    (lambda: small().partition(2, batch_size=0), ValueError, "batch_size must be at least 1"),
    (
        lambda: Network("x", (4,)).add(Linear(2, device=-1)),
        ValueError,
        "device .* must be at least 0, got -1",
    ),
    (lambda: Network("x", (4,)).add(ReLU(device="1")), TypeError, "device .* must be an integer, got str"),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[m[:40] for _, _, m in BAD])
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_pins_are_part_of_the_description():
    net = finished(
        Network("x", (4, 4, 2)).add(Conv2d(4, 3, device=1), "c").add(Add(device="all"), "sum", ["c", "c"])
    )
    again = Network.from_dict(net.to_dict())
    assert again == net
    assert (again["c"].layer.device, again["sum"].layer.device) == (1, "all")
    assert again["scores"].layer.device is None


def test_partition_is_a_function_of_its_arguments():
    one, two = (partition(models.alexnet(), TWO, batch_size=8) for _ in range(2))
    assert isinstance(one, Partition)
    assert one.locals == two.locals
    assert str(one) == repr(two)


def test_earlier_names():
    split = partition(models.digits(), 2)
    split.relu_by_readers, split.gradient_aliases = frozenset({"conv1"}), {"relu": "pool"}
    assert (split.rectified, split.passed) == ({"conv1"}, {"relu": "pool"})
