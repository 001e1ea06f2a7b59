"""Use the kernels on PyTorch's tensors: as functions, as layers, and in place of the layers a model has.

    python examples/torch_kernels.py

Needs PyTorch. On a machine with a GPU tensors, kernels and memory are the GPU's.
"""

import torch
from torch import nn

import pyconvnet.torch as pt

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)

# Functions: images in channels_last memory are read as they lie, and so is what comes out.
x = torch.randn(8, 3, 63, 63, device=device).to(memory_format=torch.channels_last)
w = torch.randn(16, 3, 11, 11, device=device, requires_grad=True)
y = pt.lrn_max_pool2d(pt.conv2d(x, w, stride=4, activation="relu"))
y.square().mean().backward()
print("function", tuple(y.shape), "gradient of the filters", tuple(w.grad.shape))

# The layers of a model that is there: the same parameters, the same numbers.
model = nn.Sequential(
    nn.Conv2d(3, 16, 11, stride=4),
    nn.ReLU(),
    nn.LocalResponseNorm(5, alpha=5e-4, k=2.0),
    nn.MaxPool2d(3, 2),
    nn.Conv2d(16, 16, 5, padding=2, groups=2),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(16 * 6 * 6, 4),
).to(device)
with torch.no_grad():
    before = model(x)
    after = pt.replace_layers(model)(x)
print("replaced", [type(layer).__name__ for layer in model])
print("largest difference", float((after - before).abs().max()))

# It trains as any model does: whether the upper half of an image is brighter than the lower.
labels = (x[:, :, :31].mean((1, 2, 3)) > x[:, :, 32:].mean((1, 2, 3))).long()
optimizer, loss = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), pt.CrossEntropyLoss()
for step in range(10):
    optimizer.zero_grad()
    value = loss(model(x), labels)
    value.backward()
    optimizer.step()
    print(f"step {step}  loss {value.item():.4f}")
