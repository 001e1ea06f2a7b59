"""JPEG files by libjpeg-turbo itself (simplejpeg), faster than by way of Pillow.

Pillow, too, decodes with libjpeg-turbo, but through pixels of four bytes and in small pieces. The decoded
pixels are the same; those of photographs brought to a size differ in rounding, see `resize` in
:mod:`pyconvnet.ops.host.resize`. Which of the two makes the pixels of a dataset is its `decoder`.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
from PIL import Image, JpegImagePlugin

from ..common.checks import one_of

FAST, PILLOW = "libjpeg-turbo", "pillow"
SCANS = 20  # of `max_pixels` pixels: what a progressive file's scans may visit; photographs have ten or so
_START = b"\xff\xd8\xff"
_MOST_BYTES = 1 << 28  # of a file that is read as a whole; of longer ones Pillow reads what it needs
_PLAIN = {"RGB": ("YCbCr", "RGB"), "L": ("Gray", "GRAY")}  # mode -> simplejpeg's name of the file's, and ours


@functools.cache
def library() -> Any:
    """Import simplejpeg; None where it is not installed."""
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


def default_decoder() -> str:
    """Return what decodes JPEG files here, where nobody asks for another: see `check_decoder`."""
    return PILLOW if library() is None else FAST


def check_decoder(where: str, value: Any) -> str:
    """Check the name of a decoder and that it is installed; return it, the default for None.

    "libjpeg-turbo": simplejpeg for plain JPEG files, Pillow for all others; "pillow": Pillow for all.
    """
    if value is None:
        return default_decoder()
    one_of(where, "decoder", value, FAST, PILLOW)
    if value == FAST and library() is None:
        raise ValueError(f"{where}: decoder {FAST!r} needs simplejpeg (pip install simplejpeg)")
    return value


def contents(file: Any) -> bytes | None:
    """Read the whole of a JPEG file; None, and the file at its beginning again, for any other."""
    head = file.read(len(_START))
    rest = file.read(_MOST_BYTES) if head == _START else b""
    if head == _START and len(rest) < _MOST_BYTES:
        return head + rest
    file.seek(0)
    return None


def check_scans(content: bytes, pixels: int, max_pixels: int) -> None:
    """Refuse a progressive JPEG file that would take for ever: each scan, a few bytes, visits all its pixels.

    Raises
    ------
    ValueError
        More than `SCANS` times `max_pixels` visits.
    """
    scans = content.count(b"\xff\xda")  # in a scan's data 0 follows 255
    if scans > SCANS and scans * pixels > SCANS * max_pixels:
        raise ValueError(
            f"{scans} scans of {pixels} pixels are more than {SCANS} times max_pixels={max_pixels}; "
            "raise max_pixels to read it"
        )


def decode(content: bytes, image: Image.Image, full: tuple[int, int]) -> np.ndarray | None:
    """Decode a plain JPEG file, upright as EXIF asks.

    Parameters
    ----------
    content : bytes
    image : PIL.Image.Image
        The same file, opened, and reduced by `Image.draft` or not.
    full : (width, height)
        Before that.

    Returns
    -------
    (h, w, 3) or (h, w, 1) uint8
        None of what is left to Pillow: CMYK, RGB without YCbCr, broken or truncated files, another plugin's.
    """
    if type(image) is not JpegImagePlugin.JpegImageFile or image.mode not in _PLAIN:
        return None
    inside, wanted = _PLAIN[image.mode]
    width, height = image.size
    least = {} if image.size == full else {"min_height": height, "min_width": width}
    try:
        if library().decode_jpeg_header(content)[2] != inside:
            return None
        pixels = library().decode_jpeg(content, wanted, **least)
    except ValueError:  # what is wrong, and whether there is a picture in it, Pillow tells
        return None
    if pixels.shape[:2] != (height, width):
        return None
    return _upright(pixels, image)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Turn pixels as the file's EXIF orientation says; unreadable EXIF data is as good as none."""
    orientation = None
    if "exif" in image.info or "xmp" in image.info:
        with contextlib.suppress(Exception):
            orientation = image.getexif().get(0x0112)
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    return np.ascontiguousarray(pixels)
