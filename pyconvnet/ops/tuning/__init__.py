"""Which kernel runs: measured on the card in use, remembered in a file people can read.

An operation has a table of kernels, and for a given shape several of them apply. Their order is an estimate
(the *heuristic*). Here the best of them are timed on scratch arrays, once per card, driver, operation, shape
and precision, and the fastest is remembered. docs/tuning.md tells the whole story.

========== ===========================================================================================
module     holds
========== ===========================================================================================
candidates which kernels are worth timing: rules, each with its reason
measure    the clock, and rounds over the candidates
cache      the JSON file, and the files that come with the package
chooser    what is used for a call: given, remembered, measured, or estimated
========== ===========================================================================================
"""

# ruff: noqa: F401  (all that is imported here is meant to be read from here)

from ...common.names import public_names as _public_names
from .cache import Cache, Card, card_of, default_path, shipped
from .chooser import (
    Choice,
    Selection,
    choose,
    choose_all,
    configure,
    enabled,
    forget,
    kernel_for,
    mode,
    on_this_device,
    problem,
    state,
)

__all__ = _public_names(globals())
