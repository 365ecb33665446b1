"""Files with one JSON object a line, read as they are, or refused by the line of their fault."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from imgsearch.errors import UsageError
from imgsearch.tables import open_text


def json_rows(path: Path, encoding: str, hint: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the line of each object, from 1, and its values; `UsageError` for what is not such a file.

    Empty lines are left out. `encoding` and `hint` are as of `open_text`.
    """
    with open_text(path, encoding, hint) as (lines, _):
        number = 0
        is_empty = True
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            is_empty = False
            try:
                row = json_object(line)
            except ValueError as error:
                raise UsageError(f"{path}, line {number}: {error}", hint="each line is one object: {...}") from error
            yield number, row
        if is_empty:
            raise UsageError(f"{path}: expected one JSON object a line, found nothing")


def json_object(line: str) -> dict[str, Any]:
    """Return the JSON object of a line; `ValueError` for what is none."""
    try:
        row = _decode(line.rstrip("\r\n"))
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg}, at character {error.pos + 1}") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {line[:50].strip()!r}")  # noqa: TRY004
    return row


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the key {twice[:50]!r} twice")
    return found


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 300:  # more than a real number can be
        raise ValueError(f"the number {text[:20]}... is too large")
    return int(text)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


_decode = json.JSONDecoder(
    object_pairs_hook=_object, parse_float=_number, parse_int=_integer, parse_constant=_refuse
).decode
