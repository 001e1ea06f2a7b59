"""Operators of ``torch.library`` made of operations on arrays: tensors as arrays, memory, streams."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..common import checks, devices
from ..common.precision import BFLOAT16
from ..ops import arrays as device_arrays

#: Every operator, by the name it has in ``torch.ops.pyconvnet``.
OPERATORS: dict[str, torch.library.CustomOpDef] = {}

NCHW, KCRS = "N, C, H, W", "K, C/groups, R, S"


def operator(schema: str, empty: Callable[..., Any]) -> Callable[[Callable[..., None]], Any]:
    """Register the decorated function as an operator of the namespace ``pyconvnet``.

    Parameters
    ----------
    schema : str
        ``"NAME(Tensor x, …) -> Tensor"``, as PyTorch writes schemas.
    empty : callable
        Makes the results of a call, uninitialised, from its arguments: the fake kernel, and what the
        decorated function is to fill. It is called as ``run(memory, results, *arguments)``.
    """
    name, bracket, signature = schema.partition("(")

    def decorate(run: Callable[..., None]) -> Any:
        def call(*args: Any) -> Any:
            results = empty(*args)
            with memory_of(name, args) as memory:
                run(memory, results, *args)
            return results

        made = torch.library.custom_op(
            f"pyconvnet::{name}", call, mutates_args=(), schema=bracket + signature
        )
        made.register_fake(empty)
        OPERATORS[name] = made
        return made

    return decorate


# ---- memory ------------------------------------------------------------------------------------------------


class Memory:
    """The memory of one device, as tensors and as arrays; `workspace` of the operations.

    Parameters
    ----------
    op : str
        Whom errors name.
    device : torch.device
    """

    def __init__(self, op: str, device: torch.device):
        self.op, self.device = op, device

    def array(self, name: str, tensor: torch.Tensor | None) -> Any:
        """Return a contiguous tensor's memory as a NumPy or CuPy array; None for None."""
        if tensor is None:
            return None
        tensor = tensor.detach()
        if self.device.type != "cpu":
            return device_arrays.arrays(self.op, **{name: tensor})[1][name]
        if tensor.dtype == torch.bfloat16:  # which NumPy knows from ml_dtypes alone
            return tensor.view(torch.int16).numpy().view(BFLOAT16)
        return tensor.numpy()

    def pixels(self, name: str, tensor: torch.Tensor | None) -> Any:
        """Return a tensor (N, C, H, W) as an array (N, H, W, C); converted where it is not channels_last."""
        return None if tensor is None else self.array(name, tensor.permute(0, 2, 3, 1).contiguous())

    def elements(self, name: str, tensor: torch.Tensor) -> Any:
        """Return a tensor as :func:`empty_like` lays its results out."""
        return (self.pixels if tensor.dim() == 4 else self.plain)(name, tensor)

    def plain(self, name: str, tensor: torch.Tensor | None) -> Any:
        """Return a tensor as an array of its shape."""
        return None if tensor is None else self.array(name, tensor.contiguous())

    def get(self, nbytes: int) -> Any:
        """Lend scratch memory: uint8, from PyTorch's allocator."""
        return self.array("workspace", torch.empty(nbytes, dtype=torch.uint8, device=self.device))


class _Current:
    """PyTorch's current stream in CUDA's protocol for streams."""

    def __init__(self, pointer: int):
        self._pointer = pointer

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._pointer


@contextlib.contextmanager
def memory_of(op: str, args: Sequence[Any]) -> Iterator[Memory]:
    """Make the tensors' device, and on it PyTorch's stream, the current one of the kernels.

    Raises
    ------
    ValueError
        The tensors are on several devices, or on one that is neither a CPU nor CUDA's.
    """
    places = list(dict.fromkeys(arg.device for arg in args if isinstance(arg, torch.Tensor)))
    if len(places) > 1:
        raise ValueError(f"{op}: all tensors must be on one device, got {', '.join(map(str, places))}")
    (place,) = places
    if place.type == "cpu":
        yield Memory(op, place)
    elif place.type == "cuda":
        cuda = devices.cuda(place.index).xp.cuda
        stream = _Current(torch.cuda.current_stream(place).cuda_stream)
        with cuda.Device(place.index), cuda.Stream.from_external(stream):
            yield Memory(op, place)
    else:
        raise ValueError(f"{op}: tensors must be on the CPU or a CUDA device, got {place}")


# ---- shapes and results ------------------------------------------------------------------------------------


def shape_of(op: str, name: str, tensor: torch.Tensor, axes: str) -> tuple[int, ...]:
    """Return the shape of a tensor that has the dimensions of `axes`; ValueError of one that has others."""
    rank = axes.count(",") + 1
    if tensor.dim() != rank:
        raise ValueError(
            f"{op}: {name} must have {rank} dimensions ({axes}), got shape {tuple(tensor.shape)}"
        )
    return tuple(tensor.shape)


def last(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape (N, C, H, W) as (N, H, W, C)."""
    n, c, h, w = shape
    return n, h, w, c


def first(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape (N, H, W, C) as (N, C, H, W)."""
    n, h, w, c = shape
    return n, c, h, w


def empty_pixels(like: torch.Tensor, shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.Tensor:
    """Allocate a tensor (N, C, H, W) in channels_last memory, on the device and with the dtype of another."""
    how = {"dtype": dtype or like.dtype, "device": like.device, "memory_format": torch.channels_last}
    return torch.empty(tuple(shape), **how)


def empty_like(like: torch.Tensor, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Allocate a tensor of the same shape: in channels_last memory where it has 4 dimensions."""
    if like.dim() == 4:
        return empty_pixels(like, like.shape, dtype)
    return torch.empty(tuple(like.shape), dtype=dtype or like.dtype, device=like.device)


def master(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of parameters' gradients and of sums beside activations of a dtype."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def beside(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Return weights as the kernels read them beside activations x: float32 ones rounded where x is
    bfloat16.
    """
    return w.to(x.dtype) if (x.dtype, w.dtype) == (torch.bfloat16, torch.float32) else w


def bias_beside(x: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor | None:
    """Return a bias as the kernels read it beside activations x: bfloat16 ones as float32."""
    return b.float() if b is not None and (x.dtype, b.dtype) == (torch.bfloat16,) * 2 else b


# ---- options -----------------------------------------------------------------------------------------------


def padding(op: str, name: str, value: Any) -> list[int]:
    """Return a padding, as the operations take it, as [top, bottom, left, right]."""
    (top, bottom), (left, right) = checks.padding(op, name, value)
    return [top, bottom, left, right]


def integer(op: str, name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """Return an integer within bounds; what is being compiled is checked when it runs, by the operation."""
    return value if torch.compiler.is_compiling() else checks.integer(op, name, value, minimum, maximum)


def real(op: str, name: str, value: Any) -> float:
    """Return a number that is not negative; of what is being compiled as :func:`integer`."""
    return value if torch.compiler.is_compiling() else checks.real(op, name, value, 0)


def pair(op: str, name: str, value: Any) -> list[int]:
    """Return a number or a pair of them, at least 1, as [vertical, horizontal]."""
    return list(checks.pair(op, name, value, 1))


def sides(pad: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return [top, bottom, left, right] as the operations take it."""
    top, bottom, left, right = pad
    return (top, bottom), (left, right)


def torch_dtype(dtype: np.dtype) -> torch.dtype:
    """Return PyTorch's name of an integer dtype of NumPy."""
    return getattr(torch, dtype.name)
