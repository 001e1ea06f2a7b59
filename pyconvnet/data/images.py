"""Image files to uint8 pixels, as the paper prepares them (section 2).

"Given a rectangular image, we first rescaled the image such that the shorter side was of length 256, and then
cropped out the central 256x256 patch from the resulting image."
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


def load_image(source: Any, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Decode one image file and bring it to `size`.

    The orientation that EXIF asks for is applied; greyscale, palette, CMYK, YCbCr and 16-bit images become
    RGB (or grey, with ``channels=1``); transparency is laid over white.

    Parameters
    ----------
    source : path, bytes or an open PIL.Image.Image
    size : (H, W)
    channels : 1 or 3

    Returns
    -------
    ndarray, (H, W, channels) uint8

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no image, or is truncated or damaged; the message names it.
    """
    if channels not in (1, 3):
        raise ValueError(f"load_image: channels must be 1 or 3, got {channels!r}")
    name = source if isinstance(source, (str, Path)) else "image"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow warns of damaged EXIF and of large images; both are handled
            if isinstance(source, Image.Image):
                return fit(source, size, channels)
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                # JPEG only: decode at 1/2, 1/4 or 1/8 where that still leaves twice the wanted detail.
                image.draft(None, (2 * max(size), 2 * max(size)))
                return fit(image, size, channels)
    except FileNotFoundError:
        raise FileNotFoundError(f"{name}: no such image file") from None
    except MemoryError:
        raise
    # Decoders answer damaged files with many exception types (OSError, SyntaxError, struct.error, KeyError,
    # …).
    except Exception as error:
        reason = (
            "not an image file that Pillow can read"
            if isinstance(error, Image.UnidentifiedImageError)
            else error
        )
        raise ValueError(f"{name}: {reason}") from error


def fit(image: Image.Image, size: tuple[int, int], channels: int = 3) -> np.ndarray:
    """Rescale so that `size` is just covered, crop the centre, make RGB or grey: (H, W, channels) uint8."""
    image.load()
    image = to_mode(upright(image), "RGB" if channels == 3 else "L")
    height, width = size
    if image.size != (width, height):
        # The centred part that becomes the result, in source pixels. Resampling it alone gives what rescaling
        # the whole and cropping would, and a 1x10000 strip does not first become 256x2560000.
        scale = min(image.width / width, image.height / height)
        half_w, half_h = width * scale / 2, height * scale / 2
        box = (
            max(image.width / 2 - half_w, 0.0),
            max(image.height / 2 - half_h, 0.0),
            min(image.width / 2 + half_w, float(image.width)),
            min(image.height / 2 + half_h, float(image.height)),
        )
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return np.array(image, np.uint8).reshape(height, width, channels)


def upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF orientation says; unreadable EXIF data is as good as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert any Pillow mode to "RGB" or "L"."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow clips these at 255; 16-bit grey is scaled down instead, and what already fits is kept.
        values = np.asarray(image.convert("F") if image.mode != "F" else image)
        if not np.isfinite(values).all():
            raise ValueError("pixels are not finite")
        values = values / 257.0 if values.max(initial=0) > 255 else values
        image = Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def image_size(where: str, size: Any) -> tuple[int, int]:
    """`size` (int or (height, width)) as a checked pair."""
    pair = (size, size) if isinstance(size, (int, np.integer)) and not isinstance(size, bool) else size
    if (
        not isinstance(pair, (tuple, list))
        or len(pair) != 2
        or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) for v in pair)
    ):
        raise TypeError(f"{where}: size must be an integer or (height, width), got {size!r}")
    if min(pair) < 1 or max(pair) > 16384:
        raise ValueError(f"{where}: size must lie in [1, 16384], got {size!r}")
    return int(pair[0]), int(pair[1])
