"""The graph of layers, and where its parts lie when several devices share it."""

from .network import Network

__all__ = ["Network"]
