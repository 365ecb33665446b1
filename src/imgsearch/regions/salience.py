"""Where a photo differs from what lies along its edge: there the item is."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box

Plane = NDArray[np.float32]

# The plane that boxes are looked for in has this side: 8 pixels of an encoder's 224 a cell.
SIDE = 28

# All but the most salient cells are below the peak. This share of it is subtracted before a box is searched for, so
# that what is less salient counts against it. docs/benchmarks.md has the figures.
_PEAK = 0.97
LEVEL = 0.68

# A box has at least this many cells a side, of an item a ninth of the photo.
_SMALLEST = 3


def salience(features: NDArray[np.floating]) -> Plane | None:
    """Measure how much a photo differs from its edge, in a map of it: float32 (SIDE, SIDE), about 1 on an item.

    Items seldom touch it, and their background does (Wei et al., Geodesic Saliency Using Background Priors, 2012).
    """
    height, width, channels = features.shape
    if min(height, width) < 4:
        return None
    edge = np.ones((height, width), np.bool_)
    edge[1:-1, 1:-1] = False
    cells = np.asarray(features, np.float32).reshape(-1, channels)
    around = cells[edge.reshape(-1)]
    with np.errstate(all="ignore"):  # what is no number, or too large for one, is found below
        squared = (cells**2).sum(1)[:, None] + (around**2).sum(1) - 2 * cells @ around.T
    # The second nearest, for the nearest of a cell on the edge is itself.
    second = np.partition(np.maximum(squared, 0), 1, axis=1)[:, 1]
    distances = np.sqrt(second).reshape(height, width).astype(np.float32)
    if not np.isfinite(distances).all():
        return None
    plane = np.asarray(cv2.resize(distances, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR), np.float32)
    plane -= plane.min()
    peak = float(np.quantile(plane, _PEAK))
    if peak <= 0:
        return None
    return np.asarray(plane / peak, np.float32)


def salient_box(plane: Plane, level: float = LEVEL) -> Box:
    """Find the box, in cells, of the greatest sum of salience less a level, by Kadane's scan (Bentley, 1984)."""
    sums = np.zeros((SIDE + 1, SIDE + 1))
    sums[1:, 1:] = (plane - level).cumsum(0).cumsum(1)
    best, found = -np.inf, Box(0, 0, SIDE, SIDE)
    for top in range(SIDE - _SMALLEST + 1):
        strips = sums[top + _SMALLEST :] - sums[top]  # of every lower edge: sums from the left edge to each column
        least = np.minimum.accumulate(strips[:, : SIDE + 1 - _SMALLEST], axis=1)
        gains = strips[:, _SMALLEST:] - least
        row, column = divmod(int(gains.argmax()), gains.shape[1])
        if gains[row, column] > best:
            best = float(gains[row, column])
            left = int(strips[row, : column + 1].argmin())
            found = Box(left, top, column + _SMALLEST - left, row + _SMALLEST)
    return found
