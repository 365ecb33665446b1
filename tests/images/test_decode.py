"""Every image here is made on the spot: by OpenCV's encoders where they can, by hand where they cannot."""

import json
import os
import pickle
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import image_files
from image_files import TURNS, jpeg_segment, png_chunk
from imgsearch.errors import ImageError
from imgsearch.images.decode import decode, decode_image, decode_rgba

HEIGHT, WIDTH = 32, 48
RED, GREEN, BLUE, YELLOW = (200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40)
LOSSLESS_WEBP = (cv2.IMWRITE_WEBP_QUALITY, 101)
LOSSLESS_AVIF = (cv2.IMWRITE_AVIF_QUALITY, 100)


def quarters() -> np.ndarray:
    """Four colors, one a quarter, so that each of the eight orientations looks different."""
    image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    image[:16, :24], image[:16, 24:] = RED, GREEN
    image[16:, :24], image[16:, 24:] = BLUE, YELLOW
    return image


def smooth(height: int, width: int) -> np.ndarray:
    colors = np.random.default_rng(5).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(colors, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def encoded(suffix: str, image: np.ndarray, options: tuple[int, ...] = ()) -> bytes:
    """Encode gray, RGB or RGBA."""
    if image.ndim == 3:
        image = image[:, :, [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(suffix, np.ascontiguousarray(image), list(options))
    assert done
    return data.tobytes()


def stored(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image to how a camera stores it that then says `orientation` (Exif 2.32, tag 274)."""
    return np.ascontiguousarray(TURNS[orientation](image))


def exif(orientation: int, order: str = "<") -> bytes:
    magic = b"II*\0" if order == "<" else b"MM\0*"
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return magic + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


def png(
    size: tuple[int, int], depth: int, color_type: int, rows: list[bytes], extra: bytes = b"", interlace: int = 0
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, interlace)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            png_chunk(b"IHDR", header),
            extra,
            png_chunk(b"IDAT", body),
            png_chunk(b"IEND", b""),
        ]
    )


def png_with_exif(data: bytes, content: bytes) -> bytes:
    return data[:33] + png_chunk(b"eXIf", content) + data[33:]


def jpeg_with_exif(data: bytes, content: bytes) -> bytes:
    return data[:2] + jpeg_segment(0xE1, b"Exif\0\0" + content) + data[2:]


def webp_with_exif(image: np.ndarray, content: bytes) -> bytes:
    return with_exif(".webp", image, content, LOSSLESS_WEBP)


def with_exif(suffix: str, image: np.ndarray, content: bytes, options: tuple[int, ...] = ()) -> bytes:
    order = [2, 1, 0, 3][: image.shape[2]]
    done, data = cv2.imencodeWithMetadata(
        suffix,
        np.ascontiguousarray(image[:, :, order]),
        [cv2.IMAGE_METADATA_EXIF],
        [np.frombuffer(content, np.uint8)],
        list(options),
    )
    assert done
    return data.tobytes()


def tiff(image: np.ndarray, orientation: int = 1, photometric: int | None = None) -> bytes:
    """Write a TIFF of one uncompressed strip, little-endian (TIFF 6.0)."""
    height, width = image.shape[:2]
    channels = 1 if image.ndim == 2 else image.shape[2]
    bits = image.itemsize * 8
    strip = image.astype(image.dtype.newbyteorder("<")).tobytes()
    strip += bytes(len(strip) % 2)
    if photometric is None:
        photometric = 1 if channels == 1 else 2
    fields = {256: width, 257: height, 259: 1, 262: photometric, 273: 8, 274: orientation, 277: channels}
    fields |= {278: height, 279: len(strip), 284: 1}
    if channels == 4 and photometric == 2:
        fields[338] = 2  # the fourth is an alpha that is not premultiplied
    end = 8 + len(strip) + 2 + 12 * (len(fields) + 1) + 4
    entries = [(tag, struct.pack("<HHII", tag, 4, 1, value)) for tag, value in fields.items() if tag >= 256]
    samples = (
        struct.pack("<HHIHH", 258, 3, 1, bits, 0) if channels == 1 else struct.pack("<HHII", 258, 3, channels, end)
    )
    entries.append((258, samples))
    directory = struct.pack("<H", len(entries)) + b"".join(entry for _, entry in sorted(entries)) + bytes(4)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(strip))
        + strip
        + directory
        + struct.pack(f"<{channels}H", *[bits] * channels)
    )


def gif(*frames: np.ndarray, palette: list[tuple[int, int, int]], transparent: int | None = None) -> bytes:
    """Write a GIF of palette numbers below 128; LZW without compression, cleared before its codes grow."""
    height, width = frames[0].shape
    colors = b"".join(bytes(color) for color in palette).ljust(384, b"\0")
    data = b"GIF89a" + struct.pack("<HHBBB", width, height, 0xF6, 0, 0) + colors
    for frame in frames:
        flags = 0 if transparent is None else 1
        data += b"\x21\xf9\x04" + struct.pack("<BHB", flags, 10, transparent or 0) + b"\0"
        data += b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x07"
        numbers = frame.astype(np.uint8).tobytes()
        codes = b"".join(b"\x80" + numbers[start : start + 100] for start in range(0, len(numbers), 100)) + b"\x81"
        for start in range(0, len(codes), 255):
            block = codes[start : start + 255]
            data += bytes([len(block)]) + block
        data += b"\0"
    return data + b";"


def flat_cmyk_jpeg(inks: tuple[int, int, int, int]) -> bytes:
    """Write an 8 x 8 JPEG of one CMYK color, inverted as Adobe's are: 255 is no ink."""
    frame = struct.pack(">BHHB", 8, 8, 8, 4) + b"".join(bytes([number, 0x11, 0]) for number in range(4))
    sizes = bytes([0x00, 0, 0, 0, 12, *[0] * 12, *range(12)])  # every size of a difference is a code of 4 bits
    only_end_of_block = bytes([0x10, 1, *[0] * 15, 0])
    scan = bytes([4]) + b"".join(bytes([number, 0]) for number in range(4)) + bytes([0, 63, 0])
    bits = ""
    for ink in inks:
        mean = (ink - 128) * 8
        size = abs(mean).bit_length()
        bits += format(size, "04b")
        if size:
            bits += format(mean if mean > 0 else mean + (1 << size) - 1, f"0{size}b")
        bits += "0"
    bits += "1" * (-len(bits) % 8)
    coded = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    segments = [
        (0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)),
        (0xDB, bytes([0] + [1] * 64)),
        (0xC0, frame),
        (0xC4, sizes),
        (0xC4, only_end_of_block),
        (0xDA, scan),
    ]
    return b"\xff\xd8" + b"".join(jpeg_segment(*segment) for segment in segments) + coded + b"\xff\xd9"


def quarters_gif(**options) -> bytes:
    numbers = np.add.outer(np.arange(HEIGHT) // 16 * 2, np.arange(WIDTH) // 24)
    return gif(numbers, palette=[RED, GREEN, BLUE, YELLOW], **options)


MASKED = {"width": WIDTH, "compression": 3, "masks": (0xF800, 0x7E0, 0x1F)}


def every_format() -> dict[str, bytes]:
    image = quarters()
    half_clear = np.dstack([image, np.full(image.shape[:2], 128, np.uint8)])
    return {
        "jpeg": encoded(".jpg", image),
        "jpeg-gray": encoded(".jpg", image[:, :, 0]),
        "jpeg-progressive": encoded(".jpg", image, (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        "jpeg-restarts": encoded(".jpg", image, (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
        "jpeg-exif": jpeg_with_exif(encoded(".jpg", image), exif(6)),
        "jpeg-cmyk": flat_cmyk_jpeg((10, 20, 30, 240)),
        "png": encoded(".png", image),
        "png-alpha-exif": png_with_exif(encoded(".png", half_clear), exif(5)),
        "png-16": encoded(".png", image.astype(np.uint16) * 257),
        "webp": encoded(".webp", image, (cv2.IMWRITE_WEBP_QUALITY, 90)),
        "webp-lossless": encoded(".webp", half_clear, LOSSLESS_WEBP),
        "webp-exif": webp_with_exif(image, exif(8)),
        "bmp": encoded(".bmp", image),
        "tiff": encoded(".tif", image),
        "bmp-masks": image_files.bmp(image_files.masked(image, (0xF800, 0x7E0, 0x1F), 16), 16, **MASKED),
        "tiff-plain": tiff(image, 7),
        "tiff-tiles": image_files.tiff(image, tile=16, compression=8),
        "gif": quarters_gif(),
        "avif": encoded(".avif", image, LOSSLESS_AVIF),
        "avif-exif": with_exif(".avif", image, exif(3)),
    }


EVERY_FORMAT = every_format()


def refusal(data: bytes, **options) -> ImageError:
    with pytest.raises(ImageError) as refused:
        decode(data, **options)
    return refused.value


def salvaged(data: bytes) -> tuple[np.ndarray, str]:
    """What there is of an image that may be damaged, and what is damaged."""
    found = decode_image(data, keep_damaged=True)
    return found.pixels, found.remarks.get("damaged", "")


def differs_by(left: np.ndarray, right: np.ndarray) -> float:
    """The largest difference of two images; their shapes must be the same."""
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).max())


def lies_near(left: np.ndarray, right: np.ndarray, mean: float) -> bool:
    assert left.shape == right.shape
    return float(np.abs(left.astype(int) - right.astype(int)).mean()) <= mean


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif"])
def test_formats_without_loss_give_the_very_pixels(suffix):
    assert differs_by(decode(encoded(suffix, quarters())), quarters()) == 0


def test_a_lossless_webp_gives_the_very_pixels():
    assert differs_by(decode(encoded(".webp", quarters(), LOSSLESS_WEBP)), quarters()) == 0


def test_a_gif_gives_the_very_pixels():
    assert differs_by(decode(quarters_gif()), quarters()) == 0


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".avif"])
def test_formats_with_loss_give_nearly_the_image(suffix):
    image = smooth(90, 70)

    assert lies_near(decode(encoded(suffix, image)), image, 6)


@pytest.mark.parametrize("option", [cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_OPTIMIZE])
def test_a_jpeg_is_decoded_in_every_way_of_coding(option):
    image = smooth(90, 70)

    assert lies_near(decode(encoded(".jpg", image, (option, 1))), image, 4)


def test_a_gray_jpeg_has_three_equal_channels():
    image = smooth(40, 40)[:, :, 0]

    assert lies_near(decode(encoded(".jpg", image)), np.dstack([image] * 3), 3)


@pytest.mark.parametrize("inks", [(255, 255, 255, 255), (0, 255, 255, 255), (100, 200, 50, 180), (9, 9, 9, 0)])
def test_a_cmyk_jpeg_shows_its_colors(inks):
    shown = np.empty((8, 8, 3), np.uint8)
    shown[:] = [round(ink * inks[3] / 255) for ink in inks[:3]]

    assert differs_by(decode(flat_cmyk_jpeg(inks)), shown) <= 2


def test_the_content_decides_whatever_the_format_is_called():
    results = {name: decode(data).shape for name, data in EVERY_FORMAT.items()}

    turned = {"jpeg-exif", "png-alpha-exif", "webp-exif", "tiff-plain"}
    expected = dict.fromkeys(EVERY_FORMAT, (HEIGHT, WIDTH, 3)) | dict.fromkeys(turned, (WIDTH, HEIGHT, 3))
    assert results == expected | {"jpeg-cmyk": (8, 8, 3)}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_jpeg_is_turned_upright(orientation, order):
    data = jpeg_with_exif(encoded(".jpg", stored(quarters(), orientation)), exif(orientation, order))

    assert lies_near(decode(data), quarters(), 10)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_turned_upright(orientation):
    large = np.kron(quarters(), np.ones((8, 8, 1), np.uint8))
    data = jpeg_with_exif(encoded(".jpg", stored(large, orientation)), exif(orientation))

    assert lies_near(decode(data, shrink_to=WIDTH), quarters(), 10)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_is_turned_upright(orientation, order):
    data = png_with_exif(encoded(".png", stored(quarters(), orientation)), exif(orientation, order))

    assert differs_by(decode(data), quarters()) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_png_with_transparency_is_turned_upright(orientation):
    alpha = np.where(np.arange(WIDTH) < 30, 255, 0).astype(np.uint8)
    image = np.dstack([quarters(), np.broadcast_to(alpha, (HEIGHT, WIDTH))])
    data = png_with_exif(encoded(".png", stored(image, orientation)), exif(orientation))

    assert differs_by(decode_rgba(data), image) == 0
    assert differs_by(decode(data), np.where(alpha[:, None] == 255, quarters(), 255)) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_webp_is_turned_upright(orientation):
    data = webp_with_exif(stored(quarters(), orientation), exif(orientation))

    assert differs_by(decode(data), quarters()) == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_turned_upright(orientation):
    data = with_exif(".avif", stored(quarters(), orientation), exif(orientation))

    assert lies_near(decode(data), quarters(), 6)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_an_avif_is_turned_upright_by_its_own_boxes(orientation):
    # The encoder writes the turn twice, as EXIF and as boxes; MIAF has readers go by the boxes.
    twice = with_exif(".avif", stored(quarters(), orientation), exif(orientation))
    data = twice.replace(exif(orientation), exif(1))
    assert data != twice

    assert lies_near(decode(data), quarters(), 6)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_upright(orientation, depth, channels):
    image = np.dstack([quarters(), np.full((HEIGHT, WIDTH), 255, np.uint8)])[:, :, :channels]
    samples = stored(image, orientation).astype(depth) * (257 if depth is np.uint16 else 1)
    shown = quarters() if channels > 1 else np.dstack([image] * 3)

    assert differs_by(decode(tiff(samples if channels > 1 else samples[:, :, 0], orientation)), shown) == 0


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_an_orientation_that_does_not_exist_means_upright(value):
    assert lies_near(decode(jpeg_with_exif(EVERY_FORMAT["jpeg"], exif(value))), quarters(), 10)
    assert differs_by(decode(png_with_exif(EVERY_FORMAT["png"], exif(value))), quarters()) == 0
    assert differs_by(decode(webp_with_exif(quarters(), exif(value))), quarters()) == 0
    assert differs_by(decode(tiff(quarters(), value)), quarters()) == 0


BROKEN_EXIF = {
    "a directory that is its own next one": exif(1)[:22] + struct.pack("<I", 8),
    "a directory behind the end": b"II*\0" + struct.pack("<I", 0x7FFFFFFF),
    "a directory at the last byte": b"II*\0" + struct.pack("<I", 7),
    "more entries than there are": b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(30),
    "no byte order": b"XX" + exif(6)[2:],
    "a byte order and nothing else": b"II",
    "text": b"not EXIF at all, and long enough to be looked at",
    "zeros": bytes(40),
}


@pytest.mark.parametrize("content", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
def test_broken_exif_does_no_harm_to_the_image(content):
    shown = [
        decode(png_with_exif(EVERY_FORMAT["png"], content)),
        decode(jpeg_with_exif(EVERY_FORMAT["jpeg"], content)),
        decode(webp_with_exif(quarters(), content)),
    ]

    assert all(lies_near(image, quarters(), 10) for image in shown)


def test_an_orientation_of_another_type_is_no_orientation():
    content = b"II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 7, 1, 6) + bytes(4)

    assert differs_by(decode(png_with_exif(EVERY_FORMAT["png"], content)), quarters()) == 0


PALETTE = png_chunk(b"PLTE", bytes([255, 0, 0, 0, 255, 0, 0, 0, 255, 255, 255, 0]))
SMALL_PNGS = {
    "palette": (
        png((4, 1), 8, 3, [bytes([0, 1, 2, 3])], PALETTE),
        [(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (255, 255, 0, 255)],
    ),
    "palette of 2 bits": (
        png((4, 1), 2, 3, [bytes([0b00_01_10_11])], PALETTE),
        [(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (255, 255, 0, 255)],
    ),
    "palette with transparency": (
        png((4, 1), 8, 3, [bytes([0, 1, 2, 3])], PALETTE + png_chunk(b"tRNS", bytes([0, 128, 255]))),
        [(255, 0, 0, 0), (0, 255, 0, 128), (0, 0, 255, 255), (255, 255, 0, 255)],
    ),
    "1 bit": (
        png((3, 1), 1, 0, [bytes([0b10100000])]),
        [(255, 255, 255, 255), (0, 0, 0, 255), (255, 255, 255, 255)],
    ),
    "4 bits": (png((2, 1), 4, 0, [b"\x3f"]), [(51, 51, 51, 255), (255, 255, 255, 255)]),
    "grey": (png((2, 1), 8, 0, [b"\x07\xc8"]), [(7, 7, 7, 255), (200, 200, 200, 255)]),
    "gray and alpha": (png((2, 1), 8, 4, [bytes([10, 255, 20, 0])]), [(10, 10, 10, 255), (20, 20, 20, 0)]),
    "gray of 16 bits": (
        png((3, 1), 16, 0, [struct.pack(">HHH", 65535, 257 * 99, 0)]),
        [(255, 255, 255, 255), (99, 99, 99, 255), (0, 0, 0, 255)],
    ),
    "gray and alpha of 16 bits": (
        png((2, 1), 16, 4, [struct.pack(">HHHH", 257 * 99, 65535, 257 * 50, 0)]),
        [(99, 99, 99, 255), (50, 50, 50, 0)],
    ),
    "color of 16 bits": (
        png((2, 1), 16, 2, [struct.pack(">6H", *(257 * value for value in (1, 2, 3, 253, 254, 255)))]),
        [(1, 2, 3, 255), (253, 254, 255, 255)],
    ),
    "color and alpha": (png((2, 1), 8, 6, [bytes([1, 2, 3, 4, 5, 6, 7, 255])]), [(1, 2, 3, 4), (5, 6, 7, 255)]),
    "color and alpha of 16 bits": (
        png((1, 1), 16, 6, [struct.pack(">4H", 257 * 99, 257 * 20, 257 * 3, 257 * 77)]),
        [(99, 20, 3, 77)],
    ),
    "color with one transparent": (
        png((2, 1), 8, 2, [bytes([10, 20, 30, 1, 2, 3])], png_chunk(b"tRNS", struct.pack(">HHH", 10, 20, 30))),
        [(10, 20, 30, 0), (1, 2, 3, 255)],
    ),
}


@pytest.mark.parametrize(("data", "colors"), SMALL_PNGS.values(), ids=SMALL_PNGS)
def test_every_kind_of_png_shows_its_colors_over_white(data, colors):
    rgba = np.array([colors], np.float64)
    alpha = rgba[:, :, 3:] / 255
    laid_over = np.rint(rgba[:, :, :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)

    assert decode_rgba(data).tolist() == [[list(color) for color in colors]]
    assert differs_by(decode(data), laid_over) == 0


def test_a_gray_png_with_one_transparent_gray_shows_white_there():
    data = png((2, 1), 8, 0, [bytes([10, 200])], png_chunk(b"tRNS", struct.pack(">H", 10)))

    assert decode(data).tolist() == [[[255] * 3, [200] * 3]]


def test_an_interlaced_png_is_put_together():
    image = quarters()[8:24, 16:32]
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1)]
    rows = [
        row.tobytes()
        for top, down, left, across in passes
        for row in np.ascontiguousarray(image[top::down, left::across])
    ]

    assert differs_by(decode(png((16, 16), 8, 2, rows, interlace=1)), image) == 0


@pytest.mark.parametrize(
    ("suffix", "options"),
    [(".png", ()), (".webp", LOSSLESS_WEBP), (".tif", ()), (".bmp", ()), (".avif", LOSSLESS_AVIF)],
)
def test_colors_hidden_under_full_transparency_do_not_show(suffix, options):
    alpha = np.where(np.arange(WIDTH) < 24, 0, 255).astype(np.uint8)
    image = np.dstack([quarters(), np.broadcast_to(alpha, (HEIGHT, WIDTH))])

    shown = decode(encoded(suffix, image, options))

    assert np.all(shown[:, :24] == 255)
    assert lies_near(shown[:, 24:], quarters()[:, 24:], 3)


@pytest.mark.parametrize(
    ("suffix", "options"), [(".png", ()), (".webp", LOSSLESS_WEBP), (".tif", ()), (".avif", LOSSLESS_AVIF)]
)
def test_decode_rgba_keeps_the_transparency(suffix, options):
    alpha = np.linspace(1, 255, WIDTH).astype(np.uint8)
    image = np.dstack([quarters(), np.broadcast_to(alpha, (HEIGHT, WIDTH))])

    found = decode_rgba(encoded(suffix, image, options))

    assert found.shape == (HEIGHT, WIDTH, 4)
    assert differs_by(found[:, :, 3], image[:, :, 3]) <= 1
    assert lies_near(found[:, :, :3], quarters(), 3)


@pytest.mark.parametrize("name", ["jpeg", "jpeg-gray", "png", "bmp", "gif"])
def test_decode_rgba_of_an_opaque_image_is_opaque(name):
    found = decode_rgba(EVERY_FORMAT[name])

    assert np.all(found[:, :, 3] == 255)
    assert differs_by(found[:, :, :3], decode(EVERY_FORMAT[name])) == 0


def test_half_transparency_is_laid_over_white_in_images_higher_than_one_band():
    alpha = np.arange(600 * 3, dtype=np.uint32).reshape(600, 3) % 256
    image = np.dstack([np.full((600, 3, 3), 100), alpha]).astype(np.uint8)

    shown = decode(encoded(".png", image))

    expected = np.rint(255 - 155 * alpha / 255)
    assert np.abs(shown - expected[:, :, None]).max() <= 0.5


def test_a_transparent_color_of_a_gif_shows_white():
    shown = decode(quarters_gif(transparent=1))

    assert np.all(shown[:16, 24:] == 255)
    assert np.all(shown[:16, :24] == RED)


def test_the_first_frame_of_an_animated_gif_is_the_image():
    first, second = np.zeros((8, 8)), np.ones((8, 8))

    assert np.all(decode(gif(first, second, palette=[BLUE, YELLOW])) == BLUE)


@pytest.mark.parametrize("suffix", [".webp", ".png", ".avif"])
def test_the_first_frame_of_an_animation_is_the_image(suffix):
    animation = cv2.Animation()
    animation.frames = [np.full((32, 32, 3), BLUE[::-1], np.uint8), np.full((32, 32, 3), RED[::-1], np.uint8)]
    animation.durations = np.array([100, 100], np.int32)
    done, data = cv2.imencodeanimation(suffix, animation)
    assert done

    assert lies_near(decode(data.tobytes()), np.full((32, 32, 3), BLUE, np.uint8), 6)


def test_a_cmyk_tiff_shows_its_colors():
    image = np.empty((8, 8, 4), np.uint8)
    image[:] = (155, 55, 205, 75)

    shown = decode(tiff(image, photometric=5))

    assert np.abs(shown[0, 0].astype(int) - [100 * 180 / 255, 200 * 180 / 255, 50 * 180 / 255]).max() <= 2


@pytest.mark.parametrize(
    "bits",
    [
        8,
        10,
        12,
    ],
)
def test_an_avif_is_as_bright_at_every_depth(bits):
    samples = quarters() if bits == 8 else np.rint(quarters() / 255 * (2**bits - 1)).astype(np.uint16)

    shown = decode(encoded(".avif", samples, (*LOSSLESS_AVIF, cv2.IMWRITE_AVIF_DEPTH, bits)))

    assert lies_near(shown, quarters(), 4)


def test_samples_that_are_no_integers_are_not_supported():
    done, data = cv2.imencode(".tif", np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    assert done

    assert refusal(data.tobytes()).cause == "unsupported_format"


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_a_file_that_was_cut_short_is_refused_at_every_cut(name):
    data = EVERY_FORMAT[name]
    cuts = range(len(data)) if len(data) < 1000 else [*range(100), *range(100, len(data) - 100, 23), *range(-100, 0)]

    causes = {refusal(data[:cut]).cause for cut in cuts}

    # Before its signature is whole, a file is whatever it starts like.
    assert causes <= {"empty", "not_an_image", "unsupported_format", "corrupt"}
    assert {refusal(data[:cut]).cause for cut in cuts if cut < 0 or cut > 40} == {"corrupt"}


@pytest.mark.parametrize("name", [name for name in EVERY_FORMAT if name.startswith("jpeg")])
@pytest.mark.parametrize("missing", [1, 2])
def test_a_jpeg_without_its_last_two_bytes_is_corrupt(name, missing):
    assert refusal(EVERY_FORMAT[name][:-missing]).cause == "corrupt"


def test_a_large_jpeg_that_was_cut_short_is_never_half_gray():
    data = encoded(".jpg", smooth(600, 800))

    for share in (0.1, 0.25, 0.5, 0.75, 0.9, 0.99):
        cut = data[: int(len(data) * share)]
        assert refusal(cut).cause == "corrupt"
        assert refusal(cut, shrink_to=100).cause == "corrupt"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_jpeg_that_was_cut_short_is_refused_or_has_lost_no_pixel(data):
    seed, height, width = (data.draw(st.integers(*limits)) for limits in ((0, 999), (1, 300), (1, 300)))
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    quality = data.draw(st.integers(1, 100))
    blurred = np.asarray(cv2.GaussianBlur(image, (0, 0), 3), np.uint8)
    whole = encoded(".jpg", blurred, (cv2.IMWRITE_JPEG_QUALITY, quality))
    missing = data.draw(st.one_of(st.integers(1, 4), st.integers(1, len(whole))))
    shrink_to = data.draw(st.sampled_from([0, 16, 64]))

    try:
        found = decode(whole[:-missing], shrink_to=shrink_to)
    except ImageError:
        return

    # Some decode without their last marker, which holds no pixel.
    assert missing <= 2
    assert differs_by(found, decode(whole, shrink_to=shrink_to)) == 0


def test_a_jpeg_header_that_promises_more_than_the_file_can_hold_is_refused():
    # Each block of 64 pixels takes at least a bit, so these 728 bytes cannot hold a million pixels.
    assert refusal(promising(EVERY_FORMAT["jpeg"], 1000, 1000)).cause == "corrupt"


def test_a_jpeg_header_that_promises_more_than_the_limit_is_refused():
    assert refusal(promising(EVERY_FORMAT["jpeg"], 30_000, 30_000)).cause == "too_large"


def test_nothing_at_all_is_empty():
    assert refusal(b"").cause == "empty"


NO_IMAGES = {
    "one byte": b"\xff",
    "zeros": bytes(1000),
    "html": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "json": b'{"error": "not found"}',
    "text": b"an image is worth a thousand words\n",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "pickle": pickle.dumps({"a": [1, 2, 3]}),
    "elf": b"\x7fELF\x02\x01\x01" + bytes(100),
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "zip": b"PK\x03\x04" + bytes(100),
    "bm and too little": b"BM, a text that begins",
}


@pytest.mark.parametrize("data", NO_IMAGES.values(), ids=NO_IMAGES)
def test_what_is_no_image_is_not_an_image(data):
    assert refusal(data).cause == "not_an_image"


UNSUPPORTED = {
    "heic": b"\0\0\0\x18ftypheic" + bytes(100),
    "mp4": b"\0\0\0\x18ftypisom" + bytes(100),
    "jxl": b"\xff\x0a" + bytes(100),
    "jxl-container": b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(100),
    "jpeg-2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(100),
    "jpeg-2000-stream": b"\xff\x4f\xff\x51" + bytes(100),
    "psd": b"8BPS\0\x01" + bytes(100),
    "svg": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "svg-with-entity": b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><SVG>&x;</SVG>',
}


@pytest.mark.parametrize("data", UNSUPPORTED.values(), ids=UNSUPPORTED)
def test_images_of_other_kinds_are_told_from_what_is_no_image(data):
    error = refusal(data)

    assert error.cause == "unsupported_format"
    assert "convert" in error.hint


def promising(jpeg: bytes, height: int, width: int) -> bytes:
    """Write another size into a JPEG's header."""
    start = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:start] + struct.pack(">HH", height, width) + jpeg[start + 4 :]


def bombs() -> dict[str, bytes]:
    side = struct.pack("<HH", 65535, 65535)
    no_pixels = png_chunk(b"IDAT", zlib.compress(bytes(100))) + png_chunk(b"IEND", b"")

    def png_of(width: int, height: int, depth: int = 8, color_type: int = 2) -> bytes:
        header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + no_pixels

    huge_tiff = bytearray(tiff(quarters()))
    for tag, old in ((256, WIDTH), (257, HEIGHT)):
        start = huge_tiff.index(struct.pack("<HHII", tag, 4, 1, old))
        huge_tiff[start : start + 12] = struct.pack("<HHII", tag, 4, 1, 65535)
    webp = bytearray(encoded(".webp", quarters(), (cv2.IMWRITE_WEBP_QUALITY, 80)))
    start = webp.index(b"\x9d\x01\x2a") + 3
    webp[start : start + 4] = struct.pack("<HH", 16383, 16383)
    bmp = b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 65535, 65535, 1, 24, *[0] * 6)
    return {
        "jpeg": promising(EVERY_FORMAT["jpeg"], 65500, 65500),
        "gif": b"GIF89a" + side + bytes([0x80, 0, 0, *[0] * 6]) + b"," + bytes(4) + side + b"\0\x02\x02\x4c\x01\0;",
        "png": png_of(65535, 65535),
        "png of 1 bit": png_of(32767, 32767, 1, 0),
        "png wider than 2^20": png_of(2**30, 1, 8, 0),
        "png higher than 2^20": png_of(1, 2**30, 8, 0),
        "bmp": bmp + bytes(100),
        "bmp upside down": bmp.replace(struct.pack("<ii", 65535, 65535), struct.pack("<ii", 65535, -65535))
        + bytes(100),
        "tiff": bytes(huge_tiff),
        "webp": bytes(webp),
        "png with a huge chunk": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 0x3FFFFFFF) + b"IHDR" + bytes(13),
    }


BOMBS = bombs()


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_a_file_that_promises_a_giant_image_is_refused_from_its_header(data):
    assert len(data) < 10_000
    assert refusal(data).cause in {"too_large", "corrupt"}
    with pytest.raises(ImageError):
        decode_rgba(data)


@pytest.mark.parametrize(
    "data",
    [
        image_files.bmp(np.zeros((1, 2**18), np.uint8), 1, width=2**21),
        image_files.tiff(np.zeros((2**21, 1, 1), int), bits=4, photometric=1),
    ],
    ids=["bmp", "tiff"],
)
def test_a_side_is_limited_whoever_reads_the_file(data):
    assert (refusal(data).cause, refusal(data).message[:24]) == ("too_large", "a side of 2,097,152 pixe")


def test_the_error_of_a_giant_image_names_its_size():
    assert "65500 x 65500" in refusal(BOMBS["jpeg"]).message


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (2, 3), (1, 60_000)])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif"])
def test_images_one_pixel_wide_or_high_are_images(suffix, shape):
    image = np.full((*shape, 3), 77, np.uint8)

    assert lies_near(decode(encoded(suffix, image)), image, 2)
    assert decode(encoded(suffix, image), shrink_to=64).ndim == 3


@pytest.mark.parametrize("shape", [(1000, 800), (801, 1000), (63, 1999), (640, 640), (100, 90), (1, 1)])
@pytest.mark.parametrize("shrink_to", [1, 64, 100, 224])
def test_a_shrunken_jpeg_keeps_enough_pixels_and_looks_the_same(shape, shrink_to):
    image = smooth(*shape)
    data = encoded(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, 95))

    shrunken = decode(data, shrink_to=shrink_to)

    assert max(shrunken.shape) >= min(shrink_to, max(shape))
    assert max(shrunken.shape) < max(shape) or max(shape) < 2 * shrink_to or max(shape) < 2
    averaged = cv2.resize(decode(data), shrunken.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert lies_near(shrunken, averaged, 12)


@pytest.mark.parametrize("name", ["png", "webp", "bmp", "tiff", "gif", "avif"])
def test_only_a_jpeg_is_shrunken(name):
    assert decode(EVERY_FORMAT[name], shrink_to=4).shape == (HEIGHT, WIDTH, 3)


def test_the_size_of_a_jpeg_is_found_behind_a_thumbnail_in_its_metadata():
    thumbnail = encoded(".jpg", smooth(8, 8))
    data = jpeg_with_exif(encoded(".jpg", smooth(640, 640)), exif(1) + thumbnail)

    assert decode(data, shrink_to=80).shape == (80, 80, 3)


def test_a_jpeg_with_fill_bytes_and_comments_before_its_frame_is_read():
    data = encoded(".jpg", quarters())
    padded = data[:2] + b"\xff\xff\xff" + jpeg_segment(0xFE, b"\xff\xc0 in a comment" * 10)[1:] + data[2:]

    assert lies_near(decode(padded), quarters(), 10)


@pytest.mark.parametrize("tail", [b"\0" * 50, b"trailing text", b"\xff\xd9\xff\xd9"])
def test_bytes_after_the_end_of_a_jpeg_do_no_harm(tail):
    assert lies_near(decode(EVERY_FORMAT["jpeg"] + tail), quarters(), 10)


def test_the_same_bytes_give_the_same_pixels():
    for data in EVERY_FORMAT.values():
        assert differs_by(decode(data), decode(bytes(data))) == 0


def test_the_result_is_contiguous_and_writable_memory_of_its_own():
    for data in EVERY_FORMAT.values():
        image = decode(data)
        assert (image.dtype, image.flags.c_contiguous) == (np.uint8, True)
        image[:] = 0


def test_what_a_library_says_of_a_bad_file_does_not_reach_standard_error(capfd):
    for data in EVERY_FORMAT.values():
        refusal(data[: len(data) // 2])
    os.write(2, b"ours")

    assert capfd.readouterr().err == "ours"


def test_decoding_leaves_no_descriptor_open():
    before = len(list(Path("/proc/self/fd").iterdir()))

    for data in EVERY_FORMAT.values():
        decode(data)
        refusal(data[:-30])

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_threads_may_decode_at_the_same_time(capfd):
    def shape(data: bytes) -> tuple[int, ...]:
        try:
            return decode(data).shape
        except ImageError:
            return ()

    files = [*EVERY_FORMAT.values(), *(data[:-30] for data in EVERY_FORMAT.values())] * 5
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(shape, files))
    os.write(2, b"ours")

    assert together == [shape(data) for data in files]
    assert capfd.readouterr().err == "ours"


def grained(seed: int, height: int = 300, width: int = 400) -> np.ndarray:
    """An image with the noise of a camera, so that its file is long and there is much to damage."""
    generator = np.random.default_rng(seed)
    colors = cv2.resize(generator.integers(0, 256, (5, 5, 3)).astype(np.uint8), (width, height))
    return np.clip(colors.astype(int) + generator.integers(-25, 26, (height, width, 3)), 0, 255).astype(np.uint8)


WAYS_OF_CODING = {
    "baseline": (),
    "optimized": (cv2.IMWRITE_JPEG_OPTIMIZE, 1),
    "progressive": (cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restarts": (cv2.IMWRITE_JPEG_RST_INTERVAL, 8),
}


def entropy_coded(jpeg: bytes) -> tuple[int, int]:
    """Where the data of the first scan begins, and where the file ends."""
    start = jpeg.index(b"\xff\xda")
    return start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big"), len(jpeg) - 2


def with_a_bad_code(jpeg: bytes) -> bytes:
    """Put ones into a JPEG, which are no Huffman code (ITU-T T.81, C.2)."""
    start, end = entropy_coded(jpeg)
    middle = (start + end) // 2
    return jpeg[:middle] + b"\xff\0" * 40 + jpeg[middle + 80 :]


def with_a_gap(jpeg: bytes) -> bytes:
    start, end = entropy_coded(jpeg)
    middle = (start + end) // 2
    return jpeg[:middle] + jpeg[middle + (end - start) // 4 :]


@pytest.mark.parametrize("damage", [with_a_bad_code, with_a_gap])
@pytest.mark.parametrize("options", WAYS_OF_CODING.values(), ids=WAYS_OF_CODING)
def test_a_jpeg_that_decodes_though_it_is_damaged_is_corrupt_and_what_is_left_can_be_had(options, damage):
    whole = encoded(".jpg", grained(1), options)
    data = damage(whole)

    error = refusal(data)
    image, said = salvaged(data)

    assert error.cause == "corrupt"
    assert said
    assert said in error.message
    assert refusal(data, shrink_to=100).cause == "corrupt"
    with pytest.raises(ImageError):
        decode_rgba(data)
    assert image.shape == grained(1).shape
    if options != WAYS_OF_CODING["progressive"]:  # where every scan goes over the whole image
        assert lies_near(image[:100], decode(whole)[:100], 0)


def with_zeros(jpeg: bytes, seed: int) -> bytes:
    """Lose an eighth of the coded data, as when a block of a disk was never written."""
    start, end = entropy_coded(jpeg)
    hole = (end - start) // 8
    first = int(np.random.default_rng(seed).integers(start, end - hole))
    return jpeg[:first] + bytes(hole) + jpeg[first + hole :]


@pytest.mark.parametrize("options", WAYS_OF_CODING.values(), ids=WAYS_OF_CODING)
def test_a_jpeg_with_a_hole_of_zeros_is_nearly_always_found_out(options):
    files = [with_zeros(encoded(".jpg", grained(seed), options), seed) for seed in range(20)]

    assert sum(is_refused(data) for data in files) >= 17


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_RST_INTERVAL, 8)], ids=["baseline", "restarts"])
def test_a_jpeg_with_flipped_bits_is_mostly_found_out(options):
    found = 0
    for seed in range(20):
        data = bytearray(encoded(".jpg", grained(seed), options))
        generator = np.random.default_rng(seed)
        for place in generator.integers(*entropy_coded(bytes(data)), 4):
            data[place] ^= 1 << int(generator.integers(8))
        found += is_refused(bytes(data))

    assert found >= 14


def is_refused(data: bytes) -> bool:
    try:
        decode(data)
    except ImageError:
        return True
    return False


HARMLESS = {
    "stray bytes before a table": lambda data: data.replace(b"\xff\xdb", b"\0\0\0\xff\xdb", 1),
    "stray bytes before a code table": lambda data: data.replace(b"\xff\xc4", b"\x01\x02\xff\xc4", 1),
    "a few bytes before the end": lambda data: data[:-2] + b"\x01\x02\x03" + data[-2:],
    "padding before the end": lambda data: data[:-2] + bytes(500) + data[-2:],
    "ones before the end": lambda data: data[:-2] + b"\xff" * 500 + data[-2:],
    "text after the end": lambda data: data + b"extraneous" * 50,
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
@pytest.mark.parametrize("options", WAYS_OF_CODING.values(), ids=WAYS_OF_CODING)
def test_what_does_a_jpeg_no_harm_is_not_taken_for_damage(change, options):
    whole = encoded(".jpg", grained(2), options)
    odd = change(whole)

    image, damage = salvaged(odd)

    assert odd != whole
    assert differs_by(decode(odd), decode(whole)) == 0
    assert (differs_by(image, decode(whole)), damage) == (0, "")


@pytest.mark.parametrize("name", EVERY_FORMAT)
def test_of_a_whole_image_salvage_gives_what_decode_gives(name):
    image, damage = salvaged(EVERY_FORMAT[name])

    assert (differs_by(image, decode(EVERY_FORMAT[name])), damage) == (0, "")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
def test_of_a_jpeg_that_was_cut_short_the_upper_part_can_be_had(share):
    whole = encoded(".jpg", grained(3))
    start, end = entropy_coded(whole)

    image, damage = salvaged(whole[: start + int((end - start) * share)])

    rows = int(share * 300) - 16  # each row of blocks takes about as much
    assert damage
    assert lies_near(image[:rows], decode(whole)[:rows], 0)
    assert not lies_near(image[rows + 32 :], decode(whole)[rows + 32 :], 20)


@pytest.mark.parametrize("name", [name for name in EVERY_FORMAT if not name.startswith("jpeg")])
def test_of_other_formats_that_were_cut_short_nothing_can_be_had(name):
    with pytest.raises(ImageError) as refused:
        decode_image(EVERY_FORMAT[name][:-30], keep_damaged=True)

    assert refused.value.cause == "corrupt"


def test_salvage_has_the_limits_of_decode():
    for data, cause in ((BOMBS["png"], "too_large"), (BOMBS["jpeg"], "too_large"), (b"", "empty")):
        with pytest.raises(ImageError) as refused:
            decode_image(data, keep_damaged=True)
        assert refused.value.cause == cause
    with pytest.raises(ImageError) as refused:
        decode_image(EVERY_FORMAT["jpeg"], max_pixels=HEIGHT * WIDTH - 1, keep_damaged=True)
    assert refused.value.cause == "too_large"


def test_threads_are_told_of_the_damage_of_their_own_images_only(capfd):
    changes = (bytes, with_a_gap, lambda data: data[:-900], HARMLESS["stray bytes before a table"])
    files = [change(encoded(".jpg", grained(seed))) for seed in range(8) for change in changes]

    def damage_of(data: bytes) -> str:
        return salvaged(data)[1]

    alone = [damage_of(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(damage_of, files * 3))
    os.write(2, b"ours")

    assert together == alone * 3
    assert [bool(damage) for damage in alone] == [False, True, True, False] * 8
    assert capfd.readouterr().err == "ours"


def test_standard_error_is_the_same_afterwards_and_goes_to_children():
    before = os.fstat(2)

    for data in (EVERY_FORMAT["jpeg"], with_a_gap(encoded(".jpg", grained(1))), EVERY_FORMAT["png"][:-30], b""):
        is_refused(data) if data else refusal(data)

    after = os.fstat(2)
    assert (after.st_dev, after.st_ino) == (before.st_dev, before.st_ino)
    assert os.get_inheritable(2)


DECODE_WITHOUT_STANDARD_STREAMS = """
import json, os, sys
from pathlib import Path
from imgsearch.images.decode import decode_image
kept = [os.path.exists(f"/proc/self/fd/{number}") for number in range(3)]
open_before = len(os.listdir("/proc/self/fd"))
files = [Path(name).read_bytes() for name in sys.argv[1:]]
damages = [decode_image(data, keep_damaged=True).remarks.get("damaged", "") for data in files]
open_after = len(os.listdir("/proc/self/fd"))
assert [os.path.exists(f"/proc/self/fd/{number}") for number in range(3)] == kept, kept
assert open_before == open_after
Path("damages.json").write_text(json.dumps([kept, damages]))
"""


@pytest.mark.parametrize(
    ("shell", "kept"),
    [
        ("", [True, True, True]),
        ("2>&-", [True, True, False]),
        (">&- 2>&-", [True, False, False]),
        ("<&- >&- 2>&-", [False, False, False]),
        ("2>/dev/full", [True, True, True]),
    ],
)
def test_damage_is_found_and_nothing_comes_to_be_standard_error_where_that_is_closed(tmp_path, shell, kept):
    whole = encoded(".jpg", grained(1))
    for name, data in (("1", with_a_gap(whole)), ("2", whole), ("3", whole[:-900])):
        (tmp_path / name).write_bytes(data)
    command = [sys.executable, "-c", DECODE_WITHOUT_STANDARD_STREAMS, "1", "2", "3"]

    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command], cwd=tmp_path, stderr=subprocess.PIPE, check=False
    )

    assert (done.returncode, done.stderr) == (0, b"")
    found, damages = json.loads((tmp_path / "damages.json").read_text())
    assert found == kept
    assert [bool(damage) for damage in damages] == [True, False, True]


def check_that_only_image_errors_come(data: bytes, shrink_to: int) -> None:
    causes = []
    try:
        image = decode(data, shrink_to=shrink_to)
        assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
    except ImageError as error:
        causes.append(error.cause)
    try:
        assert decode_rgba(data).shape[2] == 4
    except ImageError as error:
        causes.append(error.cause)
    assert set(causes) <= {"empty", "not_an_image", "unsupported_format", "too_large", "corrupt"}


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([0, 16]))
def test_arbitrary_bytes_never_raise_anything_else(data, shrink_to):
    check_that_only_image_errors_come(data, shrink_to)


SIGNATURES = [data[:12] for data in EVERY_FORMAT.values()] + [b"BM", b"II+\0", b"MM\0+", b"GIF87a", b"\xff\xd8\xff\xc0"]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SIGNATURES), st.binary(max_size=200), st.sampled_from([0, 16]))
def test_a_signature_followed_by_anything_never_raises_anything_else(signature, rest, shrink_to):
    check_that_only_image_errors_come(signature + rest, shrink_to)


@st.composite
def mutated(draw) -> bytes:
    data = bytearray(draw(st.sampled_from(list(EVERY_FORMAT.values()))))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(data) - 1))
        how = draw(st.sampled_from(["set", "zero", "remove", "insert", "repeat"]))
        if how == "set":
            data[start] = draw(st.integers(0, 255))
        elif how == "zero":
            length = min(draw(st.integers(1, 64)), len(data) - start)
            data[start : start + length] = bytes(length)
        elif how == "remove" and len(data) > 100:
            del data[start : start + draw(st.integers(1, 32))]
        elif how == "insert":
            data[start:start] = draw(st.binary(max_size=32))
        else:
            data[start:start] = data[start : start + 64]
    return bytes(data)


@settings(max_examples=250, deadline=None)
@given(mutated(), st.sampled_from([0, 16]))
def test_a_damaged_image_never_raises_anything_else(data, shrink_to):
    check_that_only_image_errors_come(data, shrink_to)


@pytest.mark.parametrize("offsets", [(5, [8, 1]), (5, [8, 1, 8, 1]), (5, [8, 0])])
def test_a_tiff_whose_strips_lie_at_no_whole_number_is_corrupt(offsets):
    data = image_files.tiff(image_files.picture()[:, :, :1] >> 4, bits=4, photometric=1, more={273: offsets})

    assert refusal(data).cause == "corrupt"
