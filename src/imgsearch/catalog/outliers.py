"""Items unlike all others of their category: a shoe under hats."""

import contextlib
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.catalog.generation import open_catalog
from imgsearch.catalog.lists import Lists, block_count, nearest_lists
from imgsearch.errors import UsageError
from imgsearch.files import as_path
from imgsearch.progress import Progress, no_progress
from imgsearch.search.backends.protocol import Rows
from imgsearch.store.generations import ITEMS, read_manifest
from imgsearch.store.items import Items

# So many neighbors vote, each with a weight that falls by a factor of e with so many steps in its score, and shares of
# the votes are added to by so much, so that none is infinitely surprising. Chosen on Fashion-MNIST
# (docs/benchmarks.md).
_VOTERS = 50
_TEMPERATURE = 0.1
_LEAST_SHARE = 0.005

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outlier:
    """An item that may be in the wrong category.

    Attributes:
        path: POSIX path below the catalog's root.
        product: What it shows.
        category: Where it is said to belong.
        looks_like: The category of most of its neighbors, by weight, its own left out.
        score: The logarithm of how much more of the votes that category has than its own; above 0 it has more.
        share: Of the votes, how much its own category has, 0 to 1.
    """

    path: str
    product: str
    category: str
    looks_like: str
    score: float
    share: float


@dataclass(frozen=True, slots=True)
class Outliers:
    """What `outliers` found.

    Attributes:
        items: Most suspicious first; equal scores in the order of paths. None without a neighbor of another category.
        judged: How many items were looked at.
        alone: Categories with a single item, which cannot be judged.
        without_category: How many items have no category; they are not judged, and do not vote.
    """

    items: tuple[Outlier, ...]
    judged: int
    alone: tuple[str, ...]
    without_category: int


def outliers(index: str | os.PathLike[str], *, top_k: int = 50, progress: Progress = no_progress) -> Outliers:
    """Find the items that are least like others of their category.

    The 50 nearest neighbors of each item vote for their categories, the nearer with the more weight. An item is the
    more suspicious, the more of the votes another category has than its own.

    Args:
        index: The index directory.
        top_k: How many items at most, at least 1.
        progress: Told of `compare`.

    Raises:
        NoIndexError: There is none.
        DamagedIndexError: It is damaged.
        UsageError: `top_k` makes no sense, or there are not two categories.
        ResourceError: The system does not let a file be read.
    """
    if top_k < 1:
        raise UsageError(f"top_k must be at least 1, got {top_k}")
    directory = as_path(index)
    manifest = read_manifest(directory)
    with (
        open_catalog(directory, manifest.generation, "item") as catalog,
        contextlib.closing(Items(directory / manifest.folder / ITEMS)) as items,
    ):
        labels = np.array([*items.column("category"), ""], dtype=object)[:-1]  # an array of texts, also of none
        names, categories = np.unique(labels, return_inverse=True)
        is_named = names != ""
        if is_named.sum() < 2:
            raise UsageError(
                f"expected at least two categories, found {int(is_named.sum())}",
                hint="a category is the folder of an image, or a column of build-index --metadata",
            )
        likes, scores, shares = np.zeros(len(labels), np.int64), *np.zeros((2, len(labels)))
        for number, block in enumerate(nearest_lists(catalog.vectors, catalog.grouping, _VOTERS), start=1):
            progress("compare", number, block_count(len(labels)))
            rows = slice(block.first, block.first + len(block.others))
            likes[rows], scores[rows], shares[rows] = _judge(block, categories, is_named)
        counts = np.bincount(categories)
        judged = np.flatnonzero(is_named[categories] & (counts[categories] > 1))
        suspected = judged[likes[judged] >= 0]
        order = suspected[np.argsort(-scores[suspected], kind="stable")[:top_k]].tolist()
        found = tuple(
            Outlier(
                item.path,
                item.product,
                item.category,
                str(names[likes[item.row]]),
                round(float(scores[item.row]), 6),
                round(float(shares[item.row]), 6),
            )
            for item in items.fetch(order)
        )
    alone = tuple(str(name) for name in names[is_named & (counts == 1)])
    return Outliers(found, len(judged), alone, int(counts[~is_named].sum()))


def _judge(block: Lists, categories: Rows, is_named: NDArray[np.bool_]) -> tuple[Rows, Scores, Scores]:
    """Return the other category that most votes of each item are for, -1 for none; its log odds; the item's own share.

    Memory does not grow with the number of categories: neighbors vote for no more of them than there are neighbors.
    """
    count, kinds = len(block.others), len(is_named)
    own, chosen = categories[block.first : block.first + count], categories[block.others]
    weights = np.exp(
        (block.scores - block.scores[:, :1]) / _TEMPERATURE, where=block.others >= 0, out=np.zeros_like(block.scores)
    )
    weights *= is_named[chosen]
    keys, place = np.unique(np.arange(count)[:, None] * kinds + chosen, return_inverse=True)
    rows, voted = np.divmod(keys, kinds)
    sums = np.bincount(place.ravel(), weights.ravel())
    total, is_own = np.maximum(np.bincount(rows, sums), np.finfo(np.float32).tiny), voted == own[rows]
    shares = np.bincount(rows, sums * is_own) / total
    sums[is_own] = 0
    # Of each row the last in this order, the category that comes first among equals.
    best = np.lexsort((-voted, sums, rows))[np.searchsorted(rows, np.arange(count), "right") - 1]
    odds = np.log((sums[best] / total + _LEAST_SHARE) / (shares + _LEAST_SHARE))
    return np.where(sums[best] > 0, voted[best], -1), odds, shares
