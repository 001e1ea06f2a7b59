"""A clock for the choice of kernels."""

import pytest
from support.fakes.clocks_for_tests import FakeTimer

from pyconvnet.ops import tuning


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """``clock(times)`` makes kernels be measured by it, into a cache of the test's own."""
    monkeypatch.setenv("PYCONVNET_TUNE", "1")
    monkeypatch.setenv("PYCONVNET_TUNE_CACHE", str(tmp_path / "tuning.json"))

    def start(times=None):
        timer = FakeTimer(times)
        tuning.configure(timer)
        return timer

    yield start
    tuning.configure()
