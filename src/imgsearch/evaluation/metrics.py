"""Measures of retrieval, by their standard names."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
    places = np.flatnonzero(relevant)
    if not len(places):
        raise ValueError("expected a right answer somewhere in the ranking, found none")
    return float(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
