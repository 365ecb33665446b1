"""Pixels mean sRGB, whatever the file's color profile: the truth is computed here, without LittleCMS."""

import contextlib
import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from color_profiles import (
    SPACES,
    cmyk_profile,
    compress,
    expand,
    gray_profile,
    in_space,
    inks_for,
    printed,
    profile,
    rgb_profile,
)
from image_files import tiff
from imgsearch.errors import ImageError
from imgsearch.images import profiles
from imgsearch.images.decode import decode, decode_image, decode_rgba

OTHER_SPACES = [name for name in SPACES if name != "sRGB"]
CMYK = cmyk_profile()
GAMMA_18 = gray_profile(1.8)


def colors() -> np.ndarray:
    """Forty patches of colors that every space here has; RGB, uint8 (40, 64, 3)."""
    patches = np.random.default_rng(3).integers(60, 221, (5, 8, 3))
    return np.kron(patches, np.ones((8, 8, 1))).astype(np.uint8)


COLORS = colors()


def coded(name: str, colors: np.ndarray = COLORS) -> np.ndarray:
    return np.rint(255 * in_space(colors, name)).astype(np.uint8)


def saved(pixels: np.ndarray, format_: str, icc: bytes, *, inks: bool = False, **options) -> bytes:
    file = io.BytesIO()
    mode = "CMYK" if inks else None
    Image.fromarray(pixels, mode).save(file, format_, icc_profile=icc or None, **options)
    return file.getvalue()


def jpeg(pixels: np.ndarray, icc: bytes = b"", **options) -> bytes:
    return saved(pixels, "JPEG", icc, quality=100, subsampling=0, **options)


def bmp(pixels: np.ndarray, icc: bytes) -> bytes:
    """A BMP of version 5 with a profile at its end."""
    rows = pixels[::-1, :, ::-1].tobytes()
    head = struct.pack("<IiiHHIIiiII", 124, pixels.shape[1], pixels.shape[0], 1, 24, 0, len(rows), 0, 0, 0, 0)
    head += bytes(16) + b"DEBM" + bytes(48) + struct.pack("<IIII", 4, 124 + len(rows), len(icc), 0)
    return struct.pack("<2sIII", b"BM", 138 + len(rows) + len(icc), 0, 138) + head + rows + icc


def gif(pixels: np.ndarray, icc: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).quantize(256).save(file, "GIF")
    data = file.getvalue()
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    blocks = b"".join(bytes([len(icc[i : i + 255])]) + icc[i : i + 255] for i in range(0, len(icc), 255))
    return data[:at] + b"\x21\xff\x0bICCRGBG1012" + blocks + b"\0" + data[at:]


def png(pixels: np.ndarray, **chunks: bytes) -> bytes:
    """A PNG with chunks before its image, each with its content."""
    native = pixels if pixels.ndim == 2 else pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]]
    data = cv2.imencode(".png", native)[1].tobytes()
    extra = b"".join(
        struct.pack(">I", len(content))
        + kind.encode()
        + content
        + struct.pack(">I", zlib.crc32(kind.encode() + content))
        for kind, content in chunks.items()
    )
    return data[:33] + extra + data[33:]


def iccp(icc: bytes) -> bytes:
    return b"a profile\0\0" + zlib.compress(icc)


def gama(gamma: float) -> bytes:
    return struct.pack(">I", round(100_000 * gamma))


def chrm(name: str) -> bytes:
    red, green, blue, white, _ = SPACES[name]
    return struct.pack(">8I", *(round(100_000 * number) for at in (white, red, green, blue) for number in at))


def error(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(found.astype(int) - truth).mean())


def remark(data: bytes) -> str:
    return decode_image(data).remarks.get("ignored_profile", "")


CONTAINERS = {
    "jpeg": jpeg,
    "png": lambda pixels, icc: png(pixels, iCCP=iccp(icc)),
    "webp": lambda pixels, icc: saved(pixels, "WEBP", icc, lossless=True),
    "tiff": lambda pixels, icc: saved(pixels, "TIFF", icc),
    "avif": lambda pixels, icc: saved(pixels, "AVIF", icc, quality=100, subsampling="4:4:4"),
    "bmp": bmp,
    "gif": gif,
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("space", ["Adobe RGB", "exchanged"])
def test_a_profile_is_applied_in_every_format(container, space):
    data = CONTAINERS[container](coded(space), rgb_profile(space))

    assert error(decode(data), COLORS) < 2
    assert remark(data) == ""


@pytest.mark.parametrize("space", OTHER_SPACES)
def test_the_colors_of_every_space_are_brought_to_srgb(space):
    data = png(coded(space), iCCP=iccp(rgb_profile(space)))

    assert error(coded(space), COLORS) > 5
    assert np.abs(decode(data).astype(int) - COLORS).max() <= 4


def test_an_srgb_profile_leaves_every_pixel_as_it_is():
    for icc in (rgb_profile("sRGB"), gray_profile(0.0)):
        pixels = COLORS[:, :, 0] if b"GRAY" in icc[:20] else COLORS
        assert np.array_equal(decode(png(pixels, iCCP=iccp(icc))), decode(png(pixels)))
        assert np.array_equal(decode(jpeg(pixels, icc)), decode(jpeg(pixels)))


def test_transparency_stays_and_colors_are_converted_before_they_are_mixed():
    alpha = np.repeat(np.array([0, 64, 128, 255], np.uint8), 16)[None].repeat(40, axis=0)
    data = png(np.dstack([coded("exchanged"), alpha]), iCCP=iccp(rgb_profile("exchanged")))
    opacity = alpha[:, :, None] / 255

    found = decode_rgba(data)

    assert np.array_equal(found[:, :, 3], alpha)
    assert error(found[:, :, :3], COLORS) < 2
    assert error(decode(data), 255 + opacity * (COLORS.astype(float) - 255)) < 2


@pytest.mark.parametrize("write", [lambda gray, icc: png(gray, iCCP=iccp(icc)), jpeg, lambda g, i: saved(g, "TIFF", i)])
def test_a_gray_profile_is_applied(write):
    gray = COLORS[:, :, 0]
    levels = np.rint(255 * compress(expand(gray / 255, 0), 1.8)).astype(np.uint8)

    found = decode(write(levels, GAMMA_18))

    assert error(found, np.dstack([gray] * 3)) < 2


def test_a_gray_image_with_transparency_and_a_gray_profile_keeps_its_transparency():
    file = io.BytesIO()
    alpha = np.full(COLORS.shape[:2], 200, np.uint8)
    levels = np.rint(255 * compress(expand(COLORS[:, :, 0] / 255, 0), 1.8)).astype(np.uint8)
    Image.fromarray(np.dstack([levels, alpha]), "LA").save(file, "PNG", icc_profile=GAMMA_18)

    found = decode_rgba(file.getvalue())

    assert (found[:, :, 3] == 200).all()
    assert error(found[:, :, 0], COLORS[:, :, 0]) < 2


def test_grays_with_a_profile_of_rgb_are_equal_parts_of_its_primaries():
    levels = np.rint(255 * compress(expand(COLORS[:, :, 0] / 255, 0), 563 / 256)).astype(np.uint8)

    assert error(decode(png(levels, iCCP=iccp(rgb_profile("Adobe RGB")))), np.dstack([COLORS[:, :, 0]] * 3)) < 2


def test_an_image_higher_than_one_band_is_converted_to_its_last_row():
    tall = np.tile(COLORS, (13, 1, 1))
    data = png(coded("exchanged", tall), iCCP=iccp(rgb_profile("exchanged")))
    inks = np.tile(inks_for(COLORS), (13, 1, 1))

    assert error(decode(data)[-40:], COLORS) < 2
    assert error(decode(jpeg(inks, CMYK, inks=True))[-40:], 255 * printed(inks[:40] / 255)) < 3


def in_segments(data: bytes, icc: bytes, order: list[int], length: int = 400) -> bytes:
    """Put a profile into a JPEG in parts, in some order."""
    parts = [icc[start : start + length] for start in range(0, len(icc), length)]
    segments = [b"ICC_PROFILE\0" + bytes([at + 1, len(parts)]) + parts[at] for at in order]
    return data[:2] + b"".join(struct.pack(">2sH", b"\xff\xe2", 2 + len(each)) + each for each in segments) + data[2:]


def test_a_profile_in_many_segments_is_put_together_in_any_order():
    icc = rgb_profile("exchanged")
    plain, count = jpeg(coded("exchanged")), -(-len(icc) // 400)

    for order in (range(count), reversed(range(count)), [*range(count), 0]):
        assert error(decode(in_segments(plain, icc, list(order))), COLORS) < 2


@pytest.mark.parametrize("left_out", [0, 3, -1])
def test_a_profile_with_a_segment_missing_is_ignored_and_said_to_be(left_out):
    icc = rgb_profile("exchanged")
    order = list(range(-(-len(icc) // 400)))
    del order[left_out]
    plain = jpeg(coded("exchanged"))

    data = in_segments(plain, icc, order)

    assert np.array_equal(decode(data), decode(plain))
    assert "parts of a color profile" in remark(data)


LAB = profile(b"Lab ", b"spac", b"Lab ", {})
USELESS = {
    "noise": np.random.default_rng(0).bytes(500),
    "nothing but a head": profile(b"RGB ", b"mntr", b"XYZ ", {}),
    "of CMYK": CMYK,
    "of Lab": LAB,
    "cut short": rgb_profile("Adobe RGB")[:300],
    "too large": rgb_profile("Adobe RGB") + bytes(profiles.MAX_PROFILE_BYTES),
}


@pytest.mark.parametrize("icc", USELESS.values(), ids=USELESS)
def test_a_profile_of_no_use_is_ignored_and_said_to_be(icc):
    for data, plain in (
        (png(COLORS, iCCP=iccp(icc)), png(COLORS)),
        (jpeg(COLORS, icc), jpeg(COLORS)),
        (saved(COLORS, "WEBP", icc, lossless=True), png(COLORS)),
    ):
        assert np.array_equal(decode(data), decode(plain))
        assert remark(data)


def test_a_gray_profile_in_an_image_with_colors_is_ignored_and_said_to_be():
    data = png(COLORS, iCCP=iccp(GAMMA_18))

    assert np.array_equal(decode(data), COLORS)
    assert "grays" in remark(data)


def test_a_profile_is_unpacked_no_further_than_the_limit():
    packed = zlib.compress(bytes(1 << 28), 9)
    tracemalloc.start()

    assert "more than" in remark(png(COLORS, iCCP=b"bomb\0\0" + packed))

    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 4 * profiles.MAX_PROFILE_BYTES


def test_a_profile_in_small_blocks_is_read_no_further_than_the_limit(monkeypatch):
    monkeypatch.setattr(profiles, "MAX_PROFILE_BYTES", 1000)
    data = gif(COLORS, bytes(100_000))

    assert len(profiles._gif_profile(data)) < 1000 + 256
    assert remark(data) == "a color profile of more than 1,000 bytes"


def test_a_packed_profile_that_is_damaged_is_ignored_and_said_to_be():
    assert "unpacked" in remark(png(COLORS, iCCP=b"name\0\0" + iccp(rgb_profile("exchanged"))[20:]))


# In PNG colors are said in four ways.


@pytest.mark.parametrize("chunks", [{"gAMA": gama(1.0)}, {"gAMA": gama(1.0), "cHRM": chrm("sRGB")}])
def test_a_linear_png_of_16_bits_is_as_light_as_it_was(chunks):
    light = np.rint(65535 * expand(COLORS / 255, 0)).astype(np.uint16)

    assert error(decode(png(light, **chunks)), COLORS) < 2


def test_primaries_of_a_png_are_followed():
    assert error(decode(png(coded("Adobe RGB"), gAMA=gama(256 / 563), cHRM=chrm("Adobe RGB"))), COLORS) < 2
    assert error(decode(png(coded("exchanged"), gAMA=gama(0.45455), cHRM=chrm("exchanged"))), COLORS) < 2


def test_the_gamma_of_srgb_leaves_every_pixel_as_it_is():
    for chunks in ({"gAMA": gama(0.45455)}, {"gAMA": gama(0.45455), "cHRM": chrm("sRGB")}, {"cHRM": chrm("ProPhoto")}):
        assert np.array_equal(decode(png(COLORS, **chunks)), COLORS)


def test_of_what_a_png_says_twice_the_newer_word_counts():
    swap, other = rgb_profile("exchanged"), rgb_profile("ProPhoto")
    p3 = {"cICP": bytes([12, 13, 0, 1]), "iCCP": iccp(other), "gAMA": gama(1.0)}

    assert error(decode(png(coded("Display P3"), **p3)), COLORS) < 2
    assert error(decode(png(coded("exchanged"), gAMA=gama(1.0), sRGB=b"\0", iCCP=iccp(swap))), COLORS) < 2
    assert np.array_equal(decode(png(COLORS, gAMA=gama(1.0), sRGB=b"\0")), COLORS)


def test_a_chunk_whose_checksum_is_wrong_says_nothing():
    data = png(COLORS, gAMA=gama(1.0))
    at = data.index(b"gAMA")

    assert np.array_equal(decode(data[: at + 8] + bytes(4) + data[at + 12 :]), COLORS)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ({"cICP": bytes([77, 13, 0, 1])}, "primaries 77"),
        ({"cICP": bytes([1, 77, 0, 1])}, "transfer characteristics 77"),
        ({"cICP": bytes([12, 13, 0, 0])}, "full range"),
        ({"gAMA": bytes(4)}, "gamma of 0"),
        ({"gAMA": gama(1.0), "cHRM": bytes(32)}, "no colors"),
        ({"gAMA": gama(1.0), "cHRM": struct.pack(">8I", *[33_000] * 8)}, "no colors"),
    ],
)
def test_what_a_png_says_of_no_colors_is_ignored_and_said_to_be(chunks, said):
    data = png(COLORS, **chunks)

    assert np.array_equal(decode(data), COLORS)
    assert said in remark(data)


@pytest.mark.parametrize(("transfer", "white"), [(16, 0.58069), (18, 0.75)])
def test_hdr_shows_its_diffuse_white_as_white_and_its_grays_in_order(transfer, white):
    levels = np.rint(65535 * np.linspace(0, white, 64)).astype(np.uint16)[None].repeat(8, axis=0)

    found = decode(png(np.dstack([levels] * 3), cICP=bytes([9, transfer, 0, 1]))).astype(int)[0]

    assert found[-1].min() >= 253
    assert found[0].max() <= 2
    assert (np.diff(found[:, 0]) >= 0).all()


@pytest.mark.parametrize("transfer", [1, 2, 6, 13])
def test_code_points_of_an_avif_are_followed(transfer):
    data = cv2.imencode(".avif", coded("Display P3")[:, :, ::-1], (cv2.IMWRITE_AVIF_QUALITY, 100))[1].tobytes()
    at = data.index(b"colrnclx") + 8

    found = decode(data[:at] + struct.pack(">HH", 12, transfer) + data[at + 4 :])

    assert error(found, COLORS) < 3 < error(decode(data), COLORS)


# Cameras name Adobe RGB in EXIF.


def exif(space: int, index: bytes) -> bytes:
    """EXIF that names a color space, and an index of interoperability: both directories with an entry each, or two."""
    head = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, 0x8769, 4, 1, 26, 0)
    camera = struct.pack("<HHHIIHHIII", 2, 0xA001, 3, 1, space, 0xA005, 4, 1, 56, 0)
    return head + camera + struct.pack("<HHHI4sI", 1, 1, 2, 4, index, 0)


@pytest.mark.parametrize(("space", "index"), [(0xFFFF, b"R03"), (2, b"R98")])
def test_a_camera_that_names_adobe_rgb_without_a_profile_is_believed(space, index):
    data = jpeg(coded("Adobe RGB"), exif=b"Exif\0\0" + exif(space, index))

    assert error(decode(data), COLORS) < 2


@pytest.mark.parametrize(("space", "index"), [(1, b"R98"), (1, b"R03"), (0xFFFF, b"R98"), (0xFFFF, b"")])
def test_a_camera_that_names_srgb_or_nothing_changes_nothing(space, index):
    assert np.array_equal(decode(jpeg(COLORS, exif=b"Exif\0\0" + exif(space, index))), decode(jpeg(COLORS)))


def test_a_profile_counts_more_than_what_the_camera_names():
    data = jpeg(coded("exchanged"), rgb_profile("exchanged"), exif=b"Exif\0\0" + exif(0xFFFF, b"R03"))

    assert error(decode(data), COLORS) < 2


# CMYK.

INKS = inks_for(COLORS)
PRINTED = 255 * printed(INKS / 255)


@pytest.mark.parametrize("write", [jpeg, lambda pixels, icc, **options: saved(pixels, "TIFF", icc, **options)])
def test_inks_with_a_profile_show_the_colors_of_that_profile(write):
    plain, data = (write(INKS, icc, inks=True) for icc in (b"", CMYK))

    assert error(decode(data), PRINTED) < 3
    assert error(decode(plain), PRINTED) > 8


def test_white_paper_is_white():
    assert decode(jpeg(np.zeros((16, 16, 4), np.uint8), CMYK, inks=True)).min() >= 254


@pytest.mark.parametrize("shrink_to", [30, 64, 100, 300])
def test_a_shrunken_cmyk_jpeg_is_as_large_as_another(shrink_to):
    large = np.kron(INKS, np.ones((9, 9, 1), np.uint8))

    found, plain = (decode(jpeg(large, icc, inks=True), shrink_to=shrink_to) for icc in (CMYK, b""))

    assert found.shape == plain.shape
    assert error(cv2.resize(found, (64, 40), interpolation=cv2.INTER_AREA), PRINTED) < 6


def test_a_cmyk_jpeg_is_turned_upright():
    turned = Image.Exif()
    turned[0x0112] = 6

    found = decode(jpeg(np.rot90(INKS).copy(), CMYK, inks=True, exif=turned.tobytes()))

    assert error(found, PRINTED) < 3


def test_a_profile_of_rgb_in_an_image_of_inks_is_ignored_and_said_to_be():
    data, plain = (jpeg(INKS, icc, inks=True) for icc in (rgb_profile("exchanged"), b""))

    assert np.array_equal(decode(data), decode(plain))
    assert "CMYK" in remark(data)


@pytest.mark.parametrize("how", [{"reverse": True}, {"big": True, "order": ">"}])
def test_inks_that_cannot_be_read_are_said_to_be_in_the_same_words_every_time(how):
    data = tiff(INKS, photometric=5, more={34675: (1, CMYK)}, **how)

    assert remark(data) == "the inks of a CMYK image cannot be read"


def test_of_a_damaged_cmyk_jpeg_the_upper_part_has_its_colors():
    large = np.kron(INKS, np.ones((5, 5, 1), np.uint8))
    data = jpeg(large, CMYK, inks=True)

    start = data.index(b"\xff\xda")
    found = decode_image(data[: start + (len(data) - start) * 3 // 4], keep_damaged=True)

    assert "damaged" in found.remarks
    assert error(found.pixels[:40], np.kron(PRINTED, np.ones((5, 5, 1)))[:40]) < 3


# All of it.


def test_an_image_without_a_profile_imports_no_pillow(tmp_path):
    (tmp_path / "plain.jpg").write_bytes(jpeg(COLORS))
    (tmp_path / "plain.png").write_bytes(png(COLORS, sRGB=b"\0", gAMA=gama(0.45455)))
    program = (
        "import sys; from pathlib import Path; from imgsearch.images.decode import decode\n"
        "for name in sys.argv[1:]: decode(Path(name).read_bytes())\n"
        "assert 'PIL' not in sys.modules"
    )

    subprocess.run([sys.executable, "-c", program, "plain.jpg", "plain.png"], cwd=tmp_path, check=True)


def test_threads_convert_at_the_same_time():
    files = [png(coded(name), iCCP=iccp(rgb_profile(name))) for name in OTHER_SPACES] + [jpeg(INKS, CMYK, inks=True)]
    alone = [decode(data) for data in files]

    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode, files * 5))

    assert all(np.array_equal(found, alone[at % len(files)]) for at, found in enumerate(together))


VALID = [
    jpeg(INKS, CMYK, inks=True),
    saved(INKS, "TIFF", CMYK, inks=True),
    bmp(COLORS[:8, :8], rgb_profile("ProPhoto")),
    jpeg(COLORS, exif=b"Exif\0\0" + exif(0xFFFF, b"R03")),
    CONTAINERS["avif"](COLORS, rgb_profile("exchanged")),
    saved(COLORS, "WEBP", rgb_profile("exchanged")),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(VALID) - 1), st.integers(0, 2**32 - 1))
def test_a_file_that_was_changed_anywhere_gives_pixels_or_an_image_error(number, seed):
    data, generator = VALID[number], np.random.default_rng(seed)
    changed = bytearray(data)
    for at in generator.integers(0, min(len(data), int(generator.choice([300, 1500, len(data)]))), 4).tolist():
        changed[at] = int(generator.choice([0, 1, 255, int(generator.integers(256))]))

    with contextlib.suppress(ImageError):
        assert decode_image(bytes(changed), max_pixels=100_000).pixels.dtype == np.uint8


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["CMYK", "GRAY", "RGB"]), st.integers(0, 2**32 - 1))
def test_a_profile_that_was_changed_anywhere_does_no_harm(space, seed):
    icc = {"CMYK": CMYK, "GRAY": GAMMA_18, "RGB": rgb_profile("ProPhoto")}[space]
    generator = np.random.default_rng(seed)
    changed = bytearray(icc)
    for at in generator.integers(0, min(len(icc), int(generator.choice([132, 300, len(icc)]))), 3).tolist():
        changed[at] = int(generator.integers(256))
    pixels = {"CMYK": INKS, "GRAY": COLORS[:, :, 0], "RGB": COLORS}[space]

    found = decode_image(jpeg(pixels, bytes(changed), inks=space == "CMYK"))

    assert found.pixels.shape == COLORS.shape
