"""What people did with products: one event, many of them, and which are what they should be."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Kind = Literal["view", "click", "cart", "buy", "like", "dislike", "return"]

# A kind's number is its place.
KINDS: tuple[Kind, ...] = get_args(Kind)

# What an event of each kind says of a product, unless the user chooses another weight.
DEFAULT_WEIGHTS: Mapping[Kind, float] = MappingProxyType(
    {"view": 1.0, "click": 2.0, "cart": 4.0, "buy": 8.0, "like": 4.0, "dislike": -4.0, "return": -8.0}
)

LARGEST_NAME = 1000  # characters
LARGEST_POSITION = 1_000_000
LATEST = 253_402_300_799_999_999  # the last microsecond of the year 9999


@dataclass(frozen=True, slots=True)
class Event:
    """What one person did.

    Attributes:
        time: Microseconds since 1970, UTC.
        kind: What it was.
        product: The product, or the path of an image of it.
        query: What was asked for, if the product was in an answer: words, or a product or path.
        position: At which place of the answer the product was, from 1.
        session: Whose visit it was part of; given back as 32 hex digits, by which names can be told apart.
    """

    time: int
    kind: Kind
    product: str
    query: str | None = None
    position: int | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True)
class Added:
    """What an import added: events that are new, and how many were there before, or twice in it."""

    new: int
    known: int


@dataclass(frozen=True, slots=True, eq=False)
class EventArrays:
    """Many events, the oldest first; at equal times in the order of user, product and kind.

    Attributes:
        times: (n,) int64, microseconds since 1970, UTC.
        users: (n,) int32, numbers that stand for people.
        products: (n,) int32, places in `names`.
        kinds: (n,) int8, places in `KINDS`.
        positions: (n,) int32, from 1; 0 where there is none.
        names: Of the products.
    """

    times: NDArray[np.int64]
    users: NDArray[np.int32]
    products: NDArray[np.int32]
    kinds: NDArray[np.int8]
    positions: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.times)


NO_EVENTS = EventArrays(
    np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.int8), np.empty(0, np.int32), ()
)


@dataclass(frozen=True, slots=True)
class ClickedAnswer:
    """What one person saw and did of one answer.

    Attributes:
        time: When it began: microseconds since 1970, UTC.
        query: What was asked for.
        user: As in `EventArrays` of the same store.
        shown: Each product and its position, by position; 0, at the end, for those whose position was not logged.
        clicked: By product the strongest of click, cart and buy.
    """

    time: int
    query: str
    user: int
    shown: tuple[tuple[str, int], ...]
    clicked: Mapping[str, Kind]


@dataclass(frozen=True, slots=True)
class EventStats:
    """What a store holds.

    Attributes:
        kinds: How many events of each kind.
        users: How many people.
        products: How many products or paths.
        first: Time of the oldest event: microseconds since 1970, UTC; None without any.
        last: Of the newest.
        bytes: What its files take.
        absent: How many of the products are not in the catalog now; None where no catalog was asked.
    """

    kinds: Mapping[Kind, int]
    users: int
    products: int
    first: int | None
    last: int | None
    bytes: int
    absent: int | None = None


def find_problem(user: str, event: Event) -> tuple[str, str] | None:
    """Return what keeps an event from being kept: the cause in a word, and a sentence; None if nothing does."""
    position = event.position
    # SQLite takes Python's whole numbers alone.
    has_time = type(event.time) is int and 0 <= event.time <= LATEST
    has_position = position is None or (type(position) is int and 1 <= position <= LARGEST_POSITION)
    if event.kind in KINDS and has_time and has_position:
        # Looking at each name would take long; nearly all are as plain as this.
        whole = f"{user}{event.product}{event.query}{event.session}"
        is_plain = whole.isascii() and whole.isprintable() and len(whole) <= LARGEST_NAME
        if is_plain and user.strip() and event.product.strip():
            return None
    if event.kind not in KINDS:
        return "event", f"expected one of {', '.join(KINDS)}, found {event.kind[:50]!r}"
    if not has_time:
        return "time", f"expected whole microseconds since 1970, found {event.time!r}"
    if not has_position:
        return "position", f"expected a position from 1 to {LARGEST_POSITION:,}, found {position!r}"
    names = {"user": user, "product": event.product, "query": event.query or "", "session": event.session or ""}
    problems = ((column, _problem_of_name(name, column)) for column, name in names.items())
    return next(((column, problem) for column, problem in problems if problem), None)


def _problem_of_name(name: str, column: str) -> str:
    if column in ("user", "product") and (not name or name.isspace()):
        return f"expected the name of a {column}, found nothing"
    if len(name) > LARGEST_NAME:
        return f"expected a {column} of at most {LARGEST_NAME:,} characters, found {len(name):,}"
    if "\0" in name:
        return f"expected a {column} of text, found a NUL byte"
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return f"expected a {column} of text, found half a character"
    return ""
