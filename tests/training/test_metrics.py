import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.images.boxes import Box
from imgsearch.regions.detections import Detection
from imgsearch.training.detector.metrics import average_precision, recall_of_boxes

ITEM = Box(10, 20, 30, 40)
OTHER = Box(60, 20, 30, 40)
NOTHING = Box(200, 200, 10, 10)


def test_a_perfect_detector_has_a_precision_of_one():
    images = [([Detection(ITEM, 0.9), Detection(OTHER, 0.3)], [OTHER, ITEM]), ([], [])]

    assert average_precision(images) == 1
    assert recall_of_boxes(images) == 1


def test_boxes_on_nothing_cost_precision_only_where_they_are_surer_than_others():
    before = [([Detection(NOTHING, 0.95), Detection(ITEM, 0.9)], [ITEM])]
    after = [([Detection(NOTHING, 0.5), Detection(ITEM, 0.9)], [ITEM])]

    assert average_precision(before) == 0.5
    assert average_precision(after) == 1


def test_a_second_box_on_an_item_is_wrong():
    twice = [([Detection(ITEM, 0.9), Detection(ITEM, 0.8), Detection(OTHER, 0.7)], [ITEM, OTHER])]

    assert average_precision(twice) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_recall_counts_the_surest_boxes_of_each_image():
    image = [([Detection(NOTHING, 0.9), Detection(ITEM, 0.8)], [ITEM, OTHER])]

    assert recall_of_boxes(image, 1) == 0
    assert recall_of_boxes(image, 2) == 0.5


def test_a_detector_that_finds_nothing_is_right_only_where_nothing_is():
    assert average_precision([([], [])]) == 1
    assert average_precision([([], [ITEM])]) == 0
    assert average_precision([([Detection(ITEM, 0.9)], [])]) == 0
    assert recall_of_boxes([([], [])]) == 1


@given(st.lists(st.tuples(st.sampled_from([ITEM, OTHER, NOTHING]), st.floats(0, 1)), max_size=8))
def test_both_figures_are_shares(said):
    images = [([Detection(box, score) for box, score in said], [ITEM, OTHER])]

    assert 0 <= average_precision(images) <= recall_of_boxes(images, len(said)) <= 1
