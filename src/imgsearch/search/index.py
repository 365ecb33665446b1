"""Open an index and ask it."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError, NoIndexError, UsageError
from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels, read_file
from imgsearch.images.photo import Photo, open_photo
from imgsearch.images.policy import MAX_BYTES
from imgsearch.regions.detections import LEAST_SCORE, Detection
from imgsearch.search.backends.backends import Backend
from imgsearch.search.hits import Hit, ObjectHits
from imgsearch.search.nearest import Nearest, hits_of, searched_files
from imgsearch.search.opened import OpenedFiles, open_projection
from imgsearch.search.rerank import CANDIDATES, draw_hit
from imgsearch.search.rerank import rerank as rerank_hits
from imgsearch.search.views import Regions, StopWhen, View, Viewer, keep_looking, require_regions
from imgsearch.store import generations, integrity
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest

# How far the best item must be ahead of the second, as a difference of cosines, for another look at the photo to be
# spared: after the whole, which its background may have fooled, and after a part of it (docs/benchmarks.md).
_MIN_MARGIN_WHOLE = 0.3
_MIN_MARGIN_PART = 0.1


@dataclass(frozen=True, slots=True)
class _Limits:
    """What is left out of an answer: hits below a score or a probability; items that do not satisfy a condition."""

    min_score: float | None
    min_probability: float | None
    filtered: bool


class Index:
    """One published generation of an index; it stays the same while the index is rebuilt.

    Open it with `Index.open`; it is a context manager, and for one thread at a time.

    Attributes:
        directory: The index directory.
        manifest: What is published there.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self._files = OpenedFiles(directory, manifest, searched_files(manifest))
        with contextlib.ExitStack() as opened:
            opened.callback(self._files.close)
            self._viewer = Viewer(directory, manifest, open_projection(directory, manifest))
            self.items = Items(directory / manifest.folder / generations.ITEMS)
            opened.callback(self.items.close)
            self._nearest = Nearest(directory, manifest, self._files, self.items)
            opened.pop_all()

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "Index":
        """Open the published generation, reading little: vectors are mapped, the encoder waits for a query.

        Args:
            directory: The index.

        Raises:
            NoIndexError: There is none, or only embeddings.
            DamagedIndexError: A file is missing or damaged, or the format is newer.
        """
        path = Path(directory)
        attempts = 3  # a writer may sweep the generation between our looks at the manifest and at its files
        while True:
            manifest = generations.read_manifest(path)
            if manifest.backend is None:
                raise NoIndexError(
                    f"{path} holds embeddings but no index", hint=f"make one: imgsearch build-index {path}"
                )
            try:
                integrity.check_sizes(path, manifest)
                return cls(path, manifest)
            except FileNotFoundError as error:
                attempts -= 1
                if not attempts:
                    hint = integrity.remedy(os.fspath(error.filename))
                    raise DamagedIndexError(f"{error.filename} is missing", hint=hint) from error
            except OSError as error:
                hint = integrity.remedy(os.fspath(error.filename))
                raise DamagedIndexError(f"{error.filename} cannot be read: {error.strerror}", hint=hint) from error

    def __len__(self) -> int:
        return self.manifest.count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the maps go with the last reference."""
        self._files.close()
        self._viewer.close()
        self.items.close()

    def search(
        self,
        image: str | os.PathLike[str],
        k: int = 5,
        *,
        where: str = "",
        min_score: float | None = None,
        min_probability: float | None = None,
        exact: bool = False,
        regions: Regions = "auto",
        box: Box | None = None,
        rerank: bool = False,
    ) -> list[Hit]:
        """Find the catalog images most similar to an image, or to something in it.

        Args:
            image: File name.
            k: How many to return at most; at least 1.
            where: SQL expression over path, product, category and metadata that hits must satisfy.
            min_score: Leave out hits below this cosine.
            min_probability: Leave out hits whose probability of being right is lower.
            exact: Compare with every vector, whatever the backend.
            regions: Where to look beside the whole image: `auto` at what stands out, unless the image is that of a
                product on a plain background, or one item is far ahead already; `whole` nowhere; a number at so many
                regions.
            box: The only part of the image to look at, in its pixels, upright.
            rerank: Compare points of the image with those of the first 20 hits, and put first what has the same
                points in the same places; see `regions.geometric`. Scores and probabilities stay what they are.

        Returns:
            Hits, best first; equal scores in the order of their paths. An item has the best score of all looks.

        Raises:
            ImageError: The image cannot be used.
            UsageError: `k`, `where`, `regions` or `box` makes no sense, or there are no probabilities.
            DamagedIndexError: A file of the index is damaged.
        """
        self._nearest.begin_checks(where, exact=exact)  # while the encoder starts
        data = self._read(image)
        backend = cache(partial(self._nearest.backend_for, where, exact=exact))
        limits = _Limits(min_score, min_probability, filtered=bool(where))
        stop_when: StopWhen = keep_looking
        if min_score is None and min_probability is None:  # else the best score counts that any look gives
            wanted = max(k, CANDIDATES) if rerank else k
            stop_when = partial(self._is_enough, backend=backend, k=wanted, filtered=bool(where))
        views = self._views(data, regions, box, stop_when)
        photo = open_photo(data, self.manifest.policy) if rerank else None
        return self._answered(backend, views, k, limits, photo)

    def search_objects(
        self,
        image: str | os.PathLike[str],
        k: int = 5,
        *,
        where: str = "",
        min_score: float | None = None,
        min_probability: float | None = None,
        exact: bool = False,
        rerank: bool = False,
    ) -> list[ObjectHits]:
        """Do `search` for each item in an image, with at most `k` hits each.

        Items are what stands alone on a plain background; on others what the detector finds; without one, what stands
        out from the edge.

        Returns:
            In reading order; none where no item was found.

        Raises:
            ImageError, UsageError, DamagedIndexError: As for `search`.
        """
        data = self._read(image)
        backend = cache(partial(self._nearest.backend_for, where, exact=exact))
        limits = _Limits(min_score, min_probability, filtered=bool(where))
        objects = self._viewer.objects(data)
        photo = open_photo(data, self.manifest.policy) if rerank else None
        return [
            ObjectHits(each_object.box, each_object.score, self._answered(backend, each_object.views, k, limits, photo))
            for each_object in objects
        ]

    def plan(self, *, where: str = "", exact: bool = False) -> str:
        """Name how a query is answered: `annoy`, `faiss` or `exact`."""
        return self._nearest.plan(where, exact=exact)

    def holds(self, image: str | os.PathLike[str]) -> bool:
        """Say whether the very bytes of an image are in the index.

        Raises:
            ImageError: The image cannot be read.
        """
        return self._row_of(self._read(image)) is not None

    def vector_of(self, image: str | os.PathLike[str]) -> Embeddings:
        """Bring an image into the searched space.

        An image whose very bytes are in the index needs no encoder.

        Args:
            image: File name.

        Returns:
            Unit float32 of shape (d,).

        Raises:
            ImageError: The image cannot be used.
            DamagedIndexError: The encoder or the projection is damaged.
        """
        (view,) = self.views_of(image, "whole")
        return view.vector

    def views_of(self, image: str | os.PathLike[str], regions: Regions = "auto", box: Box | None = None) -> list[View]:
        """Look at an image as a whole, and at what may be an item in it; see `vector_of`.

        Looks end as those of `search` do without any condition, whatever the index is searched with.

        Args:
            image: File name.
            regions: As for `search`.
            box: As for `search`.

        Returns:
            At least one; that of the whole image first, unless a box is given.

        Raises:
            ImageError: The image cannot be used.
            UsageError: `regions` or `box` makes no sense.
            DamagedIndexError: The encoder or the projection is damaged.
        """
        return self._views(self._read(image), regions, box, self._is_enough_by_all)

    def _views(self, data: bytes, regions: Regions, box: Box | None, stop_when: StopWhen) -> list[View]:
        require_regions(regions)
        row = self._row_of(data) if isinstance(regions, str) and box is None else None
        if row is not None:
            self._files.require_whole(generations.ITEMS)
            return [View(np.array(self.vectors[row]), row=row)]
        return self._viewer.views(data, regions, box, stop_when)

    def _is_enough(self, views: Sequence[View], *, backend: Callable[[], Backend], k: int, filtered: bool) -> bool:
        """Say whether one item is so far ahead that another look would hardly bring another before it."""
        lead = self._nearest.lead(backend(), views, k, filtered=filtered)
        return lead >= (_MIN_MARGIN_PART if any(view.box for view in views) else _MIN_MARGIN_WHOLE)

    def _is_enough_by_all(self, views: Sequence[View]) -> bool:
        """Do `_is_enough` by a comparison with all items."""
        backend = partial(self._nearest.backend_for, exact=True)
        return self._is_enough(views, backend=backend, k=2, filtered=False)

    def detections(self, image: str | os.PathLike[str], least_score: float = LEAST_SCORE) -> list[Detection]:
        """Say where in an image items are; the index must have a detector.

        Args:
            image: File name.
            least_score: Of a box, 0 to 1.

        Returns:
            The surest first, in pixels of the image, upright.

        Raises:
            ImageError: The image cannot be used.
            MissingComponentError: The index has no detector.
            DamagedIndexError: The detector is damaged.
        """
        return self._viewer.detections(self._read(image), least_score)

    def views_of_photo(self, photo: Photo, regions: Regions = "auto") -> list[View]:
        """Do `views_of` for a photo that is decoded, whether or not it is in the index."""
        return self._viewer.views_of_photo(photo, regions, self._is_enough_by_all)

    def _read(self, image: str | os.PathLike[str]) -> bytes:
        data, _ = read_file(os.fspath(image), max_bytes=max(MAX_BYTES, self.manifest.policy.max_bytes))
        return data

    def _row_of(self, data: bytes) -> int | None:
        row = self.items.row_of_content(hashlib.sha256(data).digest())
        return row if row is not None and 0 <= row < self.manifest.count else None

    @property
    def vectors(self) -> Embeddings:
        """What is searched: float32 (count, d), unit rows, mapped.

        Raises:
            DamagedIndexError: The file is damaged.
        """
        return self._nearest.vectors

    def embed(self, squares: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Bring images into the searched space, many at once.

        Args:
            squares: RGB, uint8, each of shape (n, size, size, 3) with the size of the encoder.

        Yields:
            For each, in order, float32 (n, d) of unit rows; a row is NaN where the encoder found nothing.

        Raises:
            DamagedIndexError: The encoder is damaged.
        """
        yield from self._viewer.embed(squares)

    def backend(self, effort: int) -> Backend:
        """Open the forest or the lists with another `search_k` or `probes`, to see what that finds.

        Args:
            effort: As `BackendSettings.effort`. The index has a backend with a file.

        Raises:
            DamagedIndexError: The file is damaged, or not there any more.
            MissingComponentError: The library that reads it is not installed.
        """
        return self._nearest.opened(effort)

    def search_vector(
        self,
        vector: Embeddings,
        k: int = 5,
        *,
        where: str = "",
        min_score: float | None = None,
        min_probability: float | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Do `search_views` for one vector of the searched space: unit float32 (d,), as `vector_of` gives it."""
        return self.search_views(
            [View(vector)], k, where=where, min_score=min_score, min_probability=min_probability, exact=exact
        )

    def search_views(
        self,
        views: Sequence[View],
        k: int = 5,
        *,
        where: str = "",
        min_score: float | None = None,
        min_probability: float | None = None,
        exact: bool = False,
    ) -> list[Hit]:
        """Do `search` for looks at an image, at least one, as `views_of` gives them.

        Raises:
            UsageError: `k` or `where` makes no sense, or there are no probabilities to be the least of.
            DamagedIndexError: A file of the index is damaged.
        """
        backend = partial(self._nearest.backend_for, where, exact=exact)
        return self._found(backend, views, k, _Limits(min_score, min_probability, filtered=bool(where)))

    def _found(
        self,
        backend: Callable[[], Backend],
        views: Sequence[View],
        k: int,
        limits: _Limits,
    ) -> list[Hit]:
        min_probability = limits.min_probability
        if k < 1:
            raise UsageError(f"expected to be asked for at least 1 result, found {k}")
        if min_probability is not None and not 0 <= min_probability <= 1:
            raise UsageError(f"expected a probability from 0 to 1, found {min_probability}")
        if min_probability is not None and self.manifest.calibration is None:
            raise UsageError(
                f"expected an index that knows what its scores mean, found none in {self.directory}",
                hint="run imgsearch evaluate --calibrate, or use --min-score",
            )
        hits = self.search_with(backend(), views, k, min_score=limits.min_score, filtered=limits.filtered)
        if min_probability is None:
            return hits
        return [hit for hit in hits if hit.probability is not None and hit.probability >= min_probability]

    def search_with(
        self,
        backend: Backend,
        views: Sequence[View],
        k: int,
        *,
        min_score: float | None = None,
        filtered: bool = False,
    ) -> list[Hit]:
        """Find what a backend proposes, scored exactly.

        Args:
            backend: Of the vectors of this index.
            views: As for `search_views`.
            k: As for `search`.
            min_score: As for `search`.
            filtered: Whether the backend leaves items out, of which one may have a better score.

        Raises:
            DamagedIndexError: A file of the index is damaged.
        """
        scored = self._nearest.scored(backend, views, k, filtered=filtered)
        if min_score is not None:
            scored = [each for each in scored if each.score >= min_score]
        hits = hits_of(scored, self.items)
        if self.manifest.calibration is None or not hits:
            return hits
        # Compared with everything: a filtered query needs no library, and must not come to need one.
        is_first = not filtered or hits[0].score >= self.search_views(views, 1, exact=True)[0].score
        probabilities = self.manifest.calibration.of_answer([hit.score for hit in hits], is_first=is_first)
        return [replace(hit, probability=each) for hit, each in zip(hits, probabilities, strict=True)]

    def _answered(
        self,
        backend: Callable[[], Backend],
        views: Sequence[View],
        k: int,
        limits: _Limits,
        photo: Photo | None,
    ) -> list[Hit]:
        """Do `_found`, and compare points with those of a photo, if there is one."""
        if photo is None or k < 1:
            return self._found(backend, views, k, limits)
        hits = self._found(backend, views, max(k, CANDIDATES), limits)
        contents = self.items.contents(hit.path for hit in hits)
        return [hit for hit, _ in rerank_hits(self.directory, self.manifest, contents, photo, hits)][:k]

    def drawn_matches(self, image: str | os.PathLike[str], hit: Hit) -> Pixels | None:
        """Draw which points of an image lie in a hit as they do in one plane.

        Args:
            image: File name of the query.
            hit: Of it, with inliers.

        Returns:
            RGB, uint8: what was looked at of the query on the left, the hit on the right, and lines between them. None
            where there is nothing to draw.

        Raises:
            ImageError: The image cannot be used.
        """
        if not hit.inliers:
            return None
        photo = open_photo(self._read(image), self.manifest.policy)
        content = self.items.contents([hit.path]).get(hit.path, b"")
        return None if photo is None else draw_hit(self.manifest, content, photo, hit)
