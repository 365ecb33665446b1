"""What an index holds."""

import contextlib
import os
from dataclasses import dataclass

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
    """

    manifest: Manifest
    rejected: tuple[Rejected, ...] = ()
    damaged: tuple[tuple[str, str], ...] = ()
    blank: tuple[tuple[str, str], ...] = ()
    ignored_profiles: tuple[tuple[str, str], ...] = ()


def info(index: str | os.PathLike[str], *, rejected: bool = False) -> IndexInfo:
    """Return what an index holds.

    Args:
        index: The index directory.
        rejected: Also list the files that could not be used, and `damaged`, `blank` and `ignored_profiles`.

    Raises:
        NoIndexError: There is none.
        DamagedIndexError: It is damaged, or its format is newer.
        ResourceError: The system does not let it be read.
    """
    directory = as_path(index)
    manifest = read_manifest(directory)
    if not rejected:
        return IndexInfo(manifest)
    check_truth(directory, manifest, f"{manifest.folder}/{ITEMS}")
    with contextlib.closing(Items(directory / manifest.folder / ITEMS)) as items:
        return IndexInfo(
            manifest,
            tuple(items.rejected()),
            tuple(items.damaged()),
            tuple(items.remarks("blank")),
            tuple(items.remarks("ignored_profile")),
        )
