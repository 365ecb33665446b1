"""What one person did, as recommendations need it: items of the index, and how much each says of what they like."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.search.backends.protocol import Rows


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What one person did with products that are in the index; each product once.

    Attributes:
        rows: (n,), of each product its first image.
        weights: (n,) float64, the weights of its events, each halved with every half-life that passed since; below 0
            for what they dislike or gave back.
    """

    rows: Rows
    weights: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.rows)
