"""The check: the table of "One weird trick for parallelizing convolutional neural networks", 2014.

The table's figures are second-hand: 98.05 hours on one GPU, 3.74x on four and 6.25x on eight stand in texts
of third parties, the others come from memory. So does the machine: eight K20s, four on the switch of each of
two processors; about 6 GB/s (PCIe 2.0) between GPUs of one switch, and half of that, through the processors'
memory, between the two switches when all GPUs send at once.
"""

from __future__ import annotations

from typing import Any

from pyconvnet.layers import LRN, Constant, Conv2d, Dropout, Linear, MaxPool2d, SoftmaxCrossEntropy
from pyconvnet.network import Network

from .hardware import GPUS, INSIDE, Fabric, Link
from .strategies import Setting, Strategy, predict

IMAGES, EPOCHS, BATCH = 1_281_167, 90, 128
HOURS = 98.05  # on one GPU
#: (GPUs, batch of the fully connected layers or None for all, speed-up, confirmed by third parties)
TABLE = (
    (2, None, 1.95, False),
    (2, 128, 1.93, False),
    (4, None, 3.74, True),
    (4, 128, 3.66, False),
    (8, None, 6.25, True),
    (8, 128, 6.16, False),
)
#: bytes/s inside a switch and between the two: as stated; and a third of both, the one constant fitted to the
#: table (to its rows without a smaller batch in the fully connected layers, on 2 and on 8 GPUs).
STATED = (6.0e9, 3.0e9)
FITTED = (2.0e9, 1.0e9)


def one_tower(classes: int = 1000) -> Network:
    """The paper's network: one tower, 64-192-384-256-256 filters, 4096-4096 hidden units."""
    one = Constant(1.0)
    net = Network("one_tower", (224, 224, 3))
    net.add(Conv2d(64, 11, stride=4, pad=((0, 3), (0, 3)), activation="relu"), "conv1").add(LRN(), "norm1")
    net.add(MaxPool2d(), "pool1")
    net.add(Conv2d(192, 5, pad=2, activation="relu", bias_init=one), "conv2").add(LRN(), "norm2")
    net.add(MaxPool2d(), "pool2")
    net.add(Conv2d(384, 3, pad=1, activation="relu"), "conv3")
    net.add(Conv2d(256, 3, pad=1, activation="relu", bias_init=one), "conv4")
    net.add(Conv2d(256, 3, pad=1, activation="relu", bias_init=one), "conv5").add(MaxPool2d(), "pool5")
    net.add(Linear(4096, activation="relu", bias_init=one), "fc6").add(Dropout(0.5, "paper"), "drop6")
    net.add(Linear(4096, activation="relu", bias_init=one), "fc7").add(Dropout(0.5, "paper"), "drop7")
    return net.add(Linear(classes), "fc8").add(SoftmaxCrossEntropy(), "loss")


def k20_setting(rates: tuple[float, float], *, overlap: bool = False) -> Setting:
    """Eight K20s on two switches with these rates inside a switch and between them.

    Without overlap: the 2014 code summed gradients after the backward pass.
    """
    inside, between = rates
    pcie = INSIDE["pcie2"]
    near = Link("pcie2", inside, pcie.latency, "one PCIe 2.0 switch; rates in one_weird_trick.py")
    far = Link("host", between, 2 * pcie.latency, "through both processors' memory; rates likewise")
    fabric = Fabric(4, near, far, nics=4)  # `between` is what each GPU has when all send
    return Setting(one_tower(), GPUS["k20"], fabric, algorithm="direct", overlap=overlap)


def check() -> list[dict[str, Any]]:
    """Rows of the table beside the model's speed-ups, and data parallelism on the same machine."""
    rows = []
    settings = {"stated": k20_setting(STATED), "fitted": k20_setting(FITTED)}
    alone = predict(settings["stated"], Strategy("data"), 1, BATCH)
    for gpus, fc_batch, published, confirmed in TABLE:
        row: dict[str, Any] = {
            "gpus": gpus,
            "batch": gpus * BATCH,
            "fc_batch": fc_batch or gpus * BATCH,
            "published": published,
            "published_source": "second-hand" if confirmed else "from memory",
        }
        for name, setting in settings.items():
            hybrid = predict(setting, Strategy("hybrid", fc_batch=fc_batch), gpus, gpus * BATCH)
            data = predict(setting, Strategy("data"), gpus, gpus * BATCH)
            row[f"predicted_{name}"] = hybrid.images_per_second / alone.images_per_second
            row[f"data_parallel_{name}"] = data.images_per_second / alone.images_per_second
        rows.append(row)
    return rows


def one_gpu_hours() -> float:
    """Predicted hours of 90 epochs on one K20."""
    alone = predict(k20_setting(STATED), Strategy("data"), 1, BATCH)
    return IMAGES * EPOCHS / alone.images_per_second / 3600
