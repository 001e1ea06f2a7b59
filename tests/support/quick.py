"""What takes longer than most runs to train and few tests look at: pictures, and waiting for the disk."""

import pytest


def waited(checkpoints):
    """Wait for the checkpoint under way: those asked for are then all written, whatever the disk's speed."""
    checkpoints.wait()
    return False


@pytest.fixture
def drawing():
    """Asked for by a test that wants a run's pictures."""


@pytest.fixture(autouse=True)
def quick(request):
    """Train without pictures, unless the test asks for ``drawing``; leave the disk to the system, which a
    process that is killed does not disturb; write every checkpoint that is due.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda descriptor: None)
        patch.setattr("pyconvnet.training.checkpoints.Checkpoints.busy", waited)
        if "drawing" not in request.fixturenames:
            patch.setattr("pyconvnet.training.loop.Trainer._draw", lambda self: None)
            patch.setattr("pyconvnet.cli.main._pictures", lambda run, data: [])
        yield
