"""Candidates where conditions hold: all of few, and of many what the index proposes, with growing effort."""

from collections.abc import Callable

from imgsearch.encoders.runtime import Embeddings
from imgsearch.search.backends.protocol import Candidates, Rows

# So many items that satisfy conditions are compared one by one: about as fast as to look for ten of more in an index,
# and exact (docs/benchmarks.md).
FEW = 5_000
# And so many, before a server has answered that is asked for others with the same conditions.
FEW_BESIDE_SERVER = 20_000

# The index is asked for so many times as many neighbors as results are wanted, and then for so many times more, until
# enough of them satisfy the conditions; beyond a part of the catalog all are compared.
_GROWTH = 4
_LARGEST_PART = 8


# A server is asked for what satisfies conditions once so many questions for what may or may not were not enough: with
# these it takes several times as long (docs/benchmarks.md).
_PLAIN_QUESTIONS = 3


class FilteredCandidates:
    """A backend, whose candidates are kept where conditions hold; `all_rows` of them are compared where that fails.

    In between, one that proposes hardly anything else is asked, where there is one: `narrowed`.
    """

    def __init__(
        self,
        backend: Candidates,
        count: int,
        among: Callable[[Rows], Rows],
        all_rows: Callable[[], Candidates],
        narrowed: Candidates | None = None,
    ) -> None:
        self._backend = backend
        self._narrowed = narrowed
        self._count = count
        self.among = among
        self.all_rows = all_rows

    def candidates(self, vector: Embeddings, k: int) -> Rows:
        """Propose rows as every backend does."""
        backend, wanted, asked = self._backend, _GROWTH * k, 0
        while wanted <= self._count // _LARGEST_PART:
            if self._narrowed is not None and asked == _PLAIN_QUESTIONS:
                backend, wanted = self._narrowed, _GROWTH * k
            rows = self.among(backend.candidates(vector, wanted))
            if len(rows) >= 2 * k:  # the farthest of what is proposed may have nearer ones that are not
                return rows
            wanted *= _GROWTH
            asked += 1
        return self.all_rows().candidates(vector, k)
