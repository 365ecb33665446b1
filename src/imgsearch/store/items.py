"""One SQLite file of items: which image each row of the arrays is, and what the shop says of it.

Paths are the bytes of the file name, as SQL text, UTF-8 or not; in Python they are `str` as of `os.fsdecode`.
"""

import contextlib
import difflib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from imgsearch.errors import DamagedIndexError, ResourceError, UsageError
from imgsearch.files import is_of_system, read_error, reading
from imgsearch.store.conditions import Condition, can_be_asked_for, parse, type_of, value_of
from imgsearch.store.integrity import repair_hint
from imgsearch.store.lifetime import Lifetime

SCHEMA = """
CREATE TABLE items (
    row INTEGER PRIMARY KEY,
    path TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 BLOB NOT NULL,
    product TEXT NOT NULL,
    category TEXT NOT NULL,
    metadata TEXT NOT NULL
);
CREATE INDEX items_sha256 ON items (sha256);
CREATE TABLE rejected (
    path TEXT PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    cause TEXT NOT NULL,
    message TEXT NOT NULL,
    first_seen TEXT NOT NULL
);
CREATE TABLE damaged (
    sha256 BLOB PRIMARY KEY,
    message TEXT NOT NULL
);
CREATE TABLE remarks (
    sha256 BLOB NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (sha256, kind)
);
"""

# Of text and blobs, in bytes: no cell of the shop's data is near it, and a --where expression can build no larger one.
_LARGEST_VALUE = 64_000_000

# What a --where expression may do: read columns and call functions that only compute.
_PERMITTED_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}

_TEXT_COLUMNS = ("path", "product", "category")

# Rows that a thread fetches before it lets another have the connection.
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Item:
    """One image of the catalog."""

    row: int  # in the arrays
    path: str  # POSIX, below the catalog's root
    product: str  # the path without its ending unless the shop's data says otherwise
    category: str  # the folder it lies in, unless the shop's data says otherwise
    metadata: dict[str, Any]  # the other columns of the shop's data


@dataclass(frozen=True, slots=True)
class Rejected:
    """One file that could not be used: cause in one word for scripts, message in one line for people."""

    path: str
    cause: str
    message: str
    first_seen: str  # date and time (UTC, ISO 8601) of the build that first rejected it


def default_names(path: str) -> tuple[str, str]:
    """Return the product (a path without its ending) and the category (its folder) of an image by default."""
    folder, slash, name = path.rpartition("/")
    stem, dot, _ = name.rpartition(".")
    return folder + slash + (stem if dot and stem else name), folder


def database_uri(path: Path, options: str = "?mode=ro&immutable=1") -> str:
    """Name a database so that no character of its path means anything to SQLite."""
    # immutable needs no lock and no journal.
    return f"file:{quote_from_bytes(os.fsencode(path.absolute()))}{options}"


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a database in autocommit mode, for names that are not UTF-8 too; `read_only` for a published file."""
    # What is written is under the lock of the index: SQLite's own would fail where the file system has none.
    uri = database_uri(path, "?mode=ro&immutable=1" if read_only else "?mode=rwc&nolock=1")
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    return connection


def _authorize(action: int, table: str | None, *_: str | None) -> int:
    """Let a --where expression read the items, and nothing else."""
    is_permitted = action in _PERMITTED_ACTIONS and (action != sqlite3.SQLITE_READ or table in ("items", ""))
    return sqlite3.SQLITE_OK if is_permitted else sqlite3.SQLITE_DENY


class _Reader:
    """A connection to a published file, for which threads take turns."""

    def __init__(self, path: Path) -> None:
        self._lifetime = Lifetime()
        self.connection = connect(path, read_only=True)
        self.connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LARGEST_VALUE)
        # SQLite opens a file when it is first read; we want it open before a writer can remove it.
        self.connection.execute("PRAGMA schema_version").fetchone()

    def close(self) -> None:
        if self._lifetime.end():
            self.connection.close()

    def run(self, query: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query; whoever is slow to take them does not keep others waiting."""
        with self._lifetime.locked():
            cursor = self.connection.execute(query, parameters)
            rows = cursor.fetchmany(_BATCH)
        while rows:
            yield from rows
            with self._lifetime.locked():
                rows = cursor.fetchmany(_BATCH)


class Items:
    """The items of one published generation, in its `items.sqlite`; damage found at any time is `DamagedIndexError`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.stat()
        with reading(path, repair_hint(path.name)), contextlib.ExitStack() as opened:
            self._reader = opened.enter_context(contextlib.closing(_Reader(path)))
            # Conditions have a connection of their own: they may take long, and are not to be trusted.
            self._filter = opened.enter_context(contextlib.closing(_Reader(path)))
            self._filter.connection.set_authorizer(_authorize)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the file, once what other threads are reading has been read."""
        self._opened.close()

    def sha256_by_path(self, paths: Iterable[str]) -> dict[str, bytes]:
        """Return the sha256 of images by their paths."""
        found: dict[str, bytes] = {}
        for path in paths:
            # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
            query = "SELECT sha256 FROM items WHERE path = CAST(? AS TEXT)"
            for (sha256,) in self._run(query, (os.fsencode(path),)):
                if isinstance(sha256, bytes):
                    found[path] = sha256
        return found

    def fetch(self, rows: Sequence[int]) -> list[Item]:
        """Fetch items by row, in the order of `rows`."""
        found: dict[int, Item] = {}
        for start in range(0, len(rows), 500):  # SQLite takes a limited number of parameters
            part = [int(row) for row in rows[start : start + 500]]
            marks = ",".join("?" * len(part))
            query = f"SELECT row, path, product, category, metadata FROM items WHERE row IN ({marks})"  # noqa: S608
            for row, path, product, category, metadata in self._run(query, part):
                try:
                    found[row] = Item(row, path, product, category, json.loads(metadata))
                except (ValueError, TypeError, RecursionError) as error:
                    raise self._failure(error) from error
        missing = [row for row in rows if row not in found]
        if missing:
            raise DamagedIndexError(f"{self._path} is damaged: row {missing[0]} is not there")
        return [found[row] for row in rows]

    def row_of_content(self, sha256: bytes, path: str = "") -> int | None:
        """Return the row whose image has these bytes: that of a path, if it is one of several, or the first."""
        # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
        query = "SELECT row FROM items WHERE sha256 = ? ORDER BY path = CAST(? AS TEXT) DESC, row LIMIT 1"
        for (row,) in self._run(query, (sha256, os.fsencode(path))):
            return int(row)
        return None

    def rows_where(self, expression: str) -> list[int]:
        """Return the rows, ascending, where an SQL expression such as `category = 'fruit'` holds."""
        condition = parse(expression)
        self._require_values(expression, condition)
        try:
            return self._rows(condition.sql)
        except UnicodeDecodeError as error:
            raise self._failure(error) from error
        except (
            *(sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.Warning),
            UnicodeEncodeError,
        ) as error:
            if is_of_system(error):
                raise self._failure(error) from error
            _, is_unknown, name = str(error).partition("no such column: ")
            hint = self._similar(name) if is_unknown else "columns: path, product, category, metadata->>'price'"
            raise UsageError(f"--where {expression!r}: {error}", hint=hint) from error
        except sqlite3.DatabaseError as error:
            if "not authorized" in str(error) or "prohibited" in str(error):
                raise UsageError(f"--where {expression!r}: it may only read the table items") from error
            raise self._failure(error) from error

    def _rows(self, condition: str) -> list[int]:
        # The user means to give SQL: read-only, one statement, one table, no side effect.
        query = f"SELECT row FROM items WHERE ({condition}\n) ORDER BY row"  # noqa: S608
        # Tried first in one more pair of parentheses: an expression that closes its own cannot close both.
        list(self._filter.run(f"EXPLAIN SELECT row FROM items WHERE ((({condition}\n)))"))  # noqa: S608
        return [row for (row,) in self._filter.run(query)]

    def _require_values(self, expression: str, condition: Condition) -> None:
        """Refuse a condition on data that no item has, or that compares numbers with data that are texts only."""
        for name in condition.texts:
            if name.casefold() in _TEXT_COLUMNS or self._has_data(name):
                raise UsageError(
                    f"--where {expression!r}: {name!r} is a text, not a column",
                    hint="columns stand alone, your own as metadata->>'price'; only texts stand in single quotes",
                )
        for key in condition.keys:
            if not can_be_asked_for(key):
                raise UsageError(f"--where {expression!r}: no column called {key!r} can be asked for", hint="rename it")
            if not self._has_data(key):
                hint = self._similar(key)
                raise UsageError(f"--where {expression!r}: no image has data called {key!r}", hint=hint)
        for key in condition.numeric:
            if self._first(f"typeof({value_of(key)}) IN ('integer', 'real')"):
                continue
            if text := self._first(f"typeof({value_of(key)}) = 'text'", f"substr({value_of(key)}, 1, 50)"):
                raise UsageError(
                    f"--where {expression!r}: {key!r} has texts only, such as {text[0]!r}, and no number",
                    hint="compare it with such a text, in single quotes; a number is written 12.50, without a unit",
                )

    def _has_data(self, key: str) -> bool:
        return can_be_asked_for(key) and self._first(f"{type_of(key)} IS NOT NULL") is not None

    def _first(self, condition: str, columns: str = "row") -> tuple[Any, ...] | None:
        return next(self._run(f"SELECT {columns} FROM items WHERE {condition} LIMIT 1"), None)  # noqa: S608

    def _similar(self, name: str) -> str:
        """Return a hint that names the column most like an unknown name, or all."""
        keys = self._run("SELECT DISTINCT key FROM items, json_each(metadata) LIMIT 1000")
        columns = {str(key).casefold(): "metadata->>'{}'".format(key.replace("'", "''")) for (key,) in keys}
        columns |= {column: column for column in _TEXT_COLUMNS}
        similar = difflib.get_close_matches(name.casefold(), columns, 1)
        found = f"did you mean {columns[similar[0]]}" if similar else f"columns: {', '.join(columns.values())}"
        return f"{found}; texts stand in single quotes"

    def sample(self, most: int) -> list[str]:
        """Return the paths of a random but reproducible sample of different images: the first by sha256."""
        query = "SELECT min(path) FROM items GROUP BY sha256 ORDER BY sha256 LIMIT ?"
        return [str(path) for (path,) in self._run(query, (most,))]

    def shuffled(self) -> Iterator[tuple[int, str]]:
        """Yield rows and paths by sha256: at random, but the first stay nearly the same when images come and go."""
        yield from self._run("SELECT row, path FROM items ORDER BY sha256, path")

    def duplicates_of(self, row: int) -> list[int]:
        """Return the rows whose images have the same bytes as that of a row, itself included."""
        query = "SELECT row FROM items WHERE sha256 = (SELECT sha256 FROM items WHERE row = ?) ORDER BY row"
        return [int(found) for (found,) in self._run(query, (row,))]

    def column(self, name: str) -> Iterator[str]:
        """Yield each item's value in a column, by row: `path`, `product`, `category` or metadata; empty for none."""
        if name in _TEXT_COLUMNS:
            for (value,) in self._run(f"SELECT {name} FROM items ORDER BY row"):  # noqa: S608  # one of three words
                yield str(value)
            return
        for (text,) in self._run("SELECT metadata FROM items ORDER BY row"):
            try:
                value = json.loads(text, parse_float=str).get(name)  # 1.10 is another label than 1.1
            except (ValueError, TypeError, AttributeError, RecursionError) as error:
                raise self._failure(error) from error
            yield "" if value is None else str(value)

    def rejected(self) -> Iterator[Rejected]:
        """Yield the files that could not be used, by path."""
        for row in self._run("SELECT path, cause, message, first_seen FROM rejected ORDER BY path"):
            yield Rejected(*row)

    def damaged(self) -> Iterator[tuple[str, str]]:
        """Yield path and message of items of whose image only a part could be decoded, by path."""
        if self._has_table("damaged"):
            yield from self._run("SELECT path, message FROM items JOIN damaged USING (sha256) ORDER BY path")

    def remarks(self, kind: str) -> Iterator[tuple[str, str]]:
        """Yield path and message of items with a remark of a kind: `blank` or `ignored_profile`; by path."""
        if self._has_table("remarks"):
            query = "SELECT path, message FROM items JOIN remarks USING (sha256) WHERE kind = ? ORDER BY path"
            yield from self._run(query, (kind,))

    def _has_table(self, name: str) -> bool:
        return any(True for _ in self._run("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)))

    def _run(self, query: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        with reading(self._path, repair_hint(self._path.name)):
            yield from self._reader.run(query, parameters)

    def _failure(self, error: Exception) -> DamagedIndexError | ResourceError:
        return read_error(error, self._path, repair_hint(self._path.name))
