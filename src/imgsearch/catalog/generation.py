"""One generation of an index, opened to compare everything in it: its vectors, and the names of what they are of."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imgsearch.catalog.lists import Grouping
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, NoIndexError
from imgsearch.store.arrays import open_array
from imgsearch.store.generations import ITEMS, VECTORS, read_generation, read_manifest
from imgsearch.store.integrity import check_content, repair_hint
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Catalog:
    """What is compared, and how it is called.

    Attributes:
        vectors: float32 (count, d), mapped.
        grouping: Which rows belong together.
        names: Of each group, in rising order of their bytes: the path of an item, or a product.
        by: `item` or `product`.
        sha256: Of the files of vectors and items: equal where the lists are.
    """

    vectors: Vectors
    grouping: Grouping
    names: list[str]
    by: str
    sha256: list[str]

    @staticmethod
    def key(name: str) -> bytes:
        """Sort names as SQLite does, by their bytes."""
        return os.fsencode(name)


def generation_of(directory: Path, number: int) -> Manifest:
    """Read the manifest of a generation that is still there; `NoIndexError` names those that are."""
    current = read_manifest(directory)
    if number == current.generation:
        return current
    try:
        return read_generation(directory, number)
    except NoIndexError:
        before = current.generation - 1
        found = [str(current.generation)]
        with contextlib.suppress(NoIndexError, DamagedIndexError):
            found = [str(read_generation(directory, before).generation), *found]
        raise NoIndexError(
            f"{directory} has no generation {number}: the last two are kept",
            hint=f"there {'are' if len(found) > 1 else 'is'} {' and '.join(found)}",
        ) from None


@contextlib.contextmanager
def open_catalog(directory: Path, number: int, by: Literal["item", "product"]) -> Iterator[Catalog]:
    """Open a generation; `NoIndexError` if it is gone or has no vectors."""
    manifest = generation_of(directory, number)
    if manifest.backend is None:
        raise NoIndexError(
            f"generation {number} of {directory} holds embeddings but no index",
            hint=f"make one: imgsearch build-index {directory}",
        )
    for name in (f"{manifest.folder}/{VECTORS}", f"{manifest.folder}/{ITEMS}"):
        try:
            check_content(directory, manifest, name)
        except FileNotFoundError as error:
            raise DamagedIndexError(f"{error.filename} is missing", hint=repair_hint(name)) from error
    vectors = open_array(directory / manifest.folder / VECTORS, manifest.count, manifest.dims, manifest.numbers)
    with contextlib.closing(Items(directory / manifest.folder / ITEMS)) as items:
        names = list(items.column("path" if by == "item" else "product"))
    if len(names) != manifest.count:
        raise DamagedIndexError(f"{directory / manifest.folder / ITEMS} is damaged: {len(names)} items")
    if by == "item":
        grouping = Grouping.of_items(len(names))
    else:
        unique = sorted(set(names), key=Catalog.key)
        number_of = {name: number for number, name in enumerate(unique)}
        grouping = Grouping.by(np.array([number_of[name] for name in names], np.int64))
        names = unique
    files = [manifest.files[f"{manifest.folder}/{name}"].sha256 for name in (VECTORS, ITEMS)]
    yield Catalog(vectors, grouping, names, by, files)
