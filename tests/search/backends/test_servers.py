"""What holds for a collection in every server that keeps the candidates of an index, tried with real ones."""

import contextlib
import itertools
import secrets
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imgsearch.errors import ImgsearchError, ServerError, UsageError
from imgsearch.search.backends.pushed import Comparison

pytestmark = pytest.mark.servers

DIMS = 16
EFFORT = 40


@pytest.fixture
def opened(server):
    """Open a collection that is there for one test: opened(), or opened(dims=8)."""
    collection = f"imgsearch_{secrets.token_hex(8)}"
    with contextlib.ExitStack() as ending:

        def open_again(dims=DIMS):
            one = server.backend.open_server(server.address, collection, dims)
            ending.callback(one.close)
            return one

        ending.callback(lambda: open_again().drop())
        yield open_again


def unit(vectors):
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)


def random_units(count, dims=DIMS, seed=0):
    return unit(np.random.default_rng(seed).normal(size=(count, dims)))


def fill(one, count, fields=None, seed=0):
    """Put vectors with the ids 0, 7, 14, ..."""
    vectors = random_units(count, seed=seed)
    one.put(np.arange(count) * 7, vectors, fields or [{} for _ in range(count)])
    one.settle()
    return vectors


def ids_of(one):
    found = one.ids()
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == len(found)
    return sorted(found.tolist())


def nearest(one, vector, k, *where):
    found = one.nearest(vector, k, EFFORT, where)
    assert found.dtype == np.int64
    assert len(set(found.tolist())) == len(found) <= k
    return found.tolist()


# --- what is put is there


def test_of_a_collection_that_is_not_there_nothing_is_found_and_it_can_be_deleted(opened):
    one = opened()

    assert ids_of(one) == []
    one.delete(np.array([1, 2]))
    one.settle()
    one.drop()
    assert ids_of(one) == []


def test_what_is_put_is_found_by_this_connection_and_by_others(opened):
    one = opened()
    vectors = fill(one, 50)

    for reader in (one, opened()):
        assert ids_of(reader) == [7 * row for row in range(50)]
        assert [nearest(reader, vector, 1) for vector in vectors] == [[7 * row] for row in range(50)]


def test_ids_take_all_63_bits(opened):
    one = opened()
    ids = np.array([0, 1, 2**31, 2**53 + 1, 2**63 - 2])  # the largest is none that Milvus lists
    vectors = random_units(5)
    one.put(ids, vectors, [{}] * 5)
    one.settle()

    assert ids_of(one) == ids.tolist()
    assert [nearest(one, vector, 1) for vector in vectors] == [[each] for each in ids.tolist()]


def test_a_vector_that_is_put_again_replaces_the_one_before(opened):
    one = opened()
    fill(one, 20, [{"price": 1}] * 20)
    other = random_units(2, seed=5)

    one.put(np.array([7, 1000]), other, [{"price": 2}, {"price": 2}])
    one.settle()

    assert ids_of(one) == sorted([*(7 * row for row in range(20)), 1000])
    assert nearest(one, other[0], 1) == [7]
    assert sorted(nearest(one, other[0], 30, Comparison("price", "=", 2))) == [7, 1000]


def test_what_is_deleted_is_not_found_and_the_rest_is(opened):
    one = opened()
    vectors = fill(one, 50)

    one.delete(np.array([0, 14, 21, 999]))

    assert ids_of(one) == sorted({7 * row for row in range(50)} - {0, 14, 21})
    assert {0, 14, 21}.isdisjoint(nearest(one, vectors[2], 47))
    assert nearest(one, vectors[1], 1) == [7]


def test_a_collection_that_was_dropped_can_be_filled_again_with_other_dimensions(opened):
    one = opened()
    fill(one, 5)
    one.drop()
    assert ids_of(one) == []

    other = opened(dims=4)
    other.put(np.array([3]), random_units(1, 4), [{}])
    other.settle()

    assert ids_of(other) == [3]


def test_to_search_a_collection_that_is_gone_is_an_error_of_the_server(opened):
    with pytest.raises(ServerError):
        opened().nearest(random_units(1)[0], 3, EFFORT, ())


def test_vectors_of_other_dimensions_are_an_error_of_the_server(opened):
    one = opened()
    fill(one, 5)

    with pytest.raises(ServerError):
        opened(dims=4).put(np.array([3]), random_units(1, 4), [{}])
    with pytest.raises(ServerError):
        opened(dims=4).nearest(random_units(1, 4)[0], 3, EFFORT, ())
    assert len(ids_of(one)) == 5


def test_indexes_do_not_see_one_another(server, opened):
    fill(opened(), 5)
    with contextlib.closing(
        server.backend.open_server(server.address, f"imgsearch_{secrets.token_hex(8)}", DIMS)
    ) as other:
        assert ids_of(other) == []
        other.drop()

    assert len(ids_of(opened())) == 5


# --- the nearest are found


def test_of_few_vectors_the_nearest_are_those_that_numpy_finds(opened):
    one = opened()
    vectors = fill(one, 300)

    for query, k in itertools.product(random_units(5, seed=1), (1, 7, 300, 1500)):
        best = np.argsort(-(vectors @ query))[:k]
        assert sorted(nearest(one, query, k)) == sorted((7 * best).tolist()), k


def test_recall_among_clustered_vectors_is_high_with_conditions_and_without(opened):
    generator = np.random.default_rng(3)
    centers = generator.normal(size=(40, DIMS))
    vectors = unit(centers[generator.integers(0, 40, 6000)] + 0.3 * generator.normal(size=(6000, DIMS)))
    queries = unit(centers[generator.integers(0, 40, 50)] + 0.3 * generator.normal(size=(50, DIMS)))
    price = generator.permutation(6000)
    one = opened()
    for first in range(0, 6000, 2000):
        rows = np.arange(first, first + 2000)
        one.put(rows, vectors[rows], [{"price": int(price[row])} for row in rows])
    one.settle()

    for most in (60, 600, 5500, 6000):
        where = [Comparison("price", "<", most)] if most < 6000 else []
        scores = np.where(price < most, queries @ vectors.T, -1)
        found = 0
        for each, query in zip(scores, queries, strict=True):
            rows = nearest(one, query, 30, *where)
            assert len(rows) == 30
            assert (price[rows] < most).all()
            found += len(set(np.argsort(-each)[:10].tolist()) & set(rows))
        assert found / 500 >= 0.99


def test_what_is_put_after_it_was_settled_is_found_as_well(opened):
    one = opened()
    fill(one, 500)
    more = random_units(100, seed=8)

    one.put(10_000 + np.arange(100), more, [{}] * 100)
    one.settle()

    assert [nearest(one, vector, 1) for vector in more] == [[10_000 + row] for row in range(100)]


def test_vectors_that_are_all_the_same_are_all_found(opened):
    one = opened()
    vector = random_units(1)
    one.put(np.arange(200), np.repeat(vector, 200, axis=0), [{}] * 200)
    one.settle()

    assert len(nearest(one, vector[0], 200)) == 200


# --- conditions

HOSTILE = [
    *(
        "",
        " ",
        "a",
        "A",
        "%",
        "_",
        "a%",
        "a_b",
        "\\",
        "'",
        '"',
        '"; --',
        "'; DROP TABLE items; --",
        "{}",
        "[1]",
        "null",
    ),
    *("true", "1", "1.0", "shoes", "shoes/boots", "shoes/boots/red", "shoes-old", "shoes0", "Shoes/boots", "shoe"),
    *("été", "e\u0301te\u0301", "ß", "日本語", "🥾", "\u202e", "a\nb", "a\tb", "$1", "%s", "{key}", "x" * 200),
]
NUMBERS = [0, 1, -1, 2, 10, 0.1, 0.25, 1.5, -2.5, 1e-9, 1e15, 2**53, -(2**53), 1]


@pytest.mark.parametrize("value", HOSTILE)
def test_any_text_is_compared_as_it_is(hostile, value):
    one, fields = hostile

    equal = nearest(one, random_units(1)[0], len(fields), Comparison("category", "=", value))
    below = nearest(one, random_units(1)[0], len(fields), Comparison("category", "below", value))

    texts = [each.get("category") for each in fields]
    assert sorted(equal) == [row for row, text in enumerate(texts) if text == value]
    assert sorted(below) == [
        row
        for row, text in enumerate(texts)
        if isinstance(text, str) and (text == value or text.startswith(f"{value}/"))
    ]


@pytest.mark.parametrize("sign", ["=", "<", "<=", ">", ">="])
def test_numbers_are_compared_as_numbers_and_with_numbers_only(hostile, sign):
    one, fields = hostile
    compare = {"=": np.equal, "<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal}[sign]

    for value in (0, 0.0, 1, 1.0, 10, 0.1, 1.5, -2.5, 1e15, float(2**53)):
        found = nearest(one, random_units(1)[0], len(fields), Comparison("price", sign, value))
        expected = [
            row
            for row, each in enumerate(fields)
            if isinstance(each.get("price"), int | float) and compare(each["price"], value)
        ]
        assert sorted(found) == expected


def test_all_comparisons_must_hold(hostile):
    one, fields = hostile

    found = nearest(
        one,
        random_units(1)[0],
        len(fields),
        Comparison("category", "below", "shoes"),
        Comparison("price", ">", 0),
        Comparison("price", "<=", 10),
    )

    assert found
    assert sorted(found) == [
        row
        for row, each in enumerate(fields)
        if str(each.get("category")).startswith(("shoes/", "shoes"))
        and (each["category"] == "shoes" or each["category"].startswith("shoes/"))
        and isinstance(each.get("price"), int | float)
        and 0 < each["price"] <= 10
    ]


@pytest.mark.parametrize("name", ['a"; --', "a b", "%s", "ünï", "a'b", "$.x", "{key}", "fields", "id", "vector"])
def test_a_column_may_have_any_name(hostile, name):
    one, fields = hostile

    assert nearest(one, random_units(1)[0], len(fields), Comparison(name, "=", "here")) == [3]
    assert nearest(one, random_units(1)[0], len(fields), Comparison(f"{name}x", "=", "here")) == []


@pytest.fixture(scope="module")
def hostile(server):
    """A collection with all kinds of values, its ids being rows; read only."""
    odd = ['a"; --', "a b", "%s", "ünï", "a'b", "$.x", "{key}", "fields", "id", "vector"]
    fields = [{"category": text, "price": NUMBERS[row % len(NUMBERS)]} for row, text in enumerate(HOSTILE)]
    fields += [{"category": 1, "price": "1"}, {"category": 0.5, "price": ""}, {}, {"price": 10}, {"category": "shoes"}]
    fields[3] |= dict.fromkeys(odd, "here")
    one = server.backend.open_server(server.address, f"imgsearch_{secrets.token_hex(8)}", DIMS)
    one.put(np.arange(len(fields)), random_units(len(fields)), fields)
    one.settle()
    yield one, fields
    one.drop()
    one.close()


# --- a model


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.lists(st.integers(0, 12), min_size=1, unique=True), st.integers(0, 9)),
            st.tuples(st.just("delete"), st.lists(st.integers(0, 12), unique=True)),
            st.tuples(st.just("drop")),
        ),
        max_size=6,
    ),
    st.integers(0, 9),
)
def test_a_collection_holds_what_a_dict_would(opened, steps, asked):
    one = opened()
    one.drop()
    model = {}
    for name, *given_ in steps:
        if name == "put":
            ids, price = given_
            vectors = random_units(len(ids), seed=price)
            one.put(np.array(ids), vectors, [{"price": price}] * len(ids))
            model |= {each: (vectors[place], price) for place, each in enumerate(ids)}
        elif name == "delete":
            one.delete(np.array(given_[0], np.int64))
            model = {each: kept for each, kept in model.items() if each not in given_[0]}
        else:
            one.drop()
            model = {}
    one.settle()

    assert ids_of(one) == sorted(model)
    if model:
        query = random_units(1, seed=asked + 100)[0]
        ranked = sorted(model, key=lambda each: -float(model[each][0] @ query))
        assert sorted(nearest(one, query, 4)) == sorted(ranked[:4])
        cheap = [each for each in ranked if model[each][1] < asked]
        assert sorted(nearest(one, query, 4, Comparison("price", "<", asked))) == sorted(cheap[:4])


# --- many at once, and servers that are not there


def test_threads_share_a_connection_while_others_write(opened):
    one = opened()
    vectors = fill(one, 300)
    ended = threading.Event()

    def write():
        other, number = opened(), 0
        while not ended.is_set():
            number += 1
            other.put(np.array([100_000 + number]), random_units(1, seed=number), [{}])
            other.delete(np.array([100_000 + number - 1]))

    def read(row):
        return nearest(one, vectors[row], 1)

    with ThreadPoolExecutor(9) as threads:
        writing = threads.submit(write)
        try:
            found = list(threads.map(read, list(range(300))))
        finally:
            ended.set()
        writing.result()

    assert found == [[7 * row] for row in range(300)]


def test_a_server_that_was_killed_and_started_again_has_lost_nothing_and_is_asked_on(server, opened):
    one = opened()
    vectors = fill(one, 200, [{"price": row} for row in range(200)])
    before = [nearest(one, vector, 10, Comparison("price", "<", 150)) for vector in vectors[:20]]

    server.kill()
    server.start()

    for reader in (one, opened()):
        assert ids_of(reader) == [7 * row for row in range(200)]
        assert [nearest(reader, vector, 10, Comparison("price", "<", 150)) for vector in vectors[:20]] == before
    one.put(np.array([5000]), random_units(1, seed=9), [{}])
    one.settle()
    assert len(ids_of(one)) == 201


def test_a_server_that_is_down_is_an_error_that_names_it_and_says_what_to_do(server, opened):
    one = opened()
    vectors = fill(one, 5)

    server.stop()
    try:
        for ask in (lambda: one.nearest(vectors[0], 3, EFFORT, ()), one.ids, opened):
            with pytest.raises(ServerError) as caught:
                ask()
            assert str(server.port) in caught.value.message
            assert "\n" not in caught.value.message
            assert "--fallback exact" in caught.value.hint
    finally:
        server.start()
    assert len(ids_of(one)) == 5


def test_a_server_that_accepts_and_never_answers_is_an_error(server, monkeypatch):
    monkeypatch.setattr(server.backend, "CONNECTING_SECONDS", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = server.address_at(silent.getsockname()[1])
        with pytest.raises(ServerError, match=str(silent.getsockname()[1])):
            server.backend.open_server(address, f"imgsearch_{0:016x}", DIMS)


def test_a_server_that_hangs_while_it_is_asked_is_an_error_and_is_asked_again_later(server, opened, monkeypatch):
    one = opened()
    vectors = fill(one, 5)
    monkeypatch.setattr(server.backend, "QUESTION_SECONDS", 1)
    with server.hanging(), pytest.raises(ServerError, match="1 s"):
        one.nearest(vectors[0], 3, EFFORT, ())

    monkeypatch.undo()
    assert len(nearest(one, vectors[0], 5)) == 5


@pytest.mark.parametrize("name", ["imgsearch_0", "items; DROP TABLE x", "imgsearch_0123456789ABCDEF", ""])
def test_another_name_of_a_collection_is_refused(server, name):
    with pytest.raises(ImgsearchError, match="imgsearch_"):
        server.backend.open_server(server.address, name, DIMS)


def test_what_is_no_address_is_a_usage_error(server):
    for address in ("", "here", server.address.partition(":")[0] + "://", "http://127.0.0.1/x"):
        with pytest.raises(UsageError):
            server.backend.open_server(address, f"imgsearch_{0:016x}", DIMS)


def test_an_address_with_a_password_in_it_is_refused_and_not_shown(server):
    address = server.address_at(server.port).replace("://", "://someone:hunter2@").replace("shop@", "")

    with pytest.raises(UsageError) as caught:
        server.backend.open_server(address, f"imgsearch_{0:016x}", DIMS)

    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"
