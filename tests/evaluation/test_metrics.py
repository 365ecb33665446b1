import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from imgsearch.evaluation.metrics import average_precision, hit_rate

RANKS = st.lists(st.none() | st.integers(1, 50), min_size=1)


def test_a_hand_worked_case():
    ranks = [1, 3, None, 2]

    assert [hit_rate(ranks, k) for k in (1, 2, 3, 10)] == [0.25, 0.5, 0.75, 0.75]


@given(RANKS, st.integers(1, 50))
def test_it_grows_with_k_and_stays_a_share(ranks, k):
    assert 0 <= hit_rate(ranks, k) <= hit_rate(ranks, k + 1) <= 1


@given(RANKS)
def test_with_k_large_enough_only_missing_answers_count_against_it(ranks):
    assert hit_rate(ranks, 50) == pytest.approx(1 - ranks.count(None) / len(ranks))


@pytest.mark.parametrize(("ranks", "k"), [([], 1), ([1], 0), ([1], -3)])
def test_no_queries_or_no_answers_is_an_error(ranks, k):
    with pytest.raises(ValueError, match="at least 1"):
        hit_rate(ranks, k)


def test_average_precision_of_a_hand_worked_case():
    # Right at 1 and 3 of 4: (1/1 + 2/3) / 2.
    assert average_precision(np.array([True, False, True, False])) == pytest.approx(5 / 6)


@given(st.lists(st.booleans(), min_size=1).filter(any))
def test_average_precision_is_that_of_scikit_learn(relevant):
    ranking = np.array(relevant)

    found = average_precision(ranking)

    assert found == pytest.approx(average_precision_score(ranking, -np.arange(len(ranking))))
    assert found <= average_precision(np.sort(ranking)[::-1]) == 1


def test_a_ranking_without_a_right_answer_has_no_average_precision():
    with pytest.raises(ValueError, match="right answer"):
        average_precision(np.array([False, False]))
