"""What compiler and emulator say about every kernel: docs/kernel-report.json, and .md, a page for people.

    python benchmarks/kernel_report.py                     print it
    python benchmarks/kernel_report.py --write             write the committed report anew
    python benchmarks/kernel_report.py --check             compare with the committed report
    python benchmarks/kernel_report.py --check --arch 80 90    those architectures alone
    python benchmarks/kernel_report.py --check --objects DIR   the kernels that a build folder holds; CI does
    python benchmarks/kernel_report.py --family conv       only some families (not with --write)
    python benchmarks/kernel_report.py --only code         not the emulator's part; or: --only accesses

*Code*: nvcc compiles every ``kernels/*/*.cu`` and every line of ``kernels/conv/tiles.inc`` for each
architecture (files below a ``hopper`` folder for 90a only): registers, spills, shared memory, block size,
occupancy on sm_90, and from ``cuobjdump`` how often the instructions that matter occur. *Accesses*: the
emulator's flavour `count` runs every kernel and counts sectors and bank conflicts; it is built below
``build/count`` where PYCONVNET_EMULATOR is not such a build.
*Predictions*: what a cycle model makes of both, see docs/cycle-model.md and ``cycle_model.py``.

Exit status 1 if anything does not compile, nvcc or ptxas warns or serialises products, a kernel spills
registers (only those named ``*_generic``, which AlexNet does not run, may) or lacks the instructions it is
written for, an access exceeds its bound without a reason in ``report/reasons.py``, or --check finds a
difference. The report is of nvcc 13.0; with another one --check
says so and compares what must not depend on it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).resolve().parents[1]))  # what is installed comes first
from report import compare, compiler, loops, measure, objects, occupancy, predictions, render, sass, tiles
from report.reasons import REASONS

ROOT = Path(__file__).resolve().parents[1]
REPORT = ROOT / "docs" / "kernel-report"


# ---- code ----
def _key(tools: str, path: Path, archs: list[str]) -> str:
    """What a compilation depends on: tools, architectures, the file, its headers, and this report's code."""
    digest = hashlib.sha256(f"{tools} {archs} {compiler.family_of(path)}/{path.stem}".encode())
    for file in compiler.with_headers(path) + [Path(m.__file__) for m in (compiler, sass, loops)]:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _compile(job: tuple[str, str | None, Path, str, list[str], Path]) -> tuple[list[dict], list[str]]:
    """The rows of one file for some architectures, kept in the cache until what they depend on changes."""
    nvcc, cuobjdump, path, virtual, archs, cache = job
    kept = cache / f"{_key(f'{compiler.version(nvcc)} {cuobjdump} {virtual}', path, archs)}.json"
    if kept.exists():
        return tuple(json.loads(kept.read_text()))
    made = _compile_anew(nvcc, cuobjdump, path, virtual, archs)
    if not made[1]:
        cache.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(f".{os.getpid()}")  # complete before it has the name that is looked for
        fresh.write_text(json.dumps(made))
        fresh.replace(kept)
    return made


def _compile_anew(
    nvcc: str, cuobjdump: str | None, path: Path, virtual: str, archs: list[str]
) -> tuple[list[dict], list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.fatbin"
        text, status = compiler.compile_file(nvcc, path, virtual, archs, binary)
        rows, complaints = compiler.parse(path, text)
        if status != 0 and not complaints:
            complaints = [f"nvcc failed with status {status}: {text[-500:]}"]
        for arch in archs if cuobjdump and status == 0 else []:
            if int(arch[:2]) < 80:
                continue
            text = sass.dump(cuobjdump, "-sass", binary, "-arch", f"sm_{arch}")
            counts, newest = sass.count(text), arch.startswith("90")
            main = loops.main_loops(text) if newest else {}
            threads = sass.block_sizes(cuobjdump, binary, arch) if newest else {}
            for row in rows:
                if row["arch"] == arch:
                    row["sass"] = counts.get(row["symbol"], {})
                    row["threads"] = threads.get(row["symbol"])
                    row["loop"] = main.get(row["symbol"]) if row["family"] == "conv" else None
    return rows, [f"{path.name} compute_{virtual}: {line}" for line in complaints]


def code(nvcc: str, cuobjdump: str | None, files: list[Path], archs: list[str], jobs: int, cache: Path):
    """(a row per kernel and architecture, failures)."""
    work = []
    for path in files:
        passes = [("90a", ["90a"])] if path.parent.name == "hopper" else compiler.passes(archs)
        work += [(nvcc, cuobjdump, path, virtual, made, cache) for virtual, made in passes]
    rows, failures = [], []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        for found, complaints in pool.map(_compile, work):
            rows += found
            failures += complaints
    return rows, failures


def _table(rows: list[dict], failures: list[str]) -> tuple[list[dict], list[str]]:
    """A row per kernel with what each architecture made of it, and failures, with those that spill."""
    names = compiler.demangle(sorted({row["symbol"] for row in rows}))
    lines = {tile.stem: tile.threads for tile in tiles.TILES}  # a kernel with __maxnreg__ does not say
    table: dict[tuple[str, str, str], dict] = {}
    failures = list(failures)
    for row in sorted(rows, key=lambda row: int(row["arch"].rstrip("a"))):  # as tables show them
        full = names[row["symbol"]]
        kernel = compiler.short(full)
        if row.get("spill") and not row["stem"].endswith("_generic"):
            failures.append(f"{row['stem']} sm_{row['arch']}: {kernel} spills {row['spill']} bytes")
        for name in sass.lacking(kernel, row["sass"]) if "sass" in row else ():
            failures.append(f"{row['stem']} sm_{row['arch']}: {kernel} has no {name}")
        made = table.setdefault(
            (row["family"], row["stem"], full),
            {"family": row["family"], "stem": row["stem"], "kernel": kernel, "threads": None, "arch": {}},
        )
        made["threads"] = row.get("threads") or made["threads"]
        if re.search(r"\b(Wgmma|Halo|Transposing)Tile<", kernel):
            made["threads"] = lines[row["stem"]]
        made["arch"][row["arch"]] = {
            "registers": row.get("registers", 0),
            "shared": row.get("shared", 0),
            "spill": row.get("spill", 0),
            "sass": row.get("sass", {}),
        } | ({"loop": row["loop"]} if row.get("loop") else {})
    return _once(table), failures


def _once(table: dict[tuple[str, str, str], dict]) -> list[dict]:
    """The rows, those of templates that several files of a family contain alike only once."""
    rows, seen = [], {}
    for (family, _, full), row in sorted(table.items()):
        content = json.dumps(row["arch"], sort_keys=True)
        if "(anonymous namespace)" not in full and (first := seen.get((family, full, content))):
            first["stem"] = "(several)"
            continue
        seen[family, full, content] = row
        rows.append(row)
    return sorted(rows, key=lambda row: (row["family"], row["stem"], row["kernel"]))


# ---- accesses ----
def count_module(folder: Path, jobs: int) -> Path:
    """The emulator of flavour `count`: PYCONVNET_EMULATOR if it is one, else built here."""
    given = os.environ.get("PYCONVNET_EMULATOR")
    if given and "count_accesses" in (probe := _ask(Path(given))) and probe.split()[0] == "count":
        return Path(given)
    beside = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{beside}{os.pathsep}{os.environ['PATH']}"}
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder), *shlex.split(os.environ.get("CMAKE_ARGS", ""))]
    configure += ["-DPYCONVNET_CUDA=OFF", "-DPYCONVNET_EMULATOR_FLAVOUR=count"]
    configure.append(f"-DPython_EXECUTABLE={sys.executable}")
    if not (folder / "CMakeCache.txt").exists():
        configure.append("-GNinja")
    for command in (configure, ["cmake", "--build", str(folder), "--parallel", str(jobs)]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            sys.exit(
                f"kernel_report: {' '.join(command)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
    return next(folder.glob("_emulator*.so"))


def _python(code_text: str, module: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYCONVNET_EMULATOR": str(module), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code_text, *arguments], env=environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        sys.exit(f"kernel_report: {done.stderr[-3000:]}")
    return done.stdout


def _ask(module: Path) -> str:
    return _python(
        "from pyconvnet.common import devices as d; e = d.emulator().ext; print(e.flavour(), *dir(e))", module
    )


_MEASURE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from report import alexnet, compiler, measure, render
some, lines, jobs = map(json.loads, sys.argv[2:])
counted = render.measured(measure.run(some, jobs), compiler.short, lines)
json.dump([counted, *([[], []] if some else [alexnet.step(), alexnet.rows()])], sys.stdout)
"""


def accesses(module: Path, families: list[str] | None, lines: bool, jobs: int) -> tuple[list[dict], ...]:
    """A row per kernel that was run, the kernels of AlexNet's step and all that may take them, in a process
    of its own and `jobs` that it starts: this one may hold another emulator.
    """
    here, given = str(Path(__file__).resolve().parent), (families, lines, jobs)
    return tuple(json.loads(_python(_MEASURE, module, here, *map(json.dumps, given))))


# ---- the whole ----
def add_occupancy(kernels: list[dict], counted: list[dict] | None) -> None:
    """Resident blocks on sm_90, with the dynamic shared memory of the launches that were counted."""
    dynamic = {(row["stem"], row["kernel"]): row["dynamic"] for row in counted or []}
    for row in kernels:
        made = row["arch"].get("90") or row["arch"].get("90a")
        row["dynamic"] = dynamic.get((row["stem"], row["kernel"]), 0)
        if made and row["threads"]:
            shared = made["shared"] + row["dynamic"]
            row["occupancy"] = asdict(occupancy.sm90(row["threads"], made["registers"], shared))


def not_counted(kernels: list[dict], counted: list[dict]) -> list[str]:
    """Kernel files that no case of report/measure.py runs."""
    files = {row["stem"] for row in kernels} - {"(several)"} - {row["stem"] for row in counted}
    return [f"{stem}: no case of report/measure.py runs it" for stem in sorted(files)]


def dump(report: dict) -> str:
    """JSON with a line per kernel, so that a change shows as a line."""
    parts = []
    for name, value in report.items():
        if isinstance(value, list):
            rows = ",\n".join(json.dumps(row) for row in value)
            parts.append(f"{json.dumps(name)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _gxx() -> str:
    compiler_name = os.environ.get("CXX", "g++")
    return subprocess.run(
        [compiler_name, "-dumpfullversion"], capture_output=True, text=True, check=True
    ).stdout.strip()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/kernel-report.md and .json")
    parser.add_argument("--check", action="store_true", help="fail where the committed report is out of date")
    parser.add_argument("--only", choices=["code", "accesses"], help="one half (not with --write)")
    parser.add_argument("--arch", nargs="+", help="e.g. 75 80 90; default: those of a build without a GPU")
    parser.add_argument(
        "--objects",
        type=Path,
        metavar="FOLDER",
        help="read a build's object files, of 8.0 and 9.0; compile what is for 9.0 alone",
    )
    parser.add_argument("--family", nargs="+", help="only these folders of kernels/")
    parser.add_argument("--lines", action="store_true", help="give accesses that are not ideal their lines")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument(
        "--disassembler",
        type=Path,
        metavar="FOLDER",
        help="environment with cuobjdump and nvdisasm; made there if it does not exist",
    )
    parser.add_argument(
        "--build",
        type=Path,
        default=ROOT / "build" / "count",
        help="the emulator, and what was compiled before",
    )
    given = parser.parse_args(arguments)
    if given.write and (given.only or given.family or given.arch):
        parser.error("--write writes the whole report: not with --only, --family or --arch")
    if given.objects and not given.check:
        parser.error(
            "--objects FOLDER belongs to --check: the report is written of files compiled by themselves"
        )
    if given.check and given.family:
        parser.error("--check compares the whole report: not with --family")
    return given


def count(given: argparse.Namespace) -> tuple[list[dict], ...]:
    """What the emulator counts, see `accesses`."""
    return accesses(count_module(given.build, given.jobs), given.family, given.lines, given.jobs)


def collect(given: argparse.Namespace) -> tuple[dict, list[str]]:
    """The report, or the half that is asked for, and what is wrong with it."""
    report: dict = {"nvcc": None, "g++": None, "kernels": None, "accesses": None, "alexnet": None}
    failures: list[str] = []
    rows: list[dict] = []
    with concurrent.futures.ThreadPoolExecutor(1) as beside:
        if given.only != "code":  # beside the compiler
            counting = beside.submit(count, given)
        if given.only != "accesses":
            report["nvcc"], report["kernels"], failures = compiled(given)
        if given.only != "code":
            report["g++"] = _gxx()
            report["accesses"], report["alexnet"], rows = counting.result()
            failures += measure.unexplained(report["accesses"], REASONS, whole=not given.family)
    if report["kernels"] is not None:
        add_occupancy(report["kernels"], report["accesses"])
        if report["accesses"] is not None:
            failures += not_counted(report["kernels"], report["accesses"])
        if report["alexnet"]:  # of the whole library
            report |= predictions.predict(report["kernels"], rows, ROOT / "benchmarks" / "results")
    return report, failures


def compiled(given: argparse.Namespace) -> tuple[str, list[dict], list[str]]:
    """The compiler's version, what it makes of the kernels, and failures, see `code`."""
    nvcc = compiler.find_nvcc()
    if nvcc is None:
        sys.exit("kernel_report: no nvcc on PATH, in CUDA_HOME or among the Python packages")
    if given.disassembler and sass.find(given.disassembler) is None:
        sass.install(given.disassembler)
    cuobjdump = sass.find(given.disassembler)
    if cuobjdump is None:
        text = f"no cuobjdump on PATH: pip install {' '.join(sass.PACKAGES)} in an environment of its own"
        if given.write or given.check:
            sys.exit(f"kernel_report: {text} (--disassembler FOLDER does)")
        print(f"{text}; instructions are not counted", file=sys.stderr)
    archs = given.arch or (["80", "90"] if given.objects else compiler.default_architectures())
    files = compiler.sources(given.family, given.build / "tiles")
    if given.objects:  # but for 9.0's: that their products are serialised only the compiler says
        files = [path for path in files if path.parent.name == "hopper"]
    rows, failures = code(nvcc, cuobjdump, files, archs, given.jobs, given.build / "report")
    if given.objects:
        rows += objects.read(cuobjdump, given.objects, archs, given.jobs)
    kernels, failures = _table(rows, failures)
    if given.objects:
        kernels = objects.as_in(json.loads(REPORT.with_suffix(".json").read_text())["kernels"], kernels)
    return compiler.version(nvcc), kernels, failures


def main(arguments: list[str] | None = None) -> int:
    """Run; returns the exit status."""
    given = parse_arguments(arguments)
    report, failures = collect(given)
    if given.json:
        given.json.write_text(dump(report))
    if given.write:
        if not failures:
            REPORT.with_suffix(".json").write_text(dump(report))
            REPORT.with_suffix(".md").write_text(render.markdown(report, REASONS))
            print(f"wrote {REPORT}.md and .json")
    elif given.check:
        committed = json.loads(REPORT.with_suffix(".json").read_text())
        found, notes = compare.differences(committed, report)
        for note in notes:
            print(f"note: {note}")
        if REPORT.with_suffix(".md").read_text() != render.markdown(committed, REASONS):
            found.append("! kernel-report.md is not what kernel-report.json says")
        for line in found:
            print(line)
        if found:
            failures.append("docs/kernel-report is out of date: python benchmarks/kernel_report.py --write")
    else:
        print(render.printed(report, REASONS))
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    rows = [*(report["kernels"] or []), *(report["accesses"] or [])]
    print(f"{len(rows)} rows, {len(failures)} failures")
    return 1 if failures or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
