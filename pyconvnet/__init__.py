"""pyconvnet: hand-written CUDA kernels for convolutional networks, and a layer network that trains AlexNet.

    import pyconvnet as pcn
    run = pcn.train("digits", "digits")
    pcn.evaluate(run, "digits")

``ops`` are the kernels as functions on arrays; ``models`` the networks by name. Importing the package loads
nothing else: every name is looked up when it is first used. No compiled module is loaded and no GPU touched
before a device is asked for.
"""

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time _HOMES says the same
    from . import data, layers, models, ops
    from .checkpoint import CheckpointError, load, save
    from .data import ArrayDataset, Augmentation, Cifar10, Digits, ImageFiles, ImageFolder
    from .devices import DeviceUnavailableError, available_devices, get_device
    from .evaluate import Evaluation, evaluate
    from .files import LockedError
    from .gradients import check_gradients
    from .model import Model, Preprocessing
    from .network import Network
    from .prediction import predict
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
    "ImageFiles",
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

#: By module, the public names that it defines. All others are modules of the package.
_HOMES = {
    "checkpoint": ("CheckpointError", "load", "save"),
    "data": ("ArrayDataset", "Augmentation", "Cifar10", "Digits", "ImageFiles", "ImageFolder"),
    "devices": ("DeviceUnavailableError", "available_devices", "get_device"),
    "evaluate": ("Evaluation", "evaluate"),
    "files": ("LockedError",),
    "gradients": ("check_gradients",),
    "model": ("Model", "Preprocessing"),
    "network": ("Network",),
    "prediction": ("predict",),
    "train": ("NonFiniteLossError", "Run", "train"),
    "tune": ("tune",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name, name)
    if home.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = importlib.import_module(f"{__name__}.{home}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{home}":
            raise  # something that the module needs
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    if name in _HOME_OF:
        value = globals()[name] = getattr(value, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(types.ModuleType):
    """The package: a module that is imported does not take the place of a function of its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, types.ModuleType) and name in _HOME_OF):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
