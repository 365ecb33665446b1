"""Open an index and search it."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError, NoIndexError, UsageError
from imgsearch.files import as_path, read_error
from imgsearch.images.boxes import Box
from imgsearch.search.hits import NO_FILTER, Filter, Hit, ObjectHits
from imgsearch.search.nearest import Nearest, Search
from imgsearch.search.rerank import CANDIDATES, rerank_hits
from imgsearch.search.views import QueryImage, Regions, View, Viewer
from imgsearch.store import generations, integrity
from imgsearch.store.info import IndexInfo
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)

# A file name, or what `QueryImage` has read, to use its pixels again.
Image = str | os.PathLike[str] | QueryImage


class Index:
    """One published generation of an index; it stays the same while the index is rebuilt.

    Open it with `Index.open`; it is a context manager. Any number of threads may use it at once, and close it: what
    others are doing then ends with its result, or with the `UsageError` that every later call raises.

    Attributes:
        directory: The index directory.
        manifest: What is published there.
        items: The images in it.
        nearest: Its vectors and backend, for code that asks for more than hits.
        viewer: Its encoder and detector, likewise.
    """

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        self.directory = directory
        self.manifest = manifest
        self.viewer = Viewer(directory, manifest)
        self.nearest = Nearest(directory, manifest)
        self.items = self.nearest.items
        self._has_warned = False

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> "Index":
        """Open the published generation, reading little: vectors are mapped, the encoder waits for a query.

        Args:
            directory: The index.

        Raises:
            NoIndexError: There is none, or only embeddings.
            DamagedIndexError: A file is missing or damaged, or the format is newer.
            ResourceError: The system does not let a file be read, or has too little memory or open files.
        """
        path = as_path(directory)
        attempts = 3  # a writer may sweep the generation after we read the manifest and before we open its files
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
                    hint = integrity.repair_hint(os.fspath(error.filename))
                    raise DamagedIndexError(f"{error.filename} is missing", hint=hint) from error
            except OSError as error:
                file = Path(error.filename or path)
                raise read_error(error, file, integrity.repair_hint(file.name)) from error

    def __len__(self) -> int:
        return self.manifest.count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files; the maps go with the last reference."""
        self.viewer.close()
        self.nearest.close()

    def search(
        self,
        image: Image,
        k: int = 5,
        *,
        filter: Filter = NO_FILTER,  # noqa: A002  # the field's word
        exact: bool = False,
        distinct: str = "",
        regions: Regions = "auto",
        box: Box | None = None,
        rerank: bool = False,
    ) -> list[Hit]:
        """Find the catalog images most similar to an image, or to an item in it.

        Args:
            image: File name.
            k: How many hits at most; at least 1.
            filter: What hits must satisfy.
            exact: Compare with every vector, whatever the backend.
            distinct: Name of a column, such as `product`: only the best hit for each of its values, and `k` counts
                these. What has no value stands alone.
            regions: Which parts to compare beside the whole image: `auto` what stands out, unless the image is that of
                a product on a plain background, or one item is far ahead already; `whole` none; a number so many.
            box: The only part of the image to compare, in its pixels, upright.
            rerank: Compare points of the image with those of the first 20 hits, and put first what has the same
                points in the same places; see `regions.geometric`. Scores and probabilities stay what they are. A hit
                whose image cannot be read keeps its place, and has no `inliers`.

        Returns:
            Hits, best first; equal scores in the order of their paths. An item has the best score of all parts.

        Raises:
            ImageError: The image cannot be used.
            UsageError: `k`, `filter`, `regions` or `box` makes no sense, or the index is closed.
            DamagedIndexError: A file of the index is damaged.
            MissingComponentError: The encoder, the detector or the backend does not run on this machine.
            ResourceError: As for `open`.
        """
        search = self._search(k, filter, exact=exact, distinct=distinct, rerank=rerank)
        query = as_query(image, self.manifest)
        return self._hits(search, search.views_of(query, self.viewer, regions, box), k, query if rerank else None)

    def search_vector(
        self,
        vector: Embeddings,
        k: int = 5,
        *,
        filter: Filter = NO_FILTER,  # noqa: A002  # the field's word
        exact: bool = False,
        distinct: str = "",
    ) -> list[Hit]:
        """Find the catalog images nearest to a vector of the searched space: unit float32 (d,).

        Raises:
            UsageError, DamagedIndexError: As for `search`.
        """
        return self._search(k, filter, exact=exact, distinct=distinct).hits([View(vector)])

    def search_objects(
        self,
        image: Image,
        k: int = 5,
        *,
        filter: Filter = NO_FILTER,  # noqa: A002  # the field's word
        exact: bool = False,
        distinct: str = "",
        rerank: bool = False,
    ) -> list[ObjectHits]:
        """Search for each item in an image by itself, with at most `k` hits each.

        Items are what stands alone on a plain background; on others what the detector finds; without one, what stands
        out from the edge.

        Returns:
            In reading order; none where no item was found.

        Raises:
            ImageError, UsageError, DamagedIndexError: As for `search`.
        """
        search = self._search(k, filter, exact=exact, distinct=distinct, rerank=rerank)
        query = as_query(image, self.manifest)
        return [
            ObjectHits(each.box, each.score, self._hits(search, each.views, k, query if rerank else None))
            for each in self.viewer.objects(query)
        ]

    def plan(self, *, filter: Filter = NO_FILTER, exact: bool = False) -> str:  # noqa: A002  # the field's word
        """Name the backend that answers a query: `annoy`, `faiss` or `exact`, as for a filter that few items pass."""
        return self.nearest.plan(filter.conditions, exact=exact)

    def info(self) -> IndexInfo:
        """Return what the index holds and how it was built, as `imgsearch info` prints it."""
        return IndexInfo(self.manifest)

    def _search(
        self,
        k: int,
        filter: Filter,  # noqa: A002
        *,
        exact: bool,
        distinct: str,
        rerank: bool = False,
    ) -> Search:
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        self.nearest.begin_checks(filter.conditions, exact=exact)  # while the encoder starts
        return Search(self.nearest, max(k, CANDIDATES) if rerank else k, filter, exact=exact, distinct=distinct)

    def _hits(self, search: Search, views: Sequence[View], k: int, compared: QueryImage | None) -> list[Hit]:
        """Find hits, and put first those that have points in common with a query, if one is given."""
        hits = search.hits(views)
        if compared is not None:
            reason = "a query of this kind cannot be compared"
            if compared.photo is not None:
                hits = rerank_hits(self.manifest, self.items, compared.photo, hits)
                reason = f"their images cannot be read in {self.manifest.catalog} as they were indexed"
            self._warn_of_uncompared(hits[:CANDIDATES], reason)
        return hits[:k]

    def _warn_of_uncompared(self, candidates: Sequence[Hit], reason: str) -> None:
        """Say, once for an index, that hits keep the places they had before re-ranking."""
        count = sum(hit.inliers is None for hit in candidates)
        if count and not self._has_warned:
            self._has_warned = True
            logger.warning("%d of %d hits were not re-ranked: %s", count, len(candidates), reason)


def as_query(image: Image, manifest: Manifest) -> QueryImage:
    """Read an image unless it has been read."""
    return image if isinstance(image, QueryImage) else QueryImage.read(image, manifest.policy)
