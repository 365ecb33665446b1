"""What the items of an index are labeled with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.search.backends.backends import Rows
from imgsearch.store.items import Items


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """One column of the items: `path`, `product`, `category`, or a column of the metadata."""

    column: str
    names: tuple[str, ...]  # the different labels, in the order of their first item
    codes: NDArray[np.int32]  # (count,): for each row the place of its label in `names`; -1 where it has none

    def of(self, row: int) -> str:
        """Return the label of a row; empty if it has none."""
        code = self.codes[row]
        return self.names[code] if code >= 0 else ""

    def rows(self, code: int) -> Rows:
        """Return the rows with a label."""
        return np.flatnonzero(self.codes == code)


def labels_of(items: Items, column: str, count: int) -> Labels:
    """Read one column of the items of an index; a UsageError if it is empty, unless it is `category`."""
    places: dict[str, int] = {}
    codes = np.full(count, -1, np.int32)
    for row, name in zip(range(count), items.column(column), strict=False):
        if name:
            codes[row] = places.setdefault(name, len(places))
    if not places and column != "category":  # images that lie in no folder have no category
        raise UsageError(
            f"no item has a column {column!r}", hint="there are product, category, and the columns of --metadata"
        )
    return Labels(column, tuple(places), codes)
