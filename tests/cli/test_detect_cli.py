"""`imgsearch detect`, and the detector of an index as `build-index`, `info` and `check` show it."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest


def program(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imgsearch", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def index(drawn, tiny_models, tmp_path_factory) -> Path:
    """An index with a detector that finds what is dark. Not to be changed."""
    folder = tmp_path_factory.mktemp("shop")
    options = ("--backbone", tiny_models / "metric.keras", "--detector", tiny_models / "detector.keras")
    program("build-index", drawn, "--index", "idx", "--precision", "f32", "--backend", "exact", *options, cwd=folder)
    return folder / "idx"


def image(*dark: tuple[slice, slice]) -> np.ndarray:
    pixels = np.random.default_rng(0).integers(150, 256, (200, 200, 3), np.uint8)
    for number, place in enumerate(dark):
        pixels[place] = 5 + 15 * number
    return pixels


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two items in one, none in another, and one that is no image; called from this folder."""
    for name, pixels in {
        "two.png": image((slice(0, 50), slice(150, 200)), (slice(100, 150), slice(50, 100))),
        "none.png": image(),
    }.items():
        (tmp_path / name).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    (tmp_path / "text.jpg").write_text("no image")
    return tmp_path


BOXES = [[150, 0, 50, 50], [50, 100, 50, 50]]


@pytest.mark.parametrize("how", ["table", "csv", "paths"])
def test_boxes_look_as_they_did(imgsearch, index, photos, snapshot, how):
    done = imgsearch("detect", "two.png", "none.png", "--index", index, "--format", how)

    assert (done.returncode, done.stderr) == (0, "")
    snapshot(f"detect.{how}.txt", done.stdout)


def test_json_and_jsonl_say_the_same(imgsearch, index, photos):
    array = json.loads(imgsearch("detect", "two.png", "none.png", "--index", index, "--format", "json").stdout)
    lines = imgsearch("detect", "two.png", "none.png", "--index", index, "--format", "jsonl").stdout.splitlines()

    for answers in (array, list(map(json.loads, lines))):
        two, none = answers
        assert list(two) == ["query", "seconds", "boxes"]
        assert sorted(found["box"] for found in two["boxes"]) == sorted(BOXES)
        assert [found["rank"] for found in two["boxes"]] == [1, 2]
        assert 1 >= two["boxes"][0]["score"] >= two["boxes"][1]["score"] > 0.3
        assert none["boxes"] == []


def test_csv_has_a_row_a_box(imgsearch, index, photos):
    text = imgsearch("detect", "two.png", "none.png", "--index", index, "--format", "csv").stdout

    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["query", "rank", "x", "y", "width", "height", "score"]
    assert sorted([int(row[name]) for name in ("x", "y", "width", "height")] for row in rows) == sorted(BOXES)
    assert {row["query"] for row in rows} == {"two.png"}


def test_html_draws_the_boxes_and_loads_nothing(imgsearch, index, photos):
    done = imgsearch("detect", "two.png", "none.png", "--index", index, "--format", "html", "-o", "boxes.html")

    page = (photos / "boxes.html").read_text()
    assert (done.returncode, done.stdout) == (0, "")
    assert page.count("<section>") == 2
    assert "no item is in it" in page
    assert "50 x 50 pixels at 150,0" in page
    assert "http" not in page.replace("http-equiv", "")
    with_boxes, without = (decoded(text) for text in re.findall(r"base64,([A-Za-z0-9+/=]+)", page))
    assert orange(with_boxes) > 60
    assert orange(without) < 20


def decoded(text: str) -> np.ndarray:
    data = np.frombuffer(base64.b64decode(text), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2HSV)


def orange(hsv: np.ndarray) -> int:
    """How many pixels are of the color that boxes are drawn in."""
    return int(((abs(hsv[..., 0].astype(int) - 16) < 6) & (hsv[..., 1] > 150) & (hsv[..., 2] > 100)).sum())


def test_a_least_score_leaves_boxes_out(imgsearch, index, photos):
    def count(score: object) -> int:
        done = imgsearch("detect", "two.png", "--index", index, "--format", "json", "--min-score", score)
        return len(json.loads(done.stdout)[0]["boxes"])

    assert (count(1), count(0.3), count(0)) == (0, 2, 16)
    for score in ("-0.1", "1.1", "x"):
        assert imgsearch("detect", "two.png", "--index", index, "--min-score", score).returncode == 2


def test_what_cannot_be_read_is_reported_and_the_others_are_answered(imgsearch, index, photos):
    done = imgsearch("detect", "missing.png", "two.png", "text.jpg", "--index", index, "--format", "paths")

    assert (done.returncode, done.stdout) == (4, "two.png\n")
    assert [line.split(": ")[1] for line in done.stderr.splitlines()] == ["missing.png", "text.jpg"]

    done = imgsearch("detect", "missing.png", "two.png", "--index", index, "--format", "json")
    missing, two = json.loads(done.stdout)
    assert done.returncode == 4
    assert missing["error"] == {"code": 4, "message": "no such file"}
    assert "boxes" not in missing
    assert len(two["boxes"]) == 2
    page = imgsearch("detect", "missing.png", "--index", index, "--format", "html").stdout
    assert "no such file" in page


def test_names_come_from_standard_input(imgsearch, index, photos):
    done = imgsearch("detect", "-", "-0", "--index", index, "--format", "paths", input="two.png\0none.png\0")

    assert (done.returncode, done.stdout) == (0, "two.png\0")


def test_hostile_names_stay_names(imgsearch, index, photos):
    names = ["=cmd().png", "\x1b[31mred.png", "<script>.png", "caf\udce9.png"]
    for name in names:
        shutil.copy(photos / "two.png", os.fsencode(os.fspath(photos / name)))

    options = {"errors": "surrogateescape"}
    table, page, sheet = (
        imgsearch("detect", *names, "--index", index, "--format", how, **options).stdout
        for how in ("table", "html", "csv")
    )

    assert "\x1b" not in table
    assert page.count("<script>") == 1  # our own
    assert "'=cmd().png" in sheet


def test_an_index_without_a_detector_exits_8_and_says_how_to_get_one(imgsearch, small, photos):
    done = imgsearch("detect", "two.png", "--index", small)

    assert (done.returncode, done.stdout) == (8, "")
    assert "has no detector" in done.stderr
    assert "build-index --detector" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("how", ["json", "jsonl", "csv", "html", "paths"])
def test_that_is_so_in_every_format(imgsearch, small, photos, how):
    done = imgsearch("detect", "two.png", "--index", small, "--format", how)

    assert done.returncode == 8
    assert "has no detector" in done.stderr
    if how in ("json", "jsonl"):
        assert json.loads(done.stderr)["error"]["code"] == 8


def test_no_index_exits_5(imgsearch, photos):
    assert imgsearch("detect", "two.png", "--index", "nowhere").returncode == 5


def test_a_damaged_detector_exits_6(imgsearch, index, photos):
    copy = shutil.copytree(index, photos / "copy")
    manifest = json.loads((copy / "manifest.json").read_text())
    file = copy / "encoders" / manifest["detector"]["fingerprint"] / "encoder.bin"
    file.write_bytes(bytes(file.stat().st_size))

    for command in (("detect", "two.png"), ("query", "two.png"), ("query", "two.png", "--objects"), ("check",)):
        done = imgsearch(*command, "--index", copy)
        assert (command, done.returncode) == (command, 6)
        assert "Traceback" not in done.stderr


def test_info_knows_it_and_check_finds_it_whole(imgsearch, index, small):
    assert "detector.keras" in imgsearch("info", "--index", index).stdout
    assert json.loads(imgsearch("info", "--index", index, "--format", "json").stdout)["detector"]["name"] == (
        "detector.keras"
    )
    assert re.search(r"^detector +none", imgsearch("info", "--index", small).stdout, re.MULTILINE)
    assert imgsearch("check", "--index", index).returncode == 0


def test_what_does_not_go_together_exits_2_and_changes_nothing(imgsearch, index, small, drawn, tiny_models, tmp_path):
    copy = shutil.copytree(index, tmp_path / "copy")
    before = (copy / "manifest.json").read_bytes()
    build = ("build-index", drawn, "--index", copy)

    for options in (
        ("--detector", tiny_models / "metric.keras"),
        ("--detector", tiny_models / "detector-of-gray.keras"),
        ("--backbone", tiny_models / "detector.keras"),
    ):
        done = imgsearch(*build, *options)
        assert (options, done.returncode) == (options, 2)
        assert "expected" in done.stderr
    assert imgsearch(*build, "--detector", "missing.keras").returncode == 8
    assert (copy / "manifest.json").read_bytes() == before


def test_query_takes_the_detector_for_objects(imgsearch, index, photos):
    done = imgsearch("query", "two.png", "--objects", "-k", 2, "--index", index, "--format", "json")

    (answer,) = json.loads(done.stdout)
    assert [found["box"] for found in answer["objects"]] == BOXES
    assert all(0.3 <= found["score"] <= 1 for found in answer["objects"])
    assert "sure" in imgsearch("query", "two.png", "--objects", "--index", index).stdout
