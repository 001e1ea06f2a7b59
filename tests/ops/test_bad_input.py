"""Bad calls of the operations: each gets an error that names the argument, the same on every device."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from support.kernels import op_calls
from support.kernels.op_calls import f32, i32, u8

from pyconvnet import ops
from pyconvnet.common import devices

BAD = (TypeError, ValueError)
CPU, EMULATOR = "cpu", "emulator"
CALLS = op_calls.calls()
ARRAYS = [
    (op, name) for op, call in CALLS.items() for name, value in call.items() if isinstance(value, np.ndarray)
]
FLOATS = [(op, name) for op, name in ARRAYS if CALLS[op][name].dtype == np.float32]


def message(device: str, op: str, arguments: dict[str, Any], error: type | tuple[type, ...] = BAD) -> str:
    """The complaint of the device, without the words in which devices must differ."""
    with ops.on(device), pytest.raises(error) as caught:
        op_calls.run(op, arguments)
    text = str(caught.value).replace(" on emulator", "")
    return text.replace("float32, bfloat16 or float64", "float32 or bfloat16").replace(" or float64", "")


def refused(
    op: str, arguments: dict[str, Any], *fragments: str, error: type | tuple[type, ...] = BAD
) -> None:
    """Both devices refuse, with one message that begins with the operation and holds the fragments."""
    text = message(CPU, op, arguments, error)
    assert text == message(EMULATOR, op, arguments, error)
    assert text.startswith(f"{op}: "), text
    for fragment in fragments:
        assert re.search(fragment, text), text


def spoiled(op: str, **changes: Any) -> dict[str, Any]:
    """The correct call with some arguments replaced."""
    return op_calls.calls()[op] | changes


def named(name: str) -> str:
    """Pattern for the argument's name as a word."""
    return rf"\b{name}\b"


@pytest.mark.parametrize("op", CALLS)
def test_the_correct_call_works(op):
    for device in (CPU, EMULATOR):
        with ops.on(device):
            op_calls.run(op, spoiled(op))


# ---- arrays
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_what_is_no_array(op, name):
    for value in ("text", 3.5, [[1.0, 2.0]], object()):
        refused(op, spoiled(op, **{name: value}), named(name), type(value).__name__, error=TypeError)


@pytest.mark.parametrize(("op", "name"), [a for a in ARRAYS if a not in op_calls.OPTIONAL])
def test_none_for_an_array(op, name):
    refused(op, spoiled(op, **{name: None}))


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_wrong_dtype(op, name):
    for dtype in ("float16", "complex64", "bool", ">f4", "object"):
        if (op, name, dtype) != ("augment", "mirror", "bool"):  # truth values are what it wants
            wrong = CALLS[op][name].astype(dtype)
            refused(op, spoiled(op, **{name: wrong}), named(name), str(np.dtype(dtype)))


@pytest.mark.parametrize(("op", "name"), FLOATS)
def test_float64_is_refused_by_kernels(op, name):
    everything = {
        k: v.astype(np.float64) for k, v in spoiled(op).items() if getattr(v, "dtype", None) == np.float32
    }
    assert "float32" in message(EMULATOR, op, spoiled(op, **everything), TypeError)
    if len(everything) > 1 and op != "augment":  # the cpu takes either, but not both at once
        assert "float64" in message(CPU, op, spoiled(op, **{name: everything[name]}), TypeError)


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_empty_array(op, name):
    array = CALLS[op][name]
    refused(op, spoiled(op, **{name: np.zeros((*array.shape[:-1], 0), array.dtype)}))


#: Operations that take their only array in any rank.
ANY_RANK = ("relu", "tanh", "logistic", "bias_backward", "dropout", "lrn", "split")


#: Operations whose x may have any rank beside their other arrays.
OF_ANY_RANK_WITH_BIAS = ("add_bias", "bias_relu_dropout", "dropout")


@pytest.mark.parametrize(("op", "name"), ARRAYS)
def test_wrong_rank(op, name):
    array = CALLS[op][name]
    if name == "step" and op != "sgd_momentum":
        return  # one element, whatever its rank
    alone = len([a for a in ARRAYS if a[0] == op]) == 1
    if not (alone and op in ANY_RANK) and not (name == "x" and op in OF_ANY_RANK_WITH_BIAS):
        refused(op, spoiled(op, **{name: array[None]}))
    if not (alone and op in ("relu", "tanh", "logistic")):
        refused(op, spoiled(op, **{name: array.reshape(-1)[0].reshape(())}))


@pytest.mark.parametrize(("op", "name"), [a for a in ARRAYS if CALLS[a[0]][a[1]].size > 1])
def test_not_contiguous(op, name):
    array = CALLS[op][name]
    wide = np.repeat(array, 2, axis=-1)[..., ::2]
    assert wide.shape == array.shape
    assert not wide.flags.c_contiguous
    refused(op, spoiled(op, **{name: wide}), named(name), "contiguous", error=ValueError)


#: Arrays whose first extent nothing else fixes.
FREE = {
    ("augment", "images"),
    *((op, "x") for op in ("conv2d", "conv2d_depth", "linear", "add_bias", "bias_relu_dropout", "dropout")),
}


@pytest.mark.parametrize(
    ("op", "name"), [a for a in ARRAYS if a not in FREE and sum(b[0] == a[0] for b in ARRAYS) > 1]
)
def test_one_array_too_long(op, name):
    array = CALLS[op][name]
    refused(op, spoiled(op, **{name: np.concatenate([array, array[:1]])}), error=ValueError)


# ---- outputs
# ----------------------------------------------------------------------------------------------------

WITH_OUT = [op for op in CALLS if op not in op_calls.IN_PLACE]


def result_of(op: str) -> tuple[Any, ...]:
    with ops.on(EMULATOR):
        result = op_calls.run(op, spoiled(op))
    return result if op in op_calls.SEVERAL else (result,)


def as_out(op: str, arrays: tuple[Any, ...]) -> Any:
    return arrays if op in op_calls.SEVERAL else arrays[0]


def read_only(array: np.ndarray) -> np.ndarray:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


SPOIL_OUT = {
    "read-only": (read_only, "writable|read-only"),
    "shape": (lambda a: np.zeros((*a.shape, 1), a.dtype), "shape"),
    "dtype": (lambda a: a.astype(np.int16), "int16"),
    "strided": (lambda a: np.zeros((*a.shape, 2), a.dtype)[..., 0], "contiguous"),
    "string": (lambda a: "out", "str"),
}


@pytest.mark.parametrize("op", WITH_OUT)
def test_wrong_out(op):
    for how, (spoil, fragment) in SPOIL_OUT.items():
        for position in range(len(result_of(op))):
            arrays = list(result_of(op))
            if how == "strided" and arrays[position].ndim == 0:
                continue  # one element is always contiguous
            arrays[position] = spoil(arrays[position])
            refused(op, spoiled(op, out=as_out(op, tuple(arrays))), fragment)


@pytest.mark.parametrize("op", sorted(op_calls.SEVERAL))
def test_out_of_wrong_length(op):
    arrays = result_of(op)
    refused(op, spoiled(op, out=arrays[:-1]), named("out"), error=TypeError)
    refused(op, spoiled(op, out=arrays[0]), named("out"), error=TypeError)


@pytest.mark.parametrize("name", ["w", "v"])
def test_read_only_parameters(name):
    refused("sgd_momentum", spoiled("sgd_momentum", **{name: read_only(f32(6))}), named(name), "writable")


# ---- kernels, devices
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [op for op in CALLS if op not in op_calls.ONE_KERNEL])
def test_unknown_kernel(op):
    text = message(EMULATOR, op, spoiled(op, kernel="warp_drive"), ValueError)
    assert "warp_drive" in text
    text = message(CPU, op, spoiled(op, kernel="warp_drive"), ValueError)
    assert "warp_drive" in text
    assert "cpu" in text


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "", "CPU", 3, None, 1.5, b"cpu"])
def test_unknown_device(device):
    if device is None:
        pytest.skip("None is the default device")
    with pytest.raises(BAD, match="device"):
        devices.get_device(device)


def test_cuda_that_is_not_there_is_never_replaced():
    count = sum(name.startswith("cuda") and reason is None for name, reason in devices.available_devices())
    with pytest.raises(devices.DeviceUnavailableError, match="cuda"):
        devices.get_device(f"cuda:{count + 7}")


@pytest.mark.parametrize("device", ["cuda:0", "tpu", 1])
def test_on_takes_devices_that_share_host_arrays(device):
    with pytest.raises((*BAD, devices.DeviceUnavailableError)), ops.on(device):
        pass


def test_on_is_undone_after_an_error():
    with pytest.raises(ZeroDivisionError), ops.on(EMULATOR):
        raise ZeroDivisionError
    with pytest.raises(ValueError, match="cpu"):
        ops.relu(f32(2), kernel="relu_forward")


class OnCuda:
    """Claims to be a CUDA array."""

    __cuda_array_interface__: dict = {"shape": (1,), "typestr": "<f4", "data": (64, False), "version": 3}  # noqa: RUF012


def test_cuda_array_on_a_machine_without_a_gpu():
    if devices.available_devices()[0][1] is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(devices.DeviceUnavailableError, match="cuda"):
        ops.relu(OnCuda())


class OnOtherDevice:
    """A DLPack array on a device of another kind (8: Metal)."""

    def __dlpack_device__(self):
        return 8, 0


def test_dlpack_array_on_another_kind_of_device():
    refused("relu", {"x": OnOtherDevice()}, "x must be", "8", error=TypeError)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("conv3d", ()),
        ("", ()),
        (None, ()),
        ("conv2d", ((2, 5, 5),)),
        ("relu", ((0,),)),
        ("max_pool2d", ((1, 2, 2, 1),)),
    ],
)
def test_listing_kernels(op, arguments):
    with pytest.raises(BAD):
        ops.kernels(op, *arguments)


# ---- options
# ----------------------------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
CONVS = ("conv2d", "conv2d_dgrad", "conv2d_wgrad")
POOLS = ("max_pool2d", "avg_pool2d")
POOLS_BOTH_WAYS = (*POOLS, "max_pool2d_backward", "avg_pool2d_backward")
NORMS = ("lrn", "lrn_backward", "lrn_spatial", "lrn_spatial_backward")
STRIDES = [
    (0, "V"),
    (-1, "V"),
    (1.0, "T"),
    ("1", "T"),
    (None, "T"),
    (True, "T"),
    ((1, 2, 3), "V"),
    ((1, 0), "V"),
]
PADS = [(-1, "V"), (0.5, "T"), ("same", "T"), (None, "T"), ((0, -1), "V"), ((1, 2, 3), "V")]
PADS += [(((0, 0), (0, -1)), "V"), (2**31, "V")]
KS = [(NAN, "V"), (0.0, "V"), (-1.0, "V"), (1j, "T")]
PROBABILITIES = [(1.0, "V"), (-0.1, "V"), (NAN, "V"), ("0.5", "T"), (None, "T"), (True, "T")]
ERRORS = {"T": TypeError, "V": ValueError, "TV": BAD}

#: (operation, arguments to replace, kind of error, fragment of the message)
OPTIONS = [
    # convolutions
    *[(op, {"stride": v}, kind, "stride") for op in CONVS for v, kind in STRIDES],
    *[(op, {"pad": v}, kind, "pad") for op in CONVS for v, kind in PADS],
    *[(op, {"groups": v}, kind, "groups") for op in CONVS
      for v, kind in [(0, "V"), (-2, "V"), (3, "V"), (2.0, "T"), (True, "T"), ("2", "T"), (None, "T")]],
    ("conv2d", {"groups": 1}, "V", "w"),
    ("conv2d", {"pad": 0, "w": f32(6, 7, 2, 2)}, "V", "w|filter"),
    ("conv2d", {"w": f32(5, 3, 2, 2)}, "V", "groups"),
    ("conv2d", {"b": f32(5)}, "V", "b"),
    ("conv2d", {"activation": "tanh"}, "V", "activation"),
    ("conv2d", {"activation": 1}, "TV", "activation"),
    ("conv2d_dgrad", {"dy": f32(2, 5, 6, 6)}, "V", "dy"),
    ("conv2d_dgrad", {"dy": f32(3, 5, 7, 6)}, "V", "dy"),
    ("conv2d_dgrad", {"x_shape": (2, 5, 6)}, "V", "x_shape"),
    ("conv2d_dgrad", {"x_shape": (2, 5, 6, 0)}, "V", "x_shape"),
    ("conv2d_dgrad", {"x_shape": (2, 5.0, 6, 4)}, "T", "x_shape"),
    ("conv2d_dgrad", {"x_shape": 5}, "T", "x_shape"),
    ("conv2d_dgrad", {"x_shape": None}, "T", "x_shape"),
    ("conv2d_dgrad", {"x_shape": (2**11, 2**11, 2**11, 4)}, "V", "x_shape"),
    ("conv2d_wgrad", {"w_shape": (6, 3, 2)}, "V", "w_shape"),
    ("conv2d_wgrad", {"w_shape": (6, 3, 2, -2)}, "V", "w_shape"),
    ("conv2d_wgrad", {"w_shape": (6, 3, 2, 4)}, "V", "w_shape|channels"),
    ("conv2d_wgrad", {"w_shape": "6322"}, "T", "w_shape"),
    ("conv2d_wgrad", {"dy": f32(2, 5, 7, 4)}, "V", "dy"),
    # fully connected
    ("linear", {"w": f32(4, 6)}, "V", "w"),
    ("linear", {"b": f32(3)}, "V", "b"),
    ("linear", {"activation": "softmax"}, "V", "activation"),
    ("linear_dgrad", {"w": f32(3, 5)}, "V", "w"),
    ("linear_wgrad", {"x": f32(4, 5)}, "V", "x|dy"),
    # pooling
    *[(op, {"size": v}, kind, "size") for op in POOLS_BOTH_WAYS
      for v, kind in [(0, "V"), (-3, "V"), (2.5, "T"), ("3", "T"), (True, "T"), ((3,), "V")]],
    *[(op, {"size": 2**31}, "V", "window") for op in ("max_pool2d", "avg_pool2d_backward")],
    *[(op, {"stride": v}, kind, "stride") for op in POOLS
      for v, kind in [(0, "V"), (-1, "V"), (None, "T"), ((2, 2.0), "T")]],
    *[(op, {"pad": v}, kind, "pad") for op in POOLS for v, kind in [(3, "V"), (-1, "V"), ("1", "T")]],
    *[(op, {"ceil_mode": v}, "T", "ceil_mode") for op in POOLS for v in (1, "yes", None)],
    *[(op, {"x": f32(2, 2, 5, 3)}, "V", "window") for op in POOLS],
    ("avg_pool2d", {"count_include_pad": 1}, "T", "count_include_pad"),
    ("max_pool2d_backward", {"x_shape": (2, 9, 5, 3)}, "V", "dy"),
    ("max_pool2d_backward", {"argmax": u8(2, 2, 2, 3) * 9}, "V", "argmax"),
    ("max_pool2d_backward", {"argmax": np.ones((2, 2, 2, 3), np.int64)}, "T", "argmax"),
    ("avg_pool2d_backward", {"x_shape": (2, 5, 5, 4)}, "V", "dy"),
    # response normalisation
    *[(op, {"size": v}, kind, "size") for op in NORMS
      for v, kind in [(0, "V"), (-5, "V"), (5.0, "T"), (None, "T"), (2**40, "V")]],
    *[(op, {"alpha": v}, kind, "alpha") for op in NORMS
      for v, kind in [(NAN, "V"), (INF, "V"), ("0.1", "T"), (None, "T"), (True, "T")]],
    *[(op, {"beta": v}, kind, "beta") for op in NORMS for v, kind in [(NAN, "V"), (-INF, "V"), ([1], "T")]],
    *[(op, {"k": v}, kind, r"\bk\b") for op in ("lrn", "lrn_spatial") for v, kind in KS],
    ("lrn", {"groups": 3}, "V", "groups"),
    ("lrn", {"groups": 0}, "V", "groups"),
    ("lrn", {"groups": 1.0}, "T", "groups"),
    # pointwise
    ("add", {"alpha": NAN}, "V", "alpha"),
    ("add", {"beta": "1"}, "T", "beta"),
    ("add_bias", {"b": f32(3)}, "V", "b"),
    ("concat", {"xs": []}, "V", "xs"),
    ("concat", {"xs": f32(3, 4)}, "T", "xs"),
    ("concat", {"xs": [f32(3, 4), None]}, "TV", ""),
    ("concat", {"xs": [f32(3, 4), f32(2, 4)]}, "V", r"xs\[1\]"),
    ("concat", {"xs": [f32(3, 4), f32(3, 4).astype(np.int32)]}, "T", r"xs\[1\]"),
    ("split", {"sizes": [2, 3]}, "V", "sizes"),
    ("split", {"sizes": [-2, 8]}, "V", "sizes"),
    ("split", {"sizes": 6}, "T", "sizes"),
    ("split", {"sizes": [2.0, 4.0]}, "T", "sizes"),
    *[("dropout", {"p": v}, kind, r"\bp\b") for v, kind in PROBABILITIES],
    ("dropout", {"seed": 1.5}, "T", "seed"),
    ("dropout", {"layer": -1}, "V", "layer"),
    ("dropout", {"layer": 2**32}, "V", "layer"),
    ("dropout", {"step": "1"}, "T", "step"),
    ("dropout", {"step": np.zeros(1, np.int32)}, "T", "step"),
    ("dropout", {"step": np.zeros(2, np.int64)}, "V", "step"),
    ("dropout", {"scale": NAN}, "V", "scale"),
    ("dropout", {"window": (0, 0)}, "TV", "window"),
    ("dropout", {"window": (0, 2, 4)}, "V", "window"),
    ("dropout", {"window": (-1, 0, 4)}, "V", "window"),
    ("dropout", {"window": 4}, "TV", "window"),
    ("dropout_backward", {"p": 1.0}, "V", r"\bp\b"),
    ("dropout_backward", {"mask": f32(3, 4)}, "T", "mask"),
    # loss, optimiser, augmentation
    ("softmax_cross_entropy", {"labels": i32(0, 4, 1)}, "V", "labels"),
    ("softmax_cross_entropy", {"labels": i32(0, -1, 1)}, "V", "labels"),
    ("softmax_cross_entropy", {"labels": np.array([0.0, 1.0, 2.0])}, "T", "labels"),
    ("softmax_cross_entropy", {"labels": i32(0, 1)}, "V", "labels"),
    ("softmax_cross_entropy", {"topk": 0}, "V", "topk"),
    ("softmax_cross_entropy", {"topk": 1.0}, "T", "topk"),
    ("softmax_cross_entropy", {"grad_scale": NAN}, "V", "grad_scale"),
    ("softmax_cross_entropy", {"metrics": f32(4)}, "T", "metrics"),
    ("softmax_cross_entropy", {"metrics": np.zeros(3)}, "V", "metrics"),
    ("softmax_cross_entropy", {"metrics": read_only(np.zeros(4))}, "V", "metrics"),
    ("sgd_momentum", {"ends": np.array([4, 2])}, "V", "ends"),
    ("sgd_momentum", {"ends": np.array([2, 7])}, "V", "ends"),
    ("sgd_momentum", {"ends": np.array([-1, 6])}, "V", "ends"),
    ("sgd_momentum", {"ends": i32(2, 6)}, "T", "ends"),
    ("sgd_momentum", {"hyper": f32(3)}, "V", "hyper"),
    ("sgd_momentum", {"lr_mult": f32(1)}, "V", "lr_mult"),
    ("augment", {"crop": i32(0, 1, 3, 0).reshape(2, 2)}, "V", "crop"),
    ("augment", {"crop": i32(-1, 1, 1, 0).reshape(2, 2)}, "V", "crop"),
    ("augment", {"crop": np.zeros((2, 2))}, "T", "crop"),
    ("augment", {"indices": i32(0, 3)}, "V", "indices"),
    ("augment", {"indices": i32(-1, 1)}, "V", "indices"),
    ("augment", {"indices": i32(0, 1, 2)}, "V", "crop"),
    ("augment", {"indices": i32(0, 1).reshape(2, 1)}, "V", "indices"),
    ("augment", {"indices": f32(2)}, "T", "indices"),
    ("augment", {"size": (7, 5)}, "V", "size"),
    ("augment", {"size": 0}, "V", "size"),
    ("augment", {"size": None}, "T", "size"),
    ("augment", {"scale": INF}, "V", "scale"),
    ("augment", {"scale": "1"}, "T", "scale"),
    ("augment", {"mean": f32(3, 3)}, "V", "mean"),
    ("augment", {"colour": f32(3, 3)}, "V", "colour"),
    ("augment", {"mirror": f32(2)}, "T", "mirror"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op", "changes", "kind", "fragment"), OPTIONS, ids=lambda v: str(v)[:40] if isinstance(v, dict) else None
)
def test_bad_option(op, changes, kind, fragment):
    refused(op, spoiled(op, **changes), fragment, error=ERRORS[kind])


@pytest.mark.parametrize("op", CALLS)
def test_unknown_argument(op):
    with pytest.raises(TypeError):
        op_calls.run(op, spoiled(op, colour_of_the_sky="blue"))
