"""Ranges of values as they are typed: `--price 10..50`, `--range stock=1..`."""

from collections.abc import Sequence

from imgsearch.errors import UsageError
from imgsearch.store.conditions import Range


def ranges_of(texts: Sequence[str], price: str | None) -> tuple[Range, ...]:
    """Read the values of `--range` and that of `--price`; `UsageError` for what is none."""
    found = [_range(*text.rpartition("=")[::2], f"--range {text}") for text in texts]
    return tuple(found if price is None else [*found, _range("price", price, f"--price {price}")])


def _range(column: str, limits: str, given: str) -> Range:
    low, dots, high = (part.strip() for part in limits.partition(".."))
    if not column or not dots or not (low or high):
        example = "--price 10..50" if given.startswith("--price") else "--range stock=1..100, or stock=1.."
        raise UsageError(f"expected LOW..HIGH, found {given}", hint=f"for example {example}")
    return Range(column.strip(), low or None, high or None)
