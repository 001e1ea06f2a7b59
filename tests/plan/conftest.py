"""CUDA devices that are not there, and a clock for the choice of kernels; no pictures, unless asked for."""

import pytest
from support.drawing import drawing, no_drawing  # noqa: F401
from support.fakes.clocks_for_tests import clock  # noqa: F401
from support.fakes.fake_cuda import Machine


@pytest.fixture
def machine(monkeypatch):
    """``machine(seed=, peer=)`` makes and installs one with two devices."""
    return lambda **options: Machine(2, **options).install(monkeypatch)
