"""Every figure of `evaluate --recall` agrees with brute force."""

import hashlib
import itertools

import numpy as np
import pytest
from annoy import AnnoyIndex

from imgsearch import Index
from imgsearch.errors import UsageError
from imgsearch.evaluation.evaluate import evaluate
from imgsearch.evaluation.index_recall import index_recall
from imgsearch.search.backends.annoy import AnnoyBackend
from imgsearch.search.recall import TIE, Sample, measure, sampled
from imgsearch.store.search_settings import BackendSettings, SearchOptions

COUNT = 6000


def silent(*_):
    pass


@pytest.fixture(scope="module")
def vectors(unit):
    return unit(np.random.default_rng(1).normal(size=(COUNT, 24)))


@pytest.fixture(scope="module")
def poor(tmp_path_factory, store_index, vectors):
    """An index in a forest of two trees, of which little is looked at."""
    return store_index(tmp_path_factory.mktemp("poor") / "index", vectors, backend=BackendSettings("annoy", 2, 0, 1000))


@pytest.fixture(scope="module")
def found(poor):
    with Index.open(poor) as index:
        return index_recall(index, 150, silent)


def brute_force(index, path, vectors, k):
    """Compare the k others that a search finds with the k others that are nearest."""
    own = int(path.removesuffix(".png"))
    scores = vectors.astype(float) @ vectors[own].astype(float)
    nearest = np.sort(np.delete(scores, own))[::-1]
    hits = [int(hit.path.removesuffix(".png")) for hit in index.search_vector(vectors[own], k + 1)]
    others = [other for other in hits if other != own][:k]
    return sum(scores[other] >= nearest[k - 1] - TIE for other in others) / k


def test_recall_agrees_with_brute_force(poor, found, vectors):
    with Index.open(poor) as index:
        for k in (1, 10, 100):
            expected = [brute_force(index, path, vectors, k) for path in found.queries[:10]]
            assert found.recall[k][:10] == pytest.approx(expected)
            assert 0.1 < found.recall[k].mean() < 0.99  # it is a poor forest: there was something to get wrong


def test_the_figures_are_the_means_of_the_queries(poor, found):
    figures = evaluate(poor, recall=True, sample=150).figures

    for k in (1, 10, 100):
        assert figures[f"index_recall@{k}"].mean == pytest.approx(found.recall[k].mean())
        assert figures[f"index_recall@{k}"].low <= figures[f"index_recall@{k}"].mean
    assert figures["count"].mean == COUNT


def test_the_sample_is_different_items_in_the_order_of_their_contents(found):
    assert len(set(found.queries)) == len(found.queries) == 150
    digests = [hashlib.sha256(path.encode()).digest() for path in found.queries]
    assert digests == sorted(digests)


def test_latencies_are_ordered(found):
    for latency in (*found.latency.values(), found.exact, *(point.latency for point in found.curve)):
        assert 0 < latency.p50 <= latency.p95 <= latency.p99
        assert 0 < latency.per_second <= 1 / latency.p50 * 2
    assert set(found.latency) == set(found.recall) == {1, 10, 100}


def test_percentiles_and_rate_are_those_of_the_searches(monkeypatch):
    """With a clock of our own: searches take 1, 2, .. 100 milliseconds."""
    sample = Sample(np.zeros((100, 2), np.float32), {1: np.zeros(100, np.float32)})
    ticks = iter([moment for number in range(100) for moment in (number, number + (number + 1) / 1000)])
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))

    _, latency = measure(lambda vector, k: np.zeros(k, np.float32), sample, 1)

    assert latency.p50 == pytest.approx(0.0505)
    assert latency.p95 == pytest.approx(0.09505)
    assert latency.p99 == pytest.approx(0.09901)
    assert latency.per_second == pytest.approx(100 / 5.05)


def test_the_curve_rises_and_passes_through_the_index_itself(found):
    tried = [point.effort for point in found.curve]
    assert tried == sorted(tried)
    assert tried[-1] == 4000
    assert len(set(tried)) == len(tried) >= 4
    (own,) = [point for point in found.curve if point.effort == 1000]
    assert own.recall == pytest.approx(found.recall[10].mean())
    recalls = [point.recall for point in found.curve]
    assert all(later >= earlier - 0.02 for earlier, later in itertools.pairwise(recalls))


def test_each_point_of_the_curve_is_what_annoy_finds_with_that_search_k(poor, vectors, found):
    """Asked without our code: a search for 10 others asks for 11, and looks through 32 candidates."""
    forest = AnnoyIndex(vectors.shape[1], "angular")
    forest.load(str(poor / "gen-000001" / AnnoyBackend.file))
    rows = [int(path.removesuffix(".png")) for path in found.queries]
    truth = np.sort(vectors[rows].astype(float) @ vectors.T.astype(float), axis=1)[:, -11]

    for point in found.curve:
        shares = []
        for row, last in zip(rows, truth, strict=True):
            candidates = forest.get_nns_by_vector(vectors[row], 32, point.effort)
            scores = np.sort(vectors[candidates].astype(float) @ vectors[row].astype(float))[::-1][:11]
            shares.append((np.count_nonzero(scores >= last - TIE) - 1) / 10)
        assert point.recall == pytest.approx(np.mean(shares)), point.effort


def test_the_curve_reaches_everything_where_everything_is_looked_at(tmp_path, store_index, vectors):
    index = store_index(tmp_path / "index", vectors[:3000], backend=BackendSettings("annoy", 10, 0, 10_000))
    with Index.open(index) as opened:
        curve = index_recall(opened, 50, silent).curve

    assert curve[-1].recall == pytest.approx(1)
    assert curve[0].recall < curve[-1].recall


def test_an_index_that_compares_with_every_vector_finds_everything(tmp_path, store_index, vectors):
    with Index.open(store_index(tmp_path / "index", vectors[:3000])) as index:
        found = index_recall(index, 100, silent)

    assert found.plan == "exact"
    assert all((values == 1).all() for values in found.recall.values())


def test_a_small_index_is_given_a_forest_for_the_curve_unless_the_user_wants_none(tmp_path, store_index, sign, vectors):
    directory = store_index(tmp_path / "index", vectors[:3000])
    with Index.open(directory) as index:
        assert index_recall(index, 20, silent).curve == ()
    sign(directory, search=SearchOptions("auto"))
    before = {path.relative_to(directory) for path in directory.rglob("*")}
    with Index.open(directory) as index:
        found = index_recall(index, 20, silent)

    assert found.plan == "exact"
    assert [point.effort for point in found.curve][-4:] == [1000, 2000, 4000, 8000]
    assert {path.relative_to(directory) for path in directory.rglob("*")} == before


@pytest.mark.parametrize("backend", [BackendSettings("exact", 0, 0, 0), BackendSettings("annoy", 10, 0, 2000)])
def test_which_of_equal_items_is_found_does_not_matter(backend, tmp_path, store_index, vectors):
    alike = np.repeat(vectors[:30], 40, axis=0)
    with Index.open(store_index(tmp_path / "index", alike, backend=backend)) as index:
        found = index_recall(index, 60, silent)

    assert found.recall[1].mean() == found.recall[10].mean() == 1


def test_items_that_are_all_equal_are_all_found(tmp_path, store_index, vectors):
    alike = np.repeat(vectors[:1], 150, axis=0)
    with Index.open(store_index(tmp_path / "index", alike)) as index:
        found = index_recall(index, 150, silent)

    assert all((values == 1).all() for values in found.recall.values())


def test_the_item_itself_is_no_find():
    vectors = np.eye(4, dtype=np.float32)
    sample = sampled(vectors, np.arange(4), [1])
    assert sample.last_scores[1].tolist() == [0, 0, 0, 0]  # of the others, not the 1 of the item itself

    def only_itself(vector, k):
        return np.array([1.0], np.float32)

    recall, _ = measure(only_itself, sample, 1)
    assert recall.tolist() == [0, 0, 0, 0]


def test_the_truth_is_found_across_blocks_of_vectors(unit):
    vectors = unit(np.random.default_rng(2).normal(size=(9000, 4)))  # more than two blocks
    rows = np.array([0, 4095, 4096, 8999])
    truth = sampled(vectors, rows, [1, 10])
    scores = np.sort(vectors[rows].astype(float) @ vectors.T.astype(float), axis=1)[:, ::-1]

    assert truth.last_scores[1] == pytest.approx(scores[:, 1], abs=1e-6)
    assert truth.last_scores[10] == pytest.approx(scores[:, 10], abs=1e-6)


@pytest.mark.parametrize(
    ("count", "ks"), [(2, [1]), (5, [1]), (10, [1]), (11, [1, 10]), (100, [1, 10]), (101, [1, 10, 100])]
)
def test_a_k_that_the_index_has_not_as_many_others_for_is_left_out(count, ks, tmp_path, store_index, vectors):
    with Index.open(store_index(tmp_path / "index", vectors[:count])) as index:
        found = index_recall(index, 1000, silent)

    assert list(found.recall) == ks
    assert all((values == 1).all() for values in found.recall.values())
    assert len(found.queries) == count


@pytest.mark.parametrize(("count", "said"), [(0, "there are no items"), (1, "at least two items, but it has 1")])
def test_an_index_in_which_there_is_nothing_to_find_is_refused(count, said, tmp_path, store_index, vectors):
    directory = store_index(tmp_path / "index", vectors[:count])

    with pytest.raises(UsageError, match=said):
        evaluate(directory, recall=True)


def test_progress_comes_to_its_end(poor):
    told = []
    with Index.open(poor) as index:
        index_recall(index, 20, lambda *what: told.append(what))

    assert {stage for stage, _, _ in told} == {"recall"}
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert told[-1][1] == told[-1][2]
