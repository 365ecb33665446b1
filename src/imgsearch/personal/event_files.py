"""A shop's log of events, read row by row: what cannot be an event is refused by its line, the others are kept."""

import heapq
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, cast

from imgsearch.build.json_lines import json_object
from imgsearch.build.parquet import parquet_rows
from imgsearch.errors import UsageError
from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import Event, Kind, find_problem
from imgsearch.personal.live_database import microseconds
from imgsearch.store.generations import read_manifest
from imgsearch.tables import UTF8, Table, known_encoding, open_text

_REQUIRED_OF_ONE = (("time",), ("event",), ("product", "path"))
_REQUIRED = (("time",), ("user",), ("event",), ("product", "path"))
_NAMES = ("user", "event", "product", "path", "query", "session")
_NAMES_OF_FILES = ("product", "path", "query")
_HINT = "save it as UTF-8, or name its encoding: --encoding cp1252"

_SECOND = 1_000_000
_DAY = 24 * 60 * 60 * _SECOND

# No shop has events that are older: such a time is a mistake.
_EARLIEST = microseconds(datetime(1990, 1, 1, tzinfo=UTC))

_is_seconds = re.compile(r"\d{1,20}(\.\d*)?", re.ASCII).fullmatch
_is_position = re.compile(r"(\d{1,18})(?:\.0*)?", re.ASCII).fullmatch


@dataclass(frozen=True, slots=True)
class RefusedRow:
    """A row that is no event.

    Attributes:
        line: Of the file, from 1; of Parquet, the row.
        cause: One word: json, time, user, event, product, query, position or session.
        problem: What was expected, and what was found.
    """

    line: int
    cause: str
    problem: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        new: Events that were added.
        known: Rows whose events were there before, or in the file twice.
        refused: Rows that are no events, by cause.
    """

    new: int
    known: int
    refused: Mapping[str, int]


class _RowError(Exception):
    """A row is no event: the cause, and the problem."""


def import_events(
    directory: Path,
    file: Path,
    *,
    key: Path | None = None,
    encoding: str = UTF8,
    refuse: Callable[[RefusedRow], None] | None = None,
) -> ImportReport:
    """Add the events of a log to those of an index; what was imported before is not added twice.

    Args:
        directory: The index.
        file: CSV, or by the end of its name JSON Lines (.jsonl, .ndjson) or Parquet (.parquet).
        key: As for `EventStore`.
        encoding: Of its text.
        refuse: Called for each row that is no event.

    Raises:
        UsageError: It is no such file, from some line on; what is before it is kept. Or the key is not that of the
            events that are there.
        MissingComponentError: Parquet needs pyarrow.
        NoIndexError, DamagedIndexError, OutputError, ResourceError: As for `EventStore`.
    """
    read_manifest(directory)
    with EventStore(directory, key=key) as store:
        return import_into(store, file, encoding=encoding, refuse=refuse)


def import_into(
    store: EventStore, file: Path, *, encoding: str = UTF8, refuse: Callable[[RefusedRow], None] | None = None
) -> ImportReport:
    """Add the events of a log to those of a store, as `import_events` does."""
    rows_of = _FORMATS.get(file.suffix.casefold(), _table_rows)
    encoding = known_encoding(encoding)
    refused: Counter[str] = Counter()
    faults: list[UsageError] = []
    latest = time.time_ns() // 1000 + _DAY
    line = 0

    def refuse_row(cause: str, problem: str) -> None:
        refused[cause] += 1
        if refuse:
            refuse(RefusedRow(line, cause, problem))

    def events() -> Iterator[tuple[str, Event]]:
        nonlocal line
        rows = rows_of(file, encoding)
        while True:
            try:
                line, row = next(rows)
            except StopIteration:
                return
            except UsageError as error:  # the events before it are kept first
                faults.append(error)
                return
            try:
                event = _event(row, latest)
            except _RowError as error:
                refuse_row(*error.args)
            else:
                yield event

    added = store.add(events(), refuse=refuse_row)
    if faults:
        kept = added.new + added.known
        raise UsageError(
            faults[0].message + (f"; the {kept:,} events before it are kept" if kept else ""), hint=faults[0].hint
        ) from faults[0]
    return ImportReport(added.new, added.known, dict(sorted(refused.items())))


def events_of_one(file: Path, most: int, *, encoding: str = UTF8) -> list[Event]:
    """Read the events of one person from a log, in which the column user may be missing; they are kept nowhere.

    Args:
        file: As for `import_events`.
        most: How many events at most: the newest.
        encoding: Of its text.

    Raises:
        UsageError: It is no such file, a row of it is no event, or it has events of several people.
        MissingComponentError: Parquet needs pyarrow.
    """
    rows_of = _FORMATS.get(file.suffix.casefold(), partial(_table_rows, required=_REQUIRED_OF_ONE))
    latest = time.time_ns() // 1000 + _DAY
    users: set[str] = set()

    def events() -> Iterator[Event]:
        for line, row in rows_of(file, known_encoding(encoding)):
            try:
                user, event = _event(row, latest)
            except _RowError as error:
                raise UsageError(f"{file}, line {line}: {error.args[1]}") from None
            if problem := find_problem(user or "somebody", event):
                raise UsageError(f"{file}, line {line}: {problem[1]}")
            users.add(user)
            if len(users) > 1:
                raise UsageError(f"{file}, line {line}: expected events of one person, found those of another")
            yield event

    return heapq.nlargest(most, events(), key=lambda event: event.time)


def _event(row: "_Row", latest: int) -> tuple[str, Event]:
    """Return the user and the event of a row; `_RowError` for one that has none."""
    if isinstance(row, _RowError):
        raise row
    get = row.get
    user, position = get("user") or "", get("position")
    event = Event(
        _time(get("time"), latest),
        cast("Kind", get("event") or ""),
        get("path") or get("product") or "",
        get("query") or None,
        None if position is None or position == "" else _position(position),
        get("session") or None,
    )
    return user, event


def _text(column: str, value: object) -> str:
    """Return a name as it is written; JSON and Parquet may have numbers."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():  # of a column in which others have no value
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > 1 << 128:
        raise _RowError(
            "product" if column == "path" else column, f"column {column!r}: expected text, found {str(value)[:50]!r}"
        )
    return str(value)


def _time(value: object, latest: int) -> int:
    """Return a time, ISO 8601 or seconds since 1970, in microseconds."""
    found: int | None = None
    if isinstance(value, str):
        if _is_seconds(value):
            value = float(value)
        else:
            try:
                read = datetime.fromisoformat(value)
                found = microseconds(read if read.tzinfo else read.replace(tzinfo=UTC))
            except (ValueError, OverflowError):
                pass
    if isinstance(value, int | float) and not isinstance(value, bool):
        found = round(max(-1e12, min(float(value), 1e12)) * _SECOND)
    if found is None:
        raise _RowError("time", f"expected 2026-01-31T12:00:00Z or seconds since 1970, found {_brief(value)}")
    if found > latest:
        hint = ": are these milliseconds?" if not isinstance(value, str) and found > latest * 100 else ""
        raise _RowError("time", f"expected a time of the past, found {_brief(value)}{hint}")
    if found < _EARLIEST:
        raise _RowError("time", f"expected a time since 1990, found {_brief(value)}")
    return found


def _position(value: object) -> int:
    if isinstance(value, str) and (digits := _is_position(value)):
        return int(digits[1])
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise _RowError("position", f"expected a whole number as position, found {_brief(value)}")


def _brief(value: object) -> str:
    text = repr(value) if value else "nothing"
    return text if len(text) <= 60 else f"{text[:60]}..."


def _table_rows(
    path: Path, encoding: str, required: Sequence[Sequence[str]] = _REQUIRED
) -> Iterator[tuple[int, "_Row"]]:
    return Table(path, required, names_of_files=_NAMES_OF_FILES, encoding=encoding, hint=_HINT).rows()


def _json_rows(path: Path, encoding: str) -> Iterator[tuple[int, "_Row"]]:
    with open_text(path, encoding, _HINT) as (lines, _):
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json_object(line)
                except ValueError as error:
                    yield number, _RowError("json", str(error))
                else:
                    yield number, _with_texts(row)


def _parquet_rows(path: Path, encoding: str) -> Iterator[tuple[int, "_Row"]]:
    del encoding  # it is no text
    for number, row in parquet_rows(path):
        yield number, _with_texts(row)


def _with_texts(row: dict[str, Any]) -> "_Row":
    """Return a row whose names are text, as all cells of CSV are."""
    try:
        return row | {column: _text(column, row[column]) for column in _NAMES if column in row}
    except _RowError as error:
        return error


# The values of a row by column, or what is wrong with it.
_Row = dict[str, Any] | _RowError
_FORMATS: Mapping[str, Callable[[Path, str], Iterator[tuple[int, _Row]]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".parquet": _parquet_rows,
}
