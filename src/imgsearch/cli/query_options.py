"""What `imgsearch query` is asked with, and which of its options go together."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from imgsearch.cli.answers import Asked, Picture, Result
from imgsearch.cli.output import refuse_to_replace
from imgsearch.errors import UsageError
from imgsearch.images.scan import IMAGE_SUFFIXES
from imgsearch.search.given import refuse_contradictions
from imgsearch.search.ranking import TEXT_WEIGHT
from imgsearch.search.views import Indexed

if TYPE_CHECKING:
    from imgsearch.search.fusion import Fuse
    from imgsearch.search.hits import Hit
    from imgsearch.search.index import Index


class Additions:
    """What each answer is also asked with: words, other images, and what is taken away, embedded once for all."""

    def __init__(
        self,
        index: "Index",
        output_file: Path | None,
        text: Sequence[str],
        text_weight: float | None,
        like: Sequence[str],
        like_weights: Sequence[float],
        without: Sequence[str],
    ) -> None:
        self._index = index
        self.text = text
        self._text_weight = TEXT_WEIGHT if text_weight is None else text_weight
        self.like = [_file_or_item(name, output_file) for name in like]
        if len(like_weights) not in (0, 1, len(like)):
            raise UsageError(f"expected --like-weight once, or for each of {len(like)}, found {len(like_weights)}")
        self._like_weights = like_weights if len(like_weights) == len(like) else [*(like_weights or [1.0])] * len(like)
        self._without_names = without
        self.without: list[str | Indexed] = []
        self.without_text: list[str] = []
        for name in without:
            asked = _file_or_item(name, output_file)
            if isinstance(asked, str) or _is_item(index, name):
                self.without.append(asked)
            else:
                self.without_text.append(name)
        self._unwanted = [view for each in self.without for view in index.views(each)]

    def __bool__(self) -> bool:
        return bool(self.text or self.like or self._without_names)

    @property
    def have_words(self) -> bool:
        """Whether words are compared with the items."""
        return bool(self.text or self.without_text)

    def have_probability(self, *, is_alone: bool) -> bool:
        """Whether hits have a probability; `is_alone`: nothing else is asked with."""
        manifest = self._index.manifest
        if not self.have_words:
            return manifest.calibration is not None
        is_one_text = is_alone and len(self.text) == 1 and not self.like and not self._without_names
        return is_one_text and manifest.words_calibration is not None and self._index.words.is_by_meaning

    def search(self, asked: Sequence[str | Indexed], k: int, fuse: "Fuse | None", **limits: Any) -> list["Hit"]:
        """Do what `Index.search_together` does, with all that is here."""
        weights = [*[1.0] * len(asked), *self._like_weights] if self.like and fuse != "max" else ()
        return self._index.search_together(
            [*asked, *self.like],
            k,
            text=self.text,
            text_weight=self._text_weight,
            fuse=fuse or ("mean" if self.like else "max"),
            weights=weights,
            without=self._unwanted,
            without_text=self.without_text,
            **limits,
        )

    def described(self, asked: Sequence[str | Indexed], *, is_fused: bool) -> Asked:
        """Describe what an answer was asked with."""

        def pictures() -> list[Picture]:
            wanted = [picture for each in (*asked, *self.like) for picture in _pictures(self._index, each)]
            return wanted + [picture for each in self.without for picture in _pictures(self._index, each, "not ")]

        together = [name_of(each) for each in asked] if is_fused else []
        like = [name_of(each) for each in self.like]
        notes = [*(self.text if asked else ()), *(f"not {words}" for words in self.without_text)]
        return Asked(pictures, together, self.text, like, self._without_names, notes)


def _file_or_item(name: str, output_file: Path | None) -> str | Indexed:
    """Return the name of an image file as it is, and that of what is in the index as such."""
    refuse_to_replace(output_file, "an image that is asked with", name)
    return name if os.path.lexists(name) and not os.path.isdir(name) else Indexed(name)


def _is_item(index: "Index", name: str) -> bool:
    """Return whether a name is that of something in the index, or was meant to be, and not words."""
    looks_like_file = "/" in name or PurePath(name).suffix.lower() in IMAGE_SUFFIXES
    return looks_like_file or index.nearest.has(name)


def name_of(asked: str | Indexed) -> str:
    """Return what an image file or what is in the index was called."""
    return asked.name if isinstance(asked, Indexed) else asked


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
    additions: Additions,
    find: Callable[[str], Result],
    find_together: Callable[[Sequence[str | Indexed]], Result],
    *,
    is_fused: bool,
    is_alone: bool,
) -> Iterator[Question]:
    """Yield what is to be answered: each image and each item by itself, all at once, or the additions alone."""
    if not is_fused:
        yield from ((image, partial(find, image)) for image in images)
        yield from ((item, partial(find_together, [Indexed(item)])) for item in items)
    asked: list[str | Indexed] = [*images, *map(Indexed, items)] if is_fused else []
    if asked:
        yield " + ".join(name_of(each) for each in asked), partial(find_together, asked)
    elif is_alone:
        yield " + ".join([*map(name_of, additions.like), *additions.text]), partial(find_together, [])


def refuse_options(options: Mapping[str, object]) -> None:
    """Raise `UsageError` for options that cannot be combined; `options` tells which were given, and `image` too."""
    given = {name for name, is_given in options.items() if is_given}
    if not {"image", "item", "text", "like"} & given:
        raise UsageError("expected an image, --item, --like or --text, found none", hint="see imgsearch query --help")
    if options["like_weight"] and options["fuse"] == "max":
        raise UsageError("--like-weight and --fuse max cannot be combined", hint="weights are for a mean: --fuse mean")
    if {"item", "image"} <= given and "fuse" not in given:
        raise UsageError(
            "expected images or --item, found both", hint="--fuse max or --fuse mean answers once for all of them"
        )
    refuse_contradictions(options, lambda name: "IMAGE" if name == "image" else f"--{name.replace('_', '-')}")
