"""A whole photo, to find items in."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from imgsearch.images import MAX_PIXELS
from imgsearch.images.boxes import Box, stretched
from imgsearch.images.decode import WHITE, Pixels, decode_image, within_memory
from imgsearch.images.headers import checked_size, image_format
from imgsearch.images.policy import FilePolicy
from imgsearch.images.transform import reduce
from imgsearch.images.workers.decoders import needs_process

# Crops of a tenth of such a photo are still as sharp as what most encoders see.
LONGEST = 1024


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded image, upright."""

    pixels: Pixels  # RGB, uint8 (height, width, 3), the longer side at most `LONGEST`
    size: tuple[int, int]  # height and width of the file's image, upright, in its own pixels
    background: int = WHITE  # the gray that it is to be padded with


def open_photo(data: bytes, policy: FilePolicy, longest: int = LONGEST) -> Photo | None:
    """Decode a photo here, its longer side brought down to `longest`; None if it needs a process (`needs_process`)."""
    if needs_process(data, policy):
        return None
    with within_memory():
        decoded = decode_image(data, shrink_to=longest)
        reduced = reduce(decoded.pixels, longest)
    size = _upright_size(checked_size(data, image_format(data), MAX_PIXELS), decoded.pixels)
    return Photo(reduced, size, decoded.background)


def _upright_size(of_file: tuple[int, int] | None, decoded: Pixels) -> tuple[int, int]:
    """Return how large a file's image is, upright; a decoder that shrinks rounds up, so its size does not tell."""
    height, width = decoded.shape[:2]
    if of_file is None or max(of_file) <= max(height, width):
        return height, width
    is_turned = (height - width) * (of_file[0] - of_file[1]) < 0  # the header does not know which way is up
    return of_file[::-1] if is_turned else of_file


def drawn(photo: Photo, boxes: Sequence[Box]) -> Pixels:
    """Draw boxes, in pixels of the file, into a copy of `photo.pixels`: orange, with a black line on either side."""
    canvas = np.ascontiguousarray(photo.pixels).copy()
    thickness = max(1, round(max(canvas.shape[:2]) / 160))
    for box in boxes:
        inner = stretched(box, photo.size, canvas.shape[:2])
        corners = (inner.x, inner.y), (inner.x + inner.width - 1, inner.y + inner.height - 1)
        cv2.rectangle(canvas, *corners, (0, 0, 0), 3 * thickness)
        cv2.rectangle(canvas, *corners, (255, 140, 0), thickness)
    return canvas
