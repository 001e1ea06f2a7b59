"""A network made ready to run: buffers, prepared calls, their order on the devices."""

from .plan import Plan

__all__ = ["Plan"]
