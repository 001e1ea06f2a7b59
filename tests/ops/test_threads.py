"""The threads of the cpu device: who works, who is waited for, what they hold on to."""

import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

from pyconvnet.common import threads


@pytest.fixture
def two_threads():
    before = threads.get_num_threads()
    threads.set_num_threads(2)
    yield
    threads.set_num_threads(before)


@pytest.fixture
def busy_helpers(two_threads):
    """All helpers at work for another caller until the test is over."""
    threads.parallel(lambda i: None, 2)
    count = len(threads._helpers)
    begun, go = threading.Semaphore(0), threading.Event()

    def task(index):
        begun.release()
        assert go.wait(60)

    callers = [threading.Thread(target=threads.parallel, args=(task, 2)) for _ in range(count)]
    for caller in callers:
        caller.start()
    for _ in range(2 * count):
        assert begun.acquire(timeout=60)
    yield
    go.set()
    for caller in callers:
        caller.join()


def test_helpers_at_work_elsewhere_are_not_waited_for(busy_helpers):
    done = []
    threads.parallel(done.append, 100)
    assert done == list(range(100))


def test_what_nobody_began_holds_no_arrays(busy_helpers):
    array = np.zeros(3)
    held = weakref.ref(array)
    threads.parallel(lambda i, array=array: array.sum(), 2)
    del array
    assert held() is None


def test_what_helpers_did_holds_no_arrays(two_threads):
    for _ in range(50):
        array, met = np.zeros(3), threading.Barrier(2)
        held = weakref.ref(array)
        threads.parallel(lambda i, array=array, met=met: met.wait(60) + array.sum(), 2)
        del array
        assert held() is None


def test_what_a_helper_raises_is_raised(two_threads):
    met = threading.Barrier(2)

    def task(index):
        met.wait(60)
        if threading.current_thread() is not threading.main_thread():
            raise KeyError(index)

    with pytest.raises(KeyError):
        threads.parallel(task, 2)


def test_helpers_end_with_the_interpreter():
    code = (
        "import atexit, threading;"
        "atexit.register(lambda: print(sum(t.name.startswith('pyconvnet') for t in threading.enumerate())));"
        "from pyconvnet.common import threads; threads.set_num_threads(3);"
        "met = threading.Barrier(3); threads.parallel(lambda i: met.wait(60), 3)"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
