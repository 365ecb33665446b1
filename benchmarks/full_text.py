"""The words of 100,000 items: what they take to store, and to search: python benchmarks/full_text.py FOLDER.

Titles are six invented words, whose frequencies fall as those of a language do. The baseline is the bm25 of SQLite
itself, over a table of the same words that it can use.
"""

import contextlib
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imgsearch.store.columns import write_columns
from imgsearch.store.database import connect
from imgsearch.store.items import SCHEMA, Items
from imgsearch.store.words import write_words
from imgsearch.text.lexical import TOKENIZER, match_expression, searchable

COUNT = 100_000
WORDS = 20_000
SEED = 0
REPEATS = 9


def titles(generator: np.random.Generator) -> list[str]:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = ["".join(generator.choice(letters, generator.integers(3, 10))) for _ in range(WORDS)]
    shares = 1 / np.arange(1, WORDS + 1)
    chosen = generator.choice(WORDS, (COUNT, 6), p=shares / shares.sum())
    return [" ".join(words[word] for word in row) for row in chosen]


def write(path: Path, names: list[str]) -> None:
    path.unlink(missing_ok=True)
    with contextlib.closing(connect(path)) as connection:
        connection.executescript(SCHEMA)
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO items VALUES (?, ?, 1, 1, x'00', ?, 'shoes', ?)",
            (
                (row, f"shoes/{row:06d}.jpg", f"P{row:06d}", json.dumps({"title": title, "ean": 4006381000000 + row}))
                for row, title in enumerate(names)
            ),
        )
        started = time.perf_counter()
        columns = write_columns(connection, "main", "main")
        data = time.perf_counter() - started
        connection.execute("COMMIT")
        connection.execute("BEGIN")
        before = path.stat().st_size
        started = time.perf_counter()
        write_words(connection, "main", (), columns)
        words = time.perf_counter() - started
        connection.execute("COMMIT")
    print(f"  {COUNT:,} items: columns {data:.1f} s, words {words:.1f} s", end="")
    print(f" and {(path.stat().st_size - before) / COUNT:.0f} bytes an item")


def milliseconds(function: Callable[[], object]) -> float:
    function()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


def main(folder: Path) -> None:
    names = titles(np.random.default_rng(SEED))
    path = folder / "full_text.sqlite"
    write(path, names)
    own = sqlite3.connect(":memory:")
    own.execute(f"CREATE VIRTUAL TABLE words USING fts5(text, content='', tokenize='{TOKENIZER}')")
    rows = ((row, searchable(f"{title} shoes {4006381000000 + row}")) for row, title in enumerate(names))
    own.executemany("INSERT INTO words (rowid, text) VALUES (?, ?)", rows)
    own.execute("INSERT INTO words (words) VALUES ('optimize')")
    counts: dict[str, int] = {}
    for title in names:
        for word in set(title.split()):
            counts[word] = counts.get(word, 0) + 1
    often = sorted(counts, key=lambda word: -counts[word])
    questions = {
        "an article number": "4006381077777",
        "the most frequent word": often[0],
        "the three most frequent": " ".join(often[:3]),
        "the 50th and the 300th": f"{often[49]} {often[299]}",
        "what all have, and the 4th": f"shoes {often[3]}",
        "what all have": "shoes",
        "the 64 most frequent": " ".join(often[:64]),
    }
    query = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?"
    with contextlib.closing(Items(path)) as items:
        for name, question in questions.items():
            expression = match_expression(question)
            found = len(items.matches(expression)[0])
            ours = milliseconds(lambda expression=expression: items.matches(expression))  # type: ignore[misc]
            baseline = milliseconds(lambda expression=expression: own.execute(query, (expression,)).fetchall())  # type: ignore[misc]
            print(f"  {name:<28} {found:>7,} items  {ours:6.1f} ms, SQLite's bm25 {baseline:6.1f} ms")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
