"""Fixtures: the executor's library, the stand-in for CUDA's runtime, and ``cuda:0`` on it."""

import os
from pathlib import Path

import pytest
from support import executor, ptx
from support.fakes import fake_ptx
from support.once import once


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the default run from compiling the executor, which takes more than a minute."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The folder of the executor's library, built once a session."""
    if folder := os.environ.get("PYCONVNET_PTX"):
        return Path(folder) / "executor"
    if reason := executor.missing():
        pytest.skip(reason)
    return once(tmp_path_factory, "ptx_executor", executor.build)


@pytest.fixture(scope="session")
def runtime(library, tmp_path_factory):
    """The folder of the runtime and of ``_cuda``: of all families where ``PYCONVNET_PTX`` names it, else of
    the smallest one, built once a session.
    """
    if folder := os.environ.get("PYCONVNET_PTX"):
        return Path(folder)
    if reason := ptx.missing():
        pytest.skip(reason)
    return once(tmp_path_factory, "ptx_runtime", lambda folder: ptx.build(folder, library, ptx.SMALLEST))


@pytest.fixture
def machine(runtime, monkeypatch):
    """``machine(seed=)`` makes a device whose kernels are PTX, and ``cuda:0`` of it; errors are forgotten."""
    loaded, ext = fake_ptx.load(runtime)
    loaded.reset()
    loaded.configure()
    yield lambda seed=None: fake_ptx.PtxMachine(loaded, ext, seed).install(monkeypatch)
    loaded.reset()
    loaded.configure()
