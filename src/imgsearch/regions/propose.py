"""Propose the parts of a photo that are worth being embedded on their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from imgsearch.images import Fit
from imgsearch.images.boxes import Box, overlaps, stretched
from imgsearch.images.decode import Pixels
from imgsearch.regions.cut_out import Region, crop, cut_out
from imgsearch.regions.detections import Detected, decode_detections
from imgsearch.regions.salience import LEVEL, SIDE, Plane, salience, salient_box

# The box may be too wide, and then a box of what stands out by more than this fits better; or the item does not stand
# out, and then it is most likely in the middle, of which this share of each side is seen.
_TIGHT_LEVEL = 0.85
_MIDDLE = 0.6
# Boxes that share more of what they cover show the same.
_SAME = 0.7
# A photo whose colors differ by no more than this in any channel shows nothing.
_SAME_COLOR = 12
# A part of a plane that has fewer cells is no item of its own.
_MIN_CELLS = 6
# From here on a detector's mask shows an item rather than background.
_MASK_LEVEL = 0.5
# From this score on the best box of a detector is proposed, even if it is not sure.
_HARDLY_SURE = 0.05
# Windows: squares a shorter side, from one to three, for more bring smaller windows than most items; and how much of a
# side neighbors share at least.
_LEVELS = 3
_SHARED_SIDE = 0.4


@dataclass(frozen=True, slots=True)
class Proposal:
    """Where items are likely to be."""

    plane: Plane  # float32, stretched over the photo: about 0 for background, about 1 for an item
    boxes: Sequence[Box]  # around items, the surest first, in the photo's pixels
    item: Box | None = None  # what is best cut out of its background; None for the first box
    guesses: Sequence[Box] = ()  # where else a single item may be


def propose_salient(photo: Pixels, features: Plane | None, fit: Fit) -> Proposal | None:
    """Find what differs from the edge of a photo, in an encoder's map, brought to its square by `fit`, or in colors."""
    # A network's map differs along its edge even where its image does not.
    # Rows first: over all pixels at once NumPy takes thirty times as long.
    if int((photo.max(axis=0).max(axis=0) - photo.min(axis=0).min(axis=0)).max()) <= _SAME_COLOR:
        return None
    # A square that was cropped does not show all of it.
    plane = None if features is None or fit == "crop" else salience(without_padding(features, photo.shape[:2], fit))
    if plane is None:
        small = cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        plane = salience(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), np.float32))
    if plane is None:
        return None
    box, tight = (
        stretched(salient_box(plane, level), (SIDE, SIDE), photo.shape[:2]) for level in (LEVEL, _TIGHT_LEVEL)
    )
    return Proposal(plane, (box,), guesses=(tight, _middle(*photo.shape[:2])))


def _middle(height: int, width: int) -> Box:
    left, top = (round((1 - _MIDDLE) / 2 * side) for side in (width, height))
    return Box(left, top, max(1, width - 2 * left), max(1, height - 2 * top))


def propose_detected(detected: Detected, size: tuple[int, int], fit: Fit) -> Proposal | None:
    """Read what a detector says of a photo, (height, width); None if it found nothing."""
    height, width = size
    detections = decode_detections(detected.scores, detected.boxes, width, height, least_score=_HARDLY_SURE)
    if not detections:
        return None
    # The mask knows better how far an item reaches than the surest box does (docs/benchmarks.md).
    mask = without_padding(detected.mask, size, fit)
    item = next(iter(connected_boxes(mask, _MASK_LEVEL, size)), None)
    return Proposal(mask, [each.box for each in detections], item)


def crop_and_cutout(photo: Pixels, box: Box, plane: Plane, item: Box | None = None) -> Iterator[Region]:
    """Yield a box as it is and then, if it can be told from its background, its item (or `item`) cut out, on white."""
    yield Region(box, crop(photo, box))
    if (on_white := cut_out(photo, item or box, plane)) is not None:
        yield on_white


def connected_boxes(plane: Plane, level: float, size: tuple[int, int]) -> list[Box]:
    """Box what stands apart above a level in a plane stretched over a photo, (height, width); greatest sum first."""
    count, labels, facts, _ = cv2.connectedComponentsWithStats((plane > level).astype(np.uint8))
    sums = np.bincount(labels.reshape(-1), plane.reshape(-1), count)
    large = [number for number in range(1, count) if facts[number][cv2.CC_STAT_AREA] >= _MIN_CELLS]
    large.sort(key=lambda number: -sums[number])
    return [stretched(Box(*map(int, facts[number][:4])), plane.shape[:2], size) for number in large]


def propose_regions(photo: Pixels, proposal: Proposal | None, count: int) -> list[Region]:
    """Return at most so many regions: the items of a proposal, each twice, and then windows of a grid."""
    regions = (
        [region for box in proposal.boxes for region in crop_and_cutout(photo, box, proposal.plane)] if proposal else []
    )
    for window in windows(*photo.shape[:2]):
        if len(regions) >= count:
            break
        if not regions or overlaps([window], [region.box for region in regions]).max() <= _SAME:
            regions.append(Region(window, crop(photo, window)))
    return regions[:count]


def without_padding(features: Plane, size: tuple[int, int], fit: Fit) -> Plane:
    """Return the part of a map of a fitted square, (cells, cells, ...), that shows the photo, (height, width)."""
    if fit != "pad":
        return features
    cells = features.shape[0]
    longest = max(size)
    # Cells that show some of the padding would look like background to all others.
    inner = [max(1, int(cells * side / longest + 1e-6)) for side in size]
    inner = [max(1, side - (cells - side) % 2) for side in inner]
    top, left = ((cells - side) // 2 for side in inner)
    return features[top : top + inner[0], left : left + inner[1]]


def windows(height: int, width: int) -> list[Box]:
    """Lay squares of several sizes evenly over an image, the largest first (R-MAC: Tolias et al., 2016, section 4)."""
    boxes = []
    for level in range(1, _LEVELS + 1):
        side = max(1, 2 * min(height, width) // (level + 1))
        boxes += [Box(x, y, side, side) for y in _window_starts(height, side) for x in _window_starts(width, side)]
    return list(dict.fromkeys(boxes))


def _window_starts(length: int, side: int) -> list[int]:
    """Spread windows over a length so that neighbors overlap."""
    steps = -(-(length - side) // max(1, int(side * (1 - _SHARED_SIDE))))
    return [round(step * (length - side) / steps) for step in range(steps + 1)] if steps else [0]
