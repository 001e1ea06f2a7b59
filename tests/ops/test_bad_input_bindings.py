"""Bad calls of the compiled module itself, below the checks of ``ops``: refused or harmless, never a crash.

The correct calls are recorded from ``ops``; then every argument of each is spoiled, one at a time in this
process, and at random in a process of its own, whose survival is the test.
"""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import TESTS
from support.few import few
from support.kernels import op_calls

from pyconvnet import ops
from pyconvnet.common import devices

REFUSALS = (TypeError, ValueError, RuntimeError, OverflowError)


class Recorder:
    """Stands in for the compiled module and notes every call of a kernel and every shape."""

    def __init__(self, ext: Any, calls: list, shapes: dict):
        self._ext, self._calls, self._shapes = ext, calls, shapes

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._ext, name)
        if isinstance(function, type):

            def make(**extents: int) -> Any:
                self._shapes[name] = extents
                return function(**extents)

            return make

        def call(*args: Any) -> Any:
            if hasattr(self._ext, f"{name}_table"):
                self._calls.append((name, args))
            return function(*args)

        return call


def record() -> tuple[list[tuple[str, tuple]], dict[str, dict[str, int]]]:
    """(function, arguments) of every kernel call the operations make, and the extents of each shape class."""
    device = devices.emulator()
    calls: list[tuple[str, tuple]] = []
    shapes: dict[str, dict[str, int]] = {}
    watched = devices.Device("emulator", 0, np, Recorder(device.ext, calls, shapes))
    for op, arguments in op_calls.calls().items():
        with ops.on(watched):
            op_calls.run(op, arguments)
    calls.sort(key=lambda call: sum(isinstance(a, np.ndarray) for a in call[1]))  # of several the fullest
    return list({name: (name, args) for name, args in calls}.values()), shapes


CALLS, SHAPES = record()
ARRAYS = [(name, i) for name, args in CALLS for i, a in enumerate(args) if isinstance(a, np.ndarray)]
BY_NAME = dict(CALLS)

#: Positions that may be None: bias, mirror, colour, metrics ...
NONE_ALLOWED = {
    ("conv2d_fprop", 5),
    ("conv2d_dgrad", 5),
    ("max_pool2d_backward", 5),
    ("avg_pool2d_backward", 4),
    ("bias_relu_dropout", 4),
    ("bias_relu_dropout", 9),
    ("dropout", 9),
    ("augment", 5),
    ("augment", 6),
    ("augment", 7),
    ("softmax_cross_entropy", 4),
    ("softmax_cross_entropy", 7),
    ("sgd_momentum", 4),
    ("sgd_momentum", 5),
}


def ext() -> Any:
    return devices.emulator().ext


def call(name: str, position: int, value: Any) -> Any:
    """The recorded call with one argument replaced; arrays are copied, since the kernel writes."""
    args = [a.copy() if isinstance(a, np.ndarray) else a for a in BY_NAME[name]]
    args[position] = value
    return getattr(ext(), name)(*args)


def test_every_operation_of_the_module_is_here():
    tables = {name.removesuffix("_table") for name in dir(ext()) if name.endswith("_table")}
    assert tables == set(BY_NAME)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_recorded_call_works(name):
    call(name, 0, BY_NAME[name][0])


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_no_array(name, position):
    for value in ("text", 3, [1.0], b"bytes", object):
        with pytest.raises(TypeError, match="must be a NumPy array"):
            call(name, position, value)


@pytest.mark.parametrize(("name", "position"), [a for a in ARRAYS if a not in NONE_ALLOWED])
def test_none(name, position):
    with pytest.raises((TypeError, ValueError)):
        call(name, position, None)


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_wrong_dtype(name, position):
    array = BY_NAME[name][position]
    for dtype in ("float16", "int16", ">f4", "complex64", "object"):
        with pytest.raises((TypeError, ValueError), match=r"must be (b?float|u?int)\d+"):
            call(name, position, array.astype(dtype))


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_wrong_count(name, position):
    array = BY_NAME[name][position].reshape(-1)
    with pytest.raises(ValueError, match="elements, got"):
        call(name, position, array[:-1].copy())
    if not (array.dtype == np.uint8 and position == len(BY_NAME[name]) - 2):  # scratch memory may be larger
        with pytest.raises(ValueError, match="elements, got"):
            call(name, position, np.concatenate([array, array[:1]]))


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_not_contiguous(name, position):
    array = BY_NAME[name][position]
    if array.size == 1:
        pytest.skip("one element is always contiguous")
    wide = np.repeat(array, 2, axis=-1)[..., ::2]
    with pytest.raises(ValueError, match="contiguous"):
        call(name, position, wide)


@pytest.mark.parametrize("name", BY_NAME)
def test_read_only_output(name):
    first = next(i for i, a in enumerate(BY_NAME[name]) if isinstance(a, np.ndarray))
    output = BY_NAME[name][first].copy()
    output.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        call(name, first, output)


@pytest.mark.parametrize(("name", "position"), ARRAYS)
def test_array_between_elements(name, position):
    array = BY_NAME[name][position]
    if array.itemsize == 1:
        pytest.skip("bytes are always aligned")
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:]
    with pytest.raises(ValueError, match="aligned"):
        call(name, position, memory.view(array.dtype).reshape(array.shape))


@pytest.mark.parametrize("name", BY_NAME)
def test_unknown_kernel(name):
    for kernel in ("", "warp_drive", "x" * 10000, None, 3):
        with pytest.raises((TypeError, ValueError)):
            call(name, 0, kernel)


@pytest.mark.parametrize("name", BY_NAME)
def test_wrong_shape_object(name):
    for shape in (None, 3, "shape", (1, 2, 3), {}):
        with pytest.raises(TypeError):
            call(name, 1, shape)
        with pytest.raises(TypeError):
            getattr(ext(), f"{name}_kernels")(shape)


def needs_scratch(name: str) -> list[tuple[str, int]]:
    """(kernel, bytes) of the kernels that need scratch memory at the recorded shape."""
    return [row for row in getattr(ext(), f"{name}_kernels")(BY_NAME[name][1]) if row[1] > 0]


@pytest.mark.parametrize("name", [name for name in BY_NAME if needs_scratch(name)])
def test_missing_workspace(name):
    position = len(BY_NAME[name]) - 2
    args = list(BY_NAME[name])
    for kernel, nbytes in needs_scratch(name):
        for scratch in (None, np.zeros(nbytes - 1, np.uint8), np.zeros(nbytes, np.float32), "scratch"):
            args[0], args[position] = kernel, scratch
            with pytest.raises((TypeError, ValueError), match="workspace"):
                getattr(ext(), name)(*args)


def test_some_kernels_need_scratch_memory():
    assert any(needs_scratch(name) for name in BY_NAME)


@pytest.mark.parametrize(("shape", "extent"), [(s, e) for s, extents in SHAPES.items() for e in extents])
def test_absurd_extents(shape, extent):
    """Either the shape refuses, or its tables and (for arrays of other sizes) its functions can take it."""
    for value in (0, -1, -(2**31), 2**31 - 1, 2**31, 2**63, 1.5, "3", None, [1]):
        try:
            made = getattr(ext(), shape)(**(SHAPES[shape] | {extent: value}))
        except REFUSALS:
            continue
        for name, args in CALLS:
            if type(args[1]) is type(made):
                getattr(ext(), f"{name}_kernels")(made)
                with contextlib.suppress(*REFUSALS):
                    call(name, 1, made)


def spoil(rng: random.Random, args: list[Any]) -> None:
    """Replace some arguments by garbage, in place."""
    every = [a for _, other in CALLS for a in other]
    for _ in range(rng.randint(1, 4)):
        i = rng.randrange(len(args))
        old = args[i]
        choices: list[Any] = [
            None,
            -1,
            2**40,
            1e300,
            "",
            [],
            {},
            object(),
            rng.choice(every),
            rng.choice(every),
        ]
        if isinstance(old, np.ndarray) and old.dtype != object:
            bits = np.frombuffer(rng.randbytes(old.nbytes), np.uint8)
            choices += [bits.view(old.dtype).reshape(old.shape).copy()] * 6  # right form, any content
            choices += [
                old.reshape(-1)[:1],
                old.T,
                np.zeros(old.nbytes, np.uint8),
                np.zeros(old.size, old.dtype),
            ]
        elif isinstance(old, float | int):
            choices += [rng.uniform(-1e6, 1e6), rng.randint(-(2**31), 2**31 - 1), float("nan"), 0] * 2
        args[i] = rng.choice(choices)
    if isinstance(args[-1], int):
        args[-1] = 0  # the stream: a pointer that cannot be checked; ops pass the caller's own


def random_shape(rng: random.Random) -> Any:
    """A shape with small or absurd extents, or None where the class refuses them."""
    name = rng.choice(list(SHAPES))
    extents = dict(SHAPES[name])
    for key in rng.sample(list(extents), rng.randint(1, len(extents))):
        extents[key] = rng.choice([0, 1, 2, 3, 5, 7, -1, 2**16, 2**31 - 1, rng.randint(1, 9)])
    try:
        return getattr(ext(), name)(**extents)
    except REFUSALS:
        return None


def fit(rng: random.Random, name: str, args: list[Any], tries: int = 12) -> None:
    """Resize arrays to what the refusals ask for, so that wild shapes reach the kernels too."""
    for _ in range(tries):
        try:
            getattr(ext(), name)(*args)
            return
        except ValueError as error:
            words = str(error).split()
            if "elements," not in words:
                return
            wanted, got = int(words[words.index("elements,") - 1]), int(words[-1])
            if wanted > 20_000:
                return
            for i, a in enumerate(args):
                if isinstance(a, np.ndarray) and a.size == got and a.size != wanted:
                    args[i] = np.resize(a, wanted).copy()
                    break
            else:
                return
        except REFUSALS:
            return


def fuzz(seed: int, rounds: int) -> None:
    """Random garbage into every function; returns if the process survives."""
    rng = random.Random(seed)
    refused = finished = 0
    for _ in range(rounds):
        name, recorded = rng.choice(CALLS)
        args = [a.copy() if isinstance(a, np.ndarray) else a for a in recorded]
        if rng.random() < 0.4:
            shape = random_shape(rng)
            same = [n for n, a in CALLS if type(a[1]) is type(shape)]
            if shape is None or not same:
                continue
            name = rng.choice(same)
            args = [a.copy() if isinstance(a, np.ndarray) else a for a in BY_NAME[name]]
            args[1] = shape
            rows = getattr(ext(), f"{name}_kernels")(shape)
            if rows:
                args[0] = rng.choice(rows)[0]
            fit(rng, name, args)
        else:
            spoil(rng, args)
        try:
            getattr(ext(), name)(*args)
            finished += 1
        except REFUSALS:
            refused += 1
    print(f"refused {refused}, finished {finished}")


@pytest.mark.parametrize("seed", few(range(4), 1))
def test_random_garbage_never_crashes(seed):
    code = f"import sys; sys.path[:0] = {[str(TESTS), str(Path(__file__).parent)]}\n"
    code += f"import test_bad_input_bindings as t; t.fuzz({seed}, 1500)"
    done = subprocess.run(
        [sys.executable, "-P", "-X", "faulthandler", "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    refused, finished = (int(word) for word in done.stdout.replace(",", " ").split() if word.isdigit())
    assert refused > 100  # garbage was refused, and some calls got as far as a kernel
    assert finished > 100
