"""The main colors of an item: found by clusters in CIELAB, without its background."""

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.colors import Lab, lab_of
from imgsearch.images.decode import Decoded, Pixels
from imgsearch.images.foreground import foreground, plain_background

# Of what is found here. Raise it when the same image would have other colors or names: builds then find them anew.
COLORS_VERSION = 1

MOST_COLORS = 5

# The item is looked for at this size, in means of so many samples each way.
_SIDE, _FINER = 48, 3
# What shows of an image with transparency, and what is the item alone, not mixed with what it is laid on.
_SHOWN, _OPAQUE = 16, 250
# Of the item, how much its inner part must have for its edge, where colors are mixed, to be left out.
_INNER_SHARE = 0.5
# What differs by no more from a plain background in any channel belongs to it. White is told by `foreground`, and so is
# a background that less of the image's edge is near to: it is no even one, or an item reaches the edge.
_NEAR, _WHITE, _EVEN_EDGE = 10, 248, 0.9
# Of an image, how much is an item at least.
_MIN_ITEM = 0.005
# What is near a background is seen through the item, as inside a ring, unless it is so much of it: then the item has
# that color, as a polar bear on white.
_SEEN_THROUGH_SHARE = 0.4

# Colors are counted in so many steps of each channel.
_STEPS = 16
# Light and shade change the lightness of one color, so it counts less than chroma and hue.
_SCALE = np.array([0.5, 1.0, 1.0])
_ROUNDS = 2
# Clusters that are nearer are one color; those with a smaller share of the item are none.
_SAME = 14.0
_MIN_SHARE = 0.04


@dataclass(frozen=True, slots=True)
class MainColor:
    """One of an item's main colors."""

    rgb: str  # `#rrggbb`
    share: float  # of the item; all of an item sum to 1


def main_colors(decoded: Decoded) -> list[MainColor]:
    """Find the main colors of an item, at most five, the largest first: at least one."""
    # Samples, not means of neighbors: a zebra is black and white, not gray.
    sample = _sampled(decoded.pixels)
    item = _opaque(decoded.opacity) if decoded.opacity is not None else None
    item = _item(sample) if item is None else item
    rgb, counts = _counted(sample[::_FINER, ::_FINER][item])
    points = lab_of(rgb) * _SCALE
    clusters = _clustered(points, counts)
    sums = (clusters * counts) @ np.column_stack([np.ones(len(counts)), points, rgb])
    found = [(count, [total / count for total in totals[3:]]) for count, *totals in _merged(sums.tolist())]
    found = sorted((each for each in found if each[0] >= _MIN_SHARE * counts.sum()), key=lambda each: -each[0])
    all_counts = sum(count for count, _ in found)
    return [MainColor("#{:02x}{:02x}{:02x}".format(*map(round, color)), count / all_counts) for count, color in found]


def _sampled(plane: Pixels) -> Pixels:
    return np.asarray(cv2.resize(plane, (_FINER * _SIDE, _FINER * _SIDE), interpolation=cv2.INTER_NEAREST), np.uint8)


def _opaque(opacity: Pixels) -> NDArray[np.bool_] | None:
    """Find the pixels of an item that is cut out, if it is."""
    alpha = _sampled(opacity)[::_FINER, ::_FINER]
    for least in (_OPAQUE, _SHOWN):
        mask = alpha >= least
        if mask.any() and not mask.all():
            return np.asarray(mask, np.bool_)
    return None


def _item(sample: Pixels) -> NDArray[np.bool_]:
    """Find the pixels that show the item and nothing else, all where nothing is told from the background."""
    image = np.asarray(cv2.resize(sample, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    color = plain_background(image)
    near = None if color is None else _near(image, color)
    mask = foreground(image) if near is None or color is None or color.min() >= _WHITE else _around(near, image)
    if mask.all():
        return mask
    inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) == 1
    if inner.sum() >= _INNER_SHARE * mask.sum():
        mask = inner
    if near is not None and (mask & near).sum() < _SEEN_THROUGH_SHARE * mask.sum():
        mask &= ~near
    return np.asarray(mask, np.bool_)


def _near(image: Pixels, color: NDArray[np.int16]) -> NDArray[np.bool_]:
    low, high = (tuple((color + far).clip(0, 255).tolist()) for far in (-_NEAR, _NEAR))
    return np.asarray(cv2.inRange(image, low, high), np.uint8) > 0


def _around(near: NDArray[np.bool_], image: Pixels) -> NDArray[np.bool_]:
    """Find what stands on a plain color that is not white, of which noise makes islands that are not followed."""
    edge = np.concatenate([near[0], near[-1], near[:, 0], near[:, -1]])
    if edge.mean() < _EVEN_EDGE:
        return foreground(image)
    framed = np.ones((_SIDE + 2, _SIDE + 2), np.uint8)
    framed[1:-1, 1:-1] = near
    _, labels = cv2.connectedComponents(framed, connectivity=4)
    mask = np.asarray(labels[1:-1, 1:-1] != labels[0, 0], np.bool_)
    return mask if mask.mean() >= _MIN_ITEM else np.ones_like(mask)


def _counted(pixels: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Count similar pixels (n, 3) together: their mean colors, and how many there are of each."""
    steps = pixels.astype(np.intp) // (256 // _STEPS)
    codes = (steps[:, 0] * _STEPS + steps[:, 1]) * _STEPS + steps[:, 2]
    counts = np.bincount(codes, minlength=_STEPS**3)
    used = np.flatnonzero(counts)
    sums = np.stack([np.bincount(codes, pixels[:, channel], _STEPS**3)[used] for channel in range(3)], axis=1)
    found = counts[used].astype(np.float64)
    return sums / found[:, None], found


def _clustered(points: Lab, counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return clusters as rows of zeros and ones (clusters, n): k-means, begun with what is frequent and far apart."""
    centers = points[[int(counts.argmax())]]
    distance = _squared(points, centers)[0]
    while len(centers) < min(MOST_COLORS, len(points)):
        centers = np.concatenate([centers, points[[int((counts * distance).argmax())]]])
        distance = np.minimum(distance, _squared(points, centers[-1:])[0])
    for _ in range(_ROUNDS):
        clusters = (_squared(points, centers).argmin(axis=0) == np.arange(len(centers))[:, None]).astype(np.float64)
        clusters = clusters[clusters.any(axis=1)]
        weights = clusters * counts
        centers = weights @ points / weights.sum(axis=1, keepdims=True)
    return np.asarray(clusters, np.float64)


def _merged(clusters: list[list[float]]) -> list[list[float]]:
    """Add up the sums of clusters that are one color, the nearest first: each has a count, and sums of points first."""
    clusters = list(clusters)
    while len(clusters) > 1:
        centers = [[total / count for total in totals[:3]] for count, *totals in clusters]
        apart, first, second = min(
            (math.dist(centers[first], centers[second]), first, second)
            for first, second in itertools.combinations(range(len(clusters)), 2)
        )
        if apart > _SAME:
            break
        clusters[first] = [one + other for one, other in zip(clusters[first], clusters.pop(second), strict=True)]
    return clusters


def _squared(points: Lab, centers: Lab) -> NDArray[np.float64]:
    """Return squared distances (centers, points)."""
    apart = centers[:, None] - points
    return np.asarray(np.einsum("ijk,ijk->ij", apart, apart), np.float64)
