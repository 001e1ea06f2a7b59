"""Grids of which the default run takes the beginning, and ``--slow`` the whole."""

import pytest


def few(values, count):
    """The first ``count`` values as they are, the others marked slow."""
    values = list(values)
    return [*values[:count], *(pytest.param(value, marks=pytest.mark.slow) for value in values[count:])]
