"""Compare every primitive on the device with the emulator, bit by bit, on small integers.

Usage: python tests/support/emulator/compare_primitives.py [--device PROGRAM] [--build FOLDER] [--json FILE]

Without ``--device`` the device program is built with nvcc for sm_90a; with ``--runtime FOLDER`` it runs on
the stand-in for CUDA that was built there (tests/ptx/runtime). Exits with 1 where the two differ or one of
them is wrong, with 2 where the device program cannot run here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where `support` is, also for this script alone
from support import ptx
from support.emulator import probes

# CUDA's words where the program finds no driver, no card, or one that is not of compute capability 9.0.
CANNOT_RUN = ("driver version is insufficient", "no CUDA-capable device", "no kernel image is available")


def build_device(folder: Path) -> Path:
    """primitives.cu compiled by nvcc."""
    program = folder / "primitives_device"
    folder.mkdir(parents=True, exist_ok=True)
    command = [ptx.nvcc() or "nvcc", "-std=c++17", "-I", probes.ROOT / "kernels", *ptx.libraries()]
    command += ["-gencode", "arch=compute_90a,code=sm_90a"]
    subprocess.run([*command, probes.HERE / "primitives.cu", "-o", program], check=True)
    return program


def run_device(program: Path, names: Iterable[str]) -> dict[str, dict]:
    """What each primitive reported, in a process of its own: a fault ends the CUDA context of its process."""
    device = {}
    for name in names:
        try:
            device |= probes.run(program.resolve(), name)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            device[name] = {"error": str(error)[:500], "wrong": 0, "bits": []}
    return device


def compare(device: dict[str, dict], emulator: dict[str, dict]) -> list[dict]:
    """One row a primitive: what is wrong on each side, and how many results differ between them."""
    rows = []
    for name in sorted(device.keys() | emulator.keys()):
        d, e = device.get(name), emulator.get(name)
        row = {"primitive": name, "results": len(e["bits"]) if e else 0}
        for side, case in (("device", d), ("emulator", e)):
            if case is None:
                row[side] = "did not run"
            else:
                row[side] = case["error"] or (f"{case['wrong']} wrong" if case["wrong"] else "ok")
        if d is None or e is None or len(d["bits"]) != len(e["bits"]):
            row["differing"] = None
        else:
            row["differing"] = sum(a != b for a, b in zip(d["bits"], e["bits"], strict=True))
        row["equal"] = row["device"] == row["emulator"] == "ok" and row["differing"] == 0
        rows.append(row)
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", type=Path, help="the device program, already built")
    parser.add_argument("--runtime", type=Path, help="folder of a stand-in runtime to run on")
    parser.add_argument("--build", type=Path, help="folder for the programs (default: a temporary one)")
    parser.add_argument("--json", type=Path, help="write the table to this file")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.build or Path(temporary)
        emulator = probes.run(probes.build("plain", folder / "emulator") / "primitives")
        if options.runtime:
            program = ptx.compile_program(ptx.PRIMITIVES, probes.ROOT / "kernels", folder / "primitives_ptx")
            device = ptx.run_program(program.resolve(), options.runtime, *emulator)
        else:
            device = run_device(options.device or build_device(folder), emulator)
    rows = compare(device, emulator)
    for row in rows:
        verdict = "equal" if row["equal"] else "DIFFERENT"
        print(f"{row['primitive']:14} {row['results']:6} results  {verdict:10}", end="")
        print(
            ""
            if row["equal"]
            else f" device: {row['device']}; emulator: {row['emulator']}; {row['differing']} differ"
        )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    if any(words in row["device"] for row in rows for words in CANNOT_RUN):
        print("no device to compare with", file=sys.stderr)
        return 2
    return 0 if all(row["equal"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
