"""The documentation names files and functions that are there."""

import re

import pytest
from support import ROOT

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
PLACES = ("", "pyconvnet", "kernels", "benchmarks", "tests", "docs")
HOPS = re.findall(r"^\| \w+ \| (`[^|]*) \|", (ROOT / "docs" / "step.md").read_text(), re.MULTILINE)


def found(name: str) -> list:
    return [ROOT / place / name for place in PLACES if (ROOT / place / name).exists()]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(path):
    """Names with a folder, FAMILY and the like left out."""
    pattern = r"`((?:[a-z_0-9]+/)+[A-Za-z_0-9]+\.(?:py|cu|h|cpp|sh|cmake|md|json))`"
    names = re.findall(pattern, path.read_text())
    made_up = ("runs/", "build/", "kernels/pool/avg_pool2d_2x2_stride2.cu")  # the last: in adding-a-kernel.md
    missing = [n for n in names if "FAMILY" not in n and not n.startswith(made_up) and not found(n)]
    assert not missing


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_modules_that_are_named_are_there(path):
    for name in set(re.findall(r"`pyconvnet((?:\.[a-z_]+)+)", path.read_text())):
        parts = name.strip(".").split(".")
        base = ROOT / "pyconvnet"
        while parts and (base / parts[0]).is_dir():
            base /= parts.pop(0)
        if not parts or parts[0] in ("_cuda", "_emulator"):
            continue
        module = base / f"{parts[0]}.py"
        home = module if module.is_file() else base / "__init__.py"
        word = parts[1] if module.is_file() and len(parts) > 1 else parts[0]
        assert (module.is_file() and len(parts) == 1) or re.search(rf"\b{word}\b", home.read_text()), name


def test_every_hop_of_the_walk_is_there():
    assert len(HOPS) >= 20
    for hop in HOPS:
        file = None
        for name in re.findall(r"`([^`]+)`", hop):
            if "/" in name:
                (file,) = found(name)
                continue
            for word in name.split("."):
                assert re.search(rf"\b{word}\b", file.read_text()), f"{word} is not in {file}"
