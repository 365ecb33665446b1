"""Bring images, RGB uint8 (height, width, 3), to a size, and do what `steps.Steps` names; none is changed in place."""

import cv2
import numpy as np

from imgsearch.images import Fit
from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels

WHITE = (255, 255, 255)

# The angle of an image shows when its longer side has so many pixels.
_PREVIEW_SIDE = 512

_MAX_ASKEW = 20.0
_MIN_ASKEW = 0.2
# A line counts from so much of the shorter side; together those of one angle must be as long as the shorter side, and
# half of all.
_SHORTEST_LINE = 0.05
_SAME_ANGLE = 1.0

# OpenCV cannot turn into images with a side over 32,766 pixels, and a strip turned by 45 degrees takes a square.
_LONGEST_TURNED = 16_384


def fit(image: Pixels, size: int, mode: Fit = "pad", background: int = 255) -> Pixels:
    """Bring an RGB image to uint8 (size, size, 3): `pad`ded with a gray, its middle (`crop`), or `stretch`ed."""
    height, width = image.shape[:2]
    if mode == "stretch":
        return resize(image, size, size)
    if mode == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return resize(image[top : top + side, left : left + side], size, size)
    inner = fitted_box(image.shape, size, mode)
    square = np.full((size, size, 3), background, np.uint8)
    square[inner.y : inner.y + inner.height, inner.x : inner.x + inner.width] = resize(image, inner.height, inner.width)
    return square


def fitted_box(shape: tuple[int, ...], size: int, mode: Fit) -> Box:
    """Return where in its square, which `fit` makes, an image shows: all of it unless it is padded."""
    if mode != "pad":
        return Box(0, 0, size, size)
    scale = size / max(shape[:2])
    inner_height, inner_width = (max(1, round(side * scale)) for side in shape[:2])
    return Box((size - inner_width) // 2, (size - inner_height) // 2, inner_width, inner_height)


def reduce(image: Pixels, longest: int) -> Pixels:
    """Bring the longer side down to so many pixels; smaller images stay as they are."""
    height, width = image.shape[:2]
    scale = longest / max(height, width)
    if scale >= 1:
        return image
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale)))


def deskew(image: Pixels, corners: tuple[int, int, int] = WHITE) -> Pixels:
    """Turn upright what stands askew by up to 20 degrees; what the image does not cover is of the color `corners`.

    The angle is the one that most of the straight lines have (line segment detector of Grompone von Gioi et al.,
    2010), or are square to. Where no angle has half of them the image stays as it is.
    """
    angle = _common_angle(reduce(image, _PREVIEW_SIDE))
    return rotate(image, angle, corners) if _MIN_ASKEW <= abs(angle) <= _MAX_ASKEW else image


def rotate(image: Pixels, degrees: float, corners: tuple[int, int, int] = WHITE) -> Pixels:
    """Turn an RGB image counterclockwise; it grows, up to 16,384 pixels, to show all, on the color `corners`."""
    if degrees % 90 == 0:
        return np.ascontiguousarray(np.rot90(image, int(degrees // 90)))
    cosine, sine = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    height, width = image.shape[:2]
    longest = max(width * cosine + height * sine, height * cosine + width * sine)
    if longest > _LONGEST_TURNED:
        image = reduce(image, int(max(height, width) * _LONGEST_TURNED / longest))
        height, width = image.shape[:2]
    turned_width = max(1, round(width * cosine + height * sine))
    turned_height = max(1, round(height * cosine + width * sine))
    turn = np.asarray(cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0), np.float64)
    turn[:, 2] += (turned_width - width) / 2, (turned_height - height) / 2
    size = turned_width, turned_height
    return np.asarray(cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR, borderValue=corners), np.uint8)


def denoise(image: Pixels) -> Pixels:
    """Smooth noise and keep edges (bilateral filter, Tomasi and Manduchi, 1998)."""
    # Non-local means take a hundred times as long, and bring a noisy catalog image no nearer to what it was.
    return np.asarray(cv2.bilateralFilter(image, 5, 40, 2), np.uint8)


def equalize(image: Pixels) -> Pixels:
    """Spread the luminance, part by part of the image (CLAHE, Zuiderveld, 1994); colors keep their tint."""
    luminance = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)
    luminance[:, :, 0] = cv2.createCLAHE(2.0, (8, 8)).apply(np.ascontiguousarray(luminance[:, :, 0]))
    return np.asarray(cv2.cvtColor(luminance, cv2.COLOR_YCrCb2RGB), np.uint8)


def grayscale(image: Pixels) -> Pixels:
    """Take out the color: three equal channels, the luminance of ITU-R BT.601."""
    return _as_rgb(_luminance(image))


def binarize(image: Pixels, method: str) -> Pixels:
    """Make an RGB image black and white, all three channels 0 or 255.

    `otsu` finds one threshold (Otsu, 1979); `adaptive` compares with the mean of the neighborhood, a sixteenth of the
    longer side; a number is the threshold: what is lighter is white.
    """
    light = _luminance(image)
    if method == "adaptive":
        block = max(11, max(light.shape) // 16 | 1)
        return _as_rgb(cv2.adaptiveThreshold(light, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, block, 5))
    kind = cv2.THRESH_BINARY | (cv2.THRESH_OTSU if method == "otsu" else 0)
    return _as_rgb(cv2.threshold(light, 0 if method == "otsu" else int(method), 255, kind)[1])


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


def _as_rgb(channel: object) -> Pixels:
    return np.asarray(cv2.cvtColor(np.asarray(channel, np.uint8), cv2.COLOR_GRAY2RGB), np.uint8)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Bring an image to a height and a width."""
    # INTER_AREA averages what it leaves out; enlarging with it would give blocks.
    shrinks = height < image.shape[0] or width < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)
