"""How popular the product of each row is, read without the rest of what was learned from events."""

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.search.index import Index
from imgsearch.store import generations, integrity
from imgsearch.store.arrays import stored_arrays
from imgsearch.store.learned_products import read_rows


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
        raise DamagedIndexError(
            f"{path} is damaged: it holds numbers that cannot be", hint=integrity.repair_hint(path.name)
        )
    of_row = read_rows(folder / generations.RECOMMEND_ROWS, manifest.count, len(popularity))
    return np.append(popularity, np.float32(0))[of_row]
