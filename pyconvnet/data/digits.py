"""Handwritten digits: the built-in dataset, 1797 real 8x8 images that scikit-learn carries in its package."""

from __future__ import annotations

import numpy as np

from .dataset import ArrayDataset, Subset, split

HELD_OUT = 0.2  # share of each class held out; with it, 1438 images train and 359 test


class Digits(Subset):
    """UCI's handwritten digits (Alpaydin and Kaynak 1998), test part, as scikit-learn ships it.

    1797 images (8, 8, 1) of 10 classes. The original grey levels 0 to 16 are stretched to 0 to 255. The split
    into training and held-out images is fixed: stratified, the same on every machine and for every seed.

    Parameters
    ----------
    train : bool
        The training images (True) or the held-out ones (False).

    Raises
    ------
    ImportError
        scikit-learn is not installed.
    """

    def __init__(self, train: bool = True):
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise ImportError(
                "Digits: the images come with scikit-learn, which is not installed; "
                'run: pip install "pyconvnet[digits]"'
            ) from error
        bunch = load_digits()
        pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
        names = [str(name) for name in bunch.target_names]
        whole = ArrayDataset(pixels, bunch.target.astype(np.int32), names, name="digits")
        part = split(whole, HELD_OUT, seed=0)[0 if train else 1]
        super().__init__(whole, part.indices, name="digits (train)" if train else "digits (held out)")
