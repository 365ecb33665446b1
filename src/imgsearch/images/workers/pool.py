"""Work on many files with a few worker processes: in order, with a bounded number of files under way."""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

from imgsearch.errors import ImageError, RefusedError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.reading import read_file
from imgsearch.images.workers.process import WorkerProcess
from imgsearch.images.workers.threads import Threads
from imgsearch.processors import processor_count

# Bytes of files that a stage holds at most, so that a folder of huge ones does not fill the memory.
MOST_BYTES = 256_000_000

# One file may kill the decoder. When these do one after another, it is the decoder or the machine.
CRASHES_IN_A_ROW = 5

Given = TypeVar("Given")
Result = TypeVar("Result")
Worker = TypeVar("Worker", bound=WorkerProcess)


def decoded_files(
    root: str,
    paths: Iterable[str],
    policy: FilePolicy,
    make: Callable[[], Worker],
    ask: Callable[[Worker, bytes], Result],
) -> Iterator[Result | ImageError]:
    """Yield, for each path below `root`, what `ask` returned for its content, or why there is nothing."""

    def decode(worker: Worker, path: str) -> Result | ImageError:
        try:
            name = os.path.join(root, path)
            data, _ = read_file(name, follow_links=policy.follow_links, max_bytes=policy.max_bytes)
            return ask(worker, data)
        except ImageError as error:
            return error

    workers = [make() for _ in range(processor_count())]
    with contextlib.closing(map_with_workers(decode, paths, workers)) as results:
        yield from while_decoder_works(results, lambda result: result if isinstance(result, ImageError) else None)


def while_decoder_works(results: Iterable[Result], error_of: Callable[[Result], ImageError | None]) -> Iterator[Result]:
    """Pass results on until the decoder has died of five in a row (RefusedError): then the files are not at fault."""
    crashes = 0
    for result in results:
        error = error_of(result)
        crashes = crashes + 1 if error is not None and error.cause == "decoder_crashed" else 0
        if crashes == CRASHES_IN_A_ROW:
            raise RefusedError(
                f"the decoder died of {crashes} files in a row",
                hint="is there enough memory, and is OpenCV intact? build-index can go on all the same: --force",
            )
        yield result


def bounded_map(
    threads: Threads,
    work: Callable[[Given], Result],
    given: Iterable[Given],
    depth: int,
    weight: Callable[[Given], int] = lambda _: 0,
) -> Generator[Result]:
    """Map in order with at most `depth` results under way, and at most `MOST_BYTES` by `weight` unless one has more."""
    running: deque[tuple[Callable[[], Result], int]] = deque()
    bytes_under_way = 0
    for argument in given:
        coming = weight(argument)
        while running and (len(running) >= depth or bytes_under_way + coming > MOST_BYTES):
            result, done = running.popleft()
            bytes_under_way -= done
            yield result()
        running.append((threads.submit(partial(work, argument)), coming))
        bytes_under_way += coming
    while running:
        result, _ = running.popleft()
        yield result()


def map_with_workers(
    work: Callable[[Worker, Given], Result],
    given: Iterable[Given],
    workers: Sequence[Worker],
    weight: Callable[[Given], int] = lambda _: 0,
) -> Generator[Result]:
    """Map in order, in threads with a worker each. Close it: that ends the workers, whatever they are doing."""
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
        with Threads(len(workers)) as threads, contextlib.ExitStack() as at_the_end:
            # An interruption must not wait for the half minute that a file under way may take.
            at_the_end.callback(kill)
            yield from bounded_map(threads, lend, given, 4 * len(workers), weight)
    finally:
        for worker in workers:
            worker.close()
