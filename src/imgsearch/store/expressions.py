"""Expressions of `--where`, read before SQLite sees them.

What SQL would silently take for something else is mended or refused: it compares a number with a text as if every text
were larger, takes names in double quotes that it does not know for texts, and is not told which columns hold numbers.
Whether an expression may be run is not decided here.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from imgsearch.errors import UsageError
from imgsearch.store.columns import (
    BOOLEANS,
    NUMBER,
    NUMERIC,
    SURROGATES,
    Column,
    Columns,
    Kind,
    folded,
    sql_bytes,
)

# What a date can be compared with: one, or the beginning of one.
DATE_START = r"\d{4}(-\d\d(-\d\d([T ][\d:.]*.*)?)?)?"

# The columns of the table `items`. The shop's own of the same name come before the last four.
_KINDS: Mapping[str, Kind] = {
    "path": "text",
    "product": "text",
    "category": "text",
    "metadata": "text",
    "row": "integer",
    "size": "integer",
    "mtime_ns": "integer",
    "sha256": "mixed",
}
ITEM_COLUMNS: Mapping[str, Column] = {name: Column(name, kind) for name, kind in _KINDS.items()}
NAMES_OF_ITEMS = ("path", "product", "category")
_FIXED = (*NAMES_OF_ITEMS, "metadata")

_ORDER = {"<", "<=", ">", ">=", "BETWEEN"}
_CHAINED = {"<", "<=", ">", ">=", "=", "==", "!=", "<>"}
_PATTERNS = {"LIKE", "GLOB"}
_COMPARISONS = {*_ORDER, "=", "==", "!=", "<>", "IS", "IN", *_PATTERNS}
# What ends an operand of a comparison on its left.
_BOUNDARIES = {*_COMPARISONS, "AND", "OR", "NOT", "CASE", "WHEN", "THEN", "ELSE", "WHERE", "SELECT", ","}
# Words that are no names of columns unless they stand in quotes.
_KEYWORDS = {*_BOUNDARIES, "END", "NULL", "ISNULL", "NOTNULL", "TRUE", "FALSE", "EXISTS", "FROM", "AS", "CAST"}
_KEYWORDS |= {"COLLATE", "ESCAPE", "DISTINCT", "BY", "LIMIT", "ITEMS"}
# What makes a text of what it is given.
_TO_TEXT = {"||", "TEXT", "CHAR", "DATE", "DATETIME", "FORMAT", "HEX", "LOWER", "LTRIM", "PRINTF", "QUOTE", "REPLACE"}
_TO_TEXT |= {"RTRIM", "STRFTIME", "SUBSTR", "SUBSTRING", "TIME", "TRIM", "TYPEOF", "UPPER"}
# What need not be the same in the next query.
_CHANGING = {"CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP", "DATE", "DATETIME", "JULIANDAY"}
_CHANGING |= {"RANDOM", "RANDOMBLOB", "STRFTIME", "TIME", "UNIXEPOCH"}
# What makes a number of a text, too.
_TO_NUMBER = {*_COMPARISONS, "CAST", "COUNT", "HAS", "INSTR", "JSON_ARRAY_LENGTH", "JULIANDAY", "LENGTH", "UNICODE"}
_TO_NUMBER |= {"UNIXEPOCH"}

# Of a column, a value that shows what it holds.
Example = Callable[[Column], str]


def known_columns(columns: Columns) -> Columns:
    """Return what conditions may be on: the shop's columns, and those of the items."""
    return {**ITEM_COLUMNS, **columns, **{name: ITEM_COLUMNS[name] for name in _FIXED}}


def column_called(name: str, known: Columns) -> Column:
    """Return a column; a `UsageError` names the nearest."""
    column = known.get(folded(name))
    if column is None:
        raise UsageError(f"no column is called {name!r}", hint=hint_for(name, known))
    return column


def hint_for(name: str, known: Columns) -> str:
    """Return a hint that names the column most like an unknown name, or all."""
    import difflib

    shown = {key: _shown(column.name) for key, column in known.items() if key not in ("metadata", "mtime_ns", "sha256")}
    similar = difflib.get_close_matches(folded(name), list(shown)[:10_000], 1)
    names = ", ".join([*shown.values()][:50])
    return f"did you mean {shown[similar[0]]}" if similar else f"columns: {names}"


def _shown(name: str) -> str:
    """Return a name as a person writes it in a condition."""
    is_word = re.fullmatch(r"[A-Za-z_]\w*", name) and name.upper() not in _KEYWORDS
    return name if is_word else '"' + name.replace('"', '""') + '"'


@cache
def _tokens() -> re.Pattern[str]:
    """Return a pattern of the tokens of SQLite (sqlite.org/lang_expr.html, tokenize.c); it takes long to compile."""
    # Whatever is none of them is an operator.
    return re.compile(
        r"""(?P<space>[ \t\n\f\r]+ | --[^\n]* | /\*.*?(\*/|\Z))
        | (?P<blob>[xX]'[^']*')
        | (?P<text>'([^']|'')*')
        | (?P<name>"([^"]|"")*" | `([^`]|``)*` | \[[^\]]*\])
        | (?P<number>0[xX][0-9a-fA-F]+ | ([0-9]+(\.[0-9]*)? | \.[0-9]+)([eE][+-]?[0-9]+)?)
        | (?P<word>[A-Za-z_$\u0080-\U0010ffff][A-Za-z_$0-9\u0080-\U0010ffff]*)
        | (?P<operator>->>|->|\|\||<=|>=|<>|!=|==|<<|>>|.)""",
        re.VERBOSE | re.DOTALL,
    )


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression as SQLite may have it."""

    sql: str
    mentioned: frozenset[str]  # the columns in it, `folded`
    is_constant: bool  # whether it will hold tomorrow for the same items
    has_select: bool  # whether it asks for other items, too


@dataclass(slots=True)
class Token:
    """A word, a sign, a literal or a column of an expression."""

    kind: str  # as in `_tokens`; or `column`, or `json`, a value of the metadata as JSON
    text: str
    columns: tuple[Column, ...] = field(default=())  # that it is

    @property
    def word(self) -> str:
        """What it is as a keyword or an operator; empty for a literal."""
        return self.text.upper() if self.kind in ("word", "operator") else ""

    @property
    def content(self) -> str:
        """A text or a name without its quotation marks."""
        quote = self.text[0]
        return self.text[1:-1] if quote == "[" else self.text[1:-1].replace(quote * 2, quote)


def parse(condition: str, columns: Columns, example: Example) -> Condition:
    """Read an expression on the shop's columns: they are compared with what is like them, and names are names."""
    reader, tokens, shown = _read(condition, columns, example)
    for token in tokens:
        if token.kind == "text":
            token.text = _without_raw_bytes(token.text)
    words = {token.content.upper() if token.kind == "name" else token.word for token in shown}
    sql = "".join(token.text for token in tokens)
    return Condition(sql, frozenset(reader.mentioned), _CHANGING.isdisjoint(words), "SELECT" in words)


def read_tokens(condition: str, columns: Columns) -> list[Token]:
    """Return the tokens of an expression that `parse` accepts, in which columns and values are what they mean."""
    return _read(condition, columns, str)[2]


def _read(condition: str, columns: Columns, example: Example) -> tuple["_Reader", list[Token], list[Token]]:
    """Read an expression: all its tokens, and those that count."""
    reader = _Reader(condition, columns, example)
    tokens = [Token(str(found.lastgroup), found[0]) for found in _tokens().finditer(condition)]
    shown = [token for token in tokens if token.kind != "space"]
    reader.require_closed(shown)
    _quote_names(shown)
    shown = _unwrapped(list(reader.with_columns(shown)))
    for place, token in enumerate(shown):
        if token.word in _COMPARISONS:
            reader.compare(shown, place)
    return reader, tokens, shown


def _quote_names(shown: Sequence[Token]) -> None:
    """Quote names so that they are names: SQLite takes one in double quotes that it does not know for a text."""
    previous = ""
    for token in shown:
        if token.kind == "name" and token.text[0] == '"':
            name = token.content
            if previous in ("->", "->>"):  # where a shell has taken the single quotes
                token.kind, token.text = "text", "'" + name.replace("'", "''") + "'"
            else:
                token.text = "`" + name.replace("`", "``") + "`"
        previous = token.text


class _Reader:
    """Finds the columns in an expression, and what they are compared with."""

    def __init__(self, condition: str, columns: Columns, example: Example) -> None:
        self._condition = condition
        self._columns = columns
        self._known = known_columns(columns)
        self._example = example
        self.mentioned: set[str] = set()

    def wrong(self, problem: str, hint: str = "") -> UsageError:
        """Return what is raised for an expression that would not mean what it says."""
        return UsageError(f"--where {self._condition!r}: {problem}", hint=hint)

    def require_closed(self, shown: Sequence[Token]) -> None:
        """Refuse what would reach into the statement around it."""
        depth = 0
        for token in shown:
            if token.word in ("'", '"', "`", "["):
                raise self.wrong(f"{token.text} is not closed")
            depth += (token.word == "(") - (token.word == ")")
            if depth < 0:
                raise self.wrong(") closes no parenthesis")
        if depth:
            raise self.wrong("( is not closed")

    def with_columns(self, shown: Sequence[Token]) -> Iterator[Token]:
        """Yield the tokens with those made one that are a column: `price`, `metadata->>'price'`, ..."""
        place = 0
        while place < len(shown):
            first = shown[place]
            before = shown[place - 1].word if place else ""
            after = shown[place + 1].word if place + 1 < len(shown) else ""
            length, kind, key = _value_at(shown[place : place + 6])
            if key and before != ".":  # of another table
                self._name_value(first, kind, key)
                for token in shown[place + 1 : place + length]:
                    token.text = ""
                place += length - 1
            elif after == "." and place + 2 < len(shown) and (column := self._column_at(shown, place + 2)):
                first.kind, first.text, first.columns = "column", f"{first.text}.{column.alias}", (column,)
                for token in shown[place + 1 : place + 3]:
                    token.text = ""
                place += 2
            elif before != "." and (column := self._column_at(shown, place)):
                first.kind, first.text, first.columns = "column", column.alias, (column,)
            yield first
            place += 1

    def _column_at(self, shown: Sequence[Token], place: int) -> Column | None:
        token = shown[place]
        after = shown[place + 1].word if place + 1 < len(shown) else ""
        is_word = token.kind == "word" and token.word not in _KEYWORDS
        is_name = token.kind == "name" or (is_word and after not in ("(", "BY"))
        column = self._known.get(folded(token.content if token.kind == "name" else token.text)) if is_name else None
        if column is not None:
            self.mentioned.add(folded(column.name))
        return column

    def _name_value(self, token: Token, kind: str, key: str) -> None:
        column = self._columns.get(folded(key))
        if column is None:
            raise self.wrong(f"no image has data called {key!r}", hint_for(key, self._known))
        is_hidden = self._known[folded(key)] is not column  # by one of the items
        self.mentioned.add("metadata" if kind == "json" or is_hidden else folded(key))
        token.kind, token.text = kind, column.alias
        if kind == "json" or is_hidden:
            label = json.dumps(column.name).replace("'", "''")
            token.text = f"metadata{'->' if kind == 'json' else '->>'}'$.{label}'"
        if kind == "column":
            token.columns = (column,)

    def compare(self, shown: Sequence[Token], place: int) -> None:
        """Let columns be compared with what is like them."""
        word = shown[place].word
        left, right = _left_of(shown, place), _right_of(shown, place)
        if word in _CHAINED and _is_chained(shown, place, left):
            # To SQL the first comparison is a number, 0 or 1, which the second compares.
            raise self.wrong("two comparisons in a row", "put and between them: 10 < x and x < 60")
        if [token.kind for token in left] == ["text"] and right and right[0].kind in ("text", "number"):
            if folded(left[0].content) in self._known:
                raise self.wrong(
                    f"{left[0].content!r} is a text, not a column",
                    "columns stand alone or in double quotes; only texts stand in single quotes",
                )
            return
        if _has_columns(left):
            values, literals = left, right
        elif left and right and right[0].kind == "column" and all(token.word in ("", "-", "+") for token in left):
            values, literals = right[:1], left
        else:
            return
        if word in _PATTERNS or any(token.word in _TO_TEXT for token in values):
            return
        given = [token for token in literals if token.kind in ("text", "number")]
        is_number = any(token.word in _TO_NUMBER for token in values)  # whatever the columns are
        kinds = {column.kind for token in values for column in token.columns}
        for token in given:
            self._make_alike(token, kinds, is_number=is_number)
        if not is_number:
            for token in values:
                for column in token.columns:
                    self._require_alike(column, given, word, is_alone=len(values) == 1)
        if kinds == {"mixed"} and word in _ORDER and not any(each.word == "(" for each in values):
            _compare_with_like(values, {token.kind for token in given})

    def _make_alike(self, token: Token, kinds: set[Kind], *, is_number: bool) -> None:
        """Make a literal in quotes the number that it is as a cell."""
        if token.kind != "text":
            return
        content = token.content
        if NUMBER.fullmatch(content) and (is_number or kinds & {*NUMERIC, "mixed"}):
            token.kind, token.text = "number", f" {content} "
        elif kinds == {"boolean"} and content.lower() in BOOLEANS:
            token.kind, token.text = "number", f" {BOOLEANS[content.lower()]} "

    def _require_alike(self, column: Column, given: Sequence[Token], word: str, *, is_alone: bool) -> None:
        """Refuse what can only be compared by mistake."""
        numbers = [token for token in given if token.kind == "number"]
        texts = [token for token in given if token.kind == "text"]
        of_items = ITEM_COLUMNS.get(folded(column.name)) is column
        if column.kind == "list" and given and is_alone:
            raise self.wrong(f"{column.name!r} holds lists", f"ask for one value: has({_shown(column.name)}, 'value')")
        if column.kind == "text":
            orders = [token for token in texts if word in _ORDER and NUMBER.fullmatch(token.content)]
            if orders or (numbers and not texts and (word in _ORDER or not of_items)):
                raise self.wrong(
                    f"{column.name!r} has texts only, such as {self._example(column)!r}, and no number",
                    "compare it with such a text, in single quotes; a number is written 12.50, without a unit",
                )
        if column.kind == "date" and is_alone:
            wrong = [token.content for token in texts if not re.fullmatch(DATE_START, token.content)]
            wrong += [token.text for token in numbers if not re.fullmatch(r"\s*\d{4}\s*", token.text)]
            if wrong:
                raise self.wrong(
                    f"{column.name!r} holds dates such as {self._example(column)!r}, found {wrong[0]!r}",
                    "a date is written '2024-01-31'",
                )
        if column.kind in NUMERIC and is_alone and texts and not numbers and not of_items:
            raise self.wrong(
                f"{column.name!r} holds numbers, found {texts[0].content!r}",
                f"where there is no value: {_shown(column.name)} IS NULL",
            )


def _compare_with_like(values: Sequence[Token], kinds: set[str]) -> None:
    """Compare numbers in columns with numbers, or texts with texts; what is of the other kind is not found."""
    if len(kinds) == 1:
        like = "<>" if kinds == {"number"} else "="
        for token in values:
            if token.kind == "column":
                token.text = f"CASE WHEN typeof({token.text}) {like} 'text' THEN {token.text} END"


def _value_at(shown: Sequence[Token]) -> tuple[int, str, str]:
    """Return how many tokens are one, its kind, and the key that it is the value of; empty if it is none."""
    words = [token.content.upper() if token.kind == "name" else token.word for token in shown]
    column = 2 if words[:2] == ["ITEMS", "."] else 0
    if words[column : column + 2] in (["METADATA", "->>"], ["METADATA", "->"]):
        label, length = column + 2, column + 3
    elif words[:4] == ["JSON_EXTRACT", "(", "METADATA", ","] and words[5:] == [")"]:
        label, length = 4, 6
    else:
        return 1, "", ""
    key = shown[label].content if len(shown) > label and shown[label].kind == "text" else ""
    if key.startswith("$") or length == 6:
        path = re.fullmatch(r'\$\.(?:"([^"]+)"|([^".\[\]]+))', key)
        key = path[1] or path[2] if path else key
    return length, "json" if words[column + 1] == "->" else "column", key


def _unwrapped(shown: list[Token]) -> list[Token]:
    """Take columns out of parentheses that are theirs alone."""
    place = 0
    while place < len(shown) - 2:
        before, value, after = shown[place : place + 3]
        is_call = place > 0 and shown[place - 1].kind in ("word", "name") and shown[place - 1].word not in _BOUNDARIES
        is_call = is_call or (place > 0 and shown[place - 1].word == "IN")
        if (before.word, value.kind, after.word) == ("(", "column", ")") and not is_call:
            before.text = after.text = " "
            shown[place : place + 3] = [value]
            place = max(0, place - 1)
        else:
            place += 1
    return shown


def _is_chained(shown: Sequence[Token], place: int, left: Sequence[Token]) -> bool:
    before = place - len(left) - 1
    return before >= 0 and shown[before].word in _CHAINED


def _left_of(shown: Sequence[Token], place: int) -> Sequence[Token]:
    """Return the operand on the left of a comparison."""
    end = place - 1 if place and shown[place - 1].word == "NOT" else place
    start, depth = end, 0
    while start:
        word = shown[start - 1].word
        depth += (word == ")") - (word == "(")
        if depth < 0 or (depth == 0 and word in _BOUNDARIES):
            break
        start -= 1
    return shown[start:end]


def _right_of(shown: Sequence[Token], place: int) -> Sequence[Token]:
    """Return what a comparison compares with: literals, or the first token of anything else."""
    if shown[place].word == "IN":
        return list(_literals_in_list(shown, place + 1))
    start = place + 1
    while start < len(shown) and shown[start].word in ("NOT", "DISTINCT", "FROM", "(", "-", "+"):
        start += 1
    end = start + 1
    if shown[place].word == "BETWEEN" and [token.word for token in shown[end : end + 1]] == ["AND"]:
        end += 2
    is_whole = end >= len(shown) or shown[end].word in {*_BOUNDARIES, ")", "END", "COLLATE"}
    return shown[start:end] if is_whole or shown[start].kind == "column" else ()


def _literals_in_list(shown: Sequence[Token], start: int) -> Iterator[Token]:
    depth = 0
    for before, token, after in zip(shown[start:], shown[start + 1 :], shown[start + 2 :], strict=False):
        depth += (before.word == "(") - (before.word == ")")
        if depth == 0:
            return
        if depth == 1 and token.kind in ("text", "number") and {before.word, after.word} <= {"(", ",", ")"}:
            yield token


def _has_columns(operand: Sequence[Token]) -> bool:
    return any(token.kind == "column" for token in operand)


def _without_raw_bytes(literal: str) -> str:
    """Write a text that is not UTF-8 in SQL, which must be."""
    if literal.isascii() or not SURROGATES.search(literal):
        return literal
    return f"CAST(x'{sql_bytes(literal[1:-1].replace(2 * chr(39), chr(39))).hex()}' AS TEXT)"
