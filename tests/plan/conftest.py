"""CUDA devices that are not there; runs leave no pictures, unless a test asks for ``drawing``."""

import pytest
from support.drawing import drawing, no_drawing  # noqa: F401
from support.fakes.fake_cuda import Machine


@pytest.fixture
def machine(monkeypatch):
    """``machine(seed=, peer=)`` makes and installs one with two devices."""
    return lambda **options: Machine(2, **options).install(monkeypatch)
