"""Commands that look after a catalog: what they write, and how they end."""

import csv
import io
import json
import os
import shutil
import sqlite3

import pytest

from imgsearch import build_index, embed

pytestmark = pytest.mark.usefixtures("quick_builds")

NAMES = ["=cmd().png", "<b>.png", "line\nbreak.png", os.fsdecode(b"\xff.png")]


@pytest.fixture(scope="module")
def odd(drawn, tmp_path_factory):
    """A catalog of two categories with names that no format may take at their word, and its index."""
    folder = tmp_path_factory.mktemp("odd")
    for category, source in (("cups", "cups-00.png"), ("fish", "fish-01.png")):
        (folder / "catalog" / category).mkdir(parents=True)
        for name in NAMES:
            shutil.copy(drawn / source.partition("-")[0] / source, folder / "catalog" / category / name)
    build_index(folder / "catalog", folder / "index", backbone="handcrafted", backend="exact")
    return folder


def test_duplicates_in_every_format(odd, imgsearch):
    def answer(form):
        done = imgsearch("duplicates", "--index", odd / "index", "--format", form, errors="surrogateescape")
        assert done.returncode == 0, done.stderr
        return done.stdout

    groups = json.loads(answer("json"))["groups"]
    assert [len(group["items"]) for group in groups] == [4, 4]
    assert {item["how"] for group in groups for item in group["items"]} == {"kept", "equal"}
    rows = list(csv.reader(io.StringIO(answer("csv"), newline="")))
    assert len(rows) == 9
    assert not any(cell.startswith("=") for row in rows for cell in row)
    assert answer("paths").count(".png\n") == 6
    done = imgsearch("duplicates", "--index", odd / "index", "--format", "paths", "-0", errors="surrogateescape")
    names = [item["path"] for group in groups for item in group["items"][1:]]
    assert done.stdout.split("\0") == [*names, ""]
    assert any("\n" in name for name in names)
    page = answer("html")
    assert "<b>.png" not in page
    assert page.count("<img") == 8
    assert "6 duplicates in 2 groups, 2 of them of several products" in answer("table")


def test_duplicates_fail_if_any(odd, cared_index, imgsearch):
    done = imgsearch("duplicates", "--index", odd / "index", "--fail-if-any")
    none = imgsearch("duplicates", "--index", cared_index, "--fail-if-any")

    assert (done.returncode, none.returncode) == (10, 0)
    assert "6 duplicates in 2 groups" in done.stderr
    assert none.stdout == "0 duplicates in 0 groups\n"


def test_a_failed_gate_comes_after_the_whole_answer(odd, imgsearch):
    options = ("--index", odd / "index", "--fail-if-any", "--quiet")
    done = imgsearch("duplicates", *options, "--format", "json")
    file = imgsearch("duplicates", *options, "-o", "found.csv", "--format", "csv")

    assert (done.returncode, file.returncode) == (10, 10)
    assert len(json.loads(done.stdout)["groups"]) == 2
    error = json.loads(done.stderr)["error"]
    assert error["code"] == 10
    assert error["message"] == "6 duplicates in 2 groups, 2 of them of several products"
    assert "duplicates.html" in error["hint"]
    assert file.stdout == ""


def test_an_index_of_embeddings_only_is_refused(drawn, imgsearch, tmp_path):
    embed(drawn / "cups", tmp_path / "index", backbone="handcrafted:color")

    for command in (("duplicates",), ("outliers",), ("neighbors", "-o", "n.csv")):
        done = imgsearch(*command, "--index", tmp_path / "index")
        assert (done.returncode, done.stdout) == (5, "")
        assert "imgsearch build-index" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.fixture(scope="module")
def cared_index(drawn, tmp_path_factory):
    """An index without duplicates."""
    index = tmp_path_factory.mktemp("clean") / "index"
    build_index(drawn / "cups", index, backbone="handcrafted", backend="exact")
    return index


def test_outliers_in_every_format(odd, imgsearch):
    for form in ("table", "json", "csv", "paths", "html"):
        done = imgsearch("outliers", "--index", odd / "index", "--format", form, "-k", 3, errors="surrogateescape")
        assert done.returncode == 0, done.stderr
        if form == "json":
            assert [item["rank"] for item in json.loads(done.stdout)["items"]] == [1, 2, 3]
        elif form == "csv":
            assert len(list(csv.reader(io.StringIO(done.stdout, newline="")))) == 4


def test_neighbors_in_every_format_with_any_names(odd, imgsearch, tmp_path):
    for ending in ("jsonl", "csv", "sqlite"):
        done = imgsearch("neighbors", "--index", odd / "index", "-k", 3, "-o", f"n.{ending}")
        assert (done.returncode, done.stdout) == (0, f"n.{ending}: 8 lists\n"), done.stderr

    lines = [json.loads(line) for line in (tmp_path / "n.jsonl").read_text().splitlines()]
    assert {line["path"] for line in lines} == {f"{folder}/{name}" for folder in ("cups", "fish") for name in NAMES}
    assert {len(line["neighbors"]) for line in lines} == {3}
    text = (tmp_path / "n.csv").read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["path", "rank", "neighbor", "score"]
    assert len(rows) == 25
    with sqlite3.connect(tmp_path / "n.sqlite") as connection:
        connection.text_factory = os.fsdecode
        stored = connection.execute("SELECT path, neighbor, score FROM neighbors ORDER BY path, rank").fetchall()
    assert sorted(stored) == sorted(
        (line["path"], other["path"], other["score"]) for line in lines for other in line["neighbors"]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.csv", "n.jsonl", "n.sqlite"]


def test_neighbors_refuse_an_ending_that_says_nothing_and_a_place_in_the_index(odd, imgsearch):
    assert imgsearch("neighbors", "--index", odd / "index", "-o", "n.txt").returncode == 2
    assert imgsearch("neighbors", "--index", odd / "index", "-o", odd / "index" / "n.csv").returncode == 2
    assert imgsearch("neighbors", "--index", odd / "index", "-o", "n.csv", "--since", 5).returncode == 5


@pytest.mark.parametrize("command", ["duplicates", "outliers", "neighbors"])
def test_a_place_that_cannot_be_written_to_is_found_out_before_anything_is_compared(odd, imgsearch, command):
    done = imgsearch(command, "--index", odd / "index", "-o", "nowhere/found.csv")

    assert (done.returncode, done.stdout) == (11, "")
    assert "is no folder that may be written to" in done.stderr


def test_info_changes(odd, imgsearch, tmp_path):
    folder = shutil.copytree(odd, tmp_path / "copy")
    (folder / "catalog" / "fish" / NAMES[0]).unlink()
    build_index(folder / "catalog", folder / "index")
    options = ("info", "--index", folder / "index", "--changes")

    table, found = imgsearch(*options, "previous"), imgsearch(*options, 1, "--format", "json")

    assert table.stdout.startswith("generation 2 against 1: 0 new, 1 gone, 0 changed; ")
    assert "gone      fish/=cmd().png\n" in table.stdout
    assert json.loads(found.stdout)["gone"] == ["fish/=cmd().png"]
    assert imgsearch(*options, "yesterday").returncode == 2
    assert imgsearch(*options, 9).returncode == 5
    assert imgsearch(*options, "previous", "--rejected").returncode == 2
