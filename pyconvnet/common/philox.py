"""Philox4x32-10: random bits that are a pure function of (seed, step, layer, element).

The generator of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3" (SC'11), section
4.3. One call turns a 128-bit counter and a 64-bit key into four 32-bit words, so any element of any stream
can be drawn alone, in any order, on any device, with the same bits: dropout masks and augmentations agree
between NumPy, the emulator and CUDA, and a resumed or split run repeats exactly.

The project's stream, one word per element: element ``e`` (0, 1, 2, …) of the stream (seed, step, layer) is
word ``e % 4`` of

    philox4x32(counter = (b mod 2^32, b div 2^32, step mod 2^32, layer mod 2^32),
               key = (seed mod 2^32, seed div 2^32)),    b = e div 4.
"""

from __future__ import annotations

import numpy as np

_M0 = np.uint64(0xD2511F53)  # multipliers of the two halves of the counter
_M1 = np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85  # Weyl steps of the key: golden ratio, sqrt(3) - 1
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_CHUNK = 16384  # counters at once: six uint64 arrays of 128 KiB, near the size of a second-level cache


def _round_keys(k0: int, k1: int) -> list[tuple[np.uint64, np.uint64]]:
    """Return the ten round keys of the key (k0, k1)."""
    return [
        (np.uint64((k0 + r * _W0) & 0xFFFFFFFF), np.uint64((k1 + r * _W1) & 0xFFFFFFFF))
        for r in range(_ROUNDS)
    ]


def _philox_into(out: np.ndarray, c0, c1, c2, c3, k0: int, k1: int) -> None:
    """Write the four words of each counter into ``out`` (n, 4) uint32.

    c0 … c3 are uint64 arrays of n elements or of one.
    """
    keys = _round_keys(k0, k1)
    n = out.shape[0]
    # The state is four uint64 arrays holding 32-bit values, so that one multiplication gives both halves of
    # the product.
    buffers = [np.empty(min(n, _CHUNK), np.uint64) for _ in range(6)]
    for begin in range(0, n, _CHUNK):
        end = min(begin + _CHUNK, n)
        s0, s1, s2, s3, p0, p1 = (b[: end - begin] for b in buffers)
        for state, value in zip((s0, s1, s2, s3), (c0, c1, c2, c3), strict=True):
            state[...] = value if value.size == 1 else value[begin:end]
        for key0, key1 in keys:
            np.multiply(s0, _M0, out=p0)
            np.multiply(s2, _M1, out=p1)
            np.right_shift(p1, _HALF, out=s0)
            s0 ^= s1
            s0 ^= key0
            np.right_shift(p0, _HALF, out=s2)
            s2 ^= s3
            s2 ^= key1
            np.bitwise_and(p1, _LOW, out=s1)
            np.bitwise_and(p0, _LOW, out=s3)
        for word, state in enumerate((s0, s1, s2, s3)):
            out[begin:end, word] = state


def philox4x32(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Run ten rounds of Philox4x32 on each counter.

    Parameters
    ----------
    counter : (..., 4) uint32
    key : (2,) uint32

    Returns
    -------
    (..., 4) uint32: four random words per counter.
    """
    counter = np.asarray(counter)
    key = np.asarray(key)
    if counter.ndim == 0 or counter.shape[-1] != 4:
        raise ValueError(f"philox4x32: counter must have shape (..., 4), got {counter.shape}")
    if key.shape != (2,):
        raise ValueError(f"philox4x32: key must have shape (2,), got {key.shape}")
    flat = counter.reshape(-1, 4).astype(np.uint64) & _LOW
    out = np.empty((flat.shape[0], 4), np.uint32)
    columns = [np.ascontiguousarray(flat[:, i]) for i in range(4)]
    _philox_into(out, *columns, int(key[0]) & 0xFFFFFFFF, int(key[1]) & 0xFFFFFFFF)
    return out.reshape(counter.shape)


def _block_words(blocks: np.ndarray, seed: int, step: int, layer: int) -> np.ndarray:
    """Return the words of the blocks (n,) int64 of the stream (seed, step, layer), as (n, 4) uint32."""
    seed, step, layer = int(seed), int(step), int(layer)
    blocks = blocks.astype(np.uint64)
    out = np.empty((blocks.size, 4), np.uint32)
    constants = (np.full(1, value & 0xFFFFFFFF, np.uint64) for value in (step, layer))
    _philox_into(
        out, blocks & _LOW, blocks >> _HALF, *constants, seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    )
    return out


def random_words(seed: int, step: int, layer: int, start: int, count: int) -> np.ndarray:
    """Return elements start … start + count - 1 of the stream (seed, step, layer): (count,) uint32."""
    start, count = int(start), int(count)
    if start < 0 or count < 0:
        raise ValueError(f"random_words: start and count must not be negative, got {start} and {count}")
    first = start // 4
    last = (start + count + 3) // 4
    words = _block_words(np.arange(first, last, dtype=np.int64), seed, step, layer).reshape(-1)
    return words[start - 4 * first :][:count]


def window_words(
    seed: int, step: int, layer: int, rows: int, cols: int, window: tuple[int, int, int] | None = None
) -> np.ndarray:
    """Return the words of a rectangle of a bigger row-major matrix: a shard draws what the whole would draw.

    Parameters
    ----------
    rows, cols : size of the rectangle
    window : (row0, col0, total_cols); the rectangle's first row and column and the width of the whole. None:
        it is the whole.

    Returns
    -------
    (rows, cols) uint32: word [r, c] is element (row0 + r) * total_cols + col0 + c of the stream.
    """
    row0, col0, total_cols = (0, 0, cols) if window is None else window
    if col0 == 0 and cols == total_cols:
        return random_words(seed, step, layer, row0 * total_cols, rows * cols).reshape(rows, cols)
    starts = (row0 + np.arange(rows, dtype=np.int64)) * total_cols + col0
    per_row = (cols + 3) // 4 + 1  # blocks that a row of any alignment can touch
    blocks = (starts // 4)[:, None] + np.arange(per_row)
    words = _block_words(blocks.reshape(-1), seed, step, layer).reshape(rows, 4 * per_row)
    offsets = starts % 4
    out = np.empty((rows, cols), np.uint32)
    for offset in range(4):
        of_this = offsets == offset
        if of_this.any():
            out[of_this] = words[of_this, offset : offset + cols]
    return out


def uniform(seed: int, step: int, layer: int, start: int, count: int) -> np.ndarray:
    """Draw uniform numbers in [0, 1), (count,) float32: the upper 24 bits of each word, times 2^-24."""
    words = random_words(seed, step, layer, start, count)
    words >>= np.uint32(8)
    return words.astype(np.float32) * np.float32(2.0**-24)


def normal(seed: int, step: int, layer: int, start: int, count: int) -> np.ndarray:
    """Draw standard normal numbers, (count,) float64, by Box and Muller from two words each.

    Number j is ``sqrt(-2 ln u) cos(2 pi v)``, u = (words[2j] + 1) * 2^-32 in (0, 1], v = words[2j + 1] *
    2^-32. The bits of the words are the same everywhere; the last bit of ln and cos is the C library's.
    """
    words = random_words(seed, step, layer, 2 * int(start), 2 * int(count)).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[0::2] + 1.0) * 2.0**-32))
    return radius * np.cos(2.0 * np.pi * 2.0**-32 * words[1::2])
