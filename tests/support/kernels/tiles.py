"""The tiles of the convolutions, from the reader of the kernel report."""

import sys

from support import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
from report.tiles import LIST, TILES, Tile

__all__ = ["LIST", "TILES", "Tile"]
