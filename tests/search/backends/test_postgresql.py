"""What only PostgreSQL has: its addresses, rights and settings."""

import contextlib
import sys

import numpy as np
import pytest

from imgsearch.errors import MissingComponentError, ServerError, UsageError
from imgsearch.search.backends.postgresql import open_server
from imgsearch.search.backends.pushed import Comparison
from search.backends import postgresql_server

servers = pytest.mark.servers
COLLECTION = "imgsearch_00000000000000ab"


@pytest.fixture(scope="module")
def server():
    with postgresql_server.running() as started:
        yield started


@pytest.fixture
def opened(server):
    with contextlib.closing(open_server(server.address, COLLECTION, 4)) as one:
        yield one
        one.drop()


def random_units(count, dims=4):
    vectors = np.random.default_rng(0).normal(size=(count, dims))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


@pytest.mark.parametrize(
    "address",
    [
        *("postgresql://a:hunter2@h/d", "postgresql://h/d?password=hunter2", "postgresql://h/d?%70assword=hunter2"),
        *("postgresql://h/d?sslpassword=hunter2", "postgresql://a:hunter2@h:port/d", "postgresql://a:hunter2@[/d"),
        "postgresql://h/d?sslkeylogfile=hunter2",
    ],
)
def test_an_address_with_a_secret_in_it_is_refused_and_not_shown(address):
    with pytest.raises(UsageError) as caught:
        open_server(address, COLLECTION, 4)

    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"


def test_without_psycopg_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    with pytest.raises(MissingComponentError) as caught:
        open_server("postgresql://shop@127.0.0.1/shop", COLLECTION, 4)

    assert "imgsearch-toolkit[postgres]" in caught.value.hint


@servers
def test_a_database_without_pgvector_is_refused_with_what_to_run_there(server):
    with pytest.raises(ServerError, match="extension vector") as caught:
        open_server(server.address_at(server.port, "bare"), COLLECTION, 4)

    assert "CREATE EXTENSION vector" in caught.value.hint


@servers
def test_a_wrong_password_is_an_error_that_does_not_show_it(server, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    with pytest.raises(ServerError, match="authentication failed") as caught:
        open_server(server.address, COLLECTION, 4)

    assert "hunter2" not in f"{caught.value.message} {caught.value.hint}"
    assert "PGPASSWORD" in caught.value.hint


@servers
def test_the_password_and_the_rest_may_be_in_files_of_libpq(server, monkeypatch, tmp_path):
    monkeypatch.delenv("PGPASSWORD")
    (tmp_path / "services").write_text(f"[shop]\nhost=127.0.0.1\nport={server.port}\nuser=shop\ndbname=shop\n")
    passwords = tmp_path / "passwords"
    passwords.write_text(f"127.0.0.1:{server.port}:shop:shop:{postgresql_server.PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    monkeypatch.setenv("PGPASSFILE", str(passwords))

    with contextlib.closing(open_server("postgresql:///?service=shop", COLLECTION, 4)) as one:
        assert len(one.ids()) == 0


@servers
def test_one_who_may_only_read_can_search_and_is_told_that_he_may_not_write(server, opened):
    vectors = random_units(3)
    opened.put(np.arange(3), vectors, [{}] * 3)
    opened.settle()
    server.run(f"CREATE ROLE reader LOGIN PASSWORD '{postgresql_server.PASSWORD}'")
    server.run(f"GRANT SELECT ON {COLLECTION} TO reader", "shop")

    address = server.address.replace("shop@", "reader@")
    with contextlib.closing(open_server(address, COLLECTION, 4)) as one:
        assert one.nearest(vectors[1], 1, 40, ()).tolist() == [1]
        with pytest.raises(ServerError, match="permission denied"):
            one.put(np.arange(3), vectors, [{}] * 3)
    server.run("DROP OWNED BY reader; DROP ROLE reader", "shop")


@servers
def test_what_is_settled_outlives_a_crash_of_a_server_that_would_not_wait_for_its_disk(server, opened):
    server.run("ALTER ROLE shop SET synchronous_commit = off")
    with contextlib.closing(open_server(server.address, COLLECTION, 4)) as one:
        one.put(np.arange(100), random_units(100), [{}] * 100)
        one.settle()
        server.kill()
    server.start()
    server.run("ALTER ROLE shop RESET synchronous_commit")

    assert len(opened.ids()) == 100


@servers
def test_vectors_that_are_too_long_for_a_graph_are_compared_one_by_one(server):
    vectors = random_units(30, 2500)
    with contextlib.closing(open_server(server.address, COLLECTION, 2500)) as one:
        one.put(np.arange(30), vectors, [{}] * 30)
        one.settle()
        found = [one.nearest(vector, 1, 40, ()).tolist() for vector in vectors]
        one.drop()

    assert found == [[row] for row in range(30)]


@servers
def test_of_many_columns_all_can_be_asked_for(opened):
    fields = [{f"column {number}": number + row for number in range(60)} for row in range(5)]
    opened.put(np.arange(5), random_units(5), fields)
    opened.settle()

    for number in range(60):
        where = [Comparison(f"column {number}", "=", number + 2)]
        assert opened.nearest(random_units(1)[0], 5, 40, where).tolist() == [2]


@servers
def test_with_a_condition_that_is_rare_none_is_missed_and_with_one_that_is_not_the_graph_is_asked(server, opened):
    count = 6000
    vectors = random_units(count)
    for first in range(0, count, 3000):
        rows = np.arange(first, first + 3000)
        opened.put(rows, vectors[rows], [{"price": int(row), "color": "red"} for row in rows])
    opened.settle()

    def plan(condition):
        query = (
            f"EXPLAIN SELECT id FROM {COLLECTION} WHERE jsonb_typeof(fields -> 'price') = 'number' AND"
            f" fields -> 'price' < '{condition}'::jsonb LIMIT 5001"
        )
        return " ".join(line for (line,) in server.run(query, "shop"))

    rare = opened.nearest(vectors[5999], 10, 40, [Comparison("price", "<", 60)])
    assert sorted(rare) == sorted(np.argsort(-(vectors[:60] @ vectors[5999]))[:10])
    assert f"Index Scan on {COLLECTION}_" in plan(60) or f"Index Scan using {COLLECTION}_" in plan(60)
    assert "Seq Scan" in plan(5900)  # the planner knows how many match
    (found,) = server.run(f"SELECT count(*) FROM pg_class WHERE relname = '{COLLECTION}_graph'", "shop")
    assert found == (1,)
