"""From what a detector says of one image to boxes in it, and how good such boxes are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box, overlaps

# Below this score an anchor says nothing.
LEAST_SCORE = 0.3
MOST_BOXES = 200

# A box that overlaps with a better one by more than this is the same item once more.
_SAME = 0.5
# So many of the best anchors are looked at: what is left over is what these overlap with.
_MOST_ANCHORS = 2000
# A box with a side below this share of the square's is an artefact.
_SHORTEST = 0.004
# From here on two boxes are of the same item (Everingham et al.: The PASCAL Visual Object Classes Challenge, 2010).
_HIT = 0.5


@dataclass(frozen=True, slots=True)
class Detection:
    """An item in an image.

    Attributes:
        box: Where, in pixels of the image.
        score: How sure the detector is, 0 to 1.
    """

    box: Box
    score: float


def found(
    scores: NDArray[np.float32],
    boxes: NDArray[np.float32],
    width: int,
    height: int,
    *,
    least_score: float = LEAST_SCORE,
    most: int = MOST_BOXES,
) -> list[Detection]:
    """Read what a detector says of one image.

    Of boxes that overlap the best is kept (greedy non-maximum suppression). What is no number, or lies outside of the
    image, is passed over.

    Args:
        scores: float32 (anchors,), 0 to 1.
        boxes: float32 (anchors, 4): left, top, right, bottom, as shares of the side of the square to which the image
            was brought by `transform.fit` with `pad`.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        least_score: What is less is passed over.
        most: How many at most; never more than `MOST_BOXES`.

    Returns:
        The items, the surest first.
    """
    longest = max(width, height)
    shift = np.array([longest - width, longest - height] * 2, np.float64) / 2
    with np.errstate(all="ignore"):  # what is no number is smaller than nothing
        usable = np.isfinite(boxes).all(axis=1) & (scores >= least_score) & (scores <= 1)
        usable[usable] &= (boxes[usable, 2:] - boxes[usable, :2] >= _SHORTEST).all(axis=1)
    rows = np.flatnonzero(usable)
    rows = rows[np.argsort(-scores[rows], kind="stable")[:_MOST_ANCHORS]]
    limits = np.array([width, height] * 2)
    placed = np.clip(np.clip(boxes[rows].astype(np.float64), -1, 2) * longest - shift, 0, limits)
    has_area = (placed[:, 2:] - placed[:, :2] >= _SHORTEST * longest).all(axis=1)
    rows, placed = rows[has_area], placed[has_area]
    detections = []
    for row in suppressed(placed)[: min(most, MOST_BOXES)]:
        edges = np.rint(placed[row]).astype(int)
        start = np.minimum(edges[:2], (width - 1, height - 1))
        sides = np.maximum(1, edges[2:] - start)
        box = Box(int(start[0]), int(start[1]), int(sides[0]), int(sides[1]))
        detections.append(Detection(box, float(scores[rows[row]])))
    return detections


def suppressed(boxes: NDArray[np.float64], most_shared: float = _SAME) -> list[int]:
    """Keep of boxes that overlap the first.

    Args:
        boxes: float64 (n, 4), the best first.
        most_shared: Intersection over union from which two are the same.

    Returns:
        The rows that are kept, in order; at most `MOST_BOXES`.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    left = np.arange(len(boxes))
    kept: list[int] = []
    while len(left) and len(kept) < MOST_BOXES:
        best, left = int(left[0]), left[1:]
        kept.append(best)
        start, end = np.maximum(boxes[left, :2], boxes[best, :2]), np.minimum(boxes[left, 2:], boxes[best, 2:])
        shared = np.prod(np.maximum(0, end - start), axis=1)
        left = left[shared <= most_shared * (areas[left] + areas[best] - shared)]
    return kept


def average_precision(images: Sequence[tuple[Sequence[Detection], Sequence[Box]]]) -> float:
    """Compute the average precision at an IoU of 0.5: the area under precision over recall, of all images together.

    Every item counts once: of two boxes on it the surer is right, the other wrong (PASCAL VOC 2010, all points).

    Args:
        images: Of each what was found and what is there.

    Returns:
        0 to 1; 1 where nothing is there and nothing was found.
    """
    items = sum(len(truth) for _, truth in images)
    ranked = sorted(
        (
            (detection.score, is_right)
            for detections, truth in images
            for detection, is_right in zip(_ordered(detections), _right(detections, truth), strict=True)
        ),
        key=lambda pair: -pair[0],
    )
    if not items:
        return 0.0 if ranked else 1.0
    right = np.cumsum([is_right for _, is_right in ranked])
    if not len(right):
        return 0.0
    precision = right / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(precision * np.diff(right, prepend=0)) / items)


def recall_of_boxes(images: Sequence[tuple[Sequence[Detection], Sequence[Box]]], k: int = 5) -> float:
    """Compute the share of items that one of the k surest boxes of their image hits (an IoU of 0.5).

    Args:
        images: Of each what was found and what is there.
        k: How many boxes of an image count.

    Returns:
        0 to 1; 1 where nothing is there.
    """
    items = sum(len(truth) for _, truth in images)
    hits = sum(sum(_right(_ordered(detections)[:k], truth)) for detections, truth in images)
    return hits / items if items else 1.0


def _ordered(detections: Sequence[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: -detection.score)


def _right(detections: Sequence[Detection], truth: Sequence[Box]) -> list[bool]:
    """Say which detections, the surest first, hit an item that none before it has hit."""
    shared = overlaps([detection.box for detection in _ordered(detections)], truth)
    right = []
    for row in shared:
        best = int(row.argmax()) if len(row) else 0
        is_right = bool(len(row)) and bool(row[best] >= _HIT)
        right.append(is_right)
        if is_right:
            shared[:, best] = 0
    return right
