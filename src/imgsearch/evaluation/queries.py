"""Queries whose relevant items are known, by labels or ground truth."""

import functools
import logging
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import ImageError, UsageError
from imgsearch.images.decode import Pixels
from imgsearch.images.photo import Photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Scan
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.index import Index
from imgsearch.search.ranking import Ranking
from imgsearch.search.search import Search
from imgsearch.search.views import QueryImage, Regions, View
from imgsearch.store.items import Items
from imgsearch.synthetic.augment import FRAME
from imgsearch.synthetic.variant_worker import VariantWorker
from imgsearch.tables import Table

logger = logging.getLogger(__name__)

# Not those that `build-index --adapt` learns from.
VARIANT_SEED = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """One column of the items: `path`, `product`, `category`, or a column of the metadata."""

    column: str
    names: tuple[str, ...]  # the different labels, in the order of their first item
    codes: NDArray[np.int32]  # (count,): for each row the place of its label in `names`; -1 where it has none

    def of(self, row: int) -> str:
        """Return the label of a row; empty if it has none."""
        code = self.codes[row]
        return self.names[code] if code >= 0 else ""

    def rows(self, code: int) -> Rows:
        """Return the rows with a label."""
        return np.flatnonzero(self.codes == code)


def labels_of(items: Items, column: str, count: int) -> Labels:
    """Read one column of the items of an index; a UsageError if it is empty, unless it is `category`."""
    places: dict[str, int] = {}
    codes = np.full(count, -1, np.int32)
    for row, name in zip(range(count), items.column(column), strict=False):
        if name:
            codes[row] = places.setdefault(name, len(places))
    if not places and column != "category":  # images that lie in no folder have no category
        raise UsageError(
            f"no item has a column {column!r}", hint="there are product, category, and the columns of --metadata"
        )
    return Labels(column, tuple(places), codes)


@dataclass(frozen=True, slots=True, eq=False)
class LabeledQuery:
    """A query whose relevant items are known."""

    # POSIX path of the image, below the catalog's root or the folder of queries; the text of a query in words.
    path: str
    label: str  # of what it shows
    category: str  # of what it shows; may be empty
    # Unit float32 (views, d): an item's score is the best of its scores with these; None of what has a `ranking`.
    vectors: Embeddings | None
    relevant: Rows
    relevant_count: int  # those that the index lacks included
    own_row: int | None = None  # of the item itself, which is no hit; None for what is no item
    ranking: Callable[[], Ranking] | None = None  # of all items, by words
    column: str = ""  # of the shop's data, which the words were read from


@dataclass(frozen=True, slots=True)
class QuerySet:
    """Queries, and what could not be one."""

    queries: tuple[LabeledQuery, ...]
    without_relevant: int = 0  # items left out because no other has their label
    unusable: tuple[tuple[str, str], ...] = ()  # query images that could not be used: path and reason


def from_items(index: Index, labels: Labels, categories: Labels, sample: int) -> QuerySet:
    """Search for items, for `sample` of them at most; all others with the same label are relevant."""
    if len(index) > 1 and len(np.unique(labels.codes)) == 1 and labels.names:
        logger.warning("all items have the same %s, %r: every hit is right", labels.column, labels.names[0])
    sizes = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.names))
    alone = int(np.count_nonzero(labels.codes < 0) + np.count_nonzero(sizes == 1))
    rows_of = functools.cache(labels.rows)
    queries: list[LabeledQuery] = []
    for row, path in index.items.shuffled():
        if len(queries) == sample:
            break
        code = int(labels.codes[row])
        if code < 0 or sizes[code] < 2:
            continue
        relevant, vectors = rows_of(code), index.nearest.vectors[row : row + 1]
        label, category = labels.names[code], categories.of(row)
        queries.append(LabeledQuery(path, label, category, vectors, relevant, len(relevant) - 1, own_row=row))
    if not queries:
        raise UsageError(
            f"no two items have the same {labels.column}",
            hint="--self-test needs no labels; --queries DIR takes images of yours",
        )
    return QuerySet(tuple(queries), alone)


def from_variants(
    index: Index, products: Labels, categories: Labels, sample: int, regions: Regions, progress: Progress
) -> QuerySet:
    """Search for photo-like variants of items; items of the same product, or with the very same image, are relevant."""
    chosen = [(row, path) for (row, path), _ in zip(index.items.shuffled(), range(sample), strict=False)]
    catalog, policy = index.manifest.catalog, index.manifest.policy
    unusable: list[tuple[str, str]] = []
    queries: list[LabeledQuery] = []
    variants = _variants(catalog, [path for _, path in chosen], policy)
    for done, ((row, path), found) in enumerate(zip(chosen, variants, strict=True), start=1):
        progress("evaluate", done, len(chosen))
        try:
            if isinstance(found, ImageError):
                raise found
            photo = Photo(found[1], found[1].shape[:2])
            views = index.viewer.views_of_photo(photo, regions, Search(index.nearest, 2, exact=True).is_settled)
        except ImageError as error:
            unusable.append((path, error.message))
            continue
        same = products.rows(int(products.codes[row])) if products.codes[row] >= 0 else np.array([row])
        relevant = np.union1d(same, index.items.duplicates_of(row))
        label, category = products.of(row), categories.of(row)
        queries.append(LabeledQuery(path, label, category, _stacked(views), relevant, len(relevant)))
    if not queries:
        raise UsageError(
            f"none of {len(chosen)} images of the index can be read in {catalog}",
            hint="run imgsearch build-index with the folder's new place, or search with --queries DIR",
        )
    return QuerySet(tuple(queries), unusable=tuple(unusable))


def variant_of(index: Index, path: str) -> Pixels | None:
    """Make the variant of an item that `from_variants` searches for; None if its image cannot be read."""
    (found,) = _variants(index.manifest.catalog, [path], index.manifest.policy)
    return None if isinstance(found, ImageError) else found[1]


def _variants(folder: str, paths: list[str], policy: FilePolicy) -> Iterator[Pixels | ImageError]:
    # Such an image has just this side: it is not scaled again.
    make = functools.partial(VariantWorker, FRAME, "pad", policy, variants=1, seed=VARIANT_SEED)
    return decoded_files(folder, paths, policy, make, VariantWorker.decode_variants)


def _stacked(views: Sequence[View]) -> Embeddings:
    return np.stack([view.vector for view in views])


def from_folder(
    index: Index,
    folder: Path,
    truth: Path | None,
    labels: Labels,
    categories: Labels,
    regions: Regions,
    progress: Progress,
) -> QuerySet:
    """Search for the images in a folder; without a `truth` file, the folder that an image lies in is its label."""
    if not os.path.isdir(folder):
        raise UsageError(f"no folder of query images: {folder}")
    paths = sorted(file.path for file in Scan(os.fspath(folder), follow_links=index.manifest.policy.follow_links))
    if not paths:
        raise UsageError(f"no query images in {folder}")
    if truth is None:
        wanted: Mapping[str, list[str]] = {path: [path.rpartition("/")[0]] for path in paths}
        by = labels
    else:
        by_path, wanted = _read_truth(truth, labels.column)
        by = labels_of(index.items, "path", len(index)) if by_path else labels
    places = {name: code for code, name in enumerate(by.names)}
    unusable = [(path, f"{truth} names it, but it is not there") for path in sorted(set(wanted) - set(paths))]
    queries: list[LabeledQuery] = []
    known = 0
    for done, path in enumerate(paths, start=1):
        progress("evaluate", done, len(paths))
        if not wanted.get(path, [""])[0]:
            reason = "it lies in no folder, which would say" if truth is None else f"{truth} does not say"
            unusable.append((path, f"{reason} what is right"))
            continue
        try:
            query = QueryImage.read(folder / path, index.manifest.policy)
            known += index.nearest.row_of(query.sha256) is not None
            search = Search(index.nearest, 2, exact=True)
            vectors = _stacked(search.views_of(query, lambda: index.viewer, regions))
        except ImageError as error:
            unusable.append((path, error.message))
            continue
        found = [by.rows(places[name]) for name in wanted[path] if name in places]
        lacking = sum(name not in places for name in wanted[path])
        relevant = np.unique(np.concatenate([*found, np.empty(0, np.int64)])).astype(np.int64)
        category = categories.of(int(relevant[0])) if len(relevant) else ""
        label = labels.of(int(relevant[0])) if len(relevant) else wanted[path][0]
        queries.append(LabeledQuery(path, label, category, vectors, relevant, len(relevant) + lacking))
    if known:
        logger.warning("%d of the query images are in the index themselves, which makes them easy", known)
    if not any(len(query.relevant) for query in queries):
        example = by.names[0] if by.names else "nothing"
        raise UsageError(
            f"no image in {folder} has a {by.column} that is in the index",
            hint=f"a {by.column} of the index is {example!r}; name folders so, or give --truth FILE.csv",
        )
    return QuerySet(tuple(queries), unusable=tuple(unusable))


def _read_truth(file: Path, column: str) -> tuple[bool, Mapping[str, list[str]]]:
    """Read what is relevant for each query, and whether it is named by its path: a CSV file, a query on many lines."""
    wanted: dict[str, list[str]] = defaultdict(list)
    is_path = False
    table = Table(file, [["query"], ["path", column]], names_of_files=["query", "path", column])
    for line, row in table.rows():
        is_path = "path" in row
        target = "path" if is_path else column
        if not row["query"] or not row[target]:
            raise UsageError(f"{file}, line {line}: a query and its {target} must be given")
        name = row[target].removeprefix("./")
        query = row["query"].removeprefix("./")
        if name not in wanted[query]:
            wanted[query].append(name)
    return is_path, wanted
