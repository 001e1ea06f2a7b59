"""Runs every benchmark of this folder, each in a process of its own, and collects their results.

    python benchmarks/run.py --json results.json                    all families, the default device
    python benchmarks/run.py conv pool --device cuda:0 --batch 256  some families
    python benchmarks/run.py --tiny --check --device emulator       every kernel once, compared, nothing timed

The other options are the benchmarks' own.
JSON: ``{"schema": 1, "documents": [...]}``, a document per family as :mod:`harness` describes it, with a
``"failure"`` where the family ended badly. The exit status is 1 when one did.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness

HERE = Path(__file__).resolve().parent


def families() -> list[str]:
    """Every family with a benchmark; the whole network last, issued and replayed from a graph."""
    names = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    return sorted(names, key=("alexnet", "graph").__contains__)


def usual() -> list[str]:
    """Those that run unasked: not ``graph``, which makes six plans and takes as long as all the others."""
    return [family for family in families() if family != "graph"]


def run_family(family: str, options: list[str], timeout: float) -> dict[str, Any]:
    """One benchmark in its own process: its JSON document, with ``"failure"`` where it ended badly."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, str(HERE / f"bench_{family}.py"), *options, "--json", str(result)]
        try:
            status: Any = subprocess.run(command, timeout=timeout, check=False).returncode
        except subprocess.TimeoutExpired:
            status = f"stopped after {timeout:.0f} s"
        document = json.loads(result.read_text()) if result.exists() else {"family": family, "rows": []}
    if status != 0:
        document["failure"] = f"exit status {status}" if isinstance(status, int) else status
    return document


def summary(documents: list[dict[str, Any]]) -> str:
    """The fastest kernel of every row beside the limit and the peer."""
    lines = []
    for document in documents:
        best: dict[tuple[str, str, str], dict[str, Any]] = {}
        for row in document["rows"]:
            key = (row["name"], row["op"], row["shape"])
            if row["median_us"] and (key not in best or row["median_us"] < best[key]["median_us"]):
                best[key] = row
        for row in best.values():
            limit = f"{100 * row['of_limit']:.0f}%" if row["of_limit"] else ""
            ratio = f"{row['median_us'] / row['peer_us']:.2f}" if row["peer_us"] else ""
            lines.append((row["name"], row["op"], row["kernel"], f"{row['median_us']:.1f}", limit, ratio))
    return harness.table(
        ("layer", "op", "fastest kernel", "median us", "of limit", "time / peer's"), lines, 3
    )


def main() -> None:
    parser = harness.parser("Run the benchmarks and collect their results")
    parser.add_argument("families", nargs="*", help=f"default: {' '.join(usual())}; and graph")
    parser.add_argument("--timeout", type=float, default=600, help="seconds per family (default 600)")
    args = parser.parse_args()
    unknown = set(args.families) - set(families())
    if unknown:
        parser.error(f"no benchmark for {', '.join(sorted(unknown))}; there are {', '.join(families())}")
    options = harness.as_options(args, "json")
    documents = []
    for family in args.families or usual():
        documents.append(run_family(family, options, args.timeout))
        if args.json:  # after every family: a run that is cut short leaves what it has
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps({"schema": 1, "documents": documents}, indent=1) + "\n")
    bad = [f"{d['family']}: {d['failure']}" for d in documents if "failure" in d]
    bad += [line for d in documents for line in harness.complaints(d["rows"])]
    if not args.check:
        print(summary(documents))
    print("\n".join(bad) or "all benchmarks ended well")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
