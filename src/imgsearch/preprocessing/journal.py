"""What `preprocess` remembers of a folder it writes: from which file, and how, each output was made.

The time of an output could not say it: some disks store times too coarsely, and who copies or indexes outputs must see
by it that they have changed. Nor could names: what is not in the journal is not ours, and is never removed.
"""

import logging
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_from_bytes

from imgsearch.files import check_database, is_of_system
from imgsearch.images.scan import FoundFile

logger = logging.getLogger(__name__)

# Paths are stored as the bytes of the file name, which need not be UTF-8.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, settings TEXT NOT NULL,
    cause TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS outputs (output BLOB PRIMARY KEY, path BLOB NOT NULL, size INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS outputs_path ON outputs (path);
DROP TABLE IF EXISTS found;
CREATE TABLE found (
    id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, name BLOB NOT NULL, size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, cause TEXT NOT NULL
);
"""
# A file rejected for a passing cause may be fine the next time though its size and time are the same.
_READ_SOURCES = """
SELECT f.id, f.path, f.name, f.size, f.mtime_ns, f.cause,
    CASE WHEN k.size = f.size AND k.mtime_ns = f.mtime_ns AND k.settings = ? AND f.cause = '' AND k.cause NOT IN
        ('unreadable', 'vanished', 'changed', 'timeout', 'decoder_crashed', 'out_of_memory') THEN k.cause END
FROM found f LEFT JOIN files k ON k.path = f.path WHERE f.id > ? ORDER BY f.id LIMIT 500
"""
_READ_LEFT_OVER = """
SELECT output FROM outputs o WHERE NOT EXISTS (
    SELECT 1 FROM found f JOIN files k ON k.path = f.path WHERE f.path = o.path AND k.cause = ''
) ORDER BY output
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A file of the source folder, with the size and time it had when it was found."""

    id: int
    path: str
    name: str  # of its outputs, below the destination, without what `preprocess` adds
    size: int
    mtime_ns: int
    cause: str  # why it cannot be opened, or empty
    # Why it, unchanged, was rejected with the same settings before; empty if it was used; None if it is new, changed,
    # or worth another try.
    known: str | None


class Journal:
    """The journal of one destination, open in this process alone, with the settings that outputs are made with."""

    def __init__(self, destination: Path, connection: sqlite3.Connection, settings: str) -> None:
        self._destination = destination
        self._connection = connection
        self._settings = settings

    def commit(self) -> None:
        """Make sure of what was recorded so far."""
        self._connection.execute("COMMIT")
        self._connection.execute("BEGIN")

    def add_found(self, found: Iterable[tuple[FoundFile, str]]) -> tuple[int, int]:
        """Take in what a scan found, with the names of the outputs; count the files, and those that can be opened."""
        self._connection.executemany(
            "INSERT INTO found (path, name, size, mtime_ns, cause) VALUES (?, ?, ?, ?, ?)",
            ((os.fsencode(file.path), os.fsencode(name), file.size, file.mtime_ns, file.cause) for file, name in found),
        )
        seen, usable = self._connection.execute("SELECT count(*), count(nullif(cause != '', 1)) FROM found").fetchone()
        return int(seen), int(usable)

    def sources(self) -> Iterator[Source]:
        """Yield the files that were found; meanwhile they may be recorded."""
        last = 0
        while page := self._connection.execute(_READ_SOURCES, (self._settings, last)).fetchall():
            for last, path, name, *facts in page:
                yield Source(last, os.fsdecode(path), os.fsdecode(name), *facts)

    def has_outputs(self, source: Source, outputs: Sequence[str]) -> bool:
        """Return whether just these outputs of a file were made, and are still there."""
        sizes = self._sizes(source)
        return sizes.keys() == set(outputs) and all(self._size_on_disk(name) == size for name, size in sizes.items())

    def record(self, source: Source, size: int, mtime_ns: int, outputs: Sequence[tuple[str, int]]) -> list[str]:
        """Record that a file of this size and time was used; return outputs that it had before, and has no more."""
        obsolete = sorted(self._sizes(source).keys() - {output for output, _ in outputs})
        path = os.fsencode(source.path)
        self._connection.execute("DELETE FROM outputs WHERE path = ?", (path,))
        self._connection.executemany(
            "INSERT OR REPLACE INTO outputs VALUES (?, ?, ?)",
            ((os.fsencode(output), path, length) for output, length in outputs),
        )
        self._put(source, size, mtime_ns, "")
        return obsolete

    def reject(self, source: Source, cause: str) -> bool:
        """Record that a file cannot be used; return whether that is new."""
        row = self._connection.execute("SELECT cause FROM files WHERE path = ?", (os.fsencode(source.path),)).fetchone()
        self._put(source, source.size, source.mtime_ns, cause)
        return row is None or not row[0]

    def forget_gone(self) -> int:
        """Forget files and outputs that are gone; count outputs whose file is gone, or cannot be used any more."""
        self._connection.execute("DELETE FROM files WHERE path NOT IN (SELECT path FROM found)")
        left_over = [output for (output,) in self._connection.execute(_READ_LEFT_OVER).fetchall()]
        gone = [(output,) for output in left_over if self._size_on_disk(os.fsdecode(output)) is None]
        self._connection.executemany("DELETE FROM outputs WHERE output = ?", gone)
        return len(left_over) - len(gone)

    def _sizes(self, source: Source) -> dict[str, int]:
        rows = self._connection.execute("SELECT output, size FROM outputs WHERE path = ?", (os.fsencode(source.path),))
        return {os.fsdecode(output): size for output, size in rows}

    def _size_on_disk(self, output: str) -> int | None:
        try:
            status = os.lstat(os.path.join(self._destination, output))
        except OSError:
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

    def _put(self, source: Source, size: int, mtime_ns: int, cause: str) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
            (os.fsencode(source.path), size, mtime_ns, self._settings, cause),
        )


@contextmanager
def open_journal(path: Path, settings: str) -> Iterator[Journal]:
    """Open a destination's journal, a damaged one begun anew; the caller holds the destination's lock."""
    try:
        connection = _open(path)
    except sqlite3.DatabaseError as error:
        if is_of_system(error):
            raise
        logger.warning("%s is damaged (%s); begun anew", path, error)
        path.unlink()
        connection = _open(path)
    try:
        yield Journal(path.parent, connection, settings)
    finally:
        try:
            if connection.in_transaction:
                connection.execute("COMMIT")  # what was done before an interruption, too, is done
        finally:
            connection.close()


def _open(path: Path) -> sqlite3.Connection:
    # A URI, so that no character of the path means anything to SQLite; its own locks not every file system has.
    uri = f"file:{quote_from_bytes(os.fsencode(path.absolute()))}?nolock=1"
    connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    try:
        connection.executescript(_SCHEMA)
        check_database(connection)
        connection.execute("BEGIN")
    except BaseException:
        connection.close()
        raise
    return connection
