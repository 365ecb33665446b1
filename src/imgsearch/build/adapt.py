"""Let a catalogue teach the projection of its index; see `encoders.adaptation`."""

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imgsearch.encoders.adaptation import LOOKS, MOST_PICTURES, Gain, embedded_variants, learn_adaptation, measured_gain
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.images.decode import Pixels
from imgsearch.store import generations
from imgsearch.store.items import Items
from imgsearch.store.manifest import Manifest
from imgsearch.build.pipeline import Progress
from imgsearch.search.views import embed_regions
from imgsearch.regions.detector import Detector
from imgsearch.regions.propose import detected_items, shown_twice

Look = Callable[[Pixels], Embeddings]


def adapt(
    folder: Path,
    draft: Manifest,
    catalogue: Embeddings,
    plain: Projection | None,
    encoder: Encoder,
    look: Look | None,
    progress: Progress,
) -> tuple[Projection | None, Gain]:
    """Learn a projection from photo-like variants of the catalogue's pictures, and keep it if it helps.

    Args:
        folder: Of the generation in work, with its items.
        draft: Describes it.
        catalogue: float32 (n, D), a sample of its embeddings.
        plain: The projection without an adaptation, if there is one.
        encoder: Of the index.
        look: What finds items in scenes, as `looking` returns it; None without a detector.
        progress: Told ("adapt", done, total).

    Returns:
        The projection to use, and what the adaptation gained on variants it was not learnt from.

    Raises:
        UsageError: The catalogue has too few pictures for it.
    """
    with contextlib.closing(Items(folder / generations.ITEMS)) as items:
        paths = items.sample(MOST_PICTURES)
    seen = embedded_variants(Path(draft.catalogue), paths, draft.policy, encoder, progress, look)
    adapted = learn_adaptation(catalogue, seen[:, :-1])
    gain = measured_gain(plain, adapted, seen[:, 0], seen[:, -1])
    return (adapted if gain.helps else plain), gain


def looking(detector: Detector, encoder: Encoder) -> Look:
    """Make what embeds the item of a scene as queries are: where the detector finds it, as it stands, and cut out.

    What a detector and its cuts leave of the ground, and take from the item, is so learnt as noise.

    Args:
        detector: Of the index.
        encoder: For regions.

    Returns:
        From RGB, uint8 (size, size, 3), to float32 (`LOOKS`, D).
    """

    def look(scene: Pixels) -> Embeddings:
        detected = detector.detect(scene)
        likely = detected_items(detected, scene.shape[:2], encoder.spec.fit)
        if likely is None:
            return np.stack([detected.embedding] * LOOKS)
        shown = list(shown_twice(scene, likely.boxes[0], likely.plane, likely.item))
        shown += shown[:1] * (LOOKS - len(shown))
        return embed_regions(shown, encoder)

    return look
