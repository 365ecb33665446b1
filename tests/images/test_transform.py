import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.transform import fit


def flat(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = colour
    return picture


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([1, 7, 64, 224]),
    st.sampled_from(["pad", "crop", "stretch"]),
)
def test_every_shape_of_picture_becomes_a_square(height, width, size, how):
    square = fit(noise(height, width), size, how)

    assert (square.shape, square.dtype) == ((size, size, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.sampled_from(["crop", "stretch"]),
)
def test_a_picture_of_one_colour_stays_of_one_colour(height, width, colour, how):
    assert np.array_equal(fit(flat(height, width, colour), 50, how), flat(50, 50, colour))


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_a_square_of_the_right_size_is_not_touched(how):
    picture = noise(64, 64)

    assert np.array_equal(fit(picture, 64, how), picture)


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_the_picture_that_was_given_is_not_changed(how):
    picture = noise(30, 50)
    before = picture.copy()

    fit(picture, 40, how)[:] = 0

    assert np.array_equal(picture, before)


def test_pad_is_the_default():
    assert np.array_equal(fit(noise(30, 60), 40), fit(noise(30, 60), 40, "pad"))


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (50, 150), (300, 290), (10, 30)])
def test_pad_keeps_proportions_and_shows_all_of_the_picture_in_the_middle(height, width):
    size = 120
    picture = flat(height, width, (255, 255, 255))
    frame = max(1, min(height, width) // 10)
    picture[frame:-frame, frame:-frame] = (0, 0, 0)

    square = fit(picture, size, "pad")

    inner = np.argwhere(square[:, :, 0] < 128)
    (top, left), (bottom, right) = inner.min(axis=0), inner.max(axis=0)
    scale = size / max(height, width)
    assert abs(bottom - top + 1 - (height - 2 * frame) * scale) <= 2
    assert abs(right - left + 1 - (width - 2 * frame) * scale) <= 2
    assert abs((top + bottom) - (size - 1)) <= 2
    assert abs((left + right) - (size - 1)) <= 2


@pytest.mark.parametrize(("height", "width"), [(60, 200), (200, 60), (1, 9), (99, 100)])
def test_pad_puts_the_picture_on_white_and_continues_a_white_ground(height, width):
    dark = fit(flat(height, width, (0, 0, 0)), 100, "pad")

    inner_height, inner_width = (max(1, round(side * 100 / max(height, width))) for side in (height, width))
    assert int((dark == 0).all(axis=2).sum()) == inner_height * inner_width
    assert int((dark == 255).all(axis=2).sum()) == 10_000 - inner_height * inner_width
    assert np.all(fit(flat(height, width, (255, 255, 255)), 100, "pad") == 255)


def test_crop_shows_the_middle_only():
    picture = flat(100, 300, (255, 0, 0))
    picture[:, 100:200] = (0, 255, 0)

    assert np.array_equal(fit(picture, 50, "crop"), flat(50, 50, (0, 255, 0)))
    assert np.array_equal(fit(picture.swapaxes(0, 1), 50, "crop"), flat(50, 50, (0, 255, 0)))


def test_crop_keeps_proportions():
    picture = flat(100, 300, (255, 255, 255))
    cv2.circle(picture, (150, 50), 40, (0, 0, 0), -1)

    inner = np.argwhere(fit(picture, 200, "crop")[:, :, 0] < 128)

    height, width = inner.max(axis=0) - inner.min(axis=0)
    assert abs(height - width) <= 2
    assert abs(height - 160) <= 4


def test_stretch_fills_the_square_with_all_of_the_picture():
    picture = flat(50, 200, (255, 0, 0))
    picture[:, 100:] = (0, 0, 255)

    square = fit(picture, 100, "stretch")

    assert np.all(square[:, :48] == (255, 0, 0))
    assert np.all(square[:, 52:] == (0, 0, 255))


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_shrinking_averages_what_it_leaves_out(how):
    thin_lines = np.zeros((300, 300, 3), np.uint8)
    thin_lines[:, ::3] = 255

    assert np.abs(fit(thin_lines, 100, how).astype(int) - 85).max() <= 1


def test_enlarging_gives_no_blocks():
    picture = np.dstack([np.tile(np.array([0, 255], np.uint8), (2, 1))] * 3)

    row = fit(picture, 64)[32, :, 0].astype(int)

    assert np.all(np.diff(row) >= 0)
    assert np.diff(row).max() <= 16
