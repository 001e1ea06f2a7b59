"""What the emulator counts of the warps' memory accesses: numbers one can work out, and bounds held."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from report import accesses, compiler, measure, render
from report.reasons import REASONS
from support.emulator import probes
from support.kernels import kernel_record

from pyconvnet import ops
from pyconvnet.common import devices

LOAD, STORE, ATOMIC = 0, 1, 2
GLOBAL, SHARED = 0, 1


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Case of counts.cu -> the rows of its accesses."""
    missing = probes.missing_tools()
    if missing:
        pytest.skip(f"building the probe program needs {', '.join(missing)}")
    folder = probes.build("count", tmp_path_factory.mktemp("counts"))
    done = subprocess.run([folder / "counts"], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def row(rows, shared, kind, width=4):
    """(requests, lanes, cost, ideal) of the only access of that kind."""
    found = [r for r in rows if (r["shared"], r["kind"], r["bytes"]) == (shared, kind, width)]
    assert len(found) == 1, rows
    return tuple(found[0][name] for name in ("requests", "lanes", "cost", "ideal"))


# Case -> which access, and its (requests, lanes, sectors or passes, the least).
KNOWN = {
    "load_stride1": ((GLOBAL, LOAD), (1, 32, 4, 4)),
    "load_stride2": ((GLOBAL, LOAD), (1, 32, 8, 4)),
    "load_stride8": ((GLOBAL, LOAD), (1, 32, 32, 4)),
    "load_stride32": ((GLOBAL, LOAD), (1, 32, 32, 4)),
    "load_misaligned": ((GLOBAL, LOAD), (1, 32, 5, 4)),
    "store_stride1": ((GLOBAL, STORE), (1, 32, 4, 4)),
    "store_stride2": ((GLOBAL, STORE), (1, 32, 8, 4)),
    "store_misaligned": ((GLOBAL, STORE), (1, 32, 5, 4)),
    "load4_stride1": ((GLOBAL, LOAD, 16), (1, 32, 16, 16)),
    "load4_stride2": ((GLOBAL, LOAD, 16), (1, 32, 32, 16)),
    "ldg4": ((GLOBAL, LOAD, 16), (1, 32, 16, 16)),
    "broadcast": ((GLOBAL, LOAD), (1, 32, 1, 1)),
    "transpose_narrow": ((SHARED, LOAD), (32, 1024, 1024, 32)),
    "transpose_padded": ((SHARED, LOAD), (32, 1024, 32, 32)),
    "shared_stride1": ((SHARED, LOAD), (1, 32, 1, 1)),
    "shared_stride2": ((SHARED, LOAD), (1, 32, 2, 1)),
    "shared_stride3": ((SHARED, LOAD), (1, 32, 1, 1)),
    "shared_stride32": ((SHARED, LOAD), (1, 32, 32, 1)),
    "shared_broadcast": ((SHARED, LOAD), (1, 32, 1, 1)),
    # 16 bytes a lane: 8 lanes a pass
    "shared4_stride1": ((SHARED, LOAD, 16), (1, 32, 4, 4)),
    "shared4_stride2": ((SHARED, LOAD, 16), (1, 32, 8, 4)),
    "shared4_stride8": ((SHARED, STORE, 16), (1, 32, 32, 4)),
    "shared4_padded": ((SHARED, STORE, 16), (1, 32, 4, 4)),
    # 8 bytes a lane: 16 lanes a pass
    "shared2_stride1": ((SHARED, LOAD, 8), (1, 32, 2, 2)),
    "shared2_stride2": ((SHARED, STORE, 8), (1, 32, 4, 2)),
    "atomic_stride1": ((SHARED, ATOMIC), (1, 32, 1, 1)),
    "atomic_stride4": ((SHARED, ATOMIC), (1, 32, 4, 1)),
    # rows 128 bytes apart: all in one group of 4 banks unless swizzled
    "ldmatrix_plain": ((SHARED, LOAD, 16), (1, 32, 32, 4)),
    "ldmatrix_swizzled": ((SHARED, LOAD, 16), (1, 32, 4, 4)),
    "ldmatrix_x2": ((SHARED, LOAD, 16), (1, 16, 2, 2)),
    "cp_async": ((GLOBAL, LOAD, 16), (1, 32, 16, 16)),
    "cp_async_stride2": ((GLOBAL, LOAD, 16), (1, 32, 32, 16)),
    # the lanes that only fill with zeros read nothing
    "cp_async_partial": ((GLOBAL, LOAD, 16), (1, 16, 8, 8)),
    # lanes that part and meet again
    "ragged_loop": ((GLOBAL, LOAD), (32, 528, 80, 80)),
    "skip": ((GLOBAL, LOAD), (32, 992, 128, 128)),
    "skip_back": ((GLOBAL, LOAD), (32, 992, 128, 128)),
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_answers(cases, case):
    which, expected = KNOWN[case]
    assert row(cases[case], *which) == expected


def test_cp_async_writes_shared_memory_in_every_lane(cases):
    assert row(cases["cp_async_partial"], SHARED, STORE, 16) == (1, 32, 4, 4)


def test_the_two_ways_of_a_branch_are_two_requests_and_meet_behind_it(cases):
    rows = cases["diverge"]
    loads = [(r["requests"], r["lanes"]) for r in rows if r["kind"] == LOAD]
    assert loads == [(1, 16), (1, 16)]
    assert row(rows, GLOBAL, STORE) == (1, 32, 4, 4)


def test_two_calls_of_one_function_are_two_places(cases):
    loads = sorted((r["requests"], r["lanes"], r["cost"]) for r in cases["call"] if r["kind"] == LOAD)
    assert loads == [(1, 8, 1), (1, 32, 4)]


def test_every_case_is_known(cases):
    assert set(cases) == {*KNOWN, "diverge", "call"}


# ---- the library's kernels, on an emulator of flavour `count` ----
try:
    COUNTING = devices.emulator().ext.flavour() == "count"
except devices.DeviceUnavailableError:
    COUNTING = False
needs_counting = pytest.mark.skipif(
    not COUNTING, reason="PYCONVNET_EMULATOR is not a build of flavour count; .ci/run report makes one"
)


@pytest.mark.skipif(COUNTING, reason="this build counts")
def test_other_flavours_refuse():
    with pytest.raises(RuntimeError, match="PYCONVNET_EMULATOR_FLAVOUR=count"):
        devices.emulator().ext.count_accesses(True)


@needs_counting
def test_nothing_is_counted_unless_asked():
    ext = devices.emulator().ext
    x = accesses.aligned_array((64,))
    x[...] = 1
    with ops.on("emulator"):
        ops.relu(x)
    assert ext.access_counts() == []
    with accesses.counted() as found, ops.on("emulator"):
        ops.relu(x)
    assert [launch.stem for launch in found.launches] == ["relu_forward"]
    with ops.on("emulator"):
        ops.relu(x)
    assert ext.access_counts() == []


@needs_counting
def test_counting_leaves_results_alone(rng):
    x = rng.standard_normal((2, 7, 7, 32), dtype=np.float32)
    w = rng.standard_normal((48, 3, 3, 32), dtype=np.float32)
    with ops.on("emulator"):
        plain = ops.conv2d(x, w)
        with accesses.counted() as found:
            counted = ops.conv2d(x, w)
    assert (plain == counted).all()
    assert found.launches


@needs_counting
def test_some_blocks_of_a_launch_are_enough():
    x = accesses.aligned_array((50_000,))
    x[...] = 1
    with ops.on("emulator"):
        with accesses.counted() as every:
            ops.relu(x)
        with accesses.counted(blocks=3) as some:
            ops.relu(x)
    whole, part = (found.launches[0].summary()["load"] for found in (every, some))
    assert part.requests < whole.requests
    assert part.ratio == whole.ratio == 1


@needs_counting
def test_places_have_names_and_lines():
    x = accesses.aligned_array((256,))
    x[...] = 1
    with accesses.counted(resolve=True) as found, ops.on("emulator"):
        ops.relu(x)
    (launch,) = found.launches
    assert "elementwise_kernel" in launch.name
    (store,) = [site for site in launch.sites if site.what == "store"]
    assert store.where.startswith("pointwise/elementwise.h:")
    assert (launch.threads, launch.grid, launch.dynamic_bytes) == (256, (1, 1, 1), 0)


@pytest.fixture(scope="module")
def rows():
    """What every kernel of this build was counted at."""
    return render.measured(measure.run(), compiler.short)


@needs_counting
def test_kernels_hold_their_bounds(rows):
    """Coalesced and free of conflicts, or a reason is written down."""
    whole = set(devices.emulator().ext.families) >= set(measure.FAMILIES)
    assert measure.unexplained(rows, REASONS, whole) == []


@needs_counting
def test_every_kernel_was_counted(rows):
    ext = devices.emulator().ext
    tables = {name for names in kernel_record.tables(ext).values() for name in names}
    counted = {row["stem"] for row in rows}
    assert tables - counted == set()
    assert all(sum(c["requests"] for c in row["counts"].values()) > 0 for row in rows)


def test_a_violation_without_a_reason_is_reported():
    count = {"requests": 8, "cost": 64, "ideal": 8}
    bad = {
        "stem": "made_up",
        "kernel": "k",
        "exceptions": {"shared load of 4 bytes at pool/made_up.cu": count},
    }
    assert len(measure.unexplained([bad], {}, whole=False)) == 1
    assert measure.unexplained([bad], {"shared load at pool/made_up.cu": "so"}) == []
    assert measure.unexplained([bad], {"made_up: shared load at pool/made_up.cu": "so"}) == []
    assert len(measure.unexplained([bad], {"load at pool/made_up.cu": "so"}, whole=False)) == 1
    assert "nothing needs" in measure.unexplained([], {"load at pool/made_up.cu": "so"})[0]


# ---- planted violations: the results stay right, only the accesses get worse ----
PLANTED = [  # file, text, with what to replace it, how often it is there
    ("conv/mma_tile.h", "chunk ^ (row & 7)", "chunk", 1),
    ("pointwise/elementwise.h", "+ threadIdx.x;\n  float4 va", "+ threadIdx.x * UNROLL;\n  float4 va", 1),
    ("pointwise/elementwise.h", "first + u * THREADS", "first + u", 2),
]
LOOK = """
import sys, json
sys.path.insert(0, sys.argv[1])
import numpy as np
from pyconvnet import ops
from report import accesses, compiler, measure, render
x, w = accesses.aligned_array((1, 8, 8, 64)), accesses.aligned_array((64, 3, 3, 64))
x[...], w[...] = 1, 1
with accesses.aligned_allocations(), ops.on("emulator"), accesses.counted(resolve=True) as found:
    y = ops.conv2d(x, w, precision="tf32", kernel="conv2d_fprop_mma64x64")
    z = ops.relu(x)
assert (y == 576).all() and (z == 1).all(), "the results are wrong as well"
rows = render.measured([("", "", "", launch) for launch in found.launches], compiler.short)
print(json.dumps(measure.unexplained(rows, {}, whole=False)))
"""


@pytest.mark.slow
def test_planted_violations_are_caught(tmp_path):
    missing = probes.missing_tools("ninja")
    if missing:
        pytest.skip(f"building the emulator needs {', '.join(missing)}")
    for name in ("kernels", "bindings", "cmake"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "CMakeLists.txt", tmp_path)
    for file, old, new, times in PLANTED:
        path = tmp_path / "kernels" / file
        assert path.read_text().count(old) == times, f"{file}: {old}"
        path.write_text(path.read_text().replace(old, new))
    build = tmp_path / "build"
    configure = [probes.tool("cmake"), "-S", tmp_path, "-B", build, "-GNinja", "-DPYCONVNET_CUDA=OFF"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={probes.tool('ninja')}", f"-DPython_EXECUTABLE={sys.executable}"]
    configure += ["-DPYCONVNET_FAMILIES=conv;pointwise", "-DPYCONVNET_EMULATOR_FLAVOUR=count"]
    for command in (configure, [probes.tool("cmake"), "--build", build]):
        subprocess.run(command, check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["PYCONVNET_EMULATOR"] = str(next(build.glob("_emulator*.so")))
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(ROOT / "benchmarks")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert any("shared load of 16 bytes at conv/mma" in line for line in said), said
    assert any("load of 16 bytes at pointwise/elementwise.h" in line for line in said), said
