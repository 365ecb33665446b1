"""SQLite files beside the generations that are written to while others read them; builds and rollbacks leave them."""

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from imgsearch.errors import DamagedIndexError, LockedError, OutputError
from imgsearch.files import check_database, is_of_system, reason_of, writing
from imgsearch.forks import no_fork
from imgsearch.store.database import database_uri
from imgsearch.store.lifetime import Lifetime
from imgsearch.system import refusal_of, words_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

# How long a writer waits for another one, in seconds: each has the file for milliseconds, an import for seconds.
WAIT = 30.0


@dataclass(frozen=True, slots=True)
class Content:
    """What such a file holds.

    Attributes:
        file: Its name in the index.
        name: What it holds, in a word.
        schema: Statements that make its tables and set their version, separated by semicolons.
        version: Of the tables; a change of them is another version.
        is_checked: Whether all of it is checked whenever it is opened; for small files.
    """

    file: str
    name: str
    schema: str
    version: int
    is_checked: bool


class LiveDatabase:
    """Such a file; threads share it, other processes may write to it meanwhile.

    Args:
        directory: The index; the file is made unless it is there.
        content: What the file holds.
        read_only: Open it on a disk that cannot be written to as well, if it is there.

    Raises:
        DamagedIndexError: The file is damaged, or written by a newer imgsearch.
        OutputError: It cannot be written.
        ResourceError: The system has too little memory or open files.
    """

    def __init__(self, directory: Path, content: Content, *, read_only: bool = False) -> None:
        self._path = directory / content.file
        self._content = content
        self._lifetime = Lifetime(type(self).__name__)
        self._written = 0
        self._is_writable = not read_only or os.access(directory, os.W_OK)
        with contextlib.ExitStack() as opened:
            with self._guarded(), no_fork():
                self._connection = self._connect(is_writable=self._is_writable)
                opened.callback(self._connection.close)
                self._require_version()
                if self._is_writable:
                    self._prepare()
                if content.is_checked:
                    check_database(self._connection)
            opened.pop_all()

    def _connect(self, *, is_writable: bool) -> sqlite3.Connection:
        options = "?mode=rwc"
        if not is_writable:
            # Without its log nobody writes: SQLite then need not make the file by which readers and writers meet.
            has_log = self._path.with_name(f"{self._path.name}-wal").exists()
            options = "?mode=ro" if has_log else "?mode=ro&immutable=1"
        return sqlite3.connect(
            database_uri(self._path, options), uri=True, isolation_level=None, check_same_thread=False, timeout=WAIT
        )

    def _prepare(self) -> None:
        """Set up the connection for writing, and the tables unless they are there."""
        # What is acknowledged outlives a power cut, and what is forgotten leaves no bytes in the file.
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA secure_delete = ON")
        self._keep_log()
        if self._require_version():  # whoever reads does not wait for an import
            return
        with self._transaction():
            if not self._require_version():
                for statement in self._content.schema.split(";"):
                    self._connection.execute(statement)

    def _keep_log(self) -> None:
        """Let readers and a writer not wait for each other; SQLite fails at once where two begin this together."""
        end = time.monotonic() + WAIT
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.01)
            else:
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, once what other threads are doing is done."""
        if self._lifetime.end():
            with no_fork():
                self._connection.close()

    def _require_version(self) -> bool:
        """Return whether the tables are there; raises `DamagedIndexError` for those of another version."""
        # Both of one moment: another process may be making the tables.
        ((found, tables),) = self._connection.execute(
            "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
        ).fetchall()
        if found > self._content.version:
            raise DamagedIndexError(
                f"{self._path} is of a newer version, {found}; this imgsearch reads up to {self._content.version}",
                hint="update imgsearch",
            )
        if found < 0 or (tables > 0) != (found == self._content.version):
            raise self._damaged(f"it holds no {self._content.name}")
        return bool(tables)

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        with self._locked():
            return self._connection.execute(query, values).fetchall()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with self._lifetime.locked(), no_fork(), self._guarded():
            yield

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        with self._locked():
            with self._transaction():
                yield
            self._written += 1

    @contextlib.contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        """Do all or nothing; "DEFERRED" to read what is of one moment."""
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            raise

    def _truncate_log(self) -> None:
        """Have what was forgotten gone from the log of the file, too; waits for those who read it."""
        ((is_busy, _, _),) = self._rows("PRAGMA wal_checkpoint(TRUNCATE)")
        if is_busy:
            raise LockedError(
                f"what was forgotten is no longer read, but its bytes are still in {self._path}-wal, "
                f"which another process has been reading for {WAIT:.0f} seconds",
                hint="run this again when that is done",
            )

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        """Tell what is wrong with the file from what the system refuses."""
        try:
            yield
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # SQLite's messages quote damaged bytes
            if not is_of_system(error):
                raise self._damaged(words_of(error)) from error
            reason = reason_of(error, self._path.parent)
            if refusal := refusal_of(reason):
                raise refusal from error
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                raise OutputError(
                    f"cannot write to {self._path}: {words_of(reason)}",
                    hint=f"to keep {self._content.name} there needs the right to write to {self._path.parent}",
                ) from error
            with writing(self._path):
                raise

    def _damaged(self, problem: str) -> DamagedIndexError:
        return DamagedIndexError(
            f"{self._path} is damaged: {problem}",
            hint="move it away, with those beside it that begin with its name: it is then begun anew",
        )


def microseconds(time: datetime) -> int:
    """Return a time as these files have it: microseconds since 1970, UTC."""
    return (time - EPOCH) // MICROSECOND
