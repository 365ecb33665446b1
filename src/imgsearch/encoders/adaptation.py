"""Learn from photo-like variants of a catalog's own images which directions of an embedding are noise.

Each image is its own class; what its variants differ in, photo by photo, is what a search must not look at. These
directions are whitened away in closed form: learned whitening (Mikolajczyk and Matas, 2007; Radenovic, Tolias and Chum,
2018, section 3.4), with the covariance within classes in place of matching pairs.
"""

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.projection import DIMS, SMALLEST_CATALOG, WHITENING, Projection
from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.errors import ImageError, UsageError
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.steps import Steps
from imgsearch.images.workers.pool import decoded_files
from imgsearch.records import Count, Key, Share
from imgsearch.synthetic.variant_worker import VariantWorker

logger = logging.getLogger(__name__)

# Variants of each image that are learned from. One more is held out, to see what was gained.
VARIANTS = 6
# Scenes that each item is put into, where something can find it there, and how often it is then looked at.
SCENES = 2
LOOKS = 2

# Fewer images than this say next to nothing about hundreds of directions.
FEWEST_IMAGES = 20
# More teach little that is new, and take their time.
MOST_IMAGES = 3000

# Images after which it is known how long the rest will take.
_FIRST = 16

# How much of an even spread over all directions is added to what was seen, in units of their mean. Little fits the
# images that were adapted on; much helps those that come later. docs/benchmarks.md has the figures.
_SHRINKAGE = 1.0


@dataclass(frozen=True, slots=True)
class AdaptationGain:
    """What an adaptation is worth, on variants that it was not learned from.

    Attributes:
        images: How many it was learned from.
        before: Share of held-out variants whose own image was nearest, without it; 0 to 1.
        after: The same with it.
    """

    images: Annotated[Count, Key("pictures")]
    before: Share
    after: Share

    @property
    def helps(self) -> bool:
        """Whether it is to be kept."""
        return self.after > self.before


def embedded_variants(
    root: Path,
    paths: Sequence[str],
    policy: FilePolicy,
    encoder: Encoder,
    progress: Callable[[str, int, int], None],
    embed_item: Callable[[Pixels], Embeddings] | None = None,
) -> Embeddings:
    """Embed images, and photos and screenshots that might have been made of them, and what is seen in scenes.

    Args:
        root: The folder that paths are relative to.
        paths: The images. Those that cannot be had are left out.
        policy: Which files are let in.
        encoder: What embeds them.
        progress: Told ("adapt", done, total).
        embed_item: Finds the item in a scene, uint8 (size, size, 3), and embeds it: float32 (`LOOKS`, D). None: none.

    Returns:
        float32 (images, 2 + `VARIANTS` + looks, D): each image, its items in scenes, then its variants, of which
        the last is to be held out.

    Raises:
        UsageError: There are too few images to learn from.
    """
    spec = encoder.spec
    steps, scenes = Steps.parse(spec.steps), SCENES if embed_item else 0
    make = functools.partial(
        VariantWorker, spec.size, spec.fit, policy, steps=steps, variants=VARIANTS + 1, scenes=scenes
    )
    decoded = decoded_files(os.fspath(root), paths, policy, make, VariantWorker.decode_variants)
    seen: deque[Embeddings] = deque()  # in scenes whose image is still being embedded
    rows = []
    started = time.monotonic()

    def without_scenes() -> Iterator[Pixels]:
        for squares in _usable(decoded):
            if embed_item:
                seen.append(np.concatenate([embed_item(scene) for scene in squares[-scenes:]]))
            yield squares[: 2 + VARIANTS]

    for done, encoded in enumerate(encoder.encode_stream(without_scenes()), start=1):
        embedding = np.concatenate([encoded[:1], seen.popleft(), encoded[1:]]) if embed_item else encoded
        if np.isfinite(embedding).all():
            rows.append(embedding)
        if done == _FIRST and len(paths) > 2 * _FIRST:
            seconds = (time.monotonic() - started) / _FIRST * (len(paths) - _FIRST)
            made = f"{VARIANTS + 1} variants" + (f" and {scenes} scenes" if scenes else "")
            logger.warning("adapting to %d images, %s each: about %.0f s", len(paths), made, seconds)
        progress("adapt", done, len(paths))
    if len(rows) < FEWEST_IMAGES:
        raise UsageError(f"expected at least {FEWEST_IMAGES} different images to adapt to, found {len(rows)}")
    return np.stack(rows)


def _usable(decoded: Iterable[Pixels | ImageError]) -> Iterator[Pixels]:
    return (squares for squares in decoded if not isinstance(squares, ImageError))


def learn_adaptation(catalog: Embeddings, seen: Embeddings) -> Projection:
    """Learn a projection that keeps images and their variants together.

    Args:
        catalog: float32 (n, D), embeddings of (a sample of) the catalog.
        seen: float32 (images, 1 + variants, D), embeddings of some of its images, each before its variants.

    Returns:
        D to min(`DIMS`, D) dimensions; all D where the catalog has fewer than `SMALLEST_CATALOG` images.
    """
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
    """Compare how often a variant finds its own image, with an adaptation and without.

    Args:
        plain: What is used without it; None for the embeddings as they are.
        adapted: The adaptation.
        originals: float32 (n, D), embeddings of images.
        held_out: float32 (n, D), embeddings of one variant of each.
    """
    rates = []
    for projection in (plain, adapted):
        rows, queries = (projection.apply(part) if projection else part for part in (originals, held_out))
        rates.append(_nearest_is_own(rows, queries))
    return AdaptationGain(len(originals), *rates)


def _nearest_is_own(rows: Embeddings, queries: Embeddings) -> float:
    hits = 0
    for start in range(0, len(rows), 512):
        scores = queries[start : start + 512] @ rows.T
        own = scores[np.arange(len(scores)), start + np.arange(len(scores))]
        # Equal images score equally, but for the last digit.
        hits += int(np.sum(own >= scores.max(axis=1) - 1e-6))
    return hits / len(rows)


def _scaled(components: NDArray[np.float64]) -> Embeddings:
    """Keep numbers near 1: the length of a projected row means nothing, and float32 has its limits."""
    return np.asarray(components / np.linalg.norm(components, axis=1).max(), np.float32)
