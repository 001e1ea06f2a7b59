"""A trained network with all it needs to see an image: parameters, preprocessing, class names."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..common.checks import flag
from ..common.devices import get_device
from ..data.images import image_size
from ..network.convolutional import fully_convolutional
from ..network.network import Network
from ..network.preprocessing import Preprocessing, check_parameters
from ..plan.plan import Plan
from .checkpoint_file import write_file
from .features import features
from .probabilities import predict_proba


@dataclass
class Model:
    """Network + parameters + preprocessing + class names.

    Attributes
    ----------
    network : Network
    parameters : dict of str to np.ndarray
        By full name (``conv1.weight``), whole and unsplit, float32. Those of a loaded or trained model are
        read-only: to change one, put another array in its place.
    preprocessing : Preprocessing
    classes : list of str
        Names of the outputs, in order.
    info : dict
        JSON-ready notes on the training: epoch, step, validation error...
    class_names_given : bool
        False where `classes` are numbers made up for want of names, see `data.Dataset`.
    """

    network: Network
    parameters: dict[str, np.ndarray]
    preprocessing: Preprocessing
    classes: list[str] = field(default_factory=list)
    info: dict[str, Any] = field(default_factory=dict)
    class_names_given: bool = True

    def __post_init__(self) -> None:
        check_parameters("Model", self.network, self.parameters)
        self.classes = [str(c) for c in self.classes]
        self.class_names_given = flag("Model", "class_names_given", self.class_names_given)
        if len(self.classes) > self.outputs:
            raise ValueError(
                f"Model: classes holds {len(self.classes)} names, "
                f"but network {self.network.name!r} has {self.outputs} outputs"
            )
        if tuple(self.preprocessing.input_shape) != self.network.input_shape:
            raise ValueError(
                f"Model: preprocessing makes inputs of shape {self.preprocessing.input_shape}, "
                f"network {self.network.name!r} takes {self.network.input_shape}"
            )

    def __repr__(self) -> str:
        return f"Model({self.network!r}, {len(self.classes)} classes)"

    @property
    def outputs(self) -> int:
        """Number of classes the network tells apart, at one place or, of :meth:`at_size`, at many."""
        network = self.network
        shape = network[network.output].output_shape if len(network) else ()
        return shape[2] if len(shape) == 3 else network.classes

    def at_size(self, size: int | tuple[int, int]) -> Model:
        """Return the model for images of another size, at least the one its network was trained on: fully
        connected layers become convolutions, see :func:`pyconvnet.network.convolutional.fully_convolutional`.

        It is evaluated, asked and saved like any other. The network looks at every place of the whole image
        where it fits, and the probabilities are the mean over places; ``features(images, network.output)``
        has the scores of each place, (n, h, w, classes). A mean image becomes its mean pixel. With
        ``views=10`` the image and its mirror image are averaged: no crops are left.

        Parameters
        ----------
        size : int or (H, W)
            Of the images, after preparation.

        Raises
        ------
        ValueError, TypeError
            Too small, or no size.
        """
        height, width = image_size("at_size", size)
        network = fully_convolutional(self.network, (height, width))
        mean = self.preprocessing.mean
        pixel = mean.mean(axis=(0, 1), dtype=np.float64) if mean is not None and mean.ndim == 3 else mean
        shape = (height, width, self.preprocessing.image_shape[2])
        preprocessing = Preprocessing(shape, None, pixel, self.preprocessing.scale)
        values = {name: self.parameters[name].reshape(p.shape) for name, p in network.parameters().items()}
        info = {**self.info, "at_size": [height, width]}
        classes, given = list(self.classes), self.class_names_given
        return Model(network, read_only(values), preprocessing, classes, info, given)

    def plan(self, device: Any = None, batch_size: int = 128, *, train: bool = False, **options: Any) -> Any:
        """Make the model ready to run on a device, or on several: a :class:`pyconvnet.plan.Plan` with its
        parameters and preprocessing, which takes the ``options``, too.
        """
        plan = Plan(self.network, device, batch_size, train=train, initialise=False, **options)
        plan.set_parameters(self.parameters)
        plan.set_preprocessing(self.preprocessing)
        return plan

    @contextlib.contextmanager
    def kept_plan(self, device: Any = None, batch_size: int = 128, **options: Any) -> Iterator[Any]:
        """Lend a :meth:`plan` for inference: the last where it serves, else a new one, kept for next time.

        One plan is kept. While it is in use another thread gets one of its own. Parameters that may have
        changed since are set again: all but the same read-only arrays as then. :meth:`release` gives the
        memory back.
        """
        places = device if isinstance(device, (list, tuple)) else [device]
        key = ([get_device(place) for place in places], options, list(self.network))
        kept = self.__dict__.pop("_kept", None)
        if kept is not None and (kept.key != key or kept.plan.batch_size < batch_size):
            kept = None  # its memory is free before the next one takes its own
        if kept is None:
            kept = _Kept(self.plan(places, batch_size, **options), key, dict(self.parameters))
        else:
            if not kept.holds(self.parameters):
                kept.plan.set_parameters(self.parameters)
                kept.parameters = dict(self.parameters)
            kept.plan.set_preprocessing(self.preprocessing)
        yield kept.plan
        self._kept = kept  # not after an error

    def features(
        self,
        images: Any,
        layer: str,
        *,
        batch_size: int = 128,
        device: Any = None,
        precision: str = "fp32",
        replicas: int = 1,
        hybrid: bool = False,
    ) -> np.ndarray:
        """Return what a layer makes of images, as it leaves the layer: with the layer's own ReLU, before
        another layer's dropout.

        Parameters
        ----------
        images : one image, a sequence of them, or a Dataset
            As :func:`pyconvnet.predict` takes them; of each the centre crop.
        layer : str
            Such as "fc7", the paper's (section 6.1).
        batch_size, device, precision, replicas, hybrid :
            As in :func:`pyconvnet.predict`.

        Returns
        -------
        (n, ...) float32
            The layer's output, (H, W, C) or (outputs,), of each image; of one image without the first axis.

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            No such layer; images as in :func:`pyconvnet.predict`.
        """
        how = {"precision": precision, "replicas": replicas, "hybrid": hybrid}
        return features(self, images, layer, batch_size=batch_size, device=device, **how)

    def predict_proba(
        self,
        images: Any,
        *,
        views: int = 1,
        batch_size: int = 128,
        device: Any = None,
        precision: str = "fp32",
        replicas: int = 1,
        hybrid: bool = False,
    ) -> np.ndarray:
        """Return the probabilities of all classes, in the order of :attr:`classes`.

        Parameters
        ----------
        images : one image or a sequence of them
            As :func:`pyconvnet.predict` takes them.
        views, batch_size, device, precision, replicas, hybrid :
            As in :func:`pyconvnet.predict`.

        Returns
        -------
        (n, outputs) float64
            The mean softmax over the views; of one image (outputs,).

        Raises
        ------
        ValueError, TypeError, FileNotFoundError
            As of :func:`pyconvnet.predict`.
        """
        how = {"precision": precision, "replicas": replicas, "hybrid": hybrid}
        return predict_proba(self, images, views=views, batch_size=batch_size, device=device, **how)

    def release(self) -> None:
        """Give back the memory of the plan that is kept."""
        self.__dict__.pop("_kept", None)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_kept"}

    def save(self, path: str | Path) -> Path:
        """Write the model to a safetensors file, atomically."""
        return write(path, self)

    def class_name(self, index: int) -> str:
        """Name of an output, or its number where it has none."""
        return self.classes[index] if index < len(self.classes) else str(index)


@dataclass
class _Kept:
    """A plan, what it was made for, and the parameters that it holds."""

    plan: Any
    key: tuple
    parameters: dict[str, np.ndarray]

    def holds(self, parameters: Mapping[str, np.ndarray]) -> bool:
        """Tell whether these are certainly the parameters that the plan holds: the same arrays, which nobody
        can have changed in place.
        """
        return self.parameters.keys() == parameters.keys() and all(
            value is self.parameters[name] and value.flags.owndata and not value.flags.writeable
            for name, value in parameters.items()
        )


def read_only(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays, each in memory of its own that is read-only from now on."""
    own = {name: value if value.flags.owndata else value.copy() for name, value in parameters.items()}
    for value in own.values():
        value.flags.writeable = False
    return own


def write(
    path: str | Path,
    model: Model,
    state: Mapping[str, Any] | None = None,
    arrays: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write a model, and with ``state`` (JSON-ready) and ``arrays`` (named ``momentum/...``, ``state/...``) a
    training state.
    """
    tensors = {f"parameter/{name}": np.ascontiguousarray(value) for name, value in model.parameters.items()}
    if model.preprocessing.mean is not None:
        tensors["preprocessing/mean"] = model.preprocessing.mean
    for name, value in (arrays or {}).items():
        tensors[name] = np.ascontiguousarray(value)
    header = {
        "network": model.network.to_dict(),
        "preprocessing": model.preprocessing.to_dict(),
        "classes": model.classes,
        "class_names_given": model.class_names_given,
        "info": model.info,
        "state": None if state is None else dict(state),
    }
    return write_file(path, header, tensors)
