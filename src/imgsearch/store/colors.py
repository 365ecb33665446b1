"""Which items have a color, and how far theirs is from it: by the table `color_blocks` of an index's `items.sqlite`.

It has the colors that count as arrays: of 100,000 items they are read in milliseconds, where rows take a second.
"""

import itertools
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from imgsearch.colors import NAMES, AskedColor, differences, lab_of

# A color that differs by more, in CIEDE2000, is another one: twice what is seen at a glance.
MOST_DIFFERENCE = 20.0

# A color counts if it has so much of an item, or is its largest.
MIN_SHARE = 0.1

_BLOCK = 65_536
_ENTRY = np.dtype([("row", "<u4"), ("rgb", "u1", 3), ("name", "u1")])  # the name by its position in NAMES

# Cells of sRGB, so many along each channel, and by how much a color's CIEDE2000 difference may be below that of all
# corners of its cell. Of 16 million pairs the most was 7.3: the formula is not continuous where hues are opposite.
_CELLS = 16
_BELOW_CORNERS = 8.0


def packed(colors: Iterable[tuple[int, str, str]]) -> Iterator[bytes]:
    """Make blocks of colors that count, each given by row, `#rrggbb` and name."""
    codes = {name: code for code, name in enumerate(NAMES)}
    colors = iter(colors)
    while block := list(itertools.islice(colors, _BLOCK)):
        rows, rgb, names = zip(*block, strict=True)
        entries = np.empty(len(block), _ENTRY)
        entries["row"] = rows
        entries["rgb"] = np.frombuffer(bytes.fromhex("".join(rgb).replace("#", "")), np.uint8).reshape(-1, 3)
        entries["name"] = [codes[name] for name in names]
        yield entries.tobytes()


def entries_of(blocks: Iterable[bytes]) -> NDArray[np.void]:
    """Return all that blocks hold; TypeError or ValueError if one is damaged."""
    return np.frombuffer(b"".join(blocks), _ENTRY)


def repacked(
    known: NDArray[np.void], rows: NDArray[np.int64], colors: Iterable[tuple[int, str, str]]
) -> Iterator[bytes]:
    """Make the blocks that `packed` makes of all colors, from entries with other rows and the colors of new items.

    Args:
        known: Entries in which items have other rows, ascending.
        rows: Of each item its row there, or -1 for one that is new.
        colors: Of the new items, as for `packed`.
    """
    added = entries_of(packed(colors))
    known_rows, added_rows = (np.ascontiguousarray(entries["row"]) for entries in (known, added))
    entries = known[:0]
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        (kept,) = np.nonzero(part >= 0)
        first, end = (np.searchsorted(known_rows, part[kept], side) for side in ("left", "right"))
        counts = end - first
        moved = known[np.arange(counts.sum()) + np.repeat(first - (np.cumsum(counts) - counts), counts)]
        moved["row"] = np.repeat(start + kept, counts)
        new = slice(*np.searchsorted(added_rows, (start, start + len(part))))
        both = np.concatenate([moved, added[new]])
        entries = np.concatenate([entries, both[np.argsort(both["row"], kind="stable")]])
        while len(entries) >= _BLOCK:
            yield entries[:_BLOCK].tobytes()
            entries = entries[_BLOCK:]
    if len(entries):
        yield entries.tobytes()


def color_differences(
    blocks: Iterable[bytes], asked: AskedColor, most_difference: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find the items that have a color: rows, ascending, and of each the CIEDE2000 difference of its nearest color.

    Of a color asked for by name, an item has it or not: the difference is 0. ValueError if a block is damaged.
    """
    find = _found_by_name if asked.name else _found_near
    found = [find(np.frombuffer(block, _ENTRY), asked, most_difference) for block in blocks]
    rows, owners = np.unique(np.concatenate([[], *(rows for rows, _ in found)]), return_inverse=True)
    nearest = np.full(len(rows), np.inf)
    np.minimum.at(nearest, owners, np.concatenate([[], *(apart for _, apart in found)]))
    return rows.astype(np.int64), nearest


def _found_by_name(
    entries: NDArray[np.void], asked: AskedColor, _: float
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    rows = entries["row"][entries["name"] == NAMES.index(asked.name)]
    return rows, np.zeros(len(rows))


def _found_near(
    entries: NDArray[np.void], asked: AskedColor, most_difference: float
) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
    cells = entries["rgb"] // (256 // _CELLS)
    near = _near_cells(asked.lab, most_difference)[cells[:, 0], cells[:, 1], cells[:, 2]]
    entries = entries[near]
    apart = differences(lab_of(entries["rgb"]), np.array(asked.lab))
    return entries["row"][apart <= most_difference], apart[apart <= most_difference]


@lru_cache(8)  # asked for each block of a search
def _near_cells(lab: tuple[float, float, float], most_difference: float) -> NDArray[np.bool_]:
    """Return which cells may have a color that differs by no more; most colors of a catalog are in others."""
    levels = np.minimum(np.arange(_CELLS + 1) * (256 / _CELLS), 255)
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1)
    corners = differences(lab_of(rgb), np.array(lab))
    for axis in range(3):
        first, second = np.arange(_CELLS), np.arange(1, _CELLS + 1)
        corners = np.minimum(corners.take(first, axis), corners.take(second, axis))
    return np.asarray(corners <= most_difference + _BELOW_CORNERS, np.bool_)
