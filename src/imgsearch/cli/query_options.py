"""What `imgsearch query` is asked with, and which of its options go together."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from imgsearch.cli.answers import Asked, Picture, Result
from imgsearch.cli.output import refuse_to_replace
from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.search.views import MAX_REGIONS, Indexed, Regions, View

if TYPE_CHECKING:
    from imgsearch.search.index import Index


class Unwanted:
    """What `--not` takes away: image files, or what is in the index; embedded once for all answers."""

    def __init__(self, index: "Index", names: Sequence[str], output_file: Path | None) -> None:
        self.names = names
        self.asked: list[str | Indexed] = []
        self.views: list[View] = []
        for name in names:
            refuse_to_replace(output_file, "an image that is taken away", name)
            is_file = os.path.lexists(name) and not os.path.isdir(name)
            self.asked.append(name if is_file else Indexed(name))
            self.views += index.views(self.asked[-1])


def name_of(asked: str | Indexed) -> str:
    """Return what an image file or what is in the index was called."""
    return asked.name if isinstance(asked, Indexed) else asked


def asked_with(index: "Index", asked: Sequence[str | Indexed], unwanted: Unwanted, *, is_fused: bool) -> Asked:
    """Describe what an answer was asked with."""

    def pictures() -> list[Picture]:
        wanted = [picture for each in asked for picture in _pictures(index, each)]
        return wanted + [picture for each in unwanted.asked for picture in _pictures(index, each, "not ")]

    return Asked(pictures, [name_of(each) for each in asked] if is_fused else [], unwanted.names)


def _pictures(index: "Index", asked: str | Indexed, prefix: str = "") -> list[Picture]:
    """Return the images that were asked with, those of the catalog too, for a page."""
    if isinstance(asked, str):
        return [Picture(prefix + asked, asked)]
    items = index.items.fetch(index.nearest.rows_named(asked.name))
    return [Picture(prefix + item.path, os.path.join(index.manifest.catalog, item.path)) for item in items]


Question = tuple[str, Callable[[], Result]]


def questions(
    images: Iterable[str],
    items: Sequence[str],
    find: Callable[[str], Result],
    find_together: Callable[[Sequence[str | Indexed]], Result],
    *,
    is_fused: bool,
) -> Iterator[Question]:
    """Yield what is to be answered: each image and each item by itself, or all at once."""
    if not is_fused:
        yield from ((image, partial(find, image)) for image in images)
        yield from ((item, partial(find_together, [Indexed(item)])) for item in items)
    asked: list[str | Indexed] = [*images, *map(Indexed, items)] if is_fused else []
    if asked:
        yield " + ".join(name_of(each) for each in asked), partial(find_together, asked)


def refuse_contradictions(options: Mapping[str, object]) -> None:
    """Raise `UsageError` for options that cannot be combined; `options` tells which were given, and IMAGE too."""
    given = [name for name, is_given in options.items() if is_given]
    has_items = "--item" in given
    if not (has_items or "IMAGE" in given):
        raise UsageError("expected an image or --item, found neither", hint="see imgsearch query --help")
    if has_items and "IMAGE" in given and "--fuse" not in given:
        raise UsageError(
            "expected images or --item, found both", hint="--fuse max or --fuse mean answers once for all of them"
        )
    parts = [name for name in ("--regions", "--box", "--objects") if name in given]
    if len(parts) > 1:
        raise UsageError(f"{' and '.join(parts[:2])} cannot be combined", hint="each says which part to search with")
    if "--vote" in given and "--objects" in given:
        raise UsageError("--vote and --objects cannot be combined", hint="a vote is about an image as a whole")
    if has_items and parts:
        raise UsageError(f"--item and {parts[0]} cannot be combined", hint="an item is asked with as it was indexed")
    several = [name for name in ("--fuse", "--not") if name in given]
    alone = [name for name in ("--box", "--objects", "--rerank") if name in given]
    if alone and several:
        raise UsageError(f"{several[0]} and {alone[0]} cannot be combined", hint=f"{alone[0]} is about one image")
    if "--rerank" in given and has_items:
        raise UsageError(
            "--item and --rerank cannot be combined",
            hint="re-ranking compares pixels: ask with the image file of the catalog",
        )
    if "--by" in given and "--distinct" in given:
        raise UsageError("--by and --distinct cannot be combined", hint="one hit for each product, or for each value")
    if "--rerank" in given and "--diverse" in given:
        raise UsageError("--rerank and --diverse cannot be combined", hint="each says which hit comes first")


def regions_of(text: str) -> Regions:
    """Read `--regions`."""
    if text == "auto":
        return "auto"
    if text == "whole":
        return "whole"
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    raise UsageError(f"--regions must be auto, whole or 1 to {MAX_REGIONS}, got {text!r}")


def box_of(text: str | None) -> Box | None:
    """Read `--box`."""
    if text is None:
        return None
    numbers = text.split(",")
    if len(numbers) == 4 and all(
        number.strip().isascii() and number.strip().isdecimal() and len(number) < 10 for number in numbers
    ):
        box = Box(*map(int, numbers))
        if box.area:
            return box
    raise UsageError(f"--box must be X,Y,W,H in whole pixels, got {text!r}", hint="for example --box 120,80,300,300")
