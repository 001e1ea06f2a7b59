"""Crop, mirror, colour, mean: every kernel and the reference against a loop over the pixels."""

import itertools

import numpy as np
import pytest
from support.helpers import same_bits
from support.kernels.placing import kernels_of, place

from pyconvnet import ops
from pyconvnet.common.precision import BFLOAT16

pytestmark = pytest.mark.kernels

CASES = [  # images (N, H, W, C), size (h, w)
    ((1, 1, 1, 1), (1, 1)),
    ((3, 5, 4, 3), (3, 2)),
    ((2, 9, 11, 3), (9, 11)),
    ((5, 8, 8, 3), (5, 7)),
    ((2, 6, 7, 1), (4, 4)),
    ((2, 5, 5, 4), (3, 4)),
    ((1, 4, 9, 33), (2, 5)),
    ((7, 12, 12, 3), (11, 9)),
]
ALEXNET = (2, 256, 256, 3), (224, 224)


def by_pixel(images, crop, mirror, colour, mean, size, scale):
    n, _, _, channels = images.shape
    h, w = size
    y = np.empty((n, h, w, channels))
    for a, i, j, c in itertools.product(range(n), range(h), range(w), range(channels)):
        row = crop[a, 0] + i
        col = crop[a, 1] + (w - 1 - j if mirror is not None and mirror[a] else j)
        value = float(images[a, row, col, c])
        if mean is not None:
            value -= float(mean[c] if mean.ndim == 1 else mean[row, col, c])
        if colour is not None:
            value += float(colour[a, c])
        y[a, i, j, c] = value * scale
    return y


def case(shape, size, rng, dtype=np.uint8):
    n, height, width, channels = shape
    images = rng.integers(0, 256, shape).astype(dtype)
    if dtype != np.uint8:
        images += rng.standard_normal(shape).astype(dtype)
    crop = np.stack(
        [rng.integers(0, height - size[0] + 1, n), rng.integers(0, width - size[1] + 1, n)], axis=1
    )
    crop[0] = 0
    crop[-1] = height - size[0], width - size[1]
    mirror = rng.integers(0, 2, n).astype(np.uint8)
    mirror[-1] = 1
    colour = (20 * rng.standard_normal((n, channels))).astype(np.float32)
    means = [
        None,
        *(rng.uniform(90, 130, s).astype(np.float32) for s in ((channels,), (height, width, channels))),
    ]
    return images, crop.astype(np.int32), mirror, colour, means


def check(device, shape, size, rng, dtype, misaligned=False):
    images, crop, mirror, colour, means = case(shape, size, rng, dtype)
    kernels = kernels_of(device, "augment", shape, size)
    for mean, mirrored, coloured in itertools.product(means, (mirror, None), (colour, None)):
        scale = 0.5 if coloured is not None else 1.0
        want = by_pixel(images, crop, mirrored, coloured, mean, size, scale)
        for kernel in kernels:
            out = place(device, np.full(want.shape, np.nan, np.float32), misaligned)
            arrays = [place(device, a, misaligned) for a in (images, crop, mirrored, coloured, mean)]
            assert ops.augment(*arrays, size=size, scale=scale, out=out, kernel=kernel) is out
            np.testing.assert_allclose(device.to_numpy(out), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_kernels(dtype, misaligned, device, schedule, run_on, rng):
    with run_on(device):
        for shape, size in CASES:
            check(device, shape, size, rng, dtype, misaligned)


@pytest.mark.parametrize("misaligned", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_bfloat16_is_the_rounding_of_float32(dtype, misaligned, any_device, schedule, run_on, rng):
    with run_on(any_device):
        for shape, size in CASES:
            images, crop, mirror, colour, means = case(shape, size, rng, dtype)
            for mean in means:
                arrays = [place(any_device, a, misaligned) for a in (images, crop, mirror, colour, mean)]
                for kernel in kernels_of(any_device, "augment", shape, size):
                    exact = any_device.to_numpy(ops.augment(*arrays, size=size, scale=1 / 3, kernel=kernel))
                    out = place(any_device, np.full(exact.shape, np.nan, BFLOAT16), misaligned)
                    assert ops.augment(*arrays, size=size, scale=1 / 3, out=out, kernel=kernel) is out
                    assert same_bits(any_device.to_numpy(out), exact.astype(BFLOAT16))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_reference(dtype, any_device, run_on, rng):
    with run_on(any_device):
        for shape, size in CASES:
            check(any_device, shape, size, rng, dtype)


def test_more_than_one_piece_and_block(any_device, run_on, rng):
    images, crop, mirror, colour, means = case((40, 33, 33, 3), (31, 32), rng)
    with run_on(any_device):
        arrays = [any_device.asarray(a) for a in (images, crop, mirror, colour, means[2])]
        y = any_device.to_numpy(ops.augment(*arrays, size=(31, 32)))
    np.testing.assert_allclose(
        y, by_pixel(images, crop, mirror, colour, means[2], (31, 32), 1.0), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_alexnet_crops(dtype, any_device, run_on, rng):
    shape, (h, w) = ALEXNET
    images, crop, mirror, colour, means = case(shape, (h, w), rng, dtype)
    with run_on(any_device):
        arrays = [any_device.asarray(a) for a in (images, crop, mirror, colour, means[2])]
        y = any_device.to_numpy(ops.augment(*arrays, size=(h, w), scale=1 / 1.1))
    for n, (top, left) in enumerate(crop):
        want = (images - means[2].astype(np.float64))[n, top : top + h, left : left + w]
        want = (want[:, ::-1] if mirror[n] else want) + colour[n]
        np.testing.assert_allclose(y[n], want / 1.1, rtol=0, atol=1e-4)


def test_mirror_twice_is_nothing(any_device, run_on, rng):
    images = rng.integers(0, 256, (3, 6, 5, 3)).astype(np.float32)
    crop = np.zeros((3, 2), np.int32)
    ones = np.array([1, 255, 3], np.uint8)  # anything but 0 mirrors
    with run_on(any_device):
        on = any_device.asarray
        once = ops.augment(on(images), on(crop), on(ones), size=(6, 5))
        assert np.array_equal(any_device.to_numpy(once), images[:, :, ::-1])
        assert np.array_equal(any_device.to_numpy(ops.augment(once, on(crop), on(ones), size=(6, 5))), images)


def test_float64_on_the_cpu(rng):
    images, crop, mirror, colour, means = case((5, 8, 8, 3), (5, 7), rng)
    want = by_pixel(images, crop, mirror, colour, means[2], (5, 7), 1 / 3)
    out = np.full(want.shape, np.nan)
    y = ops.augment(images, crop, mirror, colour, means[2], size=(5, 7), scale=1 / 3, out=out)
    np.testing.assert_allclose(y, want, rtol=1e-14)
    assert ops.augment(images.astype(np.float64), crop, size=(5, 7)).dtype == np.float64
    assert ops.augment(images, crop, mean=means[1].astype(np.float64), size=(5, 7)).dtype == np.float64
    assert ops.augment(images, crop, mean=means[1], size=(5, 7)).dtype == np.float32


@pytest.mark.parametrize("channels", [3, 2])
def test_kernels_mark_pixels_outside_the_image(channels, device, rng):
    """On CUDA nobody reads the crops beforehand; the emulator's kernels are asked directly."""
    images = rng.integers(0, 256, (4, 6, 6, channels)).astype(np.uint8)
    crop = np.array([[0, 0], [-1, 4], [2**31 - 1, 0], [3, -(2**31)]], np.int32)
    extent = device.ext.AugmentShape(n=4, h=6, w=6, c=channels, crop_h=3, crop_w=3, mean_pixels=0)
    for name, _ in device.ext.augment_kernels(extent):
        out = device.empty((4, 3, 3, channels))
        args = (device.asarray(images), None, device.asarray(crop), None, None, None, 1.0, device.stream())
        device.ext.augment(name, extent, out, *args)
        y = device.to_numpy(out)
        assert np.array_equal(y[0], images[0, :3, :3])
        assert np.isnan(y[1, 0]).all()
        assert np.isnan(y[1, :, 2]).all()
        assert np.array_equal(y[1, 1:, :2], images[1, :2, 4:])
        assert np.isnan(y[2:]).all()


def test_every_row_has_been_run(device):
    reached = {name for shape, size in CASES for name in ops.kernels("augment", shape, size, device=device)}
    others = {name for name in device.ext.augment_table() if "depth" not in name}  # see test_space_to_depth
    assert reached == others


def call(**changes):
    arguments = {
        "images": np.zeros((2, 5, 6, 3), np.uint8),
        "crop": np.zeros((2, 2), np.int32),
        "mirror": None,
        "colour": None,
        "mean": None,
        "size": (4, 4),
    } | changes
    return ops.augment(**arguments)


IMAGES = np.zeros((2, 5, 6, 3), np.float32)


@pytest.mark.parametrize("where", ["cpu", "emulator"])
@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"images": IMAGES[0]},
            ValueError,
            r"augment: images must have 4 dimensions \(N, H, W, C\), got shape \(5, 6, 3\)",
        ),
        ({"images": IMAGES.astype(np.int32)}, TypeError, "images must be uint8 or float32.*, got int32"),
        ({"images": IMAGES[:, :, ::-1]}, ValueError, "images must be C-contiguous"),
        ({"images": IMAGES[:0], "crop": np.zeros((0, 2), np.int32)}, ValueError, "images must not be empty"),
        ({"images": IMAGES.tolist()}, TypeError, "images must be a NumPy or CUDA array, got list"),
        ({"crop": np.zeros((2, 2))}, TypeError, "crop must be integers, got float64"),
        (
            {"crop": np.zeros((3, 2), np.int32)},
            ValueError,
            r"crop must have shape \(2, 2\) \(top, left\) per image, got \(3, 2\)",
        ),
        (
            {"crop": np.array([[0, 0], [2, 0]], np.int32)},
            ValueError,
            r"crop must keep \(4, 4\) pixels .* got top left \(2, 0\) at index 1",
        ),
        ({"crop": np.array([[0, -1], [0, 0]], np.int32)}, ValueError, r"got top left \(0, -1\) at index 0"),
        ({"size": (6, 4)}, ValueError, r"size must be at most the \(5, 6\) of the images, got \(6, 4\)"),
        ({"size": (0, 4)}, ValueError, "size must be at least 1, got 0"),
        ({"size": "44"}, TypeError, "size must be an integer, got str"),
        ({"mirror": np.zeros(2, np.float32)}, TypeError, "mirror must be integers or bool, got float32"),
        (
            {"mirror": np.zeros(3, np.uint8)},
            ValueError,
            r"mirror must have shape \(2,\) for the images, got \(3,\)",
        ),
        (
            {"colour": np.zeros((2, 4), np.float32)},
            ValueError,
            r"colour must have shape \(2, 3\) for the images, got \(2, 4\)",
        ),
        ({"colour": np.zeros((2, 3), np.int32)}, TypeError, "colour must be float32.*, got int32"),
        (
            {"mean": np.zeros(4, np.float32)},
            ValueError,
            r"mean must have shape \(3,\) or \(5, 6, 3\), got \(4,\)",
        ),
        ({"mean": np.zeros(3, np.uint8)}, TypeError, "mean must be float32.*, got uint8"),
        ({"scale": np.nan}, ValueError, "scale must be finite, got nan"),
        (
            {"out": np.zeros((2, 4, 4, 1), np.float32)},
            ValueError,
            r"out must have shape \(2, 4, 4, 3\), got \(2, 4, 4, 1\)",
        ),
        ({"out": np.zeros((2, 4, 4, 3), np.uint8)}, TypeError, "out must be float32, got uint8"),
        ({"images": IMAGES, "size": (5, 6), "out": IMAGES}, ValueError, "out must not overlap images"),
    ],
)
def test_refuses(changes, error, message, where):
    with ops.on(where), pytest.raises(error, match=message):
        call(**changes)


def test_the_good_call_of_the_refusals_is_good():
    for where in ("cpu", "emulator"):
        with ops.on(where):
            assert call().shape == (2, 4, 4, 3)
