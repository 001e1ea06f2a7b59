"""Several models judged together, and what was predicted for every image."""

import csv
import io

import numpy as np
import pytest
from support import make_files as mk
from support.runs import go, toy

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.layers import Linear, SoftmaxCrossEntropy

CLASSES = 6


def linear(seed, image=(7, 8, 3), names=None, classes=CLASSES):
    rng = np.random.default_rng(seed)
    net = pcn.Network("linear", image).add(Linear(classes), "fc").add(SoftmaxCrossEntropy(), "loss")
    parameters = {
        "fc.weight": rng.standard_normal((classes, int(np.prod(image)))).astype(np.float32),
        "fc.bias": rng.standard_normal(classes).astype(np.float32),
    }
    pre = pcn.Preprocessing(image, None, np.full(image, 120, np.float32), 0.01)
    return pcn.Model(net, parameters, pre, names or [f"c{i}" for i in range(classes)])


def probabilities(model, x):
    """The softmax by hand, in float64."""
    scores = ((x.astype(np.float64) - 120) * 0.01).reshape(len(x), -1)
    scores = scores @ model.parameters["fc.weight"].T.astype(np.float64) + model.parameters["fc.bias"]
    e = np.exp(scores - scores.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.fixture
def data(rng):
    return rng.integers(0, 256, (45, 7, 8, 3), dtype=np.uint8), rng.integers(0, CLASSES, 45)


def test_the_mean_of_the_probabilities_decides(data):
    x, y = data
    models = [linear(seed) for seed in (1, 2, 3)]
    p = np.mean([probabilities(model, x) for model in models], axis=0)
    result = pcn.evaluate(models, data, 1, batch_size=16)
    order = np.argsort(-p, axis=1)
    np.testing.assert_array_equal(result.predictions, order[:, 0])
    np.testing.assert_array_equal(result.top_classes, order[:, :5])
    assert result.error == (order[:, 0] != y).mean()
    assert result.top5_error == np.mean(
        [label not in best for label, best in zip(y, order[:, :5], strict=True)]
    )
    own = p[np.arange(45), y]
    assert result.loss == pytest.approx(-np.log(own).mean(), rel=1e-5)
    np.testing.assert_allclose(result.true_probabilities, own, rtol=1e-4)
    np.testing.assert_allclose(result.top_probabilities, -np.sort(-p, axis=1)[:, :5], rtol=1e-4)
    singles = [pcn.evaluate(model, data, 1).error for model in models]
    assert result.error not in singles or len(set(singles)) < 3


@pytest.mark.parametrize("views", [1, 10])
def test_as_the_mean_of_what_predict_says(tmp_path, views):
    """Of two trained nets, for each of the views averaged first."""
    runs = [go(tmp_path / str(seed), seed=seed, epochs=1) for seed in (0, 1)]
    x, y = toy(40, seed=9)
    result = pcn.evaluate([runs[0], tmp_path / "1" / "last.safetensors"], (x, y), views)
    each = []
    for run in runs:
        told = pcn.predict(run, x, top=4, views=views)
        each.append([[dict(guess)[str(i)] for i in range(4)] for guess in told])
    p = np.mean(each, axis=0)
    np.testing.assert_allclose(result.top_probabilities, -np.sort(-p, axis=1), rtol=1e-5)
    assert result.error == (p.argmax(axis=1) != y).mean()


def test_one_model_in_a_list_is_that_model(data):
    one, two = pcn.evaluate(linear(1), data, 1), pcn.evaluate([linear(1)], data, 1)
    assert (one.loss, one.error) == (two.loss, two.error)
    np.testing.assert_array_equal(one.top_probabilities, two.top_probabilities)


def test_models_of_different_sizes(tmp_path):
    """Each sees the files prepared as its own."""
    folder = mk.image_folder(tmp_path / "data", ("a", "b"), count=4, height=30, width=40)
    models = [linear(1, (12, 12, 3), ["a", "b"], 2), linear(2, (9, 9, 3), ["a", "b"], 2)]
    result = pcn.evaluate(models, folder, 1, batch_size=3)
    p = []
    for model in models:
        size = model.preprocessing.image_shape[0]
        p.append(probabilities(model, pcn.ImageFolder(folder, size).read(range(8))))
    p = np.mean(p, axis=0)
    np.testing.assert_allclose(result.top_probabilities, -np.sort(-p, axis=1), rtol=1e-4)
    assert result.names == [str(pcn.ImageFolder(folder, 9).path(i)) for i in range(8)]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "models must not be empty"),
        (
            [linear(1), linear(2, names=list("abcdef"))],
            r"model 2 has 6 \(a, b, c, d, e, …\), the first 6 \(c0",
        ),
        ([linear(1), linear(2, classes=5)], "must have the same classes"),
    ],
)
def test_models_that_do_not_go_together(data, models, message):
    with pytest.raises(ValueError, match=message):
        pcn.evaluate(models, data)


def test_the_table_of_all_images(data):
    x, _ = data
    result = pcn.evaluate(linear(1), data, 1)
    rows = list(csv.DictReader(io.StringIO(result.csv())))
    assert [row["image"] for row in rows] == [str(i) for i in range(45)]
    p = probabilities(linear(1), x)
    for i, row in enumerate(rows):
        order = np.argsort(-p[i])
        assert row["true"] == f"c{result.labels[i]}"
        assert row["class_1"] == f"c{order[0]}"
        assert row["class_5"] == f"c{order[4]}"
        assert float(row["probability_2"]) == pytest.approx(p[i, order[1]], rel=1e-4)
        assert row["top1"] == str(int(order[0] == result.labels[i]))
        assert row["top5"] == str(int(result.labels[i] in order[:5]))
    assert np.mean([row["top1"] == "0" for row in rows]) == pytest.approx(result.error)


def test_names_with_commas_and_files(tmp_path, capsys):
    folder = mk.image_folder(tmp_path / "data", ("ant, red", 'b"ee'), count=2, height=20, width=20)
    pcn.save(linear(1, (12, 12, 3), ["ant, red", 'b"ee'], 2), tmp_path / "m.safetensors")
    pcn.save(linear(2, (12, 12, 3), ["ant, red", 'b"ee'], 2), tmp_path / "n.safetensors")
    typed = [
        "evaluate",
        str(tmp_path / "m.safetensors"),
        str(folder),
        "--with",
        str(tmp_path / "n.safetensors"),
    ]
    assert main([*typed, "--csv", str(tmp_path / "t.csv"), "--device", "cpu"]) == 0
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["true"] for row in rows} == {"ant, red", 'b"ee'}
    assert all(row["image"].startswith(str(folder)) for row in rows)
    both = [tmp_path / f"{name}.safetensors" for name in "mn"]
    assert repr(pcn.evaluate(both, folder)) in capsys.readouterr().out
