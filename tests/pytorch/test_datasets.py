"""``torch.utils.data``: datasets and loaders as data for train."""

from __future__ import annotations

import numpy as np
import pytest
from support.runs import go, small, toy

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from torch.utils.data import (  # noqa: E402
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from pyconvnet import data  # noqa: E402

X, Y = toy(60, size=6)
TENSORS = TensorDataset(torch.from_numpy(X).permute(0, 3, 1, 2), torch.from_numpy(Y))
WEIGHTED, TWICE = WeightedRandomSampler([1.0] * 60, 60), RandomSampler(TENSORS, True)
BATCHES = BatchSampler([3, 4], 2, False)
LABELS = torch.arange(2)
TAKEN = pytest.mark.filterwarnings("ignore:data. of the DataLoader")


@pytest.mark.parametrize("kind", ["dataset", "loader", "shuffling loader"])
@TAKEN
def test_a_dataset_and_its_loader_train_to_the_bits_that_arrays_train_to(kind, tmp_path):
    """Whatever order a loader has: ours is a function of seed and epoch."""
    given = {
        "dataset": TENSORS,
        "loader": DataLoader(TENSORS, batch_size=7),
        "shuffling loader": DataLoader(TENSORS, batch_size=7, shuffle=True),
    }[kind]
    wanted = go(tmp_path / "arrays", small(), (X, Y), epochs=1)
    found = go(tmp_path / "tensors", small(), given, epochs=1, workers=0)
    for name, array in wanted.model.parameters.items():
        np.testing.assert_array_equal(found.model.parameters[name], array)


def test_what_of_a_loader_does_not_count_is_said():
    with pytest.warns(UserWarning, match=r"its batch_size 7, order and workers do not count, train's"):
        found, _ = data.open_dataset(DataLoader(TENSORS, batch_size=7, shuffle=True))
    assert found.labels.tolist() == Y.tolist()


@TAKEN
def test_validation_is_a_loader_too():
    train, held_out = data.open_dataset(
        DataLoader(Subset(TENSORS, range(40))), validation=DataLoader(Subset(TENSORS, range(40, 60)))
    )
    assert (len(train), len(held_out)) == (40, 20)
    np.testing.assert_array_equal(held_out.read([0]), X[40:41])


def test_floats_and_grey_tensors():
    tensors = TensorDataset(torch.rand(5, 4, 6, dtype=torch.float16), torch.arange(5, dtype=torch.uint8))
    found, _ = data.open_dataset(tensors)
    assert found.image_shape == (4, 6, 1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.read([2])[0, ..., 0], tensors.tensors[0][2].float().numpy())


class Stream(IterableDataset):
    def __iter__(self):
        yield from TENSORS


class OneHot(Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return torch.zeros(3, 4, 4), torch.eye(3)[index]


@pytest.mark.parametrize(
    ("spec", "error", "words"),
    [
        (Stream(), TypeError, "data must have a length, .*; Stream has none"),
        (DataLoader(Stream()), ValueError, "sampler must be SequentialSampler or RandomSampler"),
        (DataLoader(TENSORS, sampler=WEIGHTED), ValueError, "got WeightedRandomSampler"),
        (DataLoader(TENSORS, sampler=TWICE), ValueError, "must give every item once"),
        (DataLoader(TENSORS, batch_sampler=BATCHES), ValueError, "must be None, got BatchSampler"),
        (DataLoader(TENSORS, collate_fn=list), ValueError, "collate_fn must be .* got list"),
        (TensorDataset(torch.zeros(2, 9, 9, 3), LABELS), ValueError, r"\(C, H, W\), got \(9, 9, 3\)"),
        (OneHot(), TypeError, r"OneHot\[0\] must have an integer for its label, got torch.float32"),
    ],
)  # fmt: skip
def test_what_train_cannot_do_is_refused(spec, error, words):
    with pytest.raises(error, match=words):
        data.open_dataset(spec)
