import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.decode import decode
from imgsearch.synthetic.augment import FRAME, augment, photo_like, reduce_rgba, screenshot_like


def item(height: int, width: int, color: tuple[int, int, int], alpha: int = 255) -> np.ndarray:
    image = np.empty((height, width, 4), np.uint8)
    image[:] = (*color, alpha)
    return image


def photo(image: np.ndarray, seed: int) -> np.ndarray:
    return decode(photo_like(image, np.random.default_rng(seed))).astype(int)


def share_changed_by(image: np.ndarray, seed: int, threshold: int = 60) -> float:
    """How much of the frame the item covers: where it differs from the same photo of nothing."""
    nothing = item(*image.shape[:2], (0, 0, 0), alpha=0)
    return float((np.abs(photo(image, seed) - photo(nothing, seed)).max(axis=2) > threshold).mean())


def test_the_same_generator_state_gives_the_same_bytes():
    image = item(50, 70, (200, 20, 20))

    assert photo_like(image, np.random.default_rng(7)) == photo_like(image, np.random.default_rng(7))


def test_one_generator_gives_another_photo_each_time():
    image, generator = item(50, 70, (200, 20, 20)), np.random.default_rng(7)

    assert len({photo_like(image, generator) for _ in range(5)}) == 5


def test_different_seeds_give_different_photos():
    assert len({photo_like(item(50, 70, (200, 20, 20)), np.random.default_rng(seed)) for seed in range(10)}) == 10


def test_the_item_that_was_given_is_not_changed():
    image = item(50, 70, (200, 20, 20), alpha=100)
    before = image.copy()

    photo_like(image, np.random.default_rng(0))

    assert np.array_equal(image, before)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
)
def test_every_item_becomes_a_jpeg_of_320_pixels(height, width, alpha, seed):
    data = photo_like(item(height, width, (9, 99, 199), alpha), np.random.default_rng(seed))

    assert data.startswith(b"\xff\xd8\xff")
    assert decode(data).shape == (FRAME, FRAME, 3) == (320, 320, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 2)])
def test_tiny_and_very_wide_items_become_photos(shape):
    assert photo(item(*shape, (0, 0, 0)), 1).shape == (320, 320, 3)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("side", [20, 256, 900])
def test_an_opaque_square_covers_the_share_of_the_frame_that_is_promised(side, seed):
    # 55 to 85 % of the side, less what a shift of 25 pixels and a turn of 20 degrees may push out of the frame.
    covered = share_changed_by(item(side, side, (0, 0, 0)), seed, threshold=30)

    assert 0.5**2 <= covered <= 0.87**2


@pytest.mark.parametrize("seed", range(4))
def test_a_transparent_item_shows_the_background_and_none_of_its_hidden_colors(seed):
    red, blue = item(100, 100, (255, 0, 0), alpha=0), item(100, 100, (0, 0, 255), alpha=0)

    assert photo_like(red, np.random.default_rng(seed)) == photo_like(blue, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(4))
def test_hidden_colors_do_not_bleed_into_the_edge_of_a_cut_out_item(seed):
    def disc(hidden: tuple[int, int, int]) -> np.ndarray:
        image = item(600, 600, hidden, alpha=0)
        cv2.circle(image, (300, 300), 250, (128, 128, 128, 255), -1)
        return image

    assert np.abs(photo(disc((255, 0, 255)), seed) - photo(disc((0, 255, 0)), seed)).max() <= 1


@pytest.mark.parametrize("seed", range(4))
def test_half_transparency_shows_half_of_the_item(seed):
    opaque = share_changed_by(item(200, 200, (0, 0, 0)), seed, threshold=10)
    clear = np.abs(photo(item(200, 200, (0, 0, 0), alpha=0), seed) - photo(item(200, 200, (0, 0, 0)), seed)).mean()
    half = np.abs(photo(item(200, 200, (0, 0, 0), alpha=0), seed) - photo(item(200, 200, (0, 0, 0), 128), seed)).mean()

    assert opaque > 0.2
    assert 0.4 <= half / clear <= 0.6


@pytest.mark.parametrize("seed", range(6))
def test_the_color_of_an_item_can_still_be_told(seed):
    shown = photo(item(300, 300, (250, 10, 10)), seed)[140:180, 140:180].mean(axis=(0, 1))

    assert shown[0] > 130
    assert shown[0] > 4 * max(shown[1], shown[2])


def screenshot(image: np.ndarray, seed: int) -> np.ndarray:
    return decode(screenshot_like(image, np.random.default_rng(seed)))


def test_the_same_generator_state_gives_the_same_screenshot():
    image, generator = item(50, 70, (200, 20, 20)), np.random.default_rng(7)

    assert screenshot_like(image, np.random.default_rng(7)) == screenshot_like(image, generator)
    assert len({screenshot_like(image, generator) for _ in range(5)}) == 5


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(0, 255), st.integers(0, 2**32 - 1))
def test_every_item_becomes_a_screenshot(height, width, alpha, seed):
    image = item(height, width, (9, 99, 199), alpha)
    before = image.copy()

    shown = screenshot(image, seed)

    assert max(shown.shape) <= 1 + 1.5 * 1.6 * 1.1 * max(height, width, 3)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (3000, 2000)])
def test_tiny_wide_and_large_items_become_screenshots(shape):
    assert max(screenshot(item(*shape, (0, 0, 0)), 1).shape) < 3000


def test_screenshots_show_55_to_95_percent_of_the_item_at_half_to_one_and_a_half_its_scale():
    side = 300
    rows, columns = np.indices((side, side)) * 255 // side
    image = np.dstack([rows, columns, np.zeros_like(rows), np.full_like(rows, 255)]).astype(np.uint8)
    areas, scales = [], []
    for seed in range(120):
        file = screenshot_like(image, np.random.default_rng(seed))
        if file.startswith(b"\xff\xd8"):
            continue  # JPEG changes the colors that tell where we are
        shown = decode(file).astype(int)
        covered = shown[shown[:, :, 2] < 8]  # the item's blue is 0, that of pages and bars is not
        height, width = (int(np.ptp(covered[:, channel])) / 255 for channel in (0, 1))
        areas.append(height * width)
        scales.append(np.sqrt(len(covered) / (height * width)) / side)

    assert 0.5 < min(areas) < 0.65
    assert 0.85 < max(areas) < 0.98
    assert 0.45 < min(scales) < 0.6
    assert 1.35 < max(scales) < 1.6


def test_some_screenshots_stand_on_a_page_under_a_bar_and_some_do_not():
    image = item(200, 200, (0, 128, 255))
    kinds = set()
    for seed in range(30):
        shown = screenshot(image, seed).astype(int)
        kinds.add(bool(np.abs(shown[2, shown.shape[1] // 2] - (0, 128, 255)).max() > 60))

    assert kinds == {True, False}


def test_screenshots_are_saved_as_png_and_as_jpeg():
    starts = {screenshot_like(item(50, 50, (1, 2, 3)), np.random.default_rng(seed))[:2] for seed in range(20)}

    assert starts == {b"\x89P", b"\xff\xd8"}


@pytest.mark.parametrize("seed", range(4))
def test_transparency_is_white_in_a_screenshot(seed):
    hidden, white = item(90, 90, (255, 0, 0), alpha=0), item(90, 90, (255, 255, 255))

    assert screenshot_like(hidden, np.random.default_rng(seed)) == screenshot_like(white, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_an_augmented_image_keeps_its_shape_and_one_color_stays_one_color(height, width, seed):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    plain = np.full((height, width, 3), (9, 99, 199), np.uint8)
    before = image.copy()

    augmented_image = augment(image, np.random.default_rng(seed))

    assert (augmented_image.shape, augmented_image.dtype) == (image.shape, np.uint8)
    assert np.array_equal(image, before)
    assert np.array_equal(augment(plain, np.random.default_rng(seed)), plain)


def corner_motion(seed: int) -> np.ndarray:
    """The affine map, 2 x 3 about the center in parts of the side, that an image was warped by: seen by three dots."""
    side, dots = 201, np.array([(100, 100), (130, 100), (100, 130)])
    places = []
    for x, y in dots:
        image = np.zeros((side, side, 3), np.uint8)
        cv2.circle(image, (int(x), int(y)), 4, (255, 255, 255), -1)
        light = augment(image, np.random.default_rng(seed))[:, :, 0].astype(float)
        rows, columns = np.indices(light.shape)
        places.append([(columns * light).sum() / light.sum(), (rows * light).sum() / light.sum()])
    places = np.array(places)
    linear = np.column_stack([places[1] - places[0], places[2] - places[0]]) / 30
    return np.column_stack([linear, (places[0] - 100) / side])


def test_augmenting_is_within_what_is_promised_and_reaches_it():
    motions = [corner_motion(seed) for seed in range(100)]
    mirrored = [np.linalg.det(motion[:, :2]) < 0 for motion in motions]
    turned, sheared, zoomed, shifted = [], [], [], []
    for motion, is_mirrored in zip(motions, mirrored, strict=True):
        linear = motion[:, :2] @ np.diag([-1 if is_mirrored else 1, 1])
        turned.append(np.degrees(np.arctan2(linear[1, 0], linear[0, 0])))
        zoomed.append(np.hypot(*linear[:, 0]))
        sheared.append(linear[:, 0] @ linear[:, 1] / zoomed[-1] ** 2)
        shifted.extend(motion[:, 2])

    assert 0.35 < np.mean(mirrored) < 0.65
    for values, middle, reach in ((turned, 0, 20), (sheared, 0, 0.2), (zoomed, 1, 0.2), (shifted, 0, 0.2)):
        most = np.abs(np.array(values) - middle).max()
        assert 0.85 * reach < most < 1.1 * reach


def test_what_an_augmented_image_does_not_cover_repeats_its_edge():
    image = np.full((60, 60, 3), (200, 180, 20), np.uint8)
    image[10:-10, 10:-10] = (0, 0, 0)

    for seed in range(10):
        edge = augment(image, np.random.default_rng(seed))[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert set(map(tuple, edge.tolist())) <= {(200, 180, 20), (0, 0, 0)}


def test_reducing_keeps_transparency_and_no_hidden_color():
    image = item(900, 600, (255, 0, 255), alpha=0)
    image[300:600, 200:400] = (40, 200, 90, 255)

    small = reduce_rgba(image, 90)

    assert small.shape == (90, 60, 4)
    assert np.array_equal(small[35:55, 25:35], np.full((20, 10, 4), (40, 200, 90, 255)))
    assert not small[:25].any()
    edge = small[small[:, :, 3] > 0].astype(int)
    assert np.abs(edge[:, :3] - (40, 200, 90)).max() <= 3
    assert reduce_rgba(image, 900) is image


@pytest.mark.parametrize("seed", range(3))
def test_a_photo_of_a_reduced_item_looks_as_of_the_item(seed):
    image = item(1200, 1200, (255, 0, 255), alpha=0)
    cv2.circle(image, (600, 600), 500, (30, 160, 220, 255), -1)

    assert np.abs(photo(reduce_rgba(image, 600), seed) - photo(image, seed)).mean() < 1.5
