"""Geometric verification: whether points of one image lie in another as one view of a plane would put them."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.images.decode import Pixels
from imgsearch.images.transform import fit

# Part of what points are kept under. Raise it when the same image would give other points.
POINTS_VERSION = 1
MAX_POINTS = 400
DESCRIPTOR_LENGTH = 128

# The longer side, in pixels, of the image that points are searched for in; smaller images are enlarged. Larger sides
# and more points cost time and room, and find no more (docs/benchmarks.md).
SIDE = 240
# SIFT's own default of 0.04 leaves dim items without points.
_CONTRAST = 0.02

# Lowe's ratio: how much nearer the nearest descriptor must be than the second.
_RATIO = 0.8
# How far from where it should be a point may lie, in pixels of `SIDE`.
_TOLERANCE = 4.0
# Any four points, no three in line, fit a homography; the fifth is the first that says something.
_FEWEST = 5
_ROUNDS = 2000
_CONFIDENCE = 0.995

# A camera does not show an item larger or smaller than this, an image as a whole being 1, nor stretched more one way
# than the other, nor one point of it so much nearer than the middle.
_LARGEST = 10.0
_MAX_STRETCHED = 3.5
_MAX_NEARER = 3.0

_LINE = (220, 60, 30)

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Points:
    """Places of an image that would be recognized."""

    positions: _Floats  # float32 (n, 2), x and y as shares of the image's longer side, whatever its resolution
    descriptors: NDArray[np.uint8]  # (n, 128), what each looks like


@dataclass(frozen=True, slots=True)
class GeometricMatch:
    """What two images have in common."""

    inliers: int  # points that agree on one view, at least 5; 0 where there is no view that a camera could have had
    query: _Floats  # float32 (inliers, 2), where these are in the query, as in `Points`
    candidate: _Floats  # float32 (inliers, 2), where they are in the candidate
    homography: NDArray[np.float64] | None  # (3, 3), from the candidate's positions to the query's


def find_points(image: Pixels) -> Points:
    """Find the clearest points, at most 400, with SIFT (Lowe: Distinctive Image Features ..., 2004)."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    sides = max(1, round(width * scale)), max(1, round(height * scale))
    gray = cv2.resize(gray, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    finder = cv2.SIFT.create(nfeatures=MAX_POINTS, contrastThreshold=_CONTRAST)
    found, descriptors = finder.detectAndCompute(gray, None)
    if not found:
        return Points(np.zeros((0, 2), np.float32), np.zeros((0, DESCRIPTOR_LENGTH), np.uint8))
    # Of equally clear ones SIFT keeps all. What it returns as float32 are whole numbers up to 255.
    positions = np.array([point.pt for point in found[:MAX_POINTS]], np.float32)
    return Points(positions / np.float32(SIDE), np.asarray(descriptors[:MAX_POINTS], np.uint8))


def verify_geometry(query: Points, candidate: Points) -> GeometricMatch:
    """Find one view of the candidate that has its points where the query has them: MAGSAC++ (Barath et al., 2020)."""
    first, second = _pairs(query.descriptors, candidate.descriptors)
    there, here = query.positions[first] * SIDE, candidate.positions[second] * SIDE
    if len(here) < _FEWEST:
        return _NO_MATCH
    found, inside = cv2.findHomography(
        here, there, cv2.USAC_MAGSAC, _TOLERANCE, maxIters=_ROUNDS, confidence=_CONFIDENCE
    )
    homography = np.asarray(found, np.float64)
    if homography.shape != (3, 3):  # where there is none OpenCV returns None, whatever its types say
        return _NO_MATCH
    kept = np.flatnonzero(inside)
    # SIFT may describe one place more than once, with other directions: it counts once.
    _, places = np.unique(there[kept].round(), axis=0, return_index=True)
    kept = kept[np.sort(places)]
    if len(kept) < _FEWEST or not _is_view(homography, here[kept]):
        return _NO_MATCH
    scale = np.diag([SIDE, SIDE, 1.0])
    homography = np.linalg.inv(scale) @ homography @ scale
    return GeometricMatch(len(kept), query.positions[first[kept]], candidate.positions[second[kept]], homography)


_NO_MATCH = GeometricMatch(0, np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32), None)


def _pairs(query: NDArray[np.uint8], candidate: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pair descriptors: rows of the query's, and rows of the candidate's."""
    if len(query) < 2 or len(candidate) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ours, theirs = query.astype(np.float32), candidate.astype(np.float32)
    # Sums of 128 squares of whole numbers up to 255: float32 holds them exactly, in any order.
    distances = (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
    rows = np.arange(len(ours))
    nearest = distances.argmin(axis=1)
    is_mutual = distances.argmin(axis=0)[nearest] == rows
    two = np.partition(distances, 1, axis=1)
    kept = np.flatnonzero(is_mutual & (two[:, 0] < _RATIO**2 * two[:, 1]))
    return kept, nearest[kept]


def _is_view(homography: NDArray[np.float64], points: _Floats) -> bool:
    """Return whether a homography is what a camera does to an item with these points."""
    if not np.isfinite(homography).all():
        return False
    middle = np.array([*points.mean(axis=0), 1.0])
    depth = float(homography[2] @ middle)
    if abs(depth) < 1e-9:
        return False
    homography = homography / depth
    depths = np.column_stack([points, np.ones(len(points))]) @ homography[2]
    if depths.min() < 1 / _MAX_NEARER or depths.max() > _MAX_NEARER:
        return False
    center = homography[:2] @ middle
    # How the surroundings of the middle are rotated, stretched and scaled: the derivative of the homography there.
    around = homography[:2, :2] - np.outer(center, homography[2, :2])
    if np.linalg.det(around) <= 0:
        return False
    longest, shortest = np.linalg.svd(around, compute_uv=False)
    return bool(longest <= _LARGEST and shortest >= 1 / _LARGEST and longest <= _MAX_STRETCHED * shortest)


def draw_matches(query: Pixels, candidate: Pixels, match: GeometricMatch) -> Pixels:
    """Draw two images, of any resolution, side by side on white, (240, 480, 3), with a line between inliers."""
    drawing = np.hstack([fit(query, SIDE), fit(candidate, SIDE)])
    starts = _on_drawing(match.query, query)
    ends = _on_drawing(match.candidate, candidate) + np.array([SIDE, 0])
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        cv2.line(drawing, start, end, _LINE, 1, cv2.LINE_AA)
        for place in (start, end):
            cv2.circle(drawing, place, 3, _LINE, 1, cv2.LINE_AA)
    return drawing


def _on_drawing(positions: _Floats, image: Pixels) -> NDArray[np.int64]:
    height, width = image.shape[:2]
    margin = (1 - np.array([width, height]) / max(height, width)) / 2
    return np.asarray(((positions + margin) * SIDE).round(), np.int64)
