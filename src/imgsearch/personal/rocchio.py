"""Queries moved toward what was chosen for near ones, and away from what was rejected (Rocchio, 1971)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError
from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore, space_of
from imgsearch.search.index import Index
from imgsearch.search.views import View


@dataclass(frozen=True, slots=True)
class Moving:
    """How much queries are moved; chosen on one catalog, measured on others (docs/benchmarks.md).

    Attributes:
        near: The least cosine of a query with another whose judgments count for it.
        toward: How much the mean of what was chosen counts beside the query; together with `away` less than 1.
        away: How much the mean of what was rejected is taken away.
    """

    near: float = 0.3
    toward: float = 0.7
    away: float = 0.2


MOVING = Moving()

# The last so many judgments count; two vectors of each are in memory.
_MOST = 10_000


@dataclass(frozen=True, slots=True, eq=False)
class _Judged:
    """What was judged, as of a version of the store, of items that are there."""

    version: int
    queries: Embeddings  # (n, d)
    items: Embeddings  # (n, d)
    are_chosen: NDArray[np.bool_]


def refine_views(index: Index, store: FeedbackStore, moving: Moving = MOVING) -> Callable[[Sequence[View]], list[View]]:
    """Return what moves the vectors of queries by the judgments of near ones, as `Index.search` takes it.

    It may be called by many threads, and heeds what is judged in the meantime. A vector that no judgment is near to
    stays what it is. What was judged is looked up by its path: another image there now counts as that one, and what
    is gone does not count.

    Args:
        index: What is searched.
        store: Its feedback.
        moving: How much.
    """
    space = space_of(index.manifest)
    rows: dict[str, int] = {}  # by path, -1 for what is gone; a generation stays what it is
    kept: list[_Judged] = []

    def row_of(path: str) -> int:
        if path not in rows:
            row = index.nearest.row_of_path(path)
            rows[path] = -1 if row is None else row
        return rows[path]

    def judged() -> _Judged:
        version = store.version()
        if kept and kept[-1].version == version:
            return kept[-1]
        queries, paths, are_chosen = store.judged(space, _MOST)
        if paths and queries.shape[1] != index.manifest.dims:
            raise DamagedIndexError(f"{FEEDBACK_FILE} is damaged: its vectors are not as long as those of the index")
        found = np.array([row_of(path) for path in paths], np.int64)
        are_there = found >= 0
        known = _Judged(version, queries[are_there], index.nearest.vectors[found[are_there]], are_chosen[are_there])
        kept[:] = [known]
        return known

    def refine(views: Sequence[View]) -> list[View]:
        known = judged()
        return [_moved(view, known, moving) for view in views] if len(known.items) else list(views)

    return refine


def nearest_view(index: Index, views: Sequence[View], row: int) -> View:
    """Return the view of a query that is nearest to an item: its vector is the one that a judgment is kept with."""
    vector = index.nearest.vectors[row]
    return max(views, key=lambda view: float(view.vector @ vector))


def _moved(view: View, judged: _Judged, moving: Moving) -> View:
    # From 0 at the limit to 1 for the same query: judgments of far ones move less.
    weights = np.clip((judged.queries @ view.vector - moving.near) / (1 - moving.near), 0, 1)
    shares = np.zeros_like(weights)
    for are_meant, strength in ((judged.are_chosen, moving.toward), (~judged.are_chosen, -moving.away)):
        meant = np.where(are_meant, weights, 0)
        if meant.any():
            shares += strength * meant.max() / meant.sum() * meant  # a mean, as strong as the nearest one
    if not shares.any():
        return view
    moved = view.vector + shares @ judged.items  # never nothing: both strengths together are less than 1
    # It is no longer the vector of an item, if it was.
    return View(np.asarray(moved / np.linalg.norm(moved), np.float32), view.box)
