"""An evaluation as sections of notes, tables and charts: plain data, rendered for a terminal and as a page."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np

from imgsearch.bootstrap import Interval
from imgsearch.cli.output import draw_table, printable
from imgsearch.evaluation import plots, recommendations
from imgsearch.evaluation.compare import Comparison
from imgsearch.evaluation.exposure import Exposure, GroupExposure
from imgsearch.evaluation.index_recall import KS
from imgsearch.evaluation.results import (
    Evaluation,
    IndexRecall,
    JudgedOrder,
    Personal,
    PictureAndWord,
    QueryResult,
    Recommendations,
    Reliability,
    Retrieval,
)
from imgsearch.evaluation.retrieval import OF_CATEGORIES
from imgsearch.evaluation.words import MIN_PAIRS
from imgsearch.search.recall import Latency

# What is still readable.
_MAX_CATEGORIES = 20
_MAX_BARS = 30
_MAX_CONFUSIONS = 10
_MAX_WORST = 20
_MAX_UNUSABLE = 20

_QUERIES = {
    "labels": "items, each asked for by itself",
    "queries": "images of yours",
    "self-test": "photo-like variants of items",
    "text": "texts of items, asked for as if these had no words",
    "text-columns": "texts of the shop's data",
}
_WAYS = {
    "picture_and_word": "another's picture and the word it differs in",
    "picture_alone": "that picture alone",
    "word_alone": "that word alone",
}
_METHODS = {
    "popular": "what most want",
    "content": "what looks like what they liked",
    "collaborative": "what those want who want the same",
    "hybrid": "all of these, weighed together",
}
_JUDGED = {
    "ndcg": "nDCG at {k} of recommendations",
    "recall": "share of what people wanted that is among the first {k}",
    "map": "mean average precision of the first {k}",
    "novelty": "how few people had had the first {k}, in bits",
    "new_share": "share of products without events among the first {k}",
    "new_ndcg": "nDCG at {k} among products without events",
    "coverage": "share of all products that somebody is shown among the first {k}",
}
# Whose differences a terminal has room for.
_FIRST = ("ndcg@10", "new_ndcg@10")
_LATENCY = ("p50 ms", "p95 ms", "p99 ms", "queries/s")

_GROUP_HEADS = ("queries", *OF_CATEGORIES, f"{OF_CATEGORIES[0]}, 95 % interval")

# Names of measures up to their @.
_MEANINGS = {
    "count": "images in the index",
    "index_recall": "share of the {k} true nearest neighbors that the index finds",
    "latency_p50_ms": "median time of a search",
    "latency_p95_ms": "95 of 100 searches take at most this long",
    "latency_p99_ms": "99 of 100 do",
    "queries_per_second": "searches, one after the other",
    "queries": "queries that were evaluated",
    "hit_rate": "share of queries with a right hit among the first {k}",
    "recall": "share of all relevant items that are among the first {k}",
    "precision": "share of the first {k} hits that are right",
    "r_precision": "precision among as many hits as there are relevant items",
    "map": "mean precision at the rank of each right hit (mean average precision)",
    "map@r": "the same over as many hits as there are relevant items",
    "mrr": "one divided by the rank of the first right hit, on average",
    "ndcg": "how near right hits are to the top of the first {k}; 1: all right ones first",
    **{
        f"{way}_{measure}": f"{meaning}: an item asked for by {words}"
        for way, words in _WAYS.items()
        for measure, meaning in (("hit_rate", "right hits among the first {k}"), ("map", "mean average precision"))
    },
    "people": "people who were recommended something",
    "new_people": "those of them who wanted a product without events",
    **{f"{method}_{name}": f"{what}: {how}" for method, how in _METHODS.items() for name, what in _JUDGED.items()},
    **{
        f"{method}_over_{other}_{name}": f"{what}: {method} less {other}, person by person"
        for method, other in recommendations.PAIRS
        for name, what in _JUDGED.items()
    },
    "answers": "answers of the held-out week that were ordered",
    "learned_ndcg": "nDCG at {k} of the order learned from clicks, of later clicks weighed by their places",
    "scores_ndcg": "nDCG at {k} of the order of scores, of the same clicks",
    "learned_over_scores_ndcg": "by how much the learned order is better",
    "calibration_error": "how far probabilities are from the share of right hits, on average",
    "calibration_error@1": "the same of first hits alone",
}

# Where a block is rendered; None: everywhere.
Medium = Literal["text", "page"]


@dataclass(frozen=True, slots=True)
class Note:
    """A paragraph; a line break in it is kept on a terminal."""

    text: str
    only: Medium | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table; without heads it is one of names and values. Without rows it is not rendered."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    only: Medium | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing, which a page alone has: its SVG when it is asked for, and what it shows in words."""

    draw: Callable[[], bytes]
    alt: str
    only: Medium | None = "page"


@dataclass(frozen=True, slots=True)
class Gallery:
    """Queries with the images of their hits, which a page alone has."""

    results: Sequence[QueryResult]
    only: Medium | None = "page"


Block = Note | Table | Chart | Gallery


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a heading, which a page alone has; level 1 is the page itself."""

    heading: str
    blocks: Sequence[Block]
    level: int = 2


def sections(evaluation: Evaluation, index: Path, comparison: Comparison | None = None) -> list[Section]:
    """Lay out what was measured of an index; what was not measured has no section."""
    found = [_summary(evaluation, index)]
    if evaluation.figures:
        found.append(_figures(evaluation))
    if evaluation.recall is not None:
        found.append(_index_recall(evaluation.recall, evaluation))
    if evaluation.retrieval is not None:
        found += _retrieval(evaluation.retrieval, evaluation)
    if evaluation.picture_and_word is not None:
        found.append(_picture_and_word(evaluation.picture_and_word, evaluation))
    if evaluation.reliability is not None:
        found.append(_reliability(evaluation.reliability))
    if evaluation.personal is not None:
        found += _personal(evaluation.personal, evaluation.figures)
    if comparison is not None:
        found.append(_comparison(comparison))
    if evaluation.retrieval is not None and evaluation.retrieval.results:
        found.append(_worst(evaluation.retrieval.results))
    return found


def _summary(evaluation: Evaluation, index: Path) -> Section:
    facts = evaluation.facts
    settings = [f"{facts[name]} {name}" for name in ("trees", "lists") if name in facts]
    settings += [f"{name} {facts[name]}" for name in ("search_k", "probes") if name in facts]
    line = [f"{facts.get('count')} images", f"generation {facts.get('generation')}", facts.get("encoder", "")]
    blocks: list[Block] = [
        Note(f"{index}: {', '.join([*line, facts.get('plan', ''), *settings])}", only="text"),
        *(Note(sentence, only="page") for sentence in _in_short(evaluation)),
        Table("the index", (), [(name, str(value)) for name, value in facts.items()], only="page"),
        Table("the evaluation", (), [(name, str(value)) for name, value in evaluation.setup.items()], only="page"),
    ]
    return Section("How good are the answers?", blocks, level=1)


def _in_short(evaluation: Evaluation) -> Iterator[str]:
    recall, retrieval, reliability = evaluation.recall, evaluation.retrieval, evaluation.reliability
    if retrieval is not None and retrieval.results:
        first = np.mean([any(hit.relevant for hit in query.hits[:1]) for query in retrieval.results])
        ten = np.mean([any(hit.relevant for hit in query.hits) for query in retrieval.results])
        yield (
            f"The first hit is right for {100 * first:.1f} % of {len(retrieval.results):,} queries;"
            f" {100 * ten:.1f} % have a right one among the first ten."
        )
    if recall is not None and 10 in recall.recall.keys() & recall.latency.keys():
        yield (
            f"The index finds {100 * np.mean(recall.recall[10]):.1f} % of the 10 true nearest neighbors;"
            f" 95 of 100 searches take at most {1000 * recall.latency[10].p95:.2f} ms."
        )
    figures = evaluation.figures
    if "hybrid_ndcg@10" in figures:
        better = figures["hybrid_over_popular_ndcg@10"]
        yield (
            f"Recommendations have an nDCG@10 of {figures['hybrid_ndcg@10'].mean:.3f}, {better.mean:+.3f} against the"
            f" most popular products (95 % interval: {better.low:+.3f} to {better.high:+.3f})."
        )
    if reliability is not None:
        yield f"Probabilities are off by {100 * reliability.error:.1f} percentage points on average."


def _figures(evaluation: Evaluation) -> Section:
    rows = [_figure_row(name, figure) for name, figure in evaluation.figures.items()]
    note = (
        "The interval says where the mean would lie with other queries of the same kind."
        " What is no mean over queries has none."
    )
    heads = ("measure", "mean", "95 % interval", "what it says")
    return Section("Figures", [Table("", heads, rows, only="page"), Note(note, only="page")])


def _figure_row(name: str, figure: Interval) -> tuple[str, str, str, str]:
    measure, _, k = name.partition("@")
    digits = 0 if name in ("count", "queries", "queries_per_second", "people", "new_people", "answers") else 3
    mean, low, high = (f"{value:,.{digits}f}" for value in (figure.mean, figure.low, figure.high))
    interval = "" if figure.low == figure.high else f"{low} to {high}"
    unit = " ms" if name.endswith("_ms") else ""
    return name, mean + unit, interval, _MEANINGS.get(name, _MEANINGS.get(measure, "")).format(k=k)


def _index_recall(recall: IndexRecall, evaluation: Evaluation) -> Section:
    nearest = 10 if 10 in recall.recall else max(recall.recall)
    title = f"index recall: of the k nearest of {len(recall.queries)} items, those that are found"
    rows = [(f"{k}", f"{np.mean(recall.recall[k]):.4f}", *_times(recall.latency[k])) for k in sorted(recall.recall)]
    blocks: list[Block] = [
        Note(
            f"{len(recall.queries):,} images of the catalog were searched for, in the index ({recall.plan}) and by"
            " comparing with every vector. Recall is the share of the true nearest neighbors that the index finds;"
            " 95 of 100 searches take at most as long as p95 says.",
            only="page",
        ),
        Table(title, ("k", "recall", *_LATENCY), rows),
    ]
    if left_out := [str(k) for k in KS if k not in recall.recall]:
        others = evaluation.facts["count"] - 1
        blocks.append(Note(f"no more than {others} others to be found: k = {', '.join(left_out)} left out"))
    exact = f"p50 {1000 * recall.exact.p50:.2f} ms, p95 {1000 * recall.exact.p95:.2f} ms"
    blocks.append(Note(f"exact search, {nearest} nearest: {exact}"))
    if recall.curve:
        title = f"recall of the {nearest} nearest against latency"
        title += ", had the index a forest" if recall.plan == "exact" else ""
        curve = [(f"{point.effort}", f"{point.recall:.4f}", *_times(point.latency)) for point in recall.curve]
        blocks += [
            Table(title, (recall.curve[0].setting, "recall", *_LATENCY), curve),
            Chart(functools.partial(plots.draw_recall, recall), f"{title}, for {len(curve)} settings."),
        ]
    return Section("Does the index find the nearest?", blocks)


def _times(latency: Latency) -> tuple[str, ...]:
    return (*(f"{1000 * value:.2f}" for value in (latency.p50, latency.p95, latency.p99)), f"{latency.per_second:.0f}")


def _retrieval(found: Retrieval, evaluation: Evaluation) -> Iterator[Section]:
    title = f"{len(found.results)} {_QUERIES[found.kind]}; right: the same {found.label}"
    rows = [
        (name, f"{evaluation.figures[name].mean:.4f}", _interval(evaluation.figures[name])) for name in found.measures
    ]
    blocks: list[Block] = [
        Note(f"{title}. All items are ranked by exact search.", only="page"),
        Table(f"retrieval: {title}", ("measure", "mean", "95 % interval"), rows, only="text"),
    ]
    if found.without_relevant:
        blocks.append(Note(f"{found.without_relevant} items left out: no other has their {found.label}"))
    unusable = found.unusable[:_MAX_UNUSABLE]
    blocks.append(Table("queries that could not be used", ("image", "why"), unusable, only="page"))
    blocks += _more(len(found.unusable) - len(unusable), "such queries")
    yield Section("Are the answers right?", blocks)
    if len(found.precision_at_recall):
        precision = ", ".join(f"{value:.2f}" for value in found.precision_at_recall)
        draw = functools.partial(plots.draw_precision_recall, found.precision_at_recall)
        blocks = [
            Note("Precision of the hits down to the rank at which so many relevant items are found.", only="page"),
            Chart(draw, f"Precision at recall 0, 0.1, .. 1: {precision}."),
        ]
        yield Section("Precision against recall", blocks, level=3)
    if evaluation.columns:
        yield _columns(evaluation)
    if any(evaluation.categories):
        yield _categories(evaluation)
    confusion = plots.confusion(found.results)
    if confusion.labels:
        yield _confusion(confusion)
    if any(query.hits for query in found.results):
        draw = functools.partial(plots.draw_scores, found.results)
        blocks = [
            Note("The less they overlap, the better a minimum score (--min-score) tells them apart.", only="page"),
            Chart(draw, "Histograms of the scores of right and wrong hits."),
        ]
        yield Section("Which scores right and wrong hits have", blocks, level=3)


def _columns(evaluation: Evaluation) -> Section:
    rows = [_group_row(name, figures) for name, figures in evaluation.columns.items()]
    is_one = len(rows) == 1
    table = Table("by column", ("column", *_GROUP_HEADS), rows, only="page" if is_one else None)
    return Section("Which columns find the items", [table], level=3)


def _picture_and_word(found: PictureAndWord, evaluation: Evaluation) -> Section:
    about = "items asked for by the picture of another and the one word in which their own words differ"
    if not found.measures:
        note = f"picture and word: not measured, for that takes {MIN_PAIRS} {about}, and there are {len(found.queries)}"
        return Section("A picture and a word", [Note(note)])
    figures = evaluation.figures
    rows = [
        (
            way.replace("_", " "),
            *(f"{figures[f'{way}_{measure}'].mean:.4f}" for measure in OF_CATEGORIES),
            _interval(figures[f"{way}_{OF_CATEGORIES[0]}"]),
        )
        for way in _WAYS
    ]
    heads = ("asked with", *_GROUP_HEADS[1:])
    return Section("A picture and a word", [Table(f"{len(found.queries)} {about}", heads, rows)])


def _categories(evaluation: Evaluation) -> Section:
    categories = evaluation.categories
    guarded = OF_CATEGORIES[0]
    sizes = {name: int(figures["queries"].mean) for name, figures in categories.items()}
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_MAX_BARS]
    rates = [(name, sizes[name], categories[name][guarded].mean) for name in largest]
    worst = sorted(categories, key=lambda name: (categories[name][guarded].mean, name))[:_MAX_CATEGORIES]
    rows = [_group_row(name, categories[name]) for name in worst]
    left_out = len(categories) > len(worst)
    title = f"by category, the worst {len(worst)} of {len(categories)}" if left_out else "by category"
    alt = f"Bars of the share of right first hits for the {len(largest)} categories with most queries."
    blocks: list[Block] = [
        Chart(functools.partial(plots.draw_categories, rates), alt),
        *_more(len(categories) - len(largest), "categories, of fewer queries,"),
        Table(title, ("category", *_GROUP_HEADS), rows, only=None if len(categories) > 1 else "page"),
    ]
    return Section("Which categories are answered well", blocks, level=3)


def _group_row(name: str, figures: Mapping[str, Interval]) -> tuple[str, ...]:
    means = (f"{figures[measure].mean:.4f}" for measure in OF_CATEGORIES)
    return name or plots.NO_NAME, f"{figures['queries'].mean:.0f}", *means, _interval(figures[OF_CATEGORIES[0]])


def _confusion(found: plots.Confusion) -> Section:
    rows = [
        (category or plots.NO_NAME, hit_category or plots.NO_NAME, f"{count:,}")
        for category, hit_category, count in found.pairs[:_MAX_CONFUSIONS]
    ]
    alt = f"Heat map of the categories of first hits against those of queries, for {len(found.labels)} categories."
    blocks: list[Block] = [
        Chart(functools.partial(plots.draw_confusion, found), alt),
        *_more(found.others, "categories, less often confused,"),
        Table("most frequent", ("query shows", "first hit is", "queries"), rows, only="page"),
    ]
    return Section("Which categories are confused", blocks, level=3)


def _reliability(found: Reliability) -> Section:
    learned = (
        f"probability of the same {found.calibration.meaning}: learned from {found.calibration.queries} queries\n"
        f"expected calibration error on queries it was not learned from: {found.error:.3f},"
        f" of first hits {found.error_at_1:.3f}"
    )
    alt = f"Reliability diagram over {len(found.hits)} bins, expected calibration error {found.error:.3f}."
    blocks: list[Block] = [
        Note(learned),
        Note("Of hits with a probability of 0.8, 80 of 100 should be right.", only="page"),
        Chart(functools.partial(plots.draw_reliability, found), alt),
    ]
    return Section("Are the probabilities right?", blocks)


def _personal(found: Personal, figures: Mapping[str, Interval]) -> Iterator[Section]:
    since, newest = (
        f"{datetime.fromtimestamp(time / 1e6, UTC):%Y-%m-%d %H:%M}" for time in (found.since, found.newest)
    )
    how = (
        f"learned from {found.before:,} events until {since},"
        f" judged by the {found.held_out:,} after it, until {newest} (UTC)"
    )
    recommended = found.recommendations
    if recommended is None:
        note = "recommendations: not measured, nor exposure, for too few people came back in the held-out week"
        yield Section("Are recommendations right?", [Note(note)])
    else:
        yield _recommendations(recommended, figures, how)
        if recommended.exposure is not None:
            yield _exposure(recommended.exposure, len(recommended.people))
    if found.order is not None:
        yield _order(found.order, how)


def _recommendations(found: Recommendations, figures: Mapping[str, Interval], how: str) -> Section:
    names = [name for name in (*recommendations.MEASURES, recommendations.COVERAGE) if f"hybrid_{name}" in figures]
    rows = [(method, *(f"{figures[f'{method}_{name}'].mean:.4f}" for name in names)) for method in _METHODS]
    over = [name for name in names if name != recommendations.COVERAGE]
    intervals = [(method, *(_interval(figures[f"{method}_{name}"]) for name in over)) for method in _METHODS]
    first = [name for name in _FIRST if name in over]
    differences = "differences, person by person, with 95 % intervals"
    note = f"{how}\n{found.new:,} of {found.products:,} products were new then: there were no events of them."
    if found.new_people:
        note += f" {len(found.new_people):,} people wanted one; new_ndcg@10 is about these, and new products alone"
    title = f"recommendations: {len(found.people)} people, and what they wanted that they had not had before"
    bars = [(method, figures[f"{method}_ndcg@10"]) for method in _METHODS]
    blocks: list[Block] = [
        Table(title, ("method", *names), rows),
        Table("95 % intervals", ("method", *over), intervals, only="page"),
        Table(differences, ("methods", *over), _differences(figures, over), only="page"),
        Table(differences, ("methods", *first), _differences(figures, first), only="text"),
        Note(note),
        Chart(functools.partial(plots.draw_intervals, bars, "nDCG@10"), "nDCG@10 of each method, with intervals."),
    ]
    return Section("Are recommendations right?", blocks)


def _differences(figures: Mapping[str, Interval], names: Sequence[str]) -> list[tuple[str, ...]]:
    return [
        (f"{method} over {other}", *(_signed(figures[f"{method}_over_{other}_{name}"]) for name in names))
        for method, other in recommendations.PAIRS
    ]


def _exposure(found: Exposure, people: int) -> Section:
    groups = [(name or plots.NO_NAME, group) for name, group in found.groups.items()]
    if found.rest is not None:
        groups.append((f"{found.others:,} others", found.rest))
    methods = list(groups[0][1].exposure)
    heads = ("products", "wanted", *(head for method in methods for head in (f"{method} shows", "ratio", "95 %")))
    rows = [
        (name, f"{group.products}", f"{group.relevance.mean:.4f}", *_exposures(group, methods))
        for name, group in groups
    ]
    note = (
        f"The share of what {people:,} people are shown, and of what they wanted. A ratio above 1 is more exposure than"
        " relevance; it is left out where so few wanted something of a group that none can be told."
    )
    ratios = [(name, ratio) for name, group in groups if (ratio := group.ratio[methods[0]]) is not None]
    alt = f"Exposure over relevance of {len(ratios)} groups, with intervals."
    blocks: list[Block] = [
        Table(f"exposure by {found.column}", (found.column, *heads), rows),
        Note(note),
    ]
    if ratios:
        label = f"exposure over relevance, {methods[0]}"
        blocks.append(Chart(functools.partial(plots.draw_intervals, ratios, label, 1.0), alt))
    return Section("Which groups are shown, and which are wanted", blocks, level=3)


def _exposures(group: GroupExposure, methods: Sequence[str]) -> Iterator[str]:
    for method in methods:
        ratio = group.ratio[method]
        yield f"{group.exposure[method].mean:.4f}"
        yield "" if ratio is None else f"{ratio.mean:.2f}"
        yield "" if ratio is None else f"{ratio.low:.2f} to {ratio.high:.2f}"


def _order(found: JudgedOrder, how: str) -> Section:
    rows = [
        ("learned", f"{found.learned.mean:.4f}", _interval(found.learned)),
        ("by scores", f"{found.scores.mean:.4f}", _interval(found.scores)),
        ("difference", f"{found.gain.mean:+.4f}", f"{found.gain.low:+.4f} to {found.gain.high:+.4f}"),
    ]
    weighed = "not weighed by their places" if found.eta is None else f"weighed by place ** {found.eta}"
    note = f"{how}\n{found.learner}, from {found.answers:,} answers with clicks; clicks are {weighed}"
    title = f"order of {found.held_out} answers with clicks"
    return Section(
        "Is a learned order better?", [Table(title, ("order", "nDCG@10", "95 % interval"), rows), Note(note)]
    )


def _signed(figure: Interval) -> str:
    return f"{figure.mean:+.4f} ({figure.low:+.4f} to {figure.high:+.4f})"


def _comparison(comparison: Comparison) -> Section:
    rows = [
        (
            change.name,
            f"{change.queries}",
            f"{change.before:.4f}",
            f"{change.after:.4f}",
            f"{change.difference.mean:+.4f}",
            f"{change.difference.low:+.4f} to {change.difference.high:+.4f}",
        )
        for change in comparison.changes
    ]
    heads = ("measure", "queries", "then", "now", "change", "99 % interval")
    title = "against the earlier evaluation, on the same queries"
    return Section("Is it worse than before?", [Table(title, heads, rows)])


def _worst(results: Sequence[QueryResult]) -> Section:
    wrong = [query for query in results if query.hits and not query.hits[0].relevant]
    # Those without any right hit come first, and of them those whose wrong hit has the highest score.
    wrong.sort(key=lambda query: (any(hit.relevant for hit in query.hits), -query.hits[0].score, query.query))
    without = sum(not any(hit.relevant for hit in query.hits) for query in wrong)
    note = (
        f"Of {len(results):,} queries {len(wrong):,} have a wrong first hit, and {without:,} no right one among the"
        " first ten. These come first, those whose wrong hit has the highest score above the others."
    )
    more = _more(len(wrong) - _MAX_WORST, "such queries")
    return Section("The worst queries", [Note(note, only="page"), Gallery(wrong[:_MAX_WORST]), *more])


def _interval(figure: Interval) -> str:
    return f"{figure.low:.4f} to {figure.high:.4f}"


def _more(count: int, of_what: str) -> list[Note]:
    return [Note(f"{count:,} more {of_what} are not shown.", only="page")] if count > 0 else []


def evaluation_text(sections: Sequence[Section]) -> str:
    """Render notes and tables, one below the other."""
    return "".join(_text(block) for section in sections for block in section.blocks if block.only != "page")


def _text(block: Block) -> str:
    if isinstance(block, Note):
        return "\n".join(map(printable, block.text.split("\n"))) + "\n\n"
    if isinstance(block, Table) and block.rows:
        return draw_table(printable(block.title), block.heads, block.rows, block.heads[:1])
    return ""
