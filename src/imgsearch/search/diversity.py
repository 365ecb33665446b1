"""Hits that are not ten times the same: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998)."""

from collections.abc import Sequence

import numpy as np

from imgsearch.encoders.runtime import Embeddings

# So many times the hits that are wanted are chosen from.
POOL = 5


def diverse_order(scores: Sequence[float], vectors: Embeddings, k: int, relevance: float) -> list[int]:
    """Choose k of some candidates, best first, that are near the query but not near one another.

    Each next one has the most of: its score times `relevance`, less the highest cosine with one that was chosen times
    `1 - relevance`.

    Args:
        scores: Cosines with the query, or what else they are ranked by, highest first.
        vectors: Those of the candidates, unit float32 (n, d).
        k: How many to choose at most.
        relevance: 0 to 1; 1 leaves the order as it is.

    Returns:
        Places in `scores`; the first is 0, the best one.
    """
    left = np.asarray(scores, np.float64) * relevance
    nearest = np.full(len(left), -np.inf)
    order = list(range(min(1, len(left), k)))
    while order and len(order) < min(k, len(left)):
        nearest = np.maximum(nearest, vectors @ vectors[order[-1]])
        worth = left - (1 - relevance) * nearest
        worth[order] = -np.inf
        order.append(int(worth.argmax()))  # of equal ones the first, which is the better hit
    return order
