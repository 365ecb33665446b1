"""Put items into scenes: images of which it is known what stands where."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels
from imgsearch.synthetic.augment import Layer, encode_jpeg, premultiply, reduce_rgba

# An item is put where it shares at most this much of the smaller box with each other, if a few tries find such a place.
_MAX_SHARED = 0.1
_TRIES = 30


@dataclass(frozen=True, slots=True)
class Style:
    """How items stand in a scene; what is a range, from the least to the most, is drawn from uniformly."""

    sides: tuple[float, float]  # longer side of an item, as a share of the shorter side of the frame
    turn: float = 25.0  # degrees that it is turned at most, either way
    perspective: float = 0.08  # how far each corner moves at most, as a share of the item's sides
    covered: float = 0.2  # how much of an item lies under a piece of the background at most, as a share of its pixels
    quality: tuple[int, int] = (30, 80)  # of JPEG


@dataclass(frozen=True, slots=True)
class Scene:
    """An image, and what stands in it."""

    photo: Pixels  # RGB, as large as the background
    boxes: tuple[Box, ...]  # around what shows of each item
    mask: Layer  # (height, width): from 0, the background, to 1, an item


def compose(background: Pixels, items: Sequence[Pixels], style: Style, generator: np.random.Generator) -> Scene:
    """Put items, RGBA, on a background in their order, but for those without a place, and take a photo of it."""
    scene = background.astype(np.float32)
    mask = np.zeros(background.shape[:2], np.float32)
    boxes: list[Box] = []
    for item in items:
        layer = _place(item, background.shape[:2], boxes, style, generator)
        if layer is None:
            continue
        layer *= _mask_covered(layer[:, :, 3], generator.uniform(0, style.covered), generator)[:, :, None]
        opacity = layer[:, :, 3] / 255
        scene = scene * (1 - opacity[:, :, None]) + layer[:, :, :3] * generator.uniform(0.8, 1.2)
        mask = np.maximum(mask, opacity)
        boxes.append(_extent(layer[:, :, 3]))
    return Scene(_photograph(scene, style, generator), tuple(boxes), mask)


def _place(
    item: Pixels, frame: tuple[int, ...], taken: Sequence[Box], style: Style, generator: np.random.Generator
) -> Layer | None:
    """Warp an item to a place in the frame, premultiplied; None where no place was found, or nothing of it shows."""
    height, width = frame
    longest = generator.uniform(*style.sides) * min(height, width)
    item = reduce_rgba(item, max(1, round(longest)))  # warpPerspective does not average
    sides = np.array(item.shape[1::-1])
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)], np.float64)
    angle = np.radians(generator.uniform(-style.turn, style.turn))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    moved = square + generator.uniform(-style.perspective, style.perspective, (4, 2))
    quad = moved * sides @ turn.T * (longest / sides.max())
    quad -= quad.min(axis=0)
    extent = quad.max(axis=0)
    room = np.array([width, height]) - extent
    for _ in range(_TRIES):
        start = generator.uniform(np.minimum(0, room), np.maximum(0, room))
        if all(_overlap(start, extent, box) <= _MAX_SHARED for box in taken):
            break
    else:
        return None
    source, target = (square * sides).astype(np.float32), (quad + start).astype(np.float32)
    warp = cv2.getPerspectiveTransform(source, target)
    layer = np.asarray(cv2.warpPerspective(premultiply(item), warp, (width, height)), np.float32)
    return layer if layer[:, :, 3].max() > 127 else None


def _overlap(start: NDArray[np.float64], extent: NDArray[np.float64], box: Box) -> float:
    """Compute how much of the smaller of two rectangles lies in the other."""
    end = np.minimum(start + extent, (box.x + box.width, box.y + box.height))
    sides = np.maximum(0, end - np.maximum(start, (box.x, box.y)))
    return float(sides.prod() / min(extent.prod(), box.area))


def _mask_covered(opacity: Layer, share: float, generator: np.random.Generator) -> Layer:
    """Make a mask of what still shows of an item after so much of it was covered, from one side."""
    axis = int(generator.integers(2))
    sums = opacity.sum(axis=1 - axis).cumsum()
    limit = share * sums[-1]
    shows = (sums > limit) if generator.random() < 0.5 else (sums[-1] - sums >= limit)
    return np.asarray(shows[:, None] if axis == 0 else shows[None, :], np.float32)


def _extent(opacity: Layer) -> Box:
    x, y, width, height = cv2.boundingRect((opacity > 127).astype(np.uint8))
    return Box(x, y, max(1, width), max(1, height))


def _photograph(scene: Layer, style: Style, generator: np.random.Generator) -> Pixels:
    height, width = scene.shape[:2]
    light = generator.uniform(0.65, 1.3, (2, 2, 1)) * generator.uniform(0.88, 1.12, 3)
    scene *= cv2.resize(light.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    scene += generator.normal(0, generator.uniform(0, 6), scene.shape)
    blurred = cv2.GaussianBlur(scene, (0, 0), generator.uniform(0.3, 1.4))
    photo = np.clip(blurred, 0, 255).astype(np.uint8)
    quality = int(generator.integers(style.quality[0], style.quality[1] + 1))
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(photo, quality), np.uint8), cv2.IMREAD_COLOR_RGB)
    return np.asarray(decoded, np.uint8)
