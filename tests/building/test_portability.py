"""The emulator's module on a processor older than the one it was compiled for: refused, never run."""

import json
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

import pyconvnet
from pyconvnet.common import devices

QEMU = shutil.which("qemu-x86_64")
MODULE = Path(devices.emulator().ext.__file__)
MARCH = getattr(devices.emulator().ext, "march", None)
#: Of an ELF file, "x86 ISA needed": the property's number and its size, before a mask of levels.
NEEDED = struct.pack("<II", 0xC0008002, 4)
LEVELS = {"x86-64-v2": 2, "x86-64-v3": 4, "x86-64-v4": 8}

TRY = """
from pyconvnet.common import devices
print(dict(devices.available_devices())["emulator"] or "runs")
try:
    device = devices.emulator()
except devices.DeviceUnavailableError as error:
    print("refused:", error)
else:
    import numpy as np
    from pyconvnet import ops
    with ops.on("emulator"):
        print(ops.relu(np.float32([[-1, 2] * 100])).sum())
"""


def attempt(*before: str, **environment: str) -> list[str]:
    """What is printed by a process that asks for the emulator, started by the words ``before``."""
    path = os.pathsep.join([str(Path(pyconvnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*before, sys.executable, "-P", "-c", TRY],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout.splitlines()


def assert_refused(lines: list[str]) -> None:
    reason, refused = lines
    assert refused == f"refused: {reason}"
    assert "pyconvnet._emulator was compiled for a newer processor than this machine's" in reason
    assert "-DPYCONVNET_EMULATOR_MARCH=x86-64 pip install ." in reason


def mask() -> int:
    """The levels that the module's file says it needs."""
    _, _, after = MODULE.read_bytes().partition(NEEDED)
    assert NEEDED not in after
    return struct.unpack_from("<I", after)[0] if after else 0


needs_levels = pytest.mark.skipif(
    platform.machine() != "x86_64" or sys.platform != "linux", reason="levels are those of x86-64 on Linux"
)


@needs_levels
def test_the_file_says_what_its_kernels_were_compiled_for():
    assert MARCH in ("", "x86-64", *LEVELS)
    assert mask() == LEVELS.get(MARCH, 0)


@needs_levels
def test_a_module_for_a_processor_to_come_is_refused(tmp_path):
    """By a copy that asks for a level beyond all there are; no instruction of it may run."""
    if MARCH not in LEVELS:
        pytest.skip("the emulator was built for any processor")
    assert attempt() == ["runs", "200.0"]
    before, _, after = MODULE.read_bytes().partition(NEEDED)
    copy = tmp_path / MODULE.name
    copy.write_bytes(before + NEEDED + struct.pack("<I", 1 << 20) + after[4:])
    assert_refused(attempt(PYCONVNET_EMULATOR=str(copy)))


@needs_levels
@pytest.mark.slow
@pytest.mark.skipif(QEMU is None, reason="no qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.parametrize("processor", ["Nehalem", "max"])
def test_on_an_emulated_processor(processor):
    """Nehalem has SSE4.2 and no AVX: level 2. "max" has all that QEMU knows."""
    lines = attempt(QEMU, "-cpu", processor)
    if processor == "Nehalem" and MARCH in ("x86-64-v3", "x86-64-v4"):
        assert_refused(lines)
    elif MARCH != "x86-64-v4":
        assert lines == ["runs", "200.0"]


@needs_levels
@pytest.mark.slow
@pytest.mark.parametrize(
    ("march", "said"), [("haswell", "must be x86-64, .* got 'haswell'"), ("x86-64", None)]
)
def test_only_levels_can_be_asked_for(tmp_path, march, said):
    python = f"-DPython_EXECUTABLE={sys.executable}"
    options = ["-DPYCONVNET_CUDA=OFF", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", python]
    command = ["cmake", "-S", ROOT, "-B", tmp_path, *options, f"-DPYCONVNET_EMULATOR_MARCH={march}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if said:
        assert done.returncode
        assert re.search(said, " ".join(done.stderr.split()))
        return
    assert done.returncode == 0, done.stderr
    commands = (tmp_path / "compile_commands.json").read_text()
    kernels = [entry for entry in json.loads(commands) if entry["file"].endswith(".cu")]
    assert kernels
    assert all("-march=x86-64 " in entry["command"] for entry in kernels)
    assert "-march=x86-64-v" not in commands
