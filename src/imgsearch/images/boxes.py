"""Rectangles in an image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Score = TypeVar("Score")
Number = TypeVar("Number", bound=np.floating)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels, in the image as it is seen upright.

    Attributes:
        x: Of its left edge, from 0.
        y: Of its upper edge, from 0.
        width: At least 1.
        height: At least 1.
    """

    x: int
    y: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """In pixels."""
        return self.width * self.height

    def to_json(self) -> list[int]:
        """Return left and upper edge, width and height, as JSON has them."""
        return [self.x, self.y, self.width, self.height]


def overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> NDArray[np.float64]:
    """Compute the intersection over union of n boxes with m others: float64 (n, m), 0 to 1."""
    return overlaps_of_corners(corners(boxes), corners(others))


def overlaps_of_corners(boxes: NDArray[Number], others: NDArray[Number]) -> NDArray[Number]:
    """Compute the intersection over union of boxes, (n, 4), with others, (m, 4): (n, m); 0 without area."""
    first, second = boxes[:, None], others[None]
    start, end = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    shared = np.prod(np.maximum(0, end - start), axis=2)
    areas = [np.prod(np.maximum(0, each[..., 2:] - each[..., :2]), axis=2) for each in (first, second)]
    return np.asarray(shared / np.maximum(areas[0] + areas[1] - shared, 1e-12), boxes.dtype)


def corners(boxes: Sequence[Box]) -> NDArray[np.float64]:
    """Return left, upper, right and lower edges of n boxes: float64 (n, 4)."""
    rows = [(box.x, box.y, box.x + box.width, box.y + box.height) for box in boxes]
    return np.array(rows, np.float64).reshape(-1, 4)


def stretched(box: Box, frame: tuple[int, int], other: tuple[int, int]) -> Box:
    """Bring a box from one frame to another that shows the same, both given by height and width."""
    down, across = other[0] / frame[0], other[1] / frame[1]
    left = min(max(0, round(box.x * across)), other[1] - 1)
    top = min(max(0, round(box.y * down)), other[0] - 1)
    right = min(max(left + 1, round((box.x + box.width) * across)), other[1])
    bottom = min(max(top + 1, round((box.y + box.height) * down)), other[0])
    return Box(left, top, right - left, bottom - top)


def in_reading_order(found: Sequence[tuple[Box, Score]]) -> list[tuple[Box, Score]]:
    """Sort boxes, each with whatever goes with it, by lines from the top and from left to right within a line."""
    # A box belongs to a line if its middle is above the lower edge of the line's uppermost box.
    lines: list[list[tuple[Box, Score]]] = []
    for box, score in sorted(found, key=lambda each: each[0].y):
        if lines and box.y + box.height / 2 < lines[-1][0][0].y + lines[-1][0][0].height:
            lines[-1].append((box, score))
        else:
            lines.append([(box, score)])
    return [each for line in lines for each in sorted(line, key=lambda each: each[0].x)]
