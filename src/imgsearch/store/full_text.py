"""How well items fit words: bm25, of what the table `words` of `items.sqlite` finds and how many words an item has.

SQLite's own bm25 looks up each item that it finds, which takes several times as long where these are many
(docs/benchmarks.md). Here a word counts once for each item, however often it is there: titles have each but once.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# How much a word counts that is not one of the item's own.
_WEIGHT_OF_OTHER = 0.5

# As usual for bm25: how soon more of the same word counts no more, and how much words of long texts count less.
_SATURATION, _NORMALIZATION = 1.2, 0.75

MOST_WORDS = 65_535  # that are counted

_BLOCK = 65_536
_ENTRY = np.dtype([("own", "<u2"), ("other", "<u2")])
BYTES_OF_ITEM = _ENTRY.itemsize
_PHRASE = re.compile('"(?:[^"]|"")*"')


def packed(counts: Sequence[int]) -> Iterator[bytes]:
    """Make blocks of how many words items have: of each, in the order of rows, its own and then others."""
    for start in range(0, len(counts), 2 * _BLOCK):
        yield np.array(counts[start : start + 2 * _BLOCK], "<u2").tobytes()


def damping_of(blocks: Iterable[bytes]) -> NDArray[np.float64]:
    """Return how much less a word counts in each item, by how many it has; ValueError if a block is damaged."""
    entries = np.concatenate([np.empty(0, _ENTRY), *(np.frombuffer(block, _ENTRY) for block in blocks)])
    lengths = np.asarray(entries["own"] + _WEIGHT_OF_OTHER * entries["other"], np.float64)
    mean = max(float(lengths.mean()), 1.0) if len(lengths) else 1.0
    return _SATURATION * (1 - _NORMALIZATION + _NORMALIZATION * lengths / mean)


def best_matches(
    expression: str,
    damping: NDArray[np.float64],
    count: Callable[[str], int],
    find: Callable[[str], Rows],
    *,
    own_only: bool = False,
) -> tuple[Rows, NDArray[np.float64]]:
    """Find the items with phrases of an expression: rows, ascending, and the bm25 of each, 0 to 1.

    It is a share of what all phrases weigh, those too that no item has: 1 where an item of few words has all of them.

    Args:
        expression: As of `text.lexical.match_expression`.
        damping: As of `damping_of`.
        count: Counts the items that an expression of FTS5 finds.
        find: Finds them.
        own_only: Whether items are found by their own words alone.

    Raises:
        IndexError: A row that was found is none of an item.
    """
    searched = "text : " if own_only else ""
    items = len(damping)
    phrases = {phrase: count(searched + phrase) for phrase in _PHRASE.findall(expression)}
    weights = {phrase: math.log(1 + (items - found + 0.5) / (found + 0.5)) for phrase, found in phrases.items()}
    # What most items have tells nothing beside a word that fewer have.
    rare = [phrase for phrase, found in phrases.items() if 0 < found <= items / 2]
    scores, frequencies = np.zeros(items), np.zeros(items)
    for phrase in rare or phrases:
        own = find(f"text : {phrase}")
        other = np.empty(0, np.int64) if own_only else find(f"other : {phrase}")
        frequencies[own] = 1
        rows = np.append(own, other[frequencies[other] == 0])
        frequencies[other] += _WEIGHT_OF_OTHER
        share = weights[phrase] / sum(weights.values())
        scores[rows] += share * (_SATURATION + 1) * frequencies[rows] / (frequencies[rows] + damping[rows])
        frequencies[rows] = 0
    rows = np.flatnonzero(scores)
    return rows, np.minimum(scores[rows], 1.0)
