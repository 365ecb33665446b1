"""A fixed grid of windows over a photo."""

from imgsearch.images.boxes import Box

# Squares a shorter side, from one to three; more bring smaller windows than most items.
_LEVELS = 3
# Neighbors share at least so much of a side.
_SHARED = 0.4


def windows(height: int, width: int) -> list[Box]:
    """Lay squares of several sizes evenly over an image, the largest first (R-MAC: Tolias et al., 2016, section 4).

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.

    Returns:
        Boxes within it; of the first size as many as a long image needs, then more.
    """
    found = []
    for level in range(1, _LEVELS + 1):
        side = max(1, 2 * min(height, width) // (level + 1))
        found += [Box(x, y, side, side) for y in _starts(height, side) for x in _starts(width, side)]
    return list(dict.fromkeys(found))


def _starts(length: int, side: int) -> list[int]:
    """Spread windows over a length so that neighbors overlap."""
    steps = -(-(length - side) // max(1, int(side * (1 - _SHARED))))
    return [round(step * (length - side) / steps) for step in range(steps + 1)] if steps else [0]
