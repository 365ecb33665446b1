"""Equal and near-equal pictures of a catalog, and which of them to keep."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from imgsearch.catalog.lists import Grouping, block_count, nearest_lists
from imgsearch.catalog.same_picture import SAME, Portrait, difference, portrait
from imgsearch.errors import require_between
from imgsearch.progress import Progress, no_progress
from imgsearch.search.index import Index
from imgsearch.search.rerank import photo_as_indexed
from imgsearch.store.calibration import Calibration
from imgsearch.store.items import Item

# Pairs with a higher score are compared: where the index is calibrated, that at which a first hit is right with this
# probability; and where it is not.
_PROBABILITY = 0.8
_MIN_SCORE = 0.3
# Of each item so many neighbors are compared; whoever is the same picture as one of them may be the same as it. The
# first of them are whatever their score: a thin item is little of its picture, and another background is much of it.
_COMPARED = 10
_ALWAYS = 3
# Images that are kept ready for comparison, of some 250 kB with their mirrored form.
_READY = 1000


@dataclass(frozen=True, slots=True)
class Duplicate:
    """An item of a group.

    Attributes:
        path: POSIX path below the catalog's root.
        product: What it shows.
        category: Where it belongs.
        how: How it is like the one to keep: `kept` for that itself, `equal` for the same bytes, `near` for a picture
            that was resized, recompressed, cropped a little or laid on another background, `mirrored`.
        score: Cosine with the one to keep.
        width: In pixels of the file, upright; 0 if it could not be read.
        height: Likewise.
        bytes: Size of the file.
    """

    path: str
    product: str
    category: str
    how: str
    score: float
    width: int
    height: int
    bytes: int


@dataclass(frozen=True, slots=True)
class DuplicateGroup:
    """Items that show the same picture; each is like the first, the one to keep."""

    items: tuple[Duplicate, ...]

    @property
    def products_differ(self) -> bool:
        """Whether one picture stands for several products."""
        return len({item.product for item in self.items}) > 1


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What `duplicates` found.

    Attributes:
        groups: By the path of the one to keep.
        min_score: Pairs with a lower score were not compared, but for the nearest.
        candidates: How many pairs were compared, or should have been.
        unverified: How many of them could not be, because an image is not there as it was indexed, or needs a process
            of its own to be decoded; they are in no group.
    """

    groups: tuple[DuplicateGroup, ...]
    min_score: float
    candidates: int
    unverified: int


def duplicates(
    index: str | os.PathLike[str], *, min_score: float | None = None, progress: Progress = no_progress
) -> Duplicates:
    """Find groups of equal and near-equal pictures.

    Equal files are found by their sha256. Of the others, the ten nearest of each item are compared by their pixels, as
    they are and mirrored, if their score is high enough. A group has one picture to keep, the one with the most pixels,
    then the most bytes, then the first by path, and every other member is like that one.

    Args:
        index: The index directory.
        min_score: Compare pairs with at least this cosine, -1 to 1. By default that at which a first hit is right with
            a probability of 0.8, in a calibrated index, or 0.3; then the three nearest are compared with any score.
        progress: Told of `compare` and `verify`.

    Raises:
        NoIndexError: There is none.
        DamagedIndexError: It is damaged.
        UsageError: `min_score` makes no sense.
        ResourceError: The system does not let a file be read.
    """
    with Index.open(index) as opened:
        least = _threshold(opened.manifest.calibration) if min_score is None else min_score
        require_between("min_score", least, -1, 1)
        return _Search(opened, least, _ALWAYS if min_score is None else 0).run(progress)


def _threshold(calibration: Calibration | None) -> float:
    """Return the least score of pairs to compare."""
    if calibration is None:
        return _MIN_SCORE
    curve = calibration.first
    if curve.probabilities[-1] < _PROBABILITY:
        return curve.scores[-1]
    reached = int(np.searchsorted(curve.probabilities, _PROBABILITY))
    if not reached:
        return curve.scores[0]
    between = slice(reached - 1, reached + 1)
    return float(np.interp(_PROBABILITY, curve.probabilities[between], curve.scores[between]))


class _Search:
    """One search for duplicates: contents, numbered by the first row that has them, and what is known of them."""

    def __init__(self, index: Index, least: float, always: int) -> None:
        self._index = index
        self._least = least
        self._always = always  # so many of the nearest are compared with any score
        self._vectors = index.nearest.vectors
        self._contents: dict[bytes, list[int]] = {}  # rows, by sha256
        self._sha256: list[bytes] = []
        self._bytes: list[int] = []
        for row, (sha256, size) in enumerate(index.items.files()):
            self._contents.setdefault(sha256, []).append(row)
            self._sha256.append(sha256)
            self._bytes.append(size)
        self._sizes: dict[int, tuple[int, int]] = {}  # width and height, by row
        self._known: dict[tuple[int, int], str] = {}  # how a pair is alike, empty if it is not, by its rows
        self._unread: set[int] = set()
        self._ready = lru_cache(_READY)(self._read)

    def run(self, progress: Progress) -> Duplicates:
        pairs = sorted(self._candidates(progress))
        linked: dict[int, set[int]] = {}
        for number, (first, second) in enumerate(pairs, start=1):
            progress("verify", number, len(pairs))
            if self._alike(first, second):
                linked.setdefault(first, set()).add(second)
                linked.setdefault(second, set()).add(first)
        equal = {rows[0] for rows in self._contents.values() if len(rows) > 1}
        groups = [self._group(kept, others) for kept, others in self._stars(linked, equal)]
        unverified = sum(first in self._unread or second in self._unread for first, second in pairs)
        groups.sort(key=lambda group: group.items[0].path)
        return Duplicates(tuple(groups), self._least, len(pairs), unverified)

    def _candidates(self, progress: Progress) -> Iterator[tuple[int, int]]:
        """Yield pairs of contents whose vectors are near enough to each other."""
        rows = np.sort(np.array([rows[0] for rows in self._contents.values()], np.int64))
        found: set[tuple[int, int]] = set()
        blocks = nearest_lists(self._vectors, Grouping(rows, np.arange(len(rows))), _COMPARED)
        for number, block in enumerate(blocks, start=1):
            progress("compare", number, block_count(len(rows)))
            is_compared = block.scores >= self._least
            is_compared[:, : self._always] = block.others[:, : self._always] >= 0
            at, place = np.nonzero(is_compared)
            others = block.others[at, place]
            found.update(zip(*np.sort([rows[at + block.first], rows[others]], axis=0).tolist(), strict=True))
        yield from found

    def _alike(self, first: int, second: int) -> str:
        """Return `near`, `mirrored`, or nothing."""
        key = min(first, second), max(first, second)
        if key not in self._known:
            portraits = [self._ready(row) for row in key]
            self._known[key] = _kind(*portraits) if all(portraits) else ""
        return self._known[key]

    def _read(self, row: int) -> tuple[Portrait, Portrait] | None:
        (item,) = self._index.items.fetch([row])
        photo = photo_as_indexed(self._index.manifest, item.path, self._sha256[row])
        if photo is None:
            self._unread.add(row)
            return None
        self._sizes[row] = photo.size[1], photo.size[0]
        found = portrait(photo.pixels)
        return found, found.mirrored()

    def _stars(self, linked: dict[int, set[int]], equal: set[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the content to keep of each group, and those that are like it: not what is like one of these only."""
        left = linked.keys() | equal
        while left:
            first = left.pop()
            component, new = {first}, {first}
            while new:
                new = {other for row in new for other in linked.get(row, ())} - component
                component |= new
            left -= component
            ordered = sorted(component, key=self._worth)
            while ordered:
                kept, *rest = ordered
                members = {row for row in rest if self._alike(kept, row)}
                ordered = [row for row in rest if row not in members]
                if members or kept in equal:
                    yield kept, [row for row in rest if row in members]

    def _worth(self, row: int) -> tuple[int, int, int]:
        """Sort what is to be kept first: most pixels, most bytes, first path, which rows are in the order of."""
        width, height = self._sizes.get(row, (0, 0))
        return -width * height, -self._bytes[row], row

    def _group(self, kept: int, others: list[int]) -> DuplicateGroup:
        rows = [(row, "equal" if row != kept else "kept") for row in self._contents[self._sha256[kept]]]
        rows += [(row, self._alike(kept, other)) for other in others for row in self._contents[self._sha256[other]]]
        if kept not in self._sizes:
            self._ready(kept)
        items = self._index.items.fetch([row for row, _ in rows])
        return DuplicateGroup(tuple(self._item(item, how, kept) for item, (_, how) in zip(items, rows, strict=True)))

    def _item(self, item: Item, how: str, kept: int) -> Duplicate:
        content = self._contents[self._sha256[item.row]][0]
        score = float(np.clip(self._vectors[item.row] @ self._vectors[kept], -1, 1))
        sizes = self._sizes.get(content, (0, 0))
        return Duplicate(item.path, item.product, item.category, how, score, *sizes, self._bytes[item.row])


def _kind(first: tuple[Portrait, Portrait] | None, second: tuple[Portrait, Portrait] | None) -> str:
    if first is None or second is None:
        return ""
    if difference(first[0], second[0]) <= SAME:
        return "near"
    return "mirrored" if difference(first[0], second[1]) <= SAME else ""
