import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch.evaluation.metrics import hit_rate

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
