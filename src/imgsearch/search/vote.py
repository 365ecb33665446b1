"""Name the class of an image by the categories of what was found for it."""

import math
from collections import Counter
from collections.abc import Sequence

from imgsearch.encoders.classifier import ClassProbability
from imgsearch.search.hits import Hit

# How much less a neighbor counts with each step in its score: 0.07 in the nearest-neighbor classifier of Wu et al.
# (Unsupervised Feature Learning via Non-Parametric Instance Discrimination, 2018, section 3.4).
_TEMPERATURE = 0.07


def vote(hits: Sequence[Hit]) -> list[ClassProbability]:
    """Let neighbors vote for their categories, the nearer with the more weight.

    Args:
        hits: What was found, best first.

    Returns:
        Every category among them with its share of the votes, which is no calibrated probability; the largest first,
        equal ones by name.
    """
    weights: Counter[str] = Counter()
    for hit in hits:
        weights[hit.category] += math.exp((hit.score - hits[0].score) / _TEMPERATURE)  # type: ignore[assignment]  # a Counter counts in floats, too
    total = sum(weights.values())
    ordered = sorted(weights.items(), key=lambda item: (-item[1], item[0]))
    return [ClassProbability(rank, label, weight / total) for rank, (label, weight) in enumerate(ordered, start=1)]
