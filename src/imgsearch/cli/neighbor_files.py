"""The files that `imgsearch neighbors` writes, by their endings (docs/output-format.md)."""

import contextlib
import json
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch.cli.formats import csv_line
from imgsearch.errors import UsageError
from imgsearch.files import replaced, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imgsearch.catalog.neighbors import Neighbors


def require_kind(path: Path) -> None:
    """Raise `UsageError` unless the ending of a file says how it is to be written."""
    if path.suffix.lower() not in _WRITERS:
        raise UsageError(f"expected a file that ends with {', '.join(_WRITERS)}, found {path}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"expected a file for the output, found something else: {path}")


def write_neighbors(path: Path, found: "Iterator[Neighbors]", by: str) -> int:
    """Write lists to a file that appears when it is whole; returns how many there were."""
    place = Path(os.path.realpath(path))
    count = 0

    def counted() -> "Iterator[Neighbors]":
        nonlocal count
        for count, each in enumerate(found, start=1):  # noqa: B007
            yield each

    name = "path" if by == "item" else "product"
    with writing(path), replaced(place) as draft:
        _WRITERS[path.suffix.lower()](draft, counted(), name)
    return count


def _write_json_lines(path: Path, found: "Iterator[Neighbors]", name: str) -> None:
    with path.open("w", encoding="ascii") as file:
        for each in found:
            others = [{name: other.name, "score": other.score} for other in each.neighbors]
            file.write(json.dumps({name: each.name, "neighbors": others}) + "\n")


def _write_csv(path: Path, found: "Iterator[Neighbors]", name: str) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(csv_line((name, "rank", "neighbor", "score")))
        for each in found:
            for rank, other in enumerate(each.neighbors, start=1):
                file.write(csv_line((each.name, rank, other.name, f"{other.score:.6f}")))


def _write_sqlite(path: Path, found: "Iterator[Neighbors]", name: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        # The draft is thrown away if this fails, and synced when it is done.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(
            f"CREATE TABLE neighbors ({name} TEXT NOT NULL, rank INTEGER NOT NULL, neighbor TEXT NOT NULL,"
            f" score REAL NOT NULL, PRIMARY KEY ({name}, rank)) WITHOUT ROWID"
        )
        rows = (
            (os.fsencode(each.name), rank, os.fsencode(other.name), other.score)
            for each in found
            for rank, other in enumerate(each.neighbors, start=1)
        )
        connection.execute("BEGIN")
        # Bound as bytes and cast in SQL: a str with lone surrogates cannot be bound as text.
        connection.executemany("INSERT INTO neighbors VALUES (CAST(? AS TEXT), ?, CAST(? AS TEXT), ?)", rows)
        connection.execute("COMMIT")


_WRITERS: "dict[str, Callable[[Path, Iterator[Neighbors], str], None]]" = {
    ".jsonl": _write_json_lines,
    ".csv": _write_csv,
    ".sqlite": _write_sqlite,
}
