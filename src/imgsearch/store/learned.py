"""What was learned from events, beside the arrays that hold it: how recommendations are made, how hits are ordered."""

from dataclasses import dataclass
from typing import Annotated, Literal

from imgsearch.records import Count, Share, between

_Weight = Annotated[float, between(0)]


@dataclass(frozen=True, slots=True)
class Blend:
    """How much each way to recommend counts in the mean of all: at least 0, together 1."""

    content: Share
    collaborative: Share
    popular: Share


@dataclass(frozen=True, slots=True)
class RecommendFacts:
    """How recommendations are made, and what they were learned from; the arrays are in `recommend.npz`."""

    learner: Literal["ease", "als"]  # of which products the same people want
    blend: Blend  # the one that was best in the last week, which was held out
    half_life: Annotated[float, between(0.01)]  # days after which an event counts half
    newest: int  # time of the newest event: microseconds since 1970, UTC
    events: Count  # that were learned from
    users: Count
    products: Count  # of the catalog that there were events of
    queries: Count  # people of the held-out week that the figures below are means over; 0: there were too few
    gain: float  # nDCG@10 of the blend in that week, less that of the most popular products


@dataclass(frozen=True, slots=True)
class RankingFacts:
    """How hits are ordered, and what that was learned from; the arrays are in `ranking.npz`."""

    learner: Literal["lambdamart", "linear"]
    newest: int  # time of the newest click: microseconds since 1970, UTC
    answers: Count  # with clicks, that were learned from
    queries: Count  # held-out answers that the gain is a mean over
    gain: float  # nDCG@10 of the order, less that of the order of scores, both by clicks weighed by their places
    eta: _Weight  # how fast people look less at later places: as 1 / place ** eta
