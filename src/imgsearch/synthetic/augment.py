"""Make new images from those of the catalog. The same state of a random generator gives the same bytes."""

import hashlib

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.images.transform import reduce, resize

Layer = NDArray[np.float32]

FRAME = 320
_SCREEN = 1024


def generator_for(data: bytes, seed: int) -> np.random.Generator:
    """Return a source of randomness that depends on a file's content and a seed alone."""
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(data).digest()[:8])])


def photo_like(item: Pixels, generator: np.random.Generator) -> bytes:
    """Make an image that a phone might have taken of an item, RGBA: a JPEG file of 320 x 320 pixels."""
    layer = _place(premultiply(item), generator)
    background = _smooth_background(generator)
    light = generator.uniform(0.7, 1.2) * generator.uniform(0.85, 1.15, 3)
    scene = (background * (1 - layer[:, :, 3:] / 255) + layer[:, :, :3]) * light
    noisy = np.asarray(scene + generator.normal(0, 4, scene.shape), np.float32)
    blurred = cv2.GaussianBlur(noisy, (0, 0), generator.uniform(0.3, 1.2))
    photo = np.clip(blurred, 0, 255).astype(np.uint8)
    return encode_jpeg(photo, int(generator.integers(40, 86)))


def screenshot_like(item: Pixels, generator: np.random.Generator) -> bytes:
    """Make an image that somebody might have cut out of a screen that shows an item, RGBA: a PNG or JPEG file."""
    cropped = _crop(_put_on_white(reduce_rgba(item, _SCREEN)), generator)
    scale = generator.uniform(0.5, 1.5)
    height, width = (max(1, round(side * scale)) for side in cropped.shape[:2])
    screen = resize(cropped, height, width)
    if generator.random() < 0.5:
        screen = _put_on_page(screen, generator)
    if generator.random() < 0.5:
        return cv2.imencode(".png", screen[:, :, ::-1])[1].tobytes()
    return encode_jpeg(screen, int(generator.integers(50, 96)))


def encode_jpeg(image: Pixels, quality: int) -> bytes:
    """Encode an RGB image as JPEG."""
    return cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def augment(image: Pixels, generator: np.random.Generator) -> Pixels:
    """Turn, shear, zoom, mirror and shift an RGB image for training, about its center; the shape stays."""
    height, width = image.shape[:2]
    angle = np.radians(generator.uniform(-20, 20))
    turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    sheared = np.array([[1, generator.uniform(-0.2, 0.2)], [0, 1]])
    zoomed = np.diag(np.full(2, generator.uniform(0.8, 1.2)))
    mirrored = np.diag([generator.choice([-1, 1]), 1])
    center = np.array([width - 1, height - 1]) / 2
    linear = turned @ sheared @ zoomed @ mirrored
    shift = generator.uniform(-0.2, 0.2, 2) * (width, height)
    warp = np.column_stack([linear, center - linear @ center + shift])
    moved = cv2.warpAffine(image, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.uint8)


def reduce_rgba(item: Pixels, longest: int) -> Pixels:
    """Bring the longer side of an RGBA image down to so many pixels; colors under full transparency leave no trace."""
    if max(item.shape[:2]) <= longest:
        return item
    alpha = np.ascontiguousarray(item[:, :, 3])
    small_alpha = reduce(alpha, longest)
    colors = []
    for channel in range(3):  # one at a time, so that a large image needs no second copy of itself
        premultiplied = cv2.multiply(np.ascontiguousarray(item[:, :, channel]), alpha, scale=1 / 255)
        small = reduce(np.asarray(premultiplied, np.uint8), longest)
        colors.append(cv2.divide(small, np.maximum(small_alpha, 1), scale=255))
    return np.asarray(np.dstack([*colors, small_alpha]), np.uint8)


def _put_on_white(item: Pixels) -> Pixels:
    opacity = item[:, :, 3:].astype(np.float32) / 255
    return np.round(item[:, :, :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)


def _crop(image: Pixels, generator: np.random.Generator) -> Pixels:
    area, share = generator.uniform(0.55, 0.95), generator.uniform(0.25, 0.75)
    whole = np.array(image.shape[:2])
    sides = np.maximum(1, np.round(whole * (area**share, area ** (1 - share)))).astype(int)
    top, left = generator.integers(0, whole - sides + 1)
    return image[top : top + sides[0], left : left + sides[1]]


def _put_on_page(image: Pixels, generator: np.random.Generator) -> Pixels:
    above, below, left, right = (generator.uniform(0, 0.3, 4) * max(image.shape[:2])).astype(int)
    background = [int(generator.choice([255, 245, 230]))] * 3
    page = np.asarray(
        cv2.copyMakeBorder(image, above, below, left, right, cv2.BORDER_CONSTANT, value=background), np.uint8
    )
    bar = np.full((max(1, len(page) // 12), page.shape[1], 3), generator.integers(20, 90, 3), np.uint8)
    return np.vstack([bar, page])


def premultiply(item: Pixels) -> Layer:
    """Multiply the colors of RGBA by their opacity, lest hidden ones bleed into the edge: float32, 0 to 255."""
    layer = item.astype(np.float32)
    layer[:, :, :3] *= layer[:, :, 3:] / 255
    return layer


def _place(layer: Layer, generator: np.random.Generator) -> Layer:
    height, width = layer.shape[:2]
    scale = generator.uniform(0.55, 0.85) * FRAME / max(height, width)
    if scale < 1:  # warpAffine does not average, so shrinking comes first
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        layer = np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        scale = 1.0
    turn = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), generator.uniform(-20, 20), scale), np.float64)
    turn[:, 2] += np.array([FRAME - width, FRAME - height]) / 2 + generator.uniform(-25, 25, 2)
    return np.asarray(cv2.warpAffine(layer, turn, (FRAME, FRAME), flags=cv2.INTER_LINEAR), np.float32)


def _smooth_background(generator: np.random.Generator) -> Layer:
    colors = generator.uniform(60, 230, (3, 3, 3)).astype(np.float32)
    return np.asarray(cv2.resize(colors, (FRAME, FRAME), interpolation=cv2.INTER_CUBIC), np.float32)
