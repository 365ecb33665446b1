"""An evaluation as tables for a terminal."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from imgsearch.cli.terminal import draw_table, printable
from imgsearch.evaluation.bootstrap import Interval
from imgsearch.evaluation.compare import Comparison
from imgsearch.evaluation.index_recall import KS
from imgsearch.evaluation.results import Evaluation, IndexRecall, Reliability, Retrieval
from imgsearch.evaluation.retrieval import OF_CATEGORIES
from imgsearch.search.recall import Latency

_MOST_CATEGORIES = 20
_ASKED_WITH = {
    "labels": "items, each asked for by itself",
    "queries": "images of yours",
    "self-test": "photo-like variants of items",
}


def tables(evaluation: Evaluation, index: Path, comparison: Comparison | None = None) -> str:
    """Lay out an evaluation.

    Args:
        evaluation: What was measured.
        index: The index directory.
        comparison: With an earlier one, if that was asked for.

    Returns:
        Text that is fit for a terminal.
    """
    facts = evaluation.facts
    effort = ""
    if facts["plan"] == "annoy":
        effort = f", {facts['trees']} trees, search_k {facts['search_k']}"
    if facts["plan"] == "faiss":
        effort = f", {facts['lists']} lists, probes {facts['probes']}"
    parts = [
        printable(
            f"{index}: {facts['count']} images, generation {facts['generation']}, {facts['encoder']}, {facts['plan']}"
        )
        + f"{effort}\n\n"
    ]
    if evaluation.recall is not None:
        parts += _recall(evaluation.recall, evaluation)
    if evaluation.retrieval is not None:
        parts += _retrieval(evaluation.retrieval, evaluation)
    if evaluation.reliability is not None:
        parts.append(_reliability(evaluation.reliability))
    if comparison is not None:
        parts.append(_comparison(comparison))
    return "".join(parts)


def _recall(found: IndexRecall, evaluation: Evaluation) -> Iterator[str]:
    rows = [
        (f"{k}", _mean(evaluation.figures[f"index_recall@{k}"]), *_times(found.latency[k]))
        for k in sorted(found.recall)
    ]
    heads = ("k", "recall", *_TIMES)
    yield _table(f"index recall: of the k nearest of {len(found.queries)} items, those that are found", heads, rows)
    if left_out := [str(k) for k in KS if k not in found.recall]:
        yield f"no more than {evaluation.facts['count'] - 1} others to be found: k = {', '.join(left_out)} left out\n\n"
    nearest = 10 if 10 in found.recall else max(found.recall)
    exact = f"p50 {1000 * found.exact.p50:.2f} ms, p95 {1000 * found.exact.p95:.2f} ms"
    yield f"exact search, {nearest} nearest: {exact}\n\n"
    if found.curve:
        whose = ", had the index a forest" if found.plan == "exact" else ""
        effort = "probes" if found.plan == "faiss" else "search_k"
        curve = [(f"{point.effort}", f"{point.recall:.4f}", *_times(point.latency)) for point in found.curve]
        yield _table(f"recall of the {nearest} nearest against latency{whose}", (effort, "recall", *_TIMES), curve)


_TIMES = ("p50 ms", "p95 ms", "p99 ms", "queries/s")


def _times(latency: Latency) -> tuple[str, ...]:
    return (*(f"{1000 * value:.2f}" for value in (latency.p50, latency.p95, latency.p99)), f"{latency.per_second:.0f}")


def _retrieval(found: Retrieval, evaluation: Evaluation) -> Iterator[str]:
    head = f"retrieval: {len(found.judged)} {_ASKED_WITH[found.kind]}; right: the same {printable(found.label)}"
    rows = [(name, _mean(evaluation.figures[name]), _interval(evaluation.figures[name])) for name in found.measures]
    yield _table(head, ("measure", "mean", "95 % interval"), rows)
    if found.without_right_answer:
        yield f"{found.without_right_answer} items left out: no other has their {printable(found.label)}\n\n"
    categories = evaluation.categories
    if len(categories) > 1:
        worst = sorted(categories, key=lambda name: (categories[name]["hit_rate@1"].mean, name))[:_MOST_CATEGORIES]
        lines = [
            (
                printable(name or "(none)"),
                f"{categories[name]['queries'].mean:.0f}",
                *(_mean(categories[name][measure]) for measure in OF_CATEGORIES),
                _interval(categories[name][OF_CATEGORIES[0]]),
            )
            for name in worst
        ]
        title = (
            f"by category, the worst {len(worst)} of {len(categories)}"
            if len(categories) > len(worst)
            else "by category"
        )
        yield _table(
            title,
            ("category", "queries", *OF_CATEGORIES, f"{OF_CATEGORIES[0]}, 95 % interval"),
            lines,
            text_columns=1,
        )


def _reliability(found: Reliability) -> str:
    return (
        f"probability of the same {printable(found.calibration.meaning)}: learned from"
        f" {found.calibration.queries} queries\nexpected calibration error on queries it was not learned from:"
        f" {found.error:.3f}, of first hits {found.error_at_1:.3f}\n\n"
    )


def _comparison(comparison: Comparison) -> str:
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
    return _table(
        "against the earlier evaluation, on the same queries",
        ("measure", "queries", "then", "now", "change", "99 % interval"),
        rows,
    )


def _mean(figure: Interval) -> str:
    return f"{figure.mean:.4f}"


def _interval(figure: Interval) -> str:
    return f"{figure.low:.4f} to {figure.high:.4f}"


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, text_columns: int = 1) -> str:
    return draw_table(title, heads, rows, heads[:text_columns])
