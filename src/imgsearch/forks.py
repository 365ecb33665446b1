"""A process is not forked while one of its threads is in SQLite."""

import contextlib
import os
import threading
from collections.abc import Iterator


class _Gate:
    """Threads in SQLite, and forks that wait for them; whoever comes while a fork waits, comes after it.

    SQLite has locks of its own for the whole process. A child that is forked while another thread holds one of them
    would wait for it forever, where it opens a database of its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: list[int] = []
        self._forks = 0

    def enter(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks or thread in self._inside)
            self._inside.append(thread)

    def leave(self) -> None:
        with self._changed:
            self._inside.remove(threading.get_ident())
            self._changed.notify_all()

    def begin_fork(self) -> None:
        """Wait for all other threads to leave, and keep them out."""
        thread = threading.get_ident()  # which may be inside: what SQLite calls, or a signal, may fork
        self._changed.acquire()
        self._forks += 1
        self._changed.wait_for(lambda: all(other == thread for other in self._inside))

    def end_fork(self) -> None:
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def end_fork_in_child(self) -> None:
        self._forks = 1  # those of other threads, which waited, are not here
        self.end_fork()


_GATE = _Gate()
os.register_at_fork(before=_GATE.begin_fork, after_in_parent=_GATE.end_fork, after_in_child=_GATE.end_fork_in_child)


@contextlib.contextmanager
def no_fork() -> Iterator[None]:
    """Let no other thread fork this process meanwhile; for all that threads which search do with SQLite."""
    _GATE.enter()
    try:
        yield
    finally:
        _GATE.leave()
