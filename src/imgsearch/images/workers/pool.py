"""Work on many files with a few worker processes: in order, with a bounded number of files under way."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

from imgsearch.images.workers.process import WorkerProcess

# Bytes of files that a stage holds at most, so that a folder of huge ones does not fill the memory.
MOST_BYTES = 256_000_000

Given = TypeVar("Given")
Result = TypeVar("Result")
Worker = TypeVar("Worker", bound=WorkerProcess)


def bounded_map(
    executor: ThreadPoolExecutor,
    work: Callable[[Given], Result],
    given: Iterable[Given],
    depth: int,
    weight: Callable[[Given], int] = lambda _: 0,
) -> Generator[Result]:
    """Map with an executor, in order, with at most `depth` results under way, and `MOST_BYTES` unless one has more.

    Args:
        executor: Runs the work.
        work: To do for each.
        given: Its arguments.
        depth: How many results may be under way.
        weight: How many bytes an argument stands for.

    Yields:
        Results.
    """
    running: deque[tuple[Future[Result], int]] = deque()
    bytes_under_way = 0
    try:
        for argument in given:
            coming = weight(argument)
            while running and (len(running) >= depth or bytes_under_way + coming > MOST_BYTES):
                future, done = running.popleft()
                bytes_under_way -= done
                yield future.result()
            running.append((executor.submit(work, argument), coming))
            bytes_under_way += coming
        while running:
            yield running.popleft()[0].result()
    finally:
        for future, _ in running:
            future.cancel()


def map_with_workers(
    work: Callable[[Worker, Given], Result],
    given: Iterable[Given],
    workers: Sequence[Worker],
    weight: Callable[[Given], int] = lambda _: 0,
) -> Generator[Result]:
    """Map in threads, each with a worker of its own, in order. Close it, or what is under way goes on.

    Args:
        work: To do for each, with a worker that is free.
        given: Its arguments.
        workers: As many as are to work at a time. They are ended with the map, whatever they are doing.
        weight: How many bytes an argument stands for.

    Yields:
        Results.
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def lend(argument: Given) -> Result:
        worker = free.get()
        try:
            return work(worker, argument)
        finally:
            free.put(worker)

    def kill() -> None:
        for worker in workers:
            worker.kill()

    try:
        with ThreadPoolExecutor(len(workers)) as threads, contextlib.ExitStack() as at_the_end:
            # An interruption must not wait for the half minute that a file under way may take.
            at_the_end.callback(kill)
            yield from bounded_map(threads, lend, given, 4 * len(workers), weight)
    finally:
        for worker in workers:
            worker.close()
