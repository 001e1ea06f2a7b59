"""The module of the cpu device's compiled kernels: the level that runs, what is refused, the instructions."""

from __future__ import annotations

import bisect
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import ROOT

import pyconvnet
from pyconvnet.ops.host import module

LEVELS = list(module.levels())

# ---- which of them runs ------------------------------------------------------------------------------------


def python(code: str, *before: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(Path(pyconvnet.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [*before, sys.executable, "-P", "-c", code],
        capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": path} | environment,
    )  # fmt: skip


SAY = (
    "import numpy as np; from pyconvnet import ops; from pyconvnet.ops.host import module;"
    "assert ops.relu(np.array([-1, 2], np.float32)).tolist() == [0, 2]; print(module.level())"
)


@pytest.mark.parametrize("asked", [*LEVELS, "0", "", "avx3"])
def test_the_level_is_chosen_by_the_environment(asked, monkeypatch):
    monkeypatch.setenv("PYCONVNET_HOST", f" {asked} ")
    monkeypatch.setattr(module, "_asked", module._asked.__wrapped__)
    if asked == "avx3":
        with pytest.raises(ValueError, match="PYCONVNET_HOST must be 0, avx512, avx2, generic or a path"):
            module._default.__wrapped__()
    else:
        assert module._default.__wrapped__() == {"0": None, "": LEVELS[0]}.get(asked, asked)


def test_a_level_that_the_processor_lacks_is_an_error(monkeypatch):
    monkeypatch.setattr(module, "_asked", lambda: "avx512")
    monkeypatch.setattr(module, "levels", lambda: {"generic": 4})
    with pytest.raises(ValueError, match="this processor has only generic"):
        module._default.__wrapped__()


def test_a_module_elsewhere_is_taken(tmp_path):
    place = tmp_path / Path(module.ext().__file__).name
    place.write_bytes(Path(module.ext().__file__).read_bytes())
    done = python(f"{SAY}; assert module.ext().__file__ == {str(place)!r}", PYCONVNET_HOST=str(place))
    assert done.stdout.strip() == LEVELS[0], done.stderr


def test_a_module_that_is_asked_for_and_not_there_is_an_error():
    done = python(SAY, PYCONVNET_HOST="/nowhere/_host.so")
    assert done.returncode == 1
    assert "/nowhere" in done.stderr


def test_without_the_module_the_reference_runs():
    done = python(f"import sys; sys.modules['pyconvnet._host'] = None; {SAY}", PYCONVNET_HOST="")
    assert done.stdout.strip() == "None", done.stderr


def test_levels_share_no_inline_functions():
    """Which the linker would take from any of them: an older processor might not run it. C's have none."""
    for path in sorted((ROOT / "kernels" / "host").glob("*")):
        if (path.suffix == ".h" and path.name not in ("arguments.h", "read.h")) or path.name == "kernels.cpp":
            for name in re.findall(r"#include [<\"](.*)[>\"]", path.read_text()):
                assert name.startswith("host/") or name in ("string.h", "math.h", "immintrin.h"), path.name
            assert not re.search(r"^(inline|template.*inline) ", path.read_text(), re.MULTILINE)


# ---- the module's own checks -------------------------------------------------------------------------------


def good_calls():
    """Arguments that each function of the module takes."""
    level, f32 = LEVELS[0], lambda *shape: np.ones(shape, np.float32)
    lanes = module.levels()[level]
    conv, pool = (2, 4, 5, 3, 6, 3, 2, 4, 5, 1, 1, 1, 0, 1), (2, 5, 4, 3, 2, 3, 4, 2, 1, 1, 0, 0)
    panels, up = f32(3 * 2 * 3 * lanes), f32(2 * 4 * 5 * 6)
    x, y, dx, norm = f32(2, 4, 5, 3), f32(2, 4, 2, 3), f32(2, 5, 4, 3), (2, 4, 5, 3, 1, 1, 2, 1)
    if lanes < 6:
        panels = f32(3 * 2 * 3 * 2 * lanes)
    images, crops = np.ones((2, 5, 4, 3), np.uint8), f32(2, 3, 2, 3)
    argmax, part, pooled = np.zeros(y.shape, np.uint8), (0, 2, 0, 4), f32(2, 5, 4, 3)
    return {
        "pack": (level, conv, 0, 0, 1, f32(6, 3, 2, 3), panels),
        "correlate": (level, conv, part, x, panels, f32(6), 1, up.copy(), up),
        "wgrad": (level, conv, 0, 2, up, x, panels.copy(), f32(6)),
        "wgrad_sum": (level, conv, 1, 0, 18, panels, f32(6, 3, 2, 3)),
        "max_pool": (level, pool, part, pooled, y, argmax),
        "max_pool_backward": (level, pool, (0, 2, 0, 5), y, argmax, None, dx),
        "avg_pool": (level, pool, part, (0, 0, 0, 0), pooled, y),
        "avg_pool_backward": (level, pool, (0, 2, 0, 5), (0, 0, 0, 0), y, None, dx),
        "lrn": (level, norm, 0.1, 0.75, 1.0, 0.0, 0, 2, x, x.copy(), x.copy()),
        "lrn_backward": (level, norm, 0.1, 0.75, 1.0, 0.15, 0, 2, x, x, x, x, 0, x.copy()),
        "relu": (level, 6, 0, 6, f32(6), f32(6)),
        "relu_backward": (level, 6, 0, 6, f32(6), f32(6), f32(6)),
        "column_sums": (level, 2, 3, 0, 2, f32(2, 3), f32(3)),
        "sgd": (level, 6, 0, 6, 0.9, 0.1, 0.2, f32(6), f32(6), f32(6)),
        "augment": (
            level,
            (2, 5, 4, 3, 2, 3, 2, 20),
            0,
            2,
            1,
            images,
            np.ones(2, np.int32),
            np.ones((2, 2), np.int32),
            np.ones(2, np.uint8),
            f32(2, 3),
            f32(5, 4, 3),
            2.0,
            crops,
        ),
    }


#: What no place for it takes, by what stands there.
WRONG = {
    str: ["avx3", b"generic", None, 7],
    int: [-1, 2**40, 2**70, "1", 1.5, None],
    float: ["x", None, [1.0]],
    tuple: [(), None, [1] * 14, "x"],
    np.ndarray: [np.ones(7, np.float32), np.ones((2, 4, 5, 3)), 5, "x", b"x"],
}


@pytest.mark.parametrize("name", good_calls())
def test_the_module_refuses_what_is_wrong(name):
    function = getattr(module.ext(), name)
    args = good_calls()[name]
    assert function(*args) is None
    with pytest.raises(TypeError):
        function(*args[:-1])
    with pytest.raises(TypeError):
        function(*args, 1)
    errors = (TypeError, ValueError, OverflowError, BufferError)
    for i, right in enumerate(args):
        if right is None:
            continue
        for wrong in WRONG[type(right)]:
            with pytest.raises(errors):
                function(*args[:i], wrong, *args[i + 1 :])
        if isinstance(right, tuple):
            for j in range(len(right)):
                for value in (-(2**31), 2**31, None, "x"):
                    with pytest.raises(errors):
                        function(*args[:i], (*right[:j], value, *right[j + 1 :]), *args[i + 1 :])
        if isinstance(right, np.ndarray):
            odd = np.ones((right.size, 2), right.dtype)[:, 0]
            with pytest.raises(errors):
                function(*args[:i], odd, *args[i + 1 :])
    locked = args[-1].copy()
    locked.flags.writeable = False
    with pytest.raises(errors):
        function(*args[:-1], locked)


@pytest.mark.parametrize("name", good_calls())
def test_whatever_numbers_the_module_takes_it_stays_inside_its_arrays(name):
    """Geometries at random: refused, or computed on arrays between guards."""
    function, rolls = getattr(module.ext(), name), random.Random(3)
    args, guarded, taken = list(good_calls()[name]), [], 0
    for i, value in enumerate(args):
        if isinstance(value, np.ndarray):
            guarded.append(np.full(value.size + 32, 77, value.dtype))
            args[i] = guarded[-1][16:-16].reshape(value.shape)
            args[i][...] = 0
    for _ in range(3000):
        spoilt = args.copy()
        for i, value in enumerate(args):
            if isinstance(value, tuple):
                spoilt[i] = tuple(
                    rolls.choice((v, v, v, v, v, rolls.randrange(-3, 7), rolls.choice((2**29, -(2**29)))))
                    for v in value
                )
            elif isinstance(value, int) and rolls.random() < 0.3:
                spoilt[i] = rolls.randrange(-2, 9)
        try:
            function(*spoilt)
        except (TypeError, ValueError, MemoryError):
            continue
        taken += 1
        for array in guarded:
            assert (array[:16] == 77).all()
            assert (array[-16:] == 77).all()
    assert taken


# ---- which instructions it holds ---------------------------------------------------------------------------

#: What x86-64 has not had from the beginning, SSE3 to AVX-512 and the integer instructions beside them.
NEWER = re.compile(
    r"v(?!err|erw)\w+|h(add|sub)p[sd]|addsubp[sd]|mov(ddup|shdup|sldup)|lddqu|pmov[sz]x\w+|pshufb|palignr|pabs[bwd]"
    r"|ph(add|sub)\w+|p?blend\w+|round[ps][sd]|dpp[sd]|insertps|extractps|p(ins|ext)r[bdq]|pmulld|packusdw|ptest"
    r"|pm(ax|in)(sb|sd|uw|ud)|popcnt|crc32\w?|andn|bextr|bls\w+|mulx|rorx|s[ahr][lr]x|pdep|pext|[lt]zcnt|movbe"
)


class Disassembled:
    """The functions of a module by address, and what leads from one to another."""

    def __init__(self, path):
        def said(*command):
            done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True)
            return [line.split() for line in done.stdout.splitlines()], done.stdout

        self.symbols = {w[3]: (int(w[0], 16), int(w[1], 16)) for w in said("nm", "-S")[0] if len(w) == 4}
        self.pointers = {
            int(w[0], 16): int(w[2].partition("+")[2], 16)
            for w in said("objdump", "-R")[0]
            if len(w) == 3 and w[2].startswith("*ABS*+0x")
        }
        self.instructions, self.mentions = {}, {}
        now = 0
        for line in said("objdump", "-d", "-w", "--no-show-raw-insn")[1].splitlines():
            if found := re.fullmatch(r"([0-9a-f]+) <.*>:", line):
                now = int(found[1], 16)
                self.instructions[now], self.mentions[now] = set(), set()
            elif found := re.match(r" *[0-9a-f]+:\t(?:(?:rep\w*|lock|bnd|notrack|data16) )*(\S+)", line):
                self.instructions[now].add(found[1])
                places = re.findall(r"(?:\t(?:\S+ +)+|# )([0-9a-f]+) <", line)
                self.mentions[now].update(int(place, 16) for place in places)
        self._starts = sorted(self.instructions)

    def function_at(self, place):
        """The function that an address lies in."""
        i = bisect.bisect_right(self._starts, place)
        return self._starts[i - 1] if i else None

    def led_to(self, table):
        """The functions that a table of pointers leads to."""
        start, size = self.symbols[table]
        ahead = [self.pointers[at] for at in range(start, start + size, 8) if at in self.pointers]
        ahead = [place for place in ahead if place in self.instructions]
        assert len(ahead) > 15, table
        found = set()
        while ahead:
            place = self.function_at(ahead.pop())
            if place is not None and place not in found:
                found.add(place)
                ahead += self.mentions[place]
        return found

    def newer(self, functions):
        """The instructions in them that old processors lack."""
        return {name for place in functions for name in self.instructions[place] if NEWER.fullmatch(name)}


@pytest.mark.skipif(not (shutil.which("objdump") and shutil.which("nm")), reason="needs binutils")
def test_only_what_two_tables_lead_to_is_newer_than_the_first_x86_64():
    """So the module runs on any: import, arguments, the choice of a level, and the generic one."""
    code = Disassembled(module.ext().__file__)
    levels = "generic", "avx2", "avx512"
    generic, *others = (f"_ZN8pcn_host{8 + len(name)}kernels_{name}E" for name in levels)
    if not code.symbols.keys() >= {generic, *others}:
        pytest.skip("the module has no other level, or no symbols")
    plain, vectors = code.led_to(generic), set.union(*map(code.led_to, others))
    rest = code.instructions.keys() - vectors
    assert not code.newer(plain)
    assert not code.newer(rest)
    assert {"vaddps", "vbroadcastss"} <= code.newer(vectors)
    assert len(rest) > len(plain) > 30


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64")
def test_a_processor_without_avx_runs_it():
    """An emulated one of 2008, on which other instructions end the process."""
    code = (
        "import numpy as np; from pyconvnet import ops; from pyconvnet.ops.host import module;"
        "rng = np.random.default_rng(1);"
        "x, w = (rng.standard_normal(s, np.float32) for s in ((2, 9, 9, 3), (5, 3, 3, 3)));"
        "y = ops.conv2d(x, w, pad=1, activation='relu');"
        "want = ops.conv2d(x.astype(float), w.astype(float), pad=1, activation='relu');"
        "assert np.allclose(y, want, atol=1e-5);"
        "y, argmax = ops.max_pool2d(y, 3, 2);"
        "ops.max_pool2d_backward(y, argmax, (2, 9, 9, 5), 3, 2); ops.lrn(y, 5, 0.1, 0.75, 2.0);"
        "print(*module.levels())"
    )
    emulator = shutil.which("qemu-x86_64"), "-cpu", "Nehalem"
    done = python(code, *emulator, PYCONVNET_HOST="", OPENBLAS_CORETYPE="Nehalem", LD_PRELOAD="")
    assert done.stdout.split() == ["generic"], done.stderr
