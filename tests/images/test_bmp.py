import struct

import numpy as np
import pytest

from image_files import bmp, masked, picture
from imgsearch.errors import ImageError
from imgsearch.images.bmp import bmp_header, read_bmp

LINES = picture()[:, :, ::-1].reshape(len(picture()), -1)


@pytest.mark.parametrize("bits", [24, 32])
@pytest.mark.parametrize("top_down", [False, True])
def test_pixels_are_memory_of_their_own(bits, top_down):
    lines = LINES if bits == 24 else masked(picture(), (0xFF0000, 0xFF00, 0xFF), 32)

    pixels = read_bmp(bmp(lines, bits, top_down=top_down))

    assert (pixels.flags.writeable, pixels.flags.c_contiguous) == (True, True)
    assert np.array_equal(pixels[:, :, ::-1], picture())


def test_a_header_says_its_size_whichever_way_its_rows_go():
    headers = [bmp_header(bmp(LINES, 24, header=header)) for header in (12, 16, 40, 64, 124)]
    turned = bmp_header(bmp(LINES, 24, top_down=True))

    assert {(header.height, header.width) for header in (*headers, turned)} == {picture().shape[:2]}
    assert [header.is_top_down for header in (*headers, turned)] == [False] * 5 + [True]


@pytest.mark.parametrize("place", [0, 14, 53, 10**9])
def test_pixels_that_begin_in_the_header_or_behind_the_end_are_corrupt(place):
    data = bmp(LINES, 24)

    with pytest.raises(ImageError) as refused:
        read_bmp(data[:10] + struct.pack("<I", place) + data[14:])
    assert refused.value.cause == "corrupt"


def test_a_number_that_the_palette_has_no_color_for_is_black():
    numbers = np.full((4, 4), 200, np.uint8)

    assert not read_bmp(bmp(numbers, 8, width=4, palette=np.full((10, 3), 77))).any()
