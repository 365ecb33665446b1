"""Faiss: inverted lists of codes, one bit for each number of a vector, for large catalogs in little memory.

A code has the signs of what is left of a vector, turned at random, when the center of its list is subtracted, and two
factors that make an unbiased estimate of a cosine of them (Gao and Long, RaBitQ: quantizing high-dimensional vectors
with a theoretical error bound for approximate nearest neighbor search, 2024). Estimates need more candidates than
whole vectors do; they are compared exactly, as all candidates are.
"""

from pathlib import Path
from typing import Any

from imgsearch.errors import DamagedIndexError
from imgsearch.search.backends.faiss import FaissBackend, FaissCandidates, lists_for
from imgsearch.store.search_settings import BackendSettings, Numbers, SearchOptions

# Of each number of the query.
_QUERY_BITS = 8
# Candidates beyond two for each result; or one of so many codes that are visited, if that is more (docs/benchmarks.md).
_MORE_CANDIDATES = 100
_CODES_FOR_EACH = 100


class FaissCodesBackend(FaissBackend):
    """Searches by codes the lists whose centers are nearest to the query; see `Backend`."""

    name = "faiss-codes"
    file = "codes.faiss"
    numbers: Numbers = "float16"

    def estimated_bytes(self, count: int, vector_bytes: int, options: SearchOptions) -> int:  # noqa: ARG002
        # A code has two factors, and a number of eight bytes; the rotation is a square.
        return count * (-(-vector_bytes // 32) + 16) + lists_for(count) * (vector_bytes + 8) + vector_bytes**2 // 4

    def _empty(self, faiss: Any, dims: int, settings: BackendSettings) -> tuple[Any, Any]:
        rotation = faiss.RandomRotationMatrix(dims, dims)
        rotation.init(settings.seed)
        lists = faiss.IndexIVFRaBitQ(faiss.IndexFlatIP(dims), dims, settings.lists, faiss.METRIC_INNER_PRODUCT)
        return faiss.IndexPreTransform(rotation, lists), lists

    def _candidates(self, path: Path, count: int, dims: int, probes: int) -> FaissCandidates:
        return _Codes(path, count, dims, probes)


class _Codes(FaissCandidates):
    def _inverted_of(self, index: Any, path: Path) -> Any:
        faiss = self._faiss
        parts = [type(index)]
        if isinstance(index, faiss.IndexPreTransform):
            inverted = faiss.downcast_index(index.index)
            chain = [faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(index.chain.size())]
            parts = [*map(type, chain), type(inverted)]
            if parts == [faiss.RandomRotationMatrix, faiss.IndexIVFRaBitQ] and chain[0].d_in == index.d:
                return inverted
        found = ", ".join(part.__name__ for part in parts)
        raise DamagedIndexError(f"{path} is damaged: {found}, expected RandomRotationMatrix, IndexIVFRaBitQ")

    def _wanted(self, k: int, probes: int) -> int:
        visited: int = probes * self._inverted.ntotal // self.lists
        return max(2 * k + _MORE_CANDIDATES, visited // _CODES_FOR_EACH)

    def _parameters(self, probes: int) -> Any:
        inverted = self._faiss.IVFRaBitQSearchParameters(nprobe=probes, qb=_QUERY_BITS)
        return self._faiss.SearchParametersPreTransform(index_params=inverted)
