"""Decode labeled images, and run a frozen backbone over them; a few at a time, whatever their number."""

import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from imgsearch.encoders.runtime import Embeddings, Encoder
from imgsearch.errors import ImageError
from imgsearch.images.decode import Pixels
from imgsearch.images.policy import FilePolicy
from imgsearch.images.transform import Fit
from imgsearch.images.workers.decoders import DecodeWorker
from imgsearch.images.workers.pool import decoded_files
from imgsearch.progress import Progress

# The features of a frozen backbone are kept of an image and of its mirror image: that is all its augmentation.
VIEWS = 2


def decoded(
    root: str, paths: Sequence[str], size: int, how: Fit, policy: FilePolicy, progress: Progress
) -> Iterator[Pixels | ImageError]:
    """Decode images and bring them to a square.

    Args:
        root: The folder that paths are relative to.
        paths: The images.
        size: Side of the square in pixels.
        how: As for `transform.fit`.
        policy: Which files are let in.
        progress: Told ("decode", done, total).

    Yields:
        For each path, in order, RGB, uint8 of shape (size, size, 3), or why there is none.

    Raises:
        RefusedError: The decoder died of one file after another.
    """
    make = functools.partial(DecodeWorker, size, how, policy)
    results = decoded_files(root, paths, policy, make, lambda worker, data: worker.decode(data)[0])
    for done, result in enumerate(results, 1):
        yield result
        progress("decode", done, len(paths))


def encoded_views(encoder: Encoder, images: Iterable[Pixels]) -> Iterator[Embeddings]:
    """Run a frozen backbone over images and their mirror images.

    Args:
        encoder: The backbone.
        images: RGB, uint8, each of shape (size, size, 3).

    Yields:
        For each image float32 (`VIEWS`, dims), of unit length; zeros where the backbone gives nothing.
    """
    for features in encoder.encode_stream(np.stack([image, image[:, ::-1]]) for image in images):
        yield np.nan_to_num(features)
