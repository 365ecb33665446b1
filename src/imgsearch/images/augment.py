"""Make new pictures from those of the catalogue."""

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels

Layer = NDArray[np.float32]

FRAME = 320


def photo_like(item: Pixels, generator: np.random.Generator) -> bytes:
    """Make a picture that a phone might have taken of a catalogue item.

    The item's longer side takes 55 to 85 % of a frame of 320 pixels; it is shifted by up to 25 pixels and turned
    by up to 20 degrees, on a smooth coloured ground; brightness 0.7 to 1.2, tint up to 15 % a channel, noise,
    blur of sigma 0.3 to 1.2, JPEG quality 40 to 85. All uniform.

    Args:
        item: RGBA, uint8 of shape (height, width, 4); where it is opaque the whole rectangle is the item.
        generator: Source of all chance: the same state gives the same bytes.

    Returns:
        A JPEG file of 320 x 320 pixels.
    """
    layer = _placed(_premultiplied(item), generator)
    ground = _smooth_ground(generator)
    light = generator.uniform(0.7, 1.2) * generator.uniform(0.85, 1.15, 3)
    scene = (ground * (1 - layer[:, :, 3:] / 255) + layer[:, :, :3]) * light
    noisy = np.asarray(scene + generator.normal(0, 4, scene.shape), np.float32)
    blurred = cv2.GaussianBlur(noisy, (0, 0), generator.uniform(0.3, 1.2))
    photo = np.clip(blurred, 0, 255).astype(np.uint8)
    quality = int(generator.integers(40, 86))
    _, encoded = cv2.imencode(".jpg", photo[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def _premultiplied(item: Pixels) -> Layer:
    # Colours under full transparency must not bleed into the edge when the item is resized.
    layer = item.astype(np.float32)
    layer[:, :, :3] *= layer[:, :, 3:] / 255
    return layer


def _placed(layer: Layer, generator: np.random.Generator) -> Layer:
    """Scale, turn and shift an item into the frame."""
    height, width = layer.shape[:2]
    scale = generator.uniform(0.55, 0.85) * FRAME / max(height, width)
    if scale < 1:  # warpAffine does not average, so shrinking comes first
        width, height = max(1, round(width * scale)), max(1, round(height * scale))
        layer = np.asarray(cv2.resize(layer, (width, height), interpolation=cv2.INTER_AREA), np.float32)
        scale = 1.0
    turn = np.asarray(cv2.getRotationMatrix2D((width / 2, height / 2), generator.uniform(-20, 20), scale), np.float64)
    turn[:, 2] += np.array([FRAME - width, FRAME - height]) / 2 + generator.uniform(-25, 25, 2)
    return np.asarray(cv2.warpAffine(layer, turn, (FRAME, FRAME), flags=cv2.INTER_LINEAR), np.float32)


def _smooth_ground(generator: np.random.Generator) -> Layer:
    colours = generator.uniform(60, 230, (3, 3, 3)).astype(np.float32)
    return np.asarray(cv2.resize(colours, (FRAME, FRAME), interpolation=cv2.INTER_CUBIC), np.float32)
