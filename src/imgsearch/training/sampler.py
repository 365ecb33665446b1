"""Which images go together in a batch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

# Images of a class in a batch of a loss that compares them; Hermans, Beyer and Leibe (2017) take four.
IMAGES_OF_A_CLASS = 4


def shuffled(rows: Rows, batch_size: int, generator: np.random.Generator) -> Rows:
    """Put images into batches by chance, each at most once.

    Args:
        rows: At least `batch_size`.
        batch_size: Images in a batch; those left over wait for another epoch.
        generator: Source of all chance.

    Returns:
        int64 (batches, batch_size).
    """
    count = len(rows) // batch_size
    return generator.permutation(rows)[: count * batch_size].reshape(count, batch_size)


def several_of_a_class(rows: Rows, labels: Rows, batch_size: int, generator: np.random.Generator) -> Rows:
    """Put images into batches of some classes with several images each, so that there is something to compare.

    All classes come equally often. Of a class that has too few images, some are taken again: augmentation makes
    other views of them.

    Args:
        rows: Of the images to take from, at least `batch_size`.
        labels: Class of each of `rows`, of two classes at least.
        batch_size: Images in a batch, at least 4; one that cannot be divided is rounded down.
        generator: Source of all chance.

    Returns:
        int64 (batches, images): about as many images in all as there are rows.
    """
    names = np.unique(labels)
    classes = min(max(batch_size // IMAGES_OF_A_CLASS, 2), len(names))
    each = batch_size // classes
    members = [rows[labels == name] for name in names]
    batches = [
        np.concatenate([_some(members[number], each, generator) for number in chosen])
        for chosen in _rounds(len(names), classes, len(rows) // (classes * each), generator)
    ]
    return np.stack(batches)


def _rounds(count: int, classes: int, batches: int, generator: np.random.Generator) -> Sequence[Rows]:
    """Choose classes for each batch, each class once before any comes again."""
    # A batch that spans two rounds may have a class twice, which does no harm.
    needed = batches * classes
    rounds = [generator.permutation(count) for _ in range(-(-needed // count))]
    return list(np.concatenate(rounds)[:needed].reshape(batches, classes))


def _some(members: Rows, count: int, generator: np.random.Generator) -> Rows:
    """Take some of a class, each as seldom as can be."""
    rounds = [generator.permutation(members) for _ in range(-(-count // len(members)))]
    return np.concatenate(rounds)[:count]
