"""What people did with products, in `events.sqlite` beside the generations; builds and rollbacks leave it alone.

Names of people and sessions are kept as keyed hashes alone (`user_names`). The content of an event is its key, so that
one that is imported twice is kept once, and the events of one person lie together.
"""

import contextlib
import hmac
import math
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from imgsearch.errors import UsageError
from imgsearch.files import check_database
from imgsearch.forks import no_fork
from imgsearch.personal.events import (
    DEFAULT_WEIGHTS,
    KINDS,
    LATEST,
    Added,
    ClickedAnswer,
    Event,
    EventArrays,
    EventStats,
    Kind,
    find_problem,
)
from imgsearch.personal.live_database import Content, LiveDatabase
from imgsearch.personal.user_names import hashed, key_path, make_key, read_key
from imgsearch.store import generations
from imgsearch.store.generations import read_manifest
from imgsearch.store.integrity import check_truth
from imgsearch.store.items import Items

EVENTS_FILE = generations.EVENTS

_NUMBERS: Mapping[str, int] = {kind: number for number, kind in enumerate(KINDS)}

_LARGEST_WEIGHT = 1000.0

# Of `EventStore.arrays`: some 500 MB.
_MOST_EVENTS = 20_000_000

# Which tables there are; a change of them is another version.
_VERSION = 1

# Names of products and queries are bytes, since those of files need not be UTF-8. `users` and `sessions`: see
# `user_names.hashed`. `query`, `session`, `position`: 0 where there is none. `time`: microseconds since 1970, UTC.
# `facts`: "key", by which another key is noticed, and "newest", the time of the newest event.
_SCHEMA = f"""
CREATE TABLE users (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE sessions (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE products (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE queries (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE);
CREATE TABLE events (
    user INTEGER NOT NULL,
    time INTEGER NOT NULL,
    product INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    position INTEGER NOT NULL,
    query INTEGER NOT NULL,
    session INTEGER NOT NULL,
    PRIMARY KEY (user, time, product, kind, position, query, session)
) WITHOUT ROWID;
CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE weights (kind TEXT PRIMARY KEY, weight REAL NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {_VERSION};
"""

_CONTENT = Content(EVENTS_FILE, "events", _SCHEMA, _VERSION, is_checked=False)

_NAMES = {"user": "users", "session": "sessions", "product": "products", "query": "queries"}

# Events that are kept together; a kill loses fewer.
_BATCH = 50_000
_ASKED = 500  # names that are looked up by one statement
_MOST_KNOWN = 200_000  # names of each kind whose numbers are remembered meanwhile
_CACHE_KIB = 100_000  # of pages: events of one day are of many people
_LOG_PAGES = 16_000  # after which the log is written to the file: pages that many commits change are written once

_CLICKED = tuple(_NUMBERS[kind] for kind in ("click", "cart", "buy"))  # from weak to strong
_SHOWN = (_NUMBERS["view"], *_CLICKED)
_LONGEST_ANSWER = 24 * 60 * 60 * 1_000_000

# Each answer has the time that it began. Of one person, session and query, another one begins a day after the first.
_ANSWERS = f"""
SELECT start, user, query, session, product, kind, position FROM (
    SELECT *, min(time) OVER (PARTITION BY user, session, query, day) AS start FROM (
        SELECT *, (time - min(time) OVER (PARTITION BY user, session, query)) / {_LONGEST_ANSWER} AS day
        FROM events WHERE query > 0 AND kind IN {_SHOWN}
    )
) ORDER BY start, user, session, query, time, product, kind, position
"""  # noqa: S608  # constants


class EventStore(LiveDatabase):
    """The events of an index.

    Args:
        directory: The index; the file is made unless it is there.
        key: The file with the key of the names; by default what `user_names.key_path` says. Needed only where a name
            is given: to add, to look up, to forget.
        read_only: Open it on a disk that cannot be written to as well, if it is there.

    Raises:
        UsageError: The key would lie in the index.
        DamagedIndexError: The file is damaged, or written by a newer imgsearch.
        OutputError: It cannot be written.
        ResourceError: The system has too little memory or open files.
    """

    def __init__(self, directory: Path, *, key: Path | None = None, read_only: bool = False) -> None:
        self._directory = directory
        self._chosen_key = key
        self._forgotten = 0
        super().__init__(directory, _CONTENT, read_only=read_only)
        self._rows(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._rows(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")

    def add(self, events: Iterable[tuple[str, Event]], *, refuse: Callable[[str, str], None] | None = None) -> Added:
        """Keep events, in batches: what a kill interrupts is whole after the same call again.

        Args:
            events: Name of the user, and the event.
            refuse: Called for each that is not what it should be, before the next one is taken, with the cause in a
                word and a sentence; by default that is an error.

        Raises:
            UsageError: An event is not what it should be, or the key is not that of this store; batches before are
                kept.
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        new = total = 0
        numbers: _Numbers | None = None
        accepted = _accepted(events, refuse)
        while batch := list(islice(accepted, _BATCH)):
            key = self._key_to_add()
            with self._writing():
                numbers = numbers or _Numbers(self._connection, key)
                self._keep_check(key)
                numbers.renew(self._forgotten)
                new += self._insert(batch, numbers)
            total += len(batch)
        return Added(new, total - new)

    def of_user(self, user: str, most: int = 1000, *, impressions: bool = True) -> list[Event]:
        """Return the newest events of a person, so many at most, the oldest of them first.

        Args:
            user: Their name.
            most: How many.
            impressions: Whether views with a position are among them.

        Raises:
            UsageError: The key is not that of this store.
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        key = self._key()
        if key is None:
            return []
        rows = self._rows(
            """
            SELECT time, kind, products.name, queries.name, position, sessions.name
            FROM events JOIN products ON products.id = product
            LEFT JOIN queries ON queries.id = query LEFT JOIN sessions ON sessions.id = session
            WHERE user = (SELECT id FROM users WHERE name = ?) AND (? OR kind <> ? OR position = 0)
            ORDER BY user DESC, time DESC, product DESC, kind DESC, position DESC LIMIT ?
            """,
            (hashed(key, "user", user), impressions, _NUMBERS["view"], most),
        )
        return [self._event(*row) for row in reversed(rows)]

    def last_of_user(self, user: str) -> list[Event]:
        """Return the last event of each kind of a person with each product, the oldest first; impressions aside.

        Raises:
            UsageError: The key is not that of this store.
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        key = self._key()
        if key is None:
            return []
        rows = self._rows(
            """
            SELECT max(time), kind, products.name FROM events JOIN products ON products.id = product
            WHERE user = (SELECT id FROM users WHERE name = ?) AND (kind <> ? OR position = 0)
            GROUP BY product, kind ORDER BY 1
            """,
            (hashed(key, "user", user), _NUMBERS["view"]),
        )
        return [self._event(time, kind, name, None, 0, None) for time, kind, name in rows]

    def arrays(self) -> EventArrays:
        """Return all events; of more than 20,000,000 the newest.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        columns = [("time", "<i8"), ("user", "<i4"), ("product", "<i4"), ("kind", "i1"), ("position", "<i4")]
        with self._locked(), self._transaction("DEFERRED"):
            run = self._connection.execute
            ((count,),) = run("SELECT count(*) FROM events")
            since = 0
            if count > _MOST_EVENTS:
                query = "SELECT time FROM events ORDER BY time DESC LIMIT 1 OFFSET ?"
                ((since,),) = run(query, (_MOST_EVENTS - 1,))
            found = run("SELECT time, user, product, kind, position FROM events WHERE time >= ?", (since,))
            try:
                rows = np.fromiter(found, np.dtype(columns))
            except (TypeError, ValueError, OverflowError):
                raise self._damaged("an event has values of another kind") from None
            names = dict(run("SELECT id, name FROM products").fetchall())
        order = np.lexsort([rows[column] for column in ("position", "kind", "product", "user", "time")])[-_MOST_EVENTS:]
        rows = rows[order]
        if len(rows) and not 0 <= rows["kind"].min() <= rows["kind"].max() < len(KINDS):
            raise self._damaged("an event is of no kind")
        numbers, places = np.unique(rows["product"], return_inverse=True)
        return EventArrays(
            np.ascontiguousarray(rows["time"]),
            np.ascontiguousarray(rows["user"]),
            places.astype(np.int32),
            np.ascontiguousarray(rows["kind"]),
            np.ascontiguousarray(rows["position"]),
            tuple(self._name(names.get(number)) for number in numbers.tolist()),
        )

    def answers(self) -> Iterator[ClickedAnswer]:
        """Yield the answers that somebody clicked, put into a cart or bought from, the oldest first.

        The events of one person, session and query are of one answer, for one day.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        self._lifetime.require()
        # A connection of its own: what is done with others meanwhile does not wait, nor change what is read.
        with no_fork(), self._guarded():
            connection = self._connect(is_writable=self._is_writable)
        try:
            with no_fork(), self._guarded():
                connection.execute("PRAGMA query_only = ON")
                connection.execute("PRAGMA temp_store = FILE")
                connection.execute("BEGIN")
                names = dict(connection.execute("SELECT id, name FROM products").fetchall())
                cursor = connection.execute(_ANSWERS)
            answer: list[tuple[Any, ...]] = []
            while True:
                with no_fork(), self._guarded():
                    rows = cursor.fetchmany(1000)
                for row in rows or [(None, None, None, None)]:
                    if answer and row[:4] != answer[-1][:4]:
                        if any(kind in _CLICKED for *_, kind, _ in answer):
                            yield self._answer(connection, answer, names)
                        answer = []
                    answer.append(row)
                if not rows:
                    return
        finally:
            with no_fork():
                connection.close()

    def weights(self) -> dict[Kind, float]:
        """Return how much an event of each kind says of a product.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        kept = dict(self._rows("SELECT kind, weight FROM weights"))
        if not all(isinstance(weight, float) and abs(weight) <= _LARGEST_WEIGHT for weight in kept.values()):
            raise self._damaged("a weight is not a number from -1,000 to 1,000")
        return {kind: kept.get(kind, weight) for kind, weight in DEFAULT_WEIGHTS.items()}

    def set_weights(self, weights: Mapping[Kind, float]) -> None:
        """Keep the weights of some kinds; those of others stay.

        Raises:
            UsageError: One is of no kind, or not a number from -1,000 to 1,000.
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        for kind, weight in weights.items():
            if kind not in KINDS:
                raise UsageError(f"expected one of {', '.join(KINDS)}, found {kind!r}")
            if not abs(weight) <= _LARGEST_WEIGHT:
                raise UsageError(f"the weight of {kind} must be -1,000 to 1,000, got {weight}")
        with self._writing():
            self._connection.executemany(
                "INSERT OR REPLACE INTO weights VALUES (?, ?)",
                [(kind, float(weight)) for kind, weight in weights.items()],
            )

    def newest(self) -> int | None:
        """Return the time of the newest event: microseconds since 1970, UTC; None without any.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        newest = self._fact("newest")
        if newest is not None and not isinstance(newest, int):
            raise self._damaged("the time of the newest event is none")
        return newest

    def product_names(self) -> Iterator[str]:
        """Yield the names of all products, as they were imported.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        last = 0
        while rows := self._rows("SELECT id, name FROM products WHERE id > ? ORDER BY id LIMIT 1000", (last,)):
            yield from (self._name(name) for _, name in rows)
            last = rows[-1][0]

    def stats(self) -> EventStats:
        """Count what there is, and check the whole file.

        Raises:
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        with self._locked(), self._transaction("DEFERRED"):
            check_database(self._connection)
            run = self._connection.execute
            rows = run("SELECT kind, count(*), min(time), max(time) FROM events GROUP BY kind").fetchall()
            ((users,),) = run("SELECT count(*) FROM users")
            ((products,),) = run("SELECT count(*) FROM products")
        counts = {kind: count for kind, count, _, _ in rows}
        if not set(counts) <= set(range(len(KINDS))):
            raise self._damaged("an event is of no kind")
        times = [time for *_, first, last in rows for time in (first, last)]
        if not all(isinstance(time, int) and 0 <= time <= LATEST for time in times):
            raise self._damaged("the time of an event is none")
        files = [path for path in self._path.parent.glob(f"{EVENTS_FILE}*") if path.is_file()]
        return EventStats(
            {kind: counts.get(number, 0) for kind, number in zip(KINDS, _NUMBERS.values(), strict=True)},
            users,
            products,
            min(times, default=None),
            max(times, default=None),
            sum(path.stat().st_size for path in files),
        )

    def forget(self, *, user: str | None = None, before: int | None = None) -> int:
        """Remove the events of a person, or those before a time, and names that no event has any more.

        No byte of them is left in the files of the store.

        Returns:
            How many events there were.

        Raises:
            UsageError: Not exactly one is given, or the key is not that of this store.
            LockedError: Others have been reading the file for too long; do it again.
            DamagedIndexError, OutputError, ResourceError: As for the class.
        """
        if (user is not None) + (before is not None) != 1:
            raise UsageError("expected a user or a time to forget, exactly one of them")
        statement, value = "DELETE FROM events WHERE time < ?", before or 0
        key = self._key() if user is not None else None
        with self._writing():
            if user is not None:
                name = hashed(key, "user", user) if key else b""
                found = self._connection.execute("SELECT id FROM users WHERE name = ?", (name,)).fetchone()
                statement, value = "DELETE FROM events WHERE user = ?", found[0] if found else 0
            count = self._connection.execute(statement, (value,)).rowcount
            for column, table in _NAMES.items():
                self._connection.execute(f"DELETE FROM {table} WHERE id NOT IN (SELECT {column} FROM events)")  # noqa: S608  # constants
            self._connection.execute("DELETE FROM facts WHERE name = 'newest'")
            self._connection.execute("INSERT INTO facts SELECT 'newest', max(time) FROM events HAVING count(*) > 0")
            self._forgotten += 1
        # Pages keep parts of rows that were moved to others; written anew, the file has none.
        self._rows("VACUUM")
        self._truncate_log()
        return count

    def _insert(self, batch: list[tuple[str, Event]], numbers: "_Numbers") -> int:
        users = numbers.of("user", {user for user, _ in batch})
        products = numbers.of("product", {event.product for _, event in batch})
        queries = numbers.of("query", {event.query for _, event in batch if event.query})
        sessions = numbers.of("session", {event.session for _, event in batch if event.session})
        queries[""] = sessions[""] = 0
        rows = [
            (
                *(users[user], event.time, products[event.product], _NUMBERS[event.kind], event.position or 0),
                *(queries[event.query or ""], sessions[event.session or ""]),
            )
            for user, event in batch
        ]
        rows.sort()  # neighbors are then written together
        done = self._connection.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self._connection.execute(
            "INSERT INTO facts VALUES ('newest', ?) ON CONFLICT DO UPDATE SET value = max(value, excluded.value)",
            (max(event.time for _, event in batch),),
        )
        return done.rowcount

    def _key_to_add(self) -> bytes:
        """Return the key; it is made for the first event, unless it is there."""
        if key := self._key():
            return key
        path = key_path(self._directory, self._chosen_key)
        return read_key(path) or make_key(path)

    def _key(self) -> bytes | None:
        """Return the key of the names; None as long as there are none."""
        path = key_path(self._directory, self._chosen_key)
        check = self._fact("key")
        if check is None:
            return None
        key = read_key(path)
        if key is None:
            raise UsageError(
                f"the names in {self._path} are hashed with a key; expected it in {path}, found nothing there",
                hint="restore it from its backup, or let IMGSEARCH_EVENTS_KEY name its file",
            )
        self._require_key(key, check, path)
        return key

    def _keep_check(self, key: bytes) -> None:
        """Keep by what another key is noticed; within the transaction, for two may begin at once."""
        check = self._connection.execute("SELECT value FROM facts WHERE name = 'key'").fetchone()
        if check is None:
            self._connection.execute("INSERT INTO facts VALUES ('key', ?)", (hashed(key, "check", ""),))
        else:
            self._require_key(key, check[0], key_path(self._directory, self._chosen_key))

    def _require_key(self, key: bytes, check: object, path: Path) -> None:
        if not isinstance(check, bytes):
            raise self._damaged("what tells its key is none")
        if not hmac.compare_digest(check, hashed(key, "check", "")):
            raise UsageError(
                f"expected in {path} the key that the names in {self._path} are hashed with, found another one",
                hint="restore it from its backup, or let IMGSEARCH_EVENTS_KEY name its file",
            )

    def _fact(self, name: str) -> Any:
        rows = self._rows("SELECT value FROM facts WHERE name = ?", (name,))
        return rows[0][0] if rows else None

    def _event(self, time: Any, kind: Any, product: Any, query: Any, position: Any, session: Any) -> Event:
        if not isinstance(time, int) or not isinstance(position, int) or kind not in range(len(KINDS)):
            raise self._damaged("an event has values of another kind")
        if session is not None and not isinstance(session, bytes):
            raise self._damaged("a session is none")
        return Event(
            time,
            KINDS[kind],
            self._name(product),
            None if query is None else self._name(query),
            position or None,
            None if session is None else session.hex(),
        )

    def _answer(
        self, connection: sqlite3.Connection, rows: list[tuple[Any, ...]], names: Mapping[int, object]
    ) -> ClickedAnswer:
        time, user, query, _, *_ = rows[0]
        with no_fork(), self._guarded():
            text = connection.execute("SELECT name FROM queries WHERE id = ?", (query,)).fetchone()
        shown: dict[str, int] = {}
        clicked: dict[str, int] = {}
        for *_, product, kind, position in rows:
            name = self._name(names.get(product))
            shown[name] = shown.get(name) or position
            if kind in _CLICKED:
                clicked[name] = max(kind, clicked.get(name, 0))
        by_position = sorted(shown.items(), key=lambda item: item[1] or math.inf)
        strongest = {name: KINDS[kind] for name, kind in clicked.items()}
        return ClickedAnswer(time, self._name(text and text[0]), user, tuple(by_position), strongest)

    def _name(self, data: object) -> str:
        if not isinstance(data, bytes):
            raise self._damaged("a name is none")
        return os.fsdecode(data)


class _Numbers:
    """The numbers by which a store calls names; within a transaction."""

    def __init__(self, connection: sqlite3.Connection, key: bytes) -> None:
        self._connection = connection
        self._known: dict[str, dict[str, int]] = {kind: {} for kind in _NAMES}
        self._hashed = {kind: partial(hashed, key, cast("Any", kind)) for kind in ("user", "session")}
        self._state: tuple[int, int] = (0, 0)

    def renew(self, forgotten: int) -> None:
        """Forget what is remembered if another connection has written since, or this one forgot: it may be gone."""
        ((changes,),) = self._connection.execute("PRAGMA data_version")
        if (changes, forgotten) != self._state:
            for known in self._known.values():
                known.clear()
        self._state = (changes, forgotten)

    def of(self, kind: str, names: set[str]) -> dict[str, int]:
        """Return the number of each name; those that have none get one."""
        known = self._known[kind]
        if len(known) > _MOST_KNOWN:
            known.clear()
        encoded = self._hashed.get(kind, os.fsencode)
        unknown = {encoded(name): name for name in names.difference(known)}
        in_order = sorted(unknown)  # neighbors are found and written together
        table, run = _NAMES[kind], self._connection.execute
        for start in range(0, len(in_order), _ASKED):
            part = in_order[start : start + _ASKED]
            places = ", ".join("?" * len(part))
            query = f"SELECT id, name FROM {table} WHERE name IN ({places})"  # noqa: S608  # constants
            known.update((unknown.pop(name), number) for number, name in run(query, part))
        if unknown:
            ((last,),) = run(f"SELECT ifnull(max(id), 0) FROM {table}")  # noqa: S608  # constants
            new = {name: number for number, name in enumerate(sorted(unknown), last + 1)}
            statement = f"INSERT INTO {table} (name, id) VALUES (?, ?)"  # noqa: S608  # constants
            self._connection.executemany(statement, new.items())
            known.update((unknown[name], number) for name, number in new.items())
        return known


def event_stats(directory: Path) -> EventStats:
    """Count the events of an index, and which of their products are not in its catalog now.

    Raises:
        NoIndexError: There is no index.
        DamagedIndexError, OutputError, ResourceError: As for `EventStore`.
    """
    manifest = read_manifest(directory)
    if not (directory / EVENTS_FILE).exists():
        return EventStats(dict.fromkeys(KINDS, 0), 0, 0, None, None, 0, 0)
    check_truth(directory, manifest, f"{manifest.folder}/{generations.ITEMS}")
    with (
        contextlib.closing(Items(directory / manifest.folder / generations.ITEMS)) as items,
        EventStore(directory, read_only=True) as store,
    ):
        absent = sum(not items.rows_named(name) for name in store.product_names())
        return replace(store.stats(), absent=absent)


def _accepted(
    events: Iterable[tuple[str, Event]], refuse: Callable[[str, str], None] | None
) -> Iterator[tuple[str, Event]]:
    """Yield the events that are what they should be."""
    for user, event in events:
        if (problem := find_problem(user, event)) is None:
            yield user, event
        elif refuse is None:
            raise UsageError(f"this is no event: {problem[1]}")
        else:
            refuse(*problem)
