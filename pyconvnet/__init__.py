"""pyconvnet: hand-written CUDA kernels for convolutional networks, and a layer network that trains AlexNet.

    import pyconvnet as pcn
    run = pcn.train("digits", "digits")
    pcn.evaluate(run, "digits")

``ops`` are the kernels as functions on arrays; ``models`` the networks by name; ``torch``, where PyTorch is
installed, the kernels on its tensors. Importing the package loads nothing else: every name is looked up when
it is first used. No compiled module is loaded and no GPU touched before a device is asked for.
"""

# ruff: noqa: F401  (names for type checkers)

import importlib
from typing import TYPE_CHECKING, Any

from .common.version import __version__

if TYPE_CHECKING:  # for editors and type checkers; at run time _HOMES says the same
    from . import data, layers, models, ops
    from .common.devices import DeviceUnavailableError, available_devices, get_device
    from .common.files import LockedError
    from .data import ArrayDataset, Augmentation, Cifar10, Digits, ImageFiles, ImageFolder
    from .network import Network
    from .network.preprocessing import Preprocessing
    from .plan.gradients import check_gradients
    from .plan.tune import tune
    from .trained.checkpoint import CheckpointError, load, save
    from .trained.evaluate import Evaluation, evaluate
    from .trained.export import export
    from .trained.model import Model
    from .trained.prediction import predict
    from .trained.predictor import Predictor
    from .training.run import NonFiniteLossError, Run, UnsavedError
    from .training.train import train

#: By module, the public names that it defines. All others are modules of the package.
_HOMES = {
    "common.devices": ("DeviceUnavailableError", "available_devices", "get_device"),
    "common.files": ("LockedError",),
    "data": ("ArrayDataset", "Augmentation", "Cifar10", "Digits", "ImageFiles", "ImageFolder"),
    "network": ("Network",),
    "network.preprocessing": ("Preprocessing",),
    "plan.gradients": ("check_gradients",),
    "plan.tune": ("tune",),
    "trained.checkpoint": ("CheckpointError", "load", "save"),
    "trained.evaluate": ("Evaluation", "evaluate"),
    "trained.export": ("export",),
    "trained.model": ("Model",),
    "trained.prediction": ("predict",),
    "trained.predictor": ("Predictor",),
    "training.run": ("NonFiniteLossError", "Run", "UnsavedError"),
    "training.train": ("train",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_MOVED = {"reference": "ops.reference"}  #: modules by the names they had until 0.1

__all__ = sorted([*_HOME_OF, "__version__", "data", "layers", "models", "ops"])


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name) or _MOVED.get(name, name)
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
