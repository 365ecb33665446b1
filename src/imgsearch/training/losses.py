"""Losses of unit embeddings (n, d) that are compared with one another in a batch, and of cosines (n, classes).

Each takes int labels (n,) and returns float32 (n,), as Keras wants it.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Loss = Callable[[Any, Any], Any]

# Distance up to which images of two classes push one another away; unit vectors are at most 2 apart.
CONTRASTIVE_MARGIN = 1.0
# How much farther than its own class another must be.
TRIPLET_MARGIN = 0.2
TEMPERATURE = 0.1
ARCFACE_SCALE = 30.0
ARCFACE_MARGIN = 0.3

# Square roots have no slope at zero.
_TINY = 1e-12


def contrastive(labels: Any, embeddings: Any) -> Any:
    """Hadsell, Chopra, LeCun: Dimensionality Reduction by Learning an Invariant Mapping (2006), equation 4."""
    distances = _distances(embeddings)
    same, other = _pairs(labels)
    pull = _mean_where(same, ops.square(distances))
    push = _mean_where(other, ops.square(ops.relu(CONTRASTIVE_MARGIN - distances)))
    return 0.5 * (pull + push)


def triplet(labels: Any, embeddings: Any) -> Any:
    """Schroff et al.: FaceNet (2015), with the hardest pairs of the batch: Hermans et al. (2017), equation 5."""
    distances = _distances(embeddings)
    same, other = _pairs(labels)
    farthest = ops.max(ops.where(same, distances, 0.0), axis=1)
    nearest = ops.min(ops.where(other, distances, 4.0), axis=1)
    return ops.relu(farthest - nearest + TRIPLET_MARGIN)


def nt_xent(labels: Any, embeddings: Any) -> Any:
    """Chen et al.: SimCLR (2020), equation 1, over classes: Khosla et al.: Supervised Contrastive Learning (2020)."""
    logits = ops.matmul(embeddings, ops.transpose(embeddings)) / TEMPERATURE
    same, other = _pairs(labels)
    not_itself = ops.logical_or(same, other)
    all_others = ops.logsumexp(ops.where(not_itself, logits, -1e9), axis=1, keepdims=True)
    return _mean_where(same, all_others - logits)


def arcface(labels: Any, cosines: Any) -> Any:
    """Deng et al.: ArcFace (2019), equation 3; beyond half a turn the cosine goes on falling along a line."""
    # At 1 the slope of the angle is infinite.
    angles = ops.arccos(ops.clip(cosines, -1 + 1e-6, 1 - 1e-6))
    turned = ops.where(
        angles < math.pi - ARCFACE_MARGIN,
        ops.cos(angles + ARCFACE_MARGIN),
        cosines - ARCFACE_MARGIN * ops.sin(ARCFACE_MARGIN),
    )
    right = ops.one_hot(ops.cast(labels, "int32"), cosines.shape[1])
    logits = ARCFACE_SCALE * ops.where(right > 0, turned, cosines)
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


METRIC_LOSSES: dict[str, Loss] = {
    "arcface": arcface,
    "contrastive": contrastive,
    "nt-xent": nt_xent,
    "triplet": triplet,
}


def _distances(embeddings: Any) -> Any:
    cosines = ops.matmul(embeddings, ops.transpose(embeddings))
    return ops.sqrt(ops.maximum(2.0 - 2.0 * cosines, _TINY))


def _pairs(labels: Any) -> tuple[Any, Any]:
    """Return which pairs are of one class (but not of an image with itself), and which of two: bool (n, n)."""
    column = ops.reshape(ops.cast(labels, "int32"), (-1, 1))
    same = ops.equal(column, ops.transpose(column))
    count = ops.shape(column)[0]
    itself = ops.cast(ops.eye(count), "bool")
    return ops.logical_and(same, ops.logical_not(itself)), ops.logical_not(same)


def _mean_where(mask: Any, values: Any) -> Any:
    """Return the mean of each row over its pairs; zero where it has none."""
    weights = ops.cast(mask, values.dtype)
    return ops.sum(weights * values, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
