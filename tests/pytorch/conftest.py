"""Where tensors are: on the CPU, for `cpu` and for the emulator, on a card, and on the stand-in for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import pytest
from support.quick import quick  # noqa: F401

from pyconvnet import ops


class Place(NamedTuple):
    """A device's tensors."""

    name: str
    tensor: Callable[[Any], Any]  #: a copy of a host tensor there
    host: Callable[[Any], Any]  #: a copy on the host
    machine: Any = None  #: the stand-in's

    def on(self) -> Any:
        """Make the kernels of this place those that run."""
        return ops.on("emulator") if self.name == "emulator" else nullcontext()


@pytest.fixture(params=["cpu", "emulator", "stand-in", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: Any, monkeypatch: Any) -> Iterator[Place]:
    if request.param in ("cpu", "emulator"):
        made = Place(request.param, lambda t: t.clone(), lambda t: t.detach().clone())
    elif request.param == "cuda":
        import torch

        if not torch.cuda.is_available():
            pytest.skip(f"PyTorch {torch.__version__} has no CUDA device")
        made = Place("cuda", lambda t: t.to("cuda:0"), lambda t: t.detach().cpu())
    else:
        from support.fakes import fake_torch

        machine = fake_torch.TorchMachine(fake_torch.machine(), monkeypatch)
        made = Place("stand-in", machine.tensor, fake_torch.on_host, machine)
    with made.on():
        yield made
