import json
import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.store.columns import write_columns
from imgsearch.store.database import connect
from imgsearch.store.items import SCHEMA, Item, Items
from index_fixtures import rows_where

NAMES = [
    "fruit/apple.png",
    "fruit/line\nbreak.png",
    "fruit/quote'\".png",
    "latin1/caf\udce9.png",
    "utf8/café 日本.png",
    "vegetable/100%_?#.png",
    "vegetable/tab\t\x1b[31m.png",
]


def write(path, names=NAMES):
    with closing(connect(path)) as connection:
        connection.executescript(f"PRAGMA synchronous = off; {SCHEMA}; BEGIN")
        for row, name in enumerate(names):
            data = {"price": row + 0.5, "stock": row, "code": f"00{row}"}
            connection.execute(
                "INSERT INTO items VALUES (?, CAST(? AS TEXT), 1, 2, ?, CAST(? AS TEXT), ?, ?)",
                (
                    row,
                    os.fsencode(name),
                    bytes([row % 256]) * 32,
                    os.fsencode(name),
                    os.fsdecode(name).split("/")[0],
                    json.dumps(data),
                ),
            )
        write_columns(connection, "main", "main")
        connection.execute("INSERT INTO rejected VALUES ('bad.jpg', 0, 0, 'empty', 'the file is empty', '2026')")
        connection.execute("COMMIT")
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "items.sqlite")


@pytest.fixture
def items(file):
    opened = Items(file)
    yield opened
    opened.close()


def test_names_of_any_bytes_come_back_as_they_are(items):
    assert [item.path for item in items.fetch(range(len(NAMES)))] == NAMES


def test_items_come_in_the_order_asked_for(items):
    assert [item.row for item in items.fetch([3, 0, 6, 0])] == [3, 0, 6, 0]
    assert items.fetch([1])[0] == Item(
        1, "fruit/line\nbreak.png", "fruit/line\nbreak.png", "fruit", {"price": 1.5, "stock": 1, "code": "001"}
    )
    assert items.fetch([]) == []


def test_more_items_than_sqlite_takes_parameters_are_fetched(tmp_path):
    opened = Items(write(tmp_path / "many.sqlite", [f"a/{number:04d}.png" for number in range(1203)]))

    assert [item.row for item in opened.fetch(np.arange(1203)[::-1])] == list(range(1203))[::-1]
    opened.close()


@pytest.mark.parametrize("rows", [[7], [0, -1], [2**40]])
def test_a_row_that_is_not_there_is_damage(items, rows):
    with pytest.raises(DamagedIndexError, match="is not there"):
        items.fetch(rows)


def test_the_row_of_a_content_is_its_first(tmp_path):
    opened = Items(write(tmp_path / "many.sqlite", [f"a/{number:04d}.png" for number in range(300)]))

    assert opened.row_of_content(b"\x05" * 32) == 5
    assert opened.row_of_content(b"nobody") is None
    opened.close()


def test_rejected_files_are_told_with_their_causes(items):
    assert [(bad.path, bad.cause, bad.message, bad.first_seen) for bad in items.rejected()] == [
        ("bad.jpg", "empty", "the file is empty", "2026")
    ]


@pytest.mark.parametrize(
    ("expression", "rows"),
    [
        ("category = 'fruit'", [0, 1, 2]),
        ("path LIKE 'vege%'", [5, 6]),
        ("path GLOB 'utf8/*日本*'", [4]),
        ("metadata->>'price' < 2", [0, 1]),
        ("metadata->>'code' = '003'", [3]),
        ("json_extract(metadata, '$.stock') IN (2, 4)", [2, 4]),
        ("product = 'fruit/quote''\".png'", [2]),
        ("row % 2", [1, 3, 5]),
        ("category = 'fruit' OR category = 'utf8' AND 1", [0, 1, 2, 4]),
        ("length(path) > 0 -- a remark", [0, 1, 2, 3, 4, 5, 6]),
        ("row IN (SELECT max(row) FROM items GROUP BY category)", [2, 3, 4, 6]),
        ("NULL", []),
        ("CASE WHEN row > 4 THEN 1 END", [5, 6]),
    ],
)
def test_an_expression_finds_its_rows(items, expression, rows):
    assert rows_where(items, expression) == rows


@pytest.mark.parametrize(
    "expression",
    [
        "category =",
        "color = 'red'",
        "fruit",
        "(",
        ")",
        "'open",
        "1; SELECT 1",
        "1) ; DROP TABLE items; --",
        "1); DELETE FROM items WHERE (1",
        "DROP TABLE items",
        "1) UNION SELECT 1 --",
        "1 /*",
        "nosuchfunction(path)",
        "path MATCH 'x'",
        "json(path)",
        "abs(-9223372036854775808)",
        "row = ?",
        "path REGEXP 'x'",
        "row IN (SELECT size FROM rejected)",
        "(SELECT count(*) FROM sqlite_master)",
        "(SELECT sql FROM sqlite_schema)",
        "(SELECT file FROM pragma_database_list)",
        "EXISTS (SELECT 1 FROM pragma_table_info('items'))",
        "(WITH RECURSIVE r(n) AS (VALUES(1) UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r)",
        "load_extension('/tmp/x')",
        "1) ORDER BY row; ATTACH '/tmp/x' AS x; --",
        "1\0 OR 1",
    ],
)
def test_an_expression_that_is_wrong_or_does_more_than_read_the_items_is_a_usage_error(file, items, expression):
    before = file.read_bytes()

    with pytest.raises(UsageError, match="--where"):
        rows_where(items, expression)
    assert file.read_bytes() == before
    assert rows_where(items, "row = 3") == [3]  # and the next one is answered
    assert [item.row for item in items.fetch([0])] == [0]


def test_texts_that_are_not_utf8_can_be_asked_for(items):
    assert rows_where(items, "path = 'latin1/caf\udce9.png'") == [3]


def test_other_bytes_that_are_not_utf8_are_a_usage_error(items):
    with pytest.raises(UsageError, match="--where"):
        rows_where(items, "caf\udce9 = 1")


@pytest.mark.parametrize(
    "expression",
    [
        "1) UNION SELECT size FROM items WHERE (1",
        "1) UNION SELECT path FROM items WHERE (1",
        "0) UNION ALL SELECT 12345 WHERE (1",
        "1) UNION SELECT NULL WHERE (1",
    ],
)
def test_an_expression_that_closes_its_bracket_adds_no_rows_of_its_own(items, expression):
    with pytest.raises(UsageError, match="--where"):
        rows_where(items, expression)


expressions = st.lists(
    st.sampled_from(
        [
            *("SELECT", "row", "path", "FROM", "items", "rejected", "WHERE", "(", ")", ",", ";", "--", "/*", "*/"),
            *("'", '"', "1", "0", "=", "UNION", "ATTACH", "PRAGMA", "writable_schema", "DELETE", "INSERT INTO"),
            *("DROP TABLE", "UPDATE", "SET", "VACUUM", "INTO", "'/tmp/x'", "WITH", "AS", "sqlite_master", "\n"),
        ]
    ),
    max_size=12,
).map(" ".join)


@given(expressions | st.text(max_size=20))
@settings(deadline=None, max_examples=40)
def test_no_expression_changes_the_file_or_raises_anything_but_a_usage_error(tmp_path_factory, expression):
    if "UNION" in expression or any("\ud800" <= character <= "\udfff" for character in expression):
        return  # these have tests of their own
    file = tmp_path_factory.getbasetemp() / "expressions.sqlite"
    if not file.exists():
        write(file)
    before = (file.read_bytes(), sorted(file.parent.iterdir()))
    items = Items(file)
    try:
        assert set(rows_where(items, expression)) <= set(range(len(NAMES)))
    except UsageError as error:
        assert "--where" in error.message  # noqa: PT017  # either outcome is right
    finally:
        items.close()
    assert (file.read_bytes(), sorted(file.parent.iterdir())) == before


@pytest.mark.parametrize(
    "name", ["a?mode=rwc.sqlite", "a#b.sqlite", "100%41.sqlite", "with space.sqlite", "caf\udce9.sqlite", "a\nb&c=d"]
)
def test_a_file_of_any_name_is_opened(tmp_path, name):
    write(tmp_path / "plain").rename(tmp_path / name)

    opened = Items(tmp_path / name)

    assert opened.fetch([3])[0].path == NAMES[3]
    opened.close()
    assert list(tmp_path.iterdir()) == [tmp_path / name]


def test_a_published_file_cannot_be_written_through_its_connection(file):
    with (
        closing(connect(file, read_only=True)) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM items")


def test_a_missing_file_is_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        Items(tmp_path / "gone.sqlite")
    assert not (tmp_path / "gone.sqlite").exists()


def use(path):
    """Do what a query does, and everything else."""
    items = Items(path)
    try:
        items.row_of_content(b"\x03" * 32)
        items.fetch([0, 3, 6])
        list(items.rejected())
    finally:
        items.close()


@pytest.mark.parametrize("keep", [0, 1, 50, 100, 4096, 5000, 8192, 12288])
def test_a_file_cut_short_is_damage(file, keep):
    file.write_bytes(file.read_bytes()[:keep])

    with pytest.raises(DamagedIndexError, match=r"items\.sqlite is damaged"):
        use(file)


def test_a_file_that_is_no_database_is_damage(file):
    file.write_bytes(os.urandom(20_000))

    with pytest.raises(DamagedIndexError, match="not a database"):
        use(file)


def test_a_page_of_random_bytes_is_damage_or_not_needed(file):
    whole = file.read_bytes()
    generator = np.random.default_rng(0)
    damaged = 0
    for page in range(len(whole) // 4096):
        file.write_bytes(whole[: page * 4096] + generator.bytes(4096) + whole[(page + 1) * 4096 :])
        try:
            use(file)
        except DamagedIndexError:
            damaged += 1

    assert damaged >= 3


def test_any_flipped_bit_is_damage_or_harmless(file):
    whole = file.read_bytes()
    generator = np.random.default_rng(1)
    places = [place for place, value in enumerate(whole) if value]
    failures = []
    for place in [*range(100), *generator.choice(places, 400).tolist()]:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(generator.integers(8))]) + whole[place + 1 :])
        try:
            use(file)
        except DamagedIndexError:
            pass
        except Exception as error:  # noqa: BLE001  # any other kind is what this looks for
            failures.append((place, repr(error)))

    assert failures == []


@pytest.mark.parametrize(
    "metadata",
    [
        *(b"\xff", "", "{", "[1"),
        None,
        5,
    ],
)
def test_metadata_that_is_no_json_object_is_damage(tmp_path, metadata):
    path = tmp_path / "odd.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA.replace("metadata TEXT NOT NULL", "metadata"))
        connection.execute("INSERT INTO items VALUES (0, 'a.png', 1, 1, x'00', 'a', '', ?)", (metadata,))
        connection.commit()
    items = Items(path)

    with pytest.raises(DamagedIndexError):
        items.fetch([0])
    items.close()


def test_threads_read_what_one_thread_reads_and_conditions_see_nothing_but_items(items, monkeypatch):
    monkeypatch.setattr("imgsearch.store.database._BATCH", 2)
    forbidden = "(SELECT count(*) FROM rejected) > 0"

    def read_all():
        with pytest.raises(UsageError, match="only read the items"):
            rows_where(items, forbidden)
        return (
            items.fetch([5, 0, 3]),
            rows_where(items, "metadata->>'stock' > 2"),
            # One query within another, as evaluations ask them.
            [
                (path, items.duplicates_of(row), items.row_of_content(bytes([row]) * 32))
                for row, path in items.shuffled()
            ],
            list(items.column("code")),
            [each.path for each in items.rejected()],
            list(items.damaged()),
        )

    expected = read_all()
    start = threading.Barrier(8)

    def work(_):
        start.wait()
        return [read_all() for _ in range(20)]

    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(work, range(8)):
            assert found == [expected] * 20


def test_closed_items_say_so_and_wait_for_nobody(items):
    rows = items.shuffled()
    next(rows)
    items.close()
    items.close()
    for ask in (lambda: items.fetch([0]), lambda: rows_where(items, "row < 3"), lambda: list(items.rejected())):
        with pytest.raises(UsageError, match="this Index is closed: open it anew"):
            ask()
