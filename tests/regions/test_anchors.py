import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsearch.images.boxes import overlaps_of_corners
from imgsearch.regions.anchors import (
    ANCHORS_OF_A_CELL,
    BACKGROUND,
    ITEM,
    NEITHER,
    STRIDES,
    anchor_boxes,
    cells,
    match_anchors,
)

SIZE = 224
ANCHORS = anchor_boxes(SIZE)
FEW = anchor_boxes(96)


def boxes(most: int = 5):
    """Boxes with an area, as shares of a square."""
    corners = arrays(np.float32, st.tuples(st.integers(1, most), st.just(4)), elements=st.floats(0, 0.5, width=32))
    return corners.map(lambda each: np.concatenate([each[:, :2], each[:, :2] + each[:, 2:] + np.float32(0.05)], axis=1))


def test_every_cell_of_every_map_has_its_anchors_around_its_middle():
    count = sum(cells(SIZE, stride) ** 2 for stride in STRIDES) * ANCHORS_OF_A_CELL
    middles = (ANCHORS[:, :2] + ANCHORS[:, 2:]) / 2 * SIZE

    assert ANCHORS.shape == (count, 4)
    assert np.allclose(middles[:ANCHORS_OF_A_CELL], 4)
    assert np.allclose(middles[ANCHORS_OF_A_CELL : 2 * ANCHORS_OF_A_CELL], (12, 4))
    assert np.allclose(middles[-1], SIZE - 16)


@pytest.mark.parametrize("side", [0.1, 0.2, 0.4, 0.8])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_items_of_all_sizes_have_an_anchor_that_is_like_them(side, ratio):
    width, height = side * np.sqrt(ratio), side / np.sqrt(ratio)
    item = np.array([[0.52 - width / 2, 0.47 - height / 2, 0.52 + width / 2, 0.47 + height / 2]], np.float32)

    assert overlaps_of_corners(ANCHORS, item).max() > 0.5


@given(boxes())
def test_every_item_has_an_anchor_that_stands_for_it(items):
    kinds, nearest = match_anchors(FEW, items)
    best = overlaps_of_corners(FEW, items).argmax(axis=0)

    assert set(np.unique(kinds)) <= {ITEM, BACKGROUND, NEITHER}
    assert np.all(kinds[best] == ITEM)
    if len(set(best)) == len(items):
        assert set(nearest[kinds == ITEM]) == set(range(len(items)))


@given(boxes())
def test_what_hardly_overlaps_with_anything_is_background(items):
    kinds, _ = match_anchors(FEW, items)
    most = overlaps_of_corners(FEW, items).max(axis=1)

    assert np.all(kinds[most >= 0.5] == ITEM)
    assert np.all(most[kinds == BACKGROUND] < 0.4)


def test_a_long_item_has_several_anchors_although_none_is_like_it():
    item = np.array([[0.1, 0.5, 0.9, 0.54]], np.float32)
    kinds, _ = match_anchors(ANCHORS, item)
    shared = overlaps_of_corners(ANCHORS, item)[:, 0]

    assert shared.max() < 0.4
    assert np.sum(kinds == ITEM) > 1
    assert np.all(shared[kinds == ITEM] >= 0.8 * shared.max())


def test_an_image_of_nothing_is_all_background():
    kinds, nearest = match_anchors(FEW, np.empty((0, 4), np.float32))

    assert np.all(kinds == BACKGROUND)
    assert not nearest.any()


@given(boxes(), boxes())
def test_overlap_is_symmetric_and_whole_only_with_itself(first, second):
    shared = overlaps_of_corners(first, second)

    assert np.all((shared >= 0) & (shared <= 1 + 1e-6))
    assert np.allclose(shared, overlaps_of_corners(second, first).T, atol=1e-6)
    assert np.allclose(np.diag(overlaps_of_corners(first, first)), 1, atol=1e-4)
