"""Worker processes decode as the parent would: Pillow's settings and plugins; what they cannot rebuild."""

import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, ImageFile, PngImagePlugin
from support import make_files as mk
from support.runs import python_path

from pyconvnet import data
from pyconvnet.data import Loader, pillow, workers

TOY = """
    from PIL import Image, ImageFile
    class ToyFile(ImageFile.ImageFile):
        format = "TOY"
        def _open(self):
            self._mode, self._size = "L", (4, 4)
            self.tile = [("toy", (0, 0, 4, 4), 3, ())]
    class ToyDecoder(ImageFile.PyDecoder):
        _pulls_fd = True
        def decode(self, buffer):
            self.set_as_raw(bytes([LEVEL]) * 16)
            return -1, 0
    LEVEL = 7
    def accept(start):
        return start[:3] == b"TOY"
    def starts_like_a_jpeg(start):
        return start[:2] == bytes([255, 216])
    def register():
        Image.register_open("TOY", ToyFile, accept)
        Image.register_extension("TOY", ".toy")
        Image.register_decoder("toy", ToyDecoder)
"""


@pytest.fixture
def folder(tmp_path):
    root = mk.image_folder(tmp_path / "f", classes=("ant",), count=6)
    mk.truncate(root / "ant" / "3.jpg", 0.8)
    return root


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A plugin of Pillow's in a module of its own, which is forgotten afterwards."""
    (tmp_path / "toy_plugin.py").write_text(textwrap.dedent(TOY))
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("OPEN", "EXTENSION", "DECODERS"):
        monkeypatch.setattr(Image, name, dict(getattr(Image, name)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    import toy_plugin

    toy_plugin.register()
    yield toy_plugin
    del sys.modules["toy_plugin"]


def epoch(loader, number=0):
    """The images of an epoch, and what has been skipped so far."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="skipped")
        images = np.concatenate([b.images for b in loader.epoch(number)])
    return images, sorted(loader.dataset.skipped)


def opened(root, count, **options):
    return Loader(data.ImageFolder(root, size=16, **options), 4, shuffle=False, workers=count)


def truncated(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


def small_images_only(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # the photos have 2080 pixels


def bombs_are_errors(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def no_texts(monkeypatch):
    monkeypatch.setattr(PngImagePlugin, "MAX_TEXT_CHUNK", 10)


def gif_as_rgb(monkeypatch):
    monkeypatch.setattr(GifImagePlugin, "LOADING_STRATEGY", GifImagePlugin.LoadingStrategy.RGB_ALWAYS)


SETTINGS = [  # what a script sets, and the files that are unreadable then
    (lambda _: None, ["3.jpg"]),
    (truncated, []),
    (small_images_only, ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]),
    (bombs_are_errors, ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]),
    (no_texts, ["3.jpg", "text.png"]),
    (gif_as_rgb, ["3.jpg"]),
]


def test_settings_of_pillow_reach_the_workers(folder):
    """Those made before the workers start, and those made between two epochs."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 100, zip=True)
    mk.photo(77, 30, 30).save(folder / "ant" / "text.png", pnginfo=text)
    mk.photo(78, 30, 30).quantize(8).save(folder / "ant" / "z.gif")
    with opened(folder, 2) as there:
        for number, (change, unreadable) in enumerate(SETTINGS):
            with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(), opened(folder, 0) as here:
                change(patch)
                want, skipped = epoch(here)
                assert skipped == [f"ant/{name}" for name in unreadable], change.__name__
                np.testing.assert_array_equal(epoch(there, number)[0], want, err_msg=change.__name__)
                if change is truncated:
                    with opened(folder, 2) as fresh:
                        np.testing.assert_array_equal(epoch(fresh)[0], want)
                        assert fresh.dataset.skipped == {}


def test_plugins_of_pillow_reach_the_workers(folder, toy):
    (folder / "ant" / "x.toy").write_bytes(b"TOY")
    with opened(folder, 2) as loader:
        assert "ant/x.toy" in loader.dataset.files
        images, skipped = epoch(loader)
        assert skipped == ["ant/3.jpg"]
        assert (images[6] == 7).all()
        toy.LEVEL = 9  # a setting of the plugin
        assert (epoch(loader, 1)[0][6] == 9).all()


def test_the_order_in_which_formats_are_tried_reaches_the_workers(folder, toy):
    """The toy reads what starts like a JPEG, too, and comes first."""
    Image.OPEN["TOY"] = (toy.ToyFile, toy.starts_like_a_jpeg)
    Image.ID.remove("TOY")
    Image.ID.insert(0, "TOY")
    with opened(folder, 0) as here, opened(folder, 1) as there:
        want = epoch(here)[0]
        assert (want == 7).all()
        np.testing.assert_array_equal(epoch(there)[0], want)


def test_state_is_taken_over_and_small():
    before = pillow.state()
    with warnings.catch_warnings():
        pillow.take_over(before)
    assert pillow.state() == before
    assert len(workers.packed(before)) < 20_000


# ---- what workers cannot rebuild -------------------------------------------------------------------------
MINE = """
    import warnings
    import numpy as np
    import pyconvnet as pcn
    from pyconvnet.training.loop import Trainer
    from pyconvnet.layers import Linear, SoftmaxCrossEntropy
    class Mine(pcn.data.Dataset):
        def __init__(self):
            self.classes, self.image_shape = ["a", "b"], (2, 2, 1)
            self.labels = np.arange(8, dtype=np.int32) % 2
        def _read(self, indices):
            return (50 * self.labels[indices, None, None, None] + np.ones((1, 2, 2, 1))).astype(np.uint8)
        def _identity(self):
            yield b"mine"
    net = pcn.Network("n", (2, 2, 1)).add(Linear(2)).add(SoftmaxCrossEntropy())
    Trainer._draw = lambda self: None
    options = dict(epochs=1, batch_size=4, devices="cpu", progress=False)
    for data in (Mine(), pcn.data.Subset(Mine(), range(7))):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run = pcn.train(net, data, out=type(data).__name__, **options)
        print("trained", len(run.history), [str(w.message) for w in caught if "workers" in str(w.message)])
        try:
            pcn.train(net, data, out="refused", workers=1, **options)
        except TypeError as error:
            print("refused", error)
"""


def test_a_dataset_of_the_script_is_read_without_workers(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(MINE))
    done = subprocess.run(
        [sys.executable, str(path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": python_path()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 4
    for trained, refused in (lines[:2], lines[2:]):
        assert trained.startswith("trained 1 ['images are decoded without worker processes: ")
        assert "Mine is defined in __main__, which other processes cannot import" in trained
        assert refused.startswith("refused Loader: the dataset")
        assert "use workers=0" in refused


def test_default_workers(folder, monkeypatch):
    images = data.ImageFolder(folder, size=8)
    assert workers.default_workers(images, 5) == 5
    assert workers.default_workers(data.ArrayDataset(np.zeros((2, 2, 2, 1), np.uint8), [0, 1]), 5) == 0
    images.extra = lambda: 0
    with pytest.warns(RuntimeWarning, match=r"without worker processes: the dataset .* cannot be sent"):
        assert workers.default_workers(images, 5) == 0
    module = type(os)("made_up")  # a module that no file holds
    module.Made = type("Made", (), {"__module__": "made_up"})
    monkeypatch.setitem(sys.modules, "made_up", module)
    images.extra = module.Made()
    with pytest.warns(RuntimeWarning, match="Made is defined in made_up"):
        assert workers.default_workers(images, 5) == 0
    with pytest.raises(TypeError, match="use workers=0"):
        next(iter(Loader(images, 4, workers=1).epoch(0)))


def test_a_plugin_of_the_script_is_told(folder, monkeypatch):
    monkeypatch.setattr(Image, "OPEN", {**Image.OPEN, "TOY": (lambda *_: None, None)})
    with pytest.warns(RuntimeWarning, match="a plugin of Pillow's cannot be sent"):
        assert workers.default_workers(data.ImageFolder(folder, size=8), 5) == 0
