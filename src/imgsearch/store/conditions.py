"""Conditions on items, `--where` and its short forms, made one statement that SQLite may run."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from imgsearch.errors import UsageError
from imgsearch.store.columns import (
    LARGEST_INTEGER,
    NUMBER,
    NUMERIC,
    Column,
    Columns,
    folded,
    row_number,
    sql_bytes,
    unlike_columns,
)
from imgsearch.store.expressions import DATE_START, ITEM_COLUMNS, Example, column_called, known_columns, parse


@dataclass(frozen=True, slots=True)
class Range:
    """Values from `low` to `high` of a column of numbers or dates, both included; None for no limit."""

    column: str
    low: float | str | None = None
    high: float | str | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What must hold for an item.

    Attributes:
        where: SQL expression over path, product, category and the shop's columns; empty for none.
        category: Its category, or one that this one lies in (`shoes` has `shoes/boots`); empty for any.
        color: One of its main colors, as `#1e6fb8` or one of the names in `colors.NAMES`; empty for any.
        ranges: Of columns of numbers or dates.
    """

    where: str = ""
    category: str = ""
    color: str = ""
    ranges: tuple[Range, ...] = ()

    @property
    def has_conditions(self) -> bool:
        """Whether anything must hold."""
        return bool(self.where or self.category or self.color or self.ranges)


NO_CONDITIONS = Conditions()

# The row in the arrays.
ROW = unlike_columns("row")
# It is in a list, bound as JSON.
IS_AMONG = f"{ROW} IN (SELECT value FROM json_each(?))"  # noqa: S608  # of a constant


@dataclass(frozen=True, slots=True)
class Statement:
    """Conditions as SQLite may have them.

    Attributes:
        items: A table of the columns that are asked for, by the name `items`, and the row of each item as ROW.
        holds: What must hold.
        parameters: What is bound in it.
        is_constant: Whether it holds for the same items whenever it is asked.
        has_select: Whether an expression in it asks for other items, too.
    """

    items: str
    holds: str
    parameters: tuple[object, ...] = ()
    is_constant: bool = True
    has_select: bool = False

    def select(self, also: str = "", what: str = ROW, holds: str = "") -> str:
        """Return a statement that selects something of the items where the conditions, or others, hold."""
        return f"{self.items} SELECT {what} FROM items WHERE {holds or self.holds} {also}"  # noqa: S608


def statement_of(
    conditions: Conditions,
    columns: Columns,
    example: Example,
    selected: Collection[str] = (),
    colored: str = "[]",
) -> Statement:
    """Make one statement of conditions on items with these columns; `UsageError` for what would mean nothing.

    Columns that are `selected` are asked for, too; names are `folded`. The rows that have the color are `colored`, in
    JSON.
    """
    known = known_columns(columns)
    mentioned = set(selected)
    parts: list[str] = []
    parameters: list[object] = []
    is_constant, has_select = True, False
    if conditions.where:
        condition = parse(conditions.where, columns, example)
        is_constant, has_select = condition.is_constant, condition.has_select
        mentioned |= condition.mentioned
        parts.append(f"({condition.sql}\n)")
    if conditions.category:
        mentioned.add("category")
        below = sql_bytes(conditions.category.rstrip("/") + "/")
        parts.append("(category = CAST(? AS TEXT) OR (category > CAST(? AS TEXT) AND category < CAST(? AS TEXT)))")
        parameters += [below[:-1], below, below[:-1] + b"0"]  # the character after /
    if conditions.color:
        parts.append(IS_AMONG)
        parameters.append(colored)
    for each in conditions.ranges:
        column = column_called(each.column, known)
        if column.kind not in (*NUMERIC, "date", "mixed"):
            raise UsageError(f"expected a column of numbers or dates, found {column.name!r}, which holds {column.kind}")
        mentioned.add(folded(each.column))
        for sign, limit in (("<=", _limit(each.low, column, "")), (">=", _limit(each.high, column, "\x7f"))):
            if limit is not None:
                parts.append(f"? {sign} {column.alias}")
                parameters.append(limit)
        if column.kind == "mixed":
            parts.append(f"typeof({column.alias}) <> 'text'")
        parts.append(f"{column.alias} IS NOT NULL")
    items = _table_of(mentioned, known, columns)
    return Statement(items, " AND ".join(parts) or "1", tuple(parameters), is_constant, has_select)


def _table_of(mentioned: set[str], known: Columns, columns: Columns) -> str:
    """Return the table `items` with the columns that are mentioned; what is not read costs nothing."""
    of_shop = [key for key in columns if key in mentioned and known[key] is columns[key]]
    of_items = [key for key in ITEM_COLUMNS if known[key] is ITEM_COLUMNS[key]]
    number = f"d.{row_number(columns)}"
    if not of_shop:
        source, row = "main.items AS i", "i.row"
    elif mentioned.isdisjoint(of_items):
        source, row, of_items = "data AS d", number, []
    else:
        source, row = f"main.items AS i JOIN data AS d ON {number} = i.row", "i.row"
    selected = [f"{row} AS {ROW}", *(f"i.{key} AS {key}" for key in of_items)]
    selected += [f"d.{known[key].sql} AS {known[key].alias}" for key in of_shop]
    return f"WITH items AS (SELECT {', '.join(selected)} FROM {source})"  # noqa: S608


def _limit(limit: float | str | None, column: Column, after: str) -> float | str | None:
    """Return a limit as it is bound; `after` makes a date that is cut short the last of those that begin so."""
    if limit is None:
        return None
    if column.kind == "date":
        if not isinstance(limit, str) or not re.fullmatch(DATE_START, limit):
            raise UsageError(f"expected a date such as 2024-01-31 for {column.name!r}, found {limit!r}")
        return limit + after
    if not isinstance(limit, str):
        return limit if abs(limit) <= LARGEST_INTEGER else float(limit)
    if not NUMBER.fullmatch(limit):
        raise UsageError(f"expected a number for {column.name!r}, found {limit!r}", hint="it is written 12.50")
    return float(limit)
