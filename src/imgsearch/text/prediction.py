"""The catalog teaches the way from images to words: what an image without words would be called.

Two ways are added, each brought to unit length: ridge regression, and the mean text of the nearest images that have
words. Nothing is learned by steps, so equal pairs and an equal seed give an equal prediction.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.records import Count, Share

# Pairs that are learned from; more would have to be held in memory, and compared with every image without words.
LARGEST_SAMPLE = 20_000
# Of the distinct texts, and at most so many, are held out.
HELD_OUT = 0.2
MOST_HELD_OUT = 500
# A text is found if one of its images is among the first so many.
FIRST = 10

# How often held-out texts must be found. Where words have nothing to do with images, `FIRST` are expected, however many
# texts there are: each of n images has its text's first ten places with probability 10 / n. For such sums over a random
# permutation, P(hits - 10 >= t) <= 2 exp(-t^2 / (40 + 2 t)) (Chatterjee, 2007, Proposition 1.1): less than 1 in 1,000
# from here.
LEAST_HITS = 37
# Fewer could not pass.
FEWEST_TEXTS = math.ceil(LEAST_HITS / HELD_OUT)

# Tuned on the emoji of benchmarks/text.py; docs/benchmarks.md has the figures.
_NEIGHBORS = 10
# The weight of a neighbor is exp(_SHARPNESS * cosine).
_SHARPNESS = 10
# Added to each eigenvalue of the images' covariance, in units of their mean.
_RIDGE = 1.0

# Numbers of a block that are held at once.
_BLOCK = 2**23


@dataclass(frozen=True, slots=True)
class PredictionGain:
    """What predicted words are worth, by texts that were not learned."""

    pairs: Count  # of an image and its text that were learned from
    texts: Count  # held out, and asked for
    pictures: Count  # those of these texts, among which they were searched
    hit_rate: Share  # of the texts: one of their images is among the first `FIRST`
    chance: Share  # the same if images are put into a random order

    @property
    def helps(self) -> bool:
        """Whether texts are found more often than by luck."""
        return round(self.hit_rate * self.texts) >= LEAST_HITS

    def in_words(self) -> str:
        """Return it in words, without a verdict."""
        return (
            f"of {self.texts} held-out texts {self.hit_rate:.3f} find their image among the first {FIRST} of"
            f" {self.pictures}, {self.chance:.3f} by chance"
        )


@dataclass(frozen=True, slots=True)
class Prediction:
    """What was learned from images and their texts."""

    mean: Embeddings  # float32 (d,), of the images
    coefficients: Embeddings  # float32 (d, t)
    offset: Embeddings  # float32 (t,), the mean of the texts
    vectors: Embeddings  # float32 (m, d), the images learned from
    texts: Embeddings  # float32 (m, t), their texts

    def predict(self, vectors: Embeddings) -> Embeddings:
        """Predict the texts of images, (n, d): float32 (n, t), rows of unit length."""
        found = np.empty((len(vectors), len(self.offset)), np.float32)
        rows = max(1, _BLOCK // max(len(self.vectors), _NEIGHBORS * len(self.offset)))
        for start in range(0, len(vectors), rows):
            block = np.asarray(vectors[start : start + rows], np.float32)
            regressed = (block - self.mean) @ self.coefficients + self.offset
            found[start : start + rows] = _unit_rows(_unit_rows(regressed) + _unit_rows(self._of_neighbors(block)))
        return found

    def _of_neighbors(self, block: Embeddings) -> Embeddings:
        """Return the mean text of the nearest images, the nearer the more."""
        cosines = block @ self.vectors.T
        count = min(_NEIGHBORS, cosines.shape[1])
        nearest = np.argpartition(cosines, -count, axis=1)[:, -count:]
        near = np.take_along_axis(cosines, nearest, axis=1)
        weights = np.exp(_SHARPNESS * (near - near.max(axis=1, keepdims=True)))
        return np.asarray(np.einsum("nk,nkt->nt", weights, self.texts[nearest]), np.float32)


def learn_prediction(
    vectors: Vectors, rows: NDArray[np.int64], texts: Embeddings, seed: int
) -> tuple[Prediction | None, PredictionGain | None]:
    """Learn texts from images, if a held-out fifth of the texts says that it can be done.

    Args:
        vectors: Of all items, unit rows (count, d); may be mapped.
        rows: Of the items that have words.
        texts: Of these words, float32 (len(rows), t); equal words have equal rows. May be mapped.
        seed: Source of all chance.

    Returns:
        What was learned from a sample of all pairs, None if texts are not found more often than by luck; and how often
        they are found, None if there are too few texts to tell.
    """
    generator = np.random.default_rng(seed)
    chosen = np.arange(len(rows))
    if len(rows) > LARGEST_SAMPLE:
        chosen = np.sort(generator.choice(len(rows), LARGEST_SAMPLE, replace=False))
    known = np.asarray(texts[chosen], np.float32)
    has_words = known.any(axis=1)  # a text of which the encoder knows nothing has zeros
    known, images = known[has_words], np.asarray(vectors[rows[chosen[has_words]]], np.float32)
    labels = _labels(known)
    count = int(labels.max(initial=-1)) + 1
    if count < FEWEST_TEXTS:
        return None, None

    asked = generator.permutation(count)[: min(round(HELD_OUT * count), MOST_HELD_OUT)]
    is_held_out = np.isin(labels, asked)
    learned = _learn(images[~is_held_out], known[~is_held_out])
    predicted = learned.predict(images[is_held_out])
    gain = _measure(predicted, known[is_held_out], labels[is_held_out], int(np.sum(~is_held_out)))
    return (_learn(images, known) if gain.helps else None), gain


def _measure(predicted: Embeddings, texts: Embeddings, labels: NDArray[np.int64], pairs: int) -> PredictionGain:
    """Ask for each distinct text among the predicted ones."""
    asked, first, copies = np.unique(labels, return_index=True, return_counts=True)
    count = len(labels)
    hits = 0
    for label, text in zip(asked, texts[first], strict=True):
        best = np.argsort(-(predicted @ text), kind="stable")[:FIRST]
        hits += bool(np.any(labels[best] == label))
    # None of its images is in the first place, nor in the second ...
    places = np.arange(min(FIRST, count))
    missed = np.prod(np.maximum(count - copies[:, None] - places, 0) / (count - places), axis=1)
    return PredictionGain(pairs, len(asked), count, hits / len(asked), float(np.mean(1 - missed)))


def _learn(vectors: Embeddings, texts: Embeddings) -> Prediction:
    """Solve the normal equations; their sums are double, and taken a block at a time."""
    mean, offset = vectors.mean(axis=0, dtype=np.float64), texts.mean(axis=0, dtype=np.float64)
    dims = vectors.shape[1]
    spread, shared = np.zeros((dims, dims)), np.zeros((dims, texts.shape[1]))
    for block, words in _blocks(vectors, texts):
        centered = block - mean
        spread += centered.T @ centered
        shared += centered.T @ (words - offset)
    # Images that are all equal have no spread, and say nothing.
    ridge = max(_RIDGE * float(np.trace(spread)) / dims, 1e-12)
    coefficients = np.linalg.solve(spread + ridge * np.eye(dims), shared)
    mean, coefficients, offset = (np.asarray(part, np.float32) for part in (mean, coefficients, offset))
    return Prediction(mean, coefficients, offset, vectors, texts)


def _blocks(vectors: Embeddings, texts: Embeddings) -> Iterator[tuple[Embeddings, Embeddings]]:
    rows = max(1, _BLOCK // (vectors.shape[1] + texts.shape[1]))
    for start in range(0, len(vectors), rows):
        yield vectors[start : start + rows], texts[start : start + rows]


def _labels(texts: Embeddings) -> NDArray[np.int64]:
    """Number distinct rows, equal ones equally."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(row.tobytes(), len(numbers)) for row in texts], np.int64)


def _unit_rows(rows: NDArray[np.floating]) -> Embeddings:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)
