"""Find items in images with the detector of an index."""

import os

from imgsearch.errors import require_between
from imgsearch.regions.detections import MIN_SCORE, Detection
from imgsearch.search.index import Image, Index, as_query


def detect(index: str | os.PathLike[str] | Index, image: Image, *, min_score: float = MIN_SCORE) -> list[Detection]:
    """Find the items in an image with the detector of an index.

    Args:
        index: The index directory; for many images an `Index`, which is opened once.
        image: File name.
        min_score: Minimum score of a box, 0 to 1.

    Returns:
        The surest first, in pixels of the image, upright.

    Raises:
        ImageError: The image cannot be used.
        NoIndexError: There is no index.
        MissingComponentError: The index has no detector.
        DamagedIndexError: The index is damaged.
        UsageError: `min_score` is out of range.
    """
    require_between("min_score", min_score, 0, 1)
    if not isinstance(index, Index):
        with Index.open(index) as opened:
            return detect(opened, image, min_score=min_score)
    return index.viewer.detections(as_query(image, index.manifest), min_score)
