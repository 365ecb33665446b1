"""What a score means: the probability that a hit is right, learned by `imgsearch evaluate --calibrate`."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from imgsearch.records import Count, Share, between


@dataclass(frozen=True, slots=True)
class Curve:
    """A piecewise linear function from scores to probabilities."""

    method: str  # `isotonic` or `platt`
    scores: tuple[Annotated[float, between(-1, 1)], ...]  # rising; at least one
    probabilities: tuple[Share, ...]  # at those scores, never falling

    def __post_init__(self) -> None:
        scores, probabilities = list(self.scores), list(self.probabilities)
        if not scores or len(scores) != len(probabilities):
            raise ValueError(f"expected as many scores as probabilities, found {len(scores)} and {len(probabilities)}")
        if scores != sorted(scores) or probabilities != sorted(probabilities):
            raise ValueError("expected scores that rise, and probabilities that never fall")


@dataclass(frozen=True, slots=True)
class Calibration:
    """Which probability belongs to which score."""

    meaning: str  # the column that a right hit shares with the query: `product` or another
    queries: Count  # that it was fitted on
    error: Share  # expected calibration error on other queries
    first: Curve  # of the first hit: at the same score it is right far more often than one that another has beaten
    later: Curve

    def probability(self, score: float, rank: int) -> float:
        """Return the probability, 0 to 1, that a hit is right, by its score and rank (from 1) alone."""
        curve = self.first if rank == 1 else self.later
        return float(np.interp(score, curve.scores, curve.probabilities))

    def of_answer(self, scores: Sequence[float], *, is_first: bool = True) -> list[float]:
        """Return the probability that each hit is right, best first; `is_first`: none in the whole index is better."""
        # No hit is more probable than one before it: the curves may cross, but a better score is no worse a sign.
        found = [self.probability(score, rank) for rank, score in enumerate(scores, start=1 if is_first else 2)]
        return list(itertools.accumulate(found, min))
