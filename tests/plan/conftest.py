"""CUDA devices that are not there, and a clock for the choice of kernels; no pictures, unless asked for."""

import pytest
from support.fakes.clocks_for_tests import clock  # noqa: F401
from support.fakes.fake_cuda import Machine
from support.quick import drawing, quick  # noqa: F401


@pytest.fixture
def machine(monkeypatch):
    """``machine(seed=, peer=)`` makes and installs one with two devices."""
    return lambda **options: Machine(2, **options).install(monkeypatch)
