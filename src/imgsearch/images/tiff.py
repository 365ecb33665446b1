"""Reads the first directory of a TIFF file, which says what its samples mean (TIFF 6.0, section 2)."""

import struct
from dataclasses import dataclass
from enum import IntEnum

# Field types that hold whole numbers, as libtiff takes them for one another: BYTE to LONG8, and the signed ones.
_NUMBERS = {1: "B", 3: "H", 4: "I", 16: "Q", 6: "b", 8: "h", 9: "i", 17: "q"}
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


class Tag(IntEnum):
    """Fields that say how the samples are stored, and what they mean (TIFF 6.0 and its supplements; DNG)."""

    NEW_SUBFILE_TYPE = 254
    IMAGE_WIDTH = 256
    IMAGE_LENGTH = 257
    BITS_PER_SAMPLE = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    SAMPLES_PER_PIXEL = 277
    PLANAR_CONFIGURATION = 284
    PREDICTOR = 317
    COLOR_MAP = 320
    TILE_WIDTH = 322
    INK_SET = 332
    EXTRA_SAMPLES = 338
    SAMPLE_FORMAT = 339
    DNG_VERSION = 50706


@dataclass(frozen=True, slots=True)
class Directory:
    """The fields of a TIFF directory, by tag; a field is read only when it is asked for."""

    data: bytes
    order: str  # `<` or `>`, as `struct` spells byte order
    is_big: bool  # BigTIFF
    entries: dict[int, tuple[int, int, int]]  # tag to field type, count of items, and where in `data` they begin

    def has(self, tag: int) -> bool:
        """Return whether there is such a field."""
        return tag in self.entries

    def content(self, tag: int) -> bytes:
        """Return the bytes of a field, such as an ICC profile (34675); nothing where it is missing or cut short."""
        kind, count, place = self.entries.get(tag, (0, 0, 0))
        length = count * _ITEM_BYTES.get(kind, 0)
        return self.data[place : place + length] if place + length <= len(self.data) else b""

    def numbers(self, tag: int, most: int = 16) -> tuple[int, ...]:
        """Return at most so many of a field's numbers; nothing where it is missing or holds none."""
        kind, count, place = self.entries.get(tag, (0, 0, 0))
        if kind not in _NUMBERS:
            return ()
        return struct.unpack_from(f"{self.order}{min(count, most)}{_NUMBERS[kind]}", self.data, place)

    def number(self, tag: int, default: int) -> int:
        """Return a field's first number."""
        return next(iter(self.numbers(tag, 1)), default)


def first_directory(data: bytes) -> Directory:
    """Read the first directory of a TIFF or BigTIFF; struct.error or OverflowError for an offset past the end."""
    order, is_big = _layout(data)
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
    return directory_at(data, start)


def directory_at(data: bytes, start: int) -> Directory:
    """Read the directory at an offset, which a field of another names; errors as of `first_directory`."""
    order, is_big = _layout(data)
    head, entry_layout, offset = (order + "Q", order + "HHQ", "Q") if is_big else (order + "H", order + "HHI", "I")
    (entry_count,) = struct.unpack_from(head, data, start)
    room = struct.calcsize(order + offset)  # a field this small stands in the entry itself
    entries: dict[int, tuple[int, int, int]] = {}
    for number in range(min(entry_count, 0xFFFF)):
        entry = start + struct.calcsize(head) + (struct.calcsize(entry_layout) + room) * number
        tag, kind, count = struct.unpack_from(entry_layout, data, entry)
        place = entry + struct.calcsize(entry_layout)
        if count * _ITEM_BYTES.get(kind, 1) > room:
            (place,) = struct.unpack_from(order + offset, data, place)
        entries.setdefault(tag, (kind, count, place))
    return Directory(data, order, is_big, entries)


def _layout(data: bytes) -> tuple[str, bool]:
    return "<" if data.startswith(b"II") else ">", data[2:4] in (b"+\0", b"\0+")
