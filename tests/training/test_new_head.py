"""A trained network gets a new last layer: what is kept, what learns, how images are prepared."""

import numpy as np
import pytest
from safetensors.numpy import save_file
from support import foreign
from support.networks import everything
from support.runs import events, go, same_bits, toy, toys

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.layers import Conv2d, Linear, SoftmaxCrossEntropy
from pyconvnet.training.head import with_new_head, with_rates


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """A net trained on four classes with names; never changed by what follows."""
    x, y = toy(240)
    out = tmp_path_factory.mktemp("before") / "run"
    data = pcn.ArrayDataset(x, y, classes=list("abcd"))
    return go(out, data=data, epochs=8, augment={"crop": 6, "scale": 0.02}).model


def other(classes=("top", "bottom"), n=90, seed=5):
    """The same pictures told apart in another way: bright at the top or at the bottom."""
    x, y = toy(n, seed=seed)
    return pcn.ArrayDataset(x, y // 2 if len(classes) == 2 else y, classes=list(classes))


def moved(model, before):
    """The parameters that are not the same to the bit."""
    return {
        name
        for name, value in model.parameters.items()
        if value.shape != before.parameters[name].shape or (value != before.parameters[name]).any()
    }


def test_a_new_head_learns_and_the_rest_is_kept(tmp_path, before):
    described = before.network.to_dict()
    run = go(tmp_path / "run", before, other(n=200), new_head=True, freeze="all", epochs=5)
    assert moved(run.model, before) == {"fc3.weight", "fc3.bias"}
    assert run.model.network.classes == 2
    assert run.model.classes == ["top", "bottom"]
    assert run.history[-1]["validation_error"] < 0.2
    assert before.network.to_dict() == described
    (note,) = events(tmp_path / "run", "note")
    assert note["text"] == (
        "new head: fc3 has 2 outputs (top, bottom) from initial values, where it had 4; "
        "all other layers keep their parameters; frozen: conv1, fc2"
    )
    again = pcn.load(tmp_path / "run")
    assert again.network["conv1"].layer.frozen
    assert pcn.evaluate(again, other(seed=9), views=1, device="cpu").error < 0.2


def test_frozen_convolutions_stay_and_others_learn(tmp_path, before):
    run = go(tmp_path / "a", before, other(), new_head=True, freeze="conv", epochs=1)
    assert moved(run.model, before) == {"fc2.weight", "fc2.bias", "fc3.weight", "fc3.bias"}
    run = go(tmp_path / "b", before, other(tuple("dcba")), freeze=["conv1", "fc2"], epochs=1)
    assert moved(run.model, before) == {"fc3.weight", "fc3.bias"}  # its own classes: no new head
    assert run.model.classes == list("abcd")


def test_images_are_prepared_as_the_models_were(tmp_path, before):
    run = go(tmp_path / "a", before, other(), new_head=True, epochs=1)
    np.testing.assert_array_equal(run.model.preprocessing.mean, before.preprocessing.mean)
    assert run.model.preprocessing.to_dict() == before.preprocessing.to_dict()
    assert run.model.info["augment"] == before.info["augment"]
    x, y = toy(90)
    brighter = pcn.ArrayDataset((x // 2 + 100).astype(np.uint8), y % 2, classes=["top", "bottom"])
    run = go(tmp_path / "b", before, brighter, new_head=True, epochs=1)
    np.testing.assert_array_equal(run.model.preprocessing.mean, before.preprocessing.mean)
    run = go(tmp_path / "c", before, brighter, new_head=True, epochs=1, augment={"crop": 6, "scale": 0.01})
    assert run.model.preprocessing.scale == 0.01  # as asked
    assert abs(run.model.preprocessing.mean - before.preprocessing.mean).max() > 10
    larger = pcn.ArrayDataset(toy(60, size=10)[0], np.arange(60) % 2)
    with pytest.raises(
        ValueError, match=r"mean image is of shape \(8, 8, 3\), the data's images are \(10, 10, 3\)"
    ):
        go(tmp_path / "d", before, larger, new_head=True)
    assert not (tmp_path / "d").exists()


def test_a_new_head_goes_on_to_the_same_bits(tmp_path, before):
    how = {"new_head": True, "freeze": "conv", "layer_rates": {"head": 2.0}}
    go(tmp_path / "whole", before, other(), **how)
    go(tmp_path / "parts", before, other(), epochs=1, **how)
    go(tmp_path / "parts", before, other(), resume=True, **how)
    same_bits(tmp_path / "whole", tmp_path / "parts")
    assert len(events(tmp_path / "parts", "note")) == 2
    assert "new head" not in events(tmp_path / "parts", "note")[1]["text"]


def test_going_on_with_momenta_another_rate_and_batch_size(tmp_path):
    """The documented call: the same folder, resume=True, and what is to be another."""
    go(tmp_path / "run", epochs=1)
    from pyconvnet.training import resume

    momenta = resume.read(tmp_path / "run" / "last.safetensors").momenta
    go(tmp_path / "run", epochs=1, resume=True, lr=0.005, batch_size=16)
    kept = resume.read(tmp_path / "run" / "last.safetensors")
    for name, value in momenta.items():
        np.testing.assert_array_equal(kept.momenta[name], value)
    run = go(tmp_path / "run", epochs=2, resume=True, lr=0.005, batch_size=16)
    assert [record["lr"] for record in run.history] == [0.02, 0.005]
    assert run.history[1]["step"] - run.history[0]["step"] == 8  # 120 images


def test_rates_by_layer(tmp_path, before):
    """A factor scales what one step moves, and 0 leaves a layer as it is."""
    how = {
        "epochs": 1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_size": 200,
        "lr": 0.01,
        "validation": False,
    }
    data = pcn.ArrayDataset(*toy(80), classes=list("abcd"))
    plain = go(tmp_path / "a", before, data, **how).model
    rates = {"conv": 0.5, "fc": 0, "head": 3}
    scaled = go(tmp_path / "b", before, data, layer_rates=rates, **how).model
    for name, factor in (("conv1.weight", 0.5), ("conv1.bias", 0.5), ("fc3.weight", 3), ("fc3.bias", 3)):
        step = plain.parameters[name] - before.parameters[name]
        assert np.abs(step).max() > 0
        np.testing.assert_allclose(
            scaled.parameters[name] - before.parameters[name], factor * step, atol=1e-6
        )
    np.testing.assert_array_equal(scaled.parameters["fc2.weight"], before.parameters["fc2.weight"])
    assert scaled.network["fc3"].layer.lr_mult == 3
    assert before.network["fc3"].layer.lr_mult == 1


def test_words_and_names_for_layers():
    net = pcn.models.alexnet(10, width=0.06, input_size=67)
    frozen = lambda net: [node.name for node in net if getattr(node.layer, "frozen", False)]  # noqa: E731
    assert frozen(with_rates(net, "conv", None)) == [f"conv{i}" for i in range(1, 6)]
    assert frozen(with_rates(net, "all", None)) == [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7"]
    assert frozen(with_rates(net, "fc6", None)) == ["fc6"]
    assert frozen(with_rates(net, ["conv", "fc7"], None))[-1] == "fc7"
    assert frozen(net) == []
    rated = with_rates(net, None, {"fc7": 7, "head": 2, "fc": 3})
    assert [rated[name].layer.lr_mult for name in ("conv5", "fc6", "fc7", "fc8")] == [1, 3, 7, 2]
    assert with_rates(net, None, None) is net
    net = pcn.Network("shared", (4, 4, 2)).add(Conv2d(2, 1), "c1").add(Conv2d(2, 1, share="c1"), "c2")
    net.add(Linear(3), "fc").add(SoftmaxCrossEntropy())
    assert frozen(with_rates(net, ["c2"], None)) == ["c1", "c2"]


def test_torchvisions_net_learns_other_classes(tmp_path):
    """From its file to a run: its mean, scale and crop stay, and go out again with the new head."""
    save_file(foreign.torchvision_state(np.random.default_rng(1)), tmp_path / "a.safetensors")
    model = pcn.load(tmp_path / "a.safetensors")
    images = np.random.default_rng(2).integers(0, 256, (8, 256, 256, 3), dtype=np.uint8)
    data = pcn.ArrayDataset(images, np.arange(8) % 2, classes=["cat", "dog"])
    how = {"new_head": True, "freeze": "conv", "epochs": 1, "batch_size": 4, "validation": False}
    run = go(tmp_path / "run", model, data, **how)
    assert run.model.preprocessing.to_dict() == model.preprocessing.to_dict()
    np.testing.assert_array_equal(run.model.preprocessing.mean, model.preprocessing.mean)
    assert moved(run.model, model) == {f"fc{i}.{part}" for i in (6, 7, 8) for part in ("weight", "bias")}
    back = pcn.load(pcn.export(run, tmp_path / "b.safetensors", "pytorch"))
    assert back.classes == ["cat", "dog"]
    ours = foreign.logits(run.model, images)
    np.testing.assert_allclose(foreign.logits(back, images), ours, rtol=1e-4, atol=1e-5)
    larger = pcn.ArrayDataset(np.pad(images, ((0, 0), (0, 4), (0, 0), (0, 0))), np.arange(8) % 2)
    assert go(tmp_path / "c", model, larger, **how).model.preprocessing.image_shape == (260, 256, 3)


def test_every_cost_gets_a_new_head():
    net = everything(5)
    model = pcn.Model(net, dict(net.initial(1)), pcn.Preprocessing((12, 11, 3)), list("abcde"))
    new = with_new_head(model, list("xyz"), True, 7)
    assert [new.network[name].output_shape for name in ("fc4", "side")] == [(3,), (3,)]
    assert new.parameters["fc4.weight"].shape == (3, 9)
    assert 0.2 < new.parameters["fc4.weight"].std() < 0.4  # its own initial values
    assert (new.parameters["fc4.bias"] == np.float32(0.1)).all()
    assert moved(new, model) == {"fc4.weight", "fc4.bias", "side.weight"}
    assert new.network["frozen"].layer.frozen
    net.configure("fc4", frozen=True)
    assert not with_new_head(model, list("xyz"), True, 7).network["fc4"].layer.frozen


WRONG = [
    ({"new_head": 1}, TypeError, "new_head must be True or False"),
    ({"freeze": "conf"}, ValueError, "freeze must name layers, conv1, fc2, fc3, or be one of conv, fc, head"),
    ({"freeze": "drop2"}, ValueError, r"freeze names layer 'drop2' \(Dropout\), which has no weights"),
    ({"freeze": 3}, TypeError, 'freeze must be "conv", "all", a name or a list'),
    ({"freeze": [3]}, TypeError, "freeze must name layers, got 3"),
    ({"freeze": []}, ValueError, "names no layer with parameters"),
    ({"layer_rates": "conv=1"}, TypeError, "layer_rates must be a dict such as"),
    ({"layer_rates": {"conv": -1}}, ValueError, r"layer_rates\['conv'\] must not be negative"),
    ({"layer_rates": {"nose": 1}}, ValueError, "layer_rates must name layers, conv1"),
]


@pytest.mark.parametrize(("options", "kind", "message"), WRONG)
def test_what_makes_no_sense_is_refused(tmp_path, before, options, kind, message):
    with pytest.raises(kind, match=message):
        go(tmp_path / "a", before, other(), **options)
    assert not (tmp_path / "a").exists()


def test_nets_whose_head_cannot_be_replaced(tmp_path, before):
    with pytest.raises(ValueError, match="new_head is for a loaded model, a Model, got a Network"):
        go(tmp_path / "a", before.network, other(), new_head=True)
    with pytest.raises(ValueError, match="new_head is for a loaded model, a Model, got 'digits'"):
        go(tmp_path / "a", "digits", other(), new_head=True)
    with pytest.raises(ValueError, match="sees 4 classes, the data have 5; new_head=True"):
        go(tmp_path / "a", before, other(tuple("vwxyz")))
    net = pcn.Network("shared", (2, 2, 1)).add(Linear(4), "one").add(Linear(4, share="one"), "two")
    net.add(SoftmaxCrossEntropy())
    model = pcn.Model(net, dict(net.initial()), pcn.Preprocessing((2, 2, 1)))
    with pytest.raises(
        ValueError, match=r"cannot replace layer 'two' \(Linear\), whose parameters are shared"
    ):
        go(tmp_path / "a", model, other(), new_head=True)


def test_a_new_head_in_a_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    common = ["--device", "cpu", "--quiet", "--epochs", "1", "--batch-size", "20", "--validation", "0.2"]
    assert main(["train", *toys(tmp_path), *common, "--out", "one"]) == 0
    x, y = toy(60)
    np.savez("two.npz", x=x, y=y % 2)
    new = ["--from", "one", "--new-head", "--freeze", "conv", "--layer-rates", "head=5", "--out", "two"]
    assert main(["train", "two.npz", *new, *common]) == 0
    one, two = pcn.load("one"), pcn.load("two")
    assert two.network.classes == 2
    assert moved(two, one) == {f"{name}.{part}" for name in ("fc3", "fc4") for part in ("weight", "bias")}
    assert two.network["fc4"].layer.lr_mult == 5
    capsys.readouterr()
    assert main(["train", "digits", "two.npz", "--from", "one"]) == 2
    assert "--from names the model to go on from: give the data alone beside it" in capsys.readouterr().err
    assert main(["train", "two.npz", "--from", "digits"]) == 2
    assert "--from must be a checkpoint or the folder of a run" in capsys.readouterr().err
    assert main(["train", "two.npz", "--from", "one", "--layer-rates", "head"]) == 2
    assert 'must be like "conv=0.1,head=10"' in capsys.readouterr().err
