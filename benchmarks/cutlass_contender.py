"""CUTLASS's own sm_90 convolutions as a contender: compiled to libraries, loaded, every tile tried.

    python benchmarks/cutlass_contender.py                   # compile what is missing: 15 minutes of one core
    python benchmarks/cutlass_contender.py --headers FOLDER  # CUTLASS's include folder, else nvidia-cutlass's

On a card of compute capability 9.0 they then take part in ``bench_conv.py``. The libraries lie in
``build/cutlass``, or in the folder that PYCONVNET_CUTLASS names; nothing is compiled while a benchmark runs.
The kernels are those of ``cutlass_conv.cu`` that ``cutlass_peer.py`` predicts, one a library.

What CUTLASS cannot do: it has TF32 forward alone, and no groups; of bias and ReLU it is not asked. A group is
a launch of its own on the channels where they lie; wgrad's dy, wanted dense, is cut beforehand. Pixels that
are not whole 16 bytes (conv1's three channels) are rearranged beforehand, space to depth, untimed.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import functools
import hashlib
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from cudnn_peer import both_sides
from cutlass_peer import ELEMENTS, HERE, OPS, TILES, command
from peers import NotOffered, Work
from report import compiler
from tqdm import tqdm

Kernel = tuple[str, str, tuple[int, int]]  # op, precision, tile
KERNELS: list[Kernel] = [
    (op, precision, tile)
    for op in OPS
    for precision in ELEMENTS
    for tile in TILES
    if op == "conv2d" or precision == "bf16"
]
#: CUDA's runtime is the library's own, whatever others the process has loaded.
FLAGS = ("-arch=sm_90a", "-shared", "-Xcompiler", "-fPIC", "-Xlinker", "--exclude-libs=ALL,-Bsymbolic")
#: Both operands of the product and its result, and the axis along which each is cut into groups.
ORDER = {"conv2d": "xwy", "conv2d_dgrad": "ywx", "conv2d_wgrad": "yxw"}
AXIS = {"x": 3, "w": 0, "y": 3}


# ---------------------------------------------------------------- the libraries


def path_of(kernel: Kernel) -> Path:
    """Where a kernel's library is; elsewhere when its source has changed."""
    op, precision, (bm, bn) = kernel
    digest = hashlib.sha256((HERE / "cutlass_conv.cu").read_bytes()).hexdigest()[:12]
    folder = Path(os.environ.get("PYCONVNET_CUTLASS") or HERE.parent / "build" / "cutlass")
    return folder / f"{op}-{precision}-{bm}x{bn}-{digest}.so"


def installed_headers() -> Path | None:
    """The include folder of nvidia-cutlass where that is installed."""
    spec = importlib.util.find_spec("cutlass_library")
    return Path(spec.origin).parent / "source" / "include" if spec and spec.origin else None


def build(kernel: Kernel, include: Path, nvcc: str) -> Path:
    """Compile a kernel's library, unless it is there; raise RuntimeError with the compiler's words."""
    library = path_of(kernel)
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}.part")
    line = [*command(*kernel, include, nvcc), *FLAGS, "-o", str(partial)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{library.name}: {(done.stdout + done.stderr)[-1000:]}")
    partial.replace(library)
    return library


class Layer(ctypes.Structure):
    """A convolution, as in ``cutlass_conv.cu``."""

    _fields_ = (
        *((name, ctypes.c_int * 4) for name in ("x", "w")),
        *((f"{name}_stride", ctypes.c_int64 * 4) for name in ("x", "w", "y")),
        *((name, ctypes.c_int * 2) for name in ("before", "after", "step")),
    )


class CutlassError(RuntimeError):
    """What a status of CUTLASS's says that is no success."""


class Library:
    """One kernel's functions, which return a status."""

    def __init__(self, path: Path):
        self.functions = functions = ctypes.CDLL(str(path))
        for name, pointers in {"conv_plan": 3, "conv_bind": 6, "conv_run": 2, "conv_free": 1}.items():
            getattr(functions, name).argtypes = [ctypes.c_void_p] * pointers
        functions.conv_version.restype = functions.conv_words.restype = ctypes.c_char_p

    def call(self, name: str, *args: Any) -> None:
        """Call a function; raise CutlassError with the words for its status where that is no success."""
        status = getattr(self.functions, name)(*args)
        if status:
            raise CutlassError(f"{name}: {self.functions.conv_words(status).decode()}")


class Plan:
    """A kernel made ready for a layer; `workspace`: the bytes it works in.

    Raises CutlassError where the kernel cannot do the layer.
    """

    def __init__(self, library: Library, layer: Layer):
        self.library, self.handle, size = library, ctypes.c_void_p(), ctypes.c_size_t()
        library.call("conv_plan", ctypes.byref(layer), ctypes.byref(self.handle), ctypes.byref(size))
        self.workspace = size.value

    def bind(self, stream: int, *tensors: Any) -> None:
        """Take both operands, the result and the memory to work in, which are kept."""
        self.tensors = tensors
        self.library.call("conv_bind", self.handle, *(t.data_ptr() for t in tensors), stream)

    def run(self, stream: int) -> None:
        """Launch it."""
        self.library.call("conv_run", self.handle, stream)

    def __del__(self) -> None:
        if self.handle:
            self.library.functions.conv_free(self.handle)


# ---------------------------------------------------------------- the contender


def find(torch: Any, device: Any) -> tuple[Cutlass | None, str | None]:
    """The peer on a card of compute capability 9.0, or (None, the reason why not)."""
    if device.kind != "cuda":
        return None, "CUTLASS needs a CUDA device"
    if torch is None:
        return None, "CUTLASS's peer keeps its tensors in PyTorch, which is missing"
    capability = torch.cuda.get_device_capability(device.index)
    if tuple(capability) != (9, 0):
        return None, "its kernels are for compute capability 9.0, not {}.{}".format(*capability)
    there = {kernel: path_of(kernel) for kernel in KERNELS if path_of(kernel).exists()}
    if not there:
        needed = {"nvcc": compiler.find_nvcc(), "the headers of nvidia-cutlass": installed_headers()}
        missing = " and ".join(what for what, found in needed.items() if not found)
        how = f"; it needs {missing}" if missing else ""
        return None, f"not compiled: benchmarks/cutlass_contender.py does that{how}"
    try:
        return Cutlass({kernel: Library(path) for kernel, path in there.items()}, torch), None
    except (OSError, AttributeError) as error:  # a library of another machine, or of no such functions
        return None, f"{type(error).__name__}: {error}"


class Cutlass:
    """The convolutions that CUTLASS's builders offer, as contenders: a :class:`Work` for each tile."""

    label = "CUTLASS"

    def __init__(self, libraries: dict[Kernel, Library], torch: Any):
        self.libraries, self.torch, self.precision = libraries, torch, "fp32"
        version = next(iter(libraries.values())).functions.conv_version().decode()
        self.name = f"{version}, {len(libraries)} of {len(KERNELS)} kernels"

    def __getattr__(self, op: str) -> Any:
        raise NotOffered(f"CUTLASS's builders offer no {op} here")

    def use(self, precision: str) -> None:
        """What the next rows multiply in."""
        self.precision = precision

    # -- operations, as in peers.Torch

    def conv2d(self, x, w, b=None, stride=1, pad=0, groups=1, activation=None) -> list[Work]:
        if b is not None or activation is not None:
            raise NotOffered("CUTLASS is asked for the convolution alone")
        step, (before, after) = _pair(stride), both_sides(pad)
        p, q = ((x.shape[1 + i] + before[i] + after[i] - w.shape[1 + i]) // step[i] + 1 for i in (0, 1))
        y = x.new_empty((x.shape[0], p, q, w.shape[0]))
        return self._works("conv2d", x, w, y, stride, pad, groups)

    def conv2d_dgrad(self, dy, w, x_shape, stride=1, pad=0, groups=1) -> list[Work]:
        return self._works("conv2d_dgrad", dy.new_empty(x_shape), w, dy, stride, pad, groups)

    def conv2d_wgrad(self, dy, x, w_shape, stride=1, pad=0, groups=1) -> list[Work]:
        w = self.torch.empty(w_shape, dtype=self.torch.float32, device=dy.device)
        return self._works("conv2d_wgrad", x, w, dy, stride, pad, groups)

    def _works(self, op: str, x: Any, w: Any, y: Any, stride: Any, pad: Any, groups: int) -> list[Work]:
        """A contender for each tile; of the three tensors the result's content does not matter."""
        tiles = {k[2]: library for k, library in self.libraries.items() if k[:2] == (op, self.precision)}
        if not tiles:
            lacks = (
                "was not compiled"
                if (op, self.precision) in {k[:2] for k in KERNELS}
                else "is not among its kernels"
            )
            raise NotOffered(f"{op} in {self.precision} {lacks}")
        label = self.label if groups == 1 else f"{self.label}, groups apart"
        step, (before, after), join = _pair(stride), both_sides(pad), lambda result: result
        if step != (1, 1) and groups == 1 and x.shape[3] * x.element_size() % 16:
            if op == "conv2d_dgrad":
                raise NotOffered("the gradient of strided images whose pixels are not whole 16 bytes")
            label += ", space to depth"
            shape = w.shape
            blocks = [-(-shape[1 + i] // step[i]) for i in (0, 1)]
            x = self._to_depth(x, step, before, [y.shape[1 + i] + blocks[i] - 1 for i in (0, 1)])
            w = self._to_depth(w, step, (0, 0), blocks)
            if op == "conv2d_wgrad":
                join = functools.partial(_from_depth, step=step, shape=shape)
            step, before, after = (1, 1), (0, 0), (0, 0)
        tensors = {"x": x, "w": w, "y": y}
        a, b, out = ORDER[op]
        parts = {name: t.chunk(groups, AXIS[name]) for name, t in tensors.items()}
        if op == "conv2d_wgrad":
            parts["y"] = tuple(part.contiguous() for part in parts["y"])
        stream = self.torch.cuda.current_stream().cuda_stream
        works, reasons = [], []
        for (bm, bn), library in tiles.items():
            result = self.torch.full_like(tensors[out], math.nan)  # its own: what a tile leaves out shows
            parts[out] = result.chunk(groups, AXIS[out])
            try:
                layers = [_layer(*group, before, after, step) for group in zip(*parts.values(), strict=True)]
                plans = [Plan(library, layer) for layer in layers]
                for plan, *ends in zip(plans, parts[a], parts[b], parts[out], strict=True):
                    plan.bind(stream, *ends, result.new_empty(max(1, plan.workspace), dtype=self.torch.uint8))
            except CutlassError as error:
                reasons.append(f"{bm}x{bn}: {error}")
                continue

            def run(plans: list[Plan] = plans, result: Any = result) -> Any:
                for plan in plans:
                    plan.run(stream)
                return result

            works.append(Work(run, join, label, kernel=f"{bm}x{bn}", heat=label))
        if not works:
            raise NotOffered("; ".join(reasons))
        return works

    def _to_depth(self, tensor: Any, step: Any, before: Any, blocks: Any) -> Any:
        """Blocks of `step` pixels of an (N, H, W, C) tensor as channels, from `before` on; outside zeros."""
        (n, h, w, c), (a, b), (rows, columns) = tensor.shape, step, blocks
        sides = (before[1], columns * b - before[1] - w, before[0], rows * a - before[0] - h)
        padded = self.torch.nn.functional.pad(tensor, (0, 0, *sides)).reshape(n, rows, a, columns, b, c)
        return padded.permute(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, a * b * c)


def _from_depth(tensor: Any, step: Any, shape: Any) -> Any:
    """Filters of `shape` (K, R, S, C) of those of blocks."""
    (k, rows, columns, _), (a, b), (_, r, s, c) = tensor.shape, step, shape
    apart = tensor.reshape(k, rows, columns, a, b, c).permute(0, 1, 3, 2, 4, 5)
    return apart.reshape(k, rows * a, columns * b, c)[:, :r, :s]


def _layer(x: Any, w: Any, y: Any, *others: Any) -> Layer:
    return Layer(tuple(x.shape), tuple(w.shape), x.stride(), w.stride(), y.stride(), *map(tuple, others))


def _pair(stride: Any) -> tuple[int, int]:
    return (stride, stride) if isinstance(stride, int) else tuple(stride)


def main() -> int:
    """Compile what is not there; the exit status is 1 where something did not compile."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--headers", type=Path, help="CUTLASS's include folder; default: nvidia-cutlass's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="compilations at a time")
    options = parser.parse_args()
    nvcc, include = compiler.find_nvcc(), options.headers or installed_headers()
    if nvcc is None or include is None:
        raise SystemExit("cutlass_contender.py needs nvcc, and nvidia-cutlass or --headers FOLDER")
    failures = 0
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        made = [pool.submit(build, kernel, include, nvcc) for kernel in KERNELS]
        for future in tqdm(concurrent.futures.as_completed(made), total=len(made), unit="kernel"):
            if error := future.exception():
                failures += 1
                tqdm.write(str(error))
    print(f"{len(made) - failures} of {len(made)} kernels in {path_of(KERNELS[0]).parent}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
