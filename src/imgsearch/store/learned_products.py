"""The products that something was learned of from events: their names, and which of them each row of an index shows."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading
from imgsearch.store.arrays import HEADER_ERRORS, parsed_array, stored_arrays
from imgsearch.store.integrity import repair_hint
from imgsearch.store.items import Items

# The array of `recommend.npz` that has the names of products: their bytes, with NUL between.
NAMES = "names"


def names_array(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return names of products as `recommend.npz` has them."""
    return np.frombuffer(b"\0".join(map(os.fsencode, names)), np.uint8)


def product_names(path: Path) -> tuple[str, ...]:
    """Read the names of products from `recommend.npz`, whose sha256 was checked; raises `DamagedIndexError`."""
    data = stored_arrays(path, {NAMES: ("|u1", 1)})[NAMES]
    return tuple(map(os.fsdecode, data.tobytes().split(b"\0"))) if data.size else ()


def rows_of_products(items: Items, names: Sequence[str], count: int) -> NDArray[np.int32]:
    """Return the place in `names` of each item's product, or -1: (count,)."""
    places = {name: place for place, name in enumerate(names) if name}
    found = (places.get(product, -1) for product in items.column("product"))
    return np.fromiter(itertools.islice(found, count), np.int32, count)


def write_rows(file: BinaryIO, rows: NDArray[np.int32]) -> None:
    """Write what `rows_of_products` returned as `recommend-rows.npy`."""
    np.save(file, rows, allow_pickle=False)


def read_rows(path: Path, count: int, products: int) -> NDArray[np.int32]:
    """Read what `write_rows` wrote, of so many rows and products.

    Raises:
        FileNotFoundError: The file is missing.
        DamagedIndexError: It is no such file.
        ResourceError: The system does not let it be read.
    """
    hint = repair_hint(path.name)
    with reading(path, hint), open_regular(path) as file:
        content = file.read()
    try:
        found: NDArray[np.int32] = parsed_array(content, "<i4", 1)
    except HEADER_ERRORS as error:
        raise DamagedIndexError(f"{path} is damaged: {error}", hint=hint) from error
    if len(found) != count:
        raise DamagedIndexError(f"{path} is damaged: it is of {len(found)} rows, expected {count}", hint=hint)
    if count and not -1 <= found.min() <= found.max() < products:
        raise DamagedIndexError(f"{path} is damaged: it names products that are not there", hint=hint)
    return found
