import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgsearch.errors import UsageError
from imgsearch.images.boxes import Box
from imgsearch.search.diversity import diverse_order
from imgsearch.search.fusion import mean_view, take_away
from imgsearch.search.views import View


def views(*vectors):
    return [View(np.array(vector, np.float32)) for vector in vectors]


def test_the_mean_of_views_has_unit_length_and_one_alone_stays_what_it_is():
    mean = mean_view(views((1, 0), (0, 1)))
    alone = View(np.array([1, 0], np.float32), Box(0, 0, 5, 5), row=7)

    assert mean.vector == pytest.approx([0.5**0.5, 0.5**0.5])
    assert (mean.vector.dtype, mean.row) == (np.float32, None)
    assert mean_view([alone]) is alone


def test_opposites_have_no_mean():
    with pytest.raises(UsageError, match="they are opposites"):
        mean_view(views((1, 0), (-1, 0)))


def test_what_is_taken_away_is_the_weighted_mean_of_the_unwanted():
    box = Box(1, 2, 3, 4)
    (left,) = take_away([View(np.array([1, 0, 0], np.float32), box, row=3)], views((0, 1, 0), (0, 0, 1)), 0.5)

    assert left.vector == pytest.approx(np.array([4, -1, -1]) / 18**0.5)
    assert (left.vector.dtype, left.box, left.row) == (np.float32, box, None)


def test_what_is_wholly_taken_away_is_dropped_and_an_error_where_nothing_is_left():
    wanted, other = views((1, 0), (0, 1))

    assert [view.vector.tolist() for view in take_away([wanted, other], [wanted], 1.0)] == [
        pytest.approx([-(0.5**0.5), 0.5**0.5])
    ]
    with pytest.raises(UsageError, match="nothing is left to search with"):
        take_away([wanted], [wanted], 1.0)
    assert take_away([wanted], [], 1.0) == [wanted]


def unit_rows(count):
    def unit(rows):
        rows = rows + np.array([3, 0, 0], np.float32)  # none is zero
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return arrays(np.float32, (count, 3), elements=st.floats(-1, 1, width=32)).map(unit)


CANDIDATES = st.integers(0, 12).flatmap(unit_rows)


def in_order(vectors):
    scores = vectors @ np.array([1, 0, 0], np.float32)
    order = np.argsort(-scores, kind="stable")
    return scores[order].tolist(), vectors[order]


@given(CANDIDATES, st.integers(1, 15), st.floats(0, 1))
def test_a_diverse_order_begins_with_the_best_and_names_each_once(vectors, k, relevance):
    scores, vectors = in_order(vectors)
    order = diverse_order(scores, vectors, k, relevance)

    assert order[:1] == [0][: len(vectors)]
    assert len(order) == len(set(order)) == min(k, len(vectors))
    assert set(order) <= set(range(len(vectors)))


@given(CANDIDATES, st.integers(1, 15))
def test_with_relevance_alone_the_order_stays(vectors, k):
    scores, vectors = in_order(vectors)

    assert diverse_order(scores, vectors, k, 1.0) == list(range(min(k, len(vectors))))


@given(CANDIDATES, st.floats(0, 1))
def test_each_next_one_has_the_largest_marginal_relevance(vectors, relevance):
    scores, vectors = in_order(vectors)
    order = diverse_order(scores, vectors, len(vectors), relevance)

    def worth(place, chosen):
        return relevance * scores[place] - (1 - relevance) * max(float(vectors[place] @ vectors[at]) for at in chosen)

    for rank in range(1, len(order)):
        left = [worth(place, order[:rank]) for place in order[rank:]]
        assert left[0] == pytest.approx(max(left), abs=1e-5)


def test_copies_of_the_best_come_last():
    best, other = [1, 0], [0.6, 0.8]
    vectors = np.array([best, best, best, other], np.float32)

    assert diverse_order([0.9, 0.9, 0.9, 0.54], vectors, 4, 0.5) == [0, 3, 1, 2]
