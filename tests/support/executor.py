"""The executor of PTX (tests/ptx) for tests: built by CMake once a session, called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np

from support import ROOT

SOURCES = ROOT / "tests" / "ptx"


def missing() -> str | None:
    """Why the executor cannot be built here; None where it can."""
    tools = [tool for tool in ("cmake", "c++") if not shutil.which(tool)]
    return f"the executor of PTX needs {', '.join(tools)}" if tools else None


def build(folder: Path, quick: bool = False) -> None:
    """Build the executor's library in ``folder``; `quick`: to be compiled, not to run, in little time."""
    options = ["-G", "Ninja"] if shutil.which("ninja") else []
    options += [f"-DPTX_QUICK={'ON' if quick else 'OFF'}"]
    commands = [
        ["cmake", "-S", str(SOURCES), "-B", str(folder), *options],
        ["cmake", "--build", str(folder), "--parallel", "2", "--target", "ptx_c"],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


class Fault(RuntimeError):
    """What the executor refuses: a text it does not know, or a kernel that breaks a rule."""


class Machine:
    """Run the kernels of one PTX module on NumPy arrays.

    ``async_`` is 0 late, 1 early, 2 random; ``order`` of the warps 0 forward, 1 reverse, 2 random.
    """

    def __init__(self, folder: Path, source: str, name="test.ptx", **options):
        self.lib = ctypes.CDLL(str(next(folder.glob("libptx_c.*"))))
        for function in ["ptx_load", "ptx_check", "ptx_kernels", "ptx_add", "ptx_run"]:
            getattr(self.lib, function).restype = ctypes.c_char_p
        self.lib.ptx_new.restype = self.lib.ptx_global.restype = ctypes.c_void_p
        self.handle = ctypes.c_void_p(self.lib.ptx_new())
        self._check(self.lib.ptx_load(self.handle, source.encode(), name.encode()))
        self.configure(**options)

    def __del__(self):
        if hasattr(self, "handle"):
            self.lib.ptx_delete(self.handle)

    def configure(self, async_=0, order=0, seed=1, threads=1, max_instructions=1 << 24):
        self.lib.ptx_options(
            self.handle, async_, order, ctypes.c_uint64(seed), threads, ctypes.c_uint64(max_instructions)
        )

    @staticmethod
    def _check(error):
        if error is not None:
            raise Fault(error.decode())

    def kernels(self) -> list[str]:
        return self.lib.ptx_kernels(self.handle).decode().split()

    def check(self):
        """Decode all kernels; raise Fault at an unknown form."""
        self._check(self.lib.ptx_check(self.handle))

    def info(self, kernel: str) -> dict[str, int]:
        out = (ctypes.c_uint64 * 7)()
        assert self.lib.ptx_info(self.handle, kernel.encode(), out), kernel
        names = [
            "param_bytes",
            "static_shared",
            "dynamic_shared",
            "local_bytes",
            "max_threads",
            "min_blocks",
            "target",
        ]
        return dict(zip(names, out, strict=True))

    def global_bytes(self, name: str) -> np.ndarray:
        """The memory of a module's variable, as bytes."""
        size = ctypes.c_uint64()
        pointer = self.lib.ptx_global(self.handle, name.encode(), ctypes.byref(size))
        assert pointer, name
        return np.ctypeslib.as_array((ctypes.c_uint8 * size.value).from_address(pointer))

    def run(self, *args, kernel=None, grid=1, block=32, dynamic=0, fresh=(), constant=()):
        """Launch with arrays (by address), ints (4 bytes), floats (4) and bytes as parameters.

        Arrays that are in ``fresh`` count as never written, those in ``constant`` may not be.
        """
        kernel = kernel or self.kernels()[0]
        packed = b""
        for arg in args:
            piece, align = arg, 1
            if isinstance(arg, np.ndarray):
                piece, align = struct.pack("<Q", arg.ctypes.data), 8
            elif isinstance(arg, int):
                piece, align = struct.pack("<I", arg & 0xFFFFFFFF), 4
            elif isinstance(arg, float):
                piece, align = struct.pack("<f", arg), 4
            elif len(arg) >= 64:
                align = 64
            packed += bytes(-len(packed) % align) + piece
        arrays = {a.ctypes.data: a for a in args if isinstance(a, np.ndarray)}
        for pointer, a in arrays.items():
            fresh_one, read_only = (any(a is b for b in group) for group in (fresh, constant))
            self._check(
                self.lib.ptx_add(
                    self.handle,
                    ctypes.c_void_p(pointer),
                    ctypes.c_uint64(a.nbytes),
                    not fresh_one,
                    not read_only,
                )
            )
        three = [(ctypes.c_uint32 * 3)(*(*np.atleast_1d(n), 1, 1)[:3]) for n in (grid, block)]
        try:
            self._check(
                self.lib.ptx_run(
                    self.handle,
                    kernel.encode(),
                    *three,
                    ctypes.c_uint64(dynamic),
                    packed,
                    ctypes.c_uint64(len(packed)),
                )
            )
        finally:
            for pointer in arrays:
                self.lib.ptx_remove(self.handle, ctypes.c_void_p(pointer))

    def stats(self) -> dict[str, int]:
        out = (ctypes.c_uint64 * 4)()
        self.lib.ptx_stats(self.handle, out)
        return dict(zip(["launches", "blocks", "warp_instructions", "lane_instructions"], out, strict=True))
