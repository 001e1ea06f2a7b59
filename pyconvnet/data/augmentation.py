"""Augmentation: what to crop, mirror and shift in colour, drawn on the host (paper, sections 2 and 4.1).

Only the draws are made here; `ops.augment` applies them on the device. Each sample's draws are a pure
function of (seed, step, position in the step's batch), so any device, any split of the batch and a resumed
run see the same crops.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..common import philox
from ..common.checks import either, flag, integer, one_of, pair, real
from .dataset import PURPOSE_COLOUR, PURPOSE_CROP, check_seed

if TYPE_CHECKING:
    from .statistics import Statistics

VIEWS = 10
#: Brings pixels of photographs, whose standard deviation is some 60 to 70 of 255 levels, to a variance of
#: about one.
UNIT_SCALE = 1 / 64


@dataclass(frozen=True)
class Augmentation:
    """How training images are varied, and what is subtracted from every image.

    The paper's own is ``Augmentation(crop=224, mirror=True, pca=0.1)`` on 256 x 256 images.

    Parameters
    ----------
    crop : None, int or (height, width)
        Random crop of that size; every position that fits is equally likely. None: the whole image.
    mirror : bool
        Mirror half of the images left to right.
    pca : float
        Standard deviation of the alphas of the colour shift; the paper's is 0.1, 0 turns it off. To each
        pixel of an image is added ``[p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T``, with p the principal axes of colour
        (eigenvectors), a ~ N(0, pca) drawn once per image and use, and l as `pca_scale` says.
    pca_scale : "deviation" or "eigenvalue"
        What l is. The paper's text says the eigenvalues, but with pixels of 0 to 255 these are variances
        (some 15000 for ImageNet), and a shift of 1500 grey levels cannot be meant. The code that won used
        their square roots, the standard deviations (122, 37 and 20 grey levels): "deviation", the default.
        "eigenvalue" is what many later programs do: the eigenvalues of pixels scaled to [0, 1] (0.23, 0.02,
        0.006 for ImageNet), the shift then scaled back.
    mean : "image", "pixel" or None
        Subtract the mean image (the paper), the mean pixel, or nothing.
    scale : float
        What the result is multiplied by (the 2012 code: 1/1.1 while colours are shifted). Default: 1; or in
        training on uint8 pixels `UNIT_SCALE`, where the network's initial values presume inputs of variance
        about one (``init="he"``, say).

    Attributes
    ----------
    scale_given : bool
        False where `scale` is the default.
    """

    crop: int | tuple[int, int] | None = None
    mirror: bool = False
    pca: float = 0.0
    mean: str | None = "image"
    scale: float | None = None
    pca_scale: str = "deviation"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale_given", self.scale is not None)
        if self.scale is None:
            object.__setattr__(self, "scale", 1.0)
        if self.crop is not None:
            object.__setattr__(self, "crop", pair("Augmentation", "crop", self.crop, 1))
        object.__setattr__(self, "mirror", flag("Augmentation", "mirror", self.mirror))
        real("Augmentation", "pca", self.pca, minimum=0)
        if real("Augmentation", "scale", self.scale) == 0:
            raise ValueError("Augmentation: scale must not be zero")
        one_of("Augmentation", "mean", self.mean, "image", "pixel", None)
        one_of("Augmentation", "pca_scale", self.pca_scale, "deviation", "eigenvalue")

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as plain values, for a log or checkpoint; ``Augmentation(**d)`` takes them."""
        return asdict(self)

    def needs_statistics(self) -> bool:
        """Tell whether `draw` or `mean_of` must be given statistics."""
        return self.mean is not None or self.pca > 0

    def output_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return (H, W, C) of the augmented image; ValueError where the crop exceeds `image_shape`."""
        height, width, channels = image_shape
        crop_h, crop_w = (height, width) if self.crop is None else self.crop
        if crop_h > height or crop_w > width:
            raise ValueError(
                f"Augmentation: crop {crop_h}x{crop_w} does not fit into images of {height}x{width}"
            )
        return crop_h, crop_w, channels

    def mean_of(self, statistics: Statistics | None) -> np.ndarray | None:
        """Return the array `ops.augment` subtracts: (H, W, C), (C,) or None."""
        if self.mean is None:
            return None
        if statistics is None:
            raise ValueError(f'Augmentation: mean="{self.mean}" needs the statistics of the training images')
        return statistics.mean_image if self.mean == "image" else statistics.mean_pixel

    def draw(
        self,
        seed: int,
        step: int,
        start: int,
        n: int,
        image_shape: tuple[int, int, int],
        statistics: Statistics | None = None,
    ) -> dict[str, np.ndarray | None]:
        """Draw for `n` samples at positions ``start … start + n - 1`` of the batch of `step`.

        Returns
        -------
        dict
            crop (n, 2) int32, top and left of the crop; mirror (n,) uint8; colour (n, C) float32 or None.
        """
        seed = check_seed("Augmentation", seed)
        room_h, room_w = self._room(image_shape)
        # One Philox block of four words a sample: top, left, mirror, and one to spare.
        words = philox.random_words(seed, step, PURPOSE_CROP, 4 * start, 4 * n).reshape(n, 4)
        crop = np.empty((n, 2), np.int32)
        # floor(word * choices / 2^32): no position is favoured by more than choices / 2^32.
        crop[:, 0] = (words[:, 0].astype(np.uint64) * np.uint64(room_h + 1)) >> np.uint64(32)
        crop[:, 1] = (words[:, 1].astype(np.uint64) * np.uint64(room_w + 1)) >> np.uint64(32)
        mirror = (words[:, 2] >> np.uint32(31)).astype(np.uint8) if self.mirror else np.zeros(n, np.uint8)
        return {
            "crop": crop,
            "mirror": mirror,
            "colour": self._colour(seed, step, start, n, image_shape[2], statistics),
        }

    def centre(self, n: int, image_shape: tuple[int, int, int]) -> dict[str, np.ndarray | None]:
        """Return the view to evaluate with: every image's central crop, unmirrored, colours as they are."""
        return self._fixed(n, image_shape, 0.5, 0.5, 0)

    def views(self, n: int, view: int, image_shape: tuple[int, int, int]) -> dict[str, np.ndarray | None]:
        """View 0 to 9 of every image (paper, section 4.1).

        0: centre, 1 to 4: top left, top right, bottom left, bottom right; 5 to 9: the same, mirrored.
        """
        with either():
            integer("Augmentation", "view", view, 0, VIEWS - 1)
        places = ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))
        return self._fixed(n, image_shape, *places[view % 5], view // 5)

    def _room(self, image_shape: tuple[int, int, int]) -> tuple[int, int]:
        height, width, _ = self.output_shape(image_shape)
        return image_shape[0] - height, image_shape[1] - width

    def _fixed(
        self, n: int, image_shape: tuple[int, int, int], down: float, right: float, mirror: int
    ) -> dict:
        room_h, room_w = self._room(image_shape)
        crop = np.empty((n, 2), np.int32)
        crop[:] = int(room_h * down), int(room_w * right)
        return {"crop": crop, "mirror": np.full(n, mirror, np.uint8), "colour": None}

    def _colour(
        self, seed: int, step: int, start: int, n: int, channels: int, statistics: Statistics | None
    ) -> np.ndarray | None:
        if self.pca == 0:
            return None
        if statistics is None:
            raise ValueError("Augmentation: pca needs the statistics of the training images")
        if len(statistics.eigenvalues) != channels:
            raise ValueError(
                f"Augmentation: statistics are of {len(statistics.eigenvalues)} channels, "
                f"the images have {channels}"
            )
        if self.pca_scale == "deviation":
            length = np.sqrt(statistics.eigenvalues)
        else:
            length = statistics.eigenvalues / statistics.pixel_range
        alphas = philox.normal(seed, step, PURPOSE_COLOUR, channels * start, channels * n).reshape(
            n, channels
        )
        return ((self.pca * alphas * length) @ statistics.eigenvectors.T).astype(np.float32)


PAPER = Augmentation(crop=224, mirror=True, pca=0.1)
