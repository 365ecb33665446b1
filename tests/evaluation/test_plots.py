import base64
import io
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from imgsearch.charts import drawable
from imgsearch.evaluation import plots
from imgsearch.evaluation.results import CurvePoint, IndexRecall, QueryResult, RankedHit, Reliability
from imgsearch.search.recall import Latency
from imgsearch.store.calibration import Calibration, Curve

NAMES = (
    "</svg><script>alert(1)</script>",
    "--><img src=x onerror=alert(1)>",
    "$\\frac{1}{0$ & \"quotes' %s {x:g}",
    "$x^$",
    "_hidden",
    "\u202e\x1b[31m\x00\nred\udce9",
    "\u5e10\u7bf7 \u0645\u0631\u062d\u0628\u0627 \U0001f45f",
    "",
    "a name that does not end " * 40,
)
LATENCY = Latency(p50=0.001, p95=0.002, p99=0.003, per_second=900.0)


def judged(query: str, label: str, *found: str) -> QueryResult:
    """A query of a label, and hits of labels; its own is right."""
    hits = tuple(
        RankedHit(f"{place}.png", name, 0.9 - place / 20, relevant=name == label, category=name)
        for place, name in enumerate(found)
    )
    return QueryResult(query, label, label, relevant_count=1, hits=hits)


def recall(curve: tuple[CurvePoint, ...]) -> IndexRecall:
    return IndexRecall("annoy", ("a.png",), {10: np.array([0.9])}, {10: LATENCY}, LATENCY, curve)


def reliability(hits: list[int]) -> Reliability:
    curve = Curve("platt", (-0.5, 0.9), (0.0, 1.0))
    calibration = Calibration("product", 9, 0.1, curve, curve)
    some = np.where(np.array(hits) > 0, 0.5, np.nan)
    return Reliability(calibration, some, some, np.array(hits), 0.1, 0.2)


def all_charts(queries: list[QueryResult]) -> list[bytes]:
    points = tuple(CurvePoint("search_k", k, 0.9, Latency(k / 1e5, k / 1e5, k / 1e5, 1.0)) for k in (10, 100, 100_000))
    return [
        plots.draw_recall(recall(points)),
        plots.draw_precision_recall(np.linspace(1, 0, 11)),
        plots.draw_categories([(query.category, 3, 0.5) for query in queries[:9]]),
        plots.draw_confusion(plots.confusion(queries)),
        plots.draw_scores(queries),
        plots.draw_reliability(reliability([0, 3, 0, 8])),
    ]


def test_confusions_are_shares_of_all_queries_of_a_label():
    queries = [judged("1", "cups", "cups"), judged("2", "cups", "fish"), judged("3", "fish", "fish")]
    queries += [judged("4", "cups"), judged("5", "dogs", "dogs")]

    found = plots.confusion(queries)

    assert found.labels == ("cups", "fish")
    assert found.shares.tolist() == [[pytest.approx(1 / 3), pytest.approx(1 / 3)], [0, 1]]
    assert found.pairs == (("cups", "fish", 1),)
    assert found.others == 1


def test_of_many_labels_those_most_often_confused_are_kept():
    queries = [judged(str(number), f"{number:04d}", f"{number + 1:04d}") for number in range(9_999)]
    queries += [judged("often", "9000", "0007")] * 3

    found = plots.confusion(queries)

    assert found.labels[:2] == ("0007", "9000")
    assert found.shares.shape == (30, 30)
    assert found.pairs[0] == ("9000", "0007", 3)
    assert found.others == 10_000 - 30


def test_labels_that_are_not_confused_are_no_confusion():
    found = plots.confusion([judged("1", "cups", "cups")])

    assert (found.labels, found.pairs, found.shares.shape) == ((), (), (0, 0))


QUERIES = [judged(name, name, other) for name in NAMES for other in NAMES]


@pytest.fixture(scope="module")
def charts():
    return all_charts(QUERIES)


def test_drawings_are_whole_svg_whatever_names_are_in_them(charts):
    for svg in charts:
        tree = ET.fromstring(svg)
        assert tree.tag == "{http://www.w3.org/2000/svg}svg"
        assert {node.tag.rpartition("}")[2] for node in tree.iter()} <= {
            *("svg", "defs", "style", "g", "path", "use", "clipPath", "rect", "pattern", "image"),
        }
        links = [value for node in tree.iter() for name, value in node.attrib.items() if name.endswith("href")]
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_one_evaluation_gives_the_same_bytes_whatever_the_users_own_settings_are(charts):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "text.usetex": True}):
        assert all_charts(QUERIES) == charts
        assert mpl.rcParams["font.size"] == 30


@pytest.mark.parametrize("count", [1, 30])
def test_the_drawing_of_few_or_many_categories_has_a_bar_for_each(count):
    svg = plots.draw_categories([(f"{number}", 5, 0.5) for number in range(count)])

    bars = [node for node in ET.fromstring(svg).iter() if "fill: #0072b2" in node.get("style", "")]
    assert len(bars) == count


def test_a_heat_map_is_as_dark_as_the_share_is_large():
    from matplotlib.image import imread

    found = plots.Confusion(("a", "b"), np.array([[1.0, 0.0], [0.5, 0.5]]), (), 0)

    tree = ET.fromstring(plots.draw_confusion(found))

    image = next(node for node in tree.iter() if node.tag.endswith("image"))  # of the colors beside it
    link = next(value for name, value in image.attrib.items() if name.endswith("href"))
    colors = imread(io.BytesIO(base64.b64decode(link.partition(",")[2])))
    assert colors.reshape(-1, colors.shape[-1])[:, :3].sum(axis=1).std() > 0.3
    cells = {node.get("style", "").partition("fill: ")[2][:7] for node in tree.iter()}
    assert {"#08306b", "#f7fbff"} <= cells


@pytest.mark.parametrize(("count", "letter"), [(1, "W"), (2, "i"), (30, "W")])
def test_names_of_any_width_leave_room_for_what_they_name(count, letter):
    names = tuple(letter * 50 for _ in range(count))

    drawn = plots.draw_confusion(plots.Confusion(names, np.eye(count), (), 0))  # Matplotlib warns where there is none

    assert ET.fromstring(drawn) is not None


@pytest.mark.parametrize("hits", [[0, 0, 0], [5], [0, 1, 9, 0]])
def test_a_reliability_diagram_leaves_out_bins_without_hits(hits):
    assert ET.fromstring(plots.draw_reliability(reliability(hits))) is not None


@pytest.mark.parametrize("latencies", [[0.001], [0.001, 0.0011], [1e-5, 1e-4, 0.01, 0.5]])
def test_a_curve_of_one_point_and_one_over_powers_of_ten_are_drawn(latencies):
    points = tuple(CurvePoint("search_k", 100, 0.5, Latency(p50, p50, p50, 1.0)) for p50 in latencies)

    drawn = plots.draw_recall(recall(points))

    marks = [node for node in ET.fromstring(drawn).iter() if node.tag.endswith("use")]
    assert len(marks) >= len(latencies) + 2


def test_a_single_hit_has_a_histogram():
    assert ET.fromstring(plots.draw_scores([judged("1", "cups", "cups"), judged("2", "cups")])) is not None


def test_drawable_names_have_only_letters_that_the_font_has_and_an_end():
    assert drawable("caf\u00e9 \u5e10\x1b\u202e\udce9") == "caf\u00e9 ????"
    assert drawable("x" * 24) == "x" * 24
    assert drawable("x" * 25) == "x" * 21 + "..."
