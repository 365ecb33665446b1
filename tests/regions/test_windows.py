from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.boxes import Box
from imgsearch.regions.propose import windows


@given(st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None)
def test_windows_are_squares_within_the_image_and_none_comes_twice(height, width):
    found = windows(height, width)

    assert len(set(found)) == len(found) >= 1
    for box in found:
        assert box.width == box.height >= 1
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= width
        assert box.y + box.height <= height


@given(st.integers(4, 300), st.integers(4, 300))
@settings(deadline=None)
def test_every_pixel_lies_in_some_window_of_the_first_size(height, width):
    side = min(height, width)
    columns, rows = set(), set()
    for box in windows(height, width):
        if box.width == side:
            columns |= set(range(box.x, box.x + side))
            rows |= set(range(box.y, box.y + side))

    assert columns == set(range(width))
    assert rows == set(range(height))


@given(st.integers(10, 300), st.integers(10, 300))
@settings(deadline=None)
def test_the_largest_come_first_and_neighbors_share_two_fifths(height, width):
    found = windows(height, width)

    sides = [box.width for box in found]
    assert sides == sorted(sides, reverse=True)
    for one, next_ in pairwise(found):
        if one.y == next_.y and one.width == next_.width:
            assert next_.x - one.x <= 0.6 * one.width + 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 500), (500, 1), (2, 2), (50, 1000), (1000, 50)])
def test_odd_images_have_windows_too(height, width):
    found = windows(height, width)

    assert found[0] == Box(0, 0, min(height, width), min(height, width))
    assert len(found) >= max(height, width) / min(height, width)


def test_a_square_has_one_window_of_all_of_it_then_four_and_nine():
    assert [box.width for box in windows(240, 240)] == [240, *[160] * 4, *[120] * 9]
