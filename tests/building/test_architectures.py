"""What kernels are compiled for: images a build holds, rows whose code a device lacks, shared memory."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import ROOT
from support.kernels import fatbin
from support.kernels.kernel_record import tables
from support.kernels.tiles import TILES, Tile

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops import operation, reference

KERNELS = ROOT / "kernels"
PORTABLE = "75-virtual;80-real;80-virtual;90-real"

# ---- launch() and image.h, as nvcc compiles them, on a runtime that keeps CUDA's rules ---------------------


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What tests/support/emulator/launch.cpp reports."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed")
    program, source = tmp_path_factory.mktemp("launch") / "launch", ROOT / "tests" / "support" / "emulator"
    includes = [source / "runtime", KERNELS, KERNELS / "emulation" / "toolkit"]
    command = ["g++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-D__CUDACC__"]
    command += [f"-I{folder}" for folder in includes]
    subprocess.run([*command, source / "launch.cpp", "-o", program], check=True)
    return json.loads(subprocess.run([program], capture_output=True, text=True, check=True).stdout)


def test_launch_counts_static_shared_memory(told):
    """Of (static, dynamic) KiB (12, 40), (0, 48), (0, 48 and a bit), (1, 226), (2, 226), (12, 36)."""
    assert told["shared"] == [0, 0, 0, 0, 1, 0]  # 228 KiB are more than there are
    assert told["asked"] == [40 << 10, 0, (48 << 10) + 16, 226 << 10, 0, 0]
    assert told["last"] == [0]  # a refused launch haunts nobody


def test_a_kernel_is_asked_about_once_a_device(told):
    assert told["questions"] == [0, 1, 2]
    assert told["other"] == [0]  # where it has more static memory than on the first


def test_images_are_told_apart(told):
    """Code for 7.5, 8.0, 9.0, none; at least 7.5, 8.0, 9.0."""
    assert told["image"] == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
    assert told["unknown"] == [1, 0]  # no device to ask: not remembered
    assert told["no_code"] == [209, 209, 0]  # cudaErrorNoKernelImageForDevice


# ---- rows whose code the device lacks ----------------------------------------------------------------------

# Primitives of common/primitives.h -> the oldest architecture whose code does what they say; 0: every one's.
SINCE = {
    r"mma_m16n8k\w+|to_tf32|kTensorCores": 80,
    r"mbarrier_\w+|fence_mbarrier_init|fence_proxy_async|tma_\w+": 90,
    r"wgmma_\w+|setmaxnreg_\w+|pin": 90,
    r"elect_one|prefetch_tensor_map|l2_evict_\w+|stmatrix_x\d\w*|grid_dependency_\w+|launch_dependent": 90,
    r"shared_address|cp_async_\w+|ldmatrix_x\d\w*|to_bf16|from_bf16|named_barrier_\w+|read_in_vain": 0,
}


def code(path: Path) -> str:
    return re.sub(r"//[^\n]*", "", path.read_text())


def own_sources(path: Path) -> list[Path]:
    """A kernel file and what it includes of its family."""
    found, todo = [], [path]
    while todo:
        file = todo.pop()
        if file not in found:
            found.append(file)
            names = re.findall(r'#\s*include\s+"([^"]+)"', file.read_text())
            todo += [KERNELS / name for name in names if not name.startswith("common/")]
    return found


def needed(path: Path) -> int:
    """The oldest architecture whose code of this kernel file is whole; 0: every one's."""
    text = "".join(map(code, own_sources(path)))
    return max(since for names, since in SINCE.items() if not since or re.search(rf"\b({names})\b", text))


CU_FILES = sorted(KERNELS.glob("*/**/*.cu"))
#: Kernel -> the file whose code it is: its own, or the header that makes it of a line of tiles.inc.
KERNEL_FILES = {path.stem: path for path in CU_FILES} | {tile.stem: KERNELS / tile.header for tile in TILES}
CONDITIONAL_STEMS = {stem for stem, path in KERNEL_FILES.items() if needed(path)}
HOPPER_STEMS = {stem for stem, path in KERNEL_FILES.items() if path.parent.name == "hopper"}


def test_every_primitive_is_classified():
    text = code(KERNELS / "common" / "primitives_device.h").replace("\\\n", " ")
    names = set(re.findall(r"\bPCN_FN\s+[\w]+\s+(\w+)\(", text)) | set(
        re.findall(r"\bPCN_(?:CP_ASYNC|MMA)\((\w+), ", text)
    )
    names -= {"NAME", "ldmatrix_x1", "ldmatrix_x2", "ldmatrix_x4"}
    assert len(names) > 30
    assert not {name for name in names if not any(re.fullmatch(p, name) for p in SINCE)}


@pytest.mark.parametrize("path", sorted(set(KERNEL_FILES.values())), ids=lambda path: path.stem)
def test_code_that_differs_by_architecture_says_what_it_needs(path):
    """A body that is empty, or other, in old code is behind a row that asks for new code."""
    text = "".join(map(code, own_sources(path)))
    asked = re.findall(r"\bimage_at_least\(\s*[^;]*?,\s*(\w+)\)", text)
    wanted = 90 if path.parent.name == "hopper" else needed(path)  # compiled for 90a alone
    assert {80 if name == "kTensorCoresSince" else int(name) for name in asked} == {wanted} - {0}


def test_code_for_9_0_may_be_made_from_compute_80():
    """cmake/Architectures.cmake does: nothing outside hopper/ is compiled otherwise for what is newer."""
    assert not [path.name for path in CU_FILES if path.parent.name != "hopper" and needed(path) > 80]
    limits = {
        int(limit)
        for path in KERNELS.rglob("*.h")
        if "emulation" not in path.parts
        for limit in re.findall(r"__CUDA_ARCH__\s*\S+\s*(\d{3,})", code(path))
    }
    assert limits == {800, 900}, "of which `needed` knows what stands behind 900"


@pytest.mark.slow
@pytest.mark.parametrize(
    "stem", ["conv/conv2d_fprop_mma64x64", "conv/conv2d_wgrad_tile64", "norm/lrn_shared", "loss/softmax_warp"]
)
def test_ptx_for_9_0_is_that_for_8_0(tmp_path, stem):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    made = []
    for version in ("80", "90"):
        out = tmp_path / f"{version}.ptx"
        command = ["nvcc", "-std=c++17", f"-I{KERNELS}", "-ptx", f"-arch=compute_{version}", "-o", out]
        made_of = next((tile.write(tmp_path) for tile in TILES if tile.stem == Path(stem).name), None)
        subprocess.run([*command, made_of or KERNELS / f"{stem}.cu"], check=True)
        text = re.sub(r"_cu_[0-9a-f]{8}_\d+", "", out.read_text())  # the number of nvcc's process
        made.append(re.sub(r"\d+_GLOBAL", "", text.replace(f".target sm_{version}", ".target")))
    assert made[0] == made[1]


def test_a_body_that_is_left_out_traps():
    found = 0
    for path in [*KERNELS.glob("*/**/*.cu"), *KERNELS.glob("*/**/*.h")]:
        branches = len(re.findall(r"constexpr \(kTensorCores\)", code(path)))
        assert len(re.findall(r"\belse \{\s*trap\(\);\s*\}", code(path))) == branches, path.name
        found += branches
    assert found >= 3


@pytest.fixture
def image():
    """Sets what the emulated kernels are said to be compiled for."""
    ext = devices.emulator().ext

    def configure(**image):
        ext.configure(**image)
        operation.forget()  # the code of a module does not change under what has been prepared, but here

    yield lambda version: configure(image=version)
    configure()


OPS = {"conv2d": "conv2d_fprop", "conv2d_dgrad": "conv2d_dgrad", "conv2d_wgrad": "conv2d_wgrad"}


def test_rows_without_their_code_are_refused(image):
    """Walks every row: code for 7.5 lacks what such code does not do, code for 8.0 what is made for 9.0."""
    lost, kept = set(), set()
    for op, precision, (x, w) in itertools.product(
        OPS,
        ("fp32", "tf32", "fp32x3", "bf16"),
        (((2, 13, 13, 64), (192, 3, 3, 64)), ((4, 9, 9, 48), (8, 1, 1, 48))),
    ):
        names = {}
        for version in (90, 80, 75):
            image(version)
            names[version] = ops.kernels(op, x, w, precision=precision, device="emulator")
        assert names[80] == [name for name in names[90] if name not in HOPPER_STEMS]
        assert names[75] == [name for name in names[90] if name not in CONDITIONAL_STEMS]
        assert names[75]
        lost |= set(names[90]) - set(names[75])
        kept |= set(names[75])
    assert lost == CONDITIONAL_STEMS
    every = tables(devices.emulator().ext)
    assert lost | kept >= {name for table in OPS.values() for name in every[table]} - {
        "conv2d_fprop_first_layer", "conv2d_wgrad_first_layer"  # other shapes
    }  # fmt: skip


def test_a_portable_row_runs_instead(image):
    x = np.random.default_rng(0).standard_normal((1, 6, 6, 8), np.float32)
    w = np.random.default_rng(1).standard_normal((8, 3, 3, 8), np.float32)
    wanted = reference.conv2d(x.astype(np.float64), w.astype(np.float64))
    with ops.on("emulator"):
        coarse = ops.conv2d(x, w, precision="tf32", kernel="conv2d_fprop_mma64x64")
        image(75)
        fine = ops.conv2d(x, w, precision="tf32")
        with pytest.raises(ValueError, match=r"mma64x64' does not apply .* conv2d_fprop_generic"):
            ops.conv2d(x, w, precision="tf32", kernel="conv2d_fprop_mma64x64")
    eps = np.finfo(np.float32).eps * np.sqrt(72) * np.abs(wanted).max()
    assert np.abs(fine - wanted).max() <= eps < np.abs(coarse - wanted).max()


def test_no_code_at_all_is_told_by_the_kernel(image):
    image(0)
    with ops.on("emulator"), pytest.raises(RuntimeError, match=r"relu_forward: .*no kernel image is"):
        ops.relu(np.ones(3, np.float32))


# ---- which code a card runs --------------------------------------------------------------------------------

GARBAGE = "75-virtual 80-real 90-real"  # the list that left newer cards without tensor cores


@pytest.mark.parametrize(
    ("architectures", "capability", "wanted"),
    [
        (PORTABLE, 75, "PTX for 7.5"), (PORTABLE, 80, "machine code for 8.0"), (PORTABLE, 70, None),
        (PORTABLE, 86, "machine code for 8.0"), (PORTABLE, 89, "machine code for 8.0"),
        (PORTABLE, 87, "PTX for 8.0"), (PORTABLE, 90, "machine code for 9.0"),
        (PORTABLE, 100, "PTX for 8.0"), (PORTABLE, 120, "PTX for 8.0"), (GARBAGE, 100, "PTX for 7.5"),
        ("75-virtual", 90, "PTX for 7.5"), ("80-real", 90, None), ("80", 90, "PTX for 8.0"),
        ("90", 90, "machine code for 9.0"), ("90a-real", 90, "machine code for 9.0"), ("90a", 100, None),
        ("100f", 103, "machine code for 10.0"), ("100f", 120, None), ("86-real", 80, None),
        ("86-real 120-real", 120, "machine code for 12.0"), ("75-virtual 80-virtual", 87, "PTX for 8.0"),
    ],
)  # fmt: skip
def test_which_code_a_card_runs(architectures, capability, wanted):
    found = devices.code_for(architectures.replace(";", " "), capability)
    assert (found if found is None else str(found)) == wanted


def cuda_device(monkeypatch, architectures: str, capability: str) -> devices.Device:
    """``cuda:0`` of a module and a card that are not there."""
    ext = SimpleNamespace(device_count=lambda: (1, ""), architectures=architectures)
    card = SimpleNamespace(Device=lambda index: SimpleNamespace(compute_capability=capability))
    monkeypatch.setattr(devices, "_extension", lambda name, path: ext)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=card))
    return devices.cuda.__wrapped__(0)


def test_a_device_without_code_does_not_work(monkeypatch):
    message = "cuda:0 .* compute capability 9.0, pyconvnet._cuda holds code for 80-real; .*ARCHITECTURES=90"
    with pytest.raises(devices.DeviceUnavailableError, match=message):
        cuda_device(monkeypatch, "80-real", "90")


@pytest.mark.parametrize(
    ("architectures", "capability", "warns"),
    [("75-virtual", "90", True), (GARBAGE, "120", True), ("75-virtual", "75", False),
     ("native", "120", False), (PORTABLE.replace(";", " "), "120", False)],
)  # fmt: skip
def test_idle_tensor_cores_are_told(monkeypatch, architectures, capability, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        device = cuda_device(monkeypatch, architectures, capability)
    assert [str(w.message) for w in caught if "its tensor cores stay idle" in str(w.message)] == [
        str(w.message) for w in caught
    ]
    assert bool(caught) == warns
    assert (device.code is None) == (architectures == "native")


# ---- the images a build holds ------------------------------------------------------------------------------


def test_the_module_holds_what_it_says():
    """Every unit of the compiled module, whatever it was built for."""
    try:
        module = devices._extension("_cuda", os.environ.get("PYCONVNET_CUDA"))
        wanted = fatbin.listed(module.architectures)
        devices.code_for(module.architectures, 90)
    except (devices.DeviceUnavailableError, ValueError) as error:
        pytest.skip(str(error))
    held = fatbin.images(Path(module.__file__))
    files = [path for path in CU_FILES if path.relative_to(KERNELS).parts[0] in module.families]
    tiles = TILES if "conv" in module.families else []
    hopper = [path for path in files if path.parent.name == "hopper"]
    for_hopper = len(hopper) + units([], [tile for tile in tiles if tile.stem in HOPPER_STEMS])
    expected = [wanted] * (units(files, tiles) - for_hopper) + [{"90a-real"}] * for_hopper
    assert sorted(map(sorted, held)) == sorted(map(sorted, expected))


def units(files: list[Path], tiles: list[Tile]) -> int:
    """Of how many translation units CMakeLists.txt makes of kernel files and tiles."""
    alone = [path for path in files if path.parent.name in ("conv", "hopper")]
    lists = {tile.line.partition("(")[0].replace("_ROWS", "_TILE") for tile in tiles}
    lists = {"WGMMA" if "_WGMMA" in name else name for name in lists}
    return len(alone) + len({path.parent for path in files} - {path.parent for path in alone}) + len(lists)


SMALL = "filters_from_depth_any.cu"


def built(
    folder: Path,
    options: list[str],
    source: str = f"space_to_depth/{SMALL}",
    root: Path = ROOT,
    family: str = "space_to_depth",
) -> set[str]:
    """The images in the object of a kernel file, compiled as the build compiles it where there is no GPU."""
    for tool in ("cmake", "ninja", "nvcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    pytest.importorskip("pybind11")
    fake = folder / "bin"
    fake.mkdir()
    (fake / "nvidia-smi").write_text("#!/bin/sh\nexit 1\n")
    (fake / "nvidia-smi").chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if k not in ("CUDAARCHS", "CMAKE_ARGS")}
    environment["PATH"] = f"{fake}{os.pathsep}{environment['PATH']}"
    target = "cuda_kernels_hopper" if "/hopper/" in source else "cuda_kernels"
    place = "kernels/" if (root / "kernels" / source).exists() else ""  # else units/, where tiles have files
    item = f"CMakeFiles/{target}.dir/{place}{source}.o"
    configure = ["cmake", "-S", root, "-B", folder / "build", "-G", "Ninja", "-DPYCONVNET_EMULATOR=OFF"]
    configure.append("-DPYCONVNET_UNITS=OFF")  # the file has an object of its own
    configure += [f"-DPYCONVNET_FAMILIES={family}", f"-DPython_EXECUTABLE={sys.executable}"]
    for command in ([*configure, *options], ["ninja", "-C", folder / "build", item]):
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (held,) = fatbin.images(folder / "build" / item)
    return held


def test_images_are_read_as_nvcc_writes_them(tmp_path):
    """The portable list without CMake, which takes longer than the compiler."""
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    made = tmp_path / "made.o"
    command = ["nvcc", "-std=c++17", f"-I{KERNELS}", "--compress-mode=size", "-c", "-o", made]
    for name in sorted(fatbin.listed(PORTABLE)):
        number, _, kind = name.partition("-")
        code = "sm" if kind == "real" else "compute"
        command.append(f"-gencode=arch=compute_{min(number, '80')},code={code}_{number}")
    subprocess.run([*command, KERNELS / "space_to_depth" / SMALL], check=True)
    assert fatbin.images(made) == [{"75-virtual", "80-real", "80-virtual", "90-real"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architectures", "wanted"),
    [
        (None, {"75-virtual", "80-real", "80-virtual", "90-real"}),
        ("75-virtual", {"75-virtual"}), ("80", {"80-real", "80-virtual"}), ("80-real", {"80-real"}),
        ("90a-real", {"90a-real"}), ("86-real;120-real", {"86-real", "120-real"}),
        ("100f", {"100f-real", "100f-virtual"}),
    ],
)  # fmt: skip
def test_images_of_a_chosen_list(tmp_path, architectures, wanted):
    """What CMake's list of architectures becomes; without one, the portable list."""
    held = built(tmp_path, [f"-DCMAKE_CUDA_ARCHITECTURES={architectures}"] if architectures else [])
    assert held == wanted == fatbin.listed(architectures or PORTABLE)


@pytest.mark.slow
def test_images_of_tensor_core_kernels(tmp_path):
    held = built(tmp_path, [], "units/conv2d_fprop_mma64x64_bf16.cu", family="conv")
    assert held == fatbin.listed(PORTABLE)


@pytest.mark.slow
def test_a_hopper_kernel_has_one_image(tmp_path):
    """PTX beside it would run on newer cards, without what only 9.0 has."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("cmake", "kernels", "bindings"):
        shutil.copytree(ROOT / name, tree / name)
    shutil.copy(ROOT / "CMakeLists.txt", tree)
    family = tree / "kernels" / "space_to_depth"
    (family / "hopper").mkdir()
    (family / SMALL).rename(family / "hopper" / SMALL)
    assert built(tmp_path, [], f"space_to_depth/hopper/{SMALL}", tree) == {"90a-real"}
