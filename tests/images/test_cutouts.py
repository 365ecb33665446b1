"""White goods on transparency: they would vanish on white."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from imgsearch.images.decode import decode, decode_image, decode_rgba
from imgsearch.images.foreground import centered_item, crop_foreground
from imgsearch.images.photo import open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.workers.decoders import decode_square

GRAY, PAPER = 128, 255
WHITE = (255, 255, 255)
SHAPES = {
    "disc": lambda canvas: cv2.circle(canvas, (60, 40), 30, 255, -1, cv2.LINE_AA),
    "bar": lambda canvas: cv2.rectangle(canvas, (10, 30), (110, 50), 255, -1),
    "ring": lambda canvas: cv2.circle(canvas, (60, 40), 30, 255, 8, cv2.LINE_AA),
    "touching every edge": lambda canvas: cv2.ellipse(canvas, (60, 40), (60, 40), 0, 0, 360, 255, -1),
}


def cutout(shape: str = "disc", color: tuple[int, int, int] = WHITE, opacity: float = 1.0) -> np.ndarray:
    """A shape of one color on transparency, RGBA; what is hidden has another color."""
    alpha = np.asarray(SHAPES[shape](np.zeros((80, 120), np.uint8)))
    colors = np.where(alpha[:, :, None] > 0, np.array(color), (10, 200, 30))
    return np.dstack([colors, alpha * opacity]).astype(np.uint8)


def written(image: np.ndarray, format_: str = "PNG", mode: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image, mode).save(file, format_, **options)
    return file.getvalue()


def square(data: bytes, size: int = 96, steps: Steps = NO_STEPS) -> tuple[np.ndarray, dict[str, str]]:
    return decode_square(data, FilePolicy(), size, "pad", steps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("color", [WHITE, (240, 238, 236)])
def test_a_white_cutout_is_laid_on_gray_and_padded_with_it(shape, color):
    data = written(cutout(shape, color))

    found = decode_image(data)
    shown, remarks = square(data)

    assert found.background == GRAY
    assert found.pixels[0, 0].tolist() == [GRAY] * 3
    assert found.pixels.max() >= 236
    assert (shown[:10] == GRAY).all()
    assert remarks == {}


def test_white_cutouts_of_other_shapes_are_other_images():
    squares = [square(written(cutout(shape)))[0].astype(int) for shape in SHAPES]

    assert min(np.abs(one - other).mean() for at, one in enumerate(squares) for other in squares[:at]) > 5


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(written(cutout(), "WEBP", lossless=True), id="WebP"),
        pytest.param(written(cutout(opacity=0.5)), id="half transparent"),
        pytest.param(written(np.where(cutout()[:, :, [0, 3]] == 10, 0, cutout()[:, :, [0, 3]]), mode="LA"), id="gray"),
    ],
)
def test_white_cutouts_are_known_in_every_kind_of_file(data):
    assert decode_image(data).background == GRAY


def with_patch(image: np.ndarray, part: tuple[slice, slice], color: tuple[int, ...]) -> np.ndarray:
    patched = image.copy()
    patched[part] = color
    return patched


OPAQUE = np.full((80, 120, 4), 255, np.uint8)
ON_WHITE = {
    "a colored cutout": cutout(color=(180, 20, 20)),
    "a light gray cutout": cutout(color=(225, 225, 225)),
    "white with a colored patch": with_patch(cutout(), (slice(30, 45), slice(50, 65)), (20, 20, 160, 255)),
    "opaque white": OPAQUE,
    "opaque white with a transparent corner": with_patch(OPAQUE, (slice(3), slice(3)), (0, 0, 0, 0)),
    "nothing that shows": with_patch(OPAQUE, (slice(None), slice(None)), (255, 255, 255, 0)),
}


@pytest.mark.parametrize("image", ON_WHITE.values(), ids=ON_WHITE)
def test_every_other_image_is_laid_on_white(image):
    alpha = image[:, :, 3:] / 255

    found = decode_image(written(image))

    assert found.background == PAPER
    assert np.abs(found.pixels - (255 + alpha * (image[:, :, :3].astype(float) - 255))).max() <= 1


def test_the_transparency_of_a_white_cutout_stays_where_it_is_asked_for():
    assert np.array_equal(decode_rgba(written(cutout())), cutout())


def test_a_white_cutout_is_trimmed_and_told_from_its_background():
    shown, _ = square(written(cutout()), 96, Steps(crop_foreground=True))

    assert crop_foreground(decode(written(cutout()))).shape[1] < 70
    assert (shown[0] == GRAY).all()
    assert 0.2 < centered_item(shown).weights.mean() < 0.8


def test_a_photo_says_what_it_is_to_be_padded_with():
    photo, other = (open_photo(written(cutout(color=color)), FilePolicy()) for color in (WHITE, (9, 9, 9)))

    assert photo is not None
    assert other is not None
    assert (photo.background, other.background) == (GRAY, PAPER)


# Images of one color.


@pytest.mark.parametrize("color", [WHITE, (0, 0, 0), (90, 140, 30)])
@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
def test_an_image_of_one_color_is_blank_though_it_is_padded(color, format_):
    noise = np.random.default_rng(1).integers(-3, 4, (300, 500, 1))
    image = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)

    _, remarks = square(written(image, format_))

    shown = remarks["blank"]
    assert np.abs(np.array([int(shown[at : at + 2], 16) for at in (1, 3, 5)]) - color).max() <= 3


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_what_is_nearly_of_one_color_is_blank_up_to_a_limit(fit):
    def remarks(difference: int) -> dict[str, str]:
        image = np.full((64, 128, 3), 200, np.uint8)
        image[20:40, 50:80] += np.uint8(difference)
        return decode_square(written(image), FilePolicy(), 64, fit, NO_STEPS)[1]

    assert remarks(8) == {"blank": "#c8c8c8"}
    assert remarks(9) == {}


def test_what_nobody_sees_is_blank():
    assert square(written(ON_WHITE["nothing that shows"]))[1] == {"blank": "#ffffff"}


def test_an_image_that_preprocessing_empties_is_blank():
    image = np.full((64, 64, 3), 250, np.uint8)
    image[20:40, 20:40] = 200
    data = written(image)

    assert "blank" not in square(data)[1]
    assert square(data, steps=Steps(binarize="127"))[1] == {"blank": "#ffffff"}
