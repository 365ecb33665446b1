"""The main colors of an item, without its background."""

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.colors import lab_of, names_of
from imgsearch.images.decode import decode_image
from imgsearch.images.main_colors import MOST_COLORS, main_colors

SIDE = 200


def found(pixels, ending=".png", *settings):
    """Name -> share of the main colors of an image, RGB or RGBA."""
    code = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    data = cv2.imencode(ending, cv2.cvtColor(np.asarray(pixels, np.uint8), code), settings)[1].tobytes()
    colors = main_colors(decode_image(data))
    names = names_of(lab_of([tuple(bytes.fromhex(color.rgb[1:])) for color in colors]))
    return [(name, round(color.share, 2)) for name, color in zip(names, colors, strict=True)]


def on(background, *, noise=0):
    canvas = np.full((SIDE, SIDE, 3), background, np.float64)
    return canvas + np.random.default_rng(0).normal(0, noise, canvas.shape)


def with_ring(canvas, color):
    cv2.circle(canvas, (100, 100), 70, color, 40)
    return np.clip(canvas, 0, 255)


RED, GREEN, BLUE, WHITE, GRAY = (200, 30, 30), (30, 140, 40), (30, 60, 200), (255, 255, 255), (190, 190, 190)


def test_an_item_of_two_colors_has_both_with_their_shares_and_its_background_has_none():
    canvas = on(WHITE)
    canvas[50:150, 40:100], canvas[50:150, 100:130] = RED, GREEN

    assert [name for name, _ in found(canvas)] == ["red", "green"]
    assert [share for _, share in found(canvas)] == pytest.approx([2 / 3, 1 / 3], abs=0.03)


@pytest.mark.parametrize("background", [WHITE, GRAY, (60, 90, 70), (5, 5, 5)])
@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_what_is_seen_through_a_ring_is_background(background, ending):
    assert found(with_ring(on(background, noise=2), BLUE), ending) == [("blue", 1.0)]


def test_what_is_transparent_is_no_color_and_white_that_is_not_is_one():
    canvas = np.dstack([on(WHITE), np.zeros((SIDE, SIDE))])
    canvas[40:160, 40:160, 3] = 255
    canvas[60:100, 60:140, :3] = BLUE

    assert [name for name, _ in found(canvas)] == ["white", "blue"]
    canvas[:, :, :3] = WHITE  # a white cut-out, which is laid on gray
    assert found(canvas) == [("white", 1.0)]


def test_shadow_and_light_on_one_color_are_one_color():
    shade = np.linspace(1.1, 0.8, SIDE)[:, None, None]

    assert found(np.full((SIDE, SIDE, 3), RED) * shade) == [("red", 1.0)]


def test_thin_stripes_are_not_mixed():
    canvas = on(GRAY)
    canvas[40:160, 40:160] = 0
    canvas[40:160:4, 40:160] = canvas[41:160:4, 40:160] = 255

    assert sorted(name for name, _ in found(canvas)) == ["black", "white"]


def test_an_image_of_one_color_has_that_one():
    assert found(on((30, 60, 200))) == [("blue", 1.0)]
    assert found(on(WHITE)) == [("white", 1.0)]
    assert found(np.full((1, 1, 3), 255)) == [("white", 1.0)]
    assert found(np.zeros((30, 30, 4))) == [("white", 1.0)]


@given(st.integers(0, 10_000), st.integers(1, 90), st.integers(1, 90), st.booleans())
def test_shares_fall_and_sum_to_one_and_the_same_image_has_the_same_colors(seed, height, width, has_alpha):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 4 if has_alpha else 3), np.uint8)
    decoded = decode_image(cv2.imencode(".png", pixels)[1].tobytes())

    colors = main_colors(decoded)

    shares = [color.share for color in colors]
    assert 1 <= len(colors) <= MOST_COLORS
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert colors == main_colors(decoded)
