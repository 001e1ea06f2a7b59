"""The kernels that are a line of ``kernels/conv/tiles.inc``, each as a file of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LIST = Path(__file__).parents[2] / "kernels" / "conv" / "tiles.inc"
_LINE = re.compile(
    r"^(PCN_(FPROP|DGRAD|WGRAD)_(MMA|TILE|ROWS|MMA_BF16|WGMMA|WGMMA_BF16)\((\w+), .*\))  // \S", re.MULTILINE
)


@dataclass(frozen=True)
class Tile:
    """A line of the list."""

    stem: str
    line: str
    header: str  # under kernels/, of the macro that makes the kernel of the line

    def write(self, folder: Path) -> Path:
        """Write the file that makes this kernel alone; returns its path."""
        path = folder / Path(self.header).parent / f"{self.stem}.cu"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'#include "{self.header}"\n\nnamespace pcn {{\n{self.line}\n}}  // namespace pcn\n')
        return path

    @property
    def threads(self) -> int:
        """Threads of a block, as the line says."""
        return int(self.line.split(",")[1])


def _tile(line: str, direction: str, kind: str, stem: str) -> Tile:
    before = "hopper/" if kind.startswith("WGMMA") else "mma_" if kind.startswith("MMA") else ""
    return Tile(stem, line, f"conv/{before}{direction.lower()}.h")


TILES = [_tile(*found) for found in _LINE.findall(LIST.read_text())]
