"""Image files to uint8 pixels, as the paper prepares them (section 2).

"Given a rectangular image, we first rescaled the image such that the shorter side was of length 256, and then
cropped out the central 256x256 patch from the resulting image."
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..common.checks import integer, one_of, pair
from ..ops.host.resize import Box, resize
from . import jpeg
from .pillow import bombs_are_errors, refused_format

MAX_PIXELS = 100_000_000  # of an image as it is decoded: 0.4 GB, some copies of it not counted
FITS = ("crop", "pad", "squash")
GREY = 128  # around an image that is padded: about the mean of photographs, which is subtracted
ENCODED = (bytes, bytearray, memoryview)  # a file's contents
_TRANSPARENT = ("RGBA", "LA", "PA", "RGBa", "La")
_STRETCH = {"L;2": 85, "L;4": 17}  # Pillow makes 8 bits of these grey levels, but not of the transparent one


def load_image(
    source: Any,
    size: int | tuple[int, int],
    channels: int = 3,
    *,
    max_pixels: int | None = None,
    decoder: str | None = None,
    fit: str = "crop",
) -> np.ndarray:
    """Decode one image file and bring it to `size`.

    The orientation that EXIF asks for is applied; images of every mode of Pillow's become RGB (or grey, with
    ``channels=1``); transparency is laid over white. Grey of 16 bits is divided by 257 and rounded to the
    nearest (Pillow itself keeps the upper byte of 16-bit colours); floats must lie in 0 (black) to 1 (white);
    integers of 32 bits, which have no white, are refused.

    Parameters
    ----------
    source : path, bytes, file object or an open PIL.Image.Image
    size : int or (H, W)
    channels : 1 or 3
    max_pixels : int, optional
        A file with more pixels to decode is refused before it is decoded; default 100 million. A JPEG counts
        with what it is reduced to while it is decoded (by 2, 4 or 8, down to twice `size`). Pillow's own
        limit, twice ``PIL.Image.MAX_IMAGE_PIXELS`` before any reduction, holds beside this one.
    decoder : "libjpeg-turbo" or "pillow"
        Of JPEG files, see :mod:`pyconvnet.data.jpeg`. Default: the first, where simplejpeg is installed.
    fit : "crop", "pad" or "squash"
        How an image of another shape becomes one of `size`: the shorter side fits and the longer loses its
        ends (the paper); the longer side fits, between bands of `GREY`; or both fit, out of proportion.

    Returns
    -------
    ndarray, (H, W, channels) uint8

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is no image, is truncated or damaged, too large, or no regular file; the message names it.
    TypeError
        `source` is nothing of the above.
    """
    channels = check_channels("load_image", channels)
    height, width = image_size("load_image", size)
    max_pixels = check_max_pixels("load_image", max_pixels)
    fast = jpeg.check_decoder("load_image", decoder) == jpeg.FAST
    fit = check_fit("load_image", fit)
    is_path = isinstance(source, (str, os.PathLike))
    name = os.fspath(source) if is_path else "image"
    if isinstance(source, ENCODED):
        source = io.BytesIO(source)
    elif not is_path and not isinstance(source, Image.Image) and not hasattr(source, "read"):
        raise TypeError(
            f"load_image: source must be a path, bytes or a PIL image, got {type(source).__name__}"
        )
    try:
        if is_path and not stat.S_ISREG(mode := os.stat(source).st_mode) and not stat.S_ISDIR(mode):
            raise ValueError("not a regular file but a pipe, socket or device")  # reading could wait for ever
        bombs = "error" if bombs_are_errors() else "ignore"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data, say
            warnings.simplefilter(bombs, Image.DecompressionBombWarning)
            if isinstance(source, Image.Image):
                return fitted(source, (height, width), channels, fit)
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(source, "rb")) if is_path else source
                content = jpeg.contents(file) if is_path or isinstance(file, io.BytesIO) else None
                image = stack.enter_context(Image.open(file if content is None else io.BytesIO(content)))
                full = image.size
                if reason := refused_format(image.format):
                    raise ValueError(f"{image.format} files are not read: {reason}")
                # JPEG only: decode at 1/2, 1/4 or 1/8 where that still leaves twice the wanted detail.
                image.draft(None, (2 * max(height, width), 2 * max(height, width)))
                if (pixels := image.width * image.height) > max_pixels:
                    raise ValueError(
                        f"{image.width}x{image.height} = {pixels} pixels are more than "
                        f"max_pixels={max_pixels}; raise max_pixels to read it"
                    )
                if content is not None:
                    jpeg.check_scans(content, full[0] * full[1], max_pixels)
                    if fast and (pixels := jpeg.decode(content, image, full)) is not None:
                        return fitted_pixels(pixels, (height, width), channels, fit)
                return fitted(image, (height, width), channels, fit)
    except FileNotFoundError:
        link = os.path.islink(source)
        what = f"a symbolic link to nothing ({os.readlink(source)})" if link else "no such image file"
        raise FileNotFoundError(f"{name}: {what}") from None
    except MemoryError:
        raise
    # Decoders answer damaged files with many exception types (OSError, SyntaxError, struct.error, KeyError,
    # …).
    except Exception as error:
        raise ValueError(f"{name}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image file that Pillow can read"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"{error} (PIL.Image.MAX_IMAGE_PIXELS is {Image.MAX_IMAGE_PIXELS})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which is named already
    return " ".join(str(error).split()) or type(error).__name__


def fitted(image: Image.Image, size: tuple[int, int], channels: int = 3, fit: str = "crop") -> np.ndarray:
    """Bring an image to `size`, see `load_image`, and make RGB or grey of it: (H, W, channels) uint8.

    Raises
    ------
    ValueError
        The image has no pixels, or such as have no grey level (see `to_mode`).
    """
    if 0 in image.size:
        raise ValueError(f"an image must have pixels, got {image.width}x{image.height}")
    raw, form = raw_mode(image), image.format  # both are lost on loading and copying
    image.load()
    image = to_mode(upright(image), "RGB" if channels == 3 else "L", raw, form)
    box, (height, width) = placement(image.height, image.width, size, fit)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC, box=box)
    return padded(np.array(image, np.uint8).reshape(height, width, channels), size)


def fitted_pixels(
    pixels: np.ndarray, size: tuple[int, int], channels: int = 3, fit: str = "crop"
) -> np.ndarray:
    """Bring pixels (h, w, 3 or 1) to `size` as `fitted` does, up to rounding: (H, W, channels) uint8."""
    own = pixels.shape[2]
    box, inner = placement(*pixels.shape[:2], size, fit)
    if own <= channels and pixels.shape[:2] != inner:
        out = np.empty((*inner, own), np.uint8)
        if resize(pixels, inner, box, out):
            pixels = out
    if own > channels or pixels.shape[:2] != inner:
        return fitted(Image.fromarray(pixels[..., 0] if own == 1 else pixels), size, channels, fit)
    return padded(pixels if own == channels else in_colour(pixels, channels), size)


def in_colour(grey: np.ndarray, channels: int) -> np.ndarray:
    """Return grey (h, w, 1) in every channel; `numpy.repeat` is slow at that."""
    out = np.empty((*grey.shape[:2], channels), grey.dtype)
    for channel in range(channels):
        out[..., channel] = grey[..., 0]
    return out


def placement(height: int, width: int, size: tuple[int, int], fit: str) -> tuple[Box, tuple[int, int]]:
    """Return (left, top, right, bottom) of the part of an image that is kept, and the (h, w) it becomes.

    Resampling that part alone gives what rescaling the whole and cropping would, and a 1x10000 strip does not
    first become 256x2560000.
    """
    if fit == "crop":
        scale = min(width / size[1], height / size[0])
        half_w, half_h = size[1] * scale / 2, size[0] * scale / 2
        box = (
            max(width / 2 - half_w, 0.0),
            max(height / 2 - half_h, 0.0),
            min(width / 2 + half_w, float(width)),
            min(height / 2 + half_h, float(height)),
        )
        return box, size
    inner = size
    if fit == "pad":
        scale = min(size[1] / width, size[0] / height)
        inner = max(1, round(height * scale)), max(1, round(width * scale))
    return (0.0, 0.0, float(width), float(height)), inner


def padded(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return pixels in the middle of an image of `size`, grey around them; themselves where they fill it."""
    height, width, channels = pixels.shape
    if (height, width) == size:
        return pixels
    out = np.full((*size, channels), GREY, np.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    out[top : top + height, left : left + width] = pixels
    return out


def upright(image: Image.Image) -> Image.Image:
    """Turn `image` as its EXIF orientation says; unreadable EXIF data is as good as none."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def raw_mode(image: Image.Image) -> str:
    """Tell how pixels lie in the file, "L;4" say; "" where that is not known, or the image is loaded."""
    tile = getattr(image, "tile", None)
    arguments = tile[0][3] if tile else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def to_mode(image: Image.Image, mode: str, raw: str = "", form: str | None = None) -> Image.Image:
    """Convert any Pillow mode to "RGB" or "L".

    Parameters
    ----------
    image : PIL.Image.Image
    mode : "RGB" or "L"
    raw : str
        `raw_mode` before loading.
    form : str, optional
        The file's format, "PNG" say.

    Raises
    ------
    ValueError
        Floats outside of [0, 1] (or NaN), 32-bit integers.
    """
    key = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image, key, raw, form)
    elif key is not None and image.mode == "L" and raw in _STRETCH:
        image.info = {**image.info, "transparency": key * _STRETCH[raw]}
    elif key is not None and raw == "RGB;16B":
        image.info = {**image.info, "transparency": tuple(v >> 8 for v in key)}
    if image.mode == "La":  # Pillow knows no other way out of it
        image = image.convert("LA")
    if image.mode in _TRANSPARENT or image.info.get("transparency") is not None or _palette_alpha(image):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode == "LAB":
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _palette_alpha(image: Image.Image) -> bool:
    return image.mode == "P" and image.palette is not None and image.palette.mode.endswith("A")


def _eight_bits(image: Image.Image, key: Any, raw: str, form: str | None) -> Image.Image:
    """Convert floats, or grey of more than 8 bits, to "L", or "LA" where one level is transparent."""
    values = np.asarray(image)
    if image.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # or NaN
            raise ValueError(f"float pixels must lie in 0 (black) to 1 (white), got {low:g} to {high:g}")
        grey = np.rint(values * np.float32(255))
    elif image.mode == "I" and form not in ("PPM", "PNG"):  # these hold 16 bits in it
        raise ValueError("32-bit integer pixels have no white; make them 16 bits (mode I;16) or 8 (mode L)")
    else:
        grey = np.rint(values / (4095 / 255 if raw == "I;12" else 257))
    grey = Image.fromarray(grey.astype(np.uint8))
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def image_size(where: str, size: Any) -> tuple[int, int]:
    """Check `size` (int or (height, width)); return a pair."""
    return pair(where, "size", size, 1, 16384)


def check_channels(where: str, value: Any) -> int:
    """Check the number of channels files are decoded to; return it."""
    if value not in (1, 3):
        raise ValueError(f"{where}: channels must be 1 or 3, got {value!r}")
    return int(value)


def check_max_pixels(where: str, value: Any) -> int:
    """Check `value` to be a positive integer and return it; the default for None."""
    return MAX_PIXELS if value is None else integer(where, "max_pixels", value, 1)


def check_fit(where: str, value: Any) -> str:
    """Check how images are brought to another shape; return it."""
    return one_of(where, "fit", value, *FITS)


def check_on_error(where: str, value: Any) -> str:
    """Check what is to be done with an unreadable file; return it."""
    return one_of(where, "on_error", value, "skip", "raise")
