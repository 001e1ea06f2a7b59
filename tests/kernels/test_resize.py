"""Images of bytes to another size: every level of vector instructions, to the bit, and beside Pillow."""

import numpy as np
import pytest
from PIL import Image

from pyconvnet.data.images import placement
from pyconvnet.ops.host import module
from pyconvnet.ops.host.resize import _weights, resize

LEVELS = list(module.levels())
#: height, width, channels, to height, to width
SHAPES = [
    (320, 480, 3, 256, 256), (500, 375, 1, 256, 256), (16, 16, 3, 16, 16), (1, 1, 3, 7, 5), (9, 4, 1, 8, 8),
    (33, 17, 3, 40, 31), (1, 300, 3, 8, 8), (300, 1, 1, 8, 3), (47, 64, 3, 1, 1), (15, 31, 3, 64, 64),
]  # fmt: skip


def in_numpy(image, size, box):
    """The same by loops over outputs: rows narrowed and rounded to bytes, then columns."""
    box = np.float32(box).astype(float)
    for axis, extent, first, last in ((1, size[1], box[0], box[2]), (0, size[0], box[1], box[3])):
        image = np.moveaxis(image, axis, 0)
        spans, weights = _weights(len(image), first, last, extent)
        rows = [np.tensordot(w[:n], image[i : i + n].astype(int), 1) for (i, n), w in zip(spans, weights)]  # noqa: B905
        image = np.moveaxis(np.clip((np.stack(rows) + (1 << 21)) >> 22, 0, 255).astype(np.uint8), 0, axis)
    return image


def noise(rng, *shape):
    return np.where(rng.random(shape) < 0.5, rng.integers(0, 256, shape), rng.choice([0, 255], shape)).astype(
        "u1"
    )


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_level_gives_the_bits_of_numpy(level, shape, rng):
    image, size = noise(rng, *shape[:3]), shape[3:]
    for box in (placement(*shape[:2], size, "crop")[0], (0.0, 0.0, float(shape[1]), float(shape[0]))):
        out = np.full((*size, shape[2]), 77, np.uint8)
        with module.forced(level):
            assert resize(image, size, box, out)
        np.testing.assert_array_equal(out, in_numpy(image, size, box))


def test_weights_are_those_of_the_filter():
    """Against the integral definition: they add up to one and follow Keys' cubic, widened by the scale."""
    spans, weights = _weights(100, 10.0, 90.0, 32)
    assert np.abs(weights.sum(axis=1) - (1 << 22)).max() <= weights.shape[1]
    for output, (first, count) in enumerate(spans):
        centre = 10 + (output + 0.5) * 2.5
        x = np.abs((np.arange(first, first + count) + 0.5 - centre) / 2.5)
        assert (x < 2.2).all()
        cubic = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2) * (x < 2)
        np.testing.assert_allclose(weights[output, :count] / (1 << 22), cubic / cubic.sum(), atol=1e-6)
    assert not weights[:, 15:].any()


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("shape", [(320, 480), (375, 500), (500, 333), (64, 64)])
def test_pillows_pixels_up_to_the_order_of_passes(mode, shape):
    small = np.random.default_rng(sum(shape)).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(shape[::-1], Image.Resampling.BICUBIC).convert(mode)
    box, out = placement(*shape, (256, 256), "crop")[0], np.empty((256, 256, len(mode)), np.uint8)
    if not resize(np.asarray(image).reshape(*shape, -1), (256, 256), box, out):
        pytest.skip("no compiled kernels: Pillow itself")
    want = np.asarray(image.resize((256, 256), Image.Resampling.BICUBIC, box=box)).reshape(out.shape)
    far = np.abs(out.astype(int) - want)
    assert far.max() <= 4
    assert far.mean() < 0.05


@pytest.mark.skipif(not LEVELS, reason="no compiled kernels")
@pytest.mark.parametrize("wrong", ["span", "count", "channels", "output", "weights", "float"])
def test_the_module_refuses_what_it_would_read_outside_of(wrong):
    image, out = np.zeros((8, 8, 3), np.uint8), np.zeros((4, 4, 3), np.uint8)
    spans, weights = (a.copy() for a in _weights(8, 0.0, 8.0, 4))
    extents = [8, 8, 3, 4, 4, weights.shape[1], weights.shape[1]]
    if wrong == "span":
        spans[3] = 7, 2
    elif wrong == "count":
        spans[0, 1] = 0
    elif wrong == "channels":
        extents[2] = 2
        image, out = image[..., :2].copy(), out[..., :2].copy()
    elif wrong == "output":
        out = out[:3].copy()
    elif wrong == "weights":
        weights = weights[:, :-1].copy()
    else:
        image = image.astype(np.float32)
    with pytest.raises((ValueError, TypeError), match="_host"):
        module.ext().resize(LEVELS[0], tuple(extents), image, spans, weights, spans, weights, out)
