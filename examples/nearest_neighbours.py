"""Find for some photographs the most similar of a folder, by what a network's last hidden layer says of them.

    python examples/nearest_neighbours.py WEIGHTS FOLDER [QUERIES]

WEIGHTS is whatever pcn.load reads, FOLDER has photographs (in folders, too). The first QUERIES (default 5) of
them are looked up among all; neighbours.png shows each with its four nearest.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import pyconvnet as pcn

weights, folder, queries = sys.argv[1], Path(sys.argv[2]), int([*sys.argv[3:], 5][0])

files = sorted(str(file) for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
files = files[:: max(1, len(files) // queries)][:queries] + files  # the queries first
features = pcn.load(weights).features(files, "fc7")

# As in the paper (section 6.1): by Euclidean distance.
distances = np.linalg.norm(features[:queries, None] - features[None, queries:], axis=2)
nearest = np.argsort(distances, axis=1)[:, 1:5]  # the first is the query itself
figure, axes = plt.subplots(queries, 5, figsize=(10, 2 * queries), squeeze=False)
for query, places in enumerate(nearest):
    print(files[query], "->", ", ".join(files[queries + place] for place in places))
    for axis, file in zip(axes[query], [files[query], *(files[queries + p] for p in places)], strict=False):
        axis.imshow(Image.open(file).convert("RGB"))
        axis.set_title(Path(file).parent.name, fontsize=8)
for axis in axes.flat:
    axis.axis("off")
figure.savefig("neighbours.png", dpi=100)
