"""Writes image files of every layout by hand, so that the true pixels are known and no encoder has a say in them."""

import struct
import zlib
from collections.abc import Iterable, Mapping

import numpy as np

HEIGHT, WIDTH = 20, 28

# What is shown of an image that is stored turned, by its orientation (Exif 2.32, tag 274).
TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
    8: lambda p: np.rot90(p, -1),
}


def picture() -> np.ndarray:
    """Ramps in every channel and two flat fields: RGB, unlike itself in every turn."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    image = np.stack([x * 255 // (WIDTH - 1), y * 255 // (HEIGHT - 1), (x + y) * 255 // (WIDTH + HEIGHT - 2)], axis=2)
    image[4:10, 5:12] = (200, 30, 40)
    image[10:17, 14:24] = (30, 140, 60)
    return image.astype(np.uint8)


def opacity() -> np.ndarray:
    """Transparent on the left, then half, then opaque."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[:, :7], alpha[:, 7:14] = 0, 128
    return alpha


def gray3(gray: np.ndarray) -> np.ndarray:
    return np.dstack([gray] * 3)


def laid_over(image: np.ndarray, alpha: np.ndarray, background: int = 255) -> np.ndarray:
    share = alpha[:, :, None] / 255
    return np.rint(image * share + background * (1 - share)).astype(np.uint8)


def scaled(image: np.ndarray, bits: int) -> np.ndarray:
    """Spread 0 to 255 over so many bits."""
    return np.rint(image / 255 * (2**bits - 1)).astype(np.int64)


def coarse(image: np.ndarray, bits: int) -> np.ndarray:
    """What is left of an image in so many bits a sample."""
    return np.rint(scaled(image, bits) / (2**bits - 1) * 255).astype(np.uint8)


def packed(samples: np.ndarray, bits: int, order: str = ">") -> bytes:
    """Write rows of samples, of which several may share a byte; a row begins with a byte of its own."""
    if bits >= 8 and bits % 8 == 0 and bits != 24:
        return samples.astype(f"{order}u{bits // 8}").tobytes()
    single = (samples[:, :, None] >> np.arange(bits - 1, -1, -1) & 1).astype(np.uint8)
    return np.packbits(single.reshape(len(samples), -1), axis=1).tobytes()


# --- TIFF -----------------------------------------------------------------------------------------------------------

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_DEFLATE = (8, 32946)
_FIELD = {1: "B", 3: "H", 4: "I", 5: "I"}
Fields = Mapping[int, tuple[int, Iterable[int]]]


def tiff(
    samples: np.ndarray,
    *,
    bits: int = 8,
    photometric: int = 2,
    extra: Iterable[int] | None = None,
    separate: bool = False,
    compression: int = 1,
    predictor: int = 1,
    tile: int = 0,
    rows: int = 0,
    reverse: bool = False,
    order: str = "<",
    big: bool = False,
    orientation: int = 1,
    more: Fields | None = None,
) -> bytes:
    """Write samples (height, width, channels) as strips of so many rows, or tiles; `more` adds fields, or replaces."""
    height, width, channels = samples.shape
    rows = rows or height
    planes = [samples[:, :, [number]] for number in range(channels)] if separate else [samples]
    parts = [
        _padded(plane[top : top + tile, left : left + tile], tile) if tile else plane[top : top + rows]
        for plane in planes
        for top in range(0, height, tile or rows)
        for left in range(0, width, tile or width)
    ]
    coded = [_coded(part, bits, order, compression, predictor) for part in parts]
    if reverse:
        coded = [part.translate(_REVERSED) for part in coded]
    head = 16 if big else 8
    starts = np.cumsum([head, *(len(part) + len(part) % 2 for part in coded)]).tolist()
    fields: dict[int, tuple[int, Iterable[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * channels),
        259: (3, [compression]),
        262: (3, [photometric]),
        266: (3, [2 if reverse else 1]),
        274: (3, [orientation]),
        277: (3, [channels]),
        284: (3, [2 if separate else 1]),
        317: (3, [predictor]),
        324 if tile else 273: (4, starts[:-1]),
        325 if tile else 279: (4, [len(part) for part in coded]),
    }
    fields |= {322: (3, [tile]), 323: (3, [tile])} if tile else {278: (4, [rows])}
    fields |= {338: (3, extra)} if extra is not None else {}
    fields |= more or {}
    body = b"".join(part + bytes(len(part) % 2) for part in coded)
    layout = "HHQ" if big else "HHI"
    magic = struct.pack(order + ("HHHQ" if big else "HI"), *((43, 8, 0, starts[-1]) if big else (42, starts[-1])))
    return {"<": b"II", ">": b"MM"}[order] + magic + body + _directory(fields, starts[-1], order, layout)


def _padded(part: np.ndarray, side: int) -> np.ndarray:
    return np.pad(part, ((0, side - part.shape[0]), (0, side - part.shape[1]), (0, 0)))


def _coded(part: np.ndarray, bits: int, order: str, compression: int, predictor: int) -> bytes:
    if predictor == 2 and compression in _DEFLATE:  # others know of none
        part = np.diff(part, axis=1, prepend=0) % 2**bits
    data = packed(part.reshape(len(part), -1), bits, order)
    if compression in _DEFLATE:
        return zlib.compress(data)
    if compression == 32773:  # PackBits, all of it as it is
        pieces = [data[start : start + 128] for start in range(0, len(data), 128)]
        return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
    return data


def _directory(fields: Fields, start: int, order: str, layout: str) -> bytes:
    big = layout.endswith("Q")
    room = 8 if big else 4
    count = struct.pack(order + ("Q" if big else "H"), len(fields))
    end = start + len(count) + len(fields) * (struct.calcsize("=" + layout) + room) + room
    entries, behind = b"", b""
    for tag, (kind, values) in sorted(fields.items()):
        numbers = list(values)
        content = struct.pack(f"{order}{len(numbers)}{_FIELD[kind]}", *numbers)
        entries += struct.pack(order + layout, tag, kind, len(numbers) // (2 if kind == 5 else 1))
        if len(content) <= room:
            entries += content.ljust(room, b"\0")
        else:
            entries += struct.pack(order + layout[-1], end + len(behind))
            behind += content + bytes(len(content) % 2)
    return count + entries + bytes(room) + behind


# --- PNG ------------------------------------------------------------------------------------------------------------

_PASSES = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    samples: np.ndarray, depth: int, color_type: int, extra: bytes = b"", behind: bytes = b"", interlaced: bool = False
) -> bytes:
    """Write samples (height, width, channels), with chunks before and behind them."""
    height, width, _ = samples.shape
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, interlaced)
    pixels = png_chunk(b"IDAT", png_pixels(samples, depth, interlaced))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + extra + pixels + behind + png_chunk(b"IEND", b"")


def png_pixels(samples: np.ndarray, depth: int, interlaced: bool = False) -> bytes:
    passes = [samples[top::down, left::across] for top, down, left, across in _PASSES] if interlaced else [samples]
    lines = [line for part in passes if part.size for line in part]
    return zlib.compress(b"".join(b"\0" + packed(line.reshape(1, -1), depth) for line in lines))


# --- BMP ------------------------------------------------------------------------------------------------------------


def bmp(
    lines: np.ndarray,
    bits: int,
    *,
    width: int = WIDTH,
    header: int = 40,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    palette: np.ndarray | None = None,
    top_down: bool = False,
) -> bytes:
    """Write lines of bytes, from the top; the palette is RGB."""
    height = len(lines)
    if header == 12:
        information = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        colors = 0 if palette is None else len(palette)
        fields = struct.pack(
            "<iiHHIIiiII", width, -height if top_down else height, 1, bits, compression, 0, 2835, 2835, colors, 0
        )
        fields = (struct.pack("<I", header) + fields)[:header]
        information = (fields + struct.pack(f"<{len(masks)}I", *masks)).ljust(header, b"\0")
    if palette is not None:
        entries = palette[:, ::-1] if header == 12 else np.insert(palette[:, ::-1], 3, 0, axis=1)
        information += entries.astype(np.uint8).tobytes()
    padded = np.pad(lines, ((0, 0), (0, -lines.shape[1] % 4)))
    body = padded[:: 1 if top_down else -1].tobytes()
    start = 14 + len(information)
    return b"BM" + struct.pack("<IHHI", start + len(body), 0, 0, start) + information + body


def masked(samples: np.ndarray, masks: tuple[int, ...], bits: int) -> np.ndarray:
    """Put 8-bit samples (height, width, channels) under masks, one each: lines of bytes."""
    pixels = np.zeros(samples.shape[:2], np.uint64)
    for number, mask in enumerate(masks):
        low = (mask & -mask).bit_length() - 1
        pixels |= scaled(samples[:, :, number], mask.bit_count()).astype(np.uint64) << np.uint64(low)
    return pixels.astype(f"<u{bits // 8}").view(np.uint8)


# --- GIF ------------------------------------------------------------------------------------------------------------


def gif(
    numbers: np.ndarray,
    palette: np.ndarray,
    *,
    screen: tuple[int, int] | None = None,
    place: tuple[int, int] = (0, 0),
    transparent: int | None = None,
    local: bool = False,
    interlaced: bool = False,
    background: int = 0,
    version: bytes = b"89a",
) -> bytes:
    """Write one frame (height, width) at a place (y, x) of the screen (height, width); LZW, cleared before it grows."""
    bits = (len(palette) - 1).bit_length()
    height, width = screen or numbers.shape
    colors = palette.astype(np.uint8).tobytes()
    head = struct.pack("<HHBBB", width, height, (0 if local else 0x80) | bits - 1, background, 0)
    data = b"GIF" + version + head + (b"" if local else colors)
    if transparent is not None:
        data += b"\x21\xf9\x04" + struct.pack("<BHB", 1, 0, transparent) + b"\0"
    flags = (0x80 | bits - 1 if local else 0) | (0x40 if interlaced else 0)
    data += b"," + struct.pack("<HHHHB", place[1], place[0], numbers.shape[1], numbers.shape[0], flags)
    data += colors if local else b""
    if interlaced:
        numbers = np.concatenate([numbers[0::8], numbers[4::8], numbers[2::4], numbers[1::2]])
    return data + _lzw(numbers.ravel().tolist(), max(2, bits)) + b";"


def _lzw(numbers: list[int], bits: int) -> bytes:
    clear, most = 1 << bits, (1 << bits) - 2
    codes = [code for start in range(0, len(numbers), most) for code in (clear, *numbers[start : start + most])]
    total = sum(code << (bits + 1) * place for place, code in enumerate([*codes, clear, clear + 1]))
    data = total.to_bytes(-(-(len(codes) + 2) * (bits + 1) // 8), "little")
    blocks = [data[start : start + 255] for start in range(0, len(data), 255)]
    return bytes([bits]) + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0"


# --- JPEG -----------------------------------------------------------------------------------------------------------


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def adobe_segment(transform: int) -> bytes:
    return jpeg_segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform))


def without_app_segments(jpeg: bytes) -> bytes:
    """Drop JFIF, Adobe's marker and the like, which say what the components are."""
    kept, position = jpeg[:2], 2
    while jpeg[position + 1] != 0xDA:
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        kept += b"" if 0xE0 <= jpeg[position + 1] <= 0xEF else jpeg[position:end]
        position = end
    return kept + jpeg[position:]


def jpeg_frame_start(jpeg: bytes) -> int:
    """Where the first frame header begins, at its marker."""
    position = 2
    while not (0xC0 <= jpeg[position + 1] <= 0xC2):
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
    return position


def with_component_ids(jpeg: bytes, ids: bytes) -> bytes:
    data = bytearray(jpeg)
    frame, scan = jpeg_frame_start(jpeg), jpeg.index(b"\xff\xda")
    for number, name in enumerate(ids):
        data[frame + 10 + 3 * number] = data[scan + 5 + 2 * number] = name
    return bytes(data)


def with_frame(jpeg: bytes, marker: int = 0xC0, bits: int = 8, height: int | None = None) -> bytes:
    """Write another marker, depth or height into the frame header of a JPEG."""
    start = jpeg_frame_start(jpeg)
    size = jpeg[start + 5 : start + 7] if height is None else struct.pack(">H", height)
    return jpeg[:start] + bytes([0xFF, marker]) + jpeg[start + 2 : start + 4] + bytes([bits]) + size + jpeg[start + 7 :]
