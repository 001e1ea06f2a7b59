"""What is used for a call, and why: given, remembered, measured, or estimated.

``PYCONVNET_TUNE``: ``1`` (default) looks into the caches and measures what they lack, at first use; ``read``
looks and never measures; ``0`` does neither: the heuristic's choice. Only CUDA devices are measured, since
the emulator's time says nothing about a GPU's; :func:`configure` gives it a clock, which is how this is
tested.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...common.devices import Device
from ...common.version import __version__
from . import cache as caches
from .candidates import candidates
from .measure import event_timer, measure

log = logging.getLogger("pyconvnet.ops.tuning")

MODES = ("0", "1", "read")
_DEFAULT_SECONDS = 0.25


@dataclass(frozen=True)
class Choice:
    """What runs for a call, and why.

    Attributes
    ----------
    op, shape, precision : str
        The problem.
    kernel : str
    source : str
        ``"forced"``, ``"plan"`` (a plan keeps to what it began with), ``"measured"`` (now), ``"cache"``,
        ``"shipped"`` or ``"heuristic"``.
    us, heuristic_us : float or None
        Measured microseconds of the kernel and of the heuristic's choice.
    heuristic : str
        What the heuristic would run.
    reason : str
        Why it is the heuristic's, where it is.
    tried, failed : dict
        All that was timed, in microseconds; and what could not run.
    """

    op: str
    shape: str
    precision: str
    kernel: str
    source: str
    heuristic: str
    us: float | None = None
    heuristic_us: float | None = None
    reason: str = ""
    tried: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)

    @property
    def gain(self) -> float | None:
        """How many times faster than the heuristic's choice; None where not measured."""
        return self.heuristic_us / self.us if self.us and self.heuristic_us else None

    def __str__(self) -> str:
        text = f"{self.op} {self.shape} {self.precision}: {self.kernel} ({self.source}"
        if self.us is not None:
            text += f", {self.us:.1f} us"
        if self.gain is not None and self.kernel != self.heuristic:
            text += f", {self.gain:.2f}x {self.heuristic}"
        return f"{text}{f': {self.reason}' if self.reason else ''})"


def problem(call: Any) -> str:
    """Name a call's problem in one line: what a choice holds for, on one card."""
    return f"{call.op} {call.key} {call.precision}"


class _State(threading.local):
    """Of each thread."""

    selection: Selection | None = None
    busy = False  # measuring


class _Memory:
    """Of the process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.choices: dict[tuple, Choice] = {}
        self.kernels: dict[tuple, str | None] = {}  # what kernel_for has answered
        self.timer: Callable[[Device], Any] = event_timer
        self.timers: dict[Device, Any] = {}
        self.cache: caches.Cache | None = None
        self.epoch = 0  # counts what forget() has ended


_state, _memory = _State(), _Memory()


def mode() -> str:
    """Read ``PYCONVNET_TUNE``: "0", "1" or "read".

    Raises
    ------
    ValueError
        Anything else.
    """
    value = os.environ.get("PYCONVNET_TUNE") or "1"
    if value not in MODES:
        raise ValueError(f"PYCONVNET_TUNE must be 0, 1 or read, got {value!r}")
    return value


def seconds_per_problem() -> float:
    """Read ``PYCONVNET_TUNE_SECONDS``: how long the kernels of one problem are timed.

    Raises
    ------
    ValueError
        Not a positive number.
    """
    return positive("PYCONVNET_TUNE_SECONDS", os.environ.get("PYCONVNET_TUNE_SECONDS") or _DEFAULT_SECONDS)


def positive(what: str, value: Any) -> float:
    """Return a positive number, or text that is one, as a float.

    Raises
    ------
    ValueError
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 < number < float("inf"):
        raise ValueError(f"{what} must be a positive number, got {value!r}")
    return number


def configure(timer: Callable[[Device], Any] | None = None) -> None:
    """Set the clock: a function that returns a :class:`measure.Timer` for a device, or None where it has
    none. Without argument: CUDA events on CUDA devices. Forgets what the process knows.
    """
    _memory.timer = event_timer if timer is None else timer
    forget()


def forget() -> None:
    """Look into the files again, and measure again what they lack."""
    with _memory.lock:
        _memory.choices.clear()
        _memory.kernels.clear()
        _memory.timers.clear()
        _memory.cache = None
        _memory.epoch += 1


def cache() -> caches.Cache:
    """Return the user's file, read once; :func:`forget` has it read again."""
    with _memory.lock:
        if _memory.cache is None:
            _memory.cache = caches.Cache()
        return _memory.cache


def on_this_device(device: Device) -> bool:
    """Tell whether kernels of a device are chosen by measuring: it has kernels, and a clock."""
    return device.ext is not None and (device.kind == "cuda" or _memory.timer is not event_timer)


def enabled(device: Device) -> bool:
    """Tell whether measured choices are used on a device, ``PYCONVNET_TUNE`` considered."""
    return on_this_device(device) and mode() != "0"


# ---- plans -----------------------------------------------------------------------------------------------


class Selection:
    """The kernels of one plan: chosen before its first step, and the same until its end.

    Parameters
    ----------
    kernels : dict of problem to kernel, optional
        Those of an earlier run, for the same bits; what it did not have is chosen. Empty: that run took the
        heuristic's choices, and so does this one.
    """

    def __init__(self, kernels: Mapping[str, str] | None = None):
        self.heuristic = kernels is not None and not kernels  # nothing is to be chosen
        self.kernels: dict[str, str] = dict(kernels or {})
        self.choices: dict[str, Choice] = {}

    def kernel(self, call: Any) -> str | None:
        """Return what to run; None: the heuristic's choice. Never measures."""
        if not self.kernels:
            return None
        key = problem(call)
        kernel = self.kernels.get(key)
        if kernel is None:
            kernel = self._of_another_batch(call, key)
        return kernel if kernel is not None and call.applies(kernel) else None

    def _of_another_batch(self, call: Any, key: str) -> str | None:
        """Take what the plan's own batch takes, without its number of splits where that is impossible:
        smaller batches, the last of an epoch say, are not measured.
        """
        n, rest = _split_batch(key)
        others = [(abs(m - n), k) for k in self.kernels for m, r in [_split_batch(k)] if r == rest and m > n]
        if n == 0 or not others:
            return None
        kernel = self.kernels[min(others)[1]]
        return kernel if call.applies(kernel) else kernel.partition("/")[0]

    def choose(self, calls: Mapping[str, Any], near: bool = False, progress: bool = False) -> None:
        """Choose the kernels of problems that have none yet."""
        new = {key: call for key, call in calls.items() if key not in self.kernels}
        for key, choice in choose_all(new, near=near, progress=progress).items():
            self.kernels[key], self.choices[key] = choice.kernel, choice

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Let calls of this thread run these kernels inside."""
        before, _state.selection = _state.selection, self
        try:
            yield
        finally:
            _state.selection = before


def _split_batch(key: str) -> tuple[int, str]:
    """Split a problem's text into examples and the rest; (0, text) where it has none."""
    found = re.search(r" n=(\d+) ", key)
    return (int(found[1]), key[: found.start()] + key[found.end() :]) if found else (0, key)


def choose_all(calls: Mapping[str, Any], progress: bool = False, **how: Any) -> dict[str, Choice]:
    """Choose for launches by problem; ``how``: see :func:`choose`."""
    items: Iterable = calls.items()
    if progress and calls:
        from tqdm import tqdm

        items = tqdm(items, total=len(calls), desc="choosing kernels", leave=False, dynamic_ncols=True)
    return {key: choose(call, **how) for key, call in items}


def state(device: Device) -> Any:
    """Return what the kernel of a problem depends on beside the problem: while this is the same, so is
    :func:`kernel_for`'s answer, but for what it cannot measure yet.
    """
    if _state.selection is not None:
        return _state.selection, len(_state.selection.kernels)
    if _state.busy or not on_this_device(device):
        return None
    return _memory.epoch, mode()


# ---- one call --------------------------------------------------------------------------------------------


def kernel_for(call: Any) -> str | None:
    """Return the kernel of a call that forces none; None: the heuristic's choice."""
    if _state.selection is not None:
        return _state.selection.kernel(call)
    if _state.busy or not enabled(call.dev):
        return None
    key = (call.dev, call.op, call.key, call.precision)
    if key not in _memory.kernels:
        choice = choose(call)
        if choice.source == "heuristic" and call.capturing():
            return None
        _memory.kernels[key] = None if choice.source == "heuristic" else choice.kernel
    return _memory.kernels[key]


def choose(
    call: Any,
    again: bool = False,
    measuring: bool = True,
    near: bool = False,
    seconds: float | None = None,
) -> Choice:
    """Choose what runs for a call: from memory, from the files, or by measuring now.

    Parameters
    ----------
    call : :class:`pyconvnet.ops.launch.Launch`
    again : bool
        Measure, whatever is remembered.
    measuring : bool
        False: do not measure.
    near : bool
        What was measured for a batch up to 4 times smaller or larger will do.
    seconds : float, optional
        Measure for so long, whatever ``PYCONVNET_TUNE`` says.
    """
    if not (enabled(call.dev) or (seconds and on_this_device(call.dev))):
        why = "PYCONVNET_TUNE=0" if on_this_device(call.dev) else f"{call.dev.name} is not measured"
        return _heuristic(call, why)
    store, card = cache(), caches.card_of(call.dev)
    key = (card, call.op, call.key, call.precision)
    if not again:
        known = _memory.choices.get(key)
        if known is None:
            known = _remembered(call, card, store)
            if known is None and near:
                known = _near(call, card, store)
            if known is not None:
                _memory.choices[key] = known
        if known is not None:
            return known
    if not measuring or (mode() == "read" and not seconds):
        return _heuristic(call, "not in the caches")
    if call.capturing():
        return _heuristic(call, "a graph is being captured")
    with _memory.lock:
        choice = _measured(call, card, store, seconds or seconds_per_problem())
        _memory.choices[key] = choice
    return choice


def _heuristic(call: Any, reason: str) -> Choice:
    name = call.rows[0][0]
    return Choice(call.op, call.key, call.precision, name, "heuristic", name, reason=reason)


def _remembered(call: Any, card: caches.Card, store: caches.Cache) -> Choice | None:
    names = call.op, call.key, call.precision
    mine = store.entries.get((card.name, card.capability, card.driver, *names))
    theirs = [
        e for e in caches.shipped() if e.fits(card, any_driver=True) and (e.op, e.shape, e.precision) == names
    ]
    for entry, source in [(mine, "cache"), *((e, "shipped") for e in theirs)]:
        if entry is not None and _valid(entry, call):
            times = entry.us, entry.heuristic_us, "", entry.tried, entry.failed
            return Choice(*names, entry.kernel, source, entry.heuristic, *times)
    return None


def _near(call: Any, card: caches.Card, store: caches.Cache) -> Choice | None:
    """Find the choice for the nearest other batch."""
    n, rest = _split_batch(problem(call))
    found = []
    for source, entries in (("cache", store.entries.values()), ("shipped", caches.shipped())):
        for e in entries:
            m, other = _split_batch(f"{e.op} {e.shape} {e.precision}")
            if other == rest and n and n <= 4 * m <= 16 * n and e.fits(card, any_driver=source == "shipped"):
                found.append((abs(m - n), source, m, e))
    for _, source, m, e in sorted(found, key=lambda item: item[:3]):
        if _valid(e, call):
            why = f"measured for n={m}"
            first = call.rows[0][0]
            return Choice(call.op, call.key, call.precision, e.kernel, source, first, reason=why)
    return None


def _valid(entry: caches.Entry, call: Any) -> bool:
    """Tell whether an entry speaks of the kernels of now: the same version, the same rows for this shape."""
    return (entry.version, entry.rows) == (_version(), fingerprint(call)) and call.applies(entry.kernel)


def fingerprint(call: Any) -> str:
    """Sum up which kernels apply to a call: an entry made when there were others is no longer of use."""
    return f"{zlib.crc32(' '.join(sorted(name for name, _ in call.rows)).encode()):08x}"


def _version() -> str:
    return __version__


def _timer(device: Device) -> Any:
    if device not in _memory.timers:
        _memory.timers[device] = _memory.timer(device)
    return _memory.timers[device]


def _measured(call: Any, card: caches.Card, store: caches.Cache, seconds: float) -> Choice:
    names = candidates(call)
    if len(names) == 1:
        return _heuristic(call, "the only kernel worth timing")
    timer = _timer(call.dev)
    if timer is None:
        return _heuristic(call, f"{call.dev.name} has no clock")
    _state.busy = True
    try:
        with call.dev.activate():
            found = measure(call.on_scratch_arrays(names), timer, call.dev.synchronize, seconds)
    except Exception as error:  # memory above all; the call itself can still be made
        log.warning("%s: not measured: %s", problem(call), error)
        return _heuristic(call, f"measuring failed: {error}")
    finally:
        _state.busy = False
    if found.kernel is None:
        return _heuristic(call, f"no kernel could be timed: {found.failed}")
    us = {name: round(1e6 * seconds, 3) for name, seconds in found.seconds.items()}
    first = names[0]
    choice = Choice(
        *(call.op, call.key, call.precision, found.kernel, "measured", first),
        *(us[found.kernel], us.get(first), "", us, found.failed),
    )
    log.info("%s", choice)
    store.add(_entry(choice, call, card))
    return choice


def _entry(choice: Choice, call: Any, card: caches.Card) -> caches.Entry:
    return caches.Entry(
        *(card.name, card.capability, card.driver, choice.op, choice.shape, choice.precision),
        *(choice.kernel, choice.us, choice.heuristic, choice.heuristic_us),
        *(fingerprint(call), _version(), datetime.datetime.now(datetime.UTC).date().isoformat()),
        *(dict(choice.tried), dict(choice.failed)),
    )
