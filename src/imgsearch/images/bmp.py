"""Reads uncompressed BMP files: OpenCV takes one header in six for another, and masks for whatever it expects.

The layouts are those of Microsoft's BITMAPCOREHEADER to BITMAPV5HEADER and of OS/2 1.x and 2.x.
"""

import struct
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import ImageError

_CORE_HEADER = 12  # OS/2 1.x, and the oldest of Windows
_INFO_HEADER = 40
# Masks of red, green, blue and alpha where the file has none of its own.
_DEFAULT_MASKS = {16: (0x7C00, 0x03E0, 0x001F, 0), 32: (0xFF0000, 0xFF00, 0xFF, 0)}
_BIT_FIELDS, _ALPHA_BIT_FIELDS = 3, 6
_ROWS = 256  # of a file with masks, worked at a time: its samples take 4 bytes meanwhile


@dataclass(frozen=True, slots=True)
class BmpHeader:
    """What the file header and the information header say."""

    header_bytes: int
    width: int
    height: int
    is_top_down: bool
    bits: int  # a pixel
    compression: int
    masks: tuple[int, int, int, int]  # of red, green, blue, alpha
    palette_start: int
    palette_colors: int
    pixels_start: int


def bmp_header(data: bytes) -> BmpHeader:
    """Read both headers; struct.error where they are cut short."""
    pixels_start, length = struct.unpack_from("<II", data, 10)
    if length == _CORE_HEADER:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression, colors = 0, 0
    else:  # OS/2 2.x may leave off fields at the end, which are zero then
        fields = data[18 : 14 + min(length, _INFO_HEADER)].ljust(_INFO_HEADER - 4, b"\0")
        width, height, _, bits, compression, _, _, _, colors, _ = struct.unpack("<iiHHIIiiII", fields)
    palette_start = 14 + length
    masks = _DEFAULT_MASKS.get(bits, (0, 0, 0, 0))
    if compression in (_BIT_FIELDS, _ALPHA_BIT_FIELDS):
        has_alpha = compression == _ALPHA_BIT_FIELDS or length >= _INFO_HEADER + 16
        found = struct.unpack_from("<IIII" if has_alpha else "<III", data, 14 + _INFO_HEADER)
        masks = (found[0], found[1], found[2], found[3] if has_alpha else 0)
    return BmpHeader(
        length, abs(width), abs(height), height < 0, bits, compression, masks, palette_start, colors, pixels_start
    )


def read_bmp(data: bytes) -> NDArray[np.uint8]:
    """Read the pixels of an uncompressed BMP: BGR, or BGRA if it has an alpha mask and anything to see through it."""
    header = bmp_header(data)
    row_bytes = (header.width * header.bits + 31) // 32 * 4
    end = header.pixels_start + row_bytes * header.height
    if not row_bytes * header.height or header.pixels_start < header.palette_start or len(data) < end:
        raise ImageError("corrupt", "cut short or damaged")
    rows = np.frombuffer(data, np.uint8, row_bytes * header.height, header.pixels_start)
    rows = rows.reshape(header.height, row_bytes)[:: 1 if header.is_top_down else -1]
    if header.bits <= 8:
        return _colors(data, header)[_numbers(rows, header)]
    if header.bits == 24:
        return rows[:, : 3 * header.width].copy().reshape(header.height, header.width, 3)
    return _by_masks(rows, header)


def _numbers(rows: NDArray[np.uint8], header: BmpHeader) -> NDArray[np.uint8]:
    """Unpack the numbers of palette colors, of which a byte holds one to eight."""
    shifts = np.arange(8 - header.bits, -1, -header.bits, dtype=np.uint8)
    numbers = rows[:, :, None] >> shifts & np.uint8(2**header.bits - 1)
    return numbers.reshape(header.height, -1)[:, : header.width]


def _colors(data: bytes, header: BmpHeader) -> NDArray[np.uint8]:
    """Read the palette, in which colors that the file leaves out are black."""
    entry_bytes = 3 if header.header_bytes == _CORE_HEADER else 4
    room = (header.pixels_start - header.palette_start) // entry_bytes
    count = min(header.palette_colors or 2**header.bits, 2**header.bits, room)
    entries = np.frombuffer(data, np.uint8, count * entry_bytes, header.palette_start)
    palette = np.zeros((2**header.bits, 3), np.uint8)
    palette[:count] = entries.reshape(count, entry_bytes)[:, :3]
    return palette


def _by_masks(rows: NDArray[np.uint8], header: BmpHeader) -> NDArray[np.uint8]:
    red, green, blue, alpha = header.masks
    channels = [_channel(rows, header, mask) for mask in (blue, green, red)]
    # Programs that know of no alpha leave zeros there, and mean nothing by it.
    if alpha and (opacity := _channel(rows, header, alpha)).any():
        channels.append(opacity)
    return np.stack(channels, axis=2)


def _channel(rows: NDArray[np.uint8], header: BmpHeader, mask: int) -> NDArray[np.uint8]:
    """Read the samples under a mask, of whose bits the upper eight count, and spread them over 0 to 255."""
    bits = min(mask.bit_count(), 8)
    shift = mask.bit_length() - bits
    if mask == 0xFF << shift and shift % 8 == 0:  # a byte by itself, as in nearly all of 32 bits
        return rows[:, shift // 8 :: header.bits // 8][:, : header.width]
    brightness = np.rint(np.arange(256) % 2**bits * (255 / (2**bits - 1))).astype(np.uint8)
    result = np.empty((header.height, header.width), np.uint8)
    for top in range(0, header.height, _ROWS):
        pixels = np.ascontiguousarray(rows[top : top + _ROWS]).view(f"<u{header.bits // 8}")[:, : header.width]
        result[top : top + _ROWS] = cv2.LUT((pixels >> shift).astype(np.uint8), brightness)
    return result
