"""A photo as a whole: how large its file says it is, and boxes drawn into it."""

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import ImageError
from imgsearch.images.boxes import Box
from imgsearch.images.photo import LONGEST, Photo, drawn, open_photo
from imgsearch.images.policy import FilePolicy

POLICY = FilePolicy()


def exif(orientation: int) -> bytes:
    return b"Exif\0\0" + struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, orientation, 0, 0)


def jpeg(height: int, width: int, orientation: int = 0) -> bytes:
    """A JPEG whose upper left quarter, as it is stored, is red, and the rest gray."""
    image = np.full((height, width, 3), 128, np.uint8)
    image[: height // 2, : width // 2] = (0, 0, 255)
    data = cv2.imencode(".jpg", image)[1].tobytes()
    if not orientation:
        return data
    content = exif(orientation)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


@pytest.mark.parametrize(
    "size",
    [
        (1500, 2000),
        (2049, 4097),
        (4097, 2049),
        (8193, 1025),
        (9001, 9),
        (9, 9001),
        (4100, 4097),
        (1, 3000),
        (1023, 1024),
    ],
)
def test_the_size_is_that_of_the_file_however_much_the_decoder_left_out(size):
    photo = open_photo(jpeg(*size), POLICY)

    assert photo.size == size
    assert max(photo.pixels.shape[:2]) <= LONGEST


@given(st.integers(1, 1500), st.integers(1, 1500))
@settings(deadline=None, max_examples=30)
def test_the_size_of_any_jpeg_is_that_of_the_file(height, width):
    photo = open_photo(jpeg(height, width), POLICY, 160)

    assert photo.size == (height, width)
    assert max(photo.pixels.shape[:2]) <= 160


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(60, 90), (653, 997), (997, 653), (643, 645)])
def test_the_size_of_a_turned_jpeg_is_that_of_what_a_person_sees(orientation, size):
    photo = open_photo(jpeg(*size, orientation), POLICY, 160)

    assert photo.size == (size if orientation < 5 else size[::-1])
    height, width = photo.pixels.shape[:2]
    assert abs(height / width - photo.size[0] / photo.size[1]) < 0.02
    # Where the corner that was stored first has gone (Exif 2.32, tag 274).
    bottom, right = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    corner = photo.pixels[
        height - 1 - height // 8 if bottom else height // 8, width - 1 - width // 8 if right else width // 8
    ]
    assert corner[0] > 200
    assert corner[1] < 100


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff", ".gif", ".avif"])
def test_other_formats_are_as_large_as_they_say_too(suffix):
    image = np.random.default_rng(0).integers(0, 256, (300, 2100, 3), np.uint8)

    photo = open_photo(cv2.imencode(suffix, image)[1].tobytes(), POLICY)

    assert photo.size == (300, 2100)
    assert photo.pixels.shape == (146, 1024, 3)


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((40, 30), 77, np.uint8),
        np.full((40, 30), 30_000, np.uint16),
        np.full((40, 30, 3), 30_000, np.uint16),
        np.full((40, 30, 4), 77, np.uint8),
    ],
    ids=["grey", "gray of 16 bits", "16 bits", "alpha"],
)
def test_odd_samples_become_rgb(pixels):
    photo = open_photo(cv2.imencode(".png", pixels)[1].tobytes(), POLICY)

    assert (photo.pixels.shape, photo.pixels.dtype, photo.size) == ((40, 30, 3), np.uint8, (40, 30))


def test_what_needs_a_process_of_its_own_is_no_photo():
    scans = b"\xff\xda\0\0" * 1000
    data = jpeg(30, 40)

    assert open_photo(data[:-2] + scans + data[-2:], POLICY) is None


def test_a_small_photo_is_not_enlarged():
    assert open_photo(jpeg(1, 1), POLICY).pixels.shape == (1, 1, 3)
    assert open_photo(jpeg(30, 50), POLICY).pixels.shape == (30, 50, 3)


@pytest.mark.parametrize("data", [b"", b"text", jpeg(80, 80)[:300]])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(ImageError):
        open_photo(data, POLICY)


@pytest.fixture
def gray():
    return Photo(np.full((100, 200, 3), 128, np.uint8), (1000, 2000))


def test_boxes_are_drawn_in_orange_between_black_and_the_photo_stays(gray):
    image = drawn(gray, [Box(500, 200, 600, 400)])

    assert (gray.pixels == 128).all()
    assert image.shape == gray.pixels.shape
    changed = (image != 128).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert np.abs(np.array([rows[0], rows[-1], columns[0], columns[-1]]) - (20, 59, 50, 109)).max() <= 2
    assert tuple(image[20, 80]) == (255, 140, 0)
    assert tuple(image[19, 80]) == tuple(image[21, 80]) == (0, 0, 0)
    assert (image[25:55, 55:105] == 128).all()


def test_no_boxes_draw_nothing(gray):
    assert (drawn(gray, []) == gray.pixels).all()


@pytest.mark.parametrize(
    "box", [Box(0, 0, 2000, 1000), Box(1999, 999, 1, 1), Box(-50, -50, 10, 10), Box(9000, 0, 5, 5)]
)
def test_boxes_at_the_edge_and_beyond_are_drawn_within(gray, box):
    assert (drawn(gray, [box]) != 128).any()


def test_a_photo_of_one_pixel_can_be_drawn_into():
    photo = Photo(np.full((1, 1, 3), 128, np.uint8), (1, 1))

    assert drawn(photo, [Box(0, 0, 1, 1)]).shape == (1, 1, 3)
