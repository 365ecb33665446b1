"""Faiss: inverted lists of whole vectors.

The vectors are put into as many lists as the square root of their number, each around a center that k-means finds; the
lists hold the vectors themselves (IVF-flat; Johnson, Douze and Jegou, Billion-scale similarity search with GPUs, 2017).
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError, MissingComponentError
from imgsearch.files import sync
from imgsearch.search.backends.protocol import Rows, missed_items, require_mappable, utf8_name
from imgsearch.store.arrays import BLOCK_ROWS, blocks_of
from imgsearch.store.search_settings import BackendSettings, Numbers, SearchOptions
from imgsearch.system import refusal_of

# Rows that are visited for each of the k results, if that is more than what was tuned for ten.
_ROWS_FOR_EACH = 20
# More vectors a list than this hardly move its center, and cost time and memory.
_LEARNED_FROM = 100
# 1, 2, 3, 4, 6, 8, 12, ...: of the lists.
_PROBES = sorted(factor << power for factor in (1, 3) for power in range(32))


class FaissBackend:
    """Searches the lists whose centers are nearest to the query; see `Backend`."""

    name = "faiss"
    file = "lists.faiss"
    numbers: Numbers = "float32"

    def ensure_available(self, *, by_fork: bool = False) -> None:  # noqa: ARG002
        import_faiss()

    def estimated_bytes(self, count: int, vector_bytes: int, options: SearchOptions) -> int:  # noqa: ARG002
        return (count + lists_for(count)) * (vector_bytes + 8)

    def trials(self, options: SearchOptions, count: int) -> Sequence[BackendSettings]:
        return (BackendSettings(self.name, 0, options.seed, 0, lists_for(count), 1),)

    def build(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        faiss = import_faiss()
        count, dims = vectors.shape
        rows = np.random.default_rng(settings.seed).permutation(count)[: _LEARNED_FROM * settings.lists]
        built, lists = self._empty(faiss, dims, settings)
        lists.cp.seed = settings.seed
        lists.cp.min_points_per_centroid = 1  # of a small catalog Faiss would warn that it is small
        with one_thread(faiss):
            built.train(vectors[np.sort(rows)])
            for block in blocks_of(vectors):
                built.add(block)
        self._write(faiss, built, folder)

    def take_over(
        self, folder: Path, vectors: Vectors, settings: BackendSettings, before: Path, new_rows: Rows
    ) -> bool:
        faiss = import_faiss()
        opened = self._opened(before, len(new_rows), vectors.shape[1], settings)
        added = opened.renumber(new_rows, len(vectors))
        with one_thread(faiss):
            for start in range(0, len(added), BLOCK_ROWS):
                part = added[start : start + BLOCK_ROWS]
                opened.index.add_with_ids(vectors[part], part)
        self._write(faiss, opened.index, folder)
        return True

    def _empty(self, faiss: Any, dims: int, settings: BackendSettings) -> tuple[Any, Any]:
        """Make an index without vectors; return it, and what in it has the lists."""
        lists = faiss.IndexIVFFlat(faiss.IndexFlatIP(dims), dims, settings.lists, faiss.METRIC_INNER_PRODUCT)
        return lists, lists

    def _write(self, faiss: Any, built: Any, folder: Path) -> None:
        with (folder / self.file).open("wb") as file:
            # Writing by name, Faiss does not notice an error at the very end.
            faiss.write_index(built, faiss.PyCallbackIOWriter(file.write))
        sync(folder / self.file)

    def check(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        path = folder / self.file
        opened = self.open(folder, vectors, settings)
        if opened.lists != settings.lists:
            raise DamagedIndexError(f"{path} is damaged: {opened.lists} lists, expected {settings.lists}")
        missed, asked = missed_items(opened, vectors)
        if missed:
            raise DamagedIndexError(f"{path} is damaged: it does not find {missed} of {asked} items by themselves")

    def open(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> "FaissCandidates":
        return self._opened(folder, len(vectors), vectors.shape[1], settings)

    def _opened(self, folder: Path, count: int, dims: int, settings: BackendSettings) -> "FaissCandidates":
        if not settings.lists:
            raise DamagedIndexError(f"the manifest of {folder} is damaged: it says that there are 0 lists")
        return self._candidates(folder / self.file, count, dims, settings.probes)

    def _candidates(self, path: Path, count: int, dims: int, probes: int) -> "FaissCandidates":
        return FaissCandidates(path, count, dims, probes)

    def efforts(self, settings: BackendSettings, count: int) -> Iterator[int]:  # noqa: ARG002
        yield from (probes for probes in _PROBES if probes < settings.lists)
        yield settings.lists

    def effort_range(self, settings: BackendSettings, k: int, count: int) -> tuple[int, int]:
        return least_probes(k, settings.lists, count), settings.lists

    def describe(self, settings: BackendSettings) -> str:
        return f"{self.name}, {settings.lists} lists, probes {settings.probes}, seed {settings.seed}"


class FaissCandidates:
    """Lists of `count` vectors, mapped; a search visits `probes` of them at least."""

    # Faiss's file has no checksum, and one that is cut between two fields crashes the process: check its sha256 first.

    def __init__(self, path: Path, count: int, dims: int, probes: int) -> None:
        self._faiss = import_faiss()
        self._probes = probes
        require_mappable(path)
        try:
            with utf8_name(path.parent) as folder:
                # IO_FLAG_MMAP, the older way to map a file, makes a search several times as slow.
                self.index = self._faiss.read_index(f"{folder}/{path.name}", self._faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise refusal_of(error) or DamagedIndexError(f"{path} is damaged: {error}") from error
        self._inverted = self._inverted_of(self.index, path)
        found = (self._inverted.ntotal, self.index.d, self._inverted.metric_type)
        if found != (count, dims, self._faiss.METRIC_INNER_PRODUCT):
            raise DamagedIndexError(
                f"{path} is damaged: {found[0]} items of {found[1]} dimensions, metric {found[2]}, expected {count} of"
                f" {dims}, metric {self._faiss.METRIC_INNER_PRODUCT}"
            )

    def _inverted_of(self, index: Any, path: Path) -> Any:
        """Return what in an index has the lists."""
        if not isinstance(index, self._faiss.IndexIVFFlat):
            raise DamagedIndexError(f"{path} is damaged: {type(index).__name__}, expected IndexIVFFlat")
        return index

    @property
    def lists(self) -> int:
        """How many lists there are."""
        return int(self._inverted.nlist)

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        probes = max(self._probes, least_probes(k, self.lists, self._inverted.ntotal))
        while True:
            with one_thread(self._faiss):
                _, rows = self.index.search(vector[None], self._wanted(k, probes), params=self._parameters(probes))
            found = np.asarray(rows[0][rows[0] >= 0], np.int64)  # -1 where the lists hold fewer
            if len(found) >= min(k, self._inverted.ntotal) or probes >= self.lists:
                return found
            probes *= 2

    def _wanted(self, k: int, probes: int) -> int:  # noqa: ARG002
        """Return how many candidates are asked for."""
        return 2 * k + 10

    def _parameters(self, probes: int) -> Any:
        return self._faiss.SearchParametersIVF(nprobe=probes)

    def renumber(self, new_rows: Rows, count: int) -> Rows:
        """Give each row, in memory, its new number below `count`, or drop it (-1); return the numbers not given."""
        old, width = self._inverted.invlists, self._inverted.code_size
        lists = self._faiss.ArrayInvertedLists(self.lists, width)
        for number in range(self.lists):
            size = old.list_size(number)
            if size:
                rows = new_rows[self._faiss.rev_swig_ptr(old.get_ids(number), size)]
                codes = self._faiss.rev_swig_ptr(old.get_codes(number), size * width).reshape(size, width)
                kept, codes = rows[rows >= 0], codes[rows >= 0]
                lists.add_entries(number, len(kept), self._faiss.swig_ptr(kept), self._faiss.swig_ptr(codes))
        lists.this.disown()  # Faiss ends it, as what was there before
        self._inverted.replace_invlists(lists, True)
        is_given = np.zeros(count, bool)
        is_given[new_rows[new_rows >= 0]] = True
        self._inverted.ntotal = self.index.ntotal = int(is_given.sum())
        return np.flatnonzero(~is_given)


def lists_for(count: int) -> int:
    """Into how many lists so many vectors are put: it takes as long to find the lists as to search one."""
    return max(1, round(math.sqrt(count)))


def least_probes(k: int, lists: int, count: int) -> int:
    """How many lists are searched at least for k results, whatever was tuned for ten."""
    return min(lists, math.ceil(_ROWS_FOR_EACH * k * lists / count))


def import_faiss() -> Any:
    """Import Faiss; raise `MissingComponentError` if it is not installed."""
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
