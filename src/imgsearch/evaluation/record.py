"""The JSON file of an evaluation, which `evaluate --json` writes and `--against` reads (docs/output-format.md)."""

import json
import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from imgsearch._version import __version__
from imgsearch.bootstrap import Interval, exact_result
from imgsearch.errors import UsageError
from imgsearch.evaluation.exposure import Exposure, GroupExposure
from imgsearch.evaluation.results import Evaluation, Personal
from imgsearch.files import open_regular

FORMAT = "imgsearch-evaluation"
VERSION = 1

# A file of 100,000 queries has about as many.
_MAX_BYTES = 100_000_000
_DIGITS = 6
_HEAD = ("format", "version", "tool", "per_query", "per_category", "per_column", "per_group", "rest_of_groups")


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """What the file of an evaluation holds."""

    setup: Mapping[str, Any]  # what makes two evaluations comparable; strings, numbers, booleans or None
    figures: Mapping[str, Interval]  # by flat name
    per_query: Mapping[str, Mapping[str, float]]  # flat name of a measure -> query -> its value, 0 to 1


def as_record(evaluation: Evaluation) -> dict[str, Any]:
    """Return the JSON object that is stored; in a path that is not UTF-8 are lone surrogates, which JSON can escape.

    Keys are flat, but for `per_category`, `per_column`, `per_group`, `rest_of_groups` and `per_query`. Numbers are
    rounded to six digits after the point. Every figure has its `name`; every measure that `per_query` has, and every
    other figure with an interval, has `name.low` and `name.high`. Of people `per_query` has numbers, no names.
    """
    per_query = _per_query(evaluation)
    data: dict[str, Any] = {"format": FORMAT, "version": VERSION, "tool": __version__}
    data |= {f"index.{name}": _rounded(value) for name, value in evaluation.facts.items()}
    data |= {f"setup.{name}": _rounded(value) for name, value in evaluation.setup.items()}
    for name, interval in evaluation.figures.items():
        data[name] = _rounded(interval.mean)
        if name in per_query or interval.low < interval.high:
            data |= {f"{name}.low": _rounded(interval.low), f"{name}.high": _rounded(interval.high)}
    if evaluation.retrieval is not None:
        data["per_category"] = _groups(evaluation.categories)
    if evaluation.columns:
        data["per_column"] = _groups(evaluation.columns)
    if (exposure := _exposure(evaluation)) is not None:
        data["per_group"] = _groups({name: _of_group(group) for name, group in exposure.groups.items()})
        if exposure.rest is not None:
            data |= _groups({"rest_of_groups": _of_group(exposure.rest)})
    return {**data, "per_query": per_query}


def read_record(path: Path) -> EvaluationRecord:
    """Read the file of an evaluation, of at most 100 MB; a UsageError if it is something else."""
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(_MAX_BYTES) if size <= _MAX_BYTES else b""
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}", hint="evaluate --json writes one") from error
    if size > _MAX_BYTES:
        raise UsageError(f"the file of an evaluation must be at most 100 MB, but {path} has {size / 1e6:,.0f} MB")
    try:
        return parse_record(json.loads(content, parse_constant=_no_number))
    # Nesting deeper than Python's own calls; UnicodeDecodeError and JSONDecodeError are values, too.
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path} is not the file of an evaluation: {error}", hint="evaluate --json writes one"
        ) from error


def parse_record(data: object) -> EvaluationRecord:
    """Read the JSON object of `as_record`; a ValueError if it is something else."""
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f"expected an object with the format {FORMAT!r}, found {reprlib.repr(data)}")
    if (version := data.get("version")) != VERSION:
        raise ValueError(f"expected version {VERSION}, found {reprlib.repr(version)}; did a newer imgsearch write it?")
    setup: dict[str, Any] = {}
    numbers: dict[str, float] = {}
    for key, value in data.items():
        if key.startswith("setup."):
            setup[key.removeprefix("setup.")] = _scalar(key, value)
        elif key not in _HEAD and not key.startswith("index."):
            numbers[key] = _number(key, value)
    ends = {f"{name}.{end}" for name in numbers for end in ("low", "high")}
    figures = {
        name: Interval(mean, numbers.get(f"{name}.low", mean), numbers.get(f"{name}.high", mean))
        for name, mean in numbers.items()
        if name not in ends
    }
    return EvaluationRecord(setup, figures, _checked_per_query(data.get("per_query")))


def _per_query(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    if evaluation.retrieval is not None:
        queries = [result.query for result in evaluation.retrieval.results]
        for name, measured in evaluation.retrieval.measures.items():
            values[name] = dict(zip(queries, map(_rounded, measured.tolist()), strict=True))
    if evaluation.picture_and_word is not None:
        for name, measured in evaluation.picture_and_word.measures.items():
            values[name] = dict(zip(evaluation.picture_and_word.queries, map(_rounded, measured.tolist()), strict=True))
    if evaluation.recall is not None:
        for k, measured in evaluation.recall.recall.items():
            found = map(_rounded, measured.tolist())
            values[f"index_recall@{k}"] = dict(zip(evaluation.recall.queries, found, strict=True))
    if evaluation.personal is not None:
        values |= _per_person(evaluation.personal)
    return values


def _per_person(personal: Personal) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    if (recommended := personal.recommendations) is not None:
        for name, measured in recommended.measures.items():
            if "novelty" in name or not len(measured):  # novelty is no share
                continue
            people = recommended.new_people if len(measured) != len(recommended.people) else recommended.people
            values[name] = dict(zip(people, map(_rounded, measured.tolist()), strict=True))
    return values


def _exposure(evaluation: Evaluation) -> Exposure | None:
    recommended = evaluation.personal.recommendations if evaluation.personal is not None else None
    return recommended.exposure if recommended is not None else None


def _of_group(group: GroupExposure) -> dict[str, Interval]:
    ratios = {f"{method}_ratio": ratio for method, ratio in group.ratio.items() if ratio is not None}
    exposures = {f"{method}_exposure": exposure for method, exposure in group.exposure.items()}
    return {"products": exact_result(group.products), "relevance": group.relevance, **exposures, **ratios}


def _groups(groups: Mapping[str, Mapping[str, Interval]]) -> dict[str, dict[str, Any]]:
    return {
        group: {
            key: _rounded(value)
            for name, figure in figures.items()
            for key, value in ((name, figure.mean), (f"{name}.low", figure.low), (f"{name}.high", figure.high))
        }
        for group, figures in groups.items()
    }


def _rounded(value: Any) -> Any:
    return round(value, _DIGITS) if isinstance(value, float) else value


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"expected numbers, found {text}")


def _scalar(key: str, value: Any) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    return _number(key, value)


def _number(key: str, value: Any) -> float:
    # A whole number can be too large for a float, and 1e999 is read as infinite.
    try:
        if not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value):
            return value
    except OverflowError:
        pass
    raise ValueError(f"expected a number for {reprlib.repr(key)}, found {reprlib.repr(value)}")


def _checked_per_query(data: object) -> dict[str, dict[str, float]]:
    if not isinstance(data, dict):
        raise ValueError(f"expected an object for 'per_query', found {reprlib.repr(data)}")  # noqa: TRY004  # one kind of error for a damaged file
    for name, values in data.items():
        if not isinstance(values, dict):
            raise ValueError(f"expected an object of queries for {reprlib.repr(name)}, found {reprlib.repr(values)}")  # noqa: TRY004  # as above
        for query, value in values.items():
            if not 0 <= _number(query, value) <= 1:
                raise ValueError(f"expected a value of 0 to 1 for {reprlib.repr(query)}, found {reprlib.repr(value)}")
    return data
