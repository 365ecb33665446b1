"""Lay out queries and their hits as one image to look at."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch import Box, Hit
from imgsearch.images.decode import decode
from imgsearch.images.photo import Photo, drawn
from imgsearch.images.transform import fit

CELL = 128
MARGIN = 12
CAPTION = 20
GAP_AFTER_QUERY = 24

Sheet = NDArray[np.uint8]


def contact_sheet(rows: Sequence[tuple[Path | str, Sequence[Hit]]], catalog: Path) -> bytes:
    """Draw one row a query: the query left, with the part that the first hit looks like, its hits right, scores below.

    Args:
        rows: Queries and what was found for them. Of words a caption stands in their place, in ASCII.
        catalog: Root of the hits' paths.

    Returns:
        A PNG file.
    """
    most = max(len(hits) for _, hits in rows)
    width = MARGIN + (CELL + MARGIN) * (most + 1) + GAP_AFTER_QUERY
    height = MARGIN + (CELL + CAPTION + MARGIN) * len(rows)
    sheet = np.full((height, width, 3), 255, np.uint8)
    for number, (query, hits) in enumerate(rows):
        top = MARGIN + number * (CELL + CAPTION + MARGIN)
        if isinstance(query, str):
            _write(sheet, query, top + CELL // 2, MARGIN)
        else:
            _place(sheet, query, top, MARGIN, "query", [hit.box for hit in hits[:1] if hit.box])
        for place, hit in enumerate(hits, start=1):
            left = MARGIN + GAP_AFTER_QUERY + place * (CELL + MARGIN)
            _place(sheet, catalog / hit.path, top, left, f"{hit.rank}   {hit.score:.3f}")
    _, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    return png.tobytes()


def _place(sheet: Sheet, file: Path, top: int, left: int, caption: str, boxes: Sequence[Box] = ()) -> None:
    image = decode(file.read_bytes())
    sheet[top : top + CELL, left : left + CELL] = fit(drawn(Photo(image, image.shape[:2]), boxes), CELL)
    cv2.rectangle(sheet, (left - 1, top - 1), (left + CELL, top + CELL), (200, 200, 200), 1)
    _write(sheet, caption, top + CELL + CAPTION - 6, left)


def _write(sheet: Sheet, caption: str, bottom: int, left: int) -> None:
    # Captions are ASCII of our own making: OpenCV cannot draw, and may not survive, other text.
    cv2.putText(sheet, caption, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (60, 60, 60), 1, cv2.LINE_AA)
