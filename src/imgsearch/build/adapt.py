"""Let a catalog teach the projection of its index; see `encoders.adaptation`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imgsearch.progress import Progress
from imgsearch.encoders.adaptation import LOOKS, MOST_IMAGES, AdaptationGain, embedded_variants, learn_adaptation, measure_gain
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.images.decode import Pixels
from imgsearch.store import generations
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest
from imgsearch.search.views import embed_regions
from imgsearch.regions.detector import Detector
from imgsearch.regions.propose import detected_items, crop_and_cutout

EmbedItem = Callable[[Pixels], Embeddings]


def adapt(
    folder: Path,
    draft: Manifest,
    catalog: Embeddings,
    plain: Projection | None,
    encoder: Encoder,
    embed_item: EmbedItem | None,
    progress: Progress,
) -> tuple[Projection | None, AdaptationGain]:
    """Learn a projection from photo-like variants of the catalog's images, and keep it if it helps.

    Args:
        folder: Of the generation in work, with its items.
        draft: Describes it.
        catalog: float32 (n, D), a sample of its embeddings.
        plain: The projection without an adaptation, if there is one.
        encoder: Of the index.
        embed_item: What finds items in scenes, as `item_embedder` returns it; None without a detector.
        progress: Told ("adapt", done, total).

    Returns:
        The projection to use, and what the adaptation gained on variants it was not learned from.

    Raises:
        UsageError: The catalog has too few images for it.
    """
    with contextlib.closing(Items(folder / generations.ITEMS)) as items:
        paths = items.sample(MOST_IMAGES)
    seen = embedded_variants(Path(draft.catalog), paths, draft.policy, encoder, progress, embed_item)
    adapted = learn_adaptation(catalog, seen[:, :-1])
    gain = measure_gain(plain, adapted, seen[:, 0], seen[:, -1])
    return (adapted if gain.helps else plain), gain


def item_embedder(detector: Detector, encoder: Encoder) -> EmbedItem:
    """Make what embeds the item of a scene as queries are: where the detector finds it, as it stands, and cut out.

    What a detector and its cuts leave of the background, and take from the item, is so learned as noise.

    Args:
        detector: Of the index.
        encoder: For regions.

    Returns:
        From RGB, uint8 (size, size, 3), to float32 (`LOOKS`, D).
    """

    def embed_item(scene: Pixels) -> Embeddings:
        detected = detector.detect(scene)
        proposal = detected_items(detected, scene.shape[:2], encoder.spec.fit)
        if proposal is None:
            return np.stack([detected.embedding] * LOOKS)
        shown = list(crop_and_cutout(scene, proposal.boxes[0], proposal.plane, proposal.item))
        shown += shown[:1] * (LOOKS - len(shown))
        return embed_regions(shown, encoder)

    return embed_item
