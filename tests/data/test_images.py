"""Single images: every mode of Pillow's with the right pixels, transparency, limits, what is no image."""

import io
import os
import socket
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from support import make_files as mk

import pyconvnet as pcn
from pyconvnet import data
from pyconvnet.data import load_image
from pyconvnet.layers import Linear, SoftmaxCrossEntropy

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)
TWO = [(10, 20, 30), (200, 100, 0)]


def packed(mode, *values, dtype=np.uint8, palette=None, **info):
    """One line of pixels of a mode, from the bytes they have in memory."""
    n = 8 * len(values) if mode == "1" else len(values)
    image = Image.frombytes(mode, (n, 1), np.array(values, dtype).tobytes())
    if palette is not None:
        image.putpalette(np.array(palette, np.uint8).tobytes(), "RGBA" if len(palette[0]) == 4 else "RGB")
    image.info.update(info)
    return image


def grey(*levels):
    return [(v, v, v) for v in levels]


WIDE = (0, 128, 129, 255, 256, 32896, 65535)  # 16 bits: /257, to the nearest
NARROW = grey(0, 0, 1, 1, 1, 128, 255)

# name, image, its pixels as RGB
MODES = [
    ("1", packed("1", 0b01000001), [BLACK, WHITE, *[BLACK] * 5, WHITE]),
    ("L", packed("L", 0, 100, 255), grey(0, 100, 255)),
    ("L with a transparent level", packed("L", 0, 100, transparency=100), grey(0, 255)),
    ("LA", packed("LA", (100, 255), (100, 0), (0, 128)), grey(100, 255, 127)),
    ("La", packed("La", (100, 255), (0, 0), (64, 128)), grey(100, 255, 191)),
    ("P", packed("P", 1, 0, palette=TWO), [TWO[1], TWO[0]]),
    ("P with a transparent entry", packed("P", 1, 0, palette=TWO, transparency=1), [WHITE, TWO[0]]),
    ("P with alpha", packed("P", 1, 0, palette=TWO, transparency=b"\xff\0"), [WHITE, TWO[0]]),
    ("P with half an alpha", packed("P", 0, palette=[BLACK], transparency=b"\x80"), grey(127)),
    ("P with an RGBA palette", packed("P", 1, 0, palette=[(9, 9, 9, 255), (0, 0, 0, 0)]), grey(255, 9)),
    ("PA", packed("PA", (1, 255), (0, 0), palette=TWO), [TWO[1], WHITE]),
    ("RGB", packed("RGB", *TWO), TWO),
    ("RGB with a transparent colour", packed("RGB", *TWO, transparency=TWO[0]), [WHITE, TWO[1]]),
    ("RGBA", packed("RGBA", (*RED, 255), (*RED, 0), (*RED, 128)), [RED, WHITE, (255, 127, 127)]),
    ("RGBa", packed("RGBa", (*RED, 255), (0, 0, 0, 0), (128, 0, 0, 128)), [RED, WHITE, (255, 127, 127)]),
    ("RGBX", packed("RGBX", (*TWO[0], 0), (*TWO[1], 255)), TWO),
    ("CMYK", packed("CMYK", (0, 0, 0, 0), (0, 0, 0, 255), (0, 255, 255, 0)), [WHITE, BLACK, RED]),
    ("YCbCr", packed("YCbCr", (255, 128, 128), (76, 85, 255), (0, 128, 128)), [WHITE, (254, 0, 0), BLACK]),
    ("LAB", packed("LAB", (255, 0, 0), (0, 0, 0), (138, 81, 70)), [WHITE, BLACK, RED]),
    ("HSV", packed("HSV", (0, 255, 255), (0, 0, 255), (0, 255, 0)), [RED, WHITE, BLACK]),
    ("I;16", packed("I;16", *WIDE, dtype="<u2"), NARROW),
    ("I;16L", packed("I;16L", *WIDE, dtype="<u2"), NARROW),
    ("I;16B", packed("I;16B", *WIDE, dtype=">u2"), NARROW),
    ("I;16N", packed("I;16N", *WIDE, dtype="=u2"), NARROW),
    ("I;16 that is dark", packed("I;16", 0, 255, 100, dtype="<u2"), grey(0, 1, 0)),
    ("I;16 with a transparent level", packed("I;16", 0, 514, dtype="<u2", transparency=514), grey(0, 255)),
    ("I;16 with a transparent 0", packed("I;16", 0, 514, dtype="<u2", transparency=0), grey(255, 2)),
    ("F", packed("F", 0, 0.25, 0.5, 1, dtype=np.float32), grey(0, 64, 128, 255)),
    ("I", packed("I", 0, 255, dtype=np.int32), "32-bit integer pixels have no white"),
    ("F up to 255", packed("F", 0, 255, dtype=np.float32), "in 0 .black. to 1 .white., got 0 to 255"),
    ("F below 0", packed("F", -0.5, 1, dtype=np.float32), "got -0.5 to 1"),
    ("F not a number", packed("F", np.nan, 1, dtype=np.float32), "got nan to nan"),
    ("no pixels", Image.new("RGB", (0, 0)), "must have pixels, got 0x0"),
    ("no rows", Image.new("L", (5, 0)), "must have pixels, got 5x0"),
]


def test_the_table_has_every_mode_of_pillows():
    assert {image.mode for _, image, _ in MODES} >= set(Image.MODES) - {"BGR;15", "BGR;16", "BGR;24"}


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize(("image", "pixels"), [row[1:] for row in MODES], ids=[row[0] for row in MODES])
def test_every_mode_has_its_pixels(image, pixels, channels):
    if isinstance(pixels, str):
        with pytest.raises(ValueError, match=pixels):
            load_image(image, (4, 4), channels)
        return
    got = load_image(image, (1, len(pixels)), channels)[0].astype(int)
    want = np.array(pixels)
    close = 5 if image.mode == "LAB" else 1 if image.mode in ("La", "RGBa", "YCbCr", "P") else 0
    if channels == 1:
        want = np.rint(want @ [0.299, 0.587, 0.114]).astype(int)[:, None]
        close += image.mode not in ("1", "L", "LA", "I;16", "I;16L", "I;16B", "I;16N", "F")
    np.testing.assert_allclose(got, want, rtol=0, atol=close)


def png(depth, colour, line, key=None, width=2):
    """A PNG of one line, its pixels as they lie in the file."""

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, 1, depth, colour, 0, 0, 0)
    transparent = b"" if key is None else chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    body = chunk(b"IHDR", header) + transparent + chunk(b"IDAT", zlib.compress(b"\0" + line))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


GREY, COLOUR, GREY_ALPHA = 0, 2, 4


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (png(1, GREY, bytes([0b01000000]), [1]), grey(0, 255)),
        (png(1, GREY, bytes([0b01000000]), [0]), grey(255, 255)),
        (png(2, GREY, bytes([0b01100000]), [2]), grey(85, 255)),
        (png(4, GREY, bytes([0x25]), [2]), grey(255, 85)),
        (png(8, GREY, bytes([2, 5]), [2]), grey(255, 5)),
        (png(16, GREY, struct.pack(">2H", 514, 771), [514]), grey(255, 3)),
        (png(16, GREY, struct.pack(">2H", 514, 771)), grey(2, 3)),
        (png(16, GREY, struct.pack(">2H", 256, 0)), grey(1, 0)),
        (png(16, GREY, struct.pack(">2H", 255, 0)), grey(1, 0)),
        (png(16, GREY_ALPHA, struct.pack(">4H", 514, 0, 771, 65535)), grey(255, 3)),
        (png(8, COLOUR, bytes([1, 2, 3, 4, 5, 6]), [1, 2, 3]), [WHITE, (4, 5, 6)]),
        (png(16, COLOUR, struct.pack(">6H", 257, 514, 771, 1028, 1285, 1542), [257, 514, 771]),
         [WHITE, (4, 5, 6)]),
    ],
    ids=lambda value: f"{value[24]}bit" if isinstance(value, bytes) else "",
)  # fmt: skip
def test_png_of_every_depth_keeps_its_transparency(content, pixels):
    assert load_image(content, (1, 2))[0].tolist() == [list(p) for p in pixels]


def test_grey_of_16_bits_in_other_files(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 65535\n" + struct.pack(">3H", 0, 257, 65535))
    (tmp_path / "b.pgm").write_bytes(b"P5 2 1 1023\n" + struct.pack(">2H", 0, 1023))
    assert load_image(tmp_path / "a.pgm", (1, 3), 1).ravel().tolist() == [0, 1, 255]
    assert load_image(tmp_path / "b.pgm", (1, 2), 1).ravel().tolist() == [0, 255]
    entries = [(256, 2), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 3)]
    twelve = struct.pack("<2sHI", b"II", 42, 12) + bytes([0xFF, 0xF8, 0x00, 0])  # 4095 and 2048
    twelve += struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", t, 4, 1, v) for t, v in entries)
    (tmp_path / "c.tif").write_bytes(twelve + bytes(4))
    assert load_image(tmp_path / "c.tif", (1, 2), 1).ravel().tolist() == [255, 128]


# ---- limits ----------------------------------------------------------------------------------------------
def bomb(path, side=13_000):
    """A PNG of nothing: small on disk, large in memory."""
    Image.new("1", (side, side)).save(path)
    return path


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    path = bomb(tmp_path / "bomb.png")
    monkeypatch.setattr("pyconvnet.data.images.fitted", lambda *_: pytest.fail("decoded"))
    message = r"bomb\.png: 13000x13000 = 169000000 pixels are more than max_pixels=100000000"
    with pytest.raises(ValueError, match=message):
        load_image(path, 8)


def test_max_pixels_is_a_limit_on_what_is_decoded(tmp_path):
    path = bomb(tmp_path / "a.png", 100)
    assert load_image(path, 8, max_pixels=10_000).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="10000 pixels are more than max_pixels=9999"):
        load_image(path, 8, max_pixels=9_999)
    assert load_image(Image.new("L", (100, 100)), 8, max_pixels=9_999).shape == (8, 8, 3)  # it is in memory
    mk.photo(1, 800, 800).save(tmp_path / "a.jpg")  # decoded at an eighth
    assert load_image(tmp_path / "a.jpg", 8, max_pixels=10_000).shape == (8, 8, 3)
    with pytest.raises(ValueError, match="800x800"):
        load_image(tmp_path / "a.jpg", 256, max_pixels=10_000)
    root = mk.image_folder(tmp_path / "f", count=1)
    bomb(root / "ant" / "b.png", 100)
    dataset = data.ImageFolder(root, 8, max_pixels=9_999)
    with pytest.warns(RuntimeWarning, match=r"b\.png: 100x100"):
        np.testing.assert_array_equal(*dataset.read([0, 1]))
    assert list(dataset.skipped) == ["ant/b.png"]
    assert dataset.fingerprint() != data.ImageFolder(root, 8).fingerprint()


@pytest.mark.parametrize(("action", "refused"), [("ignore", 20_001), ("default", 20_001), ("error", 10_001)])
def test_pillows_own_limit_holds_and_names_the_file(tmp_path, monkeypatch, action, refused):
    """Pillow warns above MAX_IMAGE_PIXELS and refuses above twice that; with -W error the warning refuses."""
    Image.new("1", (refused, 1)).save(tmp_path / "above.png")
    Image.new("1", (refused - 1, 1)).save(tmp_path / "below.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter(action)
        assert load_image(tmp_path / "below.png", 8).shape == (8, 8, 3)
        with pytest.raises(ValueError, match=r"above\.png.*bomb.*MAX_IMAGE_PIXELS is 10000"):
            load_image(tmp_path / "above.png", 8)


# ---- what is no image ------------------------------------------------------------------------------------
def test_what_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
        os.symlink("/dev/zero", tmp_path / "device.png")
        for name in ("pipe.png", "socket.png", "device.png"):
            with pytest.raises(ValueError, match=f"{name}: not a regular file"):
                load_image(tmp_path / name, 8)


def test_links_to_nowhere_are_told_in_short(tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "none.png").symlink_to("gone.png")
    with pytest.raises(ValueError, match=r"loop\.png: Too many levels of symbolic links$"):
        load_image(tmp_path / "loop.png", 8)
    with pytest.raises(FileNotFoundError, match=r"none\.png: a symbolic link to nothing \(gone\.png\)"):
        load_image(tmp_path / "none.png", 8)


def test_a_drawing_is_no_picture_whatever_its_name(tmp_path):
    """Pillow would run Ghostscript on it."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: EPS files are not read: a drawing"):
        load_image(tmp_path / "a.png", 8)


def test_encoded_images_in_memory():
    buffer = io.BytesIO()
    mk.photo(1).save(buffer, "PNG")
    want = load_image(buffer.getvalue(), 16)
    for form in (bytearray, memoryview, io.BytesIO):
        np.testing.assert_array_equal(load_image(form(buffer.getvalue()), 16), want)
    for wrong in (5, None, ["a.png"], 1.5):
        with pytest.raises(TypeError, match="source must be a path, bytes or a PIL image, got"):
            load_image(wrong, 16)
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="max_pixels must be"):
            load_image(buffer.getvalue(), 16, max_pixels=wrong)


# ---- predict ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def model():
    net = pcn.Network("n", (8, 8, 3)).add(Linear(2)).add(SoftmaxCrossEntropy())
    weights = {name: np.full(p.shape, 0.01, np.float32) for name, p in net.parameters().items()}
    return pcn.Model(net, weights, pcn.Preprocessing((8, 8, 3), None, None, 1.0))


def test_predict_takes_encoded_images_or_says_what_is_wrong(model):
    buffer = io.BytesIO()
    mk.photo(1).save(buffer, "PNG")
    want = pcn.predict(model, mk.photo(1))
    for form in (bytes, bytearray, memoryview):
        content = form(buffer.getvalue())
        assert pcn.predict(model, content) == want
        assert pcn.predict(model, [content, content]) == [want, want]
        with pytest.raises(ValueError, match="image: not an image file that Pillow can read"):
            pcn.predict(model, form(b"abc"))
    for wrong, kind in (([1, 2], "int"), ([None], "NoneType"), (3, "int"), ({}, "dict"), ([[1.0]], "list")):
        with pytest.raises(TypeError, match=f"images must be paths, PIL images or arrays, got {kind}"):
            pcn.predict(model, wrong)
    for size in ((0, 0), (8, 0)):
        with pytest.raises(ValueError, match="an image must have pixels, got"):
            pcn.predict(model, Image.new("RGB", size))


N_C_H_W = r"\(5, 3, 8, 8\).*that looks like \(n, C, H, W\): use x\.transpose\(0, 2, 3, 1\)"


def test_channels_first_is_told(model, tmp_path):
    x, y = np.zeros((5, 3, 8, 8), np.float32), np.arange(5) % 2
    for call in (
        lambda: pcn.ArrayDataset(x, y),
        lambda: pcn.predict(model, x),
        lambda: pcn.predict(model, x.astype(np.uint8)),
        lambda: pcn.evaluate(model, (x, y)),
        lambda: pcn.train(model.network, (x, y), out=tmp_path / "a"),
        lambda: pcn.ops.conv2d(x, np.zeros((4, 3, 3, 3), np.float32)),
    ):
        with pytest.raises(ValueError, match=N_C_H_W):
            call()
    for image in (x[0], x[0].astype(np.uint8), np.zeros((3, 20, 30), np.uint8)):
        with pytest.raises(ValueError, match=r"looks like \(C, H, W\): use x\.transpose\(1, 2, 0\)"):
            pcn.predict(model, image)
    grey = np.zeros((5, 1, 8, 8), np.uint8)  # could be signals: one row, 8 channels
    assert pcn.ArrayDataset(grey, y).image_shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"the data give \(1, 8, 8\).*looks like \(n, C, H, W\)"):
        pcn.train(model.network, (grey, y), out=tmp_path / "b", devices="cpu")
    with pytest.raises(ValueError, match=r"must have the model's shape.*got \(1, 8, 8\); that looks like"):
        pcn.evaluate(model, (grey, y))
    for fine in ((5, 3, 8, 3), (5, 3, 4, 8), (5, 8, 8, 16)):
        assert pcn.ArrayDataset(np.zeros(fine, np.uint8), y).image_shape == fine[1:]
