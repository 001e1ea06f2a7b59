"""The benchmark's referee: what float64 says, who may be timed, which of cuDNN's plans goes on."""

from __future__ import annotations

import importlib
import json
import re
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from support import ROOT

from pyconvnet import ops
from pyconvnet.common import devices

torch = pytest.importorskip("torch")

FOLDER = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def conv(load, name: str, part: str, precision: str = "fp32", batch: int = 3):
    """A row of the convolutions' benchmark, on small shapes."""
    rows = load("bench_conv").rows(batch, True)
    return next(r for r in rows if (r.name, r.part, r.precision) == (name, part, precision))


def judged(load, row, peer):
    """Who may be timed (their labels) and the records of who may not."""
    contest, peers = load("contest"), load("peers")
    eager = peers.Torch(torch, "cpu")
    arrays = contest.Prepared(row, devices.cpu()).arrays()
    exact = row.exact(row, arrays, devices.cpu())
    rivals = contest.Rivals(eager, [peer] if peer else [])
    contenders, refused = contest.judge(row, rivals, arrays, exact)
    return [c.work.label for c in contenders], refused


# ---------------------------------------------------------------- float64


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv4"])
@pytest.mark.parametrize("part", ["fprop", "dgrad", "wgrad", "fused"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_peers_pass_the_float64_check(load, name, part, precision):
    """Strided and padded on one side, grouped, plain: PyTorch is right, whole and with groups apart."""
    good, refused = judged(load, conv(load, name, part, precision), None)
    assert good == ["PyTorch"] if name == "conv1" else ["PyTorch", "PyTorch, groups apart"]
    assert refused == []


class Wrong:
    """A peer that computes what PyTorch does, from something else."""

    label = "wrong"

    def __init__(self, load, change_inputs=None, change=None):
        self.torch = load("peers").Torch(torch, "cpu")
        self.change_inputs, self.change = change_inputs or (lambda t: t), change or (lambda t: t)

    def use(self, precision):
        self.torch.use(precision)

    def __getattr__(self, op):
        method = getattr(self.torch, op)

        def changed(*args, **kwargs):
            args = [self.change_inputs(a) if isinstance(a, torch.Tensor) else a for a in args]
            works = method(*args, **kwargs)
            work = works[0] if isinstance(works, list) else works
            work.label, join = self.label, work.join
            work.join = lambda result: self.change(join(result))
            return work

        return changed


def to_tf32(tensor):
    """11 significant bits, to nearest."""
    bits = tensor.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("part", ["fprop", "dgrad", "wgrad"])
def test_a_peer_in_tf32_is_caught_in_a_float32_row_and_counts_in_its_own(load, part):
    peer = Wrong(load, to_tf32)
    good, refused = judged(load, conv(load, "conv3", part), peer)
    assert good == ["PyTorch"]
    assert [r["counts"] for r in refused] == [False]
    assert "TF32's, not float32's" in refused[0]["note"]
    good, refused = judged(load, conv(load, "conv3", part, "tf32"), peer)
    assert good == ["PyTorch", "wrong"]
    assert refused == []


def shifted(result):
    return result.roll(1, 0)


def one_nan(result):
    result = result.clone()
    result[..., -1] = torch.nan
    return result


@pytest.mark.parametrize("part", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("change", [shifted, one_nan, lambda r: 1.001 * r, lambda r: r[:1]])
def test_a_wrong_peer_is_not_timed(load, part, change):
    good, refused = judged(load, conv(load, "conv4", part), Wrong(load, change=change))
    assert good == ["PyTorch", "PyTorch, groups apart"]
    assert refused[0]["name"] == "wrong"
    assert re.search("float64 is|TF32's", refused[0]["note"])


def test_a_peer_that_raises_or_has_no_such_operation_is_noted(load):
    class Missing:
        label = "missing"

        def use(self, precision):
            pass

        def conv2d(self, *args, **kwargs):
            raise RuntimeError("no engine")

    row = conv(load, "conv3", "fprop")
    assert judged(load, row, Missing())[1][0]["note"] == "RuntimeError: no engine"
    dgrad = conv(load, "conv3", "dgrad")
    assert "conv2d_dgrad" in judged(load, dgrad, Missing())[1][0]["note"]


def test_dropout_is_checked_without_its_random_numbers(load):
    exact = load("exact")
    values = np.random.default_rng(0).standard_normal((40, 50))
    kept = np.random.default_rng(1).random((40, 50)) < 0.5
    check = exact.Dropped([values], p=0.5)
    assert check.gap(np.where(kept, 2 * values, 0), np.asarray) == 0
    assert check.gap(values, np.asarray) == np.inf  # everything kept
    assert check.gap(np.where(kept, values, 0), np.asarray) > 0.4  # not scaled
    assert check.gap(np.zeros_like(values), np.asarray) == np.inf


def test_poisoned_results_show_what_nobody_writes(load):
    exact = load("exact")
    arrays = [np.ones(3, d) for d in (np.float32, np.uint8, np.int32, ml_dtypes.bfloat16)]
    exact.poison(arrays)
    assert np.isnan(arrays[0]).all()
    assert np.isnan(arrays[3].astype(np.float32)).all()
    assert (arrays[1] == 255).all()
    assert (arrays[2] == 2**31 - 1).all()

    harness = load("harness")

    def lazy(a, out=None, **kw):
        out = np.empty_like(a["x"]) if out is None else out
        out[:-1] = a["x"][:-1]
        if kw.get("kernel") != "lazy":
            out[-1] = a["x"][-1]
        return out

    row = harness.Row(
        name="copy", op="copy", inputs={"x": (3, 4)}, call=lazy, kernels=lambda device: ["good", "lazy"]
    )
    emulator = SimpleNamespace(kind="emulator", name="emulator", ext=object(), to_numpy=np.asarray)
    clock, rates = load("clocks").WallClock(0, 3), load("clocks").no_limits()
    good, bad = load("contest").time_row(row, emulator, clock, rates)
    assert (good["error"], good["chosen"], bad["chosen"]) == (None, True, False)
    assert "float64" in bad["error"]


def test_what_the_installed_ops_cannot_do_is_said_and_left_out(load):
    harness = load("harness")

    def call(a, **kw):
        if a["x"].dtype == ml_dtypes.bfloat16:
            raise TypeError("frob: x must be float32")
        return a["x"]

    def rows(batch, tiny):
        for precision in ("fp32", "bf16"):
            yield harness.Row(
                name="n", op="frob", inputs={"x": (2, 3)}, call=call, precision=precision, half=("x",)
            )

    args = harness.parser("").parse_args(["--device", "cpu", "--no-peers", "--seconds", "0", "--calls", "3"])
    document = harness.run("frob", rows, args)
    assert [row["precision"] for row in document["rows"]] == ["fp32"]
    (entry,) = document["not_supported"]
    assert entry == {"op": "frob", "precision": "bf16", "reason": "TypeError: frob: x must be float32"}
    args.deadline = -1.0
    assert harness.run("frob", rows, args)["not_measured"] == ["n frob fp32"]


def test_bf16_convolutions_are_supported(load):
    """Here the installed ops are those of this tree: every direction has a bf16 row."""
    harness = load("harness")
    args = harness.parser("").parse_args(["--device", "emulator", "--tiny"])
    document = {}
    found = harness.wanted(load("bench_conv").rows, devices.emulator(), args, 2, document)
    assert {r.part for r in found if r.precision == "bf16"} == {"fprop", "dgrad", "wgrad", "fused"}
    assert document["not_supported"] == []


def test_a_whole_row_with_its_peers(load):
    """Ours and PyTorch's in turns on the emulator: figures, the best peer, the ratio."""
    row, contest, clocks = conv(load, "conv5", "fprop"), load("contest"), load("clocks")
    rivals = contest.Rivals(load("peers").Torch(torch, "cpu"))
    rates = {"bandwidth": 1e9, "flops": {"fp32": 1e9}, "source": {}}
    with ops.on("emulator"):
        results = list(
            contest.time_row(row, devices.emulator(), clocks.WallClock(0, 3), rates, rivals, chosen=True)
        )
    (result,) = results
    assert result["chosen"]
    assert result["kernel"].startswith("conv2d_fprop")
    assert result["error"] is None
    assert result["difference"] < 1e-5
    assert [p["name"] for p in result["peers"]] == ["PyTorch", "PyTorch, groups apart"]
    best = min(result["peers"], key=lambda p: p["median_us"])
    assert result["peer"] == best["name"]
    assert result["ratio"] == pytest.approx(best["median_us"] / result["median_us"])
    json.dumps(results, allow_nan=False)


def test_the_choice_made_on_this_card_is_marked(load, monkeypatch):
    """What tuning chose is timed first and named by who chose it; the heuristic's is one of many."""
    row, contest, clocks = conv(load, "conv5", "fprop"), load("contest"), load("clocks")
    heuristic, *_, other = row.kernels("emulator")
    choice = SimpleNamespace(op="conv2d", kernel=other, source="measured")
    monkeypatch.setattr(contest.tuning, "choose_all", lambda calls: {"a problem": choice})
    clock, rates = clocks.WallClock(0, 3), clocks.no_limits()
    with ops.on("emulator"):
        first, *rest = contest.time_row(row, devices.emulator(), clock, rates)
    assert (first["kernel"], first["chosen"], first["choice"]) == (other, True, "measured")
    assert heuristic in [r["kernel"] for r in rest]
    assert not any(r["chosen"] or r["choice"] or r["error"] for r in rest)
    block = next(iter(load("bench_block").rows(2, True)))
    prepared = contest.Prepared(block, devices.emulator())
    with ops.on("emulator"):
        prepared.choose(prepared.arrays())
    assert prepared.result(None)["kernel"].startswith(f"{other}, lrn_max_pool2d_")


def test_only_the_fastest_plan_of_a_heat_goes_on(load):
    contest, peers, clocks = load("contest"), load("peers"), load("clocks")
    clock = clocks.WallClock(5, 50)
    clock.round = lambda calls: [(call(), None) for call in calls]

    def contender(label, seconds, heat):
        work = peers.Work(lambda: seconds, label=label, heat=heat)
        return contest.Contender(work, contest._record(work, 0.0, None))

    works = [contender("eager", 1.0, None), *(contender(f"plan {s}", s, "cuDNN") for s in (3.0, 2.0, 4.0))]
    on, out = contest.heats(works, clock)
    assert [c.work.label for c in on] == ["eager", "plan 2.0"]
    assert [c.record["median_us"] for c in out] == [3e6, 4e6]
    assert all("not the fastest plan" in c.record["note"] for c in out)
    assert on[1].record["note"] is None
    assert clock.calls == 50  # the clock itself is as it was


# ---------------------------------------------------------------- cuDNN's frontend, by a stand-in


class Node(SimpleNamespace):
    """A tensor of the stand-in's graph."""

    def set_output(self, _):
        return self

    def set_dim(self, dim):
        self.dim = list(dim)
        return self

    def set_stride(self, stride):
        self.stride = list(stride)
        return self

    __hash__ = object.__hash__


class Graph:
    """The frontend's calls, computed by PyTorch from the dimensions and strides that were declared."""

    def __init__(self, **options):
        self.options, self.refused = options, []

    def tensor(self, name, dim, stride):
        return Node(kind="end", name=name, dim=dim, stride=stride)

    def conv_fprop(self, **operands):
        return Node(kind="fprop", operands=operands)

    def conv_dgrad(self, **operands):
        return Node(kind="dgrad", operands=operands)

    def conv_wgrad(self, **operands):
        return Node(kind="wgrad", operands=operands)

    def bias(self, input, bias):
        return Node(kind="bias", operands={"input": input, "bias": bias})

    def relu(self, input):
        return Node(kind="relu", operands={"input": input})

    def deselect_numeric_notes(self, notes):
        self.refused = notes

    def get_execution_plan_count(self):
        return 4

    def build_plan_at_index(self, index):
        if index == 1:
            raise RuntimeError("not supported")

    def get_plan_name_at_index(self, index):
        return ["eng0", "eng1", "eng2", "eng0"][index]

    def get_workspace_size_plan_at_index(self, index):
        return 0

    def nothing(self, *args):
        pass

    validate = build_operation_graph = create_execution_plans = check_support = nothing
    deselect_workspace_greater_than = nothing

    def execute_plan_at_index(self, pack, workspace, index, handle):
        (out,) = (node for node in pack if node.kind != "end")
        dense = pack[out].as_strided(out.dim, out.stride)
        dense.copy_(self.value(out, pack) * (1.1 if index == 2 else 1))  # one plan is wrong

    def value(self, node, pack):
        if node.kind == "end":
            return pack[node].as_strided(node.dim, node.stride)
        of = {k: self.value(v, pack) for k, v in node.operands.items() if isinstance(v, Node)}
        if node.kind == "bias":
            return of["input"] + of["bias"]
        if node.kind == "relu":
            return of["input"].relu()
        top, left = node.operands["pre_padding"]
        bottom, right = node.operands["post_padding"]
        stride = node.operands["stride"]
        pad = torch.nn.functional.pad
        if node.kind == "fprop":
            x, w = pad(of["image"], (left, right, top, bottom)), of["weight"]
            return torch.nn.functional.conv2d(x, w, None, stride, 0, 1, x.shape[1] // w.shape[1])
        grads = torch.nn.grad
        if node.kind == "wgrad":
            x, shape = pad(of["image"], (left, right, top, bottom)), tuple(node.dim)
            return grads.conv2d_weight(x, shape, of["loss"], stride, 0, 1, x.shape[1] // shape[1])
        n, c, h, w = node.dim
        shape = (n, c, h + top + bottom, w + left + right)
        groups = c // of["filter"].shape[1]
        dx = grads.conv2d_input(shape, of["filter"], of["loss"], stride, 0, 1, groups)
        return dx[:, :, top : top + h, left : left + w]


@pytest.fixture
def cudnn(load, monkeypatch):
    names = SimpleNamespace(FLOAT="float", BFLOAT16="bf16", A=1, B=2, FALLBACK=3, TENSOR_CORE="tc")
    names.DOWN_CONVERT_INPUTS = "down"
    library = SimpleNamespace(
        pygraph=Graph, data_type=names, heur_mode=names, numerical_note=names, set_stream=lambda **_: None
    )
    library.backend_version_string, library.__version__ = lambda: "9.99", "1.99"
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    return load("cudnn_peer").Cudnn(library, torch, handle=object())


@pytest.mark.parametrize("name", ["conv1", "conv2", "conv3"])
@pytest.mark.parametrize("part", ["fprop", "dgrad", "wgrad", "fused"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cudnns_graphs_compute_the_row(load, cudnn, name, part, precision):
    """Layouts, padding, groups apart: right by float64; the plan that is wrong is refused."""
    good, refused = judged(load, conv(load, name, part, precision), cudnn)
    labels = ["cuDNN"] + ["cuDNN, groups apart"] * (name == "conv2")
    assert [label for label in good if label.startswith("cuDNN")] == labels
    assert [(r["name"], r["kernel"]) for r in refused] == [(label, "eng2") for label in labels]


def test_cudnn_keeps_tensor_cores_out_of_float32_rows(cudnn):
    notes = {}
    for precision in ("fp32", "tf32", "bf16"):
        cudnn.use(precision)
        notes[precision] = cudnn._refused_notes()
    assert notes == {"fp32": ["down", "tc"], "tf32": ["down"], "bf16": ["down"]}


def test_cudnn_offers_no_more_than_it_says(load, cudnn):
    pool = next(iter(load("bench_pool").rows(2, True)))
    _, refused = judged(load, pool, cudnn)
    assert "offer no max_pool2d" in refused[0]["note"]
    found, reason = load("cudnn_peer").find(torch, devices.cpu())
    assert found is None
    assert "CUDA device" in reason


def test_layouts(load):
    peer = load("cudnn_peer")
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    dims, strides = peer.dims_strides(x.shape)
    assert dims == [2, 5, 3, 4]
    assert [s * x.itemsize for s in strides] == list(x.transpose(0, 3, 1, 2).strides)
    assert peer.dims_strides((7,)) == ([1, 7, 1, 1], [7, 1, 7, 7])
    assert peer.both_sides(2) == ([2, 2], [2, 2])
    assert peer.both_sides(((0, 3), (1, 2))) == ([0, 1], [3, 2])


# ---------------------------------------------------------------- compiling


def test_the_compiler_has_its_time_and_no_more(load, monkeypatch):
    peers = load("peers")
    eager = peers.Torch(torch, "cpu")
    assert peers.compiled(eager, 0)[1] == "not asked for (--compile-seconds 0)"
    modes = []
    monkeypatch.setattr(torch, "compile", lambda f, mode, dynamic: (modes.append(mode), f)[1])
    peer, _ = peers.compiled(eager, 1e-9)
    good, refused = judged(load, conv(load, "conv3", "fprop"), peer)
    assert (good, refused) == (["PyTorch", "torch.compile"], [])
    assert modes == ["max-autotune"]
    assert peer.spent > 0
    _, refused = judged(load, conv(load, "conv4", "fprop"), peer)
    assert "has had its" in refused[0]["note"]
