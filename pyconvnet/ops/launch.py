"""What an operation prepares: launches of kernels, or calls of the reference, bound to their arrays.

An operation checks its arguments once and gives a :class:`Prepared`; running that checks nothing again. A
:class:`Launch` also says what tuning asks: which kernels apply, which one runs, and the same on scratch
arrays to time it.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..common.devices import Device, emulator, get_device
from ..common.precision import BFLOAT16
from . import core, host, tuning
from .arrays import is_array, pointer

_PRECISIONS = ("fp32", "tf32", "fp32x3", "bf16")  # by the number the kernels know them by
_PATTERN = 1 << 20  # elements of the random numbers that fill scratch arrays, over and over

Rows = list[tuple[str, int]]
Library = Callable[..., Callable[[Any], None]]


class HostCall:
    """A call of a function on the host whose arguments have been checked.

    Parameters
    ----------
    function : callable
        Of :mod:`pyconvnet.ops.reference`, or one that looks at what arrays hold.
    args, options :
        Its arguments.
    """

    def __init__(self, function: Callable[..., Any], *args: Any, **options: Any):
        self.function, self.args, self.options = function, args, options
        call = host.call_for(function, args, options)  # the same by a compiled kernel
        if call is None and (tiny := getattr(function, "tiny", None)) is not None:
            call = tiny(*args, **options)  # the same in fewer steps, of arrays alone
        if call is not None:
            (self.function, self.args), self.options = call, {}
        elif not any(a.dtype == BFLOAT16 for a in arrays_in((args, tuple(options.values())))):
            self.function = getattr(function, "__wrapped__", function)  # has nothing to widen

    def run(self) -> None:
        """Call the function."""
        self.function(*self.args, **self.options)


class Launch:
    """A launch of a kernel whose arguments have been checked.

    Parameters
    ----------
    op : str
        Public name, for choices.
    dev : Device
    table : str
        The compiled module's function; ``TABLE_kernels(shape)`` lists its rows.
    shape : the kernels' shape struct
    args : tuple
        What the function takes between shape and workspace.
    with_workspace : bool
        Whether the function takes a workspace.
    rows : list of (name, workspace bytes), optional
        The rows that apply, in the heuristic's order; default: the table's.
    libraries : dict of name to callable(*args)
        Rows that are no kernels of ours; each gives the function that runs it, given the workspace.
    precision : str, optional
        Of a shape that does not say; default: bf16 where an array is of it.
    caller : str, optional
        The operation that was called, for errors; default: `op`.
    kernel : str, optional
        The kernel that runs; None: the chosen one.
    workspace : object with ``get(nbytes)``, optional
        Lends scratch memory at each run; None: it is allocated.

    Raises
    ------
    ValueError
        The forced kernel does not apply.
    """

    def __init__(
        self,
        op: str,
        dev: Device,
        table: str,
        shape: Any,
        args: Sequence[Any],
        with_workspace: bool = False,
        rows: Rows | None = None,
        libraries: Mapping[str, Library] | None = None,
        precision: str | None = None,
        caller: str | None = None,
        kernel: str | None = None,
        workspace: Any = None,
    ):
        self.op, self.dev, self.table, self.shape, self.args = op, dev, table, shape, tuple(args)
        self.caller = caller or op
        self.with_workspace, self.libraries, self._precision = with_workspace, libraries or {}, precision
        self.workspace = workspace
        self.rows = self._listed(shape) if rows is None else rows
        self.forced = kernel is not None
        #: Once the kernel is chosen: the arguments up to the workspace, and the library that has it, if any.
        self.head: tuple | None = None
        self.library: Library | None = None
        self._by_library: Callable[[Any], None] | None = None
        self._nbytes = 0
        if self.forced:
            self.use(kernel)

    def _listed(self, shape: Any) -> Rows:
        return core.rows(self.dev, self.table, shape)

    # ---- running it ----------------------------------------------------------------------------------------
    @property
    def tunable(self) -> bool:
        """Whether the kernel is chosen among several by what has been measured."""
        return not self.forced and hasattr(self.shape, "key")

    def use(self, kernel: str | None) -> None:
        """Let a kernel run from now on; None: the heuristic's choice. Raises ValueError as :meth:`row`."""
        name, shape, self._nbytes = self.row(kernel)
        self.head, self.library = (name, shape, *self.args), self.libraries.get(name)
        self._by_library = None if self.library is None else self.library(*self.args)

    def resolve(self) -> None:
        """Choose the kernel now, where none is forced."""
        if not self.forced:
            self.use(tuning.kernel_for(self) if self.tunable else None)

    @property
    def kernel(self) -> str | None:
        """The row that runs, with its number of splits where it was given; None before it is chosen."""
        return None if self.head is None else self.head[0]

    def run(self) -> None:
        """Enqueue the kernel on the current stream of the device, which has to be the current one."""
        if self.head is None:
            self.resolve()
        if self._by_library is not None:
            self._by_library(self.workspace)
        else:
            self.call(self.head, self.workspace)

    def call(self, head: Sequence[Any], workspace: Any) -> None:
        """Call the compiled module with arguments like ``head``, which have been checked."""
        dev = self.dev
        try:
            if self.with_workspace:
                lent = core.scratch(dev, self._nbytes, workspace)
                getattr(dev.ext, self.table)(*head, lent, dev.stream())
            else:
                getattr(dev.ext, self.table)(*head, dev.stream())
        except (TypeError, ValueError) as error:  # of the workspace: nobody else has looked at it
            raise type(error)(str(error).replace(self.table, self.caller, 1)) from None

    def without_arrays(self) -> Launch:
        """Copy the launch, kernel chosen, for :meth:`call` with other arrays: the copy keeps none alive."""
        other = copy.copy(self)
        other.args, other.head, other.workspace, other._by_library = (), None, None, None
        return other

    def row(self, kernel: str | None) -> tuple[str, Any, int]:
        """Find a kernel's (name, shape with the splits asked for, workspace bytes); None: the heuristic's.

        Raises
        ------
        ValueError
            It does not apply.
        """
        if not hasattr(self.shape, "cut"):
            name, nbytes = core.select(self.caller, self.rows, kernel)
            return name, self.shape, nbytes
        name, splits = core.parse_kernel(self.caller, kernel)
        name, nbytes = core.select(self.caller, self.rows, name)
        if not splits:
            return name, self.shape, nbytes
        shape = None if name in self.libraries else self.shape.cut(splits)
        able = {} if shape is None else dict(self._listed(shape))
        if name not in able:
            what = "share its tiles" if splits == core.STREAM_K else f"cut their sums into {splits} splits"
            raise ValueError(
                f"{self.caller}: kernel {kernel!r} does not apply to these shapes: {name} cannot {what}"
            )
        return name, shape, able[name]

    # ---- what tuning asks ----------------------------------------------------------------------------------
    @property
    def key(self) -> str:
        """The shape in words."""
        return self.shape.key

    @property
    def precision(self) -> str:
        """Of the products, by name."""
        if hasattr(self.shape, "precision"):
            return _PRECISIONS[self.shape.precision]
        if self._precision is not None:
            return self._precision
        return "bf16" if any(a.dtype == BFLOAT16 for a in arrays_in(self.args)) else "fp32"

    def applies(self, kernel: str) -> bool:
        """Tell whether a kernel, number of splits included, can run."""
        try:
            self.row(kernel)
        except ValueError:
            return False
        return True

    def capturing(self) -> bool:
        """Tell whether the current stream records a CUDA graph, in which nothing can be timed."""
        return self.dev.kind == "cuda" and self.dev.xp.cuda.get_current_stream().is_capturing()

    def costs(self, splits: int) -> dict[str, float]:
        """Estimate the time of each row that can split its sums so (0: as it finds good), in arbitrary units;
        empty without a model.
        """
        costs = getattr(self.dev.ext, f"{self.table}_costs", None)
        with self.dev.activate():
            return {} if costs is None else dict(costs(self.shape.cut(splits)))

    def workspace_bytes(self, name: str, splits: int) -> int | None:
        """Return the bytes of scratch memory for so many splits; None where a kernel cannot make them."""
        return dict(self._listed(self.shape.cut(splits))).get(name)

    def splits(self, name: str) -> int | None:
        """Tell how many splits a kernel finds good by itself, or :data:`core.STREAM_K`; None for what makes
        none, libraries say.

        Its scratch memory tells: so much for each split, beyond what it needs without any.
        """
        if name in self.libraries:
            return None
        if self.shared(name) != (0, 0):
            return core.STREAM_K
        found, whole, two = (self.workspace_bytes(name, splits) for splits in (0, 1, 2))
        return 1 if found == whole or two is None else round(2 * (found - whole) / (two - whole))

    def shared(self, name: str) -> tuple[int, int]:
        """Return how many of a kernel's last tiles several blocks share, and how many blocks: stream-K."""
        with self.dev.activate():
            return dict(getattr(self.dev.ext, f"{self.table}_shared")(self.shape))[name]

    @property
    def terms(self) -> int:
        """Of each sum of a convolution or of one of its gradients."""
        s = self.shape
        return {
            "conv2d_fprop": s.r * s.s * (s.c // s.groups),
            "conv2d_dgrad": s.r * s.s * (s.k // s.groups),
            "conv2d_wgrad": s.n * s.p * s.q,
        }[self.table]

    def on_scratch_arrays(self, kernels: Sequence[str]) -> dict[str, Callable[[], None]]:
        """Make of each kernel a callable on scratch arrays: it touches nobody's data and, unless a library's
        row wants scratch memory, allocates nothing.

        Arrays that are one in the call (in place) are one here. They hold random numbers: on zeros a card
        draws less power and runs faster than it will.
        """
        twins: dict[int, Any] = {}

        def twin(array: Any) -> Any:
            address = pointer(self.dev, array)
            if address not in twins or twins[address].nbytes != array.nbytes:
                twins[address] = _random_like(self.dev, array)
            return twins[address]

        args = tuple(twin(arg) if is_array(arg) else arg for arg in self.args)
        rows = {kernel: self.row(kernel) for kernel in kernels}
        most = max(nbytes for _, _, nbytes in rows.values())
        scratch = self.dev.empty((most,), np.uint8) if most else None
        works = {}
        for kernel, (name, shape, nbytes) in rows.items():
            library = self.libraries.get(name)
            lent = () if not self.with_workspace else (scratch[:nbytes] if nbytes else None,)

            def work(name: str = name, shape: Any = shape, lent: tuple = lent) -> None:
                getattr(self.dev.ext, self.table)(name, shape, *args, *lent, self.dev.stream())

            works[kernel] = work if library is None else functools.partial(_by_itself, library(*args))
        return works


def _by_itself(run: Callable[[Any], None]) -> None:
    """Run a library's row that has to find its scratch memory, if it wants any."""
    run(None)


def as_int32(op: str, dev: Device, name: str, array: Any) -> tuple[Any, tuple[HostCall, ...]]:
    """Return integers of any dtype as int32, and the steps that convert them, on their device, unread.

    What int32 cannot hold becomes the nearest that it can, which no class and no pixel has for its number.
    """
    return _converted(op, dev, name, array, np.int32, "iu", "integers", _fill_int32)


def as_flags(op: str, dev: Device, name: str, array: Any) -> tuple[Any, tuple[HostCall, ...]]:
    """Return integers of any dtype, or bool, as uint8 that is 0 where they are, and the converting steps."""
    return _converted(op, dev, name, array, np.uint8, "iub", "integers or bool", _fill_flags)


def _converted(
    op: str, dev: Device, name: str, array: Any, dtype: Any, kinds: str, words: str, fill: Callable[..., None]
) -> tuple[Any, tuple[HostCall, ...]]:
    if array.dtype == dtype:
        return array, ()
    if array.dtype.kind not in kinds:
        raise TypeError(f"{op}: {name} must be {words}, got {array.dtype}")
    converted = dev.empty(array.shape, dtype)
    return converted, (HostCall(fill, dev, array, out=converted),)


def _fill_int32(dev: Device, array: Any, *, out: Any) -> None:
    has, wants = np.iinfo(array.dtype), np.iinfo(np.int32)
    low, high = max(has.min, wants.min), min(has.max, wants.max)
    out[...] = array if (low, high) == (has.min, has.max) else dev.xp.clip(array, low, high)


def _fill_flags(dev: Device, array: Any, *, out: Any) -> None:
    out[...] = dev.xp.not_equal(array, 0)


Step = Launch | HostCall


class Prepared:
    """An operation on certain arrays, its arguments checked.

    Parameters
    ----------
    dev : Device
    result : what the operation returns
    steps : Launch or HostCall
        In order.
    checks : tuple of HostCall
        Of what the arrays hold, on host devices; they raise ValueError. A plan, whose arrays are filled by
        kernels and checked feeds, leaves them out.
    scratch : tuple of arrays or None
        Those that are no arguments are allocated for this call; the steps fill them before they read them.
    """

    def __init__(
        self,
        dev: Device,
        result: Any,
        *steps: Step,
        checks: tuple[HostCall, ...] = (),
        scratch: tuple[Any, ...] = (),
    ):
        self.dev, self.result, self.steps, self.checks, self.scratch = dev, result, steps, checks, scratch

    def run(self) -> Any:
        """Run the checks, then the steps; return the result."""
        for check in self.checks:
            check.run()
        with self.dev.activate():
            for step in self.steps:
                step.run()
        return self.result

    def then(self, result: Any, *steps: Step) -> Prepared:
        """Append steps, and give another result."""
        return Prepared(self.dev, result, *self.steps, *steps, checks=self.checks, scratch=self.scratch)


def problems(prepared: Iterable[Prepared]) -> dict[str, Launch]:
    """Collect the launches whose kernels can be chosen, the first of each problem."""
    found: dict[str, Launch] = {}
    for one in prepared:
        for step in one.steps:
            if isinstance(step, Launch) and step.tunable:
                found.setdefault(tuning.problem(step), step)
    return found


def arrays_in(values: Any) -> Iterable[Any]:
    """Iterate over the arrays of arguments, those in lists and tuples too."""
    for value in values:
        if isinstance(value, list | tuple):
            yield from arrays_in(value)
        elif is_array(value):
            yield value


def _random_like(dev: Device, array: Any) -> Any:
    """Make an array of normal random numbers; of zeros, which are valid labels and places, where it holds
    integers or sums.
    """
    if array.dtype != np.float32 and array.dtype != BFLOAT16:
        return dev.zeros(array.shape, array.dtype)
    count = min(array.size, _PATTERN)
    pattern = np.random.default_rng(0).standard_normal(count, np.float32).astype(array.dtype)
    if dev.kind != "cuda":
        return np.resize(pattern, array.shape)
    out = dev.empty(array.shape, array.dtype)
    flat, runtime = out.reshape(-1), dev.xp.cuda.runtime
    flat[:count].set(pattern)
    done = count
    while done < flat.size:
        more = min(done, flat.size - done)
        target = out.data.ptr + done * array.dtype.itemsize
        nbytes = more * array.dtype.itemsize
        runtime.memcpyAsync(target, out.data.ptr, nbytes, runtime.memcpyDeviceToDevice, dev.stream())
        done += more
    return out


def choice(
    op: str,
    *args: Any,
    device: str | Device | None = None,
    dtype: Any = np.float32,
    kernel: str | None = None,
    **kwargs: Any,
) -> tuning.Choice:
    """Tell which kernel would run for an operation on given shapes, and why. Measures nothing.

    Parameters
    ----------
    op, args, kwargs :
        As for :func:`kernels`: ``print(ops.choice("conv2d", x_shape, w_shape, stride=4))``.
    device : str, optional
        Default: ``cuda:0`` where it works, else the emulator.
    dtype : optional
        Of the arrays, for operations that take no ``precision``.
    kernel : str, optional
        As given to the operation.

    Returns
    -------
    choice : Choice
        ``kernel``, ``source`` (``"forced"``, ``"measured"``, ``"cache"``, ``"shipped"`` or ``"heuristic"``),
        ``us``, ``heuristic``, ``heuristic_us``, ``tried``, ``failed``; ``str(choice)`` is one line.

    Raises
    ------
    ValueError
        Unknown operation, shapes the operation refuses, a kernel that does not apply.
    """
    dev = get_device(device)
    dev = emulator() if dev.ext is None else dev
    listed = core.listed(op, dev, *args, **kwargs)
    precision = "bf16" if np.dtype(dtype) == BFLOAT16 else "fp32"
    call = Launch(op, dev, listed.table, listed.shape, (), rows=listed.rows, precision=precision)
    first, key = call.rows[0][0], getattr(listed.shape, "key", "")
    if kernel is not None:
        call.row(kernel)
        return tuning.Choice(op, key, call.precision, kernel, "forced", first)
    if not key:
        why = "of these kernels the first that applies always runs"
        return tuning.Choice(op, key, call.precision, first, "heuristic", first, reason=why)
    return tuning.choose(call, measuring=False)
