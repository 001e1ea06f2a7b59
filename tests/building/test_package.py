"""The package as it is built and installed: imports, linking, the build, what the documents say."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from support import ROOT
from support.kernels.kernel_record import tables

import pyconvnet
from pyconvnet.common import devices

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a process that imports what this one imports."""
    path = os.pathsep.join([str(Path(pyconvnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )


# ---- imports -----------------------------------------------------------------------------------------------


#: What only a few callers need: never loaded before they ask for it.
SELDOM = {
    *("cupy", "torch", "matplotlib", "sklearn", "mpi4py", "pyconvnet._cuda", "pyconvnet._emulator"),
    "pyconvnet._host",
    *("urllib.request", "http.client", "ssl", "email", "tarfile", "multiprocessing", "asyncio", "unittest"),
    *("tqdm", "safetensors", "importlib.metadata", "argparse"),
}
#: What the library needs, but the import of its name does not.
LATE = {
    *("numpy", "ml_dtypes", "PIL.Image", "PIL.ExifTags", "socket", "subprocess", "tempfile", "zipfile"),
    *("logging", "ctypes", "concurrent.futures", "importlib.resources"),
}


@pytest.mark.parametrize(("names", "unwanted"), [([], SELDOM | LATE), (pyconvnet.__all__, SELDOM)])
def test_importing_touches_no_gpu_and_no_heavy_module(names, unwanted):
    done = python(
        f"import sys; before = set(sys.modules); import pyconvnet; [getattr(pyconvnet, n) for n in {names}];"
        f"bad = {unwanted} & (set(sys.modules) - before);"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert done.returncode == 0, done.stderr


def test_importing_takes_little_more_than_numpy_does():
    def seconds(name: str) -> float:
        code = f"import time; start = time.perf_counter(); import {name}; print(time.perf_counter() - start)"
        return min(float(python(code).stdout) for _ in range(4))

    assert seconds("pyconvnet") <= 1.3 * seconds("numpy") + 0.1


def test_names_are_found_where_editors_look_for_them():
    """The imports for type checkers, the table of modules and __all__ name the same."""
    tree = ast.parse(Path(pyconvnet.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: line.module for line in block.body for alias in line.names}
    assert sorted([*seen, "__version__"]) == sorted(pyconvnet.__all__)
    assert {name: home for name, home in seen.items() if home} == pyconvnet._HOME_OF
    assert set(pyconvnet.__all__) <= set(dir(pyconvnet))
    for name, home in seen.items():
        module = importlib.import_module(f"pyconvnet.{home or name}")
        assert getattr(pyconvnet, name) is (getattr(module, name) if home else module)
    assert not hasattr(pyconvnet, "nope")
    with pytest.raises(AttributeError, match="module 'pyconvnet' has no attribute '_nope'"):
        pyconvnet._nope  # noqa: B018


def test_a_function_keeps_its_name_when_its_module_is_imported():
    done = python(
        "import pyconvnet.training.train, pyconvnet.trained.evaluate, pyconvnet.plan.tune;"
        "import pyconvnet as pcn, sys;"
        "from pyconvnet import train;"
        "assert pcn.train is train is sys.modules['pyconvnet.training.train'].train;"
        "assert callable(pcn.evaluate) and callable(pcn.tune) and pcn.plan.Plan"
    )
    assert done.returncode == 0, done.stderr


def test_cpu_works_without_the_compiled_modules_and_without_cupy():
    done = python(
        "import sys;"
        "sys.modules['pyconvnet._cuda'] = sys.modules['pyconvnet._emulator'] = sys.modules['cupy'] = None;"
        "sys.modules['pyconvnet._host'] = None;"
        "import numpy as np, pyconvnet;"
        "from pyconvnet import ops;"
        "assert pyconvnet.get_device().name == 'cpu';"
        "assert ops.relu(np.array([-1, 2], np.float32)).tolist() == [0, 2]",
        PYCONVNET_EMULATOR="",
        PYCONVNET_CUDA="",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("device", ["emulator", "cuda:0"])
def test_a_missing_module_is_explained(device):
    done = python(
        "import sys;"
        "sys.modules['pyconvnet._cuda'] = sys.modules['pyconvnet._emulator'] = None;"
        f"import pyconvnet; pyconvnet.get_device({device!r})",
        PYCONVNET_EMULATOR="",
        PYCONVNET_CUDA="",
    )
    assert done.returncode == 1
    assert "DeviceUnavailableError" in done.stderr
    assert "pip install" in done.stderr


def test_a_sanitized_emulator_that_is_not_there_is_explained():
    done = python(
        "import pyconvnet; pyconvnet.get_device('emulator')", PYCONVNET_EMULATOR="/nowhere/_emulator.so"
    )
    assert done.returncode == 1
    assert "/nowhere/_emulator.so" in done.stderr


def test_versions_agree():
    try:
        installed = importlib.metadata.version("pyconvnet")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("pyconvnet is not installed, only on the path")
    assert installed == pyconvnet.__version__


# ---- the compiled modules ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cuda_module():
    try:
        return devices._extension("_cuda", os.environ.get("PYCONVNET_CUDA"))
    except devices.DeviceUnavailableError as error:
        pytest.skip(str(error))


def test_both_modules_have_the_same_kernels(cuda_module):
    emulator = devices.emulator().ext
    assert cuda_module.families == emulator.families
    assert tables(cuda_module) == tables(emulator)
    assert not cuda_module.emulated
    assert emulator.emulated


def test_counting_devices_never_raises(cuda_module):
    count, reason = cuda_module.device_count()
    assert count > 0 or "cuda" in reason.lower()
    assert cuda_module.runtime_version() >= 13000


def test_no_cuda_library_is_needed_to_load(cuda_module):
    if shutil.which("readelf") is None:
        pytest.skip("readelf is not installed")
    listing = subprocess.run(
        ["readelf", "-d", cuda_module.__file__], capture_output=True, text=True, check=True
    )
    needed = re.findall(r"NEEDED.*\[(.*)\]", listing.stdout)
    assert needed
    assert not [name for name in needed if "cuda" in name or "nv" in name]


def test_a_kernel_on_no_device_raises(cuda_module):
    if cuda_module.device_count()[0]:
        pytest.skip("this machine has a GPU")
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        cuda_module.relu("relu_forward", cuda_module.ElementwiseShape(count=1), object(), object(), 0)


# ---- the build ---------------------------------------------------------------------------------------------


@pytest.fixture
def setup_script(monkeypatch):
    """The functions of setup.py, without running it."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    return runpy.run_path(str(ROOT / "setup.py"))


def fake_program(folder: Path, name: str, output: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("release", "good"), [("12.9", False), ("13.0", True), ("13.4", True), ("9.2", False)]
)
def test_only_an_nvcc_that_is_new_enough_is_used(setup_script, monkeypatch, tmp_path, release, good):
    nvcc = fake_program(tmp_path, "nvcc", f"Cuda compilation tools, release {release}, V{release}.1")
    monkeypatch.setenv("CUDACXX", str(nvcc))
    assert setup_script["usable_nvcc"]() == (str(nvcc) if good else None)
    needs = setup_script["missing_tools"]()
    assert any("nvcc" in need for need in needs) != good


@pytest.fixture
def bare_machine(monkeypatch, tmp_path):
    """A machine without nvcc, GPU and wishes; the folder that is its PATH."""
    for name in ("CUDACXX", "CUDAARCHS", "CMAKE_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    there, hidden = os.path.exists, ("/usr/local/cuda", "/dev/nv")
    monkeypatch.setattr(os.path, "exists", lambda path: not str(path).startswith(hidden) and there(path))
    return tmp_path


@pytest.mark.parametrize(
    ("programs", "arguments", "wanted", "fetched"),
    [
        ({}, "", False, False),
        ({"nvcc": "release 13.0, V13.0.88"}, "", True, False),
        ({"nvcc": "release 12.4, V12.4.99"}, "", True, True),
        ({"nvidia-smi": "GPU 0: a card"}, "", True, True),
        ({}, "-DPYCONVNET_CUDA=ON", True, True),
        ({}, "-DPYCONVNET_CUDA:BOOL=on", True, True),
        ({}, "-DCMAKE_CUDA_ARCHITECTURES=90", True, True),
        ({"nvcc": "release 13.0, V13.0.88"}, "-DPYCONVNET_CUDA=OFF", False, False),
    ],
)
def test_where_the_cuda_module_is_built(
    setup_script, monkeypatch, bare_machine, programs, arguments, wanted, fetched
):
    for name, output in programs.items():
        path = bare_machine / name
        path.write_text(f"#!/bin/sh\necho '{output}'\n")
        path.chmod(0o755)
    monkeypatch.setenv("CMAKE_ARGS", arguments)
    assert setup_script["wants_cuda"]() == wanted
    assert any("nvcc" in need for need in setup_script["missing_tools"]()) == fetched


@pytest.mark.parametrize("tool", ["cmake", "ninja"])
def test_a_tool_that_does_not_run_is_fetched(setup_script, bare_machine, tool):
    """As that of a wheel in the user's environment, within the one in which pip builds."""

    def needs():
        return [need for need in setup_script["missing_tools"]() if need.startswith(tool)]

    assert needs()
    path = bare_machine / tool
    path.write_text(f"#!{sys.executable} -I\nimport a_package_that_is_elsewhere\n")
    path.chmod(0o755)
    assert needs()
    path.write_text("#!/bin/sh\necho 99.9\n")
    assert not needs()


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [("", True), ("-DPYCONVNET_EMULATOR=OFF", False), ("-DPYCONVNET_EMULATOR_FLAVOUR=race", True)],
)
def test_where_the_emulator_is_left_out(setup_script, monkeypatch, arguments, wanted):
    monkeypatch.setenv("CMAKE_ARGS", arguments)
    assert setup_script["wants_emulator"]() == wanted


def test_a_module_that_was_left_out_is_named(setup_script):
    """By the device's reason and by the build's last line, both with the words that bring it back."""
    words = "CMAKE_ARGS=-DPYCONVNET_CUDA=ON pip install ."
    done = python(
        "import sys; sys.modules['pyconvnet._cuda'] = None; from pyconvnet import available_devices;"
        "print(dict(available_devices())['cuda:0'])",
        PYCONVNET_CUDA="",
    )
    assert "built without its CUDA module" in done.stdout, done.stderr
    assert words in done.stdout
    assert words in setup_script["LEFT_OUT"]
    assert words in " ".join(README.split())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["[1/4] a", "[2/4] b", "noise", "[4/4] c"], ["25%", "50%", "100%"]),
        (["[  9%] a", "[ 10%] b", "[ 11%] c", "[100%] d"], ["10%", "100%"]),
    ],
)
def test_the_build_tells_how_far_it_is(setup_script, capfd, lines, said):
    with setup_script["Progress"]() as progress:
        progress.terminal, terminal = os.dup(1), progress.terminal
        progress.run(["printf", "%s\\n", *lines])
    if terminal is not None:
        os.close(terminal)
    out = capfd.readouterr().out
    assert [line for line in out.splitlines() if line in lines] == lines
    told = re.findall(r"^\r  pyconvnet: (\d+%) compiled, \d+ s$", out.replace("\r\n", "\n"), re.MULTILINE)
    assert told == said
    with setup_script["Progress"]() as progress, pytest.raises(subprocess.CalledProcessError):
        progress.run(["false"])


def test_an_nvcc_that_does_not_run_is_not_used(setup_script, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDACXX", str(tmp_path / "nvcc"))
    assert setup_script["usable_nvcc"]() is None


def test_a_build_whose_compiler_has_gone_is_dropped(setup_script, tmp_path):
    build = tmp_path / "build"
    build.mkdir()
    cache = build / "CMakeCache.txt"
    cache.write_text(f"CMAKE_CUDA_COMPILER:FILEPATH={sys.executable}\n")
    setup_script["drop_stale"](build)
    assert build.exists()
    cache.write_text(f"CMAKE_CUDA_COMPILER:FILEPATH={tmp_path / 'gone' / 'nvcc'}\n")
    setup_script["drop_stale"](build)
    assert not build.exists()


@pytest.mark.parametrize(
    ("smi", "options", "wanted"),
    [
        ("9.0\n9.0", [], "90-real"),
        ("8.6\n12.0", [], "86-real;120-real"),
        ("No devices were found", [], "75-virtual;80-real;80-virtual;90-real"),
        ("9.0", ["-DPYCONVNET_PORTABLE=ON"], "75-virtual;80-real;80-virtual;90-real"),
        ("9.0", ["-DCMAKE_CUDA_ARCHITECTURES=80"], "80"),
    ],
)
def test_architectures(tmp_path, smi, options, wanted):
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    fake_program(tmp_path, "nvidia-smi", smi)
    script = tmp_path / "script.cmake"
    script.write_text(
        f'include("{ROOT}/cmake/Architectures.cmake")\n'
        "set(all ${CMAKE_CUDA_ARCHITECTURES} ${PYCONVNET_FROM_COMPUTE_80})\n"
        'message(STATUS "is: ${all}")\n'
    )
    environment = {k: v for k, v in os.environ.items() if k != "CUDAARCHS"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = subprocess.run(
        ["cmake", *options, "-P", str(script)], capture_output=True, text=True, check=True, env=environment
    )
    assert f"is: {wanted}\n" in done.stdout


def test_a_release_holds_the_sources(tmp_path):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(
            f"setuptools {setuptools.__version__} cannot read pyproject.toml's metadata; 77 is needed"
        )
    tree = tmp_path / "tree"
    tree.mkdir()
    alone = {"setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "CHANGELOG.md", "LICENSE"}
    for name in (*alone, "MANIFEST.in"):
        shutil.copy(ROOT / name, tree)
    for name in ("cmake", "kernels", "bindings", "pyconvnet", "release"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    code = "from setuptools import build_meta; build_meta.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tree, capture_output=True)
    (archive,) = (tree / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        held = {name.partition("/")[2] for name in tar.getnames()}
    wanted = {
        str(path.relative_to(ROOT))
        for folder in ("kernels", "bindings", "cmake", "pyconvnet", "release")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in (".cu", ".h", ".cpp", ".py", ".cmake", ".txt", ".inc")
    }
    assert wanted <= held
    assert alone <= held
    assert archive.name == f"pyconvnet-{pyconvnet.__version__}.tar.gz"


# ---- what the documents say --------------------------------------------------------------------------------


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, content) of the code blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def test_quick_start_is_two_commands():
    lines = blocks(README)[0][1].splitlines()
    assert len(lines) == 2
    assert "pyconvnet train" in lines[0]
    assert lines[1].startswith("pytest")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_python_of_the_documents(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target).exists(), target
    for language, content in blocks(text):
        if language == "python":
            ast.parse(content)


def test_folders_named_in_the_readme_exist():
    layout = next(content for _, content in blocks(README) if content.startswith("kernels/"))
    for line in layout.splitlines():
        name = line.split()[0]
        if re.fullmatch(r"[a-z_/]+/", name) and not line.startswith(" "):
            assert (ROOT / name).is_dir(), name


def test_the_example_of_the_readme_runs(capsys):
    code = next(
        content for language, content in blocks(README) if language == "python" and "ops.on" in content
    )
    code = code.partition("import cupy")[0].replace("(8, 227, 227, 3)", "(1, 227, 227, 3)")
    scope: dict = {}
    exec(code, scope)
    assert scope["y"].shape == (1, 55, 55, 96)
    assert "conv2d_fprop" in capsys.readouterr().out
