"""Builds and runs the emulator's test programs; shared by test_emulator.py and compare_primitives.py."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FLAVOURS = ("plain", "asan", "race")


@dataclass(frozen=True)
class Mode:
    """How the emulator schedules: order of the threads, when asynchronous copies land, seed, OS threads."""

    order: str = "fwd"
    async_: str = "late"
    seed: int = 1
    workers: int = 0

    def environment(self) -> dict[str, str]:
        """The variables the emulator reads."""
        return {
            "PYCONVNET_EMULATOR_ORDER": self.order,
            "PYCONVNET_EMULATOR_ASYNC": self.async_,
            "PYCONVNET_EMULATOR_SEED": str(self.seed),
            "PYCONVNET_EMULATOR_WORKERS": str(self.workers),
        }

    def __str__(self) -> str:
        return f"{self.order}-{self.async_}-{self.seed}"


def tool(name: str) -> str | None:
    """Path of a program that came with this Python's packages, or is on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


def missing_tools(*more: str) -> list[str]:
    """What building needs and this machine lacks."""
    missing = [name for name in ("cmake", "g++", *more) if tool(name) is None]
    return missing if tool("ninja") or tool("make") else [*missing, "ninja"]


def build(flavour: str, folder: Path) -> Path:
    """Build the programs of one flavour; returns the folder that holds them."""
    cmake = tool("cmake")
    configure = [cmake, "-S", HERE, "-B", folder, "-DCMAKE_CXX_COMPILER=g++"]
    configure += [f"-DPYCONVNET_EMULATOR_FLAVOUR={flavour}"]
    if ninja := tool("ninja"):
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    for command in (configure, [cmake, "--build", folder, "--parallel", str(os.cpu_count() or 1)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            log = done.stdout[-4000:] + done.stderr[-4000:]
            raise RuntimeError(f"building {flavour} probes failed:\n{log}")
    return folder


def start(program: Path, *cases: str, mode: Mode | None = None) -> subprocess.CompletedProcess:
    """Run a program to its end, whatever that is."""
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=1", UBSAN_OPTIONS="print_stacktrace=0")
    environment |= (mode or Mode()).environment()
    return subprocess.run([program, *cases], env=environment, capture_output=True, text=True, timeout=120)


def run(program: Path, *cases: str, mode: Mode | None = None) -> dict[str, dict]:
    """What each case reported."""
    done = start(program, *cases, mode=mode)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        raise RuntimeError(
            f"{program.name} {' '.join(cases)} ({mode}) ended with {done.returncode}: {done.stderr[-3000:]}"
        ) from None
