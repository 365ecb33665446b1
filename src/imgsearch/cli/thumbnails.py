"""Small squares of images to look at, on a page or in a terminal; whatever a file holds, it harms nothing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels
from imgsearch.images.photo import drawn, open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.reading import read_file
from imgsearch.images.transform import fit, reduce
from imgsearch.images.workers.decoders import decode_and_fit_guarded

if TYPE_CHECKING:
    from imgsearch.cli.answers import Picture
    from imgsearch.images.boxes import Box

# Boxes are drawn into an image so many times as large.
_SHARP = 2


def thumbnail(data: bytes | None, side: int, boxes: Sequence["Box"] = ()) -> Pixels | None:
    """Decode the bytes of an image to a square, with boxes in its own pixels; None for what cannot be shown."""
    if data is None:
        return None
    try:
        photo = open_photo(data, FilePolicy(), _SHARP * side) if boxes else None
        if photo is None:
            return decode_and_fit_guarded(data, side, "pad", FilePolicy())
    except ImageError:
        return None
    return fit(drawn(photo, boxes), side, background=photo.background)


def file_thumbnail(path: str, side: int, boxes: Sequence["Box"] = ()) -> Pixels | None:
    """Decode a file as `thumbnail` does."""
    try:
        data, _ = read_file(path)
    except ImageError:
        return None
    return thumbnail(data, side, boxes)


def query_thumbnail(picture: "Picture", boxes: Sequence["Box"], side: int) -> Pixels | None:
    """Decode an image that was asked with, with boxes, unless that was done before."""
    try:
        photo = picture.image.photo if picture.image else None
    except ImageError:  # an image of the index, of which a part is damaged
        photo = None
    if photo is None:
        return file_thumbnail(picture.file, side, boxes)
    photo = replace(photo, pixels=reduce(photo.pixels, _SHARP * side))
    return fit(drawn(photo, boxes), side, background=photo.background)
