"""Open an index and search it."""

import contextlib
import logging
import math
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, Self

from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError, ImageError, NoIndexError, UsageError, require_between
from imgsearch.files import as_path, read_error
from imgsearch.images.boxes import Box
from imgsearch.search.fusion import UNWANTED_WEIGHT, Fuse, mean_view, take_away
from imgsearch.search.hits import CANDIDATES, NO_FILTER, Filter, Hit, ObjectHits
from imgsearch.search.nearest import Nearest
from imgsearch.search.ranking import TEXT_WEIGHT, by_both, by_pictures, less_pictures
from imgsearch.search.search import Search
from imgsearch.search.views import Indexed, QueryImage, Regions, View
from imgsearch.search.words import WordSearch
from imgsearch.store import generations, integrity
from imgsearch.store.info import IndexInfo
from imgsearch.store.lifetime import Lifetime
from imgsearch.store.manifest import Manifest
from imgsearch.system import require_address_space

if TYPE_CHECKING:
    from imgsearch.search.viewer import Viewer

logger = logging.getLogger(__name__)

# A file name, or what `QueryImage` has read, to use its pixels again.
Image = str | os.PathLike[str] | QueryImage

# Called with the vectors of a query, before it is compared; what it returns is compared instead.
Refine = Callable[[Sequence[View]], Sequence[View]]
# Called with the hits that `rerank` has compared with the query, or tried to (see `hits.rerank_state`).
Compared = Callable[[Sequence[Hit]], object]
Fallback = Literal["exact"]

# Each image of a product is compared with the index by itself.
_MOST_OF_A_PRODUCT = 1000


# Of address space, for OpenCV and its threads, which crash where they cannot have it.
_OPENCV_BYTES = 340_000_000


class Order(Protocol):
    """Orders hits by more than their scores; see `personal.ranking.order`."""

    @property
    def candidates(self) -> int:
        """How many hits it is to see at least, where there are as many, however few are wanted."""

    def __call__(self, hits: Sequence[Hit], views: Sequence[View]) -> list[Hit]:
        """Bring hits into another order.

        Args:
            hits: Those of the answer, filtered and distinct.
            views: What they were compared with; none for words alone.

        Returns:
            The same hits, with ranks from 1.
        """
        ...


class Index:
    """One published generation of an index; it stays the same while the index is rebuilt.

    Open it with `Index.open`; it is a context manager. Any number of threads may use it at once, and close it: what
    others are doing then ends with its result, or with the `UsageError` that every later call raises.

    Attributes:
        directory: The index directory.
        manifest: What is published there.
        items: The images in it.
        nearest: Its vectors and backend, for code that asks for more than hits.
        words: Ranks its items by words, likewise.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, *, for_many: bool = False, fallback: Fallback | None = None
    ) -> None:
        self.directory = directory
        self.manifest = manifest
        self._for_many = for_many
        self._projection = open_projection(directory, manifest)
        self.nearest = Nearest(directory, manifest, falls_back=fallback is not None)
        self.items = self.nearest.items
        self._lifetime = Lifetime()
        self._viewers: list[Viewer] = []  # one, once it was needed
        self.words = WordSearch(directory, self.nearest)
        self._has_warned = False

    @classmethod
    def open(
        cls, directory: str | os.PathLike[str], *, for_many: bool = False, fallback: Fallback | None = None
    ) -> "Index":
        """Open the published generation, reading little: vectors are mapped, the encoder waits for a query.

        Args:
            directory: The index.
            for_many: Compile the encoder for as many queries a second as there can be, from as many threads as
                there are processors, rather than for a single query that is to be answered soon.
            fallback: What is done where the backend is a server that does not answer: `exact` compares with every
                vector, and logs a warning. None: searches raise `ServerError`.

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
                return cls(path, manifest, for_many=for_many, fallback=fallback)
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
        if self._lifetime.end():
            for viewer in self._viewers:
                viewer.close()
        self.words.close()
        self.nearest.close()

    @property
    def viewer(self) -> "Viewer":
        """Its encoder and detector, for code that asks for more than hits."""
        with self._lifetime.locked():
            if not self._viewers:
                require_address_space(_OPENCV_BYTES, "OpenCV")
                # What decodes and embeds images takes as long to import as all else: what is indexed needs none of it.
                from imgsearch.search.viewer import Viewer

                self._viewers.append(Viewer(self.directory, self.manifest, self._projection, for_many=self._for_many))
            return self._viewers[0]

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
        compared: Compared | None = None,
        diverse: float | None = None,
        refine: Refine | None = None,
        order: Order | None = None,
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
            compared: Called with the hits that were compared in this way, for `hits.rerank_state`.
            diverse: Choose hits that are not like one another: how much the score counts, 0 to 1, against the
                likeness to hits before it; 1 leaves the hits as they are. See `search.diversity`.
            refine: Called with the vectors of the query, before it is compared; what it returns is compared instead.
            order: Orders what was found, with `rerank` what that has ordered; scores and probabilities stay what they
                are.

        Returns:
            Hits, best first; equal scores in the order of their paths. An item has the best score of all parts. The
            first is the best also with `diverse`, but scores may rise after it.

        Raises:
            ImageError: The image cannot be used.
            UsageError: `k`, `filter`, `regions`, `box` or `diverse` makes no sense, or the index is closed.
            DamagedIndexError: A file of the index is damaged.
            MissingComponentError: The encoder, the detector or the backend does not run on this machine.
            ResourceError: As for `open`.
        """
        search = self._search(k, filter, exact=exact, distinct=distinct, rerank=rerank, diverse=diverse, order=order)
        query = as_query(image, self.manifest)
        views = _refined(search.views_of(query, lambda: self.viewer, regions, box), refine)
        hits = search.hits(views)
        if rerank:
            hits = self._reranked(hits, query, compared)
        return _ordered(hits, views, order)[:k]

    def search_item(
        self,
        name: str,
        k: int = 5,
        *,
        filter: Filter = NO_FILTER,  # noqa: A002  # the field's word
        exact: bool = False,
        distinct: str = "",
        diverse: float | None = None,
        refine: Refine | None = None,
        order: Order | None = None,
    ) -> list[Hit]:
        """Find what is most similar to something in the index; no image is read, and nothing embedded.

        Args:
            name: Path of an image below the catalog, absolute or with `./` too, or else a product, which asks with
                all of its images: an item has the best score that any of them gives.
            k: As for `search`, like all others.
            filter: What hits must satisfy.
            exact: Compare with every vector.
            distinct: Name of a column: only the best hit for each of its values.
            diverse: Choose hits that are not like one another.
            refine: Called with the vectors that are asked with.
            order: Orders what was found.

        Returns:
            Hits, best first, without what was asked with.

        Raises:
            UsageError: There is no such image or product; or as for `search`.
            DamagedIndexError, MissingComponentError, ResourceError: As for `search`.
        """
        return self.search_together(
            [Indexed(name)],
            k,
            filter=filter,
            exact=exact,
            distinct=distinct,
            diverse=diverse,
            refine=refine,
            order=order,
        )

    def search_together(
        self,
        asked: Sequence[Image | Indexed] = (),
        k: int = 5,
        *,
        text: Sequence[str] = (),
        text_weight: float = TEXT_WEIGHT,
        fuse: Fuse = "max",
        weights: Sequence[float] = (),
        without: Sequence[Image | Indexed | View] = (),
        without_text: Sequence[str] = (),
        filter: Filter = NO_FILTER,  # noqa: A002  # the field's word
        exact: bool = False,
        distinct: str = "",
        regions: Regions = "auto",
        diverse: float | None = None,
        refine: Refine | None = None,
        order: Order | None = None,
    ) -> list[Hit]:
        """Find what is most similar to several images at once, to words, to both, or to some and not to others.

        Args:
            asked: Files, and `Indexed` for what is in the index; none with words alone.
            k: As for `search`.
            text: What hits should be about, in words, all of them together.
            text_weight: How much words count beside images, 0 to 1.
            fuse: `max`: an item has the best score that any of the images gives. `mean`: that with the mean of their
                vectors, of a photo the one that finds the nearest item.
            weights: How much each of `asked` counts in that mean, above 0; by default all count 1.
            without: What hits should not look like: a quarter of the mean of these vectors is subtracted
                (`fusion.UNWANTED_WEIGHT`). `views` makes them once for many searches.
            without_text: What hits should not be about, in words, subtracted likewise.
            filter: As for `search`, like all others.
            exact: Compare with every vector; with words that is always done.
            distinct: Name of a column: only the best hit for each of its values.
            regions: Which parts of photos to compare.
            diverse: Choose hits that are not like one another.
            refine: Called with the vectors of what is asked with, or with their mean; not for words alone.
            order: Orders what was found; its `views` are these vectors, less what is taken away.

        Returns:
            Hits, best first, without what is `Indexed` and without items that are taken away. With words alone only
            items that these say something about.

        Raises:
            ImageError: An image cannot be used; the message names it.
            UsageError: Nothing is asked with, the index has no such image or product, or nothing is left to search
                with; or as for `search`.
            DamagedIndexError, MissingComponentError, ResourceError: As for `search`.
        """
        _require_question(asked, text, without_text, text_weight, fuse, weights)
        unwanted = [view for each in without for view in ([each] if isinstance(each, View) else self.views(each))]
        own = {name: self._views_of_item(name) for name in asked if isinstance(name, Indexed)}
        taken = [view for views in (unwanted, *own.values()) for view in views]
        left_out = {view.row for view in taken if view.row is not None}
        with_words = bool(text or without_text)
        search = self._search(
            k,
            filter,
            exact=exact or with_words,
            distinct=distinct,
            diverse=diverse,
            order=order,
            left_out=left_out,
            pictures=bool(asked or without),
            words=with_words,
        )
        words = self.words.ranking(text, without_text) if with_words else None
        views: list[View] = []
        counted: list[float] = []
        for each, weight in zip(asked, weights or [1.0] * len(asked), strict=True):
            if isinstance(each, Indexed):
                found = own[each]
            else:
                with _naming(each, if_wanted=len(asked) > 1):
                    found = self._views_of_image(search, each, regions)
            found = found if fuse == "max" or isinstance(each, Indexed) else [search.best_view(found)]
            views += found
            counted += [weight] * len(found)
        if views and fuse == "mean":
            views = [mean_view(views, counted)]
        if views:
            views = take_away(_refined(views, refine), unwanted)
        ranking = words
        if words is not None and views:
            ranking = by_both(by_pictures(self.nearest.vectors, views), words, text_weight)
        elif words is not None and unwanted:
            away = by_pictures(self.nearest.vectors, [mean_view(unwanted)])
            ranking = less_pictures(words, away, UNWANTED_WEIGHT)
        return _ordered(search.hits(views if ranking is None else ranking), views, order)[:k]

    def views(self, asked: Image | Indexed) -> list[View]:
        """Return one vector that stands for an image, or one each for the images of what is in the index.

        Raises:
            ImageError, UsageError, DamagedIndexError, MissingComponentError, ResourceError: As for `search_together`.
        """
        if isinstance(asked, Indexed):
            return self._views_of_item(asked)
        search = self._search(1, NO_FILTER, exact=True)  # a filtered query must not come to need a library
        with _naming(asked):
            return [search.best_view(self._views_of_image(search, asked, "auto"))]

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
        compared: Compared | None = None,
        diverse: float | None = None,
        refine: Refine | None = None,
        order: Order | None = None,
    ) -> list[ObjectHits]:
        """Search for each item in an image by itself, with at most `k` hits each.

        Items are what stands alone on a plain background; on others what the detector finds; without one, what stands
        out from the edge. `refine`, `compared` and `order` are called for each.

        Returns:
            In reading order; none where no item was found.

        Raises:
            ImageError, UsageError, DamagedIndexError: As for `search`.
        """
        search = self._search(k, filter, exact=exact, distinct=distinct, rerank=rerank, diverse=diverse, order=order)
        query = as_query(image, self.manifest)
        found = []
        for each in self.viewer.objects(query):
            views = _refined(each.views, refine)
            hits = search.hits(views)
            if rerank:
                hits = self._reranked(hits, query, compared)
            found.append(ObjectHits(each.box, each.score, _ordered(hits, views, order)[:k]))
        return found

    def plan(self, *, filter: Filter = NO_FILTER, exact: bool = False) -> str:  # noqa: A002  # the field's word
        """Name the backend that answers a query, such as `annoy`; `exact` for a filter that few items pass."""
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
        distinct: str = "",
        rerank: bool = False,
        diverse: float | None = None,
        order: Order | None = None,
        left_out: Collection[int] = (),
        pictures: bool = True,
        words: bool = False,
    ) -> Search:
        if k < 1:
            raise UsageError(f"k must be at least 1, got {k}")
        if diverse is not None:
            require_between("diverse", diverse, 0, 1)
            if rerank or order is not None:
                other = "rerank" if rerank else "order"
                raise UsageError(f"{other} and diverse cannot be combined", hint="each says which hit comes first")
        # While the encoder starts.
        self.nearest.begin_checks(filter.conditions, exact=exact, pictures=pictures, words=words)
        wanted = max(k, CANDIDATES if rerank else 0, 0 if order is None else order.candidates)
        return Search(self.nearest, wanted, filter, exact=exact, distinct=distinct, diverse=diverse, left_out=left_out)

    def _views_of_image(self, search: Search, image: Image, regions: Regions) -> list[View]:
        return search.views_of(as_query(image, self.manifest), lambda: self.viewer, regions)

    def _views_of_item(self, asked: Indexed) -> list[View]:
        rows = self.nearest.rows_named(asked.name)
        if len(rows) > _MOST_OF_A_PRODUCT:
            raise UsageError(
                f"the product {asked.name!r} has {len(rows)} images, more than the {_MOST_OF_A_PRODUCT} that may ask",
                hint="ask with one of its images, by its path",
            )
        return self.nearest.views_at(rows)

    def _reranked(self, hits: Sequence[Hit], query: QueryImage, compared: Compared | None) -> list[Hit]:
        """Put first those of the first hits that have points in common with a query."""
        reason = "a query of this kind cannot be compared"
        if query.photo is not None:
            from imgsearch.search.rerank import rerank_hits

            hits = rerank_hits(self.manifest, self.items, query.photo, hits)
            reason = f"their images cannot be read in {self.manifest.catalog} as they were indexed"
        self._warn_of_uncompared(hits[:CANDIDATES], reason)
        if compared is not None:
            compared(hits[:CANDIDATES])
        return list(hits)

    def _warn_of_uncompared(self, candidates: Sequence[Hit], reason: str) -> None:
        """Say, once for an index, that hits keep the places they had before re-ranking."""
        count = sum(hit.inliers is None for hit in candidates)
        if count and not self._has_warned:
            self._has_warned = True
            logger.warning("%d of %d hits were not re-ranked: %s", count, len(candidates), reason)


def _require_question(
    asked: Sequence[object],
    text: Sequence[str],
    without_text: Sequence[str],
    text_weight: float,
    fuse: Fuse,
    weights: Sequence[float],
) -> None:
    """Raise `UsageError` for a question to `search_together` that makes no sense."""
    if not (asked or text):
        raise UsageError("expected an image, an item or words to search with, found none")
    if isinstance(text, str) or isinstance(without_text, str):  # which is a sequence of texts, too: its letters
        raise UsageError("expected a list of texts, found one text", hint="put it into brackets: text=['red dress']")
    if not all(each.strip() for each in (*text, *without_text)):
        raise UsageError("expected words, found nothing", hint="is a variable not set?")
    require_between("text_weight", text_weight, 0, 1)
    if weights and fuse != "mean":
        raise UsageError("weights are for a mean", hint="fuse by the mean")
    if weights and (len(weights) != len(asked) or not all(0 < weight < math.inf for weight in weights)):
        raise UsageError(f"expected {len(asked)} weights above 0, got {list(weights)}")


def _refined(views: Sequence[View], refine: Refine | None) -> Sequence[View]:
    return views if refine is None else refine(views)


def _ordered(hits: list[Hit], views: Sequence[View], order: Order | None) -> list[Hit]:
    return hits if order is None else order(hits, views)


def as_query(image: Image, manifest: Manifest) -> QueryImage:
    """Read an image unless it has been read."""
    return image if isinstance(image, QueryImage) else QueryImage.read(image, manifest.policy)


@contextlib.contextmanager
def _naming(image: Image, *, if_wanted: bool = True) -> Iterator[None]:
    """Have an `ImageError` say which of several images it is about."""
    try:
        yield
    except ImageError as error:
        if not if_wanted:
            raise
        name = image.path if isinstance(image, QueryImage) else os.fspath(image)
        raise ImageError(error.cause, f"{name}: {error.message}", hint=error.hint) from error


def open_projection(directory: Path, manifest: Manifest) -> Projection | None:
    """Read what brings embeddings into the searched space, if they are projected; its sha256 is checked."""
    if not manifest.projection_count:
        return None
    name = f"{manifest.folder}/{generations.PROJECTION}"
    integrity.check_content(directory, manifest, name)
    return Projection.load(str(directory / name), manifest.encoder.dims, manifest.dims)
