"""Filters: always as many hits as there are, with exact scores, whichever way they are found."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import Filter, Index
from imgsearch.errors import UsageError
from imgsearch.search import nearest
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.filtered import FilteredCandidates
from imgsearch.store.conditions import Range
from imgsearch.store.search_settings import BackendSettings

COUNT = 600
COLORS = ("red", "green", "blue", None)
DAYS = [f"2024-{month:02d}-{day:02d}" for month in (1, 2, 12) for day in (1, 15, 31) if (month, day) != (2, 31)]


@pytest.fixture(scope="module")
def rows():
    """The shop's data of each item, some of it missing."""
    generator = np.random.default_rng(5)
    found = []
    for row in range(COUNT):
        data = {
            "price": float(generator.integers(0, 10_000)) / 100,
            "stock": int(generator.integers(0, 20)),
            "color": COLORS[generator.integers(len(COLORS))],
            "added": DAYS[generator.integers(len(DAYS))],
            "size": ["S", "M", "XL"][row % 3],
        }
        found.append({name: value for name, value in data.items() if generator.random() > 0.1})
    return found


@pytest.fixture(scope="module")
def vectors(unit):
    return unit(np.random.default_rng(6).normal(size=(COUNT, 24)))


@pytest.fixture(scope="module")
def products():
    return [f"product {number}" for number in np.random.default_rng(7).integers(0, 150, COUNT)]


@pytest.fixture(scope="module", params=["exact", "annoy"])
def index(request, tmp_path_factory, store_index, vectors, products, rows):
    trees, effort = (10, 100_000) if request.param == "annoy" else (0, 0)
    directory = store_index(
        tmp_path_factory.mktemp("filtered") / "index",
        vectors,
        products=products,
        categories=[f"kind {row % 4}/{row % 3}" for row in range(COUNT)],
        metadata=rows,
        backend=BackendSettings(request.param, trees, 0, effort),
    )
    with pytest.MonkeyPatch.context() as patch, Index.open(directory) as opened:
        patch.setattr(nearest, "FEW", 40)
        yield opened


class Shop:
    """What Hypothesis is not to print whole."""

    def __init__(self, index, vectors, rows):
        self.index, self.vectors, self.rows = index, vectors, rows


@pytest.fixture(scope="module")
def shop(index, vectors, rows):
    return Shop(index, vectors, rows)


def best(vectors, query, matching, k):
    scores = vectors @ query
    return sorted(matching, key=lambda row: (-scores[row], row))[:k], scores


class Condition:
    """A condition in SQL, and in Python on a row of the shop's data."""

    def __init__(self, parts):
        self.text, self.holds = parts

    def __repr__(self):
        return self.text


NUMBERS = st.tuples(st.sampled_from(["price", "stock"]), st.sampled_from(["<", "<=", ">", ">=", "=", "!="])).flatmap(
    lambda asked: st.integers(-1, 101).map(lambda number: (f"{asked[0]} {asked[1]} {number}", compare(*asked, number)))
)
TEXTS = st.sampled_from(["red", "blue", "none"]).map(lambda color: (f"color = '{color}'", compare("color", "=", color)))
DATES = st.sampled_from(DAYS).map(lambda day: (f"added >= '{day}'", compare("added", ">=", day)))
MISSING = st.sampled_from(["price", "color", "size"]).map(
    lambda name: (f"{name} IS NULL", lambda row: row.get(name) is None)
)
CONDITIONS = st.recursive(
    NUMBERS | TEXTS | DATES | MISSING,
    lambda inner: (
        st.tuples(inner, inner, st.booleans()).map(lambda parts: combined(*parts))
        | inner.map(lambda part: (f"NOT ({part[0]})", lambda row: negated(part[1](row))))
    ),
    max_leaves=4,
)
OPERATORS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


def compare(name, operator, value):
    return lambda row: None if row.get(name) is None else OPERATORS[operator](row[name], value)


def negated(value):
    return None if value is None else not value


def combined(left, right, is_and):
    """Combine conditions by SQL's logic of three values."""

    def holds(row):
        values = {left[1](row), right[1](row)}
        if is_and:
            return False if False in values else None if None in values else True
        return True if True in values else None if None in values else False

    return f"({left[0]}) {'and' if is_and else 'OR'} ({right[0]})", holds


def agrees(shop, condition, seed, k):
    text, holds = condition.text, condition.holds
    index, vectors, rows = shop.index, shop.vectors, shop.rows
    query = vectors[seed % COUNT] + np.random.default_rng(seed).normal(0, 0.1, vectors.shape[1])
    query = np.asarray(query / np.linalg.norm(query), np.float32)
    expected, scores = best(vectors, query, [row for row in range(COUNT) if holds(rows[row]) is True], k)

    hits = index.search_vector(query, k, filter=Filter(text))

    found = [int(hit.path[:5]) for hit in hits]
    assert len(set(found)) == len(expected)
    assert all(holds(rows[row]) is True for row in found)
    for of in (expected, found):  # scores may be equal but for rounding
        np.testing.assert_allclose([hit.score for hit in hits], scores[of], atol=1e-6)


@given(CONDITIONS.map(Condition), st.integers(0, 10**6), st.integers(1, 60))
@settings(deadline=None, max_examples=60)
def test_any_filter_gives_the_best_of_all_that_match(shop, condition, seed, k):
    agrees(shop, condition, seed, k)


@pytest.mark.slow
@given(CONDITIONS.map(Condition), st.integers(0, 10**6), st.integers(1, COUNT))
@settings(deadline=None, max_examples=1000)
def test_a_thousand_filters_give_the_best_of_all_that_match(shop, condition, seed, k):
    agrees(shop, condition, seed, k)


@given(st.integers(0, 10**6), st.integers(1, 30), st.floats(0, 1))
@settings(deadline=None, max_examples=60)
def test_candidates_of_an_exact_backend_are_exact_with_any_filter(seed, k, share):
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(500, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matching = np.flatnonzero(generator.random(500) < share)
    exact = ExactCandidates(vectors, matching)
    filtered = FilteredCandidates(
        ExactCandidates(vectors), 500, lambda rows: rows[np.isin(rows, matching)], lambda: exact
    )

    found = filtered.candidates(vectors[0], k)

    expected, _ = best(vectors, vectors[0], matching.tolist(), k)
    assert set(expected) <= set(found.tolist())
    assert set(found.tolist()) <= set(matching.tolist())


@pytest.mark.parametrize(
    ("ranges", "condition"),
    [
        ((Range("price", "10", "50.5"),), "price >= 10 AND price <= 50.5"),
        ((Range("PRICE", None, 20.0), Range("stock", 5, None)), "price <= 20 AND stock >= 5"),
        ((Range("added", "2024-02", "2024-02"),), "added >= '2024-02-01' AND added < '2024-03-01'"),
        ((Range("added", "2024-12-15", None),), "added >= '2024-12-15'"),
        ((Range("stock", "7", "7"),), "stock = 7"),
    ],
)
def test_ranges_include_their_ends(index, vectors, ranges, condition):
    asked = index.search_vector(vectors[0], COUNT, filter=Filter(ranges=ranges))

    assert asked == index.search_vector(vectors[0], COUNT, filter=Filter(condition))
    assert 0 < len(asked) < COUNT


@pytest.mark.parametrize(
    ("filter_", "said", "hint"),
    [
        (Filter(ranges=(Range("prise", "1", None),)), "no column is called 'prise'", "did you mean price"),
        (Filter(ranges=(Range("color", "1", None),)), "a column of numbers or dates, found 'color'", ""),
        (Filter(ranges=(Range("price", "cheap", None),)), "expected a number for 'price', found 'cheap'", "12.50"),
        (Filter(ranges=(Range("added", "1.2.2024", None),)), "expected a date such as 2024-01-31", ""),
        (Filter("price < 5 AND prise > 1"), "no such column: prise (character 15)", "did you mean price"),
        (Filter("(SELECT count(*) FROM items a, items b, items c) > 0"), "took more than 2 s", "compare all items"),
    ],
)
def test_a_filter_that_means_nothing_is_refused_with_what_was_meant(index, vectors, monkeypatch, filter_, said, hint):
    monkeypatch.setattr("imgsearch.store.selector.MOST_SECONDS", 0.05)

    with pytest.raises(UsageError) as caught:
        index.search_vector(vectors[0], filter=filter_)
    assert said in caught.value.message.replace("0.05 s", "2 s")
    assert hint in caught.value.hint


def test_a_category_has_those_below_it_and_no_others(index, vectors):
    def found(category):
        return {hit.category for hit in index.search_vector(vectors[0], COUNT, filter=Filter(category=category))}

    assert found("kind 1") == {"kind 1/0", "kind 1/1", "kind 1/2"}
    assert found("kind 1/") == found("kind 1")
    assert found("kind 1/2") == {"kind 1/2"}
    assert found("kind") == found("ind 1") == found("kind 1/2/x") == set()


def test_the_plan_says_how_few_are_compared_and_of_many_the_index_is_asked(index):
    is_annoy = index.manifest.backend.name == "annoy"

    assert index.plan(filter=Filter("stock = 3")) == "exact"
    assert index.nearest.matching(Filter("stock = 3").conditions) == len(index.items.selector.rows(Filter("stock = 3")))
    assert index.plan(filter=Filter("stock >= 0")) == ("annoy" if is_annoy else "exact")
    assert (index.nearest.matching(Filter("stock >= 0").conditions) is None) == is_annoy


@pytest.mark.parametrize("condition", ["", "stock >= 5", "stock = 3", "stock > 100"])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_each_product_is_found_once_by_its_best_image_and_its_others_are_counted(
    index, vectors, products, rows, condition, k
):
    selector = index.items.selector
    matching = selector.rows(Filter(condition)) if condition else list(range(COUNT))
    ranked, _ = best(vectors, vectors[3], matching, COUNT)
    first = list({products[row]: row for row in reversed(ranked)}.values())
    expected = sorted(first, key=ranked.index)[:k]

    hits = index.search_vector(vectors[3], k, filter=Filter(condition), distinct="product")

    assert [hit.path for hit in hits] == [f"{row:05d}.png" for row in expected]
    assert [hit.others for hit in hits] == [sum(products[row] == hit.product for row in matching) - 1 for hit in hits]


def test_what_has_no_value_is_a_variant_of_nothing(index, vectors, rows):
    hits = index.search_vector(vectors[0], COUNT, distinct="color")

    assert sorted(hit.metadata["color"] for hit in hits if hit.metadata.get("color")) == ["blue", "green", "red"]
    without = [row for row in range(COUNT) if rows[row].get("color") is None]
    assert len(hits) == len(without) + 3
    assert {hit.others for hit in hits if not hit.metadata.get("color")} == {0}


def test_distinct_hits_of_a_column_that_is_not_there_are_refused(index, vectors):
    with pytest.raises(UsageError, match="no column is called 'colour'") as caught:
        index.search_vector(vectors[0], distinct="colour")
    assert "did you mean color" in caught.value.hint


def test_a_condition_on_what_the_day_is_is_asked_every_time(index, vectors):
    assert not index.items.selector.is_constant(Filter("added < date('now')"))
    assert not index.items.selector.is_constant(Filter("random() % 2"))
    assert index.items.selector.is_constant(Filter("added < '2024-01-01'"))
    with contextlib.suppress(UsageError):
        index.search_vector(vectors[0], filter=Filter("random() % 2"))
    assert Filter("random() % 2").conditions not in {conditions for conditions, _ in index.nearest._filters}
