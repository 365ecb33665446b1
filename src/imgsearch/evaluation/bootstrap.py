"""How sure a mean over queries is (Efron and Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95  # of the intervals that are shown: the usual one
PAIRED_LEVEL = 0.99  # of those that raise an alarm: a nightly job looks at several measures every night

_RESAMPLES = 2000
# Values drawn at a time: 8 MB of them.
_CHUNK = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean, and where it would lie with other queries of the same kind.

    Attributes:
        mean: Of what was measured.
        low: Lower end of the interval; the mean itself for what is not a mean over queries.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Interval:
    """Estimate a mean and its percentile bootstrap interval, from 2,000 samples of the queries with replacement.

    Args:
        values: (queries,): one value for each query; at least one.
        seed: Of the samples. The same values and seed give the same interval.
        level: Share of such intervals that would hold the mean of all queries there could be.

    Returns:
        Where all values are equal, both ends are that value, too: such queries do not tell how others would differ.

    Raises:
        ValueError: There are no values.
    """
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError("expected values of at least one query, found none")
    mean = float(array.mean())
    if np.all(array == array[0]):
        return Interval(mean, mean, mean)
    random = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    rows = max(1, _CHUNK // array.size)
    for start in range(0, _RESAMPLES, rows):
        block = means[start : start + rows]
        block[:] = array[random.integers(array.size, size=(len(block), array.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high))


def paired_interval(before: ArrayLike, after: ArrayLike, seed: int = 0, *, level: float = PAIRED_LEVEL) -> Interval:
    """Estimate the mean change of a measure over the same queries, and its bootstrap interval.

    Pairing takes out how hard each query is, which is most of the noise.

    Args:
        before: (queries,): the value of each query then.
        after: (queries,): and now, in the same order.
        seed: Of the samples.
        level: As `mean_interval`.

    Returns:
        Of after - before: below 0 is a loss.

    Raises:
        ValueError: There are no values, or not as many before as after.
    """
    then, now = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if then.shape != now.shape:
        raise ValueError(f"expected values of the same queries, found {then.size} before and {now.size} after")
    return mean_interval(now - then, seed, level=level)
