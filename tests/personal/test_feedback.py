"""The store of judgments: what was acknowledged stays, what is forgotten is gone, damage is told."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgsearch import DamagedIndexError, OutputError, UsageError
from imgsearch.personal.feedback import FEEDBACK_FILE, FeedbackStore, Shown

ANSWER = "0123456789abcdef" * 2
AWAY = os.fsdecode(b"caf\xe9/\n.png")
PATHS = ("a.png", "b/c d.png", AWAY)
SPACE = "f" * 16


def unit(*numbers: float) -> np.ndarray:
    vector = np.asarray(numbers, np.float32)
    return vector / np.linalg.norm(vector)


def shown(answer: str = ANSWER, *, space: str = SPACE, paths: tuple[str, ...] = PATHS, **other) -> Shown:
    return Shown(answer, 3, space, other.get("vector", unit(3, 4)), paths)


@pytest.fixture
def store(tmp_path):
    with FeedbackStore(tmp_path) as opened:
        yield opened


def said(store: FeedbackStore) -> list[tuple[str, str, str]]:
    return [(each.session, each.path, each.verdict) for each in store.judgments()]


def test_a_judgment_comes_back_as_it_was_given(store):
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    store.judge(shown(), AWAY, "chosen", "token")

    (found,) = store.judgments()

    assert (found.path, found.verdict, found.session) == (AWAY, "chosen", "token")
    assert (found.shown.id, found.shown.generation, found.shown.space, found.shown.paths) == (ANSWER, 3, SPACE, PATHS)
    assert found.shown.vector.tolist() == unit(3, 4).tolist()
    assert before <= found.time <= datetime.now(UTC)


_ANSWERS = st.sampled_from([ANSWER, "1" * 32])
_SESSIONS = st.sampled_from(["", "one", "two"])
_SAID = st.tuples(_ANSWERS, st.sampled_from(PATHS), st.sampled_from(["chosen", "rejected", None]), _SESSIONS)


@settings(deadline=None, max_examples=25)
@given(st.lists(_SAID | _SESSIONS, max_size=15))
def test_the_last_word_on_a_hit_counts_until_it_is_taken_back_or_forgotten(tmp_path_factory, steps):
    kept: dict[tuple[str, str, str], str] = {}
    folder = tmp_path_factory.mktemp("store")
    with FeedbackStore(folder) as store:
        for step in steps:
            before = store.version()
            if isinstance(step, str):
                gone = [key for key in kept if key[1] == step]
                assert store.forget(session=step) == len(gone)
                kept = {key: verdict for key, verdict in kept.items() if key not in gone}
            else:
                answer, path, verdict, session = step
                store.judge(shown(answer), path, verdict, session)
                kept.pop((answer, session, path), None)
                if verdict:
                    kept[answer, session, path] = verdict
            assert store.version() > before
    with FeedbackStore(folder) as store:
        found = {(each.shown.id, each.session, each.path): each.verdict for each in store.judgments()}
        assert list(found.items()) == list(kept.items())  # the oldest first


def test_judgments_are_told_by_space_and_the_last_ones_are_kept(store):
    for number in range(4):
        store.judge(shown(f"{number:032x}", vector=unit(1, number)), "a.png", "chosen" if number % 2 else "rejected")
    store.judge(shown(space="other", vector=unit(1, 2, 3)), "a.png", "chosen")

    vectors, paths, are_chosen = store.judged(SPACE, 3)

    assert vectors.tolist() == [unit(1, number).tolist() for number in (3, 2, 1)]
    assert (paths, are_chosen.tolist()) == (["a.png"] * 3, [True, False, True])
    assert len(store.judged("nothing", 3)[0]) == 0


def test_what_is_forgotten_leaves_no_bytes(store, tmp_path):
    secret = f"{'secret' * 40}.png"
    store.judge(shown(paths=(secret,)), secret, "chosen", "mine")
    store.judge(shown(), "a.png", "chosen", "other")

    assert store.forget(session="mine") == 1

    assert said(store) == [("other", "a.png", "chosen")]
    assert not [file for file in tmp_path.iterdir() if b"secretsecret" in file.read_bytes()]


def test_forget_takes_one_session_a_time_or_all(store):
    for session in ("one", "two"):
        store.judge(shown(), "a.png", "chosen", session)
    for wrong in ({}, {"session": "one", "everything": True}):
        with pytest.raises(UsageError, match="exactly one"):
            store.forget(**wrong)

    assert store.forget(before=datetime.now(UTC) - timedelta(hours=1)) == 0
    assert store.forget(before=datetime.now(UTC) + timedelta(hours=1)) == 2
    store.judge(shown(), "a.png", "chosen")
    assert store.forget(everything=True) == 1


@pytest.mark.parametrize(
    ("answer", "path", "verdict", "session", "words"),
    [
        (shown("../x"), "a.png", "chosen", "", "32 hex digits"),
        (shown(), "z.png", "chosen", "", "one of the hits"),
        (shown(), "a.png", "liked", "", "chosen or rejected"),
        (shown(), "a.png", "chosen", "a b", "session"),
        (shown(), "a.png", "chosen", "x" * 65, "session"),
        (shown(vector=np.ones(4, np.float32)), "a.png", "chosen", "", "unit length"),
        (shown(vector=np.full(4, np.nan, np.float32)), "a.png", "chosen", "", "unit length"),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_kept(store, answer, path, verdict, session, words):
    with pytest.raises(UsageError, match=words):
        store.judge(answer, path, verdict, session)
    assert said(store) == []


def test_threads_and_another_process_write_to_one_file(store, tmp_path):
    def write(number: int) -> None:
        for turn in range(5):
            store.judge(shown(f"{number:016x}{turn:016x}"), "a.png", "chosen")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    with FeedbackStore(tmp_path) as other:
        other.judge(shown(), "a.png", "rejected")
    for thread in threads:
        thread.join()
    before = store.version()
    with FeedbackStore(tmp_path) as other:
        other.judge(shown("9" * 32), "a.png", "chosen")

    assert store.version() > before
    assert len(said(store)) == 22


_WRITER = """
import itertools, sys
from pathlib import Path
import numpy as np
from imgsearch.personal.feedback import FeedbackStore, Shown

vector = np.eye(1, 8, dtype=np.float32)[0]
with FeedbackStore(Path(sys.argv[1])) as store:
    for number in itertools.count():
        store.judge(Shown(f"{number:032x}", 1, "space", vector, ("a.png",)), "a.png", "chosen")
        print(number, flush=True)
"""


def test_nothing_that_was_acknowledged_is_lost_when_the_writer_is_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as writer:
        for line in writer.stdout:
            if int(line) == 40:
                writer.send_signal(signal.SIGKILL)
                break
        acknowledged = 40 + len(writer.stdout.read().splitlines())

    with FeedbackStore(tmp_path) as store:
        found = [int(each.shown.id, 16) for each in store.judgments()]
    assert found[: acknowledged + 1] == list(range(acknowledged + 1))
    assert len(found) - acknowledged - 1 in (0, 1)  # one may be kept that could not be acknowledged any more


def change(folder: Path, statement: str) -> None:
    with contextlib.closing(sqlite3.connect(folder / FEEDBACK_FILE)) as connection, connection:
        connection.execute(statement)


@pytest.fixture
def closed(tmp_path) -> Path:
    with FeedbackStore(tmp_path) as store:
        store.judge(shown(), "a.png", "chosen")
    return tmp_path


def test_a_file_of_a_newer_version_is_named_as_newer_and_left_alone(closed):
    change(closed, "PRAGMA user_version = 2")
    before = (closed / FEEDBACK_FILE).read_bytes()

    with pytest.raises(DamagedIndexError, match="newer version, 2; this imgsearch reads up to 1") as caught:
        FeedbackStore(closed)

    assert (caught.value.exit_code, caught.value.hint) == (6, "update imgsearch")
    assert (closed / FEEDBACK_FILE).read_bytes() == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE judgments SET vector = x'00'",
        "UPDATE judgments SET vector = zeroblob(8)",
        "UPDATE judgments SET path = 5",
        "UPDATE judgments SET verdict = 'liked'",
        "UPDATE judgments SET time = 'now'",
        "UPDATE judgments SET time = 9223372036854775807",
        "UPDATE judgments SET answer = x'ff'",
        "DROP TABLE judgments",
        "PRAGMA user_version = 0",
    ],
)
def test_a_damaged_file_is_told(closed, statement):
    change(closed, statement)

    with pytest.raises(DamagedIndexError, match=f"{FEEDBACK_FILE} is damaged"), FeedbackStore(closed) as store:
        list(store.judgments())


@pytest.mark.parametrize("place", [0, 40, 4096, 8192])
def test_bytes_that_are_not_ours_are_told(closed, place):
    data = bytearray((closed / FEEDBACK_FILE).read_bytes())
    data[place : place + 64] = b"\xa5" * 64
    (closed / FEEDBACK_FILE).write_bytes(data)

    with pytest.raises(DamagedIndexError, match=f"{FEEDBACK_FILE} is"), FeedbackStore(closed) as store:
        list(store.judgments())


def test_where_nothing_can_be_written_that_is_said(tmp_path):
    (tmp_path / FEEDBACK_FILE).mkdir()

    with pytest.raises(OutputError, match=FEEDBACK_FILE) as caught:
        FeedbackStore(tmp_path)

    assert "the right to write to" in caught.value.hint


def test_what_is_kept_can_be_read_on_a_disk_that_cannot_be_written_to(closed, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # whoever runs the tests may write to all disks

    with FeedbackStore(closed, read_only=True) as store:
        assert said(store) == [("", "a.png", "chosen")]
        with pytest.raises(OutputError):
            store.judge(shown(), "a.png", None)

    assert [file.name for file in closed.iterdir()] == [FEEDBACK_FILE]


def test_a_closed_store_says_so(tmp_path):
    store = FeedbackStore(tmp_path)
    store.close()
    store.close()

    with pytest.raises(UsageError, match="this FeedbackStore is closed"):
        store.version()
