"""What an index answers."""

from dataclasses import dataclass
from typing import Any

from imgsearch.images.boxes import Box


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer.

    Attributes:
        rank: Place, from 1.
        path: POSIX path of the image below the catalog's root.
        score: Cosine of the angle between query and image in the searched space, -1 to 1.
        distance: Euclidean distance of the two unit vectors, 0 to 2.
        product: What it shows.
        category: Where it belongs.
        metadata: The shop's other data.
        probability: That the hit is right, 0 to 1; None if the index does not know what its scores mean
            (`imgsearch evaluate --calibrate`).
        box: What part of the query it looks like, in pixels of the query, upright; None for all of it.
        inliers: How many points of the query lie in it as they do in one plane; None if that was not looked for.
    """

    rank: int
    path: str
    score: float
    distance: float
    product: str
    category: str
    metadata: dict[str, Any]
    probability: float | None = None
    box: Box | None = None
    inliers: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectHits:
    """An item in a query, and what it looks like.

    Attributes:
        box: Where, in pixels of the query, upright.
        score: How sure the detector is that there is an item, 0 to 1; None without a detector.
        hits: Best first.
    """

    box: Box
    score: float | None
    hits: list[Hit]
