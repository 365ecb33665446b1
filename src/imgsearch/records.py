"""Dataclasses read from JSON that somebody may have changed: the annotations say what it must be.

`Annotated` adds to a type what else must hold, a key that is not the field's name, and the value of a missing key.
`schema_of` says the same as a JSON Schema.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from reprlib import repr as shortened
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_KINDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_SCHEMAS = {int: "integer", float: "number", str: "string", bool: "boolean"}


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
    """What must hold for a value beyond its type: in words, in code, and as far as it can be said in a schema."""

    words: str
    holds: Callable[[Any], bool]
    schema: Mapping[str, Any] = field(default_factory=dict, compare=False)


def between(least: float, most: float = math.inf) -> Check:
    """Admit numbers in a range, ends included."""
    words = f"at least {least:g}" if most == math.inf else f"from {least:g} to {most:g}"
    schema = {"minimum": least} if most == math.inf else {"minimum": least, "maximum": most}
    return Check(words, lambda value: least <= value <= most, schema)


def matching(pattern: str, words: str) -> Check:
    """Admit text that matches a pattern as a whole."""
    return Check(words, lambda value: re.fullmatch(pattern, value) is not None, {"pattern": f"^(?:{pattern})$"})


def at_most(most: int, things: str) -> Check:
    """Admit text, or a list, that is not too long: `things` are what is counted."""
    schema = {"maxLength" if things == "characters" else "maxItems": most}
    return Check(f"at most {most:,} {things}", lambda value: len(value) <= most, schema)


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


def schema_of(kind: Any) -> dict[str, Any]:
    """Return the JSON Schema of what `read` takes for a dataclass, or of what an answer described by one is.

    The first line of the docstring is its description, and the section `Attributes` has those of the fields.
    """
    said = _said_of(kind)
    properties, required = {}, []
    for name, key, hint, missing in _fields(kind):
        schema = _schema(hint)
        if name in said:
            schema["description"] = said[name]
        if missing is None:
            required.append(key)
        elif missing.value not in (None, "", ()):
            schema["default"] = missing.value
        properties[key] = schema
    needed = {"required": required} if required else {}
    return {"type": "object", "description": said[""], "properties": properties, **needed}


def _schema(hint: Any) -> dict[str, Any]:
    kind, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        found: dict[str, Any] = {"anyOf": [_schema(arguments[0]), {"type": "null"}]}
    elif origin is Literal:
        found = {"enum": list(arguments)}
    elif origin is tuple:
        found = {"type": "array", "items": _schema(arguments[0])}
    elif origin is Mapping:
        found = {"type": "object", "additionalProperties": _schema(arguments[1])}
    elif kind is Any:
        found = {}
    else:
        found = schema_of(kind) if hasattr(kind, "__dataclass_fields__") else {"type": _SCHEMAS[kind]}
    for extra in extras:
        found |= extra.schema if isinstance(extra, Check) else {}
    return found


def _said_of(kind: Any) -> dict[str, str]:
    """Return what docstrings say of each field, those that are inherited too, and for an empty name the first line."""
    said = {}
    for each in reversed(kind.__mro__[:-1]):
        said[""], _, rest = inspect.cleandoc(each.__doc__).partition("\n")
        described = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", rest.partition("Attributes:\n")[2], re.MULTILINE)
        said |= {name: " ".join(text.split()) for name, text in described}
    return said


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
    elif kind is Any:
        found = value
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
