"""Anchors, the boxes that a detector starts from (Liu et al.: SSD: Single Shot MultiBox Detector, 2016).

All boxes are left, top, right, bottom, as shares of the side of the square that the detector sees.
"""

import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import overlaps_of_corners

Corners = NDArray[np.float32]

# Pixels of the square to a cell of each map that anchors stand on.
STRIDES = (8, 16, 32)
# Of a cell's anchors: the root of its area in cells, and its width over its height.
SIZES = (3.0, 4.5)
RATIOS = (0.5, 1.0, 2.0)
ANCHORS_OF_A_CELL = len(SIZES) * len(RATIOS)

# An anchor stands for an item when it overlaps with it by this much, or nearly as much as the best anchor does: those
# of a long or tiny item are all unlike it. It stands for the background below the last number; between, for neither.
_IS_ITEM = 0.5
_NEARLY = 0.85
_IS_BACKGROUND = 0.4

ITEM, BACKGROUND, NEITHER = 1, 0, -1


def cells(size: int, stride: int) -> int:
    """Count the cells of a map along a side, as convolutions with padding leave them."""
    return -(-size // stride)


def anchor_boxes(size: int) -> Corners:
    """Lay out the anchors of a square of so many pixels, by stride, row and cell: float32 (anchors, 4)."""
    ratios = np.sqrt(np.tile(RATIOS, len(SIZES)))
    roots = np.repeat(SIZES, len(RATIOS))
    sides = np.stack([roots * ratios, roots / ratios], axis=1)
    boxes = []
    for stride in STRIDES:
        middles = np.arange(cells(size, stride)) + 0.5
        down, across = np.meshgrid(middles, middles, indexing="ij")
        centers = np.stack([across, down], axis=-1)[:, :, None]
        boxes.append(np.concatenate([centers - sides / 2, centers + sides / 2], axis=-1).reshape(-1, 4) * stride / size)
    return np.concatenate(boxes).astype(np.float32)


def match_anchors(anchors: Corners, boxes: Corners) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return what each anchor stands for: `ITEM`, `BACKGROUND` or `NEITHER`; and which box it overlaps most, or 0."""
    if not len(boxes):
        nothing = np.zeros(len(anchors), np.int64)
        return nothing + BACKGROUND, nothing
    overlaps = overlaps_of_corners(anchors, boxes)
    nearest = overlaps.argmax(axis=1)
    most = overlaps.max(axis=1)
    enough = np.minimum(_IS_ITEM, _NEARLY * overlaps.max(axis=0))
    kinds = np.where(most >= enough[nearest], ITEM, np.where(most < _IS_BACKGROUND, BACKGROUND, NEITHER))
    best = overlaps.argmax(axis=0)
    kinds[best] = ITEM
    nearest[best] = np.arange(len(boxes))
    return kinds, nearest
