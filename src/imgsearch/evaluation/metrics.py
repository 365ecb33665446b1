"""Measures of retrieval, by their standard names. docs/metrics.md has their formulas.

What is measured of one query is where its right answers stand in the ranking of everything there is:

- `ranks`: int64 of shape (found,), ascending, from 1: their places. Empty if none was found.
- `right_answers`: how many there are; those beyond `len(ranks)` were never found, and count against the query.

The mean over queries of a value is the measure. (MRR and mAP have that mean in their names: `mrr` of one query is its
reciprocal rank, `map` its average precision.)
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]


def measures(ranks: Ranks, right_answers: int) -> dict[str, float]:
    """Compute every measure of one query.

    Manning, Raghavan, Schuetze: Introduction to Information Retrieval, 2008, chapter 8; MAP@R is from Musgrave,
    Belongie, Lim: A Metric Learning Reality Check, 2020; nDCG from Jaervelin and Kekaelaeinen: Cumulated Gain-Based
    Evaluation of IR Techniques, 2002, with gains of 0 and 1.

    Args:
        ranks: int64 of shape (found,), ascending, from 1: places of the right answers.
        right_answers: How many there are, at least 1.

    Returns:
        Flat name -> value, 0 to 1. All are 0 if no right answer was found.

    Raises:
        ValueError: There is no right answer, there are fewer than were found, or `ranks` do not ascend from 1.
    """
    _check(ranks, right_answers)
    first = int(ranks[0]) if len(ranks) else None
    return {
        **{f"hit_rate@{k}": hit_rate([first], k) for k in (1, 5, 10)},
        **{f"recall@{k}": _recall(ranks, right_answers, k) for k in (10, 100)},
        **{f"precision@{k}": _precision(ranks, k) for k in (1, 10)},
        "r_precision": _precision(ranks, right_answers),
        "map": _average_precision(ranks, right_answers),
        "map@r": _average_precision(ranks[ranks <= right_answers], right_answers),
        "mrr": 1 / first if first else 0.0,
        "ndcg@10": _ndcg(ranks, right_answers, 10),
    }


def precision_at_recall(ranks: Ranks, right_answers: int) -> NDArray[np.float64]:
    """Compute the interpolated precision of one query at eleven levels of recall (Manning et al., 2008, 8.4).

    Args:
        ranks: int64 of shape (found,), ascending, from 1: places of the right answers.
        right_answers: How many there are, at least 1.

    Returns:
        float64 of shape (11,), at recall 0, 0.1, .. 1: the best precision at that recall or a higher one, 0 to 1,
        never rising; 0 where so many right answers were never found.

    Raises:
        ValueError: As `measures`.
    """
    _check(ranks, right_answers)
    best_from = np.maximum.accumulate(_precisions(ranks)[::-1])[::-1]
    # Whole numbers: 0.3 * 10 right answers must be 3, not a little more.
    needed = np.maximum(1, -(-np.arange(11) * right_answers // 10))
    levels: NDArray[np.float64] = np.append(best_from, 0.0)[np.minimum(needed - 1, len(ranks))]
    return levels


def hit_rate(ranks: Sequence[int | None], k: int) -> float:
    """Share of queries with a right answer among the first k (the Recall@k of the metric-learning papers).

    Args:
        ranks: For each query, the place of its first right answer, from 1; None if there was none.
        k: How many answers count; at least 1.

    Returns:
        0 to 1.

    Raises:
        ValueError: There are no queries, or k is below 1.
    """
    if not ranks or k < 1:
        raise ValueError(f"expected queries and k of at least 1, found {len(ranks)} queries and k = {k}")
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def average_precision(relevant: NDArray[np.bool_]) -> float:
    """Mean of the precision at the place of each right answer, over a ranking of everything there is.

    Its mean over queries is mAP (Manning, Raghavan, Schuetze: Introduction to Information Retrieval, 2008, 8.4).

    Args:
        relevant: Whether the answer at each place is right, best first; at least one is.

    Returns:
        0 to 1.

    Raises:
        ValueError: No answer is right: then there is no such mean.
    """
    ranks = np.flatnonzero(relevant) + 1
    if not len(ranks):
        raise ValueError("expected a right answer somewhere in the ranking, found none")
    return _average_precision(ranks, len(ranks))


def _check(ranks: Ranks, right_answers: int) -> None:
    if right_answers < max(1, len(ranks)):
        raise ValueError(f"expected at least {max(1, len(ranks))} right answers, found {right_answers}")
    if np.any(np.diff(ranks, prepend=0) < 1):
        raise ValueError("expected ranks that ascend from 1")


def _found(ranks: Ranks, k: int) -> int:
    """Count the right answers among the first k."""
    return int(np.searchsorted(ranks, k, side="right"))


def _recall(ranks: Ranks, right_answers: int, k: int) -> float:
    return _found(ranks, k) / right_answers


def _precision(ranks: Ranks, k: int) -> float:
    return _found(ranks, k) / k


def _precisions(ranks: Ranks) -> NDArray[np.float64]:
    """Return the precision at the place of each right answer."""
    return np.arange(1, len(ranks) + 1) / ranks


def _average_precision(ranks: Ranks, right_answers: int) -> float:
    return float(_precisions(ranks).sum()) / right_answers


def _ndcg(ranks: Ranks, right_answers: int, k: int) -> float:
    def gain(places: Ranks) -> float:
        return float((1 / np.log2(1 + places)).sum())

    return gain(ranks[ranks <= k]) / gain(np.arange(1, min(k, right_answers) + 1))
