"""Which kernels the tests of this session launched successfully, on the emulator or a GPU.

conftest.py takes over the hooks: at the end of a run of the whole suite every row of every table must have
been launched, by whichever of pytest-xdist's workers.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import pytest

from pyconvnet.common import devices

LAUNCHED: set[str] = set()


def tables(ext) -> dict[str, list[str]]:
    """Operation of the compiled module -> the names in its table of kernels."""
    suffix = "_table"
    return {name.removesuffix(suffix): getattr(ext, name)() for name in dir(ext) if name.endswith(suffix)}


def _recording(function):
    @functools.wraps(function)
    def launch(*args, **kwargs):
        result = function(*args, **kwargs)
        LAUNCHED.add(args[0] if args else kwargs["kernel"])
        return result

    return launch


def start() -> None:
    """Wrap the launching functions of the compiled modules that work here; called once, by conftest."""
    for find in (devices.emulator, devices.cuda):
        try:
            ext = find().ext
        except devices.DeviceUnavailableError:
            continue
        for op in tables(ext):
            setattr(ext, op, _recording(getattr(ext, op)))


def whole(config) -> bool:
    """Whether the command line asks for all tests, or all that sanitized builds run, not some."""
    options = config.option
    everything = {config.rootpath, config.rootpath / "tests"}
    places = {Path(os.path.normpath(config.invocation_params.dir / arg)) for arg in config.args}
    marked = options.markexpr not in ("", "kernels")
    some = (options.keyword, marked, options.collectonly, options.deselect, options.ignore)
    return places <= everything and not any(some) and not getattr(options, "lf", False)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    """Collect what one of pytest-xdist's workers launched."""
    LAUNCHED.update(getattr(node, "workeroutput", {}).get("launched", ()))


def pytest_sessionfinish(session, exitstatus):
    """Hand the record to pytest-xdist's controller, or fail a whole run that left a row out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["launched"] = sorted(LAUNCHED)
    elif exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) and whole(session.config):
        rows = {name for names in tables(devices.emulator().ext).values() for name in names}
        if missing := sorted(rows - LAUNCHED):
            session.shouldfail = f"{len(missing)} kernels that no test launched: {', '.join(missing)}"
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
