"""Pictures are drawn by the tests that look at them alone: they take longer than most runs to train."""

import pytest


@pytest.fixture
def drawing():
    """Asked for by a test that wants a run's pictures."""


@pytest.fixture(autouse=True)
def no_drawing(request):
    """Train without pictures, unless the test asks for ``drawing``."""
    with pytest.MonkeyPatch.context() as patch:
        if "drawing" not in request.fixturenames:
            patch.setattr("pyconvnet.training.loop.Trainer._draw", lambda self: None)
            patch.setattr("pyconvnet.cli.main._pictures", lambda run, data: [])
        yield
