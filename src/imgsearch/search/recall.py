"""How many of the truly nearest vectors a search finds, and how fast."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.store.arrays import blocks_of

# Scores that differ by less are equal: which of two equally near vectors is found does not matter (as in
# ann-benchmarks, Aumueller, Bernhardsson and Faithfull, 2020). They are sums of hundreds of float32 products.
TIE = 1e-6

# Scores of so many queries with a block of vectors take 16 MB.
_AT_ONCE = 1000

Values = NDArray[np.float64]
# (vector, k) -> scores of the k vectors that were found, in any order.
SearchFunction = Callable[[Embeddings, int], Embeddings]


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of the seconds that a search takes, and how many there are a second, one after the other."""

    p50: float
    p95: float
    p99: float
    per_second: float


@dataclass(frozen=True, slots=True)
class Sample:
    """Items to ask for, and what the truth is."""

    vectors: Embeddings  # (n, d), those of the items
    last_scores: Mapping[int, Embeddings]  # k -> (n,), the score of the k-th nearest other item

    def first(self, most: int, k: int) -> "Sample":
        """Take the first items alone, and the truth for one k."""
        return Sample(self.vectors[:most], {k: self.last_scores[k][:most]})


def sampled(vectors: Vectors, rows: NDArray[np.int64], ks: Sequence[int]) -> Sample:
    """Find the truth for some rows of at least two unit vectors, for each of `ks` that they have neighbors for."""
    kept = [k for k in ks if k < len(vectors)] or [len(vectors) - 1]
    queries = vectors[rows]
    # The nearest of all is the item itself.
    starts = range(0, len(rows), _AT_ONCE)
    best = np.concatenate([_best(vectors, queries[start : start + _AT_ONCE], max(kept) + 1) for start in starts])
    return Sample(queries, {k: best[:, -k - 1] for k in kept})


def _best(vectors: Vectors, queries: Embeddings, k: int) -> Embeddings:
    """Find the k best scores of each query, the best last."""
    best = np.full((len(queries), k), -np.inf, np.float32)
    for block in blocks_of(vectors):
        scores = np.concatenate([best, queries @ block.T], axis=1)
        best = np.partition(scores, -k, axis=1)[:, -k:]
    best.sort(axis=1)
    return best


def measure(search: SearchFunction, sample: Sample, k: int) -> tuple[Values, Latency]:
    """Ask for every item of a sample: the share of its k nearest others found for each (n,), and how long it took."""
    recall = np.empty(len(sample.vectors))
    seconds = np.empty(len(sample.vectors))
    search(sample.vectors[0], k + 1)  # what is opened when it is first used is not the search
    for number, (vector, last) in enumerate(zip(sample.vectors, sample.last_scores[k], strict=True)):
        started = time.perf_counter()
        scores = search(vector, k + 1)
        seconds[number] = time.perf_counter() - started
        # The item itself is found first, and counts for nothing.
        found = int(np.count_nonzero(np.asarray(scores) >= last - TIE)) - 1
        recall[number] = min(k, max(0, found)) / k
    p50, p95, p99 = np.quantile(seconds, [0.5, 0.95, 0.99])
    return recall, Latency(float(p50), float(p95), float(p99), len(seconds) / float(seconds.sum()))
