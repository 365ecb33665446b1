"""The shop's columns: types found in the data, kept as the table `data` of `items.sqlite`.

The truth is the JSON object `metadata` of each item; this table, which has a row for each item under the same number,
is made of it, so that SQLite compares numbers as numbers, and has indexes.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from imgsearch.errors import UsageError

# `mixed` has values of several kinds, each as it is; the kinds of dates and lists are stored as text, in ISO 8601 and
# JSON.
Kind = Literal["integer", "real", "boolean", "date", "text", "list", "mixed"]

# As declared to SQLite, which derives from it how values are compared (sqlite.org/datatype3.html, section 3.1).
_DECLARED: dict[Kind, str] = {
    "integer": "INTEGER",
    "real": "REAL",
    "boolean": "BOOLEAN",
    "date": "DATE TEXT",
    "text": "TEXT",
    "list": "LIST TEXT",
    "mixed": "",
}
_KINDS: dict[str, Kind] = {declared: kind for kind, declared in _DECLARED.items()}

NUMERIC: frozenset[Kind] = frozenset(("integer", "real", "boolean"))

# Whole and decimal numbers are numbers, in the shop's data and in conditions on them. A leading zero means an article
# number, which is text. JSON knows the same numbers.
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")

TABLE = "data"
LONGEST_NAME = 250  # of a column, in characters
_MOST_COLUMNS = 2000  # of a table in SQLite
# Each index takes about a second and 15 MB of a million items. Long texts are looked into, not compared.
_MOST_INDEXES = 32
_LONGEST_INDEXED = 64

# Compiled when it is first used, as not by every query.
_DATE = (
    r"\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?)?"
)
BOOLEANS = {"true": 1, "false": 0}
LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the shop's data."""

    name: str
    kind: Kind

    @property
    def sql(self) -> str:
        """Its name in SQL."""
        return quoted(self.name)

    @property
    def alias(self) -> str:
        """Its name in SQL as that of a column of a query, which may not be `true` or `false`."""
        return unlike_columns(self.name) if folded(self.name) in BOOLEANS else self.sql


# By their names as `folded`, since SQL does not tell letter cases apart.
Columns = Mapping[str, Column]


@lru_cache(10_000)
def folded(name: str) -> str:
    """Return a name as SQLite compares it: only ASCII letters have no case."""
    return "".join(character.lower() if character.isascii() else character for character in name)


def quoted(name: str) -> str:
    """Write any name in SQL; in these quotes SQLite never takes it for a text."""
    return "`" + name.replace("`", "``") + "`"


def unlike_columns(name: str) -> str:
    """Write in SQL a name that no column of a shop has, for it is longer."""
    return quoted(name.ljust(LONGEST_NAME + 1))


SURROGATES = re.compile("[\ud800-\udfff]")


def sql_bytes(text: str) -> bytes:
    """Return text as SQLite stores it, for a statement that casts it: what is not UTF-8 cannot be bound as text."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # no bytes of a file name, but JSON may have it
        return text.encode("utf-8", "surrogatepass")


def read_columns(connection: sqlite3.Connection) -> Columns:
    """Read which columns there are; none where there is no table of them."""
    found = connection.execute("SELECT name, type FROM pragma_table_info(?) ORDER BY cid", (TABLE,))
    return {folded(name): Column(name, _KINDS.get(declared, "mixed")) for name, declared in found}


def write_columns(connection: sqlite3.Connection, source: str, schema: str) -> Columns:
    """Make the table in `schema` for the items in `source`, if the shop has any columns; `UsageError` for too many."""
    longest: dict[str, int] = {}
    raw: set[str] = set()
    columns = _find_columns(_metadata(connection, source, "metadata != '{}'"), longest, raw)
    if not columns:
        return columns
    if len(columns) > _MOST_COLUMNS:
        raise UsageError(
            f"expected at most {_MOST_COLUMNS:,} columns of metadata, found {len(columns):,}",
            hint="what belongs together can be one column, a list or an object",
        )
    declared = ", ".join(f"{column.sql} {_DECLARED[column.kind]}" for column in columns.values())
    connection.execute(f"CREATE TABLE {schema}.{TABLE} ({declared})")
    marks = ", ".join("?" * (len(columns) + 1))
    names = ", ".join((row_number(columns), *(column.sql for column in columns.values())))
    connection.executemany(
        f"INSERT INTO {schema}.{TABLE} ({names}) VALUES ({marks})",  # noqa: S608  # names, quoted
        ((row, *_cells(data, columns)) for row, data in _metadata(connection, source)),
    )
    for name in (columns[key].sql for key in raw):
        cast = f"UPDATE {schema}.{TABLE} SET {name} = CAST({name} AS TEXT) WHERE typeof({name}) = 'blob'"  # noqa: S608
        connection.execute(cast)
    indexed = [key for key, column in columns.items() if column.kind != "list" and longest[key] <= _LONGEST_INDEXED]
    for number, key in enumerate(indexed[:_MOST_INDEXES]):
        connection.execute(f"CREATE INDEX {schema}.data_{number} ON {TABLE} ({columns[key].sql})")
    return columns


def row_number(columns: Columns) -> str:
    """Return a name of SQLite's own number of a row in the table, which is that of the item, beside the columns."""
    for name in ("rowid", "_rowid_", "oid"):
        if name not in columns:
            return name
    raise UsageError("expected other columns of metadata than rowid, _rowid_ and oid, found all three")


def _metadata(
    connection: sqlite3.Connection, schema: str, condition: str = "true"
) -> Iterator[tuple[int, dict[str, Any]]]:
    query = f"SELECT row, metadata FROM {schema}.items WHERE {condition} ORDER BY row"  # noqa: S608  # both are ours
    for row, text in connection.execute(query):
        yield row, {} if text == "{}" else json.loads(text)


def _find_columns(
    rows: Iterable[tuple[int, Mapping[str, Any]]], longest: dict[str, int], raw: set[str]
) -> dict[str, Column]:
    """Find all columns, the length of the longest text in each, and those with what cannot be bound as text."""
    names: dict[str, str] = {}
    kinds: dict[str, set[Kind]] = {}
    for _, data in rows:
        for name, value in data.items():
            key = folded(name)
            if key not in names:
                names[key], kinds[key], longest[key] = name, set(), 0
            if value is None:
                continue
            kinds[key].add(_kind_of(value))
            if type(value) is str:
                longest[key] = max(longest[key], len(value))
                if name and not value.isascii() and SURROGATES.search(value):
                    raw.add(key)
    return {key: Column(name, _common(kinds[key])) for key, name in names.items() if name}


def _kind_of(value: Any) -> Kind:
    if type(value) is str:
        if value[:1].isdigit():
            return "date" if re.fullmatch(_DATE, value) else "text"
        if value[:1] == "[":
            return "list" if _is_list(value) else "text"
        return "boolean" if len(value) in (4, 5) and value.lower() in BOOLEANS else "text"
    if type(value) is bool:
        return "boolean"
    if type(value) is int:
        return "integer" if abs(value) <= LARGEST_INTEGER else "real"
    return "real" if type(value) is float else "list"


def _is_list(text: str) -> bool:
    """Return whether a text, as of a cell of CSV, is a list in JSON."""
    try:
        return type(json.loads(text)) is list
    except (ValueError, RecursionError):
        return False


def _common(kinds: set[Kind]) -> Kind:
    if len(kinds) == 1:
        return next(iter(kinds))
    if kinds == {"integer", "real"}:
        return "real"
    return "text" if kinds and kinds <= {"text", "date", "boolean", "list"} else "mixed"


def _cells(data: Mapping[str, Any], columns: Columns) -> list[Any]:
    cells = {folded(name): value for name, value in data.items()} if data else {}
    return [_cell(cells.get(key), column.kind) for key, column in columns.items()]


def _cell(value: Any, kind: Kind) -> Any:
    """Return a value as it is stored."""
    if value is None or (type(value) is float and kind != "text"):
        return value
    if kind == "boolean":
        return BOOLEANS[value.lower()] if type(value) is str else int(value)
    if type(value) is str:
        if kind == "mixed" and NUMBER.fullmatch(value):
            return float(value)  # as if it were a cell of CSV, for a condition does not tell the two apart
        return value if value.isascii() or not SURROGATES.search(value) else sql_bytes(value)
    if kind in ("text", "list") or type(value) in (list, dict):
        return json.dumps(value)
    return value if abs(value) <= LARGEST_INTEGER else float(value)
