"""What SQLite's full-text search is given: any text, and any question."""

import sqlite3
from contextlib import closing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from imgsearch.text.lexical import TOKENIZER, match_expression, searchable


@pytest.fixture(scope="module")
def found():
    """Return whether a question finds a text."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, other, content='', tokenize='{TOKENIZER}')")
        connection.execute("BEGIN")

        def find(question, text):
            connection.execute("SAVEPOINT before")
            connection.execute("INSERT INTO words (rowid, text) VALUES (1, ?)", (searchable(text),))
            try:
                query = "SELECT rowid FROM words WHERE words MATCH ?"
                return bool(expression := match_expression(question)) and bool(
                    connection.execute(query, (expression,)).fetchall()
                )
            finally:
                connection.execute("ROLLBACK TO before")

        yield find


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("DRESS blue", "A red dress"),
        ("cafe", "Café noir"),
        ("CAFÉ", "cafe"),
        ("strasse naive", "NAÏVE"),
        ("re\u0301sume\u0301", "résumé"),
        ("\ufb01ne", "\uff46\uff49\uff4e\uff45"),
        ("AB-1234", "boots AB-1234/9"),
        ("ab 1234", "AB-1234"),
        ("4006381333931", "EAN 4006381333931"),
        ("红色", "夏季红色的连衣裙"),  # as two characters are most words of Chinese
        ("红色连衣裙", "红色的连衣裙"),
        ("ドレス", "赤いﾄﾞﾚｽ"),
        ("鞋", "一双鞋"),
        ("กระเป๋า", "กระเป๋าหนังสีแดง"),
        ("кофе", "Кофе молотый"),
        ("محمد", "مُحَمَّد"),
        ("שלום", "שָׁלוֹם"),
        ('5"', '5" pipe'),
    ],
)
def test_a_word_is_found(found, question, text):
    assert found(question, text)


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("AB-1234", "AB 12 1234"),  # a phrase: one after the other
        ("色红", "红色"),
        ("dress", "dresses"),
        ("", "dress"),
        ("😀 !?", "😀 !?"),
        ("text:dress NEAR(a)", "text near"),
    ],
)
def test_what_is_not_there_is_not_found(found, question, text):
    assert not found(question, text)


def test_no_word_of_two_characters_is_found_by_trigrams():
    """Which is why they are not used."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE VIRTUAL TABLE words USING fts5(text, tokenize='trigram')")
        connection.execute("INSERT INTO words VALUES ('红色的连衣裙')")

        assert connection.execute("SELECT 1 FROM words WHERE words MATCH '\"红色\"'").fetchone() is None


def test_of_a_question_the_first_64_words_count(found):
    numbers = [str(number) for number in range(1000)]

    assert match_expression(" ".join(numbers)).count(" OR ") == 63
    assert match_expression("a a a") == '"a"'
    assert match_expression("\u0640 a") == '"a"'  # of an Arabic stroke nothing is left
    assert match_expression("红" * 10_000).count(" OR ") == 0
    assert found(" ".join(numbers), "63")
    assert not found(" ".join(numbers), "64")


odd = st.sampled_from('"*^:(){}+-\0 \ud800\udce9\u202e\u05d0\u3042\u0e01')
any_text = st.text(st.characters(codec=None) | odd, max_size=60)


@settings(max_examples=150, deadline=None)
@given(any_text, any_text)
@example('" OR *', "NEAR(x, 2) AND NOT {text}: y")
@example("-" * 10_000, "a " * 5_000)
@example("a-" * 5_000, "")
@example("\u202eabc", "a\0b")
def test_no_question_is_an_error_and_each_text_finds_itself(found, question, text):
    found(question, text)
    if text.isascii():
        assert found(text, text) == bool(match_expression(text))
