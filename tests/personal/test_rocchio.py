"""Queries moved by feedback."""

import numpy as np
import pytest

from imgsearch import Index
from imgsearch.personal.feedback import FeedbackStore, Shown, space_of
from imgsearch.personal.rocchio import MOVING, nearest_view, refine_views
from imgsearch.search.views import View
from vector_indexes import store_index, unit

DIMS = 32
QUERY, NEAR, FAR = unit(np.eye(DIMS)[0]), unit(np.eye(DIMS)[0] + 0.3 * np.eye(DIMS)[1]), unit(np.eye(DIMS)[5])
PATHS = tuple(f"{row:05d}.png" for row in range(200))


@pytest.fixture
def index(tmp_path):
    vectors = unit(np.random.default_rng(0).normal(size=(200, DIMS)))
    with Index.open(store_index(tmp_path / "index", vectors)) as opened:
        yield opened


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path) as opened:
        yield opened


@pytest.fixture
def judge(index, store):
    def say(vector, path, verdict, *, number=0, space=None):
        answer = Shown(f"{number:032x}", 1, space or space_of(index.manifest), vector, (*PATHS, "gone.png"))
        store.judge(answer, path, verdict)

    return say


def moved(index, store, vector=QUERY):
    (view,) = refine_views(index, store)([View(vector)])
    return view.vector


def test_without_feedback_a_query_stays_what_it_is(index, store):
    views = [View(QUERY, row=3), View(FAR)]

    assert refine_views(index, store)(views) == views


def test_a_near_query_moves_toward_what_was_chosen_and_away_from_what_was_rejected(index, store, judge):
    vectors = index.nearest.vectors
    judge(NEAR, PATHS[7], "chosen")
    judge(NEAR, PATHS[9], "rejected")

    vector = moved(index, store)

    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert vector @ vectors[7] > QUERY @ vectors[7]
    assert vector @ vectors[9] < QUERY @ vectors[9]
    weight = (NEAR @ QUERY - MOVING.near) / (1 - MOVING.near)
    expected = unit(QUERY + weight * (MOVING.toward * vectors[7] - MOVING.away * vectors[9]))
    assert vector == pytest.approx(expected, abs=1e-6)


def test_nearer_queries_count_more(index, store, judge):
    judge(QUERY, PATHS[7], "chosen")
    same = moved(index, store)
    store.forget(everything=True)
    judge(NEAR, PATHS[7], "chosen")
    near = moved(index, store)

    assert same @ index.nearest.vectors[7] > near @ index.nearest.vectors[7]


def test_far_queries_other_spaces_and_items_that_are_gone_do_not_count(index, store, judge):
    judge(FAR, PATHS[7], "chosen", number=1)
    judge(QUERY, PATHS[7], "chosen", number=2, space="another")
    judge(QUERY, "gone.png", "chosen", number=3)

    assert np.array_equal(moved(index, store), QUERY)


def test_what_is_judged_or_taken_back_in_the_meantime_counts_at_once(index, store, judge, tmp_path):
    refine = refine_views(index, store)
    assert np.array_equal(refine([View(QUERY)])[0].vector, QUERY)

    judge(QUERY, PATHS[7], "chosen")
    assert not np.array_equal(refine([View(QUERY)])[0].vector, QUERY)

    with FeedbackStore(tmp_path) as other:
        other.forget(everything=True)
    assert np.array_equal(refine([View(QUERY)])[0].vector, QUERY)


def test_every_way_to_search_compares_what_a_refinement_returns(built, photo):
    with Index.open(built / "exact") as index:
        other = View(index.nearest.vectors[9])
        (path,) = [item.path for item in index.items.fetch([9])]
        asked = []

        def refine(views):
            asked.append(len(views))
            return [other]

        answers = [
            index.search(photo, 1, refine=refine),
            index.search_item("a/0000.png", 1, refine=refine),
            index.search_together([photo, photo], 1, fuse="mean", refine=refine),
            *(found.hits for found in index.search_objects(photo, 1, refine=refine)),
        ]

    assert len(asked) == len(answers) >= 3
    assert {hit.path for (hit,) in answers} == {path}


def test_what_was_asked_with_is_no_hit_whatever_it_becomes(index):
    hits = index.search_item(PATHS[9], 200, refine=lambda _: [View(index.nearest.vectors[9])])

    assert len(hits) == 199
    assert PATHS[9] not in [hit.path for hit in hits]


def test_of_several_views_the_one_nearest_to_the_item_is_judged(index):
    views = [View(index.nearest.vectors[3]), View(index.nearest.vectors[9])]

    assert nearest_view(index, views, 9) is views[1]


def test_judgments_are_read_again_only_after_a_write(index, store, judge):
    for number in range(30):
        judge(QUERY, PATHS[number], "chosen", number=number)
    refine = refine_views(index, store)
    refine([View(QUERY)])
    read = []
    store.judged = lambda *given: read.append(given)

    refine([View(NEAR), View(FAR)])

    assert read == []  # not again, until something is written
