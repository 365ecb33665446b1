import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.boxes import Box, overlaps
from imgsearch.images.transform import fit
from imgsearch.regions.propose import (
    Proposal,
    connected_boxes,
    crop_and_cutout,
    propose_regions,
    propose_salient,
    without_padding,
)

FITS = ("pad", "crop", "stretch")
ODD = [(1, 1), (2, 2), (1, 500), (500, 1), (50, 1000), (1000, 50), (3, 7)]


def photo_of(height, width, box=None, seed=0):
    """An uneven background of blues and greens, and a red block on it."""
    coarse = np.random.default_rng(seed).integers((0, 90, 110), (50, 170, 200), (9, 9, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    if box:
        image[box.y : box.y + box.height, box.x : box.x + box.width] = (210, 30, 40)
    return image


def features_of(photo, how, cells=28):
    """The colors of the fitted square: a map as an encoder gives it."""
    square = fit(photo, 8 * cells, how)
    small = cv2.resize(square, (cells, cells), interpolation=cv2.INTER_AREA)
    return cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.float32)


def lies_in(box, photo):
    height, width = photo.shape[:2]
    return 0 <= box.x < box.x + box.width <= width and 0 <= box.y < box.y + box.height <= height


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize(
    ("size", "box"),
    [
        ((300, 400), Box(150, 90, 120, 110)),
        ((400, 300), Box(60, 180, 110, 130)),
        ((300, 300), Box(40, 40, 120, 120)),
        ((200, 700), Box(420, 50, 130, 100)),
    ],
    ids=["wide", "tall", "square", "long"],
)
def test_an_item_is_found_in_the_photos_own_pixels_however_it_was_fitted(how, size, box):
    photo = photo_of(*size, box)

    found = propose_salient(photo, features_of(photo, how), how)

    (guess,) = found.boxes
    assert lies_in(guess, photo)
    assert overlaps([guess], [box])[0, 0] > 0.5


@pytest.mark.parametrize("how", FITS)
def test_without_a_map_colors_have_to_do(how):
    box = Box(150, 90, 120, 110)

    (guess,) = propose_salient(photo_of(300, 400, box), None, how).boxes

    assert overlaps([guess], [box])[0, 0] > 0.5


@given(st.integers(1, 1200), st.integers(1, 1200), st.integers(4, 40))
@settings(deadline=None)
def test_what_a_map_shows_of_the_padding_is_left_out(height, width, cells):
    # As many pixels as the fitted square has: 1 where there is photo. Only cells that show nothing else may stay.
    shown = fit(np.zeros((height, width, 3), np.uint8), 8 * cells)[:, :, 0] == 0
    purity = shown.reshape(cells, 8, cells, 8).mean(axis=(1, 3))

    inner = without_padding(purity, (height, width), "pad")

    assert min(inner.shape) >= 1
    if min(height, width) * cells >= 2 * max(height, width):
        assert inner.min() >= 0.9  # a pixel of the photo's edge may be rounded away
    # What is left out is as much on either side, and not more than three cells of it are photo.
    assert inner.sum() >= (purity > 0.99).sum() - 2 * 3 * cells


@given(st.integers(1, 1200), st.integers(1, 1200), st.sampled_from([7, 14, 28]), st.sampled_from(["crop", "stretch"]))
def test_a_square_that_was_not_padded_is_left_as_it_is(height, width, cells, how):
    assert without_padding(np.ones((cells, cells)), (height, width), how).shape == (cells, cells)


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("color", [0, 128, 255])
def test_a_photo_of_one_color_has_nothing_salient(how, color):
    photo = np.full((200, 300, 3), color, np.uint8)

    assert propose_salient(photo, features_of(photo, how), how) is None


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize("size", ODD)
def test_odd_photos_have_boxes_within_or_none(how, size):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)

    for features in (features_of(photo, how), None):
        found = propose_salient(photo, features, how)
        assert found is None or all(lies_in(box, photo) for box in found.boxes)


def test_an_item_is_shown_as_it_stands_and_cut_out():
    box = Box(150, 90, 120, 110)
    photo = photo_of(300, 400, box)
    proposal = propose_salient(photo, None, "pad")

    as_it_stands, on_white = crop_and_cutout(photo, box, proposal.plane)

    assert as_it_stands.box == box
    assert (as_it_stands.pixels == (210, 30, 40)).all()
    assert overlaps([on_white.box], [box])[0, 0] > 0.8
    assert on_white.pixels.shape[:2] == (on_white.box.height, on_white.box.width)


def test_what_cannot_be_told_from_its_background_is_shown_once():
    photo = np.full((100, 100, 3), 128, np.uint8)

    assert len(list(crop_and_cutout(photo, Box(20, 20, 50, 50), np.zeros((28, 28), np.float32)))) == 1


@given(
    st.integers(1, 200),
    st.sampled_from([(120, 160), (160, 120), *ODD]),
    st.lists(st.tuples(*[st.floats(0, 1)] * 4), max_size=6),
)
@settings(deadline=None, max_examples=40)
def test_there_are_never_more_regions_than_were_asked_for_and_all_lie_in_the_photo(count, size, places):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    height, width = size
    boxes = [Box(int(x * (width - 1)), int(y * (height - 1)), 1, 1) for x, y, _, _ in places]
    boxes = [
        Box(b.x, b.y, 1 + int(w * (width - b.x - 1)), 1 + int(h * (height - b.y - 1)))
        for b, (_, _, w, h) in zip(boxes, places, strict=True)
    ]
    proposal = Proposal(np.ones((28, 28), np.float32), boxes) if boxes else None

    regions = propose_regions(photo, proposal, count)

    assert 1 <= len(regions) <= count
    for region in regions:
        assert lies_in(region.box, photo)
        assert region.pixels.shape == (region.box.height, region.box.width, 3)


def test_windows_that_show_the_same_come_once():
    regions = propose_regions(photo_of(300, 400), None, 200)

    shared = overlaps([region.box for region in regions], [region.box for region in regions]) - np.eye(len(regions))
    assert shared.max() <= 0.7
    assert len(regions) > 10


def test_more_regions_begin_with_those_of_fewer():
    photo = photo_of(300, 400, Box(150, 90, 120, 110))
    proposal = propose_salient(photo, None, "pad")

    few, many = ([region.box for region in propose_regions(photo, proposal, count)] for count in (3, 12))

    assert many[:3] == few
    assert len(many) == 12


def test_parts_are_apart_not_tiny_and_the_strongest_is_first():
    plane = np.zeros((28, 28), np.float32)
    plane[2:6, 3:8] = 0.8
    plane[10:20, 10:20] = 0.9
    plane[25, 25] = 1

    found = connected_boxes(plane, 0.5, (280, 560))

    assert found == [Box(200, 100, 200, 100), Box(60, 20, 100, 40)]
    assert connected_boxes(plane, 0.95, (280, 560)) == []
    assert connected_boxes(np.full((28, 28), np.nan, np.float32), 0.5, (280, 560)) == []


def test_a_plane_that_is_strong_all_over_is_one_part():
    assert connected_boxes(np.ones((5, 9), np.float32), 0.5, (100, 300)) == [Box(0, 0, 300, 100)]


@pytest.mark.parametrize("how", FITS)
@pytest.mark.parametrize(("height", "width"), [(300, 400), (50, 1000), (61, 43)])
def test_guesses_are_a_box_that_is_no_larger_and_the_middle_and_lie_in_the_photo(how, height, width):
    photo = photo_of(height, width, Box(width // 3, height // 4, width // 4, height // 3))

    found = propose_salient(photo, features_of(photo, how), how)

    tight, middle = found.guesses
    assert lies_in(tight, photo)
    assert lies_in(middle, photo)
    assert tight.area <= found.boxes[0].area
    assert abs(2 * middle.x + middle.width - width) <= 1
    assert abs(2 * middle.y + middle.height - height) <= 1
