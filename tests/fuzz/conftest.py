"""What fuzzing needs: real files, and ways to spoil them."""

import struct
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import strategies as st

# Numbers that have broken parsers before: the ends of what 8, 16, 32 and 64 bits hold.
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = sorted(
    {
        struct.pack(order + width, number)
        for number in NUMBERS
        for order in "<>"
        for width, bits in (("B", 8), ("H", 16), ("I", 32), ("Q", 64))
        if number < 2**bits
    }
)

Spoilt = st.SearchStrategy[bytes]


@st.composite
def spoilt(draw, files: list[bytes]) -> bytes:
    """One of the files, its bytes flipped, overwritten, cut, cut out, inserted, doubled, or spliced with another's."""
    data = draw(st.sampled_from(files))
    for _ in range(draw(st.integers(1, 6))):
        size = len(data)
        # Most of what is parsed is at the beginning.
        place = draw(st.integers(0, min(size, 80)) | st.integers(0, size))
        end = min(size, place + draw(st.integers(1, 64)))
        match draw(st.sampled_from(("flip", "word", "word", "put", "cut", "out", "insert", "double", "splice"))):
            case "flip" if place < size:
                data = data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]
            case "word":
                word = draw(st.sampled_from(WORDS))
                data = data[:place] + word + data[place + len(word) :]
            case "put":
                data = data[:place] + draw(st.binary(min_size=1, max_size=12)) + data[end:]
            case "cut":
                data = data[:place]
            case "out":
                data = data[:place] + data[end:]
            case "insert":
                data = data[:place] + draw(st.binary(min_size=1, max_size=12)) + data[place:]
            case "double":
                data = data[:place] + data[place:end] * draw(st.integers(2, 40)) + data[end:]
            case "splice":
                other = draw(st.sampled_from(files))
                data = data[:place] + other[draw(st.integers(0, len(other))) :]
    return data


@pytest.fixture(scope="session", name="spoilt")
def spoilt_fixture() -> Callable[[list[bytes]], Spoilt]:
    """A strategy: spoilt(files)."""
    return spoilt


def exif(orientation: int, order: str) -> np.ndarray:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entries = struct.pack(order + "HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    return np.frombuffer(magic + struct.pack(order + "I", 8) + entries + bytes(4), np.uint8)


@pytest.fixture(scope="session")
def images() -> dict[str, list[bytes]]:
    """Small images of every format and of most kinds that a format has."""
    colors = np.random.default_rng(2).integers(0, 256, (3, 4, 4), np.uint8)
    smooth = cv2.resize(colors, (24, 18), interpolation=cv2.INTER_LINEAR)
    opaque, transparent = smooth[:, :, :3], smooth
    gray, deep = smooth[:, :, 0], opaque.astype(np.uint16) * 257

    def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
        done, data = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
        assert done
        return data.tobytes()

    def turned(suffix: str, order: str = "<") -> bytes:
        kinds = [cv2.IMAGE_METADATA_EXIF]
        done, data = cv2.imencodeWithMetadata(suffix, np.ascontiguousarray(opaque), kinds, [exif(6, order)])
        assert done
        return data.tobytes()

    return {
        "jpeg": [
            encoded(".jpg", opaque),
            encoded(".jpg", gray, cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 1),
            turned(".jpg", ">"),
        ],
        "png": [encoded(".png", transparent), encoded(".png", deep), encoded(".png", gray), turned(".png")],
        "webp": [
            encoded(".webp", opaque, cv2.IMWRITE_WEBP_QUALITY, 60),
            encoded(".webp", opaque, cv2.IMWRITE_WEBP_QUALITY, 101),
            encoded(".webp", transparent, cv2.IMWRITE_WEBP_QUALITY, 60),
            turned(".webp"),
        ],
        "bmp": [encoded(".bmp", opaque), encoded(".bmp", transparent), encoded(".bmp", gray)],
        "tiff": [
            encoded(".tiff", opaque),
            encoded(".tiff", transparent, cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_ADOBE_DEFLATE),
            encoded(".tiff", deep, cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_NONE),
            big_tiff(gray),
        ],
        "gif": [encoded(".gif", opaque), encoded(".gif", transparent)],
        "avif": [encoded(".avif", opaque), encoded(".avif", transparent), turned(".avif")],
    }


def big_tiff(gray: np.ndarray) -> bytes:
    """A BigTIFF of one strip: 64-bit offsets, which have overflowed before."""
    strip = gray.tobytes()
    height, width = gray.shape
    fields = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 16, 277: 1, 278: height, 279: len(strip)}
    entries = b"".join(struct.pack("<HHQQ", tag, 4, 1, value) for tag, value in fields.items())
    head = b"II+\0" + struct.pack("<HHQ", 8, 0, 16 + len(strip))
    return head + strip + struct.pack("<Q", len(fields)) + entries + bytes(8)
