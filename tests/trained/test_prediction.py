"""predict() of files and folders, the plan it keeps, and evaluate() and predict() on several devices."""

import copy
import gc
import json
import pickle
import re
import threading
import warnings
import weakref

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk
from support.runs import small, toy
from test_evaluate import IMAGE, linear_model

import pyconvnet as pcn
from pyconvnet.cli.main import main
from pyconvnet.common import threads
from pyconvnet.data import load_image
from pyconvnet.plan import Plan
from pyconvnet.trained import images as reading


@pytest.fixture
def folder(tmp_path):
    root = mk.image_folder(tmp_path / "images", ("b", "a"), count=2, height=12, width=9)
    (root / "a" / "note.txt").write_text("no image")
    mk.photo(7).save(root / "top.png")
    return root


def alike(guesses, expected):
    """The same up to rounding: a batch's size decides the order of sums."""
    assert [guess and [name for name, _ in guess] for guess in guesses] == [
        guess and [name for name, _ in guess] for guess in expected
    ]
    for guess, other in zip(guesses, expected, strict=True):
        np.testing.assert_allclose([p for _, p in guess or ()], [p for _, p in other or ()], rtol=1e-5)


FILES = ["a/0.jpg", "a/1.jpg", "b/0.jpg", "b/1.jpg", "top.png"]


# ---- files and folders -------------------------------------------------------------------------------------
def test_a_folder_is_all_its_images_in_order(folder):
    model = linear_model()
    paths = [str(folder / name) for name in FILES]
    each = [pcn.predict(model, path) for path in paths]
    assert len({name for guess in each for name, _ in guess[:1]}) > 1  # they can be told apart
    for images in (folder, str(folder), [folder]):
        guesses = pcn.predict(model, images, batch_size=2)
        alike(guesses, each)
        assert guesses.paths == paths
    mixed = pcn.predict(model, [np.zeros(IMAGE, np.uint8), folder / "a", mk.photo(7)])
    alike(mixed[1:], [*each[:2], each[4]])
    assert mixed.paths == [None, *paths[:2], None]
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        pcn.predict(model, [paths[0], folder / "empty"])


def test_encoded_bytes_are_one_image(folder):
    model = linear_model()
    assert pcn.predict(model, (folder / "top.png").read_bytes()) == pcn.predict(model, folder / "top.png")
    with pytest.raises(ValueError, match="not an image file"):
        pcn.predict(model, b"abc")


def test_unreadable_images_are_skipped_where_asked(folder):
    model = linear_model()
    good = pcn.predict(model, folder)
    mk.truncate(folder / "a" / "1.jpg")
    (folder / "b" / "0.jpg").write_bytes(b"")
    images = [folder, folder / "gone.jpg", b"abc"]
    with pytest.warns(RuntimeWarning) as caught:
        guesses = pcn.predict(model, images, on_error="skip", batch_size=2)
    alike(guesses, [good[0], None, None, *good[3:], None, None])
    messages = [str(w.message) for w in caught]
    assert re.search(r"images: left out: 1 \.txt ", messages.pop(0))
    assert [re.search(r"[\w.]+(?=: )", message).group() for message in messages] == [
        "1.jpg",
        "0.jpg",
        "gone.jpg",
        "image",
    ]
    with pytest.warns(RuntimeWarning, match=r"0\.jpg"):
        assert pcn.predict(model, folder / "b" / "0.jpg", on_error="skip") is None
    with pytest.raises(ValueError, match=r"1\.jpg"):
        pcn.predict(model, folder)
    with pytest.warns(RuntimeWarning, match="top.png.*max_pixels"):
        guesses = pcn.predict(
            model, [folder / "a" / "0.jpg", folder / "top.png"], on_error="skip", max_pixels=108
        )
    assert [guess is None for guess in guesses] == [False, True]
    with pytest.raises(ValueError, match="must be uint8"):  # no question of reading
        pcn.predict(model, [np.zeros((3, 3, 3), int)], on_error="skip")


def test_files_are_read_on_all_threads(folder, monkeypatch):
    """In order, and the settings of warnings are as before."""
    model, paths, filters = linear_model(), [folder / name for name in FILES[:4]], warnings.filters.copy()
    expected, before = pcn.predict(model, paths), threads.get_num_threads()
    met = threading.Barrier(2)

    def load(*arguments, **options):
        met.wait(60)  # for another thread
        return load_image(*arguments, **options)

    threads.set_num_threads(2)
    try:
        with monkeypatch.context() as patched:
            patched.setattr(reading, "load_image", load)
            assert pcn.predict(model, paths) == expected
        assert warnings.filters == filters
        for name in (FILES[3], FILES[1]):
            (folder / name).write_bytes(b"")
        with pytest.raises(ValueError, match=FILES[1]):
            pcn.predict(model, paths)
    finally:
        threads.set_num_threads(before)


def test_the_command_line_does_the_same(folder, tmp_path, capsys):
    model = linear_model()
    model.save(tmp_path / "m.safetensors")
    (folder / "a" / "1.jpg").write_bytes(b"")
    typed = ["predict", str(tmp_path / "m.safetensors"), str(folder), "--batch-size", "2", "--device", "cpu"]
    assert main([*typed, "--json"]) == 2
    said = capsys.readouterr()
    assert "1.jpg: not an image" in said.err
    assert said.err.count("\n") == 1
    with pytest.warns(RuntimeWarning):
        expected = pcn.predict(model, folder, on_error="skip", device="cpu", batch_size=2)
    lines = [json.loads(line) for line in said.out.splitlines()]
    shown = [[(c["name"], c["probability"]) for c in line["classes"]] for line in lines]
    assert [line["image"] for line in lines] == [
        p for p, g in zip(expected.paths, expected, strict=True) if g
    ]
    assert shown == [guess for guess in expected if guess]
    assert main([*typed, "--on-error", "raise"]) == 2
    assert capsys.readouterr().out == ""


# ---- the plan that is kept ---------------------------------------------------------------------------------
@pytest.fixture
def plans(monkeypatch):
    """Every plan that is made, as weak references."""
    made = []

    def init(self, *arguments, original=Plan.__init__, **options):
        made.append(weakref.ref(self))
        original(self, *arguments, **options)

    monkeypatch.setattr(Plan, "__init__", init)
    return made


@pytest.fixture
def x(rng):
    return rng.integers(0, 256, (20, *IMAGE), dtype=np.uint8)


def test_one_plan_predicts_many_times(tmp_path, plans, x):
    model = pcn.load(linear_model().save(tmp_path / "m.safetensors"))
    first = [pcn.predict(model, image, device="cpu") for image in x]
    assert len(plans) == 1
    alike(pcn.predict(model, x, device="cpu", batch_size=8), first)
    assert len(plans) == 2  # for eight at a time
    assert [
        pcn.predict(model, image, device="cpu") for image in x
    ] == first  # the same bits from the larger plan
    assert len(plans) == 2
    for other in ({"precision": "bf16"}, {"device": ["cpu", "cpu"]}, {"device": "cpu"}):
        pcn.predict(model, x[0], **{"device": "cpu", **other})
    assert len(plans) == 5
    assert sum(plan() is not None for plan in plans) == 1


def test_evaluate_keeps_the_same_plan(tmp_path, plans, x, rng):
    model = pcn.load(linear_model().save(tmp_path / "m.safetensors"))
    data = x, rng.integers(0, 7, 20)
    one = pcn.evaluate(model, data, 1, device="cpu", batch_size=8)
    for size in (8, 8, 3):
        again = pcn.evaluate(model, data, 1, device="cpu", batch_size=size)
        assert np.array_equal(again.predictions, one.predictions)
        np.testing.assert_allclose(again.loss, one.loss, rtol=1e-6)
    alone = pcn.predict(linear_model(), x[0], device="cpu")
    assert len(plans) == 2
    assert pcn.predict(model, x[0], device="cpu") == alone
    assert len(plans) == 2
    for other in ({"batch_size": 9}, {"precision": "bf16"}, {"device": ["cpu", "cpu"]}, {"device": "cpu"}):
        pcn.evaluate(model, data, 1, **{"device": "cpu", "batch_size": 8, **other})
    assert len(plans) == 6
    gc.collect()
    assert sum(plan() is not None for plan in plans) == 1


def replaced(model):
    model.parameters["fc.bias"] = model.parameters["fc.bias"][::-1].copy()


def in_place(model):
    model.parameters["fc.bias"][:] = model.parameters["fc.bias"][::-1].copy()


def made_writable(model):
    model.parameters["fc.bias"].flags.writeable = True
    in_place(model)


def through_a_view(model):
    replaced(model)
    view = model.parameters["fc.bias"][:]
    pcn.predict(model, np.zeros(IMAGE, np.uint8), device="cpu")
    view[:] = view[::-1].copy()
    view[0] += 5


def another_mean(model):
    model.preprocessing.mean[:] = 40


def another_scale(model):
    model.preprocessing = pcn.Preprocessing(IMAGE, (5, 6), None, 0.002)


def another_network(model):
    net = pcn.Network("other", model.network.input_shape).add(pcn.layers.Linear(7, activation="relu"), "fc")
    model.network = net.add(pcn.layers.SoftmaxCrossEntropy(), "loss")


def configured(model):
    model.network.configure("fc", activation="relu")


CHANGES = [
    replaced,
    in_place,
    made_writable,
    through_a_view,
    another_mean,
    another_scale,
    another_network,
    configured,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("loaded", [True, False])
def test_a_changed_model_never_predicts_as_before(tmp_path, x, change, loaded):
    def asked(model):
        guess = pcn.predict(model, x[0], device="cpu")
        return guess, pcn.evaluate(model, (x[:3], np.arange(3)), 1, device="cpu").loss

    model = linear_model()
    if loaded:
        model = pcn.load(model.save(tmp_path / "m.safetensors"))
    before = asked(model)
    if loaded and change is in_place:
        with pytest.raises(ValueError, match="read-only"):
            change(model)
        return
    change(model)
    after = asked(model)
    assert after == asked(copy.copy(model))
    for a, b in zip(after, before, strict=True):
        assert a != b


def test_trained_models_are_read_only(tmp_path):
    run = pcn.train(
        small(), toy(), epochs=0, validation=False, out=tmp_path / "r", progress=False, devices="cpu"
    )
    with pytest.raises(ValueError, match="read-only"):
        run.model.parameters["fc2.weight"] *= 2


def test_a_model_with_a_lost_parameter_is_refused(x):
    model = linear_model()
    pcn.predict(model, x[0], device="cpu")
    del model.parameters["fc.bias"]
    with pytest.raises(ValueError, match=r"lacks fc\.bias"):
        pcn.predict(model, x[0], device="cpu")


def test_the_plan_can_be_given_back_and_does_not_travel(plans, x):
    model = linear_model()
    bare = len(pickle.dumps(model))
    first = pcn.predict(model, x[0], device="cpu")
    for twin in (pickle.loads(pickle.dumps(model)), copy.copy(model), copy.deepcopy(model)):
        assert "_kept" not in vars(twin)
        assert pcn.predict(twin, x[0], device="cpu") == first
    assert len(pickle.dumps(model)) == bare
    assert plans[0]() is not None
    model.release()
    gc.collect()
    assert plans[0]() is None
    model.release()
    assert pcn.predict(model, x[0], device="cpu") == first
    del model, twin
    gc.collect()
    assert not any(plan() for plan in plans)


def test_an_error_leaves_no_half_used_plan(plans, x):
    model = linear_model()
    first = pcn.predict(model, x[0], device="cpu")
    with pytest.raises(ValueError, match="must be uint8"):
        pcn.predict(model, [x[0], np.zeros((2, 2, 2), int)], device="cpu", batch_size=1)
    gc.collect()
    assert plans[0]() is None
    assert pcn.predict(model, x[0], device="cpu") == first


def test_threads_share_a_model(x):
    model, data = linear_model(), (x, np.zeros(20, int))
    expected = [pcn.predict(model, image, device="cpu") for image in x]
    loss = pcn.evaluate(model, data, 1, device="cpu", batch_size=1).loss
    wrong, start = [], threading.Barrier(4)

    def work(offset):
        start.wait()
        for i in range(60):
            k = (i * 7 + offset * 5) % len(x)
            if pcn.predict(model, x[k], device="cpu") != expected[k]:
                wrong.append(k)
            if i % 20 == offset and pcn.evaluate(model, data, 1, device="cpu", batch_size=1).loss != loss:
                wrong.append("evaluate")

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


# ---- several devices ---------------------------------------------------------------------------------------
SPLITS = {
    "towers": (2, {}),
    "replicas": (2, {"replicas": 2}),
    "hybrid": (2, {"replicas": 2, "hybrid": True}),
    "both": (4, {"replicas": 2}),
}


@pytest.fixture
def trained():
    net = small()
    pre = pcn.Preprocessing((8, 8, 3), (6, 6), np.full(3, 100, np.float32), 0.02)
    return pcn.Model(net, dict(net.initial(3)), pre, ["a", "b", "c", "d"])


@pytest.mark.parametrize("kind", ["cpu", "emulator"])
@pytest.mark.parametrize("split", SPLITS)
def test_several_devices_agree_with_one(trained, plans, split, kind):
    count, how = SPLITS[split]
    data = toy(11)
    one = pcn.evaluate(trained, data, 1, device=kind, batch_size=4)
    several = pcn.evaluate(trained, data, 1, device=[kind] * count, batch_size=4, **how)
    np.testing.assert_array_equal(several.predictions, one.predictions)
    np.testing.assert_allclose(several.loss, one.loss, rtol=1e-6)
    for images in (data[0], data[0][:1]):  # one image: a replica gets none
        alone = pcn.predict(trained, images, device=kind, batch_size=4)
        shared = pcn.predict(trained, images, device=[kind] * count, batch_size=4, **how)
        for a, b in zip(alone, shared, strict=True):
            assert [name for name, _ in a] == [name for name, _ in b]
            np.testing.assert_allclose([p for _, p in b], [p for _, p in a], rtol=1e-5)


def test_several_devices_on_the_command_line(trained, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(
        Plan,
        "__init__",
        lambda self, *a, init=Plan.__init__, **k: init(self, *a, **k) or made.append(self.partition),
    )
    x, y = toy(8)
    trained.save(tmp_path / "m.safetensors")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    Image.fromarray(x[0]).save(tmp_path / "0.png")
    said = []
    for devices in (
        ["--device", "cpu"],
        ["--device", "cpu,cpu"],
        ["--devices", "cpu,cpu", "--replicas", "2", "--hybrid"],
    ):
        model = str(tmp_path / "m.safetensors")
        assert main(["evaluate", model, str(tmp_path / "data.npz"), "--json", *devices]) == 0
        assert main(["predict", model, str(tmp_path / "0.png"), *devices]) == 0
        values, guess = capsys.readouterr().out.splitlines()
        values = json.loads(values)
        said.append((values["error"], round(values["loss"], 5), guess))
    assert said[1:] == said[:1] * 2
    assert [(p.replicas, p.towers, p.hybrid) for p in made] == [
        *[(1, 1, False)] * 2, *[(1, 2, False)] * 2, *[(2, 1, True)] * 2
    ]  # fmt: skip


@pytest.mark.parametrize("function", ["evaluate", "predict"])
def test_impossible_splits_are_refused(trained, function):
    data = toy(4)
    call = {
        "evaluate": lambda **k: pcn.evaluate(trained, data, **k),
        "predict": lambda **k: pcn.predict(trained, data[0], **k),
    }
    for options, error, message in (
        ({"device": ["cpu"] * 3, "replicas": 2}, ValueError, "replicas must divide the number of devices, 3"),
        ({"device": "cpu", "replicas": 2}, ValueError, "replicas must divide"),
        ({"device": []}, ValueError, "at least one device"),
        ({"device": ["cpu", "emulator"]}, ValueError, "of one kind"),
        ({"device": "cpu", "hybrid": 1}, TypeError, "hybrid must be True or False"),
    ):
        with pytest.raises(error, match=message):
            call[function](**options)
