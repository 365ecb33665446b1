"""Tell the item from the background: cut off plain borders, and bring the item to the middle at one scale.

In these a catalog image and a photo of the same item differ most, and hand-crafted features see all of that.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import Pixels
from imgsearch.images.transform import fit, reduce

SIDE = 64

# Of the border, how much must be white for the image to be a cut-out on white, and what passes for white.
_WHITE_SHARE = 0.25
_WHITE = 248

# The background is looked for at most at this size: noise averages out, and time does not grow.
_MASK_SIDE = 128

# How far neighboring pixels of a plain background differ at most, in each channel of OpenCV's 8-bit CIE Lab.
_SMOOTH = 2.5

# A part of the foreground this much smaller than its largest is dirt.
_MIN_PART = 0.05
# Of an image, how much an item takes up at least, and at most on a background that is not white; else nothing was told
# from the background.
_MIN_SHARE = 0.005
_LARGEST_SHARE = 0.85

# What is more opaque than this shows.
_MIN_ALPHA = 16

# The square shown reaches this many standard deviations of the item's pixels from their center.
_REACH = 1.5

# What is looked for in a whole image shows when its longer side has so many pixels.
_PREVIEW_SIDE = 512

# A background is plain if so much of the image's edge differs by no more than this in any channel from its median. It
# leaves room for JPEG's noise, a soft shadow, and an item that reaches one side.
_EVEN_SHARE = 0.75
_EVEN_DIFFERENCE = 12
# Specks on the background are no item, and what takes less of the image than this is a speck.
_SPECK_SHARE = 0.001
_MARGIN = 0.03

_Mask = NDArray[np.bool_]


def crop_foreground(image: Pixels) -> Pixels:
    """Cut off a plain background around the item, if there are both, but for a margin of 3 % of what is left."""
    small = reduce(image, _PREVIEW_SIDE)
    boxes = _on_plain_background(small)
    if boxes is None or not len(boxes):
        return image
    scale = np.array(image.shape[:2]) / small.shape[:2]
    start = boxes[:, 1::-1].min(axis=0) * scale
    end = (boxes[:, 1::-1] + boxes[:, :1:-1]).max(axis=0) * scale
    margin = _MARGIN * (end - start).max()
    top, left = np.maximum(0, np.floor(start - margin)).astype(int)
    bottom, right = np.ceil(end + margin).astype(int)
    return image[top:bottom, left:right]


def has_plain_background(image: Pixels) -> bool:
    """Return whether an image's edge is mostly of one color, as that of a product image is."""
    return plain_background(image) is not None


def items_on_plain_background(image: Pixels) -> list[Box] | None:
    """Return a box around each item that stands alone, specks left out; None where the background is not plain."""
    small = reduce(image, _PREVIEW_SIDE)
    boxes = _on_plain_background(small)
    if boxes is None:
        return None
    return [stretched(Box(*box), small.shape[:2], image.shape[:2]) for box in boxes.tolist()]


def plain_background(image: Pixels) -> NDArray[np.int16] | None:
    """Find the RGB color of the background in an image's outermost pixels, if most of them have one."""
    image = reduce(image, _PREVIEW_SIDE)
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.int16)
    color = np.median(edge, axis=0).astype(np.int16)
    is_even = (np.abs(edge - color).max(axis=1) <= _EVEN_DIFFERENCE).mean() >= _EVEN_SHARE
    return color if is_even else None


def _on_plain_background(image: Pixels) -> NDArray[np.int64] | None:
    """Find boxes (n, 4) of x, y, width and height on a plain background; None if it is not plain."""
    background = plain_background(image)
    if background is None:
        return None
    lowest, highest = (
        tuple(np.clip(background + difference, 0, 255).tolist()) for difference in (-_EVEN_DIFFERENCE, _EVEN_DIFFERENCE)
    )
    differs = (np.asarray(cv2.inRange(image, lowest, highest)) == 0).astype(np.uint8)
    contours, _ = cv2.findContours(differs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], np.int64).reshape(-1, 4)
    return np.asarray(boxes[boxes[:, 2] * boxes[:, 3] >= _SPECK_SHARE * differs.size], np.int64)


@dataclass(frozen=True, slots=True)
class Item:
    """An item without its background, centered, at one scale."""

    pixels: Pixels  # RGB, uint8 (side, side, 3), on white
    weights: NDArray[np.float32]  # (side, side), from 0 (background) to 1 (item)


def centered_item(image: Pixels, side: int = SIDE) -> Item:
    """Find the item of a square image, RGB, and bring it to a square of its own; all of it where no item stands out."""
    mask = foreground(image)
    if mask.all():  # its frame is no edge, so it must not be shown on white
        return Item(fit(image, side, "stretch"), np.ones((side, side), np.float32))
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
    """Find what is not background in a square image, RGB: bool (size, size), all true where nothing stands out.

    The background is what an even color, changing slowly, reaches from the border. On white, only white is background,
    so an item may touch the border. On any other background neighbors are compared, so a smooth gradient is followed;
    a busy background is not, and then all is foreground.
    """
    size = image.shape[0]
    if size > _MASK_SIDE:
        found = foreground(fit(image, _MASK_SIDE, "stretch")).astype(np.uint8)
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
        smaller = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
        mask = smaller if smaller.any() else mask
    mask = large_parts(mask, _MIN_PART)
    return mask if mask.mean() >= _MIN_SHARE else np.ones_like(mask)


def without_background(item: Pixels) -> Pixels:
    """Make transparent what is background around an item, RGBA; as it is where some of it is transparent already."""
    if item[:, :, 3].min() <= _MIN_ALPHA:
        return item
    height, width = item.shape[:2]
    glance = cv2.resize(item[:, :, :3], (_MASK_SIDE, _MASK_SIDE), interpolation=cv2.INTER_AREA)
    mask = foreground(np.asarray(glance, np.uint8)).astype(np.uint8) * np.uint8(255)
    opacity = cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.dstack([item[:, :, :3], np.asarray(opacity, np.uint8)])


def crop_transparent(item: Pixels) -> Pixels:
    """Cut off what is transparent around an item: RGBA, uint8; without a pixel where nothing shows."""
    x, y, width, height = cv2.boundingRect((item[:, :, 3] > _MIN_ALPHA).astype(np.uint8))
    return item[y : y + height, x : x + width]


def _reached(image: NDArray[np.uint8] | NDArray[np.float32], seeds: _Mask, step: float) -> _Mask:
    """Return which pixels are connected with a seed through neighbors that differ by no more than `step`."""
    height, width = seeds.shape
    mark = np.zeros((height + 2, width + 2), np.uint8)
    steps = (step, step, step)
    for row, column in np.argwhere(seeds).tolist():
        if not mark[row + 1, column + 1]:
            cv2.floodFill(image, mark, (column, row), 0, steps, steps, 4 | cv2.FLOODFILL_MASK_ONLY | 1 << 8)
    return np.asarray(mark[1:-1, 1:-1] == 1, np.bool_)


def large_parts(mask: _Mask, min_part: float) -> _Mask:
    """Keep connected parts of at least this share of the largest."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = np.asarray(facts)[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    large = areas >= max(1.0, min_part * areas.max())
    return np.asarray(large[labels], np.bool_) if count > 1 else mask


def pooling(cells: int) -> NDArray[np.float32]:
    """Return how much of each row of an item's square belongs to each of so many rows of cells: float32 (cells, SIDE).

    `pooling(n) @ plane @ pooling(n).T` sums a (SIDE, SIDE) plane over n x n cells.
    """
    # Every row is shared between the two cells whose middles it lies between, in proportion.
    place = (np.arange(SIDE) + 0.5) * cells / SIDE - 0.5
    return np.asarray(np.maximum(0, 1 - np.abs(place - np.arange(cells)[:, None])), np.float32)
