"""Builds what tests/ptx run: the stand-in for CUDA's runtime, ``_cuda`` on it, the primitives' program."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support import ROOT
from support.emulator import probes

RUNTIME = ROOT / "tests" / "ptx" / "runtime"
PRIMITIVES = probes.HERE / "primitives.cu"
ARCHITECTURE = "compute_90a"
SMALLEST = "optim"


def nvcc() -> str | None:
    """Path of the compiler, where there is one."""
    beside = Path("/usr/local/cuda/bin/nvcc")
    found = os.environ.get("CUDACXX") or probes.tool("nvcc") or (str(beside) if beside.exists() else None)
    return found or shutil.which("nvcc", path=str(Path(sys.prefix) / "bin")) or of_wheels()


def of_wheels() -> str | None:
    """The compiler of NVIDIA's wheels, where they are installed."""
    with contextlib.suppress(ModuleNotFoundError):
        if spec := importlib.util.find_spec("nvidia.cu13"):
            return shutil.which("nvcc", path=str(Path(next(iter(spec.submodule_search_locations))) / "bin"))
    return None


def libraries() -> list[str]:
    """Options that say where the runtime's libraries are, which the wheels' nvcc does not know."""
    return ["-L", str(Path(nvcc()).parents[1] / "lib")] if nvcc() and nvcc() == of_wheels() else []


def _runtime() -> list[str]:
    """Options of a program with the shared runtime; the wheels have it under no name that -l finds."""
    where = libraries()
    return ["-cudart", "none", *where, "-l:libcudart.so.13"] if where else ["-cudart", "shared"]


def missing() -> str | None:
    """Why nothing can be built here; None where it can."""
    tools = probes.missing_tools() + ([] if nvcc() else ["nvcc"])
    if tools:
        return f"running PTX needs {', '.join(tools)}"
    done = subprocess.run([nvcc(), "--version"], capture_output=True, text=True)
    release = re.search(r"release (\d+)", done.stdout)
    return None if release and int(release[1]) >= 13 else "running PTX needs nvcc 13.0 or newer"


def _run(*command: object, **options: object) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    return done.stdout


def build(folder: Path, library: Path, families: str | None) -> None:
    """Build the runtime on the executor's library, and the module with the PTX of families, ``;`` between.

    None: no module, and the runtime without optimisation.
    """
    cmake = probes.tool("cmake")
    configure = [cmake, "-S", RUNTIME, "-B", folder]
    if families is None:
        configure += ["-DPTX_RUNTIME_ALONE=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O0"]
    else:
        configure += [f"-DPYCONVNET_FAMILIES={families}"]
    configure += [f"-DPTX_LIBRARY={library / 'libptx.a'}"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}"]
    if nvcc() != of_wheels():  # which CMake's files find by themselves
        configure += [f"-DCMAKE_CUDA_COMPILER={nvcc()}"]
    if ninja := probes.tool("ninja"):
        configure += ["-GNinja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
    _run(*configure)
    _run(cmake, "--build", folder, "--parallel", str(os.cpu_count() or 1))


def compile_program(
    source: Path, include: Path, program: Path, *options: str, architecture: str = ARCHITECTURE
) -> Path:
    """Compile a program, host and PTX, with the shared runtime."""
    program.parent.mkdir(parents=True, exist_ok=True)
    code = ["-gencode", f"arch={architecture},code={architecture}", "--compress-mode=none"]
    _run(nvcc(), "-std=c++17", "-I", include, *_runtime(), *code, *options, source, "-o", program)
    return program


def compile_text(source: Path, include: Path, text: Path, *options: str) -> Path:
    """Compile primitives.cu's PTX alone."""
    _run(nvcc(), "-std=c++17", "-I", include, f"-arch={ARCHITECTURE}", "-ptx", *options, source, "-o", text)
    return text


def text_of(program: Path) -> str:
    """The PTX of the kernels in a program, which :func:`compile_program` left uncompressed."""
    texts = re.findall(rb"\.version [^\0]*", program.read_bytes())
    (text,) = [text.decode() for text in texts if b".entry" in text]
    return text


def run_program(
    program: Path, runtime: Path, *cases: str, text: Path | None = None, **environment: str
) -> dict[str, dict]:
    """What each case of a program reported on the stand-in runtime, each in a process of its own.

    `text` takes the place of the program's own PTX. A process that dies reports its last words.
    """
    environment = dict(os.environ, LD_LIBRARY_PATH=str(runtime), **environment)
    if text is not None:
        environment["PYCONVNET_PTX_TEXT"] = str(text)
    results = {}
    for case in cases:
        done = subprocess.run([program, case], env=environment, capture_output=True, text=True, timeout=300)
        try:
            results |= json.loads(done.stdout)
        except ValueError:
            results[case] = {"error": f"ended with {done.returncode}", "wrong": 0, "bits": []}
        results[case]["words"] = done.stderr.strip()[-500:]
    return results
