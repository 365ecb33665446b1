from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders import handcrafted
from imgsearch.encoders.handcrafted import describe_all, describe_version_1
from imgsearch.encoders.table import TABLE
from imgsearch.images.decode import decode, decode_rgba
from imgsearch.images.foreground import SIDE, centered_item, foreground, pooling
from imgsearch.images.transform import fit
from imgsearch.synthetic.augment import photo_like

SIZE = 128
GOLDEN = Path(__file__).parents[1] / "store" / "golden" / "v1"
RED, BLUE, BLACK = (220, 20, 20), (20, 20, 220), (10, 10, 10)

PARTS = {name: TABLE[f"handcrafted:{name}"].spec.dims for name in ("color", "texture", "shape")}
EACH_PART = pytest.mark.parametrize("part", PARTS)
colors = st.tuples(*[st.integers(0, 255)] * 3)


@pytest.fixture(scope="module")
def files(drawn):
    return [file.read_bytes() for file in sorted(drawn.rglob("*.png"))]


@pytest.fixture(scope="module")
def images(files):
    return [fit(decode(file), SIZE) for file in files]


def smooth_background(size: int = SIZE) -> np.ndarray:
    """A colored gradient with a little noise, as behind an item in a photo."""
    corners = np.array([[[200, 150, 90], [120, 170, 190]], [[170, 100, 120], [90, 120, 100]]], np.float32)
    background = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    return (background + np.random.default_rng(0).normal(0, 1, background.shape)).astype(np.uint8)


def drawn_shape(name: str, color=RED, *, background=None, center=(64, 64), radius=36) -> np.ndarray:
    image = np.full((SIZE, SIZE, 3), 255, np.uint8) if background is None else background.copy()
    across, down = center
    if name == "disc":
        cv2.circle(image, center, radius, color, -1)
    elif name == "square":
        cv2.rectangle(image, (across - radius, down - radius), (across + radius, down + radius), color, -1)
    else:
        cv2.rectangle(image, (across - radius, down - radius // 4), (across + radius, down + radius // 4), color, -1)
    return image


def striped(period: int, *, upright: bool = True) -> np.ndarray:
    """Gray stripes on a square that stands on white."""
    stripes = np.where(np.arange(SIZE) % period < period // 2, 60, 180).astype(np.uint8)
    whole = np.broadcast_to(stripes if upright else stripes[:, None], (SIZE, SIZE))
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    image[24:104, 24:104] = whole[24:104, 24:104, None]
    return image


def tinted(image: np.ndarray, tint) -> np.ndarray:
    """Color an item, and leave its white background."""
    item = foreground(image)[:, :, None]
    return np.where(item, image * np.array(tint), image).astype(np.uint8)


def describe_part(image: np.ndarray, part: str) -> np.ndarray:
    return getattr(handcrafted, f"describe_{part}")(image)


def cosine(part: str, left: np.ndarray, right: np.ndarray) -> float:
    return float(describe_part(left, part) @ describe_part(right, part))


@EACH_PART
def test_a_part_is_a_unit_vector_of_its_length(images, part):
    vectors = np.stack([describe_part(image, part) for image in images])

    assert (vectors.shape, vectors.dtype) == ((len(images), PARTS[part]), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_whole_is_its_parts_in_a_row_each_with_its_weight(images):
    before = images[0].copy()

    whole = describe_all(images[0])

    assert (whole.shape, whole.dtype) == ((TABLE["handcrafted"].spec.dims,), np.float32)
    assert np.linalg.norm(whole) == pytest.approx(1, abs=1e-6)
    ends = np.cumsum(list(PARTS.values()))
    for part, piece in zip(PARTS, np.split(whole, ends[:-1]), strict=True):
        assert np.allclose(piece / np.linalg.norm(piece), describe_part(images[0], part), atol=1e-6)
    assert np.array_equal(images[0], before)
    assert np.array_equal(describe_all(before), whole)


@EACH_PART
def test_images_of_any_size_from_32_are_described(files, part):
    usual = fit(decode(files[0]), SIZE)
    for size in (32, 33, 100, 224, 300):
        assert cosine(part, fit(decode(files[0]), size), usual) > (0.6 if size < 100 else 0.9)


@EACH_PART
def test_a_part_does_not_change_with_the_place_and_size_of_the_item(part):
    large, small = (
        drawn_shape("square", radius=40),
        drawn_shape("square", center=(50, 78), radius=28),
    )

    assert cosine(part, large, small) > 0.95


@EACH_PART
def test_a_part_changes_little_with_the_background(part):
    on_white, in_a_photo = drawn_shape("square"), drawn_shape("square", background=smooth_background())

    assert cosine(part, on_white, in_a_photo) > 0.9


def test_another_color_is_another_color():
    assert cosine("color", drawn_shape("disc", RED), drawn_shape("disc", BLUE)) < 0.2


def test_color_changes_little_with_the_light():
    bright, dark = drawn_shape("disc", (200, 100, 40)), drawn_shape("disc", (140, 70, 28))

    assert cosine("color", bright, dark) > 0.95


def test_colors_are_told_apart_by_their_place_too():
    red_above, blue_above = drawn_shape("disc", RED), drawn_shape("disc", BLUE)
    red_above[64:], blue_above[64:] = blue_above[64:].copy(), red_above[64:].copy()

    assert cosine("color", red_above, blue_above) < 0.9


def test_color_hardly_asks_for_the_shape():
    assert cosine("color", drawn_shape("disc"), drawn_shape("square")) > 0.95


@pytest.mark.parametrize("part", ["texture", "shape"])
def test_texture_and_shape_change_little_with_the_color(part):
    gray = striped(12)

    assert cosine(part, tinted(gray, (1.0, 0.6, 0.6)), tinted(gray, (0.6, 0.7, 1.0))) > 0.95


@pytest.mark.parametrize("part", ["texture", "shape"])
def test_texture_and_shape_change_little_with_the_light(images, part):
    for image in images[:8]:
        assert cosine(part, image, tinted(image, (0.75, 0.75, 0.75))) > 0.85


def test_stripes_turned_or_finer_are_another_texture():
    stripes = striped(24)

    assert cosine("texture", stripes, striped(24, upright=False)) < 0.85
    assert cosine("texture", stripes, striped(6)) < 0.85


def test_another_outline_is_another_shape():
    disc = drawn_shape("disc", BLACK)

    assert cosine("shape", disc, drawn_shape("square", BLACK)) < 0.85
    assert cosine("shape", disc, drawn_shape("bar", BLACK)) < 0.6


def test_a_shape_turned_a_little_is_nearer_than_another_shape():
    square = drawn_shape("square", BLACK)
    turn = cv2.getRotationMatrix2D((64, 64), 8, 1)
    turned = cv2.warpAffine(square, turn, (SIZE, SIZE), borderValue=(255, 255, 255))

    assert cosine("shape", square, turned) > cosine("shape", square, drawn_shape("disc", BLACK))


@EACH_PART
def test_a_near_duplicate_is_nearer_than_any_other_product(images, part):
    vectors = np.stack([describe_part(image, part) for image in images])
    for row, image in enumerate(images):
        _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
        assert int(np.argmax(vectors @ describe_part(decode(data.tobytes()), part))) == row


def test_most_products_are_found_by_a_photo_like_image(files, images):
    vectors = np.stack([describe_all(image) for image in images])
    photos = [photo_like(decode_rgba(file), np.random.default_rng([5, row])) for row, file in enumerate(files)]

    found = [int(np.argmax(vectors @ describe_all(fit(decode(photo), SIZE)))) for photo in photos]

    assert np.mean(np.array(found) == np.arange(len(files))) >= 0.9


@settings(max_examples=40, deadline=None)
@given(colors, st.sampled_from([32, 64, 128, 200]))
def test_an_image_of_one_color_is_described_without_nan(color, size):
    image = np.empty((size, size, 3), np.uint8)
    image[:] = color

    for vector in (describe_all(image), *(describe_part(image, part) for part in PARTS)):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(32, 140))
def test_noise_is_described_without_nan(seed, size):
    image = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)

    assert np.linalg.norm(describe_all(image)) == pytest.approx(1, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(colors, colors, st.integers(0, 127), st.integers(0, 127), st.integers(1, 40))
def test_a_spot_of_any_size_anywhere_is_described_without_nan(background, color, down, across, extent):
    image = np.empty((SIZE, SIZE, 3), np.uint8)
    image[:] = background
    image[down : down + extent, across : across + extent] = color

    assert np.linalg.norm(describe_all(image)) == pytest.approx(1, abs=1e-6)


def overlap(found: np.ndarray, expected: np.ndarray) -> float:
    return np.count_nonzero(found & expected) / np.count_nonzero(found | expected)


DISC = drawn_shape("disc", BLACK)[:, :, 0] < 128


@pytest.mark.parametrize("background", [None, smooth_background()], ids=["white", "photo"])
def test_the_foreground_is_the_item(background):
    assert overlap(foreground(drawn_shape("disc", (40, 90, 60), background=background)), DISC) > 0.9


def test_the_foreground_of_a_large_image_is_found_at_its_size():
    image = cv2.resize(drawn_shape("disc"), (300, 300), interpolation=cv2.INTER_LINEAR)
    expected = cv2.resize(DISC.astype(np.uint8), (300, 300), interpolation=cv2.INTER_NEAREST) > 0

    assert overlap(foreground(image), expected) > 0.9


def test_an_item_on_white_may_touch_the_border():
    image = drawn_shape("disc", radius=64)

    assert overlap(foreground(image), (image < 250).any(axis=2)) > 0.99


def test_white_inside_an_item_belongs_to_it():
    image = drawn_shape("disc")
    cv2.circle(image, (64, 64), 20, (255, 255, 255), -1)

    assert overlap(foreground(image), DISC) > 0.99


def test_specks_beside_an_item_do_not_belong_to_it():
    image = drawn_shape("disc")
    image[10:13, 10:13] = 0

    assert overlap(foreground(image), DISC) > 0.99


@pytest.mark.parametrize("image", [np.full((SIZE, SIZE, 3), 255, np.uint8), np.full((SIZE, SIZE, 3), 90, np.uint8)])
def test_where_nothing_stands_out_all_is_foreground(image):
    assert foreground(image).all()


def test_a_busy_background_is_foreground():
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)

    assert foreground(noise).all()


def test_an_item_that_was_cut_out_is_centered_on_white():
    item = centered_item(drawn_shape("disc", background=smooth_background(), center=(50, 75), radius=25))

    across, down = (np.average(np.arange(SIDE), weights=item.weights.sum(axis=axis)) for axis in (0, 1))
    assert (across, down) == (pytest.approx(SIDE / 2 - 0.5, abs=0.5), pytest.approx(SIDE / 2 - 0.5, abs=0.5))
    assert (item.pixels[item.weights == 0] == 255).all()
    assert (item.pixels.shape, item.weights.shape, item.weights.dtype) == ((SIDE, SIDE, 3), (SIDE, SIDE), np.float32)


def test_an_image_in_which_nothing_stands_out_is_cut_out_whole():
    noise = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    item = centered_item(noise)

    assert np.array_equal(item.pixels, noise)
    assert (item.weights == 1).all()


def test_pooling_counts_every_pixel_once_but_for_the_rim():
    shares = pooling(4)

    assert (shares.shape, shares.dtype) == ((4, SIDE), np.float32)
    assert np.allclose(shares[:, SIDE // 8 : -SIDE // 8].sum(axis=0), 1, atol=1e-6)
    assert np.allclose(shares, shares[::-1, ::-1])


def test_the_first_version_gives_the_vectors_of_the_golden_index():
    embeddings = np.load(GOLDEN / "exact" / "gen-000001" / "embeddings.npy")
    image = fit(decode((GOLDEN / "known.png").read_bytes()), SIZE)

    vector = describe_version_1(image)
    differences = np.abs(embeddings - vector).max(axis=1)
    golden = embeddings[differences.argmin()]

    # Diagonal gradients lie on the edge of two orientations, and processors round arctan2 to either side of it: some
    # strength moves between orientations, but within its cell, and all else is the same.
    assert differences.min() < 0.01
    assert np.abs(golden - vector)[:128].max() < 1e-6
    by_cell, golden_by_cell = ((each[128:] ** 2).reshape(64, 8).sum(axis=1) for each in (vector, golden))
    assert np.abs(by_cell - golden_by_cell).max() < 1e-6
    assert np.count_nonzero(np.abs(golden - vector) > 1e-6) <= 8
    assert np.median(differences) > 0.05


def test_the_first_version_tells_colors_and_shapes_apart():
    red_disc = describe_version_1(drawn_shape("disc", RED))

    assert (red_disc.shape, red_disc.dtype) == ((640,), np.float32)
    for other in (drawn_shape("disc", BLUE), drawn_shape("square", RED)):
        assert red_disc @ describe_version_1(other) < 0.95


@settings(max_examples=20, deadline=None)
@given(colors, st.sampled_from([8, 64, 128]))
def test_the_first_version_describes_an_image_of_one_color_without_nan(color, size):
    image = np.empty((size, size, 3), np.uint8)
    image[:] = color

    assert np.linalg.norm(describe_version_1(image)) == pytest.approx(1, abs=1e-6)
