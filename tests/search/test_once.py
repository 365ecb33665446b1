"""Work done once for all threads."""

import gc
import subprocess
import sys
import threading
import traceback
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgsearch.errors import UsageError
from imgsearch.search.once import Once
from imgsearch.store.lifetime import Lifetime


def test_a_call_is_made_once_for_all_threads():
    calls = []
    once = Once(Lifetime(), lambda: (calls.append(1), object())[1])
    start = threading.Barrier(8)
    with ThreadPoolExecutor(8) as threads:
        results = set(threads.map(lambda _: (start.wait(), once.result())[1], range(8)))
    assert (len(calls), len(results)) == (1, 1)


def test_asking_again_and_again_takes_no_memory():
    once = Once(Lifetime(), object)
    once.result()
    before = len(gc.get_objects())
    for _ in range(1000):
        once.result()
    assert len(gc.get_objects()) < before + 100


def test_an_error_is_raised_each_time_and_does_not_grow():
    once = Once(Lifetime(), lambda: 1 // 0)
    depths = []
    for _ in range(3):
        with pytest.raises(ZeroDivisionError) as caught:
            once.result()
        depths.append(len(traceback.extract_tb(caught.tb)))
    assert len(set(depths)) == 1


def test_nothing_begins_once_it_is_over_and_what_has_begun_is_waited_for():
    lifetime, may_end = Lifetime(), threading.Event()
    begun, unused = Once(lifetime, lambda: may_end.wait(60)), Once(lifetime, lambda: 1)
    begun.begin()
    assert lifetime.end()
    assert not lifetime.end()
    may_end.set()
    begun.wait()
    unused.wait()
    for once in (begun, unused):
        with pytest.raises(UsageError, match="closed"):
            once.result()


@pytest.mark.parametrize("is_used", [True, False])
def test_whoever_has_it_goes_with_the_last_reference(is_used):
    class Owner:
        def __init__(self):
            self.lifetime = Lifetime()
            self.once = Once(self.lifetime, self.work)

        def work(self):
            return 1

    owner = Owner()
    if is_used:
        assert owner.once.result() == 1
    owner.lifetime.end()
    owner.once.wait()
    seen = weakref.ref(owner)
    gc.disable()
    try:
        owner = None
        assert seen() is None
    finally:
        gc.enable()


def test_an_error_that_passes_does_not_stay():
    outcomes = [OSError("too many open files"), MemoryError(), None]
    calls = []

    def call():
        calls.append(1)
        if error := outcomes[len(calls) - 1]:
            raise error
        return "done"

    once = Once(Lifetime(), call)
    for error in (OSError, MemoryError):
        once.begin()
        with pytest.raises(error):
            once.result()
    assert [once.result() for _ in range(3)] == ["done"] * 3
    assert len(calls) == 3


def test_threads_that_wait_for_a_call_that_fails_wait_for_the_same():
    calls = []
    may_fail = threading.Event()

    def call():
        calls.append(1)
        may_fail.wait(60)
        raise OSError("too many open files")

    once = Once(Lifetime(), call)
    begun = [once.begin() for _ in range(4)]
    assert len(set(begun)) == 1
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(once.result) for _ in range(4)]
        may_fail.set()
        assert all(isinstance(each.exception(60), OSError) for each in waiting)
    assert 1 <= len(calls) <= 4


# In a process of its own: an alarm that strays ends the process of the tests.
INTERRUPTED = """
import signal, threading
from imgsearch.search.once import Once
from imgsearch.store.lifetime import Lifetime

may_end = threading.Event()
once = Once(Lifetime(), lambda: may_end.wait(60))
once.begin()

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
interruptions = 0
for wait in (once.result, once.wait):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        wait()
    except KeyboardInterrupt:
        interruptions += 1
threading.Timer(0.2, may_end.set).start()
assert once.result() is True
assert interruptions == 2
"""


def test_an_interruption_of_whoever_waits_leaves_the_call_to_the_next():
    """As when Ctrl-C comes in a notebook while the encoder is opened."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60, check=False)

    assert (done.returncode, done.stderr) == (0, "")
