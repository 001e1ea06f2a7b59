"""Draw docs/data-fits.png: what `crop`, `pad` and `squash` leave of an image that is wider than high.

python benchmarks/fits.py docs/data-fits.png
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

GREEN, RED = "#4c8c3f", "#c23b2e"


def scene() -> bytes:
    """A drawing of 3 to 2: a barn in the middle, a tree and a dog towards the sides."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle, Ellipse, Polygon, Rectangle

    figure = Figure(figsize=(6, 4), dpi=100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 6), ylim=(0, 4))
    axes.axis("off")
    shapes: list[Any] = [
        Rectangle((0, 0), 6, 4, color="#a9d3ee"),
        Rectangle((0, 0), 6, 1.3, color="#7fb069"),
        Circle((3, 3.3), 0.35, color="#f6d743"),
        Rectangle((2.2, 1.1), 1.6, 1.1, color=RED),
        Polygon([(2.05, 2.2), (3.95, 2.2), (3, 2.95)], color="#6b3a2e"),
        Rectangle((2.8, 1.1), 0.4, 0.65, color="#4a2a20"),
        Rectangle((5.2, 1.0), 0.22, 1.0, color="#6b4a2e"),
        Circle((5.31, 2.35), 0.62, color=GREEN),
        Ellipse((0.8, 0.85), 1.0, 0.45, color="#8a6240"),
        Circle((0.3, 1.15), 0.25, color="#8a6240"),
        Circle((0.24, 1.2), 0.035, color="black"),
        Polygon([(0.38, 1.35), (0.55, 1.3), (0.5, 1.0)], color="#5d4029"),
        Polygon([(1.25, 0.95), (1.55, 1.35), (1.33, 0.85)], color="#8a6240"),
        *(Rectangle((x, 0.4), 0.1, 0.45, color="#8a6240") for x in (0.45, 0.65, 0.95, 1.12)),
    ]
    for shape in shapes:
        axes.add_patch(shape)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def draw(path: Path) -> None:
    import numpy as np
    from matplotlib.figure import Figure
    from PIL import Image

    from pyconvnet.data import load_image

    content = scene()
    whole = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    panels = {"image": whole, **{fit: load_image(content, 256, fit=fit) for fit in ("crop", "pad", "squash")}}
    figure = Figure(figsize=(9, 2.6), dpi=80, layout="constrained")
    widths = [image.shape[1] / image.shape[0] for image in panels.values()]
    for axes, (name, image) in zip(figure.subplots(1, 4, width_ratios=widths), panels.items(), strict=True):
        axes.imshow(image)
        axes.set_title(f"{name}, {image.shape[1]} x {image.shape[0]}", fontsize=10)
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
