"""Rows of bytes from open files into an array, without the interpreter's lock from the first to the last."""

from __future__ import annotations

import os

import numpy as np

from . import module


def read_rows(files: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> tuple[int, int] | None:
    """Read `out[i]` from byte `offsets[i]` on of the open file `files[i]`, for all i.

    Parameters
    ----------
    files : (rows,) int32, descriptors
    offsets : (rows,) int64
    out : (rows, bytes) uint8, contiguous

    Returns
    -------
    (row, errno) or None
        Where reading ended early and why, errno 0 where the file ended; None where all was read.
    """
    if module.ext() is not None:
        return module.ext().read(*out.shape, files, offsets, out)
    for row, (file, offset) in enumerate(zip(files.tolist(), offsets.tolist(), strict=True)):
        target = out[row]
        while len(target):
            try:
                got = os.preadv(file, [target], offset)
            except OSError as error:
                return row, error.errno
            if got == 0:
                return row, 0
            target, offset = target[got:], offset + got
    return None
