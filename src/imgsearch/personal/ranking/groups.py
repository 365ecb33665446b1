"""What a ranking is learned from: of each answer with clicks the candidates, as features, and which were clicked."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.personal.ranking.clicks import MOST_JUDGED, Answer, click_weights
from imgsearch.personal.ranking.features import FEATURES, FeatureContext, Quantiles, features, renewed
from imgsearch.personal.ranking.past import Past
from imgsearch.progress import Progress
from imgsearch.search.hits import Hit
from imgsearch.search.index import Index
from imgsearch.search.ranking import Scores
from imgsearch.search.views import Indexed, View

logger = logging.getLogger(__name__)

# So many of the hits of each question are candidates: further ones are hardly looked at, or were not shown.
CANDIDATES = 50

_TOP = 10  # places that nDCG heeds


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Candidates, answer by answer, the oldest answer first; those of each in the order of its hits.

    Attributes:
        features: float32 (rows, F).
        starts: (answers + 1,): where the candidates of each answer begin, and where the last ends.
        gains: (rows,) how much a candidate was wanted, more at later places; 0 for those that were not clicked.
        places: (rows,) where it was shown; 0 where that is not known.
        times: (answers,) microseconds since 1970.
    """

    features: NDArray[np.float32]
    starts: NDArray[np.int64]
    gains: NDArray[np.float64]
    places: NDArray[np.int64]
    times: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.times)

    def taken(self, first: int, last: int) -> "Groups":
        """Return the answers from one to before another."""
        rows = slice(*self.starts[[first, last]].tolist())
        starts = self.starts[first : last + 1] - self.starts[first]
        return Groups(self.features[rows], starts, self.gains[rows], self.places[rows], self.times[first:last])

    def judged_by(self, eta: float) -> "Groups":
        """Return the same answers with all clicks alike, as orders are judged: weighed by their places alone."""
        return replace(self, gains=(self.gains > 0) * click_weights(self.places, eta, MOST_JUDGED))

    def hit_order(self) -> Scores:
        """Return (rows,) numbers that order the candidates as the search does."""
        return np.asarray(-np.arange(len(self.gains), dtype=np.float64))


def groups_of(
    index: Index,
    answers: Sequence[Answer],
    past: Past,
    quantiles: tuple[Quantiles, Quantiles],
    eta: float,
    *,
    progress: Progress,
) -> Groups:
    """Search for what was asked, and compute what was known of the candidates when each answer was shown.

    Answers are left out that nothing was clicked in that the search finds among its first, and those whose question
    the index cannot answer (anymore). Candidates are the products that were shown; all first ones where nothing says
    what was shown.
    """
    found: dict[int, _Group] = {}
    questions: dict[object, list[int]] = {}
    for number, answer in enumerate(answers):
        questions.setdefault(answer.asked if isinstance(answer.asked, str) else number, []).append(number)
    unanswered = done = 0
    for numbers in questions.values():
        try:
            question = _Question(index, [answers[number] for number in numbers], past, quantiles)
        except UsageError:
            unanswered += len(numbers)
        else:
            groups = ((number, question.group(answers[number])) for number in numbers)
            found |= {number: group for number, group in groups if group is not None}
        done += len(numbers)
        progress("rank", done, len(answers))
    if unanswered:
        logger.info("%d of %d answers are to questions that the index cannot answer", unanswered, len(answers))
    kept = sorted(found)
    ordered = [found[number] for number in kept]
    sizes = [len(group.gains) for group in ordered]
    places = np.concatenate([np.empty(0, np.int64), *(group.places for group in ordered)])
    return Groups(
        np.concatenate([np.empty((0, len(FEATURES)), np.float32), *(group.features for group in ordered)]),
        np.cumsum([0, *sizes], dtype=np.int64),
        np.concatenate([np.empty(0), *(group.gains for group in ordered)]) * click_weights(places, eta),
        places,
        np.array([answers[number].time for number in kept], np.int64),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    features: NDArray[np.float32]
    gains: NDArray[np.float64]
    places: NDArray[np.int64]


class _Question:
    """What one or several people asked: its hits, and the features that are the same for all of them."""

    def __init__(
        self,
        index: Index,
        answers: Sequence[Answer],
        past: Past,
        quantiles: tuple[Quantiles, Quantiles],
    ) -> None:
        self._index, self._past, self._quantiles = index, past, quantiles
        hits, views = _search(index, answers[0])
        at = index.items.rows_of_paths([hit.path for hit in hits])
        self._rows = np.array([at[hit.path] for hit in hits], np.int64)
        self._features = features(index, hits, views, FeatureContext(*quantiles))
        names = {name for answer in answers for name in (*answer.shown, *answer.gains)}
        self._row_of = index.items.first_rows_named(names | {hit.product for hit in hits})
        self._products = np.array([self._row_of[hit.product] for hit in hits], np.int64)

    def group(self, answer: Answer) -> _Group | None:
        """Return the candidates of an answer; None where none was clicked, or all were."""
        row_of, products = self._row_of, self._products.tolist()
        gain_of = {row_of[name]: gain for name, gain in answer.gains.items() if name in row_of}
        place_of = {row_of[name]: place for name, place in answer.shown.items() if name in row_of}
        kept = np.array([not answer.shown or row in place_of or row in gain_of for row in products], bool)
        gains = np.array([gain_of.get(row, 0.0) for row in products])[kept]
        if not gains.any() or gains.all():
            return None
        places = np.array([place_of.get(row, 0) for row in products], np.int64)[kept]
        rows, popularity = self._rows[kept], None
        if self._index.manifest.recommend is not None:
            popularity = np.zeros(self._index.manifest.count)
            popularity[rows] = self._past.popularity(self._products[kept], answer.time)
        history = self._past.history(answer.user, answer.time)
        context = FeatureContext(*self._quantiles, popularity, history)
        return _Group(renewed(self._features[kept], self._index, rows, context), gains, places)


def _search(index: Index, answer: Answer) -> tuple[list[Hit], list[View]]:
    """Return the hits of a question, one a product, and what was asked with."""
    if not isinstance(answer.asked, str):
        return index.search_vector(answer.asked, CANDIDATES, distinct="product"), [View(answer.asked)]
    if index.items.rows_named(answer.asked):
        asked = Indexed(answer.asked)
        return index.search_together([asked], CANDIDATES, distinct="product"), index.views(asked)
    return index.search_together(text=[answer.asked], k=CANDIDATES, distinct="product"), []


def gains_at_10(groups: Groups, scores: Scores) -> tuple[Scores, Scores]:
    """Return of each answer the gain of the order by scores, discounted by the place, and that of the best order.

    The sum of the first, as a share of the sum of the second, is nDCG@10 (Jaervelin and Kekaelaeinen: Cumulated
    Gain-Based Evaluation of IR Techniques, 2002) with clicks weighed by their places. Of all answers together: by a
    share of each answer, what was clicked last in one would count as what was clicked first in another.
    """
    return _discounted(groups, scores), _discounted(groups, groups.gains)


def _discounted(groups: Groups, scores: Scores) -> Scores:
    answers = np.repeat(np.arange(len(groups)), np.diff(groups.starts))
    # Stable: equal scores stay in the order of the hits.
    order = np.lexsort((-scores, answers))
    ranks = np.arange(len(order)) - groups.starts[answers]
    discounts = np.where(ranks < _TOP, 1 / np.log2(ranks + 2), 0)
    return np.asarray(np.bincount(answers, groups.gains[order] * discounts, len(groups)), np.float64)
