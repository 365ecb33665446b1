"""What commands answer for an image, in each form that an output format needs (docs/output-format.md)."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from imgsearch.errors import ImgsearchError

if TYPE_CHECKING:
    from imgsearch.encoders.class_probability import ClassProbability
    from imgsearch.images.boxes import Box
    from imgsearch.images.decode import Pixels
    from imgsearch.regions.detections import Detection
    from imgsearch.search.hits import Hit, ObjectHits
    from imgsearch.search.views import QueryImage
    from imgsearch.store.manifest import Manifest

_NO_HITS = "no image fits"
_NO_OBJECTS = "no item stands out"


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table for people."""

    title: str
    heads: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    empty: str = ""  # printed in place of no rows


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that was found, on a page for people."""

    score: str
    text: str
    rank: int | None = None
    note: str = ""  # between score and text
    file: str = ""  # an image to show above; "" for a line of text alone
    drawing: "Pixels | None" = None  # in place of the file
    details: Sequence[str] = ()  # what else there is to read, a line each; a page is searched for text and details


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that was asked with, on a page for people."""

    caption: str
    file: str
    image: "QueryImage | None" = None  # spares reading it again


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer was asked with, where that is more than the one image file that it is called by."""

    pictures: Callable[[], Sequence[Picture]]
    together: Sequence[str] = ()  # the names that were asked with at once
    text: Sequence[str] = ()  # words that were asked with
    like: Sequence[str] = ()  # the names of what else was
    without: Sequence[str] = ()  # names or words that were taken away
    notes: Sequence[str] = ()  # for a page: the words, where what the answer is called by does not say them

    def to_json(self) -> dict[str, Any]:
        """Return fields for the JSON object."""
        names = {
            "queries": list(self.together),
            "text": list(self.text),
            "like": list(self.like),
            "not": list(self.without),
        }
        return {name: fact for name, fact in names.items() if fact}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page for people: what was asked with, an image with boxes drawn into it, and what was found."""

    boxes: Sequence["Box"] = ()
    entries: Sequence[Entry] = ()
    message: str = ""
    image: "QueryImage | None" = None  # spares decoding it again
    asked: Asked | None = None  # in place of the image
    role: str = "query"  # of the image


class Result(Protocol):
    """What was found for one image. A command that answers needs one class like this, and a `Call`."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the JSON object beside those of `Call.facts`."""

    def rows(self) -> Iterator[Sequence[object]]:
        """Yield rows of CSV, one for each thing found, without the query."""

    def paths(self, query: str) -> Iterator[str]:
        """Yield what the format `paths` writes, a line each."""

    def tables(self, title: str) -> Iterator[TextTable]:
        """Yield tables for people; the first has the title."""

    def sections(self) -> Iterator[Section]:
        """Yield sections of a page for people."""


@dataclass(frozen=True, slots=True)
class Call:
    """What all answers of one call have in common."""

    columns: Sequence[str]  # of CSV: `query`, and the names of what `Result.rows` yields
    find: Callable[[str], Result]  # answers one image, or raises an error that is about it alone
    # In the JSON object after `query`, in this order; `seconds` may be among them to have its place.
    facts: Mapping[str, Any] = field(default_factory=dict)
    details: Sequence[str] = ()  # in the title of a table, after the image's name
    command: str = ""  # in the title of a page


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one image: a result, or the error that kept it from having one."""

    call: Call
    query: str  # the image, as the user named it
    seconds: float
    result: Result | ImgsearchError

    def to_json(self) -> dict[str, Any]:
        """Return the answer as the object that the format `json` writes."""
        if isinstance(self.result, ImgsearchError):
            found = {"error": {"code": self.result.exit_code, "message": self.result.message}}
        else:
            found = self.result.to_json()
        return {"query": self.query, **self.call.facts, "seconds": round(self.seconds, 6), **found}

    def sections(self) -> Iterator[Section]:
        """Yield sections of a page for people."""
        if isinstance(self.result, ImgsearchError):
            yield Section(message=self.result.message)
        else:
            yield from self.result.sections()

    @property
    def title(self) -> str:
        """The line above what was found."""
        return f"{self.query}  ({', '.join([*self.call.details, f'{self.seconds * 1000:.0f} ms'])})"


@dataclass(frozen=True, slots=True)
class FoundClasses:
    """Classes, the most probable first: of `classify`, and of `query --vote` with the hits that voted."""

    classes: Sequence["ClassProbability"]
    voters: Sequence["Hit"] | None = None
    image: "QueryImage | None" = None
    rerank: str | None = None  # of the voters, as for `FoundHits`
    asked: Asked | None = None

    COLUMNS = ("query", "rank", "class", "probability")

    def to_json(self) -> dict[str, Any]:
        hits = {} if self.voters is None else {"hits": [hit.to_json() for hit in self.voters]}
        classes = [
            {"rank": found.rank, "class": found.label, "probability": round(found.probability, 6)}
            for found in self.classes
        ]
        return {**_asked(self.asked), **_rerank(self.rerank), **hits, "classes": classes}

    def rows(self) -> Iterator[Sequence[object]]:
        yield from ((found.rank, found.label, f"{found.probability:.6f}") for found in self.classes)

    def paths(self, query: str) -> Iterator[str]:  # noqa: ARG002
        yield from (found.label for found in self.classes[:1])

    def tables(self, title: str) -> Iterator[TextTable]:
        rows = [(str(found.rank), f"{found.probability:.3f}", found.label) for found in self.classes]
        yield TextTable(title, ("#", "probability", "class"), rows, _NO_HITS)

    def sections(self) -> Iterator[Section]:
        entries = [Entry(f"{found.probability:.3f}", found.label) for found in self.classes]
        yield Section(entries=entries, image=self.image, asked=self.asked)


@dataclass(frozen=True, slots=True)
class FoundBoxes:
    """Items that a detector finds, the surest first: of `detect`."""

    boxes: Sequence["Detection"]
    image: "QueryImage"

    COLUMNS = ("query", "rank", "x", "y", "width", "height", "score")

    def to_json(self) -> dict[str, Any]:
        boxes = [
            {"rank": rank, "box": found.box.to_json(), "score": round(found.score, 6)} for rank, found in self._ranked()
        ]
        return {"boxes": boxes}

    def rows(self) -> Iterator[Sequence[object]]:
        yield from ((rank, *found.box.to_json(), f"{found.score:.6f}") for rank, found in self._ranked())

    def paths(self, query: str) -> Iterator[str]:
        yield from [query] if self.boxes else []

    def tables(self, title: str) -> Iterator[TextTable]:
        rows = [(str(rank), f"{found.score:.3f}", *map(str, found.box.to_json())) for rank, found in self._ranked()]
        yield TextTable(title, ("#", "score", "x", "y", "width", "height"), rows, "no item is in it")

    def sections(self) -> Iterator[Section]:
        entries = [Entry(f"{found.score:.3f}", _place(found.box), rank) for rank, found in self._ranked()]
        yield Section([found.box for found in self.boxes], entries, "" if entries else "no item is in it", self.image)

    def _ranked(self) -> Iterator[tuple[int, "Detection"]]:
        return enumerate(self.boxes, start=1)


@dataclass(frozen=True, slots=True)
class FoundHits:
    """Hits of `query` and of `recommend`, the best first."""

    hits: Sequence["Hit"]
    manifest: "Manifest"
    draw: Callable[["Hit"], "Pixels | None"]  # the points that a hit has in common with the image
    image: "QueryImage | None"  # None where there is `asked`
    rerank: str | None = None  # whether all hits that should be re-ranked were, some, or none; None if none should be
    asked: Asked | None = None
    method: str | None = None  # how they are recommended; None where they are not

    def to_json(self) -> dict[str, Any]:
        method = {} if self.method is None else {"method": self.method}
        hits = [hit.to_json() for hit in self.hits]
        return {**_asked(self.asked), **method, **_rerank(self.rerank), "hits": hits}

    def rows(self) -> Iterator[Sequence[object]]:
        yield from map(_hit_row, self.hits)

    def paths(self, query: str) -> Iterator[str]:  # noqa: ARG002
        yield from (hit.path for hit in self.hits)

    def tables(self, title: str) -> Iterator[TextTable]:
        yield _hit_table(title if self.method is None else f"{title}: {self.method}", self.hits)

    def sections(self) -> Iterator[Section]:
        box = self.hits[0].box if self.hits else None
        yield self.section([box] if box else [])

    def section(self, boxes: Sequence["Box"]) -> Section:
        """Return the hits as a section of a page, with boxes drawn into the image."""
        entries = [self._entry(hit) for hit in self.hits]
        return Section(boxes, entries, "" if self.hits else _NO_HITS, self.image, self.asked)

    def _entry(self, hit: "Hit") -> Entry:
        note = "" if hit.probability is None else f"({100 * hit.probability:.0f} %) "
        if hit.inliers:
            note += f"{hit.inliers} inliers "
        if hit.others:
            note += f"+{hit.others} "
        file = os.path.join(self.manifest.catalog, hit.path)
        drawing = self.draw(hit) if hit.inliers else None
        return Entry(f"{hit.score:.3f}", hit.path, hit.rank, note, file, drawing, _details(hit))


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """Hits of each item in an image: of `query --objects`; otherwise as `FoundHits`."""

    objects: Sequence["ObjectHits"]
    manifest: "Manifest"
    draw: Callable[["Hit"], "Pixels | None"]
    image: "QueryImage"
    rerank: str | None = None

    def to_json(self) -> dict[str, Any]:
        return {**_rerank(self.rerank), "objects": [found.to_json() for found in self.objects]}

    def rows(self) -> Iterator[Sequence[object]]:
        for found in self.objects:
            box = " ".join(map(str, found.box.to_json()))
            yield from ((*_hit_row(hit), box) for hit in found.hits)

    def paths(self, query: str) -> Iterator[str]:  # noqa: ARG002
        yield from (hit.path for found in self.objects for hit in found.hits)

    def tables(self, title: str) -> Iterator[TextTable]:
        yield TextTable(title, empty="" if self.objects else _NO_OBJECTS)
        for number, found in enumerate(self.objects, start=1):
            score = "" if found.score is None else f", {found.score:.2f} sure"
            head = f"item {number} of {len(self.objects)}  {_place(found.box)}{score}"
            yield _hit_table(head, found.hits)

    def sections(self) -> Iterator[Section]:
        if not self.objects:
            yield Section(message=_NO_OBJECTS, image=self.image)
        for found in self.objects:
            yield FoundHits(found.hits, self.manifest, self.draw, self.image).section([found.box])


def hit_columns(
    *,
    with_probability: bool = False,
    with_others: bool = False,
    with_matched: bool = False,
    with_moved: bool = False,
    with_boxes: bool = False,
) -> tuple[str, ...]:
    """Return the columns of CSV for hits: `with_others` of distinct ones, `with_boxes` of `FoundObjects`."""
    columns = ["query", "rank", "path", "score", "distance", "product", "category"]
    more = {"probability": with_probability, "others": with_others, "matched": with_matched}
    more |= {"moved": with_moved, "box": with_boxes}
    return (*columns, *(name for name, is_there in more.items() if is_there))


def _asked(asked: Asked | None) -> dict[str, Any]:
    return {} if asked is None else asked.to_json()


def _rerank(state: str | None) -> dict[str, Any]:
    return {} if state is None else {"rerank": state}


def _hit_row(hit: "Hit") -> Sequence[object]:
    more = [] if hit.probability is None else [f"{hit.probability:.6f}"]
    more += [] if hit.others is None else [str(hit.others)]
    more += [] if hit.matched is None else [_matched(hit.matched, 6)]
    more += [] if hit.moved is None else [_moved(hit.moved, 6)]
    return hit.rank, hit.path, f"{hit.score:.6f}", f"{hit.distance:.6f}", hit.product, hit.category, *more


def _details(hit: "Hit") -> list[str]:
    """Return title, product and category of a hit, where they say more than its path, and why it was found."""
    path = PurePosixPath(hit.path)
    said = {hit.path, path.name, path.stem, str(path.parent / path.stem), str(path.parent), path.parent.name}
    texts = [str(hit.metadata.get("title") or ""), hit.product, hit.category]
    matched = [_matched(hit.matched, 2)] if hit.matched else []
    moved = [] if hit.moved is None else [f"moved by {_moved(hit.moved, 2) or 'nothing'}"]
    return [*(text for text in dict.fromkeys(texts) if text and text not in said), *matched, *moved]


def _matched(matched: Mapping[str, float], digits: int) -> str:
    """Spell what each part of a question gave a hit: `picture=0.71 title=0.42`."""
    return " ".join(f"{part}={score:.{digits}f}" for part, score in matched.items())


def _moved(moved: Mapping[str, float], digits: int) -> str:
    """Spell what moved a hit in a learned order: `price=+0.31 color=-0.10`."""
    return " ".join(f"{feature}={change:+.{digits}f}" for feature, change in moved.items())


def _hit_table(title: str, hits: Sequence["Hit"]) -> TextTable:
    # A product's default name is its path without the ending: not worth a column of its own.
    named = any(not hit.path.startswith(hit.product + ".") for hit in hits)
    verified = any(hit.inliers is not None for hit in hits)
    distinct = any(hit.others is not None for hit in hits)

    def row(hit: "Hit") -> dict[str, str]:
        return {
            "#": str(hit.rank),
            "score": f"{hit.score:.3f}",
            **({"probability": f"{hit.probability:.2f}"} if hit.probability is not None else {}),
            **({"inliers": "" if hit.inliers is None else str(hit.inliers)} if verified else {}),
            **({"color": f"{hit.color_difference:.0f}"} if hit.color_difference is not None else {}),
            "image": hit.path,
            **({"product": hit.product} if named else {}),
            "category": hit.category,
            **({"others": str(hit.others)} if distinct else {}),
            **({"matched": _matched(hit.matched, 2)} if hit.matched is not None else {}),
            **({"moved": _moved(hit.moved, 2)} if hit.moved is not None else {}),
        }

    rows = [row(hit) for hit in hits]
    return TextTable(title, list(rows[0]) if rows else (), [list(row.values()) for row in rows], _NO_HITS)


def _place(box: "Box") -> str:
    return f"{box.width} x {box.height} pixels at {box.x},{box.y}"
