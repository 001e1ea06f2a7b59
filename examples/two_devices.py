"""Train a two-tower network on two devices as the paper did, and see that one device says the same.

    python examples/two_devices.py [DEVICE DEVICE]

Default: cuda:0 and cuda:1 where they work, else cpu twice, which runs the same split.
"""

import sys

import numpy as np

import pyconvnet as pcn
from pyconvnet.layers import LRN, Conv2d, Linear, MaxPool2d, SoftmaxCrossEntropy

working = [name for name, reason in pcn.available_devices() if reason is None]
devices = sys.argv[1:] or (["cuda:0", "cuda:1"] if "cuda:1" in working else ["cpu", "cpu"])

net = pcn.Network("towers", input_shape=(8, 8, 1))
net.add(Conv2d(16, 3, pad=1, activation="relu", init="he")).add(LRN(groups=2))
net.add(Conv2d(16, 3, pad=1, groups=2, activation="relu", init="he"))  # each tower sees itself alone
net.add(MaxPool2d()).add(Linear(10, init="he")).add(SoftmaxCrossEntropy())
print(net.partition(devices))

how = {"epochs": 3, "lr": 0.02, "batch_size": 64, "seed": 1}
two = pcn.train(net, "digits", devices=devices, out="runs/towers-on-two", **how)
one = pcn.train(net, "digits", devices=devices[0], out="runs/towers-on-one", **how)
apart = max(np.abs(two.model.parameters[n] - p).max() for n, p in one.model.parameters.items())
print(f"largest difference of a parameter after {how['epochs']} epochs: {apart:.1e}")
