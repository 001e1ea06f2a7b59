"""Instructions of compiled kernels, counted by ``cuobjdump`` (and ``nvdisasm``, which it calls).

NVIDIA's wheels nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm hold both; they read what an older compiler
wrote. They need an environment of their own: their folder is that of the compiler's wheels.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

#: What is counted, and the opcodes that are it.
COUNTED = {
    "HGMMA": re.compile(r"[HQIB]GMMA\b"),
    "HMMA": re.compile(r"HMMA\b"),
    "FFMA": re.compile(r"FFMA2?\b"),
    "LDGSTS": re.compile(r"LDGSTS\b"),
    "LDSM": re.compile(r"LDSM\b"),
    "UTMALDG": re.compile(r"UTMALDG\b"),
    "UTMALDG.IM2COL": re.compile(r"UTMALDG\b.*\.IM2COL\b"),
    "UTMASTG": re.compile(r"UTMASTG\b"),
    "LDG.128": re.compile(r"LDG\b.*\.128\b"),
    "STG.128": re.compile(r"STG\b.*\.128\b"),
    "LDS.128": re.compile(r"LDS\b.*\.128\b"),
    "STS.128": re.compile(r"STS\b.*\.128\b"),
    "BAR": re.compile(r"BAR\b"),
    "LDL/STL": re.compile(r"(?:LDL|STL)\b"),
}
#: Kernel -> the instructions that it is written for.
NEEDED = {
    "wgmma_kernel": ("HGMMA", "UTMALDG.IM2COL", "UTMASTG"),
    "transposing_kernel": ("HGMMA", "UTMALDG.IM2COL", "UTMASTG"),
    "halo_kernel": ("HGMMA", "UTMALDG"),
}
PACKAGES = ("nvidia-cuda-cuobjdump==13.5.*", "nvidia-cuda-nvdisasm==13.5.*")

FUNCTION = re.compile(r"^\s*Function : (\S+)")
_OPCODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_INFO = re.compile(r"^\.nv\.info\.(\S+)")
_VALUE = re.compile(r"Value:\s*(0x\w+) (0x\w+) (0x\w+)")


def find(folder: Path | None = None) -> str | None:
    """cuobjdump: below `folder` (an environment), on PATH, in CUDA_HOME or its usual place."""
    candidates = []
    if folder is not None:
        candidates += sorted(
            str(p) for p in folder.glob("lib/python*/site-packages/nvidia/cu*/bin/cuobjdump")
        )
    candidates.append(shutil.which("cuobjdump"))
    if os.environ.get("CUDA_HOME"):
        candidates.append(str(Path(os.environ["CUDA_HOME"]) / "bin" / "cuobjdump"))
    candidates.append("/usr/local/cuda/bin/cuobjdump")
    return next((c for c in candidates if c and Path(c).is_file()), None)


def install(folder: Path) -> None:
    """An environment with the disassembler's wheels."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, *PACKAGES], check=True)


def dump(cuobjdump: str, option: str, file: Path, *more: str) -> str:
    """What ``cuobjdump OPTION FILE`` prints; RuntimeError where it fails."""
    # cuobjdump looks for nvdisasm on PATH.
    environment = {**os.environ, "PATH": f"{Path(cuobjdump).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    done = subprocess.run(
        [cuobjdump, option, *more, str(file)], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"{cuobjdump} {option} {file} failed: {done.stderr[-500:]}")
    return done.stdout


def count(text: str) -> dict[str, dict[str, int]]:
    """Kernel symbol -> instruction -> how often it is in the code, from ``cuobjdump -sass``."""
    found: dict[str, dict[str, int]] = {}
    row: dict[str, int] = {}
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            row = found.setdefault(match[1], dict.fromkeys(COUNTED, 0))
        elif match := _OPCODE.match(line):
            for name, pattern in COUNTED.items():
                if pattern.match(match[1]):
                    row[name] += 1
    return found


def lacking(kernel: str, counts: dict[str, int]) -> list[str]:
    """The instructions of :data:`NEEDED` that a kernel's code should have and has not."""
    return [name for name in NEEDED.get(kernel.partition("<")[0], ()) if not counts.get(name)]


def threads(text: str) -> dict[str, int]:
    """Kernel symbol -> threads of a block that it was compiled for, from ``cuobjdump -elf``."""
    found: dict[str, int] = {}
    symbol, attribute = None, ""
    for line in text.splitlines():
        if match := _INFO.match(line):
            symbol = match[1]
        elif line.startswith("."):
            symbol = None
        elif "Attribute:" in line:
            attribute = line.split("Attribute:")[1].strip()
        elif symbol and attribute in ("EIATTR_MAX_THREADS", "EIATTR_REQNTID") and (m := _VALUE.search(line)):
            found[symbol] = int(m[1], 16) * int(m[2], 16) * int(m[3], 16)
    return found


def block_sizes(cuobjdump: str, binary: Path, arch: str) -> dict[str, int]:
    """Block sizes of the kernels that a file holds for an architecture."""
    return threads(dump(cuobjdump, "-elf", binary, "-arch", f"sm_{arch}"))
