"""The nearest others of everything in an index, exactly: blockwise products of vectors, in bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.search.backends.protocol import Rows

# Rows that are compared with one another at once: scores of such a block take 32 MB.
_ROWS = 1024
_COLUMNS = 8192

# Scores that are equal to so many digits, which are all that is written, are equal: the last digits of a product
# depend on its place in a block.
DIGITS = 6
_HALF_DIGIT = 0.5 * 10.0**-DIGITS


@dataclass(frozen=True, slots=True)
class Grouping:
    """Rows put together: each item by itself, or those of a product.

    Attributes:
        rows: The rows that are compared, those of a group together; None for all, each by itself.
        starts: Where in `rows` each group starts.
    """

    rows: Rows | None
    starts: Rows

    @classmethod
    def of_items(cls, count: int) -> "Grouping":
        """Leave every row by itself."""
        return cls(None, np.arange(count))

    @classmethod
    def by(cls, group_of_row: Rows) -> "Grouping":
        """Put rows together that have the same number, from 0 on, none left out."""
        rows = np.argsort(group_of_row, kind="stable")
        return cls(rows, np.searchsorted(group_of_row[rows], np.arange(int(group_of_row.max(initial=-1)) + 1)))

    def count(self, vectors: Vectors) -> int:
        """Return how many of the vectors are compared."""
        return len(vectors) if self.rows is None else len(self.rows)

    def vectors(self, vectors: Vectors, start: int, end: int) -> Embeddings:
        """Return some of the vectors, in the order of groups."""
        return vectors[start:end] if self.rows is None else vectors[self.rows[start:end]]

    def groups(self, start: int, end: int) -> tuple[Rows, Rows]:
        """Return which groups lie in a stretch, wholly or in part, and where in it each begins."""
        first = int(np.searchsorted(self.starts, start, "right")) - 1
        numbers = np.arange(first, int(np.searchsorted(self.starts, end, "left")))
        return numbers, np.maximum(self.starts[numbers] - start, 0)


@dataclass(frozen=True, slots=True)
class Lists:
    """Of groups in a row the nearest others, best first; rounded scores, equal ones in the order of their numbers."""

    first: int  # number of the group that the first list is of
    others: NDArray[np.int32]  # (groups, k), -1 where there are no more
    scores: NDArray[np.float32]  # (groups, k), the best of all pairs; -inf where there are no more


def block_count(count: int) -> int:
    """Return how many blocks there are of so many rows."""
    return -(-count // _ROWS)


def nearest_lists(vectors: Vectors, grouping: Grouping, k: int, start: int = 0) -> Iterator[Lists]:
    """Yield the lists of each block of rows, from the block `start` on.

    A group whose rows lie in several blocks is in each of them, with what its rows there are nearest to: `merged` makes
    one of two.
    """
    count = grouping.count(vectors)
    for block in range(start, block_count(count)):
        begin, end = block * _ROWS, min((block + 1) * _ROWS, count)
        yield _lists_of(vectors, grouping, begin, end, k)


def _lists_of(vectors: Vectors, grouping: Grouping, begin: int, end: int, k: int) -> Lists:
    ours, inner = grouping.groups(begin, end)
    block = np.ascontiguousarray(grouping.vectors(vectors, begin, end))
    best = _Best(len(ours), k)
    count = grouping.count(vectors)
    for start in range(0, count, _COLUMNS):
        stop = min(start + _COLUMNS, count)
        scores = block @ grouping.vectors(vectors, start, stop).T
        theirs, starts = grouping.groups(start, stop)
        if len(grouping.starts) < count:
            scores = np.maximum.reduceat(np.maximum.reduceat(scores, starts, axis=1), inner, axis=0)
        shared = np.arange(max(ours[0], theirs[0]), min(ours[-1], theirs[-1]) + 1)
        scores[shared - ours[0], shared - theirs[0]] = -np.inf
        best.add(scores, int(theirs[0]))
    return Lists(int(ours[0]), best.others, best.scores)


class _Best:
    """The `k` best of what has been added for each row, sorted."""

    def __init__(self, count: int, k: int) -> None:
        self.others = np.full((count, k), -1, np.int32)
        self.scores = np.full((count, k), -np.inf, np.float32)

    def add(self, scores: Embeddings, first: int) -> None:
        """Add scores of others, numbered from `first` on; numbers never fall from one call to the next."""
        k = self.scores.shape[1]
        least = self.scores[:, -1]
        if scores.shape[1] > k and np.isneginf(least).any():
            # What is below the k-th of this block alone is not among the best of all.
            kth = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k].round(DIGITS)
            candidates = scores > np.maximum(kth - 2 * _HALF_DIGIT, least)[:, None]
        else:  # an equal one that comes later has a higher number, so it does not get in
            candidates = scores > np.maximum(least + np.float32(0.8 * _HALF_DIGIT), -2)[:, None]
        at = np.flatnonzero(candidates)
        if not len(at):
            return
        rows, columns = np.divmod(at, scores.shape[1])
        found = scores.ravel()[at].round(DIGITS)
        changed, place = np.unique(rows, return_inverse=True)
        all_rows = np.concatenate([np.repeat(np.arange(len(changed)), k), place])
        all_others = np.concatenate([self.others[changed].ravel(), columns + first])
        all_scores = np.concatenate([self.scores[changed].ravel(), found])
        others, kept = _ranked(all_rows, all_others, all_scores, len(changed), k)
        self.others[changed], self.scores[changed] = others, kept


def _ranked(
    rows: Rows, others: Rows, scores: Embeddings, count: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Sort what has been found for each row, each other once, and keep the `k` best."""
    is_there = ~np.isneginf(scores)
    rows, others, scores = rows[is_there], others[is_there], scores[is_there]
    # A group that lies in two blocks has been found in each of them.
    order = np.lexsort((-scores, others, rows))
    rows, others, scores = rows[order], others[order], scores[order]
    is_first = np.ones(len(rows), np.bool_)
    is_first[1:] = (rows[1:] != rows[:-1]) | (others[1:] != others[:-1])
    rows, others, scores = rows[is_first], others[is_first], scores[is_first]
    order = np.lexsort((others, -scores, rows))
    rows, others, scores = rows[order], others[order], scores[order]
    rank = np.arange(len(rows)) - np.searchsorted(rows, np.arange(count))[rows]
    is_kept = rank < k
    found_others = np.full((count, k), -1, np.int32)
    found_scores = np.full((count, k), -np.inf, np.float32)
    found_others[rows[is_kept], rank[is_kept]] = others[is_kept]
    found_scores[rows[is_kept], rank[is_kept]] = scores[is_kept]
    return found_others, found_scores


def merged(parts: Iterator[Lists]) -> Iterator[Lists]:
    """Make one list of those of a group that several blocks have."""
    held: Lists | None = None
    for part in parts:
        if held is not None and part.first == held.first + len(held.others) - 1:
            k = part.others.shape[1]
            others, scores = _ranked(
                np.zeros(2 * k, np.int64),
                np.concatenate([held.others[-1], part.others[0]]),
                np.concatenate([held.scores[-1], part.scores[0]]),
                1,
                k,
            )
            part.others[0], part.scores[0] = others[0], scores[0]
            held = Lists(held.first, held.others[:-1], held.scores[:-1])
        if held is not None and len(held.others):
            yield held
        held = part
    if held is not None:
        yield held
