"""Foreign files with bytes changed: a clear error that names the file, or a model; never anything else."""

import io
import os
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save
from support import caffe_files as cf
from support import foreign
from support.networks import plain
from support.runs import python_path

import pyconvnet as pcn
from pyconvnet import models
from pyconvnet.network.preprocessing import Preprocessing
from pyconvnet.trained.convert import onnx_write
from pyconvnet.trained.convert.pytorch import state_dict

WIDTHS = (2, 2, 2, 2, 2, 3, 3)


def safetensors():
    model = pcn.Model(plain(), dict(plain().initial()), Preprocessing((8, 8, 3)), list("abcd"))
    state, metadata = state_dict(model)
    return [save(foreign.torchvision_state(np.random.default_rng(0), WIDTHS, 3)), save(state, metadata)]


def caffemodel():
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    rng = np.random.default_rng(0)
    nets = [cf.alexnet(rng, old, widths=(4, 4, 4, 4, 4, 3, 3), classes=3)[0] for old in (False, True)]
    return [cf.net("AlexNet", layers, old) for layers, old in zip(nets, (False, True), strict=True)]


def onnx():
    pytest.importorskip("onnx", reason="onnx is not installed")
    net = models.alexnet(4, width=0.01, input_size=67)
    mean = np.full(3, 9, np.float32)
    found = [pcn.Model(net, dict(net.initial()), Preprocessing((70, 70, 3), (67, 67), mean), list("abcd"))]
    found.append(pcn.Model(plain(), dict(plain().initial()), Preprocessing((8, 8, 3))))
    return [onnx_write._Writer(model, "NHWC").message().SerializeToString() for model in found]


def pth():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = foreign.torchvision_state(np.random.default_rng(0), WIDTHS, 3)
    found = []
    for old in (False, True):
        stream = io.BytesIO()
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        torch.save(tensors, stream, _use_new_zipfile_serialization=not old)
        found.append(stream.getvalue())
    return found


KINDS = {"safetensors": safetensors, "caffemodel": caffemodel, "onnx": onnx, "pth": pth}

#: Reads each file in a process of its own, that a crash would end: prints how each ended.
READ = """
import sys, time, warnings
from pathlib import Path
import pyconvnet as pcn
warnings.simplefilter("ignore")
for path in sorted(Path(sys.argv[1]).iterdir()):
    begin = time.perf_counter()
    try:
        model = pcn.load(path)
        assert model.network.parameters().keys() == model.parameters.keys()
        end = "model"
    except pcn.CheckpointError as error:
        text = str(error).replace(str(path), "")
        assert str(path) in str(error) and 20 < len(text) < 500 and text.strip()[-1] != ":", str(error)
        end = "refused"
    assert time.perf_counter() - begin < 20, path
    print(path.name, end)
"""


def check(tmp_path, kind, count, seed):
    """Write mutants, let them be read; return how many were refused."""
    rng = np.random.default_rng(seed)
    originals = KINDS[kind]()
    folder = tmp_path / "mutants"
    folder.mkdir()
    for i in range(count):
        data = originals[i % len(originals)]
        (folder / f"{i:03}.{kind}").write_bytes(foreign.mutate(data, rng) if i > 1 else data)
    command = [sys.executable, "-c", READ, str(folder)]
    env = {**os.environ, "PYTHONPATH": python_path(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, (done.stdout[-200:], done.stderr[-2000:])
    ends = dict(line.split() for line in done.stdout.splitlines())
    assert len(ends) == count
    assert [ends[f"{i:03}.{kind}"] for i in range(2)] == ["model"] * 2  # the originals
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mutants"]  # nothing else was made
    return sum(end == "refused" for end in ends.values())


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_refused_or_read(tmp_path, kind):
    assert check(tmp_path, kind, 27, seed=1) > 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants_are_refused_or_read(tmp_path, kind):
    assert check(tmp_path, kind, 502, seed=2) > 100
