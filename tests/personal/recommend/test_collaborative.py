"""What the same people want, learned from who did what."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import MissingComponentError
from imgsearch.personal.recommend import collaborative
from imgsearch.personal.recommend.collaborative import Similar, collaborative_scores, learn_similar
from vector_indexes import unit

DIMS = 8
PAIRS = st.sets(st.tuples(st.integers(0, 15), st.integers(0, 11)), max_size=80)


def pairs_of(found) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, products and weights of pairs."""
    users, products = np.array(sorted(found), np.int32).reshape(-1, 2).T
    return users, products, 1.0 + (users + products) % 4


def vectors_of(count: int, dims: int = DIMS) -> np.ndarray:
    return unit(np.random.default_rng(count).normal(size=(count, dims))).astype(np.float32)


def dense(similar: Similar) -> np.ndarray:
    found = np.zeros((len(similar), len(similar)))
    rows, places = np.nonzero(similar.others >= 0)
    found[rows, similar.others[rows, places]] = similar.weights[rows, places]
    return found


def by_hand(users, products, weights, count: int) -> np.ndarray:
    """The closed form, as the paper has it, in float64."""
    wanted = np.zeros((16, count))
    wanted[users, products] = weights**0.25
    gram = wanted.T @ wanted
    inverse = np.linalg.inv(gram + 6 * np.trace(gram) / count * np.eye(count))
    found = inverse / -np.diagonal(inverse)
    np.fill_diagonal(found, 0)
    return found


def of_core_by_hand(users, products, weights, order: np.ndarray, core: int) -> np.ndarray:
    """The same of the most wanted ones, with what they say of the others and these of them."""
    count = len(order)
    wanted = np.zeros((16, count))
    wanted[users, products] = weights**0.25
    gram = wanted.T @ wanted
    penalized = gram + 6 * np.trace(gram) / count * np.eye(count)
    np.testing.assert_array_less(np.diff(gram.diagonal()[order]), 1e-5)
    first, rest = order[:core], order[core:]
    inverse = np.linalg.inv(penalized[np.ix_(first, first)])
    to_rest = inverse @ gram[np.ix_(first, rest)]
    left = penalized.diagonal()[rest] - np.sum(gram[np.ix_(first, rest)] * to_rest, axis=0)
    found = np.zeros((count, count))
    found[np.ix_(first, first)] = inverse / -inverse.diagonal()
    found[np.ix_(first, rest)] = to_rest
    found[np.ix_(rest, first)] = to_rest.T / left[:, None] / inverse.diagonal()
    np.fill_diagonal(found, 0)
    return found


def two_groups(users: int = 60, products: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Half of the users want the first half of the products, the others the rest; the vectors tell them apart."""
    generator = np.random.default_rng(0)
    chosen = generator.random((users, products)) < 0.3
    chosen &= (np.arange(users)[:, None] < users // 2) == (np.arange(products) < products // 2)
    found = np.nonzero(chosen)
    sides = np.where(np.arange(products) < products // 2, 1, -1)[:, None] * np.eye(DIMS)[0]
    return (
        *found,
        np.ones(len(found[0])),
        unit(sides + 0.3 * generator.normal(size=(products, DIMS))).astype(np.float32),
    )


@settings(max_examples=15, deadline=None)
@given(PAIRS)
def test_weights_are_those_of_the_closed_form(found):
    pairs = pairs_of(found)

    similar, learner = learn_similar(*pairs, vectors_of(12))

    assert learner == "ease"
    expected = by_hand(*pairs, 12) if found else np.zeros((12, 12))
    np.testing.assert_allclose(dense(similar), expected, atol=1e-5)
    assert not dense(similar).diagonal().any()
    assert similar.others.dtype == np.int32
    assert similar.translation.shape == (12, DIMS)
    assert np.isfinite(similar.translation).all()


@settings(max_examples=15, deadline=None)
@given(PAIRS.filter(bool), st.integers(1, 12))
def test_of_many_products_the_most_wanted_speak_for_the_others(found, core):
    pairs = pairs_of(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collaborative, "CORE", core)
        learned = collaborative._closed_form(collaborative._matrix(*pairs, 12))

    # Of those that are wanted as much, rounding decides which are in the core.
    expected = of_core_by_hand(*pairs, np.argsort(learned.place), core)
    some = np.array([7, 0, 11])
    np.testing.assert_allclose(learned.rows(some), expected[some], atol=1e-5)
    np.testing.assert_allclose(learned.columns(some), expected[:, some], atol=1e-5)
    np.testing.assert_allclose(learned.times(vectors_of(12)), expected @ vectors_of(12), atol=1e-5)


def test_the_largest_weights_are_kept(monkeypatch):
    pairs = pairs_of({(user, product) for user in range(16) for product in range(12) if (user * product) % 3 == 1})
    whole = dense(learn_similar(*pairs, vectors_of(12))[0])
    monkeypatch.setattr(collaborative, "KEPT", 4)

    similar, _ = learn_similar(*pairs, vectors_of(12))

    kept = dense(similar)
    assert similar.others.shape == (12, 4)
    for all_weights, weights in zip(np.abs(whole), np.abs(kept), strict=True):
        np.testing.assert_array_equal(np.sort(weights)[-4:], np.sort(all_weights)[-4:])


@settings(max_examples=15, deadline=None)
@given(PAIRS, st.lists(st.floats(-8, 8), min_size=12, max_size=12), st.integers(0, 12))
def test_scores_are_sums_of_what_each_product_of_a_history_says(found, weights, fewer):
    similar, _ = learn_similar(*pairs_of(found), vectors_of(12))
    products = np.arange(fewer)
    signed = np.sign(weights[:fewer]) * np.abs(weights[:fewer]) ** 0.25
    of_row = np.array([3, -1, 0, 0, -1, 11], np.int32)  # two images of one product, two products without events
    vectors = vectors_of(6)

    scores = collaborative_scores(similar, of_row, vectors, products, np.array(weights[:fewer]))

    known = signed @ dense(similar)[products]
    new = vectors @ (signed @ similar.translation[products])
    np.testing.assert_allclose(scores, np.where(of_row >= 0, known[of_row], new), atol=1e-5)


@pytest.mark.parametrize("learner", ["ease", "als"])
def test_what_those_want_who_want_the_same_comes_first(learner, monkeypatch):
    if learner == "als":
        monkeypatch.setattr(collaborative, "LARGEST_CLOSED_FORM", 10)
        monkeypatch.setattr(collaborative, "_FACTORS", 4)
    *pairs, vectors = two_groups()

    similar, said = learn_similar(*pairs, vectors)
    again, _ = learn_similar(*pairs, vectors)

    scores = collaborative_scores(similar, np.arange(40, dtype=np.int32), vectors, np.array([2, 5]), np.ones(2))
    others = np.delete(scores[:20], [2, 5])
    assert said == learner
    assert others.mean() > scores[20:].max()
    assert not dense(similar).diagonal().any()
    np.testing.assert_array_equal(again.weights, similar.weights)
    np.testing.assert_array_equal(again.translation, similar.translation)


def test_products_without_events_are_judged_by_their_vectors_and_compete_with_others():
    *pairs, vectors = two_groups(products=80)
    similar, _ = learn_similar(*pairs, vectors)
    of_row = np.append(np.arange(80), [-1, -1]).astype(np.int32)
    all_vectors = np.concatenate([vectors, np.eye(DIMS)[:1], -np.eye(DIMS)[:1]]).astype(np.float32)
    history = np.array([2, 5, 7])

    scores = collaborative_scores(similar, of_row, all_vectors, history, np.ones(3))
    disliked = collaborative_scores(similar, of_row, all_vectors, history, -np.ones(3))

    assert scores[80] > 0.5 * np.median(np.delete(scores[:40], history))
    assert scores[80] > scores[40:80].max() > scores[81]
    np.testing.assert_allclose(disliked, -scores)


def test_vectors_that_say_nothing_give_new_products_no_say():
    *pairs, vectors = two_groups()
    similar, _ = learn_similar(*pairs, np.ones_like(vectors))

    assert np.isfinite(similar.translation).all()
    scores = collaborative_scores(similar, np.array([-1, -1], np.int32), vectors[[0, 39]], np.array([2]), np.ones(1))
    assert abs(scores).max() < np.abs(similar.weights[2]).max()


@pytest.mark.parametrize(
    ("pairs", "products"),
    [([], 0), ([], 3), ([(0, 0)], 1), ([(0, 0), (0, 1)], 2), ([(user, 1) for user in range(9)], 3)],
    ids=["no products", "no pairs", "one product", "one user", "all want one"],
)
def test_of_next_to_nothing_next_to_nothing_is_learned(pairs, products):
    similar, learner = learn_similar(*pairs_of(pairs), vectors_of(products) if products else np.empty((0, DIMS)))

    assert learner == "ease"
    assert similar.others.shape == similar.weights.shape == (products, max(products - 1, 0))
    assert similar.translation.shape == (products, DIMS)
    assert np.isfinite(similar.weights).all()
    assert np.isfinite(similar.translation).all()


def test_a_history_of_nothing_gives_no_scores():
    similar, _ = learn_similar(*pairs_of({(0, 1), (0, 2)}), vectors_of(4))

    scores = collaborative_scores(similar, np.array([0, -1], np.int32), vectors_of(2), np.empty(0, int), np.empty(0))

    np.testing.assert_array_equal(scores, [0, 0])


def test_one_who_wants_everything_a_lot_changes_little(monkeypatch):
    monkeypatch.setattr(collaborative, "_MOST_OF_USER", 25)
    *pairs, vectors = two_groups()
    users, products, weights = pairs
    loud = np.full(40, 99), np.arange(40), np.arange(1.0, 41) * 1e5

    similar, _ = learn_similar(*map(np.append, (users, products, weights), loud), vectors)
    scores = collaborative_scores(similar, np.arange(40, dtype=np.int32), vectors, np.array([2, 5]), np.ones(2))

    assert np.delete(scores[:20], [2, 5]).mean() > scores[20:].max()


@pytest.mark.parametrize("missing", ["scipy", "implicit"])
def test_what_learning_needs_is_named(missing, monkeypatch):
    monkeypatch.setattr(collaborative, "LARGEST_CLOSED_FORM", 1)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == missing else name)

    with pytest.raises(MissingComponentError, match=f"needs {missing}"):
        learn_similar(*pairs_of({(0, 1)}), vectors_of(2))
