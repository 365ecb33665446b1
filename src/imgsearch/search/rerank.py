"""Re-rank hits by geometric verification: what has the same points as the query, in the same places, comes first."""

import hashlib
import logging
import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from imgsearch.errors import ImageError
from imgsearch.files import open_regular, user_cache
from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import Pixels
from imgsearch.images.photo import Photo, open_photo
from imgsearch.images.reading import read_file
from imgsearch.regions.geometric import (
    DESCRIPTOR_LENGTH,
    MAX_POINTS,
    POINTS_VERSION,
    SIDE,
    Points,
    draw_matches,
    find_points,
    verify_geometry,
)
from imgsearch.search.hits import CANDIDATES, Hit
from imgsearch.search.views import QueryImage
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)

# Around the part of a query that a hit was found in, as a share of its longer side: what a box cuts off is lost.
_MARGIN = 0.1

# Files in the cache of points, of 55 kB at most.
MAX_CACHED = 1000


def rerank_hits(manifest: Manifest, items: Items, photo: Photo, hits: Sequence[Hit]) -> list[Hit]:
    """Rank the first 20 hits by inliers, where the image or its cached points are still there; others stay in order."""
    first = hits[:CANDIDATES]
    contents = items.sha256_by_path(hit.path for hit in first)
    parts = {box: find_points(part_of(photo, box)) for box in {hit.box for hit in first}}
    compared = []
    for hit in first:
        points = _points_of(manifest, hit.path, contents.get(hit.path, b""))
        inliers = None if points is None else verify_geometry(parts[hit.box], points).inliers
        compared.append(replace(hit, inliers=inliers))
    compared.sort(key=lambda hit: -(hit.inliers or 0))
    return [replace(hit, rank=rank) for rank, hit in enumerate([*compared, *hits[CANDIDATES:]], start=1)]


def draw_hit(manifest: Manifest, items: Items, query: QueryImage, hit: Hit) -> Pixels | None:
    """Draw the points that a query (its `part_of`, left) and a hit (right) have in common; None if there are none."""
    content = items.sha256_by_path([hit.path]).get(hit.path, b"") if hit.inliers else b""
    image = as_indexed(manifest, hit.path, content) if content else None
    if image is None or query.photo is None:
        return None
    part = part_of(query.photo, hit.box)
    return draw_matches(part, image, verify_geometry(find_points(part), find_points(image)))


def part_of(photo: Photo, box: Box | None) -> Pixels:
    """Crop a box in pixels of the query's file, with a margin where the photo has it; all of it for None."""
    if box is None:
        return photo.pixels
    inner = stretched(box, photo.size, photo.pixels.shape[:2])
    margin = round(_MARGIN * max(inner.width, inner.height))
    top, left = max(0, inner.y - margin), max(0, inner.x - margin)
    return photo.pixels[top : inner.y + inner.height + margin, left : inner.x + inner.width + margin]


def as_indexed(manifest: Manifest, path: str, sha256: bytes) -> Pixels | None:
    """Read a catalog image as `photo_as_indexed` does."""
    photo = photo_as_indexed(manifest, path, sha256)
    return photo.pixels if photo else None


def photo_as_indexed(manifest: Manifest, path: str, sha256: bytes) -> Photo | None:
    """Read a catalog image, the longer side at most `SIDE`; None if it cannot be had here as it was indexed."""
    policy = manifest.policy
    try:
        file = os.path.join(manifest.catalog, path)
        data, _ = read_file(file, follow_links=policy.follow_links, max_bytes=policy.max_bytes)
        return open_photo(data, policy, SIDE) if hashlib.sha256(data).digest() == sha256 else None
    except ImageError as error:
        logger.info("%r is not compared: %s", path, error)
        return None


def _points_of(manifest: Manifest, path: str, sha256: bytes) -> Points | None:
    """Take the points of a catalog image from the cache, or from the image."""
    cached = user_cache(f"points-{POINTS_VERSION}") / f"{sha256.hex()}.npz"
    points = _read_points(cached)
    if points is None and (image := as_indexed(manifest, path, sha256)) is not None:
        points = find_points(image)
        try:
            _write_points(cached, points)
        except OSError as error:  # a user without a home, a disk that is full: it only takes longer
            logger.debug("%s cannot be written: %s", cached, error)
    return points


def _read_points(file: Path) -> Points | None:
    try:
        with open_regular(file) as opened, np.load(opened, allow_pickle=False) as arrays:
            points = Points(arrays["positions"], arrays["descriptors"])
    # A damaged file makes NumPy and zipfile raise all of these.
    except (OSError, ValueError, KeyError, EOFError, MemoryError, SyntaxError, zipfile.BadZipFile, RuntimeError):
        return None
    count = len(points.positions) if points.positions.ndim else -1
    is_ours = (
        points.positions.dtype == np.float32
        and points.descriptors.dtype == np.uint8
        and points.positions.shape == (count, 2)
        and points.descriptors.shape == (count, DESCRIPTOR_LENGTH)
        and count <= MAX_POINTS
        and bool(((points.positions >= 0) & (points.positions <= 1)).all())
    )
    return points if is_ours else None


def _write_points(file: Path, points: Points) -> None:
    """Write a file of the cache, and remove the oldest tenth if there are too many."""
    file.parent.mkdir(parents=True, exist_ok=True)
    # Not synced: a power cut may damage it, and then it is made anew.
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as draft:
        try:
            np.savez(draft, positions=points.positions, descriptors=points.descriptors)
            draft.close()
            Path(draft.name).replace(file)
        except BaseException:
            Path(draft.name).unlink()
            raise
    paths = list(file.parent.iterdir())
    if len(paths) > MAX_CACHED:
        paths.sort(key=lambda path: path.lstat().st_mtime_ns)
        for path in paths[: len(paths) // 10]:
            path.unlink(missing_ok=True)
