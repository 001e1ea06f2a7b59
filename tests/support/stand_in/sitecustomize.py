"""What Python runs at its start where this folder is on PYTHONPATH, as ``benchmarks/on_gpu.sh`` has it for
``PYCONVNET_DEVICE=ptx``: CuPy and ``pyconvnet._cuda`` are then those of :mod:`support.fakes.fake_ptx`, a
stand-in for CUDA that runs the kernels' PTX on the CPU. Nothing is imported before somebody asks for them.
"""

import functools
import importlib.abc
import importlib.machinery
import sys

MODULES = {"cupy": "xp", "pyconvnet._cuda": "ext"}


@functools.cache
def machine():
    """The machine of this process, of the build that ``PYCONVNET_PTX`` names."""
    from support.fakes import fake_cublas, fake_ptx

    made = fake_ptx.from_environment()
    if made is None:
        raise ImportError("PYCONVNET_PTX names no build of tests/ptx/runtime")
    fake_cublas.use(made)
    return made


class StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the machine's modules before those that are installed."""

    def find_spec(self, name, path=None, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name in MODULES else None

    def create_module(self, spec):
        return getattr(machine(), MODULES[spec.name])

    def exec_module(self, module):
        """Nothing is left to do."""


sys.meta_path.insert(0, StandIn())
