"""What a training learns from: images decoded once, and what a frozen backbone says of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.choice import Choice
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import Embeddings, open_encoder
from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject
from imgsearch.images.transform import Fit
from imgsearch.progress import Progress
from imgsearch.training.dataset import Dataset, require_enough
from imgsearch.training.images import VIEWS, decoded, encoded_views
from imgsearch.training.settings import Settings
from imgsearch.training.workplace import Workplace

FIT: Fit = "pad"


@dataclass(frozen=True, slots=True)
class Material:
    """What a training learns from.

    Attributes:
        dataset: Which images, their classes, and which are held out.
        pixels: uint8 (count, size, size, 3), mapped; None where features are enough.
        features: float32 (count, `VIEWS`, features), mapped, of a backbone; None for `cnn`.
    """

    dataset: Dataset
    pixels: NDArray[np.uint8] | None
    features: Embeddings | None


def gather(
    dataset: Dataset,
    settings: Settings,
    choice: Choice | None,
    workplace: Workplace,
    policy: FilePolicy,
    progress: Progress,
) -> Material:
    """Decode all images once, and run a backbone over them once; both go to files that are mapped.

    Args:
        dataset: Which images.
        settings: Their size, and whether pixels are needed.
        choice: The backbone; None for `cnn`.
        workplace: Where the files are.
        policy: Which images are let in.
        progress: Told ("decode", done, total).

    Returns:
        The material; its dataset is without the images that cannot be used.

    Raises:
        MissingComponentError: The backbone cannot be run.
        OutputError: The files cannot be written.
        RefusedError: The decoder died of one image after another.
        UsageError: Too few images are left.
    """
    rejected: list[Reject] = []

    def usable() -> Iterator[Pixels]:
        results = decoded(dataset.root, dataset.paths, settings.size, FIT, policy, progress)
        for path, result in zip(dataset.paths, results, strict=True):
            if isinstance(result, ImageError):
                rejected.append(Reject(path, result.cause, result.message))
            else:
                yield result

    count, square = len(dataset.paths), (settings.size, settings.size, 3)
    pixels: NDArray[np.uint8] | None = None
    features: NDArray[np.float32] | None = None
    images: Any = usable()
    if choice is None or settings.unfreeze:
        pixels = images = workplace.store(images, count, square, np.uint8)
    if choice is not None:
        encoder = open_encoder(choice.spec, exported_encoder(choice.spec, choice.files))
        features = workplace.store(encoded_views(encoder, images), count, (VIEWS, choice.spec.dims), np.float32)
    dataset = dataset.without(rejected)
    require_enough(dataset, settings.batch_size)
    return Material(dataset, pixels, features)
