"""How an index is searched: what the user wants, what was chosen, and what that was measured to find."""

from dataclasses import dataclass, replace
from typing import Any

from imgsearch.validate import count_of, number_of, one_of

# What all indexes were searched with before each was tuned.
_SEARCH_K_OF_BEFORE = 20_000

_LONGEST_MS = 1e12

WISHES = ("auto", "annoy", "faiss", "exact")
BACKENDS = ("annoy", "faiss", "exact")
TREES_LIMIT = 10_000
# What Annoy takes as a number.
MOST_SEED = 2**31 - 1
_MOST_SEARCH_K = 2**28


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How the user wants an index to be searched.

    Attributes:
        backend: `annoy`, `faiss`, `exact`, or `auto`: whichever of Annoy and exact is faster.
        trees: Trees of the Annoy forest; None: as many as are worth it.
        seed: Of the Annoy forest or the Faiss lists, and of the sample that the search is tuned on.
        target_recall: Share of the ten nearest that is to be found at least, above 0, at most 1.
    """

    backend: str = "auto"
    trees: int | None = None
    seed: int = 0
    target_recall: float = 0.99

    @classmethod
    def from_json(cls, data: Any) -> "SearchOptions | None":
        """Read what the manifest says; None for null.

        Raises:
            KeyError, TypeError, ValueError: Something is missing or of the wrong kind.
        """
        if data is None:
            return None
        trees = None if data["trees"] is None else count_of(data["trees"], TREES_LIMIT)
        target = number_of(data["target_recall"], 0, 1)
        if not target:
            raise ValueError("expected a target recall above 0, found 0")
        return cls(one_of(data["backend"], WISHES), trees, count_of(data["seed"], MOST_SEED), target)


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How candidates are found.

    Attributes:
        name: `annoy`, `faiss` or `exact`.
        trees: Trees of the Annoy forest; 0 for others.
        seed: Seed of the forest or the lists.
        search_k: How many nodes of the forest a search looks at, at least; 0 for others.
        lists: Into how many lists Faiss has put the vectors; 0 for others.
        probes: How many of them a search looks at, at least; 0 for others.
    """

    name: str
    trees: int
    seed: int
    search_k: int
    lists: int = 0
    probes: int = 0

    @property
    def effort(self) -> int:
        """What a search does at least: `probes` for `faiss`, `search_k` for others."""
        return self.probes if self.name == "faiss" else self.search_k

    def with_effort(self, effort: int) -> "BackendSettings":
        """Change what a search does at least."""
        return replace(self, probes=effort) if self.name == "faiss" else replace(self, search_k=effort)

    @classmethod
    def from_json(cls, data: Any) -> "BackendSettings | None":
        """Read what the manifest says; None for null. As `SearchOptions.from_json`."""
        if data is None:
            return None
        name = one_of(data["name"], BACKENDS)
        search_k = count_of(data.get("search_k", _SEARCH_K_OF_BEFORE), _MOST_SEARCH_K)
        lists, probes = (count_of(data.get(name, 0)) for name in ("lists", "probes"))
        if name == "faiss" and not 1 <= probes <= lists:
            raise ValueError(f"expected 1 to {lists} probes, found {probes}")
        trees, seed = count_of(data["trees"], TREES_LIMIT), count_of(data["seed"], MOST_SEED)
        return cls(name, trees, seed, search_k, lists, probes)

    def as_wish(self) -> SearchOptions:
        """Take what an index was built with for a wish: those of before wishes were kept have nothing else."""
        return SearchOptions("exact" if self.name == "exact" else "auto", None, self.seed)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a search was measured to find when the index was built.

    Attributes:
        queries: How many items were asked for.
        recall: Share of the ten nearest others that was found, 0 to 1.
        p50_ms: Half of the searches took at most so many milliseconds, on the machine that built the index.
        p95_ms: 95 of 100 did.
        exact_p50_ms: Half of the comparisons with every vector did.
    """

    queries: int
    recall: float
    p50_ms: float
    p95_ms: float
    exact_p50_ms: float

    @classmethod
    def from_json(cls, data: Any) -> "Measured | None":
        """Read what the manifest says; None for null. As `SearchOptions.from_json`."""
        if data is None:
            return None
        times = (number_of(data[name], 0, _LONGEST_MS) for name in ("p50_ms", "p95_ms", "exact_p50_ms"))
        return cls(count_of(data["queries"]), number_of(data["recall"], 0, 1), *times)
