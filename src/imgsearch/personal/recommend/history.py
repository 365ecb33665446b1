"""What one person did, as recommendations need it: items of the index, and how much each says of what they like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imgsearch.errors import UsageError
from imgsearch.search.backends.protocol import Rows
from imgsearch.search.nearest import Nearest
from imgsearch.store.items import Items

if TYPE_CHECKING:
    from imgsearch.personal.event_store import EventStore
    from imgsearch.personal.events import Event, Kind

# Of one person the newest so many events count; of a file so many are read, some of which may be impressions.
MOST_EVENTS = 1000
MOST_READ = 4 * MOST_EVENTS

DAY = 86_400_000_000  # microseconds

# A weight halved more often would be 0, and the event as if it had never been.
_MOST_HALVINGS = 1000.0

# Of what was said last of a product, whether it may be recommended.
_REFUSALS: Mapping["Kind", bool] = {"dislike": True, "return": True, "like": False, "buy": False}


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What one person did with products that are in the index; each product once.

    Attributes:
        rows: (n,), of each product its first image.
        weights: (n,) float64, the weights of its events, each halved with every half-life that passed since; below 0
            for what they dislike or gave back, 0 for what was too long ago.
        refused: Those of `rows` that are never to be recommended: disliked or given back, and neither liked nor bought
            after that.
    """

    rows: Rows
    weights: NDArray[np.float64]
    refused: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.rows)


NO_HISTORY = History(np.empty(0, np.int64), np.empty(0))


def history_of(
    events: "Sequence[Event]", items: Items, weights: "Mapping[Kind, float]", half_life: float, newest: int
) -> History:
    """Sum up what one person did; impressions, and products that the index does not have, count nothing.

    Args:
        events: Of one person, in any order; of those that are no impressions the newest `MOST_EVENTS` count, and of
            others it is known that they were.
        items: Of the index.
        weights: How much an event of each kind says.
        half_life: Days after which an event counts half, above 0.
        newest: The time that ages are counted from; what is later counts as new.

    Returns:
        The products, by their rows.
    """
    done = sorted((event for event in events if not is_impression(event)), key=lambda event: event.time)
    row_of = items.first_rows_named([event.product for event in done])
    said: dict[int, float] = {}
    refused: dict[int, bool] = {}
    left = halved(np.array([newest - event.time for event in done]), half_life)
    left[:-MOST_EVENTS] = 0
    for event, share in zip(done, left.tolist(), strict=True):
        row = row_of.get(event.product)
        if row is None:
            continue
        said[row] = said.get(row, 0.0) + weights[event.kind] * share
        refused[row] = _REFUSALS.get(event.kind, refused.get(row, False))
    rows = sorted(said)
    return History(
        np.array(rows, np.int64),
        np.array([said[row] for row in rows]),
        np.array([row for row in rows if refused[row]], np.int64),
    )


def halved(ages: NDArray[np.integer], half_life: float) -> NDArray[np.float64]:
    """Return which share of its weight an event of each age still has; one later than now has all.

    Args:
        ages: (n,) microseconds.
        half_life: Days.
    """
    return np.asarray(0.5 ** np.minimum(np.maximum(ages, 0) / (half_life * DAY), _MOST_HALVINGS))


def history_of_user(store: "EventStore", user: str, items: Items, half_life: float) -> History:
    """Sum up what a user did; empty for one that is unknown."""
    events = store.of_user(user, MOST_EVENTS, impressions=False)
    if len(events) == MOST_EVENTS:
        events = [event for event in store.last_of_user(user) if event.time < events[0].time] + events
    return history_of(events, items, store.weights(), half_life, store.newest() or 0)


def history_of_items(names: Sequence[str], nearest: Nearest) -> History:
    """Return the history of somebody who likes some products, or images, of the index, and each as much.

    Raises:
        UsageError: One is not in the index; the hint has the name most like it.
    """
    if not all(names):
        raise UsageError("expected names of products or images, found nothing", hint="for example A,B,C")
    found = [nearest.rows_named(name)[0] for name in names]
    rows = sorted({int(nearest.of_same_products(np.array([row]))[0]) for row in found})
    return History(np.array(rows, np.int64), np.ones(len(rows)))


def is_impression(event: "Event") -> bool:
    """Return whether an event says that a product was shown, and not that somebody looked at it."""
    return event.kind == "view" and event.position is not None
