"""What a layer makes of images, against the layers run by hand; nearest neighbours, and their picture."""

import numpy as np
import pytest
from PIL import Image
from support.networks import everything
from support.runs import go, toy

import pyconvnet as pcn
from pyconvnet import models, ops
from pyconvnet.cli.main import main
from pyconvnet.plan import Plan
from pyconvnet.trained import plots
from pyconvnet.trained.features import last_hidden_layer, nearest
from pyconvnet.trained.neighbours import neighbours


@pytest.fixture
def run(tmp_path):
    return go(tmp_path / "run", epochs=1)


def by_hand(model, x):
    """conv1, fc2 and fc3 of the small net by the reference's operations, of the centre crop."""
    p, pre = model.parameters, model.preprocessing
    crop = (x[:, 1:7, 1:7].astype(np.float32) - pre.mean[1:7, 1:7]) * np.float32(pre.scale)
    conv1 = ops.conv2d(crop, p["conv1.weight"], p["conv1.bias"], pad=1, activation="relu")
    fc2 = np.maximum(conv1.reshape(len(x), -1) @ p["fc2.weight"].T + p["fc2.bias"], 0)
    return {"conv1": conv1, "fc2": fc2, "drop2": fc2, "fc3": fc2 @ p["fc3.weight"].T + p["fc3.bias"]}


@pytest.mark.parametrize("device", ["cpu", "emulator"])
def test_the_layers_run_by_hand(run, device):
    x, _ = toy(21, seed=5)
    for layer, expected in by_hand(run.model, x).items():
        found = run.model.features(x, layer, batch_size=8, device=device)
        assert (found.shape, found.dtype) == (expected.shape, np.float32)
        wanted = expected * (
            0.7 if run.model.network["drop2"].layer.mode == "paper" and layer == "drop2" else 1
        )
        if layer == "fc3" and run.model.network["drop2"].layer.mode == "paper":
            wanted = by_hand(run.model, x)["fc2"] * 0.7 @ run.model.parameters["fc3.weight"].T
            wanted += run.model.parameters["fc3.bias"]
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=2e-5)


def test_one_image_a_file_and_a_dataset_give_the_same(run, tmp_path):
    x, y = toy(6, seed=5)
    all_of_them = run.model.features(x, "fc2")
    Image.fromarray(x[2]).save(tmp_path / "a.png")
    np.testing.assert_allclose(run.model.features(x[2], "fc2"), all_of_them[2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        run.model.features([tmp_path / "a.png"], "fc2"), all_of_them[2:3], rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(run.model.features(pcn.ArrayDataset(x, y), "fc2"), all_of_them)


def test_every_layer_of_every_kind_can_be_asked_for():
    """Also those whose work another kernel does in training."""
    net = everything()
    plan = Plan(net, "cpu", 2, train=False, fuse=False)
    pre = pcn.Preprocessing(net.input_shape, None, None, 0.01)
    model = pcn.Model(net, plan.get_parameters(), pre, list("abcde"))
    x = np.random.default_rng(1).integers(0, 256, (3, *net.input_shape), dtype=np.uint8)
    for node in net:
        if not node.layer.is_cost:
            assert model.features(x, node.name, device="emulator").shape == (3, *node.output_shape)


def test_what_is_no_layer(run):
    x, _ = toy(3)
    with pytest.raises(ValueError, match="layer must be one of conv1, fc2, drop2, fc3, got 'fc7'"):
        run.model.features(x, "fc7")
    with pytest.raises(ValueError, match="layer must be one of"):
        run.model.features(x, "loss")
    with pytest.raises(ValueError, match="must have the model's shape"):
        run.model.features(pcn.ArrayDataset(x[:, :6], [0, 0, 0]), "fc2")


def test_the_last_hidden_layer():
    assert last_hidden_layer(models.alexnet(10, input_size=67, width=0.03)) == "fc7"
    assert last_hidden_layer(models.digits()) == "fc3"
    with pytest.raises(ValueError, match="has no hidden layer"):
        last_hidden_layer(pcn.Network("one", (3,)).add(pcn.layers.Linear(2), "fc"))


# ---- neighbours --------------------------------------------------------------------------------------------
def test_nearest_is_sorting_by_distance(rng):
    known, asked = rng.standard_normal((300, 5, 4)), rng.standard_normal((7, 5, 4))
    indices, distances = nearest(known, asked, 9)
    all_of_them = np.linalg.norm((asked[:, None] - known[None]).reshape(7, 300, -1), axis=2)
    np.testing.assert_array_equal(indices, np.argsort(all_of_them, axis=1)[:, :9])
    np.testing.assert_allclose(distances, np.sort(all_of_them, axis=1)[:, :9], rtol=1e-6)


def test_far_from_the_origin_and_equal_ones(rng):
    """Differences of large numbers, where float32 products tell nothing; of equal ones the first."""
    known = (1e4 + rng.integers(0, 3, (400, 3))).astype(np.float32)
    indices, distances = nearest(known, known[:5], 3)
    for row, q in enumerate(known[:5]):
        same = np.flatnonzero((known == q).all(axis=1))
        assert (distances[row] == 0).all()
        assert set(indices[row]) <= set(same)


@pytest.mark.parametrize(
    ("known", "asked", "count", "message"),
    [
        (np.ones((3, 2)), np.ones((1, 3)), 1, "vectors of one length, got 2 and 3"),
        (np.ones((3, 2)), np.ones((1, 2)), 4, "count must be at most 3, got 4"),
        (np.full((3, 2), np.nan), np.ones((1, 2)), 1, "features must be finite"),
        (np.ones(3), np.ones((1, 2)), 1, "features must be numbers of shape"),
        (np.array([["a"]]), np.ones((1, 2)), 1, "features must be numbers of shape"),
    ],
)
def test_bad_vectors(known, asked, count, message):
    with pytest.raises(ValueError, match=message):
        nearest(known, asked, count)


def test_the_picture_of_neighbours(run, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    from pyconvnet.trained import neighbours as module

    x, y = toy(30, seed=4)
    drawn = []
    real = module._draw
    monkeypatch.setattr(module, "_draw", lambda *given: (drawn.append(given[2]), real(*given))[1])
    path = neighbours(run, (x, y), tmp_path / "n.png", queries=[3, 17], count=4)
    assert Image.open(path).size[0] > 300
    found = run.model.features(x, "fc2")
    for row in drawn[0]:
        order = np.argsort(np.linalg.norm(found - found[row[0]], axis=1), kind="stable")
        assert row[1:] == [i for i in order if i != row[0]][:4]
    with pytest.raises(ValueError, match="count must be at most 29"):
        neighbours(run, (x, y), tmp_path / "n.png", count=30)
    with pytest.raises(ValueError, match="queries must be"):
        neighbours(run, (x, y), tmp_path / "n.png", queries=[30])


def test_the_two_towers_stand_apart(tmp_path):
    """48 filters of each in three full rows of 16, as in the paper's figure 3, and a band between."""
    pytest.importorskip("matplotlib")
    assert plots._towers(models.alexnet(10, input_size=67), "conv1") == 2
    assert plots._towers(models.alexnet(10, groups=1, input_size=67), "conv1") == 1
    assert plots._towers(models.digits(), "conv1") == 1
    assert plots._columns_of_tower(48, 3) == 16
    assert plots._columns_of_tower(6, 3) == 6
    net = models.alexnet(10, input_size=67, width=0.25)
    parameters = Plan(net, "cpu", 1, train=False).get_parameters()
    model = pcn.Model(net, parameters, pcn.Preprocessing((67, 67, 3), None, None, 1.0))
    assert Image.open(plots.filters(model, tmp_path / "f.png")).size[0] > 300


# ---- in a shell --------------------------------------------------------------------------------------------
def test_the_command(run, tmp_path, capsys):
    x, y = toy(7, seed=5)
    for i, image in enumerate(x):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    typed = ["features", str(run.out), "--out", str(tmp_path / "f.npy"), "--device", "cpu"]
    files = [str(tmp_path / f"{i}.png") for i in range(7)]
    assert main([*typed, *files, "--layer", "conv1", "--names", str(tmp_path / "names.txt")]) == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "f.npy"), run.model.features(x, "conv1"), rtol=1e-5, atol=1e-6
    )
    assert (tmp_path / "names.txt").read_text().split() == files
    assert "conv1 of 7 images, 6x6x6 each" in capsys.readouterr().out
    np.savez(tmp_path / "d.npz", x=x, y=y)
    assert main([*typed, str(tmp_path / "d.npz")]) == 0
    np.testing.assert_allclose(
        np.load(tmp_path / "f.npy"), run.model.features(x, "fc2"), rtol=1e-5, atol=1e-6
    )
    assert main([*typed[:2], "--out", "f.txt", *files]) == 2
    assert "must end in .npy" in capsys.readouterr().err


def test_the_command_for_neighbours(run, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    x, y = toy(20, seed=5)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    assert main(["plot", "neighbours", str(run.out), str(tmp_path / "d.npz"), "--count", "3"]) == 0
    assert (run.out / "neighbours.png").is_file()
