"""The release script: what it compiles for, which wheels it lets through; the package's metadata."""

from __future__ import annotations

import re
import runpy
import sys
import tomllib
import zipfile

import pytest
from support import ROOT

from pyconvnet.common import version

METADATA = "Metadata-Version: 2.4\nName: pyconvnet\nVersion: 1.2.3\n"
WHOLE = {
    "pyconvnet/__init__.py": "",
    "pyconvnet/_cuda.cpython-311-x86_64-linux-gnu.so": "",
    "pyconvnet/_emulator.cpython-311-x86_64-linux-gnu.so": "",
    "pyconvnet/_host.cpython-311-x86_64-linux-gnu.so": "",
    "pyconvnet-1.2.3.dist-info/METADATA": METADATA,
    "pyconvnet-1.2.3.dist-info/licenses/LICENSE": "",
}


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(ROOT / "release" / "wheels.py"))


def wheel(folder, files, tag="manylinux_2_34_x86_64"):
    path = folder / f"pyconvnet-1.2.3-cp311-cp311-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_whole_wheel_passes(script, tmp_path):
    assert script["check_wheel"](wheel(tmp_path, WHOLE), cuda=True) == "1.2.3"


@pytest.mark.parametrize(
    ("change", "tag", "message"),
    [
        ("pyconvnet/_cuda.cpython-311-x86_64-linux-gnu.so", "manylinux_2_34_x86_64", "compiled modules"),
        ("pyconvnet/_emulator.cpython-311-x86_64-linux-gnu.so", "manylinux_2_34_x86_64", "compiled modules"),
        ("pyconvnet/_host.cpython-311-x86_64-linux-gnu.so", "manylinux_2_34_x86_64", "compiled modules"),
        ("pyconvnet-1.2.3.dist-info/licenses/LICENSE", "manylinux_2_34_x86_64", "no LICENSE"),
        ("tests/conftest.py", "manylinux_2_34_x86_64", "would install tests"),
        (None, "linux_x86_64", "no manylinux wheel"),
    ],
)
def test_a_wheel_that_lacks_something_is_refused(script, tmp_path, change, tag, message):
    files = {name: content for name, content in WHOLE.items() if name != change}
    if change not in WHOLE and change is not None:
        files[change] = ""
    with pytest.raises(SystemExit, match=message):
        script["check_wheel"](wheel(tmp_path, files, tag), cuda=True)


def test_cmake_knows_the_options_of_release_wheels(script):
    sources = [ROOT / "CMakeLists.txt", *(ROOT / "cmake").glob("*"), *(ROOT / "kernels").rglob("*.cmake")]
    text = "".join(path.read_text() for path in sources)
    for option in script["PORTABLE"].split():
        name = option.removeprefix("-D").partition("=")[0]
        assert re.search(rf"(if\(|if\(NOT |\$\{{){name}\b", text), name


def test_this_python_is_the_one_taken_of_its_version(script):
    assert sys.executable in script["interpreters"]()


def test_the_metadata_are_complete():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "BSD-2-Clause"
    assert [(ROOT / name).is_file() for name in project["license-files"]] == [True]
    assert project["authors"] == [{"name": "pyconvnet developers"}]
    assert project["keywords"]
    assert not [c for c in project["classifiers"] if c.startswith("License")]  # the expression says it
    pythons = {c.rpartition(" ")[2] for c in project["classifiers"] if "Python :: 3." in c}
    assert project["requires-python"] == ">=3.11"
    assert {f"3.{minor}" for minor in range(11, 15)} == pythons
    assert "version" in project["dynamic"]


def test_the_changelog_has_the_version():
    assert f"\n## {version.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()
