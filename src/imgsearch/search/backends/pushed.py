"""The part of conditions that a server of vectors can say, too, so that it proposes what satisfies them.

What is proposed is compared with all conditions here: a server only narrows down, never beyond what SQLite finds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from imgsearch.store.columns import NUMERIC, SURROGATES, Columns, folded
from imgsearch.store.conditions import Conditions
from imgsearch.store.expressions import NAMES_OF_ITEMS, Token, read_tokens
from imgsearch.store.items import LONGEST_FIELD

Sign = Literal["=", "<", "<=", ">", ">=", "below"]

_MIRRORED = {"=": "=", "==": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SIGNS = {"=": "=", "==": "=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
# Whole numbers below this are the same number wherever they are stored as floating point.
_TOO_LARGE = 2**53


@dataclass(frozen=True, slots=True)
class Comparison:
    """A field of an item compared with a value.

    Attributes:
        field: Its name, as of `Items.fields`.
        sign: `below` holds for the value itself, and for what begins with the value and a slash.
        value: A text only with `=` and `below`. Numbers compare with numbers only, texts with texts.
    """

    field: str
    sign: Sign
    value: str | int | float


def pushed(conditions: Conditions, columns: Columns) -> tuple[Comparison, ...]:
    """Return comparisons that hold for every item that satisfies the conditions."""
    found = list(_of_expression(conditions.where, columns)) if conditions.where else []
    if conditions.category:
        found.append(Comparison("category", "below", conditions.category.rstrip("/")))
    for each in conditions.ranges:
        for sign, limit in ((">=", each.low), ("<=", each.high)):
            if limit is not None and (column := columns.get(folded(each.column))) and column.kind in NUMERIC:
                found.append(Comparison(folded(each.column), cast("Sign", sign), float(limit)))
    return tuple(comparison for comparison in found if _is_exact(comparison.value))


def _of_expression(where: str, columns: Columns) -> Iterator[Comparison]:
    """Yield the plain comparisons of a column with a value that an expression joins by AND."""
    tokens = read_tokens(where, columns)
    words = {token.word for token in tokens}
    if not words.isdisjoint({"OR", "NOT", "BETWEEN", "CASE", "SELECT", "COLLATE", "("}):
        return
    part: list[Token] = []
    for token in (*tokens, None):
        if token is not None and token.word != "AND":
            part.append(token)
            continue
        if (comparison := _comparison(part, columns)) is not None:
            yield comparison
        part = []


def _comparison(part: Sequence[Token], columns: Columns) -> Comparison | None:
    if len(part) != 3 or part[1].word not in _SIGNS:
        return None
    left, sign, right = part
    if left.kind != "column":
        left, right = right, left
    if left.kind != "column" or len(left.columns) != 1:
        return None
    (column,) = left.columns
    key = folded(column.name)
    if key not in NAMES_OF_ITEMS and columns.get(key) is not column:  # `size`, say, of the file
        return None
    name = _SIGNS[sign.word] if left is part[0] else _MIRRORED[sign.word]
    if column.kind == "text" and right.kind == "text" and name == "=":
        return Comparison(key, "=", right.content)
    if column.kind in NUMERIC and right.kind == "number" and not right.text.strip().lower().startswith("0x"):
        return Comparison(key, cast("Sign", name), float(right.text))
    return None


def _is_exact(value: str | float) -> bool:
    """Return whether a server has the same value, if any item has it."""
    if isinstance(value, str):
        return len(value) <= LONGEST_FIELD and "\0" not in value and not SURROGATES.search(value)
    return abs(value) < _TOO_LARGE
