import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgsearch import Filter, Hit, detect
from imgsearch.errors import UsageError
from imgsearch.search.hits import vote


def hit(category: str, score: float) -> Hit:
    return Hit(1, "image.png", score, math.sqrt(max(0, 2 - 2 * score)), "", category, {})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 2, -1.5])
def test_a_limit_that_no_score_can_be_held_against_is_refused(number, tmp_path):
    for name in ("min_score", "min_probability"):
        with pytest.raises(UsageError, match=f"{name} must be"):
            Filter(**{name: number})
    with pytest.raises(UsageError, match="min_score must be 0 to 1"):
        detect(tmp_path / "none", "photo.png", min_score=number)


def test_a_vote_is_counted_as_by_hand():
    hits = [hit("boots", 0.9), hit("hats", 0.83), hit("boots", 0.83)]

    found = vote(hits)

    share = 1 / math.e  # 0.07 less in score
    assert [(one.rank, one.label) for one in found] == [(1, "boots"), (2, "hats")]
    assert found[0].probability == pytest.approx((1 + share) / (1 + 2 * share))
    assert found[1].probability == pytest.approx(share / (1 + 2 * share))


def test_many_that_are_less_near_outvote_one_that_is_nearest():
    assert vote([hit("boots", 0.9), *[hit("hats", 0.87)] * 3])[0].label == "hats"
    assert vote([hit("boots", 0.9), *[hit("hats", 0.5)] * 20])[0].label == "boots"


def test_equal_shares_stand_by_name():
    assert [one.label for one in vote([hit(name, 0.5) for name in ("c", "", "a", "b")])] == ["", "a", "b", "c"]


def test_no_hits_are_no_votes():
    assert vote([]) == []


@given(st.lists(st.tuples(st.text(max_size=2), st.floats(-1, 1)), min_size=1, max_size=30))
def test_shares_add_up_to_one_and_the_largest_comes_first(neighbors):
    hits = [hit(*pair) for pair in sorted(neighbors, key=lambda pair: -pair[1])]

    found = vote(hits)

    shares = [one.probability for one in found]
    assert math.isclose(sum(shares), 1, abs_tol=1e-9)
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= share <= 1 for share in shares)
    assert [one.rank for one in found] == list(range(1, len(found) + 1))
    assert {one.label for one in found} == {category for category, _ in neighbors}
