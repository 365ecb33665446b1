import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.evaluation.exposure import exposure_of
from imgsearch.evaluation.queries import Labels


def brands(*names):
    """The brand of each product; empty for none."""
    known = tuple(dict.fromkeys(name for name in names if name))
    return Labels("brand", known, np.array([known.index(name) if name else -1 for name in names], np.int32))


def places(*lists):
    return [np.array(each, np.int64) for each in lists]


@st.composite
def answers(draw):
    """Draw the group of each product, and what people are shown and want of them."""
    names = draw(st.lists(st.sampled_from(["", "a", "b", "c", "d"]), min_size=2, max_size=12))
    lists = st.lists(st.integers(0, len(names) - 1), min_size=1, max_size=10, unique=True)
    people = draw(st.lists(st.tuples(lists, lists), min_size=1, max_size=8))
    return brands(*names), [np.array(shown) for shown, _ in people], [np.array(wanted) for _, wanted in people]


def test_exposure_of_a_hand_worked_case():
    # Two people: a b, and b alone; what they want is of a twice and of b once.
    found = exposure_of(brands("a", "a", "b"), {"hybrid": places([0, 2], [2])}, places([0, 1], [2]))

    second = 1 / math.log2(3)
    assert list(found.groups) == ["a", "b"]
    assert [group.products for group in found.groups.values()] == [2, 1]
    assert [group.relevance.mean for group in found.groups.values()] == pytest.approx([2 / 3, 1 / 3])
    shares = [group.exposure["hybrid"].mean for group in found.groups.values()]
    assert shares == pytest.approx([1 / (2 + second), (1 + second) / (2 + second)])
    assert (found.rest, found.others) == (None, 0)


def test_a_method_that_shows_what_people_want_has_a_ratio_of_one():
    wanted = places(*([number % 3] for number in range(90)))

    found = exposure_of(brands("a", "b", "c"), {"hybrid": wanted, "popular": places(*([0] for _ in wanted))}, wanted)

    assert [group.ratio["hybrid"].mean for group in found.groups.values()] == pytest.approx([1, 1, 1])
    ratios = [group.ratio["popular"].mean for group in found.groups.values()]
    assert ratios == pytest.approx([3, 0, 0])
    # The same people are drawn for what is shown and for what is wanted, so here nothing is uncertain.
    assert all(group.ratio["hybrid"].low == pytest.approx(1) for group in found.groups.values())


def test_the_largest_groups_stand_alone_and_the_rest_is_one():
    found = exposure_of(brands("a", "b", "b", "c", ""), {"hybrid": places([0, 1])}, places([3, 4]), most=2)

    assert list(found.groups) == ["b", ""]  # of equal sizes by name
    assert (found.rest.products, found.others) == (2, 2)
    assert found.rest.relevance.mean == 0.5


def test_a_group_that_hardly_anybody_wants_has_no_ratio():
    found = exposure_of(brands("a", "b"), {"hybrid": places([0], [1], [0])}, places([0], [0], [1]))

    assert found.groups["b"].ratio == {"hybrid": None}  # drawn again, often none of the three wants it


@settings(max_examples=25, deadline=None)
@given(answers(), st.integers(1, 4))
def test_shares_of_all_groups_sum_to_one_and_lie_in_their_intervals(drawn, most):
    labels, shown, wanted = drawn

    found = exposure_of(labels, {"hybrid": shown}, wanted, most=most)

    groups = [*found.groups.values(), *([found.rest] if found.rest else [])]
    assert sum(group.products for group in groups) == len(labels.codes)
    assert sum(group.relevance.mean for group in groups) == pytest.approx(1)
    assert sum(group.exposure["hybrid"].mean for group in groups) == pytest.approx(1)
    assert all(0 <= group.exposure["hybrid"].low <= group.exposure["hybrid"].high <= 1 + 1e-9 for group in groups)
