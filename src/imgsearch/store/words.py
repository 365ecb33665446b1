"""The words of items, in `items.sqlite`: what each item says of itself, and what full-text search looks through.

An item has *own words* where the shop's data or the names of its file and folders have any. Table `texts` has them as
they are; `words`, of SQLite's FTS5, has them and whatever else an item may be looked for by.
"""

import hashlib
import json
import re
import sqlite3
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from imgsearch.store.columns import Column, Columns, folded
from imgsearch.store.expressions import ITEM_COLUMNS, column_called
from imgsearch.store.full_text import BYTES_OF_ITEM, MOST_WORDS, packed
from imgsearch.store.items import default_names
from imgsearch.store.manifest import WordsFacts
from imgsearch.text.lexical import NO_TEXT, TOKENIZER, has_full_text, searchable
from imgsearch.text.names import words_of_path

# Columns with an item's own words, unless others are named.
DEFAULT_COLUMNS = ("title", "description")

# In place of columns: items have no words.
NO_COLUMNS = ("none",)

# From here on a number may be an article number, and is looked for as a word.
_ARTICLE_NUMBERS = 10_000

# Of own words: the first of a description say what it is.
_LONGEST_TEXT = 2000

_SCHEMA = f"""
CREATE TABLE {{schema}}.texts (row INTEGER PRIMARY KEY, sha256 BLOB NOT NULL, text TEXT NOT NULL);
CREATE TABLE {{schema}}.word_counts (block INTEGER PRIMARY KEY, entries BLOB NOT NULL);
CREATE VIRTUAL TABLE {{schema}}.words USING fts5(text, other, content='', columnsize=0, tokenize='{TOKENIZER}');
"""
_BATCH = 50  # items; a row of the shop's data may have megabytes
_WORDS = re.compile(r"[^\W_]+")


def text_columns(asked: Sequence[str], columns: Columns) -> tuple[Column, ...]:
    """Return the columns with own words: as they are asked for, or by default; `UsageError` names the nearest."""
    if not asked:
        return tuple(columns[name] for name in DEFAULT_COLUMNS if name in columns)
    known = {**{name: ITEM_COLUMNS[name] for name in ("product", "category")}, **columns}
    return tuple(dict.fromkeys(column_called(name, known) for name in asked))


class _Fraction(str):
    """A number that is not whole, as it is written."""

    __slots__ = ()


# A title may be a number, and is what was written: 2.0.
_METADATA = json.JSONDecoder(parse_float=_Fraction)


class _Words(NamedTuple):
    """What an item is looked for by."""

    text: str  # its own words; none: empty
    other: str


def write_words(connection: sqlite3.Connection, schema: str, asked: Sequence[str], columns: Columns) -> WordsFacts:
    """Make the tables of words in `schema`, for the items there, whose columns are given."""
    # What was asked for was known when the shop's data were read, though it may be that no item has it.
    chosen = text_columns(asked, {**{folded(name): Column(name, "text") for name in asked}, **columns})
    for statement in filter(str.strip, _SCHEMA.format(schema=schema).split(";")):  # a script would end the transaction
        connection.execute(statement)
    rows = connection.execute(f"SELECT row, path, product, category, metadata FROM {schema}.items ORDER BY row")  # noqa: S608
    names = tuple(folded(column.name) for column in chosen)
    own, counts = 0, array("H")
    while page := rows.fetchmany(_BATCH):
        found = [(row, _words_of(names, *item)) for row, *item in page]
        texts = [(row, words.text[:_LONGEST_TEXT]) for row, words in found if words.text]
        own += len(texts)
        entries = [(row, hashlib.sha256(text.encode()).digest(), text) for row, text in texts]
        connection.executemany(f"INSERT INTO {schema}.texts VALUES (?, ?, ?)", entries)  # noqa: S608
        looked_for = [(row, searchable(words.text), searchable(words.other)) for row, words in found]
        connection.executemany(f"INSERT INTO {schema}.words (rowid, text, other) VALUES (?, ?, ?)", looked_for)  # noqa: S608
        counts.extend(min(len(_WORDS.findall(text)), MOST_WORDS) for _, *both in looked_for for text in both)
    blocks = enumerate(packed(counts))
    connection.executemany(f"INSERT INTO {schema}.word_counts VALUES (?, ?)", blocks)  # noqa: S608
    connection.execute(f"CREATE INDEX {schema}.texts_sha256 ON texts (sha256)")
    connection.execute(f"INSERT INTO {schema}.words (words) VALUES ('optimize')")  # noqa: S608
    return WordsFacts(tuple(column.name for column in chosen), own=own)


def problem_of_words(connection: sqlite3.Connection, count: int, facts: WordsFacts) -> str:
    """Return what does not fit the items in the tables of words of an `items.sqlite`; nothing for those that do."""
    found = connection.execute("SELECT count(*), coalesce(min(row), 0), coalesce(max(row), 0) FROM texts").fetchone()
    if found[0] != facts.own or not 0 <= found[1] <= found[2] < max(count, 1):
        return f"{found[0]} items with own words in rows {found[1]} to {found[2]}, expected {facts.own} of {count}"
    texts = connection.execute("SELECT sha256, CAST(text AS BLOB) FROM texts")  # it may be no text, or not UTF-8
    if any(hashlib.sha256(text).digest() != sha256 for sha256, text in texts):
        return "the sha256 of a text is not that of the text"
    (counted,) = connection.execute("SELECT coalesce(sum(length(entries)), 0) FROM word_counts").fetchone()
    if counted != BYTES_OF_ITEM * count:
        return f"{counted} bytes of word counts, expected {BYTES_OF_ITEM * count}"
    if has_full_text():
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("CREATE VIRTUAL TABLE temp.found USING fts5vocab(main, words, 'instance')")
        least, most = connection.execute("SELECT coalesce(min(doc), 0), coalesce(max(doc), 0) FROM found").fetchone()
        if not 0 <= least <= most < max(count, 1):
            return f"words of the items {least} to {most}, expected 0 to {count - 1}"
    return ""


def _words_of(names: Sequence[str], path: str, product: str, category: str, metadata: str) -> _Words:
    by_default = default_names(path)
    product = "" if product == by_default[0] else product
    category = "" if category == by_default[1] else category
    of_path = words_of_path(path)
    own, others = [of_path], [product, category, by_default[0]]
    if names or metadata != "{}":  # most items of most catalogs have neither
        cells = {folded(name): value for name, value in _METADATA.decode(metadata).items()}
        if names:
            items = {"product": product, "category": category}
            own = list(_texts([cells.get(name, items.get(name)) for name in names], 0))
            others.append(of_path)
        others += _texts([value for name, value in cells.items() if name not in names], _ARTICLE_NUMBERS)
    return _Words(_plain(". ".join(filter(None, map(str.strip, own)))), "\n".join(filter(None, others)))


def _texts(values: Sequence[Any], least: int) -> Iterator[str]:
    """Yield the texts among values, those in lists too, and whole numbers from `least` on; all numbers if it is 0."""
    for value in values:
        if isinstance(value, str) and not (least and isinstance(value, _Fraction)):
            yield value
        elif isinstance(value, list | dict):
            yield from _texts([*value.values()] if isinstance(value, dict) else value, least)
        elif type(value) is int and abs(value) >= least:
            yield str(value)


def _plain(text: str) -> str:
    """Return a text in one line that can be stored; none if there is no letter or digit in it."""
    if not text:
        return ""
    text = " ".join(NO_TEXT.sub(" ", text).split())
    return text if any(map(str.isalnum, text)) else ""
