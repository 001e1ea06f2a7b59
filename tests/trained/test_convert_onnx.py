"""ONNX out, checked and run by onnxruntime, and in: our own files and graphs of other tools."""

import json
import sys

import numpy as np
import pytest
from support import foreign
from support.networks import everything, plain

import pyconvnet as pcn
from pyconvnet import models
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.trained.convert import description
from pyconvnet.trained.convert.onnx_write import OPSET

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
CLOSE = {"rtol": 1e-4, "atol": 2e-5}

NETS = {
    "alexnet": lambda: models.alexnet(7, width=0.06, input_size=67, lrn_alpha=0.9, init="he"),
    "alexnet_2012": lambda: models.alexnet_2012(
        7, width=0.06, input_size=67, lrn_alpha=0.9, spatial_alpha=0.5, init="he"
    ),
    "cifar10_18pct": lambda: models.cifar10_18pct(6, init="he"),
    "digits": lambda: models.digits(10),
    "everything": everything,
    "alexnet_true": models.alexnet,
}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "alexnet_true" else ()) for name in NETS]


def model_of(name, seed=3):
    net = NETS[name]()
    h, w, c = net.input_shape
    mean = np.linspace(90, 130, c, dtype=np.float32)
    return pcn.Model(net, dict(net.initial(seed)), Preprocessing((h, w, c), None, mean, 1 / 64))


def run(path, x):
    """What onnxruntime makes of inputs as the file wants them."""
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def images_of(model, n=3):
    shape = model.preprocessing.image_shape
    return np.random.default_rng(2).integers(0, 256, (n, *shape), dtype=np.uint8)


def seen(model, images):
    how = model.preprocessing
    return ((images - how.mean) * np.float32(how.scale)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_onnxruntime_gives_our_outputs(tmp_path, name):
    model = model_of(name)
    path = pcn.export(model, tmp_path / "net.onnx")
    message = onnx.load(path)
    onnx.checker.check_model(message, full_check=True)
    assert [(o.domain, o.version) for o in message.opset_import] == [("", OPSET)]
    images = images_of(model)
    x = seen(model, images).transpose(0, 3, 1, 2)
    ours = foreign.logits(model, images)
    np.testing.assert_allclose(run(path, x), ours, **CLOSE)
    assert np.abs(ours).max() > 1e-3
    last = pcn.export(model, tmp_path / "last.onnx", layout="NHWC")
    np.testing.assert_allclose(run(last, seen(model, images)), ours, **CLOSE)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("name", ["alexnet", "digits"])
def test_our_own_files_come_back(tmp_path, name, layout):
    """The same layers, parameters to the bit, class names and preprocessing."""
    model = model_of(name)
    model.classes = [f"class {i}" for i in range(model.network.classes)]
    back = pcn.load(pcn.export(model, tmp_path / "net.onnx", layout=layout))
    kinds = [type(node.layer).__name__ for node in model.network]
    assert [type(node.layer).__name__ for node in back.network] == kinds
    assert list(back.parameters) == list(model.parameters)
    for key, value in model.parameters.items():
        np.testing.assert_array_equal(back.parameters[key], value)
    assert back.classes == model.classes
    assert back.class_names_given
    assert back.preprocessing.to_dict() == model.preprocessing.to_dict()
    images = images_of(model)
    ours = foreign.logits(model, images)
    np.testing.assert_allclose(foreign.logits(back, images), ours, rtol=1e-5, atol=1e-6)
    with pytest.raises(pcn.CheckpointError, match="the file says itself what mean would"):
        pcn.load(tmp_path / "net.onnx", mean=3)


def test_a_mean_image_and_a_crop_travel(tmp_path):
    net = plain(size=8)
    mean = np.random.default_rng(0).random((10, 9, 3)).astype(np.float32) * 255
    model = pcn.Model(net, dict(net.initial()), Preprocessing((10, 9, 3), (8, 8), mean, 0.5), list("abcd"))
    back = pcn.load(pcn.export(model, tmp_path / "net.onnx"))
    np.testing.assert_array_equal(back.preprocessing.mean, mean)
    images = images_of(model)
    np.testing.assert_allclose(foreign.logits(back, images), foreign.logits(model, images), **CLOSE)
    told = {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props}[description.KEY]
    assert json.loads(told)["preprocessing"]["crop"] == [8, 8]


def test_what_onnx_has_not_is_named(tmp_path):
    from pyconvnet.layers import LRN, Linear, SoftmaxCrossEntropy

    net = pcn.Network("even", (6, 6, 4)).add(LRN(4), "norm1").add(Linear(3)).add(SoftmaxCrossEntropy())
    model = pcn.Model(net, dict(net.initial()), Preprocessing((6, 6, 4)))
    with pytest.raises(ValueError, match=r"layer 'norm1' \(LRN\): size must be odd"):
        pcn.export(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="layout must be 'NCHW' or 'NHWC', got 'CHWN'"):
        pcn.export(model_of("digits"), tmp_path / "a.onnx", layout="CHWN")


# ---- graphs of other tools ---------------------------------------------------------------------------------
class Graph:
    """A graph, operator by operator."""

    def __init__(self, shape=("N", 3, 8, 8), opset=13):
        self.nodes, self.arrays, self.shape, self.opset = [], [], shape, opset

    def array(self, name, value, dtype=np.float32):
        self.arrays.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, kind, inputs, output, **how):
        self.nodes.append(helper.make_node(kind, inputs, [output], name=how.pop("name", output), **how))
        return output

    def write(self, path, output="y", classes=5, inputs=("x",), check=True):
        number = onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self.nodes,
            "theirs",
            [helper.make_tensor_value_info(name, number, self.shape) for name in inputs],
            [helper.make_tensor_value_info(output, number, ["N", classes])],
            self.arrays,
        )
        opsets = [helper.make_opsetid("", self.opset)]
        message = helper.make_model(graph, opset_imports=opsets, ir_version=7, producer_name="theirs")
        if check:
            onnx.checker.check_model(message)
        onnx.save(message, path)
        return path


def weights(rng, *shape):
    return rng.normal(size=shape) * 0.4


def test_biases_that_are_added_and_a_softmax(tmp_path):
    """Conv + Add, MatMul + Add, auto_pad, a constant among the operators, Reshape, Identity, a global mean's
    sum with a branch, Softmax at the end.
    """
    rng, g = np.random.default_rng(4), Graph()
    g.array("w", weights(rng, 6, 3, 3, 3))
    g.array("b", weights(rng, 1, 6, 1, 1))
    g.add("Conv", ["x", "w"], "c", auto_pad="SAME_UPPER", strides=[2, 2])
    g.add("Add", ["c", "b"], "cb")
    g.add("Relu", ["cb"], "r")
    edges = {"pads": [1, 1, 1, 1], "count_include_pad": 1}
    g.add("AveragePool", ["r"], "p", kernel_shape=[3, 3], strides=[1, 1], **edges)
    g.add("Sum", ["p", "r", "cb"], "s")
    g.add("Concat", ["s", "r"], "cat", axis=1)
    g.add("LRN", ["cat"], "n", size=3, alpha=0.9, beta=0.5, bias=1.5)
    g.add("Constant", [], "shape", value=numpy_helper.from_array(np.array([0, -1])))
    g.add("Reshape", ["n", "shape"], "flat")
    g.add("Identity", ["flat"], "same")
    g.array("v", weights(rng, 192, 5))
    g.array("a", weights(rng, 5))
    g.add("MatMul", ["same", "v"], "m")
    g.add("Add", ["a", "m"], "logits")
    g.add("Softmax", ["logits"], "y", axis=-1)
    path = g.write(tmp_path / "a.onnx")
    model = pcn.load(path, mean=[10, 20, 30], scale=0.02)
    images = images_of(model)
    p = run(path, seen(model, images).transpose(0, 3, 1, 2))
    logits = foreign.logits(model, images)
    ours = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(ours / ours.sum(1, keepdims=True), p, **CLOSE)
    assert p.max() < 0.999
    assert model.network["c"].layer.bias
    assert model.network["c"].layer.activation is None  # two read it
    assert not model.class_names_given


def test_channels_last_with_transpositions_and_scaled_gemm(tmp_path):
    """NHWC at the edge and before flattening: no feature is reordered; Gemm's alpha and beta; old Dropout."""
    rng, g = np.random.default_rng(5), Graph(("N", 9, 8, 3), opset=9)
    g.array("w", weights(rng, 4, 3, 3, 3))
    g.array("b", weights(rng, 4))
    g.add("Transpose", ["x"], "t", perm=[0, 3, 1, 2])
    g.add("Conv", ["t", "w", "b"], "c", kernel_shape=[3, 3], pads=[0, 1, 2, 1])
    g.add("Tanh", ["c"], "tanh")
    g.add("MaxPool", ["tanh"], "p", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1])
    g.add("Transpose", ["p"], "last", perm=[0, 2, 3, 1])
    g.add("Flatten", ["last"], "flat")
    g.nodes.append(helper.make_node("Dropout", ["flat"], ["d", "mask"], ratio=0.3))  # a mask nobody reads
    g.array("v", weights(rng, 80, 5))
    g.array("a", weights(rng, 1, 5))
    g.add("Gemm", ["d", "v", "a"], "y", alpha=0.5, beta=2.0)
    path = g.write(tmp_path / "a.onnx")
    model = pcn.load(path, mean=100, scale=0.02)
    assert model.network.input_shape == (9, 8, 3)
    assert not any("reordered" in note for note in model.info["converted"])
    images = images_of(model)
    np.testing.assert_allclose(foreign.logits(model, images), run(path, seen(model, images)), **CLOSE)


def test_numbers_that_lie_beside_the_file(tmp_path):
    rng, g = np.random.default_rng(5), Graph()
    g.array("v", weights(rng, 5, 192))
    g.add("Flatten", ["x"], "flat")
    g.add("Gemm", ["flat", "v"], "y", transB=1)
    path = g.write(tmp_path / "a.onnx")
    whole = pcn.load(path)
    message = onnx.load(path)
    onnx.save_model(message, path, save_as_external_data=True, location="a.bin", size_threshold=0)
    np.testing.assert_array_equal(pcn.load(path).parameters["y.weight"], whole.parameters["y.weight"])
    text = path.read_bytes()
    (tmp_path / "b.onnx").write_bytes(text.replace(b"a.bin", b"../ab"))
    with pytest.raises(pcn.CheckpointError, match="outside"):
        pcn.load(tmp_path / "b.onnx")


def small(change, **how):
    """A graph of a convolution and a fully connected layer, with something else before or between."""
    rng, g = np.random.default_rng(1), Graph(**how)
    g.array("w", weights(rng, 4, 3, 3, 3))
    g.array("v", weights(rng, 5, 144))
    g.add("Conv", ["x", "w"], "c")
    between = change(g) or "c"
    g.add("Flatten", [between], "flat")
    g.add("Gemm", ["flat", "v"], "y", transB=1)
    return g


REFUSED = {
    "an operator": (
        lambda g: g.add("LeakyRelu", ["c"], "l"), r"node 1 'l' \(LeakyRelu\): no layer here does"),
    "a factor": (
        lambda g: g.add("Mul", ["c", g.array("f", 0.5)], "l"), r"'l' \(Mul\): no layer here multiplies"),
    "a dilation": (
        lambda g: g.add("MaxPool", ["c"], "l", kernel_shape=[2, 2], dilations=[2, 2]), "dilations are not 1"),
    "a mask": (
        lambda g: (g.nodes.append(helper.make_node("Dropout", ["c"], ["d", "mask"])),
                   g.add("Add", ["d", "mask"], "l"))[1],
        r"node 1 'd, mask' \(Dropout\): must have one output that is read"),
    "an even window": (lambda g: g.add("LRN", ["c"], "l", size=4), "size must be odd, got 4"),
    "a constant": (
        lambda g: g.add("Add", ["x", g.array("f", np.ones((3, 1, 1)))], "l"), "adds a constant to what is"),
    "a bias for one of two": (
        lambda g: g.add("Sum", [g.add("Add", ["c", g.array("f", np.ones((4, 1, 1)))], "b"), "c"], "l"),
        r"'b' \(Add\): it adds a constant to what is not a product without bias"),
    "a bias along the rows": (
        lambda g: g.add("Add", ["c", g.array("f", np.ones(6))], "l"), r"of shape \(6,\), where \(4, 1, 1\)"),
    "a reshape": (
        lambda g: g.add("Reshape", ["c", g.array("s", [0, 36, 2, 2], np.int64)], "l"),
        r"it makes \[0, 36, 2, 2\]"),
    "a transposition": (
        lambda g: g.add("Transpose", ["c"], "l", perm=[0, 1, 3, 2]), r"perm \[0, 1, 3, 2\] is not"),
    "a convolution of groups as images": (
        lambda g: g.add(
            "Conv", [g.add("Reshape", ["c", g.array("s", [-1, 2, 6, 6], np.int64)], "r"),
                     g.array("u", np.ones((4, 2, 1, 1)))], "l"),
        "groups of channels that lie as images of their own"),
    "a softmax in between": (lambda g: g.add("Softmax", ["c"], "l"), "it is not at the end"),
    "weights of integers": (
        lambda g: g.add("Conv", ["c", g.array("u", np.ones((4, 4, 1, 1)), np.int32)], "l"), "floating-point"),
    "a mean over the edge": (
        lambda g: g.add("AveragePool", ["c"], "l", kernel_shape=[3, 3], strides=[3, 3], pads=[1, 1, 1, 1],
                        ceil_mode=1, count_include_pad=1), "hang over the padding"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_counterpart_is_named(tmp_path, what):
    change, message = REFUSED[what]
    path = small(change).write(tmp_path / "a.onnx", check=False)
    with pytest.raises(pcn.CheckpointError, match=rf"a\.onnx cannot be read as ONNX: .*{message}"):
        pcn.load(path)


def test_graphs_that_are_no_classifier(tmp_path):
    path = tmp_path / "a.onnx"
    small(lambda g: None, opset=4).write(path, check=False)
    with pytest.raises(pcn.CheckpointError, match="its operator set must be 5 or newer, got"):
        pcn.load(path)
    small(lambda g: None).write(path, inputs=("x", "z"))
    with pytest.raises(pcn.CheckpointError, match="it must have one input, got x, z"):
        pcn.load(path)
    small(lambda g: None).write(path, output="c", check=False)
    with pytest.raises(pcn.CheckpointError, match="must be a vector of class scores, got a map"):
        pcn.load(path)
    g = small(lambda g: None, shape=("N", 3, "H", "W"))
    with pytest.raises(pcn.CheckpointError, match="does not say how large its images are: give input_size"):
        pcn.load(g.write(path))
    assert pcn.load(path, input_size=8, image_size=9).preprocessing.image_shape == (9, 9, 3)


WRONG = [
    ({"scale": 0}, ValueError, "load: scale must not be zero"),
    ({"scale": -1}, ValueError, "load: scale must not be negative"),
    ({"scale": [1, 2]}, ValueError, "scale must be 3 numbers, one a channel, got 2"),
    ({"mean": [1, 2]}, ValueError, r"mean must have shape \(3,\) or \(8, 8, 3\), got \(2,\)"),
    ({"mean": ["a"]}, ValueError, "load: mean must be numbers or a file"),
    ({"mean": "nowhere.npy"}, ValueError, "nowhere.npy"),
    ({"bgr": 3}, TypeError, "load: bgr must be True or False"),
    ({"image_size": 0}, ValueError, "load: image_size"),
    ({"image_size": 7}, ValueError, "crop must fit images of 7x7"),
    ({"classes": ["a"] * 6}, ValueError, "classes holds 6 names"),
    ({"classes": "nowhere.txt"}, FileNotFoundError, "nowhere.txt"),
]


@pytest.mark.parametrize(("options", "kind", "message"), WRONG)
def test_options_that_make_no_sense(tmp_path, options, kind, message):
    path = small(lambda g: None).write(tmp_path / "a.onnx")
    with pytest.raises(kind, match=message):
        pcn.load(path, **options)


def test_blue_green_red_of_a_grey_net(tmp_path):
    g = Graph(("N", 1, 4, 4))
    g.array("v", np.ones((16, 5)))
    g.add("Flatten", ["x"], "flat")
    g.add("MatMul", ["flat", "v"], "y")
    with pytest.raises(pcn.CheckpointError, match="bgr is for images of 3 channels, it takes 1"):
        pcn.load(g.write(tmp_path / "a.onnx"), bgr=True)
    np.save(tmp_path / "mean.npy", np.full((1, 6, 6), 7.0))
    model = pcn.load(tmp_path / "a.onnx", mean=tmp_path / "mean.npy")
    assert model.preprocessing.image_shape == (6, 6, 1)
    np.testing.assert_allclose(foreign.logits(model, np.full((1, 6, 6, 1), 9, np.uint8)), [[32.0] * 5])


def test_without_onnx_it_says_what_helps(tmp_path, monkeypatch):
    path = small(lambda g: None).write(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'pyconvnet\[onnx\]'"):
        pcn.load(path)
    with pytest.raises(ImportError, match=r"pip install 'pyconvnet\[onnx\]'"):
        pcn.export(model_of("digits"), tmp_path / "b.onnx")
