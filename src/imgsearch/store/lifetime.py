"""How long what was opened may be used: until it is closed, by any thread of the process that opened it."""

import contextlib
import os
import threading
from collections.abc import Iterator

from imgsearch.errors import UsageError


class Lifetime:
    """Of one thing that is open, and a lock for what only one thread at a time may do with it."""

    def __init__(self, what: str = "Index") -> None:
        self._what = what
        self._process = os.getpid()
        self._is_over = False
        self._lock = threading.Lock()

    def require(self) -> None:
        """Raise `UsageError` once it is closed, and in a fork: it lacks the threads, and its locks may stay locked."""
        if os.getpid() != self._process:
            raise UsageError(f"this {self._what} was opened in another process (pid {self._process}): open it anew")
        if self._is_over:
            raise UsageError(f"this {self._what} is closed: open it anew")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other threads out, and `end` too; raises as `require` does."""
        self.require()
        with self._lock:
            self.require()
            yield

    def end(self) -> bool:
        """Be over once nobody has the lock; return whether there is something to close: not twice, nor in a fork."""
        try:
            with self.locked():
                self._is_over = True
        except UsageError:
            return False
        return True
