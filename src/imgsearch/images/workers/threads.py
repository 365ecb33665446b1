"""Threads that an interruption does not leave waiting forever, as it may those of `concurrent.futures`.

Their locks are taken in Python code: when a signal comes just then, the exception that its handler raises leaves a
lock taken, and the thread that wants it next never ends. What the main thread does here are single calls of C.
"""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
_Outcome = SimpleQueue[tuple[Any, BaseException | None]]


class Threads:
    """Threads that make calls in the order in which they were submitted; at the end, those that have begun."""

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], _Outcome] | None] = SimpleQueue()
        self._is_over = False
        # A daemon that is interrupted while it starts does not keep the program from ending.
        self._threads = [Thread(target=self._work, daemon=True) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for _thread in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def submit(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Let a thread make a call; returns what waits for its result, or raises what it raised, once."""
        outcome: _Outcome = SimpleQueue()
        self._calls.put((work, outcome))

        def result() -> Result:
            returned, error = outcome.get()
            if error is not None:
                raise error
            return returned  # type: ignore[no-any-return]

        return result

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            work, outcome = call
            if self._is_over:
                continue
            try:
                outcome.put((work(), None))
            except BaseException as error:  # noqa: BLE001  # raised where the result is wanted
                outcome.put((None, error))
            del call, work, outcome  # what was returned may be large, and the next call may be long in coming
