"""The checks that everything shares: what they accept, and the words and kinds of their errors."""

import numpy as np
import pytest

from pyconvnet.common.checks import (
    ArgumentError,
    check_number,
    check_type,
    either,
    flag,
    integer,
    one_of,
    pair,
    real,
    shape_tuple,
)


def test_what_is_accepted():
    assert integer("f", "n", np.int16(3), 1, 3) == 3
    assert type(integer("f", "n", np.int16(3))) is int
    assert (flag("f", "on", np.True_), flag("f", "on", False)) == (True, False)
    assert (pair("f", "size", 3, 1, 3), pair("f", "size", [1, 2], 1)) == ((3, 3), (1, 2))
    assert real("f", "p", np.float32(0.5), positive=True, below=1) == 0.5
    assert [one_of("f", "mode", value, "a", None) for value in ("a", None, np.str_("a"))] == ["a", None, "a"]
    assert check_type("x", None, dict, type(None)) is None
    assert check_type("x", True, bool) is True
    assert shape_tuple("f", "shape", (2, 3)) == (2, 3)
    check_number("f: n", 3, "positive int", 4)


REFUSED = [
    (lambda: integer("f", "n", True), TypeError, "f: n must be an integer, got bool True"),
    (lambda: integer("f", "n", 0, 1), ValueError, "f: n must be at least 1, got 0"),
    (lambda: integer("f", "n", 9, 1, 8), ValueError, "f: n must be at most 8, got 9"),
    (lambda: integer("f", "seed", 2**64, 0, 2**64 - 1), ValueError, r"f: seed must be below 2\^64, got"),
    (lambda: real("f", "p", 1, positive=True, below=1), ValueError, r"f: p must be in \(0, 1\), got 1\.0"),
    (lambda: real("f", "p", 0, positive=True), ValueError, "f: p must be positive, got 0"),
    (lambda: flag("f", "on", 1), TypeError, "f: on must be True or False, got int 1"),
    (lambda: one_of("f", "mode", "b", "a", "c", None), ValueError, "f: mode must be 'a', 'c' or None, got"),
    (lambda: one_of("f", "mode", np.zeros(2), "a", None), ValueError, "f: mode must be 'a' or None, got"),
    (lambda: check_type("x", 3, str, list), TypeError, "x must be a str or list, got int 3"),
    (lambda: check_type("x", True, int), TypeError, "x must be an int, got bool True"),
    (lambda: check_number("x", 4, "int >= 0", 4), ValueError, "x must be below 4, got 4"),
    (lambda: shape_tuple("f", "shape", ()), ValueError, "f: shape must have at least 1 entries"),
    (lambda: shape_tuple("f", "shape", 3), TypeError, "f: shape must be a shape"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert type(caught.value) is error


@pytest.mark.parametrize("kind", [TypeError, ValueError])
def test_what_was_told_as_either_kind_is_both(kind):
    with pytest.raises(kind, match="f: size must be an integer or a pair") as caught:
        pair("f", "size", (1, 2, 3), 1)
    assert type(caught.value) is ArgumentError
    for value in (0, "many"):
        with pytest.raises(kind, match="f: n must be"), either():
            integer("f", "n", value, 1)
