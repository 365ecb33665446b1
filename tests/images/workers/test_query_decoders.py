"""Decoders of queries: what they give is what decoding here gives, and no image takes them along."""

import contextlib
import os
import signal
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from imgsearch.errors import ImageError, UsageError
from imgsearch.images.decode import Pixels, decode
from imgsearch.images.photo import open_photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import NO_STEPS, Steps
from imgsearch.images.workers.decoders import decode_and_fit_guarded
from imgsearch.images.workers.query_decoders import QueryDecoders

SIZE = 64
POLICY = FilePolicy()
SCANS = b"\xff\xda\0\0" * 1000


def picture(height: int, width: int, channels: int = 3) -> Pixels:
    colors = np.random.default_rng(height).integers(0, 256, (4, 4, channels)).astype(np.uint8)
    return cv2.resize(colors, (width, height))


def encoded(suffix: str, pixels: Pixels) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def turned(orientation: int) -> bytes:
    data = encoded(".jpg", picture(130, 90))
    content = b"Exif\0\0" + struct.pack("<2sHIHHHIHHI", b"II", 42, 8, 1, 274, 3, 1, orientation, 0, 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + data[2:]


CUT_OUT = np.dstack([np.full((80, 60, 3), 250, np.uint8), np.tri(80, 60, dtype=np.uint8) * 255])
IMAGES = {
    **{suffix: encoded(suffix, picture(90, 1300)) for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff", ".gif")},
    **{f"turned {orientation}": turned(orientation) for orientation in (3, 5, 6, 8)},
    "large": encoded(".jpg", picture(2400, 3200)),
    "tall": encoded(".jpg", picture(9001, 9)),
    "one pixel": encoded(".png", picture(1, 1)),
    "gray of 16 bits": encoded(".png", np.full((40, 30), 30_000, np.uint16)),
    "transparent": encoded(".png", picture(50, 70, 4)),
    "white and cut out": encoded(".png", CUT_OUT),
    "plain": encoded(".png", np.full((40, 30, 3), 255, np.uint8)),
    "of many scans": encoded(".jpg", picture(30, 40))[:-2] + SCANS + b"\xff\xd9",
    "empty": b"",
    "text": b"no image",
    "cut short": encoded(".jpg", picture(80, 80))[:300],
    "too large": encoded(".bmp", picture(1, 1))[:18] + struct.pack("<2i", 2**20, 2**20),
}


def opened(count: int = 1, steps: Steps = NO_STEPS, **options: float) -> contextlib.closing[QueryDecoders]:
    return contextlib.closing(QueryDecoders(count, POLICY, SIZE, "pad", steps, **options))


@pytest.fixture(scope="module")
def decoders() -> Iterator[QueryDecoders]:
    with opened() as found:
        yield found


def result_of(call: Callable[[], object]) -> object:
    """What a call returns, or how it refuses an image."""
    try:
        return call()
    except ImageError as error:
        return error.cause, error.message, error.hint


def process_of(decoders: QueryDecoders) -> int:
    return decoders._workers[0]._process.pid


@pytest.mark.parametrize("name", IMAGES)
def test_a_photo_is_what_decoding_here_gives(decoders, name):
    found = result_of(lambda: decoders.photo(IMAGES[name]))
    expected = result_of(lambda: open_photo(IMAGES[name], POLICY))

    if found is None or isinstance(found, tuple):
        assert found == expected
    else:
        assert np.array_equal(found.pixels, expected.pixels)
        assert (found.size, found.background) == (expected.size, expected.background)


@pytest.mark.parametrize("name", IMAGES)
def test_a_square_is_what_decoding_here_gives(decoders, name):
    found = result_of(lambda: decoders.square(IMAGES[name]))
    expected = result_of(lambda: decode_and_fit_guarded(IMAGES[name], SIZE, "pad", POLICY))

    assert np.array_equal(found, expected)


def test_a_square_is_made_with_the_steps_and_the_fit_of_the_index():
    steps = Steps.parse("crop-foreground,grayscale")
    with contextlib.closing(QueryDecoders(1, POLICY, SIZE, "crop", steps)) as decoders:
        found = decoders.square(IMAGES[".jpg"])

    assert np.array_equal(found, decode_and_fit_guarded(IMAGES[".jpg"], SIZE, "crop", POLICY, steps=steps))


@pytest.mark.parametrize(
    ("name", "size"), [("large", (240, 320)), ("turned 6", (90, 130)), ("one pixel", (1, 1)), ("transparent", (50, 70))]
)
def test_a_thumbnail_is_a_small_upright_jpeg(decoders, name, size):
    data = decoders.thumbnail(IMAGES[name])

    assert data.startswith(b"\xff\xd8\xff")
    thumbnail = decode(data)
    assert thumbnail.shape == (*size, 3)
    whole = cv2.resize(decode(IMAGES[name]), size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(thumbnail.astype(int) - whole).mean() < 8


def test_a_thumbnail_of_noise_fits_in_an_answer(decoders):
    noise = np.random.default_rng(0).integers(0, 256, (320, 320, 3), np.uint8)

    assert decode(decoders.thumbnail(encoded(".png", noise))).shape == (320, 320, 3)


def test_damage_that_the_catalog_lets_in_shows_in_its_thumbnails_but_is_refused_in_queries():
    damaged = encoded(".jpg", picture(400, 400))[:-600]
    with contextlib.closing(QueryDecoders(1, FilePolicy(keep_damaged=True), SIZE, "pad", NO_STEPS)) as decoders:
        assert decode(decoders.thumbnail(damaged)).shape == (320, 320, 3)
        for ask in (decoders.photo, decoders.square):
            with pytest.raises(ImageError) as refused:
                ask(damaged)
            assert refused.value.cause == "corrupt"


def test_processes_are_started_when_they_are_needed():
    with opened(3) as decoders:
        assert [worker._process for worker in decoders._workers] == [None] * 3
        for _ in range(3):
            decoders.square(IMAGES[".png"])
        assert [worker._process is None for worker in decoders._workers].count(False) == 1


def test_more_threads_than_processes_each_get_the_answer_to_their_own_image():
    names = [
        name for name in IMAGES if not isinstance(result_of(lambda name=name: open_photo(IMAGES[name], POLICY)), tuple)
    ]
    with opened(2) as decoders, ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda name: decoders.square(IMAGES[name]), names * 5))

    expected = {name: decode_and_fit_guarded(IMAGES[name], SIZE, "pad", POLICY) for name in names}
    assert all(np.array_equal(each, expected[name]) for each, name in zip(found, names * 5, strict=True))


def test_a_service_that_is_told_to_end_can_answer_what_it_was_asked():
    with opened() as decoders:
        decoders.photo(IMAGES[".png"])
        asked = process_of(decoders)
        os.kill(asked, signal.SIGTERM)  # as systemd does to all processes of a service

        assert decoders.photo(IMAGES[".png"]).size == (90, 1300)
        assert process_of(decoders) == asked


def test_a_process_that_dies_costs_one_image():
    with opened() as decoders:
        decoders.photo(IMAGES[".png"])
        os.kill(process_of(decoders), signal.SIGKILL)

        assert result_of(lambda: decoders.photo(IMAGES[".png"]))[0] == "decoder_crashed"
        assert decoders.photo(IMAGES[".png"]).size == (90, 1300)


def test_a_process_that_takes_too_long_costs_one_image():
    with opened(seconds=0.5) as decoders:
        decoders._workers[0]._seconds = 30.0  # it takes more than that to start
        decoders.photo(IMAGES[".png"])
        decoders._workers[0]._seconds = 0.2
        stopped = process_of(decoders)
        os.kill(stopped, signal.SIGSTOP)

        assert result_of(lambda: decoders.photo(IMAGES[".png"])) == ("timeout", "not decoded in 0.2 s", "")

        decoders._workers[0]._seconds = 30.0
        assert decoders.photo(IMAGES[".png"]).size == (90, 1300)
        assert process_of(decoders) != stopped


def test_closing_ends_a_busy_process_and_refuses_whoever_waits_and_comes_later():
    with opened() as decoders, ThreadPoolExecutor(3) as threads:
        decoders.photo(IMAGES[".png"])
        os.kill(process_of(decoders), signal.SIGSTOP)
        is_asked = threading.Event()
        ask = decoders._workers[0].ask

        def told(*arguments: object) -> Pixels:
            is_asked.set()
            return ask(*arguments)

        decoders._workers[0].ask = told
        asked = [threads.submit(decoders.photo, IMAGES[".png"]) for _ in range(3)]
        assert is_asked.wait(30)

        decoders.close()

        kinds = sorted(type(each.exception()).__name__ for each in asked)
        assert kinds == ["ImageError", "UsageError", "UsageError"]
        assert decoders._workers[0]._process is None
        with pytest.raises(UsageError, match="closed"):
            decoders.square(IMAGES[".png"])
        decoders.close()
