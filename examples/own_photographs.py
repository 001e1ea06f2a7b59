"""Teach a trained network the classes of your own photographs: its last layer is replaced by a new one.

    python examples/own_photographs.py WEIGHTS FOLDER [EPOCHS]

WEIGHTS is whatever pcn.load reads: a checkpoint of a run, torchvision's alexnet, Caffe's bvlc_alexnet.
FOLDER has a folder of photographs for each class. A fifth of them is held out to see how good it becomes.
"""

import sys

import pyconvnet as pcn

weights, folder, epochs = sys.argv[1], sys.argv[2], int([*sys.argv[3:], 10][0])

model = pcn.load(weights)
run = pcn.train(
    model,
    folder,
    new_head=True,  # as many outputs as there are folders, named like them
    freeze="conv",  # the convolutions keep their weights; with few photographs that is better, and faster
    validation=0.2,
    epochs=epochs,
    batch_size=16,
    lr=0.001,
    out="runs/own_photographs",
)
print(f"{len(run.model.classes)} classes: {', '.join(run.model.classes)}")
print(f"validation error {run.history[-1]['validation_error']:.1%} after {epochs} epochs")
print("now: pyconvnet predict runs/own_photographs PHOTOGRAPHS")
