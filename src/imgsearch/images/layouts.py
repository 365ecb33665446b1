"""How the pixels of a file have to be read, by its header: as OpenCV gives them, corrected, by another reader, or not.

A decoder is not believed because it returns something. What of each format comes out right was measured, for some
thousand combinations of what a header can say (tests/images/test_decode_differential.py), and docs/formats.md says it
for users. Whatever is not known to come out right is refused by name.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from imgsearch.errors import ImageError
from imgsearch.images.bmp import bmp_header
from imgsearch.images.headers import JpegHead, jpeg_head, png_chunks
from imgsearch.images.tiff import Directory, Tag, first_directory


@dataclass(frozen=True, slots=True)
class Layout:
    """Who reads a file, and what is to be corrected afterwards."""

    reader: Literal["opencv", "pillow", "bmp"] = "opencv"
    bits: int = 16  # of a sample that OpenCV gives in 16
    is_inverted: bool = False  # zero is white, and the reader leaves it so
    alpha: Literal["straight", "premultiplied", "none"] = "straight"  # what a fourth channel means
    transparent_gray: int | None = None  # the gray, as OpenCV gives it, that is to be transparent
    has_metadata: bool = True  # whether it may say what its colors mean
    frame: tuple[int, int, int, int] | None = None  # x, y, width and height outside which nothing was drawn


def layout_of(data: bytes, kind: str) -> Layout:
    """Decide from a file's header how it is read; ImageError `unsupported_format` if no reader is known to be right."""
    try:
        return _LAYOUTS[kind](data)
    except (struct.error, OverflowError, IndexError):  # an offset past the end, or past what an address can be
        raise ImageError("corrupt", "cut short or damaged") from None


def _unsupported(what: str) -> ImageError:
    return ImageError("unsupported_format", f"{what} is not supported", hint="save it as 8-bit RGB, or as PNG or JPEG")


# --- TIFF -----------------------------------------------------------------------------------------------------------

# Compressions that both readers know; a TIFF of any other is not even noticed by OpenCV, which gives what it finds.
_FAX, _JPEG = {2, 3, 4}, 7
_PREDICTED = {5, 8, 32946}  # LZW, Deflate under two numbers
_COMPRESSIONS = {1, 32773, _JPEG, *_FAX, *_PREDICTED}  # none, PackBits
_OTHER_COMPRESSIONS = {
    6: "old-style JPEG",
    34661: "JBIG",
    34676: "SGI Log",
    34677: "SGI Log",
    34712: "JPEG 2000",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34925: "LZMA",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
# Photometric interpretation: what the samples are, and how many of them a pixel has.
_COLORS = {0: ("gray", 1), 1: ("gray", 1), 2: ("RGB", 3), 3: ("palette", 1), 5: ("CMYK", 4), 6: ("YCbCr", 3)}
_OTHER_COLORS = {
    4: "a transparency mask",
    8: "CIE L*a*b* color",
    9: "ICC L*a*b* color",
    10: "ITU L*a*b* color",
    32803: "camera raw (color filter array)",
    32844: "LogL brightness",
    32845: "LogLuv color",
    34892: "camera raw (linear)",
    51177: "a depth map",
}
# What a channel beyond the colors is (TIFF 6.0, ExtraSamples).
_UNSPECIFIED, _PREMULTIPLIED, _STRAIGHT = 0, 1, 2
_MAX_EXTRA = 16
_UNSIGNED = 1  # SampleFormat
# Depths that come out right. OpenCV, however many channels beyond the colors it is asked for, gives one at most.
_OPENCV_BITS = {
    ("gray", 0): {1, 8, 10, 12, 14, 16},
    ("palette", 0): {8},
    ("RGB", 0): {8, 10, 12, 14, 16},
    ("RGB", 1): {8, 10, 12, 14, 16},
    ("CMYK", 0): {8},
    ("YCbCr", 0): {8},
}
_PILLOW_BITS = {
    ("gray", 0): {1, 2, 4, 8},
    ("gray", 1): {8},
    ("palette", 0): {1, 2, 4, 8},
    ("RGB", 0): {8},
    ("RGB", 1): {8},
    ("RGB", 2): {8},
    ("RGB", 3): {8},
    ("CMYK", 0): {8, 16},
    ("CMYK", 1): {8},
    ("CMYK", 2): {8},
    ("YCbCr", 0): {8},
}


def _tiff_layout(data: bytes) -> Layout:
    fields = first_directory(data)
    _refuse_other_tiffs(fields)
    photometric, bits, samples = (
        fields.number(Tag.PHOTOMETRIC, -1),
        fields.number(Tag.BITS_PER_SAMPLE, 1),
        fields.number(Tag.SAMPLES_PER_PIXEL, 1),
    )
    name, colors = _COLORS[photometric]
    if not colors <= samples <= colors + _MAX_EXTRA:
        raise _unsupported(f"a TIFF of {name} samples, {samples} a pixel,")
    declared = fields.numbers(Tag.EXTRA_SAMPLES)
    extra = (*declared, *[_UNSPECIFIED] * _MAX_EXTRA)[: samples - colors]
    is_tiled, is_separate = fields.has(Tag.TILE_WIDTH), samples > 1 and fields.number(Tag.PLANAR_CONFIGURATION, 1) == 2
    kind = name, len(extra)
    # Up to 8 bits OpenCV has libtiff make RGBA of everything: planes may be separate then, but tiles get mirrored.
    if bits in _OPENCV_BITS.get(kind, ()) and not (is_tiled if bits <= 8 else is_separate):
        return Layout(is_inverted=photometric == 0 and bits > 8, alpha=_alpha_by_opencv(extra, declared, bits))
    if bits in _PILLOW_BITS.get(kind, ()) and not _is_beyond_pillow(fields, name, extra):
        return Layout("pillow")
    beyond = f" with {len(extra)} more channel(s)" if extra else ""
    how = " in separate planes" if is_separate else " in tiles" if is_tiled else ""
    raise _unsupported(f"a TIFF of {bits}-bit {name} samples{beyond}{how}")


def _is_beyond_pillow(fields: Directory, name: str, extra: tuple[int, ...]) -> bool:
    """Return whether Pillow, though it knows such samples, does not know how these are stored, or gets them wrong."""
    return any(
        (
            fields.number(Tag.PLANAR_CONFIGURATION, 1) != 1,  # separate planes, be it a single one
            fields.number(Tag.FILL_ORDER, 1) != 1,  # bits in reverse
            fields.is_big,  # of which it does not know the big-endian ones
            fields.has(Tag.TILE_WIDTH) and fields.number(Tag.COMPRESSION, 1) in _FAX,
            name == "palette"
            and max(fields.numbers(Tag.COLOR_MAP, 3 * 256), default=0) < 256,  # 8 bits where 16 belong
            name == "gray" and extra and fields.number(Tag.PHOTOMETRIC, -1) == 0,
            name == "gray" and extra[:1] == (_PREMULTIPLIED,),
            name == "CMYK" and any(extra),
            any(extra[1:]),
            extra and not fields.has(Tag.EXTRA_SAMPLES) and (name, len(extra)) != ("RGB", 1),
        )
    )


def _refuse_other_tiffs(fields: Directory) -> None:
    photometric, compression, predictor = (
        fields.number(Tag.PHOTOMETRIC, -1),
        fields.number(Tag.COMPRESSION, 1),
        fields.number(Tag.PREDICTOR, 1),
    )
    depths = fields.numbers(Tag.BITS_PER_SAMPLE) or (1,)
    formats = fields.numbers(Tag.SAMPLE_FORMAT) or (_UNSIGNED,)
    if fields.data[8:10] == b"CR" or fields.has(Tag.DNG_VERSION):
        raise _unsupported("camera raw (CR2 or DNG)")
    if fields.number(Tag.NEW_SUBFILE_TYPE, 0) & 1:
        raise _unsupported("a TIFF whose first picture is a thumbnail, as in camera raw,")
    if photometric not in _COLORS:
        what = _OTHER_COLORS.get(
            photometric, "unknown colors" if fields.has(Tag.PHOTOMETRIC) else "samples of no stated meaning"
        )
        raise _unsupported(f"a TIFF of {what}")
    if compression not in _COMPRESSIONS:
        name = _OTHER_COMPRESSIONS.get(compression, f"unknown ({compression})")
        raise _unsupported(f"a TIFF in {name} compression")
    if set(formats) != {_UNSIGNED}:
        name = {2: "signed", 3: "floating-point"}.get(formats[0], "untyped")
        raise _unsupported(f"a TIFF of {depths[0]}-bit {name} samples")
    if len(set(depths)) > 1:
        raise _unsupported(f"a TIFF of samples of {', '.join(map(str, depths))} bits")
    if (compression == _JPEG and depths[0] != 8) or (compression in _FAX and depths[0] != 1):
        raise _unsupported(
            f"a TIFF of {depths[0]}-bit samples in {'JPEG' if compression == _JPEG else 'fax'} compression"
        )
    if compression in _PREDICTED and predictor != 1 and (predictor != 2 or depths[0] not in (8, 16)):
        raise _unsupported(f"a TIFF of {depths[0]}-bit samples with predictor {predictor}")
    if photometric == 5 and fields.number(Tag.INK_SET, 1) != 1:
        raise _unsupported("a TIFF of inks other than CMYK")


def _alpha_by_opencv(
    extra: tuple[int, ...], declared: tuple[int, ...], bits: int
) -> Literal["straight", "premultiplied", "none"]:
    """Say what OpenCV's fourth channel is; to that of 8 bits libtiff has done what the file asks for."""
    if extra and not declared:
        return "straight"  # OpenCV writes such files
    if extra[:1] == (_STRAIGHT,):
        return "straight" if bits > 8 else "premultiplied"
    return "premultiplied" if extra[:1] == (_PREMULTIPLIED,) else "none"


# --- the others -----------------------------------------------------------------------------------------------------


def _png_layout(data: bytes) -> Layout:
    """Find the gray that is to be transparent, which OpenCV drops (PNG, 11.3.1.1)."""
    depth, color_type = struct.unpack_from("BB", data, 24)
    transparent = next((data[start + 8 : end - 4] for name, start, end in png_chunks(data) if name == b"tRNS"), b"")
    if color_type != 0 or depth not in (1, 2, 4, 8, 16) or len(transparent) < 2:
        return Layout()
    gray = int.from_bytes(transparent[:2], "big") & (2**depth - 1)
    return Layout(transparent_gray=gray if depth == 16 else gray * 255 // (2**depth - 1))


_LOSSLESS = {0xC3, 0xCB}
_HIERARCHICAL = {0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF}
_JPEG_LS = 0xF7


def _jpeg_layout(data: bytes) -> Layout:
    head = jpeg_head(data)
    if head.marker == _JPEG_LS:
        raise _unsupported("JPEG-LS")
    if head.marker in _LOSSLESS:
        raise _unsupported("lossless JPEG")
    if head.marker in _HIERARCHICAL:
        raise _unsupported("hierarchical JPEG")
    if head.bits != 8:
        raise _unsupported(f"a JPEG of {head.bits} bits a sample")
    if len(head.samplings) not in (1, 3, 4):
        raise _unsupported(f"a JPEG of {len(head.samplings)} components")
    if head.height == 0:
        raise _unsupported("a JPEG whose height comes after its pixels")
    if _has_uneven_sampling(head):
        raise _unsupported("a JPEG whose components are sampled in other ratios than whole ones")
    return Layout(has_metadata=head.has_metadata)


def _has_uneven_sampling(head: JpegHead) -> bool:
    across, down = zip(*head.samplings, strict=True)
    return any(number == 0 or max(factors) % number for factors in (across, down) for number in factors)


# Compressions by header: of OS/2 2.x, which is the only one of 64 bytes, and of Windows.
_OS2_HEADER = 64
_OS2_COMPRESSIONS = {1: "RLE", 2: "RLE", 3: "Huffman", 4: "RLE"}
_BMP_COMPRESSIONS = {1: "RLE", 2: "RLE", 4: "JPEG", 5: "PNG"}


def _bmp_layout(data: bytes) -> Layout:
    header = bmp_header(data)
    compression, is_os2 = header.compression, header.header_bytes == _OS2_HEADER
    if (compression, header.bits) in {(1, 8), (2, 4)}:
        return Layout()
    if compression not in ((0,) if is_os2 else (0, 3, 6)):  # none, and masks
        name = (_OS2_COMPRESSIONS if is_os2 else _BMP_COMPRESSIONS).get(compression, f"unknown ({compression})")
        raise _unsupported(f"a BMP in {name} compression")
    if header.bits not in ((1, 2, 4, 8, 16, 24, 32) if compression == 0 else (16, 32)):
        raise _unsupported(f"a BMP of {header.bits} bits a pixel")
    *colors, alpha = header.masks
    if header.bits in (16, 32) and not (all(colors) and all(map(_is_one_run, (*colors, alpha)))):
        raise _unsupported(f"a BMP with the masks {', '.join(f'{mask:#x}' for mask in colors)}")
    return Layout("bmp")


def _is_one_run(mask: int) -> bool:
    """Return whether the bits of a mask lie side by side."""
    return re.fullmatch("0b1*0*", bin(mask)) is not None


# More than any file has before its first frame.
_MAX_BLOCKS = 100_000
_GIF_EXTENSION, _GIF_FRAME = 0x21, 0x2C


def _gif_layout(data: bytes) -> Layout:
    """Find the first frame: where it leaves its canvas free, OpenCV paints a background that no browser shows."""
    flags = data[10]
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    in_extension = False
    for _ in range(_MAX_BLOCKS):
        if in_extension:
            in_extension = data[position] > 0
            position += 1 + data[position]
        elif data[position] == _GIF_EXTENSION:
            in_extension = True
            position += 2
        elif data[position] == _GIF_FRAME:
            x, y, width, height = struct.unpack_from("<HHHH", data, position + 1)
            across, down = struct.unpack_from("<HH", data, 6)
            if x + width > across or y + height > down:
                raise _unsupported("a GIF whose first frame is larger than its screen")
            return Layout(frame=(x, y, width, height))
        else:
            break
    return Layout()


def _webp_layout(data: bytes) -> Layout:
    """Find the first frame of an animation (RFC 9649, 2.7.1)."""
    position = 12
    for _ in range(_MAX_BLOCKS):
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"ANMF":
            x, y, width, height = (
                int.from_bytes(data[start : start + 3], "little") for start in range(position + 8, position + 20, 3)
            )
            return Layout(frame=(2 * x, 2 * y, width + 1, height + 1))
        if name not in (b"VP8X", b"ICCP", b"ANIM"):
            break
        position += 8 + length + length % 2
    return Layout()


def _avif_layout(data: bytes) -> Layout:
    """Find the depth (AV1-ISOBMFF, 2.3.3), of which OpenCV says no more than that it is over 8 bits."""
    if b"\0\0\0\x28clap" in data:
        raise _unsupported("an AVIF that is cropped by its header")
    flags = data[data.find(b"av1C") + 6 :][:1]
    return Layout(bits=12 if flags and flags[0] & 0x60 == 0x60 else 10)


_LAYOUTS: dict[str, Callable[[bytes], Layout]] = {
    "jpeg": _jpeg_layout,
    "png": _png_layout,
    "webp": _webp_layout,
    "bmp": _bmp_layout,
    "tiff": _tiff_layout,
    "gif": _gif_layout,
    "avif": _avif_layout,
}
