"""The store of events: imported twice they count once, what is forgotten is gone, and a copy names nobody."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import DamagedIndexError, LockedError, OutputError, UsageError
from imgsearch.personal import event_store as module
from imgsearch.personal import live_database
from imgsearch.personal.event_store import EVENTS_FILE, EventStore
from imgsearch.personal.events import DEFAULT_WEIGHTS, KINDS, ClickedAnswer, Event
from imgsearch.personal.user_names import hashed, key_path, read_key

AWAY = os.fsdecode(b"caf\xe9/\n.png")
DAY = 24 * 60 * 60 * 1_000_000
NOW = 1_767_225_600_000_000
GOLDEN = Path(__file__).parent / "golden" / "events.sql"


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder of an index, beside which its key is."""
    (tmp_path / "index").mkdir()
    return tmp_path / "index"


@contextlib.contextmanager
def opened(place: Path, **options):
    with EventStore(place, key=place.parent / "events.key", **options) as store:
        yield store


@pytest.fixture
def store(place):
    with opened(place) as found:
        yield found


def anonymous(event: Event) -> Event:
    """An event without its session, which is given back as another text."""
    return Event(event.time, event.kind, event.product, event.query, event.position)


def content(store: EventStore, users) -> dict[str, Counter]:
    return {user: Counter(store.of_user(user)) for user in users}


_USERS = ("ann", "bob", "zo\xeb")
_EVENTS = st.builds(
    Event,
    st.integers(NOW, NOW + 3) | st.integers(0, NOW),
    st.sampled_from(KINDS),
    st.sampled_from(["a", "b", AWAY, "a b"]),
    st.sampled_from([None, "red shoe", "a", AWAY]),
    st.sampled_from([None, 1, 2, 1_000_000]),
    st.sampled_from([None, "s1", "s2"]),
)
_GIVEN = st.lists(st.tuples(st.sampled_from(_USERS), _EVENTS), max_size=12)


@settings(deadline=None, max_examples=10)
@given(_GIVEN, st.randoms(), st.sampled_from(_USERS))
def test_what_is_imported_counts_once_in_any_order_until_it_is_forgotten(tmp_path_factory, given, random, gone):
    place = tmp_path_factory.mktemp("shop")
    (place / "one").mkdir()
    (place / "two").mkdir()
    with opened(place / "one") as store, opened(place / "two") as other:
        different = set(given)
        assert (store.add(given).new, store.add(given).new) == (len(different), 0)
        shuffled = [*given, *given[:3]]
        random.shuffle(shuffled)
        for start in range(0, len(shuffled), 4):
            other.add(shuffled[start : start + 4])

        assert content(store, _USERS) == content(other, _USERS)
        for user in _USERS:
            times = [event.time for event in store.of_user(user)]
            assert times == sorted(times)
            assert [event.time for event in store.of_user(user, most=2)] == times[-2:]
            deeds = [event for event in store.of_user(user) if event.kind != "view" or event.position is None]
            assert store.of_user(user, impressions=False) == deeds
            expected = Counter(anonymous(event) for whose, event in different if whose == user)
            assert Counter(map(anonymous, store.of_user(user))) == expected
        found = store.arrays()
        expected = Counter((event.time, event.kind, event.product, event.position or 0) for _, event in different)
        rows = zip(found.times, found.kinds, found.products, found.positions, strict=True)
        assert Counter((time, KINDS[kind], found.names[row], at) for time, kind, row, at in rows) == expected
        assert found.times.tolist() == sorted(found.times.tolist())
        assert store.newest() == max((event.time for _, event in given), default=None)

        kept = {user: events for user, events in content(store, _USERS).items() if user != gone}
        assert store.forget(user=gone) == sum(whose == gone for whose, _ in different)

        assert content(store, _USERS) == {gone: Counter(), **kept}
        assert store.newest() == max((event.time for whose, event in given if whose != gone), default=None)


@settings(deadline=None, max_examples=8)
@given(_GIVEN, st.integers(NOW - 1, NOW + 4))
def test_what_is_before_a_time_can_be_forgotten(tmp_path_factory, given, time):
    place = tmp_path_factory.mktemp("shop") / "index"
    place.mkdir()
    with opened(place) as store:
        store.add(given)
        before = {(whose, event) for whose, event in given if event.time < time}

        assert store.forget(before=time) == len(before)
        assert len(store.arrays()) == len(set(given) - before)
        assert (store.arrays().times >= time).all()
        assert set(store.product_names()) == {event.product for _, event in set(given) - before}


def test_arrays_are_of_the_newest_events_where_there_are_too_many(store, monkeypatch):
    store.add([("ann", Event(NOW + number, "view", f"p{number}")) for number in range(5)])
    monkeypatch.setattr(module, "_MOST_EVENTS", 3)

    found = store.arrays()

    assert (found.times - NOW).tolist() == [2, 3, 4]
    assert [found.names[row] for row in found.products] == ["p2", "p3", "p4"]
    assert (found.times.dtype, found.users.dtype, found.products.dtype) == ("int64", "int32", "int32")
    assert (found.kinds.dtype, found.positions.dtype) == ("int8", "int32")


def answer(user: str, query: str | None, *events: tuple, session: str | None = None) -> list[tuple[str, Event]]:
    return [(user, Event(NOW + time, kind, product, query, at, session)) for time, kind, product, at in events]


def test_an_answer_is_what_one_person_did_with_one_query_in_one_visit(store):
    store.add(
        [
            *answer("ann", "shoe", (9, "view", "b", 2), (9, "view", "a", 1), (12, "click", "b", None), session="1"),
            *answer("ann", "shoe", (14, "buy", "b", None), (15, "click", "c", None), session="1"),
            *answer("ann", "shoe", (3, "view", "a", 1), (4, "cart", "a", 1), session="2"),
            *answer("bob", "shoe", (5, "view", "a", 1), session="1"),  # clicked nothing
            *answer("bob", None, (6, "buy", "a", 1)),  # of no answer
            *answer("bob", "lamp", (7, "dislike", "a", 1), (DAY + 9, "view", "a", 1), (DAY + 8, "click", "a", 2)),
            *answer("bob", "lamp", (8, "click", AWAY, None)),
        ]
    )

    found = list(store.answers())

    ann, bob = found[0].user, found[1].user
    assert ann != bob
    assert found == [
        ClickedAnswer(NOW + 3, "shoe", ann, (("a", 1),), {"a": "cart"}),
        ClickedAnswer(NOW + 8, "lamp", bob, ((AWAY, 0),), {AWAY: "click"}),
        ClickedAnswer(NOW + 9, "shoe", ann, (("a", 1), ("b", 2), ("c", 0)), {"b": "buy", "c": "click"}),
        ClickedAnswer(NOW + DAY + 8, "lamp", bob, (("a", 2),), {"a": "click"}),
    ]
    assert {ann, bob} == set(store.arrays().users.tolist())


def test_answers_that_are_being_read_stay_what_they_were(store):
    store.add(answer("ann", "shoe", *((time, "click", "a", None) for time in (0, 2 * DAY))))
    answers = store.answers()
    next(answers)
    store.add(answer("bob", "lamp", (DAY, "click", "a", None)))

    assert [each.query for each in answers] == ["shoe"]


def test_weights_are_the_usual_ones_until_they_are_changed(store, place):
    assert store.weights() == dict(DEFAULT_WEIGHTS)
    store.set_weights({"buy": 10, "view": 0})
    with opened(place) as other:
        assert other.weights() == {**DEFAULT_WEIGHTS, "buy": 10.0, "view": 0.0}
    for wrong in ({"sell": 1.0}, {"buy": float("nan")}, {"buy": 1001.0}):
        with pytest.raises(UsageError):
            store.set_weights(wrong)


def test_stats_count_what_there_is(store):
    assert store.stats().first is None
    store.add([("ann", Event(NOW, "buy", "a")), ("bob", Event(NOW + 1, "buy", "a")), ("bob", Event(5, "view", "b"))])

    found = store.stats()

    assert {kind: count for kind, count in found.kinds.items() if count} == {"view": 1, "buy": 2}
    assert (found.users, found.products, found.first, found.last) == (2, 2, 5, NOW + 1)
    assert found.bytes > 4096


@pytest.mark.parametrize(
    ("user", "event", "words"),
    [
        ("ann", Event(NOW, "sell", "a"), "expected one of view, click"),
        ("ann", Event(-1, "buy", "a"), "microseconds since 1970"),
        ("ann", Event(1 << 62, "buy", "a"), "microseconds since 1970"),
        ("ann", Event(1.5, "buy", "a"), "whole microseconds since 1970"),
        ("ann", Event(np.int64(NOW), "buy", "a"), "whole microseconds since 1970"),
        ("ann", Event(NOW, "buy", "a", position=0), "from 1 to 1,000,000"),
        ("ann", Event(NOW, "buy", "a", position=1_000_001), "from 1 to 1,000,000"),
        ("", Event(NOW, "buy", "a"), "name of a user"),
        ("ann", Event(NOW, "buy", " "), "name of a product"),
        ("ann", Event(NOW, "buy", "a\0"), "NUL"),
        ("a" * 1001, Event(NOW, "buy", "a"), "at most 1,000 characters"),
        ("ann", Event(NOW, "buy", "a", query="\ud800"), "half a character"),
    ],
)
def test_what_is_no_event_is_refused(store, user, event, words):
    refused = []
    with pytest.raises(UsageError, match=words):
        store.add([(user, event)])
    assert store.add([(user, event), ("bob", Event(NOW, "buy", "a"))], refuse=lambda *why: refused.append(why)).new == 1
    assert len(refused) == 1


# What a copied index tells


def bytes_below(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


def test_what_is_forgotten_leaves_no_bytes_of_names_queries_and_sessions(place):
    def events(user: str, word: str) -> list[tuple[str, Event]]:
        return [
            (user, Event(NOW + number, "click", f"{word}-product-{number}", f"{word}-query", None, f"{word}-visit"))
            for number in range(400)
        ]

    with opened(place) as store:
        for start in range(0, 400, 100):  # so that pages are split by rows of both
            for user, word in (("ann", "hers"), ("bob", "his"), ("cem", "his")):
                store.add(events(user, word)[start : start + 100])
        key = read_key(place.parent / "events.key")
        hers = [hashed(key, "user", "ann"), hashed(key, "session", "hers-visit"), b"hers-query", b"hers-product"]
        his = [hashed(key, "user", "bob"), hashed(key, "session", "his-visit"), b"his-query", b"his-product-399"]
        assert all(name in bytes_below(place) for name in (*hers, *his))

        assert store.forget(user="ann") == 400

        assert not [name for name in hers if name in bytes_below(place)]
        assert len(store.of_user("bob")) == 400
        store.forget(user="bob")
        assert his[0] not in bytes_below(place)
        assert all(name in bytes_below(place) for name in his[1:])  # of cem, too
    assert not [name for name in (b"ann", b"bob", b"cem", b"visit") if name in bytes_below(place)]


def test_forgetting_says_so_when_a_reader_keeps_bytes(place, monkeypatch):
    monkeypatch.setattr(live_database, "WAIT", 0.05)
    with opened(place) as store, contextlib.closing(sqlite3.connect(place / EVENTS_FILE)) as reader:
        store.add([("ann", Event(NOW, "buy", "secret-product"))])
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()

        with pytest.raises(LockedError, match="no longer read, but its bytes are still in") as caught:
            store.forget(user="ann")

        assert "run this again" in caught.value.hint
        assert store.of_user("ann") == []
        reader.execute("COMMIT")
        assert store.forget(user="ann") == 0
        assert b"secret-product" not in bytes_below(place)


def test_an_import_does_not_give_the_number_of_a_person_to_another_who_was_forgotten_meanwhile(place, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 1)

    def events():
        yield "ann", Event(NOW, "buy", "a")
        yield "bob", Event(NOW, "buy", "b")
        with opened(place) as other:
            other.forget(user="bob")
        yield "cem", Event(NOW, "buy", "c")
        yield "bob", Event(NOW, "buy", "d")

    with opened(place) as store:
        store.add(events())
        found = {user: [event.product for event in store.of_user(user)] for user in ("ann", "bob", "cem")}

    assert found == {"ann": ["a"], "bob": ["d"], "cem": ["c"]}


def test_two_imports_at_once_lose_nothing_and_take_nobody_for_another(place, monkeypatch):
    monkeypatch.setattr(module, "_BATCH", 10)
    given = [(f"user-{number % 13}", Event(NOW + number, "view", f"p{number % 7}", "q")) for number in range(120)]

    def write(events: list[tuple[str, Event]]) -> None:
        with opened(place) as store:
            store.add(events)

    threads = [threading.Thread(target=write, args=(part,)) for part in (given[:80], given[40:][::-1])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    with opened(place) as store:
        users = {user for user, _ in given}
        assert content(store, users) == {user: Counter(e for whose, e in given if whose == user) for user in users}
        assert store.stats().users == 13


def test_a_store_that_another_process_makes_meanwhile_is_opened(place, monkeypatch):
    class Slow(sqlite3.Connection):
        done = 0

        def execute(self, *arguments):
            Slow.done += 1
            if Slow.done == 2:
                monkeypatch.undo()
                with opened(place) as other:
                    other.add([("ann", Event(NOW, "buy", "a"))])
            return super().execute(*arguments)

    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Slow))

    with opened(place) as store:
        assert len(store.of_user("ann")) == 1


# The key


def test_the_key_is_made_for_the_first_event_and_only_its_owner_can_read_it(store, place):
    key = place.parent / "events.key"
    assert store.of_user("ann") == []
    assert store.add([]).new == 0
    assert not key.exists()

    store.add([("ann", Event(NOW, "buy", "a"))])

    assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)
    assert [file.name for file in place.parent.iterdir() if file.is_file()] == ["events.key"]


def test_another_key_and_a_lost_one_are_told_and_nothing_is_added(store, place):
    key = place.parent / "events.key"
    ann = ("ann", Event(NOW, "buy", "a"))
    store.add([ann])
    for other in (b"k" * 32, None):
        key.unlink()
        if other:
            key.write_bytes(other)
            key.chmod(0o600)
        for use in (lambda: store.add([ann]), lambda: store.of_user("ann"), lambda: store.forget(user="ann")):
            with pytest.raises(UsageError, match=str(key)) as caught:
                use()
            assert "backup" in caught.value.hint
        assert len(store.arrays()) == 1  # which needs no names


@pytest.mark.parametrize(("data", "mode", "words"), [(b"k" * 31, 0o600, "32 bytes"), (b"k" * 32, 0o640, "by others")])
def test_a_file_that_is_no_key_or_that_others_may_read_is_refused(store, place, data, mode, words):
    (place.parent / "events.key").write_bytes(data)
    (place.parent / "events.key").chmod(mode)

    with pytest.raises(UsageError, match=words):
        store.add([("ann", Event(NOW, "buy", "a"))])


def test_the_key_is_where_it_is_named_but_never_in_the_index(place, monkeypatch, tmp_path):
    monkeypatch.delenv("IMGSEARCH_EVENTS_KEY", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert key_path(place) == tmp_path / "settings" / "imgsearch" / "events.key"
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path / "other.key"))
    assert key_path(place) == tmp_path / "other.key"
    (tmp_path / "link").symlink_to(place)
    for within in (place / "events.key", tmp_path / "link" / "deep" / "events.key"):
        with pytest.raises(UsageError, match="outside of the index"), EventStore(place, key=within) as store:
            store.add([("ann", Event(NOW, "buy", "a"))])


def test_a_key_that_is_a_link_to_itself_is_told(store, place):
    (place.parent / "events.key").symlink_to("events.key")

    with pytest.raises(UsageError, match=r"events\.key, cannot be read"):
        store.add([("ann", Event(NOW, "buy", "a"))])


def test_who_reads_does_not_wait_for_an_import(place, monkeypatch):
    with opened(place) as store:
        store.add([("ann", Event(NOW, "buy", "a"))])
    monkeypatch.setattr(live_database, "WAIT", 0)

    with contextlib.closing(sqlite3.connect(place / EVENTS_FILE, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")

        with opened(place, read_only=True) as store:
            assert len(store.of_user("ann")) == 1


# What may happen to the file


_WRITER = """
import sys
from pathlib import Path
from imgsearch.personal import event_store

event_store._BATCH = 50
place = Path(sys.argv[1])

def given():
    for number in range(int(sys.argv[2])):
        if number % 50 == 0:
            print(number, flush=True)
        yield f"user-{number % 7}", event_store.Event(number, "view", f"product-{number % 11}")

with event_store.EventStore(place, key=place.parent / "events.key") as store:
    store.add(given())
"""


def test_an_import_that_was_killed_is_completed_by_the_same_one(place):
    command = [sys.executable, "-c", _WRITER, place]
    with subprocess.Popen([*command, "1000000"], stdout=subprocess.PIPE, text=True) as writer:
        for line in writer.stdout:
            if int(line) == 500:
                writer.send_signal(signal.SIGKILL)
                break
        last = int((["500", *writer.stdout.read().splitlines()])[-1])
    given = [(f"user-{number % 7}", Event(number, "view", f"product-{number % 11}")) for number in range(last + 50)]

    with opened(place) as store:
        found = len(store.arrays())
        assert last <= found <= last + 50
        assert store.add(given).new == len(given) - found
        assert store.add(given).new == 0
        assert store.arrays().times.tolist() == list(range(last + 50))


def test_tables_stay_what_they_are_in_this_version(place):
    with opened(place) as store:
        store.set_weights({"buy": 9})
    with contextlib.closing(sqlite3.connect(place / EVENTS_FILE)) as connection:
        tables = [sql for (sql,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql > ''")]
    golden = GOLDEN.read_text()

    assert golden.startswith("".join(f"{sql};\n" for sql in tables))


def test_a_store_of_version_1_can_be_read(place):
    with contextlib.closing(sqlite3.connect(place / EVENTS_FILE)) as connection:
        connection.executescript(GOLDEN.read_text())
    (place.parent / "events.key").write_bytes(bytes(range(32)))
    (place.parent / "events.key").chmod(0o600)

    with opened(place) as store:
        assert store.of_user("ann") == [
            Event(NOW, "view", AWAY, "shoe", 3, "d98dd85db22b92f008aaa1eab6c4c9a2"),
            Event(NOW + 1, "buy", "a"),
        ]
        assert store.weights()["buy"] == 9
        assert store.newest() == NOW + 1


@pytest.fixture
def closed(place) -> Path:
    with opened(place) as store:
        store.add(answer("ann", "shoe", (0, "view", "a", 1), (1, "click", "a", 1), session="s"))
        store.set_weights({"buy": 9})
    return place


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE products SET name = 5",
        "UPDATE queries SET name = 'x'",
        "DELETE FROM products",
        "UPDATE events SET kind = 7",
        "UPDATE events SET time = 'now'",
        "UPDATE events SET time = 9000000000000000000",
        "UPDATE weights SET weight = 'much'",
        "UPDATE weights SET weight = 1e308",
        "UPDATE facts SET value = 'x'",
        "DROP TABLE events",
        "PRAGMA user_version = 0",
        "PRAGMA user_version = 2",
    ],
)
def test_a_damaged_file_is_told(closed, statement):
    with contextlib.closing(sqlite3.connect(closed / EVENTS_FILE)) as connection, connection:
        connection.execute(statement)

    def read_all() -> None:
        with opened(closed) as store:
            store.of_user("ann")
            store.arrays()
            list(store.answers())
            store.weights()
            store.newest()
            store.stats()

    with pytest.raises(DamagedIndexError, match=EVENTS_FILE):
        read_all()


def test_damage_that_sqlite_quotes_byte_by_byte_is_told(closed):
    content = (closed / EVENTS_FILE).read_bytes()
    (closed / EVENTS_FILE).write_bytes(content.replace(b"CREATE TABLE weights (kind", b"CREATE TABLE weights \x84kind"))

    with pytest.raises(DamagedIndexError, match=EVENTS_FILE), opened(closed):
        pass


def test_what_is_kept_can_be_read_on_a_disk_that_cannot_be_written_to(closed, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may write to all disks

    with opened(closed, read_only=True) as store:
        assert len(store.of_user("ann")) == 2
        assert len(list(store.answers())) == 1
        assert store.stats().users == 1
        with pytest.raises(OutputError):
            store.set_weights({"buy": 1})

    assert [file.name for file in closed.iterdir()] == [EVENTS_FILE]
