import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.decode import decode
from imgsearch.synthetic import restyle
from imgsearch.synthetic.restyle import drawing_like


def disc(side: int = 200) -> np.ndarray:
    """An orange disc with a blue square in it, on nothing."""
    image = np.zeros((side, side, 4), np.uint8)
    cv2.circle(image, (side // 2, side // 2), side * 2 // 5, (240, 120, 30, 255), -1)
    quarter = side // 4
    image[side // 2 - quarter // 2 :][:quarter, side // 2 - quarter // 2 :][:, :quarter] = (30, 60, 200, 255)
    return image


def drawn(style, item: np.ndarray, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.asarray(style(restyle._on_paper(item, generator), generator), int)


def test_the_same_generator_state_gives_the_same_bytes_and_the_next_another_drawing():
    generator = np.random.default_rng(7)

    files = [drawing_like(disc(), generator) for _ in range(6)]

    assert drawing_like(disc(), np.random.default_rng(7)) == files[0]
    assert len(set(files)) == 6


def test_drawings_are_of_all_styles(monkeypatch):
    asked = []
    styles = [lambda paper, _, number=number: (asked.append(number), paper)[1] for number in range(4)]
    monkeypatch.setattr(restyle, "_STYLES", styles)

    for seed in range(40):
        drawing_like(disc(40), np.random.default_rng(seed))

    assert set(asked) == {0, 1, 2, 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_every_item_becomes_an_image_of_a_bounded_size(height, width, alpha, seed):
    item = np.full((height, width, 4), (9, 99, 199, alpha), np.uint8)

    image = decode(drawing_like(item, np.random.default_rng(seed)))

    assert min(image.shape[:2]) >= 1
    assert max(image.shape[:2]) <= 1.24 * 320


def test_the_item_that_was_given_is_not_changed():
    image = disc()
    before = image.copy()

    for seed in range(8):
        drawing_like(image, np.random.default_rng(seed))

    assert np.array_equal(image, before)


@pytest.mark.parametrize("style", restyle._STYLES)
def test_every_style_leaves_the_paper_light_and_shows_where_the_item_ends(style):
    image = drawn(style, disc())

    assert image[[0, 0, -1, -1], [0, -1, 0, -1]].min() > 200
    assert image.min() < 200


def test_a_painted_item_keeps_its_colors_and_has_dark_edges():
    image = drawn(restyle._painted, disc())

    orange = image[len(image) // 2, image.shape[1] // 4]
    assert orange[0] > orange[1] > orange[2] + 20
    assert image.max(axis=2).min() < 0.7 * orange.max()


def test_an_outlined_item_has_no_color_but_edges_of_each_of_its_parts():
    image = drawn(restyle._outlined, disc())

    across = image[len(image) // 2].mean(axis=1)
    lines = np.count_nonzero(np.diff((across < 200).astype(int)) == 1)
    assert lines == 4
    assert np.mean(image > 240) > 0.7


def test_a_posterized_item_has_few_levels_and_a_gray_one_no_colors():
    posterized, gray = drawn(restyle._posterized, disc()), drawn(restyle._gray, disc())

    assert max(len(np.unique(posterized[:, :, channel])) for channel in range(3)) <= 6
    assert len(np.unique(gray)) > 2
    assert np.array_equal(gray, gray[:, :, :1].repeat(3, axis=2))
