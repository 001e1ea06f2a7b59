"""Which data go together: class names of models and data, validation images and training images."""

import json

import numpy as np
import pytest
from support import make_files as mk
from support.runs import events, go, small, toy
from test_checkpoint import rewrite
from test_evaluate import IMAGE, TEN, linear_model, probabilities

import pyconvnet as pcn
from pyconvnet import data
from pyconvnet.cli.main import main
from pyconvnet.trained import plots
from pyconvnet.training.loop import Trainer

TWELVE = [str(i) for i in range(12)]


@pytest.fixture
def numbered(tmp_path):
    """Folders "0" to "11", whose labels follow the names sorted as text."""
    root = mk.image_folder(tmp_path / "numbered", TWELVE, count=3, height=9, width=9)
    folder = pcn.ImageFolder(root, IMAGE[:2])
    assert folder.classes[:4] == ["0", "1", "10", "11"]
    return folder


def arrays(dataset):
    return dataset.read(range(len(dataset))), dataset.labels


# ---- class names: data and a model -------------------------------------------------------------------------
def test_labels_without_names_are_the_numbers_of_outputs(numbered, tmp_path):
    model = linear_model(classes=12, names=numbered.classes)
    pixels, labels = arrays(numbered)
    right = np.mean(probabilities(model, pixels, TEN).argmax(axis=1) != labels)
    assert pcn.evaluate(model, numbered).error == right
    assert pcn.evaluate(model, (pixels, labels)).error == right
    np.savez(tmp_path / "bare.npz", x=pixels, y=labels)
    assert pcn.evaluate(model, tmp_path / "bare.npz").error == right
    np.savez(tmp_path / "named.npz", x=pixels, y=labels, classes=numbered.classes)
    assert pcn.evaluate(model, tmp_path / "named.npz").error == right
    in_order = data.ArrayDataset(pixels, [int(numbered.classes[i]) for i in labels], TWELVE)  # other numbers
    result = pcn.evaluate(model, in_order)
    assert result.error == right
    np.testing.assert_array_equal(result.labels, labels)


def test_a_trained_run_knows_them_too(tmp_path):
    """Trained on folders, evaluated on arrays, and the other way round."""
    root = mk.image_folder(tmp_path / "f", TWELVE, count=2, height=9, width=9)
    folder = pcn.ImageFolder(root, 8)
    how = {"net": tiny(12), "epochs": 10, "batch_size": 8, "lr": 0.1, "validation": False, "workers": 0}
    run = go(tmp_path / "a", data=folder, **how)
    own = pcn.evaluate(run, folder, 1)
    assert own.error < 0.3  # it has learned something, so that another order would be seen
    assert pcn.evaluate(run, arrays(folder), 1).error == own.error
    assert pcn.load(run.out).class_names_given
    by_number = data.ArrayDataset(folder.read(range(24)), [int(folder.classes[i]) for i in folder.labels])
    run = go(tmp_path / "b", data=by_number, **how)
    assert not pcn.load(run.out).class_names_given
    own = pcn.evaluate(run, by_number, 1)
    assert own.error < 0.3
    result = pcn.evaluate(run, folder, 1)  # output 10 is the folder "10", not the third folder
    assert result.error == own.error
    np.testing.assert_array_equal(result.labels, by_number.labels)


def tiny(classes, image=(8, 8, 3)):
    net = pcn.Network("tiny", image, {"augment": {"scale": 0.01}})
    return net.add(pcn.layers.Linear(classes), "fc").add(pcn.layers.SoftmaxCrossEntropy(), "loss")


def test_folders_called_by_numbers_are_no_numbers(tmp_path):
    root = mk.image_folder(tmp_path / "f", ("0", "1"), height=9, width=9)
    dogs = linear_model(classes=2, names=["beagle", "poodle"])
    with pytest.raises(ValueError, match="class '0', which is none of the model's outputs: beagle, poodle"):
        pcn.evaluate(dogs, root)
    nameless = linear_model(classes=3, names=["0", "1", "2"])
    nameless.class_names_given = False
    assert pcn.evaluate(nameless, root).labels.tolist() == [0] * 4 + [1] * 4
    fewer = mk.image_folder(tmp_path / "fewer", ("ant", "bee"), height=9, width=9)
    with pytest.raises(ValueError, match=r"model's outputs have no names.*ant, bee"):
        pcn.evaluate(nameless, fewer)  # ant could be any of the three
    three = mk.image_folder(tmp_path / "three", height=9, width=9)
    assert pcn.evaluate(nameless, three).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("names", "given"),
    [(["0", "1", "2"], False), (["0", "1", "10"], True), (["a", "b", "c"], True), ([], False)],
)
def test_a_checkpoint_says_whether_names_were_made_up(tmp_path, names, given):
    for said in (True, False):
        model = linear_model(classes=3, names=names or None)
        model.classes, model.class_names_given = names, said
        assert pcn.load(model.save(tmp_path / "m.safetensors")).class_names_given is said
    # A file of before that was recorded: names that are just the outputs' numbers were made up.
    rewrite(tmp_path / "m.safetensors", lambda t, h: h.pop("class_names_given"), mend=True)
    assert pcn.load(tmp_path / "m.safetensors").class_names_given is given
    with pytest.raises(TypeError, match="class_names_given must be True or False, got str 'no'"):
        pcn.Model(model.network, model.parameters, model.preprocessing, names, {}, "no")


def test_plots_number_the_classes_alike(numbered, tmp_path):
    model = linear_model(classes=12, names=numbered.classes)
    pixels, _ = arrays(numbered)
    right = probabilities(model, pixels, TEN[:1]).argmax(axis=1)
    with pytest.raises(ValueError, match="makes no error"):
        plots.predictions(model, (pixels, right), tmp_path / "p.png", only_errors=True)


# ---- class names: training goes on from a model ------------------------------------------------------------
def start_model(names, given=True):
    net = tiny(len(names), (6, 6, 3))
    zeros = {name: np.zeros(p.shape, np.float32) for name, p in net.parameters().items()}
    return pcn.Model(net, zeros, pcn.Preprocessing((6, 6, 3), None, None, 0.01), names, {}, given)


X = np.random.default_rng(0).integers(0, 256, (12, 6, 6, 3), dtype=np.uint8)
Y = np.arange(12) % 2
GO_ON = {
    "no names: the model's": (["ant", "bee", "cat"], (X, Y), ["ant", "bee", "cat"], [0, 1]),
    "some, in another order": (
        ["ant", "bee", "cat"],
        data.ArrayDataset(X, Y, ["cat", "bee"]),
        ["ant", "bee", "cat"],
        [2, 1],
    ),
    "others: the data's": (["ant", "bee"], data.ArrayDataset(X, Y, ["bee", "elk"]), ["bee", "elk"], [0, 1]),
}


@pytest.mark.parametrize("case", GO_ON)
def test_training_goes_on_with_the_models_outputs(tmp_path, case, monkeypatch):
    names, images, kept, first = GO_ON[case]
    trainers = []
    monkeypatch.setattr(
        Trainer, "run", lambda self, run=Trainer.run: trainers.append(self) or run(self), raising=True
    )
    for resume in (False, True):
        run = go(
            tmp_path / "r",
            net=start_model(names),
            data=images,
            validation=0.25,
            epochs=1 + resume,
            resume=resume,
        )
        assert (run.model.classes, run.model.class_names_given) == (kept, True)
        trainer = trainers[-1]
        for part in (trainer.train_set, trainer.validation_set):
            shown = {int(image.sum()): label for image, label in zip(*arrays(part), strict=True)}
            wanted = {int(image.sum()): first[label] for image, label in zip(X, Y, strict=True)}
            assert shown.items() <= wanted.items()


# ---- pairs -------------------------------------------------------------------------------------------------
def png_folder(root, names, size=6, count=2):
    for i, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for j in range(count):
            mk.photo(10 * i + j, size, size).save(root / name / f"{j}.png")
    return root


def npz(path, classes=None, size=6):
    options = {} if classes is None else {"classes": classes}
    np.savez(path, x=X[:, :size, :size], y=Y, **options)
    return path


def listed(root, size, write):
    """The same images by a list of files with labels."""
    files = sorted(png_folder(root, ANTS, size).rglob("*.png"))
    if not write:
        return [(str(file), ANTS.index(file.parent.name)) for file in files]
    (root / "list.csv").write_text("".join(f"{file},{file.parent.name}\n" for file in files))
    return root / "list.csv"


ANTS = ["ant", "bee"]
SPECS = {  # how two classes of images of a size come: name -> function of (folder, size)
    "dataset": lambda t, size: pcn.ImageFolder(png_folder(t / "d", ANTS, 9), size),
    "subset": lambda t, size: data.Subset(pcn.ImageFolder(png_folder(t / "s", ANTS, 9), size), [3, 0, 1, 2]),
    "predecoded": lambda t, size: data.predecode(pcn.ImageFolder(png_folder(t / "p", ANTS, 9), size), t),
    "path": lambda t, size: png_folder(t / "path", ANTS, size),
    "path with val": lambda t, size: (
        png_folder(t / "v" / "val", ANTS) and png_folder(t / "v" / "train", ANTS).parent
    ),
    "list of files": lambda t, size: listed(t / "l", size, False),
    "CSV": lambda t, size: listed(t / "c", size, True),
    "arrays": lambda t, size: (X[:, :size, :size], Y),
    "named arrays": lambda t, size: data.ArrayDataset(X[:, :size, :size], Y, ANTS),
    "npz": lambda t, size: npz(t / "a.npz", ANTS, size),
    "bare npz": lambda t, size: npz(t / "b.npz", None, size),
}
PREPARED = ("path", "path with val", "list of files", "CSV")  # to the size of the training images


@pytest.mark.parametrize("validation", SPECS)
@pytest.mark.parametrize("train", SPECS)
def test_every_pair_is_checked_before_the_first_step(tmp_path, train, validation):
    (tmp_path / "1").mkdir(), (tmp_path / "2").mkdir(), (tmp_path / "3").mkdir()
    pair = SPECS[train](tmp_path / "1", 5), SPECS[validation](tmp_path / "2", 5)
    how = {"size": 5} if train in PREPARED else {}
    first, second = data.open_dataset(pair[0], validation=pair[1], **how)
    assert first.image_shape == second.image_shape == (5, 5, 3)
    assert set(second.labels) == {0, 1}
    assert data.open_dataset(pair[0], validation=0.5, **how)[1].image_shape == (5, 5, 3)
    other = SPECS[validation](tmp_path / "3", 4)
    if validation in PREPARED:
        assert data.open_dataset(pair[0], validation=other, **how)[1].image_shape == (5, 5, 3)
        return
    size = {"image_size": 5} if how else {}
    with pytest.raises(ValueError, match=r"shape \(5, 5, 3\), got \(4, 4, 3\)"):
        pcn.train(tiny(2, (5, 5, 3)), pair[0], validation=other, out=tmp_path / "run", **size)
    assert not (tmp_path / "run").exists()


def test_validation_files_are_read_as_the_training_files(tmp_path):
    train = pcn.ImageFolder(png_folder(tmp_path / "t", ANTS, 9), (5, 6), channels=1, on_error="raise")
    path = png_folder(tmp_path / "v", ["bee"], 12)
    for like in (train, data.Subset(train, [3, 1]), data.predecode(train, tmp_path)):
        held = data.open_dataset(like, validation=path)[1]
        assert (held.image_shape, held.reading["on_error"]) == ((5, 6, 1), "raise")
        assert held.labels.tolist() == [1, 1]
    run = go(tmp_path / "run", net=tiny(2, (5, 6, 1)), data=train, validation=str(path), epochs=1, workers=0)
    assert run.history[0]["validation_error"] is not None


def test_validation_classes_are_the_training_classes_by_name(tmp_path):
    train = data.ArrayDataset(X, Y, ANTS)
    swapped = data.open_dataset(train, validation=data.ArrayDataset(X, Y, ANTS[::-1]))[1]
    np.testing.assert_array_equal(swapped.labels, 1 - Y)
    assert swapped.classes == ANTS
    np.testing.assert_array_equal(data.open_dataset(train, validation=(X, Y))[1].labels, Y)
    with pytest.raises(ValueError, match="class 'elk', which is none of the training images' classes"):
        data.open_dataset(train, validation=data.ArrayDataset(X, Y, ["ant", "elk"]))
    with pytest.raises(ValueError, match="have no names"):
        data.open_dataset((X, Y), validation=data.ArrayDataset(X, Y, ["cat", "elk", "fox"]))
    with pytest.raises(ValueError, match="must be uint8"):
        data.open_dataset(train, validation=data.ArrayDataset(X / 255, Y, ANTS))


# ---- image_size=, channels=, on_error= ---------------------------------------------------------------------
def test_train_reads_files_as_asked_and_a_resumed_run_as_before(tmp_path, capsys):
    root = png_folder(tmp_path / "t", ANTS, 9, count=4)
    how = {"net": tiny(2, (5, 6, 1)), "data": str(root), "validation": False, "batch_size": 2, "workers": 0}
    run = go(tmp_path / "a", **how, epochs=1, image_size=(5, 6), channels=1, on_error="raise", max_pixels=81)
    assert run.model.preprocessing.image_shape == (5, 6, 1)
    asked = {"size": [5, 6], "channels": 1, "on_error": "raise", "max_pixels": 81}
    assert events(run.out, "start")[0]["options"]["images"].items() >= asked.items()
    run = go(tmp_path / "a", **how, epochs=2, resume=True)
    assert len(run.history) == 2
    assert events(run.out, "start")[1]["options"]["images"].items() >= asked.items()

    # A state of before this was recorded: the model's own size and channels.
    def older(tensors, header):
        for option in ("images", "validation"):
            del header["state"]["options"][option]

    rewrite(tmp_path / "a" / "last.safetensors", older, mend=True)
    assert len(go(tmp_path / "a", **how, epochs=3, resume=True, max_pixels=81).history) == 3
    with pytest.raises(ValueError, match="not the training images"):
        go(tmp_path / "a", **how, epochs=2, resume=True, max_pixels=80)
    with pytest.raises(ValueError, match=r"\(5, 6, 3\)"):
        go(tmp_path / "a", **how, epochs=2, resume=True, channels=3)
    typed = f"train digits {root} --option input_shape=5x6x1 --image-size 5x6 --channels 1 --on-error raise "
    typed += "--max-pixels 81 --batch-size 2 --epochs 1 --quiet --validation none --device cpu --workers 0 "
    typed += f"--out {tmp_path / 'b'}"
    assert main(typed.split()) == 0
    assert pcn.load(tmp_path / "b").preprocessing.image_shape == (5, 6, 1)
    assert main([*typed.split(), "--resume"]) == 0
    capsys.readouterr()
    evaluate = ["evaluate", str(tmp_path / "b"), str(root), "--json"]
    assert main([*evaluate, "--image-size", "5x6", "--channels", "1", "--on-error", "raise"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 8
    assert main([*evaluate, "--max-pixels", "80", "--on-error", "raise"]) == 2
    assert "max_pixels" in capsys.readouterr().err
    assert main([*evaluate, "--image-size", "32"]) == 2
    assert "image_size must be (5, 6) as for the model, got (32, 32)" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "b"), str(root), "--channels", "3"]) == 2
    assert "channels must be 1 as for the model, got 3" in capsys.readouterr().err


REFUSED = {
    "another size": (
        lambda m: pcn.evaluate(m, ARRAYS, image_size=9),
        r"image_size must be \(7, 8\).*got \(9, 9\)",
    ),
    "its size": (lambda m: pcn.evaluate(m, ARRAYS, image_size=(7, 8), channels=3), None),
    "other channels": (lambda m: pcn.evaluate(m, ARRAYS, channels=1), "channels must be 3.*got 1"),
    "on_error of arrays": (
        lambda m: pcn.evaluate(m, ARRAYS, on_error="skip"),
        "on_error is for images .* files",
    ),
    "max_pixels of arrays": (
        lambda m: pcn.evaluate(m, ARRAYS, max_pixels=9),
        "max_pixels is for images .* files",
    ),
    "predict, another size": (
        lambda m: pcn.predict(m, ARRAYS[0], image_size=9),
        r"image_size must be \(7, 8\)",
    ),
    "predict, its size": (lambda m: pcn.predict(m, ARRAYS[0], image_size=(7, 8), channels=3), None),
    "predict, channels": (lambda m: pcn.predict(m, ARRAYS[0], channels=1), "channels must be 3"),
    "predict, on_error": (
        lambda m: pcn.predict(m, ARRAYS[0], on_error="ignore"),
        "on_error must be 'skip' or",
    ),
    "train, arrays": (
        lambda m: go("run", data=toy(), image_size=9),
        r"image_size must be \(8, 8\) as for arrays",
    ),
    "train, a folder's own": (
        lambda m: pcn.train(small(), pcn.Digits(), channels=3),
        r"channels must be 1 as for digits \(train\), got 3",
    ),
    "open_dataset": (lambda m: data.open_dataset(ARRAYS, size=9), r"image_size must be \(7, 8\)"),
}
ARRAYS = (np.zeros((3, *IMAGE), np.uint8), [0, 1, 2])


@pytest.mark.parametrize("case", REFUSED)
def test_a_size_that_the_images_have_not_is_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, message = REFUSED[case]
    if message is None:
        call(linear_model())
        return
    with pytest.raises(ValueError, match=message):
        call(linear_model())
    assert not list(tmp_path.iterdir())
