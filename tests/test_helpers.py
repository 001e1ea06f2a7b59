"""The comparisons themselves: what must fail does."""

import numpy as np
import pytest
from helpers import EPS32, assert_close, same_bits, tolerance


def test_equal_passes_and_rounding_passes():
    expected = np.linspace(-3, 3, 50)
    assert_close(expected.astype(np.float32), expected, 1)
    assert_close((expected * (1 + EPS32)).astype(np.float32), expected, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001])
def test_one_bad_element_fails(value):
    expected = np.ones((4, 5))
    actual = np.ones((4, 5), np.float32)
    actual[2, 3] = value
    with pytest.raises(AssertionError, match=r"1 of 20 elements .* worst at \(2, 3\)"):
        assert_close(actual, expected, 9)


def test_all_nan_fails():
    with pytest.raises(AssertionError, match="6 of 6"):
        assert_close(np.full(6, np.nan, np.float32), np.zeros(6), 1)


def test_wrong_shape_fails_even_if_it_would_broadcast():
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.ones((1, 4), np.float32), np.ones((3, 4)), 1)


def test_negative_values_do_not_loosen_the_tolerance():
    expected = np.array([0.1, -100.0])
    assert tolerance(expected, 1) == tolerance(-expected, 1) > 0
    with pytest.raises(AssertionError):
        assert_close(np.array([0.5, -100.0], np.float32), expected, 100)


def test_reference_must_be_float64_and_finite():
    with pytest.raises(AssertionError, match="float64"):
        assert_close(np.ones(2, np.float32), np.ones(2, np.float32), 1)
    with pytest.raises(AssertionError, match="finite"):
        assert_close(np.ones(2, np.float32), np.array([1.0, np.nan]), 1)


def test_same_bits():
    a = np.array([1.0, np.nan, -0.0], np.float32)
    assert same_bits(a, a.copy())
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
    assert not same_bits(np.float32([1.0]), np.float64([1.0]))
