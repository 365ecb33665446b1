"""How certain a mean over queries is: percentile bootstrap intervals (Efron and Tibshirani, 1993, chapter 13)."""

# scipy.stats.bootstrap gives the same intervals, but takes 1.4 s to import, and refuses a single value.

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95  # of intervals that are reported: the usual one
PAIRED_LEVEL = 0.99  # of those that raise an alarm: a nightly job compares several measures every night

_RESAMPLES = 2000
# Values drawn at a time: 8 MB of them.
_CHUNK = 1_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its bootstrap interval; both ends are the mean itself for what is not a mean over queries."""

    mean: float
    low: float
    high: float


def exact_result(value: float) -> Interval:
    """Return the interval of a figure that is not a mean over queries."""
    return Interval(value, value, value)


def mean_interval(values: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Interval:
    """Estimate the mean of (queries,) values and its interval; equal values give an interval of no width."""
    array = np.asarray(values, np.float64)
    if not array.size:
        raise ValueError("a mean needs values of at least one query, got none")
    mean = float(array.mean())
    if np.all(array == array[0]):
        return exact_result(mean)
    random = np.random.default_rng(seed)
    means = np.empty(_RESAMPLES)
    rows = max(1, _CHUNK // array.size)
    for start in range(0, _RESAMPLES, rows):
        block = means[start : start + rows]
        block[:] = array[random.integers(array.size, size=(len(block), array.size))].mean(axis=1)
    return quantile_interval(mean, means, level=level)


def paired_interval(before: ArrayLike, after: ArrayLike, seed: int = 0, *, level: float = PAIRED_LEVEL) -> Interval:
    """Estimate the mean change of a measure over the same queries, in the same order; below 0 is a loss."""
    # Pairing takes out how hard each query is, which is most of the noise.
    old, new = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if old.shape != new.shape:
        raise ValueError(f"both need values of the same queries, got {old.size} before and {new.size} after")
    return mean_interval(new - old, seed, level=level)


def resampled_sums(values: ArrayLike, seed: int = 0) -> NDArray[np.float64]:
    """Draw rows of (queries, columns) with replacement, as many as there are; return (2000, columns), their sums."""
    array = np.asarray(values, np.float64)
    random = np.random.default_rng(seed)
    rows = max(1, _CHUNK // len(array))
    shares = np.full(len(array), 1 / len(array))
    sizes = [min(rows, _RESAMPLES - start) for start in range(0, _RESAMPLES, rows)]
    return np.concatenate([random.multinomial(len(array), shares, size) @ array for size in sizes])


def ratio_interval(parts: ArrayLike, wholes: ArrayLike, seed: int = 0, *, level: float = LEVEL) -> Interval:
    """Estimate the ratio of the sums of (queries,) parts and wholes, such as gains and those of the best order."""
    columns = np.stack([np.asarray(parts, np.float64), np.asarray(wholes, np.float64)], axis=1)
    if not columns.size or not columns[:, 1].all():
        raise ValueError("a ratio needs a whole above 0 of each of at least one query")
    found, whole = columns.sum(axis=0)
    sums = resampled_sums(columns, seed)
    return quantile_interval(found / whole, sums[:, 0] / sums[:, 1], level=level)


def quantile_interval(value: float, resampled: NDArray[np.float64], *, level: float = LEVEL) -> Interval:
    """Return the interval of a figure from what it came to whenever queries were drawn again."""
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))
