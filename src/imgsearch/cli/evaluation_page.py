"""An evaluation as one HTML page to look at: curves, tables and images are in it, so that it opens anywhere."""

import base64
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from imgsearch.charts import require_matplotlib
from imgsearch.cli.html import TAIL, file_tile, head, shown, tile
from imgsearch.evaluation.bootstrap import Interval
from imgsearch.evaluation.results import Evaluation, IndexRecall, Judged, JudgedHit, Reliability, Retrieval
from imgsearch.search.recall import Latency

# What is still read.
_MOST_CATEGORIES = 30
_MOST_CONFUSIONS = 10
_MOST_FIGURES = 100
_MOST_WORST = 20
_MOST_UNUSABLE = 20
_HITS_SHOWN = 6
_LONGEST = 200

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:32px auto;padding:0 24px;color:#222;"
    "background:#fff}"
    "h1{font-size:26px;margin:0 0 8px}h2{font-size:20px;margin:40px 0 8px;padding-top:16px;border-top:1px solid #bbb}"
    "h3{font-size:16px;margin:24px 0 4px}p{max-width:76ch;margin:8px 0}p.note,caption{color:#555}"
    "table{border-collapse:collapse;margin:12px 24px 12px 0;font-size:14px}caption{text-align:left;white-space:nowrap}"
    "th,td{text-align:left;vertical-align:top;padding:4px 20px 4px 0;border-bottom:1px solid #e4e4e4;"
    "overflow-wrap:anywhere}th{font-weight:600;overflow-wrap:normal}"
    ".number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".side{display:flex;flex-wrap:wrap;align-items:flex-start;column-gap:24px}.side table{max-width:500px}"
    "ul.short{font-size:18px;padding-left:24px;max-width:70ch}summary{cursor:pointer;color:#555}"
    "img.chart{display:block;max-width:100%;height:auto;margin:12px 0}"
    ".query{display:grid;grid-template-columns:repeat(7,minmax(0,1fr));gap:12px;padding:12px 0;"
    "border-top:1px solid #e4e4e4;break-inside:avoid}"
    "figure{margin:0;font-size:12px;line-height:1.35;overflow-wrap:anywhere}"
    "figure img,.none{display:block;box-sizing:border-box;width:100%;aspect-ratio:1;border:3px solid #999;"
    "background:#fff;margin-bottom:4px}.none{background:#eee}"
    "figure.right img,figure.right .none{border-color:#00804d}figure.wrong img,figure.wrong .none{border-color:#c62f1d;"
    "border-style:dashed}figure b{display:block}figure.right b{color:#006b40}figure.wrong b{color:#b02413}"
    "@media print{body{margin:0;max-width:none;font-size:12px}h2,h3{break-after:avoid}table,img{break-inside:avoid}}"
)

# Names of measures up to their @, and what each says to who has not met it.
_MEANINGS = {
    "count": "images in the index",
    "index_recall": "of the {k} truly nearest images, the share that the index finds",
    "latency_p50_ms": "50 of 100 searches take at most this long",
    "latency_p95_ms": "95 of 100 do",
    "latency_p99_ms": "99 of 100 do",
    "queries_per_second": "searches, one after the other",
    "queries": "queries that were judged",
    "hit_rate": "share of queries with a right answer among the first {k}",
    "recall": "share of all right answers that are among the first {k}",
    "precision": "share of the first {k} answers that are right",
    "r_precision": "precision among as many answers as there are right ones",
    "map": "mean precision at the place of each right answer (mean average precision)",
    "map@r": "the same over as many answers as there are right ones",
    "mrr": "one divided by the place of the first right answer, on average",
    "ndcg": "how near the right answers are to the top of the first {k}; 1: all right ones first",
    "calibration_error": "how far probabilities are from the share that was right, on average",
    "calibration_error@1": "the same of first hits alone",
}
_RIGHT_MEANS = {
    "labels": "Each image asks for the others; right is what has the same {label}.",
    "queries": "Images ask that came with their right answers.",
    "self-test": "Photo-like variants of the catalog's own images ask; right is what has the same {label}.",
}


def evaluation_page(
    evaluation: Evaluation, catalog: str, query_image: Callable[[Judged], bytes | None]
) -> Iterator[str]:
    """Show an evaluation.

    Args:
        evaluation: What was measured; what was not has no section.
        catalog: Folder of the images; one that is not there any more is shown as an empty tile.
        query_image: Gives the image of a query as a file, JPEG or PNG; None if it cannot be had. Called for the
            worst queries alone, once each.

    Yields:
        HTML, piece by piece: of the images, no more than one row is held at once.

    Raises:
        MissingComponentError: Matplotlib is not installed.
    """
    require_matplotlib("--report")
    yield head("imgsearch: evaluation", _STYLE)
    yield from _summary(evaluation)
    if evaluation.recall is not None:
        yield from _index_recall(evaluation.recall)
    if evaluation.retrieval is not None:
        yield from _retrieval(evaluation.retrieval)
    if evaluation.reliability is not None:
        yield from _reliability(evaluation.reliability)
    if evaluation.retrieval is not None and evaluation.retrieval.judged:
        yield from _worst(evaluation.retrieval.judged, catalog, query_image)
    yield TAIL


def _summary(evaluation: Evaluation) -> Iterator[str]:
    yield "<h1>How good are the answers?</h1>\n"
    sentences = list(_in_short(evaluation))
    if sentences:
        yield f'<ul class="short">\n{"".join(f"<li>{sentence}</li>" for sentence in sentences)}\n</ul>\n'
    yield '<div class="side">\n'
    yield _facts("the index", evaluation.facts)
    yield _facts("the evaluation", evaluation.setup)
    yield "</div>\n"
    if evaluation.figures:
        rows = [_figure_row(name, figure) for name, figure in list(evaluation.figures.items())[:_MOST_FIGURES]]
        yield "<h2>Figures</h2>\n"
        yield _table("", ("measure", "mean", "95 % interval", "what it says"), rows)
        yield _more(len(evaluation.figures) - len(rows), "figures")
        yield (
            '<p class="note">The interval says where the mean would lie with other queries of the same kind.'
            " What is no mean over queries has none.</p>\n"
        )


def _in_short(evaluation: Evaluation) -> Iterator[str]:
    recall, retrieval, reliability = evaluation.recall, evaluation.retrieval, evaluation.reliability
    if retrieval is not None and retrieval.judged:
        first = np.mean([any(hit.right for hit in query.hits[:1]) for query in retrieval.judged])
        ten = np.mean([any(hit.right for hit in query.hits) for query in retrieval.judged])
        yield (
            f"The first answer is right for {100 * first:.1f} % of {len(retrieval.judged):,} queries;"
            f" {100 * ten:.1f} % have a right answer among the first ten."
        )
    if recall is not None and 10 in recall.recall.keys() & recall.latency.keys():
        yield (
            f"The index finds {100 * np.mean(recall.recall[10]):.1f} % of the 10 truly nearest images;"
            f" 95 of 100 searches take at most {_milliseconds(recall.latency[10].p95)}."
        )
    if reliability is not None:
        yield f"Probabilities are off by {100 * reliability.error:.1f} percentage points on average."


def _facts(caption: str, facts: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{_brief(name)}</th><td>{_brief(str(value))}</td></tr>\n" for name, value in facts.items())
    return f"<table>\n<caption>{caption}</caption>\n{rows}</table>\n" if rows else ""


def _figure_row(name: str, figure: Interval) -> tuple[str, str, str, str]:
    measure, _, k = name.partition("@")
    if name in ("count", "queries", "queries_per_second"):
        mean, low, high = (f"{value:,.0f}" for value in (figure.mean, figure.low, figure.high))
    else:
        mean, low, high = (f"{value:.3f}" for value in (figure.mean, figure.low, figure.high))
    interval = "" if figure.low == figure.high else f"{low} to {high}"
    unit = " ms" if name.endswith("_ms") else ""
    return name, mean + unit, interval, _MEANINGS.get(name, _MEANINGS.get(measure, "")).format(k=k)


def _milliseconds(value: float) -> str:
    return f"{1000 * value:.2f} ms"


def _index_recall(recall: IndexRecall) -> Iterator[str]:
    yield "<h2>Does the index find the nearest?</h2>\n"
    yield (
        f"<p>{len(recall.queries):,} images of the catalog were asked for, by the index ({shown(recall.plan)}) and"
        " by comparing with every vector. Recall is the share of the truly nearest that the index finds.</p>\n"
    )
    if recall.curve:
        from imgsearch.evaluation.plots import draw_recall

        alt = f"Recall of the 10 nearest against latency, for {len(recall.curve)} settings."
        yield _chart(draw_recall(recall), alt)
    heads = ("", "recall", "p50", "p95", "p99", "searches a second")
    rows = [
        ("the nearest" if k == 1 else f"the {k} nearest", f"{np.mean(recall.recall[k]):.3f}", *_latency(latency))
        for k, latency in recall.latency.items()
        if k in recall.recall
    ]
    yield _table("", heads, [*rows, ("exact search", "1.000", *_latency(recall.exact))])
    yield '<p class="note">p95: 95 of 100 searches take at most this long; p50 and p99 accordingly.</p>\n'


def _latency(latency: Latency) -> tuple[str, ...]:
    return *map(_milliseconds, (latency.p50, latency.p95, latency.p99)), f"{latency.per_second:,.0f}"


def _retrieval(retrieval: Retrieval) -> Iterator[str]:
    from imgsearch.evaluation.plots import draw_precision_recall, draw_scores

    judged = retrieval.judged
    yield "<h2>Are the answers right?</h2>\n"
    means = _RIGHT_MEANS[retrieval.kind].format(label=shown(retrieval.label))
    yield f"<p>{means} {len(judged):,} queries were judged, by exact search.</p>\n"
    if retrieval.without_right_answer:
        yield (
            f"<p>{retrieval.without_right_answer:,} images were left out: no other has their"
            f" {shown(retrieval.label)}.</p>\n"
        )
    if retrieval.unusable:
        yield _table("queries that could not be used", ("image", "why"), retrieval.unusable[:_MOST_UNUSABLE])
        yield _more(len(retrieval.unusable) - _MOST_UNUSABLE, "such queries")
    if not judged:
        return
    if len(retrieval.precision_at_recall):
        precision = [f"{value:.2f}" for value in retrieval.precision_at_recall]
        yield "<h3>Precision against recall</h3>\n"
        yield (
            "<p>How many of the answers are right (precision), if one looks on until so many of the right ones are"
            " found (recall).</p>\n"
        )
        alt = f"Precision at recall 0, 0.1, .. 1: {', '.join(precision)}."
        yield _chart(draw_precision_recall(retrieval.precision_at_recall), alt)
    yield from _categories(judged)
    yield from _confusion(judged)
    if any(query.hits for query in judged):
        yield "<h3>Which scores right and wrong hits have</h3>\n"
        yield "<p>The less the two overlap, the better a least score (<code>--min-score</code>) tells them apart.</p>\n"
        yield _chart(draw_scores(judged), "Histograms of the scores of right and of wrong hits.")


def _categories(judged: Sequence[Judged]) -> Iterator[str]:
    from imgsearch.evaluation.plots import NO_NAME, category_rates, draw_categories

    rates = category_rates(judged)
    if not any(row.category for row in rates):
        return
    largest = rates[:_MOST_CATEGORIES]
    yield "<h3>Which categories are answered well</h3>\n"
    yield _chart(draw_categories(largest), f"Bars of the share of right first hits for {len(largest)} categories.")
    if len(rates) > len(largest):
        smaller = f"{len(rates) - len(largest):,} smaller ones are left out"
        yield f'<p class="note">The {len(largest)} categories with most queries; {smaller}.</p>\n'
    rows = [(row.category or NO_NAME, f"{row.queries:,}", f"{row.rate:.3f}") for row in largest]
    table = _table("", ("category", "queries", "hit rate at 1"), rows)
    yield f"<details><summary>The same as a table, with whole names</summary>\n{table}</details>\n"


def _confusion(judged: Sequence[Judged]) -> Iterator[str]:
    from imgsearch.evaluation.plots import NO_NAME, confusion, draw_confusion

    found = confusion(judged)
    if not found.labels:
        return
    yield "<h3>What is taken for what</h3>\n"
    if found.others:
        yield f'<p class="note">Categories most often confused; {found.others:,} others are left out.</p>\n'
    yield '<div class="side">\n'
    alt = f"Heat map of the categories of first hits against those of queries, for {len(found.labels)} categories."
    yield _chart(draw_confusion(found), alt)
    rows = [
        (truth or NO_NAME, taken_for or NO_NAME, f"{count:,}")
        for truth, taken_for, count in found.pairs[:_MOST_CONFUSIONS]
    ]
    yield _table("most frequent", ("query shows", "first hit is", "queries"), rows)
    yield "</div>\n"


def _reliability(found: Reliability) -> Iterator[str]:
    from imgsearch.evaluation.plots import draw_reliability

    yield "<h2>Do probabilities mean what they say?</h2>\n"
    yield (
        "<p>Of hits with a probability of 0.8, 80 of 100 should be right. Here they are compared with what was right,"
        " on queries that the probabilities were not fitted on. Expected calibration error:"
        f" {found.error:.3f}, of first hits alone {found.error_at_1:.3f}. Fitted on {found.calibration.queries:,}"
        f" queries; right means: the same {shown(found.calibration.meaning)}.</p>\n"
    )
    yield _chart(
        draw_reliability(found),
        f"Reliability diagram over {len(found.hits)} bins, expected calibration error {found.error:.3f}.",
    )


def _worst(judged: Sequence[Judged], catalog: str, image: Callable[[Judged], bytes | None]) -> Iterator[str]:
    # Those without any right answer come first, and of them those whose wrong answer looks surest.
    wrong = [
        (any(hit.right for hit in query.hits), -query.hits[0].score, query.query, query)
        for query in judged
        if query.hits and not query.hits[0].right
    ]
    wrong.sort(key=lambda each: each[:3])
    yield "<h2>The worst queries</h2>\n"
    without = sum(not has_right for has_right, *_ in wrong)
    yield (
        f"<p>Of {len(judged):,} queries {len(wrong):,} have a wrong first hit, and {without:,} no right one among the"
        " first ten. These come first, those whose wrong hit has the highest score above the others.</p>\n"
    )
    for *_, query in wrong[:_MOST_WORST]:
        about = f"<b>query</b>{_brief(query.label)}<br>{_brief(query.query)}"
        yield '<div class="query">\n'
        yield f"<figure>{tile(image(query))}<figcaption>{about}</figcaption></figure>\n"
        yield "".join(_hit(rank, hit, catalog) for rank, hit in enumerate(query.hits[:_HITS_SHOWN], 1))
        yield "</div>\n"
    yield _more(len(wrong) - _MOST_WORST, "such queries")


def _hit(rank: int, hit: JudgedHit, catalog: str) -> str:
    kind, mark = ("right", "\u2713") if hit.right else ("wrong", "\u2717")
    about = f"<b>{rank}. {hit.score:.3f} {mark} {kind}</b>{_brief(hit.label)}<br>{_brief(hit.path)}"
    image = file_tile(os.path.join(catalog, hit.path))
    return f'<figure class="{kind}">{image}<figcaption>{about}</figcaption></figure>\n'


def _chart(svg: bytes, alt: str) -> str:
    return f'<img class="chart" src="data:image/svg+xml;base64,{base64.b64encode(svg).decode()}" alt="{shown(alt)}">\n'


def _table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # A column of numbers is known by its first.
    numbers = [re.fullmatch(r"[\d.,]+( ms)?", cell) is not None for cell in rows[0]]
    lines = "".join(_row("td", row, numbers) for row in rows)
    above = f"<caption>{caption}</caption>\n" if caption else ""
    return f"<table>\n{above}{_row('th', heads, numbers)}{lines}</table>\n"


def _row(tag: str, cells: Sequence[str], numbers: Sequence[bool]) -> str:
    classes = (' class="number"' if number else "" for number in numbers)
    filled = (f"<{tag}{kind}>{_brief(cell)}</{tag}>" for kind, cell in zip(classes, cells, strict=True))
    return f"<tr>{''.join(filled)}</tr>\n"


def _brief(text: str) -> str:
    return shown(text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


def _more(count: int, of_what: str) -> str:
    return f'<p class="note">{count:,} more {of_what} are not shown.</p>\n' if count > 0 else ""
