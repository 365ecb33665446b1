"""Work that a request waits for: in a few threads, with a queue of bounded length."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from imgsearch.service.metrics import Metrics
from imgsearch.service.problems import HttpError

Result = TypeVar("Result")

# Requests that wait for a thread; of one of 20 ms on each processor the last waits for less than a second.
MOST_WAITING = 64


class Work:
    """Threads for what takes a processor or a disk; the event loop only reads and writes."""

    def __init__(self, threads: int, metrics: Metrics) -> None:
        self._pool = ThreadPoolExecutor(threads, "work")
        self._threads = threads
        self._metrics = metrics
        self._count = 0  # waiting or at work; for the thread of the event loop alone

    async def run(self, call: Callable[[], Result]) -> Result:
        """Make a call in a thread; `HttpError` 503 if too many wait already."""
        if self._count >= self._threads + MOST_WAITING:
            raise HttpError(503, f"{MOST_WAITING} requests are waiting already", headers={"Retry-After": "1"})
        self._count += 1
        queued = time.perf_counter()

        def timed() -> Result:
            self._metrics.observe("queue", time.perf_counter() - queued)
            return call()

        future = self._pool.submit(timed)
        waiting = asyncio.wrap_future(future)
        # Not before it has ended, even if the request has: an abandoned call still takes its thread.
        waiting.add_done_callback(self._end)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            future.cancel()  # unless it has begun
            raise

    def _end(self, future: "asyncio.Future[Result]") -> None:
        self._count -= 1
        if not future.cancelled():
            future.exception()  # nobody may be waiting for it any more

    def close(self) -> None:
        """Wait for what is at work; what still waits is dropped."""
        self._pool.shutdown(cancel_futures=True)
