import contextlib
from functools import cache

import cv2
import numpy as np
import pytest

from imgsearch.errors import ImageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.workers.decoders import decode_and_fit
from imgsearch.synthetic.variant_worker import VariantWorker

SIZE = 64
SUFFIXES = (".png", ".jpg", ".webp")


def variants_of(*files: bytes, size: int = SIZE, policy: FilePolicy | None = None, **options: object) -> list:
    with contextlib.closing(VariantWorker(size, "pad", policy, **options)) as worker:
        return [worker.decode_variants(data) for data in files]


@pytest.fixture(scope="module")
def worker():
    """Makes five variants with seed 3."""
    with contextlib.closing(VariantWorker(SIZE, "pad", variants=5, seed=3)) as opened:
        yield opened


def cut_out(side: int = 200, suffix: str = ".png") -> bytes:
    """A red disc, on nothing where the format knows nothing."""
    image = np.zeros((side, side, 4), np.uint8)
    cv2.circle(image, (side // 2, side // 2), side * 2 // 5, (20, 20, 230, 255), -1)
    return cv2.imencode(suffix, image if suffix != ".jpg" else image[:, :, :3])[1].tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_variants_come_after_the_image_itself(worker, suffix):
    data = cut_out(suffix=suffix)

    found = worker.decode_variants(data)

    assert (found.shape, found.dtype) == ((6, SIZE, SIZE, 3), np.uint8)
    assert np.array_equal(found[0], decode_and_fit(data, SIZE, "pad"))
    assert len({variant.tobytes() for variant in found}) == 6


def test_variants_are_photos_on_another_background_drawings_on_paper_and_screenshots(worker):
    found = worker.decode_variants(cut_out()).astype(int)

    corners = found[:, [0, 0, -1, -1], [0, -1, 0, -1]].min(axis=(1, 2))
    assert np.flatnonzero(corners > 220).tolist() == [0, 2, 3]
    middles = found[[0, 1, 3, 4, 5], SIZE // 2 - 4 : SIZE // 2 + 4, SIZE // 2 - 4 : SIZE // 2 + 4].mean(axis=(1, 2))
    assert np.all(middles[:, 0] > 3 * middles[:, 1:].max(axis=1))


def test_variants_depend_on_content_and_seed_and_not_on_what_came_before_or_comes_after(worker):
    first, second = cut_out(200), cut_out(201)
    found = [worker.decode_variants(data) for data in (first, second, first)]
    (fewer,) = variants_of(first, variants=1, seed=3)
    (different,) = variants_of(first, variants=5, seed=4)

    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[0][:2], fewer)
    assert not np.array_equal(found[0][1:], found[1][1:])
    assert not np.array_equal(found[0][1:], different[1:])


NOTHING = cv2.imencode(".png", np.zeros((40, 60, 4), np.uint8))[1].tobytes()


@cache
def in_scenes() -> list:
    """Two variants and three scenes of each of the three formats, of another disc, of the first again, of nothing."""
    files = [*(cut_out(suffix=suffix) for suffix in SUFFIXES), cut_out(201), cut_out(), NOTHING]
    return variants_of(*files, size=96, variants=2, scenes=3, seed=3)


def test_scenes_come_last_and_have_the_item_without_its_background():
    without = variants_of(*(cut_out(suffix=suffix) for suffix in SUFFIXES), size=96, variants=2, seed=3)

    for found, variants in zip(in_scenes()[:3], without, strict=True):
        assert (found.shape, found.dtype) == ((6, 96, 96, 3), np.uint8)
        assert np.array_equal(found[:3], variants)
        for scene in found[3:].astype(int):
            red = (scene[:, :, 0] > 90) & (scene[:, :, 0] > 3 * scene[:, :, 1:].max(axis=2))
            assert 0.05 < red.mean() < 0.6
            assert scene[~red].std() > 5


def test_scenes_depend_on_content_alone_and_are_all_different_even_where_nothing_shows():
    first, _, _, other, again, of_nothing = in_scenes()

    assert np.array_equal(first, again)
    assert not np.array_equal(first[3:], other[3:])
    assert len({scene.tobytes() for scene in first[3:]}) == 3
    assert len({scene.tobytes() for scene in of_nothing[3:]}) == 3


def test_variants_get_the_steps_that_a_query_would():
    (found,) = variants_of(cut_out(), variants=2, steps=Steps(grayscale=True))

    assert np.array_equal(found, found[..., :1].repeat(3, axis=-1))


def test_variants_of_a_damaged_image_are_made_where_damage_is_let_in(worker):
    colors = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    cut = cv2.imencode(".jpg", cv2.resize(colors, (300, 400)))[1].tobytes()[:-2000]

    (found,) = variants_of(cut, policy=FilePolicy(keep_damaged=True), variants=2)

    assert found.shape == (3, SIZE, SIZE, 3)
    with pytest.raises(ImageError, match="cut short"):
        worker.decode_variants(cut)


@pytest.mark.slow
def test_variants_of_a_very_large_image_are_made_within_the_worker_s_memory():
    (found,) = variants_of(cut_out(11_000), variants=3, seconds=200)  # as float32 it would fill all of it

    middle = found[:, SIZE // 2, SIZE // 2].astype(int)
    assert np.all(middle[:, 0] > 3 * middle[:, 1:].max(axis=1))
