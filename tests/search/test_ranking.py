import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsearch.images.boxes import Box
from imgsearch.search.ranking import Part, Ranking, by_both, by_pictures, fused, less_pictures
from imgsearch.search.views import View

SCORES = st.integers(0, 30).flatmap(lambda count: arrays(np.float64, count, elements=st.floats(-1, 1, width=16)))


@given(SCORES, st.integers(1, 40), st.data())
def test_the_best_are_those_of_a_sort_and_equal_scores_stand_in_the_order_of_rows(scores, k, data):
    scores = np.where(data.draw(arrays(bool, len(scores))), -np.inf, scores)
    rows = np.flatnonzero(data.draw(arrays(bool, len(scores))))
    hits = [row for row in range(len(scores)) if scores[row] > -np.inf]

    assert Ranking(scores, ()).best(k).tolist() == sorted(hits, key=lambda row: (-scores[row], row))[:k]
    assert (
        Ranking(scores, ()).best(k, rows).tolist()
        == sorted(set(hits) & set(rows.tolist()), key=lambda row: (-scores[row], row))[:k]
    )


@given(SCORES, st.data(), st.floats(0, 1))
def test_fused_scores_have_the_order_of_weighted_standard_scores(pictures, data, weight):
    words = data.draw(arrays(np.float64, len(pictures), elements=st.floats(-1, 1, width=16)))

    def standard(scores):
        return (scores - scores.mean()) / scores.std() if scores.std() > 1e-6 else np.zeros(len(scores))

    both = fused(pictures, words, weight)

    assert both.shape == pictures.shape
    if len(pictures) and pictures.std() > 1e-6:
        expected = pictures.mean() + pictures.std() * ((1 - weight) * standard(pictures) + weight * standard(words))
        np.testing.assert_allclose(both, expected, atol=1e-6)


def test_items_that_words_say_nothing_about_have_the_mean_of_the_others():
    pictures = np.array([0.1, 0.2, 0.3, 0.4])

    known = fused(pictures, np.array([0.9, 0.1, 0.5, np.nan]), 1.0)

    assert known[3] == pytest.approx(pictures.mean())
    assert known[0] > known[3] > known[1]


def test_what_is_not_found_by_spelling_counts_as_nothing_beside_a_picture():
    pictures = Ranking(np.array([0.5, 0.5, 0.4]), [Part("picture", np.array([0.5, 0.5, 0.4]))])
    words = Ranking(np.array([-np.inf, 1.0, -np.inf]), [Part("words", np.array([np.nan, 1.0, np.nan]))], otherwise=0.0)

    both = by_both(pictures, words, 0.35)

    assert both.best(3).tolist() == [1, 0, 2]
    assert both.matched(1) == {"picture": 0.5, "words": 1.0}
    assert both.matched(0) == {"picture": 0.5}


def test_items_that_a_rare_word_takes_beyond_1_are_in_the_order_of_their_pictures():
    pictures, words = np.full(10_000, 0.3), np.zeros(10_000)
    pictures[::2] += 0.1
    pictures[[7, 8]] = 0.5, 0.9
    words[[7, 8]] = 1.0

    assert Ranking(fused(pictures, words, 0.5), ()).best(3).tolist()[:2] == [8, 7]


def test_the_rounding_of_equal_vectors_has_no_say():
    pictures = np.float64(np.float32(0.3)) + np.array([0.0, 3e-8, -3e-8, 6e-8])

    assert Ranking(fused(pictures, np.array([0.1, 0.9, 0.5, 0.1]), 0.1), ()).best(4).tolist() == [1, 2, 0, 3]


def test_an_item_has_the_score_and_the_box_of_the_view_that_it_resembles_most():
    vectors = np.eye(3, dtype=np.float32)
    box = Box(1, 2, 3, 4)
    views = [View(np.array([0.6, 0.8, 0], np.float32)), View(np.array([0.8, 0, 0.6], np.float32), box)]

    ranking = by_pictures(vectors, views)

    assert ranking.scores == pytest.approx([0.8, 0.8, 0.6])
    assert [ranking.box(row) for row in range(3)] == [box, None, box]


def test_pictures_are_taken_away_from_what_words_find_and_add_no_hits():
    words = Ranking(np.array([0.8, 0.79, -np.inf, 0.1]), [])
    pictures = Ranking(np.array([0.9, 0.0, 0.0, 0.0]), [])

    left = less_pictures(words, pictures, 0.25)

    assert left.best(4).tolist() == [1, 0, 3]
