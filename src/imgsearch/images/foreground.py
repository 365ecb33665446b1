"""Tell the item from the background it stands on, and bring it to the middle at one scale.

A catalog image and a photo of the same item differ most in the background, and in where on it and how large the
item is. Hand-crafted features see all of that; so it is taken away before anything is described.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels

SIDE = 64

# Of the border, how much must be white for the image to be a cut-out on white, and what passes for white.
_WHITE_SHARE = 0.25
_WHITE = 248

# The background is looked for at most at this size: noise averages out, and time does not grow.
_SEARCHED = 128

# How far neighboring pixels of a plain background differ at most, in each channel of OpenCV's 8-bit CIE Lab.
_SMOOTH = 2.5

# A part of the foreground this much smaller than its largest is dirt.
_LEAST_PART = 0.05
# Of an image, how much an item takes up at least, and at most on a background that is not white; else nothing was told
# from the background.
_LEAST_SHARE = 0.005
_LARGEST_SHARE = 0.85

# What is more opaque than this shows.
_SHOWS = 16

# The square shown reaches this many standard deviations of the item's pixels from their center.
_REACH = 1.5

_Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Item:
    """An item without its background, centered, at one scale.

    Attributes:
        pixels: RGB, uint8 (side, side, 3), on white.
        weights: float32 (side, side), from 0 (background) to 1 (item).
    """

    pixels: Pixels
    weights: NDArray[np.float32]


def cut_out(image: Pixels, side: int = SIDE) -> Item:
    """Find the item of an image, and bring it to a square of its own.

    Args:
        image: RGB, uint8 (size, size, 3), size at least 32.
        side: Of the square, in pixels.

    Returns:
        The item; the whole image where no item stands out from the background.
    """
    mask = foreground(image)
    if mask.all():  # its frame is no edge, so it must not be shown on white
        how = cv2.INTER_AREA if len(mask) > side else cv2.INTER_LINEAR
        resized = np.asarray(cv2.resize(image, (side, side), interpolation=how), np.uint8)
        return Item(resized, np.ones((side, side), np.float32))
    moments = cv2.moments(mask.astype(np.uint8), binaryImage=True)
    area = moments["m00"]
    across, down = moments["m10"] / area, moments["m01"] / area
    # One pixel more, so that an item of a single pixel has an extent.
    radius = _REACH * np.sqrt((moments["mu20"] + moments["mu02"]) / area + 1)
    scale = side / (2 * radius)
    middle = side / 2 - 0.5
    placing = np.array([[scale, 0, middle - scale * across], [0, scale, middle - scale * down]])
    shown = cv2.warpAffine(image, placing, (side, side), borderMode=cv2.BORDER_REPLICATE)
    weights = np.asarray(cv2.warpAffine(mask.astype(np.float32), placing, (side, side)), np.float32)
    on_white = 255 + weights[:, :, None] * (np.asarray(shown, np.float32) - 255)
    return Item(np.rint(on_white).astype(np.uint8), weights)


def foreground(image: Pixels) -> _Mask:
    """Find what is not background: the background is what an even color, changing slowly, reaches from the border.

    On white, only white is background, so an item may touch the border. On any other background neighbors are compared,
    so a smooth gradient is followed; a busy background is not, and then all is foreground.

    Args:
        image: RGB, uint8 (size, size, 3).

    Returns:
        bool (size, size), true on the item; all true where nothing stands out.
    """
    size = image.shape[0]
    if size > _SEARCHED:
        small = cv2.resize(image, (_SEARCHED, _SEARCHED), interpolation=cv2.INTER_AREA)
        found = foreground(np.asarray(small, np.uint8)).astype(np.uint8)
        return np.asarray(cv2.resize(found, (size, size), interpolation=cv2.INTER_NEAREST) > 0, np.bool_)
    border = np.ones(image.shape[:2], np.bool_)
    border[1:-1, 1:-1] = False
    white = np.asarray(cv2.inRange(image, (_WHITE,) * 3, (255,) * 3), np.uint8)
    if np.mean(white[border] > 0) >= _WHITE_SHARE:
        mask = ~_reached(white, border & (white > 0), 0)
    else:
        lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
        mask = ~_reached(np.asarray(cv2.GaussianBlur(lab, (0, 0), 0.5), np.float32), border, _SMOOTH)
        if mask.mean() > _LARGEST_SHARE:
            return np.ones_like(mask)
        # The item's edge is a mixture of both, a pixel wide.
        mask = _eroded(mask)
    mask = _large_parts(mask)
    return mask if mask.mean() >= _LEAST_SHARE else np.ones_like(mask)


def without_background(item: Pixels) -> Pixels:
    """Make transparent what is background around an item; see `foreground`.

    Args:
        item: RGBA, uint8 (height, width, 4).

    Returns:
        RGBA, uint8, of the same size; the same where some of it is transparent already.
    """
    if item[:, :, 3].min() <= _SHOWS:
        return item
    height, width = item.shape[:2]
    glance = cv2.resize(item[:, :, :3], (_SEARCHED, _SEARCHED), interpolation=cv2.INTER_AREA)
    mask = foreground(np.asarray(glance, np.uint8)).astype(np.uint8) * np.uint8(255)
    opacity = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.dstack([item[:, :, :3], np.asarray(opacity, np.uint8)])


def without_border(item: Pixels) -> Pixels:
    """Cut off what is transparent around an item: RGBA, uint8; without a pixel where nothing shows."""
    x, y, width, height = cv2.boundingRect((item[:, :, 3] > _SHOWS).astype(np.uint8))
    return item[y : y + height, x : x + width]


def _reached(image: NDArray[np.uint8] | NDArray[np.float32], seeds: _Mask, step: float) -> _Mask:
    """Say which pixels are connected with a seed through neighbors that differ by no more than `step`."""
    height, width = seeds.shape
    mark = np.zeros((height + 2, width + 2), np.uint8)
    steps = (step, step, step)
    for row, column in np.argwhere(seeds).tolist():
        if not mark[row + 1, column + 1]:
            cv2.floodFill(image, mark, (column, row), 0, steps, steps, 4 | cv2.FLOODFILL_MASK_ONLY | 1 << 8)
    return np.asarray(mark[1:-1, 1:-1] == 1, np.bool_)


def _eroded(mask: _Mask) -> _Mask:
    smaller = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
    return smaller if smaller.any() else mask


def _large_parts(mask: _Mask) -> _Mask:
    """Keep connected parts that are not much smaller than the largest."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = np.asarray(facts)[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    large = areas >= max(1.0, _LEAST_PART * areas.max())
    return np.asarray(large[labels], np.bool_) if count > 1 else mask


def pooling(cells: int) -> NDArray[np.float32]:
    """Say how much of each row of an item's square belongs to each of so many rows of cells.

    Every row is shared between the two cells whose middles it lies between, in proportion. `pooling(n) @ plane @
    pooling(n).T` sums a (SIDE, SIDE) plane over n x n cells.

    Args:
        cells: How many cells there are a side.

    Returns:
        float32 (cells, SIDE).
    """
    place = (np.arange(SIDE) + 0.5) * cells / SIDE - 0.5
    return np.asarray(np.maximum(0, 1 - np.abs(place - np.arange(cells)[:, None])), np.float32)
