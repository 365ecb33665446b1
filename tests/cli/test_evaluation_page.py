import base64
import hashlib
import importlib.util
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
import pytest

from imgsearch.bootstrap import Interval
from imgsearch.charts import require_matplotlib
from imgsearch.cli.evaluation_page import evaluation_page
from imgsearch.cli.evaluation_sections import Note, evaluation_text, sections
from imgsearch.errors import MissingComponentError
from imgsearch.evaluation import plots
from imgsearch.evaluation.results import (
    CurvePoint,
    Evaluation,
    IndexRecall,
    QueryResult,
    RankedHit,
    Reliability,
    Retrieval,
)
from imgsearch.evaluation.retrieval import OF_CATEGORIES
from imgsearch.search.recall import Latency
from imgsearch.store.calibration import Calibration, Curve

LATENCY = Latency(p50=0.001, p95=0.0025, p99=0.003, per_second=900.0)
RATES = {"queries": Interval(3, 3, 3), **dict.fromkeys(OF_CATEGORIES, Interval(0.5, 0.25, 0.75))}
NOTHING = Evaluation({"generation": 3, "count": 24}, {"seed": 0}, None, None, None, {})
RECALL = IndexRecall(
    "annoy",
    ("cups/cups-00.png",),
    {k: np.array([0.5, 1.0]) for k in (1, 10)},
    dict.fromkeys((1, 10), LATENCY),
    LATENCY,
    tuple(CurvePoint("search_k", k, 0.9, LATENCY) for k in (10, 100)),
)
RELIABILITY = Reliability(
    Calibration("category", 24, 0.02, *[Curve("isotonic", (0.1, 0.9), (0.0, 1.0))] * 2),
    np.array([np.nan, 0.7]),
    np.array([np.nan, 0.8]),
    np.array([0, 5]),
    0.1,
    0.125,
)


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source, self.elements, self.text = source, [], ""
        self.feed(source)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data

    def images(self, kind: str) -> list[bytes]:
        sources = [attributes["src"].partition(",") for tag, attributes in self.elements if tag == "img"]
        return [base64.b64decode(data) for head, _, data in sources if head == f"data:{kind};base64"]


def hit(path: str, label: str, score: float, *, right: bool) -> RankedHit:
    return RankedHit(path, label, score, right, label)


def retrieval(judged: list[QueryResult], **others: object) -> Retrieval:
    values = {"without_relevant": 0, "unusable": (), "precision_at_recall": np.linspace(1, 0, 11), **others}
    return Retrieval("labels", "category", tuple(judged), {}, **values)


def page_of(evaluation: Evaluation, catalog: object = "nowhere", image=lambda _: None) -> Page:
    return Page("".join(evaluation_page(sections(evaluation, Path("index")), str(catalog), image)))


WRONG = QueryResult(
    "cups/cups-00.png",
    "cups",
    "cups",
    1,
    (hit("fish/fish-00.png", "fish", 0.9, right=False), hit("cups/cups-01.png", "cups", 0.8, right=True)),
)
RIGHT = QueryResult("fish/fish-00.png", "fish", "fish", 1, (hit("fish/fish-01.png", "fish", 0.7, right=True),))
WHOLE = replace(
    NOTHING,
    recall=RECALL,
    retrieval=retrieval([WRONG, RIGHT, replace(RIGHT, query="fish/fish-01.png")]),
    reliability=RELIABILITY,
    figures={"hit_rate@1": Interval(0.667, 0.5, 0.9), "latency_p95_ms": Interval(2.5, 2.5, 2.5)},
    categories=dict.fromkeys(("cups", "fish"), RATES),
)


@pytest.fixture
def no_charts(monkeypatch):
    """Leave out the drawings, which take most of the time, where a test looks at the text alone."""
    for name in ("recall", "precision_recall", "categories", "confusion", "scores", "reliability"):
        monkeypatch.setattr(plots, f"draw_{name}", lambda *_: b"<svg/>")


@pytest.fixture(scope="module")
def page(drawn):
    return page_of(WHOLE, drawn, lambda query: (drawn / query.query).read_bytes())


def test_a_page_shows_all_that_was_measured(page):
    charts = page.images("image/svg+xml")
    assert len(charts) == 6
    assert all(ET.fromstring(svg) is not None for svg in charts)
    for text in ("66.7 % of 3 queries", "75.0 %", "0.500 to 0.900", "2.500 ms", "0.125", "same category"):
        assert text in page.text
    alts = [attributes["alt"] for tag, attributes in page.elements if attributes.get("class") == "chart"]
    assert len(alts) == 6
    assert all(alts)


def test_a_worst_query_stands_beside_what_was_returned_marked_right_and_wrong(page):
    images = [cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) for data in page.images("image/jpeg")]
    assert [image.shape for image in images] == [(160, 160, 3)] * 3
    figures = [attributes.get("class") for tag, attributes in page.elements if tag == "figure"]
    assert figures == [None, "wrong", "right"]
    assert "1. 0.900 \u2717 wrong" in page.text
    assert "2. 0.800 \u2713 right" in page.text


@pytest.mark.usefixtures("no_charts")
def test_the_worst_are_those_with_no_right_answer_and_of_them_the_surest():
    def wrong(name: str, score: float, *, later_right: bool = False) -> QueryResult:
        hits = (hit("a.png", "a", score, right=False), hit("b.png", "b", 0.1, right=later_right))
        return QueryResult(name, "b", "b", 1, hits)

    judged = [wrong(f"query-{number:02d}", number / 100) for number in range(18)]
    judged += [wrong("same-b", 0.5), wrong("same-a", 0.5), wrong("found", 0.99, later_right=True), RIGHT]
    judged += [QueryResult("no hits", "b", "b", 1, ())]
    asked = []

    page = page_of(replace(NOTHING, retrieval=retrieval(judged)), image=lambda query: asked.append(query.query))

    assert asked == ["same-a", "same-b", *(f"query-{number:02d}" for number in reversed(range(18)))]
    assert "1 more such queries are not shown" in page.text


@pytest.mark.usefixtures("no_charts")
def test_an_image_that_cannot_be_had_is_an_empty_tile(drawn):
    page = page_of(WHOLE, drawn / "gone", lambda _: b"no image")

    assert page.images("image/jpeg") == []
    assert sum(attributes.get("class") == "none" for tag, attributes in page.elements if tag == "span") == 3


def test_a_page_loads_and_runs_nothing(page):
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    style = re.search(r"<style>(.*)</style>", page.source, re.DOTALL)[1]
    assert "script" not in policy
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in policy
    assert all(attributes["src"].startswith("data:image/") for tag, attributes in page.elements if tag == "img")
    assert {name for _, attributes in page.elements for name in attributes} <= {
        *("lang", "charset", "http-equiv", "name", "content", "class", "src", "alt", "role", "aria-label"),
    }


HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "\"'><script>alert(1)</script>",
    "--></style></svg><iframe>",
    "$\\frac{1}{0$ & {7*7} {x:g} %s",
    "line\nbreak\x00\x1b[31m\u202e\udce9",
    "\u5e10\u7bf7 \u0645\u0631\u062d\u0628\u0627",
    "../" * 20 + "etc/passwd",
    "long " * 400,
)


def test_no_name_becomes_markup(page):
    usual = {tag for tag, _ in page.elements}
    judged = [
        QueryResult(name, name, name, 1, (hit(other, other, 0.5, right=name == other),))
        for name in HOSTILE
        for other in HOSTILE
    ]
    whole = retrieval(judged, unusable=tuple((name, name) for name in HOSTILE), without_relevant=2)
    calibration = replace(RELIABILITY.calibration, meaning=HOSTILE[1])
    facts = {"count": 24, **{name: name for name in HOSTILE}}

    page = page_of(
        Evaluation(
            facts,
            facts,
            replace(RECALL, plan=HOSTILE[0]),
            replace(whole, label=HOSTILE[1]),
            replace(RELIABILITY, calibration=calibration),
            dict.fromkeys(HOSTILE, Interval(0.5, 0.4, 0.6)),
        )
    )

    assert {tag for tag, _ in page.elements} <= usual | {"br", "span"}
    assert {name for _, attributes in page.elements for name in attributes} <= {
        *("lang", "charset", "http-equiv", "name", "content", "class", "src", "alt", "role", "aria-label"),
    }
    assert re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e\ud800-\udfff]", page.source) is None
    assert HOSTILE[0] in page.text
    assert HOSTILE[5] in page.text


@pytest.mark.usefixtures("no_charts")
def test_a_name_that_does_not_end_is_cut():
    longest = QueryResult("q" * 5000, "l" * 5000, "c" * 5000, 1, (hit("p" * 5000, "h" * 5000, 0.5, right=False),))

    page = page_of(replace(NOTHING, retrieval=retrieval([longest], unusable=(("u" * 5000, "why"),))))

    assert "q" * 197 + "..." in page.text
    assert max(map(len, re.findall(r"\w+", page.text))) < 500


UNLABELED = QueryResult("a.png", "a", "", 1, (hit("a.png", "a", 0.5, right=True),))


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (NOTHING, "How good are the answers?"),
        (replace(NOTHING, retrieval=retrieval([], unusable=(("b.png", "is empty"),))), "is empty"),
        (replace(NOTHING, retrieval=retrieval([], without_relevant=24)), "24 items left out"),
        (replace(NOTHING, retrieval=retrieval([UNLABELED])), "100.0 % of 1 queries"),
        (replace(NOTHING, retrieval=retrieval([UNLABELED], precision_at_recall=np.array([]))), "0 have a wrong first"),
        (replace(NOTHING, retrieval=retrieval([WRONG])), "1 have a wrong first"),
        (replace(NOTHING, retrieval=retrieval([QueryResult("a.png", "a", "a", 1, ())])), "0.0 % of 1 queries"),
        (replace(NOTHING, recall=replace(RECALL, curve=(), plan="exact")), "exact"),
        (replace(NOTHING, recall=replace(RECALL, recall={1: np.ones(1)}, latency={1: LATENCY})), "the nearest"),
        (replace(NOTHING, reliability=replace(RELIABILITY, hits=np.zeros(2, np.int64))), "80 of 100"),
        (replace(NOTHING, figures={"unheard_of@x": Interval(4.5, 4.5, 4.5)}), "4.500"),
    ],
    ids=range(11),
)
def test_odd_evaluations_have_a_page(evaluation, said):
    page = page_of(evaluation)

    assert said in page.text
    assert page.source.endswith("</html>\n")
    assert "nan" not in page.text


@pytest.mark.usefixtures("no_charts")
def test_without_categories_there_is_no_chart_of_them():
    assert "by category" not in page_of(replace(NOTHING, retrieval=retrieval([UNLABELED]), categories={"": RATES})).text
    assert "by category" in page_of(replace(NOTHING, retrieval=retrieval([RIGHT]), categories={"fish": RATES})).text


@pytest.mark.usefixtures("no_charts")
def test_of_ten_thousand_categories_the_largest_have_bars_and_the_worst_a_table():
    rate = dict.fromkeys(OF_CATEGORIES, Interval(1, 1, 1))
    categories = {f"{number:05d}": {"queries": Interval(1, 1, 1), **rate} for number in range(10_000)}
    categories["00777"] = RATES

    page = page_of(replace(NOTHING, retrieval=retrieval([RIGHT]), categories=categories))

    assert "for the 30 categories with most queries" in page.source
    assert "9,970 more categories, of fewer queries, are not shown" in page.text
    assert "by category, the worst 20 of 10000" in page.text
    assert re.findall(r">(\d{5})</td>", page.source) == ["00777", *(f"{number:05d}" for number in range(19))]
    assert len(page.source) < 1_000_000


def test_page_and_terminal_are_made_of_the_same_sections(page):
    layout = sections(WHOLE, Path("index"))

    text = evaluation_text(layout)

    assert text.startswith("index: 24 images, generation 3")
    for block in (block for section in layout for block in section.blocks if block.only is None):
        for line in block.text.split("\n") if isinstance(block, Note) else [block.title]:
            assert line in page.text
            assert line in text
    assert "The worst queries" in page.text
    assert "The worst queries" not in text


def test_matplotlib_is_missed_before_anything_is_drawn(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name))

    with pytest.raises(MissingComponentError, match="--report needs matplotlib") as caught:
        require_matplotlib("--report")

    assert caught.value.hint == "pip install 'imgsearch-toolkit[plots]'"
