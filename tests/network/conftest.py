"""Runs leave no pictures, unless a test asks for ``drawing``."""

from support.quick import drawing, quick  # noqa: F401
