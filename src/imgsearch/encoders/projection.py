"""From D dimensions to d: principal components with partial whitening, learned on the catalog."""

from dataclasses import dataclass
from typing import Annotated, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import read_arrays
from imgsearch.records import Count, Key, Share

DIMS = 256
# Below this, d directions learned from the catalog would be mostly noise, and full embeddings are cheap.
SMALLEST_CATALOG = 2 * DIMS
# More rows than this teach nothing new, and would have to be held in memory.
LARGEST_SAMPLE = 20_000
# 0 is plain PCA, 1 full whitening: a part keeps the few strong directions from drowning the rest, without
# blowing the weak ones up to noise. docs/benchmarks.md has the figures.
WHITENING = 0.25


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map and what it was learned around."""

    mean: Embeddings  # float32 (D,)
    components: Embeddings  # float32 (d, D), partial whitening included

    def apply(self, embeddings: NDArray[np.floating]) -> Embeddings:
        """Project (n, D) to float32 (n, d), of unit length; a row that lies just on the mean stays zero."""
        projected = (np.asarray(embeddings, np.float32) - self.mean) @ self.components.T
        lengths = np.linalg.norm(projected, axis=1, keepdims=True)
        return np.asarray(projected / np.where(lengths > 0, lengths, 1), np.float32)

    def save(self, file: BinaryIO) -> None:
        """Write as `.npz`."""
        np.savez(file, mean=self.mean, components=self.components)

    @classmethod
    def load(cls, path: str, dims_in: int, dims_out: int) -> "Projection":
        """Read what `save` wrote; FileNotFoundError or DamagedIndexError if it is no map of `dims_in` to `dims_out`."""
        return cls(*read_arrays(path, {"mean": (dims_in,), "components": (dims_out, dims_in)}))


@dataclass(frozen=True, slots=True)
class AdaptationGain:
    """What an adaptation is worth, on variants that it was not learned from."""

    images: Annotated[Count, Key("pictures")]  # that it was learned from
    before: Share  # of held-out variants whose own image was nearest, without it
    after: Share  # the same with it

    @property
    def helps(self) -> bool:
        """Whether it is worth keeping."""
        return self.after > self.before


def learn_projection(sample: Embeddings) -> Projection | None:
    """Learn principal components, partly whitened (Jegou and Chum, 2012), of (n, D); None where all rows are equal."""
    if np.var(sample, axis=0, dtype=np.float64).sum() < 1e-8:
        return None

    from sklearn.decomposition import PCA

    dims = min(DIMS, sample.shape[1])
    solver = "covariance_eigh" if len(sample) > sample.shape[1] else "full"
    pca = PCA(dims, svd_solver=solver).fit(sample)
    # A direction in which nothing varies holds no information, and must not be divided by nothing.
    variance = np.maximum(pca.explained_variance_, 1e-9 * pca.explained_variance_[0] + 1e-12)
    components = pca.components_ / variance[:, None] ** (WHITENING / 2)
    return Projection(pca.mean_.astype(np.float32), components.astype(np.float32))
