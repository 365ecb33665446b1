"""SQLite files: opened so that no name means anything to SQLite, and read by several threads."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from imgsearch.forks import no_fork
from imgsearch.store.lifetime import Lifetime

# Of text and blobs, in bytes: no cell of the shop's data is near it, and a --where expression can build no larger one.
LARGEST_VALUE = 64_000_000

# What makes str of text; in C, for it is called for each text of a million rows.
_DECODED = partial(str, encoding="utf-8", errors="surrogateescape")

# Rows that a thread fetches before it lets another have the connection.
_BATCH = 1000

# Instructions of SQLite between two looks at the clock.
_INSTRUCTIONS = 1_000


def database_uri(path: Path, options: str = "?mode=ro&immutable=1") -> str:
    """Name a database so that no character of its path means anything to SQLite."""
    # immutable needs no lock and no journal.
    return f"file:{quote_from_bytes(os.fsencode(path.absolute()))}{options}"


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a database in autocommit mode, for names that are not UTF-8 too; `read_only` for a published file."""
    # What is written is under the lock of the index: SQLite's own would fail where the file system has none.
    uri = database_uri(path, "?mode=ro&immutable=1" if read_only else "?mode=rwc&nolock=1")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.text_factory = _DECODED
    return connection


class Reader:
    """A connection to a published file, for which threads take turns."""

    def __init__(self, path: Path) -> None:
        self._lifetime = Lifetime()
        with no_fork():
            self.connection = connect(path, read_only=True)
            self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
            # SQLite opens a file when it is first read; we want it open before a writer can remove it.
            self.connection.execute("PRAGMA schema_version").fetchone()

    def close(self) -> None:
        """Close the connection, once what other threads are reading has been read."""
        if self._lifetime.end():
            with no_fork():
                self.connection.close()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the connection for this thread; raises as `Lifetime.require` does."""
        with self._lifetime.locked(), no_fork():
            yield

    def run(
        self, query: str, parameters: Sequence[object] = (), most_seconds: float = 0.0, largest: int = LARGEST_VALUE
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query; whoever is slow to take them does not keep others waiting.

        Raises `sqlite3.OperationalError` for one that takes more than `most_seconds`, if they are not 0, and
        `sqlite3.DataError` for one that has a text or blob of more bytes than `largest`.
        """
        spent = 0.0
        with self.locked():
            started = self._set_clock(most_seconds)
            self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)
            cursor = self.connection.execute(query, parameters)
            rows = cursor.fetchmany(_BATCH)
            spent += time.monotonic() - started
        try:
            while rows:
                yield from rows
                with self.locked():
                    started = self._set_clock(max(most_seconds - spent, 1e-9) if most_seconds else 0.0)
                    self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, largest)
                    rows = cursor.fetchmany(_BATCH)
                    spent += time.monotonic() - started
        finally:
            with no_fork():
                del cursor  # which resets its statement

    def _set_clock(self, most_seconds: float) -> float:
        now = time.monotonic()
        is_over = (lambda: time.monotonic() > now + most_seconds) if most_seconds else None
        self.connection.set_progress_handler(is_over, _INSTRUCTIONS)
        return now
