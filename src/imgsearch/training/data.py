"""What a training learns from: images decoded once, and a frozen backbone's features of them, in mapped files."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.choice import Choice
from imgsearch.encoders.export import exported_encoder
from imgsearch.encoders.runtime import Embeddings, Encoder, open_encoder
from imgsearch.errors import ImageError
from imgsearch.images import Fit
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.scan import Reject
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress
from imgsearch.training.dataset import Dataset
from imgsearch.training.options import LabeledSettings
from imgsearch.training.workspace import Workspace

FIT: Fit = "pad"

# The features of a frozen backbone are kept of an image and of its mirror image: that is all its augmentation.
VIEWS = 2


@dataclass(frozen=True, slots=True)
class TrainingData:
    """What a training learns from."""

    dataset: Dataset
    pixels: NDArray[np.uint8] | None  # (count, size, size, 3); None where features are enough
    features: Embeddings | None  # (count, `VIEWS`, dims) of a backbone; None for `cnn`


def load_data(
    dataset: Dataset,
    settings: LabeledSettings,
    choice: Choice | None,
    workspace: Workspace,
    policy: FilePolicy,
    progress: Progress,
) -> TrainingData:
    """Decode all images once, and run a backbone over them once; the dataset loses the images that cannot be used."""
    rejected: list[Reject] = []

    def usable() -> Iterator[Pixels]:
        results = decode_images(dataset.root, dataset.paths, settings.size, policy, progress)
        for path, result in zip(dataset.paths, results, strict=True):
            if isinstance(result, ImageError):
                rejected.append(Reject(path, result.cause, result.message))
            else:
                yield result

    count, square = len(dataset.paths), (settings.size, settings.size, 3)
    pixels: NDArray[np.uint8] | None = None
    features: Embeddings | None = None
    images: Any = usable()
    if choice is None or settings.unfreeze:
        pixels = images = workspace.store(images, count, square, np.uint8)
    if choice is not None:
        encoder = open_encoder(choice.spec, exported_encoder(choice.spec, choice.files))
        features = workspace.store(encode_views(encoder, images), count, (VIEWS, choice.spec.dims), np.float32)
    return TrainingData(dataset.without(rejected), pixels, features)


def decode_images(
    root: str, paths: Sequence[str], size: int, policy: FilePolicy, progress: Progress
) -> Iterator[Pixels | ImageError]:
    """Yield for each path, in order, RGB of shape (size, size, 3), or why there is none."""
    make = functools.partial(DecodeWorker, size, FIT, policy)
    results = decoded_files(root, paths, policy, make, lambda worker, data: worker.decode(data)[0])
    for done, result in enumerate(results, 1):
        yield result
        progress("decode", done, len(paths))


def encode_views(encoder: Encoder, images: Iterable[Pixels]) -> Iterator[Embeddings]:
    """Yield the features of each image and of its mirror image, (`VIEWS`, dims); zeros where there are none."""
    for features in encoder.encode_stream(np.stack([image, image[:, ::-1]]) for image in images):
        yield np.nan_to_num(features)
