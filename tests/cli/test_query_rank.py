"""`query` with hits in an order that was learned from clicks."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import Event
from imgsearch.store.generations import read_manifest
from vector_indexes import learn_order, linear, store_index, unit

DAY = 86_400_000_000


def asked(imgsearch, index, *options):
    done = imgsearch("query", "--item", "00000.png", "--index", index, "-k", 2, *options)
    return done.returncode, done.stdout, done.stderr


def test_the_program_says_what_moved_hits(imgsearch, ranked, snapshot):
    code, table, errors = asked(imgsearch, ranked, "--rank", "learned", "--explain")
    assert (code, errors) == (0, "")
    snapshot("query-rank.table.txt", table)

    _, text, _ = asked(imgsearch, ranked, "--rank", "learned", "--explain", "--format", "csv")
    snapshot("query-rank.csv.txt", text)

    _, text, _ = asked(imgsearch, ranked, "--rank", "learned", "--explain", "--format", "json")
    (hit, _) = json.loads(text)[0]["hits"]
    assert hit["moved"] == pytest.approx({"price": 2 * 97 / 101, "score": 0.5 * hit["score"]}, abs=1e-6)

    _, text, _ = asked(imgsearch, ranked, "--rank", "learned", "--format", "json")
    assert "moved" not in json.loads(text)[0]["hits"][0]
    _, page, _ = asked(imgsearch, ranked, "--rank", "learned", "--explain", "--format", "html")
    assert "moved by price=+1.92 score=+0.04" in page


def test_a_person_is_known_by_their_events(imgsearch, ranked, tmp_path, monkeypatch):
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path / "events.key"))
    directory = Path(shutil.copytree(ranked, tmp_path / "index"))
    learn_order(directory, linear(profile=1.0))
    with EventStore(directory) as store:
        store.add([("anna", Event(1, "like", "product 7"))])

    options = ("--rank", "learned", "--user", "anna", "--explain", "--format", "csv")
    code, found, errors = asked(imgsearch, directory, *options)
    assert (code, errors) == (0, "")
    first = next(csv.DictReader(io.StringIO(found)))
    assert (first["path"], first["moved"]) == ("00014.png", "profile=+1.000000")  # the first image of that product


def test_somebody_without_events_is_answered_like_everybody_and_that_is_said(imgsearch, ranked):
    code, found, errors = asked(imgsearch, ranked, "--rank", "learned", "--user", "anna", "--format", "paths")

    assert (code, found) == (0, "00029.png\n00028.png\n")
    assert errors == "imgsearch: anna: nothing says what they like; hits are in the order that is for everybody\n"


def test_an_index_that_learned_no_order_exits_2_and_says_how_to_learn_one(imgsearch, tmp_path):
    store_index(tmp_path / "index", np.eye(2, dtype=np.float32), paths=["00000.png", "1.png"])
    code, found, errors = asked(imgsearch, "index", "--rank", "learned")

    assert (code, found) == (2, "")
    assert errors == (
        "imgsearch: index has no learned ranking\n"
        "  hint: learn one from clicks: imgsearch train --objective rank --index DIR\n"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--user", "anna"], "--user has no effect without --rank"),
        (["--explain"], "--explain has no effect without --rank"),
        (["--rank", "learned", "--diverse"], "--rank and --diverse cannot be combined"),
        (["--rank", "learned", "--explain", "--vote"], "--vote and --explain cannot be combined"),
    ],
)
def test_options_that_do_not_go_together_exit_2(imgsearch, ranked, options, problem):
    code, _, errors = asked(imgsearch, ranked, *options)

    assert code == 2
    assert problem in errors


@pytest.mark.parametrize("learner", ["linear", pytest.param("lambdamart", marks=pytest.mark.slow)])
def test_answers_import_nothing_that_trained_what_they_use(imgsearch, tmp_path, monkeypatch, learner):
    """With files as both trainings write them."""
    monkeypatch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path / "events.key"))
    random = np.random.default_rng(0)
    prices = [{"price": number} for number in range(30)]
    index = store_index(tmp_path / "index", unit(random.normal(size=(30, 4))), metadata=prices)
    log = []
    for number in range(150):
        query, session, time = f"{random.integers(6):05d}", str(number), DAY * number
        shown = [f"{each:05d}" for each in random.permutation(30)[:8]]
        events = [Event(time, "view", each, query, place, session) for place, each in enumerate(shown, 1)]
        events.append(Event(time + 1, "click", min(shown), query, shown.index(min(shown)) + 1, session))
        log += ((f"u{number % 9}", event) for event in events)
    with EventStore(index) as store:
        store.add(log)
    for objective in (("rank", "--learner", learner), ("recommend",)):
        assert imgsearch("train", "--objective", *objective, "--index", index, "-q").returncode == 0
    program = (
        "import sys\nfrom imgsearch.cli import main\nindex = ['--index', sys.argv[1]]\n"
        "learned = ['--rank', 'learned', '--explain', '--user', 'u1']\n"
        "for how in ('table', 'json', 'csv', 'paths'):\n"
        "    assert main(['query', '--item', '00000.png', *learned, '--format', how, *index]) == 0\n"
        "    assert main(['recommend', '--user', 'u1', '--format', how, *index]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )

    command = [sys.executable, "-c", program, str(index)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    facts = read_manifest(index)
    assert (facts.ranking.learner, facts.recommend.learner) == (learner, "ease")
    loaded = set(done.stderr.split())
    assert {"numpy", "imgsearch.personal.ranking.model", "imgsearch.personal.recommend.model"} <= loaded
    assert not loaded & {"sklearn", "scipy", "lightgbm", "implicit", "tensorflow", "keras", "matplotlib", "pandas"}
