"""How every operation is called: prepared once for a kind of arguments, and only run from then on.

The function that an operation is written as checks its arguments and returns a :class:`Prepared`. What
:func:`operation` makes of it runs that at once, and keeps a *recipe* of it: what would be run for any arrays
of the same kind, without the arrays. A later call with the same options, and arrays of the same types,
shapes and layouts, finds the recipe and looks only at what depends on the memory itself: whether what is
written shares some with anything else, and what the arrays hold where the operation says so. Everything
unusual (arrays of a subclass or of another library, options of other types, overlapping memory) takes the
whole way, and so gets the same results and the same errors as a first call.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..common.devices import Device
from . import arrays as device_arrays
from . import tuning
from .arrays import capability, host_device, is_array, overlap
from .launch import HostCall, Launch, Prepared, arrays_in
from .reference.space_to_depth import Depth

#: So many recipes of one operation are kept; the oldest goes first.
MOST_RECIPES = 512

_PLAIN = frozenset((int, bool, str, type(None)))
_ANOTHER_WAY = object()


class _State(threading.local):
    """Of each thread."""

    recorded: list[Prepared] | None = None


_state = _State()
_caches: list[dict] = []


@contextlib.contextmanager
def recording() -> Iterator[list[Prepared]]:
    """Record what the operations of this thread would run: inside, they check arguments and run nothing.

    Yields
    ------
    list of Prepared
        One for each operation called; filled inside the block.
    """
    before, _state.recorded = _state.recorded, []
    try:
        yield _state.recorded
    finally:
        _state.recorded = before


def perform(function: Callable[..., Any], *args: Any) -> None:
    """Call a function that is no operation, or, inside :func:`recording`, have the call recorded."""
    call = HostCall(function, *args)
    if _state.recorded is None:
        call.run()
    else:
        _state.recorded.append(Prepared(host_device(), None, call))


class Repeated:
    """Work made of calls of operations on the same arrays each time: prepared once, only run from then on.

    Parameters
    ----------
    work : callable
        Calls operations, and what is no operation through :func:`perform`. It is called at the first run,
        with the device and the choice of kernels that are current then; what it makes of the arrays'
        contents does not count.
    """

    __slots__ = ("_runs", "_work")

    def __init__(self, work: Callable[[], Any]):
        self._work, self._runs = work, None

    def __call__(self) -> None:
        """Run the launches one after the other; the device and stream are the caller's."""
        if self._runs is None:
            with recording() as prepared:
                self._work()
            steps = [step for one in prepared for step in one.steps]
            for step in steps:
                if isinstance(step, Launch):
                    step.resolve()
            self._runs = [step.run for step in steps]
        for run in self._runs:
            run()


def forget() -> None:
    """Forget every recipe."""
    for cache in _caches:
        cache.clear()


def recipes() -> int:
    """Count the recipes that are kept."""
    return sum(map(len, _caches))


def operation(
    *, updated: tuple[str, ...] = (), alignment: bool = False, varying: str | None = None
) -> Callable[[Callable[..., Prepared]], Callable[..., Any]]:
    """Make an operation of a function that checks its arguments and returns a :class:`Prepared`.

    The operation's ``prepare`` is that function.

    Parameters
    ----------
    updated :
        Names of arguments that are written to, beside ``out``.
    alignment : bool
        Whether kernels are chosen by where arrays start.
    varying :
        Name of an argument that may be another integer at each call; its lower 32 bits count. `prepare` may
        be given a :class:`Varying` and has to hand on the very object.
    """

    def decorate(prepare: Callable[..., Prepared]) -> Callable[..., Any]:
        cache: dict[tuple, _Recipe] = {}
        _caches.append(cache)
        names = tuple(inspect.signature(prepare).parameters)
        place = names.index(varying) if varying else None

        @functools.wraps(prepare)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _state.recorded is not None:
                prepared = prepare(*args, **kwargs)
                _state.recorded.append(prepared)
                return prepared.result
            numbers: list[Varying] = []
            if varying:
                if type(kwargs.get(varying)) is int:
                    numbers = [Varying(kwargs[varying] % 2**32)]
                    kwargs[varying] = numbers[0]
                elif len(args) > place and type(args[place]) is int:
                    numbers = [Varying(args[place] % 2**32)]
                    args = (*args[:place], *numbers, *args[place + 1 :])
            arrays: list[Any] = []
            key, dev = _key(args, kwargs, arrays, alignment)
            if key is None:
                return prepare(*args, **kwargs).run()
            recipe = cache.get(key)
            if recipe is not None and recipe.dev is dev:
                result = recipe.run(arrays + numbers, kwargs.get("workspace"))
                if result is not _ANOTHER_WAY:
                    return result
            keep = functools.partial(_keep, cache, key)
            return _first(prepare, names, args, kwargs, arrays, numbers, updated, keep)

        call.prepare = prepare
        return call

    return decorate


# ---- the kind of arguments ---------------------------------------------------------------------------------


class Varying(int):
    """A number of which a recipe holds for any: it is filled in like an array."""


def _key(
    args: tuple, kwargs: dict[str, Any], arrays: list[Any], alignment: bool
) -> tuple[tuple | None, Device | None]:
    """Build the key a recipe is kept under, and its device; (None, None) for arguments out of the ordinary.

    Parameters
    ----------
    arrays : list
        The arrays among the arguments are put here, in order.
    """
    parts: list[Any] = []
    outs: range | tuple = ()
    for value in args:
        if type(value) is np.ndarray:
            arrays.append(value)
            parts += (value.dtype, value.shape, value.flags.num)
        elif not _add(value, parts, arrays):
            return None, None
    for name, value in kwargs.items():
        parts.append(name)
        if name == "workspace":
            continue
        if type(value) is np.ndarray:
            if name == "out":
                outs = (len(arrays),)
            arrays.append(value)
            parts += (value.dtype, value.shape, value.flags.num)
            continue
        first = len(arrays)
        if not _add(value, parts, arrays):
            return None, None
        if name == "out":
            outs = range(first, len(arrays))
    if not arrays:
        return None, None
    for out in outs:  # an input itself?
        for place, array in enumerate(arrays):
            if array is arrays[out] and place != out:
                parts.append((place, out))
    dev = host_device() if type(arrays[0]) is np.ndarray else device_arrays.cuda(arrays[0].device.id)
    parts.append(dev.name)
    if alignment and dev.ext is not None:
        parts.append(
            tuple(array.data.ptr % 16 for array in arrays)
            if dev.kind == "cuda"
            else dev.ext.misaligned(*arrays)
        )
    return tuple(parts), dev


def _add(value: Any, parts: list[Any], arrays: list[Any]) -> bool:
    """Add one argument to the parts of a key; False where its kind is out of the ordinary. Numbers that are
    equal but of other types are not the same, nor are 0.0 and -0.0.
    """
    kind = type(value)
    if kind in _PLAIN:
        parts += (kind, value)
    elif kind is Varying:
        parts.append(kind)
    elif kind is Depth:
        parts.append(kind)
        return all(_add(item, parts, arrays) for item in (value.size, value.stride, value.pad))
    elif kind is float:
        parts += (kind, value if value else str(value))
    elif kind is np.ndarray:
        arrays.append(value)
        parts += (value.dtype, value.shape, value.flags.num)
    elif kind is tuple or kind is list:
        parts += (kind, len(value))
        return all(_add(item, parts, arrays) for item in value)
    elif kind.__module__.partition(".")[0] == "cupy" and is_array(value):
        arrays.append(value)
        parts += (kind, value.dtype, value.shape, value.flags.c_contiguous, value.device.id)
    else:
        return False
    return True


def _keep(cache: dict[tuple, _Recipe], key: tuple, recipe: _Recipe) -> None:
    cache[key] = recipe
    while len(cache) > MOST_RECIPES:
        with contextlib.suppress(KeyError, RuntimeError, StopIteration):  # another thread did it
            del cache[next(iter(cache))]


# ---- recipes -----------------------------------------------------------------------------------------------


def _first(
    prepare: Callable[..., Prepared],
    names: tuple[str, ...],
    args: tuple,
    kwargs: dict[str, Any],
    arrays: list[Any],
    numbers: list[Varying],
    updated: tuple[str, ...],
    keep: Callable[[_Recipe], None],
) -> Any:
    """Prepare and run the first call of its kind, and keep its recipe."""
    apart = _apart(arrays)
    rest = iter(apart)
    args = tuple(_replaced(value, rest) for value in args)
    kwargs = {n: v if n == "workspace" else _replaced(v, rest) for n, v in kwargs.items()}
    prepared = prepare(*args, **kwargs)
    prepared.run()
    places = {id(value): place for place, value in enumerate(apart + numbers)}
    made = [a for a in arrays_in((prepared.result, prepared.scratch)) if id(a) not in places]
    places |= {id(array): len(places) + i for i, array in enumerate(made)}
    named = [*zip(names, args, strict=False), *kwargs.items()]
    owners = [n for n, value in named if n != "workspace" for _ in arrays_in((value,))]
    written = [i for i, name in enumerate(owners) if name == "out" or name in updated]
    with contextlib.suppress(_NotKnownError):
        keep(_Recipe(prepared, places, made, arrays, written))
    return _Template((prepared.result,), places).filled([*arrays, *numbers, *made])[0]


def _apart(arrays: list[Any]) -> list[Any]:
    """Return the arrays, those that are there a second time as views: each can be told from the others."""
    seen: set[int] = set()
    result = []
    for array in arrays:
        result.append(array[...] if id(array) in seen else array)
        seen.add(id(array))
    return result


def _replaced(value: Any, arrays: Iterator[Any]) -> Any:
    """Put the next ones of `arrays` in place of an argument's own."""
    if isinstance(value, list | tuple):
        return type(value)(_replaced(item, arrays) for item in value)
    return next(arrays) if is_array(value) else value


class _NotKnownError(Exception):
    """What runs takes an array that is neither an argument nor a result nor scratch memory; or a kernel that
    may be another one next time.
    """


class _Template:
    """Values with places for the arrays of a call, which it does not hold.

    ``filled(arrays)`` gives the values, with those of `arrays` that belong there.
    """

    __slots__ = ("filled", "fills", "values")

    def __init__(self, values: Iterable[Any], places: dict[int, int]):
        self.values: list[Any] = list(values)
        self.fills: list[tuple[int, Any, type | None]] = []  # (where, place or template, None or its type)
        for i, value in enumerate(self.values):
            if is_array(value) or type(value) is Varying:
                if id(value) not in places:
                    raise _NotKnownError
                self.fills.append((i, places[id(value)], None))
            elif isinstance(value, list | tuple) and (inner := _Template(value, places)).fills:
                self.fills.append((i, inner, type(value)))
            else:
                continue
            self.values[i] = None
        everywhere = [place for _, place, kind in self.fills if kind is None]
        only_arrays = len(everywhere) == len(self.values) > 1
        self.filled = operator.itemgetter(*everywhere) if only_arrays else self._filled

    def _filled(self, arrays: list[Any]) -> list[Any]:
        values = self.values.copy()
        for i, place, kind in self.fills:
            values[i] = arrays[place] if kind is None else kind(place.filled(arrays))
        return values


class _HostStep:
    """A :class:`HostCall` of any arrays."""

    __slots__ = ("args", "function", "names", "options")

    def __init__(self, call: HostCall, places: dict[int, int]):
        self.function, self.args = call.function, _Template(call.args, places)
        self.names, self.options = tuple(call.options), _Template(call.options.values(), places)

    def run(self, arrays: list[Any], workspace: Any) -> None:
        if not self.names:
            self.function(*self.args.filled(arrays))
            return
        options = dict(zip(self.names, self.options.filled(arrays), strict=True))
        self.function(*self.args.filled(arrays), **options)


class _LaunchStep:
    """A :class:`Launch` on any arrays."""

    __slots__ = ("call", "head", "library")

    def __init__(self, launch: Launch, places: dict[int, int]):
        if launch.tunable and launch.capturing():
            raise _NotKnownError
        self.library, self.call = launch.library, launch.without_arrays().call
        self.head = _Template(launch.args if self.library else launch.head, places)

    def run(self, arrays: list[Any], workspace: Any) -> None:
        if self.library is not None:
            self.library(*self.head.filled(arrays))(workspace)
        else:
            self.call(self.head.filled(arrays), workspace)


class _Recipe:
    """What runs for arrays of one kind."""

    __slots__ = ("apart", "checks", "dev", "made", "result", "state", "steps", "tuned")

    def __init__(
        self,
        prepared: Prepared,
        places: dict[int, int],
        made: list[Any],
        arrays: list[Any],
        written: list[int],
    ):
        self.dev = prepared.dev
        kinds = {HostCall: _HostStep, Launch: _LaunchStep}
        self.checks = [_HostStep(check, places) for check in prepared.checks]
        self.steps = [kinds[type(step)](step, places) for step in prepared.steps]
        self.made = [(array.shape, array.dtype) for array in made]
        self.result = _Template((prepared.result,), places)
        launches = [step for step in prepared.steps if isinstance(step, Launch)]
        self.tuned = any(hasattr(launch.shape, "key") for launch in launches)
        self.state = self._state() if self.tuned else None
        #: Pairs of arrays of which the first is written, and whether they are one and the same.
        self.apart = [
            (i, j, arrays[i] is arrays[j])
            for n, i in enumerate(written)
            for j in range(len(arrays))
            if i != j and j not in written[:n]
        ]

    def _state(self) -> tuple:
        """Return what the choice of kernels depends on beside the kind of arguments."""
        return capability(self.dev), tuning.state(self.dev)

    def run(self, arrays: list[Any], workspace: Any) -> Any:
        """Run it on these arrays, unless where they lie needs to be looked at closer."""
        for i, j, one in self.apart:
            a, b = arrays[i], arrays[j]
            if (a is b) is not one or not (one or not overlap(self.dev, a, b)):
                return _ANOTHER_WAY
        if self.tuned and self._state() != self.state:
            return _ANOTHER_WAY
        dev = self.dev
        if dev.kind == "cuda":
            with dev.activate():
                return self._run(arrays, workspace)
        return self._run(arrays, workspace)

    def _run(self, arrays: list[Any], workspace: Any) -> Any:
        if self.made:
            arrays = arrays + [self.dev.xp.empty(shape, dtype) for shape, dtype in self.made]
        for step in self.checks:
            step.run(arrays, workspace)
        for step in self.steps:
            step.run(arrays, workspace)
        return self.result.filled(arrays)[0]
