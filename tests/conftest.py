"""Fixtures: tests of kernels run on every device present, and on the emulator under several schedules."""

import importlib.machinery
import os
import sys
from pathlib import Path

from support import ROOT

# Tests say themselves which kernels they measure; a test's result must not depend on an earlier one's clock.
os.environ["PYCONVNET_TUNE"] = "0"


def _prefer_installed():
    """`python -m pytest` puts the source tree first, where no compiled modules are after a plain install."""
    elsewhere = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    built_in_place = any((ROOT / "pyconvnet").glob("_emulator.*"))
    if not built_in_place and importlib.machinery.PathFinder.find_spec("pyconvnet", elsewhere):
        sys.path[:] = elsewhere


_prefer_installed()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from support.fakes.fake_ptx import install_from_environment  # noqa: E402
from support.kernels import kernel_record  # noqa: E402
from support.kernels.kernel_record import pytest_sessionfinish, pytest_testnodedown  # noqa: E402, F401
from support.kernels.ptx_record import Record  # noqa: E402

from pyconvnet.common import devices  # noqa: E402

# (order of the threads, seed, when asynchronous copies land)
SCHEDULES = {"fwd": ("fwd", 1, "late"), "rev": ("rev", 1, "eager"), "mix": ("mix", 7, "rand")}
# The same of the executor of PTX, where cuda:0 is one: order of the warps, when copies land.
PTX_SCHEDULES = {"fwd": ("forward", "late"), "rev": ("reverse", "early"), "mix": ("random", "random")}


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")
    parser.addoption(
        "--every-row", action="store_true", help="where cuda:0 runs PTX (tests/ptx): fail if a kernel did not"
    )


PTX = install_from_environment()


def _cuda():
    try:
        devices.cuda(0)
        found = [
            name for name, reason in devices.available_devices() if name.startswith("cuda") and not reason
        ]
        return len(found), None
    except devices.DeviceUnavailableError as error:
        return 0, str(error)


CUDA_COUNT, CUDA_REASON = _cuda()
SANITIZED = devices.emulator().ext.flavour() not in ("plain", "count")
KERNEL_DEVICES = ["emulator", pytest.param("cuda:0", marks=pytest.mark.gpu)]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config):
    """Run folders of tests on as many of pytest-xdist's workers as there are cores; ``-n0`` does not.

    Nor does a file or a test alone, for which the start would cost more.
    """
    options = config.option
    folders = all(Path(arg).is_dir() for arg in config.args)
    left_open = getattr(options, "numprocesses", 0) is None and not hasattr(config, "workerinput")
    if left_open and folders and not (options.collectonly or options.usepdb):
        options.numprocesses = min(8, config.hook.pytest_xdist_auto_num_workers(config=config))
        options.dist = "worksteal"
        # As many threads as cores between them.
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config):
    required = os.environ.get("PYCONVNET_REQUIRE", "")
    if "cuda" in required and CUDA_REASON:
        raise pytest.UsageError(f"PYCONVNET_REQUIRE={required} is set but {CUDA_REASON}")
    kernel_record.start()
    if PTX is not None:
        config.pluginmanager.register(Record(PTX))


def pytest_collection_modifyitems(config, items):
    for item in items:
        gpu = item.get_closest_marker("gpu")
        if gpu is not None and gpu.kwargs.get("n", 1) > CUDA_COUNT:
            needed = gpu.kwargs.get("n", 1)
            reason = CUDA_REASON or f"needs {needed} CUDA devices, have {CUDA_COUNT}"
            item.add_marker(pytest.mark.skip(reason=reason))
        kernels = item.get_closest_marker("kernels")
        again = SANITIZED and kernels is not None and kernels.kwargs.get("again", False)
        if (again or item.get_closest_marker("slow") is not None) and not config.getoption("--slow"):
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(params=KERNEL_DEVICES)
def device(request):
    """A device that runs the compiled kernels: the emulator and, where there is one, the GPU."""
    return devices.get_device(request.param)


@pytest.fixture(params=["cpu", *KERNEL_DEVICES])
def any_device(request):
    """Every device, `cpu` included."""
    return devices.get_device(request.param)


def _schedules():
    """Every schedule; of sanitized builds, whose checks hold for any order, one, the others with --slow."""
    if not SANITIZED:
        return list(SCHEDULES)
    return ["mix", *(pytest.param(name, marks=pytest.mark.slow) for name in SCHEDULES if name != "mix")]


@pytest.fixture(params=_schedules())
def schedule(request):
    """Runs the test under one of the emulator's schedules; a device's own order is not ours to choose."""
    ext = devices.emulator().ext
    order, seed, async_ = SCHEDULES[request.param]
    ext.configure(order, seed, async_)
    if PTX is not None:
        PTX.runtime.configure(*PTX_SCHEDULES[request.param], seed=seed)
    yield request.param
    ext.configure()
    if PTX is not None:
        PTX.runtime.configure()


@pytest.fixture
def rng():
    """Random numbers, the same in every run."""
    return np.random.default_rng(20120930)


@pytest.fixture
def run_on():
    """``with run_on(device):`` makes operations on NumPy arrays run on that device."""
    import contextlib

    from pyconvnet import ops

    return lambda dev: contextlib.nullcontext() if dev.kind == "cuda" else ops.on(dev)
