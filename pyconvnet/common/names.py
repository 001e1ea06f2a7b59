"""Which names a package offers."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any


def public_names(namespace: Mapping[str, Any]) -> list[str]:
    """List what a package imports to be read from it, for its ``__all__``: neither modules nor _names."""
    return sorted(n for n, v in namespace.items() if n[0] != "_" and not isinstance(v, ModuleType))
