"""What has changed in a catalog from one generation to another."""

import contextlib
import os
from dataclasses import dataclass

from imgsearch.catalog.generation import generation_of, open_catalog
from imgsearch.catalog.neighbors import changed_lists
from imgsearch.errors import NoIndexError
from imgsearch.files import as_path, reading
from imgsearch.progress import Progress, no_progress
from imgsearch.store.database import connect, database_uri
from imgsearch.store.generations import ITEMS, read_manifest
from imgsearch.store.integrity import check_truth, repair_hint

_NEW = "SELECT path FROM main.items WHERE path NOT IN (SELECT path FROM old.items) ORDER BY path"
_GONE = "SELECT path FROM old.items WHERE path NOT IN (SELECT path FROM main.items) ORDER BY path"
_CHANGED = """
SELECT n.path, n.sha256 != o.sha256, n.product != o.product, n.category != o.category, n.metadata != o.metadata
FROM main.items n JOIN old.items o ON o.path = n.path
WHERE n.sha256 != o.sha256 OR n.product != o.product OR n.category != o.category OR n.metadata != o.metadata
ORDER BY n.path
"""
_FIELDS = ("image", "product", "category", "metadata")


@dataclass(frozen=True, slots=True)
class ChangedItem:
    """An item that is in both generations, and what of it differs: `image`, `product`, `category`, `metadata`."""

    path: str
    fields: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChangedNeighbor:
    """A product whose nearest other product is another than before; empty where there was or is none."""

    product: str
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class Changes:
    """How a generation differs from an earlier one.

    Attributes:
        generation: The published one.
        before: The one that it is compared with.
        new: Paths that only the published one has.
        gone: Paths that only the earlier one has.
        changed: Items that are in both, and differ.
        neighbors: Products in both whose first neighbor changed; None if one of the two holds embeddings only.
    """

    generation: int
    before: int
    new: tuple[str, ...]
    gone: tuple[str, ...]
    changed: tuple[ChangedItem, ...]
    neighbors: tuple[ChangedNeighbor, ...] | None


def changes(index: str | os.PathLike[str], since: int | None = None, *, progress: Progress = no_progress) -> Changes:
    """Compare the published generation with an earlier one.

    Args:
        index: The index directory.
        since: Number of the earlier generation; the one before by default. The last two are kept.
        progress: Told of `compare`: every product is compared with every other, in both generations.

    Raises:
        NoIndexError: There is none, or no such generation.
        DamagedIndexError: It is damaged.
        ResourceError: The system does not let a file be read.
    """
    directory = as_path(index)
    current = read_manifest(directory)
    if since is None and current.generation == 1:
        raise NoIndexError("nothing to compare with: this is the first generation")
    number = current.generation - 1 if since is None else since
    before = generation_of(directory, number)
    for manifest in (current, before):
        check_truth(directory, manifest, f"{manifest.folder}/{ITEMS}")
    path, old = (directory / manifest.folder / ITEMS for manifest in (current, before))
    with reading(path, repair_hint(ITEMS)), contextlib.closing(connect(path, read_only=True)) as connection:
        connection.execute("ATTACH ? AS old", (database_uri(old),))
        new, gone = ([name for (name,) in connection.execute(query)] for query in (_NEW, _GONE))
        changed = [_changed_item(*row) for row in connection.execute(_CHANGED)]
    neighbors = None
    if current.backend is not None and before.backend is not None:
        with (
            open_catalog(directory, current.generation, "product") as catalog,
            open_catalog(directory, number, "product") as earlier,
        ):
            neighbors = tuple(
                ChangedNeighbor(now.name, *(one.neighbors[0].name if one.neighbors else "" for one in (then, now)))
                for now, then in changed_lists(catalog, earlier, 1, progress=progress)
                if then is not None and [each.name for each in then.neighbors] != [each.name for each in now.neighbors]
            )
    return Changes(current.generation, number, tuple(new), tuple(gone), tuple(changed), neighbors)


def _changed_item(path: str, *differs: int) -> ChangedItem:
    return ChangedItem(path, tuple(field for field, is_other in zip(_FIELDS, differs, strict=True) if is_other))
