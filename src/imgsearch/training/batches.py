"""Which images go together in a batch, and batches as Keras takes them."""

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# Images of a class in a batch of a loss that compares them; Hermans, Beyer and Leibe (2017) take four.
IMAGES_PER_CLASS = 4


class Batches(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no types
    """Batches of an epoch or an evaluation: rows of mapped arrays, which have a target and perhaps a weight each."""

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


def shuffled(rows: Rows, batch_size: int, generator: np.random.Generator) -> Rows:
    """Put rows into random batches (batches, batch_size), each at most once; those left over wait for another epoch."""
    count = len(rows) // batch_size
    return generator.permutation(rows)[: count * batch_size].reshape(count, batch_size)


def balanced(rows: Rows, labels: Rows, batch_size: int, generator: np.random.Generator) -> Rows:
    """Put labeled rows into batches of some classes with several images each, all classes equally often."""
    names = np.unique(labels)
    classes = min(max(batch_size // IMAGES_PER_CLASS, 2), len(names))
    each = batch_size // classes
    members = [rows[labels == name] for name in names]
    # Each class once before any comes again. A batch that spans two rounds may have one twice, which does no harm.
    count = len(rows) // (classes * each)
    chosen = _repeated(np.arange(len(names)), count * classes, generator).reshape(count, classes)
    return np.stack(
        [np.concatenate([_repeated(members[number], each, generator) for number in batch]) for batch in chosen]
    )


def _repeated(rows: Rows, count: int, generator: np.random.Generator) -> Rows:
    """Take so many rows at random, each once before any comes again."""
    rounds = [generator.permutation(rows) for _ in range(-(-count // len(rows)))]
    return np.concatenate(rounds)[:count]
