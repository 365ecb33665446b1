"""Interests, and how much items are like them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.personal.recommend.profile import MOST_INTERESTS, content_scores, interests
from imgsearch.store.arrays import HalfVectors
from vector_indexes import unit

AXES = np.eye(8, dtype=np.float32)


def near(axis, seed, count):
    """Vectors near an axis."""
    return unit(AXES[axis] + 0.05 * np.random.default_rng(seed).normal(size=(count, 8)))


def test_shoes_and_lamps_are_two_interests():
    vectors = np.concatenate([near(0, 0, 20), near(3, 1, 10)])

    centers, shares = interests(vectors, np.ones(30), 2)

    assert centers @ AXES[[0, 3]].T == pytest.approx(np.eye(2), abs=0.05)
    assert shares == pytest.approx([2 / 3, 1 / 3])


def test_few_products_are_interests_of_their_own_the_heaviest_first():
    centers, shares = interests(AXES[:3], np.array([1.0, 3.0, 2.0]))

    assert np.array_equal(centers, AXES[[1, 2, 0]])
    assert shares == pytest.approx([1 / 2, 1 / 3, 1 / 6])


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 120), st.integers(1, 8), st.integers(0, 1000))
def test_interests_are_unit_vectors_with_shares_whatever_there_is(count, most, seed):
    generator = np.random.default_rng(seed)
    vectors, weights = unit(generator.normal(size=(count, 8))), generator.exponential(size=count) + 1e-300

    centers, shares = interests(vectors, weights, most)

    assert len(centers) == len(shares) <= min(count, most)
    assert np.linalg.norm(centers, axis=1) == pytest.approx(np.ones(len(centers)), abs=1e-6)
    assert centers.dtype == np.float32
    assert shares.sum() == pytest.approx(1)
    assert (np.diff(shares) <= 0).all()
    assert np.array_equal(centers, interests(vectors, weights, most)[0])


def test_opposites_that_cancel_out_leave_the_heavier_one():
    centers, shares = interests(np.stack([AXES[0], -AXES[0]]), np.array([1.0, 1.0]), 1)

    assert (centers.tolist(), shares.tolist()) == ([AXES[0].tolist()], [1.0])


def test_items_like_an_interest_come_before_those_between_two():
    items = unit(np.stack([AXES[0], AXES[3], AXES[0] + AXES[3], AXES[5]]))
    liked = np.concatenate([near(0, 0, 20), near(3, 1, 18)])

    scores = content_scores(items, liked, np.ones(38))

    assert scores.argsort().tolist()[0] == 3
    assert min(scores[:2]) > scores[2]
    assert scores[0] > scores[1]  # of the larger interest
    assert (np.abs(scores) <= 1).all()


def test_what_is_disliked_takes_a_little_away():
    items = unit(np.stack([AXES[0] + 0.3 * AXES[1], AXES[0] - 0.3 * AXES[1]]))
    liked = AXES[:2]

    before, after = (content_scores(items, liked, np.array([1.0, weight])) for weight in (0.0, -1.0))

    assert before[0] == pytest.approx(before[1])
    assert after[0] < after[1]
    assert after[0] > 0.7


def test_equal_pictures_have_equal_scores_wherever_they_lie_and_float16_nearly_the_same():
    generator = np.random.default_rng(0)
    items = np.tile(unit(generator.normal(size=(7, 8))), (1200, 1))
    liked = unit(generator.normal(size=(2 * MOST_INTERESTS, 8)))

    scores = content_scores(items, liked, np.ones(len(liked)))

    assert np.array_equal(scores, np.tile(scores[:7], 1200))
    halves = content_scores(HalfVectors(items.astype(np.float16)), liked, np.ones(len(liked)))
    assert halves == pytest.approx(scores, abs=2e-3)


def test_an_index_without_items_has_no_scores():
    assert content_scores(np.empty((0, 8), np.float32), AXES[:1], np.ones(1)).shape == (0,)
