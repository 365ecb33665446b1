"""Nearest lists against a comparison of everything with everything at once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.catalog import lists
from imgsearch.catalog.lists import DIGITS, Grouping, merged, nearest_lists

COUNTS = st.integers(1, 40)


@pytest.fixture(autouse=True, scope="module")
def small_blocks():
    before = lists._ROWS, lists._COLUMNS
    lists._ROWS, lists._COLUMNS = 7, 11
    yield
    lists._ROWS, lists._COLUMNS = before


def brute(vectors, groups, k):
    scores = (vectors @ vectors.T).round(DIGITS)
    found = []
    for ours in range(groups.max() + 1):
        near = [(-scores[np.ix_(groups == ours, groups == other)].max(), other) for other in range(groups.max() + 1)]
        found.append([other for _, other in sorted(near) if other != ours][:k])
    return found


@given(st.integers(0, 2**32 - 1), COUNTS, st.integers(1, 9), st.integers(1, 40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_lists_are_those_of_a_comparison_of_everything_at_once(seed, count, k, group_count, with_copies):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(count, 4)).astype(np.float32)
    if with_copies:
        vectors = vectors[generator.integers(0, count, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    groups = np.unique(generator.integers(0, group_count, count), return_inverse=True)[1]

    for grouping, expected in ((Grouping.by(groups), groups), (Grouping.of_items(count), np.arange(count))):
        found = [row for part in merged(nearest_lists(vectors, grouping, k)) for row in part.others.tolist()]
        assert [[other for other in row if other >= 0] for row in found] == brute(vectors, expected, k)


def test_rows_that_are_left_out_are_in_no_list():
    vectors = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.arange(0, 40, 3)

    found = np.concatenate([part.others for part in nearest_lists(vectors, Grouping(rows, np.arange(len(rows))), 5)])

    assert found.tolist() == brute(vectors[rows], np.arange(len(rows)), 5)


def test_a_run_that_begins_later_yields_the_same_blocks():
    vectors = np.eye(30, dtype=np.float32)
    grouping = Grouping.of_items(30)

    whole, rest = list(nearest_lists(vectors, grouping, 3)), list(nearest_lists(vectors, grouping, 3, 2))

    assert len(whole) == 5
    assert [part.others.tolist() for part in rest] == [part.others.tolist() for part in whole[2:]]
