"""Learn the projection of an index from variants of its catalog's images; see `encoders.adaptation`."""

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgsearch.build.encoder_source import EncoderSource
from imgsearch.encoders.adaptation import (
    HELD_OUT,
    MAX_IMAGES,
    SCENE_VIEWS,
    embedded_variants,
    learn_adaptation,
    measure_gain,
)
from imgsearch.encoders.projection import AdaptationGain, Projection
from imgsearch.encoders.runtime import GRAPH_FILE, Embeddings, Encoder, open_encoder
from imgsearch.errors import UsageError
from imgsearch.images.decode import Pixels
from imgsearch.images.steps import Steps
from imgsearch.progress import Progress
from imgsearch.regions.detections import Detector
from imgsearch.regions.propose import crop_and_cutout, propose_detected
from imgsearch.search.viewer import embed_regions
from imgsearch.store import generations
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Adapter:
    """Learns a projection from variants of a catalog's images."""

    folder: Path  # of the generation in work, with its items
    sources: Sequence[EncoderSource]  # of the encoder, and of the detector if there is one
    progress: Progress
    required: bool  # whether too small a catalog is an error

    def learn(
        self, draft: Manifest, sample: Embeddings, plain: Projection | None
    ) -> tuple[Projection | None, AdaptationGain | None]:
        """Learn a projection, and keep it if it finds more than `plain` on variants it was not learned from."""
        embed_item = None
        # Of photos that are turned first, regions are not searched; see `views`.
        if draft.detector and not Steps.parse(draft.encoder.steps).moves:
            detector = Detector(draft.detector, self.sources[1].install() / GRAPH_FILE)
            embed_item = item_embedder(detector, open_encoder(draft.encoder, self.sources[0].install(), for_one=True))
        with contextlib.closing(Items(self.folder / generations.ITEMS)) as items:
            paths = items.sample(MAX_IMAGES)
        encoder = self.sources[0].open()
        try:
            seen = embedded_variants(draft.catalog, paths, draft.policy, encoder, self.progress, embed_item)
        except UsageError as error:
            if self.required:
                raise
            logger.warning("the projection is not adapted to the catalog: %s", error)
            return plain, None
        adapted = learn_adaptation(sample, seen[:, :-HELD_OUT])
        gain = measure_gain(plain, adapted, seen[:, 0], seen[:, -HELD_OUT:])
        if not gain.helps:
            logger.warning("the adaptation does not help and is not used: %s", gain.in_words())
        return (adapted if gain.helps else plain), gain


def item_embedder(detector: Detector, encoder: Encoder) -> Callable[[Pixels], Embeddings]:
    """Make what embeds the item of a scene, RGB uint8 (size, size, 3), as queries are: float32 (`SCENE_VIEWS`, D)."""

    # What a detector and its cuts leave of the background, and take from the item, is so learned as noise.
    def embed_item(scene: Pixels) -> Embeddings:
        detected = detector.detect(scene)
        proposal = propose_detected(detected, scene.shape[:2], encoder.spec.fit)
        if proposal is None:
            return np.stack([detected.embedding] * SCENE_VIEWS)
        views = list(crop_and_cutout(scene, proposal.boxes[0], proposal.plane, proposal.item))
        views += views[:1] * (SCENE_VIEWS - len(views))
        return embed_regions(views, encoder)

    return embed_item
