import cv2
import numpy as np
import pytest

from drawn_catalog import draw_catalog
from imgsearch.errors import ImageError
from imgsearch.images.foreground import foreground
from imgsearch.images.policy import FilePolicy
from imgsearch.synthetic.backgrounds import draw_background, enlarge_part
from imgsearch.synthetic.item_worker import LONGEST, NO_ITEM, cut_out
from imgsearch.synthetic.scenes import Stock, make_example

SIZE, CELLS = 96, 24


def png(pixels: np.ndarray) -> bytes:
    order = cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR
    return cv2.imencode(".png", cv2.cvtColor(pixels, order))[1].tobytes()


def stock_of(folder, count: int) -> Stock:
    items = np.zeros((count, LONGEST, LONGEST, 4), np.uint8)
    sides = np.zeros((count, 2), np.int64)
    for row, file in enumerate(draw_catalog(folder, per_kind=1)[:count]):
        item = cut_out(file.read_bytes(), FilePolicy())
        sides[row] = item.shape[:2]
        items[row, : item.shape[0], : item.shape[1]] = item
    nothing = np.zeros((0, 8, 8, 3), np.uint8)
    return Stock(items, sides, nothing, np.arange(count), np.arange(0))


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Stock:
    return stock_of(tmp_path_factory.mktemp("drawn"), 10)


@pytest.fixture(scope="module")
def examples(stock):
    return [make_example(stock, SIZE, CELLS, np.random.default_rng([3, number])) for number in range(150)]


def test_an_item_is_cut_out_by_its_transparency_and_has_no_border():
    image = np.zeros((100, 120, 4), np.uint8)
    image[20:60, 30:100] = (200, 30, 30, 255)

    item = cut_out(png(image), FilePolicy())

    assert item.shape == (40, 70, 4)
    assert np.all(item[:, :, 3] == 255)


def test_an_item_is_cut_out_of_a_plain_background():
    image = np.full((300, 300, 3), 255, np.uint8)
    cv2.circle(image, (150, 150), 70, (30, 90, 200), -1)

    item = cut_out(png(image), FilePolicy())

    assert np.allclose(item.shape[:2], 141, atol=6)
    assert item[0, 0, 3] < 30
    assert item[70, 70].tolist() == [30, 90, 200, 255]
    assert np.mean(item[:, :, 3] > 127) == pytest.approx(np.pi / 4, abs=0.06)


def test_an_image_of_which_nothing_stands_out_is_an_item_as_a_whole():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)

    item = cut_out(png(noise), FilePolicy())

    assert foreground(cv2.resize(noise, (128, 128))).all()
    assert item.shape == (171, LONGEST, 4)
    assert item[:, :, 3].min() == 255


@pytest.mark.parametrize("side", [0, 4])
def test_what_is_tiny_or_transparent_is_no_item(side):
    image = np.zeros((100, 100, 4), np.uint8)
    image[:side, :side] = 255

    with pytest.raises(ImageError) as refusal:
        cut_out(png(image), FilePolicy())

    assert refusal.value.cause == NO_ITEM


def test_the_same_seed_gives_the_same_scene(stock, examples):
    again = make_example(stock, SIZE, CELLS, np.random.default_rng([3, 7]))

    assert np.array_equal(again.square, examples[7].square)
    assert np.array_equal(again.boxes, examples[7].boxes)
    assert np.array_equal(again.mask, examples[7].mask)
    assert not np.array_equal(again.square, examples[8].square)


def test_boxes_and_mask_say_where_items_are(examples):
    for each in examples:
        assert each.square.shape == (SIZE, SIZE, 3)
        assert each.mask.shape == (CELLS, CELLS)
        assert each.boxes.dtype == each.mask.dtype == np.float32
        assert np.all((each.boxes >= 0) & (each.boxes <= 1))
        assert np.all(each.boxes[:, 2:] > each.boxes[:, :2])
        inside = np.zeros((CELLS, CELLS), np.bool_)
        for left, top, right, bottom in each.boxes * CELLS:
            inside[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = True
        assert each.mask[~inside].max(initial=0) < 0.6  # soft edges may reach out of a box
        assert bool(each.mask.max() > 0.05) == bool(len(each.boxes))


def test_scenes_have_none_to_five_items_small_and_large(examples):
    counts = [len(each.boxes) for each in examples]
    longest = np.concatenate([(each.boxes[:, 2:] - each.boxes[:, :2]).max(axis=1) for each in examples])

    assert set(counts) == set(range(6))
    assert 0 < np.mean(np.array(counts) == 0) < 0.15
    assert np.mean(longest < 0.2) > 0.1
    assert np.mean(longest > 0.5) > 0.05
    five_small = [
        each for each in examples if len(each.boxes) == 5 and (each.boxes[:, 2:] - each.boxes[:, :2]).max() < 0.35
    ]
    assert five_small


def test_a_third_of_the_scenes_is_padded_with_white_as_photos_are(examples):
    padded = [each for each in examples if (each.square[0] == 255).all() or (each.square[:, 0] == 255).all()]

    assert 0.15 < len(padded) / len(examples) < 0.5


def test_items_and_backgrounds_that_are_held_out_are_in_no_other_scene(stock):
    kept, held_out = stock.split(0.2, seed=1)

    assert len(held_out.item_rows) == 2
    assert sorted([*kept.item_rows, *held_out.item_rows]) == list(range(10))
    assert len(held_out.background_rows) == 0


def test_the_users_backgrounds_are_used_where_there_are_some(stock):
    backgrounds = np.full((2, 64, 64, 3), (10, 200, 10), np.uint8)
    own = Stock(stock.items, stock.sides, backgrounds, stock.item_rows, np.arange(2))
    scenes = [make_example(own, SIZE, CELLS, np.random.default_rng([4, number])) for number in range(40)]
    is_green = [np.median(each.square[:, :, 1].astype(int) - each.square[:, :, 0]) > 80 for each in scenes]

    assert 0.35 < np.mean(is_green) < 0.8


@pytest.mark.parametrize("frame", [(64, 64), (40, 97), (97, 40), (3, 5)])
def test_backgrounds_have_the_size_that_was_asked_for_and_differ(stock, frame):
    drawn = [draw_background(frame, np.random.default_rng([5, number])) for number in range(40)]
    parts = [enlarge_part(stock.item(number), frame, np.random.default_rng(number)) for number in range(10)]

    assert {each.shape for each in (*drawn, *parts)} == {(*frame, 3)}
    assert {each.dtype for each in (*drawn, *parts)} == {np.dtype(np.uint8)}
    assert len({each.tobytes() for each in drawn}) == len(drawn)
