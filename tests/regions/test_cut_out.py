import cv2
import numpy as np
import pytest

from imgsearch.images.boxes import Box, overlaps
from imgsearch.regions.cut_out import crop, cut_out, on_white

ANYWHERE = np.ones((1, 1), np.float32)
BOX = Box(100, 80, 160, 120)


def scene(height=300, width=400, box=BOX, seed=0):
    """A red ellipse in a box, on an uneven background of blues and greens."""
    coarse = np.random.default_rng(seed).integers((0, 90, 110), (50, 170, 200), (7, 7, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    middle = box.x + box.width // 2, box.y + box.height // 2
    cv2.ellipse(image, middle, (box.width // 2, box.height // 2), 0, 0, 360, (200, 30, 40), -1)
    return image


@pytest.mark.parametrize("seed", range(3))
def test_an_item_is_shown_on_white_and_its_background_is_not(seed):
    found = cut_out(scene(seed=seed), BOX, ANYWHERE)

    assert found.pixels.dtype == np.uint8
    assert found.pixels.shape == (found.box.height, found.box.width, 3)
    assert overlaps([found.box], [BOX])[0, 0] > 0.85
    assert (found.pixels[:4, :4] == 255).all()
    assert (found.pixels[-4:, -4:] == 255).all()
    middle = found.pixels[found.box.height // 2, found.box.width // 2]
    assert middle[0] > 190
    assert middle[1:].max() < 50
    rows, columns = np.mgrid[: found.box.height, : found.box.width]
    is_item = ((rows + found.box.y - 140) / 60) ** 2 + ((columns + found.box.x - 180) / 80) ** 2
    assert (found.pixels[is_item > 1.3] == 255).mean() > 0.97
    assert (found.pixels[is_item < 0.8] == (200, 30, 40)).mean() > 0.97


def test_a_box_that_is_somewhat_off_is_put_right():
    found = cut_out(scene(), Box(125, 70, 150, 125), ANYWHERE)

    assert overlaps([found.box], [BOX])[0, 0] > 0.85


def test_the_same_image_gives_the_same_bytes_whatever_chance_was_used_before():
    answers = []
    for seed in (0, 1, 99):
        cv2.setRNGSeed(seed)
        answers.append(cut_out(scene(), BOX, ANYWHERE).pixels.tobytes())

    assert answers[0] == answers[1] == answers[2]


def test_the_photo_is_not_changed():
    photo = scene()
    before = photo.copy()

    cut_out(photo, BOX, ANYWHERE)

    assert (photo == before).all()


def test_where_nothing_is_likely_nothing_is_cut_out():
    assert cut_out(scene(), BOX, np.zeros((28, 28), np.float32)) is None
    assert cut_out(scene(), BOX, np.full((28, 28), np.nan, np.float32)) is None


def test_a_box_of_all_of_the_photo_leaves_too_little_background_only_where_there_is_none():
    photo = scene(box=Box(40, 30, 320, 240))

    found = cut_out(photo, Box(0, 0, 400, 300), ANYWHERE)

    assert found is None or (found.pixels.shape[0] <= 300 and found.pixels.shape[1] <= 400)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (1, 500), (500, 1), (2, 900), (3, 3), (5, 5), (50, 1000), (1000, 50)])
@pytest.mark.parametrize("kind", ["even", "noise"])
def test_odd_photos_are_answered(size, kind):
    height, width = size
    photo = np.full((height, width, 3), 90, np.uint8)
    if kind == "noise":
        photo = np.random.default_rng(0).integers(0, 256, photo.shape, np.uint8)
    boxes = [
        Box(0, 0, width, height),
        Box(width // 2, height // 2, 1, 1),
        Box(0, 0, (width + 1) // 2, (height + 1) // 2),
    ]
    for box in boxes:
        for proposal in (ANYWHERE, np.random.default_rng(1).random((28, 28)).astype(np.float32)):
            found = cut_out(photo, box, proposal)
            if found is not None:
                assert found.box.x + found.box.width <= width
                assert found.box.y + found.box.height <= height
                assert found.pixels.shape == (found.box.height, found.box.width, 3)


def test_one_color_cannot_be_told_from_itself_and_is_answered_all_the_same():
    photo = np.full((200, 200, 3), 255, np.uint8)

    found = cut_out(photo, Box(50, 50, 100, 100), ANYWHERE)

    assert found is None or (found.pixels == 255).all()


def test_dirt_is_no_part_of_an_item():
    photo = scene()
    cv2.circle(photo, (110, 90), 4, (200, 30, 40), -1)

    found = cut_out(photo, BOX, ANYWHERE)

    speck = found.pixels[90 - found.box.y, 110 - found.box.x] if found.box.y <= 90 and found.box.x <= 110 else 255
    assert (np.asarray(speck) > 200).all()


def test_white_is_put_where_an_image_is_clear():
    image = np.full((2, 3, 3), 100, np.uint8)
    opacity = np.array([[0, 0.5, 1], [1, 1, 0]], np.float32)

    shown = on_white(image, opacity)

    assert shown[:, :, 0].tolist() == [[255, 178, 100], [100, 100, 255]]
    assert shown.dtype == np.uint8


def test_a_crop_is_what_lies_in_the_box():
    plane = np.arange(20).reshape(4, 5)

    assert crop(plane, Box(1, 2, 3, 1)).tolist() == [[11, 12, 13]]
