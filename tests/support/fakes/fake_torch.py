"""CUDA tensors that are not there: PyTorch's interface over the memory of a machine of ``fake_cuda``'s.

A :class:`CudaTensor` says that it is on ``cuda:0``, exports its memory as a CUDA tensor does and is what
PyTorch's allocator lends for that device. What PyTorch itself computes with it is computed on the host, when
PyTorch's stream has done all that was noted before; work of the kernels in any other stream is not waited
for, and what was not written yet is NaN. Autograd and operators of ``torch.library`` are PyTorch's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from support.fakes.fake_array import FakeArray
from support.fakes.fake_cuda import FakeStream, Machine
from support.fakes.fake_ptx import PtxMachine, load
from support.kernels.bf16 import BF16
from torch.utils._pytree import tree_map_only

PLACE = torch.device("cuda", 0)
PTX = os.environ.get("PYCONVNET_PTX")  #: folder of the stand-in for CUDA's runtime, where there is one
VIEWS = {"alias", "detach", "expand", "permute", "t", "transpose", "view"}  # that never read memory


class TorchMachine:
    """PyTorch with a CUDA device, on a machine of ``fake_cuda``'s, or of ``fake_ptx``'s.

    Attributes
    ----------
    lent : list of int
        Bytes that PyTorch's allocator has lent, in order.
    exported : list of int
        Addresses of memory that was exported as a CUDA array.
    """

    def __init__(self, machine: Machine, monkeypatch: Any):
        self.machine = machine.install(monkeypatch)
        self.lent: list[int] = []
        self.exported: list[int] = []
        with machine.device(0).activate():
            self.stream = FakeStream(machine)
        machine.xp.cuda.Stream = _Streams(machine)
        current = SimpleNamespace(cuda_stream=self.stream.ptr)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: current)
        self._empty = torch.empty
        monkeypatch.setattr(torch, "empty", self.empty)

    def empty(self, *shape: Any, device: Any = None, **how: Any) -> torch.Tensor:
        """``torch.empty``."""
        if device is None or torch.device(device).type != "cuda":
            return self._empty(*shape, device=device, **how)
        return self.tensor(self._empty(*shape, **how), lend=True)

    def tensor(self, host: torch.Tensor, lend: bool = False) -> CudaTensor:
        """A copy of a tensor on ``cuda:0``, in the same order of memory; `lend`: with NaN in it."""
        nbytes = max(1, host.untyped_storage().nbytes())
        memory = self.machine.allocate(0, nbytes, f"tensor {tuple(host.shape)}", self.stream.ptr)
        content = memory.bytes[:nbytes]
        inner = torch.empty(0, dtype=host.dtype)
        storage = torch.from_numpy(content).untyped_storage()
        inner.set_(storage, host.storage_offset(), host.shape, host.stride())
        if lend:  # in the stream's order: what was lent before may still be in use
            touches = (self.machine.touch(content.ctypes.data, nbytes, True),)
            self.machine.enqueue(self.stream.ptr, "spoil", lambda: content.fill(255), touches)
            self.machine.enqueue(self.stream.ptr, "lend", lambda: self._mark(content, False))
            self.lent.append(nbytes)
        else:
            self.finish()
            inner.copy_(host)
            self._mark(content, True)
        return CudaTensor.over(self, memory, inner)

    def _mark(self, content: Any, written: bool) -> None:
        """Tell a runtime that looks at it whether memory is initialised."""
        if isinstance(self.machine, PtxMachine):
            self.machine.runtime.mark(content.ctypes.data, content.nbytes, written)

    def finish(self) -> None:
        """Wait for PyTorch's stream."""
        self.machine.wait(self.machine.state(self.stream.ptr).last, "PyTorch's stream")


def machine() -> Machine:
    """A machine with one device: nvcc's PTX where ``PYCONVNET_PTX`` says, else the emulator's kernels."""
    return PtxMachine(*load(Path(PTX)), seed=3) if PTX else Machine(1, seed=3)


class _Streams:
    """``cupy.cuda.Stream``."""

    def __init__(self, machine: Machine):
        self._machine = machine

    def __call__(self, null: bool = False, non_blocking: bool = False) -> FakeStream:
        return FakeStream(self._machine, null, non_blocking)

    def from_external(self, stream: Any) -> FakeStream:
        version, pointer = stream.__cuda_stream__()
        assert version == 0
        found = FakeStream(self._machine, null=True)
        found.ptr, found.device_id = pointer, self._machine.state(pointer).device
        return found


class CudaTensor(torch.Tensor):
    """See the module."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: PLACE)
    is_cuda = property(lambda self: True)

    @staticmethod
    def over(torch_machine: TorchMachine, memory: Any, inner: torch.Tensor) -> CudaTensor:
        made = torch.Tensor._make_wrapper_subclass(
            CudaTensor, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device="cpu"
        )
        made.machine, made.memory, made.inner = torch_machine, memory, inner
        return made

    def data_ptr(self) -> int:
        return self.inner.data_ptr()

    def numpy(self) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, stream: int | None = None, **_: Any) -> FakeArray:
        assert stream == self.machine.stream.ptr, "PyTorch would make one stream wait for another"
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient")
        inner = self.inner
        host = inner.view(torch.int16).numpy().view(BF16) if inner.dtype == torch.bfloat16 else inner.numpy()
        self.machine.exported.append(inner.data_ptr())
        return FakeArray(self.machine.machine, self.memory, host)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "pyconvnet":  # what is registered for every device, with the tensors as they are
            keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
            return func.redispatch(keys, *args, **(kwargs or {}))
        given: list[CudaTensor] = []

        def host(tensor: CudaTensor) -> torch.Tensor:
            given.append(tensor)
            return tensor.inner

        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "device"}
        args, kwargs = tree_map_only(CudaTensor, host, (args, kwargs))
        torch_machine = given[0].machine
        if func.overloadpacket.__name__ not in VIEWS:
            torch_machine.finish()
        owners = {tensor.inner.untyped_storage().data_ptr(): tensor for tensor in given}
        by_inner = {id(tensor.inner): tensor for tensor in given}

        def wrap(tensor: torch.Tensor) -> torch.Tensor:
            if id(tensor) in by_inner:
                return by_inner[id(tensor)]
            owner = owners.get(tensor.untyped_storage().data_ptr())
            if owner is not None:
                return CudaTensor.over(torch_machine, owner.memory, tensor)
            return torch_machine.tensor(tensor)

        return tree_map_only(torch.Tensor, wrap, func(*args, **kwargs))


def on_host(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the host, when all that makes it is done."""
    if not isinstance(tensor, CudaTensor):
        return tensor.detach().cpu()
    tensor.machine.finish()
    return tensor.inner.detach().clone()
