"""Threads that an interruption does not leave waiting forever, as it may those of `concurrent.futures`.

Their locks are taken in Python code: when a signal comes just then, the exception that its handler raises leaves a
lock taken, and the thread that wants it next never ends. What the main thread does here are single calls of C.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Generic, Self, TypeVar

Result = TypeVar("Result")


class Call(Generic[Result]):
    """A call that a thread makes."""

    def __init__(self, work: Callable[[], Result]) -> None:
        self._work = work
        self._outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Do not make the call, if it has not begun; there is no result to wait for then."""
        self._is_cancelled = True

    def make(self) -> None:
        """Make the call."""
        if self._is_cancelled:
            return
        try:
            self._outcome.put((self._work(), None))
        except BaseException as error:  # noqa: BLE001  # raised where the result is wanted
            self._outcome.put((None, error))

    def result(self) -> Result:
        """Wait for what the call returned, or raise what it raised; once."""
        result, error = self._outcome.get()
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]


class Threads:
    """Threads that make calls in the order in which they were submitted; at the end it waits for all of them."""

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[Call[Any] | None] = SimpleQueue()
        # A daemon that is interrupted while it starts does not keep the program from ending.
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def submit(self, work: Callable[[], Result]) -> Call[Result]:
        """Let a thread make a call."""
        call = Call(work)
        self._calls.put(call)
        return call

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()
