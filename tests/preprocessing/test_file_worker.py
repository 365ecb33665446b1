import contextlib
import io

import cv2
import numpy as np
import pytest

from imgsearch.errors import ImageError
from imgsearch.images.decode import decode
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.preprocessing.file_worker import FileWorker


def encoded(suffix: str, height: int, width: int) -> bytes:
    colors = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return cv2.imencode(suffix, cv2.resize(colors, (width, height)))[1].tobytes()


def files_of(data: bytes, *, size: int = 0, fit: str = "pad", **options: object) -> list[bytes]:
    given = {"steps": NO_STEPS, "augment": 0, "seed": 0, "ending": "png"} | options
    with contextlib.closing(FileWorker(size, fit, FilePolicy(), **given)) as worker:
        return [bytes(file) for file in worker.files(data)]


def test_files_without_a_size_hold_the_very_pixels_after_the_steps():
    data, steps = encoded(".png", 300, 200), Steps.parse("rotate=90,denoise")

    (png,), (npy,) = (files_of(data, steps=steps, ending=ending) for ending in ("png", "npy"))

    assert np.array_equal(decode(png), steps.apply(decode(data)))
    assert np.array_equal(np.load(io.BytesIO(npy), allow_pickle=False), steps.apply(decode(data)))


@pytest.mark.parametrize(("ending", "start"), [("jpg", b"\xff\xd8\xff"), ("webp", b"RIFF")])
def test_files_in_formats_with_loss_look_alike(ending, start):
    data = encoded(".png", 300, 200)

    (file,) = files_of(data, ending=ending)

    assert file.startswith(start)
    assert np.abs(decode(file).astype(int) - decode(data)).mean() < 3


def test_files_with_a_size_are_what_an_index_would_see():
    data, steps = encoded(".jpg", 1500, 1200), Steps.parse("deskew,grayscale")

    (file,) = files_of(data, size=96, fit="crop", steps=steps)

    assert np.array_equal(decode(file), decode_and_fit(data, 96, "crop", steps=steps))


def test_files_of_black_and_white_images_hold_no_gray_whatever_was_done_after():
    files = files_of(encoded(".png", 300, 200), size=50, steps=Steps(binarize="otsu"), augment=3)

    for file in files:
        assert np.unique(decode(file)).tolist() == [0, 255]
        assert cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED).ndim == 2


def test_augmented_files_depend_on_content_and_seed_alone():
    data = encoded(".png", 60, 80)

    files = files_of(data, augment=3, seed=1)

    assert len({*files}) == 4
    assert {decode(file).shape for file in files} == {(60, 80, 3)}
    assert files_of(data, augment=1, seed=1) == files[:2]
    assert files_of(data, augment=1, seed=2)[1] not in files


def test_files_longer_than_a_megabyte_go_through():
    noise = np.random.default_rng(0).integers(0, 256, (1500, 1000, 3), dtype=np.uint8)

    found = files_of(cv2.imencode(".png", noise)[1].tobytes(), augment=2, ending="npy")

    assert np.array_equal(np.load(io.BytesIO(found[0])), noise[:, :, ::-1])
    assert [len(file) for file in found] == [4_500_128] * 3


@pytest.mark.parametrize(("ending", "side"), [("webp", 16_384), ("jpg", 65_501)])
def test_an_image_that_a_format_cannot_hold_is_too_large(ending, side):
    data = encoded(".png", 2, side)

    with pytest.raises(ImageError) as refused:
        files_of(data, ending=ending)

    assert (refused.value.cause, ending in refused.value.message) == ("too_large", True)
    assert decode(files_of(data)[0]).shape == (2, side, 3)


@pytest.mark.slow
def test_files_that_need_more_memory_than_there_is_are_out_of_memory():
    with pytest.raises(ImageError) as refused:
        files_of(encoded(".png", 9000, 9000), augment=10, ending="npy")

    assert refused.value.cause == "out_of_memory"
