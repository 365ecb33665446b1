"""Makes views of a query: embeds the whole image and regions of it."""

import itertools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsearch.encoders.export import exported_files
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import GRAPH_FILE, Embeddings, Encoder, encode, open_encoder
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import BoxError, DamagedIndexError, ImageError, MissingComponentError, UsageError
from imgsearch.images.boxes import Box, in_reading_order, stretched
from imgsearch.images.foreground import has_plain_background, items_on_plain_background
from imgsearch.images.photo import Photo
from imgsearch.images.steps import Steps
from imgsearch.images.transform import fit
from imgsearch.images.workers.decoders import apply_steps_and_fit, decode_and_fit_guarded
from imgsearch.regions.cut_out import Region, crop
from imgsearch.regions.detections import Detected, Detection, Detector, decode_detections
from imgsearch.regions.propose import (
    Proposal,
    connected_boxes,
    crop_and_cutout,
    propose_detected,
    propose_regions,
    propose_salient,
    without_padding,
)
from imgsearch.regions.salience import LEVEL, Plane
from imgsearch.search.once import Once
from imgsearch.search.views import MAX_REGIONS, Decoders, QueryImage, Regions, View, require_regions
from imgsearch.store import integrity
from imgsearch.store.lifetime import Lifetime
from imgsearch.store.manifest import Manifest

# A plane for where all may be item.
_ANYWHERE = np.ones((1, 1), np.float32)

# More images at once would take memory that a query does not need.
_BATCH = 16


@dataclass(frozen=True, slots=True, eq=False)
class DetectedObject:
    """An item in a query."""

    box: Box  # in pixels of the file, upright
    score: float | None  # how sure the detector is, 0 to 1; None without one
    views: list[View]  # at least one


# Called before each further view with those there are, at least one: whether they suffice.
StopWhen = Callable[[Sequence[View]], bool]


def embed_regions(regions: Sequence[Region], encoder: Encoder) -> Embeddings:
    """Embed parts of a photo, in one batch: float32 (n, D), as `Encoder.encode_stream` yields them."""
    spec = encoder.spec
    steps = Steps.parse(spec.steps)
    squares = [apply_steps_and_fit(region.pixels, spec.size, spec.fit, steps) for region in regions]
    return encode(encoder, np.stack(squares))


class Viewer:
    """Makes vectors of queries, with the encoder and the detector of an index, which are opened when first needed.

    They are compiled for the latency of one query, or for the throughput of many threads (`for_many`).
    """

    def __init__(
        self, directory: Path, manifest: Manifest, projection: Projection | None, *, for_many: bool = False
    ) -> None:
        self._directory = directory
        self._manifest = manifest
        self._projection = projection
        self._for_one = not for_many
        self._steps = Steps.parse(manifest.encoder.steps)
        self._lifetime = Lifetime()
        self._encoder = Once(self._lifetime, self._open_encoder)
        self._detector = Once(self._lifetime, self._open_detector)

    def close(self) -> None:
        """Wait for what is being opened."""
        if self._lifetime.end():
            self._encoder.wait()
            self._detector.wait()

    def whole(self, data: bytes, decoders: Decoders | None = None) -> View:
        """Embed an image file as a whole, decoded as builds do it: here, or by `decoders`."""
        if decoders is not None:
            square = decoders.square(data)
        else:
            spec = self._manifest.encoder
            square = decode_and_fit_guarded(data, spec.size, spec.fit, self._manifest.policy, steps=self._steps)
        (view,) = _require_any(self._usable(encode(self._encoder.result(), square[None]), [None]))
        return view

    def views(
        self, query: QueryImage, regions: Regions = "auto", box: Box | None = None, stop_when: StopWhen | None = None
    ) -> list[View]:
        """Embed a query as a whole, first, and what may be an item in it, until `stop_when`; or a box of it alone."""
        require_regions(regions)
        self._lifetime.require()
        if box is not None:
            photo = _require_photo(query)
            return _require_any([View(view.vector, box) for view in self.embed_box(photo, _in_photo(box, photo))])
        if regions == "whole" or query.photo is None:
            return [self.whole(query.data, query.decoders)]
        return self.views_of_photo(query.photo, regions, stop_when)

    def views_of_photo(self, photo: Photo, regions: Regions, stop_when: StopWhen | None = None) -> list[View]:
        """Do what `views` does for a photo that is decoded."""
        is_plain = has_plain_background(photo.pixels)
        if regions == "auto" and (is_plain or self._steps.moves):
            regions = "whole"
        if self._manifest.detector and regions != "whole":
            self._encoder.begin()  # while the detector works
        embedding, proposal = self._embed_and_propose(photo, regions, is_plain=is_plain)
        views = self._usable(embedding[None], [None])
        if isinstance(regions, int):
            views += self._embed_regions(photo, propose_regions(photo.pixels, proposal, regions))
        elif proposal:
            # One by one: to cut an item out takes longer than to encode it.
            parts = itertools.chain(
                crop_and_cutout(photo.pixels, proposal.boxes[0], proposal.plane, proposal.item),
                (Region(box, crop(photo.pixels, box)) for box in proposal.guesses),
            )
            while not (views and stop_when and stop_when(views)) and (part := next(parts, None)):
                views += self._embed_regions(photo, [part])
        return _require_any(views)

    def embed_box(self, photo: Photo, box: Box, foreground: Plane = _ANYWHERE) -> list[View]:
        """Embed a box in `photo.pixels` as it stands, and cut out of its background where `foreground` tells it."""
        return self._embed_regions(photo, list(crop_and_cutout(photo.pixels, box, foreground)))

    def detections(self, query: QueryImage, least_score: float) -> list[Detection]:
        """Find items with the detector: the surest first, in pixels of the file, with a score from 0 to 1."""
        self._lifetime.require()
        if self._manifest.detector is None:
            raise MissingComponentError(
                f"the index {self._directory} has no detector",
                hint="imgsearch train --objective detect makes one, and build-index --detector takes it",
            )
        photo = _require_photo(query)
        detected = self._detect(photo)
        height, width = photo.size
        return decode_detections(detected.scores, detected.boxes, width, height, least_score=least_score)

    def objects(self, query: QueryImage) -> list[DetectedObject]:
        """Embed each item in an image by itself; in reading order, none where nothing was found."""
        self._lifetime.require()
        photo = _require_photo(query)
        self._encoder.begin()
        size = photo.pixels.shape[:2]
        proposal, scores = self._propose_objects(photo)
        objects = []
        for box, score in in_reading_order(list(zip(proposal.boxes, scores, strict=True))):
            if views := self.embed_box(photo, box, proposal.plane):
                objects.append(DetectedObject(stretched(box, size, photo.size), score, views))
        return objects

    def _propose_objects(self, photo: Photo) -> tuple[Proposal, Sequence[float | None]]:
        """Find the items in a photo, and how sure the detector is of each."""
        size = photo.pixels.shape[:2]
        spec = self._manifest.encoder
        alone = items_on_plain_background(photo.pixels)
        if alone is not None:
            proposal = Proposal(_ANYWHERE, alone[:MAX_REGIONS])
        elif self._manifest.detector:
            detected = self._detect(photo)
            detections = decode_detections(detected.scores, detected.boxes, size[1], size[0])
            mask = without_padding(detected.mask, size, spec.fit)
            return Proposal(mask, [each.box for each in detections]), [each.score for each in detections]
        else:
            square = fit(photo.pixels, spec.size, spec.fit, photo.background)
            encoded = self._encoder.result().encode_with_features(square)
            seen = propose_salient(photo.pixels, encoded.features, spec.fit)
            if seen is None:
                return Proposal(_ANYWHERE, ()), ()
            proposal = Proposal(seen.plane, connected_boxes(seen.plane, LEVEL, size) or seen.boxes)
        return proposal, [None] * len(proposal.boxes)

    def _embed_and_propose(
        self, photo: Photo, regions: Regions, *, is_plain: bool
    ) -> tuple[Embeddings, Proposal | None]:
        """Embed the whole, and find where in it items may be, if `regions` asks for that and it is worth it."""
        spec = self._manifest.encoder
        square = apply_steps_and_fit(photo.pixels, spec.size, spec.fit, self._steps, photo.background)
        # Of an image that was trimmed or turned, the square shows other places than the photo does.
        shows_photo = not (is_plain or self._steps.moves)
        if self._manifest.detector and shows_photo and regions != "whole":
            detected = self._detector.result().detect(square)
            return detected.embedding, propose_detected(detected, photo.pixels.shape[:2], spec.fit)
        encoded = self._encoder.result().encode_with_features(square)
        features = encoded.features if shows_photo else None
        # Without a map only colors could tell where items are. Encoders without one take the background away by
        # themselves, and find fewer items on plain backgrounds when they are shown parts (docs/benchmarks.md).
        if regions == "whole" or (regions == "auto" and features is None):
            return encoded.embedding, None
        return encoded.embedding, propose_salient(photo.pixels, features, spec.fit)

    def _embed_regions(self, photo: Photo, regions: Sequence[Region]) -> list[View]:
        views: list[View] = []
        for start in range(0, len(regions), _BATCH):
            batch = regions[start : start + _BATCH]
            boxes = [stretched(region.box, photo.pixels.shape[:2], photo.size) for region in batch]
            views += self._usable(embed_regions(batch, self._encoder.result()), boxes)
        return views

    def _usable(self, embeddings: Embeddings, boxes: Sequence[Box | None]) -> list[View]:
        """Bring embeddings into the searched space; leave out those in which the encoder found nothing."""
        vectors = self._projection.apply(embeddings) if self._projection else embeddings
        return [View(vector, box) for vector, box in zip(vectors, boxes, strict=True) if np.isfinite(vector).all()]

    def _detect(self, photo: Photo) -> Detected:
        detector = self._detector.result()
        return detector.detect(fit(photo.pixels, detector.spec.size, detector.spec.fit, photo.background))

    def _open_encoder(self) -> Encoder:
        spec, folder = self._manifest.encoder, self._manifest.encoder_folder
        self._require_whole(spec, folder)
        # Where there is a detector, nobody needs feature maps.
        with_map = self._manifest.detector is None
        return open_encoder(spec, self._directory / folder, for_one=self._for_one, with_map=with_map)

    def _open_detector(self) -> Detector:
        spec, folder = self._manifest.detector, self._manifest.detector_folder
        assert spec is not None
        self._require_whole(spec, folder)
        return Detector(spec, self._directory / folder / GRAPH_FILE, for_one=self._for_one)

    def _require_whole(self, spec: EncoderSpec, folder: str) -> None:
        for name in exported_files(spec):
            try:
                integrity.check_truth(self._directory, self._manifest, f"{folder}/{name}")
            except DamagedIndexError as error:
                if os.path.lexists(self._directory / self._manifest.folder):
                    raise
                raise UsageError(f"{self._directory} was rebuilt with another encoder: open it anew") from error


def _require_photo(query: QueryImage) -> Photo:
    if query.photo is None:
        raise ImageError("too_large", "too large to search parts of it")
    return query.photo


def _require_any(views: list[View]) -> list[View]:
    if not views:
        raise ImageError("bad_embedding", "the encoder found nothing in this image")
    return views


def _in_photo(box: Box, photo: Photo) -> Box:
    """Turn a box in pixels of the file into one in `photo.pixels`; raise `BoxError` if it leaves the image."""
    height, width = photo.size
    fits = 0 <= box.x < box.x + box.width <= width and 0 <= box.y < box.y + box.height <= height
    if not fits:
        raise BoxError(
            f"the box {box.x},{box.y},{box.width},{box.height} does not lie in the image,"
            f" which has {width} x {height} pixels"
        )
    return stretched(box, photo.size, photo.pixels.shape[:2])
