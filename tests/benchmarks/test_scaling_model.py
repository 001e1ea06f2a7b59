"""Scaling on paper: the model's limits, orders, sums and its check against the One Weird Trick table."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math

import pytest
from support import ROOT
from support.own_layers import ChannelMean

from pyconvnet import models
from pyconvnet.layers import Conv2d, Linear, ReLU, SoftmaxCrossEntropy
from pyconvnet.network import Network

FOLDER = ROOT / "benchmarks"
RESULTS = sorted((FOLDER / "results").glob("scaling-*.json"))


@pytest.fixture(autouse=True)
def folder(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))


def part(name: str):
    return importlib.import_module(f"scaling.{name}" if name != "scaling_model" else name)


def gpu(flops: float = 60e12, bandwidth: float = math.inf, overhead: float = 0.0):
    return part("hardware").Gpu("test", {"fp32": flops}, bandwidth, overhead, "a test")


def fabric(inside=(math.inf, 0.0), between=(math.inf, 0.0), per_node: int = 8, nics: int | None = None):
    h = part("hardware")
    near, far = h.Link("inside", *inside, "a test"), h.Link("between", *between, "a test")
    return h.Fabric(per_node, near, far, nics or per_node)


def flat() -> Network:
    """A network without a fully connected layer."""
    return Network("flat", (4,)).add(ReLU()).add(SoftmaxCrossEntropy())


def setting(net="alexnet", of_gpu=None, of_fabric=None, **options):
    net = models.build(net) if isinstance(net, str) else net
    return part("strategies").Setting(net, of_gpu or gpu(), of_fabric or fabric(), **options)


def h200(precision: str = "fp32", **options):
    h = part("hardware")
    nodes = h.Fabric(8, h.INSIDE["nvlink4"], h.BETWEEN["ndr"], 8)
    return setting("alexnet", h.GPUS["h200"], nodes, precision=precision, **options)


def predict(where, strategy: str, gpus: int, batch: int):
    s = part("strategies")
    return s.predict(where, s.Strategy.parse(strategy), gpus, batch)


def speed(where, strategy: str, gpus: int, batch: int) -> float:
    return predict(where, strategy, gpus, batch).images_per_second


# ---------------------------------------------------------------- one GPU


@pytest.mark.parametrize("net", ["alexnet", "alexnet_2012", "cifar10_18pct", "digits"])
@pytest.mark.parametrize("strategy", ["data", "model", "towers", "model:head=first"])
def test_one_gpu_is_the_sum_of_its_layers(net, strategy):
    h = part("hardware")
    where = setting(net, h.GPUS["h200"], fabric((1e9, 1e-3), (1e9, 1e-3)))
    layers = part("scaling_model").layer_times(where, 32)
    launches = sum(1 for layer in layers if layer["update_us"]) - 1  # the update is one launch for all layers
    total = sum(layer[k] for layer in layers for k in ("forward_us", "backward_us", "update_us"))
    step = predict(where, strategy, 1, 32)
    assert 1e6 * step.step == pytest.approx(total - 1e6 * launches * where.gpu.overhead, rel=1e-9)
    assert step.parts["exchange"] == step.parts["sync"] == 0


def test_arithmetic_alone_is_the_papers():
    """4.136 GFLOP an image: 2 per multiply-add, three times the forward pass less the first layer's dgrad."""
    net = models.build("alexnet")
    flops = 2 * (3 * net.multiply_adds - 105_415_200)
    assert flops == pytest.approx(4.136e9, rel=1e-3)
    assert speed(setting(), "data", 1, 128) == pytest.approx(60e12 / flops)  # 14,508 images/s at 60 TFLOP/s


def test_memory_alone():
    where = setting("alexnet", gpu(math.inf, 1e12))
    elements = sum(math.prod(node.output_shape) for node in where.network)
    one, two = (predict(where, "data", 1, n).step for n in (128, 256))
    assert two - one > 128 * 4 * 4 * elements / 1e12  # every map is read and written, forward and backward
    weights = 60_965_224
    fixed = 2 * one - two  # what does not depend on the batch: fprop, dgrad, wgrad of the weights, the update
    assert fixed == pytest.approx((20 + 4 * 3) * weights / 1e12, rel=2e-3)


def test_half_the_bytes_in_bfloat16():
    h = part("hardware")
    fast = dataclasses.replace(h.GPUS["h200"], flops={"fp32": math.inf, "bf16": math.inf}, overhead=0.0)
    whole, half = (predict(setting("alexnet", fast, precision=p), "data", 1, 1024) for p in ("fp32", "bf16"))
    assert half.parts["memory"] == pytest.approx(whole.parts["memory"] / 2, rel=0.06)  # indices stay bytes
    assert half.parts["update"] == pytest.approx(whole.parts["update"] * 22 / 20)


def test_frozen_and_shared_layers():
    net = Network("small", (8, 8, 4))
    net.add(Conv2d(8, 3, pad=1, frozen=True), "a").add(Conv2d(8, 3, pad=1), "b")
    net.add(Conv2d(8, 3, pad=1, share="b"), "c").add(Linear(10), "fc").add(SoftmaxCrossEntropy())
    works = {w.name: w for w in part("work").work_of(net)}
    ops = {name: [k.op for k in w.backward] for name, w in works.items()}
    assert ops["a"] == []  # nothing to learn there or below
    assert ops["b"] == ["conv2d_wgrad", "bias_backward"]  # and nothing below wants a gradient
    assert ops["c"] == ["conv2d_dgrad", "conv2d_wgrad", "bias_backward"]
    assert [works[name].parameters for name in "abc"] == [0, 584, 0]


# ---------------------------------------------------------------- collectives


def test_collectives_by_hand():
    c = part("collectives")
    costs = {a: c.Collectives(fabric((100.0, 1.0)), a) for a in c.ALGORITHMS}
    four = costs["ring"].group(4)
    assert four == c.Group(4, 1)
    assert costs["ring"].all_reduce(800, four) == 6 * 1 + 2 * 3 / 4 * 8
    assert costs["tree"].all_reduce(800, four) == 4 * 1 + 2 * 8
    assert costs["doubling"].all_reduce(800, four) == costs["auto"].all_reduce(800, four) == 4 * 1 + 12
    assert costs["direct"].all_reduce(800, four) == 2 * 3 * (1 + 2)
    assert costs["ring"].all_gather(800, four) == costs["ring"].reduce_scatter(800, four) == 3 + 6
    assert costs["tree"].all_gather(800, four) == 2 + 6
    assert costs["ring"].gather_to_one(800, four) == 9
    assert costs["ring"].neighbours(200, four) == 2 * (1 + 1)
    for cost in costs.values():
        alone = cost.group(1)
        assert (
            cost.all_reduce(800, alone) == cost.all_gather(800, alone) == cost.gather_to_one(800, alone) == 0
        )


def test_collectives_between_nodes_by_hand():
    c = part("collectives")
    # Two GPUs a node at 100 bytes/s; one card of 50 bytes/s a node, so 25 for each GPU.
    cost = c.Collectives(fabric((100.0, 1.0), (50.0, 3.0), per_node=2, nics=1), "ring")
    eight = cost.group(8)
    assert eight == c.Group(2, 4)
    near, far = 1 / 2 * 800 / 100, 2 * 3 / 4 * 400 / 25
    assert cost.all_reduce(800, eight) == 2 * 1 + 6 * 3 + max(2 * near, far)
    assert cost.all_gather(800, eight) == 1 + 3 * 3 + max(near, 3 / 4 * 400 / 25)
    assert cost.group(4, stride=2) == c.Group(1, 4)  # one GPU of each node
    assert cost.all_reduce(800, cost.group(4, stride=2)) == 6 * 3 + 2 * 3 / 4 * 800 / 25
    direct = dataclasses.replace(cost, algorithm="direct")
    assert direct.all_gather(800, eight) == (1 + 1) + 6 * (3 + 4)


# ---------------------------------------------------------------- limits and orders


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 64, 1024])
def test_perfect_links_make_data_parallelism_ideal(gpus):
    where = setting("alexnet", part("hardware").GPUS["h200"])
    assert speed(where, "data", gpus, 128 * gpus) == pytest.approx(
        gpus * speed(where, "data", 1, 128), rel=1e-12
    )


@pytest.mark.parametrize(
    "strategy", ["data", "towers", "model", "hybrid", "hybrid:split=2", "hybrid:batch=64"]
)
@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_arithmetic_and_perfect_links_make_everything_ideal(strategy, gpus):
    where = setting()
    one = speed(where, "data", 1, 512)
    assert speed(where, strategy, gpus, 512) == pytest.approx(gpus * one, rel=1e-12)
    assert speed(where, strategy, gpus, 512 * gpus) == pytest.approx(gpus * one, rel=1e-12)


def test_whole_head_costs_what_it_computes():
    where = setting()
    scores = 3 * 2 * 4096 * 1000 * 512 / 60e12
    split, first = (predict(where, s, 2, 512).step for s in ("model", "model:head=first"))
    assert first - split == pytest.approx(scores / 2)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_efficiency_falls_with_gpus(precision):
    where = h200(precision)
    counts = [2**i for i in range(11)]
    for batch in (lambda g: 128 * g, lambda g: 1024):
        rates = [speed(where, "data", g, batch(g)) / g for g in counts]
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(rates))
        assert rates[-1] < 0.99 * rates[0]


def test_parts_make_the_step():
    for where in (h200(), h200("bf16", overlap=False), h200("tf32", algorithm="ring")):
        for strategy, gpus in itertools.product(
            ("data", "towers", "model", "hybrid", "hybrid:batch=128"), (2, 8, 64)
        ):
            step = predict(where, strategy, gpus, 128 * gpus)
            assert sum(step.parts.values()) == pytest.approx(step.step)
            assert min(step.parts.values()) >= 0
            assert step.parts["sync"] <= step.sync_total * (1 + 1e-12)


def test_model_parallelism_saturates():
    where = h200()
    rates = {g: speed(where, "model", g, 128 * g) for g in (1, 2, 4, 8, 16, 32, 64)}
    gains = [rates[2 * g] / rates[g] for g in (1, 2, 4, 8, 16, 32)]
    assert gains[0] > 1.9
    assert gains[-1] < 1.3
    assert all(b < a for a, b in itertools.pairwise(gains))
    with pytest.raises(ValueError, match="'conv1' has 96 outputs and cannot be split over 128 GPUs"):
        predict(where, "model", 128, 128 * 128)


def test_who_wins_where():
    """Data parallelism where its sums hide; the hybrid where they do not."""
    fast = h200()
    assert speed(fast, "data", 64, 128 * 64) > speed(fast, "hybrid", 64, 128 * 64)
    assert speed(fast, "hybrid", 64, 1024) > 1.2 * speed(fast, "data", 64, 1024)
    h = part("hardware")
    slow = setting(
        "alexnet", h.GPUS["a100"], h.Fabric(4, h.INSIDE["pcie4"], h.BETWEEN["eth25"], 1), precision="tf32"
    )
    assert speed(slow, "data", 8, 1024) < speed(
        slow, "data", 4, 512
    )  # a second node behind a slow card harms
    for gpus in (2, 4, 8):
        assert speed(slow, "hybrid", gpus, 128 * gpus) > 1.5 * speed(slow, "data", gpus, 128 * gpus)


def test_overlap_hides_sums_but_never_more_than_there_is():
    for gpus in (2, 8, 64):
        hidden, shown = (predict(h200("tf32", overlap=o), "data", gpus, 128 * gpus) for o in (True, False))
        assert hidden.step < shown.step
        assert shown.parts["sync"] == pytest.approx(shown.sync_total)
        assert hidden.step >= shown.step - shown.sync_total
        passes = "hybrid:batch=128"
        assert speed(h200("tf32"), passes, gpus, 128 * gpus) >= speed(
            h200("tf32", overlap=False), passes, gpus, 128 * gpus
        )


def test_buckets():
    """One bucket for all hides nothing of the last layer's; tiny ones pay a latency each."""
    at = {b: predict(h200("tf32", bucket=b), "data", 8, 1024) for b in (1e5, 25e6, 1e9)}
    assert at[1e9].sync_total < at[25e6].sync_total < at[1e5].sync_total
    assert at[25e6].step < min(at[1e5].step, at[1e9].step)


def test_input_rate_bounds():
    where = h200(input_rate=50_000.0)
    assert speed(where, "data", 8, 1024) == pytest.approx(50_000)
    assert speed(where, "data", 64, 8192) == pytest.approx(8 * 50_000)
    assert predict(where, "data", 8, 1024).bound == "input"
    assert predict(where, "data", 2, 256).bound == "arithmetic"


# ---------------------------------------------------------------- what crosses


@pytest.mark.parametrize("head", ["split", "first"])
def test_towers_exchange_what_the_paper_names(head):
    """At one byte a second and no latency, seconds are bytes: what a GPU receives, and the gradients back."""
    n = 4
    where = setting("alexnet", gpu(math.inf), fabric((1.0, 0.0), (1.0, 0.0)))
    halves = [13 * 13 * 256, 9216, 4096, 4096]  # into conv3, fc6, fc7, fc8
    scores = 1000 if head == "split" else 0
    expected = 4 * n / 2 * (2 * sum(halves) + scores)
    assert predict(where, f"model:head={head}", 2, n).parts["exchange"] == pytest.approx(expected)


def test_exchange_is_the_partitions():
    """The same bytes as the library's own split, whose scores lie whole on the first device."""
    where = setting("alexnet", gpu(math.inf), fabric((1.0, 0.0), (1.0, 0.0)))
    crossings = where.network.partition(2, batch_size=8).crossings(8)
    received = {d: sum(c.nbytes for c in crossings if c.target == d) for d in (0, 1)}
    # Both directions of device 0: gathers it receives, and the gradients that come back for what it sent.
    sent_back = sum(c.nbytes for c in crossings if c.kind == "gradient" and c.source == 0)
    gathered = sum(c.nbytes for c in crossings if c.kind == "gather" and c.target == 0)
    assert received[0] > 0
    assert predict(where, "model:head=first", 2, 8).parts["exchange"] == pytest.approx(gathered + sent_back)


def test_sums_are_of_the_parameters():
    where = setting("alexnet", gpu(), fabric((1.0, 0.0), (1.0, 0.0)), algorithm="ring")
    whole = 4 * 60_965_224
    assert predict(where, "data", 4, 128).sync_total == pytest.approx(2 * 3 / 4 * whole)
    towers = predict(where, "towers", 4, 128).sync_total  # two replicas of halves
    assert towers == pytest.approx(2 * 1 / 2 * whole / 2, rel=1e-6)
    convolutions = 4 * (34_944 + 307_456 + 885_120 + 663_936 + 442_624)
    assert predict(where, "hybrid", 4, 128).sync_total == pytest.approx(2 * 3 / 4 * convolutions)


# ---------------------------------------------------------------- details of a step


def test_kernels_by_hand():
    """conv2 in bfloat16: two bytes for what kernels read and write, four for the weights' gradient."""
    work = {w.name: w for w in part("work").work_of(models.build("alexnet"), "bf16")}["conv2"]
    x, y, w, flops = 27 * 27 * 96, 27 * 27 * 256, 256 * 5 * 5 * 48, 2 * 223_948_800
    assert [(k.op, k.flops, k.x, k.y, k.fixed) for k in (*work.forward, *work.backward)] == [
        ("conv2d", flops, 2 * x, 2 * y, 2 * w),
        ("relu_backward", 0, 0, 3 * 2 * y, 0),
        ("conv2d_dgrad", flops, 2 * x, 2 * y, 2 * w),
        ("conv2d_wgrad", flops, 2 * x, 2 * y, 4 * w),
        ("bias_backward", 0, 0, 2 * y, 0),
    ]
    norm = {w.name: w for w in part("work").work_of(models.build("alexnet"))}["norm2"]
    assert [k.y for k in (*norm.forward, *norm.backward)] == [3 * 4 * y, 4 * 4 * y]


def test_slices_read_their_groups():
    works = {w.name: w for w in part("work").work_of(models.build("alexnet"))}
    assert works["conv2"].shares(2) == (1 / 2, 1 / 2)  # groups of its own
    assert works["conv2"].shares(4) == (1 / 2, 1 / 4)  # two slices read one group
    assert works["conv3"].shares(4) == (1, 1 / 4)
    assert works["norm1"].shares(2) == (1 / 2, 1 / 2)
    assert works["norm1"].shares(4) == (1 / 4, (24 + 4) / 96)  # borrowed from the neighbours
    assert works["pool1"].shares(4) == (1 / 4, 1 / 4)


def test_four_slices_exchange_what_a_slice_lacks():
    n = 4
    where = setting("alexnet", gpu(math.inf), fabric((1.0, 0.0), (1.0, 0.0)))
    halves = 27 * 27 * 48 + 13 * 13 * 192 * 2  # a group's input, from the one other GPU that has some
    quarters = 13 * 13 * 256 + 9216 + 4096 + 4096
    borrowed = 4 * (55 * 55 + 27 * 27)
    received = halves / 2 + quarters * 3 / 4 + borrowed
    expected = 4 * n * (2 * received + 1000 * 3 / 4)
    assert predict(where, "model", 4, n).parts["exchange"] == pytest.approx(expected)


def test_the_busiest_gpu_counts():
    where = setting()
    assert predict(where, "data", 2, 3).step == predict(where, "data", 1, 2).step


def test_every_pass_updates():
    where = setting("alexnet", gpu(math.inf, 1e12))
    whole = 20 * 60_965_224
    fully_connected = 20 * 58_631_144
    passes = predict(where, "hybrid:batch=64", 2, 256).parts["update"]
    assert passes == pytest.approx((whole - fully_connected + 4 * fully_connected / 2) / 1e12)
    assert predict(where, "hybrid", 2, 256).parts["update"] == pytest.approx(
        (whole - fully_connected / 2) / 1e12
    )


@pytest.mark.parametrize(("flops", "hidden"), [(1.0, 3), (math.inf, 0)])
def test_passes_hide_behind_computing_alone(flops, hidden):
    """Of four exchanges with the convolutions three hide behind slow kernels, none behind fast ones."""
    exchange = {}
    for overlap in (True, False):
        where = setting("alexnet", gpu(flops), fabric((1.0, 0.0), (1.0, 0.0)), overlap=overlap)
        exchange[overlap] = predict(where, "hybrid:batch=64", 2, 256).parts["exchange"]
    crossing = 2 * 64 * 9216 * 4 / 2  # there and back, half of the rows
    assert exchange[False] - exchange[True] == pytest.approx(hidden * crossing)


def test_exchanges_hold_up_the_sums():
    strategies = part("strategies")
    step = strategies._Step(setting("alexnet", gpu(), fabric((1.0, 0.0)), bucket=10.0, algorithm="ring"))
    step.sum_over(step.collectives.group(2), 25)
    assert (step.link_free, step.pending[step.collectives.group(2)]) == (20, 5)  # two buckets of 10 s
    step.exchange(3)
    assert (step.now, step.link_free) == (3, 23)
    step.spend("arithmetic", 27)
    step.exchange(2)  # the links are free again
    assert (step.now, step.link_free) == (32, 23)
    step.finish_sums()
    assert (step.now, step.parts["sync"]) == (37, 5)


def test_rows_say_speedup_and_efficiency():
    rows = part("scaling_model").sweep(setting(), [part("strategies").Strategy("data")], [1, 4])
    assert [(r["speedup"], r["efficiency"]) for r in rows] == [(1, 1), (4, 1)] * 2
    assert [r["batch_per_gpu"] for r in rows] == [128, 128, 1024, 256]
    assert {r["lost_to"] for r in rows} == {None}


# ---------------------------------------------------------------- One Weird Trick


def test_one_weird_trick():
    """Speed-ups within 2% with one fitted constant; with the rates as stated, an upper bound within 20%."""
    owt = part("one_weird_trick")
    assert owt.one_gpu_hours() == pytest.approx(owt.HOURS, rel=0.01)
    assert tuple(rate / 3 for rate in owt.STATED) == owt.FITTED
    rows = owt.check()
    assert len(rows) == 6
    for row in rows:
        assert row["predicted_fitted"] == pytest.approx(row["published"], rel=0.02)
        assert row["published"] < row["predicted_stated"] < 1.2 * row["published"]
        # The paper's point: the hybrid scales better than data parallelism on the same links.
        assert row["predicted_fitted"] > 1.2 * row["data_parallel_fitted"]
    by = {(row["gpus"], row["fc_batch"] == 128): row for row in rows}
    for gpus in (2, 4, 8):  # updating in passes of 128 costs a little
        for key in ("published", "predicted_fitted", "predicted_stated"):
            assert 0.95 < by[gpus, True][key] / by[gpus, False][key] < 1


def test_one_tower_is_the_published_net():
    net = part("one_weird_trick").one_tower()
    assert net.num_parameters == 61_100_840
    assert [net[f"conv{i}"].output_shape for i in range(1, 6)] == [
        (55, 55, 64), (27, 27, 192), (13, 13, 384), (13, 13, 256), (13, 13, 256),
    ]  # fmt: skip


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: predict(h200(), "data", 0, 128), "gpus must be a whole number of at least 1, got 0"),
        (lambda: predict(h200(), "data", 2, 1.5), "batch must be a whole number"),
        (lambda: predict(h200(), "data", 8, 4), "a batch of 4 leaves some of 8 replicas without images"),
        (lambda: predict(h200(), "towers:split=4", 6, 128), "6 GPUs are no multiple of split=4"),
        (lambda: predict(h200(), "model", 3, 128), "'conv2': 2 groups neither divide nor are divided by 3"),
        (lambda: predict(h200(), "tensor", 2, 128), "strategy must be one of data, model, towers, hybrid"),
        (lambda: predict(h200(), "hybrid:parts=2", 2, 128), "options are split=, batch= and head="),
        (lambda: predict(h200(), "hybrid:split=two", 2, 128), "split must be a whole number, got 'two'"),
        (lambda: predict(h200(), "data:split=2", 2, 128), "split belongs to towers and hybrid"),
        (lambda: predict(h200(), "model:batch=2", 2, 128), "batch belongs to hybrid"),
        (lambda: predict(h200(), "data:head=first", 2, 128), "head=first belongs to"),
        (lambda: predict(h200(), "model:head=last", 2, 128), "head must be one of split, first, got 'last'"),
        (lambda: h200("fp64"), "precision must be one of fp32, tf32, bf16 on H200, got 'fp64'"),
        (lambda: h200(bucket=0), "bucket must be above 0"),
        (lambda: h200(input_rate=math.nan), "input_rate must be a number"),
        (lambda: gpu(-1.0), "gpu: flops of fp32 must be above 0, got -1.0"),
        (lambda: gpu(overhead=-1.0), "gpu: overhead must be at least 0"),
        (lambda: fabric((0.0, 0.0)), "link inside: bandwidth must be above 0"),
        (lambda: fabric(per_node=0, nics=1), "gpus_per_node must be a whole number of at least 1, got 0"),
        (lambda: part("collectives").Collectives(fabric(), "star"), "algorithm must be one of auto, ring"),
        (lambda: part("scaling_model").sweep(h200(), [], scalings=["up"]), "scaling must be one of weak,"),
        (lambda: part("scaling_model").network("vgg"), "network must be one of alexnet, .*one_tower"),
        (lambda: part("work").work_of(Network("n", (4,)).add(Linear(2))), "has no cost to train on"),
        (lambda: predict(setting(flat()), "hybrid", 2, 4), "has no fully connected layer"),
        (
            lambda: part("work").work_of(Network("n", (4,)).add(ChannelMean()).add(SoftmaxCrossEntropy())),
            r"layer 'layer1' \(ChannelMean\): what its kernels ask of a GPU is not known",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--gpu", "h2o"], "gpu must be one of h200, a100, k20"),
        (["--inside", "string"], "inside must be one of nvlink4"),
        (["--between-gbps", "-1"], "between_gbps must be above 0"),
        (["--tflops", "0"], "tflops must be above 0"),
        (["--gpus", "1,zero"], "whole numbers"),
        (["--strategy", "magic"], "strategy must be one of"),
        (["--measured", "nowhere.json"], "nowhere.json cannot be read"),
        (["--network", "nowhere.json"], "nowhere.json cannot be read"),
        (["--batch", "0"], "batch must be a whole number of at least 1"),
    ],
)
def test_bad_options(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        part("scaling_model").main(words)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
