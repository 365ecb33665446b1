import cv2
import numpy as np
import pytest

from imgsearch.images.foreground import crop_transparent, without_background

SIDES = (120, 200)


def disc(background: tuple[int, int, int], opacity: int = 255) -> np.ndarray:
    """A red disc on a plain background, RGBA."""
    image = np.full((*SIDES, 4), (*background, opacity), np.uint8)
    cv2.circle(image, (70, 60), 40, (220, 20, 20, 255), -1)
    return image


@pytest.mark.parametrize("background", [(255, 255, 255), (30, 60, 200), (0, 0, 0)])
def test_a_plain_background_becomes_transparent_and_colors_stay(background):
    item = disc(background)

    alone = without_background(item)

    assert np.array_equal(alone[:, :, :3], item[:, :, :3])
    expected = np.zeros(SIDES, np.uint8)
    cv2.circle(expected, (70, 60), 40, 1, -1)
    found = alone[:, :, 3] > 127
    assert np.sum(found & (expected > 0)) / np.sum(found | (expected > 0)) > 0.9


def test_what_has_transparency_keeps_it():
    item = disc((255, 255, 255), opacity=0)

    assert np.array_equal(without_background(item), item)


def test_an_image_from_which_nothing_stands_out_stays_opaque():
    noise = np.dstack([np.random.default_rng(0).integers(0, 256, (*SIDES, 3), np.uint8), np.full(SIDES, 255, np.uint8)])

    assert without_background(noise)[:, :, 3].min() == 255


def test_a_border_is_cut_off():
    alone = crop_transparent(disc((255, 255, 255), opacity=0))

    assert alone.shape == (81, 81, 4)
    assert np.array_equal(alone, disc((255, 255, 255), opacity=0)[20:101, 30:111])


def test_of_what_is_transparent_nothing_is_left():
    assert crop_transparent(np.zeros((*SIDES, 4), np.uint8)).size == 0
