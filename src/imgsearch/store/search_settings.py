"""How an index is searched: the user's options, what was chosen, and what that was measured to find."""

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from imgsearch.records import Check, Count, Missing, Share, between, matching

AUTO = "auto"

# What the searched vectors are stored as.
Numbers = Literal["float32", "float16"]

TREES_LIMIT = 10_000
# What Annoy takes as a number.
MAX_SEED = 2**31 - 1

_Trees = Annotated[int, between(0, TREES_LIMIT)]
# `imgsearch.search.backends` knows which there are.
_Name = Annotated[str, matching("[a-z][a-z0-9_-]{0,40}", "the name of a backend")]
_Seed = Annotated[int, between(0, MAX_SEED)]
_Milliseconds = Annotated[float, between(0, 1e12)]


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How the user wants an index to be searched; see `imgsearch.build.options.IndexOptions`."""

    backend: _Name = AUTO
    trees: _Trees | None = None
    seed: _Seed = 0
    target_recall: Annotated[float, Check("above 0 and at most 1", lambda share: 0 < share <= 1)] = 0.99
    server: Annotated[str, Missing("")] = ""  # address of the server that a backend keeps candidates in, or empty
    memory_budget: Annotated[Count | None, Missing(None)] = None  # bytes that a process that answers may come to hold


@dataclass(frozen=True, slots=True)
class BackendSettings:
    """How candidates are found; numbers that are another backend's are 0."""

    name: _Name
    trees: _Trees  # of the Annoy forest
    seed: _Seed
    # How many nodes of the forest a search visits, at least; if missing, that of all indexes before each was tuned.
    search_k: Annotated[int, between(0, 2**28), Missing(20_000)]
    lists: Annotated[Count, Missing(0)] = 0  # into which Faiss has put the vectors
    probes: Annotated[Count, Missing(0)] = 0  # how many of them a search visits, at least
    server: Annotated[str, Missing("")] = ""  # as of `SearchOptions`
    collection: Annotated[str, matching("(imgsearch_[0-9a-f]{16})?", "a collection's name"), Missing("")] = ""
    # Of the directory of the index when it was built: a copy elsewhere must not change what the original needs.
    place: Annotated[str, Missing("")] = ""
    changed: Annotated[Count, Missing(0)] = 0  # vectors added or removed since this was tuned, in later generations

    def __post_init__(self) -> None:
        if not min(1, self.lists) <= self.probes <= self.lists:
            raise ValueError(f"expected 1 to {self.lists} probes, found {self.probes}")

    @property
    def effort_name(self) -> str:
        """What a search does at least is called: `probes` where there are lists, `effort` with a server, `search_k`."""
        return "probes" if self.lists else "effort" if self.server else "search_k"

    @property
    def effort(self) -> int:
        """What a search does at least."""
        return self.probes if self.lists else self.search_k

    def with_effort(self, effort: int) -> "BackendSettings":
        """Change what a search does at least."""
        return replace(self, probes=effort) if self.lists else replace(self, search_k=effort)


@dataclass(frozen=True, slots=True)
class Measured:
    """What a search was measured to find when the index was built, and its latency on that machine."""

    queries: Count
    recall: Share  # of the ten nearest others
    p50_ms: _Milliseconds
    p95_ms: _Milliseconds
    exact_p50_ms: _Milliseconds  # of comparisons with every vector
