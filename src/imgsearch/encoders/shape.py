"""How an item is outlined, and which way the edges on it run."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.vectors import concatenate
from imgsearch.images.foreground import Item, pooling

_CELLS = 6
_ORIENTATIONS = 9

# No single orientation of a cell counts for more than this share of the edges around it (Dalal and Triggs).
_LARGEST_SHARE = 0.2
# Moments below this are those of a shape that has none, up to its pixels.
_MIN_MOMENT = 1e-5
_MOMENTS_WEIGHT = 0.4


def describe_item(item: Item) -> NDArray[np.float32]:
    """Describe an item by gradients (Dalal and Triggs, 2005) and by Hu's moments of its outline (1962)."""
    gray = cv2.cvtColor(item.pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    moments = cv2.HuMoments(cv2.moments(item.weights)).ravel()
    logarithms = np.sign(moments) * np.log10(1 + np.abs(moments) / _MIN_MOMENT)
    return concatenate([_normalized(_gradients(gray)).ravel(), logarithms], [1.0, _MOMENTS_WEIGHT])


def _gradients(gray: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sum the strength of gradients by orientation and cell: (orientations, cells, cells)."""
    across = cv2.Sobel(gray, cv2.CV_32F, 1, 0, ksize=1)
    down = cv2.Sobel(gray, cv2.CV_32F, 0, 1, ksize=1)
    strength, angle = (np.asarray(plane, np.float32) for plane in cv2.cartToPolar(across, down))
    # Shared between the two orientations next to it, and below between cells, so that a small turn changes little.
    steps = np.abs(angle * np.float32(_ORIENTATIONS / (2 * np.pi)) - _ORIENTATION)
    shares = np.maximum(0, 1 - np.minimum(steps, _ORIENTATIONS - steps))
    pool = pooling(_CELLS)
    return np.asarray(pool @ (shares * strength) @ pool.T, np.float32)


_ORIENTATION = np.arange(_ORIENTATIONS, dtype=np.float32)[:, None, None]


def _normalized(gradients: NDArray[np.float32]) -> NDArray[np.float32]:
    energy = np.pad((gradients**2).sum(axis=0), 1)
    # By each of the four blocks around a cell, added up, as Felzenszwalb et al. (2010) do.
    blocks = energy[:-1, :-1] + energy[:-1, 1:] + energy[1:, :-1] + energy[1:, 1:]
    # One gray level: where there are no edges, rounding must not be blown up to some.
    lengths = np.sqrt(blocks + 1)
    around = (lengths[:-1, :-1], lengths[:-1, 1:], lengths[1:, :-1], lengths[1:, 1:])
    return np.asarray(sum(np.minimum(gradients / length, _LARGEST_SHARE) for length in around), np.float32)
