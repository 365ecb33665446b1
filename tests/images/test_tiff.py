import struct

import numpy as np
import pytest

from image_files import picture, tiff
from imgsearch.images.tiff import first_directory

PROFILE = 34675
CONTENT = list(b"a profile of 25 bytes ...")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
def test_fields_are_read_in_either_byte_order_and_in_bigtiff(order, big):
    fields = first_directory(tiff(picture(), order=order, big=big, more={PROFILE: (1, CONTENT)}))

    assert (fields.number(257, 0), fields.number(256, 0)) == picture().shape[:2]
    assert fields.numbers(258) == (8, 8, 8)
    assert fields.content(PROFILE) == bytes(CONTENT)
    assert fields.has(PROFILE)


def test_a_field_that_is_missing_has_no_content_and_the_default_number():
    fields = first_directory(tiff(picture()))

    assert (fields.content(PROFILE), fields.numbers(338), fields.number(338, 7), fields.has(338)) == (b"", (), 7, False)


def test_no_more_numbers_are_read_than_were_asked_for():
    fields = first_directory(tiff(np.zeros((4, 4, 1), int), photometric=3, more={320: (3, list(range(768)))}))

    assert fields.numbers(320, 5) == (0, 1, 2, 3, 4)
    assert len(fields.numbers(320, 1000)) == 768


def test_content_that_ends_behind_the_file_is_none_and_numbers_there_are_an_error():
    data = tiff(picture(), more={PROFILE: (1, CONTENT)})
    cut = first_directory(data[:-2])

    assert cut.content(PROFILE) == b""
    with pytest.raises(struct.error):
        cut.numbers(PROFILE, 100)


@pytest.mark.parametrize("place", [4, 0xFFFFFFFF])
def test_a_directory_behind_the_end_is_an_error(place):
    with pytest.raises(struct.error):
        first_directory(b"II*\0" + struct.pack("<I", place) + b"\xff\xff")


def test_signed_numbers_are_numbers_too():
    data = tiff(picture(), more={PROFILE: (3, [0xFFFE])})
    entry = data.index(struct.pack("<HHI", PROFILE, 3, 1))
    signed = data[: entry + 2] + struct.pack("<H", 8) + data[entry + 4 :]

    assert first_directory(signed).number(PROFILE, 0) == -2
