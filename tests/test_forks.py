"""Forks of a process whose threads are in SQLite: the child gets none of its locks as another thread held it."""

import os
import sqlite3
import threading
from pathlib import Path

import pytest

from imgsearch import forks
from imgsearch.forks import no_fork
from imgsearch.personal.feedback import FeedbackStore
from imgsearch.store.database import Reader


def exit_code_of_fork(in_child) -> int:
    """Fork, and return what the child ends with: 0 where `in_child` returned true."""
    child = os.fork()
    if not child:
        os._exit(0 if in_child() else 7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fork_while(run) -> int:
    """Fork while a thread runs `run(stay)`, where `stay` has a lock until a fork begins; 7 if the child finds it so."""
    is_inside, is_forked, held = threading.Event(), threading.Event(), threading.Lock()

    def stay() -> int:
        with held:
            is_inside.set()
            while not forks._GATE._forks and not is_forked.is_set():
                os.sched_yield()
        return 1

    thread = threading.Thread(target=run, args=(stay,))
    thread.start()
    assert is_inside.wait(60)
    code = exit_code_of_fork(lambda: held.acquire(blocking=False))
    is_forked.set()
    thread.join()
    return code


def guarded(stay) -> None:
    with no_fork():
        stay()


@pytest.mark.parametrize(("run", "code"), [(guarded, 0), (lambda stay: stay(), 7)], ids=["guarded", "not guarded"])
def test_a_fork_waits_for_a_thread_that_is_guarded(run, code):
    assert fork_while(run) == code


def test_a_fork_waits_for_a_thread_that_reads_a_database(tmp_path):
    path = tmp_path / "items.sqlite"
    sqlite3.connect(path).execute("CREATE TABLE items (row)")
    reader = Reader(path)

    def read(stay) -> None:
        reader.connection.create_function("stay", 0, stay)
        assert list(reader.run("SELECT stay()")) == [(1,)]

    assert fork_while(read) == 0
    reader.close()


def test_a_fork_waits_for_a_thread_that_reads_feedback(tmp_path):
    with FeedbackStore(tmp_path) as store:

        def read(stay) -> None:
            store._connection.create_function("stay", 0, stay)
            assert store._rows("SELECT stay()") == [(1,)]

        assert fork_while(read) == 0


def test_a_thread_may_fork_while_it_is_in_sqlite_itself_and_its_child_may_go_on(tmp_path):
    def opens_another() -> bool:
        with FeedbackStore(Path(tmp_path)):
            return True

    with no_fork(), no_fork():
        assert exit_code_of_fork(opens_another) == 0
    assert exit_code_of_fork(opens_another) == 0


def test_whoever_comes_while_a_fork_waits_does_not_keep_it_waiting():
    came = threading.Event()

    def come() -> None:
        with no_fork():
            came.set()

    late = threading.Thread(target=come)

    def run(stay) -> None:
        with no_fork():
            stay()  # until the fork waits
            late.start()
            with no_fork():  # who is there may go further in
                came_too_early.append(came.is_set())

    came_too_early: list[bool] = []
    assert fork_while(run) == 0
    late.join(60)
    assert (came.is_set(), came_too_early) == (True, [False])
