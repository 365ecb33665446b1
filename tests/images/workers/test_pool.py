import subprocess
import sys
import threading
import time

import pytest

from imgsearch.images.workers.pool import MOST_BYTES, bounded_map, map_with_workers
from imgsearch.images.workers.threads import Threads


class Worker:
    """Stands for a process: what it is asked last until it is killed, where that is wanted."""

    def __init__(self) -> None:
        self.is_killed = threading.Event()
        self.is_closed = False
        self.lock = threading.Lock()

    def square(self, number: int) -> int:
        assert self.lock.acquire(blocking=False), "two threads at a time"
        time.sleep(0.001 * (number % 3))
        self.lock.release()
        return number * number

    def kill(self) -> None:
        self.is_killed.set()

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("count", [1, 3])
def test_results_come_in_order_and_each_worker_serves_one_thread_at_a_time(count):
    workers = [Worker() for _ in range(count)]

    assert list(map_with_workers(Worker.square, range(60), workers)) == [number * number for number in range(60)]
    assert all(worker.is_killed.is_set() and worker.is_closed for worker in workers)


def test_what_is_given_is_read_only_a_little_ahead():
    read = []
    given = (read.append(number) or number for number in range(1000))
    results = map_with_workers(Worker.square, given, [Worker(), Worker()])

    for _ in range(10):
        next(results)

    assert len(read) < 30
    results.close()


def test_a_map_that_is_closed_kills_what_is_under_way():
    workers, was_killed = [Worker(), Worker()], []

    def work(worker: Worker, number: int) -> int:
        if number:
            was_killed.append(worker.is_killed.wait(60))
        return number

    results = map_with_workers(work, range(100), workers)
    assert next(results) == 0

    results.close()

    assert all(was_killed)
    assert all(worker.is_closed for worker in workers)


def test_an_error_of_one_ends_the_map_and_its_workers():
    workers = [Worker()]

    with pytest.raises(ZeroDivisionError):
        list(map_with_workers(lambda _, number: 1 // (number - 5), range(100), workers))

    assert workers[0].is_closed


def test_no_more_bytes_are_under_way_than_a_stage_may_hold():
    under_way, most = [0], [0]
    lock = threading.Lock()

    def work(size: int) -> int:
        with lock:
            under_way[0] += size
            most[0] = max(most[0], under_way[0])
        time.sleep(0.005)
        with lock:
            under_way[0] -= size
        return size

    sizes = [MOST_BYTES // 3] * 10 + [2 * MOST_BYTES] + [MOST_BYTES // 3] * 10
    with Threads(8) as threads:
        assert list(bounded_map(threads, work, sizes, 8, lambda size: size)) == sizes
    assert most[0] == 2 * MOST_BYTES


INTERRUPTED = """
import contextlib, signal
from imgsearch.images.workers.pool import map_with_workers

class Worker:
    kill = close = lambda self: None

class Interruption(BaseException):
    pass

def interrupt(*_):
    global interruptions
    interruptions += 1
    raise Interruption

interruptions = 0

signal.signal(signal.SIGALRM, interrupt)
for number in range(1000):
    with contextlib.suppress(Interruption):
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + number % 100 * 3e-5)
        with contextlib.closing(map_with_workers(lambda _, given: given, range(100_000), [Worker(), Worker()])) as map:
            for _ in map:
                pass
        # What is raised in a callback of Python's own, of a weak reference, is lost.
        if interruptions == number:
            raise SystemExit("it was done before it was interrupted")
"""


def test_a_map_that_is_interrupted_at_any_moment_ends():
    subprocess.run([sys.executable, "-c", INTERRUPTED], check=True, timeout=100)
