import itertools
import shutil

import cv2
import numpy as np
import pytest

from imgsearch import UsageError, duplicates
from imgsearch.catalog.duplicates import _Search, _threshold
from imgsearch.catalog.same_picture import SAME, difference, portrait
from imgsearch.images.photo import open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.store.calibration import Calibration, Curve


def test_every_kind_of_duplicate_is_found_and_nothing_else(cared):
    found = duplicates(cared / "index")

    (group,) = found.groups
    assert sorted((item.path, item.how) for item in group.items) == [
        ("fish/fish-01.png", "kept"),
        ("more/cropped.png", "near"),
        ("more/equal.png", "equal"),
        ("more/mirrored.jpg", "mirrored"),
        ("more/smaller.png", "near"),
    ]
    assert group.products_differ
    assert found.unverified == 0


def test_the_one_with_the_most_pixels_is_kept(cared):
    (group,) = duplicates(cared / "index").groups

    kept, *others = [item.width * item.height for item in group.items]
    assert kept > 0
    assert kept >= max(others)


def test_equal_files_are_found_where_no_image_can_be_read(own):
    folder = own()
    shutil.rmtree(folder / "catalog")

    found = duplicates(folder / "index")

    assert [[item.path for item in group.items] for group in found.groups] == [["fish/fish-01.png", "more/equal.png"]]
    assert found.unverified == found.candidates > 0


def test_pairs_below_the_minimum_are_not_compared(cared):
    (group,) = duplicates(cared / "index", min_score=0.999).groups

    paths = {item.path for item in group.items}
    assert {"fish/fish-01.png", "more/equal.png"} <= paths
    assert "more/mirrored.jpg" not in paths


def test_the_nearest_are_compared_with_any_score_unless_a_minimum_is_given(cared, monkeypatch):
    monkeypatch.setattr("imgsearch.catalog.duplicates._threshold", lambda calibration: 1.0)

    by_default, by_minimum = (duplicates(cared / "index", min_score=least) for least in (None, 1))

    assert by_default.candidates > by_minimum.candidates
    assert {"more/cropped.png", "more/smaller.png"} <= {item.path for item in by_default.groups[0].items}


@pytest.mark.parametrize("score", [-1.1, 1.1, float("nan")])
def test_a_minimum_that_is_no_cosine_is_refused(cared, score):
    with pytest.raises(UsageError, match="min_score"):
        duplicates(cared / "index", min_score=score)


@pytest.mark.parametrize(
    ("scores", "probabilities", "expected"),
    [((0.0, 1.0), (0.0, 1.0), 0.8), ((0.2, 0.4), (0.9, 1.0), 0.2), ((0.2, 0.4), (0.1, 0.2), 0.4)],
)
def test_the_calibration_says_which_pairs_are_compared(scores, probabilities, expected):
    curve = Curve("platt", scores, probabilities)

    assert _threshold(Calibration("product", 10, 0.0, curve, curve)) == pytest.approx(expected)


def test_a_long_chain_of_likenesses_is_followed_once_and_falls_into_groups_of_what_is_alike():
    length = 60  # pairs; each image of a pair is like both of the next one: there are 2 ** 59 ways through them
    linked = {
        row: {other for other in range(2 * length) if abs(other // 2 - row // 2) == 1} for row in range(2 * length)
    }
    search = object.__new__(_Search)
    search._sizes, search._bytes = {}, [0] * 2 * length
    search._alike = lambda first, second: "near" if abs(first // 2 - second // 2) == 1 else ""

    found = dict(search._stars(linked, set()))

    assert found[0] == [2, 3]
    assert all(other in linked[kept] for kept, others in found.items() for other in others)
    assert len({row for kept, others in found.items() for row in (kept, *others)}) == len(found) + sum(
        map(len, found.values())
    )


def pixels(folder, name):
    return open_photo((folder / "catalog" / name).read_bytes(), FilePolicy(), 240).pixels


def test_a_color_variant_is_another_picture(cared):
    image = pixels(cared, "fish/fish-01.png")

    assert difference(portrait(image), portrait(np.ascontiguousarray(image[:, :, ::-1]))) > SAME


@pytest.mark.parametrize("color", [(40, 160, 60), (0, 0, 0), (250, 220, 10)])
def test_another_background_is_the_same_picture(cared, color):
    image = pixels(cared, "fish/fish-01.png")
    background = image[0, 0].astype(int)
    is_background = (np.abs(image.astype(int) - background).max(axis=2) <= 8)[:, :, None]

    assert difference(portrait(image), portrait(np.where(is_background, np.uint8(color), image))) <= SAME


def test_a_thin_item_is_found_where_cropping_moved_it_by_more_than_its_width():
    image = np.full((78, 100, 3), 255, np.uint8)
    for start, end in (((6, 71), (92, 6)), ((92, 6), (96, 12)), ((86, 11), (90, 17))):
        cv2.line(image, start, end, (40, 40, 40), 2, cv2.LINE_AA)
    cv2.circle(image, (6, 71), 5, (40, 40, 40), 2, cv2.LINE_AA)

    assert difference(portrait(image), portrait(image[:74, :95])) <= SAME
    assert difference(portrait(image), portrait(np.ascontiguousarray(image[:, ::-1]))) > SAME


def note(background):
    """Draw a note, 51 x 17 pixels, one corner of which is nearly background."""
    image = np.full((51, 17, 3), background, np.uint8)
    image[:, 0] = np.multiply(background, 0.1)
    image[:, 1:3] = 0
    cv2.ellipse(image, (9, 6), (6, 5), 0, 0, 360, (0, 0, 0), 2, cv2.LINE_AA)
    image[-1, 0] = image[0, 0] = np.multiply(background, 0.93)
    return image


def test_the_color_of_a_background_is_not_that_of_one_pixel_in_a_corner():
    white, brown = (portrait(note(color)) for color in ((255, 255, 255), (180, 120, 10)))

    assert white.background is not None
    assert white.background[0] == 255
    assert difference(white, brown) <= 1


def test_a_background_may_be_seen_in_the_corners_only():
    item = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8).repeat(10, axis=0).repeat(10, axis=1)
    corners = [slice(0, 6), slice(-6, None)]
    images = []
    for color in (255, 40):
        image = item.copy()
        for rows, columns in itertools.product(corners, corners):
            image[rows, columns] = color
        images.append(portrait(image))

    assert difference(*images) <= SAME


def test_images_of_one_color_and_of_one_pixel_are_compared(cared):
    white, black = (np.full((9, 9, 3), level, np.uint8) for level in (255, 0))
    point = np.full((1, 1, 3), 7, np.uint8)

    assert difference(portrait(white), portrait(white)) <= SAME
    assert np.isfinite(difference(portrait(point), portrait(point)))
    assert difference(portrait(pixels(cared, "fish/fish-01.png")), portrait(black)) > SAME
