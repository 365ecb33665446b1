from dataclasses import replace

import numpy as np
import pytest

from imgsearch.images.boxes import overlaps
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.compose import Style, compose

STYLE = Style(sides=(0.3, 0.6))
# Nothing but where it stands and how large it is.
PLAIN = Style(sides=(0.4, 0.5), turn=0, perspective=0, covered=0)


@pytest.fixture(scope="module")
def items(drawn):
    return [decode_rgba(file.read_bytes()) for file in sorted(drawn.rglob("*-00.png"))[:6]]


@pytest.fixture(scope="module")
def background():
    return np.random.default_rng(7).integers(60, 200, (240, 320, 3), np.uint8)


def block(height=100, width=60):
    """An opaque block of one color."""
    return np.dstack([np.full((height, width, 3), (200, 30, 30), np.uint8), np.full((height, width), 255, np.uint8)])


def scenes(background, items, style, count=30):
    return [compose(background, items, style, np.random.default_rng(seed)) for seed in range(count)]


def test_the_same_generator_gives_the_same_bytes_and_another_gives_others(background, items):
    first, second, other = (compose(background, items[:3], STYLE, np.random.default_rng(seed)) for seed in (1, 1, 2))

    assert first.photo.tobytes() == second.photo.tobytes() != other.photo.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()
    assert first.boxes == second.boxes


def test_a_scene_is_as_large_as_its_background_which_is_not_changed(background, items):
    before = background.copy()

    scene = compose(background, items[:2], STYLE, np.random.default_rng(0))

    assert scene.photo.shape == background.shape
    assert scene.photo.dtype == np.uint8
    assert scene.mask.shape == background.shape[:2]
    assert scene.mask.dtype == np.float32
    assert (background == before).all()


@pytest.mark.parametrize("count", [1, 3, 5])
def test_boxes_hold_all_that_shows_of_the_items_and_lie_in_the_frame(background, items, count):
    for scene in scenes(background, items[:count], STYLE, 10):
        outside = scene.mask.copy()
        for box in scene.boxes:
            assert 0 <= box.x < box.x + box.width <= 320
            assert 0 <= box.y < box.y + box.height <= 240
            shows = scene.mask[box.y : box.y + box.height, box.x : box.x + box.width]
            for edge in (shows[0], shows[-1], shows[:, 0], shows[:, -1]):
                assert edge.max() > 0.49
            outside[box.y : box.y + box.height, box.x : box.x + box.width] = 0
        assert outside.max() <= 127 / 255 + 1e-6
        assert 0 <= scene.mask.min() <= scene.mask.max() <= 1


def test_an_item_is_as_large_as_the_style_says_and_keeps_its_proportions(background):
    for scene in scenes(background, [block()], PLAIN):
        (box,) = scene.boxes
        assert 0.4 * 240 - 2 <= box.height <= 0.5 * 240 + 2
        assert abs(box.width / box.height - 0.6) < 0.05


def test_the_sizes_of_a_style_are_all_used(background):
    heights = [scene.boxes[0].height for scene in scenes(background, [block()], replace(PLAIN, sides=(0.2, 0.8)), 60)]

    assert min(heights) < 0.3 * 240
    assert max(heights) > 0.7 * 240


def test_no_more_is_covered_than_the_style_says(background):
    areas = []
    for seed in range(40):
        # Chance is asked for the same in the same order, so that only the cover differs.
        whole, covered = (
            compose(background, [block()], replace(PLAIN, covered=share), np.random.default_rng(seed)).mask.sum()
            for share in (0.0, 0.3)
        )
        areas.append(covered / whole)

    assert min(areas) >= 0.7 - 0.03  # a row of an item of 48 is 2 %
    assert min(areas) < 0.8
    assert max(areas) <= 1


def test_items_seldom_stand_in_each_others_way(background, items):
    for scene in scenes(background, items[:4], Style(sides=(0.2, 0.4)), 10):
        shared = overlaps(scene.boxes, scene.boxes) - np.eye(len(scene.boxes))
        assert shared.max(initial=0) < 0.2


def test_what_finds_no_place_is_left_out(background):
    scene = compose(background, [block(90, 100)] * 20, Style(sides=(0.9, 0.95)), np.random.default_rng(0))

    assert 1 <= len(scene.boxes) < 5


def test_a_scene_without_items_is_its_background_and_no_box(background):
    scene = compose(background, [], STYLE, np.random.default_rng(0))

    assert scene.boxes == ()
    assert scene.mask.max() == 0
    assert scene.photo.shape == background.shape


def test_what_is_clear_all_over_is_no_item(background):
    clear = np.zeros((50, 50, 4), np.uint8)

    assert compose(background, [clear], STYLE, np.random.default_rng(0)).boxes == ()


@pytest.mark.parametrize("frame", [(1, 1), (2, 2), (1, 300), (300, 1), (20, 400)])
def test_small_and_long_frames_have_scenes_too(items, frame):
    scene = compose(np.full((*frame, 3), 90, np.uint8), items[:2], STYLE, np.random.default_rng(0))

    assert scene.photo.shape == (*frame, 3)
    assert all(box.x + box.width <= frame[1] and box.y + box.height <= frame[0] for box in scene.boxes)


def test_an_item_of_one_pixel_and_one_of_a_line_stand_in_scenes(background):
    for height, width in ((1, 1), (1, 200), (200, 1)):
        scene = compose(background, [block(height, width)], STYLE, np.random.default_rng(0))
        assert np.isfinite(scene.mask).all()
        assert scene.photo.shape == background.shape
