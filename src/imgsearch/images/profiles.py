"""Which color profile (ICC.1:2022) an image file carries, or what amounts to one in its own words.

Nothing is decoded here. No profile means sRGB, which is what the rest of the program takes pixels for.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from imgsearch.images.headers import MAX_PARTS, jpeg_head, jpeg_segments, png_chunks
from imgsearch.images.tiff import Directory, Tag, directory_at, first_directory

# A CMYK profile has tables of half a megabyte to three; one for RGB has 4 kB, or 0.3 MB with tables.
MAX_PROFILE_BYTES = 4 << 20

_EXIF_DIRECTORY, _INTEROP_DIRECTORY, _COLOR_SPACE, _INTEROP_INDEX = 0x8769, 0xA005, 0xA001, 1
_TIFF_SEPARATED, _TIFF_PROFILE = 5, 34675
# PNG writes 100,000 times the gamma of encoding; this one stands for sRGB's curve (PNG, 3rd edition, 11.3.2.2).
_SRGB_GAMMA = 45455

# Where red, green, blue and white lie in the chromaticity diagram of CIE 1931: x and y of each.
Chromaticities = Sequence[float]
_D65 = (0.3127, 0.3290)
_SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *_D65)
_ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *_D65)
# By their numbers in ITU-T H.273, table 2, which PNG and AVIF share. 2 is "unspecified".
_PRIMARIES: dict[int, Chromaticities] = {
    1: _SRGB,
    2: _SRGB,
    5: (0.64, 0.33, 0.29, 0.60, 0.15, 0.06, *_D65),
    6: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    7: (0.630, 0.340, 0.310, 0.595, 0.155, 0.070, *_D65),
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *_D65),
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351),
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *_D65),
}


class ProfileError(ValueError):
    """A color profile is of no use; the message says why."""


def color_profile(data: bytes, kind: str) -> bytes:
    """Return the ICC profile of an image file of a format (`headers.image_format`), empty for sRGB; or ProfileError."""
    reader = _READERS[kind]
    try:
        profile = reader(data)
        is_cmyk = bool(profile) and _has_inks(data, kind)
    except (struct.error, OverflowError):  # an offset past the end: the decoder, too, will find that out
        return b""
    if not profile:
        return b""
    if len(profile) > MAX_PROFILE_BYTES:
        raise ProfileError(f"a color profile of more than {MAX_PROFILE_BYTES:,} bytes")
    space = profile[16:20]
    if profile[36:40] != b"acsp" or space not in (b"RGB ", b"GRAY", b"CMYK"):
        raise ProfileError("not a color profile of RGB, gray or CMYK")
    if is_cmyk != (space == b"CMYK"):
        raise ProfileError(
            f"a color profile of {space.decode().strip()} in an image that is {'' if is_cmyk else 'not '}CMYK"
        )
    return profile


def _has_inks(data: bytes, kind: str) -> bool:
    if kind == "jpeg":
        return len(jpeg_head(data).samplings) == 4
    return kind == "tiff" and first_directory(data).number(Tag.PHOTOMETRIC, 0) == _TIFF_SEPARATED


def _jpeg_profile(data: bytes) -> bytes:
    """Put a profile together from its segments (ICC.1:2022, B.4); without one, EXIF may name Adobe RGB."""
    parts: dict[int, bytes] = {}
    count = 0
    exif = b""
    for marker, start, end in jpeg_segments(data):
        content = data[start + 4 : end]
        if marker == 0xE1 and content.startswith(b"Exif\0\0"):
            exif = exif or content[6:]
        elif marker == 0xE2 and content.startswith(b"ICC_PROFILE\0") and len(content) > 14:
            parts.setdefault(content[12], content[14:])
            count = content[13]
    if not parts:
        return _matrix_profile(_ADOBE_RGB, _gamma_curve(563 / 256)) if exif and _is_adobe_rgb(exif) else b""
    if set(parts) != set(range(1, count + 1)):
        raise ProfileError(f"{len(parts)} of {count} parts of a color profile")
    return b"".join(parts[number] for number in sorted(parts))


def _is_adobe_rgb(exif: bytes) -> bool:
    """Return whether EXIF names Adobe RGB: DCF's option file (interoperability index R03), or color space 2."""
    try:
        camera = _linked(exif, first_directory(exif), _EXIF_DIRECTORY)
        if camera is None:
            return False
        space = camera.number(_COLOR_SPACE, 1)
        interop = _linked(exif, camera, _INTEROP_DIRECTORY) if space == 0xFFFF else None
        return space == 2 or (interop is not None and interop.content(_INTEROP_INDEX).startswith(b"R03"))
    except (struct.error, OverflowError):
        return False


def _linked(data: bytes, directory: Directory, tag: int) -> Directory | None:
    start = directory.number(tag, 0)
    return directory_at(data, start) if start else None


def _png_profile(data: bytes) -> bytes:
    """Follow the first of cICP, iCCP, sRGB, and gAMA with cHRM (PNG, 3rd edition, 4.3)."""
    chunks: dict[bytes, bytes] = {}
    for name, start, end in png_chunks(data):
        if name in (b"cICP", b"iCCP", b"sRGB", b"gAMA", b"cHRM") and (
            data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[start + 4 : end - 4]))
        ):
            chunks.setdefault(name, data[start + 8 : end - 4])
    if b"cICP" in chunks:
        primaries, transfer, matrix, is_full = struct.unpack(">4B", chunks[b"cICP"])
        if matrix or not is_full:
            raise ProfileError("colors that are not RGB of full range")
        return _coded_profile(primaries, transfer)
    if b"iCCP" in chunks:
        return _inflated(chunks[b"iCCP"].partition(b"\0")[2][1:])
    if b"sRGB" in chunks or b"gAMA" not in chunks:
        return b""
    (gamma,) = struct.unpack(">I", chunks[b"gAMA"])
    chromaticities = _SRGB
    if b"cHRM" in chunks:
        numbers = struct.unpack(">8I", chunks[b"cHRM"])
        chromaticities = tuple(number / 100_000 for number in (*numbers[2:], *numbers[:2]))  # white comes first there
    if abs(gamma - _SRGB_GAMMA) <= 500:
        return _matrix_profile(chromaticities, _SRGB_CURVE)
    if not 1_000 <= gamma <= 1_000_000:
        raise ProfileError(f"a gamma of {gamma / 100_000:g}")
    return _matrix_profile(chromaticities, _gamma_curve(100_000 / gamma))


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, MAX_PROFILE_BYTES + 1)
    except zlib.error:
        raise ProfileError("a color profile that cannot be unpacked") from None


def _webp_profile(data: bytes) -> bytes:
    """Find the chunk ICCP (RFC 9649, 2.7.1.4), which stands before the image."""
    if data[12:16] != b"VP8X":
        return b""
    position = 12
    for _ in range(MAX_PARTS):
        name, length = struct.unpack_from("<4sI", data, position)
        if name == b"ICCP":
            return data[position + 8 : position + 8 + length]
        if name in (b"VP8 ", b"VP8L", b"ANMF"):
            break
        position += 8 + length + length % 2
    return b""


def _tiff_profile(data: bytes) -> bytes:
    """Read the field of a profile; the fields WhitePoint, PrimaryChromaticities and TransferFunction no one follows."""
    return first_directory(data).content(_TIFF_PROFILE)


def _avif_profile(data: bytes) -> bytes:
    """Read the `colr` boxes (ISO/IEC 14496-12, 12.1.5): a profile, else what the code points say."""
    found: dict[bytes, bytes] = {}
    for box in itertools.islice(re.finditer(rb"colr(prof|rICC|nclx)", data), MAX_PARTS):
        length = int.from_bytes(data[max(0, box.start() - 4) : box.start()])
        found.setdefault(box[1], data[box.end() : box.start() - 4 + length])
    if profile := found.get(b"prof") or found.get(b"rICC"):
        return profile
    return _coded_profile(*struct.unpack_from(">HH", found[b"nclx"])) if b"nclx" in found else b""


def _bmp_profile(data: bytes) -> bytes:
    """Read the profile in a BMP of version 5 (`MBED`); a linked one is a file name, which is not followed."""
    length, space = struct.unpack_from("<I52x4s", data, 14)
    if length < 124 or space != b"DEBM":
        return b""
    start, size = struct.unpack_from("<II", data, 14 + 112)
    return data[14 + start : 14 + start + size]


def _gif_profile(data: bytes) -> bytes:
    """Join the blocks of the application extension ICCRGBG1."""
    position = data.find(b"\x21\xff\x0bICCRGBG1012")
    if position < 0:
        return b""
    position += 14
    profile = bytearray()
    while len(profile) <= MAX_PROFILE_BYTES and (length := data[position : position + 1]) > b"\0":
        profile += data[position + 1 : position + 1 + length[0]]
        position += 1 + length[0]
    return bytes(profile)


_READERS: dict[str, Callable[[bytes], bytes]] = {
    "jpeg": _jpeg_profile,
    "png": _png_profile,
    "webp": _webp_profile,
    "tiff": _tiff_profile,
    "avif": _avif_profile,
    "bmp": _bmp_profile,
    "gif": _gif_profile,
}


def _coded_profile(primaries: int, transfer: int) -> bytes:
    """Make a profile of what ITU-T H.273 has numbers for; HDR is cut off at diffuse white (ITU-R BT.2408)."""
    if primaries not in _PRIMARIES:
        raise ProfileError(f"color primaries {primaries}")
    # The curves of cameras for television, 1, 6, 14 and 15, come with screens that show them as sRGB does.
    if transfer in (1, 2, 6, 13, 14, 15):
        curve = _SRGB_CURVE
    elif transfer in (4, 5, 8):
        curve = _gamma_curve({4: 2.2, 5: 2.8, 8: 1.0}[transfer])
    elif transfer == 16:
        root = np.linspace(0, 1, 4096) ** (32 / 2523)
        light = (np.maximum(root - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * root)) ** (16384 / 2610)
        curve = _sampled_curve(light * 10_000 / 203)
    elif transfer == 18:
        signal = np.linspace(0, 1, 4096)
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
        curve = _sampled_curve(light / light[round(0.75 * 4095)])
    else:
        raise ProfileError(f"transfer characteristics {transfer}")
    return _matrix_profile(_PRIMARIES[primaries], curve)


def _matrix_profile(chromaticities: Chromaticities, curve: bytes) -> bytes:
    """Make an RGB profile of where its primaries and white lie, and of one curve; empty for sRGB."""
    if curve == _SRGB_CURVE and np.allclose(chromaticities, _SRGB, atol=0.001):
        return b""
    x, y = np.asarray(chromaticities, np.float64).reshape(4, 2).T
    try:
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            *primaries, white = np.stack([x / y, np.ones(4), (1 - x - y) / y], axis=1)
            colorants = np.transpose(primaries) * np.linalg.solve(np.transpose(primaries), white)
            # A profile tells of paper in the light of D50, to which eyes adapt as Bradford's matrix says.
            scale = (_BRADFORD @ _D50) / (_BRADFORD @ white)
            adapted = np.linalg.solve(_BRADFORD, scale[:, None] * (_BRADFORD @ colorants))
            fixed = [_fixed(column) for column in adapted.T]
    except (ArithmeticError, np.linalg.LinAlgError, struct.error, ValueError):
        raise ProfileError("primaries that are no colors") from None
    contents = [b"XYZ \0\0\0\0" + column for column in (_fixed(_D50), *fixed)] + [curve]
    places = np.cumsum([132 + 12 * 7, *map(len, contents)]).tolist()
    of_tag = {b"wtpt": 0, b"rXYZ": 1, b"gXYZ": 2, b"bXYZ": 3, b"rTRC": 4, b"gTRC": 4, b"bTRC": 4}
    table = b"".join(struct.pack(">4sII", tag, places[at], len(contents[at])) for tag, at in of_tag.items())
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x12s48x", places[-1], 0x04300000, b"mntr", b"RGB ", b"XYZ ", b"acsp", _fixed(_D50)
    )
    return head + struct.pack(">I", len(of_tag)) + table + b"".join(contents)


def _fixed(numbers: Iterable[float]) -> bytes:
    """Write numbers as `s15Fixed16` (ICC.1:2022, 4.6)."""
    return b"".join(struct.pack(">i", round(65536 * float(number))) for number in numbers)


def _gamma_curve(gamma: float) -> bytes:
    return b"para" + bytes(8) + _fixed([gamma])


def _sampled_curve(light: np.ndarray) -> bytes:
    samples = np.rint(65535 * np.clip(light, 0, 1)).astype(int).tolist()
    return b"curv" + bytes(4) + struct.pack(f">I{len(samples)}H", len(samples), *samples)


_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_SRGB_CURVE = b"para" + bytes(4) + b"\0\3\0\0" + _fixed([2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045])
