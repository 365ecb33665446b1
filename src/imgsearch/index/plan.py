"""How an index is searched: what the user wants, what was chosen, and what that was measured to find."""

from dataclasses import dataclass
from typing import Any

from imgsearch.index.checked import count_of, number_of

# What all indexes were searched with before each was tuned.
_SEARCH_K_OF_BEFORE = 20_000

_LONGEST_MS = 1e12


@dataclass(frozen=True, slots=True)
class SearchWish:
    """How the user wants an index to be searched.

    Attributes:
        backend: `annoy`, `exact`, or `auto`: whichever is faster.
        trees: Trees of the Annoy forest; None: as many as are worth it.
        seed: Of the Annoy forest, and of the sample that the search is tuned on.
        target_recall: Share of the ten nearest that is to be found at least, above 0, at most 1.
    """

    backend: str = "auto"
    trees: int | None = None
    seed: int = 0
    target_recall: float = 0.99

    @classmethod
    def from_json(cls, data: Any) -> "SearchWish | None":
        """Read what the manifest says; None for null.

        Raises:
            KeyError, TypeError, ValueError: Something is missing or of the wrong kind.
        """
        if data is None:
            return None
        trees = None if data["trees"] is None else count_of(data["trees"])
        return cls(str(data["backend"]), trees, count_of(data["seed"]), number_of(data["target_recall"], 0, 1))


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How candidates are found.

    Attributes:
        name: `annoy` or `exact`.
        trees: Trees of the Annoy forest; 0 for `exact`.
        seed: Seed of the Annoy forest.
        search_k: How many nodes of it a search looks at, at least; 0 for `exact`.
    """

    name: str
    trees: int
    seed: int
    search_k: int

    @classmethod
    def from_json(cls, data: Any) -> "BackendSettings | None":
        """Read what the manifest says; None for null. As `SearchWish.from_json`."""
        if data is None:
            return None
        search_k = count_of(data.get("search_k", _SEARCH_K_OF_BEFORE))
        return cls(str(data["name"]), count_of(data["trees"]), count_of(data["seed"]), search_k)

    def as_wish(self) -> SearchWish:
        """Take what an index was built with for a wish: those of before wishes were kept have nothing else."""
        return SearchWish("exact" if self.name == "exact" else "auto", None, self.seed)


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
        """Read what the manifest says; None for null. As `SearchWish.from_json`."""
        if data is None:
            return None
        times = (number_of(data[name], 0, _LONGEST_MS) for name in ("p50_ms", "p95_ms", "exact_p50_ms"))
        return cls(count_of(data["queries"]), number_of(data["recall"], 0, 1), *times)
