"""Backgrounds that no camera has seen, for a detector to take for nothing: RGB, uint8 (height, width, 3)."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.synthetic.augment import Layer, reduce_rgba

Frame = tuple[int, int]

# Of generated backgrounds: how many are made of two, how many are blurred, and how many of those with things on them.
_TWO = 0.4
_BLURRED = 0.4
_WITH_SHAPES = 0.35
# Of parts of items, how many are blurred.
_PARTS_BLURRED = 0.3
# Sides of what is strewn, as a share of the shorter side of the background, at most.
_STREWN = 0.06


def draw_background(frame: Frame, generator: np.random.Generator) -> Pixels:
    """Draw a background: smooth, striped, checked, dotted, of polygons, noise or clouds, or of two of these."""
    background = _draw_one(frame, generator)
    if generator.random() < _TWO:
        share = _draw_mask(frame, generator)[:, :, None]
        background = background * (1 - share) + _draw_one(frame, generator) * share
    if generator.random() < _WITH_SHAPES:
        background = _draw_shapes(background, int(generator.integers(1, 12)), generator)
    if generator.random() < _BLURRED:
        background = np.asarray(cv2.GaussianBlur(background, (0, 0), generator.uniform(0.5, 6)), np.float32)
    return np.clip(background, 0, 255).astype(np.uint8)


def enlarge_part(item: Pixels, frame: Frame, generator: np.random.Generator) -> Pixels:
    """Make a background of a part of an item, RGBA, enlarged until it is none; some are blurred."""
    shortest = min(item.shape[:2])
    sides = np.array(frame) * (generator.uniform(0.25, 0.6) * shortest / max(frame))
    background = cv2.resize(_take_part(item, sides, generator), frame[::-1], interpolation=cv2.INTER_LINEAR)
    if generator.random() < _PARTS_BLURRED:
        background = cv2.GaussianBlur(background, (0, 0), generator.uniform(1, 10))
    return np.clip(background, 0, 255).astype(np.uint8)


def tile_part(item: Pixels, frame: Frame, generator: np.random.Generator) -> Pixels:
    """Make a background of a part of an item, RGBA, repeated in mirror images: as busy as a photo."""
    height, width = frame
    patch = _take_part(item, np.array(item.shape[:2]) * generator.uniform(0.3, 0.8), generator)
    side = max(4, int(max(frame) * generator.uniform(0.08, 0.5)))
    small = cv2.resize(patch, (side, side), interpolation=cv2.INTER_AREA)
    pair = np.hstack([small, small[:, ::-1]])
    four = np.vstack([pair, pair[::-1]])
    top, left = generator.integers(0, 2 * side, 2)
    tiled = np.tile(four, (-(-(height + top) // (2 * side)), -(-(width + left) // (2 * side)), 1))
    shown = tiled[top : top + height, left : left + width]
    return np.asarray(np.clip(shown, 0, 255), np.uint8)


def strew(background: Pixels, items: Sequence[Pixels], generator: np.random.Generator) -> Pixels:
    """Strew items, RGBA, over a copy of a background, each at most 6 % of the shorter side: too small to be meant."""
    background = background.copy()
    sides = np.array(background.shape[:2])
    most = _STREWN * sides.min()
    for item in items:
        small = reduce_rgba(item, max(2, int(generator.uniform(most / 3, most))))
        if np.any(sides < small.shape[:2]):
            continue
        top, left = generator.integers(0, sides - small.shape[:2] + 1)
        place = background[top : top + small.shape[0], left : left + small.shape[1]]
        opacity = small[:, :, 3:].astype(np.float32) / 255
        place[:] = np.rint(place * (1 - opacity) + small[:, :, :3] * opacity)
    return background


def _take_part(item: Pixels, sides: NDArray[np.float64], generator: np.random.Generator) -> Layer:
    """Take a part of an item somewhere, on white or on a color."""
    whole = np.array(item.shape[:2])
    part = np.maximum(2, np.minimum(whole, np.round(sides))).astype(int)
    top, left = generator.integers(0, whole - part + 1)
    shown = item[top : top + part[0], left : left + part[1]].astype(np.float32)
    opacity = shown[:, :, 3:] / 255
    behind = np.full(3, 255.0) if generator.random() < 0.5 else generator.uniform(0, 255, 3)
    return np.asarray(shown[:, :, :3] * opacity + behind * (1 - opacity), np.float32)


def _draw_one(frame: Frame, generator: np.random.Generator) -> Layer:
    return _KINDS[int(generator.integers(len(_KINDS)))](frame, generator)


def _colors(count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """Draw colors; half of the time from near one another, as most things have."""
    first = generator.uniform(0, 255, 3)
    spread = generator.uniform(20, 90) if generator.random() < 0.5 else 255.0
    return np.clip(first + generator.uniform(-spread, spread, (count, 3)), 0, 255)


def _colorize(plane: NDArray[np.floating | np.bool_], generator: np.random.Generator) -> Layer:
    colors = _colors(int(generator.integers(2, 5)), generator)
    stops = np.linspace(0, 1, len(colors))
    channels = [np.interp(plane, stops, colors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _smooth(frame: Frame, generator: np.random.Generator) -> Layer:
    count = int(generator.integers(1, 6))
    colors = _colors(count * count, generator).reshape(count, count, 3).astype(np.float32)
    return np.asarray(cv2.resize(colors, frame[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


def _grid(frame: Frame, generator: np.random.Generator) -> tuple[Layer, Layer]:
    """Coordinates turned by some angle, in units of a pattern's period, a little warped every other time."""
    angle, period = generator.uniform(0, np.pi), np.exp(generator.uniform(np.log(4), np.log(120)))
    down, across = np.mgrid[: frame[0], : frame[1]].astype(np.float32) / np.float32(period)
    if generator.random() < 0.5:
        across = across + _clouds_plane(frame, generator, 0.4) * np.float32(generator.uniform(0, 2))
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return across * cosine + down * sine, down * cosine - across * sine


def _stripes(frame: Frame, generator: np.random.Generator) -> Layer:
    across, _ = _grid(frame, generator)
    wave = 0.5 + 0.5 * np.sin(across * 2 * np.pi)
    return _colorize(wave > generator.uniform(0.1, 0.9) if generator.random() < 0.5 else wave, generator)


def _checks(frame: Frame, generator: np.random.Generator) -> Layer:
    across, down = _grid(frame, generator)
    share = generator.uniform(0.05, 0.95)
    first, second = across % 1 < share, down % 1 < share
    return _colorize(first ^ second if generator.random() < 0.5 else first | second, generator)


def _dots(frame: Frame, generator: np.random.Generator) -> Layer:
    across, down = _grid(frame, generator)
    return _colorize(np.hypot(across % 1 - 0.5, down % 1 - 0.5) < generator.uniform(0.1, 0.5), generator)


def _tiles(frame: Frame, generator: np.random.Generator) -> Layer:
    """Rectangles of their own colors, as tiles, books and bricks stand."""
    across, down = _grid(frame, generator)
    stretch = generator.uniform(0.2, 1)
    colors = _colors(61, generator)
    rows = np.floor(down).astype(int)
    columns = np.floor(across * stretch + (rows % 2) * 0.5).astype(int)
    return np.asarray(colors[(rows * 17 + columns * 31) % len(colors)], np.float32)


def _noise(frame: Frame, generator: np.random.Generator) -> Layer:
    """Noise of one scale, perhaps drawn out in one direction as the grain of wood."""
    plane = generator.standard_normal(frame).astype(np.float32)
    sigmas = np.exp(generator.uniform(np.log(0.3), np.log(12), 2))
    if generator.random() < 0.5:
        sigmas[1] = sigmas[0]
    plane = np.asarray(cv2.GaussianBlur(plane, (0, 0), float(sigmas[0]), sigmaY=float(sigmas[1])), np.float32)
    return _colorize(np.clip(0.5 + plane / (4 * plane.std() + 1e-6), 0, 1), generator)


def _clouds_plane(frame: Frame, generator: np.random.Generator, roughness: float) -> Layer:
    """Sum noise of scales a factor of two apart: 0 to 1."""
    plane = np.zeros(frame, np.float32)
    weight, count = 1.0, 2
    while count < max(frame):
        field = generator.standard_normal((count, count)).astype(np.float32)
        plane += np.float32(weight) * cv2.resize(field, frame[::-1], interpolation=cv2.INTER_CUBIC)
        weight, count = weight * roughness, count * 2
    low, high = float(plane.min()), float(plane.max())
    return (plane - low) / np.float32(max(high - low, 1e-6))


def _clouds(frame: Frame, generator: np.random.Generator) -> Layer:
    return _colorize(_clouds_plane(frame, generator, generator.uniform(0.35, 0.9)), generator)


def _shapes(frame: Frame, generator: np.random.Generator) -> Layer:
    return _draw_shapes(_smooth(frame, generator), int(np.exp(generator.uniform(1, 5))), generator)


def _draw_shapes(background: Layer, count: int, generator: np.random.Generator) -> Layer:
    background = np.ascontiguousarray(background)
    height, width = background.shape[:2]
    reach = max(height, width)
    for _ in range(count):
        color = generator.uniform(0, 255, 3).tolist()
        middle = generator.uniform(0, 1, 2) * (width, height)
        size = reach * np.exp(generator.uniform(np.log(0.02), np.log(0.6)))
        kind = generator.random()
        if kind < 0.6:
            corners = int(generator.integers(3, 8))
            angles = np.sort(generator.uniform(0, 2 * np.pi, corners))
            radii = size * generator.uniform(0.4, 1, corners)
            outline = middle + np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
            cv2.fillPoly(background, [outline.astype(np.int32)], color, cv2.LINE_8)
        elif kind < 0.8:
            axes = (max(1, int(size * generator.uniform(0.2, 1))), max(1, int(size * 0.6)))
            turn = generator.uniform(0, 360)
            center = (int(middle[0]), int(middle[1]))
            cv2.ellipse(background, center, axes, turn, 0, 360, color, -1 if generator.random() < 0.7 else 3)
        else:
            end = generator.uniform(0, 1, 2) * (width, height)
            line = [(int(x), int(y)) for x, y in (middle, end)]
            cv2.line(background, line[0], line[1], color, int(generator.integers(1, 8)))
    return background


def _draw_mask(frame: Frame, generator: np.random.Generator) -> Layer:
    """Draw where the second of two backgrounds shows: beyond a line, as a wall behind a table, or in patches."""
    if generator.random() < 0.6:
        angle = generator.uniform(0, 2 * np.pi)
        down, across = np.mgrid[: frame[0], : frame[1]].astype(np.float32) / max(frame)
        side = (across - generator.uniform(0.2, 0.8)) * np.cos(angle) + (down - generator.uniform(0.2, 0.8)) * np.sin(
            angle
        )
        return np.asarray(side > 0, np.float32)
    clouds = _clouds_plane(frame, generator, generator.uniform(0.3, 0.7))
    return np.asarray(np.clip((clouds - 0.5) * generator.uniform(2, 40) + 0.5, 0, 1), np.float32)


_KINDS: tuple[Callable[[Frame, np.random.Generator], Layer], ...] = (
    *(_smooth, _stripes, _checks, _dots, _tiles, _noise, _noise, _clouds, _clouds, _shapes),
)
