"""The house's rules that can be read off the sources: stems, tables, includes, floors, sizes."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from kernel_record import LAUNCHED, tables

from pyconvnet import devices

ROOT = Path(__file__).parents[1]
KERNELS = ROOT / "kernels"
FAMILIES = sorted(path.parent.name for path in KERNELS.glob("*/*_dispatch.cpp"))
CU_FILES = sorted(path for family in FAMILIES for path in (KERNELS / family).rglob("*.cu"))
FAMILY_HEADERS = sorted(path for family in FAMILIES for path in (KERNELS / family).rglob("*.h"))
TABLES = tables(devices.emulator().ext)

INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]', re.MULTILINE)
_DEVICE = ("device", "element", "primitives", "philox", "space_to_depth", "tensor_map")
DEVICE_HEADERS = {f"common/{name}.h" for name in _DEVICE}


def family_of(path: Path) -> str:
    return path.relative_to(KERNELS).parts[0]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code(path: Path) -> str:
    """The text without comments and string contents."""
    text = re.sub(r'"(\\.|[^"\\])*"', '""', path.read_text())
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.DOTALL)


def test_there_is_something_to_check():
    assert {"conv", "pool", "norm", "pointwise", "loss", "optim", "augment"} <= set(FAMILIES)
    assert len(CU_FILES) >= 40
    assert sum(map(len, TABLES.values())) >= 40


# ---------------------------------------------------------------- stems and tables


@pytest.mark.parametrize("family", FAMILIES)
def test_stems_and_tables_agree(family):
    """Each kernel file is a row of a table under its own name, and each row has a file."""
    stems = {path.stem for path in CU_FILES if family_of(path) == family}
    dispatch = (KERNELS / family / f"{family}_dispatch.cpp").read_text()
    for stem in stems:
        assert re.search(rf"\b{stem}\b", dispatch), f"{stem}.cu is in no table of {family}_dispatch.cpp"
    every_row = {name for names in TABLES.values() for name in names}
    assert stems <= every_row
    every_stem = {path.stem for path in CU_FILES}
    assert every_row == every_stem


@pytest.mark.parametrize("op", TABLES)
def test_names_are_unique(op):
    others = [name for other, names in TABLES.items() if other != op for name in names]
    assert TABLES[op]
    assert len(set(TABLES[op])) == len(TABLES[op])
    assert not set(TABLES[op]) & set(others)


@pytest.mark.parametrize("path", CU_FILES, ids=lambda path: path.stem)
def test_kernel_file(path):
    """Starts with its name, defines the launcher of that name, and hides everything else."""
    text, stem = path.read_text(), path.stem
    assert text.startswith(f"// {stem}:"), "the header comment starts with the stem and says what it computes"
    assert "HEADER" not in text
    assert re.search(rf"^cudaError_t {stem}\(", code(path), re.MULTILINE), "the launcher has the file's name"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_room_on_every_floor(family):
    for place in (
        f"kernels/{family}/{family}.h",
        f"bindings/{family}.cpp",
        f"pyconvnet/ops/{family}.py",
        f"pyconvnet/reference/{family}.py",
        f"tests/test_{family}.py",
        f"benchmarks/bench_{family}.py",
    ):
        assert (ROOT / place).is_file(), f"{place} is missing"


def test_every_row_of_every_table_was_launched(request):
    """On a run of the whole suite, when all the files that sort before this one have had their turn."""
    options = request.config.option
    earlier = {path.name for path in (ROOT / "tests").glob("test_*.py") if path.name < Path(__file__).name}
    order = [item.path.name for item in request.session.items]
    before = set(order[: order.index(Path(__file__).name)])
    if (
        options.keyword
        or options.markexpr
        or not earlier <= before
        or any("::" in a for a in request.config.args)
    ):
        pytest.skip("only tells something in a run of the whole suite")
    missing = {name for names in TABLES.values() for name in names} - LAUNCHED
    assert not missing


# ---------------------------------------------------------------- what kernels may use


@pytest.mark.parametrize("path", [*CU_FILES, *FAMILY_HEADERS], ids=relative)
def test_kernels_know_only_the_device_and_their_family(path):
    own = {
        relative(header).removeprefix("kernels/")
        for header in FAMILY_HEADERS
        if family_of(header) == family_of(path)
    }
    for name in INCLUDE.findall(path.read_text()):
        if "/" not in name and not name.endswith(".h"):
            continue  # the standard library
        assert name in DEVICE_HEADERS | own | {"common/types.h"}, f"{name} may not be included here"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seam_is_host_code(family):
    """FAMILY.h and FAMILY_dispatch.cpp compile without nvcc: nothing they include asks for device code."""
    seen, queue = set(), [f"{family}/{family}.h", f"{family}/{family}_dispatch.cpp"]
    while queue:
        name = queue.pop()
        path = KERNELS / name
        if name in seen or not path.is_file():
            continue
        seen.add(name)
        assert name not in DEVICE_HEADERS, f"reached from {family}'s seam"
        assert "__global__" not in code(path)
        queue += INCLUDE.findall(path.read_text())


@pytest.mark.parametrize("path", [*CU_FILES, *FAMILY_HEADERS], ids=relative)
def test_kernels_speak_the_common_vocabulary(path):
    text = code(path)
    for pattern, why in (
        (r"<<<", "pcn::launch replaces <<<>>>"),
        (r"\b__shared__\b", "pcn::shared<T>() replaces __shared__"),
        (r"\basm\b", "PTX lives in common/"),
        (r"#\s*pragma\s+unroll", "PCN_UNROLL"),
        (
            r"\bcuda(Malloc|Free|Memcpy|Memset|DeviceSynchronize|StreamSynchronize)\w*\b",
            "no memory, no waiting",
        ),
        (r"\batomic\w+\s*\(", "sums have a fixed order"),
        (r"\bPCN_EMULATED\b|\b__CUDACC__\b|\b__CUDA_ARCH__\b", "only common/ differs between the devices"),
        (r"\b(new|delete|malloc|free)\b\s*[\w(\[]", "kernels do not allocate"),
    ):
        assert not re.search(pattern, text), why


@pytest.mark.parametrize("path", FAMILY_HEADERS, ids=relative)
def test_headers_are_guarded(path):
    assert "#pragma once" in path.read_text()


# ---------------------------------------------------------------- floors of the Python package

# A module may import from its own floor and those before it.
FLOORS = [
    {"devices", "files", "text"},
    {"reference", "tuning"},
    {"ops"},
    {"layers", "data"},
    {"network", "models", "optim"},
    {"buffers", "parallel", "precision"},
    {"shard", "calls", "program", "plan_values", "plan", "model", "checkpoint", "gradients"},
    {"evaluate", "prediction", "train", "trainer", "run", "run_folder", "learning", "settings"}
    | {"resuming", "progress", "plots", "tune"},
    {"cli", "cli_arguments", "cli_parser", "__main__", "__init__"},
]
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}
MODULES = sorted((ROOT / "pyconvnet").rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The parts of pyconvnet that a module imports when it is imported itself."""
    package = path.relative_to(ROOT / "pyconvnet").parts[:-1]
    names = set()
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - (node.level - 1)]
            target = [*base, *(node.module.split(".") if node.module else [])]
            names |= {target[0]} if target else {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("pyconvnet."):
            names.add(node.module.split(".")[1])
    return names


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_each_floor_knows_only_the_floors_under_it(path):
    part = path.relative_to(ROOT / "pyconvnet").parts[0].removesuffix(".py")
    assert part in FLOOR_OF, f"{part} has no floor: add it to FLOORS"
    for name in imported(path):
        if name in FLOOR_OF:
            assert FLOOR_OF[name] <= FLOOR_OF[part], f"{part} may not import {name}"


def test_rows_are_asked_for_at_one_place():
    """Which rows apply may depend on the device: ``core.rows`` makes it the current one."""
    for path in sorted((ROOT / "pyconvnet" / "ops").glob("*.py")):
        calls = re.findall(r'\bext\.\w+_kernels\(|_kernels"\)\(', path.read_text())
        assert len(calls) == (path.name == "_core.py"), path.name


# ---------------------------------------------------------------- sizes and texts


def sources() -> list[Path]:
    folders = ("kernels", "bindings", "pyconvnet", "tests", "benchmarks")
    suffixes = {".py", ".h", ".cpp", ".cu", ".sh"}
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes
    )


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_files_stay_small(path):
    """At most 500 lines in kernels and bindings, around 500 elsewhere."""
    limit = 500 if path.relative_to(ROOT).parts[0] in ("kernels", "bindings") else 600
    assert len(path.read_text().splitlines()) <= limit, "split it"
