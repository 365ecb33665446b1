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

from imgsearch.encoders.export import exported_files
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings, Encoder, encode, open_encoder
from imgsearch.errors import DamagedIndexError, NoIndexError, PictureError, UsageError
from imgsearch.images.decode import Pixels, read_file
from imgsearch.images.policy import MAX_BYTES
from imgsearch.images.steps import Steps
from imgsearch.images.workers import decode_and_fit_guarded
from imgsearch.index import store
from imgsearch.index.arrays import open_array
from imgsearch.index.backends import Backend, ExactBackend, Rows, open_backend, scores_of
from imgsearch.index.disk import open_regular
from imgsearch.index.items import Items
from imgsearch.index.manifest import Manifest


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
    """

    rank: int
    path: str
    score: float
    distance: float
    product: str
    category: str
    metadata: dict[str, Any]
    probability: float | None = None


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
        self._encoder: Encoder | None = None
        self._backend: Backend | None = None
        # There is neither a forest nor a list of nothing.
        assert manifest.backend is not None
        self._backend_file = store.BACKEND_FILES.get(manifest.backend.name) if manifest.count else None
        names = (store.VECTORS, store.ITEMS) + ((self._backend_file,) if self._backend_file else ())
        with contextlib.ExitStack() as opened:
            files = {name: opened.enter_context(open_regular(self._file(name))) for name in names}
            self._vectors = open_array(self._file(store.VECTORS), manifest.count, manifest.dims)
            self._projection = self._opened_projection()
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
    ) -> list[Hit]:
        """Find the catalogue pictures most similar to a picture.

        Args:
            picture: File name.
            k: How many to return at most; at least 1.
            where: SQL expression over path, product, category and metadata that hits must satisfy.
            min_score: Leave out hits below this cosine.
            min_probability: Leave out hits whose probability of being right is lower.
            exact: Compare with every vector, whatever the backend.

        Returns:
            Hits, best first; equal scores in the order of their paths.

        Raises:
            PictureError: The picture cannot be used.
            UsageError: `k` or `where` makes no sense, or there are no probabilities to be the least of.
            DamagedIndexError: A file of the index is damaged.
        """
        searched = (self._backend_file,) if self._backend_file and not (where or exact) else ()
        self._begin_checks(store.ITEMS, store.VECTORS, *searched)  # while the encoder starts
        vector = self.vector_of(picture)
        return self.search_vector(
            vector, k, where=where, min_score=min_score, min_probability=min_probability, exact=exact
        )

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
        data = self._read(picture)
        row = self._row_of(data)
        if row is not None:
            self._require_whole(store.ITEMS, store.VECTORS)
            return np.array(self._vectors[row])
        spec = self.manifest.encoder
        steps = Steps.parse(spec.steps)
        pixels = decode_and_fit_guarded(data, spec.size, spec.fit, self.manifest.policy, steps=steps)
        embedding = encode(self._opened_encoder(), pixels[None])
        if not np.isfinite(embedding).all():
            raise PictureError("bad_embedding", "the encoder found nothing in this picture")
        projected = self._projection.apply(embedding) if self._projection else embedding
        return np.asarray(projected[0])

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
        for embedding in self._checked_encoder(for_one=False).encode_stream(squares):
            yield self._projection.apply(embedding) if self._projection else embedding

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
        hits = self.search_with(backend, vector, k, min_score=min_score, filtered=bool(where))
        if min_probability is None:
            return hits
        return [hit for hit in hits if hit.probability is not None and hit.probability >= min_probability]

    def search_with(
        self,
        backend: Backend,
        vector: Embeddings,
        k: int,
        *,
        min_score: float | None = None,
        filtered: bool = False,
    ) -> list[Hit]:
        """Find what a backend proposes, scored exactly.

        Args:
            backend: Of the vectors of this index.
            vector: As for `search_vector`.
            k: As for `search`.
            min_score: As for `search`.
            filtered: Whether the backend leaves items out, of which one may have a better score.

        Raises:
            DamagedIndexError: A file of the index is damaged.
        """
        rows = self._checked_rows(backend.candidates(vector, min(k, self.manifest.count)))
        hits = self._hits(rows, vector, k, min_score)
        if self.manifest.calibration is None or not hits:
            return hits
        # Compared with everything: a filtered query needs no library, and must not come to need one.
        is_first = not filtered or hits[0].score >= self.search_vector(vector, 1, exact=True)[0].score
        probabilities = self.manifest.calibration.of_answer([hit.score for hit in hits], is_first=is_first)
        return [replace(hit, probability=each) for hit, each in zip(hits, probabilities, strict=True)]

    def _hits(self, rows: Rows, vector: Embeddings, k: int, min_score: float | None) -> list[Hit]:
        """Score candidates exactly, and say what they are."""
        self._require_whole(store.VECTORS, store.ITEMS)
        candidates = self._vectors[rows]
        scores = scores_of(candidates, vector)
        if not np.isfinite(scores).all():
            raise DamagedIndexError(f"{self._file(store.VECTORS)} is damaged: not a number where a score should be")
        best = np.lexsort((rows, -scores))[:k]
        if min_score is not None:
            best = best[scores[best] >= min_score]
        distances = np.linalg.norm(candidates[best] - vector, axis=1)
        items = self.items.at([int(row) for row in rows[best]])
        return [
            Hit(
                rank,
                item.path,
                # Rounding of unit vectors may lead just past the ends of what a cosine can be.
                max(-1.0, min(1.0, float(score))),
                float(distance),
                item.product,
                item.category,
                item.metadata,
            )
            for rank, (item, score, distance) in enumerate(zip(items, scores[best], distances, strict=True), start=1)
        ]

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

    def _opened_encoder(self) -> Encoder:
        if self._encoder is None:
            self._encoder = self._checked_encoder(for_one=True)
        return self._encoder

    def _checked_encoder(self, *, for_one: bool) -> Encoder:
        folder = self.manifest.encoder_folder
        for name in exported_files(self.manifest.encoder):
            store.check_truth(self.directory, self.manifest, f"{folder}/{name}")
        return open_encoder(self.manifest.encoder, self.directory / folder, for_one=for_one)

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
