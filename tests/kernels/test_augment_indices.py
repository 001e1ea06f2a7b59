"""Crops of the images that indices name: the bits of crops of copies of those images, on every kernel."""

import inspect
import itertools

import numpy as np
import pytest
from support.helpers import same_bits
from support.kernels.placing import blank, place

from pyconvnet import ops
from pyconvnet.common.precision import BFLOAT16
from pyconvnet.ops.space_to_depth import Depth

pytestmark = pytest.mark.kernels

# Images (N, H, W, C), crops (h, w), indices, and a convolution for the depth layout.
CASES = [
    ((1, 1, 1, 1), (1, 1), [0], Depth(1, 1)),
    ((5, 5, 4, 3), (3, 2), [4, 0, 4, 2, 2, 1, 4, 3], Depth(2, 1, 1)),
    ((9, 9, 11, 3), (9, 11), [8], Depth(5, 4, 2)),
    ((3, 6, 7, 1), (4, 4), [2, 2, 0, 1], Depth(3, 3)),
    ((2, 8, 8, 3), (5, 7), [1, 1, 1, 1, 1, 0, 1], Depth(5, 4, ((0, 2), (1, 0)))),
    ((4, 4, 9, 33), (2, 5), [3, 1], Depth(2, 2)),
]


def case(shape, size, indices, rng, dtype):
    (_, height, width, channels), n = shape, len(indices)
    images = rng.integers(0, 256, shape).astype(dtype)
    room = height - size[0], width - size[1]
    crop = np.stack([rng.integers(0, r + 1, n) for r in room], axis=1).astype(np.int32)
    mirror = rng.integers(0, 2, n).astype(np.uint8)
    colour = (20 * rng.standard_normal((n, channels))).astype(np.float32)
    means = [
        None,
        *(rng.uniform(90, 130, s).astype(np.float32) for s in ((channels,), (height, width, channels))),
    ]
    return images, crop, mirror, colour, means


def check(device, rng, dtype, out_dtype=np.float32, misaligned=False, kind=np.int32):
    for (shape, size, chosen, depth), laid in itertools.product(CASES, (False, True)):
        images, crop, mirror, colour, means = case(shape, size, chosen, rng, dtype)
        how = {"size": size, "scale": 0.3, **({"depth": depth} if laid else {})}
        kernels = [None]
        if device.kind != "cpu":
            kernels = ops.kernels("augment", shape, size, depth=how.get("depth"), device=device)
        indices = place(device, np.array(chosen, kind), misaligned)
        whole, copies = (place(device, a, misaligned) for a in (images, images[chosen]))
        for mean, plain in itertools.product(means, (False, True)):
            drawn = (None, None, None) if plain else (crop, mirror, colour)
            arrays = [place(device, a, misaligned) for a in (*drawn, mean)]
            for kernel in kernels:
                crops = (*size, shape[3]) if not laid else depth.shape("test", (*size, shape[3]), out_dtype)
                want, out = (blank(device, (len(chosen), *crops), out_dtype, misaligned) for _ in range(2))
                ops.augment(copies, *arrays, **how, out=want, kernel=kernel)
                assert ops.augment(whole, *arrays, **how, indices=indices, out=out, kernel=kernel) is out
                assert not np.isnan(device.to_numpy(out).astype(np.float32)).any()
                assert same_bits(device.to_numpy(out), device.to_numpy(want))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_kernels(dtype, device, schedule, run_on, rng):
    with run_on(device):
        check(device, rng, dtype)


@pytest.mark.parametrize("misaligned", [False, True])
def test_every_device(misaligned, any_device, run_on, rng):
    with run_on(any_device):
        check(any_device, rng, np.uint8, BFLOAT16, misaligned, np.int64)


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_float64_on_the_cpu(dtype, rng):
    shape, size, chosen, depth = CASES[1]
    images, crop, mirror, colour, means = case(shape, size, chosen, rng, dtype)
    for how in ({}, {"depth": depth}):
        drawn = crop, mirror, colour, means[2].astype(np.float64)
        found = ops.augment(images, *drawn, size=size, indices=np.array(chosen, np.uint8), **how)
        assert found.dtype == np.float64
        assert same_bits(found, ops.augment(images[chosen], *drawn, size=size, **how))


def test_the_image_is_the_one_named(any_device, run_on):
    """Images that are their number, everywhere."""
    images = np.broadcast_to(np.arange(7, dtype=np.uint8)[:, None, None, None], (7, 5, 6, 3)).copy()
    chosen = np.array([6, 0, 3, 3, 5], np.int32)
    with run_on(any_device):
        y = ops.augment(any_device.asarray(images), size=(4, 5), indices=any_device.asarray(chosen))
    assert (any_device.to_numpy(y) == chosen[:, None, None, None]).all()


@pytest.mark.parametrize("channels", [3, 2])
@pytest.mark.parametrize("laid", [False, True])
def test_kernels_mark_images_that_are_not_there(laid, channels, device, rng):
    """On CUDA nobody reads the indices beforehand; the emulator's kernels are asked directly."""
    images = rng.integers(0, 256, (3, 4, 4, channels)).astype(np.uint8)
    chosen = np.array([2, 3, -1, 2**31 - 1, -(2**31), 0], np.int32)
    layout = {}
    shape = (4, 4, channels)
    if laid:
        depth = Depth(4, 4)
        shape = depth.shape("test", shape, np.float32)
        layout = dict(zip(("side", "to_h", "to_w", "to_c"), (4, *shape), strict=True))
    extent = device.ext.AugmentShape(
        n=6, h=4, w=4, c=channels, crop_h=4, crop_w=4, mean_pixels=0, images=3, **layout
    )
    arrays = device.asarray(images), device.asarray(chosen), None, None, None, None
    for name, _ in device.ext.augment_kernels(extent):
        out = blank(device, (6, *shape))
        device.ext.augment(name, extent, out, *arrays, 1.0, device.stream())
        y = device.to_numpy(out).reshape(6, -1)[:, : 16 * channels]  # what follows is no pixel of an image
        assert np.array_equal(y[[0, 5]], images[[2, 0]].reshape(2, -1))
        assert np.isnan(y[1:5]).all()


def test_more_elements_than_32_bits_count(any_device, run_on):
    """Pages of the host that nobody writes take no memory."""
    if any_device.kind == "cuda" and (not inspect.ismodule(any_device.xp) or any_device.free_bytes() < 2**33):
        pytest.skip("the device has not the memory")
    if any_device.kind == "emulator" and any_device.ext.flavour() != "plain":
        pytest.skip("checkers keep notes of every byte")
    images = any_device.xp.zeros((3, 30000, 30000, 1), np.uint8)
    images[2, 29000, 29001] = 7
    with run_on(any_device):
        crop = any_device.asarray(np.array([[29000, 29000]] * 2, np.int32))
        y = ops.augment(images, crop, size=(1, 2), indices=any_device.asarray(np.array([2, 1], np.int32)))
        assert any_device.to_numpy(y).ravel().tolist() == [0, 7, 0, 0]
        with pytest.raises(ValueError, match=r"images must have fewer than 2\^31 elements"):
            ops.augment(images, size=(1, 2))


def test_refuses():
    images, none = np.zeros((3, 5, 6, 3), np.uint8), np.zeros(0, np.int32)
    good = np.array([0, 2, 1, 1])
    for where, (indices, error, message) in itertools.product(
        ("cpu", "emulator"),
        [
            (np.array([0, 3]), ValueError, r"augment: indices must be in \[0, 3\), got 3 at index 1"),
            (np.array([-1, 3]), ValueError, r"indices must be in \[0, 3\), got -1 at index 0"),
            (good.astype(np.float32), TypeError, "indices must be integers, got float32"),
            (good == 1, TypeError, "indices must be integers, got bool"),
            (good[None], ValueError, r"indices must have 1 dimension \(n\), got shape \(1, 4\)"),
            (none, ValueError, "indices must not be empty"),
            (good[::2], ValueError, "indices must be C-contiguous"),
            ([0, 1], TypeError, "indices must be a NumPy or CUDA array, got list"),
        ],
    ):
        with ops.on(where), pytest.raises(error, match=message):
            ops.augment(images, size=(4, 4), indices=indices)
    crop = np.zeros((3, 2), np.int32)
    with pytest.raises(ValueError, match=r"crop must have shape \(4, 2\)"):
        ops.augment(images, crop, size=(4, 4), indices=good)
