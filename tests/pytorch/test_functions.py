"""Functions on PyTorch's tensors: PyTorch's values and derivatives, of tensors as they lie, everywhere."""

from __future__ import annotations

import importlib
import inspect
import random

import pytest
from support.helpers import assert_close

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support.torch_cases import FUNCTIONS, LABELS  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import pyconvnet.torch as pt  # noqa: E402
from pyconvnet import ops  # noqa: E402
from pyconvnet.torch.pointwise import relu_backward  # noqa: E402

CASES = [case for cases in FUNCTIONS.values() for case in cases]
IDS = [f"{name}-{i}" for name, cases in FUNCTIONS.items() for i in range(len(cases))]
TERMS = 400  # in the longest sum, generously


def drawn(case, dtype):
    """The tensors that have a derivative, and those that have none."""
    tensors = [tensor.to(dtype) for tensor in case.tensors(torch.Generator().manual_seed(5))]
    return tensors, [t.to(dtype) if t.is_floating_point() else t for t in case.constants]


def values(function, tensors, constants, host=lambda t: t.detach()):
    """The result and, of weights that differ from element to element, the derivatives."""
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    y = function(*tensors, *constants)
    y.backward((y.detach() * 0 + 1).cumsum(-1) * 0.25 if y.dim() else None)
    return [host(y), *(host(tensor.grad) for tensor in tensors)]


def test_every_function_is_in_the_table():
    public = {name for name in pt.__all__ if inspect.isfunction(getattr(pt, name))}
    assert public - {"replace_layers"} == set(FUNCTIONS)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_gradcheck(case):
    tensors, constants = drawn(case, torch.float64)
    tensors = [tensor.requires_grad_() for tensor in tensors]
    assert torch.autograd.gradcheck(case.function, (*tensors, *constants))


@pytest.mark.kernels
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_pytorch_says_the_same(case, place):
    """In float32, of PyTorch's result in float64."""
    tensors, constants = drawn(case, torch.float32)
    expected = values(case.equal, [t.double() for t in tensors], drawn(case, torch.float64)[1])
    there = [[place.tensor(t) for t in group] for group in (tensors, constants)]
    for actual, wanted in zip(values(case.function, *there, place.host), expected, strict=True):
        assert actual.dtype == torch.float32
        assert_close(actual.numpy(), wanted.numpy(), TERMS, scale=max(1.0, float(wanted.abs().max())))


def test_random_geometry():
    """Convolutions and poolings of all kinds of strides, paddings and groups, contiguous or not."""
    rng, generator = random.Random(4), torch.Generator().manual_seed(4)
    for _ in range(60):
        groups, (r, s) = rng.choice([1, 2, 3]), (rng.randint(1, 4), rng.randint(1, 4))
        stride, pad = (rng.randint(1, 3), rng.randint(1, 3)), (rng.randint(0, r // 2), rng.randint(0, s // 2))
        x = torch.randn(rng.randint(1, 3), groups * rng.randint(1, 3), rng.randint(r, 8), rng.randint(s, 8),
                        generator=generator, dtype=torch.float64)  # fmt: skip
        w = torch.randn(groups * rng.randint(1, 3), x.shape[1] // groups, r, s, generator=generator).double()
        if rng.random() < 0.5:
            x, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, w))
        elif rng.random() < 0.5:
            x = x.transpose(2, 3).contiguous().transpose(2, 3)
        pairs = [
            (lambda x, w, k=(stride, pad, groups): pt.conv2d(x, w, stride=k[0], pad=k[1], groups=k[2]),
             lambda x, w, k=(stride, pad, groups): torch.conv2d(x, w, None, k[0], k[1], 1, k[2]), (x, w)),
            *((lambda x, k=((r, s), stride, pad), c=ceil: pt.max_pool2d(x, *k, c),
               lambda x, k=((r, s), stride, pad), c=ceil: F.max_pool2d(x, *k, ceil_mode=c), (x,))
              for ceil in (False, True)),
        ]  # fmt: skip
        for ours, theirs, tensors in pairs:
            for found, wanted in zip(values(ours, tensors, []), values(theirs, tensors, []), strict=True):
                torch.testing.assert_close(found, wanted, check_stride=False)


@pytest.mark.kernels
def test_bfloat16_with_master_weights(place):
    """Activations in bfloat16; weights in float32 keep their gradients in float32."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 8, 5, 5, generator=generator).bfloat16()
    w, b = torch.randn(8, 8, 3, 3, generator=generator) / 8, torch.randn(8, generator=generator)
    function = lambda x, w, b: pt.conv2d(x, w, b, pad=1, activation="relu")  # noqa: E731
    equal = lambda x, w, b: torch.conv2d(x, w, b, padding=1).relu()  # noqa: E731
    expected = values(equal, [x.double(), w.bfloat16().double(), b.double()], [])
    for parameters, kind in (((w, b), torch.float32), ((w.bfloat16(), b.bfloat16()), torch.bfloat16)):
        there = [place.tensor(tensor) for tensor in (x, *parameters)]
        found = values(function, there, [], place.host)
        assert [tensor.dtype for tensor in found] == [torch.bfloat16] * 2 + [kind] * 2
        for actual, wanted in zip(found, expected, strict=True):
            eps = 2.0**-6 if actual.dtype == torch.bfloat16 else 2.0**-8  # dy is rounded, too
            assert_close(actual.double().numpy(), wanted.numpy(), 1, eps=eps)


@pytest.mark.kernels
def test_precision_is_handed_on(place):
    """Forward and to both gradients: TF32 differs from float32, which is all that the cpu knows."""
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(*shape, generator=generator) for shape in ((2, 8, 8, 8), (16, 8, 3, 3))]
    rows = [torch.randn(*shape, generator=generator) for shape in ((16, 64), (32, 64))]
    for function, given in ((pt.conv2d, tensors), (pt.linear, rows)):
        there = [place.tensor(tensor) for tensor in given]
        exact, rounded = (
            values(lambda x, w, p=p, f=function: f(x, w, precision=p), there, [], place.host)
            for p in ("fp32", "tf32")
        )
        for one, other in zip(exact, rounded, strict=True):
            torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))
            assert torch.equal(one, other) == (place.name == "cpu")


# ---- memory ------------------------------------------------------------------------------------------------


def spied(monkeypatch, name):
    """The arrays an operation is called with."""
    seen, operation = [], getattr(ops, name)

    def call(*args, **kwargs):
        seen.append((args, kwargs))
        return operation(*args, **kwargs)

    monkeypatch.setattr(ops, name, call)
    return seen


def address(array):
    return array.ctypes.data if hasattr(array, "ctypes") else array.data.ptr


@pytest.mark.kernels
def test_channels_last_tensors_are_taken_as_they_lie(place, monkeypatch):
    seen = spied(monkeypatch, "conv2d")
    x, w = (
        torch.randn(*shape).contiguous(memory_format=torch.channels_last)
        for shape in ((2, 3, 6, 5), (4, 3, 3, 3))
    )
    x, w = place.tensor(x), place.tensor(w)
    y = pt.conv2d(x, w)
    ((arrays, how),) = seen
    assert [address(array) for array in arrays[:2]] == [x.data_ptr(), w.data_ptr()]
    assert address(how["out"]) == y.data_ptr()
    assert y.is_contiguous(memory_format=torch.channels_last)
    expected = place.host(y)
    seen.clear()
    contiguous = place.tensor(place.host(x).contiguous())
    assert torch.equal(place.host(pt.conv2d(contiguous, w)), expected)
    assert address(seen[0][0][0]) != contiguous.data_ptr(), "converted, in other memory"


@pytest.mark.kernels
def test_an_operator_leaves_its_inputs_alone_and_returns_new_memory(place):
    x = place.tensor(torch.randn(2, 3, 6, 5))
    before = place.host(x)
    y = pt.relu(pt.max_pool2d(x))
    assert torch.equal(place.host(x), before)
    assert y.data_ptr() != x.data_ptr()


def test_the_stand_in_sees_pytorch_memory_and_stream_alone(monkeypatch):
    """Results and scratch memory are PyTorch's; nothing is enqueued in another stream, nothing waited for."""
    from support.fakes import fake_torch

    machine = fake_torch.TorchMachine(fake_torch.machine(), monkeypatch)
    fake, allocated = machine.machine, []
    # (It tries at first whether there is a cuBLAS, in CuPy's memory.)
    monkeypatch.setattr(importlib.import_module("pyconvnet.ops.linear"), "_cublas_works", lambda dev: False)
    monkeypatch.setattr(fake.xp, "empty", lambda *a, **k: allocated.append(a) or pytest.fail("CuPy's memory"))
    x, w = torch.randn(2, 8, 6, 5), torch.randn(8, 8, 3, 3)
    x, w = (machine.tensor(t.contiguous(memory_format=torch.channels_last)) for t in (x, w))
    logits = machine.tensor(torch.randn(3, 4)).requires_grad_()
    labels = machine.tensor(LABELS)
    fake.waits.clear()
    y = pt.lrn_max_pool2d(pt.conv2d(x, w, pad=1))
    assert not fake.waits
    assert machine.lent[-2:] == [2 * 8 * 2 * 2 * 4, 2 * 8 * 2 * 2]
    w.requires_grad_()
    pt.conv2d(x, w, pad=1).sum().backward()
    pt.softmax_cross_entropy(logits, labels).backward()
    lent = len(machine.lent)
    pt.linear(machine.tensor(torch.ones(8, 4096)), machine.tensor(torch.ones(8, 4096)))
    assert len(machine.lent) == lent + 2, "the result, and the parts of split sums"
    assert not allocated
    assert {name for name, state in fake.streams.items() if state.last} == {machine.stream.ptr}
    with pytest.raises(
        ValueError, match=r"relu_backward: all tensors must be on one device, got cuda:0, cpu"
    ):
        relu_backward(y, torch.zeros(2, 8, 2, 2))


# ---- what is refused ---------------------------------------------------------------------------------------

X, W = torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pt.conv2d(X.half(), W.half()), TypeError, "conv2d: x must be .*, got float16"),
        (lambda: pt.relu(X.int()), TypeError, "relu: x must be float32, .* got int32"),
        (lambda: pt.conv2d(X, W.double()), TypeError, "conv2d: w must be float32 like x, got float64"),
        (lambda: pt.conv2d(X[0], W), ValueError, r"x must have 4 dimensions \(N, C, H, W\), got"),
        (lambda: pt.conv2d(X, W, groups=3), ValueError, "w must have shape .* C=3 like x and groups=3"),
        (lambda: pt.conv2d(X, W, groups=0), ValueError, "conv2d: groups must be at least 1, got 0"),
        (lambda: pt.conv2d(X, W, pad="same"), TypeError, "conv2d: pad must be an integer"),
        (lambda: pt.conv2d(X, W, stride=5, pad=-1), ValueError, "conv2d: pad must be at least 0"),
        (lambda: pt.conv2d(X, W, activation="tanh"), ValueError, "activation must be None or .* got 'tanh'"),
        (lambda: pt.conv2d(X, W, precision="fp16"), ValueError, "conv2d: precision must be None, 'fp32'"),
        (lambda: pt.conv2d(X, W, torch.zeros(3)), ValueError, r"conv2d: b must have shape \(2,\)"),
        (lambda: pt.conv2d(X[..., :2], W), ValueError, "filters of 3 x 3 pixels do not fit x of 4 x 2"),
        (lambda: pt.max_pool2d(X, 3, 2, 3), ValueError, "max_pool2d: pad must be smaller than size"),
        (lambda: pt.lrn(X, alpha=-1), ValueError, "lrn: alpha must not be negative"),
        (lambda: pt.lrn(X, k=0), ValueError, "lrn: k must be positive"),
        (lambda: pt.lrn(X, size=2.5), TypeError, "lrn: size must be an integer"),
        (lambda: pt.dropout(X, 1.0), ValueError, r"dropout: p must be in \[0, 1\)"),
        (lambda: pt.dropout(X, step=-1), ValueError, "dropout: step must be at least 0"),
        (lambda: pt.linear(torch.tensor(1.0), torch.zeros(2, 3)), ValueError, "x must have at least 1"),
        (lambda: pt.linear(X, torch.zeros(2, 3)), ValueError, "linear: w must have I=4 columns like x"),
        (
            lambda: pt.softmax_cross_entropy(torch.zeros(3, 2), LABELS),
            ValueError,
            "softmax_cross_entropy: labels must be in 0 … 1, got 2 at index 0",
        ),
        (lambda: pt.relu(torch.zeros(0, 3)), ValueError, "relu: x must not be empty"),
    ],
)  # fmt: skip
def test_bad_input_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_no_second_derivative():
    x = X.clone().requires_grad_()
    y = pt.relu(x + 1).sum()
    (dx,) = torch.autograd.grad(y, x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        dx.sum().backward()
