"""`imgsearch feedback`, and `query --feedback`."""

import csv
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing

import pytest

from imgsearch import build_index, rollback
from imgsearch.personal.feedback import FEEDBACK_FILE

pytestmark = pytest.mark.usefixtures("quick_builds")


@pytest.fixture
def shop(built, tmp_path):
    """An index of painted images, to be changed."""
    shutil.copytree(built / "exact", tmp_path / ".imgsearch")
    return tmp_path


def lines(done):
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def found(imgsearch, *options):
    return lines(imgsearch("query", *options, "--format", "paths"))


def test_what_was_chosen_comes_first_for_the_next_one_who_asks(shop, imgsearch, photo):
    before = found(imgsearch, photo, "-k", "40")
    last, first = before[-1], before[0]

    assert imgsearch("feedback", "add", photo, "--chosen", last, "--rejected", first).returncode == 0

    assert found(imgsearch, photo, "-k", "40") == before
    after = found(imgsearch, photo, "-k", "40", "--feedback")
    assert after.index(last) < 5
    assert after.index(first) > 0


def test_an_item_can_be_asked_with_and_is_still_no_hit(shop, imgsearch):
    item, *_, last = "a/0000.png", *found(imgsearch, "--item", "a/0000.png", "-k", "40")

    lines(imgsearch("feedback", "add", "--item", item, "--chosen", last))

    after = found(imgsearch, "--item", item, "-k", "40", "--feedback")
    assert after.index(last) < 10
    assert item not in after


@pytest.fixture
def judged(shop, imgsearch, photo):
    """Three judgments by two sessions, of a fixed time and answer."""
    imgsearch("feedback", "add", photo, "--chosen", "a/0000.png", "--rejected", "b/0001.png", "--session", "one")
    imgsearch("feedback", "add", photo, "--chosen", "c/0002.png", "--session", "two")
    with closing(sqlite3.connect(shop / ".imgsearch" / FEEDBACK_FILE)) as connection, connection:
        connection.execute("UPDATE judgments SET time = 1767225600000000 + id * 1000000, answer = printf('%032x', id)")
    return shop


def test_the_list_looks_as_it_did(judged, imgsearch, snapshot):
    snapshot("feedback.table.txt", imgsearch("feedback", "list").stdout)


def test_list_and_export_say_all_that_is_kept(judged, imgsearch):
    listed = json.loads(imgsearch("feedback", "list", "--format", "json").stdout)
    exported = [json.loads(line) for line in lines(imgsearch("feedback", "export"))]
    heads, *rows = csv.reader(io.StringIO(imgsearch("feedback", "export", "--format", "csv").stdout))

    assert [(each["path"], each["verdict"], each["session"]) for each in listed] == [
        ("a/0000.png", "chosen", "one"),
        ("b/0001.png", "rejected", "one"),
        ("c/0002.png", "chosen", "two"),
    ]
    assert all(each["path"] in each["shown"] and len(each["shown"]) >= 10 for each in listed)
    assert [{name: each[name] for name in listed[0]} for each in exported] == listed
    assert all(sum(number**2 for number in each["vector"]) == pytest.approx(1, abs=1e-5) for each in exported)
    assert [dict(zip(heads, row, strict=True))["path"] for row in rows] == [each["path"] for each in listed]
    assert [json.loads(row[-1]) for row in rows] == [each["shown"] for each in listed]


def test_forget_removes_a_session_what_is_old_or_all(judged, imgsearch):
    def forgotten(*options):
        done = imgsearch("feedback", "forget", *options)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert forgotten("--session", "two") == "imgsearch: judgments forgotten: 1\n"
    assert forgotten("--before", "2026-01-01T00:00:02") == "imgsearch: judgments forgotten: 1\n"
    assert forgotten("--all", "--quiet") == ""
    assert imgsearch("feedback", "list").stdout == "judgments: 0\n"
    for wrong in ([], ["--all", "--session", "one"], ["--before", "yesterday"]):
        assert imgsearch("feedback", "forget", *wrong).returncode == 2


def test_builds_rollbacks_and_what_they_sweep_leave_feedback_alone(judged, built, imgsearch, lay_out):
    index = judged / ".imgsearch"
    shutil.copytree(built / "catalog", judged / "catalog")
    before = (index / FEEDBACK_FILE).read_bytes()

    for first in (40, 50, 60):
        lay_out(judged / "catalog", 3, first=first)
        build_index(judged / "catalog", index)
    rollback(index)
    (index / "manifest.json").unlink()
    (index / "lock").unlink()
    shutil.rmtree(index / "encoders")
    for folder in index.glob("gen-*"):
        shutil.rmtree(folder)
    build_index(judged / "catalog", index, backbone="handcrafted")  # an index that lost all but its feedback

    assert (index / FEEDBACK_FILE).read_bytes() == before
    assert len(json.loads(imgsearch("feedback", "list", "--format", "json").stdout)) == 3


def test_nothing_is_made_where_nothing_was_said(shop, imgsearch, photo):
    assert found(imgsearch, photo, "--feedback") == found(imgsearch, photo)
    assert imgsearch("feedback", "list").stdout == "judgments: 0\n"
    assert imgsearch("feedback", "export").stdout == ""
    assert imgsearch("feedback", "forget", "--all").returncode == 0
    assert not (shop / ".imgsearch" / FEEDBACK_FILE).exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["feedback", "add", "--chosen", "a/0000.png"], "expected an image or --item, found none"),
        (["feedback", "add", "x.png", "--item", "a/0000.png", "--chosen", "a/0000.png"], "found both"),
        (["feedback", "add", "--item", "a/0000.png"], "expected --chosen or --rejected"),
        (["feedback", "add", "--item", "a/0000.png", "--chosen", "a/000.png"], "no image and no product 'a/000.png'"),
        (
            ["feedback", "add", "--item", "a/0000.png", "--chosen", "b/0001.png", "--rejected", "b/0001.png"],
            "to be chosen or rejected, found both",
        ),
        (["feedback", "add", "--item", "a/0000.png", "--chosen", "b/0001.png", "--session", "a b"], "session"),
        (["query", "--text", "red", "--feedback"], "--feedback has no effect without IMAGE"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(shop, imgsearch, arguments, words):
    done = imgsearch(*arguments)

    assert done.returncode == 2
    assert words in done.stderr


def test_help_has_a_summary_for_each_command_of_the_group(imgsearch):
    _, _, commands = imgsearch("feedback", "--help").stdout.partition("Commands:\n")

    assert re.findall(r"^  ([a-z]+) .*[^.]\.$", commands, re.MULTILINE) == ["add", "list", "export", "forget"]
