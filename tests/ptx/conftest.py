"""Fixtures: the stand-in for CUDA's runtime, and ``cuda:0`` on it."""

import pytest
from support import ptx
from support.fakes import fake_ptx


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """The folder that holds the runtime and ``_cuda``."""
    return ptx.built(tmp_path_factory)


@pytest.fixture
def machine(runtime, monkeypatch):
    """``machine(seed=)`` makes a device whose kernels are PTX, and ``cuda:0`` of it; errors are forgotten."""
    library, ext = fake_ptx.load(runtime)
    library.reset()
    library.configure()
    yield lambda seed=None: fake_ptx.PtxMachine(library, ext, seed).install(monkeypatch)
    library.reset()
    library.configure()
