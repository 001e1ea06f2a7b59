"""Bad input to loaders and augmentation, as in test_bad_input_data.py."""


import pytest
from test_bad_input_data import SHAPE, STATS, X, arrays

from pyconvnet.data import Augmentation, Loader

LOADER = [
    ("an array", lambda t: Loader(X, 2), TypeError, "pyconvnet.data.Dataset, got ndarray"),
    ("batch 0", lambda t: Loader(arrays(), 0), ValueError, "batch_size must be at least 1, got 0"),
    ("batch -1", lambda t: Loader(arrays(), -1), ValueError, "got -1"),
    ("batch 2.0", lambda t: Loader(arrays(), 2.0), TypeError, "batch_size must be an integer"),
    ("batch True", lambda t: Loader(arrays(), True), TypeError, "got bool True"),
    ("workers -1", lambda t: Loader(arrays(), 2, workers=-1), ValueError, "workers must be at least 0"),
    ("workers None", lambda t: Loader(arrays(), 2, workers=None), TypeError, "workers must be an integer"),
    ("prefetch 0", lambda t: Loader(arrays(), 2, prefetch=0), ValueError, "prefetch must be at least 1"),
    ("seed -1", lambda t: Loader(arrays(), 2, seed=-1), ValueError, "seed must be at least 0, got -1"),
    ("seed text", lambda t: Loader(arrays(), 2, seed="1"), TypeError, "seed must be an integer"),
    ("seed 2^64", lambda t: Loader(arrays(), 2, seed=2**64), ValueError, r"seed must be below 2\^64"),
    ("no batch", lambda t: Loader(arrays(), 7, drop_last=True), ValueError, "drop_last leaves no batch"),
    ("epoch -1", lambda t: Loader(arrays(), 2).epoch(-1), ValueError, "epoch must be at least 0, got -1"),
    ("epoch 1.5", lambda t: Loader(arrays(), 2).epoch(1.5), TypeError, "epoch must be an integer"),
    ("start -1", lambda t: Loader(arrays(), 2).epoch(0, -1), ValueError, "start must be at least 0, got -1"),
    ("start 4", lambda t: Loader(arrays(), 2).epoch(0, 4), ValueError, "start must be at most 3, got 4"),
]

AUGMENTATION = [
    ("crop 0", lambda t: Augmentation(crop=0), ValueError, "crop must be at least 1"),
    ("crop negative", lambda t: Augmentation(crop=(3, -1)), ValueError, "crop must be at least 1"),
    ("crop float", lambda t: Augmentation(crop=3.5), TypeError, "crop must be an integer, got"),
    ("crop text", lambda t: Augmentation(crop="224"), TypeError, "crop must be an integer, got"),
    ("crop triple", lambda t: Augmentation(crop=(1, 2, 3)), TypeError, r"an integer or a pair"),
    (
        "crop too large",
        lambda t: Augmentation(crop=9, mean=None).output_shape(SHAPE),
        ValueError,
        "9x9 does not fit",
    ),
    (
        "crop too wide",
        lambda t: Augmentation(crop=(8, 9), mean=None).draw(0, 0, 0, 1, SHAPE),
        ValueError,
        "not fit",
    ),
    ("mirror 1", lambda t: Augmentation(mirror=1), TypeError, "mirror must be True or False, got int 1"),
    ("pca -0.1", lambda t: Augmentation(pca=-0.1), ValueError, "pca must not be negative"),
    ("pca NaN", lambda t: Augmentation(pca=float("nan")), ValueError, "pca must be finite"),
    ("pca text", lambda t: Augmentation(pca="0.1"), TypeError, "pca must be a number"),
    ("scale 0", lambda t: Augmentation(scale=0), ValueError, "scale must not be zero"),
    ("scale infinite", lambda t: Augmentation(scale=float("inf")), ValueError, "scale must be finite"),
    ("mean", lambda t: Augmentation(mean="median"), ValueError, "'image', 'pixel' or None"),
    ("pca_scale", lambda t: Augmentation(pca_scale="variance"), ValueError, "'deviation' or 'eigenvalue'"),
    (
        "no statistics",
        lambda t: Augmentation(pca=0.1).draw(0, 0, 0, 1, SHAPE),
        ValueError,
        "pca needs the statistics",
    ),
    ("no mean", lambda t: Augmentation().mean_of(None), ValueError, 'mean="image" needs the statistics'),
    (
        "other channels",
        lambda t: Augmentation(pca=0.1).draw(0, 0, 0, 1, SHAPE, STATS),
        ValueError,
        "1 channels",
    ),
    ("seed", lambda t: Augmentation().draw(-1, 0, 0, 1, SHAPE), ValueError, "seed must be at least 0"),
    ("view 10", lambda t: Augmentation(crop=4).views(1, 10, SHAPE), ValueError, "must be at most 9, got 10"),
    ("view -1", lambda t: Augmentation(crop=4).views(1, -1, SHAPE), ValueError, "view must be"),
    ("view text", lambda t: Augmentation(crop=4).views(1, "centre", SHAPE), ValueError, "view must be"),
]

GROUPS = {"loader": LOADER, "augment": AUGMENTATION}
CASES = [
    pytest.param(*case[1:], id=f"{group}-{case[0]}") for group, cases in GROUPS.items() for case in cases
]


@pytest.mark.parametrize(("call", "error", "message"), CASES)
def test_bad_input(call, error, message, tmp_path):
    with pytest.raises(error, match=message) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)
