import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.images.boxes import Box, overlaps
from imgsearch.images.foreground import crop_foreground, has_plain_background, items_on_plain_background
from imgsearch.images.steps import Steps
from imgsearch.images.transform import (
    binarize,
    denoise,
    equalize,
    fit,
    grayscale,
    reduce,
    rotate,
)

DESKEW = Steps(deskew=True)


def flat(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    image = np.empty((height, width, 3), np.uint8)
    image[:] = color
    return image


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.sampled_from([1, 7, 64, 224]),
    st.sampled_from(["pad", "crop", "stretch"]),
)
def test_every_shape_of_image_becomes_a_square(height, width, size, how):
    square = fit(noise(height, width), size, how)

    assert (square.shape, square.dtype) == ((size, size, 3), np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 400),
    st.integers(1, 400),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.sampled_from(["crop", "stretch"]),
)
def test_an_image_of_one_color_stays_of_one_color(height, width, color, how):
    assert np.array_equal(fit(flat(height, width, color), 50, how), flat(50, 50, color))


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_a_square_of_the_right_size_is_not_touched(how):
    image = noise(64, 64)

    assert np.array_equal(fit(image, 64, how), image)


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_the_image_that_was_given_is_not_changed(how):
    image = noise(30, 50)
    before = image.copy()

    fit(image, 40, how)[:] = 0

    assert np.array_equal(image, before)


def test_pad_is_the_default():
    assert np.array_equal(fit(noise(30, 60), 40), fit(noise(30, 60), 40, "pad"))


@pytest.mark.parametrize(("height", "width"), [(100, 200), (200, 100), (50, 150), (300, 290), (10, 30)])
def test_pad_keeps_proportions_and_shows_all_of_the_image_in_the_middle(height, width):
    size = 120
    image = flat(height, width, (255, 255, 255))
    frame = max(1, min(height, width) // 10)
    image[frame:-frame, frame:-frame] = (0, 0, 0)

    square = fit(image, size, "pad")

    inner = np.argwhere(square[:, :, 0] < 128)
    (top, left), (bottom, right) = inner.min(axis=0), inner.max(axis=0)
    scale = size / max(height, width)
    assert abs(bottom - top + 1 - (height - 2 * frame) * scale) <= 2
    assert abs(right - left + 1 - (width - 2 * frame) * scale) <= 2
    assert abs((top + bottom) - (size - 1)) <= 2
    assert abs((left + right) - (size - 1)) <= 2


@pytest.mark.parametrize(("height", "width"), [(60, 200), (200, 60), (1, 9), (99, 100)])
def test_pad_puts_the_image_on_white_and_continues_a_white_background(height, width):
    dark = fit(flat(height, width, (0, 0, 0)), 100, "pad")

    inner_height, inner_width = (max(1, round(side * 100 / max(height, width))) for side in (height, width))
    assert int((dark == 0).all(axis=2).sum()) == inner_height * inner_width
    assert int((dark == 255).all(axis=2).sum()) == 10_000 - inner_height * inner_width
    assert np.all(fit(flat(height, width, (255, 255, 255)), 100, "pad") == 255)


def test_crop_shows_the_middle_only():
    image = flat(100, 300, (255, 0, 0))
    image[:, 100:200] = (0, 255, 0)

    assert np.array_equal(fit(image, 50, "crop"), flat(50, 50, (0, 255, 0)))
    assert np.array_equal(fit(image.swapaxes(0, 1), 50, "crop"), flat(50, 50, (0, 255, 0)))


def test_crop_keeps_proportions():
    image = flat(100, 300, (255, 255, 255))
    cv2.circle(image, (150, 50), 40, (0, 0, 0), -1)

    inner = np.argwhere(fit(image, 200, "crop")[:, :, 0] < 128)

    height, width = inner.max(axis=0) - inner.min(axis=0)
    assert abs(height - width) <= 2
    assert abs(height - 160) <= 4


def test_stretch_fills_the_square_with_all_of_the_image():
    image = flat(50, 200, (255, 0, 0))
    image[:, 100:] = (0, 0, 255)

    square = fit(image, 100, "stretch")

    assert np.all(square[:, :48] == (255, 0, 0))
    assert np.all(square[:, 52:] == (0, 0, 255))


@pytest.mark.parametrize("how", ["pad", "crop", "stretch"])
def test_shrinking_averages_what_it_leaves_out(how):
    thin_lines = np.zeros((300, 300, 3), np.uint8)
    thin_lines[:, ::3] = 255

    assert np.abs(fit(thin_lines, 100, how).astype(int) - 85).max() <= 1


def test_enlarging_gives_no_blocks():
    image = np.dstack([np.tile(np.array([0, 255], np.uint8), (2, 1))] * 3)

    row = fit(image, 64)[32, :, 0].astype(int)

    assert np.all(np.diff(row) >= 0)
    assert np.diff(row).max() <= 16


WHITE = (255, 255, 255)


def with_box(angle: float, background: tuple[int, int, int] = WHITE, side: int = 400) -> np.ndarray:
    """A box of 220 x 130 pixels in the middle, turned counterclockwise."""
    image = flat(side, side + 100, background)
    corners = cv2.boxPoints((((side + 99) / 2, (side - 1) / 2), (220, 130), -angle))
    cv2.fillPoly(image, [np.round(corners * 16).astype(np.int32)], (160, 40, 30), cv2.LINE_AA, 4)
    return image


def box_angle(image: np.ndarray) -> float:
    """How far the box is turned counterclockwise, -45 to 45, by another way than that of deskew."""
    mask = (np.abs(image.astype(int) - (160, 40, 30)).max(axis=2) < 60).astype(np.uint8)
    contour = max(cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], key=cv2.contourArea)
    return (-cv2.minAreaRect(contour)[2] + 45) % 90 - 45


@pytest.mark.parametrize("background", [WHITE, (225, 218, 200), (20, 25, 30)])
@pytest.mark.parametrize("angle", [-19, -11.3, -4, -1, 1, 2.5, 7, 13.7, 19])
def test_deskew_brings_a_turned_box_upright_within_a_degree(angle, background):
    image = with_box(angle, background)
    assert abs(box_angle(image) - angle) < 0.7

    upright = DESKEW.apply(image)

    assert abs(box_angle(upright)) < 0.7
    assert np.abs(upright[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int) - background).max() <= 1


def test_deskew_shows_white_in_the_corners_where_there_is_no_background():
    image = with_box(0)
    image[::40] = (0, 90, 0)
    image[:, ::40] = (0, 90, 0)
    askew = rotate(image, 8)[80:-80, 80:-80]

    upright = DESKEW.apply(askew)

    assert upright.shape[0] > askew.shape[0]
    assert np.all(upright[[0, 0, -1, -1], [0, -1, 0, -1]] == 255)


def test_deskew_turns_lines_of_text():
    page = flat(500, 400, WHITE)
    for line in range(40, 480, 26):
        cv2.putText(page, "Lorem ipsum dolor", (30, line), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (0, 0, 0), 2, cv2.LINE_AA)
    for line in range(53, 480, 26):
        cv2.line(page, (30, line), (370, line), (90, 90, 90), 1)
    askew = rotate(page, 5)

    upright = DESKEW.apply(askew)

    # Rows of text and rows between them differ most when the lines are level.
    contrasts = [image[60:-60, 60:-60].mean(axis=(1, 2)).std() for image in (page, upright, askew)]
    assert contrasts[1] > 0.8 * contrasts[0] > 2 * contrasts[2]


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(with_box(0), id="upright"),
        pytest.param(with_box(45), id="on its corner"),
        pytest.param(with_box(26), id="turned by more than 20 degrees"),
        pytest.param(cv2.circle(flat(300, 300, WHITE), (150, 150), 100, (9, 9, 99), -1, cv2.LINE_AA), id="disc"),
        pytest.param(noise(300, 300), id="noise"),
        pytest.param(flat(300, 200, (7, 70, 170)), id="one color"),
        pytest.param(noise(1, 1), id="one pixel"),
    ],
)
def test_deskew_leaves_alone_what_gives_it_no_evidence(image):
    assert np.array_equal(DESKEW.apply(image), image)


@pytest.mark.parametrize("background", [WHITE, (225, 218, 200), (0, 0, 0)])
@pytest.mark.parametrize("scale", [0.3, 1, 5])
def test_crop_foreground_finds_the_item_and_keeps_a_small_margin(background, scale):
    height, width = round(400 * scale), round(600 * scale)
    top, left, bottom, right = (round(side * scale) for side in (100, 350, 180, 550))
    image = flat(height, width, background)
    image[top:bottom, left:right] = noise(bottom - top, right - left) // 2 + 60

    found = crop_foreground(image)

    margin = 0.03 * (right - left)
    assert found.shape[0] == pytest.approx(bottom - top + 2 * margin, abs=2 + 3 * scale)
    assert found.shape[1] == pytest.approx(right - left + 2 * margin, abs=2 + 3 * scale)
    item = (np.abs(image.astype(int) - background).max(axis=2) > 0).sum()
    assert (np.abs(found.astype(int) - background).max(axis=2) > 0).sum() == item


def test_crop_foreground_is_not_misled_by_noise_and_specks_on_the_background():
    image = flat(400, 600, (240, 240, 240))
    image[150:250, 200:400] = (30, 60, 20)
    image = np.clip(image + np.random.default_rng(0).normal(0, 3, image.shape), 0, 255).astype(np.uint8)
    image[20:23, 30:33] = image[390:393, 580:583] = 0

    assert crop_foreground(image).shape == pytest.approx((112, 212, 3), abs=8)


def test_crop_foreground_finds_several_items():
    image = flat(400, 600, WHITE)
    image[50:100, 50:100] = image[300:350, 500:550] = 0

    assert crop_foreground(image).shape == pytest.approx((330, 530, 3), abs=4)


def test_crop_foreground_finds_an_item_that_reaches_one_side():
    image = flat(400, 600, WHITE)
    image[200:, 250:350] = (200, 20, 20)

    found = crop_foreground(image)

    assert found.shape == pytest.approx((206, 112, 3), abs=4)
    assert np.all(found[-1, 20:-20] == (200, 20, 20))


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(flat(90, 60, (4, 200, 90)), id="one color"),
        pytest.param(noise(200, 300), id="no plain background"),
        pytest.param(
            cv2.resize(noise(3, 3), (300, 300), interpolation=cv2.INTER_CUBIC), id="a photograph's background"
        ),
        pytest.param(noise(1, 1), id="one pixel"),
        pytest.param(noise(1, 40), id="a line"),
    ],
)
def test_crop_foreground_leaves_alone_what_has_no_plain_background_or_no_item(image):
    assert np.array_equal(crop_foreground(image), image)


@pytest.mark.parametrize("quarters", [-2, -1, 1, 2])
def test_quarter_turns_move_pixels_counterclockwise_and_change_none(quarters):
    image = noise(30, 50)

    assert np.array_equal(rotate(image, 90 * quarters), np.rot90(image, quarters))


@pytest.mark.parametrize("degrees", [-150, -33.3, 5, 45, 100])
def test_a_turned_image_grows_and_has_white_corners(degrees):
    image = flat(100, 200, (10, 20, 30))

    turned = rotate(image, degrees)

    cosine, sine = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    assert turned.shape == pytest.approx((200 * sine + 100 * cosine, 200 * cosine + 100 * sine, 3), abs=1)
    assert int((turned < 128).all(axis=2).sum()) == pytest.approx(100 * 200, rel=0.02)
    assert np.all(turned[[0, 0, -1, -1], [0, -1, 0, -1]] == 255)


def test_a_turn_is_counterclockwise():
    image = flat(101, 101, WHITE)
    image[45:56, 90:] = 0  # at three o'clock

    rows, columns = np.nonzero(rotate(image, 30)[:, :, 0] < 128)

    height = rotate(image, 30).shape[0]
    assert rows.mean() < height / 2 - 15
    assert columns.mean() > height / 2 + 30


def test_turning_there_and_back_is_as_before():
    image = with_box(0)

    back = rotate(rotate(image, 17), -17)

    top, left = ((after - before) // 2 for after, before in zip(back.shape[:2], image.shape[:2], strict=True))
    middle = back[top : top + image.shape[0], left : left + image.shape[1]].astype(int)
    assert np.abs(middle - image).mean() < 1


def test_a_long_strip_is_reduced_when_it_is_turned():
    turned = rotate(flat(2, 40_000, (0, 0, 0)), 45)

    assert max(turned.shape) <= 16_384


def test_denoise_takes_out_noise_and_keeps_edges():
    clean = with_box(10, (200, 190, 210))
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 10, clean.shape), 0, 255).astype(np.uint8)

    smooth = denoise(noisy)

    assert np.abs(smooth.astype(int) - clean).mean() < 0.5 * np.abs(noisy.astype(int) - clean).mean()
    assert np.abs(denoise(clean).astype(int) - clean).mean() < 0.5


def test_equalize_spreads_the_light_and_keeps_gray_gray():
    dull = (noise(200, 200) // 8 + 100)[:, :, :1].repeat(3, axis=2)

    spread = equalize(dull)

    assert spread.std() > 1.5 * dull.std()
    assert np.array_equal(spread, spread[:, :, :1].repeat(3, axis=2))


def test_grayscale_is_the_luminance_that_eyes_see():
    gray = grayscale(np.array([[(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (80, 80, 80)]], np.uint8))

    assert gray[0, :, 0].tolist() == [76, 150, 29, 255, 80]
    assert np.array_equal(gray, gray[:, :, :1].repeat(3, axis=2))


def test_otsu_separates_two_heaps_of_gray_wherever_they_lie():
    image = np.where(noise(100, 100)[:, :, :1] < 100, 40, 90).astype(np.uint8).repeat(3, axis=2)

    assert np.array_equal(binarize(image, "otsu"), np.where(image == 90, 255, 0))


@pytest.mark.parametrize("threshold", [0, 40, 127, 254, 255])
def test_what_is_lighter_than_a_threshold_is_white(threshold):
    image = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, axis=2)

    assert np.array_equal(binarize(image, str(threshold)), np.where(image > threshold, 255, 0))


def test_adaptive_reads_a_page_in_uneven_light_where_otsu_does_not():
    page = flat(300, 300, WHITE)
    for line in range(30, 290, 30):
        cv2.putText(page, "ABCDEFGHIJ", (20, line), cv2.FONT_HERSHEY_SIMPLEX, 1, (0, 0, 0), 2)
    is_ink = page[:, :, 0] < 128
    light = np.linspace(0.25, 1, 300)[None, :, None]
    lit = (page * light * 0.8 + 40 * light).astype(np.uint8)

    adaptive, otsu = ((binarize(lit, method)[:, :, 0] == 0) for method in ("adaptive", "otsu"))

    assert (adaptive != is_ink).mean() < 0.1
    assert (otsu != is_ink).mean() > 0.2


@pytest.mark.parametrize("longest", [1, 10, 99])
def test_reduce_keeps_proportions_and_never_enlarges(longest):
    assert reduce(noise(50, 100), longest).shape == (max(1, round(longest / 2)), longest, 3)
    assert reduce(noise(9, 5), 10).shape == (9, 5, 3)


# --- what stands on a plain background


def test_things_on_a_plain_background_are_found_one_by_one_at_any_size():
    image = flat(1200, 1600, (200, 205, 210))
    image[100:300, 200:500] = (20, 90, 30)
    image[700:1000, 900:1200] = (180, 40, 40)

    boxes = sorted(items_on_plain_background(image), key=lambda box: box.y)

    expected = [Box(200, 100, 300, 200), Box(900, 700, 300, 300)]
    assert [overlaps([box], [wanted])[0, 0] > 0.95 for box, wanted in zip(boxes, expected, strict=True)] == [True, True]
    assert has_plain_background(image)


def test_nothing_stands_on_a_background_of_one_color_and_specks_are_nothing():
    image = flat(400, 400, (120, 120, 120))
    image[200:203, 200:203] = 255

    assert items_on_plain_background(image) == []


def test_no_background_is_even_that_is_of_many_colors():
    assert items_on_plain_background(noise(300, 300)) is None
    assert not has_plain_background(noise(300, 300))
