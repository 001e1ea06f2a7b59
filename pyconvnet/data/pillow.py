"""Pillow as this process has set it up: which files it reads, and the state that decides how it reads them.

Plugins and settings are Pillow's own globals, which a script changes where it likes
(``ImageFile.LOAD_TRUNCATED_IMAGES = True``, ``register_heif_opener()``). Decoding in another process must
give the same pixels, so `state` and `take_over` carry them there.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from typing import Any

from PIL import Image

# Formats that Pillow opens, or at least recognises, and that are no pictures.
_RUNS_PROGRAMS = "a drawing, which other programs would have to be run to render"
_NOT_PICTURES = {
    "EPS": _RUNS_PROGRAMS,
    "WMF": _RUNS_PROGRAMS,
    "MPEG": "a video, of which Pillow reads no more than the size",
    "BUFR": "data, which Pillow recognises but cannot read",
    "GRIB": "data, which Pillow recognises but cannot read",
    "HDF5": "data, which Pillow recognises but cannot read",
}
_SETTING = (bool, int, float, str, type(None))  # enumerations of Pillow's are integers
_names: dict[str, tuple[str, ...]] = {}  # module -> names of its settings


def suffixes() -> dict[str, str]:
    """Return suffixes of files that Pillow with this process's plugins reads pictures from: ".jpg" -> "JPEG".

    The first call loads all of Pillow's plugins (0.1 s).
    """
    registered = Image.registered_extensions()
    # MPO has no entry of its own: the JPEG plugin opens it.
    return {
        suffix: form
        for suffix, form in registered.items()
        if (form in Image.OPEN or form == "MPO") and form not in _NOT_PICTURES
    }


def refused_format(form: str | None) -> str | None:
    """Tell why files of a format, whatever their names, are not read; None for pictures."""
    return _NOT_PICTURES.get(form or "")


def bombs_are_errors() -> bool:
    """Tell whether the filters of warnings make Pillow's warning of a decompression bomb an error."""
    for action, message, category, module, _ in warnings.filters:
        if message is None and module is None and issubclass(Image.DecompressionBombWarning, category):
            return action == "error"
    return False


def state() -> dict[str, Any]:
    """Return what of this process decides how Pillow decodes a file; equal states decode alike.

    Formats and decoders, with the order in which they are tried, and every plain value in capitals of
    Pillow's modules and those of other plugins. It is pickled by reference: a plugin must be importable.
    """
    modules = {"PIL.Image", "PIL.ImageFile", *(factory.__module__ for factory, _ in Image.OPEN.values())}
    return {
        "order": list(Image.ID),
        "open": dict(Image.OPEN),
        "decoders": dict(Image.DECODERS),
        "settings": {
            (module, name): getattr(sys.modules[module], name)
            for module in sorted(modules)
            if module in sys.modules  # PIL.ImageFile is not before the first image is opened
            for name in _settings_of(module)
        },
        "bombs": bombs_are_errors(),
    }


def _settings_of(module: str) -> tuple[str, ...]:
    if module not in _names:
        _names[module] = tuple(
            name
            for name, value in vars(sys.modules[module]).items()
            if name.isupper() and not name.startswith("_") and isinstance(value, _SETTING)
        )
    return _names[module]


def take_over(state: dict[str, Any]) -> None:
    """Make this process decode as the one does that `state` comes from."""
    Image.ID[:] = state["order"]
    for registry, entries in ((Image.OPEN, state["open"]), (Image.DECODERS, state["decoders"])):
        registry.clear()
        registry.update(entries)
    for (module, name), value in state["settings"].items():
        setattr(importlib.import_module(module), name, value)
    warnings.simplefilter("error" if state["bombs"] else "ignore", Image.DecompressionBombWarning)
