"""Rows of bytes from open files, by the compiled module and without it."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from pyconvnet.ops.host import module
from pyconvnet.ops.host.read import read_rows

WAYS = ["compiled", "python"] if module.ext() is not None else ["python"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    if request.param == "python":
        monkeypatch.setattr(module, "ext", lambda: None)


@pytest.fixture
def files(tmp_path):
    """Two files of 1,000 random bytes, their contents and descriptors."""
    rng, contents, opened = np.random.default_rng(0), [], []
    for number in range(2):
        contents.append(rng.integers(0, 256, 1000, dtype=np.uint8))
        (tmp_path / str(number)).write_bytes(contents[-1].tobytes())
        opened.append(os.open(tmp_path / str(number), os.O_RDONLY))
    yield contents, opened
    for descriptor in opened:
        os.close(descriptor)


def read(opened, files, offsets, size=37):
    out = np.full((len(files), size), 0xA5, np.uint8)
    descriptors = np.array([opened[file] for file in files], np.int32)
    return read_rows(descriptors, np.array(offsets, np.int64), out), out


@pytest.mark.usefixtures("way")
def test_rows_in_any_order_and_again(files):
    contents, opened = files
    which, offsets = [1, 0, 1, 1, 0], [963, 0, 5, 5, 500]
    ended, out = read(opened, which, offsets)
    assert ended is None
    for row, file, offset in zip(out, which, offsets, strict=True):
        np.testing.assert_array_equal(row, contents[file][offset : offset + 37])
    ended, out = read(opened, [], [])
    assert ended is None


@pytest.mark.usefixtures("way")
def test_the_row_at_which_a_file_ends_is_told(files):
    contents, opened = files
    for offset in (964, 1000, 5000):
        ended, out = read(opened, [0, 1, 0], [3, offset, 3])
        assert ended == (1, 0)
        np.testing.assert_array_equal(out[0], contents[0][3:40])
        assert (out[2] == 0xA5).all(), "nothing after it"


@pytest.mark.usefixtures("way")
def test_what_the_system_refuses_is_told(files, tmp_path):
    opened = [*files[1], os.open(tmp_path, os.O_RDONLY)]
    assert read(opened, [0, 2], [0, 0])[0] == (1, errno.EISDIR)
    assert read(opened, [0, 1, 0], [0, -2, 0])[0] == (1, errno.EINVAL)
    os.close(opened.pop())
    assert read([*opened, -1], [2], [0])[0] == (0, errno.EBADF)


@pytest.mark.skipif(module.ext() is None, reason="no compiled module")
@pytest.mark.parametrize("wrong", ["rows", "bytes", "files", "offsets", "out", "writable"])
def test_the_module_refuses_arrays_that_do_not_fit(files, wrong):
    args = {
        "rows": 2,
        "bytes": 10,
        "files": np.array(files[1], np.int32),
        "offsets": np.zeros(2, np.int64),
        "out": np.zeros((2, 10), np.uint8),
    }
    if wrong == "writable":
        args["out"].flags.writeable = False
    else:
        other = {
            "rows": 3,
            "bytes": 11,
            "files": args["files"].astype(np.int64),
            "offsets": np.zeros(3, np.int64),
        }
        args[wrong] = other.get(wrong, np.zeros((2, 10), np.float32))
    with pytest.raises((ValueError, TypeError, BufferError), match=r"_host|read-only|writable"):
        module.ext().read(*args.values())
