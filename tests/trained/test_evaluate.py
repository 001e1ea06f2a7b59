"""Evaluation and prediction, against the same computed by hand on a linear model."""

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk

import pyconvnet as pcn
from pyconvnet.layers import Linear, SoftmaxCrossEntropy
from pyconvnet.trained.evaluate import ranks

IMAGE, CROP, CLASSES = (7, 8, 3), (5, 6), 7


def linear_model(crop=CROP, info=None, classes=CLASSES, image=IMAGE, names=None, scale=0.01):
    """Scores are a matrix times the preprocessed crop, so NumPy can follow every step."""
    rng = np.random.default_rng(11)
    shape = (*(crop or image[:2]), image[2])
    net = pcn.Network("linear", shape).add(Linear(classes), "fc").add(SoftmaxCrossEntropy(), "loss")
    parameters = {
        "fc.weight": rng.standard_normal((classes, int(np.prod(shape)))).astype(np.float32),
        "fc.bias": rng.standard_normal(classes).astype(np.float32),
    }
    mean = rng.uniform(90, 160, image).astype(np.float32)
    pre = pcn.Preprocessing(image, crop, mean, scale)
    return pcn.Model(net, parameters, pre, names or [f"c{i}" for i in range(classes)], info or {})


def probabilities(model, images, views):
    """Mean softmax over (top, left, mirrored) places, written out."""
    pre = model.preprocessing
    h, w = pre.crop or pre.image_shape[:2]
    total = 0
    for top, left, mirrored in views:
        x = (images.astype(np.float64) - pre.mean)[:, top : top + h, left : left + w] * pre.scale
        if mirrored:
            x = x[:, :, ::-1]
        scores = x.reshape(len(x), -1) @ model.parameters["fc.weight"].T.astype(np.float64)
        scores += model.parameters["fc.bias"]
        e = np.exp(scores - scores.max(axis=1, keepdims=True))
        total = total + e / e.sum(axis=1, keepdims=True)
    return total / len(views)


PLACES = [(1, 1), (0, 0), (0, 2), (2, 0), (2, 2)]
TEN = [(y, x, m) for m in (False, True) for y, x in PLACES]


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (45, *IMAGE), dtype=np.uint8), rng.integers(0, CLASSES, 45)


@pytest.mark.parametrize(
    ("views", "info", "places"),
    [
        (10, {}, TEN),
        (10, {"augment": {"mirror": True}}, TEN),
        (10, {"augment": {"mirror": False}}, TEN[:5]),
        (1, {}, TEN[:1]),
    ],
)
def test_evaluate_averages_the_views(images, views, info, places):
    x, y = images
    model = linear_model(info=info)
    result = pcn.evaluate(model, (x, y), views, batch_size=16)
    p = probabilities(model, x, places)
    order = np.argsort(-p, axis=1)
    assert result.views == len(places)
    assert result.error == np.mean(order[:, 0] != y)
    assert result.top5_error == np.mean(
        [label not in row for label, row in zip(y, order[:, :5], strict=True)]
    )
    np.testing.assert_allclose(result.loss, -np.log(p[np.arange(45), y]).mean(), rtol=1e-5)
    np.testing.assert_array_equal(result.predictions, order[:, 0])
    np.testing.assert_array_equal(result.labels, y)


def test_more_views_change_the_result(images):
    x, y = images
    one, ten = (pcn.evaluate(linear_model(), (x, y), v).loss for v in (1, 10))
    assert abs(one - ten) > 0.01


def test_views_that_fall_together_are_taken_once(images):
    x, y = images
    whole = linear_model(crop=None)
    assert pcn.evaluate(whole, (x, y)).views == 2  # as it is, and mirrored
    assert pcn.evaluate(linear_model(crop=None, info={"augment": {"mirror": False}}), (x, y)).views == 1
    places = [(0, 0, False), (0, 0, True)]
    p = probabilities(whole, x, places)
    np.testing.assert_allclose(
        pcn.evaluate(whole, (x, y)).loss, -np.log(p[np.arange(45), y]).mean(), rtol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 7, 45, 1000])
def test_the_batch_size_does_not_matter(images, batch_size):
    result = pcn.evaluate(linear_model(), images, batch_size=batch_size)
    reference = pcn.evaluate(linear_model(), images, batch_size=9)
    np.testing.assert_array_equal(result.predictions, reference.predictions)
    np.testing.assert_allclose(result.loss, reference.loss, rtol=1e-6)


def test_figures_of_the_result(images):
    x, y = images
    y = np.where(y == 6, 0, y)  # class 6 has no image
    result = pcn.evaluate(linear_model(), (x, y))
    assert result.confusion.sum() == 45
    for i in range(CLASSES):
        for j in range(CLASSES):
            assert result.confusion[i, j] == np.sum((y == i) & (result.predictions == j))
    assert np.isnan(result.class_errors[6])
    np.testing.assert_allclose(result.class_errors[2], np.mean(result.predictions[y == 2] != 2))
    assert repr(result).startswith(f"error {100 * result.error:.2f}% (top-1)")
    assert "on 45 images, 10 views each" in repr(result)
    report = result.report().splitlines()
    assert len(report) == 2 + 6
    assert "c6" not in "".join(line[:4] for line in report[2:])
    worst = [float(line.split()[2].rstrip("%")) for line in report[2:]]
    assert worst == sorted(worst, reverse=True)


def test_numbers_too_large_for_exp_do_not_matter(images):
    result = pcn.evaluate(linear_model(scale=1e3), images)
    assert np.isfinite(result.loss)
    assert result.loss > 1e3


def test_nan_is_an_error_not_a_success(images):
    model = linear_model()
    model.parameters["fc.weight"][:] = np.nan
    result = pcn.evaluate(model, images)
    assert result.error == result.top5_error == 1.0


def test_ranks_break_ties_by_index():
    scores = np.array([[1.0, 2, 2, 0], [3, 3, 3, 3], [0, 0, 0, 1], [np.nan, 1, 2, 3]])
    assert ranks(scores, np.array([2, 1, 3, 3]))[:3].tolist() == [1, 1, 0]
    assert ranks(scores, np.array([2, 1, 3, 3]))[3] >= 5


def test_evaluate_uses_the_held_out_images_and_the_models_class_names(tmp_path):
    mk.image_folder(tmp_path / "train", height=9, width=9)
    mk.image_folder(tmp_path / "val", classes=("ant", "cat"), count=2, height=9, width=9)
    model = linear_model(classes=4, names=["cat", "bee", "ant", "dog"])
    result = pcn.evaluate(model, tmp_path)
    assert result.labels.tolist() == [2, 2, 0, 0]
    x = np.stack(
        [
            pcn.data.load_image(tmp_path / "val" / c / f"{i}.jpg", IMAGE[:2])
            for c in ("ant", "cat")
            for i in (0, 1)
        ]
    )
    np.testing.assert_array_equal(result.predictions, probabilities(model, x, TEN).argmax(axis=1))


def test_replaced_files_are_told(tmp_path):
    root = mk.image_folder(tmp_path / "f", height=9, width=9)
    mk.truncate(root / "bee" / "1.jpg")
    with pytest.warns(RuntimeWarning, match="unreadable"):
        result = pcn.evaluate(linear_model(classes=3, names=["ant", "bee", "cat"]), root)
    assert list(result.skipped) == ["bee/1.jpg"]
    assert "1 unreadable files replaced" in repr(result)


@pytest.mark.parametrize("name", ["cpu", "emulator"])
def test_devices_agree(images, name):
    if name == "emulator":
        reason = dict(pcn.available_devices())["emulator"]
        if reason:
            pytest.skip(reason)
    x, y = images
    result = pcn.evaluate(linear_model(), (x, y), device=name)
    p = probabilities(linear_model(), x, TEN)
    np.testing.assert_allclose(result.loss, -np.log(p[np.arange(45), y]).mean(), rtol=1e-5)


# ---- predict ---------------------------------------------------------------------------------------------
def test_predict_takes_what_images_come_as(tmp_path, images):
    x = images[0]
    model = linear_model()
    p = probabilities(model, x, TEN[:1])
    expected = [(f"c{i}", p[3, i]) for i in np.argsort(-p[3])[:5]]
    Image.fromarray(x[3]).save(tmp_path / "x.png")

    def check(got):
        assert [name for name, _ in got] == [name for name, _ in expected]
        np.testing.assert_allclose([v for _, v in got], [v for _, v in expected], rtol=1e-4)

    check(pcn.predict(model, x[3]))
    check(pcn.predict(model, tmp_path / "x.png"))
    check(pcn.predict(model, str(tmp_path / "x.png")))
    check(pcn.predict(model, Image.fromarray(x[3])))
    check(pcn.predict(model, x[3].astype(np.float64)))
    for several in (
        x[2:5],
        [x[2], tmp_path / "x.png", Image.fromarray(x[4])],
        iter([x[2], x[3].astype(np.float32)]),
    ):
        results = pcn.predict(model, several, batch_size=2)
        check(results[1])
        assert len(results) in (2, 3)


def test_predict_prepares_images_of_any_size(tmp_path):
    big = mk.photo(3, 90, 120)
    big.save(tmp_path / "big.png")
    model = linear_model()
    small = pcn.data.load_image(tmp_path / "big.png", IMAGE[:2])
    assert pcn.predict(model, tmp_path / "big.png") == pcn.predict(model, small)
    assert pcn.predict(model, np.asarray(big)) == pcn.predict(model, small)
    assert pcn.predict(model, np.asarray(big.convert("L"))) == pcn.predict(model, big.convert("L"))


def test_predict_views_and_top(images):
    x = images[0]
    model = linear_model()
    p = probabilities(model, x[:1], TEN)[0]
    got = pcn.predict(model, x[:1], top=99, views=10)[0]
    assert len(got) == CLASSES
    np.testing.assert_allclose(sorted(v for _, v in got), np.sort(p), rtol=1e-4)
    assert abs(sum(v for _, v in got) - 1) < 1e-9
    assert len(pcn.predict(model, x[0], top=2)) == 2


def test_grey_models_take_two_dimensional_arrays(rng):
    model = linear_model(crop=None, image=(6, 6, 1))
    x = rng.integers(0, 256, (3, 6, 6), dtype=np.uint8)
    p = probabilities(model, x[..., None], [(0, 0, False)])
    assert pcn.predict(model, x[0])[0][0] == f"c{p[0].argmax()}"
    assert [r[0][0] for r in pcn.predict(model, x)] == [f"c{i}" for i in p.argmax(axis=1)]


def test_models_from_a_file(tmp_path, images):
    model = linear_model(info={"augment": {"mirror": False}})
    pcn.save(model, tmp_path / "m.safetensors")
    assert pcn.evaluate(tmp_path / "m.safetensors", images).loss == pcn.evaluate(model, images).loss
    assert pcn.predict(str(tmp_path / "m.safetensors"), images[0][0]) == pcn.predict(model, images[0][0])


BAD = [
    ("not a model", lambda t: pcn.evaluate(7, "digits"), TypeError, "Model, a Run or the path"),
    ("no file", lambda t: pcn.evaluate(t / "m.safetensors", "digits"), FileNotFoundError, "no such file"),
    (
        "shape",
        lambda t: pcn.evaluate(linear_model(), "digits"),
        ValueError,
        r"model's shape \(7, 8, 3\), got \(8, 8, 1\)",
    ),
    (
        "views 5",
        lambda t: pcn.evaluate(linear_model(), ARRAYS, 5),
        ValueError,
        "views must be 1 or 10, got 5",
    ),
    ("views True", lambda t: pcn.evaluate(linear_model(), ARRAYS, True), ValueError, "views must be 1 or 10"),
    (
        "batch 0",
        lambda t: pcn.evaluate(linear_model(), ARRAYS, batch_size=0),
        ValueError,
        "batch_size must be at least 1",
    ),
    (
        "batch 1.5",
        lambda t: pcn.evaluate(linear_model(), ARRAYS, batch_size=1.5),
        TypeError,
        "batch_size must be an int",
    ),
    (
        "workers",
        lambda t: pcn.evaluate(linear_model(), ARRAYS, workers=-1),
        ValueError,
        "workers must be at least 0",
    ),
    (
        "device",
        lambda t: pcn.evaluate(linear_model(), ARRAYS, device="gpu"),
        ValueError,
        "device must be 'cpu'",
    ),
    ("classes", lambda t: pcn.evaluate(linear_model(classes=2), ARRAYS), ValueError, r"labels .* \[0, 2\)"),
    ("names", lambda t: pcn.evaluate(linear_model(), mk.image_folder(t / "f")), ValueError, "class 'ant'"),
    ("no images", lambda t: pcn.predict(linear_model(), []), ValueError, "must not be empty"),
    ("a number", lambda t: pcn.predict(linear_model(), 3), TypeError, "paths, PIL images or arrays, got int"),
    (
        "numbers",
        lambda t: pcn.predict(linear_model(), [3]),
        TypeError,
        "paths, PIL images or arrays, got int",
    ),
    (
        "float shape",
        lambda t: pcn.predict(linear_model(), np.zeros((9, 9, 3))),
        ValueError,
        "float of the model's shape",
    ),
    ("NaN", lambda t: pcn.predict(linear_model(), np.full(IMAGE, np.nan)), ValueError, "must be finite"),
    (
        "5-D",
        lambda t: pcn.predict(linear_model(), np.zeros((1,) * 5, np.uint8)),
        ValueError,
        r"\(n, H, W, C\)",
    ),
    (
        "2 channels",
        lambda t: pcn.predict(linear_model(), np.zeros((9, 9, 2), np.uint8)),
        ValueError,
        "1 or 3 channels",
    ),
    ("int64", lambda t: pcn.predict(linear_model(), np.zeros(IMAGE, int)), ValueError, "must be uint8"),
    (
        "empty array",
        lambda t: pcn.predict(linear_model(), np.zeros((0, 8, 3), np.uint8)),
        ValueError,
        "must be uint8",
    ),
    ("top 0", lambda t: pcn.predict(linear_model(), IMG, top=0), ValueError, "top must be at least 1"),
    ("top text", lambda t: pcn.predict(linear_model(), IMG, top="5"), TypeError, "top must be an integer"),
    (
        "missing file",
        lambda t: pcn.predict(linear_model(), t / "x.jpg"),
        FileNotFoundError,
        "x.jpg: no such image",
    ),
    ("text file", lambda t: pcn.predict(linear_model(), text(t)), ValueError, "note.jpg: not an image"),
]
ARRAYS = (np.zeros((3, *IMAGE), np.uint8), [0, 1, 2])
IMG = np.zeros(IMAGE, np.uint8)


def text(tmp):
    (tmp / "note.jpg").write_text("hello")
    return tmp / "note.jpg"


@pytest.mark.parametrize(("call", "error", "message"), [pytest.param(*c[1:], id=c[0]) for c in BAD])
def test_bad_input(call, error, message, tmp_path):
    with pytest.raises(error, match=message):
        call(tmp_path)
