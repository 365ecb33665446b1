"""What a picture file says of itself before it is decoded: format, size, orientation, depth."""

import struct

from imgsearch.errors import PictureError
from imgsearch.images import MAX_PIXELS

_ORIENTATION_TAG = 0x0112


def picture_format(data: bytes) -> str:
    """Name the format by its first bytes, and refuse what is not on the list.

    Args:
        data: A file.

    Returns:
        `jpeg`, `png`, `webp`, `bmp`, `tiff`, `gif` or `avif`.

    Raises:
        PictureError: `empty`, `not_an_image` or `unsupported_format`.
    """
    if not data:
        raise PictureError("empty", "the file is empty")
    head = data[:16]
    brand = data[4:12]
    known = {
        "jpeg": head.startswith(b"\xff\xd8\xff"),
        "png": head.startswith(b"\x89PNG\r\n\x1a\n"),
        "webp": head.startswith(b"RIFF") and data[8:12] == b"WEBP",
        "bmp": head.startswith(b"BM") and len(data) > 26,
        "tiff": head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
        "gif": head.startswith((b"GIF87a", b"GIF89a")),
        "avif": brand in (b"ftypavif", b"ftypavis"),
    }
    for name, matches in known.items():
        if matches:
            return name
    unsupported = {
        "HEIC or another ISO media file": brand.startswith(b"ftyp"),
        "JPEG XL": head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")),
        "JPEG 2000": head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")),
        "Photoshop": head.startswith(b"8BPS"),
        "SVG": b"<svg" in data[:1024].lower(),
    }
    for name, matches in unsupported.items():
        if matches:
            raise PictureError(
                "unsupported_format",
                f"{name} is not supported",
                hint="convert it to JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF",
            )
    raise PictureError("not_an_image", "the content is not a picture")


def jpeg_size(data: bytes) -> tuple[int, int]:
    """Read (height, width) from the frame header of a JPEG (ITU-T T.81, B.2.2).

    Args:
        data: A file.

    Raises:
        PictureError: `too_large`, or `corrupt` if there is no header or far less data than it promises.
    """
    position = 2
    while position + 9 <= len(data):
        if data[position] != 0xFF:
            position += 1  # decoders skip stray bytes before a marker, so we do
            continue
        marker = data[position + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 5)
            if height * width > MAX_PIXELS:
                raise PictureError("too_large", f"{width} x {height} pixels, more than {MAX_PIXELS:,}")
            if marker <= 0xC7 and height * width > 512 * len(data):  # a block of 64 pixels takes a bit at least
                raise PictureError("corrupt", "holds less than its header promises")
            return height, width
        if marker == 0xFF:
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 2  # markers without a body
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    raise PictureError("corrupt", "a JPEG without a frame header: cut short or damaged")


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
        pass  # offsets that point nowhere: the picture is fine, its metadata is not
    return 1


def sample_bits(data: bytes, kind: str) -> int:
    """Say how many bits a sample has that OpenCV gives in 16.

    AVIF has 10 or 12, which its configuration box says (AV1-ISOBMFF, 2.3.3); other formats fill all 16.
    """
    if kind != "avif":
        return 16
    flags = data[data.find(b"av1C") + 6 :][:1]
    twelve = bool(flags) and flags[0] & 0x60 == 0x60
    return 12 if twelve else 10


def avif_turn(data: bytes) -> tuple[int, str] | None:
    """Read how an AVIF is to be turned: OpenCV leaves its `irot` and `imir` boxes to us (ISO/IEC 23008-12, 6.5).

    Returns:
        Quarter turns anticlockwise, and `vertical` (upside down), `horizontal` or empty for the mirroring after
        them; None without such boxes, when EXIF may say it instead.
    """
    quarters, axis = (data.find(b"\0\0\0\x09" + box) + 8 for box in (b"irot", b"imir"))
    if quarters < 8 and axis < 8:
        return None
    mirrored = ("vertical", "horizontal")[data[axis] & 1] if axis >= 8 else ""
    return (data[quarters] & 3 if quarters >= 8 else 0), mirrored
