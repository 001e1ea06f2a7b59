"""Fixtures: the executor's library, the stand-in for CUDA's runtime, and ``cuda:0`` on it."""

import os
from pathlib import Path

import pytest
from support import executor, ptx
from support.fakes import fake_ptx
from support.once import once

#: What the default run takes: the executor itself, compiled quickly, on small kernels and two of nvcc's.
QUICK = {"test_executor_faults.py", "test_executor_warps.py", "test_rows.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the default run from compiling the executor at -O3, and the module for it: minutes."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.path.name not in QUICK:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def library(request, tmp_path_factory):
    """The folder of the executor's library, built once a session; without ``--slow`` quickly."""
    if folder := os.environ.get("PYCONVNET_PTX"):
        return Path(folder) / "executor"
    if reason := executor.missing():
        pytest.skip(reason)
    quick = not request.config.getoption("--slow")
    return once(tmp_path_factory, "ptx_executor", lambda folder: executor.build(folder, quick))


@pytest.fixture(scope="session")
def stand_in(library, tmp_path_factory):
    """The folder of the runtime, for programs that need no module."""
    if folder := os.environ.get("PYCONVNET_PTX"):
        return Path(folder)
    if reason := ptx.missing():
        pytest.skip(reason)
    return once(tmp_path_factory, "ptx_stand_in", lambda folder: ptx.build(folder, library, None))


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
