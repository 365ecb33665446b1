"""The ranking that answers are judged by, and every measure of it, computed a second time and naively."""

import math

import numpy as np
import pytest

from imgsearch import Index
from imgsearch.evaluation import retrieval
from imgsearch.evaluation.queries import LabeledQuery, QuerySet, from_items, labels_of
from imgsearch.evaluation.retrieval import per_category, rank_all

COUNT = 160


def silent(*_):
    pass


@pytest.fixture(scope="module")
def vectors():
    """Unit rows of a quarter or minus a quarter: scores are eighths, so that nothing is rounded, and many are equal."""
    return np.random.default_rng(3).choice([-0.25, 0.25], (COUNT, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def categories():
    return [f"kind {number}" for number in np.random.default_rng(4).integers(12, size=COUNT)]


@pytest.fixture
def index(tmp_path, store_index, vectors, categories):
    with Index.open(store_index(tmp_path / "index", vectors, categories=categories)) as opened:
        yield opened


@pytest.fixture
def judged(index):
    labels = labels_of(index.items, "category", COUNT)
    return rank_all(index, from_items(index, labels, labels, COUNT), "labels", labels, silent)


def ranking(vectors, vector, own=None):
    scores = [float(np.float64(row) @ np.float64(vector)) for row in vectors]
    return sorted((row for row in range(len(scores)) if row != own), key=lambda row: (-scores[row], row))


def naive(relevant, relevant_count):
    """Compute every measure from a list of what is right, best first."""

    def found(k):
        return sum(relevant[:k])

    def gain(k):
        return sum(1 / math.log2(2 + place) for place, right in enumerate(relevant[:k]) if right)

    precisions = [(place + 1, found(place + 1) / (place + 1)) for place, right in enumerate(relevant) if right]
    return {
        **{f"hit_rate@{k}": float(found(k) > 0) for k in (1, 5, 10)},
        **{f"recall@{k}": found(k) / relevant_count for k in (10, 100)},
        **{f"precision@{k}": found(k) / k for k in (1, 10)},
        "r_precision": found(relevant_count) / relevant_count,
        "map": sum(precision for _, precision in precisions) / relevant_count,
        "map@r": sum(precision for place, precision in precisions if place <= relevant_count) / relevant_count,
        "mrr": 1 / precisions[0][0] if precisions else 0.0,
        "ndcg@10": gain(10) / sum(1 / math.log2(2 + place) for place in range(min(10, relevant_count))),
    }


def naive_precision_at_recall(relevant, relevant_count):
    levels = []
    for level in range(11):
        reached = [
            sum(relevant[:k]) / k
            for k in range(1, len(relevant) + 1)
            if sum(relevant[:k]) * 10 >= level * relevant_count and relevant[k - 1]
        ]
        levels.append(max(reached, default=0.0))
    return levels


def test_every_measure_agrees_with_a_second_computation(judged, vectors, categories):
    assert len(judged.results) == COUNT
    for number, one in enumerate(judged.results):
        own = int(one.query.removesuffix(".png"))
        relevant = [categories[row] == categories[own] for row in ranking(vectors, vectors[own], own)]
        expected = naive(relevant, sum(relevant))
        assert {name: values[number] for name, values in judged.measures.items()} == pytest.approx(expected)
        assert one.relevant_count == sum(relevant)


def test_precision_at_recall_agrees_with_a_second_computation(judged, vectors, categories):
    curves = []
    for one in judged.results:
        own = int(one.query.removesuffix(".png"))
        relevant = [categories[row] == categories[own] for row in ranking(vectors, vectors[own], own)]
        curves.append(naive_precision_at_recall(relevant, sum(relevant)))

    assert judged.precision_at_recall == pytest.approx(np.mean(curves, axis=0))


def test_the_first_hits_are_those_of_a_search_without_the_item_itself(judged, index, vectors, categories):
    for one in judged.results:
        own = int(one.query.removesuffix(".png"))
        answers = [hit for hit in index.search_vector(vectors[own], COUNT) if hit.path != one.query][:10]
        assert [hit.path for hit in one.hits] == [hit.path for hit in answers]
        assert [hit.score for hit in one.hits] == pytest.approx([hit.score for hit in answers])
        assert [hit.relevant for hit in one.hits] == [hit.category == categories[own] for hit in answers]
        assert [hit.label for hit in one.hits] == [hit.category for hit in answers]


@pytest.mark.parametrize("size", [1, 4 * COUNT, 4 * COUNT * 7])
def test_how_many_queries_are_ranked_at_once_does_not_matter(size, judged, index, monkeypatch):
    monkeypatch.setattr(retrieval, "_BYTES", size)
    labels = labels_of(index.items, "category", COUNT)
    again = rank_all(index, from_items(index, labels, labels, COUNT), "labels", labels, silent)

    assert again.results == judged.results
    assert all((again.measures[name] == judged.measures[name]).all() for name in judged.measures)


def test_real_scores_are_ranked_as_naively(tmp_path, store_index, unit):
    random = np.random.default_rng(6)
    vectors = unit(random.normal(size=(150, 20)))
    products = [f"product {number}" for number in random.integers(40, size=150)]
    with Index.open(store_index(tmp_path / "index", vectors, products=products)) as index:
        labels = labels_of(index.items, "product", 150)
        found = rank_all(index, from_items(index, labels, labels, 150), "labels", labels, silent)

    for number, one in enumerate(found.results):
        own = int(one.query.removesuffix(".png"))
        relevant = [products[row] == products[own] for row in ranking(vectors, vectors[own], own)]
        expected = naive(relevant, sum(relevant))
        assert {name: values[number] for name, values in found.measures.items()} == pytest.approx(expected)


def test_products_are_ranked_by_their_best_image_and_each_counts_once(tmp_path, store_index, vectors):
    products = [f"product {row // 4}" for row in range(COUNT)]
    with Index.open(store_index(tmp_path / "products", vectors, products=products)) as index:
        labels = labels_of(index.items, "product", COUNT)
        queries = from_items(index, labels, labels, COUNT)
        judged = rank_all(index, queries, "labels", labels, silent, by_label=True)

        for number, (query, result) in enumerate(zip(queries.queries, judged.results, strict=True)):
            ranked = list(dict.fromkeys(products[row] for row in ranking(vectors, query.vectors[0], query.own_row)))
            relevant = [product == query.label for product in ranked]
            for name, value in naive(relevant, 1).items():
                assert judged.measures[name][number] == pytest.approx(value), name
            assert [hit.label for hit in result.hits] == ranked[:10]


def test_a_query_that_is_no_item_may_be_answered_by_any(index, vectors):
    query = LabeledQuery("photo.jpg", "here", "", vectors[7:8], relevant=np.array([7, 9]), relevant_count=2)
    found = rank_all(index, QuerySet((query,)), "queries", labels_of(index.items, "product", COUNT), silent)

    rows = ranking(vectors, vectors[7])
    relevant = [row in (7, 9) for row in rows]
    assert {name: values[0] for name, values in found.measures.items()} == pytest.approx(naive(relevant, 2))
    assert found.results[0].hits[0].score == 1


def test_a_right_answer_that_the_index_lacks_is_never_found(index, vectors):
    queries = [
        LabeledQuery("half", "a", "", vectors[7:8], relevant=np.array([7]), relevant_count=2),
        LabeledQuery("none", "b", "", vectors[7:8], relevant=np.empty(0, np.int64), relevant_count=3),
    ]
    found = rank_all(index, QuerySet(tuple(queries)), "queries", labels_of(index.items, "product", COUNT), silent)

    assert found.measures["hit_rate@1"].tolist() == [1, 0]
    assert found.measures["recall@100"].tolist() == [0.5, 0]
    assert found.measures["map"].tolist() == [0.5, 0]
    assert found.precision_at_recall == pytest.approx([0.5] * 6 + [0] * 5)


@pytest.mark.parametrize("count", [2, 3, 10, 11, 12])
def test_a_small_index_has_as_many_answers_as_it_has_others(count, tmp_path, store_index, vectors):
    with Index.open(store_index(tmp_path / "index", vectors[:count], products=["same"] * count)) as index:
        labels = labels_of(index.items, "product", count)
        found = rank_all(index, from_items(index, labels, labels, count), "labels", labels, silent)

    for one in found.results:
        assert len(one.hits) == min(10, count - 1)
        assert one.query not in [hit.path for hit in one.hits]
        assert all(np.isfinite(hit.score) for hit in one.hits)
    assert found.measures["map"].tolist() == [1] * count


def test_each_category_is_judged_by_its_own_queries(judged, categories):
    found = per_category(judged)

    assert list(found) == sorted(set(categories))
    assert {name: figures["queries"].mean for name, figures in found.items()} == {
        name: categories.count(name) for name in categories
    }
    for name, figures in found.items():
        chosen = [number for number, one in enumerate(judged.results) if one.category == name]
        for measure in ("hit_rate@1", "hit_rate@10", "map"):
            assert figures[measure].mean == pytest.approx(judged.measures[measure][chosen].mean())


def test_progress_comes_to_its_end(index):
    told = []
    labels = labels_of(index.items, "category", COUNT)
    rank_all(index, from_items(index, labels, labels, 30), "labels", labels, lambda *what: told.append(what))

    assert told == [("rank", number, 30) for number in range(1, 31)]
