"""Count the visual words of an image: local features, each called by the nearest of a learned vocabulary."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.vectors import read_arrays, unit
from imgsearch.errors import DamagedIndexError, UsageError, require_installed
from imgsearch.images.decode import Pixels
from imgsearch.images.foreground import centered_item

# Side of the square that an item is brought to before its features are looked for, in pixels.
_SIDE = 96
# Local features of an image at most, the bits of each, and how they are found (docs/benchmarks.md has the figures).
_FEATURES_OF_IMAGE = 300
_BITS = 256
_SCALE_STEP = 1.2
_SCALES = 6
_PATCH = 21
_CORNER_CONTRAST = 5

# What a vocabulary is learned from at most, and how often each feature is used.
_IMAGES = 4000
_FEATURES = 200_000
_BATCH = 4096
_PASSES = 2
# With fewer features a word, the words would be the features themselves.
_FEATURES_A_WORD = 4

_Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words for local features."""

    centers: _Floats  # float32 (words, 256), the mean of the features of each word, as `_bits` gives them
    idf: _Floats  # float32 (words,), how much a word says: the logarithm of how rare it is among images

    def save(self, file: BinaryIO) -> None:
        """Write as `.npz`, the same bytes for the same vocabulary: their sha256 stands for the encoder."""
        np.savez(file, centres=self.centers, idf=self.idf)

    @classmethod
    def load(cls, path: str, words: int) -> "Vocabulary":
        """Read what `save` wrote; FileNotFoundError or DamagedIndexError if it is no vocabulary of so many words."""
        centers, idf = read_arrays(path, {"centres": (words, _BITS), "idf": (words,)})
        if not (np.isfinite(centers).all() and np.isfinite(idf).all()):
            raise DamagedIndexError(f"{path} holds numbers that are not finite")
        return cls(centers, idf)


def describe(image: Pixels, vocabulary: Vocabulary) -> NDArray[np.float32]:
    """Count words by tf-idf (Sivic and Zisserman: Video Google, 2003): unit float32 (words,); zeros without any."""
    words = _nearest(_features(image), vocabulary.centers)
    counts = np.bincount(words, minlength=len(vocabulary.idf))
    return unit(np.sqrt(counts) * vocabulary.idf).astype(np.float32)


def learn_vocabulary(images: Iterable[Pixels], *, words: int, seed: int = 0) -> Vocabulary:
    """Learn words of images, RGB, uint8 (size, size, 3), by mini-batch k-means (Sculley, 2010)."""
    require_installed("sklearn", "learning visual words", "scikit-learn")
    found = [_features(image) for image in itertools.islice(images, _IMAGES)]
    count = sum(map(len, found))
    if count < _FEATURES_A_WORD * words:
        raise UsageError(
            f"too few images to learn {words:,} visual words: {len(found):,} images have {count:,} local "
            f"features, and {_FEATURES_A_WORD * words:,} are needed",
            hint="learn on more images, or choose another encoder",
        )

    from sklearn.cluster import MiniBatchKMeans

    sample = np.random.default_rng(seed).permutation(np.concatenate(found))[:_FEATURES]
    means = MiniBatchKMeans(words, init="random", n_init=1, random_state=seed)
    size = max(_BATCH, words)  # the first batch is where the words come from
    for _ in range(_PASSES):
        for start in range(0, len(sample), size):
            means.partial_fit(_bits(sample[start : start + size]))
    centers = np.asarray(means.cluster_centers_, np.float32)
    images_with = np.zeros(words)
    for features in found:
        images_with[np.unique(_nearest(features, centers))] += 1
    return Vocabulary(centers, np.log((1 + len(found)) / (1 + images_with)).astype(np.float32))


def _features(image: Pixels) -> NDArray[np.uint8]:
    """Find the local features of an image's item by ORB (Rublee et al., 2011): uint8 (n, 32), 256 bits each."""
    gray = cv2.cvtColor(centered_item(image, _SIDE).pixels, cv2.COLOR_RGB2GRAY)
    finder = cv2.ORB.create(
        nfeatures=_FEATURES_OF_IMAGE,
        scaleFactor=_SCALE_STEP,
        nlevels=_SCALES,
        edgeThreshold=_PATCH // 2,
        patchSize=_PATCH,
        fastThreshold=_CORNER_CONTRAST,
    )
    points, features = finder.detectAndCompute(gray, None)
    return np.asarray(features, np.uint8) if points else np.zeros((0, _BITS // 8), np.uint8)


def _bits(features: NDArray[np.uint8]) -> _Floats:
    """Spread features out, so that squared distances are shares of bits that differ: float32 (n, 256)."""
    return np.unpackbits(features, axis=1).astype(np.float32) / np.float32(np.sqrt(_BITS))


def _nearest(features: NDArray[np.uint8], centers: _Floats) -> NDArray[np.int64]:
    distances = (centers**2).sum(axis=1) - 2 * _bits(features) @ centers.T  # but for the features' own lengths
    return np.asarray(distances.argmin(axis=1), np.int64)
