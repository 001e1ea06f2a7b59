"""Augmentation draws: distributions, keys, views, the colour shift of the paper."""

import numpy as np
import pytest

from pyconvnet import data
from pyconvnet.data import Augmentation

SHAPE = (10, 12, 3)


@pytest.fixture(scope="module")
def stats():
    rng = np.random.default_rng(3)
    x = 128 + rng.standard_normal((40, *SHAPE)) @ np.diag([40, 15, 5]) @ np.array(
        [[1, 1, 1], [1, 0, -1], [1, -2, 1]]
    )
    return data.statistics(data.ArrayDataset(x.clip(0, 255).astype(np.uint8), np.zeros(40, int)))


def test_every_crop_position_is_equally_likely():
    a = Augmentation(crop=(8, 9), mirror=True, mean=None)
    n = 24000
    d = a.draw(1, 2, 0, n, SHAPE)
    assert d["crop"].dtype == np.int32
    assert d["mirror"].dtype == np.uint8
    assert d["colour"] is None
    counts = np.zeros((3, 4))
    np.add.at(counts, (d["crop"][:, 0], d["crop"][:, 1]), 1)
    expected = n / 12
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 31.3  # 11 degrees of freedom, 0.1%
    assert abs(d["mirror"].mean() - 0.5) < 0.015
    # Mirroring does not depend on the place.
    assert abs(np.corrcoef(d["mirror"], d["crop"][:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(d["crop"][:, 0], d["crop"][:, 1])[0, 1]) < 0.03


def test_a_draw_depends_on_seed_step_and_place_only(stats):
    a = Augmentation(crop=5, mirror=True, pca=0.1)
    whole = a.draw(9, 4, 0, 32, SHAPE, stats)
    for start, n in ((0, 7), (7, 12), (19, 13)):  # shards of the batch
        part = a.draw(9, 4, start, n, SHAPE, stats)
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][start : start + n])
    for other in (a.draw(10, 4, 0, 32, SHAPE, stats), a.draw(9, 5, 0, 32, SHAPE, stats)):
        for name in whole:
            assert not np.array_equal(other[name], whole[name])


def test_draws_never_change():
    """Known answers: a run resumed with a newer version must see the same crops."""
    d = Augmentation(crop=4, mirror=True, mean=None).draw(7, 3, 0, 4, SHAPE)
    assert d["crop"].tolist() == [[0, 5], [0, 7], [3, 0], [1, 2]]
    assert d["mirror"].tolist() == [1, 0, 1, 1]


def test_without_crop_or_mirror_nothing_moves():
    d = Augmentation(mean=None).draw(0, 0, 0, 5, SHAPE)
    assert not d["crop"].any()
    assert not d["mirror"].any()
    assert d["colour"] is None


def test_colour_shift_is_the_papers(stats):
    """Cov(shift) = pca^2 P diag(l^2) P^T; l: standard deviations, or eigenvalues of pixels in [0, 1]."""
    n = 60000
    for how, length in (("deviation", np.sqrt(stats.eigenvalues)), ("eigenvalue", stats.eigenvalues / 255)):
        colour = Augmentation(pca=0.1, pca_scale=how).draw(5, 0, 0, n, SHAPE, stats)["colour"]
        assert colour.shape == (n, 3)
        assert colour.dtype == np.float32
        wanted = (stats.eigenvectors * (0.1 * length) ** 2) @ stats.eigenvectors.T
        got = colour.astype(np.float64).T @ colour / n
        scale = (0.1 * length[0]) ** 2
        np.testing.assert_allclose(got, wanted, atol=0.02 * scale)
        assert np.abs(colour.mean(axis=0)).max() < 0.02 * np.sqrt(scale)
        # Along the axes the shifts are normal and independent.
        alphas = colour @ stats.eigenvectors / length
        np.testing.assert_allclose(np.cov(alphas.T), 0.01 * np.eye(3), atol=3e-4)
        assert abs((alphas**4).mean() / 3e-4 - 1) < 0.05


def test_colour_shift_of_the_original_code_in_grey_levels():
    """ImageNet's deviations, 121.78, 37.09, 19.72: the first axis moves by 12 grey levels, not by 1483."""
    deviations = np.array([121.78, 37.09, 19.72])
    s = data.Statistics(np.zeros((1, 1, 3)), np.zeros(3), deviations**2, np.eye(3), 1)
    colour = Augmentation(pca=0.1).draw(0, 0, 0, 20000, (1, 1, 3), s)["colour"]
    np.testing.assert_allclose(colour.std(axis=0), 0.1 * deviations, rtol=0.03)
    colour = Augmentation(pca=0.1, pca_scale="eigenvalue").draw(0, 0, 0, 20000, (1, 1, 3), s)["colour"]
    np.testing.assert_allclose(
        colour.std(axis=0) / 255, 0.1 * np.array([0.2281, 0.02116, 0.00598]), rtol=0.03
    )


def test_ten_views_are_corners_and_centre_mirrored():
    a = Augmentation(crop=(4, 6), mean=None)
    seen = [a.views(2, view, SHAPE) for view in range(data.VIEWS)]
    places = [(3, 3), (0, 0), (0, 6), (6, 0), (6, 6)]
    for view, d in enumerate(seen):
        assert d["crop"].tolist() == [list(places[view % 5])] * 2
        assert d["mirror"].tolist() == [view // 5] * 2
        assert d["colour"] is None
    centre = a.centre(3, SHAPE)
    assert centre["crop"].tolist() == [[3, 3]] * 3
    assert not centre["mirror"].any()


def test_the_papers_settings():
    assert data.PAPER.output_shape((256, 256, 3)) == (224, 224, 3)
    crops = data.PAPER.views(1, 4, (256, 256, 3))["crop"]
    assert crops.tolist() == [[32, 32]]


def test_mean_of(stats):
    assert Augmentation(mean=None).mean_of(None) is None
    assert Augmentation(mean="pixel").mean_of(stats).shape == (3,)
    assert Augmentation(mean="image").mean_of(stats).shape == SHAPE
    assert not Augmentation(mean=None).needs_statistics()
    assert Augmentation(mean=None, pca=0.1).needs_statistics()


def test_settings_survive_json():
    import json

    a = Augmentation(crop=(3, 4), mirror=True, pca=0.1, mean="pixel", scale=0.5, pca_scale="eigenvalue")
    assert Augmentation(**json.loads(json.dumps(a.as_dict()))) == a
