"""Drawings of an evaluation, as SVG: the same evaluation gives the same bytes."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgsearch.bootstrap import Interval
from imgsearch.charts import blank, drawable
from imgsearch.evaluation.results import CurvePoint, IndexRecall, QueryResult, Reliability, Values

# Stands for an empty label or category.
NO_NAME = "(none)"

# What fits on a page and is still readable.
_MAX_NAMES = 30
_BINS = 40

# Told apart by the color-blind too (Okabe and Ito: Color Universal Design, 2008).
_RIGHT, _WRONG, _GRAY = "#0072b2", "#d55e00", "#767676"
_STYLE = {
    "svg.hashsalt": "imgsearch",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GRAY,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Confusion:
    """Which categories are confused."""

    labels: tuple[str, ...]  # those most often confused, the most often first
    shares: Values  # (labels, labels): of the queries of a row's label, the share whose first hit has the column's
    pairs: tuple[tuple[str, str, int], ...]  # label of the query, label of the first hit, count; most frequent first
    others: int  # how many labels are left out


def confusion(results: Sequence[QueryResult]) -> Confusion:
    """Count which category the first hit has for queries of each category; only confused categories are in it."""
    found = Counter((query.category, query.hits[0].category) for query in results if query.hits)
    queries = Counter(query.category for query in results)
    confused: Counter[str] = Counter()
    for pair, count in found.items():
        if pair[0] != pair[1]:
            confused.update(dict.fromkeys(pair, count))
    labels = sorted(confused, key=lambda label: (-confused[label], label))[:_MAX_NAMES]
    shares = np.array([[found[row, column] / max(queries[row], 1) for column in labels] for row in labels])
    pairs = sorted((-count, *pair) for pair, count in found.items() if pair[0] != pair[1])
    return Confusion(
        labels=tuple(labels),
        shares=shares.reshape(len(labels), len(labels)),
        pairs=tuple((category, hit_category, -count) for count, category, hit_category in pairs[:_MAX_NAMES]),
        others=len(queries.keys() | confused.keys()) - len(labels),
    )


def draw_recall(recall: IndexRecall) -> bytes:
    """Draw the recall of each setting against its median latency, which says least of what else the machine does."""
    with _sheet(7.2, 4) as (figure, svg):
        axes = figure.subplots()
        milliseconds = [1000 * point.latency.p50 for point in recall.curve]
        found = [point.recall for point in recall.curve]
        label = f"other settings: {recall.curve[0].setting}"
        axes.plot(milliseconds, found, color=_RIGHT, marker="o", markersize=4, label=label)
        if 10 in recall.recall.keys() & recall.latency.keys():
            used = 1000 * recall.latency[10].p50, float(np.mean(recall.recall[10]))
            axes.plot(*used, color=_WRONG, marker="D", markersize=9, linestyle="none", label="as the index is used")
        exact = 1000 * recall.exact.p50
        axes.axvline(exact, color=_GRAY, linestyle="--", linewidth=1)
        axes.plot(exact, 1, color=_GRAY, marker="s", markersize=7, linestyle="none", label="exact search")
        axes.margins(0.08, 0.15)
        _scale_latency(axes, [exact, *milliseconds])
        _name_points(axes, recall.curve, milliseconds)
        axes.set(xlabel="median latency of a search, ms", ylabel="recall of the 10 nearest")
        axes.grid(visible=True)
        axes.legend(loc="lower right")
    return svg.getvalue()


def draw_precision_recall(precision: Values) -> bytes:
    """Draw (11,) mean interpolated precision against recall."""
    with _sheet(7.2, 3.6) as (figure, svg):
        axes = figure.subplots()
        axes.plot(np.linspace(0, 1, len(precision)), precision, color=_RIGHT, marker="o", markersize=4)
        axes.set(xlim=(-0.02, 1.02), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
        axes.grid(visible=True)
    return svg.getvalue()


def draw_categories(rates: Sequence[tuple[str, int, float]]) -> bytes:
    """Draw a bar for each category, the best on top: its name, its queries, the share whose first hit is relevant."""
    rows = sorted(rates, key=lambda row: (row[2], row[1], row[0]))
    with _sheet(7.2, 1.1 + 0.25 * len(rows)) as (figure, svg):
        axes = figure.subplots()
        bars = axes.barh(range(len(rows)), [rate for _, _, rate in rows], color=_RIGHT, height=0.7)
        texts = [f"{rate:.2f} of {queries:,}" for _, queries, rate in rows]
        axes.bar_label(bars, texts, padding=4, fontsize=9, color="#444444")
        axes.set_yticks(range(len(rows)), [drawable(name or NO_NAME) for name, _, _ in rows], parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.set(xlim=(0, 1.25), ylim=(-0.6, len(rows) - 0.4), xlabel="share of queries whose first hit is right")
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.grid(visible=True, axis="x")
    return svg.getvalue()


def draw_intervals(rows: Sequence[tuple[str, Interval]], label: str, usual: float | None = None) -> bytes:
    """Draw a point with its interval for each name, the first on top; a line at what is usual."""
    with _sheet(7.2, 1.1 + 0.25 * len(rows)) as (figure, svg):
        axes = figure.subplots()
        for place, (_, found) in enumerate(reversed(rows)):
            axes.plot([found.low, found.high], [place, place], color=_RIGHT, linewidth=1.5)
            axes.plot(found.mean, place, color=_RIGHT, marker="o", markersize=5)
        if usual is not None:
            axes.axvline(usual, color=_GRAY, linestyle="--", linewidth=1)
        names = [drawable(name) for name, _ in reversed(rows)]
        axes.set_yticks(range(len(rows)), names, parse_math=False)
        axes.tick_params(axis="y", length=0)
        axes.set(ylim=(-0.6, len(rows) - 0.4), xlabel=label)
        axes.set_xlim(left=0)
        axes.grid(visible=True, axis="x")
    return svg.getvalue()


def draw_confusion(found: Confusion) -> bytes:
    """Draw the shares, of at least one label, as a heat map."""
    count = len(found.labels)
    names = [drawable(name or NO_NAME) for name in found.labels]
    # Wide enough for names of the widest letters; what they leave blank is cut off.
    side = max(0.24 * count, 2.4) + 0.125 * max(map(len, names))
    with _sheet(side + 1.4, side + 0.4) as (figure, svg):
        axes = figure.subplots()
        # Cells are drawn one by one: an image in the drawing would be blurred when enlarged.
        percent = 100 * found.shares
        mesh = axes.pcolormesh(percent, cmap="Blues", vmin=0, vmax=100, edgecolors="white", linewidth=0.6)
        places = np.arange(count) + 0.5
        axes.set_xticks(places, names, rotation=90, fontsize=9, parse_math=False)
        axes.set_yticks(places, names, fontsize=9, parse_math=False)
        axes.tick_params(length=0)
        axes.set(xlabel="category of the first hit", ylabel="category of the query", aspect="equal")
        axes.invert_yaxis()
        for spine in axes.spines.values():
            spine.set_visible(False)
        for row, column in np.argwhere(percent >= 0.5):
            place = {"ha": "center", "va": "center", "color": "white" if percent[row, column] > 60 else "black"}
            axes.text(column + 0.5, row + 0.5, f"{percent[row, column]:.0f}", fontsize=7, **place)
        figure.colorbar(mesh, shrink=0.8, label="% of the row's queries").outline.set_visible(False)
    return svg.getvalue()


def draw_scores(results: Sequence[QueryResult]) -> bytes:
    """Draw histograms of the scores of right and wrong hits, of which there is one at least."""
    firsts = [hit for query in results for hit in query.hits[:1]]
    hits = [hit for query in results for hit in query.hits]
    scores = [hit.score for hit in hits]
    edges = np.histogram_bin_edges(scores, _BINS)
    with _sheet(10.4, 3.6) as (figure, svg):
        sides = (("first hits", firsts), ("the first ten hits", hits))
        for axes, (title, some) in zip(figure.subplots(1, 2), sides, strict=True):
            right = [hit.score for hit in some if hit.relevant]
            wrong = [hit.score for hit in some if not hit.relevant]
            axes.hist(right, edges, color=_RIGHT, alpha=0.55, label=f"right ({len(right):,})")
            line = {"edgecolor": _WRONG, "linewidth": 1.5, "hatch": "////"}
            axes.hist(wrong, edges, histtype="step", **line, label=f"wrong ({len(wrong):,})")
            axes.set(xlabel="score", ylabel="hits", title=title)
            axes.margins(y=0.2)  # room for the legend, which lies above all bars
            axes.legend(loc="upper center", ncols=2)
            axes.grid(visible=True, axis="y")
    return svg.getvalue()


def draw_reliability(found: Reliability) -> bytes:
    """Draw probabilities against accuracy, how many hits had them, and the probability of each score."""
    some = found.hits > 0
    probability, accuracy, hits = found.probability[some], found.accuracy[some], found.hits[some]
    with _sheet(10.4, 4.6) as (figure, svg):
        grid = figure.add_gridspec(2, 2, height_ratios=(3, 1))
        axes, below, beside = (figure.add_subplot(place) for place in (grid[0, 0], grid[1, 0], grid[:, 1]))
        axes.plot((0, 1), (0, 1), color=_GRAY, linestyle="--", linewidth=1, label="as it should be")
        axes.vlines(probability, probability, accuracy, color=_WRONG, linewidth=2, label="too high or too low")
        axes.plot(probability, accuracy, color=_RIGHT, marker="o", label="as it was")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.05), ylabel="share that was right")
        axes.tick_params(labelbottom=False)
        axes.set_title(f"expected calibration error {found.error:.3f}")
        axes.legend(loc="upper left")
        below.bar(probability, hits, width=0.6 / max(len(found.hits), 1), color=_GRAY)
        below.set(xlim=(-0.02, 1.02), xlabel="probability", ylabel="hits")
        first, later = found.calibration.first, found.calibration.later
        beside.plot(first.scores, first.probabilities, color=_RIGHT, label="of the first hit")
        beside.plot(later.scores, later.probabilities, color=_WRONG, linestyle="-.", label="of later hits")
        beside.legend(loc="upper left")
        beside.set(ylim=(-0.02, 1.05), xlabel="score", ylabel="probability", title="what a score means")
        for each in (axes, below, beside):
            each.grid(visible=True)
    return svg.getvalue()


def _scale_latency(axes: Any, milliseconds: Sequence[float]) -> None:
    """Use a logarithmic scale for a large range, and label as many ticks as there is room for."""
    from matplotlib.ticker import LogLocator, NullFormatter

    span = max(milliseconds) / min(milliseconds)
    if span > 3:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(LogLocator(subs=(2, 3, 5)))
        axes.tick_params(axis="x", which="both", length=4, pad=4)
        axes.xaxis.set_minor_formatter("{x:g}" if span < 100 else NullFormatter())


def _name_points(axes: Any, curve: Sequence[CurvePoint], milliseconds: Sequence[float]) -> None:
    """Label the points that are not too near to the one labeled before with their setting."""
    axes.autoscale_view()  # now, that places are where they will be
    before = np.array((-np.inf, -np.inf))
    for point, x in zip(curve, milliseconds, strict=True):
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, point.recall)))
        if np.abs(place - before).max() > 0.06:
            beside = {"xytext": (5, -3), "textcoords": "offset points", "va": "top"}
            axes.annotate(f"{point.effort:,}", (x, point.recall), fontsize=8, color="#444444", **beside)
            before = place


@contextlib.contextmanager
def _sheet(width: float, height: float) -> Iterator[tuple[Any, io.BytesIO]]:
    """Yield a figure in our style, whatever the user's own settings are, and the bytes that hold its SVG afterwards."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        figure, svg = blank(width, height), io.BytesIO()
        yield figure, svg
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(svg, format="svg", metadata=nothing, bbox_inches="tight")
