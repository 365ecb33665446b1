"""Learn from variants of a catalog's own images, photo-like and redrawn, which directions of an embedding are noise.

Learned whitening (Mikolajczyk and Matas, 2007; Radenovic, Tolias and Chum, 2018, section 3.4), in closed form, with
the covariance within classes in place of matching pairs: each image is its own class.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.projection import DIMS, SMALLEST_CATALOG, WHITENING, AdaptationGain, Projection
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.errors import ImageError, UsageError
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.synthetic.variant_worker import VariantWorker

logger = logging.getLogger(__name__)

# Variants of each image that are learned from.
VARIANTS = 6
# The last variants, which are held out to see what was gained: one like a photo, one redrawn.
HELD_OUT = 2
# Scenes that each item is put into, where a detector can find it there, and views of each that are embedded.
SCENES = 2
SCENE_VIEWS = 2

# Fewer images than this say next to nothing about hundreds of directions.
MIN_IMAGES = 20
# More teach little that is new, and take their time.
MAX_IMAGES = 3000

# Images after which it is known how long the rest will take.
_FIRST = 16

# How much of an even spread over all directions is added to what was seen, in units of their mean. Little fits the
# images that were adapted on; much helps those that come later. docs/benchmarks.md has the figures.
_SHRINKAGE = 1.0


def embedded_variants(
    root: str | Path,
    paths: Sequence[str],
    policy: FilePolicy,
    encoder: Encoder,
    progress: Progress,
    embed_item: Callable[[Pixels], Embeddings] | None = None,
) -> Embeddings:
    """Embed images, their items in scenes, their variants, those held out last: float32 (images, rows of each, D)."""
    spec = encoder.spec
    steps, scenes, variants = Steps.parse(spec.steps), SCENES if embed_item else 0, VARIANTS + HELD_OUT
    make = functools.partial(VariantWorker, spec.size, spec.fit, policy, steps=steps, variants=variants, scenes=scenes)
    decoded = decoded_files(os.fspath(root), paths, policy, make, VariantWorker.decode_variants)
    seen: deque[Embeddings] = deque()  # in scenes whose image is still being embedded
    rows = []
    started = time.monotonic()

    def without_scenes() -> Iterator[Pixels]:
        for squares in decoded:
            if isinstance(squares, ImageError):
                continue
            if embed_item:
                seen.append(np.concatenate([embed_item(scene) for scene in squares[-scenes:]]))
            yield squares[: 1 + variants]

    for done, encoded in enumerate(encoder.encode_stream(without_scenes()), start=1):
        embedding = np.concatenate([encoded[:1], seen.popleft(), encoded[1:]]) if embed_item else encoded
        if np.isfinite(embedding).all():
            rows.append(embedding)
        if done == _FIRST and len(paths) > 2 * _FIRST:
            seconds = (time.monotonic() - started) / _FIRST * (len(paths) - _FIRST)
            made = f"{variants} variants" + (f" and {scenes} scenes" if scenes else "")
            logger.warning("adapting to %d images, %s each: about %.0f s", len(paths), made, seconds)
        progress("adapt", done, len(paths))
    if len(rows) < MIN_IMAGES:
        raise UsageError(f"expected at least {MIN_IMAGES} different images to adapt to, found {len(rows)}")
    return np.stack(rows)


def learn_adaptation(catalog: Embeddings, seen: Embeddings) -> Projection:
    """Learn from embeddings (n, D), and of some images followed by their variants (images, 1 + variants, D)."""
    count, views, dims = seen.shape
    within = np.zeros((dims, dims))
    for image in np.array_split(seen, max(1, count // 256)):  # a part at a time: double precision has its price
        noise = np.asarray(image - image.mean(axis=1, keepdims=True), np.float64).reshape(-1, dims)
        within += noise.T @ noise
    within /= count * (views - 1)
    within += _SHRINKAGE * np.trace(within) / dims * np.eye(dims)
    spread, directions = np.linalg.eigh(within)
    quiet = (directions / np.sqrt(np.maximum(spread, 1e-12))) @ directions.T

    mean = catalog.mean(axis=0, dtype=np.float64)
    if len(catalog) < SMALLEST_CATALOG:
        return Projection(mean.astype(np.float32), _scaled(quiet))
    centered = (catalog - mean) @ quiet
    variance, axes = np.linalg.eigh(centered.T @ centered / len(centered))
    strongest = np.argsort(variance)[::-1][:DIMS]
    weights = np.maximum(variance[strongest], 1e-9 * variance.max() + 1e-12) ** (-WHITENING / 2)
    return Projection(mean.astype(np.float32), _scaled((axes[:, strongest] * weights).T @ quiet))


def measure_gain(
    plain: Projection | None, adapted: Projection, originals: Embeddings, held_out: Embeddings
) -> AdaptationGain:
    """Compare how often variants held out, (n, `HELD_OUT`, D), find their image, (n, D), with and without."""
    rates = []
    for kind in range(HELD_OUT):
        for projection in (plain, adapted):
            parts = originals, held_out[:, kind]
            found = nearest_is_own(*(projection.apply(part) if projection else part for part in parts))
            rates.append(float(found.mean()))
    return AdaptationGain(len(originals), *rates)


def nearest_is_own(rows: Embeddings, queries: Embeddings) -> NDArray[np.bool_]:
    """Return for each query, of (n, D), whether the row with its number is the nearest of all, (n, D)."""
    found = []
    for start in range(0, len(rows), 512):
        scores = queries[start : start + 512] @ rows.T
        own = scores[np.arange(len(scores)), start + np.arange(len(scores))]
        # Equal images score equally, but for the last digit.
        found.append(own >= scores.max(axis=1) - 1e-6)
    return np.concatenate(found)


def _scaled(components: NDArray[np.float64]) -> Embeddings:
    """Keep numbers near 1: the length of a projected row means nothing, and float32 has its limits."""
    return np.asarray(components / np.linalg.norm(components, axis=1).max(), np.float32)
