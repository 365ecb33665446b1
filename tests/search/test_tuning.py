"""How an index comes to be searched: measured, chosen, and written down."""

import shutil

import numpy as np
import pytest

from imgsearch import Index, build_index, embed
from imgsearch.search import tuning
from imgsearch.search.backends.annoy import FORESTS, MIN_SEARCH_K, AnnoyBackend, AnnoyCandidates
from imgsearch.search.recall import measure, sampled
from imgsearch.search.tuning import SMALL, chosen_backend, make_search, tune
from imgsearch.store import generations
from imgsearch.store.search_settings import BackendSettings, SearchOptions

QUERIES = 150


@pytest.fixture(autouse=True)
def few_queries(monkeypatch):
    """Measure with fewer queries than usual, which is what takes most of the time."""
    monkeypatch.setattr(tuning, "_QUERIES", QUERIES)


def unit(vectors):
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def easy():
    return unit(np.random.default_rng(0).normal(size=(600, 16)))


@pytest.fixture(scope="module")
def hard():
    """4,400 vectors in 200 wide clusters of many directions: neighbors lie in many leaves."""
    random = np.random.default_rng(0)
    centers = random.normal(size=(200, 48))
    return unit(centers[random.integers(200, size=4400)] + 2 * random.normal(size=(4400, 48)))


def recall_of(folder, vectors, search_k, rows=None, k=10):
    backend = AnnoyCandidates(folder / AnnoyBackend.file, *vectors.shape, search_k)
    sample = sampled(vectors, np.arange(len(vectors)) if rows is None else rows, [k])
    return float(measure(make_search(backend, vectors), sample, k)[0].mean())


def test_a_small_catalog_is_compared_with_whole(tmp_path, easy):
    settings, measured = tune(tmp_path, easy, SearchOptions())

    assert settings == BackendSettings("exact", 0, 0, 0)
    assert (measured.recall, measured.queries) == (1, 50)
    assert measured.exact_p50_ms == measured.p50_ms <= measured.p95_ms
    assert not list(tmp_path.iterdir())


def test_who_wants_annoy_gets_a_forest_that_reaches_the_target(tmp_path, easy):
    settings, measured = tune(tmp_path, easy, SearchOptions("annoy"))

    assert (settings.name, settings.search_k) == ("annoy", MIN_SEARCH_K)
    assert settings.trees in FORESTS
    assert measured.recall >= 0.99
    assert recall_of(tmp_path, easy, settings.search_k) >= 0.99


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_a_target_is_reached_on_items_that_it_was_not_tuned_on(target, tmp_path, hard):
    settings, measured = tune(tmp_path, hard, SearchOptions("annoy", trees=10, target_recall=target))

    assert measured.recall >= target
    others = np.setdiff1d(np.arange(len(hard)), np.random.default_rng(0).permutation(len(hard))[:QUERIES])[::8]
    assert recall_of(tmp_path, hard, settings.search_k, others) >= target


def test_a_target_of_everything_is_reached_on_the_sample(tmp_path, hard):
    settings, measured = tune(tmp_path, hard, SearchOptions("annoy", trees=10, target_recall=1.0))

    assert (settings.name, measured.recall) == ("annoy", 1)


def test_the_least_search_k_that_reaches_the_target_is_taken(tmp_path, hard):
    wish = SearchOptions("annoy", trees=10, target_recall=0.99)
    settings, _ = tune(tmp_path, hard, wish)

    assert settings.search_k > MIN_SEARCH_K  # it is a hard set
    rows = np.random.default_rng(0).permutation(len(hard))[:QUERIES]
    backend = AnnoyCandidates(tmp_path / AnnoyBackend.file, *hard.shape, round(settings.search_k / 2**0.5))
    recall, _ = measure(make_search(backend, hard), sampled(hard, rows, [10]), 10)
    assert recall.mean() - 2 * recall.std() / np.sqrt(QUERIES) < 0.99


def test_a_higher_target_takes_no_less_effort(tmp_path, hard):
    efforts = []
    for target in (0.5, 0.95, 1.0):
        (folder := tmp_path / str(target)).mkdir()
        efforts.append(tune(folder, hard, SearchOptions("annoy", trees=10, target_recall=target))[0].search_k)

    assert efforts == sorted(efforts)
    assert efforts[0] < efforts[-1]


def test_trees_that_the_user_names_are_kept(tmp_path, easy):
    settings, _ = tune(tmp_path, easy, SearchOptions("annoy", trees=3))

    assert (settings.name, settings.trees) == ("annoy", 3)


def test_a_forest_that_is_no_faster_is_given_up(tmp_path, hard):
    settings, measured = tune(tmp_path, hard[: SMALL + 1], SearchOptions("auto", trees=5, target_recall=1.0))

    # All of the nearest of 4,001 vectors: the forest has to look at nearly all of them.
    assert settings == BackendSettings("exact", 0, 0, 0)
    assert measured.recall == 1
    assert not list(tmp_path.iterdir())


def test_what_is_measured_belongs_to_what_is_chosen(tmp_path, hard):
    settings, measured = tune(tmp_path, hard, SearchOptions("annoy"))

    rows = np.random.default_rng(0).permutation(len(hard))[:QUERIES]
    assert measured.queries == QUERIES
    assert measured.recall == pytest.approx(recall_of(tmp_path, hard, settings.search_k, rows), abs=1e-6)
    assert 0 < measured.p50_ms <= measured.p95_ms
    assert measured.exact_p50_ms > 0


def test_the_same_vectors_and_wish_are_tuned_alike(tmp_path, hard):
    found = []
    for name in "ab":
        (folder := tmp_path / name).mkdir()
        settings, measured = tune(folder, hard, SearchOptions("annoy", trees=5, seed=3))
        found.append((settings, measured.recall, (folder / AnnoyBackend.file).read_bytes()))

    assert found[0] == found[1]


@pytest.mark.parametrize("backend", ["auto", "annoy", "exact"])
def test_nothing_is_searched_exactly(backend, tmp_path):
    assert tune(tmp_path, np.empty((0, 8), np.float32), SearchOptions(backend)) == (
        BackendSettings("exact", 0, 0, 0),
        None,
    )


@pytest.mark.parametrize(("backend", "name"), [("auto", "exact"), ("annoy", "annoy"), ("exact", "exact")])
def test_one_item_has_no_neighbors_to_measure_with(backend, name, tmp_path, easy):
    settings, measured = tune(tmp_path, easy[:1], SearchOptions(backend))

    assert (settings.name, measured) == (name, None)
    assert (tmp_path / AnnoyBackend.file).exists() == (name == "annoy")


@pytest.mark.parametrize("count", [2, 3, 10, 11])
def test_a_few_items_are_tuned_on_as_many_neighbors_as_they_have(count, tmp_path, easy):
    settings, measured = tune(tmp_path, easy[:count], SearchOptions("annoy"))

    assert settings.name == "annoy"
    assert (measured.queries, measured.recall) == (count, 1)


def test_vectors_that_are_all_equal_are_tuned_too(tmp_path, easy):
    _, measured = tune(tmp_path, np.repeat(easy[:1], 300, axis=0), SearchOptions("annoy"))

    assert measured.recall == 1


@pytest.mark.parametrize(
    ("backend", "count", "name"),
    [
        *(("auto", 0, "exact"), ("auto", SMALL, "exact"), ("auto", SMALL + 1, "annoy")),
        *(("annoy", 0, "exact"), ("annoy", 1, "annoy"), ("faiss", 1, "faiss"), ("exact", SMALL + 1, "exact")),
    ],
)
def test_auto_is_exact_for_a_small_catalog_and_maybe_annoy_for_a_larger_one(backend, count, name):
    assert chosen_backend(SearchOptions(backend), count, 256).name == name


# --- in an index


@pytest.fixture
def index(copied):
    """An index of the forty images of `built`, of eight trees."""
    return copied("annoy")


def test_the_manifest_says_what_was_wanted_chosen_and_measured(index):
    manifest = generations.read_manifest(index)

    assert manifest.search == SearchOptions("annoy", 8, 0, 0.99)
    assert manifest.backend == BackendSettings("annoy", 8, 0, MIN_SEARCH_K)
    assert manifest.measured.queries == 40
    assert manifest.measured.recall >= 0.99
    with Index.open(index) as opened:
        assert opened.plan() == "annoy"


def test_a_night_on_which_nothing_changed_tunes_nothing(index, built, monkeypatch):
    def refuse(*_):
        raise AssertionError("it was tuned")

    monkeypatch.setattr("imgsearch.build.generation.tune", refuse)
    before = generations.read_manifest(index)

    assert not build_index(built / "catalog", index).published
    assert not build_index(built / "catalog", index, target_recall=0.99, seed=0).published
    assert generations.read_manifest(index) == before


def test_another_target_is_published_without_embedding_anything(index, built):
    report = build_index(built / "catalog", index, target_recall=0.9)

    manifest = generations.read_manifest(index)
    assert (report.published, report.embedded, report.unchanged) == (True, 0, 40)
    assert manifest.search == SearchOptions("annoy", 8, 0, 0.9)


def test_a_target_sticks(index, built, tmp_path):
    build_index(built / "catalog", index, target_recall=0.9)
    catalog = shutil.copytree(built / "catalog", tmp_path / "catalog")
    (catalog / "a/0000.png").unlink()
    build_index(catalog, index)

    assert generations.read_manifest(index).search == SearchOptions("annoy", 8, 0, 0.9)


def test_who_leaves_the_choice_to_us_gets_trees_of_ours_again(index, built):
    build_index(built / "catalog", index, backend="auto")

    manifest = generations.read_manifest(index)
    assert manifest.search == SearchOptions("auto", None, 0, 0.99)
    assert manifest.backend == BackendSettings("exact", 0, 0, 0)
    assert AnnoyBackend.file not in str(sorted(manifest.files))


def test_embeddings_are_tuned_when_they_become_an_index(tmp_path, built):
    embed(built / "catalog", tmp_path / "embeddings", backbone="handcrafted")
    build_index(tmp_path / "embeddings", tmp_path / "index", backend="annoy", target_recall=0.95)

    manifest = generations.read_manifest(tmp_path / "index")
    assert manifest.search == SearchOptions("annoy", None, 0, 0.95)
    assert manifest.measured.recall >= 0.95
