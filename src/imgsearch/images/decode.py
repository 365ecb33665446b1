"""From bytes to RGB pixels: the only door to the decoder.

OpenCV never sees a file name (a name that is not UTF-8 crashes it) and never reads a file itself (`imread` fills
a JPEG that was cut short with gray and says nothing). Bytes are read in `reading.py`, checked here, and given to
`imdecode`.
"""

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import ImageError
from imgsearch.images import MAX_PIXELS
from imgsearch.images.bmp import read_bmp
from imgsearch.images.color import to_srgb
from imgsearch.images.headers import (
    avif_turn,
    checked_size,
    exif_orientation,
    image_format,
    without_animation,
    without_stray_bytes,
)
from imgsearch.images.layouts import Layout, layout_of
from imgsearch.images.pillow import opened_by_pillow

Pixels = NDArray[np.uint8]

# What is transparent is laid on white, as product images are cut out to stand on it. White goods would vanish there:
# where nearly all that shows is about as light as this, and enough is transparent to be a cut-out, it is gray.
WHITE, _GRAY = 255, 128
_NEARLY_WHITE = 235
_NEARLY_ALL = 0.98
_MIN_TRANSPARENT = 0.02

# What is odd about an image that can be used, in words, by kind: `damaged`, `ignored_profile` or `blank`.
Remarks = Mapping[str, str]

_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"

# What libjpeg-turbo says when it goes on with an image that is partly wrong. Other remarks, such as "extraneous
# bytes before marker", are made about many an image that is whole.
_JPEG_DAMAGE = re.compile(
    rb"Premature end of JPEG file|premature end of data segment|bad Huffman code|bad arithmetic code"
    rb"|found marker 0x\w+ instead of RST\d"
)

_JPEG_LEFT_OVER = re.compile(rb"(\d+) extraneous bytes before marker")
_MAX_LEFT_OVER = 16

_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}

_STDERR_LOCK = threading.Lock()
# A process that is forked meanwhile would never have its standard error back.
os.register_at_fork(
    before=_STDERR_LOCK.acquire, after_in_parent=_STDERR_LOCK.release, after_in_child=_STDERR_LOCK.release
)


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as a person sees it: upright, first frame, in sRGB, transparency over a background."""

    pixels: Pixels  # RGB, uint8 (height, width, 3)
    background: int  # the gray that it is laid on, where it is transparent, and the image is to be padded with
    remarks: Remarks
    opacity: Pixels | None = None  # uint8 (height, width), if the file has transparency


def decode(data: bytes, *, shrink_to: int = 0, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image file as `decode_image` does, to its pixels alone; a damaged one is `corrupt`."""
    return decode_image(data, shrink_to=shrink_to, max_pixels=max_pixels).pixels


def decode_image(
    data: bytes, *, shrink_to: int = 0, max_pixels: int = MAX_PIXELS, keep_damaged: bool = False
) -> Decoded:
    """Decode an image file as a person sees it; of a damaged JPEG what there is, if damage is let in.

    With `shrink_to` a JPEG may be decoded at a half, a quarter or an eighth, which saves most of the work, as long as
    its longer side keeps so many pixels. ImageError: `empty`, `not_an_image`, `unsupported_format`, `too_large` (for
    OpenCV's own limit of pixels, too), `out_of_memory` or `corrupt`.
    """
    if not keep_damaged:
        return _over_background(*_decode_whole(data, shrink_to, max_pixels))
    try:
        native, remarks = _decode_native(data, shrink_to, max_pixels)
    except ImageError as error:
        if error.cause != "corrupt" or not data.startswith(_JPEG_START):
            raise
        # With an end-of-image marker the decoder takes what it has got so far for all there is.
        native, remarks = _decode_native(data + _JPEG_END, shrink_to, max_pixels)
        remarks = {"damaged": "cut short", **remarks}
    return _over_background(native, remarks)


def decode_rgba(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Decode an image with its transparency: RGBA, not premultiplied, uint8 (h, w, 4)."""
    native, _ = _decode_whole(data, 0, max_pixels)
    if native.ndim == 2:
        return _as_pixels(cv2.cvtColor(native, cv2.COLOR_GRAY2RGBA))
    code = cv2.COLOR_BGR2RGBA if native.shape[2] == 3 else cv2.COLOR_BGRA2RGBA
    return _as_pixels(cv2.cvtColor(native, code))


def _decode_whole(data: bytes, shrink_to: int, max_pixels: int) -> tuple[Pixels, Remarks]:
    native, remarks = _decode_native(data, shrink_to, max_pixels)
    if "damaged" in remarks:
        raise ImageError("corrupt", f"damaged: {remarks['damaged']}")
    return native, remarks


def _decode_native(data: bytes, shrink_to: int, max_pixels: int) -> tuple[Pixels, Remarks]:
    """Decode to upright 8-bit gray, BGR or BGRA, in sRGB; `damaged` is what the decoder passed over."""
    kind = image_format(data)
    size = checked_size(data, kind, max_pixels)
    layout = layout_of(data, kind)
    exif = b""
    try:
        with _captured_stderr() as said:
            if layout.reader == "bmp":
                image: object = read_bmp(data)
            elif layout.reader == "pillow":
                image = _read_tiff_by_pillow(data)
            elif kind == "jpeg":
                # libjpeg speaks of the first irregularity only: stray bytes in the head would hide damage behind them.
                buffer = np.frombuffer(without_stray_bytes(data), np.uint8)
                image = cv2.imdecode(buffer, _jpeg_flag(size, shrink_to))
            else:
                image, exif = _read_by_opencv(without_animation(data) if kind == "png" else data)
    except cv2.error as error:
        raise _refusal(error) from None
    pixels, ignored_profile = _corrected(image, layout), ""
    if layout.has_metadata:
        pixels, ignored_profile = to_srgb(pixels, data, kind)
    turn = avif_turn(data) if kind == "avif" else None
    if turn:
        pixels = _turned(pixels, *turn)
    elif exif:
        pixels = _upright(pixels, exif_orientation(exif))
    damage = _damage(said, data) if kind == "jpeg" else ""
    found = {"damaged": damage, "ignored_profile": ignored_profile}
    return pixels, {name: message for name, message in found.items() if message}


def _read_by_opencv(data: bytes) -> tuple[object, bytes]:
    """Decode any format but JPEG to what OpenCV makes of it; return EXIF data, too."""
    # UNCHANGED keeps transparency and all 16 bits, but does not turn the image upright.
    image, kinds, contents = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=cv2.IMREAD_UNCHANGED)
    for kind, content in zip(np.ravel(kinds), contents, strict=True):
        if kind == cv2.IMAGE_METADATA_EXIF:
            return image, _as_pixels(content).tobytes()
    return image, b""


def _read_tiff_by_pillow(data: bytes) -> Pixels:
    """Decode a TIFF to upright 8-bit BGR or BGRA."""
    with opened_by_pillow(data, "tiff") as image:
        image.load()
        has_alpha = image.mode in ("LA", "RGBA", "RGBa")
        pixels = _as_pixels(image.convert("RGBA" if has_alpha else "RGB"))
    return _as_pixels(cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if has_alpha else cv2.COLOR_RGB2BGR))


def _corrected(image: object, layout: Layout) -> Pixels:
    """Make 8-bit gray, BGR or BGRA with straight alpha of what a reader gave; where it gave none, `corrupt`."""
    if not isinstance(image, np.ndarray) or image.size == 0:
        raise ImageError("corrupt", "cut short or damaged")
    transparent = image == layout.transparent_gray if layout.transparent_gray is not None and image.ndim == 2 else None
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / (2**layout.bits - 1))
    if image.dtype != np.uint8 or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        channels = 1 if image.ndim == 2 else image.shape[2]
        raise ImageError("unsupported_format", f"{channels} channel(s) of {image.dtype} samples")
    if layout.is_inverted:
        image = cv2.bitwise_not(image)
    if transparent is not None:
        return np.dstack([image, image, image, np.where(transparent, np.uint8(0), np.uint8(255))])
    if image.ndim == 3 and image.shape[2] == 4:
        if layout.alpha == "none":
            image = cv2.cvtColor(image, cv2.COLOR_BGRA2BGR)
        elif layout.alpha == "premultiplied":
            image = cv2.cvtColor(image, cv2.COLOR_mRGBA2RGBA)
    elif layout.frame:
        image = _clear_around(_as_pixels(image), layout.frame)
    return _as_pixels(image)


def _clear_around(image: Pixels, frame: tuple[int, int, int, int]) -> Pixels:
    """Make transparent what lies outside the first frame of an animation."""
    x, y, width, height = frame
    if x == y == 0 and height >= image.shape[0] and width >= image.shape[1]:
        return image
    alpha = np.zeros(image.shape[:2], np.uint8)
    alpha[y : y + height, x : x + width] = 255
    return np.dstack([image, alpha])


@contextlib.contextmanager
def within_memory() -> Iterator[None]:
    """Turn a lack of memory, wherever it shows, into the refusal of an image (`out_of_memory`)."""
    try:
        yield
    except MemoryError:
        raise _out_of_memory() from None
    except cv2.error as error:
        if error.code != cv2.Error.StsNoMem:
            raise
        raise _out_of_memory() from None


def _out_of_memory() -> ImageError:
    return ImageError("out_of_memory", "needs more memory than a decoder may take, or than there is")


def _refusal(error: cv2.error) -> ImageError:
    if "MAX_IMAGE_" in str(error):
        return ImageError("too_large", "more pixels than OpenCV's limit, or a side over 2^20")
    if error.code == cv2.Error.StsNoMem:
        return _out_of_memory()
    return ImageError("corrupt", "cut short or damaged")


def _damage(said: bytearray, data: bytes) -> str:
    """Find in what libjpeg wrote the damage that it passed over; it also remarks on what does no harm."""
    if found := _JPEG_DAMAGE.search(said):
        return found.group().decode("ascii", "replace")
    if not (left := _JPEG_LEFT_OVER.search(said)):
        return ""
    # The decoder had all its blocks before the data came to an end: it had lost its way. Some programs pad, though.
    body = data[: data.rfind(_JPEG_END)]
    padding = len(body) - len(body.rstrip(b"\0\xff"))
    return f"{int(left[1])} bytes left over" if int(left[1]) > _MAX_LEFT_OVER + padding else ""


@contextlib.contextmanager
def _captured_stderr() -> Iterator[bytearray]:
    """Catch what libjpeg, libpng and their like write to the descriptor of standard error; there after the block."""
    caught = bytearray()
    with _STDERR_LOCK:
        try:
            kept = os.dup(2)
        except OSError:  # standard error is closed, and will be closed again
            kept = -1
        memory = _file_without_name()
        try:
            if memory != 2:
                os.dup2(memory, 2)
            yield caught
        finally:
            caught += os.pread(2, 1 << 16, 0)
            if kept < 0:
                os.close(2)
            else:
                os.dup2(kept, 2)
                os.close(kept)
            if memory != 2:
                os.close(memory)


def _file_without_name() -> int:
    try:
        return os.memfd_create("stderr", os.MFD_CLOEXEC)
    except OSError:  # forbidden, as a container may
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())


def _jpeg_flag(size: tuple[int, int] | None, shrink_to: int) -> int:
    if shrink_to and size:
        for divisor, flag in _REDUCED.items():
            if max(size) >= divisor * shrink_to:
                return flag
    return cv2.IMREAD_COLOR


def _over_background(native: Pixels, remarks: Remarks) -> Decoded:
    if native.ndim == 2:
        return Decoded(_as_pixels(cv2.cvtColor(native, cv2.COLOR_GRAY2RGB)), WHITE, remarks)
    if native.shape[2] == 3:
        return Decoded(_as_pixels(cv2.cvtColor(native, cv2.COLOR_BGR2RGB)), WHITE, remarks)
    background = _GRAY if _is_white_cutout(native) else WHITE
    return Decoded(_laid_over(native, background), background, remarks, native[:, :, 3])


def _upright(image: Pixels, orientation: int) -> Pixels:
    """Undo an EXIF orientation (Exif 2.32, tag 274)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _turned(image: Pixels, quarters: int, mirrored: str) -> Pixels:
    """Turn as an AVIF file asks: counterclockwise by quarters, then mirrored."""
    image = np.rot90(image, quarters)
    if mirrored == "vertical":
        image = image[::-1]
    elif mirrored == "horizontal":
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _is_white_cutout(bgra: Pixels) -> bool:
    """Return whether what shows of an image, weighted by its opacity, would hardly show on white."""
    alpha = cv2.extractChannel(bgra, 3)
    if np.count_nonzero(alpha == 0) < _MIN_TRANSPARENT * alpha.size:
        return False
    is_white = cv2.inRange(bgra, (_NEARLY_WHITE,) * 3 + (1,), (255,) * 4)
    visible, white = (cv2.sumElems(plane)[0] for plane in (alpha, cv2.bitwise_and(alpha, is_white)))
    return bool(visible) and white >= _NEARLY_ALL * visible


def _laid_over(bgra: Pixels, background: int) -> Pixels:
    """Lay a BGRA image on a gray, or white, and return RGB."""
    # A few rows at a time, so that a large image needs no second copy in 16 bits.
    result = np.empty((*bgra.shape[:2], 3), np.uint8)
    for top in range(0, len(bgra), 256):
        rows = bgra[top : top + 256].astype(np.uint16)
        alpha = rows[:, :, 3:]
        result[top : top + 256] = (rows[:, :, 2::-1] * alpha + background * (255 - alpha) + 127) // 255
    return result


def _as_pixels(image: object) -> Pixels:
    return np.asarray(image, np.uint8)
