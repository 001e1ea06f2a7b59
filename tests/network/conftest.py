"""Runs leave no pictures, unless a test asks for ``drawing``."""

from support.drawing import drawing, no_drawing  # noqa: F401
