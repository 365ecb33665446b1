"""What a backend with a server does for an index, whatever the server: one that is held in memory stands for it."""

import logging
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from imgsearch import Filter, Index, ServerError, UsageError, build_index, rollback
from imgsearch.search import backends
from imgsearch.search.backends import server
from imgsearch.search.backends.pushed import Comparison, pushed
from imgsearch.search.backends.server import ServerBackend, _unlike
from imgsearch.store import generations
from imgsearch.store.columns import Column
from imgsearch.store.conditions import Conditions, Range
from index_fixtures import lay_out, painted

ADDRESS = "memory://here"


class MemoryServer:
    """Collections in this process, each a dictionary of id -> (vector, fields)."""

    def __init__(self):
        self.collections = {}
        self.is_down = False
        self.puts = 0
        self.asked = []

    def open(self, address, collection, dims):
        if self.is_down:
            raise ServerError(f"{address} does not answer", hint="is it running?")
        return MemoryCollection(self, collection)


class MemoryCollection:
    def __init__(self, server, name):
        self.server = server
        self.name = name

    @property
    def entities(self):
        if self.server.is_down:
            raise ServerError("memory does not answer", hint="is it running?")
        return self.server.collections.setdefault(self.name, {})

    def ids(self):
        return np.fromiter(self.server.collections.get(self.name, {}), np.int64)

    def put(self, ids, vectors, fields):
        self.server.puts += len(ids)
        self.entities.update(zip(ids.tolist(), zip(vectors, fields, strict=True), strict=True))

    def settle(self): ...

    def delete(self, ids):
        for each in ids.tolist():
            self.entities.pop(each, None)

    def drop(self):
        self.server.collections.pop(self.name, None)

    def nearest(self, vector, k, effort, where):
        self.server.asked.append(where)
        among = [each for each, (_, fields) in self.entities.items() if all(holds(fields, one) for one in where)]
        scores = [float(self.entities[each][0] @ vector) for each in among]
        return np.asarray([among[place] for place in np.argsort(scores)[::-1][:k]], np.int64)

    def close(self): ...


def holds(fields, comparison):
    value, asked = fields.get(comparison.field), comparison.value
    if isinstance(value, str) != isinstance(asked, str) or value is None:
        return False
    return {
        "=": lambda: value == asked,
        "<": lambda: value < asked,
        "<=": lambda: value <= asked,
        ">": lambda: value > asked,
        ">=": lambda: value >= asked,
        "below": lambda: value == asked or value.startswith(asked + "/"),
    }[comparison.sign]()


@pytest.fixture
def memory(monkeypatch):
    server = MemoryServer()
    backend = ServerBackend("memory", "json", "memory", server.open, (16, 64))
    monkeypatch.setitem(backends.BACKENDS, "memory", backend)
    monkeypatch.setitem(backends.SERVERS, "memory", backend)
    return server


@pytest.fixture
def shop(tmp_path, quick_builds):
    """A catalog of thirty images, and a function that indexes it."""
    catalog = lay_out(tmp_path / "catalog", 30)
    data = tmp_path / "shop.csv"
    lines = [f"{path.relative_to(catalog)},{number}" for number, path in enumerate(sorted(catalog.rglob("*.png")))]
    data.write_text("\n".join(["path,price", *lines]) + "\n")

    def build(**options):
        return build_index(catalog, tmp_path / "index", backbone="handcrafted", metadata=data, **options)

    return catalog, tmp_path / "index", build


def collection(memory):
    (only,) = memory.collections.values()
    return only


def test_answers_are_those_of_exact_search(memory, shop):
    catalog, index, build = shop
    build(backend=ADDRESS)
    with Index.open(index) as opened:
        for image in sorted(catalog.rglob("*.png"))[:5]:
            assert opened.search(image, 7) == opened.search(image, 7, exact=True)
        assert opened.plan() == "memory"
        assert opened.plan(exact=True) == "exact"


def test_a_build_puts_only_what_is_new_and_deletes_only_what_two_generations_lack(memory, shop):
    catalog, _, build = shop
    build(backend=ADDRESS)
    first = set(collection(memory))
    assert len(first) == memory.puts == 30
    (catalog / "a" / "0000.png").unlink()
    (catalog / "b" / "new.png").write_bytes(painted(99))
    build()
    assert memory.puts == 31
    assert len(collection(memory)) == 31  # the generation before still has what was removed
    (catalog / "b" / "new2.png").write_bytes(painted(100))
    build()
    assert len(collection(memory)) == 31
    assert len(first & set(collection(memory))) == 29


def test_changed_data_of_an_item_replace_its_entity(memory, shop):
    _, index, build = shop
    build(backend=ADDRESS)
    data = index.parent / "shop.csv"
    data.write_text(data.read_text().replace("a/0000.png,0\n", "a/0000.png,500\n"))
    build()
    assert memory.puts == 31
    prices = [fields["price"] for _, fields in collection(memory).values() if fields["path"] == "a/0000.png"]
    assert sorted(prices) == [0, 500]


def test_a_reader_of_the_generation_before_finds_all_of_its_items(memory, shop):
    catalog, index, build = shop
    build(backend=ADDRESS)
    image = catalog / "a" / "0003.png"
    with Index.open(index) as opened:
        expected = opened.search(image, 10)
        for folder in "bc":  # until its vectors are gone from the server
            shutil.rmtree(catalog / folder)
            build(force=True)
            assert opened.search(image, 10) == expected


def test_what_the_server_lost_is_put_again_by_a_build_with_nothing_changed(memory, shop):
    _, _, build = shop
    build(backend=ADDRESS)
    for lost in list(collection(memory))[:5]:
        del collection(memory)[lost]
    report = build()
    assert report.published
    assert len(collection(memory)) == 30
    assert not build().published


def test_a_server_that_lost_vectors_is_said_to_be_wrong(memory, shop):
    catalog, index, build = shop
    build(backend=ADDRESS)
    for lost in list(collection(memory))[:25]:
        del collection(memory)[lost]
    with Index.open(index) as opened, pytest.raises(ServerError, match=r"found \d+ of its vectors, expected 10"):
        opened.search(catalog / "a" / "0003.png", 10)


def test_a_copy_of_an_index_gets_a_collection_of_its_own(memory, shop):
    catalog, index, build = shop
    build(backend=ADDRESS)
    before = set(collection(memory))
    copy = index.with_name("copy")
    shutil.copytree(index, copy)
    (catalog / "a" / "0000.png").unlink()
    for number in (1, 2):
        (catalog / "b" / f"new{number}.png").write_bytes(painted(100 + number))
        build_index(catalog, copy)
    assert len(memory.collections) == 2
    assert before in [set(each) for each in memory.collections.values()]


def test_a_copy_at_the_same_place_of_another_file_system_gets_a_collection_of_its_own(memory, shop, monkeypatch):
    catalog, _, build = shop
    build(backend=ADDRESS)
    before = set(collection(memory))
    monkeypatch.setattr(server, "os", SimpleNamespace(**vars(os) | {"statvfs": lambda _: SimpleNamespace(f_fsid=1)}))
    (catalog / "a" / "0000.png").unlink()
    build()
    assert len(memory.collections) == 2
    assert before in [set(each) for each in memory.collections.values()]


def test_a_collection_that_no_generation_names_any_more_is_dropped(memory, shop):
    catalog, _, build = shop
    build(backend=ADDRESS)
    build(backend="exact")
    assert len(memory.collections) == 1
    (catalog / "b" / "new.png").write_bytes(painted(99))
    build()
    assert not memory.collections


def test_another_space_of_vectors_gets_another_collection(memory, shop):
    _, index, build = shop
    build(backend=ADDRESS)
    build(preprocess="grayscale")
    assert sorted(len(each) for each in memory.collections.values()) == [30, 30]
    names = {generations.read_generation(index, number).backend.collection for number in (1, 2)}
    assert names == set(memory.collections)


def test_rollback_finds_its_vectors_in_the_server(memory, shop):
    catalog, index, build = shop
    build(backend=ADDRESS)
    with Index.open(index) as opened:
        expected = [hit.path for hit in opened.search(catalog / "a" / "0003.png", 10)]
    (catalog / "b" / "new.png").write_bytes(painted(99))
    build()
    rollback(index)
    with Index.open(index) as opened:
        assert [hit.path for hit in opened.search(catalog / "a" / "0003.png", 10)] == expected


def test_a_server_that_is_down_stops_a_build_before_anything_is_embedded(memory, shop):
    _, index, build = shop
    memory.is_down = True
    with pytest.raises(ServerError):
        build(backend=ADDRESS)
    assert not (index / "manifest.json").exists()
    assert not (index / "partial.sqlite").exists()


def test_a_server_that_is_down_fails_queries_unless_there_is_a_fallback(memory, shop, caplog):
    catalog, index, build = shop
    build(backend=ADDRESS)
    image = catalog / "a" / "0003.png"
    memory.is_down = True
    with Index.open(index) as opened, pytest.raises(ServerError):
        opened.search(image, 5)
    with Index.open(index, fallback="exact") as opened, caplog.at_level(logging.WARNING):
        assert opened.search(image, 5) == opened.search(image, 5, exact=True)
        assert opened.plan() == "exact"
    assert caplog.text.count("every image is compared instead") == 1


def test_a_server_that_goes_down_between_two_queries_is_answered_for(memory, shop):
    catalog, index, build = shop
    build(backend=ADDRESS)
    image = catalog / "a" / "0003.png"
    with Index.open(index, fallback="exact") as opened:
        expected = opened.search(image, 5)
        assert opened.plan() == "memory"
        memory.is_down = True
        assert opened.search(image, 5) == expected
        assert opened.plan() == "exact"


def test_conditions_are_pushed_to_the_server_and_finished_here(memory, shop, monkeypatch):
    monkeypatch.setattr("imgsearch.search.nearest.FEW_BESIDE_SERVER", 0)
    monkeypatch.setattr("imgsearch.search.filtered._LARGEST_PART", 1)
    monkeypatch.setattr("imgsearch.search.filtered._PLAIN_QUESTIONS", 0)
    catalog, index, build = shop
    build(backend=ADDRESS)
    with Index.open(index) as opened:
        conditions = Filter(where="price >= 10 AND path LIKE '%.png' AND category = 'b'")
        image = catalog / "a" / "0003.png"
        assert opened.search(image, 2, filter=conditions) == opened.search(image, 2, filter=conditions, exact=True)
    assert memory.asked[-1] == (Comparison("price", ">=", 10.0), Comparison("category", "=", "b"))


COLUMNS = {
    "price": Column("price", "real"),
    "brand": Column("brand", "text"),
    "since": Column("since", "date"),
    "any": Column("any", "mixed"),
    "path": Column("path", "integer"),
}


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("price < 5", [("price", "<", 5.0)]),
        ("5 >= price", [("price", "<=", 5.0)]),
        ("(price) = '12.50' and brand = 'O''Neill'", [("price", "=", 12.5), ("brand", "=", "O'Neill")]),
        ("brand > 'a'", []),  # another order than that of SQLite
        ("since > '2024'", []),
        ("any = 5", []),
        ("price < 5 OR brand = 'x'", []),
        ("NOT price < 5 AND brand = 'x'", []),
        ("price BETWEEN 1 AND 5", []),
        ("price + 1 < 5 AND brand = 'x'", [("brand", "=", "x")]),
        ("lower(brand) = 'x'", []),
        ("price = 0x10", []),
        ("price < brand AND brand = 'x'", [("brand", "=", "x")]),
        ("path = 'a/b.png'", [("path", "=", "a/b.png")]),
        ("brand = 'a AND b'", [("brand", "=", "a AND b")]),
        ("brand != 'x' AND brand IS NOT NULL", []),
        ("brand = '" + "x" * 300 + "'", []),  # longer than what a server has
        ("price = 9007199254740993", []),  # no floating point number
        ("size > 5", []),  # of the file
    ],
)
def test_only_what_a_server_can_say_exactly_is_pushed(where, expected):
    assert list(pushed(Conditions(where=where), COLUMNS)) == [Comparison(*each) for each in expected]


def test_categories_and_ranges_are_pushed():
    conditions = Conditions(category="shoes/", ranges=(Range("price", 5, None), Range("since", "2024", None)))
    assert pushed(conditions, COLUMNS) == (Comparison("category", "below", "shoes"), Comparison("price", ">=", 5.0))


def test_ids_that_are_equal_by_chance_are_moved_apart():
    assert sorted(_unlike(np.array([5, 7, 5, 6, 5]))) == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("memory", "needs the address of a server"),
        ("mysql://x", "backend must be one of"),
        ("postgres://shop:hunter2@here/shop", "got 'postgres://...'"),
        ("", "found nothing"),
    ],
)
def test_a_backend_that_is_no_name_and_no_address_is_refused(memory, shop, given, message):
    _, _, build = shop
    with pytest.raises(UsageError, match=message):
        build(backend=given)
