"""``train()``: from a network and data to a trained model in a folder."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import models
from ..common.checks import channels_first_hint, check_number, flag
from ..common.devices import Device, get_device
from ..common.text import cut
from ..data import Dataset, split
from ..data.dataset import reading_of
from ..data.matching import check_reading, output_numbers, renumbered
from ..data.sources import given_options, open_pair
from ..layers.initialisers import initialiser
from ..network.network import Network
from ..network.preprocessing import check_parameters
from ..trained.model import Model
from .head import kept_augmentation, told, with_new_head, with_rates
from .ranks import Ranks, current
from .run import NonFiniteLossError, Run
from .run_folder import opened
from .settings import Settings, check_options, check_rhythm, make_settings
from .tensorboard import require as require_tensorboard

__all__ = ["NonFiniteLossError", "Run", "train"]

_HELD_OUT = 0.1  # of the training images, where the recipe needs validation and none is given


def train(
    model: Network | Model | str,
    data: Any,
    *,
    validation: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    schedule: Any = None,
    precision: str = "fp32",
    devices: Any = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resume: bool | str = False,
    augment: Any = None,
    init: Any = None,
    stop_after: int | None = None,
    class_weights: Any = None,
    balance: bool | None = None,
    progress: bool = True,
    workers: int | None = None,
    keep_on_device: bool = False,
    checkpoint_minutes: float | None = 10.0,
    checkpoint_batches: int | None = None,
    keep: int = 1,
    tensorboard: bool = False,
    replicas: int = 1,
    hybrid: bool = False,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    on_error: str | None = None,
    max_pixels: int | None = None,
    new_head: bool = False,
    freeze: str | Sequence[str] | None = None,
    layer_rates: Mapping[str, float] | None = None,
) -> Run:
    """Train a network.

    Options left at None take the resumed run's value, else the network's own recipe, else the default named
    below.

    Started by ``mpirun`` in several processes, on one host or more, all of them train one network together:
    each works on its share of every batch, the gradients are summed, and rank 0 alone writes files and shows
    progress. All must be given the same arguments. The run is the one a single process would make, but for
    the rounding of sums.

    Parameters
    ----------
    model : Network, Model or str
        A network, a name of :mod:`pyconvnet.models` (built for the data's classes), or a loaded model to go
        on from: where it knows all the classes of the data, or the data have no class names, its outputs keep
        their names and the labels follow them; else its outputs get the data's names.
    data : Dataset, str, path or (x, y)
        Training images: a :class:`pyconvnet.data.Dataset`, ``"digits"``, a folder of class folders or of
        CIFAR-10, arrays (n, H, W, C) and (n,), a list of (image file, label), or a dataset or DataLoader of
        PyTorch's; see :func:`pyconvnet.data.open_dataset`.
    validation : same as data, or float, optional
        Validation images, or the share of the training images to hold out; False: none. Files are read as the
        training images are. Default: what the data bring along, if any; else, where the network's own recipe
        has a schedule that watches the validation error, a tenth, which is said.
    epochs, batch_size : int
        Defaults 10 and 128. A batch is that of one step, over all devices and processes.
    lr, momentum, weight_decay : float
        As in the paper, section 5: v <- momentum v - weight_decay lr w - lr gradient; w <- w + v. Defaults
        0.01, 0.9, 0.0005.
    schedule : optional
        "constant" (the default), pairs ``[(epoch, factor), ...]``, "plateau" (divide by ten when validation
        error stops falling), "warmup:5" (begin with a small rate; "warmup:5,then=plateau"), a function of the
        epoch; see :func:`pyconvnet.training.schedules.schedule`.
    precision : "fp32", "tf32", "fp32x3" or "bf16"
        Arithmetic of the products in convolutions and fully connected layers, on GPUs with tensor cores: see
        :mod:`pyconvnet.ops.conv`. Parameters, activations and sums are float32 in the first three; in "bf16"
        activations, their gradients and the weights that products read are bfloat16, the parameters that are
        trained and saved are float32: see :mod:`pyconvnet.common.precision`. A resumed run may change it.
    devices : str, Device or a list of them, optional
        Default: ``cuda:0`` where it works (of several processes on a host, each takes its own GPU), else
        ``cpu``. Several devices share each network, see :meth:`pyconvnet.Network.partition`; a device may
        be named more than once.
    seed : int
        Of parameters, order, augmentation and dropout; default 0. The same seed gives the same bits on the
        same device.
    out : path, optional
        Folder for checkpoints and log. Default: ``runs/NAME``, or the first free of ``runs/NAME-2``, ``-3``,
        ...
    resume : bool or "auto"
        Go on from ``out/last.safetensors``, to the same bits as a run never stopped (with another
        ``batch_size``: from the same example, to other bits). "auto" starts afresh where there is none, as
        after a run that ended before its first checkpoint: for restart scripts.
    augment : pyconvnet.data.Augmentation or dict, optional
        Default: the recipe's, else subtract the mean image.
    init : str or Initialiser, optional
        Initial values of all weights, with biases at zero: "he", "he_uniform", "glorot", "orthogonal", ...;
        see :class:`pyconvnet.Network` and :func:`pyconvnet.layers.initialiser`. Default: the network's own.
    stop_after : int, optional
        End the run after so many epochs in a row without a lower validation error (or an equal one with a
        lower loss: what makes ``best.safetensors`` anew); 0, the default, never does.
    class_weights : sequence, dict or "balanced", optional
        Factors on the training loss of each class's examples, and on its gradient: one a class, or by class
        name (1 for the others), or such that all classes weigh the same; see
        :func:`pyconvnet.training.class_weights.class_weights`. The loss is still divided by the number of
        examples.
    balance : bool, optional
        Draw every class equally often, whatever its share of the images: an epoch is as long as without, but
        shows the images of small classes several times and leaves out some of the large ones, others each
        time. Default False.
    progress : bool
        Show a progress bar (plain lines where there is no terminal).
    workers : int, optional
        Processes that decode images. Default: enough for this machine where images must be decoded, else 0;
        0, with a warning, for a dataset whose class is defined in the script itself or a notebook.
    keep_on_device : bool
        Before the first step read all images, those for validation too, into the memory of the devices that
        take images; steps then send indices, and the run has the same bits. For sets that fit: CIFAR-10 is
        150 MB, ten thousand images of 256 x 256 are 2 GB. Each process keeps the whole set. A resumed run may
        choose anew.
    checkpoint_minutes, checkpoint_batches : optional
        Write ``last.safetensors`` also within epochs, after so many minutes or batches. None: not by that
        measure. The file is written while training goes on; a checkpoint that is due while the one before is
        still being written waits for it, the steps do not.
    keep : int
        Checkpoints kept. From 2 on the newest so many also have names of their own, such as
        ``step-000001234.safetensors``.
    tensorboard : bool
        Also write the log's figures for TensorBoard, to ``out/tensorboard``; needs tensorboardX.
    replicas : int
        Copies of the network among ``devices``, each with its share of the batch; must divide their number.
    hybrid : bool
        With replicas: replicate the convolutional layers only, and split the fully connected ones over all
        devices.
    image_size, channels, on_error, max_pixels : optional
        Of images read from files, see :class:`pyconvnet.data.ImageFiles`; defaults 256, 3, "skip", 100
        million. Of other images, whose size is their own, nothing else can be asked. A resumed run keeps
        them.
    new_head : bool
        Give a loaded model a last layer for the data's classes, whatever its own were, from initial values;
        all other layers keep their parameters, and the run says so. Unless ``augment`` says otherwise, images
        are prepared as the model's were: its size, crop, mean and scale, which go with its parameters.
    freeze : "conv", "all" or names of layers, optional
        Layers that do not learn: those before the first fully connected one, all but the last, or those
        named. Of a loaded model, images are prepared as for ``new_head``. Given again when the run goes on.
    layer_rates : dict, optional
        Factors on the learning rate by layer, on those that the layers have: names, or "conv", "fc" (from the
        first fully connected one on) and "head" for several; ``{"conv": 0.1, "head": 10}``.

    Returns
    -------
    Run

    Raises
    ------
    ValueError, TypeError
        An option that makes no sense, data that do not fit the network, an ``out`` that holds another run;
        with ``keep_on_device``, images that do not fit the memory.
    FileNotFoundError
        Nothing at the path, nothing to resume.
    CheckpointError
        (a ValueError) What is to be resumed is damaged.
    LockedError
        (a RuntimeError) Another process, or another call in this one, trains in ``out``.
    ImportError
        ``tensorboard=True`` without tensorboardX.
    UnsavedError
        (an OSError) The end of the run cannot be written, for want of room say; the file is named, the last
        checkpoint is whole, and the error's ``run`` is what would have been returned.
    OSError
        Not even the first checkpoint can be written.
    NonFiniteLossError
        The loss became NaN or infinite; the checkpoints on disk are the last good ones.
    """
    ranks = current()
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "seed": seed,
        "init": init,
        "stop_after": stop_after,
        "class_weights": class_weights,
        "balance": balance,
    }
    with ranks.guard(), contextlib.ExitStack() as stack:
        with ranks.together():
            check_options({k: v for k, v in given.items() if v is not None}, precision, resume, progress)
            check_rhythm(workers, checkpoint_minutes, checkpoint_batches, keep)
            keep_on_device = flag("train", "keep_on_device", keep_on_device)
            if flag("train", "tensorboard", tensorboard):
                require_tensorboard()
            if isinstance(model, str) and model not in models.names():
                models.build(model)  # raises, naming the models there are
            elif not isinstance(model, (Network, Model, str)):
                raise TypeError(
                    f"train: model must be a Network, a Model or a name, got {type(model).__name__}"
                )
            if flag("train", "new_head", new_head) and not isinstance(model, Model):
                what = repr(model) if isinstance(model, str) else "a Network"
                raise ValueError(f"train: new_head is for a loaded model, a Model, got {what}")
            hybrid, places = flag("train", "hybrid", hybrid), _devices(devices, replicas, ranks)
            name = model if isinstance(model, str) else _network_of(model).name
            held = stack.enter_context(opened(out, resume, name)) if ranks.main else None
        folder, saved = ranks.broadcast(held)  # the other hosts may not see rank 0's files
        with ranks.together():
            asked = given_options(
                size=image_size, channels=channels, on_error=on_error, max_pixels=max_pixels
            )
            as_before = isinstance(model, Model) and (new_head or freeze is not None)
            known = reading_of(model.preprocessing.image_shape) if as_before else {}
            train_set, validation_set, share = _data(data, validation, seed, saved, asked, known)
            loaded = model
            if new_head:
                names, named = train_set.classes, train_set.class_names_given
                model = with_new_head(model, names, named, _seed(seed, saved))
            network, start = _network(model, train_set, saved)
            network = with_rates(network, freeze, layer_rates)
            train_set, validation_set = _match_labels(model, saved, train_set, validation_set)
            network = _with_init(network, init, model, saved)
            if as_before and augment is None and saved is None:
                augment, mean = kept_augmentation(model, train_set.image_shape), model.preprocessing.mean
            else:
                mean = None
            settings = make_settings(network, given, augment, saved, train_set)
            settings.mean = mean
            if new_head or freeze is not None:
                before = loaded.network if new_head and saved is None else None
                settings.told = told(network, before, train_set.classes)
            settings.validation, settings.images = share, train_set.reading
            if validation is None and validation_set is None and given["schedule"] is None and saved is None:
                train_set, validation_set = _hold_out(train_set, settings)
            settings.workers = _workers(workers, train_set, ranks)
            settings.checkpoint_minutes, settings.checkpoint_batches = checkpoint_minutes, checkpoint_batches
            settings.progress, settings.keep = progress, keep
            settings.tensorboard, settings.keep_on_device = tensorboard, keep_on_device
            settings.replicas, settings.hybrid, settings.precision = replicas, hybrid, precision
            settings.init = network.init
            _check_fit(network, train_set, validation_set, settings, ranks)
            if settings.note and ranks.main and not progress:
                warnings.warn(f"train: {settings.note}", UserWarning, stacklevel=2)
        if saved is None:
            start = ranks.broadcast(start)
        from .loop import Trainer

        trainer = Trainer(network, train_set, validation_set, settings, places, folder, start, saved, ranks)
        return trainer.run()


def _devices(devices: Any, replicas: Any, ranks: Ranks) -> list[Device]:
    check_number("train: replicas", replicas, "positive int")
    if devices is None:
        devices = [_own_device(ranks)]
    elif not isinstance(devices, (list, tuple)):
        devices = [devices]
    if not devices:
        raise ValueError("train: devices must name at least one device, got an empty list")
    if len(devices) % replicas:
        raise ValueError(f"train: replicas must divide the number of devices, {len(devices)}, got {replicas}")
    return [get_device(device) for device in devices]


def _own_device(ranks: Ranks) -> Device:
    """Choose the default: of several ranks on a host, each takes the GPU of its number there."""
    first = get_device(None)
    return get_device(f"cuda:{ranks.local_rank}") if first.kind == "cuda" else first


def _seed(seed: int | None, saved: Any) -> int:
    return seed if seed is not None else 0 if saved is None else saved[1]["options"]["seed"]


def _data(
    data: Any,
    validation: Any,
    seed: int | None,
    saved: Any,
    asked: Mapping[str, Any],
    known: Mapping[str, Any],
) -> tuple[Dataset, Dataset | None, float | None]:
    """Open training and validation images, tell the share held out; `asked`: options of `ImageFolder`;
    `known`: those of a loaded model.
    """
    reading = {**known, **asked}
    if saved is not None:
        old = saved[1]["options"]
        known = reading_of(saved[0].preprocessing.image_shape)
        images = old.get("images") or {}
        if "on_error" in images:  # files; a run of the time before there were others decoded with Pillow
            images = {"decoder": "pillow", **images}
        reading = {**known, **images, **asked}
        validation = old.get("validation") if validation is None else validation
        seed = old["seed"] if seed is None else seed
    train_set, validation_set = open_pair(data, validation, seed or 0, reading)
    check_reading(train_set.reading, asked, train_set.name)
    share = isinstance(validation, (int, float, np.number)) and not isinstance(validation, bool)
    return train_set, validation_set, float(validation) if share else None


def _match_labels(
    model: Any, saved: Any, train_set: Dataset, validation_set: Dataset | None
) -> tuple[Dataset, Dataset | None]:
    """Return the images, their labels the numbers of the outputs of the model to go on from."""
    start = model if saved is None else saved[0]
    if not isinstance(start, Model):
        return train_set, validation_set
    names, outputs = start.classes, start.network.classes
    known = names if names and start.class_names_given else [str(i) for i in range(outputs)]
    if train_set.class_names_given and not set(train_set.classes) <= set(known):
        return train_set, validation_set  # other classes
    numbers = output_numbers(train_set, names, start.class_names_given, outputs, "the model's outputs")
    names = [*names, *(str(i) for i in range(len(names), int(numbers.max()) + 1))]
    pair = (train_set, validation_set)
    return tuple(s and renumbered(s, numbers, names, start.class_names_given) for s in pair)


def _hold_out(train_set: Dataset, settings: Settings) -> tuple[Dataset, Dataset | None]:
    """Hold out a tenth of the images to validate on, where the network's own schedule needs that."""
    if not settings.schedule.needs_validation:
        return train_set, None
    try:
        train_set, held_out = split(train_set, _HELD_OUT, settings.seed)
    except ValueError as error:
        raise ValueError(
            f"train: the network's own schedule watches the validation error; give validation=, or another "
            f"schedule: no tenth of the images can be held out ({error})"
        ) from None
    settings.validation = _HELD_OUT
    settings.note = (
        "the network's own schedule watches the validation error and no validation images were given: "
        f"{len(held_out)} of {len(train_set) + len(held_out)} training images are held out "
        f"(validation={_HELD_OUT}); validation= or schedule= chooses otherwise"
    )
    return train_set, held_out


def _workers(workers: int | None, dataset: Any, ranks: Ranks) -> int:
    if workers is not None:
        return workers
    from ..data.workers import default_workers

    return default_workers(dataset, min(8, ranks.cores))


# ---- network, data, folder ---------------------------------------------------------------------------------
def _network_of(model: Network | Model) -> Network:
    return model.network if isinstance(model, Model) else model


def _network(model: Any, dataset: Any, saved: Any) -> tuple[Network, dict[str, np.ndarray] | None]:
    """Return the network, and parameters to start from."""
    if saved is not None:
        network = saved[0].network
        if isinstance(model, str):
            same = model == network.name
        else:
            same = _graph(_network_of(model)) == _graph(network)
        if not same:
            what = repr(model) if isinstance(model, str) else repr(_network_of(model).name)
            raise ValueError(
                f"train: the run to resume, {saved.path}, trained another network: "
                f"{cut(repr(network.name))}, got {what} (or other layers)"
            )
        return network if isinstance(model, str) else _network_of(model), saved[0].parameters
    if isinstance(model, str):
        return models.build(model, classes=len(dataset.classes)), None
    network = _network_of(model)
    if isinstance(model, Model):
        check_parameters("train", network, model.parameters)
        return network, model.parameters
    return network, None


def _with_init(network: Network, init: Any, model: Any, saved: Any) -> Network:
    """Give the network the initial values asked for, which one with parameters no longer has."""
    rule = network.init if init is None else initialiser(init, "train: init")
    if saved is not None:
        before = saved[0].network.init
        if rule is None:
            rule = before
        elif rule != before:
            own = "that of the network's own layers"
            raise ValueError(f"train: init must stay {before or own} in a resumed run, got {rule}")
    elif init is not None and isinstance(model, Model):
        raise ValueError(
            f"train: init must be None for a loaded model, which starts from its own parameters, got {init!r}"
        )
    return network if rule == network.init else network.with_init(rule)


def _graph(network: Network) -> dict[str, Any]:
    """Return what must not change when a run goes on: all but the recipe, the layers' rates and devices (and
    initial values, of which :func:`_with_init` speaks).
    """
    graph = network.to_dict()
    del graph["recipe"]
    graph.pop("init", None)
    for layer in graph["layers"]:
        for option in ("lr_mult", "bias_lr_mult", "decay_mult", "bias_decay_mult", "frozen", "device"):
            layer.pop(option, None)
    return graph


def _check_fit(
    network: Network, train_set: Any, validation_set: Any, settings: Settings, ranks: Ranks
) -> None:
    if settings.batch_size < ranks.size:
        raise ValueError(
            f"train: batch_size must be at least the number of ranks, {ranks.size}, "
            f"got {settings.batch_size} (it is the batch of all of them together)"
        )
    if not network.costs:
        raise ValueError(
            f"train: network {network.name!r} has no cost to train on; add SoftmaxCrossEntropy()"
        )
    shape = settings.augmentation.output_shape(train_set.image_shape)
    if tuple(shape) != network.input_shape:
        raise ValueError(
            f"train: network {network.name!r} takes images of shape {network.input_shape}, "
            f"the data give {tuple(shape)} "
            f"(images {tuple(train_set.image_shape)}, crop {settings.augmentation.crop})"
            f"{channels_first_hint((len(train_set), *train_set.image_shape))}"
        )
    for cost in network.costs:
        outputs = cost.input_shapes[0][0]
        if len(train_set.classes) > outputs:
            raise ValueError(
                f"train: {cost} sees {outputs} classes, the data have {len(train_set.classes)}"
                "; new_head=True (--new-head) gives a loaded model a last layer for them"
            )
    if settings.schedule.needs_validation and validation_set is None:
        raise ValueError(
            "train: the schedule watches the validation error, but there are no validation images; "
            "give validation=0.1 (a share of the data), a dataset, or another schedule"
        )
    if settings.stop_after and validation_set is None:
        raise ValueError(
            f"train: stop_after={settings.stop_after} watches the validation error, but there are no "
            "validation images; give validation=0.1 (a share of the data) or a dataset"
        )
