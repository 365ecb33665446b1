import cv2
import numpy as np
import pytest

from imgsearch.images.boxes import Box, overlaps, stretched
from imgsearch.regions.salience import SIDE, salience, salient_box


def colors(image, side=28):
    """The simplest feature map there is."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)


def background(seed, height=280, width=280):
    """An uneven background of blues and greens."""
    coarse = np.random.default_rng(seed).integers((0, 90, 110), (50, 170, 200), (9, 9, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def with_item(image, box):
    """Checks in red and yellow."""
    image = image.copy()
    rows, columns = np.mgrid[: box.height, : box.width] // 12
    checks = np.where(((rows + columns) % 2)[..., None], (230, 200, 20), (210, 20, 30))
    image[box.y : box.y + box.height, box.x : box.x + box.width] = checks
    return image


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("box", [Box(80, 90, 120, 100), Box(20, 30, 90, 90), Box(150, 100, 70, 150)], ids=str)
def test_an_item_on_an_uneven_background_is_salient_and_its_box_covers_it(box, seed):
    plane = salience(colors(with_item(background(seed), box)))

    found = stretched(salient_box(plane), (SIDE, SIDE), (280, 280))
    inside = np.zeros((SIDE, SIDE), np.bool_)
    cells = stretched(box, (280, 280), (SIDE, SIDE))
    inside[cells.y : cells.y + cells.height, cells.x : cells.x + cells.width] = True
    assert plane[inside].mean() > 3 * plane[~inside].mean()
    assert overlaps([found], [box])[0, 0] > 0.6


def test_a_plane_is_zero_where_it_is_least_and_one_is_passed_by_three_cells_in_a_hundred():
    plane = salience(colors(with_item(background(0), Box(80, 90, 120, 100))))

    assert plane.shape == (SIDE, SIDE)
    assert plane.dtype == np.float32
    assert plane.min() == 0
    assert (plane > 1.0001).mean() <= 0.031


@pytest.mark.parametrize("shape", [(14, 14, 40), (7, 7, 5), (4, 4, 1), (4, 28, 3)])
def test_a_map_of_any_shape_is_stretched_over_the_photo(shape):
    features = np.zeros(shape, np.float32)
    features[shape[0] // 2 - 1 : shape[0] // 2 + 1, shape[1] // 2 - 1 : shape[1] // 2 + 1] = 5

    plane = salience(features)

    assert plane.shape == (SIDE, SIDE)
    assert plane[SIDE // 2 - 1, SIDE // 2 - 1] > 0.5 > plane[0, 0]


@pytest.mark.parametrize("value", [0, 7.5, -3, 1e6])
def test_where_nothing_differs_nothing_is_salient(value):
    assert salience(np.full((14, 14, 8), value, np.float32)) is None


@pytest.mark.parametrize("shape", [(1, 1, 8), (3, 14, 8), (14, 3, 8), (1, 500, 3), (0, 0, 4)])
def test_a_map_of_less_than_four_cells_a_side_says_nothing(shape):
    assert salience(np.random.default_rng(0).random(shape)) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("place", [(0, 0), (6, 6)], ids=["edge", "middle"])
@pytest.mark.parametrize("share", ["one", "row", "all"])
def test_what_is_no_number_says_nothing_and_nothing_loudly(value, place, share):
    features = np.random.default_rng(0).random((14, 14, 8)).astype(np.float32)
    features[{"one": place, "row": place[0], "all": slice(None)}[share]] = value

    plane = salience(features)

    assert plane is None or np.isfinite(plane).all()


def test_half_precision_says_what_single_says():
    features = np.random.default_rng(0).random((14, 14, 8)).astype(np.float16)

    assert np.allclose(salience(features), salience(features.astype(np.float32)), atol=1e-3)


def test_the_box_lies_in_the_plane_and_is_not_tiny_whatever_the_plane():
    generator = np.random.default_rng(0)
    planes = [generator.random((SIDE, SIDE)) ** power for power in (0.2, 1, 5, 30)]
    planes += [np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE)), np.eye(SIDE)]
    for plane in planes:
        box = salient_box(plane.astype(np.float32))
        assert box.x >= 0
        assert box.y >= 0
        assert 3 <= box.width <= SIDE - box.x
        assert 3 <= box.height <= SIDE - box.y


def test_the_box_of_what_is_salient_all_over_is_all_and_of_one_block_that_block():
    assert salient_box(np.ones((SIDE, SIDE), np.float32)) == Box(0, 0, SIDE, SIDE)
    for block in (Box(4, 7, 9, 5), Box(0, 0, 3, 3), Box(25, 25, 3, 3), Box(0, 10, SIDE, 4)):
        plane = np.zeros((SIDE, SIDE), np.float32)
        plane[block.y : block.y + block.height, block.x : block.x + block.width] = 1
        assert salient_box(plane) == block


def test_the_box_is_the_one_of_the_greatest_sum():
    generator = np.random.default_rng(1)
    for _ in range(3):
        plane = cv2.resize(generator.random((6, 6)), (SIDE, SIDE)).astype(np.float32)
        sums = np.zeros((SIDE + 1, SIDE + 1))
        sums[1:, 1:] = (plane - 0.68).cumsum(0).cumsum(1)
        best = max(
            sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            for top in range(SIDE - 2)
            for bottom in range(top + 3, SIDE + 1)
            for left in range(SIDE - 2)
            for right in range(left + 3, SIDE + 1)
        )
        box = salient_box(plane)
        found = (plane[box.y : box.y + box.height, box.x : box.x + box.width].astype(np.float64) - 0.68).sum()
        assert found == pytest.approx(best, abs=1e-3)
