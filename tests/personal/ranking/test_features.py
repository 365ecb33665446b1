"""What a learned order knows of a hit, by hand, and NaN for what is not known."""

from contextlib import closing
from dataclasses import replace
from math import exp, log, nan

import numpy as np
import pytest

from imgsearch import Index
from imgsearch.colors import differences, lab_of
from imgsearch.personal.ranking.features import FEATURES, FeatureContext, Quantiles, features, quantiles_of
from imgsearch.personal.recommend.history import History
from imgsearch.search.views import View
from imgsearch.store import generations
from imgsearch.store.database import connect
from vector_indexes import learn_order, linear, store_index

VECTORS = np.array([[1, 0, 0], [0.8, 0.6, 0], [0.6, 0, 0.8]], np.float32)
ALL = np.linspace(0, 100, 101)
NOTHING = Quantiles((), np.full((1, 101), nan))
CONTEXT = FeatureContext(NOTHING, NOTHING)
DAY = 86_400.0


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Two shoes and a lamp: a red one is asked with, then come a blue and red one, and one without colors."""
    directory = store_index(
        tmp_path_factory.mktemp("shop") / "index",
        VECTORS,
        paths=["a.png", "b.png", "c.png"],
        categories=["shoes", "shoes", "lamps"],
        metadata=[
            {"Price": 10, "added": "2024-01-01"},
            {"Price": 20.5, "added": "2024-01-02T12:00:00Z"},
            {"added": "2024-02-30"},
        ],
    )
    with closing(connect(directory / "gen-000001" / generations.ITEMS)) as items:
        items.executemany(
            "INSERT INTO colors VALUES (?, ?, ?, ?, '', 1)",
            [(0, 0, "#ff0000", 1), (1, 0, "#0000ff", 0.6), (1, 1, "#ee0000", 0.35), (1, 2, "#ff0000", 0.05)],
        )
    learn_order(directory, linear())  # which publishes the colors, too
    with Index.open(directory) as opened:
        yield opened


def known(index, hits, views, context=CONTEXT):
    """Each feature by its name, for all hits."""
    found = features(index, hits, views, context)
    assert (found.shape, found.dtype) == ((len(hits), len(FEATURES)), np.float32)
    return dict(zip(FEATURES, found.T.tolist(), strict=True))


def test_scores_and_cosines_are_those_of_whole_and_parts(shop):
    hits = shop.search_item("a.png")
    whole, *others = [View(VECTORS[0]), View(np.array([0, 1, 0], np.float32)), View(np.array([0, 0, 1], np.float32))]

    found = known(shop, hits, [whole, *others])
    assert [hit.path for hit in hits] == ["b.png", "c.png"]
    assert found["score"] == found["whole"] == pytest.approx([0.8, 0.6])
    assert found["region"] == pytest.approx([0.6, 0.8])
    assert np.isnan(known(shop, hits, [whole])["region"]).all()


def test_what_is_not_known_is_nan(shop):
    found = known(shop, shop.search_item("a.png"), [])

    unknown = {name for name, values in found.items() if np.isnan(values).all()}
    assert unknown == set(FEATURES) - {"score", "agreement"}
    assert features(shop, [], [], CONTEXT).shape == (0, len(FEATURES))


def test_what_a_hit_says_of_itself_is_taken_from_it(shop):
    first, second = shop.search_item("a.png")
    parts = {"picture": 0.8, "title": 0.4, "predicted": 0.3, "text": 0.2, "words": 0.1}
    said = replace(first, matched=parts, inliers=7, probability=0.9)

    found = known(shop, [said, replace(second, matched={"words": 0.5}, inliers=0)], [])
    assert [found[part][0] for part in ("title", "predicted", "text", "words")] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert found["words"] == pytest.approx([0.1, 0.5])
    assert np.isnan(found["title"][1])
    assert found["inliers"] == [7, 0]
    assert found["probability"] == pytest.approx([0.9, nan], nan_ok=True)


def test_hits_of_a_category_agree_as_they_vote(shop):
    far = exp((0.6 - 0.8) / 0.07)

    found = known(shop, shop.search_item("a.png"), [])
    assert found["agreement"] == pytest.approx([1 / (1 + far), far / (1 + far)])


def test_popularity_is_a_logarithm_and_0_without_events(shop):
    context = FeatureContext(NOTHING, NOTHING, popularity=np.array([5.0, 9.0, 0.0]))

    assert known(shop, shop.search_item("a.png"), [], context)["popularity"] == pytest.approx([log(10), 0])


def test_price_and_age_are_shares_of_the_category(shop):
    start = 1_704_067_200.0  # 2024-01-01, in UTC
    price = Quantiles(("shoes",), np.array([ALL, np.full(101, 50.0)]))
    recency = Quantiles(("shoes",), np.array([start + ALL * DAY / 50, ALL]))
    found = known(shop, shop.search_item("a.png"), [], FeatureContext(price, recency))

    assert found["price"] == pytest.approx([21 / 101, nan], nan_ok=True)
    # A day and a half is 75 hundredths of the way; February 30 is none.
    assert found["recency"] == pytest.approx([75.5 / 101, nan], nan_ok=True)


def test_equal_prices_count_half_and_other_categories_as_all():
    prices = Quantiles(("shoes",), np.array([np.full(101, 5.0), ALL]))

    found = prices.shares_below(["shoes", "shoes", "shoes", "hats", "hats"], np.array([5, 4, 6, 50, nan]))
    assert found == pytest.approx([0.5, 0, 1, 0.5, nan], nan_ok=True)
    assert np.isnan(NOTHING.shares_below(["hats"], np.array([5.0]))).all()


def test_color_is_that_of_the_nearest_main_color_of_the_hit(shop):
    # Of "#ff0000", which has a twentieth of it, a hit is not colored.
    red, nearest = lab_of([255, 0, 0]), lab_of([238, 0, 0])
    own = View(VECTORS[0], row=0)

    found = known(shop, shop.search_item("a.png"), [own])["color"]
    assert found == pytest.approx([float(differences(red, nearest)), nan], nan_ok=True)
    # The first hit stands for a photo.
    assert known(shop, shop.search_item("a.png"), [View(VECTORS[0])])["color"][0] == 0


def test_a_color_that_was_asked_for_is_the_one_that_counts(shop):
    first, second = shop.search_item("a.png")
    hits = [replace(first, color_difference=7.5), second]
    assert known(shop, hits, [])["color"] == pytest.approx([7.5, nan], nan_ok=True)


def test_the_profile_is_of_what_the_person_liked(shop):
    liked = History(np.array([2]), np.array([3.0]))
    disliked = History(np.array([2]), np.array([-3.0]))
    hits = shop.search_item("a.png")

    found = known(shop, hits, [], FeatureContext(NOTHING, NOTHING, history=liked))["profile"]
    assert found == pytest.approx([0.48, 1], abs=1e-6)
    nobody = known(shop, hits, [], FeatureContext(NOTHING, NOTHING, history=disliked))["profile"]
    assert np.isnan(nobody).all()


def test_quantiles_are_of_each_category_with_enough_values_and_of_all(tmp_path):
    count = 60
    directory = store_index(
        tmp_path / "index",
        np.eye(count, dtype=np.float32),
        categories=["shoes"] * 30 + ["hats"] * 25 + ["lamps"] * 5,
        metadata=[{"price": row} if row < 40 else {"price": None} for row in range(count)],
    )
    with Index.open(directory) as index:
        price, recency = quantiles_of(index)

    assert price.categories == ("shoes",)  # of hats ten have a price
    assert price.values.shape == (2, 101)
    assert price.values[:, [0, 50, 100]].tolist() == [[0, 14.5, 29], [0, 19.5, 39]]
    # Without a column of dates the times of the files count.
    assert recency.categories == ("shoes", "hats")
    assert (recency.values == 1e-9).all()


def test_an_index_without_prices_has_no_quantiles_of_them(tmp_path):
    with Index.open(store_index(tmp_path / "index", VECTORS)) as index:
        price, recency = quantiles_of(index)

    assert (price.categories, recency.categories) == ((), ())
    assert np.isnan(price.values).all()
    assert (recency.values == 1e-9).all()
