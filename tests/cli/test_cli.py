"""The command line: what it does, what it prints, and its exit codes."""

import json
import os
import re
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk
from support.digits import shell
from support.runs import toy

import pyconvnet as pcn
from pyconvnet.cli.main import main

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")


@pytest.fixture
def run(digits_run):
    return digits_run


# ---- what it does ----------------------------------------------------------------------------------------
def test_train_leaves_checkpoints_log_and_pictures(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "last.safetensors",
        "best.safetensors",
        "log.jsonl",
        "curves.png",
        "filters.png",
        "predictions.png",
    }
    model = pcn.load(run)
    assert model.info["augment"]["mirror"] is False
    assert [json.loads(line)["event"] for line in (run / "log.jsonl").read_text().splitlines()][-1] == "end"


def test_train_without_anything_is_the_digits(run):
    output = (run.parents[1] / "said.txt").read_text()
    assert (run / "best.safetensors").exists()
    assert "epoch 8/8" in output
    assert "images/s" in output
    assert re.search(r"best epoch \d: validation error", output)
    assert str(Path("runs/digits/best.safetensors")) in output


def test_options_reach_the_training(tmp_path):
    out = tmp_path / "r"
    typed = (
        "train --model digits --data digits --epochs 1 --batch-size 64 --lr 0.005 --momentum 0.8 --seed 7 "
    )
    typed += (
        "--quiet --weight-decay 0.001 --schedule steps:1=0.1 --augment crop=7x6,mirror,mean=pixel,scale=0.01 "
    )
    typed += "--option input_shape=7x6x1 --validation none --workers 1 --out"
    assert main([*typed.split(), str(out)]) == 0
    start = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    options = start["options"]
    assert (options["batch_size"], options["lr"], options["momentum"]) == (64, 0.005, 0.8)
    assert (options["weight_decay"], options["seed"], options["schedule"]) == (0.001, 7, [[1, 0.1]])
    assert options["augment"]["crop"] == [7, 6]
    assert options["augment"]["mirror"] is True
    assert options["augment"]["mean"] == "pixel"
    assert start["validation_images"] == 0
    assert pcn.load(out).network.input_shape == (7, 6, 1)


def toys(folder):
    """What is typed for a model of small images that are quickly read and learnt, and the images."""
    x, y = toy(60)
    np.savez(folder / "data.npz", x=x, y=y)
    return ["digits", str(folder / "data.npz"), "--option", "input_shape=8x8x3", "--validation", "0.2"]


def test_several_devices(tmp_path, capsys):
    out = tmp_path / "run"
    typed = "--epochs 1 --quiet --devices cpu,cpu --replicas 2 --hybrid --out"
    assert main(["train", *toys(tmp_path), *typed.split(), str(out)]) == 0
    start = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    assert (start["devices"], start["replicas"], start["hybrid"]) == (["cpu", "cpu"], 2, True)
    capsys.readouterr()
    assert main(["partition", "alexnet", "--devices", "cuda:0,cuda:1", "--batch-size", "64"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("alexnet over 2 devices, 1 replica x 2 towers, batch 64")
    assert re.search(r"conv2 .* 0:128 +128:256 *\n", text)
    assert main(["partition", "alexnet", "--devices", "cuda:0,cuda:1", "--batch-size", "128"]) == 0
    text = capsys.readouterr().out
    assert "conv3" in text
    assert "22,151,168" in text
    assert main(["partition", "alexnet", "--devices", "cpu,cpu,cpu"]) != 0
    assert "layer 'conv2' (Conv2d) cannot be split over 3 devices" in capsys.readouterr().err
    assert main(["partition", str(out), "--devices", "cpu,cpu", "--replicas", "2", "--hybrid"]) == 0
    assert capsys.readouterr().out.startswith("digits over 2 devices, 2 replicas")


def test_train_on_a_folder_of_photographs(tmp_path, capsys):
    root = mk.image_folder(tmp_path / "photos", count=6, height=20, width=24)
    typed = "--image-size 16 --option input_shape=12x12x3 --augment crop=12,mirror,pca=0.1 --validation 0.34 "
    typed += "--epochs 1 --batch-size 4 --workers 1 --quiet --out"
    assert main(["train", "digits", str(root), *typed.split(), str(tmp_path / "run")]) == 0
    model = pcn.load(tmp_path / "run")
    assert model.classes == ["ant", "bee", "cat"]
    assert model.preprocessing.image_shape == (16, 16, 3)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path / "run"), str(root)]) == 0
    assert "on 18 images, 10 views each" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "run"), str(root / "ant")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 6
    # A checkpoint can be trained further.
    assert (
        main(
            [
                "train",
                str(tmp_path / "run"),
                str(root),
                *typed.split()[:2],
                *typed.split()[4:],
                str(tmp_path / "b"),
            ]
        )
        == 0
    )


def test_evaluate(run, capsys):
    assert main(["evaluate", str(run)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("error ")
    assert "on 359 images, 1 view each" in text
    assert main(["evaluate", str(run), "digits", "--views", "1", "--json", "--batch-size", "50"]) == 0
    values = json.loads(capsys.readouterr().out)
    direct = pcn.evaluate(run, "digits", 1)
    assert values["error"] == direct.error
    assert values["images"] == 359
    assert main(["evaluate", str(run / "last.safetensors"), "--report"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 12


def test_predict(run, tmp_path, capsys):
    held_out = pcn.Digits(train=False)
    for i in range(3):
        Image.fromarray(held_out.read([i])[0, ..., 0]).save(tmp_path / f"{i}.png")
    assert main(["predict", str(run), str(tmp_path), "--top", "2", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["image"]).name for line in lines] == ["0.png", "1.png", "2.png"]
    direct = pcn.predict(run, held_out.read([0, 1, 2]), top=2)
    assert [[c["name"] for c in line["classes"]] for line in lines] == [[n for n, _ in row] for row in direct]
    assert main(["predict", str(run), str(tmp_path / "1.png")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / '1.png'}: {direct[1][0][0]} ")


def test_predict_goes_on_after_an_unreadable_file(run, tmp_path, capsys):
    Image.new("L", (8, 8), 200).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    assert main(["predict", str(run), str(tmp_path / "bad.png"), str(tmp_path / "good.png")]) == 2
    captured = capsys.readouterr()
    assert "good.png: " in captured.out
    assert captured.err.count("\n") == 1
    assert "bad.png: not an image" in captured.err


@pytest.mark.parametrize("kind", ["curves", "filters", "predictions", "confusion"])
def test_plot(run, tmp_path, kind, capsys):
    path = tmp_path / "x.png"
    assert main(["plot", kind, str(run), "-o", str(path)]) == 0
    assert capsys.readouterr().out == f"wrote {path}\n"
    assert np.asarray(Image.open(path)).std() > 5


def test_summary(capsys, run):
    assert main(["summary", "alexnet"]) == 0
    assert "60,965,224" in capsys.readouterr().out
    assert main(["summary", "alexnet", "--option", "classes=10", "--batch-size", "1"]) == 0
    assert "batch 1" in capsys.readouterr().out
    assert main(["summary", str(run)]) == 0
    assert capsys.readouterr().out.startswith("digits: ")


def test_check_grads(capsys, monkeypatch):
    assert main(["check-grads", "digits", "--samples", "3"]) == 0
    text = capsys.readouterr().out
    assert text.count(" ok\n") == 8
    assert "all 8 pass" in text
    # A gradient that is wrong by a millionth in one place is found.
    from pyconvnet import ops
    from pyconvnet.layers import conv as conv_layer

    name = "conv2d_wgrad"
    assert hasattr(ops, name)
    real = ops.conv2d_wgrad

    def wrong(*arguments, **options):
        dw = real(*arguments, **options)
        ops.perform(np.multiply, dw, 1 + 1e-5, dw)
        return dw

    monkeypatch.setattr(conv_layer.ops, name, wrong)
    assert main(["check-grads", "digits", "--samples", "3"]) == 1
    text = capsys.readouterr().out
    assert text.count("WRONG") == 2
    assert "2 of 8 parameter arrays are wrong" in text


def test_devices(capsys):
    assert main(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("cpu ") and "works" in line for line in lines)
    assert sum("(default)" in line for line in lines) == 1
    assert main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(d["device"], d["reason"]) for d in found] == list(map(tuple, pcn.available_devices()))


def test_version_and_help(capsys):
    assert main(["version"]) == 0
    assert main(["--version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    assert first.startswith(f"pyconvnet {pcn.__version__} ")
    for arguments in (
        ["--help"],
        *([c, "--help"] for c in ("train", "evaluate", "predict", "plot", "check-grads")),
    ):
        assert main(arguments) == 0
        assert "usage: pyconvnet" in capsys.readouterr().out


# ---- how it ends -----------------------------------------------------------------------------------------
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_saves_and_the_run_goes_on(tmp_path):
    typed = toys(tmp_path)
    process = shell("train", *typed, "--epochs", "5000", "--out", "r", cwd=tmp_path)
    log = tmp_path / "r" / "log.jsonl"
    deadline = time.time() + 120
    while time.time() < deadline and not (log.exists() and '"validation"' in log.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.strip().endswith("--epochs 5000 --out r --resume")
    assert f"go on with: pyconvnet train {' '.join(typed)} " in errors
    history = len([line for line in log.read_text().splitlines() if '"event": "train"' in line])
    more = ["--epochs", str(history + 1), "--out", str(tmp_path / "r"), "--resume", "--quiet"]
    assert main(["train", *typed, *more]) == 0
    epochs = [
        json.loads(line)["epoch"] for line in log.read_text().splitlines() if '"event": "train"' in line
    ]
    assert epochs == list(range(1, history + 2))


def test_a_closed_pipe_is_no_error(tmp_path):
    process = shell("summary", "alexnet", cwd=tmp_path)
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(60)
    process.stderr.close()
    assert process.returncode == 0
    assert errors == ""


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_loss_that_is_not_finite_ends_with_1(tmp_path, capsys):
    arguments = ["train", "digits", "--lr", "1e30", "--epochs", "1", "--out", str(tmp_path / "r"), "--quiet"]
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "first bad" in error
    assert error.count("\n") == 1


def folder(tmp):
    return str(mk.image_folder(tmp / "f"))


def broken(tmp):
    (tmp / "m.safetensors").write_bytes(b"12345678" * 4)
    return str(tmp / "m.safetensors")


def picture(tmp):
    Image.new("L", (9, 9), 100).save(tmp / "x.png")
    return str(tmp / "x.png")


def empty_class(tmp):
    root = mk.image_folder(tmp / "f")
    for path in (root / "bee").iterdir():
        path.unlink()
    return str(root)


# what is typed (functions are given the scratch folder), and what the one line must say
BAD = [
    ("nothing", [], "the following arguments are required: COMMAND"),
    ("command", ["fly"], "invalid choice: 'fly'"),
    ("option", ["train", "digits", "--fast"], "unrecognized arguments: --fast"),
    ("model", ["train", "resnet"], "model must be one of alexnet"),
    ("data missing", ["train", "digits", "nope"], "'nope' is neither a file or folder"),
    ("no data", ["train", "alexnet"], "name a folder of images"),
    ("empty class", ["train", "digits", empty_class], "class 'bee' .* has no images"),
    ("no classes", ["train", "digits", lambda t: str(t)], "has no class folders"),
    ("epochs text", ["train", "digits", "--epochs", "many"], "invalid int value: 'many'"),
    ("epochs -1", ["train", "digits", "--epochs", "-1"], "epochs must be"),
    ("batch 0", ["train", "digits", "--batch-size", "0"], "batch_size must be"),
    ("lr NaN", ["train", "digits", "--lr", "nan"], "lr must be"),
    ("lr -1", ["train", "digits", "--lr", "-1"], "lr must not be negative"),
    ("momentum 2", ["train", "digits", "--momentum", "2"], "momentum must be"),
    ("seed", ["train", "digits", "--seed", "-3"], "seed must be"),
    ("schedule", ["train", "digits", "--schedule", "cosine"], "schedule must be"),
    ("precision", ["train", "digits", "--precision", "int8"], "precision must be"),
    ("device", ["train", "digits", "--devices", "tpu"], "device must be"),
    ("devices", ["train", "digits", "--devices", "cpu,tpu"], "device must be"),
    ("replicas", ["train", "digits", "--devices", "cpu,cpu", "--replicas", "3"], "replicas must divide"),
    ("partition", ["partition", "digits", "--devices", "cpu,cpu", "--replicas", "3"], "replicas must divide"),
    ("partition where", ["partition", "digits"], "required: --devices"),
    ("no GPU 99", ["train", "digits", "--devices", "cuda:99"], "is not|cannot be imported|its CUDA"),
    ("validation 1.5", ["train", "digits", "--validation", "1.5"], r"in \(0, 1\), got 1\.5"),
    ("validation", ["train", "digits", "--validation", "nowhere"], "'nowhere' is neither"),
    ("augment", ["train", "digits", "--augment", "rotate=5"], "augmentation has crop, mirror"),
    ("augment value", ["train", "digits", "--augment", "pca=much"], "pca must be a number"),
    ("crop", ["train", "digits", "--augment", "crop=9"], "9x9 does not fit into images of 8x8"),
    ("crop size", ["train", "RUN", "digits", "--augment", "crop=6"], r"takes images of shape \(8, 8, 1\)"),
    ("workers", ["train", "digits", "--workers", "-1"], "workers must be"),
    ("on-error", ["train", "digits", "--on-error", "ignore"], "invalid choice: 'ignore'"),
    ("image size", ["train", "digits", folder, "--image-size", "0"], "size must be at least 1, got 0"),
    ("photos for digits", ["train", "RUN", folder], r"takes images of shape \(8, 8, 1\)"),
    ("model option", ["train", "digits", "--option", "depth=3"], "depth"),
    ("option form", ["train", "digits", "--option", "depth"], "must be NAME=VALUE, got 'depth'"),
    ("option of file", ["summary", broken, "--option", "width=1"], "--option is for models by name"),
    ("resume nothing", ["train", "digits", "--resume"], "nothing to resume"),
    ("out a file", ["train", "digits", "--out", broken], "out must be a folder"),
    ("broken file", ["evaluate", broken], "damaged or no safetensors"),
    ("broken start", ["train", broken, "digits"], "damaged or no safetensors"),
    ("no checkpoint", ["evaluate", "nope.safetensors"], "no such file"),
    ("empty folder", ["evaluate", lambda t: str(t)], "holds neither best.safetensors"),
    ("views", ["evaluate", "RUN", "--views", "3"], "views must be 1 or 10, got 3"),
    ("other images", ["evaluate", "RUN", lambda t: npz(t)], "must have the model's shape"),
    ("predict nothing", ["predict", "RUN"], "required: images"),
    ("predict missing", ["predict", "RUN", "x.jpg"], "x.jpg: no such image file"),
    ("predict no images", ["predict", "RUN", lambda t: str(t)], "holds no images"),
    ("top", ["predict", "RUN", picture, "--top", "0"], "top must be at least 1"),
    ("plot kind", ["plot", "pie", "RUN"], "invalid choice: 'pie'"),
    ("plot jpg", ["plot", "filters", "RUN", "-o", "x.jpg"], "must end in .png"),
    ("plot layer", ["plot", "filters", "RUN", "--layer", "conv7"], "layer must be one of conv1, conv2"),
    ("plot no log", ["plot", "curves", lambda t: str(t)], "no such log"),
    ("plot count", ["plot", "predictions", "RUN", "--count", "0"], "count must be"),
    ("tolerance", ["check-grads", "digits", "--tolerance", "7"], r"tolerance must be in \(0, 1\)"),
    ("samples", ["check-grads", "digits", "--samples", "0"], "samples must be at least 1, got 0"),
    ("summary batch", ["summary", "digits", "--batch-size", "0"], "batch_size must be"),
    ("summary nothing", ["summary", "nope"], "model must be one of"),
]


def npz(tmp):
    np.savez(tmp / "a.npz", x=np.zeros((4, 5, 5), np.uint8), y=np.zeros(4, int))
    return str(tmp / "a.npz")


@pytest.mark.parametrize(("arguments", "message"), [pytest.param(*case[1:], id=case[0]) for case in BAD])
def test_bad_input_is_told_in_one_line(arguments, message, run, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    typed = [a(scratch) if callable(a) else str(run) if a == "RUN" else a for a in arguments]
    assert main(typed) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("pyconvnet")
    assert captured.err.count("\n") == 1
    assert re.search(message, captured.err), captured.err
    assert [p.name for p in tmp_path.iterdir()] == ["scratch"]  # nothing was begun


def test_cifar10_without_a_network_says_what_to_do(tmp_path, monkeypatch, capsys):
    import urllib.error
    import urllib.request

    def no_network(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("PYCONVNET_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["train", "cifar10_80sec"]) == 2
    error = capsys.readouterr().err
    assert "no network" in error
    assert "name their folder" in error
    assert error.count("\n") == 1


def test_the_traceback_is_there_on_demand(monkeypatch):
    monkeypatch.setenv("PYCONVNET_TRACEBACK", "1")
    with pytest.raises(FileNotFoundError):
        main(["evaluate", "nope.safetensors"])
