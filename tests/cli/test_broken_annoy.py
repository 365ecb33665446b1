"""Annoy compiled for another processor: it dies of SIGILL when it is imported, or when it is first used."""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from imgsearch.store.calibration import Calibration, Curve
from imgsearch.store.generations import read_manifest
from imgsearch.store.publishing import amend

ANNOY = ("--backend", "annoy")
DEATHS = {
    "when it is imported": "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n",
    "when it is used": (
        "import os, signal\n"
        "class AnnoyIndex:\n"
        "    def __init__(self, *_): os.kill(os.getpid(), signal.SIGILL)\n"
    ),
    "by not being there": "raise ImportError('no module named annoy')\n",
}  # fmt: skip


@pytest.fixture(
    params=[
        pytest.param(program, id=how, marks=[] if how == "when it is imported" else [pytest.mark.slow])
        for how, program in DEATHS.items()
    ]
)
def broken(request, tmp_path, monkeypatch) -> None:
    """Put an Annoy before the real one that does not run here."""
    (tmp_path / "broken" / "annoy").mkdir(parents=True)
    (tmp_path / "broken" / "annoy" / "__init__.py").write_text(request.param)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")


@pytest.fixture
def imgsearch(imgsearch):
    """The program in a process of its own, which finds the broken Annoy first."""
    return partial(imgsearch, process=True)


@pytest.fixture
def forest(small, tmp_path) -> Path:
    """A whole index with a forest, built where Annoy runs."""
    return Path(shutil.copytree(small, tmp_path / "forest"))


def assert_that_it_says_one_line_and_a_hint(done) -> None:
    assert (done.returncode, done.stdout) == (8, "")
    line, hint = done.stderr.splitlines()
    assert line.startswith("imgsearch: Annoy does not run on this machine: ")
    assert hint.startswith("  hint: use --backend exact")


def test_a_query_says_so_in_one_line_and_a_hint(broken, imgsearch, forest, drawn):
    assert_that_it_says_one_line_and_a_hint(imgsearch("query", drawn / "cups/cups-00.png", "--index", forest))


def test_an_evaluation_says_so_in_one_line_and_a_hint(broken, imgsearch, forest):
    assert_that_it_says_one_line_and_a_hint(imgsearch("evaluate", "--recall", "--index", forest))


def test_an_index_without_a_forest_is_evaluated_without_it(broken, imgsearch, catalog):
    imgsearch("build-index", catalog, "--index", "idx", "--backbone", "handcrafted")

    done = imgsearch("evaluate", "--recall", "--index", "idx")

    assert (done.returncode, done.stderr) == (0, "")
    assert "search_k" not in done.stdout


def test_a_filtered_query_goes_without_it_though_its_scores_have_a_meaning(broken, imgsearch, forest, drawn):
    curve = Curve("platt", (0.0, 1.0), (0.1, 0.9))
    amend(forest, replace(read_manifest(forest), calibration=Calibration("product", 24, 0.01, curve, curve)))

    done = imgsearch("query", drawn / "cups/cups-00.png", "--index", forest, "--where", "category = 'cups'")

    assert (done.returncode, done.stderr) == (0, "")
    assert "0.90" in done.stdout


def test_a_query_may_go_without_it(broken, imgsearch, forest, drawn):
    image = drawn / "cups/cups-00.png"
    for option in (("--exact",), ("--where", "category = 'cups'")):
        done = imgsearch("query", image, "--index", forest, "--format", "paths", "-k", 1, *option)

        assert (done.returncode, done.stdout, done.stderr) == (0, "cups/cups-00.png\n", "")


def test_a_build_finds_out_before_anything_is_embedded(broken, imgsearch, catalog, tmp_path):
    done = imgsearch(
        "build-index", catalog, "--index", "idx", "--backbone", "handcrafted", *ANNOY, "--report", "r.json"
    )

    assert_that_it_says_one_line_and_a_hint(done)
    assert json.loads((tmp_path / "r.json").read_text())["exit_code"] == 8
    assert {path.name for path in (tmp_path / "idx").iterdir()} <= {"lock"}


def test_a_nightly_build_leaves_the_index_as_it_was(broken, imgsearch, forest, catalog):
    (catalog / "new.png").write_bytes((catalog / "cups/cups-00.png").read_bytes() + b"\0")
    before = (forest / "manifest.json").read_bytes()

    assert_that_it_says_one_line_and_a_hint(imgsearch("build-index", catalog, "--index", forest))
    assert (forest / "manifest.json").read_bytes() == before
    assert not (forest / "partial.sqlite").exists()


def test_the_exact_backend_builds_and_answers_without_it(broken, imgsearch, catalog):
    built = imgsearch("build-index", catalog, "--index", "idx", "--backbone", "handcrafted", "--backend", "exact")
    asked = imgsearch("query", catalog / "fish/fish-01.png", "--index", "idx", "--format", "paths", "-k", 1)
    whole = imgsearch("check", "--deep", "--index", "idx")

    assert (built.returncode, built.stderr) == (0, "")
    assert (asked.returncode, asked.stdout, asked.stderr) == (0, "fish/fish-01.png\n", "")
    assert (whole.returncode, whole.stdout, whole.stderr) == (0, "", "")


def test_an_index_can_be_turned_to_the_exact_backend_without_it(broken, imgsearch, forest, drawn):
    turned = imgsearch("build-index", drawn, "--index", forest, "--backend", "exact")
    asked = imgsearch("query", drawn / "fish/fish-01.png", "--index", forest, "--format", "paths", "-k", 1)

    assert (turned.returncode, turned.stderr) == (0, "")
    assert (asked.returncode, asked.stdout) == (0, "fish/fish-01.png\n")


@pytest.mark.parametrize("deep", [(), ("--deep",)])
def test_check_says_that_it_cannot_look_and_does_not_call_the_index_damaged(broken, imgsearch, forest, deep):
    assert_that_it_says_one_line_and_a_hint(imgsearch("check", "--index", forest, *deep))


@pytest.mark.slow
def test_embedding_info_and_rollback_do_without_it(broken, imgsearch, forest, catalog):
    embedded = imgsearch("embed", catalog, "-o", "embeddings", "--backbone", "handcrafted")
    known = imgsearch("info", "--index", forest)
    imgsearch("build-index", catalog, "--index", forest, "--backend", "exact")
    back = imgsearch("rollback", "--index", forest)

    assert [done.returncode for done in (embedded, known, back)] == [0, 0, 0]
    assert "annoy, 10 trees" in imgsearch("info", "--index", forest).stdout
