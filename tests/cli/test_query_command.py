import csv
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgsearch.cli.formats import FORMATS, Format
from imgsearch.images.decode import decode_rgba
from imgsearch.synthetic.augment import photo_like


@pytest.fixture
def photo(drawn, tmp_path):
    item = decode_rgba((drawn / "cups" / "cups-00.png").read_bytes())
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo_like(item, np.random.default_rng(0)))
    return file


@pytest.mark.parametrize("how", ["table", "csv", "paths"])
def test_answers_look_as_they_did(imgsearch, small, drawn, snapshot, how):
    done = imgsearch("query", "hearts/hearts-00.png", "--index", small, "--format", how, cwd=drawn)

    assert (done.returncode, done.stderr) == (0, "")
    snapshot(f"query.{how}.txt", done.stdout)


def test_json_is_an_array_and_jsonl_a_line_a_query_with_the_same_objects(imgsearch, small, photo, drawn):
    images = (photo, drawn / "cups" / "cups-01.png")

    array = json.loads(imgsearch("query", *images, "--index", small, "--format", "json").stdout)
    lines = [
        json.loads(line)
        for line in imgsearch("query", *images, "--index", small, "--format", "jsonl").stdout.splitlines()
    ]

    assert [strip_seconds(answer) for answer in array] == [strip_seconds(answer) for answer in lines]
    assert list(array[0]) == ["query", "plan", "seconds", "index", "hits"]
    assert array[0]["index"] == {"generation": 1, "count": 24, "encoder": "handcrafted"}
    hit = array[1]["hits"][0]
    assert hit == {
        "rank": 1,
        "path": "cups/cups-01.png",
        "score": 1.0,
        "distance": 0.0,
        "product": "cups/cups-01",
        "category": "cups",
        "metadata": {},
    }


def test_a_bad_image_exits_4_and_the_others_are_answered(imgsearch, small, photo, tmp_path):
    (tmp_path / "text.jpg").write_text("not an image")
    os.mkfifo(tmp_path / "fifo.jpg")

    done = imgsearch("query", "missing.jpg", photo, "text.jpg", "fifo.jpg", "--index", small, "--format", "paths")

    assert done.returncode == 4
    assert len(done.stdout.splitlines()) == 5
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["missing.jpg", "text.jpg", "fifo.jpg"]
    assert "Traceback" not in done.stderr


def test_a_bad_image_has_an_error_in_place_of_hits_in_json(imgsearch, small, photo):
    done = imgsearch("query", "missing.jpg", photo, "--index", small, "--format", "json")

    bad, good = json.loads(done.stdout)
    assert done.returncode == 4
    assert bad["error"] == {"code": 4, "message": "no such file"}
    assert "hits" not in bad
    assert len(good["hits"]) == 5


def test_no_index_exits_5_with_an_error_object_where_json_was_asked_for(imgsearch, photo):
    plain = imgsearch("query", photo, "--index", "nowhere")
    as_json = imgsearch("query", photo, "--index", "nowhere", "--format", "json")

    assert (plain.returncode, as_json.returncode) == (5, 5)
    assert "hint: make one: imgsearch build-index" in plain.stderr
    assert json.loads(as_json.stderr)["error"]["code"] == 5


@pytest.mark.parametrize("name", ["annoy.ann", "items.sqlite", "vectors.npy", "manifest.json"])
def test_a_damaged_file_exits_6_and_is_named(imgsearch, small, photo, tmp_path, name):
    index = tmp_path / "damaged"
    shutil.copytree(small, index)
    file = next(index.rglob(name))
    file.write_bytes(file.read_bytes()[:-100])

    done = imgsearch("query", photo, "--index", index)

    assert done.returncode == 6
    assert name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--top-k", "0"],
        ["--top-k", "-1"],
        ["--format", "xml"],
        ["--where", "nonsense ("],
        ["--where", "x = 1"],
        ["--bad"],
        *(["--min-score", number] for number in ("nan", "inf", "-inf", "1.01", "-2", "60")),
        *(["--min-probability", number] for number in ("nan", "inf", "-0.1", "1.01")),
    ],
)
def test_a_usage_error_exits_2(imgsearch, small, photo, arguments):
    done = imgsearch("query", photo, "--index", small, *arguments)

    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_paths_come_from_standard_input(imgsearch, small, drawn):
    names = "cups/cups-00.png\nfish/fish-01.png\n"

    done = imgsearch("query", "-", "-k", 1, "--index", small, "--format", "paths", cwd=drawn, input=names)

    assert done.stdout == names


def test_a_standard_input_that_cannot_be_read_is_not_called_an_output(imgsearch, small):
    with Path(os.devnull).open("wb") as unreadable:
        done = imgsearch("query", "-", "--index", small, stdin=unreadable)

    assert (done.returncode, "standard input cannot be read" in done.stderr) == (13, True), done.stderr


def test_where_min_score_and_exact_narrow_the_answer(imgsearch, small, photo):
    def answer(*options):
        done = imgsearch("query", photo, "--index", small, "--format", "json", *options)
        return json.loads(done.stdout)[0]

    fish = answer("--where", "category = 'fish'", "-k", 5)
    assert fish["plan"] == "exact"
    assert {hit["category"] for hit in fish["hits"]} == {"fish"}
    assert len(fish["hits"]) == 2
    everything = answer("-k", 24)["hits"]
    floor = everything[9]["score"]
    assert len(answer("-k", 24, "--min-score", floor - 1e-6)["hits"]) == 10
    assert answer("-k", 24, "--exact")["hits"] == everything


EMPTY = {"table": "", "jsonl": "", "paths": "", "json": "[]\n"}
HEADS = {
    "query": "query,rank,path,score,distance,product,category\n",
    "classify": "query,rank,class,probability\n",
    "detect": "query,rank,x,y,width,height,score\n",
}


@pytest.mark.parametrize("command", HEADS)
def test_of_no_images_an_output_is_whole(imgsearch, small, tiny_models, command):
    where = ("--model", tiny_models / "classes.keras") if command == "classify" else ("--index", small)

    for name in FORMATS:
        done = imgsearch(command, "-", *where, "--format", name, input="")
        assert (done.returncode, done.stderr) == (0, "")
        if name == "html":
            assert done.stdout.startswith("<!doctype html>")
            assert done.stdout.endswith("</html>\n")
        else:
            assert done.stdout == (HEADS[command] if name == "csv" else EMPTY[name])


@pytest.mark.parametrize("form", [("--format", "json"), ("--format=json",), ("--format=jsonl",)], ids=str)
def test_a_usage_error_is_an_object_where_the_format_is_a_json_one(imgsearch, form):
    for arguments in (("query", "--bad"), ("query", "x", "-k", "0"), ("classify",), ("detect",), ("nonsense",)):
        done = imgsearch(*arguments, *form)

        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        error = json.loads(line)["error"]
        assert (error["code"], set(error)) == (2, {"code", "message", "hint"})
        assert error["message"]
    assert imgsearch("query", "--bad", "--", *form).stderr.startswith("Usage:")


def test_a_format_is_one_class(imgsearch, small, drawn, monkeypatch):
    class Count(Format):
        def piece(self, answer, *, is_first):
            return f"{len(list(answer.result.rows()))} "

    monkeypatch.setitem(FORMATS, "count", Count)

    done = imgsearch("query", "cups/cups-00.png", "fish/fish-01.png", "--index", small, "--format", "count", cwd=drawn)

    assert (done.returncode, done.stdout) == (0, "5 5 ")


def test_more_than_there_are_gives_all_there_are(imgsearch, small, photo):
    done = imgsearch("query", photo, "--index", small, "-k", 1000, "--format", "paths")

    assert len(set(done.stdout.splitlines())) == 24


def test_results_can_be_written_to_a_file_that_appears_whole(imgsearch, small, photo, tmp_path):
    done = imgsearch("query", photo, "--index", small, "--format", "csv", "-o", "answers.csv")
    failed = imgsearch("query", photo, "--index", small, "-o", "nowhere/answers.csv")

    assert (done.returncode, done.stdout) == (0, "")
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 6
    assert not (tmp_path / "answers.csv.tmp").exists()
    assert (failed.returncode, "cannot write" in failed.stderr) == (11, True)


def test_a_closed_pipe_is_quiet(small, photo):
    command = [sys.executable, "-m", "imgsearch", "query", str(photo), "--index", str(small)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()

    assert (process.wait(), errors) == (0, b"")


def test_a_full_disk_under_standard_output_is_not_a_success(imgsearch, small, photo):
    with open("/dev/full", "w") as full:
        done = imgsearch("query", photo, "--index", small, capture_output=False, stdout=full, stderr=subprocess.PIPE)

    assert done.returncode == 11
    assert "cannot write to standard output" in done.stderr


def test_hostile_names_reach_no_terminal_and_no_spreadsheet(imgsearch, odd_catalog):
    assert imgsearch("build-index", odd_catalog, "--index", "idx", "--backbone", "handcrafted").returncode == 0
    ask = ("query", odd_catalog / "@sum.png", "-k", 10, "--index", "idx", "--format")

    table = imgsearch(*ask, "table").stdout
    assert "\x1b" not in table
    assert "\u202e" not in table
    for escaped in (r"caf\xe9.png", r"line\nbreak.png", r"\x1b[31mred.png", r"abc\u202egnp.png"):
        assert escaped in table
    rows = list(csv.DictReader(io.StringIO(imgsearch(*ask, "csv", errors="surrogateescape").stdout)))
    assert {"'=cmd().png", "'@sum.png", "line\nbreak.png"} <= {row["path"] for row in rows}
    assert not any(
        cell.startswith(("=", "+", "-", "@")) for row in rows for name, cell in row.items() if name == "path"
    )
    hits = json.loads(imgsearch(*ask, "json").stdout)[0]["hits"]
    assert {os.fsencode(hit["path"]) for hit in hits} == {os.fsencode(file.name) for file in odd_catalog.iterdir()}
    paths = imgsearch(*ask, "paths", text=False).stdout
    assert b"caf\xe9.png\n" in paths


def test_a_name_that_is_not_utf_8_can_be_asked_for(imgsearch, odd_catalog):
    imgsearch("build-index", odd_catalog, "--index", "idx", "--backbone", "handcrafted")

    done = imgsearch(
        "query", os.fsencode(odd_catalog).decode() + "/caf\udce9.png", "--index", "idx", "--format", "json"
    )

    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["hits"][0]["path"] == "caf\udce9.png"


def test_metadata_is_filtered_by_and_shown(imgsearch, catalog, photo, tmp_path):
    (tmp_path / "products.csv").write_text(
        "path,product,price\ncups/cups-00.png,Blue cup,4.50\ncups/cups-01.png,Red cup,12\n"
    )
    imgsearch("build-index", catalog, "--index", "idx", "--backbone", "handcrafted", "--metadata", "products.csv")

    done = imgsearch("query", photo, "--index", "idx", "--where", "metadata->>'price' < 5", "--format", "json")

    (hit,) = json.loads(done.stdout)[0]["hits"]
    assert (hit["product"], hit["category"], hit["metadata"]) == ("Blue cup", "cups", {"price": 4.5})


def strip_seconds(answer):
    return {name: value for name, value in answer.items() if name != "seconds"}
