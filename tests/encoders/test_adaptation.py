import itertools
import logging
import shutil
from dataclasses import replace

import numpy as np
import pytest

from imgsearch.encoders import adaptation
from imgsearch.encoders.adaptation import (
    HELD_OUT,
    MIN_IMAGES,
    SCENE_VIEWS,
    SCENES,
    VARIANTS,
    embedded_variants,
    learn_adaptation,
    measure_gain,
)
from imgsearch.encoders.projection import DIMS, SMALLEST_CATALOG, AdaptationGain, Projection
from imgsearch.encoders.runtime import HandcraftedEncoder
from imgsearch.encoders.table import TABLE
from imgsearch.errors import UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.records import as_json, read
from imgsearch.synthetic import variant_worker
from imgsearch.synthetic.augment import photo_like, screenshot_like
from imgsearch.synthetic.restyle import drawing_like

NOISY = 5


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def photographed(images: int, dims: int, *, seed: int = 0, loud: float = 8.0) -> tuple[np.ndarray, np.ndarray]:
    """Images with their variants, which differ in five known directions; and those directions."""
    chance = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(chance.normal(size=(dims, dims)))
    own = chance.normal(size=(images, 1, dims))
    noise = 0.02 * chance.normal(size=(images, 1 + VARIANTS + HELD_OUT, dims))
    noise[:, 1:, :NOISY] += loud * chance.normal(size=(images, VARIANTS + HELD_OUT, NOISY))
    return unit((own + noise) @ turn), turn[:NOISY]


def test_what_photos_of_one_image_differ_in_is_looked_at_less():
    rows, noisy = photographed(200, 40)

    learned = learn_adaptation(rows[:, 0], rows[:, :-HELD_OUT])

    loud = np.linalg.norm(noisy @ learned.components.T, axis=1)
    others = np.linalg.norm(np.eye(40) @ learned.components.T, axis=1)
    assert loud.max() < 0.5 * others.mean()


def test_held_out_photos_find_their_image_more_often():
    rows, _ = photographed(200, 40)

    gain = measure_gain(None, learn_adaptation(rows[:, 0], rows[:, :-HELD_OUT]), rows[:, 0], rows[:, -HELD_OUT:])

    assert gain.images == 200
    assert gain.helps
    assert gain.after > gain.before + 0.1


def test_it_helps_images_too_that_it_was_not_learned_from():
    rows, _ = photographed(300, 40)

    gain = measure_gain(
        None, learn_adaptation(rows[:200, 0], rows[:200, :-HELD_OUT]), rows[200:, 0], rows[200:, -HELD_OUT:]
    )

    assert gain.after > gain.before + 0.1


def test_it_agrees_with_a_whitening_by_hand(monkeypatch):
    monkeypatch.setattr(adaptation, "_SHRINKAGE", 1e-6)
    rows, _ = photographed(300, 12)
    seen = rows[:, :-HELD_OUT].astype(np.float64)

    learned = learn_adaptation(rows[:, 0], rows[:, :-HELD_OUT])

    noise = (seen - seen.mean(axis=1, keepdims=True)).reshape(-1, 12) @ learned.components.T
    covariance = noise.T @ noise
    assert np.allclose(covariance / covariance[0, 0], np.eye(12), atol=0.01)
    assert np.allclose(learned.mean, rows[:, 0].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("count", "dims", "expected"),
    [(100, 40, 40), (100, 300, 300), (SMALLEST_CATALOG, 300, DIMS), (SMALLEST_CATALOG, 40, 40)],
)
def test_only_a_large_catalog_loses_dimensions(count, dims, expected):
    rows, _ = photographed(60, dims)
    catalog, _ = photographed(count, dims, seed=1)

    learned = learn_adaptation(catalog[:, 0], rows[:, :-HELD_OUT])

    assert (learned.mean.shape, learned.components.shape) == ((dims,), (expected, dims))
    assert {learned.mean.dtype, learned.components.dtype} == {np.dtype("f4")}
    assert np.allclose(np.linalg.norm(learned.apply(rows[:, -1]), axis=1), 1, atol=1e-5)


def test_the_strongest_of_a_large_catalog_s_directions_are_kept():
    rows, _ = photographed(520, 280, loud=60)

    learned = learn_adaptation(rows[:, 0], rows[:, :-HELD_OUT])

    assert measure_gain(None, learned, rows[:, 0], rows[:, -HELD_OUT:]).helps


@pytest.mark.parametrize("what", ["no noise", "one image many times", "zeros", "tiny numbers"])
def test_images_that_teach_nothing_give_finite_numbers(what):
    rows, _ = photographed(600, 24)
    if what == "no noise":
        rows = np.repeat(rows[:, :1], rows.shape[1], axis=1)
    elif what == "one image many times":
        rows = np.repeat(rows[:1], 600, axis=0)
    elif what == "zeros":
        rows = np.zeros_like(rows)
    else:
        rows = rows * np.float32(1e-18)

    learned = learn_adaptation(rows[:, 0], rows[:, :-HELD_OUT])

    assert np.isfinite(learned.mean).all()
    assert np.isfinite(learned.components).all()
    assert np.isfinite(learned.apply(rows[:, -1])).all()
    assert 0.1 < np.linalg.norm(learned.components, axis=1).max() <= 1.0001


def test_the_same_images_teach_the_same():
    rows, _ = photographed(100, 40)

    first, second = (learn_adaptation(rows[:, 0].copy(), rows[:, :-HELD_OUT].copy()) for _ in range(2))

    assert first.components.tobytes() == second.components.tobytes()


@pytest.mark.parametrize(
    ("before", "after", "drawings", "helps"),
    [
        (0.5, 0.6, (0.3, 0.4), True),
        (0.5, 0.6, (0.3, 0.3), True),
        (0.5, 0.5, (0.3, 0.4), True),
        (0.5, 0.6, (0.3, 0.2), False),
        (0.6, 0.5, (0.3, 0.4), False),
        (0.5, 0.5, (0.3, 0.3), False),
        (0.5, 0.6, (), True),
        (1.0, 1.0, (), False),
        (0.6, 0.5, (), False),
    ],
)
def test_only_what_finds_more_of_one_kind_and_not_less_of_the_other_helps(before, after, drawings, helps):
    assert AdaptationGain(100, before, after, *drawings).helps is helps


def test_a_gain_from_before_there_were_drawings_is_read_and_told_as_it_was():
    old = read(AdaptationGain, {"pictures": 24, "before": 0.5, "after": 0.75})
    new = replace(old, drawings_before=0.25, drawings_after=0.375)

    assert old == AdaptationGain(24, 0.5, 0.75)
    assert read(AdaptationGain, as_json(new)) == new
    assert old.in_words() == "of held-out variants of 24 images 0.750 find theirs first, 0.500 without"
    assert new.in_words() == f"{old.in_words()}; redrawn 0.375, 0.250 without"


def test_the_gain_is_counted_by_hand():
    originals = np.eye(4, dtype=np.float32)
    # Of the photo-like the third finds the fourth, of the redrawn all find the first.
    held_out = np.stack([originals[[0, 1, 3, 3]], originals[[0, 0, 0, 0]]], axis=1)
    turned = Projection(np.zeros(4, np.float32), np.eye(4, dtype=np.float32))

    assert measure_gain(None, turned, originals, held_out) == AdaptationGain(4, 0.75, 0.75, 0.25, 0.25)


def test_images_that_look_the_same_are_each_other_s_own():
    originals = np.eye(4, dtype=np.float32)[[0, 0, 1, 1]]
    turned = Projection(np.zeros(4, np.float32), np.eye(4, dtype=np.float32))

    held_out = np.stack([originals] * HELD_OUT, axis=1)
    assert measure_gain(None, turned, originals, held_out) == AdaptationGain(4, 1.0, 1.0, 1.0, 1.0)


def test_more_rows_than_a_block_are_all_counted():
    originals = unit(np.random.default_rng(0).normal(size=(1100, 16)))
    held_out = originals.copy()
    held_out[[0, 511, 512, 1099]] *= -1
    turned = Projection(np.zeros(16, np.float32), np.eye(16, dtype=np.float32))

    gain = measure_gain(None, turned, originals, np.stack([held_out, originals], axis=1))
    assert (gain.before, gain.drawings_before) == (1096 / 1100, 1)


# --- images and their variants


@pytest.fixture(scope="module", autouse=True)
def few_variants():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptation, "VARIANTS", 2)
        yield


@pytest.fixture(scope="module")
def encoder():
    return HandcraftedEncoder(TABLE["handcrafted:color"].spec)


def silent(*_: object) -> None:
    """Tell nobody."""


@pytest.fixture(scope="module")
def paths(drawn):
    return [str(file.relative_to(drawn)) for file in sorted(drawn.rglob("*.png"))]


@pytest.fixture(scope="module")
def embedded(drawn, paths, encoder):
    return embedded_variants(drawn, paths, FilePolicy(), encoder, silent)


def test_a_photo_and_a_drawing_are_held_out_and_drawings_are_learned_from_too():
    kinds = list(itertools.islice(itertools.cycle(variant_worker._VARIANT_KINDS), VARIANTS + HELD_OUT))

    assert kinds[-HELD_OUT:] == [photo_like, drawing_like]
    assert [kinds[:VARIANTS].count(kind) for kind in (photo_like, screenshot_like, drawing_like)] == [3, 1, 2]


def test_each_image_comes_with_its_variants(embedded, encoder):
    assert (embedded.shape, embedded.dtype) == ((24, 1 + adaptation.VARIANTS + HELD_OUT, encoder.spec.dims), np.float32)
    assert np.allclose(np.linalg.norm(embedded, axis=2), 1, atol=1e-5)
    likeness = np.einsum("nd,nvd->nv", embedded[:, 0], embedded)
    assert np.allclose(likeness[:, 0], 1, atol=1e-5)
    assert likeness[:, 1:].max() < 0.9999


def test_items_in_scenes_come_between_the_image_and_its_variants(drawn, paths, encoder, embedded, monkeypatch):
    monkeypatch.setattr(adaptation, "MIN_IMAGES", 4)
    scenes = []

    def embed_item(scene):
        scenes.append(scene)
        return np.full((SCENE_VIEWS, encoder.spec.dims), len(scenes), np.float32)

    seen = embedded_variants(drawn, paths[:6], FilePolicy(), encoder, silent, embed_item)

    assert seen.shape == (6, 1 + SCENES * SCENE_VIEWS + adaptation.VARIANTS + HELD_OUT, encoder.spec.dims)
    assert np.array_equal(np.delete(seen, np.s_[1 : 1 + SCENES * SCENE_VIEWS], axis=1), embedded[:6])
    of_scenes = seen[:, 1 : 1 + SCENES * SCENE_VIEWS, 0].reshape(-1, SCENE_VIEWS)
    assert of_scenes[:, 0].tolist() == list(range(1, 6 * SCENES + 1))
    assert {scene.shape for scene in scenes} == {(encoder.spec.size, encoder.spec.size, 3)}
    assert len({scene.tobytes() for scene in scenes}) == len(scenes)


def test_variants_are_the_same_in_any_order_and_what_cannot_be_had_is_left_out(
    drawn, paths, encoder, embedded, tmp_path, caplog, monkeypatch
):
    shutil.copytree(drawn, tmp_path / "some")
    (tmp_path / "some" / paths[0]).unlink()
    (tmp_path / "some" / paths[5]).write_bytes(b"no image")
    (tmp_path / "some" / paths[23]).write_bytes(b"")
    told = []
    monkeypatch.setattr(adaptation, "_FIRST", 4)

    with caplog.at_level(logging.WARNING, "imgsearch"):
        again = embedded_variants(
            tmp_path / "some", paths[::-1], FilePolicy(), encoder, lambda *what: told.append(what)
        )

    assert np.array_equal(again, np.delete(embedded, [0, 5, 23], axis=0)[::-1])
    assert told == [("adapt", done, 24) for done in range(1, 22)]
    assert "adapting to 24 images, 4 variants each: about" in caplog.text


def test_too_few_images_are_a_usage_error(drawn, paths, encoder, monkeypatch):
    with pytest.raises(UsageError, match=f"at least {MIN_IMAGES}.*found 0"):
        embedded_variants(drawn, [], FilePolicy(), encoder, silent)
    monkeypatch.setattr(adaptation, "MIN_IMAGES", 3)
    with pytest.raises(UsageError, match=r"at least 3.*found 2"):
        embedded_variants(drawn, paths[:2], FilePolicy(), encoder, silent)


class HalfBlind(HandcraftedEncoder):
    """Finds nothing in every third image's last variant."""

    def encode_stream(self, batches):
        for number, rows in enumerate(super().encode_stream(batches)):
            rows[-1, 0] = np.nan if number % 3 == 0 else rows[-1, 0]
            yield rows


def test_images_of_which_a_variant_shows_nothing_are_left_out(drawn, paths, encoder, embedded, monkeypatch):
    monkeypatch.setattr(adaptation, "MIN_IMAGES", 4)

    again = embedded_variants(drawn, paths[:6], FilePolicy(), HalfBlind(encoder.spec), silent)

    assert np.array_equal(again, np.delete(embedded[:6], np.s_[::3], axis=0))
