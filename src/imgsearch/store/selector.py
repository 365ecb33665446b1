"""Which items satisfy conditions: asked of SQLite, which may read the items, compute, and take two seconds."""

import contextlib
import json
import operator
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.files import is_of_system, read_error, reading
from imgsearch.store.columns import NUMBER, Column, Columns, folded, read_columns, sql_bytes, write_columns
from imgsearch.store.conditions import (
    IS_AMONG,
    ROW,
    Conditions,
    Statement,
    statement_of,
)
from imgsearch.store.database import LARGEST_VALUE, Reader
from imgsearch.store.expressions import column_called, hint_for, known_columns
from imgsearch.store.integrity import repair_hint

# What an expression may do: read columns and call functions that only compute.
_PERMITTED_ACTIONS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
_PERMITTED_TABLES = ("items", "data", "json_each", "")

# A condition that takes longer, such as one on all pairs of items, is a mistake: a million items take a tenth of it.
MOST_SECONDS = 2.0

# What conditions of strangers may have. No clock interrupts a function, and one that looks for a text in another takes
# the product of their lengths: so there is none that makes long texts of short ones, in bytes.
_LARGEST_OF_STRANGERS = 100_000
_LONGEST_PATTERN_OF_STRANGERS = 1_000
_FUNCTIONS_OF_STRANGERS = {"->", "->>", "abs", "coalesce", "count", "date", "datetime", "glob", "has", "ifnull", "iif"}
_FUNCTIONS_OF_STRANGERS |= {"instr", "json_array_length", "json_extract", "json_type", "julianday", "length", "like"}
_FUNCTIONS_OF_STRANGERS |= {"lower", "max", "min", "nullif", "random", "round", "strftime", "substr", "substring"}
_FUNCTIONS_OF_STRANGERS |= {"time", "typeof", "unicode", "unixepoch", "upper"}

# Rows that are looked up in the order of an index lie anywhere in the file.
_CACHE_KIB = 32_768

# Statements are few: those of the queries of a program, or of the forms of a page.
_MOST_STATEMENTS = 100

# Values that are bound at once; some builds of SQLite take 32,766.
_MOST_VALUES = 30_000

# A value of a column: of texts those that are not UTF-8 as of `os.fsdecode`.
Value = str | int | float | None


class Selector:
    """Conditions on the items of one `items.sqlite`.

    It has a connection of its own: expressions may take long, and are not to be trusted.
    """

    def __init__(self, path: Path, rows_of_color: Callable[[str], Sequence[int]]) -> None:
        self._path = path
        self._rows_of_color = rows_of_color
        self._reader = Reader(path)
        self._is_strict = False
        self._columns: Columns | None = None
        self._statements: dict[tuple[Conditions, str], Statement] = {}
        self._colored: dict[str, str] = {}  # rows, as JSON, for all statements with the same color

    def close(self) -> None:
        """Close the file, once what other threads are reading has been read."""
        self._reader.close()

    def distrust(self) -> None:
        """Expect conditions of strangers from now on: without SELECT, long texts, and functions that make such."""
        self._is_strict = True
        self._reader.connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _LONGEST_PATTERN_OF_STRANGERS)

    def columns(self) -> Columns:
        """Return the shop's columns."""
        if self._columns is None:
            with reading(self._path, repair_hint(self._path.name)), self._reader.locked():
                if self._columns is None:
                    self._columns = self._prepare()
        return self._columns

    def _prepare(self) -> Columns:
        """Find the columns, and make their table where an earlier imgsearch wrote the file."""
        connection = self._reader.connection
        connection.create_function("has", 2, _has, deterministic=True)
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("DROP TABLE IF EXISTS temp.data")  # of a time when this was interrupted
            try:
                write_columns(connection, "main", "temp")
            except (ValueError, AttributeError, RecursionError) as error:  # of JSON
                raise read_error(error, self._path, repair_hint(self._path.name)) from error
        columns = read_columns(connection)
        connection.execute("SELECT 1 FROM json_each('[]')").fetchone()  # which is made when it is first used
        connection.set_authorizer(self._authorize)
        return columns

    def is_constant(self, conditions: Conditions) -> bool:
        """Return whether conditions hold for the same items whenever they are asked."""
        return self._statement(conditions).is_constant

    def rows(self, conditions: Conditions, most: int | None = None) -> list[int]:
        """Return the rows where conditions hold, ascending; or any `most` of them, where there are more."""
        # Not in SQL, where the order may keep SQLite from using the index of a column.
        statement = self._statement(conditions)
        also = "" if most is None else f"LIMIT {int(most)}"
        return self._rows(self._run(conditions, statement.select(also), statement.parameters))

    def among(self, conditions: Conditions, rows: Iterable[int]) -> list[int]:
        """Return those of some rows where conditions hold, ascending."""
        statement = self._statement(conditions)
        parameters = (*statement.parameters, json.dumps(list(rows)))
        return self._rows(self._run(conditions, statement.select(f"AND {IS_AMONG}"), parameters))

    def _rows(self, found: Iterable[tuple[Any, ...]]) -> list[int]:
        try:
            return sorted(operator.index(row) for (row,) in found)
        except TypeError as error:  # a damaged table may have anything there
            raise read_error(error, self._path, repair_hint(self._path.name)) from error

    def values(self, column: str, rows: Sequence[int]) -> dict[int, Value]:
        """Return the value of a column for each of some rows."""
        statement = self._statement(Conditions(), column)
        query = statement.select(f"AND {IS_AMONG}", f"{ROW}, {self._column(column).alias}")
        found = dict(self._run(Conditions(), query, (json.dumps(rows),)))
        if missing := set(rows) - found.keys():
            repair = repair_hint(self._path.name)
            raise DamagedIndexError(f"{self._path} is damaged: row {min(missing)} has no data", hint=repair)
        return found

    def counts(self, conditions: Conditions, column: str, values: Sequence[Value]) -> dict[Value, int]:
        """Count the items where conditions hold, for each of some values of a column that are not None."""
        statement = self._statement(conditions, column)
        name = self._column(column).alias
        counts: dict[Value, int] = {}
        for start in range(0, len(values), _MOST_VALUES):
            part = values[start : start + _MOST_VALUES]
            marks = ", ".join("CAST(? AS TEXT)" if isinstance(value, str) else "?" for value in part)
            query = statement.select(f"AND {name} IN ({marks}) GROUP BY 1", f"{name}, count(*)")
            bound = [sql_bytes(value) if isinstance(value, str) else value for value in part]
            counts.update(self._run(conditions, query, (*statement.parameters, *bound)))
        return counts

    def _authorize(self, action: int, table: str | None, function: str | None, *_: str | None) -> int:
        """Let an expression read the items, and nothing else."""
        is_permitted = action in _PERMITTED_ACTIONS and (action != sqlite3.SQLITE_READ or table in _PERMITTED_TABLES)
        if self._is_strict and action == sqlite3.SQLITE_FUNCTION:
            is_permitted = str(function).lower() in _FUNCTIONS_OF_STRANGERS
        return sqlite3.SQLITE_OK if is_permitted else sqlite3.SQLITE_DENY

    def _column(self, name: str) -> Column:
        return column_called(name, known_columns(self.columns()))

    def _statement(self, conditions: Conditions, column: str = "") -> Statement:
        found = self._statements.get((conditions, column))
        if found is None:
            mentioned = {folded(self._column(column).name)} if column else set()
            if len(self._statements) >= _MOST_STATEMENTS:
                self._statements.clear()
                self._colored.clear()
            found = statement_of(conditions, self.columns(), self._example, mentioned, self._rows_in_json(conditions))
            if found.has_select and self._is_strict:
                raise UsageError(f"--where {conditions.where!r}: SELECT is only for the program, not for the service")
            self._statements[conditions, column] = found
        return found

    def _rows_in_json(self, conditions: Conditions) -> str:
        color = conditions.color
        if not color:
            return "[]"
        found = self._colored.get(color)
        if found is None:
            found = self._colored[color] = json.dumps(self._rows_of_color(color))
        return found

    def _example(self, column: Column) -> str:
        """Return the beginning of a text in a column, to show."""
        statement = statement_of(Conditions(), self.columns(), str, {folded(column.name)})
        query = statement.select("LIMIT 1", f"substr({column.alias}, 1, 50)", f"typeof({column.alias}) = 'text'")
        return next((str(text) for (text,) in self._run(Conditions(), query)), "")

    def _run(self, conditions: Conditions, query: str, parameters: Sequence[object] = ()) -> Iterator[tuple[Any, ...]]:
        where = f"--where {conditions.where!r}: "
        repair = repair_hint(self._path.name)
        try:
            # What is ours takes as long as a slow disk needs.
            seconds = MOST_SECONDS if conditions.where else 0.0
            largest = _LARGEST_OF_STRANGERS if conditions.where and self._is_strict else LARGEST_VALUE
            # What is bound is ours: lists of rows.
            bound = (len(value) for value in parameters if isinstance(value, str | bytes))
            yield from self._reader.run(query, parameters, seconds, max(largest, *bound, 0))
        except UnicodeDecodeError as error:
            raise read_error(error, self._path, repair) from error
        except (
            *(sqlite3.OperationalError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.Warning),
            UnicodeEncodeError,
        ) as error:
            if is_of_system(error) or not conditions.where:
                raise read_error(error, self._path, repair) from error
            if "interrupted" in str(error):
                raise UsageError(
                    f"{where}took more than {MOST_SECONDS:g} s", hint="does it compare all items with one another?"
                ) from error
            _, is_unknown, name = str(error).partition("no such column: ")
            place = conditions.where.find(name) + 1 if is_unknown else 0
            at = f" (character {place})" if place else ""
            hint = hint_for(name if is_unknown else "", known_columns(self.columns()))
            raise UsageError(f"{where}{error}{at}", hint=f"{hint}; texts stand in single quotes") from error
        except sqlite3.DatabaseError as error:
            if conditions.where and ("not authorized" in str(error) or "prohibited" in str(error)):
                allowed = f"functions: {', '.join(sorted(_FUNCTIONS_OF_STRANGERS))}" if self._is_strict else ""
                raise UsageError(f"{where}it may only read the items", hint=allowed) from error
            raise read_error(error, self._path, repair) from error


def _has(cell: Value, value: Value) -> bool:
    """Return whether a list has a value; in quotes, too, a number is one."""
    return _number(value) in map(_number, _parts(cell))


def _parts(cell: Value) -> list[Any]:
    """Return what is in a list in JSON, or a text between `|`."""
    if not isinstance(cell, str):
        return [] if cell is None else [cell]
    if cell.startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            return list(json.loads(cell))
    return [part.strip() for part in cell.split("|")]


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, str) and NUMBER.fullmatch(value) else value
