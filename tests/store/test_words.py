"""The words of items: which are their own, what else they are found by, and how well each fits."""

import json
import os
import sqlite3
from contextlib import ExitStack, closing

import numpy as np
import pytest

from imgsearch.errors import DamagedIndexError, MissingComponentError, UsageError
from imgsearch.store import full_text
from imgsearch.store.columns import Column, write_columns
from imgsearch.store.database import connect
from imgsearch.store.items import SCHEMA, Items, default_names
from imgsearch.store.words import problem_of_words, text_columns, write_words
from imgsearch.text import lexical
from imgsearch.text.lexical import match_expression

TITLES = {
    "a/1.png": {"title": "Red dress", "description": "With long sleeves", "sku": "AB-1234", "price": 12.5},
    "a/2.png": {"Title": "Dress", "ean": 4006381333931, "stock": 7, "tags": ["summer", {"for": "women"}]},
    "a/red_dress-3.png": {"title": "  \ud800 ", "description": None},
    "b/4.png": {"title": "红色的连衣裙", "price": 5},
    "caf\udce9/5.png": {"title": "Café\0\nnoir", "description": "word " * 1000 + "end"},
    "camel/RedDress.png": {},
}


@pytest.fixture
def write(tmp_path):
    def fill(items=TITLES, asked=(), products=None):
        path = tmp_path / "items.sqlite"
        path.unlink(missing_ok=True)
        with closing(connect(path)) as connection:
            connection.executescript(f"PRAGMA synchronous = off; {SCHEMA}; BEGIN")
            for row, (name, data) in enumerate(items.items()):
                product, category = map(os.fsencode, default_names(name))
                product = (products or {}).get(name, product)
                connection.execute(
                    "INSERT INTO items VALUES (?, CAST(? AS TEXT), 1, 2, ?, CAST(? AS TEXT), CAST(? AS TEXT), ?)",
                    (row, os.fsencode(name), bytes(32), product, category, json.dumps(data)),
                )
            facts = write_words(connection, "main", asked, write_columns(connection, "main", "main"))
            connection.execute("COMMIT")
            assert problem_of_words(connection, len(items), facts) == ""
        return path, facts

    return fill


@pytest.fixture
def open_items(write):
    with ExitStack() as opened:
        yield lambda *given, **options: opened.enter_context(closing(Items(write(*given, **options)[0])))


def rows(items, question):
    return items.matches(match_expression(question))[0].tolist()


def test_titles_and_descriptions_are_own_words_by_default(write):
    path, facts = write()

    assert (facts.columns, facts.own) == (("title", "description"), 4)
    with closing(Items(path)) as items:
        assert items.own_words().tolist() == [0, 1, 3, 4]
        texts = items.texts(range(6))
    assert list(texts) == [0, 1, 3, 4]
    assert texts[0] == "Red dress. With long sleeves"
    assert texts[4].startswith("Café noir. word word")
    assert len(texts[4]) == 2000


def test_other_columns_may_be_named_and_an_unknown_one_names_the_nearest(write):
    path, facts = write(asked=("SKU", "product"), products={"b/4.png": "Evening gown"})

    assert facts.columns == ("sku", "product")
    with closing(Items(path)) as items:
        assert items.texts(range(6)) == {0: "AB-1234", 3: "Evening gown"}  # a path that stands for a product is no word
    with pytest.raises(UsageError, match="no column is called 'titel'") as caught:
        text_columns(("titel",), {"title": Column("title", "text")})
    assert caught.value.hint == "did you mean title"


def test_a_column_that_is_named_twice_counts_once_and_a_number_is_as_it_is_written(write):
    path, facts = write({"1.png": {}, "2.png": {"price": 12.50, "weight": 0.25}}, asked=("price", "PRICE"))

    assert facts.columns == ("price",)
    with closing(Items(path)) as items:
        assert items.texts([1]) == {1: "12.5"}
        assert (rows(items, "12.5"), rows(items, "0.25")) == ([1], [])


def test_without_such_columns_names_of_files_and_folders_are_own_words(write):
    path, facts = write({"shoes/redBoot.png": {"price": 1}, "a/IMG_1.png": {}})

    assert (facts.columns, facts.own) == ((), 1)
    with closing(Items(path)) as items:
        assert items.texts([0, 1]) == {0: "shoes red Boot"}


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("dress", [0, 1, 2, 5]),
        ("sleeves", [0]),
        ("AB-1234", [0]),
        ("4006381333931", [1]),
        ("women", [1]),
        ("连衣裙", [3]),
        ("cafe", [4]),
        ("end", [4]),  # though it is not among the first 2,000 characters
        ("reddress", [5]),
        ("png 7 12", []),  # endings, and numbers that are no articles'
        ("", []),
    ],
)
def test_items_are_found_by_all_that_is_known_of_them(open_items, question, expected):
    assert rows(open_items(), question) == expected


def test_products_and_their_numbers_are_found(open_items):
    items = open_items(products={"b/4.png": "Evening gown 0815"})

    assert rows(items, "gown") == rows(items, "0815") == [3]


def test_the_better_a_word_fits_the_larger_its_bm25(open_items):
    items = open_items(
        {
            "0.png": {"title": "dress"},
            "1.png": {"title": "dress with very many other words"},
            "2.png": {"title": "shoe", "note": "dress"},
            "3.png": {"title": "red dress"},
            **{f"{number}.png": {"title": "hat"} for number in range(4, 12)},
        }
    )

    scores = dict(zip(*(each.tolist() for each in items.matches(match_expression("red dress"))), strict=True))

    assert scores.keys() == {0, 1, 2, 3}
    assert scores[3] > scores[0] > max(scores[1], scores[2])


def test_a_word_of_most_items_counts_only_where_there_is_no_other(open_items):
    items = open_items({f"{number}.png": {"title": "shoe red" if number == 3 else "shoe"} for number in range(9)})

    assert rows(items, "red shoe") == [3]
    assert rows(items, "shoe") == list(range(9))


def test_bm25_is_what_it_should_be(open_items):
    items = open_items({"0.png": {"title": "a b"}, "1.png": {"title": "b c d", "x": "a"}, "2.png": {"title": "e"}})

    found, scores = items.matches('"a" OR "c"')

    lengths = np.array([2, 3, 1]) + 0.5 * np.array([1, 2, 1])  # 0, 1 a, 2
    damping = 1.2 * (0.25 + 0.75 * lengths / lengths.mean())
    assert found.tolist() == [1]  # `a` is in two of three
    share = np.log(1 + 2.5 / 1.5) / (np.log(1 + 2.5 / 1.5) + np.log(1 + 1.5 / 2.5))
    assert scores == pytest.approx(share * 2.2 / (1 + damping[1]))


def test_an_item_with_all_words_has_the_whole_share_and_words_of_no_item_lessen_it(open_items):
    items = open_items({"0.png": {"title": "a b"}, "1.png": {"title": "c d e f"}, "2.png": {"title": "e f g h"}})

    assert items.matches('"a" OR "b"')[1].tolist() == [1.0]
    (part,) = items.matches('"a" OR "b" OR "none"')[1]
    assert 0.3 < part < 0.7


def test_an_index_of_before_has_no_words_and_says_so(tmp_path):
    with closing(connect(tmp_path / "old.sqlite")) as connection:
        connection.executescript(SCHEMA)
    with closing(Items(tmp_path / "old.sqlite")) as items:
        assert items.own_words().tolist() == []
        assert items.texts([0]) == {}
        with pytest.raises(UsageError, match="knows no words") as caught:
            items.matches('"a"')
    assert "build-index" in caught.value.hint


def test_a_python_without_full_text_search_says_so(open_items, monkeypatch):
    items = open_items()
    monkeypatch.setattr(lexical, "has_full_text", lambda: False)

    with pytest.raises(MissingComponentError, match="FTS5"):
        items.matches('"a"')


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE word_counts SET entries = x'00'",
        "UPDATE word_counts SET entries = 7",
        "UPDATE word_counts SET entries = substr(entries, 1, 4)",
        "UPDATE words_data SET block = x'00112233445566' WHERE id > 10",
        "DROP TABLE words_idx",
    ],
)
def test_damaged_tables_of_words_are_damage(write, damage):
    path, _ = write()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(damage)

    with closing(Items(path)) as items, pytest.raises(DamagedIndexError):
        items.matches('"dress" OR "cafe"')


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DELETE FROM texts WHERE row = 1", "3 items with own words"),
        ("UPDATE texts SET row = 99 WHERE row = 4", "in rows 0 to 99"),
        ("UPDATE texts SET text = 'x' WHERE row = 1", "sha256"),
        ("UPDATE texts SET text = CAST(x'ff' AS TEXT) WHERE row = 1", "sha256"),
        ("UPDATE texts SET text = x'ff' WHERE row = 1", "sha256"),
        ("DELETE FROM word_counts", "0 bytes of word counts, expected 24"),
        ("INSERT INTO words (rowid, text) VALUES (6, 'x')", "words of the items 0 to 6"),
    ],
)
def test_words_that_do_not_fit_the_items_are_named(write, damage, said):
    path, facts = write()
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(damage)

        assert said in problem_of_words(connection, len(TITLES), facts)


def test_word_counts_are_stored_in_blocks(monkeypatch):
    monkeypatch.setattr(full_text, "_BLOCK", 2)
    blocks = list(full_text.packed([1, 2, 3, 4, 5, 6]))

    assert [len(block) for block in blocks] == [8, 4]
    assert full_text.damping_of(blocks).tolist() == pytest.approx([0.66, 1.2, 1.74])  # of 2, 5 and 8 words
