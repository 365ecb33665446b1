"""What was known at a time: how popular products were, and what a person had done, so that learning sees no later."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from imgsearch.personal.events import KINDS, EventArrays, Kind
from imgsearch.personal.recommend.history import MOST_EVENTS, NO_HISTORY, History, halved
from imgsearch.search.backends.protocol import Rows
from imgsearch.store.items import Items


class Past:
    """Events as they lie in the past of a time; a product is the first of its rows.

    Args:
        items: Of the index; other products count nothing.
        events: Of all people; impressions count nothing.
        weights: How much an event of each kind says.
        half_life: Days after which an event counts half.
    """

    def __init__(self, items: Items, events: EventArrays, weights: Mapping[Kind, float], half_life: float) -> None:
        row_of = items.first_rows_named(events.names)
        rows = np.array([row_of.get(name, -1) for name in events.names], np.int64)[events.products]
        are_impressions = (events.kinds == KINDS.index("view")) & (events.positions > 0)
        counted = np.flatnonzero((rows >= 0) & ~are_impressions)
        self._half_life = half_life
        self._times, self._rows, self._users = events.times[counted], rows[counted], events.users[counted]
        self._weights = np.array([weights[kind] for kind in KINDS])[events.kinds[counted]]
        self._by_user = np.argsort(self._users, kind="stable")  # the oldest first, as all are
        self._of_users = self._users[self._by_user]
        self._by_row = np.argsort(self._rows, kind="stable")
        self._of_rows = self._rows[self._by_row]
        self._times_of_rows = self._times[self._by_row]
        self._sums = self._running_sums()

    def _running_sums(self) -> NDArray[np.float64]:
        """Return of each event, by product, the sum of the weights of those until it, as they count at its time."""
        # One by one: differences of sums over all lose what is older than some fifty half-lives.
        sums = self._weights[self._by_row].tolist()
        left = np.where(np.diff(self._of_rows) == 0, halved(np.diff(self._times_of_rows), self._half_life), 0)
        for place, share in enumerate(left.tolist(), start=1):
            if share:
                sums[place] += share * sums[place - 1]
        return np.array(sums, np.float64)

    def popularity(self, rows: Rows, time: int) -> NDArray[np.float64]:
        """Return of products (n,), by their first rows, the weights of the events before a time, 0 or more."""
        starts, ends = (np.searchsorted(self._of_rows, rows, side) for side in ("left", "right"))
        bounds = zip(starts.tolist(), ends.tolist(), strict=True)
        last = np.array([s + int(np.searchsorted(self._times_of_rows[s:e], time)) - 1 for s, e in bounds], np.int64)
        found = np.zeros(len(rows))
        known = last >= starts
        last = last[known]
        found[known] = self._sums[last] * halved(time - self._times_of_rows[last], self._half_life)
        return np.maximum(found, 0)

    def history(self, user: int | None, time: int) -> History:
        """Return what a person had done before a time, as `history_of` sums it up."""
        if user is None:
            return NO_HISTORY
        start, end = np.searchsorted(self._of_users, [user, user + 1])
        places = self._by_user[start:end]
        places = places[: np.searchsorted(self._times[places], time)][-MOST_EVENTS:]
        rows, inverse = np.unique(self._rows[places], return_inverse=True)
        weights = self._weights[places] * halved(time - self._times[places], self._half_life)
        return History(rows, np.asarray(np.bincount(inverse, weights, len(rows)), np.float64))
