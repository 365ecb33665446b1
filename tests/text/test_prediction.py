"""Words of images that have none are learned from the others, or not predicted at all."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.records import as_json, read
from imgsearch.text import prediction
from imgsearch.text.prediction import FEWEST_TEXTS, LEAST_HITS, PredictionGain, learn_prediction

DIMS, TEXT_DIMS = 12, 20


def unit(rows):
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def planted(count, seed=0, noise=0.05):
    """Images, and texts that a linear map makes of them."""
    generator = np.random.default_rng(seed)
    images = unit(generator.normal(size=(count, DIMS)))
    way = generator.normal(size=(DIMS, TEXT_DIMS))
    return images, unit(images @ way + noise * generator.normal(size=(count, TEXT_DIMS)))


@pytest.fixture(scope="module")
def catalog():
    return planted(600)


def learn(images, texts, seed=0):
    return learn_prediction(images, np.arange(len(images)), texts, seed)


def test_a_planted_linear_map_is_found(catalog):
    images, texts = catalog
    found, gain = learn(images[:400], texts[:400])
    predicted = found.predict(images[400:])

    assert np.allclose(np.linalg.norm(predicted, axis=1), 1, atol=1e-5)
    assert predicted.dtype == np.float32
    assert np.sum(predicted * texts[400:], axis=1).mean() > 0.9
    assert gain.hit_rate > 0.95
    assert gain.chance == pytest.approx(10 / 80)
    assert (gain.texts, gain.pictures, gain.pairs) == (80, 80, 320)


def test_only_rows_with_words_are_learned_from(catalog):
    images, texts = catalog
    rows = np.arange(0, 600, 2)
    chosen, _ = learn_prediction(images, rows, texts[rows], seed=3)
    alone, _ = learn(images[rows], texts[rows], seed=3)
    assert np.array_equal(chosen.predict(images), alone.predict(images))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_texts_of_other_images_are_not_predicted(catalog, seed):
    images, texts = catalog
    shuffled = texts[np.random.default_rng(seed).permutation(len(texts))]
    found, gain = learn(images, shuffled, seed)
    assert found is None
    assert gain.hit_rate < LEAST_HITS / gain.texts
    assert not gain.helps


def test_what_is_learned_depends_on_the_seed_alone(monkeypatch):
    images, texts = planted(600, noise=2)
    (one, gain), (same, equal), (_, other) = learn(images, texts, 1), learn(images, texts, 1), learn(images, texts, 2)
    assert np.array_equal(one.predict(images), same.predict(images))
    assert gain == equal
    assert gain != other

    monkeypatch.setattr(prediction, "LARGEST_SAMPLE", 300)
    (sampled, _), (again, _) = learn(images, texts, 1), learn(images, texts, 1)
    assert len(sampled.vectors) == 300
    assert np.array_equal(sampled.predict(images), again.predict(images))


def test_the_images_of_a_text_are_held_out_together(monkeypatch):
    """Or else a text that many images share would be known, and found for nothing."""
    images, texts = planted(250)
    generator = np.random.default_rng(5)
    four = unit(np.repeat(images, 4, axis=0) + 0.01 * generator.normal(size=(1000, DIMS)))
    shuffled = np.repeat(generator.permutation(texts), 4, axis=0)
    found, gain = learn(four, shuffled)
    assert found is None
    assert (gain.texts, gain.pictures, gain.pairs) == (50, 200, 800)
    assert gain.chance == pytest.approx(1 - np.prod([(196 - place) / (200 - place) for place in range(10)]))


def test_too_few_texts_say_nothing():
    images, texts = planted(FEWEST_TEXTS - 1)
    assert learn(images, texts) == (None, None)
    many = np.arange(1000) % (FEWEST_TEXTS - 1)
    assert learn(images[many], texts[many]) == (None, None)
    assert learn(images[:0], texts[:0]) == (None, None)


def test_texts_that_the_encoder_knows_nothing_of_are_left_out(catalog):
    images, texts = (part.copy() for part in catalog)
    texts[::2] = 0
    found, gain = learn(images, texts)
    assert len(found.vectors) == 300
    assert gain.pairs == 240
    assert learn(images, np.zeros_like(texts)) == (None, None)


def test_images_that_are_all_equal_teach_nothing():
    images = np.tile(unit(np.ones((1, DIMS))), (300, 1))
    found, gain = learn(images, planted(300)[1])
    assert found is None
    assert not gain.helps


@pytest.mark.parametrize("rows", [0, 1, 7, 40])
def test_blocks_give_what_one_pass_gives(catalog, monkeypatch, rows):
    images, texts = catalog
    found, _ = learn(images, texts)
    whole = found.predict(images[:rows])
    monkeypatch.setattr(prediction, "_BLOCK", 3 * len(found.vectors))
    assert np.allclose(found.predict(images[:rows]), whole, atol=1e-6)
    in_blocks, _ = learn(images, texts)
    assert np.allclose(in_blocks.coefficients, found.coefficients, atol=1e-5)


def test_what_it_is_worth_can_be_kept_and_read():
    gain = PredictionGain(pairs=480, texts=120, pictures=130, hit_rate=0.65, chance=0.08)
    assert read(PredictionGain, as_json(gain)) == gain
    assert gain.helps
    assert gain.in_words() == (
        "of 120 held-out texts 0.650 find their image among the first 10 of 130, 0.080 by chance"
    )
