"""The house's rules that can be read off the sources: stems, tables, includes, floors, sizes."""

from __future__ import annotations

import ast
import graphlib
import re
from pathlib import Path

import pytest
from support import ROOT
from support.kernels.kernel_record import tables
from support.kernels.tiles import LIST, TILES

from pyconvnet.common import devices

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
    """Each kernel file is a row of a table under its own name, each row has a file or a line of tiles.inc."""
    stems = {path.stem for path in CU_FILES if family_of(path) == family}
    dispatch = (KERNELS / family / f"{family}_dispatch.cpp").read_text()
    for stem in stems:
        assert re.search(rf"\b{stem}\b", dispatch), f"{stem}.cu is in no table of {family}_dispatch.cpp"
    every_row = {name for names in TABLES.values() for name in names}
    assert stems <= every_row
    every_stem = [path.stem for path in CU_FILES] + [tile.stem for tile in TILES]
    assert sorted(every_row) == sorted(every_stem)


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
    assert re.search(rf"^cudaError_t {stem}\b", code(path), re.MULTILINE), "the launcher has the file's name"


def test_tiles_are_lines():
    """A line says all of a kernel: its name has direction, kind and tile, a comment says what it is for."""
    assert LIST.read_text().count("(conv2d_") == len(TILES) >= 30
    for tile in TILES:
        line = re.fullmatch(
            r"PCN_(\w+?)_(\w+)\((\w+), (\d+), \d+, (\w*?)Tile<(\d+), (\d+), [\d, ]+(, Bf16)?>\)",
            tile.line,
        )
        direction, kind, stem, _, tiled, rows, columns, bf16 = line.groups()
        mma = {
            "": "", "Mma": "mma", "Wgmma": "wgmma", "Halo": "wgmma_halo",
            "Transposing": "wgmma(_transposing)?",
        }[tiled]  # fmt: skip
        side = f"{mma}{rows}x{columns}" if mma else f"{kind.lower()}\\d+"
        assert re.fullmatch(f"conv2d_{direction.lower()}_{side}{'_bf16' if bf16 else ''}", stem)
        head = mma.partition("(")[0].partition("_")[0].upper()
        wanted = [f"{head}{'_BF16' if bf16 else ''}"] if mma else ["TILE", "ROWS"]
        assert kind in wanted
    for op in ("fprop", "dgrad", "wgrad"):
        for suffix in ("", "_bf16"):
            table = TABLES[f"conv2d_{op}"]
            listed = [
                t.stem
                for t in TILES
                if t.stem.startswith(f"conv2d_{op}_") and ("_bf16" in t.stem) == bool(suffix)
            ]
            assert [name for name in table if name in listed] == listed, "the order of a list is the table's"


DECLARED = re.compile(
    r"\b(?:struct|class|enum(?: class)?) (\w+) *(?:\{|$)"
    r"|\busing (\w+) ="
    r"|\b(\w+)(?:\[\w*\])? = "
    r"|(?<![:~\w])(\w+)\([^()]*(?:\([^()]*\)[^()]*)*\)(?: const)? *\{",
    re.MULTILINE,
)


def declared(path: Path) -> set[str]:
    """The names a file gives something at the level of a namespace."""
    text = re.sub(r"^\s*#(.*\\\n)*.*$", "", code(path), flags=re.MULTILINE)
    scopes, outside = [], ""
    for piece in re.findall(r"[{}]|[^{}]+", text):
        if piece == "}":
            scopes.pop()
        elif piece == "{":
            scopes.append("inside" in scopes or re.search(r"namespace[\s\w:]*$", outside) is None)
            scopes[-1] = "inside" if scopes[-1] else "namespace"
            outside += "{\n" if scopes.count("inside") == 1 and scopes[-1] == "inside" else ""
        elif "inside" not in scopes:
            outside += piece
    return {next(filter(None, found)) for found in DECLARED.findall(outside)}


# The files of a family with tiles are compiled each by itself.
UNITS = [*(f"kernels/{f}" for f in FAMILIES if not (KERNELS / f / LIST.name).exists()), "bindings"]


@pytest.mark.parametrize("folder", UNITS)
def test_names_are_used_once_in_a_unit(folder):
    """What one file hides, the other files of its unit see: a name twice is an error, or worse, none."""
    owners: dict[str, list[str]] = {}
    for path in sorted((ROOT / folder).glob("*")):
        if path.suffix in (".cu", ".h") or (
            path.suffix == ".cpp" and not re.search("platform_|_dispatch", path.stem)
        ):
            for name in declared(path):
                owners.setdefault(name, []).append(path.name)
    if folder == "bindings":
        assert {"Args", "pool_shape", "register_emulator"} <= set(owners)
    own = {name: files for name, files in owners.items() if any(not file.endswith(".h") for file in files)}
    assert not {name: files for name, files in own.items() if len(files) > 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_its_room_on_every_floor(family):
    for place in (
        f"kernels/{family}/{family}.h",
        f"bindings/{family}.cpp",
        f"pyconvnet/ops/{family}.py",
        f"pyconvnet/ops/reference/{family}.py",
        f"benchmarks/bench_{family}.py",
    ):
        assert (ROOT / place).is_file(), f"{place} is missing"
    assert any((ROOT / "tests" / "kernels").rglob(f"test_{family}.py")), f"test_{family}.py is missing"


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
        assert name in DEVICE_HEADERS | own | {"common/types.h", "conv/tiles.inc"}, (
            f"{name} may not be included here"
        )


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


# ---------------------------------------------------------------- the Python package

PACKAGE = ROOT / "pyconvnet"

#: What stands under each folder or file of the package: all it may import, and nothing else may be there.
UNDER = {
    "common": "",
    "ops": "common",
    "torch": "common ops",
    "layers": "common ops",
    "network": "common layers",
    "models": "common layers network",
    "data": "common ops",
    "plan": "common ops layers network",
    "trained": "common layers network data plan",
    "training": "common ops layers network models data plan trained",
    "__init__": "common ops layers network models data plan trained training",
    "cli": "common ops models data plan trained training",
    "__main__": "cli",
}


def name_of(path: Path) -> str:
    """The dotted name below pyconvnet; of a package, the folder's; "" of pyconvnet itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str, path: Path, known=MODULES) -> set[str]:
    """Find what a module imports of pyconvnet anywhere: at its top, in functions, for type checkers."""
    package = name.split(".") if name else []
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {
                alias.name.partition(".")[2]
                for alias in node.names
                if alias.name.split(".")[0] == "pyconvnet"
            }
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                base = package[: len(package) - (node.level - 1)]
            elif node.module.split(".")[0] == "pyconvnet":
                base, node.module = [], node.module.partition(".")[2]
            else:
                continue
            home = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for alias in node.names:
                module = f"{home}.{alias.name}".lstrip(".")
                found.add(module if module in known else home)
    assert found <= set(known) | {"_cuda", "_emulator"}, (
        f"{name} imports what is not there: {found - set(known)}"
    )
    return found - {name}


def order(graph: dict[str, set[str]]) -> list[str]:
    """All modules such that each comes after those it imports; graphlib.CycleError where there is none."""
    return list(graphlib.TopologicalSorter(graph).static_order())


def test_no_circle():
    graph = {name: imported(name, path) for name, path in MODULES.items()}
    assert set(order(graph)) >= set(MODULES)
    assert sum(map(len, graph.values())) > 300  # it has seen something


def test_a_circle_is_seen(tmp_path):
    """Of imports at the top, in a function, for type checkers, through a package."""
    texts = {
        "a": "def f():\n    from .folder import c\n",
        "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import a\n",
        "folder.c": "import pyconvnet.b\n",
    }
    known = {
        **{name: tmp_path / f"{name}.py" for name in texts},
        "folder": tmp_path / "folder" / "__init__.py",
    }
    graph = {}
    for name, text in texts.items():
        known[name].write_text(text)
        graph[name] = imported(name, known[name], known)
    assert graph == {"a": {"folder.c"}, "b": {"a"}, "folder.c": {"b"}}
    with pytest.raises(graphlib.CycleError):
        order(graph)


def test_the_top_of_the_package():
    top = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert top == set(UNDER)
    assert len(top) <= 13
    for place, under in UNDER.items():
        assert set(under.split()) <= set(list(UNDER)[: list(UNDER).index(place)]), (
            "the table goes from below up"
        )


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "pyconvnet")
def test_each_folder_imports_only_what_stands_under_it(name):
    place = (name or "__init__").split(".")[0]
    for module in imported(name, MODULES[name]):
        assert module, f"{name} imports pyconvnet itself"
        other = module.split(".")[0]
        assert other == place or other in UNDER[place].split() or other in ("_cuda", "_emulator"), module


def test_the_reference_knows_no_operation():
    """It is what the kernels are tested against, and what checks nothing: `ops` has checked before."""
    inside = [name for name in MODULES if name.startswith("ops.reference")]
    assert len(inside) > 10
    for name in inside:
        for module in imported(name, MODULES[name]):
            assert module.startswith(("ops.reference", "common")), f"{name} imports {module}"


def test_no_module_takes_the_name_of_a_public_function():
    import pyconvnet

    functions = {name for name in pyconvnet.__all__ if callable(getattr(pyconvnet, name))}
    assert not functions & set(UNDER)
    for name in functions:
        assert callable(getattr(pyconvnet, name))


def test_rows_are_asked_for_at_one_place():
    """Which rows apply may depend on the device: ``core.rows`` makes it the current one."""
    for path in sorted((ROOT / "pyconvnet" / "ops").glob("*.py")):
        calls = re.findall(r'\bext\.\w+_kernels\(|_kernels"\)\(', path.read_text())
        assert len(calls) == (path.name == "core.py"), path.name


# ---------------------------------------------------------------- sizes and texts


def sources() -> list[Path]:
    folders = ("kernels", "bindings", "pyconvnet", "tests", "benchmarks")
    suffixes = {".py", ".h", ".cpp", ".cu", ".sh"}
    return sorted(
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in suffixes
    )


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 500, "split it"
