"""Whether two images are the same picture: resized, recompressed, cropped a little, mirrored, on another background.

Two images are brought to one size, registered by the affine map under which their lightness correlates best (enhanced
correlation coefficient; Evangelidis and Psarakis, 2008), and compared where they differ most.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import large_parts
from imgsearch.images.transform import resize

# Images are compared at this size, stretched to a square; and at the second first, to see whether it is worth it.
_SIDE = 64
_GLANCE = 8
# What differs by no more than this in any channel from the color of the background, is background. A color is that of
# the background if this share of the edge has it, or all corners: an item may touch the edge, but not all of them.
_NEAR = 24
_EVEN_SHARE = 0.2
# A part of the item this much smaller than its largest is dirt, or what JPEG leaves around edges.
_MIN_PART = 0.01
# Cropping changes the ratio of the sides by no more than this (as a logarithm), and moves no corner by more than this
# share of a side.
_MOST_STRETCHED = 0.15
_MOST_MOVED = 0.13
# Standard deviation of the blur before pixels are compared: at least, in pixels of the square; and in pixels of the
# smaller image: JPEG keeps one color for two by two.
_BLUR = 1.5
_FINEST = 2.0
# Over how much differences are averaged: a line that moved by a hair is none, a digit is one.
_POOL = 2.5
# What colors count beside lightness: JPEG keeps less of them.
_CHROMA = np.array([1, 0.5, 0.5], np.float32)
# Images are registered under a blur of so many pixels, in which a thin item that was moved by more than its width meets
# itself, and then under less; each time in so many steps at most.
_REGISTRATIONS = ((15, 10), (3, 40))

# Images that differ by no more than this, in levels of 255, are the same picture; and at a glance, on average. Chosen
# on half of the stamps (docs/benchmarks.md).
SAME = 9.0
_SIMILAR = 40.0

_Plane = NDArray[np.float32]
_UNMOVED = np.eye(2, 3, dtype=np.float32)
_EVERYWHERE = np.ones((_SIDE, _SIDE), np.uint8)
_CORNERS = np.array([[0, 0, 1], [_SIDE, 0, 1], [0, _SIDE, 1], [_SIDE, _SIDE, 1]], np.float32)


@dataclass(frozen=True, slots=True)
class _Frame:
    """An image, or the part of it that holds the item."""

    colors: _Plane  # YCrCb, float32 (64, 64, 3)
    light: _Plane  # float32 (64, 64), the first channel, with a plain background white
    glance: _Plane  # (8, 8, 3)
    width: int  # of what is shown, in pixels
    height: int

    def mirrored(self) -> "_Frame":
        colors, light, glance = (
            np.ascontiguousarray(plane[:, ::-1]) for plane in (self.colors, self.light, self.glance)
        )
        return _Frame(colors, light, glance, self.width, self.height)


@dataclass(frozen=True, slots=True)
class Portrait:
    """An image, prepared for comparison: 120 kB."""

    background: _Plane | None  # YCrCb, float32 (3,); None where it is not plain
    whole: _Frame
    item: _Frame  # without the background around it

    def mirrored(self) -> "Portrait":
        """Return it as a mirror shows it."""
        whole = self.whole.mirrored()
        return Portrait(self.background, whole, whole if self.item is self.whole else self.item.mirrored())


def portrait(image: Pixels) -> Portrait:
    """Prepare an image, RGB, for comparison."""
    color = _background(image)
    if color is None:
        whole = _frame(image, image)
        return Portrait(None, whole, whole)
    ink = large_parts(np.abs(image.astype(np.int16) - color).max(axis=2) > _NEAR, _MIN_PART)
    painted = np.where(ink[:, :, None], image, np.uint8(255))
    x, y, width, height = cv2.boundingRect(ink.astype(np.uint8))
    item = slice(y, y + height), slice(x, x + width)
    whole = _frame(image, painted)
    return Portrait(
        _planes(color[None, None].astype(np.uint8))[0, 0], whole, _frame(image[item], painted[item]) if width else whole
    )


def difference(first: Portrait, second: Portrait) -> float:
    """Return how far two images differ where they differ most, in levels of 255; infinite where that is plain to see.

    It may be more than the least that further comparison would give, once it is no more than `SAME`.
    """
    # From one background to the other; around the item and through it, one shows where the other does.
    way = np.zeros(3, np.float32)
    if first.background is not None and second.background is not None:
        way = first.background - second.background
    best = np.inf
    for ours, theirs in ((first.whole, second.whole), (first.item, second.item)):
        shapes = [frame.width / frame.height for frame in (ours, theirs)]
        if abs(np.log(shapes[0] / shapes[1])) > _MOST_STRETCHED:
            continue
        if np.linalg.norm(_without(way, ours.glance - theirs.glance), axis=2).mean() > _SIMILAR:
            continue
        for warp in _warps(ours, theirs, is_repainted=float(np.abs(way).max()) > _NEAR):
            best = min(best, _apart(ours, theirs, warp, way))
            if best <= SAME:
                return best
    return best


def _background(image: Pixels) -> NDArray[np.int16] | None:
    """Find the color of the background in the edge: that of enough of it, or of all corners."""
    edge = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.int16)
    depth = max(1, min(image.shape[:2]) // 32)
    ends = slice(depth), slice(-depth, None)
    parts: list[NDArray[Any]] = [edge, *(image[rows, columns].reshape(-1, 3) for rows in ends for columns in ends)]
    colors = [np.asarray(np.median(part, axis=0), np.int16) for part in parts]
    shares = [(np.abs(edge - color).max(axis=1) <= _NEAR).mean() for color in colors]
    best = int(np.argmax(shares))
    if shares[best] >= _EVEN_SHARE:
        # Of all that has it: a corner may be a single pixel, half of it the item's.
        return np.asarray(np.median(edge[np.abs(edge - colors[best]).max(axis=1) <= _NEAR], axis=0), np.int16)
    corners = colors[1:]
    return np.asarray(np.median(corners, axis=0), np.int16) if np.ptp(corners, axis=0).max() <= _NEAR else None


def _frame(image: Pixels, painted: Pixels) -> _Frame:
    colors, light = (_planes(_square(each)) for each in (image, painted))
    glance = np.asarray(cv2.resize(colors, (_GLANCE, _GLANCE), interpolation=cv2.INTER_AREA), np.float32)
    height, width = image.shape[:2]
    return _Frame(colors, np.ascontiguousarray(light[:, :, 0]), glance, width, height)


def _square(image: Pixels) -> Pixels:
    # In two steps: OpenCV averages only where neither side grows.
    height, width = (min(side, _SIDE) for side in image.shape[:2])
    return resize(resize(image, height, width), _SIDE, _SIDE)


def _planes(image: Pixels) -> _Plane:
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), np.float32) * _CHROMA


def _warps(first: _Frame, second: _Frame, *, is_repainted: bool) -> Iterator[_Plane]:
    """Yield maps from places of the first image to those of the second, none of which moves a corner far."""
    yield _UNMOVED
    pairs = [(np.ascontiguousarray(first.colors[:, :, 0]), np.ascontiguousarray(second.colors[:, :, 0]))]
    if is_repainted:
        pairs.append((first.light, second.light))
    for ours, theirs in pairs:
        warp = _UNMOVED
        for blur, steps in _REGISTRATIONS:
            until = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, steps, 1e-4)
            try:
                _, found = cv2.findTransformECC(ours, theirs, warp.copy(), cv2.MOTION_AFFINE, until, _EVERYWHERE, blur)
            except cv2.error:  # it does not converge: these are different pictures, or have nothing to go by
                continue
            is_moved_little = np.abs(_CORNERS @ found.T - _CORNERS[:, :2]).max() <= _MOST_MOVED * _SIDE
            if is_moved_little and abs(found[0, 0] - found[1, 1]) <= _MOST_STRETCHED:
                warp = np.asarray(found, np.float32)
        if warp is not _UNMOVED:
            yield warp


def _apart(first: _Frame, second: _Frame, warp: _Plane, way: _Plane) -> float:
    across, down = (
        max(_BLUR, _FINEST * _SIDE / side)
        for side in (min(first.width, second.width), min(first.height, second.height))
    )
    size, flags = (_SIDE, _SIDE), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(second.colors, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    is_shown = cv2.warpAffine(np.ones(size, np.float32), warp, size, flags=flags) > 0.99
    differs = cv2.GaussianBlur((first.colors - moved) * is_shown[:, :, None], (0, 0), across, sigmaY=down)
    levels = np.linalg.norm(_without(way, np.asarray(differs, np.float32)), axis=2)
    return float(cv2.GaussianBlur(levels, (0, 0), _POOL).max())


def _without(way: _Plane, differs: _Plane) -> _Plane:
    """Leave out of differences what a share of one background in place of the other explains."""
    share = np.clip(differs @ way / max(float(way @ way), 1.0), 0, 1)
    return np.asarray(differs - share[:, :, None] * way, np.float32)
