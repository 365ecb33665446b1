"""`imgsearch evaluate` as people and cron see it, and the page docs/evaluation.md."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from imgsearch.cli import main
from imgsearch.images.decode import decode_rgba
from imgsearch.store.generations import read_manifest
from imgsearch.synthetic.augment import photo_like

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()


@pytest.fixture
def index(small, tmp_path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "idx"))


@pytest.fixture(scope="module")
def photos(drawn, tmp_path_factory) -> Path:
    """A photo of each product, in a folder that is called like it. Not to be changed."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(sorted(drawn.rglob("*.png"))):
        place = folder / image.relative_to(drawn).with_suffix("")
        place.mkdir(parents=True)
        photo = photo_like(decode_rgba(image.read_bytes()), np.random.default_rng([5, number]))
        (place / "1.jpg").write_bytes(photo)
    return folder


@pytest.fixture(scope="module")
def calibrated(small, photos, tmp_path_factory) -> Path:
    index = shutil.copytree(small, tmp_path_factory.mktemp("calibrated") / "idx")
    assert main(["evaluate", "--index", str(index), "--queries", str(photos), "--calibrate"]) == 0
    return Path(index)


def test_an_evaluation_looks_as_it_did(imgsearch, index, snapshot):
    done = imgsearch("evaluate", "--recall", "--labels", "category", "--index", index)

    assert (done.returncode, done.stderr) == (0, "")
    # What is measured in time is another every time, and so is the width of its column.
    steady = re.sub(r"(?m)( +[\d.]+){4}$", " TIMES", done.stdout.replace(str(index), "INDEX"))
    snapshot("evaluate.txt", re.sub(r"[\d.]+ ms", "N ms", re.sub(r"─+", "─", re.sub(r"  +", "  ", steady))))


def test_without_options_it_is_recall_and_categories_of_the_index_here(imgsearch, index, tmp_path):
    index.rename(tmp_path / ".imgsearch")

    done = imgsearch("evaluate")

    assert "index recall" in done.stdout
    assert "right: the same category" in done.stdout


def test_hits_of_a_calibrated_index_have_a_probability_in_every_format(imgsearch, calibrated, photos):
    photo = photos / "cups/cups-00/1.jpg"

    def answer(how: str) -> str:
        done = imgsearch("query", photo, "--index", calibrated, "--format", how)
        assert done.returncode == 0
        return done.stdout

    hits = json.loads(answer("json"))[0]["hits"]
    rows = list(csv.DictReader(answer("csv").splitlines()))
    table = answer("table")

    assert all(0 < hit["probability"] < 1 for hit in hits)
    assert [float(row["probability"]) for row in rows] == [hit["probability"] for hit in hits]
    assert list(rows[0])[-1] == "probability"
    assert "score   probability   image" in table
    assert f"{hits[0]['probability']:.2f}" in table


def test_hits_of_an_index_that_was_not_calibrated_have_none(imgsearch, index, drawn):
    asked = ("query", drawn / "cups/cups-00.png", "--index", index, "--format")

    assert "probability" not in imgsearch(*asked, "json").stdout
    assert "probability" not in imgsearch(*asked, "csv").stdout
    assert "probability" not in imgsearch(*asked, "table").stdout


def test_hits_with_a_lower_probability_are_left_out(imgsearch, calibrated, photos):
    asked = ("query", photos / "cups/cups-00/1.jpg", "--index", calibrated, "--format", "json")
    (everything,) = json.loads(imgsearch(*asked).stdout)
    first, second = (hit["probability"] for hit in everything["hits"][:2])
    assert first > second

    (few,) = json.loads(imgsearch(*asked, "--min-probability", (first + second) / 2).stdout)

    assert few["hits"] == everything["hits"][:1]


def test_a_least_probability_needs_a_calibrated_index_and_says_how_to_get_one(imgsearch, index, drawn):
    done = imgsearch("query", drawn / "cups/cups-00.png", "--index", index, "--min-probability", 0.5)

    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: run imgsearch evaluate --calibrate" in done.stderr


def test_info_says_what_scores_mean(imgsearch, calibrated):
    assert "of the same product, learned on 24 queries" in imgsearch("info", "--index", calibrated).stdout


def test_a_report_is_one_page_with_the_images_of_the_queries(imgsearch, index, photos, tmp_path):
    few = tmp_path / "photos"
    shutil.copytree(photos / "fish", few / "fish")
    (few / "cups/cups-00").mkdir(parents=True)
    cv2.imwrite(str(few / "cups/cups-00/1.jpg"), np.full((64, 64, 3), 255, np.uint8))  # which finds nothing right

    done = imgsearch("evaluate", "--index", index, "--recall", "--queries", few, "--report", tmp_path / "quality")

    assert done.returncode == 0
    page = (tmp_path / "quality" / "index.html").read_text()
    assert [path.name for path in (tmp_path / "quality").iterdir()] == ["index.html"]
    assert "cups/cups-00" in page
    assert page.count("data:image/jpeg;base64,") > 6  # queries and their hits
    assert "<script" not in page


@pytest.mark.slow
def test_a_report_of_a_self_test_shows_the_variants(imgsearch, catalog, tmp_path):
    for folder in sorted(catalog.iterdir()):
        if folder.name not in ("balls", "boxes", "cups", "fish"):
            shutil.rmtree(folder)
    imgsearch("build-index", catalog, "--index", "idx", "--backbone", "handcrafted")
    shutil.copy(catalog / "fish/fish-00.png", catalog / "cups/cups-00.png")  # which the index knows as a cup

    done = imgsearch("evaluate", "--index", "idx", "--self-test", "--report", tmp_path / "quality")

    assert done.returncode == 0
    page = (tmp_path / "quality" / "index.html").read_text()
    assert "<b>query</b>cups/cups-00" in page
    assert page.count("data:image/jpeg;base64,") == 7  # the only wrong query, and six hits


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_what_cannot_be_written_is_found_out_before_anything_is_measured(imgsearch, index, tmp_path, option):
    (tmp_path / "file").write_text("no folder")

    done = imgsearch("evaluate", "--index", index, "--self-test", option, tmp_path / "file" / "there")

    assert (done.returncode, done.stdout) == (11, "")


def test_gates_that_are_not_met_exit_10_after_everything_was_said(imgsearch, index):
    done = imgsearch("evaluate", "--recall", "--index", index, "--min", "count=25", "--min", "index_recall@1=0.5")

    assert done.returncode == 10
    assert "index recall" in done.stdout
    assert done.stderr.splitlines()[0] == "imgsearch: count is 24, 1 below 25"


def test_a_gate_that_is_not_met_is_an_object_where_json_was_asked_for(imgsearch, index):
    done = imgsearch("evaluate", "--recall", "--index", index, "--min", "count=25", "--format", "json")

    assert json.loads(done.stderr)["error"]["code"] == 10
    assert json.loads(done.stdout)["count"] == 24


@pytest.fixture
def night(imgsearch, tmp_path, catalog):
    """Run the script of docs/evaluation.md in a shop of the test's own."""
    shop, programs = tmp_path / "shop", tmp_path / "bin"
    shop.mkdir()
    programs.mkdir()
    catalog.rename(shop / "catalog")
    program = programs / "imgsearch"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m imgsearch "$@"\n')
    program.chmod(0o755)
    (script,) = re.findall(r"^```sh\n(#!.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    script = script.replace("/opt/imgsearch/bin", str(programs)).replace("/srv/shop", str(shop))
    assert imgsearch("build-index", "catalog", "--backbone", "handcrafted", cwd=shop).returncode == 0

    def run() -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", script], check=False, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stderr

    return shop, run


@pytest.mark.slow
def test_the_script_of_the_page_keeps_a_good_night_and_goes_back_from_a_bad_one(night):
    shop, run = night

    assert run()[0] == 0
    assert json.loads((shop / "good.json").read_text())["count"] == 24
    assert run()[0] == 0  # the same again: no alarm

    good = read_manifest(shop / ".imgsearch")
    for image in sorted((shop / "catalog").rglob("*.png")):  # every image is blurred beyond recognition
        blurred = cv2.blur(cv2.imread(str(image)), (101, 101))  # noqa: TID251  # a file of the test's own
        cv2.imwrite(str(image), blurred)
    code, said = run()

    assert code == 10
    assert "less (99 % interval" in said
    back = read_manifest(shop / ".imgsearch")
    assert back.generation == good.generation + 2
    assert [record for name, record in back.files.items() if name.endswith("vectors.npy")] == [
        record for name, record in good.files.items() if name.endswith("vectors.npy")
    ]


@pytest.mark.parametrize(
    "asked", [("--queries", "photos", "--sample", "10"), ("--recall", "--wait-lock", "5")], ids=lambda each: each[0]
)
def test_an_option_that_has_no_effect_is_refused(imgsearch, index, tmp_path, asked):
    (tmp_path / "photos").mkdir()

    done = imgsearch("evaluate", "--index", index, *asked)

    assert (done.returncode, done.stdout) == (2, "")
    assert f"{asked[-2]} has no effect" in done.stderr
