"""An encoder without weights: which colours a picture has, and which way its edges run, cell by cell."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels

_HSV_BINS = (8, 4, 4)
_CELLS = 8
_ORIENTATIONS = 8
DIMS = int(np.prod(_HSV_BINS)) + _CELLS * _CELLS * _ORIENTATIONS


def describe(picture: Pixels) -> NDArray[np.float32]:
    """Describe one picture by colour and gradients, in equal parts.

    Colour: a joint histogram of hue, saturation and value (8 x 4 x 4), its square roots taken (the Hellinger
    kernel), so that a large even ground does not drown the rest. Gradients: their orientations (8, of 180
    degrees) weighted by strength, over 8 x 8 cells, after Dalal and Triggs (2005).

    Args:
        picture: RGB, uint8 of shape (size, size, 3), size a multiple of 8.

    Returns:
        Unit float32 of shape (640,).
    """
    hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV)
    colours = cv2.calcHist([hsv], [0, 1, 2], None, list(_HSV_BINS), [0, 180, 0, 256, 0, 256])
    parts = [np.sqrt(colours).ravel(), np.sqrt(_gradients(picture)).ravel()]
    vector = np.concatenate([_unit(part) for part in parts])
    return _unit(vector).astype(np.float32)


def _gradients(picture: Pixels) -> NDArray[np.float64]:
    """Sum gradient strength by cell and orientation: (cells, cells, orientations)."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    across = cv2.Sobel(grey, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(grey, cv2.CV_32F, 0, 1)
    angles = np.mod(np.arctan2(down, across), np.pi) / np.pi
    orientation = np.minimum((angles * _ORIENTATIONS).astype(np.int64), _ORIENTATIONS - 1)
    size = picture.shape[0]
    cell = np.arange(size) * _CELLS // size
    bins = (cell[:, None] * _CELLS + cell[None, :]) * _ORIENTATIONS + orientation
    strength = np.hypot(across, down)
    sums = np.bincount(bins.ravel(), strength.ravel(), _CELLS * _CELLS * _ORIENTATIONS)
    return np.asarray(sums, np.float64).reshape(_CELLS, _CELLS, _ORIENTATIONS)


def _unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector
