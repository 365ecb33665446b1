"""Cut an item out of its background, and put it on white, as it stands in the catalog."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import large_parts
from imgsearch.images.transform import reduce

# GrabCut's time grows with the pixels; more of them brought no better answers.
_WORKING_SIDE = 120
_ROUNDS = 3

# What lies this much of a box's longer side outside of it is background for sure.
_AROUND = 0.25

# What is at least this likely to be item, in a box, may be item; elsewhere it may be background.
_PROBABLY_ITEM = 0.6

# A part of the item that is this much smaller than its largest is dirt.
_MIN_PART = 0.1
# Of the box, what an item fills at least.
_MIN_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a photo."""

    box: Box  # in the photo's pixels
    pixels: Pixels  # what an encoder is to see of it: RGB, uint8; the box, or the item in it on white


def cut_out(photo: Pixels, box: Box, proposal: NDArray[np.float32]) -> Region | None:
    """Cut an item out by colors (GrabCut: Rother et al., 2004); `proposal`, 0 to 1, of any size, says where it is."""
    small = reduce(photo, _WORKING_SIDE)
    height, width = small.shape[:2]
    inner = stretched(box, photo.shape[:2], (height, width))
    guess = np.asarray(cv2.resize(proposal, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    around = max(1, round(_AROUND * max(inner.width, inner.height)))
    marks = np.full((height, width), cv2.GC_BGD, np.uint8)
    # A pixel at the least stays background on each side, for there must be some.
    marks[
        max(1, inner.y - around) : min(height - 1, inner.y + inner.height + around),
        max(1, inner.x - around) : min(width - 1, inner.x + inner.width + around),
    ] = cv2.GC_PR_BGD
    inside = (slice(inner.y, inner.y + inner.height), slice(inner.x, inner.x + inner.width))
    marks[inside][(guess[inside] > _PROBABLY_ITEM) & (marks[inside] == cv2.GC_PR_BGD)] = cv2.GC_PR_FGD
    if np.count_nonzero(marks == cv2.GC_PR_FGD) < 9 or np.count_nonzero(marks == cv2.GC_BGD) < 9:
        return None
    cv2.setRNGSeed(0)  # its k-means starts at random
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(np.ascontiguousarray(small), marks, (0, 0, 1, 1), *models, _ROUNDS, cv2.GC_INIT_WITH_MASK)
    item = large_parts(np.isin(marks, (cv2.GC_FGD, cv2.GC_PR_FGD)), _MIN_PART)
    if np.count_nonzero(item) < max(9, _MIN_SHARE * inner.area):
        return None
    found = stretched(Box(*cv2.boundingRect(item.astype(np.uint8))), (height, width), photo.shape[:2])
    opacity = cv2.resize(item.astype(np.float32), photo.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return Region(found, on_white(crop(photo, found), crop(np.asarray(opacity, np.float32), found)))


def on_white(image: Pixels, opacity: NDArray[np.float32]) -> Pixels:
    """Put white where an image is not opaque: RGB, uint8, and (height, width), 0 to 1, of the same size."""
    opaque = opacity[:, :, None]
    return np.asarray(np.rint(image * opaque + 255 * (1 - opaque)), np.uint8)


def crop(plane: NDArray, box: Box) -> NDArray:  # type: ignore[type-arg]  # of any type, and the same that it gets
    """Return the part of a plane that a box, which lies in it, covers."""
    return plane[box.y : box.y + box.height, box.x : box.x + box.width]
