"""Change pictures: bring them to a size, and do what `steps.Steps` names.

Pictures are RGB, uint8 of shape (height, width, 3), of any size; the one that was given is never changed.
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import Pixels

Fit = Literal["pad", "crop", "stretch"]

WHITE = (255, 255, 255)

# What is looked for in a picture (a ground, an angle) shows when its longer side has so many pixels.
_GLANCE = 512

# A ground is even if so much of the picture's edge differs by no more than this in any channel from its median. It
# leaves room for JPEG's noise, a soft shadow, and an item that reaches one side.
_EVEN_SHARE = 0.75
_EVEN_DIFFERENCE = 12
# Specks on the ground are no item, and what takes less of the picture than this is a speck.
_SPECK_SHARE = 0.001
_MARGIN = 0.03

_MOST_ASKEW = 20.0
_LEAST_ASKEW = 0.2
# A line counts from so much of the shorter side; together those of one angle must be as long as the shorter side, and
# half of all.
_SHORTEST_LINE = 0.05
_SAME_ANGLE = 1.0

# OpenCV cannot turn into pictures with a side over 32,766 pixels, and a strip turned by 45 degrees takes a square.
_LONGEST_TURNED = 16_384


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


def reduce(picture: Pixels, longest: int) -> Pixels:
    """Bring the longer side down to so many pixels; smaller pictures stay as they are."""
    height, width = picture.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return picture
    return _resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def crop_foreground(picture: Pixels) -> Pixels:
    """Cut off an even ground around the item, but for a margin of 3 % of what is left.

    Where the edge of the picture shows no even ground, or nothing stands on it, the picture stays as it is.
    """
    small = reduce(picture, _GLANCE)
    boxes = _on_even_ground(small)
    if boxes is None or not len(boxes):
        return picture
    scale = np.array(picture.shape[:2]) / small.shape[:2]
    start = boxes[:, 1::-1].min(axis=0) * scale
    end = (boxes[:, 1::-1] + boxes[:, :1:-1]).max(axis=0) * scale
    margin = _MARGIN * (end - start).max()
    top, left = np.maximum(0, np.floor(start - margin)).astype(int)
    bottom, right = np.ceil(end + margin).astype(int)
    return picture[top:bottom, left:right]


def has_even_ground(picture: Pixels) -> bool:
    """Say whether a picture's edge is mostly of one colour, as that of a product picture is."""
    return _even_ground(reduce(picture, _GLANCE)) is not None


def items_on_even_ground(picture: Pixels) -> list[Box] | None:
    """Find what stands on an even ground.

    Returns:
        A box around each thing that stands alone, specks left out; None where the ground is not even.
    """
    small = reduce(picture, _GLANCE)
    boxes = _on_even_ground(small)
    if boxes is None:
        return None
    return [stretched(Box(*box), small.shape[:2], picture.shape[:2]) for box in boxes.tolist()]


def deskew(picture: Pixels) -> Pixels:
    """Turn upright what stands askew by up to 20 degrees; what the corners show is the ground, or white.

    The angle is the one that most of the straight lines have (line segment detector of Grompone von Gioi et al.,
    2010), or are square to. Where no angle has half of them the picture stays as it is.
    """
    small = reduce(picture, _GLANCE)
    angle = _common_angle(small)
    if not _LEAST_ASKEW <= abs(angle) <= _MOST_ASKEW:
        return picture
    ground = _even_ground(small)
    return rotate(picture, angle, WHITE if ground is None else (int(ground[0]), int(ground[1]), int(ground[2])))


def rotate(picture: Pixels, degrees: float, corners: tuple[int, int, int] = WHITE) -> Pixels:
    """Turn a picture anticlockwise; it grows so that all of it shows.

    Args:
        picture: RGB.
        degrees: How far. Quarter turns change no pixel.
        corners: RGB colour of what the picture does not cover.

    Returns:
        RGB. A picture that would have a side over 16,384 pixels is reduced, but not by quarter turns.
    """
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(picture, int(degrees // 90)))
    cosine, sine = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    height, width = picture.shape[:2]
    longest = max(width * cosine + height * sine, height * cosine + width * sine)
    if longest > _LONGEST_TURNED:
        picture = reduce(picture, int(max(height, width) * _LONGEST_TURNED / longest))
        height, width = picture.shape[:2]
    turned_width, turned_height = (
        max(1, round(width * cosine + height * sine)),
        max(1, round(height * cosine + width * sine)),
    )
    turn = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0), np.float64)
    turn[:, 2] += (turned_width - width) / 2, (turned_height - height) / 2
    return np.asarray(
        cv2.warpAffine(picture, turn, (turned_width, turned_height), flags=cv2.INTER_LINEAR, borderValue=corners),
        np.uint8,
    )


def denoise(picture: Pixels) -> Pixels:
    """Smooth noise and keep edges (bilateral filter, Tomasi and Manduchi, 1998).

    Non-local means take a hundred times as long, and bring a noisy catalogue picture no nearer to what it was.
    """
    return np.asarray(cv2.bilateralFilter(picture, 5, 40, 2), np.uint8)


def equalize(picture: Pixels) -> Pixels:
    """Spread the luminance, part by part of the picture (CLAHE, Zuiderveld, 1994); colours keep their tint."""
    luminance = cv2.cvtColor(picture, cv2.COLOR_RGB2YCrCb)
    luminance[:, :, 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(luminance[:, :, 0]))
    return np.asarray(cv2.cvtColor(luminance, cv2.COLOR_YCrCb2RGB), np.uint8)


def grayscale(picture: Pixels) -> Pixels:
    """Take out the colour: three equal channels, the luminance of ITU-R BT.601."""
    return _three(_luminance(picture))


def binarize(picture: Pixels, method: str) -> Pixels:
    """Make a picture black and white.

    Args:
        picture: RGB.
        method: `otsu` finds one threshold (Otsu, 1979); `adaptive` compares with the mean of the neighbourhood, a
            sixteenth of the longer side; a number is the threshold: what is lighter is white.

    Returns:
        RGB, each pixel all 0 or all 255.
    """
    light = _luminance(picture)
    if method == "adaptive":
        block = max(11, max(light.shape) // 16 | 1)
        return _three(cv2.adaptiveThreshold(light, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, block, 5))
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if method == "otsu" else 0)
    return _three(cv2.threshold(light, 0 if method == "otsu" else int(method), 255, kind)[1])


def _on_even_ground(picture: Pixels) -> NDArray[np.int64] | None:
    """Find boxes (n, 4) of x, y, width and height around what differs from an even ground; None if it is not even."""
    ground = _even_ground(picture)
    if ground is None:
        return None
    differs = (np.abs(picture.astype(np.int16) - ground).max(axis=2) > _EVEN_DIFFERENCE).astype(np.uint8)
    contours, _ = cv2.findContours(differs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], np.int64).reshape(-1, 4)
    return np.asarray(boxes[boxes[:, 2] * boxes[:, 3] >= _SPECK_SHARE * differs.size], np.int64)


def _even_ground(picture: Pixels) -> NDArray[np.int16] | None:
    """Find the RGB colour of the ground in a picture's outermost pixels, if most of them have one."""
    edge = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]).astype(np.int16)
    colour = np.median(edge, axis=0).astype(np.int16)
    is_even = (np.abs(edge - colour).max(axis=1) <= _EVEN_DIFFERENCE).mean() >= _EVEN_SHARE
    return colour if is_even else None


def _common_angle(picture: Pixels) -> float:
    """Find how many degrees clockwise, -45 to 45, most straight lines are off upright; 0 if they disagree."""
    lines = cv2.createLineSegmentDetector().detect(_luminance(picture))[0]
    ends = np.asarray([] if lines is None else lines, np.float64).reshape(-1, 2, 2)
    across, down = (ends[:, 1] - ends[:, 0]).T
    lengths = np.hypot(across, down)
    shorter = min(picture.shape[:2])
    counts = lengths >= _SHORTEST_LINE * shorter
    lengths, angles = lengths[counts], np.degrees(np.arctan2(down, across))[counts]
    if not len(lengths):
        return 0.0
    # A line square to another has the same angle; from 44 degrees to -44 it is two.
    apart = (angles - angles[:, np.newaxis] + 45) % 90 - 45
    agree = np.abs(apart) <= _SAME_ANGLE
    best = int((agree @ lengths).argmax())
    weights = lengths * agree[best]
    if weights.sum() < max(shorter, lengths.sum() / 2):
        return 0.0
    angle = angles[best] + apart[best] @ weights / weights.sum()
    return float((angle + 45) % 90 - 45)


def _luminance(picture: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)


def _three(channel: object) -> Pixels:
    return np.asarray(cv2.cvtColor(np.asarray(channel, np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)


def _resize(picture: Pixels, height: int, width: int) -> Pixels:
    # INTER_AREA averages what it leaves out; enlarging with it would give blocks.
    shrinks = height < picture.shape[0] or width < picture.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how), np.uint8)
