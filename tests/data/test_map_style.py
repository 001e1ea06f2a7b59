"""Datasets of PyTorch's kind: whatever has a length and items (image, label), without PyTorch."""

import numpy as np
import pytest
from PIL import Image
from support.runs import go, small, toy

from pyconvnet import data
from pyconvnet.data.workers import default_workers


class Pairs:
    """As one would write it; it counts how often it is read."""

    def __init__(self, images, answers, **attributes):
        self.images, self.answers, self.reads = images, answers, []
        vars(self).update(attributes)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.reads.append(index)
        return self.images[index], self.answers[index]


class Whole:
    """As ``torch.utils.data.Subset`` names what it holds."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, indices

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.dataset[self.indices[index]]


X, Y = toy(20)


def opened(spec):
    return data.open_dataset(spec)[0]


def test_items_become_what_arrays_are():
    found, wanted = opened(Pairs(list(X), Y.tolist())), data.ArrayDataset(X, Y)
    assert isinstance(found, data.MapStyleDataset)
    assert (found.image_shape, found.dtype) == (wanted.image_shape, wanted.dtype)
    assert found.classes == wanted.classes
    assert not found.class_names_given
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.read([7, 0, 7]), wanted.read([7, 0, 7]))


@pytest.mark.parametrize("name", ["targets", "labels"])
def test_labels_that_are_listed_spare_a_pass_over_the_images(name):
    listed = Pairs(list(X), Y.tolist(), **{name: Y.tolist()}, classes=["a", "b", "c", "d"])
    found = opened(listed)
    assert set(listed.reads) == {0, 1, 2, 3}, "the kind of image, and whether it stays the same"
    assert found.classes == ["a", "b", "c", "d"]
    assert found.class_names_given
    half = opened(Whole(listed, [4, 2, 0]))
    assert half.labels.tolist() == Y[[4, 2, 0]].tolist()
    assert half.classes == found.classes


@pytest.mark.parametrize("targets", [[[0], [1, 2]], ["a"] * 20, [0, 1], [0.5] * 20, 3, {"a": 1}])
def test_what_is_no_list_of_labels_is_passed_over(targets):
    found = opened(Pairs(list(X), Y.tolist(), targets=targets))
    assert found.labels.tolist() == Y.tolist()


def test_labels_that_are_listed_wrongly_are_found_when_they_are_read():
    wrong = Y.copy()
    wrong[9] = (Y[9] + 1) % 4
    found = opened(Pairs(list(X), Y.tolist(), targets=wrong))
    with pytest.raises(ValueError, match=rf"Pairs\[9\] must have label {wrong[9]} .*, got {Y[9]}"):
        found.read([9])


def test_pillow_s_images_keep_their_colours_or_their_grey():
    assert opened(Pairs([Image.fromarray(x) for x in X], Y.tolist())).read([3]).tolist() == X[3:4].tolist()
    grey = opened(Pairs([Image.fromarray(x[..., 0]) for x in X], Y.tolist()))
    assert grey.image_shape == (8, 8, 1)
    assert grey.read([3]).tolist() == X[3:4, ..., :1].tolist()


def test_floats_stay_as_they_are():
    found = opened(Pairs(list(X / 255), Y.tolist()))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.read([1])[0], (X[1] / 255).astype(np.float32))


def test_another_image_is_another_fingerprint():
    changed = X.copy()
    changed[5, 0, 0, 0] ^= 1
    one, again, other = (opened(Pairs(list(x), Y.tolist())).fingerprint() for x in (X, X, changed))
    assert one == again != other


def test_it_trains_to_the_bits_that_arrays_train_to(tmp_path):
    x, y = toy(60, size=6)
    runs = [
        go(tmp_path / name, small(), given, epochs=1, workers=0)
        for name, given in (("arrays", (x, y)), ("pairs", Pairs(list(x), y.tolist())))
    ]
    for name, wanted in runs[0].model.parameters.items():
        np.testing.assert_array_equal(runs[1].model.parameters[name], wanted)


class Restless(Pairs):
    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return image + np.uint8(len(self.reads)), label


class Endless:
    def __getitem__(self, index):
        return X[0], 0


def replaced(items, index, value):
    return [value if i == index else item for i, item in enumerate(items)]


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        (Restless(list(X), Y.tolist()), ValueError, r"Restless\[0\] must be the same each time .* augment="),
        (Endless(), TypeError, "data must have a length"),
        (Pairs([], []), ValueError, "Pairs must not be empty"),
        (Pairs(list(X), Y.astype(float).tolist()), TypeError, r"Pairs\[0\] must have an integer .* float"),
        (Pairs(list(X), replaced(Y.tolist(), 4, -1)), ValueError, "labels must not be negative, got -1"),
        (Pairs(list(X), Y.tolist(), classes=["a", "b"]), ValueError, r"labels must lie in \[0, 2\)"),
        (Pairs(replaced(list(X), 2, X[2, :5]), Y.tolist()), ValueError, r"must be an image \(8, 8, 3\)"),
        (Pairs(replaced(list(X), 2, X[2] / 2), Y.tolist()), ValueError, r"\[2\] must be .* got .* float32"),
        (Pairs(list(X.astype(int)), Y.tolist()), TypeError, r"Pairs\[0\] must be uint8 or float, got int64"),
        (Pairs(list(X * np.nan), Y.tolist()), ValueError, r"Pairs\[0\] must be finite"),
        (Pairs(["a.jpg"], [0]), TypeError, r"Pairs\[0\] must be an image of Pillow's, a tensor or an array"),
        (Pairs(list(X.transpose(0, 3, 1, 2)), Y.tolist()), ValueError, r"\(H, W, C\), got \(3, 8, 8\)"),
        (Pairs(list(X[:, 0, 0]), Y.tolist()), ValueError, r"2 or 3 dimensions, got shape \(3,\)"),
        (3, TypeError, "or a dataset of PyTorch's kind, got int"),
        ({"x": X}, TypeError, "or a dataset of PyTorch's kind, got dict"),
    ],
)  # fmt: skip
def test_bad_items_are_named(spec, error, words):
    with pytest.raises(error, match=words):
        opened(spec)


def test_an_item_that_is_no_pair_is_named():
    class Singles(Pairs):
        def __getitem__(self, index):
            return self.images[index]

    with pytest.raises(TypeError, match=r"Singles\[0\] must be a pair \(image, label\), got ndarray"):
        opened(Singles(list(X), Y))


def test_worker_processes_read_what_they_can_rebuild():
    """A class of an importable module goes to them; one of a script is read without, and said."""
    assert default_workers(opened(Pairs(list(X), Y.tolist())), 2) == 2

    class Local(Pairs):
        pass

    with pytest.warns(RuntimeWarning, match="without worker processes"):
        assert default_workers(opened(Local(list(X), Y.tolist())), 2) == 0
