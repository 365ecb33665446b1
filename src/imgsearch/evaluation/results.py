"""What an evaluation found: plain data, for tables, files, reports and gates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgsearch.bootstrap import Interval
from imgsearch.evaluation.exposure import Exposure
from imgsearch.search.recall import Latency
from imgsearch.store.calibration import Calibration

Values = NDArray[np.float64]
# Where queries and their relevant items come from: items and others of the same label, images and ground truth of the
# user, photo-like variants of the catalog's own images, items' own words, columns of the shop's data.
Kind = Literal["labels", "queries", "self-test", "text", "text-columns"]
IN_WORDS: tuple[Kind, ...] = ("text", "text-columns")


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Recall and latency of a search at one setting of the backend."""

    setting: str  # its name: `search_k` of Annoy, `probes` of Faiss
    effort: int  # its value
    recall: float  # mean recall of the 10 nearest, 0 to 1
    latency: Latency


@dataclass(frozen=True, slots=True)
class IndexRecall:
    """How many of the true nearest neighbors the index finds, and how fast."""

    plan: str  # the backend, such as `annoy`
    queries: tuple[str, ...]  # paths of the items that were searched for
    recall: Mapping[int, Values]  # k -> (queries,), the share of the k nearest that was found, 0 to 1
    latency: Mapping[int, Latency]  # k -> of a search for k
    exact: Latency  # of comparing with every vector, for the 10 nearest
    # By rising effort. A small index that is searched without a forest is given one for the purpose; empty where the
    # user wants none, or it cannot be built quickly.
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class RankedHit:
    """One of the first hits of a query."""

    path: str  # POSIX path below the catalog's root
    label: str  # of the item: its category, product, or another column
    score: float  # -1 to 1: a cosine, or of words as `Hit.score`
    relevant: bool
    category: str = ""


@dataclass(frozen=True, slots=True)
class QueryResult:
    """One query and its first ten hits."""

    query: str  # POSIX path of the image, below the catalog's root or the folder of queries; or the text
    label: str  # of what it shows
    category: str  # of what it shows; may be empty
    relevant_count: int
    hits: tuple[RankedHit, ...]  # best first
    column: str = ""  # of the shop's data, which a text was read from


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How good the answers are, by exact search."""

    kind: Kind
    # The column that decides what is relevant: `product`, `category` or one of the metadata; `words` are own words.
    label: str
    results: tuple[QueryResult, ...]
    measures: Mapping[str, Values]  # name of a measure, such as `map` -> (queries,): its value for each query, 0 to 1
    precision_at_recall: Values  # (11,): mean interpolated precision at recall 0, 0.1, .. 1
    without_relevant: int  # items left out because no other has their label
    unusable: tuple[tuple[str, str], ...]  # query images that could not be used: path and reason


@dataclass(frozen=True, slots=True)
class PictureAndWord:
    """How well items are found by the picture of another and the one word in which their own words differ."""

    queries: tuple[str, ...]  # path of the picture, and the word
    # Flat name, such as `picture_and_word_map`, `picture_alone_map` or `word_alone_map` -> (queries,); empty: there are
    # too few queries.
    measures: Mapping[str, Values]


@dataclass(frozen=True, slots=True)
class Reliability:
    """How probabilities compare with the share of relevant hits, on queries that they were not fitted on."""

    calibration: Calibration  # fitted on all queries
    probability: Values  # (bins,): mean probability of the hits in each bin
    accuracy: Values  # (bins,): share of them that is relevant
    hits: NDArray[np.int64]  # (bins,): how many they are
    error: float  # expected calibration error: mean distance of the two, weighted by the hits; 0 to 1
    error_at_1: float  # the same for first hits alone


@dataclass(frozen=True, slots=True, eq=False)
class Recommendations:
    """How good recommendations are, to people who came back in the held-out week and wanted something new to them.

    Attributes:
        products: Of the index.
        new: How many of these have no events before.
        people: Numbers that stand for people, in the order of the values.
        measures: By a flat name such as `hybrid_ndcg@10`, the value of each person, or of each of `new_people`; 0 to 1,
            but for novelty, in bits.
        new_people: Those who wanted a new product.
        coverage: Of each method, the share of all products that it shows somebody.
        exposure: Of groups of products; None if not asked for.
    """

    products: int
    new: int
    people: Sequence[str]
    measures: Mapping[str, Values]
    new_people: Sequence[str]
    coverage: Mapping[str, float]
    exposure: Exposure | None = None


@dataclass(frozen=True, slots=True)
class JudgedOrder:
    """How well a ranking learned from the clicks before the held-out week orders the answers of that week.

    Attributes:
        learner: `lambdamart` or `linear`.
        eta: How fast people look less at later places, by which clicks are weighed; None: they are not, since too few
            say where they were.
        answers: With clicks, that were learned from.
        held_out: That were ordered.
        learned: nDCG@10 of the learned order, of all answers together.
        scores: Of the order of scores.
        gain: By how much the first is higher.
    """

    learner: str
    eta: float | None
    answers: int
    held_out: int
    learned: Interval
    scores: Interval
    gain: Interval


@dataclass(frozen=True, slots=True, eq=False)
class Personal:
    """How good what is learned from a log is, in its last week, which nothing is learned from.

    Attributes:
        since: When that week begins: microseconds since 1970, UTC.
        newest: Time of the newest event.
        before: How many events that say what people want of products of the index there are before that week.
        held_out: How many in it.
        recommendations: None if too few people came back.
        order: None if there are too few answers with clicks.
    """

    since: int
    newest: int
    before: int
    held_out: int
    recommendations: Recommendations | None
    order: JudgedOrder | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        facts: Of the index: `generation`, `count`, `encoder`, `fingerprint`, `dims`, `plan`, and its settings.
        setup: What makes two evaluations comparable: `kind` and `label` of the queries, how many items are a `sample`,
            whether `recall` was measured, and `regions`.
        recall: Of the index; None if not asked for.
        retrieval: Quality of the answers; None if not asked for.
        reliability: Of probabilities; None if not asked for.
        figures: Every measure by its flat name: its mean, and its 95 % interval where it is a mean over queries.
        categories: Category -> some of the measures, and the number of its `queries`.
        columns: The same of the columns that queries in words were read from.
        picture_and_word: Of queries with a picture and a word; None if not asked for.
        personal: Of what is learned from a log of events; None if not asked for.
    """

    facts: Mapping[str, Any]
    setup: Mapping[str, Any]
    recall: IndexRecall | None
    retrieval: Retrieval | None
    reliability: Reliability | None
    figures: Mapping[str, Interval]
    categories: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    picture_and_word: PictureAndWord | None = None
    personal: Personal | None = None
