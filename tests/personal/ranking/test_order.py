"""Hits in an order that was learned: what a model says, and nothing else of an answer is changed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from imgsearch import Index
from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.personal.ranking.order import LearnedOrder, learned_order
from imgsearch.search.hits import Filter
from imgsearch.search.views import Indexed
from imgsearch.service.answers import answer
from imgsearch.service.metrics import Metrics
from imgsearch.service.opened import Generation
from imgsearch.service.requests import SearchRequest
from imgsearch.service.stages import Stages
from imgsearch.store import generations
from vector_indexes import RANKED as COUNT
from vector_indexes import linear


@pytest.fixture(scope="module")
def index(ranked):
    with Index.open(ranked) as opened:
        yield opened


def rows_of(hits):
    return [int(hit.path.removesuffix(".png")) for hit in hits]


def test_hits_are_ordered_by_the_model_and_stay_what_they_are(index):
    plain = {hit.path: hit for hit in index.search_item("00000.png", COUNT)}
    found = index.search_item("00000.png", 3, order=learned_order(index))

    assert rows_of(found) == [29, 28, 27]
    assert [hit.rank for hit in found] == [1, 2, 3]
    assert [replace(plain[hit.path], rank=hit.rank) for hit in found] == found


def test_filters_and_distinct_hits_are_those_of_the_answer(index):
    order = learned_order(index)
    found = index.search_item("00000.png", 2, filter=Filter(where="price < 9"), distinct="product", order=order)

    # Of each product the image that is most alike is the hit.
    assert rows_of(found) == [8, 6]
    assert [hit.others for hit in found] == [0, 1]


def test_what_is_beyond_the_candidates_stays_behind_them(index, monkeypatch):
    monkeypatch.setattr(LearnedOrder, "candidates", 4)
    found = index.search_item("00000.png", 6, order=learned_order(index, explains=True))

    assert rows_of(found) == [4, 3, 2, 1, 5, 6]
    assert [hit.rank for hit in found] == [1, 2, 3, 4, 5, 6]
    assert [bool(hit.moved) for hit in found] == [True] * 4 + [False] * 2
    assert found[-1].moved == {}  # nothing has


def test_equal_hits_stay_in_their_order(index):
    order = LearnedOrder(index, linear(), learned_order(index)._context)

    assert index.search_item("00000.png", 5, order=order) == index.search_item("00000.png", 5)


def test_what_moved_a_hit_sums_to_what_it_is_ordered_by(index):
    found = index.search_item("00000.png", 3, order=learned_order(index, explains=True))

    assert [list(hit.moved) for hit in found] == [["price", "score"]] * 3
    for hit in found:
        below = np.mean(np.linspace(0, COUNT, 101) < hit.metadata["price"])
        equal = np.mean(np.linspace(0, COUNT, 101) == hit.metadata["price"])
        assert hit.moved == pytest.approx({"price": 2 * (below + equal / 2), "score": 0.5 * hit.score}, abs=1e-6)


def test_the_three_largest_changes_are_said_up_or_down(index):
    model = linear(score=1.0, whole=-2.0, agreement=0.5, price=0.0, region=4.0)
    order = LearnedOrder(index, model, learned_order(index)._context, explains=True)
    (hit, *_) = index.search_together([Indexed("00000.png"), Indexed("00029.png")], 1, order=order)

    assert len(hit.moved) == 3
    assert list(hit.moved) == sorted(hit.moved, key=lambda name: -abs(hit.moved[name]))


def test_an_order_and_diverse_hits_are_refused(index):
    with pytest.raises(UsageError, match="order and diverse cannot be combined"):
        index.search_item("00000.png", diverse=0.5, order=learned_order(index))


def test_a_damaged_order_is_refused_before_it_is_read(ranked, tmp_path):
    directory = shutil.copytree(ranked, tmp_path / "index")
    file = directory / "gen-000001" / generations.RANKING
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with Index.open(directory) as opened:
        with pytest.raises(DamagedIndexError, match="its content has changed"):
            learned_order(opened)
        file.unlink()
        with pytest.raises(DamagedIndexError, match="is missing"):
            learned_order(opened)


def test_the_service_orders_hits_as_the_library_does(ranked):
    generation = Generation(ranked, 1, None)
    try:
        request = SearchRequest(k=3, item="00000.png", rank="learned")
        found = answer(generation, request, None, Stages(generation.decoders, Metrics()), None)
    finally:
        generation.retire()

    hits = json.loads(found.json)["hits"]
    assert [hit["path"] for hit in hits] == ["00029.png", "00028.png", "00027.png"]
    assert "moved" not in hits[0]
    # Feedback is kept of what was shown, from which the next order is learned.
    assert found.seen.paths == ("00029.png", "00028.png", "00027.png")
