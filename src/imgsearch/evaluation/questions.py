"""Queries whose right answers are known."""

import csv
import functools
import io
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import ImageError, UsageError
from imgsearch.evaluation.labels import Labels
from imgsearch.files import open_regular
from imgsearch.images.decode import Pixels
from imgsearch.images.photo import Photo
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Scan
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.search.backends.backends import Rows
from imgsearch.search.index import Index
from imgsearch.search.nearest import Search
from imgsearch.search.views import QueryImage, Regions, View
from imgsearch.synthetic.augment import FRAME
from imgsearch.synthetic.variant_worker import VariantWorker

logger = logging.getLogger(__name__)

# Not those that `build-index --adapt` learns from.
VARIANT_SEED = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A query whose right answers are known.

    Attributes:
        query: POSIX path of the image, below the catalog's root or the folder of queries.
        label: What it shows.
        category: Where that belongs; may be empty.
        vectors: Unit float32 (views, d): an item has the best of its scores with these.
        right: Rows that are right answers.
        right_answers: How many there are, those that the index lacks included.
        own: The row of the item itself, which is no answer; None for what is no item.
    """

    query: str
    label: str
    category: str
    vectors: Embeddings
    right: Rows
    right_answers: int
    own: int | None = None


@dataclass(frozen=True, slots=True)
class Questions:
    """Queries whose right answers are known.

    Attributes:
        asked: The queries.
        without_right_answer: Items left out because no other has their label.
        unusable: Query images that could not be used: path and reason.
    """

    asked: tuple[Question, ...]
    without_right_answer: int
    unusable: tuple[tuple[str, str], ...]


def from_items(index: Index, labels: Labels, categories: Labels, sample: int) -> Questions:
    """Ask for items; all others with the same label are right.

    Args:
        index: What is asked.
        labels: Say what is right.
        categories: Of the items.
        sample: How many are asked for at most.

    Raises:
        UsageError: No two items have the same label.
    """
    if len(index) > 1 and len(np.unique(labels.codes)) == 1 and labels.names:
        logger.warning("all items have the same %s, %r: every answer is right", labels.column, labels.names[0])
    sizes = np.bincount(labels.codes[labels.codes >= 0], minlength=len(labels.names))
    alone = int(np.count_nonzero(labels.codes < 0) + np.count_nonzero(sizes == 1))
    rows_of = functools.cache(labels.rows)
    asked: list[Question] = []
    for row, path in index.items.shuffled():
        if len(asked) == sample:
            break
        code = int(labels.codes[row])
        if code < 0 or sizes[code] < 2:
            continue
        right = rows_of(code)
        asked.append(
            Question(
                *(path, labels.names[code], categories.of(row), index.nearest.vectors[row : row + 1]),
                right=right,
                right_answers=len(right) - 1,
                own=row,
            )
        )
    if not asked:
        raise UsageError(
            f"expected at least two items with the same {labels.column}, found none",
            hint="--self-test needs no labels; --queries DIR takes images of yours",
        )
    return Questions(tuple(asked), alone, ())


def from_variants(
    index: Index, products: Labels, categories: Labels, sample: int, regions: Regions, progress: Progress
) -> Questions:
    """Ask for photo-like variants of items; items of the same product, or with the very same image, are right.

    Args:
        index: What is asked.
        products: Of the items.
        categories: Of the items.
        sample: How many are asked for at most.
        regions: Where to look in them, as for `Index.search`.
        progress: Told ("evaluate", done, total).

    Raises:
        UsageError: None of the images can be read: the catalog has moved.
    """
    chosen = [(row, path) for (row, path), _ in zip(index.items.shuffled(), range(sample), strict=False)]
    catalog, policy = index.manifest.catalog, index.manifest.policy
    unusable: list[tuple[str, str]] = []
    asked: list[Question] = []
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
        right = np.union1d(same, index.items.duplicates_of(row))
        asked.append(
            Question(path, products.of(row), categories.of(row), _stacked(views), right=right, right_answers=len(right))
        )
    if not asked:
        raise UsageError(
            f"expected the images of the index in {catalog}, found none of {len(chosen)} that can be used",
            hint="run imgsearch build-index with the folder's new place, or ask with --queries DIR",
        )
    return Questions(tuple(asked), 0, tuple(unusable))


def variant_of(index: Index, path: str) -> Pixels | None:
    """Make the variant of an item that `from_variants` asks with; None if its image cannot be had.

    Returns:
        RGB, uint8 (side, side, 3).
    """
    (found,) = _variants(index.manifest.catalog, [path], index.manifest.policy)
    return None if isinstance(found, ImageError) else found[1]


def _variants(folder: str, paths: list[str], policy: FilePolicy) -> Iterator[Pixels | ImageError]:
    # Such an image has just this side: it is asked with as it is.
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
) -> Questions:
    """Ask with images in a folder.

    Args:
        index: What is asked.
        folder: Of the images.
        truth: CSV file with a column `query`, the path of an image below the folder, and a column `path` or one of the
            name of the labels, which says what is right; an image may come more than once. Without one the folder that
            an image lies in is its label.
        labels: Say what is right.
        categories: Of the items.
        regions: Where to look in them, as for `Index.search`.
        progress: Told ("evaluate", done, total).

    Raises:
        UsageError: There are no such images, or their labels are not those of the index.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"expected a folder of query images, found none: {folder}")
    paths = sorted(file.path for file in Scan(os.fspath(folder), follow_links=index.manifest.policy.follow_links))
    if not paths:
        raise UsageError(f"expected query images in {folder}, found none")
    if truth is None:
        wanted: Mapping[str, list[str]] = {path: [path.rpartition("/")[0]] for path in paths}
        by = labels
    else:
        by_path, wanted = _read_truth(truth, labels.column)
        by = _paths(index) if by_path else labels
    places = {name: code for code, name in enumerate(by.names)}
    missing = sorted(set(wanted) - set(paths))
    unusable = [(path, f"{truth} names it, but it is not there") for path in missing]
    asked: list[Question] = []
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
            vectors = _stacked(search.views_of(query, index.viewer, regions))
        except ImageError as error:
            unusable.append((path, error.message))
            continue
        found = [by.rows(places[name]) for name in wanted[path] if name in places]
        lacking = sum(name not in places for name in wanted[path])
        right = np.unique(np.concatenate([*found, np.empty(0, np.int64)])).astype(np.int64)
        category = categories.of(int(right[0])) if len(right) else ""
        label = labels.of(int(right[0])) if len(right) else wanted[path][0]
        asked.append(Question(path, label, category, vectors, right, len(right) + lacking))
    if known:
        logger.warning("%d of the query images are in the index themselves, which makes them easy", known)
    if not any(len(question.right) for question in asked):
        example = next((name for name in by.names), "nothing")
        raise UsageError(
            f"expected images of what is in the index, found none in {folder}: no {by.column} of it is one of theirs",
            hint=f"a {by.column} of the index is {example!r}; name folders so, or give --truth FILE.csv",
        )
    return Questions(tuple(asked), 0, tuple(unusable))


def _paths(index: Index) -> Labels:
    names = tuple(index.items.column("path"))
    return Labels("path", names, np.arange(len(names), dtype=np.int32))


def _read_truth(file: Path, column: str) -> tuple[bool, Mapping[str, list[str]]]:
    """Read what is right for each query; says too whether that is a path."""
    wanted: dict[str, list[str]] = defaultdict(list)
    try:
        with (
            open_regular(file) as data,
            io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines,
        ):
            reader = csv.DictReader(lines, strict=True)
            names = reader.fieldnames or ()
            right = next((name for name in ("path", column) if name in names), None)
            if "query" not in names or right is None:
                raise UsageError(
                    f"expected columns query and path, or query and {column}, in {file},"
                    f" found {', '.join(names) or 'none'}"
                )
            for row in reader:
                if None in row or not row["query"] or not row[right]:
                    raise UsageError(f"{file}, line {reader.line_num}: expected a query and its {right}")
                name = row[right].removeprefix("./")
                query = row["query"].removeprefix("./")
                if name not in wanted[query]:
                    wanted[query].append(name)
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except csv.Error as error:
        raise UsageError(f"{file} is not a CSV file: {error}") from error
    return right == "path", wanted
