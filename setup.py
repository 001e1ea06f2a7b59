"""Builds pyconvnet._cuda and pyconvnet._emulator with CMake. Metadata lives in pyproject.toml.

Environment: CMAKE_ARGS (extra CMake options, e.g. -DCMAKE_CUDA_ARCHITECTURES=90), CUDACXX (the nvcc to use),
PYCONVNET_JOBS (parallel compilations, default: one per core).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
MINIMUM_NVCC = (13, 0)


class CMakeBuild(build_ext):
    """One CMake build makes both extensions; the second call finds nothing left to do."""

    def build_extension(self, ext):
        out = Path(self.get_ext_fullpath(ext.name)).resolve().parent
        build = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}-{self.plat_name}"
        drop_stale(build)
        configure = ["cmake", "-S", str(ROOT), "-B", str(build)]
        configure += [
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-DPYCONVNET_WHEEL_NVCC={'OFF' if usable_nvcc() else 'ON'}",
        ]
        if shutil.which("ninja"):
            configure.append("-GNinja")
        configure += shlex.split(os.environ.get("CMAKE_ARGS", ""))
        jobs = self.parallel or int(os.environ.get("PYCONVNET_JOBS", 0)) or os.cpu_count() or 2
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build), "--parallel", str(jobs)], check=True)
        subprocess.run(["cmake", "--install", str(build), "--prefix", str(out.parent)], check=True)


def drop_stale(build):
    """Remove a build whose compiler has gone: pip's isolated environments move."""
    cache = build / "CMakeCache.txt"
    keys = ("CMAKE_CUDA_COMPILER", "CMAKE_MAKE_PROGRAM", "PYCONVNET_NVCC", "CMAKE_COMMAND", "CUDA_CUDART")
    for line in cache.read_text().splitlines() if cache.exists() else ():
        key, _, path = line.partition("=")
        if key.partition(":")[0] in keys and path and not os.path.exists(path):
            shutil.rmtree(build)
            return


def usable_nvcc():
    """The nvcc of this machine where it is new enough, else None."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None and os.path.exists("/usr/local/cuda/bin/nvcc"):
        nvcc = "/usr/local/cuda/bin/nvcc"
    if nvcc is None:
        return None
    try:
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"release (\d+)\.(\d+)", text)
    return nvcc if found and (int(found[1]), int(found[2])) >= MINIMUM_NVCC else None


def missing_tools():
    """Build tools this machine lacks, for pip to fetch as wheels."""
    need = []
    if not usable_nvcc():
        need.append("cuda-toolkit[nvcc,cudart,cccl]==13.0.*")
    if not shutil.which("cmake"):
        need.append("cmake>=3.26")
    if not (shutil.which("ninja") or shutil.which("make")):
        need.append("ninja")
    return need


setup(
    ext_modules=[Extension("pyconvnet._emulator", sources=[]), Extension("pyconvnet._cuda", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
    setup_requires=missing_tools(),
)
