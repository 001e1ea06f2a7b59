"""Modules: PyTorch's state dicts and results, models that train as PyTorch's do, layers replaced."""

from __future__ import annotations

import copy
import inspect

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from support.torch_cases import MODULES  # noqa: E402
from torch import nn  # noqa: E402

import pyconvnet.torch as pt  # noqa: E402


def test_every_module_is_in_the_table():
    public = {name for name in pt.__all__ if inspect.isclass(getattr(pt, name))}
    assert public - {"CrossEntropyLoss"} == set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_pytorch_s_module_says_the_same(name):
    ours, theirs, shape = MODULES[name]
    ours, theirs = ours(), theirs()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x), theirs(x))
    assert repr(ours).startswith(f"{name}(")
    theirs.load_state_dict(ours.state_dict())
    again = copy.deepcopy(ours)
    assert torch.equal(again(x), ours(x))


def test_a_convolution_begins_as_pytorch_s():
    torch.manual_seed(3)
    ours = pt.Conv2d(4, 6, 3, groups=2)
    torch.manual_seed(3)
    theirs = nn.Conv2d(4, 6, 3, groups=2)
    assert torch.equal(ours.weight, theirs.weight)
    assert torch.equal(ours.bias, theirs.bias)
    assert ours.weight.is_contiguous(memory_format=torch.channels_last), "the kernels' own layout"
    ours.load_state_dict(theirs.state_dict())
    assert ours.weight.is_contiguous(memory_format=torch.channels_last)


def test_padding_is_told_as_pytorch_tells_it():
    for padding, told in ((1, (1, 1)), ((1, 2), (1, 2)), (((0, 3), (0, 3)), ((0, 3), (0, 3)))):
        convolution, pooling = pt.Conv2d(3, 4, 5, padding=padding), pt.MaxPool2d(4, padding=padding)
        assert convolution.padding == pooling.padding == told
        assert f"padding={told}" in repr(convolution)
    x = torch.randn(1, 3, 8, 8)
    wide = torch.nn.functional.pad(x, (0, 3, 0, 3))
    torch.testing.assert_close(convolution(x), torch.conv2d(wide, convolution.weight, convolution.bias))


def test_the_loss_weighs_classes_as_pytorch_s():
    logits, labels = torch.randn(5, 3).requires_grad_(), torch.tensor([2, 0, 1, 1, 2])
    weight = torch.tensor([1.0, 3.0, 0.5])
    for given in (None, weight):
        ours, theirs = pt.CrossEntropyLoss(given), nn.CrossEntropyLoss(given)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        found, wanted = ours(logits, labels), theirs(logits, labels)
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(torch.autograd.grad(found, logits), torch.autograd.grad(wanted, logits))


def test_from_torch_divides_alpha():
    module = pt.LocalResponseNorm.from_torch(nn.LocalResponseNorm(5, alpha=5e-4, k=2.0))
    assert (module.size, module.k, module.groups) == (5, 2.0, 1)
    assert module.alpha == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: pt.Conv2d(3, 4, 3, padding="same"), TypeError, "Conv2d: padding must be an integer"),
        (lambda: pt.Conv2d(3, 4, 3, activation="tanh"), ValueError, "Conv2d: activation must be None or"),
        (lambda: pt.Conv2d(3, 4, 3, dilation=2), TypeError, "dilation"),
        (lambda: pt.MaxPool2d(0), ValueError, "MaxPool2d: kernel_size must be at least 1"),
        (lambda: pt.LRNMaxPool2d(nn.LocalResponseNorm(5)), TypeError, "LRNMaxPool2d: norm must be a Local"),
        (lambda: pt.LocalResponseNorm(0), ValueError, "LocalResponseNorm: size must be at least 1"),
    ],
)  # fmt: skip
def test_bad_options_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


# ---- models ------------------------------------------------------------------------------------------------


def small():
    """A net of PyTorch's, AlexNet's kinds of layers in small."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=5e-2, k=2.0),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(8, 8, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 3 * 3, 4),
    )


def steps(model, loss, count=12, move=lambda tensor: tensor, host=lambda tensor: tensor.detach()):
    """Losses of a few steps of SGD with momentum on images whose brightest quarter is the class."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.randint(4, (16,), generator=generator)
    x = 0.1 * torch.randn(16, 3, 14, 14, generator=generator)
    for image, label in zip(x, labels, strict=True):
        row, column = 7 * (label // 2), 7 * (label % 2)
        image[:, row : row + 7, column : column + 7] += 1
    x, labels = move(x), move(labels)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        value = loss(model(x), labels)
        value.backward()
        optimizer.step()
        losses.append(float(host(value)))
    return losses


@pytest.mark.kernels
def test_a_model_trains_as_pytorch_s(place):
    """The same weights after the same steps within rounding, and a loss that falls."""
    torch.manual_seed(0)
    theirs = small()
    ours = pt.replace_layers(copy.deepcopy(theirs))
    kinds = [type(layer) for layer in ours]
    assert kinds[:4] == [pt.Conv2d, pt.ReLU, pt.LocalResponseNorm, pt.MaxPool2d]
    assert kinds[6:] == [nn.Flatten, pt.Linear]
    for module in ours.modules():
        for name, parameter in list(module._parameters.items()):
            module._parameters[name] = nn.Parameter(place.tensor(parameter.detach()))
    expected = steps(theirs, nn.CrossEntropyLoss())
    found = steps(ours, pt.CrossEntropyLoss(), move=place.tensor, host=place.host)
    assert found == pytest.approx(expected, rel=1e-4)
    assert found[-1] < 0.5 * found[0]
    for name, wanted in theirs.state_dict().items():
        actual = place.host(ours.get_parameter(name))
        torch.testing.assert_close(actual, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_model_compiles_and_trains(device):
    torch.compiler.reset()
    torch.manual_seed(0)
    model = pt.replace_layers(small()).to(device)
    how = {"count": 3, "move": lambda tensor: tensor.to(device)}
    expected = steps(copy.deepcopy(model), pt.CrossEntropyLoss(), **how)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert steps(compiled, pt.CrossEntropyLoss(), **how) == pytest.approx(expected, rel=1e-5)


def test_replaced_layers_hold_the_very_parameters():
    model = small().eval()
    before, names = list(model.parameters()), list(model.state_dict())
    replaced = pt.replace_layers(model)
    assert replaced is model
    assert [id(p) for p in model.parameters()] == [id(p) for p in before]
    assert list(model.state_dict()) == names
    assert not any(module.training for module in model.modules())


def test_a_layer_at_two_places_stays_one():
    shared = nn.Conv2d(2, 2, 3, padding=1)
    model = nn.Sequential(shared, nn.ReLU(), nn.ModuleDict({"again": shared}))
    pt.replace_layers(model)
    assert type(model[0]) is pt.Conv2d
    assert model[2]["again"] is model[0]


def test_a_layer_with_hooks_stays():
    layer = nn.ReLU()
    layer.register_forward_hook(lambda module, given, y: 2 * y)
    model = pt.replace_layers(nn.Sequential(layer, nn.ReLU()))
    assert [type(module) for module in model] == [nn.ReLU, pt.ReLU]
    assert model(torch.ones(2, 3)).tolist() == [[2.0] * 3] * 2


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(2, 2, 3, dilation=2),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.MaxPool2d(3, dilation=2),
        nn.MaxPool2d(3, return_indices=True),
        nn.AvgPool2d(3, divisor_override=2),
        nn.BatchNorm2d(2),
    ],
)
def test_what_the_kernels_do_not_have_stays(layer):
    assert pt.replace_layers(layer) is layer
