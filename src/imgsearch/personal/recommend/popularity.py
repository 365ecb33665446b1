"""How popular the product of each row is, read without the rest of what was learned from events."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading
from imgsearch.personal.recommend.model import stored_arrays
from imgsearch.search.index import Index
from imgsearch.store import generations, integrity


def popularity_of_rows(index: Index) -> NDArray[np.float32] | None:
    """Return the decayed weights of all events of the product of each row, 0 without events: (count,).

    Returns:
        None where nothing was learned from events.

    Raises:
        FileNotFoundError: A file of it is missing.
        DamagedIndexError: A file of it is damaged.
        ResourceError: The system does not let a file be read.
    """
    manifest = index.manifest
    if manifest.recommend is None:
        return None
    folder = index.directory / manifest.folder
    for name in (generations.RECOMMEND, generations.RECOMMEND_ROWS):
        integrity.check_content(index.directory, manifest, f"{folder.name}/{name}")
    path = folder / generations.RECOMMEND
    popularity = stored_arrays(path, {"popularity": ("<f4", 1)})["popularity"]
    if not np.isfinite(popularity).all() or (popularity < 0).any():
        raise DamagedIndexError(f"{path} is damaged: it holds numbers that cannot be")
    of_row = read_rows(folder / generations.RECOMMEND_ROWS, manifest.count, len(popularity))
    return np.append(popularity, np.float32(0))[of_row]


def read_rows(path: Path, count: int, products: int) -> NDArray[np.int32]:
    """Read the place of each row's product among those that there were events of: (count,), -1 for others."""
    with reading(path, integrity.repair_hint(path.name)), open_regular(path) as file:
        content = file.read()
    problem = ""
    try:
        found: NDArray[np.int32] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError) as error:
        problem = str(error)
    else:
        if found.shape != (count,) or found.dtype.str != "<i4":
            problem = f"{found.dtype.str} {found.shape}, expected <i4 {(count,)}"
        elif count and not -1 <= found.min() <= found.max() < products:
            problem = "it names products that are not there"
    if problem:
        raise DamagedIndexError(f"{path} is damaged: {problem}", hint=integrity.repair_hint(path.name))
    return found
