"""`imgsearch evaluate --events`: recommendations, and a learned order, judged by the last week of a log."""

import csv
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from imgsearch import evaluate
from imgsearch.bootstrap import exact_result
from imgsearch.cli import main
from imgsearch.errors import UsageError
from imgsearch.evaluation import order, recommendations
from imgsearch.evaluation.compare import failed_gates, parse_gate
from imgsearch.personal.event_files import import_events

DAY = 86_400
START = 1_760_000_000  # seconds since 1970
TASTES, OF_TASTE, PEOPLE = 4, 12, 56
NEW = OF_TASTE - 2  # of each taste, until the last week
BRANDS = ("Ada", "<b>Bo</b>", "")
COLUMNS = ("time", "user", "event", "product", "query", "position", "session")

Row = tuple[object, ...]


def product(taste: int, number: int) -> str:
    return f"{taste}-{number:02d}"


def history(person: int) -> Iterator[Row]:
    """Of three weeks: five products of one's taste, and the one that everybody has; the last three are new for all."""
    random = np.random.default_rng(person)
    taste, name = person % TASTES, f"person-{person}@example.org"
    first = 1 + person // TASTES % 4
    for number in range(first, first + 5):
        yield START + int(random.integers(21 * DAY)), name, "buy", product(taste, number), "", "", ""
    yield START + int(random.integers(21 * DAY)), name, "buy", product(0, 0), "", "", ""


def last_week(person: int, taste: int) -> Iterator[Row]:
    """One product more of a taste; of every other person one that is new."""
    random = np.random.default_rng([1, person])
    number = NEW if person // TASTES % 2 else 6 + person // TASTES % 4
    when = START + int(random.integers(22 * DAY, 28 * DAY))
    yield when, f"person-{person}@example.org", "buy", product(taste, number), "", "", ""


def clicks() -> Iterator[Row]:
    """Answers to products, of which the last of four is clicked, whatever its score."""
    random = np.random.default_rng(2)
    for number in range(180):
        taste, session = int(random.integers(TASTES)), f"s{number}"
        chosen = random.choice(np.arange(OF_TASTE - 3), 5, replace=False)
        when = START + number * 28 * DAY // 180
        asked = (product(taste, chosen[0]), *(product(taste, each) for each in chosen[1:]))
        for place, shown in enumerate(asked[1:], start=1):
            yield when, f"visitor-{number}", "view", shown, asked[0], place, session
        yield when + 5, f"visitor-{number}", "click", max(asked[1:]), asked[0], asked.index(max(asked[1:])), session


def write_log(file: Path, *parts: Sequence[Row]) -> Path:
    rows = [row for part in parts for row in part]
    rows.append((START + 28 * DAY, "last@example.org", "view", product(0, 0), "", "", ""))
    with file.open("w", newline="") as lines:
        csv.writer(lines).writerows([COLUMNS, *rows])
    return file


@pytest.fixture(scope="module")
def index(store_index, unit, tmp_path_factory) -> Path:
    random = np.random.default_rng(0)
    centers = np.repeat(np.eye(TASTES, 8), OF_TASTE, axis=0)
    names = [product(taste, number) for taste in range(TASTES) for number in range(OF_TASTE)]
    brands = [{"brand": BRANDS[row % 3]} if BRANDS[row % 3] else {} for row in range(len(names))]
    vectors = unit(centers + random.normal(0, 0.15, (len(names), 8)))
    return store_index(tmp_path_factory.mktemp("personal") / "idx", vectors, products=names, metadata=brands)


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    people = range(PEOPLE)
    before = [row for person in people for row in history(person)]
    after = [row for person in people for row in last_week(person, person % TASTES)]
    return write_log(tmp_path_factory.mktemp("log") / "log.csv", before, after)


@pytest.fixture(scope="module")
def record(index, log, tmp_path_factory) -> Path:
    """What the program says of it, in a file."""
    file = tmp_path_factory.mktemp("record") / "good.json"
    command = ("evaluate", "--events", log, "--exposure", "brand", "--index", index, "--json", file)
    assert main([*map(str, command)]) == 0
    return file


@pytest.fixture(scope="module")
def figures(record) -> dict[str, float]:
    return json.loads(record.read_text())


def test_who_follows_a_taste_is_answered_by_it_and_not_by_what_is_popular(figures):
    assert figures["people"] == PEOPLE
    assert figures["hybrid_over_popular_ndcg@10.low"] > 0
    assert figures["content_over_popular_ndcg@10.low"] > 0
    assert figures["hybrid_ndcg@10"] - figures["popular_ndcg@10"] == pytest.approx(
        figures["hybrid_over_popular_ndcg@10"], abs=2e-6
    )


def test_products_without_events_are_found_by_their_pictures_alone(figures):
    assert figures["new_people"] == PEOPLE / 2
    assert figures["content_over_popular_new_ndcg@10.low"] > 0
    assert figures["popular_new_share@10"] < figures["content_new_share@10"]


def test_what_is_popular_is_not_novel_and_covers_little(figures):
    assert figures["popular_novelty@10"] < figures["content_novelty@10"]
    assert 10 / (TASTES * OF_TASTE) <= figures["popular_coverage@10"] < figures["content_coverage@10"] <= 1
    assert "popular_coverage@10.low" not in figures  # it is no mean over people
    # As if one person more had had each: what nobody had has this many bits, and nothing has more.
    assert figures["content_novelty@10.high"] < math.log2(PEOPLE + 1)


def test_nothing_is_learned_from_the_week_that_judges(index, figures, tmp_path, capsys):
    """Where people want something else in that week, the same is recommended, and is wrong: by the index's events."""
    copy = shutil.copytree(index, tmp_path / "idx")
    people = range(PEOPLE)
    before = [row for person in people for row in history(person)]
    others = [row for person in people for row in last_week(person, (person + 1) % TASTES)]
    assert main(["evaluate", "--events", "stored", "--index", str(copy)]) == 2
    assert "has no events" in capsys.readouterr().err
    import_events(copy, write_log(tmp_path / "other.csv", before, others), key=tmp_path / "key")

    now = evaluate(copy, events="stored").figures

    for method in ("popular", "content", "collaborative", "hybrid"):
        for name in ("coverage@10", "novelty@10", "new_share@10"):
            assert now[f"{method}_{name}"].mean == pytest.approx(figures[f"{method}_{name}"], abs=1e-6)
    assert now["hybrid_ndcg@10"].mean < figures["hybrid_ndcg@10"] / 2


def test_the_file_numbers_people_and_names_none(record, figures):
    people = figures["per_query"]["hybrid_ndcg@10"]
    assert (len(people), all(person.isdigit() for person in people)) == (PEOPLE, True)
    assert "example.org" not in record.read_text()
    assert "hybrid_novelty@10" not in figures["per_query"]
    assert (figures["setup.kind"], figures["setup.newest"]) == ("events", "2025-11-06 08:53:20+00:00")


def test_groups_are_shown_and_wanted_by_their_shares(figures):
    groups = figures["per_group"]

    assert set(groups) == set(BRANDS)
    assert [sum(group[name] for group in groups.values()) for name in ("relevance", "hybrid_exposure")] == (
        pytest.approx([1, 1], abs=1e-5)
    )
    for group in groups.values():
        assert group["hybrid_ratio"] == pytest.approx(group["hybrid_exposure"] / group["relevance"], abs=1e-4)


def test_gates_and_an_earlier_evaluation_judge_it_and_a_page_shows_names_as_text(index, log, record, tmp_path, capsys):
    command = ("evaluate", "--events", log, "--index", index, "--against", record, "--exposure", "brand")
    gates = ("--min", "hybrid_ndcg@10=0.99", "--min", "hybrid_over_popular_ndcg@10=0.01")

    assert main([*map(str, command), *gates, "--report", str(tmp_path / "report")]) == 10

    said = capsys.readouterr()
    assert "hybrid_ndcg@10 is" in said.err
    assert "less (99 %" not in said.err  # it is as good as it was
    assert "exposure by brand" in said.out
    page = (tmp_path / "report" / "index.html").read_text()
    assert "&lt;b&gt;Bo&lt;/b&gt;" in page
    assert "<b>Bo" not in page
    assert page.count('<img class="chart"') == 2


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--exposure", "brand"), "give their log, --events FILE"),
        (("--events", "LOG", "--labels", "category"), "--events cannot be combined with --labels"),
        (("--events", "LOG", "--self-test"), "--events cannot be combined with --self-test"),
        (("--events", "LOG", "--calibrate"), "--events cannot be combined with --calibrate"),
        (("--events", "LOG", "--regions", "whole"), "--events cannot be combined with --regions"),
        (("--events", "LOG", "--exposure", "seller"), "no item has a column 'seller'"),
        (("--events", "LOG", "--min", "map=0.5"), "--labels, --queries, --self-test or --text measures it"),
        (("--recall", "--min", "hybrid_ndcg@10=0.5"), "--events measures it"),
        (("--events", "LOG", "--json", "LOG"), "found the log of events"),
    ],
)
def test_what_does_not_go_with_it_is_refused(index, log, capsys, options, problem):
    given = [str(log) if option == "LOG" else option for option in options]

    assert main(["evaluate", "--index", str(index), *given]) == 2
    said = capsys.readouterr().err
    assert problem in said


def test_a_log_in_which_nobody_comes_back_is_refused(index, tmp_path, capsys):
    nobody = write_log(tmp_path / "log.csv", [row for person in range(60) for row in history(person)])
    unknown = write_log(tmp_path / "unknown.csv")
    unknown.write_text(unknown.read_text().replace("0-00", "gone"))

    assert main(["evaluate", "--index", str(index), "--events", str(nobody)]) == 2
    assert "too few people came back" in capsys.readouterr().err
    assert main(["evaluate", "--index", str(index), "--events", str(unknown)]) == 2
    assert "no event of the log says that somebody wants a product of the index" in capsys.readouterr().err


def test_an_order_learned_from_earlier_clicks_is_judged_by_later_ones(index, tmp_path, capsys):
    """What was bought counts as what was clicked, as in training: each says at which place something was wanted."""
    log = write_log(tmp_path / "log.csv", [*clicks()])

    assert main(["evaluate", "--index", str(index), "--events", str(log), "--json", str(tmp_path / "json")]) == 0

    found = json.loads((tmp_path / "json").read_text())
    assert 40 <= found["answers"] <= 45  # of 180 in four weeks, less those before which too little is known
    assert 0 < found["scores_ndcg@10"] <= 1
    assert found["learned_over_scores_ndcg@10"] == pytest.approx(
        found["learned_ndcg@10"] - found["scores_ndcg@10"], abs=1e-5
    )
    assert "recommendations: not measured, nor exposure" in capsys.readouterr().out

    bought = [row if row[0] < START + 22 * DAY or row[2] == "view" else (*row[:2], "buy", *row[3:]) for row in clicks()]
    figures = evaluate(index, events=write_log(tmp_path / "other.csv", bought)).figures
    assert [figures[name].mean for name in order.NAMES] == pytest.approx(
        [found[name] for name in order.NAMES], abs=1e-5
    )


def test_a_gate_on_what_a_log_says_too_little_for_does_not_ask_for_that_log():
    gates = [parse_gate("hybrid_ndcg@10=0.1")]

    with pytest.raises(UsageError) as raised:
        failed_gates(gates, {"answers": exact_result(83)})
    assert "the log says too little" in str(raised.value.hint)
    with pytest.raises(UsageError) as raised:
        failed_gates(gates, {"count": exact_result(83)})
    assert raised.value.hint == "--events measures it"


def test_every_figure_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text().partition("## Recommendations")[2]

    assert [name for name in recommendations.MEASURES if name not in page] == []
    assert [
        name for name in (*recommendations.PEOPLE, recommendations.COVERAGE, *order.NAMES) if name not in page
    ] == []
    assert [
        f"{method}_over_{other}" for method, other in recommendations.PAIRS if f"{method}_over_{other}" not in page
    ] == []
