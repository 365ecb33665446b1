"""Threads that an interruption does not leave waiting forever, as it may those of `concurrent.futures`.

Their locks are taken in Python code: when a signal comes just then, the exception that its handler raises leaves a
lock taken, and the thread that wants it next never ends. What the main thread does here are single calls of C; so it
starts no `threading.Thread` either, which waits for it in Python, and raises something else when it is interrupted.
"""

import _thread
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Self, TypeVar

Result = TypeVar("Result")
_Outcome = SimpleQueue[tuple[Any, BaseException | None]]


class Threads:
    """Threads that make calls in the order in which they were submitted; at the end, those that have begun."""

    def __init__(self, count: int) -> None:
        self._calls: SimpleQueue[tuple[Callable[[], Any], _Outcome] | None] = SimpleQueue()
        self._is_over = False
        self._count = count
        self._ended: SimpleQueue[None] = SimpleQueue()

    def __enter__(self) -> Self:
        for _ in range(self._count):
            _thread.start_new_thread(self._work, ())  # which does not keep the program from ending
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for _each in range(self._count):
            self._calls.put(None)
        for _each in range(self._count):
            self._ended.get()

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
        self._ended.put(None)
