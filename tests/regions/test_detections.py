import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsearch.images.boxes import Box, overlaps
from imgsearch.regions.detections import MAX_BOXES, decode_detections


def one(left: float, top: float, right: float, bottom: float, width: int, height: int) -> Box:
    boxes = np.array([[left, top, right, bottom]], np.float32)
    (detection,) = decode_detections(np.array([0.9], np.float32), boxes, width, height)
    return detection.box


def test_boxes_come_in_pixels_of_the_image_without_what_padding_added():
    assert one(0.25, 0.25, 0.75, 0.5, 400, 400) == Box(100, 100, 200, 100)
    assert one(0.25, 0.25, 0.75, 0.5, 400, 200) == Box(100, 0, 200, 100)
    assert one(0.25, 0.25, 0.75, 0.5, 200, 400) == Box(0, 100, 200, 100)
    assert one(0.0, 0.0, 1.0, 1.0, 20, 400) == Box(0, 0, 20, 400)


def test_a_box_that_lies_on_the_padding_alone_is_no_item():
    boxes = np.array([[0.1, 0.05, 0.9, 0.2]], np.float32)

    assert decode_detections(np.array([0.9], np.float32), boxes, 400, 200) == []


def test_of_boxes_around_one_item_the_surest_is_kept():
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.11, 0.1, 0.41, 0.4], [0.6, 0.6, 0.9, 0.9]], np.float32)

    detections = decode_detections(np.array([0.6, 0.8, 0.7], np.float32), boxes, 100, 100)

    assert [detection.score for detection in detections] == pytest.approx([0.8, 0.7])
    assert detections[0].box.x == 11


def test_what_is_not_sure_enough_is_passed_over():
    boxes = np.array([[0.1, 0.1, 0.4, 0.4]], np.float32)
    scores = np.array([0.2], np.float32)

    assert decode_detections(scores, boxes, 100, 100) == []
    assert len(decode_detections(scores, boxes, 100, 100, least_score=0.1)) == 1


def test_no_more_boxes_come_than_asked_for_and_never_more_than_two_hundred():
    middles = np.stack(np.meshgrid(np.arange(20), np.arange(20)), axis=-1).reshape(-1, 2) / 20
    boxes = np.concatenate([middles, middles + 0.04], axis=1).astype(np.float32)
    scores = np.full(len(boxes), 0.5, np.float32)

    assert len(decode_detections(scores, boxes, 1000, 1000)) == MAX_BOXES
    assert len(decode_detections(scores, boxes, 1000, 1000, most=3)) == 3


@given(
    arrays(np.float32, 40, elements=st.floats(width=32)),
    arrays(np.float32, (40, 4), elements=st.floats(width=32)),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_whatever_a_detector_says_boxes_lie_in_the_image(scores, boxes, width, height):
    detections = decode_detections(scores, boxes, width, height, least_score=0.0)

    assert [detection.score for detection in detections] == sorted((each.score for each in detections), reverse=True)
    for detection in detections:
        box = detection.box
        assert 0 <= detection.score <= 1
        assert min(box.x, box.y) >= 0
        assert min(box.width, box.height) >= 1
        assert box.x + box.width <= width
        assert box.y + box.height <= height


@given(
    arrays(np.float32, 60, elements=st.floats(0, 1, width=32)),
    arrays(np.float32, (60, 2), elements=st.floats(0, 0.75, width=32)),
)
def test_boxes_that_are_kept_overlap_little(scores, starts):
    boxes = np.concatenate([starts, starts + np.float32(0.25)], axis=1)

    detections = decode_detections(scores, boxes, 1000, 1000, least_score=0.0)

    shared = overlaps([each.box for each in detections], [each.box for each in detections])
    assert np.all(shared[~np.eye(len(shared), dtype=bool)] < 0.52)  # edges are rounded to pixels
