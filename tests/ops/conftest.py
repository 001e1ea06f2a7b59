"""A clock for the choice of kernels."""

from support.fakes.clocks_for_tests import clock  # noqa: F401
