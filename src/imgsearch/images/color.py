"""Brings the colors of decoded images to sRGB, as their files' color profiles say, with LittleCMS."""

import contextlib
import io
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import ImageError
from imgsearch.images.pillow import opened_by_pillow
from imgsearch.images.profiles import ProfileError, color_profile

if TYPE_CHECKING:  # Pillow is imported for the images that need it; a query of another has no time for that
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

_Pixels = NDArray[np.uint8]

# Rows that are converted at once: what that takes in memory stays small beside the image.
_BAND = 256

# A profile that changes no color by more than so many levels is one of sRGB, of which there are dozens.
_SAME = 2

# A catalog has a handful of profiles. Each takes up to 4 MiB here.
_KEPT = 8


def to_srgb(image: _Pixels, data: bytes, kind: str) -> tuple[_Pixels, str]:
    """Bring the pixels of a file, 8-bit gray, BGR or BGRA, to sRGB; return also why its color profile is ignored.

    `kind` is the file's format; the image may be changed in place. A CMYK file with a profile is decoded once more, by
    Pillow, because OpenCV does not hand out the inks.
    """
    try:
        profile = color_profile(data, kind)
        return (_converted(image, profile, data, kind) if profile else image), ""
    except ProfileError as error:
        return image, str(error)


def _converted(image: _Pixels, profile: bytes, data: bytes, kind: str) -> _Pixels:
    space = profile[16:20]
    if space == b"CMYK":
        transform = _transform(profile, "CMYK")
        return _without_inks(_inks(data, kind, image.shape[:2]), transform)
    mode = "L" if space == b"GRAY" else "RGB"
    if _is_srgb(profile, mode):
        return image
    transform = _transform(profile, mode)
    if mode == "L":
        return _with_other_grays(image, transform)
    if image.ndim == 2:  # a gray is equal parts of the profile's red, green and blue
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)
    for top in range(0, len(image), _BAND):
        band = image[top : top + _BAND]
        band[:, :, :3] = _applied(transform, _picture(band))
    return image


def _with_other_grays(image: _Pixels, transform: "ImageCmsTransform") -> _Pixels:
    """Apply a gray profile to what has one channel, or three that are equal, as OpenCV makes of a gray JPEG."""
    channels = cv2.split(image)
    if any(not np.array_equal(channels[0], other) for other in channels[1:3]):
        raise ProfileError("a color profile for grays in an image that has colors")
    grays = _applied(transform, _picture(np.arange(256, dtype=np.uint8)[None]))[0, :, 1]
    return np.asarray(cv2.merge([*(cv2.LUT(each, grays) for each in channels[:3]), *channels[3:]]), np.uint8)


def _without_inks(inks: "Image", transform: "ImageCmsTransform") -> _Pixels:
    image = np.empty((inks.height, inks.width, 3), np.uint8)
    for top in range(0, inks.height, _BAND):
        band = inks.crop((0, top, inks.width, min(top + _BAND, inks.height)))
        image[top : top + _BAND] = _applied(transform, band)
    return image


def _inks(data: bytes, kind: str, size: tuple[int, ...]) -> "Image":
    """Decode a CMYK image upright, a JPEG as much reduced as OpenCV has done it, to (height, width) `size`."""
    from PIL import ImageOps

    with contextlib.suppress(ImageError), opened_by_pillow(data, kind) as picture:
        divisor = round(max(picture.size) / max(size))
        picture.draft("CMYK", (max(1, picture.width // divisor), max(1, picture.height // divisor)))
        ImageOps.exif_transpose(picture, in_place=True)
        if picture.mode == "CMYK":
            return picture
    raise ProfileError("the inks of a CMYK image cannot be read")


@lru_cache(_KEPT)
def _transform(profile: bytes, mode: str) -> "ImageCmsTransform":
    """Make ready to bring 8-bit pixels to sRGB; ProfileError for a profile that LittleCMS refuses.

    Paper becomes white and its black becomes black (relative colorimetric, with black point compensation), as browsers
    and image editors show it: a product on white stays on white.
    """
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        return ImageCms.buildTransform(
            given,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise ProfileError(f"a color profile that is damaged: {error}") from None


@lru_cache(_KEPT)
def _is_srgb(profile: bytes, mode: str) -> bool:
    """Return whether a profile changes next to nothing, which is decided by a grid of all colors, or by all grays."""
    if mode == "L":
        colors = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
        found = _applied(_transform(profile, mode), _picture(colors[:, :, 0]))
    else:
        steps = np.rint(np.linspace(0, 255, 17)).astype(np.uint8)
        colors = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
        found = _applied(_transform(profile, mode), _picture(colors))
    return bool(cv2.absdiff(found, colors).max() <= _SAME)


def _picture(pixels: _Pixels) -> "Image":
    """Hand pixels, gray, BGR or BGRA, to Pillow: gray or RGB."""
    from PIL import Image

    layout = "L" if pixels.ndim == 2 else ("BGR", "BGRX")[pixels.shape[2] - 3]
    mode = "L" if pixels.ndim == 2 else "RGB"
    return Image.frombuffer(mode, pixels.shape[1::-1], np.ascontiguousarray(pixels), "raw", layout, 0, 1)


def _applied(transform: "ImageCmsTransform", picture: "Image") -> _Pixels:
    """Convert a picture to BGR, sRGB: uint8 (height, width, 3)."""
    converted = transform.apply(picture).tobytes("raw", "BGR")
    return np.frombuffer(converted, np.uint8).reshape(picture.height, picture.width, 3)
