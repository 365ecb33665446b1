"""How good the boxes of a detector are."""

from collections.abc import Sequence

import numpy as np

from imgsearch.images.boxes import Box, overlaps
from imgsearch.regions.detections import Detection

# From here on two boxes are of the same item (Everingham et al.: The PASCAL Visual Object Classes Challenge, 2010).
_HIT = 0.5


def average_precision(images: Sequence[tuple[Sequence[Detection], Sequence[Box]]]) -> float:
    """Compute the average precision, 0 to 1, at an IoU of 0.5 (PASCAL VOC 2010) of what was found and what is there."""
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
    precision = right / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(precision * np.diff(right, prepend=0)) / items)


def recall_of_boxes(images: Sequence[tuple[Sequence[Detection], Sequence[Box]]], k: int = 5) -> float:
    """Compute the share of items that one of the k surest boxes of their image hits (an IoU of 0.5)."""
    items = sum(len(truth) for _, truth in images)
    hits = sum(sum(_right(_ordered(detections)[:k], truth)) for detections, truth in images)
    return hits / items if items else 1.0


def _ordered(detections: Sequence[Detection]) -> list[Detection]:
    return sorted(detections, key=lambda detection: -detection.score)


def _right(detections: Sequence[Detection], truth: Sequence[Box]) -> list[bool]:
    """Return which detections, the surest first, hit an item that none before it has hit."""
    shared = overlaps([detection.box for detection in _ordered(detections)], truth)
    right = []
    for row in shared:
        best = int(row.argmax()) if len(row) else 0
        is_right = bool(len(row)) and bool(row[best] >= _HIT)
        right.append(is_right)
        if is_right:
            shared[:, best] = 0
    return right
