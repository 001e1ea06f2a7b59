"""Every array of every operation: laid over each other, of a subclass, of another integer dtype, misaligned.

The table is ``op_calls``; the operations run on the cpu and on the emulator.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from support.fakes.fake_cuda import Machine, on_device
from support.kernels import op_calls

from pyconvnet import ops

DEVICES = ("cpu", "emulator")
CALLS = op_calls.calls()
INPUTS = {op: op_calls.inputs(call) for op, call in CALLS.items()}


def run(device: str, op: str, arrays: dict[str, np.ndarray], out: dict[str, np.ndarray] | None = None):
    """What the call with those arrays and outputs in place of its own writes, by name."""
    arguments = op_calls.replaced(op_calls.calls()[op], arrays)
    if out:
        names = op_calls.SEVERAL.get(op, ("out",))
        arguments["out"] = op_calls.out(op, {name: out.get(name) for name in names})
    with ops.on(device):
        result = op_calls.outputs(op, op_calls.run(op, arguments))
    return result | {name: arguments[name] for name in op_calls.UPDATED.get(op, ())}


EXPECTED = {(device, op): run(device, op, {}) for device in DEVICES for op in CALLS}
WRITTEN = {op: list(EXPECTED["cpu", op]) for op in CALLS}


def is_right(device: str, op: str, written: dict[str, np.ndarray]) -> None:
    """The bits of the undisturbed call."""
    for name, array in EXPECTED[device, op].items():
        assert written[name].tobytes() == array.tobytes(), name


def test_the_table_is_whole():
    """Every array of a call is known, and what is not named here cannot be written to or be an output."""
    depth = {n for n in vars(ops.space_to_depth) if n.startswith(("conv2d_depth", "images_to_depth"))}
    about = {"choice", "kernels", "on", "perform", "problems", "recording", "Launch", "Prepared", "Repeated"}
    assert set(CALLS) == set(ops.__all__) - about | depth
    for op, inputs in INPUTS.items():
        assert set(op_calls.UPDATED.get(op, ())) <= set(inputs)
        for name, array in inputs.items():
            if array.dtype.kind in "iu":
                assert ((op, name) in op_calls.INTEGERS) != ((op, name) in op_calls.COUNTED), (op, name)
        parameters = set(inspect.signature(op_calls.function(op)).parameters)
        assert parameters - op_calls.NO_ARRAYS <= {n.partition("[")[0] for n in inputs}, op
    for op, output, name in op_calls.ITSELF:
        assert output in WRITTEN[op]
        assert name in INPUTS[op]


# ---- sharing memory ----------------------------------------------------------------------------------------

#: (operation, what it writes, any other array of it)
PAIRS = [
    (op, output, other)
    for op, outputs in WRITTEN.items()
    for i, output in enumerate(outputs)
    for other in [*(n for n in INPUTS[op] if n not in outputs), *outputs[:i]]
]


def array_of(op: str, name: str) -> np.ndarray:
    return INPUTS[op][name] if name in INPUTS[op] else EXPECTED["cpu", op][name]


def laid(output: np.ndarray, other: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Copies in one piece of memory: the output begins so many bytes after the other array."""
    memory = np.zeros(2 * output.nbytes + other.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + -(-output.nbytes // 64) * 64
    views = []
    for array, first in ((output, start + shift), (other, start)):  # the other last: it is read
        view = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
        view[...] = array
        views.append(view)
    return views[0], views[1]


def shifts(output: np.ndarray, other: np.ndarray) -> tuple[list[int], int]:
    """Where an output overlaps the other array: at its start, from within, into it; and where it does not."""
    item = max(output.itemsize, other.itemsize)
    inside = [item] if item < other.nbytes else []
    before = -((output.nbytes - 1) // item * item)
    return [0, *inside, *([before] if before else [])], -(-other.nbytes // item) * item


def run_laid(device: str, op: str, output: str, other: str, shift: int) -> dict[str, np.ndarray]:
    first, second = laid(array_of(op, output), array_of(op, other), shift)
    named = {output: first, other: second}
    own = INPUTS[op]
    return run(
        device,
        op,
        {n: a for n, a in named.items() if n in own},
        {n: a for n, a in named.items() if n not in own},
    )


def test_there_are_pairs():
    assert len(PAIRS) > 100
    assert {("softmax_cross_entropy", "metrics", "logits"), ("split", "out[1]", "out[0]")} <= set(PAIRS)
    assert {("augment", "out", "crop"), ("sgd_momentum", "v", "hyper")} <= set(PAIRS)
    assert {("dropout", "y", "step"), ("conv2d_depth", "filters", "x")} <= set(PAIRS)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CALLS)
def test_arrays_that_share_memory(op, device):
    """Refused by name; right where the output may be the input itself, and is; right side by side."""
    for output, other in (pair[1:] for pair in PAIRS if pair[0] == op):
        overlapping, apart = shifts(array_of(op, output), array_of(op, other))
        for shift in overlapping:
            if shift == 0 and (op, output, other) in op_calls.ITSELF:
                is_right(device, op, run_laid(device, op, output, other, 0))
                continue
            with pytest.raises(ValueError, match=f"^{op}: .* overlap") as caught:
                run_laid(device, op, output, other, shift)
            assert {output, other} <= set(re.findall(r"[\w\[\]]+", str(caught.value)))
        is_right(device, op, run_laid(device, op, output, other, apart))


# ---- subclasses --------------------------------------------------------------------------------------------


class Odd(np.ndarray):
    """A subclass that computes otherwise and gives back otherwise."""

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("computed by the subclass")

    def __getitem__(self, index: Any) -> Any:
        return 7

    def reshape(self, *shape: Any, **kwargs: Any) -> Any:
        raise AssertionError("reshaped by the subclass")

    view = reshape


def each_array(op: str) -> list[str]:
    return list({**INPUTS[op], **EXPECTED["cpu", op]})


def run_with(device: str, op: str, name: str, array: np.ndarray) -> dict[str, np.ndarray]:
    """The call with one array, an input or an output, replaced."""
    return run(device, op, *(({name: array}, None) if name in INPUTS[op] else ({}, {name: array})))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CALLS)
def test_subclasses_are_seen_as_plain_arrays(op, device):
    for name in each_array(op):
        array = array_of(op, name)
        for subclass in (Odd, np.recarray, np.memmap, *([np.matrix] if array.ndim == 2 else [])):
            written = run_with(device, op, name, array.copy().view(subclass))
            is_right(device, op, {n: np.asarray(a) for n, a in written.items()})
            assert all(type(a) is np.ndarray for n, a in written.items() if n not in INPUTS[op])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("op", CALLS)
def test_masked_arrays_are_refused(op, device):
    for name in each_array(op):
        masked = np.ma.MaskedArray(array_of(op, name).copy(), mask=False)
        with pytest.raises(TypeError, match=rf"^{op}: {re.escape(name)} must be .* without a mask"):
            run_with(device, op, name, masked)


def test_a_masked_output_was_written_under_its_mask():
    masked = np.ma.masked_array(np.full((1, 1, 1, 1), 16, np.float32), mask=True)
    with pytest.raises(TypeError, match="avg_pool2d: out must be an array without a mask"):
        ops.avg_pool2d(np.ones((1, 4, 4, 1), np.float32), size=4, stride=1, out=masked)
    assert ops.avg_pool2d(np.ones((1, 4, 4, 1), np.float32), size=4, stride=1).item() == 1


# ---- integers ----------------------------------------------------------------------------------------------

DTYPES = ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i2", ">i8"]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("op", "name"), sorted(op_calls.INTEGERS))
def test_integers_of_every_dtype(op, name, dtype, device):
    is_right(device, op, run(device, op, {name: INPUTS[op][name].astype(dtype)}))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("op", "name"), sorted(op_calls.INTEGERS))
def test_what_is_no_integer(op, name, device):
    for dtype in (bool, np.float32, np.float64, "datetime64[s]"):
        array = INPUTS[op][name].astype(dtype)
        if (name, dtype) == ("mirror", bool):
            is_right(device, op, run(device, op, {name: array}))
            continue
        with pytest.raises(TypeError, match=rf"^{op}: {name} must be integers.*, got {array.dtype.name[:8]}"):
            run(device, op, {name: array})


#: Numbers whose lower 32 bits would be a class of four and a corner within an image, and others far off.
WILD = [
    (2**32 + 1, "i8"),
    (-(2**32) + 1, "i8"),
    (2**63 + 1, "u8"),
    (2**64 - 1, "u8"),
    (2**32 - 1, "u4"),
    (-7, "i2"),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("number", "dtype"), WILD)
@pytest.mark.parametrize(
    ("op", "name"), [("softmax_cross_entropy", "labels"), ("augment", "crop"), ("augment", "indices")]
)
def test_numbers_that_do_not_fit_are_told(op, name, number, dtype, device):
    array = INPUTS[op][name].astype(dtype)
    array[-1] = number
    with pytest.raises(ValueError, match=rf"^{op}: {name} must .*got .*{number}\b"):
        run(device, op, {name: array})


@pytest.mark.parametrize("dtype", ["i8", "u8", "i2"])
def test_mirrors_do_not_wrap_to_zero(dtype):
    images = np.arange(6, dtype=np.float32).reshape(1, 1, 6, 1)
    for device in DEVICES:
        with ops.on(device):
            y = ops.augment(images, mirror=np.array([256], dtype), size=(1, 6))
        assert y.ravel().tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(("number", "dtype"), WILD)
def test_a_device_converts_integers_without_being_waited_for(number, dtype, monkeypatch):
    """What does not fit never becomes a class, nor a corner inside an image."""
    machine = Machine().install(monkeypatch)
    logits = np.array([[3, 1, 0, 2], [0, 1, 2, 4], [1, 1, 1, 1]], np.float32)
    images = np.arange(1, 37, dtype=np.float32).reshape(1, 6, 6, 1)
    labels, corner = np.array([0, 3, number], dtype), np.array([[1, number]], dtype)
    given = [
        on_device(machine, a) for a in (logits, labels, images, corner, np.array([256], "i2"), labels[2:])
    ]
    metrics = machine.device().zeros((4,), np.float64)
    waits = []
    monkeypatch.setattr(Machine, "wait", lambda *args, wait=Machine.wait: (waits.append(1), wait(*args)))
    _, dlogits = ops.softmax_cross_entropy(given[0], given[1], metrics=metrics, grad_scale=1.0)
    y = ops.augment(given[2], given[3], given[4], size=(2, 2))
    none = ops.augment(given[2], size=(2, 2), indices=given[5])
    assert not waits
    monkeypatch.undo()
    wanted = np.exp(logits[:2]) / np.exp(logits[:2]).sum(1, keepdims=True)
    np.testing.assert_allclose(dlogits.get()[:2], wanted - np.eye(4)[[0, 3]], atol=1e-6)
    assert np.isnan(dlogits.get()[2]).all()
    assert metrics.get()[[0, 2, 3]].tolist() == [3, 1, 1]
    assert np.isnan(y.get()).all()
    assert np.isnan(none.get()).all()


# ---- elements between elements -----------------------------------------------------------------------------


def between(array: np.ndarray) -> np.ndarray:
    """A copy whose elements do not lie at multiples of their size."""
    memory = np.zeros(array.nbytes + array.itemsize, np.uint8)
    first = 1 + -memory.ctypes.data % array.itemsize
    copy = memory[first : first + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.mark.parametrize("op", CALLS)
def test_misaligned_arrays_are_refused_by_kernels_by_their_name(op):
    for name in each_array(op):
        array = array_of(op, name)
        if array.itemsize > 1:
            with pytest.raises(ValueError, match=rf"^{op}: {re.escape(name)} must be aligned"):
                run_with("emulator", op, name, between(array))
            is_right("cpu", op, run_with("cpu", op, name, between(array)))


class Lends:
    """Scratch memory that is too little."""

    def get(self, nbytes: int) -> np.ndarray:
        return np.empty(nbytes - 1, np.uint8)


f32 = op_calls.f32
#: Calls on the tables of convolutions, of sums long enough to be cut into pieces, which needs scratch memory.
CUT = {
    "conv2d": ("fprop", {"x": f32(1, 4, 4, 64), "w": f32(32, 3, 3, 64)}),
    "conv2d_dgrad": ("dgrad", {"dy": f32(1, 2, 2, 64), "w": f32(64, 3, 3, 32), "x_shape": (1, 4, 4, 32)}),
    "conv2d_wgrad": ("wgrad", {"dy": f32(2, 8, 8, 32), "x": f32(2, 8, 8, 32), "w_shape": (32, 1, 1, 32)}),
    "linear": ("fprop", {"x": f32(4, 256), "w": f32(32, 256)}),
    "linear_dgrad": ("dgrad", {"dy": f32(4, 256), "w": f32(256, 32)}),
    "linear_wgrad": ("wgrad", {"dy": f32(128, 32), "x": f32(128, 32)}),
    "conv2d_depth": ("fprop", {"x": f32(1, 5, 5, 48), "w": f32(32, 11, 11, 3), "stride": 4}),
    "conv2d_depth_wgrad": (
        "wgrad", {"dy": f32(2, 8, 8, 32), "x": f32(2, 10, 10, 48), "w_shape": (32, 11, 11, 3), "stride": 4},
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", CUT)
def test_a_bad_workspace_is_told_by_the_operation_that_was_called(op):
    direction, arguments = CUT[op]
    kernel = f"conv2d_{direction}_tile32/2"
    with ops.on("emulator"):
        op_calls.run(op, arguments | {"kernel": kernel})
        with pytest.raises(ValueError, match=rf"^{op}: workspace must have at least"):
            op_calls.run(op, arguments | {"kernel": kernel, "workspace": Lends()})
        with pytest.raises(ValueError, match=rf"^{op}: kernel .* does not apply"):
            op_calls.run(op, arguments | {"kernel": "warp_drive/2"})


def test_every_operation_on_the_tables_of_convolutions_is_here():
    assert set(CUT) == {op for op in CALLS if "conv2d" in op or op.startswith("linear")}
