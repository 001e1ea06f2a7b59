"""What the tests rest on: comparisons that must fail do, and so does a session that left a kernel out."""

import os
import subprocess
import sys

import numpy as np
import pytest
from support.helpers import EPS32, assert_close, same_bits, tolerance
from support.runs import python_path


def test_equal_passes_and_rounding_passes():
    expected = np.linspace(-3, 3, 50)
    assert_close(expected.astype(np.float32), expected, 1)
    assert_close((expected * (1 + EPS32)).astype(np.float32), expected, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1.001])
def test_one_bad_element_fails(value):
    expected = np.ones((4, 5))
    actual = np.ones((4, 5), np.float32)
    actual[2, 3] = value
    with pytest.raises(AssertionError, match=r"1 of 20 elements .* worst at \(2, 3\)"):
        assert_close(actual, expected, 9)


def test_all_nan_fails():
    with pytest.raises(AssertionError, match="6 of 6"):
        assert_close(np.full(6, np.nan, np.float32), np.zeros(6), 1)


def test_wrong_shape_fails_even_if_it_would_broadcast():
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.ones((1, 4), np.float32), np.ones((3, 4)), 1)


def test_negative_values_do_not_loosen_the_tolerance():
    expected = np.array([0.1, -100.0])
    assert tolerance(expected, 1) == tolerance(-expected, 1) > 0
    with pytest.raises(AssertionError):
        assert_close(np.array([0.5, -100.0], np.float32), expected, 100)


def test_reference_must_be_float64_and_finite():
    with pytest.raises(AssertionError, match="float64"):
        assert_close(np.ones(2, np.float32), np.ones(2, np.float32), 1)
    with pytest.raises(AssertionError, match="finite"):
        assert_close(np.ones(2, np.float32), np.array([1.0, np.nan]), 1)


def test_same_bits():
    a = np.array([1.0, np.nan, -0.0], np.float32)
    assert same_bits(a, a.copy())
    assert not same_bits(np.float32([0.0]), np.float32([-0.0]))
    assert not same_bits(np.float32([1.0]), np.float64([1.0]))


@pytest.mark.parametrize("workers", [[], ["-p", "xdist", "-n2"]], ids=["alone", "two workers"])
@pytest.mark.parametrize("all_launched", [False, True], ids=["rows left out", "every row"])
def test_a_row_no_test_launched_fails_the_session(tmp_path, workers, all_launched):
    """Halves of the tables are launched by two tests, which two workers share."""
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    hooks = "from support.kernels.kernel_record import pytest_sessionfinish, pytest_testnodedown\n"
    (tmp_path / "conftest.py").write_text(hooks)
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "from support.kernels.kernel_record import LAUNCHED, tables\n"
        "from pyconvnet.common import devices\n"
        "ROWS = sorted(sum(tables(devices.emulator().ext).values(), []))\n"
        "@pytest.mark.parametrize('half', [0, 1])\n"
        f"def test_half(half): LAUNCHED.update(ROWS[half + {0 if all_launched else 2}::2])\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *workers]
    # No plugins but the one: they take longer to start than the test.
    environment = {**os.environ, "PYTHONPATH": python_path(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == (0 if all_launched else 1), done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert ("2 kernels that no test launched: " in done.stdout) == (not all_launched)
    command.append("test_it.py")  # not the whole suite: it need not launch all
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
