"""Unit vectors, alone and joined."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def unit(vector: NDArray[np.floating]) -> NDArray[np.floating]:
    """Bring a vector to unit length; one of zeros stays as it is."""
    length = float(np.linalg.norm(vector))
    return vector / length if length else vector


def joined(parts: Sequence[NDArray[np.floating]], weights: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Join vectors into one of unit length, in which each has the share that its weight gives it.

    The cosine of two joined vectors is the mean of the parts' cosines, weighted by the squares of `weights`. A
    part of zeros takes no share.

    Args:
        parts: Vectors of any length; each is brought to unit length first.
        weights: One for each part; all equal if None.

    Returns:
        float32, as long as all parts together.
    """
    shares = weights or [1.0] * len(parts)
    scaled = [share * unit(part) for share, part in zip(shares, parts, strict=True)]
    return unit(np.concatenate(scaled)).astype(np.float32)
