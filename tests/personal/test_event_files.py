"""Logs of events: each row is an event or is refused by its line; a file that is none leaves what was before it."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from imgsearch import NoIndexError, UsageError
from imgsearch.personal import event_store as events_module
from imgsearch.personal.event_files import ImportReport, RefusedRow, import_events
from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import Event

pytestmark = pytest.mark.usefixtures("quick_builds")

NOW = 1_767_225_600_000_000
HEAD = "time,user,event,product,path,query,position,session\n"


@pytest.fixture(scope="module")
def place(built, tmp_path_factory) -> Path:
    """An index, beside which the key is; each test imports events of other people."""
    folder = tmp_path_factory.mktemp("shop")
    shutil.copytree(built / "exact", folder / "index")
    return folder / "index"


@pytest.fixture
def imported(place, tmp_path):
    """Import a file: what was done, the rows that were refused, and the events of a person."""

    def run(name: str, data: str | bytes, **options):
        (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
        refused: list[RefusedRow] = []
        done = import_events(place, tmp_path / name, key=place.parent / "events.key", refuse=refused.append, **options)
        return done, refused

    return run


def events_of(place: Path, user: str) -> list[Event]:
    with EventStore(place, key=place.parent / "events.key", read_only=True) as store:
        return store.of_user(user)


def test_the_same_rows_are_read_from_each_format(place, imported, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {"time": "2026-01-01T00:00:00Z", "user": 17, "event": "view", "product": "a", "query": "red", "position": 3},
        {"time": "2026-01-01T01:00:01+01:00", "user": 17, "event": "buy", "path": "a/0000.png", "session": "s"},
        {"time": "2026-01-01T00:00:02.5", "user": 17, "event": "like", "product": "a", "path": "b.png", "query": ""},
        {"time": "2026-01-01", "user": 17, "event": "cart", "product": "5"},
    ]
    columns = HEAD.strip().split(",")
    table = HEAD + "".join(",".join(str(row.get(name, "")) for name in columns) + "\n" for row in rows)

    assert imported("log.csv", table)[0] == ImportReport(4, 0, {})
    assert imported("log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))[0] == ImportReport(0, 4, {})
    parquet.write_table(
        pa.Table.from_pylist([{name: row.get(name) for name in columns} for row in rows]), tmp_path / "p"
    )
    assert imported("log.parquet", (tmp_path / "p").read_bytes())[0] == ImportReport(0, 4, {})

    found = events_of(place, "17")
    assert [event.time - NOW for event in found] == [0, 0, 1_000_000, 2_500_000]
    assert {(event.kind, event.product, event.query, event.position) for event in found} == {
        ("view", "a", "red", 3),
        ("cart", "5", None, None),
        ("buy", "a/0000.png", None, None),
        ("like", "b.png", None, None),  # the path, where there are both
    }


def test_no_time_is_too_large_to_be_refused_in_parquet(imported, tmp_path):
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    times = [float("-inf"), float("inf"), float("nan"), 1.0]
    parquet.write_table(
        pa.table({"time": times, "user": ["dan"] * 4, "event": ["buy"] * 4, "product": ["a"] * 4}), tmp_path / "p"
    )

    assert imported("log.parquet", (tmp_path / "p").read_bytes())[0] == ImportReport(0, 0, {"time": 4})


def test_seconds_and_dates_are_times(place, imported):
    times = ["1767225600", "1767225600.25", "2026-01-01 00:00", "20260101T000000Z", "2025-12-31T19:00:00.75-05:00"]
    text = "time;user;event;product\n" + "".join(f"{each};tim;view;p{row}\n" for row, each in enumerate(times))

    assert imported("log.csv", text)[0].new == 5

    found = sorted((event.product, event.time - NOW) for event in events_of(place, "tim"))
    assert [offset for _, offset in found] == [0, 250_000, 0, 0, 750_000]


@pytest.mark.parametrize(
    ("row", "cause", "words"),
    [
        (",ann,view,a,,,,", "time", "found nothing"),
        ("yesterday,ann,view,a,,,,", "time", "found 'yesterday'"),
        ("1989-12-31,ann,view,a,,,,", "time", "since 1990"),
        ("0,ann,view,a,,,,", "time", "since 1990"),
        ("1767225600000,ann,view,a,,,,", "time", "of the past"),
        ("99999999999999999999,ann,view,a,,,,", "time", "of the past"),
        ("9999-12-31T23:59:59-14:00,ann,view,a,,,,", "time", "of the past"),
        ("0001-01-01T00:00:00+14:00,ann,view,a,,,,", "time", "since 1990"),
        ("2026-01-01,ann,VIEW,a,,,,", "event", "found 'VIEW'"),
        ("2026-01-01,ann,,a,,,,", "event", "found ''"),
        ("2026-01-01,,view,a,,,,", "user", "name of a user"),
        ("2026-01-01,  ,view,a,,,,", "user", "name of a user"),
        ("2026-01-01,ann,view,,,,,", "product", "name of a product"),
        ("2026-01-01,ann,view,a,,,0,", "position", "from 1 to 1,000,000"),
        ("2026-01-01,ann,view,a,,,1000001,", "position", "from 1 to 1,000,000"),
        ("2026-01-01,ann,view,a,,,-1,", "position", "whole number"),
        ("2026-01-01,ann,view,a,,,1.5,", "position", "whole number"),
        (f"2026-01-01,{'u' * 1001},view,a,,,,", "user", "1,000 characters"),
        (f"2026-01-01,ann,view,a,,{'q' * 1001},,", "query", "1,000 characters"),
    ],
)
def test_a_row_that_is_no_event_is_refused_by_its_line_and_the_others_are_kept(imported, row, cause, words):
    done, refused = imported("log.csv", f"{HEAD}{row}\n2026-01-01,kim,view,a,,,3.0,\n")

    assert (done.new + done.known, done.refused) == (1, {cause: 1})
    assert (refused[0].line, refused[0].cause) == (2, cause)
    assert words in refused[0].problem


def test_the_next_day_is_still_a_time_for_clocks_that_run_ahead(imported):
    done, _ = imported(
        "log.csv", f"{HEAD}{time.time() + 23 * 3600},ahead,view,a,,,,\n{time.time() + 25 * 3600},a,view,a,,,,\n"
    )

    assert (done.new, done.refused) == (1, {"time": 1})


def test_lines_and_values_that_are_none_are_refused_in_json(place, imported):
    good = {"time": NOW // 1_000_000, "user": "json", "event": "view", "product": 5.0, "position": 2.0}
    lines = [
        json.dumps(good),
        "{broken",
        "[1]",
        "",
        *(json.dumps({**good, name: value}) for name, value in (("user", True), ("product", ["a"]), ("time", None))),
        *(json.dumps({**good, name: value}) for name, value in (("position", "x"), ("event", 1), ("user", "a\0"))),
        json.dumps({**good, "user": "\ud800"}),
        json.dumps({**good, "time": 1e300}),
    ]

    done, refused = imported("log.jsonl", "\n".join(lines))

    assert done.new == 1
    assert [row.line for row in refused] == [2, 3, 5, 6, 7, 8, 9, 10, 11, 12]
    assert done.refused == {"event": 1, "json": 2, "position": 1, "product": 1, "time": 2, "user": 3}
    assert events_of(place, "json") == [Event(NOW, "view", "5", position=2)]


def test_names_of_files_that_are_not_utf_8_are_kept_as_they_are(place, imported):
    name = b"caf\xe9/1.png"
    imported("log.csv", HEAD.encode() + b"2026-01-01,lisa,view,," + name + b"," + name + b",,\n")
    imported("latin.csv", HEAD.encode() + b"2026-01-02,lisa,view,caf\xe9,,,,\n", encoding="latin-1")

    assert [(event.product, event.query) for event in events_of(place, "lisa")] == [
        (os.fsdecode(name), os.fsdecode(name)),
        ("caf\xe9", None),
    ]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("log.csv", "a,b\n1,2\n", "expected the columns time and user and event and product or path"),
        ("log.csv", "", "expected the columns"),
        ("log.csv", f"{HEAD}2026-01-01,ann,view\n", "expected 8 cells"),
        ("log.csv", f'{HEAD}2026-01-01,"ann,view,a,,,,\n', "a quotation mark is not closed"),
        ("log.csv", HEAD.encode() + b"2026-01-01,\xe9,view,a,,,,\n", "is not utf-8"),
        ("log.jsonl", b"\xff\xfe\xff", "utf"),
        ("log.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_what_is_no_such_file_is_an_error(imported, name, data, words):
    with pytest.raises(UsageError, match=words):
        imported(name, data)


def test_what_is_before_a_fault_of_the_file_is_kept_and_that_is_said(place, imported, monkeypatch):
    monkeypatch.setattr(events_module, "_BATCH", 2)
    rows = "".join(f"2026-01-0{day},faulty,view,a,,,,\n" for day in range(1, 6))

    with pytest.raises(UsageError, match=r"line 7: expected 8 cells.*; the 5 events before it are kept"):
        imported("log.csv", f"{HEAD}{rows}cut,off")

    assert len(events_of(place, "faulty")) == 5
    assert imported("log.csv", f"{HEAD}{rows}2026-01-06,faulty,view,a,,,,")[0] == ImportReport(1, 5, {})


def test_empty_logs_add_nothing(imported):
    for name, data in (("log.csv", HEAD), ("log.jsonl", ""), ("log.jsonl", "\n\n")):
        assert imported(name, data) == (ImportReport(0, 0, {}), [])


def test_without_an_index_nothing_is_made(tmp_path):
    (tmp_path / "log.csv").write_text(HEAD)
    with pytest.raises(NoIndexError):
        import_events(tmp_path / "index", tmp_path / "log.csv")
    assert not (tmp_path / "index").exists()


_CHILD = """
import resource, sys
from pathlib import Path
from imgsearch.personal.event_files import import_events

done = import_events(Path(sys.argv[1]), Path(sys.argv[2]), key=Path(sys.argv[3]))
print(done.new, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def imported_by_a_process(index: Path, log: Path, key: Path) -> tuple[int, int]:
    """Import a log in a process of its own; how many events are new, and the most memory it had."""
    command = [sys.executable, "-c", _CHILD, index, log, key]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    new, memory = map(int, done.stdout.split())
    return new, memory


@pytest.mark.slow
def test_a_million_people_take_less_than_500_mb(place, tmp_path):
    log, index = tmp_path / "log.csv", Path(shutil.copytree(place, tmp_path / "index"))
    with log.open("w") as file:
        file.write("time,user,event,product\n")
        file.writelines(f"{NOW // 10**6 + number},user-{number},view,p{number % 5000}\n" for number in range(10**6))

    new, memory = imported_by_a_process(index, log, tmp_path / "events.key")

    assert new == 10**6
    assert memory < 500e6
    with EventStore(index, key=tmp_path / "events.key", read_only=True) as store:
        assert store.stats().users >= 10**6
        assert [event.product for event in store.of_user("user-123456")] == ["p3456"]
