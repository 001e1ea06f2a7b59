"""CUTLASS as a contender: its library's functions by a stand-in, and compiled where the headers are."""

from __future__ import annotations

import ctypes
import importlib
from types import SimpleNamespace

import pytest
from support import ROOT

from pyconvnet.common import devices

torch = pytest.importorskip("torch")

# Channels as CUTLASS wants them, a group's too; conv1's are three, strided and padded on one side.
LAYERS = {
    "conv1": {"x": (2, 16, 16, 3), "w": (16, 11, 11, 3), "y": (2, 3, 3, 16), "stride": 4},
    "conv2": {"x": (2, 5, 6, 32), "w": (48, 3, 3, 16), "y": (2, 5, 6, 48), "groups": 2},
    "conv3": {"x": (2, 5, 6, 16), "w": (24, 3, 3, 16), "y": (2, 5, 6, 24)},
}


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def view(address, shape, strides, dtype):
    """A tensor over memory that has only an address, as a kernel sees it."""
    count = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    raw = (ctypes.c_char * (count * dtype.itemsize)).from_address(address)
    return torch.frombuffer(raw, dtype=dtype).as_strided(tuple(shape), tuple(strides)).permute(0, 3, 1, 2)


class Functions:
    """The library's functions, computed by PyTorch from the extents, strides and addresses they are given."""

    def __init__(self, op, dtype, wrong):
        self.op, self.dtype, self.wrong, self.plans, self.bound = op, dtype, wrong, {}, {}

    def conv_version(self):
        return b"CUTLASS 9.9"

    def conv_words(self, status):
        return f"status {status}".encode()

    def conv_plan(self, layer, handle, size):
        layer = layer._obj
        if any(shape[i] * self.dtype.itemsize % 16 for shape, i in ((layer.x, 3), (layer.w, 0))):
            return 3
        handle._obj.value, size._obj.value = len(self.plans) + 1, 100
        self.plans[len(self.plans) + 1] = layer
        return 0

    def conv_bind(self, handle, a, b, out, workspace, stream):
        assert stream == 7
        ctypes.memset(workspace, 0, 100)
        self.bound[handle.value] = a, b, out
        return 0

    def conv_free(self, handle):
        del self.plans[handle.value]

    def conv_run(self, handle, stream):
        layer, ends = self.plans[handle.value], self.bound[handle.value]
        y = (layer.x[0], *(self.outputs(layer, i) for i in (0, 1)), layer.w[0])
        shapes = {"x": (layer.x, layer.x_stride), "w": (layer.w, layer.w_stride), "y": (y, layer.y_stride)}
        order = {"conv2d": "xwy", "conv2d_dgrad": "ywx", "conv2d_wgrad": "yxw"}[self.op]
        dtypes = [self.dtype, self.dtype, torch.float32 if self.op == "conv2d_wgrad" else self.dtype]
        a, b, out = (view(e, *shapes[name], d) for e, name, d in zip(ends, order, dtypes, strict=True))
        (top, left), (bottom, right), step = layer.before, layer.after, tuple(layer.step)
        n, c, h, w = layer.x[0], layer.x[3], layer.x[1] + top + bottom, layer.x[2] + left + right
        pad, grads = (left, right, top, bottom), torch.nn.grad
        if self.op == "conv2d":
            made = torch.nn.functional.conv2d(torch.nn.functional.pad(a, pad), b, None, step)
        elif self.op == "conv2d_dgrad":
            made = grads.conv2d_input((n, c, h, w), b, a, step)[:, :, top : h - bottom, left : w - right]
        else:
            x = torch.nn.functional.pad(b, pad)
            made = grads.conv2d_weight(x.float(), out.shape, a.float(), step)
        out.copy_(made * (1.1 if self.wrong else 1))
        return 0

    @staticmethod
    def outputs(layer, i):
        return (layer.x[1 + i] + layer.before[i] + layer.after[i] - layer.w[1 + i]) // layer.step[i] + 1


@pytest.fixture
def cutlass(load, monkeypatch):
    """The peer with three tiles of each direction, of which the last is wrong."""
    module, libraries = load("cutlass_contender"), {}
    for op, precision, tile in module.KERNELS:
        if tile in module.TILES[:3]:
            library = libraries[op, precision, tile] = object.__new__(module.Library)
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            library.functions = Functions(op, dtype, tile == module.TILES[2])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))
    return module.Cutlass(libraries, torch)


def row_of(load, name, part, precision):
    pad = ((0, 3), (0, 3)) if name == "conv1" else 1
    given = {"name": name, "stride": 1, "pad": pad, "groups": 1, "flops": 1.0}
    layer = SimpleNamespace(**given | LAYERS[name])
    return next(r for r in load("bench_conv")._rows(layer, precision) if r.part == part)


def judged(load, peer, name, part, precision):
    """Labels and kernels of who may be timed, and the notes of who may not."""
    contest, row = load("contest"), row_of(load, name, part, precision)
    arrays = contest.Prepared(row, devices.cpu()).arrays()
    rivals = contest.Rivals(load("peers").Torch(torch, "cpu"), [peer])
    contenders, refused = contest.judge(row, rivals, arrays, row.exact(row, arrays, devices.cpu()))
    good = [(c.work.label, c.work.kernel) for c in contenders if c.work.label.startswith("CUTLASS")]
    assert len({c.work.heat for c in contenders if c.work.label.startswith("CUTLASS")}) <= 1
    return good, {r["kernel"]: r["note"] for r in refused}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    ("part", "precision"), [("fprop", "bf16"), ("fprop", "tf32"), ("dgrad", "bf16"), ("wgrad", "bf16")]
)
def test_every_tile_computes_the_row_and_the_wrong_one_is_refused(load, cutlass, name, part, precision):
    good, refused = judged(load, cutlass, name, part, precision)
    if (name, part) == ("conv1", "dgrad"):
        assert (good, list(refused)) == ([], [None])
        assert "not whole 16 bytes" in refused[None]
        return
    label = {"conv1": "CUTLASS, space to depth", "conv2": "CUTLASS, groups apart"}.get(name, "CUTLASS")
    assert good == [(label, "128x64"), (label, "128x128")]
    assert list(refused) == ["128x192"]
    assert "against float64" in refused["128x192"]
    left = [library.functions.plans for library in cutlass.libraries.values()]
    assert not any(left), "plans are freed"


def test_the_fastest_right_tile_is_its_time(load, cutlass):
    contest, clocks, row = load("contest"), load("clocks"), row_of(load, "conv2", "wgrad", "bf16")
    rivals = contest.Rivals(load("peers").Torch(torch, "cpu"), [cutlass])
    (result,) = contest.time_row(row, devices.cpu(), clocks.WallClock(0, 3), clocks.no_limits(), rivals)
    tiles = {p["kernel"]: p for p in result["peers"] if p["name"] == "CUTLASS, groups apart"}
    assert {name for name, p in tiles.items() if p["counts"]} == {"128x64", "128x128"}
    notes = sorted(str(p["note"]) for p in tiles.values() if p["counts"])
    assert notes == ["None", "not the fastest plan: least number of calls"]
    assert all(p["median_us"] > 0 for p in tiles.values() if p["counts"])


@pytest.mark.parametrize(
    ("part", "precision", "note"),
    [
        ("fused", "bf16", "the convolution alone"),
        ("fprop", "fp32", "conv2d in fp32 is not among its kernels"),
        ("dgrad", "tf32", "conv2d_dgrad in tf32 is not among"),
    ],
)
def test_what_it_cannot_do_is_said(load, cutlass, part, precision, note):
    good, refused = judged(load, cutlass, "conv3", part, precision)
    assert good == []
    assert note in refused[None]


def test_a_direction_that_was_not_compiled_is_said(load, cutlass):
    cutlass.libraries = {k: v for k, v in cutlass.libraries.items() if k[0] != "conv2d"}
    assert judged(load, cutlass, "conv3", "fprop", "bf16")[1] == {None: "conv2d in bf16 was not compiled"}


def test_a_layer_it_refuses_is_said_in_its_words(load, cutlass, monkeypatch):
    monkeypatch.setitem(LAYERS["conv3"], "w", (20, 3, 3, 16))
    monkeypatch.setitem(LAYERS["conv3"], "y", (2, 5, 6, 20))
    good, refused = judged(load, cutlass, "conv3", "fprop", "bf16")
    assert good == []
    assert refused[None].startswith("128x64: conv_plan: status 3; 128x128: ")


def test_without_it_the_reason_is_told(load, monkeypatch, tmp_path, capsys):
    module, harness = load("cutlass_contender"), load("harness")
    monkeypatch.setenv("PYCONVNET_CUTLASS", str(tmp_path))
    monkeypatch.setattr(module.compiler, "find_nvcc", lambda: None)
    monkeypatch.setattr(module, "installed_headers", lambda: None)
    args = harness.parser("").parse_args(["--device", "cpu", "--tiny", "--calls", "3", "--seconds", "0"])
    args.only, args.precisions = "conv3", "bf16"
    document = harness.run("conv", load("bench_conv").rows, args)
    assert document["peers"]["CUTLASS"] == "CUTLASS needs a CUDA device"
    assert len(document["rows"]) == 4
    assert not any(p["name"].startswith("CUTLASS") for row in document["rows"] for p in row["peers"])
    assert "# CUTLASS: CUTLASS needs a CUDA device" in capsys.readouterr().out
    card = SimpleNamespace(kind="cuda", index=0)
    assert "PyTorch" in module.find(None, card)[1]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    assert module.find(torch, card)[1] == "its kernels are for compute capability 9.0, not 8.0"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    assert module.find(torch, card)[1].endswith("needs nvcc and the headers of nvidia-cutlass")
    monkeypatch.setattr(module.sys, "argv", ["cutlass_contender.py"])
    with pytest.raises(SystemExit, match="needs nvcc, and nvidia-cutlass"):
        module.main()
    module.path_of(module.KERNELS[0]).write_bytes(b"no library")
    assert module.find(torch, card)[1].startswith("OSError")


@pytest.mark.slow
def test_the_library_without_a_card(load, monkeypatch, tmp_path):
    """Compiled by nvcc: what it can do, what it refuses, and that a failure is told in words."""
    module = load("cutlass_contender")
    nvcc, include = module.compiler.find_nvcc(), module.installed_headers()
    if nvcc is None or include is None:
        pytest.skip("needs nvcc and the headers of nvidia-cutlass")
    monkeypatch.setenv("PYCONVNET_CUTLASS", str(tmp_path))
    kernel = ("conv2d_wgrad", "bf16", (64, 128))
    library = module.Library(module.build(kernel, include, nvcc))
    assert module.build(kernel, include, "no compiler") == module.path_of(kernel)
    assert library.functions.conv_version().startswith(b"CUTLASS ")
    x, w, y = (torch.empty(shape, device="meta") for shape in ((2, 5, 6, 64), (48, 3, 3, 32), (2, 5, 6, 96)))
    around = (1, 1), (1, 1), (1, 1)
    plan = module.Plan(library, module._layer(x[..., :32], w, torch.empty(2, 5, 6, 48), *around))
    assert plan.workspace == 0
    for wrong in (y[..., :48], torch.empty(2, 5, 6, 48).transpose(1, 2)):  # dy is to be dense
        with pytest.raises(module.CutlassError, match="conv_plan: Invalid"):
            module.Plan(library, module._layer(x[..., :32], w, wrong, *around))
    with pytest.raises(module.CutlassError, match="conv_plan: Invalid"):
        module.Plan(library, module._layer(x[..., :3], w[..., :3], torch.empty(2, 5, 6, 48), *around))
    if not torch.cuda.is_available():
        with pytest.raises(module.CutlassError, match="conv_bind: Error Internal"):
            plan.bind(0, *(torch.empty(64) for _ in range(4)))
