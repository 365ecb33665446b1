"""What an index holds."""

import contextlib
import os
from dataclasses import dataclass, replace

from imgsearch.files import as_path
from imgsearch.store.generations import ITEMS, read_manifest
from imgsearch.store.integrity import check_truth
from imgsearch.store.items import Items, Rejected
from imgsearch.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class IndexInfo:
    """What an index holds, and how it was built.

    Attributes:
        manifest: Counts, encoder, backend and all options of the published generation.
        rejected: Files of the catalog that could not be used.
        damaged: Path and problem of each JPEG that is kept although it is damaged.
        blank: Path and color (`#rrggbb`) of each item whose image is of one color.
        ignored_profiles: Path of each item whose image has a color profile of no use, and why that is so.
        rows_without_image: Line and path of rows of the shop's data whose path is that of no item; `''` for none.
        images_without_row: Paths of items that the shop's data have no row for.
    """

    manifest: Manifest
    rejected: tuple[Rejected, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    blank: tuple[tuple[str, str], ...] = ()
    ignored_profiles: tuple[tuple[str, str], ...] = ()
    rows_without_image: tuple[tuple[int, str], ...] = ()
    images_without_row: tuple[str, ...] = ()


def info(index: str | os.PathLike[str], *, rejected: bool = False, unmatched: int = 0) -> IndexInfo:
    """Return what an index holds.

    Args:
        index: The index directory.
        rejected: Also list the files that could not be used, and `damaged`, `blank` and `ignored_profiles`.
        unmatched: How many `rows_without_image`, and `images_without_row`, to list at most.

    Raises:
        NoIndexError: There is none.
        DamagedIndexError: It is damaged, or its format is newer.
        ResourceError: The system does not let it be read.
    """
    directory = as_path(index)
    manifest = read_manifest(directory)
    if not (rejected or unmatched):
        return IndexInfo(manifest)
    check_truth(directory, manifest, f"{manifest.folder}/{ITEMS}")
    with contextlib.closing(Items(directory / manifest.folder / ITEMS)) as items:
        found = IndexInfo(
            manifest,
            rows_without_image=tuple(items.rows_without_image(unmatched)),
            images_without_row=tuple(items.images_without_row(unmatched)),
        )
        if not rejected:
            return found
        return replace(
            found,
            rejected=tuple(items.rejected()),
            damaged=tuple(items.damaged()),
            blank=tuple(items.remarks("blank")),
            ignored_profiles=tuple(items.remarks("ignored_profile")),
        )
