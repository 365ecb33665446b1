"""Encoders without weights: which colors an item has, what its surface is like, and its shape."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders import color, shape, texture
from imgsearch.encoders.vectors import joined
from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import Item, cut_out

PARTS: Mapping[str, int] = {"color": color.DIMS, "texture": texture.DIMS, "shape": shape.DIMS}

_DESCRIBE: Mapping[str, Callable[[Item], NDArray[np.float32]]] = {
    "color": color.describe_color,
    "texture": texture.describe_texture,
    "shape": shape.describe_shape,
}

# Light changes colors more than anything else, so they count for less.
_WEIGHTS: Mapping[str, float] = {"color": 0.4, "texture": 1.0, "shape": 1.0}

_HSV_BINS = (8, 4, 4)
_CELLS = 8
_ORIENTATIONS = 8
DIMS_VERSION_1 = int(np.prod(_HSV_BINS)) + _CELLS * _CELLS * _ORIENTATIONS


def describe_all(image: Pixels) -> NDArray[np.float32]:
    """Describe an image by all parts, joined.

    Args:
        image: RGB, uint8 of shape (size, size, 3), size at least 32.

    Returns:
        Unit float32; its length is the sum of `PARTS`.
    """
    item = cut_out(image)
    return joined([_DESCRIBE[part](item) for part in PARTS], [_WEIGHTS[part] for part in PARTS])


def describe_part(image: Pixels, part: str) -> NDArray[np.float32]:
    """Describe an image by one part alone.

    Args:
        image: RGB, uint8 of shape (size, size, 3), size at least 32.
        part: A key of `PARTS`.

    Returns:
        Unit float32 of shape (PARTS[part],).
    """
    return _DESCRIBE[part](cut_out(image))


def describe_version_1(image: Pixels) -> NDArray[np.float32]:
    """Describe one image by color and gradients, in equal parts, as indexes of format version 1 were made.

    Color: a joint histogram of hue, saturation and value (8 x 4 x 4), its square roots taken (the Hellinger
    kernel), so that a large plain background does not drown the rest. Gradients: their orientations (8, of 180
    degrees) weighted by strength, over 8 x 8 cells, after Dalal and Triggs (2005).

    Args:
        image: RGB, uint8 of shape (size, size, 3), size a multiple of 8.

    Returns:
        Unit float32 of shape (640,).
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    colors = cv2.calcHist([hsv], [0, 1, 2], None, list(_HSV_BINS), [0, 180, 0, 256, 0, 256])
    return joined([np.sqrt(colors).ravel(), np.sqrt(_gradients(image)).ravel()])


def _gradients(image: Pixels) -> NDArray[np.float64]:
    """Sum gradient strength by cell and orientation: (cells, cells, orientations)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    across = cv2.Sobel(gray, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    angles = np.mod(np.arctan2(down, across), np.pi) / np.pi
    orientation = np.minimum((angles * _ORIENTATIONS).astype(np.int64), _ORIENTATIONS - 1)
    size = image.shape[0]
    cell = np.arange(size) * _CELLS // size
    bins = (cell[:, None] * _CELLS + cell[None, :]) * _ORIENTATIONS + orientation
    strength = np.hypot(across, down)
    sums = np.bincount(bins.ravel(), strength.ravel(), _CELLS * _CELLS * _ORIENTATIONS)
    return np.asarray(sums, np.float64).reshape(_CELLS, _CELLS, _ORIENTATIONS)
