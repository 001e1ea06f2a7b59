"""Runs leave no pictures, unless a test asks for ``drawing``; one run on the digits for all."""

from support.digits import digits_run  # noqa: F401
from support.quick import drawing, quick  # noqa: F401
