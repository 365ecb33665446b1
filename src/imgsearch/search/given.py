"""What a search is asked with, as it is typed, in options of the program and in fields of a request alike."""

from collections.abc import Callable, Mapping, Sequence

from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.search.hits import Filter
from imgsearch.search.views import MAX_REGIONS, Regions
from imgsearch.store.conditions import Range


def regions_of(text: str) -> Regions:
    """Read which regions are compared: `auto`, `whole` or a number."""
    if text == "auto":
        return "auto"
    if text == "whole":
        return "whole"
    if _is_number(text) and 1 <= int(text) <= MAX_REGIONS:
        return int(text)
    raise UsageError(f"regions must be auto, whole or 1 to {MAX_REGIONS}, got {text!r}")


def box_of(text: str) -> Box:
    """Read a box: `120,80,300,300`."""
    numbers = [number.strip() for number in text.split(",")]
    if len(numbers) == 4 and all(map(_is_number, numbers)):
        box = Box(*map(int, numbers))
        if box.area:
            return box
    raise UsageError(f"box must be X,Y,W,H in whole pixels, got {text!r}", hint="for example 120,80,300,300")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 10


def filter_of(
    where: str,
    category: str,
    color: str,
    ranges: Sequence[str],
    price: str | None,
    min_score: float | None,
    min_probability: float | None,
) -> Filter:
    """Read a filter: ranges are `stock=1..100`, the price is `10..50`; `UsageError` for what is none."""
    found = [_range(*text.rpartition("=")[::2], f"range must be COLUMN=LOW..HIGH, got {text!r}") for text in ranges]
    found += [] if price is None else [_range("price", price, f"price must be LOW..HIGH, got {price!r}")]
    return Filter(where, category, color, tuple(found), min_score=min_score, min_probability=min_probability)


def _range(column: str, limits: str, refusal: str) -> Range:
    low, dots, high = (part.strip() for part in limits.partition(".."))
    if not column.strip() or not dots or not (low or high):
        example = "10..50" if refusal.startswith("price") else "stock=1..100, or stock=1.."
        raise UsageError(refusal, hint=f"for example {example}")
    return Range(column.strip(), low or None, high or None)


def refuse_contradictions(given: Mapping[str, object], spelled: Callable[[str], str] = str) -> None:
    """Raise `UsageError` for what cannot be combined.

    Args:
        given: Which ways to ask were given: `image`, `item`, `text` ...; false for those that were not.
        spelled: How a name is written where it is given, for messages.
    """
    names = [name for name, is_given in given.items() if is_given]
    pictures = ("image", "item", "like")
    for name, needed in (
        ("text_weight", ("text", "not")),
        ("text_weight", pictures),
        ("fuse", pictures),
        ("regions", pictures),
        ("feedback", pictures),
        ("like_weight", ("like",)),
        ("user", ("rank",)),
        ("explain", ("rank",)),
    ):
        if name in names and not set(needed) & set(names):
            raise UsageError(f"{spelled(name)} has no effect without {spelled(needed[0])}")

    def refuse(first: str, second: str, hint: str) -> None:
        raise UsageError(f"{spelled(first)} and {spelled(second)} cannot be combined", hint=hint)

    parts = [name for name in ("regions", "box", "objects") if name in names]
    if len(parts) > 1:
        refuse(parts[0], parts[1], "each says which part to search with")
    if "vote" in names and "objects" in names:
        refuse("vote", "objects", "a vote is about an image as a whole")
    if "item" in names and parts:
        refuse("item", parts[0], "an item is asked with as it was indexed")
    several = [name for name in ("fuse", "text", "like", "not") if name in names]
    alone = [name for name in ("box", "objects", "rerank") if name in names]
    if alone and several:
        refuse(several[0], alone[0], f"{spelled(alone[0])} is about one image")
    if "rerank" in names and "item" in names:
        refuse("item", "rerank", "re-ranking compares pixels: ask with the image file of the catalog")
    if "by" in names and "distinct" in names:
        refuse("by", "distinct", "one hit for each product, or for each value")
    for name in ("rerank", "rank"):
        if name in names and "diverse" in names:
            refuse(name, "diverse", "each says which hit comes first")
    if "vote" in names and "explain" in names:
        refuse("vote", "explain", "a vote names classes and shows no hits")
