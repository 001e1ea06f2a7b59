"""Do two commits compute the same bits? Builds both, runs the same trainings in each and compares.

    python benchmarks/same_bits.py main HEAD                    # two commits of this repository
    python benchmarks/same_bits.py --built ../before .          # two trees with compiled modules in place
    python benchmarks/same_bits.py main HEAD --only alexnet     # cases whose name contains a word

Trains the digits net, cuda-convnet's 80sec net (two epochs) and a reduced AlexNet on the cpu, the emulator
and several devices of each, and runs every operation alone by each of its kernels: the cases of
same_bits_cases.py. Compared are the SHA-256 of weights, momenta, losses and predictions. The exit status is 1
where any differs or a case fails.

Bits differ between processors (BLAS chooses its kernels by the processor), which is why both sides run on
this machine, with the same number of threads, and no hash is kept. Commits are checked out by ``git
worktree`` into a temporary folder and built there for the emulator alone; CMAKE_ARGS is read as by pip.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from same_bits_cases import cases
from text import table

HERE = Path(__file__).resolve().parent
CIFAR_NAMES = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", help="commit, or with --built a folder")
    parser.add_argument("after", help="commit, or with --built a folder")
    parser.add_argument("--built", action="store_true", help="before and after are trees that are built")
    parser.add_argument("--only", action="append", default=[], help="cases whose name contains this")
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10; default: made up, 1280 images")
    parser.add_argument("--images", type=int, default=1280, help="of CIFAR-10 to train on (1280)")
    parser.add_argument("--threads", type=int, default=2, help="of the cpu device (2)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilations at a time")
    parser.add_argument("--json", type=Path, help="also write all SHA-256 here")
    return parser.parse_args()


# ---- the two trees -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """A worktree of the commit, removed at the end."""
    git = ["git", "-C", str(HERE.parent), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def build(tree: Path, jobs: int) -> None:
    """Compile a tree's emulator and lay it into its package."""
    where = tree / "build" / "same-bits"
    configure = ["cmake", "-S", str(tree), "-B", str(where), "-G", "Ninja", "-DPYCONVNET_CUDA=OFF"]
    configure += [f"-DPython_EXECUTABLE={sys.executable}", *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
    for command in (
        configure,
        ["cmake", "--build", str(where), "--parallel", str(jobs)],
        ["cmake", "--install", str(where), "--prefix", str(tree)],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{shlex.join(command)} failed:\n{(done.stdout + done.stderr)[-4000:]}")


def make_cifar(folder: Path, records: int = 256) -> Path:
    """Made-up images in CIFAR-10's binary format: noise around a colour of the class."""
    rng = np.random.default_rng(0)
    tones = rng.integers(0, 128, (10, 3, 1))
    folder.mkdir()
    for name in CIFAR_NAMES:
        labels = rng.integers(10, size=records, dtype=np.uint8)
        pixels = tones[labels] + rng.integers(0, 128, (records, 3, 32 * 32))
        rows = np.concatenate([labels[:, None], pixels.reshape(records, -1).astype(np.uint8)], 1)
        (folder / f"{name}.bin").write_bytes(rows.tobytes())
    return folder


# ---- running and comparing ---------------------------------------------------------------------------------

Sums = dict[str, dict[str, str]]  # case -> part -> SHA-256, or "error" -> what went wrong


def run(tree: Path, cases: list[str], data: Path, options: argparse.Namespace, scratch: Path) -> Sums:
    """The SHA-256 of what a tree computes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYCONVNET_")}
    environment |= {
        "PYTHONPATH": str(tree.resolve()),
        "PYCONVNET_NUM_THREADS": str(options.threads),
        "XDG_CACHE_HOME": str(scratch),
    }
    command = [sys.executable, "-P", str(HERE / "same_bits_cases.py"), str(data), str(options.images), *cases]
    found: Sums = {}
    with subprocess.Popen(
        command, cwd=scratch, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            record = json.loads(line)
            found[record["case"]] = record["sums"]
            print(f"  {record['case']}: {record['seconds']} s", file=sys.stderr, flush=True)
    return {case: found.get(case, {"error": f"ended with {process.returncode}"}) for case in cases}


def compare(before: Sums, after: Sums) -> tuple[list[tuple[str, ...]], bool]:
    """Lines (case, part, before, after, verdict), and whether all is the same."""
    lines, good = [], True
    for case in before:
        for part in sorted({*before[case], *after[case]}):
            values = before[case].get(part, "missing"), after[case].get(part, "missing")
            same = values[0] == values[1] and part != "error"
            good &= same
            short = (value if part == "error" else value[:12] for value in values)
            lines.append((case, part, *short, "same" if same else "DIFFERENT"))
    return lines, good and bool(lines)


def main() -> int:
    options = arguments()
    chosen = [case for case in cases(Path(), 0) if all(word in case for word in options.only)]
    if not chosen:
        raise SystemExit(f"no case is named so; there are: {'; '.join(cases(Path(), 0))}")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data = (options.data or make_cifar(scratch / "cifar")).resolve()
        results = []
        for side in ("before", "after"):
            name = getattr(options, side)
            tree = Path(name) if options.built else stack.enter_context(checked_out(name, scratch / side))
            if not options.built:
                print(f"{side}: building {name}", file=sys.stderr, flush=True)
                build(tree, options.jobs)
            print(f"{side}: {name}", file=sys.stderr, flush=True)
            results.append(run(tree, chosen, data, options, scratch))
    lines, good = compare(*results)
    print(table(("case", "part", "before", "after", ""), lines, 5))
    print(f"\n{len(lines)} parts of {len(chosen)} cases: {'all the same' if good else 'NOT ALL THE SAME'}")
    if options.json:
        document = {side: getattr(options, side) for side in ("before", "after")}
        document |= {"same": good, "sums": dict(zip(("before", "after"), results, strict=True))}
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
