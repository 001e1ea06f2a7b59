"""The worked examples of docs/adding-a-layer.md, run as printed."""

import os
import re
import shutil
import subprocess
import sys

from support import ROOT

DOC = (ROOT / "docs" / "adding-a-layer.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
USE = """
import numpy as np
import pyconvnet as pcn
from pyconvnet.layers import Conv2d, LeakyReLU, Linear, SoftmaxCrossEntropy
net = pcn.Network("leaky", input_shape=(4, 4, 2))
net.add(Conv2d(4, 3, pad=1)).add(LeakyReLU(0.25)).add(Linear(3)).add(SoftmaxCrossEntropy())
assert pcn.Network.from_dict(net.to_dict()) == net and "leaky1" in net
assert max(check.error for check in pcn.check_gradients(net)) < 1e-6
x = np.random.default_rng(0).standard_normal((5, 4, 4, 2), np.float32)
outputs = {}
for place in (["cpu"], ["emulator"], ["emulator", "emulator"]):
    plan = pcn.plan.Plan(net, place, 5, fuse=False)
    plan.feed(x, np.arange(5) % 3)
    plan.forward(5)
    outputs[len(outputs)] = plan.get_output("leaky1"), plan.get_output("conv1")
for y, z in outputs.values():
    np.testing.assert_allclose(y, np.where(z > 0, z, 0.25 * z), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(y, outputs[0][0], rtol=1e-4, atol=1e-5)
assert (outputs[0][0] < 0).any()
"""


def test_a_layer_of_ones_own(tmp_path, monkeypatch):
    """Touches no file of the library."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own.py"  # a module: checkpoints name classes by theirs
    path.write_text(BLOCKS[0] + BLOCKS[1])
    run(path, ROOT)


def test_a_layer_of_the_library(tmp_path):
    """Touches two files of the library."""
    tree = tmp_path / "pyconvnet"
    shutil.copytree(ROOT / "pyconvnet", tree, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    named = re.findall(r"`(pyconvnet/layers/[a-z_]+\.py)`", DOC.partition("## In the library")[2])
    edited = set(named)
    assert edited == {"pyconvnet/layers/pointwise.py", "pyconvnet/layers/__init__.py"}
    with open(tree / "layers" / "pointwise.py", "a") as file:
        file.write("\n\n" + BLOCKS[2])
    names = tree / "layers" / "__init__.py"
    line = next(line for line in names.read_text().splitlines() if line.startswith("from .pointwise import"))
    text = names.read_text().replace(line, BLOCKS[3].strip())
    names.write_text(text.replace('"Layer",', '"Layer",\n    "LeakyReLU",'))
    script = tmp_path / "use.py"
    script.write_text(USE)
    run(script, tmp_path)


def run(script, path):
    from pyconvnet.common import devices

    emulator = devices.emulator().ext.__file__
    environment = {**os.environ, "PYTHONPATH": str(path), "PYCONVNET_EMULATOR": emulator}
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=script.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
