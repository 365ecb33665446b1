"""Say which parts of a photo are worth a look of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from imgsearch.images.boxes import Box, overlaps, stretched
from imgsearch.images.decode import Pixels
from imgsearch.images.transform import Fit
from imgsearch.regions.cut_out import crop, cut_out
from imgsearch.regions.detections import found
from imgsearch.regions.detector import Detected
from imgsearch.regions.salience import SIDE, Plane, salience, salient_box
from imgsearch.regions.windows import windows

# Boxes that share more of what they cover show the same.
_SAME = 0.7
# A photo whose colors differ by no more than this in any channel shows nothing.
_SAME_COLOR = 12
# A part of a plane that has fewer cells is no item of its own.
_FEWEST_CELLS = 6
# Of a detector's mask, what is item rather than background.
ITEM = 0.5
# The score of a detector's box from which on it is looked at if it is the best: even if it is not sure.
_HARDLY = 0.05


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a photo.

    Attributes:
        box: Where, in the photo's pixels.
        pixels: What an encoder is to see of it: RGB, uint8; the box, or the item in it on white.
    """

    box: Box
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Proposal:
    """Where an item is likely to be.

    Attributes:
        plane: float32, stretched over the photo: about 0 where there is background, about 1 where there is an item.
        boxes: Around items, the surest first, in the photo's pixels.
        item: What is best cut out of its background; None for the first box.
    """

    plane: Plane
    boxes: Sequence[Box]
    item: Box | None = None


def salient(photo: Pixels, features: Plane | None, how: Fit) -> Proposal | None:
    """Find what differs from the edge of a photo.

    Args:
        photo: RGB, uint8 (height, width, 3).
        features: An encoder's map of the photo, fitted; None where there is none: then colors have to do.
        how: It was fitted.

    Returns:
        One box; None where nothing differs.
    """
    # A network's map differs along its edge even where its image does not.
    if int(np.ptp(photo.reshape(-1, 3), axis=0).max()) <= _SAME_COLOR:
        return None
    # A square that was cropped does not show all of it.
    plane = None if features is None or how == "crop" else salience(of_photo(features, photo.shape[:2], how))
    if plane is None:
        small = cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        plane = salience(np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2LAB), np.float32))
    if plane is None:
        return None
    return Proposal(plane, (stretched(salient_box(plane), (SIDE, SIDE), photo.shape[:2]),))


def detected_items(detected: Detected, size: tuple[int, int], how: Fit) -> Proposal | None:
    """Read what a detector says of a photo of which only the likeliest item is to be looked at.

    The mask knows better how far an item reaches than the surest box does, and that one better what is an item
    (docs/benchmarks.md): so the largest part of the mask is what is cut out.

    Args:
        detected: Of the photo, fitted.
        size: Height and width of the photo.
        how: It was fitted.

    Returns:
        The boxes of items that are hardly sure, too; None where there are none.
    """
    height, width = size
    boxes = [each.box for each in found(detected.scores, detected.boxes, width, height, least_score=_HARDLY)]
    if not boxes:
        return None
    mask = of_photo(detected.mask, size, how)
    return Proposal(mask, boxes, next(iter(parts(mask, ITEM, size)), None))


def crop_and_cutout(photo: Pixels, box: Box, plane: Plane, item: Box | None = None) -> Iterator[Region]:
    """Show what is in a box as it stands there, and cut out, on white, if it can be told from its background.

    Each finds items that the other does not (docs/benchmarks.md). To cut out takes longer than an encoder's pass, and
    is done only when the second is asked for.

    Args:
        photo: RGB, uint8 (height, width, 3).
        box: In its pixels.
        plane: As in `Proposal`.
        item: What is cut out; `box` if None.

    Yields:
        One region or two.
    """
    yield Region(box, crop(photo, box))
    found = cut_out(photo, item or box, plane)
    if found is not None:
        yield Region(found.box, found.pixels)


def parts(plane: Plane, level: float, size: tuple[int, int]) -> list[Box]:
    """Find what stands apart in a plane.

    Args:
        plane: float32, stretched over a photo.
        level: What is above belongs to a part.
        size: Height and width of the photo.

    Returns:
        A box around each part that is not tiny, in the photo's pixels; the one with the greatest sum first.
    """
    count, labels, facts, _ = cv2.connectedComponentsWithStats((plane > level).astype(np.uint8))
    sums = np.bincount(labels.reshape(-1), plane.reshape(-1), count)
    large = [number for number in range(1, count) if facts[number][cv2.CC_STAT_AREA] >= _FEWEST_CELLS]
    large.sort(key=lambda number: -sums[number])
    return [stretched(Box(*map(int, facts[number][:4])), plane.shape[:2], size) for number in large]


def many_regions(photo: Pixels, proposal: Proposal | None, count: int) -> list[Region]:
    """Show likely items, each twice, and then windows of a grid, until there are enough.

    Args:
        photo: RGB, uint8 (height, width, 3).
        proposal: Where its items are; None if nothing is known.
        count: How many regions at most.
    """
    regions = (
        [region for box in proposal.boxes for region in crop_and_cutout(photo, box, proposal.plane)] if proposal else []
    )
    for window in windows(*photo.shape[:2]):
        if len(regions) >= count:
            break
        if not regions or overlaps([window], [region.box for region in regions]).max() <= _SAME:
            regions.append(Region(window, crop(photo, window)))
    return regions[:count]


def of_photo(features: Plane, size: tuple[int, int], how: Fit) -> Plane:
    """Take from a map of a fitted square what shows the photo, and no padding.

    Args:
        features: (cells, cells, ...).
        size: Height and width of the photo.
        how: It was fitted.

    Returns:
        (height, width, ...), a view.
    """
    if how != "pad":
        return features
    cells = features.shape[0]
    longest = max(size)
    # Cells that show some of the padding would look like background to all others.
    inner = [max(1, int(cells * side / longest + 1e-6)) for side in size]
    inner = [max(1, side - (cells - side) % 2) for side in inner]
    top, left = ((cells - side) // 2 for side in inner)
    return features[top : top + inner[0], left : left + inner[1]]
