"""Several images asked with at once: one vector of them all, and others taken away; in the searched space."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from imgsearch.encoders.runtime import Embeddings
from imgsearch.errors import UsageError
from imgsearch.search.views import View

# `max`: an item has the best score that any of the images gives; `mean`: that with the mean of their vectors.
Fuse = Literal["mean", "max"]

# How much of the mean of what is not wanted is taken away (docs/benchmarks.md).
UNWANTED_WEIGHT = 0.25

# Of a sum of unit vectors. What is shorter is rounding: it has no direction to search in.
_SHORTEST = 1e-3


def mean_view(views: Sequence[View], weights: Sequence[float] | None = None) -> View:
    """Return the weighted mean of views, of unit length; one stays what it is. UsageError if they cancel out."""
    if len(views) == 1:
        return views[0]
    mean = _unit(np.average([view.vector for view in views], axis=0, weights=weights))
    if mean is None:
        raise UsageError("the mean of these images is nothing: they are opposites", hint="ask with --fuse max")
    return View(mean)


def take_away(views: Sequence[View], unwanted: Sequence[View], weight: float = UNWANTED_WEIGHT) -> list[View]:
    """Subtract from each view the weighted mean of others, and bring it to unit length; all stays if there are none.

    Raises:
        UsageError: Nothing is left of any.
    """
    if not unwanted:
        return list(views)
    away = weight * np.mean([view.vector for view in unwanted], axis=0)
    differences = [(view, _unit(view.vector - away)) for view in views]
    left = [replace(view, vector=vector, row=None) for view, vector in differences if vector is not None]
    if not left:
        raise UsageError(
            "nothing is left to search with: what is asked with and what is taken away look the same",
            hint="take away an image that looks different",
        )
    return left


def _unit(vector: Embeddings) -> Embeddings | None:
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length, np.float32) if length > _SHORTEST else None
