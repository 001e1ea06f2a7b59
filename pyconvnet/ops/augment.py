"""From the images of a data set to the input of a network: crop, mirror, colour, mean."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common import checks
from ..common.devices import Device
from ..common.precision import BFLOAT16, accumulation_dtype
from . import core, reference
from .launch import HostCall, Launch, Prepared, as_flags, as_int32
from .operation import operation
from .reference.space_to_depth import Depth, images_to_depth


@operation()
def augment(
    images: Any,
    crop: Any = None,
    mirror: Any = None,
    colour: Any = None,
    mean: Any = None,
    *,
    size: tuple[int, int],
    scale: float = 1.0,
    depth: Depth | None = None,
    indices: Any = None,
    out: Any = None,
    kernel: str | None = None,
) -> Any:
    """Crop, mirror, shift in colour, subtract the mean and scale (the paper, sections 2 and 4.1).

    ``y[n, i, j, c] = (images[k, crop[n, 0] + i, crop[n, 1] + j', c] - mean[…, c] + colour[n, c]) scale`` with
    j' = w - 1 - j where ``mirror[n]``, else j, k = ``indices[n]``, or n without them, and the mean of the
    source pixel.

    Parameters
    ----------
    images : uint8 or float32 array (N, H, W, C); on the cpu also float64
    crop : array (n, 2) of integers, top and left edge of each crop; None: 0
    mirror : array (n,) of integers or truth values, optional; not 0: mirrored left to right
        int32 crops and uint8 or bool mirrors are read as they are, others converted on their device.
    colour : array (n, C), optional; added to all pixels of an image
    mean : array (C,) or (H, W, C), optional
    size : (h, w) of the crops
    scale : number
    depth : Depth, optional
        Write the crops in the space-to-depth layout of a convolution, (n, I, J, D), see
        :mod:`pyconvnet.ops.space_to_depth`.
    indices : array (n,) of integers in [0, N), optional
        Whose crops are wanted, in any order and any number of times; None: all images', n = N. Only with them
        the images may have 2^31 elements and more. int32 is read as it is, others are converted.
    out : array (n, h, w, C), or (n, I, J, D), optional; float32 or bfloat16, on the cpu also float64
    kernel : str, optional
        Forces one of ``ops.kernels("augment", images.shape, size, depth=depth)``.

    Returns
    -------
    array (n, h, w, C) or (n, I, J, D), dtype of `out`, else float64 where an argument is, else float32. In
    bfloat16 it is the float32 result, rounded to nearest, ties to even.

    Raises
    ------
    TypeError, ValueError
        Wrong dtypes or shapes; size larger than the images; not contiguous; `out` that does not fit; on the
        host, a crop that leaves its image, an index that no image has. On a CUDA device crops and indices are
        not read back: pixels outside the image, and of no image, come out as NaN.
    """
    named = {"crop": crop, "mirror": mirror, "colour": colour, "mean": mean, "indices": indices}
    dev, inputs = core.arrays("augment", tuple(named), images=images, **named)
    return prepare("augment", dev, inputs, "images", size, scale, depth, out, kernel)


def prepare(
    op: str,
    dev: Device,
    inputs: dict[str, Any],
    name: str,
    size: Any,
    scale: float = 1.0,
    depth: Depth | None = None,
    out: Any = None,
    kernel: str | None = None,
) -> Prepared:
    """Prepare :func:`augment` for an operation `op` with arrays `inputs` that calls the images `name`."""
    images = inputs[name]
    crop, mirror, colour, mean, indices = map(inputs.get, ("crop", "mirror", "colour", "mean", "indices"))
    core.refuse_kernel_on_cpu(op, dev, kernel)
    floats = (np.float32,) if dev.ext is not None else (np.float32, np.float64)
    checks.check_dtype(op, name, images, np.uint8, *floats)
    most = checks.MAX_ELEMENTS
    count, height, width, channels = checks.check_rank(
        op, name, images, "N, H, W, C", most if indices is None else None
    )
    if max(count, height * width * channels) > most:
        raise ValueError(
            f"{op}: {name} must be fewer than 2^31, each of fewer elements than that, got {images.shape}"
        )
    n = count if indices is None else checks.check_rank(op, "indices", indices, "n")[0]
    h, w = checks.pair(op, "size", size, 1)
    if h > height or w > width:
        raise ValueError(f"{op}: size must be at most the {(height, width)} of the images, got {(h, w)}")
    if crop is not None:
        checks.check_shape(op, "crop", crop, (n, 2), "(top, left) per image")
    if mirror is not None:
        checks.check_shape(op, "mirror", mirror, (n,), "for the images")
    if colour is not None:
        checks.check_dtype(op, "colour", colour, *floats)
        checks.check_shape(op, "colour", colour, (n, channels), "for the images")
    if mean is not None:
        checks.check_dtype(op, "mean", mean, *floats)
        if tuple(mean.shape) not in ((channels,), (height, width, channels)):
            raise ValueError(
                f"{op}: mean must have shape {(channels,)} or {(height, width, channels)}, "
                f"got {tuple(mean.shape)}"
            )
    checks.check_contiguous(op, **inputs)
    scale = checks.real(op, "scale", scale)
    if depth is not None and not isinstance(depth, Depth):
        raise TypeError(f"{op}: depth must be a Depth or None, got {type(depth).__name__}")
    content_checks, conversions = (), ()
    if crop is not None:
        crop, conversions = as_int32(op, dev, "crop", crop)
        if dev.kind != "cuda":
            content_checks = (HostCall(_check_crop, op, inputs["crop"], (h, w), (height, width)),)
    if indices is not None:
        indices, conversion = as_int32(op, dev, "indices", indices)
        conversions += conversion
        if dev.kind != "cuda":
            content_checks += (HostCall(checks.check_indices, op, "indices", inputs["indices"], count),)
    if mirror is not None:
        mirror, conversion = as_flags(op, dev, "mirror", mirror)
        conversions += conversion
    if out is not None:
        dtype = getattr(out, "dtype", np.float32)
        allowed = (BFLOAT16, np.dtype(np.float64)) if dev.ext is None else (BFLOAT16,)
        dtype = np.dtype(dtype if dtype in allowed else np.float32)
    else:
        precise = any(a is not None and a.dtype == np.float64 for a in (images, colour, mean))
        dtype = np.dtype(np.float64 if precise else np.float32)
    shape = (h, w, channels) if depth is None else depth.shape(op, (h, w, channels), dtype)
    y = core.output(op, dev, inputs, out, (n, *shape), dtype)
    if dev.ext is None:
        args, function = (images, crop, mirror, colour, mean, scale, indices), reference.augment
        if depth is not None:
            args, function = (*args, (h, w, channels), depth.stride, depth.corner), _in_depth
        step = HostCall(function, *args, out=y)
    else:
        extent = _extent(dev, tuple(images.shape), (h, w), mean, depth, shape, n)
        args = (y, images, indices, crop, mirror, colour, mean, scale)
        step = Launch(op, dev, "augment", extent, args, kernel=kernel)
    return Prepared(dev, y, *conversions, step, checks=content_checks, scratch=(crop, mirror, indices))


def _check_crop(op: str, crop: Any, size: tuple[int, int], extent: tuple[int, int]) -> None:
    """Check that every crop lies in its image; ValueError else."""
    room = np.array([extent[0] - size[0], extent[1] - size[1]], np.int32)
    outside = ((crop < 0) | (crop > room)).any(axis=1)
    if outside.any():
        i = int(outside.argmax())
        raise ValueError(
            f"{op}: crop must keep {size} pixels inside images of {extent}, "
            f"got top left {tuple(crop[i].tolist())} at index {i}"
        )


def _in_depth(
    images: Any,
    crop: Any,
    mirror: Any,
    colour: Any,
    mean: Any,
    scale: float,
    indices: Any,
    shape: tuple[int, int, int],
    stride: int,
    corner: Any,
    *,
    out: Any,
) -> None:
    """Augment by the reference to crops of `shape`, and rearrange them."""
    crops = np.empty((len(out), *shape), accumulation_dtype(out.dtype))
    reference.augment(images, crop, mirror, colour, mean, scale, indices, out=crops)
    images_to_depth(crops, stride, corner, out=out)


def _extent(
    dev: Device,
    shape: tuple[int, ...],
    size: tuple[int, int],
    mean: Any,
    depth: Depth | None,
    out_shape: tuple[int, int, int],
    n: int,
) -> Any:
    count, h, w, c = shape
    layout = {}
    if depth is not None:
        (pad_h, pad_w), (to_h, to_w, to_c) = depth.corner, out_shape
        layout = {
            "side": depth.stride,
            "pad_h": pad_h,
            "pad_w": pad_w,
            "to_h": to_h,
            "to_w": to_w,
            "to_c": to_c,
        }
    return dev.ext.AugmentShape(
        n=n,
        h=h,
        w=w,
        c=c,
        crop_h=size[0],
        crop_w=size[1],
        mean_pixels=0 if mean is None else mean.size // c,
        images=count,
        **layout,
    )


@core.lists_kernels("augment")
def _list_kernels(
    op: str, dev: Device, images_shape: tuple[int, ...], size: tuple[int, int], depth: Depth | None = None
) -> Any:
    shape = checks.shape_tuple(op, "images_shape", images_shape, "N, H, W, C")
    size = checks.pair(op, "size", size, 1)
    out = (*size, shape[3])
    out = out if depth is None else depth.shape(op, out, np.float32)
    return _extent(dev, shape, size, None, depth, out, shape[0])
