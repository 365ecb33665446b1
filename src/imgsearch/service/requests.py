"""What the service is asked: read from JSON, from the fields of a form, or from a query string.

The annotations of these classes are what is checked, and what /openapi.json says of requests (`openapi.py`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from reprlib import repr as shortened
from typing import Annotated, Any, Literal, TypeVar

from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.records import Check, Missing, Share, as_json, at_most, between, matching, read, schema_of
from imgsearch.search.given import box_of, filter_of, refuse_contradictions, regions_of
from imgsearch.search.hits import Filter
from imgsearch.search.ranking import TEXT_WEIGHT
from imgsearch.search.views import Regions

MOST_HITS = 200


def _is_encodable(text: str) -> bool:
    """Return whether a text can be the name of a file: bytes that are not UTF-8 are U+DC80 to U+DCFF in it."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


Text = Annotated[str, at_most(1000, "characters"), Check("text without NUL and lone surrogates", _is_encodable)]
Name = Annotated[str, at_most(4096, "characters"), Check("text without NUL and lone surrogates", _is_encodable)]
Texts = Annotated[tuple[Text, ...], at_most(20, "texts")]
Numbers = Annotated[
    tuple[Annotated[int, between(0, 999_999_999)], ...],
    Check(
        "[x, y, width, height] in whole pixels, with an area",
        lambda box: len(box) == 4 and box[2] > 0 and box[3] > 0,
        {"minItems": 4, "maxItems": 4},
    ),
]
Token = Annotated[str, matching("[0-9a-f]{32}", "32 hex digits")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the service is asked."""

    def require_sense(self, *, has_image: bool) -> None:
        """Raise `UsageError` for fields that do not go together; `has_image`: an image came with them."""


@dataclass(frozen=True, slots=True)
class SimilarRequest(Asked):
    """Which hits, and how many.

    Attributes:
        k: Maximum number of hits.
        where: SQL condition that hits must satisfy, on path, product, category, and the columns of the shop's data.
        category: Only hits of this category, or of one below it.
        color: Only hits of this main color, as `#1e6fb8` or a name such as blue or gray.
        range: Only hits with numbers or dates in these ranges, ends included, each as `COLUMN=LOW..HIGH`.
        by: One hit for each product, its best image; `k` counts products.
        distinct: One hit for each value of this column, the best.
        min_score: Only hits with this score (cosine) or a higher one.
        min_probability: Only hits that are right with this probability or a higher one; needs a calibrated index.
        exact: Compare with every image; slower, never misses.
        diverse: Hits that are not all alike; 1 looks at the score alone, 0 at the likeness to other hits.
        feedback: Move the query by the feedback that was given to similar ones.
        rank: Order hits as people's clicks have taught (`imgsearch train --objective rank`).
    """

    k: Annotated[int, between(1, MOST_HITS), Missing(5)] = 5
    where: Annotated[Text, Missing("")] = ""
    category: Annotated[Text, Missing("")] = ""
    color: Annotated[Text, Missing("")] = ""
    range: Annotated[Texts, Missing(())] = ()
    by: Annotated[Literal["product"] | None, Missing(None)] = None
    distinct: Annotated[Text, Missing("")] = ""
    min_score: Annotated[Annotated[float, between(-1, 1)] | None, Missing(None)] = None
    min_probability: Annotated[Share | None, Missing(None)] = None
    exact: Annotated[bool, Missing(False)] = False
    diverse: Annotated[Share | None, Missing(None)] = None
    feedback: Annotated[bool, Missing(False)] = False
    rank: Annotated[Literal["learned"] | None, Missing(None)] = None

    @property
    def filter(self) -> Filter:
        """What hits must satisfy."""
        filters = (self.where, self.category, self.color, self.range)
        return filter_of(*filters, None, self.min_score, self.min_probability)

    @property
    def limits(self) -> dict[str, Any]:
        """What all searches of an index take."""
        distinct = self.by or self.distinct
        return {"filter": self.filter, "exact": self.exact, "diverse": self.diverse, "distinct": distinct}

    def require_sense(self, *, has_image: bool) -> None:  # noqa: ARG002  # an item is asked with
        """Raise `UsageError` for fields that do not go together, or for a range that is none."""
        refuse_contradictions({**self._given(), "item": True})
        _ = self.filter

    def _given(self) -> dict[str, object]:
        """Return which fields were given."""
        given = as_json(self)
        return {**given, "diverse": self.diverse is not None}


@dataclass(frozen=True, slots=True)
class SearchRequest(SimilarRequest):
    """What to search with, beside an image, and which hits, and how many.

    Attributes:
        item: What is in the index, to ask with: the path of an image, or a product, which asks with all its images.
        text: Words to ask with, alone, or beside an image or item.
        text_weight: How much words count beside an image or item; 0.5 where it is not given.
        regions: Which parts of the image to search with, too: `auto` what stands out, `whole` none, or so many.
        box: The only part of the image to search with: left and upper edge, width and height, in pixels, upright.
        objects: Search for each item in the image separately.
        rerank: Compare points of the image with those of the first 20 hits, and put first what has the same; slower.
    """

    item: Annotated[Name, Missing("")] = ""
    text: Annotated[Texts, Missing(())] = ()
    text_weight: Annotated[Share | None, Missing(None)] = None
    regions: Annotated[
        str, matching("auto|whole|[1-9][0-9]?|1[0-9][0-9]|200", "auto, whole or 1 to 200"), Missing("auto")
    ] = "auto"
    box: Annotated[Numbers | None, Missing(None)] = None
    objects: Annotated[bool, Missing(False)] = False
    rerank: Annotated[Literal["geometric"] | None, Missing(None)] = None

    @property
    def parts(self) -> Regions:
        """Which parts of the image to search with, too."""
        return regions_of(self.regions)

    @property
    def limited_to(self) -> Box | None:
        """The only part of the image to search with."""
        return _as_box(self.box)

    @property
    def weight(self) -> float:
        """How much words count beside an image or item."""
        return TEXT_WEIGHT if self.text_weight is None else self.text_weight

    def require_sense(self, *, has_image: bool) -> None:
        """Raise `UsageError` for fields that do not go together, or have a value that means nothing."""
        _require_one_question("an image, item or text", self.item, has_image=has_image, text=self.text)
        refuse_contradictions({**self._given(), "image": has_image})
        _ = self.filter, self.parts

    def _given(self) -> dict[str, object]:
        given = as_json(self)
        more = {"text_weight": self.text_weight is not None, "regions": self.regions != "auto"}
        return {**given, "diverse": self.diverse is not None, **more}


@dataclass(frozen=True, slots=True)
class RecognizeRequest(Asked):
    """What to recognize, unless an image came along, and how.

    Attributes:
        item: What is in the index, to ask with: the path of an image, or a product.
        k: How many of the nearest images vote.
        box: The only part of the image to look at: left and upper edge, width and height, in pixels, upright.
    """

    item: Annotated[Name, Missing("")] = ""
    k: Annotated[int, between(1, MOST_HITS), Missing(20)] = 20
    box: Annotated[Numbers | None, Missing(None)] = None

    @property
    def limited_to(self) -> Box | None:
        """The only part of the image to look at."""
        return _as_box(self.box)

    def require_sense(self, *, has_image: bool) -> None:
        """Raise `UsageError` for fields that do not go together."""
        _require_one_question("an image or item", self.item, has_image=has_image)
        refuse_contradictions({"image": has_image, "item": self.item, "box": self.box})


@dataclass(frozen=True, slots=True)
class FeedbackRequest(Asked):
    """What somebody thinks of a hit.

    Attributes:
        answer: The `id` of the answer that it is in.
        path: The `path` of the hit.
        verdict: `chosen` for a hit that is right, `rejected` for one that is not, null to take back what was said.
    """

    answer: Token
    path: Name
    verdict: Literal["chosen", "rejected"] | None


R = TypeVar("R", bound=Asked)


def parsed(data: bytes) -> object:
    """Parse the body of a request that is JSON; `UsageError` for what is none."""
    try:
        found: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected JSON, found what is none: {error}") from error
    return found


def read_json(kind: type[R], data: object, *, has_image: bool = False) -> R:
    """Read a request from what `json.loads` returned.

    Args:
        kind: Its class.
        data: What the body holds.
        has_image: An image came with it.

    Raises:
        UsageError: A field is unknown, missing, or not what it must be, or fields do not go together.
    """
    for name in data if isinstance(data, dict) else ():
        _require_known(kind, name)
    try:
        request = read(kind, data)
    except ValueError as error:
        raise UsageError(str(error).replace(kind.__name__, "the request")) from error
    request.require_sense(has_image=has_image)
    return request


def read_form(kind: type[R], fields: Sequence[tuple[str, str]], *, has_image: bool = False) -> R:
    """Read a request from the fields of a form or of a query string; lists repeat a field, a box is `X,Y,W,H`.

    Args:
        kind: Its class.
        fields: Names and values.
        has_image: An image came with them.

    Raises:
        UsageError: As for `read_json`, and a field that is no list is there twice.
    """
    data: dict[str, Any] = {}
    for name, text in fields:
        schema = _require_known(kind, name)
        schema = schema.get("anyOf", [schema])[0]
        if schema.get("type") == "array" and name != "box":
            data.setdefault(name, []).append(text)
        elif name in data:
            raise UsageError(f"expected {name} once, found it more than once")
        else:
            data[name] = box_of(text).to_json() if name == "box" else _value(text, schema.get("type"))
    return read_json(kind, data, has_image=has_image)


def _value(text: str, kind: str | None) -> object:
    """Return what JSON has for a text; the text itself where it is none of the kind, which `read` then refuses."""
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    try:
        return int(text) if kind == "integer" else float(text) if kind == "number" else text
    except ValueError:
        return text


@cache
def _known_fields(kind: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = schema_of(kind)["properties"]
    return found


def _require_known(kind: Any, name: str) -> dict[str, Any]:
    """Return the schema of a field; `UsageError` where a request has none of that name."""
    known = _known_fields(kind)
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}" if near else f"the fields are {', '.join(known)}"
        raise UsageError(f"expected a field of the request, found {shortened(name)}", hint=hint)
    return known[name]


def _require_one_question(ways: str, item: str, *, has_image: bool, text: Sequence[str] = ()) -> None:
    if not (has_image or item or text):
        raise UsageError(f"expected {ways}, found none")
    if has_image and item:
        raise UsageError("expected an image or item, found both")


def _as_box(numbers: tuple[int, ...] | None) -> Box | None:
    return None if numbers is None else Box(*numbers)
