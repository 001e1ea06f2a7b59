"""Which kernels the tests of this session launched successfully, on the emulator or a GPU."""

from __future__ import annotations

import functools

from pyconvnet import devices

LAUNCHED: set[str] = set()


def tables(ext) -> dict[str, list[str]]:
    """Operation of the compiled module -> the names in its table of kernels."""
    suffix = "_table"
    return {name.removesuffix(suffix): getattr(ext, name)() for name in dir(ext) if name.endswith(suffix)}


def _recording(function):
    @functools.wraps(function)
    def launch(*args, **kwargs):
        result = function(*args, **kwargs)
        LAUNCHED.add(args[0] if args else kwargs["kernel"])
        return result

    return launch


def start() -> None:
    """Wrap the launching functions of the compiled modules that work here; called once, by conftest."""
    for find in (devices.emulator, devices.cuda):
        try:
            ext = find().ext
        except devices.DeviceUnavailableError:
            continue
        for op in tables(ext):
            setattr(ext, op, _recording(getattr(ext, op)))
