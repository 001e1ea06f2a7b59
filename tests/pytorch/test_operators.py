"""The operators of ``torch.library``: what PyTorch checks of them, and the table they all stand in."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import ROOT

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support import torch_cases  # noqa: E402

import pyconvnet.torch as pt  # noqa: E402
from pyconvnet.torch.operators import OPERATORS  # noqa: E402


def test_every_operator_is_in_the_table():
    assert set(OPERATORS) == set(torch_cases.OPERATORS)
    for name in OPERATORS:
        assert getattr(torch.ops.pyconvnet, name).default.namespace == "pyconvnet"


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", torch_cases.OPERATORS)
def test_opcheck(name, device):
    """The schema holds, the derivative is registered, the fake kernel tells shapes and strides."""
    arguments = [
        a.detach().to(device).requires_grad_(a.requires_grad) if isinstance(a, torch.Tensor) else a
        for a in torch_cases.OPERATORS[name]()
    ]
    torch.library.opcheck(OPERATORS[name], tuple(arguments))


def test_a_wrong_fake_kernel_would_be_seen():
    """What opcheck finds of an operator like ours whose results are laid out otherwise than it says."""
    from pyconvnet.torch import operators

    contiguous = lambda x: torch.empty(x.shape)  # noqa: E731
    made = operators.operator("planted(Tensor x) -> Tensor", contiguous)(lambda memory, y, x: y.zero_())
    try:
        made.register_fake(operators.empty_like)
        with pytest.raises(Exception, match=r"(?i)stride"):
            torch.library.opcheck(made, (torch.ones(1, 2, 3, 3),), test_utils="test_faketensor")
    finally:
        del OPERATORS["planted"]


# ---- compiled ----------------------------------------------------------------------------------------------


def chain(x, w, b):
    y = pt.conv2d(x, w, b, stride=2, pad=1, activation="relu")
    return pt.lrn_max_pool2d(torch.sin(y), alpha=0.1, size=2).sum()


def gradients(function, size):
    generator = torch.Generator().manual_seed(2)
    shapes = (size, 3, 9, 9), (6, 3, 3, 3), (6,)
    tensors = [torch.randn(*shape, generator=generator).requires_grad_() for shape in shapes]
    loss = function(*tensors)
    loss.backward()
    return [loss.detach(), *(tensor.grad for tensor in tensors)]


def assert_compiles(**how):
    torch.compiler.reset()
    compiled = torch.compile(chain, fullgraph=True, **how)
    for size in (2, 3):
        for found, wanted in zip(gradients(compiled, size), gradients(chain, size), strict=True):
            torch.testing.assert_close(found, wanted)


def test_compiles_without_a_break():
    assert_compiles(backend="aot_eager")


@pytest.mark.slow
def test_compiles_for_any_size():
    assert_compiles(backend="aot_eager", dynamic=True)


@pytest.mark.slow
def test_compiles_with_inductor():
    assert_compiles(backend="inductor")


def test_a_step_of_dropout_that_changes_is_compiled_once():
    torch.compiler.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    x = torch.ones(2, 3, 4, 4)
    compiled = torch.compile(
        lambda x, step: pt.dropout(x, seed=1, step=step), fullgraph=True, backend=counter
    )
    for step in range(5):
        assert torch.equal(compiled(x, step), pt.dropout(x, seed=1, step=step))
    assert counter.frame_count <= 2, "the first, and one for any step"


@pytest.mark.slow
def test_a_model_is_exported():
    layers = pt.Conv2d(3, 4, 3, activation="relu"), pt.LRNMaxPool2d(pt.LocalResponseNorm())
    model = torch.nn.Sequential(*layers, torch.nn.Flatten(), pt.Linear(64, 3)).eval()
    x = torch.randn(2, 3, 11, 11)
    program = torch.export.export(model, (x,))
    torch.testing.assert_close(program.module()(x), model(x))
    assert "pyconvnet.lrn_max_pool2d" in str(program.graph)


# ---- importing it ------------------------------------------------------------------------------------------


def test_importing_the_package_imports_no_pytorch():
    code = "import sys, pyconvnet; from pyconvnet import ops, Network; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
