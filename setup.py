"""Builds pyconvnet._host, _emulator and _cuda with CMake. Metadata lives in pyproject.toml.

``_host`` is built everywhere. ``_cuda`` is built where there is an nvcc, a GPU, or a GPU architecture asked
for; on a machine with none of them it is left out, and ``CMAKE_ARGS=-DPYCONVNET_CUDA=ON`` builds it there,
too (``OFF`` leaves it out anywhere, ``-DPYCONVNET_EMULATOR=OFF`` the emulator). Where it is built and no nvcc
is new enough, pip fetches one.

Environment: CMAKE_ARGS (extra CMake options, e.g. -DCMAKE_CUDA_ARCHITECTURES=90), CUDACXX (the nvcc to use),
PYCONVNET_JOBS (parallel compilations, default: one per core).
"""

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
MINIMUM_NVCC = (13, 0)
LEFT_OUT = (
    "pyconvnet: built without its CUDA module, for want of both nvcc and a GPU; to build that, too: "
    "CMAKE_ARGS=-DPYCONVNET_CUDA=ON pip install ."
)


class CMakeBuild(build_ext):
    """One CMake build makes all extensions; later calls find nothing left to do."""

    def build_extension(self, ext):
        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{self.plat_name}"
        drop_stale(build)
        configure = ["cmake", "-S", str(ROOT), "-B", str(build)]
        configure += [
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPYCONVNET_CUDA={'ON' if wants_cuda() else 'OFF'}",
            f"-DPYCONVNET_EMULATOR={'ON' if wants_emulator() else 'OFF'}",
            f"-DPYCONVNET_WHEEL_NVCC={'OFF' if usable_nvcc() else 'ON'}",
        ]
        if runs("ninja"):
            configure.append("-GNinja")
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = self.parallel or int(os.environ.get("PYCONVNET_JOBS", 0)) or os.cpu_count() or 2
        subprocess.run(configure, check=True)
        with Progress() as progress:
            progress.run(["cmake", "--build", str(build), "--parallel", str(jobs)])
            subprocess.run(["cmake", "--install", str(build), "--prefix", str(out.parent)], check=True)
            if ext.name == EXTENSIONS[-1] and not wants_cuda():
                progress.say(LEFT_OUT)


class Progress:
    """Tells how far the build is on the terminal, from which pip keeps all output of a build but with ``-v``.

    Only in the foreground of a terminal; everywhere else the lines go to the standard output alone.
    """

    def __enter__(self):
        self.tenth, self.start, self.terminal = 0, time.monotonic(), None
        with contextlib.suppress(OSError, AttributeError):  # no terminal; no such thing on this system
            terminal = os.open("/dev/tty", os.O_WRONLY | os.O_NOCTTY)
            if os.tcgetpgrp(terminal) == os.getpgrp():
                self.terminal = terminal
            else:
                os.close(terminal)
        return self

    def __exit__(self, *error):
        if self.terminal is not None:
            os.close(self.terminal)

    def say(self, text):
        """Write a line to the standard output, and to the terminal where that is another."""
        print(text, flush=True)
        if self.terminal is not None and not sys.stdout.isatty():
            os.write(self.terminal, f"\r  {text}\n".encode())

    def run(self, command):
        """Run a build, whose lines begin with ``[done/all]`` or ``[ 42%]``, and say each tenth of it."""
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as build:
            for line in build.stdout:
                print(line, end="", flush=True)
                if found := re.match(r"\[ *(?:(\d+)/(\d+)|(\d+)%)\]", line):
                    done = int(found[3]) / 100 if found[3] else int(found[1]) / int(found[2])
                    if int(10 * done) > self.tenth:
                        self.tenth = int(10 * done)
                        self.say(f"pyconvnet: {done:.0%} compiled, {time.monotonic() - self.start:.0f} s")
        if build.returncode:
            raise subprocess.CalledProcessError(build.returncode, command)


def drop_stale(build):
    """Remove a build whose compiler has gone: pip's isolated environments move."""
    cache = build / "CMakeCache.txt"
    keys = ("CMAKE_CUDA_COMPILER", "CMAKE_MAKE_PROGRAM", "PYCONVNET_NVCC", "CMAKE_COMMAND", "CUDA_CUDART")
    for line in cache.read_text().splitlines() if cache.exists() else ():
        key, _, path = line.partition("=")
        if key.partition(":")[0] in keys and path and not os.path.exists(path):
            shutil.rmtree(build)
            return


def find_nvcc():
    """The nvcc of this machine, of whatever version, or None."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None and os.path.exists("/usr/local/cuda/bin/nvcc"):
        nvcc = "/usr/local/cuda/bin/nvcc"
    return nvcc


def has_gpu():
    """Whether an NVIDIA driver is at work here."""
    try:
        return subprocess.run(["nvidia-smi", "-L"], capture_output=True).returncode == 0
    except OSError:
        return os.path.exists("/dev/nvidiactl")


def option(name):
    """What CMAKE_ARGS say of an option of CMakeLists.txt; None where they do not."""
    said = re.findall(rf"-D{name}(?::\w+)?=(\w+)", os.environ.get("CMAKE_ARGS", ""))
    return said[-1].upper() in ("ON", "1", "TRUE", "YES", "Y") if said else None


def wants_cuda():
    """Whether to build the CUDA module: as CMAKE_ARGS say, else where something can compile or run it."""
    if (said := option("PYCONVNET_CUDA")) is not None:
        return said
    asked = "CMAKE_CUDA_ARCHITECTURES" in os.environ.get("CMAKE_ARGS", "") or "CUDAARCHS" in os.environ
    return asked or find_nvcc() is not None or has_gpu()


def usable_nvcc():
    """The nvcc of this machine where it is new enough, else None."""
    nvcc = find_nvcc()
    if nvcc is None:
        return None
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", text)
    return nvcc if found and (int(found[1]), int(found[2])) >= MINIMUM_NVCC else None


def runs(tool):
    """Whether a tool is here and works.

    That of a wheel in the user's environment need not: it is a Python script, and pip builds in another
    environment, where the script finds nothing to import.
    """
    try:
        return subprocess.run([tool, "--version"], capture_output=True).returncode == 0
    except OSError:
        return False


def missing_tools():
    """Build tools this machine lacks, for pip to fetch as wheels."""
    need = []
    if wants_cuda() and not usable_nvcc():
        need.append("cuda-toolkit[nvcc,cudart,cccl]==13.0.*")
    if not runs("cmake"):
        need.append("cmake>=3.26")
    if not (runs("ninja") or runs("make")):
        need.append("ninja")
    return need


def wants_emulator():
    """Whether to build the emulator: unless CMAKE_ARGS say no."""
    return option("PYCONVNET_EMULATOR") is not False


EXTENSIONS = [
    "pyconvnet._host",
    *["pyconvnet._emulator"] * wants_emulator(),
    *["pyconvnet._cuda"] * wants_cuda(),
]

setup(
    ext_modules=[Extension(name, sources=[]) for name in EXTENSIONS],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=missing_tools(),
)
