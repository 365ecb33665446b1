"""From views of a query to hits: what a backend proposes, scored exactly, each item where its score is best."""

import contextlib
import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, MissingComponentError, ServerError, UsageError
from imgsearch.files import open_regular
from imgsearch.images.boxes import Box
from imgsearch.images.stores import is_url
from imgsearch.search.backends import backend_files, backend_of
from imgsearch.search.backends.exact import ExactCandidates
from imgsearch.search.backends.protocol import Candidates, Rows, scores_of
from imgsearch.search.backends.pushed import pushed
from imgsearch.search.backends.server import ServerCandidates
from imgsearch.search.filtered import FEW, FEW_BESIDE_SERVER, FilteredCandidates
from imgsearch.search.once import Once
from imgsearch.search.views import View
from imgsearch.store import generations
from imgsearch.store.arrays import open_array
from imgsearch.store.conditions import NO_CONDITIONS, Conditions
from imgsearch.store.integrity import check_opened
from imgsearch.store.items import Items
from imgsearch.store.lifetime import Lifetime
from imgsearch.store.manifest import Manifest
from imgsearch.text.sentences import DIMS

logger = logging.getLogger(__name__)

# Conditions whose items stay known, for the next query with the same ones.
_FILTERS_KEPT = 8

# A server that does not answer is left alone so long, by those who can do without it.
_SECONDS_UNTIL_TRIED_AGAIN = 30


@dataclass(frozen=True, slots=True)
class Scored:
    """An item's row, its score and distance, and the box of the view of the query that it resembles most."""

    row: int
    score: float  # rounding of unit vectors may lead just past -1 or 1
    distance: float
    box: Box | None
    matched: Mapping[str, float] | None = None  # of a `Ranking`, the score by each part of the question


class OpenedFiles:
    """Files of a generation, each compared once with its sha256, in threads; they may be swept in the meantime."""

    def __init__(self, directory: Path, manifest: Manifest, names: Sequence[str], lifetime: Lifetime) -> None:
        self._folder = directory / manifest.folder
        self._expected = {name: manifest.files.get(f"{manifest.folder}/{name}") for name in names}
        with contextlib.ExitStack() as opened:
            self._files = {name: opened.enter_context(open_regular(self._folder / name)) for name in names}
            opened.pop_all()
        self._checks = {
            name: Once(lifetime, partial(check_opened, file, self._folder / name, self._expected[name]))
            for name, file in self._files.items()
        }
        # Of an index that nobody closes, files that no question needed are open to its end.
        weakref.finalize(self, _close, [*self._files.values()]).atexit = False

    def close(self) -> None:
        """Wait for comparisons that have begun, and close the files."""
        for name, file in self._files.items():
            self._checks[name].wait()
            file.close()

    def begin_checks(self, *names: str) -> None:
        """Begin to compare files, while others work: no answer leaves before that is done."""
        for name in names:
            self._checks[name].begin()

    def require_whole(self, *names: str) -> None:
        """Wait until files are compared; raise `DamagedIndexError` if one was changed."""
        self.begin_checks(*names)
        for name in names:
            self._checks[name].result()


def _close(files: Sequence[BufferedReader]) -> None:
    for file in files:
        file.close()


class Nearest:
    """The vectors, the items and the backend of a generation, which stay readable while newer ones are published.

    Where the backend is a server that does not answer, one that `falls_back` compares with every vector instead.
    """

    def __init__(self, directory: Path, manifest: Manifest, *, falls_back: bool = False) -> None:
        self.manifest = manifest
        self._falls_back = falls_back
        self._folder = directory / manifest.folder
        self._backend_files = backend_files(manifest.backend, manifest.count)
        self._lifetime = Lifetime()
        self._backend = Once(self._lifetime, self._open_backend)
        has_text = manifest.words is not None and manifest.words.encoder
        names = (generations.VECTORS, generations.ITEMS, *self._backend_files, *[generations.TEXT] * bool(has_text))
        with contextlib.ExitStack() as opened:
            self._files = OpenedFiles(directory, manifest, names, self._lifetime)
            opened.callback(self._files.close)
            self.items = Items(self._folder / generations.ITEMS)
            opened.callback(self.items.close)
            self._vectors = open_array(
                self._folder / generations.VECTORS, manifest.count, manifest.dims, manifest.numbers
            )
            self._text = open_array(self._folder / generations.TEXT, manifest.count, DIMS) if has_text else None
            self._opened = opened.pop_all()
        self._exact = ExactCandidates(self._vectors)
        self._filters: dict[tuple[Conditions, bool], Candidates] = {}
        self._own_words: Rows | None = None
        self._next_try = 0.0  # to reach a server that did not answer

    def close(self) -> None:
        """Close the files; the maps go with the last reference."""
        if self._lifetime.end():
            self._backend.wait()
            self._opened.close()

    @property
    def vectors(self) -> Vectors:
        """What is searched: (count, d), unit rows, mapped; raises `DamagedIndexError`."""
        self._files.require_whole(generations.VECTORS)
        return self._vectors

    @property
    def text(self) -> Embeddings:
        """Vectors of the items' words: float32 (count, 512), mapped, unit rows or zeros; for an index that has them."""
        assert self._text is not None
        self._files.require_whole(generations.TEXT)
        return self._text

    def own_words(self) -> Rows:
        """Return the rows of items that have words of their own."""
        if self._own_words is None:
            self._files.require_whole(generations.ITEMS)
            self._own_words = self._checked(self.items.own_words())
        return self._own_words

    def matches(self, expression: str, *, own_only: bool = False) -> tuple[Rows, NDArray[np.float64]]:
        """Find the items whose words match an expression of `lexical.match_expression`, and how well: BM25."""
        self._files.require_whole(generations.ITEMS)
        rows, scores = self.items.matches(expression, own_only=own_only)
        return self._checked(rows), scores

    def plan(self, conditions: Conditions, *, exact: bool = False) -> str:
        """Name the backend that answers a query: with conditions that few items satisfy, `exact`."""
        assert self.manifest.backend is not None
        is_exact = exact or (conditions.has_conditions and self.matching(conditions) is not None)
        is_exact = is_exact or (self._falls_back and self.backend() is self._exact)
        return "exact" if is_exact else self.manifest.backend.name

    def matching(self, conditions: Conditions) -> int | None:
        """Count the items that satisfy conditions; None for so many that the index is asked."""
        found = self.backend(conditions)
        return len(found.rows) if isinstance(found, ExactCandidates) and found.rows is not None else None

    def row_of(self, sha256: bytes, path: str = "") -> int | None:
        """Find the item whose image has just these bytes; of several the one at `path`, or the first."""
        row = self.items.row_of_content(sha256, self._below_catalog(path))
        if row is None or not 0 <= row < self.manifest.count:
            return None
        self._files.require_whole(generations.ITEMS)
        return row

    def row_of_path(self, path: str) -> int | None:
        """Return the row of the image at exactly this path below the catalog."""
        self._files.require_whole(generations.ITEMS)
        row = self.items.row_of_path(path)
        return None if row is None else int(self._checked([row])[0])

    def rows_named(self, name: str) -> list[int]:
        """Find the image at a path, below the catalog or of the file there, or else all images of a product.

        Raises:
            UsageError: There is neither; the hint has the name most like it.
        """
        rows = self._rows_named(name)
        if not rows:
            similar = self.items.similar_name(name)
            raise UsageError(
                f"the index has no image and no product {name!r}",
                hint=f"did you mean {similar!r}?" if similar else "imgsearch query FILE asks with an image file",
            )
        return [int(row) for row in self._checked(rows)]

    def of_same_products(self, rows: Rows) -> Rows:
        """Return the rows of all images of the products that some rows are of, ascending."""
        self._files.require_whole(generations.ITEMS)
        return self._checked(self.items.of_same_products(rows.tolist()))

    def has(self, name: str) -> bool:
        """Return whether there is an image or a product of this name, as `rows_named` finds it."""
        return bool(self._rows_named(name))

    def has_named(self, name: str) -> bool:
        """Return whether there is an image at exactly this path, or a product of this name; looks at no file."""
        self._files.require_whole(generations.ITEMS)
        return bool(self.items.rows_named(name))

    def _rows_named(self, name: str) -> list[int]:
        self._files.require_whole(generations.ITEMS)
        rows = self.items.rows_named(name) or self.items.rows_named(os.path.normpath(name))
        if not rows and "\0" not in name:
            rows = self.items.rows_named(self._below_catalog(name))
        return rows

    def _below_catalog(self, path: str) -> str:
        catalog = self.manifest.catalog
        if is_url(catalog):
            return path.removeprefix(f"{catalog}/")
        folder, name = os.path.split(path)
        return os.path.relpath(os.path.join(os.path.realpath(folder), name), catalog)

    def views_at(self, rows: Sequence[int]) -> list[View]:
        """Return the vectors of items as views."""
        return [View(np.array(self.vectors[row]), row=row) for row in rows]

    def begin_checks(self, conditions: Conditions, *, exact: bool, pictures: bool = True, words: bool = False) -> None:
        """Begin to compare the files that a query with pictures, or words, needs with their sha256, in threads."""
        names = [generations.ITEMS]
        if pictures:
            names.append(generations.VECTORS)
        if words:
            names += [generations.TEXT] * (self._text is not None)
        elif not (conditions.has_conditions or exact):
            names += self._backend_files
        self._files.begin_checks(*names)

    def backend(self, conditions: Conditions = NO_CONDITIONS, *, exact: bool = False) -> Candidates:
        """Open what answers a query; raises `UsageError` for a condition that SQLite refuses."""
        if conditions.has_conditions:
            return self._filtered(conditions, exact=exact or not self._backend_files)
        if exact or not self._backend_files:
            return self._exact
        self._files.require_whole(*self._backend_files)
        return self._within_reach(self._backend.result())

    def _within_reach(self, backend: Candidates) -> Candidates:
        """Return a backend, or what is asked instead of a server that does not answer."""
        if not self._falls_back or not isinstance(backend, ServerCandidates):
            return backend
        if time.monotonic() >= self._next_try:
            try:
                backend.connection.server()
            except ServerError as error:
                self._fall_back(error)
            else:
                return backend
        return self._exact

    def _fall_back(self, error: ServerError) -> None:
        if not self._falls_back:
            raise error
        logger.warning("every image is compared instead: %s", error)
        self._next_try = time.monotonic() + _SECONDS_UNTIL_TRIED_AGAIN

    def _filtered(self, conditions: Conditions, *, exact: bool) -> Candidates:
        """Compare with all items that satisfy conditions, if they are few; else let the backend propose some."""
        key = conditions, exact
        found = self._filters.get(key)
        if found is None:
            self._files.require_whole(generations.ITEMS)
            selector = self.items.selector
            few = FEW_BESIDE_SERVER if self.manifest.backend and self.manifest.backend.server else FEW
            rows = selector.rows(conditions, None if exact else few + 1)
            if exact or len(rows) <= few:
                found = ExactCandidates(self._vectors, self._checked(rows))
            else:
                found = self._filtered_backend(conditions)
            if selector.is_constant(conditions):
                while len(self._filters) >= _FILTERS_KEPT:
                    self._filters.pop(next(iter([*self._filters])), None)  # a copy: other threads add filters, too
                self._filters[key] = found
        return found

    def _filtered_backend(self, conditions: Conditions) -> Candidates:
        try:
            backend = self.backend()
        except MissingComponentError as error:
            logger.info("all items that satisfy the conditions are compared: %s", error)
            return self._filtered(conditions, exact=True)
        narrowed = None
        if isinstance(backend, ServerCandidates) and (where := pushed(conditions, self.items.selector.columns())):
            narrowed = backend.narrowed(where)
        return FilteredCandidates(
            backend,
            self.manifest.count,
            lambda rows: self._checked(self.items.selector.among(conditions, rows.tolist())),
            lambda: self._filtered(conditions, exact=True),
            narrowed,
        )

    def _open_backend(self) -> Candidates:
        assert self.manifest.backend is not None
        try:
            return self.backend_with_effort(self.manifest.backend.effort)
        except (DamagedIndexError, FileNotFoundError):
            if os.path.lexists(self._folder / self._backend_files[0]):
                raise
            # It was there when we opened: two newer generations have been published since. We have the vectors.
            return self._exact

    def backend_with_effort(self, effort: int) -> Candidates:
        """Open the backend's file with another effort (`BackendSettings.effort`), to see what that finds."""
        assert self.manifest.backend is not None
        self._files.require_whole(*self._backend_files)  # before a library that trusts it gets to see it
        settings = self.manifest.backend.with_effort(effort)
        return backend_of(settings).open(self._folder, self._vectors, settings)

    def candidates(self, backend: Candidates, view: View, k: int, *, is_filtered: bool) -> Rows:
        """Propose rows for a view, at least the `k` nearest of what the backend finds."""
        wanted = min(k, self.manifest.count)
        try:
            rows = self._checked(backend.candidates(view.vector, wanted))
        except ServerError as error:
            self._fall_back(error)
            all_rows = backend.all_rows() if isinstance(backend, FilteredCandidates) else self._exact
            rows = self._checked(all_rows.candidates(view.vector, wanted))
        if view.row is None:
            return rows
        # Among thousands of others with the same vector a backend may not find the image itself.
        own = self._checked([view.row, *self.items.duplicates_of(view.row)[:k]])
        if is_filtered:
            own = backend.among(own) if isinstance(backend, ExactCandidates | FilteredCandidates) else own[:0]
        return np.append(rows, own)

    def best_of(self, views: Sequence[View], candidates: Sequence[Rows]) -> list[Scored]:
        """Score candidates exactly: each item once, the best score first, equal ones in the order of their rows.

        A query that is an item comes before all, then its copies, whatever else has the same vector.
        """
        self._files.require_whole(generations.VECTORS, generations.ITEMS)
        own = {view.row for view in views if view.row is not None}
        copies = {copy for row in own for copy in self.items.duplicates_of(row)}
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
        return sorted(found.values(), key=lambda at: (at.row not in own, at.row not in copies, -at.score, at.row))

    def _checked(self, rows: Rows | Sequence[int]) -> Rows:
        """Refuse rows that the arrays do not have: the files do not belong together."""
        checked = np.asarray(rows, np.int64)
        if len(checked) and not 0 <= checked.min() <= checked.max() < self.manifest.count:
            file = self._folder / generations.ITEMS
            raise DamagedIndexError(f"{file} is damaged: it names rows that are not there")
        return checked
