"""`imgsearch recommend`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from imgsearch.personal.event_store import EventStore
from imgsearch.personal.events import Event
from imgsearch.store import generations
from recommend_indexes import DAY, NOW, learn, shop


@pytest.fixture(scope="module", autouse=True)
def key(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IMGSEARCH_EVENTS_KEY", str(tmp_path_factory.mktemp("key") / "events.key"))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An index with a model, and with events of anna, ben and eve."""
    folder = learn(shop(tmp_path_factory.mktemp("trained") / "index"))
    with EventStore(folder) as store:
        store.add(
            [
                ("anna", Event(NOW, "buy", "shoe0")),
                ("anna", Event(NOW - DAY, "click", "shoe1")),
                ("anna", Event(NOW - DAY, "dislike", "shoe5")),
                ("ben", Event(NOW - 3 * DAY, "click", "lamp1")),
                ("eve", Event(NOW - 3 * DAY, "buy", "gone")),
            ]
        )
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An index without a model and without events."""
    return shop(tmp_path_factory.mktemp("plain") / "index")


def recommended(imgsearch, index, *options, **settings):
    done = imgsearch("recommend", *options, "--index", index, "--format", "json", **settings)
    return done, json.loads(done.stdout) if done.stdout else None


def products(answer):
    return [hit["product"] for hit in answer["hits"]]


def test_a_user_gets_what_suits_their_events(imgsearch, trained):
    done, (answer,) = recommended(imgsearch, trained, "--user", "anna", "-k", 5, "--exclude-seen")

    assert (done.returncode, done.stderr) == (0, "")
    assert list(answer) == ["query", "plan", "seconds", "index", "method", "hits"]
    assert (answer["query"], answer["plan"], answer["method"]) == ("anna", "exact", "hybrid")
    assert len(products(answer)) == 5
    assert products(answer)[0] == "shoe2"
    assert not {"shoe0", "shoe1", "shoe5"} & set(products(answer))
    assert set(answer["hits"][0]["matched"]) <= {"content", "collaborative", "popular"}


def test_recommendations_look_as_they_did(imgsearch, trained, snapshot):
    for name, options in {
        "recommend-user.table.txt": ("--user", "anna", "-k", 4, "--by", "product"),
        "recommend-items.csv": ("--items", "shoe0,lamp1", "-k", 4, "--format", "csv"),
        "recommend-popular.table.txt": ("--user", "anna", "--method", "popular", "--category", "vases", "-k", 3),
    }.items():
        done = imgsearch("recommend", *options, "--index", trained)

        assert (done.returncode, done.stderr) == (0, "")
        snapshot(name, done.stdout)


def test_each_user_has_an_answer_and_names_can_be_on_standard_input(imgsearch, trained):
    _, answers = recommended(imgsearch, trained, "--user", "ben", "--user", "-", "-q", input="anna\nnobody\n")

    assert [answer["query"] for answer in answers] == ["ben", "anna", "nobody"]
    assert [answer["method"] for answer in answers] == ["hybrid", "hybrid", "popular"]
    assert products(answers[0])[0] == "lamp1"


@pytest.mark.parametrize("user", ["nobody", "eve"])
def test_to_a_user_of_whom_nothing_is_known_popular_products_are_recommended_and_that_is_said(imgsearch, trained, user):
    done, (answer,) = recommended(imgsearch, trained, "--user", user, "-k", 2)

    assert done.returncode == 0
    assert (answer["method"], products(answer)) == ("popular", ["vase0", "vase1"])
    assert done.stderr == f"imgsearch: {user}: nothing says what they like; popular products are recommended\n"
    assert imgsearch("recommend", "--user", user, "-q", "--index", trained).stderr == ""


def test_to_ask_for_popular_products_is_no_surprise(imgsearch, trained):
    done, (answer,) = recommended(imgsearch, trained, "--user", "nobody", "--method", "popular", "--category", "lamps")

    assert (done.stderr, answer["method"], products(answer)[0]) == ("", "popular", "lamp9")
    assert len(answer["hits"]) == 10


def test_items_are_a_history_that_is_kept_nowhere(imgsearch, trained, plain):
    before = sorted(path.name for path in plain.iterdir())
    for index, method in ((trained, "hybrid"), (plain, "content")):
        done, (answer,) = recommended(imgsearch, index, "--items", "shoe0, lamp1.png", "-k", 40)

        assert (done.returncode, done.stderr, answer["method"]) == (0, "", method)
        assert answer["query"] == "shoe0, lamp1.png"
        assert not {"shoe0", "lamp1"} & set(products(answer))
    assert {"shoe1", "lamp0", "lamp2"} <= set(products(answer)[:4])
    assert sorted(path.name for path in plain.iterdir()) == before


def test_a_session_is_a_log_of_one_person_that_is_kept_nowhere(imgsearch, trained, plain, tmp_path):
    log = tmp_path / "basket.csv"
    log.write_text("time,event,product\n2026-01-02,buy,shoe1\n2026-01-01,click,shoe2\n2026-01-02,dislike,shoe3\n")
    lines = tmp_path / "basket.jsonl"
    lines.write_text('{"time": 1767312000, "user": "x", "event": "buy", "path": "shoe1.png"}\n')
    before = [(path.name, path.stat().st_size) for path in sorted(plain.iterdir())]

    _, (answer,) = recommended(imgsearch, plain, "--session", log, "--exclude-seen", "-k", 3)
    assert (answer["query"], answer["method"]) == (str(log), "content")
    assert set(products(answer)) == {"shoe0", "shoe4"}
    _, (answer,) = recommended(imgsearch, trained, "--session", lines, "-k", 1)
    assert (answer["method"], products(answer)) == ("hybrid", ["shoe1"])

    assert [(path.name, path.stat().st_size) for path in sorted(plain.iterdir())] == before


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("time,user,event,product\n2026-01-02,a,buy,x\n2026-01-02,b,buy,x\n", "line 3: expected events of one person"),
        ("time,event,product\n2026-01-02,bought,shoe1\n", "line 2: expected one of view, click"),
        ("time,event\n2026-01-02,buy\n", "product"),
        (None, "log.csv"),
    ],
)
def test_a_session_that_is_none_is_refused(imgsearch, plain, tmp_path, log, problem):
    if log is not None:
        (tmp_path / "log.csv").write_text(log)

    done = imgsearch("recommend", "--session", "log.csv", "--index", plain)

    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_hits_are_filtered_distinct_and_diverse_as_those_of_query(imgsearch, trained):
    options = ("--where", "price >= 20", "--range", "price=..50", "--category", "shoes", "--diverse")
    _, (answer,) = recommended(imgsearch, trained, "--user", "anna", *options)
    assert sorted(products(answer)) == ["shoe2", "shoe3", "shoe4"]
    assert answer["matching"] == 4

    _, (answer,) = recommended(imgsearch, trained, "--user", "anna", "-k", 40, "--distinct", "category")
    assert sorted(hit["category"] for hit in answer["hits"]) == ["lamps", "shoes", "vases"]


def test_a_user_without_history_in_an_index_without_a_model_exits_2_and_the_others_are_answered(
    imgsearch, plain, tmp_path
):
    mine = Path(shutil.copytree(plain, tmp_path / "index"))
    with EventStore(mine) as store:
        store.add([("anna", Event(NOW, "buy", "shoe1"))])
    done, answers = recommended(imgsearch, mine, "--user", "eve", "--user", "anna", "-k", 1)
    assert done.returncode == 2
    assert answers[0]["error"] == {"code": 2, "message": "nothing says what they like"}
    assert (answers[1]["method"], products(answers[1])) == ("content", ["shoe1"])

    done = imgsearch("recommend", "--user", "eve", "--index", plain)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "imgsearch: eve: nothing says what they like (imgsearch train --objective recommend learns from the events of"
        " all)\n"
    )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ((), "expected one of --user, --items, --session, found none"),
        (("--user", "anna", "--items", "shoe1"), "found --user and --items"),
        (("--items", "shoe1", "--exclude-seen"), "--exclude-seen has no effect with --items"),
        (("--items", "shoe1", "--by", "product", "--distinct", "category"), "--by and --distinct cannot be combined"),
        (("--items", "shoe1,,shoe2"), "expected names of products or images, found nothing"),
        (("--items", "shoe1,shoe11"), "the index has no image and no product 'shoe11'"),
        (("--items", "shoe1", "--where", "nothing = 1"), "nothing"),
    ],
)
def test_options_that_make_no_sense_together_are_refused(imgsearch, trained, options, problem):
    done = imgsearch("recommend", *options, "--index", trained)

    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr


def test_methods_that_need_a_model_are_refused_without_one(imgsearch, plain):
    done = imgsearch("recommend", "--items", "shoe1", "--method", "popular", "--index", plain)

    assert (done.returncode, done.stdout) == (2, "")
    assert "method popular needs what was learned from events" in done.stderr
    assert "imgsearch train --objective recommend" in done.stderr


def test_the_output_does_not_replace_what_is_read(imgsearch, trained):
    done = imgsearch("recommend", "--user", "anna", "-o", trained / "manifest.json", "--index", trained)

    assert done.returncode == 2
    assert generations.read_manifest(trained).recommend is not None


def test_a_page_shows_what_was_asked_with(imgsearch, trained, tmp_path):
    done = imgsearch("recommend", "--items", "shoe0", "--user", "x", "--index", trained)
    assert done.returncode == 2
    for options in (("--items", "shoe0"), ("--user", "anna")):
        done = imgsearch("recommend", *options, "--format", "html", "-o", "page.html", "--index", trained)

        page = (tmp_path / "page.html").read_text()
        assert (done.returncode, options[1] in page, "shoe1.png" in page) == (0, True, True)


def test_recommending_imports_neither_what_trains_nor_what_decodes_images(trained):
    program = (
        "import sys\nfrom imgsearch.cli import main\nindex = ['--index', sys.argv[1]]\n"
        "for how in ('table', 'json', 'csv', 'paths'):\n"
        "    assert main(['recommend', '--user', 'anna', '--diverse', '--format', how, *index]) == 0\n"
        "assert main(['recommend', '--items', 'shoe0,lamp1', *index]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)"
    )
    command = [sys.executable, "-c", program, str(trained)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stderr.split())

    assert "numpy" in loaded
    assert not loaded & NOT_FOR_RECOMMENDING


# What trains, decodes, embeds, draws; all that makes a start slow.
NOT_FOR_RECOMMENDING = {"tensorflow", "keras", "sklearn", "scipy", "matplotlib", "implicit", "lightgbm", "pyarrow"}
NOT_FOR_RECOMMENDING |= {"openvino", "openvino_telemetry", "cv2", "PIL", "rich.console", "rich.table", "rich.progress"}
NOT_FOR_RECOMMENDING |= {"numpy.ma", "multiprocessing", "asyncio", "platformdirs", "imgsearch.personal.event_files"}
