"""`mask=` of the input gradients: the same bits as the gradient followed by ReLU's."""

import ml_dtypes
import numpy as np
import pytest
from support.helpers import EPS32, assert_close, filled_with_nan, same_bits
from support.kernels.conv_problems import (
    CASES,
    FEW,
    PLAIN,
    compute,
    kernels,
    problem,
    reached,
    representative,
    table,
)  # fmt: skip
from support.kernels.conv_shapes import RAGGED_OF_EIGHT, Conv

from pyconvnet import ops
from pyconvnet.common import devices
from pyconvnet.ops.conv import capability

# Whole and split reductions, groups, strides, phases without taps, ragged tiles; between them every kernel.
GROUPED = Conv("grouped", (2, 7, 6, 24), (40, 3, 3, 12), (2, 1), ((1, 1), (1, 0)), groups=2)
NAMES = (
    "first_gray_wide", "stride_skips_taps", "stride_beyond_image", "filter_is_image", "wide_filters",
    "many_channels", "many_groups", "odd_groups", "odd_everything", "cifar_conv1", "one_by_one",
)  # fmt: skip
EIGHT = ("eight_rectangular", "eight_deep", "eight_wide_filters", "eight_many_images")
MASKED = [
    GROUPED,
    *(case for case in CASES if case.name in NAMES),
    *(case for case in RAGGED_OF_EIGHT if case.name in EIGHT),
]
F32 = np.float32
BF16 = ml_dtypes.bfloat16


def relu_output(shape: tuple[int, ...], dtype=F32) -> np.ndarray:
    """What a mask may hold: mostly a ReLU's outputs, and every number that could be mistaken for another."""
    rng = np.random.default_rng(len(shape) + sum(shape))
    values = np.maximum(rng.standard_normal(shape), 0).astype(dtype)
    special = [np.nan, -0.0, 0.0, np.inf, -np.inf, 1e-45, -1e-45, -1.0]
    special = np.array(special[: values.size]).astype(dtype)
    values.ravel()[rng.permutation(values.size)[: len(special)]] = special
    return values


def through_relu(dx: np.ndarray, mask: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # NaN <= 0 is false
        return np.where(mask <= 0, np.zeros((), dx.dtype), dx)


def on_every_kernel() -> list:
    """Every case and kernel, in the precisions it is made for."""
    rows = []
    for case in MASKED:
        for kernel in kernels("conv2d_dgrad", case, precision="bf16"):
            name = f"{case}-{kernel.removeprefix('conv2d_')}-bf16"
            rows.append(pytest.param(case, kernel, "bf16", id=name))
        for kernel in kernels("conv2d_dgrad", case, precision="tf32"):
            precisions = (
                ("tf32", "fp32x3") if "_mma" in kernel else ("tf32",) if "_wgmma" in kernel else ("fp32",)
            )
            for precision in precisions:
                name = f"{case}-{kernel.removeprefix('conv2d_')}-{precision}"
                rows.append(pytest.param(case, kernel, precision, id=name))
    return rows if PLAIN else representative(rows)


@pytest.mark.kernels
@pytest.mark.parametrize(("case", "kernel", "precision"), on_every_kernel())
def test_conv2d_dgrad(case, kernel, precision, device, run_on):
    if precision != "fp32" and capability(device) < 80:
        pytest.skip("the GPU has no tensor cores")
    if "_wgmma" in kernel and capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    dtype = BF16 if precision == "bf16" else F32
    mask = relu_output(case.x, dtype)
    options = {"kernel": kernel, "dtype": dtype, "precision": precision}
    with run_on(device):
        plain = compute("conv2d_dgrad", case, device, **options)
        masked = compute("conv2d_dgrad", case, device, **options, mask=device.asarray(mask))
    assert same_bits(masked, through_relu(plain, mask))
    assert mask.size < 10 or 0 < np.count_nonzero(masked) < 0.7 * masked.size


#: Columns that end within a run of 8, of 32, of 128 and within their group; rows for both halves of a tile.
RAGGED_MASKS = [
    Conv("narrow", (2, 11, 10, 40), (8, 2, 1, 40)),
    Conv("two_groups", (2, 11, 10, 208), (128, 1, 2, 104), groups=2),
    Conv("three_groups", (1, 15, 14, 168), (192, 2, 1, 56), groups=3),
    Conv("wide", (2, 11, 10, 200), (8, 1, 2, 200)),
]


@pytest.mark.parametrize(
    ("case", "kernel", "precision"),
    [
        pytest.param(case, kernel, precision, id=f"{case}-{kernel.removeprefix('conv2d_')}")
        for case in RAGGED_MASKS
        for precision in ("bf16", "tf32")
        for kernel in kernels("conv2d_dgrad", case, precision=precision)
        if "_wgmma" in kernel
    ],
)
def test_masks_of_ragged_columns(case, kernel, precision, device, run_on):
    """Where a mask is a bit of a register: each row and column has its own, whatever number it was."""
    if capability(device) != 90:
        pytest.skip("not a GPU of compute capability 9.0")
    dtype = BF16 if precision == "bf16" else F32
    numbers = np.array([np.nan, 0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, 1e-40, -1e-40]).astype(dtype)
    mask = np.random.default_rng(3).choice(numbers, case.x)
    with run_on(device):
        for name in (f"{kernel}/1", kernel):  # by the kernel, and where it is cut by the pass that adds
            options = {"kernel": name, "dtype": dtype, "precision": precision}
            plain = compute("conv2d_dgrad", case, device, **options)
            masked = compute("conv2d_dgrad", case, device, **options, mask=device.asarray(mask))
            assert not np.isnan(plain).any()
            assert same_bits(masked, through_relu(plain, mask))


@pytest.mark.parametrize(("precision", "dtype"), [("tf32", F32), ("bf16", BF16)])
def test_the_shapes_reach_split_and_whole_reductions_of_every_row(precision, dtype):
    split, whole = reached("conv2d_dgrad", MASKED, precision)
    assert whole == table("conv2d_dgrad", dtype)
    assert split == whole


@pytest.mark.parametrize(
    ("n", "i", "o"), [(1, 36, 20), (17, 68, 132), (3, 9, 2052), (20, 6, 5), (40, 132, 9)]
)
def test_linear_dgrad(n, i, o, device, run_on):
    rng = np.random.default_rng(n)
    dy, w = (rng.standard_normal(shape).astype(F32) for shape in ((n, o), (o, i)))
    dy[n // 2, 0] = np.nan  # a gradient that is not a number does not pass where the mask is zero
    mask = relu_output((n, i))
    mask[n // 2, 0] = 0
    with run_on(device):
        arrays = [device.asarray(a) for a in (dy, w)]
        for kernel in ops.kernels("linear_dgrad", (n, i), (o, i), device=device, precision="tf32"):
            options = {"kernel": kernel, "precision": "tf32" if "mma" in kernel else "fp32"}
            plain = device.to_numpy(ops.linear_dgrad(*arrays, **options))
            out = filled_with_nan(device, (n, i))
            masked = ops.linear_dgrad(*arrays, **options, mask=device.asarray(mask), out=out)
            assert masked is out
            assert same_bits(device.to_numpy(masked), through_relu(plain, mask))
            assert np.isnan(plain[n // 2]).all()
            assert device.to_numpy(masked)[n // 2, 0] == 0


@pytest.mark.parametrize("case", FEW, ids=str)
def test_it_is_relu_backward(case, any_device, run_on):
    """The operation it stands for, through the public functions, by whatever kernel is preferred."""
    mask = relu_output(case.x)
    with run_on(any_device):
        dx = compute("conv2d_dgrad", case, any_device)
        expected = any_device.to_numpy(ops.relu_backward(any_device.asarray(dx), any_device.asarray(mask)))
        masked = compute("conv2d_dgrad", case, any_device, mask=any_device.asarray(mask))
    assert same_bits(masked, expected)


def test_an_unaligned_mask(device, run_on):
    """The kernels that move four floats at once do not apply to it."""
    case = next(case for case in FEW if case.name == "many_channels")
    p = problem(case)
    mask = relu_output(case.x)
    with run_on(device):
        shifted = device.asarray(np.concatenate([np.zeros(1, F32), mask.ravel()]))[1:].reshape(case.x)
        masked = compute("conv2d_dgrad", case, device, mask=shifted)
        with pytest.raises(ValueError, match="does not apply"):
            compute("conv2d_dgrad", case, device, kernels("conv2d_dgrad", case)[0], mask=shifted)
    keep = ~(mask <= 0)
    assert not masked[~keep].any()
    assert_close(masked[keep], p.dx[keep], p.terms["conv2d_dgrad"], eps=EPS32)


@pytest.mark.parametrize("dtype", [np.float64, F32, BF16])
def test_cpu(dtype):
    rng = np.random.default_rng(3)
    dy, w = (rng.standard_normal(shape).astype(dtype) for shape in ((2, 4, 4, 8), (8, 3, 2, 4)))
    mask = relu_output((2, 6, 5, 4), dtype)
    plain = ops.conv2d_dgrad(dy, w, mask.shape)
    masked = ops.conv2d_dgrad(dy, w, mask.shape, mask=mask)
    assert masked.dtype == dtype
    assert same_bits(masked, through_relu(plain, mask))
    dy, w, mask = dy.reshape(2, -1), w.reshape(8, -1), relu_output((16, 24), dtype)
    dy = dy.reshape(-1, 8)[:16]
    plain = ops.linear_dgrad(dy, w)
    assert same_bits(ops.linear_dgrad(dy, w, mask=mask), through_relu(plain, mask))


@pytest.mark.parametrize("name", ["conv2d_dgrad", "linear_dgrad"])
def test_what_a_mask_must_be(name, any_device, run_on):
    if name == "conv2d_dgrad":
        arguments, shape = (
            (np.ones((2, 4, 4, 8), F32), np.ones((8, 3, 2, 4), F32), (2, 6, 5, 4)),
            (2, 6, 5, 4),
        )
    else:
        arguments, shape = (np.ones((3, 4), F32), np.ones((4, 6), F32)), (3, 6)
    arguments = [any_device.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
    storage = any_device.zeros((1000,), F32)
    size = int(np.prod(shape))
    out = storage[:size].reshape(shape)
    bad = [
        (any_device.zeros((*shape[:-1], shape[-1] + 1), F32), ValueError, rf"{name}: mask must have shape"),
        (any_device.zeros((size,), F32), ValueError, rf"{name}: mask must have shape"),
        (any_device.zeros(shape, np.uint8), TypeError, rf"{name}: mask must be float32"),
        (any_device.zeros((*shape, 2), F32)[..., 0], ValueError, rf"{name}: mask must be C-contiguous"),
        (out, ValueError, rf"{name}: out must not overlap mask"),
        (storage[4 : 4 + size].reshape(shape), ValueError, rf"{name}: out must not overlap mask"),
        ([1.0], TypeError, rf"{name}: mask must be a NumPy or CUDA array, got list"),
    ]
    with run_on(any_device):
        for mask, error, message in bad:
            with pytest.raises(error, match=message):
                getattr(ops, name)(*arguments, mask=mask, out=out)
        getattr(ops, name)(*arguments, mask=any_device.zeros(shape, F32), out=out)
    assert not any_device.to_numpy(out).any()


@pytest.mark.gpu
def test_a_mask_on_the_host_is_refused():
    dev = devices.cuda(0)
    dy, w = dev.zeros((3, 4)), dev.zeros((4, 6))
    with pytest.raises(ValueError, match="linear_dgrad: all arrays must be on one device"):
        ops.linear_dgrad(dy, w, mask=np.zeros((3, 6), F32))
