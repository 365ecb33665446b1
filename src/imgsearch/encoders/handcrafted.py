"""Encoders without weights: an image, RGB, uint8 (size, size, 3), to a unit vector, float32 (dims,)."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders import color, shape, texture
from imgsearch.encoders.vectors import concatenate
from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import centered_item

_PARTS = (color.describe_item, texture.describe_item, shape.describe_item)
# Light changes colors more than anything else, so they count for less.
_WEIGHTS = (0.4, 1.0, 1.0)

# Of the first version.
_HSV_BINS = (8, 4, 4)
_CELLS = 8
_ORIENTATIONS = 8


def describe_all(image: Pixels) -> NDArray[np.float32]:
    """Describe an image, of a size of at least 32, by color, texture and shape."""
    item = centered_item(image)
    return concatenate([describe(item) for describe in _PARTS], _WEIGHTS)


def describe_color(image: Pixels) -> NDArray[np.float32]:
    """Describe an image by its colors alone."""
    return color.describe_item(centered_item(image))


def describe_texture(image: Pixels) -> NDArray[np.float32]:
    """Describe an image by its texture alone."""
    return texture.describe_item(centered_item(image))


def describe_shape(image: Pixels) -> NDArray[np.float32]:
    """Describe an image by its shape alone."""
    return shape.describe_item(centered_item(image))


def describe_version_1(image: Pixels) -> NDArray[np.float32]:
    """Describe an image by color and gradients, after Dalal and Triggs (2005), in equal parts, as the first indexes."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    colors = cv2.calcHist([hsv], [0, 1, 2], None, list(_HSV_BINS), [0, 180, 0, 256, 0, 256])
    return concatenate([np.sqrt(colors).ravel(), np.sqrt(_gradients(image)).ravel()])


def _gradients(image: Pixels) -> NDArray[np.float64]:
    """Sum gradient strength by cell and orientation: (cells x cells x orientations,)."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    across = cv2.Sobel(gray, cv2.CV_32F, 1, 0)
    down = cv2.Sobel(gray, cv2.CV_32F, 0, 1)
    angles = np.mod(np.arctan2(down, across), np.pi) / np.pi
    orientation = np.minimum((angles * _ORIENTATIONS).astype(np.int64), _ORIENTATIONS - 1)
    size = image.shape[0]
    cell = np.arange(size) * _CELLS // size
    bins = (cell[:, None] * _CELLS + cell[None, :]) * _ORIENTATIONS + orientation
    strength = np.hypot(across, down)
    return np.asarray(np.bincount(bins.ravel(), strength.ravel(), _CELLS * _CELLS * _ORIENTATIONS), np.float64)
