"""What an index is asked for, and what it answers."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from imgsearch.encoders.class_probability import ClassProbability
from imgsearch.errors import require_between
from imgsearch.images.boxes import Box
from imgsearch.store.conditions import Conditions

# How much less a neighbor counts with each step in its score: 0.07 in the nearest-neighbor classifier of Wu et al.
# (Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, section 3.4).
_TEMPERATURE = 0.07

# So many of the first hits are compared by re-ranking. Fifty take more time and put hardly more right answers first
# (docs/benchmarks.md has the figures).
CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class Filter(Conditions):
    """What hits must satisfy.

    Attributes:
        where: SQL expression over path, product, category and the shop's columns; empty for none.
        category: Its category, or one that this one lies in (`shoes` has `shoes/boots`); empty for any.
        color: One of its main colors, as `#1e6fb8` or one of the names in `colors.NAMES`; empty for any.
        ranges: Of columns of numbers or dates.
        min_score: Leave out hits below this cosine, -1 to 1.
        min_probability: Leave out hits that are right with a lower probability, 0 to 1; needs a calibrated index
            (`imgsearch evaluate --calibrate`).
    """

    min_score: float | None = None
    min_probability: float | None = None

    def __post_init__(self) -> None:
        if self.min_score is not None:
            require_between("min_score", self.min_score, -1, 1)
        if self.min_probability is not None:
            require_between("min_probability", self.min_probability, 0, 1)

    @property
    def conditions(self) -> Conditions:
        """What is asked of the items, without the limits of scores."""
        return Conditions(self.where, self.category, self.color, self.ranges)

    @property
    def has_limits(self) -> bool:
        """Whether it leaves out hits by their score or probability."""
        return self.min_score is not None or self.min_probability is not None


NO_FILTER = Filter()


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer.

    Attributes:
        rank: Place, from 1.
        path: POSIX path of the image below the catalog's root.
        score: Cosine of the angle between query and image in the searched space, -1 to 1; with words in the query, and
            of a recommendation, what `matched` says, weighed together, in the same range.
        distance: Euclidean distance of two unit vectors with this cosine, 0 to 2.
        product: What it shows.
        category: Where it belongs.
        metadata: The shop's other data.
        probability: That the hit is right, 0 to 1; None if the index is not calibrated
            (`imgsearch evaluate --calibrate`).
        box: The part of the query that it resembles, in pixels of the query, upright; None for all of it.
        color_difference: How far its nearest main color is from the one that was asked for as `#1e6fb8`, in CIEDE2000;
            None where none was.
        others: How many other images of the same product, or with the same value of the column of which hits are
            distinct, satisfy the conditions, without those that were asked with; None where nobody asked for distinct
            hits.
        inliers: How many points of the query lie in it as they do in one plane; None without re-ranking, and where
            its image is not there to be compared.
        matched: With words in the query, what each part of it gives the hit: `picture`, `title` (the item's own words),
            or `predicted` (words predicted from its picture), or `text` (its picture itself, by a joint model),
            cosines; `words`, which share of the words it has as they are spelled, rare ones counting more. Parts that
            say nothing about it are not there. Of a recommendation what each way gives it: `content`,
            `collaborative`, `popular`. None without either.
        moved: What moved it most in a learned order that explains itself: by the name of a feature
            (`personal.ranking.features`), by how much it raised what hits are ordered by, or lowered it below 0; the
            largest first. None without.
    """

    rank: int
    path: str
    score: float
    distance: float
    product: str
    category: str
    metadata: dict[str, Any]
    probability: float | None = None
    box: Box | None = None
    inliers: int | None = None
    others: int | None = None
    color_difference: float | None = None
    matched: Mapping[str, float] | None = None
    moved: Mapping[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the hit as the object that JSON has (docs/output-format.md); what is None is not there."""
        # Not `asdict`, which copies all metadata, and takes longer than the search.
        facts = {each.name: getattr(self, each.name) for each in fields(self)}
        facts |= {"score": round(self.score, 6), "distance": round(self.distance, 6)}
        if self.color_difference is not None:
            facts["color_difference"] = round(self.color_difference, 2)
        if self.probability is not None:
            facts["probability"] = round(self.probability, 6)
        if self.box is not None:
            facts["box"] = self.box.to_json()
        if self.matched is not None:
            facts["matched"] = {part: round(score, 6) for part, score in self.matched.items()}
        if self.moved is not None:
            facts["moved"] = {feature: round(change, 6) for feature, change in self.moved.items()}
        return {name: fact for name, fact in facts.items() if fact is not None}


@dataclass(frozen=True, slots=True)
class ObjectHits:
    """An item in a query, and what resembles it.

    Attributes:
        box: Where, in pixels of the query, upright.
        score: How sure the detector is that there is an item, 0 to 1; None without a detector.
        hits: Best first.
    """

    box: Box
    score: float | None
    hits: list[Hit]

    def to_json(self) -> dict[str, Any]:
        """Return the item as the object that JSON has."""
        score = {} if self.score is None else {"score": round(self.score, 6)}
        return {"box": self.box.to_json(), **score, "hits": [hit.to_json() for hit in self.hits]}


def rerank_state(compared: Sequence[Hit]) -> str:
    """Say, for JSON, how many of the hits to compare with the query could be compared: `done`, `partial`..."""
    is_compared = {hit.inliers is not None for hit in compared}
    return "skipped" if is_compared == {False} else "partial" if False in is_compared else "done"


def vote(hits: Sequence[Hit], label: Callable[[Hit], str] = lambda hit: hit.category) -> list[ClassProbability]:
    """Let hits, best first, vote for their categories, the nearer with the more weight; shares of the votes, sorted."""
    weights: Counter[str] = Counter()
    for hit in hits:
        weights[label(hit)] += math.exp((hit.score - hits[0].score) / _TEMPERATURE)  # type: ignore[assignment]  # a Counter counts in floats, too
    total = sum(weights.values())
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return [ClassProbability(rank, label, weight / total) for rank, (label, weight) in enumerate(ordered, start=1)]
