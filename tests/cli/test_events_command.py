"""`imgsearch events`."""

import json
import shutil

import pytest

from imgsearch import build_index, rollback
from imgsearch.personal.event_store import EVENTS_FILE

pytestmark = pytest.mark.usefixtures("quick_builds")

LOG = """\
time,user,event,product,query,position,session
2026-01-01T00:00:00Z,ann,view,a/0000,red,1,s1
2026-01-01T00:00:05Z,ann,click,a/0000,red,1,s1
2026-01-02,bob,buy,b/0001.png,,,
2026-01-03,bob,return,gone,,,
2026-01-03,bob,sell,a/0000,,,
\x1b[31mred,bob,view,a/0000,,,
"""


@pytest.fixture
def shop(built, tmp_path, monkeypatch):
    """An index of painted images, to be changed, and a log."""
    shutil.copytree(built / "exact", tmp_path / ".imgsearch")
    (tmp_path / "log.csv").write_text(LOG)
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path / "settings" / "events.key"))
    return tmp_path


def facts(imgsearch):
    return json.loads(imgsearch("events", "stats", "--format", "json").stdout)


def test_a_log_is_imported_and_its_refused_rows_are_named(shop, imgsearch):
    done = imgsearch("events", "import", "log.csv", "--report", "refused.jsonl")

    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        "imgsearch: refused line 6: expected one of view, click, cart, buy, like, dislike, return, found 'sell'",
        "imgsearch: refused line 7: expected 2026-01-31T12:00:00Z or seconds since 1970, found '\\x1b[31mred'",
        "imgsearch: log.csv: 4 new events, 0 known, 2 rows refused (1 event, 1 time)",
    ]
    refused = [json.loads(line) for line in (shop / "refused.jsonl").read_text().splitlines()]
    assert [(row["line"], row["cause"]) for row in refused] == [(6, "event"), (7, "time")]
    again = imgsearch("events", "import", "log.csv", "-q")
    assert (again.returncode, again.stderr) == (3, "")
    assert sum(facts(imgsearch)["events"].values()) == 4


def test_only_the_first_refused_rows_are_named(shop, imgsearch):
    (shop / "log.jsonl").write_text("x\n" * 30)

    done = imgsearch("events", "import", "log.jsonl")

    assert done.stderr.count("refused line") == 10
    assert "30 rows refused (30 json); --report FILE names all" in done.stderr


def test_stats_are_shown(shop, imgsearch, snapshot):
    assert facts(imgsearch)["last"] is None
    assert not (shop / ".imgsearch" / EVENTS_FILE).exists()
    imgsearch("events", "import", "log.csv")

    found = facts(imgsearch)
    table = imgsearch("events", "stats").stdout

    assert found.pop("bytes") > 4096
    snapshot("events.stats.json", json.dumps(found, indent=1) + "\n")
    snapshot("events.stats.txt", "".join(line for line in table.splitlines(keepends=True) if "bytes" not in line))


def test_a_user_or_what_is_before_a_date_is_forgotten(shop, imgsearch):
    assert imgsearch("events", "forget", "ann").stderr == "imgsearch: events forgotten: 0\n"
    assert not (shop / ".imgsearch" / EVENTS_FILE).exists()
    imgsearch("events", "import", "log.csv")

    assert imgsearch("events", "forget", "ann").stderr == "imgsearch: events forgotten: 2\n"
    assert imgsearch("events", "forget", "--before", "2026-01-03").stderr == "imgsearch: events forgotten: 1\n"

    assert (facts(imgsearch)["users"], facts(imgsearch)["products_not_in_catalog"]) == (1, 1)
    for wrong in ([], ["bob", "--before", "2026-01-01"], ["--before", "soon"]):
        assert imgsearch("events", "forget", *wrong).returncode == 2


def test_weights_are_shown_and_changed(shop, imgsearch, snapshot):
    usual = imgsearch("events", "weights").stdout
    assert not (shop / ".imgsearch" / EVENTS_FILE).exists()
    snapshot("events.weights.txt", usual)

    changed = imgsearch("events", "weights", "buy=10", "return=-9.5").stdout

    assert changed == imgsearch("events", "weights").stdout
    assert [line.split() for line in changed.splitlines() if line not in usual] == [["buy", "10"], ["return", "-9.5"]]
    for wrong in ("buy", "buy=", "buy=much", "buy=nan", "sell=1"):
        assert imgsearch("events", "weights", wrong).returncode == 2


def test_builds_and_rollbacks_leave_events_alone(shop, imgsearch, lay_out):
    index = shop / ".imgsearch"
    lay_out(shop / "catalog", 6)
    imgsearch("events", "import", "log.csv")
    build_index(shop / "catalog", index, force=True)
    rollback(index)
    for path in index.iterdir():
        if path.name != EVENTS_FILE:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    build_index(shop / "catalog", index, backbone="handcrafted")  # an index that lost all but its events

    assert sum(facts(imgsearch)["events"].values()) == 4


def test_a_report_that_would_do_harm_and_a_key_in_the_index_are_refused(shop, imgsearch, monkeypatch):
    for report in (".imgsearch/x", "log.csv"):
        assert imgsearch("events", "import", "log.csv", "--report", report).returncode == 2
    assert (shop / "log.csv").read_text() == LOG
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(shop / ".imgsearch" / "events.key"))
    done = imgsearch("events", "import", "log.csv")
    assert (done.returncode, "outside of the index" in done.stderr) == (2, True)
