"""Other libraries' arrays: what operations take of them, by which way, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from support.fakes.fake_cuda import FakeArray, Machine, on_device
from support.kernels.bf16 import BF16
from support.networks import batch, plain

import pyconvnet as pcn
from pyconvnet import ops
from pyconvnet.data.dataset import ArrayDataset, Dataset
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.plan import Plan

X = np.array([[1.0, -2.0], [-3.0, 4.0]], np.float32)
POSITIVE = [[1, 0], [0, 4]]


# ---- on the host -------------------------------------------------------------------------------------------


class Tensor:
    """As PyTorch has them: DLPack exports the memory, which may hold the numbers with the other sign.

    It refuses to export a conjugate, and does not look at the negative bit.
    """

    def __init__(self, memory: np.ndarray, negative: bool = False, conjugate: bool = False):
        self._memory, self._negative, self._conjugate = memory, negative, conjugate

    def is_neg(self) -> bool:
        return self._negative

    def is_conj(self) -> bool:
        return self._conjugate

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **how: Any) -> Any:
        if self._conjugate:
            raise BufferError("Can't export tensors with the conjugate bit set")
        return self._memory.__dlpack__(**how)


@pytest.mark.parametrize("device", ["cpu", "emulator"])
def test_tensors_on_the_host_share_their_memory(device):
    out = Tensor(np.empty((2, 2), np.float32))
    with ops.on(device):
        y = ops.relu(Tensor(X), out=out)
    assert out._memory.tolist() == POSITIVE
    assert np.shares_memory(y, out._memory)


@pytest.mark.parametrize("device", ["cpu", "emulator"])
@pytest.mark.parametrize(("bit", "word"), [("negative", "neg"), ("conjugate", "conj")])
def test_a_tensor_whose_memory_is_not_its_numbers(bit, word, device):
    """relu(-X) is not relu(X), and what is written would be read with the other sign."""
    tensor = Tensor(X.copy(), **{bit: True})
    with ops.on(device):
        for name, arguments in (("x", {"x": tensor}), ("out", {"x": X, "out": tensor})):
            with pytest.raises(ValueError, match=rf"^relu: {name} must .* the {bit} bit.*resolve_{word}"):
                ops.relu(**arguments)


def test_torch_itself():
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(X)
    for tensor in (torch._neg_view(-x), torch.complex(0 * x, -x).conj().imag):
        assert tensor.is_neg()
        with pytest.raises(ValueError, match=r"relu: x must hold its values in memory, .* the negative bit"):
            ops.relu(tensor)
    assert ops.relu(tensor.resolve_neg()).tolist() == POSITIVE
    with pytest.raises(ValueError, match="conjugate bit"):
        ops.relu(torch.zeros(2, dtype=torch.complex64).conj())
    with pytest.raises(TypeError, match=r"x cannot be read through DLPack.*gradient"):
        ops.relu(torch.ones(2, requires_grad=True))
    labels = torch.tensor([0, 1])
    assert labels.dtype == torch.int64
    loss, _ = ops.softmax_cross_entropy(torch.zeros(2, 2), labels)
    assert loss.item() == pytest.approx(np.log(2))


# ---- on a CUDA device --------------------------------------------------------------------------------------


class CudaTensor:
    """A tensor on a device: which of its two ways lead anywhere is for the test to say."""

    def __init__(self, array: FakeArray, dlpack: str = "", interface: str = ""):
        self.array, self._refusals, self.asked = array, {"dlpack": dlpack, "interface": interface}, []

    def _ask(self, way: str) -> None:
        self.asked.append(way)
        if self._refusals[way]:
            raise RuntimeError(self._refusals[way])

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.array.device.id

    def __dlpack__(self, stream: int | None = None, **_: Any) -> FakeArray:
        self._ask("dlpack")
        return self.array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._ask("interface")
        typestr = self.array.dtype.str if self.array.dtype != BF16 else "<V2"
        data = self.array.data.ptr, False
        return {"shape": self.array.shape, "typestr": typestr, "data": data, "version": 3}


class OnlyInterface:
    """An array without DLPack, which cannot describe itself."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        raise RuntimeError("not supported for bfloat16")


@pytest.fixture
def machine(monkeypatch):
    return Machine(2).install(monkeypatch)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("interface", ["", "__cuda_array_interface__ is not supported for bfloat16"])
def test_bfloat16_tensors_come_through_dlpack(interface, index, machine):
    x, out = (CudaTensor(on_device(machine, a.astype(BF16), index), interface=interface) for a in (X, 0 * X))
    y = ops.relu(x, out=out)
    assert x.asked == out.asked == ["dlpack"]
    assert y.dtype == BF16
    assert machine.device(index).to_numpy(out.array).tolist() == POSITIVE


def test_the_interface_serves_where_dlpack_refuses(machine):
    x = CudaTensor(on_device(machine, X), dlpack="no capsule today")
    assert ops.relu(x).get().tolist() == POSITIVE
    assert x.asked[0] == "dlpack"


def test_a_tensor_that_no_way_leads_to(machine):
    x = CudaTensor(on_device(machine, X), dlpack="no capsule today", interface="no interface either")
    for tensor, reason in ((x, "no capsule today"), (OnlyInterface(), "not supported for bfloat16")):
        with pytest.raises(TypeError, match=rf"^relu: x cannot be used as a CUDA array: {reason}"):
            ops.relu(tensor)


def test_overlaps_on_a_device(machine):
    """The same rule: two views of one allocation, by their addresses."""
    memory = on_device(machine, np.arange(-8, 8, dtype=np.float32))
    for first in (1, 7):
        with pytest.raises(ValueError, match=r"^relu: out must be x itself or not overlap x"):
            ops.relu(memory[:8], out=memory[first : first + 8])
    ops.relu(memory[:8], out=memory[8:])
    assert memory.get().tolist() == [*range(-8, 0), *[0] * 8]
    ops.relu(memory[:8], out=memory[:8])
    assert memory.get().tolist() == [0] * 16


# ---- the other doors ---------------------------------------------------------------------------------------


def test_masked_arrays_are_refused_at_every_door():
    network = plain()
    images, labels = batch(network, 4, seed=0)
    hide = {name: np.ma.MaskedArray(a, mask=False) for name, a in (("images", images), ("labels", labels))}
    plan = Plan(network, ["cpu"], 4)
    values = plan.get_parameters()
    key = next(iter(values))
    model = pcn.Model(network, values, Preprocessing(network.input_shape))
    for call in (
        lambda: ArrayDataset(hide["images"], labels),
        lambda: ArrayDataset(images, hide["labels"]),
        lambda: plan.feed(hide["images"], labels),
        lambda: plan.feed(images, hide["labels"]),
        lambda: plan.set_parameters(values | {key: np.ma.MaskedArray(values[key])}),
        lambda: plan.set_momenta(values | {key: np.ma.MaskedArray(values[key])}),
        lambda: pcn.predict(model, hide["images"], device="cpu"),
        lambda: pcn.predict(model, hide["images"][0], device="cpu"),
        lambda: Preprocessing(network.input_shape, mean=np.ma.MaskedArray(images[0])),
    ):
        with pytest.raises(TypeError, match="must be an array without a mask, got MaskedArray"):
            call()


def test_labels_of_every_integer_dtype_are_the_same_labels():
    network = plain()
    images, labels = batch(network, 4, seed=0)
    plan = Plan(network, ["cpu"], 4)
    losses = set()
    for dtype in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8"):
        typed = labels.astype(dtype)
        assert ArrayDataset(images, typed).labels.tolist() == labels.tolist()
        plan.feed(images, typed)
        plan.reset_metrics()
        plan.forward(4)
        losses.add(plan.loss())
    assert len(losses) == 1


class Labelled(Dataset):
    """A user's own, with labels of a dtype of its own."""

    in_memory, dtype, image_shape, classes = True, np.dtype(np.float32), (8, 8, 3), list("abcd")

    def __init__(self, images: np.ndarray, labels: np.ndarray):
        self.images, self.labels = images, labels

    def _read(self, indices: np.ndarray) -> np.ndarray:
        return self.images[indices]

    def _identity(self) -> list[bytes]:
        return [b"images of a test"]


def test_a_users_own_labels_are_counted():
    """NumPy counts no uint64."""
    network = plain()
    images, labels = batch(network, 40, seed=0)
    parameters = Plan(network, ["cpu"], 4).get_parameters()
    model = pcn.Model(network, parameters, Preprocessing(network.input_shape), Labelled.classes)
    results = [
        pcn.evaluate(model, Labelled(images, labels.astype(dtype)), views=1, device="cpu")
        for dtype in ("i4", "i8", "u8", "u1")
    ]
    for result in results:
        assert result.labels.dtype == np.int32
        assert result.class_errors.tolist() == results[0].class_errors.tolist()
        assert result.confusion.sum() == 40


@pytest.mark.parametrize(
    ("number", "dtype"), [(2**32 + 1, "i8"), (-(2**32), "i8"), (2**64 - 1, "u8"), (2**31, "u4")]
)
def test_labels_beyond_int32_are_told(number, dtype):
    """Their lower half would be a class."""
    images, labels = batch(plain(), 4, seed=0)
    labels = labels.astype(dtype)
    labels[2] = number
    with pytest.raises(ValueError, match=f"Plan.feed: labels must be .*, got {number}"):
        Plan(plain(), ["cpu"], 4).feed(images, labels)
    with pytest.raises(ValueError, match=f"ArrayDataset: labels must .*, got {number}"):
        ArrayDataset(images, labels)
