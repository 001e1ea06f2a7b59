"""Fully connected layers: every kernel against the float64 reference; and what they refuse."""

import ctypes
import functools
import sys
import zlib

import numpy as np
import pytest
from support.helpers import EPS32, Scratch, assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import PLAIN, slow
from support.kernels.conv_shapes import RAGGED_LINEARS, Linear, reduced_linears

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import cublas as _cublas
from pyconvnet.ops import reference

CASES = [*reduced_linears(), *RAGGED_LINEARS]
FEW = [case for case in CASES if case.name in ("odd", "ragged", "deep")]
OPS = ("linear", "linear_dgrad", "linear_wgrad")


def kernels(op: str, case: Linear) -> list[str]:
    return ops.kernels(op, (case.n, case.i), (case.o, case.i), device="emulator")


def rows(op: str, cases: list[Linear]) -> list:
    """One test for each case and each kernel that applies to it."""
    return [
        pytest.param(case, kernel, id=f"{case}-{kernel}") for case in cases for kernel in kernels(op, case)
    ]


ROWS = [pytest.param(op, *row.values, id=f"{op}-{row.id}") for op in OPS for row in rows(op, CASES)]
if not PLAIN:  # the ragged ones run all of a kernel's code
    ROWS = slow(ROWS, unless=lambda op, case, kernel: case in RAGGED_LINEARS)
FEW_ROWS = [pytest.param(op, *row.values, id=f"{op}-{row.id}") for op in OPS for row in rows(op, FEW)]


class Problem:
    """Arrays of a case, and the three results in float64."""

    def __init__(self, case: Linear):
        rng = np.random.default_rng(zlib.crc32(case.name.encode()))
        shapes = (case.n, case.i), (case.o, case.i), (case.n, case.o), (case.o,)
        self.x, self.w, self.dy, self.b = (rng.standard_normal(shape).astype(np.float32) for shape in shapes)
        x, w, dy, b = (a.astype(np.float64) for a in (self.x, self.w, self.dy, self.b))
        self.expected = {
            "linear": reference.linear(x, w, b),
            "linear_dgrad": reference.linear_dgrad(dy, w),
            "linear_wgrad": reference.linear_wgrad(dy, x),
        }
        self.terms = {"linear": case.i + 1, "linear_dgrad": case.o, "linear_wgrad": case.n}


problem = functools.lru_cache(maxsize=4)(Problem)


def compute(op: str, case: Linear, dev, **options) -> np.ndarray:
    """One direction on a device, into an output full of NaN."""
    p = problem(case)
    x, w, b, dy = (dev.asarray(a) for a in (p.x, p.w, p.b, p.dy))
    out = filled_with_nan(dev, p.expected[op].shape)
    arguments = {"linear": (x, w, b), "linear_dgrad": (dy, w), "linear_wgrad": (dy, x)}[op]
    result = getattr(ops, op)(*arguments, out=out, **options)
    assert result is out
    return dev.to_numpy(result)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), ROWS)
def test_kernel(op, case, kernel, device, run_on):
    p = problem(case)
    with run_on(device):
        assert_close(compute(op, case, device, kernel=kernel), p.expected[op], p.terms[op])


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_preferred_kernel(op, case, any_device, run_on):
    p = problem(case)
    with run_on(any_device):
        result = compute(op, case, any_device)
        assert_close(result, p.expected[op], p.terms[op])
        assert same_bits(result, compute(op, case, any_device))


@pytest.mark.gpu
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cublas(op, case):
    dev = devices.cuda(0)
    p = problem(case)
    if "cublas" not in ops.kernels(op, (case.n, case.i), (case.o, case.i), device=dev):
        pytest.skip("CuPy finds no cuBLAS on this machine")
    assert_close(compute(op, case, dev, kernel="cublas"), p.expected[op], p.terms[op])


@pytest.mark.parametrize(("case", "kernel"), rows("linear", FEW))
def test_bias_and_relu_are_fused_rightly(case, kernel, device, run_on):
    p = problem(case)
    with run_on(device):
        x, w, b = (device.asarray(a) for a in (p.x, p.w, p.b))
        relu = ops.linear(x, w, b, activation="relu", kernel=kernel)
        plain = ops.linear(x, w, kernel=kernel)
    expected = p.expected["linear"]
    assert (expected < 0).any()
    assert_close(device.to_numpy(relu), np.maximum(expected, 0), p.terms["linear"])
    assert_close(device.to_numpy(plain), expected - p.b.astype(np.float64), p.terms["linear"])


@functools.cache
def _bits_in_plain_order(op: str, case: Linear, kernel: str) -> np.ndarray:
    with ops.on("emulator"):
        return compute(op, case, devices.emulator(), kernel=kernel)


@pytest.mark.kernels
@pytest.mark.parametrize(("op", "case", "kernel"), FEW_ROWS)
def test_every_schedule_gives_the_same_bits(op, case, kernel, schedule):
    with ops.on("emulator"):
        result = compute(op, case, devices.emulator(), kernel=kernel)
    assert same_bits(result, _bits_in_plain_order(op, case, kernel))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_three_directions_are_adjoint(case, device, run_on):
    """<dy, linear(x, w)> = <dgrad(dy, w), x> = <wgrad(dy, x), w>, without the reference."""
    p = problem(case)
    with run_on(device):
        y = device.to_numpy(ops.linear(device.asarray(p.x), device.asarray(p.w)))
        dx, dw = (compute(op, case, device) for op in OPS[1:])
    products = [
        float(np.vdot(a.astype(np.float64), b.astype(np.float64)))
        for a, b in ((y, p.dy), (dx, p.x), (dw, p.w))
    ]
    size = float(np.linalg.norm(y.astype(np.float64)) * np.linalg.norm(p.dy.astype(np.float64)))
    limit = 4 * EPS32 * max(p.terms.values()) ** 0.5 * size
    assert abs(products[0] - products[1]) <= limit
    assert abs(products[0] - products[2]) <= limit


def test_workspace_is_used_and_may_hold_anything(device, run_on):
    case = next(case for case in CASES if case.name == "deep")
    with run_on(device):
        kernel = next(name for name in kernels("linear", case) if name != "conv2d_fprop_generic")
        scratch = Scratch(device)
        with_scratch = compute("linear", case, device, kernel=kernel, workspace=scratch)
        assert same_bits(with_scratch, compute("linear", case, device, kernel=kernel))
    assert len(scratch.requests) == 1
    assert scratch.requests[0] > 0


def test_small_batches_prefer_the_kernel_of_few_rows():
    for op, kernel in (("linear", "conv2d_fprop_rows16"), ("linear_dgrad", "conv2d_dgrad_rows16")):
        for n in (1, 8, 16):
            assert ops.kernels(op, (n, 9216), (4096, 9216), device="emulator")[0] == kernel
        assert ops.kernels(op, (128, 9216), (4096, 9216), device="emulator")[0] != kernel


F32 = np.float32
X, W, DY = np.ones((3, 6), F32), np.ones((4, 6), F32), np.ones((3, 4), F32)
READ_ONLY = np.ones((3, 4), F32)
READ_ONLY.flags.writeable = False
STORAGE = np.ones(40, F32)


def fprop(x=X, w=W, b=None, **options):
    return ops.linear(x, w, b, **options)


def dgrad(dy=DY, w=W, **options):
    return ops.linear_dgrad(dy, w, **options)


def wgrad(dy=DY, x=X, **options):
    return ops.linear_wgrad(dy, x, **options)


# what is wrong, error, message, function, arguments that differ from a right call's
BAD = [
    (
        "x has rank 4",
        ValueError,
        r"linear: x must have 2 .*\(N, I\), got shape",
        fprop,
        {"x": np.ones((3, 1, 1, 6), F32)},
    ),
    ("x is empty", ValueError, r"x must not be empty", fprop, {"x": X[:0]}),
    (
        "widths differ",
        ValueError,
        r"linear: w must have I=6 columns like x, got shape \(4, 5\)",
        fprop,
        {"w": W[:, :5].copy()},
    ),
    ("w is transposed", ValueError, r"w must have I=6 columns", fprop, {"w": np.ones((6, 4), F32)}),
    ("w is not contiguous", ValueError, r"w must be C-contiguous", fprop, {"w": np.ones((6, 4), F32).T}),
    ("w is float16", TypeError, r"w must be float", fprop, {"w": W.astype(np.float16)}),
    ("w is None", TypeError, r"linear", fprop, {"w": 7}),
    (
        "b has rank 2",
        ValueError,
        r"b must have shape \(4,\) \(O,\), got \(1, 4\)",
        fprop,
        {"b": np.ones((1, 4), F32)},
    ),
    ("unknown activation", ValueError, r"activation must be None or 'relu', got 3", fprop, {"activation": 3}),
    ("unknown kernel", ValueError, r"linear: kernel", fprop, {"kernel": "gemm"}),
    (
        "out has a wrong shape",
        ValueError,
        r"out must have shape \(3, 4\)",
        fprop,
        {"out": np.ones((4, 3), F32)},
    ),
    ("out is read-only", ValueError, r"out must be writable", fprop, {"out": READ_ONLY}),
    (
        "out overlaps x",
        ValueError,
        r"out must not overlap x",
        fprop,
        {"x": STORAGE[:18].reshape(3, 6), "out": STORAGE[10:22].reshape(3, 4)},
    ),
    (
        "dy is too wide",
        ValueError,
        r"linear_dgrad: w must have O=5 rows",
        dgrad,
        {"dy": np.ones((3, 5), F32)},
    ),
    ("dy has rank 1", ValueError, r"linear_dgrad: dy must have 2 dimensions", dgrad, {"dy": DY[0]}),
    ("batches differ", ValueError, r"linear_wgrad: dy must have N=3 rows like x", wgrad, {"dy": DY[:2]}),
    ("x is int64", TypeError, r"x must be float", wgrad, {"x": X.astype(np.int64)}),
    (
        "out is not contiguous",
        ValueError,
        r"out must be C-contiguous",
        wgrad,
        {"out": np.ones((6, 4), F32).T},
    ),
]


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(
    ("error", "message", "call", "arguments"), [pytest.param(*b[1:], id=b[0]) for b in BAD]
)
def test_bad_arguments_are_refused_alike_everywhere(error, message, call, arguments, where):
    with ops.on(where):
        assert call() is not None
        with pytest.raises(error, match=message):
            call(**arguments)


class FakeCublas:
    """cublasSgemm as its manual defines it: column-major, C = op(A) op(B)."""

    def __init__(self):
        self.calls = []

    def cublasCreate_v2(self, handle):
        handle._obj.value = 1 + sum(name == "create" for name, *_ in self.calls)
        self.calls.append(("create", handle._obj.value))
        return 0

    def cublasSetStream_v2(self, handle, stream):
        self.calls.append(("stream", handle.value, stream))
        return 0

    def cublasSetWorkspace_v2(self, handle, pointer, nbytes):
        self.calls.append(("workspace", handle.value, nbytes))
        return 0

    def cublasSgemm_v2(self, handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        def columns(pointer, lead, count):
            flat = np.ctypeslib.as_array(
                ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (lead * count,)
            )
            return flat.reshape(count, lead).T

        left = columns(a, lda, m if ta else k)[: k if ta else m]
        right = columns(b, ldb, k if tb else n)[: n if tb else k]
        assert (alpha._obj.value, beta._obj.value) == (1.0, 0.0)
        columns(c, ldc, n)[:m] = (left.T if ta else left) @ (right.T if tb else right)
        self.calls.append(("sgemm", handle.value))
        return 13 if k == 13 else 0


@pytest.mark.parametrize("case", CASES, ids=str)
def test_how_cublas_is_called(case, monkeypatch):
    """Which matrix is which, transposed or not, and its leading extent; one handle and workspace a stream."""
    fake = FakeCublas()
    p = problem(case)
    stream = {"now": 7}

    class Pointed(np.ndarray):
        @property
        def data(self):
            return type("Pointer", (), {"ptr": self.ctypes.data})

    def placed(array):
        return np.ascontiguousarray(array).view(Pointed)

    dev = devices.Device("cuda", 0, np, None)
    monkeypatch.setattr(dev, "stream", lambda: stream["now"])
    monkeypatch.setattr(dev, "empty", lambda shape, dtype: placed(np.empty(shape, dtype)))
    monkeypatch.setattr(_cublas, "library", lambda dev: fake)
    _cublas._handle.cache_clear()
    x, w, dy = placed(p.x), placed(p.w), placed(p.dy)
    y, dx, dw = (placed(np.full(shape, np.nan, np.float32)) for shape in (p.dy.shape, p.x.shape, p.w.shape))
    try:
        for out, transposed, a, b in (
            (y, (_cublas.N, _cublas.T), x, w),
            (dx, (_cublas.N, _cublas.N), dy, w),
            (dw, (_cublas.T, _cublas.N), dy, x),
        ):
            _cublas.sgemm(dev, out, transposed, a, b)
        expected = {**p.expected, "linear": p.expected["linear"] - p.b}
        for op, out in (("linear", y), ("linear_dgrad", dx), ("linear_wgrad", dw)):
            assert_close(np.asarray(out), expected[op], p.terms[op])
        assert fake.calls[:3] == [("create", 1), ("stream", 1, 7), ("workspace", 1, _cublas.WORKSPACE)]
        assert fake.calls[3:] == [("sgemm", 1)] * 3
        stream["now"] = 8
        _cublas.sgemm(dev, y, (_cublas.N, _cublas.T), x, w)
        assert fake.calls[6:] == [
            ("create", 2),
            ("stream", 2, 8),
            ("workspace", 2, _cublas.WORKSPACE),
            ("sgemm", 2),
        ]
        bad = placed(np.ones((2, 13), np.float32))
        with pytest.raises(RuntimeError, match="cublasSgemm_v2 failed with status 13"):
            _cublas.sgemm(dev, placed(np.empty((2, 2), np.float32)), (_cublas.N, _cublas.T), bad, bad)
    finally:
        _cublas._handle.cache_clear()


@pytest.mark.parametrize("capability", ["75", "80", "90", "100"])
@pytest.mark.parametrize("op", ["linear", "linear_dgrad", "linear_wgrad"])
def test_cublas_comes_first_where_no_kernel_is_on_tensor_cores(op, capability, monkeypatch):
    """cuBLAS multiplies in float32: it stands behind the tensor cores, however a kernel uses them."""
    module = sys.modules["pyconvnet.ops.linear"]  # whose name in its package is the operation's
    monkeypatch.setattr(module, "_cublas_works", lambda dev: True)
    monkeypatch.setenv("PYCONVNET_EMULATOR_CAPABILITY", capability)
    for shapes in (((128, 9216), (4096, 9216)), ((128, 4096), (1000, 4096))):
        first = {
            p: ops.kernels(op, *shapes, precision=p, device="emulator")[0] for p in ("fp32", "tf32", "bf16")
        }
        assert first["fp32"] == "cublas"
        assert ("mma" in first["tf32"]) == (capability != "75")
        assert first["tf32"] == "cublas" or capability != "75"
        assert first["bf16"] != "cublas"
