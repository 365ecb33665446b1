"""Candidate search: which rows are worth an exact score. Backends only propose; scores come from the vectors."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.files import sync
from imgsearch.store.arrays import BLOCK_ROWS, blocks_of
from imgsearch.store.generations import ANNOY, BACKEND_FILES
from imgsearch.store.plan import BackendSettings

Rows = NDArray[np.int64]

# Nodes that are looked at for each of the results that are wanted, if that is more than what was tuned for ten.
NODES_FOR_EACH = 40
# The same for rows that Faiss looks at.
_ROWS_FOR_EACH = 20


def scores_of(vectors: Embeddings, vector: Embeddings) -> Embeddings:
    """Multiply rows with a vector, each by itself.

    `vectors @ vector` is no faster, and rounds a row by its place among the others: equal images would differ.
    """
    return np.asarray(np.einsum("ij,j->i", vectors, vector), np.float32)


class Backend(Protocol):
    """Finds candidates among the vectors of one generation."""

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        """Propose rows for a query.

        Args:
            vector: Unit float32 of shape (d,).
            k: How many results are wanted.

        Returns:
            Rows that hold the k best with high probability, in no order, without repetition.
        """
        ...


class ExactBackend:
    """Compares with every vector.

    Args:
        vectors: float32 (count, d), unit rows.
        rows: Rows to consider, ascending; all of them if None.
    """

    def __init__(self, vectors: Embeddings, rows: Rows | None = None) -> None:
        self._vectors = vectors
        self._rows = rows

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        """Return the k best rows; see `Backend`."""
        best_rows, best_scores = np.empty(0, np.int64), np.empty(0, np.float32)
        for rows, block in self._blocks():
            best_rows = np.concatenate([best_rows, rows])
            best_scores = np.concatenate([best_scores, scores_of(block, vector)])
            if len(best_rows) > k:
                # Ties go to the lower row, so that an answer does not depend on the blocks.
                order = np.lexsort((best_rows, -best_scores))[:k]
                best_rows, best_scores = best_rows[order], best_scores[order]
        return best_rows

    def _blocks(self) -> Iterator[tuple[Rows, Embeddings]]:
        if self._rows is None:
            start = 0
            for block in blocks_of(self._vectors):
                yield np.arange(start, start + len(block)), block
                start += len(block)
        else:
            for start in range(0, len(self._rows), BLOCK_ROWS):
                part = self._rows[start : start + BLOCK_ROWS]
                yield part, self._vectors[part]


class AnnoyBackend:
    """Looks in a forest of random projections (Annoy).

    Annoy's file has no header and no checksum, and a damaged one crashes the process: check its sha256 first.

    Args:
        path: The published `annoy.ann`.
        count: Vectors in it.
        dims: Length of a vector.
        search_k: How many of its nodes a search looks at, at least.

    Raises:
        DamagedIndexError: Annoy cannot read it.
    """

    def __init__(self, path: Path, count: int, dims: int, search_k: int) -> None:
        # Imported where it is used: a processor that cannot run it still searches with `exact`.
        from annoy import AnnoyIndex

        self._search_k = search_k
        self._forest = AnnoyIndex(dims, "angular")
        try:
            with _utf8_name(path.parent) as folder:
                self._forest.load(f"{folder}/{path.name}")
        except OSError as error:
            raise DamagedIndexError(f"{path} is damaged: {error}") from error
        if self._forest.get_n_items() != count:
            raise DamagedIndexError(f"{path} is damaged: {self._forest.get_n_items()} items, expected {count}")

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        """Return about twice k rows; see `Backend`."""
        wanted = 2 * k + 10
        search_k = max(self._search_k, NODES_FOR_EACH * k)
        return np.asarray(self._forest.get_nns_by_vector(vector, wanted, search_k), np.int64)


class FaissBackend:
    """Looks in those of many lists whose centers are nearest to the query (Faiss, inverted lists of whole vectors).

    Faiss's file has no checksum, and one that is cut between two fields crashes the process: check its sha256 first.

    Args:
        path: The published `lists.faiss`.
        count: Vectors in it.
        dims: Length of a vector.
        probes: In how many lists a search looks, at least; 1 or more.

    Raises:
        DamagedIndexError: Faiss cannot read it, or it holds something else.
        MissingComponentError: Faiss is not installed.
    """

    def __init__(self, path: Path, count: int, dims: int, probes: int) -> None:
        self._faiss = import_faiss()
        self._probes = probes
        try:
            with _utf8_name(path.parent) as folder:
                # IO_FLAG_MMAP, the older way to map a file, makes a search several times as slow.
                self._index = self._faiss.read_index(f"{folder}/{path.name}", self._faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise DamagedIndexError(f"{path} is damaged: {error}") from error
        if not isinstance(self._index, self._faiss.IndexIVFFlat):
            raise DamagedIndexError(f"{path} is damaged: {type(self._index).__name__}, expected IndexIVFFlat")
        found = (self._index.ntotal, self._index.d, self._index.metric_type)
        if found != (count, dims, self._faiss.METRIC_INNER_PRODUCT):
            raise DamagedIndexError(
                f"{path} is damaged: {found[0]} items of {found[1]} dimensions, metric {found[2]}, expected {count} of"
                f" {dims}, metric {self._faiss.METRIC_INNER_PRODUCT}"
            )

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._index.nlist)

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        """Return about twice k rows; see `Backend`."""
        wanted = 2 * k + 10
        probes = max(self._probes, least_probes(k, self.lists, self._index.ntotal))
        while True:
            how = self._faiss.SearchParametersIVF(nprobe=probes)
            with one_thread(self._faiss):
                _, rows = self._index.search(vector[None], wanted, params=how)
            found = np.asarray(rows[0][rows[0] >= 0], np.int64)  # -1 where the lists hold fewer
            if len(found) >= min(k, self._index.ntotal) or probes >= self.lists:
                return found
            probes *= 2


def least_probes(k: int, lists: int, count: int) -> int:
    """Say into how many lists Faiss looks at least for k results, whatever was tuned for ten."""
    return min(lists, math.ceil(_ROWS_FOR_EACH * k * lists / count))


def open_backend(folder: Path, settings: BackendSettings, count: int, dims: int) -> Backend:
    """Open what a generation is searched with.

    Args:
        folder: Of the generation.
        settings: Of a backend that has a file.
        count: Vectors of the generation.
        dims: Length of a vector.

    Raises:
        DamagedIndexError: The file cannot be read, or holds something else.
        MissingComponentError: The library that reads it is not installed.
    """
    kind = FaissBackend if settings.name == "faiss" else AnnoyBackend
    return kind(folder / BACKEND_FILES[settings.name], count, dims, settings.effort)


def import_faiss() -> Any:
    """Import Faiss.

    Raises:
        MissingComponentError: It is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingComponentError(
            f"the backend faiss needs a library that cannot be imported: {error}",
            hint="pip install 'imgsearch-toolkit[faiss]'; or go without: build-index --backend annoy, query --exact",
        ) from error
    return faiss


@contextlib.contextmanager
def one_thread(faiss: Any) -> Iterator[None]:
    """Let Faiss use one thread, as all searches here do, and as builds must that give the same bytes every time."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@contextlib.contextmanager
def _utf8_name(folder: Path) -> Iterator[str]:
    """Give a folder a name that Annoy and Faiss take, which want UTF-8: its own, or that of an open descriptor."""
    name = os.fspath(folder)
    if name == name.encode("utf-8", "replace").decode():
        yield name
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def build_annoy(folder: Path, vectors: Embeddings, trees: int, seed: int) -> None:
    """Build an Annoy forest and write it into the folder of a generation. The same parameters give the same bytes.

    Args:
        folder: Not published yet.
        vectors: float32 (count, d), unit rows.
        trees: How many.
        seed: Of the random projections.

    Raises:
        OSError: It cannot be written.
    """
    from annoy import AnnoyIndex

    forest = AnnoyIndex(vectors.shape[1], "angular")
    forest.set_seed(seed)
    for row, vector in enumerate(vectors):
        forest.add_item(row, vector)
    forest.build(trees, n_jobs=1)  # with more threads two builds differ
    with _utf8_name(folder) as name:
        forest.save(f"{name}/{ANNOY}")
    sync(folder / ANNOY)
