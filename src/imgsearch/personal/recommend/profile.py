"""What somebody likes, as vectors: a few interests, clustered so that shoes and lamps do not average to nothing.

As in PinnerSage (Pal et al., KDD 2020), interests come of Ward's clustering of what the person did something with.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.search.backends.protocol import scores_of
from imgsearch.search.fusion import take_away
from imgsearch.search.ranking import Scores
from imgsearch.search.views import View
from imgsearch.store.arrays import blocks_of

MOST_INTERESTS = 5

# Weights count as this power, so that the tenth purchase says less than the first; and how far the cosine with an
# interest is from deciding alone: 0 would be the maximum, infinity the mean (docs/benchmarks.md).
_POWER = 0.5
_SOFTNESS = 0.4

# Rows that stay in the processor's cache while they are compared with one interest after the other.
_PART_ROWS = 256

# Of a mean of unit vectors. What is shorter is rounding: opposites that became one interest are none.
_SHORTEST = 1e-3

# So many products are clustered, those that count most: the time that takes grows with the square of their number.
_MOST_PRODUCTS = 100


def interests(
    vectors: Embeddings, weights: NDArray[np.float64], most: int = MOST_INTERESTS
) -> tuple[Embeddings, NDArray[np.float64]]:
    """Cluster what somebody likes.

    Args:
        vectors: Of products, unit float32 (n, d), n at least 1.
        weights: How much each counts, above 0.
        most: How many interests at most.

    Returns:
        Unit vectors (m, d), and the share of the weight that each has, the largest first.
    """
    counted = np.argsort(-weights, kind="stable")[:_MOST_PRODUCTS]
    vectors, shares = vectors[counted], weights[counted] / weights[counted].sum()
    interest = _clustered(vectors, shares, most)
    sums = {place: shares[interest == place] @ vectors[interest == place] for place in set(interest.tolist())}
    sizes = {place: float(shares[interest == place].sum()) for place in sums}
    lengths = {place: float(np.linalg.norm(sums[place])) for place in sums}
    kept = [
        place
        for place in sorted(sums, key=lambda place: (-sizes[place], place))
        if lengths[place] > _SHORTEST * sizes[place]
    ]
    if not kept:
        return vectors[:1], np.ones(1)
    centers = np.array([sums[place] / lengths[place] for place in kept], np.float32)
    found = np.array([sizes[place] for place in kept])
    return centers, found / found.sum()


def _clustered(vectors: Embeddings, shares: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """Return of each vector the first of its cluster; the two are merged again and again whose merging costs least.

    That is by how much the squared distances to centers grow (Ward, 1963), by the formula of Lance and Williams (1967).
    """
    count = len(vectors)
    cosines = vectors.astype(np.float64) @ vectors.T
    costs = np.multiply.outer(shares, shares) / np.add.outer(shares, shares) * (2 - 2 * cosines)
    np.fill_diagonal(costs, np.inf)
    cluster, sizes = np.arange(count), shares.copy()
    for _ in range(count - most):
        first, second = sorted(divmod(int(costs.argmin()), count))
        sums = (sizes[first] + sizes) * costs[first] + (sizes[second] + sizes) * costs[second]
        merged = (sums - sizes * costs[first, second]) / (sizes[first] + sizes[second] + sizes)
        merged[first] = np.inf
        costs[first] = costs[:, first] = merged
        costs[second] = costs[:, second] = np.inf
        sizes[first] += sizes[second]
        cluster[cluster == second] = first
    return cluster


def content_scores(all_vectors: Vectors, history_vectors: Embeddings, weights: NDArray[np.float64]) -> Scores:
    """Score all items by how much they are like what somebody likes.

    Args:
        all_vectors: Of the index: (count, d), unit rows.
        history_vectors: Of what somebody did something with, unit float32 (n, d).
        weights: How much each counts: above 0 what they like, at least one; below 0 what they do not.

    Returns:
        (count,), -1 to 1: the soft maximum of the cosines with the interests, the larger ones counting more, each a
        little less for what is like what they do not like.
    """
    is_liked, is_disliked = weights > 0, weights < 0
    centers, shares = interests(history_vectors[is_liked], weights[is_liked] ** _POWER)
    disliked = [View(vector) for vector in history_vectors[is_disliked]]
    views = take_away([View(center) for center in centers], disliked)
    return np.concatenate([np.empty(0), *(_soft_maximum(block, views, shares) for block in blocks_of(all_vectors))])


def _soft_maximum(block: Embeddings, views: Sequence[View], shares: NDArray[np.float64]) -> Scores:
    cosines = np.empty((len(views), len(block)), np.float32)
    for start in range(0, len(block), _PART_ROWS):
        part = slice(start, start + _PART_ROWS)
        for place, view in enumerate(views):
            cosines[place, part] = scores_of(block[part], view.vector)
    highest = cosines.max(axis=0)
    weights = np.asarray(shares, np.float32)
    scores: Scores = highest + _SOFTNESS * np.log(weights @ np.exp((cosines - highest) / _SOFTNESS)).astype(np.float64)
    return scores
