"""What a backend is: it proposes rows that are worth an exact score. Scores always come from the vectors."""

import contextlib
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.errors import DamagedIndexError
from imgsearch.files import open_regular, reading
from imgsearch.store.integrity import repair_hint
from imgsearch.store.search_settings import BackendSettings, Numbers, SearchOptions

Rows = NDArray[np.int64]

# Items that a check asks for.
_SAMPLE = 20
# Cosine of an item and one just like it.
_EQUAL = 0.999


class Candidates(Protocol):
    """A backend that is open: finds candidates among the vectors of one generation."""

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        """Propose rows for a query.

        Args:
            vector: Unit float32 of shape (d,).
            k: How many results are wanted.

        Returns:
            Rows that hold the k best with high probability, in no order, without repetition.
        """
        ...


class Backend(Protocol):
    """A way to search: one module beside this one, and one line in the table of `backends/__init__.py`.

    Vectors are (count, d), unit rows, count at least 1; folders are those of a generation.

    Attributes:
        name: In the manifest, and for `build-index --backend`.
        file: What it writes into the folder; empty if it needs the vectors alone.
        numbers: What the vectors are stored as that it searches.
    """

    name: str
    file: str
    numbers: Numbers

    def ensure_available(self, *, by_fork: bool = False) -> None:
        """Try whether it runs on this machine.

        Args:
            by_fork: This process has one thread, and may try in a fork, which is faster.

        Raises:
            MissingComponentError: It does not, or is not installed.
        """
        ...

    def estimated_bytes(self, count: int, vector_bytes: int, options: SearchOptions) -> int:
        """Estimate the size of its file in bytes."""
        ...

    def trials(self, options: SearchOptions, count: int) -> Sequence[BackendSettings]:
        """Return what to build, each with its least effort; the next is built where one takes too much effort."""
        ...

    def build(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        """Write and sync its file. The same settings give the same bytes.

        Raises:
            OSError: It cannot be written.
            MissingComponentError: Its library is not installed.
        """
        ...

    def take_over(
        self, folder: Path, vectors: Vectors, settings: BackendSettings, before: Path, new_rows: Rows
    ) -> bool:
        """Write its file from that of the generation before, of which few vectors have changed; without learning.

        Args:
            folder: Of the new generation.
            vectors: Of the new generation.
            settings: Those that its file was built with.
            before: Folder of the generation before, in which its file is whole.
            new_rows: The new row of each row before, (count before,); -1 for a vector that is gone.

        Returns:
            Whether it has; False: it cannot, build anew.

        Raises:
            DamagedIndexError: What is before cannot be read, or holds something else.
        """
        ...

    def check(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None:
        """Open its file, and find out whether it belongs to these vectors.

        Raises:
            DamagedIndexError: It cannot be opened, or is another one.
            MissingComponentError: Its library does not run here.
        """
        ...

    def open(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> Candidates:
        """Open its file, whose sha256 has been checked.

        Raises:
            DamagedIndexError: It cannot be read, or holds something else.
            MissingComponentError: Its library is not installed.
        """
        ...

    def efforts(self, settings: BackendSettings, count: int) -> Iterator[int]:
        """Yield efforts to try, ascending; the last finds everything that it can find."""
        ...

    def effort_range(self, settings: BackendSettings, k: int, count: int) -> tuple[int, int]:
        """Return the efforts below and above which a search for `k` results is the same."""
        ...

    def describe(self, settings: BackendSettings) -> str:
        """Say in words how the index is searched."""
        ...


def scores_of(vectors: Embeddings, vector: Embeddings) -> Embeddings:
    """Multiply rows with a vector, each by itself."""
    # `vectors @ vector` is no faster, and rounds a row by its place among the others: equal images would differ.
    return np.asarray(np.vecdot(vectors, vector), np.float32)


def missed_items(opened: Candidates, vectors: Vectors) -> tuple[int, int]:
    """Count, of some items that are asked for, those that are not found by themselves, and how many were asked."""
    rows = np.unique(np.linspace(0, len(vectors) - 1, _SAMPLE).astype(int))
    found = (scores_of(vectors[opened.candidates(vectors[row], 1)], vectors[row]) for row in rows)
    return sum(scores.max(initial=-1) < _EQUAL for scores in found), len(rows)


def require_mappable(path: Path) -> None:
    """Try to open and map a file, for a library that crashes where it cannot, or that does not say why.

    Raises:
        DamagedIndexError: It is empty, or no file.
        ResourceError: The system refuses.
    """
    with reading(path, repair_hint(path.name)), open_regular(path) as file:
        if not os.fstat(file.fileno()).st_size:
            raise DamagedIndexError(f"{path} is damaged: it is empty", hint=repair_hint(path.name))
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).close()


@contextlib.contextmanager
def utf8_name(folder: Path) -> Iterator[str]:
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
