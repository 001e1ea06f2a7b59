"""Pooling on the `cpu` device: maximum and average over windows of pixels, both directions.

All functions take N, H, W, C arrays, `size` and `stride` as (vertical, horizontal) and `pad` as ((top,
bottom), (left, right)); the extents of the output say how many windows there are. A window may hang over any
edge of the image but always holds at least one pixel of it; what lies outside takes no part.

The work is cut into pieces of the batch that fit a core's cache. Inside a piece the vertical direction is
done first: rows are long contiguous runs (W*C elements), and with a stride it already divides the rest of the
work.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...common.threads import parallel, ranges, scratch
from .widen import widened

__all__ = ["avg_pool2d", "avg_pool2d_backward", "max_pool2d", "max_pool2d_backward"]


Pair = tuple[int, int]
Padding = tuple[Pair, Pair]

# Bytes of the larger image array that a task works on: within a core's cache, yet long enough for threads to
# pay.
_LEAST_BYTES, _MOST_BYTES = 512 * 1024, 2 * 1024 * 1024


def _tasks(n: int, image_bytes: int) -> list[Pair]:
    """Cut the batch into pieces."""
    piece = min(max(n * image_bytes // 4, _LEAST_BYTES), _MOST_BYTES)
    return ranges(n, max(1, piece // max(1, image_bytes)))


def _window_groups(
    extent: int, windows: int, size: int, stride: int, before: int
) -> Iterator[tuple[int, int, int, int]]:
    """Find runs [p0, p1) of windows that hold the same positions [r0, r1) of the image: (p0, p1, r0, r1)."""
    start = 0
    while start < windows:
        r0, r1 = _clip(start, extent, size, stride, before)
        stop = start + 1
        while stop < windows and _clip(stop, extent, size, stride, before) == (r0, r1):
            stop += 1
        yield start, stop, r0, r1
        start = stop


def _clip(p: int, extent: int, size: int, stride: int, before: int) -> Pair:
    first = p * stride - before
    return max(0, -first), min(size, extent - first)


def _windows_at(r: int, extent: int, windows: int, stride: int, before: int) -> Pair:
    """Find the run [p0, p1) of windows whose position r is inside the image."""
    return max(0, -((r - before) // stride)), max(0, min(windows, (extent - 1 + before - r) // stride + 1))


@widened
def max_pool2d(
    x: np.ndarray, size: Pair, stride: Pair, pad: Padding, *, out: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Compute y[n,p,q,c] = max over r,s of x[n, p*stride_h + r - top, q*stride_w + s - left, c], and where.

    Maxima of columns first, each with the first row it is found in; then, of the columns that hold a window's
    maximum, the smallest position.

    Parameters
    ----------
    x : (N, H, W, C), float32 or float64
    out : (y, argmax), both (N, P, Q, C)
        argmax (integer): position r*size_w + s of the first maximum in row-major order. The first NaN of a
        window beats every number.
    """
    y, argmax = out
    n, h, w, c = x.shape
    _, p, q, _ = y.shape
    left = pad[1][0]
    padded = (q - 1) * stride[1] + size[1]  # columns under the windows
    used = min(w, padded - left)  # those of them that are in the image
    # Positions are compared as bytes where they fit: four times as many at once.
    position_type = np.uint8 if (size[0] + 1) * size[1] <= 256 else np.int32

    def task(index: int) -> None:
        a, b = pieces[index]
        column_max = scratch("pool.max", (b - a, p, padded, c), x.dtype)
        position = scratch("pool.position", (b - a, p, padded, c), position_type)
        for margin in (slice(0, left), slice(left + used, padded)):
            column_max[:, :, margin] = -np.inf
            position[:, :, margin] = size[0] * size[1]  # loses against every position in the image
        inside = slice(left, left + used)
        for p0, p1, r0, r1 in _window_groups(h, p, size[0], stride[0], pad[0][0]):
            first, span = p0 * stride[0] - pad[0][0], (p1 - p0 - 1) * stride[0] + 1
            lines = [x[a:b, first + r : first + r + span : stride[0], :used] for r in range(r0, r1)]
            _column_maxima(lines, r0, size[1], column_max[:, p0:p1, inside], position[:, p0:p1, inside])
        _window_maxima(column_max, position, size[1], stride[1], y[a:b], argmax[a:b])
        if np.isnan(y[a:b]).any():  # NaN equals nothing: it has not been found
            _first_nan(x[a:b], argmax[a:b], size, stride, pad)

    pieces = _tasks(n, h * w * c * x.itemsize)
    parallel(task, len(pieces))
    return y, argmax


def _column_maxima(
    lines: list[np.ndarray], r0: int, width: int, best: np.ndarray, position: np.ndarray
) -> None:
    """Set best = max of the lines, a window's rows r0, r0 + 1, …; position = width * the first row of it."""
    if len(lines) == 1:
        best[...] = lines[0]
        position[...] = r0 * width
        return
    np.maximum(lines[0], lines[1], out=best)
    for line in lines[2:]:
        np.maximum(best, line, out=best)
    # The first row is r0 plus the number of rows that the maximum is beyond.
    beyond, here = scratch("pool.flags", (2, *best.shape), np.bool_)
    np.not_equal(lines[0], best, out=beyond)
    position[...] = beyond
    for line in lines[1:-1]:
        np.not_equal(line, best, out=here)
        np.logical_and(beyond, here, out=beyond)
        position += beyond
    if r0:
        position += position.dtype.type(r0)
    position *= position.dtype.type(width)


def _window_maxima(
    column_max: np.ndarray, position: np.ndarray, width: int, stride: int, y: np.ndarray, argmax: np.ndarray
) -> None:
    """Set y = max of `width` columns, every `stride`; argmax = least position + s of columns s it is in."""
    c = column_max.shape[3]
    last = column_max.shape[2] - width + 1
    # With few channels it is cheaper to slide over all columns in one contiguous run, which means nothing
    # where it runs over the end of a row, and to pick every `stride`-th afterwards.
    dense = stride == 1 or (stride == 2 and c <= 64)
    if dense:
        whole_best = scratch("pool.best", column_max.shape, column_max.dtype)
        whole_found = scratch("pool.found", column_max.shape, position.dtype)
        length = column_max.size - (width - 1) * c
        best, found = whole_best.reshape(-1)[:length], whole_found.reshape(-1)[:length]
        columns = [column_max.reshape(-1)[s * c : s * c + length] for s in range(width)]
        positions = [position.reshape(-1)[s * c : s * c + length] for s in range(width)]
    else:
        best, found = y, scratch("pool.found", y.shape, position.dtype)
        columns = [column_max[:, :, s : s + last : stride] for s in range(width)]
        positions = [position[:, :, s : s + last : stride] for s in range(width)]
    if width == 1:
        best[...] = columns[0]
    else:
        np.maximum(columns[0], columns[1], out=best)
    for column in columns[2:]:
        np.maximum(best, column, out=best)
    _least_position(columns, positions, best, found)
    if dense:
        y[...], argmax[...] = whole_best[:, :, :last:stride], whole_found[:, :, :last:stride]
    else:
        argmax[...] = found


def _least_position(
    columns: list[np.ndarray], positions: list[np.ndarray], best: np.ndarray, found: np.ndarray
) -> None:
    """Set found = min of positions[s] + s over the s whose column equals best."""
    elsewhere = scratch("pool.flags", best.shape, np.bool_)
    candidate = scratch("pool.candidate", found.shape, found.dtype)
    for s, (column, position) in enumerate(zip(columns, positions, strict=True)):
        target = candidate if s else found
        np.add(position, found.dtype.type(s), out=target)
        np.not_equal(column, best, out=elsewhere)
        if found.dtype == np.uint8:  # a byte of ones beats every position
            ones = elsewhere.view(np.uint8)
            np.bitwise_or(target, np.negative(ones, out=ones), out=target)
        else:
            np.copyto(target, np.iinfo(found.dtype).max, where=elsewhere)
        if s:
            np.minimum(found, candidate, out=found)


def _first_nan(x: np.ndarray, argmax: np.ndarray, size: Pair, stride: Pair, pad: Padding) -> None:
    """Set argmax to the first NaN of every window that has one."""
    _, h, w, _ = x.shape
    _, p, q, _ = argmax.shape
    nan = np.isnan(x)
    for r in reversed(range(size[0])):
        p0, p1 = _windows_at(r, h, p, stride[0], pad[0][0])
        for s in reversed(range(size[1])):
            q0, q1 = _windows_at(s, w, q, stride[1], pad[1][0])
            if p0 >= p1 or q0 >= q1:
                continue
            top, left = p0 * stride[0] + r - pad[0][0], q0 * stride[1] + s - pad[1][0]
            here = nan[
                :,
                top : top + (p1 - p0 - 1) * stride[0] + 1 : stride[0],
                left : left + (q1 - q0 - 1) * stride[1] + 1 : stride[1],
            ]
            np.copyto(argmax[:, p0:p1, q0:q1], argmax.dtype.type(r * size[1] + s), where=here)


@widened
def max_pool2d_backward(
    dy: np.ndarray,
    argmax: np.ndarray,
    x_shape: tuple[int, ...],
    size: Pair,
    stride: Pair,
    pad: Padding,
    *,
    mask: np.ndarray | None = None,
    out: np.ndarray,
) -> np.ndarray:
    """Compute dx[n,h,w,c] = sum of the dy[n,p,q,c] whose argmax points at pixel (h, w); zero where mask <= 0.

    Parameters
    ----------
    dy, argmax : (N, P, Q, C)
        argmax must be in [0, size_h*size_w); a position outside the image adds to nothing.
    mask : like out; None: nowhere.
    out : (N, H, W, C), dtype of dy
    """
    n, h, w, c = x_shape
    _, p, q, _ = dy.shape
    (size_h, size_w), (stride_h, stride_w), ((top, _), (left, _)) = size, stride, pad
    # Scatter into the padded image, so that no position needs a test. np.add.at adds in the order of dy.
    padded_h, padded_w = (p - 1) * stride_h + size_h, (q - 1) * stride_w + size_w
    used_h, used_w = min(h, padded_h - top), min(w, padded_w - left)
    offsets = ((np.arange(size_h)[:, None] * padded_w + np.arange(size_w)) * c).ravel()
    corners = (np.arange(p)[:, None] * stride_h * padded_w + np.arange(q) * stride_w)[
        ..., None
    ] * c + np.arange(c)
    image = padded_h * padded_w * c

    def task(index: int) -> None:
        a, b = pieces[index]
        images = b - a
        padded = scratch("pool.padded", (images, padded_h, padded_w, c), dy.dtype)
        padded.fill(0)
        target = scratch("pool.target", (images, p, q, c), np.intp)
        np.take(offsets, argmax[a:b], out=target, mode="clip")
        target += corners
        for i in range(1, images):
            target[i] += i * image
        np.add.at(padded.reshape(-1), target.reshape(-1), dy[a:b].reshape(-1))
        out[a:b, :used_h, :used_w] = padded[:, top : top + used_h, left : left + used_w]
        out[a:b, used_h:] = 0
        out[a:b, :used_h, used_w:] = 0
        _mask_out(out, mask, a, b)

    pieces = _tasks(n, image * dy.itemsize)
    parallel(task, len(pieces))
    return out


def _mask_out(out: np.ndarray, mask: np.ndarray | None, a: int, b: int) -> None:
    """Zero in images a … b - 1 of `out` where mask <= 0, as relu_backward."""
    if mask is not None:
        np.copyto(out[a:b], 0, where=mask[a:b] <= 0)


def _inverse_counts(
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
    size: Pair,
    stride: Pair,
    pad: Padding,
    count_include_pad: bool,
) -> np.ndarray:
    """Compute 1 / number of pixels that each window divides by: (P, Q, C), float64."""
    counts = []
    for axis in (0, 1):
        before, after = pad[axis] if count_include_pad else (0, 0)
        first = np.arange(y_shape[1 + axis]) * stride[axis] - pad[axis][0]
        last = np.minimum(first + size[axis], x_shape[1 + axis] + after)
        counts.append(last - np.maximum(first, -before))
    return np.broadcast_to((1.0 / np.outer(*counts))[..., None], y_shape[1:])


@widened
def avg_pool2d(
    x: np.ndarray, size: Pair, stride: Pair, pad: Padding, count_include_pad: bool, *, out: np.ndarray
) -> np.ndarray:
    """Compute y[n,p,q,c] = sum over r,s of x[n, p*stride_h + r - top, q*stride_w + s - left, c] / count[p,q].

    The count is that of the window's pixels inside the image, or inside the image and `pad` with
    `count_include_pad`.

    Parameters
    ----------
    x : (N, H, W, C), float32 or float64
    out : (N, P, Q, C), dtype of x
    """
    n, h, w, c = x.shape
    _, p, q, _ = out.shape
    inverse = _inverse_counts(x.shape, out.shape, size, stride, pad, count_include_pad).astype(x.dtype)
    row_groups = list(_window_groups(h, p, size[0], stride[0], pad[0][0]))
    col_groups = list(_window_groups(w, q, size[1], stride[1], pad[1][0]))

    def task(index: int) -> None:
        a, b = pieces[index]
        rows = scratch("pool.rows", (b - a, p, w, c), x.dtype)
        for p0, p1, r0, r1 in row_groups:
            first, span = p0 * stride[0] - pad[0][0], (p1 - p0 - 1) * stride[0] + 1
            _sum(rows[:, p0:p1], [x[a:b, first + r : first + r + span : stride[0]] for r in range(r0, r1)])
        for q0, q1, s0, s1 in col_groups:
            first, span = q0 * stride[1] - pad[1][0], (q1 - q0 - 1) * stride[1] + 1
            views = [rows[:, :, first + s : first + s + span : stride[1]] for s in range(s0, s1)]
            _sum(out[a:b, :, q0:q1], views)
        out[a:b] *= inverse

    pieces = _tasks(n, h * w * c * x.itemsize)
    parallel(task, len(pieces))
    return out


def _sum(target: np.ndarray, terms: list[np.ndarray]) -> None:
    """Compute target = terms[0] + terms[1] + …, from left to right."""
    if len(terms) == 1:
        target[...] = terms[0]
        return
    np.add(terms[0], terms[1], out=target)
    for term in terms[2:]:
        np.add(target, term, out=target)


@widened
def avg_pool2d_backward(
    dy: np.ndarray,
    x_shape: tuple[int, ...],
    size: Pair,
    stride: Pair,
    pad: Padding,
    count_include_pad: bool,
    *,
    mask: np.ndarray | None = None,
    out: np.ndarray,
) -> np.ndarray:
    """Compute dx[n,h,w,c] = sum of dy[n,p,q,c] / count[p,q] over the windows that hold pixel (h, w).

    Zero where mask <= 0.

    Parameters
    ----------
    dy : (N, P, Q, C)
    mask : like out; None: nowhere.
    out : (N, H, W, C), dtype of dy
    """
    n, h, w, c = x_shape
    _, p, q, _ = dy.shape
    inverse = _inverse_counts(x_shape, dy.shape, size, stride, pad, count_include_pad).astype(dy.dtype)
    padded = (q - 1) * stride[1] + size[1]
    left = pad[1][0]
    used = min(w, padded - left)

    def task(index: int) -> None:
        a, b = pieces[index]
        shares = scratch("pool.shares", (b - a, p, q, c), dy.dtype)
        np.multiply(dy[a:b], inverse, out=shares)
        rows = scratch("pool.rows", (b - a, p, padded, c), dy.dtype)
        rows.fill(0)
        for s in range(size[1]):
            rows[:, :, s : s + (q - 1) * stride[1] + 1 : stride[1]] += shares
        dx = out[a:b]
        dx.fill(0)
        for r in range(size[0]):
            p0, p1 = _windows_at(r, h, p, stride[0], pad[0][0])
            if p0 < p1:
                first = p0 * stride[0] + r - pad[0][0]
                dx[:, first : first + (p1 - p0 - 1) * stride[0] + 1 : stride[0], :used] += rows[
                    :, p0:p1, left : left + used
                ]
        _mask_out(out, mask, a, b)

    pieces = _tasks(n, h * w * c * dy.itemsize)
    parallel(task, len(pieces))
    return out
