"""Runs every benchmark of this folder, each in a process of its own, and collects their results.

    python benchmarks/run.py --json results.json                    all families, the default device
    python benchmarks/run.py conv pool --device cuda:0 --batch 256  some families
    python benchmarks/run.py --tiny --check --device emulator       every kernel once, compared, nothing timed

The other options are the benchmarks' own; ``--deadline`` and ``--compile-seconds`` are for all together.
JSON: ``{"schema": 2, "documents": [...]}``, a document per family as :mod:`harness` describes it, with a
``"failure"`` where the family ended badly. The exit status is 1 when one did.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness
import table

HERE = Path(__file__).resolve().parent


# The order of importance, and shares of a time limit; what is not named comes after, with a share of 1.
SHARES = {"conv": 6, "linear": 3, "block": 2, "space_to_depth": 1, "alexnet": 3, "norm": 2}


def families() -> list[str]:
    """Every family with a benchmark, the most important first."""
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    return sorted(names, key=lambda name: list(SHARES).index(name) if name in SHARES else len(SHARES))


def usual() -> list[str]:
    """Those that run unasked: not ``graph``, which makes six plans and takes as long as all the others."""
    return [family for family in families() if family != "graph"]


def run_family(family: str, options: list[str], timeout: float) -> dict[str, Any]:
    """One benchmark in its own process: its JSON document, with ``"failure"`` where it ended badly.

    When this process is told to end, the benchmark is too, and what it had written is kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(HERE / f"bench_{family}.py"), *options, "--json", str(result)]
        process = subprocess.Popen(command)
        try:
            status: Any = process.wait(timeout)
        except subprocess.TimeoutExpired:
            status = f"stopped after {timeout:.0f} s"
        except Told:
            status = "stopped from outside"
        finally:
            process.kill()
            process.wait()
        document = json.loads(result.read_text()) if result.exists() else {"family": family, "rows": []}
    if status != 0:
        document["failure"] = f"exit status {status}" if isinstance(status, int) else status
    return document


class Told(BaseException):
    """SIGTERM."""


def _told(*_: Any) -> None:
    raise Told


def main() -> None:
    signal.signal(signal.SIGTERM, _told)
    parser = harness.parser("Run the benchmarks and collect their results")
    parser.add_argument("families", nargs="*", help=f"default: {' '.join(usual())}; and graph")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per family (default 600)")
    args = parser.parse_args()
    unknown = set(args.families) - set(families())
    if unknown:
        parser.error(f"no benchmark for {', '.join(sorted(unknown))}; there are {', '.join(families())}")
    options = harness.as_options(args, "json", "deadline", "compile_seconds")
    chosen = args.families or usual()
    start, documents = time.perf_counter(), []
    for i, family in enumerate(chosen):
        left = [SHARES.get(name, 1) for name in chosen[i:]]
        extra: list[str] = []
        if args.deadline is not None:
            if time.perf_counter() - start > args.deadline:  # whose start alone may take long
                documents.append({"family": family, "rows": [], "not_measured": [f"all of {family}"]})
                continue
            seconds = (args.deadline - (time.perf_counter() - start)) * left[0] / sum(left)
            extra += ["--deadline", f"{seconds:.1f}"]
        if args.compile_seconds is not None:
            share = left[0] / sum(SHARES.get(name, 1) for name in chosen)
            extra += ["--compile-seconds", f"{args.compile_seconds * share:.1f}"]
        documents.append(run_family(family, [*options, *extra], args.timeout))
        # After every family: a run that is cut short leaves what it has.
        harness.save({"schema": 2, "documents": documents}, args.json)
        if documents[-1].get("failure") == "stopped from outside":
            break
    bad = [f"{d['family']}: {d['failure']}" for d in documents if "failure" in d]
    bad += [line for d in documents for line in harness.complaints(d["rows"])]
    short_of_time = sum(len(d.get("not_measured", [])) for d in documents)
    if not args.check:
        print(table.short(documents))
    if short_of_time:
        print(f"no time left for {short_of_time} rows")
    print("\n".join(bad) or "all benchmarks ended well")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
