"""What orders hits by what people clicked: trees or a weighted sum, computed by NumPy alone, kept as an `.npz` file."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError
from imgsearch.personal.ranking.features import Quantiles
from imgsearch.records import as_json, read
from imgsearch.search.ranking import Scores
from imgsearch.store.arrays import stored_arrays
from imgsearch.store.integrity import repair_hint

Features = NDArray[np.float32]
Learner = Literal["lambdamart", "linear"]

_HINT = "train the ranking again: imgsearch train --objective rank --index DIR"


@dataclass(frozen=True, slots=True, eq=False)
class Trees:
    """A sum of decision trees: all their nodes one after the other, each before its children.

    Attributes:
        roots: int32 (trees,), ascending from 0: the node that each tree begins with.
        feature: int32 (nodes,), the column that a node compares; -1 for a leaf.
        threshold: float64 (nodes,): what is at most this goes left.
        goes_left: int8 (nodes,), 1 where an unknown value (NaN) goes left, 0 where it goes right.
        left: int32 (nodes,), the node's left child; of a leaf the node itself.
        right: int32 (nodes,), likewise.
        value: float64 (nodes,), what a leaf adds to the score; of other nodes the mean over what came there to learn.
    """

    roots: NDArray[np.int32]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float64]
    goes_left: NDArray[np.int8]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float64]
    _children: NDArray[np.intp] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # As NumPy counts places, or each look-up would convert them.
        object.__setattr__(self, "_children", np.stack([self.left, self.right], axis=1).ravel().astype(np.intp))

    def scores(self, x: Features) -> Scores:
        """Return the sum of the leaves that each row of (n, features) comes to: (n,)."""
        *_, leaves = self._levels(x)
        return np.asarray(self.value[leaves].sum(axis=1))

    def contributions(self, x: Features) -> Scores:
        """Return (n, features): the changes of the expected score at each node, summed by the feature compared there.

        Saabas: Interpreting random forests, 2014. A row sums to its score less that of the roots.
        """
        n, width = x.shape
        found = np.zeros((n, width))
        rows = np.arange(n)[:, None] * width
        for nodes, children in pairwise(self._levels(x)):
            change = self.value[children] - self.value[nodes]  # 0 for a leaf, whose child it is itself
            places = rows + np.maximum(self.feature[nodes], 0)
            found += np.bincount(places.ravel(), change.ravel(), n * width).reshape(n, width)
        return found

    def _levels(self, x: Features) -> Iterator[NDArray[np.intp]]:
        """Yield the nodes (n, trees) that the rows are at, level by level, until all are at leaves."""
        n, width = x.shape
        # What is unknown goes where it belongs by an infinite value, without a case of its own: so each row is there
        # twice, once for the nodes where it goes left.
        values = x.astype(np.float64)
        table = np.concatenate([np.where(np.isnan(values), side, values) for side in (np.inf, -np.inf)]).ravel()
        columns = np.maximum(self.feature, 0) + self.goes_left.astype(np.intp) * n * width
        rows = np.arange(n)[:, None] * width
        is_leaf = self.feature < 0
        nodes = np.repeat(self.roots[None].astype(np.intp), n, axis=0)
        yield nodes
        while not is_leaf.take(nodes).all():
            goes_right = table.take(columns.take(nodes) + rows) > self.threshold.take(nodes)
            nodes = self._children.take(2 * nodes + goes_right)
            yield nodes

    def problem(self, width: int) -> str:
        """Say what keeps this from being trees over so many features; empty if nothing."""
        count = len(self.feature)
        numbers, is_leaf = np.arange(count), self.feature < 0
        children = np.stack([self.left, self.right])
        if any(array.shape != (count,) for array in (self.threshold, self.goes_left, self.left, self.value)):
            return "its trees have arrays of several lengths"
        begins = bool(len(self.roots)) and self.roots[0] == 0 and self.roots[-1] < count
        if not begins or (np.diff(self.roots) < 1).any():
            return "its trees do not begin where they should"
        if (self.feature < -1).any() or (self.feature >= width).any() or not np.isin(self.goes_left, (0, 1)).all():
            return "its trees compare what is no feature"
        # Numbers that rise on every path: no path is without an end.
        rises = np.where(is_leaf, children == numbers, (children > numbers) & (children < count))
        if not rises.all():
            return "a node has children that are none"
        is_finite = np.isfinite(self.threshold).all() and np.isfinite(self.value).all()
        return "" if is_finite else "a number of it is not finite"


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A weighted sum of standardized features, each float64 (features,); one that is unknown counts as its mean."""

    means: NDArray[np.float64]
    spreads: NDArray[np.float64]
    weights: NDArray[np.float64]

    def scores(self, x: Features) -> Scores:
        """Return the sum for each row of (n, features): (n,)."""
        return np.asarray(self.contributions(x).sum(axis=1))

    def contributions(self, x: Features) -> Scores:
        """Return (n, features): what each feature adds; a row sums to its score."""
        return np.asarray(np.nan_to_num((x.astype(np.float64) - self.means) / self.spreads, nan=0.0) * self.weights)

    def problem(self, width: int) -> str:
        """Say what keeps this from being a sum over so many features; empty if nothing."""
        arrays = (self.means, self.spreads, self.weights)
        if any(array.shape != (width,) for array in arrays):
            return "its weights are not one for each feature"
        if not all(np.isfinite(array).all() for array in arrays) or (self.spreads <= 0).any():
            return "a number of it is not finite, or a spread not above 0"
        return ""


@dataclass(frozen=True, slots=True)
class _Description:
    """What a file says beside its arrays."""

    learner: Learner
    features: tuple[str, ...]
    price: tuple[str, ...]  # categories that there are quantiles of
    recency: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RankingModel:
    """What orders hits.

    Attributes:
        features: What the columns mean, by name.
        scorer: What makes one number of them, higher for what is clicked more.
        price: What was cheap in each category when it was learned, which `FeatureContext` needs.
        recency: What was new in it.
    """

    features: tuple[str, ...]
    scorer: Trees | Linear
    price: Quantiles
    recency: Quantiles

    def scores(self, x: Features) -> Scores:
        """Return what orders the rows of float32 (n, features), NaN for what is unknown: (n,), the highest first."""
        return self.scorer.scores(x)

    def contributions(self, x: Features) -> Scores:
        """Return (n, features): what each feature moved; a row sums to its score less a constant."""
        return self.scorer.contributions(x)

    def save(self, file: BinaryIO) -> None:
        """Write as `.npz`, not compressed."""
        learner: Learner = "lambdamart" if isinstance(self.scorer, Trees) else "linear"
        categories = self.price.categories, self.recency.categories
        described = _Description(learner, self.features, *categories)
        text = np.frombuffer(json.dumps(as_json(described)).encode("ascii"), np.uint8)
        arrays = {name: getattr(self.scorer, name) for name in _ARRAYS[learner]}
        np.savez(file, description=text, price=self.price.values, recency=self.recency.values, **arrays)


# The arrays of each learner, each with its type and number of dimensions.
_ARRAYS: dict[Learner, dict[str, tuple[str, int]]] = {
    "lambdamart": {
        "roots": ("<i4", 1),
        "feature": ("<i4", 1),
        "threshold": ("<f8", 1),
        "goes_left": ("|i1", 1),
        "left": ("<i4", 1),
        "right": ("<i4", 1),
        "value": ("<f8", 1),
    },
    "linear": {"means": ("<f8", 1), "spreads": ("<f8", 1), "weights": ("<f8", 1)},
}


def load_model(path: Path, features: Sequence[str]) -> RankingModel:
    """Read what `RankingModel.save` wrote, without pickle.

    Args:
        path: The file, whose sha256 the caller has checked.
        features: The names of those that this imgsearch computes.

    Raises:
        FileNotFoundError: The file is missing.
        DamagedIndexError: It is no such file, or orders by other features.
        ResourceError: The system does not let it be read.
    """
    (text,) = stored_arrays(path, {"description": ("|u1", 1)}).values()
    try:
        described = read(_Description, json.loads(text.tobytes()))
        scorer = _read_scorer(path, described.learner)
    except (ValueError, RecursionError) as error:
        raise DamagedIndexError(f"{path} is damaged: {error}", hint=repair_hint(path.name)) from error
    of_categories = stored_arrays(path, {"price": ("<f8", 2), "recency": ("<f8", 2)})
    price = Quantiles(described.price, of_categories["price"])
    recency = Quantiles(described.recency, of_categories["recency"])
    if problem := scorer.problem(len(described.features)) or _problem(price) or _problem(recency):
        raise DamagedIndexError(f"{path} is damaged: {problem}", hint=repair_hint(path.name))
    if described.features != tuple(features):
        names = ", ".join(sorted(set(described.features) ^ set(features))) or "their order"
        raise DamagedIndexError(f"{path} orders by other features than this imgsearch: {names}", hint=_HINT)
    return RankingModel(described.features, scorer, price, recency)


def _read_scorer(path: Path, learner: Learner) -> Trees | Linear:
    arrays = stored_arrays(path, _ARRAYS[learner])
    return Trees(**arrays) if learner == "lambdamart" else Linear(**arrays)


def _problem(quantiles: Quantiles) -> str:
    """Say what keeps arrays from being quantiles; empty if nothing."""
    rows = quantiles.values
    if len(rows) != len(quantiles.categories) + 1 or not rows.shape[1]:
        return "its quantiles are not those of its categories"
    # All of a row are known, or none is.
    rises = np.isfinite(rows).all(axis=1) & (np.diff(rows) >= 0).all(axis=1)
    return "" if (rises | np.isnan(rows).all(axis=1)).all() else "its quantiles do not rise"
