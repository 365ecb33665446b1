import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.encoders.handcrafted import DIMS, describe
from imgsearch.images.decode import decode
from imgsearch.images.transform import fit

SIZE = 128


@pytest.fixture(scope="module")
def originals(drawn):
    return [decode(file.read_bytes()) for file in sorted(drawn.rglob("*.png"))]


@pytest.fixture(scope="module")
def pictures(originals):
    return [fit(original, SIZE) for original in originals]


def cosine(left: np.ndarray, right: np.ndarray) -> float:
    return float(describe(left) @ describe(right))


def shape_on_white(colour: tuple[int, int, int], *, round_one: bool) -> np.ndarray:
    picture = np.full((SIZE, SIZE, 3), 255, np.uint8)
    if round_one:
        cv2.circle(picture, (64, 64), 40, colour, -1)
    else:
        cv2.rectangle(picture, (28, 28), (100, 100), colour, -1)
    return picture


def test_a_description_is_a_unit_vector_of_640_numbers(pictures):
    vectors = np.stack([describe(picture) for picture in pictures])

    assert (vectors.shape, vectors.dtype) == ((len(pictures), 640), np.float32)
    assert DIMS == 640
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_the_same_picture_gives_the_same_description(pictures):
    assert np.array_equal(describe(pictures[0]), describe(pictures[0].copy()))


def test_another_colour_lowers_the_cosine():
    red, blue = shape_on_white((220, 20, 20), round_one=True), shape_on_white((20, 20, 220), round_one=True)

    assert cosine(red, blue) < 0.9
    assert cosine(red, blue) < cosine(red, red) - 0.1


def test_another_shape_lowers_the_cosine():
    disc, square = shape_on_white((220, 20, 20), round_one=True), shape_on_white((220, 20, 20), round_one=False)

    assert cosine(disc, square) < 0.95


@pytest.mark.parametrize("slope", [0, 1])
def test_the_same_stripes_turned_lower_the_cosine(slope):
    down, across = np.mgrid[:SIZE, :SIZE]
    stripes = np.where((across + slope * down) % 16 < 2, 0, 255).astype(np.uint8)
    picture = np.dstack([stripes] * 3)

    turned = np.ascontiguousarray(np.rot90(picture))

    assert cosine(picture, turned) < 0.7  # the colours are the same, and are half of the description


def test_another_colour_and_another_shape_lower_it_more_than_either():
    red_disc = shape_on_white((220, 20, 20), round_one=True)
    both = cosine(red_disc, shape_on_white((20, 20, 220), round_one=False))

    assert both < cosine(red_disc, shape_on_white((20, 20, 220), round_one=True))
    assert both < cosine(red_disc, shape_on_white((220, 20, 20), round_one=False))


def test_near_duplicates_stay_near(originals):
    for original in originals:
        _, data = cv2.imencode(".jpg", original[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
        smaller = np.asarray(cv2.resize(original, (192, 192), interpolation=cv2.INTER_AREA), np.uint8)
        assert cosine(fit(original, SIZE), fit(decode(data.tobytes()), SIZE)) > 0.9
        assert cosine(fit(original, SIZE), fit(smaller, SIZE)) > 0.9


def test_a_near_duplicate_is_nearer_than_any_other_product(pictures):
    vectors = np.stack([describe(picture) for picture in pictures])
    for row, picture in enumerate(pictures):
        _, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 60])
        assert int(np.argmax(vectors @ describe(decode(data.tobytes())))) == row


@settings(max_examples=40, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3), st.sampled_from([8, 64, 128]))
def test_a_picture_of_one_colour_is_described_without_nan(colour, size):
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = colour

    vector = describe(picture)

    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_noise_is_described_without_nan(seed):
    picture = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)

    assert np.linalg.norm(describe(picture)) == pytest.approx(1, abs=1e-6)
