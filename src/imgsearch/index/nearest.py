"""From the rows that a backend proposes to hits: scored exactly, each item where its score is best."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError
from imgsearch.images.boxes import Box
from imgsearch.index.backends import Rows, scores_of
from imgsearch.index.hits import Hit
from imgsearch.index.items import Items
from imgsearch.index.views import View


@dataclass(frozen=True, slots=True)
class Scored:
    """An item, and the view of the query that it is nearest to.

    Attributes:
        row: Of the item.
        score: Cosine; rounding of unit vectors may lead just past -1 or 1.
        distance: Euclidean, 0 to 2.
        box: Of the view.
    """

    row: int
    score: float
    distance: float
    box: Box | None


def best_of(views: Sequence[View], candidates: Sequence[Rows], vectors: Embeddings, file: Path) -> list[Scored]:
    """Score candidates of all views exactly, and take each item where its score is best.

    Args:
        views: Of a query.
        candidates: Rows for each view.
        vectors: Unit float32 (count, d), of all items.
        file: Where they are from.

    Returns:
        Each row once, the best score first; equal scores in the order of their rows.

    Raises:
        DamagedIndexError: A vector is none.
    """
    found: dict[int, Scored] = {}
    for view, rows in zip(views, candidates, strict=True):
        near = vectors[rows]
        scores = scores_of(near, view.vector)
        if not np.isfinite(scores).all():
            raise DamagedIndexError(f"{file} is damaged: not a number where a score should be")
        distances = np.linalg.norm(near - view.vector, axis=1)
        for row, score, distance in zip(rows.tolist(), scores.tolist(), distances.tolist(), strict=True):
            if row not in found or score > found[row].score:
                found[row] = Scored(row, score, distance, view.box)
    return sorted(found.values(), key=lambda each: (-each.score, each.row))


def hits_of(scored: Sequence[Scored], items: Items) -> list[Hit]:
    """Say what was found.

    Args:
        scored: Best first.
        items: Of the index.

    Returns:
        Hits in the same order.

    Raises:
        DamagedIndexError: A row is not there.
    """
    return [
        Hit(
            rank,
            item.path,
            max(-1.0, min(1.0, each.score)),
            each.distance,
            item.product,
            item.category,
            item.metadata,
            box=each.box,
        )
        for rank, (item, each) in enumerate(zip(items.at([each.row for each in scored]), scored, strict=True), start=1)
    ]
