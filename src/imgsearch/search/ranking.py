"""Scores of all items, for questions with words in them: what each part of a question says, and all parts together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.images.boxes import Box
from imgsearch.search.backends.protocol import Rows, scores_of
from imgsearch.search.views import View
from imgsearch.store.arrays import blocks_of

Scores = NDArray[np.float64]

# How much words count beside pictures, 0 to 1 (docs/benchmarks.md).
TEXT_WEIGHT = 0.5

# Scores of equal vectors differ by less: they come of float32.
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one part of a question says of all items."""

    name: str  # one of those that `Hit.matched` has
    scores: Scores  # (count,); NaN of items that it says nothing about


@dataclass(frozen=True, slots=True, eq=False)
class Ranking:
    """The scores of all items."""

    scores: Scores  # (count,); -inf of items that are no hits
    parts: Sequence[Part]
    views: Sequence[View] = ()  # of the pictures among what was asked with
    nearest_views: Rows | None = None  # (count,), which of the views each item resembles most
    otherwise: float = np.nan  # what stands for -inf when it is fused with another ranking; NaN: the mean
    is_of_one_text: bool = False  # alone, by its meaning: only such scores does `Manifest.words_calibration` know

    def best(self, k: int, rows: Rows | None = None) -> Rows:
        """Return the `k` best of some rows, ascending, or of all; equal scores in the order of the rows."""
        scores = self.scores if rows is None else self.scores[rows]
        found = np.flatnonzero(scores > -np.inf)
        if len(found) > k:
            least = np.partition(scores[found], -k)[-k]
            found = found[scores[found] >= least]
        found = found[np.lexsort((found, -scores[found]))[:k]]
        return found if rows is None else rows[found]

    def matched(self, row: int) -> dict[str, float]:
        """Return the score that each part gives an item."""
        return {part.name: float(part.scores[row]) for part in self.parts if not np.isnan(part.scores[row])}

    def box(self, row: int) -> Box | None:
        """Return the region of the picture that an item resembles, as a view of it has it."""
        return None if self.nearest_views is None else self.views[self.nearest_views[row]].box


def all_scores(rows: Vectors, vector: Embeddings) -> Scores:
    """Multiply all rows of a mapped array with a vector: (count,)."""
    return np.concatenate([np.empty(0), *(scores_of(block, vector) for block in blocks_of(rows))])


def by_pictures(vectors: Vectors, views: Sequence[View]) -> Ranking:
    """Score all items by the view that each resembles most, of at least one."""
    scores = all_scores(vectors, views[0].vector)
    nearest = np.zeros(len(scores), np.int64)
    for number, view in enumerate(views[1:], start=1):
        found = all_scores(vectors, view.vector)
        nearest[found > scores] = number
        np.maximum(scores, found, out=scores)
    return Ranking(scores, [Part("picture", scores)], views, nearest)


def by_both(pictures: Ranking, words: Ranking, weight: float = TEXT_WEIGHT) -> Ranking:
    """Fuse two rankings; `weight` of the words, 0 to 1. All items may be hits."""
    known = np.where(np.isfinite(words.scores), words.scores, words.otherwise)
    scores = fused(pictures.scores, known, weight)
    return Ranking(scores, [*pictures.parts, *words.parts], pictures.views, pictures.nearest_views)


def less_pictures(words: Ranking, pictures: Ranking, weight: float) -> Ranking:
    """Take `weight`, 0 to 1, of how items resemble pictures from what words give them; hits stay those of the words."""
    is_hit = words.scores > -np.inf
    scores = np.full(len(is_hit), -np.inf)
    scores[is_hit] = fused(words.scores[is_hit], -pictures.scores[is_hit], weight)
    return Ranking(scores, words.parts)


def fused(pictures: Scores, words: Scores, weight: float) -> Scores:
    """Weigh scores of pictures and of words, each less its mean and by its standard deviation over all items.

    Args:
        pictures: (count,), cosines.
        words: (count,), NaN of items that words say nothing about: the mean stands for these.
        weight: Of the words, 0 to 1.

    Returns:
        (count,), with the mean and the spread of `pictures`, so that a score means something like a cosine. What few
        items have, such as a rare word, takes them beyond 1; cut off there, they would no longer differ.
    """
    if not len(pictures):
        return pictures
    of_words = np.where(np.isnan(words), 0.0, standard(words))
    both = (1 - weight) * standard(pictures) + weight * of_words
    # Pictures that are all alike have no spread to take over.
    spread = float(pictures.std())
    return float(pictures.mean()) + (spread if spread > _ROUNDING else 1.0) * both


def standard(scores: Scores) -> Scores:
    """Subtract the mean, and divide by the standard deviation, of what is known."""
    known = scores[~np.isnan(scores)]
    spread = float(known.std()) if len(known) else 0.0
    return (scores - known.mean()) / spread if spread > _ROUNDING else np.zeros(len(scores))
