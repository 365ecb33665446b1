"""Words as SQLite's FTS5 takes them: what goes into a table of them, and what is asked of it.

Words stand between spaces and punctuation (`unicode61`); `AB-1234` is two words in a row, a phrase. Of scripts that are
written without spaces each character is a word, and what stands together in a question is phrases: FTS5's own
`trigram` finds no word of two characters, which most Chinese words are.
"""

import contextlib
import re
import sqlite3
import unicodedata
from functools import cache

from imgsearch.errors import MissingComponentError
from imgsearch.forks import no_fork

# Of a table of words: diacritics do not count.
TOKENIZER = "unicode61 remove_diacritics 2"

# More of a question takes longer, and tells no more.
_MOST_PHRASES = 64
_LONGEST_WORD = 100

# A character of these is most of a word: of a run, each pair of neighbors is looked for.
_IDEOGRAPHIC = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_IDEOGRAPHIC += "\U0001b000-\U0001b16f\U00020000-\U0003ffff"
# Thai, Lao, Burmese, Khmer, and their neighbors: letters, of which words are made.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua9e0-\ua9ff\uaa60-\uaadf"
_APART = re.compile(f"[{_IDEOGRAPHIC}{_UNSPACED}]")
_RUNS = re.compile(f"([{_IDEOGRAPHIC}]+)")

# Marks of Hebrew and Arabic that most people leave out, of which `unicode61` makes the ends of words.
_POINTS = re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670]")
# What SQLite does not take as text, or takes for its end.
NO_TEXT = re.compile("[\0\ud800-\udfff]")


@cache
def has_full_text() -> bool:
    """Return whether the SQLite of this Python has FTS5."""
    with no_fork(), contextlib.closing(sqlite3.connect(":memory:")) as connection:
        return connection.execute("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'").fetchone() is not None


def require_full_text() -> None:
    """Raise `MissingComponentError` where the SQLite of this Python lacks FTS5."""
    if not has_full_text():
        raise MissingComponentError(
            f"expected SQLite with FTS5, which searches words, found SQLite {sqlite3.sqlite_version} without it",
            hint="use another Python: those of Linux distributions, Homebrew and python.org have it",
        )


def searchable(text: str) -> str:
    """Return what a table of words holds of a text: in one form of Unicode, and characters that are words set apart."""
    if text.isascii():
        return text.replace("\0", " ")
    text = unicodedata.normalize("NFKC", NO_TEXT.sub(" ", text))
    return _APART.sub(r" \g<0> ", _POINTS.sub("", text))


def match_expression(query: str) -> str:
    """Return what is asked of FTS5 for the words of a query: any of them; empty if there is none.

    Nothing in a query means anything to FTS5: its words stand in quotes, the first 64 of them.
    """
    phrases: dict[str, None] = {}
    for word in NO_TEXT.sub(" ", query).split():
        for part in _phrases(unicodedata.normalize("NFKC", word[:_LONGEST_WORD])):
            phrase = searchable(part).strip()
            if any(map(str.isalnum, phrase)):
                phrases['"' + phrase.replace('"', '""') + '"'] = None
            if len(phrases) == _MOST_PHRASES:
                return " OR ".join(phrases)
    return " OR ".join(phrases)


def _phrases(word: str) -> list[str]:
    """Return what is looked for of a word: it as a whole, but of ideographs each pair."""
    found = []
    for position, part in enumerate(_RUNS.split(word)):
        is_run = position % 2 == 1
        found += [part[start : start + 2] for start in range(max(1, len(part) - 1))] if is_run else [part]
    return found
