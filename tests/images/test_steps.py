import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import UsageError
from imgsearch.images.steps import NO_STEPS, Steps

ALL = "crop-foreground,deskew,rotate=-7.5,denoise,equalize,grayscale,binarize=otsu"

any_steps = st.builds(
    Steps,
    crop_foreground=st.booleans(),
    deskew=st.booleans(),
    rotate=st.floats(-180, 180) | st.sampled_from([0.0, 90.0, -90.0, 180.0]),
    denoise=st.booleans(),
    equalize=st.booleans(),
    grayscale=st.booleans(),
    binarize=st.sampled_from(["", "otsu", "adaptive", "0", "127", "255"]),
)


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=100, deadline=None)
@given(any_steps)
def test_what_is_written_is_read_as_the_same_steps(steps):
    assert Steps.parse(str(steps)) == steps
    assert bool(str(steps)) == bool(steps) == (steps != NO_STEPS)


def test_steps_are_written_in_the_order_they_are_done_in():
    assert str(Steps.parse("binarize=otsu, grayscale ,denoise,equalize,rotate=-7.50,deskew,crop-foreground")) == ALL


@pytest.mark.parametrize(("text", "canonical"), [("", ""), (" ", ""), ("rotate=90.0", "rotate=90"), ("rotate=-0", "")])
def test_one_meaning_is_written_in_one_way(text, canonical):
    assert str(Steps.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sharpen", "found 'sharpen' in 'sharpen'"),
        ("crop_foreground", "found 'crop_foreground'"),
        ("grayscale,,deskew", "found ''"),
        ("grayscale,grayscale", "found 'grayscale'"),
        ("grayscale=1", "found 'grayscale=1'"),
        ("rotate", "found 'rotate'"),
        ("rotate=", "found 'rotate='"),
        ("rotate=left", "expected a number for rotate, found 'left'"),
        ("rotate=nan", "found nan"),
        ("rotate=inf", "found inf"),
        ("rotate=180.1", "found 180.1"),
        ("binarize", "found 'binarize'"),
        ("binarize=256", "found '256'"),
        ("binarize=-1", "found '-1'"),
        ("binarize=007", "found '007'"),
        ("binarize=mean", "found 'mean'"),
    ],
)
def test_what_is_no_step_is_named_and_the_hint_says_what_is(text, said):
    with pytest.raises(UsageError) as refused:
        Steps.parse(text)

    assert said in refused.value.message
    for allowed in ("crop-foreground", "deskew", "rotate=", "denoise", "equalize", "grayscale", "adaptive", "255"):
        assert allowed in refused.value.hint


def test_steps_are_read_without_opencv():
    code = "import sys; from imgsearch.images.steps import Steps; Steps.parse('deskew'); print('cv2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


@settings(max_examples=80, deadline=None)
@given(any_steps, st.integers(1, 300), st.integers(1, 300), st.sampled_from(["noise", "white", "black", "grey"]))
def test_every_image_of_every_size_comes_through_all_steps(steps, height, width, kind):
    image = noise(height, width)
    if kind != "noise":
        image[:] = {"white": 255, "black": 0, "grey": 130}[kind]
    before = image.copy()

    result = steps.apply(image)

    assert result.dtype == np.uint8
    assert result.ndim == 3
    assert result.shape[2] == 3
    assert min(result.shape) > 0
    assert np.array_equal(image, before)
    if steps.grayscale or steps.binarize:
        assert np.array_equal(result, np.repeat(result[:, :, :1], 3, axis=2))
    if steps.binarize:
        assert set(np.unique(result)) <= {0, 255}


@pytest.mark.parametrize(
    ("shape", "degrees"),
    [
        *((shape, 45) for shape in [(1, 1), (1, 2), (2, 1), (1, 9000), (9000, 1), (7, 7)]),
        ((3, 33_000), 1),
        pytest.param((3, 33_000), 45, marks=pytest.mark.slow),
    ],
)
def test_odd_shapes_come_through_all_steps(shape, degrees):
    assert Steps.parse(ALL).apply(noise(*shape)).dtype == np.uint8
    assert Steps.parse(f"rotate={degrees}").apply(noise(*shape)).dtype == np.uint8


def test_no_steps_are_no_change():
    image = noise(20, 30)

    assert np.array_equal(NO_STEPS.apply(image), image)


def test_each_step_is_done_and_in_the_order_said(monkeypatch):
    from imgsearch.images import foreground, transform

    done = []
    for name in ("crop_foreground", "deskew", "rotate", "denoise", "equalize", "grayscale", "binarize"):
        room = foreground if name == "crop_foreground" else transform
        monkeypatch.setattr(room, name, lambda image, *given, name=name: done.append((name, *given)) or image)

    Steps.parse("binarize=9,grayscale,equalize,denoise,rotate=5,deskew,crop-foreground").apply(noise(3, 3))

    assert done == [
        *(
            ("crop_foreground",),
            ("deskew", (255, 255, 255)),
            ("rotate", 5.0),
            ("denoise",),
            ("equalize",),
            ("grayscale",),
        ),
        ("binarize", "9"),
    ]


def test_steps_of_whole_numbers_give_the_pixels_they_always_gave():
    digests = {
        text: hashlib.sha256(Steps.parse(text).apply(noise(60, 90, seed=5)).tobytes()).hexdigest()[:12]
        for text in ("rotate=90", "grayscale", "binarize=otsu", "binarize=adaptive", "binarize=100")
    }

    assert digests == {
        "rotate=90": "861efff77bc5",
        "grayscale": "73127ecc656f",
        "binarize=otsu": "48a7a99cdc7c",
        "binarize=adaptive": "4afa83e3cf0b",
        "binarize=100": "33448299425a",
    }
