"""Change pictures: bring them to an encoder's size."""

from typing import Literal

import cv2
import numpy as np

from imgsearch.images.decode import Pixels

Fit = Literal["pad", "crop", "stretch"]


def fit(picture: Pixels, size: int, how: Fit = "pad") -> Pixels:
    """Bring a picture to a square.

    Args:
        picture: RGB, uint8 of shape (height, width, 3).
        size: Side of the square in pixels.
        how: `pad` shows all of it, centred on white, as product pictures stand; `crop` fills the square with its
            middle; `stretch` changes its proportions.

    Returns:
        RGB, uint8 of shape (size, size, 3).
    """
    height, width = picture.shape[:2]
    if how == "stretch":
        return _resize(picture, size, size)
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(picture[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    square = np.full((size, size, 3), 255, np.uint8)
    square[top : top + inner_height, left : left + inner_width] = _resize(picture, inner_height, inner_width)
    return square


def _resize(picture: Pixels, height: int, width: int) -> Pixels:
    # INTER_AREA averages what it leaves out; enlarging with it would give blocks.
    shrinks = height < picture.shape[0] or width < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)
