"""Which colors an item has, and about where on it."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.vectors import concatenate
from imgsearch.images.foreground import SIDE, Item

# Hue, saturation and value: bins of the description, and finer ones to count in.
_BINS = (8, 3, 3)
_FINE = (36, 12, 12)
_CELLS = 2

# Standard deviation, in bins, of how a color is shared among the bins near it.
_SPREAD = 0.45

# A photo is lighter or darker than the catalog: this quantile of the item's values is brought to this value.
_LIGHT_QUANTILE = 0.75
_LIGHT = 230.0
_DARKEST = 30.0  # anything below is not lit up any further


def describe_item(item: Item) -> NDArray[np.float32]:
    """Describe an item by histograms of hue, saturation and value in a pyramid (Lazebnik, Schmid and Ponce, 2006)."""
    hsv = cv2.cvtColor(item.pixels, cv2.COLOR_RGB2HSV)
    hue, saturation, value = (hsv[:, :, channel].astype(np.float32) for channel in range(3))
    light = float(np.quantile(value[item.weights >= item.weights.max() / 2], _LIGHT_QUANTILE))
    value *= _LIGHT / max(light, _DARKEST)
    code = np.zeros((SIDE, SIDE), np.int64)
    for channel, largest, bins in ((hue, 180, _FINE[0]), (saturation, 256, _FINE[1]), (value, 256, _FINE[2])):
        code = code * bins + np.minimum((channel * (bins / largest)).astype(np.int64), bins - 1)
    cell = np.arange(SIDE) * _CELLS // SIDE
    code += (cell[:, None] * _CELLS + cell) * int(np.prod(_FINE))
    counts = np.bincount(code.ravel(), item.weights.ravel(), _CELLS * _CELLS * int(np.prod(_FINE)))
    cells = _shared(counts.reshape(-1, *_FINE).astype(np.float32))
    # Square roots (the Hellinger kernel), so that one large even area does not drown the rest.
    return concatenate([np.sqrt(cells.sum(axis=0)).ravel(), np.sqrt(cells).ravel()])


def _shared(counts: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share fine counts (cells, hue, saturation, value) among the bins of the description."""
    for axis, shares in enumerate(_SHARES, start=1):
        counts = np.moveaxis(np.tensordot(counts, shares, (axis, 0)), -1, axis)
    return counts


def _shares(fine: int, bins: int, *, circular: bool) -> NDArray[np.float32]:
    """Return how much of each fine bin belongs to each bin: float32 (fine, bins), rows that sum to 1."""
    distance = np.abs((np.arange(fine)[:, None] + 0.5) * bins / fine - (np.arange(bins) + 0.5))
    if circular:
        distance = np.minimum(distance, bins - distance)
    shares = np.exp(-((distance / _SPREAD) ** 2) / 2)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float32)


_SHARES = [_shares(fine, bins, circular=axis == 0) for axis, (fine, bins) in enumerate(zip(_FINE, _BINS, strict=True))]
