"""What an evaluation found: plain data, for tables, files, reports and gates."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from imgsearch.evaluation.bootstrap import Interval
from imgsearch.search.recall import Latency
from imgsearch.store.calibration import Calibration

Values = NDArray[np.float64]
# Where the queries and their right answers come from: other items of the same label, images and their right answers
# that the user gives, photo-like variants of the catalog's own images.
Kind = Literal["labels", "queries", "self-test"]


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What one setting of the backend finds, and what it takes.

    Attributes:
        effort: `search_k` of Annoy, or `probes` of Faiss.
        recall: Mean recall of the 10 nearest, 0 to 1.
        latency: Of a search.
    """

    effort: int
    recall: float
    latency: Latency


@dataclass(frozen=True, slots=True)
class IndexRecall:
    """How many of the truly nearest the index finds, and how fast.

    Attributes:
        plan: `annoy`, `exact` or `faiss`: how the index answers.
        queries: Paths of the items that were asked for.
        recall: k -> (queries,), the share of the k nearest that were found for each query, 0 to 1.
        latency: k -> of a search for k.
        exact: Latency of comparing with every vector, for the 10 nearest.
        curve: By rising effort. A small index that is searched without a forest is given one for the purpose; empty
            where that was not to be, cannot be, or would take long.
    """

    plan: str
    queries: tuple[str, ...]
    recall: Mapping[int, Values]
    latency: Mapping[int, Latency]
    exact: Latency
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True, slots=True)
class JudgedHit:
    """One of the first hits of a query.

    Attributes:
        path: POSIX path of the image below the catalog's root.
        label: Of the item: its category, product, or another column.
        score: Cosine, -1 to 1.
        right: Whether it is a right answer.
        category: Of the item; may be empty.
    """

    path: str
    label: str
    score: float
    right: bool
    category: str = ""


@dataclass(frozen=True, slots=True)
class Judged:
    """One query, and what came first.

    Attributes:
        query: POSIX path of the image: below the catalog's root, or below the folder of queries.
        label: What it shows, in the words of the label that is judged by.
        category: Category of what it shows, for the figures of each category; empty if there is none.
        right_answers: How many right answers there are.
        hits: The first ten, best first.
    """

    query: str
    label: str
    category: str
    right_answers: int
    hits: tuple[JudgedHit, ...]


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How good the answers are, by exact search.

    Attributes:
        kind: Where the queries and their right answers come from.
        label: The column that says what is right: `product`, `category` or a column of the shop's data.
        judged: The queries.
        measures: Name of a measure, such as `hit_rate@1` or `map`, -> (queries,): its value for each query, 0 to 1.
        precision_at_recall: (11,): mean interpolated precision at recall 0, 0.1, .. 1.
        without_right_answer: Items left out because no other has their label.
        unusable: Query images that could not be used: path and reason.
    """

    kind: Kind
    label: str
    judged: tuple[Judged, ...]
    measures: Mapping[str, Values]
    precision_at_recall: Values
    without_right_answer: int
    unusable: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reliability:
    """How probabilities compare with what was right, on queries they were not fitted on.

    Attributes:
        calibration: What was fitted, on all queries.
        probability: (bins,): mean probability of the hits in each bin.
        right: (bins,): share of them that were right.
        hits: (bins,): how many they were.
        error: Expected calibration error: the mean distance of the two, weighted by the hits; 0 to 1.
        error_at_1: The same for first hits alone.
    """

    calibration: Calibration
    probability: Values
    right: Values
    hits: NDArray[np.int64]
    error: float
    error_at_1: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Everything that was measured.

    Attributes:
        facts: Of the index: `generation`, `count`, `encoder`, `fingerprint`, `dims`, `plan`, and what belongs to that.
        setup: What makes two evaluations comparable: `kind` and `label` of the queries, how many items are a `sample`,
            and whether `recall` was measured.
        recall: Of the index; None if not asked for.
        retrieval: Quality of the answers; None if not asked for.
        reliability: Of probabilities; None if not asked for.
        figures: Every measure by its flat name: its mean, and its 95 % interval where it is a mean over queries.
        categories: Category -> some of the measures, and the number of its `queries`.
    """

    facts: Mapping[str, Any]
    setup: Mapping[str, Any]
    recall: IndexRecall | None
    retrieval: Retrieval | None
    reliability: Reliability | None
    figures: Mapping[str, Interval]
    categories: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
