"""From views of a query to hits: what a backend proposes, scored exactly, each item where its score is best."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError
from imgsearch.images.boxes import Box
from imgsearch.search.backends.backends import Backend, ExactBackend, Rows, open_backend, scores_of
from imgsearch.search.hits import Hit
from imgsearch.search.opened import OpenedFiles
from imgsearch.search.views import View
from imgsearch.store import generations
from imgsearch.store.arrays import open_array
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Scored:
    """An item, and the view of the query that it is nearest to.

    Attributes:
        row: Of the item.
        score: Cosine; rounding of unit vectors may lead just past -1 or 1.
        distance: Euclidean, 0 to 2.
        box: Of the view.
    """

    row: int
    score: float
    distance: float
    box: Box | None


class Nearest:
    """Compares views of queries with the items of an index.

    Args:
        directory: The index.
        manifest: What is published there.
        files: Of its generation, open: those that `searched_files` names.
        items: Of its generation.
    """

    def __init__(self, directory: Path, manifest: Manifest, files: OpenedFiles, items: Items) -> None:
        self._folder = directory / manifest.folder
        self._manifest = manifest
        self._files = files
        self._items = items
        self._backend_file = _backend_file(manifest)
        self._backend: Backend | None = None
        self._vectors = open_array(self._folder / generations.VECTORS, manifest.count, manifest.dims)
        self._exact = ExactBackend(self._vectors)
        # A view is asked for after each look that follows it.
        self._candidates = lru_cache(maxsize=4)(_candidates)

    @property
    def vectors(self) -> Embeddings:
        """float32 (count, d), unit rows, mapped.

        Raises:
            DamagedIndexError: The file is damaged.
        """
        self._files.require_whole(generations.VECTORS)
        return self._vectors

    def plan(self, where: str = "", *, exact: bool = False) -> str:
        """Name how a query is answered: `annoy`, `faiss` or `exact`."""
        assert self._manifest.backend is not None
        return "exact" if where or exact else self._manifest.backend.name

    def begin_checks(self, where: str, *, exact: bool) -> None:
        """Begin to compare the files that a query needs with their sha256, while others work."""
        is_searched = self._backend_file and not (where or exact)
        self._files.begin_checks(
            generations.ITEMS, generations.VECTORS, *((self._backend_file,) if is_searched else ())
        )

    def backend_for(self, where: str = "", *, exact: bool = False) -> Backend:
        """Open what answers a query.

        Args:
            where: As for `Index.search`.
            exact: As for `Index.search`.

        Raises:
            UsageError: `where` makes no sense.
            DamagedIndexError: A file of the index is damaged.
        """
        if where:
            self._files.require_whole(generations.ITEMS)
            return ExactBackend(self._vectors, self._checked(self._items.rows_where(where)))
        if self.plan(exact=exact) == "exact" or self._backend_file is None:
            return self._exact
        if self._backend is None:
            assert self._manifest.backend is not None
            self._files.require_whole(self._backend_file)
            try:
                (self._folder / self._backend_file).stat()
                self._backend = self.opened(self._manifest.backend.effort)
            except FileNotFoundError:
                # It was there when we opened: two newer generations have been published since. We have the vectors.
                self._backend = self._exact
        return self._backend

    def opened(self, effort: int) -> Backend:
        """Open the forest or the lists with another `search_k` or `probes`; see `Index.backend`."""
        assert self._manifest.backend is not None
        assert self._backend_file is not None
        self._files.require_whole(self._backend_file)  # before a library that trusts it gets to see it
        settings = self._manifest.backend.with_effort(effort)
        return open_backend(self._folder, settings, self._manifest.count, self._manifest.dims)

    def scored(self, backend: Backend, views: Sequence[View], k: int, *, filtered: bool = False) -> list[Scored]:
        """Score exactly what a backend proposes, and take each item where its score is best.

        Args:
            backend: Of the vectors of this index.
            views: Of a query, at least one.
            k: How many at most.
            filtered: Whether the backend leaves items out.

        Returns:
            Each item once, the best score first; equal scores in the order of their rows.

        Raises:
            DamagedIndexError: A file of the index is damaged.
        """
        wanted = min(max(2, k), self._manifest.count)  # `lead` looks at two
        candidates = [
            self._checked(self._candidates(backend, view, wanted))  # type: ignore[arg-type]  # hashed by identity
            for view in views
        ]
        if not filtered:  # among thousands of copies of another a forest may not find even the image itself
            candidates = [
                rows if view.row is None else np.append(rows, view.row)
                for rows, view in zip(candidates, views, strict=True)
            ]
        self._files.require_whole(generations.VECTORS, generations.ITEMS)
        return self._best_of(views, candidates)[:k]

    def lead(self, backend: Backend, views: Sequence[View], k: int, *, filtered: bool = False) -> float:
        """Say how far the best item is ahead of the second, as a difference of cosines.

        Args:
            backend: As for `scored`.
            views: As for `scored`.
            k: How many `scored` will be asked for in the end: then no view is searched twice.
            filtered: As for `scored`.

        Returns:
            0 to 2; 0 where there is no second.
        """
        scores = [each.score for each in self.scored(backend, views, max(2, k), filtered=filtered)]
        return scores[0] - scores[1] if len(scores) > 1 else 0.0

    def _best_of(self, views: Sequence[View], candidates: Sequence[Rows]) -> list[Scored]:
        found: dict[int, Scored] = {}
        for view, rows in zip(views, candidates, strict=True):
            near = self._vectors[rows]
            scores = scores_of(near, view.vector)
            if not np.isfinite(scores).all():
                file = self._folder / generations.VECTORS
                raise DamagedIndexError(f"{file} is damaged: not a number where a score should be")
            distances = np.linalg.norm(near - view.vector, axis=1)
            for row, score, distance in zip(rows.tolist(), scores.tolist(), distances.tolist(), strict=True):
                if row not in found or score > found[row].score:
                    found[row] = Scored(row, score, distance, view.box)
        return sorted(found.values(), key=lambda each: (-each.score, each.row))

    def _checked(self, rows: Rows | Sequence[int]) -> Rows:
        """Refuse rows that the arrays do not have: the files do not belong together."""
        checked = np.asarray(rows, np.int64)
        if len(checked) and not 0 <= checked.min() <= checked.max() < self._manifest.count:
            file = self._folder / generations.ITEMS
            raise DamagedIndexError(f"{file} is damaged: it names rows that are not there")
        return checked


def _candidates(backend: Backend, view: View, wanted: int) -> Rows:
    return backend.candidates(view.vector, wanted)


def searched_files(manifest: Manifest) -> tuple[str, ...]:
    """Name the files of a generation that queries are compared with."""
    file = _backend_file(manifest)
    return (generations.VECTORS, generations.ITEMS, *((file,) if file else ()))


def _backend_file(manifest: Manifest) -> str | None:
    assert manifest.backend is not None
    # There is neither a forest nor a list of nothing.
    return generations.BACKEND_FILES.get(manifest.backend.name) if manifest.count else None


def hits_of(scored: Sequence[Scored], items: Items) -> list[Hit]:
    """Say what was found.

    Args:
        scored: Best first.
        items: Of the index.

    Returns:
        Hits in the same order.

    Raises:
        DamagedIndexError: A row is not there.
    """
    return [
        Hit(
            rank,
            item.path,
            max(-1.0, min(1.0, each.score)),
            each.distance,
            item.product,
            item.category,
            item.metadata,
            box=each.box,
        )
        for rank, (item, each) in enumerate(zip(items.at([each.row for each in scored]), scored, strict=True), start=1)
    ]
