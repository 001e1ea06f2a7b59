"""What one of pytest-xdist's workers makes and the others use."""

import fcntl
import os
from pathlib import Path


def once(tmp_path_factory, name: str, make) -> Path:
    """Return a folder that ``make(folder)`` has filled, once a session, whichever test asks first."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, made = base / name, base / f"{name}.made"
    with open(base / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make(folder)
            made.touch()
    return folder
