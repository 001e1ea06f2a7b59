"""CUDA devices that are not there."""

import pytest
from support.fakes.fake_cuda import Machine


@pytest.fixture
def machine(monkeypatch):
    """``machine(seed=, peer=)`` makes and installs one with two devices."""
    return lambda **options: Machine(2, **options).install(monkeypatch)
