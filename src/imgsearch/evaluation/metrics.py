"""Measures of retrieval, by their standard names."""

from collections.abc import Sequence


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
