"""Put first what is proved to show the same thing as the query."""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imgsearch.errors import ImageError
from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import Pixels, read_file
from imgsearch.images.photo import Photo, open_photo
from imgsearch.regions.geometric import SIDE, GeometricMatch, Points, draw_matches, find_points, verify_geometry
from imgsearch.search.descriptors import cache_points, cached_points
from imgsearch.search.hits import Hit
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)

# So many of the first hits are compared. Fifty take more time and put hardly more right answers first
# (docs/benchmarks.md has the figures).
CANDIDATES = 20

# Around the part of a query that a hit was found in, as a share of its longer side: what a box cuts off is lost.
_MARGIN = 0.1


def rerank(
    directory: Path, manifest: Manifest, contents: Mapping[str, bytes], photo: Photo, hits: Sequence[Hit]
) -> list[tuple[Hit, GeometricMatch | None]]:
    """Look which of the first 20 hits have points in common with a query, and put these first.

    What has more inliers comes before what has fewer; all others stay in their order. Points of catalog images are
    kept in the index, if it can be written. An image that is not there any more, or is another one by now, can be
    compared only if its points are.

    Args:
        directory: The index.
        manifest: What is published there.
        contents: Path -> sha256 of the image's bytes when it was indexed, of the hits.
        photo: The query.
        hits: Best first.

    Returns:
        The hits, best first, with new ranks and their inliers, and the proof of each: of the `part_of` the query that
        its box shows. It is None, and so are the inliers, for those that were not or could not be compared.
    """
    first = hits[:CANDIDATES]
    known = cached_points(directory, [contents[hit.path] for hit in first if hit.path in contents])
    candidates = [_points_of(manifest, hit.path, contents.get(hit.path, b""), known) for hit in first]
    parts = {box: find_points(part_of(photo, box)) for box in {hit.box for hit in first}}
    matches = [
        None if points is None else verify_geometry(parts[hit.box], points)
        for hit, points in zip(first, candidates, strict=True)
    ]
    fresh = {
        contents[hit.path]: points
        for hit, points in zip(first, candidates, strict=True)
        if points is not None and contents[hit.path] not in known
    }
    if fresh:
        cache_points(directory, fresh)
    pairs = list(zip(hits, [*matches, *[None] * (len(hits) - len(matches))], strict=True))
    pairs.sort(key=lambda pair: -(pair[1].inliers if pair[1] else 0))
    return [
        (replace(hit, rank=rank, inliers=match.inliers if match else None), match)
        for rank, (hit, match) in enumerate(pairs, start=1)
    ]


def draw_hit(manifest: Manifest, content: bytes, photo: Photo, hit: Hit) -> Pixels | None:
    """Draw which points of a query lie in a hit as they do in one plane.

    Args:
        manifest: Of the index.
        content: sha256 of the hit's image when it was indexed.
        photo: The query.
        hit: Of it.

    Returns:
        As `draw_matches`: the `part_of` the query on the left, the hit on the right. None if its image cannot be had.
    """
    image = as_indexed(manifest, hit.path, content)
    if image is None:
        return None
    part = part_of(photo, hit.box)
    return draw_matches(part, image, verify_geometry(find_points(part), find_points(image)))


def part_of(photo: Photo, box: Box | None) -> Pixels:
    """Cut out what a hit is compared with.

    Args:
        photo: The query.
        box: Of the hit, in pixels of the query's file; None for all of it.

    Returns:
        RGB, uint8 (height, width, 3), with a margin around the box where the photo has it.
    """
    if box is None:
        return photo.pixels
    inner = stretched(box, photo.size, photo.pixels.shape[:2])
    margin = round(_MARGIN * max(inner.width, inner.height))
    top, left = max(0, inner.y - margin), max(0, inner.x - margin)
    return photo.pixels[top : inner.y + inner.height + margin, left : inner.x + inner.width + margin]


def as_indexed(manifest: Manifest, path: str, content: bytes) -> Pixels | None:
    """Read a catalog image, small.

    Args:
        manifest: Of the index.
        path: Of the image, below the catalog.
        content: sha256 of its bytes when it was indexed.

    Returns:
        RGB, uint8 (height, width, 3), the longer side at most that of which points are found; None if the image
        cannot be had as it was indexed, or only in a process of its own.
    """
    policy = manifest.policy
    try:
        file = os.path.join(manifest.catalog, path)
        data, _ = read_file(file, follow_links=policy.follow_links, max_bytes=policy.max_bytes)
        photo = open_photo(data, policy, SIDE) if hashlib.sha256(data).digest() == content else None
    except ImageError as error:
        logger.info("%r is not compared: %s", path, error)
        return None
    return photo.pixels if photo else None


def _points_of(manifest: Manifest, path: str, content: bytes, known: Mapping[bytes, Points]) -> Points | None:
    if content in known:
        return known[content]
    image = as_indexed(manifest, path, content)
    return None if image is None else find_points(image)
