"""Filters as they are typed: `--category shoes --price 10..50 --range stock=1..`."""

from collections.abc import Sequence

from imgsearch.errors import UsageError
from imgsearch.search.hits import Filter
from imgsearch.store.conditions import Range


def filter_of(
    where: str,
    category: str,
    color: str,
    ranges: Sequence[str],
    price: str | None,
    min_score: float | None,
    min_probability: float | None,
) -> Filter:
    """Read the options of a filter; `UsageError` for what is none."""
    found = [_range(*text.rpartition("=")[::2], f"--range {text}") for text in ranges]
    found += [] if price is None else [_range("price", price, f"--price {price}")]
    return Filter(where, category, color, tuple(found), min_score=min_score, min_probability=min_probability)


def _range(column: str, limits: str, given: str) -> Range:
    low, dots, high = (part.strip() for part in limits.partition(".."))
    if not column or not dots or not (low or high):
        example = "--price 10..50" if given.startswith("--price") else "--range stock=1..100, or stock=1.."
        raise UsageError(f"expected LOW..HIGH, found {given}", hint=f"for example {example}")
    return Range(column.strip(), low or None, high or None)
