"""Work that is done once, for all threads, and may begin before anybody waits for it."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

from imgsearch.store.lifetime import Lifetime

if TYPE_CHECKING:
    from types import TracebackType

Result = TypeVar("Result")


class Once(Generic[Result]):
    """A call that a thread of its own makes, within a lifetime, until it has returned once."""

    def __init__(self, lifetime: Lifetime, call: Callable[[], Result]) -> None:
        self._lifetime = lifetime
        self._calls = [call]  # until it has returned: it often refers to whoever has this
        self._returned: list[Result] = []
        self._lock = threading.Lock()
        self._attempt: _Attempt[Result] | None = None

    def begin(self) -> "_Attempt[Result]":
        """Begin the call, unless that has been done; raises as `Lifetime.require` does."""
        self._lifetime.require()
        with self._lock:
            if self._attempt is None:
                attempt = _Attempt(self._lifetime, self._calls, self._returned)
                threading.Thread(target=attempt.run).start()
                self._attempt = attempt
            return self._attempt

    def result(self) -> Result:
        """Wait for the call, and return or raise what it did; after an error whoever asks next tries again."""
        attempt = self.begin()
        attempt.wait()
        if self._returned:
            return self._returned[0]
        with self._lock:
            if self._attempt is attempt:
                self._attempt = None
        assert attempt.raised is not None
        error, traceback = attempt.raised
        raise error.with_traceback(traceback)  # which would otherwise get longer each time

    def wait(self) -> None:
        """Wait for the call if it has begun; if it has not, it never will."""
        with self._lock:
            attempt = self._attempt
        if attempt is not None:
            attempt.wait()
        self._calls.clear()


class _Attempt(Generic[Result]):
    """A call that a thread makes, for which others wait."""

    def __init__(self, lifetime: Lifetime, calls: list[Callable[[], Result]], returned: list[Result]) -> None:
        self.raised: tuple[BaseException, TracebackType | None] | None = None
        self._lifetime = lifetime
        self._calls = calls
        self._returned = returned
        self._is_over = False
        # Not Thread.join: after an interruption (Ctrl-C) it takes a thread that runs for one that has ended.
        self._waiting: list[SimpleQueue[None]] = []

    def run(self) -> None:
        try:
            self._lifetime.require()
            self._returned.append(self._calls[0]())
            self._calls.clear()
        except BaseException as error:  # noqa: BLE001  # raised where the result is wanted
            self.raised = error, error.__traceback__
        self._is_over = True
        for each in self._waiting:
            each.put(None)

    def wait(self) -> None:
        if self._is_over:  # as nearly always: an index that stays open must not remember who asked
            return
        end: SimpleQueue[None] = SimpleQueue()
        self._waiting.append(end)
        if not self._is_over:
            end.get()
