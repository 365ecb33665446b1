"""Change images: bring them to a size, and do what `steps.Steps` names.

Images are RGB, uint8 of shape (height, width, 3), of any size; the one that was given is never changed.
"""

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import Pixels

Fit = Literal["pad", "crop", "stretch"]

WHITE = (255, 255, 255)

# What is looked for in an image (a background, an angle) shows when its longer side has so many pixels.
_GLANCE = 512

# A background is even if so much of the image's edge differs by no more than this in any channel from its median. It
# leaves room for JPEG's noise, a soft shadow, and an item that reaches one side.
_EVEN_SHARE = 0.75
_EVEN_DIFFERENCE = 12
# Specks on the background are no item, and what takes less of the image than this is a speck.
_SPECK_SHARE = 0.001
_MARGIN = 0.03

_MOST_ASKEW = 20.0
_LEAST_ASKEW = 0.2
# A line counts from so much of the shorter side; together those of one angle must be as long as the shorter side, and
# half of all.
_SHORTEST_LINE = 0.05
_SAME_ANGLE = 1.0

# OpenCV cannot turn into images with a side over 32,766 pixels, and a strip turned by 45 degrees takes a square.
_LONGEST_TURNED = 16_384


def fit(image: Pixels, size: int, how: Fit = "pad") -> Pixels:
    """Bring an image to a square.

    Args:
        image: RGB, uint8 of shape (height, width, 3).
        size: Side of the square in pixels.
        how: `pad` shows all of it, centered on white, as product images stand; `crop` fills the square with its
            middle; `stretch` changes its proportions.

    Returns:
        RGB, uint8 of shape (size, size, 3).
    """
    height, width = image.shape[:2]
    if how == "stretch":
        return _resize(image, size, size)
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _resize(image[top : top + side, left : left + side], size, size)
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    square = np.full((size, size, 3), 255, np.uint8)
    square[top : top + inner_height, left : left + inner_width] = _resize(image, inner_height, inner_width)
    return square


def reduce(image: Pixels, longest: int) -> Pixels:
    """Bring the longer side down to so many pixels; smaller images stay as they are."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return _resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def crop_foreground(image: Pixels) -> Pixels:
    """Cut off a plain background around the item, but for a margin of 3 % of what is left.

    Where the edge of the image shows no plain background, or nothing stands on it, the image stays as it is.
    """
    small = reduce(image, _GLANCE)
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
    """Say whether an image's edge is mostly of one color, as that of a product image is."""
    return _plain_background(reduce(image, _GLANCE)) is not None


def items_on_plain_background(image: Pixels) -> list[Box] | None:
    """Find what stands on a plain background.

    Returns:
        A box around each thing that stands alone, specks left out; None where the background is not even.
    """
    small = reduce(image, _GLANCE)
    boxes = _on_plain_background(small)
    if boxes is None:
        return None
    return [stretched(Box(*box), small.shape[:2], image.shape[:2]) for box in boxes.tolist()]


def deskew(image: Pixels) -> Pixels:
    """Turn upright what stands askew by up to 20 degrees; what the corners show is the background, or white.

    The angle is the one that most of the straight lines have (line segment detector of Grompone von Gioi et al.,
    2010), or are square to. Where no angle has half of them the image stays as it is.
    """
    small = reduce(image, _GLANCE)
    angle = _common_angle(small)
    if not _LEAST_ASKEW <= abs(angle) <= _MOST_ASKEW:
        return image
    background = _plain_background(small)
    return rotate(
        image, angle, WHITE if background is None else (int(background[0]), int(background[1]), int(background[2]))
    )


def rotate(image: Pixels, degrees: float, corners: tuple[int, int, int] = WHITE) -> Pixels:
    """Turn an image counterclockwise; it grows so that all of it shows.

    Args:
        image: RGB.
        degrees: How far. Quarter turns change no pixel.
        corners: RGB color of what the image does not cover.

    Returns:
        RGB. An image that would have a side over 16,384 pixels is reduced, but not by quarter turns.
    """
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, int(degrees // 90)))
    cosine, sine = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    height, width = image.shape[:2]
    longest = max(width * cosine + height * sine, height * cosine + width * sine)
    if longest > _LONGEST_TURNED:
        image = reduce(image, int(max(height, width) * _LONGEST_TURNED / longest))
        height, width = image.shape[:2]
    turned_width, turned_height = (
        max(1, round(width * cosine + height * sine)),
        max(1, round(height * cosine + width * sine)),
    )
    turn = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0), np.float64)
    turn[:, 2] += (turned_width - width) / 2, (turned_height - height) / 2
    return np.asarray(
        cv2.warpAffine(image, turn, (turned_width, turned_height), flags=cv2.INTER_LINEAR, borderValue=corners),
        np.uint8,
    )


def denoise(image: Pixels) -> Pixels:
    """Smooth noise and keep edges (bilateral filter, Tomasi and Manduchi, 1998).

    Non-local means take a hundred times as long, and bring a noisy catalog image no nearer to what it was.
    """
    return np.asarray(cv2.bilateralFilter(image, 5, 40, 2), np.uint8)


def equalize(image: Pixels) -> Pixels:
    """Spread the luminance, part by part of the image (CLAHE, Zuiderveld, 1994); colors keep their tint."""
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    luminance[:, :, 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(luminance[:, :, 0]))
    return np.asarray(cv2.cvtColor(luminance, cv2.COLOR_YCrCb2RGB), np.uint8)


def grayscale(image: Pixels) -> Pixels:
    """Take out the color: three equal channels, the luminance of ITU-R BT.601."""
    return _three(_luminance(image))


def binarize(image: Pixels, method: str) -> Pixels:
    """Make an image black and white.

    Args:
        image: RGB.
        method: `otsu` finds one threshold (Otsu, 1979); `adaptive` compares with the mean of the neighborhood, a
            sixteenth of the longer side; a number is the threshold: what is lighter is white.

    Returns:
        RGB, each pixel all 0 or all 255.
    """
    light = _luminance(image)
    if method == "adaptive":
        block = max(11, max(light.shape) // 16 | 1)
        return _three(cv2.adaptiveThreshold(light, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, block, 5))
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if method == "otsu" else 0)
    return _three(cv2.threshold(light, 0 if method == "otsu" else int(method), 255, kind)[1])


def _on_plain_background(image: Pixels) -> NDArray[np.int64] | None:
    """Find boxes (n, 4) of x, y, width and height on a plain background; None if it is not plain."""
    background = _plain_background(image)
    if background is None:
        return None
    differs = (np.abs(image.astype(np.int16) - background).max(axis=2) > _EVEN_DIFFERENCE).astype(np.uint8)
    contours, _ = cv2.findContours(differs, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], np.int64).reshape(-1, 4)
    return np.asarray(boxes[boxes[:, 2] * boxes[:, 3] >= _SPECK_SHARE * differs.size], np.int64)


def _plain_background(image: Pixels) -> NDArray[np.int16] | None:
    """Find the RGB color of the background in an image's outermost pixels, if most of them have one."""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.int16)
    color = np.median(edge, axis=0).astype(np.int16)
    is_even = (np.abs(edge - color).max(axis=1) <= _EVEN_DIFFERENCE).mean() >= _EVEN_SHARE
    return color if is_even else None


def _common_angle(image: Pixels) -> float:
    """Find how many degrees clockwise, -45 to 45, most straight lines are off upright; 0 if they disagree."""
    lines = cv2.createLineSegmentDetector().detect(_luminance(image))[0]
    ends = np.asarray([] if lines is None else lines, np.float64).reshape(-1, 2, 2)
    across, down = (ends[:, 1] - ends[:, 0]).T
    lengths = np.hypot(across, down)
    shorter = min(image.shape[:2])
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


def _luminance(image: Pixels) -> Pixels:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def _three(channel: object) -> Pixels:
    return np.asarray(cv2.cvtColor(np.asarray(channel, np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)


def _resize(image: Pixels, height: int, width: int) -> Pixels:
    # INTER_AREA averages what it leaves out; enlarging with it would give blocks.
    shrinks = height < image.shape[0] or width < image.shape[1]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
