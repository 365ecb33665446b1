"""What the last blocks of a backbone learn from: maps of images, their scenes and variants, in a mapped file."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.adaptation import HELD_OUT, MAX_IMAGES, MIN_IMAGES, SCENES, VARIANTS
from imgsearch.encoders.spec import EncoderSpec
from imgsearch.errors import ImageError, UsageError
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject, Scan, sampled
from imgsearch.images.steps import Steps
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.synthetic.variant_worker import VariantWorker
from imgsearch.training.workspace import Workspace

# Views of an image, in this order: itself, in scenes, and its variants, the last of which are held out.
LEARNED = 1 + SCENES + VARIANTS
VIEWS = LEARNED + HELD_OUT

# Of maps, on the disk: the earlier the first block that is tuned, the larger are those that it takes.
_MOST_BYTES = 8_000_000_000
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True)
class Views:
    """Maps of the views of images, images that cannot be used, and what stands for the pixels."""

    maps: NDArray[np.float16]  # (images, `VIEWS`, numbers)
    rejected: tuple[Reject, ...]
    fingerprint: str


def load_views(
    folder: Path,
    spec: EncoderSpec,
    encode: Callable[[NDArray[np.uint8]], Any],
    numbers: int,
    seed: int,
    workspace: Workspace,
    policy: FilePolicy,
    progress: Progress,
) -> Views:
    """Make the views of all images, or of a sample, and encode them to so many numbers each, once."""
    most = max(MIN_IMAGES, min(MAX_IMAGES, _MOST_BYTES // (2 * VIEWS * numbers)))
    paths = sampled(Scan(os.fspath(folder), follow_links=policy.follow_links), most)
    make = functools.partial(
        VariantWorker,
        *(spec.size, spec.fit, policy),
        variants=VARIANTS + HELD_OUT,
        scenes=SCENES,
        seed=seed,
        steps=Steps.parse(spec.steps),
    )
    rejected: list[Reject] = []
    digest = hashlib.sha256()

    def encoded() -> Iterator[NDArray[np.float16]]:
        results = decoded_files(os.fspath(folder), paths, policy, make, VariantWorker.decode_variants)
        for done, (path, squares) in enumerate(zip(paths, results, strict=True), 1):
            progress("adapt", done, len(paths))
            if isinstance(squares, ImageError):
                rejected.append(Reject(path, squares.cause, squares.message))
                continue
            digest.update(squares[0].data)
            views = np.concatenate([squares[:1], squares[-SCENES:], squares[1:-SCENES]])
            # Half precision is enough for maps that nothing but the last blocks will see.
            yield np.clip(encode(views), -_LARGEST, _LARGEST).astype(np.float16)

    maps = workspace.store(encoded(), len(paths), (VIEWS, numbers), np.float16)
    if len(maps) < MIN_IMAGES:
        raise UsageError(f"expected at least {MIN_IMAGES} images to adapt to, found {len(maps)}")
    return Views(maps, tuple(rejected), digest.hexdigest()[:16])


def pairs(images: int, batch_size: int, generator: np.random.Generator) -> list[NDArray[np.int64]]:
    """Put two different views of each image that are learned from into one of the random batches of an epoch: rows."""
    batches = np.array_split(generator.permutation(images), number_of_batches(images, batch_size))
    views = generator.permuted(np.tile(np.arange(LEARNED), (images, 1)), axis=1)[:, :2]
    return [(batch[:, None] * VIEWS + views[batch]).reshape(-1) for batch in batches]


def number_of_batches(images: int, batch_size: int) -> int:
    """Return how many batches of about so many views an epoch has."""
    return max(1, round(2 * images / batch_size))
