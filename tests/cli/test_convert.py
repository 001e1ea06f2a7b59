"""``pyconvnet convert``: in, out, and what is said."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import caffe_files as cf
from support import foreign

import pyconvnet as pcn
from pyconvnet.cli.main import main


def test_a_caffemodel_becomes_onnx_and_ours(tmp_path, monkeypatch, capsys):
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    pytest.importorskip("onnx", reason="onnx is not installed")
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    layers, _ = cf.alexnet(rng, caffenet=True)
    (tmp_path / "net.caffemodel").write_bytes(cf.net("CaffeNet", layers))
    (tmp_path / "mean.binaryproto").write_bytes(cf.binaryproto(rng.random((3, 256, 256)) * 255))
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    how = ["--mean", "mean.binaryproto", "--classes", "names.txt", "--scale", "0.5"]
    assert main(["convert", "net.caffemodel", "net.onnx", *how]) == 0
    said = capsys.readouterr().out
    assert "converted: channels of the first filters and of the mean turned from BGR to RGB" in said
    assert said.endswith("wrote net.onnx\n")
    assert main(["convert", "net.onnx", "net.safetensors"]) == 0
    model = pcn.load("net.safetensors")
    assert model.classes == list("abcdefghij")
    assert model.preprocessing.scale == 0.5
    images = rng.integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    wanted = foreign.logits(pcn.load("net.caffemodel", mean="mean.binaryproto", scale=0.5), images)
    np.testing.assert_allclose(foreign.logits(model, images), wanted, rtol=1e-4, atol=1e-4)
    assert main(["summary", "net.onnx"]) == 0
    assert "conv5" in capsys.readouterr().out


def test_state_dicts_and_what_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    state = foreign.torchvision_state(np.random.default_rng(1))
    save_file(state, "in.safetensors")
    numbers = ["--mean", "1,2,3", "--scale", "0.1,0.2,0.3", "--image-size", "240x230", "--no-bgr"]
    assert main(["convert", "in.safetensors", "out.safetensors", "--to", "pytorch", *numbers]) == 0
    model = pcn.load("out.safetensors")
    assert model.preprocessing.image_shape == (240, 230, 3)
    assert model.preprocessing.mean.tolist() == [1, 2, 3]
    capsys.readouterr()
    assert main(["convert", "out.safetensors", "x.safetensors", "--mean", "3"]) == 2
    assert "the file says itself what mean would" in capsys.readouterr().err
    assert main(["convert", "in.safetensors", "out.h5"]) == 2
    assert "path must end in .onnx, .pth, .pt, .safetensors" in capsys.readouterr().err
    assert main(["convert", "in.safetensors", "out.onnx", "--mean", "nowhere.npy"]) == 2
    assert "or a file that is there, got 'nowhere.npy'" in capsys.readouterr().err
    assert main(["convert", "nowhere.onnx", "out.onnx"]) == 2
    assert "no such file: nowhere.onnx" in capsys.readouterr().err
    (tmp_path / "text.onnx").write_text("this is no network")
    assert main(["convert", "text.onnx", "out.safetensors"]) == 2
    assert "damaged or no safetensors file, and no .pth, .onnx or .caffemodel" in capsys.readouterr().err
    assert main(["convert", model.save("own.safetensors").name, "out.safetensors", "--scale", "2"]) == 2
    assert "own.safetensors says itself what scale would" in capsys.readouterr().err
