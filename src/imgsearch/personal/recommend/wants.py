"""What all people did with the products of a catalog, as learning needs it: how much each wants each."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imgsearch.personal.events import KINDS, EventArrays, Kind
from imgsearch.personal.recommend.history import halved
from imgsearch.search.backends.protocol import Rows
from imgsearch.store.items import Items

EVER = math.inf  # a half-life: nothing counts less because it is old


@dataclass(frozen=True, slots=True, eq=False)
class Deeds:
    """Events that say what people want, of products that are in the catalog; oldest first.

    Attributes:
        times: (n,) microseconds since 1970.
        users: (n,) numbers from 0.
        products: (n,) places in `rows`.
        weights: (n,) how much each says, not halved yet; below 0 for what people dislike or give back.
        rows: (P,) of each product its first image, ascending.
    """

    times: NDArray[np.int64]
    users: NDArray[np.int64]
    products: NDArray[np.int64]
    weights: NDArray[np.float64]
    rows: Rows

    def __len__(self) -> int:
        return len(self.times)

    def taken(self, which: NDArray[np.bool_] | NDArray[np.int64]) -> "Deeds":
        """Return some of them, of the same products."""
        return Deeds(self.times[which], self.users[which], self.products[which], self.weights[which], self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Wants:
    """How much people want products: a row for each pair that there were events of, by user, then by product."""

    users: NDArray[np.int64]
    products: NDArray[np.int64]
    weights: NDArray[np.float64]

    def of(self, user: int) -> slice:
        """Return which rows are those of a user."""
        return slice(*np.searchsorted(self.users, (user, user + 1)).tolist())


def deeds_of(items: Items, events: EventArrays, weights: Mapping[Kind, float]) -> Deeds:
    """Leave out impressions, kinds that say nothing, and what the catalog does not have.

    Users are numbered anew, in their order, and products by their first image: what the events do not have, such as
    somebody who was forgotten, leaves no gap.
    """
    row_of = items.first_rows_named(events.names)
    row_of_name = np.array([row_of.get(name, -1) for name in events.names], np.int64)
    rows, place_of_name = np.unique(row_of_name, return_inverse=True)
    if len(rows) and rows[0] < 0:
        rows, place_of_name = rows[1:], place_of_name - 1
    of_kind = np.array([weights[kind] for kind in KINDS])
    places = place_of_name[events.products]
    are_impressions = (events.kinds == KINDS.index("view")) & (events.positions > 0)
    are_meant = (places >= 0) & ~are_impressions & (of_kind[events.kinds] != 0)
    kept, products = np.unique(places[are_meant], return_inverse=True)
    users = np.unique(events.users[are_meant], return_inverse=True)[1]
    return Deeds(events.times[are_meant], users, products, of_kind[events.kinds[are_meant]], rows[kept])


def wants_of(deeds: Deeds, half_life: float, newest: int) -> Wants:
    """Sum up what each did with each product; an event counts half after so many days before `newest`."""
    left = deeds.weights * halved(newest - deeds.times, half_life)
    count = max(1, len(deeds.rows))
    pairs, place = np.unique(deeds.users * count + deeds.products, return_inverse=True)
    return Wants(pairs // count, pairs % count, np.bincount(place, left, len(pairs)).astype(np.float64))


def popularity_of(wants: Wants, count: int) -> NDArray[np.float32]:
    """Return how much all people together want each of `count` products: what more dislike than want has 0."""
    sums = np.bincount(wants.products, wants.weights, count)
    return np.maximum(sums, 0).astype(np.float32)
