"""Recommendations from what one person did."""

import numpy as np
import pytest

from imgsearch import DamagedIndexError, Filter, HistoryError, Index, UsageError
from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import DEFAULT_WEIGHTS, Event
from imgsearch.personal.recommend.history import MOST_EVENTS, NO_HISTORY, history_of, history_of_user
from imgsearch.personal.recommend.recommender import Recommender, blended
from imgsearch.store import generations
from imgsearch.store.learned import Blend
from recommend_indexes import DAY, NAMES, NOW, PRODUCTS, learn, record, shop


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return learn(shop(tmp_path_factory.mktemp("learned") / "index"))


@pytest.fixture(scope="module")
def index(folder):
    with Index.open(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def recommender(index):
    with Recommender(index) as opened:
        yield opened


@pytest.fixture(scope="module")
def unlearned(tmp_path_factory):
    with Index.open(shop(tmp_path_factory.mktemp("plain") / "index")) as opened:
        yield Recommender(opened)


@pytest.fixture(scope="module")
def did(index):
    """The history of somebody who did things: did("buy shoe0", "view lamp1 20"), the last one 20 days ago."""

    def summed(*events, half_life=10.0):
        given = []
        for kind, name, *days in map(str.split, events):
            given.append(Event(NOW - int(float(days[0] if days else 0) * DAY), kind, name))
        return history_of(given, index.items, DEFAULT_WEIGHTS, half_life, NOW)

    return summed


def names_of(hits):
    return [hit.product for hit in hits]


def kinds_of(hits):
    return {hit.product[:4] for hit in hits}


def weights_of(history):
    return {NAMES[row]: weight for row, weight in zip(history.rows.tolist(), history.weights.tolist(), strict=True)}


def test_a_history_sums_up_decayed_weights_by_product(did):
    history = did("view shoe0", "buy shoe0-back.png 10", "click lamp1 20", "dislike vase3", "cart lamp1.png -5")

    assert weights_of(history) == {"shoe0": 1 + 4, "lamp1": 0.5 + 4, "vase3": -4}
    assert [NAMES[row] for row in history.refused] == ["vase3"]


def test_impressions_and_what_left_the_catalog_count_nothing(index):
    shown = Event(NOW, "view", "shoe1", "shoes", 3)
    events = [shown, Event(NOW, "buy", "gone"), Event(NOW, "buy", "gone.png"), Event(NOW, "click", "shoe2", "shoes", 4)]
    history = history_of(events, index.items, DEFAULT_WEIGHTS, 10.0, NOW)

    assert weights_of(history) == {"shoe2": 2}
    assert len(history_of(events[:3], index.items, DEFAULT_WEIGHTS, 10.0, NOW)) == 0


def test_the_newest_events_count_that_are_no_impressions(index):
    old = Event(NOW - 2 * DAY, "buy", "vase9")
    many = [Event(NOW - DAY, "click", NAMES[number % 20]) for number in range(MOST_EVENTS)]
    shown = [Event(NOW, "view", "vase8", "vases", 1)] * 10
    history = history_of([*shown, *many, old], index.items, DEFAULT_WEIGHTS, 1e9, NOW)

    assert weights_of(history).pop("vase9") == 0
    assert set(weights_of(history)) == {*NAMES[:20], "vase9"}
    assert history.weights.sum() == pytest.approx(2 * MOST_EVENTS)


def test_what_was_disliked_or_seen_long_ago_is_left_out_however_much_somebody_did_since(recommender, index, tmp_path):
    (tmp_path / "events").mkdir()
    with EventStore(tmp_path / "events", key=tmp_path / "key") as store:
        store.add([("mia", Event(NOW - 9 * DAY, "dislike", "vase9")), ("mia", Event(NOW - 8 * DAY, "view", "vase8"))])
        store.add(("mia", Event(NOW - number, "click", NAMES[number % 20])) for number in range(MOST_EVENTS))
        history = history_of_user(store, "mia", index.items, 10.0)

    assert names_of(index.items.fetch(history.refused.tolist())) == ["vase9"]
    seen = names_of(recommended := recommender.recommend(history, len(PRODUCTS), exclude_seen=True))
    assert not {*NAMES[:20], "vase8", "vase9"} & set(seen)
    assert len(recommended) > 0


def test_what_was_bought_again_after_it_was_given_back_is_not_refused(did):
    assert len(did("buy shoe1 3", "return shoe1 2", "buy shoe1 1").refused) == 0
    assert len(did("buy shoe1 3", "return shoe1 2", "view shoe1 1").refused) == 1


def test_who_was_last_here_long_ago_gets_the_same(recommender, did):
    now, long_ago = did("buy shoe1", "click lamp1"), did("buy shoe1 5000", "click lamp1 5000", half_life=1.0)

    assert names_of(recommender.recommend(now, 5)) == names_of(recommender.recommend(long_ago, 5))


def test_two_interests_both_appear(unlearned, did):
    hits = unlearned.recommend(did("buy shoe1", "click shoe2", "buy lamp1", "click lamp2"), 10, exclude_seen=True)

    assert kinds_of(hits[:4]) == {"shoe", "lamp"}
    assert kinds_of(hits) == {"shoe", "lamp"}


def test_without_a_model_and_with_a_history_content_is_the_way(unlearned, did):
    history = did("buy shoe4")

    hits = unlearned.recommend(history, 3)

    assert unlearned.method_for(history) == "content"
    assert hits[0].product == "shoe4"
    assert set(names_of(hits[1:])) == {"shoe3", "shoe5"}
    assert [list(hit.matched) for hit in hits] == [["content"]] * 3
    assert hits[0].score == pytest.approx(1, abs=1e-6)


def test_a_new_product_is_recommended_by_its_picture(recommender, did):
    """Nobody did anything with shoe1, which is like shoe0; those who want that want a lamp, and nobody a vase."""
    hits = recommender.recommend(did("buy shoe0"), 20, exclude_seen=True)

    assert hits[0].product == "shoe1"
    assert next(hit.category for hit in hits if hit.category != "shoes") == "lamps"
    assert list(hits[0].matched) == ["content", "collaborative"]  # nothing is known of how popular it is


def test_collaborative_brings_what_the_same_people_want(recommender, did):
    hits = recommender.recommend(did("buy shoe0"), 2, method="collaborative")

    assert hits[0].product == "lamp9"
    assert hits[0].score == 1


def test_to_somebody_unknown_popular_products_are_recommended(recommender):
    hits = recommender.recommend(NO_HISTORY, 3)

    assert recommender.method_for(NO_HISTORY) == "popular"
    assert names_of(hits)[:2] == ["vase0", "vase1"]
    assert [list(hit.matched) for hit in hits] == [["popular"]] * 3
    assert hits[0].score == 1


def test_popular_by_category_gives_as_many_as_are_asked_for(recommender):
    hits = recommender.recommend(NO_HISTORY, 4, method="popular", filter=Filter(category="lamps"))

    assert names_of(hits) == ["lamp9", "lamp0", "lamp1", "lamp2"]
    assert [hit.matched for hit in hits[1:]] == [{}] * 3


@pytest.mark.parametrize("method", ["auto", "hybrid", "content", "collaborative", "popular"])
def test_what_was_disliked_or_given_back_is_never_recommended(recommender, did, method):
    history = did("buy shoe1", "buy shoe0 1", "return shoe0", "like lamp9 1", "dislike lamp9", "dislike vase0")

    hits = recommender.recommend(history, 40, method=method)

    assert not {"shoe0", "lamp9", "vase0"} & set(names_of(hits))
    assert len(hits) == len(PRODUCTS) - 4


def test_what_is_like_what_was_disliked_comes_later(unlearned, did):
    liked, both = did("buy shoe5"), did("buy shoe5", "dislike shoe7")

    assert names_of(unlearned.recommend(liked, 2))[1] in ("shoe4", "shoe6")
    assert names_of(unlearned.recommend(both, 3, exclude_seen=True))[:2] == ["shoe4", "shoe3"]


def test_who_only_disliked_gets_popular_products(recommender, unlearned, did):
    history = did("dislike vase0")

    assert names_of(recommender.recommend(history, 1)) == ["vase1"]
    with pytest.raises(HistoryError):
        unlearned.recommend(history)


def test_seen_products_are_left_out_with_all_their_images(recommender, did):
    history = did("buy shoe0", "view lamp1")

    assert {"shoe0", "lamp1"} <= set(names_of(recommender.recommend(history, 40)))
    hits = recommender.recommend(history, 40, exclude_seen=True)
    assert sorted(names_of(hits)) == sorted(set(NAMES) - {"shoe0", "lamp1"})


def test_a_filter_returns_as_many_hits_as_are_asked_for(recommender, did):
    hits = recommender.recommend(did("buy shoe0"), 5, filter=Filter("price >= 20", category="vases"))

    assert len(hits) == 5
    assert all(hit.category == "vases" and hit.metadata["price"] >= 20 for hit in hits)


def test_by_product_there_is_one_hit_for_each(recommender, did):
    history = did("buy shoe1")

    assert names_of(recommender.recommend(history, 40)).count("shoe0") == 2
    hits = recommender.recommend(history, 40, distinct="product")
    assert sorted(names_of(hits)) == sorted(NAMES)
    assert {hit.product: hit.others for hit in hits}["shoe0"] == 1


def test_diverse_hits_are_not_all_alike(recommender, did):
    history = did("buy shoe1")

    assert kinds_of(recommender.recommend(history, 3)) == {"shoe"}
    assert len(kinds_of(recommender.recommend(history, 3, diverse=0.3))) > 1


def test_a_history_of_items_names_products_and_paths(recommender):
    history = recommender.history_of_items(["shoe0-back.png", "lamp1", "./lamp1.png"])

    assert weights_of(history) == {"shoe0": 1, "lamp1": 1}
    with pytest.raises(UsageError, match="no product 'shoe77'"):
        recommender.history_of_items(["shoe77"])
    with pytest.raises(UsageError, match="expected names"):
        recommender.history_of_items(["shoe1", ""])


def test_a_history_of_a_user_is_that_of_the_events_of_the_index(folder, recommender, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path / "events.key"))
    assert len(recommender.history_of_user("anna")) == 0
    assert not (folder / generations.EVENTS).exists()

    with EventStore(folder) as store:
        store.add([("anna", Event(NOW, "buy", "shoe1")), ("ben", Event(NOW - 10 * DAY, "buy", "lamp1"))])
        store.set_weights({"buy": 10})

    assert weights_of(recommender.history_of_user("anna")) == {"shoe1": 10}
    assert weights_of(recommender.history_of_user("ben")) == {"lamp1": 5}
    assert len(recommender.history_of_user("eve")) == 0


def test_a_history_that_the_others_know_nothing_of_is_answered_by_the_rest(recommender, did):
    history = did("buy lamp3")

    parts = recommender.parts(history)

    assert list(parts) == ["content", "popular"]
    assert recommender.method_for(history) == "hybrid"
    assert recommender.method_for(history, "collaborative") == "popular"
    assert names_of(recommender.recommend(history, 1)) == ["lamp3"]


def test_parts_that_are_there_count_in_proportion():
    content, popular = np.array([1.0, 2.0, 3.0]), np.array([np.nan, 1.0, 3.0])
    standard = np.array([-1.0, 0.0, 1.0]) * np.sqrt(1.5)

    found = blended({"content": content, "popular": popular}, Blend(0.6, 0.2, 0.2))

    assert found == pytest.approx(0.75 * standard + 0.25 * np.array([0, -1, 1]))
    assert blended({"content": content}, Blend(0, 1, 0)) == pytest.approx(standard)


def test_methods_that_need_a_model_say_so_without_one(unlearned, did):
    for method in ("hybrid", "collaborative", "popular"):
        with pytest.raises(UsageError, match=f"{method} needs") as refused:
            unlearned.recommend(did("buy shoe1"), method=method)
        assert "imgsearch train --objective recommend" in refused.value.hint
    with pytest.raises(HistoryError, match="nothing says") as refused:
        unlearned.recommend(NO_HISTORY)
    assert "imgsearch train --objective recommend" in refused.value.hint


@pytest.mark.parametrize("wrong", [{"k": 0}, {"diverse": 2.0}, {"method": "best"}])
def test_what_makes_no_sense_is_refused(recommender, did, wrong):
    with pytest.raises(UsageError):
        recommender.recommend(did("buy shoe1"), **wrong)


def test_after_it_is_closed_it_says_so(folder):
    with Index.open(folder) as index:
        closed = Recommender(index)
        closed.close()

        with pytest.raises(UsageError, match="closed"):
            closed.recommend(NO_HISTORY)


@pytest.fixture
def mine(tmp_path):
    return learn(shop(tmp_path / "index"))


@pytest.mark.parametrize("name", [generations.RECOMMEND, generations.RECOMMEND_ROWS])
def test_a_changed_file_is_noticed_before_it_is_used(mine, name):
    file = mine / generations.read_manifest(mine).folder / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    with (
        Index.open(mine) as index,
        Recommender(index) as recommender,
        pytest.raises(DamagedIndexError, match="its content has changed"),
    ):
        recommender.recommend(NO_HISTORY)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (np.zeros(3, np.int32), "of 3 rows, expected 31"),
        (np.zeros(len(PRODUCTS), np.int64), "expected <i4"),
        (np.full(len(PRODUCTS), 4, np.int32), "products that are not there"),
        (np.full(len(PRODUCTS), -2, np.int32), "products that are not there"),
    ],
)
def test_rows_that_fit_nothing_are_refused(mine, rows, problem):
    np.save(mine / generations.read_manifest(mine).folder / generations.RECOMMEND_ROWS, rows)
    record(mine, generations.RECOMMEND_ROWS)

    with (
        Index.open(mine) as index,
        Recommender(index) as recommender,
        pytest.raises(DamagedIndexError, match=problem),
    ):
        recommender.recommend(NO_HISTORY)


def test_a_file_that_is_missing_is_damage(mine):
    with Index.open(mine) as index:
        (mine / index.manifest.folder / generations.RECOMMEND).unlink()

        with pytest.raises(DamagedIndexError, match="is missing"):
            Recommender(index)
