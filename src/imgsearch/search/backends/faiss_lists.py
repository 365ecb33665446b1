"""Faiss lists: built from the vectors of a generation, and looked at before they are published.

The vectors are put into as many lists as the square root of their number, each around a center that k-means finds; the
lists hold the vectors themselves (IVF-flat; Johnson, Douze and Jegou, Billion-scale similarity search with GPUs, 2017).
"""

import math
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError
from imgsearch.files import sync
from imgsearch.search.backends.backends import FaissBackend, import_faiss, one_thread, scores_of
from imgsearch.store.arrays import blocks_of
from imgsearch.store.generations import LISTS
from imgsearch.store.plan import BackendSettings

# More than so many vectors a list move its center hardly, and cost time and memory.
_TAUGHT_BY = 100
_SAMPLE = 20
# Of an item and one just like it.
_EQUAL = 0.999


def lists_for(count: int) -> int:
    """Say into how many lists so many vectors are put: it takes as long to find the lists as to look into one."""
    return max(1, round(math.sqrt(count)))


def build_faiss(folder: Path, vectors: Embeddings, lists: int, seed: int) -> None:
    """Build the lists and write them into the folder of a generation. The same parameters give the same bytes.

    Args:
        folder: Not published yet.
        vectors: float32 (count, d), unit rows; count at least `lists`.
        lists: How many.
        seed: Of the sample that teaches the centers, and of k-means.

    Raises:
        OSError: They cannot be written.
        MissingComponentError: Faiss is not installed.
    """
    faiss = import_faiss()
    count, dims = vectors.shape
    rows = np.random.default_rng(seed).permutation(count)[: _TAUGHT_BY * lists]
    built = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, lists, faiss.METRIC_INNER_PRODUCT)
    built.cp.seed = seed
    built.cp.min_points_per_centroid = 1  # of a small catalog Faiss would warn that it is small
    with one_thread(faiss):
        built.train(vectors[np.sort(rows)])
        for block in blocks_of(vectors):
            built.add(block)
    with (folder / LISTS).open("wb") as file:
        # Writing by name, Faiss does not notice an error at the very end.
        faiss.write_index(built, faiss.PyCallbackIOWriter(file.write))
    sync(folder / LISTS)


def check_lists(path: Path, vectors: Embeddings, settings: BackendSettings) -> None:
    """Open lists, and look whether they are those that belong to these vectors.

    Args:
        path: The file.
        vectors: float32 (count, d), unit rows, count at least 1.
        settings: What they were built with.

    Raises:
        DamagedIndexError: They cannot be opened, or are others.
        MissingComponentError: Faiss is not installed.
    """
    backend = FaissBackend(path, len(vectors), vectors.shape[1], settings.probes)
    if backend.lists != settings.lists:
        raise DamagedIndexError(f"{path} is damaged: {backend.lists} lists, expected {settings.lists}")
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(int))
    found = (scores_of(vectors[backend.candidates(vectors[row], 1)], vectors[row]) for row in rows)
    missed = sum(scores.max() < _EQUAL for scores in found)
    if missed:
        raise DamagedIndexError(f"{path} is damaged: it does not find {missed} of {len(rows)} items by themselves")
