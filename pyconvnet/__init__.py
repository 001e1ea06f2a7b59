"""pyconvnet: hand-written CUDA kernels for convolutional networks, and a layer network that trains AlexNet.

    import pyconvnet as pcn
    run = pcn.train("digits", "digits")
    pcn.evaluate(run, "digits")

``ops`` are the kernels as functions on arrays; ``models`` the networks by name. Importing the package loads
no compiled module and touches no GPU.
"""

from . import data, layers, models, ops
from .checkpoint import CheckpointError, load, save
from .data import ArrayDataset, Augmentation, Cifar10, Digits, ImageFolder
from .devices import DeviceUnavailableError, available_devices, get_device

# Functions named like their modules come after everything that imports those modules, so that the function
# wins.
from .evaluate import Evaluation, evaluate, predict
from .files import LockedError
from .gradients import check_gradients
from .model import Model, Preprocessing
from .network import Network
from .train import NonFiniteLossError, Run, train
from .tune import tune

__version__ = "0.1.0"

__all__ = [
    "ArrayDataset",
    "Augmentation",
    "CheckpointError",
    "Cifar10",
    "DeviceUnavailableError",
    "Digits",
    "Evaluation",
    "ImageFolder",
    "LockedError",
    "Model",
    "Network",
    "NonFiniteLossError",
    "Preprocessing",
    "Run",
    "available_devices",
    "check_gradients",
    "data",
    "evaluate",
    "get_device",
    "layers",
    "load",
    "models",
    "ops",
    "predict",
    "save",
    "train",
    "tune",
]
