"""One call of an operation's kernels: which apply, which runs, and the same on scratch arrays to time it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..common.devices import Device, emulator, get_device
from . import core, tuning
from .arrays import pointer

_PRECISIONS = ("fp32", "tf32", "fp32x3", "bf16")  # by the number the kernels know them by
_PATTERN = 1 << 20  # elements of the random numbers that fill scratch arrays, over and over

Rows = list[tuple[str, int]]
Library = Callable[..., None]


class Launch:
    """A call whose arguments have been checked.

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
    scratched : bool
        Whether the function takes a workspace.
    rows : list of (name, workspace bytes), optional
        The rows that apply, in the heuristic's order; default: the table's.
    libraries : dict of name to callable(*args)
        Rows that are no kernels of ours.
    precision : str, optional
        Of a shape that does not say; default: bf16 where an array is of it.
    caller : str, optional
        The operation that was called, for errors; default: `op`.
    """

    def __init__(
        self,
        op: str,
        dev: Device,
        table: str,
        shape: Any,
        args: Sequence[Any],
        scratched: bool = False,
        rows: Rows | None = None,
        libraries: Mapping[str, Library] | None = None,
        precision: str | None = None,
        caller: str | None = None,
    ):
        self.op, self.dev, self.table, self.shape, self.args = op, dev, table, shape, args
        self.caller = caller or op
        self.scratched, self.libraries, self._precision = scratched, libraries or {}, precision
        self.rows = self._listed(shape) if rows is None else rows

    def _listed(self, shape: Any) -> Rows:
        return core.rows(self.dev, self.table, shape)

    # ---- running it ----------------------------------------------------------------------------------------
    def run(self, kernel: str | None, workspace: Any = None) -> None:
        """Run the forced kernel, or the chosen one."""
        if kernel is None and hasattr(self.shape, "key"):
            kernel = tuning.kernel_for(self)
        name, shape, nbytes = self.row(kernel)
        if name in self.libraries:
            if not tuning.rehearsing():
                with self.dev.activate():
                    self.libraries[name](*self.args)
            return
        with self.dev.activate():
            scratch = (core.scratch(self.dev, nbytes, workspace),) if self.scratched else ()
            try:
                getattr(self.dev.ext, self.table)(name, shape, *self.args, *scratch, self.dev.stream())
            except (TypeError, ValueError) as error:  # of the workspace: nobody else has looked at it
                raise type(error)(str(error).replace(self.table, self.caller, 1)) from None

    def row(self, kernel: str | None) -> tuple[str, Any, int]:
        """(name, shape with the pieces asked for, workspace bytes) of a kernel.

        Raises
        ------
        ValueError
            It does not apply.
        """
        name, pieces = core.cut(self.caller, kernel)
        name, nbytes = core.select(self.caller, self.rows, name)
        if not pieces:
            return name, self.shape, nbytes
        shape = self.shape.cut(pieces) if hasattr(self.shape, "cut") and name not in self.libraries else None
        able = {} if shape is None else dict(self._listed(shape))
        if name not in able:
            raise ValueError(
                f"{self.caller}: kernel {kernel!r} does not apply to these shapes: {name} cannot cut their "
                f"sums into {pieces} pieces"
            )
        return name, shape, able[name]

    # ---- what tuning asks ----------------------------------------------------------------------------------
    @property
    def key(self) -> str:
        """The shape in words."""
        return self.shape.key

    @property
    def precision(self) -> str:
        if hasattr(self.shape, "precision"):
            return _PRECISIONS[self.shape.precision]
        if self._precision is not None:
            return self._precision
        return "bf16" if any(_is_array(a) and a.dtype == core.BFLOAT16 for a in self.args) else "fp32"

    def applies(self, kernel: str) -> bool:
        """Whether a kernel, pieces included, can run."""
        try:
            self.row(kernel)
        except ValueError:
            return False
        return True

    def capturing(self) -> bool:
        """Whether the current stream records a CUDA graph, in which nothing can be timed."""
        return self.dev.kind == "cuda" and self.dev.xp.cuda.get_current_stream().is_capturing()

    def costs(self, pieces: int) -> dict[str, float]:
        """Estimated time of each row that can be cut so (0: as it finds good); empty without a model."""
        costs = getattr(self.dev.ext, f"{self.table}_costs", None)
        with self.dev.activate():
            return {} if costs is None else dict(costs(self.shape.cut(pieces)))

    def workspace(self, name: str, pieces: int) -> int | None:
        """Bytes of scratch memory for so many pieces; None where it cannot be cut so."""
        return dict(self._listed(self.shape.cut(pieces))).get(name)

    def pieces(self, name: str) -> int | None:
        """How many pieces a kernel finds good by itself; None for what cannot be cut, libraries say.

        Its scratch memory tells: so much for each piece, beyond what it needs without any.
        """
        if name in self.libraries:
            return None
        found, whole, two = (self.workspace(name, pieces) for pieces in (0, 1, 2))
        return 1 if found == whole or two is None else round(2 * (found - whole) / (two - whole))

    @property
    def terms(self) -> int:
        """Of each sum of a convolution or of one of its gradients."""
        s = self.shape
        return {
            "conv2d_fprop": s.r * s.s * (s.c // s.groups),
            "conv2d_dgrad": s.r * s.s * (s.k // s.groups),
            "conv2d_wgrad": s.n * s.p * s.q,
        }[self.table]

    def prepared(self, kernels: Sequence[str]) -> dict[str, Callable[[], None]]:
        """Each kernel as a callable on scratch arrays: nobody's data is touched, nothing is allocated later.

        Arrays that are one in the call (in place) are one here. They hold random numbers: on zeros a card
        draws less power and runs faster than it will.
        """
        twins: dict[int, Any] = {}

        def twin(array: Any) -> Any:
            address = pointer(self.dev, array)
            if address not in twins or twins[address].nbytes != array.nbytes:
                twins[address] = _random_like(self.dev, array)
            return twins[address]

        args = tuple(twin(arg) if _is_array(arg) else arg for arg in self.args)
        rows = {kernel: self.row(kernel) for kernel in kernels}
        most = max(nbytes for _, _, nbytes in rows.values())
        scratch = self.dev.empty((most,), np.uint8) if most else None
        works = {}
        for kernel, (name, shape, nbytes) in rows.items():
            library = self.libraries.get(name)
            lent = () if not self.scratched else (scratch[:nbytes] if nbytes else None,)

            def work(
                name: str = name, shape: Any = shape, lent: tuple = lent, library: Any = library
            ) -> None:
                if library is not None:
                    library(*args)
                else:
                    getattr(self.dev.ext, self.table)(name, shape, *args, *lent, self.dev.stream())

            works[kernel] = work
        return works


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "ndim") and not isinstance(value, np.generic)


def _random_like(dev: Device, array: Any) -> Any:
    """An array of normal random numbers; of zeros, which are valid labels and places, where it holds integers
    or sums.
    """
    if array.dtype != np.float32 and array.dtype != core.BFLOAT16:
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


def run(
    op: str,
    dev: Device,
    table: str,
    shape: Any,
    kernel: str | None,
    args: Sequence[Any],
    *,
    workspace: Any = None,
    **how: Any,
) -> None:
    """Run a kernel of a table: the forced one, or the chosen one. ``how``: see :class:`Launch`."""
    Launch(op, dev, table, shape, args, **how).run(kernel, workspace)


class _Watch:
    """A compiled module that notes which table was listed for which shape."""

    def __init__(self, ext: Any):
        self._ext, self.listed = ext, []

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._ext, name)
        if not name.endswith("_kernels"):
            return value

        def listing(shape: Any) -> Rows:
            self.listed.append((name.removesuffix("_kernels"), shape))
            return value(shape)

        return listing


def choice(
    op: str,
    *args: Any,
    device: str | Device | None = None,
    dtype: Any = np.float32,
    kernel: str | None = None,
    **kwargs: Any,
) -> tuning.Choice:
    """Which kernel would run for an operation on given shapes, and why. Measures nothing.

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
    watch = _Watch(dev.ext)
    names = core.kernels(op, *args, device=Device(dev.kind, dev.index, dev.xp, watch), **kwargs)
    table, shape = watch.listed[-1]
    nbytes = dict(core.rows(dev, table, shape))
    rows = [(name, nbytes.get(name, 0)) for name in names]
    precision = "bf16" if np.dtype(dtype) == core.BFLOAT16 else "fp32"
    call = Launch(op, dev, table, shape, (), rows=rows, precision=precision)
    key = getattr(shape, "key", "")
    if kernel is not None:
        call.row(kernel)
        return tuning.Choice(op, key, call.precision, kernel, "forced", names[0])
    if not key:
        why = "of these kernels the first that applies always runs"
        return tuning.Choice(op, key, call.precision, names[0], "heuristic", names[0], reason=why)
    return tuning.choose(call, measuring=False)
