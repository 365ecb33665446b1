"""What an image file says of itself before it is decoded: format, size, orientation."""

import itertools
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from imgsearch.errors import ImageError
from imgsearch.images.bmp import bmp_header
from imgsearch.images.tiff import Tag, first_directory

_ORIENTATION_TAG = 0x0112
# Stray and fill bytes, and markers without a body, are skipped, as decoders do.
_JPEG_SEGMENT = re.compile(rb"\xff([^\xff\0\x01\xd0-\xd8])")
# More segments or boxes than any image has; a file of nothing else would keep us for long.
MAX_PARTS = 10_000
# OpenCV's limit for what it reads itself. To make an image smaller takes it 24 bytes a pixel of a side.
_LONGEST_SIDE = 2**20
_LAST_HUFFMAN_FRAME = 0xC7  # later ones are coded arithmetically
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})  # 0xF7: of JPEG-LS
_METADATA = frozenset({0xE1, 0xE2})  # application segments of EXIF, and of color profiles
_SCAN = b"\xda"


def image_format(data: bytes) -> str:
    """Name the format by the first bytes (`jpeg`, `png`, `webp`, `bmp`, `tiff`, `gif`, `avif`), and refuse others."""
    if not data:
        raise ImageError("empty", "the file is empty")
    head = data[:16]
    is_media = data[4:8] == b"ftyp"
    brands = data[8 : min(int.from_bytes(data[:4]), 256)]
    known = {
        "jpeg": head.startswith(b"\xff\xd8\xff"),
        "png": head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:] != b"CgBI",
        "webp": head.startswith(b"RIFF") and data[8:12] == b"WEBP",
        "bmp": head.startswith(b"BM") and len(data) > 26,
        "tiff": head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        "gif": head.startswith((b"GIF87a", b"GIF89a")),
        "avif": is_media and re.search(rb"avi[fs]", brands) is not None,
    }
    for name, matches in known.items():
        if matches:
            return name
    unsupported = {
        "HEIC or another ISO media file": is_media,
        "JPEG XL": head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")),
        "JPEG 2000": head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")),
        "JPEG XR": head.startswith(b"II\xbc\x01"),
        "Apple's variant of PNG (CgBI)": head[12:] == b"CgBI",
        "camera raw": head.startswith((b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILMCCD-RAW", b"FOVb")),
        "Photoshop": head.startswith(b"8BPS"),
        "GIMP": head.startswith(b"gimp xcf"),
        "OpenEXR": head.startswith(b"v/1\x01"),
        "a Windows icon": head.startswith(b"\0\0\1\0"),
        "SVG": b"<svg" in data[:1024].lower(),
    }
    for name, matches in unsupported.items():
        if matches:
            raise ImageError(
                "unsupported_format",
                f"{name} is not supported",
                hint="convert it to JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF",
            )
    raise ImageError("not_an_image", "the content is not an image")


def checked_size(data: bytes, kind: str, max_pixels: int) -> tuple[int, int] | None:
    """Read (height, width) of the first frame; ImageError if over the limit, or `corrupt` for an empty JPEG.

    None where the header does not say: then the decoder, which has limits of its own, is left to find out.
    """
    try:
        size = _SIZE_READERS[kind](data)
    except (struct.error, OverflowError):  # an offset that points past the end, or past what an address can be
        return None
    if size is None:
        return None
    height, width = size
    if height * width > max_pixels:
        raise ImageError("too_large", f"{width} x {height} pixels, more than the limit of {max_pixels:,}")
    if max(size) > _LONGEST_SIDE:
        raise ImageError("too_large", f"a side of {max(size):,} pixels, more than the limit of {_LONGEST_SIDE:,}")
    # Huffman codes take a bit at least for each block of 64 pixels.
    if height * width > 512 * len(data) and kind == "jpeg" and jpeg_head(data).marker <= _LAST_HUFFMAN_FRAME:
        raise ImageError("corrupt", "holds less than its header promises")
    return size


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Name the segments of a JPEG before its first scan by their markers, and say where each begins and ends."""
    end = 2
    for _ in range(MAX_PARTS):
        found = _JPEG_SEGMENT.search(data, end)
        if not found or found[1] == _SCAN:
            return
        end = found.end() + max(2, int.from_bytes(data[found.end() : found.end() + 2], "big"))
        yield found[1][0], found.start(), end


@dataclass(frozen=True, slots=True)
class JpegHead:
    """What comes before the first scan: the frame header (ITU-T T.81, B.2.2), and which others there are."""

    marker: int  # how the image is coded
    bits: int  # of a sample
    height: int
    width: int
    samplings: tuple[tuple[int, int], ...]  # of each component, across and down
    has_metadata: bool  # EXIF, or a color profile


def jpeg_head(data: bytes) -> JpegHead:
    """Read the head of a JPEG, or of a JPEG-LS, which has one of the same form."""
    frame: tuple[int, int, int] | None = None
    has_metadata = False
    for segment in jpeg_segments(data):
        has_metadata = has_metadata or segment[0] in _METADATA
        if frame is None and segment[0] in _FRAMES:
            frame = segment
    if frame is not None and frame[1] + 10 <= len(data):
        marker, start, _ = frame
        bits, height, width, components = struct.unpack_from(">BHHB", data, start + 4)
        factors = data[start + 11 : start + 10 + 3 * components : 3]
        if len(factors) == components:
            samplings = tuple((factor >> 4, factor & 15) for factor in factors)
            return JpegHead(marker, bits, height, width, samplings, has_metadata)
    raise ImageError("corrupt", "a JPEG without a frame header: cut short or damaged")


def without_stray_bytes(data: bytes) -> bytes:
    """Drop what lies between the segments of a JPEG up to its first scan; decoders skip it, with a remark."""
    kept, position = [data[:2]], 2
    for _, start, end in jpeg_segments(data):
        kept.append(data[start:end])
        position = end
    scan = max(position, data.find(b"\xff" + _SCAN, position))
    return data if sum(map(len, kept)) == scan else b"".join([*kept, data[scan:]])


def _jpeg_size(data: bytes) -> tuple[int, int]:
    head = jpeg_head(data)
    return head.height, head.width


def _bmp_size(data: bytes) -> tuple[int, int]:
    header = bmp_header(data)
    return header.height, header.width


def _size_at(data: bytes, place: int, layout: str) -> tuple[int, int]:
    width, height = struct.unpack_from(layout, data, place)
    return height, width


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name the chunks of a PNG up to its pixels, and say where each begins and ends (PNG, 5.3)."""
    start = 8
    for _ in range(MAX_PARTS):
        length, name = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        if name in (b"IDAT", b""):
            break
        yield name, start, start + 12 + length
        start += 12 + length


def without_animation(data: bytes) -> bytes:
    """Make of an animated PNG the still image that programs show which know of no animation (PNG, 4.9)."""
    for name, start, end in png_chunks(data):
        if name == b"acTL":
            return data[:start] + data[end:]
    return data


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Read the first chunk, of whichever of the three kinds (RFC 9649, 2.5 to 2.7)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[27:30], "little"), 1 + int.from_bytes(data[24:27], "little")
    if chunk == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if chunk == b"VP8 ":
        height, width = _size_at(data, 26, "<HH")
        return height & 0x3FFF, width & 0x3FFF
    return None


def _tiff_size(data: bytes) -> tuple[int, int] | None:
    fields = first_directory(data)
    size = fields.number(Tag.IMAGE_LENGTH, 0), fields.number(Tag.IMAGE_WIDTH, 0)
    return size if min(size) > 0 else None


def _avif_size(data: bytes) -> tuple[int, int] | None:
    """Read the boxes `ispe`, of which the largest is of the whole image, others of its tiles."""
    boxes = itertools.islice(re.finditer(rb"\0\0\0\x14ispe", data), MAX_PARTS)
    sizes = (struct.unpack_from(">II", data, found.end() + 4) for found in boxes)
    return max(((height, width) for width, height in sizes), key=lambda size: size[0] * size[1], default=None)


_SIZE_READERS: dict[str, Callable[[bytes], tuple[int, int] | None]] = {
    "jpeg": _jpeg_size,
    "png": lambda data: _size_at(data, 16, ">II"),  # the chunk IHDR (PNG, 11.2.1)
    "gif": lambda data: _size_at(data, 6, "<HH"),  # the logical screen descriptor (GIF89a, 18)
    "bmp": _bmp_size,
    "webp": _webp_size,
    "tiff": _tiff_size,
    "avif": _avif_size,
}


def exif_orientation(exif: bytes) -> int:
    """Read the orientation (1 to 8) from EXIF data (Exif 2.32, tag 274); anything broken means 1, upright."""
    start = exif.find(b"Exif\0\0") + 6 if exif.startswith(b"Exif\0\0") else 0
    order = {b"II": "<", b"MM": ">"}.get(exif[start : start + 2], "")
    if not order:
        return 1
    try:
        (directory,) = struct.unpack_from(order + "I", exif, start + 4)
        (count,) = struct.unpack_from(order + "H", exif, start + directory)
        for entry in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + directory + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG and kind == 3:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass  # offsets that point nowhere: the image is fine, its metadata is not
    return 1


def avif_turn(data: bytes) -> tuple[int, str] | None:
    """Read `irot` and `imir` boxes (ISO/IEC 23008-12, 6.5), which OpenCV leaves to us; None if EXIF may say it instead.

    Quarter turns counterclockwise, then mirroring: `vertical` (upside down), `horizontal` or empty.
    """
    rotation, mirror = (re.search(rb"\0\0\0\x09" + box + rb"(.)", data, re.DOTALL) for box in (b"irot", b"imir"))
    if not rotation and not mirror:
        return None
    mirrored = ("vertical", "horizontal")[mirror[1][0] & 1] if mirror else ""
    return (rotation[1][0] & 3 if rotation else 0), mirrored
