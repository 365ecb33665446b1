"""Let a catalogue teach the projection of its index; see `encoders.adaptation`."""

import contextlib
from pathlib import Path

from imgsearch.encoders.adaptation import MOST_PICTURES, Gain, embedded_variants, learn_adaptation, measured_gain
from imgsearch.encoders.projection import Projection
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.index import store
from imgsearch.index.items import Items
from imgsearch.index.manifest import Manifest
from imgsearch.index.pipeline import Progress


def adapt(
    folder: Path, draft: Manifest, catalogue: Embeddings, plain: Projection | None, encoder: Encoder, progress: Progress
) -> tuple[Projection | None, Gain]:
    """Learn a projection from photo-like variants of the catalogue's pictures, and keep it if it helps.

    Args:
        folder: Of the generation in work, with its items.
        draft: Describes it.
        catalogue: float32 (n, D), a sample of its embeddings.
        plain: The projection without an adaptation, if there is one.
        encoder: Of the index.
        progress: Told ("adapt", done, total).

    Returns:
        The projection to use, and what the adaptation gained on variants it was not learnt from.

    Raises:
        UsageError: The catalogue has too few pictures for it.
    """
    with contextlib.closing(Items(folder / store.ITEMS)) as items:
        paths = items.sample(MOST_PICTURES)
    seen = embedded_variants(Path(draft.catalogue), paths, draft.policy, encoder, progress)
    adapted = learn_adaptation(catalogue, seen[:, :-1])
    gain = measured_gain(plain, adapted, seen[:, 0], seen[:, -1])
    return (adapted if gain.helps else plain), gain
