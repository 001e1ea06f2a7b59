"""The emulator: every primitive against the host, planted bugs caught, right kernels clean in every mode."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support.emulator import compare_primitives, probes
from support.emulator.probes import Mode
from support.once import once

from pyconvnet import ops
from pyconvnet.common import devices

PLAIN_MODES = [
    Mode("fwd", "late"),
    Mode("rev", "late"),
    Mode("dfs", "eager"),
    Mode("fwd", "eager"),
    Mode("rand", "rand"),
    Mode("mix", "late", 1),
    Mode("mix", "rand", 2),
    Mode("mix", "eager", 3),
    Mode("mix", "late", 4),
]
CHECKED_MODES = [Mode("fwd", "late"), Mode("mix", "rand", 2)]
MODES = {"plain": PLAIN_MODES, "asan": CHECKED_MODES, "race": CHECKED_MODES}

# Bug in planted.cu -> the flavours that must notice it in at least one of their modes, and what they must say
# ("wrong": the result is wrong). In the other flavours it may pass unnoticed.
WRONG = "wrong"
PLANTED = {
    # barriers
    "sum/1": {"plain": WRONG, "race": "uninitialised|race"},
    "sum/2": {"plain": WRONG, "race": "race on shared"},
    "sum/3": {"plain": WRONG, "race": "race on shared"},
    "sum/4": {"plain": WRONG},
    "sum/5": {"plain": WRONG, "race": "uninitialised shared"},
    "tile/1": {"plain": WRONG, "race": "race on shared"},
    "tile/2": {"plain": WRONG, "race": "race on shared"},
    "tile/3": {"plain": WRONG},
    "meet/1": {"plain": r"divergent barrier|after 1 thread"},
    "meet/2": {"plain": r"divergent barrier: __syncthreads at \S+:\d+ and at \S+:\d+"},
    "meet/3": {"plain": r"divergent barrier|threads? of the block exited|thread\(s\)"},
    "meet/4": {"plain": r"deadlock: \[31 threads, e.g. 0, wait in __shfl_xor_sync\]"},
    "meet/5": {"plain": "divergent warp collective: .*__ballot_sync"},
    "meet/6": {"plain": "barrier 1 awaited for 64 and for 32"},
    "meet/7": {"plain": "deadlock: .*named barrier at .*planted.cu"},
    "meet/8": {"plain": "livelock"},
    "rotate/1": {"plain": WRONG, "race": "race on shared"},
    # between blocks
    "grid/1": {"race": "read-after-write race on global"},
    "grid/2": {"race": "read-after-write race on global"},
    "grid/3": {"plain": WRONG, "race": "write-after-write race on global"},
    "grid/4": {"race": "race on global"},
    # memory
    "tile/4": {"race": "out of bounds of shared", "asan": "out of bounds"},
    "edge/1": {"race": "read out of bounds of shared", "asan": "AddressSanitizer"},
    "edge/2": {"plain": "out of bounds", "race": "write out of bounds", "asan": "AddressSanitizer"},
    "edge/3": {"plain": "behind a static shared", "race": "write out of bounds", "asan": "AddressSanitizer"},
    "edge/4": {"plain": "before a static shared", "race": "write out of bounds", "asan": "AddressSanitizer"},
    "edge/5": {"race": "read of 4 bytes .* 0 bytes behind an array of 256", "asan": "AddressSanitizer"},
    "edge/6": {"race": "write of 4 bytes .* 0 bytes behind an array of 256", "asan": "AddressSanitizer"},
    "edge/7": {"race": "read of 16 bytes .* outside every array", "asan": "out of bounds"},
    "edge/8": {"asan": "misaligned"},
    "edge/9": {"plain": "misaligned __ldg", "race": "misaligned", "asan": "misaligned"},
    "edge/10": {"race": "into a read-only array"},
    "edge/11": {"plain": "misaligned cp.async"},
    "edge/12": {"plain": "not in shared memory"},
    "edge/13": {"race": "bytes behind an array of 256", "asan": "AddressSanitizer"},
    "edge/14": {"asan": "shift exponent 32"},
    "limits/1": {"plain": r"1 to 1024 threads.*\(1025, 1, 1\)"},
    "limits/2": {"plain": "dynamic shared memory must be at most 232448"},
    "limits/3": {"plain": "static and dynamic together"},
    "limits/4": {"plain": "a grid must have 1"},
    "limits/5": {"plain": r"a grid must have .*65536\)"},
    "limits/6": {"plain": "53248 bytes .*, 12288 static and 40960 dynamic: more than 49152 must be asked"},
    "limits/7": {"plain": r"more than 49152 bytes of dynamic shared memory must be asked .*\(51200, "},
    "limits/8": {"plain": "50176 bytes of static shared memory; the limit is 49152"},
    # asynchronous
    "copy/1": {"plain": f"{WRONG}|never waited"},
    "copy/2": {"plain": WRONG, "race": "race on shared"},
    "copy/3": {"plain": WRONG, "race": "race on shared"},
    "copy/4": {"plain": "exits with cp.async copies it never waited for"},
    "ring/1": {"plain": "deadlock|wrong|more arrivals"},
    "ring/2": {"plain": "deadlock|wrong|more arrivals"},
    "ring/3": {"plain": r"deadlock: \[32 threads, e.g. 0, wait in mbarrier"},
    "ring/4": {"plain": "deadlock|more arrivals|wrong"},
    "ring/5": {"plain": "used before mbarrier.init"},
    "ring/6": {"plain": "deadlock: .*mbarrier"},
    "manual/1": {"race": "missing fence.proxy.async"},
    "manual/2": {"race": "race on shared"},
    "manual/3": {"plain": "wgmma without a wgmma.fence"},
    "manual/4": {"plain": WRONG},
    "manual/5": {"plain": "where the swizzle of 128 bytes begins"},
    "major/1": {"plain": WRONG},
    "major/2": {"plain": WRONG},
    "major/3": {"plain": f"{WRONG}|where the swizzle of 64 bytes begins"},
    "major/4": {"plain": WRONG},
    "major/5": {"plain": WRONG},
    "major/6": {"plain": WRONG},
    "major/7": {"plain": "MN-major operands without swizzle are not emulated"},
    "vain/1": {"race": "uninitialised shared"},
    "gemm/1": {"plain": f"{WRONG}|more arrivals|deadlock", "race": "race on shared"},
    "gemm/2": {"plain": f"{WRONG}|more arrivals|deadlock"},
    "gemm/3": {"plain": WRONG, "race": "write-after-read race on shared"},
    "gemm/4": {"plain": WRONG},
    "gemm/5": {"plain": "deadlock: .*mbarrier"},
    "gemm/6": {"plain": "must be aligned to 1024"},
    "store/1": {"race": "missing fence.proxy.async"},
    "store/2": {"plain": WRONG},
    "store/3": {"plain": "TMA stores it never waited for"},
    "narrow/1": {"plain": WRONG},
    "narrow/2": {"plain": "deadlock: .*mbarrier"},
    "narrow/3": {"plain": "shared access of 8192 bytes .* is out of bounds"},
    "narrow/4": {"plain": "the transaction count ends at"},
    "narrow/5": {"plain": "1 is no policy of L2"},
    "narrow/6": {"plain": "(not a|misaligned) tensor map"},
    "taps/1": {"plain": r"offsets \(299, 0\); .* at most 255"},
}
# Writing where one must not: only in flavours that stop the write.
HARMFUL = {"tile/4", "edge/5", "edge/6", "edge/7", "edge/8", "edge/13"}
RIGHT = ["sum", "tile", "meet", "rotate", "grid", "edge", "limits", "copy", "ring", "manual", "gemm", "store"]
RIGHT += ["narrow", "taps", "major", "vain"]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """Folders of the test programs by flavour, built at once."""
    missing = probes.missing_tools()
    if missing:
        pytest.skip(f"building the probe programs needs {', '.join(missing)}")

    def build(folder):
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda flavour: probes.build(flavour, folder / flavour), probes.FLAVOURS))

    folder = once(tmp_path_factory, "probes", build)
    return {flavour: folder / flavour for flavour in probes.FLAVOURS}


def said(case: dict) -> str:
    """A case's error, or that its result is wrong, or nothing."""
    return case["error"] or (WRONG if case["wrong"] else "")


MODE_CASES = [pytest.param(f, m, id=f"{f}-{m}") for f, modes in MODES.items() for m in modes]


@pytest.mark.parametrize(("flavour", "mode"), MODE_CASES)
def test_primitives_are_right_and_clean(programs, flavour, mode):
    done = probes.start(programs[flavour] / "primitives", mode=mode)
    cases = json.loads(done.stdout)
    assert len(cases) == 40
    assert {name: said(case) for name, case in cases.items() if said(case)} == {}
    assert all(case["bits"] for case in cases.values())
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""


@pytest.mark.parametrize(("flavour", "mode"), MODE_CASES)
def test_right_kernels_are_clean(programs, flavour, mode):
    done = probes.start(programs[flavour] / "planted", *RIGHT, mode=mode)
    cases = json.loads(done.stdout)
    assert sorted(cases) == sorted(RIGHT)
    assert {name: said(case) for name, case in cases.items() if said(case)} == {}
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def noticed(programs):
    """(flavour, bug) -> what was said of it in that flavour's modes."""
    found: dict[tuple[str, str], list[str]] = {}
    # Plain and race survive every bug they are given: all in one process. ASan ends the process.
    for flavour in ("plain", "race"):
        bugs = [b for b in PLANTED if b not in HARMFUL or (flavour == "race" and "race" in PLANTED[b])]
        for mode in MODES[flavour]:
            for name, case in probes.run(programs[flavour] / "planted", *bugs, mode=mode).items():
                found.setdefault((flavour, name), []).append(said(case))
    for bug in PLANTED:
        if "asan" in PLANTED[bug]:
            done = probes.start(programs["asan"] / "planted", bug)
            found["asan", bug] = [done.stdout + done.stderr]
    return found


@pytest.mark.parametrize(("bug", "flavour"), [(b, f) for b, by in PLANTED.items() for f in by])
def test_planted_bug_is_noticed(noticed, bug, flavour):
    reports = noticed[flavour, bug]
    pattern = PLANTED[bug][flavour]
    assert any(re.search(pattern, report, re.DOTALL) for report in reports), reports


def test_every_planted_bug_is_listed():
    source = (probes.HERE / "planted.cu").read_text()
    listed = re.findall(r"(?:BUG|HARMFUL)\((\w+), (\d+)\)", source)
    assert sorted(f"{name}/{number}" for name, number in listed) == sorted(PLANTED)
    assert sorted(re.findall(r"RIGHT\((\w+)\)", source.replace("RIGHT(F)", ""))) == sorted(RIGHT)
    assert sorted(re.findall(r"HARMFUL\((\w+, \d+)\)", source)) == sorted(
        b.replace("/", ", ") for b in HARMFUL
    )


def test_reports_name_block_thread_and_source(programs):
    error = probes.run(programs["plain"] / "planted", "meet/2")["meet/2"]["error"]
    assert re.match(r"block \(0,0,0\) thread \(\d+,0,0\): divergent barrier", error)
    race = probes.run(programs["race"] / "planted", "tile/2")["tile/2"]["error"]
    assert re.search(
        r"block \d+ thread \d+ \(planted\.cu:\d+\), then block \d+ thread \d+ \(planted\.cu:\d+\)", race
    )


@pytest.mark.parametrize("order", ["fwd", "rev", "dfs", "rand", "mix"])
def test_results_do_not_depend_on_the_workers(programs, order):
    """Also where a result depends on the schedule: that is a function of order and seed alone."""
    bugs = ["sum/1", "sum/2", "tile/1", "tile/2", "rotate/1", "copy/2", "gemm/3"]
    results = [
        probes.run(programs["plain"] / "planted", *bugs, mode=Mode(order, "rand", 5, workers))
        for workers in (1, 2, 7)
    ]
    assert results[0] == results[1] == results[2]
    if order == "mix":  # and the seed does change it
        other = probes.run(programs["plain"] / "planted", *bugs, mode=Mode(order, "rand", 6, 1))
        assert other != results[0]


def test_comparison_with_the_device_notices_differences(programs):
    emulator = probes.run(programs["plain"] / "primitives", "indices", "mma", "votes")
    device = json.loads(json.dumps(emulator))
    assert all(row["equal"] for row in compare_primitives.compare(device, emulator))
    device["mma"]["bits"][3] ^= 1
    device["votes"]["error"] = "illegal memory access"
    del device["indices"]
    rows = {row["primitive"]: row for row in compare_primitives.compare(device, emulator)}
    assert not any(row["equal"] for row in rows.values())
    assert rows["mma"]["differing"] == 1
    assert rows["votes"]["device"] == "illegal memory access"
    assert rows["indices"]["device"] == "did not run"


@pytest.mark.gpu
def test_primitives_on_the_device(tmp_path):
    status = compare_primitives.main(["--build", str(tmp_path)])
    if status == 2:
        pytest.skip("the primitives need a GPU of compute capability 9.0")
    assert status == 0


@pytest.mark.parametrize("words", compare_primitives.CANNOT_RUN)
def test_another_card_is_no_difference(programs, tmp_path, monkeypatch, words):
    """What never reaches the device, a tensor map that is refused say, does not hide it."""
    emulator = probes.run(programs["plain"] / "primitives", "mma", "votes")
    device = {"mma": {"error": f"{words} for it", "wrong": 0, "bits": []}, "votes": emulator["votes"]}
    monkeypatch.setattr(compare_primitives, "run_device", lambda program, names: device)
    monkeypatch.setattr(probes, "build", lambda flavour, folder: programs[flavour])
    monkeypatch.setattr(probes, "run", lambda program, *names: emulator)
    assert compare_primitives.main(["--device", "none", "--build", str(tmp_path)]) == 2
    device["mma"]["error"] = "illegal memory access"
    assert compare_primitives.main(["--device", "none", "--build", str(tmp_path)]) == 1


@pytest.mark.slow
def test_primitives_compile_for_the_device(tmp_path):
    if probes.tool("nvcc") is None:
        pytest.skip("nvcc is not on PATH")
    assert compare_primitives.build_device(tmp_path).exists()


def test_generated_wgmma_is_current():
    script = ROOT / "kernels" / "common" / "generate_wgmma.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_keep_to_the_vocabulary():
    """What would not be emulated, or differ between the two sides, does not appear in a kernel."""
    banned = re.compile(
        r"\basm\b|<<<|\b__shared__\b|\bcooperative_groups\b|\b__activemask\b|\batomicAdd\(\s*\(?float"
    )
    for path in sorted((ROOT / "kernels").glob("*/**/*.cu")):
        code = re.sub(r"//[^\n]*", "", path.read_text())
        assert not banned.search(code), f"{path.name}: {banned.search(code).group()}"
        includes = re.findall(r'#include\s+[<"]([^>"]+)[>"]', code)
        assert not [i for i in includes if i.startswith("cu") or "emulation" in i], path.name


# ---- the module ----
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"order": "backwards"}, "order must be one of fwd, rev, dfs, rand, mix, got 'backwards'"),
        ({"async_": "never"}, "async_ must be one of late, eager, rand, got 'never'"),
        ({"workers": 99}, r"workers must be 0 \(one per core\) to 16, got 99"),
        ({"workers": -1}, "workers must be"),
        ({"image": 49}, "image must be a compute capability such as 80, or 0 for no code, got 49"),
    ],
)
def test_configure_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        devices.emulator().ext.configure(**wrong)


def test_module_says_its_flavour():
    assert devices.emulator().ext.flavour() in probes.FLAVOURS


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(devices.__file__).parents[1]), **environment},
        cwd=ROOT.parent,  # not the source tree, which would shadow the installed package
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PYCONVNET_EMULATOR_ORDER", "sideways"),
        ("PYCONVNET_EMULATOR_SEED", "many"),
        ("PYCONVNET_EMULATOR_ASYNC", "soon"),
        ("PYCONVNET_EMULATOR_WORKERS", "all"),
        ("PYCONVNET_EMULATOR_IMAGE", "new"),
    ],
)
def test_a_wrong_environment_variable_is_an_error(variable, value):
    code = (
        "import numpy\nfrom pyconvnet import ops\nwith ops.on('emulator'):\n    ops.relu(numpy.ones(3, 'f'))"
    )
    done = run_python(code, **{variable: value})
    assert done.returncode == 1
    assert re.search(f"ValueError: {variable} must be .*got '{value}'", done.stderr), done.stderr


def relu_in_a_loop(rounds: int) -> bool:
    """Launches that take several workers; true if every one was right."""
    x = np.linspace(-1, 1, 300_001, dtype=np.float32)
    good = True
    with ops.on("emulator"):
        for _ in range(rounds):
            good &= bool((ops.relu(x) == np.maximum(x, 0)).all())
    return good


def test_threads_may_launch_at_once():
    good = []
    threads = [threading.Thread(target=lambda: good.append(relu_in_a_loop(10))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert good == [True] * 4


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_may_launch():
    busy = threading.Thread(target=relu_in_a_loop, args=(30,))
    busy.start()  # so that the fork happens while launches are under way
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        answers = [pool.apply_async(relu_in_a_loop, (3,)) for _ in range(4)]
        assert [answer.get(timeout=60) for answer in answers] == [True] * 4
    busy.join()
