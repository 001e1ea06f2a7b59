"""JPEG files by libjpeg-turbo: the pixels Pillow makes of them, and what is left to Pillow."""

import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageFile, JpegImagePlugin
from support import make_files as mk

from pyconvnet import data
from pyconvnet.data import jpeg, load_image
from pyconvnet.training.train import _data

FAST, PILLOW = jpeg.FAST, jpeg.PILLOW
pytestmark = pytest.mark.skipif(jpeg.library() is None, reason="simplejpeg is not installed")


def encoded(image, **options):
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def both(source, size=(64, 64), channels=3, **options):
    return [load_image(source, size, channels, decoder=d, **options) for d in (FAST, PILLOW)]


def assert_close(fast, pillow):
    """The bound that docs/data.md states."""
    assert fast.shape == pillow.shape
    far = np.abs(fast.astype(int) - pillow)
    assert far.max() <= 16
    assert far.mean() <= 0.5


@pytest.fixture
def calls(monkeypatch):
    """What libjpeg-turbo itself was asked to decode."""
    seen = []
    real = jpeg.library().decode_jpeg

    def decode(content, *args, **options):
        seen.append(options)
        return real(content, *args, **options)

    monkeypatch.setattr(jpeg.library(), "decode_jpeg", decode)
    return seen


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 20}], ids=str)
def test_pixels_are_pillows(calls, mode, options, channels):
    for seed, shape in enumerate([(80, 100), (64, 64), (100, 70), (20, 30)]):
        fast, pillow = both(encoded(mk.photo(seed, *shape, mode), **options), channels=channels)
        assert_close(fast, pillow)
        assert fast.flags.c_contiguous
        if shape == (64, 64):  # nothing to resample
            np.testing.assert_array_equal(fast, pillow)
    assert len(calls) == 4


@pytest.mark.parametrize("orientation", range(10))
def test_exif_orientation_without_a_second_decode(calls, orientation):
    image, exif = mk.photo(3, 64, 64), Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, exif=exif)
    np.testing.assert_array_equal(*both(content))
    fast, pillow = both(encoded(mk.photo(3, 50, 90), exif=exif), (40, 48))
    assert_close(fast, pillow)
    assert len(calls) == 2


@pytest.mark.parametrize(("side", "factor"), [(31, 1), (127, 1), (128, 2), (255, 2), (256, 4), (513, 8)])
def test_large_files_are_reduced_while_they_are_decoded(calls, side, factor):
    fast, pillow = both(encoded(mk.photo(1, side, side + 3)), 32)
    assert_close(fast, pillow)
    assert len(calls) == 1
    assert calls[0] == (
        {} if factor == 1 else {"min_height": -(-side // factor), "min_width": -(-(side + 3) // factor)}
    )


def test_what_is_left_to_pillow(calls, monkeypatch):
    for mode in ("CMYK",):
        content = encoded(mk.photo(1).convert(mode))
        np.testing.assert_array_equal(*both(content))
    content = encoded(mk.photo(1), keep_rgb=True)
    np.testing.assert_array_equal(*both(content))
    png = io.BytesIO()
    mk.photo(2).save(png, "PNG")
    np.testing.assert_array_equal(*both(png.getvalue()))
    assert not calls
    whole = encoded(mk.photo(1, 200, 200))
    for decoder in (FAST, PILLOW):
        with pytest.raises(ValueError, match="truncated"):
            load_image(whole[: len(whole) // 2], 64, decoder=decoder)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    np.testing.assert_array_equal(*both(whole[: len(whole) // 2]))


def test_a_plugin_in_the_place_of_pillows_is_asked(calls, monkeypatch):
    Image.preinit()

    class Own(JpegImagePlugin.JpegImageFile):
        pass

    monkeypatch.setitem(Image.OPEN, "JPEG", (Own, Image.OPEN["JPEG"][1]))
    np.testing.assert_array_equal(*both(encoded(mk.photo(1))))
    assert not calls


def test_the_decoder_is_part_of_what_a_dataset_is(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    sets = {d: data.ImageFolder(root, 32, decoder=d) for d in (FAST, PILLOW)}
    assert data.ImageFolder(root, 32).decoder == FAST
    assert {d: s.reading["decoder"] for d, s in sets.items()} == {d: d for d in sets}
    assert sets[FAST].fingerprint() != sets[PILLOW].fingerprint()
    for name, dataset in sets.items():
        train, held_out = data.open_dataset(dataset, validation=str(root))
        assert train is dataset
        assert held_out.decoder == name
    with pytest.raises(ValueError, match="decoder must be"):
        data.ImageFolder(root, 32, decoder="libjpeg")


def test_a_run_begun_before_there_was_a_choice_goes_on_with_pillow(tmp_path):
    root = mk.image_folder(tmp_path / "f")
    images = {"size": [32, 32], "channels": 3, "on_error": "skip", "max_pixels": 10**8}
    model = SimpleNamespace(preprocessing=SimpleNamespace(image_shape=(32, 32, 3)))
    for told, decoder in (({}, PILLOW), ({"decoder": FAST}, FAST), ({"decoder": PILLOW}, PILLOW)):
        saved = model, {"options": {"images": {**images, **told}, "seed": 0}}
        train, held_out, _ = _data(str(root), str(root), None, saved, {}, {})
        assert train.decoder == held_out.decoder == decoder


def test_without_simplejpeg_pillow_decodes(tmp_path, monkeypatch):
    root = mk.image_folder(tmp_path / "f")
    monkeypatch.setattr(jpeg, "library", lambda: None)
    dataset = data.ImageFolder(root, 32)
    assert dataset.decoder == PILLOW
    assert dataset.read([0]).shape == (1, 32, 32, 3)
    with pytest.raises(ValueError, match="decoder 'libjpeg-turbo' needs simplejpeg"):
        data.ImageFolder(root, 32, decoder=FAST)


def test_a_file_of_countless_scans_is_refused():
    content = encoded(mk.photo(1, 100, 100), progressive=True)
    start = content.rindex(b"\xff\xda")
    end = content.rindex(b"\xff\xd9")
    bomb = content[:end] + content[start:end] * 5000 + content[end:]
    for decoder in (FAST, PILLOW):
        with pytest.raises(
            ValueError, match="scans of 10000 pixels are more than 20 times max_pixels=1000000"
        ):
            load_image(bomb, 32, max_pixels=1_000_000, decoder=decoder)
        assert load_image(content, 32, max_pixels=10_000, decoder=decoder).shape == (32, 32, 3)


@pytest.mark.skipif(not (mk.SHARED / "odd-images").is_dir(), reason="no photographs here")
@pytest.mark.parametrize("name", sorted(p.name for p in (mk.SHARED / "odd-images").glob("*")))
def test_odd_files_end_as_with_pillow(name):
    results = []
    for decoder in (FAST, PILLOW):
        try:
            results.append(load_image(mk.SHARED / "odd-images" / name, 64, decoder=decoder))
        except ValueError as error:
            results.append(str(error))
    if isinstance(results[1], str):
        assert results[0] == results[1]
        assert name in results[0]
    else:
        assert_close(*results)


@pytest.mark.skipif(not (mk.SHARED / "photos").is_dir(), reason="no photographs here")
def test_photographs_are_within_the_bound():
    paths = (
        sorted((mk.SHARED / "photos").rglob("*.JPEG"))[::40]
        + sorted((mk.SHARED / "photos-any-size").rglob("*.JPEG"))[::20]
    )
    assert len(paths) > 20
    for path in paths:
        assert_close(*both(path, 256))
