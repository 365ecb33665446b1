"""Dataclasses read from JSON that somebody may have changed: the annotations say what it must be.

`Annotated` adds to a type what else must hold, a key that is not the field's name, and the value of a missing key.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from reprlib import repr as shortened
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(frozen=True, slots=True)
class Key:
    """The key of a field in JSON, where it is not the field's name."""

    name: str


@dataclass(frozen=True, slots=True)
class Missing:
    """The value of a field whose key may be missing."""

    value: Any


@dataclass(frozen=True, slots=True)
class Check:
    """What must hold for a value beyond its type, and in words."""

    words: str
    holds: Callable[[Any], bool]


def between(least: float, most: float = math.inf) -> Check:
    """Admit numbers in a range, ends included."""
    words = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    return Check(words, lambda value: least <= value <= most)


def matching(pattern: str, words: str) -> Check:
    """Admit text that matches a pattern as a whole."""
    return Check(words, lambda value: re.fullmatch(pattern, value) is not None)


Count = Annotated[int, between(0)]
Share = Annotated[float, between(0, 1)]


def read(kind: type[T], data: object) -> T:
    """Read a dataclass from what `json.loads` returned; unknown keys are ignored. Raises ValueError for all else."""
    try:
        found: T = _read(kind, data, kind.__name__)
    except (OverflowError, RecursionError) as error:
        raise ValueError(f"{kind.__name__} holds a number or a nesting too large to be one") from error
    return found


def as_json(record: Any) -> Any:
    """Return a dataclass as `read` reads it."""
    if hasattr(record, "__dataclass_fields__"):
        return {key: as_json(getattr(record, name)) for name, key, *_ in _fields(record.__class__)}
    if isinstance(record, Mapping):
        return {key: as_json(value) for key, value in record.items()}
    return [as_json(value) for value in record] if isinstance(record, tuple) else record


@cache
def _fields(kind: Any) -> list[tuple[str, str, Any, Missing | None]]:
    """Return the name, key and annotation of each field of a dataclass, and what it is where the key is missing."""
    found = []
    for name, hint in get_type_hints(kind, include_extras=True).items():
        extras = getattr(hint, "__metadata__", ())
        key = next((extra.name for extra in extras if isinstance(extra, Key)), name)
        found.append((name, key, hint, next((extra for extra in extras if isinstance(extra, Missing)), None)))
    return found


def _read(hint: Any, value: Any, name: str) -> Any:
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # a type or null
        found = None if value is None else _read(arguments[0], value, name)
    elif origin is Literal:
        _require(value in arguments, name, f"one of {', '.join(arguments)}", value)
        found = value
    elif origin is tuple:
        _require(isinstance(value, list | tuple), name, "a list", value)
        found = tuple(_read(arguments[0], each, name) for each in value)
    elif origin is Mapping:
        _require(isinstance(value, Mapping), name, "an object", value)
        found = {_read(arguments[0], key, name): _read(arguments[1], each, key) for key, each in value.items()}
    elif hasattr(kind, "__dataclass_fields__"):
        _require(isinstance(value, Mapping), name, "an object", value)
        found = kind(**{field: _read_field(value, *rest) for field, *rest in _fields(kind)})
    else:
        _require(type(value) is kind or (kind is float and type(value) is int), name, _KINDS[kind], value)
        found = kind(value)
    for extra in extras:
        if isinstance(extra, Check):
            _require(extra.holds(found), name, extra.words, value)
    return found


def _read_field(data: Mapping[str, Any], key: str, hint: Any, missing: Missing | None) -> Any:
    if key in data:
        return _read(hint, data[key], key)
    if missing is None:
        raise ValueError(f"{key} is missing")
    return missing.value


def _require(is_right: bool, name: str, words: str, value: object) -> None:
    if not is_right:
        raise ValueError(f"expected {name} to be {words}, found {shortened(value)}")
