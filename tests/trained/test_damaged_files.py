"""Files whose checksum holds but whose contents are odd: an error that names the file, or a right run."""

import copy
import json
import math
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from support import make_files as mk
from support.quick import waited
from support.runs import go

import pyconvnet as pcn
from pyconvnet import data
from pyconvnet.trained import checkpoint_file
from pyconvnet.training.checkpoints import Checkpoints
from pyconvnet.training.loop import Trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(JSON header, tensors) of a run stopped in the middle of its second epoch, with all there can be."""
    out = tmp_path_factory.mktemp("run")

    class Stop(Exception):
        pass

    def train_batch(self, batch, real=Trainer._train_batch):
        if self.step == 6:
            raise Stop
        real(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_train_batch", train_batch)
        patch.setattr(Checkpoints, "busy", waited)
        with pytest.raises(Stop):
            go(out, schedule="plateau:patience=1", checkpoint_batches=1)
    with safe_open(out / "last.safetensors", "numpy") as file:
        names = file.keys()
        return json.loads(file.metadata()["pyconvnet"]), {name: file.get_tensor(name) for name in names}


def write(folder, header, tensors):
    """A checkpoint with a right checksum."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(header)
    metadata = {"pyconvnet": text, "pyconvnet_crc32": str(checkpoint_file._crc(text, tensors))}
    save_file(tensors, folder / "last.safetensors", metadata)


def outcome(folder):
    """How loading and resuming end: "ran", or the error's text, which must be short and name the file."""
    ends = []
    for what in (pcn.load, lambda path: go(path.parent, resume=True, batch_size=None, validation=0.2)):
        try:
            with np.errstate(all="ignore"):
                what(folder / "last.safetensors")
            ends.append("ran")
        except (ValueError, pcn.NonFiniteLossError) as error:
            ends.append(str(error))
            assert str(folder) in str(error)  # noqa: PT017
            assert len(str(error).replace(str(folder), "")) < 500  # noqa: PT017
            assert not str(error).rstrip().endswith(":")  # noqa: PT017
    return ends


def places(value, at=()):
    """Every place in a JSON value."""
    if at:
        yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*at, key))


VALUES = [None, True, 0, -1, 7, 1.5, 2**70, math.inf, math.nan, "", "x", "cpu" * 5000, [], [1], [[]],
          [0] * 5000, {}, {"a": 1}, {"kind": "x"}]  # fmt: skip


def mutants(header):
    """Functions that change one thing in the header: take it away, put another value there, cut a list."""
    for at in places(header):
        yield at, "without", None
        for value in VALUES:
            yield at, "other", value
        yield at, "cut", None


def mutate(header, at, how, value):
    changed = copy.deepcopy(header)
    inside = changed
    for key in at[:-1]:
        inside = inside[key]
    if how == "without":
        del inside[at[-1]]
    elif how == "other":
        inside[at[-1]] = value
    elif isinstance(inside[at[-1]], list):
        del inside[at[-1]][len(inside[at[-1]]) // 2 :]
    else:
        inside[at[-1]] = [inside[at[-1]]]
    return changed


def check(tmp_path, saved, cases):
    header, tensors = saved
    refused = 0
    for case in cases:
        write(tmp_path / "run", mutate(header, *case), tensors)
        try:
            ends = outcome(tmp_path / "run")
        except Exception as error:
            raise AssertionError(f"{case}: {error!r}"[:600]) from error
        refused += ends != ["ran", "ran"]
        for path in (tmp_path / "run").iterdir():
            path.unlink()
    return refused


def test_mutated_headers(tmp_path, saved):
    cases = list(mutants(saved[0]))
    chosen = np.random.default_rng(9).choice(len(cases), 100, replace=False)
    assert check(tmp_path, saved, [cases[i] for i in chosen]) > 60


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_every_mutated_header(tmp_path, saved, part):
    cases = list(mutants(saved[0]))[part::8]
    assert check(tmp_path, saved, cases) > len(cases) / 2


ODD = {  # what is put where -> what the error says of it
    ("state", "options", "schedule"): ([None, 3, {}], "schedule must be a"),
    ("state", "options", "momentum"): (["x", 2, None, []], "momentum must be"),
    ("state", "options", "epochs"): ([-1], "epochs must be at least 0"),
    ("state", "options", "batch_size"): ([0, 2**40], "batch_size must be"),
    ("state", "options", "augment"): ([{"crop": [1]}, {"crop": "x"}, {"crup": 1}, []], "crop|crup|augment"),
    ("state", "epoch"): ([-1, 7, "1", True], "epoch must be|history must have 7 records"),
    ("state", "examples"): ([-1, 121, 119, 1.0], "examples must be|must be over 119 examples"),
    ("state", "step"): ([0, 3, None, 2**70, "x"], "step must be|step 0 does not|step 3 does not"),
    ("state", "history"): ([[], {}, [1], [{}]], "history"),
    ("state", "schedule"): ([None, {"best": "x"}, {"waited": []}], "schedule must be a|float|int"),
    ("state", "statistics"): ([None, {}, {"count": 0, "pixel_range": 1}], "statistics|count"),
    ("state", "data"): ([None, {}, {"images": 0}], "data must be a|'images' is missing|data: "),
    ("state", "kernels"): ([[1], {"kernels": [1]}, {"kernels": {"a": 1}}], "kernel"),
    ("state", "seconds"): ([-1, "x", None], "seconds must"),
    ("preprocessing", "crop"): ([[1], 3, "ab", [1, 2, 3], [1, -1], {}], "crop"),
    ("preprocessing", "image_shape"): (["888", [8, 8], [8.0, 8, 3], 8], "image_shape"),
    ("preprocessing", "scale"): ([None, "1", True, []], "scale must be a number"),
    ("classes",): (["abcd", [1, 2], {"a": 1}, None], "classes must be a list of texts"),
    ("info",): ([None, [], "x"], "info must be an object"),
    ("format",): ([2, "1" * 9999, None], "has format .*this version of pyconvnet reads format 1"),
}  # fmt: skip


@pytest.mark.parametrize("at", ODD, ids=".".join)
def test_odd_contents_are_named(tmp_path, saved, at):
    header, tensors = saved
    values, message = ODD[at]
    for value in values:
        write(tmp_path / "run", mutate(header, at, "other", value), tensors)
        with pytest.raises(pcn.CheckpointError, match=message):
            go(tmp_path / "run", resume=True, batch_size=None)
        assert outcome(tmp_path / "run")[1] != "ran"


STATE = ("epoch", "step", "examples", "seconds", "history", "options", "data", "schedule", "statistics")


@pytest.mark.parametrize("key", STATE)
def test_a_state_that_lacks_something(tmp_path, saved, key):
    header, tensors = saved
    write(tmp_path / "run", mutate(header, ("state", key), "without", None), tensors)
    missing = "batch" if key == "examples" else key  # its name in earlier versions
    with pytest.raises(pcn.CheckpointError, match=rf"last.safetensors is damaged: '{missing}' is missing"):
        go(tmp_path / "run", resume=True)
    assert pcn.load(tmp_path / "run").network.name == "small"  # the model is whole


ARRAYS = {
    "a momentum is missing": (lambda t: t.pop("momentum/fc2.weight"), "lacks fc2.weight"),
    "a momentum too many": (lambda t: t.update({"momentum/x": np.zeros(1)}), "does not know x"),
    "a momentum of another shape": (
        lambda t: t.update({"momentum/fc2.bias": np.zeros(3, np.float32)}), r"must have shape \(16,\)"),
    "momenta of integers": (
        lambda t: t.update({"momentum/fc2.bias": np.zeros(16, np.int8)}), "must be of floating-point"),
    "sums are missing": (lambda t: t.pop("state/metrics"), "'state/metrics' is missing"),
    "sums of another shape": (
        lambda t: t.update({"state/metrics": np.zeros(4)}), r"state/metrics must have shape \(1, 4\)"),
    "sums of nothing": (
        lambda t: t.update({"state/metrics": np.zeros((1, 4))}), "state/metrics must be over 64 examples"),
    "no eigenvalues": (lambda t: t.pop("state/eigenvalues"), "'state/eigenvalues' is missing"),
    "a mean image of another shape": (
        lambda t: t.update({"state/mean_image": np.zeros((6, 6, 3), np.float32)}),
        r"mean_image must have shape \(8, 8, 3\)"),
    "parameters of booleans": (
        lambda t: t.update({"parameter/fc2.bias": np.zeros(16, bool)}), "must be of floating-point"),
}  # fmt: skip


@pytest.mark.parametrize("what", ARRAYS)
def test_odd_arrays_are_named(tmp_path, saved, what):
    header, tensors = saved[0], dict(saved[1])
    change, message = ARRAYS[what]
    change(tensors)
    write(tmp_path / "run", header, tensors)
    with pytest.raises(pcn.CheckpointError, match=f"last.safetensors is damaged: .*{message}"):
        go(tmp_path / "run", resume=True)


def test_kernels_that_nobody_knows_are_not_run(tmp_path, saved):
    header, tensors = copy.deepcopy(saved[0]), saved[1]
    whole = go(tmp_path / "whole", devices="emulator", schedule="plateau:patience=1")
    header["state"]["kernels"] = {
        "card": "emulator (compute capability 9.0, driver none)",
        "kernels": {"conv2d n=32 x": "conv2d_of_the_future", "": ""},
    }
    write(tmp_path / "run", header, tensors)
    run = go(tmp_path / "run", resume=True, devices="emulator")
    for name, value in whole.model.parameters.items():
        np.testing.assert_allclose(run.model.parameters[name], value, rtol=1e-3, atol=1e-5)


def test_every_prefix_of_a_pickle_is_refused_with_a_reason(tmp_path):
    root = mk.cifar_pickles(tmp_path / "c")
    for name in ("data_batch_1", "batches.meta"):
        path = root / name
        whole = path.read_bytes()
        for length in [*range(0, 200, 3), len(whole) // 2, len(whole) - 1]:
            path.write_bytes(whole[: min(length, len(whole) - 1)])
            with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
                data.Cifar10(root)
            assert re.search(r"(: .*\S{3}|\))$", str(caught.value))
            assert not str(caught.value).endswith("batch: ")
        path.write_bytes(whole)
    path = root / "data_batch_1"
    path.write_bytes(path.read_bytes()[:3])
    with pytest.raises(ValueError, match="data_batch_1: not a readable CIFAR-10 batch: it ends too early"):
        data.Cifar10(root)
