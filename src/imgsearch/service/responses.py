"""What the service answers, for /openapi.json; the answers themselves are made in `answers.py` and `app.py`.

Tests hold real answers to these classes. A field that is `Missing` is left out where there is nothing to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from imgsearch.records import Check, Count, Key, Missing, Share, between
from imgsearch.service.requests import Token

Numbers = Annotated[tuple[Count, ...], Check("four numbers", lambda box: len(box) == 4, {"minItems": 4, "maxItems": 4})]
Rank = Annotated[int, between(1)]


@dataclass(frozen=True, slots=True)
class AnsweringIndex:
    """The generation of the index that answered.

    Attributes:
        generation: Its number; a new one is answered from as soon as it is published.
        count: How many images it holds.
        encoder: What makes its vectors.
    """

    generation: int
    count: Count
    encoder: str


@dataclass(frozen=True, slots=True)
class FoundHit:
    """An image of the catalog.

    Attributes:
        rank: Place, from 1.
        path: Of the image, relative to the catalog.
        score: Cosine of the angle between query and image, -1 to 1.
        distance: Euclidean distance of two unit vectors with this cosine, 0 to 2.
        product: What it shows.
        category: Where it belongs.
        metadata: The shop's other data.
        url: Of the item, relative to the service; with `/image` and `/thumbnail` behind it that of its pictures.
        probability: That the hit is right; where the index is calibrated.
        box: The part of the query that it resembles, in pixels, upright; where it is not all of it.
        inliers: How many points it has in common with the query; with `rerank`, where it could be compared.
        others: How many other images of the product, or with the same value, match; with `by` or `distinct`.
        color_difference: How far its nearest main color is from the one asked for as `#1e6fb8`, in CIEDE2000.
        matched: What each part of the question gave it; with words in the question.
    """

    rank: Rank
    path: str
    score: float
    distance: float
    product: str
    category: str
    metadata: Mapping[str, Any]
    url: str
    probability: Annotated[Share, Missing(None)]
    box: Annotated[Numbers, Missing(None)]
    inliers: Annotated[Count, Missing(None)]
    others: Annotated[Count, Missing(None)]
    color_difference: Annotated[float, Missing(None)]
    matched: Annotated[Mapping[str, float], Missing(None)]


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An item in the query, and what resembles it.

    Attributes:
        box: Where it is, in pixels, upright.
        score: How sure the detector is; where the index has one.
        hits: Best first.
    """

    box: Numbers
    hits: tuple[FoundHit, ...]
    score: Annotated[Share, Missing(None)]


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    """What was found.

    Attributes:
        id: What feedback to this answer is given by.
        query: The item or words that were asked with, or `image`.
        plan: The backend that answered, or `exact`.
        matching: How many images satisfy the filter, where it is known.
        seconds: How long the search took; of an answer from the cache, how long it had taken.
        index: The generation of the index that answered.
        text: The words that were asked with.
        rerank: Whether all of the first hits could be compared, some, or none.
        hits: Best first; not there with `objects`.
        objects: In reading order; with `objects` in place of `hits`.
    """

    id: Token
    query: str
    plan: str
    seconds: float
    index: AnsweringIndex
    matching: Annotated[Count, Missing(None)]
    text: Annotated[tuple[str, ...], Missing(None)]
    rerank: Annotated[Literal["done", "partial", "skipped"], Missing(None)]
    hits: Annotated[tuple[FoundHit, ...], Missing(None)]
    objects: Annotated[tuple[FoundObject, ...], Missing(None)]


@dataclass(frozen=True, slots=True)
class FoundClass:
    """A category or product that an image may show.

    Attributes:
        rank: Place, from 1.
        class_: Its name.
        probability: Share of the votes, or what the model says.
    """

    rank: Rank
    class_: Annotated[str, Key("class")]
    probability: Share


@dataclass(frozen=True, slots=True)
class RecognizeAnswer:
    """What an image shows.

    Attributes:
        query: The item that was asked with, or `image`.
        seconds: How long it took.
        index: The generation of the index that answered.
        by: Who says so: the nearest images, by a vote, or a trained model.
        categories: The most probable first.
        products: Likewise; none by a model.
    """

    query: str
    seconds: float
    index: AnsweringIndex
    by: Literal["neighbors", "model"]
    categories: tuple[FoundClass, ...]
    products: tuple[FoundClass, ...]


@dataclass(frozen=True, slots=True)
class ItemAnswer:
    """What the index has of an image.

    Attributes:
        path: Relative to the catalog.
        product: What it shows.
        category: Where it belongs.
        metadata: The shop's other data.
        url: Of the item, relative to the service.
    """

    path: str
    product: str
    category: str
    metadata: Mapping[str, Any]
    url: str


@dataclass(frozen=True, slots=True)
class CountedCategory:
    """A category.

    Attributes:
        name: As the index has it.
        count: How many images are in it.
    """

    name: str
    count: Count


@dataclass(frozen=True, slots=True)
class FilterColumn:
    """A column of the shop's data that a range can be asked of.

    Attributes:
        name: As a request names it.
        kind: What its values are: numbers or dates.
        low: The least of them.
        high: The greatest of them.
    """

    name: str
    kind: str
    low: Annotated[Any, Missing(None)]
    high: Annotated[Any, Missing(None)]


@dataclass(frozen=True, slots=True)
class IndexAnswer:
    """What the index holds, and what can be asked of it.

    Attributes:
        generation: Its number.
        count: How many images it holds.
        encoder: What makes its vectors.
        version: Of imgsearch.
        has_words: Whether `text` can be asked with.
        is_calibrated: Whether hits have a probability.
        feedback: Whether feedback can be kept.
        model: Whether a trained model recognizes.
        categories: The most frequent ones, at most 200.
        columns: Of numbers and dates, for `range`.
        colors: The names that `color` takes.
    """

    generation: int
    count: Count
    encoder: str
    version: str
    has_words: bool
    is_calibrated: bool
    feedback: bool
    model: bool
    categories: tuple[CountedCategory, ...]
    columns: tuple[FilterColumn, ...]
    colors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was deleted.

    Attributes:
        forgotten: How many judgments.
    """

    forgotten: Count


@dataclass(frozen=True, slots=True)
class State:
    """The server runs.

    Attributes:
        status: That it does.
    """

    status: Literal["ok"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no answer, as RFC 9457 says it.

    Attributes:
        type: Always `about:blank`: the status says what kind of problem it is.
        title: The status in words.
        status: Of the response.
        detail: What was expected, and what was found.
        hint: What to do about it.
        code: The exit code that the program has for this error.
        cause: Why an image cannot be used, in one word.
    """

    type: Literal["about:blank"]
    title: str
    status: Annotated[int, between(400, 599)]
    detail: str
    hint: Annotated[str, Missing(None)]
    code: Annotated[int, Missing(None)]
    cause: Annotated[str, Missing(None)]
