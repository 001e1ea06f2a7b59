"""Caffe's models: written by hand, compared with Caffe's rules in float64."""

import sys

import numpy as np
import pytest
from support import caffe_files as cf
from support import foreign

import pyconvnet as pcn
from pyconvnet.layers import AvgPool2d, MaxPool2d

pytest.importorskip("google.protobuf", reason="protobuf is not installed")
CLOSE = {"rtol": 1e-4, "atol": 3e-5}


def alexnet_logits(x, arrays, caffenet):
    """bvlc_alexnet or bvlc_reference_caffenet on what Caffe feeds it: (N, C, H, W), BGR less the mean."""
    norm = lambda x: foreign.lrn(x, 5, 0.5, 0.75, 1.0)  # noqa: E731
    pool = lambda x: foreign.caffe_pool(x, "max")  # noqa: E731
    table = ((4, 0, 1), (1, 2, 2), (1, 1, 1), (1, 1, 2), (1, 1, 2))
    for i, (stride, pad, groups) in enumerate(table, 1):
        x = foreign.relu(foreign.conv(x, *arrays[f"conv{i}"], stride, pad, groups))
        if i < 3:
            x = norm(pool(x)) if caffenet else pool(norm(x))
        elif i == 5:
            x = pool(x)
    for name in ("fc6", "fc7"):
        x = foreign.relu(foreign.linear(x, *arrays[name]))
    return foreign.linear(x, *arrays["fc8"])


@pytest.mark.parametrize("old", [False, True], ids=["V2", "V1"])
@pytest.mark.parametrize("caffenet", [False, True], ids=["alexnet", "caffenet"])
def test_the_bvlc_nets(tmp_path, old, caffenet):
    """227-pixel crops, BGR, a mean image in a file of its own, two groups, ceil pooling, alpha over size."""
    rng = np.random.default_rng(5)
    layers, arrays = cf.alexnet(rng, old, caffenet)
    (tmp_path / "net.caffemodel").write_bytes(cf.net("AlexNet", layers, old))
    mean = rng.random((3, 256, 256)).astype(np.float32) * 255
    (tmp_path / "mean.binaryproto").write_bytes(cf.binaryproto(mean))
    model = pcn.load(tmp_path / "net.caffemodel", mean=tmp_path / "mean.binaryproto", scale=1 / 64)
    assert model.network.name == "AlexNet"
    assert model.preprocessing.image_shape == (256, 256, 3)
    assert model.preprocessing.crop == (227, 227)
    assert model.network["conv2"].layer.groups == 2
    assert model.network["conv1"].layer.activation == "relu"
    assert model.network["norm1"].layer.alpha == pytest.approx(0.5 / 5)
    notes = " ".join(model.info["converted"])
    assert "BGR to RGB" in notes
    assert "alpha divided" in notes
    assert "(C, H, W) to (H, W, C)" in notes
    images = rng.integers(0, 256, (3, 256, 256, 3), dtype=np.uint8)
    x = (images[..., ::-1].transpose(0, 3, 1, 2) - mean.astype(np.float64))[:, :, 14:241, 14:241] / 64
    wanted = alexnet_logits(x, arrays, caffenet)
    np.testing.assert_allclose(foreign.logits(model, images), wanted, **CLOSE)
    assert pcn.predict(model, images[0], top=1)[0][0] == str(wanted[0].argmax())
    kept = pcn.load(model.save(tmp_path / "kept.safetensors"))
    np.testing.assert_array_equal(foreign.logits(kept, images), foreign.logits(model, images))


def small(layers, old=False, size=9, channels=3):
    """A net of an input, these layers and a fully connected one at the end."""
    shape = cf.field(1, cf.field(1, b"".join(map(cf.varint, (1, channels, size, size)))))
    first = cf.layer("Input", "data", [], ["data"], [(1, shape[2:])])
    return cf.net("small", [first, *layers], old)


def conv(rng, name="conv1", bottom="data", top="conv1", filters=4, channels=3, **how):
    w = rng.normal(size=(filters, channels, 3, 3)).astype(np.float32) * 0.3
    options = [(1, filters), (2, False), (4, 3), *how.get("options", ())]
    return cf.layer("Convolution", name, [bottom], [top], options, [w]), w


def fc(rng, bottom, features, outputs=5, transpose=False):
    w = rng.normal(size=(outputs, features)).astype(np.float32) * 0.3
    b = rng.normal(size=outputs).astype(np.float32)
    options = [(1, outputs), *([(6, True)] if transpose else [])]
    return cf.layer("InnerProduct", "fc", [bottom], ["fc"], options, [w.T if transpose else w, b]), w, b


POOLS = [
    ("max", 3, 2, 0, False), ("ave", 3, 2, 0, False), ("max", 2, 2, 1, False), ("ave", 3, 1, 1, False),
    ("max", 3, 2, 1, True), ("ave", 2, 2, 0, True), ("max", 3, 3, 1, False),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "size", "stride", "pad", "floor"), POOLS)
def test_poolings(tmp_path, kind, size, stride, pad, floor):
    rng = np.random.default_rng(1)
    first, w = conv(rng, options=[(3, 1)])
    options = [(1, kind == "ave"), (2, size), (3, stride), (4, pad), (13, floor)]
    pool = cf.layer("Pooling", "pool", ["conv1"], ["pool"], options)
    x = rng.random((2, 9, 9, 3)).astype(np.float32) * 2 - 1
    y = foreign.caffe_pool(
        foreign.conv(x[..., ::-1].transpose(0, 3, 1, 2), w, pad=1), kind, size, stride, pad, floor
    )
    last, v, b = fc(rng, "pool", y[0].size, transpose=True)
    (tmp_path / "a.caffemodel").write_bytes(small([first, pool, last]))
    with pytest.warns(UserWarning, match="does not say what mean"):
        model = pcn.load(tmp_path / "a.caffemodel", image_size=9)
    assert isinstance(model.network["pool"].layer, MaxPool2d if kind == "max" else AvgPool2d)
    np.testing.assert_allclose(foreign.logits(model, x), foreign.linear(y, v, b), **CLOSE)


def test_a_graph_with_branches(tmp_path):
    """Split, sum, concatenation, sigmoid, tanh, normalisation within a channel, dropout, softmax."""
    rng = np.random.default_rng(2)
    (c1, w1), (c2, w2) = conv(rng, options=[(3, 1)]), conv(rng, "conv2", "a", "conv2", 4, 4, options=[(3, 1)])
    layers = [
        c1,
        cf.layer("Split", "split", ["conv1"], ["a", "b"]),
        c2,
        cf.layer("Eltwise", "sum", ["conv2", "b"], ["sum"]),
        cf.layer("Sigmoid", "sig", ["sum"], ["sig"]),
        cf.layer("TanH", "tanh", ["b"], ["tanh"]),
        cf.layer("Concat", "cat", ["sig", "tanh"], ["cat"]),
        cf.layer("LRN", "norm", ["cat"], ["norm"], [(1, 3), (2, 0.7), (3, 0.75), (4, 1)]),
        cf.layer("Pooling", "pool", ["norm"], ["pool"], [(1, 1), (12, True)]),
        cf.layer("Dropout", "drop", ["pool"], ["drop"]),
        cf.layer("Flatten", "flat", ["drop"], ["flat"]),
    ]
    last, v, b = fc(rng, "flat", 8)
    soft = cf.layer("Softmax", "prob", ["fc"], ["prob"])
    (tmp_path / "a.caffemodel").write_bytes(small([*layers, last, soft]))
    model = pcn.load(tmp_path / "a.caffemodel", mean=[10, 20, 30], scale=[0.01, 0.02, 0.03], image_size=9)
    x = rng.integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    y = (x[..., ::-1] - np.array([10, 20, 30])) * [0.01, 0.02, 0.03]  # as given: blue, green, red
    first = foreign.conv(y.transpose(0, 3, 1, 2), w1, pad=1)
    total = foreign.conv(first, w2, pad=1) + first
    y = np.concatenate([1 / (1 + np.exp(-total)), np.tanh(first)], 1)
    y = foreign.linear(foreign.lrn_within(y, 3, 0.7).mean((2, 3)), v, b)
    np.testing.assert_allclose(foreign.logits(model, x), y, **CLOSE)


REFUSED = {
    "an unknown layer": (
        lambda r: cf.layer("BatchNorm", "bn1", ["conv1"], ["bn1"]),
        r"layer 2 'bn1' \(BatchNorm\): no such layer here",
    ),
    "a slope": (
        lambda r: cf.layer("ReLU", "relu1", ["conv1"], ["relu1"], [(1, 0.1)]),
        r"'relu1' \(ReLU\): negative_slope",
    ),
    "dilation": (
        lambda r: conv(r, "c2", "conv1", "c2", 4, 4, options=[(18, 2)])[0],
        r"'c2' \(Convolution\): dilation \[2\]",
    ),
    "an even window": (
        lambda r: cf.layer("LRN", "n", ["conv1"], ["n"], [(1, 4)]),
        "local_size 4 is even",
    ),
    "gaps": (
        lambda r: cf.layer("Pooling", "p", ["conv1"], ["p"], [(2, 2), (3, 3)]),
        "leaves gaps",
    ),
    "a mean over padding": (
        lambda r: cf.layer("Pooling", "p", ["conv1"], ["p"], [(1, 1), (2, 3), (3, 3), (4, 2)]),
        "hang over the padding",
    ),
    "a product": (
        lambda r: cf.layer("Eltwise", "e", ["conv1", "conv1"], ["e"], [(1, 0)]),
        "not a plain sum",
    ),
    "nothing there": (
        lambda r: cf.layer("TanH", "t", ["nowhere"], ["t"]),
        r"'t' \(TanH\): reads 'nowhere', which no layer",
    ),
    "features that do not fit": (
        lambda r: fc(r, "conv1", 7)[0],
        "take 7 features, there are 196",
    ),
    "filters missing": (
        lambda r: cf.layer("Convolution", "c", ["conv1"], ["c"], [(1, 4), (4, 3)]),
        "must have 2 arrays, weight, bias, got 0",
    ),
    "another window": (
        lambda r: conv(r, "c", "conv1", "c", 4, 4, options=[(4, 5)])[0],
        "filters of",
    ),
    "a map at the end": (
        lambda r: cf.layer("TanH", "t", ["conv1"], ["t"]),
        "must be a vector of class scores, got a map",
    ),
}


@pytest.mark.filterwarnings("ignore:load")
@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_counterpart_is_named(tmp_path, what):
    rng = np.random.default_rng(3)
    make, message = REFUSED[what]
    (tmp_path / "a.caffemodel").write_bytes(small([conv(rng)[0], make(rng)]))
    with pytest.raises(pcn.CheckpointError, match=rf"a\.caffemodel cannot be read as Caffe's: .*{message}"):
        pcn.load(tmp_path / "a.caffemodel")


def test_an_input_of_unknown_size(tmp_path):
    rng = np.random.default_rng(3)
    (first, w), (last, v, b) = conv(rng), fc(rng, "conv1", 4 * 4)
    data = cf.layer("Data", "data", [], ["data"], transform=[(1, 0.5), (5, 7.0)])
    path = tmp_path / "a.caffemodel"
    path.write_bytes(cf.net("n", [data, first, last]))
    with pytest.raises(pcn.CheckpointError, match="does not say how large its images are: give input_size"):
        pcn.load(path)
    model = pcn.load(path, input_size=4, image_size=6)
    x = rng.integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    y = foreign.conv((x[:, 1:5, 1:5, ::-1].transpose(0, 3, 1, 2) - 7.0) * 0.5, w)  # as its data layer says
    np.testing.assert_allclose(foreign.logits(model, x), foreign.linear(y, v, b), rtol=1e-4, atol=1e-2)
    path.write_bytes(cf.net("n", [first, last], more=[(3, "data"), *((4, d) for d in (1, 3, 4, 4))]))
    with pytest.warns(UserWarning, match="does not say what mean"):
        model = pcn.load(path, bgr=False)
    assert model.info["converted"][0].endswith("(H, W, C)")


def test_without_protobuf_it_says_what_helps(tmp_path, monkeypatch):
    from pyconvnet.trained.convert import caffe_messages

    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    monkeypatch.setattr(caffe_messages, "messages", caffe_messages.messages.__wrapped__)
    rng = np.random.default_rng(3)
    (tmp_path / "a.caffemodel").write_bytes(small([conv(rng)[0]]))
    with pytest.raises(ImportError, match=r"pip install 'pyconvnet\[caffe\]'"):
        pcn.load(tmp_path / "a.caffemodel")
