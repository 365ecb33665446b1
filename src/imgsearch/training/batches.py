"""Batches as Keras takes them, from mapped arrays."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from imgsearch.training.sampler import Rows


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """The batches of an epoch, or of an evaluation.

    Args:
        inputs: (count, ...), perhaps mapped: images or features.
        rows: Which of them are in each batch.
        targets: What Keras is to compare with, one for each of `inputs`.
        weights: What each of `inputs` counts; None for all the same.
    """

    def __init__(
        self,
        inputs: NDArray[Any],
        rows: Rows | list[Rows],
        targets: NDArray[Any],
        weights: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        self._inputs, self._rows, self._targets, self._weights = inputs, rows, targets, weights

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], ...]:
        rows = self._rows[index]
        inputs = np.ascontiguousarray(self._inputs[rows])
        if self._weights is None:
            return inputs, self._targets[rows]
        return inputs, self._targets[rows], self._weights[rows]


def in_order(rows: Rows, batch_size: int) -> list[Rows]:
    """Put rows into batches one after another, the last one perhaps shorter."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
