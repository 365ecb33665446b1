"""What a query is looked at as: the whole image, and regions of it, each a vector of the searched space."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from imgsearch.encoders.export import exported_files
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import GRAPH_FILE, Embeddings, Encoder, encode, encode_with_features, open_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import BoxError, ImageError, MissingComponentError, UsageError
from imgsearch.images.boxes import Box, in_reading_order, stretched
from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import has_plain_background, items_on_plain_background
from imgsearch.images.photo import Photo, open_photo
from imgsearch.images.steps import Steps
from imgsearch.images.transform import fit
from imgsearch.images.workers.decoders import apply_steps_and_fit, decode_and_fit_guarded
from imgsearch.regions.detections import Detection, found
from imgsearch.regions.detector import Detected, Detector
from imgsearch.regions.propose import (
    Proposal,
    Region,
    crop_and_cutout,
    detected_items,
    many_regions,
    of_photo,
    parts,
    salient,
)
from imgsearch.regions.salience import LEVEL
from imgsearch.store import integrity
from imgsearch.store.manifest import Manifest

# `auto`: regions of what is no plain product image; `whole`: none; a number: so many, of any image.
Regions = Literal["auto", "whole"] | int

MOST_REGIONS = 200

# A plane for where all may be item.
_ANYWHERE = np.ones((1, 1), np.float32)

# More images at once would take memory that a query does not need.
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A look at a query.

    Attributes:
        vector: Unit float32 (d,), in the searched space.
        box: What of the image it shows, in pixels of the file, upright; None for all of it.
        row: The item of which it is the very image; None if it is another's, or of none.
    """

    vector: Embeddings
    box: Box | None = None
    row: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DetectedObject:
    """An item in a query.

    Attributes:
        box: Where, in pixels of the file, upright.
        score: How sure the detector is, 0 to 1; None without one.
        views: Looks at it, at least one.
    """

    box: Box
    score: float | None
    views: list[View]


# Asked after each look but the last, with all that were usable, at least one: whether another can be spared.
StopWhen = Callable[[Sequence[View]], bool]


def keep_looking(_views: Sequence[View]) -> bool:
    """Look at all there is."""
    return False


def require_regions(regions: Regions) -> None:
    """Refuse what names no regions.

    Raises:
        UsageError: It is neither a word that is known nor a number in range.
    """
    is_known = regions in ("auto", "whole") if isinstance(regions, str) else 1 <= regions <= MOST_REGIONS
    if not is_known:
        raise UsageError(f"expected regions to be auto, whole or 1 to {MOST_REGIONS}, found {regions!r}")


def embed_regions(regions: Sequence[Region], encoder: Encoder) -> Embeddings:
    """Embed parts of a photo, in one batch: float32 (n, D), as `Encoder.encode_stream` yields them."""
    spec = encoder.spec
    steps = Steps.parse(spec.steps)
    squares = [apply_steps_and_fit(region.pixels, spec.size, spec.fit, steps) for region in regions]
    return encode(encoder, np.stack(squares))


class Viewer:
    """Looks at queries with the encoder of an index, which is opened when it is first needed.

    Args:
        directory: The index.
        manifest: What is published there.
        projection: From embeddings to the searched space; None if that is the same.
    """

    def __init__(self, directory: Path, manifest: Manifest, projection: Projection | None) -> None:
        self._directory = directory
        self._manifest = manifest
        self._projection = projection
        self._steps = Steps.parse(manifest.encoder.steps)
        self._opener = ThreadPoolExecutor(1, "imgsearch-open")
        self._encoder: Future[Encoder] | None = None
        self._detector: Detector | None = None
        self._checked_folders: set[str] = set()

    def close(self) -> None:
        """Wait for what is being opened."""
        self._opener.shutdown()

    def whole(self, data: bytes) -> View:
        """Look at an image file as a whole.

        Raises:
            ImageError: The image cannot be used.
            DamagedIndexError: The encoder is damaged.
        """
        spec = self._manifest.encoder
        square = decode_and_fit_guarded(data, spec.size, spec.fit, self._manifest.policy, steps=self._steps)
        (view,) = self._require_any(self._usable(encode(self._opened_encoder(), square[None]), [None]))
        return view

    def views(
        self, data: bytes, regions: Regions = "auto", box: Box | None = None, stop_when: StopWhen = keep_looking
    ) -> list[View]:
        """Look at an image file as a whole, and at what may be an item in it.

        Args:
            data: The file.
            regions: How many regions to look at. `auto` is none for what stands on a plain background, as products in a
                catalog do.
            box: The only thing to be looked at, in pixels of the file, upright.
            stop_when: Ends what `auto` does.

        Returns:
            At least one; that of the whole image first, unless a box is given.

        Raises:
            ImageError: The image cannot be used.
            BoxError: The box does not lie in the image.
            UsageError: `regions` makes no sense.
            DamagedIndexError: The encoder is damaged.
        """
        require_regions(regions)
        if box is not None:
            return self._in_box(self._photo(data), box)
        photo = None if regions == "whole" else open_photo(data, self._manifest.policy)
        return [self.whole(data)] if photo is None else self.views_of_photo(photo, regions, stop_when)

    def views_of_photo(self, photo: Photo, regions: Regions, stop_when: StopWhen = keep_looking) -> list[View]:
        """Do `views` for a photo that is decoded.

        Args:
            photo: Any.
            regions: As for `views`.
            stop_when: As for `views`.
        """
        is_plain = has_plain_background(photo.pixels)
        if regions == "auto" and (is_plain or self._steps.moves):
            regions = "whole"
        if self._manifest.detector and regions != "whole":
            self._begin_encoder()
        embedding, proposal = self._look(photo, regions, is_plain=is_plain)
        views = self._usable(embedding[None], [None])
        if isinstance(regions, int):
            views += self._of_regions(photo, many_regions(photo.pixels, proposal, regions))
        elif proposal:
            shown = crop_and_cutout(photo.pixels, proposal.boxes[0], proposal.plane, proposal.item)
            for _ in range(2):
                if views and stop_when(views):
                    break
                views += self._of_regions(photo, list(itertools.islice(shown, 1)))
        return self._require_any(views)

    def detections(self, data: bytes, least_score: float) -> list[Detection]:
        """Say where items are in an image file.

        Args:
            data: The file.
            least_score: Of a box, 0 to 1.

        Returns:
            The surest first, in pixels of the file; none where there is no item.

        Raises:
            ImageError: The image cannot be used.
            MissingComponentError: The index has no detector.
            DamagedIndexError: The detector is damaged.
        """
        if self._manifest.detector is None:
            raise MissingComponentError(
                f"expected an index with a detector, found none in {self._directory}",
                hint="imgsearch train --objective detect makes one, and build-index --detector takes it",
            )
        photo = self._photo(data)
        detected = self._detected(photo)
        height, width = photo.size
        return found(detected.scores, detected.boxes, width, height, least_score=least_score)

    def objects(self, data: bytes) -> list[DetectedObject]:
        """Look at each item in an image file by itself.

        Items are what stands alone on a plain background; on others what the detector finds; without one, what stands
        out from the edge.

        Returns:
            In reading order; none where nothing was found.

        Raises:
            ImageError: The image cannot be used.
            DamagedIndexError: The encoder or the detector is damaged.
        """
        photo = self._photo(data)
        self._begin_encoder()
        height, width = photo.pixels.shape[:2]
        spec = self._manifest.encoder
        alone = items_on_plain_background(photo.pixels)
        if alone is not None:
            proposal = Proposal(_ANYWHERE, alone[:MOST_REGIONS])
            scores: list[float | None] = [None] * len(proposal.boxes)
        elif self._manifest.detector:
            detected = self._detected(photo)
            detections = found(detected.scores, detected.boxes, width, height)
            mask = of_photo(detected.mask, (height, width), spec.fit)
            proposal = Proposal(mask, [each.box for each in detections])
            scores = [each.score for each in detections]
        else:
            square = fit(photo.pixels, spec.size, spec.fit)
            seen = salient(photo.pixels, encode_with_features(self._opened_encoder(), square).features, spec.fit)
            if seen is None:
                return []
            proposal = Proposal(seen.plane, parts(seen.plane, LEVEL, (height, width)) or seen.boxes)
            scores = [None] * len(proposal.boxes)
        objects = []
        for box, score in in_reading_order(list(zip(proposal.boxes, scores, strict=True))):
            views = self._of_regions(photo, list(crop_and_cutout(photo.pixels, box, proposal.plane)))
            if views:
                objects.append(DetectedObject(stretched(box, (height, width), photo.size), score, views))
        return objects

    def _photo(self, data: bytes) -> Photo:
        photo = open_photo(data, self._manifest.policy)
        if photo is None:
            raise ImageError("too_large", "too large, or too odd, to look at parts of it")
        return photo

    def _detected(self, photo: Photo) -> Detected:
        detector = self._opened_detector()
        return detector.detect(fit(photo.pixels, detector.spec.size, detector.spec.fit))

    def embed(self, squares: Iterable[Pixels]) -> Iterator[Embeddings]:
        """Bring images into the searched space, many at once; see `Index.embed`."""
        encoder = open_encoder(self._manifest.encoder, self._encoder_folder())
        for embedding in encoder.encode_stream(squares):
            yield self._projected(embedding)

    def _look(self, photo: Photo, regions: Regions, *, is_plain: bool) -> tuple[Embeddings, Proposal | None]:
        """Look at the whole, and at where in it items are likely to be, if that is asked for and worth it."""
        spec = self._manifest.encoder
        square = apply_steps_and_fit(photo.pixels, spec.size, spec.fit, self._steps)
        # Of an image that was trimmed or turned, the square shows other places than the photo does.
        shows_photo = not (is_plain or self._steps.moves)
        if self._manifest.detector and shows_photo and regions != "whole":
            detected = self._opened_detector().detect(square)
            return detected.embedding, detected_items(detected, photo.pixels.shape[:2], spec.fit)
        seen = encode_with_features(self._opened_encoder(), square)
        features = seen.features if shows_photo else None
        # Without a map only colors could tell where items are. Encoders without one take the background away by
        # themselves, and find fewer items on plain backgrounds when they are shown parts (docs/benchmarks.md).
        if regions == "whole" or (regions == "auto" and features is None):
            return seen.embedding, None
        return seen.embedding, salient(photo.pixels, features, spec.fit)

    def _in_box(self, photo: Photo, box: Box) -> list[View]:
        height, width = photo.size
        if (
            min(box.x, box.y) < 0
            or min(box.width, box.height) < 1
            or box.x + box.width > width
            or box.y + box.height > height
        ):
            raise BoxError(
                f"expected a box within the image, which has {width} x {height} pixels,"
                f" found {box.x},{box.y},{box.width},{box.height}"
            )
        regions = crop_and_cutout(photo.pixels, stretched(box, photo.size, photo.pixels.shape[:2]), _ANYWHERE)
        return self._require_any([View(view.vector, box) for view in self._of_regions(photo, list(regions))])

    def _of_regions(self, photo: Photo, regions: Sequence[Region]) -> list[View]:
        views: list[View] = []
        for start in range(0, len(regions), _BATCH):
            some = regions[start : start + _BATCH]
            boxes = [stretched(region.box, photo.pixels.shape[:2], photo.size) for region in some]
            views += self._usable(embed_regions(some, self._opened_encoder()), boxes)
        return views

    def _usable(self, embeddings: Embeddings, boxes: Sequence[Box | None]) -> list[View]:
        """Bring what an encoder said into the searched space; leave out what it found nothing in."""
        vectors = self._projected(embeddings)
        return [View(vector, box) for vector, box in zip(vectors, boxes, strict=True) if np.isfinite(vector).all()]

    def _projected(self, embeddings: Embeddings) -> Embeddings:
        return self._projection.apply(embeddings) if self._projection else embeddings

    def _require_any(self, views: list[View]) -> list[View]:
        if not views:
            raise ImageError("bad_embedding", "the encoder found nothing in this image")
        return views

    def _begin_encoder(self) -> None:
        """Open the encoder while something else looks; where a detector does, nobody needs maps."""
        if self._encoder is None:
            spec, folder = self._manifest.encoder, self._encoder_folder()
            with_map = self._manifest.detector is None
            self._encoder = self._opener.submit(open_encoder, spec, folder, for_one=True, with_map=with_map)

    def _opened_encoder(self) -> Encoder:
        self._begin_encoder()
        assert self._encoder is not None
        return self._encoder.result()

    def _opened_detector(self) -> Detector:
        if self._detector is None:
            spec, folder = self._manifest.detector, self._manifest.detector_folder
            assert spec is not None
            self._require_whole(spec, folder)
            self._detector = Detector(spec, self._directory / folder / GRAPH_FILE)
        return self._detector

    def _encoder_folder(self) -> Path:
        """Say where the encoder is; its files are whole."""
        self._require_whole(self._manifest.encoder, self._manifest.encoder_folder)
        return self._directory / self._manifest.encoder_folder

    def _require_whole(self, spec: EncoderSpec, folder: str) -> None:
        if folder not in self._checked_folders:
            for name in exported_files(spec):
                integrity.check_truth(self._directory, self._manifest, f"{folder}/{name}")
            self._checked_folders.add(folder)
