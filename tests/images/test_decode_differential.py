"""Files of every layout against their true pixels: each comes out right, or is refused by name.

The layouts are the lines of docs/formats.md, which are held to the code here.
"""

import io
import itertools
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from image_files import (
    HEIGHT,
    TURNS,
    WIDTH,
    adobe_segment,
    bmp,
    coarse,
    gif,
    gray3,
    jpeg_segment,
    laid_over,
    masked,
    opacity,
    packed,
    picture,
    png,
    png_chunk,
    png_pixels,
    scaled,
    tiff,
    with_component_ids,
    with_frame,
    without_app_segments,
)
from imgsearch.errors import ImageError
from imgsearch.images.decode import decode

FORMATS = Path(__file__).parents[2] / "docs" / "formats.md"

RGB, ALPHA = picture(), opacity()
GRAY = RGB[:, :, 1].copy()
SPARE = np.full_like(GRAY, 90)
INKS = np.dstack([255 - RGB, np.full_like(GRAY, 30)])
PRINTED = np.rint(RGB * (225 / 255)).astype(np.uint8)
PREMULTIPLIED = np.rint(RGB * (ALPHA[:, :, None] / 255)).astype(np.uint8)
PALETTE = np.random.default_rng(3).integers(0, 256, (256, 3)).astype(np.uint8)
# Without edges, for what is coded with loss.
SMOOTH = np.asarray(cv2.GaussianBlur(cv2.resize(RGB, (64, 48)), (0, 0), 3), np.uint8)
SMOOTH_GRAY = SMOOTH[:, :, 1].copy()

Case = tuple[str, bytes, np.ndarray]  # a name, a file, and what it shows


def saved(pixels: np.ndarray, suffix: str, mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels), mode).save(file, suffix, **options)
    return file.getvalue()


def verdict(data: bytes, truth: np.ndarray, mean: float = 3) -> str:
    """Empty where the pixels are right; else what became of the file."""
    try:
        shown = decode(data)
    except ImageError as error:
        return f"{error.cause}: {error.message}"
    if shown.shape != truth.shape:
        return f"shape {shown.shape}"
    difference = float(np.abs(shown.astype(int) - truth).mean())
    return "" if difference <= mean else f"differs by {difference:.1f}"


# --- TIFF -----------------------------------------------------------------------------------------------------------


def tiff_kinds() -> Iterator[tuple[str, np.ndarray, dict, np.ndarray]]:
    """What the samples of a TIFF can be: name, samples, fields, and what is shown."""
    for bits in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 24, 32):
        shown = gray3(coarse(GRAY, bits))
        samples = scaled(GRAY[:, :, None], bits)
        yield f"gray {bits}", samples, {"bits": bits, "photometric": 1}, shown
        yield f"gray {bits} white is zero", 2**bits - 1 - samples, {"bits": bits, "photometric": 0}, shown
        yield f"RGB {bits}", scaled(RGB, bits), {"bits": bits}, coarse(RGB, bits)
        yield (
            f"RGB alpha {bits}",
            scaled(np.dstack([RGB, ALPHA]), bits),
            {"bits": bits, "extra": [2]},
            laid_over(coarse(RGB, bits), coarse(ALPHA, bits)),
        )
        # Premultiplied in so few bits, hardly a color is left where it is half transparent.
        yield (
            f"RGB premultiplied {bits}",
            scaled(np.dstack([PREMULTIPLIED, ALPHA]), bits),
            {
                "bits": bits,
                "extra": [1],
            },
            laid_over(RGB, ALPHA),
        )
        yield f"RGB undeclared {bits}", scaled(np.dstack([RGB, ALPHA]), bits), {"bits": bits}, laid_over(RGB, ALPHA)
        yield (
            f"RGB spare {bits}",
            scaled(np.dstack([RGB, SPARE]), bits),
            {"bits": bits, "extra": [0]},
            coarse(RGB, bits),
        )
        yield f"CMYK {bits}", scaled(INKS, bits), {"bits": bits, "photometric": 5}, PRINTED
        for name, extra in (("spare", 0), ("alpha", 2), ("premultiplied", 1)):
            fields = {"bits": bits, "photometric": 1, "extra": [extra]}
            truth = gray3(GRAY) if extra == 0 else laid_over(gray3(GRAY), ALPHA)
            color = GRAY if extra != 1 else np.rint(GRAY * (ALPHA / 255))
            yield f"gray {name} {bits}", scaled(np.dstack([color, ALPHA]), bits), fields, truth
    for bits in (1, 2, 4, 8):
        numbers = GRAY[:, :, None].astype(int) >> 8 - bits
        colors = PALETTE[: 2**bits].T.astype(int)
        for name, scale in (("", 257), (" of 8 bits", 1)):
            fields = {"bits": bits, "photometric": 3, "more": {320: (3, (colors * scale).ravel().tolist())}}
            yield f"palette{name} {bits}", numbers, fields, PALETTE[numbers[:, :, 0]]
    for name, extra, truth in (
        ("two spare", [0, 0], RGB),
        ("three spare", [0, 0, 0], RGB),
        ("alpha and spare", [2, 0], laid_over(RGB, ALPHA)),
        ("spare and alpha", [0, 2], laid_over(RGB, ALPHA)),
        ("two undeclared", None, RGB),
    ):
        more = [ALPHA] * (len(extra) if extra else 2)
        for bits in (8, 16):
            yield f"RGB {name} {bits}", scaled(np.dstack([RGB, *more]), bits), {"bits": bits, "extra": extra}, truth
    for name, extra in (("spare", [0]), ("two spare", [0, 0]), ("alpha", [2]), ("undeclared", None)):
        more = [ALPHA] * (len(extra) if extra else 1)
        truth = laid_over(PRINTED, ALPHA) if extra == [2] else PRINTED
        for bits in (8, 16):
            fields = {"bits": bits, "photometric": 5, "extra": extra}
            yield f"CMYK {name} {bits}", scaled(np.dstack([INKS, *more]), bits), fields, truth
    yield "YCbCr 8", YCBCR, {"photometric": 6, "more": YCBCR_FIELDS}, RGB


YCBCR = cv2.cvtColor(RGB, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]]
YCBCR_FIELDS = {530: (3, [1, 1]), 532: (5, [0, 1, 255, 1, 128, 1, 255, 1, 128, 1, 255, 1])}
TIFF_KINDS = {name: (samples, fields, truth) for name, samples, fields, truth in tiff_kinds()}

# What else can be said of the samples, one by one; all together are for the slow test.
TIFF_CHOICES = {
    "order": ["<", ">"],
    "big": [False, True],
    "tile": [0, 16, 32],
    "compression": [1, 8, 32773, 32946],
    "predictor": [1, 2],
    "orientation": list(TURNS),
    "rows": [0, 7],
    "separate": [False, True],
    "reverse": [False, True],
}


def tiff_case(kind: str, **choices) -> Case:
    samples, fields, truth = TIFF_KINDS[kind]
    stored = np.ascontiguousarray(TURNS[choices.get("orientation", 1)](samples))
    said = " ".join(f"{name}={value}" for name, value in choices.items())
    return f"{kind} {said}", tiff(stored, **{**fields, **choices}), truth


def tiffs(pattern: str, **choices) -> Iterator[Case]:
    """All kinds whose names match, with the choices."""
    found = [kind for kind in TIFF_KINDS if re.fullmatch(pattern, kind)]
    assert found, pattern
    for kind in found:
        yield tiff_case(kind, **choices)


def single_choices() -> Iterator[dict]:
    for name, values in TIFF_CHOICES.items():
        for value in values:
            yield {name: value}
            if name == "tile":
                yield {name: value, "compression": 8, "order": ">"}
    yield from ({"tile": 32, "orientation": turn} for turn in TURNS)
    yield from ({"predictor": 2, "compression": 8, "separate": separate} for separate in (False, True))


def all_choices() -> Iterator[dict]:
    """All at once, but for compressions and turns that others stand for."""
    choices_of = {**TIFF_CHOICES, "compression": [1, 8], "orientation": [1, 3, 6]}
    for values in itertools.product(*choices_of.values()):
        choices = dict(zip(choices_of, values, strict=True))
        if not (choices["tile"] and choices["rows"]):
            yield choices


@pytest.mark.parametrize("choices", [single_choices, pytest.param(all_choices, marks=pytest.mark.slow)])
def test_a_tiff_of_any_combination_shows_its_pixels_or_is_refused_by_name(choices):
    wrong = {}
    for kind, chosen in itertools.product(TIFF_KINDS, choices()):
        name, data, truth = tiff_case(kind, **chosen)
        found = verdict(data, truth)
        if found and not found.startswith("unsupported_format: a TIFF of "):
            wrong[name] = found

    assert wrong == {}


def saved_tiffs() -> Iterator[Case]:
    """What Pillow's libtiff codes, for the compressions that are not written here."""
    black = np.where(GRAY > 100, 255, 0).astype(np.uint8)
    for name in ("group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"):
        file = io.BytesIO()
        Image.fromarray(black).convert("1").save(file, "TIFF", compression=name)
        yield f"1 bit {name}", file.getvalue(), gray3(black)
    for name in ("packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"):
        yield f"RGB {name}", saved(RGB, "TIFF", compression=name), RGB
        yield f"gray {name}", saved(GRAY, "TIFF", compression=name), gray3(GRAY)
    for mode, shown in (("L", gray3(SMOOTH_GRAY)), ("RGB", SMOOTH), ("YCbCr", SMOOTH), ("CMYK", SMOOTH)):
        pixels = SMOOTH_GRAY if mode == "L" else np.asarray(Image.fromarray(SMOOTH).convert(mode))
        yield f"JPEG {mode}", saved(pixels, "TIFF", mode, compression="jpeg", quality=95), shown
    yield from tiffs("(RGB|gray) (8|16)", compression=8, predictor=2)


def tiff_storage() -> Iterator[Case]:
    yield from tiffs("(RGB|CMYK|YCbCr|RGB alpha|RGB premultiplied|RGB spare) 8", separate=True)
    yield from tiffs("(gray|palette|RGB|RGB alpha|CMYK|YCbCr|gray alpha) 8", tile=32, orientation=3)
    yield from tiffs("(RGB|gray|RGB alpha) (10|12|16)", tile=16)
    yield from tiffs("(gray|palette|RGB|RGB alpha|CMYK) 8", big=True)
    yield from tiffs("(RGB|gray) (8|12|16)", reverse=True)
    for order, turn in itertools.product("<>", TURNS):
        yield from tiffs("(gray|RGB|RGB alpha) (8|16)", order=order, orientation=turn, rows=7)


def tiff_pages() -> Iterator[Case]:
    file = io.BytesIO()
    first, second = (Image.fromarray(pixels) for pixels in (RGB, 255 - RGB))
    first.save(file, "TIFF", save_all=True, append_images=[second])
    yield "two pages", file.getvalue(), RGB


def refused_tiffs(**changes) -> Iterator[Case]:
    """TIFFs of 8-bit RGB that say something else of themselves."""
    for name, more in changes.items():
        yield name, tiff(RGB, more=more), RGB


def other_colors() -> Iterator[Case]:
    for photometric in (4, 8, 9, 10, 32844, 32845, 51177):
        yield f"photometric {photometric}", tiff(RGB, photometric=photometric), RGB
    inks = tiff(np.dstack([RGB, SPARE]), photometric=5, more={332: (3, [2])})
    yield "inks", inks, RGB


def raw() -> Iterator[Case]:
    yield from refused_tiffs(dng={50706: (1, [1, 4, 0, 0])}, thumbnail={254: (4, [1])})
    yield "color filter array", tiff(GRAY[:, :, None], photometric=32803), gray3(GRAY)
    yield "linear", tiff(scaled(RGB, 16), bits=16, photometric=34892), RGB
    data = tiff(RGB)  # the offset of the first directory moves behind Canon's mark
    yield "CR2", data[:4] + struct.pack("<I", int.from_bytes(data[4:8], "little")) + b"CR\x02\0" + data[12:], RGB


# --- PNG ------------------------------------------------------------------------------------------------------------


def png_types() -> Iterator[tuple[str, np.ndarray, int, int, np.ndarray]]:
    """Name, samples, depth, color type, and what is shown."""
    for depth in (1, 2, 4, 8, 16):
        yield f"gray {depth}", scaled(GRAY[:, :, None], depth), depth, 0, gray3(coarse(GRAY, depth))
    for depth in (8, 16):
        yield f"RGB {depth}", scaled(RGB, depth), depth, 2, RGB
        yield f"gray alpha {depth}", scaled(np.dstack([GRAY, ALPHA]), depth), depth, 4, laid_over(gray3(GRAY), ALPHA)
        yield f"RGB alpha {depth}", scaled(np.dstack([RGB, ALPHA]), depth), depth, 6, laid_over(RGB, ALPHA)


def pngs() -> Iterator[Case]:
    for (name, samples, depth, color_type, truth), interlaced in itertools.product(png_types(), (False, True)):
        channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]
        background = bytes(2 if color_type in (0, 4) else 6)
        for chunk in (b"", png_chunk(b"sBIT", b"\1" * channels), png_chunk(b"bKGD", background)):
            data = png(samples, depth, color_type, chunk, interlaced=interlaced)
            yield f"{name} {chunk[4:8]!r} interlaced={interlaced}", data, truth
    for depth, interlaced in itertools.product((1, 2, 4, 8), (False, True)):
        numbers = GRAY[:, :, None].astype(int) >> 8 - depth
        colors = png_chunk(b"PLTE", PALETTE[: 2**depth].tobytes())
        data = png(numbers, depth, 3, colors, interlaced=interlaced)
        yield f"palette {depth} interlaced={interlaced}", data, PALETTE[numbers[:, :, 0]]


def transparent_pngs() -> Iterator[Case]:
    for depth, interlaced in itertools.product((1, 2, 4, 8, 16), (False, True)):
        samples = scaled(GRAY, depth)
        shown = gray3(coarse(GRAY, depth))
        for gray in {0, int(samples[5, 20]), 2**depth - 1}:
            chunk = png_chunk(b"tRNS", struct.pack(">H", gray))
            data = png(samples[:, :, None], depth, 0, chunk, interlaced=interlaced)
            background = 128 if (depth, gray) == (1, 0) else 255  # all that shows is white
            yield f"gray {depth}: {gray}", data, laid_over(shown, np.where(samples == gray, 0, 255), background)
        if depth >= 8:
            for place in ((5, 6), (12, 18), (0, 0)):
                color = scaled(RGB, depth)[place]
                chunk = png_chunk(b"tRNS", struct.pack(">3H", *color.tolist()))
                alpha = np.where((scaled(RGB, depth) == color).all(axis=2), 0, 255)
                data = png(scaled(RGB, depth), depth, 2, chunk, interlaced=interlaced)
                yield f"RGB {depth}: {color}", data, laid_over(RGB, alpha)
        if depth <= 8:
            numbers = GRAY.astype(int) >> 8 - depth
            opacities = np.append(np.linspace(0, 200, 2**depth // 2 + 1), [255] * 2**depth).astype(np.uint8)
            some = png_chunk(b"tRNS", opacities[: 2**depth // 2 + 1].tobytes())
            colors = png_chunk(b"PLTE", PALETTE[: 2**depth].tobytes())
            data = png(numbers[:, :, None], depth, 3, colors + some, interlaced=interlaced)
            yield f"palette {depth}", data, laid_over(PALETTE[numbers], opacities[numbers])


def animated_pngs() -> Iterator[Case]:
    def control(sequence: int) -> bytes:
        return png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, WIDTH, HEIGHT, 0, 0, 1, 10, 0, 0))

    for name, samples, depth, color_type, truth in png_types():
        frame = struct.pack(">I", 2) + png_pixels(np.flip(samples, axis=0), depth)
        later = control(1) + png_chunk(b"fdAT", frame)
        begin = png_chunk(b"acTL", struct.pack(">II", 2, 0))
        yield name, png(samples, depth, color_type, begin + control(0), later), truth
        yield f"{name}, its still image apart", png(samples, depth, color_type, begin, control(0) + later), truth
    gray = png_chunk(b"tRNS", struct.pack(">H", int(GRAY[12, 20])))
    data = png(GRAY[:, :, None], 8, 0, png_chunk(b"acTL", struct.pack(">II", 1, 0)) + gray + control(0))
    yield "a transparent gray", data, laid_over(gray3(GRAY), np.where(GRAY[12, 20] == GRAY, 0, 255))


def apple_png() -> Iterator[Case]:
    data = png(np.dstack([RGB[:, :, ::-1], ALPHA]), 8, 6)
    yield "CgBI", data[:8] + png_chunk(b"CgBI", b"P\0 \2") + data[8:], RGB


# --- BMP ------------------------------------------------------------------------------------------------------------

HEADERS = (40, 52, 56, 64, 108, 124)
MASKS = {
    32: [
        (0xFF0000, 0xFF00, 0xFF),
        (0xFF, 0xFF00, 0xFF0000),
        (0xFF000000, 0xFF0000, 0xFF00),
        (0x3FF00000, 0xFFC00, 0x3FF),
        (0xFFE00000, 0x1FFC00, 0x3FF),
        (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
        (0x3FF00000, 0xFFC00, 0x3FF, 0xC0000000),
    ],
    16: [
        (0xF800, 0x7E0, 0x1F),
        (0x7C00, 0x3E0, 0x1F),
        (0x1F, 0x7E0, 0xF800),
        (0xF00, 0xF0, 0xF),
        (0x7C00, 0x3E0, 0x1F, 0x8000),
        (0xF00, 0xF0, 0xF, 0xF000),
    ],
}


def plain_bmps() -> Iterator[Case]:
    for header, top_down in itertools.product((12, 16, *HEADERS), (False, True)):
        if header == 12 and top_down:
            continue
        for bits in (1, 2, 4, 8):
            numbers = GRAY.astype(int) >> 8 - bits
            data = bmp(
                np.frombuffer(packed(numbers, bits), np.uint8).reshape(HEIGHT, -1),
                bits,
                header=header,
                palette=PALETTE[: 2**bits],
                top_down=top_down,
            )
            yield f"{bits} bits, header {header}, top_down={top_down}", data, PALETTE[numbers]
        lines = RGB[:, :, ::-1].reshape(HEIGHT, -1)
        yield f"24 bits, header {header}", bmp(lines, 24, header=header, top_down=top_down), RGB
    few = np.minimum(GRAY.astype(int) >> 4, 9)
    lines = np.frombuffer(packed(few, 4), np.uint8).reshape(HEIGHT, -1)
    yield "a palette of ten colors", bmp(lines, 4, palette=PALETTE[:10]), PALETTE[few]
    narrow = RGB[:, :5]
    yield "padded lines", bmp(narrow[:, :, ::-1].reshape(HEIGHT, -1), 24, width=5), narrow


def masked_bmps() -> Iterator[Case]:
    for header, top_down in itertools.product((16, *HEADERS), (False, True)):
        for spare in (0, 255, 77):
            lines = np.dstack([RGB[:, :, ::-1], np.full_like(GRAY, spare)]).reshape(HEIGHT, -1)
            yield f"32 bits, spare {spare}", bmp(lines, 32, header=header, top_down=top_down), RGB
        lines = masked(RGB, (0x7C00, 0x3E0, 0x1F), 16)
        yield "16 bits", bmp(lines, 16, header=header, top_down=top_down), coarse(RGB, 5)
    for bits, header in itertools.product(MASKS, (40, 52, 56, 108, 124)):
        for masks in MASKS[bits]:
            if header == 64 or (header == 52 and len(masks) == 4):
                continue
            compression = 6 if header == 40 and len(masks) == 4 else 3
            lines = masked(np.dstack([RGB, ALPHA])[:, :, : len(masks)], masks, bits)
            data = bmp(lines, bits, header=header, compression=compression, masks=masks)
            depths = [min(8, mask.bit_count()) for mask in masks]
            shown = np.dstack([coarse(RGB[:, :, number], depths[number]) for number in range(3)])
            truth = laid_over(shown, coarse(ALPHA, depths[3])) if len(masks) == 4 else shown
            yield f"{bits} bits, header {header}, masks {masks}", data, truth
    no_alpha = np.dstack([RGB[:, :, ::-1], np.zeros_like(GRAY)]).reshape(HEIGHT, -1)
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    yield "an alpha of zeros", bmp(no_alpha, 32, header=124, compression=3, masks=masks), RGB


def run_length_bmps() -> Iterator[Case]:
    for bits in (4, 8):
        numbers = GRAY.astype(int) >> 8 - bits
        lines = [_run_lengths(line.tolist(), bits) for line in numbers[::-1]]
        body = np.frombuffer(b"".join(lines) + b"\0\1", np.uint8)
        head = bmp(np.zeros((HEIGHT, 0), np.uint8), bits, compression=3 - bits // 4, palette=PALETTE[: 2**bits])
        yield f"RLE {bits}", head + body.tobytes(), PALETTE[numbers]


def _run_lengths(line: list[int], bits: int) -> bytes:
    """Write ten runs of one or two pixels, and the rest as it is (in 4 bits all of it in runs of two)."""
    if bits == 4:
        return b"".join(bytes([2, line[x] << 4 | line[x + 1]]) for x in range(0, len(line), 2)) + b"\0\0"
    rest = line[10:]
    runs = b"".join(bytes([1, number]) for number in line[:10])
    return runs + bytes([0, len(rest), *rest]) + bytes(len(rest) % 2) + b"\0\0"


def refused_bmps() -> Iterator[Case]:
    nothing = np.zeros((HEIGHT, 4 * WIDTH), np.uint8)
    for name, bits, header, compression in (
        ("JPEG", 0, 40, 4),
        ("PNG", 0, 40, 5),
        ("Huffman", 1, 64, 3),
        ("RLE of 24 bits", 24, 64, 4),
        ("RLE of other bits", 24, 40, 1),
        ("an unknown compression", 24, 40, 11),
        ("64 bits", 64, 124, 0),
        ("masks of 24 bits", 24, 56, 3),
    ):
        yield name, bmp(nothing, bits, header=header, compression=compression), RGB
    for masks in ((0xFF0000, 0xF0F0, 0xFF), (0xFF0000, 0, 0xFF)):
        yield f"masks {masks}", bmp(nothing, 32, compression=3, masks=masks), RGB


# --- GIF ------------------------------------------------------------------------------------------------------------


def gifs() -> Iterator[Case]:
    for bits, local, interlaced in itertools.product((1, 2, 4, 7, 8), (False, True), (False, True)):
        numbers, palette = GRAY.astype(int) >> 8 - bits, PALETTE[: 2**bits]
        small = numbers[3:13, 5:17]
        for transparent, background in ((None, 0), (None, 1), (0, 1), (2**bits - 1, 0)):
            options = {"local": local, "interlaced": interlaced, "transparent": transparent, "background": background}
            alpha = np.where(numbers == transparent, 0, 255)
            yield f"{bits} bits, {options}", gif(numbers, palette, **options), laid_over(palette[numbers], alpha)
            outside = np.zeros_like(alpha)
            outside[3:13, 5:17] = alpha[3:13, 5:17]
            data = gif(small, palette, screen=GRAY.shape, place=(3, 5), **options)
            yield f"{bits} bits, smaller, {options}", data, laid_over(palette[numbers], outside)
    yield "GIF87a", gif(GRAY.astype(int), PALETTE, version=b"87a"), PALETTE[GRAY]


def large_gifs() -> Iterator[Case]:
    for screen, place in (((HEIGHT, 10), (0, 0)), ((10, WIDTH), (0, 0)), ((HEIGHT, WIDTH), (0, 1))):
        yield f"{screen} {place}", gif(GRAY.astype(int), PALETTE, screen=screen, place=place), PALETTE[GRAY]


def animation(suffix: str) -> Iterator[Case]:
    frames = [Image.fromarray(pixels).quantize(16) if suffix == "GIF" else Image.fromarray(pixels) for pixels in PAIR]
    file = io.BytesIO()
    options = {"lossless": True} if suffix == "WEBP" else {"quality": 95} if suffix == "MPO" else {}
    frames[0].save(file, suffix, save_all=True, append_images=frames[1:], **options)
    yield suffix, file.getvalue(), np.asarray(frames[0].convert("RGB"))


PAIR = (SMOOTH, 255 - SMOOTH)


# --- JPEG -----------------------------------------------------------------------------------------------------------

JFIF = jpeg_segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")


def jpeg_colors() -> Iterator[Case]:
    rgb = without_app_segments(saved(SMOOTH, "JPEG", quality=95, subsampling=0, keep_rgb=True))
    ycbcr = without_app_segments(saved(SMOOTH, "JPEG", quality=95, subsampling=0))
    for segments, ids in itertools.product(
        (b"", JFIF, adobe_segment(0), adobe_segment(1), JFIF + adobe_segment(0), JFIF + adobe_segment(1)),
        (b"\1\2\3", b"\0\1\2", b"RGB", b"\5\6\7"),
    ):
        is_rgb = segments == adobe_segment(0) or (not segments and ids == b"RGB")
        data = with_component_ids(rgb if is_rgb else ycbcr, ids)
        yield f"{segments!r} {ids!r}", data[:2] + segments + data[2:], SMOOTH
    gray = saved(SMOOTH_GRAY, "JPEG", quality=95)
    yield "gray", gray, gray3(SMOOTH_GRAY)
    yield "gray without JFIF", with_component_ids(without_app_segments(gray), b"\7"), gray3(SMOOTH_GRAY)


def jpeg_inks() -> Iterator[Case]:
    black = np.full_like(SMOOTH_GRAY, 225)
    inverted = np.dstack([SMOOTH, black])  # as they are stored: 255 is no ink
    shown = np.rint(SMOOTH * (225 / 255)).astype(np.uint8)
    cmyk = without_app_segments(saved(255 - inverted, "JPEG", "CMYK", quality=95))
    yield "CMYK", cmyk[:2] + adobe_segment(0) + cmyk[2:], shown
    yield "CMYK without Adobe's marker", cmyk, shown
    ycck = np.dstack([cv2.cvtColor(255 - SMOOTH, cv2.COLOR_RGB2YCrCb)[:, :, [0, 2, 1]], black])
    data = without_app_segments(saved(255 - ycck, "JPEG", "CMYK", quality=95))
    yield "YCCK", data[:2] + adobe_segment(2) + data[2:], shown


def jpeg_codings() -> Iterator[Case]:
    for progressive, optimize, subsampling in itertools.product((False, True), (False, True), (0, 1, 2)):
        options = {"progressive": progressive, "optimize": optimize, "subsampling": subsampling}
        yield f"{options}", saved(SMOOTH, "JPEG", quality=95, **options), SMOOTH
    for sampling, restarts in itertools.product(("411", "420", "422", "440", "444"), (0, 3)):
        factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}")
        options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor, cv2.IMWRITE_JPEG_RST_INTERVAL, restarts]
        yield f"{sampling} {restarts}", cv2.imencode(".jpg", SMOOTH[:, :, ::-1], options)[1].tobytes(), SMOOTH


def other_jpegs() -> Iterator[Case]:
    whole = saved(SMOOTH, "JPEG")
    for name, marker in (("lossless", 0xC3), ("hierarchical", 0xC5), ("JPEG-LS", 0xF7), ("lossless, coded", 0xCB)):
        yield name, with_frame(whole, marker), SMOOTH
    yield "12 bits", with_frame(whole, 0xC1, 12), SMOOTH
    yield "12 bits, progressive", with_frame(whole, 0xC2, 12), SMOOTH


def odd_jpegs() -> Iterator[Case]:
    whole = saved(SMOOTH, "JPEG", subsampling=0)
    yield "height later", with_frame(whole, height=0), SMOOTH
    yield "sampled 3 to 2", whole.replace(b"\1\x11\0\2\x11\1", b"\1\x31\0\2\x21\1"), SMOOTH
    start = whole.index(b"\xff\xc0")
    two = jpeg_segment(0xC0, whole[start + 4 : start + 9] + b"\2" + whole[start + 10 : start + 16])
    yield "two components", whole[:start] + two + whole[start + 19 :], SMOOTH


# --- WebP, AVIF and others ------------------------------------------------------------------------------------------

SMOOTH_ALPHA = np.asarray(cv2.resize(ALPHA, SMOOTH.shape[1::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
CUTOUT = np.dstack([SMOOTH, SMOOTH_ALPHA])


def webps() -> Iterator[Case]:
    yield "lossless", saved(SMOOTH, "WEBP", lossless=True), SMOOTH
    yield "lossless, alpha", saved(CUTOUT, "WEBP", lossless=True, exact=True), laid_over(SMOOTH, SMOOTH_ALPHA)
    yield "lossy", saved(SMOOTH, "WEBP", quality=95), SMOOTH
    yield "lossy, alpha", saved(CUTOUT, "WEBP", quality=95), laid_over(SMOOTH, SMOOTH_ALPHA)


def animated_webps() -> Iterator[Case]:
    yield from animation("WEBP")
    pixels = saved(RGB, "WEBP", lossless=True)[12:]
    shown = np.full((HEIGHT + 10, WIDTH + 20, 3), 255, np.uint8)
    shown[4 : 4 + HEIGHT, 8 : 8 + WIDTH] = RGB

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(3, "little") for value in values)

    for flags, background in itertools.product((0x02, 0x12), (b"\xff\0\0\xff", bytes(4))):
        head = chunk(b"VP8X", bytes([flags, 0, 0, 0]) + numbers(WIDTH + 19, HEIGHT + 9))
        frame = chunk(b"ANMF", numbers(4, 2, WIDTH - 1, HEIGHT - 1, 100) + b"\0" + pixels)
        body = b"WEBP" + head + chunk(b"ANIM", background + b"\0\0") + frame
        yield f"smaller frame, {flags} {background!r}", b"RIFF" + struct.pack("<I", len(body)) + body, shown


def avifs() -> Iterator[Case]:
    for depth, quality in ((8, 95), (10, 95), (12, 95)):
        samples = SMOOTH[:, :, ::-1] if depth == 8 else scaled(SMOOTH[:, :, ::-1], depth).astype(np.uint16)
        options = [cv2.IMWRITE_AVIF_QUALITY, quality, cv2.IMWRITE_AVIF_DEPTH, depth]
        yield f"{depth} bits", cv2.imencode(".avif", samples, options)[1].tobytes(), SMOOTH
    for premultiplied in (False, True):
        data = saved(CUTOUT, "AVIF", quality=95, alpha_premultiplied=premultiplied)
        yield f"alpha, premultiplied={premultiplied}", data, laid_over(SMOOTH, SMOOTH_ALPHA)


def cropped_avif() -> Iterator[Case]:
    box = struct.pack(">I4s8I", 40, b"clap", 16, 1, 16, 1, 0, 1, 0, 1)
    yield "clap", saved(SMOOTH, "AVIF") + box, SMOOTH


def other_formats() -> Iterator[Case]:
    for name, start in {
        "HEIC": b"\0\0\0\x18ftypheic",
        "JPEG XL": b"\xff\x0a",
        "JPEG 2000": b"\xff\x4f\xff\x51",
        "JPEG XR": b"II\xbc\x01",
        "Panasonic's camera raw": b"IIU\0",
        "Olympus' camera raw": b"IIRO",
        "Fuji's camera raw": b"FUJIFILMCCD-RAW",
        "Photoshop": b"8BPS",
        "GIMP": b"gimp xcf file",
        "OpenEXR": b"v/1\x01",
        "icon": b"\0\0\1\0",
        "SVG": b"<svg>",
    }.items():
        yield name, start + bytes(100), RGB


# --- the lines of docs/formats.md -----------------------------------------------------------------------------------

# How a line begins, and its cases.
LINES: dict[str, Callable[[], Iterator[Case]]] = {
    "JPEG: gray, YCbCr or RGB": jpeg_colors,
    "JPEG: CMYK or YCCK": jpeg_inks,
    "JPEG: baseline": jpeg_codings,
    "JPEG: several pictures": lambda: animation("MPO"),
    "JPEG: 12 bits": other_jpegs,
    "JPEG: two components": odd_jpegs,
    "PNG: every color type": pngs,
    "PNG: a transparent color": transparent_pngs,
    "PNG: an animation": animated_pngs,
    "PNG: Apple's": apple_png,
    "GIF: 1 to 8 bits": gifs,
    "GIF: an animation": lambda: animation("GIF"),
    "GIF: a first frame": large_gifs,
    "WebP: lossy": webps,
    "WebP: an animation": animated_webps,
    "AVIF: 8 to 12": avifs,
    "AVIF: cropped": cropped_avif,
    "BMP: a palette": plain_bmps,
    "BMP: 16 or 32": masked_bmps,
    "BMP: RLE": run_length_bmps,
    "BMP: embedded": refused_bmps,
    "TIFF: gray of": lambda: tiffs(r"gray (1|2|4|8|10|12|14|16)( white is zero)?"),
    "TIFF: a palette": lambda: itertools.chain(tiffs(r"palette \d"), tiffs("palette of 8 bits 8")),
    "TIFF: RGB of": lambda: tiffs(r"RGB (8|10|12|14|16)"),
    "TIFF: RGB and alpha": lambda: tiffs(r"RGB (alpha|premultiplied|undeclared) (8|10|12|14|16)"),
    "TIFF: RGB and a channel": lambda: tiffs(r"RGB spare (8|10|12|14|16)"),
    "TIFF: 8-bit RGB and two": lambda: tiffs(r"RGB (two spare|three spare|alpha and spare) 8"),
    "TIFF: 8-bit gray": lambda: tiffs(r"gray (alpha|spare) 8"),
    "TIFF: CMYK of": lambda: tiffs(r"CMYK (8|16)"),
    "TIFF: 8-bit CMYK": lambda: tiffs(r"CMYK (spare|two spare) 8"),
    "TIFF: YCbCr": lambda: tiffs("YCbCr 8"),
    "TIFF: LZW": saved_tiffs,
    "TIFF: tiles": tiff_storage,
    "TIFF: several": tiff_pages,
    "TIFF: Zstandard": lambda: refused_tiffs(
        **{
            f"compression {number}": {259: (3, [number])}
            for number in (6, 34661, 34676, 34712, 34887, 34925, 34933, 50000, 50001, 50002, 52546, 65000)
        }
    ),
    "TIFF: floating-point": lambda: itertools.chain(
        refused_tiffs(signed={339: (3, [2] * 3)}, untyped={339: (3, [4] * 3)}, one={339: (3, [1, 1, 2])}),
        [("float", tiff(scaled(RGB, 32), bits=32, more={339: (3, [3] * 3)}), RGB)],
        tiffs(r"(gray|RGB) (3|6|24|32)"),
    ),
    "TIFF: 10 to 16 bits": lambda: tiffs(r"RGB (alpha )?(10|12|14|16)", separate=True),
    "TIFF: 16-bit gray": lambda: tiffs(
        r"gray (alpha|spare|premultiplied) 16|CMYK (spare|two spare) 16|CMYK alpha (8|16)"
    ),
    "TIFF: L\\*": other_colors,
    "TIFF: camera raw": raw,
    "TIFF: channels of": lambda: itertools.chain(
        refused_tiffs(depths={258: (3, [8, 8, 16])}, unknown={262: (3, [7])}, stray={262: (3, [65000])}),
        refused_tiffs(few={277: (3, [2])}, many={277: (4, [2**32 - 1])}),
        tiffs("(gray|palette) 4", predictor=2, compression=8),
    ),
    "others:": other_formats,
}


def table() -> dict[str, str]:
    """The lines of docs/formats.md: `format: stored as`, and whether it is read."""
    lines = [line for line in FORMATS.read_text().splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {f"{name}: {stored}": read for name, stored, read, _ in cells[2:]}


def test_every_line_of_the_docs_has_its_cases():
    lines = table()
    found = {start: [line for line in lines if line.startswith(start)] for start in LINES}

    assert {start: len(matching) for start, matching in found.items() if len(matching) != 1} == {}
    assert len(lines) == len(LINES)
    assert set(lines.values()) == {"yes", "with loss", "refused"}


@pytest.mark.parametrize("start", LINES)
def test_files_of_every_line_of_the_docs_show_their_pixels_or_are_refused_as_it_says(start):
    read = next(read for line, read in table().items() if line.startswith(start))
    found = {name: verdict(data, truth) for name, data, truth in LINES[start]()}

    assert found
    if read == "refused":
        assert {name: said for name, said in found.items() if not said.startswith("unsupported_format: ")} == {}
    else:
        assert {name: said for name, said in found.items() if said} == {}
