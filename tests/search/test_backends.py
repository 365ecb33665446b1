import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import DamagedIndexError
from imgsearch.search.backends import exact as exact_module
from imgsearch.search.backends.annoy import AnnoyBackend, AnnoyCandidates
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.backends.faiss import FaissBackend, FaissCandidates, lists_for
from imgsearch.store import arrays
from imgsearch.store.search_settings import BackendSettings


def build_annoy(folder, vectors, trees, seed):
    AnnoyBackend().build(folder, vectors, BackendSettings("annoy", trees, seed, 2000))


def build_faiss(folder, vectors, lists, seed):
    FaissBackend().build(folder, vectors, BackendSettings("faiss", 0, seed, 0, lists, 1))


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def random_units(count, dims, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, dims)))


def exact(_, vectors):
    return ExactCandidates(vectors)


def annoy(folder, vectors):
    build_annoy(folder, vectors, 50, 0)
    return AnnoyCandidates(folder / AnnoyBackend.file, *vectors.shape, 20_000)


def faiss(folder, vectors):
    build_faiss(folder, vectors, lists_for(len(vectors)), 0)
    return FaissCandidates(folder / FaissBackend.file, *vectors.shape, 60)


@pytest.fixture(params=[exact, annoy, faiss], ids=["exact", "annoy", "faiss"])
def opened(request, tmp_path):
    return lambda vectors: request.param(tmp_path, vectors)


@pytest.mark.parametrize("k", [1, 5, 50])
def test_candidates_hold_the_true_best(opened, k):
    vectors = random_units(2000, 32)
    backend = opened(vectors)

    for query in random_units(20, 32, seed=1):
        scores = vectors @ query
        found = backend.candidates(query, k)
        assert scores[found].max() == scores.max()
        best = np.argsort(-scores)[:k]
        assert len(set(best.tolist()) & set(found.tolist())) >= 0.98 * k


def test_nearly_all_of_the_ten_best_are_found_among_clustered_vectors(opened):
    generator = np.random.default_rng(3)
    centers = generator.normal(size=(50, 64))
    vectors = unit(centers[generator.integers(0, 50, 5000)] + 0.3 * generator.normal(size=(5000, 64)))
    queries = unit(centers[generator.integers(0, 50, 200)] + 0.3 * generator.normal(size=(200, 64)))
    backend = opened(vectors)

    found = 0
    for query in queries:
        best = np.argpartition(-(vectors @ query), 10)[:10]
        found += len(set(best.tolist()) & set(backend.candidates(query, 10).tolist()))

    assert found / 2000 >= 0.99


@pytest.mark.parametrize(("count", "k"), [(1, 1), (1, 5), (3, 3), (10, 100), (500, 7)])
def test_candidates_are_rows_without_repetition_and_enough_of_them(opened, count, k):
    vectors = random_units(count, 16)
    backend = opened(vectors)

    for query in [*random_units(5, 16, seed=2), vectors[0]]:
        found = backend.candidates(query, k)
        assert found.dtype == np.int64
        assert len(set(found.tolist())) == len(found) >= min(k, count)
        assert ((found >= 0) & (found < count)).all()


@pytest.mark.parametrize("count", [2, 300])
def test_vectors_that_are_all_the_same_are_no_trouble(opened, count):
    vectors = np.repeat(random_units(1, 16), count, axis=0)

    found = opened(vectors).candidates(vectors[0], 5)

    assert len(set(found.tolist())) == len(found) >= min(5, count)


@pytest.mark.parametrize("dims", [16, 64, 256, 640])
def test_of_equal_vectors_the_exact_candidates_are_the_lowest_rows(dims):
    # Rounding may depend on where a row lies in a block; which rows are equal may not.
    vector, query = random_units(2, dims)
    for count in (5, 17, 33, 61, 100):
        found = ExactCandidates(np.repeat(vector[None], count, axis=0)).candidates(query, 3)
        assert sorted(found.tolist()) == [0, 1, 2]


def test_a_query_opposite_to_everything_is_answered(opened):
    vectors = np.repeat(random_units(1, 16), 20, axis=0)

    assert len(opened(vectors).candidates(-vectors[0], 3)) >= 3


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 9), st.integers(0, 99))
@settings(deadline=None, max_examples=80)
def test_exact_candidates_are_the_best_whatever_the_blocks(count, k, block_rows, seed):
    # Small whole numbers: their products are exact, so brute force has just the same scores, and many ties.
    generator = np.random.default_rng(seed)
    vectors = generator.integers(-2, 3, (count, 3)).astype(np.float32)
    query = generator.integers(-2, 3, 3).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK_ROWS", block_rows)
        patch.setattr(exact_module, "BLOCK_ROWS", block_rows)
        found = ExactCandidates(vectors).candidates(query, k)

    expected = np.lexsort((np.arange(count), -(vectors @ query)))[:k]
    assert set(found.tolist()) == set(expected.tolist())
    assert len(found) == len(expected)


@given(st.integers(1, 40), st.integers(1, 50), st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=60)
def test_exact_candidates_come_from_the_given_rows_only(count, k, block_rows, data):
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, count - 1)))), np.int64)
    generator = np.random.default_rng(count)
    vectors = generator.integers(-2, 3, (count, 3)).astype(np.float32)
    query = generator.integers(-2, 3, 3).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_module, "BLOCK_ROWS", block_rows)
        found = ExactCandidates(vectors, rows).candidates(query, k)

    expected = rows[np.lexsort((rows, -(vectors[rows] @ query)))[:k]]
    assert set(found.tolist()) == set(expected.tolist())


def test_no_rows_give_no_candidates():
    vectors = random_units(5, 4)

    assert len(ExactCandidates(vectors, np.empty(0, np.int64)).candidates(vectors[0], 3)) == 0


def test_the_same_seed_gives_the_same_forest_byte_for_byte_and_another_seed_another(tmp_path):
    vectors = random_units(500, 16)
    forests = []
    for number, seed in enumerate([7, 7, 8]):
        folder = tmp_path / str(number)
        folder.mkdir()
        build_annoy(folder, vectors, 5, seed)
        forests.append((folder / AnnoyBackend.file).read_bytes())

    assert forests[0] == forests[1] != forests[2]


def test_more_trees_make_a_larger_forest(tmp_path):
    vectors = random_units(500, 16)
    sizes = []
    for trees in (1, 20):
        build_annoy(tmp_path, vectors, trees, 0)
        sizes.append((tmp_path / AnnoyBackend.file).stat().st_size)

    assert sizes[0] < sizes[1]


def test_a_missing_forest_is_no_forest(tmp_path):
    with pytest.raises((FileNotFoundError, DamagedIndexError)):
        AnnoyCandidates(tmp_path / AnnoyBackend.file, 5, 4, 20_000)


@pytest.mark.parametrize("size", [0, 5, 1001])
def test_a_forest_of_an_impossible_size_is_damaged(tmp_path, size):
    (tmp_path / AnnoyBackend.file).write_bytes(b"x" * size)

    with pytest.raises(DamagedIndexError, match=r"annoy\.ann is damaged"):
        AnnoyCandidates(tmp_path / AnnoyBackend.file, 5, 4, 20_000)


def test_a_forest_of_another_number_of_items_is_damaged(tmp_path):
    build_annoy(tmp_path, random_units(20, 8), 50, 0)

    with pytest.raises(DamagedIndexError, match="20 items, expected 21"):
        AnnoyCandidates(tmp_path / AnnoyBackend.file, 21, 8, 20_000)


def test_a_forest_in_a_folder_whose_name_is_not_utf8_is_built_and_opened(tmp_path):
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    vectors = random_units(20, 8)

    build_annoy(folder, vectors, 50, 0)

    assert 3 in AnnoyCandidates(folder / AnnoyBackend.file, 20, 8, 20_000).candidates(vectors[3], 1)
