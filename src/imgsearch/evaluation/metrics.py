"""Measures of retrieval by their standard names, from the ranks of a query's relevant items; docs/metrics.md.

`ranks`: int64 (found,), ascending, from 1. `relevant_count`: how many relevant items there are, at least 1; those that
were never found count against the query. The mean over queries of a value is the measure.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ranks = NDArray[np.int64]


def measures(ranks: Ranks, relevant_count: int) -> dict[str, float]:
    """Compute every measure of one query, by its flat name, 0 to 1.

    Manning, Raghavan, Schuetze: Introduction to Information Retrieval, 2008, chapter 8; MAP@R is from Musgrave,
    Belongie, Lim: A Metric Learning Reality Check, 2020; nDCG from Jaervelin and Kekaelaeinen: Cumulated Gain-Based
    Evaluation of IR Techniques, 2002, with gains of 0 and 1.
    """
    _check(ranks, relevant_count)
    first = int(ranks[0]) if len(ranks) else None
    return {
        **{f"hit_rate@{k}": hit_rate([first], k) for k in (1, 5, 10)},
        **{f"recall@{k}": recall(ranks, relevant_count, k) for k in (10, 100)},
        **{f"precision@{k}": _found(ranks, k) / k for k in (1, 10)},
        "r_precision": _found(ranks, relevant_count) / relevant_count,
        "map": float(_precisions(ranks).sum()) / relevant_count,
        "map@r": float(_precisions(ranks[ranks <= relevant_count]).sum()) / relevant_count,
        "mrr": 1 / first if first else 0.0,
        "ndcg@10": _gain(ranks[ranks <= 10]) / _gain(np.arange(1, min(10, relevant_count) + 1)),
    }


def recall(ranks: Ranks, relevant_count: int, k: int) -> float:
    """Return which share of a query's relevant items is among the first k."""
    return _found(ranks, k) / relevant_count


def precision_at_recall(ranks: Ranks, relevant_count: int) -> NDArray[np.float64]:
    """Compute the interpolated precision of one query at recall 0, 0.1, .. 1 (Manning et al., 2008, 8.4): (11,)."""
    _check(ranks, relevant_count)
    best_from = np.maximum.accumulate(_precisions(ranks)[::-1])[::-1]
    # Whole numbers: 0.3 * 10 relevant items must be 3, not a little more.
    needed = np.maximum(1, -(-np.arange(11) * relevant_count // 10))
    levels: NDArray[np.float64] = np.append(best_from, 0.0)[np.minimum(needed - 1, len(ranks))]
    return levels


def hit_rate(ranks: Sequence[int | None], k: int) -> float:
    """Return the share of queries whose first relevant item, of the given rank or None, is among the first k."""
    if not ranks or k < 1:
        raise ValueError(f"queries and k must be at least 1, got {len(ranks)} queries and k = {k}")
    return sum(rank is not None and rank <= k for rank in ranks) / len(ranks)


def _check(ranks: Ranks, relevant_count: int) -> None:
    if relevant_count < max(1, len(ranks)):
        raise ValueError(f"relevant_count must be at least {max(1, len(ranks))}, got {relevant_count}")
    if np.any(np.diff(ranks, prepend=0) < 1):
        raise ValueError("ranks must ascend from 1")


def _found(ranks: Ranks, k: int) -> int:
    return int(np.searchsorted(ranks, k, side="right"))


def _precisions(ranks: Ranks) -> NDArray[np.float64]:
    return np.arange(1, len(ranks) + 1) / ranks


def _gain(ranks: Ranks) -> float:
    return float((1 / np.log2(1 + ranks)).sum())
