"""The random numbers: the published bits, the project's stream laid over them, and what is drawn from it."""

import math

import numpy as np
import pytest

from pyconvnet.common import philox


def philox_by_hand(counter, key):
    """Ten rounds in Python's own integers, from the definition in Salmon et al., section 4.3."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def element_by_hand(seed, step, layer, e):
    b = e // 4
    counter = (b & 0xFFFFFFFF, b >> 32, step & 0xFFFFFFFF, layer & 0xFFFFFFFF)
    return philox_by_hand(counter, (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))[e % 4]


ONES = 0xFFFFFFFF
KNOWN = [  # kat_vectors of Random123 1.14
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_known_answers(counter, key, words):
    got = philox.philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert got.dtype == np.uint32
    assert tuple(got) == words
    assert philox_by_hand(counter, key) == words  # the oracle of the tests below


def test_any_number_of_counters(rng):
    counter = rng.integers(0, 2**32, (2, 2500, 4), dtype=np.uint32)  # more than one chunk
    key = rng.integers(0, 2**32, 2, dtype=np.uint32)
    got = philox.philox4x32(counter, key)
    assert got.shape == counter.shape
    for index in [(0, 0), (0, 2499), (1, 1600), (1, 2499)]:
        assert tuple(got[index]) == philox_by_hand(counter[index].tolist(), key.tolist())


@pytest.mark.parametrize(
    ("seed", "step", "layer", "start", "count"),
    [
        (0, 0, 0, 0, 9),
        (7, 3, 2, 1, 6),
        (2**64 - 1, 2**32 - 1, 2**32 - 1, 5, 3),
        (-1, 2**32 + 5, 1, 2, 1),
        (123456789012345, 77, 4, 4 * 2**32 - 6, 12),  # across a carry into the counter's second word
        (1, 1, 1, 2**62, 5),
    ],
)
def test_stream_layout(seed, step, layer, start, count):
    want = [element_by_hand(seed, step, layer, start + i) for i in range(count)]
    got = philox.random_words(seed, step, layer, start, count)
    assert got.dtype == np.uint32
    assert got.tolist() == want
    assert philox.uniform(seed, step, layer, start, count).tolist() == [(w >> 8) * 2.0**-24 for w in want]


def test_normal_is_box_muller_of_the_stream():
    words = [element_by_hand(9, 8, 7, e) for e in range(6, 16)]
    want = [
        math.sqrt(-2 * math.log((words[2 * i] + 1) * 2.0**-32))
        * math.cos(2 * math.pi * words[2 * i + 1] * 2.0**-32)
        for i in range(5)
    ]
    np.testing.assert_allclose(philox.normal(9, 8, 7, 3, 5), want, rtol=1e-14)


def test_pieces_equal_the_whole():
    whole = philox.random_words(5, 6, 7, 0, 20000)
    pieces = [
        philox.random_words(5, 6, 7, a, b - a) for a, b in [(0, 1), (1, 4098), (4098, 4098), (4098, 20000)]
    ]
    assert np.array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("total_cols", [5, 8, 37, 64])
def test_window_of_a_matrix(total_cols):
    whole = philox.random_words(1, 2, 3, 0, 40 * total_cols).reshape(40, total_cols)
    for row0, col0, rows, cols in [
        (0, 0, 40, total_cols),
        (3, 1, 7, 4),
        (39, 4, 1, 1),
        (0, 2, 40, 3),
        (8, 0, 2, total_cols),
    ]:
        got = philox.window_words(1, 2, 3, rows, cols, (row0, col0, total_cols))
        assert np.array_equal(got, whole[row0 : row0 + rows, col0 : col0 + cols])


def test_statistics():
    u = philox.uniform(2012, 0, 0, 0, 400_000).astype(np.float64)
    assert u.min() >= 0
    assert u.max() < 1
    sigma = 1 / math.sqrt(u.size)
    assert abs(u.mean() - 0.5) < 4 * sigma * math.sqrt(1 / 12)
    counts = np.bincount((u * 256).astype(int), minlength=256)
    chi2 = ((counts - u.size / 256) ** 2 / (u.size / 256)).sum()
    assert abs(chi2 - 255) < 4 * math.sqrt(2 * 255)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 * sigma
    # Streams that differ in one coordinate have nothing to do with each other.
    for other in [(2013, 0, 0), (2012, 1, 0), (2012, 0, 1)]:
        assert abs(np.corrcoef(u, philox.uniform(*other, 0, u.size))[0, 1]) < 4 * sigma

    z = philox.normal(2012, 0, 0, 0, 200_000)
    sigma = 1 / math.sqrt(z.size)
    assert abs(z.mean()) < 4 * sigma
    assert abs(z.var() - 1) < 4 * sigma * math.sqrt(2)
    assert abs((z**4).mean() - 3) < 4 * sigma * math.sqrt(96)
    assert np.isfinite(z).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: philox.philox4x32(np.zeros(3, np.uint32), np.zeros(2, np.uint32)),
            r"counter must have shape \(\.\.\., 4\)",
        ),
        (lambda: philox.philox4x32(np.uint32(3), np.zeros(2, np.uint32)), r"counter must have shape"),
        (
            lambda: philox.philox4x32(np.zeros(4, np.uint32), np.zeros(3, np.uint32)),
            r"key must have shape \(2,\), got \(3,\)",
        ),
        (lambda: philox.random_words(0, 0, 0, -1, 2), "must not be negative"),
        (lambda: philox.random_words(0, 0, 0, 1, -2), "must not be negative"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()
