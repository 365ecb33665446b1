import csv
import io
import json
import math

import pytest


def test_the_table_looks_as_it_did(imgsearch, small, drawn, snapshot):
    done = imgsearch("query", "hearts/hearts-00.png", "--index", small, "--vote", "-k", 3, cwd=drawn)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].split() == ["#", "probability", "class"]
    assert done.stdout.splitlines()[3].split()[::2] == ["1", "hearts"]


def test_a_vote_is_counted_from_the_hits_that_the_same_answer_names(imgsearch, small, drawn):
    done = imgsearch("query", "cups/cups-00.png", "--index", small, "--vote", "-k", 8, "--format", "json", cwd=drawn)

    (answer,) = json.loads(done.stdout)
    assert list(answer) == ["query", "plan", "seconds", "index", "hits", "classes"]
    weights: dict[str, float] = {}
    for hit in answer["hits"]:
        weights[hit["category"]] = weights.get(hit["category"], 0) + math.exp((hit["score"] - 1) / 0.07)
    expected = sorted(weights.items(), key=lambda pair: -pair[1])
    assert [found["class"] for found in answer["classes"]] == [label for label, _ in expected]
    shares = [weight / sum(weights.values()) for _, weight in expected]
    assert [found["probability"] for found in answer["classes"]] == pytest.approx(shares, abs=1e-4)
    assert answer["classes"][0]["class"] == "cups"


def test_csv_and_paths_name_the_classes(imgsearch, small, drawn):
    ask = ("query", "cups/cups-00.png", "fish/fish-01.png", "--index", small, "--vote", "--format")

    rows = list(csv.DictReader(io.StringIO(imgsearch(*ask, "csv", cwd=drawn).stdout)))
    paths = imgsearch(*ask, "paths", cwd=drawn).stdout

    assert list(rows[0]) == ["query", "rank", "class", "probability"]
    assert [row["class"] for row in rows if row["rank"] == "1"] == ["cups", "fish"]
    assert paths == "cups\nfish\n"


def test_where_and_min_score_decide_who_votes(imgsearch, small, drawn):
    ask = ("query", "cups/cups-00.png", "--index", small, "--vote", "--format", "json", "-k", 24)

    (fish,) = json.loads(imgsearch(*ask, "--where", "category = 'fish'", cwd=drawn).stdout)
    (nobody,) = json.loads(imgsearch(*ask, "--where", "category = 'none'", cwd=drawn).stdout)

    assert [(found["class"], found["probability"]) for found in fish["classes"]] == [("fish", 1.0)]
    assert (nobody["classes"], nobody["hits"]) == ([], [])


@pytest.mark.parametrize("how", ["table", "csv", "paths", "html", "jsonl"])
def test_where_nobody_votes_nothing_is_said_and_it_is_no_error(imgsearch, small, drawn, how):
    ask = ("query", "cups/cups-00.png", "--index", small, "--vote", "--where", "category = 'none'", "--format", how)

    done = imgsearch(*ask, cwd=drawn)

    assert (done.returncode, done.stderr) == (0, "")
    assert "cups</" not in done.stdout


def test_a_bad_image_exits_4_and_the_others_vote(imgsearch, small, drawn):
    ask = ("query", "none.png", "cups/cups-00.png", "--index", small, "--vote", "--format")

    done = imgsearch(*ask, "json", cwd=drawn)
    plain = imgsearch(*ask, "paths", cwd=drawn)

    bad, good = json.loads(done.stdout)
    assert (done.returncode, plain.returncode) == (4, 4)
    assert bad["error"] == {"code": 4, "message": "no such file"}
    assert "classes" not in bad
    assert good["classes"][0]["class"] == "cups"
    assert (plain.stdout, plain.stderr) == ("cups\n", "imgsearch: none.png: no such file\n")


def test_hostile_categories_reach_no_terminal_spreadsheet_or_page(imgsearch, drawn, tmp_path):
    folder = tmp_path / "odd" / "=1+1\x1b[31m<script>"
    folder.mkdir(parents=True)
    (folder / "image.png").write_bytes((drawn / "cups/cups-00.png").read_bytes())
    imgsearch("build-index", "odd", "--index", "idx", "--backbone", "handcrafted:color", "--backend", "exact")
    ask = ("query", folder / "image.png", "--index", "idx", "--vote", "--format")

    table, page = (imgsearch(*ask, how).stdout for how in ("table", "html"))
    (row,) = csv.DictReader(io.StringIO(imgsearch(*ask, "csv").stdout))

    assert "\x1b" not in table + page
    assert r"=1+1\x1b[31m<script>" in table
    assert page.count("<script") == 1  # our own
    assert row["class"].startswith("'=")
