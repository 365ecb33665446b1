"""From D dimensions to d: principal components with partial whitening, learned on the catalog."""

from dataclasses import dataclass
from typing import Annotated, BinaryIO

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import read_arrays
from imgsearch.records import Count, Key, Missing, Share

DIMS = 256
# Below this, d directions learned from the catalog would be mostly noise, and full embeddings are cheap.
SMALLEST_CATALOG = 2 * DIMS
# More rows than this teach nothing new, and would have to be held in memory.
LARGEST_SAMPLE = 20_000
# 0 is plain PCA, 1 full whitening: a part keeps the few strong directions from drowning the rest, without
# blowing the weak ones up to noise. docs/benchmarks.md has the figures.
WHITENING = 0.5


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
    before: Share  # of held-out photo-like variants whose own image was nearest, without it
    after: Share  # the same with it
    # The same of redrawn variants; None if it was learned before there were any.
    drawings_before: Annotated[Share | None, Missing(None)] = None
    drawings_after: Annotated[Share | None, Missing(None)] = None

    @property
    def helps(self) -> bool:
        """Whether it is worth keeping: variants of some kind are found more often, and of none less often."""
        before, after = self._rates()
        return after != before and all(now >= then for then, now in zip(before, after, strict=True))

    def in_words(self) -> str:
        """Return it in words, without a verdict."""
        (photos_before, *before), (photos_after, *after) = self._rates()
        words = (
            f"of held-out variants of {self.images} images {photos_after:.3f} find theirs first,"
            f" {photos_before:.3f} without"
        )
        return words + "".join(
            f"; redrawn {now:.3f}, {then:.3f} without" for then, now in zip(before, after, strict=True)
        )

    def _rates(self) -> tuple[list[float], list[float]]:
        """Return the rates of each kind without it and with it."""
        if self.drawings_before is None or self.drawings_after is None:
            return [self.before], [self.after]
        return [self.before, self.drawings_before], [self.after, self.drawings_after]


def learn_projection(sample: Embeddings) -> Projection | None:
    """Learn principal components, partly whitened (Jegou and Chum, 2012), of (n, D); None where all rows are equal."""
    if np.var(sample, axis=0, dtype=np.float64).sum() < 1e-8:
        return None

    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    centered = sample - mean
    if len(sample) > sample.shape[1]:
        covariance = (centered.T @ centered).astype(np.float64) / (len(sample) - 1)
        ascending, columns = np.linalg.eigh(covariance)
        variances, directions = ascending[::-1][:DIMS], columns.T[::-1][:DIMS]
    else:
        _, lengths, rows = np.linalg.svd(centered, full_matrices=False)
        variances, directions = lengths[:DIMS].astype(np.float64) ** 2 / (len(sample) - 1), rows[:DIMS]
    # A direction in which nothing varies holds no information, and must not be divided by nothing.
    variances = np.maximum(variances, 1e-9 * variances[0] + 1e-12)
    return Projection(mean, (directions / variances[:, None] ** (WHITENING / 2)).astype(np.float32))
