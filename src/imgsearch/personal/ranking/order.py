"""Hits in the order that people's clicks have taught: computed by NumPy alone, from a file of the index."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import DamagedIndexError, UsageError
from imgsearch.personal.ranking.features import FEATURES, FeatureContext, features
from imgsearch.personal.ranking.model import RankingModel, load_model
from imgsearch.personal.recommend.history import History
from imgsearch.personal.recommend.popularity import popularity_of_rows
from imgsearch.search.hits import Hit
from imgsearch.search.index import Index
from imgsearch.search.views import View
from imgsearch.store import generations, integrity

# Of what moved a hit so much is said.
_MOST_MOVED = 3


class LearnedOrder:
    """Orders hits of an open index, as `Index.search` takes it; threads share it.

    Attributes:
        candidates: How many of the first hits it orders; others stay behind them.
    """

    candidates = 200

    def __init__(self, index: Index, model: RankingModel, context: FeatureContext, *, explains: bool = False) -> None:
        self._index = index
        self._model = model
        self._context = context
        self._explains = explains

    def __call__(self, hits: Sequence[Hit], views: Sequence[View]) -> list[Hit]:
        """Order hits by the model, equal ones as they were; one that `explains` says what moved each.

        Args:
            hits: Of one answer.
            views: What it was asked with; none for words alone.

        Returns:
            The same hits, with ranks from 1.
        """
        first, others = hits[: self.candidates], hits[self.candidates :]
        known = features(self._index, first, views, self._context)
        order = np.argsort(-self._model.scores(known), kind="stable").tolist()
        ordered = [replace(first[place], rank=rank) for rank, place in enumerate(order, start=1)]
        if not self._explains:
            return [*ordered, *others]
        changes = self._model.contributions(known)[order]
        explained = [replace(hit, moved=_largest(change)) for hit, change in zip(ordered, changes, strict=True)]
        return [*explained, *(replace(hit, moved={}) for hit in others)]


def _largest(changes: NDArray[np.float64]) -> dict[str, float]:
    """Return the features that changed a score most, the largest change first, up or down."""
    places = np.argsort(-np.abs(changes), kind="stable")[:_MOST_MOVED].tolist()
    return {FEATURES[place]: float(changes[place]) for place in places if changes[place]}


def learned_order(index: Index, history: History | None = None, *, explains: bool = False) -> LearnedOrder:
    """Read what an index has learned of the order of hits.

    Args:
        index: It, which stays open.
        history: What the person did who asks; None for nobody.
        explains: Hits say what moved them (`Hit.moved`).

    Raises:
        UsageError: Nothing was learned.
        DamagedIndexError: A file of it is damaged, or was learned from other features than this imgsearch has.
        ResourceError: The system does not let a file be read.
    """
    manifest = index.manifest
    if manifest.ranking is None:
        raise UsageError(
            f"{index.directory} has no learned ranking",
            hint="learn one from clicks: imgsearch train --objective rank --index DIR",
        )
    name = f"{manifest.folder}/{generations.RANKING}"
    try:
        integrity.check_content(index.directory, manifest, name)
        model = load_model(index.directory / name, FEATURES)
        popularity = popularity_of_rows(index)
    except FileNotFoundError as error:
        hint = integrity.repair_hint(str(error.filename))
        raise DamagedIndexError(f"{error.filename} is missing", hint=hint) from error
    context = FeatureContext(model.price, model.recency, popularity, history)
    return LearnedOrder(index, model, context, explains=explains)


def known_history(index: Index, user: str) -> History:
    """Return what a person did, by the events that are kept beside an index; empty for one who did nothing.

    Raises:
        UsageError: The key of the names is not there.
        DamagedIndexError: What is kept is damaged.
    """
    # Where nobody is named, nothing of it is needed.
    from imgsearch.personal.recommend.recommender import Recommender

    with Recommender(index) as recommender:
        return recommender.history_of_user(user)
