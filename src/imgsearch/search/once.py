"""Work that is done once, for all threads, and may begin before anybody waits for it."""

import threading
from collections.abc import Callable
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
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._returned: list[Result] = []
        self._raised: tuple[BaseException, TracebackType | None] | None = None

    def begin(self) -> threading.Thread:
        """Begin the call, unless that has been done; raises as `Lifetime.require` does."""
        self._lifetime.require()
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run)
                thread.start()
                self._thread = thread
            return self._thread

    def result(self) -> Result:
        """Wait for the call, and return or raise what it did; after an error whoever asks next tries again."""
        thread = self.begin()
        thread.join()
        if self._returned:
            return self._returned[0]
        with self._lock:
            if self._thread is thread:
                self._thread = None
        assert self._raised is not None
        error, traceback = self._raised
        raise error.with_traceback(traceback)  # which would otherwise get longer each time

    def wait(self) -> None:
        """Wait for the call if it has begun; if it has not, it never will."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        self._calls.clear()

    def _run(self) -> None:
        try:
            self._lifetime.require()
            self._returned.append(self._calls[0]())
            self._calls.clear()
        except BaseException as error:  # noqa: BLE001  # raised where the result is wanted
            self._raised = error, error.__traceback__
