"""Registers, shared memory and spills of every kernel, as ptxas reports them.

    python benchmarks/kernel_report.py [--arch 75 80 90] [--family conv] [--json FILE]

Compiles every ``kernels/*/*.cu`` with ``nvcc -Xptxas -v`` for each architecture (files below a ``hopper``
folder for 90a only) and prints a line per kernel instance. Exit status 1 if anything does not compile, ptxas
or nvcc warns, or a kernel spills registers; only those named ``*_generic``, which AlexNet does not run, may.

Columns: registers a thread, static shared memory in bytes, bytes spilled (stores + loads).
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels"

ENTRY = re.compile(r"Compiling entry function '([^']+)' for '(sm_\w+)'")
SPILL = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")
WARNING = re.compile(r"warning|error", re.IGNORECASE)


def find_nvcc() -> str:
    """nvcc on PATH, in CUDA_HOME or its usual place, or from NVIDIA's wheels in this environment."""
    candidates = [shutil.which("nvcc")]
    if os.environ.get("CUDA_HOME"):
        candidates.append(str(Path(os.environ["CUDA_HOME"]) / "bin" / "nvcc"))
    candidates.append("/usr/local/cuda/bin/nvcc")
    candidates += [
        str(path) for folder in sys.path for path in Path(folder or ".").glob("nvidia/cu13/bin/nvcc")
    ]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return candidate
    sys.exit("kernel_report: no nvcc on PATH, in CUDA_HOME or among the Python packages")


def demangle(names: list[str]) -> dict[str, str]:
    """Readable names, where c++filt is there."""
    tool = shutil.which("c++filt")
    if tool is None or not names:
        return {name: name for name in names}
    lines = subprocess.run(
        [tool], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return dict(zip(names, lines, strict=True))


def short(name: str) -> str:
    """A demangled kernel's name and template arguments without namespaces and parameters."""
    name = re.sub(r"^void ", "", name.replace("(anonymous namespace)", "anon"))
    name = re.sub(r"(\w+::)+", "", name)
    depth = 0
    for position, letter in enumerate(name):
        depth += (letter == "<") - (letter == ">")
        if letter == "(" and depth == 0:
            return name[:position]
    return name


def compile_file(nvcc: str, path: Path, arch: str) -> tuple[Path, str, str, int]:
    """What nvcc prints for one file and one architecture."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc, "-std=c++17", f"-I{KERNELS}", "-gencode", f"arch=compute_{arch},code=sm_{arch}",
            "-Xptxas", "-v", "-c", str(path), "-o", str(Path(folder) / "kernel.o"),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
    return path, arch, done.stdout + done.stderr, done.returncode


def parse(path: Path, arch: str, text: str) -> tuple[list[dict], list[str]]:
    """The kernels of a compilation, and the lines that should not be there."""
    rows, complaints, row = [], [], None
    for line in text.splitlines():
        if match := ENTRY.search(line):
            row = {
                "stem": path.stem,
                "family": path.relative_to(KERNELS).parts[0],
                "arch": arch,
                "symbol": match[1],
            }
            rows.append(row)
        elif row is not None and (match := SPILL.search(line)):
            row["spill"] = int(match[2]) + int(match[3])
        elif row is not None and (match := USED.search(line)):
            row["registers"] = int(match[1])
            row["shared"] = int(found[1]) if (found := SHARED.search(line)) else 0
        elif WARNING.search(line) and "0 errors" not in line:
            complaints.append(line.strip())
    return rows, complaints


def default_architectures() -> list[str]:
    """The architectures that a build without a GPU covers, from cmake/Architectures.cmake."""
    text = (ROOT / "cmake" / "Architectures.cmake").read_text()
    return sorted(set(re.findall(r"\b(\d{2,3})-(?:real|virtual)\b", text)), key=int)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arch", nargs="+", default=default_architectures(), help="e.g. 75 80 90")
    parser.add_argument("--family", nargs="+", help="only these folders of kernels/")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()

    nvcc = find_nvcc()
    files = [
        path
        for path in sorted(KERNELS.rglob("*.cu"))
        if not arguments.family or path.relative_to(KERNELS).parts[0] in arguments.family
    ]
    jobs = [(path, arch) for path in files if "hopper" not in path.parts for arch in arguments.arch]
    jobs += [(path, "90a") for path in files if "hopper" in path.parts]
    rows, failures = [], []
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for path, arch, text, status in pool.map(lambda job: compile_file(nvcc, *job), jobs):
            found, complaints = parse(path, arch, text)
            rows += found
            failures += [f"{path.name} sm_{arch}: {line}" for line in complaints]
            if status != 0 and not complaints:
                failures.append(f"{path.name} sm_{arch}: nvcc failed with status {status}: {text[-500:]}")
    names = demangle(sorted({row["symbol"] for row in rows}))
    for row in rows:
        row["kernel"] = short(names[row["symbol"]])
        if row.get("spill") and not row["stem"].endswith("_generic"):
            failures.append(f"{row['stem']} sm_{row['arch']}: {row['kernel']} spills {row['spill']} bytes")

    width = max((len(row["kernel"]) for row in rows), default=6)
    print(f"{'stem':40} {'arch':6} {'kernel':{width}} registers shared spilled")
    for row in sorted(rows, key=lambda row: (row["family"], row["stem"], row["kernel"], row["arch"])):
        print(
            f"{row['stem']:40} sm_{row['arch']:3} {row['kernel']:{width}} "
            f"{row.get('registers', 0):9} {row.get('shared', 0):6} {row.get('spill', 0):7}"
        )
    spilling = sum(1 for row in rows if row.get("spill"))
    print(
        f"{len(rows)} kernels of {len(files)} files for sm_{', sm_'.join(arguments.arch)}; {spilling} spill"
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
