"""Compare with every vector: the truth, what small indexes are searched with, and all with a condition."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.encoders.vectors import Vectors
from imgsearch.search.backends.protocol import Rows, scores_of
from imgsearch.store.arrays import BLOCK_ROWS, blocks_of
from imgsearch.store.search_settings import BackendSettings, Numbers, SearchOptions


class ExactBackend:
    """Compares with every vector; see `Backend`. It has no file, and no effort to choose."""

    name = "exact"
    file = ""
    numbers: Numbers = "float32"

    def ensure_available(self, *, by_fork: bool = False) -> None: ...

    def estimated_bytes(self, count: int, vector_bytes: int, options: SearchOptions) -> int:  # noqa: ARG002
        return 0

    def trials(self, options: SearchOptions, count: int) -> Sequence[BackendSettings]:  # noqa: ARG002
        return (BackendSettings(self.name, 0, options.seed, 0),)

    def build(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None: ...

    def take_over(
        self,
        folder: Path,  # noqa: ARG002
        vectors: Vectors,  # noqa: ARG002
        settings: BackendSettings,  # noqa: ARG002
        before: Path,  # noqa: ARG002
        new_rows: Rows,  # noqa: ARG002
    ) -> bool:
        return True

    def check(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> None: ...

    def open(self, folder: Path, vectors: Vectors, settings: BackendSettings) -> "ExactCandidates":  # noqa: ARG002
        return ExactCandidates(vectors)

    def efforts(self, settings: BackendSettings, count: int) -> Iterator[int]:  # noqa: ARG002
        yield settings.effort

    def effort_range(self, settings: BackendSettings, k: int, count: int) -> tuple[int, int]:  # noqa: ARG002
        return settings.effort, settings.effort

    def describe(self, settings: BackendSettings) -> str:
        return settings.name


class ExactCandidates:
    """The k best of the given rows, ascending, or of all."""

    def __init__(self, vectors: Vectors, rows: Rows | None = None) -> None:
        self._vectors = vectors
        self.rows = rows

    def among(self, rows: Rows) -> Rows:
        """Return which of some rows are compared here."""
        return rows if self.rows is None else rows[np.isin(rows, self.rows)]

    def candidates(self, vector: Embeddings, k: int) -> Rows:
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
        if self.rows is None:
            start = 0
            for block in blocks_of(self._vectors):
                yield np.arange(start, start + len(block)), block
                start += len(block)
        else:
            for start in range(0, len(self.rows), BLOCK_ROWS):
                part = self.rows[start : start + BLOCK_ROWS]
                yield part, self._vectors[part]
