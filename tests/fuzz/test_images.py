"""Whatever an image file holds, it is an image or a reason why it is none."""

import itertools
import struct
import time
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsearch.errors import ImageError
from imgsearch.images import MAX_PIXELS
from imgsearch.images.headers import avif_turn, checked_size, exif_orientation, image_format
from imgsearch.images.layouts import layout_of
from imgsearch.images.policy import FilePolicy
from imgsearch.images.workers.decoders import DecodeWorker

REASONS = ("empty", "not_an_image", "unsupported_format", "too_large", "corrupt")
FORMATS = ("jpeg", "png", "webp", "bmp", "tiff", "gif", "avif")
MAGIC = {
    "jpeg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR",
    "webp": b"RIFF\x10\0\0\0WEBP",
    "bmp": b"BM\0\0\0\0\0\0\0\0\0\0\0\0",
    "tiff": b"II*\0",
    "gif": b"GIF89a",
    "avif": b"\0\0\0\x1cftypavif",
}

# What has broken a parser or a decoder before, ours or another's.
PAST_FINDS = {
    "a 64-bit offset past what an address can be": b"II+\0" + bytes(4) + struct.pack("<Q", 2**63),
    "the same, the other way round": b"MM\0+" + bytes(4) + struct.pack(">Q", 2**64 - 1),
    "an offset to the very end": b"II*\0" + struct.pack("<I", 8),
    "a directory of 65,535 entries that are not there": b"MM\0*" + struct.pack(">IH", 8, 0xFFFF) + bytes(12),
    "a directory that is its own next": b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 8),
    "an AVIF that ends within its turn": b"\0\0\0\x1cftypavif" + bytes(8) + b"\0\0\0\x09irot",
    "an AVIF that ends within its mirror": b"\0\0\0\x1cftypavif" + bytes(8) + b"\0\0\0\x09imir",
    "an AVIF that ends within its configuration": b"\0\0\0\x1cftypavif" + bytes(8) + b"av1C",
    "a JPEG that ends within its frame": b"\xff\xd8\xff\xc0\0\x11\x08\0",
    "a JPEG of fill bytes": b"\xff\xd8" + b"\xff" * 64,
    "a JPEG whose segments have no length": b"\xff\xd8" + b"\xff\xe0\0\0" * 64,
    "3 GB of JPEG in 97 bytes": (b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03" + b"\x01\x11\0" * 3).ljust(
        97, b"\0"
    ),
    "7 GB of GIF in 49 bytes": (b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",").ljust(49, b"\0"),
    "a BMP of negative height": b"BM" + bytes(12) + struct.pack("<Iii", 40, 2**31 - 1, -(2**31)) + bytes(8),
    "2 GB of WebP in 44 bytes": b"RIFF\x24\0\0\0WEBPVP8L\x18\0\0\0\x2f\xff\xff\xff\x0f".ljust(44, b"\0"),
    "a PNG chunk of 2 GB": b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0" + b"\x7f\xff\xff\xffIDAT",
    "nothing": b"",
    "one byte": b"\xff",
}


def with_past_finds(test):
    for data in PAST_FINDS.values():
        test = example(data)(test)
    return test


LENGTHS = pytest.mark.parametrize("examples", [150, pytest.param(8000, marks=pytest.mark.slow)])


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Do with a file what `decode` does before it decodes, and after."""
    try:
        kind = image_format(data)
        size = checked_size(data, kind, max_pixels)
        assert size is None or 0 <= size[0] * size[1] <= max_pixels
        assert layout_of(data, kind).bits in (10, 12, 16)
    except ImageError as error:
        if error.cause not in REASONS:
            raise
        return
    turn = avif_turn(data)
    assert turn is None or (turn[0] in range(4) and turn[1] in ("", "vertical", "horizontal"))


@LENGTHS
def test_a_header_is_read_or_refused_fast_and_in_little_memory(images, spoilt, examples):
    files = list(itertools.chain.from_iterable(images.values()))
    behind_magic = st.builds(bytes.__add__, st.sampled_from(sorted(MAGIC.values())), st.binary(max_size=200))

    @settings(max_examples=examples, deadline=None)
    @given(spoilt(files) | behind_magic | st.binary(max_size=64))
    @with_past_finds
    def holds(data):
        tracemalloc.start()
        started = time.process_time()
        try:
            read_header(data)
            seconds = time.process_time() - started
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert seconds < 0.5
        assert most < 1_000_000 + 10 * len(data)

    holds()


@LENGTHS
def test_the_orientation_in_exif_data_is_read_or_is_upright(spoilt, examples):
    whole = [
        magic + struct.pack(order + "IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
        for magic, order in ((b"II*\0", "<"), (b"MM\0*", ">"), (b"Exif\0\0II*\0", "<"))
    ]
    assert [exif_orientation(data) for data in whole] == [6, 6, 6]

    @settings(max_examples=examples, deadline=None)
    @given(spoilt(whole) | st.binary(max_size=64))
    @with_past_finds
    def holds(data):
        assert 1 <= exif_orientation(data) <= 8

    holds()


BULK = {
    "a JPEG of zeros": (b"\xff\xd8\xff", b"\0"),
    "a JPEG of fill bytes": (b"\xff\xd8", b"\xff"),
    "a JPEG of markers without a body": (b"\xff\xd8", b"\xff\xd0"),
    "a JPEG of segments without a length": (b"\xff\xd8", b"\xff\xe0\0\0"),
    "a JPEG of empty segments": (b"\xff\xd8", b"\xff\xe0\0\x02"),
    "an AVIF of sizes": (MAGIC["avif"], b"\0\0\0\x14ispe" + bytes(8)),
    "a TIFF of widths": (b"II*\0\x08\0\0\0\xff\xff", struct.pack("<HHII", 0x0100, 4, 1, 1)),
    "an SVG that does not begin": (b" ", b"<sv"),
}


@pytest.mark.parametrize(("magic", "filling"), BULK.values(), ids=BULK)
def test_the_header_of_a_large_file_is_read_fast_and_in_little_memory(magic, filling):
    data = magic + filling * (16_000_000 // len(filling))
    started = time.process_time()
    read_header(data)
    assert time.process_time() - started < 1

    # Again: to trace memory takes time.
    tracemalloc.start()
    try:
        read_header(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 20_000_000


@pytest.fixture(scope="module", params=["skip", "keep"])
def worker(request):
    """Its process may crash; that is what these tests look for."""
    worker = DecodeWorker(64, "pad", FilePolicy(keep_damaged=request.param == "keep"), seconds=20)
    yield worker
    worker.close()


def decode(worker: DecodeWorker, data: bytes) -> None:
    """Decode an image, or be told what is wrong with it; a crash and an endless wait raise."""
    try:
        pixels, _ = worker.decode(data)
    except ImageError as error:
        if error.cause not in REASONS:
            raise
    else:
        assert pixels.shape == (64, 64, 3)


@pytest.mark.parametrize("examples", [50, pytest.param(2500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", FORMATS)
def test_a_spoilt_file_is_decoded_or_refused_and_the_decoder_survives(images, spoilt, worker, kind, examples):
    for data in images[kind]:
        assert worker.decode(data)[0].shape == (64, 64, 3)

    @settings(max_examples=examples, deadline=None)
    @given(spoilt(images[kind]))
    @with_past_finds
    def holds(data):
        decode(worker, data)

    holds()


def test_a_whole_avif_with_a_box_cut_short_behind_it_is_decoded_or_refused(images, worker):
    for box in (b"\0\0\0\x09irot", b"\0\0\0\x09imir"):
        decode(worker, images["avif"][0] + box)
