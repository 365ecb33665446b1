"""Conditions of `--where`: what SQL would silently take for something else is mended or refused before SQLite sees it.

SQLite compares a number with a text as if every text were larger, takes names in double quotes that it does not know
for texts, and finds nothing under a key that is not there. Whether a condition may be run is not decided here.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from imgsearch.errors import UsageError

# Whole and decimal numbers are numbers, in the shop's data and in conditions on them. A leading zero means an article
# number, which is text. JSON knows the same numbers.
NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")

# The tokens of SQLite (sqlite.org/lang_expr.html, tokenize.c); whatever is none of them is an operator.
_TOKENS = re.compile(
    r"""(?P<space>[ \t\n\f\r]+ | --[^\n]* | /\*.*?(\*/|\Z))
    | (?P<blob>[xX]'[^']*')
    | (?P<text>'([^']|'')*')
    | (?P<name>"([^"]|"")*" | `([^`]|``)*` | \[[^\]]*\])
    | (?P<number>0[xX][0-9a-fA-F]+ | ([0-9]+(\.[0-9]*)? | \.[0-9]+)([eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_$\u0080-\U0010ffff][A-Za-z_$0-9\u0080-\U0010ffff]*)
    | (?P<operator>->>|->|\|\||<=|>=|<>|!=|==|<<|>>|.)""",
    re.VERBOSE | re.DOTALL,
)
_ORDER = {"<", "<=", ">", ">=", "BETWEEN"}
_CHAINED = {"<", "<=", ">", ">=", "=", "==", "!=", "<>"}
_COMPARISONS = {*_ORDER, "=", "==", "!=", "<>", "IS", "IN", "LIKE", "GLOB"}
# What ends an operand of a comparison on its left.
_BOUNDARIES = {*_COMPARISONS, "AND", "OR", "NOT", "CASE", "WHEN", "THEN", "ELSE", "WHERE", "SELECT", ","}
# What makes a text of what it is given.
_TO_TEXT = {"||", "TEXT", "CHAR", "DATE", "DATETIME", "FORMAT", "HEX", "LOWER", "LTRIM", "PRINTF", "QUOTE", "REPLACE"}
_TO_TEXT |= {"RTRIM", "STRFTIME", "SUBSTR", "SUBSTRING", "TIME", "TRIM", "TYPEOF", "UPPER"}
# What makes a number of a text, too.
_TO_NUMBER = {*_COMPARISONS, "CAST", "INSTR", "JULIANDAY", "LENGTH", "UNICODE", "UNIXEPOCH"}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition as SQLite may have it, and what must hold for it to mean anything."""

    sql: str
    keys: tuple[str, ...]  # of the metadata, which must exist
    numeric: tuple[str, ...]  # of these, those that are compared with a number
    texts: tuple[str, ...]  # compared with a literal: where one is the name of a column, that was meant


@dataclass(slots=True)
class _Token:
    kind: str  # as in `_TOKENS`; or `value`, that of a key of the metadata, or `json`, the same as JSON
    text: str
    key: str = ""  # of these

    @property
    def word(self) -> str:
        """What it is as a keyword or an operator; empty for a literal."""
        return self.text.upper() if self.kind in ("word", "operator") else ""

    @property
    def content(self) -> str:
        """A text or a name without its quotation marks."""
        quote = self.text[0]
        return self.text[1:-1] if quote == "[" else self.text[1:-1].replace(quote * 2, quote)


def parse(condition: str) -> Condition:
    """Read a condition: values of the metadata will be compared with what is like them, and names are names."""
    tokens = [_Token(str(found.lastgroup), found[0]) for found in _TOKENS.finditer(condition)]
    shown = [token for token in tokens if token.kind != "space"]
    _quote_names(shown)
    shown = _unwrapped(list(_with_values(shown)))
    numeric: list[str] = []
    texts: list[str] = []
    for place, token in enumerate(shown):
        if token.word in _COMPARISONS:
            if token.word in _CHAINED and _is_chained(shown, place):
                # To SQL the first comparison is a number, 0 or 1, which the second compares.
                raise UsageError(
                    f"--where {condition!r}: two comparisons in a row", hint="put and between them: 10 < x and x < 60"
                )
            texts += _text_in_place_of_column(shown, place)
            numeric += _compare(shown, place)
    for token in tokens:
        if token.kind == "text":
            token.text = _without_raw_bytes(token.text)
    keys = dict.fromkeys(token.key for token in shown if token.kind in ("value", "json"))
    return Condition("".join(token.text for token in tokens), tuple(keys), tuple(dict.fromkeys(numeric)), tuple(texts))


def _is_chained(shown: Sequence[_Token], place: int) -> bool:
    before = place - len(_left_of(shown, place)) - 1
    return before >= 0 and shown[before].word in _CHAINED


def can_be_asked_for(key: str) -> bool:
    """Return whether SQLite finds a key: it ends its names at the first quotation mark, escaped or not."""
    return bool(key) and not set(key) & {'"', "\\"}


def value_of(key: str) -> str:
    """Return SQL for the value of a key of the metadata, whatever its name."""
    return f"metadata->>{_path_of(key)}"


def type_of(key: str) -> str:
    """Return SQL for the JSON type of the value of a key: `null` where it has none, NULL where there is no key."""
    return f"json_type(metadata, {_path_of(key)})"


def _path_of(key: str) -> str:
    # The label as it is stored: until 3.45 SQLite does not read the escapes of either.
    label = json.dumps(key).replace("'", "''")
    return f"'$.{label}'"


def _quote_names(shown: Sequence[_Token]) -> None:
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


def _with_values(shown: Sequence[_Token]) -> Iterator[_Token]:
    """Yield the tokens with `metadata->>'key'` and `json_extract(metadata, '$.key')` made one."""
    place = 0
    while place < len(shown):
        first = shown[place]
        length, kind, key = _value_at(shown[place : place + 6])
        if key and not (place > 0 and shown[place - 1].word == "."):  # of another table
            first.kind = kind
            first.key = key
            first.text = value_of(key) if first.kind == "value" else f"metadata->{_path_of(key)}"
            for token in shown[place + 1 : place + length]:
                token.text = ""
            place += length - 1
        yield first
        place += 1


def _value_at(shown: Sequence[_Token]) -> tuple[int, str, str]:
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
    return length, "json" if words[column + 1] == "->" else "value", key


def _unwrapped(shown: list[_Token]) -> list[_Token]:
    """Take values out of parentheses that are theirs alone."""
    place = 0
    while place < len(shown) - 2:
        before, value, after = shown[place : place + 3]
        is_call = place > 0 and shown[place - 1].kind in ("word", "name") and shown[place - 1].word not in _BOUNDARIES
        if (before.word, value.kind, after.word) == ("(", "value", ")") and not is_call:
            before.text = after.text = " "
            shown[place : place + 3] = [value]
            place = max(0, place - 1)
        else:
            place += 1
    return shown


def _text_in_place_of_column(shown: Sequence[_Token], place: int) -> list[str]:
    left, right = _left_of(shown, place), _right_of(shown, place)
    compares_literals = [token.kind for token in left] == ["text"] and right and right[0].kind in ("text", "number")
    return [left[0].content] if compares_literals else []


def _compare(shown: Sequence[_Token], place: int) -> Iterator[str]:
    """Let values be compared with what is like them; yields the keys of those compared with a number."""
    left, right = _left_of(shown, place), _right_of(shown, place)
    if _is_of_values(left):
        values, literals = left, right
    elif left and right and right[0].kind == "value" and all(token.word in ("", "-", "+") for token in left):
        values, literals = right[:1], left
    else:
        return
    for token in literals:
        if token.kind == "text":
            if NUMBER.fullmatch(token.content) and shown[place].word not in ("LIKE", "GLOB"):
                token.kind, token.text = "number", f" {token.content} "
            else:
                token.text = _without_raw_bytes(token.text, "surrogatepass")
    kinds = {token.kind for token in literals} & {"text", "number"}
    is_counted = any(token.word in _TO_NUMBER for token in values)
    for token in values:
        if token.kind == "value" and len(kinds) == 1 and shown[place].word not in ("LIKE", "GLOB"):
            if shown[place].word in _ORDER and not any(each.word == "(" for each in values):
                like = "<>" if kinds == {"number"} else "="
                value = value_of(token.key)
                token.text = f"CASE WHEN typeof({value}) {like} 'text' THEN {value} END"
            if kinds == {"number"} and not is_counted:
                yield token.key


def _left_of(shown: Sequence[_Token], place: int) -> Sequence[_Token]:
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


def _right_of(shown: Sequence[_Token], place: int) -> Sequence[_Token]:
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
    return shown[start:end] if is_whole or shown[start].kind == "value" else ()


def _literals_in_list(shown: Sequence[_Token], start: int) -> Iterator[_Token]:
    depth = 0
    for before, token, after in zip(shown[start:], shown[start + 1 :], shown[start + 2 :], strict=False):
        depth += (before.word == "(") - (before.word == ")")
        if depth == 0:
            return
        if depth == 1 and token.kind in ("text", "number") and {before.word, after.word} <= {"(", ",", ")"}:
            yield token


def _is_of_values(operand: Sequence[_Token]) -> bool:
    """Return whether an operand is a value of the metadata, or computed from one and not made a text."""
    return any(token.kind == "value" for token in operand) and not any(token.word in _TO_TEXT for token in operand)


def _without_raw_bytes(literal: str, errors: str = "surrogateescape") -> str:
    """Write a text that is not UTF-8 in SQL, which must be."""
    if literal.isascii() or not re.search("[\ud800-\udfff]", literal):
        return literal
    try:
        content = literal[1:-1].replace("''", "'").encode("utf-8", errors)
    except UnicodeEncodeError:  # no bytes of a file name: SQLite refuses it
        return literal
    return f"CAST(x'{content.hex()}' AS TEXT)"
