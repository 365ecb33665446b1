"""Open an index and ask it."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError, NoIndexError, UsageError
from imgsearch.images.boxes import Box
from imgsearch.images.decode import Pixels, read_file
from imgsearch.images.photo import Photo, open_photo
from imgsearch.images.policy import MAX_BYTES
from imgsearch.index import store
from imgsearch.index.arrays import open_array
from imgsearch.index.backends import Backend, ExactBackend, Rows, open_backend, scores_of
from imgsearch.index.disk import open_regular
from imgsearch.index.items import Items
from imgsearch.index.manifest import Manifest
from imgsearch.index.rerank import CANDIDATES, as_indexed, part_of
from imgsearch.index.rerank import rerank as rerank_hits
from imgsearch.index.views import Regions, View, Viewer, require_regions
from imgsearch.regions.detections import LEAST_SCORE, Detection
from imgsearch.regions.geometric import draw_matches, find_points, prove


@dataclass(frozen=True, slots=True)
class Hit:
    """One answer.

    Attributes:
        rank: Place, from 1.
        path: POSIX path of the picture below the catalogue's root.
        score: Cosine of the angle between query and picture in the searched space, -1 to 1.
        distance: Euclidean distance of the two unit vectors, 0 to 2.
        product: What it shows.
        category: Where it belongs.
        metadata: The shop's other data.
        probability: That the hit is right, 0 to 1; None if the index does not know what its scores mean
            (`imgsearch evaluate --calibrate`).
        box: What part of the query it looks like, in pixels of the query, upright; None for all of it.
        inliers: How many points of the query lie in it as they do in one plane; None if that was not looked for.
    """

    rank: int
    path: str
    score: float
    distance: float
    product: str
    category: str
    metadata: dict[str, Any]
    probability: float | None = None
    box: Box | None = None
    inliers: int | None = None


@dataclass(frozen=True, slots=True)
class ObjectHits:
    """An item in a query, and what it looks like.

    Attributes:
        box: Where, in pixels of the query, upright.
        score: How sure the detector is that there is an item, 0 to 1; None without a detector.
        hits: Best first.
    """

    box: Box
    score: float | None
    hits: list[Hit]


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
        self._backend: Backend | None = None
        # There is neither a forest nor a list of nothing.
        assert manifest.backend is not None
        self._backend_file = store.BACKEND_FILES.get(manifest.backend.name) if manifest.count else None
        names = (store.VECTORS, store.ITEMS) + ((self._backend_file,) if self._backend_file else ())
        with contextlib.ExitStack() as opened:
            files = {name: opened.enter_context(open_regular(self._file(name))) for name in names}
            self._vectors = open_array(self._file(store.VECTORS), manifest.count, manifest.dims)
            self._viewer = Viewer(directory, manifest, self._opened_projection())
            self.items = Items(self._file(store.ITEMS))
            opened.pop_all()
        self._opened = files
        self._checker = ThreadPoolExecutor(1, "imgsearch-check")
        self._checks: dict[str, Future[None]] = {}

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
            manifest = store.read_manifest(path)
            if manifest.backend is None:
                raise NoIndexError(
                    f"{path} holds embeddings but no index", hint=f"make one: imgsearch build-index {path}"
                )
            try:
                store.check_sizes(path, manifest)
                return cls(path, manifest)
            except FileNotFoundError as error:
                attempts -= 1
                if not attempts:
                    hint = store.remedy(os.fspath(error.filename))
                    raise DamagedIndexError(f"{error.filename} is missing", hint=hint) from error
            except OSError as error:
                hint = store.remedy(os.fspath(error.filename))
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
        """Close the file of items; the maps go with the last reference."""
        self._checker.shutdown(cancel_futures=True)
        self._viewer.close()
        for file in self._opened.values():
            file.close()
        self.items.close()

    def search(
        self,
        picture: str | os.PathLike[str],
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
        """Find the catalogue pictures most similar to a picture, or to something in it.

        Args:
            picture: File name.
            k: How many to return at most; at least 1.
            where: SQL expression over path, product, category and metadata that hits must satisfy.
            min_score: Leave out hits below this cosine.
            min_probability: Leave out hits whose probability of being right is lower.
            exact: Compare with every vector, whatever the backend.
            regions: Where to look beside the whole picture: `auto` at what stands out, unless the picture is that of a
                product on an even ground; `whole` nowhere; a number at so many regions.
            box: The only part of the picture to look at, in its pixels, upright.
            rerank: Compare points of the picture with those of the first 20 hits, and put first what has the same
                points in the same places; see `regions.geometric`. Scores and probabilities stay what they are.

        Returns:
            Hits, best first; equal scores in the order of their paths. An item has the best score of all regions.

        Raises:
            PictureError: The picture cannot be used.
            UsageError: `k`, `where`, `regions` or `box` makes no sense, or there are no probabilities.
            DamagedIndexError: A file of the index is damaged.
        """
        searched = (self._backend_file,) if self._backend_file and not (where or exact) else ()
        self._begin_checks(store.ITEMS, store.VECTORS, *searched)  # while the encoder starts
        data = self._read(picture)
        conditions = {"where": where, "min_score": min_score, "min_probability": min_probability, "exact": exact}
        return self._answered(data, self._views(data, regions, box), k, conditions, rerank=rerank)

    def search_objects(
        self,
        picture: str | os.PathLike[str],
        k: int = 5,
        *,
        where: str = "",
        min_score: float | None = None,
        min_probability: float | None = None,
        exact: bool = False,
        rerank: bool = False,
    ) -> list[ObjectHits]:
        """Find the catalogue pictures most similar to each item in a picture.

        Items are what stands alone on an even ground; on others what the detector finds; without one, what stands out
        from the edge of the picture.

        Args:
            picture: File name.
            k: As for `search`, for each item.
            where: As for `search`.
            min_score: As for `search`.
            min_probability: As for `search`.
            exact: As for `search`.
            rerank: As for `search`.

        Returns:
            In reading order; none where no item was found.

        Raises:
            PictureError, UsageError, DamagedIndexError: As for `search`.
        """
        data = self._read(picture)
        conditions = {"where": where, "min_score": min_score, "min_probability": min_probability, "exact": exact}
        return [
            ObjectHits(thing.box, thing.score, self._answered(data, thing.views, k, conditions, rerank=rerank))
            for thing in self._viewer.objects(data)
        ]

    def plan(self, *, where: str = "", exact: bool = False) -> str:
        """Name how a query is answered: `annoy`, `faiss` or `exact`."""
        assert self.manifest.backend is not None
        return "exact" if where or exact else self.manifest.backend.name

    def holds(self, picture: str | os.PathLike[str]) -> bool:
        """Say whether the very bytes of a picture are in the index.

        Raises:
            PictureError: The picture cannot be read.
        """
        return self._row_of(self._read(picture)) is not None

    def vector_of(self, picture: str | os.PathLike[str]) -> Embeddings:
        """Bring a picture into the searched space.

        A picture whose very bytes are in the index needs no encoder.

        Args:
            picture: File name.

        Returns:
            Unit float32 of shape (d,).

        Raises:
            PictureError: The picture cannot be used.
            DamagedIndexError: The encoder or the projection is damaged.
        """
        (view,) = self.views_of(picture, "whole")
        return view.vector

    def views_of(
        self, picture: str | os.PathLike[str], regions: Regions = "auto", box: Box | None = None
    ) -> list[View]:
        """Look at a picture as a whole, and at what may be an item in it; see `vector_of`.

        Args:
            picture: File name.
            regions: As for `search`.
            box: As for `search`.

        Returns:
            At least one; that of the whole picture first, unless a box is given.

        Raises:
            PictureError: The picture cannot be used.
            UsageError: `regions` or `box` makes no sense.
            DamagedIndexError: The encoder or the projection is damaged.
        """
        return self._views(self._read(picture), regions, box)

    def _views(self, data: bytes, regions: Regions, box: Box | None) -> list[View]:
        require_regions(regions)
        row = self._row_of(data) if isinstance(regions, str) and box is None else None
        if row is not None:
            self._require_whole(store.ITEMS, store.VECTORS)
            return [View(np.array(self._vectors[row]))]
        return self._viewer.views(data, regions, box)

    def detections(self, picture: str | os.PathLike[str], least_score: float = LEAST_SCORE) -> list[Detection]:
        """Say where in a picture items are; the index must have a detector.

        Args:
            picture: File name.
            least_score: Of a box, 0 to 1.

        Returns:
            The surest first, in pixels of the picture, upright.

        Raises:
            PictureError: The picture cannot be used.
            MissingComponentError: The index has no detector.
            DamagedIndexError: The detector is damaged.
        """
        return self._viewer.detections(self._read(picture), least_score)

    def views_of_photo(self, photo: Photo, regions: Regions = "auto") -> list[View]:
        """Do `views_of` for a photo that is decoded, whether or not it is in the index."""
        return self._viewer.views_of_photo(photo, regions)

    def _read(self, picture: str | os.PathLike[str]) -> bytes:
        data, _ = read_file(os.fspath(picture), max_bytes=max(MAX_BYTES, self.manifest.policy.max_bytes))
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
        self._require_whole(store.VECTORS)
        return self._vectors

    def embed(self, squares: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Bring pictures into the searched space, many at once.

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
        assert self.manifest.backend is not None
        assert self._backend_file is not None
        self._require_whole(self._backend_file)  # before a library that trusts it gets to see it
        settings = self.manifest.backend.with_effort(effort)
        return open_backend(self.directory / self.manifest.folder, settings, self.manifest.count, self.manifest.dims)

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
        """Find the catalogue pictures nearest to a vector of the searched space.

        Args:
            vector: Unit float32 of shape (d,), as `vector_of` gives it.
            k: As for `search`.
            where: As for `search`.
            min_score: As for `search`.
            min_probability: As for `search`.
            exact: As for `search`.

        Returns:
            As for `search`.

        Raises:
            UsageError: `k` or `where` makes no sense, or there are no probabilities to be the least of.
            DamagedIndexError: A file of the index is damaged.
        """
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
        """Find the catalogue pictures nearest to any view of a picture.

        Args:
            views: At least one, as `views_of` gives them.
            k: As for `search`.
            where: As for `search`.
            min_score: As for `search`.
            min_probability: As for `search`.
            exact: As for `search`.

        Returns:
            As for `search`.

        Raises:
            UsageError: As for `search_vector`.
            DamagedIndexError: A file of the index is damaged.
        """
        if k < 1:
            raise UsageError(f"expected to be asked for at least 1 result, found {k}")
        if min_probability is not None and not 0 <= min_probability <= 1:
            raise UsageError(f"expected a probability from 0 to 1, found {min_probability}")
        if min_probability is not None and self.manifest.calibration is None:
            raise UsageError(
                f"expected an index that knows what its scores mean, found none in {self.directory}",
                hint="run imgsearch evaluate --calibrate, or use --min-score",
            )
        backend: Backend
        if where:
            self._require_whole(store.ITEMS)
            backend = ExactBackend(self._vectors, self._checked_rows(self.items.rows_where(where)))
        elif self.plan(exact=exact) == "exact":
            backend = ExactBackend(self._vectors)
        else:
            backend = self._opened_backend()
        hits = self.search_with(backend, views, k, min_score=min_score, filtered=bool(where))
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
        hits = self._hits(backend, views, k, min_score)
        if self.manifest.calibration is None or not hits:
            return hits
        # Compared with everything: a filtered query needs no library, and must not come to need one.
        is_first = not filtered or hits[0].score >= self.search_views(views, 1, exact=True)[0].score
        probabilities = self.manifest.calibration.of_answer([hit.score for hit in hits], is_first=is_first)
        return [replace(hit, probability=each) for hit, each in zip(hits, probabilities, strict=True)]

    def _hits(self, backend: Backend, views: Sequence[View], k: int, min_score: float | None) -> list[Hit]:
        """Score candidates of all views exactly, take each item where its score is best, and say what it is."""
        found: dict[int, tuple[float, float, View]] = {}
        for view in views:
            rows = self._checked_rows(backend.candidates(view.vector, min(k, self.manifest.count)))
            self._require_whole(store.VECTORS, store.ITEMS)
            candidates = self._vectors[rows]
            scores = scores_of(candidates, view.vector)
            if not np.isfinite(scores).all():
                raise DamagedIndexError(f"{self._file(store.VECTORS)} is damaged: not a number where a score should be")
            distances = np.linalg.norm(candidates - view.vector, axis=1)
            for row, score, distance in zip(rows.tolist(), scores.tolist(), distances.tolist(), strict=True):
                if row not in found or score > found[row][0]:
                    found[row] = score, distance, view
        best = sorted(found, key=lambda row: (-found[row][0], row))[:k]
        if min_score is not None:
            best = [row for row in best if found[row][0] >= min_score]
        return [
            Hit(
                rank,
                item.path,
                # Rounding of unit vectors may lead just past the ends of what a cosine can be.
                max(-1.0, min(1.0, score)),
                distance,
                item.product,
                item.category,
                item.metadata,
                box=view.box,
            )
            for rank, (item, (score, distance, view)) in enumerate(
                zip(self.items.at(best), map(found.__getitem__, best), strict=True), start=1
            )
        ]

    def _answered(
        self, data: bytes, views: Sequence[View], k: int, conditions: dict[str, Any], *, rerank: bool
    ) -> list[Hit]:
        """Do `search_views`, and compare points where that is asked for; `data` is the file of the query."""
        hits = self.search_views(views, max(k, CANDIDATES) if rerank and k > 0 else k, **conditions)
        return self._reranked(data, hits)[:k] if rerank else hits

    def _reranked(self, data: bytes, hits: list[Hit]) -> list[Hit]:
        photo = open_photo(data, self.manifest.policy)
        if photo is None:
            return hits
        contents = self.items.contents(hit.path for hit in hits)
        return [hit for hit, _ in rerank_hits(self.directory, self.manifest, contents, photo, hits)]

    def drawn_matches(self, picture: str | os.PathLike[str], hit: Hit) -> Pixels | None:
        """Draw which points of a picture lie in a hit as they do in one plane.

        Args:
            picture: File name of the query.
            hit: Of it, with inliers.

        Returns:
            RGB, uint8: what was looked at of the query on the left, the hit on the right, and lines between them. None
            where there is nothing to draw.

        Raises:
            PictureError: The picture cannot be used.
        """
        if not hit.inliers:
            return None
        photo = open_photo(self._read(picture), self.manifest.policy)
        content = self.items.contents([hit.path]).get(hit.path, b"")
        candidate = as_indexed(self.manifest, hit.path, content)
        if photo is None or candidate is None:
            return None
        part = part_of(photo, hit.box)
        return draw_matches(part, candidate, prove(find_points(part), find_points(candidate)))

    def _checked_rows(self, rows: Rows | Sequence[int]) -> Rows:
        """Refuse rows that the arrays do not have: the files do not belong together."""
        checked = np.asarray(rows, np.int64)
        if len(checked) and not 0 <= checked.min() <= checked.max() < self.manifest.count:
            raise DamagedIndexError(f"{self._file(store.ITEMS)} is damaged: it names rows that are not there")
        return checked

    def _file(self, name: str) -> Path:
        return self.directory / self.manifest.folder / name

    def _begin_checks(self, *names: str) -> None:
        """Begin to compare whole files with their sha256, in a thread: no answer leaves before that is done."""
        for name in names:
            if name not in self._checks:
                expected = self.manifest.files.get(f"{self.manifest.folder}/{name}")
                check = partial(store.check_opened, self._opened[name], self._file(name), expected)
                self._checks[name] = self._checker.submit(check)

    def _require_whole(self, *names: str) -> None:
        """Wait for the comparison of files, and raise DamagedIndexError if one was changed."""
        self._begin_checks(*names)
        for name in names:
            self._checks[name].result()

    def _opened_projection(self) -> Projection | None:
        if not self.manifest.projection_count:
            return None
        store.check_content(self.directory, self.manifest, f"{self.manifest.folder}/{store.PROJECTION}")
        path = self._file(store.PROJECTION)
        return Projection.load(str(path), self.manifest.encoder.dims, self.manifest.dims)

    def _opened_backend(self) -> Backend:
        if self._backend is None and self._backend_file is None:
            self._backend = ExactBackend(self._vectors)
        if self._backend is None:
            assert self.manifest.backend is not None
            assert self._backend_file is not None
            self._require_whole(self._backend_file)
            try:
                self._file(self._backend_file).stat()
                self._backend = self.backend(self.manifest.backend.effort)
            except FileNotFoundError:
                # It was there when we opened: two newer generations have been published since. We have the vectors.
                self._backend = ExactBackend(self._vectors)
        return self._backend
